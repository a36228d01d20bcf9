//! An old v1 program over a blocking socket.

use crate::codec::{self, Encoding};
use serde_json::{Map, Value, json};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a program waits for the next frame before that counts as a hang.
const RECEIVE_WAIT: Duration = Duration::from_secs(120);
/// How long the calls of an old program live, in milliseconds, unless the test says otherwise.
const CALL_TIMEOUT_MS: u64 = 120_000;
/// Times after which calls that are to time out do so, in milliseconds, one after the other: on a slow machine the first ones may be over before
/// the gateway has seen the call.
const SHORT_TIMEOUTS_MS: [u64; 5] = [50, 250, 1000, 5000, 30_000];

/// Why no frame was received.
#[derive(Debug, PartialEq, Eq)]
pub enum ReceiveError {
    /// The other side closed the connection.
    Closed,
    /// Nothing came in the time that was allowed.
    Silence,
}

/// An old v1 program: connects, registers, calls, answers. Every method that waits panics when nothing comes.
#[derive(Debug)]
pub struct V1Peer {
    stream: UnixStream,
    encoding: Encoding,
    name: String,
    calls: u64,
    /// Bytes that arrived and are not yet taken as frames.
    inbound: Vec<u8>,
}

impl V1Peer {
    /// Connects without registering.
    pub fn connect(path: &Path, encoding: Encoding) -> V1Peer {
        V1Peer::try_connect(path, encoding).unwrap_or_else(|error| panic!("cannot connect to {path:?}: {error}"))
    }

    /// Connects without registering, if somebody listens.
    pub fn try_connect(path: &Path, encoding: Encoding) -> std::io::Result<V1Peer> {
        let stream = UnixStream::connect(path)?;
        stream.set_write_timeout(Some(RECEIVE_WAIT))?;
        Ok(V1Peer { stream, encoding, name: String::new(), calls: 0, inbound: Vec::new() })
    }

    /// Connects and registers.
    pub fn register(path: &Path, encoding: Encoding, name: &str, methods: &[&str]) -> V1Peer {
        let mut peer = V1Peer::connect(path, encoding);
        peer.send_register(name, methods, json!({}));
        peer.expect_ack();
        peer
    }

    /// Connects and registers as one connection of a pool.
    pub fn register_pooled(
        path: &Path,
        encoding: Encoding,
        name: &str,
        methods: &[&str],
        index: u32,
        size: u32,
    ) -> V1Peer {
        let mut peer = V1Peer::connect(path, encoding);
        peer.send_register(name, methods, json!({ "poolIndex": index, "poolSize": size }));
        peer.expect_ack();
        peer
    }

    /// The name it registered under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it speaks.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Sends REGISTER without waiting for the answer.
    pub fn send_register(&mut self, name: &str, methods: &[&str], metadata: Value) {
        name.clone_into(&mut self.name);
        self.send(&json!({
            "type": "REGISTER", "serviceName": name, "methods": methods, "version": "1.0.0", "metadata": metadata
        }));
    }

    /// Registers, when the other side may refuse or have closed already: what it said instead.
    pub fn try_register(&mut self, name: &str, methods: &[&str]) -> Result<(), Value> {
        self.name = name.to_owned();
        let register = json!({
            "type": "REGISTER", "serviceName": name, "methods": methods, "version": "1.0.0", "metadata": {}
        });
        self.try_send(&register).map_err(|error| json!(error.to_string()))?;
        match self.try_receive_any(RECEIVE_WAIT) {
            Ok((_, answer)) if answer["type"] == "REGISTER_ACK" => Ok(()),
            Ok((_, answer)) => Err(answer),
            Err(error) => Err(json!(format!("{error:?}"))),
        }
    }

    /// Takes the REGISTER_ACK, which must be next.
    pub fn expect_ack(&mut self) {
        let ack = self.receive();
        assert_eq!(ack["type"], "REGISTER_ACK", "{ack}");
    }

    /// Sends a message.
    pub fn send(&mut self, value: &Value) {
        self.send_body(&codec::encode(self.encoding, value));
    }

    /// Sends a message; the other side may have closed already.
    pub fn try_send(&mut self, value: &Value) -> std::io::Result<()> {
        self.try_send_bytes(&codec::frame(&codec::encode(self.encoding, value)))
    }

    /// Sends a body as it is, behind its length.
    pub fn send_body(&mut self, body: &[u8]) {
        self.send_bytes(&codec::frame(body));
    }

