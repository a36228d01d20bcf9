//! The router itself: what it knows, handed on whole or not at all.

use super::{
    EncodingState, FORMAT, ImportError, Moment, PhaseState, READABLE_FROM, RouterState,
    checks::{check_context, ensure, ensure_at_most},
};
use crate::config::RouterConfig;
use crate::counters::COUNT_MAX;
use crate::drain::Phase;
use crate::hash::KeyedHash;
use crate::outbox::PeerId;
use crate::parked::Parked;
use crate::peers::{NIL, Peers};
use crate::report::Reporter;
use crate::router::Router;
use crate::timers::{Timer, Timers};
use bro_proto::Now;
use bro_proto::rng::Rng;
use bro_proto::timer::TimerId;
use bro_proto::v1::{Encoding, Payload};

/// Hashed by both sides, to see whether they do it alike.
const PROBE: &str = "takeover";

/// From the exporting router's monotonic clock to the importing one's. In whole milliseconds, so that moments keep their order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shift {
    from_ms: u64,
    to_ms: u64,
}

impl Shift {
    /// A moment in milliseconds.
    pub(crate) fn ms(self, at_ms: u64) -> u64 {
        if self.to_ms >= self.from_ms {
            at_ms.saturating_add(self.to_ms - self.from_ms)
        } else {
            at_ms.saturating_sub(self.from_ms - self.to_ms)
        }
    }

    /// A moment in microseconds.
    pub(crate) fn us(self, at_us: u64) -> u64 {
        if self.to_ms >= self.from_ms {
            at_us.saturating_add((self.to_ms - self.from_ms).saturating_mul(1000))
        } else {
            at_us.saturating_sub((self.from_ms - self.to_ms).saturating_mul(1000))
        }
    }
}

/// When a pending timer fires.
pub(crate) fn deadline_of(timers: &Timers, timer: TimerId) -> u64 {
    timers.deadline_ms(timer).expect("who has a timer's id has not seen it fire")
}

impl From<Encoding> for EncodingState {
    fn from(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Json => EncodingState::Json,
            Encoding::Msgpack => EncodingState::Msgpack,
        }
    }
}

impl From<EncodingState> for Encoding {
    fn from(encoding: EncodingState) -> Self {
        match encoding {
            EncodingState::Json => Encoding::Json,
            EncodingState::Msgpack => Encoding::Msgpack,
        }
    }
}

impl From<Now> for Moment {
    fn from(now: Now) -> Self {
        let Now { mono_us, wall_ms } = now;
        Moment { mono_us, wall_ms }
    }
}

impl Router {
    /// Everything that it knows, between two inputs, after [`Router::finish_ends`]: not while [`Router::is_ending`]. Which events its driver listens to, and what `status` tells of the process, are the
    /// driver's business: whoever imports the state says so anew.
    pub fn export(&self, now: Now) -> RouterState {
        let Router {
            config: _, // that of the importing one counts
            hasher,
            rng,
            peers,
            registry,
            calls,
            ends: _, // nothing is left, and what was left is of no meaning to another one
            parked,
            lanes,
            timers,
            reporter,
            counters,
            phase,
            started,
            permissions: _, // the driver says which policy counts
            pid: _,
            user: _,
            socket_path: _,
            loop_view: _, // of the driver's thread, which is another one from now on
            scratch,
            roots,
            takeover_request,
            takeover_lost: _, // a takeover has succeeded
        } = self;
        let Reporter { mask: _, log, is_log_fresh } = reporter;
        debug_assert!(
            scratch.is_empty() && !is_log_fresh && takeover_request.is_none(),
            "it is exported between two inputs"
        );
        RouterState {
            format: FORMAT,
            readable_from: READABLE_FROM,
            exported_at: now.into(),
            started: (*started).into(),
            hash_keys: hasher.keys(),
            hash_probe: hasher.hash(NIL, PROBE),
            rng: rng.state(),
            roots: *roots,
            phase: match *phase {
                Phase::Running => PhaseState::Running,
                Phase::Draining(timer) => PhaseState::Draining { deadline_ms: deadline_of(timers, timer) },
                Phase::Ended => PhaseState::Ended,
            },
            counters: *counters,
            peers: peers.export(timers),
            registry: registry.export(peers, timers),
            calls: calls.export(timers),
            parked: parked.export(timers),
            lanes: lanes.export(timers),
            event_log: log.export(),
        }
    }

