//! Programs with a session each: what they do with it, and what it tells them.

use super::fault::SystemFault;
use super::ledger::{Answer, Fate, failure, name_of, params, success};
use super::lines::{Line, SOCKET_BYTES_MAX, below, some};
use super::steps::System;
use bro_proto::error::{ErrorBody, ErrorCode};
use bro_proto::rng::Rng;
use bro_proto::v1::encode::Outcome;
use bro_proto::v1::{Encoding, Payload};
use bro_session::{
    CallId, CallRequest, Origin, Output, OwnedPayload, Request, RequestId, RequestKey, Session, SessionConfig,
    SessionEvent,
};
use bytes::Bytes;
use serde_json::Value;
use std::collections::BTreeMap;

/// A call that has not ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub(super) serial: u64,
    /// By then it must have ended, on the monotonic clock.
    pub(super) due_ms: u64,
}

/// A request that a handler works on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    pub(super) id: RequestId,
    pub(super) serial: u64,
    pub(super) wants_answer: bool,
    /// It came in version 2, in which callees are told when a call is given up.
    pub(super) is_v2: bool,
}

/// One program.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) session: Session,
    /// Counts the processes that this program was.
    pub(super) incarnation: u32,
    pub(super) pending: BTreeMap<CallId, Pending>,
    pub(super) work: Vec<Work>,
    pub(super) is_connected: bool,
    pub(super) connect_waits: bool,
    pub(super) drain_waits: bool,
    /// It takes no more calls, until it has disconnected.
    pub(super) has_drained: bool,
    /// Calls that it has lately given up, whose callees have to be told.
    pub(super) given_up: Vec<u64>,
}

const REQUESTS_MAX: usize = 24;

impl Client {
    pub(super) fn new(at: usize, incarnation: u32, now: bro_proto::Now, rng: &mut Rng) -> Self {
        let config = SessionConfig {
            methods: vec!["get".into()],
            encoding: if rng.below(4) == 0 { Encoding::Msgpack } else { Encoding::Json },
            speaks_v2: rng.below(4) > 0,
            takes_lanes: rng.below(4) > 0,
            pool_size: [1, 1, 1, 2, 3][below(5, rng)],
            auto_reconnect: rng.below(8) > 0,
            reconnect_delay_ms: rng.below(200),
            timeout_ms: 200 + rng.below(4000),
            heartbeat_interval_ms: 500 + rng.below(1500),
            wait_for_gateway_ms: [0, 1000][below(2, rng)],
            frame_bytes_max: bro_proto::limits::REGISTER_BYTES_MAX,
            queue_bytes_max: 20_000,
            requests_max: REQUESTS_MAX,
            wait_for_service_ms: [0, 0, 400, 3000][below(4, rng)],
            waiting_calls_max: 12,
            waiting_bytes_max: 60_000,
            ..SessionConfig::new(name_of(at))
        };
        Client {
            session: Session::new(config, rng.next_u64(), now).expect("a good configuration"),
            incarnation,
            pending: BTreeMap::new(),
            work: Vec::new(),
            is_connected: false,
            connect_waits: false,
            drain_waits: false,
            has_drained: false,
            given_up: Vec::new(),
        }
    }
}

/// What programs do.
impl System {
    pub(super) fn connect(&mut self, at: usize) -> Result<(), String> {
        self.poll(at)?;
        self.clients[at].connect_waits = true;
        self.clients[at].session.connect(self.now);
        self.poll(at)
    }

    /// A call of a program's own accord, or for a request that it works on.
    pub(super) fn call(&mut self, at: usize, to: usize) -> Result<(), String> {
        let pad = if self.rng.below(12) == 0 { below(9000, &mut self.rng) } else { below(40, &mut self.rng) };
        let serial = self.ledger.open(at, to);
        let (params, to) = (params(serial, pad), name_of(to));
        let now = self.now;
        let client = &mut self.clients[at];
        let work = client.work.iter().find(|work| work.wants_answer).map(|work| work.id);
        let call = CallRequest {
            request: work.filter(|_| self.rng.below(3) == 0),
            timeout_ms: (self.rng.below(6) == 0).then(|| 1 + self.rng.below(400)),
            wait_ms: (self.rng.below(5) == 0).then(|| self.rng.below(2000)),
            ..CallRequest::new(&to, "get", Payload { encoding: Encoding::Json, bytes: &params })
        };
        if self.rng.below(12) == 0 {
            let is_sent = client.session.notify(call, now).is_ok();
            self.ledger.set_fate(serial, Fate::Notified);
            return if is_sent { Ok(()) } else { self.refused(serial) };
        }
        let timeout_ms = call.timeout_ms.unwrap_or(client.session.config().timeout_ms);
        match client.session.call(call, now) {
            Ok(id) => {
                let due_ms = now.mono_ms() + timeout_ms + 1;
                if client.pending.insert(id, Pending { serial, due_ms }).is_some() {
                    return Err(format!("{id:?} of {} names two calls", name_of(at)));
                }
                self.summary.calls += 1;
                self.poll_at_times(at)
            }
            Err(error) if error.code.is_none() => Err(format!("refused without a code: {error:?}")),
            Err(_) => self.refused(serial),
        }
    }

