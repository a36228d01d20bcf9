//! Calls through a gateway, whatever the pieces in which the bytes arrive, and what comes back for bytes that make no sense.

#![expect(clippy::cast_possible_truncation, reason = "small random numbers")]

mod common;

use common::{RawPeer, frame, start, until};
use serde_json::{Value, json};
use std::io::Write;

#[test]
fn a_call_and_its_answer() {
    let (directory, gateway) = start();
    let mut callee = RawPeer::registered(&directory.socket(), "callee");
    let mut caller = RawPeer::registered(&directory.socket(), "caller");
    caller.call("req-1", "callee", json!({"n": 1}));
    let call = callee.receive();
    assert_eq!((&call["id"], &call["from"], &call["params"]), (&json!("req-1"), &json!("caller"), &json!({"n": 1})));
    callee.answer(&call);
    let answer = caller.receive();
    assert_eq!(
        (&answer["id"], &answer["status"], &answer["data"]),
        (&json!("req-1"), &json!("success"), &json!({"n": 1}))
    );
    let status = gateway.status().unwrap();
    assert_eq!((status.peers, status.in_flight, status.queued_bytes), (2, 0, 0));
    assert_eq!(status.services.len(), 2);
    let view = gateway.service("callee").unwrap().unwrap();
    assert_eq!(view.instances[0].pid, Some(std::process::id()));
    assert_eq!(gateway.services().unwrap().len(), 2);
    assert!(gateway.service("nobody").unwrap().is_none());
    gateway.stop().unwrap();
}

#[test]
fn bytes_may_arrive_one_by_one() {
    let (directory, gateway) = start();
    let mut callee = RawPeer::registered(&directory.socket(), "callee");
    let mut caller = RawPeer::registered(&directory.socket(), "caller");
    let bytes = frame(&caller.call_value("req-1", "callee", json!("x")));
    for byte in bytes {
        caller.stream.write_all(&[byte]).unwrap();
    }
    let call = callee.receive();
    for byte in frame(&callee.answer_value(&call)) {
        callee.stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(caller.receive()["data"], "x");
    gateway.stop().unwrap();
}

/// Many calls at once, in writes that end anywhere, to several callees.
#[test]
fn pipelined_calls_in_random_pieces_all_come_back() {
    let (directory, gateway) = start();
    let socket = directory.socket();
    for seed in 0..5 {
        let mut rng = bro_proto::rng::Rng::new(seed);
        let mut caller = RawPeer::registered(&socket, &format!("caller-{seed}"));
        let callees: Vec<_> = (0..3)
            .map(|index| {
                let mut callee = RawPeer::registered(&socket, &format!("callee-{seed}-{index}"));
                std::thread::spawn(move || {
                    while let Some(call) = callee.try_receive() {
                        if call["params"]["last"] == true {
                            return;
                        }
                        callee.answer(&call);
                    }
                })
            })
            .collect();
        let mut stream = Vec::new();
        let mut expected = Vec::new();
        for index in 0..2000 {
            let limit = [10, 500, 5000][rng.below(3) as usize];
            let text = "t".repeat(rng.below(limit) as usize);
            let params = json!({"index": index, "text": text});
            let callee = format!("callee-{seed}-{}", rng.below(3));
            stream.extend(frame(&caller.call_value(&format!("req-{index}"), &callee, params.clone())));
            expected.push((format!("req-{index}"), params));
        }
        let mut writer = caller.stream.try_clone().unwrap();
        let writing = std::thread::spawn(move || {
            let mut rest = &stream[..];
            while !rest.is_empty() {
                let (piece, later) = rest.split_at(rest.len().min(1 + rng.below(70_000) as usize));
                writer.write_all(piece).unwrap();
                rest = later;
            }
        });
        let mut seen: Vec<(String, Value)> = (0..expected.len())
            .map(|_| {
                let answer = caller.receive();
                (answer["id"].as_str().unwrap().to_owned(), answer["data"].clone())
            })
            .collect();
        seen.sort_by_key(|(_, params)| params["index"].as_u64());
        assert!(seen == expected, "seed {seed}");
        writing.join().unwrap();
        for index in 0..3 {
            caller.call("last", &format!("callee-{seed}-{index}"), json!({"last": true}));
        }
        callees.into_iter().for_each(|callee| callee.join().unwrap());
    }
    let status = gateway.status().unwrap();
    assert_eq!(status.queued_bytes, 0);
    gateway.stop().unwrap();
}

#[test]
fn large_frames_go_both_ways_unchanged() {
    let (directory, gateway) = start();
    let serving = RawPeer::registered(&directory.socket(), "callee").echo();
    let mut caller = RawPeer::registered(&directory.socket(), "caller");
    for (index, bytes) in [100, 70_000, 300_000, 1 << 20, (8 << 20) + 17, 3].into_iter().enumerate() {
        let text: String = (0..bytes).map(|at| char::from(b'a' + (at % 23) as u8)).collect();
        caller.call(&format!("req-{index}"), "callee", json!(text));
        let answer = caller.receive();
        assert_eq!(answer["id"], format!("req-{index}"));
        assert!(answer["data"] == text, "{bytes} bytes");
    }
    // Two large ones behind each other with small ones in between, from a caller whose `from` has to be corrected.
    let mut stream = Vec::new();
    for index in 0..6 {
        let mut call =
            caller.call_value(&format!("mix-{index}"), "callee", json!("y".repeat([20, 2_000_000][index % 2])));
        call["from"] = json!("somebody-else");
        stream.extend(frame(&call));
    }
    let mut writer = caller.stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(&stream).unwrap());
    for index in 0..6 {
        let answer = caller.receive();
        assert_eq!(answer["id"], format!("mix-{index}"));
        assert_eq!(answer["data"].as_str().unwrap().len(), [20, 2_000_000][index % 2]);
    }
    writing.join().unwrap();
    drop(caller);
    gateway.stop().unwrap();
    serving.join().unwrap();
}

