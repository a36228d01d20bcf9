//! Calls in flight: each in two lists, in a table by what its answer will say, and in the timer wheel.

#[path = "state/calls.rs"]
mod state;
#[path = "stumps.rs"]
mod stumps;

use crate::accounts::Resource;
use crate::hash::KeyedHash;
use crate::peers::{NIL, Peers};
use bro_proto::limits::{CALL_CHARGE_BYTES, CONTEXT_ECHO_BYTES_MAX};
use bro_proto::timer::TimerId;
use bro_proto::v1::{Encoding, Payload};
use bro_proto::v2::CallNumber;
use hashbrown::HashTable;
use std::borrow::Cow;

/// The two peers of a call, as indices into what is kept twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Who waits for the answer.
    Caller = 0,
    /// Who was asked.
    Callee = 1,
}

/// Buffers kept for later calls, so that routing allocates nothing in the steady state.
const SPARE_BUFFERS_MAX: usize = 1024;
/// Larger buffers are given back.
const SPARE_BUFFER_BYTES_MAX: usize = 1024;
/// What a slot keeps for its next call: a method's name.
const SLOT_TEXT_BYTES_MAX: usize = 64;
/// Above this many slots an empty table gives its memory back.
const IDLE_SLOTS_MAX: usize = 4096;

#[derive(Clone, Copy, Debug)]
struct Link {
    prev: u32,
    next: u32,
}

/// What the caller of a call knows it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallerId<'a> {
    /// A caller of version 1.
    Text(&'a str),
    /// A caller of version 2.
    Number(u64),
}

impl<'a> CallerId<'a> {
    /// As people see it.
    pub(crate) fn text(self) -> Cow<'a, str> {
        match self {
            CallerId::Text(text) => Cow::Borrowed(text),
            CallerId::Number(number) => Cow::Owned(CallNumber::from_wire(number).to_string()),
        }
    }
}

/// What the callee of a call knows it by.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CalleeId<'a> {
    /// The text of the caller's id; with its hash from [`Calls::hash`].
    Shared(u64),
    /// Another text; with its hash.
    Own(u64, &'a str),
    /// The number that the table gives: a callee of version 2.
    Number,
}

/// One call in flight.
#[derive(Debug)]
pub(crate) struct Call {
    is_live: bool,
    /// It was given up, and is kept for the calls that were made for it; see [`stumps`].
    is_stump: bool,
    /// The callee answers with a text, and the call is in the table of these.
    is_tabled: bool,
    /// Counts the uses of the slot; with the index it is the number that a callee of version 2 knows.
    generation: u32,
    /// Peer slots by [`Side`].
    ends: [u32; 2],
    /// Places in the lists of the two peers, by [`Side`]. For a free slot the first `next` is the next free slot.
    links: [Link; 2],
    /// The call that this one was made for, the first of those made for it, and its place among its siblings. A parent that has another
    /// generation by now has ended: its children go on without one, and nobody had to go to each of them for it.
    parent: u32,
    parent_generation: u32,
    child: u32,
    sibling: Link,
    /// Of the callee's id, if that is a text.
    hash: u64,
    /// 0 when the caller knows the call by a text.
    caller_number: u64,
    /// Stamp of the chain that begins with this call; 0 when there is a context or a section.
    pub(crate) root: u64,
    pub(crate) timer: TimerId,
    /// Of a stump: when it was given up, in the order of such decisions.
    decided: u64,
    /// Monotonic, when it was routed.
    pub(crate) started_us: u64,
    /// The time that it was given.
    pub(crate) timeout_ms: u64,
    id_end: u16,
    callee_id_end: u16,
    method_end: u16,
    context_encoding: Encoding,
    context_end: u32,
    /// Caller's id, callee's id (only if it differs), method, context as the caller wrote it (if it is to be echoed), section
    /// (if calls may be made for this one and it did not begin its chain).
    text: Vec<u8>,
}

impl Call {
    pub(crate) fn caller(&self) -> u32 {
        self.ends[Side::Caller as usize]
    }