    fn refused(&mut self, serial: u64) -> Result<(), String> {
        self.saw("call refused at once");
        self.ledger.refuse(serial);
        Ok(())
    }

    pub(super) fn cancel(&mut self, at: usize) -> Result<(), String> {
        let client = &mut self.clients[at];
        if client.pending.is_empty() {
            return Ok(());
        }
        let nth = below(client.pending.len(), &mut self.rng);
        let (&id, &Pending { serial, .. }) = client.pending.iter().nth(nth).expect("below their number");
        if client.session.cancel(id, self.now) {
            client.pending.remove(&id);
            // In version 1 nobody can be told.
            if self.config.speaks_v2 && client.session.config().speaks_v2 {
                client.given_up.push(serial);
            }
            self.ledger.set_fate(serial, Fate::GivenUp);
            self.saw("cancelled");
        }
        self.poll_at_times(at)
    }

    /// A handler has done its work.
    pub(super) fn respond(&mut self, at: usize, with_error: bool) -> Result<(), String> {
        let client = &mut self.clients[at];
        if client.work.is_empty() {
            return Ok(());
        }
        let work = client.work.swap_remove(below(client.work.len(), &mut self.rng));
        let error = ErrorBody::new(ErrorCode::Custom("FAILED".into()), failure(work.serial));
        let json = success(work.serial).to_string();
        let result = Payload { encoding: Encoding::Json, bytes: json.as_bytes() };
        let (outcome, answer) = match with_error {
            true => (Outcome::Error(&error), Answer::Failure),
            false => (Outcome::Success(result), Answer::Success),
        };
        if !client.session.respond(work.id, outcome, self.now) {
            // Its end is on the way.
            self.clients[at].work.push(work);
            return self.poll(at);
        }
        self.ledger.answer(work.serial, answer);
        self.poll_at_times(at)
    }

    pub(super) fn drain_client(&mut self, at: usize) -> Result<(), String> {
        self.poll(at)?;
        (self.clients[at].drain_waits, self.clients[at].has_drained) = (true, true);
        self.clients[at].session.drain(self.now);
        self.saw("client drained");
        self.poll(at)
    }

    pub(super) fn disconnect_client(&mut self, at: usize) -> Result<(), String> {
        self.poll(at)?;
        self.clients[at].session.disconnect(self.now);
        self.clients[at].has_drained = false;
        self.poll(at)?;
        let client = &self.clients[at];
        let is_left = client.connect_waits || client.drain_waits || client.is_connected;
        if !client.pending.is_empty() || !client.work.is_empty() || is_left || client.session.wakeup_ms().is_some() {
            return Err(format!("{} has disconnected, and something is left: {client:?}", name_of(at)));
        }
        Ok(())
    }

    /// The process of a program is no more, and another one is started in its place.
    pub(super) fn crash_client(&mut self, at: usize) {
        self.saw("client crashed");
        let fresh = Client::new(at, self.clients[at].incarnation + 1, self.now, &mut self.rng);
        let gone = std::mem::replace(&mut self.clients[at], fresh);
        for pending in gone.pending.values() {
            self.ledger.set_fate(pending.serial, Fate::Orphaned);
        }
        self.close_lanes_of(at);
        let places: Vec<u64> = self.lines.keys().copied().collect();
        for place in places {
            let line = self.lines.get_mut(&place).expect("it is there");
            if line.client == at && line.conn.take().is_some() {
                let end = super::lines::upto(line.up.len(), &mut self.rng);
                line.up.truncate(end);
                self.drop_descriptors(place);
            }
        }
        self.forget_lines();
    }

