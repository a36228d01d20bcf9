//! Calls: where they go, what they look like there, and how they end.

mod support;

use bro_proto::limits::TIMERS_PER_INPUT_MAX;
use bro_proto::v1::Encoding::{Json, Msgpack};
use bro_router::{CloseReason, EventMask, RouterConfig};
use serde_json::json;
use support::{Gateway, answer, code, frame};

#[test]
fn an_unchanged_call_is_passed_on_from_where_it_lies() {
    let mut gateway = Gateway::new();
    let (order, user) = (gateway.service("order", Json), gateway.service("user", Json));
    let call = gateway.call("req-1", "order", "user");
    gateway.orders.inbound_parts.clear();
    gateway.send_json(order, &call);
    assert_eq!(gateway.orders.inbound_parts, [1]);
    assert_eq!(gateway.take_one(user), call);
    assert_eq!(gateway.router.in_flight_len(), 1);
    gateway.send_json(user, &answer(&call, json!([1, "two"])));
    assert_eq!(gateway.orders.inbound_parts, [1]);
    assert_eq!(gateway.take(order), [answer(&call, json!([1, "two"]))]);
    assert_eq!((gateway.router.in_flight_len(), gateway.router.charged_bytes()), (0, 0));
}

#[test]
fn a_call_crosses_encodings_in_every_direction() {
    for (source, target) in [(Json, Json), (Json, Msgpack), (Msgpack, Json), (Msgpack, Msgpack)] {
        let mut gateway = Gateway::new();
        let (order, user) = (gateway.service("order", source), gateway.service("user", target));
        let call = gateway.call("req-1", "order", "user");
        gateway.send(order, &call, source);
        let arrived = gateway.take_one(user);
        assert_eq!((&arrived["id"], &arrived["params"]), (&call["id"], &call["params"]), "{source:?} to {target:?}");
        gateway.send(user, &answer(&arrived, json!({"ü": 1})), target);
        let back = gateway.take_one(order);
        assert_eq!((&back["id"], &back["data"]), (&json!("req-1"), &json!({"ü": 1})), "{target:?} to {source:?}");
    }
}

#[test]
fn the_gateway_stamps_who_calls_and_who_answers() {
    let mut gateway = Gateway::new();
    let (order, user) = (gateway.service("order", Json), gateway.service("user", Json));
    gateway.send_json(order, &gateway.call("req-1", "admin", "user"));
    let call = gateway.take_one(user);
    assert_eq!(call["from"], "order");
    let mut forged = answer(&call, json!(1));
    forged["from"] = json!("admin");
    forged["to"] = json!("victim");
    gateway.send_json(user, &forged);
    let response = gateway.take_one(order);
    assert_eq!((&response["from"], &response["to"]), (&json!("user"), &json!("order")));
}

#[test]
fn a_call_without_a_sender_is_given_one() {
    let mut gateway = Gateway::new();
    let (order, user) = (gateway.service("order", Json), gateway.service("user", Json));
    let mut call = gateway.call("req-1", "order", "user");
    call.as_object_mut().unwrap().remove("from");
    gateway.send_json(order, &call);
    assert_eq!(gateway.take(user), [gateway.call("req-1", "order", "user")]);
}

#[test]
fn a_call_without_a_context_is_given_one() {
    let mut gateway = Gateway::new();
    let (order, user) = (gateway.service("order", Json), gateway.service("user", Json));
    for absent in [json!(null), json!("remove")] {
        let mut call = gateway.call("req-1", "order", "user");
        call["context"] = absent.clone();
        if absent == "remove" {
            call.as_object_mut().unwrap().remove("context");
        }
        gateway.send_json(order, &call);
        let context = gateway.take_one(user)["context"].clone();
        assert_eq!((&context["chain"], &context["depth"]), (&json!(["order", "user"]), &json!(2)));
        assert_eq!(context["deadline"], gateway.now.wall_ms + 30_000);
        assert!(context["root"].as_str().unwrap().starts_with("root-"));
    }
}

