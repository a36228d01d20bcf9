//! Sessions, router, lanes and takeovers together. Run with `--release`: `cargo test --release -p bro-sim`.
#![allow(clippy::print_stdout, reason = "the seeds and what they met belong in the log")]

use bro_sim::{SystemFault, SystemSummary, run_system};
use std::panic::catch_unwind;

const SEEDS: u64 = 60;
const STEPS: u64 = 5000;
const CANARY_SEEDS: u64 = 40;

#[test]
fn every_call_ends_once_whatever_happens_between_the_programs() {
    let mut sum = SystemSummary::default();
    for seed in 0..SEEDS {
        match run_system(seed, STEPS, SystemFault::None) {
            Ok(summary) => sum.add(&summary),
            Err(violation) => panic!("{violation}"),
        }
    }
    println!("seeds 0..{SEEDS}, {STEPS} steps each: {sum:#?}");
    // The run means something only if it came everywhere.
    let everywhere = [
        "success",
        "FAILED",
        "TIMEOUT",
        "CANCELLED",
        "CONNECTION_LOST",
        "SERVICE_NOT_FOUND",
        "NOT_CONNECTED",
        "SHUTTING_DOWN",
        "cancelled",
        "call refused at once",
        "client drained",
        "client crashed",
        "connection torn",
        "gateway crashed",
        "gateway drains",
        "drained by the gateway",
        "taken over",
        "taken over with calls in flight",
        "taken over with waiters",
        "taken over with lanes",
        "watched single calls",
        "lane handed out",
        "lane not handed out",
        "lane opened",
        "lane broken",
        "settled",
        "the router had more to do",
    ];
    for what in everywhere {
        assert!(sum.seen.get(what).is_some_and(|&count| count > 4), "{what} hardly came up: {:?}", sum.seen);
    }
    assert!(sum.calls > 10_000 && sum.carried_out > 5000, "{sum:?}");
}

#[test]
fn every_deliberate_defect_of_the_system_is_caught() {
    for fault in SystemFault::ALL {
        // A defect may also come out as an assertion of the router itself.
        let caught = (0..CANARY_SEEDS).find_map(|seed| match catch_unwind(|| run_system(seed, STEPS, fault)) {
            Ok(Ok(_)) => None,
            Ok(Err(violation)) => Some(violation.to_string()),
            Err(_) => Some(format!("seed {seed}: an assertion")),
        });
        let Some(caught) = caught else { panic!("{} is not caught by seeds 0..{CANARY_SEEDS}", fault.as_str()) };
        println!("{}: {:.200}", fault.as_str(), caught);
    }
}

#[test]
fn equal_seeds_give_equal_systems() {
    let (first, second) = (run_system(3, 2000, SystemFault::None), run_system(3, 2000, SystemFault::None));
    assert_eq!(first.expect("no violation"), second.expect("no violation"));
}
