//! Calls in flight: each in two lists, in a table by what its answer will say, and in the timer wheel.

use crate::hash::KeyedHash;
use crate::peers::{NIL, Peers};
use bro_proto::limits::CONTEXT_ECHO_BYTES_MAX;
use bro_proto::timer::TimerId;
use bro_proto::v1::{Encoding, Payload};
use hashbrown::HashTable;

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
/// Above this many slots an empty table gives its memory back.
const IDLE_SLOTS_MAX: usize = 4096;

#[derive(Clone, Copy, Debug)]
struct Link {
    prev: u32,
    next: u32,
}

/// One call in flight.
#[derive(Debug)]
pub(crate) struct Call {
    is_live: bool,
    /// Peer slots by [`Side`].
    ends: [u32; 2],
    /// Places in the lists of the two peers, by [`Side`]. For a free slot the first `next` is the next free slot.
    links: [Link; 2],
    hash: u64,
    pub(crate) timer: TimerId,
    /// Monotonic, when it was routed.
    pub(crate) started_us: u64,
    /// The time that it was given.
    pub(crate) timeout_ms: u64,
    id_end: u16,
    callee_id_end: u16,
    method_end: u16,
    context_encoding: Encoding,
    /// Caller's id, callee's id (only if it differs), method, context as the caller wrote it (if it is to be echoed).
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
        (self.callee_id_end == self.id_end).then_some(self.hash)
    }

    pub(crate) fn is_live(&self) -> bool {
        self.is_live
    }

    /// The id that the caller gave.
    pub(crate) fn id(&self) -> &str {
        self.str(0, self.id_end)
    }

    /// The id that the callee knows, as bytes: they are compared for every answer.
    pub(crate) fn callee_id(&self) -> &[u8] {
        let start = if self.is_renamed() { self.id_end } else { 0 };
        &self.text[start as usize..self.callee_id_end as usize]
    }

    /// Whether the callee knows the call by another id than the caller.
    pub(crate) fn is_renamed(&self) -> bool {
        self.callee_id_end != self.id_end
    }

    pub(crate) fn method(&self) -> &str {
        self.str(self.callee_id_end, self.method_end)
    }

    /// The caller's context as it was written; empty when there is none to echo.
    pub(crate) fn context(&self) -> Payload<'_> {
        Payload { encoding: self.context_encoding, bytes: &self.text[self.method_end as usize..] }
    }

    fn str(&self, start: u16, end: u16) -> &str {
        std::str::from_utf8(&self.text[start as usize..end as usize]).expect("written from texts")
    }
}

/// A call to be added.
pub(crate) struct NewCall<'a> {
    pub(crate) caller: u32,
    pub(crate) callee: u32,
    /// Of the callee's id, from [`Calls::hash`].
    pub(crate) hash: u64,
    pub(crate) id: &'a str,
    /// Set when the callee knows the call by another id than the caller.
    pub(crate) callee_id: Option<&'a str>,
    pub(crate) method: &'a str,
    pub(crate) context: Payload<'a>,
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
    /// By callee and the id that the callee knows.
    by_callee_id: HashTable<u32>,
    spare: Vec<Vec<u8>>,
}

impl Calls {
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), free: NIL, len: 0, by_callee_id: HashTable::new(), spare: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
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

    pub(crate) fn insert(&mut self, peers: &mut Peers, new: NewCall<'_>) -> u32 {
        let mut text = self.spare.pop().unwrap_or_default();
        text.extend_from_slice(new.id.as_bytes());
        let id_end = end_of(&text);
        text.extend_from_slice(new.callee_id.unwrap_or_default().as_bytes());
        let callee_id_end = end_of(&text);
        text.extend_from_slice(new.method.as_bytes());
        let method_end = end_of(&text);
        if new.context.bytes.len() <= CONTEXT_ECHO_BYTES_MAX {
            text.extend_from_slice(new.context.bytes);
        }
        let call = Call {
            is_live: true,
            ends: [new.caller, new.callee],
            links: [Link { prev: NIL, next: NIL }; 2],
            hash: new.hash,
            timer: new.timer,
            started_us: new.started_us,
            timeout_ms: new.timeout_ms,
            id_end,
            callee_id_end,
            method_end,
            context_encoding: new.context.encoding,
            text,
        };
        let index = self.next_index();
        if self.free == NIL {
            self.slots.push(call);
        } else {
            let place = &mut self.slots[index as usize];
            self.free = place.links[0].next;
            *place = call;
        }
        self.len += 1;
        self.link(peers, index, Side::Caller);
        self.link(peers, index, Side::Callee);
        let slots = &self.slots;
        self.by_callee_id.insert_unique(new.hash, index, |&other| slots[other as usize].hash);
        index
    }

    /// Takes a call out of every list and table. Its timer is the caller's business.
    pub(crate) fn remove(&mut self, peers: &mut Peers, index: u32) -> Call {
        self.unlink(peers, index, Side::Caller);
        self.unlink(peers, index, Side::Callee);
        let place = &mut self.slots[index as usize];
        debug_assert!(place.is_live);
        let entry = self.by_callee_id.find_entry(place.hash, |&other| other == index);
        entry.expect("every call is in the table").remove();
        let ended = Call { text: std::mem::take(&mut place.text), ..*place };
        place.is_live = false;
        place.links[0].next = self.free;
        self.free = index;
        self.len -= 1;
        if self.len == 0 && self.slots.len() > IDLE_SLOTS_MAX {
            self.slots = Vec::new();
            self.free = NIL;
            self.by_callee_id = HashTable::new();
        }
        ended
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

fn end_of(text: &[u8]) -> u16 {
    u16::try_from(text.len()).expect("ids and methods have at most 255 bytes each")
}
