//! Messages that are not acceptable.

use crate::scene::Scene;
use bro_testing::codec::{self, frame};
use bro_testing::{Encoding, V1Peer, for_each_encoding};
use serde_json::json;

#[test]
fn header_fields_of_the_wrong_type_are_refused() {
    for_each_encoding(|encoding| {
        let mut scene = Scene::new();
        for message in [
            json!({ "type": 5 }),
            json!({ "type": ["CALL"] }),
            json!({ "no": "type" }),
            json!({}),
            json!({ "type": "CALL", "id": 5, "to": "echo", "method": "back" }),
            json!({ "type": "CALL", "id": "1", "to": { "name": "echo" }, "method": "back" }),
            json!({ "type": "CALL", "id": "1", "to": "echo", "method": ["back"] }),
            json!({ "type": "REGISTER", "serviceName": 7, "methods": [], "metadata": {} }),
            json!({ "type": "REGISTER", "serviceName": "x", "methods": "back", "metadata": {} }),
            json!({ "type": "REGISTER", "serviceName": "x", "methods": ["back", 7], "metadata": {} }),
            json!({ "type": "REGISTER", "methods": [], "metadata": {} }),
        ] {
            let body = codec::encode(encoding, &message);
            let mut peer = scene.connect(encoding);
            peer.send_body(&body);
            let error = peer.expect_error_and_close("INVALID_MESSAGE");
            assert!(error["error"]["message"].is_string(), "{message} was answered by {error}");
            scene.check_others();
        }
        scene.finish();
    });
}

#[test]
fn a_call_before_register_is_answered_and_register_may_follow() {
    for_each_encoding(|encoding| {
        let scene = Scene::new();
        let mut peer = scene.connect(encoding);
        let id = peer.start_call("echo", "back", json!({}));
        peer.expect_failure(&id, "NOT_REGISTERED");
        let id = peer.start_call("bro.gateway", "status", json!({}));
        peer.expect_failure(&id, "NOT_REGISTERED");
        peer.send_register("late", &[], json!({}));
        peer.expect_ack();
        assert_eq!(peer.call("echo", "back", json!("now"))["data"], "now");
        scene.finish();
    });
}

#[test]
fn too_many_methods_are_refused() {
    for_each_encoding(|encoding| {
        let mut scene = Scene::new();
        for (count, length) in [(4097, 3), (60_000, 3), (4096, 300), (60_000, 100)] {
            let methods: Vec<_> = (0..count).map(|n| format!("{n:0length$}")).collect();
            let mut peer = scene.connect(encoding);
            let register = json!({ "type": "REGISTER", "serviceName": "wide", "methods": methods, "metadata": {} });
            let _ = peer.try_send_bytes(&frame(&codec::encode(encoding, &register)));
            let (_, error) = peer.try_receive_any(std::time::Duration::from_secs(30)).expect("an ERROR frame");
            let code = error["error"]["code"].as_str().unwrap_or_default();
            assert!(["INVALID_MESSAGE", "PAYLOAD_TOO_LARGE", "RESOURCE_EXHAUSTED"].contains(&code), "{error}");
            peer.expect_close();
            scene.check_others();
        }
        scene.finish();
    });
}

#[test]
fn reserved_names_are_refused() {
    for_each_encoding(|encoding| {
        let scene = Scene::new();
        for name in ["bro.gateway", "bro.", "bro.anything"] {
            let mut peer = scene.connect(encoding);
            peer.send_register(name, &[], json!({}));
            let error = peer.receive();
            assert_eq!(
                (&error["type"], &error["error"]["code"]),
                (&json!("ERROR"), &json!("PERMISSION_DENIED")),
                "{error}"
            );
            peer.expect_close();
        }
        scene.finish();
    });
}

#[test]
fn names_that_are_empty_too_long_or_hold_control_characters_are_refused() {
    for_each_encoding(|encoding| {
        let scene = Scene::new();
        for name in
            ["", "two\nlines", "bell\u{7}", "nul\0", "escape\u{1b}[31m", "del\u{7f}", "c1\u{9b}31m", &"x".repeat(256)]
        {
            let mut peer = scene.connect(encoding);
            peer.send_register(name, &[], json!({}));
            peer.expect_error_and_close("INVALID_MESSAGE");
            if !name.is_empty() {
                let mut peer = scene.connect(encoding);
                peer.send_register("fine", &["fine", name], json!({}));
                peer.expect_error_and_close("INVALID_MESSAGE");
            }
        }
        let longest = "\u{e9}".repeat(127);
        let mut peer = V1Peer::register(scene.gateway.socket_path(), encoding, &longest, &[&longest]);
        peer.expect_nothing_before_now();
        scene.finish();
    });
}

