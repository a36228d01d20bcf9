//! Where version 2 could go wrong, and once did.

mod support;

use bro_proto::limits::NAMES_PER_PEER_MAX;
use bro_proto::v1::Encoding;
use bro_proto::v2::{self, CancelReason, Codec, Frame, FrameKind, encode};
use bro_proto::{ErrorBody, ErrorCode};
use bro_router::{CloseReason, PeerIdentity, RouterConfig};
use serde_json::json;
use support::v2_peers::{Draft, draft, section};
use support::{Gateway, code};

fn small_frames() -> Gateway {
    Gateway::with(RouterConfig { frame_bytes_max: 2048, ..RouterConfig::default() })
}

/// The payload is `undefined` as JavaScript writes it, then a `context` of the caller's own, which ends with a bin that covers the context of the gateway.
#[test]
fn undefined_with_more_behind_it_swallowed_the_context() {
    let mut gateway = Gateway::new();
    let new = gateway.service_v2("new", &["pack"]);
    let pack = gateway.service("pack", Encoding::Msgpack);
    for covered in 1..=255 {
        let mut payload =
            b"\xd4\x00\x00\xa7context\x85\xa4root\xa1r\xa5chain\x91\xa1x\xa5depth\x01\xa8deadline\xcb".to_vec();
        payload.extend_from_slice(&2e12_f64.to_be_bytes());
        payload.extend_from_slice(&[0xa1, b'z', 0xc4, covered]);
        gateway.call_v2(new, &Draft { codec: Codec::MSGPACK, payload, ..draft(covered.into()) });
        assert_eq!(gateway.failed_with(new), (covered.into(), ErrorCode::SerializationFailed));
    }
    assert!(gateway.take_frames(pack).is_empty());
    gateway.call_v2(new, &Draft { codec: Codec::MSGPACK, payload: b"\xc0".to_vec(), ..draft(300) });
    let call = gateway.take_one(pack);
    assert_eq!((&call["params"], &call["context"]["depth"]), (&json!(null), &json!(2)));
    gateway.call_v2(new, &Draft { codec: Codec::MSGPACK, payload: b"\xd4\x00\x00".to_vec(), ..draft(301) });
    assert_eq!(gateway.take_frames(pack).len(), 1);
}

#[test]
fn a_call_of_version_1_without_context_outgrew_a_frame() {
    let mut gateway = small_frames();
    let new = gateway.service_v2("n", &[]);
    let pack = gateway.service("pack", Encoding::Msgpack);
    let sized = |bytes: usize| {
        let call = json!({"type": "CALL", "id": "1", "to": "n", "method": "m", "params": "x".repeat(bytes)});
        rmp_serde::to_vec(&call).expect("msgpack")
    };
    let overhead = sized(1000).len() - 1000;
    gateway.send_body(pack, &sized(2048 - overhead));
    assert_eq!(code(&gateway.take_one(pack)), "PAYLOAD_TOO_LARGE");
    assert!(gateway.take_frames(new).is_empty());
    gateway.send_body(pack, &sized(2000 - overhead));
    assert!(gateway.asked(new, "n", &mut Vec::new()).payload.len() > 1900);
}

/// Bytes that are no UTF-8 become three each.
#[test]
fn an_error_of_version_1_outgrew_a_frame() {
    let mut gateway = small_frames();
    let new = gateway.service_v2("new", &["pack"]);
    let pack = gateway.service("pack", Encoding::Msgpack);
    gateway.call_v2(new, &draft(1));
    let id = gateway.take_one(pack)["id"].as_str().expect("an id").to_owned();
    let mut body = b"\x84\xa4type\xa8RESPONSE\xa2id".to_vec();
    body.push(0xa0 | u8::try_from(id.len()).expect("short"));
    body.extend_from_slice(id.as_bytes());
    body.extend_from_slice(b"\xa6status\xa5error\xa5error\x81\xa7message\xda\x05\xdc");
    body.extend_from_slice(&[0xff; 1500]);
    gateway.send_body(pack, &body);
    assert_eq!(gateway.failed_with(new), (1, ErrorCode::PayloadTooLarge));
}

