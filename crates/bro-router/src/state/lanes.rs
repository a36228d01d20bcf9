//! Lanes, and who may soon be offered one.

use super::{BusyPeer, BusyPeers, LaneRecord, Lanes};
use crate::accounts::Resource;
use crate::peers::NIL;
use crate::router::Router;
use crate::state::checks::{ensure, ensure_at_most};
use crate::state::router::{Shift, deadline_of};
use crate::state::{BusyPeerState, ImportError, LaneState, LaneStatsState};
use crate::timers::Timers;
use bro_proto::limits::{LANES_BYTES_PER_PEER_MAX, LANES_MAX};
use bro_proto::v2::lane::LaneStats;

impl Lanes {
    pub(crate) fn export(&self, timers: &Timers) -> Vec<LaneState> {
        let Lanes { records: _, by_number: _ } = self;
        self.iter().map(|(_, record)| record.export(timers)).collect()
    }
}

impl LaneRecord {
    fn export(&self, timers: &Timers) -> LaneState {
        let LaneRecord { number, ends, bytes, is_ready, account: _, is_open, timer, stats } = self;
        LaneState {
            number: *number,
            ends: ends.map(|end| (end != NIL).then_some(end)),
            bytes: *bytes as u64,
            is_ready: *is_ready,
            is_open: *is_open,
            deadline_ms: timer.map(|timer| deadline_of(timers, timer)),
            stats: stats.map(|LaneStats { calls, errors, bytes }| LaneStatsState { calls, errors, bytes }),
        }
    }
}

impl Router {
    /// The peers and the event log are there.
    pub(crate) fn import_lanes(&mut self, state: Vec<LaneState>, shift: Shift) -> Result<(), ImportError> {
        ensure_at_most(state.len(), LANES_MAX, "LANES_MAX")?;
        ensure(state.is_empty() || !self.is_watched(), "there are lanes although somebody watches")?;
        for LaneState { number, ends: [first, second], bytes, is_ready, is_open, deadline_ms, stats } in state {
            ensure(self.lanes.find(number).is_none(), "two lanes have one number")?;
            let ends = [first.unwrap_or(NIL), second.unwrap_or(NIL)];
            ensure(first.is_some() && first != second, "a lane has no two ends")?;
            for end in [first, second].into_iter().flatten() {
                let is_there = self.is_registered(end) && self.peers[end].v2.is_some();
                ensure(is_there && !self.is_lane_list_full(end), "a lane ends at a peer that cannot have it")?;
            }
            ensure(!is_open || (second.is_some() && is_ready == [true; 2]), "a lane is open at one end")?;
            ensure(!is_open || deadline_ms.is_none(), "a lane is open and waited for")?;
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            let before = self.peers.accounts.total(Resource::LaneBytes);
            ensure_at_most(before.saturating_add(bytes), self.config.lanes_bytes_max, "lanes_bytes_max")?;
            let index = self.insert_lane(number, ends, bytes, deadline_ms.map(|at| shift.ms(at)));
            for end in [first, second].into_iter().flatten() {
                let of_peer = self.peers[end].v2.as_ref().map_or(0, |state| self.lanes.bytes_of(&state.lanes));
                ensure_at_most(of_peer, LANES_BYTES_PER_PEER_MAX, "LANES_BYTES_PER_PEER_MAX")?;
            }
            let record = &mut self.lanes.records[index as usize];
            (record.is_ready, record.is_open) = (is_ready, is_open);
            record.stats = stats.map(|LaneStatsState { calls, errors, bytes }| LaneStats { calls, errors, bytes });
        }
        Ok(())
    }
}

impl BusyPeers {
    pub(crate) fn export(&self) -> (Vec<BusyPeerState>, u32) {
        let BusyPeers { entries } = self;
        let entries = entries.map(|entry| {
            let BusyPeer { slot, generation, calls, since_ms } = entry;
            BusyPeerState { slot, generation, calls, since_ms }
        });
        (entries.to_vec(), 0)
    }

    /// More entries than are kept now, or fewer, are what another version keeps: that counts nothing.
    pub(crate) fn import(state: &[BusyPeerState], last: u32, shift: Shift) -> BusyPeers {
        let mut busy = BusyPeers::default();
        for (place, entry) in busy.entries.iter_mut().zip(state) {
            let BusyPeerState { slot, generation, calls, since_ms } = *entry;
            *place = BusyPeer { slot, generation, calls, since_ms: shift.ms(since_ms) };
        }
        let last = last as usize;
        if last < BusyPeers::LEN {
            busy.entries.swap(0, last);
        }
        busy
    }
}