#[test]
fn a_second_register_with_another_name_is_refused() {
    for_each_encoding(|encoding| {
        let mut scene = Scene::new();
        let mut peer = scene.register(encoding);
        peer.send_register("somebody-else", &[], json!({}));
        peer.expect_error_and_close("INVALID_MESSAGE");
        scene.finish();
    });
}

#[test]
fn a_call_without_callee_or_method_is_answered_and_the_connection_goes_on() {
    for_each_encoding(|encoding| {
        let mut scene = Scene::new();
        let mut peer = scene.register(encoding);
        for (at, rest) in [json!({ "method": "back" }), json!({ "to": "echo" }), json!({})].iter().enumerate() {
            let id = format!("req-{at}");
            let mut call = json!({ "type": "CALL", "id": id, "from": "mallory" });
            for (key, value) in rest.as_object().expect("an object") {
                call[key] = value.clone();
            }
            peer.send(&call);
            peer.expect_failure(&id, "INVALID_MESSAGE");
        }
        peer.expect_nothing_before_now();
        scene.finish();
    });
}

#[test]
fn an_invalid_context_is_answered_and_the_connection_goes_on() {
    for_each_encoding(|encoding| {
        let mut scene = Scene::new();
        let mut peer = scene.register(encoding);
        let good = peer.old_context(60_000);
        let mut bad = vec![json!({})];
        for (field, value) in [
            ("root", json!("")),
            ("root", json!(7)),
            ("root", json!("r".repeat(256))),
            ("chain", json!([])),
            ("chain", json!("order")),
            ("chain", json!(vec!["x"; 257])),
            ("depth", json!("two")),
            ("depth", json!(0)),
            ("depth", json!(-1)),
            ("deadline", json!("tomorrow")),
            ("deadline", json!(null)),
        ] {
            let mut context = good.clone();
            context[field] = value;
            bad.push(context);
        }
        for context in bad {
            let id = peer.start_call_with("echo", "back", json!({}), context.clone());
            let response = peer.receive();
            assert_eq!(
                (&response["id"], &response["error"]["code"]),
                (&json!(id), &json!("INVALID_CONTEXT")),
                "{context}"
            );
        }
        assert_eq!(peer.call("echo", "back", json!("still here"))["data"], "still here");
        scene.finish();
    });
}

#[test]
fn a_context_that_is_no_object_never_reaches_the_callee() {
    for_each_encoding(|encoding| {
        let scene = Scene::new();
        let mut callee = V1Peer::register(scene.gateway.socket_path(), Encoding::Json, "victim", &[]);
        let mut peer = V1Peer::register(scene.gateway.socket_path(), encoding, "mallory", &[]);
        for context in [json!([]), json!("context"), json!(7), json!(true), json!(null)] {
            peer.start_call_with("victim", "find", json!({}), context);
            let seen = callee.expect_call()["context"].take();
            assert_eq!((&seen["chain"], &seen["depth"]), (&json!(["mallory", "victim"]), &json!(2)), "{seen}");
        }
        scene.finish();
    });
}

#[test]
fn unknown_types_and_stray_frames_are_ignored() {
    for_each_encoding(|encoding| {
        let mut scene = Scene::new();
        let mut peer = scene.register(encoding);
        for message in [
            json!({ "type": "SUBSCRIBE", "topic": "x" }),
            json!({ "type": "" }),
            json!({ "type": "call", "id": "1", "to": "echo", "method": "back" }),
            json!({ "type": "REGISTER_ACK" }),
            json!({ "type": "ERROR", "error": { "message": "no", "code": "NO" }, "timestamp": 1 }),
            json!({ "type": "RESPONSE", "id": "nobody-asked", "from": "mallory", "to": "echo", "status": "success", "data": 1 }),
            json!({ "type": "RESPONSE", "id": "nobody-asked", "from": "echo", "to": "bystander", "status": "success" }),
            json!({ "type": "HEARTBEAT" }),
        ] {
            peer.send(&message);
            peer.expect_nothing_before_now();
        }
        scene.finish();
    });
}
