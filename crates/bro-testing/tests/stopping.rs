//! How the real gateway process ends when it is told to: once politely, twice at once.

use bro_testing::gateway::wait_until;
use bro_testing::{GatewayOptions, TempGateway, V1Peer, Watchdog, for_each_encoding};
use serde_json::json;

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
        V1Peer::connect(gateway.socket_path(), encoding).try_register("late", &[]).is_err()
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
