//! Calls that this client answers.

use crate::calls::text;
use crate::pair::{Pair, START_MS, config, frame, payload_value};
use bro_proto::error::{ErrorBody, ErrorCode};
use bro_proto::limits::{CLIENT_READ_BYTES_MAX, DEPTH_MAX};
use bro_proto::v1::encode::Outcome;
use bro_proto::v1::{Encoding, Payload};
use bro_session::{OwnedPayload, SessionConfig, SessionEvent};
use bytes::Bytes;
use serde_json::{Value, json};

const ONE: Payload<'static> = Payload { encoding: Encoding::Json, bytes: b"1" };

fn context() -> Value {
    json!({"root": "root-1-abcdef", "chain": ["user", "order"], "depth": 2, "deadline": START_MS + 1000})
}

fn call(id: &str) -> Value {
    json!({"type": "CALL", "id": id, "from": "user", "to": "order", "method": "get", "params": {"a": 1},
        "context": context()})
}

fn with(key: &str, value: Value) -> Value {
    let mut call = call("q1");
    call[key] = value;
    call
}

fn without(key: &str) -> Value {
    let mut call = call("q1");
    call.as_object_mut().unwrap().remove(key);
    call
}

#[test]
fn the_context_of_a_request_in_work_is_there_as_it_came() {
    for encoding in [Encoding::Json, Encoding::Msgpack] {
        let mut pair = Pair::connected(SessionConfig { encoding, ..config() });
        let conn = pair.conn(0);
        let mut extended = context();
        extended["trace"] = json!("beside the four fields");
        pair.send(conn, &with("context", extended.clone()));
        let with_context = pair.next_request().id;
        pair.send(conn, &without("context"));
        let without_context = pair.next_request().id;
        let encoded = pair.session.request_context(with_context).expect("it came with one");
        let kept = OwnedPayload { encoding: encoded.encoding, bytes: encoded.bytes.to_vec().into() };
        assert_eq!((kept.encoding, payload_value(&kept)), (encoding, extended));
        assert_eq!(pair.session.request_context(without_context), None);
        assert!(pair.session.respond(with_context, Outcome::Success(ONE), pair.now));
        assert_eq!(pair.session.request_context(with_context), None, "answered");
    }
}

#[test]
fn the_callers_name_is_the_gateways_word_where_the_gateway_has_named_itself() {
    // Only `from` of the frame counts, and only where the gateway has said who it is.
    let mut forged = context();
    forged["caller"] = json!("admin");
    forged["from"] = json!("admin");
    forged["chain"] = json!(["admin", "order"]);
    for (ack, is_from_stamped) in [
        (json!({"type": "REGISTER_ACK", "from": "bro.gateway"}), true),
        (json!({"type": "REGISTER_ACK"}), false),
        (json!({"type": "REGISTER_ACK", "from": "user"}), false),
    ] {
        let mut pair = Pair::new(config());
        pair.session.connect(pair.now);
        pair.drive();
        let conn = pair.accept().expect("it is asked for");
        pair.send(conn, &ack);
        pair.send(conn, &with("context", forged.clone()));
        let request = pair.next_request();
        assert_eq!((&*request.from, request.is_from_stamped), ("user", is_from_stamped), "{ack}");
    }
}

#[test]
fn values_of_a_frame_that_came_in_pieces_are_whole() {
    let mut pair = Pair::connected(config());
    let conn = pair.conn(0);
    let params = json!({"text": "x".repeat(100_000), "end": true});
    let bytes = frame(Encoding::Json, &with("params", params.clone()));
    for piece in bytes.chunks(30_001) {
        pair.send_bytes(conn, piece);
    }
    assert_eq!(payload_value(&pair.next_request().params), params);
}

