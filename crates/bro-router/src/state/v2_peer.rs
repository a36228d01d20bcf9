//! What the two sides of a connection of version 2 have told each other.

use super::{Route, V2Peer};
use crate::lanes::BusyPeers;
use crate::state::checks::ensure;
use crate::state::router::Shift;
use crate::state::{ImportError, V2PeerState};
use bro_proto::limits::NAMES_PER_PEER_MAX;
use std::collections::HashSet;

impl V2Peer {
    pub(crate) fn export(&self, takes_lanes: bool) -> V2PeerState {
        let V2Peer {
            routes,
            route_bytes: _,
            names,
            lanes: _, // the lanes name their ends
            busy,
        } = self;
        let mut told: Vec<(u64, u32)> = names.iter().copied().collect();
        told.sort_unstable_by_key(|(_, number)| *number);
        let (busy, busy_last) = busy.export();
        V2PeerState {
            // Where a service was found the last time is found anew.
            routes: routes.iter().map(|Route { name, index: _, serial: _ }| name.to_string()).collect(),
            names: told.into_iter().map(|(serial, _)| serial).collect(),
            takes_lanes,
            busy,
            busy_last,
        }
    }

    pub(crate) fn import(state: V2PeerState, shift: Shift) -> Result<V2Peer, ImportError> {
        let V2PeerState { routes, names, takes_lanes: _, busy, busy_last } = state;
        let mut peer = V2Peer::default();
        for (number, name) in (0..).zip(&routes) {
            ensure(peer.bind(number, name), "a connection has bound more routes than it may")?;
        }
        let known: HashSet<u64> = names.iter().copied().collect();
        let is_possible = known.len() == names.len() && !known.contains(&0) && names.len() <= NAMES_PER_PEER_MAX;
        ensure(is_possible, "a connection was told names that it cannot have been told")?;
        for serial in names {
            peer.introduce(serial);
        }
        peer.busy = BusyPeers::import(&busy, busy_last, shift);
        Ok(peer)
    }
}
