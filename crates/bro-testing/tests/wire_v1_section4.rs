//! Section 4 of the description of v1, row by row: where the old library is wrong, and what our gateway does instead.
//!
//! Here both sides are old programs; `wire_v1_section4_client.rs` has the rows about our own client. Every body runs for
//! JSON and msgpack programs in every mix, through a real gateway process.

use bro_testing::gateway::wait_until;
use bro_testing::peer::now_ms;
use bro_testing::{
    Encoding, GatewayOptions, Mix, ReceiveError, TempGateway, V1Peer, for_each_mix, for_each_mix_at_once,
};
use serde_json::{Value, json};
use std::time::Duration;

/// Milliseconds of a heartbeat interval short enough to wait for, long enough for a loaded machine.
const HEARTBEAT_INTERVAL_MS: u64 = 400;

/// A gateway, and two old programs "order" and "user" on it.
struct Scene {
    caller: V1Peer,
    callee: V1Peer,
    gateway: TempGateway,
}

impl Scene {
    fn new(mix: Mix) -> Scene {
        let gateway = TempGateway::start();
        let caller = V1Peer::register(gateway.socket_path(), mix.caller, "order", &["list"]);
        let callee = V1Peer::register(gateway.socket_path(), mix.callee, "user", &["find"]);
        Scene { caller, callee, gateway }
    }

    /// One call from "order" to "user", there and back.
    fn check_a_call(&mut self) {
        let id = self.caller.start_call("user", "find", json!({ "n": 1 }));
        let call = self.callee.expect_call();
        assert_eq!((&call["method"], &call["params"]), (&json!("find"), &json!({ "n": 1 })));
        self.callee.respond(&call, json!(["found"]));
        assert_eq!(self.caller.expect_success(&id), json!(["found"]));
    }
}

/// What the gateway tells about a service, or `None`.
fn describe(peer: &mut V1Peer, name: &str) -> Option<Value> {
    let mut response = peer.call("bro.gateway", "service", json!({ "name": name }));
    (response["status"] == "success").then(|| response["data"].take())
}

/// The same time in both encodings.
fn assert_same_context(sent: &Value, seen: &Value) {
    assert_eq!(
        (&sent["root"], &sent["chain"], &sent["depth"]),
        (&seen["root"], &seen["chain"], &seen["depth"]),
        "{seen}"
    );
    assert_eq!(sent["deadline"].as_f64(), seen["deadline"].as_f64(), "{seen}");
}

#[test]
fn row_01_an_unknown_service_is_answered_at_once_with_its_code() {
    for_each_mix(|mix| {
        let mut scene = Scene::new(mix);
        let context = scene.caller.old_context(600_000);
        let id = scene.caller.start_call_with("nobody", "find", json!({}), context.clone());
        let response = scene.caller.expect_failure(&id, "SERVICE_NOT_FOUND");
        assert_eq!((&response["from"], &response["to"]), (&json!("bro.gateway"), &json!("order")));
        assert_same_context(&context, &response["context"]);
        scene.check_a_call();
    });
}

#[test]
fn row_01_a_deadline_that_has_passed_is_answered_at_once_with_its_code() {
    for_each_mix(|mix| {
        let mut scene = Scene::new(mix);
        let mut context = scene.caller.old_context(0);
        context["deadline"] = json!(now_ms() - 1000);
        let id = scene.caller.start_call_with("user", "find", json!({}), context.clone());
        let response = scene.caller.expect_failure(&id, "DEADLINE_EXCEEDED");
        assert_same_context(&context, &response["context"]);
        scene.callee.expect_nothing_before_now();
        scene.check_a_call();
    });
}

#[test]
fn row_01_a_chain_that_is_too_deep_is_answered_at_once_with_its_code() {
    for_each_mix(|mix| {
        let mut scene = Scene::new(mix);
        let mut context = scene.caller.old_context(600_000);
        context["depth"] = json!(101);
        context["chain"] = Value::Array(vec![json!("order"); 101]);
        let id = scene.caller.start_call_with("user", "find", json!({}), context.clone());
        let response = scene.caller.expect_failure(&id, "MAX_DEPTH_EXCEEDED");
        assert_same_context(&context, &response["context"]);
        scene.callee.expect_nothing_before_now();
        scene.check_a_call();
    });
}

