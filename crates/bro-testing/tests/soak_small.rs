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
    // Too short to say anything of the memory, and it says so.
    assert!(
        stdout.contains("--seed 20") && stdout.contains("everything held that could be judged"),
        "{stdout}{stderr}"
    );
    assert!(stdout.contains("NOT JUDGED: whether the idle memory of the last gateway grows"), "{stdout}{stderr}");
}
