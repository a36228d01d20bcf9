//! Lanes to other clients: offered by the gateway, opened by the driver, used instead of the gateway, and left in good order.
//!
//! A lane is a connection without a gateway at its other end: it has a [`ConnId`], takes and gives bytes like the others, and ends calls and
//! requests when it is lost. Its place follows those of the pool. It outlives the gateway.
//!
//! Leaving: who wants to leave makes no more calls on the lane and says DRAIN there. The other end then does the same. An end closes when both
//! have said so and nothing is left that was begun on the lane, so that no call is lost or made twice.

use crate::conns::{ConnId, ConnState};
use crate::event::{Origin, Output};
use crate::session::Session;
use bro_proto::error::{ErrorBody, ErrorCode};
use bro_proto::time::Now;
use bro_proto::v2::lane::{CloseLane, LaneStats, Offer};
use bro_proto::v2::{self, FrameKind};
use std::sync::Arc;

/// One end of a lane.
#[derive(Debug)]
pub(crate) struct LaneEnd {
    /// Names the lane for the gateway.
    pub(crate) number: u64,
    /// Who is at the other end.
    pub(crate) service: Arc<str>,
    /// The connection whose gateway knows of it.
    pub(crate) via: ConnId,
    /// DRAIN was said by this end, by the other end.
    is_leaving: bool,
    is_other_leaving: bool,
    /// Calls and requests on the lane that have not ended.
    in_flight: usize,
    /// Done here so far, and how much of it the gateway knows.
    stats: LaneStats,
    told: LaneStats,
}

/// The lanes by the services that can be called on them. Few, and mostly one: to look at each costs less than a hash.
#[derive(Debug, Default)]
pub(crate) struct LanesByService(Vec<(Arc<str>, ConnId)>);

impl LanesByService {
    pub(crate) fn insert(&mut self, service: Arc<str>, id: ConnId) {
        self.0.retain(|(known, _)| *known != service);
        self.0.push((service, id));
    }

    #[inline]
    pub(crate) fn get(&self, service: &str) -> Option<ConnId> {
        self.0.iter().find(|(known, _)| **known == *service).map(|(_, id)| *id)
    }

    pub(crate) fn remove(&mut self, id: ConnId) {
        self.0.retain(|(_, known)| *known != id);
    }
}

/// Inputs of the driver.
impl Session {
    /// The driver has opened a lane.
    pub fn handle_lane_opened(&mut self, id: ConnId, now: Now) {
        self.now = now;
        let Some(conn) = self.pool.find(id) else {
            // It was given up before the driver heard of it: nobody else closes what has just been opened.
            return self.outputs.push_back(Output::Close { conn: id, unsent: Vec::new() });
        };
        if conn.state != ConnState::Connecting {
            return;
        }
        conn.state = ConnState::Registering;
        self.tell_of_lane(id, now);
    }

    /// The driver could not open a lane: calls go on through the gateway.
    pub fn handle_lane_failed(&mut self, id: ConnId, now: Now) {
        self.now = now;
        if self.pool.find(id).is_some_and(|conn| conn.state == ConnState::Connecting) {
            self.forget_lane(id, now);
        }
    }
}

impl Session {
    /// LANE_OFFER: every one makes the driver take its descriptors off the connection, wanted or not.
    pub(crate) fn handle_lane_offer(&mut self, via: ConnId, number: u64, payload: &[u8], now: Now) {
        let Some(offer) = Offer::parse(payload) else {
            self.outputs.push_back(Output::LaneOffered { lane: None, via, is_first: false });
            return self.break_off(via, "a LANE_OFFER that makes no sense", now);
        };
        let is_wanted = self.config.takes_lanes
            && offer.service != self.config.service_name
            && !self.drain.is_begun()
            && !self.pool.has_lane_to(offer.service);
        let lane = if is_wanted { self.pool.add_lane(number, offer.service, via) } else { None };
        self.outputs.push_back(Output::LaneOffered { lane, via, is_first: offer.is_first });
        if lane.is_none() {
            self.say_of_lane(via, FrameKind::LaneClose, number, now);
        }
    }

