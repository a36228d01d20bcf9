//! Lanes: which pairs of peers get one, which are open, and when they have to go.
//!
//! A lane is offered to two peers of version 2 that take lanes, once the calls from one to the other are many. Both open it and say so; then
//! both are told that it may be used. The router never sees what travels on it. It takes it back when somebody wants to watch single
//! calls, and when it loses either peer.

#[path = "state/lanes.rs"]
mod state;

use crate::accounts::Resource;
use crate::counters::COUNT_MAX;
use crate::event::{CloseReason, EventMask};
use crate::outbox::{LaneOffer, Outbox, Part};
use crate::peers::NIL;
use crate::router::Router;
use crate::timers::Timer;
use crate::v2_peer::V2Peer;
use bro_proto::Now;
use bro_proto::limits::{
    LANE_BUSY_WINDOW_MS, LANE_BYTES, LANE_OPEN_TIMEOUT_MS, LANE_RETRY_MS, LANES_BYTES_PER_PEER_MAX, LANES_PER_PEER_MAX,
};
use bro_proto::timer::TimerId;
use bro_proto::v2::lane::{CloseLane, LaneStats, write_offer};
use bro_proto::v2::{FrameKind, encode};
use hashbrown::HashTable;
use slab::Slab;

/// Which pairs of peers are offered lanes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LanePolicy {
    /// None. Those that there are, under the gateway before, are taken back.
    Off,
    /// Those that call each other much.
    #[default]
    Auto,
    /// Every pair that calls each other at all.
    Always,
}

/// A lane that was offered, or that its peers told of.
#[derive(Debug)]
pub(crate) struct LaneRecord {
    number: u64,
    /// Peer slots; `NIL` for one that has not told of it.
    ends: [u32; 2],
    /// Of its shared memory, all of it used. Peers that tell of a lane are not asked: it counts as one of default size.
    bytes: usize,
    is_ready: [bool; 2],
    /// Who pays for it: the account of the peer that had it first.
    account: u32,
    /// Both were told to use it.
    is_open: bool,
    /// Of a lane that was offered, until it is open.
    timer: Option<TimerId>,
    stats: [LaneStats; 2],
}

/// All lanes.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    records: Slab<LaneRecord>,
    by_number: HashTable<u32>,
}

/// Peers that one peer called lately, and how often.
#[derive(Debug, Default)]
pub(crate) struct BusyPeers {
    /// The one that was called last comes first.
    entries: [BusyPeer; Self::LEN],
}

#[derive(Clone, Copy, Debug, Default)]
struct BusyPeer {
    slot: u32,
    generation: u32,
    calls: u32,
    /// When the count began; after an offer that came to nothing, when it may begin.
    since_ms: u64,
}

impl BusyPeers {
    const LEN: usize = 4;

    /// Counts a call. True when there were `calls_min` within the window.
    #[inline]
    fn count(&mut self, slot: u32, generation: u32, calls_min: u32, now_ms: u64) -> bool {
        if (self.entries[0].slot, self.entries[0].generation) != (slot, generation) {
            let at = self.place(slot, generation, now_ms);
            self.entries.swap(0, at);
        }
        let entry = &mut self.entries[0];
        if now_ms < entry.since_ms {
            return false;
        }
        if now_ms - entry.since_ms > LANE_BUSY_WINDOW_MS {
            (entry.since_ms, entry.calls) = (now_ms, 0);
        }
        entry.calls = entry.calls.saturating_add(1);
        entry.calls >= calls_min
    }

    /// Nothing is counted for a while.
    fn rest(&mut self, until_ms: u64) {
        let entry = &mut self.entries[0];
        (entry.since_ms, entry.calls) = (until_ms, 0);
    }

    /// What is counted for a peer counts from now on.
    fn end_rest(&mut self, slot: u32, generation: u32, now_ms: u64) {
        for entry in &mut self.entries {
            if (entry.slot, entry.generation) == (slot, generation) {
                (entry.since_ms, entry.calls) = (now_ms, 0);
            }
        }
    }

