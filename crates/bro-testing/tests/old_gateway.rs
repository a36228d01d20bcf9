//! Our client against a gateway of the old library: what worked with it works with us, and what it does wrong ends in
//! a coded error instead of a hang.

use bro_testing::client::{block_on, builder, code, next_event, start_call};
use bro_testing::gateway::wait_until;
use bro_testing::{Encoding, OldGateway, V1Peer, for_each_encoding};
use ipc_bro::{Context, Error};
use serde_json::{Value, json};
use std::time::Duration;

async fn echo(params: Value, _: Context) -> Result<Value, Error> {
    Ok(params)
}

/// Runs `body` for both encodings, and for clients with one connection and with three.
fn for_each_client(body: impl Fn(Encoding, u32)) {
    for_each_encoding(|encoding| {
        for pool_size in [1, 3] {
            body(encoding, pool_size);
        }
    });
}

#[test]
fn our_clients_call_each_other_through_it() {
    for_each_client(|encoding, pool_size| {
        block_on(async {
            let gateway = OldGateway::start(encoding);
            let user = builder("user", gateway.socket_path(), encoding).pool_size(pool_size).method("echo", echo);
            let _user = user.connect().await.expect("the old gateway registers us");
            let order = builder("order", gateway.socket_path(), encoding).pool_size(pool_size);
            let order = order.connect().await.expect("the old gateway registers us");
            for n in 0..50 {
                assert_eq!(order.call::<u32>("user", "echo", n).await.expect("an answer"), n);
            }
            let calls: Vec<_> = (0..200).map(|n| start_call(&order, "user", "echo", json!(n))).collect();
            for (n, call) in (0..).zip(calls) {
                assert_eq!(call.await.expect("no panic").expect("an answer").as_f64(), Some(f64::from(n)));
            }
            assert_eq!(code(order.call::<Value>("user", "missing", json!({})).await), "METHOD_NOT_FOUND");
        });
    });
}

#[test]
fn our_client_serves_and_calls_old_programs_through_it() {
    for_each_client(|encoding, pool_size| {
        block_on(async {
            let gateway = OldGateway::start(encoding);
            let path = gateway.socket_path();
            let user = builder("user", path, encoding).pool_size(pool_size).method("echo", echo);
            let user = user.connect().await.expect("the old gateway registers us");
            tokio::task::block_in_place(|| {
                let mut caller = V1Peer::register(path, encoding, "order", &[]);
                for n in 0..10 {
                    let response = caller.call("user", "echo", json!({ "n": n }));
                    assert_eq!(response["data"]["n"].as_f64(), Some(f64::from(n)), "{response}");
                }
            });
            let role = V1Peer::register(path, encoding, "role", &["check"]);
            let _role = role.serve(|call| Ok(json!({ "chain": call["context"]["chain"] })));
            let answer = user.call::<Value>("role", "check", json!({})).await.expect("an answer");
            assert_eq!(answer, json!({ "chain": ["user", "role"] }));
        });
    });
}

#[test]
fn what_it_says_of_callers_is_known_to_be_no_proof() {
    for_each_client(|encoding, pool_size| {
        block_on(async {
            let gateway = OldGateway::start(encoding);
            let path = gateway.socket_path();
            let who = async |_: Value, context: Context| {
                Ok::<_, Error>(json!([context.caller(), context.is_caller_stamped()]))
            };
            let user = builder("user", path, encoding).pool_size(pool_size).method("who", who);
            let _user = user.connect().await.expect("the old gateway registers us");
            tokio::task::block_in_place(|| {
                let mut caller = V1Peer::register(path, encoding, "order", &[]);
                let context = caller.old_context(60_000);
                let call = json!({
                    "type": "CALL", "id": "req-1", "from": "order", "to": "user", "method": "who", "context": context
                });
                caller.send(&call);
                assert_eq!(caller.expect_response("req-1")["data"], json!(["order", false]));
            });
        });
    });
}

#[test]
fn an_error_frame_that_names_the_call_rejects_it_at_once() {
    for_each_client(|encoding, pool_size| {
        block_on(async {
            let gateway = OldGateway::start(encoding);
            let order = builder("order", gateway.socket_path(), encoding).pool_size(pool_size);
            let order = order.timeout(Duration::from_secs(600)).connect().await.expect("the old gateway registers us");
            let mut events = order.events();
            assert_eq!(code(order.call::<Value>("nobody", "find", json!({})).await), "SERVICE_NOT_FOUND");
            next_event(&mut events, "gateway-error").await;
        });
    });
}

