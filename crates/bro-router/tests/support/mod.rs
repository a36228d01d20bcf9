//! A driver made of vectors: what the router told it, frame by frame.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod v2_peers;

use bro_proto::Now;
use bro_proto::v1::Encoding;
use bro_proto::v2;
use bro_router::{CloseReason, Event, EventMask, LaneOffer, Outbox, Part, PeerId, PeerIdentity, Router, RouterConfig};
use serde_json::{Value, json};

/// Orders of the router, in order.
#[derive(Default)]
pub struct Orders {
    pub frames: Vec<(PeerId, Vec<u8>)>,
    /// How many parts of each frame were of the inbound one.
    pub inbound_parts: Vec<usize>,
    pub closed: Vec<(PeerId, CloseReason)>,
    pub paused: Vec<PeerId>,
    pub resumed: Vec<PeerId>,
    pub offers: Vec<LaneOffer>,
    pub events: Vec<String>,
}

impl Outbox for Orders {
    fn send(&mut self, peer: PeerId, parts: &[Part<'_>]) {
        self.frames.push((peer, parts.iter().flat_map(|part| part.bytes()).copied().collect()));
        self.inbound_parts.push(parts.iter().filter(|part| matches!(part, Part::Inbound(_))).count());
    }

    fn close(&mut self, peer: PeerId, reason: CloseReason) {
        self.closed.push((peer, reason));
    }

    fn pause(&mut self, peer: PeerId) {
        self.paused.push(peer);
    }

    fn resume(&mut self, peer: PeerId) {
        self.resumed.push(peer);
    }

    fn offer_lane(&mut self, offer: LaneOffer) {
        self.offers.push(offer);
    }

    fn event(&mut self, event: Event<'_>) {
        self.events.push(format!("{event:?}"));
    }
}

/// A router with a clock and an outbox.
pub struct Gateway {
    pub router: Router,
    pub now: Now,
    pub orders: Orders,
}

/// Where the clocks of the tests start.
pub const START: Now = Now { mono_us: 5_000_000, wall_ms: 1_700_000_000_000 };

impl Gateway {
    pub fn new() -> Self {
        Self::with(RouterConfig::default())
    }

    pub fn with(config: RouterConfig) -> Self {
        let mut router = Router::new(config, 1, START);
        router.set_events(EventMask::ALL);
        Self { router, now: START, orders: Orders::default() }
    }

    pub fn connect(&mut self) -> PeerId {
        self.connect_as(PeerIdentity { pid: Some(7), uid: Some(8), ..PeerIdentity::default() })
    }

    pub fn connect_as(&mut self, identity: PeerIdentity) -> PeerId {
        self.router.handle_connect(identity, self.now, &mut self.orders).expect("there is room")
    }

    /// Connects and registers a service.
    pub fn service(&mut self, name: &str, encoding: Encoding) -> PeerId {
        let peer = self.connect();
        self.send(
            peer,
            &json!({"type": "REGISTER", "serviceName": name, "methods": ["get"], "version": "1.0.0"}),
            encoding,
        );
        assert_eq!(self.take(peer), [json!({"type": "REGISTER_ACK", "from": "bro.gateway"})]);
        peer
    }

    /// Connects and registers a service that speaks version 2, and binds routes 0, 1, … to the services in `routes`.
    pub fn service_v2(&mut self, name: &str, routes: &[&str]) -> PeerId {
        let peer = self.connect();
        self.register_v2(peer, name, routes);
        peer
    }

    pub fn register_v2(&mut self, peer: PeerId, name: &str, routes: &[&str]) {
        let register =
            json!({"type": "REGISTER", "serviceName": name, "methods": ["get"], "metadata": {"bro": {"v": 2}, "a": 1}});
        self.send_json(peer, &register);
        assert_eq!(self.take(peer), [json!({"type": "REGISTER_ACK", "from": "bro.gateway", "bro": {"v": 2}})]);
        for (number, service) in (0..).zip(routes) {
            let mut resolve = Vec::new();
            v2::encode::resolve(&mut resolve, number, service);
            self.send_frame(peer, resolve);
        }
    }

