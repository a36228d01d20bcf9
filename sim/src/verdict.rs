//! The checks of one input's outputs.

use crate::model::{Flight, Phase, World};
use crate::network::{Order, Request};
use crate::traffic::Planned;
use crate::wire::{self, is_same};
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
    Disconnect,
    Time,
    Drain,
    Stop,
}

/// What one input has led to so far.
#[derive(Default)]
struct Tally {
    forwarded: usize,
    refused: usize,
    acknowledged: usize,
    /// ERROR frames, by receiver, with their codes.
    errors: Vec<(PeerId, String)>,
    closed: Vec<(PeerId, CloseReason)>,
    answered: bool,
}

/// What a CALL must come to, decided before its outputs are looked at.
struct Forecast {
    refusals: Vec<&'static str>,
    may_be_too_large: bool,
    timeout_ms: u64,
    register_refusal: Option<&'static str>,
}

impl World {
    /// Checks the orders that an input led to, and carries them out. `events` is what the driver had asked for.
    pub(crate) fn judge(&mut self, input: &Input<'_>, orders: Vec<Order>, events: EventMask) -> Result<(), String> {
        let forecast = self.forecast(input);
        let answered = self.flight_answered_by(input);
        self.check_right_answer(input, answered.as_ref())?;
        let mut tally = Tally::default();
        for order in orders {
            match order {
                Order::Send { peer, frame } => {
                    self.sent(input, &forecast, answered.as_ref(), peer, &frame, &mut tally)?
                }
                Order::Close { peer, reason } => self.closed(input, peer, reason, &mut tally)?,
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
                Order::Event(kind) if events.has(kind) => {}
                Order::Event(kind) => return Err(format!("an event {kind:?} that nobody listens to")),
            }
        }
        self.check_outcome(input, &forecast, answered.as_ref(), &tally)?;
        self.gone.clear();
        Ok(())
    }

    fn forecast(&self, input: &Input<'_>) -> Forecast {
        let mut forecast =
            Forecast { refusals: Vec::new(), may_be_too_large: false, timeout_ms: 0, register_refusal: None };
        if let Input::Frame(peer, Planned::Message(message, ..)) = input {
            forecast.may_be_too_large = self.may_be_too_large(message);
            if message["type"] == "CALL" {
                forecast.refusals = self.refusals(*peer, message);
                forecast.timeout_ms = self.timeout_ms(message);
            } else if message["type"] == "REGISTER" {
                forecast.register_refusal = self.registration_refusal(*peer, message);
            }
        }
        forecast
    }

    fn flight_answered_by(&self, input: &Input<'_>) -> Option<Flight> {
        let Input::Frame(peer, Planned::Message(message, ..)) = input else { return None };
        if message["type"] != "RESPONSE" {
            return None;
        }
        let is_it = |flight: &&Flight| flight.callee == *peer && message["id"] == *flight.callee_id;
        self.flights.iter().find(is_it).cloned()
    }

    /// An honest callee answers each request once. That answer must end the call that it was asked, or none.
    fn check_right_answer(&mut self, input: &Input<'_>, answered: Option<&Flight>) -> Result<(), String> {
        let Input::Frame(callee, Planned::Message(message, _, serial)) = input else { return Ok(()) };
        match (answered, serial) {
            (Some(flight), Some(serial)) if flight.serial != *serial => {
                Err(format!("the answer to call {serial} ends {flight:?}"))
            }
            (None, _) if message["type"] == "RESPONSE" => {
                let id = message["id"].as_str().unwrap_or_default().to_owned();
                self.abandoned.remove(&(*callee, id));
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
        let (message, encoding) = wire::parse(frame).map_err(|error| format!("unreadable frame: {error}"))?;
        let is_named = self.names.contains_key(&peer);
        let Some(connection) = self.connections.get_mut(&peer) else {
            return Err(format!("sent to {peer:?}, which has gone: {message}"));
        };
        if is_named && connection.encoding != encoding {
            return Err(format!("{peer:?} speaks {:?}, got {message}", connection.encoding));
        }
        if connection.held == 0 {
            connection.progress_ms = now_ms;
        }
        connection.held += frame.len();
        self.held += frame.len();
        if message["type"] != "CALL" {
            // Calls do not count: a callee that is slow to take them must still be heard when it answers.
            connection.answers += frame.len();
        }
        if connection.held > self.config.queue_bytes_max {
            return Err(format!("{} bytes are held for {peer:?}", connection.held));
        }
        let mut request = None;
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
                self.check_forwarded_call(input, forecast, peer, &message)?;
                tally.forwarded += 1;
                request = Some(Request {
                    serial: self.serial,
                    id: message["id"].as_str().expect("checked").to_owned(),
                    from: message["from"].as_str().expect("checked").to_owned(),
                    to: message["to"].as_str().expect("checked").to_owned(),
                    context: message["context"].clone(),
                });
            }
            Some("RESPONSE") => self.check_response(input, forecast, answered, peer, &message, tally)?,
            _ => return Err(format!("a gateway does not say {message}")),
        }
        let connection = self.connections.get_mut(&peer).expect("it is open");
        connection.queue.push_back((frame.len(), request));
        Ok(())
    }

