//! Calls that wait for their answer, and the ids that find them.
//!
//! In version 2 a call is named by its place and the generation of that. In version 1 it is named as the JavaScript library does
//! it, `req-<milliseconds>-<6 base36 digits>`: the six digits hold the slot and the low bits of its generation. So an answer finds
//! its call by an array lookup; then the whole id is compared. No two calls of a session have the same id: see [`CallTable::insert`].

use crate::conns::ConnId;
use crate::slots::Slots;
use crate::waits::{AwaitedId, KeptId};
use bro_proto::id::{id_tail, write_id};
use bro_proto::limits::{IN_FLIGHT_MAX, IN_FLIGHT_PER_PEER_MAX};
use bro_proto::rng::Rng;
use bro_proto::timer::TimerId;
use bro_proto::v2::CallNumber;
use std::fmt;

const SLOT_BITS: u32 = 20;
const GENERATION_BITS: u32 = 11;
const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;
const PREFIX: &str = "req";
/// Of ids whose answer nobody waits for.
const NOTE_PREFIX: &str = "note";
const NOTE_MASK: u32 = (1 << (SLOT_BITS + GENERATION_BITS)) - 1;
/// Digits of the tail and the dash before them.
const TAIL_LEN: usize = 7;

const _: () = {
    assert!(IN_FLIGHT_MAX <= 1 << SLOT_BITS, "every slot has a number in the id");
    assert!(1_u64 << (SLOT_BITS + GENERATION_BITS) <= 36_u64.pow(6), "slot and generation fit six digits");
};

/// Names a call that was accepted. Ids of ended calls are recognised and ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId {
    /// Below the most calls that were ever in flight at once: drivers may use it as an index.
    pub slot: u32,
    /// Counts the calls that used the slot.
    pub generation: u32,
}

/// The id of a call as it stands on the wire; `Display` writes what people see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallKey {
    /// Made in version 1.
    V1(TextKey),
    /// Made in version 2.
    V2(CallNumber),
}

/// An id of version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TextKey {
    ms: u64,
    tail: u32,
}

impl CallKey {
    /// Reads an id of version 1; `None` when this session cannot have written it.
    pub(crate) fn parse(id: &str) -> Option<CallKey> {
        let tail = u32::try_from(id_tail(id)?).ok()?;
        let head = id.get(..id.len().checked_sub(TAIL_LEN)?)?;
        let ms = head.strip_prefix(PREFIX)?.strip_prefix('-')?;
        let is_plain = !ms.starts_with('+') && (ms == "0" || !ms.starts_with('0'));
        if !is_plain || id.as_bytes()[head.len()] != b'-' {
            return None;
        }
        Some(CallKey::V1(TextKey { ms: ms.parse().ok()?, tail }))
    }

    pub(crate) fn write(self, out: &mut impl fmt::Write) -> fmt::Result {
        match self {
            CallKey::V1(TextKey { ms, tail }) => write_id(out, PREFIX, ms, u64::from(tail)),
            CallKey::V2(number) => number.write(out),
        }
    }

    fn slot(self) -> u32 {
        match self {
            CallKey::V1(key) => key.tail >> GENERATION_BITS,
            CallKey::V2(number) => number.slot,
        }
    }
}

impl fmt::Display for CallKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f)
    }
}

/// Whether an id of version 1 is one of [`CallTable::write_note`]: its answer is nobody's.
pub(crate) fn is_note(id: &str) -> bool {
    id.strip_prefix(NOTE_PREFIX).is_some_and(|rest| rest.starts_with('-'))
}

/// What becomes of a call whose service is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It fails.
    Plain,
    /// It waits, or does so already: this is what it takes to send it.
    Kept(KeptId),
    /// It would wait, but there was no room for keeping it.
    Unkept,
    /// It is the session's own, made to learn whether a service is there.
    Probe(AwaitedId),
}

/// The connection of calls that have not been sent, or will be sent again. Every real one has another generation.
pub(crate) const NOWHERE: ConnId = ConnId { index: 0, generation: 0 };

/// A call that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    /// The connection it went out on, or [`NOWHERE`].
    pub(crate) conn: ConnId,
    /// Fires when it has waited long enough. `None` only while the call is being made.
    pub(crate) timer: Option<TimerId>,
    /// What it was allowed to take, in milliseconds.
    pub(crate) timeout_ms: u64,
    pub(crate) key: CallKey,
    pub(crate) role: Role,
}

#[derive(Debug)]
pub(crate) struct CallTable {
    slots: Slots<Pending>,
    /// The milliseconds that the next id carries are at least these. Never goes back.
    id_ms: u64,
    trims_seen: u32,
    len_max: usize,
    /// Counts the ids whose answers nobody waits for.
    notes: u32,
}

