//! The router's own view of whether it is in order, for tests.

use crate::accounts::Resource;
use crate::calls::{CallerId, Calls, Side};
use crate::drain::Phase;
use crate::parked::Wait;
use crate::peers::{NIL, UNPOOLED};
use crate::router::Router;
use bro_proto::limits::{
    CALL_CHARGE_BYTES, EVENT_LOG_BYTES_MAX, EVENT_LOG_LEN_MAX, LANES_BYTES_PER_PEER_MAX, LANES_MAX, LANES_PER_PEER_MAX,
    PARKED_MAX, PEER_CHARGE_BYTES, REGISTRY_BYTES_MAX, ROUTES_BYTES_MAX,
};

impl Router {
    /// Panics unless all tables agree with each other. Costs a walk through everything.
    #[doc(hidden)]
    pub fn check_invariants(&self) {
        assert!(self.peers.doomed.is_empty(), "what is doomed goes within the input that doomed it");
        assert!(self.scratch.is_empty(), "the scratch buffer is empty between inputs");
        self.check_ends();
        let timers =
            self.check_peers() + self.check_services() + self.check_calls() + self.check_parked() + self.check_lanes();
        let is_draining = matches!(self.phase, Phase::Draining(_));
        let others = usize::from(self.reporter.log.is_recording()) + usize::from(is_draining);
        assert_eq!(self.timers.len(), timers + others, "every timer has an owner");
        assert!(self.reporter.log.len() <= EVENT_LOG_LEN_MAX && self.reporter.log.bytes() <= EVENT_LOG_BYTES_MAX);
        assert!(self.registry.description_bytes() <= REGISTRY_BYTES_MAX);
        if self.phase == Phase::Ended {
            assert_eq!(self.peers.len(), 0, "nobody is connected after the end");
        }
    }

    fn check_peers(&self) -> usize {
        let (mut count, mut charged, mut queued, mut timers) = (0, 0, 0, 0);
        for slot in 0..u32::try_from(self.peers.slots_len()).expect("few") {
            self.check_call_lists(slot);
            if self.peers.departures.contains_key(&slot) {
                charged += PEER_CHARGE_BYTES;
            }
        }
        for slot in self.peers.live() {
            let peer = &self.peers[slot];
            count += 1;
            queued += peer.queued_bytes;
            charged += PEER_CHARGE_BYTES + peer.queued_bytes + peer.kept_bytes + peer.table_bytes;
            let pending = [peer.register_timer, peer.partial_timer, peer.stall_timer];
            timers += pending.iter().filter(|timer| timer.is_some()).count();
            assert!(!peer.is_doomed);
            let name = (peer.service != NIL).then(|| &*self.registry[peer.service].name);
            let is_decided = peer.restriction.is_none() || peer.last_route.callee == NIL;
            assert!(is_decided, "each call of who may not do everything is decided on");
            assert!(name.is_none_or(|name| self.check_own(slot, name).is_ok()), "who is a service may be it");
            assert_eq!(peer.service == NIL, peer.register_timer.is_some(), "who is not registered is waited for");
            assert!(peer.queued_bytes == 0 || peer.stall_timer.is_some(), "a queue is watched");
            assert!(peer.partial_timer.is_none() || peer.is_mid_frame);
            assert_eq!(peer.stall_timer.is_some(), peer.is_stall_timed);
            assert_eq!(peer.serial, if peer.service == NIL { 0 } else { self.registry[peer.service].serial });
            assert!(peer.v2.is_some() || !peer.takes_lanes);
            assert!(peer.queued_bytes <= self.config.queue_bytes_max);
            assert_eq!(self.parked.list_len(peer.parked.head), peer.parked.len as usize);
        }
        assert_eq!(count, self.peers.len());
        assert_eq!(queued, self.peers.queued_bytes(), "the sum of the queues is kept");
        let states = self.peers.live().filter_map(|slot| self.peers[slot].v2.as_ref());
        assert_eq!(states.map(|state| state.route_bytes()).sum::<usize>(), self.peers.route_bytes);
        let accounts = &self.peers.accounts;
        accounts.check_sums();
        let calls = self.calls.iter().map(|(_, call)| call.charged_bytes()).sum::<usize>();
        let parked = self.parked.iter().map(|(_, call)| call.charged_bytes()).sum::<usize>();
        let stumps = self.calls.stumps_len() * CALL_CHARGE_BYTES;
        let others = self.peers.route_bytes + self.registry.description_bytes() + calls + stumps + parked;
        assert_eq!(charged + others, accounts.total(Resource::Memory), "the sum of charges is the total");
        let totals = [
            (Resource::Peers, self.peers.held_len()),
            (Resource::Calls, self.calls.len() + self.calls.stumps_len()),
            (Resource::Registry, self.registry.description_bytes()),
            (Resource::Routes, self.peers.route_bytes),
            (Resource::Sections, self.calls.section_bytes()),
            (Resource::Parked, self.parked.len()),
            (Resource::Lanes, self.lanes.len()),
            (Resource::LaneBytes, self.lanes.iter().map(|(_, lane)| lane.bytes()).sum()),
        ];
        for (resource, total) in totals {
            assert_eq!(accounts.total(resource), total, "what is charged as {resource:?} is there");
        }
        assert_eq!(self.peers.doomed_bytes, 0);
        assert!(self.peers.route_bytes <= ROUTES_BYTES_MAX);
        assert!(self.peers.held_len() <= self.config.peers_max && self.peers.slots_len() <= self.config.peers_max);
        timers
    }

