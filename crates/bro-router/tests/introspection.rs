//! Calls to `bro.gateway`.

mod support;

use bro_proto::limits::{
    INTROSPECTION_LIST_BYTES_MAX, PARKED_ANSWERS_BYTES_MAX, PARKED_MAX, PARKED_PER_PEER_MAX, STATUS_NAMES_BYTES_MAX,
    TAKEOVER_LOST_MS_MAX, TAKEOVER_LOST_PARTS, TAKEOVER_TIMEOUT_MS, UID_SHARE_PERCENT, WAITED_FOR_SHOWN_MAX,
    WATCH_LEASE_MS,
};
use bro_proto::v1::Encoding::{Json, Msgpack};
use bro_router::{EventMask, RouterConfig};
use serde_json::{Value, json};
use support::{Gateway, answer, code};

#[test]
fn status_and_services_tell_what_is_there() {
    let mut gateway = Gateway::new();
    gateway.router.set_gateway_info(42, "/tmp/x.sock");
    let (order, _user) = (gateway.service("order", Json), gateway.service("user", Msgpack));
    gateway.pass(1500);
    let status = gateway.ask(order, "status", json!({}))["data"].clone();
    assert_eq!(
        (&status["running"], &status["pid"], &status["socketPath"]),
        (&json!(true), &json!(42), &json!("/tmp/x.sock"))
    );
    assert_eq!((&status["connectedServices"], &status["services"]), (&json!(2), &json!(["order", "user"])));
    assert_eq!((&status["uptimeMs"], &status["counters"]["registrations"]), (&json!(1500), &json!(2)));
    let services = gateway.ask(order, "services", json!({}))["data"]["services"].clone();
    assert_eq!((&services[1]["name"], &services[1]["methods"]), (&json!("user"), &json!(["get"])));
    assert_eq!(services[1]["instances"][0]["encoding"], "msgpack");
    assert_eq!(
        (&services[1]["instances"][0]["protocol"], &services[1]["instances"][0]["lanes"]),
        (&json!(1), &json!(0))
    );
    assert_eq!((&services[1]["instances"][0]["pid"], &services[1]["metadata"]), (&json!(7), &json!({})));
    let one = gateway.ask(order, "service", json!({"name": "user"}))["data"].clone();
    assert_eq!(one, services[1]);
    assert_eq!(code(&gateway.ask(order, "service", json!({"name": "nobody"}))), "SERVICE_NOT_FOUND");
    assert_eq!(gateway.ask(order, "ping", json!(null))["data"]["pong"], true);
    assert_eq!(code(&gateway.ask(order, "reboot", json!({}))), "METHOD_NOT_FOUND");
    assert_eq!(code(&gateway.ask(order, "service", json!([]))), "INVALID_ARGUMENT");
    assert_eq!(code(&gateway.ask(order, "waitFor", json!({"service": 1}))), "INVALID_ARGUMENT");
    assert!(!gateway.orders.events.iter().any(|event| event.starts_with("CallRouted")), "they are no routed calls");
}

#[test]
fn wait_for_is_answered_when_the_service_registers() {
    let mut gateway = Gateway::new();
    let order = gateway.service("order", Msgpack);
    let mut call = gateway.call("w", "order", "bro.gateway");
    call["method"] = json!("waitFor");
    call["params"] = json!({"service": "user", "timeoutMs": 4000});
    gateway.send(order, &call, Msgpack);
    call["id"] = json!("other");
    call["params"] = json!({"service": "role", "timeoutMs": 3000});
    gateway.send(order, &call, Msgpack);
    assert_eq!(gateway.router.parked_len(), 2);
    gateway.pass(1000);
    assert_eq!(gateway.take(order).len(), 0);
    gateway.service("user", Json);
    let found = gateway.take_one(order);
    assert_eq!((&found["id"], &found["data"]["name"]), (&json!("w"), &json!("user")));
    gateway.pass(2000);
    let late = gateway.take_one(order);
    assert_eq!((&late["id"], code(&late)), (&json!("other"), "TIMEOUT"));
    call["params"] = json!({"service": "user"});
    gateway.send(order, &call, Msgpack);
    assert_eq!(gateway.take_one(order)["data"]["name"], "user");
    assert_eq!(gateway.router.parked_len(), 0);
}

