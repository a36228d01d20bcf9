//! A soak short enough for every run of the tests; the suite `soak` of `cargo xtask test` goes on for longer.

use std::process::Command;

#[test]
fn thirty_rounds_of_chaos_leave_nobody_hanging() {
    let output = Command::new(env!("CARGO_BIN_EXE_bro-soak"))
        .args(["--rounds", "30", "--seed", "20", "--lanes", "always"])
        .output()
        .expect("bro-soak can be started");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    assert!(stdout.contains("--seed 20") && stdout.contains("everything held"), "{stdout}{stderr}");
}
