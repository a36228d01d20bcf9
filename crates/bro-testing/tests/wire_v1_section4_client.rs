//! Section 4 of the description of v1: the rows about our own client, against old programs through a real gateway
//! process. Every body runs for every mix of what our client and the old program speak.

use bro_testing::client::{block_on, builder, code, next_event, start_call};
use bro_testing::gateway::wait_until;
use bro_testing::{Mix, TempGateway, V1Peer, for_each_mix};
use ipc_bro::{ClientEvent, Context, Error};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::Barrier;

/// What the gateway tells about a service.
fn describe(path: &Path, mix: Mix, name: &str) -> Value {
    // Each has a name of its own: that of the one before is free only when the gateway has seen its end.
    static OBSERVERS: AtomicU32 = AtomicU32::new(0);
    let own_name = format!("observer-{}", OBSERVERS.fetch_add(1, Ordering::Relaxed));
    let mut observer = V1Peer::register(path, mix.callee, &own_name, &[]);
    observer.call("bro.gateway", "service", json!({ "name": name }))["data"].take()
}

/// A handler that calls "role" with its own params.
async fn ask_role(params: Value, context: Context) -> Result<Value, Error> {
    context.client().call("role", "check", params).await
}

#[test]
fn row_01_our_client_rejects_at_once_and_emits_gateway_error_as_well() {
    for_each_mix(|mix| {
        block_on(async {
            let gateway = TempGateway::start();
            let client = builder("order", gateway.socket_path(), mix.caller);
            let client = client.timeout(Duration::from_secs(600)).connect().await.expect("the gateway is there");
            let mut events = client.events();
            assert_eq!(code(client.call::<Value>("nobody", "find", json!({})).await), "SERVICE_NOT_FOUND");
            let ClientEvent::GatewayError { code, message, .. } = next_event(&mut events, "gateway-error").await else {
                panic!("the name belongs to another event");
            };
            assert_eq!(code.as_str(), "SERVICE_NOT_FOUND");
            assert!(message.contains("nobody"), "{message}");
        });
    });
}

#[test]
fn row_02_our_client_is_told_at_once_when_the_callee_dies() {
    for_each_mix(|mix| {
        block_on(async {
            let gateway = TempGateway::start();
            let mut callee = V1Peer::register(gateway.socket_path(), mix.callee, "user", &["find"]);
            let client = builder("order", gateway.socket_path(), mix.caller);
            let client = client.timeout(Duration::from_secs(600)).connect().await.expect("the gateway is there");
            let call = start_call(&client, "user", "find", json!({}));
            tokio::task::block_in_place(|| callee.expect_call());
            drop(callee);
            assert_eq!(code(call.await.expect("no panic")), "CONNECTION_LOST");
        });
    });
}

#[test]
fn row_04_the_callee_of_our_client_sees_both_names_and_depth_two() {
    for_each_mix(|mix| {
        block_on(async {
            let gateway = TempGateway::start();
            let mut callee = V1Peer::register(gateway.socket_path(), mix.callee, "user", &["find"]);
            let client =
                builder("order", gateway.socket_path(), mix.caller).connect().await.expect("the gateway is there");
            let answer = start_call(&client, "user", "find", json!({ "id": 7 }));
            let call = tokio::task::block_in_place(|| callee.expect_call());
            assert_eq!((&call["context"]["chain"], &call["context"]["depth"]), (&json!(["order", "user"]), &json!(2)));
            assert!(call["context"]["deadline"].as_f64().is_some_and(|ms| ms > 1e12), "{call}");
            assert!(call["context"]["root"].as_str().is_some_and(|root| root.starts_with("root-")), "{call}");
            assert_eq!(call["params"], json!({ "id": 7 }));
            callee.respond(&call, json!({ "name": "Ada" }));
            assert_eq!(answer.await.expect("no panic").expect("an answer"), json!({ "name": "Ada" }));
        });
    });
}

#[test]
fn row_04_a_nested_call_of_our_client_goes_one_step_deeper() {
    for_each_mix(|mix| {
        block_on(async {
            let gateway = TempGateway::start();
            let path = gateway.socket_path();
            let mut role = V1Peer::register(path, mix.callee, "role", &["check"]);
            let _user = builder("user", path, mix.caller)
                .method("find", ask_role)
                .connect()
                .await
                .expect("the gateway is there");
            let order = builder("order", path, mix.caller).connect().await.expect("the gateway is there");
            let answer = start_call(&order, "user", "find", json!("x"));
            let call = tokio::task::block_in_place(|| role.expect_call());
            assert_eq!(
                (&call["context"]["chain"], &call["context"]["depth"]),
                (&json!(["order", "user", "role"]), &json!(3))
            );
            assert_eq!(call["from"], "user");
            role.respond(&call, json!("yes"));
            assert_eq!(answer.await.expect("no panic").expect("an answer"), json!("yes"));
        });
    });
}

