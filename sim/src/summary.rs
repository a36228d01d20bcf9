//! What a run did, or what it found.

use crate::fault::Fault;
use std::collections::BTreeMap;
use std::fmt;

/// The router did what it must not, or did not what it must.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The seed of the run.
    pub seed: u64,
    /// The step at which it came out.
    pub step: u64,
    /// The deliberate defect of the run.
    pub fault: Fault,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { seed, step, fault, what } = self;
        write!(
            f,
            "seed {seed}, step {step}: {what}\nrepeat it: cargo run --release -p bro-sim -- --seed {seed} --steps {}",
            step + 1
        )?;
        if *fault != Fault::None {
            write!(f, " --fault {}", fault.as_str())?;
        }
        Ok(())
    }
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Steps taken.
    pub steps: u64,
    /// Inputs given to the router.
    pub inputs: u64,
    /// What the router counted.
    pub counters: bro_router::Counters,
    /// How often each error code was told, and each reason of a close was given.
    pub seen: BTreeMap<String, u64>,
}

impl Summary {
    /// Both runs together, as far as they can be added up.
    pub fn add(&mut self, other: &Summary) {
        self.steps += other.steps;
        self.inputs += other.inputs;
        for (what, count) in &other.seen {
            *self.seen.entry(what.clone()).or_default() += count;
        }
        let (sum, more) = (&mut self.counters, &other.counters);
        sum.calls_routed += more.calls_routed;
        sum.calls_refused += more.calls_refused;
        sum.responses_routed += more.responses_routed;
        sum.responses_dropped += more.responses_dropped;
        sum.calls_timed_out += more.calls_timed_out;
        sum.calls_lost += more.calls_lost;
        sum.calls_abandoned += more.calls_abandoned;
        sum.calls_cancelled += more.calls_cancelled;
        sum.notifications_routed += more.notifications_routed;
        sum.notifications_dropped += more.notifications_dropped;
        sum.registrations += more.registrations;
        sum.connections += more.connections;
        sum.connections_dropped += more.connections_dropped;
        sum.malformed += more.malformed;
        sum.registrations_refused += more.registrations_refused;
        sum.frames_in += more.frames_in;
        sum.bytes_in += more.bytes_in;
        sum.frames_out += more.frames_out;
        sum.bytes_out += more.bytes_out;
        sum.calls_introspection += more.calls_introspection;
        sum.heartbeats += more.heartbeats;
        sum.frames_ignored += more.frames_ignored;
        sum.lanes_offered += more.lanes_offered;
        sum.lanes_opened += more.lanes_opened;
        sum.lanes_failed += more.lanes_failed;
    }
}
