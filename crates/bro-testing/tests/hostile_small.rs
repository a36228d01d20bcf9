//! Every attack, for a short while; `bro-hostile` itself goes on longer, and measures.

use std::process::Command;

/// How many attacks there are at least.
const ATTACKS_MIN: usize = 87;

#[test]
fn no_attack_breaks_a_promise() {
    let output = Command::new(env!("CARGO_BIN_EXE_bro-hostile"))
        .args(["--attack-ms", "100", "--seed", "7"])
        .output()
        .expect("bro-hostile can be started");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    let held = stdout.lines().filter(|line| line.trim_end().ends_with(" held")).count();
    assert!(held >= ATTACKS_MIN, "{held} attacks\n{stdout}{stderr}");
}
