use crate::place::{ENCODING_PAIRS, Place, run, until};
use ipc_bro::{CallOptions, Client, Context, ErrorCode, FailedBy, HandlerError, RawPayload, Serializer};
use serde_json::json;
use std::error::Error as _;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn by_service(name: &str) -> FailedBy {
    FailedBy::Service(name.to_owned())
}

/// Counts handlers that were begun and not yet dropped.
struct Guest(Arc<AtomicUsize>);

impl Guest {
    fn enter(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A service whose method `hang` never answers.
async fn hanging_service(place: &Place, running: &Arc<AtomicUsize>) -> Client {
    let running = Arc::clone(running);
    let service = place.builder("service").method("hang", move |(): (), _: Context| {
        let guest = Guest::enter(&running);
        async move {
            pending::<()>().await;
            drop(guest);
            Ok::<(), HandlerError>(())
        }
    });
    service.connect().await.unwrap()
}

#[test]
fn errors_of_handlers_keep_code_message_and_blame() {
    run(async {
        let place = Place::new();
        for (caller, callee) in ENCODING_PAIRS {
            let service = place.builder("service").serializer(callee);
            let service = service.method("own", async |(): (), _| {
                Err::<(), _>(HandlerError::new("OUT_OF_STOCK", "none left").with_details("shelf 7"))
            });
            let service = service.method("std", async |text: String, _| Ok::<i32, HandlerError>(text.parse()?));
            let service = service.connect().await.unwrap();
            let client = place.builder("client").serializer(caller).connect().await.unwrap();

            let error = client.call::<()>("service", "own", ()).await.unwrap_err();
            assert_eq!(error.code().as_str(), "OUT_OF_STOCK");
            assert_eq!((error.message(), error.details()), ("none left", Some("shelf 7")));
            assert_eq!(error.failed_by(), &by_service("service"));

            let error = client.call::<i32>("service", "std", "many").await.unwrap_err();
            assert_eq!(error.code(), &ErrorCode::ExecutionFailed);
            assert_eq!(error.message(), "invalid digit found in string");
            assert_eq!((error.details(), error.failed_by()), (None, &by_service("service")));
            client.disconnect().await;
            service.disconnect().await;
        }
    });
}

#[test]
fn a_nested_failure_keeps_its_code_on_the_way_back() {
    run(async {
        let place = Place::new();
        let middle = place.builder("middle").method("pass", async |(): (), context: Context| {
            Ok::<(), HandlerError>(context.client().call("nowhere", "x", ()).await?)
        });
        let _middle = middle.connect().await.unwrap();
        let client = place.client("client").await;
        let error = client.call::<()>("middle", "pass", ()).await.unwrap_err();
        assert_eq!((error.code(), error.failed_by()), (&ErrorCode::ServiceNotFound, &by_service("middle")));
    });
}

#[test]
fn unknown_services_and_methods_are_told_at_once() {
    run(async {
        let place = Place::new();
        let client = place.client("client").await;
        let error = client.call::<()>("nowhere", "x", ()).await.unwrap_err();
        assert_eq!((error.code(), error.failed_by()), (&ErrorCode::ServiceNotFound, &FailedBy::Gateway));
        let error = client.call::<()>("client", "x", ()).await.unwrap_err();
        assert_eq!((error.code(), error.failed_by()), (&ErrorCode::MethodNotFound, &by_service("client")));
        for (service, method) in [("", "x"), ("client", ""), ("client", "a\nb")] {
            let error = client.call::<()>(service, method, ()).await.unwrap_err();
            assert_eq!((error.code(), error.failed_by()), (&ErrorCode::InvalidArgument, &FailedBy::Local));
        }
        assert_eq!(client.status().pending_requests, 0);
    });
}

#[test]
fn a_panic_is_an_answer() {
    run(async {
        let place = Place::new();
        let service = place.builder("service");
        let service = service.method("early", |number: u32, _| {
            assert!(number == 0, "refused {number}");
            async move { Ok::<_, HandlerError>(number) }
        });
        let service = service.method("late", async |number: u32, _| {
            tokio::task::yield_now().await;
            assert!(number == 0, "refused {number}");
            Ok::<_, HandlerError>(number)
        });
        let service = service.connect().await.unwrap();
        let client = place.client("client").await;
        for method in ["early", "late"] {
            let error = client.call::<u32>("service", method, 7).await.unwrap_err();
            assert_eq!(error.code(), &ErrorCode::ExecutionFailed);
            assert!(error.message().contains(method) && error.message().contains("refused 7"), "{error}");
            assert_eq!(client.call::<u32>("service", method, 0).await.unwrap(), 0, "the service goes on");
        }
        assert!(service.is_connected());
    });
}

#[test]
fn values_that_do_not_fit_are_told_by_code() {
    run(async {
        let place = Place::new();
        for serializer in [Serializer::Json, Serializer::Msgpack] {
            let service = place.builder("service").serializer(serializer);
            let service = service.method("add", async |(a, b): (i32, i32), _| Ok::<_, HandlerError>(a + b));
            let service = service.method("bad", async |(): (), _| {
                Ok::<_, HandlerError>(std::collections::BTreeMap::from([(vec![1_u8], 1_u8)]))
            });
            let service = service.method("bytes", async |(): (), _| Ok::<_, HandlerError>(Unserializable));
            let service = service.connect().await.unwrap();
            let client = place.builder("client").serializer(serializer).connect().await.unwrap();

            let error = client.call::<i32>("service", "add", json!({ "a": "one" })).await.unwrap_err();
            assert_eq!((error.code(), error.failed_by()), (&ErrorCode::DeserializationFailed, &by_service("service")));
            assert!(error.message().contains("`add`"), "{error}");

            let error = client.call::<String>("service", "add", (1, 2)).await.unwrap_err();
            assert_eq!((error.code(), error.failed_by()), (&ErrorCode::DeserializationFailed, &FailedBy::Local));
            assert!(error.source().unwrap().to_string().contains("string"), "{error:?}");

            let error = client.call::<()>("service", "add", Unserializable).await.unwrap_err();
            assert_eq!((error.code(), error.failed_by()), (&ErrorCode::SerializationFailed, &FailedBy::Local));

            let error = client.call::<()>("service", "bytes", ()).await.unwrap_err();
            assert_eq!((error.code(), error.failed_by()), (&ErrorCode::SerializationFailed, &by_service("service")));
            if serializer == Serializer::Json {
                let error = client.call::<()>("service", "bad", ()).await.unwrap_err();
                assert_eq!(error.code(), &ErrorCode::SerializationFailed);
            }
            client.disconnect().await;
            service.disconnect().await;
        }
    });
}

struct Unserializable;

impl serde::Serialize for Unserializable {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("this has no form"))
    }
}

