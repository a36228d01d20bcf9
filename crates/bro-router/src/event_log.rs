//! The last events as JSON texts, kept only while somebody watches.

#[path = "state/event_log.rs"]
mod state;

use crate::event::{CloseReason, Event};
use crate::outbox::PeerId;
use bro_proto::limits::{EVENT_LOG_BYTES_MAX, EVENT_LOG_LEN_MAX, WATCH_LEASE_MS};
use bro_proto::v1::Status;
use bro_proto::v1::encode::write_json_string;
use std::collections::VecDeque;

/// A ring of events, each with a sequence number. It records while a watcher's lease lasts.
#[derive(Debug, Default)]
pub(crate) struct EventLog {
    /// JSON objects, oldest first.
    entries: VecDeque<Box<str>>,
    /// Sum of the lengths of `entries`.
    bytes: usize,
    /// The number of the next event. The oldest one held has `next_seq - entries.len()`.
    next_seq: u64,
    /// Monotonic milliseconds until which a watcher counts as watching.
    lease_until_ms: u64,
    is_recording: bool,
    scratch: Vec<u8>,
}

/// What a watcher gets.
pub(crate) struct Batch<'a> {
    /// To be handed in at the next poll.
    pub(crate) cursor: u64,
    /// Events between the watcher's cursor and the first one here that are no longer held.
    pub(crate) dropped: u64,
    pub(crate) entries: std::collections::vec_deque::Iter<'a, Box<str>>,
}

impl EventLog {
    pub(crate) fn is_recording(&self) -> bool {
        self.is_recording
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Monotonic milliseconds until which a watcher counts as watching.
    pub(crate) fn lease_until_ms(&self) -> u64 {
        self.lease_until_ms
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The cursor of somebody who has seen everything.
    pub(crate) fn cursor(&self) -> u64 {
        self.next_seq
    }

    /// Somebody watches. Returns when the lease ends if it has to be timed anew.
    pub(crate) fn renew_lease(&mut self, now_ms: u64) -> Option<u64> {
        self.lease_until_ms = now_ms.saturating_add(WATCH_LEASE_MS);
        let is_new = !self.is_recording;
        self.is_recording = true;
        is_new.then_some(self.lease_until_ms)
    }

    /// The lease timer fired, while nobody is parked: ends the recording, or says when to look again.
    pub(crate) fn end_lease(&mut self, now_ms: u64) -> Option<u64> {
        if self.lease_until_ms > now_ms {
            return Some(self.lease_until_ms);
        }
        self.is_recording = false;
        self.entries = VecDeque::new();
        self.scratch = Vec::new();
        self.bytes = 0;
        // What happens from now on has no numbers: a watcher that comes back must see that something is missing.
        self.next_seq += 1;
        None
    }

    /// The events from `cursor` on, at most `max`, and those that are gone.
    pub(crate) fn since(&self, cursor: u64, max: usize) -> Batch<'_> {
        // A cursor from the future is that of an earlier gateway: start anew.
        let cursor = if cursor > self.next_seq { self.next_seq } else { cursor };
        let oldest = self.next_seq - self.entries.len() as u64;
        let first = cursor.max(oldest);
        let start = usize::try_from(first - oldest).expect("at most the length");
        let end = self.entries.len().min(start.saturating_add(max));
        let entries = self.entries.range(start..end);
        Batch { cursor: first + entries.len() as u64, dropped: first - cursor, entries }
    }

    pub(crate) fn push(&mut self, event: &Event<'_>, wall_ms: u64) {
        let mut text = std::mem::take(&mut self.scratch);
        text.clear();
        write_event(&mut text, self.next_seq, wall_ms, event);
        let entry: Box<str> = std::str::from_utf8(&text).expect("JSON is UTF-8").into();
        self.scratch = text;
        self.next_seq += 1;
        self.bytes += entry.len();
        self.entries.push_back(entry);
        while self.entries.len() > EVENT_LOG_LEN_MAX || self.bytes > EVENT_LOG_BYTES_MAX {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.len();
        }
    }
}

fn write_event(out: &mut Vec<u8>, seq: u64, wall_ms: u64, event: &Event<'_>) {
    let mut object = Object { out };
    object.open(seq, wall_ms);
    match event {
        Event::Connection { peer, pid } => {
            object.string("event", "connection");
            object.peer(*peer);
            if let Some(pid) = pid {
                object.number("pid", u64::from(*pid));
            }
        }
        Event::Closed { peer, service, reason } => {
            object.string("event", "connection-closed");
            object.peer(*peer);
            object.optional("serviceName", *service);
            object.reason(*reason);
        }
        Event::ServiceRegistered { service, methods, version, metadata_json } => {
            object.string("event", "service-registered");
            object.string("serviceName", service);
            object.strings("methods", methods);
            object.optional("version", *version);
            object.json("metadata", if metadata_json.is_empty() { "{}" } else { metadata_json });
        }
        Event::ServiceDisconnected { service, reason } => {
            object.string("event", "service-disconnected");
            object.string("serviceName", service);
            object.reason(*reason);
        }
        Event::CallRouted { from, to, method, request_id, context_json } => {
            object.string("event", "call-routed");
            object.string("from", from);
            object.string("to", to);
            object.string("method", method);
            object.string("requestId", request_id);
            object.json("context", context_json);
        }
        Event::ResponseRouted { from, to, method, status, request_id, gateway_code, elapsed_us } => {
            object.string("event", "response-routed");
            object.string("from", from);
            object.string("to", to);
            object.string("method", method);
            object.string("status", if *status == Status::Success { "success" } else { "error" });
            object.string("requestId", request_id);
            object.optional("gatewayCode", gateway_code.as_ref().map(|code| code.as_str()));
            object.number("elapsedUs", *elapsed_us);
        }
        Event::Warning { peer, service, message } => {
            object.string("event", "warning");
            if let Some(peer) = peer {
                object.peer(*peer);
            }
            object.optional("serviceName", *service);
            object.string("message", message);
        }
    }
    object.out.push(b'}');
}

/// A JSON object being written.
struct Object<'a> {
    out: &'a mut Vec<u8>,
}