    pub(super) fn client_time(&mut self, at: usize) -> Result<(), String> {
        if self.fault == SystemFault::ForgetTime && at == 0 {
            // The session goes on without hearing of it.
        } else {
            self.clients[at].session.handle_time(self.now);
            self.poll(at)?;
        }
        let now_ms = self.now.mono_ms();
        if let Some(late) = self.clients[at].pending.values().find(|pending| pending.due_ms < now_ms) {
            return Err(format!(
                "call {} of {} has not ended in time: {late:?}, now {now_ms}",
                late.serial,
                name_of(at)
            ));
        }
        Ok(())
    }
}

/// What sessions say.
impl System {
    /// Inputs come in batches of different sizes.
    fn poll_at_times(&mut self, at: usize) -> Result<(), String> {
        if self.rng.below(3) == 0 { Ok(()) } else { self.poll(at) }
    }

    pub(super) fn poll(&mut self, at: usize) -> Result<(), String> {
        while let Some(output) = self.clients[at].session.poll_output() {
            match output {
                Output::Connect(conn) => {
                    self.last_line += 1;
                    self.lines.insert(self.last_line, Line::new(at, conn));
                }
                Output::Close { conn, unsent } if conn.is_lane() => self.close_lane_end(at, conn, &unsent),
                Output::Close { conn, unsent } => {
                    let place = self.lines.iter().find(|(_, line)| line.client == at && line.conn == Some(conn));
                    if let Some(place) = place.map(|(place, _)| *place) {
                        let line = self.lines.get_mut(&place).expect("just found");
                        line.conn = None;
                        if line.peer.is_some() {
                            line.up.extend(unsent);
                        }
                        self.drop_descriptors(place);
                        self.forget_lines();
                    }
                }
                Output::LaneOffered { lane, via, .. } => self.take_lane(at, lane, via)?,
                Output::Event(event) => self.hear(at, event)?,
            }
        }
        while self.clients[at].session.poll_outbound().is_some() {}
        let client = &self.clients[at];
        let status = client.session.status();
        let claimed = (status.pending_calls, status.requests_in_work, status.connected);
        let known = (client.pending.len(), client.work.len(), client.is_connected);
        if claimed != known {
            return Err(format!("{} claims to have {claimed:?}, and has {known:?}", name_of(at)));
        }
        Ok(())
    }

    fn hear(&mut self, at: usize, event: SessionEvent) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{}: {what}", name_of(at)));
        let client = &mut self.clients[at];
        match event {
            SessionEvent::Connected if std::mem::replace(&mut client.is_connected, true) => {
                return wrong("connected twice");
            }
            SessionEvent::Registered => client.connect_waits = false,
            SessionEvent::AlreadyConnected if !std::mem::take(&mut client.connect_waits) => {
                return wrong("nobody has connected");
            }
            SessionEvent::ConnectFailed(error) => {
                if !std::mem::take(&mut client.connect_waits) {
                    return wrong("nobody has connected");
                }
                return self.judge_error(at, &error);
            }
            SessionEvent::Disconnected { .. } if !std::mem::take(&mut client.is_connected) => {
                return wrong("disconnected twice");
            }
            SessionEvent::Drained { .. } if !std::mem::take(&mut client.drain_waits) => {
                return wrong("nobody has drained");
            }
            SessionEvent::Reconnecting { error, .. }
            | SessionEvent::Error(error)
            | SessionEvent::GatewayError(error) => return self.judge_error(at, &error),
            SessionEvent::Request(request) => return self.take_request(at, &request),
            SessionEvent::RequestExpired { id, reason } => {
                let Some(place) = client.work.iter().position(|work| work.id == id) else {
                    return wrong("a request has expired that is not in work");
                };
                client.work.swap_remove(place);
                *self.summary.seen.entry(format!("request ended by {reason}")).or_default() += 1;
            }
            SessionEvent::CallDone { id, outcome, origin, .. } => {
                let Some(pending) = client.pending.remove(&id) else {
                    return wrong("a call ended that is not pending");
                };
                return self.end_call(pending.serial, outcome, origin);
            }
            _ => {}
        }
        Ok(())
    }

    fn end_call(
        &mut self,
        serial: u64,
        outcome: Result<OwnedPayload, ErrorBody>,
        mut origin: Origin,
    ) -> Result<(), String> {
        let result = match outcome {
            Ok(value) => Ok(value_of(&value)?),
            Err(mut error) => {
                if error.code == Some(ErrorCode::ConnectionLost)
                    && self.fault.strikes(SystemFault::FalseRefusal, &mut self.rng)
                {
                    (error.code, origin) = (Some(ErrorCode::NotConnected), Origin::Local);
                }
                Err(error)
            }
        };
        let how = match &result {
            Ok(_) => "success".to_owned(),
            Err(error) => error.code.as_ref().map_or("no code", |code| code.as_str()).to_owned(),
        };
        *self.summary.seen.entry(how).or_default() += 1;
        self.summary.ended += 1;
        self.ledger.end(serial, result.as_ref(), origin)?;
        Ok(())
    }

    fn take_request(&mut self, at: usize, request: &Request) -> Result<(), String> {
        let value = value_of(&request.params)?;
        let Some(serial) = value["serial"].as_u64() else {
            return Err(format!("{} was asked {value}", name_of(at)));
        };
        if &*request.method != "get" {
            return Err(format!("{} was asked for {}", name_of(at), request.method));
        }
        self.ledger.carry_out(serial, &request.from, at)?;
        let is_v2 = matches!(request.request_id, RequestKey::V2(_));
        self.clients[at].work.push(Work { id: request.id, serial, wants_answer: request.wants_answer, is_v2 });
        self.summary.carried_out += 1;
        Ok(())
    }

    /// Nobody breaks the protocol here: nobody may say that somebody did.
    fn judge_error(&mut self, at: usize, error: &ErrorBody) -> Result<(), String> {
        let broken = [
            ErrorCode::InvalidMessage,
            ErrorCode::PayloadTooLarge,
            ErrorCode::InvalidContext,
            ErrorCode::InternalError,
        ];
        match &error.code {
            Some(code) if !broken.contains(code) => {
                *self.summary.seen.entry(format!("connection: {}", code.as_str())).or_default() += 1;
                Ok(())
            }
            _ => Err(format!("{} was told {error:?}", name_of(at))),
        }
    }
}

