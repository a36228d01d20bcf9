//! One session, a driver that does what it says, and a gateway that does what the test says.

use crate::wire2;
use bro_proto::error::{ErrorBody, ErrorCode};
use bro_proto::time::Now;
use bro_proto::v1::{Encoding, Payload};
use bro_session::{CallId, CallRequest, ConnId, Output, OwnedPayload, Request, Session, SessionConfig, SessionEvent};
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::VecDeque;

pub(crate) const START_MS: u64 = 1_700_000_000_000;

/// Time is virtual; bytes move only in [`Pair::drive`], which every other function calls.
pub(crate) struct Pair {
    pub(crate) session: Session,
    pub(crate) now: Now,
    pub(crate) encoding: Encoding,
    /// Connections that the session asked for and that are not decided on.
    pub(crate) asked: VecDeque<ConnId>,
    /// Frames that the session sent.
    pub(crate) sent: VecDeque<(ConnId, Value)>,
    /// Connections that the session closed, with the frames it still wanted written.
    pub(crate) closed: VecDeque<(ConnId, Vec<Value>)>,
    pub(crate) events: VecDeque<SessionEvent>,
    /// Lanes that were offered.
    pub(crate) offered: VecDeque<(Option<ConnId>, ConnId, bool)>,
    /// Bytes for the other ends of lanes.
    pub(crate) laned: Vec<(ConnId, Vec<u8>)>,
    /// Bytes of frames that are not whole.
    partial: Vec<(ConnId, Vec<u8>)>,
}

pub(crate) fn config() -> SessionConfig {
    SessionConfig { methods: vec!["get".into(), "put".into()], ..SessionConfig::new("order") }
}

impl Pair {
    pub(crate) fn new(config: SessionConfig) -> Self {
        let now = Now { mono_us: 77_000_500, wall_ms: START_MS };
        let encoding = config.encoding;
        let session = Session::new(config, 42, now).expect("the configuration is good");
        Self {
            session,
            now,
            encoding,
            asked: VecDeque::new(),
            sent: VecDeque::new(),
            closed: VecDeque::new(),
            events: VecDeque::new(),
            offered: VecDeque::new(),
            laned: Vec::new(),
            partial: Vec::new(),
        }
    }

    /// A pair whose session is connected, with everything about that already looked at.
    pub(crate) fn connected(config: SessionConfig) -> Self {
        let mut pair = Self::new(config);
        pair.connect();
        pair.accept_all();
        pair.take_event(|event| matches!(event, SessionEvent::Registered));
        pair.events.clear();
        pair.sent.clear();
        pair
    }

    /// As [`Pair::connected`], with a gateway that speaks version 2, and has told the caller `user` as name 0 on every connection.
    pub(crate) fn connected_v2(config: SessionConfig) -> Self {
        let mut pair = Self::new(config);
        pair.connect();
        pair.accept_all_v2();
        pair.take_event(|event| matches!(event, SessionEvent::Registered));
        pair.events.clear();
        pair.sent.clear();
        pair
    }

    pub(crate) fn accept_all_v2(&mut self) -> Vec<ConnId> {
        let conns: Vec<ConnId> = std::iter::from_fn(|| self.accept()).collect();
        for &conn in &conns {
            self.send(conn, &json!({"type": "REGISTER_ACK", "from": "bro.gateway", "bro": {"v": 2}}));
            self.send_bytes(conn, &wire2::name(0, "user"));
        }
        conns
    }

    pub(crate) fn connect(&mut self) {
        self.session.connect(self.now);
        self.drive();
    }

    /// Lets every connection that is asked for come about and acknowledges it.
    pub(crate) fn accept_all(&mut self) -> Vec<ConnId> {
        let conns: Vec<ConnId> = std::iter::from_fn(|| self.accept()).collect();
        for &conn in &conns {
            self.send(conn, &json!({"type": "REGISTER_ACK", "from": "bro.gateway"}));
        }
        conns
    }

    /// Lets the next connection come about; gives its id.
    pub(crate) fn accept(&mut self) -> Option<ConnId> {
        let conn = self.asked.pop_front()?;
        self.session.handle_connected(conn, self.now);
        self.drive();
        Some(conn)
    }

    /// Refuses every connection that is asked for.
    pub(crate) fn refuse_all(&mut self) {
        for conn in std::mem::take(&mut self.asked) {
            self.session.handle_connect_failed(conn, "no gateway at /run/x.sock", self.now);
        }
        self.drive();
    }

    /// The connection at a place of the pool.
    pub(crate) fn conn(&mut self, index: u32) -> ConnId {
        let found =
            (0..100).map(|generation| ConnId { index, generation }).find(|&c| self.session.outbound(c).is_some());
        found.expect("the connection is open")
    }

    pub(crate) fn send(&mut self, conn: ConnId, message: &Value) {
        let frame = frame(self.encoding, message);
        self.send_bytes(conn, &frame);
    }

    pub(crate) fn send_bytes(&mut self, conn: ConnId, bytes: &[u8]) {
        self.session.handle_bytes(conn, &Bytes::copy_from_slice(bytes), self.now);
        self.drive();
    }

    /// The gateway goes away on one connection.
    pub(crate) fn hang_up(&mut self, conn: ConnId) {
        self.session.handle_closed(conn, "closed by the gateway", self.now);
        self.drive();
    }

