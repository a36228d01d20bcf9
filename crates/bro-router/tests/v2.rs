//! Peers of version 2, among each other and with those of version 1.

mod support;

use bro_proto::limits::ROUTES_PER_PEER_MAX;
use bro_proto::v1::Encoding;
use bro_proto::v2::encode::{self, CallHead};
use bro_proto::v2::{self, CancelReason, Codec, Frame, FrameKind};
use bro_proto::{ErrorBody, ErrorCode};
use bro_router::{PeerId, RouterConfig};
use serde_json::{Value, json};
use support::v2_peers::{Asked, Draft, draft, section};
use support::{Gateway, answer, code, parse};

#[test]
fn a_call_and_its_answer_go_from_where_they_lie() {
    let mut gateway = Gateway::new();
    let user = gateway.service_v2("user", &[]);
    let order = gateway.service_v2("order", &["user"]);
    let mut names = Vec::new();
    for id in [1 << 32, 2 << 32 | 7] {
        gateway.orders.inbound_parts.clear();
        gateway.call_v2(order, &draft(id));
        assert_eq!(gateway.orders.inbound_parts.last(), Some(&1));
        let asked = gateway.asked(user, "user", &mut names);
        assert_eq!(asked.chain, ["order", "user"]);
        assert_eq!((asked.origin, asked.depth, asked.timeout_ms), (id, 2, 5000));
        assert!(asked.root.starts_with("root-1700000000000-"), "{}", asked.root);
        assert_eq!(asked.payload, br#"{"a":1}"#);
        gateway.answer_v2(user, asked.id, b"[2]");
        let answers = gateway.take_frames(order);
        assert_eq!(v2::parse(&answers[0]), Ok(Frame::Response { id, codec: Codec::JSON, payload: b"[2]" }));
        assert_eq!(gateway.router.in_flight_len(), 0);
        gateway.answer_v2(user, asked.id, b"[3]");
        assert!(gateway.take_frames(order).is_empty(), "an answer counts once");
    }
    assert_eq!(names, ["order"], "the caller's name is told once");
    assert!(gateway.orders.events.iter().any(|event| event.contains("request_id: \"req-2-000007\"")));
}

#[test]
fn the_metadata_of_others_does_not_show_what_was_agreed() {
    let mut gateway = Gateway::new();
    gateway.service_v2("user", &[]);
    assert_eq!(gateway.router.service("user").unwrap().metadata_json, r#"{"a":1}"#);
    let mut old = Gateway::with(RouterConfig { speaks_v2: false, ..RouterConfig::default() });
    let peer = old.connect();
    old.send_json(peer, &json!({"type": "REGISTER", "serviceName": "a", "metadata": {"bro": {"v": 2}}}));
    assert_eq!(old.take(peer), [json!({"type": "REGISTER_ACK", "from": "bro.gateway"})]);
}

#[test]
fn callers_get_coded_errors_at_once() {
    let mut gateway = Gateway::new();
    let order = gateway.service_v2("order", &["user", "order"]);
    gateway.call_v2(order, &draft(9));
    assert_eq!(gateway.failed_with(order), (9, ErrorCode::ServiceNotFound));
    // The service comes, goes, and comes again: the route means the name.
    for _ in 0..2 {
        let user = gateway.service_v2("user", &[]);
        gateway.call_v2(order, &draft(9));
        let asked = gateway.asked(user, "user", &mut Vec::new());
        assert_eq!(asked.origin, 9);
        gateway.disconnect(user);
        assert_eq!(gateway.failed_with(order), (9, ErrorCode::ConnectionLost));
        gateway.call_v2(order, &draft(10));
        assert_eq!(gateway.failed_with(order), (10, ErrorCode::ServiceNotFound));
    }
    gateway.call_v2(order, &Draft { section: section(&["a"; 3], 101), route: 1, ..draft(11) });
    assert_eq!(gateway.failed_with(order), (11, ErrorCode::MaxDepthExceeded));
}

#[test]
fn a_deadline_ends_the_call_on_both_sides() {
    let mut gateway = Gateway::new();
    let user = gateway.service_v2("user", &[]);
    let order = gateway.service_v2("order", &["user"]);
    gateway.call_v2(order, &Draft { timeout_ms: 50, ..draft(9) });
    let asked = gateway.asked(user, "user", &mut Vec::new());
    gateway.pass(51);
    assert_eq!(gateway.failed_with(order), (9, ErrorCode::Timeout));
    assert_eq!(gateway.cancelled(user), (asked.id, CancelReason::Deadline));
    gateway.answer_v2(user, asked.id, b"1");
    assert!(gateway.take_frames(order).is_empty());
}

/// Three services that call each other: gives the peers and what the last was asked.
fn chain(gateway: &mut Gateway) -> ([PeerId; 3], [Asked; 2]) {
    let role = gateway.service_v2("role", &[]);
    let user = gateway.service_v2("user", &["role"]);
    let order = gateway.service_v2("order", &["user"]);
    gateway.call_v2(order, &draft(5));
    let first = gateway.asked(user, "user", &mut Vec::new());
    gateway.pass(1000);
    gateway.call_v2(user, &Draft { parent: first.id, timeout_ms: 60_000, ..draft(6) });
    let second = gateway.asked(role, "role", &mut Vec::new());
    ([order, user, role], [first, second])
}

#[test]
fn a_nested_call_gets_its_context_from_the_gateway() {
    let mut gateway = Gateway::new();
    let ([order, user, role], [first, second]) = chain(&mut gateway);
    assert_eq!(second.chain, ["order", "user", "role"]);
    assert_eq!((second.depth, &second.root), (3, &first.root));
    assert_eq!(second.timeout_ms, 4000, "the deadline is the parent's");
    // The parent is answered: what was made for it goes on.
    gateway.answer_v2(user, first.id, b"1");
    assert_eq!(gateway.take_frames(order).len(), 1);
    gateway.answer_v2(role, second.id, b"2");
    assert_eq!(gateway.take_frames(user).len(), 1);
    // A parent that has ended has no more children.
    gateway.call_v2(user, &Draft { parent: first.id, ..draft(7) });
    assert_eq!(gateway.failed_with(user), (7, ErrorCode::Cancelled));
    // Nor does a call that another service works on.
    gateway.call_v2(order, &draft(8));
    let asked = gateway.asked(user, "user", &mut vec!["order".to_owned()]);
    gateway.call_v2(order, &Draft { parent: asked.id, ..draft(9) });
    assert_eq!(gateway.failed_with(order), (9, ErrorCode::Cancelled));
}

#[test]
fn cancelling_reaches_every_descendant() {
    for how in ["cancel", "deadline", "caller gone"] {
        let mut gateway = Gateway::new();
        let ([order, user, role], [first, second]) = chain(&mut gateway);
        let reason = match how {
            "cancel" => {
                let mut frame = Vec::new();
                encode::cancel(&mut frame, 5, CancelReason::Cancelled);
                gateway.send_frame(order, frame);
                CancelReason::Cancelled
            }
            "deadline" => {
                gateway.pass(4001);
                assert_eq!(gateway.failed_with(order), (5, ErrorCode::Timeout));
                CancelReason::Deadline
            }
            _ => {
                gateway.disconnect(order);
                CancelReason::CallerGone
            }
        };
        let frames = gateway.take_frames(user);
        let told: Vec<_> = frames.iter().map(|frame| v2::parse(frame).unwrap()).collect();
        assert_eq!(told.len(), 2);
        assert!(told.contains(&Frame::Cancel { id: first.id, reason }), "{how}: {told:?}");
        let failed = told.iter().find_map(|frame| match frame {
            Frame::Error { id: 6, is_from_gateway: true, failure } => Some(failure.code),
            _ => None,
        });
        // Both had the same deadline, and either may be looked at first.
        let codes = if how == "deadline" { ["TIMEOUT", "CANCELLED"] } else { ["CANCELLED"; 2] };
        assert!(failed.is_some_and(|code| codes.contains(&code)), "{how}: {failed:?}");
        assert_eq!(gateway.cancelled(role).0, second.id, "{how}");
        assert_eq!(gateway.router.in_flight_len(), 0);
        if how == "cancel" {
            assert!(gateway.take_frames(order).is_empty(), "who cancels gets no answer");
        }
    }
}

#[test]
fn every_pair_of_versions_and_encodings_understands_each_other() {
    let mut gateway = Gateway::new();
    let new = gateway.service_v2("new", &["json", "msgpack"]);
    let json = gateway.service("json", Encoding::Json);
    let msgpack = gateway.service("msgpack", Encoding::Msgpack);
    let mut names = Vec::new();
    for (caller, name, encoding) in [(json, "json", Encoding::Json), (msgpack, "msgpack", Encoding::Msgpack)] {
        // version 1 to version 2
        let call = gateway.call("x-1", name, "new");
        gateway.send(caller, &call, encoding);
        let asked = gateway.asked(new, "new", &mut names);
        assert_eq!(asked.chain, [name, "new"]);
        assert_eq!((asked.root.as_str(), asked.timeout_ms), ("root-1", 5000));
        gateway.answer_v2(new, asked.id, b"{\"b\":2}");
        let response = gateway.take_one(caller);
        assert_eq!(response["data"], json!({"b": 2}));
        assert_eq!((&response["id"], &response["from"], &response["to"]), (&json!("x-1"), &json!("new"), &json!(name)));
        assert_eq!(response["context"], call["context"]);
        // and an error
        gateway.send(caller, &call, encoding);
        let asked = gateway.asked(new, "new", &mut names);
        let mut frame = Vec::new();
        encode::error(&mut frame, asked.id, &ErrorBody::new(ErrorCode::Custom("OUT".into()), "none"), true);
        gateway.send_frame(new, frame);
        let response = gateway.take_one(caller);
        assert_eq!((code(&response), &response["from"]), ("OUT", &json!("new")), "only the gateway is the gateway");
    }
    for (callee, encoding, route) in [(json, Encoding::Json, 0), (msgpack, Encoding::Msgpack, 1)] {
        // version 2 to version 1
        gateway.call_v2(new, &Draft { route, ..draft(77) });
        let call = gateway.take_one(callee);
        let name = ["json", "msgpack"][route as usize];
        assert_eq!(call["params"], json!({"a": 1}));
        assert_eq!((&call["id"], &call["from"], &call["to"]), (&json!("req-0-000025"), &json!("new"), &json!(name)));
        assert_eq!(call["context"]["chain"], json!(["new", name]));
        gateway.send(callee, &answer(&call, json!({"c": 3})), encoding);
        let frames = gateway.take_frames(new);
        let Ok(Frame::Response { id: 77, codec, payload }) = v2::parse(&frames[0]) else { panic!("{frames:?}") };
        let result: Value = match codec.encoding().unwrap() {
            Encoding::Json => serde_json::from_slice(payload).unwrap(),
            Encoding::Msgpack => rmp_serde::from_slice(payload).unwrap(),
        };
        assert_eq!(result, json!({"c": 3}));
        // and an error
        gateway.call_v2(new, &Draft { route, ..draft(78) });
        let call = gateway.take_one(callee);
        let mut response = answer(&call, Value::Null);
        response["status"] = json!("error");
        response["error"] = json!({"message": "none", "code": "OUT", "stack": "at x"});
        gateway.send(callee, &response, encoding);
        let (id, is_from_gateway, error) = gateway.failed(new);
        assert_eq!((id, is_from_gateway, error.stack.as_deref()), (78, false, Some("at x")));
        assert_eq!(error.code, Some(ErrorCode::Custom("OUT".into())));
    }
}

#[test]
fn a_payload_that_is_not_one_value_never_reaches_an_old_peer() {
    let mut gateway = Gateway::new();
    let new = gateway.service_v2("new", &["old", "pack"]);
    gateway.service("old", Encoding::Json);
    gateway.service("pack", Encoding::Msgpack);
    let bad: [(u32, Codec, &[u8]); 9] = [
        (0, Codec::JSON, b"{"),
        (0, Codec::JSON, b"1,\"id\":\"x\""),
        (0, Codec::JSON, b"1,\"more\":2"),
        (0, Codec::JSON, b"1}{"),
        (0, Codec::MSGPACK, b"\xc1"),
        (0, Codec::MSGPACK, b"\x01\x02"),
        (1, Codec::MSGPACK, b"\x01\xa4more\x02"),
        (1, Codec::JSON, b"1 2"),
        (1, Codec(9), b"1"),
    ];
    for (id, (route, codec, payload)) in (1..).zip(bad) {
        gateway.call_v2(new, &Draft { route, codec, payload: payload.to_vec(), ..draft(id) });
        assert_eq!(gateway.failed_with(new), (id, ErrorCode::SerializationFailed), "{payload:?}");
    }
    // The same for answers.
    for payload in [&b"1,\"more\":2"[..], b"{"] {
        let mut gateway = Gateway::new();
        let new = gateway.service_v2("new", &[]);
        let old = gateway.service("old", Encoding::Json);
        let call = gateway.call("x-1", "old", "new");
        gateway.send_json(old, &call);
        let asked = gateway.asked(new, "new", &mut vec![]);
        gateway.answer_v2(new, asked.id, payload);
        assert_eq!(code(&gateway.take_one(old)), "SERIALIZATION_FAILED");
    }
}

#[test]
fn values_that_are_absent_stay_absent() {
    let mut gateway = Gateway::new();
    let new = gateway.service_v2("new", &["old"]);
    let old = gateway.service("old", Encoding::Json);
    gateway.call_v2(new, &Draft { codec: Codec::ABSENT, payload: vec![], ..draft(1) });
    let call = gateway.take_one(old);
    assert!(call.get("params").is_none());
    let mut response = answer(&call, Value::Null);
    response.as_object_mut().unwrap().remove("data");
    gateway.send_json(old, &response);
    let frames = gateway.take_frames(new);
    assert_eq!(v2::parse(&frames[0]), Ok(Frame::Response { id: 1, codec: Codec::ABSENT, payload: &[] }));
}

#[test]
fn a_notification_is_passed_on_and_nobody_waits() {
    let mut gateway = Gateway::new();
    let user = gateway.service_v2("user", &[]);
    let old = gateway.service("old", Encoding::Json);
    let order = gateway.service_v2("order", &["user", "old", "nobody"]);
    gateway.call_v2(order, &Draft { kind: FrameKind::Notify, ..draft(0) });
    let asked = gateway.asked(user, "user", &mut Vec::new());
    assert_eq!((asked.id, asked.chain), (0, vec!["order".to_owned(), "user".to_owned()]));
    gateway.call_v2(order, &Draft { kind: FrameKind::Notify, route: 1, ..draft(0) });
    let call = gateway.take_one(old);
    gateway.send_json(old, &answer(&call, json!(1)));
    gateway.call_v2(order, &Draft { kind: FrameKind::Notify, route: 2, ..draft(0) });
    assert!(gateway.take_frames(order).is_empty());
    assert_eq!(gateway.router.in_flight_len(), 0);
    let counters = gateway.router.counters();
    assert_eq!((counters.notifications_routed, counters.notifications_dropped), (2, 1));
}

#[test]
fn the_gateway_answers_pings_and_questions() {
    let mut gateway = Gateway::new();
    let order = gateway.service_v2("order", &["bro.gateway"]);
    let mut ping = Vec::new();
    encode::bare(&mut ping, FrameKind::Ping, 99);
    gateway.send_frame(order, ping);
    assert_eq!(v2::parse(&gateway.take_frames(order)[0]), Ok(Frame::Pong { id: 99 }));
    let ask = |gateway: &mut Gateway, method: &str, params: &[u8]| {
        let head = CallHead {
            kind: FrameKind::Call,
            id: 5,
            origin: 0,
            root: 0,
            peer: 0,
            timeout_ms: 1000,
            method,
            section: &[],
            codec: Codec::JSON,
        };
        let mut frame = Vec::new();
        encode::call_head(&mut frame, &head, params.len());
        frame.extend_from_slice(params);
        gateway.send_frame(order, frame);
    };
    ask(&mut gateway, "service", br#"{"name":"order"}"#);
    let frames = gateway.take_frames(order);
    let Ok(Frame::Response { id: 5, payload, .. }) = v2::parse(&frames[0]) else { panic!("{frames:?}") };
    assert_eq!(serde_json::from_slice::<Value>(payload).unwrap()["name"], "order");
    ask(&mut gateway, "waitFor", br#"{"service":"user"}"#);
    assert_eq!(gateway.router.parked_len(), 1);
    let mut cancel = Vec::new();
    encode::cancel(&mut cancel, 5, CancelReason::Cancelled);
    gateway.send_frame(order, cancel);
    assert_eq!(gateway.router.parked_len(), 0, "what was parked can be cancelled");
    ask(&mut gateway, "waitFor", b"{");
    let (id, _, error) = gateway.failed(order);
    assert_eq!((id, error.code), (5, Some(ErrorCode::InvalidArgument)));
}

#[test]
fn who_drains_gets_no_more_calls_and_finishes() {
    let mut gateway = Gateway::new();
    let user = gateway.service_v2("user", &[]);
    let order = gateway.service_v2("order", &["user"]);
    gateway.call_v2(order, &draft(1));
    let asked = gateway.asked(user, "user", &mut Vec::new());
    let mut drain = Vec::new();
    encode::bare(&mut drain, FrameKind::Drain, 0);
    gateway.send_frame(user, drain);
    gateway.call_v2(order, &draft(2));
    assert_eq!(gateway.failed_with(order), (2, ErrorCode::ShuttingDown));
    gateway.answer_v2(user, asked.id, b"1");
    assert_eq!(gateway.take_frames(order).len(), 1);
    let now = gateway.now;
    gateway.router.begin_drain(1000, now, &mut gateway.orders);
    assert!(gateway.take_frames(order).iter().any(|frame| v2::parse(frame) == Ok(Frame::Drain)), "clients are told");
}

#[test]
fn who_breaks_the_rules_is_closed() {
    let bad: Vec<(&str, Vec<u8>)> = vec![
        ("number 0", draft(0).frame()),
        ("a route that was not bound", Draft { route: 3, ..draft(1) }.frame()),
        ("a kind that means nothing", {
            let mut frame = draft(1).frame();
            frame[5] = 77;
            frame
        }),
        ("cut short", vec![0, 0, 0, 2, 0xb2, 1]),
        ("a section that is none", Draft { section: b"nonsense".to_vec(), ..draft(1) }.frame()),
        ("a route number out of turn", {
            let mut frame = Vec::new();
            encode::resolve(&mut frame, 9, "user");
            frame
        }),
    ];
    for (what, frame) in bad {
        let mut gateway = Gateway::new();
        let user = gateway.service_v2("user", &[]);
        let order = gateway.service_v2("order", &["user"]);
        gateway.send_frame(order, frame);
        assert!(gateway.is_closed(order), "{what}");
        let frames = gateway.take_frames(user);
        assert!(frames.is_empty(), "{what}");
        assert!(gateway.router.service("user").is_some());
    }
    let mut gateway = Gateway::new();
    let order = gateway.service_v2("order", &["user"]);
    let call = gateway.call("x", "order", "user");
    gateway.send_json(order, &call);
    assert!(gateway.is_closed(order), "CALLs of version 1 are over");
    assert_eq!(code(&parse(&gateway.orders.frames.last().unwrap().1)), "INVALID_MESSAGE");
}

#[test]
fn a_number_that_is_in_flight_is_not_used_twice() {
    let mut gateway = Gateway::new();
    gateway.service_v2("user", &[]);
    let order = gateway.service_v2("order", &["user"]);
    let other = gateway.service_v2("other", &["user"]);
    gateway.call_v2(order, &draft(1));
    gateway.call_v2(other, &draft(1));
    assert_eq!(gateway.router.in_flight_len(), 2, "numbers are each caller's own");
    gateway.call_v2(order, &draft(1));
    assert!(gateway.is_closed(order));
    assert_eq!(gateway.router.in_flight_len(), 1);
}

#[test]
fn a_caller_with_many_routes_reuses_their_numbers() {
    let mut gateway = Gateway::new();
    let user = gateway.service_v2("user", &[]);
    let order = gateway.service_v2("order", &vec!["nobody"; ROUTES_PER_PEER_MAX]);
    gateway.call_v2(order, &Draft { route: 500, ..draft(1) });
    assert_eq!(gateway.failed_with(order), (1, ErrorCode::ServiceNotFound));
    let mut resolve = Vec::new();
    encode::resolve(&mut resolve, 500, "user");
    gateway.send_frame(order, resolve);
    gateway.call_v2(order, &Draft { route: 500, ..draft(2) });
    assert_eq!(gateway.asked(user, "user", &mut Vec::new()).origin, 2);
}

#[test]
fn only_the_connection_that_was_asked_can_answer() {
    let mut gateway = Gateway::new();
    let user = gateway.service_v2("user", &[]);
    let thief = gateway.service_v2("thief", &[]);
    let order = gateway.service_v2("order", &["user"]);
    gateway.call_v2(order, &draft(1));
    let asked = gateway.asked(user, "user", &mut Vec::new());
    gateway.answer_v2(thief, asked.id, b"666");
    assert!(gateway.take_frames(order).is_empty());
    gateway.answer_v2(user, asked.id, b"1");
    assert_eq!(gateway.take_frames(order).len(), 1);
}
