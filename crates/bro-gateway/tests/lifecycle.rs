//! Draining, stopping, failing, and what the embedding program hears of it.

mod common;

use bro_gateway::{CloseReason, EventMask, Gateway, GatewayConfig, GatewayEvent, StartError, StopReason};
use common::{RawPeer, TempDir, start, until};
use serde_json::json;
use std::io::Write;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

fn start_listening(config: GatewayConfig, mask: EventMask) -> (Gateway, Receiver<Vec<GatewayEvent>>) {
    let (sender, receiver) = channel();
    let sink = Box::new(move |batch| sender.send(batch).unwrap());
    (Gateway::start_with_events(config, mask, sink).unwrap(), receiver)
}

#[test]
fn drain_lets_calls_in_flight_finish_and_refuses_new_ones() {
    let (directory, gateway) = start();
    let mut callee = RawPeer::registered(&directory.socket(), "callee");
    let mut caller = RawPeer::registered(&directory.socket(), "caller");
    caller.call("req-1", "callee", json!(1));
    let call = callee.receive();
    gateway.drain().unwrap();
    gateway.status().unwrap(); // answered after draining has begun
    caller.call("req-2", "callee", json!(2));
    let answer = caller.receive();
    assert_eq!(answer["error"]["code"], "SHUTTING_DOWN", "{answer}");
    let mut late = RawPeer::connect(&directory.socket());
    late.register("late");
    assert_eq!(late.receive()["error"]["code"], "SHUTTING_DOWN");
    callee.answer(&call);
    let answer = caller.receive();
    assert_eq!((&answer["id"], &answer["data"]), (&json!("req-1"), &json!(1)));
    assert_eq!(gateway.wait(), StopReason::Requested);
    assert_eq!(caller.try_receive(), None);
    assert_eq!(callee.try_receive(), None);
    assert_eq!(directory.entries(), [""; 0]);
}

#[test]
fn drain_ends_after_its_time_and_the_call_is_answered() {
    let directory = TempDir::new();
    let config = GatewayConfig { drain_timeout_ms: 100, ..GatewayConfig::new(directory.socket()) };
    let gateway = Gateway::start(config).unwrap();
    let mut callee = RawPeer::registered(&directory.socket(), "callee");
    let mut caller = RawPeer::registered(&directory.socket(), "caller");
    caller.call("req-1", "callee", json!(1));
    callee.receive();
    gateway.stop().unwrap();
    let answer = caller.receive();
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!("req-1"), &json!("CONNECTION_LOST")));
    assert_eq!(caller.try_receive(), None);
}

#[test]
fn stop_now_answers_calls_in_flight_at_once() {
    let (directory, gateway) = start();
    let mut callee = RawPeer::registered(&directory.socket(), "callee");
    let mut caller = RawPeer::registered(&directory.socket(), "caller");
    for index in 0..100 {
        caller.call(&format!("req-{index}"), "callee", json!(index));
    }
    for _ in 0..100 {
        callee.receive();
    }
    gateway.stop_now().unwrap();
    assert!(!gateway.is_running());
    for _ in 0..100 {
        assert_eq!(caller.receive()["error"]["code"], "CONNECTION_LOST");
    }
    assert_eq!(caller.try_receive(), None);
}

/// More than a socket holds is on its way when the gateway stops: who reads gets all of it.
#[test]
fn what_is_queued_when_the_gateway_stops_still_arrives() {
    let (directory, gateway) = start();
    let mut callee = RawPeer::registered(&directory.socket(), "callee");
    let mut caller = RawPeer::registered(&directory.socket(), "caller");
    caller.call("req-1", "callee", json!("x".repeat(3_000_000)));
    let call = callee.receive();
    callee.answer(&call);
    until("the answer to be routed", || gateway.status().unwrap().counters.responses_routed == 1);
    assert!(gateway.status().unwrap().queued_bytes > 1_000_000);
    let reading = std::thread::spawn(move || {
        let answer = caller.receive();
        assert_eq!(answer["data"].as_str().unwrap().len(), 3_000_000);
        assert_eq!(caller.try_receive(), None);
    });
    gateway.stop().unwrap();
    reading.join().unwrap();
}

#[test]
fn dropping_the_handle_stops_the_gateway() {
    let (directory, gateway) = start();
    let mut peer = RawPeer::registered(&directory.socket(), "peer");
    drop(gateway);
    assert_eq!(peer.try_receive(), None);
    assert_eq!(directory.entries(), [""; 0]);
}

#[test]
fn stopping_from_several_threads_stops_once() {
    let (_directory, gateway) = start();
    let stopped = std::thread::scope(|scope| {
        let stoppers: Vec<_> = (0..8).map(|_| scope.spawn(|| gateway.stop().is_ok())).collect();
        stoppers.into_iter().map(|stopper| stopper.join().unwrap()).filter(|ok| *ok).count()
    });
    assert!(stopped >= 1);
    assert_eq!(gateway.wait(), StopReason::Requested);
}

