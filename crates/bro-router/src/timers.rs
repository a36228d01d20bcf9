//! Everything the router waits for, in one wheel.

use bro_proto::timer::TimerWheel;

/// What a timer is about. Its owner removes the timer when it goes, so the index is always of a live owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// A connection without REGISTER, by peer slot.
    Register(u32),
    /// A frame that was begun and not finished, by peer slot.
    PartialFrame(u32),
    /// A peer with a non-empty queue, by peer slot.
    WriteStall(u32),
    /// A service that should show life, by service index.
    Liveness(u32),
    /// A call in flight, by call index.
    Call(u32),
    /// A parked introspection call, by its index.
    Parked(u32),
    /// A lane that is not open so far, by its index.
    Lane(u32),
    /// The end of the watch lease.
    WatchLease,
    /// The end of the drain.
    Drain,
}

pub(crate) type Timers = TimerWheel<Timer>;
