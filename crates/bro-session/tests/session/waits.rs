//! Calls that wait for their service to appear.

use crate::pair::{Pair, code, config, payload_value};
use crate::wire2::{self, CANCEL, RESPONSE};
use bro_proto::error::ErrorCode;
use bro_proto::limits::{SERVICE_PROBE_TIMEOUT_MS, SERVICE_WAIT_RETRY_MAX_MS};
use bro_proto::v1::{Encoding, Payload};
use bro_session::{CallRequest, ConnId, SessionConfig, SessionEvent};
use serde_json::{Value, json};

const ONE: Payload<'static> = Payload { encoding: Encoding::Json, bytes: b"1" };

fn patient() -> SessionConfig {
    SessionConfig { wait_for_service_ms: 5_000, timeout_ms: 60_000, reconnect_delay_ms: 0, ..config() }
}

/// Time begins with a whole millisecond, so that spans end when they say.
fn connected_v2(config: SessionConfig) -> Pair {
    let mut pair = Pair::connected_v2(config);
    pair.now.mono_us = pair.now.mono_us.next_multiple_of(1000);
    pair
}

fn unconnected(config: SessionConfig) -> Pair {
    let mut pair = Pair::new(config);
    pair.now.mono_us = pair.now.mono_us.next_multiple_of(1000);
    pair
}

fn id_of(frame: &Value) -> u64 {
    frame["id"].as_u64().unwrap()
}

/// The calls that the session sent, without the rest.
fn sent_calls(pair: &mut Pair) -> Vec<(ConnId, Value)> {
    let sent = std::mem::take(&mut pair.sent);
    sent.into_iter().filter(|(_, frame)| frame["kind"] == "CALL" || frame["type"] == "CALL").collect()
}

fn only_call(pair: &mut Pair) -> (ConnId, Value) {
    let mut calls = sent_calls(pair);
    assert_eq!(calls.len(), 1, "{calls:?}");
    calls.remove(0)
}

fn not_found(id: u64) -> Vec<u8> {
    wire2::error(id, 1, "SERVICE_NOT_FOUND", "no service \"user\"", "")
}

fn success(id: u64, json: &[u8]) -> Vec<u8> {
    wire2::frame(RESPONSE, 0, 1, id, json)
}

/// Makes a call and has the gateway say that its service is not there; gives the session's question.
fn make_one_wait(pair: &mut Pair) -> (bro_session::CallId, ConnId, Value) {
    let id = pair.call("user", "get", &json!(1)).unwrap();
    let (conn, call) = only_call(pair);
    pair.send_bytes(conn, &not_found(id_of(&call)));
    let (conn, question) = only_call(pair);
    assert_eq!((&question["method"], &question["payload"]["service"]), (&json!("waitFor"), &json!("user")));
    (id, conn, question)
}