#[test]
fn events_tell_the_life_of_a_call() {
    let directory = TempDir::new();
    let (gateway, batches) = start_listening(GatewayConfig::new(directory.socket()), EventMask::ALL);
    let mut callee = RawPeer::registered(&directory.socket(), "callee");
    let mut caller = RawPeer::registered(&directory.socket(), "caller");
    caller.call("req-1", "callee", json!(1));
    let call = callee.receive();
    callee.answer(&call);
    caller.receive();
    drop(callee);
    until("the callee to be gone", || gateway.service("callee").unwrap().is_none());
    gateway.stop().unwrap();
    let events: Vec<GatewayEvent> = batches.iter().flatten().collect();
    let position = |what: &str, is_it: &dyn Fn(&GatewayEvent) -> bool| {
        let found: Vec<_> = events.iter().enumerate().filter(|(_, event)| is_it(event)).map(|(at, _)| at).collect();
        assert_eq!(found.len(), 1, "{what} in {events:#?}");
        found[0]
    };
    let order = [
        position(
            "started",
            &|event| matches!(event, GatewayEvent::Started { socket_path } if *socket_path == directory.socket()),
        ),
        position("registered", &|event| {
            matches!(event, GatewayEvent::ServiceRegistered { service, methods, version, .. }
                if service == "callee" && *methods == ["echo"] && version.as_deref() == Some("1.0.0"))
        }),
        position("call", &|event| {
            matches!(event, GatewayEvent::CallRouted { from, to, method, request_id, context_json }
                if from == "caller" && to == "callee" && method == "echo" && request_id == "req-1"
                    && context_json.contains("root-1-abcdef"))
        }),
        position("response", &|event| {
            matches!(event, GatewayEvent::ResponseRouted { from, to, request_id, gateway_code: None, .. }
                if from == "callee" && to == "caller" && request_id == "req-1")
        }),
        position(
            "disconnected",
            &|event| matches!(event, GatewayEvent::ServiceDisconnected { service, reason: CloseReason::Gone } if service == "callee"),
        ),
        position(
            "stopping",
            &|event| matches!(event, GatewayEvent::Closed { service: Some(service), reason: CloseReason::Stopping, .. } if service == "caller"),
        ),
        position("stopped", &|event| *event == GatewayEvent::Stopped),
    ];
    assert!(order.is_sorted(), "{order:?} in {events:#?}");
    assert_eq!(order[6], events.len() - 1);
    let connections = events
        .iter()
        .filter(|event| matches!(event, GatewayEvent::Connection { pid, .. } if *pid == Some(std::process::id())));
    assert_eq!(connections.count(), 2);
}

#[test]
fn only_events_in_the_mask_come_and_the_mask_can_change() {
    let directory = TempDir::new();
    let (gateway, batches) = start_listening(GatewayConfig::new(directory.socket()), EventMask::NONE);
    let first = RawPeer::registered(&directory.socket(), "first");
    gateway.set_events(EventMask::SERVICES);
    gateway.status().unwrap(); // answered after the mask was set
    let second = RawPeer::registered(&directory.socket(), "second");
    gateway.set_events(EventMask::NONE);
    gateway.stop().unwrap();
    drop((first, second));
    let events: Vec<GatewayEvent> = batches.iter().flatten().collect();
    match &events[..] {
        [GatewayEvent::Started { .. }, GatewayEvent::ServiceRegistered { service, .. }, GatewayEvent::Stopped] => {
            assert_eq!(service, "second");
        }
        other => panic!("{other:#?}"),
    }
}

/// The gateway may find the new mask and what happened after it in the same wakeup.
#[test]
fn what_happens_after_the_mask_was_set_is_never_missed() {
    let directory = TempDir::new();
    let (gateway, batches) = start_listening(GatewayConfig::new(directory.socket()), EventMask::NONE);
    for round in 0..200 {
        let peer = RawPeer::registered(&directory.socket(), "peer");
        gateway.set_events(EventMask::SERVICES);
        drop(peer);
        let mut events = std::iter::from_fn(|| batches.recv_timeout(common::WATCHDOG).ok()).flatten();
        let told = events.any(|event| matches!(event, GatewayEvent::ServiceDisconnected { .. }));
        assert!(told, "round {round}: nobody was told");
        gateway.set_events(EventMask::NONE);
        gateway.status().unwrap(); // the next registration is not of interest
    }
    gateway.stop().unwrap();
}

/// A burst is handed over in few batches: at most one a wakeup.
#[test]
fn events_come_in_batches() {
    let directory = TempDir::new();
    let (gateway, batches) = start_listening(GatewayConfig::new(directory.socket()), EventMask::CALLS);
    let mut peer = RawPeer::registered(&directory.socket(), "peer");
    let mut stream = Vec::new();
    for index in 0..100 {
        stream.extend(common::frame(&peer.call_value(&format!("req-{index}"), "peer", json!(index))));
    }
    peer.stream.write_all(&stream).unwrap();
    for _ in 0..100 {
        peer.receive();
    }
    gateway.stop_now().unwrap();
    let sizes: Vec<usize> = batches
        .iter()
        .map(|batch| batch.iter().filter(|event| matches!(event, GatewayEvent::CallRouted { .. })).count())
        .filter(|size| *size > 0)
        .collect();
    assert_eq!(sizes.iter().sum::<usize>(), 100);
    assert!(sizes.len() < 50, "{sizes:?}");
}

