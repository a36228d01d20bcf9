//! Processes that are there and do nothing: stopped with SIGSTOP, and later perhaps continued.

use bro_testing::gateway::{Signal, signal, wait_until};
use bro_testing::{Encoding, GatewayOptions, TempGateway, V1Peer, Watchdog};
use serde_json::{Value, json};
use std::process::{Child, Command, Stdio};

/// Silent for three of these, a service is given up.
const HEARTBEAT_INTERVAL_MS: u64 = 400;

fn gateway(lanes: &str) -> TempGateway {
    let lanes = Some(lanes.to_owned());
    GatewayOptions { heartbeat_interval_ms: Some(HEARTBEAT_INTERVAL_MS), lanes, ..GatewayOptions::default() }.start()
}

/// A callee of the soak, as a process of its own.
struct Callee(Child);

impl Callee {
    fn start(gateway: &TempGateway, role: &str, name: &str) -> Callee {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bro-soak"));
        command.args([role, "--name", name, "--seed", "1", "--callees", "1", "--socket"]).arg(gateway.socket_path());
        Callee(command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("bro-soak can be started"))
    }

    fn freeze(&self) {
        signal(&self.0, Signal::STOP);
    }

    fn go_on(&self) {
        signal(&self.0, Signal::CONT);
    }
}