#[test]
fn who_only_waits_is_told_only_that_the_service_is_there() {
    let mut gateway = Gateway::new();
    let order = gateway.service("order", Json);
    let mut call = gateway.call("brief", "order", "bro.gateway");
    call["method"] = json!("waitFor");
    call["params"] = json!({"service": "u\"ser", "brief": true});
    gateway.send_json(order, &call);
    call["id"] = json!("whole");
    call["params"]["brief"] = json!(false);
    gateway.send_json(order, &call);
    call["id"] = json!("other");
    call["params"]["service"] = json!("role");
    gateway.send_json(order, &call);
    let status = gateway.ask(order, "status", json!({}))["data"].clone();
    assert_eq!((&status["parked"], &status["waitedFor"]), (&json!(3), &json!({"role": 1, "u\"ser": 2})));
    gateway.service("u\"ser", Json);
    let mut answers = gateway.take(order);
    answers.sort_by_key(|answer| answer["id"].as_str().map(str::to_owned));
    assert_eq!((&answers[0]["id"], &answers[0]["data"]), (&json!("brief"), &json!({"name": "u\"ser"})));
    assert_eq!((&answers[1]["id"], &answers[1]["data"]["methods"]), (&json!("whole"), &json!(["get"])));
    assert_eq!(
        gateway.ask(order, "waitFor", json!({"service": "order", "brief": true}))["data"],
        json!({"name": "order"})
    );
    let status = gateway.ask(order, "status", json!({}))["data"].clone();
    assert_eq!(status["waitedFor"], json!({"role": 1}));
}

#[test]
fn a_service_that_comes_and_goes_is_told_to_those_who_wait_at_the_time() {
    let mut gateway = Gateway::new();
    let order = gateway.service("order", Json);
    let mut call = gateway.call("w", "order", "bro.gateway");
    call["method"] = json!("waitFor");
    call["params"] = json!({"service": "user", "timeoutMs": 10_000});
    for _ in 0..5 {
        gateway.send_json(order, &call);
        gateway.send_json(order, &json!({"type": "HEARTBEAT", "from": "order", "timestamp": 1}));
        assert_eq!((gateway.take(order).len(), gateway.router.parked_len()), (0, 1));
        let user = gateway.service("user", Json);
        assert_eq!(gateway.take_one(order)["data"]["name"], "user");
        assert_eq!(gateway.ask(order, "waitFor", json!({"service": "user"}))["data"]["name"], "user");
        gateway.disconnect(user);
        assert_eq!(gateway.router.parked_len(), 0);
    }
}

#[test]
fn those_who_wait_are_bounded_over_all_connections() {
    let mut gateway = Gateway::new();
    let peers: Vec<_> =
        (0..=PARKED_MAX / PARKED_PER_PEER_MAX).map(|number| gateway.service(&format!("p{number}"), Json)).collect();
    for &peer in &peers {
        for number in 0..PARKED_PER_PEER_MAX {
            let mut call = gateway.call(&number.to_string(), "x", "bro.gateway");
            call["method"] = json!("waitFor");
            call["params"] = json!({"service": format!("s{number}")});
            // Without looking at every invariant each time.
            let mut frame = support::frame(&serde_json::to_vec(&call).unwrap());
            gateway.router.handle_frame(peer, &mut frame, gateway.now, &mut gateway.orders);
        }
    }
    gateway.router.check_invariants();
    // All of them are of one user, who leaves some for others.
    let parked_max = PARKED_MAX * usize::from(UID_SHARE_PERCENT) / 100;
    assert_eq!(gateway.router.parked_len(), parked_max);
    let status = gateway.ask(peers[0], "status", json!({}))["data"].clone();
    assert_eq!(status["waitedFor"].as_object().unwrap().len(), WAITED_FOR_SHOWN_MAX);
    assert_eq!(status["waitedFor"]["s7"], parked_max / PARKED_PER_PEER_MAX);
    let last = *peers.last().unwrap();
    let refused = gateway.take(last);
    assert!(refused.len() == PARKED_PER_PEER_MAX && refused.iter().all(|answer| code(answer) == "RESOURCE_EXHAUSTED"));
    gateway.disconnect(peers[0]);
    let found = gateway.ask(last, "waitFor", json!({"service": "p5"}));
    assert_eq!(found["data"]["name"], "p5", "who need not wait is answered anyway");
    assert_eq!(gateway.router.parked_len(), parked_max - PARKED_PER_PEER_MAX);
}