#[test]
fn a_timeout_ends_the_call_and_the_handler() {
    run(async {
        let place = Place::new();
        let running = Arc::default();
        let service = hanging_service(&place, &running).await;
        let client = place.builder("client").timeout(Duration::from_millis(50)).connect().await.unwrap();
        let error = client.call::<()>("service", "hang", ()).await.unwrap_err();
        assert_eq!(error.code(), &ErrorCode::Timeout);
        let options = CallOptions::new().timeout(Duration::from_millis(30));
        let error = client.call_with::<()>("service", "hang", (), options).await.unwrap_err();
        assert_eq!(error.code(), &ErrorCode::Timeout);
        assert_eq!(client.status().pending_requests, 0);
        until(|| running.load(Ordering::SeqCst) == 0).await;
        assert!(service.is_connected());
    });
}

#[test]
fn a_nested_call_cannot_outlive_its_parents_deadline() {
    run(async {
        let place = Place::new();
        let running = Arc::default();
        let _service = hanging_service(&place, &running).await;
        let middle = place.builder("middle").method("pass", async |(): (), context: Context| {
            let options = CallOptions::new().timeout(Duration::from_secs(60));
            Ok::<(), HandlerError>(context.client().call_with("service", "hang", (), options).await?)
        });
        let middle = middle.connect().await.unwrap();
        let client = place.client("client").await;
        let options = CallOptions::new().timeout(Duration::from_millis(50));
        let error = client.call_with::<()>("middle", "pass", (), options).await.unwrap_err();
        assert_eq!(error.code(), &ErrorCode::Timeout);
        until(|| running.load(Ordering::SeqCst) == 0 && middle.status().pending_requests == 0).await;
    });
}

