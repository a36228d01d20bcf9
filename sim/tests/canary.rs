//! The checks are worth something only if they catch a router that is broken.
#![allow(clippy::print_stdout, reason = "the seeds and what they met belong in the log")]

use bro_sim::{Fault, run};
use std::panic::catch_unwind;

const SEEDS: u64 = 48;
const STEPS: u64 = 10_000;

#[test]
fn every_deliberate_defect_is_caught() {
    for fault in Fault::ALL {
        // A defect may also come out as an assertion of the router itself.
        let caught = (0..SEEDS).find_map(|seed| match catch_unwind(|| run(seed, STEPS, fault)) {
            Ok(Ok(_)) => None,
            Ok(Err(violation)) => Some(violation.to_string()),
            Err(_) => Some(format!("seed {seed}: an assertion of the router")),
        });
        let Some(caught) = caught else { panic!("{} is not caught by seeds 0..{SEEDS}", fault.as_str()) };
        println!("{}: {:.200}", fault.as_str(), caught);
    }
}

#[test]
fn a_violation_says_how_to_repeat_it() {
    let violation = (0..SEEDS).find_map(|seed| run(seed, STEPS, Fault::DropResponse).err()).expect("it is caught");
    let text = violation.to_string();
    assert!(text.contains("cargo run --release -p bro-sim -- --seed"), "{text}");
    let again = run(violation.seed, violation.step + 1, violation.fault).expect_err("it repeats");
    assert_eq!((again.step, &again.what), (violation.step, &violation.what));
}
