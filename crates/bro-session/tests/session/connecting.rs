//! Connecting, registering, losing, reconnecting, disconnecting.

use crate::pair::{Pair, code, config};
use bro_proto::error::ErrorCode;
use bro_proto::limits::{REGISTER_ACK_TIMEOUT_MS, WRITE_STALL_TIMEOUT_MS};
use bro_proto::v1::Encoding;
use bro_session::{Session, SessionConfig, SessionEvent};
use serde_json::json;

fn refusal(code: &str) -> serde_json::Value {
    json!({"type": "ERROR", "error": {"message": "refused", "code": code}, "timestamp": 1})
}

fn is_failed(event: &SessionEvent) -> bool {
    matches!(event, SessionEvent::ConnectFailed(_))
}

fn failed_code(pair: &mut Pair) -> ErrorCode {
    match pair.take_event(is_failed) {
        SessionEvent::ConnectFailed(error) => error.code.unwrap(),
        _ => unreachable!(),
    }
}

#[test]
fn connect_registers_and_tells_when_the_gateway_acknowledged() {
    for encoding in [Encoding::Json, Encoding::Msgpack] {
        let mut pair = Pair::new(SessionConfig { encoding, ..config() });
        pair.connect();
        let conn = pair.accept().unwrap();
        let register = json!({
            "type": "REGISTER", "serviceName": "order", "methods": ["get", "put"], "version": "1.0.0",
            "metadata": {"bro": {"v": 2}},
        });
        assert_eq!(pair.next_sent(), (conn, register));
        assert!(pair.events.is_empty() && !pair.session.is_connected());
        pair.send(conn, &json!({"type": "REGISTER_ACK"}));
        assert!(matches!(pair.next_event(), SessionEvent::Connected));
        assert!(matches!(pair.next_event(), SessionEvent::Registered));
        assert!(pair.session.is_connected() && pair.events.is_empty());
    }
}

#[test]
fn a_pool_is_connected_when_all_its_connections_are() {
    let mut metadata = serde_json::Map::new();
    metadata.insert("zone".into(), "a".into());
    let mut pair = Pair::new(SessionConfig { pool_size: 3, metadata, ..config() });
    pair.connect();
    for index in 0..3 {
        let conn = pair.accept().unwrap();
        let (_, register) = pair.next_sent();
        assert_eq!(register["metadata"], json!({"zone": "a", "bro": {"v": 2}, "poolIndex": index, "poolSize": 3}));
        assert!(pair.events.is_empty());
        pair.send(conn, &json!({"type": "REGISTER_ACK"}));
    }
    assert!(matches!(pair.next_event(), SessionEvent::Connected));
}

#[test]
fn one_refused_connection_fails_the_whole_connect() {
    let mut pair = Pair::new(SessionConfig { pool_size: 3, ..config() });
    pair.connect();
    let first = pair.accept().unwrap();
    pair.send(first, &json!({"type": "REGISTER_ACK"}));
    let second = pair.accept().unwrap();
    pair.send(second, &refusal("DUPLICATE_SERVICE"));
    assert_eq!(failed_code(&mut pair), ErrorCode::DuplicateService);
    assert_eq!(pair.closed.len(), 3, "registered, refused and opening");
    assert!(pair.asked.is_empty() && pair.events.is_empty());
    assert_eq!(pair.session.wakeup_ms(), None);
}

#[test]
fn a_duplicate_name_rejects_at_once_and_is_a_gateway_error_too() {
    let mut pair = Pair::new(config());
    pair.connect();
    let conn = pair.accept().unwrap();
    pair.send(conn, &refusal("DUPLICATE_SERVICE"));
    assert!(matches!(pair.next_event(), SessionEvent::GatewayError(error) if error.message == "refused"));
    assert_eq!(failed_code(&mut pair), ErrorCode::DuplicateService);
    assert_eq!(pair.closed.pop_front().unwrap().0, conn);
    pair.hang_up(conn);
    assert!(pair.events.is_empty() && pair.asked.is_empty());
}

#[test]
fn a_gateway_that_does_not_acknowledge_is_not_waited_for_any_longer() {
    let mut pair = Pair::new(config());
    pair.connect();
    pair.accept();
    pair.pass_ms(REGISTER_ACK_TIMEOUT_MS - 1);
    assert!(pair.events.is_empty());
    pair.pass_ms(2);
    assert_eq!(failed_code(&mut pair), ErrorCode::Timeout);
    assert_eq!(pair.closed.len(), 1);
}