    /// Sends bytes as they are, without a prefix.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.try_send_bytes(bytes).expect("the other side takes what is sent");
    }

    /// Sends bytes as they are; the other side may have closed already.
    pub fn try_send_bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a HEARTBEAT.
    pub fn heartbeat(&mut self) {
        self.try_heartbeat().expect("the other side takes what is sent");
    }

    /// Sends a HEARTBEAT; the other side may have closed already.
    pub fn try_heartbeat(&mut self) -> std::io::Result<()> {
        let from = self.name.clone();
        self.try_send(&json!({ "type": "HEARTBEAT", "from": from, "timestamp": now_ms() }))
    }

    /// Another handle of the same connection, to write on another thread.
    pub fn writer(&self) -> V1Peer {
        let stream = self.stream.try_clone().expect("a socket can be cloned");
        V1Peer { stream, encoding: self.encoding, name: self.name.clone(), calls: 0, inbound: Vec::new() }
    }

    /// Ends the connection at once, whatever other handles there are.
    pub fn close(self) {
        let _ = self.stream.shutdown(Shutdown::Both); // the other side may have been first
    }

    /// The next message, which must be in this program's own encoding: an old program understands no other.
    pub fn receive(&mut self) -> Value {
        self.try_receive(RECEIVE_WAIT).unwrap_or_else(|error| panic!("{} waits for a frame: {error:?}", self.name))
    }

    /// The next message, if one comes within `wait`.
    pub fn try_receive(&mut self, wait: Duration) -> Result<Value, ReceiveError> {
        let (encoding, value) = self.try_receive_any(wait)?;
        assert_eq!(encoding, self.encoding, "a frame in the wrong encoding: {value}");
        Ok(value)
    }

    /// The next message in either encoding, if one comes within `wait`.
    pub fn try_receive_any(&mut self, wait: Duration) -> Result<(Encoding, Value), ReceiveError> {
        let body = self.receive_body(wait)?;
        Ok(codec::decode(&body).unwrap_or_else(|error| panic!("undecodable frame: {error}: {:?}", preview(&body))))
    }

    /// Makes the context of a first call, as the old library does: it appends the caller, not the callee.
    pub fn old_context(&self, timeout_ms: u64) -> Value {
        json!({
            "root": format!("root-{}-{:06}", now_ms(), self.calls), "chain": [self.name, self.name], "depth": 2,
            "deadline": now_ms() + timeout_ms
        })
    }

    /// Sends a CALL with a context and an id of its own; returns the id.
    pub fn start_call(&mut self, to: &str, method: &str, params: Value) -> String {
        let context = self.old_context(CALL_TIMEOUT_MS);
        self.start_call_with(to, method, params, context)
    }

    /// Sends a CALL with this context; returns its id.
    pub fn start_call_with(&mut self, to: &str, method: &str, params: Value, context: Value) -> String {
        self.calls += 1;
        let id = format!("req-{}-{:06}", now_ms(), self.calls);
        self.send_call(&id, to, method, params, context);
        id
    }

    /// Sends a CALL with this id and this context.
    pub fn send_call(&mut self, id: &str, to: &str, method: &str, params: Value, context: Value) {
        let from = self.name.clone();
        self.send(&json!({
            "type": "CALL", "id": id, "from": from, "to": to, "method": method, "params": params, "context": context
        }));
    }

    /// Makes a call that will time out, and not before the gateway has passed it on: `send` sends it with the time that it is given in milliseconds,
    /// and says its id. The id of the one that was passed on; whatever comes to this peer is received after this as usual.
    pub fn start_short_call(&mut self, mut send: impl FnMut(&mut V1Peer, u64) -> String) -> String {
        for timeout_ms in SHORT_TIMEOUTS_MS {
            let id = send(self, timeout_ms);
            let asked = self.start_call("bro.gateway", "ping", json!({}));
            let (mut came, mut is_refused) = (Vec::new(), false);
            loop {
                let frame = self.receive();
                if frame["id"] == asked {
                    break;
                }
                // Its time was over when it was read.
                if frame["id"] == id && frame["error"]["code"] == "DEADLINE_EXCEEDED" {
                    is_refused = true;
                } else {
                    came.extend(codec::frame(&codec::encode(self.encoding, &frame)));
                }
            }
            self.inbound.splice(0..0, came);
            if !is_refused {
                return id;
            }
        }
        panic!("no call is passed on within {SHORT_TIMEOUTS_MS:?} ms")
    }

    /// Calls and waits for the RESPONSE, which must be the next frame.
    pub fn call(&mut self, to: &str, method: &str, params: Value) -> Value {
        let id = self.start_call(to, method, params);
        self.expect_response(&id)
    }

    /// Takes the next frame, which must be the RESPONSE to `id`.
    pub fn expect_response(&mut self, id: &str) -> Value {
        let response = self.receive();
        assert_eq!((&response["type"], &response["id"]), (&json!("RESPONSE"), &json!(id)), "{response}");
        response
    }

    /// Takes the next frame, which must be a successful RESPONSE to `id`; returns its `data`.
    pub fn expect_success(&mut self, id: &str) -> Value {
        let mut response = self.expect_response(id);
        assert_eq!(response["status"], "success", "{response}");
        response["data"].take()
    }

    /// Takes the next frame, which must be a failed RESPONSE to `id` with that code.
    pub fn expect_failure(&mut self, id: &str, code: &str) -> Value {
        let response = self.expect_response(id);
        assert_eq!((&response["status"], &response["error"]["code"]), (&json!("error"), &json!(code)), "{response}");
        assert!(response["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{response}");
        response
    }

    /// Takes the next frame, which must be a CALL.
    pub fn expect_call(&mut self) -> Value {
        let call = self.receive();
        assert_eq!(call["type"], "CALL", "{call}");
        call
    }

    /// Answers `call` with success.
    pub fn respond(&mut self, call: &Value, data: Value) {
        let response = self.response_to(call, "success", "data", data);
        self.send(&response);
    }

    /// Answers `call` with a result or an error object; the other side may have closed already.
    pub fn try_respond(&mut self, call: &Value, outcome: Result<Value, Value>) -> std::io::Result<()> {
        let response = match outcome {
            Ok(data) => self.response_to(call, "success", "data", data),
            Err(error) => self.response_to(call, "error", "error", error),
        };
        self.try_send(&response)
    }

    /// Answers `call` with an error object.
    pub fn respond_error(&mut self, call: &Value, error: Value) {
        let response = self.response_to(call, "error", "error", error);
        self.send(&response);
    }

    /// Asserts that everything the gateway sent so far has been received: what it answers now must be the next frame.
    pub fn expect_nothing_before_now(&mut self) {
        let id = self.start_call("bro.gateway", "ping", json!({}));
        self.expect_success(&id);
    }

    /// Takes an ERROR frame in either encoding, and then the end of the connection.
    pub fn expect_error_and_close(&mut self, code: &str) -> Value {
        let (_, error) = self
            .try_receive_any(RECEIVE_WAIT)
            .unwrap_or_else(|outcome| panic!("an ERROR frame with {code} was expected: {outcome:?}"));
        assert_eq!((&error["type"], &error["error"]["code"]), (&json!("ERROR"), &json!(code)), "{error}");
        assert!(error["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{error}");
        assert!(error["timestamp"].as_f64().is_some_and(|ms| ms > 1e12), "milliseconds since 1970: {error}");
        self.expect_close();
        error
    }

    /// Asserts that the connection ends, and that no frame comes before that.
    pub fn expect_close(&mut self) {
        match self.receive_body(RECEIVE_WAIT) {
            Err(ReceiveError::Closed) => {}
            Err(ReceiveError::Silence) => panic!("the connection should be closed, it is only silent"),
            Ok(body) => panic!("the connection should be closed, but a frame came: {:?}", preview(&body)),
        }
    }

    /// Serves calls on a thread of its own until the returned handle is dropped.
    pub fn serve(mut self, mut handler: impl FnMut(&Value) -> Result<Value, Value> + Send + 'static) -> Service {
        let control = self.stream.try_clone().expect("a socket can be cloned");
        let thread = thread::spawn(move || {
            while let Ok(body) = self.receive_body(Duration::MAX) {
                let (_, call) = codec::decode(&body).expect("the gateway sends what can be decoded");
                if call["type"] != "CALL" {
                    continue;
                }
                let response = match handler(&call) {
                    Ok(data) => self.response_to(&call, "success", "data", data),
                    Err(error) => self.response_to(&call, "error", "error", error),
                };
                if self.try_send(&response).is_err() {
                    return;
                }
            }
        });
        Service { control, thread: Some(thread) }
    }

    fn response_to(&self, call: &Value, status: &str, field: &str, value: Value) -> Value {
        let mut response = Map::new();
        for (key, value) in [
            ("type", json!("RESPONSE")),
            ("id", call["id"].clone()),
            ("from", json!(self.name)),
            ("to", call["from"].clone()),
            ("status", json!(status)),
            (field, value),
            ("context", call["context"].clone()),
        ] {
            response.insert(key.to_owned(), value);
        }
        Value::Object(response)
    }

    /// The body of the next frame.
    fn receive_body(&mut self, wait: Duration) -> Result<Vec<u8>, ReceiveError> {
        self.stream.set_read_timeout((wait != Duration::MAX).then_some(wait)).expect("a socket takes a timeout");
        loop {
            if let Some(prefix) = self.inbound.first_chunk::<4>() {
                let end = 4 + u32::from_be_bytes(*prefix) as usize;
                if self.inbound.len() >= end {
                    let body = self.inbound[4..end].to_vec();
                    self.inbound.drain(..end);
                    return Ok(body);
                }
            }
            let mut chunk = [0; 64 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(ReceiveError::Closed),
                Ok(len) => self.inbound.extend_from_slice(&chunk[..len]),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return Err(ReceiveError::Silence),
                    ErrorKind::Interrupted => {}
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => return Err(ReceiveError::Closed),
                    _ => panic!("reading failed: {error}"),
                },
            }
        }
    }
}

/// A [`V1Peer`] that answers calls on a thread. Dropping it ends its connection.
#[derive(Debug)]
pub struct Service {
    control: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.control.shutdown(Shutdown::Both);
        let outcome = self.thread.take().map(JoinHandle::join);
        if let Some(Err(panic)) = outcome
            && !thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Milliseconds since 1970, as JavaScript's `Date.now()`.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    u64::try_from(since.as_millis()).expect("the present fits 64 bits")
}

fn preview(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned()
}