/// Bytes of the lines, on the side of the clients.
impl System {
    /// A client's socket takes some of what its session has queued.
    pub(super) fn client_writes(&mut self, place: u64, is_whole: bool) -> bool {
        let Some(line) = self.lines.get_mut(&place) else { return false };
        let Some(conn) = line.conn else { return false };
        let Some(outbound) = self.clients[line.client].session.outbound(conn) else { return false };
        let room = outbound.len().min(SOCKET_BYTES_MAX.saturating_sub(line.up.len()));
        let count = if is_whole { room } else { some(room, &mut self.rng) };
        // Who has gone takes nothing.
        if count == 0 || line.peer.is_none() {
            return false;
        }
        line.up.extend(&outbound.chunk()[..count]);
        outbound.advance(count);
        true
    }

    pub(super) fn client_reads(&mut self, place: u64, is_whole: bool) -> Result<bool, String> {
        let Some(line) = self.lines.get_mut(&place) else { return Ok(false) };
        let (Some(conn), true) = (line.conn, line.is_decided) else { return Ok(false) };
        let at = line.client;
        if line.down.is_empty() {
            if line.peer.is_some() {
                return Ok(false);
            }
            line.conn = None;
            self.drop_descriptors(place);
            self.forget_lines();
            self.clients[at].session.handle_closed(conn, "closed by the gateway", self.now);
            return self.poll(at).map(|()| true);
        }
        let count = if is_whole { line.down.len() } else { some(line.down.len(), &mut self.rng).max(1) };
        let chunk: Vec<u8> = line.down.drain(..count).collect();
        self.clients[at].session.handle_bytes(conn, &Bytes::from(chunk), self.now);
        self.poll_at_times(at)?;
        Ok(true)
    }

    /// Both sides have let go of some.
    pub(super) fn forget_lines(&mut self) {
        let gone = self.lines.iter().filter(|(_, line)| line.is_gone() && !line.descriptors.is_empty());
        let places: Vec<u64> = gone.map(|(place, _)| *place).collect();
        for place in places {
            self.drop_descriptors(place);
        }
        self.lines.retain(|_, line| !line.is_gone());
    }
}

/// A value that was handed out; it must be one.
fn value_of(payload: &OwnedPayload) -> Result<Value, String> {
    let read = match payload.encoding {
        Encoding::Json => serde_json::from_slice(&payload.bytes).map_err(|error| error.to_string()),
        Encoding::Msgpack => rmp_serde::from_slice(&payload.bytes).map_err(|error| error.to_string()),
    };
    read.map_err(|error| format!("no value was handed out: {error}: {payload:?}"))
}
