//! The steps: what happens next, drawn from the seed, given to the router as a driver would, and judged.

use crate::config::{defective, random_config};
use crate::fault::Fault;
use crate::model::{Phase, World};
use crate::network::{Arrival, Connection, Id, Manner, Order, Orders};
use crate::summary::{Summary, Violation};
use crate::traffic::{self, Planned};
use crate::traffic_v2::{self, View};
use crate::verdict::Input;
use crate::wire_v2::{self, Frame};
use bro_proto::frame::{Cut, Deframer};
use bro_proto::rng::Rng;
use bro_proto::v1::Encoding;
use bro_proto::{ErrorCode, Now};
use bro_router::{EventMask, LaneOffer, LanePolicy, PeerId, PeerIdentity, Router};
use serde_json::json;

/// Runs `steps` steps from one seed, and then lets everything come to rest.
pub fn run(seed: u64, steps: u64, fault: Fault) -> Result<Summary, Violation> {
    let mut simulator = Simulator::new(seed, fault);
    for _ in 0..steps {
        simulator.step()?;
    }
    simulator.finish()
}

/// One router and the world around it.
#[derive(Debug)]
pub struct Simulator {
    seed: u64,
    step: u64,
    inputs: u64,
    /// Calls that the router had in flight before the present input.
    in_flight: usize,
    pub(crate) fault: Fault,
    pub(crate) rng: Rng,
    pub(crate) router: Router,
    pub(crate) world: World,
    pub(crate) events: EventMask,
    pub(crate) orders: Orders,
    /// What the gateways before the present one did.
    past: Summary,
    /// Whether there are policies in this world.
    pub(crate) has_policies: bool,
}

/// What is registered is compared name by name once in so many steps.
const CHECK_INTERVAL_STEPS: u64 = 64;

impl Simulator {
    /// A world without peers.
    pub fn new(seed: u64, fault: Fault) -> Self {
        let mut rng = Rng::new(seed);
        let config = random_config(&mut rng);
        let now = Now { mono_us: rng.below(1 << 40), wall_ms: 1_700_000_000_000 };
        Self {
            seed,
            step: 0,
            inputs: 0,
            in_flight: 0,
            fault,
            router: Router::new(defective(&config, fault), rng.next_u64(), now),
            world: World::new(config, rng.next_u64(), now),
            events: EventMask::NONE,
            orders: Orders::default(),
            past: Summary::default(),
            has_policies: Rng::new(!seed).below(2) == 0,
            rng,
        }
    }

    /// One random thing happens.
    pub fn step(&mut self) -> Result<(), Violation> {
        let done = self.act().and_then(|()| self.check());
        let step = self.step;
        self.step += 1;
        done.map_err(|what| Violation { seed: self.seed, step, fault: self.fault, what })
    }

    /// Nothing new happens, until everything has ended; then all must be empty.
    pub fn finish(mut self) -> Result<Summary, Violation> {
        let rested = self.rest();
        let (seed, step, fault) = (self.seed, self.step, self.fault);
        rested.map_err(|what| Violation { seed, step, fault, what: format!("coming to rest: {what}") })?;
        let mut all = self.summary();
        all.add(&self.past);
        Ok(Summary { steps: self.step, inputs: self.inputs, ..all })
    }

    fn summary(&self) -> Summary {
        Summary { steps: 0, inputs: 0, counters: *self.router.counters(), seen: self.world.seen.clone() }
    }

    fn act(&mut self) -> Result<(), String> {
        if self.world.phase == Phase::Ended {
            // The gateway is replaced by a new one.
            self.past.add(&self.summary());
            let now = self.world.now;
            let config = random_config(&mut self.rng);
            self.router = Router::new(defective(&config, self.fault), self.rng.next_u64(), now);
            self.router.set_events(self.events);
            self.in_flight = 0;
            let recalled = self.world.lanes.recall();
            self.world = World::new(config, self.rng.next_u64(), now);
            self.world.lanes.recalled = recalled;
        }
        match self.rng.below(1000) {
            0..60 => self.pass_time(),
            60..80 => self.connect(),
            80..84 => self.disconnect(),
            84 => {
                let mut bits = (self.rng.next_u64() & 31) as u8;
                if self.rng.below(3) > 0 {
                    bits &= !(EventMask::CALLS.bits() | EventMask::RESPONSES.bits());
                }
                self.events = EventMask::from_bits(bits);
                self.router.set_events(self.events);
                // As the driver does it: who watches from now on misses nothing.
                self.router.handle_time(self.world.now, &mut self.orders);
                self.judge(&Input::Time)
            }
            85 if self.rng.below(10) == 0 => self.drain(),
            86..90 => self.take_over(),
            // In one world of two, and most of all where it may forbid a lane, of which there are few.
            at @ 400..560 if self.is_policy_due(at < 403) => self.load_policy(),
            85..400 => self.peer_writes(),
            400..700 => self.gateway_reads(),
            _ => self.peer_reads(),
        }
    }

