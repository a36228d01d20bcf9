//! Leaving without dropping a call: no new requests, and an end when those in work are answered.

use crate::conns::{ConnId, ConnState};
use crate::event::{Output, SessionEvent};
use crate::session::{Session, Timer, later_ms};
use bro_proto::limits::CLIENT_DRAIN_TIMEOUT_MS;
use bro_proto::time::Now;
use bro_proto::timer::TimerId;
use bro_proto::v2::{self, FrameKind};

/// The id of the PING that follows a DRAIN. What the gateway sent us before it knew arrives before the PONG.
const DRAIN_PING: u64 = 1;

#[derive(Debug, Default)]
pub(crate) struct Drain {
    /// From `drain` to `disconnect`: connections that are made meanwhile are told.
    is_begun: bool,
    /// Ends a drain that is waited for.
    timer: Option<TimerId>,
    /// The gateway has said that it drains, and the driver knows.
    is_gateways_told: bool,
}

impl Drain {
    pub(crate) fn is_begun(&self) -> bool {
        self.is_begun
    }
}

impl Session {
    /// Asks the gateway to send no more requests, and tells by [`SessionEvent::Drained`] when none is in work any more. Requests
    /// that arrive meanwhile are worked on; calls of this client's own go on. Meant to be followed by [`Session::disconnect`], which
    /// also takes it back.
    ///
    /// Gateways of version 1 cannot be asked: there the event tells only that no request is in work at the moment.
    /// Calls of `drain` that overlap end together, after [`CLIENT_DRAIN_TIMEOUT_MS`] in any case.
    pub fn drain(&mut self, now: Now) {
        self.now = now;
        if self.drain.timer.is_some() {
            return;
        }
        self.drain.is_begun = true;
        self.drain.timer = Some(self.timers.insert(later_ms(now, CLIENT_DRAIN_TIMEOUT_MS), Timer::Drain));
        for lane in self.pool.live_lanes() {
            self.leave_lane(lane, now);
        }
        for index in 0..self.pool.len() {
            let conn = self.pool.at(index);
            if conn.state == ConnState::Registered {
                let id = conn.id;
                self.send_drain(id, now);
            }
        }
    }

    /// Tells the gateway on a connection, if the client drains.
    pub(crate) fn send_drain(&mut self, id: ConnId, now: Now) {
        if !self.drain.is_begun {
            return;
        }
        let Some(conn) = self.pool.open(id) else { return };
        let Some(link) = &mut conn.v2 else { return };
        link.drain_unanswered = true;
        conn.outbound.extend(|out| {
            v2::encode::bare(out, FrameKind::Drain, 0);
            v2::encode::bare(out, FrameKind::Ping, DRAIN_PING);
        });
        self.queued_unasked(id, now);
    }

    pub(crate) fn handle_pong(&mut self, conn: ConnId, id: u64) {
        if id == DRAIN_PING
            && let Some(link) = self.pool.link(conn)
        {
            link.drain_unanswered = false;
        }
    }

    /// The end of a drain that is waited for, if it has come.
    pub(crate) fn poll_drained(&mut self) -> Option<Output> {
        self.drain.timer?;
        let is_done = self.requests.len() == 0
            && self.pool.iter().all(|conn| conn.v2.as_ref().is_none_or(|link| !link.drain_unanswered));
        if !is_done {
            return None;
        }
        if let Some(timer) = self.drain.timer.take() {
            self.timers.remove(timer);
        }
        Some(Output::Event(SessionEvent::Drained { in_work: 0 }))
    }

    pub(crate) fn expire_drain(&mut self) {
        self.drain.timer = None;
        self.tell(SessionEvent::Drained { in_work: self.requests.len() });
    }

    /// The client disconnects: it may come back as if nothing had been.
    pub(crate) fn end_drain(&mut self) {
        self.drain.is_begun = false;
        if let Some(timer) = self.drain.timer.take() {
            self.timers.remove(timer);
            self.tell(SessionEvent::Drained { in_work: self.requests.len() });
        }
    }

    /// Told once, on whichever connections of the pool the gateway says it.
    pub(crate) fn handle_gateway_drain(&mut self) {
        if !std::mem::replace(&mut self.drain.is_gateways_told, true) {
            self.tell(SessionEvent::GatewayDraining);
        }
    }

    /// A connection was registered: its gateway does not drain so far.
    pub(crate) fn forget_gateway_drain(&mut self) {
        self.drain.is_gateways_told = false;
    }
}