    pub(crate) fn callee(&self) -> u32 {
        self.ends[Side::Callee as usize]
    }

    /// What the caller's id hashes to, if the callee knows the call by it; ids of the gateway's own never come again.
    pub(crate) fn shared_id_hash(&self) -> Option<u64> {
        (self.is_tabled && !self.is_renamed()).then_some(self.hash)
    }

    pub(crate) fn is_live(&self) -> bool {
        self.is_live
    }

    pub(crate) fn caller_id(&self) -> CallerId<'_> {
        match self.caller_number {
            0 => CallerId::Text(self.str(0, self.id_end)),
            number => CallerId::Number(number),
        }
    }

    /// The number that a caller of version 2 knows the call by.
    pub(crate) fn caller_number(&self) -> Option<u64> {
        (self.caller_number != 0).then_some(self.caller_number)
    }

    /// The id that a callee of version 1 knows, as bytes: they are compared for every answer.
    pub(crate) fn callee_id(&self) -> &[u8] {
        let start = if self.is_renamed() { self.id_end } else { 0 };
        &self.text[start as usize..self.callee_id_end as usize]
    }

    /// Whether the callee knows the call by another text than the caller.
    pub(crate) fn is_renamed(&self) -> bool {
        self.callee_id_end != self.id_end
    }

    pub(crate) fn method(&self) -> &str {
        self.str(self.callee_id_end, self.method_end)
    }

    /// The caller's context as it was written; empty when there is none to echo.
    pub(crate) fn context(&self) -> Payload<'_> {
        let bytes = &self.text[self.method_end as usize..self.context_end as usize];
        Payload { encoding: self.context_encoding, bytes }
    }

    /// The context section of the call; empty when its chain begins with it, or its callee is of version 1.
    pub(crate) fn section(&self) -> &[u8] {
        &self.text[self.context_end as usize..]
    }

    /// Monotonic milliseconds of its deadline.
    pub(crate) fn deadline_ms(&self) -> u64 {
        (self.started_us / 1000).saturating_add(self.timeout_ms)
    }

    /// What its caller's account is charged for it.
    pub(crate) fn charged_bytes(&self) -> usize {
        CALL_CHARGE_BYTES + self.text.len()
    }

    pub(crate) fn is_tabled(&self) -> bool {
        self.is_tabled
    }

    fn str(&self, start: u16, end: u16) -> &str {
        std::str::from_utf8(&self.text[start as usize..end as usize]).expect("written from texts")
    }
}

/// A call to be added.
pub(crate) struct NewCall<'a> {
    pub(crate) caller: u32,
    pub(crate) callee: u32,
    pub(crate) id: CallerId<'a>,
    pub(crate) callee_id: CalleeId<'a>,
    pub(crate) method: &'a str,
    /// To be echoed to a caller of version 1.
    pub(crate) context: Payload<'a>,
    /// For the calls that a callee of version 2 may make for it.
    pub(crate) section: &'a [u8],
    pub(crate) root: u64,
    /// The call that it is made for, or `NIL`.
    pub(crate) parent: u32,
    pub(crate) timer: TimerId,
    pub(crate) started_us: u64,
    pub(crate) timeout_ms: u64,
}

/// All calls in flight.
#[derive(Debug)]
pub(crate) struct Calls {
    slots: Vec<Call>,
    free: u32,
    len: usize,
    /// The generation that a slot begins with. Invariant: above that of every slot given back, and not 0.
    first_generation: u32,
    hasher: KeyedHash,
    /// By callee and the id that the callee knows, where that is a text.
    by_callee_id: HashTable<u32>,
    /// By caller and the number that the caller knows, where that is a number.
    by_caller_number: HashTable<u32>,
    /// The first of the stumps.
    stumps: u32,
    stumps_len: usize,
    /// Bytes of all sections.
    section_bytes: usize,
    spare: Vec<Vec<u8>>,
}

