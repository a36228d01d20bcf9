//! REGISTER, pools, liveness, silence, malformed streams, drain.

mod support;

use bro_proto::frame::FrameError;
use bro_proto::v1::Encoding::{Json, Msgpack};
use bro_router::{CloseReason, PeerIdentity, RouterConfig};
use serde_json::{Value, json};
use std::num::NonZeroU64;
use support::{Gateway, answer, code};

fn register(name: &str) -> Value {
    json!({"type": "REGISTER", "serviceName": name, "methods": ["get"], "version": "1.0.0", "metadata": {}})
}

fn pooled(name: &str, index: u32, size: u32) -> Value {
    let mut register = register(name);
    register["metadata"] = json!({"poolIndex": index, "poolSize": size, "team": "red"});
    register
}

#[test]
fn a_refused_registration_is_told_why_and_closed() {
    let mut long_metadata = register("a");
    long_metadata["metadata"] = json!({"x": "x".repeat(65 * 1024)});
    let mut many_methods = register("a");
    many_methods["methods"] = json!((0..5000).map(|number| number.to_string()).collect::<Vec<_>>());
    let mut long_frame = register("a");
    long_frame["padding"] = json!("x".repeat(1024 * 1024));
    let mut list_metadata = register("a");
    list_metadata["metadata"] = json!([1]);
    let cases = [
        (register("order"), "DUPLICATE_SERVICE"),
        (register("bro.gateway"), "PERMISSION_DENIED"),
        (register("bro.mine"), "PERMISSION_DENIED"),
        (register(""), "INVALID_MESSAGE"),
        (register("a\nb"), "INVALID_MESSAGE"),
        (register(&"n".repeat(256)), "INVALID_MESSAGE"),
        (json!({"type": "REGISTER"}), "INVALID_MESSAGE"),
        (list_metadata, "INVALID_MESSAGE"),
        (long_metadata, "PAYLOAD_TOO_LARGE"),
        (long_frame, "PAYLOAD_TOO_LARGE"),
        (pooled("pool", 0, 65), "INVALID_MESSAGE"),
        (pooled("pool", 3, 3), "INVALID_MESSAGE"),
    ];
    for encoding in [Json, Msgpack] {
        let mut gateway = Gateway::new();
        let order = gateway.service("order", Json);
        for (message, expected) in &cases {
            let peer = gateway.connect();
            gateway.send(peer, message, encoding);
            let (_, frame) = gateway.orders.frames.pop().expect("it is told");
            assert_eq!(frame[4] == b'{', encoding == Json, "in its own encoding");
            let error = support::parse(&frame);
            assert_eq!((code(&error), &error["type"]), (*expected, &json!("ERROR")), "{error}");
            assert!(error.get("id").is_none() && error["timestamp"].is_number());
            assert_eq!(gateway.orders.closed.pop(), Some((peer, CloseReason::Refused)));
        }
        let peer = gateway.connect();
        gateway.send(peer, &many_methods, encoding);
        assert_eq!(gateway.orders.closed.pop(), Some((peer, CloseReason::Refused)));
        assert!(gateway.router.is_peer(order), "the holder of the name is not disturbed");
        assert_eq!(gateway.router.service_names(), ["order"]);
    }
}

#[test]
fn registering_again_replaces_the_methods() {
    let mut gateway = Gateway::new();
    let order = gateway.service("order", Json);
    let mut again = register("order");
    again["methods"] = json!(["get", "set"]);
    again["version"] = json!("2");
    gateway.send_json(order, &again);
    assert_eq!(gateway.take_one(order)["type"], "REGISTER_ACK");
    let view = gateway.router.service("order").expect("registered");
    assert_eq!((view.methods.len(), view.version.as_deref(), view.instances.len()), (2, Some("2"), 1));
    let registered = |events: &[String]| events.iter().filter(|event| event.starts_with("ServiceRegistered")).count();
    assert_eq!(registered(&gateway.orders.events), 2);
    gateway.send_json(order, &again);
    assert_eq!(registered(&gateway.orders.events), 2, "nothing has changed");
    gateway.send_json(order, &register("user"));
    assert_eq!(gateway.orders.closed, [(order, CloseReason::Refused)]);
}