#[test]
fn an_error_frame_that_names_no_call_is_an_event_and_the_call_ends_by_its_timeout() {
    for_each_client(|encoding, pool_size| {
        block_on(async {
            let gateway = OldGateway::start_with(encoding, false);
            let order = builder("order", gateway.socket_path(), encoding).pool_size(pool_size);
            let order =
                order.timeout(Duration::from_millis(300)).connect().await.expect("the old gateway registers us");
            let mut events = order.events();
            assert_eq!(code(order.call::<Value>("nobody", "find", json!({})).await), "TIMEOUT");
            next_event(&mut events, "gateway-error").await;
            assert!(order.is_connected(), "the connection goes on");
        });
    });
}

#[test]
fn a_callee_that_dies_ends_the_call_by_its_timeout() {
    for_each_client(|encoding, pool_size| {
        block_on(async {
            let gateway = OldGateway::start(encoding);
            let mut callee = V1Peer::register(gateway.socket_path(), encoding, "user", &["find"]);
            let order = builder("order", gateway.socket_path(), encoding).pool_size(pool_size);
            // Long enough for the call to arrive.
            let order = order.timeout(Duration::from_secs(2)).connect().await.expect("the old gateway registers us");
            let call = start_call(&order, "user", "find", json!({}));
            tokio::task::block_in_place(|| callee.expect_call());
            drop(callee);
            assert_eq!(code(call.await.expect("no panic")), "TIMEOUT");
        });
    });
}

#[test]
fn a_duplicate_name_rejects_connect_at_once() {
    for_each_client(|encoding, pool_size| {
        block_on(async {
            let gateway = OldGateway::start(encoding);
            let _holder = V1Peer::register(gateway.socket_path(), encoding, "user", &[]);
            let rival = builder("user", gateway.socket_path(), encoding).pool_size(pool_size);
            assert_eq!(code(rival.connect().await.map(|_| ())), "DUPLICATE_SERVICE");
        });
    });
}

#[test]
fn methods_registered_after_connect_are_callable_and_do_not_cost_the_connection() {
    for_each_client(|encoding, pool_size| {
        block_on(async {
            let gateway = OldGateway::start(encoding);
            let path = gateway.socket_path();
            let user = builder("user", path, encoding).pool_size(pool_size).method("echo", echo);
            let user = user.connect().await.expect("the old gateway registers us");
            let mut events = user.events();
            user.register("late", echo).expect("a good name");
            let order = builder("order", path, encoding).connect().await.expect("the old gateway registers us");
            for n in 0..20 {
                assert_eq!(order.call::<u32>("user", "late", n).await.expect("an answer"), n);
                assert_eq!(order.call::<u32>("user", "echo", n).await.expect("an answer"), n);
            }
            while let Some(event) = events.try_recv() {
                assert_ne!(event.name(), "disconnected", "this gateway takes a second REGISTER for a duplicate");
            }
        });
    });
}

#[test]
fn our_client_registers_again_when_it_returns() {
    for_each_client(|encoding, pool_size| {
        block_on(async {
            let gateway = OldGateway::start(encoding);
            let user = builder("user", gateway.socket_path(), encoding).pool_size(pool_size).method("echo", echo);
            let user = user.connect().await.expect("the old gateway registers us");
            assert_eq!(gateway.services(), ["user"]);
            let connections = usize::try_from(pool_size).expect("a small number");
            tokio::task::block_in_place(|| {
                wait_until("the whole pool is registered", || gateway.registrations().len() == connections);
            });
            let registered: Vec<_> = gateway.registrations();
            assert!(registered.iter().all(|register| register["methods"] == json!(["echo"])), "{registered:?}");
            user.disconnect().await;
            tokio::task::block_in_place(|| wait_until("the name is free", || gateway.services().is_empty()));
            user.connect().await.expect("the old gateway registers us again");
            let order = builder("order", gateway.socket_path(), encoding)
                .connect()
                .await
                .expect("the old gateway registers us");
            assert_eq!(order.call::<u32>("user", "echo", 5).await.expect("an answer"), 5);
        });
    });
}
