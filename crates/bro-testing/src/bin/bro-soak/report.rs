//! What a caller counts, and tells the soak line by line.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

/// How often a caller tells what it has counted.
pub(crate) const REPORT_INTERVAL: Duration = Duration::from_millis(50);

/// How often every process gives a sign of life.
pub(crate) const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(150);

/// Counts of one caller since its start.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Calls that began.
    pub(crate) started: u64,
    /// Calls that succeeded.
    pub(crate) ok: u64,
    /// Calls that failed, by code.
    pub(crate) failed: BTreeMap<String, u64>,
    /// Those of the failed whose code does not fit the call.
    pub(crate) unfit: BTreeMap<String, u64>,
    /// Those of the successful whose answer belongs to another call.
    pub(crate) wrong_answers: u64,
    /// Answers to calls that had ended.
    pub(crate) answered_twice: u64,
    /// Calls that had not ended long after their deadline.
    pub(crate) hung: u64,
    /// The longest time that an ordinary call took, in milliseconds.
    pub(crate) slowest_ms: u64,
    /// Registrations that were refused and tried again.
    pub(crate) refused_registrations: u64,
    /// Whether the caller has waited for all of its calls, and makes no more.
    pub(crate) is_final: bool,
}

impl Report {
    /// Calls that ended.
    pub(crate) fn ended(&self) -> u64 {
        self.ok + self.failed.values().sum::<u64>()
    }

    /// Adds the counts of another caller.
    pub(crate) fn add(&mut self, other: &Report) {
        self.started += other.started;
        self.ok += other.ok;
        for (sum, part) in [(&mut self.failed, &other.failed), (&mut self.unfit, &other.unfit)] {
            for (code, count) in part {
                *sum.entry(code.clone()).or_default() += count;
            }
        }
        self.wrong_answers += other.wrong_answers;
        self.answered_twice += other.answered_twice;
        self.hung += other.hung;
        self.slowest_ms = self.slowest_ms.max(other.slowest_ms);
        self.refused_registrations += other.refused_registrations;
    }

    /// Notes how long an ordinary call took.
    pub(crate) fn note_duration(&mut self, duration: Duration) {
        self.slowest_ms = self.slowest_ms.max(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
    }

    /// Tells it to the soak, as one line.
    pub(crate) fn tell(&self) {
        let line = serde_json::to_string(self).expect("a report has a JSON form");
        // The soak may be gone; then nobody is interested.
        let _ = writeln!(std::io::stdout(), "{line}");
    }
}