    /// A router that goes on from a state. Which policy counts is not in it: [`Router::set_policy`] comes before any other input. `now` is the moment of the export on the clock that will be used from now on: what passes on
    /// it afterwards, the handing over included, counts for every deadline.
    ///
    /// Nothing of the state is believed: whatever contradicts itself, or is more than `config` allows, is an error.
    pub fn import(config: RouterConfig, state: RouterState, now: Now) -> Result<Router, ImportError> {
        let RouterState {
            format: _, // checked when it was decoded
            readable_from: _,
            exported_at,
            started,
            hash_keys,
            hash_probe,
            rng,
            roots,
            phase,
            counters,
            peers: peers_state,
            registry: registry_state,
            calls: calls_state,
            parked: parked_state,
            lanes: lanes_state,
            event_log,
        } = state;
        let shift = Shift { from_ms: exported_at.mono_us / 1000, to_ms: now.mono_ms() };
        let mut router = Router::new(config, 0, now);
        router.hasher = KeyedHash::from_keys(hash_keys);
        router.rng = Rng::new(rng);
        router.roots = roots;
        router.started = Now { mono_us: shift.us(started.mono_us), wall_ms: started.wall_ms };
        ensure(counters.named().iter().all(|(_, count)| *count <= COUNT_MAX), "a counter is about to overflow")?;
        router.counters = counters;
        let is_same_hash = router.hasher.hash(NIL, PROBE) == hash_probe;
        router.peers = Peers::import(&router.config, peers_state, is_same_hash, shift, &mut router.timers)?;
        router.import_services(registry_state, shift)?;
        router.import_calls(calls_state, shift)?;
        router.reporter.log.import(event_log, shift)?;
        if router.reporter.log.is_recording() {
            let deadline_ms = router.reporter.log.lease_until_ms();
            router.timers.insert(deadline_ms, Timer::WatchLease);
        }
        router.import_lanes(lanes_state, shift)?;
        router.phase = match phase {
            PhaseState::Running => Phase::Running,
            PhaseState::Draining { deadline_ms } => {
                Phase::Draining(router.timers.insert(shift.ms(deadline_ms), Timer::Drain))
            }
            PhaseState::Ended => {
                ensure(router.peers.len() == 0, "it has ended, and there are connections")?;
                Phase::Ended
            }
        };
        router.parked = Parked::new();
        router.import_parked(parked_state, shift)?;
        ensure(phase == PhaseState::Running || router.parked.len() == 0, "somebody waits for a gateway that ends")?;
        ensure_at_most(router.memory_bytes(), router.config.memory_max, "memory_max")?;
        Ok(router)
    }

    /// The driver keeps so much of an unfinished frame of a peer that was imported: charged before the first input, so that who has too little memory
    /// for what is there is refused, and closes nobody. Until then nothing else may happen.
    pub fn import_kept(&mut self, peer: PeerId, bytes: usize, now: Now) -> Result<(), ImportError> {
        let slot = self.peers.find(peer);
        ensure(slot.is_some(), "a frame was begun by nobody")?;
        self.peers.keep(slot.unwrap_or(NIL), bytes, now);
        ensure_at_most(self.memory_bytes(), self.config.memory_max, "memory_max")
    }

    /// Whether a slot of a state is that of a peer that has registered.
    pub(crate) fn is_registered(&self, slot: u32) -> bool {
        self.peers.is_live(slot) && self.peers[slot].service != NIL
    }
}

/// A context that will be echoed.
pub(crate) fn echoed(bytes: &[u8], encoding: EncodingState, bytes_max: usize) -> Result<Payload<'_>, ImportError> {
    let payload = Payload { encoding: encoding.into(), bytes };
    check_context(payload, bytes_max)?;
    Ok(payload)
}