#[test]
fn the_chain_of_an_old_client_is_carried_as_it_is() {
    let mut gateway = Gateway::new();
    let (order, user) = (gateway.service("order", Json), gateway.service("user", Json));
    let mut call = gateway.call("req-1", "order", "user");
    call["context"]["chain"] = json!(["order", "order"]);
    gateway.send_json(order, &call);
    assert_eq!(gateway.take_one(user)["context"]["chain"], json!(["order", "order"]));
}

#[test]
fn equal_ids_of_two_callers_end_each_at_its_own() {
    let mut gateway = Gateway::new();
    let (a, b, user) = (gateway.service("a", Json), gateway.service("b", Msgpack), gateway.service("user", Json));
    gateway.send_json(a, &gateway.call("req-1", "a", "user"));
    gateway.send(b, &gateway.call("req-1", "b", "user"), Msgpack);
    gateway.send_json(a, &gateway.call("req-1", "a", "user"));
    let calls = gateway.take(user);
    let ids: std::collections::BTreeSet<&str> = calls.iter().map(|call| call["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 3, "the callee knows no two calls by one id");
    for call in calls.iter().rev() {
        gateway.send_json(user, &answer(call, call["from"].clone()));
    }
    for (peer, name, count) in [(a, "a", 2), (b, "b", 1)] {
        let answers = gateway.take(peer);
        assert_eq!(answers.len(), count);
        assert!(answers.iter().all(|answer| answer["id"] == "req-1" && answer["data"] == name));
    }
}

#[test]
fn only_the_asked_instance_may_answer_and_only_once() {
    let mut gateway = Gateway::new();
    let (order, user, thief) =
        (gateway.service("order", Json), gateway.service("user", Json), gateway.service("t", Json));
    let call = gateway.call("req-1", "order", "user");
    gateway.send_json(order, &call);
    gateway.send_json(thief, &answer(&call, json!("stolen")));
    assert_eq!(gateway.take(order), Vec::<serde_json::Value>::new());
    assert!(gateway.orders.events.last().unwrap().contains("in the name of"), "{:?}", gateway.orders.events);
    gateway.send_json(user, &answer(&call, json!("right")));
    gateway.send_json(user, &answer(&call, json!("again")));
    assert_eq!(gateway.take_one(order)["data"], "right");
    assert_eq!(gateway.router.counters().responses_dropped, 2);
    assert!(gateway.router.is_peer(thief) && gateway.router.is_peer(user), "late and forged answers are not fatal");
}

#[test]
fn a_service_may_call_itself() {
    let mut gateway = Gateway::new();
    let order = gateway.service("order", Json);
    let call = gateway.call("req-1", "order", "order");
    gateway.send_json(order, &call);
    assert_eq!(gateway.take_one(order), call);
    gateway.send_json(order, &answer(&call, json!(1)));
    assert_eq!(gateway.take(order), [answer(&call, json!(1))]);
    gateway.send_json(order, &call);
    gateway.disconnect(order);
    assert_eq!(gateway.router.in_flight_len(), 0);
}

#[test]
fn refusals_come_at_once_with_a_code_and_the_context() {
    let mut gateway = Gateway::with(RouterConfig { in_flight_per_peer_max: 3, ..RouterConfig::default() });
    let (order, _user) = (gateway.service("order", Json), gateway.service("user", Json));
    let stranger = gateway.connect();
    let good = gateway.call("req-1", "order", "user");
    let edit = |path: &str, value: serde_json::Value| {
        let mut call = good.clone();
        *call.pointer_mut(path).unwrap() = value;
        call
    };
    let wall_ms = gateway.now.wall_ms;
    let cases = [
        (stranger, good.clone(), "NOT_REGISTERED"),
        (order, edit("/to", json!("nobody")), "SERVICE_NOT_FOUND"),
        (order, edit("/to", json!(null)), "INVALID_MESSAGE"),
        (order, edit("/to", json!("")), "INVALID_MESSAGE"),
        (order, edit("/to", json!("é".repeat(128))), "INVALID_MESSAGE"),
        (order, edit("/method", json!("")), "INVALID_MESSAGE"),
        (order, edit("/id", json!("x".repeat(256))), "INVALID_MESSAGE"),
        (order, edit("/context/deadline", json!(wall_ms)), "DEADLINE_EXCEEDED"),
        (order, edit("/context/depth", json!(101)), "MAX_DEPTH_EXCEEDED"),
        (order, edit("/context/depth", json!(0)), "INVALID_CONTEXT"),
        (order, edit("/context/chain", json!("order")), "INVALID_CONTEXT"),
        (order, edit("/context/chain", json!(vec!["a"; 257])), "INVALID_CONTEXT"),
        (order, edit("/context/root", json!("")), "INVALID_CONTEXT"),
        (order, edit("/context/root", json!("r".repeat(70_000))), "INVALID_CONTEXT"),
    ];
    for (peer, call, expected) in cases {
        gateway.send_json(peer, &call);
        let response = gateway.take_one(peer);
        assert_eq!(code(&response), expected, "{response}");
        assert_eq!((&response["type"], &response["id"]), (&json!("RESPONSE"), &call["id"]));
        if call["context"].to_string().len() < 60_000 {
            assert_eq!(response["context"], call["context"]);
        }
    }
    for _ in 0..3 {
        gateway.send_json(order, &good);
    }
    gateway.send_json(order, &good);
    assert_eq!(code(&gateway.take_one(order)), "RESOURCE_EXHAUSTED");
    assert_eq!(gateway.router.counters().calls_refused, 15);
}

/// Events are logged and kept for watchers: a text of 32 MiB would fill the log, and push everything else out.
#[test]
fn texts_of_any_length_are_cut_in_events() {
    let mut gateway = Gateway::new();
    let (order, stranger) = (gateway.service("order", Json), gateway.connect());
    let long = "é".repeat(100_000);
    for (peer, path) in [(order, "/id"), (order, "/to"), (order, "/method"), (stranger, "/from"), (stranger, "/id")] {
        let mut call = gateway.call("req-1", "order", "user");
        *call.pointer_mut(path).unwrap() = json!(long);
        gateway.send_json(peer, &call);
        gateway.take(peer);
    }
    for path in ["/id", "/from"] {
        let mut response = answer(&gateway.call("req-1", "order", "user"), json!(1));
        response["from"] = json!("user");
        *response.pointer_mut(path).unwrap() = json!(long);
        gateway.send_json(order, &response);
        gateway.send_json(stranger, &response);
    }
    let longest = gateway.orders.events.iter().max_by_key(|event| event.len()).unwrap();
    assert!(longest.len() < 2000, "{} bytes: {}", longest.len(), &longest[..200]);
    assert!(gateway.orders.events.iter().filter(|event| event.contains("ééé")).count() >= 8);
}

#[test]
fn an_unknown_service_is_told_with_those_that_are_known() {
    let mut gateway = Gateway::new();
    let order = gateway.service("order", Json);
    gateway.send_json(order, &gateway.call("1", "order", "usre"));
    let message = gateway.take_one(order)["error"]["message"].as_str().unwrap().to_owned();
    assert_eq!(message, "service \"usre\" is not registered (no other is)");
    gateway.service("user", Json);
    gateway.send_json(order, &gateway.call("1", "order", "usre"));
    let message = gateway.take_one(order)["error"]["message"].as_str().unwrap().to_owned();
    assert_eq!(message, "service \"usre\" is not registered (registered: user)");
    for number in 0..20 {
        gateway.service(&format!("s{number}"), Json);
    }
    gateway.send_json(order, &gateway.call("1", "order", "usre"));
    let message = gateway.take_one(order)["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.ends_with("s6 and 13 more)"), "{message}");
}

#[test]
fn a_deadline_ends_the_call_and_a_late_answer_is_dropped() {
    let mut gateway = Gateway::new();
    let (order, user) = (gateway.service("order", Json), gateway.service("user", Json));
    let call = gateway.call("req-1", "order", "user");
    gateway.send_json(order, &call);
    gateway.take(user);
    gateway.pass(4999);
    assert_eq!(gateway.take(order).len(), 0, "never early");
    gateway.pass(1);
    let response = gateway.take_one(order);
    assert_eq!(code(&response), "TIMEOUT");
    assert_eq!(response["error"]["message"], "user.get: no answer within 5000 ms");
    assert_eq!((&response["id"], &response["context"]), (&call["id"], &call["context"]));
    gateway.send_json(user, &answer(&call, json!(1)));
    assert_eq!(gateway.take(order).len(), 0);
    assert_eq!(gateway.router.counters().responses_dropped, 1);
}

#[test]
fn a_wall_clock_that_jumps_kills_no_call_in_flight() {
    let mut gateway = Gateway::new();
    let (order, user) = (gateway.service("order", Json), gateway.service("user", Json));
    let call = gateway.call("req-1", "order", "user");
    gateway.send_json(order, &call);
    gateway.now.wall_ms += 3_600_000;
    gateway.pass(1000);
    gateway.now.wall_ms -= 7_200_000;
    gateway.pass(1000);
    assert_eq!((gateway.take(order).len(), gateway.router.in_flight_len()), (0, 1));
    gateway.take(user);
    gateway.send_json(user, &answer(&call, json!(1)));
    assert_eq!(gateway.take_one(order)["status"], "success");
}

/// A million calls with one deadline ended in one input, and everybody waited for half a second.
#[test]
fn deadlines_that_pass_together_do_not_hold_up_others() {
    const CALLS: usize = 2 * TIMERS_PER_INPUT_MAX + 100;
    let mut gateway = Gateway::new();
    gateway.router.set_events(EventMask::NONE);
    let (order, _user) = (gateway.service("order", Json), gateway.service("user", Json));
    let mut call = frame(&serde_json::to_vec(&gateway.call("req-1", "order", "user")).expect("JSON"));
    for _ in 0..CALLS {
        gateway.router.handle_frame(order, &mut call, gateway.now, &mut gateway.orders);
    }
    assert_eq!(gateway.router.in_flight_len(), CALLS);
    gateway.now.mono_us += 6_000_000;
    let mut left = vec![];
    while gateway.router.wakeup_ms().is_some_and(|at| at <= gateway.now.mono_ms()) {
        gateway.router.handle_time(gateway.now, &mut gateway.orders);
        left.push(gateway.router.in_flight_len());
    }
    assert_eq!(left[..2], [CALLS - TIMERS_PER_INPUT_MAX, CALLS - 2 * TIMERS_PER_INPUT_MAX]);
    assert_eq!(left.last(), Some(&0), "it is said that there is more until there is none");
    let answers = gateway.take(order);
    assert!(answers.len() == CALLS && answers.iter().all(|answer| code(answer) == "TIMEOUT"));
    gateway.router.check_invariants();
}

#[test]
fn a_lost_callee_fails_its_calls_at_once() {
    let mut gateway = Gateway::new();
    let (order, user) = (gateway.service("order", Json), gateway.service("user", Json));
    for id in ["1", "2", "3"] {
        gateway.send_json(order, &gateway.call(id, "order", "user"));
    }
    gateway.disconnect(user);
    let answers = gateway.take(order);
    assert_eq!(answers.len(), 3);
    for answer in &answers {
        assert_eq!(code(answer), "CONNECTION_LOST");
        assert!(answer["error"]["message"].as_str().unwrap().contains("user.get"), "{answer}");
    }
    gateway.send_json(order, &gateway.call("4", "order", "user"));
    assert_eq!(code(&gateway.take_one(order)), "SERVICE_NOT_FOUND");
}

#[test]
fn a_lost_caller_takes_its_calls_along() {
    let mut gateway = Gateway::new();
    let (order, user) = (gateway.service("order", Json), gateway.service("user", Json));
    let call = gateway.call("req-1", "order", "user");
    gateway.send_json(order, &call);
    gateway.disconnect(order);
    assert_eq!(gateway.router.in_flight_len(), 0);
    gateway.take(user);
    gateway.send_json(user, &answer(&call, json!(1)));
    assert_eq!(gateway.router.counters().responses_dropped, 1);
    assert!(gateway.router.is_peer(user));
}

#[test]
fn an_answer_that_makes_no_sense_still_ends_the_call() {
    let mut gateway = Gateway::new();
    let (order, user) = (gateway.service("order", Json), gateway.service("user", Json));
    let mut ends = Vec::new();
    for edit in ["status", "status and data", "from", "to", "context"] {
        let call = gateway.call("req-1", "order", "user");
        gateway.send_json(order, &call);
        let mut response = answer(&call, json!(1));
        if edit == "status" {
            response["error"] = json!({"message": "no"});
        }
        for key in edit.split(" and ") {
            response.as_object_mut().unwrap().remove(key);
        }
        gateway.send_json(user, &response);
        let end = gateway.take_one(order);
        let from = if edit == "status and data" { "bro.gateway" } else { "user" };
        assert_eq!((&end["from"], &end["to"]), (&json!(from), &json!("order")));
        ends.push(end["error"]["message"].as_str().unwrap_or("none").to_owned());
    }
    assert_eq!(ends[0], "no");
    assert!(ends[1].contains("neither `status` nor `error`"), "{}", ends[1]);
    assert!(ends[2..].iter().all(|end| end == "none"), "{ends:?}");
}

#[test]
fn what_becomes_too_large_in_the_other_encoding_is_refused() {
    let mut gateway = Gateway::with(RouterConfig { frame_bytes_max: 4096, ..RouterConfig::default() });
    let (order, user) = (gateway.service("order", Msgpack), gateway.service("user", Json));
    let steep = "\u{1}".repeat(1000);
    let mut call = gateway.call("req-1", "order", "user");
    call["params"] = json!(steep);
    gateway.send(order, &call, Msgpack);
    assert_eq!(code(&gateway.take_one(order)), "PAYLOAD_TOO_LARGE");
    gateway.send_json(user, &gateway.call("req-2", "user", "order"));
    let arrived = gateway.take_one(order);
    gateway.send(order, &answer(&arrived, json!(steep)), Msgpack);
    assert_eq!(code(&gateway.take_one(user)), "PAYLOAD_TOO_LARGE");
    assert_eq!(gateway.router.in_flight_len(), 0);
}

#[test]
fn a_callee_that_does_not_read_is_spared_calls_then_closed() {
    let config = RouterConfig {
        queue_pause_bytes: 1000,
        queue_calls_bytes_max: 2000,
        queue_bytes_max: 4000,
        ..RouterConfig::default()
    };
    let mut gateway = Gateway::with(config);
    let (order, user) = (gateway.service("order", Json), gateway.service("user", Json));
    let mut call = gateway.call("req", "order", "user");
    call["params"] = json!("p".repeat(600));
    let mut refused = None;
    for _ in 0..5 {
        gateway.send_json(order, &call);
        refused = gateway.take(order).pop().or(refused);
    }
    assert_eq!(code(&refused.unwrap()), "OVERLOADED");
    assert_eq!(gateway.orders.paused, [], "it may be writing an answer: the gateway goes on reading from it");
    let queued = gateway.router.charged_bytes();
    gateway.router.handle_written(user, queued - 500, gateway.now, &mut gateway.orders);
    gateway.pass(29_999);
    assert_eq!(gateway.orders.closed, []);
    gateway.pass(1);
    assert_eq!(gateway.orders.closed, [(user, CloseReason::SlowReader)]);
    assert_eq!(
        gateway.router.charged_bytes(),
        gateway.orders.frames.iter().map(|(_, frame)| frame.len()).sum::<usize>() - queued
    );
}

#[test]
fn a_caller_that_does_not_read_its_answers_is_paused_until_it_does() {
    let config = RouterConfig {
        queue_pause_bytes: 1000,
        queue_calls_bytes_max: 2000,
        queue_bytes_max: 4000,
        ..RouterConfig::default()
    };
    let mut gateway = Gateway::with(config);
    let (order, user) = (gateway.service("order", Json), gateway.service("user", Json));
    for number in 0..2 {
        let call = gateway.call(&number.to_string(), "order", "user");
        gateway.send_json(order, &call);
        gateway.take(user);
        assert_eq!(gateway.orders.paused, []);
        gateway.send_json(user, &answer(&call, json!("d".repeat(600))));
    }
    assert_eq!(gateway.orders.paused, [order]);
    let queued = gateway.router.charged_bytes();
    gateway.router.handle_written(order, queued - 600, gateway.now, &mut gateway.orders);
    assert_eq!(gateway.orders.resumed, []);
    gateway.router.handle_written(order, 200, gateway.now, &mut gateway.orders);
    assert_eq!(gateway.orders.resumed, [order]);
    gateway.router.handle_written(order, 400, gateway.now, &mut gateway.orders);
    assert_eq!(gateway.router.charged_bytes(), 0);
}

#[test]
fn a_late_answer_never_ends_a_later_call_with_the_same_id() {
    let mut gateway = Gateway::new();
    let (order, user) = (gateway.service("order", Json), gateway.service("user", Json));
    let call = gateway.call("req-1", "order", "user");
    gateway.send_json(order, &call);
    let first = gateway.take_one(user);
    gateway.pass(40_000);
    assert_eq!(code(&gateway.take_one(order)), "TIMEOUT");
    let again = gateway.call("req-1", "order", "user");
    gateway.send_json(order, &again);
    let second = gateway.take_one(user);
    assert_ne!(first["id"], second["id"], "the callee may still answer under the first id");
    gateway.send_json(user, &answer(&first, json!("late")));
    assert_eq!(gateway.take(order), [] as [serde_json::Value; 0]);
    gateway.send_json(user, &answer(&second, json!("in time")));
    let end = gateway.take_one(order);
    assert_eq!((&end["id"], &end["data"]), (&json!("req-1"), &json!("in time")));
    gateway.send_json(order, &gateway.call("req-1", "order", "user"));
    assert_eq!(gateway.take_one(user)["id"], "req-1", "answered, the id is free again");
}

#[test]
fn a_caller_that_reads_nothing_is_closed_before_it_costs_too_much() {
    let config = RouterConfig {
        queue_pause_bytes: 1000,
        queue_calls_bytes_max: 2000,
        queue_bytes_max: 4000,
        ..RouterConfig::default()
    };
    let mut gateway = Gateway::with(config);
    let (order, user) = (gateway.service("order", Json), gateway.service("user", Json));
    for number in 0..5 {
        let call = gateway.call(&number.to_string(), "order", "user");
        gateway.send_json(order, &call);
        gateway.take(user);
        gateway.send_json(user, &answer(&call, json!("d".repeat(800))));
    }
    assert_eq!(gateway.orders.closed, [(order, CloseReason::SlowReader)]);
    assert!(!gateway.router.is_peer(order) && gateway.router.is_peer(user));
    assert_eq!((gateway.router.charged_bytes(), gateway.router.in_flight_len()), (0, 0));
}
