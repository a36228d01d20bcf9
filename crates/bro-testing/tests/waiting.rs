//! Programs that are started in any order, and services that are killed: callers that wait notice nothing but time.

use bro_testing::client::{block_on, builder, code, start_call};
use bro_testing::gateway::{bro_path, wait_until};
use bro_testing::{OldGateway, TempGateway, V1Peer, for_each_encoding, for_each_mix};
use ipc_bro::{Client, Context, Error};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(600);

/// A service of the demo in a process of its own, which ends with this.
struct Service(Child);

impl Service {
    fn start(name: &str, socket: &Path) -> Service {
        let mut command = Command::new(bro_path());
        command.args(["demo-service", name, "--socket"]).arg(socket).stdin(Stdio::piped()).stdout(Stdio::null());
        Service(command.spawn().expect("the service can be started"))
    }

    fn kill9(&mut self) {
        self.0.kill().expect("the service can be killed");
        self.0.wait().expect("the service can be waited for");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn echo(params: Value, _: Context) -> Result<Value, Error> {
    Ok(params)
}

fn wait_for_waiting(client: &Client, calls: usize) {
    tokio::task::block_in_place(|| {
        wait_until("the calls wait", || client.status().waiting_requests == calls);
    });
}

#[test]
fn services_are_started_in_any_order() {
    for_each_encoding(|encoding| {
        for speaks_v2 in [true, false] {
            block_on(async {
                let gateway = TempGateway::start();
                let client = builder("shop", gateway.socket_path(), encoding).speak_v2(speaks_v2);
                let client = client.wait_for_service(LONG).timeout(LONG).connect().await.expect("the gateway is there");
                let details = start_call(&client, "order-service", "getOrderDetails", json!({ "orderId": "ORD-1" }));
                let role = start_call(&client, "role-service", "getRole", json!({ "userId": "123" }));
                wait_for_waiting(&client, 2);
                let names = ["inventory-service", "user-service", "role-service", "order-service"];
                let _services = names.map(|name| {
                    let service = Service::start(name, gateway.socket_path());
                    let path = gateway.socket_path();
                    let waited = Command::new(bro_path()).args(["wait-for", name, "--socket"]).arg(path).status();
                    assert!(waited.expect("bro runs").success());
                    service
                });
                assert_eq!(role.await.expect("no panic").expect("an answer"), json!({ "role": "admin" }));
                details.await.expect("no panic").expect("an answer");
            });
        }
    });
}

#[test]
fn calls_that_waited_arrive_in_the_order_in_which_they_were_made() {
    for_each_mix(|mix| {
        for speaks_v2 in [true, false] {
            block_on(async {
                let gateway = TempGateway::start();
                let order = builder("order", gateway.socket_path(), mix.caller).speak_v2(speaks_v2);
                let order = order.wait_for_service(LONG).timeout(LONG).connect().await.expect("the gateway is there");
                let mut calls = Vec::new();
                for n in 0..50 {
                    // Each is made when the one before it waits.
                    calls.push(start_call(&order, "user", "note", json!(n)));
                    wait_for_waiting(&order, calls.len());
                }
                tokio::task::block_in_place(|| {
                    let mut user = V1Peer::register(gateway.socket_path(), mix.callee, "user", &["note"]);
                    for n in 0..50 {
                        let call = user.expect_call();
                        assert_eq!(call["params"].as_f64(), Some(f64::from(n)), "{call}");
                        user.respond(&call, json!(n));
                    }
                });
                for call in calls {
                    call.await.expect("no panic").expect("an answer");
                }
            });
        }
    });
}

#[test]
fn a_service_that_is_killed_again_and_again_is_waited_for_and_only_what_it_had_is_lost() {
    block_on(async {
        let gateway = TempGateway::start();
        let client = builder("shop", gateway.socket_path(), bro_testing::Encoding::Json).lanes(false);
        let client = client.wait_for_service(LONG).timeout(LONG).connect().await.expect("the gateway is there");
        let caller = tokio::spawn({
            let client = client.clone();
            async move {
                let (mut answered, mut lost) = (0, 0);
                while answered < 300 {
                    match client.call::<Value>("role-service", "getRole", json!({ "userId": "123" })).await {
                        Ok(role) => {
                            assert_eq!(role, json!({ "role": "admin" }));
                            answered += 1;
                        }
                        Err(error) => {
                            assert_eq!(error.code().as_str(), "CONNECTION_LOST", "{error}");
                            lost += 1;
                        }
                    }
                }
                lost
            }
        });
        let mut deaths = 0;
        let mut service = Service::start("role-service", gateway.socket_path());
        while !caller.is_finished() {
            tokio::task::block_in_place(|| {
                let seen = || caller.is_finished() || client.status().waiting_requests == 0;
                wait_until("the service is there", seen);
                service.kill9();
                deaths += 1;
                let gone = || caller.is_finished() || client.status().waiting_requests == 1;
                wait_until("the caller waits", gone);
                service = Service::start("role-service", gateway.socket_path());
            });
        }
        let lost = caller.await.expect("no other error");
        assert!(deaths >= 1 && lost <= deaths, "{lost} calls were lost by {deaths} deaths");
    });
}

#[test]
fn a_gateway_that_is_killed_or_restarted_meanwhile_is_only_one_more_thing_to_wait_for() {
    for_each_encoding(|encoding| {
        block_on(async {
            let mut gateway = TempGateway::start();
            let client = builder("shop", gateway.socket_path(), encoding).wait_for_service(LONG).timeout(LONG);
            let client = client.connect().await.expect("the gateway is there");
            let role = start_call(&client, "role-service", "getRole", json!({ "userId": "123" }));
            wait_for_waiting(&client, 1);
            tokio::task::block_in_place(|| {
                gateway.kill9();
                wait_until("the client has noticed", || !client.is_connected());
                gateway.restart();
                wait_until("the client is back", || client.is_connected());
                assert!(gateway.stop().success());
                wait_until("the client has noticed", || !client.is_connected());
            });
            // Also what is called while there is no gateway.
            let late = start_call(&client, "role-service", "getRole", json!({ "userId": "9" }));
            wait_for_waiting(&client, 2);
            tokio::task::block_in_place(|| gateway.restart());
            let _service = Service::start("role-service", gateway.socket_path());
            assert_eq!(role.await.expect("no panic").expect("an answer"), json!({ "role": "admin" }));
            assert_eq!(late.await.expect("no panic").expect("an answer"), json!({ "role": "guest" }));
        });
    });
}

#[test]
fn at_a_gateway_of_the_old_library_a_service_of_it_is_waited_for() {
    for_each_encoding(|encoding| {
        for pool_size in [1, 3] {
            block_on(async {
                let gateway = OldGateway::start(encoding);
                let path = gateway.socket_path();
                let order = builder("order", path, encoding).pool_size(pool_size).wait_for_service(LONG).timeout(LONG);
                let order = order.connect().await.expect("the old gateway registers us");
                let call = start_call(&order, "role", "check", json!({ "n": 1 }));
                let other = start_call(&order, "user", "echo", json!({ "n": 2 }));
                wait_for_waiting(&order, 2);
                // An old program does not know `bro.ping`, which is as good an answer as any.
                let role = V1Peer::register(path, encoding, "role", &["check"]);
                let _role = role.serve(|call| match call["method"].as_str() {
                    Some("check") => Ok(call["params"].clone()),
                    _ => Err(json!({ "message": "no such method", "code": "METHOD_NOT_FOUND" })),
                });
                assert_eq!(call.await.expect("no panic").expect("an answer")["n"].as_f64(), Some(1.0));
                let _user = builder("user", path, encoding).method("echo", echo).connect().await.expect("registered");
                assert_eq!(other.await.expect("no panic").expect("an answer")["n"].as_f64(), Some(2.0));
                let options = ipc_bro::CallOptions::new().wait_for_service(Duration::from_millis(100));
                let nobody = order.call_with::<Value>("nobody", "x", json!({}), options).await;
                assert_eq!(code(nobody), "SERVICE_NOT_FOUND");
            });
        }
    });
}

#[test]
fn the_command_waits_for_gateway_and_service() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let socket = dir.path().join("gateway.sock");
    let call = |arguments: &[&str]| {
        let mut command = Command::new(bro_path());
        command.args(["call", "role-service", "getRole", r#"{"userId":"123"}"#, "--socket"]).arg(&socket);
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("bro runs")
    };
    let nobody = call(&["--wait=50ms"]).wait_with_output().expect("bro ends");
    assert_eq!(nobody.status.code(), Some(3), "no gateway");
    let waiting = call(&["--wait=10m", "--timeout=10m"]);
    let mut gateway = Command::new(bro_path());
    gateway.args(["gateway", "--socket"]).arg(&socket).stdout(Stdio::null()).stderr(Stdio::null());
    let _gateway = Service(gateway.spawn().expect("the gateway can be started"));
    let _service = Service::start("role-service", &socket);
    let output = waiting.wait_with_output().expect("bro ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let role: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(role, json!({ "role": "admin" }));
}
