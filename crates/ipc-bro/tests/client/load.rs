use crate::place::{ENCODING_PAIRS, PATIENT, Place, run};
use ipc_bro::{CallOptions, HandlerError, RawPayload, Serializer};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[test]
fn payloads_of_a_mebibyte_arrive_whole() {
    run(async {
        let place = Place::new();
        for (caller, callee) in ENCODING_PAIRS {
            let service = place.builder("echo").serializer(callee);
            let service = service.method("echo", async |text: String, _| Ok::<_, HandlerError>(text));
            let service = service.connect().await.unwrap();
            let client = place.builder("client").serializer(caller).timeout(PATIENT).connect().await.unwrap();
            let mut calls = tokio::task::JoinSet::new();
            for n in 0..6_u8 {
                let client = client.clone();
                calls.spawn(async move {
                    let text: String = (0..1 << 20).map(|at| char::from(b' ' + (at % 90) as u8 + n % 3)).collect();
                    let back: String = client.call("echo", "echo", &text).await.unwrap();
                    assert!(back == text, "changed on the way");
                });
            }
            while let Some(call) = calls.join_next().await {
                call.unwrap();
            }
            client.disconnect().await;
            service.disconnect().await;
        }
    });
}

#[test]
fn ten_thousand_concurrent_calls_all_end_once() {
    run(async {
        let place = Place::new();
        for serializer in [Serializer::Json, Serializer::Msgpack] {
            let executed = Arc::new(AtomicU64::new(0));
            let counting = Arc::clone(&executed);
            let service = place.builder("service").serializer(serializer).method("square", move |n: u64, _| {
                counting.fetch_add(1, Ordering::Relaxed);
                async move { Ok::<_, HandlerError>(n * n) }
            });
            let service = service.connect().await.unwrap();
            let client = place.builder("client").serializer(serializer).timeout(PATIENT).connect().await.unwrap();
            let mut calls = tokio::task::JoinSet::new();
            for n in 0..10_000_u64 {
                let client = client.clone();
                calls.spawn(async move {
                    assert_eq!(client.call::<u64>("service", "square", n).await.unwrap(), n * n);
                });
            }
            let mut ended = 0;
            while let Some(call) = calls.join_next().await {
                call.unwrap();
                ended += 1;
            }
            assert_eq!((ended, executed.load(Ordering::Relaxed)), (10_000, 10_000));
            assert_eq!(client.status().pending_requests, 0);
            client.disconnect().await;
            service.disconnect().await;
        }
    });
}

#[test]
fn large_and_small_payloads_side_by_side() {
    run(async {
        let place = Place::new();
        let service = place.builder("echo").method_raw("echo", |params, _| async { Ok::<_, HandlerError>(params) });
        let _service = service.connect().await.unwrap();
        let client = place.builder("client").timeout(PATIENT).connect().await.unwrap();
        // Fewer bytes at once than make a gateway refuse calls with OVERLOADED.
        let room = Arc::new(tokio::sync::Semaphore::new(16));
        let mut calls = tokio::task::JoinSet::new();
        for n in 0..400_usize {
            let client = client.clone();
            let room = Arc::clone(&room);
            calls.spawn(async move {
                let _room = room.acquire().await.unwrap();
                // Sizes around those of the read buffers.
                let length = [1, 100, 16_300, 65_000, 65_536, 262_100, 300_000][n % 7] + n;
                let text = format!("\"{}\"", "y".repeat(length));
                let params = RawPayload::json(&text).unwrap();
                let result = client.call_raw("echo", "echo", params.clone(), CallOptions::new()).await.unwrap();
                assert!(result == params, "{length} bytes changed on the way");
            });
        }
        while let Some(call) = calls.join_next().await {
            call.unwrap();
        }
    });
}