#[test]
fn a_sink_that_panics_ends_the_gateway_and_hangs_nobody() {
    let directory = TempDir::new();
    let sink = Box::new(|batch: Vec<GatewayEvent>| {
        assert!(!matches!(batch[0], GatewayEvent::ServiceRegistered { .. }), "the sink's defect");
    });
    let config = GatewayConfig::new(directory.socket());
    let gateway = Gateway::start_with_events(config, EventMask::SERVICES, sink).unwrap();
    let mut peer = RawPeer::connect(&directory.socket());
    peer.register("trigger");
    while peer.try_receive().is_some() {}
    let reason = gateway.wait();
    assert!(matches!(&reason, StopReason::Panicked(why) if why.contains("the sink's defect")), "{reason:?}");
    assert!(gateway.status().is_err());
    assert_eq!(directory.entries(), [""; 0]);
}

#[test]
fn limits_that_contradict_each_other_are_refused() {
    let directory = TempDir::new();
    let mut config = GatewayConfig::new(directory.socket());
    config.router.queue_bytes_max = config.router.queue_pause_bytes;
    assert!(matches!(Gateway::start(config), Err(StartError::Config(_))));
    assert_eq!(directory.entries(), [""; 0]);
}

#[test]
fn timers_fire_without_traffic() {
    let directory = TempDir::new();
    let mut config = GatewayConfig::new(directory.socket());
    config.router.register_timeout_ms = 50;
    let gateway = Gateway::start(config).unwrap();
    let mut unregistered = RawPeer::connect(&directory.socket());
    let error = unregistered.receive();
    assert_eq!(error["error"]["code"], "TIMEOUT", "{error}");
    assert_eq!(unregistered.try_receive(), None);
    gateway.stop().unwrap();
    // Another one: who registers there has all the time for that, however slow the machine is.
    let mut config = GatewayConfig::new(directory.socket());
    config.router.heartbeat_interval_ms = 50;
    let gateway = Gateway::start(config).unwrap();
    let mut silent = RawPeer::registered(&directory.socket(), "silent");
    let error = silent.receive();
    assert_eq!(error["error"]["code"], "TIMEOUT", "{error}");
    assert_eq!(silent.try_receive(), None);
    gateway.stop().unwrap();
}

/// While the gateway's thread did not run, services wrote heartbeats into more sockets than one wakeup reads from.
#[test]
fn a_gateway_that_was_held_up_drops_nobody_whose_heartbeat_waits_to_be_read() {
    // Who registers first has to live until the last one has: on a slow machine that takes longer intervals.
    let is_held_up = [1000, 4000, 16_000].into_iter().any(hold_up_with_heartbeats);
    assert!(is_held_up, "all were dropped before the gateway was held up");
}

/// False when somebody was dropped before the gateway was held up.
fn hold_up_with_heartbeats(interval_ms: u64) -> bool {
    const SERVICES: usize = 300;
    let directory = TempDir::new();
    let mut config = GatewayConfig::new(directory.socket());
    config.router.heartbeat_interval_ms = interval_ms;
    let (hold, held) = channel::<Receiver<()>>();
    let sink = Box::new(move |_| {
        if let Ok(release) = held.try_recv() {
            let _ = release.recv();
        }
    });
    let gateway = Gateway::start_with_events(config, EventMask::CALLS, sink).unwrap();
    let mut peers: Vec<_> =
        (0..SERVICES).map(|index| RawPeer::registered(&directory.socket(), &format!("peer-{index}"))).collect();
    // The time of each begins now, unless it is over.
    let beat = |peer: &RawPeer| common::frame(&json!({"type": "HEARTBEAT", "from": peer.name, "timestamp": 1}));
    if !peers.iter_mut().all(|peer| peer.stream.write_all(&beat(peer)).is_ok()) {
        return false;
    }
    until("the heartbeats to be read, or somebody to be dropped", || {
        let counters = gateway.status().unwrap().counters;
        counters.heartbeats == SERVICES as u64 || counters.connections_dropped > 0
    });
    if gateway.status().unwrap().counters.connections_dropped > 0 {
        return false;
    }
    let (release, released) = channel();
    hold.send(released).unwrap();
    peers[0].call("req-1", "peer-1", json!(1)); // its event calls the sink, which waits
    peers[1].receive();
    std::thread::sleep(Duration::from_millis(4 * interval_ms + interval_ms / 2));
    for peer in &mut peers {
        peer.stream.write_all(&beat(peer)).unwrap();
    }
    drop(release);
    until("the heartbeats to be read, or somebody to be dropped", || {
        let counters = gateway.status().unwrap().counters;
        counters.heartbeats == 2 * SERVICES as u64 || counters.connections_dropped > 0
    });
    let status = gateway.status().unwrap();
    assert_eq!((status.counters.connections_dropped, status.services.len()), (0, SERVICES));
    until("those who are silent from now on to be dropped", || gateway.status().unwrap().peers == 0);
    gateway.stop().unwrap();
    true
}
