//! What lies where in a lane's memory. Normative: `docs/lanes.md`.

use crate::control::Control;
use crate::error::LaneError;
use bro_proto::limits;

/// The first eight bytes of every lane's memory, as a little-endian number.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"bro-lane");
/// The only version so far.
pub(crate) const VERSION: u32 = 1;

/// Where the header's fields are, in bytes from the beginning.
pub(crate) const MAGIC_AT: usize = 0;
pub(crate) const VERSION_AT: usize = 8;
pub(crate) const RING_BYTES_AT: usize = 12;
pub(crate) const ARENA_BYTES_AT: usize = 16;
/// Where each direction's [`Control`] is: first to second, second to first.
pub(crate) const CONTROL_AT: [usize; 2] = [512, 1024];
/// Where the first ring begins. One page.
pub(crate) const HEAD_BYTES: usize = limits::LANE_HEAD_BYTES;

const _: () = {
    assert!(ARENA_BYTES_AT + 8 <= CONTROL_AT[0]);
    assert!(CONTROL_AT[0] + size_of::<Control>() <= CONTROL_AT[1]);
    assert!(CONTROL_AT[1] + size_of::<Control>() <= HEAD_BYTES);
    assert!(CONTROL_AT[0].is_multiple_of(align_of::<Control>()) && CONTROL_AT[1].is_multiple_of(align_of::<Control>()));
    assert!(size_of::<Control>() == 384);
};

/// The sizes that everything follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) ring_bytes: usize,
    pub(crate) arena_bytes: usize,
}

/// What the gateway charges for a lane is what it makes.
const _: () = {
    let layout = Layout { ring_bytes: limits::LANE_RING_BYTES, arena_bytes: limits::LANE_ARENA_BYTES };
    assert!(layout.total_bytes() == limits::LANE_BYTES);
};

impl Layout {
    /// Checks the sizes against the limits, and against those of the one who asks.
    pub(crate) fn new(
        ring_bytes: u64,
        arena_bytes: u64,
        ring_bytes_max: usize,
        arena_bytes_max: usize,
    ) -> Result<Layout, LaneError> {
        let ring_bytes_max = ring_bytes_max.min(limits::LANE_RING_BYTES_MAX);
        let arena_bytes_max = arena_bytes_max.min(limits::LANE_ARENA_BYTES_MAX);
        let ring_bytes = size(ring_bytes, limits::LANE_RING_BYTES_MIN, ring_bytes_max, "ring")?;
        let arena_bytes = size(arena_bytes, limits::LANE_ARENA_BYTES_MIN, arena_bytes_max, "arena")?;
        Ok(Layout { ring_bytes, arena_bytes })
    }

    /// Where the ring of a direction begins.
    pub(crate) fn ring_at(self, direction: usize) -> usize {
        HEAD_BYTES + direction * self.ring_bytes
    }

    /// Where the arena of a direction begins.
    pub(crate) fn arena_at(self, direction: usize) -> usize {
        HEAD_BYTES + 2 * self.ring_bytes + direction * self.arena_bytes
    }

    /// The size of all of it.
    pub(crate) const fn total_bytes(self) -> usize {
        HEAD_BYTES + 2 * (self.ring_bytes + self.arena_bytes)
    }

    /// Largest record that goes through the ring: four of them always fit.
    pub(crate) fn inline_bytes_max(self) -> usize {
        limits::LANE_INLINE_BYTES_MAX.min(self.ring_bytes / 4 - crate::ring::RECORD_HEADER_BYTES)
    }

    /// Largest record.
    pub(crate) fn record_bytes_max(self) -> usize {
        limits::LANE_RECORD_BYTES_MAX.min(self.arena_bytes)
    }
}

fn size(got: u64, min: usize, max: usize, what: &'static str) -> Result<usize, LaneError> {
    match usize::try_from(got) {
        Ok(bytes) if bytes.is_power_of_two() && (min..=max).contains(&bytes) => Ok(bytes),
        _ => Err(LaneError::Size { what, got, min, max }),
    }
}
