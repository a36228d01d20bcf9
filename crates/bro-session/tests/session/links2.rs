//! Connections of version 2: agreeing on it, signs of life, draining, frames that end them.

use crate::pair::{Pair, config};
use crate::wire2::{self, CANCEL, Call, DRAIN, ERROR, LANE_CLOSE, LANE_READY, NAME, PING, PONG, RESPONSE};
use bro_proto::error::ErrorCode;
use bro_proto::limits::CLIENT_DRAIN_TIMEOUT_MS;
use bro_proto::v1::encode::Outcome;
use bro_proto::v1::{Encoding, Payload};
use bro_session::{ConnId, Session, SessionConfig, SessionEvent};
use serde_json::{Value, json};

const ONE: Payload<'static> = Payload { encoding: Encoding::Json, bytes: b"1" };

fn drained(pair: &mut Pair) -> Option<usize> {
    match pair.events.pop_front()? {
        SessionEvent::Drained { in_work } => Some(in_work),
        other => panic!("{other:?}"),
    }
}

fn kinds(pair: &mut Pair) -> Vec<Value> {
    pair.sent.drain(..).map(|(_, frame)| frame["kind"].clone()).collect()
}

#[test]
fn version_2_is_agreed_on_in_either_encoding_and_only_if_both_want_it() {
    for encoding in [Encoding::Json, Encoding::Msgpack] {
        for (speaks_v2, ack, agreed) in [
            (true, json!({"v": 2}), true),
            (true, json!({"v": 2.0}), true),
            (true, json!({"v": 3}), false),
            (true, json!({}), false),
            (false, json!({"v": 2}), false),
        ] {
            let mut pair = Pair::new(SessionConfig { encoding, speaks_v2, ..config() });
            pair.connect();
            let conn = pair.accept().unwrap();
            let offer = pair.next_sent().1["metadata"].clone();
            assert_eq!(offer, if speaks_v2 { json!({"bro": {"v": 2}}) } else { json!({}) });
            pair.send(conn, &json!({"type": "REGISTER_ACK", "from": "bro.gateway", "bro": ack}));
            assert!(pair.session.is_connected());
            assert_eq!(pair.session.speaks_v2(conn), agreed);
        }
    }
    let mut metadata = serde_json::Map::new();
    metadata.insert("bro".into(), json!({"v": 2}));
    for speaks_v2 in [true, false] {
        let config = SessionConfig { metadata: metadata.clone(), speaks_v2, ..config() };
        let refused = Session::new(config, 1, bro_proto::Now::default()).unwrap_err();
        assert_eq!(refused.code, Some(ErrorCode::InvalidArgument));
    }
}

#[test]
fn the_version_of_a_connection_does_not_outlive_it() {
    let mut pair = Pair::connected_v2(SessionConfig { reconnect_delay_ms: 10, ..config() });
    let conn = pair.conn(0);
    pair.session.register_method("more", pair.now).unwrap();
    pair.drive();
    assert_eq!(pair.next_sent().1["metadata"], json!({"bro": {"v": 2}}), "REGISTER stays as it was");
    pair.send(conn, &json!({"type": "REGISTER_ACK", "from": "bro.gateway"}));
    assert!(pair.session.speaks_v2(conn), "agreed on once");
    pair.hang_up(conn);
    pair.pass_ms(30);
    pair.accept_all();
    let conn = pair.conn(0);
    assert!(pair.session.is_connected() && !pair.session.speaks_v2(conn));
}

#[test]
fn pings_are_sent_and_answered() {
    let mut pair = Pair::connected_v2(SessionConfig { heartbeat_interval_ms: 1000, ..config() });
    let conn = pair.conn(0);
    pair.pass_ms(1001);
    let ping = pair.next_sent().1;
    assert_eq!(ping["kind"], "PING");
    pair.send_bytes(conn, &wire2::frame(PONG, 0, 0, ping["id"].as_u64().unwrap(), &[]));
    pair.send_bytes(conn, &wire2::frame(PING, 0, 0, 0xfeed_beef_0bad_cafe, &[]));
    let pong = pair.next_sent().1;
    assert_eq!((&pong["kind"], &pong["id"]), (&json!("PONG"), &json!(0xfeed_beef_0bad_cafe_u64)));
    for _ in 0..20 {
        pair.pass_ms(1000);
        pair.send_bytes(conn, &wire2::frame(PONG, 0, 0, 0, &[]));
    }
    assert_eq!(kinds(&mut pair).len(), 20);
    assert!(pair.events.is_empty());
}