    /// LANE_READY: the lane is open at both ends.
    pub(crate) fn handle_lane_ready(&mut self, number: u64) {
        let Some(id) = self.pool.find_lane(number) else { return };
        let conn = self.pool.at(id.index as usize);
        if conn.state == ConnState::Registering {
            conn.state = ConnState::Registered;
            let service = conn.lane.as_ref().expect("a lane").service.clone();
            self.pool.lanes_by_service.insert(service, id);
            self.counters.lanes_opened += 1;
        }
    }

    /// LANE_CLOSE: the lane is not to be used any more.
    pub(crate) fn handle_lane_close(&mut self, number: u64, why: CloseLane, now: Now) {
        let Some(id) = self.pool.find_lane(number) else { return };
        let conn = self.pool.at(id.index as usize);
        if why == CloseLane::Gone && conn.state != ConnState::Registered {
            // It was never used. What the driver has opened it has to close: nobody else does while the other end holds its own.
            if conn.is_open() {
                self.outputs.push_back(Output::Close { conn: id, unsent: Vec::new() });
            }
            return self.forget_lane(id, now);
        }
        self.leave_lane(id, now);
    }

    /// DRAIN on a lane: the other end makes no more calls.
    pub(crate) fn handle_lane_drain(&mut self, id: ConnId, now: Now) {
        let Some(lane) = self.pool.lane(id) else { return };
        lane.is_other_leaving = true;
        self.leave_lane(id, now);
        self.finish_lane(id, now);
    }

    /// Makes no more calls on a lane, and closes it when nothing is left on it.
    pub(crate) fn leave_lane(&mut self, id: ConnId, now: Now) {
        self.pool.unlist_lane(id);
        let Some(conn) = self.pool.open(id) else { return self.forget_lane(id, now) };
        let Some(lane) = &mut conn.lane else { return };
        if std::mem::replace(&mut lane.is_leaving, true) {
            return;
        }
        conn.outbound.extend(|out| v2::encode::bare(out, FrameKind::Drain, 0));
        self.queued(id, now);
    }

    /// Something that was on a lane has ended.
    pub(crate) fn lane_released(&mut self, id: ConnId) {
        if let Some(lane) = self.pool.lane(id) {
            lane.in_flight -= 1;
        }
    }

    /// Something was begun on a lane.
    pub(crate) fn lane_taken(&mut self, id: ConnId) {
        if let Some(lane) = self.pool.lane(id) {
            lane.in_flight += 1;
        }
    }

    /// A call that was made on a lane has ended.
    pub(crate) fn count_lane_call(&mut self, id: ConnId, is_error: bool) {
        if let Some(lane) = self.pool.lane(id) {
            lane.stats.calls += 1;
            lane.stats.errors += u64::from(is_error);
        }
    }

    /// Closes the lanes that both ends have left and that nothing is left on. Bytes that wait are written first.
    pub(crate) fn finish_lanes(&mut self) {
        if !self.pool.is_leaving_any {
            return;
        }
        let leaving = self.pool.leaving_lanes();
        self.pool.is_leaving_any = !leaving.is_empty();
        for id in leaving {
            self.finish_lane(id, self.now);
        }
    }

    fn finish_lane(&mut self, id: ConnId, now: Now) {
        let Some(conn) = self.pool.open(id) else { return };
        let Some(lane) = &conn.lane else { return };
        if lane.is_leaving && lane.is_other_leaving && lane.in_flight == 0 {
            let unsent = conn.outbound.take_rest();
            self.outputs.push_back(Output::Close { conn: id, unsent });
            self.forget_lane(id, now);
        }
    }

