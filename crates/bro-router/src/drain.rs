//! The end of a gateway: no new calls, then no calls, then no connections.

use crate::ends::Ends;
use crate::event::CloseReason;
use crate::outbox::Outbox;
use crate::router::Router;
use crate::timers::Timer;
use bro_proto::Now;
use bro_proto::timer::TimerId;
use bro_proto::v2::FrameKind;

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    /// New calls and registrations are refused; calls in flight may finish until the timer fires.
    Draining(TimerId),
    /// Every connection is closed, and no other will be accepted.
    Ended,
}

impl Router {
    /// Begins to end. From now on new connections, registrations and calls are refused with `SHUTTING_DOWN`. When no call
    /// is in flight and every queue is empty, or after `timeout_ms`, all connections are closed; calls that are still in
    /// flight then are answered with `CONNECTION_LOST` first.
    pub fn begin_drain(&mut self, timeout_ms: u64, now: Now, out: &mut impl Outbox) {
        if self.phase != Phase::Running {
            return;
        }
        let timer = self.timers.insert(now.mono_ms().saturating_add(timeout_ms), Timer::Drain);
        self.phase = Phase::Draining(timer);
        self.dismiss_parked(now, out);
        let told: Vec<u32> = self.peers.live().filter(|&slot| self.peers[slot].v2.is_some()).collect();
        for slot in told {
            self.send_bare(slot, FrameKind::Drain, 0, now, out);
        }
        self.settle(now, out);
    }

    /// Whether the end has begun.
    pub fn is_draining(&self) -> bool {
        self.phase != Phase::Running
    }

    /// Whether the end has come: every connection is closed.
    pub fn is_drained(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// Closes everything at once; calls in flight are answered with `CONNECTION_LOST` first.
    pub fn stop(&mut self, now: Now, out: &mut impl Outbox) {
        if self.phase != Phase::Ended {
            self.dismiss_parked(now, out);
            self.close_all(now, out);
            self.settle(now, out);
        }
    }

    pub(crate) fn end_drain(&mut self, now: Now, out: &mut impl Outbox) {
        self.close_all(now, out);
    }

    pub(crate) fn is_drain_done(&self) -> bool {
        matches!(self.phase, Phase::Draining(_)) && self.calls.len() == 0 && self.peers.queued_bytes() == 0
    }

    pub(crate) fn close_all(&mut self, now: Now, out: &mut impl Outbox) {
        if let Phase::Draining(timer) = self.phase {
            self.timers.remove(timer);
        }
        self.phase = Phase::Ended;
        // Nobody is there any more who could be served in between.
        self.carry_out_all_ends(now, out);
        let in_flight: Vec<u32> = self.calls.iter().map(|(index, _)| index).collect();
        for index in in_flight {
            self.lose_call(index, "the gateway is stopping", now, out);
        }
        let live: Vec<u32> = self.peers.live().collect();
        for slot in live {
            self.close_peer(slot, CloseReason::Stopping, None, now, out);
        }
        self.ends = Ends::new(self.config.ends_per_input_max);
        self.reporter.is_log_fresh = false;
    }
}
