//! Call numbers and root stamps: 64 bits on the wire, and texts in the shape of v1 where people see them.

use crate::id::write_id;
use std::fmt;

/// Bits of a root stamp that count the chains of one millisecond.
const SEQUENCE_BITS: u32 = 22;

/// Names a call on one connection: a place in the namer's table and the generation of that place, so that an answer finds its
/// call by an array access, and one that comes too late finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallNumber {
    /// Place in the table.
    pub slot: u32,
    /// Counts the uses of the place.
    pub generation: u32,
}

impl CallNumber {
    /// As it stands on the wire. 0 is the number of place 0 in its generation 0, which is never used.
    pub fn to_wire(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    /// The reverse of [`CallNumber::to_wire`].
    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    pub fn from_wire(wire: u64) -> Self {
        Self { slot: wire as u32, generation: (wire >> 32) as u32 }
    }

    /// Writes the id that people see, in the shape that v1 ids have.
    pub fn write(self, out: &mut impl fmt::Write) -> fmt::Result {
        // Six digits hold 31 bits; a place has 20 at most.
        write_id(out, "req", u64::from(self.generation), u64::from(self.slot) % 36_u64.pow(6))
    }
}

impl fmt::Display for CallNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f)
    }
}

/// Names a chain that began with a v2 call: when it began, and which of that millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RootStamp(pub u64);

impl RootStamp {
    /// Of the chain that begins at `wall_ms`. `sequence` counts chains; its low 22 bits are used.
    pub fn new(wall_ms: u64, sequence: u64) -> Self {
        Self(wall_ms << SEQUENCE_BITS | sequence & ((1 << SEQUENCE_BITS) - 1))
    }

    /// Writes the root id that people see, in the shape that v1 ids have.
    pub fn write(self, out: &mut impl fmt::Write) -> fmt::Result {
        write_id(out, "root", self.0 >> SEQUENCE_BITS, self.0 & ((1 << SEQUENCE_BITS) - 1))
    }
}

impl fmt::Display for RootStamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_stamps_read_like_the_ids_of_v1() {
        let number = CallNumber { slot: 35, generation: 7 };
        assert_eq!(number.to_string(), "req-7-00000z");
        assert_eq!(CallNumber::from_wire(number.to_wire()), number);
        assert!(CallNumber { slot: u32::MAX, generation: u32::MAX }.to_string().starts_with("req-4294967295-"));
        assert_eq!(RootStamp::new(1_700_000_000_123, 36).to_string(), "root-1700000000123-000010");
        assert_eq!(RootStamp::new(5, u64::MAX).0, 6 * (1 << SEQUENCE_BITS) - 1, "the sequence wraps in its bits");
    }
}
