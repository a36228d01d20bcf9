//! What is refused when a lane is opened, and that nothing stays open.
#![cfg(not(loom))]

mod common;

use bro_lane::{Lane, LaneConfig, LaneError, LaneOptions, LaneParts, Side, SideFds, create};
use bro_proto::limits;
use common::SMALL;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;
use rustix::fs::{MemfdFlags, OFlags, SealFlags, fcntl_add_seals, fcntl_setfl, fstat, ftruncate, memfd_create};
use rustix::io::pwrite;
use std::sync::{Mutex, MutexGuard};

/// The seals that a lane needs.
const SEALS: [SealFlags; 3] = [SealFlags::SHRINK, SealFlags::GROW, SealFlags::SEAL];
const HEAD_BYTES: usize = 4096;

/// Tests of this file count descriptors, and must not run beside each other.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Memory as an attacker makes it.
struct Forged {
    magic: [u8; 8],
    version: u32,
    ring_bytes: u32,
    arena_bytes: u64,
    total_bytes: u64,
    seals: SealFlags,
}

impl Forged {
    /// Like a real one.
    fn new() -> Forged {
        Forged {
            magic: *b"bro-lane",
            version: 1,
            ring_bytes: u32::try_from(SMALL.ring_bytes).unwrap(),
            arena_bytes: SMALL.arena_bytes as u64,
            total_bytes: (HEAD_BYTES + 2 * (SMALL.ring_bytes + SMALL.arena_bytes)) as u64,
            seals: SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
        }
    }

    fn memory(&self) -> OwnedFd {
        let memory = memfd_create(c"forged", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&memory, self.total_bytes).unwrap();
        let mut head = self.magic.to_vec();
        head.extend_from_slice(&self.version.to_ne_bytes());
        head.extend_from_slice(&self.ring_bytes.to_ne_bytes());
        head.extend_from_slice(&self.arena_bytes.to_ne_bytes());
        head.truncate(usize::try_from(self.total_bytes).unwrap().min(head.len()));
        pwrite(&memory, &head, 0).unwrap();
        fcntl_add_seals(&memory, self.seals).unwrap();
        memory
    }

    fn open(&self) -> Result<Lane, LaneError> {
        open_with(self.memory(), LaneOptions::default())
    }
}

fn open_with(memory: OwnedFd, options: LaneOptions) -> Result<Lane, LaneError> {
    let LaneParts { first, .. } = create(SMALL).unwrap();
    Lane::open(Side::First, SideFds { memory, ..first }, options)
}

#[test]
fn the_forgery_itself_is_a_lane() {
    let _alone = alone();
    assert!(Forged::new().open().is_ok());
}

#[test]
fn memory_without_each_seal_is_refused() {
    let _alone = alone();
    for missing in SEALS {
        let forged = Forged { seals: Forged::new().seals.difference(missing), ..Forged::new() };
        assert_eq!(forged.open().unwrap_err(), LaneError::NotSealed, "without {missing:?}");
    }
    let unsealable = memfd_create(c"plain", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&unsealable, Forged::new().total_bytes).unwrap();
    assert_eq!(open_with(unsealable, LaneOptions::default()).unwrap_err(), LaneError::NotSealed);
    let no_memory = std::fs::File::open("/proc/self/exe").unwrap();
    assert_eq!(open_with(no_memory.into(), LaneOptions::default()).unwrap_err(), LaneError::NotSealed);
}

#[test]
fn memory_of_another_size_than_its_header_says_is_refused() {
    let _alone = alone();
    let honest = Forged::new().total_bytes;
    for got in [0, 1, 24, 4095] {
        let refused = Forged { total_bytes: got, ..Forged::new() }.open().unwrap_err();
        assert_eq!(refused, LaneError::TotalBytes { expected: HEAD_BYTES as u64, got });
    }
    for got in [4096, honest - 4096, honest - 1, honest + 1, honest + 4096, 1 << 40] {
        let refused = Forged { total_bytes: got, ..Forged::new() }.open().unwrap_err();
        assert_eq!(refused, LaneError::TotalBytes { expected: honest, got });
    }
}

