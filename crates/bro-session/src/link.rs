//! What a connection of version 2 has told so far: routes, names, and the numbers of requests in work.

use crate::requests::RequestId;
use bro_proto::limits::{NAMES_PER_PEER_MAX, ROUTES_PER_PEER_MAX};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

/// Numbers whose memory is kept once no request is in work.
const RETAINED_LEN_MAX: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct Link {
    pub(crate) routes: Routes,
    pub(crate) names: Names,
    pub(crate) numbers: Numbers,
    /// A PING that was sent behind DRAIN has no answer so far: calls may be under way that the gateway sent before it knew.
    pub(crate) drain_unanswered: bool,
}

/// The services that this side has bound route numbers to.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    /// By number.
    services: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u32>,
    /// The route of the last call: most programs call few services.
    last: u32,
    /// The number that is bound anew when none is free.
    oldest: u32,
}

impl Routes {
    /// The number of a service, and whether it must be bound by RESOLVE first.
    pub(crate) fn number(&mut self, service: &str) -> (u32, bool) {
        if self.services.get(self.last as usize).is_some_and(|last| &**last == service) {
            return (self.last, false);
        }
        if let Some(&number) = self.numbers.get(service) {
            self.last = number;
            return (number, false);
        }
        let service: Arc<str> = service.into();
        let number = if self.services.len() < ROUTES_PER_PEER_MAX {
            self.services.push(service.clone());
            u32::try_from(self.services.len() - 1).expect("few routes")
        } else {
            let number = self.oldest;
            self.oldest = (number + 1) % u32::try_from(ROUTES_PER_PEER_MAX).expect("few routes");
            let before = std::mem::replace(&mut self.services[number as usize], service.clone());
            self.numbers.remove(&before);
            number
        };
        self.numbers.insert(service, number);
        self.last = number;
        (number, true)
    }
}

/// The callers that the gateway has told numbers of.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// By number.
    callers: Vec<Option<Arc<str>>>,
}

impl Names {
    pub(crate) fn find(&self, number: u32) -> Option<&Arc<str>> {
        self.callers.get(number as usize)?.as_ref()
    }

    /// False when the number is out of bounds.
    pub(crate) fn learn(&mut self, number: u64, caller: &str, forgets: bool) -> bool {
        let Some(at) = usize::try_from(number).ok().filter(|&at| at < NAMES_PER_PEER_MAX) else { return false };
        if forgets {
            self.callers.clear();
        }
        if self.callers.len() <= at {
            self.callers.resize(at + 1, None);
        }
        self.callers[at] = Some(caller.into());
        true
    }
}

/// Which request has which number of the gateway, for CANCEL.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    requests: HashMap<u64, RequestId, BuildHasherDefault<Multiplied>>,
}

impl Numbers {
    pub(crate) fn contains(&self, number: u64) -> bool {
        self.requests.contains_key(&number)
    }

    pub(crate) fn find(&self, number: u64) -> Option<RequestId> {
        self.requests.get(&number).copied()
    }

    pub(crate) fn insert(&mut self, number: u64, id: RequestId) {
        self.requests.insert(number, id);
    }

    pub(crate) fn remove(&mut self, number: u64) {
        self.requests.remove(&number);
        if self.requests.is_empty() && self.requests.capacity() > 2 * RETAINED_LEN_MAX {
            self.requests = HashMap::default();
        }
    }
}

/// Hashes numbers by one multiplication. They are chosen by the gateway, which has easier ways to keep its clients busy than
/// collisions.
#[derive(Debug, Default)]
pub(crate) struct Multiplied(u64);

impl Hasher for Multiplied {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte) ^ self.0);
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "the halves are what is wanted")]
    fn write_u64(&mut self, number: u64) {
        let product = u128::from(number) * 0x9e37_79b9_7f4a_7c15_u128;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_bound_once_and_reused_in_turn_when_all_are() {
        let mut routes = Routes::default();
        assert_eq!([routes.number("a"), routes.number("b"), routes.number("a")], [(0, true), (1, true), (0, false)]);
        for n in 2..ROUTES_PER_PEER_MAX {
            assert!(routes.number(&n.to_string()).1);
        }
        assert_eq!(routes.number("more"), (0, true));
        assert_eq!(routes.number("b"), (1, false), "the others are still bound");
        assert_eq!(routes.number("a"), (1, true), "bound anew in place of the next one");
        assert_eq!(routes.number("b"), (2, true));
        assert_eq!((routes.services.len(), routes.numbers.len()), (ROUTES_PER_PEER_MAX, ROUTES_PER_PEER_MAX));
    }

    #[test]
    fn names_are_bounded_and_forgotten_when_told_so() {
        let mut names = Names::default();
        assert!(names.learn(3, "user", false) && names.learn(3, "role", false));
        assert_eq!(names.find(3).map(|name| &**name), Some("role"));
        assert!(names.find(2).is_none() && names.find(4).is_none());
        assert!(!names.learn(NAMES_PER_PEER_MAX as u64, "x", false) && !names.learn(u64::MAX, "x", true));
        assert!(names.find(3).is_some(), "what is refused changes nothing");
        assert!(names.learn(0, "x", true));
        assert!(names.find(3).is_none());
    }

    #[test]
    fn the_memory_of_a_burst_of_numbers_is_given_back() {
        let mut numbers = Numbers::default();
        for slot in 0..5000 {
            numbers.insert(u64::from(slot) << 32, RequestId { slot, generation: 1 });
        }
        assert_eq!(numbers.find(7 << 32), Some(RequestId { slot: 7, generation: 1 }));
        for slot in 0..5000 {
            assert!(numbers.contains(slot << 32));
            numbers.remove(slot << 32);
        }
        assert_eq!(numbers.requests.capacity(), 0);
    }
}
