//! What a lane has done.

/// Counted since the lane was opened, by this side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneCounters {
    /// Records pushed.
    pub records_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Those of them that went through the arena.
    pub large_out: u64,
    /// Records popped.
    pub records_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Pushes that found no room.
    pub full: u64,
    /// System calls that rang the other side's bell.
    pub wakeups_sent: u64,
    /// Times that this side announced that it sleeps.
    pub sleeps: u64,
    /// Spins that ended with something to do.
    pub spins_won: u64,
    /// Spins that ended with nothing.
    pub spins_lost: u64,
}