impl Object<'_> {
    fn open(&mut self, seq: u64, wall_ms: u64) {
        self.out.extend_from_slice(format!("{{\"seq\":{seq},\"time\":{wall_ms}").as_bytes());
    }

    fn key(&mut self, key: &str) {
        self.out.extend_from_slice(b",\"");
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn string(&mut self, key: &str, value: &str) {
        self.key(key);
        write_json_string(self.out, value);
    }

    fn optional(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.string(key, value);
        }
    }

    fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        self.out.extend_from_slice(value.to_string().as_bytes());
    }

    fn json(&mut self, key: &str, value: &str) {
        self.key(key);
        self.out.extend_from_slice(value.as_bytes());
    }

    fn strings(&mut self, key: &str, values: &[Box<str>]) {
        self.key(key);
        write_json_strings(self.out, values);
    }

    fn reason(&mut self, reason: CloseReason) {
        self.string("reason", reason.as_str());
    }

    fn peer(&mut self, peer: PeerId) {
        self.string("connection", &format!("{}.{}", peer.slot, peer.generation));
    }
}

/// Appends an array of strings.
pub(crate) fn write_json_strings(out: &mut Vec<u8>, values: &[Box<str>]) {
    out.push(b'[');
    for (at, value) in values.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_json_string(out, value);
    }
    out.push(b']');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warning(log: &mut EventLog, message: &str) {
        log.push(&Event::Warning { peer: None, service: None, message }, 5);
    }

    #[test]
    fn a_cursor_sees_every_event_once_and_learns_what_is_gone() {
        let mut log = EventLog::default();
        assert_eq!(log.renew_lease(0), Some(WATCH_LEASE_MS));
        let start = log.cursor();
        for number in 0..10 {
            warning(&mut log, &number.to_string());
        }
        let first = log.since(start, 4);
        assert_eq!((first.cursor, first.dropped, first.entries.len()), (start + 4, 0, 4));
        let rest = log.since(first.cursor, 100);
        assert_eq!((rest.cursor, rest.dropped, rest.entries.len()), (start + 10, 0, 6));
        for _ in 0..EVENT_LOG_LEN_MAX {
            warning(&mut log, "more");
        }
        let late = log.since(start, 1);
        assert_eq!((late.dropped, late.cursor), (10, start + 11));
        assert_eq!(log.since(u64::MAX, 10).entries.len(), 0);
    }

    #[test]
    fn bytes_are_bounded_too() {
        let mut log = EventLog::default();
        log.renew_lease(0);
        let long = "x".repeat(1 << 20);
        for _ in 0..40 {
            warning(&mut log, &long);
        }
        assert!(log.bytes() <= EVENT_LOG_BYTES_MAX && log.len() >= 15, "{} bytes", log.bytes());
    }

    #[test]
    fn an_ended_lease_forgets_and_shows_the_gap() {
        let mut log = EventLog::default();
        log.renew_lease(0);
        warning(&mut log, "seen");
        let cursor = log.since(0, 10).cursor;
        assert_eq!(log.end_lease(WATCH_LEASE_MS - 1), Some(WATCH_LEASE_MS));
        assert_eq!(log.end_lease(WATCH_LEASE_MS), None);
        assert!(!log.is_recording() && log.len() == 0 && log.bytes() == 0);
        log.renew_lease(100_000);
        assert_eq!(log.since(cursor, 10).dropped, 1);
    }

    #[test]
    fn entries_are_json_objects() {
        let mut log = EventLog::default();
        log.push(
            &Event::ResponseRouted {
                from: "a\"b",
                to: "c",
                method: "m",
                status: Status::Error,
                request_id: "r",
                gateway_code: Some(bro_proto::ErrorCode::Timeout),
                elapsed_us: 7,
            },
            9,
        );
        let text = log.since(0, 1).entries.next().unwrap().to_string();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["from"], "a\"b");
        assert_eq!(value["gatewayCode"], "TIMEOUT");
        assert_eq!(value["event"], "response-routed");
        assert_eq!((value["seq"].as_u64(), value["time"].as_u64()), (Some(0), Some(9)));
    }
}
