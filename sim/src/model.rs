//! What is registered and in flight as an outsider knows it, and what must come of a message.

use crate::endings::Ending;
use crate::lanes::Lanes;
use crate::network::{Connection, Id};
use crate::policy::Rules;
use crate::traffic::{Shape, below};
use crate::wire;
use crate::wire_v2::Section;
use bro_proto::Now;
use bro_proto::limits::{CALL_ID_BYTES_MAX, CALL_TIMEOUT_MAX_MS, CHAIN_LEN_MAX, GATEWAY_SERVICE, POOL_SIZE_MAX};
use bro_proto::name::check_service_name;
use bro_proto::rng::Rng;
use bro_router::{PeerId, RouterConfig, UserView};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A registered service.
#[derive(Debug)]
pub(crate) struct Service {
    /// With their pool indices.
    pub(crate) instances: BTreeMap<PeerId, u64>,
    pub(crate) pool_size: u64,
    /// Of the last sign of life, monotonic.
    pub(crate) last_frame_ms: u64,
    /// Tells all services of a gateway apart, those of one name too.
    pub(crate) serial: u64,
}

/// A call in flight.
#[derive(Clone, Debug)]
pub(crate) struct Flight {
    pub(crate) caller: PeerId,
    pub(crate) id: Id,
    pub(crate) callee: PeerId,
    pub(crate) callee_id: Id,
    /// Monotonic.
    pub(crate) deadline_ms: u64,
    /// Tells all calls of a run apart.
    pub(crate) serial: u64,
    /// Serial of the call that it is made for, which may have ended.
    pub(crate) parent: Option<u64>,
    /// What a callee of version 2 makes its own calls from.
    pub(crate) context: Option<Section>,
    /// The context that a caller of version 1 gave, to be given back.
    pub(crate) echo: Value,
}

/// How far the gateway's end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    Draining,
    Ended,
}

/// Everything outside the router.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) config: RouterConfig,
    pub(crate) now: Now,
    /// See [`Shape`].
    watch_rarity: u64,
    pub(crate) connections: BTreeMap<PeerId, Connection>,
    pub(crate) names: BTreeMap<PeerId, String>,
    pub(crate) services: BTreeMap<String, Service>,
    pub(crate) flights: Vec<Flight>,
    /// Ids under which a callee has been asked and has not answered, though the call has ended.
    pub(crate) abandoned: BTreeSet<(PeerId, String)>,
    /// Of the last call that was passed on.
    pub(crate) serial: u64,
    /// Calls of which it is decided how they end, and which may not have ended so far: see [`crate::endings`].
    pub(crate) endings: Vec<Ending>,
    /// Of the last service that was registered.
    pub(crate) service_serial: u64,
    /// Numbers that the gateway has given to calls, and the root stamps that it has made.
    pub(crate) numbers: BTreeSet<u64>,
    pub(crate) roots: BTreeSet<u64>,
    /// Calls to the gateway that are not answered yet.
    pub(crate) inquiries: Vec<(PeerId, Id)>,
    /// What those were: method and parameters.
    pub(crate) questions: BTreeMap<(PeerId, Id), (String, Value)>,
    /// The policy in force; `None` when everybody may do everything.
    pub(crate) policy: Option<Rules>,
    pub(crate) phase: Phase,
    pub(crate) lanes: Lanes,
    /// Sum of what is held for the peers.
    pub(crate) held: usize,
    /// The router's accounts before the input being judged.
    pub(crate) users: Vec<UserView>,
    /// How often each error code and each reason of a close came out.
    pub(crate) seen: BTreeMap<String, u64>,
}

