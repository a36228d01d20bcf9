//! Calls that this client makes.

use crate::pair::{Pair, START_MS, code, config, frame, payload_value};
use bro_proto::context::CallContext;
use bro_proto::error::ErrorCode;
use bro_proto::limits::DEPTH_MAX;
use bro_proto::v1::{Encoding, Payload};
use bro_session::{CallRequest, Origin, SessionConfig, SessionEvent};
use bytes::Bytes;
use serde_json::{Value, json};

const ONE: Payload<'static> = Payload { encoding: Encoding::Json, bytes: b"1" };

/// A JSON string of so many bytes.
pub(crate) fn text(bytes: usize) -> Vec<u8> {
    serde_json::to_vec(&"x".repeat(bytes - 2)).unwrap()
}

fn success(id: &Value, data: &Value) -> Value {
    json!({"type": "RESPONSE", "id": id, "from": "user", "to": "order", "status": "success", "data": data})
}

#[test]
fn a_call_goes_out_as_the_wire_says_and_its_answer_ends_it() {
    for encoding in [Encoding::Json, Encoding::Msgpack] {
        let mut pair = Pair::connected(SessionConfig { encoding, ..config() });
        let id = pair.call("user", "getUser", &json!({"id": 7, "tags": ["ü"]})).unwrap();
        let (conn, call) = pair.next_sent();
        let wire_id = call["id"].as_str().unwrap();
        assert!(wire_id.starts_with(&format!("req-{START_MS}-")) && wire_id.len() == 24, "{wire_id}");
        assert!(call["context"]["root"].as_str().unwrap().starts_with(&format!("root-{START_MS}-")));
        assert_eq!(call["context"]["deadline"].as_f64(), Some((START_MS + 30_000) as f64));
        assert_eq!((&call["context"]["chain"], &call["context"]["depth"]), (&json!(["order", "user"]), &json!(2)));
        assert_eq!((&call["type"], &call["from"], &call["to"]), (&json!("CALL"), &json!("order"), &json!("user")));
        assert_eq!((&call["method"], &call["params"]), (&json!("getUser"), &json!({"id": 7, "tags": ["ü"]})));
        pair.send(conn, &success(&call["id"], &json!({"name": "x"})));
        match pair.next_event() {
            SessionEvent::CallDone { id: done, request_id, outcome, origin } => {
                assert_eq!((done, request_id.to_string().as_str(), origin), (id, wire_id, Origin::Service));
                assert_eq!(payload_value(&outcome.unwrap()), json!({"name": "x"}));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(pair.session.status().pending_calls, 0);
    }
}

/// Who has lost a call wants to know why, and that is all that says so.
#[test]
fn what_the_gateway_says_before_it_closes_the_connection_is_the_reason() {
    let mut pair = Pair::connected(config());
    pair.call("user", "get", &json!(1)).unwrap();
    let (conn, _) = pair.next_sent();
    let error = json!({"message": format!("no memory{}", "!".repeat(10_000)), "code": "RESOURCE_EXHAUSTED"});
    pair.send(conn, &json!({"type": "ERROR", "error": error, "timestamp": 5}));
    assert!(matches!(pair.next_event(), SessionEvent::GatewayError(_)));
    pair.hang_up(conn);
    let lost = pair.next_done().1.unwrap_err();
    assert_eq!(lost.code, Some(ErrorCode::ConnectionLost));
    assert!(lost.message.contains("RESOURCE_EXHAUSTED: no memory!!"), "{}", lost.message);
    assert!(lost.message.len() < 1000, "{} bytes are kept", lost.message.len());
}

#[test]
fn payloads_of_whole_frames_are_not_copied() {
    let mut pair = Pair::connected(config());
    pair.call("user", "get", &json!(1)).unwrap();
    let (conn, call) = pair.next_sent();
    let chunk = Bytes::from(frame(Encoding::Json, &success(&call["id"], &json!("x".repeat(1000)))));
    pair.session.handle_bytes(conn, &chunk, pair.now);
    pair.drive();
    let result = pair.next_done().1.unwrap();
    assert!(chunk.as_ptr_range().contains(&result.bytes.as_ptr()));
    assert_eq!(result.bytes.len(), 1002);
}

#[test]
fn an_answer_may_come_in_single_bytes() {
    let mut pair = Pair::connected(config());
    for _ in 0..2 {
        pair.call("user", "get", &json!(1)).unwrap();
    }
    let (conn, first) = pair.next_sent();
    let (_, second) = pair.next_sent();
    let mut bytes = frame(Encoding::Json, &success(&first["id"], &json!([1, 2])));
    bytes.extend(frame(Encoding::Json, &success(&second["id"], &json!([3]))));
    for byte in bytes {
        pair.send_bytes(conn, &[byte]);
    }
    assert_eq!(payload_value(&pair.next_done().1.unwrap()), json!([1, 2]));
    assert_eq!(payload_value(&pair.next_done().1.unwrap()), json!([3]));
}

#[test]
fn calls_take_turns_on_the_connections_of_a_pool() {
    let mut pair = Pair::connected(SessionConfig { pool_size: 3, ..config() });
    let lost = pair.conn(1);
    for _ in 0..3 {
        pair.call("user", "get", &json!(1)).unwrap();
    }
    assert_eq!(pair.sent.drain(..).map(|(conn, _)| conn.index).collect::<Vec<_>>(), [0, 1, 2]);
    pair.hang_up(lost);
    let (_, outcome) = pair.next_done();
    assert_eq!(code(outcome), ErrorCode::ConnectionLost, "only the call on that connection");
    assert_eq!(pair.session.status().pending_calls, 2);
    for _ in 0..4 {
        pair.call("user", "get", &json!(1)).unwrap();
    }
    assert_eq!(pair.sent.drain(..).map(|(conn, _)| conn.index).collect::<Vec<_>>(), [0, 2, 0, 2]);
}

#[test]
fn an_answer_counts_on_every_connection_of_the_pool() {
    let mut pair = Pair::connected(SessionConfig { pool_size: 2, ..config() });
    pair.call("user", "get", &json!(1)).unwrap();
    let (conn, call) = pair.next_sent();
    let other = pair.conn(1 - conn.index);
    pair.send(other, &success(&call["id"], &json!(5)));
    assert_eq!(payload_value(&pair.next_done().1.unwrap()), json!(5));
}

#[test]
fn a_nested_call_extends_its_parent_and_keeps_its_deadline() {
    let mut pair = Pair::connected(config());
    let parent = CallContext {
        root: "root-1-abcdef".into(),
        chain: vec!["web".into(), "order".into()],
        depth: 2,
        deadline_ms: START_MS + 700,
    };
    let call = CallRequest { parent: Some(&parent), ..CallRequest::new("user", "get", ONE) };
    let id = pair.session.call(call, pair.now).unwrap();
    pair.drive();
    let expected = json!({"root": "root-1-abcdef", "chain": ["web", "order", "user"], "depth": 3,
        "deadline": START_MS + 700});
    assert_eq!(pair.next_sent().1["context"], expected);
    // A longer chain before a shorter one: nothing of it may be left over.
    pair.call("role", "get", &json!(1)).unwrap();
    assert_eq!(pair.next_sent().1["context"]["chain"], json!(["order", "role"]));
    pair.pass_ms(699);
    assert!(pair.events.is_empty());
    pair.pass_ms(2);
    let (ended, outcome) = pair.next_done();
    assert_eq!((ended, code(outcome)), (id, ErrorCode::Timeout));

    let far = CallContext { deadline_ms: pair.now.wall_ms + 1_000_000, ..parent };
    let call = CallRequest { parent: Some(&far), timeout_ms: Some(50), ..CallRequest::new("user", "get", ONE) };
    pair.session.call(call, pair.now).unwrap();
    pair.drive();
    assert_eq!(pair.next_sent().1["context"]["deadline"], json!(pair.now.wall_ms + 50));
}

#[test]
fn a_context_of_ones_own_is_sent_as_it_is() {
    let mut pair = Pair::connected(config());
    let context =
        CallContext { root: "mine".into(), chain: vec!["a".into()], depth: 1, deadline_ms: START_MS + 5_000_000 };
    let call = CallRequest { context: Some(&context), ..CallRequest::new("user", "get", ONE) };
    pair.session.call(call, pair.now).unwrap();
    pair.drive();
    assert_eq!(pair.next_sent().1["context"], serde_json::to_value(&context).unwrap());
    let bad = CallContext { chain: vec![], ..context };
    let call = CallRequest { context: Some(&bad), ..CallRequest::new("user", "get", ONE) };
    assert_eq!(code(pair.session.call(call, pair.now)), ErrorCode::InvalidContext);
}

#[test]
fn what_cannot_succeed_fails_at_once_and_leaves_nothing() {
    let mut pair = Pair::connected(config());
    let now = pair.now;
    let deep = CallContext { root: "r".into(), chain: vec!["a".into()], depth: DEPTH_MAX, deadline_ms: START_MS + 1 };
    let late = CallContext { depth: 1, deadline_ms: START_MS - 1, ..deep.clone() };
    let base = CallRequest::new("user", "get", ONE);
    let huge = vec![b'1'; 33 * 1024 * 1024];
    let long = "x".repeat(256);
    let cases = [
        (CallRequest { parent: Some(&deep), ..base }, ErrorCode::MaxDepthExceeded),
        (CallRequest { parent: Some(&late), ..base }, ErrorCode::DeadlineExceeded),
        (CallRequest { context: Some(&late), ..base }, ErrorCode::DeadlineExceeded),
        (CallRequest { to: "", ..base }, ErrorCode::InvalidArgument),
        (CallRequest { to: &long, ..base }, ErrorCode::InvalidArgument),
        (CallRequest { method: "a\u{7}", ..base }, ErrorCode::InvalidArgument),
        (CallRequest { params: Payload { bytes: &huge, ..ONE }, ..base }, ErrorCode::PayloadTooLarge),
        (
            CallRequest { params: Payload { encoding: Encoding::Msgpack, bytes: &[0xc1] }, ..base },
            ErrorCode::SerializationFailed,
        ),
    ];
    for (call, expected) in cases {
        assert_eq!(code(pair.session.call(call, now)), expected);
        pair.drive();
        assert!(pair.events.is_empty() && pair.sent.is_empty());
        assert_eq!(pair.session.status().pending_calls, 0);
    }
    assert_eq!(code(Pair::new(config()).call("user", "get", &json!(1))), ErrorCode::NotConnected);
}

#[test]
fn an_error_frame_of_an_old_gateway_ends_its_call_at_once() {
    let mut pair = Pair::connected(config());
    let id = pair.call("nobody", "get", &json!(1)).unwrap();
    let (conn, call) = pair.next_sent();
    let error = json!({"message": "Service not found", "code": "SERVICE_NOT_FOUND"});
    pair.send(conn, &json!({"type": "ERROR", "id": call["id"], "error": error, "timestamp": 5}));
    assert!(matches!(pair.next_event(), SessionEvent::GatewayError(error) if error.message == "Service not found"));
    match pair.next_event() {
        SessionEvent::CallDone { id: done, outcome, origin, .. } => {
            assert_eq!((done, origin, code(outcome)), (id, Origin::Gateway, ErrorCode::ServiceNotFound));
        }
        other => panic!("{other:?}"),
    }
    assert!(pair.events.is_empty() && pair.session.is_connected());
}

#[test]
fn an_answer_that_the_gateway_wrote_is_a_gateway_error_too() {
    let mut pair = Pair::connected(config());
    let answer = |id: &Value, error: Value| json!({"type": "RESPONSE", "id": id, "status": "error", "error": error});
    pair.call("nobody", "get", &json!(1)).unwrap();
    let (conn, call) = pair.next_sent();
    let mut written = answer(&call["id"], json!({"message": "m", "code": "SERVICE_NOT_FOUND"}));
    written["from"] = json!("bro.gateway");
    pair.send(conn, &written);
    assert!(matches!(pair.next_event(), SessionEvent::GatewayError(_)));
    assert!(matches!(pair.next_event(), SessionEvent::CallDone { origin: Origin::Gateway, .. }));

    pair.call("user", "get", &json!(1)).unwrap();
    let (conn, call) = pair.next_sent();
    pair.send(conn, &answer(&call["id"], json!({"message": "m", "code": "TIMEOUT", "stack": "at x"})));
    match pair.next_event() {
        SessionEvent::CallDone { origin, outcome, .. } => {
            let error = outcome.unwrap_err();
            assert_eq!((origin, error.stack.as_deref()), (Origin::Service, Some("at x")));
            assert_eq!(error.code, Some(ErrorCode::Timeout), "the code does not say whose it is");
        }
        other => panic!("{other:?}"),
    }
    assert!(pair.events.is_empty());
}

#[test]
fn answers_without_what_they_need_end_their_call_with_an_error() {
    let mut pair = Pair::connected(config());
    for (answer, expected) in [
        (json!({"type": "RESPONSE"}), ErrorCode::InvalidMessage),
        (json!({"type": "RESPONSE", "status": "error"}), ErrorCode::ExecutionFailed),
    ] {
        pair.call("user", "get", &json!(1)).unwrap();
        let (conn, call) = pair.next_sent();
        let mut answer = answer;
        answer["id"] = call["id"].clone();
        pair.send(conn, &answer);
        assert_eq!(code(pair.next_done().1), expected);
    }
    pair.call("user", "get", &json!(1)).unwrap();
    let (conn, call) = pair.next_sent();
    pair.send(conn, &json!({"type": "RESPONSE", "id": call["id"], "status": "success"}));
    assert!(pair.next_done().1.unwrap().bytes.is_empty(), "no data is an empty payload");
    pair.send(conn, &json!({"type": "RESPONSE", "status": "success"}));
    assert!(matches!(pair.next_event(), SessionEvent::Error(_)));
    assert!(pair.session.is_connected());
}

#[test]
fn late_answers_are_recognised_and_counted() {
    let mut pair = Pair::connected(SessionConfig { timeout_ms: 100, ..config() });
    let timed_out = pair.call("user", "get", &json!(1)).unwrap();
    let (conn, first) = pair.next_sent();
    pair.pass_ms(99);
    assert!(pair.events.is_empty());
    pair.pass_ms(2);
    let (id, outcome) = pair.next_done();
    assert_eq!((id, code(outcome)), (timed_out, ErrorCode::Timeout));
    assert!(!pair.session.cancel(timed_out, pair.now));

    let cancelled = pair.call("user", "get", &json!(1)).unwrap();
    let (_, second) = pair.next_sent();
    assert!(pair.session.cancel(cancelled, pair.now) && !pair.session.cancel(cancelled, pair.now));

    let live = pair.call("user", "get", &json!(1)).unwrap();
    let (_, third) = pair.next_sent();
    assert_eq!((timed_out.slot, cancelled.slot), (live.slot, live.slot), "one slot, used three times");
    for late in [&first["id"], &second["id"], &json!("req-1-000000"), &json!("made up")] {
        pair.send(conn, &success(late, &json!(0)));
    }
    assert!(pair.events.is_empty());
    assert_eq!(pair.session.counters().late_answers, 4);
    pair.send(conn, &success(&third["id"], &json!(3)));
    let (id, outcome) = pair.next_done();
    assert_eq!((id, payload_value(&outcome.unwrap())), (live, json!(3)));
    pair.send(conn, &success(&third["id"], &json!(3)));
    assert!(pair.events.is_empty(), "answered twice");
}

#[test]
fn calls_are_refused_while_the_gateway_does_not_read() {
    let mut pair = Pair::connected(SessionConfig { queue_bytes_max: 10_000, ..config() });
    let params = text(3000);
    let call = CallRequest::new("user", "get", Payload { encoding: Encoding::Json, bytes: &params });
    let refused = std::iter::repeat_with(|| pair.session.call(call, pair.now)).take(10).filter_map(Result::err);
    let refused: Vec<_> = refused.collect();
    assert_eq!(refused.len(), 6);
    assert_eq!(refused[0].code, Some(ErrorCode::Overloaded));
    pair.drive();
    assert_eq!(pair.sent.len(), 4);
    assert!(pair.session.call(call, pair.now).is_ok());
}
