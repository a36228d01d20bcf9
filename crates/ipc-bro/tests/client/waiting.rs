//! Calls that wait for their service.

use crate::place::{ENCODING_PAIRS, Place, run, until};
use ipc_bro::{CallOptions, Client, Context, ErrorCode, FailedBy, HandlerError};
use serde_json::{Value, json};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(200);
/// Limits of waits that come to their end, one after the other where the machine is too slow for the one before.
const WAITS: [Duration; 4] =
    [Duration::from_millis(40), Duration::from_millis(300), Duration::from_secs(2), Duration::from_secs(10)];

async fn echo(value: String, _: Context) -> Result<String, HandlerError> {
    Ok(value)
}

async fn waiting(client: &Client, calls: usize) {
    until(|| client.status().waiting_requests == calls).await;
}

#[test]
fn a_call_that_is_made_before_its_service_is_there_is_answered_by_it() {
    run(async {
        for (caller, callee) in ENCODING_PAIRS {
            for speaks_v2 in [true, false] {
                let place = Place::new();
                let order = place.builder("order").serializer(caller).speak_v2(speaks_v2);
                let order = order.wait_for_service(LONG).timeout(LONG).connect().await.unwrap();
                let calls: Vec<_> =
                    (0..20).map(|n| tokio::spawn(order.call::<String>("user", "echo", n.to_string()))).collect();
                waiting(&order, 20).await;
                assert_eq!(order.status().pending_requests, 20);
                let user = place.builder("user").serializer(callee).method("echo", echo).connect().await.unwrap();
                for (n, call) in calls.into_iter().enumerate() {
                    assert_eq!(call.await.unwrap().unwrap(), n.to_string());
                }
                let status = order.status();
                assert_eq!((status.waiting_requests, status.pending_requests), (0, 0));
                // A service that goes is waited for like one that has not come.
                user.disconnect().await;
                let call = tokio::spawn(order.call::<String>("user", "echo", "again"));
                waiting(&order, 1).await;
                user.connect().await.unwrap();
                assert_eq!(call.await.unwrap().unwrap(), "again");
            }
        }
    });
}

#[test]
fn a_wait_has_a_limit_of_its_own_and_that_of_the_call() {
    run(async {
        let place = Place::new();
        // A wait that is over before the gateway has said that nobody is there has not begun: then it takes a longer one.
        let mut waits = WAITS.into_iter();
        let error = loop {
            let wait = waits.next().expect("a wait that begins");
            let order = place.builder("hasty").wait_for_service(wait).timeout(LONG).connect().await.unwrap();
            let error = order.call::<()>("user", "echo", 1).await.unwrap_err();
            order.disconnect().await;
            assert_eq!(error.code(), &ErrorCode::ServiceNotFound);
            if error.failed_by() == &FailedBy::Local {
                break error;
            }
        };
        assert!(error.message().contains("ms of waiting for it"), "{error}");

        let order = place.client("order").await;
        // The same where it is asked once more at the last moment, and the time is over before that is answered.
        let mut told = Vec::new();
        for wait in WAITS {
            let options = CallOptions::new().wait_for_service(LONG).timeout(wait);
            let error = order.call_with::<()>("user", "echo", 1, options).await.unwrap_err();
            assert_eq!(error.code(), &ErrorCode::Timeout);
            told.push(error.message().to_owned());
            if error.message().contains("did not appear") {
                break;
            }
        }
        assert!(told.last().is_some_and(|last| last.contains("did not appear")), "{told:?}");

        let options = CallOptions::new().wait_for_service(Duration::ZERO);
        let error = order.call_with::<()>("user", "echo", 1, options).await.unwrap_err();
        assert_eq!((error.code(), error.failed_by()), (&ErrorCode::ServiceNotFound, &FailedBy::Gateway));
        // Notifications do not wait, and nobody is told.
        order.notify("user", "echo", 1).await.unwrap();
        assert_eq!(order.status().waiting_requests, 0);
    });
}

