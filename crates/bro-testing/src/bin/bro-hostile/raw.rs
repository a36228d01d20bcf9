//! A connection that sends whatever it wants.

use crate::scene::Scene;
use bro_proto::v2::{self, Frame, FrameKind, encode};
use bro_testing::codec::frame;
use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long something that the gateway does at once may take before that counts as a broken promise.
pub(crate) const WAIT: Duration = Duration::from_secs(20);
/// How long a flood waits for room in the socket before it looks around.
const SEND_WAIT: Duration = Duration::from_millis(20);

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A frame with its prefix.
    Frame(Vec<u8>),
    Closed,
    Silence,
}

/// A connection without manners.
pub(crate) struct Raw {
    pub(crate) stream: UnixStream,
    inbound: Vec<u8>,
    /// What the socket has not taken yet; whole frames stay whole.
    unsent: Vec<u8>,
}

impl Raw {
    /// Connects, and says nothing.
    pub(crate) fn connect(scene: &Scene) -> Raw {
        Raw::try_connect(scene).expect("the gateway accepts")
    }

    pub(crate) fn try_connect(scene: &Scene) -> std::io::Result<Raw> {
        let stream = UnixStream::connect(scene.path())?;
        stream.set_write_timeout(Some(SEND_WAIT))?;
        Ok(Raw { stream, inbound: Vec::new(), unsent: Vec::new() })
    }

    /// Registers as an old program.
    pub(crate) fn registered(scene: &Scene, name: &str) -> Raw {
        Raw::registered_with(scene, name, json!({}))
    }

    /// Registers and speaks version 2.
    pub(crate) fn registered_v2(scene: &Scene, name: &str) -> Raw {
        Raw::registered_with(scene, name, json!({ "bro": { "v": 2 } }))
    }

    pub(crate) fn registered_with(scene: &Scene, name: &str, metadata: Value) -> Raw {
        let mut raw = Raw::connect(scene);
        raw.send_json(&register(name, metadata));
        let ack = raw.hear_json();
        assert_eq!(ack["type"], "REGISTER_ACK", "{ack}");
        raw
    }