#[test]
fn row_05_concurrent_handlers_of_our_client_keep_each_its_own_context() {
    for_each_mix(|mix| {
        block_on(async {
            const CALLERS: usize = 4;
            let gateway = TempGateway::start();
            let path = gateway.socket_path();
            let mut role = V1Peer::register(path, mix.callee, "role", &["check"]);
            let barrier = Arc::new(Barrier::new(CALLERS));
            let user = builder("user", path, mix.caller).method("find", {
                move |params: Value, context: Context| {
                    let barrier = Arc::clone(&barrier);
                    async move {
                        // Every handler has begun before any makes its own call.
                        barrier.wait().await;
                        ask_role(params, context).await
                    }
                }
            });
            let _user = user.connect().await.expect("the gateway is there");
            let mut callers: Vec<_> =
                (0..CALLERS).map(|n| V1Peer::register(path, mix.callee, &format!("caller-{n}"), &[])).collect();
            tokio::task::block_in_place(|| {
                let mut expected = Vec::new();
                for caller in &mut callers {
                    let mut context = caller.old_context(20_000);
                    let name = caller.name().to_owned();
                    context["root"] = json!(format!("root-of-{name}"));
                    let id = caller.start_call_with("user", "find", json!(name), context.clone());
                    expected.push((id, name, context));
                }
                for _ in 0..CALLERS {
                    let call = role.expect_call();
                    let (_, name, context) = expected
                        .iter()
                        .find(|(_, name, _)| call["params"] == json!(name))
                        .expect("the params of a caller");
                    assert_eq!(call["context"]["root"], context["root"], "{call}");
                    assert_eq!(call["context"]["chain"], json!([name, name, "role"]), "{call}");
                    // Our client speaks version 2, where time that is left travels: it was made of whole milliseconds twice.
                    let deadline = |context: &Value| context["deadline"].as_f64().expect("a number");
                    assert!((deadline(&call["context"]) - deadline(context)).abs() <= 2.0, "{call}");
                    role.respond(&call, json!(format!("for {name}")));
                }
                for (caller, (id, name, _)) in callers.iter_mut().zip(&expected) {
                    assert_eq!(caller.expect_success(id), json!(format!("for {name}")));
                }
            });
        });
    });
}

#[test]
fn row_06_methods_that_our_client_registers_after_connect_are_advertised_at_once() {
    for_each_mix(|mix| {
        block_on(async {
            let gateway = TempGateway::start();
            let path = gateway.socket_path();
            let client =
                builder("user", path, mix.caller).method("find", |params: Value, _| async { Ok::<_, Error>(params) });
            let client = client.connect().await.expect("the gateway is there");
            assert_eq!(describe(path, mix, "user")["methods"], json!(["find"]));
            let mut caller = V1Peer::register(path, mix.callee, "order", &[]);
            client.register("rename", |params: Value, _| async { Ok::<_, Error>(params) }).expect("a good name");
            tokio::task::block_in_place(|| {
                wait_until("the new method is advertised", || {
                    let mut methods: Vec<_> =
                        describe(path, mix, "user")["methods"].as_array().expect("a list").clone();
                    methods.sort_by_key(Value::to_string);
                    methods == [json!("find"), json!("rename")]
                });
                assert_eq!(caller.call("user", "rename", json!(1))["data"].as_f64(), Some(1.0));
            });
            assert!(client.unregister("find"));
            tokio::task::block_in_place(|| {
                wait_until("the old method is gone", || describe(path, mix, "user")["methods"] == json!(["rename"]));
                assert_eq!(caller.call("user", "find", json!(1))["error"]["code"], "METHOD_NOT_FOUND");
            });
        });
    });
}

#[test]
fn row_08_a_pool_of_our_client_serves_and_calls_on_every_connection() {
    for_each_mix(|mix| {
        block_on(async {
            let gateway = TempGateway::start();
            let path = gateway.socket_path();
            let user = builder("user", path, mix.caller)
                .pool_size(3)
                .method("find", |params: Value, _| async { Ok::<_, Error>(params) });
            let user = user.connect().await.expect("the gateway is there");
            tokio::task::block_in_place(|| {
                wait_until("every connection of the pool is registered", || {
                    describe(path, mix, "user")["instances"].as_array().is_some_and(|instances| instances.len() == 3)
                });
                let mut caller = V1Peer::register(path, mix.callee, "order", &[]);
                for n in 0..30 {
                    assert_eq!(caller.call("user", "find", json!(n))["data"].as_f64(), Some(f64::from(n)));
                }
            });
            let echo = V1Peer::register(path, mix.callee, "echo", &["back"]);
            let _echo = echo.serve(|call| Ok(call["params"].clone()));
            for n in 0..30 {
                assert_eq!(user.call::<u32>("echo", "back", n).await.expect("an answer"), n);
            }
        });
    });
}

#[test]
fn row_09_connect_of_our_client_rejects_at_once_with_the_code_of_a_duplicate() {
    for_each_mix(|mix| {
        block_on(async {
            let gateway = TempGateway::start();
            let mut holder = V1Peer::register(gateway.socket_path(), mix.callee, "user", &[]);
            let rival = builder("user", gateway.socket_path(), mix.caller);
            assert_eq!(code(rival.connect().await.map(|_| ())), "DUPLICATE_SERVICE");
            // Not by waiting for the gateway either: the answer is final.
            let patient = builder("user", gateway.socket_path(), mix.caller).wait_for_gateway(Duration::from_secs(600));
            assert_eq!(code(patient.connect().await.map(|_| ())), "DUPLICATE_SERVICE");
            tokio::task::block_in_place(|| holder.expect_nothing_before_now());
        });
    });
}