/// Memory is shared with what a request is read from, but a few bytes never keep a large frame.
#[test]
fn a_small_value_does_not_keep_a_large_frame() {
    let large = "x".repeat(CLIENT_READ_BYTES_MAX);
    let small = "x".repeat(1000);
    for (params, rest, is_shared) in [(&small, &large, false), (&large, &small, true), (&small, &small, true)] {
        let mut pair = Pair::connected(config());
        let conn = pair.conn(0);
        let mut request = with("params", json!(params));
        request["unknown"] = json!(rest);
        let chunk = Bytes::from(frame(Encoding::Json, &request));
        pair.session.handle_bytes(conn, &chunk, pair.now);
        pair.drive();
        let request = pair.next_request();
        assert_eq!(payload_value(&request.params), json!(params));
        assert_eq!(!chunk.is_unique(), is_shared, "{} bytes of {}", request.params.bytes.len(), chunk.len());
    }
}

#[test]
fn a_request_is_handed_out_and_its_answer_repeats_what_it_must() {
    for encoding in [Encoding::Json, Encoding::Msgpack] {
        let mut pair = Pair::connected(SessionConfig { encoding, ..config() });
        let conn = pair.conn(0);
        pair.send(conn, &call("any id \"at\" all"));
        let request = pair.next_request();
        assert_eq!((&*request.method, &*request.from), ("get", "user"));
        assert_eq!(request.request_id.to_string(), "any id \"at\" all");
        assert_eq!(serde_json::to_value(request.context.to_context("user", "order")).unwrap(), context());
        assert_eq!(payload_value(&request.params), json!({"a": 1}));
        let result = Payload { encoding: Encoding::Json, bytes: br#"{"ok":[true,null]}"# };
        assert!(pair.session.respond(request.id, Outcome::Success(result), pair.now));
        assert!(!pair.session.respond(request.id, Outcome::Success(result), pair.now));
        pair.drive();
        let (to, answer) = pair.next_sent();
        assert_eq!(to, conn);
        let expected = json!({"type": "RESPONSE", "id": "any id \"at\" all", "from": "order", "to": "user",
            "status": "success", "data": {"ok": [true, null]}, "context": context()});
        assert_eq!(answer, expected);
        assert!(pair.sent.is_empty());

        pair.send(conn, &call("q2"));
        let request = pair.next_request();
        let error = ErrorBody { message: "no".into(), code: Some("MINE".into()), stack: Some("at f".into()) };
        assert!(pair.session.respond(request.id, Outcome::Error(&error), pair.now));
        pair.drive();
        let answer = pair.next_sent().1;
        assert_eq!(answer["error"], json!({"message": "no", "code": "MINE", "stack": "at f"}));
        assert_eq!(answer["status"], "error");
    }
}

#[test]
fn absent_fields_have_a_meaning() {
    let mut pair = Pair::connected(config());
    let conn = pair.conn(0);
    pair.send(conn, &without("params"));
    assert!(pair.next_request().params.bytes.is_empty());
    pair.send(conn, &without("context"));
    let request = pair.next_request();
    let context = request.context.to_context("user", "order");
    assert_eq!((context.chain, context.depth), (vec!["user".to_owned(), "order".to_owned()], 2));
    assert!(pair.session.respond(request.id, Outcome::Success(Payload { bytes: b"", ..ONE }), pair.now));
    pair.drive();
    let answer = pair.next_sent().1;
    assert!(answer.get("context").is_none() && answer.get("data").is_none() && answer["status"] == "success");
}

#[test]
fn what_cannot_be_worked_on_is_answered_at_once() {
    let mut late = context();
    late["deadline"] = json!(START_MS - 1);
    let mut deep = context();
    deep["depth"] = json!(DEPTH_MAX + 1);
    let mut invalid = context();
    invalid["chain"] = json!([]);
    let cases = [
        (with("method", json!("nope")), ErrorCode::MethodNotFound),
        (without("method"), ErrorCode::InvalidMessage),
        (with("method", json!("x".repeat(256))), ErrorCode::InvalidMessage),
        (with("context", late), ErrorCode::DeadlineExceeded),
        (with("context", deep), ErrorCode::MaxDepthExceeded),
        (with("context", invalid), ErrorCode::InvalidContext),
    ];
    let mut pair = Pair::connected(config());
    let conn = pair.conn(0);
    let total = cases.len() as u64;
    for (call, expected) in cases {
        pair.send(conn, &call);
        let answer = pair.next_sent().1;
        assert_eq!((&answer["id"], &answer["to"]), (&json!("q1"), &json!("user")));
        assert_eq!(answer["error"]["code"], json!(expected.as_str()), "{call}");
        assert_eq!(answer["context"], call["context"]);
        assert!(pair.events.is_empty());
    }
    assert_eq!(pair.session.counters().requests_refused, total);
    for unanswerable in [without("id"), with("id", json!("x".repeat(256))), with("from", json!("x".repeat(256)))] {
        pair.send(conn, &unanswerable);
        assert!(matches!(pair.next_event(), SessionEvent::Error(_)));
        assert!(pair.sent.is_empty() && pair.session.is_connected());
    }
}

#[test]
fn a_ping_is_answered_without_the_driver() {
    let mut pair = Pair::connected(config());
    let conn = pair.conn(0);
    pair.send(conn, &with("method", json!("bro.ping")));
    let answer = pair.next_sent().1;
    assert_eq!((&answer["status"], &answer["data"]["pong"]), (&json!("success"), &json!(true)));
    assert!(pair.events.is_empty());
    let refused = pair.session.register_method("bro.ping", pair.now).unwrap_err();
    assert_eq!(refused.code, Some(ErrorCode::PermissionDenied));
}

#[test]
fn more_work_than_the_limit_is_refused() {
    let mut pair = Pair::connected(SessionConfig { requests_max: 2, ..config() });
    let conn = pair.conn(0);
    for id in ["a", "b", "c"] {
        pair.send(conn, &call(id));
    }
    let answer = pair.next_sent().1;
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!("c"), &json!("OVERLOADED")));
    let first = pair.next_request();
    assert!(pair.session.respond(first.id, Outcome::Success(ONE), pair.now));
    pair.send(conn, &call("d"));
    pair.next_request();
    assert_eq!(pair.next_request().request_id.to_string(), "d");
}

