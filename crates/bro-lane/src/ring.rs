//! One direction of a lane: a byte ring of records and an arena for the large ones, one producer and one consumer.
//!
//! Nothing here makes a system call: the methods say when the other side's bell has to be rung.
//!
//! Both ends keep their own position in private memory and publish it. What the other end publishes is read once and checked against
//! the last value seen: it may only move forward, and only as far as the honest protocol allows.
//!
//! Sleeping is the pattern of Dekker, twice. The consumer sets `need_wake`, the producer publishes `tail`; each then has a fence and
//! looks at the other's word, so that at least one of them sees the other. The producer sets `need_space`, the consumer
//! publishes `head`; the same. Whoever exchanges a flag from set to 0 owes the other side a ring of its bell.

use crate::atomics::{Ordering, fence};
use crate::control::{NEED_ARENA, NEED_RING};
use crate::error::Violation;
use crate::memory::Direction;

/// Before each record there is one word: the length in the low half, flags in the high half.
pub(crate) const RECORD_HEADER_BYTES: usize = 8;
/// Records begin and end at multiples of this in the ring, so that the header never wraps around.
const RING_ALIGN: u64 = 8;
/// Large records begin at multiples of this in the arena: no two share a cache line.
const ARENA_ALIGN: u64 = 64;
/// The record's bytes are in the arena.
const LARGE: u64 = 1 << 32;

/// The producer's end.
#[derive(Debug)]
pub struct Outbound {
    shared: Direction,
    /// Where the next record goes. Invariant: `head_seen` <= `published` <= `tail` <= `head_seen` + ring size.
    tail: u64,
    /// What the consumer can see.
    published: u64,
    /// The consumer's position as last read and checked.
    head_seen: u64,
    /// Invariant: `arena_head_seen` <= `arena_tail` <= `arena_head_seen` + arena size.
    arena_tail: u64,
    arena_head_seen: u64,
    /// `need_space` was set, and not taken back.
    is_waiting: bool,
    large_records: u64,
}

/// Why a record did not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Not before the consumer has read more.
    Full,
    /// Never.
    TooLarge,
    /// The consumer's words make no sense.
    Violation(Violation),
}

/// What a record needs, in bytes.
#[derive(Clone, Copy)]
struct Room {
    ring: u64,
    arena: u64,
}

impl Outbound {
    /// The end of a fresh direction.
    pub fn new(shared: Direction) -> Outbound {
        Outbound {
            shared,
            tail: 0,
            published: 0,
            head_seen: 0,
            arena_tail: 0,
            arena_head_seen: 0,
            is_waiting: false,
            large_records: 0,
        }
    }

    /// Writes one record, the parts joined. The consumer sees it after [`Outbound::publish`].
    pub fn push(&mut self, parts: &[&[u8]]) -> Result<usize, Refused> {
        let len = parts.iter().fold(0_usize, |sum, part| sum.saturating_add(part.len()));
        let room = self.room_for(len).ok_or(Refused::TooLarge)?;
        if !self.fits(room) {
            self.refresh().map_err(Refused::Violation)?;
            if !self.fits(room) {
                return Err(Refused::Full);
            }
        }
        if self.is_waiting {
            self.withdraw();
        }
        let flag = if room.arena > 0 { LARGE } else { 0 };
        self.shared.ring.write_word(self.tail, len as u64 | flag);
        let (region, mut at) = if room.arena > 0 {
            (&self.shared.arena, self.arena_tail)
        } else {
            (&self.shared.ring, self.tail + RECORD_HEADER_BYTES as u64)
        };
        for part in parts {
            region.write(at, part);
            at += part.len() as u64;
        }
        self.tail += room.ring;
        self.arena_tail += room.arena;
        self.large_records += u64::from(room.arena > 0);
        debug_assert!(self.tail - self.head_seen <= self.shared.ring.len());
        debug_assert!(self.arena_tail - self.arena_head_seen <= self.shared.arena.len());
        Ok(len)
    }

    /// Makes all pushed records visible at once. True when the consumer's bell has to be rung.
    ///
    /// `cpu` is the one that the caller runs on.
    pub fn publish(&mut self, cpu: Option<u32>) -> bool {
        if self.tail == self.published {
            return false;
        }
        let control = self.shared.control();
        if let Some(cpu) = cpu {
            control.producer.cpu.store(cpu.wrapping_add(1), Ordering::Relaxed);
        }
        control.producer.tail.store(self.tail, Ordering::Release);
        self.published = self.tail;
        fence(Ordering::SeqCst);
        let need_wake = &control.flags.need_wake;
        need_wake.load(Ordering::Relaxed) != 0 && need_wake.swap(0, Ordering::Relaxed) != 0
    }

