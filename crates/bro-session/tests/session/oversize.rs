//! Frames above the client's limit, from a gateway that has a higher one, or none.

use crate::pair::{Pair, code, config};
use crate::wire2::{self, Call, RESPONSE};
use bro_proto::error::ErrorCode;
use bro_proto::limits::{OVERSIZE_HEAD_BYTES, REGISTER_BYTES_MAX};
use bro_proto::v1::{Encoding, Payload};
use bro_session::{CallRequest, Origin, SessionConfig, SessionEvent};
use serde_json::json;

fn small_frames() -> SessionConfig {
    SessionConfig { frame_bytes_max: REGISTER_BYTES_MAX, ..config() }
}

/// As a gateway of the JavaScript library writes it: its keys in this order.
fn large(kind: &str, id: &str, encoding: Encoding) -> Vec<u8> {
    let params = "x".repeat(REGISTER_BYTES_MAX);
    let (from, to, method) = (("from", "user"), ("to", "order"), ("method", "get"));
    let fields = [("type", kind), ("id", id), from, to, method, ("status", "success"), ("params", &params)];
    let mut body = Vec::new();
    match encoding {
        Encoding::Json => {
            let fields = fields.map(|(key, text)| format!("{key:?}:{text:?}"));
            body.extend_from_slice(format!("{{{}}}", fields.join(",")).as_bytes());
        }
        Encoding::Msgpack => {
            body.push(0x87);
            for text in fields.into_iter().flat_map(|(key, text)| [key, text]) {
                body.push(0xdb);
                body.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
                body.extend_from_slice(text.as_bytes());
            }
        }
    }
    [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat()
}

fn assert_fails_here(pair: &mut Pair) {
    match pair.take_event(|event| matches!(event, SessionEvent::CallDone { .. })) {
        SessionEvent::CallDone { outcome, origin: Origin::Local, .. } => {
            let error = outcome.expect_err("it cannot be had");
            assert_eq!(error.code, Some(ErrorCode::PayloadTooLarge));
            assert!(error.message.contains(&format!("at most {REGISTER_BYTES_MAX}")), "{}", error.message);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn of_version_1_one_call_fails_and_the_connection_goes_on() {
    for encoding in [Encoding::Json, Encoding::Msgpack] {
        let mut pair = Pair::connected(SessionConfig { encoding, ..small_frames() });
        let conn = pair.conn(0);
        pair.call("user", "get", &json!(1)).unwrap();
        let id = pair.next_sent().1["id"].as_str().unwrap().to_owned();
        pair.send_bytes(conn, &large("RESPONSE", &id, encoding));
        assert_fails_here(&mut pair);
        pair.send_bytes(conn, &large("RESPONSE", &id, encoding));
        assert_eq!(pair.session.counters().late_answers, 1);
        pair.send_bytes(conn, &large("CALL", "theirs", encoding));
        let answer = pair.next_sent().1;
        assert_eq!((&answer["id"], &answer["to"]), (&json!("theirs"), &json!("user")));
        assert_eq!(answer["error"]["code"], "PAYLOAD_TOO_LARGE");
        // What comes after it is read.
        pair.send(conn, &json!({"type": "CALL", "id": "small", "from": "user", "to": "order", "method": "get"}));
        assert_eq!(pair.next_request().request_id.to_string(), "small");
        assert!(pair.closed.is_empty());
    }
}

#[test]
fn of_version_2_one_call_fails_and_the_connection_goes_on() {
    let mut pair = Pair::connected_v2(small_frames());
    let conn = pair.conn(0);
    let payload = vec![b'1'; REGISTER_BYTES_MAX];
    pair.call("user", "get", &json!(1)).unwrap();
    let call = std::iter::from_fn(|| pair.sent.pop_front()).last().expect("a call").1;
    pair.send_bytes(conn, &wire2::frame(RESPONSE, 0, 1, call["id"].as_u64().unwrap(), &payload));
    assert_fails_here(&mut pair);
    pair.send_bytes(conn, &Call { payload: &payload, ..wire2::call(99) }.frame());
    let answer = pair.next_sent().1;
    assert_eq!((&answer["kind"], &answer["id"]), (&json!("ERROR"), &json!(99)));
    assert_eq!(answer["code"], "PAYLOAD_TOO_LARGE");
    pair.send_bytes(conn, &Call { kind: 5, payload: &payload, ..wire2::call(0) }.frame());
    pair.send_bytes(conn, &wire2::frame(99, 0x80, 0, 0, &payload));
    assert_eq!((pair.session.counters().requests_refused, pair.session.counters().unknown_frames), (2, 1));
    pair.send_bytes(conn, &wire2::call(99).frame());
    assert_eq!(&*pair.next_request().method, "get");
    assert!(pair.closed.is_empty());
}

/// Somebody would wait for what nobody tells.
#[test]
fn what_does_not_say_which_call_it_is_about_ends_the_connection() {
    let begun = |text: &str| {
        let body = [text.as_bytes(), &vec![b'x'; REGISTER_BYTES_MAX]].concat();
        [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body[..2 * OVERSIZE_HEAD_BYTES]].concat()
    };
    let v2 = |kind, id| wire2::frame(kind, 0, 0, id, &vec![0; REGISTER_BYTES_MAX]);
    let cases: [(bool, Vec<u8>); 8] = [
        (false, begun(r#"{"type":"RESPONSE","data":""#)),
        (false, begun(r#"{"id":"1","data":""#)),
        (false, begun(r#"{"type":"REGISTER_ACK","id":"1","data":""#)),
        (false, begun("GET / HTTP/1.1")),
        (false, v2(RESPONSE, 1)),
        (true, large("RESPONSE", "1", Encoding::Json)),
        (true, v2(wire2::NAME, 1)),
        (true, v2(1, 0)),
    ];
    for (speaks_v2, bytes) in cases {
        let mut pair = if speaks_v2 { Pair::connected_v2(small_frames()) } else { Pair::connected(small_frames()) };
        let conn = pair.conn(0);
        pair.call("user", "get", &json!(1)).unwrap();
        pair.send_bytes(conn, &bytes);
        assert_eq!(
            pair.closed.pop_front().map(|closed| closed.0),
            Some(conn),
            "{:?}",
            String::from_utf8_lossy(&bytes[..30])
        );
        assert_eq!(code(pair.next_done().1), ErrorCode::ConnectionLost);
    }
}

/// Before it is sent, and with both sizes in the message.
#[test]
fn what_this_client_sends_is_refused_here() {
    for speaks_v2 in [false, true] {
        let mut pair = if speaks_v2 { Pair::connected_v2(small_frames()) } else { Pair::connected(small_frames()) };
        let params = serde_json::to_vec(&"x".repeat(REGISTER_BYTES_MAX)).unwrap();
        let params = Payload { encoding: Encoding::Json, bytes: &params };
        let error = pair.session.call(CallRequest::new("user", "get", params), pair.now).unwrap_err();
        assert_eq!(error.code, Some(ErrorCode::PayloadTooLarge));
        let bytes = REGISTER_BYTES_MAX + 2;
        assert!(error.message.contains(&bytes.to_string()), "{}", error.message);
        assert!(error.message.contains(&REGISTER_BYTES_MAX.to_string()), "{}", error.message);
        pair.drive();
        assert!(pair.sent.is_empty());
    }
}
