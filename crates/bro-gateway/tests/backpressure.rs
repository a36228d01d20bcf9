//! Full sockets in both directions, and peers that do not read.

mod common;

use bro_gateway::{CloseReason, EventMask, Gateway, GatewayConfig, GatewayEvent, RouterConfig};
use common::{RawPeer, TempDir, frame, start, until};
use serde_json::json;
use std::io::Write;
use std::sync::mpsc::channel;

/// Small limits, so that a test reaches them soon.
fn small_queues(directory: &TempDir) -> GatewayConfig {
    GatewayConfig {
        router: RouterConfig {
            queue_pause_bytes: 256 * 1024,
            queue_calls_bytes_max: 512 * 1024,
            queue_bytes_max: 4 * 1024 * 1024,
            frame_bytes_max: 1024 * 1024,
            ..RouterConfig::default()
        },
        ..GatewayConfig::new(directory.socket())
    }
}

/// Ten thousand small frames into a socket that holds a few hundred: everything arrives, in order.
#[test]
fn small_writes_into_a_full_socket_arrive_in_order() {
    let (directory, gateway) = start();
    let mut callee = RawPeer::registered(&directory.socket(), "callee");
    let mut caller = RawPeer::registered(&directory.socket(), "caller");
    const CALLS: usize = 10_000;
    for index in 0..CALLS {
        caller.call(&format!("req-{index}"), "callee", json!(index));
    }
    until("the callee's queue to grow", || gateway.status().unwrap().queued_bytes > 100_000);
    let mut answers = Vec::new();
    for index in 0..CALLS {
        let call = callee.receive();
        assert_eq!(call["params"], index);
        answers.extend(frame(&callee.answer_value(&call)));
    }
    // The caller does not read yet, so these fill its socket and then its queue.
    callee.stream.write_all(&answers).unwrap();
    for index in 0..CALLS {
        assert_eq!(caller.receive()["data"], index);
    }
    let status = gateway.status().unwrap();
    assert_eq!((status.in_flight, status.queued_bytes), (0, 0));
    gateway.stop().unwrap();
}

/// A callee that reads nothing: calls to it are refused when its queue is full, and others are served.
#[test]
fn calls_to_a_callee_that_does_not_read_are_refused_and_others_are_served() {
    let directory = TempDir::new();
    let gateway = Gateway::start(small_queues(&directory)).unwrap();
    let mut stuck = RawPeer::registered(&directory.socket(), "stuck");
    let mut caller = RawPeer::registered(&directory.socket(), "caller");
    let text = "x".repeat(10_000);
    let mut routed = 0;
    let refused = loop {
        caller.call(&format!("req-{routed}"), "stuck", json!(text));
        caller.call("ping", "caller", json!(null));
        // Either the refusal, or the call to oneself: what was routed is not answered.
        let next = caller.receive();
        if next["type"] == "RESPONSE" && next["id"] != "ping" {
            break next;
        }
        assert_eq!((&next["type"], &next["id"]), (&json!("CALL"), &json!("ping")), "{next}");
        let answer = caller.answer_value(&next);
        caller.send(&answer);
        assert_eq!(caller.receive()["id"], "ping");
        routed += 1;
        assert!(routed < 1000, "the queue has a bound");
    };
    assert_eq!(refused["error"]["code"], "OVERLOADED", "{refused}");
    // As soon as it reads, it is served again, with everything that was accepted for it.
    for index in 0..routed {
        assert_eq!(stuck.receive()["id"], format!("req-{index}"));
    }
    let next = caller.receive();
    assert_eq!((&next["type"], &next["id"]), (&json!("CALL"), &json!("ping")));
    caller.call("again", "stuck", json!(1));
    let call = stuck.receive();
    assert_eq!(call["id"], "again");
    gateway.stop_now().unwrap();
}

/// A caller that sends and never reads is paused: the gateway's memory for it stays bounded, and when it reads it goes on.
#[test]
fn a_caller_that_does_not_read_is_paused_and_resumed() {
    let directory = TempDir::new();
    let gateway = Gateway::start(small_queues(&directory)).unwrap();
    let serving = RawPeer::registered(&directory.socket(), "echo").echo();
    let mut caller = RawPeer::registered(&directory.socket(), "caller");
    let sent = call_until_paused(&gateway, &mut caller);
    let status = gateway.status().unwrap();
    assert!(status.queued_bytes < 512 * 1024, "{} bytes queued", status.queued_bytes);
    for index in 0..sent {
        let answer = caller.receive();
        assert_eq!((&answer["id"], &answer["status"]), (&json!(format!("req-{index}")), &json!("success")));
    }
    caller.call("again", "echo", json!(1));
    assert_eq!(caller.receive()["id"], "again");
    drop(caller);
    gateway.stop().unwrap();
    serving.join().unwrap();
}

