//! How connections end, and what ends with them.

use crate::drain::Phase;
use crate::event::{CloseReason, Event, EventMask};
use crate::outbox::{Outbox, Part};
use crate::peers::NIL;
use crate::router::Router;
use bro_proto::v1::encode::encode_error;
use bro_proto::{ErrorBody, ErrorCode, Now};

impl Router {
    /// Ends a connection: its own calls are forgotten, the calls that it worked on fail, and its service goes when it was
    /// the last instance. Afterwards nothing refers to the peer but calls that are about to end, see [`crate::ends`].
    pub(crate) fn close_peer(
        &mut self,
        slot: u32,
        reason: CloseReason,
        error: Option<&ErrorBody>,
        now: Now,
        out: &mut impl Outbox,
    ) {
        if let Some(error) = error {
            self.send_last_error(slot, error, now, out);
        }
        // From here on nothing is sent to it.
        self.peers[slot].is_doomed = true;
        let peer = self.peers.id(slot);
        if reason != CloseReason::Gone {
            self.counters.connections_dropped += 1;
            out.close(peer, reason);
        }
        self.depart(slot, reason, now, out);
        self.abandon_parked(slot);
        self.close_lanes_of(slot, reason, now, out);
        let service = self.peers[slot].service;
        if service == NIL {
            if self.reporter.wants(EventMask::CONNECTIONS) {
                self.reporter.report(Event::Closed { peer, service: None, reason }, now, out);
            }
        } else if let Some(last) = self.registry.leave(&mut self.peers, slot) {
            self.timers.remove(last.liveness_timer);
            if self.reporter.wants(EventMask::SERVICES) {
                self.reporter.report(Event::ServiceDisconnected { service: &last.name, reason }, now, out);
            }
            if self.reporter.wants(EventMask::CONNECTIONS) {
                self.reporter.report(Event::Closed { peer, service: Some(&last.name), reason }, now, out);
            }
        } else if self.reporter.wants(EventMask::CONNECTIONS) {
            let name = Some(&*self.registry[service].name);
            self.reporter.report(Event::Closed { peer, service: name, reason }, now, out);
        }
        self.peers.remove(slot, &mut self.timers);
    }

    /// Carries out what the present input has brought about, which most often is nothing. Every input ends with it.
    #[inline]
    pub(crate) fn settle(&mut self, now: Now, out: &mut impl Outbox) {
        let is_settled = self.peers.doomed.is_empty() & !self.reporter.is_log_fresh & (self.lanes.len() == 0);
        if !is_settled || self.phase != Phase::Running {
            self.carry_out(now, out);
        }
    }

    #[inline(never)]
    fn carry_out(&mut self, now: Now, out: &mut impl Outbox) {
        self.revoke_unwanted_lanes(now, out);
        loop {
            if let Some((slot, reason)) = self.peers.doomed.pop() {
                if self.peers.is_live(slot) {
                    self.close_doomed(slot, reason, now, out);
                }
                if self.peers.doomed.is_empty() {
                    self.peers.doomed_bytes = 0;
                }
            } else if self.reporter.is_log_fresh {
                self.reporter.is_log_fresh = false;
                self.answer_watchers(now, out);
            } else if self.is_drain_done() {
                self.close_all(now, out);
            } else {
                return;
            }
        }
    }

    fn close_doomed(&mut self, slot: u32, reason: CloseReason, now: Now, out: &mut impl Outbox) {
        let bytes = self.peers[slot].queued_bytes;
        if reason != CloseReason::Exhausted {
            self.warn(slot, &format!("left {bytes} queued bytes unread, which is the most"), now, out);
            return self.close_peer(slot, reason, None, now, out);
        }
        self.counters.peers_evicted += 1;
        let held = self.peers.held_bytes(slot);
        let message = format!(
            "the gateway's memory is used up, and this connection held {held} bytes of it: finish frames, and read what is sent"
        );
        self.warn(slot, &message, now, out);
        // Who has not read for long does not read this either.
        let error = ErrorBody::new(ErrorCode::ResourceExhausted, message);
        self.peers.keep(slot, 0, now);
        self.peers[slot].is_doomed = bytes > 0;
        self.close_peer(slot, reason, Some(&error), now, out);
    }

    /// Drops a service that has shown no sign of life, with all its connections.
    pub(crate) fn drop_silent(&mut self, index: u32, patience_ms: u64, now: Now, out: &mut impl Outbox) {
        let message = format!("silent for {patience_ms} ms: send a HEARTBEAT every {} ms", patience_ms / 3);
        let error = ErrorBody::new(ErrorCode::Timeout, message);
        for _ in 0..self.registry[index].instances_len {
            let Some(slot) = self.registry.ring(&self.peers, index).next() else { break };
            self.warn(slot, &error.message, now, out);
            self.close_peer(slot, CloseReason::Silent, Some(&error), now, out);
        }
    }

    /// Sends an ERROR frame that is about the connection, not about a call.
    pub(crate) fn send_error(&mut self, slot: u32, error: &ErrorBody, now: Now, out: &mut impl Outbox) {
        let frame = self.error_frame(slot, error, now);
        let parts = [Part::Scratch(&frame)];
        self.peers.send(slot, &parts, now, &mut self.timers, &mut self.counters, out);
        self.keep_scratch(frame);
    }

    /// Sends the ERROR frame that says why the connection is about to be closed.
    fn send_last_error(&mut self, slot: u32, error: &ErrorBody, now: Now, out: &mut impl Outbox) {
        let frame = self.error_frame(slot, error, now);
        let parts = [Part::Scratch(&frame)];
        self.peers.send_unpaused(slot, &parts, now, &mut self.timers, &mut self.counters, out);
        self.keep_scratch(frame);
    }

    fn error_frame(&mut self, slot: u32, error: &ErrorBody, now: Now) -> Vec<u8> {
        let mut frame = std::mem::take(&mut self.scratch);
        encode_error(&mut frame, self.peers[slot].encoding, None, error, now.wall_ms);
        frame
    }

    /// Tells who listens that a peer misbehaves or has reached a limit.
    pub(crate) fn warn(&mut self, slot: u32, message: &str, now: Now, out: &mut impl Outbox) {
        if !self.reporter.wants(EventMask::WARNINGS) {
            return;
        }
        let service = match self.peers[slot].service {
            NIL => None,
            service => Some(&*self.registry[service].name),
        };
        let event = Event::Warning { peer: Some(self.peers.id(slot)), service, message };
        self.reporter.report(event, now, out);
    }

    /// Puts the scratch buffer back, unless it has grown large.
    pub(crate) fn keep_scratch(&mut self, mut scratch: Vec<u8>) {
        const KEPT_BYTES_MAX: usize = 256 * 1024;
        if scratch.capacity() <= KEPT_BYTES_MAX {
            scratch.clear();
            self.scratch = scratch;
        }
    }

    /// Ends a call whose callee is lost.
    pub(crate) fn lose_call(&mut self, index: u32, why: &str, now: Now, out: &mut impl Outbox) {
        let call = &self.calls[index];
        let (callee, method) = (self.name_of(call.callee()), call.method());
        let message = format!(
            "{callee}.{method}: the connection that worked on it was lost ({why}); whether it was carried out is unknown"
        );
        self.counters.calls_lost += 1;
        self.fail_call(index, &ErrorBody::new(ErrorCode::ConnectionLost, message), now, out);
    }
}
