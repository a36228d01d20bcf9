//! Time as an argument: the logic is told what time it is, it never asks.

/// One moment on two clocks, read together by a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Now {
    /// Microseconds on a monotonic clock with an arbitrary start. All waiting is computed on this one.
    pub mono_us: u64,
    /// Milliseconds since 1970 on the wall clock. Only for what v1 puts on the wire, and for showing to people.
    pub wall_ms: u64,
}

impl Now {
    /// The monotonic clock in whole milliseconds, as timers use it.
    pub fn mono_ms(self) -> u64 {
        self.mono_us / 1000
    }
}
