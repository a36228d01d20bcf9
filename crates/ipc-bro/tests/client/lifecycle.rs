use crate::place::{Place, run, until};
use ipc_bro::{Client, ClientEvent, Context, ErrorCode, FailedBy, HandlerError};
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

async fn echo(text: String, _: Context) -> Result<String, HandlerError> {
    Ok(text)
}

/// Retries as a caller would whose services have just lost their gateway.
async fn call_until_answered(client: &Client) -> String {
    loop {
        match client.call::<String>("echo", "echo", "again").await {
            Ok(text) => return text,
            Err(error) => {
                let code = error.code();
                assert!(
                    matches!(code, ErrorCode::NotConnected | ErrorCode::ServiceNotFound | ErrorCode::ConnectionLost),
                    "{error}"
                );
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

#[test]
fn clients_return_by_themselves_when_the_gateway_does() {
    run(async {
        let mut place = Place::new();
        let fast = Duration::from_millis(10);
        let service = place.builder("echo").reconnect_delay(fast).method("echo", echo).connect().await.unwrap();
        let client = place.builder("client").reconnect_delay(fast).connect().await.unwrap();
        let mut events = client.events();
        for _ in 0..3 {
            assert_eq!(call_until_answered(&client).await, "again");
            place.stop();
            until(|| !client.is_connected() && !service.is_connected()).await;
            let error = client.call::<()>("echo", "echo", ()).await.unwrap_err();
            assert_eq!((error.code(), error.failed_by()), (&ErrorCode::NotConnected, &FailedBy::Local));
            place.start();
        }
        assert_eq!(call_until_answered(&client).await, "again");
        client.disconnect().await;
        drop(client);
        let mut story = Vec::new();
        while let Some(event) = events.recv().await {
            if matches!(event, ClientEvent::Connected | ClientEvent::Disconnected { .. } | ClientEvent::Registered) {
                story.push(event.name());
            }
        }
        let rounds = ["disconnected", "connected", "registered"].repeat(3);
        assert_eq!(story[..9], rounds);
        assert_eq!(story[9..], ["disconnected"]);
    });
}

#[test]
fn without_auto_reconnect_a_lost_connection_stays_lost_until_connect() {
    run(async {
        let mut place = Place::new();
        let client = place.builder("echo").auto_reconnect(false).method("echo", echo).connect().await.unwrap();
        place.stop();
        until(|| !client.is_connected()).await;
        place.start();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!client.is_connected());
        client.connect().await.unwrap();
        assert_eq!(client.call::<String>("echo", "echo", "back").await.unwrap(), "back");
    });
}

#[test]
fn calls_in_flight_end_when_the_connection_is_lost() {
    run(async {
        let mut place = Place::new();
        let running = Arc::new(AtomicUsize::new(0));
        let entered = Arc::clone(&running);
        let service = place.builder("service").method("hang", move |(): (), _: Context| {
            entered.fetch_add(1, Ordering::SeqCst);
            async { pending::<Result<(), HandlerError>>().await }
        });
        let service = service.connect().await.unwrap();
        let client = place.client("client").await;
        let call = {
            let client = client.clone();
            tokio::spawn(async move { client.call::<()>("service", "hang", ()).await })
        };
        until(|| running.load(Ordering::SeqCst) == 1).await;
        service.disconnect().await;
        let error = call.await.unwrap().unwrap_err();
        assert_eq!(error.code(), &ErrorCode::ShuttingDown, "the service says so itself");

        service.connect().await.unwrap();
        let call = {
            let client = client.clone();
            tokio::spawn(async move { client.call::<()>("service", "hang", ()).await })
        };
        until(|| running.load(Ordering::SeqCst) == 2).await;
        place.stop_now();
        assert_eq!(call.await.unwrap().unwrap_err().code(), &ErrorCode::ConnectionLost);
    });
}

#[test]
fn disconnect_rejects_what_is_pending_and_connect_may_follow() {
    run(async {
        let place = Place::new();
        let service = place.builder("service");
        let service = service.method("hang", |(): (), _| async { pending::<Result<(), HandlerError>>().await });
        let _service = service.connect().await.unwrap();
        let client = place.client("client").await;
        let call = {
            let client = client.clone();
            tokio::spawn(async move { client.call::<()>("service", "hang", ()).await })
        };
        until(|| client.status().pending_requests == 1).await;
        client.disconnect().await;
        let error = call.await.unwrap().unwrap_err();
        assert_eq!((error.code(), error.failed_by()), (&ErrorCode::ConnectionLost, &FailedBy::Local));
        let status = client.status();
        assert_eq!((status.connected, status.registered, status.pending_requests), (false, false, 0));
        assert_eq!(client.call::<()>("service", "hang", ()).await.unwrap_err().code(), &ErrorCode::NotConnected);
        client.disconnect().await;
        client.connect().await.unwrap();
        client.connect().await.unwrap();
        assert!(client.is_connected());
    });
}

#[test]
fn a_disconnect_ends_even_if_a_connect_follows_at_once() {
    run(async {
        let place = Place::new();
        let client = place.client("client").await;
        for _ in 0..50 {
            let (_, outcome) = tokio::join!(client.disconnect(), client.connect());
            // The gateway may not have seen the end of the old connection yet.
            if let Err(error) = outcome {
                assert_eq!(error.code(), &ErrorCode::DuplicateService, "{error}");
            }
        }
        client.disconnect().await;
        until(|| place.methods_of("client").is_none()).await;
        client.connect().await.unwrap();
    });
}

#[test]
fn without_a_gateway_connect_fails_at_once_or_waits_as_told() {
    run(async {
        let mut place = Place::empty();
        let error = place.builder("impatient").connect().await.unwrap_err();
        assert_eq!((error.code(), error.failed_by()), (&ErrorCode::ConnectionFailed, &FailedBy::Local));
        assert!(error.message().contains("gateway.sock"), "{error}");

        let error = place.builder("patient").wait_for_gateway(Duration::from_millis(60)).connect().await.unwrap_err();
        assert_eq!(error.code(), &ErrorCode::ConnectionFailed);

        let patient = place.builder("patient").wait_for_gateway(Duration::from_secs(100)).method("echo", echo);
        let patient = tokio::spawn(patient.connect());
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!patient.is_finished());
        place.start();
        let patient = patient.await.unwrap().unwrap();
        assert_eq!(patient.call::<String>("patient", "echo", "here").await.unwrap(), "here");
    });
}

#[test]
fn disconnect_ends_a_connect_that_waits() {
    run(async {
        let place = Place::empty();
        let client = place.builder("client").wait_for_gateway(Duration::from_secs(100)).build().unwrap();
        let mut connecting = Box::pin(client.connect());
        // From the first poll on it waits.
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(connecting.as_mut().poll(cx).is_pending())).await;
        assert!(polled);
        let (outcome, ()) = tokio::join!(connecting, client.disconnect());
        outcome.unwrap_err();
    });
}

#[test]
fn a_name_that_is_taken_or_reserved_is_refused_at_once() {
    run(async {
        let place = Place::new();
        let first = place.builder("name").method("echo", echo).connect().await.unwrap();
        let second = place.builder("name").wait_for_gateway(Duration::from_secs(100)).build().unwrap();
        let mut events = second.events();
        let error = second.connect().await.unwrap_err();
        assert_eq!((error.code(), error.failed_by()), (&ErrorCode::DuplicateService, &FailedBy::Gateway));
        let mut names = Vec::new();
        while let Some(event) = events.try_recv() {
            names.push(event.name());
        }
        assert!(names.contains(&"gateway-error"), "{names:?}");
        assert_eq!(first.call::<String>("name", "echo", "mine").await.unwrap(), "mine");

        let error = place.builder("bro.mine").connect().await.unwrap_err();
        assert_eq!(error.code(), &ErrorCode::PermissionDenied);
        first.disconnect().await;
        second.connect().await.unwrap();
    });
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let refused = |builder: ipc_bro::ClientBuilder| builder.build().unwrap_err().code().clone();
    assert_eq!(refused(Client::builder("")), ErrorCode::InvalidArgument);
    assert_eq!(refused(Client::builder("x").pool_size(0)), ErrorCode::InvalidArgument);
    assert_eq!(refused(Client::builder("x").pool_size(1000)), ErrorCode::InvalidArgument);
    assert_eq!(refused(Client::builder("x").heartbeat_interval(Duration::ZERO)), ErrorCode::InvalidArgument);
    assert_eq!(refused(Client::builder("x").method("", echo)), ErrorCode::InvalidArgument);
    assert_eq!(refused(Client::builder("x").metadata("k", "x".repeat(100_000))), ErrorCode::PayloadTooLarge);
    let unspeakable = std::collections::BTreeMap::from([(vec![1_u8], 1_u8)]);
    assert_eq!(refused(Client::builder("x").metadata("k", unspeakable)), ErrorCode::SerializationFailed);
    assert!(Client::builder("x").build().is_ok(), "without a runtime");
}

#[test]
fn a_client_that_never_connected_is_not_connected() {
    run(async {
        let place = Place::new();
        let client = place.builder("client").build().unwrap();
        let mut events = client.events();
        client.disconnect().await;
        let error = client.call::<()>("client", "x", ()).await.unwrap_err();
        assert_eq!(error.code(), &ErrorCode::NotConnected);
        drop(client);
        assert!(events.recv().await.is_none());
    });
}

#[test]
fn the_last_handle_that_is_dropped_disconnects() {
    run(async {
        let place = Place::new();
        let client = place.builder("client").method("echo", echo).connect().await.unwrap();
        let mut events = client.events();
        let again = client.clone();
        drop(client);
        assert_eq!(again.call::<String>("client", "echo", "here").await.unwrap(), "here");
        drop(again);
        until(|| place.methods_of("client").is_none()).await;
        let mut last = None;
        while let Some(event) = events.recv().await {
            last = Some(event);
        }
        assert_eq!(last.map(|event| event.name()), Some("disconnected"));
        // The name is free again.
        place.client("client").await;
    });
}

#[test]
fn a_handler_that_uses_its_contexts_client_does_not_keep_it_alive() {
    run(async {
        let place = Place::new();
        let client = place.builder("client").method("nest", async |again: bool, context: Context| {
            if again {
                context.client().call::<()>("client", "nest", false).await?;
            }
            Ok::<(), HandlerError>(())
        });
        let client = client.connect().await.unwrap();
        client.call::<()>("client", "nest", true).await.unwrap();
        drop(client);
        until(|| place.methods_of("client").is_none()).await;
    });
}

#[test]
fn every_connection_of_a_pool_serves() {
    run(async {
        let mut place = Place::new();
        let fast = Duration::from_millis(10);
        let service = place.builder("echo").pool_size(4).reconnect_delay(fast).method("echo", echo);
        let service = service.connect().await.unwrap();
        assert_eq!(place.instances_of("echo"), 4);
        let client = place.builder("client").pool_size(3).reconnect_delay(fast).connect().await.unwrap();
        let mut calls = tokio::task::JoinSet::new();
        for n in 0..500 {
            let client = client.clone();
            calls.spawn(async move {
                let text = n.to_string();
                assert_eq!(client.call::<String>("echo", "echo", &text).await.unwrap(), text);
            });
        }
        while let Some(call) = calls.join_next().await {
            call.unwrap();
        }
        place.stop();
        until(|| !client.is_connected() && !service.is_connected()).await;
        place.start();
        assert_eq!(call_until_answered(&client).await, "again");
        until(|| place.instances_of("echo") == 4 && place.instances_of("client") == 3).await;
        service.disconnect().await;
        until(|| place.instances_of("echo") == 0).await;
    });
}

#[test]
fn a_runtime_that_ends_leaves_no_caller_waiting() {
    let place = Place::new();
    let other = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let client = other.block_on(async {
        let client = place.builder("client");
        client
            .method("hang", |(): (), _| async { pending::<Result<(), HandlerError>>().await })
            .connect()
            .await
            .unwrap()
    });
    run(async move {
        let call = {
            let client = client.clone();
            tokio::spawn(async move { client.call::<()>("client", "hang", ()).await })
        };
        until(|| client.status().pending_requests == 1).await;
        other.shutdown_background();
        assert_eq!(call.await.unwrap().unwrap_err().code(), &ErrorCode::ConnectionLost);
        assert_eq!(client.call::<()>("client", "hang", ()).await.unwrap_err().code(), &ErrorCode::NotConnected);
        assert_eq!(client.connect().await.unwrap_err().code(), &ErrorCode::ConnectionFailed);
        client.disconnect().await;
    });
}
