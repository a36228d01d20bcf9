//! A session between a program and a gateway that both do whatever the bytes say.

use bro_proto::limits::REGISTER_BYTES_MAX;
use bro_proto::v1::encode::Outcome;
use bro_proto::v1::{self, Encoding, Payload};
use bro_proto::v2::{self, FrameKind};
use bro_proto::{ErrorBody, ErrorCode, Now};
use bro_session::{
    CallId, CallRequest, ConnId, Counters, Output, OwnedPayload, RequestId, Session, SessionConfig, SessionEvent,
};
use bytes::Bytes;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;

const QUEUE_BYTES_MAX: usize = 4096;
const REQUESTS_MAX: usize = 4;
const WAITING_CALLS_MAX: usize = 4;
/// What a call of the target has at most in one queue besides what is admitted: its own frame, answers, and errors.
const SLACK_BYTES: usize = 100_000;
const SERVICES: [&str; 4] = ["user", "role", "order", "bro.gateway"];

/// Records of a byte that says what happens, and what belongs to it.
pub(crate) fn session(input: &[u8]) {
    play(input);
}

/// One connection, as who is at its other end knows it.
#[derive(Default)]
struct Line {
    is_open: bool,
    /// Bytes from the session that are no whole frame.
    partial: Vec<u8>,
    /// Bytes to the session that it has not read.
    inbox: Vec<u8>,
    /// What answers to its last call are addressed to.
    asked: Option<Asked>,
}

#[derive(Clone)]
enum Asked {
    Text(String),
    Number(u64),
}

struct World<'a> {
    input: &'a [u8],
    session: Session,
    now: Now,
    lines: BTreeMap<ConnId, Line>,
    pending: Vec<CallId>,
    requests: Vec<RequestId>,
    next_number: u64,
    connect_waits: bool,
    drain_waits: bool,
    is_connected: bool,
}

fn play(mut input: &[u8]) -> Counters {
    let flags = take_byte(&mut input).unwrap_or(0);
    let has = |bit: u8| flags >> bit & 1 == 1;
    let config = SessionConfig {
        methods: vec!["get".into()],
        encoding: if has(0) { Encoding::Msgpack } else { Encoding::Json },
        speaks_v2: !has(1),
        takes_lanes: !has(1) && !has(2),
        pool_size: if has(3) { 2 } else { 1 },
        auto_reconnect: !has(4),
        wait_for_gateway_ms: if has(5) { 500 } else { 0 },
        wait_for_service_ms: if has(6) { 2000 } else { 0 },
        timeout_ms: 1000,
        heartbeat_interval_ms: 500,
        reconnect_delay_ms: 50,
        frame_bytes_max: REGISTER_BYTES_MAX,
        queue_bytes_max: QUEUE_BYTES_MAX,
        requests_max: REQUESTS_MAX,
        waiting_calls_max: WAITING_CALLS_MAX,
        waiting_bytes_max: 16 * 1024,
        ..SessionConfig::new("order")
    };
    let now = Now { mono_us: 1_000_000, wall_ms: 1_700_000_000_000 };
    let mut world = World {
        input,
        session: Session::new(config, 1, now).expect("a good configuration"),
        now,
        lines: BTreeMap::new(),
        pending: Vec::new(),
        requests: Vec::new(),
        next_number: 0,
        connect_waits: false,
        drain_waits: false,
        is_connected: false,
    };
    world.connect();
    while let Some(what) = take_byte(&mut world.input) {
        world.act(what);
        // Inputs may come in batches.
        if what & 64 == 0 {
            world.poll();
            world.check();
        }
    }
    world.finish();
    world.session.counters()
}