/// Its number was told to nobody, and its context is not kept.
#[test]
fn a_call_of_a_member_of_version_1_was_taken_for_a_parent() {
    let mut gateway = Gateway::new();
    let identity = PeerIdentity { pid: Some(7), uid: Some(8), ..PeerIdentity::default() };
    let [old, new] = [0, 1].map(|index| {
        let peer = gateway.connect_as(identity);
        let mut metadata = json!({"poolSize": 2, "poolIndex": index});
        if index == 1 {
            metadata["bro"] = json!({"v": 2});
        }
        gateway.send_json(peer, &json!({"type": "REGISTER", "serviceName": "pool", "metadata": metadata}));
        gateway.take(peer);
        peer
    });
    let mut resolve = Vec::new();
    encode::resolve(&mut resolve, 0, "user");
    gateway.send_frame(new, resolve);
    let user = gateway.service_v2("user", &[]);
    let order = gateway.service_v2("order", &["pool"]);
    gateway.call_v2(order, &Draft { section: section(&["a", "order", "pool"], 3), ..draft(9) });
    assert_eq!(gateway.take(old).len(), 1, "the first call goes to the first member");
    // It is the first call of this gateway: place 0, generation 1.
    gateway.call_v2(new, &Draft { parent: 1 << 32, ..draft(1) });
    assert_eq!(gateway.failed_with(new), (1, ErrorCode::Cancelled));
    assert!(gateway.take_frames(user).is_empty());
    // A call of another member of version 2 may be one.
    gateway.call_v2(order, &Draft { section: section(&["a", "order", "pool"], 3), ..draft(10) });
    let asked = gateway.asked(new, "pool", &mut Vec::new());
    gateway.call_v2(new, &Draft { parent: asked.id, ..draft(2) });
    assert_eq!(gateway.asked(user, "user", &mut Vec::new()).chain, ["a", "order", "pool", "user"]);
}

/// The gateway was late: the parent's deadline has passed, and nobody has noticed yet.
#[test]
fn a_child_of_an_overdue_call_outlived_it() {
    let mut gateway = Gateway::new();
    let user = gateway.service_v2("user", &["user"]);
    let order = gateway.service_v2("order", &["user"]);
    gateway.call_v2(order, &Draft { timeout_ms: 50, ..draft(1) });
    let mut names = Vec::new();
    let asked = gateway.asked(user, "user", &mut names);
    gateway.now.mono_us += 20_000;
    gateway.call_v2(user, &Draft { parent: asked.id, ..draft(3) });
    assert_eq!(gateway.asked(user, "user", &mut names).timeout_ms, 30, "what is left, not what it asks for");
    gateway.now.mono_us += 30_000;
    gateway.call_v2(user, &Draft { parent: asked.id, ..draft(2) });
    assert_eq!(gateway.failed_with(user), (2, ErrorCode::DeadlineExceeded));
}

/// Numbers of calls can be guessed. Who made a call, and who has nothing to do with it, name it as the one that they work on.
#[test]
fn a_call_that_somebody_else_works_on_is_no_parent() {
    let mut gateway = Gateway::new();
    let user = gateway.service_v2("user", &[]);
    let order = gateway.service_v2("order", &["user"]);
    let stranger = gateway.service_v2("stranger", &["user"]);
    gateway.call_v2(order, &draft(1));
    let asked = gateway.asked(user, "user", &mut Vec::new());
    for peer in [order, stranger] {
        gateway.call_v2(peer, &Draft { parent: asked.id, ..draft(2) });
        assert_eq!(gateway.failed_with(peer), (2, ErrorCode::Cancelled));
    }
    assert_eq!((gateway.take_frames(user).len(), gateway.router.in_flight_len()), (0, 1));
}

#[test]
fn flags_and_spare_bytes_of_one_peer_reached_the_other() {
    let mut gateway = Gateway::new();
    let user = gateway.service_v2("user", &[]);
    let order = gateway.service_v2("order", &["user"]);
    let mut frame = draft(1).frame();
    (frame[6], frame[42], frame[43]) = (0xff, 1, 2);
    gateway.send_frame(order, frame);
    let asked = gateway.take_frames(user).pop().expect("a call");
    assert_eq!((asked[6], asked[42], asked[43]), (0, 0, 0));
    let Ok(Frame::Call(call)) = v2::parse(&asked) else { panic!("a CALL") };
    let mut response = Vec::new();
    encode::response_head(&mut response, call.id, Codec::ABSENT, 0);
    response[6] = 0xff;
    gateway.send_frame(user, response);
    assert_eq!(gateway.take_frames(order)[0][6], 0);
}

#[test]
fn the_number_of_a_parked_call_was_used_twice() {
    let mut gateway = Gateway::new();
    gateway.service_v2("user", &[]);
    let order = gateway.service_v2("order", &["bro.gateway", "user"]);
    let ask = br#"{"service":"nobody"}"#.to_vec();
    let mut frame = Draft { payload: ask, ..draft(5) }.frame();
    // The drafts call `get`; this asks with `waitFor`, whose name is longer.
    let method = b"waitFor";
    frame.splice(48..51, method.iter().copied());
    frame[40] = 7;
    let body = u32::try_from(frame.len() - 4).expect("short");
    frame[..4].copy_from_slice(&body.to_be_bytes());
    gateway.send_frame(order, frame);
    assert_eq!(gateway.router.parked_len(), 1);
    gateway.call_v2(order, &Draft { route: 1, ..draft(5) });
    assert!(gateway.is_closed(order));
    assert_eq!((gateway.router.parked_len(), gateway.router.in_flight_len()), (0, 0));
}

