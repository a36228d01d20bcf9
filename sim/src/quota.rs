//! What users have taken, counted by the model, and what the router may refuse them for it.

use crate::model::World;
use crate::verdict::Tally;
use bro_proto::limits::{LANE_BYTES, MEMORY_RESERVE_PARTS};
use bro_router::{CloseReason, PeerId, Router, UserView};

/// More than anything that the traffic makes the router keep at once.
const ONE_MORE_BYTES: usize = 8 * 1024;

impl World {
    /// Whether one more connection of a user must be refused because of those that there are.
    pub(crate) fn has_too_many_connections(&self, uid: Option<u32>) -> bool {
        let own = self.connections.values().filter(|peer| peer.identity.uid == uid).count();
        let all = self.connections.len();
        all >= self.config.peers_max
            || own >= self.config.peers_per_uid_max
            || own + 1 > self.share(self.config.peers_max, all - own)
    }

    /// Whether one more call of the user of a peer must be refused because of those in flight.
    pub(crate) fn has_too_many_calls(&self, caller: PeerId) -> bool {
        let uid = self.uid_of(caller);
        let own = self.flights.iter().filter(|flight| self.uid_of(flight.caller) == uid).count();
        own + 1 > self.share(self.config.in_flight_max, self.flights.len() - own)
    }

    /// The same, if all calls that may not have ended so far count, and for each one that these were made for.
    fn may_have_too_many_calls(&self, caller: PeerId) -> bool {
        let (left, uid) = (2 * self.endings.len(), self.uid_of(caller));
        let own = self.flights.iter().filter(|flight| self.uid_of(flight.caller) == uid).count();
        let of_peer = self.flights.iter().filter(|flight| flight.caller == caller).count();
        own + left + 1 > self.share(self.config.in_flight_max, self.flights.len() - own + left)
            || of_peer + left >= self.config.in_flight_per_peer_max
    }

    /// Whether one more connection of a user may be refused because of those that have gone with calls that have not ended so far.
    pub(crate) fn may_have_too_many_connections(&self, uid: Option<u32>) -> bool {
        // Both ends of one call may have gone.
        let (left, config) = (2 * self.endings.len(), &self.config);
        let own = self.connections.values().filter(|peer| peer.identity.uid == uid).count();
        let all = self.connections.len();
        all + left >= config.peers_max
            || own + left >= config.peers_per_uid_max
            || own + left + 1 > self.share(config.peers_max, all - own + left)
    }

    /// Whether a callee has left so much unread that a call of this caller must be refused.
    pub(crate) fn is_crowded(&self, caller: PeerId, callee: PeerId) -> bool {
        let (held, limit) = (self.connections[&callee].held, self.config.queue_calls_bytes_max);
        // As many as count as a flood are not in flight here.
        let own = self.flights.iter().filter(|flight| flight.caller == caller).count();
        if own >= bro_proto::limits::CROWDED_CALLS_PER_PEER_MAX { held > limit } else { held > limit + limit / 2 }
    }

    /// Whether the router may say that there is no memory for one more thing of this user. Judged by the accounts before the input.
    pub(crate) fn may_lack_memory(&self, uid: Option<u32>) -> bool {
        let memory_max = self.config.memory_max;
        let total: usize = self.users.iter().map(|user| user.memory_bytes).sum();
        let own = self.users.iter().find(|user| user.uid == uid).map_or(0, |user| user.memory_bytes);
        let limit = self.share(memory_max - memory_max / MEMORY_RESERVE_PARTS, total - own);
        own + ONE_MORE_BYTES > limit
    }

