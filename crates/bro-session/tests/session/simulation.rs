//! Random use against a random gateway, with a seed; what [`Session`] promises is checked after every step.

use crate::pair::{START_MS, frame, split_frames};
use crate::wire2::{self, Call};
use bro_proto::context::CallContext;
use bro_proto::error::{ErrorBody, ErrorCode};
use bro_proto::limits::REGISTER_BYTES_MAX;
use bro_proto::rng::Rng;
use bro_proto::time::Now;
use bro_proto::v1::encode::Outcome;
use bro_proto::v1::{Encoding, Payload};
use bro_proto::v2::CallNumber;
use bro_session::{CallId, CallKey, CallRequest, ConnId, Output, RequestId, Session, SessionConfig, SessionEvent};
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};

const SEEDS: u64 = 400;
const STEPS: u64 = 600;
const QUEUE_BYTES_MAX: usize = 20_000;
const WAITING_CALLS_MAX: usize = 6;
const WAITING_BYTES_MAX: usize = 60_000;
/// In place of the id of a request that wants no answer.
const NOTIFIED: &str = "notified";

#[test]
fn every_promise_holds_under_random_use() {
    let mut totals = Totals::default();
    for seed in 0..SEEDS {
        let _shown = ShownOnPanic(seed);
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        world.finish();
        totals.add(&world);
    }
    assert!(totals.is_varied(), "the simulation reaches what it is meant to reach: {totals:?}");
}

#[test]
fn equal_seeds_give_equal_runs() {
    let run = |seed| {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        (world.session.counters(), world.now, world.wire_ids.len(), format!("{:?}", world.answers))
    };
    assert_eq!(run(5), run(5));
}

/// Names the seed of the run that failed.
struct ShownOnPanic(u64);

impl Drop for ShownOnPanic {
    #[allow(clippy::print_stderr, reason = "the seed repeats the failure")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with seed {}", self.0);
        }
    }
}

/// How a run went, summed up to see that nothing is left out.
#[derive(Debug, Default)]
struct Totals {
    done: u64,
    succeeded: u64,
    cancelled: u64,
    answered: u64,
    expired: u64,
    disconnected: u64,
    connects_failed: u64,
    late_answers: u64,
    overloaded: u64,
    broken: u64,
    /// Calls that began to wait for their service, that were sent again, that waited in vain, and that found no room for waiting.
    waits: u64,
    sent_again: u64,
    waited_in_vain: u64,
    too_many_waited: u64,
    /// Of version 2 alone.
    of_v2: TotalsOfV2,
}

#[derive(Debug, Default)]
struct TotalsOfV2 {
    succeeded: u64,
    cancels_sent: u64,
    given_up: u64,
    named_parents: u64,
    sections: u64,
    notifications_sent: u64,
    notifications_taken: u64,
    answered: u64,
    drained: u64,
    gateway_drains: u64,
    silent: u64,
}

impl Totals {
    fn add(&mut self, world: &World) {
        self.done += world.totals.done;
        self.succeeded += world.totals.succeeded;
        self.cancelled += world.totals.cancelled;
        self.answered += world.totals.answered;
        self.expired += world.totals.expired;
        self.disconnected += world.totals.disconnected;
        self.connects_failed += world.totals.connects_failed;
        self.late_answers += world.session.counters().late_answers;
        self.overloaded += world.totals.overloaded;
        self.broken += world.totals.broken;
        self.waits += world.session.counters().waits;
        self.sent_again += world.totals.sent_again;
        self.waited_in_vain += world.totals.waited_in_vain;
        self.too_many_waited += world.totals.too_many_waited;
        let (sum, of) = (&mut self.of_v2, &world.totals.of_v2);
        sum.succeeded += of.succeeded;
        sum.cancels_sent += of.cancels_sent;
        sum.given_up += of.given_up;
        sum.named_parents += of.named_parents;
        sum.sections += of.sections;
        sum.notifications_sent += of.notifications_sent;
        sum.notifications_taken += of.notifications_taken;
        sum.answered += of.answered;
        sum.drained += of.drained;
        sum.gateway_drains += of.gateway_drains;
        sum.silent += of.silent;
    }

