//! A gateway with nothing to do.

mod common;

use common::{RawPeer, start, until};
use std::time::{Duration, Instant};

/// An idle gateway does not wake up: a watchdog for busy loops, which no other test would notice.
#[test]
fn an_idle_gateway_sleeps() {
    let (directory, gateway) = start();
    let _peers: Vec<_> =
        (0..20).map(|index| RawPeer::registered(&directory.socket(), &format!("peer-{index}"))).collect();
    let wakeups = || gateway.status().unwrap().event_loop.wakeups;
    // Counted in wakeups, not in time on a processor: on a busy machine a loop that spins gets little of that, and still wakes up all the time.
    let mut spans = Vec::new();
    let is_asleep = (0..5).any(|_| {
        let (before, started) = (wakeups(), Instant::now());
        std::thread::sleep(Duration::from_millis(300));
        let (woken, span_ms) = (wakeups() - before, started.elapsed().as_millis());
        spans.push((woken, span_ms));
        // One for the question; what else there is to do comes every few seconds at most. In the first span there may be something left to do.
        u128::from(woken) <= 4 + span_ms / 100
    });
    assert!(is_asleep, "wakeups in so many milliseconds without anything to do: {spans:?}");
    // It does count: each question is a wakeup.
    let before = wakeups();
    until("wakeups to be counted", || wakeups() > before + 5);
    gateway.stop().unwrap();
}
