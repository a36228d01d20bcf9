//! The steps: what happens next, drawn from the seed.

use super::clients::Client;
use super::fault::SystemFault;
use super::lanes::Lanes;
use super::ledger::Ledger;
use super::lines::{Line, below};
use bro_proto::Now;
use bro_proto::limits::{ENDS_PER_INPUT_MAX, REGISTER_BYTES_MAX};
use bro_proto::rng::Rng;
use bro_router::{LaneOffer, LanePolicy, Router, RouterConfig};
use std::collections::BTreeMap;
use std::fmt;

/// Runs `steps` steps from one seed, and then lets everything come to rest.
pub fn run_system(seed: u64, steps: u64, fault: SystemFault) -> Result<SystemSummary, SystemViolation> {
    let mut system = System::new(seed, fault);
    let wrong = |step, what| SystemViolation { seed, step, fault, what };
    for step in 0..steps {
        system.step().map_err(|what| wrong(step, what))?;
    }
    let rested = system.rest();
    rested.map_err(|what| wrong(steps.saturating_sub(1), format!("coming to rest: {what}")))?;
    system.summary.steps = steps;
    Ok(system.summary)
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SystemSummary {
    /// Steps taken.
    pub steps: u64,
    /// Calls that sessions accepted.
    pub calls: u64,
    /// Calls of which their callers were told how they ended.
    pub ended: u64,
    /// Requests that were handed to handlers.
    pub carried_out: u64,
    /// How often calls ended in each way, and other things happened.
    pub seen: BTreeMap<String, u64>,
}

impl SystemSummary {
    /// Both runs together.
    pub fn add(&mut self, other: &SystemSummary) {
        self.steps += other.steps;
        self.calls += other.calls;
        self.ended += other.ended;
        self.carried_out += other.carried_out;
        for (what, count) in &other.seen {
            *self.seen.entry(what.clone()).or_default() += count;
        }
    }
}

/// Something happened that must not, or did not happen that must.
#[derive(Clone, Debug)]
pub struct SystemViolation {
    /// The seed of the run.
    pub seed: u64,
    /// The step at which it came out.
    pub step: u64,
    /// The deliberate defect of the run.
    pub fault: SystemFault,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for SystemViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SystemViolation { seed, step, fault, what } = self;
        let steps = step + 1;
        write!(f, "seed {seed}, step {step}: {what}\nrepeat it: cargo run --release -p bro-sim -- ")?;
        write!(f, "--system --seed {seed} --steps {steps}")?;
        if *fault != SystemFault::None {
            write!(f, " --fault {}", fault.as_str())?;
        }
        Ok(())
    }
}

/// Clients, a gateway, and everything between them.
#[derive(Debug)]
pub struct System {
    pub(super) fault: SystemFault,
    pub(super) rng: Rng,
    pub(super) now: Now,
    pub(super) config: RouterConfig,
    pub(super) frame_bytes_max: usize,
    /// `None` while no gateway runs.
    pub(super) router: Option<Router>,
    pub(super) is_watching: bool,
    pub(super) offers: Vec<LaneOffer>,
    pub(super) clients: Vec<Client>,
    /// In the order in which they were made.
    pub(super) lines: BTreeMap<u64, Line>,
    pub(super) last_line: u64,
    pub(super) lanes: Lanes,
    pub(super) ledger: Ledger,
    /// Calls that waited for a service that was there, since when.
    pub(super) waits_since_ms: BTreeMap<u64, u64>,
    pub(super) summary: SystemSummary,
}

impl System {
    /// Clients that are not connected, and a gateway.
    pub fn new(seed: u64, fault: SystemFault) -> Self {
        let mut rng = Rng::new(seed);
        let now = Now { mono_us: 1_000_000 + rng.below(1 << 40), wall_ms: 1_700_000_000_000 };
        let config = random_config(&mut rng);
        let clients = (0..3 + below(4, &mut rng)).map(|at| Client::new(at, 0, now, &mut rng)).collect();
        Self {
            fault,
            router: Some(Router::new(config.clone(), rng.next_u64(), now)),
            frame_bytes_max: config.frame_bytes_max,
            config,
            now,
            is_watching: false,
            offers: Vec::new(),
            clients,
            lines: BTreeMap::new(),
            last_line: 0,
            lanes: Lanes::default(),
            ledger: Ledger::default(),
            waits_since_ms: BTreeMap::new(),
            summary: SystemSummary::default(),
            rng,
        }
    }

    pub(super) fn saw(&mut self, what: &str) {
        *self.summary.seen.entry(what.to_owned()).or_default() += 1;
    }

