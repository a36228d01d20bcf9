//! Counting the demo's calls and how long they took.

use crate::output::{duration_us, table};
use hdrhistogram::Histogram;
use ipc_bro::Error;
use std::time::Duration;

/// Longest time that a histogram tells apart, in microseconds (ten minutes).
const LATENCY_MAX_US: u64 = 600_000_000;

/// The calls of one kind.
pub struct Tally {
    kind: &'static str,
    started: u64,
    succeeded: u64,
    failed: u64,
    latency_us: Histogram<u64>,
}

impl Tally {
    /// No calls yet.
    pub fn new(kind: &'static str) -> Tally {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("the bounds are valid");
        Tally { kind, started: 0, succeeded: 0, failed: 0, latency_us }
    }

    /// A call begins.
    pub fn start(&mut self) {
        self.started += 1;
    }

    /// A call has ended.
    pub fn end<T>(&mut self, outcome: &Result<T, Error>, spent: Duration) {
        match outcome {
            Ok(_) => self.succeeded += 1,
            Err(_) => self.failed += 1,
        }
        self.latency_us.saturating_record(u64::try_from(spent.as_micros()).unwrap_or(LATENCY_MAX_US));
    }

    /// Whether every call that began has ended.
    pub fn is_settled(&self) -> bool {
        self.started == self.succeeded + self.failed
    }

    /// Calls that failed.
    pub fn failed(&self) -> u64 {
        self.failed
    }
}

/// A table of all tallies.
pub fn summary(tallies: &[&Tally]) -> String {
    let mut rows = vec![["CALLS", "STARTED", "ENDED", "OK", "FAILED", "p50", "p99"].map(str::to_owned).to_vec()];
    for tally in tallies {
        rows.push(vec![
            tally.kind.to_owned(),
            tally.started.to_string(),
            (tally.succeeded + tally.failed).to_string(),
            tally.succeeded.to_string(),
            tally.failed.to_string(),
            duration_us(tally.latency_us.value_at_quantile(0.5)),
            duration_us(tally.latency_us.value_at_quantile(0.99)),
        ]);
    }
    table(&rows)
}