#[test]
fn dropping_the_future_takes_a_call_out() {
    run(async {
        let place = Place::new();
        let order = place.builder("order").wait_for_service(LONG).connect().await.unwrap();
        let call = tokio::spawn(order.call::<()>("user", "echo", "never"));
        waiting(&order, 1).await;
        let waited_for =
            async || order.call::<Value>("bro.gateway", "status", json!({})).await.unwrap()["waitedFor"].clone();
        while waited_for().await != json!({ "user": 1 }) {}
        call.abort();
        waiting(&order, 0).await;
        while waited_for().await != json!({}) {}
        let (seen, mut sees) = tokio::sync::mpsc::unbounded_channel();
        let user = place.builder("user").method("echo", move |value: String, _: Context| {
            seen.send(value).unwrap();
            async { Ok::<_, HandlerError>(()) }
        });
        let _user = user.connect().await.unwrap();
        order.call::<()>("user", "echo", "now").await.unwrap();
        assert_eq!(sees.recv().await.as_deref(), Some("now"));
    });
}

#[test]
fn one_limit_covers_the_wait_for_the_gateway_and_for_the_service() {
    run(async {
        let mut place = Place::empty();
        let order = place.builder("order").wait_for_gateway(LONG).wait_for_service(LONG).timeout(LONG).build().unwrap();
        let not_connected = order.call::<String>("user", "echo", "early").await.unwrap_err();
        assert_eq!(not_connected.code(), &ErrorCode::NotConnected, "nobody has asked it to connect");
        let connecting = {
            let order = order.clone();
            tokio::spawn(async move { order.connect().await })
        };
        // From the moment at which the attempt is under way.
        let mut first = tokio::spawn(order.call::<String>("user", "echo", "first"));
        while order.status().waiting_requests == 0 {
            if first.is_finished() {
                first = tokio::spawn(order.call::<String>("user", "echo", "first"));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let options = CallOptions::new().wait_for_service(Duration::from_millis(30));
        let error = order.call_with::<String>("user", "echo", "short", options).await.unwrap_err();
        assert_eq!(error.code(), &ErrorCode::NotConnected, "{error}");
        place.start();
        connecting.await.unwrap().unwrap();
        let _user = place.builder("user").method("echo", echo).connect().await.unwrap();
        assert_eq!(first.await.unwrap().unwrap(), "first");
    });
}

#[test]
fn a_wait_outlives_the_gateway_and_ends_with_the_client() {
    run(async {
        let mut place = Place::new();
        let order = place.builder("order").reconnect_delay(Duration::from_millis(10)).wait_for_service(LONG);
        let order = order.timeout(LONG).connect().await.unwrap();
        for stop in [Place::stop, Place::stop_now] {
            let call = tokio::spawn(order.call::<String>("user", "echo", "still"));
            waiting(&order, 1).await;
            stop(&mut place);
            until(|| !order.is_connected()).await;
            assert_eq!(order.status().waiting_requests, 1);
            place.start();
            until(|| order.is_connected()).await;
            let user = place.builder("user").method("echo", echo).connect().await.unwrap();
            assert_eq!(call.await.unwrap().unwrap(), "still");
            user.disconnect().await;
        }
        let call = tokio::spawn(order.call::<String>("user", "echo", "in vain"));
        waiting(&order, 1).await;
        order.drain().await.unwrap();
        assert_eq!(order.status().waiting_requests, 1, "draining is about the calls of others");
        order.disconnect().await;
        assert_eq!(call.await.unwrap().unwrap_err().code(), &ErrorCode::NotConnected);
    });
}

#[test]
fn a_service_that_drains_and_comes_back_is_waited_for() {
    run(async {
        let place = Place::new();
        let order = place.builder("order").wait_for_service(LONG).connect().await.unwrap();
        let user = place.builder("user").method("echo", echo).connect().await.unwrap();
        user.drain().await.unwrap();
        let call = tokio::spawn(order.call::<String>("user", "echo", "rolled over"));
        waiting(&order, 1).await;
        user.disconnect().await;
        user.connect().await.unwrap();
        assert_eq!(call.await.unwrap().unwrap(), "rolled over");
    });
}
