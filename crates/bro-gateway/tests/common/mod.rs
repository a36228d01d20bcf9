//! What the tests of the gateway share: a private directory, and a peer that speaks plain v1 JSON.
#![allow(dead_code, reason = "every test binary uses another part")]

use bro_gateway::{Gateway, GatewayConfig};
use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Ends a test that hangs; no test expects anything to be faster than this.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(120);

/// A directory that is removed at the end of the test.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("bro-gateway-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        TempDir(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join("gateway.sock")
    }

    /// Names of everything in it.
    pub(crate) fn entries(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(&self.0)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A gateway with default options on a socket of its own.
pub(crate) fn start() -> (TempDir, Gateway) {
    let directory = TempDir::new();
    let gateway = Gateway::start(GatewayConfig::new(directory.socket())).unwrap();
    (directory, gateway)
}

/// Waits until something has become so.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < WATCHDOG, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A program that speaks v1 JSON.
pub(crate) struct RawPeer {
    pub(crate) stream: UnixStream,
    pub(crate) name: String,
}

impl RawPeer {
    pub(crate) fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(WATCHDOG)).unwrap();
        stream.set_write_timeout(Some(WATCHDOG)).unwrap();
        RawPeer { stream, name: String::new() }
    }

    pub(crate) fn registered(socket: &Path, name: &str) -> Self {
        let mut peer = Self::connect(socket);
        peer.register(name);
        let answer = peer.receive();
        assert_eq!(answer["type"], "REGISTER_ACK", "{answer}");
        peer
    }

    pub(crate) fn register(&mut self, name: &str) {
        self.name = name.to_owned();
        self.send(&json!({
            "type": "REGISTER", "serviceName": name, "methods": ["echo"], "version": "1.0.0", "metadata": {},
        }));
    }

    pub(crate) fn send(&mut self, value: &Value) {
        self.stream.write_all(&frame(value)).unwrap();
    }

    pub(crate) fn call(&mut self, id: &str, to: &str, params: Value) {
        let call = self.call_value(id, to, params);
        self.send(&call);
    }

    pub(crate) fn call_value(&self, id: &str, to: &str, params: Value) -> Value {
        json!({
            "type": "CALL", "id": id, "from": self.name, "to": to, "method": "echo", "params": params,
            "context": {"root": "root-1-abcdef", "chain": [self.name, to], "depth": 2, "deadline": deadline_ms()},
        })
    }

    /// Answers a call with its own parameters.
    pub(crate) fn answer(&mut self, call: &Value) {
        let answer = self.answer_value(call);
        self.send(&answer);
    }

    pub(crate) fn answer_value(&self, call: &Value) -> Value {
        json!({
            "type": "RESPONSE", "id": call["id"], "from": call["to"], "to": call["from"], "status": "success",
            "data": call["params"], "context": call["context"],
        })
    }

    /// Answers every call until the end of the stream. Reads and writes on threads of their own, as programs should.
    pub(crate) fn echo(mut self) -> JoinHandle<()> {
        let mut writer = self.stream.try_clone().unwrap();
        let (answers, to_write) = channel::<Vec<u8>>();
        let writing = std::thread::spawn(move || {
            // The gateway may have gone before the last answers.
            to_write.iter().take_while(|answer| writer.write_all(answer).is_ok()).for_each(drop);
        });
        std::thread::spawn(move || {
            while let Some(call) = self.try_receive() {
                let _ = answers.send(frame(&self.answer_value(&call)));
            }
            drop(answers);
            writing.join().unwrap();
        })
    }

    pub(crate) fn receive(&mut self) -> Value {
        self.try_receive().expect("a frame, not the end of the stream")
    }

    /// The next frame; `None` at the end of the stream.
    pub(crate) fn try_receive(&mut self) -> Option<Value> {
        let mut prefix = [0; 4];
        match self.stream.read_exact(&mut prefix) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return None,
            Err(error) => panic!("{}: {error}", self.name),
        }
        let mut body = vec![0; u32::from_be_bytes(prefix) as usize];
        self.stream.read_exact(&mut body).unwrap();
        Some(serde_json::from_slice(&body).unwrap())
    }
}

pub(crate) fn frame(value: &Value) -> Vec<u8> {
    let body = value.to_string();
    let mut frame = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    frame.extend_from_slice(body.as_bytes());
    frame
}

fn deadline_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap() + 600_000
}