#[test]
fn row_01_a_deadline_that_passes_in_flight_ends_the_call_with_its_code() {
    for_each_mix(|mix| {
        let mut scene = Scene::new(mix);
        let id = scene.caller.start_short_call(|caller, timeout_ms| {
            let context = caller.old_context(timeout_ms);
            caller.start_call_with("user", "find", json!({}), context)
        });
        let call = scene.callee.expect_call();
        scene.caller.expect_failure(&id, "TIMEOUT");
        scene.callee.respond(&call, json!("too late"));
        scene.callee.expect_nothing_before_now();
        scene.caller.expect_nothing_before_now();
        scene.check_a_call();
    });
}

#[test]
fn row_02_calls_in_flight_fail_at_once_when_the_connection_of_the_callee_dies() {
    for_each_mix(|mix| {
        let Scene { mut caller, mut callee, gateway } = Scene::new(mix);
        let ids: Vec<_> = (0..3).map(|n| caller.start_call("user", "find", json!({ "n": n }))).collect();
        for _ in &ids {
            callee.expect_call();
        }
        drop(callee);
        let mut failed: Vec<_> = ids.iter().map(|_| caller.receive()).collect();
        failed.sort_by_key(|response| response["id"].as_str().map(str::to_owned));
        for (response, id) in failed.iter().zip(&ids) {
            assert_eq!((&response["type"], &response["id"]), (&json!("RESPONSE"), &json!(id)), "{response}");
            assert_eq!(response["error"]["code"], "CONNECTION_LOST", "{response}");
            assert_eq!((&response["from"], &response["to"]), (&json!("bro.gateway"), &json!("order")), "{response}");
        }
        let id = caller.start_call("user", "find", json!({}));
        caller.expect_failure(&id, "SERVICE_NOT_FOUND");
        drop(gateway);
    });
}

#[test]
fn row_03_from_is_stamped_by_the_gateway_in_both_directions() {
    for_each_mix(|mix| {
        let mut scene = Scene::new(mix);
        let context = scene.caller.old_context(60_000);
        scene.caller.send(&json!({
            "type": "CALL", "id": "req-forged", "from": "admin", "to": "user", "method": "find",
            "params": { "text": "kept \u{e9}" }, "context": context
        }));
        let call = scene.callee.expect_call();
        assert_eq!((&call["from"], &call["to"]), (&json!("order"), &json!("user")));
        assert_eq!(call["params"], json!({ "text": "kept \u{e9}" }));
        assert_same_context(&context, &call["context"]);
        scene.callee.send(&json!({
            "type": "RESPONSE", "id": call["id"], "from": "admin", "to": "somebody-else", "status": "success", "data": 7,
            "context": call["context"]
        }));
        let response = scene.caller.expect_response("req-forged");
        assert_eq!((&response["from"], &response["to"]), (&json!("user"), &json!("order")));
        assert_eq!(response["data"].as_f64(), Some(7.0));
        scene.check_a_call();
    });
}

#[test]
fn row_03_a_response_is_accepted_only_from_the_connection_that_the_call_went_to() {
    for_each_mix(|mix| {
        for intruding in Encoding::ALL {
            let mut scene = Scene::new(mix);
            let mut intruder = V1Peer::register(scene.gateway.socket_path(), intruding, "mallory", &[]);
            let id = scene.caller.start_call("user", "find", json!({}));
            let call = scene.callee.expect_call();
            for (from, call_id) in [("user", &call["id"]), ("mallory", &json!(id))] {
                intruder.send(&json!({
                    "type": "RESPONSE", "id": call_id, "from": from, "to": "order", "status": "success", "data": "forged",
                    "context": call["context"]
                }));
            }
            intruder.expect_nothing_before_now();
            scene.callee.respond(&call, json!("genuine"));
            assert_eq!(scene.caller.expect_success(&id), json!("genuine"));
            // Answering twice changes nothing either.
            scene.callee.respond(&call, json!("again"));
            scene.callee.expect_nothing_before_now();
            scene.caller.expect_nothing_before_now();
        }
    });
}