    fn check(&mut self) -> Result<(), String> {
        let expect = |what: &str, router: usize, world: usize| {
            if router == world { Ok(()) } else { Err(format!("{what}: the router has {router}, there are {world}")) }
        };
        expect("parked calls", self.router.parked_len(), self.world.inquiries.len())?;
        expect("peers", self.router.peers_len(), self.world.connections.len())?;
        expect("lanes", self.router.lanes_len(), self.world.lanes.open.len())?;
        let counters = self.router.counters();
        let counted = [counters.lane_calls, counters.lane_errors, counters.lane_bytes];
        if counted != self.world.lanes.totals {
            return Err(format!("on lanes {counted:?} are counted, should be {:?}", self.world.lanes.totals));
        }
        expect("bytes charged", self.router.charged_bytes(), self.world.held)?;
        if self.step.is_multiple_of(CHECK_INTERVAL_STEPS) {
            let mut names = self.router.service_names();
            names.sort();
            if !names.iter().eq(self.world.services.keys()) {
                return Err(format!("registered are {names:?}, should be {:?}", self.world.services.keys()));
            }
            for (name, service) in &self.world.services {
                let view = self.router.service(name).ok_or("a service cannot be looked up")?;
                expect("instances", view.instances.len(), service.instances.len())?;
            }
        }
        Ok(())
    }

    fn pass_time(&mut self) -> Result<(), String> {
        let step_us = match self.rng.below(200) {
            0 => self.rng.below(4_000_000),
            1..10 => self.rng.below(100_000),
            _ => self.rng.below(3_000),
        };
        let now = &mut self.world.now;
        now.mono_us += step_us;
        now.wall_ms += step_us / 1000;
        if self.rng.below(200) == 0 {
            // The wall clock is set. No call in flight may notice.
            now.wall_ms = 1_700_000_000_000 + self.rng.below(7_200_000);
        }
        self.time_passed()
    }

    /// While the router says that more is due, time is given to it again; other inputs may come in between.
    fn time_passed(&mut self) -> Result<(), String> {
        loop {
            self.time_was_given()?;
            if !self.is_due() || self.fault == Fault::ForgetTime {
                return self.world.check_overdue();
            }
            if self.rng.below(3) == 0 {
                return Ok(());
            }
        }
    }

    fn is_due(&self) -> bool {
        self.router.wakeup_ms().is_some_and(|wakeup| wakeup <= self.world.now.mono_ms())
    }

    fn time_was_given(&mut self) -> Result<(), String> {
        if !self.is_due() || self.fault == Fault::ForgetTime {
            return Ok(());
        }
        self.router.handle_time(self.world.now, &mut self.orders);
        self.judge(&Input::Time)
    }