#[test]
fn foreign_headers_are_refused() {
    let _alone = alone();
    assert_eq!(Forged { magic: *b"bro-land", ..Forged::new() }.open().unwrap_err(), LaneError::Magic);
    for version in [0, 2, u32::MAX] {
        let refused = Forged { version, ..Forged::new() }.open().unwrap_err();
        assert_eq!(refused, LaneError::Version { got: version, supported: 1 });
    }
    for ring_bytes in [0, 1, 64, 2048, 4095, 4097, 6000, 1 << 31, u32::MAX] {
        let refused = Forged { ring_bytes, ..Forged::new() }.open().unwrap_err();
        let is_size = matches!(refused, LaneError::Size { what: "ring", got, .. } if got == u64::from(ring_bytes));
        assert!(is_size, "{ring_bytes}: {refused}");
    }
    for arena_bytes in [0, 1, 4096, 65_535, 65_537, 1 << 32, 1 << 63, u64::MAX] {
        let refused = Forged { arena_bytes, ..Forged::new() }.open().unwrap_err();
        let is_size = matches!(refused, LaneError::Size { what: "arena", got, .. } if got == arena_bytes);
        assert!(is_size, "{arena_bytes}: {refused}");
    }
}

#[test]
fn whoever_opens_sets_the_limits() {
    let _alone = alone();
    let large = LaneConfig { ring_bytes: 2 * SMALL.ring_bytes, arena_bytes: 2 * SMALL.arena_bytes };
    let small_ring = LaneOptions { ring_bytes_max: SMALL.ring_bytes, ..LaneOptions::default() };
    let small_arena = LaneOptions { arena_bytes_max: SMALL.arena_bytes, ..LaneOptions::default() };
    for (options, what) in [(small_ring, "ring"), (small_arena, "arena")] {
        let refused = Lane::open(Side::First, create(large).unwrap().first, options).unwrap_err();
        assert!(matches!(refused, LaneError::Size { what: found, .. } if found == what));
        assert!(Lane::open(Side::First, create(SMALL).unwrap().first, options).is_ok());
    }
}

#[test]
fn a_bell_that_blocks_is_refused() {
    let _alone = alone();
    let LaneParts { first, second } = create(SMALL).unwrap();
    let blocking = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let refused = Lane::open(Side::First, SideFds { bell: blocking, ..first }, LaneOptions::default());
    assert_eq!(refused.unwrap_err(), LaneError::BlockingBell);
    fcntl_setfl(&second.peer_bell, OFlags::empty()).unwrap();
    let refused = Lane::open(Side::Second, second, LaneOptions::default());
    assert_eq!(refused.unwrap_err(), LaneError::BlockingBell);
}

#[test]
fn the_memory_of_a_lane_can_neither_shrink_nor_grow() {
    let _alone = alone();
    let parts = create(LaneConfig::default()).unwrap();
    let size = u64::try_from(fstat(&parts.first.memory).unwrap().st_size).unwrap();
    assert_eq!(size, (HEAD_BYTES + 2 * (limits::LANE_RING_BYTES + limits::LANE_ARENA_BYTES)) as u64);
    for other in [0, size - 1, size + 1] {
        assert!(ftruncate(&parts.second.memory, other).is_err());
    }
    assert!(fcntl_add_seals(&parts.second.memory, SealFlags::WRITE).is_err(), "no further seals");
}

#[test]
fn no_descriptor_and_no_mapping_stays_behind() {
    let _alone = alone();
    let mappings = || std::fs::read_to_string("/proc/self/maps").unwrap().matches("bro-lane").count();
    let (fds_before, mappings_before) = (open_fds(), mappings());
    for _ in 0..100 {
        let parts = create(SMALL).unwrap();
        assert_eq!(open_fds(), fds_before + 2 * SideFds::COUNT);
        let (near, far) = common::open(parts, LaneOptions::default());
        assert_eq!(open_fds(), fds_before + 6, "the memory is mapped and closed");
        assert_eq!(mappings(), mappings_before + 2);
        drop((near, far));
        assert!(Forged { version: 9, ..Forged::new() }.open().is_err());
        assert!(Forged { total_bytes: 5000, ..Forged::new() }.open().is_err());
        assert!(Forged { seals: SealFlags::GROW, ..Forged::new() }.open().is_err());
        assert!(create(LaneConfig { ring_bytes: 3, ..SMALL }).is_err());
    }
    assert_eq!((open_fds(), mappings()), (fds_before, mappings_before));
}

/// Running out of descriptors at every point of `create` gives an error, and gives back what was made until then.
#[test]
fn creating_without_descriptors_fails_cleanly() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let _alone = alone();
    let before = open_fds();
    let limit = getrlimit(Resource::Nofile);
    let mut failures = 0;
    for current in 0..64 {
        setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum: limit.maximum }).unwrap();
        let made = create(SMALL);
        setrlimit(Resource::Nofile, limit).unwrap();
        match made {
            Err(LaneError::Io { .. }) => failures += 1,
            Err(error) => panic!("{error}"),
            Ok(parts) => drop(parts),
        }
        assert_eq!(open_fds(), before, "with {current} descriptors");
    }
    assert!((8..64).contains(&failures), "{failures} of 64 failed");
}