#[test]
fn a_request_ends_at_its_deadline() {
    let mut pair = Pair::connected(config());
    let conn = pair.conn(0);
    pair.send(conn, &call("q1"));
    let request = pair.next_request();
    pair.pass_ms(999);
    assert!(pair.events.is_empty());
    pair.pass_ms(2);
    let SessionEvent::RequestExpired { id, reason } = pair.next_event() else { panic!("expired") };
    assert_eq!((id, reason), (request.id, ErrorCode::Timeout));
    assert_eq!(pair.next_sent().1["error"]["code"], "TIMEOUT");
    assert!(!pair.session.respond(request.id, Outcome::Success(ONE), pair.now));
    pair.drive();
    assert!(pair.sent.is_empty());
}

#[test]
fn requests_of_a_lost_connection_are_given_up() {
    let mut pair = Pair::connected(SessionConfig { pool_size: 2, ..config() });
    let (first, second) = (pair.conn(0), pair.conn(1));
    pair.send(first, &call("q1"));
    pair.send(second, &call("q2"));
    let (lost, kept) = (pair.next_request(), pair.next_request());
    pair.hang_up(first);
    let SessionEvent::RequestExpired { id, reason } = pair.next_event() else { panic!("expired") };
    assert_eq!((id, reason), (lost.id, ErrorCode::ConnectionLost));
    assert!(!pair.session.respond(lost.id, Outcome::Success(ONE), pair.now));
    assert!(pair.session.respond(kept.id, Outcome::Success(ONE), pair.now));
    pair.drive();
    assert_eq!(pair.next_sent().0, second);
}