#[test]
fn watchers_see_each_event_once() {
    let mut gateway = Gateway::new();
    gateway.router.set_events(EventMask::NONE);
    let (watcher, order, user) =
        (gateway.service("w", Json), gateway.service("order", Json), gateway.service("user", Json));
    let start = gateway.ask(watcher, "events", json!({}))["data"].clone();
    assert_eq!((&start["events"], &start["dropped"]), (&json!([]), &json!(0)));
    let mut poll = gateway.call("p", "w", "bro.gateway");
    poll["method"] = json!("events");
    poll["params"] = json!({"cursor": start["cursor"], "timeoutMs": 2000});
    gateway.send_json(watcher, &poll);
    assert_eq!(gateway.take(watcher).len(), 0, "nothing has happened");
    let call = gateway.call("1", "order", "user");
    gateway.send_json(order, &call);
    let first = gateway.take_one(watcher)["data"].clone();
    assert_eq!(first["events"][0]["event"], "call-routed");
    assert_eq!(first["events"][0]["context"], call["context"]);
    gateway.pass(3);
    gateway.send_json(user, &answer(&call, json!(1)));
    let rest = gateway.ask(watcher, "events", json!({"cursor": first["cursor"]}))["data"].clone();
    assert_eq!(rest["events"].as_array().unwrap().len(), 1);
    let ended = &rest["events"][0];
    assert_eq!(
        (&ended["event"], &ended["status"], &ended["elapsedUs"]),
        (&json!("response-routed"), &json!("success"), &json!(3000))
    );
    assert!(gateway.orders.events.is_empty(), "the driver listens to nothing");
    poll["params"]["cursor"] = rest["cursor"].clone();
    gateway.send_json(watcher, &poll);
    gateway.pass(2000);
    let empty = gateway.take_one(watcher)["data"].clone();
    assert_eq!((&empty["events"], &empty["cursor"]), (&json!([]), &rest["cursor"]));
}

#[test]
fn nothing_is_recorded_when_nobody_watches() {
    let mut gateway = Gateway::new();
    let watcher = gateway.service("w", Json);
    let start = gateway.ask(watcher, "events", json!({}))["data"]["cursor"].clone();
    let timers = gateway.router.timers_len();
    gateway.pass(WATCH_LEASE_MS);
    assert_eq!(gateway.router.timers_len(), timers - 1);
    gateway.service("order", Json);
    let late = gateway.ask(watcher, "events", json!({"cursor": start, "timeoutMs": 0}))["data"].clone();
    assert_eq!((late["events"].as_array().unwrap().len(), late["dropped"].as_u64()), (0, Some(1)), "{late}");
    let foreign = gateway.ask(watcher, "events", json!({"cursor": 1_000_000}))["data"].clone();
    assert_eq!(foreign["cursor"], late["cursor"]);
}

#[test]
fn parked_calls_are_bounded_and_go_with_their_caller() {
    let mut gateway = Gateway::new();
    let order = gateway.service("order", Json);
    let mut call = gateway.call("w", "order", "bro.gateway");
    for number in 0..PARKED_PER_PEER_MAX + 1 {
        call["id"] = json!(number.to_string());
        call["method"] = json!(if number % 2 == 0 { "waitFor" } else { "events" });
        call["params"] = json!({"service": "user", "cursor": 0});
        gateway.send_json(order, &call);
    }
    assert_eq!(code(&gateway.take_one(order)), "RESOURCE_EXHAUSTED");
    assert_eq!(gateway.router.parked_len(), PARKED_PER_PEER_MAX);
    gateway.disconnect(order);
    assert_eq!(gateway.router.parked_len(), 0);
}