    /// After [`Refused::Full`]: announces that this side waits for room for a record of `len` bytes, and looks again. True when
    /// there is room already: nothing is announced then. Everything pushed must have been published, or the
    /// consumer could never make room.
    pub fn announce(&mut self, len: usize) -> Result<bool, Violation> {
        debug_assert_eq!(self.tail, self.published, "the consumer cannot read what it does not see");
        let Some(room) = self.room_for(len) else { return Ok(false) };
        let arena_is_full = room.arena > self.arena_free();
        let need = if arena_is_full { NEED_ARENA } else { NEED_RING };
        self.shared.control().flags.need_space.store(need, Ordering::Relaxed);
        self.is_waiting = true;
        fence(Ordering::SeqCst);
        self.refresh()?;
        if self.fits(room) {
            self.withdraw();
            return Ok(true);
        }
        Ok(false)
    }

    /// Whether this side has announced that it waits, and the consumer has answered since.
    pub fn is_granted(&self) -> bool {
        self.is_waiting && self.shared.control().flags.need_space.load(Ordering::Relaxed) == 0
    }

    /// Records that went through the arena.
    pub fn large_records(&self) -> u64 {
        self.large_records
    }

    /// Nothing more will be pushed. The consumer's bell has to be rung.
    pub fn close(&mut self) {
        self.shared.control().flags.closed.store(1, Ordering::Release);
    }

    /// Reads the consumer's positions.
    fn refresh(&mut self) -> Result<(), Violation> {
        let consumer = &self.shared.control().consumer;
        let head = consumer.head.load(Ordering::Acquire);
        if !(self.head_seen..=self.published).contains(&head) {
            return Err(Violation::Head { from: self.head_seen, to: head, written: self.published });
        }
        let arena_head = consumer.arena_head.load(Ordering::Acquire);
        if !(self.arena_head_seen..=self.arena_tail).contains(&arena_head) {
            let (from, written) = (self.arena_head_seen, self.arena_tail);
            return Err(Violation::ArenaHead { from, to: arena_head, written });
        }
        self.head_seen = head;
        self.arena_head_seen = arena_head;
        Ok(())
    }

    fn withdraw(&mut self) {
        self.shared.control().flags.need_space.store(0, Ordering::Relaxed);
        self.is_waiting = false;
    }

    fn room_for(&self, len: usize) -> Option<Room> {
        if len > self.shared.record_bytes_max {
            return None;
        }
        let len = len as u64;
        if len <= self.shared.inline_bytes_max as u64 {
            return Some(Room { ring: RECORD_HEADER_BYTES as u64 + len.next_multiple_of(RING_ALIGN), arena: 0 });
        }
        let arena = len.next_multiple_of(ARENA_ALIGN);
        (arena <= self.shared.arena.len()).then_some(Room { ring: RECORD_HEADER_BYTES as u64, arena })
    }

    fn fits(&self, room: Room) -> bool {
        room.ring <= self.shared.ring.len() - (self.tail - self.head_seen) && room.arena <= self.arena_free()
    }

    fn arena_free(&self) -> u64 {
        self.shared.arena.len() - (self.arena_tail - self.arena_head_seen)
    }
}

/// The consumer's end.
#[derive(Debug)]
pub struct Inbound {
    shared: Direction,
    /// Where the next record begins. Invariant: `released` <= `head` <= `tail_seen` <= `head` + ring size.
    head: u64,
    /// What the producer knows of `head`.
    released: u64,
    /// The producer's position as last read and checked.
    tail_seen: u64,
    arena_head: u64,
    arena_released: u64,
    /// Arena bytes released since the producer's bell was last rung.
    arena_since_ring: u64,
}

impl Inbound {
    /// The end of a fresh direction.
    pub fn new(shared: Direction) -> Inbound {
        Inbound { shared, head: 0, released: 0, tail_seen: 0, arena_head: 0, arena_released: 0, arena_since_ring: 0 }
    }

