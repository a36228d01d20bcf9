//! Calls that this client makes in version 2.

use crate::pair::{Pair, START_MS, code, config, payload_value};
use crate::wire2::{self, CANCEL, RESPONSE};
use bro_proto::context::CallContext;
use bro_proto::error::ErrorCode;
use bro_proto::limits::{CHAIN_LEN_MAX, DEPTH_MAX, REGISTER_BYTES_MAX, ROUTES_PER_PEER_MAX};
use bro_proto::v1::encode::Outcome;
use bro_proto::v1::{Encoding, Payload};
use bro_session::{CallRequest, Origin, SessionConfig, SessionEvent};
use bytes::Bytes;
use serde_json::{Value, json};

const ONE: Payload<'static> = Payload { encoding: Encoding::Json, bytes: b"1" };

fn id_of(frame: &Value) -> u64 {
    frame["id"].as_u64().unwrap()
}

fn success(id: u64, json: &[u8]) -> Vec<u8> {
    wire2::frame(RESPONSE, 0, 1, id, json)
}

#[test]
fn a_call_goes_out_behind_its_route_and_its_answer_ends_it() {
    let mut pair = Pair::connected_v2(config());
    let id = pair.call("user", "getUser", &json!({"id": 7, "tags": ["ü"]})).unwrap();
    let (conn, resolve) = pair.next_sent();
    assert_eq!((&resolve["kind"], &resolve["service"]), (&json!("RESOLVE"), &json!("user")));
    let call = pair.next_sent().1;
    assert_eq!((&call["kind"], &call["route"], &call["method"]), (&json!("CALL"), &resolve["id"], &json!("getUser")));
    assert_eq!((&call["parent"], &call["section"]), (&json!(0), &Value::Null));
    assert_eq!((&call["timeout"], &call["codec"]), (&json!(30_000), &json!(1)));
    assert_eq!(call["payload"], json!({"id": 7, "tags": ["ü"]}));
    assert_ne!(id_of(&call), 0);
    pair.send_bytes(conn, &success(id_of(&call), br#"{"name":"x"}"#));
    match pair.next_event() {
        SessionEvent::CallDone { id: done, request_id, outcome, origin } => {
            assert_eq!((done, origin), (id, Origin::Service));
            assert_eq!(request_id.to_string(), format!("req-{}-{:0>6}", id_of(&call) >> 32, 0));
            assert_eq!(payload_value(&outcome.unwrap()), json!({"name": "x"}));
        }
        other => panic!("{other:?}"),
    }
    pair.send_bytes(conn, &success(id_of(&call), b"1"));
    assert!(pair.events.is_empty(), "answered twice");
    assert_eq!((pair.session.counters().late_answers, pair.session.status().pending_calls), (1, 0));

    pair.call("user", "get", &json!(1)).unwrap();
    let (_, again) = pair.next_sent();
    assert_eq!((&again["kind"], &again["route"]), (&json!("CALL"), &call["route"]), "bound already");
    pair.call("role", "get", &json!(1)).unwrap();
    let other = pair.next_sent().1;
    assert_eq!(other["service"], "role");
    assert_ne!(other["id"], resolve["id"]);
}

#[test]
fn routes_are_bound_on_each_connection_and_bound_anew_when_there_are_too_many() {
    let mut pair = Pair::connected_v2(SessionConfig { pool_size: 2, ..config() });
    for _ in 0..2 {
        pair.call("user", "get", &json!(1)).unwrap();
        assert_eq!((&pair.next_sent().1["kind"], &pair.next_sent().1["kind"]), (&json!("RESOLVE"), &json!("CALL")));
    }
    let mut pair = Pair::connected_v2(config());
    let mut bound = std::collections::HashMap::new();
    for round in 0..3 {
        for service in 0..ROUTES_PER_PEER_MAX + 10 {
            let service = service.to_string();
            pair.call(&service, "get", &json!(1)).unwrap();
            let mut frame = pair.next_sent().1;
            if frame["kind"] == "RESOLVE" {
                assert!(id_of(&frame) < 1024);
                bound.insert(id_of(&frame), frame["service"].as_str().unwrap().to_owned());
                frame = pair.next_sent().1;
            }
            assert_eq!(bound[&frame["route"].as_u64().unwrap()], service, "round {round}");
        }
    }
}

#[test]
fn values_leave_as_they_are_and_arrive_in_the_clients_encoding() {
    let mut pair = Pair::connected_v2(config());
    let msgpack = Payload { encoding: Encoding::Msgpack, bytes: b"\x81\xa1a\x01" };
    for (params, codec, value, arrives) in [
        (msgpack, 2, json!({"a": 1}), &br#"{"a":1}"#[..]),
        (Payload { bytes: b"", ..msgpack }, 0, Value::Null, b""),
        (ONE, 1, json!(1), b"1"),
    ] {
        pair.session.call(CallRequest::new("user", "get", params), pair.now).unwrap();
        pair.drive();
        let (conn, mut call) = pair.next_sent();
        if call["kind"] == "RESOLVE" {
            call = pair.next_sent().1;
        }
        assert_eq!((&call["codec"], &call["payload"]), (&json!(codec), &value));
        pair.send_bytes(conn, &wire2::frame(RESPONSE, 0, codec, id_of(&call), params.bytes));
        let result = pair.next_done().1.unwrap();
        assert_eq!((result.encoding, &result.bytes[..]), (Encoding::Json, arrives));
    }
}

#[test]
fn results_that_are_no_values_end_their_call_and_nothing_else() {
    let mut pair = Pair::connected_v2(config());
    for (codec, result) in [(1, &b"1],[2"[..]), (1, b"{"), (1, b"\"\xff\""), (2, b"\xc1"), (2, b"\x01\x02"), (9, b"x")]
    {
        pair.call("user", "get", &json!(1)).unwrap();
        let (conn, call) = pair.sent.pop_back().unwrap();
        pair.send_bytes(conn, &wire2::frame(RESPONSE, 0, codec, id_of(&call), result));
        assert_eq!(code(pair.next_done().1), ErrorCode::DeserializationFailed, "{result:?}");
        assert!(pair.session.is_connected());
    }
}

#[test]
fn a_driver_that_proves_payloads_itself_gets_them_as_they_came() {
    let mut pair = Pair::connected_v2(SessionConfig { checks_payloads: false, ..config() });
    for (codec, result, arrives) in
        [(1, &b"1],[2"[..], true), (1, b"\"\xff\"", true), (2, b"\xc1", false), (9, b"x", false)]
    {
        pair.call("user", "get", &json!(1)).unwrap();
        let (conn, call) = pair.sent.pop_back().unwrap();
        pair.send_bytes(conn, &wire2::frame(RESPONSE, 0, codec, id_of(&call), result));
        let outcome = pair.next_done().1;
        if arrives {
            assert_eq!(&outcome.unwrap().bytes[..], result);
        } else {
            assert_eq!(code(outcome), ErrorCode::DeserializationFailed, "another encoding is read in any case");
        }
    }
}

#[test]
fn names_are_looked_at_whatever_was_called_before() {
    let mut pair = Pair::connected_v2(config());
    let mut call = |to: &str, method: &str| pair.call(to, method, &json!(1)).map_err(|error| error.code.unwrap());
    assert_eq!(call("", ""), Err(ErrorCode::InvalidArgument));
    assert!(call("user", "get").is_ok() && call("user", "get").is_ok());
    for (to, method) in [("", "get"), ("user", ""), ("", ""), ("us\ner", "get"), ("user", "g\net")] {
        assert_eq!(call(to, method), Err(ErrorCode::InvalidArgument), "{to:?} {method:?}");
        assert!(call("user", "get").is_ok());
    }
}

#[test]
fn payloads_of_whole_frames_are_not_copied() {
    let mut pair = Pair::connected_v2(config());
    pair.call("user", "get", &json!(1)).unwrap();
    let (conn, call) = pair.sent.pop_back().unwrap();
    let text = serde_json::to_vec(&"x".repeat(1000)).unwrap();
    let chunk = Bytes::from(success(id_of(&call), &text));
    pair.session.handle_bytes(conn, &chunk, pair.now);
    pair.drive();
    let result = pair.next_done().1.unwrap();
    assert!(chunk.as_ptr_range().contains(&result.bytes.as_ptr()) && result.bytes == text);
}

#[test]
fn an_error_says_whose_it_is() {
    let mut pair = Pair::connected_v2(config());
    pair.call("nobody", "get", &json!(1)).unwrap();
    let (conn, call) = pair.sent.pop_back().unwrap();
    pair.send_bytes(conn, &wire2::error(id_of(&call), 1, "SERVICE_NOT_FOUND", "no such", ""));
    assert!(matches!(pair.next_event(), SessionEvent::GatewayError(error) if error.message == "no such"));
    match pair.next_event() {
        SessionEvent::CallDone { outcome, origin, .. } => {
            assert_eq!((origin, code(outcome)), (Origin::Gateway, ErrorCode::ServiceNotFound));
        }
        other => panic!("{other:?}"),
    }
    pair.call("user", "get", &json!(1)).unwrap();
    let (conn, call) = pair.sent.pop_back().unwrap();
    pair.send_bytes(conn, &wire2::error(id_of(&call), 0, "", "böse", "at x"));
    match pair.next_event() {
        SessionEvent::CallDone { outcome, origin: Origin::Service, .. } => {
            let error = outcome.unwrap_err();
            assert_eq!((error.code, error.message.as_str(), error.stack.as_deref()), (None, "böse", Some("at x")));
        }
        other => panic!("{other:?}"),
    }
    pair.send_bytes(conn, &wire2::error(id_of(&call), 1, "TIMEOUT", "late", ""));
    assert!(pair.events.is_empty());
    assert_eq!(pair.session.counters().late_answers, 1);
}

#[test]
fn only_the_connection_that_a_call_went_out_on_can_answer_it() {
    let mut pair = Pair::connected_v2(SessionConfig { pool_size: 2, ..config() });
    let id = pair.call("user", "get", &json!(1)).unwrap();
    let (conn, call) = pair.sent.pop_back().unwrap();
    let other = pair.conn(1 - conn.index);
    pair.send_bytes(other, &success(id_of(&call), b"5"));
    assert!(pair.events.is_empty());
    pair.send_bytes(conn, &success(id_of(&call), b"6"));
    let (done, outcome) = pair.next_done();
    assert_eq!((done, payload_value(&outcome.unwrap())), (id, json!(6)));
}

#[test]
fn a_call_that_is_given_up_is_cancelled_once() {
    let mut pair = Pair::connected_v2(config());
    let id = pair.call("user", "get", &json!(1)).unwrap();
    let (conn, call) = pair.sent.pop_back().unwrap();
    pair.sent.clear();
    assert!(pair.session.cancel(id, pair.now) && !pair.session.cancel(id, pair.now));
    pair.drive();
    let (to, cancel) = pair.next_sent();
    assert_eq!((to, &cancel["kind"], &cancel["id"]), (conn, &json!("CANCEL"), &call["id"]));
    assert_eq!(cancel["flags"], 0);
    pair.send_bytes(conn, &success(id_of(&call), b"1"));
    assert!(pair.sent.is_empty() && pair.events.is_empty());
    assert_eq!(pair.session.counters().late_answers, 1);

    // Of one that took too long the gateway knows by itself.
    let late = pair.call("user", "get", &json!(1)).unwrap();
    pair.sent.clear();
    pair.pass_ms(30_001);
    let (done, outcome) = pair.next_done();
    assert_eq!((done, code(outcome)), (late, ErrorCode::Timeout));
    assert!(pair.sent.iter().all(|(_, frame)| frame["kind"] == "PING"), "{:?}", pair.sent);
    assert!(!pair.session.cancel(late, pair.now));
}

#[test]
fn a_call_made_for_a_request_names_it_and_goes_where_its_answer_will() {
    let mut pair = Pair::connected_v2(SessionConfig { pool_size: 3, ..config() });
    let conn = pair.conn(1);
    pair.send_bytes(conn, &wire2::call(99).frame());
    let request = pair.next_request();
    let nested = CallRequest { request: Some(request.id), ..CallRequest::new("role", "get", ONE) };
    for _ in 0..4 {
        pair.session.call(nested, pair.now).unwrap();
    }
    pair.pass_ms(300);
    pair.session.call(nested, pair.now).unwrap();
    pair.drive();
    assert_eq!(pair.next_sent().1["kind"], "RESOLVE");
    let calls: Vec<_> = pair.sent.drain(..).collect();
    assert_eq!(calls.len(), 5);
    for (to, call) in &calls {
        assert_eq!((*to, &call["parent"], &call["section"]), (conn, &json!(99), &Value::Null));
    }
    assert_eq!((&calls[0].1["timeout"], &calls[4].1["timeout"]), (&json!(1000), &json!(700)), "what is left");

    // Answered: nothing is known of it any more, and the context says where it comes from.
    let context = request.context.to_context(&request.from, "order");
    assert!(pair.session.respond(request.id, Outcome::Success(ONE), pair.now));
    pair.session.call(CallRequest { parent: Some(&context), ..nested }, pair.now).unwrap();
    pair.drive();
    let late = &pair.sent.iter().find(|(_, frame)| frame["kind"] == "CALL").unwrap().1;
    let section = json!({"root": "root-1700000000123-000010", "depth": 3, "chain": ["user", "order", "role"]});
    assert_eq!((&late["parent"], &late["section"]), (&json!(0), &section));
    assert_eq!(late["timeout"], 700);
}

#[test]
fn a_call_with_a_context_of_its_own_sends_it_and_names_nothing() {
    let mut pair = Pair::connected_v2(config());
    let conn = pair.conn(0);
    pair.send_bytes(conn, &wire2::call(99).frame());
    let request = pair.next_request();
    let given =
        CallContext { root: "r".into(), chain: vec!["x".into()], depth: 5, deadline_ms: pair.now.wall_ms + 400 };
    let call = CallRequest { context: Some(&given), request: Some(request.id), ..CallRequest::new("role", "get", ONE) };
    pair.session.call(call, pair.now).unwrap();
    pair.drive();
    let sent = pair.sent.pop_back().unwrap().1;
    assert_eq!((&sent["parent"], &sent["timeout"]), (&json!(0), &json!(400)));
    assert_eq!(sent["section"], json!({"root": "r", "depth": 5, "chain": ["x"]}));
    let unsendable = CallContext { chain: vec!["x".repeat(256)], ..given.clone() };
    let refused = pair.session.call(CallRequest { context: Some(&unsendable), ..call }, pair.now);
    assert_eq!(code(refused), ErrorCode::InvalidContext);
}

#[test]
fn nothing_more_is_called_for_a_request_that_was_given_up() {
    let mut pair = Pair::connected_v2(config());
    let conn = pair.conn(0);
    for (reason, expected) in [(0, ErrorCode::Cancelled), (1, ErrorCode::DeadlineExceeded), (2, ErrorCode::Cancelled)] {
        pair.send_bytes(conn, &wire2::call(99).frame());
        let request = pair.next_request();
        pair.send_bytes(conn, &wire2::frame(CANCEL, reason, 0, 99, &[]));
        let context = request.context.to_context("user", "order");
        let call = CallRequest::new("role", "get", ONE);
        let call = CallRequest { request: Some(request.id), parent: Some(&context), ..call };
        assert_eq!(code(pair.session.call(call, pair.now)), expected);
        assert_eq!(code(pair.session.notify(call, pair.now)), expected);
    }
    pair.drive();
    assert!(pair.sent.is_empty());
}

#[test]
fn what_cannot_succeed_fails_at_once_and_leaves_nothing() {
    let mut pair = Pair::connected_v2(SessionConfig { frame_bytes_max: REGISTER_BYTES_MAX, ..config() });
    let conn = pair.conn(0);
    let deepest = wire2::Call { section: Some(("r", DEPTH_MAX, &["a", "order"])), ..wire2::call(99) };
    pair.send_bytes(conn, &deepest.frame());
    let request = pair.next_request();
    let deep = CallContext { root: "r".into(), chain: vec!["a".into()], depth: DEPTH_MAX, deadline_ms: START_MS + 1 };
    let late = CallContext { depth: 1, deadline_ms: START_MS - 1, ..deep.clone() };
    let long = CallContext { depth: 1, chain: vec!["a".into(); CHAIN_LEN_MAX], ..deep.clone() };
    let base = CallRequest::new("user", "get", ONE);
    let (huge, just_too_large) = (vec![b'1'; REGISTER_BYTES_MAX + 1], vec![b'1'; REGISTER_BYTES_MAX - 46]);
    let nested = ["[".repeat(200), "]".repeat(200)].concat().into_bytes();
    for (call, expected) in [
        (CallRequest { request: Some(request.id), ..base }, ErrorCode::MaxDepthExceeded),
        (CallRequest { parent: Some(&deep), ..base }, ErrorCode::MaxDepthExceeded),
        (CallRequest { parent: Some(&long), ..base }, ErrorCode::MaxDepthExceeded),
        (CallRequest { parent: Some(&late), ..base }, ErrorCode::DeadlineExceeded),
        (CallRequest { to: "", ..base }, ErrorCode::InvalidArgument),
        (CallRequest { method: "a\u{7}", ..base }, ErrorCode::InvalidArgument),
        (CallRequest { params: Payload { bytes: &huge, ..ONE }, ..base }, ErrorCode::PayloadTooLarge),
        (CallRequest { params: Payload { bytes: &just_too_large, ..ONE }, ..base }, ErrorCode::PayloadTooLarge),
        (CallRequest { params: Payload { bytes: &nested, ..ONE }, ..base }, ErrorCode::SerializationFailed),
    ] {
        assert_eq!(code(pair.session.call(call, pair.now)), expected);
        assert_eq!(code(pair.session.notify(call, pair.now)), expected);
        pair.drive();
        assert!(pair.events.is_empty() && pair.sent.is_empty(), "{:?}", pair.sent);
        assert_eq!((pair.session.status().pending_calls, pair.session.status().outbound_bytes), (0, 0));
    }
    let fits = &just_too_large[1..];
    assert!(pair.session.call(CallRequest { params: Payload { bytes: fits, ..ONE }, ..base }, pair.now).is_ok());
}

#[test]
fn a_notification_has_no_number_and_no_end() {
    let mut pair = Pair::connected_v2(config());
    pair.session.notify(CallRequest::new("user", "note", ONE), pair.now).unwrap();
    pair.drive();
    assert_eq!(pair.next_sent().1["kind"], "RESOLVE");
    let (conn, sent) = pair.next_sent();
    assert_eq!((&sent["kind"], &sent["id"], &sent["parent"]), (&json!("NOTIFY"), &json!(0), &json!(0)));
    assert_eq!((&sent["method"], &sent["payload"], &sent["timeout"]), (&json!("note"), &json!(1), &json!(30_000)));
    pair.send_bytes(conn, &wire2::call(5).frame());
    let request = pair.next_request();
    let made_for = CallRequest { request: Some(request.id), ..CallRequest::new("user", "note", ONE) };
    pair.session.notify(made_for, pair.now).unwrap();
    pair.drive();
    assert_eq!(pair.next_sent().1["parent"], 5);
    assert_eq!((pair.session.status().pending_calls, pair.session.counters().notifications), (0, 2));
    assert_eq!(code(Pair::new(config()).session.notify(made_for, pair.now)), ErrorCode::NotConnected);
}

#[test]
fn a_notification_to_a_gateway_of_version_1_is_a_call_whose_answer_is_nobodys() {
    let mut pair = Pair::connected(config());
    let mut ids = std::collections::HashSet::new();
    for _ in 0..3 {
        pair.session.notify(CallRequest::new("user", "note", ONE), pair.now).unwrap();
        pair.drive();
        let (conn, sent) = pair.next_sent();
        assert_eq!((&sent["type"], &sent["method"], &sent["params"]), (&json!("CALL"), &json!("note"), &json!(1)));
        assert_eq!(sent["context"]["chain"], json!(["order", "user"]));
        assert!(ids.insert(sent["id"].as_str().unwrap().to_owned()));
        let error = json!({"message": "no", "code": "SERVICE_NOT_FOUND"});
        pair.send(conn, &json!({"type": "RESPONSE", "id": sent["id"], "status": "success"}));
        pair.send(conn, &json!({"type": "RESPONSE", "id": sent["id"], "status": "error", "error": error}));
        pair.send(conn, &json!({"type": "ERROR", "id": sent["id"], "error": error, "timestamp": 1}));
    }
    assert!(pair.events.is_empty());
    assert_eq!((pair.session.counters().late_answers, pair.session.status().pending_calls), (0, 0));
}

#[test]
fn a_pool_may_speak_both_versions() {
    let mut pair = Pair::new(SessionConfig { pool_size: 2, queue_bytes_max: 10_000, ..config() });
    pair.connect();
    let (old, new) = (pair.accept().unwrap(), pair.accept().unwrap());
    pair.send(old, &json!({"type": "REGISTER_ACK"}));
    pair.send(new, &json!({"type": "REGISTER_ACK", "bro": {"v": 2.0}}));
    assert!(!pair.session.speaks_v2(old) && pair.session.speaks_v2(new));
    assert_eq!(pair.session.status().connections_v2, 1);
    pair.sent.clear();
    let ids = [pair.call("user", "get", &json!(1)).unwrap(), pair.call("user", "get", &json!(2)).unwrap()];
    let (_, first) = pair.next_sent();
    assert_eq!(first["type"], "CALL");
    let second = pair.sent.pop_back().unwrap().1;
    pair.sent.clear();
    assert_eq!(second["kind"], "CALL");
    pair.send(old, &json!({"type": "RESPONSE", "id": first["id"], "status": "success", "data": 1}));
    pair.send_bytes(new, &success(id_of(&second), b"2"));
    for id in ids {
        assert_eq!(pair.next_done().0, id);
    }

    // Made for a request of either kind, on a connection of the other.
    pair.send_bytes(new, &wire2::name(0, "user"));
    pair.send_bytes(new, &wire2::call(99).frame());
    let numbered = pair.next_request();
    let context = json!({"root": "r", "chain": ["web", "order"], "depth": 2, "deadline": START_MS + 9000});
    pair.send(
        old,
        &json!({"type": "CALL", "id": "q", "from": "web", "to": "order", "method": "get",
        "context": context}),
    );
    let textual = pair.next_request();
    let call = CallRequest::new("role", "get", ONE);
    let of_textual = CallRequest { request: Some(textual.id), ..call };
    for _ in 0..2 {
        pair.session.call(of_textual, pair.now).unwrap();
    }
    pair.drive();
    let sent: Vec<_> = pair.sent.drain(..).map(|(_, frame)| frame).collect();
    let on_new = sent.iter().find(|frame| frame["kind"] == "CALL").unwrap();
    let on_old = sent.iter().find(|frame| frame["type"] == "CALL").unwrap();
    assert_eq!(on_new["section"], json!({"root": "r", "depth": 3, "chain": ["web", "order", "role"]}));
    assert_eq!(on_new["timeout"], 9000);
    assert_eq!(on_old["context"]["chain"], json!(["web", "order", "role"]));

    let filling = crate::calls::text(10_000);
    let of_numbered = CallRequest { request: Some(numbered.id), ..call };
    let large = CallRequest { params: Payload { bytes: &filling, ..ONE }, ..of_numbered };
    pair.session.call(large, pair.now).unwrap();
    pair.session.call(of_numbered, pair.now).unwrap();
    pair.drive();
    let on_old = pair.sent.iter().rev().find(|(conn, frame)| *conn == old && frame["type"] == "CALL").unwrap();
    assert_eq!(on_old.1["context"]["chain"], json!(["user", "order", "role"]));
    assert_eq!(on_old.1["context"]["deadline"], json!(START_MS + 1000));
}
