//! A gateway as the old JavaScript library's behaves, so that our clients can be tried against it.
//!
//! What it does wrong is deliberate, and listed in the protocol's description: it believes `from`, routes an answer by
//! the `to` that it claims, reports an unroutable call by an ERROR frame instead of answering it, forgets callers whose
//! callee dies, drops nobody for silence, answers pools on their first connection only, and takes any second REGISTER
//! of a name, even from the connection that holds it, for a duplicate.

use crate::codec::{self, Encoding};
use crate::peer::now_ms;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use tempfile::TempDir;

/// Deepest chain that the old library lets through.
const DEPTH_MAX: u64 = 100;

/// The old gateway, on threads of this process. It speaks one encoding only, as configured.
#[derive(Debug)]
pub struct OldGateway {
    shared: Arc<Shared>,
    socket_path: PathBuf,
    accept: Option<JoinHandle<()>>,
    _dir: TempDir,
}

#[derive(Debug)]
struct Shared {
    encoding: Encoding,
    errors_name_the_call: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    services: HashMap<String, Entry>,
    connections: Vec<UnixStream>,
    registrations: Vec<Value>,
    stopped: bool,
}

/// A service. Dead connections stay in it, until the first one dies.
#[derive(Debug)]
struct Entry {
    is_pool: bool,
    connections: Vec<Arc<Connection>>,
    next: usize,
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    /// Held while a frame is written, so that frames stay whole.
    writing: Mutex<()>,
}

impl OldGateway {
    /// Starts one whose ERROR frames name the call they are about by its `id`.
    pub fn start(encoding: Encoding) -> OldGateway {
        OldGateway::start_with(encoding, true)
    }

    /// Starts one; `errors_name_the_call` says whether an ERROR about a call carries that call's `id`.
    pub fn start_with(encoding: Encoding, errors_name_the_call: bool) -> OldGateway {
        let dir = tempfile::Builder::new().prefix("bro-old-").tempdir().expect("a temporary directory can be made");
        let socket_path = dir.path().join("gateway.sock");
        let listener = UnixListener::bind(&socket_path).expect("a fresh path can be bound");
        let shared = Arc::new(Shared { encoding, errors_name_the_call, state: Mutex::default() });
        let accept = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.accept(&listener)
        });
        OldGateway { shared, socket_path, accept: Some(accept), _dir: dir }
    }

    /// Where to connect.
    pub fn socket_path(&self) -> &Path {
        &self.socket_path
    }

    /// Every REGISTER that it has received, in order.
    pub fn registrations(&self) -> Vec<Value> {
        self.shared.lock().registrations.clone()
    }

    /// The names that are registered.
    pub fn services(&self) -> Vec<String> {
        self.shared.lock().services.keys().cloned().collect()
    }
}