    fn connect(&mut self) -> Result<(), String> {
        let pid = (self.rng.below(5) > 0).then(|| 100 + u32::try_from(self.rng.below(2)).expect("small"));
        let uid = Some(1000 + u32::try_from(self.rng.below(2)).expect("small"));
        let identity = PeerIdentity { pid, uid, ..PeerIdentity::default() };
        // Who is unknown matches anybody; the model keeps to those who are known.
        let identity = PeerIdentity { pid: Some(identity.pid.unwrap_or(99)), ..identity };
        let groups = self.random_groups();
        let told = if self.fault == Fault::ForgetGroups { &[][..] } else { &groups };
        let now = self.world.now;
        let connected = self.router.handle_connect_in_groups(identity, told, now, &mut self.orders);
        let may_connect = self.world.may_connect(identity.uid, &groups);
        if !may_connect && self.world.phase == Phase::Running {
            let code = connected.err().and_then(|error| error.code);
            return match code {
                Some(ErrorCode::PermissionDenied) => {
                    self.world.saw("connection denied");
                    self.judge(&Input::Connect)
                }
                code => Err(format!("who may do nothing connected, or was told {code:?}")),
            };
        }
        let is_full = self.world.has_too_many_connections(identity.uid);
        let may_be_refused = is_full
            || self.world.may_have_too_many_connections(identity.uid)
            || self.world.may_lack_memory(identity.uid);
        match connected {
            Ok(_) if is_full || self.world.phase != Phase::Running => return Err("a connection too many".into()),
            Err(error) if !may_be_refused && self.world.phase == Phase::Running => {
                return Err(format!("refused: {error:?}"));
            }
            Err(_) => {}
            Ok(peer) => {
                let manner = match self.rng.below(6) {
                    0 => Manner::Hostile,
                    1 => Manner::Slow,
                    _ => Manner::Honest,
                };
                let encoding = if self.rng.below(2) == 0 { Encoding::Json } else { Encoding::Msgpack };
                let mut connection = Connection::new(manner, encoding, identity, self.world.now.mono_ms());
                connection.groups = groups;
                // Where every pair that calls gets a lane, all are clients of today.
                let is_modern = self.world.config.lanes == LanePolicy::Always;
                connection.offers_v2 = is_modern || self.rng.below(5) > 1;
                if self.world.connections.insert(peer, connection).is_some() {
                    return Err(format!("{peer:?} is given away twice"));
                }
            }
        }
        self.judge(&Input::Connect)
    }

    fn disconnect(&mut self) -> Result<(), String> {
        let Some(peer) = self.random_peer() else { return Ok(()) };
        self.world.lose_lanes(peer, false);
        self.world.take_down(peer);
        if self.fault.strikes(Fault::ForgetDisconnect, &mut self.rng) {
            self.world.endings.clear();
            return Ok(());
        }
        self.router.handle_disconnect(peer, self.world.now, &mut self.orders);
        self.judge(&Input::Disconnect)?;
        if self.router.is_peer(peer) {
            return Err(format!("{peer:?} has gone and is still known"));
        }
        // What comes too late for it must be ignored.
        self.router.handle_written(peer, 1, self.world.now, &mut self.orders);
        self.router.handle_partial(peer, true, self.world.now);
        self.router.handle_frame(peer, &mut [0, 0, 0, 0], self.world.now, &mut self.orders);
        if self.orders.list.is_empty() { Ok(()) } else { Err("a dead peer has an effect".into()) }
    }

    fn drain(&mut self) -> Result<(), String> {
        if self.rng.below(3) == 0 {
            self.world.phase = Phase::Ended;
            self.router.stop(self.world.now, &mut self.orders);
            return self.judge(&Input::Stop);
        }
        let is_first = self.world.phase == Phase::Running;
        self.world.phase = Phase::Draining;
        self.router.begin_drain(self.rng.below(3000), self.world.now, &mut self.orders);
        self.judge(if is_first { &Input::Drain } else { &Input::Connect })
    }

    fn peer_writes(&mut self) -> Result<(), String> {
        let Some(peer) = self.random_peer() else { return Ok(()) };
        let shape = self.world.shape();
        let connection = self.world.connections.get_mut(&peer).expect("it is open");
        // A peer whose bytes are not taken waits, as it would with a full socket.
        if connection.outgoing.len() < 8192 {
            let name = self.world.names.get(&peer).map(String::as_str);
            let services: Vec<&str> = self.world.services.keys().map(String::as_str).collect();
            match (name, connection.accepted) {
                // It waits for its acceptance.
                (Some(_), None) if connection.offers_v2 => {}
                (Some(name), Some(true)) => {
                    let flights = self.world.flights.iter().filter(|flight| flight.callee != peer);
                    let foreign: Vec<u64> = flights.filter_map(|flight| flight.callee_id.number()).collect();
                    let lanes: Vec<u64> = self.world.lanes.open.keys().copied().collect();
                    let view = View {
                        name,
                        services: &services,
                        foreign: &foreign,
                        lanes: &lanes,
                        recalled: &self.world.lanes.recalled,
                        shape,
                        now: self.world.now,
                    };
                    traffic_v2::write(connection, &view, &mut self.rng);
                }
                _ => traffic::write(connection, name, &services, shape, self.world.now, &mut self.rng),
            }
        }
        Ok(())
    }