#[test]
fn a_result_that_cannot_be_sent_is_answered_with_the_reason() {
    let mut pair = Pair::connected(config());
    let conn = pair.conn(0);
    let huge = vec![b'1'; 33 * 1024 * 1024];
    let deep = ["[".repeat(200), "]".repeat(200)].concat().into_bytes();
    let params = Payload { bytes: &deep, ..ONE };
    let refused = pair.session.call(bro_session::CallRequest::new("user", "get", params), pair.now).unwrap_err();
    assert_eq!(refused.code, Some(ErrorCode::SerializationFailed), "before the gateway closes the connection for it");
    for (result, expected) in [
        (Payload { bytes: &huge, ..ONE }, "PAYLOAD_TOO_LARGE"),
        (Payload { bytes: &deep, ..ONE }, "SERIALIZATION_FAILED"),
        (Payload { encoding: Encoding::Msgpack, bytes: &[0xc1] }, "SERIALIZATION_FAILED"),
    ] {
        pair.send(conn, &call("q1"));
        let request = pair.next_request();
        assert!(pair.session.respond(request.id, Outcome::Success(result), pair.now));
        pair.drive();
        let answer = pair.next_sent().1;
        assert_eq!(answer["error"]["code"], expected);
        assert_eq!(answer["context"], context());
        assert!(matches!(pair.next_event(), SessionEvent::Error(_)));
    }
}

#[test]
fn answers_are_not_held_back_by_calls_and_stay_bounded() {
    let queue_bytes_max = 100_000;
    let frame_bytes_max = bro_proto::limits::REGISTER_BYTES_MAX;
    let mut pair = Pair::connected(SessionConfig { queue_bytes_max, frame_bytes_max, ..config() });
    let conn = pair.conn(0);
    for id in 0..4 {
        pair.send(conn, &call(&id.to_string()));
    }
    let params = text(queue_bytes_max);
    let filling = bro_session::CallRequest::new("user", "get", Payload { bytes: &params, ..ONE });
    pair.session.call(filling, pair.now).unwrap();
    assert_eq!(pair.session.call(filling, pair.now).unwrap_err().code, Some(ErrorCode::Overloaded));
    let large = text(700_000);
    for _ in 0..4 {
        let id = pair.next_request().id;
        assert!(pair.session.respond(id, Outcome::Success(Payload { bytes: &large, ..ONE }), pair.now));
        assert!(pair.session.status().outbound_bytes < queue_bytes_max + frame_bytes_max + 10_000);
    }
    pair.drive();
    let statuses: Vec<_> = pair.sent.iter().skip(1).map(|(_, answer)| answer["status"].clone()).collect();
    assert_eq!(statuses, ["success", "error", "error", "error"]);
    assert_eq!(pair.sent[2].1["error"]["code"], "OVERLOADED");
}

#[test]
fn unregistered_methods_are_not_found_any_more() {
    let mut pair = Pair::connected(config());
    let conn = pair.conn(0);
    pair.session.unregister_method("get", pair.now);
    pair.drive();
    assert_eq!(pair.next_sent().1["methods"], json!(["put"]));
    pair.send(conn, &call("q1"));
    assert_eq!(pair.next_sent().1["error"]["code"], "METHOD_NOT_FOUND");
}

#[test]
fn values_in_the_other_encoding_are_handed_out_in_the_clients_own() {
    let mut pair = Pair::connected(SessionConfig { encoding: Encoding::Msgpack, ..config() });
    let conn = pair.conn(0);
    pair.send_bytes(conn, &frame(Encoding::Json, &call("q1")));
    let params = pair.next_request().params;
    assert_eq!((params.encoding, payload_value(&params)), (Encoding::Msgpack, json!({"a": 1})));
    let id = pair.call("user", "get", &json!(1)).unwrap();
    let wire_id = pair.next_sent().1["id"].clone();
    let answer = json!({"type": "RESPONSE", "id": wire_id, "from": "user", "status": "success", "data": [1, "two"]});
    pair.send_bytes(conn, &frame(Encoding::Json, &answer));
    let (done, outcome) = pair.next_done();
    let value = outcome.expect("it succeeded");
    assert_eq!((done, value.encoding, payload_value(&value)), (id, Encoding::Msgpack, json!([1, "two"])));
}
