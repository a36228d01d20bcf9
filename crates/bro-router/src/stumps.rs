//! Stumps: calls that were given up, while calls that were made for them are left.
//!
//! A call that is given up takes all below it along, and there may be more than one input is to end. So its slot stays, as a stump, until the last
//! of its children has ended: the list of children is the list of what is to be done, and needs no memory of its own. A child that is given up
//! and has children is the next stump. Nobody else knows of a stump: it has ended, for its caller and for its callee.
//!
//! Invariant: a stump has a child. It has no parent, and is charged as a call until it goes.

use super::{Call, Calls, Link, Side, next_generation};
use crate::accounts::Resource;
use crate::peers::{NIL, Peers};
use bro_proto::limits::CALL_CHARGE_BYTES;

impl Calls {
    /// Takes out a call that is given up, at this moment in the order of such decisions. If calls were made for it, it leaves a stump.
    pub(crate) fn fell(&mut self, peers: &mut Peers, index: u32, decided: u64) -> Call {
        if self[index].child == NIL {
            return self.remove(peers, index);
        }
        let (account, text_bytes) = self.withdraw(peers, index);
        peers.accounts.release(account, Resource::Memory, text_bytes);
        let ended = self.take(index);
        let next = std::mem::replace(&mut self.stumps, index);
        let place = &mut self.slots[index as usize];
        place.is_stump = true;
        place.links[0] = Link { prev: NIL, next };
        place.ends[Side::Caller as usize] = account;
        place.decided = decided;
        if next != NIL {
            self.slots[next as usize].links[0].prev = index;
        }
        self.stumps_len += 1;
        ended
    }

    /// The next call that is to end with the one that it was made for, and when that was decided.
    pub(crate) fn on_stump(&self) -> Option<(u32, u64)> {
        let stump = self.slots.get(self.stumps as usize)?;
        Some((stump.child, stump.decided))
    }

    /// When that slot became a stump, if it is one.
    pub(crate) fn stump_decided(&self, index: u32) -> Option<u64> {
        let place = &self[index];
        place.is_stump.then_some(place.decided)
    }

    pub(crate) fn stumps_len(&self) -> usize {
        self.stumps_len
    }

    /// The last child has gone.
    pub(super) fn clear_stump(&mut self, peers: &mut Peers, index: u32) {
        let free = self.free;
        let place = &mut self.slots[index as usize];
        let Link { prev, next } = place.links[0];
        place.is_stump = false;
        place.generation = next_generation(place.generation);
        place.links[0].next = free;
        let account = place.ends[Side::Caller as usize];
        self.free = index;
        if prev == NIL {
            self.stumps = next;
        } else {
            self.slots[prev as usize].links[0].next = next;
        }
        if next != NIL {
            self.slots[next as usize].links[0].prev = prev;
        }
        self.stumps_len -= 1;
        peers.accounts.release(account, Resource::Calls, 1);
        peers.accounts.release(account, Resource::Memory, CALL_CHARGE_BYTES);
    }

    /// Panics unless the stumps are in order.
    pub(crate) fn check_stumps(&self) {
        let (mut count, mut prev, mut index) = (0, NIL, self.stumps);
        while index != NIL {
            let place = &self[index];
            assert!(place.is_stump && !place.is_live && place.parent == NIL && place.links[0].prev == prev);
            assert!(place.child != NIL && self.parent(place.child) == Some(index), "a stump has a child");
            count += 1;
            (prev, index) = (index, place.links[0].next);
        }
        let are_marked = self.slots.iter().filter(|place| place.is_stump).count();
        assert_eq!((count, are_marked), (self.stumps_len, self.stumps_len));
    }
}
