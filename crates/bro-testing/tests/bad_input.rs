//! What a gateway does with input that is wrong: a coded error where someone can read it, the connection closed unless
//! the protocol says otherwise, and nobody else affected. Through a real gateway process, from JSON and msgpack peers.

use bro_testing::codec::{self, frame};
use bro_testing::gateway::wait_until;
use bro_testing::{Encoding, GatewayOptions, Service, TempGateway, V1Peer, for_each_encoding};
use serde_json::{Value, json};

/// Levels of nesting that would end any parser that recurses.
const DEEP: usize = 200_000;
/// The largest body that a gateway takes by default, in bytes.
const FRAME_BYTES_MAX: u32 = 32 * 1024 * 1024;
/// What a gateway's memory may have grown by at the end of a test, in KiB.
const MEMORY_SLACK_KIB: u64 = 48 * 1024;

/// A gateway with a pair of peers that have nothing to do with what goes wrong.
struct Scene {
    bystander: V1Peer,
    _service: Service,
    calls: u32,
    pid: u32,
    memory_kib: u64,
    gateway: TempGateway,
}

impl Scene {
    fn new() -> Scene {
        Scene::with(GatewayOptions::default())
    }

    fn with(options: GatewayOptions) -> Scene {
        let gateway = options.start();
        let service = V1Peer::register(gateway.socket_path(), Encoding::Msgpack, "echo", &["back"]);
        let _service = service.serve(|call| Ok(call["params"].clone()));
        let bystander = V1Peer::register(gateway.socket_path(), Encoding::Json, "bystander", &[]);
        let mut scene =
            Scene { bystander, _service, calls: 0, pid: gateway.pid(), memory_kib: gateway.memory_kib(), gateway };
        scene.check_others();
        scene
    }

    /// The others still call each other and get the right answers.
    fn check_others(&mut self) {
        for _ in 0..3 {
            self.calls += 1;
            let params = json!({ "call": self.calls, "text": "unaffected" });
            let response = self.bystander.call("echo", "back", params);
            assert_eq!(response["data"]["call"].as_f64(), Some(f64::from(self.calls)), "{response}");
        }
    }

    /// A connection that has not registered.
    fn connect(&self, encoding: Encoding) -> V1Peer {
        V1Peer::connect(self.gateway.socket_path(), encoding)
    }

    /// A connection that has registered as "mallory", once that name is free.
    fn register(&mut self, encoding: Encoding) -> V1Peer {
        let observer = &mut self.bystander;
        wait_until("the name is free", || {
            observer.call("bro.gateway", "service", json!({ "name": "mallory" }))["status"] == "error"
        });
        V1Peer::register(self.gateway.socket_path(), encoding, "mallory", &["harm"])
    }

    /// Sends `body` before and after REGISTER: both times an ERROR with `code` comes, and the connection ends.
    fn expect_refused(&mut self, encoding: Encoding, body: &[u8], code: &str) -> Value {
        let mut last = Value::Null;
        for registered in [false, true] {
            let mut peer = if registered { self.register(encoding) } else { self.connect(encoding) };
            let _ = peer.try_send_bytes(&frame(body));
            last = peer.expect_error_and_close(code);
            self.check_others();
        }
        last
    }

    /// The same process is alive, and has not kept what it was sent.
    fn finish(mut self) {
        self.check_others();
        assert!(self.gateway.is_running() && self.gateway.pid() == self.pid);
        let memory_kib = self.gateway.memory_kib();
        assert!(memory_kib < self.memory_kib + MEMORY_SLACK_KIB, "{} KiB became {memory_kib} KiB", self.memory_kib);
        assert!(!self.gateway.stderr().contains("panicked"), "{}", self.gateway.stderr());
    }
}

