//! Calls that this client answers in version 2.

use crate::calls::text;
use crate::pair::{Pair, START_MS, config, payload_value};
use crate::wire2::{self, CANCEL, Call};
use bro_proto::error::{ErrorBody, ErrorCode};
use bro_proto::limits::{DEPTH_MAX, REGISTER_BYTES_MAX};
use bro_proto::v1::encode::Outcome;
use bro_proto::v1::{Encoding, Payload};
use bro_session::{SessionConfig, SessionEvent};
use bytes::Bytes;
use serde_json::{Value, json};

const ONE: Payload<'static> = Payload { encoding: Encoding::Json, bytes: b"1" };

#[test]
fn a_request_is_handed_out_and_answered_by_the_number_of_the_gateway() {
    let mut pair = Pair::connected_v2(config());
    let conn = pair.conn(0);
    pair.send_bytes(conn, &wire2::call(99).frame());
    let request = pair.next_request();
    assert_eq!((&*request.method, &*request.from, request.wants_answer), ("get", "user", true));
    assert_eq!(request.request_id.to_string(), "req-7-00000z");
    assert_eq!(payload_value(&request.params), json!({"a": 1}));
    let context = request.context.to_context(&request.from, "order");
    assert_eq!(context.root, "root-1700000000123-000010");
    assert_eq!((context.chain, context.depth), (vec!["user".to_owned(), "order".to_owned()], 2));
    assert_eq!(context.deadline_ms, START_MS + 1000);
    assert_eq!(pair.session.request_context(request.id), None);
    let of_v1 = Call { origin: 0, codec: 2, payload: b"\x91\xc3", ..wire2::call(3 << 32 | 1) };
    pair.send_bytes(conn, &of_v1.frame());
    let unnumbered = pair.next_request();
    assert_eq!(unnumbered.request_id.to_string(), "req-3-000001", "the gateway's, where the caller has none");
    assert_eq!((unnumbered.params.encoding, &unnumbered.params.bytes[..]), (Encoding::Json, &b"[true]"[..]));
    for (result, codec, value) in [
        (ONE, 1, json!(1)),
        (Payload { encoding: Encoding::Msgpack, bytes: b"\xc3" }, 2, json!(true)),
        (Payload { bytes: b"", ..ONE }, 0, Value::Null),
    ] {
        pair.send_bytes(conn, &wire2::call(100 + codec).frame());
        let request = pair.next_request();
        assert!(pair.session.is_in_work(request.id));
        assert!(pair.session.respond(request.id, Outcome::Success(result), pair.now));
        assert!(!pair.session.respond(request.id, Outcome::Success(result), pair.now));
        assert!(!pair.session.is_in_work(request.id));
        pair.drive();
        let (to, answer) = pair.next_sent();
        assert_eq!((to, &answer["kind"], &answer["id"]), (conn, &json!("RESPONSE"), &json!(100 + codec)));
        assert_eq!((&answer["codec"], &answer["payload"]), (&json!(codec), &value));
    }
    let error = ErrorBody { message: "nö".into(), code: Some("MINE".into()), stack: Some("at f".into()) };
    assert!(pair.session.respond(request.id, Outcome::Error(&error), pair.now));
    pair.drive();
    let answer = pair.next_sent().1;
    assert_eq!((&answer["kind"], &answer["id"], &answer["flags"]), (&json!("ERROR"), &json!(99), &json!(0)));
    assert_eq!((&answer["code"], &answer["message"], &answer["stack"]), (&json!("MINE"), &json!("nö"), &json!("at f")));
    assert!(pair.sent.is_empty());
}

#[test]
fn a_longer_chain_comes_with_the_call() {
    let mut pair = Pair::connected_v2(config());
    let conn = pair.conn(0);
    let chain = ["web", "user", "order"];
    pair.send_bytes(conn, &Call { root: 0, section: Some(("r", 3, &chain)), ..wire2::call(5) }.frame());
    let context = pair.next_request().context;
    let whole = context.to_context("user", "order");
    assert_eq!((whole.root.as_str(), whole.depth, whole.deadline_ms), ("r", 3, START_MS + 1000));
    assert_eq!(whole.chain, chain);
    let mut json = Vec::new();
    context.write_json("user", "order", &mut json);
    assert_eq!(serde_json::from_slice::<Value>(&json).unwrap(), serde_json::to_value(&whole).unwrap());
}

#[test]
fn names_are_told_once_and_may_be_forgotten() {
    let mut pair = Pair::connected_v2(config());
    let conn = pair.conn(0);
    pair.send_bytes(conn, &wire2::name(4095, "last"));
    pair.send_bytes(conn, &wire2::name(0, "web"));
    let from = |pair: &mut Pair, name| {
        pair.send_bytes(conn, &Call { name, ..wire2::call(u64::from(name) + 1) }.frame());
        pair.next_request().from
    };
    assert_eq!([from(&mut pair, 0), from(&mut pair, 4095)].map(|name| name.to_string()), ["web", "last"]);
    pair.send_bytes(conn, &wire2::frame(wire2::NAME, 1, 0, 3, b"again"));
    assert_eq!(&*from(&mut pair, 3), "again");
    pair.send_bytes(conn, &Call { name: 4095, ..wire2::call(77) }.frame());
    assert_eq!(pair.closed.len(), 1, "its name was forgotten");
}