    /// Sends, unless the socket is full: then what is left goes first the next time. Whether the connection is still open.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.unsent.extend_from_slice(bytes);
        self.flush()
    }

    /// Whether all was taken that was sent.
    pub(crate) fn is_flushed(&self) -> bool {
        self.unsent.is_empty()
    }

    /// Sends what is left. Whether the connection is still open.
    pub(crate) fn flush(&mut self) -> bool {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(len) => drop(self.unsent.drain(..len)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            }
        }
        true
    }

    pub(crate) fn send_json(&mut self, value: &Value) -> bool {
        self.send(&frame(value.to_string().as_bytes()))
    }

    /// The next frame, or what came instead of it within `wait`. Without any, only looks.
    pub(crate) fn hear(&mut self, wait: Duration) -> Heard {
        let deadline = Instant::now() + wait;
        loop {
            if let Some(frame) = self.take_frame() {
                return Heard::Frame(frame);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            // The kernel rounds waits up to its ticks, which is too long for a look.
            let is_look = left.is_zero();
            if is_look {
                self.stream.set_nonblocking(true).expect("a socket");
            } else {
                self.stream.set_read_timeout(Some(left)).expect("a socket takes a timeout");
            }
            let mut chunk = [0; 64 * 1024];
            let outcome = self.stream.read(&mut chunk);
            if is_look {
                self.stream.set_nonblocking(false).expect("a socket");
            }
            match outcome {
                Ok(0) => return Heard::Closed,
                Ok(len) => self.inbound.extend_from_slice(&chunk[..len]),
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock | ErrorKind::TimedOut if !is_look => {}
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return Heard::Silence,
                    _ => return Heard::Closed,
                },
            }
        }
    }

    fn take_frame(&mut self) -> Option<Vec<u8>> {
        let end = 4 + u32::from_be_bytes(*self.inbound.first_chunk()?) as usize;
        (self.inbound.len() >= end).then(|| self.inbound.drain(..end).collect())
    }

    /// The next frame, which must be one of version 1 in JSON.
    pub(crate) fn hear_json(&mut self) -> Value {
        match self.hear(WAIT) {
            Heard::Frame(frame) => serde_json::from_slice(&frame[4..]).expect("the gateway sends JSON"),
            other => panic!("a frame was expected: {other:?}"),
        }
    }

    /// The next frame of that kind of version 2; others are passed over.
    pub(crate) fn hear_kind(&mut self, kind: FrameKind) -> Vec<u8> {
        loop {
            match self.hear(WAIT) {
                Heard::Frame(frame) if frame[4] == v2::MARK && frame[5] == kind as u8 => return frame,
                Heard::Frame(_) => {}
                other => panic!("{kind:?} was expected: {other:?}"),
            }
        }
    }

    /// Throws away what has come. Whether the connection is still open.
    pub(crate) fn drain(&mut self) -> bool {
        self.inbound.clear();
        self.stream.set_nonblocking(true).expect("a socket");
        let mut chunk = [0; 64 * 1024];
        let is_open = loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => break false,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break false,
            }
        };
        self.stream.set_nonblocking(false).expect("a socket");
        is_open
    }

    /// The code of the ERROR with which the connection ends. Panics when it stays open.
    pub(crate) fn end(&mut self) -> String {
        let mut code = "no reason".to_owned();
        loop {
            match self.hear(WAIT) {
                Heard::Frame(frame) => {
                    code = code_of(&frame).unwrap_or(code);
                }
                Heard::Closed => return code,
                Heard::Silence => panic!("the connection should be closed"),
            }
        }
    }

    /// Waits for the answer to a `ping` of the gateway's: all that was sent before has been looked at. Version 1.
    pub(crate) fn settle(&mut self) {
        self.send_json(&call("settle", "x", "bro.gateway", "ping", json!({})));
        while self.hear_json()["id"] != "settle" {}
    }

    /// Binds a route. Version 2.
    pub(crate) fn resolve(&mut self, route: u32, service: &str) {
        let mut out = Vec::new();
        encode::resolve(&mut out, route, service);
        self.send(&out);
    }
}

/// The code of an ERROR or a failed RESPONSE of version 1.
pub(crate) fn code_of(frame: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(&frame[4..]).ok()?;
    Some(value["error"]["code"].as_str()?.to_owned())
}

/// A REGISTER.
pub(crate) fn register(name: &str, metadata: Value) -> Value {
    json!({ "type": "REGISTER", "serviceName": name, "methods": ["echo"], "metadata": metadata })
}

/// A CALL of version 1 that names whom it wants as its sender.
pub(crate) fn call(id: &str, from: &str, to: &str, method: &str, params: Value) -> Value {
    json!({ "type": "CALL", "id": id, "from": from, "to": to, "method": method, "params": params })
}

/// A successful RESPONSE of version 1.
pub(crate) fn response(id: &Value, from: &str, to: &str, data: Value) -> Value {
    json!({ "type": "RESPONSE", "id": id, "from": from, "to": to, "status": "success", "data": data })
}

/// A CALL or NOTIFY of version 2 on route 0, with a payload of JSON.
pub(crate) fn call_v2(kind: FrameKind, id: u64, parent: u64, timeout_ms: u32, payload: &[u8]) -> Vec<u8> {
    let head = encode::CallHead {
        kind,
        id,
        origin: parent,
        root: 0,
        peer: 0,
        timeout_ms,
        method: "echo",
        section: &[],
        codec: v2::Codec::JSON,
    };
    let mut out = Vec::new();
    encode::call_head(&mut out, &head, payload.len());
    out.extend_from_slice(payload);
    out
}

/// A RESPONSE of version 2.
pub(crate) fn response_v2(id: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::response_head(&mut out, id, v2::Codec::JSON, payload.len());
    out.extend_from_slice(payload);
    out
}

/// The number by which a call must be answered.
pub(crate) fn number_of(frame: &[u8]) -> u64 {
    match v2::parse(frame) {
        Ok(Frame::Call(call)) => call.id,
        other => panic!("a CALL was expected: {other:?}"),
    }
}