#[test]
fn row_04_a_chain_that_an_old_client_sends_is_carried_as_it_is() {
    for_each_mix(|mix| {
        let mut scene = Scene::new(mix);
        let context = scene.caller.old_context(60_000);
        assert_eq!((&context["chain"], &context["depth"]), (&json!(["order", "order"]), &json!(2)));
        let id = scene.caller.start_call_with("user", "find", json!({}), context.clone());
        let call = scene.callee.expect_call();
        assert_same_context(&context, &call["context"]);
        if mix.callee == Encoding::Json {
            assert!(call["context"]["deadline"].is_u64(), "an integer stays one: {call}");
        }
        scene.callee.respond(&call, json!(null));
        let response = scene.caller.expect_response(&id);
        assert_same_context(&context, &response["context"]);
    });
}

#[test]
fn row_06_a_second_register_on_a_live_connection_advertises_its_methods_at_once() {
    for_each_mix(|mix| {
        let mut scene = Scene::new(mix);
        let id = scene.caller.start_call("user", "find", json!({}));
        let call = scene.callee.expect_call();
        assert_eq!(describe(&mut scene.caller, "user").expect("user is registered")["methods"], json!(["find"]));
        scene.callee.send_register("user", &["find", "rename"], json!({}));
        scene.callee.expect_ack();
        assert_eq!(
            describe(&mut scene.caller, "user").expect("user is registered")["methods"],
            json!(["find", "rename"])
        );
        // The call from before is still alive.
        scene.callee.respond(&call, json!("kept"));
        assert_eq!(scene.caller.expect_success(&id), json!("kept"));
        scene.check_a_call();
    });
}

#[test]
fn row_07_a_service_silent_for_three_intervals_is_dropped_and_its_calls_fail() {
    for_each_mix_at_once(|mix| {
        let options =
            GatewayOptions { heartbeat_interval_ms: Some(HEARTBEAT_INTERVAL_MS), ..GatewayOptions::default() };
        let gateway = options.start();
        let mut caller = V1Peer::register(gateway.socket_path(), mix.caller, "order", &[]);
        let mut callee = V1Peer::register(gateway.socket_path(), mix.callee, "user", &["find"]);
        let id = caller.start_call("user", "find", json!({}));
        callee.expect_call();
        // The caller stays alive by heartbeats, the callee says nothing more.
        let pause = Duration::from_millis(HEARTBEAT_INTERVAL_MS / 4);
        let response = loop {
            caller.heartbeat();
            match caller.try_receive(pause) {
                Ok(response) => break response,
                Err(ReceiveError::Silence) => {}
                Err(ReceiveError::Closed) => panic!("the caller is not the silent one"),
            }
        };
        assert_eq!(
            (&response["id"], &response["error"]["code"]),
            (&json!(id), &json!("CONNECTION_LOST")),
            "{response}"
        );
        callee.expect_error_and_close("TIMEOUT");
        // The name is free.
        let mut successor = V1Peer::register(gateway.socket_path(), mix.callee, "user", &["find"]);
        successor.expect_nothing_before_now();
    });
}