/// Calls the echo service without reading the answers until the gateway reads no more. Says how many calls were written.
fn call_until_paused(gateway: &Gateway, caller: &mut RawPeer) -> u64 {
    let text = "x".repeat(10_000);
    for sent in 1..200 {
        caller.call(&format!("req-{}", sent - 1), "echo", json!(text));
        let mut looks = 0;
        let mut is_answered = false;
        until("an answer, or none any more", || {
            looks += 1;
            let counters = gateway.status().unwrap().counters;
            is_answered = counters.responses_routed == sent;
            is_answered || looks > 100 && counters.calls_routed < sent
        });
        if !is_answered {
            assert!(gateway.status().unwrap().queued_bytes > 256 * 1024);
            return sent;
        }
    }
    panic!("never paused");
}

/// Who takes nothing for the configured time is closed, and what was in flight to it ends.
#[test]
fn a_peer_that_never_reads_is_disconnected() {
    let directory = TempDir::new();
    let mut config = small_queues(&directory);
    config.router.write_stall_timeout_ms = 200;
    let (sender, events) = channel();
    let sink =
        Box::new(move |batch: Vec<GatewayEvent>| batch.into_iter().for_each(|event| sender.send(event).unwrap()));
    let gateway = Gateway::start_with_events(config, EventMask::CONNECTIONS, sink).unwrap();
    let stuck = RawPeer::registered(&directory.socket(), "stuck");
    let mut caller = RawPeer::registered(&directory.socket(), "caller");
    for index in 0..40 {
        caller.call(&format!("req-{index}"), "stuck", json!("x".repeat(10_000)));
    }
    // Where it takes long to write so much, the last ones come after the end.
    let mut lost = 0;
    for _ in 0..40 {
        let answer = caller.receive();
        match answer["error"]["code"].as_str() {
            Some("CONNECTION_LOST") => lost += 1,
            Some("SERVICE_NOT_FOUND") if lost > 0 => {}
            _ => panic!("{answer}"),
        }
    }
    let reason = events.iter().find_map(|event| match event {
        GatewayEvent::Closed { service: Some(name), reason, .. } if name == "stuck" => Some(reason),
        _ => None,
    });
    assert_eq!(reason, Some(CloseReason::SlowReader));
    assert!(gateway.service("stuck").unwrap().is_none());
    drop(stuck);
    gateway.stop().unwrap();
}

/// A paused caller that dies is noticed, what it had sent before is still read, and nothing of it is left.
#[test]
fn a_paused_peer_that_dies_is_noticed() {
    let directory = TempDir::new();
    let gateway = Gateway::start(small_queues(&directory)).unwrap();
    let serving = RawPeer::registered(&directory.socket(), "echo").echo();
    let mut caller = RawPeer::registered(&directory.socket(), "caller");
    let sent = call_until_paused(&gateway, &mut caller);
    drop(caller);
    until("it to be gone", || gateway.service("caller").unwrap().is_none());
    until("its charges to be released", || {
        let status = gateway.status().unwrap();
        (status.peers, status.in_flight, status.queued_bytes) == (1, 0, 0)
    });
    assert_eq!(gateway.status().unwrap().counters.calls_routed, sent);
    gateway.stop().unwrap();
    serving.join().unwrap();
}

/// Two services that flood each other, each with one thread that writes and one that reads: nothing deadlocks.
#[test]
fn two_busy_peers_do_not_block_each_other() {
    let (directory, gateway) = start();
    const CALLS: usize = 10_000;
    let left = RawPeer::registered(&directory.socket(), "left");
    let right = RawPeer::registered(&directory.socket(), "right");
    let busy = [(left, "right"), (right, "left")].map(|(mut peer, other)| {
        let mut writer = peer.stream.try_clone().unwrap();
        let calls: Vec<u8> = (0..CALLS)
            .flat_map(|index| frame(&peer.call_value(&format!("req-{index}"), other, json!("y".repeat(500)))))
            .collect();
        let (requests, to_answer) = channel::<Vec<u8>>();
        let writing = std::thread::spawn(move || {
            writer.write_all(&calls).unwrap();
            to_answer.iter().for_each(|answer| writer.write_all(&answer).unwrap());
        });
        let reading = std::thread::spawn(move || {
            for _ in 0..2 * CALLS {
                let next = peer.receive();
                if next["type"] == "CALL" {
                    requests.send(frame(&peer.answer_value(&next))).unwrap();
                } else {
                    assert_eq!(next["status"], "success", "{next}");
                }
            }
            peer
        });
        (writing, reading)
    });
    let open = busy.map(|(writing, reading)| (reading.join().unwrap(), writing.join().unwrap()));
    let status = gateway.status().unwrap();
    assert_eq!((status.counters.calls_routed, status.in_flight), (2 * CALLS as u64, 0));
    drop(open);
    gateway.stop().unwrap();
}