impl Calls {
    pub(crate) fn new(hasher: KeyedHash) -> Self {
        Self {
            slots: Vec::new(),
            free: NIL,
            len: 0,
            first_generation: 1,
            hasher,
            by_callee_id: HashTable::new(),
            by_caller_number: HashTable::new(),
            stumps: NIL,
            stumps_len: 0,
            section_bytes: 0,
            spare: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of the sections of all calls in flight.
    pub(crate) fn section_bytes(&self) -> usize {
        self.section_bytes
    }

    /// The index that the next [`Calls::insert`] will give.
    pub(crate) fn next_index(&self) -> u32 {
        if self.free == NIL { u32::try_from(self.slots.len()).expect("in_flight_max fits") } else { self.free }
    }

    /// The live calls, in order of their slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Call)> {
        (0_u32..).zip(&self.slots).filter(|(_, call)| call.is_live)
    }

    pub(crate) fn hash(hasher: &KeyedHash, callee: u32, callee_id: &str) -> u64 {
        hasher.hash(callee, callee_id)
    }

    /// The call that an answer from `callee` with this id ends.
    pub(crate) fn find(&self, hash: u64, callee: u32, callee_id: &str) -> Option<u32> {
        let is_it = |&index: &u32| {
            let call = &self.slots[index as usize];
            call.callee() == callee && call.callee_id() == callee_id.as_bytes()
        };
        self.by_callee_id.find(hash, is_it).copied()
    }

    /// The call with this number of the gateway's.
    pub(crate) fn find_number(&self, number: u64) -> Option<u32> {
        let CallNumber { slot, generation } = CallNumber::from_wire(number);
        let call = self.slots.get(slot as usize)?;
        (call.is_live && call.generation == generation).then_some(slot)
    }

    /// The call that `caller` knows by this number.
    pub(crate) fn find_caller_number(&self, caller: u32, number: u64) -> Option<u32> {
        let is_it = |&index: &u32| {
            let call = &self.slots[index as usize];
            call.caller_number == number && call.caller() == caller
        };
        self.by_caller_number.find(self.hasher.hash_number(caller, number), is_it).copied()
    }

    /// The number that a callee of version 2 knows a call by.
    pub(crate) fn number(&self, index: u32) -> u64 {
        CallNumber { slot: index, generation: self.slots[index as usize].generation }.to_wire()
    }

    #[inline(always)]
    pub(crate) fn insert(&mut self, peers: &mut Peers, new: NewCall<'_>) -> u32 {
        let index = self.next_index();
        if self.free == NIL {
            self.slots.push(Call::free(self.first_generation));
        }
        let place = &mut self.slots[index as usize];
        if self.free != NIL {
            self.free = place.links[0].next;
        }
        if place.text.capacity() == 0 {
            place.text = self.spare.pop().unwrap_or_default();
        }
        let text = &mut place.text;
        text.clear();
        let (mut hash, mut own, mut is_tabled) = (0, "", true);
        match new.callee_id {
            CalleeId::Shared(of_id) => hash = of_id,
            CalleeId::Own(of_id, id) => (hash, own) = (of_id, id),
            CalleeId::Number => is_tabled = false,
        }
        let mut caller_number = 0;
        match new.id {
            CallerId::Text(id) => text.extend_from_slice(id.as_bytes()),
            CallerId::Number(number) => {
                caller_number = number;
                if is_tabled {
                    text.extend_from_slice(new.id.text().as_bytes());
                }
            }
        }
        let id_end = end_of(text);
        text.extend_from_slice(own.as_bytes());
        let callee_id_end = end_of(text);
        text.extend_from_slice(new.method.as_bytes());
        let method_end = end_of(text);
        if new.context.bytes.len() <= CONTEXT_ECHO_BYTES_MAX {
            text.extend_from_slice(new.context.bytes);
        }
        let context_end = u32::try_from(text.len()).expect("names and a short context");
        text.extend_from_slice(new.section);
        self.section_bytes += new.section.len();
        let account = peers[new.caller].account;
        peers.accounts.charge(account, Resource::Calls, 1);
        peers.accounts.charge(account, Resource::Memory, CALL_CHARGE_BYTES + text.len());
        if !new.section.is_empty() {
            peers.accounts.charge(account, Resource::Sections, new.section.len());
        }
        // A free slot has no parent and no children.
        (place.is_live, place.is_tabled) = (true, is_tabled);
        place.ends = [new.caller, new.callee];
        (place.hash, place.caller_number, place.root) = (hash, caller_number, new.root);
        (place.timer, place.started_us, place.timeout_ms) = (new.timer, new.started_us, new.timeout_ms);
        (place.id_end, place.callee_id_end, place.method_end) = (id_end, callee_id_end, method_end);
        (place.context_encoding, place.context_end) = (new.context.encoding, context_end);
        self.len += 1;
        self.link(peers, index, Side::Caller);
        self.link(peers, index, Side::Callee);
        if new.parent != NIL {
            self.adopt(new.parent, index);
        }
        let Calls { slots, hasher, by_callee_id, by_caller_number, .. } = self;
        if is_tabled {
            by_callee_id.insert_unique(hash, index, |&other| slots[other as usize].hash);
        }
        if caller_number != 0 {
            let hash_of = |caller, number| hasher.hash_number(caller, number);
            by_caller_number.insert_unique(hash_of(new.caller, caller_number), index, |&other| {
                let other = &slots[other as usize];
                hash_of(other.caller(), other.caller_number)
            });
        }
        index
    }

    /// Takes a call out of every list and table. Calls made for it go on without a parent. Its timer is the caller's business.
    pub(crate) fn remove(&mut self, peers: &mut Peers, index: u32) -> Call {
        self.detach(peers, index);
        let ended = self.take(index);
        self.release(index);
        ended
    }

    /// The first half of [`Calls::remove`]: the call can still be read, until [`Calls::release`] gives its slot back.
    #[inline]
    pub(crate) fn detach(&mut self, peers: &mut Peers, index: u32) {
        let (account, text_bytes) = self.withdraw(peers, index);
        peers.accounts.release(account, Resource::Calls, 1);
        peers.accounts.release(account, Resource::Memory, CALL_CHARGE_BYTES + text_bytes);
        let place = &mut self.slots[index as usize];
        place.child = NIL;
        place.generation = next_generation(place.generation);
    }

    /// What was known of a call that has been taken out.
    fn take(&mut self, index: u32) -> Call {
        let place = &mut self.slots[index as usize];
        Call { text: std::mem::take(&mut place.text), ..*place }
    }

    /// Takes a call out of every list and table, but leaves it its slot and its children. Tells whose account is still charged for it, and for how
    /// many bytes of text.
    #[inline(always)]
    fn withdraw(&mut self, peers: &mut Peers, index: u32) -> (u32, usize) {
        self.unlink(peers, index, Side::Caller);
        self.unlink(peers, index, Side::Callee);
        if self.slots[index as usize].parent != NIL {
            self.disown(peers, index);
        }
        let place = &mut self.slots[index as usize];
        debug_assert!(place.is_live);
        if place.is_tabled {
            let entry = self.by_callee_id.find_entry(place.hash, |&other| other == index);
            entry.expect("every call with a text is in the table").remove();
        }
        if place.caller_number != 0 {
            let hash = self.hasher.hash_number(place.caller(), place.caller_number);
            let entry = self.by_caller_number.find_entry(hash, |&other| other == index);
            entry.expect("every call with a number is in the table").remove();
        }
        let section_bytes = place.section().len();
        self.section_bytes -= section_bytes;
        let account = peers[place.caller()].account;
        if section_bytes > 0 {
            peers.accounts.release(account, Resource::Sections, section_bytes);
        }
        place.is_live = false;
        self.len -= 1;
        (account, place.text.len())
    }

    /// Makes the slot of a call that was detached free.
    #[inline]
    pub(crate) fn release(&mut self, index: u32) {
        let place = &mut self.slots[index as usize];
        debug_assert!(!place.is_live);
        if place.text.capacity() > SLOT_TEXT_BYTES_MAX {
            place.text = Vec::new();
        }
        place.links[0].next = self.free;
        self.free = index;
        if self.len == 0 && self.slots.len() > IDLE_SLOTS_MAX {
            self.give_back();
        }
    }

    /// The call that this one was made for, while that is in flight, or a stump.
    pub(crate) fn parent(&self, index: u32) -> Option<u32> {
        let Call { parent, parent_generation, .. } = self.slots[index as usize];
        let place = self.slots.get(parent as usize)?;
        (place.generation == parent_generation).then_some(parent)
    }

    fn adopt(&mut self, parent: u32, index: u32) {
        let next = std::mem::replace(&mut self.slots[parent as usize].child, index);
        if next != NIL {
            self.slots[next as usize].sibling.prev = index;
        }
        let parent_generation = self.slots[parent as usize].generation;
        let call = &mut self.slots[index as usize];
        (call.parent, call.parent_generation) = (parent, parent_generation);
        call.sibling = Link { prev: NIL, next };
    }

    /// Takes a call away from the one that it was made for, if that is still there, and from its siblings.
    fn disown(&mut self, peers: &mut Peers, index: u32) {
        let parent = self.parent(index);
        let call = &mut self.slots[index as usize];
        call.parent = NIL;
        let Link { prev, next } = std::mem::replace(&mut call.sibling, Link { prev: NIL, next: NIL });
        if next != NIL {
            self.slots[next as usize].sibling.prev = prev;
        }
        if prev != NIL {
            self.slots[prev as usize].sibling.next = next;
        } else if let Some(parent) = parent {
            let place = &mut self.slots[parent as usize];
            place.child = next;
            if next == NIL && place.is_stump {
                self.clear_stump(peers, parent);
            }
        }
    }

    #[cold]
    fn give_back(&mut self) {
        let newest = self.slots.iter().map(|call| call.generation).max().expect("there are slots");
        self.first_generation = next_generation(newest);
        self.slots = Vec::new();
        self.free = NIL;
        self.by_callee_id = HashTable::new();
        self.by_caller_number = HashTable::new();
    }

    /// Keeps the buffer of a call that has ended for another one.
    pub(crate) fn recycle(&mut self, call: Call) {
        let mut text = call.text;
        if text.capacity() <= SPARE_BUFFER_BYTES_MAX && self.spare.len() < SPARE_BUFFERS_MAX {
            text.clear();
            self.spare.push(text);
        }
    }

    /// The next call in the list of one side's peer.
    pub(crate) fn next(&self, index: u32, side: Side) -> u32 {
        self.slots[index as usize].links[side as usize].next
    }

    fn link(&mut self, peers: &mut Peers, index: u32, side: Side) {
        let side = side as usize;
        let list = &mut peers[self.slots[index as usize].ends[side]].calls[side];
        if list.head != NIL {
            self.slots[list.head as usize].links[side].prev = index;
        }
        self.slots[index as usize].links[side] = Link { prev: NIL, next: list.head };
        list.head = index;
        list.len += 1;
    }

    fn unlink(&mut self, peers: &mut Peers, index: u32, side: Side) {
        let side = side as usize;
        let list = &mut peers[self.slots[index as usize].ends[side]].calls[side];
        let Link { prev, next } = self.slots[index as usize].links[side];
        if prev == NIL {
            list.head = next;
        } else {
            self.slots[prev as usize].links[side].next = next;
        }
        if next != NIL {
            self.slots[next as usize].links[side].prev = prev;
        }
        list.len -= 1;
    }
}

impl std::ops::Index<u32> for Calls {
    type Output = Call;

    fn index(&self, index: u32) -> &Call {
        &self.slots[index as usize]
    }
}

/// 0 is never given.
fn next_generation(generation: u32) -> u32 {
    generation.wrapping_add(1).max(1)
}

fn end_of(text: &[u8]) -> u16 {
    u16::try_from(text.len()).expect("ids and methods have at most 255 bytes each")
}