#[test]
fn what_cannot_be_worked_on_is_answered_at_once() {
    let mut pair = Pair::connected_v2(SessionConfig { requests_max: 1, ..config() });
    let conn = pair.conn(0);
    let base = || wire2::call(5);
    let deep = Some(("r", DEPTH_MAX + 1, &["user", "order"][..]));
    let refused = [
        (Call { method: "nope", ..base() }, ErrorCode::MethodNotFound),
        (Call { section: deep, ..base() }, ErrorCode::MaxDepthExceeded),
        (Call { codec: 9, ..base() }, ErrorCode::DeserializationFailed),
        (Call { payload: b"{", ..base() }, ErrorCode::DeserializationFailed),
        (Call { payload: b"1],[2", ..base() }, ErrorCode::DeserializationFailed),
        (Call { codec: 2, payload: b"\x92\x01", ..base() }, ErrorCode::DeserializationFailed),
    ];
    for (call, expected) in refused {
        pair.send_bytes(conn, &call.frame());
        let answer = pair.next_sent().1;
        assert_eq!((&answer["kind"], &answer["id"]), (&json!("ERROR"), &json!(5)));
        assert_eq!(answer["code"], expected.as_str());
        assert!(pair.events.is_empty() && pair.session.is_connected());
        pair.send_bytes(conn, &Call { kind: 5, id: 0, ..call }.frame());
        assert!(pair.sent.is_empty() && pair.events.is_empty(), "nobody waits for it");
    }
    assert_eq!(pair.session.counters().requests_refused, 12);
    pair.send_bytes(conn, &Call { method: "bro.ping", ..base() }.frame());
    assert_eq!(pair.next_sent().1["payload"], json!({"pong": true}));
    pair.send_bytes(conn, &base().frame());
    pair.send_bytes(conn, &wire2::call(6).frame());
    assert_eq!(pair.next_sent().1["code"], "OVERLOADED");
    pair.send_bytes(conn, &Call { codec: 0, payload: b"", ..base() }.frame());
    assert_eq!(pair.closed.len(), 1, "a number that is taken");
}

#[test]
fn a_request_ends_at_its_deadline_whatever_the_wall_clock_does() {
    let mut pair = Pair::connected_v2(SessionConfig { timeout_ms: 2000, ..config() });
    let conn = pair.conn(0);
    pair.send_bytes(conn, &wire2::call(5).frame());
    pair.send_bytes(conn, &Call { timeout_ms: 0, ..wire2::call(6) }.frame());
    let (short, long) = (pair.next_request(), pair.next_request());
    pair.now.wall_ms += 1_000_000;
    for (request, number) in [(short, 5), (long, 6)] {
        pair.pass_ms(999);
        assert!(pair.events.is_empty());
        pair.pass_ms(2);
        let SessionEvent::RequestExpired { id, reason } = pair.next_event() else { panic!("expired") };
        assert_eq!((id, reason), (request.id, ErrorCode::Timeout));
        let answer = pair.next_sent().1;
        assert_eq!((&answer["id"], &answer["code"]), (&json!(number), &json!("TIMEOUT")));
        assert!(!pair.session.respond(request.id, Outcome::Success(ONE), pair.now));
    }
}

#[test]
fn a_request_that_is_cancelled_is_not_answered() {
    let mut pair = Pair::connected_v2(config());
    let conn = pair.conn(0);
    for (flags, expected) in
        [(0, ErrorCode::Cancelled), (1, ErrorCode::Timeout), (2, ErrorCode::ConnectionLost), (3, ErrorCode::Cancelled)]
    {
        pair.send_bytes(conn, &wire2::call(5).frame());
        let request = pair.next_request();
        pair.send_bytes(conn, &wire2::frame(CANCEL, flags, 0, 5, &[]));
        let SessionEvent::RequestExpired { id, reason } = pair.next_event() else { panic!("expired") };
        assert_eq!((id, reason), (request.id, expected));
        assert!(!pair.session.respond(request.id, Outcome::Success(ONE), pair.now));
        pair.drive();
        assert!(pair.sent.is_empty());
        assert_eq!(pair.session.status().requests_in_work, 0);
        pair.send_bytes(conn, &wire2::frame(CANCEL, flags, 0, 5, &[]));
        assert!(pair.events.is_empty(), "unknown by now");
    }
    pair.send_bytes(conn, &wire2::call(5).frame());
    assert!(pair.session.respond(pair.events.pop_front().map(request_id).unwrap(), Outcome::Success(ONE), pair.now));
    pair.send_bytes(conn, &wire2::frame(CANCEL, 0, 0, 5, &[]));
    assert!(pair.events.is_empty(), "answered before");
}

