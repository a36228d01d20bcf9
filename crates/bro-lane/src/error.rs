//! What can go wrong with a lane.

use rustix::io::Errno;

/// Why a lane could not be created or opened, or is dead.
///
/// A lane that once gave an error from [`crate::Lane::pop`], [`crate::Lane::flush`] or another operation on it is dead: it gives
/// the same error ever after, and calls go through the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LaneError {
    /// The operating system refused.
    #[error("cannot {action}: {errno}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The reason given.
        errno: Errno,
    },
    /// The memory could shrink or grow under our feet, or is no memfd at all.
    #[error("the lane's memory is not sealed against shrinking, growing and further seals")]
    NotSealed,
    /// The memory is not as large as its header says.
    #[error("the lane's memory has {got} bytes, its header asks for {expected}")]
    TotalBytes {
        /// From the header.
        expected: u64,
        /// From the kernel.
        got: u64,
    },
    /// The memory does not begin like a lane.
    #[error("the lane's memory does not begin with the mark of a lane")]
    Magic,
    /// The lane was made by a newer gateway.
    #[error("the lane has version {got}, version {supported} is supported")]
    Version {
        /// From the header.
        got: u32,
        /// The only one that we know.
        supported: u32,
    },
    /// A size is no power of two, or out of bounds.
    #[error("{got} is no size for a lane's {what}: a power of two from {min} to {max} is")]
    Size {
        /// `ring` or `arena`.
        what: &'static str,
        /// As configured, or from the header.
        got: u64,
        /// The least allowed.
        min: usize,
        /// The most allowed, by the limits and by whoever opens the lane.
        max: usize,
    },
    /// A bell is not what the gateway should have passed.
    #[error("a doorbell of the lane is a blocking file: waiting could block for ever")]
    BlockingBell,
    /// The peer wrote something into the memory that no honest one does.
    #[error("the peer broke the lane")]
    Violation(#[from] Violation),
}

/// What a peer did to the shared memory that breaks the protocol. It always blames the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// The end of the published records went back, beyond the ring, or to where no record can end.
    #[error("the end of the records went from {from} to {to}")]
    Tail {
        /// As last seen.
        from: u64,
        /// As read.
        to: u64,
    },
    /// The end of the large records went back, or beyond the arena.
    #[error("the end of the large records went from {from} to {to}")]
    ArenaTail {
        /// As last seen.
        from: u64,
        /// As read.
        to: u64,
    },
    /// The beginning of the unread records went back, or beyond what was written.
    #[error("the beginning of the unread records went from {from} to {to}, {written} were written")]
    Head {
        /// As last seen.
        from: u64,
        /// As read.
        to: u64,
        /// Bytes written so far.
        written: u64,
    },
    /// The acknowledgement of large records went back, or beyond what was written.
    #[error("the acknowledgement of large records went from {from} to {to}, {written} were written")]
    ArenaHead {
        /// As last seen.
        from: u64,
        /// As read.
        to: u64,
        /// Bytes written so far.
        written: u64,
    },
    /// A record claims to be of an unknown kind.
    #[error("a record begins with {word:#x}")]
    Kind {
        /// The record's first word.
        word: u64,
    },
    /// A record claims to be longer than what was published, or than its kind allows.
    #[error("a record claims {bytes} bytes, at most {limit} are possible")]
    RecordBytes {
        /// As claimed.
        bytes: u64,
        /// The most possible.
        limit: u64,
    },
}

/// Why a record was not taken. The ring is as it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// There is no room until the peer reads. The own bell rings once there is, whether or not this side sleeps.
    #[error("the lane is full")]
    Full,
    /// It never fits: it has to go through the gateway.
    #[error("a record of {bytes} bytes is too large for the lane, which takes {limit}")]
    TooLarge {
        /// Of the record.
        bytes: usize,
        /// What the lane takes.
        limit: usize,
    },
    /// One of the sides has closed the lane.
    #[error("the lane is closed")]
    Closed,
    /// The lane is dead.
    #[error("the lane is broken")]
    Broken(#[from] LaneError),
}