    /// Where a peer is counted from now on.
    fn place(&mut self, slot: u32, generation: u32, now_ms: u64) -> usize {
        let known = |entry: &BusyPeer| (entry.slot, entry.generation) == (slot, generation);
        if let Some(at) = self.entries.iter().position(known) {
            return at;
        }
        // Those that rest stay while others can go.
        let oldest = self.entries.iter().enumerate().min_by_key(|(_, entry)| entry.since_ms);
        let at = oldest.expect("there are entries").0;
        self.entries[at] = BusyPeer { slot, generation, calls: 0, since_ms: now_ms };
        at
    }
}

impl Lanes {
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &LaneRecord)> {
        self.records.iter().map(|(index, record)| (index_of(index), record))
    }

    /// Bytes of the shared memory of the lanes of a peer.
    pub(crate) fn bytes_of(&self, lanes: &[u32]) -> usize {
        lanes.iter().map(|&index| self.records[index as usize].bytes).sum()
    }

    fn find(&self, number: u64) -> Option<u32> {
        self.by_number.find(hash(number), |&index| self.records[index as usize].number == number).copied()
    }
}

impl LaneRecord {
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn ends(&self) -> [u32; 2] {
        self.ends
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn has_timer(&self) -> bool {
        self.timer.is_some()
    }

    fn side(&self, slot: u32) -> Option<usize> {
        self.ends.iter().position(|&end| end == slot)
    }
}

impl Router {
    /// Lanes that were offered or are in use.
    pub fn lanes_len(&self) -> usize {
        self.lanes.len()
    }

    /// Bytes of shared memory that these lanes take when they are used to the full.
    pub fn lane_bytes(&self) -> usize {
        self.peers.accounts.total(Resource::LaneBytes)
    }

    /// The driver could not hand a lane to both peers: whoever has got it is told to drop it.
    pub fn handle_offer_failed(&mut self, number: u64, now: Now, out: &mut impl Outbox) {
        if let Some(index) = self.lanes.find(number) {
            self.counters.lanes_failed += 1;
            self.close_lane(index, None, CloseLane::Gone, now, out);
        }
        self.settle(now, out);
    }

    /// A call goes from one peer of version 2 to another: with many of them, they are offered a lane.
    #[inline]
    pub(crate) fn count_for_lane(&mut self, caller: u32, callee: u32, now: Now, out: &mut impl Outbox) {
        let calls_min = match self.config.lanes {
            LanePolicy::Off => return,
            LanePolicy::Auto => self.config.lane_calls_min.max(1),
            LanePolicy::Always => 1,
        };
        let generation = self.peers[callee].generation;
        let peer = &mut self.peers[caller];
        if !peer.takes_lanes {
            return;
        }
        let Some(state) = &mut peer.v2 else { return };
        let is_watched = self.reporter.wants(EventMask::CALLS) || self.reporter.wants(EventMask::RESPONSES);
        if !is_watched && state.busy.count(callee, generation, calls_min, now.mono_ms()) {
            self.offer_lane(caller, callee, now, out);
        }
    }