    fn is_varied(&self) -> bool {
        let least = [
            self.succeeded,
            self.cancelled,
            self.answered,
            self.expired,
            self.disconnected,
            self.connects_failed,
            self.late_answers,
            self.overloaded,
            self.broken,
            self.waits,
            self.waited_in_vain,
            self.too_many_waited,
            self.of_v2.succeeded,
            self.of_v2.cancels_sent,
            self.of_v2.given_up,
            self.of_v2.named_parents,
            self.of_v2.sections,
            self.of_v2.notifications_sent,
            self.of_v2.notifications_taken,
            self.of_v2.answered,
            self.of_v2.drained,
            self.of_v2.gateway_drains,
        ];
        self.of_v2.silent > 10
            && self.sent_again > 50
            && least.into_iter().all(|count| count > 100)
            && self.done > self.succeeded + 100
    }
}

/// One connection as the gateway sees it.
#[derive(Debug, Default)]
struct Link {
    is_open: bool,
    /// Bytes from the session that are no whole frame.
    partial: Vec<u8>,
    /// Bytes to the session that are not delivered.
    inbox: Vec<u8>,
    /// REGISTER came and was not acknowledged.
    is_registering: bool,
    /// Ids of calls that came and may be answered.
    calls: Vec<String>,
    /// Numbers of calls of version 2 that came and may be answered.
    numbered: Vec<u64>,
    /// REGISTER was acknowledged: from then on the version stays as it is.
    was_acked: bool,
    /// It was acknowledged in version 2.
    is_v2: bool,
    routes: BTreeMap<u64, String>,
    /// Numbers that this gateway has given to calls it sent here.
    asked: Vec<u64>,
}

/// A CALL that the gateway sent.
#[derive(Debug, Default, Clone)]
struct Asked {
    /// Answers that the session sent.
    answers: u32,
    /// Answers that it promised besides those it gives by itself: `respond` was accepted, or it said so by the reason of the expiry.
    promised: u32,
    /// The gateway has sent a CANCEL, which may not have arrived: nothing is promised any more.
    is_cancelled: bool,
}