#[test]
fn row_07_any_frame_on_any_connection_of_a_pool_counts_as_life() {
    for_each_mix_at_once(|mix| {
        let options =
            GatewayOptions { heartbeat_interval_ms: Some(HEARTBEAT_INTERVAL_MS), ..GatewayOptions::default() };
        let gateway = options.start();
        let path = gateway.socket_path();
        let mut caller = V1Peer::register(path, mix.caller, "order", &[]);
        let mut quiet = V1Peer::register_pooled(path, mix.callee, "user", &["find"], 0, 2);
        let mut lively = V1Peer::register_pooled(path, mix.callee, "user", &["find"], 1, 2);
        // Five intervals, in which the pool's first connection says nothing.
        for beat in 0..20 {
            caller.heartbeat();
            if beat % 2 == 0 {
                lively.heartbeat();
            } else {
                lively.send(&json!({ "type": "SOMETHING_NEW" }));
            }
            std::thread::sleep(Duration::from_millis(HEARTBEAT_INTERVAL_MS / 4));
        }
        let ids = [caller.start_call("user", "find", json!({})), caller.start_call("user", "find", json!({}))];
        for member in [&mut quiet, &mut lively] {
            let call = member.expect_call();
            member.respond(&call, json!("alive"));
        }
        let mut answered = [caller.receive(), caller.receive()].map(|response| {
            assert_eq!(response["data"], "alive", "{response}");
            response["id"].as_str().expect("a RESPONSE has an id").to_owned()
        });
        answered.sort();
        assert_eq!(answered, ids);
    });
}

#[test]
fn row_08_calls_go_round_the_live_connections_of_a_pool() {
    for_each_mix(|mix| {
        let gateway = TempGateway::start();
        let path = gateway.socket_path();
        let mut caller = V1Peer::register(path, mix.caller, "order", &[]);
        let mut pool: Vec<_> =
            (0..3).map(|index| V1Peer::register_pooled(path, mix.callee, "user", &["find"], index, 3)).collect();
        while !pool.is_empty() {
            let ids: Vec<_> = (0..2 * pool.len()).map(|_| caller.start_call("user", "find", json!({}))).collect();
            for member in &mut pool {
                for _ in 0..2 {
                    let call = member.expect_call();
                    member.respond(&call, json!({}));
                }
                member.expect_nothing_before_now();
            }
            let mut answered: Vec<_> =
                ids.iter().map(|_| caller.receive()["id"].as_str().expect("an id").to_owned()).collect();
            answered.sort();
            assert_eq!(answered, ids);
            // The first connection dies; the others go on.
            drop(pool.remove(0));
            wait_until("the dead connection leaves the pool", || {
                let instances =
                    describe(&mut caller, "user").map_or(0, |user| user["instances"].as_array().map_or(0, Vec::len));
                instances == pool.len()
            });
        }
        let id = caller.start_call("user", "find", json!({}));
        caller.expect_failure(&id, "SERVICE_NOT_FOUND");
    });
}

#[test]
fn row_08_a_call_in_flight_on_a_dead_pool_connection_fails_and_the_others_go_on() {
    for_each_mix(|mix| {
        let gateway = TempGateway::start();
        let path = gateway.socket_path();
        let mut caller = V1Peer::register(path, mix.caller, "order", &[]);
        let mut first = V1Peer::register_pooled(path, mix.callee, "user", &["find"], 0, 2);
        let mut second = V1Peer::register_pooled(path, mix.callee, "user", &["find"], 1, 2);
        let ids = [caller.start_call("user", "find", json!({})), caller.start_call("user", "find", json!({}))];
        let lost = first.expect_call()["context"]["root"].clone();
        let kept = second.expect_call();
        drop(first);
        let response = caller.receive();
        assert_eq!(
            (&response["context"]["root"], &response["error"]["code"]),
            (&lost, &json!("CONNECTION_LOST")),
            "{response}"
        );
        second.respond(&kept, json!("kept"));
        let kept = caller.receive();
        assert_eq!(kept["data"], "kept", "{kept}");
        let mut ended = [response["id"].as_str(), kept["id"].as_str()];
        ended.sort_unstable();
        assert_eq!(ended, [Some(ids[0].as_str()), Some(ids[1].as_str())]);
    });
}

