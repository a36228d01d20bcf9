//! Lanes as an outsider knows them: who must be offered one and who must not, who has to be told what, and when they have to go.

use crate::model::{Flight, Phase, World};
use crate::network::Order;
use crate::traffic::Planned;
use crate::verdict::Input;
use crate::wire_v2::{self, Body, Frame};
use bro_proto::limits::{
    LANE_BUSY_WINDOW_MS, LANE_BYTES, LANE_OPEN_TIMEOUT_MS, LANE_RETRY_MS, LANES_MAX, LANES_PER_PEER_MAX, WATCH_LEASE_MS,
};
use bro_router::{EventMask, LaneOffer, LanePolicy, PeerId};
use std::collections::{BTreeMap, BTreeSet};

/// The other end, or the lane, is gone.
const GONE: u8 = 0;
/// The gateway takes the lane back.
const REVOKED: u8 = 1;
/// So many callees of one caller the router surely remembers.
const REMEMBERED: usize = 4;

/// One lane that the gateway has to know.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    ends: [Option<PeerId>; 2],
    is_ready: [bool; 2],
    is_open: bool,
    /// When an offer that is not taken has to be withdrawn; `None` for a lane that its ends told of.
    expires_ms: Option<u64>,
    told: [[u64; 3]; 2],
}

/// How often one peer called another lately.
#[derive(Clone, Copy, Debug)]
struct Busy {
    since_ms: u64,
    calls: u32,
}

/// What the calls of one peer make likely.
#[derive(Debug, Default)]
struct Caller {
    busy: BTreeMap<PeerId, Busy>,
    /// It has called more peers than the router remembers, or was perhaps watched: what is counted for it is not known exactly.
    is_vague: bool,
}

/// Everything about lanes.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    pub(crate) open: BTreeMap<u64, Lane>,
    /// Numbers that were given to lanes here, or told of.
    used: BTreeSet<u64>,
    /// Numbers of lanes of an earlier gateway.
    pub(crate) recalled: Vec<u64>,
    callers: BTreeMap<PeerId, Caller>,
    /// What has to be said because of the input being judged: to whom, which kind, of which lane, why.
    due: Vec<(PeerId, u8, u64, Option<u8>)>,
    /// Until when somebody surely watches single calls, and until when perhaps.
    sure_until_ms: u64,
    perhaps_until_ms: u64,
    /// Whether the driver watches single calls.
    is_driver_watching: bool,
    /// Calls, errors, bytes, as peers tell.
    pub(crate) totals: [u64; 3],
    /// The present input is a call that has to lead to an offer; or one that may.
    must_offer: bool,
    may_offer: bool,
}

impl Lanes {
    /// What clients remember of the lanes of this gateway when it is gone.
    pub(crate) fn recall(&self) -> Vec<u64> {
        self.open.keys().copied().take(6).collect()
    }

    /// Whether there is a lane of which both ends have told.
    pub(crate) fn are_shared(&self) -> bool {
        self.open.values().any(|lane| lane.ends.iter().all(Option::is_some))
    }

    /// A number that was used before.
    pub(crate) fn any_used(&self) -> Option<u64> {
        self.used.iter().find(|number| !self.open.contains_key(number)).copied()
    }

    /// How many lanes a user pays for, whose peers `is_of` knows.
    pub(crate) fn paid_by(&self, is_of: impl Fn(PeerId) -> bool) -> usize {
        self.open.values().filter(|lane| lane.ends[0].is_some_and(&is_of)).count()
    }

    fn of(&self, peer: PeerId) -> usize {
        self.open.values().filter(|lane| lane.ends.contains(&Some(peer))).count()
    }

    fn owe(&mut self, peer: Option<PeerId>, kind: u8, number: u64, why: Option<u8>) {
        self.due.extend(peer.map(|peer| (peer, kind, number, why)));
    }
}

impl World {
    fn is_surely_watched(&self) -> bool {
        self.lanes.is_driver_watching || self.now.mono_ms() < self.lanes.sure_until_ms
    }