    /// One random thing happens.
    pub fn step(&mut self) -> Result<(), String> {
        let at = below(self.clients.len(), &mut self.rng);
        match self.rng.below(1000) {
            0..40 => self.pass_time(),
            40..60 => self.connect(at),
            60 => self.disconnect_client(at),
            61 => self.drain_client(at),
            62 => {
                self.crash_client(at);
                Ok(())
            }
            63..68 => self.take_over(),
            68 => {
                self.crash_gateway();
                Ok(())
            }
            69 => self.drain_gateway(),
            70..90 => {
                self.start_gateway();
                Ok(())
            }
            // Mostly nobody watches, so that there are lanes.
            90..94 if self.is_watching => self.watch(),
            94 => self.watch(),
            95 | 96 => self.lose_line(),
            // One that is in use, and there is not always one.
            97 | 996..1000 => self.lose_lane(),
            98 => {
                self.waits_since_ms.clear();
                self.settle()
            }
            99 if self.rng.below(4) == 0 => self.calm(),
            100..260 => {
                // The one next to it is called more often than others: that makes pairs which get lanes.
                let near = (at + 1) % self.clients.len();
                let to = if self.rng.below(3) > 0 { near } else { below(self.clients.len(), &mut self.rng) };
                if to == at { Ok(()) } else { self.call(at, to) }
            }
            260..270 => self.cancel(at),
            270..400 => {
                let with_error = self.rng.below(5) == 0;
                self.respond(at, with_error)
            }
            _ => self.move_bytes(),
        }
    }

    fn pass_time(&mut self) -> Result<(), String> {
        let span_us = match self.rng.below(60) {
            0 => 5_000_000,
            1..8 => 200_000,
            8..30 => 10_000,
            _ => 1000,
        };
        let us = self.rng.below(span_us);
        self.now.wall_ms += (self.now.mono_us % 1000 + us) / 1000;
        self.now.mono_us += us;
        match self.rng.below(60) {
            0 => self.now.wall_ms += self.rng.below(100_000),
            1 => self.now.wall_ms -= self.rng.below(100_000),
            _ => {}
        }
        // Who is held up hears of it later.
        for at in 0..self.clients.len() {
            if self.rng.below(8) > 0 {
                self.client_time(at)?;
            }
        }
        if self.rng.below(8) > 0 { self.router_time() } else { Ok(()) }
    }

    fn drain_gateway(&mut self) -> Result<(), String> {
        if self.router.is_none() {
            return Ok(());
        }
        let timeout_ms = self.rng.below(2000);
        self.saw("gateway drains");
        self.tell_router(|router, now, orders| router.begin_drain(timeout_ms, now, orders))
    }

    /// A connection is torn, with bytes under way on it.
    fn lose_line(&mut self) -> Result<(), String> {
        let Some(place) = self.any_line() else { return Ok(()) };
        let line = self.lines.get_mut(&place).expect("it is there");
        let (Some(peer), Some(_)) = (line.peer, line.conn) else { return Ok(()) };
        line.cut(&mut self.rng);
        line.queue.clear();
        line.peer = None;
        self.saw("connection torn");
        self.drop_descriptors(place);
        if self.fault.strikes(SystemFault::ForgetDisconnect, &mut self.rng) || self.router.is_none() {
            return Ok(());
        }
        self.tell_router(|router, now, orders| router.handle_disconnect(peer, now, orders))
    }

    fn lose_lane(&mut self) -> Result<(), String> {
        let open = self.open_lanes();
        if open.is_empty() {
            return Ok(());
        }
        let place = open[below(open.len(), &mut self.rng)];
        self.break_lane(place)
    }

    fn move_bytes(&mut self) -> Result<(), String> {
        if self.rng.below(4) == 0 && self.lane_places() > 0 {
            let (place, side) = (below(self.lane_places(), &mut self.rng), below(2, &mut self.rng));
            return match self.rng.below(5) {
                0 | 1 => {
                    self.lane_writes(place, side, false);
                    Ok(())
                }
                2 | 3 => self.lane_reads(place, side, false).map(drop),
                _ => {
                    let fails = self.rng.below(12) == 0;
                    self.open_lane(place, side, fails).map(drop)
                }
            };
        }
        let Some(place) = self.any_line() else { return Ok(()) };
        if !self.lines[&place].is_decided {
            return self.decide(place);
        }
        match self.rng.below(4) {
            0 => {
                self.client_writes(place, false);
                Ok(())
            }
            1 => self.gateway_reads(place, false).map(drop),
            2 => self.gateway_writes(place, false).map(drop),
            _ => self.client_reads(place, false).map(drop),
        }
    }

    fn any_line(&mut self) -> Option<u64> {
        let nth = below(self.lines.len(), &mut self.rng);
        self.lines.keys().nth(nth).copied()
    }
}

/// Limits so small that random traffic reaches some of them.
fn random_config(rng: &mut Rng) -> RouterConfig {
    let frame_bytes_max = REGISTER_BYTES_MAX;
    let mut ends = Rng::new(rng.clone().next_u64());
    RouterConfig {
        ends_per_input_max: if ends.below(4) == 0 { ENDS_PER_INPUT_MAX } else { 1 + below(4, &mut ends) },
        speaks_v2: rng.below(8) > 0,
        lanes: [LanePolicy::Off, LanePolicy::Auto, LanePolicy::Always][below(3, rng)],
        lane_calls_min: 2 + u32::try_from(rng.below(3)).expect("small"),
        heartbeat_interval_ms: 3000,
        call_timeout_ms: 2000,
        register_timeout_ms: 4000,
        partial_frame_timeout_ms: 4000,
        write_stall_timeout_ms: 5000,
        frame_bytes_max,
        in_flight_per_peer_max: 12 + below(20, rng),
        queue_pause_bytes: 12_000,
        queue_calls_bytes_max: 24_000,
        queue_bytes_max: 3 * frame_bytes_max,
        connect_burst: 1 << 20,
        connect_rate_per_s: 1 << 20,
        ..RouterConfig::default()
    }
}