#[test]
fn row_08_a_response_goes_to_the_connection_of_the_pool_that_called() {
    for_each_mix(|mix| {
        let gateway = TempGateway::start();
        let path = gateway.socket_path();
        let mut callee = V1Peer::register(path, mix.callee, "user", &["find"]);
        let mut pool: Vec<_> =
            (0..3).map(|index| V1Peer::register_pooled(path, mix.caller, "order", &[], index, 3)).collect();
        let ids: Vec<_> = pool.iter_mut().map(|member| member.start_call("user", "find", json!({}))).collect();
        let mut calls: Vec<_> = pool.iter().map(|_| callee.expect_call()).collect();
        calls.reverse();
        for call in &calls {
            callee.respond(call, call["context"]["root"].clone());
        }
        for (member, id) in pool.iter_mut().zip(&ids) {
            member.expect_success(id);
            member.expect_nothing_before_now();
        }
    });
}

#[test]
fn row_09_a_duplicate_name_is_refused_with_its_code_and_the_connection_ended() {
    for_each_mix(|mix| {
        let mut scene = Scene::new(mix);
        let mut rival = V1Peer::connect(scene.gateway.socket_path(), mix.caller);
        rival.send_register("user", &["find"], json!({}));
        let error = rival.receive();
        assert_eq!(
            (&error["type"], &error["error"]["code"]),
            (&json!("ERROR"), &json!("DUPLICATE_SERVICE")),
            "{error}"
        );
        assert_eq!(error.get("id"), None, "{error}");
        rival.expect_close();
        // Neither may a stranger join by claiming to be part of a pool.
        let mut joiner = V1Peer::connect(scene.gateway.socket_path(), mix.caller);
        joiner.send_register("user", &["find"], json!({ "poolIndex": 1, "poolSize": 2 }));
        assert_eq!(joiner.receive()["error"]["code"], "DUPLICATE_SERVICE");
        joiner.expect_close();
        scene.check_a_call();
    });
}

#[test]
fn row_10_equal_ids_of_two_callers_end_each_at_its_own_caller() {
    for_each_mix(|mix| {
        for other in Encoding::ALL {
            let mut scene = Scene::new(mix);
            let mut second = V1Peer::register(scene.gateway.socket_path(), other, "cart", &[]);
            let context = scene.caller.old_context(60_000);
            scene.caller.send_call("req-same", "user", "find", json!("order's"), context);
            let first_call = scene.callee.expect_call();
            let context = second.old_context(60_000);
            second.send_call("req-same", "user", "find", json!("cart's"), context);
            let second_call = scene.callee.expect_call();
            assert_eq!((&first_call["params"], &second_call["params"]), (&json!("order's"), &json!("cart's")));
            assert_ne!(first_call["id"], second_call["id"], "the callee must be able to tell them apart");
            scene.callee.respond(&second_call, json!("for cart"));
            scene.callee.respond(&first_call, json!("for order"));
            assert_eq!(second.expect_success("req-same"), json!("for cart"));
            assert_eq!(scene.caller.expect_success("req-same"), json!("for order"));
        }
    });
}

#[test]
fn row_10_a_late_answer_never_ends_another_call_that_has_the_same_id() {
    for_each_mix(|mix| {
        let mut scene = Scene::new(mix);
        let path = scene.gateway.socket_path().to_owned();
        // The first call with this id is given up by its deadline, the second by the death of its caller.
        scene.caller.start_short_call(|caller, timeout_ms| {
            let context = caller.old_context(timeout_ms);
            caller.send_call("req-same", "user", "find", json!("order's"), context);
            "req-same".to_owned()
        });
        let timed_out = scene.callee.expect_call();
        scene.caller.expect_failure("req-same", "TIMEOUT");
        let mut dying = V1Peer::register(&path, mix.caller, "cart", &[]);
        let context = dying.old_context(60_000);
        dying.send_call("req-same", "user", "find", json!("cart's"), context);
        let orphaned = scene.callee.expect_call();
        drop(dying);
        wait_until("the dead caller is forgotten", || describe(&mut scene.caller, "cart").is_none());
        let mut back = V1Peer::register(&path, mix.caller, "cart", &[]);
        let context = back.old_context(60_000);
        back.send_call("req-same", "user", "find", json!("cart's again"), context);
        let wanted = scene.callee.expect_call();
        assert_eq!(wanted["params"], "cart's again");
        scene.callee.respond(&timed_out, json!("late for order"));
        scene.callee.respond(&orphaned, json!("late for the dead"));
        scene.callee.respond(&wanted, json!("right"));
        assert_eq!(back.expect_success("req-same"), json!("right"));
        back.expect_nothing_before_now();
        scene.caller.expect_nothing_before_now();
    });
}