#[test]
fn a_gateway_that_takes_everything_and_answers_nothing_is_given_up() {
    let mut pair = Pair::connected_v2(SessionConfig { heartbeat_interval_ms: 1000, ..config() });
    pair.call("user", "get", &json!(1)).unwrap();
    pair.pass_ms(3900);
    assert!(pair.events.is_empty() && pair.session.is_connected());
    pair.pass_ms(200);
    let done = pair.take_event(|event| matches!(event, SessionEvent::CallDone { .. }));
    let SessionEvent::CallDone { outcome, .. } = done else { unreachable!() };
    let error = outcome.unwrap_err();
    assert_eq!(error.code, Some(ErrorCode::ConnectionLost));
    assert!(error.message.contains("answered no PING for 3000 ms"), "{}", error.message);
    assert!(pair.closed.len() == 1 && !pair.session.is_connected());

    let mut old = Pair::connected(SessionConfig { heartbeat_interval_ms: 1000, ..config() });
    old.pass_ms(10_001);
    assert!(old.session.is_connected() && old.sent.iter().all(|(_, frame)| frame["type"] == "HEARTBEAT"));
    assert_eq!(old.sent.len(), 10);
}

#[test]
fn any_byte_of_the_gateway_is_a_sign_of_life() {
    let mut pair = Pair::connected_v2(SessionConfig { heartbeat_interval_ms: 1000, ..config() });
    let conn = pair.conn(0);
    for byte in wire2::call(5).frame() {
        pair.pass_ms(1900);
        pair.send_bytes(conn, &[byte]);
    }
    assert!(pair.session.is_connected());
    pair.next_request();
}

#[test]
fn a_gateway_that_is_about_to_stop_is_announced_once() {
    let mut pair = Pair::connected_v2(SessionConfig { pool_size: 2, reconnect_delay_ms: 10, ..config() });
    let (first, second) = (pair.conn(0), pair.conn(1));
    for conn in [first, second, first] {
        pair.send_bytes(conn, &wire2::frame(DRAIN, 0, 0, 0, &[]));
    }
    assert!(matches!(pair.next_event(), SessionEvent::GatewayDraining));
    assert!(pair.events.is_empty());
    assert!(pair.call("user", "get", &json!(1)).is_ok(), "the gateway says what it thinks of that");
    pair.hang_up(first);
    pair.hang_up(second);
    pair.pass_ms(30);
    let conns = pair.accept_all_v2();
    pair.events.clear();
    pair.send_bytes(conns[1], &wire2::frame(DRAIN, 0, 0, 0, &[]));
    assert!(matches!(pair.next_event(), SessionEvent::GatewayDraining), "another gateway");
}