impl World {
    pub(crate) fn new(config: RouterConfig, seed: u64, now: Now) -> Self {
        Self {
            watch_rarity: [1, 300, 20_000][below(3, &mut Rng::new(seed))],
            config,
            now,
            connections: BTreeMap::new(),
            names: BTreeMap::new(),
            services: BTreeMap::new(),
            flights: Vec::new(),
            abandoned: BTreeSet::new(),
            serial: 0,
            endings: Vec::new(),
            service_serial: 0,
            numbers: BTreeSet::new(),
            roots: BTreeSet::new(),
            inquiries: Vec::new(),
            questions: BTreeMap::new(),
            policy: None,
            phase: Phase::Running,
            lanes: Lanes::default(),
            held: 0,
            users: Vec::new(),
            seen: BTreeMap::new(),
        }
    }

    pub(crate) fn shape(&self) -> Shape {
        let RouterConfig { frame_bytes_max, depth_max, .. } = self.config;
        Shape { frame_bytes_max, depth_max, watch_rarity: self.watch_rarity }
    }

    /// Counts an error code or a reason of a close.
    pub(crate) fn saw(&mut self, what: &str) {
        *self.seen.entry(what.to_owned()).or_default() += 1;
    }

    /// The peer has gone, and everything that was its own.
    pub(crate) fn take_down(&mut self, peer: PeerId) {
        let Some(connection) = self.connections.remove(&peer) else { return };
        self.held -= connection.held;
        let own = self.flights.iter().filter(|flight| flight.caller == peer);
        for serial in own.map(|flight| flight.serial).collect::<Vec<_>>() {
            self.give_up(serial, 2, None);
        }
        self.lose_calls_to(peer);
        self.abandoned.retain(|(callee, _)| *callee != peer);
        self.inquiries.retain(|(caller, _)| *caller != peer);
        self.questions.retain(|(caller, _), _| *caller != peer);
        if let Some(name) = self.names.remove(&peer) {
            let service = self.services.get_mut(&name).expect("a name is of a service");
            service.instances.remove(&peer);
            if service.instances.is_empty() {
                self.services.remove(&name);
            }
        }
    }