    /// Whether the router may refuse a call of this caller with this code although the model does not say that it must.
    pub(crate) fn may_refuse(&self, caller: PeerId, to: &str, code: &str, tally: &Tally) -> bool {
        match code {
            // Its callee was closed to free memory before the call was on its way.
            "CONNECTION_LOST" => {
                let is_closed = tally.closed.iter().any(|(_, reason)| *reason == CloseReason::Exhausted);
                let instances = self.services.get(to).map(|service| &service.instances);
                is_closed || instances.is_some_and(|peers| peers.keys().any(|&peer| self.may_evict(peer)))
            }
            "RESOURCE_EXHAUSTED" => self.may_lack_memory(self.uid_of(caller)) || self.may_have_too_many_calls(caller),
            "OVERLOADED" => {
                // A caller whose calls have not ended so far may count as one that has many.
                let has_much = |peer: &PeerId| self.connections[peer].held > self.config.queue_calls_bytes_max;
                let service = self.services.get(to).filter(|_| !self.endings.is_empty());
                service.is_some_and(|service| service.instances.keys().any(has_much))
                    || self.users.iter().any(|user| self.may_lack_memory(user.uid))
            }
            _ => false,
        }
    }

    /// Whether a connection may be closed to free memory: its user has at least as much as any other, when next to nothing is left, or has
    /// taken its share.
    pub(crate) fn may_evict(&self, peer: PeerId) -> bool {
        let uid = self.uid_of(peer);
        let own = self.users.iter().find(|user| user.uid == uid).map_or(0, |user| user.memory_bytes);
        let is_largest = self.users.iter().all(|user| user.memory_bytes <= own + ONE_MORE_BYTES);
        // Or this user has taken more than even answers to it may.
        let others: usize = self.users.iter().filter(|user| user.uid != uid).map(|user| user.memory_bytes).sum();
        let left = (self.config.memory_max - self.config.memory_max / MEMORY_RESERVE_PARTS).saturating_sub(others);
        let is_greedy = (own + ONE_MORE_BYTES) * 100 > left * usize::from(self.config.uid_share_percent);
        (is_largest || is_greedy) && self.users.iter().any(|user| self.may_lack_memory(user.uid))
    }

    /// Compares the router's accounts with what there is, and remembers them for the next input.
    pub(crate) fn check_users(&mut self, router: &Router, claimed: Vec<UserView>) -> Result<(), String> {
        let total: usize = claimed.iter().map(|user| user.memory_bytes).sum();
        if total != router.memory_bytes() || total > self.config.memory_max {
            let max = self.config.memory_max;
            return Err(format!("users have {total} bytes, of {} in total, of at most {max}", router.memory_bytes()));
        }
        for user in &claimed {
            let of_user = || self.connections.values().filter(|peer| peer.identity.uid == user.uid);
            let flights = self.flights.iter().filter(|flight| self.uid_of(flight.caller) == user.uid).count();
            let held: usize = of_user().map(|peer| peer.held).sum();
            let lanes = self.lanes.paid_by(|peer| self.uid_of(peer) == user.uid);
            let are_lanes_right = (user.lanes, user.lane_bytes) == (lanes, lanes * LANE_BYTES);
            let left = self.endings.len();
            let is_near = |claimed: usize, there: usize, more: usize| (there..=there + more).contains(&claimed);
            let is_right = is_near(user.connections, of_user().count(), 2 * left)
                && is_near(user.in_flight, flights, 2 * left)
                && are_lanes_right;
            if !is_right || user.memory_bytes < held {
                return Err(format!(
                    "{user:?}: there are {} connections, {flights} calls, {held} bytes, {lanes} lanes",
                    of_user().count()
                ));
            }
        }
        let connections: usize = claimed.iter().map(|user| user.connections).sum();
        if !(self.connections.len()..=self.connections.len() + 2 * self.endings.len()).contains(&connections) {
            return Err(format!("connections without a user: {claimed:?}"));
        }
        self.users = claimed;
        Ok(())
    }

    pub(crate) fn uid_of(&self, peer: PeerId) -> Option<u32> {
        self.connections.get(&peer).and_then(|connection| connection.identity.uid)
    }

    /// What one user may have beside what the others have.
    pub(crate) fn share(&self, max: usize, others: usize) -> usize {
        (max.saturating_sub(others) * usize::from(self.config.uid_share_percent)).div_ceil(100)
    }
}