#[test]
fn a_drain_ends_when_all_that_was_under_way_is_answered() {
    let mut pair = Pair::connected_v2(SessionConfig { pool_size: 2, ..config() });
    let conns: [ConnId; 2] = [pair.conn(0), pair.conn(1)];
    pair.send_bytes(conns[0], &wire2::call(5).frame());
    let before = pair.next_request();
    pair.session.drain(pair.now);
    pair.session.drain(pair.now);
    pair.drive();
    assert_eq!(kinds(&mut pair), ["DRAIN", "PING", "DRAIN", "PING"]);
    assert!(pair.session.respond(before.id, Outcome::Success(ONE), pair.now));
    pair.drive();
    let pings: Vec<_> = pair.sent.drain(..).collect();
    assert_eq!(pings.len(), 1);
    // Sent before the gateway knew: it arrives before the PONG.
    pair.send_bytes(conns[1], &wire2::call(6).frame());
    let crossing = pair.next_request();
    for conn in conns {
        assert_eq!(drained(&mut pair), None);
        pair.send_bytes(conn, &wire2::frame(PONG, 0, 0, 1, &[]));
    }
    assert_eq!(drained(&mut pair), None);
    assert!(pair.session.respond(crossing.id, Outcome::Success(ONE), pair.now));
    pair.drive();
    assert_eq!(drained(&mut pair), Some(0));
    pair.pass_ms(CLIENT_DRAIN_TIMEOUT_MS / 2);
    assert!(pair.events.is_empty(), "told once");

    pair.session.drain(pair.now);
    pair.drive();
    assert_eq!(drained(&mut pair), None);
    pair.hang_up(conns[0]);
    pair.hang_up(conns[1]);
    let ended = pair.take_event(|event| matches!(event, SessionEvent::Drained { .. }));
    assert!(matches!(ended, SessionEvent::Drained { in_work: 0 }), "nothing more can come");
}

#[test]
fn a_drain_is_bounded_and_lasts_until_the_client_disconnects() {
    let mut pair = Pair::connected_v2(SessionConfig { reconnect_delay_ms: 10, timeout_ms: 600_000, ..config() });
    let conn = pair.conn(0);
    pair.send_bytes(conn, &Call { timeout_ms: 0, ..wire2::call(5) }.frame());
    pair.next_request();
    pair.session.drain(pair.now);
    pair.drive();
    let answering = |pair: &mut Pair| pair.send_bytes(conn, &wire2::frame(PONG, 0, 0, 1, &[]));
    pair.pass_ms(CLIENT_DRAIN_TIMEOUT_MS - 1);
    answering(&mut pair);
    assert!(pair.events.is_empty());
    pair.pass_ms(2);
    assert_eq!(drained(&mut pair), Some(1));

    pair.hang_up(conn);
    pair.pass_ms(30);
    pair.sent.clear();
    let conns = pair.accept_all_v2();
    let sent: Vec<_> = pair.sent.drain(..).map(|(conn, frame)| (conn, frame["kind"].clone())).collect();
    assert_eq!(sent[1..], [(conns[0], json!("DRAIN")), (conns[0], json!("PING"))], "this one is told as well");

    pair.session.drain(pair.now);
    pair.session.disconnect(pair.now);
    pair.drive();
    let ended = pair.take_event(|event| matches!(event, SessionEvent::Drained { .. }));
    assert!(matches!(ended, SessionEvent::Drained { in_work: 0 }));
    pair.events.clear();
    pair.connect();
    pair.accept_all_v2();
    assert!(pair.sent.iter().all(|(_, frame)| frame["kind"] != "DRAIN"), "as if nothing had been");
    assert_eq!(pair.session.wakeup_ms().is_some(), pair.session.is_connected());
}

#[test]
fn gateways_of_version_1_are_not_told_of_a_drain() {
    let mut pair = Pair::connected(config());
    let conn = pair.conn(0);
    let call = json!({"type": "CALL", "id": "q", "from": "user", "to": "order", "method": "get"});
    pair.send(conn, &call);
    let request = pair.next_request();
    pair.session.drain(pair.now);
    pair.drive();
    assert!(pair.sent.is_empty() && pair.events.is_empty());
    assert!(pair.session.respond(request.id, Outcome::Success(ONE), pair.now));
    pair.drive();
    assert_eq!(drained(&mut pair), Some(0));
    let mut unconnected = Pair::new(config());
    unconnected.session.drain(unconnected.now);
    unconnected.drive();
    assert_eq!(drained(&mut unconnected), Some(0));
}