/// A CALL to "echo" around encoded `params`.
fn call_around(encoding: Encoding, params: &[u8]) -> Vec<u8> {
    let mut body = match encoding {
        Encoding::Json => br#"{"type":"CALL","id":"1","from":"mallory","to":"echo","method":"back","params":"#.to_vec(),
        Encoding::Msgpack => {
            let fields = json!({ "type": "CALL", "id": "1", "from": "mallory", "to": "echo", "method": "back" });
            let mut body = codec::encode(encoding, &fields);
            body[2] += 1;
            body.extend_from_slice(b"\xa6params");
            body
        }
    };
    body.extend_from_slice(params);
    if encoding == Encoding::Json {
        body.push(b'}');
    }
    body
}

#[test]
fn absurd_lengths_are_refused_from_the_prefix_alone() {
    for_each_encoding(|encoding| {
        let mut scene = Scene::new();
        for announced in [u32::MAX, 0x8000_0000, FRAME_BYTES_MAX + 1] {
            for registered in [false, true] {
                let mut peer = if registered { scene.register(encoding) } else { scene.connect(encoding) };
                peer.send_bytes(&announced.to_be_bytes());
                peer.expect_error_and_close("PAYLOAD_TOO_LARGE");
                scene.check_others();
            }
        }
        scene.finish();
    });
}

#[test]
fn a_claimed_length_costs_no_memory() {
    let mut scene = Scene::new();
    let before_kib = scene.gateway.memory_kib();
    let mut peers: Vec<_> = (0..100).map(|_| scene.connect(Encoding::Json)).collect();
    for peer in &mut peers {
        peer.send_bytes(&FRAME_BYTES_MAX.to_be_bytes());
        peer.send_bytes(b"{\"type\":");
    }
    scene.check_others();
    let after_kib = scene.gateway.memory_kib();
    assert!(after_kib < before_kib + 16 * 1024, "100 claims of 32 MiB took {before_kib} KiB to {after_kib} KiB");
    drop(peers);
    scene.finish();
}

#[test]
fn an_empty_body_is_refused() {
    for_each_encoding(|encoding| {
        let mut scene = Scene::new();
        scene.expect_refused(encoding, b"", "INVALID_MESSAGE");
        scene.finish();
    });
}

#[test]
fn deep_nesting_is_refused() {
    let mut scene = Scene::new();
    let closed = |open: &str, close: &str| format!("{}{}", open.repeat(DEEP), close.repeat(DEEP)).into_bytes();
    for params in [
        closed("[", "]"),
        "[".repeat(DEEP).into_bytes(),
        format!("{}1{}", "{\"a\":".repeat(DEEP), "}".repeat(DEEP)).into_bytes(),
        "{\"a\":".repeat(DEEP).into_bytes(),
        format!("{}1{}", "[{\"a\":".repeat(DEEP), "}]".repeat(DEEP)).into_bytes(),
    ] {
        scene.expect_refused(Encoding::Json, &call_around(Encoding::Json, &params), "INVALID_MESSAGE");
    }
    // The whole body, too, and another field than the payload.
    scene.expect_refused(Encoding::Json, &b"{\"a\":".repeat(DEEP), "INVALID_MESSAGE");
    let context = format!("{{\"type\":\"CALL\",\"context\":{}", "{\"chain\":[".repeat(DEEP));
    scene.expect_refused(Encoding::Json, context.as_bytes(), "INVALID_MESSAGE");

    let mut arrays = vec![0x91; DEEP];
    arrays.push(0xc0);
    let mut wide_arrays = [0xdd, 0, 0, 0, 1].repeat(DEEP);
    wide_arrays.push(0xc0);
    let mut maps = [0x81, 0xa1, b'a'].repeat(DEEP);
    maps.push(0xc0);
    for params in [&arrays[..], &arrays[..DEEP], &wide_arrays, &maps, &maps[..maps.len() - 1]] {
        scene.expect_refused(Encoding::Msgpack, &call_around(Encoding::Msgpack, params), "INVALID_MESSAGE");
    }
    scene.expect_refused(Encoding::Msgpack, &maps, "INVALID_MESSAGE");
    scene.finish();
}

