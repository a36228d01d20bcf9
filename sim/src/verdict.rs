//! The checks of one input's outputs.

use crate::model::{Flight, Phase, World};
use crate::model_v2::Prospect;
use crate::network::{Arrival, Id, Order, Request};
use crate::traffic::Planned;
use crate::traffic_v2::note_route;
use crate::wire;
use crate::wire_v2::{self, Body, Frame};
use bro_proto::limits::GATEWAY_SERVICE;
use bro_proto::v1::Encoding;
use bro_router::{CloseReason, EventMask, PeerId};
use serde_json::{Value, json};

/// What the router was given.
#[derive(Debug)]
pub(crate) enum Input<'a> {
    Connect,
    Frame(PeerId, &'a Planned),
    Written,
    Kept,
    Disconnect,
    /// The driver could not hand out a lane.
    OfferFailed(u64),
    Time,
    /// What is about to end has to end now.
    Finish,
    Drain,
    Stop,
    /// Another policy.
    Policy,
}

/// A frame of either version.
#[derive(Debug)]
enum Read {
    V1(Value, Encoding),
    V2(Frame),
}

/// What one input has led to so far.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) forwarded: usize,
    pub(crate) refused: usize,
    acknowledged: usize,
    /// ERROR frames, by receiver, with their codes.
    errors: Vec<(PeerId, String)>,
    pub(crate) closed: Vec<(PeerId, CloseReason)>,
    pub(crate) answered: bool,
    pub(crate) pongs: usize,
    /// Who was told that the gateway is about to stop.
    pub(crate) drained: Vec<PeerId>,
    /// Whose name was told to whom, under which number, until it is used.
    pub(crate) introduced: Option<(PeerId, u32)>,
}

/// What a CALL must come to, decided before its outputs are looked at.
pub(crate) struct Forecast {
    pub(crate) refusals: Vec<&'static str>,
    pub(crate) may_be_too_large: bool,
    pub(crate) timeout_ms: u64,
    register_refusal: Option<&'static str>,
    /// The sender loses its connection.
    pub(crate) is_violation: bool,
    /// Of a CALL or NOTIFY of version 2.
    pub(crate) prospect: Prospect,
}

impl World {
    /// Checks the orders that an input led to, and carries them out. `events` is what the driver had asked for.
    pub(crate) fn judge(&mut self, input: &Input<'_>, orders: Vec<Order>, events: EventMask) -> Result<(), String> {
        let uid = if let Input::Frame(peer, _) = input { self.uid_of(*peer) } else { None };
        let forecast = self.forecast(input);
        let answered = self.flight_answered_by(input);
        self.check_right_answer(input, answered.as_ref())?;
        if let Some(flight) = &answered {
            // Whatever becomes of the answer: the call has ended, and those made for it go on.
            self.flights.retain(|other| other.serial != flight.serial);
        }
        let told_to_drain = self.take_in(input, &forecast);
        self.take_in_lanes(input, &orders, events);
        let mut tally = Tally::default();
        for order in orders {
            match order {
                Order::Send { peer, frame } => {
                    self.sent(input, &forecast, answered.as_ref(), peer, &frame, &mut tally)?
                }
                Order::Close { peer, reason } => self.closed(input, &forecast, peer, reason, &mut tally)?,
                Order::Pause(peer) => {
                    let connection = self.connections.get_mut(&peer).ok_or("a pause of a dead peer")?;
                    if connection.is_paused || connection.answers <= self.config.queue_pause_bytes {
                        return Err(format!("{peer:?} is paused without need, with {} bytes", connection.answers));
                    }
                    connection.is_paused = true;
                    connection.mid_frame_since_ms = None;
                }
                Order::Resume(peer) => {
                    let connection = self.connections.get_mut(&peer).ok_or("a resume of a dead peer")?;
                    if !connection.is_paused || connection.answers > self.config.queue_pause_bytes / 2 {
                        return Err(format!("{peer:?} is resumed too soon, with {} bytes", connection.answers));
                    }
                    connection.is_paused = false;
                    if connection.deframer.is_mid_frame() {
                        connection.mid_frame_since_ms = Some(self.now.mono_ms());
                    }
                    self.heard(peer);
                }
                Order::Offer(offer) => self.offered(input, &offer)?,
                Order::Event(kind) if events.has(kind) => {}
                Order::Event(kind) => return Err(format!("an event {kind:?} that nobody listens to")),
            }
        }
        self.check_outcome(input, &forecast, answered.as_ref(), uid, &tally)?;
        self.check_frames_of_v2(input, &forecast, &tally, &told_to_drain)?;
        self.check_lanes()?;
        if let (Input::Policy, Some(peer)) = (input, self.connections.keys().find(|peer| self.is_denied(**peer))) {
            return Err(format!("{peer:?} may not be what it is under {:?}, and is still connected", self.policy));
        }
        Ok(())
    }