    /// Sends a frame as it is, prefix included.
    pub fn send_frame(&mut self, peer: PeerId, mut frame: Vec<u8>) {
        self.router.handle_frame(peer, &mut frame, self.now, &mut self.orders);
        self.router.check_invariants();
    }

    /// Like [`Gateway::take`], for frames of any version.
    pub fn take_frames(&mut self, peer: PeerId) -> Vec<Vec<u8>> {
        let (taken, kept): (Vec<_>, Vec<_>) = self.orders.frames.drain(..).partition(|(to, _)| *to == peer);
        self.orders.frames = kept;
        self.orders.inbound_parts.clear();
        let taken: Vec<Vec<u8>> = taken.into_iter().map(|(_, frame)| frame).collect();
        self.router.handle_written(peer, taken.iter().map(Vec::len).sum(), self.now, &mut self.orders);
        taken
    }

    pub fn send(&mut self, peer: PeerId, message: &Value, encoding: Encoding) {
        let body = match encoding {
            Encoding::Json => serde_json::to_vec(message).expect("JSON"),
            Encoding::Msgpack => rmp_serde::to_vec(message).expect("msgpack"),
        };
        self.send_body(peer, &body);
    }

    pub fn send_json(&mut self, peer: PeerId, message: &Value) {
        self.send(peer, message, Encoding::Json);
    }

    pub fn send_body(&mut self, peer: PeerId, body: &[u8]) {
        let mut frame = frame(body);
        self.router.handle_frame(peer, &mut frame, self.now, &mut self.orders);
        self.router.check_invariants();
    }

    /// What was sent to a peer since the last time, all of it taken by its socket.
    pub fn take(&mut self, peer: PeerId) -> Vec<Value> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        self.orders.frames.retain(|(to, frame)| {
            if *to == peer {
                bytes += frame.len();
                taken.push(parse(frame));
            }
            *to != peer
        });
        self.orders.inbound_parts.clear();
        self.router.handle_written(peer, bytes, self.now, &mut self.orders);
        taken
    }

    /// The one frame that was sent to a peer since the last time.
    pub fn take_one(&mut self, peer: PeerId) -> Value {
        let mut taken = self.take(peer);
        assert_eq!(taken.len(), 1, "one frame expected: {taken:?}");
        taken.remove(0)
    }

    pub fn pass(&mut self, ms: u64) {
        self.now.mono_us += ms * 1000;
        self.now.wall_ms += ms;
        self.router.handle_time(self.now, &mut self.orders);
        self.router.check_invariants();
    }

    pub fn disconnect(&mut self, peer: PeerId) {
        self.router.handle_disconnect(peer, self.now, &mut self.orders);
        self.router.check_invariants();
    }

    pub fn call(&self, id: &str, from: &str, to: &str) -> Value {
        json!({
            "type": "CALL", "id": id, "from": from, "to": to, "method": "get", "params": {"a": 1},
            "context": {"root": "root-1", "chain": [from, to], "depth": 2, "deadline": self.now.wall_ms + 5000},
        })
    }

    /// Calls the gateway itself and gives back the one frame that comes of it.
    pub fn ask(&mut self, peer: PeerId, method: &str, params: Value) -> Value {
        let mut call = self.call("ask", "x", "bro.gateway");
        call["method"] = json!(method);
        call["params"] = params;
        self.send_json(peer, &call);
        self.take_one(peer)
    }
}

/// The answer of a callee.
pub fn answer(call: &Value, data: Value) -> Value {
    json!({"type": "RESPONSE", "id": call["id"], "from": call["to"], "to": call["from"], "status": "success",
           "data": data, "context": call["context"]})
}

pub fn frame(body: &[u8]) -> Vec<u8> {
    [&u32::try_from(body.len()).expect("small").to_be_bytes(), body].concat()
}

pub fn parse(frame: &[u8]) -> Value {
    let body = &frame[4..];
    if body[0] == b'{' {
        serde_json::from_slice(body).expect("JSON")
    } else {
        rmp_serde::from_slice(body).expect("msgpack")
    }
}

pub fn code(message: &Value) -> &str {
    message["error"]["code"].as_str().unwrap_or_default()
}
