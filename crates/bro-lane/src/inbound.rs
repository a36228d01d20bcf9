//! The consumer's end of one direction.

use crate::atomics::{Ordering, fence};
use crate::control::NEED_ARENA;
use crate::error::Violation;
use crate::memory::Direction;
use crate::ring::{ARENA_ALIGN, LARGE, LEN_MASK, RECORD_HEADER_BYTES, RING_ALIGN};

/// So many bytes ahead of the next record the ring's cache lines are fetched: otherwise each record's length would have to arrive before
/// the next one's is asked for.
const AHEAD_BYTES: u64 = 2048;
/// A consumer that has caught up with a large record that is being written looks so often for the next piece before it gives up: the
/// producer was interrupted. A look takes some 20 ns, a piece a few microseconds.
const LOOKS_PER_PIECE: u64 = 1024;
/// And it looks at most once for so many bytes of the record: whoever trickles holds nobody up.
const BYTES_PER_LOOK: u64 = 64;

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
    /// Where the next large record begins. Invariant: `arena_tail_seen` <= `arena_head` + arena size; it is less than `arena_head` where the end of
    /// the last record was seen, and that of the room around it not yet.
    arena_head: u64,
    arena_released: u64,
    /// The producer's position in the arena as last read and checked.
    arena_tail_seen: u64,
    /// Where the next record ends in the arena, if it is a large one that was found incomplete.
    awaited: Option<u64>,
    /// Arena bytes released since the producer's bell was last rung.
    arena_since_ring: u64,
    /// The lines of the ring before it have been fetched.
    prefetched: u64,
}

/// What [`Inbound::arm`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Armed {
    /// There is something to read: do not sleep.
    pub is_ready: bool,
    /// The producer's bell has to be rung.
    pub ring_producer: bool,
}

impl Inbound {
    /// The end of a fresh direction.
    pub fn new(shared: Direction) -> Inbound {
        Inbound {
            shared,
            head: 0,
            released: 0,
            tail_seen: 0,
            arena_head: 0,
            arena_released: 0,
            arena_tail_seen: 0,
            awaited: None,
            arena_since_ring: 0,
            prefetched: 0,
        }
    }

    /// Appends the next record to `out` and says how long it is. After an error `out` is as it was.
    ///
    /// When a large record is just being written, it copies along if the producer `is_elsewhere`, on another CPU.
    pub fn pop(
        &mut self,
        out: &mut Vec<u8>,
        is_elsewhere: impl FnOnce(Option<u32>) -> bool,
    ) -> Result<Option<usize>, Violation> {
        if self.head == self.tail_seen {
            self.refresh()?;
            if self.head == self.tail_seen {
                return Ok(None);
            }
        }
        let ahead = self.tail_seen.min(self.head + AHEAD_BYTES);
        if ahead > self.prefetched {
            self.shared.ring.prefetch(self.prefetched.max(self.head), ahead);
            self.prefetched = ahead;
        }
        let word = self.shared.ring.read_word(self.head);
        let (len, header) = (word & LEN_MASK, RECORD_HEADER_BYTES as u64);
        match word & !LEN_MASK {
            0 => {
                let limit = (self.tail_seen - self.head - header).min(self.shared.inline_bytes_max as u64);
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
                if !self.pop_large(len, out, is_elsewhere)? {
                    return Ok(None);
                }
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
        if self.head == self.released {
            return false;
        }
        self.store_heads();
        fence(Ordering::SeqCst);
        self.is_room_awaited()
    }

    /// Before sleeping: announces it, gives back all room, and looks once more.
    pub fn arm(&mut self) -> Result<Armed, Violation> {
        self.store_heads();
        self.shared.control().flags.need_wake.swap(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let ring_producer = self.is_room_awaited();
        self.refresh()?;
        let is_ready = self.is_ready();
        if is_ready {
            self.disarm();
        }
        Ok(Armed { is_ready, ring_producer })
    }

    /// Awake again.
    pub fn disarm(&mut self) {
        self.shared.control().flags.need_wake.swap(0, Ordering::Relaxed);
    }

    /// Whether there is something to read, without checking anything: [`Inbound::pop`] does.
    pub fn is_ready(&self) -> bool {
        let producer = &self.shared.control().producer;
        match self.awaited {
            Some(end) => producer.arena_tail.load(Ordering::Relaxed) >= end,
            None => self.head != self.tail_seen || producer.tail.load(Ordering::Relaxed) != self.tail_seen,
        }
    }

    /// Whether the producer has closed. There may still be records.
    pub fn is_closed(&self) -> bool {
        self.shared.control().flags.closed.load(Ordering::Acquire) != 0
    }

    /// The CPU that the producer ran on when it published last.
    pub fn producer_cpu(&self) -> Option<u32> {
        self.shared.control().producer.cpu.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Copies a large record, as far as it is written and on while it is being written. False when it is not complete: then nothing
    /// was read, and the next attempt waits until it is.
    fn pop_large(
        &mut self,
        len: u64,
        out: &mut Vec<u8>,
        is_elsewhere: impl FnOnce(Option<u32>) -> bool,
    ) -> Result<bool, Violation> {
        let mut written = self.refresh_arena(len)?;
        if written < len && (self.awaited.is_some() || !is_elsewhere(self.producer_cpu())) {
            self.awaited = Some(self.arena_head + len);
            return Ok(false);
        }
        let begin = out.len();
        // The arena is that large, whatever the peer claims.
        out.reserve(usize::try_from(len).expect("not longer than the memory"));
        let (mut copied, mut looks, mut looks_left) = (0, 0, len / BYTES_PER_LOOK + LOOKS_PER_PIECE);
        loop {
            if written > copied {
                self.shared.arena.read_long(self.arena_head + copied, written - copied, out);
                copied = written;
                looks = 0;
            }
            if copied == len {
                self.awaited = None;
                return Ok(true);
            }
            if looks == LOOKS_PER_PIECE || looks_left == 0 {
                out.truncate(begin);
                self.awaited = Some(self.arena_head + len);
                return Ok(false);
            }
            std::hint::spin_loop();
            looks += 1;
            looks_left -= 1;
            written = match self.refresh_arena(len) {
                Ok(written) => written,
                Err(violation) => {
                    out.truncate(begin);
                    return Err(violation);
                }
            };
        }
    }

    /// How much of the large record of `len` bytes that is next has been written.
    fn refresh_arena(&mut self, len: u64) -> Result<u64, Violation> {
        let tail = self.shared.control().producer.arena_tail.load(Ordering::Acquire);
        match tail.checked_sub(self.arena_head) {
            Some(written) if tail >= self.arena_tail_seen && written <= self.shared.arena.len() => {
                self.arena_tail_seen = tail;
                Ok(len.min(written))
            }
            _ => Err(Violation::ArenaTail { from: self.arena_tail_seen, to: tail }),
        }
    }

    fn store_heads(&mut self) {
        let consumer = &self.shared.control().consumer;
        if self.arena_head != self.arena_released {
            consumer.arena_head.store(self.arena_head, Ordering::Release);
            self.arena_since_ring += self.arena_head - self.arena_released;
            self.arena_released = self.arena_head;
        }
        if self.head != self.released {
            consumer.head.store(self.head, Ordering::Release);
            self.released = self.head;
        }
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