impl Drop for OldGateway {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.stopped = true;
            for connection in &state.connections {
                let _ = connection.shutdown(Shutdown::Both);
            }
        }
        let _ = UnixStream::connect(&self.socket_path);
        if let Some(accept) = self.accept.take() {
            let _ = accept.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Accepts until stopped, then waits for every connection's thread.
    fn accept(self: &Arc<Self>, listener: &UnixListener) {
        let mut threads = Vec::new();
        for stream in listener.incoming() {
            let stream = stream.expect("a listener accepts");
            let mut state = self.lock();
            if state.stopped {
                break;
            }
            state.connections.push(stream.try_clone().expect("a socket can be cloned"));
            drop(state);
            let shared = Arc::clone(self);
            let connection = Arc::new(Connection { stream, writing: Mutex::default() });
            threads.push(thread::spawn(move || shared.serve(&connection)));
        }
        for thread in threads {
            let _ = thread.join();
        }
    }

    fn serve(&self, connection: &Arc<Connection>) {
        let mut registered = None;
        while let Some(body) = read_body(&connection.stream) {
            // What it cannot decode, the old library reports to its log and goes on.
            let Ok((encoding, value)) = codec::decode(&body) else { continue };
            if encoding == self.encoding && !self.handle(connection, &value, &mut registered) {
                break;
            }
        }
        let _ = connection.stream.shutdown(Shutdown::Both);
        if let Some(name) = registered {
            let mut state = self.lock();
            let is_first = |entry: &Entry| Arc::ptr_eq(&entry.connections[0], connection);
            if state.services.get(&name).is_some_and(is_first) {
                state.services.remove(&name);
            }
        }
    }

    /// Returns whether the connection goes on.
    fn handle(&self, connection: &Arc<Connection>, value: &Value, registered: &mut Option<String>) -> bool {
        match value["type"].as_str() {
            Some("REGISTER") => {
                let name = value["serviceName"].as_str().unwrap_or_default().to_owned();
                let mut state = self.lock();
                state.registrations.push(value.clone());
                let is_pool = value["metadata"]["poolSize"].as_f64().is_some_and(|size| size > 1.0);
                match state.services.get_mut(&name) {
                    Some(entry) if is_pool && entry.is_pool => entry.connections.push(Arc::clone(connection)),
                    Some(_) => {
                        drop(state);
                        self.send_error(
                            connection,
                            None,
                            "DUPLICATE_SERVICE",
                            &format!("Service {name} is already registered"),
                        );
                        return false;
                    }
                    None => {
                        let entry = Entry { is_pool, connections: vec![Arc::clone(connection)], next: 0 };
                        state.services.insert(name.clone(), entry);
                    }
                }
                drop(state);
                *registered = Some(name);
                self.send(connection, &json!({ "type": "REGISTER_ACK" }));
            }
            Some("CALL") => self.route_call(connection, value),
            Some("RESPONSE") => {
                let to = value["to"].as_str().unwrap_or_default();
                let target = self.lock().services.get(to).map(|entry| Arc::clone(&entry.connections[0]));
                if let Some(target) = target {
                    self.send(&target, value);
                }
            }
            _ => {}
        }
        true
    }

    fn route_call(&self, caller: &Connection, call: &Value) {
        let id = Some(call["id"].clone()).filter(|_| self.errors_name_the_call);
        let context = &call["context"];
        #[allow(clippy::cast_precision_loss, reason = "milliseconds since 1970 have 41 bits")]
        let now = now_ms() as f64;
        if context["deadline"].as_f64().is_some_and(|deadline| now > deadline) {
            return self.send_error(caller, id, "DEADLINE_EXCEEDED", "Request deadline exceeded");
        }
        #[allow(clippy::cast_precision_loss, reason = "the constant is small")]
        if context["depth"].as_f64().is_some_and(|depth| depth > DEPTH_MAX as f64) {
            return self.send_error(caller, id, "MAX_DEPTH_EXCEEDED", "Maximum call depth exceeded");
        }
        let to = call["to"].as_str().unwrap_or_default();
        let target = self.lock().services.get_mut(to).map(|entry| {
            entry.next += 1;
            Arc::clone(&entry.connections[(entry.next - 1) % entry.connections.len()])
        });
        match target {
            Some(target) => self.send(&target, call),
            None => self.send_error(caller, id, "SERVICE_NOT_FOUND", &format!("Service {to} not found")),
        }
    }

    fn send_error(&self, connection: &Connection, id: Option<Value>, code: &str, message: &str) {
        let mut frame =
            json!({ "type": "ERROR", "error": { "message": message, "code": code }, "timestamp": now_ms() });
        if let Some(id) = id {
            frame["id"] = id;
        }
        self.send(connection, &frame);
    }

    /// Sends without looking whether it arrives.
    fn send(&self, connection: &Connection, value: &Value) {
        let frame = codec::frame(&codec::encode(self.encoding, value));
        let _writing = connection.writing.lock();
        let _ = (&connection.stream).write_all(&frame);
    }
}

fn read_body(mut stream: &UnixStream) -> Option<Vec<u8>> {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).ok()?;
    let mut body = vec![0; u32::from_be_bytes(prefix) as usize];
    stream.read_exact(&mut body).ok()?;
    Some(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::V1Peer;

    #[test]
    fn it_carries_calls_between_old_programs() {
        for encoding in Encoding::ALL {
            let gateway = OldGateway::start(encoding);
            let mut callee = V1Peer::register(gateway.socket_path(), encoding, "user", &["echo"]);
            let mut caller = V1Peer::register(gateway.socket_path(), encoding, "order", &[]);
            let id = caller.start_call("user", "echo", json!({ "n": 1 }));
            let call = callee.expect_call();
            assert_eq!(call["context"]["chain"], json!(["order", "order"]));
            callee.respond(&call, call["params"].clone());
            assert_eq!(caller.expect_success(&id), json!({ "n": 1 }));
        }
    }

    #[test]
    fn it_reports_an_unknown_service_by_an_error_frame() {
        let gateway = OldGateway::start_with(Encoding::Msgpack, false);
        let mut caller = V1Peer::register(gateway.socket_path(), Encoding::Msgpack, "order", &[]);
        caller.start_call("nobody", "echo", json!({}));
        let error = caller.receive();
        assert_eq!(error["error"]["code"], "SERVICE_NOT_FOUND");
        assert_eq!(error.get("id"), None);
        let mut rival = V1Peer::connect(gateway.socket_path(), Encoding::Msgpack);
        rival.send_register("order", &[], json!({}));
        assert_eq!(rival.receive()["error"]["code"], "DUPLICATE_SERVICE");
        rival.expect_close();
    }
}
