//! Frames that are no messages.

use crate::scene::{Scene, call_around};
use bro_testing::codec::{self, frame};
use bro_testing::{Encoding, V1Peer, for_each_encoding};
use serde_json::json;

/// Levels of nesting that would end any parser that recurses.
const DEEP: usize = 200_000;
/// The largest body that a gateway takes by default, in bytes.
const FRAME_BYTES_MAX: u32 = 32 * 1024 * 1024;
/// The largest that it skips, in bytes.
const OVERSIZE_BYTES_MAX: u32 = 1024 * 1024 * 1024;

#[test]
fn absurd_lengths_are_refused_from_the_prefix_alone() {
    for_each_encoding(|encoding| {
        let mut scene = Scene::new();
        for announced in [u32::MAX, 0x8000_0000, OVERSIZE_BYTES_MAX + 1] {
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

/// The beginning of a CALL as old programs write it: the parameters are cut short.
fn call_begun(encoding: Encoding) -> Vec<u8> {
    match encoding {
        Encoding::Json => {
            br#"{"type":"CALL","id":"large","from":"mallory","to":"bystander","method":"echo","params":""#.to_vec()
        }
        Encoding::Msgpack => {
            let mut body =
                b"\x86\xa4type\xa4CALL\xa2id\xa5large\xa4from\xa7mallory\xa2to\xa9bystander\xa6method\xa4echo".to_vec();
            body.extend_from_slice(b"\xa6params\xdb\x7f\xff\xff\xff");
            body
        }
    }
}

#[test]
fn a_call_above_the_limit_fails_alone_and_costs_no_memory() {
    for_each_encoding(|encoding| {
        let mut scene = Scene::new();
        let before_kib = scene.gateway.memory_kib();
        let mut peer = scene.register(encoding);
        for announced in [FRAME_BYTES_MAX + 1, 3 * FRAME_BYTES_MAX] {
            let mut large = announced.to_be_bytes().to_vec();
            large.extend_from_slice(&call_begun(encoding));
            large.resize(announced as usize + 4, b'x');
            peer.send_bytes(&large);
            peer.expect_failure("large", "PAYLOAD_TOO_LARGE");
            let after = peer.call("echo", "back", json!("the connection goes on"));
            assert_eq!(after["data"], "the connection goes on");
            scene.check_others();
        }
        let after_kib = scene.gateway.memory_kib();
        assert!(
            after_kib < before_kib + 8 * 1024,
            "128 MiB that were skipped took {before_kib} KiB to {after_kib} KiB"
        );
        scene.finish();
    });
}

#[test]
fn what_does_not_look_like_a_message_is_not_skipped() {
    let mut scene = Scene::new();
    for body in [&b"[1,2,3"[..], b"GET / ", b"\0\0\0\x10{", b" \n\tx"] {
        let mut peer = scene.register(Encoding::Json);
        peer.send_bytes(&[&(FRAME_BYTES_MAX + 1).to_be_bytes(), body].concat());
        peer.expect_error_and_close("PAYLOAD_TOO_LARGE");
        scene.check_others();
    }
    scene.finish();
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