struct World {
    session: Session,
    encoding: Encoding,
    rng: Rng,
    now: Now,
    links: BTreeMap<ConnId, Link>,
    /// Connections that ended on the gateway's side.
    gone: HashSet<ConnId>,
    pending: Vec<CallId>,
    /// Requests in work: the connection, and the caller's id.
    requests: Vec<(RequestId, ConnId, String)>,
    answers: BTreeMap<(ConnId, String), Asked>,
    wire_ids: HashSet<String>,
    /// How often the gateway said of a number that its service is not there: so often may it come again.
    refused: BTreeMap<u64, u32>,
    next_asked: u64,
    connect_waits: bool,
    drain_waits: bool,
    is_connected: bool,
    /// How many of four gateways speak version 2.
    v2_of_4: u64,
    totals: Totals,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let encoding = if rng.below(4) == 0 { Encoding::Msgpack } else { Encoding::Json };
        let config = SessionConfig {
            methods: vec!["get".into(), "put".into()],
            encoding,
            pool_size: [1, 1, 2, 5][pick(&mut rng, 4)],
            auto_reconnect: rng.below(4) != 0,
            reconnect_delay_ms: rng.below(300),
            timeout_ms: 1 + rng.below(20_000),
            heartbeat_interval_ms: 1 + rng.below(3000),
            wait_for_gateway_ms: [0, 0, 1000][pick(&mut rng, 3)],
            frame_bytes_max: REGISTER_BYTES_MAX,
            queue_bytes_max: QUEUE_BYTES_MAX,
            requests_max: 5,
            wait_for_service_ms: [0, 0, 300, 5000][pick(&mut rng_of(seed + 1), 4)],
            waiting_calls_max: WAITING_CALLS_MAX,
            waiting_bytes_max: WAITING_BYTES_MAX,
            ..SessionConfig::new("order")
        };
        let now = Now { mono_us: rng.below(1 << 40), wall_ms: START_MS };
        World {
            session: Session::new(config, seed, now).unwrap(),
            encoding,
            rng,
            now,
            links: BTreeMap::new(),
            gone: HashSet::new(),
            pending: Vec::new(),
            requests: Vec::new(),
            answers: BTreeMap::new(),
            wire_ids: HashSet::new(),
            refused: BTreeMap::new(),
            next_asked: 1,
            connect_waits: false,
            drain_waits: false,
            v2_of_4: [0, 2, 4, 4][pick(&mut rng_of(seed), 4)],
            is_connected: false,
            totals: Totals::default(),
        }
    }

    fn step(&mut self) {
        match self.rng.below(1000) {
            0..=39 => {
                self.poll(false);
                self.connect_waits = true;
                self.session.connect(self.now);
            }
            40..=42 => self.session.disconnect(self.now),
            43..=45 => {
                self.poll(false);
                self.drain_waits = true;
                self.session.drain(self.now);
            }
            46..=149 => self.pass_time(),
            150..=299 => self.decide_on_connections(),
            300..=449 => self.call(),
            450..=469 => self.cancel(),
            470..=479 => self.notify(),
            480..=579 => self.respond(),
            580..=599 => self.change_methods(),
            600..=749 => self.write_answer(),
            750..=859 => self.write_call(),
            860..=879 => self.write_cancel(),
            880..=885 => self.write_oddity(),
            886..=994 => self.deliver(),
            _ => self.hang_up(),
        }
        // Inputs come in batches of different sizes.
        if self.rng.below(4) != 0 {
            self.poll(false);
            self.check();
        }
    }

    /// Disconnects and sees that nothing is left over.
    fn finish(&mut self) {
        self.poll(false);
        self.session.disconnect(self.now);
        self.poll(true);
        self.check();
        assert!(self.pending.is_empty() && self.requests.is_empty());
        assert!(!self.connect_waits && !self.drain_waits && !self.is_connected && self.links.is_empty());
        assert_eq!(self.session.wakeup_ms(), None);
        assert_eq!(self.session.status().outbound_bytes, 0);
        self.now.mono_us += 1_000_000_000;
        self.session.handle_time(self.now);
        assert!(self.session.poll_output().is_none() && self.session.poll_outbound().is_none());
    }

    fn check(&mut self) {
        let status = self.session.status();
        assert_eq!(status.pending_calls, self.pending.len());
        assert_eq!(status.requests_in_work, self.requests.len());
        assert_eq!(status.connected, self.is_connected);
        assert!(!status.connected || status.connections_registered > 0);
        assert!(status.connected || self.pending.len() == status.waiting_calls, "no call outlives the connections");
        assert!(status.waiting_calls <= WAITING_CALLS_MAX);
        assert!(self.requests.len() <= 5);
        let session = &mut self.session;
        let all_reachable = self.requests.iter().all(|(_, conn, _)| session.outbound(*conn).is_some());
        assert!(all_reachable, "no request outlives its connection");
        if !self.pending.is_empty() || !self.requests.is_empty() || self.connect_waits || self.drain_waits {
            assert!(self.session.wakeup_ms().is_some(), "what waits has a timer");
        }
        for (&conn, link) in &self.links {
            let Some(outbound) = self.session.outbound(conn) else {
                assert!(!link.is_open, "the session told what it closed");
                continue;
            };
            assert!(outbound.len() <= QUEUE_BYTES_MAX + REGISTER_BYTES_MAX + 100_000, "bounded");
        }
    }

    fn poll(&mut self, is_disconnect: bool) {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::LaneOffered { .. } => unreachable!("this client takes no lanes"),
                Output::Connect(conn) => {
                    assert!(self.links.insert(conn, Link::default()).is_none(), "a new id");
                }
                Output::Close { conn, unsent } => {
                    let Some(mut link) = self.links.remove(&conn) else {
                        assert!(self.gone.remove(&conn), "closed once, by one side or both at the same time");
                        continue;
                    };
                    link.partial.extend(unsent);
                    self.read(conn, &mut link);
                    if is_disconnect {
                        assert!(link.partial.is_empty(), "the stream ends between frames");
                        let kept = |asked: &Asked| asked.answers >= asked.promised;
                        let all_kept = self.answers.iter().all(|((to, _), asked)| *to != conn || kept(asked));
                        assert!(all_kept, "promised answers are on the wire: {:?}", self.answers);
                    }
                }
                Output::Event(event) => self.handle_event(event),
            }
        }
        while let Some(conn) = self.session.poll_outbound() {
            assert!(self.links[&conn].is_open);
        }
        // The gateway reads what it likes.
        let conns: Vec<ConnId> = self.links.keys().copied().collect();
        for conn in conns {
            let Some(outbound) = self.session.outbound(conn) else { continue };
            let waiting = outbound.len() as u64;
            let count = match self.rng.below(4) {
                0 => 0,
                1 => self.rng.below(waiting + 1),
                _ => waiting,
            };
            let count = usize::try_from(count).unwrap();
            let mut link = self.links.remove(&conn).unwrap();
            link.partial.extend(&outbound.chunk()[..count]);
            outbound.advance(count);
            self.read(conn, &mut link);
            self.links.insert(conn, link);
        }
    }

    /// Takes the whole frames that the session sent on a connection.
    fn read(&mut self, conn: ConnId, link: &mut Link) {
        let (frames, used) = split_frames(&link.partial, self.encoding);
        link.partial.drain(..used);
        for message in frames {
            if !message["kind"].is_null() {
                self.read_numbered(conn, link, &message);
                continue;
            }
            let id = message["id"].as_str().unwrap_or_default().to_owned();
            match message["type"].as_str().unwrap() {
                "REGISTER" => link.is_registering = true,
                "CALL" => {
                    assert!(self.wire_ids.insert(id.clone()), "an id of its own");
                    assert!(!link.is_v2, "in version 2 calls have numbers");
                    if message["to"] == "user" {
                        self.check_chain(&message["context"]["chain"]);
                    } else {
                        assert_eq!((&message["to"], &message["method"]), (&json!("bro.gateway"), &json!("waitFor")));
                    }
                    link.calls.push(id);
                }
                "RESPONSE" => {
                    let asked = self.answers.get_mut(&(conn, id)).expect("only where it was asked");
                    asked.answers += 1;
                    assert_eq!(asked.answers, 1, "answered at most once");
                    assert_eq!((&message["to"], &message["from"]), (&json!("user"), &json!("order")));
                }
                "HEARTBEAT" => assert_eq!(message["from"], "order"),
                other => panic!("a client does not send {other}"),
            }
        }
    }

    fn read_numbered(&mut self, conn: ConnId, link: &mut Link, message: &Value) {
        assert!(link.is_v2, "only where it was agreed on");
        let id = message["id"].as_u64().unwrap();
        match message["kind"].as_str().unwrap() {
            "RESOLVE" => {
                assert!(id < 1024);
                link.routes.insert(id, message["service"].as_str().unwrap().to_owned());
            }
            kind @ ("CALL" | "NOTIFY") => {
                let service = &link.routes[&message["route"].as_u64().unwrap()];
                assert!(service == "user" || (service == "bro.gateway" && message["method"] == "waitFor"));
                assert!(message["timeout"].as_u64().unwrap() > 0);
                let (parent, section) = (message["parent"].as_u64().unwrap(), &message["section"]);
                if parent != 0 {
                    let parent = CallNumber::from_wire(parent).to_string();
                    assert!(self.answers.keys().any(|(_, id)| *id == parent), "a number of the gateway");
                    assert!(section.is_null());
                    self.totals.of_v2.named_parents += 1;
                } else if !section.is_null() {
                    self.check_chain(&section["chain"]);
                    self.totals.of_v2.sections += 1;
                }
                if kind == "CALL" {
                    assert!(id > 0);
                    if !self.wire_ids.insert(format!("#{id}")) {
                        let refused = self.refused.get_mut(&id).filter(|times| **times > 0);
                        *refused.expect("a number of its own, or of a call that was refused") -= 1;
                        self.totals.sent_again += 1;
                    }
                    link.numbered.push(id);
                } else {
                    assert_eq!(id, 0);
                    self.totals.of_v2.notifications_sent += 1;
                }
            }
            "CANCEL" => {
                assert!(self.wire_ids.remove(&format!("#{id}")), "of a call, and once");
                self.totals.of_v2.cancels_sent += 1;
            }
            "RESPONSE" | "ERROR" => {
                let key = (conn, CallNumber::from_wire(id).to_string());
                let asked = self.answers.get_mut(&key).expect("only where it was asked");
                asked.answers += 1;
                assert_eq!(asked.answers, 1, "answered at most once");
                self.totals.of_v2.answered += 1;
            }
            "PING" => {
                if self.rng.below(4) != 0 {
                    link.inbox.extend(wire2::frame(wire2::PONG, 0, 0, id, &[]));
                }
            }
            "PONG" | "DRAIN" => {}
            other => panic!("a client does not send {other}"),
        }
    }

    fn check_chain(&self, chain: &Value) {
        let chain = chain.as_array().unwrap();
        assert_eq!(chain[chain.len() - 2..], ["order", "user"]);
    }

    fn handle_event(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Connected => {
                assert!(!std::mem::replace(&mut self.is_connected, true), "told once");
            }
            SessionEvent::Registered => self.connect_waits = false,
            SessionEvent::AlreadyConnected => {
                assert!(std::mem::take(&mut self.connect_waits));
            }
            SessionEvent::ConnectFailed(error) => {
                assert!(std::mem::take(&mut self.connect_waits), "someone waited");
                assert!(error.code.is_some());
                self.totals.connects_failed += 1;
            }
            SessionEvent::Disconnected { .. } => {
                assert!(std::mem::take(&mut self.is_connected), "told once");
                self.totals.disconnected += 1;
            }
            SessionEvent::Request(request) if !request.wants_answer => {
                let mut numbers = request.from.split('-').skip(1).map(|number| number.parse().unwrap());
                let conn = ConnId { index: numbers.next().unwrap(), generation: numbers.next().unwrap() };
                self.requests.push((request.id, conn, NOTIFIED.to_owned()));
                self.totals.of_v2.notifications_taken += 1;
            }
            SessionEvent::Request(request) => {
                let mut asked = self.answers.keys().filter(|(_, id)| *id == request.request_id.to_string());
                let key = asked.next().unwrap_or_else(|| panic!("nobody asked {request:?}")).0;
                assert!(self.requests.iter().all(|(id, ..)| *id != request.id));
                self.requests.push((request.id, key, request.request_id.to_string()));
            }
            SessionEvent::RequestExpired { id, reason } => {
                let at = self.requests.iter().position(|(other, ..)| *other == id).expect("it was in work");
                let (_, conn, wire_id) = self.requests.swap_remove(at);
                if wire_id != NOTIFIED {
                    let asked = self.answers.get_mut(&(conn, wire_id)).unwrap();
                    if !asked.is_cancelled && reason != ErrorCode::ConnectionLost {
                        asked.promised += 1;
                    }
                    self.totals.of_v2.given_up += u64::from(asked.is_cancelled);
                }
                self.totals.expired += 1;
            }
            SessionEvent::CallDone { id, outcome, request_id, .. } => {
                let at = self.pending.iter().position(|other| *other == id).expect("it was pending");
                self.pending.swap_remove(at);
                self.totals.done += 1;
                self.totals.succeeded += u64::from(outcome.is_ok());
                let is_v2 = matches!(request_id, CallKey::V2(_));
                self.totals.of_v2.succeeded += u64::from(is_v2 && outcome.is_ok());
                let says = |what: &str| outcome.as_ref().is_err_and(|error| error.message.contains(what));
                self.totals.waited_in_vain += u64::from(says("ms of waiting for"));
                self.totals.too_many_waited += u64::from(says("no room for waiting"));
                let is_silent = outcome.is_err_and(|error| error.message.contains("answered no PING"));
                self.totals.of_v2.silent += u64::from(is_silent);
            }
            SessionEvent::Error(error) => {
                self.totals.broken += u64::from(error.message.starts_with("from the gateway"))
            }
            SessionEvent::Reconnecting { .. } | SessionEvent::GatewayError(_) => {}
            SessionEvent::GatewayDraining => self.totals.of_v2.gateway_drains += 1,
            SessionEvent::Drained { in_work } => {
                assert!(std::mem::take(&mut self.drain_waits), "someone waited");
                assert_eq!(in_work, self.requests.len());
                self.totals.of_v2.drained += 1;
            }
        }
    }

    fn pass_time(&mut self) {
        let span = [10, 10, 1000, 1000, 100_000, 100_000, 1_000_000, 70_000_000][pick(&mut self.rng, 8)];
        let us = self.rng.below(span);
        self.now.wall_ms += (self.now.mono_us % 1000 + us) / 1000;
        self.now.mono_us += us;
        if self.rng.below(50) == 0 {
            self.now.wall_ms += self.rng.below(100_000);
        }
        self.session.handle_time(self.now);
    }

    fn decide_on_connections(&mut self) {
        let undecided: Vec<ConnId> =
            self.links.iter().filter(|(_, link)| !link.is_open).map(|(conn, _)| *conn).collect();
        for conn in undecided {
            if self.rng.below(15) == 0 {
                self.links.remove(&conn);
                self.gone.insert(conn);
                self.session.handle_connect_failed(conn, "refused", self.now);
            } else {
                self.links.get_mut(&conn).unwrap().is_open = true;
                self.session.handle_connected(conn, self.now);
            }
        }
        let registering: Vec<ConnId> =
            self.links.iter().filter(|(_, link)| link.is_registering).map(|(conn, _)| *conn).collect();
        for conn in registering {
            let code = ["DUPLICATE_SERVICE", "PERMISSION_DENIED", "MINE"][pick(&mut self.rng, 3)];
            let message = match self.rng.below(20) {
                0 => json!({"type": "ERROR", "error": {"message": "no", "code": code}, "timestamp": 1}),
                1 => continue,
                2..=9 if self.links[&conn].is_v2 => {
                    json!({"type": "REGISTER_ACK", "bro": {"v": 2}, "from": "bro.gateway"})
                }
                2..=9 if !self.links[&conn].was_acked && self.rng.below(4) < self.v2_of_4 => {
                    json!({"type": "REGISTER_ACK", "bro": {"v": 2}, "from": "bro.gateway"})
                }
                _ if self.links[&conn].is_v2 || (!self.links[&conn].was_acked && self.rng.below(4) < self.v2_of_4) => {
                    json!({"type": "REGISTER_ACK", "bro": {"v": 2}})
                }
                _ => json!({"type": "REGISTER_ACK"}),
            };
            let link = self.links.get_mut(&conn).unwrap();
            link.is_registering = false;
            link.was_acked |= message["type"] == "REGISTER_ACK";
            self.write(conn, &message);
            if !message["bro"].is_null() {
                let Some(link) = self.links.get_mut(&conn).filter(|link| !link.is_v2) else { continue };
                link.is_v2 = true;
                let names = [wire2::name(0, "user"), wire2::name(1, &notifier(conn))].concat();
                self.write_bytes(conn, &names);
            }
        }
    }

    fn call(&mut self) {
        for _ in 0..=self.rng.below(4) {
            let params = match self.rng.below(10) {
                0 => vec![b' '; 1 + pick(&mut self.rng, 30_000)].into_iter().chain(*b"1").collect(),
                1 => Vec::new(),
                _ => b"{\"a\":[1,2]}".to_vec(),
            };
            let depth = u32::try_from(self.rng.below(120)).unwrap();
            let deadline_ms = self.now.wall_ms - 100 + self.rng.below(5000);
            let parent = CallContext { root: "r".into(), chain: vec!["order".into()], depth, deadline_ms };
            let call = CallRequest {
                request: self.any_request(),
                parent: (self.rng.below(6) == 0).then_some(&parent),
                timeout_ms: (self.rng.below(6) == 0).then(|| self.rng.below(500)),
                ..CallRequest::new("user", "get", Payload { encoding: Encoding::Json, bytes: &params })
            };
            match self.session.call(call, self.now) {
                Ok(id) => {
                    assert!(!self.pending.contains(&id), "an id of its own");
                    self.pending.push(id);
                }
                Err(error) => {
                    self.totals.overloaded += u64::from(error.code == Some(ErrorCode::Overloaded));
                    self.totals.too_many_waited += u64::from(error.message.starts_with("no room for waiting"));
                }
            }
        }
    }

    fn notify(&mut self) {
        let params = Payload { encoding: Encoding::Json, bytes: b"[1]" };
        let call = CallRequest { request: self.any_request(), ..CallRequest::new("user", "note", params) };
        // Refused when it is not connected, or when the deadline is over.
        let _ = self.session.notify(call, self.now);
    }

    fn any_request(&mut self) -> Option<RequestId> {
        let wanted = self.rng.below(3) == 0 && !self.requests.is_empty();
        wanted.then(|| self.requests[pick(&mut self.rng, self.requests.len())].0)
    }

    fn cancel(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let at = pick(&mut self.rng, self.pending.len());
        // False when it has ended in this batch: then its event is on the way.
        if self.session.cancel(self.pending[at], self.now) {
            let id = self.pending.swap_remove(at);
            assert!(!self.session.cancel(id, self.now));
            self.totals.cancelled += 1;
        }
    }

    fn respond(&mut self) {
        if self.requests.is_empty() {
            return;
        }
        let at = pick(&mut self.rng, self.requests.len());
        let error = ErrorBody::new(ErrorCode::ExecutionFailed, "no");
        let large: Vec<u8> = format!("\"{}\"", "x".repeat(400_000)).into_bytes();
        let outcome = match self.rng.below(12) {
            0 => Outcome::Error(&error),
            1 => Outcome::Success(Payload { encoding: Encoding::Json, bytes: &large }),
            2 => Outcome::Success(Payload { encoding: Encoding::Msgpack, bytes: b"\xc0" }),
            _ => Outcome::Success(Payload { encoding: Encoding::Json, bytes: b"[1]" }),
        };
        if self.session.respond(self.requests[at].0, outcome, self.now) {
            let (id, conn, wire_id) = self.requests.swap_remove(at);
            if wire_id != NOTIFIED {
                self.answers.get_mut(&(conn, wire_id)).unwrap().promised += 1;
            }
            assert!(!self.session.respond(id, Outcome::Error(&error), self.now));
            self.totals.answered += 1;
        }
    }

    fn change_methods(&mut self) {
        if self.rng.below(2) == 0 {
            self.session.register_method("late", self.now).unwrap();
        } else {
            self.session.unregister_method("late", self.now);
        }
    }

    /// The gateway answers a call: on its own connection or on another one, perhaps twice, perhaps one that never was.
    fn write_answer(&mut self) {
        let Some(conn) = self.any_link() else { return };
        let Some(to) = self.any_link() else { return };
        let to = if self.rng.below(8) == 0 { to } else { conn };
        let link = self.links.get_mut(&conn).unwrap();
        if link.is_v2 && !link.numbered.is_empty() {
            let at = pick(&mut self.rng, link.numbered.len());
            let id = match self.rng.below(12) {
                0 => link.numbered[at],
                1 => 1 << 40,
                _ => link.numbered.swap_remove(at),
            };
            let frame = match self.rng.below(6) {
                0 => {
                    *self.refused.entry(id).or_default() += 1;
                    let code = ["SERVICE_NOT_FOUND", "SERVICE_NOT_FOUND", "SHUTTING_DOWN"][pick(&mut self.rng, 3)];
                    wire2::error(id, 1, code, "no", "")
                }
                1 => wire2::error(id, 0, "", "no", "at x"),
                2 => wire2::frame(wire2::RESPONSE, 0, 1, id, b"{"),
                _ => wire2::frame(wire2::RESPONSE, 0, 1, id, br#"{"n":[1,2,3]}"#),
            };
            if self.links[&to].is_v2 {
                self.write_bytes(to, &frame);
            }
            return;
        }
        if link.calls.is_empty() || self.links[&to].is_v2 {
            return;
        }
        let link = self.links.get_mut(&conn).unwrap();
        let at = pick(&mut self.rng, link.calls.len());
        let id = match self.rng.below(12) {
            0 => link.calls[at].clone(),
            1 => "req-1-000000".to_owned(),
            _ => link.calls.swap_remove(at),
        };
        let message = match self.rng.below(6) {
            0 => json!({"type": "ERROR", "id": id, "error": {"message": "no", "code": "SERVICE_NOT_FOUND"}}),
            1 => json!({"type": "RESPONSE", "id": id, "status": "error", "error": {"message": "no"}}),
            2 => json!({"type": "RESPONSE", "id": id}),
            _ => json!({"type": "RESPONSE", "id": id, "status": "success", "data": {"n": [1, 2, 3]}}),
        };
        self.write(to, &message);
    }

    /// The gateway sends a call, or something like one.
    fn write_call(&mut self) {
        let Some(conn) = self.any_link() else { return };
        let number = self.next_asked;
        self.next_asked += 1;
        if self.links[&conn].is_v2 {
            return self.write_numbered_call(conn, number);
        }
        let id = format!("q{number}");
        let deadline = self.now.wall_ms - 50 + self.rng.below(3000);
        let context = json!({"root": "r", "chain": ["user", "order"], "depth": 2, "deadline": deadline});
        let method = ["get", "get", "put", "nope", "bro.ping", "late"][pick(&mut self.rng, 6)];
        let mut message = json!({"type": "CALL", "id": id, "from": "user", "to": "order", "method": method,
            "params": {"x": 1}, "context": context});
        let leave_out = ["id", "method", "context", "params"].get(pick(&mut self.rng, 30));
        if let Some(key) = leave_out {
            message.as_object_mut().unwrap().remove(*key);
        }
        self.answers.insert((conn, id), Asked::default());
        self.write(conn, &message);
    }

    fn write_numbered_call(&mut self, conn: ConnId, number: u64) {
        let method = ["get", "get", "put", "nope", "bro.ping", "late"][pick(&mut self.rng, 6)];
        let timeout_ms = u32::try_from(self.rng.below(3000)).unwrap();
        let has_section = self.rng.below(2) == 0;
        let section = has_section.then_some(("r", 2, &["user", "order"][..]));
        let call = Call { method, timeout_ms, section, ..wire2::call(number) };
        if self.rng.below(6) == 0 {
            self.write_bytes(conn, &Call { kind: 5, id: 0, origin: 0, name: 1, ..call }.frame());
            return;
        }
        let payload = if self.rng.below(20) == 0 { &b"{"[..] } else { b"[2]" };
        self.answers.insert((conn, CallNumber::from_wire(number).to_string()), Asked::default());
        self.links.get_mut(&conn).unwrap().asked.push(number);
        self.write_bytes(conn, &Call { origin: number, payload, ..call }.frame());
    }

    /// The gateway gives up a call that it sent, whether or not it was answered.
    fn write_cancel(&mut self) {
        let Some(conn) = self.any_link() else { return };
        let asked = &self.links[&conn].asked;
        if asked.is_empty() {
            return;
        }
        // One of the last, since most are answered.
        let at = asked.len() - 1 - pick(&mut self.rng, asked.len().min(5));
        let number = asked[at];
        let key = (conn, CallNumber::from_wire(number).to_string());
        self.answers.get_mut(&key).unwrap().is_cancelled = true;
        let reason = u8::try_from(self.rng.below(4)).unwrap();
        self.write_bytes(conn, &wire2::frame(wire2::CANCEL, reason, 0, number, &[]));
    }

    fn write_oddity(&mut self) {
        let Some(conn) = self.any_link() else { return };
        if self.links[&conn].is_v2 {
            let frame = match self.rng.below(6) {
                0 => wire2::frame(99, 0, 0, 1, b""),
                1 => Call { name: 7, ..wire2::call(1) }.frame(),
                2 => wire2::frame(wire2::PING, 0, 0, 9, b""),
                3 => wire2::frame(99, 0x80, 0, 1, b"later"),
                _ => wire2::frame(wire2::DRAIN, 0, 0, 0, b""),
            };
            return self.write_bytes(conn, &frame);
        }
        match self.rng.below(6) {
            0 => self.links.get_mut(&conn).unwrap().inbox.extend([0xff; 9]),
            1 => self.links.get_mut(&conn).unwrap().inbox.extend(b"\0\0\0\x02{]"),
            2 => self.write(conn, &json!({"type": "ERROR", "error": {"message": "m", "code": "DUPLICATE_SERVICE"}})),
            3 => {
                self.links.get_mut(&conn).unwrap().was_acked = true;
                self.write(conn, &json!({"type": "REGISTER_ACK"}));
            }
            _ => self.write(conn, &json!({"type": "NEWS", "id": [1]})),
        }
    }

    fn write(&mut self, conn: ConnId, message: &Value) {
        let frame = frame(self.encoding, message);
        self.write_bytes(conn, &frame);
    }

    fn write_bytes(&mut self, conn: ConnId, frames: &[u8]) {
        self.links.get_mut(&conn).unwrap().inbox.extend(frames);
        if self.rng.below(3) != 0 {
            self.deliver_on(conn);
        }
    }

    fn deliver(&mut self) {
        if let Some(conn) = self.any_link() {
            self.deliver_on(conn);
        }
    }

    /// Hands a piece of the stream to the session, cut anywhere.
    fn deliver_on(&mut self, conn: ConnId) {
        let link = self.links.get_mut(&conn).unwrap();
        let len = link.inbox.len();
        let end = if self.rng.below(3) == 0 { pick(&mut self.rng, len + 1) } else { len };
        let chunk: Bytes = link.inbox.drain(..end).collect::<Vec<u8>>().into();
        self.session.handle_bytes(conn, &chunk, self.now);
    }

    fn hang_up(&mut self) {
        let Some(conn) = self.any_link() else { return };
        self.links.remove(&conn);
        self.gone.insert(conn);
        self.session.handle_closed(conn, "closed by the gateway", self.now);
    }

    /// Any open connection.
    fn any_link(&mut self) -> Option<ConnId> {
        let open: Vec<ConnId> = self.links.iter().filter(|(_, link)| link.is_open).map(|(conn, _)| *conn).collect();
        (!open.is_empty()).then(|| open[pick(&mut self.rng, open.len())])
    }
}

/// The caller of a connection's notifications, which have no number to tell where they came from.
fn notifier(conn: ConnId) -> String {
    format!("notifier-{}-{}", conn.index, conn.generation)
}

fn rng_of(seed: u64) -> Rng {
    Rng::new(seed ^ 0x0bad_cafe)
}

fn pick(rng: &mut Rng, bound: usize) -> usize {
    usize::try_from(rng.below(bound as u64)).unwrap()
}