    fn forecast(&self, input: &Input<'_>) -> Forecast {
        let mut forecast = Forecast {
            refusals: Vec::new(),
            may_be_too_large: false,
            timeout_ms: 0,
            register_refusal: None,
            is_violation: false,
            prospect: Prospect::default(),
        };
        if let Input::Frame(peer, Planned::V2(frame, _)) = input {
            forecast.is_violation = self.is_violation(*peer, frame);
            if let Body::Call(call) = &frame.body {
                forecast.prospect = self.prospect(*peer, call);
                forecast.refusals.clone_from(&forecast.prospect.refusals);
                forecast.timeout_ms = forecast.prospect.timeout_ms;
            }
            forecast.may_be_too_large = self.may_be_too_large_v2(frame, &forecast.prospect);
        }
        if let Input::Frame(peer, Planned::Message(message, ..)) = input {
            forecast.may_be_too_large = self.may_be_too_large(message);
            if self.connections[peer].speaks_v2 && (message["type"] == "CALL" || message["type"] == "RESPONSE") {
                forecast.is_violation = true;
                return forecast;
            }
            if message["type"] == "CALL" && self.is_oversize(message) {
                forecast.is_violation = !self.names.contains_key(peer);
                forecast.refusals.push("PAYLOAD_TOO_LARGE");
            } else if message["type"] == "CALL" {
                forecast.refusals = self.refusals(*peer, message);
                forecast.timeout_ms = self.timeout_ms(message);
            } else if message["type"] == "REGISTER" {
                forecast.register_refusal = self.registration_refusal(*peer, message);
            }
        }
        forecast
    }

    fn flight_answered_by(&self, input: &Input<'_>) -> Option<Flight> {
        let (peer, id) = match input {
            Input::Frame(peer, Planned::Message(message, ..)) if message["type"] == "RESPONSE" => {
                (peer, Id::Text(message["id"].as_str()?.to_owned()))
            }
            Input::Frame(peer, Planned::V2(frame, _)) if matches!(frame.kind, wire_v2::RESPONSE | wire_v2::ERROR) => {
                (peer, Id::Number(frame.id))
            }
            _ => return None,
        };
        self.flights.iter().find(|flight| flight.callee == *peer && flight.callee_id == id).cloned()
    }

    /// What a frame of version 2 changes before anything comes of it, and who must be told of a drain.
    fn take_in(&mut self, input: &Input<'_>, forecast: &Forecast) -> Vec<PeerId> {
        match input {
            Input::Frame(peer, Planned::V2(frame, _)) if !forecast.is_violation => {
                let connection = self.connections.get_mut(peer).expect("it is open");
                match (frame.kind, &frame.body) {
                    (wire_v2::CANCEL, _) => self.cancelled(*peer, frame.id, frame.flags),
                    (wire_v2::DRAIN, _) => connection.is_leaving = true,
                    (wire_v2::RESOLVE, Body::Name(name)) => {
                        let is_bound = note_route(&mut connection.routes, frame.id, name);
                        assert!(is_bound, "it is no violation");
                    }
                    _ => {}
                }
                Vec::new()
            }
            Input::Drain => {
                let connections = self.connections.iter();
                connections.filter(|(_, connection)| connection.speaks_v2).map(|(peer, _)| *peer).collect()
            }
            _ => Vec::new(),
        }
    }

