//! Connections.

use super::{CallList, LastRoute, NIL, Peer, PeerIdentity, Peers, UNPOOLED};
use crate::abandoned::Abandoned;
use crate::accounts::Resource;
use crate::config::RouterConfig;
use crate::state::checks::{ensure, ensure_at_most};
use crate::state::router::{Shift, deadline_of};
use crate::state::{ImportError, PeerState, PeersState};
use crate::timers::{Timer, Timers};
use crate::v2_peer::V2Peer;
use bro_proto::Now;
use bro_proto::limits::{PEER_CHARGE_BYTES, ROUTES_BYTES_MAX};

impl Peers {
    pub(crate) fn export(&self, timers: &Timers) -> PeersState {
        let Peers {
            slots,
            free: _,
            len: _,
            departures,
            accounts: _, // everything is charged anew
            queued_bytes: _,
            doomed_bytes: _,
            search_again_ms: _,
            route_bytes: _,
            limits: _,
            doomed,
        } = self;
        debug_assert!(doomed.is_empty(), "who is doomed goes within the input that doomed it");
        debug_assert!(departures.is_empty(), "all that is about to end has ended before an export");
        PeersState {
            generations: slots.iter().map(|peer| peer.generation).collect(),
            live: self.live().map(|slot| self[slot].export(slot, timers)).collect(),
        }
    }

    /// Services, calls and lanes of the peers come afterwards.
    pub(crate) fn import(
        config: &RouterConfig,
        state: PeersState,
        is_same_hash: bool,
        shift: Shift,
        timers: &mut Timers,
    ) -> Result<Peers, ImportError> {
        let PeersState { generations, live } = state;
        ensure_at_most(generations.len(), config.peers_max, "peers_max")?;
        let mut peers = Peers::new(config);
        for generation in generations {
            // Inserting gives the first generation, so that they are set afterwards.
            let slot = peers.place(PeerIdentity::default(), NIL, Now::default());
            let peer = &mut peers[slot];
            (peer.generation, peer.is_live) = (generation, false);
        }
        peers.len = 0;
        let mut next_slot = 0;
        for peer in live {
            let slot = peer.slot;
            ensure(slot >= next_slot && (slot as usize) < peers.slots.len(), "the peers are out of order")?;
            next_slot = slot + 1;
            let generation = peers[slot].generation;
            let mut restored = Peer::import(peer, generation, config, is_same_hash, shift, timers)?;
            let account = peers.accounts.open(restored.identity.uid, 0);
            ensure(account.is_some(), "the peers are of too many users")?;
            let route_bytes = restored.v2.as_ref().map_or(0, |state| state.route_bytes());
            restored.account = account.unwrap_or(NIL);
            restored.table_bytes = restored.table_bytes_now();
            let bytes = PEER_CHARGE_BYTES + restored.queued_bytes + restored.table_bytes + route_bytes;
            for (resource, amount) in [(Resource::Peers, 1), (Resource::Routes, route_bytes), (Resource::Memory, bytes)]
            {
                peers.accounts.charge(restored.account, resource, amount);
            }
            peers.len += 1;
            peers.queued_bytes += restored.queued_bytes;
            peers.route_bytes += route_bytes;
            peers[slot] = restored;
        }
        ensure_at_most(peers.route_bytes, ROUTES_BYTES_MAX, "ROUTES_BYTES_MAX")?;
        for (slot, peer) in peers.slots.iter_mut().enumerate().rev().filter(|(_, peer)| !peer.is_live) {
            peer.service = peers.free;
            peers.free = u32::try_from(slot).expect("peers_max is far below 2^32");
        }
        Ok(peers)
    }
}

