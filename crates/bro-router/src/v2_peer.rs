//! What the two sides of a connection of version 2 have told each other: routes by the client, callers' names by the gateway.

#[path = "state/v2_peer.rs"]
mod state;

use crate::event::CloseReason;
use crate::lanes::BusyPeers;
use crate::outbox::{Outbox, Part};
use crate::peers::LastRoute;
use crate::registry::Registry;
use crate::router::Router;
use crate::v2_call::Refusal;
use bro_proto::limits::{GATEWAY_SERVICE, NAMES_PER_PEER_MAX, ROUTES_BYTES_MAX, ROUTES_PER_PEER_MAX};
use bro_proto::v2::{self, encode};
use bro_proto::{ErrorBody, ErrorCode, Now};
use hashbrown::HashTable;

/// The state of one connection. An idle one owns no memory outside this struct.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct V2Peer {
    /// By route number. In one cache line with where the callee is counted that is called most.
    routes: Vec<Route>,
    pub(crate) busy: BusyPeers,
    /// What the routes take.
    route_bytes: usize,
    /// Names told: serial of the caller's service, and its number.
    names: HashTable<(u64, u32)>,
    /// Indices of its lanes; at most [`bro_proto::limits::LANES_PER_PEER_MAX`].
    pub(crate) lanes: Vec<u32>,
}

/// A service that the client calls, and where it was found the last time.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) name: Box<str>,
    index: u32,
    serial: u64,
}

/// Where a call goes.
pub(crate) enum Target {
    Service {
        index: u32,
        /// Its only instance, if that was found without asking the service.
        only: Option<u32>,
    },
    Gateway,
}

/// The number of a caller's name on a connection.
pub(crate) struct Introduction {
    pub(crate) number: u32,
    /// It has to be told first.
    pub(crate) is_new: bool,
    /// And those told before are forgotten.
    pub(crate) forgets: bool,
}

impl V2Peer {
    /// Binds a route number. Numbers are taken in order, so that one claims no more memory than its name; false otherwise.
    pub(crate) fn bind(&mut self, number: u64, name: &str) -> bool {
        // Nothing is looked up now: serial 0 is nobody's.
        let route = Route { name: name.into(), index: 0, serial: 0 };
        let bytes = route.bytes();
        match usize::try_from(number) {
            Ok(number) if number < self.routes.len() => {
                self.route_bytes -= std::mem::replace(&mut self.routes[number], route).bytes();
            }
            Ok(number) if number == self.routes.len() && number < ROUTES_PER_PEER_MAX => self.routes.push(route),
            _ => return false,
        }
        self.route_bytes += bytes;
        true
    }

    /// Bytes that its routes take, roughly.
    pub(crate) fn route_bytes(&self) -> usize {
        self.route_bytes
    }

    pub(crate) fn route(&self, number: u32) -> Option<&Route> {
        self.routes.get(number as usize)
    }

    /// Remembers where the service of a route is.
    pub(crate) fn found(&mut self, number: u32, index: u32, serial: u64) {
        let route = &mut self.routes[number as usize];
        (route.index, route.serial) = (index, serial);
    }

    /// The number of a caller's name, by the serial of its service.
    pub(crate) fn introduce(&mut self, serial: u64) -> Introduction {
        if let Some(&known) = self.names.find(hash(serial), |entry| entry.0 == serial) {
            return Introduction { number: known.1, is_new: false, forgets: false };
        }
        let forgets = self.names.len() >= NAMES_PER_PEER_MAX;
        if forgets {
            self.names.clear();
        }
        let number = u32::try_from(self.names.len()).expect("few names");
        self.names.insert_unique(hash(serial), (serial, number), |entry| hash(entry.0));
        Introduction { number, is_new: true, forgets }
    }
}

impl Router {
    /// Where a call goes: its caller names that by a route.
    #[inline]
    pub(crate) fn find_target(&mut self, caller: u32, call: &v2::Call<'_>) -> Result<Target, Refusal> {
        if let Some(callee) = self.peers.last_callee(caller, call.peer) {
            return Ok(Target::Service { index: self.peers[callee].service, only: Some(callee) });
        }
        self.look_up_route(caller, call.peer, call.method)
    }

