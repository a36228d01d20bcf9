//! The soak is worth something only if it fails when something is wrong: gateways with one defect each, which `bro-soak` must find, tell apart and end
//! with exit code 1 for. The first one has none, and is held to the same.

use std::process::{Command, Output};

/// Rests often enough for a short run: nine of them, all of the same gateway.
const NINE_RESTS: [&str; 6] = ["--rounds", "36", "--rest-rounds", "4", "--gateway-kills-percent", "0"];

fn soak(fault: &str, arguments: &[&str]) -> (Output, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_bro-soak"))
        .args(["--seed", "3", "--lanes", "off", "--pause-ms", "60", "--gateway-fault", fault])
        // What the relay in front of the gateway reads into is not the subject here.
        .args(["--memory-slack-kib", "16384"])
        .args(arguments)
        .output()
        .expect("bro-soak can be started");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output, said)
}

/// Each of these stands in a line that says what failed.
fn fails(fault: &str, arguments: &[&str], why: &[&str]) {
    let (output, said) = soak(fault, arguments);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("not everything held") && said.contains(&format!("--gateway-fault {fault}")), "{said}");
    for why in why {
        let mut failed = said.lines().filter(|line| line.starts_with("FAILED: "));
        assert!(failed.any(|line| line.contains(why)), "nothing says that {why}: {said}");
    }
}

#[test]
fn without_a_defect_everything_holds_and_everything_is_judged() {
    let (output, said) = soak("none", &NINE_RESTS);
    assert!(output.status.success() && said.lines().any(|line| line == "everything held"), "{said}");
    assert!(said.contains("idle memory of the last gateway, 9 rests"), "{said}");
}

#[test]
fn memory_that_is_not_given_back_is_found() {
    fails("leak-memory", &NINE_RESTS, &["the gateway's idle memory went from"]);
}

#[test]
fn descriptors_that_are_not_closed_are_found() {
    fails("leak-descriptor", &["--rounds", "4"], &["descriptors are open while nobody is connected"]);
}

#[test]
fn charges_that_are_not_taken_back_are_found() {
    let arguments = ["--rounds", "8", "--rest-rounds", "4", "--gateway-kills-percent", "0"];
    fails("leak-charge", &arguments, &["bytes are charged in a rest", "services are left"]);
}

/// An old program waits for ever, since its gateway is to tell it; our client gives the call up by itself, which no call of that kind may come to.
#[test]
fn answers_that_are_lost_are_found() {
    fails("lose-answer", &["--rounds", "4"], &["calls hung", "calls began", "times TIMEOUT for a"]);
}

#[test]
fn answers_that_come_twice_are_found() {
    fails("repeat-answer", &["--rounds", "4"], &["answers to calls that had ended"]);
}

#[test]
fn answers_of_other_calls_are_found() {
    fails("swap-answer", &["--rounds", "4"], &["answers belong to other calls"]);
}

#[test]
fn a_gateway_that_dies_is_found() {
    fails("die", &["--rounds", "4", "--gateway-kills-percent", "0"], &["the run ended early: the gateway"]);
}