    #[cold]
    fn offer_lane(&mut self, caller: u32, callee: u32, now: Now, out: &mut impl Outbox) {
        let rest_until_ms = now.mono_ms().saturating_add(LANE_RETRY_MS);
        self.peers[caller].v2.as_mut().expect("it was just counted").busy.rest(rest_until_ms);
        let lanes_of = |slot: u32| self.peers[slot].v2.as_ref().map(|state| &state.lanes);
        let (Some(own), Some(theirs)) = (lanes_of(caller), lanes_of(callee)) else { return };
        let takes_lanes = self.peers[callee].takes_lanes;
        let has_one = own.iter().any(|lane| theirs.contains(lane));
        let is_full = !self.has_lane_room(caller) || self.is_lane_list_full(caller) || self.is_lane_list_full(callee);
        let is_pair = self.is_pair(caller, callee);
        if !takes_lanes || has_one || is_full || !is_pair || self.is_watched() || self.is_draining() {
            return;
        }
        if !self.may_share_lane([caller, callee]) {
            return;
        }
        let number = self.fresh_lane_number();
        let deadline_ms = now.mono_ms().saturating_add(LANE_OPEN_TIMEOUT_MS);
        let index = self.insert_lane(number, [caller, callee], LANE_BYTES, Some(deadline_ms));
        let name_of = |slot: u32| &*self.registry[self.peers[slot].service].name;
        let mut frames = [Vec::new(), Vec::new()];
        for (side, peer) in [(0, callee), (1, caller)] {
            write_offer(&mut frames[side], number, side == 0, name_of(peer));
        }
        self.counters.lanes_offered += 1;
        let peers = [caller, callee].map(|slot| self.peers.id(slot));
        debug_assert_eq!(self.lanes.find(number), Some(index));
        out.offer_lane(LaneOffer { number, peers, frames });
    }

    /// LANE_READY: a peer has opened a lane; or it tells the gateway, which is new to it, of one that it has.
    pub(crate) fn handle_lane_ready(&mut self, slot: u32, number: u64, now: Now, out: &mut impl Outbox) {
        let index = match self.lanes.find(number) {
            Some(index) => index,
            None if self.has_no_lanes() || !self.has_lane_room(slot) || self.is_lane_list_full(slot) => {
                self.send_lane_close(slot, number, CloseLane::Revoked, now, out);
                return;
            }
            // The other end may take its time to come back.
            None => self.insert_lane(number, [slot, NIL], LANE_BYTES, None),
        };
        let first = self.lanes.records[index as usize].ends[0];
        let may_join = self.is_pair(first, slot) && !self.is_lane_list_full(slot);
        let record = &mut self.lanes.records[index as usize];
        let side = match record.side(slot) {
            Some(side) => side,
            None if record.ends[1] == NIL && may_join => {
                record.ends[1] = slot;
                self.peers[slot].v2.as_mut().expect("it speaks version 2").lanes.push(index);
                1
            }
            None => return self.send_lane_close(slot, number, CloseLane::Gone, now, out),
        };
        let ends = self.lanes.records[index as usize].ends;
        if ends[1] != NIL && !self.may_share_lane(ends) {
            return self.close_lane(index, None, CloseLane::Revoked, now, out);
        }
        let record = &mut self.lanes.records[index as usize];
        record.is_ready[side] = true;
        if record.is_open || record.is_ready != [true; 2] {
            return;
        }
        record.is_open = true;
        let (ends, timer) = (record.ends, record.timer.take());
        timer.map(|timer| self.timers.remove(timer));
        self.counters.lanes_opened += 1;
        for end in ends {
            self.send_bare(end, FrameKind::LaneReady, number, now, out);
        }
    }

    /// LANE_CLOSE: a peer does not take a lane, or has lost it.
    pub(crate) fn handle_lane_close(&mut self, slot: u32, number: u64, now: Now, out: &mut impl Outbox) {
        if let Some(index) = self.lanes.find(number)
            && self.lanes.records[index as usize].side(slot).is_some()
        {
            self.close_lane(index, Some(slot), CloseLane::Gone, now, out);
        }
    }