impl Peer {
    fn export(&self, own_slot: u32, timers: &Timers) -> PeerState {
        let Peer {
            generation: _, // with those of the free slots
            is_live: _,
            is_doomed: _,
            is_paused,
            is_mid_frame,
            is_leaving,
            is_stall_timed: _,
            takes_lanes,
            encoding,
            pool_index,
            identity: PeerIdentity { pid, pidfd_id, uid, gid },
            service: _, // the service names its instances
            serial: _,
            last_route: _, // found anew
            last_name_serial: _,
            last_name: _,
            account: _, // by the identity
            ring_next: _,
            ring_prev: _,
            table_bytes: _,
            kept_bytes: _, // the driver tells
            kept_since_ms: _,
            calls: _, // the calls name their peers
            parked: _,
            restriction: _, // the driver says which policy counts
            connected_at_ms,
            last_frame_at_ms,
            last_frame_ms: _, // the service has it
            queued_bytes,
            answer_bytes,
            abandoned,
            v2,
            progress_ms,
            register_timer,
            partial_timer,
            stall_timer,
        } = self;
        let deadline = |timer: &Option<_>| timer.map(|timer| deadline_of(timers, timer));
        PeerState {
            slot: own_slot,
            is_paused: *is_paused,
            is_mid_frame: *is_mid_frame,
            is_leaving: *is_leaving,
            encoding: (*encoding).into(),
            pool_index: (*pool_index != UNPOOLED).then_some(*pool_index),
            pid: *pid,
            pidfd_id: *pidfd_id,
            uid: *uid,
            gid: *gid,
            connected_at_ms: *connected_at_ms,
            last_frame_at_ms: *last_frame_at_ms,
            queued_bytes: *queued_bytes as u64,
            answer_bytes: *answer_bytes as u64,
            abandoned: abandoned.as_ref().map(|abandoned| abandoned.export()),
            v2: v2.as_ref().map(|state| state.export(*takes_lanes)),
            progress_ms: *progress_ms,
            register_deadline_ms: deadline(register_timer),
            partial_deadline_ms: deadline(partial_timer),
            stall_deadline_ms: deadline(stall_timer),
        }
    }

    fn import(
        state: PeerState,
        generation: u32,
        config: &RouterConfig,
        is_same_hash: bool,
        shift: Shift,
        timers: &mut Timers,
    ) -> Result<Peer, ImportError> {
        let PeerState {
            slot,
            is_paused,
            is_mid_frame,
            is_leaving,
            encoding,
            pool_index,
            pid,
            pidfd_id,
            uid,
            gid,
            connected_at_ms,
            last_frame_at_ms,
            queued_bytes,
            answer_bytes,
            abandoned,
            v2,
            progress_ms,
            register_deadline_ms,
            partial_deadline_ms,
            stall_deadline_ms,
        } = state;
        let queued_bytes = usize::try_from(queued_bytes).unwrap_or(usize::MAX);
        let answer_bytes = usize::try_from(answer_bytes).unwrap_or(usize::MAX);
        ensure_at_most(queued_bytes, config.queue_bytes_max, "queue_bytes_max")?;
        ensure(answer_bytes <= queued_bytes, "more answers than bytes are queued")?;
        ensure(queued_bytes == 0 || stall_deadline_ms.is_some(), "a queue is not watched")?;
        ensure(is_mid_frame || partial_deadline_ms.is_none(), "a frame is waited for that was not begun")?;
        ensure(pool_index != Some(UNPOOLED), "a place in a pool is none")?;
        let mut start = |deadline_ms: Option<u64>, timer| deadline_ms.map(|at| timers.insert(shift.ms(at), timer));
        Ok(Peer {
            generation,
            is_live: true,
            is_doomed: false,
            is_paused,
            is_mid_frame,
            is_leaving,
            is_stall_timed: stall_deadline_ms.is_some(),
            takes_lanes: v2.as_ref().is_some_and(|state| state.takes_lanes),
            encoding: encoding.into(),
            pool_index: pool_index.unwrap_or(UNPOOLED),
            identity: PeerIdentity { pid, pidfd_id, uid, gid },
            service: NIL,
            serial: 0,
            last_route: LastRoute::NONE,
            last_name_serial: 0,
            last_name: 0,
            account: NIL,
            ring_next: NIL,
            ring_prev: NIL,
            table_bytes: 0,
            kept_bytes: 0,
            kept_since_ms: 0,
            calls: [CallList::EMPTY; 2],
            parked: CallList::EMPTY,
            restriction: None,
            connected_at_ms,
            last_frame_at_ms,
            last_frame_ms: 0,
            queued_bytes,
            answer_bytes,
            abandoned: abandoned.map(|state| Abandoned::import(state, is_same_hash)).transpose()?.map(Box::new),
            v2: v2.map(|state| V2Peer::import(state, shift)).transpose()?.map(Box::new),
            progress_ms: shift.ms(progress_ms),
            register_timer: start(register_deadline_ms, Timer::Register(slot)),
            partial_timer: start(partial_deadline_ms, Timer::PartialFrame(slot)),
            stall_timer: start(stall_deadline_ms, Timer::WriteStall(slot)),
        })
    }
}
