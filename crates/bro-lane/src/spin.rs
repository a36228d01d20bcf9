//! When waiting is better done awake.
//!
//! Waking a sleeping process on another core costs some 20 us, an answer through shared memory a fraction of one. But a process
//! that spins takes CPU time from others, perhaps from the very peer that it waits for. So a wait spins only
//!
//! - while the peer was last seen on another CPU;
//! - while spinning has paid off lately: lost spins use up the trust that won ones built, and then only every second, fourth, … wait
//!   tries again;
//! - while nobody else wants this CPU: after it was taken away from us, nobody spins for a while, longer each time.

use crate::contention;
use bro_proto::limits;
use std::time::{Duration, Instant};

/// How many looks a spin takes before the first look at the clock: an answer that comes at once costs no clock.
const LOOKS_BEFORE_CLOCK: u32 = 32;
/// Looks between two looks at the clock.
const LOOKS_PER_CLOCK: u32 = 16;
/// Between two looks at the clock of a running spin there is far less than a microsecond. After such a gap, somebody else ran.
const PREEMPTED: Duration = Duration::from_micros(100);
/// How often the kernel is asked, at most, whether it took the CPU away from us.
const SWITCHES_EVERY: Duration = Duration::from_millis(1);
/// Won spins between two looks at the clock for that.
const WINS_PER_CLOCK: u32 = 64;

/// How a lane waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpinConfig {
    /// How long one wait may spin before it sleeps, in microseconds; 0 to sleep at once. Default [`limits::LANE_SPIN_US`], at most
    /// [`limits::LANE_SPIN_US_MAX`].
    pub spin_us: u64,
}

impl Default for SpinConfig {
    fn default() -> Self {
        Self { spin_us: limits::LANE_SPIN_US }
    }
}

/// Decides about spinning, and does it. A [`crate::Lane`] has one; an event loop with many lanes may use one of its own for all of
/// them together.
#[derive(Debug)]
pub struct Spinner {
    policy: Policy,
    budget: Duration,
    /// The beginning of the clock that the policy reads.
    origin: Instant,
    wins_until_clock: u32,
    switches_asked_at: Option<Instant>,
    switches: u64,
    won: u64,
    lost: u64,
}

impl Spinner {
    /// A spinner that has not seen anything yet.
    pub fn new(config: SpinConfig) -> Spinner {
        Spinner {
            policy: Policy::new(),
            budget: Duration::from_micros(config.spin_us.min(limits::LANE_SPIN_US_MAX)),
            origin: Instant::now(),
            wins_until_clock: 0,
            switches_asked_at: None,
            switches: 0,
            won: 0,
            lost: 0,
        }
    }

    /// Spins until `is_ready`, if that is worth it. True when it is ready.
    ///
    /// `peer_cpu` is where the one that is waited for ran last, if that is known.
    pub fn spin(&mut self, peer_cpu: Option<u32>, mut is_ready: impl FnMut() -> bool) -> bool {
        if is_ready() {
            return true;
        }
        if self.budget.is_zero() {
            return false;
        }
        let is_elsewhere = peer_cpu.is_some_and(|cpu| cpu != contention::current_cpu());
        if !is_elsewhere || !self.policy.wants_to_spin(|| self.origin.elapsed()) {
            return false;
        }
        for _ in 0..LOOKS_BEFORE_CLOCK {
            std::hint::spin_loop();
            if is_ready() {
                self.win();
                return true;
            }
        }
        let start = Instant::now();
        let mut last = start;
        loop {
            for _ in 0..LOOKS_PER_CLOCK {
                std::hint::spin_loop();
                if is_ready() {
                    self.win();
                    return true;
                }
            }
            let now = Instant::now();
            if now - last >= PREEMPTED {
                self.policy.preempted(now - self.origin);
                self.lost += 1;
                return false;
            }
            if now - start >= self.budget {
                self.policy.lost();
                self.lost += 1;
                self.ask_about_switches(now);
                return false;
            }
            last = now;
        }
    }

    /// Spins that ended with something to do.
    pub fn won(&self) -> u64 {
        self.won
    }

    /// Spins that ended with nothing.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    fn win(&mut self) {
        self.won += 1;
        self.policy.won();
        if self.wins_until_clock == 0 {
            self.wins_until_clock = WINS_PER_CLOCK;
            self.ask_about_switches(Instant::now());
        }
        self.wins_until_clock -= 1;
    }

    /// Asks the kernel, now and then, how often it took the CPU away from this thread.
    fn ask_about_switches(&mut self, now: Instant) {
        let Some(asked_at) = self.switches_asked_at else {
            self.switches_asked_at = Some(now);
            self.switches = contention::involuntary_switches();
            return;
        };
        if now - asked_at < SWITCHES_EVERY {
            return;
        }
        self.switches_asked_at = Some(now);
        let switches = contention::involuntary_switches();
        if switches > self.switches {
            self.policy.preempted(now - self.origin);
        }
        self.switches = switches;
    }
}

/// The decisions alone, without a clock.
#[derive(Debug)]
struct Policy {
    /// Lost spins in a row until spinning ends.
    trust: u32,
    /// Waits that still sleep at once.
    skips_left: u32,
    /// What `skips_left` becomes when the next spin is lost.
    skips: u32,
    /// No spin before; in the past when nobody wanted the CPU lately.
    held_until: Duration,
    /// Whether `held_until` may be in the future.
    is_holding: bool,
    /// How long the last hold was.
    hold: Duration,
}