    fn gateway_reads(&mut self) -> Result<(), String> {
        let Some(peer) = self.random_peer() else { return Ok(()) };
        let connection = &self.world.connections[&peer];
        if connection.is_paused || connection.outgoing.is_empty() {
            return Ok(());
        }
        let waiting = connection.outgoing.len();
        let bytes = match self.rng.below(4) {
            0 => 1 + self.rng.below(waiting as u64),
            _ => waiting as u64,
        };
        self.read(peer, usize::try_from(bytes).expect("small"))
    }

    /// The gateway reads so many bytes of what a peer has written.
    fn read(&mut self, peer: PeerId, bytes: usize) -> Result<(), String> {
        let connection = self.world.connections.get_mut(&peer).expect("it is open");
        let chunk: Vec<u8> = connection.outgoing.drain(..bytes).collect();
        let mut deframer = std::mem::take(&mut connection.deframer);
        let was_skipping = deframer.skipping_bytes() > 0;
        let end = self.read_frames(peer, &mut deframer, &chunk)?;
        let Some(connection) = self.world.connections.get_mut(&peer) else { return Ok(()) };
        connection.deframer = deframer;
        if end == ReadEnd::Broken {
            return Ok(());
        }
        if was_skipping && connection.deframer.skipping_bytes() == 0 {
            connection.mid_frame_since_ms = None;
            self.router.handle_partial(peer, false, self.world.now);
        }
        let is_mid_frame = connection.deframer.is_mid_frame();
        let was_mid_frame = connection.mid_frame_since_ms.is_some();
        if !is_mid_frame {
            connection.mid_frame_since_ms = None;
        } else if !was_mid_frame && !connection.is_paused {
            connection.mid_frame_since_ms = Some(self.world.now.mono_ms());
        }
        self.router.handle_partial(peer, is_mid_frame, self.world.now);
        if is_mid_frame {
            self.world.heard(peer);
        }
        let kept = self.world.connections[&peer].deframer.kept_bytes();
        self.router.handle_kept(peer, kept, self.world.now, &mut self.orders);
        self.judge(&Input::Kept)
    }

    fn read_frames(&mut self, peer: PeerId, deframer: &mut Deframer, chunk: &[u8]) -> Result<ReadEnd, String> {
        let mut frames = deframer.start(chunk, self.world.config.frame_bytes_max);
        loop {
            let next = frames.next_cut();
            if let Ok(None) = next {
                return Ok(ReadEnd::Open);
            }
            let connection = self.world.connections.get_mut(&peer).expect("it is open");
            let planned = connection.planned.pop_front().expect("the stream has as many frames as were written");
            match next {
                Ok(cut) => {
                    connection.mid_frame_since_ms = None;
                    self.world.heard(peer);
                    match cut.expect("checked") {
                        Cut::Whole(frame) => self.frame(peer, frame, &planned)?,
                        Cut::Assembled(frame) => self.frame(peer, &frame, &planned)?,
                        Cut::Oversize(oversize) => {
                            self.world.adopt_encoding(peer, &planned);
                            self.router.handle_oversize(peer, &oversize, self.world.now, &mut self.orders);
                            self.judge(&Input::Frame(peer, &planned))?;
                        }
                    }
                }
                Err(error) => {
                    assert!(matches!(planned, Planned::Oversize), "the prefix was meant to be too large");
                    self.router.handle_frame_error(peer, error, self.world.now, &mut self.orders);
                    self.judge(&Input::Frame(peer, &planned))?;
                    return Ok(ReadEnd::Broken);
                }
            }
            // A driver that closed the connection reads no further.
            if !self.world.connections.contains_key(&peer) {
                return Ok(ReadEnd::Broken);
            }
        }
    }