impl World<'_> {
    fn act(&mut self, what: u8) {
        let is_high = what & 128 != 0;
        match what & 63 {
            0 => self.connect(),
            1 if is_high => self.session.disconnect(self.now),
            1 => {
                self.poll();
                self.drain_waits = true;
                self.session.drain(self.now);
            }
            2..=4 => self.pass_time(),
            5..=8 => self.open(is_high),
            9 => self.close(),
            10 | 11 => self.acknowledge(is_high),
            12..=17 => self.call(what),
            18 => self.notify(is_high),
            19..=21 => self.cancel(),
            22..=24 => self.respond(is_high),
            25 => {
                let name = self.text();
                // Refused when it is no name, or one too many.
                let _ = self.session.register_method(&name, self.now);
            }
            26 => drop(self.session.unregister_method("get", self.now)),
            27..=31 => self.answer(is_high),
            32..=34 => self.refuse(),
            35..=39 => self.request(what),
            40 => self.give_request_up(),
            41 | 42 => self.offer_lane(is_high),
            43..=45 => self.say_of_lane(what),
            46..=54 => self.write_body(),
            55 => {
                let bytes = self.piece().to_vec();
                self.deliver(&bytes, is_high);
            }
            56..=58 => self.deliver(&[], is_high),
            _ => self.take(is_high),
        }
    }

    fn connect(&mut self) {
        self.poll();
        self.connect_waits = true;
        self.session.connect(self.now);
        self.poll();
    }

    fn pass_time(&mut self) {
        let step_ms = u64::from(self.byte()).pow(2) / 16;
        self.now.mono_us += step_ms * 1000 + 7;
        self.now.wall_ms += step_ms;
        self.session.handle_time(self.now);
    }

    /// A connection or a lane that was asked for comes about, or does not.
    fn open(&mut self, fails: bool) {
        self.poll();
        let Some((&conn, line)) = self.lines.iter_mut().find(|(_, line)| !line.is_open) else { return };
        line.is_open = !fails;
        match (conn.is_lane(), fails) {
            (true, false) => self.session.handle_lane_opened(conn, self.now),
            (true, true) => self.session.handle_lane_failed(conn, self.now),
            (false, false) => self.session.handle_connected(conn, self.now),
            (false, true) => self.session.handle_connect_failed(conn, "refused", self.now),
        }
        if fails {
            self.lines.remove(&conn);
        }
    }

    fn close(&mut self) {
        let Some(conn) = self.any_line() else { return };
        self.lines.remove(&conn);
        self.session.handle_closed(conn, "closed", self.now);
    }

    fn acknowledge(&mut self, in_v2: bool) {
        let mut frames = Vec::new();
        v1::encode::encode_register_ack(&mut frames, Encoding::Json, Some("bro.gateway"), in_v2.then_some(2));
        if in_v2 {
            v2::encode::name(&mut frames, 0, "user", false);
        }
        self.deliver(&frames, false);
    }

    fn call(&mut self, what: u8) {
        let (json, to) = (self.value(), SERVICES[usize::from(what >> 6)]);
        let call = CallRequest {
            request: if what & 1 == 1 { self.requests.first().copied() } else { None },
            wait_ms: (what & 2 == 2).then_some(1500),
            ..CallRequest::new(to, "get", Payload { encoding: Encoding::Json, bytes: &json })
        };
        if let Ok(id) = self.session.call(call, self.now) {
            assert!(!self.pending.contains(&id), "an id of its own");
            self.pending.push(id);
        }
    }

    fn notify(&mut self, is_for_request: bool) {
        let request = if is_for_request { self.requests.first().copied() } else { None };
        let params = Payload { encoding: Encoding::Json, bytes: b"[1]" };
        // Refused when it is not connected, or too late.
        let _ = self.session.notify(CallRequest { request, ..CallRequest::new("user", "note", params) }, self.now);
    }

    fn cancel(&mut self) {
        let at = usize::from(self.byte());
        if self.pending.is_empty() {
            return;
        }
        let id = self.pending[at % self.pending.len()];
        // Otherwise its event is on the way.
        if self.session.cancel(id, self.now) {
            self.pending.retain(|other| *other != id);
        }
    }

    fn respond(&mut self, with_error: bool) {
        let bytes = self.value();
        let Some(&id) = self.requests.last() else { return };
        let error = ErrorBody::new(ErrorCode::Custom("OUT".into()), String::from_utf8_lossy(&bytes));
        let success = Payload { encoding: Encoding::Json, bytes: &bytes };
        let outcome = if with_error { Outcome::Error(&error) } else { Outcome::Success(success) };
        if self.session.respond(id, outcome, self.now) {
            self.requests.retain(|other| *other != id);
        }
    }

    /// The last call is answered with any bytes.
    fn answer(&mut self, in_msgpack: bool) {
        let payload = self.piece().to_vec();
        let frame = match self.last_asked() {
            None => return,
            Some(Asked::Number(id)) => {
                let mut frame = Vec::new();
                let codec = match (payload.is_empty(), in_msgpack) {
                    (true, _) => 0,
                    (false, false) => 1,
                    (false, true) => 2,
                };
                v2::encode::response_head(&mut frame, id, v2::Codec(codec), payload.len());
                [frame, payload].concat()
            }
            Some(Asked::Text(id)) => {
                let head = format!(r#"{{"type":"RESPONSE","id":"{id}","from":"user","status":"success","data":"#);
                framed(&[head.as_bytes(), &payload, b"}"].concat())
            }
        };
        self.deliver(&frame, false);
    }

    /// It is answered with an error, as by the gateway itself or by a service.
    fn refuse(&mut self) {
        let what = self.byte();
        let codes = [ErrorCode::ServiceNotFound, ErrorCode::ShuttingDown, ErrorCode::Overloaded, ErrorCode::Timeout];
        let error = ErrorBody::new(codes[usize::from(what & 3)].clone(), "no");
        let is_gateways = what & 4 == 0;
        let mut frame = Vec::new();
        match self.last_asked() {
            None => return,
            Some(Asked::Number(id)) => v2::encode::error(&mut frame, id, &error, is_gateways),
            Some(Asked::Text(id)) => {
                let from = if is_gateways { "bro.gateway" } else { "user" };
                let code = codes[usize::from(what & 3)].as_str();
                let body = format!(
                    r#"{{"type":"RESPONSE","id":"{id}","from":"{from}","status":"error","error":{{"code":"{code}","message":"no"}}}}"#
                );
                frame = framed(body.as_bytes());
            }
        }
        self.deliver(&frame, false);
    }

    /// A call of others.
    fn request(&mut self, what: u8) {
        let payload = self.piece().to_vec();
        let conn = self.target();
        self.next_number += 1;
        let number = self.next_number << 32 | 5;
        if self.is_v2(conn) {
            let is_notification = what & 4 == 4;
            let head = v2::encode::CallHead {
                kind: if is_notification { FrameKind::Notify } else { FrameKind::Call },
                id: if is_notification { 0 } else { number },
                origin: number,
                root: number,
                peer: 0,
                timeout_ms: 800,
                codec: v2::Codec(if payload.is_empty() { 0 } else { 1 + (what >> 7) }),
                method: "get",
                section: &[],
            };
            let mut frame = Vec::new();
            v2::encode::call_head(&mut frame, &head, payload.len());
            frame.extend(payload);
            return self.deliver(&frame, false);
        }
        let head = format!(r#"{{"type":"CALL","id":"r{number}","from":"user","to":"order","method":"get","params":"#);
        self.deliver(&framed(&[head.as_bytes(), &payload, b"}"].concat()), false);
    }

    fn give_request_up(&mut self) {
        let mut frame = Vec::new();
        v2::encode::cancel(&mut frame, self.next_number << 32 | 5, v2::CancelReason::Cancelled);
        self.deliver(&frame, false);
    }

    fn offer_lane(&mut self, is_first: bool) {
        let number = 1 + u64::from(self.byte() & 3);
        let mut frame = Vec::new();
        v2::lane::write_offer(&mut frame, number, is_first, SERVICES[usize::try_from(number & 1).expect("a bit")]);
        self.deliver(&frame, false);
    }

    fn say_of_lane(&mut self, what: u8) {
        let number = 1 + u64::from(self.byte() & 3);
        let mut frame = Vec::new();
        match what & 63 {
            43 => v2::encode::bare(&mut frame, FrameKind::LaneReady, number),
            44 => v2::encode::other(&mut frame, FrameKind::LaneClose, number, &[what >> 7]),
            _ => v2::encode::bare(&mut frame, FrameKind::Drain, 0),
        }
        self.deliver(&frame, false);
    }

    /// Any body in a frame.
    fn write_body(&mut self) {
        let body = self.piece().to_vec();
        self.deliver(&framed(&body), false);
    }

    /// The session reads what was written on a line, or the first half of it.
    fn deliver(&mut self, frames: &[u8], only_half: bool) {
        let conn = self.target();
        let Some(line) = self.lines.get_mut(&conn) else { return };
        line.inbox.extend(frames);
        let end = if only_half { line.inbox.len() / 2 } else { line.inbox.len() };
        let chunk: Vec<u8> = line.inbox.drain(..end).collect();
        self.session.handle_bytes(conn, &Bytes::from(chunk), self.now);
    }

    /// What the session wrote on a line is taken, or the first half of it.
    fn take(&mut self, only_half: bool) {
        let conn = self.target();
        let Some(outbound) = self.session.outbound(conn) else { return };
        let count = if only_half { outbound.len() / 2 } else { outbound.len() };
        let taken = outbound.chunk()[..count].to_vec();
        outbound.advance(count);
        if let Some(line) = self.lines.get_mut(&conn) {
            line.read(&taken);
        }
    }

    fn poll(&mut self) {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Connect(conn) => self.add_line(conn),
                Output::LaneOffered { lane, .. } => lane.into_iter().for_each(|lane| self.add_line(lane)),
                // One that was closed by the other side may be closed by this one as well.
                Output::Close { conn, unsent } => {
                    self.lines.remove(&conn).into_iter().for_each(|mut line| line.read(&unsent));
                }
                Output::Event(event) => self.hear(event),
            }
        }
        while self.session.poll_outbound().is_some() {}
    }

    fn add_line(&mut self, conn: ConnId) {
        assert!(self.lines.insert(conn, Line::default()).is_none(), "an id of its own");
    }

    fn hear(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Connected => assert!(!std::mem::replace(&mut self.is_connected, true), "told once"),
            SessionEvent::Disconnected { .. } => assert!(std::mem::take(&mut self.is_connected), "told once"),
            SessionEvent::Registered => self.connect_waits = false,
            SessionEvent::AlreadyConnected => assert!(std::mem::take(&mut self.connect_waits)),
            SessionEvent::ConnectFailed(error) => {
                assert!(std::mem::take(&mut self.connect_waits) && error.code.is_some());
            }
            SessionEvent::Request(request) => {
                assert!(request.from.len() <= 255 && !request.method.is_empty());
                self.check_value(&request.params);
                assert!(!self.requests.contains(&request.id), "an id of its own");
                self.requests.push(request.id);
            }
            SessionEvent::RequestExpired { id, .. } => {
                let at = self.requests.iter().position(|other| *other == id).expect("it was in work");
                self.requests.remove(at);
            }
            SessionEvent::CallDone { id, outcome, .. } => {
                let at = self.pending.iter().position(|other| *other == id).expect("it was pending");
                self.pending.remove(at);
                match outcome {
                    Ok(value) => self.check_value(&value),
                    Err(error) => assert!(error.code.is_some(), "{error:?}"),
                }
            }
            SessionEvent::Drained { .. } => assert!(std::mem::take(&mut self.drain_waits), "someone waited"),
            _ => {}
        }
    }

    /// What is handed out is one well-formed value in the client's own encoding.
    fn check_value(&self, value: &OwnedPayload) {
        if value.bytes.is_empty() {
            return;
        }
        assert_eq!(value.encoding, self.session.config().encoding);
        match value.encoding {
            Encoding::Json => {
                std::str::from_utf8(&value.bytes).expect("JSON is text");
                serde_json::from_slice::<IgnoredAny>(&value.bytes).expect("one value");
            }
            Encoding::Msgpack => {
                let mut rest = &value.bytes[..];
                rmp_serde::from_read::<_, IgnoredAny>(&mut rest).expect("a value");
                assert!(rest.is_empty(), "and nothing behind it");
            }
        }
    }

    fn check(&mut self) {
        let status = self.session.status();
        assert_eq!(status.pending_calls, self.pending.len());
        assert_eq!(status.requests_in_work, self.requests.len());
        assert_eq!(status.connected, self.is_connected);
        assert!(status.waiting_calls <= WAITING_CALLS_MAX && status.requests_in_work <= REQUESTS_MAX);
        let waits = self.connect_waits || self.drain_waits || !self.pending.is_empty() || !self.requests.is_empty();
        assert!(!waits || self.session.wakeup_ms().is_some(), "what waits has a timer");
        for conn in self.lines.keys() {
            let waiting = self.session.outbound(*conn).map_or(0, |outbound| outbound.len());
            assert!(waiting <= QUEUE_BYTES_MAX + REGISTER_BYTES_MAX + SLACK_BYTES, "{waiting} bytes wait");
        }
    }

    fn finish(&mut self) {
        self.poll();
        self.check();
        self.session.disconnect(self.now);
        self.poll();
        self.check();
        assert!(self.pending.is_empty() && self.requests.is_empty(), "all has ended");
        assert!(!self.connect_waits && !self.drain_waits && !self.is_connected);
        let open: Vec<&ConnId> = self.lines.keys().collect();
        assert!(open.iter().all(|conn| conn.is_lane() && !self.lines[conn].is_open), "{open:?} are left");
        assert_eq!((self.session.wakeup_ms(), self.session.status().outbound_bytes), (None, 0));
    }

    /// The line that is talked about: the input says which.
    fn target(&self) -> ConnId {
        let mut open = self.lines.iter().filter(|(_, line)| line.is_open).map(|(conn, _)| *conn);
        let first = self.input.first().map_or(0, |byte| usize::from(byte >> 6));
        open.clone().nth(first).or_else(|| open.next()).unwrap_or_default()
    }

    fn any_line(&self) -> Option<ConnId> {
        let conn = self.target();
        self.lines.get(&conn).filter(|line| line.is_open).map(|_| conn)
    }

    fn is_v2(&self, conn: ConnId) -> bool {
        self.session.speaks_v2(conn)
    }

    fn last_asked(&mut self) -> Option<Asked> {
        self.take(false);
        let conn = self.target();
        self.lines.get(&conn)?.asked.clone()
    }

    fn byte(&mut self) -> u8 {
        take_byte(&mut self.input).unwrap_or(0)
    }

    /// A byte for the length, and so many bytes.
    fn piece(&mut self) -> &[u8] {
        let length = usize::from(self.byte());
        let (piece, rest) = self.input.split_at(length.min(self.input.len()));
        self.input = rest;
        piece
    }

    /// A value of the program's own, which knows how to write one: JSON, or nothing.
    fn value(&mut self) -> Vec<u8> {
        let piece = self.piece();
        let is_value = piece.is_empty() || serde_json::from_slice::<serde_json::Value>(piece).is_ok();
        if is_value { piece.to_vec() } else { b"7".to_vec() }
    }

    fn text(&mut self) -> String {
        String::from_utf8_lossy(self.piece()).into_owned()
    }
}