    fn check_forwarded_call(
        &mut self,
        input: &Input<'_>,
        forecast: &Forecast,
        callee: PeerId,
        message: &Value,
    ) -> Result<(), String> {
        let Input::Frame(caller, Planned::Message(call, ..)) = input else {
            return Err(format!("a CALL out of nothing: {message}"));
        };
        if call["type"] != "CALL" || !forecast.refusals.is_empty() {
            return Err(format!("{call} is passed on, not refused with {:?}", forecast.refusals));
        }
        let wrong = |what: &str| Err(format!("{what} of {message}, made from {call}"));
        let caller_name = &self.names[caller];
        if message["from"] != **caller_name {
            return wrong("the `from`");
        }
        if self.names.get(&callee).is_none_or(|name| call["to"] != **name) || message["to"] != call["to"] {
            return wrong("the callee");
        }
        if message["method"] != call["method"] || !is_same(&message["params"], &call["params"]) {
            return wrong("method or params");
        }
        let context = &message["context"];
        if call["context"].is_null() {
            let expected = json!([caller_name, call["to"]]);
            let is_made = context["chain"] == expected && context["depth"] == 2 && context["root"].is_string();
            if !is_made || context["deadline"].as_f64().is_none() {
                return wrong("the context that the gateway made");
            }
        } else if !is_same(context, &call["context"]) {
            return wrong("the context");
        }
        let callee_id = message["id"].as_str().ok_or("a CALL without an id")?.to_owned();
        if self.flights.iter().any(|flight| flight.callee == callee && flight.callee_id == callee_id) {
            return wrong("the id, which the callee has already,");
        }
        if self.abandoned.contains(&(callee, callee_id.clone())) {
            return wrong("the id, under which the callee may still answer another call,");
        }
        let id = call["id"].as_str().expect("it was not refused").to_owned();
        let deadline_ms = self.now.mono_ms() + forecast.timeout_ms;
        self.serial += 1;
        let serial = self.serial;
        self.flights.push(Flight { caller: *caller, id, callee, callee_id, deadline_ms, serial });
        Ok(())
    }