#[test]
fn frames_that_make_no_sense_end_their_connection_and_no_other() {
    let whole = wire2::call(5).frame();
    let cut = |bytes: usize| {
        let mut frame = whole[..4 + bytes].to_vec();
        frame[..4].copy_from_slice(&u32::try_from(bytes).unwrap().to_be_bytes());
        frame
    };
    let bad_section = {
        let mut frame = Call { section: Some(("r", 3, &["a"])), ..wire2::call(5) }.frame();
        frame[48 + 3] = 0xff;
        frame
    };
    let bad: Vec<(&str, Vec<u8>)> = vec![
        ("caller", Call { name: 1, ..wire2::call(5) }.frame()),
        ("number", Call { id: 0, ..wire2::call(5) }.frame()),
        ("number", Call { kind: 5, ..wire2::call(5) }.frame()),
        ("number", wire2::frame(NAME, 0, 0, 4096, b"x")),
        ("name", wire2::frame(NAME, 0, 0, 1, b"")),
        ("name", wire2::frame(NAME, 0, 0, 1, &[b'x'; 256])),
        ("name", Call { method: "", ..wire2::call(5) }.frame()),
        ("RESOLVE", wire2::frame(6, 0, 0, 1, b"user")),
        ("kind 99", wire2::frame(99, 0, 0, 1, b"")),
        ("short", cut(1)),
        ("short", cut(11)),
        ("short", cut(43)),
        ("short", wire2::frame(ERROR, 0, 0, 1, b"\xff\xff")),
        ("UTF-8", wire2::frame(ERROR, 0, 0, 1, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff])),
        ("section", bad_section),
    ];
    for (what, frame) in bad {
        let mut pair = Pair::connected_v2(SessionConfig { pool_size: 2, ..config() });
        let conn = pair.conn(0);
        pair.send_bytes(conn, &frame);
        assert_eq!(pair.closed.len(), 1, "{what}: {frame:?}");
        let SessionEvent::Error(error) = pair.next_event() else { panic!("an error") };
        assert_eq!(error.code, Some(ErrorCode::InvalidMessage));
        assert!(error.message.starts_with("from the gateway: ") && error.message.contains(what), "{}", error.message);
        assert!(pair.session.is_connected(), "the other one lives");
    }
}

#[test]
fn both_versions_keep_to_their_connections() {
    for message in [
        json!({"type": "CALL", "id": "q", "from": "user", "to": "order", "method": "get"}),
        json!({"type": "RESPONSE", "id": "q", "status": "success"}),
    ] {
        let mut pair = Pair::connected_v2(config());
        let conn = pair.conn(0);
        pair.send(conn, &message);
        assert_eq!(pair.closed.len(), 1);
    }
    for frame in [wire2::frame(PING, 0, 0, 1, &[]), wire2::frame(RESPONSE, 0, 1, 1, b"1"), vec![0, 0, 0, 1, 0xb2]] {
        let mut pair = Pair::connected(config());
        let conn = pair.conn(0);
        pair.send_bytes(conn, &frame);
        assert_eq!(pair.closed.len(), 1);
        let mut registering = Pair::new(config());
        registering.connect();
        let conn = registering.accept().unwrap();
        registering.send_bytes(conn, &frame);
        assert_eq!(registering.closed.len(), 1, "before it is agreed on");
    }
    let mut pair = Pair::connected_v2(config());
    let conn = pair.conn(0);
    pair.send(conn, &json!({"type": "ERROR", "error": {"message": "m", "code": "TIMEOUT"}, "timestamp": 1}));
    assert!(
        matches!(pair.next_event(), SessionEvent::GatewayError(_)),
        "errors about the connection stay as they were"
    );
    assert!(pair.session.is_connected());
}

#[test]
fn what_may_be_ignored_is_ignored() {
    let mut pair = Pair::connected_v2(config());
    let conn = pair.conn(0);
    for frame in [
        wire2::frame(99, 0x80, 0, 1, b"later"),
        wire2::frame(LANE_READY, 0, 0, 1, b""),
        wire2::frame(LANE_CLOSE, 0, 0, 1, b""),
        wire2::frame(PONG, 0, 0, 77, &[]),
        wire2::frame(CANCEL, 0, 0, 77, &[]),
        wire2::frame(RESPONSE, 0, 1, 77, b"1"),
    ] {
        pair.send_bytes(conn, &frame);
    }
    assert!(pair.events.is_empty() && pair.session.is_connected());
    assert_eq!(pair.session.counters().unknown_frames, 1);
}
