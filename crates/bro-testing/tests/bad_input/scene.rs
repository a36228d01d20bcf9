//! The gateway, and those who must not be affected.

use bro_testing::codec::{self, frame};
use bro_testing::gateway::wait_until;
use bro_testing::{Encoding, GatewayOptions, Service, TempGateway, V1Peer};
use serde_json::{Value, json};

/// What a gateway's memory may have grown by at the end of a test, in KiB.
const MEMORY_SLACK_KIB: u64 = 48 * 1024;

/// A gateway with a pair of peers that have nothing to do with what goes wrong.
pub(crate) struct Scene {
    pub(crate) bystander: V1Peer,
    _service: Service,
    calls: u32,
    pid: u32,
    memory_kib: u64,
    pub(crate) gateway: TempGateway,
}

impl Scene {
    pub(crate) fn new() -> Scene {
        Scene::with(GatewayOptions::default())
    }

    pub(crate) fn with(options: GatewayOptions) -> Scene {
        let gateway = options.start();
        let service = register_in_time(&gateway, Encoding::Msgpack, "echo", &["back"]);
        let _service = service.serve(|call| Ok(call["params"].clone()));
        let bystander = register_in_time(&gateway, Encoding::Json, "bystander", &[]);
        let mut scene =
            Scene { bystander, _service, calls: 0, pid: gateway.pid(), memory_kib: gateway.memory_kib(), gateway };
        scene.check_others();
        scene
    }

    /// The others still call each other and get the right answers.
    pub(crate) fn check_others(&mut self) {
        for _ in 0..3 {
            self.calls += 1;
            let params = json!({ "call": self.calls, "text": "unaffected" });
            let response = self.bystander.call("echo", "back", params);
            assert_eq!(response["data"]["call"].as_f64(), Some(f64::from(self.calls)), "{response}");
        }
    }

    /// A connection that has not registered.
    pub(crate) fn connect(&self, encoding: Encoding) -> V1Peer {
        V1Peer::connect(self.gateway.socket_path(), encoding)
    }

    /// A connection that has registered as "mallory", once that name is free.
    pub(crate) fn register(&mut self, encoding: Encoding) -> V1Peer {
        let observer = &mut self.bystander;
        wait_until("the name is free", || {
            observer.call("bro.gateway", "service", json!({ "name": "mallory" }))["status"] == "error"
        });
        V1Peer::register(self.gateway.socket_path(), encoding, "mallory", &["harm"])
    }

    /// Sends `body` before and after REGISTER: both times an ERROR with `code` comes, and the connection ends.
    pub(crate) fn expect_refused(&mut self, encoding: Encoding, body: &[u8], code: &str) -> Value {
        let mut last = Value::Null;
        for registered in [false, true] {
            let mut peer = if registered { self.register(encoding) } else { self.connect(encoding) };
            let _ = peer.try_send_bytes(&frame(body));
            last = peer.expect_error_and_close(code);
            self.check_others();
        }
        last
    }

    /// The same process is alive, and has not kept what it was sent.
    pub(crate) fn finish(mut self) {
        self.check_others();
        assert!(self.gateway.is_running() && self.gateway.pid() == self.pid);
        let memory_kib = self.gateway.memory_kib();
        assert!(memory_kib < self.memory_kib + MEMORY_SLACK_KIB, "{} KiB became {memory_kib} KiB", self.memory_kib);
        assert!(!self.gateway.stderr().contains("panicked"), "{}", self.gateway.stderr());
    }
}

/// Registers, again if that took longer than the gateway waits for it.
fn register_in_time(gateway: &TempGateway, encoding: Encoding, name: &str, methods: &[&str]) -> V1Peer {
    for _ in 0..100 {
        let mut peer = V1Peer::connect(gateway.socket_path(), encoding);
        match peer.try_register(name, methods) {
            Ok(()) => return peer,
            Err(told) => assert!(told.is_string() || told["error"]["code"] == "TIMEOUT", "{told}"),
        }
    }
    panic!("{name} never registers in time")
}

/// A CALL to "echo" around encoded `params`.
pub(crate) fn call_around(encoding: Encoding, params: &[u8]) -> Vec<u8> {
    let mut body = match encoding {
        Encoding::Json => br#"{"type":"CALL","id":"1","from":"mallory","to":"echo","method":"back","params":"#.to_vec(),
        Encoding::Msgpack => {
            let fields = json!({ "type": "CALL", "id": "1", "from": "mallory", "to": "echo", "method": "back" });
            let mut body = codec::encode(encoding, &fields);
            body[2] += 1;
            body.extend_from_slice(b"\xa6params");
            body
        }
    };
    body.extend_from_slice(params);
    if encoding == Encoding::Json {
        body.push(b'}');
    }
    body
}