    fn is_perhaps_watched(&self) -> bool {
        self.lanes.is_driver_watching || self.now.mono_ms() <= self.lanes.perhaps_until_ms
    }

    /// What an input changes about lanes, before its outputs are judged.
    pub(crate) fn take_in_lanes(&mut self, input: &Input<'_>, orders: &[Order], events: EventMask) {
        self.lanes.is_driver_watching = events.has(EventMask::CALLS) || events.has(EventMask::RESPONSES);
        self.note_watchers(input);
        match input {
            Input::Time => {
                let now_ms = self.now.mono_ms();
                let is_late =
                    |(_, lane): &(&u64, &Lane)| !lane.is_open && lane.expires_ms.is_some_and(|at| at <= now_ms);
                let late: Vec<u64> = self.lanes.open.iter().filter(is_late).map(|(number, _)| *number).collect();
                for number in late {
                    self.saw("lane not taken");
                    self.close_lane(number, None, GONE);
                }
            }
            Input::OfferFailed(number) => self.close_lane(*number, None, GONE),
            Input::Policy => self.take_forbidden_lanes(),
            Input::Frame(peer, Planned::V2(frame, _)) if self.connections[peer].speaks_v2 => {
                let payload = match &frame.body {
                    Body::Other(payload) => payload.as_slice(),
                    _ => &[],
                };
                match frame.kind {
                    wire_v2::LANE_READY => self.lane_ready(*peer, frame.id, orders),
                    wire_v2::LANE_CLOSE if self.lane_has(frame.id, *peer) => {
                        self.saw("lane closed by a peer");
                        self.close_lane(frame.id, Some(*peer), GONE);
                    }
                    wire_v2::STATS => self.lane_stats(*peer, frame.id, payload),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    /// Who asks for events watches for a while, and as long as it waits for them.
    fn note_watchers(&mut self, input: &Input<'_>) {
        let until_ms = self.now.mono_ms() + WATCH_LEASE_MS;
        let asks = match input {
            Input::Frame(_, Planned::V2(frame, _)) => {
                matches!(&frame.body, Body::Call(call) if call.method == "events")
            }
            Input::Frame(_, Planned::Message(message, ..)) => message["method"] == "events",
            _ => false,
        };
        if asks || !self.inquiries.is_empty() && self.is_perhaps_watched() {
            self.lanes.perhaps_until_ms = until_ms;
        }
    }

    /// A watcher was answered: from now on it surely watches.
    pub(crate) fn watched(&mut self) {
        self.lanes.sure_until_ms = self.now.mono_ms() + WATCH_LEASE_MS;
        self.saw("watched");
    }

    fn lane_has(&self, number: u64, peer: PeerId) -> bool {
        self.lanes.open.get(&number).is_some_and(|lane| lane.ends.contains(&Some(peer)))
    }

    /// Whether two peers may have a lane together.
    fn is_pair(&self, first: PeerId, second: PeerId) -> bool {
        let uid_of = |peer: &PeerId| self.connections[peer].identity.uid;
        uid_of(&first) == uid_of(&second) && self.names.get(&first) != self.names.get(&second)
    }

    fn lane_ready(&mut self, peer: PeerId, number: u64, orders: &[Order]) {
        self.lanes.used.insert(number);
        let is_full = self.lanes.of(peer) >= LANES_PER_PEER_MAX;
        let Some(lane) = self.lanes.open.get(&number) else {
            // Where it is not known whether somebody watches, the answer tells.
            let is_refused = || orders.iter().any(|order| is_close(order, peer, number, REVOKED));
            let is_off = self.config.lanes == LanePolicy::Off;
            let is_watched = self.is_surely_watched() || self.is_perhaps_watched() && is_refused();
            let has_room = self.has_lane_room(peer);
            if is_off || is_watched || is_full || !has_room {
                self.saw(match has_room {
                    _ if is_off => "lane refused where there are none",
                    _ if is_watched => "lane refused while watched",
                    true => "lane too many",
                    false => "lane of a user that has its share",
                });
                return self.lanes.owe(Some(peer), wire_v2::LANE_CLOSE, number, Some(REVOKED));
            }
            self.saw("lane told of");
            let lane = Lane {
                ends: [Some(peer), None],
                is_ready: [true, false],
                is_open: false,
                expires_ms: None,
                told: [[0; 3]; 2],
            };
            self.lanes.open.insert(number, lane);
            return;
        };
        let side = match lane.ends.iter().position(|end| *end == Some(peer)) {
            Some(side) => side,
            None if lane.ends[1].is_none() && !is_full && self.is_pair(lane.ends[0].expect("it told"), peer) => 1,
            None => {
                self.saw("lane of others");
                return self.lanes.owe(Some(peer), wire_v2::LANE_CLOSE, number, Some(GONE));
            }
        };
        let lane = self.lanes.open.get_mut(&number).expect("just found");
        lane.ends[side] = Some(peer);
        if let [Some(first), Some(second)] = lane.ends
            && !self.may_share_lane(first, second)
        {
            self.saw("lane forbidden");
            return self.take_back(number);
        }
        let lane = self.lanes.open.get_mut(&number).expect("just found");
        lane.is_ready[side] = true;
        if lane.is_open || lane.is_ready != [true; 2] {
            return;
        }
        lane.is_open = true;
        let (ends, was_offered) = (lane.ends, lane.expires_ms.is_some());
        for end in ends {
            self.lanes.owe(end, wire_v2::LANE_READY, number, None);
        }
        self.saw(if was_offered { "lane opened" } else { "lane adopted" });
    }

    fn lane_stats(&mut self, peer: PeerId, number: u64, payload: &[u8]) {
        let Some(words) = payload.get(..24) else { return };
        let Some(lane) = self.lanes.open.get_mut(&number) else { return };
        let Some(side) = lane.ends.iter().position(|end| *end == Some(peer)) else { return };
        for (at, word) in words.chunks_exact(8).enumerate() {
            let word = word.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
            let more = word.saturating_sub(lane.told[side][at]);
            self.lanes.totals[at] = self.lanes.totals[at].saturating_add(more).min(u64::MAX / 2);
            lane.told[side][at] = word;
        }
        self.saw("lane counted");
    }

    /// A lane is gone; both ends have to be told, but for `informed`.
    fn close_lane(&mut self, number: u64, informed: Option<PeerId>, why: u8) {
        let Some(lane) = self.lanes.open.remove(&number) else { return };
        for end in lane.ends.into_iter().filter(|end| *end != informed) {
            self.lanes.owe(end, wire_v2::LANE_CLOSE, number, Some(why));
        }
        if why == REVOKED
            && let [Some(first), Some(second)] = lane.ends
        {
            for (own, other) in [(first, second), (second, first)] {
                let since_ms = self.now.mono_ms();
                let caller = self.lanes.callers.get_mut(&own);
                if let Some(busy) = caller.and_then(|caller| caller.busy.get_mut(&other)) {
                    *busy = Busy { since_ms, calls: 0 };
                }
            }
        }
    }

    /// What the policy does not allow goes; calls were counted before as they will be after.
    fn take_back(&mut self, number: u64) {
        let Some(lane) = self.lanes.open.remove(&number) else { return };
        for end in lane.ends {
            self.lanes.owe(end, wire_v2::LANE_CLOSE, number, Some(REVOKED));
        }
    }

    /// The lanes of two that may not call each other as they like under a new policy.
    fn take_forbidden_lanes(&mut self) {
        let is_forbidden = |lane: &Lane| match lane.ends {
            // Who is closed loses its lanes first.
            [Some(first), Some(second)] => {
                !self.is_denied(first) && !self.is_denied(second) && !self.may_share_lane(first, second)
            }
            _ => false,
        };
        let open = self.lanes.open.iter();
        let forbidden: Vec<u64> = open.filter(|(_, lane)| is_forbidden(lane)).map(|(number, _)| *number).collect();
        for number in forbidden {
            self.saw("lane forbidden");
            self.take_back(number);
        }
    }

    /// The lanes of a peer that is gone. When the gateway itself goes, nobody is told.
    pub(crate) fn lose_lanes(&mut self, peer: PeerId, is_stopping: bool) {
        self.lanes.callers.remove(&peer);
        let own: Vec<u64> =
            self.lanes.open.iter().filter(|(_, lane)| lane.ends.contains(&Some(peer))).map(|at| *at.0).collect();
        for number in own {
            if is_stopping {
                self.lanes.open.remove(&number);
            } else {
                self.saw("lane lost");
                self.close_lane(number, Some(peer), GONE);
            }
        }
    }

    /// A call went from one peer of version 2 to another.
    pub(crate) fn count_for_lane(&mut self, flight: &Flight) {
        let (from, to, now_ms) = (flight.caller, flight.callee, self.now.mono_ms());
        let calls_min = match self.config.lanes {
            LanePolicy::Off => return,
            LanePolicy::Auto => self.config.lane_calls_min,
            LanePolicy::Always => 1,
        };
        if !self.connections[&from].takes_lanes || self.is_surely_watched() {
            return;
        }
        let is_perhaps_watched = self.is_perhaps_watched();
        let caller = self.lanes.callers.entry(from).or_default();
        let busy = caller.busy.entry(to).or_insert(Busy { since_ms: now_ms, calls: 0 });
        let mut is_due = false;
        if now_ms >= busy.since_ms {
            if now_ms - busy.since_ms > LANE_BUSY_WINDOW_MS {
                *busy = Busy { since_ms: now_ms, calls: 0 };
            }
            busy.calls += 1;
            is_due = busy.calls >= calls_min;
            if is_due {
                *busy = Busy { since_ms: now_ms + LANE_RETRY_MS, calls: 0 };
            }
        }
        caller.is_vague |= caller.busy.len() > REMEMBERED || is_perhaps_watched;
        let is_vague = caller.is_vague;
        let may = self.may_have_lane(from, to);
        self.lanes.may_offer = may && (is_due || is_vague);
        self.lanes.must_offer = may && is_due && !is_vague;
    }

    fn may_have_lane(&self, from: PeerId, to: PeerId) -> bool {
        let has_one =
            self.lanes.open.values().any(|lane| lane.ends.contains(&Some(from)) && lane.ends.contains(&Some(to)));
        let is_full =
            !self.has_lane_room(from) || [from, to].into_iter().any(|peer| self.lanes.of(peer) >= LANES_PER_PEER_MAX);
        let take_lanes = [from, to].iter().all(|peer| self.connections[peer].takes_lanes);
        let is_allowed = self.is_pair(from, to) && self.may_share_lane(from, to);
        take_lanes && !has_one && !is_full && is_allowed && self.phase == Phase::Running
    }

    /// Whether the user of a peer may have one more lane. Whoever had one first pays for both ends.
    fn has_lane_room(&self, peer: PeerId) -> bool {
        let uid = self.uid_of(peer);
        let own = self.lanes.paid_by(|peer| self.uid_of(peer) == uid);
        let others = self.lanes.open.len() - own;
        let bytes_max = self.share(self.config.lanes_bytes_max, others * LANE_BYTES);
        own < self.share(LANES_MAX, others) && (own + 1) * LANE_BYTES <= bytes_max
    }

    /// The gateway offers a lane.
    pub(crate) fn offered(&mut self, input: &Input<'_>, offer: &LaneOffer) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{what}: {offer:?} after {input:?}"));
        if self.is_surely_watched() {
            return wrong("a lane while somebody watches");
        }
        if !std::mem::take(&mut self.lanes.may_offer) {
            return wrong("a lane without reason");
        }
        self.lanes.must_offer = false;
        let call = self.flights.last().filter(|flight| flight.serial == self.serial);
        let [first, second] = offer.peers;
        if call.is_none_or(|call| [call.caller, call.callee] != offer.peers) {
            return wrong("a lane for others than those that call each other");
        }
        if !self.may_have_lane(first, second) {
            return wrong("a lane for two that must not have one");
        }
        if offer.number == 0 || !self.lanes.used.insert(offer.number) {
            return wrong("a number that was used before");
        }
        for (side, other) in [(0, second), (1, first)] {
            let name = self.names[&other].as_bytes();
            let payload = [&[u8::from(side == 1)], name].concat();
            let body = Body::Other(payload);
            let expected = Frame { kind: wire_v2::LANE_OFFER, flags: 0, codec: 0, id: offer.number, body };
            if wire_v2::read(&offer.frames[side]) != Ok(expected) {
                return wrong("what a side is told");
            }
        }
        let lane = Lane {
            ends: offer.peers.map(Some),
            is_ready: [false; 2],
            is_open: false,
            expires_ms: Some(self.now.mono_ms() + LANE_OPEN_TIMEOUT_MS),
            told: [[0; 3]; 2],
        };
        self.lanes.open.insert(offer.number, lane);
        self.saw(match self.config.lanes {
            LanePolicy::Always => "lane offered at once",
            _ => "lane offered",
        });
        Ok(())
    }

    /// LANE_READY or LANE_CLOSE to a peer.
    pub(crate) fn told_of_lane(&mut self, peer: PeerId, frame: &Frame) -> Result<(), String> {
        let why = match &frame.body {
            Body::Other(payload) if frame.kind == wire_v2::LANE_CLOSE => match payload.as_slice() {
                [why] => Some(*why),
                _ => return Err(format!("the payload of {frame:?}")),
            },
            Body::Other(payload) if payload.is_empty() => None,
            _ => return Err(format!("the payload of {frame:?}")),
        };
        let said = (peer, frame.kind, frame.id, why);
        if why == Some(REVOKED) && !self.lanes.due.contains(&said) && self.is_perhaps_watched() {
            self.saw("lane revoked");
            self.close_lane(frame.id, None, REVOKED);
        }
        let at = self.lanes.due.iter().position(|due| *due == said);
        let at = at.ok_or_else(|| format!("{peer:?} is told of a lane without need: {frame:?}"))?;
        self.lanes.due.swap_remove(at);
        Ok(())
    }

    /// Whether all has been said about lanes, and none is left that must not be.
    pub(crate) fn check_lanes(&mut self) -> Result<(), String> {
        let due = std::mem::take(&mut self.lanes.due);
        if let Some(untold) = due.into_iter().find(|due| self.connections.contains_key(&due.0)) {
            return Err(format!("a peer is not told of a lane: {untold:?}"));
        }
        self.lanes.may_offer = false;
        if std::mem::take(&mut self.lanes.must_offer) {
            return Err("a busy pair is not offered a lane".to_owned());
        }
        if self.is_surely_watched() && !self.lanes.open.is_empty() {
            return Err(format!("lanes while somebody watches: {:?}", self.lanes.open));
        }
        for (number, lane) in &self.lanes.open {
            if lane.ends.iter().flatten().any(|end| !self.connections.contains_key(end)) {
                return Err(format!("lane {number} of a peer that is gone: {lane:?}"));
            }
        }
        Ok(())
    }
}

fn is_close(order: &Order, to: PeerId, number: u64, why: u8) -> bool {
    let Order::Send { peer, frame } = order else { return false };
    let is_v2 = *peer == to && frame.get(4) == Some(&0xb2);
    let expected = Frame { kind: wire_v2::LANE_CLOSE, flags: 0, codec: 0, id: number, body: Body::Other(vec![why]) };
    is_v2 && wire_v2::read(frame) == Ok(expected)
}
