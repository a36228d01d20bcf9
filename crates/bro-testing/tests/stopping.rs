//! How real processes end when they are told to, gateways and clients: once politely, twice at once.

use bro_testing::gateway::{Signal, signal, wait_for_exit, wait_until};
use bro_testing::{GatewayOptions, TempGateway, V1Peer, Watchdog, for_each_encoding};
use serde_json::json;
use std::process::{Command, Stdio};

/// Far longer than any test takes: who waits for it hangs.
const DRAIN_TIMEOUT_MS: u64 = 3_600_000;

fn draining_gateway(encoding: bro_testing::Encoding) -> (TempGateway, V1Peer, V1Peer, String, serde_json::Value) {
    let gateway = GatewayOptions { drain_timeout_ms: Some(DRAIN_TIMEOUT_MS), ..GatewayOptions::default() }.start();
    let mut callee = V1Peer::register(gateway.socket_path(), encoding, "callee", &["work"]);
    let mut caller = V1Peer::register(gateway.socket_path(), encoding, "caller", &[]);
    let id = caller.start_call("callee", "work", json!(1));
    let call = callee.receive();
    gateway.terminate();
    // From then on nobody may register; before, it does no harm.
    wait_until("the gateway drains", || {
        // The name may be taken by the one before, whose end the gateway has not seen.
        let told = V1Peer::connect(gateway.socket_path(), encoding).try_register("late", &[]);
        told.is_err_and(|answer| answer["error"]["code"] == "SHUTTING_DOWN")
    });
    let late = caller.start_call("callee", "work", json!(2));
    caller.expect_failure(&late, "SHUTTING_DOWN");
    (gateway, callee, caller, id, call)
}

#[test]
fn sigterm_lets_what_is_in_flight_finish_and_refuses_what_is_new() {
    let _watchdog = Watchdog::for_test();
    for_each_encoding(|encoding| {
        let (mut gateway, mut callee, mut caller, id, call) = draining_gateway(encoding);
        assert!(gateway.is_running());
        callee.respond(&call, json!("done"));
        assert_eq!(caller.expect_success(&id), "done");
        assert!(gateway.wait().success());
        caller.expect_close();
        assert!(!gateway.socket_path().exists());
    });
}

#[test]
fn a_second_sigterm_stops_at_once() {
    let _watchdog = Watchdog::for_test();
    for_each_encoding(|encoding| {
        let (mut gateway, mut callee, mut caller, id, _call) = draining_gateway(encoding);
        gateway.terminate();
        caller.expect_failure(&id, "CONNECTION_LOST");
        caller.expect_close();
        callee.expect_close();
        assert!(gateway.wait().success());
        assert!(!gateway.socket_path().exists());
        assert!(gateway.stderr().contains("a second time"), "{}", gateway.stderr());
    });
}

/// Of [`ipc_bro::Client::serve_until_signal`].
#[test]
fn a_client_process_drains_at_a_signal_and_leaves_at_the_second() {
    let _watchdog = Watchdog::for_test();
    for is_urgent in [false, true] {
        let gateway = TempGateway::start();
        let mut command = Command::new(env!("CARGO_BIN_EXE_bro-soak"));
        command
            .args(["callee", "--name", "worker", "--seed", "1", "--callees", "1", "--socket"])
            .arg(gateway.socket_path());
        let mut worker = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("bro-soak can be started");
        let mut caller = V1Peer::register(gateway.socket_path(), bro_testing::Encoding::Json, "caller", &[]);
        let mut other = V1Peer::register(gateway.socket_path(), bro_testing::Encoding::Json, "other", &["echo"]);
        wait_until("the worker answers", || caller.call("worker", "echo", json!(1))["status"] == "success");
        wait_until("the worker watches for SIGTERM", || catches_sigterm(worker.id()));
        // It works on this until the other one has answered.
        let in_work = caller.start_call("worker", "nested", json!({ "next": "other" }));
        let asked = other.expect_call();
        signal(&worker, Signal::TERM);
        let mut answer = None;
        // What reaches it before it has asked for no more is answered as well.
        while answer.is_none() {
            let late = caller.start_call("worker", "echo", json!(2));
            let response = caller.receive();
            assert_eq!(response["id"], late, "the worker still works on the first call: {response}");
            answer = Some(response).filter(|response| response["error"]["code"] == "SHUTTING_DOWN");
        }
        if is_urgent {
            signal(&worker, Signal::INT);
            let response = caller.receive();
            assert_eq!((&response["id"], &response["status"]), (&json!(in_work), &json!("error")), "{response}");
            let code = response["error"]["code"].as_str().unwrap_or_default();
            assert!(["SHUTTING_DOWN", "CONNECTION_LOST"].contains(&code), "{response}");
        } else {
            other.respond(&asked, json!("done"));
            assert_eq!(caller.expect_success(&in_work), "done");
        }
        assert!(wait_for_exit(&mut worker).success());
    }
}

/// Whether the process has a handler for SIGTERM by now.
fn catches_sigterm(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("a live process has SigCgt");
    let caught = u64::from_str_radix(caught.trim(), 16).expect("a set of signals is a hexadecimal number");
    caught & 1 << (Signal::TERM.as_raw() - 1) != 0
}
