//! How fast the gateway's thread comes round: the watchdog inside.
//!
//! Whatever becomes ready while the thread is busy waits until the wakeup is over, so how long a wakeup takes is how long it waits at
//! most. A timer that was due before the wakeup began has waited since then. The **lag** of a wakeup is the sum: from due, or ready, to
//! handled. It costs one read of the clock a wakeup, besides the one that everything else uses, and none a frame.

use bro_proto::{Now, limits};
use bro_router::{Counters, LoopView, WakeupView};
use hdrhistogram::Histogram;

/// Lags by their two leading digits.
const LAG_DIGITS: u8 = 2;

/// Measures wakeups.
pub(crate) struct Pace {
    /// Lags of the present window, in microseconds.
    lags: Histogram<u32>,
    /// Lags of the window before.
    lags_before: Histogram<u32>,
    window_since_us: u64,
    wakeups: u64,
    longest: Option<WakeupView>,
    /// The wakeup that is under way.
    begun_us: u64,
    late_us: u64,
    /// The router's counts when it began.
    counts: Counts,
    /// When the view was taken last; `None` when it has to be taken anew.
    viewed_us: Option<u64>,
    /// The longest lag in the window. A longer one is told at once.
    lag_max_us: u64,
    warnings: Warnings,
}

/// Those of the router's counters that say what a wakeup did.
#[derive(Clone, Copy, Default)]
struct Counts {
    frames_in: u64,
    bytes_in: u64,
    frames_out: u64,
    connections: u64,
}

impl Counts {
    fn of(counters: &Counters) -> Counts {
        let Counters { frames_in, bytes_in, frames_out, connections, .. } = *counters;
        Counts { frames_in, bytes_in, frames_out, connections }
    }
}

impl Pace {
    pub(crate) fn new() -> Pace {
        let lags = Histogram::new_with_bounds(1, limits::LOOP_LAG_MAX_US, LAG_DIGITS).expect("good bounds");
        Pace {
            lags_before: lags.clone(),
            lags,
            window_since_us: 0,
            wakeups: 0,
            longest: None,
            begun_us: 0,
            late_us: 0,
            counts: Counts::default(),
            viewed_us: None,
            lag_max_us: 0,
            warnings: Warnings::default(),
        }
    }

    /// The thread woke up. `due_us` is when it was to wake up at the latest.
    pub(crate) fn begin(&mut self, now_us: u64, due_us: Option<u64>, counters: &Counters) {
        self.begun_us = now_us;
        self.late_us = due_us.map_or(0, |due_us| now_us.saturating_sub(due_us));
        self.counts = Counts::of(counters);
    }

    /// The wakeup is over, and the next wait begins. Gives a warning when somebody has waited too long.
    pub(crate) fn end(&mut self, ended: Now, connections_read: usize, counters: &Counters) -> Option<String> {
        let took_us = ended.mono_us.saturating_sub(self.begun_us);
        let lag_us = took_us.saturating_add(self.late_us);
        if ended.mono_us - self.window_since_us >= limits::LOOP_LAG_WINDOW_MS * 1000 {
            std::mem::swap(&mut self.lags, &mut self.lags_before);
            self.lags.reset();
            self.window_since_us = ended.mono_us;
            self.lag_max_us = 0;
        }
        if lag_us > self.lag_max_us {
            self.lag_max_us = lag_us;
            self.viewed_us = None;
        }
        self.lags.saturating_record(lag_us);
        self.wakeups += 1;
        if self.longest.is_none_or(|longest| longest.took_us < took_us) {
            self.longest = Some(self.wakeup(took_us, ended.wall_ms, connections_read, counters));
            self.viewed_us = None;
        }
        if lag_us < limits::LOOP_LAG_WARN_MS * 1000 {
            return None;
        }
        let wakeup = self.wakeup(took_us, ended.wall_ms, connections_read, counters);
        self.warnings.take(ended.mono_us).map(|left_out| warning(&wakeup, self.late_us, left_out))
    }

    /// What to tell those who ask, if what they were told last is too old.
    pub(crate) fn fresh_view(&mut self, now_us: u64) -> Option<LoopView> {
        if self.viewed_us.is_some_and(|at_us| now_us - at_us < limits::LOOP_LAG_AGE_MAX_MS * 1000) {
            return None;
        }
        self.viewed_us = Some(now_us);
        Some(self.view())
    }

    pub(crate) fn view(&self) -> LoopView {
        let mut lags = self.lags.clone();
        lags.add(&self.lags_before).expect("both have the same bounds");
        LoopView {
            wakeups: self.wakeups,
            lag_p50_us: lags.value_at_quantile(0.5),
            lag_p99_us: lags.value_at_quantile(0.99),
            lag_max_us: lags.max(),
            longest: self.longest,
        }
    }

    #[cold]
    fn wakeup(&self, took_us: u64, at_ms: u64, connections_read: usize, counters: &Counters) -> WakeupView {
        let (before, after) = (self.counts, Counts::of(counters));
        WakeupView {
            took_us,
            at_ms,
            connections_read: connections_read as u64,
            frames_in: after.frames_in - before.frames_in,
            bytes_in: after.bytes_in - before.bytes_in,
            frames_out: after.frames_out - before.frames_out,
            accepted: after.connections - before.connections,
        }
    }
}