fn request_id(event: SessionEvent) -> bro_session::RequestId {
    match event {
        SessionEvent::Request(request) => request.id,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_cancel_means_the_connection_on_which_it_comes() {
    let mut pair = Pair::connected_v2(SessionConfig { pool_size: 2, ..config() });
    let (first, second) = (pair.conn(0), pair.conn(1));
    pair.send_bytes(first, &wire2::call(5).frame());
    pair.send_bytes(second, &wire2::call(5).frame());
    let (_, kept) = (pair.next_request(), pair.next_request());
    pair.send_bytes(first, &wire2::frame(CANCEL, 0, 0, 5, &[]));
    pair.hang_up(first);
    assert!(pair.session.respond(kept.id, Outcome::Success(ONE), pair.now));
    pair.drive();
    assert_eq!(pair.next_sent().0, second);
}

#[test]
fn a_notification_is_worked_on_and_not_answered() {
    let mut pair = Pair::connected_v2(config());
    let conn = pair.conn(0);
    for _ in 0..2 {
        pair.send_bytes(conn, &Call { kind: 5, id: 0, origin: 0, ..wire2::call(0) }.frame());
    }
    let (done, late) = (pair.next_request(), pair.next_request());
    assert!(!done.wants_answer && pair.session.is_in_work(done.id));
    // It has no number to be named by.
    let nested = bro_session::CallRequest::new("role", "get", ONE);
    pair.session.call(bro_session::CallRequest { request: Some(done.id), ..nested }, pair.now).unwrap();
    pair.drive();
    let sent = pair.sent.pop_back().unwrap().1;
    assert_eq!((&sent["parent"], &sent["section"]["chain"]), (&json!(0), &json!(["user", "order", "role"])));
    pair.sent.clear();
    assert!(pair.session.respond(done.id, Outcome::Success(ONE), pair.now));
    pair.pass_ms(1001);
    let expired = pair.take_event(|event| matches!(event, SessionEvent::RequestExpired { .. }));
    assert!(matches!(expired, SessionEvent::RequestExpired { id, .. } if id == late.id));
    assert!(pair.sent.is_empty());
    assert_eq!(pair.session.status().requests_in_work, 0);
}

#[test]
fn results_that_cannot_be_sent_are_answered_with_the_reason() {
    let mut pair = Pair::connected_v2(SessionConfig { frame_bytes_max: REGISTER_BYTES_MAX, ..config() });
    let conn = pair.conn(0);
    let huge = text(REGISTER_BYTES_MAX);
    let deep = ["[".repeat(200), "]".repeat(200)].concat().into_bytes();
    let long = ErrorBody::new(ErrorCode::ExecutionFailed, "x".repeat(REGISTER_BYTES_MAX));
    for (outcome, expected) in [
        (Outcome::Success(Payload { bytes: &huge, ..ONE }), "PAYLOAD_TOO_LARGE"),
        (Outcome::Success(Payload { bytes: &huge[..REGISTER_BYTES_MAX - 11], ..ONE }), "PAYLOAD_TOO_LARGE"),
        (Outcome::Success(Payload { bytes: &deep, ..ONE }), "SERIALIZATION_FAILED"),
        (Outcome::Error(&long), "PAYLOAD_TOO_LARGE"),
    ] {
        pair.send_bytes(conn, &wire2::call(5).frame());
        let request = pair.next_request();
        assert!(pair.session.respond(request.id, outcome, pair.now));
        pair.drive();
        let answer = pair.next_sent().1;
        assert_eq!((&answer["kind"], &answer["code"]), (&json!("ERROR"), &json!(expected)));
        assert!(matches!(pair.next_event(), SessionEvent::Error(_)));
    }
    assert!(pair.sent.is_empty());
}

#[test]
fn answers_stay_bounded_while_the_gateway_does_not_read() {
    let frame_bytes_max = REGISTER_BYTES_MAX;
    let mut pair = Pair::connected_v2(SessionConfig { queue_bytes_max: 100_000, frame_bytes_max, ..config() });
    let conn = pair.conn(0);
    for id in 1..=4 {
        pair.send_bytes(conn, &wire2::call(id).frame());
    }
    let large = text(700_000);
    for _ in 0..4 {
        let id = pair.next_request().id;
        assert!(pair.session.respond(id, Outcome::Success(Payload { bytes: &large, ..ONE }), pair.now));
    }
    pair.drive();
    let kinds: Vec<_> = pair.sent.iter().map(|(_, answer)| answer["kind"].clone()).collect();
    assert_eq!(kinds, ["RESPONSE", "ERROR", "ERROR", "ERROR"]);
    assert_eq!(pair.sent[1].1["code"], "OVERLOADED");

    // Small answers that nothing holds back end the connection some time.
    let ping = Bytes::from(wire2::frame(wire2::PING, 0, 0, 3, &[]).repeat(10_000));
    let mut rounds = 0;
    while pair.session.outbound(conn).is_some() {
        pair.session.handle_bytes(conn, &ping, pair.now);
        rounds += 1;
        assert!(rounds < 1000, "it ends");
    }
    pair.drive();
    pair.take_event(|event| matches!(event, SessionEvent::Error(error) if error.message.contains("does not read")));
}