impl Line {
    /// The session writes whole, well-formed frames only.
    fn read(&mut self, bytes: &[u8]) {
        self.partial.extend(bytes);
        while let Some(prefix) = self.partial.first_chunk::<4>() {
            let end = 4 + u32::from_be_bytes(*prefix) as usize;
            assert!(end <= 4 + REGISTER_BYTES_MAX, "a frame of {end} bytes");
            if self.partial.len() < end {
                return;
            }
            let frame: Vec<u8> = self.partial.drain(..end).collect();
            if v2::is_v2(&frame) {
                if let v2::Frame::Call(call) = v2::parse(&frame).expect("what is sent is well-formed") {
                    self.asked = Some(Asked::Number(call.id));
                }
                continue;
            }
            let header = v1::scan(&frame[4..]).expect("what is sent is well-formed");
            if header.kind == v1::Kind::Call {
                self.asked = header.id.as_ref().map(|id| Asked::Text(id.value.to_string()));
            }
        }
    }
}

fn framed(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("inputs are short");
    [&length.to_be_bytes()[..], body].concat()
}

fn take_byte(input: &mut &[u8]) -> Option<u8> {
    let (&byte, rest) = input.split_first()?;
    *input = rest;
    Some(byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus;

    /// A seed whose connection never comes about leads nowhere.
    #[test]
    fn the_seeds_of_the_session_come_everywhere() {
        let seeds = corpus::own("session").expect("the corpus can be read");
        let played: Vec<Counters> = seeds.iter().map(|seed| play(seed)).collect();
        let sum = |count: fn(&Counters) -> u64| played.iter().map(count).sum::<u64>();
        let came = [
            sum(|counters| counters.registrations),
            sum(|counters| counters.calls),
            sum(|counters| counters.waits),
            sum(|counters| counters.notifications),
            sum(|counters| counters.late_answers),
            sum(|counters| counters.requests),
            sum(|counters| counters.requests_refused),
            sum(|counters| counters.lanes_opened),
            sum(|counters| counters.lanes_lost),
            sum(|counters| counters.connections_lost),
        ];
        assert!(came.iter().all(|count| *count > 0), "{came:?}");
    }
}