/// One REGISTER of 1 MiB was answered to 4096 waiting calls at once: 4 GiB, and more than the driver could point into. At 64 MiB it still took a
/// quarter of a second of everybody's time.
#[test]
fn what_one_registration_gives_to_those_who_wait_is_bounded() {
    for method in ["waitFor", "events"] {
        let mut gateway = Gateway::new();
        gateway.router.set_events(EventMask::NONE);
        let peers: Vec<_> = (0..40).map(|number| gateway.service(&format!("peer-{number}"), Json)).collect();
        let large = gateway.connect();
        let cursor = gateway.ask(peers[0], "events", json!({}))["data"]["cursor"].clone();
        for &peer in &peers {
            for number in 0..4 {
                let mut call = gateway.call(&format!("w-{number}"), "x", "bro.gateway");
                call["method"] = json!(method);
                call["params"] = json!({"service": "large", "cursor": cursor});
                gateway.send_json(peer, &call);
            }
        }
        assert_eq!(gateway.router.parked_len(), 160);
        let methods: Vec<String> = (0..4000).map(|number| format!("{number:0>250}")).collect();
        gateway.send_json(large, &json!({"type": "REGISTER", "serviceName": "large", "methods": methods}));
        assert_eq!(gateway.router.parked_len(), 0, "every call has ended");
        let bytes: usize = gateway.orders.frames.iter().map(|(_, frame)| frame.len()).sum();
        let most = PARKED_ANSWERS_BYTES_MAX + (2 << 20); // the one that passes it is still given to those who wait for events
        assert!((PARKED_ANSWERS_BYTES_MAX / 2..most).contains(&bytes), "{method}: {bytes} bytes");
        assert_eq!(gateway.orders.frames.len(), 160 + 1);
        let small = gateway.orders.frames.iter().filter(|(_, frame)| frame.len() < 1000);
        let small: Vec<Value> = small.map(|(_, frame)| support::parse(frame)).collect();
        assert!(small.len() > 90, "{method}: {} without", small.len());
        for answer in small.iter().filter(|answer| answer["type"] == "RESPONSE") {
            match method {
                "waitFor" => assert_eq!(code(answer), "RESOURCE_EXHAUSTED"),
                _ => assert_eq!((&answer["data"]["cursor"], &answer["data"]["events"]), (&cursor, &json!([]))),
            }
        }
    }
}

#[test]
fn a_drain_dismisses_those_who_wait() {
    let mut gateway = Gateway::new();
    let order = gateway.service("order", Json);
    let mut call = gateway.call("w", "order", "bro.gateway");
    call["method"] = json!("waitFor");
    call["params"] = json!({"service": "user"});
    gateway.send_json(order, &call);
    gateway.router.begin_drain(1000, gateway.now, &mut gateway.orders);
    assert_eq!(code(&gateway.take_one(order)), "SHUTTING_DOWN");
    assert!(gateway.router.is_drained());
}

#[test]
fn a_list_that_fits_no_frame_is_an_error_not_a_silence() {
    let config = bro_router::RouterConfig { frame_bytes_max: 200_000, ..Default::default() };
    let mut gateway = Gateway::with(config);
    let order = gateway.service("order", Json);
    for number in 0..600 {
        gateway.service(&format!("service-{number}"), Json);
    }
    let response: Value = gateway.ask(order, "services", json!({}));
    assert_eq!(code(&response), "PAYLOAD_TOO_LARGE");
}

/// A service that says almost a megabyte of itself.
fn wordy(gateway: &mut Gateway, name: &str) {
    let methods: Vec<String> = (0..4000).map(|number| format!("{number:0220}")).collect();
    let peer = gateway.connect();
    gateway.send_json(peer, &json!({"type": "REGISTER", "serviceName": name, "methods": methods}));
    assert_eq!(gateway.take_one(peer)["type"], "REGISTER_ACK");
}

/// Forty-nine thousand names made twelve megabytes, a twentieth of a second of everybody's time, as often as they were asked for.
#[test]
fn names_of_very_many_services_end_and_say_how_many_are_left_out() {
    let mut gateway = Gateway::new();
    let order = gateway.service("order", Json);
    let ordinary = gateway.ask(order, "status", json!({}))["data"].clone();
    assert_eq!((&ordinary["connectedServices"], &ordinary["servicesOmitted"]), (&json!(1), &json!(0)));
    let name = |number: usize| format!("{number:0>250}");
    let fitting = STATUS_NAMES_BYTES_MAX / 250;
    for number in 0..fitting + 100 {
        gateway.service(&name(number), Json);
    }
    let status = gateway.ask(order, "status", json!({}))["data"].clone();
    let shown = status["services"].as_array().expect("a list").len();
    let omitted = status["servicesOmitted"].as_u64().expect("a number");
    assert!((fitting - 20..=fitting).contains(&shown), "{shown} of {fitting}");
    assert_eq!(status["connectedServices"], json!(fitting + 101));
    assert_eq!(shown as u64 + omitted, fitting as u64 + 101);
    assert_eq!(status["services"][1], json!(name(0)), "the first ones are there");
    let bytes = status["services"].to_string().len();
    assert!(bytes < STATUS_NAMES_BYTES_MAX + 1024, "{bytes}");
}

