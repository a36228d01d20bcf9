//! The words that the two sides of one direction share beside the bytes.

use crate::atomics::{AtomicU32, AtomicU64};

/// One direction's words. Each part has cache lines of its own: 128 bytes, since lines are fetched in pairs.
///
/// All positions count bytes since the beginning and never wrap in practice; the place in the ring is the position
/// modulo its size. All words begin as zero.
#[repr(C)]
pub(crate) struct Control {
    /// Written by the producer.
    pub(crate) producer: Producer,
    /// Written by the consumer.
    pub(crate) consumer: Consumer,
    /// Written rarely, by both.
    pub(crate) flags: Flags,
}

#[repr(C, align(128))]
pub(crate) struct Producer {
    /// Where the published records end.
    pub(crate) tail: AtomicU64,
    /// One more than the CPU that the producer last ran on; 0 when it never said.
    pub(crate) cpu: AtomicU32,
    /// Where the written bytes end in the arena.
    pub(crate) arena_tail: AtomicU64,
}

#[repr(C, align(128))]
pub(crate) struct Consumer {
    /// Everything before it has been read.
    pub(crate) head: AtomicU64,
    /// The same for the arena: its acknowledgement.
    pub(crate) arena_head: AtomicU64,
}

#[repr(C, align(128))]
pub(crate) struct Flags {
    /// The consumer sleeps, or is about to: whoever takes this 1 away rings its bell.
    pub(crate) need_wake: AtomicU32,
    /// The producer waits for room ([`NEED_RING`] or [`NEED_ARENA`]): whoever takes it away rings its bell.
    pub(crate) need_space: AtomicU32,
    /// The producer will not publish anything more, and does not read the other direction any more.
    pub(crate) closed: AtomicU32,
}

/// The producer waits for room in the ring.
pub(crate) const NEED_RING: u32 = 1;
/// The producer waits for room in the arena.
pub(crate) const NEED_ARENA: u32 = 2;

impl Control {
    /// All zero, as fresh shared memory is.
    #[cfg(loom)]
    pub(crate) fn new() -> Control {
        Control {
            producer: Producer { tail: AtomicU64::new(0), cpu: AtomicU32::new(0), arena_tail: AtomicU64::new(0) },
            consumer: Consumer { head: AtomicU64::new(0), arena_head: AtomicU64::new(0) },
            flags: Flags { need_wake: AtomicU32::new(0), need_space: AtomicU32::new(0), closed: AtomicU32::new(0) },
        }
    }
}
