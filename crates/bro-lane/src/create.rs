//! The gateway's side: making a lane, and handing it out.

use crate::error::LaneError;
use crate::layout::Layout;
use crate::memory::Mapping;
use bro_proto::limits;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

/// The seals that every lane's memory has.
pub(crate) const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// How large a lane is. Memory is only taken by what is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneConfig {
    /// Bytes of each of the two rings, a power of two. Default [`limits::LANE_RING_BYTES`], between
    /// [`limits::LANE_RING_BYTES_MIN`] and [`limits::LANE_RING_BYTES_MAX`].
    pub ring_bytes: usize,
    /// Bytes of each of the two arenas for large records, a power of two. Default [`limits::LANE_ARENA_BYTES`], between
    /// [`limits::LANE_ARENA_BYTES_MIN`] and [`limits::LANE_ARENA_BYTES_MAX`].
    pub arena_bytes: usize,
}

impl Default for LaneConfig {
    fn default() -> Self {
        Self { ring_bytes: limits::LANE_RING_BYTES, arena_bytes: limits::LANE_ARENA_BYTES }
    }
}

/// Which end of a lane a process has. The gateway tells each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Sends through the first ring.
    First,
    /// Sends through the second ring.
    Second,
}

impl Side {
    /// The direction in which this side sends; the other one is where it receives.
    pub(crate) fn direction(self) -> usize {
        match self {
            Side::First => 0,
            Side::Second => 1,
        }
    }
}

/// What one side needs. The order of the fields is the order in which they are passed.
#[derive(Debug)]
pub struct SideFds {
    /// The sealed memory, the same for both sides.
    pub memory: OwnedFd,
    /// Rings when this side has something to do.
    pub bell: OwnedFd,
    /// The other side's bell.
    pub peer_bell: OwnedFd,
    /// One end of a socket pair on which nothing is ever sent: it hangs up when the other side is gone.
    pub companion: OwnedFd,
}

impl SideFds {
    /// How many there are.
    pub const COUNT: usize = 4;

    /// In the order in which they are passed.
    pub fn as_fds(&self) -> [BorrowedFd<'_>; SideFds::COUNT] {
        [self.memory.as_fd(), self.bell.as_fd(), self.peer_bell.as_fd(), self.companion.as_fd()]
    }
}

impl From<[OwnedFd; SideFds::COUNT]> for SideFds {
    /// From the order in which they are passed.
    fn from([memory, bell, peer_bell, companion]: [OwnedFd; SideFds::COUNT]) -> Self {
        SideFds { memory, bell, peer_bell, companion }
    }
}

/// A fresh lane, for two processes. Whoever created it must drop its own copies once they are passed: otherwise neither side notices
/// when the other is gone.
#[derive(Debug)]
pub struct LaneParts {
    /// For [`Side::First`].
    pub first: SideFds,
    /// For [`Side::Second`].
    pub second: SideFds,
}

/// Makes a lane: sealed memory, two bells, and the pair of companions. Costs 8 file descriptors until they are passed.
///
/// # Errors
///
/// [`LaneError::Size`] when a size is out of bounds, [`LaneError::Io`] when the system has no descriptors or memory left. Nothing
/// is left open then.
///
/// ```
/// use bro_lane::{Lane, LaneConfig, LaneOptions, Side, create};
///
/// let parts = create(LaneConfig::default())?; // the gateway; it passes each half to one process
/// let mut caller = Lane::open(Side::First, parts.first, LaneOptions::default())?;
/// let mut callee = Lane::open(Side::Second, parts.second, LaneOptions::default())?;
///
/// caller.push(&[b"header ", b"payload"])?;
/// caller.flush()?; // visible now; a system call is made only if the other side sleeps
/// let mut frame = Vec::new();
/// assert_eq!(callee.pop(&mut frame)?, Some(14));
/// assert_eq!(frame, b"header payload");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn create(config: LaneConfig) -> Result<LaneParts, LaneError> {
    let (ring_bytes, arena_bytes) = (config.ring_bytes as u64, config.arena_bytes as u64);
    let layout = Layout::new(ring_bytes, arena_bytes, limits::LANE_RING_BYTES_MAX, limits::LANE_ARENA_BYTES_MAX)?;
    let memory = memfd_create(c"bro-lane", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .map_err(io("create the lane's memory"))?;
    ftruncate(&memory, layout.total_bytes() as u64).map_err(io("size the lane's memory"))?;
    fcntl_add_seals(&memory, SEALS).map_err(io("seal the lane's memory"))?;
    Mapping::new(memory.as_fd(), layout.total_bytes())?.write_header(layout);
    let bells = [bell()?, bell()?];
    let (near, far) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(io("create the lane's companions"))?;
    let first =
        SideFds { memory: copy(&memory)?, bell: copy(&bells[0])?, peer_bell: copy(&bells[1])?, companion: near };
    let [peer_bell, bell] = bells;
    Ok(LaneParts { first, second: SideFds { memory, bell, peer_bell, companion: far } })
}

fn bell() -> Result<OwnedFd, LaneError> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io("create a lane's doorbell"))
}

fn copy(fd: &OwnedFd) -> Result<OwnedFd, LaneError> {
    rustix::io::fcntl_dupfd_cloexec(fd, 0).map_err(io("copy a lane's descriptor"))
}

/// An error of the operating system while it was told to do `action`.
pub(crate) fn io(action: &'static str) -> impl Fn(Errno) -> LaneError {
    move |errno| LaneError::Io { action, errno }
}