    fn frame(&mut self, peer: PeerId, frame: &[u8], planned: &Planned) -> Result<(), String> {
        let mut sender = peer;
        if self.fault.strikes(Fault::ForeignAnswer, &mut self.rng)
            && let Planned::Message(message, ..) = planned
            && message["type"] == "RESPONSE"
            && let Some(other) = self.world.flights.iter().find(|flight| flight.callee != peer)
            && let Id::Text(id) = &other.callee_id
        {
            // The router believes that somebody else says this.
            sender = other.callee;
            let forged = json!({"type": "RESPONSE", "id": id, "status": "success", "data": 1,
                "from": self.world.names.get(&sender), "to": "x"});
            let mut forged = crate::wire::frame(&forged, Encoding::Json);
            self.router.handle_frame(sender, &mut forged, self.world.now, &mut self.orders);
            return self.judge(&Input::Frame(peer, planned));
        }
        if self.fault.strikes(Fault::ForeignNumber, &mut self.rng)
            && let Planned::V2(answer, _) = planned
            && answer.kind == wire_v2::RESPONSE
            && let Some(other) = self.world.flights.iter().find(|flight| flight.callee != peer)
            && let Id::Number(id) = other.callee_id
        {
            let mut forged = wire_v2::write(&Frame { id, ..(**answer).clone() });
            let start = forged.as_ptr() as usize;
            self.orders.inbound = Some((start, start + forged.len()));
            self.router.handle_frame(other.callee, &mut forged, self.world.now, &mut self.orders);
            return self.judge(&Input::Frame(peer, planned));
        }
        self.world.adopt_encoding(peer, planned);
        let mut frame = frame.to_vec();
        if let Planned::V2(said, _) = planned {
            match said.kind {
                wire_v2::LANE_CLOSE if self.fault.strikes(Fault::DeafToLaneClose, &mut self.rng) => {
                    return self.judge(&Input::Frame(peer, planned));
                }
                wire_v2::STATS if self.fault.strikes(Fault::ChangedStats, &mut self.rng) => {
                    frame.get_mut(16).into_iter().for_each(|byte| *byte ^= 4);
                }
                _ => {}
            }
        }
        let start = frame.as_ptr() as usize;
        self.orders.inbound = Some((start, start + frame.len()));
        self.router.handle_frame(sender, &mut frame, self.world.now, &mut self.orders);
        self.orders.inbound = None;
        self.judge(&Input::Frame(peer, planned))
    }

    fn peer_reads(&mut self) -> Result<(), String> {
        let Some(peer) = self.random_peer() else { return Ok(()) };
        let connection = &self.world.connections[&peer];
        if connection.held == 0 || connection.manner == Manner::Slow && self.rng.below(30) > 0 {
            return Ok(());
        }
        let bytes = match self.rng.below(3) {
            0 => 1 + self.rng.below(connection.held as u64),
            _ => connection.held as u64,
        };
        self.written(peer, usize::try_from(bytes).expect("small"))
    }

    /// A peer's socket takes so many bytes of what is held for it.
    fn written(&mut self, peer: PeerId, bytes: usize) -> Result<(), String> {
        let connection = self.world.connections.get_mut(&peer).expect("it is open");
        connection.take(bytes, self.world.now.mono_ms());
        self.world.held -= bytes;
        if self.fault.strikes(Fault::ForgetRelease, &mut self.rng) {
            return Ok(());
        }
        self.router.handle_written(peer, bytes, self.world.now, &mut self.orders);
        self.judge(&Input::Written)
    }

    pub(crate) fn judge(&mut self, input: &Input<'_>) -> Result<(), String> {
        self.inputs += 1;
        self.router.check_invariants();
        if self.orders.is_stray_part {
            return Err("a part that is not of the inbound frame".into());
        }
        let mut orders = std::mem::take(&mut self.orders.list);
        let has_rest = matches!(input, Input::Time) && !self.world.endings.is_empty();
        if has_rest && self.fault.strikes(Fault::ForgetEnds, &mut self.rng) {
            for at in (0..orders.len()).rev().filter(|&at| matches!(orders[at], Order::Send { .. })).collect::<Vec<_>>()
            {
                self.lose(&mut orders, at);
            }
        }
        if self.fault != Fault::None {
            self.spoil(&mut orders);
        }
        if self.router.is_drained() {
            self.world.phase = Phase::Ended;
        }
        let offers: Vec<LaneOffer> = orders.iter().filter_map(offer_of).cloned().collect();
        self.world.judge(input, orders, self.events)?;
        let before = std::mem::replace(&mut self.in_flight, self.router.in_flight_len());
        self.world.check_endings(input, &self.router, before)?;
        self.world.check_users(&self.router, self.router.users())?;
        offers.into_iter().try_for_each(|offer| self.hand_out(&offer))
    }