#[test]
fn claimed_counts_of_elements_cost_nothing_and_are_refused() {
    let mut scene = Scene::new();
    for params in [
        &b"\xdd\xff\xff\xff\xff"[..],
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\xdd\xff\xff\xff\xff\xdd\xff\xff\xff\xff\xdd\xff\xff\xff\xff",
    ] {
        scene.expect_refused(Encoding::Msgpack, &call_around(Encoding::Msgpack, params), "INVALID_MESSAGE");
    }
    scene.expect_refused(Encoding::Msgpack, b"\xdf\xff\xff\xff\xff", "INVALID_MESSAGE");
    scene.finish();
}

#[test]
fn invalid_utf8_is_refused() {
    let mut scene = Scene::new();
    for bad in [&b"\xff"[..], b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe2\x82"] {
        let quoted = [b"\"", bad, b"\""].concat();
        scene.expect_refused(Encoding::Json, &call_around(Encoding::Json, &quoted), "INVALID_MESSAGE");
        let named = [b"{\"type\":\"REGISTER\",\"serviceName\":\"", bad, b"\",\"methods\":[],\"metadata\":{}}"].concat();
        scene.expect_refused(Encoding::Json, &named, "INVALID_MESSAGE");
        let length = 0xa0 | u8::try_from(bad.len()).expect("short");
        let named = [b"\x82\xa4type\xa8REGISTER\xabserviceName", &[length][..], bad].concat();
        scene.expect_refused(Encoding::Msgpack, &named, "INVALID_MESSAGE");
    }
    scene.finish();
}

#[test]
fn a_lone_surrogate_from_msgpackr_reaches_a_json_callee_as_well_formed_text() {
    let mut scene = Scene::new();
    let mut mallory = scene.register(Encoding::Msgpack);
    let mut callee = V1Peer::register(scene.gateway.socket_path(), Encoding::Json, "victim", &[]);
    let mut body = call_around(Encoding::Msgpack, b"\xa5a\xed\xa0\x80b");
    let at = body.windows(5).position(|window| window == b"\xa4echo").expect("the callee's name");
    body.splice(at..at + 5, *b"\xa6victim");
    mallory.send_body(&body);
    let call = callee.expect_call();
    let text = call["params"].as_str().expect("a text");
    assert!(text.starts_with('a') && text.ends_with('b') && text.contains('\u{fffd}'), "{text:?}");
    scene.finish();
}

#[test]
fn duplicate_header_keys_are_refused() {
    let mut scene = Scene::new();
    for body in [
        r#"{"type":"CALL","id":"1","to":"echo","to":"victim","method":"back"}"#,
        r#"{"type":"HEARTBEAT","type":"REGISTER","serviceName":"x","methods":[],"metadata":{}}"#,
        r#"{"type":"REGISTER","serviceName":"x","methods":[],"metadata":{},"serviceName":"y"}"#,
        r#"{"type":"CALL","id":"1","to":"echo","method":"back","context":{},"context":{}}"#,
        r#"{"type":"CALL","id":"1","to":"echo","method":"back","params":1,"params":2}"#,
    ] {
        scene.expect_refused(Encoding::Json, body.as_bytes(), "INVALID_MESSAGE");
    }
    let twice = b"\x83\xa4type\xa4CALL\xa2to\xa4echo\xa2to\xa6victim";
    scene.expect_refused(Encoding::Msgpack, twice, "INVALID_MESSAGE");
    // The same key, once as str8: equal all the same.
    let disguised = b"\x83\xa4type\xa4CALL\xa2to\xa4echo\xd9\x02to\xa6victim";
    scene.expect_refused(Encoding::Msgpack, disguised, "INVALID_MESSAGE");
    scene.finish();
}