#[test]
fn garbage_is_answered_with_an_error_and_the_end_and_others_go_on() {
    let (directory, gateway) = start();
    let socket = directory.socket();
    let mut healthy = RawPeer::registered(&socket, "healthy");
    let framed = |body: &[u8]| [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat();
    for (bytes, code) in [
        (framed(b"\xff\xff\xff"), "INVALID_MESSAGE"),
        (framed(b"{\"type\":"), "INVALID_MESSAGE"),
        (framed(b""), "INVALID_MESSAGE"),
        (framed("{\"type\":\"CALL\"".repeat(2000).as_bytes()), "INVALID_MESSAGE"),
        (b"\xff\xff\xff\xffGET / HTTP/1.1\r\n\r\n".to_vec(), "PAYLOAD_TOO_LARGE"),
    ] {
        let mut peer = RawPeer::connect(&socket);
        // More follows, so that the gateway closes a connection with unread bytes in it.
        peer.stream.write_all(&[&bytes[..], &[b'x'; 100_000]].concat()).unwrap();
        let error = peer.receive();
        assert_eq!((&error["type"], &error["error"]["code"]), (&json!("ERROR"), &json!(code)), "{error}");
        assert_eq!(peer.try_receive(), None, "the end of the stream, not a reset");
    }
    healthy.call("req-1", "healthy", json!("me"));
    let call = healthy.receive();
    healthy.answer(&call);
    assert_eq!(healthy.receive()["data"], "me");
    until("the others to be gone", || gateway.status().unwrap().peers == 1);
    gateway.stop().unwrap();
}

/// A blocking program that sends a whole oversize frame before it reads anything.
#[test]
fn a_call_above_the_limit_fails_and_the_next_one_does_not() {
    let (directory, gateway) = start();
    let mut peer = RawPeer::registered(&directory.socket(), "large");
    let bytes = bro_proto::limits::FRAME_BYTES_MAX + 1;
    let mut large = u32::try_from(bytes).unwrap().to_be_bytes().to_vec();
    large.extend_from_slice(br#"{"type":"CALL","id":"large","from":"large","to":"large","method":"m","params":""#);
    large.resize(bytes + 4, b'x');
    for round in 0..3 {
        peer.stream.write_all(&large).unwrap();
        peer.call(&format!("small-{round}"), "large", json!("me"));
        let error = peer.receive();
        assert_eq!((&error["id"], &error["error"]["code"]), (&json!("large"), &json!("PAYLOAD_TOO_LARGE")), "{error}");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains("33554433 bytes") && message.contains("33554432"), "{message}");
        let call = peer.receive();
        peer.answer(&call);
        assert_eq!(peer.receive()["data"], "me");
    }
    let counters = gateway.status().unwrap().counters;
    assert_eq!((counters.refused_too_large, counters.malformed), (3, 0));
    gateway.stop().unwrap();
}

/// What cannot be skipped is explained, even if it is sent to its end before anything is read.
#[test]
fn an_oversize_frame_of_which_nobody_knows_what_it_is_ends_the_connection() {
    let (directory, gateway) = start();
    let bytes = bro_proto::limits::FRAME_BYTES_MAX + 1;
    // The gateway listens on for a limited time only. Who is slower than that is told as well, but cannot write all of it.
    let is_sent = (0..20).any(|round| {
        let mut peer = RawPeer::registered(&directory.socket(), &format!("large-{round}"));
        peer.stream.write_all(&u32::try_from(bytes).unwrap().to_be_bytes()).unwrap();
        let is_sent = peer.stream.write_all(&vec![b'x'; bytes]).is_ok();
        let error = peer.receive();
        assert_eq!(error["error"]["code"], "PAYLOAD_TOO_LARGE", "{error}");
        assert!(!is_sent || peer.try_receive().is_none());
        is_sent
    });
    assert!(is_sent, "the gateway never takes all of it");
    gateway.stop().unwrap();
}

#[test]
fn a_refused_registration_is_explained_before_the_end() {
    let (directory, gateway) = start();
    let _first = RawPeer::registered(&directory.socket(), "taken");
    let mut second = RawPeer::connect(&directory.socket());
    second.register("taken");
    second.send(&json!({"type": "HEARTBEAT", "from": "taken", "timestamp": 1}));
    let error = second.receive();
    assert_eq!((&error["type"], &error["error"]["code"]), (&json!("ERROR"), &json!("DUPLICATE_SERVICE")));
    assert_eq!(second.try_receive(), None);
    gateway.stop().unwrap();
}

#[test]
fn a_callee_that_answers_and_exits_at_once_has_answered() {
    let (directory, gateway) = start();
    let mut caller = RawPeer::registered(&directory.socket(), "caller");
    for round in 0..50 {
        let mut callee = RawPeer::registered(&directory.socket(), "callee");
        caller.call(&format!("req-{round}"), "callee", json!(round));
        let call = callee.receive();
        callee.answer(&call);
        drop(callee);
        assert_eq!(caller.receive()["data"], round);
        until("the name to be free", || gateway.service("callee").unwrap().is_none());
    }
    gateway.stop().unwrap();
}

#[test]
fn a_call_to_a_callee_that_goes_fails_at_once() {
    let (directory, gateway) = start();
    let mut caller = RawPeer::registered(&directory.socket(), "caller");
    let mut callee = RawPeer::registered(&directory.socket(), "callee");
    caller.call("req-1", "callee", json!(1));
    callee.receive();
    drop(callee);
    let answer = caller.receive();
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!("req-1"), &json!("CONNECTION_LOST")));
    gateway.stop().unwrap();
}
