//! A million steps over many seeds. Run with `--release`: `cargo test --release -p bro-sim`.
#![allow(clippy::print_stdout, reason = "the seeds and what they met belong in the log")]

use bro_sim::{Fault, Summary, run};

const SEEDS: u64 = 150;
const STEPS: u64 = 10_000;

#[test]
fn a_million_steps_without_a_violation() {
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let share = |thread: u64| {
        let mut sum = Summary::default();
        for seed in (thread..SEEDS).step_by(usize::try_from(threads).expect("small")) {
            match run(seed, STEPS, Fault::None) {
                Ok(summary) => sum.add(&summary),
                Err(violation) => panic!("{violation}"),
            }
        }
        sum
    };
    let mut sum = Summary::default();
    std::thread::scope(|scope| {
        let shares: Vec<_> = (0..threads).map(|thread| scope.spawn(move || share(thread))).collect();
        for joined in shares.into_iter().map(|share| share.join()) {
            match joined {
                Ok(share) => sum.add(&share),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    println!("seeds 0..{SEEDS}, {STEPS} steps each: {sum:#?}");
    assert!(sum.steps >= 1_000_000);
    // The run means something only if it came everywhere.
    let everywhere = [
        "NOT_REGISTERED",
        "INVALID_MESSAGE",
        "INVALID_CONTEXT",
        "INVALID_ARGUMENT",
        "MAX_DEPTH_EXCEEDED",
        "DEADLINE_EXCEEDED",
        "SERVICE_NOT_FOUND",
        "RESOURCE_EXHAUSTED",
        "OVERLOADED",
        "SHUTTING_DOWN",
        "TIMEOUT",
        "CONNECTION_LOST",
        "PAYLOAD_TOO_LARGE",
        "DUPLICATE_SERVICE",
        "PERMISSION_DENIED",
        "OUT_OF_STOCK",
        "malformed",
        "refused",
        "never-registered",
        "silent",
        "partial-frame",
        "slow-reader",
        "stopping",
        // Version 2, and both at once.
        "CANCELLED",
        "SERIALIZATION_FAILED",
        "version 1 to 1",
        "version 1 to 2",
        "version 2 to 1",
        "version 2 to 2",
        "notified",
        "notified in version 1",
        "derived at depth 3",
        "derived at depth 6",
        "cancel",
        "cancel of nothing",
        "cancel of an inquiry",
        "cancel told",
        "cascade",
        "ended in pieces",
        "name told",
        "pong",
        // Lanes.
        "watched",
        "lane offered",
        "lane offered at once",
        "lane opened",
        "lane not taken",
        "lane closed by a peer",
        "lane lost",
        "lane revoked",
        "lane told of",
        "lane adopted",
        "lane of others",
        "lane refused while watched",
        "lane too many",
        "lane of a user that has its share",
        "lane counted",
        // Another gateway goes on.
        "taken over",
        "taken over while draining",
        "taken over with calls in flight",
        "taken over with parked calls",
        // Policies.
        "policy loaded",
        "connection denied",
        "denied",
        "lane forbidden",
    ];
    for what in everywhere {
        assert!(sum.seen.get(what).is_some_and(|&count| count > 8), "{what} hardly came up: {:?}", sum.seen);
    }
    let counters = &sum.counters;
    assert!(counters.responses_routed > 10_000 && counters.responses_dropped > 100, "{counters:?}");
    assert!(counters.calls_cancelled > 1000 && counters.notifications_dropped > 100, "{counters:?}");
    assert!(counters.calls_timed_out > 100 && counters.calls_abandoned > 100, "{counters:?}");
}

#[test]
fn equal_seeds_give_equal_runs() {
    let (first, second) = (run(7, 3000, Fault::None), run(7, 3000, Fault::None));
    assert_eq!(first.expect("no violation"), second.expect("no violation"));
}