#[test]
fn escaped_header_keys_are_refused() {
    let mut scene = Scene::new();
    for body in [
        r#"{"ty\u0070e":"CALL","id":"1","to":"echo","method":"back"}"#,
        r#"{"type":"CALL","id":"1","to":"echo","t\u006f":"victim","method":"back"}"#,
        r#"{"type":"CALL","id":"1","to":"echo","\u0074o":"victim","method":"back"}"#,
    ] {
        scene.expect_refused(Encoding::Json, body.as_bytes(), "INVALID_MESSAGE");
    }
    // Keys that are no texts at all.
    scene.expect_refused(Encoding::Msgpack, b"\x82\xa4type\xa4CALL\x01\xa4echo", "INVALID_MESSAGE");
    scene.expect_refused(Encoding::Msgpack, b"\x82\xa4type\xa4CALL\xc4\x02to\xa4echo", "INVALID_MESSAGE");
    scene.finish();
}

#[test]
fn half_frames_before_register_are_dropped_after_a_bounded_wait() {
    for_each_encoding(|encoding| {
        let options = GatewayOptions { register_timeout_ms: Some(200), ..GatewayOptions::default() };
        let mut scene = Scene::with(options);
        let register = json!({ "type": "REGISTER", "serviceName": "half", "methods": [], "metadata": {} });
        let whole = frame(&codec::encode(encoding, &register));
        for sent in [&whole[..1], &whole[..3], &whole[..4], &whole[..5], &whole[..whole.len() - 1]] {
            let mut peer = scene.connect(encoding);
            peer.send_bytes(sent);
            scene.check_others();
            peer.expect_error_and_close("TIMEOUT");
        }
        scene.finish();
    });
}

#[test]
fn half_frames_after_register_are_no_sign_of_life() {
    for_each_encoding(|encoding| {
        let options = GatewayOptions { heartbeat_interval_ms: Some(300), ..GatewayOptions::default() };
        let gateway = options.start();
        let mut mallory = V1Peer::register(gateway.socket_path(), encoding, "mallory", &[]);
        let mut bystander = V1Peer::register(gateway.socket_path(), encoding, "bystander", &[]);
        let whole = frame(&codec::encode(encoding, &json!({ "type": "HEARTBEAT", "from": "mallory", "timestamp": 1 })));
        mallory.send_bytes(&whole[..whole.len() / 2]);
        wait_until("the silent service is dropped", || {
            bystander.heartbeat();
            bystander.call("bro.gateway", "service", json!({ "name": "mallory" }))["status"] == "error"
        });
        mallory.expect_error_and_close("TIMEOUT");
        bystander.expect_nothing_before_now();
    });
}

#[test]
fn a_peer_that_dies_in_mid_frame_leaves_nothing_behind() {
    for_each_encoding(|encoding| {
        let mut scene = Scene::new();
        let descriptors = scene.gateway.fd_count();
        for length in [1, 4, 5, 40, 1_000_000] {
            let mut peer = scene.register(encoding);
            let params = codec::encode(encoding, &json!("x".repeat(2_000_000)));
            peer.send_bytes(&frame(&call_around(encoding, &params))[..length]);
            drop(peer);
        }
        scene.check_others();
        let gateway = &scene.gateway;
        wait_until("the dead connections are closed", || gateway.fd_count() <= descriptors);
        scene.finish();
    });
}

#[test]
fn silence_before_register_is_dropped_after_a_bounded_wait() {
    let options = GatewayOptions { register_timeout_ms: Some(200), ..GatewayOptions::default() };
    let mut scene = Scene::with(options);
    let mut silent: Vec<_> = (0..10).map(|_| scene.connect(Encoding::Json)).collect();
    // Frames other than REGISTER do not extend the wait.
    for peer in &mut silent[5..] {
        peer.send(&json!({ "type": "HEARTBEAT", "from": "echo", "timestamp": 1 }));
    }
    scene.check_others();
    for peer in &mut silent {
        let error = peer.expect_error_and_close("TIMEOUT");
        assert!(error["error"]["message"].as_str().is_some_and(|text| text.contains("REGISTER")), "{error}");
    }
    scene.finish();
}

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
fn bodies_that_are_no_objects_are_refused() {
    let mut scene = Scene::new();
    for body in
        [&b"[]"[..], b"null", b"\"CALL\"", b"7", b"\x93\x01\x02\x03", b"\xc0", b"\x00", b"\xff\xff\xff", b"{", b" "]
    {
        scene.expect_refused(Encoding::Json, body, "INVALID_MESSAGE");
    }
    scene.finish();
}

