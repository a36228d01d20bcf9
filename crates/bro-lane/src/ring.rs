//! One direction of a lane: a byte ring of records and an arena for the large ones, one producer and one consumer.
//!
//! The producer's end is [`Outbound`], the consumer's [`Inbound`]. Neither makes a system call: the methods say when the other side's
//! bell has to be rung.
//!
//! Both ends keep their own position in private memory and publish it. What the other end publishes is read once and checked against
//! the last value seen: it may only move forward, and only as far as the honest protocol allows.
//!
//! Sleeping is the pattern of Dekker, twice. The consumer sets `need_wake`, the producer publishes `tail`; each then has a fence and
//! looks at the other's word, so that at least one of them sees the other. The producer sets `need_space`, the consumer
//! publishes `head`; the same. Whoever exchanges a flag from set to 0 owes the other side a ring of its bell.

pub use crate::inbound::Inbound;
pub use crate::outbound::{Begun, Outbound};

/// Before each record there is one word: the length in the low half, flags in the high half.
pub(crate) const RECORD_HEADER_BYTES: usize = 8;
/// Records begin and end at multiples of this in the ring, so that the header never wraps around.
pub(crate) const RING_ALIGN: u64 = 8;
/// Large records begin at multiples of this in the arena: no two share a cache line.
pub(crate) const ARENA_ALIGN: u64 = 64;
/// The bits of the length.
pub(crate) const LEN_MASK: u64 = u32::MAX as u64;
/// The record's bytes are in the arena.
pub(crate) const LARGE: u64 = 1 << 32;