    /// STATS: what a peer has done on a lane so far.
    pub(crate) fn handle_lane_stats(&mut self, slot: u32, number: u64, payload: &[u8]) {
        let Some(stats) = LaneStats::parse(payload) else {
            self.counters.frames_ignored += 1;
            return;
        };
        let Some(index) = self.lanes.find(number) else { return };
        let record = &mut self.lanes.records[index as usize];
        let Some(side) = record.side(slot) else { return };
        let before = std::mem::replace(&mut record.stats[side], stats);
        // What a peer tells may be anything: the sums stop where the next gateway would not take them over.
        let add = |sum: u64, now: u64, before: u64| sum.saturating_add(now.saturating_sub(before)).min(COUNT_MAX);
        let counters = &mut self.counters;
        counters.lane_calls = add(counters.lane_calls, stats.calls, before.calls);
        counters.lane_errors = add(counters.lane_errors, stats.errors, before.errors);
        counters.lane_bytes = add(counters.lane_bytes, stats.bytes, before.bytes);
    }

    /// A lane that was offered, or told of by one peer, has not become one.
    pub(crate) fn expire_lane(&mut self, index: u32, now: Now, out: &mut impl Outbox) {
        self.lanes.records[index as usize].timer = None;
        self.counters.lanes_failed += 1;
        self.close_lane(index, None, CloseLane::Gone, now, out);
    }

    /// The lanes of a peer that the gateway loses: nobody vouches for it any more. When the gateway itself goes, lanes stay.
    pub(crate) fn close_lanes_of(&mut self, slot: u32, reason: CloseReason, now: Now, out: &mut impl Outbox) {
        while let Some(&index) = self.peers[slot].v2.as_ref().and_then(|state| state.lanes.last()) {
            if reason == CloseReason::Stopping {
                self.remove_lane(index);
            } else {
                self.close_lane(index, Some(slot), CloseLane::Gone, now, out);
            }
        }
    }

    /// While somebody watches single calls, all of them go through the gateway; with [`LanePolicy::Off`] they always do.
    pub(crate) fn revoke_unwanted_lanes(&mut self, now: Now, out: &mut impl Outbox) {
        if self.lanes.len() == 0 || !self.has_no_lanes() {
            return;
        }
        let indices: Vec<u32> = self.lanes.iter().map(|(index, _)| index).collect();
        for index in indices {
            let [first, second] = self.lanes.records[index as usize].ends;
            self.close_lane(index, None, CloseLane::Revoked, now, out);
            // When nobody watches any more, they may have one again.
            for (own, other) in [(first, second), (second, first)].into_iter().filter(|ends| ends.0.max(ends.1) != NIL)
            {
                let generation = self.peers[other].generation;
                if let Some(state) = &mut self.peers[own].v2 {
                    state.busy.end_rest(other, generation, now.mono_ms());
                }
            }
        }
    }

    /// Takes back the lanes of peers that may not call each other without being looked at, as the policy is now.
    pub(crate) fn revoke_forbidden_lanes(&mut self, now: Now, out: &mut impl Outbox) {
        let is_forbidden = |record: &LaneRecord| record.ends[1] != NIL && !self.may_share_lane(record.ends);
        let indices: Vec<u32> =
            self.lanes.iter().filter(|(_, record)| is_forbidden(record)).map(|(index, _)| index).collect();
        for index in indices {
            self.close_lane(index, None, CloseLane::Revoked, now, out);
        }
    }

    /// Whether every call is to come by here.
    pub(crate) fn has_no_lanes(&self) -> bool {
        self.config.lanes == LanePolicy::Off || self.is_watched()
    }

    /// Whether somebody wants to know of single calls.
    pub(crate) fn is_watched(&self) -> bool {
        let reporter = &self.reporter;
        reporter.wants(EventMask::CALLS) || reporter.wants(EventMask::RESPONSES)
    }

    /// Forgets a lane; its peers are told, but for `informed`.
    fn close_lane(&mut self, index: u32, informed: Option<u32>, why: CloseLane, now: Now, out: &mut impl Outbox) {
        let record = self.remove_lane(index);
        for end in record.ends.into_iter().filter(|&end| end != NIL && informed != Some(end)) {
            self.send_lane_close(end, record.number, why, now, out);
        }
    }