    /// The error codes with which a CALL may be refused. Empty: it must be passed on (or answered, by the gateway itself).
    pub(crate) fn refusals(&self, caller: PeerId, call: &Value) -> Vec<&'static str> {
        if !self.names.contains_key(&caller) {
            return vec!["NOT_REGISTERED"];
        }
        let mut codes = Vec::new();
        let id = call["id"].as_str().unwrap_or_default();
        if id.is_empty() || id.len() > CALL_ID_BYTES_MAX || !call["to"].is_string() || !call["method"].is_string() {
            codes.push("INVALID_MESSAGE");
        }
        let to = call["to"].as_str().unwrap_or_default();
        let is_of_gateway = to == GATEWAY_SERVICE;
        if codes.is_empty() && !is_of_gateway && !self.may_call(caller, to, call["method"].as_str().unwrap_or_default())
        {
            return vec!["PERMISSION_DENIED"];
        }
        if !call["context"].is_null() {
            codes.extend(self.context_refusals(&call["context"]));
        }
        if is_of_gateway {
            return codes;
        }
        codes.extend(self.refusals_of_target(caller, to));
        codes
    }

    /// Whether a message is above the limit: of those, only calls with such `params` are written.
    pub(crate) fn is_oversize(&self, message: &Value) -> bool {
        message["params"].as_str().is_some_and(|params| params.len() >= self.config.frame_bytes_max)
    }

    /// Whether a message may be too large for some receiver's encoding.
    pub(crate) fn may_be_too_large(&self, message: &Value) -> bool {
        let json = wire::frame(message, bro_proto::v1::Encoding::Json).len();
        // The gateway may add a context and longer names.
        json + 400 > self.config.frame_bytes_max
    }

    /// How long a call may take, in milliseconds.
    pub(crate) fn timeout_ms(&self, call: &Value) -> u64 {
        match deadline_of(&call["context"]) {
            Some(deadline_ms) => deadline_ms.saturating_sub(self.now.wall_ms).min(CALL_TIMEOUT_MAX_MS),
            None => self.config.call_timeout_ms,
        }
    }

    /// The code with which a REGISTER must be refused; `None`: it must be accepted.
    pub(crate) fn registration_refusal(&self, peer: PeerId, register: &Value) -> Option<&'static str> {
        let name = register["serviceName"].as_str().unwrap_or_default();
        let (size, index) = pool_of(register);
        let is_pool_bad = size > 1 && (size > u64::from(POOL_SIZE_MAX) || index >= size);
        if let Some(present) = self.names.get(&peer) {
            return if present != name || is_pool_bad { Some("INVALID_MESSAGE") } else { None };
        }
        if self.phase != Phase::Running {
            return Some("SHUTTING_DOWN");
        }
        if check_service_name(name).is_err() {
            return Some("INVALID_MESSAGE");
        }
        if name.starts_with("bro.") {
            return Some("PERMISSION_DENIED");
        }
        if !self.may_own(peer, name) {
            return Some("PERMISSION_DENIED");
        }
        if is_pool_bad {
            return Some("INVALID_MESSAGE");
        }
        let service = self.services.get(name)?;
        let member = service.instances.keys().next().expect("a service has an instance");
        let is_open = size > 1
            && size == service.pool_size
            && !service.instances.values().any(|&taken| taken == index)
            && self.connections[&peer].identity == self.connections[member].identity;
        if is_open { None } else { Some("DUPLICATE_SERVICE") }
    }

    /// A REGISTER was accepted.
    pub(crate) fn registered(&mut self, peer: PeerId, register: &Value) {
        let name = register["serviceName"].as_str().expect("checked").to_owned();
        if self.names.contains_key(&peer) {
            return;
        }
        let (pool_size, index) = pool_of(register);
        let now_ms = self.now.mono_ms();
        self.service_serial += 1;
        let serial = self.service_serial;
        let fresh = || Service { instances: BTreeMap::new(), pool_size, last_frame_ms: now_ms, serial };
        let service = self.services.entry(name.clone()).or_insert_with(fresh);
        service.instances.insert(peer, index);
        service.last_frame_ms = now_ms;
        self.names.insert(peer, name);
        let connection = self.connections.get_mut(&peer).expect("it is open");
        connection.speaks_v2 = self.config.speaks_v2 && register["metadata"]["bro"]["v"] == 2;
        connection.takes_lanes = connection.speaks_v2 && register["metadata"]["bro"]["lanes"] == true;
    }

    /// The gateway has heard from a peer.
    pub(crate) fn heard(&mut self, peer: PeerId) {
        if let Some(name) = self.names.get(&peer) {
            self.services.get_mut(name).expect("a name is of a service").last_frame_ms = self.now.mono_ms();
        }
    }

    fn context_refusals(&self, context: &Value) -> Option<&'static str> {
        let is_root = context["root"].as_str().is_some_and(|root| !root.is_empty());
        let is_chain =
            context["chain"].as_array().is_some_and(|chain| !chain.is_empty() && chain.len() <= CHAIN_LEN_MAX);
        let depth = context["depth"].as_u64().unwrap_or(0);
        let deadline_ms = deadline_of(context).unwrap_or(0);
        if !is_root || !is_chain || depth == 0 || deadline_ms == 0 {
            Some("INVALID_CONTEXT")
        } else if depth > u64::from(self.config.depth_max) {
            Some("MAX_DEPTH_EXCEEDED")
        } else if deadline_ms <= self.now.wall_ms {
            Some("DEADLINE_EXCEEDED")
        } else {
            None
        }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "as the protocol says: it saturates")]
fn deadline_of(context: &Value) -> Option<u64> {
    context["deadline"].as_u64().or_else(|| context["deadline"].as_f64().map(|deadline| deadline as u64))
}

/// Pool size and index; (1, 0) without a pool.
fn pool_of(register: &Value) -> (u64, u64) {
    let metadata = &register["metadata"];
    match (metadata["poolSize"].as_u64(), metadata["poolIndex"].as_u64()) {
        (Some(size), Some(index)) if size > 1 => (size, index),
        _ => (1, 0),
    }
}