#[test]
fn a_notification_that_was_too_large_left_a_name_behind() {
    let mut gateway = small_frames();
    let role = gateway.service_v2("role", &[]);
    let user = gateway.service_v2("user", &["role"]);
    let order = gateway.service_v2("order", &["user"]);
    gateway.call_v2(order, &draft(1));
    let asked = gateway.asked(user, "user", &mut Vec::new());
    let large = Draft { kind: FrameKind::Notify, parent: asked.id, payload: vec![b'1'; 2000], ..draft(0) };
    gateway.call_v2(user, &large);
    assert!(gateway.take_frames(role).is_empty());
    assert_eq!(gateway.router.counters().notifications_dropped, 1);
}

#[test]
fn names_are_told_again_once_there_are_too_many() {
    let mut gateway = Gateway::new();
    let user = gateway.service_v2("user", &[]);
    let call_as = |gateway: &mut Gateway, number: usize| {
        let caller = gateway.service_v2(&format!("caller-{number}"), &["user"]);
        gateway.call_v2(caller, &Draft { kind: FrameKind::Notify, ..draft(0) });
        let frames = gateway.take_frames(user);
        gateway.disconnect(caller);
        match v2::parse(&frames[0]) {
            Ok(Frame::Name { number, forgets, .. }) => (number, forgets),
            other => panic!("a NAME expected: {other:?}"),
        }
    };
    for number in 0..NAMES_PER_PEER_MAX {
        assert_eq!(call_as(&mut gateway, number), (number as u64, false));
    }
    assert_eq!(call_as(&mut gateway, 0), (0, true));
    assert_eq!(call_as(&mut gateway, 1), (1, false));
}

/// The second connection of a service may work on what the first was asked for.
#[test]
fn children_of_one_member_end_with_a_call_of_another() {
    let mut gateway = Gateway::new();
    let role = gateway.service_v2("role", &[]);
    let [first, second] = [0, 1].map(|index| {
        let peer = gateway.connect();
        let metadata = json!({"poolSize": 2, "poolIndex": index, "bro": {"v": 2}});
        gateway.send_json(peer, &json!({"type": "REGISTER", "serviceName": "pool", "metadata": metadata}));
        gateway.take(peer);
        let mut resolve = Vec::new();
        encode::resolve(&mut resolve, 0, "role");
        gateway.send_frame(peer, resolve);
        peer
    });
    let order = gateway.service_v2("order", &["pool"]);
    gateway.call_v2(order, &draft(1));
    let asked = gateway.asked(first, "pool", &mut Vec::new());
    gateway.call_v2(second, &Draft { parent: asked.id, ..draft(2) });
    let child = gateway.asked(role, "role", &mut Vec::new());
    let mut cancel = Vec::new();
    encode::cancel(&mut cancel, 1, CancelReason::Cancelled);
    gateway.send_frame(order, cancel);
    assert_eq!(gateway.cancelled(first), (asked.id, CancelReason::Cancelled));
    assert_eq!(gateway.cancelled(role), (child.id, CancelReason::Cancelled));
    assert_eq!(gateway.failed_with(second), (2, ErrorCode::Cancelled));
    // Forged and late answers change nothing.
    let mut late = Vec::new();
    encode::error(&mut late, child.id, &ErrorBody::new(ErrorCode::Timeout, "late"), false);
    gateway.send_frame(role, late);
    assert!(gateway.take_frames(second).is_empty());
}

#[test]
fn routes_took_as_much_memory_as_all_connections_liked() {
    let mut gateway = Gateway::new();
    let user = gateway.service_v2("user", &[]);
    let mut callers = Vec::new();
    let refused = (0..1000).find_map(|number| {
        let caller = gateway.service_v2(&format!("caller-{number}"), &[]);
        callers.push(caller);
        for route in 0..1024 {
            let mut resolve = Vec::new();
            encode::resolve(&mut resolve, route, &"n".repeat(255));
            gateway.router.handle_frame(caller, &mut resolve, gateway.now, &mut gateway.orders);
        }
        let is_refused = gateway.orders.closed.contains(&(caller, CloseReason::Exhausted));
        gateway.router.check_invariants();
        is_refused.then_some(caller)
    });
    assert_eq!(code(&gateway.take_one(refused.expect("the memory has an end"))), "RESOURCE_EXHAUSTED");
    assert!(callers.len() > 100, "each has room for its own");
    // Who goes gives back what it has bound.
    gateway.disconnect(callers[0]);
    let order = gateway.service_v2("order", &["user"]);
    gateway.call_v2(order, &draft(1));
    assert_eq!(gateway.asked(user, "user", &mut Vec::new()).origin, 1);
}