#[test]
fn a_pool_shares_the_calls_and_lives_until_its_last_member() {
    let mut gateway = Gateway::new();
    let caller = gateway.service("caller", Json);
    let members: Vec<_> = (0..3)
        .map(|index| {
            let peer = gateway.connect();
            gateway.send_json(peer, &pooled("pool", index, 3));
            assert_eq!(gateway.take_one(peer)["type"], "REGISTER_ACK");
            peer
        })
        .collect();
    let view = gateway.router.service("pool").expect("registered");
    assert_eq!(view.instances.len(), 3);
    assert_eq!(view.metadata_json, "{\"poolSize\":3,\"team\":\"red\"}");
    for number in 0..9 {
        gateway.send_json(caller, &gateway.call(&number.to_string(), "caller", "pool"));
    }
    for &member in &members {
        assert_eq!(gateway.take(member).len(), 3, "round robin");
    }
    gateway.disconnect(members[0]);
    assert_eq!(gateway.take(caller).len(), 3, "the calls of the lost member fail, no others");
    gateway.send_json(members[1], &json!({"type": "RESPONSE", "id": "1", "status": "success", "data": 1}));
    assert_eq!(gateway.take_one(caller)["data"], 1, "answers come from any live member");
    gateway.disconnect(members[1]);
    assert!(gateway.router.service("pool").is_some());
    gateway.disconnect(members[2]);
    assert!(gateway.router.service("pool").is_none());
}

#[test]
fn a_pool_is_joined_only_by_its_own() {
    let mut gateway = Gateway::new();
    let first = gateway.connect();
    gateway.send_json(first, &pooled("pool", 0, 3));
    let own = PeerIdentity { pid: Some(7), uid: Some(8), ..PeerIdentity::default() };
    let other_process = PeerIdentity { pid: Some(9), ..own };
    let other_user = PeerIdentity { uid: Some(9), ..own };
    // Of a process id namespace that the gateway does not see. One of another user or of an unknown one is nobody's, either.
    let elsewhere = PeerIdentity { pid: None, ..own };
    let unknown = PeerIdentity::default();
    let numbered = |pid, number| PeerIdentity { pid, pidfd_id: NonZeroU64::new(number), ..own };
    let cases = [
        (own, pooled("pool", 0, 3), false),
        (own, pooled("pool", 1, 4), false),
        (own, register("pool"), false),
        (own, pooled("pool", 1, 1), false),
        (other_process, pooled("pool", 1, 3), false),
        (other_user, pooled("pool", 1, 3), false),
        (elsewhere, pooled("pool", 1, 3), false),
        (unknown, pooled("pool", 1, 3), false),
        (own, pooled("pool", 1, 3), true),
        (elsewhere, pooled("far", 0, 2), true),
        (own, pooled("far", 1, 2), false),
        (PeerIdentity { uid: Some(9), ..elsewhere }, pooled("far", 1, 2), false),
        (elsewhere, pooled("far", 1, 2), true),
        // Where processes have numbers that are not given again, these decide: a process id may have been given anew, or be of a namespace.
        (numbered(Some(7), 50), pooled("numbered", 0, 4), true),
        (numbered(Some(7), 51), pooled("numbered", 1, 4), false),
        (numbered(Some(7), 50), pooled("numbered", 1, 4), true),
        (PeerIdentity { uid: Some(9), ..numbered(Some(7), 50) }, pooled("numbered", 2, 4), false),
        (own, pooled("numbered", 2, 4), true),
        (numbered(None, 52), pooled("contained", 0, 2), true),
        (numbered(None, 53), pooled("contained", 1, 2), false),
        (numbered(None, 52), pooled("contained", 1, 2), true),
    ];
    for (identity, message, is_welcome) in cases {
        let peer = gateway.connect_as(identity);
        gateway.send_json(peer, &message);
        assert_eq!(gateway.router.is_peer(peer), is_welcome, "{identity:?} {message}");
    }
    assert_eq!(gateway.router.service("pool").expect("registered").instances.len(), 2);
}

#[test]
fn silence_before_register_is_bounded() {
    let mut gateway = Gateway::new();
    let silent = gateway.connect();
    gateway.pass(9_999);
    assert!(gateway.router.is_peer(silent));
    gateway.send_json(silent, &json!({"type": "HEARTBEAT", "from": "x", "timestamp": 1}));
    gateway.pass(1);
    assert_eq!(gateway.orders.closed, [(silent, CloseReason::NeverRegistered)]);
    let told = support::parse(&gateway.orders.frames[0].1);
    assert_eq!(code(&told), "TIMEOUT");
}