#[test]
fn row_11_frames_may_arrive_in_any_pieces() {
    for_each_mix(|mix| {
        let mut scene = Scene::new(mix);
        let context = scene.caller.old_context(60_000);
        let call = |n: u32| {
            let message = json!({
                "type": "CALL", "id": format!("req-{n}"), "from": "order", "to": "user", "method": "find", "params": n,
                "context": context
            });
            bro_testing::codec::frame(&bro_testing::codec::encode(mix.caller, &message))
        };
        // One frame in many writes.
        for byte in call(0) {
            scene.caller.send_bytes(&[byte]);
        }
        // Many frames in one write, and the beginning of one more.
        let mut bytes: Vec<u8> = (1..100).flat_map(call).collect();
        let last = call(100);
        bytes.extend_from_slice(&last[..7]);
        scene.caller.send_bytes(&bytes);
        scene.caller.send_bytes(&last[7..]);
        for n in 0..=100 {
            let call = scene.callee.expect_call();
            assert_eq!(call["params"].as_f64(), Some(f64::from(n)), "{call}");
            scene.callee.respond(&call, json!(n));
        }
        for n in 0..=100 {
            assert_eq!(scene.caller.expect_success(&format!("req-{n}")).as_f64(), Some(f64::from(n)));
        }
    });
}

#[test]
fn row_11_large_frames_pass_whole() {
    for_each_mix(|mix| {
        let gateway = TempGateway::start();
        let callee = V1Peer::register(gateway.socket_path(), mix.callee, "user", &["find"]);
        let _service = callee.serve(|call| Ok(call["params"].clone()));
        let mut caller = V1Peer::register(gateway.socket_path(), mix.caller, "order", &[]);
        for bytes in [70_000, 1_000_000, 8_000_000] {
            let text: String = "0123456789\n\u{e9}\"".chars().cycle().take(bytes / 2).collect();
            let id = caller.start_call("user", "find", json!(text));
            assert!(caller.expect_success(&id) == json!(text), "a text of {bytes} bytes came back changed");
        }
    });
}

#[test]
fn row_11_a_second_gateway_refuses_to_start_while_the_first_is_alive() {
    for_each_mix(|mix| {
        let mut scene = Scene::new(mix);
        let (status, stderr) = scene.gateway.start_rival();
        assert!(!status.success(), "a second gateway started: {stderr}");
        assert!(!stderr.is_empty(), "it says why");
        assert!(scene.gateway.socket_path().exists(), "the socket of the living one is left alone");
        scene.check_a_call();
        let mut late = V1Peer::register(scene.gateway.socket_path(), mix.caller, "late", &[]);
        late.expect_nothing_before_now();
    });
}

#[test]
fn row_11_the_socket_of_a_dead_gateway_is_replaced_and_a_stopped_one_removes_its_own() {
    for_each_mix(|mix| {
        let Scene { mut caller, mut callee, mut gateway } = Scene::new(mix);
        gateway.kill9();
        caller.expect_close();
        callee.expect_close();
        assert!(gateway.socket_path().exists(), "a killed gateway leaves its file");
        gateway.restart();
        let mut back = V1Peer::register(gateway.socket_path(), mix.caller, "order", &[]);
        back.expect_nothing_before_now();
        let status = gateway.stop();
        assert!(status.success(), "SIGTERM is an ordinary end: {status}");
        back.expect_close();
        assert!(!gateway.socket_path().exists(), "a stopped gateway removes its file");
    });
}