    fn look_up_route(&mut self, caller: u32, number: u32, method: &str) -> Result<Target, Refusal> {
        self.check_route(caller, number, method)?;
        let Router { peers, registry, hasher, .. } = self;
        let Some(state) = &mut peers[caller].v2 else { return Err(Refusal::Closed("not of version 2")) };
        let Some(route) = state.route(number) else { return Err(Refusal::Closed("a route that was not bound")) };
        let known = route.known(registry);
        let Some(index) = known.or_else(|| registry.find(hasher, &route.name)) else {
            if *route.name == *GATEWAY_SERVICE {
                return Ok(Target::Gateway);
            }
            let name = route.name.clone();
            return Err(self.unknown_service(caller, &name).into());
        };
        let serial = registry[index].serial;
        if known.is_none() {
            state.found(number, index, serial);
        }
        if let Some(callee) = registry.only_instance(index)
            && peers[caller].restriction.is_none()
        {
            peers[caller].last_route = LastRoute { number, callee, serial };
        }
        Ok(Target::Service { index, only: None })
    }

    /// The number of the caller's name for the callee, which is told first where it is new.
    #[inline]
    pub(crate) fn introduce(&mut self, callee: u32, caller: u32, now: Now, out: &mut impl Outbox) -> u32 {
        let serial = self.peers[caller].serial;
        let peer = &self.peers[callee];
        if peer.last_name_serial == serial {
            return peer.last_name;
        }
        self.look_up_name(callee, caller, now, out)
    }

    fn look_up_name(&mut self, callee: u32, caller: u32, now: Now, out: &mut impl Outbox) -> u32 {
        let (service, serial) = (self.peers[caller].service, self.peers[caller].serial);
        let peer = &mut self.peers[callee];
        let introduction = peer.v2.as_mut().expect("the callee speaks version 2").introduce(serial);
        (peer.last_name_serial, peer.last_name) = (serial, introduction.number);
        if introduction.is_new {
            let mut frame = std::mem::take(&mut self.scratch);
            encode::name(&mut frame, introduction.number, &self.registry[service].name, introduction.forgets);
            let parts = [Part::Scratch(&frame)];
            self.peers.send_unpaused(callee, &parts, now, &mut self.timers, &mut self.counters, out);
            self.keep_scratch(frame);
        }
        introduction.number
    }

    /// RESOLVE: a route number means a name from now on.
    pub(crate) fn bind_route(&mut self, slot: u32, number: u64, name: &str, now: Now, out: &mut impl Outbox) {
        let state = self.peers[slot].v2.as_mut().expect("it speaks version 2");
        let before = state.route_bytes();
        if !state.bind(number, name) {
            return self.violated(slot, "a RESOLVE of a route number that is not the next one", now, out);
        }
        let after = state.route_bytes();
        if let Some(restriction) = &mut self.peers[slot].restriction {
            restriction.forget_route(number);
        }
        self.peers[slot].last_route = LastRoute::NONE;
        self.peers.route_bytes = self.peers.route_bytes - before + after;
        if self.peers.route_bytes > ROUTES_BYTES_MAX {
            let message = format!("the routes of all connections take {ROUTES_BYTES_MAX} bytes already: bind fewer");
            self.warn(slot, &message, now, out);
            let error = ErrorBody::new(ErrorCode::ResourceExhausted, message);
            self.close_peer(slot, CloseReason::Refused, Some(&error), now, out);
        }
    }
}

impl Route {
    fn bytes(&self) -> usize {
        size_of::<Route>() + self.name.len()
    }

    /// Where the service was, if it is there still.
    #[inline]
    pub(crate) fn known(&self, registry: &Registry) -> Option<u32> {
        registry.is_same(self.index, self.serial).then_some(self.index)
    }
}

/// Serials are counted by the gateway: nobody can choose them so that they collide.
fn hash(serial: u64) -> u64 {
    serial.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn route_numbers_claim_no_memory() {
        let mut peer = V2Peer::default();
        assert!(!peer.bind(1, "a") && !peer.bind(u64::MAX, "a"));
        for number in 0..ROUTES_PER_PEER_MAX as u64 {
            assert!(peer.bind(number, "a"));
        }
        assert!(!peer.bind(ROUTES_PER_PEER_MAX as u64, "a"), "the table is full");
        assert!(peer.bind(7, "b"), "numbers can be used again");
        assert_eq!(peer.route(7).map(|route| &*route.name), Some("b"));
        assert!(peer.route(5000).is_none());
    }

    #[test]
    fn a_name_is_told_once_until_all_are_forgotten() {
        let mut peer = V2Peer::default();
        for round in 0..2 {
            for serial in 1..=NAMES_PER_PEER_MAX as u64 {
                let first = peer.introduce(serial + round * 10_000);
                assert_eq!((first.is_new, first.forgets), (true, round == 1 && serial == 1));
                assert_eq!(u64::from(first.number), serial - 1);
                assert!(!peer.introduce(serial + round * 10_000).is_new);
            }
        }
        assert!(!peer.introduce(10_001).is_new && peer.introduce(1).is_new);
    }
}