/// One warning in [`limits::LOOP_LAG_WARN_INTERVAL_MS`].
#[derive(Default)]
struct Warnings {
    last_us: Option<u64>,
    left_out: u64,
}

impl Warnings {
    /// How many were left out before this one, or `None` when this one is left out as well.
    fn take(&mut self, now_us: u64) -> Option<u64> {
        if self.last_us.is_some_and(|at_us| now_us - at_us < limits::LOOP_LAG_WARN_INTERVAL_MS * 1000) {
            self.left_out += 1;
            return None;
        }
        self.last_us = Some(now_us);
        Some(std::mem::take(&mut self.left_out))
    }
}

fn warning(wakeup: &WakeupView, late_us: u64, left_out: u64) -> String {
    let WakeupView { took_us, connections_read, frames_in, bytes_in, frames_out, accepted, .. } = wakeup;
    let mut text = format!(
        "peers waited for the gateway: one wakeup took {} ms and came {} ms late; it read {connections_read} connections, took \
         {frames_in} frames of {bytes_in} bytes, sent {frames_out} and accepted {accepted} connections",
        took_us / 1000,
        late_us / 1000
    );
    if left_out > 0 {
        text.push_str(&format!("; {left_out} more such wakeups since the last warning"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_us: u64) -> Now {
        Now { mono_us, wall_ms: 1_000_000 + mono_us / 1000 }
    }

    /// Wakeups that take `took_us` each, one a millisecond.
    fn run(pace: &mut Pace, from_us: u64, count: u64, took_us: u64) -> Vec<String> {
        let counters = Counters::default();
        let wakeups = (0..count).map(|index| from_us + index * 1000);
        wakeups
            .filter_map(|begun_us| {
                pace.begin(begun_us, None, &counters);
                pace.end(at(begun_us + took_us), 1, &counters)
            })
            .collect()
    }

    #[test]
    fn the_lag_is_what_wakeups_take_and_how_late_timers_ring() {
        let mut pace = Pace::new();
        assert_eq!(run(&mut pace, 0, 980, 10), [""; 0]);
        let mut counters = Counters::default();
        pace.begin(2_000_000, Some(1_950_000), &counters);
        counters.frames_in += 7;
        counters.bytes_in += 700;
        assert_eq!(pace.end(at(2_040_000), 3, &counters), None);
        assert_eq!(run(&mut pace, 3_000_000, 19, 2000), [""; 0]);
        let view = pace.view();
        assert_eq!((view.wakeups, view.lag_p50_us), (1000, 10));
        assert!((1980..=2020).contains(&view.lag_p99_us), "{view:?}");
        assert!((90_000..=91_000).contains(&view.lag_max_us), "{view:?}");
        let longest = view.longest.unwrap();
        assert_eq!(
            (longest.took_us, longest.connections_read, longest.frames_in, longest.bytes_in),
            (40_000, 3, 7, 700)
        );
        assert_eq!(longest.at_ms, 1_002_040);
    }

    #[test]
    fn lags_are_forgotten_after_two_windows_and_the_longest_wakeup_is_not() {
        let mut pace = Pace::new();
        run(&mut pace, 0, 1, 50_000);
        let window_us = limits::LOOP_LAG_WINDOW_MS * 1000;
        run(&mut pace, window_us, 1, 100);
        assert!(pace.view().lag_max_us >= 50_000);
        run(&mut pace, 2 * window_us + 1000, 1, 100);
        assert!(pace.view().lag_max_us < 200, "{:?}", pace.view());
        assert_eq!(pace.view().longest.unwrap().took_us, 50_000);
    }

    #[test]
    fn warnings_are_few_and_say_how_many_there_were() {
        let mut pace = Pace::new();
        let long_us = limits::LOOP_LAG_WARN_MS * 1000;
        assert_eq!(run(&mut pace, 0, 1, long_us - 1), [""; 0]);
        let first = run(&mut pace, 1_000_000, 5, long_us);
        assert!(first.len() == 1 && first[0].contains("took 250 ms") && !first[0].contains("more such"), "{first:?}");
        let second = run(&mut pace, 1_000_000 + limits::LOOP_LAG_WARN_INTERVAL_MS * 1000, 1, long_us);
        assert!(second.len() == 1 && second[0].contains("4 more such"), "{second:?}");
    }

    #[test]
    fn what_is_told_is_never_old() {
        let mut pace = Pace::new();
        assert!(pace.fresh_view(0).is_some());
        run(&mut pace, 0, 1, 50);
        assert_eq!(pace.fresh_view(1).and_then(|view| view.longest).unwrap().took_us, 50);
        run(&mut pace, 1000, 1, 40);
        assert!(pace.fresh_view(2).is_none(), "nothing that has to be told at once");
        assert_eq!(pace.fresh_view(1 + limits::LOOP_LAG_AGE_MAX_MS * 1000).unwrap().wakeups, 2);
    }
}