#[test]
fn a_dropped_future_releases_its_slot() {
    run(async {
        let place = Place::new();
        let running = Arc::default();
        let service = hanging_service(&place, &running).await;
        let client = place.client("client").await;
        let mut calls: Vec<_> = (0..200)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { client.call::<()>("service", "hang", ()).await })
            })
            .collect();
        until(|| client.status().pending_requests == 200 && running.load(Ordering::SeqCst) == 200).await;
        for call in calls.drain(..150) {
            call.abort();
        }
        until(|| client.status().pending_requests == 50).await;
        drop(client.call::<()>("service", "hang", ()));
        service.disconnect().await;
        for call in calls {
            assert_eq!(call.await.unwrap().unwrap_err().code(), &ErrorCode::ShuttingDown);
        }
        assert_eq!(client.status().pending_requests, 0);
        // Handlers are aborted, and dropped once their thread comes round to it.
        until(|| running.load(Ordering::SeqCst) == 0).await;
    });
}

#[test]
fn calls_that_were_dropped_before_they_were_made_are_not_made() {
    // In a single thread the connection task cannot run between sending the command and dropping the future.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let place = Place::new();
        let count = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&count);
        let service = place.builder("service").method("count", move |(): (), _: Context| {
            let count = counting.fetch_add(1, Ordering::SeqCst);
            async move { Ok::<_, HandlerError>(count) }
        });
        let _service = service.connect().await.unwrap();
        let client = place.client("client").await;
        let mut call = Box::pin(client.call::<usize>("service", "count", ()));
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(call.as_mut().poll(cx).is_pending())).await;
        assert!(polled);
        drop(call);
        assert_eq!(client.call::<usize>("service", "count", ()).await.unwrap(), 0);
        assert_eq!((client.status().pending_requests, count.load(Ordering::SeqCst)), (0, 1));
    });
}

#[test]
fn a_payload_beyond_the_limit_is_refused_and_the_connection_goes_on() {
    run(async {
        let place = Place::new();
        let client = place.client("client").await;
        let text = "x".repeat(ipc_bro::limits::FRAME_BYTES_MAX);
        let error = client.call::<()>("client", "x", &text).await.unwrap_err();
        assert_eq!((error.code(), error.failed_by()), (&ErrorCode::PayloadTooLarge, &FailedBy::Local));
        let (has, accepted) = (text.len() + 2, ipc_bro::limits::FRAME_BYTES_MAX);
        let message = format!("has {has} bytes, at most {accepted} are accepted");
        assert!(error.to_string().contains(&message), "{error}");
        client.register("large", async move |length: usize, _| Ok::<_, HandlerError>("x".repeat(length))).unwrap();
        let error = client.call::<String>("client", "large", ipc_bro::limits::FRAME_BYTES_MAX).await.unwrap_err();
        assert_eq!(error.code(), &ErrorCode::PayloadTooLarge);
        assert_eq!(client.call::<String>("client", "large", 3).await.unwrap(), "xxx");
    });
}

#[test]
fn raw_results_must_be_one_value() {
    run(async {
        let place = Place::new();
        let service = place
            .builder("service")
            .method_raw("raw", |_, _| async { Ok::<_, HandlerError>(RawPayload::json("[1, 2")?) });
        let _service = service.connect().await.unwrap();
        let client = place.client("client").await;
        let error = client.call::<()>("service", "raw", ()).await.unwrap_err();
        assert_eq!(error.code(), &ErrorCode::SerializationFailed);
    });
}