    /// As a driver does it at the end of a wakeup: to both or to none, and what was not charged never waits for long.
    fn hand_out(&mut self, offer: &LaneOffer) -> Result<(), String> {
        let is_open = |peer: &PeerId| self.world.connections.contains_key(peer);
        let is_idle = |peer: &PeerId| self.world.connections.get(peer).is_some_and(|connection| connection.held == 0);
        // What is queued may be gone by then.
        let may_wait = self.rng.below(3) > 0 && offer.peers.iter().all(is_open);
        let is_possible = may_wait || offer.peers.iter().all(is_idle);
        if !is_possible || self.rng.below(20) == 0 {
            self.router.handle_offer_failed(offer.number, self.world.now, &mut self.orders);
            return self.judge(&Input::OfferFailed(offer.number));
        }
        for peer in &offer.peers {
            let connection = self.world.connections.get_mut(peer).expect("looked at above");
            match connection.held {
                0 => connection.lane_offers.push(offer.number),
                _ => connection.queue.push_back((0, Some(Arrival::Offered(offer.number)))),
            }
        }
        Ok(())
    }

    /// Everybody reads, nobody calls: all calls end. Then everybody falls silent: all connections end.
    fn rest(&mut self) -> Result<(), String> {
        let shape = self.world.shape();
        // Longer than any wait that the traffic asks for, and than the watch lease.
        for _ in 0..180 {
            self.world.now.mono_us += 100_000;
            self.world.now.wall_ms += 100;
            self.time_passed()?;
            let peers: Vec<PeerId> = self.world.connections.keys().copied().collect();
            for peer in peers {
                if let Some(connection) = self.world.connections.get(&peer)
                    && connection.held > 0
                {
                    let held = connection.held;
                    self.written(peer, held)?;
                }
                let name = self.world.names.get(&peer).cloned();
                if let Some(connection) = self.world.connections.get_mut(&peer) {
                    if let Some(name) = name {
                        let heartbeat = traffic::heartbeat(&name, self.world.now);
                        traffic::push(connection, heartbeat, None, shape);
                    }
                    let waiting = connection.outgoing.len();
                    if waiting > 0 && !connection.is_paused {
                        self.read(peer, waiting)?;
                    }
                }
            }
        }
        while self.is_due() {
            self.time_was_given()?;
        }
        self.check()?;
        self.router.check_invariants();
        // Only a call that has been given a day may be left: none is overdue.
        let patient = self.world.flights.len();
        let rest = [
            ("calls in flight", self.router.in_flight_len() - patient),
            ("parked calls", self.router.parked_len()),
            ("bytes charged", self.router.charged_bytes()),
            ("timers", self.router.timers_len() - self.world.services.len() - patient),
        ];
        if let Some((what, count)) = rest.into_iter().find(|(_, count)| *count > 0) {
            return Err(format!("{count} {what} are left"));
        }
        for _ in 0..100 {
            self.world.now.mono_us += 100_000;
            self.world.now.wall_ms += 100;
            self.time_passed()?;
        }
        while self.is_due() {
            self.time_was_given()?;
        }
        self.check()?;
        self.router.check_invariants();
        if self.router.timers_len() + self.router.peers_len() > 0 {
            return Err(format!("{} timers, {} peers are left", self.router.timers_len(), self.router.peers_len()));
        }
        Ok(())
    }

    pub(crate) fn random_peer(&mut self) -> Option<PeerId> {
        let count = self.world.connections.len() as u64;
        let at = usize::try_from(self.rng.below(count)).expect("small");
        self.world.connections.keys().nth(at).copied()
    }
}

fn offer_of(order: &Order) -> Option<&LaneOffer> {
    match order {
        Order::Offer(offer) => Some(offer),
        _ => None,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReadEnd {
    Open,
    Broken,
}