const HOLD_MIN: Duration = Duration::from_millis(limits::LANE_SPIN_HOLD_MS);
const HOLD_MAX: Duration = Duration::from_millis(limits::LANE_SPIN_HOLD_MAX_MS);

impl Policy {
    fn new() -> Policy {
        Policy {
            trust: limits::LANE_SPIN_TRUST_MAX,
            skips_left: 0,
            skips: 1,
            held_until: Duration::ZERO,
            is_holding: false,
            hold: HOLD_MIN,
        }
    }

    /// Whether the wait that begins should spin. `now` is asked for only when it matters.
    fn wants_to_spin(&mut self, now: impl FnOnce() -> Duration) -> bool {
        if self.is_holding {
            if now() < self.held_until {
                return false;
            }
            self.is_holding = false;
        }
        if self.trust > 0 {
            return true;
        }
        if self.skips_left > 0 {
            self.skips_left -= 1;
            return false;
        }
        true
    }

    fn won(&mut self) {
        self.trust = (self.trust + 1).min(limits::LANE_SPIN_TRUST_MAX);
        self.skips = 1;
    }

    fn lost(&mut self) {
        self.trust = self.trust.saturating_sub(1);
        if self.trust == 0 {
            self.skips_left = self.skips;
            self.skips = (self.skips * 2).min(limits::LANE_SPIN_SKIPS_MAX);
        }
    }

    /// Somebody else ran on this CPU while we wanted it.
    fn preempted(&mut self, now: Duration) {
        let is_first = self.held_until.is_zero();
        let was_quiet = now > self.held_until + self.hold;
        self.hold = if is_first || was_quiet { HOLD_MIN } else { (self.hold * 2).min(HOLD_MAX) };
        self.held_until = now + self.hold;
        self.is_holding = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// How many of `waits` spin when every spin ends as `is_won` says.
    fn spins(policy: &mut Policy, waits: u32, is_won: bool) -> u32 {
        let mut count = 0;
        for _ in 0..waits {
            if policy.wants_to_spin(|| unreachable!("nothing is held")) {
                count += 1;
                if is_won { policy.won() } else { policy.lost() }
            }
        }
        count
    }

    #[test]
    fn spinning_that_never_pays_off_all_but_ends_and_comes_back_when_it_does() {
        let mut policy = Policy::new();
        assert_eq!(spins(&mut policy, limits::LANE_SPIN_TRUST_MAX, false), limits::LANE_SPIN_TRUST_MAX);
        spins(&mut policy, 10_000, false);
        let tries = spins(&mut policy, 100 * (limits::LANE_SPIN_SKIPS_MAX + 1), false);
        assert_eq!(tries, 100, "one wait in {} tries", limits::LANE_SPIN_SKIPS_MAX + 1);
        let until_first_win = spins(&mut policy, limits::LANE_SPIN_SKIPS_MAX + 1, true);
        assert!(until_first_win >= 1);
        assert_eq!(spins(&mut policy, 1000, true), 1000);
        assert_eq!(spins(&mut policy, limits::LANE_SPIN_TRUST_MAX, false), limits::LANE_SPIN_TRUST_MAX);
    }

    #[test]
    fn a_few_losses_among_wins_change_nothing() {
        let mut policy = Policy::new();
        for _ in 0..1000 {
            assert_eq!(spins(&mut policy, 3, false), 3);
            assert_eq!(spins(&mut policy, 3, true), 3);
        }
    }

    #[test]
    fn when_others_want_the_cpu_nobody_spins_for_longer_and_longer() {
        let mut policy = Policy::new();
        let mut now = 5 * MS;
        let mut hold = HOLD_MIN;
        for _ in 0..12 {
            policy.preempted(now);
            assert!(!policy.wants_to_spin(|| now));
            assert!(!policy.wants_to_spin(|| now + hold - MS));
            now += hold;
            assert!(policy.wants_to_spin(|| now), "after {hold:?}");
            policy.won();
            hold = (hold * 2).min(HOLD_MAX);
        }
        now += HOLD_MAX + MS;
        policy.preempted(now);
        assert!(policy.wants_to_spin(|| now + HOLD_MIN), "it had been quiet: short again");
    }

    #[test]
    fn a_spin_is_not_begun_beside_the_peer_nor_without_a_budget() {
        let here = contention::current_cpu();
        let mut looks = 0;
        let mut look = || {
            looks += 1;
            false
        };
        let mut spinner = Spinner::new(SpinConfig::default());
        assert!(!spinner.spin(None, &mut look));
        let mut without = Spinner::new(SpinConfig { spin_us: 0 });
        assert!(!without.spin(Some(here + 1), &mut look));
        assert_eq!((looks, spinner.lost(), without.lost()), (2, 0, 0));
    }

    #[test]
    fn spins_are_counted() {
        let mut spinner = Spinner::new(SpinConfig { spin_us: 1 });
        let elsewhere = Some(u32::MAX);
        let mut looks = 0;
        assert!(spinner.spin(elsewhere, || {
            looks += 1;
            looks > 3
        }));
        assert!(!spinner.spin(elsewhere, || false));
        assert_eq!((spinner.won(), spinner.lost()), (1, 1));
    }
}
