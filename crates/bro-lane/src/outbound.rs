//! The producer's end of one direction.

use crate::atomics::{Ordering, fence};
use crate::control::{NEED_ARENA, NEED_RING};
use crate::error::Violation;
use crate::memory::Direction;
use crate::ring::{ARENA_ALIGN, LARGE, RECORD_HEADER_BYTES, RING_ALIGN};

/// So many unpublished bytes are shown to the consumer before the batch is complete, so that it can begin. Measured with 64 records of
/// 300 bytes in flight on two cores: twice as many as when a batch is shown at its end; at 300 bytes a quarter fewer again.
const SHOW_BYTES: u64 = 2048;
/// A large record is copied in such pieces, so that the consumer can copy the first while the next is written.
const PIECE_BYTES: usize = 16 * 1024;
/// So many bytes ahead of the next record the ring's cache lines are fetched for writing: the consumer had them last. Measured: twice as
/// many records of 300 bytes a second.
const AHEAD_BYTES: u64 = 512;

/// The producer's end.
#[derive(Debug)]
pub struct Outbound {
    shared: Direction,
    /// Where the next record goes. Invariant: `head_seen` <= `published` <= `tail` <= `head_seen` + ring size.
    tail: u64,
    /// What the consumer can see.
    published: u64,
    /// Something was published since the last look at whether the consumer sleeps.
    owes_look: bool,
    /// The consumer's position as last read and checked.
    head_seen: u64,
    /// Where the next large record goes. Invariant: `arena_head_seen` <= `arena_tail` <= `arena_head_seen` + arena size.
    arena_tail: u64,
    arena_head_seen: u64,
    /// `need_space` was set, and not taken back.
    is_waiting: bool,
    large_records: u64,
}

/// What [`Outbound::begin`] did with a record.
///
/// A bare number, so that it comes back in a register: a result in memory, read in other widths than it was written, waits until all
/// earlier stores are done, and those into the ring wait for the other core. Measured: 300-byte records at half the rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a large record has to be filled, a refused one is not there"]
pub enum Begun {
    /// The record is complete.
    Small,
    /// The record has its place; [`Outbound::fill`] must follow with the same parts.
    Large,
    /// As far as this side knows, it does not fit before the consumer has read more: [`Outbound::look_for_room`].
    Full,
    /// It never fits.
    TooLarge,
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
            owes_look: false,
            head_seen: 0,
            arena_tail: 0,
            arena_head_seen: 0,
            is_waiting: false,
            large_records: 0,
        }
    }

    /// Writes one record, the parts joined, together `len` bytes; for a large one only its place. The consumer sees it at the latest after
    /// [`Outbound::publish`].
    #[inline]
    pub fn begin(&mut self, parts: &[&[u8]], len: usize) -> Begun {
        let Some(room) = self.room_for(len) else { return Begun::TooLarge };
        if !self.fits(room) {
            return Begun::Full;
        }
        if self.is_waiting {
            self.withdraw();
        }
        if room.arena > 0 {
            self.shared.ring.write_word(self.tail, len as u64 | LARGE);
            self.tail += room.ring;
            self.large_records += 1;
            return Begun::Large;
        }
        self.shared.ring.write_word(self.tail, len as u64);
        let mut at = self.tail + RECORD_HEADER_BYTES as u64;
        for part in parts {
            self.shared.ring.write(at, part);
            at += part.len() as u64;
        }
        self.tail += room.ring;
        debug_assert!(at <= self.tail && self.tail - self.head_seen <= self.shared.ring.len());
        self.shared.ring.prefetch_for_writing(self.tail + AHEAD_BYTES - room.ring, self.tail + AHEAD_BYTES);
        if self.tail - self.published >= SHOW_BYTES {
            self.show();
        }
        Begun::Small
    }

    /// After [`Begun::Full`]: reads how far the consumer is. True when a record of `len` bytes fits then.
    pub fn look_for_room(&mut self, len: usize) -> Result<bool, Violation> {
        self.refresh()?;
        Ok(self.room_for(len).is_some_and(|room| self.fits(room)))
    }

    /// Writes the bytes of the large record that was just begun. A consumer that has seen its place copies them as they come, and
    /// takes it for a record when all are there.
    pub fn fill(&mut self, parts: &[&[u8]]) {
        let mut at = self.arena_tail;
        for piece in parts.iter().flat_map(|part| part.chunks(PIECE_BYTES)) {
            self.shared.arena.write_long(at, piece);
            at += piece.len() as u64;
            if piece.len() == PIECE_BYTES {
                self.shared.control().producer.arena_tail.store(at, Ordering::Release);
            }
        }
        self.arena_tail = at.next_multiple_of(ARENA_ALIGN);
        debug_assert!(self.arena_tail - self.arena_head_seen <= self.shared.arena.len());
        self.shared.control().producer.arena_tail.store(self.arena_tail, Ordering::Release);
        self.owes_look = true;
    }

    /// Makes all pushed records visible. True when the consumer's bell has to be rung.
    ///
    /// `cpu` is the one that the caller runs on.
    pub fn publish(&mut self, cpu: Option<u32>) -> bool {
        if self.tail != self.published {
            if let Some(cpu) = cpu {
                self.shared.control().producer.cpu.store(cpu.wrapping_add(1), Ordering::Relaxed);
            }
            self.show();
        }
        if !self.owes_look {
            return false;
        }
        self.owes_look = false;
        fence(Ordering::SeqCst);
        let need_wake = &self.shared.control().flags.need_wake;
        need_wake.load(Ordering::Relaxed) != 0 && need_wake.swap(0, Ordering::Relaxed) != 0
    }

    /// When there is no room: announces that this side waits for room for a record of `len` bytes, and looks again. True when
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

    fn show(&mut self) {
        self.shared.control().producer.tail.store(self.tail, Ordering::Release);
        self.published = self.tail;
        self.owes_look = true;
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
        let (len, header) = (len as u64, RECORD_HEADER_BYTES as u64);
        if len <= self.shared.inline_bytes_max as u64 {
            return Some(Room { ring: header + len.next_multiple_of(RING_ALIGN), arena: 0 });
        }
        let arena = len.next_multiple_of(ARENA_ALIGN);
        (arena <= self.shared.arena.len()).then_some(Room { ring: header, arena })
    }

    fn fits(&self, room: Room) -> bool {
        room.ring <= self.shared.ring.len() - (self.tail - self.head_seen) && room.arena <= self.arena_free()
    }

    fn arena_free(&self) -> u64 {
        self.shared.arena.len() - (self.arena_tail - self.arena_head_seen)
    }
}