    /// An honest callee answers each request once. That answer must end the call that it was asked, or none.
    fn check_right_answer(&mut self, input: &Input<'_>, answered: Option<&Flight>) -> Result<(), String> {
        let serial = match input {
            Input::Frame(_, Planned::Message(_, _, serial) | Planned::V2(_, serial)) => serial,
            _ => return Ok(()),
        };
        match (answered, serial) {
            (Some(flight), Some(serial)) if flight.serial != *serial => {
                Err(format!("the answer to call {serial} ends {flight:?}"))
            }
            (None, _) => {
                if let Input::Frame(callee, Planned::Message(message, ..)) = input
                    && message["type"] == "RESPONSE"
                {
                    let id = message["id"].as_str().unwrap_or_default().to_owned();
                    self.abandoned.remove(&(*callee, id));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn sent(
        &mut self,
        input: &Input<'_>,
        forecast: &Forecast,
        answered: Option<&Flight>,
        peer: PeerId,
        frame: &[u8],
        tally: &mut Tally,
    ) -> Result<(), String> {
        let now_ms = self.now.mono_ms();
        if frame.len() > self.config.frame_bytes_max + 4 {
            return Err(format!("a frame of {} bytes", frame.len()));
        }
        let read = if frame.get(4) == Some(&0xb2) {
            Read::V2(wire_v2::read(frame).map_err(|error| format!("unreadable frame: {error:?}"))?)
        } else {
            let (message, encoding) = wire::parse(frame).map_err(|error| format!("unreadable frame: {error}"))?;
            Read::V1(message, encoding)
        };
        let is_named = self.names.contains_key(&peer);
        let Some(connection) = self.connections.get_mut(&peer) else {
            return Err(format!("sent to {peer:?}, which has gone: {read:?}"));
        };
        // Calls do not count: a callee that is slow to take them must still be heard when it answers.
        let (is_right_version, is_answer) = match &read {
            Read::V1(message, encoding) => {
                if is_named && connection.encoding != *encoding {
                    return Err(format!("{peer:?} speaks {:?}, got {message}", connection.encoding));
                }
                let is_of_both = message["type"] == "REGISTER_ACK" || message["type"] == "ERROR";
                (!connection.speaks_v2 || is_of_both, message["type"] != "CALL")
            }
            Read::V2(frame) => {
                let is_bulk = matches!(frame.kind, wire_v2::CALL | wire_v2::NOTIFY | wire_v2::CANCEL | wire_v2::NAME);
                (connection.speaks_v2, !is_bulk)
            }
        };
        if !is_right_version {
            return Err(format!("{peer:?} speaks another version: {read:?}"));
        }
        if connection.held == 0 {
            connection.progress_ms = now_ms;
        }
        connection.held += frame.len();
        self.held += frame.len();
        if is_answer {
            connection.answers += frame.len();
        }
        if connection.held > self.config.queue_bytes_max {
            return Err(format!("{} bytes are held for {peer:?}", connection.held));
        }
        let arrival = match read {
            Read::V1(message, _) => self.sent_v1(input, forecast, answered, peer, &message, tally)?,
            Read::V2(read) => self.sent_v2(input, forecast, answered, peer, &read, tally)?,
        };
        let connection = self.connections.get_mut(&peer).expect("it is open");
        connection.queue.push_back((frame.len(), arrival));
        Ok(())
    }

    fn sent_v1(
        &mut self,
        input: &Input<'_>,
        forecast: &Forecast,
        answered: Option<&Flight>,
        peer: PeerId,
        message: &Value,
        tally: &mut Tally,
    ) -> Result<Option<Arrival>, String> {
        let mut arrival = None;
        if let Some(code) = message["error"]["code"].as_str() {
            self.saw(code);
        }
        match message["type"].as_str() {
            Some("REGISTER_ACK") => {
                if message["from"] != GATEWAY_SERVICE {
                    return Err(format!("who says {message}"));
                }
                let Input::Frame(from, Planned::Message(register, ..)) = input else {
                    return Err("an ACK out of nothing".into());
                };
                if *from != peer || register["type"] != "REGISTER" || forecast.register_refusal.is_some() {
                    return Err(format!("an ACK for {register}"));
                }
                self.registered(peer, register);
                let speaks_v2 = self.connections[&peer].speaks_v2;
                if message["bro"] != if speaks_v2 { json!({"v": 2}) } else { Value::Null } {
                    return Err(format!("{message} for {register}"));
                }
                arrival = Some(Arrival::Accepted(speaks_v2));
                tally.acknowledged += 1;
            }
            Some("ERROR") => {
                let code = message["error"]["code"].as_str().unwrap_or_default().to_owned();
                if !message["error"]["message"].is_string() || !message["timestamp"].is_number() {
                    return Err(format!("an incomplete {message}"));
                }
                tally.errors.push((peer, code));
            }
            Some("CALL") => {
                self.check_forwarded_call(input, forecast, peer, message)?;
                tally.forwarded += 1;
                arrival = Some(Arrival::Request(Request {
                    serial: self.serial,
                    id: Id::Text(message["id"].as_str().expect("checked").to_owned()),
                    from: message["from"].as_str().expect("checked").to_owned(),
                    to: message["to"].as_str().expect("checked").to_owned(),
                    context: message["context"].clone(),
                }));
            }
            Some("RESPONSE") => self.check_response(input, forecast, answered, peer, message, tally)?,
            _ => return Err(format!("a gateway does not say {message}")),
        }
        Ok(arrival)
    }

    fn closed(
        &mut self,
        input: &Input<'_>,
        forecast: &Forecast,
        peer: PeerId,
        reason: CloseReason,
        tally: &mut Tally,
    ) -> Result<(), String> {
        let now_ms = self.now.mono_ms();
        let Some(connection) = self.connections.get(&peer) else {
            return Err(format!("{peer:?} is closed again"));
        };
        let config = &self.config;
        let is_own_frame = matches!(input, Input::Frame(from, _) if *from == peer);
        let has_reason = match reason {
            CloseReason::Gone => false,
            CloseReason::Denied => matches!(input, Input::Policy) && self.is_denied(peer),
            CloseReason::Malformed => {
                let is_garbage = matches!(input, Input::Frame(_, Planned::Garbage | Planned::Oversize));
                is_own_frame && (is_garbage || forecast.is_violation)
            }
            CloseReason::Refused => {
                is_own_frame
                    && matches!(input, Input::Frame(_, Planned::Message(message, ..)) if message["type"] == "REGISTER")
            }
            CloseReason::NeverRegistered => {
                !self.names.contains_key(&peer) && connection.connected_ms + config.register_timeout_ms <= now_ms
            }
            CloseReason::Silent => self
                .names
                .get(&peer)
                .is_some_and(|name| self.services[name].last_frame_ms + 3 * config.heartbeat_interval_ms <= now_ms),
            CloseReason::PartialFrame => {
                connection.mid_frame_since_ms.is_some_and(|since| since + config.partial_frame_timeout_ms <= now_ms)
            }
            CloseReason::SlowReader => {
                let is_stalled = connection.progress_ms + config.write_stall_timeout_ms <= now_ms;
                connection.held > 0 && is_stalled
                    || connection.held + config.frame_bytes_max + 4 > config.queue_bytes_max
            }
            CloseReason::Exhausted => {
                let is_resolve =
                    matches!(input, Input::Frame(_, Planned::V2(frame, _)) if frame.kind == wire_v2::RESOLVE);
                is_own_frame && is_resolve && self.may_lack_memory(self.uid_of(peer)) || self.may_evict(peer)
            }
            CloseReason::Stopping => self.phase != Phase::Running || matches!(input, Input::Stop),
        };
        if !has_reason {
            return Err(format!("{peer:?} is closed as {reason} without reason"));
        }
        if reason == CloseReason::Stopping && self.phase == Phase::Running {
            self.phase = Phase::Ended;
        }
        self.saw(reason.as_str());
        tally.closed.push((peer, reason));
        self.lose_lanes(peer, reason == CloseReason::Stopping);
        self.take_down(peer);
        Ok(())
    }

    fn check_outcome(
        &mut self,
        input: &Input<'_>,
        forecast: &Forecast,
        answered: Option<&Flight>,
        uid: Option<u32>,
        tally: &Tally,
    ) -> Result<(), String> {
        let was_closed = |peer: &PeerId| tally.closed.iter().any(|(closed, _)| closed == peer);
        for (peer, code) in &tally.errors {
            let is_call = matches!(input, Input::Frame(from, Planned::Message(call, ..))
                if from == peer && call["type"] == "CALL" && call["id"].is_null());
            if !was_closed(peer) && !is_call {
                return Err(format!("{peer:?} was told {code} and left open"));
            }
        }
        for flight in &self.flights {
            if !self.connections.contains_key(&flight.callee) {
                return Err(format!("the callee has gone, the call has not: {flight:?}"));
            }
        }
        match input {
            Input::Frame(peer, Planned::Garbage | Planned::Oversize) if !was_closed(peer) => {
                Err(format!("{peer:?} sent garbage and is still connected"))
            }
            Input::Frame(peer, _) if forecast.is_violation => {
                if was_closed(peer) {
                    return Ok(());
                }
                Err(format!("{input:?} is against the rules, and its sender still connected"))
            }
            Input::Frame(peer, Planned::V2(frame, _)) => self.check_outcome_v2(*peer, frame, forecast, answered, tally),
            Input::Frame(peer, Planned::Message(message, ..)) => {
                let is_open = self.connections.contains_key(peer);
                match message["type"].as_str() {
                    Some("CALL") if !message["id"].is_null() => {
                        let mut ends = tally.forwarded + tally.refused;
                        if message["to"] == GATEWAY_SERVICE && forecast.refusals.is_empty() && ends == 0 && is_open {
                            let id = message["id"].as_str().expect("it was not refused").to_owned();
                            let question =
                                (message["method"].as_str().unwrap_or_default().to_owned(), message["params"].clone());
                            self.questions.insert((*peer, Id::Text(id.clone())), question);
                            self.inquiries.push((*peer, Id::Text(id)));
                            if message["method"] == "events" {
                                self.watched();
                            }
                            ends = 1;
                        }
                        if ends > 1 || ends == 0 && is_open {
                            return Err(format!("{ends} ends of {message}"));
                        }
                    }
                    Some("REGISTER") => {
                        let is_acknowledged = tally.acknowledged == 1;
                        let told = tally.errors.iter().find(|(told, _)| told == peer).map(|(_, code)| code.as_str());
                        let is_right = match forecast.register_refusal {
                            None => is_acknowledged || was_closed(peer),
                            Some(code) => {
                                let may_lack = told == Some("RESOURCE_EXHAUSTED") && self.may_lack_memory(uid);
                                !is_acknowledged && (told == Some(code) || may_lack) && !is_open
                            }
                        };
                        if !is_right {
                            return Err(format!("{message}: expected {:?}", forecast.register_refusal));
                        }
                    }
                    Some("RESPONSE") => {
                        if let Some(flight) = answered
                            && !tally.answered
                            && self.connections.contains_key(&flight.caller)
                        {
                            return Err(format!("the answer to {flight:?} is lost"));
                        }
                    }
                    _ => {}
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What is said once, and to whom.
    fn check_frames_of_v2(
        &self,
        input: &Input<'_>,
        forecast: &Forecast,
        tally: &Tally,
        told_to_drain: &[PeerId],
    ) -> Result<(), String> {
        if let Some((peer, number)) = tally.introduced
            && self.connections.contains_key(&peer)
        {
            return Err(format!("{peer:?} was told a name {number} that nobody uses"));
        }
        if told_to_drain.iter().any(|peer| self.connections.contains_key(peer) && !tally.drained.contains(peer)) {
            return Err("a peer is not told that the gateway is about to stop".to_owned());
        }
        let is_ping = matches!(input, Input::Frame(_, Planned::V2(frame, _)) if frame.kind == wire_v2::PING);
        if let Input::Frame(peer, _) = input
            && is_ping
            && !forecast.is_violation
            && tally.pongs != 1
            && self.connections.contains_key(peer)
        {
            return Err(format!("{} answers to a PING", tally.pongs));
        }
        Ok(())
    }

    /// Whether anything that should have happened by now has not.
    pub(crate) fn check_overdue(&self) -> Result<(), String> {
        let now_ms = self.now.mono_ms();
        if let Some(flight) = self.flights.iter().find(|flight| flight.deadline_ms <= now_ms) {
            return Err(format!("at {now_ms} ms, overdue: {flight:?}"));
        }
        for (peer, connection) in &self.connections {
            let is_named = self.names.contains_key(peer);
            if !is_named && connection.connected_ms + self.config.register_timeout_ms <= now_ms {
                return Err(format!("{peer:?} never registered and is still connected"));
            }
            if connection.held > 0 && connection.progress_ms + self.config.write_stall_timeout_ms <= now_ms {
                return Err(format!("{peer:?} takes nothing and is still connected"));
            }
            let is_late = |since| since + self.config.partial_frame_timeout_ms <= now_ms;
            if connection.mid_frame_since_ms.is_some_and(is_late) {
                return Err(format!("{peer:?} does not finish its frame and is still connected"));
            }
        }
        for (name, service) in &self.services {
            let is_silent = service.last_frame_ms + 3 * self.config.heartbeat_interval_ms <= now_ms;
            if is_silent && !service.instances.keys().any(|peer| self.connections[peer].is_paused) {
                // After a pause the router may look again an interval later, no more.
                let patience = 5 * self.config.heartbeat_interval_ms;
                if service.last_frame_ms + patience <= now_ms {
                    return Err(format!("{name} is silent and still registered"));
                }
            }
        }
        Ok(())
    }

    /// The encoding that a peer's next REGISTER will be in.
    pub(crate) fn adopt_encoding(&mut self, peer: PeerId, planned: &Planned) {
        if let (Planned::Message(message, encoding, _), Some(connection)) = (planned, self.connections.get_mut(&peer))
            && message["type"] == "REGISTER"
        {
            debug_assert!(matches!(encoding, Encoding::Json | Encoding::Msgpack));
            connection.encoding = *encoding;
        }
    }
}