    fn check_response(
        &mut self,
        input: &Input<'_>,
        forecast: &Forecast,
        answered: Option<&Flight>,
        peer: PeerId,
        message: &Value,
        tally: &mut Tally,
    ) -> Result<(), String> {
        let id = message["id"].as_str().ok_or("a RESPONSE without an id")?;
        if let Some(name) = self.names.get(&peer)
            && message["to"] != **name
        {
            return Err(format!("{peer:?} is {name:?}, got {message}"));
        }
        let code = message["error"]["code"].as_str();
        let is_own = message["from"] == GATEWAY_SERVICE;
        // The answer to a CALL that was refused at once.
        if let Input::Frame(caller, Planned::Message(call, ..)) = input
            && call["type"] == "CALL"
            && *caller == peer
            && call["id"] == *id
            && tally.forwarded + tally.refused == 0
            && is_own
        {
            if call["to"] == GATEWAY_SERVICE && forecast.refusals.is_empty() {
                tally.refused += 1;
                return Ok(());
            }
            let code = code.unwrap_or_default();
            let is_too_large = code == "PAYLOAD_TOO_LARGE" && forecast.may_be_too_large;
            if !forecast.refusals.contains(&code) && !is_too_large {
                return Err(format!("{call} is refused with {message}, expected {:?}", forecast.refusals));
            }
            if !is_same(&message["context"], &call["context"]) {
                return Err(format!("{call} is refused without its context: {message}"));
            }
            tally.refused += 1;
            return Ok(());
        }
        // The answer of a callee.
        if let (Some(flight), Input::Frame(callee, Planned::Message(answer, ..))) = (answered, input)
            && flight.caller == peer
            && flight.id == id
            && !tally.answered
        {
            tally.answered = true;
            self.end_flight(flight)?;
            return self.check_forwarded_answer(*callee, answer, message, forecast);
        }
        if let Some(at) = self.inquiries.iter().position(|(caller, own)| *caller == peer && own == id)
            && is_own
        {
            self.inquiries.swap_remove(at);
            return Ok(());
        }
        // The gateway's own answer to a call in flight. One caller may have several under one id.
        let is_its = |flight: &Flight| flight.caller == peer && flight.id == id;
        let position = |is_ended: &dyn Fn(&Flight) -> bool| {
            self.flights.iter().position(|flight| is_its(flight) && is_ended(flight))
        };
        let ended = match code {
            _ if !is_own => None,
            Some("TIMEOUT") => position(&|flight| flight.deadline_ms <= self.now.mono_ms()),
            Some("CONNECTION_LOST") => {
                let is_end = self.phase == Phase::Ended || matches!(input, Input::Stop | Input::Time);
                position(&|flight| self.gone.contains(&flight.callee)).or_else(|| position(&|_| is_end))
            }
            _ => None,
        };
        match ended {
            Some(at) => {
                let flight = self.flights.swap_remove(at);
                self.abandoned.insert((flight.callee, flight.callee_id));
                Ok(())
            }
            None => Err(format!("{peer:?} got an answer that it has no call for: {message} ({input:?})")),
        }
    }

    fn check_forwarded_answer(
        &self,
        callee: PeerId,
        answer: &Value,
        message: &Value,
        forecast: &Forecast,
    ) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{what} of {message}, made from {answer}"));
        if message["from"] == GATEWAY_SERVICE {
            // The gateway had to say that the answer cannot be passed on.
            let is_right = match message["error"]["code"].as_str() {
                Some("PAYLOAD_TOO_LARGE") => forecast.may_be_too_large,
                Some("INVALID_MESSAGE") => answer["status"].is_null() && answer["error"].is_null(),
                _ => false,
            };
            return if is_right { Ok(()) } else { wrong("the error") };
        }
        if self.names.get(&callee).is_none_or(|name| message["from"] != **name) {
            return wrong("the `from`");
        }
        if !is_same(&message["data"], &answer["data"]) || !is_same(&message["error"], &answer["error"]) {
            return wrong("the outcome");
        }
        let status = if answer["error"].is_null() { "success" } else { "error" };
        if message["status"] != status {
            return wrong("the status");
        }
        if !is_same(&message["context"], &answer["context"]) {
            return wrong("the context");
        }
        Ok(())
    }

    fn end_flight(&mut self, flight: &Flight) -> Result<(), String> {
        let is_it = |other: &Flight| other.callee == flight.callee && other.callee_id == flight.callee_id;
        let at = self.flights.iter().position(is_it).ok_or("an answer to a call that has ended")?;
        self.flights.swap_remove(at);
        Ok(())
    }

    fn closed(
        &mut self,
        input: &Input<'_>,
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
            CloseReason::Malformed => {
                is_own_frame && matches!(input, Input::Frame(_, Planned::Garbage | Planned::Oversize))
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
        self.take_down(peer);
        Ok(())
    }

    fn check_outcome(
        &mut self,
        input: &Input<'_>,
        forecast: &Forecast,
        answered: Option<&Flight>,
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
            Input::Frame(peer, Planned::Message(message, ..)) => {
                let is_open = self.connections.contains_key(peer);
                match message["type"].as_str() {
                    Some("CALL") if !message["id"].is_null() => {
                        let mut ends = tally.forwarded + tally.refused;
                        if message["to"] == GATEWAY_SERVICE && forecast.refusals.is_empty() && ends == 0 && is_open {
                            let id = message["id"].as_str().expect("it was not refused").to_owned();
                            self.inquiries.push((*peer, id));
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
                            Some(code) => !is_acknowledged && told == Some(code) && !is_open,
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