#[test]
fn without_a_gateway_connect_fails_at_once_and_says_where() {
    let mut pair = Pair::new(config());
    pair.connect();
    pair.refuse_all();
    match pair.next_event() {
        SessionEvent::ConnectFailed(error) => {
            assert_eq!(error.code, Some(ErrorCode::ConnectionFailed));
            assert!(error.message.contains("/run/x.sock"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(pair.session.wakeup_ms(), None);
    pair.connect();
    pair.accept_all();
    assert!(pair.session.is_connected());
}

#[test]
fn connect_may_wait_for_a_gateway_to_appear() {
    let mut pair = Pair::new(SessionConfig { wait_for_gateway_ms: 3000, ..config() });
    pair.connect();
    let mut attempts = 0;
    for _ in 0..200 {
        attempts += pair.asked.len();
        pair.refuse_all();
        pair.pass_ms(10);
    }
    assert!((6..40).contains(&attempts), "{attempts} attempts in two seconds");
    assert!(pair.events.is_empty());
    pair.pass_ms(500);
    pair.accept_all();
    assert!(matches!(pair.next_event(), SessionEvent::Connected));
}

#[test]
fn a_gateway_that_never_appears_is_given_up() {
    let mut pair = Pair::new(SessionConfig { wait_for_gateway_ms: 3000, pool_size: 2, ..config() });
    pair.connect();
    let begin = pair.now.mono_us;
    while pair.events.is_empty() {
        pair.refuse_all();
        pair.pass_ms(1);
        assert!(pair.now.mono_us - begin < 4_000_000, "it ends");
    }
    assert!(pair.now.mono_us - begin >= 3_000_000, "not before the time is over");
    assert_eq!(failed_code(&mut pair), ErrorCode::ConnectionFailed);
    assert!(pair.asked.is_empty());
    assert_eq!(pair.session.wakeup_ms(), None);
}

#[test]
fn lost_connections_are_made_again_with_growing_delays() {
    let mut pair = Pair::connected(SessionConfig { reconnect_delay_ms: 1000, ..config() });
    let conn = pair.conn(0);
    pair.hang_up(conn);
    assert!(matches!(pair.next_event(), SessionEvent::Disconnected { .. }));
    for round in 0..8_u32 {
        let SessionEvent::Reconnecting { attempt, delay_ms, .. } = pair.next_event() else { panic!("reconnecting") };
        let whole = (1000 << round).min(30_000);
        assert_eq!(attempt, round + 1);
        assert!((whole / 2..=whole).contains(&delay_ms), "{delay_ms} of {whole}");
        assert!(pair.asked.is_empty());
        pair.pass_ms(delay_ms + 1);
        assert_eq!(pair.asked.len(), 1);
        pair.refuse_all();
    }
    let SessionEvent::Reconnecting { delay_ms, .. } = pair.next_event() else { panic!("reconnecting") };
    pair.pass_ms(delay_ms + 1);
    pair.accept_all();
    assert!(matches!(pair.next_event(), SessionEvent::Connected));
    let conn = pair.conn(0);
    pair.events.clear();
    pair.hang_up(conn);
    pair.next_event();
    assert!(matches!(pair.next_event(), SessionEvent::Reconnecting { attempt: 1, .. }), "counted from the start again");
}

#[test]
fn a_pool_lives_as_long_as_one_of_its_connections() {
    let mut pair = Pair::connected(SessionConfig { pool_size: 2, ..config() });
    let (first, second) = (pair.conn(0), pair.conn(1));
    pair.hang_up(first);
    assert!(matches!(pair.next_event(), SessionEvent::Reconnecting { .. }));
    assert!(pair.session.is_connected() && pair.events.is_empty());
    pair.hang_up(second);
    assert!(matches!(pair.next_event(), SessionEvent::Disconnected { .. }));
    pair.pass_ms(5001);
    assert_eq!(pair.asked.len(), 2);
    pair.events.clear();
    let one = pair.accept().unwrap();
    pair.send(one, &json!({"type": "REGISTER_ACK"}));
    assert!(matches!(pair.next_event(), SessionEvent::Connected), "the first one is enough to call");
    pair.accept_all();
    assert!(matches!(pair.next_event(), SessionEvent::Registered));
    assert!(pair.events.is_empty(), "told once");
    assert_eq!(pair.session.status().connections_registered, 2);
}

#[test]
fn without_auto_reconnect_disconnected_is_final() {
    let mut pair = Pair::connected(SessionConfig { auto_reconnect: false, ..config() });
    let conn = pair.conn(0);
    pair.hang_up(conn);
    assert!(matches!(pair.next_event(), SessionEvent::Disconnected { .. }));
    pair.pass_ms(100_000);
    assert!(pair.events.is_empty() && pair.asked.is_empty());
    assert_eq!(code(pair.call("user", "get", &json!({}))), ErrorCode::NotConnected);
    pair.connect();
    pair.accept_all();
    assert!(matches!(pair.next_event(), SessionEvent::Connected));
}

#[test]
fn a_refused_reconnect_is_told_and_tried_again() {
    for refused in ["DUPLICATE_SERVICE", "PERMISSION_DENIED"] {
        let mut pair = Pair::connected(config());
        let conn = pair.conn(0);
        pair.hang_up(conn);
        pair.pass_ms(5001);
        pair.events.clear();
        let conn = pair.accept().unwrap();
        pair.send(conn, &refusal(refused));
        assert!(matches!(pair.next_event(), SessionEvent::GatewayError(_)));
        let SessionEvent::Error(error) = pair.next_event() else { panic!("an error") };
        assert_eq!(error.code.unwrap().as_str(), refused);
        assert!(matches!(pair.next_event(), SessionEvent::Reconnecting { attempt: 2, .. }));
        pair.pass_ms(10_001);
        pair.accept_all();
        assert!(pair.session.is_connected());
    }
}

#[test]
fn connecting_twice_is_connecting_once() {
    let mut pair = Pair::new(config());
    pair.connect();
    pair.connect();
    assert_eq!(pair.asked.len(), 1);
    pair.accept_all();
    assert!(matches!(pair.next_event(), SessionEvent::Connected));
    assert!(matches!(pair.next_event(), SessionEvent::Registered));
    assert!(pair.events.is_empty());
    pair.connect();
    assert!(matches!(pair.next_event(), SessionEvent::AlreadyConnected));
    assert!(pair.asked.is_empty() && pair.sent.len() == 1);
}

#[test]
fn connecting_while_reconnecting_tries_at_once_and_goes_on_after_a_failure() {
    let mut pair = Pair::connected(config());
    let conn = pair.conn(0);
    pair.hang_up(conn);
    pair.events.clear();
    pair.connect();
    assert_eq!(pair.asked.len(), 1, "no waiting");
    pair.refuse_all();
    assert!(matches!(pair.next_event(), SessionEvent::ConnectFailed(_)));
    assert!(matches!(pair.next_event(), SessionEvent::Reconnecting { .. }));
    pair.pass_ms(5001);
    pair.accept_all();
    assert!(matches!(pair.next_event(), SessionEvent::Connected));
}

#[test]
fn changed_methods_are_registered_once_for_all_changes_on_each_connection() {
    let mut pair = Pair::connected(SessionConfig { pool_size: 2, ..config() });
    pair.session.register_method("list", pair.now).unwrap();
    pair.session.register_method("drop", pair.now).unwrap();
    assert!(pair.session.unregister_method("put", pair.now));
    assert!(!pair.session.unregister_method("put", pair.now));
    pair.drive();
    for index in 0..2 {
        let (conn, register) = pair.next_sent();
        assert_eq!((conn.index, &register["methods"]), (index, &json!(["get", "list", "drop"])));
        assert_eq!(register["metadata"]["poolIndex"], json!(index));
        pair.send(conn, &json!({"type": "REGISTER_ACK"}));
    }
    pair.session.register_method("list", pair.now).unwrap();
    pair.drive();
    assert!(pair.sent.is_empty() && pair.events.is_empty(), "nothing changed, nothing is told");
}

#[test]
fn methods_that_change_during_registration_follow_after_it() {
    let mut pair = Pair::new(config());
    pair.connect();
    let conn = pair.accept().unwrap();
    pair.session.register_method("late", pair.now).unwrap();
    pair.drive();
    assert_eq!(pair.sent.len(), 1);
    pair.send(conn, &json!({"type": "REGISTER_ACK", "from": "bro.gateway"}));
    assert_eq!(pair.sent.len(), 2);
    assert_eq!(pair.sent[1].1["methods"], json!(["get", "put", "late"]));
}

#[test]
fn an_old_gateway_is_told_of_changed_methods_with_the_next_connection() {
    let mut pair = Pair::new(config());
    pair.connect();
    let conn = pair.accept().unwrap();
    pair.send(conn, &json!({"type": "REGISTER_ACK"}));
    pair.sent.clear();
    pair.session.register_method("late", pair.now).unwrap();
    pair.drive();
    assert!(pair.sent.is_empty(), "it would take a second REGISTER for a second service and end the connection");
    pair.hang_up(conn);
    pair.pass_ms(5001);
    pair.accept().unwrap();
    assert_eq!(pair.next_sent().1["methods"], json!(["get", "put", "late"]));
}

#[test]
fn disconnect_ends_everything_in_order() {
    let mut pair = Pair::connected(config());
    let conn = pair.conn(0);
    let call = pair.call("user", "get", &json!(1)).unwrap();
    pair.send(
        conn,
        &json!({"type": "CALL", "id": "q1", "from": "user", "to": "order", "method": "get", "params": 1,
            "context": {"root": "r", "chain": ["user", "order"], "depth": 2, "deadline": pair.now.wall_ms + 500}}),
    );
    let request = pair.next_request();
    pair.session.disconnect(pair.now);
    pair.drive();
    let (ended, outcome) = match pair.next_event() {
        SessionEvent::CallDone { id, outcome, .. } => (id, outcome),
        other => panic!("{other:?}"),
    };
    assert_eq!((ended, code(outcome)), (call, ErrorCode::ConnectionLost));
    let SessionEvent::RequestExpired { id, reason } = pair.next_event() else { panic!("expired") };
    assert_eq!((id, reason), (request.id, ErrorCode::ShuttingDown));
    assert!(matches!(pair.next_event(), SessionEvent::Disconnected { .. }));
    assert!(pair.events.is_empty());
    let (closed, unsent) = pair.closed.pop_front().unwrap();
    assert_eq!(closed, conn);
    assert_eq!(unsent.len(), 1);
    assert_eq!((&unsent[0]["id"], &unsent[0]["error"]["code"]), (&json!("q1"), &json!("SHUTTING_DOWN")));
    let status = pair.session.status();
    assert_eq!((status.pending_calls, status.requests_in_work, status.outbound_bytes), (0, 0, 0));
    assert_eq!(pair.session.wakeup_ms(), None);
    pair.session.disconnect(pair.now);
    pair.drive();
    assert!(pair.events.is_empty(), "told once");
}

#[test]
fn disconnect_takes_back_a_connect_that_waits() {
    let mut pair = Pair::new(SessionConfig { wait_for_gateway_ms: 60_000, ..config() });
    pair.connect();
    pair.refuse_all();
    pair.pass_ms(25);
    assert_eq!(pair.asked.len(), 1);
    pair.session.disconnect(pair.now);
    pair.drive();
    assert_eq!(failed_code(&mut pair), ErrorCode::ConnectionLost);
    assert_eq!(pair.closed.len(), 1, "opening is given up");
    assert!(pair.events.is_empty());
    assert_eq!(pair.session.wakeup_ms(), None);
}

#[test]
fn heartbeats_go_out_on_every_registered_connection() {
    let mut pair = Pair::connected(SessionConfig { pool_size: 2, heartbeat_interval_ms: 1000, ..config() });
    pair.pass_ms(999);
    assert!(pair.sent.is_empty());
    pair.pass_ms(2);
    let beats: Vec<_> = pair.sent.drain(..).map(|(conn, beat)| (conn.index, beat)).collect();
    let beat = json!({"type": "HEARTBEAT", "from": "order", "timestamp": pair.now.wall_ms});
    assert_eq!(beats.len(), 2);
    assert!(beats.iter().zip(0..).all(|((index, sent), at)| *index == at && sent["type"] == beat["type"]));
    let lag = pair.now.wall_ms - beats[0].1["timestamp"].as_u64().unwrap();
    assert!(lag <= 1 && beats[0].1["from"] == "order");
    let first = pair.conn(0);
    pair.hang_up(first);
    pair.pass_ms(3000);
    assert!(pair.sent.iter().all(|(conn, _)| conn.index == 1) && pair.sent.len() == 3);
}

#[test]
fn a_gateway_that_takes_no_byte_is_given_up() {
    let mut pair = Pair::connected(config());
    let params = bro_proto::v1::Payload { encoding: Encoding::Json, bytes: b"1" };
    let call =
        bro_session::CallRequest { timeout_ms: Some(600_000), ..bro_session::CallRequest::new("u", "m", params) };
    pair.session.call(call, pair.now).unwrap();
    for _ in 0..2 * WRITE_STALL_TIMEOUT_MS / 1000 + 3 {
        pair.now.mono_us += 1_000_000;
        pair.now.wall_ms += 1000;
        pair.session.handle_time(pair.now);
        while let Some(output) = pair.session.poll_output() {
            match output {
                bro_session::Output::LaneOffered { .. } => unreachable!("this client takes no lanes"),
                bro_session::Output::Event(event) => pair.events.push_back(event),
                bro_session::Output::Close { conn, unsent } => {
                    assert!(!unsent.is_empty() || conn.index == 0);
                    pair.closed.push_back((conn, vec![]));
                }
                bro_session::Output::Connect(_) => {}
            }
        }
    }
    assert_eq!(code(pair.next_done().1), ErrorCode::ConnectionLost);
    assert_eq!(pair.closed.len(), 1);
}

#[test]
fn garbage_closes_the_connection_and_is_told() {
    let mut absurd = vec![0xff; 4];
    absurd.extend(b"{}");
    let deep = [b"{\"type\":\"CALL\",\"params\":".to_vec(), vec![b'['; 200_000]].concat();
    let mut deep_frame = u32::try_from(deep.len()).unwrap().to_be_bytes().to_vec();
    deep_frame.extend(deep);
    let cases: [&[u8]; 5] = [&absurd, b"\0\0\0\x03xyz", b"\0\0\0\x05{\"a\":", b"\0\0\0\x00", &deep_frame];
    for case in cases {
        let mut pair = Pair::connected(config());
        pair.call("user", "get", &json!(1)).unwrap();
        let conn = pair.conn(0);
        pair.send_bytes(conn, case);
        assert_eq!(pair.closed.pop_front().unwrap().0, conn);
        assert_eq!(code(pair.next_done().1), ErrorCode::ConnectionLost);
        assert!(matches!(pair.next_event(), SessionEvent::Disconnected { .. }));
        assert!(matches!(pair.next_event(), SessionEvent::Error(_)));
        assert!(matches!(pair.next_event(), SessionEvent::Reconnecting { .. }));
        pair.send_bytes(conn, case);
        assert!(pair.events.is_empty(), "late bytes of a closed connection");
        pair.pass_ms(5001);
        pair.accept_all();
        assert!(pair.session.is_connected());
    }
}

#[test]
fn what_a_client_does_not_know_is_ignored() {
    let mut pair = Pair::connected(config());
    let conn = pair.conn(0);
    for kind in ["DRAIN", "REGISTER", "HEARTBEAT", ""] {
        pair.send(conn, &json!({"type": kind, "anything": [1, 2]}));
    }
    assert!(pair.events.is_empty() && pair.sent.is_empty() && pair.session.is_connected());
    assert_eq!(pair.session.counters().unknown_frames, 4);
}

#[test]
fn an_error_of_a_live_connection_is_told() {
    let mut pair = Pair::connected(config());
    let conn = pair.conn(0);
    pair.send(conn, &refusal("TIMEOUT"));
    assert!(matches!(pair.next_event(), SessionEvent::GatewayError(_)));
    assert!(pair.events.is_empty() && pair.session.is_connected());
}

#[test]
fn a_bad_configuration_is_refused_with_a_code() {
    let now = bro_proto::time::Now::default();
    let mut large = serde_json::Map::new();
    large.insert("x".into(), "y".repeat(70_000).into());
    let mut deep = serde_json::Map::new();
    deep.insert("x".into(), (0..200).fold(json!(1), |inner, _| json!([inner])));
    let bad = [
        SessionConfig::new(""),
        SessionConfig::new("x".repeat(256)),
        SessionConfig { pool_size: 0, ..config() },
        SessionConfig { pool_size: 65, ..config() },
        SessionConfig { heartbeat_interval_ms: 0, ..config() },
        SessionConfig { frame_bytes_max: 10, ..config() },
        SessionConfig { methods: vec![String::new()], ..config() },
        SessionConfig { metadata: large, ..config() },
        SessionConfig { metadata: deep, encoding: Encoding::Msgpack, ..config() },
    ];
    for config in bad {
        let name = format!("{config:?}");
        let code = Session::new(config, 0, now).err().and_then(|error| error.code);
        assert!(matches!(code, Some(ErrorCode::InvalidArgument | ErrorCode::PayloadTooLarge)), "{name}");
    }
}