#[test]
fn a_silent_service_is_dropped_after_three_intervals() {
    let mut gateway = Gateway::new();
    let (order, user) = (gateway.service("order", Json), gateway.service("user", Json));
    let mut call = gateway.call("1", "order", "user");
    call["context"]["deadline"] = json!(gateway.now.wall_ms + 1_000_000);
    gateway.pass(80_000);
    gateway.send_json(order, &call);
    gateway.take(user);
    gateway.pass(9_999);
    assert!(gateway.router.is_peer(user));
    gateway.pass(1);
    assert!(!gateway.router.is_peer(user) && gateway.router.is_peer(order));
    assert_eq!(gateway.orders.closed, [(user, CloseReason::Silent)]);
    assert_eq!(code(&gateway.take_one(order)), "CONNECTION_LOST");
    gateway.service("user", Json);
}

#[test]
fn one_connection_speaks_for_its_pool() {
    let mut gateway = Gateway::new();
    let members = [0, 1].map(|index| {
        let peer = gateway.connect();
        gateway.send_json(peer, &pooled("pool", index, 2));
        gateway.take(peer);
        peer
    });
    for _ in 0..5 {
        gateway.pass(60_000);
        gateway.send_json(members[1], &json!({"type": "HEARTBEAT", "from": "pool", "timestamp": 1}));
    }
    assert!(members.iter().all(|&member| gateway.router.is_peer(member)));
    gateway.pass(90_000);
    assert_eq!(gateway.orders.closed.len(), 2);
}

#[test]
fn malformed_bodies_are_told_and_closed_and_nobody_else_notices() {
    let deep_json = [b"{\"params\":".as_slice(), &b"[".repeat(200_000), &b"]".repeat(200_000), b"}"].concat();
    let deep_msgpack = [[0x81, 0xa6].as_slice(), b"params", &[0x91].repeat(200_000), &[0xc0]].concat();
    let bodies: [&[u8]; 10] = [
        b"",
        b"[]",
        b"null",
        b"{\"type\":\"CALL\"",
        b"{\"type\":\"CALL\"} x",
        b"{\"type\":\"CALL\",\"id\":\"1\",\"id\":\"2\"}",
        b"{\"type\":\"CALL\",\"to\":\"\xff\"}",
        &[0xdf, 0xff, 0xff, 0xff, 0xff],
        &deep_json,
        &deep_msgpack,
    ];
    let mut gateway = Gateway::new();
    let user = gateway.service("user", Json);
    for body in bodies {
        let order = gateway.service("order", Json);
        gateway.send_json(order, &gateway.call("1", "order", "user"));
        gateway.send_body(order, body);
        let told = support::parse(&gateway.orders.frames.pop().expect("it is told").1);
        assert_eq!((code(&told), &told["type"]), ("INVALID_MESSAGE", &json!("ERROR")));
        assert_eq!(gateway.orders.closed.pop(), Some((order, CloseReason::Malformed)));
        assert_eq!(gateway.router.in_flight_len(), 0);
        gateway.send_body(order, b"{}");
    }
    assert!(gateway.router.is_peer(user));
}

#[test]
fn an_oversize_prefix_is_told_and_closed() {
    let mut gateway = Gateway::new();
    let peer = gateway.connect();
    let error = FrameError::TooLarge { announced: usize::MAX, limit: 10 };
    gateway.router.handle_frame_error(peer, error, gateway.now, &mut gateway.orders);
    assert_eq!(code(&support::parse(&gateway.orders.frames[0].1)), "PAYLOAD_TOO_LARGE");
    assert_eq!(gateway.orders.closed, [(peer, CloseReason::Malformed)]);
}

#[test]
fn a_frame_must_be_finished_in_time() {
    let mut gateway = Gateway::new();
    let order = gateway.service("order", Json);
    for _ in 0..4 {
        // Frames that keep coming are no half frame, even if each read ends in one.
        gateway.router.handle_partial(order, true, gateway.now);
        gateway.pass(20_000);
        gateway.send_json(order, &json!({"type": "HEARTBEAT"}));
    }
    gateway.router.handle_partial(order, true, gateway.now);
    gateway.pass(29_999);
    gateway.router.handle_partial(order, true, gateway.now);
    assert!(gateway.router.is_peer(order));
    gateway.pass(1);
    assert_eq!(gateway.orders.closed, [(order, CloseReason::PartialFrame)]);
}

