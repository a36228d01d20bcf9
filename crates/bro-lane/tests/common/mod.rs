//! What the tests of lanes share.
#![allow(dead_code, reason = "every test uses a part of it")]

use bro_lane::{Lane, LaneConfig, LaneOptions, LaneParts, Side, create};
use bro_proto::limits;
use bro_proto::rng::Rng;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;

/// The smallest lane: everything wraps around soon.
pub const SMALL: LaneConfig =
    LaneConfig { ring_bytes: limits::LANE_RING_BYTES_MIN, arena_bytes: limits::LANE_ARENA_BYTES_MIN };

/// Both ends of a lane.
pub fn pair(config: LaneConfig) -> (Lane, Lane) {
    open(create(config).unwrap(), LaneOptions::default())
}

/// Opens both ends.
pub fn open(parts: LaneParts, options: LaneOptions) -> (Lane, Lane) {
    let first = Lane::open(Side::First, parts.first, options).unwrap();
    (first, Lane::open(Side::Second, parts.second, options).unwrap())
}

/// Bytes that can be told from those of another seed, and from shifted ones.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&rng.next_u64().to_ne_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Whether a bell is ringing.
pub fn has_rung(bell: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&bell, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
}

/// A random number below `bound`.
pub fn below(rng: &mut Rng, bound: usize) -> usize {
    usize::try_from(rng.below(bound as u64)).unwrap()
}
