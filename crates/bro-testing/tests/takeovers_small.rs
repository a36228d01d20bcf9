//! A few takeovers under load, for every run of the tests; `bro-soak --takeovers 100` does more, with Node's clients too.

use std::process::Command;

#[test]
fn ten_takeovers_under_load_fail_no_call_and_lose_no_connection() {
    soak(&["--takeovers", "10", "--lanes", "off"]);
}

/// Calls go past the gateway, and lanes are made while it is replaced.
#[test]
fn takeovers_with_lanes_fail_no_call_and_lose_no_connection() {
    soak(&["--takeovers", "5", "--lanes", "always"]);
}

fn soak(arguments: &[&str]) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_bro-soak")).args(arguments).output().expect("bro-soak can be started");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    assert!(stdout.contains("everything held"), "{stdout}{stderr}");
}