#[test]
fn unknown_types_and_unknown_fields_are_no_mistake() {
    let mut gateway = Gateway::new();
    let (order, user) = (gateway.service("order", Json), gateway.service("user", Json));
    gateway.send_json(order, &json!({"type": "NOTIFY", "x": 1}));
    gateway.send_json(order, &json!({"type": "REGISTER_ACK"}));
    assert_eq!(gateway.router.counters().frames_ignored, 2);
    let mut call = gateway.call("1", "admin", "user");
    call["trace"] = json!({"id": [1, 2]});
    gateway.send_json(order, &call);
    assert_eq!(gateway.take_one(user)["trace"], call["trace"]);
}

#[test]
fn a_call_without_an_id_is_told_and_the_connection_kept() {
    let mut gateway = Gateway::new();
    let order = gateway.service("order", Json);
    let mut call = gateway.call("1", "order", "user");
    call.as_object_mut().unwrap().remove("id");
    gateway.send_json(order, &call);
    let told = gateway.take_one(order);
    assert_eq!((code(&told), &told["type"]), ("INVALID_MESSAGE", &json!("ERROR")));
    assert!(gateway.router.is_peer(order));
}

#[test]
fn connections_are_counted() {
    let mut gateway = Gateway::with(RouterConfig { peers_max: 2, ..RouterConfig::default() });
    let first = gateway.connect();
    gateway.connect();
    let refused = gateway.router.handle_connect(PeerIdentity::default(), gateway.now, &mut gateway.orders);
    assert_eq!(refused.unwrap_err().code.unwrap().as_str(), "RESOURCE_EXHAUSTED");
    gateway.disconnect(first);
    let reused = gateway.connect();
    assert!(reused.slot == first.slot && reused != first);
    gateway.router.handle_written(first, 1, gateway.now, &mut gateway.orders);
    assert!(!gateway.router.is_peer(first));
}

#[test]
fn a_drain_lets_calls_finish_and_takes_no_new_ones() {
    let mut gateway = Gateway::new();
    let (order, user) = (gateway.service("order", Json), gateway.service("user", Json));
    let call = gateway.call("1", "order", "user");
    gateway.send_json(order, &call);
    gateway.take(user);
    gateway.router.begin_drain(3000, gateway.now, &mut gateway.orders);
    assert!(gateway.router.is_draining() && !gateway.router.is_drained());
    gateway.send_json(order, &gateway.call("2", "order", "user"));
    assert_eq!(code(&gateway.take_one(order)), "SHUTTING_DOWN");
    let refused = gateway.router.handle_connect(PeerIdentity::default(), gateway.now, &mut gateway.orders);
    assert_eq!(refused.unwrap_err().code.unwrap().as_str(), "SHUTTING_DOWN");
    gateway.send_json(user, &answer(&call, json!(1)));
    assert!(!gateway.router.is_drained(), "the answer has not been taken");
    assert_eq!(gateway.take_one(order)["data"], 1);
    assert!(gateway.router.is_drained());
    assert_eq!(gateway.orders.closed.len(), 2);
    assert_eq!((gateway.router.peers_len(), gateway.router.timers_len()), (0, 0));
}

#[test]
fn a_drain_ends_at_its_deadline_and_answers_what_is_left() {
    for is_stopped in [false, true] {
        let mut gateway = Gateway::new();
        let (order, user) = (gateway.service("order", Json), gateway.service("user", Json));
        gateway.send_json(order, &gateway.call("1", "order", "user"));
        gateway.take(user);
        if is_stopped {
            gateway.router.stop(gateway.now, &mut gateway.orders);
        } else {
            gateway.router.begin_drain(3000, gateway.now, &mut gateway.orders);
            gateway.pass(3000);
        }
        assert!(gateway.router.is_drained());
        assert_eq!(code(&support::parse(&gateway.orders.frames[0].1)), "CONNECTION_LOST");
        assert!(gateway.orders.closed.iter().all(|(_, reason)| *reason == CloseReason::Stopping));
        assert_eq!((gateway.orders.closed.len(), gateway.router.timers_len()), (2, 0));
    }
}