/// Who registers, asks for everything and stands still holds everybody up for as long as it is waited for; it could do so again at once.
#[test]
fn takeovers_that_come_to_nothing_hold_it_up_for_a_bounded_part_of_the_time() {
    let mut gateway = Gateway::with(RouterConfig { hands_over: true, ..RouterConfig::default() });
    let asker = gateway.service("asker", Json);
    let ask = |gateway: &mut Gateway| {
        let mut call = gateway.call("t", "asker", "bro.gateway");
        call["method"] = json!("takeover");
        call["params"] = json!({"format": 1, "readsFrom": 1, "descriptorsMax": 1000});
        gateway.send_json(asker, &call);
        match gateway.router.take_takeover_request() {
            Some(_) => None,
            None => Some(gateway.take_one(asker)["error"].clone()),
        }
    };
    let fail = |gateway: &mut Gateway, lost_us: u64| {
        gateway.router.handle_takeover_failed(lost_us, gateway.now);
    };
    let whole_us = TAKEOVER_TIMEOUT_MS * 1000;
    for _ in 0..TAKEOVER_LOST_MS_MAX / TAKEOVER_TIMEOUT_MS {
        assert_eq!(ask(&mut gateway), None, "who tries again at once may");
        fail(&mut gateway, whole_us);
    }
    let refused = ask(&mut gateway).expect("it has held everybody up long enough");
    let wait_ms = TAKEOVER_TIMEOUT_MS * TAKEOVER_LOST_PARTS;
    let message = refused["message"].as_str().expect("a text");
    assert_eq!(refused["code"], "RESOURCE_EXHAUSTED");
    assert!(message.contains(&format!("again in {wait_ms} ms")), "{message}");
    // In the long run it is one part of so many.
    let (begun, mut failed) = (gateway.now.mono_ms(), 0);
    let pass = |gateway: &mut Gateway| {
        gateway.pass(1000);
        gateway.send_json(asker, &json!({"type": "HEARTBEAT", "serviceName": "asker"}));
    };
    for _ in 0..3600 {
        pass(&mut gateway);
        if ask(&mut gateway).is_none() {
            fail(&mut gateway, whole_us);
            failed += 1;
        }
    }
    let passed_ms = gateway.now.mono_ms() - begun;
    assert_eq!(failed, passed_ms / wait_ms);
    // Those that end at once cost next to nothing.
    for _ in 0..wait_ms / 1000 {
        pass(&mut gateway);
    }
    for _ in 0..100 {
        pass(&mut gateway);
        assert_eq!(ask(&mut gateway), None);
        fail(&mut gateway, 3000);
    }
}

/// A question of a hundred bytes made the gateway write thirty megabytes, a seventh of a second of everybody's time, as often as it was asked.
#[test]
fn a_short_question_has_no_endless_answer() {
    let mut gateway = Gateway::new();
    let order = gateway.service("order", Msgpack);
    let before = gateway.ask(order, "events", json!({}))["data"]["cursor"].clone();
    for number in 0..12 {
        wordy(&mut gateway, &format!("wordy-{number}"));
    }
    assert_eq!(code(&gateway.ask(order, "services", json!({}))), "PAYLOAD_TOO_LARGE");
    let names = gateway.ask(order, "status", json!({}))["data"]["services"].clone();
    assert_eq!(names.as_array().map(Vec::len), Some(13), "what the error says to do can be done");
    let (mut cursor, mut registered, mut answers) = (before, 0, 0);
    while registered < 12 {
        let mut call = gateway.call("ask", "order", "bro.gateway");
        (call["method"], call["params"]) = (json!("events"), json!({"cursor": cursor}));
        gateway.send_json(order, &call);
        let bytes = gateway.orders.frames.last().map_or(0, |(_, frame)| frame.len());
        assert!(bytes > 0 && bytes < INTROSPECTION_LIST_BYTES_MAX + 4096, "{bytes} bytes");
        let batch = gateway.take_one(order)["data"].clone();
        assert_eq!(batch["dropped"], 0, "the next answer goes on where this one ended");
        cursor = batch["cursor"].clone();
        let events = batch["events"].as_array().expect("a list");
        registered += events.iter().filter(|event| event["event"] == "service-registered").count();
        answers += 1;
    }
    assert_eq!((registered, answers), (12, 3));
}
