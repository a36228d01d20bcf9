//! A gateway whose thread is held up: what it measures, whom it warns, and that its pulse stops.

mod common;

use bro_gateway::{Embedding, EventMask, Gateway, GatewayConfig, GatewayEvent, Pulse, Vitals};
use common::{RawPeer, TempDir, WATCHDOG};
use serde_json::json;
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// How long the thread is held up at least: more than what is warned of.
const HELD: Duration = Duration::from_millis(400);

#[test]
fn a_wakeup_that_takes_long_is_measured_warned_of_and_stops_the_pulse() {
    // A machine can be so busy that another wakeup is late enough to be warned of, and then the next ten seconds are not.
    let mut told = Vec::new();
    while told.len() < 20 {
        told.extend(warnings_of_one_that_is_held_up());
        let last = told.last().expect("who is held up is warned of");
        let took_ms = last.split("one wakeup took ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        if took_ms.is_some_and(|took_ms: u128| took_ms >= HELD.as_millis()) && last.contains("took 1 frames of") {
            return;
        }
    }
    panic!("{told:?}");
}

/// Holds the thread of a gateway up, sees that this is measured and stops the pulse, and gives the warnings: at least one, at most one in ten seconds.
fn warnings_of_one_that_is_held_up() -> Vec<String> {
    let directory = TempDir::new();
    let (hold, held) = channel::<Receiver<()>>();
    let (event, events) = channel();
    let sink = Box::new(move |batch: Vec<GatewayEvent>| {
        let has_call = batch.iter().any(|event| matches!(event, GatewayEvent::CallRouted { .. }));
        batch.into_iter().for_each(|happened| event.send(happened).unwrap());
        if has_call && let Ok(release) = held.recv() {
            let _ = release.recv();
        }
    });
    let (beat, beats) = channel();
    let pulse = Pulse { every: Duration::from_millis(5), beat: Box::new(move |vitals| beat.send(vitals).unwrap()) };
    let embedding = Embedding {
        events: Some((EventMask::CALLS.with(EventMask::WARNINGS), sink)),
        pulse: Some(pulse),
        ..Embedding::default()
    };
    let gateway = Gateway::start_embedded(GatewayConfig::new(directory.socket()), embedding).unwrap();
    let mut peer = RawPeer::registered(&directory.socket(), "peer");
    let is_there = |vitals: &Vitals| (vitals.services, vitals.peers, vitals.is_draining) == (1, 1, false);
    assert!(beats.iter().any(|vitals| is_there(&vitals)));
    let (release, released) = channel();
    hold.send(released).unwrap();
    peer.call("req-1", "peer", json!(1)); // its event calls the sink, which waits
    let call = peer.receive();
    std::thread::sleep(HELD);
    while beats.try_recv().is_ok() {}
    assert!(beats.recv_timeout(Duration::from_millis(100)).is_err(), "a hung thread gives no sign of life");
    let asked = Instant::now();
    drop(release);
    assert!(beats.recv_timeout(WATCHDOG).is_ok(), "and goes on as soon as it is free");
    let held_us = u64::try_from((HELD + asked.elapsed()).as_micros()).unwrap();
    peer.answer(&call);
    peer.receive();
    let status = gateway.status().unwrap().event_loop;
    let longest = status.longest.unwrap();
    let at_least = u64::try_from(HELD.as_micros()).unwrap();
    assert!(longest.took_us >= at_least && status.lag_max_us >= at_least, "{status:?}, held for {held_us} us");
    assert_eq!((longest.connections_read, longest.frames_in, longest.frames_out), (1, 1, 1), "{longest:?}");
    assert!(status.lag_p50_us < at_least, "{status:?}");
    // The same over the socket.
    let mut call = peer.call_value("req-2", "bro.gateway", json!({}));
    call["method"] = json!("status");
    peer.send(&call);
    let told = peer.receive()["data"]["loop"].take();
    assert_eq!(told["longestWakeup"]["tookUs"], longest.took_us, "{told}");
    assert!(told["lagMaxUs"].as_u64() >= Some(at_least), "{told}");
    gateway.stop().unwrap();
    let warnings: Vec<String> = events
        .try_iter()
        .filter_map(|event| match event {
            GatewayEvent::Warning { peer: None, message, .. } => Some(message),
            _ => None,
        })
        .collect();
    warnings
}

/// What `bro gateway` does with systemd's socket, for those who embed a gateway.
#[test]
fn a_gateway_on_a_socket_of_somebody_else_leaves_its_file() {
    let directory = TempDir::new();
    let listener = UnixListener::bind(directory.socket()).unwrap();
    for round in 0..2 {
        let embedding = Embedding { listener: Some(listener.try_clone().unwrap().into()), ..Embedding::default() };
        let unused = directory.path().join("unused.sock");
        let gateway = Gateway::start_embedded(GatewayConfig::new(unused), embedding).unwrap();
        assert_eq!(gateway.socket_path(), directory.socket());
        RawPeer::registered(&directory.socket(), &format!("peer-{round}"));
        gateway.stop().unwrap();
        assert_eq!(directory.entries(), ["gateway.sock"]);
    }
}