    /// Lets time pass, stopping at every wakeup.
    pub(crate) fn pass_ms(&mut self, ms: u64) {
        let end = self.now.mono_us + ms * 1000;
        loop {
            let wakeup = self.session.wakeup_ms().map_or(u64::MAX, |ms| ms.saturating_mul(1000)).max(self.now.mono_us);
            let next = wakeup.min(end);
            self.now.wall_ms += next.div_ceil(1000) - self.now.mono_us.div_ceil(1000);
            self.now.mono_us = next;
            self.session.handle_time(self.now);
            self.drive();
            if next == end {
                return;
            }
        }
    }

    pub(crate) fn call(&mut self, to: &str, method: &str, params: &Value) -> Result<CallId, ErrorBody> {
        let params = serde_json::to_vec(params).unwrap();
        let params = Payload { encoding: Encoding::Json, bytes: &params };
        let made = self.session.call(CallRequest::new(to, method, params), self.now);
        self.drive();
        made
    }

    /// Does what the session says.
    pub(crate) fn drive(&mut self) {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Connect(conn) => self.asked.push_back(conn),
                Output::Close { conn, unsent } if conn.is_lane() => {
                    self.laned.push((conn, unsent));
                    self.closed.push_back((conn, Vec::new()));
                }
                Output::Close { conn, unsent } => {
                    self.asked.retain(|&asked| asked != conn);
                    self.partial.retain(|(id, _)| *id != conn);
                    self.closed.push_back((conn, split_frames(&unsent, self.encoding).0));
                }
                Output::LaneOffered { lane, via, is_first } => self.offered.push_back((lane, via, is_first)),
                Output::Event(event) => self.events.push_back(event),
            }
        }
        while let Some(conn) = self.session.poll_outbound() {
            let outbound = self.session.outbound(conn).expect("named a moment ago");
            let bytes = outbound.chunk().to_vec();
            outbound.advance(bytes.len());
            if conn.is_lane() {
                self.laned.push((conn, bytes));
                continue;
            }
            let index = self.partial.iter().position(|(id, _)| *id == conn).unwrap_or_else(|| {
                self.partial.push((conn, Vec::new()));
                self.partial.len() - 1
            });
            self.partial[index].1.extend(bytes);
            let (frames, used) = split_frames(&self.partial[index].1, self.encoding);
            self.partial[index].1.drain(..used);
            self.sent.extend(frames.into_iter().map(|frame| (conn, frame)));
        }
    }

    pub(crate) fn next_sent(&mut self) -> (ConnId, Value) {
        self.sent.pop_front().expect("the session sent something")
    }

    pub(crate) fn next_event(&mut self) -> SessionEvent {
        self.events.pop_front().expect("something happened")
    }

    /// The first event that matches; those before it are dropped.
    pub(crate) fn take_event(&mut self, wanted: impl Fn(&SessionEvent) -> bool) -> SessionEvent {
        while let Some(event) = self.events.pop_front() {
            if wanted(&event) {
                return event;
            }
        }
        panic!("no such event");
    }

    pub(crate) fn next_request(&mut self) -> Request {
        match self.take_event(|event| matches!(event, SessionEvent::Request(_))) {
            SessionEvent::Request(request) => request,
            _ => unreachable!("just matched"),
        }
    }

    pub(crate) fn next_done(&mut self) -> (CallId, Result<OwnedPayload, ErrorBody>) {
        match self.take_event(|event| matches!(event, SessionEvent::CallDone { .. })) {
            SessionEvent::CallDone { id, outcome, .. } => (id, outcome),
            _ => unreachable!("just matched"),
        }
    }
}

/// The code of an error, for comparing.
pub(crate) fn code<T: std::fmt::Debug>(outcome: Result<T, ErrorBody>) -> ErrorCode {
    outcome.expect_err("it failed").code.expect("it has a code")
}

/// A frame written without the code under test.
pub(crate) fn frame(encoding: Encoding, message: &Value) -> Vec<u8> {
    let body = match encoding {
        Encoding::Json => serde_json::to_vec(message).unwrap(),
        Encoding::Msgpack => rmp_serde::to_vec_named(message).unwrap(),
    };
    let mut frame = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    frame.extend(body);
    frame
}

pub(crate) fn payload_value(payload: &OwnedPayload) -> Value {
    read_value(&payload.bytes, payload.encoding)
}

/// The whole frames in `bytes`, read without the code under test, and how many bytes they have.
pub(crate) fn split_frames(bytes: &[u8], encoding: Encoding) -> (Vec<Value>, usize) {
    let mut frames = Vec::new();
    let mut used = 0;
    while let Some(prefix) = bytes[used..].first_chunk::<4>() {
        let end = used + 4 + u32::from_be_bytes(*prefix) as usize;
        let Some(body) = bytes.get(used + 4..end) else { break };
        frames.push(if body.first() == Some(&0xb2) { wire2::read(body) } else { read_value(body, encoding) });
        used = end;
    }
    (frames, used)
}

fn read_value(bytes: &[u8], encoding: Encoding) -> Value {
    match encoding {
        Encoding::Json => serde_json::from_slice(bytes).unwrap(),
        Encoding::Msgpack => rmp_serde::from_slice(bytes).unwrap(),
    }
}