    fn remove_lane(&mut self, index: u32) -> LaneRecord {
        let record = self.lanes.records.remove(index as usize);
        self.peers.accounts.release(record.account, Resource::Lanes, 1);
        self.peers.accounts.release(record.account, Resource::LaneBytes, record.bytes);
        let entry = self.lanes.by_number.find_entry(hash(record.number), |&other| other == index);
        entry.expect("every lane is in the table").remove();
        record.timer.map(|timer| self.timers.remove(timer));
        for end in record.ends.into_iter().filter(|&end| end != NIL) {
            if let Some(state) = &mut self.peers[end].v2 {
                state.lanes.retain(|&lane| lane != index);
            }
        }
        record
    }

    fn send_lane_close(&mut self, slot: u32, number: u64, why: CloseLane, now: Now, out: &mut impl Outbox) {
        let mut frame = std::mem::take(&mut self.scratch);
        encode::other(&mut frame, FrameKind::LaneClose, number, &[why.to_wire()]);
        let parts = [Part::Scratch(&frame)];
        self.peers.send(slot, &parts, now, &mut self.timers, &mut self.counters, out);
        self.keep_scratch(frame);
    }

    fn insert_lane(&mut self, number: u64, ends: [u32; 2], bytes: usize, deadline_ms: Option<u64>) -> u32 {
        let index = index_of(self.lanes.records.vacant_key());
        let account = self.peers[ends[0]].account;
        self.peers.accounts.charge(account, Resource::Lanes, 1);
        self.peers.accounts.charge(account, Resource::LaneBytes, bytes);
        let record = LaneRecord {
            number,
            ends,
            bytes,
            is_ready: [false; 2],
            account,
            is_open: false,
            timer: deadline_ms.map(|at_ms| self.timers.insert(at_ms, Timer::Lane(index))),
            stats: [LaneStats::default(); 2],
        };
        self.lanes.records.insert(record);
        let records = &self.lanes.records;
        self.lanes.by_number.insert_unique(hash(number), index, |&other| hash(records[other as usize].number));
        for end in ends.into_iter().filter(|&end| end != NIL) {
            self.peers[end].v2.as_mut().expect("it speaks version 2").lanes.push(index);
        }
        index
    }

    /// A number that no lane has, also none of an earlier gateway: its peers may still have it.
    fn fresh_lane_number(&mut self) -> u64 {
        loop {
            let number = self.rng.next_u64();
            if number != 0 && self.lanes.find(number).is_none() {
                return number;
            }
        }
    }

    /// Whether the user of a peer may have one more lane. Lanes join peers of one user only, so it pays for both ends.
    fn has_lane_room(&self, slot: u32) -> bool {
        let may_have =
            |(resource, amount)| self.peers.accounts.check(self.peers[slot].account, resource, amount).is_ok();
        [(Resource::Lanes, 1), (Resource::LaneBytes, LANE_BYTES)].into_iter().all(may_have)
    }

    /// Whether two peers may have a lane together. One end can make the other wait in a system call, see docs/lanes.md: only those who could
    /// stop each other anyway.
    fn is_pair(&self, first: u32, second: u32) -> bool {
        let [first, second] = [first, second].map(|slot| &self.peers[slot]);
        first.identity.uid == second.identity.uid && first.service != second.service
    }

    fn is_lane_list_full(&self, slot: u32) -> bool {
        let is_full = |state: &V2Peer| {
            let bytes = self.lanes.bytes_of(&state.lanes);
            state.lanes.len() >= LANES_PER_PEER_MAX || bytes.saturating_add(LANE_BYTES) > LANES_BYTES_PER_PEER_MAX
        };
        self.peers[slot].v2.as_deref().is_none_or(is_full)
    }
}

/// Numbers that peers tell of are theirs to choose, but there are few, and they cost only those who tell them.
fn hash(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn index_of(key: usize) -> u32 {
    u32::try_from(key).expect("LANES_MAX is far below 2^32")
}