impl CallTable {
    pub(crate) fn new(pool_size: u32, rng: &mut Rng) -> Self {
        // Sessions that start in the same millisecond begin with different ids.
        let first_generation = 1 + u32::try_from(rng.below(1 << GENERATION_BITS)).expect("11 bits fit");
        let len_max = (IN_FLIGHT_PER_PEER_MAX * pool_size as usize).min(IN_FLIGHT_MAX);
        Self { slots: Slots::new(first_generation), id_ms: 0, trims_seen: 0, len_max, notes: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.slots.len() >= self.len_max
    }

    pub(crate) fn len_max(&self) -> usize {
        self.len_max
    }

    /// Takes a slot for a call of version 1. The id is new: between two calls whose slot and generation bits are equal, the
    /// generation has passed a multiple of 2^11 or the slots were given back, and both move `id_ms` on, whatever the clock does.
    pub(crate) fn insert(&mut self, conn: ConnId, timeout_ms: u64, wall_ms: u64) -> (CallId, CallKey) {
        let (id, _) = self.insert_numbered(conn, timeout_ms);
        self.id_ms = self.id_ms.max(wall_ms);
        let tail = id.slot << GENERATION_BITS | id.generation & GENERATION_MASK;
        let key = CallKey::V1(TextKey { ms: self.id_ms, tail });
        self.slots.get_mut(id.slot, id.generation).expect("just inserted").key = key;
        (id, key)
    }

    /// Gives a call that goes out again in version 1 a new id on the wire.
    pub(crate) fn rename(&mut self, id: CallId, conn: ConnId, wall_ms: u64) -> CallKey {
        self.id_ms = self.id_ms.max(wall_ms) + 1;
        let tail = id.slot << GENERATION_BITS | id.generation & GENERATION_MASK;
        let key = CallKey::V1(TextKey { ms: self.id_ms, tail });
        let pending = self.slots.get_mut(id.slot, id.generation).expect("a call that waits");
        (pending.key, pending.conn) = (key, conn);
        key
    }

    /// Gives a call that goes out again in version 2, or not yet, its number.
    pub(crate) fn renumber(&mut self, id: CallId, conn: ConnId) -> CallNumber {
        let number = CallNumber { slot: id.slot, generation: id.generation };
        let pending = self.slots.get_mut(id.slot, id.generation).expect("a call that waits");
        (pending.key, pending.conn) = (CallKey::V2(number), conn);
        number
    }

    /// Takes a slot for a call of version 2.
    pub(crate) fn insert_numbered(&mut self, conn: ConnId, timeout_ms: u64) -> (CallId, CallNumber) {
        let unnamed = CallKey::V2(CallNumber { slot: 0, generation: 0 });
        let (slot, generation) =
            self.slots.insert(Pending { conn, timer: None, timeout_ms, key: unnamed, role: Role::Plain });
        if generation & GENERATION_MASK == 0 || self.slots.trims() != self.trims_seen {
            self.trims_seen = self.slots.trims();
            self.id_ms += 1;
        }
        let number = CallNumber { slot, generation };
        self.slots.get_mut(slot, generation).expect("just inserted").key = CallKey::V2(number);
        (CallId { slot, generation }, number)
    }

    /// Writes an id of version 1 for a call whose answer nobody waits for.
    pub(crate) fn write_note(&mut self, wall_ms: u64, out: &mut impl fmt::Write) -> fmt::Result {
        self.notes = self.notes.wrapping_add(1);
        write_id(out, NOTE_PREFIX, wall_ms, u64::from(self.notes & NOTE_MASK))
    }

    pub(crate) fn set_timer(&mut self, id: CallId, timer: TimerId) {
        if let Some(pending) = self.slots.get_mut(id.slot, id.generation) {
            pending.timer = Some(timer);
        }
    }

    pub(crate) fn set_role(&mut self, id: CallId, role: Role) {
        if let Some(pending) = self.slots.get_mut(id.slot, id.generation) {
            pending.role = role;
        }
    }

    pub(crate) fn get(&self, id: CallId) -> Option<&Pending> {
        self.slots.get(id.slot, id.generation)
    }

    /// Whether a call still waits.
    pub(crate) fn contains(&self, id: CallId) -> bool {
        self.slots.get(id.slot, id.generation).is_some()
    }

    /// Ends a call: the only way out of the table.
    pub(crate) fn remove(&mut self, id: CallId) -> Option<Pending> {
        self.slots.remove(id.slot, id.generation)
    }

    /// The call with this id on the wire, if it still waits.
    pub(crate) fn find(&self, key: CallKey) -> Option<CallId> {
        let slot = key.slot();
        let (generation, pending) = self.slots.at(slot)?;
        (pending.key == key).then_some(CallId { slot, generation })
    }

    /// The call of version 2 with this number, if it went out on `conn` and still waits.
    pub(crate) fn find_numbered(&self, number: u64, conn: ConnId) -> Option<CallId> {
        let number = CallNumber::from_wire(number);
        let pending = self.slots.get(number.slot, number.generation)?;
        let is_meant = pending.conn == conn && matches!(pending.key, CallKey::V2(_));
        is_meant.then_some(CallId { slot: number.slot, generation: number.generation })
    }

    /// The calls that went out on `conn`, or all.
    pub(crate) fn select(&self, conn: Option<ConnId>) -> Vec<CallId> {
        let found = self.slots.select(|pending| conn.is_none_or(|conn| pending.conn == conn));
        found.into_iter().map(|(slot, generation)| CallId { slot, generation }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_on_the_wire_find_their_call_and_nothing_else() {
        let mut calls = CallTable::new(1, &mut Rng::new(3));
        let conn = ConnId::default();
        let (id, key) = calls.insert(conn, 10, 1_699_005_123_456);
        let text = key.to_string();
        assert!(text.starts_with("req-16990051234") && text.len() == 24, "{text}");
        assert_eq!(CallKey::parse(&text), Some(key));
        assert_eq!(calls.find(key), Some(id));
        for wrong in [
            "",
            "req-",
            "000000",
            "-000000",
            "req-000000",
            "req-1-00000",
            "req-+1-000000",
            "req-01-000000",
            "req--1-000000",
            "rep-1-000000",
            "req-1_000000",
            "req-1-00000Z",
            "req-99999999999999999999-000000",
            "req-1-zzzzzz",
            "réq-1-000000",
            "req-1é000000",
        ] {
            assert_eq!(CallKey::parse(wrong).and_then(|key| calls.find(key)), None, "{wrong}");
        }
        assert!(calls.remove(id).is_some());
        assert_eq!(calls.find(key), None);
        assert!(calls.remove(id).is_none());
    }

    #[test]
    fn numbers_find_their_call_on_its_own_connection() {
        let mut calls = CallTable::new(1, &mut Rng::new(3));
        let (conn, other) = (ConnId::default(), ConnId { index: 1, generation: 0 });
        let (id, number) = calls.insert_numbered(conn, 10);
        let (of_v1, key) = calls.insert(conn, 10, 5);
        assert!(number.generation > 0, "no number is 0");
        assert_eq!(calls.find_numbered(number.to_wire(), conn), Some(id));
        assert_eq!(calls.find_numbered(number.to_wire(), other), None);
        let in_disguise = CallNumber { slot: of_v1.slot, generation: of_v1.generation };
        assert_eq!(calls.find_numbered(in_disguise.to_wire(), conn), None);
        assert_eq!(calls.find_numbered(0, conn), None);
        assert_eq!(calls.find(CallKey::V2(number)), Some(id));
        assert_eq!(calls.find(key), Some(of_v1));
        assert_eq!(calls.remove(id).unwrap().key.to_string(), number.to_string());
        assert_eq!(calls.find_numbered(number.to_wire(), conn), None);
    }

    #[test]
    fn notes_are_told_from_calls() {
        let mut calls = CallTable::new(1, &mut Rng::new(3));
        let mut ids = [String::new(), String::new()];
        for id in &mut ids {
            calls.write_note(7, id).unwrap();
        }
        assert_ne!(ids[0], ids[1]);
        assert!(ids.iter().all(|id| is_note(id) && CallKey::parse(id).is_none()), "{ids:?}");
        assert!(!is_note("req-7-000000") && !is_note("notes-1"));
    }

    #[test]
    fn no_id_comes_twice_even_with_a_clock_that_stands_or_goes_back() {
        let mut calls = CallTable::new(1, &mut Rng::new(9));
        let conn = ConnId::default();
        let mut seen = HashSet::new();
        let mut wall_ms = 1_000_000;
        for round in 0..30_u64 {
            let burst = if round % 5 == 0 { 1500 } else { 1 };
            for _ in 0..6000 / burst {
                let ids: Vec<CallId> = (0..burst)
                    .map(|_| {
                        let (id, key) = calls.insert(conn, 10, wall_ms);
                        assert!(seen.insert(key), "{key} again");
                        id
                    })
                    .collect();
                for id in ids {
                    calls.remove(id);
                }
            }
            wall_ms -= round % 3;
        }
    }
}