    fn check_call_lists(&self, slot: u32) {
        let peer = &self.peers[slot];
        let is_there = peer.is_live || self.peers.departures.contains_key(&slot);
        for side in [Side::Caller, Side::Callee] {
            let list = peer.calls[side as usize];
            let (mut len, mut index) = (0, list.head);
            while index != NIL {
                let call = &self.calls[index];
                let end = if side == Side::Caller { call.caller() } else { call.callee() };
                assert!(is_there && call.is_live() && end == slot, "a list holds live calls of its peer");
                len += 1;
                index = self.calls.next(index, side);
            }
            assert_eq!(len, list.len);
        }
    }

    fn check_services(&self) -> usize {
        let (mut count, mut bytes) = (0, 0);
        for (index, service) in self.registry.iter() {
            count += 1;
            bytes += service.description.bytes();
            assert!(service.instances_len >= 1, "a service has an instance");
            assert_eq!(self.registry.find(&self.hasher, &service.name), Some(index), "it is found by name");
            let mut taken = 0_u64;
            let ring: Vec<u32> = self.registry.ring(&self.peers, index).collect();
            for (at, &slot) in ring.iter().enumerate() {
                let peer = &self.peers[slot];
                assert!(peer.is_live && peer.service == index, "an instance lives and knows its service");
                assert!(!ring[..at].contains(&slot), "the ring visits each instance once");
                assert_eq!(peer.ring_next, ring[(at + 1) % ring.len()]);
                assert_eq!(self.peers[peer.ring_next].ring_prev, slot);
                assert_eq!(peer.pool_index == UNPOOLED, service.pool_size == 1);
                taken |= if peer.pool_index == UNPOOLED { 0 } else { 1 << peer.pool_index };
            }
            assert_eq!(taken, service.pool_taken);
        }
        assert_eq!(count, self.registry.len());
        assert_eq!(bytes, self.registry.description_bytes());
        count
    }