    /// Appends the next record to `out` and says how long it is.
    pub fn pop(&mut self, out: &mut Vec<u8>) -> Result<Option<usize>, Violation> {
        if self.head == self.tail_seen {
            self.refresh()?;
            if self.head == self.tail_seen {
                return Ok(None);
            }
        }
        let word = self.shared.ring.read_word(self.head);
        let len = word & u64::from(u32::MAX);
        let header = RECORD_HEADER_BYTES as u64;
        match word & !u64::from(u32::MAX) {
            0 => {
                let available = self.tail_seen - self.head - header;
                let limit = available.min(self.shared.inline_bytes_max as u64);
                if len > limit {
                    return Err(Violation::RecordBytes { bytes: len, limit });
                }
                self.shared.ring.read(self.head + header, len, out);
                self.head += header + len.next_multiple_of(RING_ALIGN);
            }
            LARGE => {
                let limit = self.shared.arena.len().min(self.shared.record_bytes_max as u64);
                if len > limit || len <= self.shared.inline_bytes_max as u64 {
                    return Err(Violation::RecordBytes { bytes: len, limit });
                }
                self.shared.arena.read(self.arena_head, len, out);
                self.head += header;
                self.arena_head += len.next_multiple_of(ARENA_ALIGN);
            }
            _ => return Err(Violation::Kind { word }),
        }
        debug_assert!(self.head <= self.tail_seen);
        Ok(Some(usize::try_from(len).expect("not longer than the memory")))
    }

    /// Whether so much has been read since the last [`Inbound::release`] that the producer should know.
    ///
    /// It never misses room meanwhile: less than a quarter of the ring is held back, and a record never needs more than a quarter.
    pub fn is_release_due(&self) -> bool {
        self.arena_head != self.arena_released || self.head - self.released >= self.shared.ring.len() / 4
    }

    /// Gives the room of what was read back to the producer. True when its bell has to be rung.
    pub fn release(&mut self) -> bool {
        if !self.store_heads() {
            return false;
        }
        fence(Ordering::SeqCst);
        self.is_room_awaited()
    }

    /// Before sleeping: announces it, gives back all room, and looks once more.
    pub fn arm(&mut self) -> Result<Armed, Violation> {
        self.store_heads();
        let need_wake = &self.shared.control().flags.need_wake;
        need_wake.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let ring_producer = self.is_room_awaited();
        self.refresh()?;
        let is_ready = self.head != self.tail_seen;
        if is_ready {
            self.disarm();
        }
        Ok(Armed { is_ready, ring_producer })
    }

    /// Awake again.
    pub fn disarm(&mut self) {
        self.shared.control().flags.need_wake.store(0, Ordering::Relaxed);
    }

    /// Whether there is something to read, without checking anything: [`Inbound::pop`] does.
    pub fn is_ready(&self) -> bool {
        self.head != self.tail_seen || self.shared.control().producer.tail.load(Ordering::Relaxed) != self.tail_seen
    }

    /// Whether the producer has closed. There may still be records.
    pub fn is_closed(&self) -> bool {
        self.shared.control().flags.closed.load(Ordering::Acquire) != 0
    }

    /// The CPU that the producer ran on when it published last.
    pub fn producer_cpu(&self) -> Option<u32> {
        self.shared.control().producer.cpu.load(Ordering::Relaxed).checked_sub(1)
    }

    fn store_heads(&mut self) -> bool {
        if self.head == self.released {
            return false;
        }
        let consumer = &self.shared.control().consumer;
        if self.arena_head != self.arena_released {
            consumer.arena_head.store(self.arena_head, Ordering::Release);
            self.arena_since_ring += self.arena_head - self.arena_released;
            self.arena_released = self.arena_head;
        }
        consumer.head.store(self.head, Ordering::Release);
        self.released = self.head;
        true
    }

    /// After a fence: whether the producer waits and there is enough room to be worth a wakeup. There always is when all was read.
    fn is_room_awaited(&mut self) -> bool {
        let need_space = &self.shared.control().flags.need_space;
        let need = need_space.load(Ordering::Relaxed);
        if need == 0 {
            return false;
        }
        let unread = self.tail_seen - self.head;
        let is_enough = match need {
            NEED_ARENA => unread == 0 || self.arena_since_ring >= self.shared.arena.len() / 4,
            _ => unread <= self.shared.ring.len() / 2,
        };
        if is_enough && need_space.swap(0, Ordering::Relaxed) != 0 {
            self.arena_since_ring = 0;
            return true;
        }
        false
    }

    fn refresh(&mut self) -> Result<(), Violation> {
        let tail = self.shared.control().producer.tail.load(Ordering::Acquire);
        let is_sound =
            tail >= self.tail_seen && tail - self.head <= self.shared.ring.len() && tail.is_multiple_of(RING_ALIGN);
        if !is_sound {
            return Err(Violation::Tail { from: self.tail_seen, to: tail });
        }
        self.tail_seen = tail;
        Ok(())
    }
}

/// What [`Inbound::arm`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Armed {
    /// There is something to read: do not sleep.
    pub is_ready: bool,
    /// The producer's bell has to be rung.
    pub ring_producer: bool,
}