#[test]
fn record_extensions_of_msgpackr_are_answered_with_what_to_do() {
    let mut scene = Scene::new();
    // What `new Packr()` writes for an object: a record definition, at the top or inside of a plain map.
    let record = b"\xd4\x72\x40\x91\xa4type\xa9HEARTBEAT";
    let nested = call_around(Encoding::Msgpack, b"\xd4\x72\x40\x91\xa1a\x01");
    for body in [&record[..], &nested] {
        let error = scene.expect_refused(Encoding::Msgpack, body, "DESERIALIZATION_FAILED");
        let message = error["error"]["message"].as_str().expect("a message");
        assert!(message.contains("useRecords") || message.contains("pack()"), "no help in {message:?}");
    }
    scene.finish();
}

#[test]
fn trailing_bytes_are_refused() {
    for_each_encoding(|encoding| {
        let mut scene = Scene::new();
        let heartbeat = codec::encode(encoding, &json!({ "type": "HEARTBEAT", "from": "mallory", "timestamp": 1 }));
        for trailing in [&b"x"[..], b"\0", &heartbeat] {
            scene.expect_refused(encoding, &[&heartbeat, trailing].concat(), "INVALID_MESSAGE");
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
fn garbage_is_refused() {
    let mut scene = Scene::new();
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"SSH-2.0-x\r\n",
    ] {
        let mut peer = scene.connect(Encoding::Json);
        peer.send_bytes(garbage);
        peer.expect_error_and_close("PAYLOAD_TOO_LARGE");
        scene.check_others();
    }
    scene.finish();
}

#[test]
fn changed_frames_harm_nobody() {
    // xorshift64: every frame is a good one with some bytes replaced.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).expect("fits")
    };
    let mut scene = Scene::new();
    for round in 0..2000 {
        let encoding = Encoding::ALL[round % 2];
        let messages = [
            json!({ "type": "REGISTER", "serviceName": format!("m{round}"), "methods": ["a"], "metadata": { "poolSize": 2, "poolIndex": 0 } }),
            json!({
                "type": "CALL", "id": "1", "from": "m", "to": "bystander-not", "method": "x", "params": [1, 2.5, "t"],
                "context": { "root": "root-1", "chain": ["m", "m"], "depth": 2, "deadline": 1_900_000_000_000_u64 }
            }),
            json!({ "type": "RESPONSE", "id": "1", "from": "m", "to": "n", "status": "success", "data": { "a": [] } }),
            json!({ "type": "HEARTBEAT", "from": "m", "timestamp": 1_700_000_000_000_u64 }),
        ];
        let mut peer = scene.connect(encoding);
        for (at, message) in messages.iter().enumerate() {
            let mut body = codec::encode(encoding, message);
            // The REGISTER is mostly left whole, so that the others are read by a registered connection.
            let changes = if at == 0 && round % 4 != 0 { 0 } else { random(4) };
            for _ in 0..changes {
                let position = random(body.len());
                body[position] = u8::try_from(random(256)).expect("a byte");
            }
            if peer.try_send_bytes(&frame(&body)).is_err() {
                break;
            }
        }
        if round % 100 == 0 {
            scene.check_others();
        }
    }
    scene.finish();
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
        let mut bad = vec![json!({}), json!([]), json!("context"), json!(7)];
        for (field, value) in [
            ("root", json!("")),
            ("root", json!(7)),
            ("root", json!("r".repeat(256))),
            ("chain", json!([])),
            ("chain", json!("order")),
            ("chain", json!([1, 2])),
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