    fn check_calls(&self) -> usize {
        let (mut count, mut section_bytes) = (0, 0);
        for (index, call) in self.calls.iter() {
            count += 1;
            for slot in [call.caller(), call.callee()] {
                let is_registered = self.peers.is_live(slot) && self.peers[slot].service != NIL;
                assert!(
                    is_registered || self.peers.departures.contains_key(&slot),
                    "both ends of a call live, or it is about to end"
                );
            }
            let speaks_v2 = |slot: u32| self.peers.is_live(slot).then(|| self.peers[slot].v2.is_some());
            assert_ne!(Some(call.is_tabled()), speaks_v2(call.callee()), "callees of version 1 know calls by texts");
            if call.is_tabled() {
                let callee_id = std::str::from_utf8(call.callee_id()).expect("ids are texts");
                let hash = Calls::hash(&self.hasher, call.callee(), callee_id);
                let found = self.calls.find(hash, call.callee(), callee_id);
                assert_eq!(found, Some(index), "a callee knows no two calls by one id");
            }
            assert_eq!(self.calls.find_number(self.calls.number(index)), Some(index));
            match call.caller_id() {
                CallerId::Text(_) => assert_ne!(speaks_v2(call.caller()), Some(true)),
                CallerId::Number(number) => {
                    assert_ne!(speaks_v2(call.caller()), Some(false));
                    assert_eq!(self.calls.find_caller_number(call.caller(), number), Some(index));
                }
            }
            if let Some(at) = self.calls.parent(index)
                && self.calls.stump_decided(at).is_none()
            {
                let parent = &self.calls[at];
                assert!(parent.is_live() && self.name_of(parent.callee()) == self.name_of(call.caller()));
                assert!(call.deadline_ms() <= parent.deadline_ms(), "deadlines only shrink");
            }
            section_bytes += call.section().len();
        }
        assert_eq!(section_bytes, self.calls.section_bytes());
        assert!(section_bytes <= bro_proto::limits::SECTIONS_BYTES_MAX);
        assert_eq!(count, self.calls.len());
        assert!(count + self.calls.stumps_len() <= self.config.in_flight_max);
        count
    }

    fn check_lanes(&self) -> usize {
        let (mut timers, mut ends) = (0, 0);
        for (index, lane) in self.lanes.iter() {
            timers += usize::from(lane.has_timer());
            assert!(self.peers.is_live(lane.ends()[0]), "a lane goes with its peers");
            for end in lane.ends().into_iter().filter(|&end| end != NIL) {
                ends += 1;
                let state = self.peers[end].v2.as_ref().expect("peers with lanes speak version 2");
                assert_eq!(state.lanes.iter().filter(|&&lane| lane == index).count(), 1);
                assert!(state.lanes.len() <= LANES_PER_PEER_MAX);
                assert!(self.lanes.bytes_of(&state.lanes) <= LANES_BYTES_PER_PEER_MAX);
            }
            let same = self.lanes.iter().filter(|(_, other)| other.number() == lane.number()).count();
            assert_eq!(same, 1, "a number names one lane");
            let has_two = lane.ends()[1] != NIL;
            assert!(!has_two || self.may_share_lane(lane.ends()), "a lane is where every call is allowed");
        }
        let of_peers = |slot: u32| self.peers[slot].v2.as_ref().map_or(0, |state| state.lanes.len());
        assert_eq!(ends, self.peers.live().map(of_peers).sum::<usize>());
        assert!(self.lanes.len() <= LANES_MAX);
        assert!(self.lanes.len() == 0 || !self.is_watched(), "who watches sees every call");
        timers
    }

    fn check_parked(&self) -> usize {
        let mut watchers = 0;
        for (index, call) in self.parked.iter() {
            assert!(self.peers.is_live(call.caller), "who waits lives");
            match &call.wait {
                Wait::Events { place, .. } => {
                    watchers += 1;
                    assert_eq!(self.check_inquiry(call.caller, "events"), Ok(()), "who watches may do so");
                    assert_eq!(self.parked.watchers()[*place], index);
                }
                Wait::Policy { wish } => assert!(self.permissions.has_wish(*wish), "a wish was made"),
                Wait::Service { name, .. } => {
                    assert_eq!(self.registry.find(&self.hasher, name), None, "it waits for what is not there");
                }
            }
        }
        assert_eq!(watchers, self.parked.watchers().len());
        assert!(watchers == 0 || self.reporter.log.is_recording(), "who watches has a lease");
        assert!(self.parked.len() <= PARKED_MAX);
        self.parked.len()
    }
}
