//! What a caller is told to measure, and what it reports: one JSON object a line, each way. Also compiled by `bench/peers`.
//!
//! All callers of a run measure the same span of the monotonic clock, which processes of one machine share. They keep calling from
//! before it begins until it is over, so that nobody is measured alone.

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, Write as _};

/// A span in which fewer calls ended goes on until so many have: on a busy machine large calls take long.
const CALLS_MIN: u64 = 5;

/// Calls that each make one more, until the span is over.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Calls of this caller that are under way at any time.
    pub(crate) in_flight: usize,
    /// On the monotonic clock.
    pub(crate) start_ns: u64,
    pub(crate) end_ns: u64,
    /// Processes whose processor time is read at both ends of the span.
    pub(crate) watched: Vec<u32>,
}

/// What one caller has seen.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Calls that ended in the span.
    pub(crate) calls: u64,
    /// How long the span was for this caller: it looks at the clock between calls.
    pub(crate) span_ns: u64,
    /// Of calls made one at a time; zero where there were none.
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    /// Processor time of each watched process in the span.
    pub(crate) cpu_ns: Vec<u64>,
}

/// The span while it is measured.
pub(crate) struct Window {
    order: Order,
    calls: u64,
    latencies_ns: Vec<u64>,
    start: Option<Edge>,
    end: Option<Edge>,
}

struct Edge {
    at_ns: u64,
    calls: u64,
    cpu_ns: Vec<u64>,
}

impl Window {
    pub(crate) fn new(order: Order) -> Window {
        Window { order, calls: 0, latencies_ns: Vec::new(), start: None, end: None }
    }

    /// So many calls have ended.
    pub(crate) fn count(&mut self, calls: u64) {
        self.calls += calls;
    }

    /// How long one call took that ended just now.
    pub(crate) fn record(&mut self, latency_ns: u64) {
        if self.start.is_some() && self.end.is_none() {
            self.latencies_ns.push(latency_ns);
        }
    }

    /// Notes the ends of the span as they pass. True when it is over: no further call is to be made.
    pub(crate) fn is_over(&mut self, now_ns: u64) -> bool {
        if self.start.is_none() && now_ns >= self.order.start_ns {
            self.start = Some(self.edge());
        }
        let is_enough = self.start.as_ref().is_some_and(|start| self.calls - start.calls >= CALLS_MIN);
        if self.end.is_none() && now_ns >= self.order.end_ns && is_enough {
            self.end = Some(self.edge());
        }
        self.end.is_some()
    }

    /// Once it is over.
    pub(crate) fn report(mut self) -> Report {
        let (Some(start), Some(end)) = (self.start, self.end) else { unreachable!("the span is over") };
        self.latencies_ns.sort_unstable();
        let percentile = |percent: usize| {
            let last = self.latencies_ns.len().saturating_sub(1);
            self.latencies_ns.get((last * percent).div_ceil(100)).copied().unwrap_or(0)
        };
        Report {
            calls: end.calls - start.calls,
            span_ns: end.at_ns - start.at_ns,
            p50_ns: percentile(50),
            p99_ns: percentile(99),
            cpu_ns: end.cpu_ns.iter().zip(&start.cpu_ns).map(|(end, start)| end.saturating_sub(*start)).collect(),
        }
    }

    fn edge(&self) -> Edge {
        let cpu_ns = self.order.watched.iter().map(|&id| cpu_ns(id).unwrap_or(0)).collect();
        Edge { at_ns: clock_ns(), calls: self.calls, cpu_ns }
    }
}

/// One line to whoever started this process.
pub(crate) fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// The monotonic clock, the same for every process.
pub(crate) fn clock_ns() -> u64 {
    clock_ns_of(ClockId::Monotonic)
}

/// A clock that is never negative.
pub(crate) fn clock_ns_of(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    let part = |part: i64| u64::try_from(part).expect("such a clock is not negative");
    part(now.tv_sec) * 1_000_000_000 + part(now.tv_nsec)
}

/// How long the threads of a process have run, those that have ended not included.
pub(crate) fn cpu_ns(process: u32) -> io::Result<u64> {
    let mut sum_ns = 0;
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        sum_ns +=
            text.split(' ').next().and_then(|first| first.parse::<u64>().ok()).ok_or(io::ErrorKind::InvalidData)?;
    }
    Ok(sum_ns)
}