    /// A lane has come to its end: what was on it fails. `by_us` when the driver has to close it.
    pub(crate) fn lose_lane(&mut self, id: ConnId, by_us: bool, error: &ErrorBody, now: Now) {
        let Some(conn) = self.pool.find(id).filter(|conn| conn.is_live()) else { return };
        // Both had left: that the other end closes first is how it should be.
        let is_clean = conn.lane.as_ref().is_some_and(|lane| lane.is_leaving && lane.in_flight == 0);
        let number = conn.lane.as_ref().map(|lane| (lane.via, lane.number));
        if by_us {
            self.outputs.push_back(Output::Close { conn: id, unsent: Vec::new() });
        }
        self.pool.unlist_lane(id);
        for call in self.calls.select(Some(id)) {
            let lost = ErrorBody::new(ErrorCode::ConnectionLost, format!("on the lane: {}", error.message));
            self.end_call(call, Err(lost), Origin::Local);
        }
        self.drop_requests(id);
        self.forget_lane(id, now);
        if !is_clean {
            self.counters.lanes_lost += 1;
        }
        if let Some((via, number)) = number {
            self.say_of_lane(via, FrameKind::LaneClose, number, now);
        }
    }

    /// Tells the gateway of a connection of every lane that it may not know: it is new, or the connection is.
    pub(crate) fn tell_of_lanes(&mut self, via: ConnId, now: Now) {
        for id in self.pool.open_lanes() {
            let known_via = self.pool.lane(id).map(|lane| lane.via);
            if known_via.is_some_and(|known| known != via && self.pool.open(known).is_none()) {
                if let Some(lane) = self.pool.lane(id) {
                    lane.via = via;
                    lane.told = lane.stats;
                }
                self.tell_of_lane(id, now);
            }
        }
    }

    /// Tells the gateway what was done on the lanes since it was last told.
    pub(crate) fn send_lane_stats(&mut self, now: Now) {
        for id in self.pool.open_lanes() {
            let conn = self.pool.at(id.index as usize);
            let bytes = conn.outbound.taken();
            let Some(lane) = &mut conn.lane else { continue };
            lane.stats.bytes = bytes;
            if lane.stats == lane.told {
                continue;
            }
            lane.told = lane.stats;
            let (via, number, stats) = (lane.via, lane.number, lane.stats);
            if let Some(conn) = self.pool.open(via).filter(|conn| conn.v2.is_some()) {
                conn.outbound.extend(|out| stats.write(out, number));
                self.queued_unasked(via, now);
            }
        }
    }

    /// Gives all lanes up, for a client that disconnects.
    pub(crate) fn close_lanes(&mut self) {
        for id in self.pool.live_lanes() {
            let conn = self.pool.at(id.index as usize);
            let is_open = conn.is_open();
            let unsent = conn.outbound.take_rest();
            let stall = conn.stall.take();
            if let Some((timer, _)) = stall {
                self.timers.remove(timer);
            }
            self.pool.unlist_lane(id);
            self.pool.remove_lane(id);
            if is_open {
                self.outputs.push_back(Output::Close { conn: id, unsent });
            }
        }
    }

    fn forget_lane(&mut self, id: ConnId, now: Now) {
        let Some(conn) = self.pool.find(id) else { return };
        let was_used = conn.state == ConnState::Registered;
        let Some(lane) = &conn.lane else { return };
        let (via, number) = (lane.via, lane.number);
        if let Some((timer, _)) = conn.stall.take() {
            self.timers.remove(timer);
        }
        self.pool.unlist_lane(id);
        self.pool.remove_lane(id);
        if !was_used {
            self.say_of_lane(via, FrameKind::LaneClose, number, now);
        }
    }

    fn tell_of_lane(&mut self, id: ConnId, now: Now) {
        let Some(lane) = self.pool.lane(id) else { return };
        let (via, number) = (lane.via, lane.number);
        self.say_of_lane(via, FrameKind::LaneReady, number, now);
    }

    fn say_of_lane(&mut self, via: ConnId, kind: FrameKind, number: u64, now: Now) {
        if let Some(conn) = self.pool.open(via).filter(|conn| conn.v2.is_some()) {
            conn.outbound.extend(|out| v2::encode::bare(out, kind, number));
            self.queued_unasked(via, now);
        }
    }
}

impl LaneEnd {
    pub(crate) fn new(number: u64, service: &str, via: ConnId) -> Self {
        Self {
            number,
            service: service.into(),
            via,
            is_leaving: false,
            is_other_leaving: false,
            in_flight: 0,
            stats: LaneStats::default(),
            told: LaneStats::default(),
        }
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.is_leaving
    }
}
