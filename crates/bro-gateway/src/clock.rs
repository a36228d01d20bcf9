//! Both clocks, and the alarm that ends a wait.

use bro_proto::Now;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// How long the wall clock is taken to go on like the monotonic one before it is read again.
const WALL_READ_EVERY_US: u64 = 1000;

/// Both clocks. The monotonic one starts with the gateway, or goes on with that of the gateway before.
pub(crate) struct Clock {
    start: Instant,
    /// What the monotonic clock showed then.
    start_us: u64,
    /// Both, when the wall clock was read.
    read: Now,
}

impl Clock {
    pub(crate) fn new() -> Clock {
        Clock::resume(0, 0)
    }

    /// Goes on with a clock that showed `at_us` so many microseconds ago.
    pub(crate) fn resume(at_us: u64, passed_us: u64) -> Clock {
        let start_us = at_us.saturating_add(passed_us);
        Clock { start: Instant::now(), start_us, read: Now { mono_us: start_us, wall_ms: wall_ms() } }
    }

    /// The wall clock is up to a millisecond old: a gateway that wakes up a hundred times meanwhile reads one clock for each.
    pub(crate) fn now(&mut self) -> Now {
        let mono_us = self.mono_us();
        if mono_us - self.read.mono_us >= WALL_READ_EVERY_US {
            self.read = Now { mono_us, wall_ms: wall_ms() };
        }
        Now { mono_us, wall_ms: self.read.wall_ms }
    }

    pub(crate) fn mono_us(&self) -> u64 {
        let passed_us = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.start_us.saturating_add(passed_us)
    }
}

fn wall_ms() -> u64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)
}

/// What wakes the thread up when nothing arrives. A timeout of `epoll_wait` would start and stop a timer of the kernel's at every
/// wakeup; this one is started when something becomes due earlier than it rings, and may ring for nothing.
pub(crate) struct Alarm {
    timer: OwnedFd,
    rings_at_us: Option<u64>,
}

impl Alarm {
    pub(crate) fn new(epoll: &OwnedFd, token: EventData) -> io::Result<Alarm> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        epoll::add(epoll, &timer, token, EventFlags::IN)?;
        Ok(Alarm { timer, rings_at_us: None })
    }

    /// Rings at that moment at the latest.
    pub(crate) fn set(&mut self, at_us: u64, clock: &Clock) -> io::Result<()> {
        if self.rings_at_us.is_some_and(|rings_at_us| rings_at_us <= at_us) {
            return Ok(());
        }
        // A span of zero would stop it.
        let span_us = at_us.saturating_sub(clock.mono_us()).max(1);
        let span = Timespec {
            tv_sec: i64::try_from(span_us / 1_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(span_us % 1_000_000 * 1000).expect("below a second"),
        };
        let once = Itimerspec { it_interval: Timespec::default(), it_value: span };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        self.rings_at_us = Some(at_us);
        Ok(())
    }

    /// It has rung, and is silent until it is set again.
    pub(crate) fn handle_ring(&mut self) {
        let mut count = [0; 8];
        let _ = io::read(&self.timer, &mut count[..]); // how often it rang is known: once
        self.rings_at_us = None;
    }
}