#[test]
fn calls_wait_in_line_and_go_out_in_the_order_in_which_they_were_made() {
    let mut pair = connected_v2(patient());
    let mut made: Vec<_> = (0..3).map(|n| pair.call("user", "get", &json!(n)).unwrap()).collect();
    let first = sent_calls(&mut pair);
    assert_eq!(first.len(), 3);
    // In whatever order they come back.
    for at in [1, 2, 0] {
        pair.send_bytes(first[at].0, &not_found(id_of(&first[at].1)));
    }
    let (conn, question) = only_call(&mut pair);
    assert_eq!(
        (&question["method"], &question["payload"]),
        (&json!("waitFor"), &json!({"service": "user", "timeoutMs": 5000, "brief": true}))
    );
    made.push(pair.call("user", "get", &json!(3)).unwrap());
    assert!(pair.sent.is_empty() && pair.events.is_empty(), "{:?}", pair.events);
    let status = pair.session.status();
    assert_eq!((status.pending_calls, status.waiting_calls, pair.session.counters().waits), (4, 4, 4));

    pair.pass_ms(700);
    pair.send_bytes(conn, &success(id_of(&question), br#"{"name":"user"}"#));
    let again = sent_calls(&mut pair);
    let params: Vec<_> = again.iter().map(|(_, call)| call["payload"].clone()).collect();
    assert_eq!(params, [0, 1, 2, 3]);
    assert_eq!((&again[0].1["timeout"], &again[3].1["timeout"]), (&json!(59_300), &json!(59_300)), "what is left");
    assert_eq!(pair.session.status().waiting_calls, 0);
    for (n, (conn, call)) in again.iter().enumerate() {
        pair.send_bytes(*conn, &success(id_of(call), n.to_string().as_bytes()));
        let (id, outcome) = pair.next_done();
        assert_eq!((id, payload_value(&outcome.unwrap())), (made[n], json!(n)));
    }
    assert_eq!((pair.session.counters().calls, pair.session.counters().late_answers), (4, 0));
    pair.call("user", "get", &json!(4)).unwrap();
    assert_eq!(only_call(&mut pair).1["payload"], 4, "nobody waits any more");
}

#[test]
fn a_wait_ends_by_its_own_limit_and_says_how_long_it_was() {
    let mut pair = connected_v2(patient());
    let (id, _, question) = make_one_wait(&mut pair);
    let short = CallRequest { wait_ms: Some(100), ..CallRequest::new("user", "get", ONE) };
    let short = pair.session.call(short, pair.now).unwrap();
    pair.pass_ms(99);
    assert!(pair.events.is_empty());
    pair.pass_ms(1);
    let (done, outcome) = pair.next_done();
    let error = outcome.unwrap_err();
    assert_eq!((done, error.code.clone()), (short, Some(ErrorCode::ServiceNotFound)));
    assert!(error.message.contains("\"user\"") && error.message.contains("100 ms"), "{error:?}");
    pair.pass_ms(4_900);
    let (done, outcome) = pair.next_done();
    assert_eq!((done, code(outcome)), (id, ErrorCode::ServiceNotFound));
    let (_, cancel) = pair.next_sent();
    assert_eq!((&cancel["kind"], id_of(&cancel)), (&json!("CANCEL"), id_of(&question)), "nobody waits any more");
    assert_eq!(pair.session.status().pending_calls, 0);
}

#[test]
fn a_wait_ends_with_the_time_that_the_call_may_take() {
    let mut pair = connected_v2(patient());
    for (timeout_ms, wait_ms, expected) in
        [(200, 300, ErrorCode::Timeout), (200, 200, ErrorCode::ServiceNotFound), (300, 200, ErrorCode::ServiceNotFound)]
    {
        let call = CallRequest {
            timeout_ms: Some(timeout_ms),
            wait_ms: Some(wait_ms),
            ..CallRequest::new("user", "get", ONE)
        };
        pair.session.call(call, pair.now).unwrap();
        pair.drive();
        let (conn, call) = only_call(&mut pair);
        pair.pass_ms(50);
        pair.send_bytes(conn, &not_found(id_of(&call)));
        pair.pass_ms(149);
        assert!(pair.events.is_empty());
        pair.pass_ms(1);
        let error = pair.next_done().1.unwrap_err();
        assert!(error.message.contains("200 ms"), "{error:?}");
        assert_eq!(error.code, Some(expected));
        pair.sent.clear();
    }
}

#[test]
fn a_call_that_comes_back_after_its_limit_does_not_wait() {
    let mut pair = connected_v2(patient());
    pair.call("user", "get", &json!(1)).unwrap();
    let (conn, call) = only_call(&mut pair);
    pair.pass_ms(5_000);
    pair.send_bytes(conn, &not_found(id_of(&call)));
    assert_eq!(code(pair.next_done().1), ErrorCode::ServiceNotFound);
    assert!(sent_calls(&mut pair).is_empty());
}

#[test]
fn cancelling_takes_a_call_out_of_its_line() {
    let mut pair = connected_v2(patient());
    let (first, conn, question) = make_one_wait(&mut pair);
    let second = pair.call("user", "get", &json!(2)).unwrap();
    let third = pair.call("user", "get", &json!(3)).unwrap();
    assert!(pair.session.cancel(second, pair.now) && !pair.session.cancel(second, pair.now));
    pair.drive();
    assert!(pair.sent.is_empty(), "the others still wait, and nobody has to be told");
    pair.send_bytes(conn, &success(id_of(&question), b"{}"));
    let params: Vec<_> = sent_calls(&mut pair).iter().map(|(_, call)| call["payload"].clone()).collect();
    assert_eq!(params, [1, 3]);
    for id in [first, third] {
        assert!(pair.session.cancel(id, pair.now));
    }
    pair.drive();
    assert!(pair.sent.iter().all(|(_, frame)| frame["kind"] == "CANCEL") && pair.sent.len() == 2);

    pair.sent.clear();
    let (id, _, question) = make_one_wait(&mut pair);
    assert!(pair.session.cancel(id, pair.now));
    pair.drive();
    let (_, cancel) = pair.next_sent();
    assert_eq!((&cancel["kind"], id_of(&cancel)), (&json!("CANCEL"), id_of(&question)));
    assert_eq!(pair.session.status().pending_calls, 0);
}

#[test]
fn calls_made_before_the_first_connection_wait_for_both() {
    let mut pair = unconnected(SessionConfig { wait_for_gateway_ms: 60_000, ..patient() });
    assert_eq!(code(pair.call("user", "get", &json!(1))), ErrorCode::NotConnected, "nothing is under way");
    pair.connect();
    let first = pair.call("user", "get", &json!(1)).unwrap();
    assert_eq!(
        code(pair.session.call(CallRequest { wait_ms: Some(0), ..CallRequest::new("user", "get", ONE) }, pair.now)),
        ErrorCode::NotConnected
    );
    pair.refuse_all();
    let second = pair.call("user", "get", &json!(2)).unwrap();
    pair.pass_ms(1_000);
    assert!(pair.events.is_empty(), "{:?}", pair.events);
    pair.accept_all_v2();
    let (conn, question) = only_call(&mut pair);
    assert_eq!((&question["method"], &question["payload"]["timeoutMs"]), (&json!("waitFor"), &json!(4_000)));
    pair.send_bytes(conn, &success(id_of(&question), b"{}"));
    let calls = sent_calls(&mut pair);
    assert_eq!(calls.iter().map(|(_, call)| &call["payload"]).collect::<Vec<_>>(), [&json!(1), &json!(2)]);
    for ((conn, call), made) in calls.iter().zip([first, second]) {
        pair.send_bytes(*conn, &success(id_of(call), b"1"));
        assert_eq!(pair.next_done().0, made);
    }
}

#[test]
fn without_a_gateway_a_wait_ends_with_not_connected() {
    let mut pair = unconnected(SessionConfig { wait_for_gateway_ms: 60_000, ..patient() });
    pair.connect();
    pair.refuse_all();
    pair.call("user", "get", &json!(1)).unwrap();
    pair.pass_ms(5_000);
    let error = pair.next_done().1.unwrap_err();
    assert_eq!(error.code, Some(ErrorCode::NotConnected));
    assert!(error.message.contains("5000 ms"), "{error:?}");

    let mut pair = unconnected(patient());
    pair.connect();
    pair.call("user", "get", &json!(1)).unwrap();
    pair.refuse_all();
    assert_eq!(code(pair.next_done().1), ErrorCode::NotConnected, "the attempt has failed");
    assert_eq!((pair.session.status().pending_calls, pair.session.wakeup_ms()), (0, None));
}

#[test]
fn a_gateway_that_comes_back_is_asked_again() {
    let mut pair = connected_v2(patient());
    let (id, conn, _) = make_one_wait(&mut pair);
    let in_flight = pair.call("role", "get", &json!(2)).unwrap();
    pair.hang_up(conn);
    assert_eq!(pair.next_done().0, in_flight, "that may have been carried out");
    assert!(!pair.events.iter().any(|event| matches!(event, SessionEvent::CallDone { .. })));
    let late = pair.call("user", "get", &json!(3)).unwrap();
    pair.pass_ms(1_000);
    pair.sent.clear();
    pair.accept_all_v2();
    let (conn, question) = only_call(&mut pair);
    assert_eq!((&question["method"], &question["payload"]["timeoutMs"]), (&json!("waitFor"), &json!(4_000)));
    pair.send_bytes(conn, &success(id_of(&question), b"{}"));
    let calls = sent_calls(&mut pair);
    assert_eq!(calls.iter().map(|(_, call)| &call["payload"]).collect::<Vec<_>>(), [&json!(1), &json!(3)]);
    for ((conn, call), made) in calls.iter().zip([id, late]) {
        pair.send_bytes(*conn, &success(id_of(call), b"1"));
        assert_eq!(pair.next_done().0, made);
    }
}

#[test]
fn leaving_the_gateway_ends_waits_and_says_that_nothing_was_carried_out() {
    let mut pair = connected_v2(patient());
    let (id, conn, _) = make_one_wait(&mut pair);
    pair.session.drain(pair.now);
    pair.drive();
    pair.send_bytes(conn, &wire2::frame(wire2::PONG, 0, 0, 1, &[]));
    pair.take_event(|event| matches!(event, SessionEvent::Drained { in_work: 0 }));
    assert_eq!(pair.session.status().waiting_calls, 1, "draining is about the calls of others");
    pair.session.disconnect(pair.now);
    pair.drive();
    let (done, outcome) = pair.next_done();
    let error = outcome.unwrap_err();
    assert_eq!((done, error.code.clone()), (id, Some(ErrorCode::NotConnected)));
    assert!(error.message.contains("not carried out"), "{error:?}");
    assert_eq!((pair.session.status().pending_calls, pair.session.wakeup_ms()), (0, None));

    let mut pair = connected_v2(SessionConfig { auto_reconnect: false, ..patient() });
    let (_, conn, _) = make_one_wait(&mut pair);
    pair.hang_up(conn);
    assert_eq!(code(pair.next_done().1), ErrorCode::NotConnected, "nobody reconnects");
    assert_eq!((pair.session.status().pending_calls, pair.session.wakeup_ms()), (0, None));
}

#[test]
fn a_service_that_is_gone_again_is_waited_for_with_growing_pauses_until_the_limit() {
    let mut pair = connected_v2(patient());
    let (id, mut conn, mut question) = make_one_wait(&mut pair);
    let mut rounds = 0;
    while pair.events.is_empty() {
        pair.send_bytes(conn, &success(id_of(&question), b"{}"));
        let (_, call) = only_call(&mut pair);
        assert_eq!(call["method"], "get");
        pair.send_bytes(conn, &wire2::error(id_of(&call), 1, "SHUTTING_DOWN", "its last instance leaves", ""));
        assert!(sent_calls(&mut pair).is_empty(), "not at once: it would go round and round");
        while pair.sent.is_empty() && pair.events.is_empty() {
            pair.pass_ms(1);
        }
        let Some((on, asked)) = sent_calls(&mut pair).pop() else { break };
        (conn, question) = (on, asked);
        rounds += 1;
    }
    let (done, outcome) = pair.next_done();
    assert_eq!((done, code(outcome)), (id, ErrorCode::ServiceNotFound));
    assert!((5_000 / SERVICE_WAIT_RETRY_MAX_MS..60).contains(&rounds), "{rounds}");
}

#[test]
fn a_gateway_that_cannot_tell_is_not_asked_and_the_service_is() {
    for refusal in ["METHOD_NOT_FOUND", "PERMISSION_DENIED"] {
        let mut pair = connected_v2(patient());
        let (_, conn, question) = make_one_wait(&mut pair);
        pair.send_bytes(conn, &wire2::error(id_of(&question), 1, refusal, "no", ""));
        assert!(pair.sent.is_empty());
        pair.pass_ms(40);
        let ping = only_call(&mut pair).1;
        assert_eq!((&ping["method"], &ping["payload"]), (&json!("bro.ping"), &Value::Null));
        // Not there, not there, and then somebody who does not know the method.
        pair.send_bytes(conn, &not_found(id_of(&ping)));
        pair.pass_ms(80);
        let ping = only_call(&mut pair).1;
        pair.send_bytes(conn, &wire2::error(id_of(&ping), 0, "METHOD_NOT_FOUND", "no", ""));
        assert_eq!(only_call(&mut pair).1["method"], "get");
        assert!(pair.events.is_empty(), "{:?}", pair.events);
    }
}

#[test]
fn a_gateway_without_room_for_one_more_that_waits_is_asked_again() {
    let mut pair = connected_v2(patient());
    let (_, conn, question) = make_one_wait(&mut pair);
    pair.send_bytes(conn, &wire2::error(id_of(&question), 1, "RESOURCE_EXHAUSTED", "4096 wait", ""));
    pair.pass_ms(40);
    let (conn, question) = only_call(&mut pair);
    assert_eq!(question["method"], "waitFor");
    pair.send_bytes(conn, &success(id_of(&question), b"{}"));
    assert_eq!(only_call(&mut pair).1["method"], "get");
}

#[test]
fn a_service_that_does_not_answer_is_busy_not_absent() {
    let mut pair = connected_v2(patient());
    let (_, conn, question) = make_one_wait(&mut pair);
    pair.send_bytes(conn, &wire2::error(id_of(&question), 1, "METHOD_NOT_FOUND", "no", ""));
    pair.pass_ms(40);
    assert_eq!(only_call(&mut pair).1["method"], "bro.ping");
    pair.pass_ms(SERVICE_PROBE_TIMEOUT_MS);
    assert_eq!(only_call(&mut pair).1["method"], "get");
}

#[test]
fn with_a_gateway_of_version_1_the_service_is_asked_until_it_is_there() {
    let mut pair = unconnected(patient());
    pair.connect();
    let conn = pair.accept().unwrap();
    // As the JavaScript library's does it.
    pair.send(conn, &json!({"type": "REGISTER_ACK"}));
    pair.sent.clear();
    pair.events.clear();
    let made: Vec<_> = (0..2).map(|n| pair.call("user", "get", &json!(n)).unwrap()).collect();
    let calls = sent_calls(&mut pair);
    let absent = |id: &Value| json!({"type": "ERROR", "id": id, "error": {"message": "Service user not found", "code": "SERVICE_NOT_FOUND"}});
    for (_, call) in &calls {
        pair.send(conn, &absent(&call["id"]));
    }
    for _ in 0..3 {
        let ping = only_call(&mut pair).1;
        assert_eq!((&ping["to"], &ping["method"]), (&json!("user"), &json!("bro.ping")));
        pair.send(conn, &absent(&ping["id"]));
        assert!(pair.sent.is_empty() && pair.events.is_empty());
        pair.pass_ms(160);
    }
    let ping = sent_calls(&mut pair).pop().unwrap().1;
    pair.send(
        conn,
        &json!({"type": "RESPONSE", "id": ping["id"], "from": "user", "to": "order", "status": "error",
        "error": {"message": "no", "code": "METHOD_NOT_FOUND"}}),
    );
    let again = sent_calls(&mut pair);
    assert_eq!(again.iter().map(|(_, call)| &call["params"]).collect::<Vec<_>>(), [&json!(0), &json!(1)]);
    for ((_, call), (_, before)) in again.iter().zip(&calls) {
        assert_ne!(call["id"], before["id"], "no id comes twice");
        assert_eq!(call["context"]["chain"], json!(["order", "user"]));
        assert!(call["context"]["deadline"].as_u64() <= before["context"]["deadline"].as_u64());
        // What is said of the first attempt is nobody's any more.
        pair.send(conn, &absent(&before["id"]));
    }
    assert_eq!(pair.session.counters().late_answers, 2);
    pair.events.clear();
    for ((_, call), id) in again.iter().zip(made) {
        pair.send(conn, &json!({"type": "RESPONSE", "id": call["id"], "from": "user", "status": "success", "data": 7}));
        assert_eq!(pair.next_done().0, id);
    }
}

#[test]
fn only_the_gateway_says_that_a_service_is_not_there() {
    let mut pair = connected_v2(patient());
    pair.call("user", "get", &json!(1)).unwrap();
    let (conn, call) = only_call(&mut pair);
    pair.send_bytes(conn, &wire2::error(id_of(&call), 0, "SERVICE_NOT_FOUND", "of a service behind it", ""));
    assert_eq!(code(pair.next_done().1), ErrorCode::ServiceNotFound);

    let call = CallRequest { wait_ms: Some(0), ..CallRequest::new("user", "get", ONE) };
    pair.session.call(call, pair.now).unwrap();
    pair.drive();
    let (conn, call) = only_call(&mut pair);
    pair.send_bytes(conn, &not_found(id_of(&call)));
    pair.take_event(|event| matches!(event, SessionEvent::GatewayError(_)));
    assert_eq!(code(pair.next_done().1), ErrorCode::ServiceNotFound, "this one does not wait");

    pair.call("bro.gateway", "service", &json!({"name": "nobody"})).unwrap();
    let (conn, call) = only_call(&mut pair);
    pair.send_bytes(conn, &not_found(id_of(&call)));
    assert_eq!(code(pair.next_done().1), ErrorCode::ServiceNotFound, "that is an answer of the gateway's own service");
}

#[test]
fn waiting_calls_are_bounded_in_number_and_bytes() {
    let mut pair = connected_v2(SessionConfig { waiting_calls_max: 2, ..patient() });
    make_one_wait(&mut pair);
    let second = pair.call("user", "get", &json!(2)).unwrap();
    let error = pair.call("user", "get", &json!(3)).unwrap_err();
    assert_eq!(error.code, Some(ErrorCode::ResourceExhausted));
    assert!(error.message.contains("2 calls wait"), "{error:?}");
    // One that has come back finds no room either.
    let third = pair.call("role", "get", &json!(4)).unwrap();
    let (conn, call) = only_call(&mut pair);
    pair.send_bytes(conn, &not_found(id_of(&call)));
    let (done, outcome) = pair.next_done();
    assert_eq!((done, code(outcome)), (third, ErrorCode::ResourceExhausted));
    assert!(pair.session.cancel(second, pair.now));
    assert!(pair.call("user", "get", &json!(5)).is_ok());

    let mut pair = connected_v2(SessionConfig { waiting_bytes_max: 3_000, ..patient() });
    let large = json!("x".repeat(2_000));
    make_one_wait(&mut pair);
    pair.call("user", "get", &large).unwrap();
    assert_eq!(code(pair.call("user", "get", &large)), ErrorCode::ResourceExhausted);
    // What need not wait needs no room.
    pair.call("role", "get", &large).unwrap();
    let (conn, call) = only_call(&mut pair);
    pair.send_bytes(conn, &success(id_of(&call), b"1"));
    assert!(pair.next_done().1.is_ok());
    pair.call("role", "get", &large).unwrap();
    let (conn, call) = only_call(&mut pair);
    pair.send_bytes(conn, &not_found(id_of(&call)));
    assert_eq!(code(pair.next_done().1), ErrorCode::ResourceExhausted);
    // What has ended makes room.
    for id in 0..100 {
        let service = format!("s{id}");
        pair.call(&service, "get", &json!(1)).unwrap();
        let (conn, call) = only_call(&mut pair);
        pair.send_bytes(conn, &success(id_of(&call), b"1"));
    }
}

#[test]
fn what_is_wrong_with_a_call_is_said_before_it_waits() {
    let mut pair = connected_v2(patient());
    make_one_wait(&mut pair);
    let huge = vec![b' '; 64 << 20];
    let nested = "[".repeat(200) + &"]".repeat(200);
    let base = CallRequest::new("user", "get", ONE);
    for (call, expected) in [
        (CallRequest { method: "", ..base }, ErrorCode::InvalidArgument),
        (CallRequest { params: Payload { bytes: &huge, ..ONE }, ..base }, ErrorCode::PayloadTooLarge),
        (CallRequest { params: Payload { bytes: nested.as_bytes(), ..ONE }, ..base }, ErrorCode::SerializationFailed),
    ] {
        assert_eq!(code(pair.session.call(call, pair.now)), expected);
    }
    assert_eq!(pair.session.status().waiting_calls, 1);
}

#[test]
fn a_call_that_waits_ends_with_the_request_that_it_was_made_for() {
    let mut pair = connected_v2(patient());
    let conn = pair.conn(0);
    pair.send_bytes(conn, &wire2::call(5).frame());
    let request = pair.next_request();
    let nested = CallRequest { request: Some(request.id), ..CallRequest::new("role", "get", ONE) };
    let id = pair.session.call(nested, pair.now).unwrap();
    pair.drive();
    let call = only_call(&mut pair).1;
    assert_eq!(call["parent"], 5);
    pair.send_bytes(conn, &not_found(id_of(&call)));
    let joined = pair.session.call(nested, pair.now).unwrap();
    pair.send_bytes(conn, &wire2::frame(CANCEL, 0, 0, 5, &[]));
    let mut ended = [pair.next_done(), pair.next_done()].map(|(id, outcome)| (id, code(outcome)));
    ended.sort_by_key(|(id, _)| *id);
    let mut expected = [(id, ErrorCode::Cancelled), (joined, ErrorCode::Cancelled)];
    expected.sort_by_key(|(id, _)| *id);
    assert_eq!(ended, expected);
    assert_eq!(pair.session.status().pending_calls, 0);

    // One that comes back after that does not wait at all.
    pair.send_bytes(conn, &wire2::call(6).frame());
    let request = pair.next_request();
    pair.sent.clear();
    let nested = CallRequest { request: Some(request.id), ..CallRequest::new("role", "get", ONE) };
    pair.session.call(nested, pair.now).unwrap();
    pair.drive();
    let call = only_call(&mut pair).1;
    pair.send_bytes(conn, &wire2::frame(CANCEL, 0, 0, 6, &[]));
    pair.send_bytes(conn, &not_found(id_of(&call)));
    assert_eq!(code(pair.next_done().1), ErrorCode::Cancelled);
    assert!(sent_calls(&mut pair).is_empty());
}

#[test]
fn a_line_that_finds_no_room_goes_on_when_there_is() {
    let mut pair = connected_v2(SessionConfig { queue_bytes_max: 200, ..patient() });
    let (_, conn, question) = make_one_wait(&mut pair);
    let params = json!("x".repeat(150));
    for _ in 0..4 {
        pair.call("user", "get", &params).unwrap();
    }
    // The gateway reads nothing while the answer is handled: all but the first two find the queue full.
    pair.send_bytes(conn, &success(id_of(&question), b"{}"));
    let first = sent_calls(&mut pair).len();
    assert!((1..5).contains(&first), "{first}");
    let mut sent = first;
    while sent < 5 {
        pair.pass_ms(100);
        for (conn, frame) in sent_calls(&mut pair) {
            if frame["method"] == "waitFor" {
                pair.send_bytes(conn, &success(id_of(&frame), b"{}"));
            } else {
                sent += 1;
            }
        }
    }
    assert!(pair.events.is_empty(), "{:?}", pair.events);
    assert_eq!(pair.session.status().waiting_calls, 0);
}