impl Drop for Callee {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn answers(caller: &mut V1Peer, name: &str) -> bool {
    caller.heartbeat();
    caller.call(name, "echo", json!("there?"))["status"] == "success"
}

/// The answers that the calls of `ids` get, in whatever order; the caller gives signs of life meanwhile.
fn answers_to(caller: &mut V1Peer, ids: &[String]) -> Vec<Value> {
    let mut answers = Vec::new();
    while answers.len() < ids.len() {
        match caller.try_receive(std::time::Duration::from_millis(HEARTBEAT_INTERVAL_MS / 4)) {
            Ok(frame) => answers.push(frame),
            Err(_) => caller.heartbeat(),
        }
    }
    let told = |id: &String| answers.iter().filter(|answer| answer["id"] == **id).count();
    assert!(ids.iter().all(|id| told(id) == 1), "every call is answered once: {answers:#?}");
    answers
}

/// In the middle of calls, of both kinds of clients: callers are told, the name is free, and who goes on comes back by himself.
#[test]
fn a_stopped_callee_is_given_up_and_comes_back_when_it_goes_on() {
    let _watchdog = Watchdog::for_test();
    for role in ["callee", "old-callee"] {
        let gateway = gateway("off");
        let callee = Callee::start(&gateway, role, "hung");
        let mut caller = V1Peer::register(gateway.socket_path(), Encoding::Json, "caller", &[]);
        wait_until("the callee answers", || answers(&mut caller, "hung"));
        let before: Vec<_> = (0..10).map(|_| caller.start_call("hung", "sleep", json!({ "ms": 600_000 }))).collect();
        caller.expect_nothing_before_now();
        callee.freeze();
        let after: Vec<_> = (0..10).map(|_| caller.start_call("hung", "echo", json!(1))).collect();
        let ids: Vec<String> = before.iter().chain(&after).cloned().collect();
        for answer in answers_to(&mut caller, &ids) {
            let code = answer["error"]["code"].as_str().unwrap_or_default();
            // Where it took too long to make the last calls, it was given up already.
            let is_late = code == "SERVICE_NOT_FOUND" && after.iter().any(|id| answer["id"] == **id);
            assert!(code == "CONNECTION_LOST" || is_late, "{role}: {answer}");
        }
        // Taken out: nobody is sent there any more, and another may have the name.
        assert_eq!(caller.call("hung", "echo", json!(1))["error"]["code"], "SERVICE_NOT_FOUND");
        let other = V1Peer::register(gateway.socket_path(), Encoding::Json, "hung", &[]);
        drop(other);
        callee.go_on();
        wait_until("the callee answers again", || answers(&mut caller, "hung"));
        caller.heartbeat();
        let status = caller.call("bro.gateway", "status", json!({}))["data"].take();
        assert_eq!((&status["inFlight"], &status["peers"]), (&json!(0), &json!(2)), "{role}: {status}");
    }
}

/// Stopped for less than it may be silent: nobody notices, and what was asked meanwhile is answered.
#[test]
fn a_short_stop_loses_nothing() {
    let _watchdog = Watchdog::for_test();
    let gateway = GatewayOptions::default().start(); // it may be silent for 90 s
    let callee = Callee::start(&gateway, "callee", "slow");
    let mut caller = V1Peer::register(gateway.socket_path(), Encoding::Msgpack, "caller", &[]);
    wait_until("the callee answers", || answers(&mut caller, "slow"));
    callee.freeze();
    let ids: Vec<String> = (0..100).map(|_| caller.start_call("slow", "echo", json!("late"))).collect();
    caller.expect_nothing_before_now();
    callee.go_on();
    for answer in answers_to(&mut caller, &ids) {
        assert_eq!(answer["data"], "late", "{answer}");
    }
}

/// One of several instances is stopped: calls go to the others as soon as it is known.
#[test]
fn a_stopped_instance_of_a_pool_takes_its_service_along_only_if_it_is_the_last() {
    let _watchdog = Watchdog::for_test();
    let gateway = gateway("off");
    let callee = Callee::start(&gateway, "callee", "first");
    let bystander = Callee::start(&gateway, "callee", "second");
    let mut caller = V1Peer::register(gateway.socket_path(), Encoding::Json, "caller", &[]);
    wait_until("both answer", || answers(&mut caller, "first") && answers(&mut caller, "second"));
    callee.freeze();
    wait_until("the stopped one is given up", || {
        assert!(answers(&mut caller, "second"), "the other one is not disturbed");
        caller.call("bro.gateway", "service", json!({ "name": "first" }))["error"]["code"] == "SERVICE_NOT_FOUND"
    });
    drop((callee, bystander));
}

/// A caller that is stopped is given up as well: what was called for it is cancelled, and it finds out when it goes on.
#[test]
fn a_stopped_caller_is_given_up_with_its_calls() {
    let _watchdog = Watchdog::for_test();
    let gateway = gateway("off");
    let caller = Callee::start(&gateway, "old-callee", "asker");
    let mut observer = V1Peer::register(gateway.socket_path(), Encoding::Json, "observer", &["echo"]);
    wait_until("it answers", || answers(&mut observer, "asker"));
    // It asks the observer, who does not answer.
    let id = observer.start_call("asker", "nested", json!({ "next": "observer" }));
    let asked = observer.receive();
    assert_eq!((&asked["type"], &asked["from"]), (&json!("CALL"), &json!("asker")));
    caller.freeze();
    let lost = answers_to(&mut observer, &[id]);
    assert_eq!(lost[0]["error"]["code"], "CONNECTION_LOST", "{lost:?}");
    observer.respond(&asked, json!("too late")); // is dropped
    wait_until("nothing is in flight", || {
        observer.heartbeat();
        observer.call("bro.gateway", "status", json!({}))["data"]["inFlight"].as_f64() == Some(0.0)
    });
    caller.go_on();
    wait_until("it answers again", || answers(&mut observer, "asker"));
}

/// The gateway is the one that was stopped, for longer than anybody may be silent: nobody is given up for what he could not be heard saying.
#[test]
fn a_stopped_gateway_gives_nobody_up_when_it_goes_on() {
    let _watchdog = Watchdog::for_test();
    let gateway = gateway("off");
    // Our own clients would give up the gateway, and register again.
    let callee = Callee::start(&gateway, "old-callee", "patient");
    let mut caller = V1Peer::register(gateway.socket_path(), Encoding::Json, "caller", &[]);
    wait_until("the callee answers", || answers(&mut caller, "patient"));
    gateway.freeze();
    let begun = std::time::Instant::now();
    let frozen_ms = 5 * HEARTBEAT_INTERVAL_MS;
    while begun.elapsed().as_millis() < frozen_ms.into() {
        caller.heartbeat();
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let id = caller.start_call("patient", "echo", json!("still here"));
    gateway.go_on();
    assert_eq!(caller.expect_success(&id), "still here");
    let status = caller.call("bro.gateway", "status", json!({}))["data"].take();
    assert_eq!(status["counters"]["connectionsDropped"], 0, "{status}");
    let lag_us = status["loop"]["lagMaxUs"].as_f64().expect("it is measured");
    assert!(lag_us >= 1000.0 * HEARTBEAT_INTERVAL_MS as f64, "that it did not run is seen: {status}");
    drop(callee);
}
