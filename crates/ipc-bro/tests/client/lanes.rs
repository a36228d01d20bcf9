use crate::place::{PATIENT, Place, run, until};
use ipc_bro::{Client, Context, ErrorCode, EventMask, HandlerError, LanePolicy};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

async fn echo(value: String, _: Context) -> Result<String, HandlerError> {
    Ok(value)
}

async fn depth(_: (), context: Context) -> Result<(u32, Vec<String>), HandlerError> {
    Ok((context.call().depth, context.call().chain.clone()))
}

/// A gateway that gives lanes to everybody, and two services with one between them.
async fn laned() -> (Place, Client, Client) {
    let mut place = Place::empty();
    place.start_with(LanePolicy::Always);
    let user = service(&place).await;
    let order = place.builder("order").timeout(PATIENT).reconnect_delay(Duration::from_millis(20));
    let order = order.connect().await.unwrap();
    settle(&order, &user).await;
    (place, order, user)
}

async fn service(place: &Place) -> Client {
    let builder = place.builder("user").reconnect_delay(Duration::from_millis(20));
    let forward = |_: (), context: Context| async move {
        let value: String = context.client().call("user", "echo", "nested").await?;
        Ok::<_, HandlerError>(value)
    };
    builder.method("echo", echo).method("depth", depth).method("forward", forward).connect().await.unwrap()
}

/// Calls until the lane is in use at both ends.
async fn settle(order: &Client, user: &Client) {
    while order.status().lanes == 0 || user.status().lanes == 0 {
        let _: String = order.call("user", "echo", "x").await.unwrap();
    }
    // LANE_READY may still be on its way.
    for _ in 0..1000 {
        let _: String = order.call("user", "echo", "x").await.unwrap();
    }
}

#[test]
fn calls_on_a_lane_do_not_pass_the_gateway() {
    run(async {
        let (place, order, _user) = laned().await;
        let routed = place.gateway().status().unwrap().counters.calls_routed;
        for n in 0..500 {
            let text: String = order.call("user", "echo", n.to_string()).await.unwrap();
            assert_eq!(text, n.to_string());
        }
        let (depth, chain): (u32, Vec<String>) = order.call("user", "depth", ()).await.unwrap();
        assert_eq!((depth, chain), (2, vec!["order".to_owned(), "user".to_owned()]));
        let status = place.gateway().status().unwrap();
        assert_eq!((status.counters.calls_routed, status.lanes), (routed, 1));
    });
}

#[test]
fn many_calls_and_large_ones_share_a_lane() {
    run(async {
        let (_place, order, _user) = laned().await;
        let mut calls = Vec::new();
        for n in 0..300_usize {
            let order = order.clone();
            calls.push(tokio::spawn(async move {
                // From a few bytes to more than the arena of a lane has.
                let text = "x".repeat(match n % 100 {
                    0 => 6_000_000,
                    1..10 => 100_000 * n % 777_777,
                    _ => n,
                });
                let echo: String = order.call("user", "echo", &text).await.unwrap();
                assert!(echo == text, "{n}");
            }));
        }
        for call in calls {
            call.await.unwrap();
        }
        assert_eq!(order.status().pending_requests, 0);
    });
}

#[test]
fn calls_on_a_lane_go_on_while_the_gateway_is_away() {
    run(async {
        let (mut place, order, user) = laned().await;
        place.stop_now();
        until(|| !order.is_connected() && !user.is_connected()).await;
        for n in 0..200 {
            let text: String = order.call("user", "echo", n.to_string()).await.unwrap();
            assert_eq!(text, n.to_string());
        }
        let refused = order.call::<()>("role", "x", ()).await.unwrap_err();
        assert_eq!(*refused.code(), ErrorCode::NotConnected);
        // The next gateway is told of the lane, and can take it back.
        place.start_with(LanePolicy::Always);
        until(|| order.is_connected() && user.is_connected()).await;
        until(|| place.gateway().status().unwrap().lanes == 1).await;
        let _: String = order.call("user", "echo", "x").await.unwrap();
        assert_eq!(place.gateway().status().unwrap().counters.calls_routed, 0);
        place.gateway().set_events(EventMask::CALLS);
        until(|| order.status().lanes == 0 && user.status().lanes == 0).await;
        let _: String = order.call("user", "echo", "x").await.unwrap();
        assert_eq!(place.gateway().status().unwrap().counters.calls_routed, 1);
    });
}

#[test]
fn no_call_is_lost_when_lanes_come_and_go() {
    run(async {
        let (place, order, _user) = laned().await;
        let (is_over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let callers: Vec<_> = (0..8)
            .map(|_| {
                let (order, is_over, answered) = (order.clone(), Arc::clone(&is_over), Arc::clone(&answered));
                tokio::spawn(async move {
                    while !is_over.load(Ordering::Relaxed) {
                        let n = answered.load(Ordering::Relaxed);
                        let text: String = order.call("user", "echo", n.to_string()).await.unwrap();
                        assert_eq!(text, n.to_string());
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        // However quick calls are, they go on while the lane goes and comes back.
        let go_on = async || {
            let before = answered.load(Ordering::Relaxed);
            until(|| answered.load(Ordering::Relaxed) > before + 500 || callers.iter().any(|one| one.is_finished()))
                .await;
        };
        for _ in 0..10 {
            place.gateway().set_events(EventMask::CALLS);
            until(|| order.status().lanes == 0).await;
            go_on().await;
            place.gateway().set_events(EventMask::NONE);
            until(|| order.status().lanes == 1).await;
            go_on().await;
        }
        is_over.store(true, Ordering::Relaxed);
        for caller in callers {
            caller.await.unwrap();
        }
        let counters = place.gateway().status().unwrap().counters;
        assert!(counters.lanes_opened > 10 && counters.calls_routed > 0, "they came and went: {counters:?}");
    });
}

#[test]
fn a_callee_that_goes_ends_the_calls_on_its_lane() {
    run(async {
        let (place, order, user) = laned().await;
        user.register("stay", |_: (), _: Context| async move {
            std::future::pending::<()>().await;
            Ok::<_, HandlerError>(())
        })
        .unwrap();
        let waiting = {
            let order = order.clone();
            tokio::spawn(async move { order.call::<()>("user", "stay", ()).await })
        };
        until(|| order.status().pending_requests == 1).await;
        drop(user);
        let ended = waiting.await.unwrap().unwrap_err();
        assert!([ErrorCode::ConnectionLost, ErrorCode::ShuttingDown].contains(ended.code()), "{ended}");
        until(|| order.status().lanes == 0).await;
        // The name is free: another one takes its place, through the gateway and on a lane of its own.
        until(|| place.instances_of("user") == 0).await;
        let user = service(&place).await;
        settle(&order, &user).await;
    });
}

#[test]
fn who_wants_no_lanes_gets_none() {
    run(async {
        let mut place = Place::empty();
        place.start_with(LanePolicy::Always);
        let _user = service(&place).await;
        let order = place.builder("order").lanes(false).connect().await.unwrap();
        for _ in 0..50 {
            let _: String = order.call("user", "echo", "x").await.unwrap();
        }
        let status = place.gateway().status().unwrap();
        assert_eq!((status.lanes, status.counters.lanes_offered, status.counters.calls_routed), (0, 0, 50));
    });
}
