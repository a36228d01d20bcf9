//! What a program keeps in memory when it keeps raw parameters and results: about their bytes, and not the buffers that they were read into.

use ipc_bro::{CallOptions, Client, Context, Gateway, GatewayConfig, HandlerError, LanePolicy, RawPayload};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Bytes that are allocated and not freed.
static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: everything is left to the system's allocator; the counter is an atomic.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Payloads that are kept. Between two of them more is read than any buffer holds.
const KEPT: usize = 24;
/// What keeping one of a few bytes may take. The smallest buffer is 16 times as large.
const BYTES_EACH: usize = 4 * 1024;

type Keeping = Arc<Mutex<Vec<RawPayload>>>;

#[test]
fn a_few_raw_bytes_do_not_keep_the_buffer_they_were_read_into() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for lanes in [LanePolicy::Off, LanePolicy::Always] {
        runtime.block_on(keep(lanes));
    }
}

async fn keep(lanes: LanePolicy) {
    let directory = std::env::temp_dir().join(format!("ipc-bro-pinned-{}-{lanes:?}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let socket = directory.join("gateway.sock");
    let mut config = GatewayConfig::new(&socket);
    config.router.lanes = lanes;
    let gateway = Gateway::start(config).unwrap();
    let kept = Keeping::default();
    let keeping = Arc::clone(&kept);
    let callee = Client::builder("keeper")
        .gateway_path(&socket)
        .method_raw("keep", move |params, _| {
            keeping.lock().unwrap().push(params.clone());
            async { Ok::<_, HandlerError>(params) }
        })
        .method("measure", |text: String, _: Context| async move { Ok::<_, HandlerError>(text.len()) })
        .method("fill", |bytes: usize, _: Context| async move { Ok::<_, HandlerError>("x".repeat(bytes)) })
        .connect()
        .await
        .unwrap();
    let caller = Client::builder("caller").gateway_path(&socket).connect().await.unwrap();
    let long = "x".repeat(300_000);
    let mut results = Vec::new();
    let mut before = 0;
    for round in 0..2 * KEPT {
        if round == KEPT {
            // By now the buffers, tables and queues have their size.
            kept.lock().unwrap().clear();
            results.clear();
            before = LIVE_BYTES.load(Ordering::Relaxed);
        }
        let params = RawPayload::json(&round.to_string()).unwrap();
        let result = caller.call_raw("keeper", "keep", params.clone(), CallOptions::new()).await.unwrap();
        assert_eq!(result, params);
        results.push(result);
        assert_eq!(caller.call::<usize>("keeper", "measure", &long).await.unwrap(), long.len());
        assert_eq!(caller.call::<String>("keeper", "fill", long.len()).await.unwrap(), long);
    }
    let grown = LIVE_BYTES.load(Ordering::Relaxed).saturating_sub(before);
    assert_eq!(kept.lock().unwrap().len(), KEPT);
    assert!(grown < KEPT * 2 * BYTES_EACH, "{lanes:?}: {grown} bytes for twice {KEPT} payloads of three bytes");
    caller.disconnect().await;
    callee.disconnect().await;
    gateway.stop().unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
}
