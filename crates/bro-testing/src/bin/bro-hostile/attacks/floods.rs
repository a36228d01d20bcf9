//! Much of what would be lawful once.

use super::Attack;
use crate::raw::{Heard, Raw, call, call_v2, register};
use crate::scene::Scene;
use crate::victim::USER;
use bro_proto::v2::{CancelReason, FrameKind, encode};
use bro_testing::codec::frame;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

pub(super) const ATTACKS: &[Attack] = &[
    Attack::new("connect flood", "connects and leaves, as fast as it can", connects),
    Attack::new("held connections", "holds 4,000 connections that never say who they are", held),
    Attack::new(
        "registration flood",
        "registers services with all the methods and metadata it may have",
        registrations,
    ),
    Attack::new("method flood", "registers more methods than one may have", methods),
    Attack::new("registering anew", "changes its methods over and over", anew),
    Attack::new("coming and going", "registers and leaves, as fast as it can", coming_and_going),
    Attack::new("calls to nobody", "floods calls to services that are not there", to_nobody),
    Attack::new("calls that hang", "floods calls to a callee of its own that answers none", hanging),
    Attack::new("calls to a victim", "keeps 64 calls in flight to the service that honest programs use", to_victim),
    Attack::new("large calls", "sends calls of a megabyte to a callee of its own", large),
    Attack::new("notification flood", "floods notifications to a callee that does not read", notifications),
    Attack::new("CANCEL flood", "calls and cancels, as fast as it can", cancels),
    Attack::new("RESOLVE flood", "binds all routes of 64 connections to long names, over and over", resolves),
    Attack::new("PING flood", "pings as fast as it can, and reads no answer", pings),
    Attack::new("heartbeat flood", "sends signs of life as fast as it can", heartbeats),
];

fn connects(scene: &Scene) -> String {
    let (mut count, mut refused) = (0, 0);
    while scene.goes_on() {
        match Raw::try_connect(scene) {
            Ok(_) => count += 1,
            Err(_) => refused += 1,
        }
    }
    format!("{count} connections come and go, {refused} are not taken")
}

fn held(scene: &Scene) -> String {
    let mut held: Vec<Raw> = Vec::new();
    while scene.goes_on() {
        if held.len() < 4000
            && let Ok(raw) = Raw::try_connect(scene)
        {
            held.push(raw);
        } else {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    format!("{} connections, until the time to register is over", held.len())
}

fn registrations(scene: &Scene) -> String {
    let methods: Vec<String> = (0..2000).map(|n| format!("a-method-with-a-name-of-its-own-{n:06}")).collect();
    let metadata = json!({ "text": "x".repeat(60_000) });
    let mut held = Vec::new();
    let mut codes: BTreeMap<String, u64> = BTreeMap::new();
    while scene.goes_on() {
        let Ok(mut raw) = Raw::try_connect(scene) else { continue };
        let mut message = register(&format!("mallory-{}", held.len()), metadata.clone());
        message["methods"] = json!(methods);
        raw.send_json(&message);
        let Heard::Frame(frame) = raw.hear(Duration::from_secs(20)) else { continue };
        let answer: Value = serde_json::from_slice(&frame[4..]).expect("JSON");
        match answer["error"]["code"].as_str() {
            Some(code) => *codes.entry(code.to_owned()).or_default() += 1,
            None => held.push(raw),
        }
    }
    format!("{} registrations of 140 KB are kept, refused: {codes:?}", held.len())
}

fn methods(scene: &Scene) -> String {
    let methods: Vec<String> = (0..4097).map(|n| format!("m{n}")).collect();
    let mut message = register("mallory", json!({}));
    message["methods"] = json!(methods);
    let mut count = 0;
    while scene.goes_on() {
        let mut raw = Raw::connect(scene);
        raw.send_json(&message);
        assert_ne!(raw.end(), "no reason");
        count += 1;
    }
    format!("refused {count} times")
}

fn anew(scene: &Scene) -> String {
    let mut mallory = Raw::registered(scene, "mallory");
    let mut count = 0_u64;
    while scene.goes_on() {
        let mut message = register("mallory", json!({ "n": count }));
        message["methods"] = json!((0..500).map(|n| format!("m-{count}-{n}")).collect::<Vec<_>>());
        assert!(mallory.send_json(&message), "closed");
        mallory.drain();
        count += 1;
    }
    format!("{count} changes of 500 methods, for itself")
}

fn coming_and_going(scene: &Scene) -> String {
    let (mut count, mut refused) = (0, 0);
    while scene.goes_on() {
        let Ok(mut raw) = Raw::try_connect(scene) else { continue };
        raw.send_json(&register(&format!("mallory-{count}"), json!({})));
        match raw.hear(Duration::from_secs(20)) {
            Heard::Frame(frame) if frame.windows(12).any(|part| part == b"REGISTER_ACK") => count += 1,
            _ => refused += 1,
        }
    }
    format!("{count} registrations come and go, {refused} are refused")
}

/// Sends calls as fast as the gateway takes them; counts answers by code.
fn flood(scene: &Scene, raw: &mut Raw, mut next: impl FnMut(u64) -> Vec<u8>) -> (u64, BTreeMap<String, u64>) {
    let mut codes = BTreeMap::new();
    let mut count = 0_u64;
    while scene.goes_on() {
        for _ in 0..64 {
            if !raw.is_flushed() {
                break;
            }
            let bytes = next(count);
            assert!(raw.send(&bytes), "disconnected after {count}");
            count += 1;
        }
        assert!(raw.flush(), "disconnected after {count}");
        while let Heard::Frame(frame) = raw.hear(Duration::ZERO) {
            let answer: Value = serde_json::from_slice(&frame[4..]).unwrap_or_default();
            if answer["type"] == "RESPONSE" {
                let code = answer["error"]["code"].as_str().unwrap_or("answered");
                *codes.entry(code.to_owned()).or_default() += 1;
            }
        }
    }
    (count, codes)
}

fn to_nobody(scene: &Scene) -> String {
    let mut mallory = Raw::registered(scene, "mallory");
    let next =
        |n| frame(call(&format!("id-{n}"), "mallory", &format!("nobody-{n}"), "echo", json!(n)).to_string().as_bytes());
    let (count, codes) = flood(scene, &mut mallory, next);
    assert!(codes.keys().all(|code| code == "SERVICE_NOT_FOUND"), "{codes:?}");
    format!("{count} calls: {codes:?}")
}

fn hanging(scene: &Scene) -> String {
    let mut callee = Raw::registered(scene, "mallory-callee");
    let mut mallory = Raw::registered(scene, "mallory");
    let next =
        |n| frame(call(&format!("id-{n}"), "mallory", "mallory-callee", "echo", json!(n)).to_string().as_bytes());
    let (count, codes) = flood(scene, &mut mallory, |n| {
        callee.drain();
        next(n)
    });
    assert!(codes.keys().all(|code| ["RESOURCE_EXHAUSTED", "OVERLOADED"].contains(&&**code)), "{codes:?}");
    format!("{count} calls: {codes:?}, the rest in flight until their deadline")
}

fn to_victim(scene: &Scene) -> String {
    let mut mallory = Raw::registered(scene, "mallory");
    let mut count = 0_u64;
    while scene.goes_on() {
        for n in 0..64 {
            mallory.send_json(&call(&format!("id-{n}"), "mallory", USER, "echo", json!({ "n": n })));
        }
        for _ in 0..64 {
            let answer = mallory.hear_json();
            assert_eq!(answer["status"], "success", "{answer}");
        }
        count += 64;
    }
    format!("answers to its {count} calls; the victim serves everybody in turn")
}

fn large(scene: &Scene) -> String {
    let mut callee = Raw::registered(scene, "mallory-callee");
    let mut mallory = Raw::registered(scene, "mallory");
    let params = json!("x".repeat(1 << 20));
    let bytes = frame(call("id", "mallory", "mallory-callee", "echo", params).to_string().as_bytes());
    let mut count = 0;
    let mut refused = 0;
    while scene.goes_on() {
        if mallory.is_flushed() {
            mallory.send(&bytes);
            count += 1;
        }
        assert!(mallory.flush(), "disconnected");
        callee.drain();
        if let Heard::Frame(_) = mallory.hear(Duration::ZERO) {
            refused += 1;
        }
    }
    format!("{count} calls go to its own callee, {refused} are refused")
}

fn notifications(scene: &Scene) -> String {
    let _callee = Raw::registered_v2(scene, "mallory-callee");
    let mut mallory = Raw::registered_v2(scene, "mallory");
    mallory.resolve(0, "mallory-callee");
    let bytes = call_v2(FrameKind::Notify, 0, 0, 0, &[b'1'; 4096]);
    let mut count = 0_u64;
    while scene.goes_on() {
        if mallory.is_flushed() {
            mallory.send(&bytes);
            count += 1;
        }
        assert!(mallory.flush(), "disconnected");
    }
    format!("{count} notifications: the queue of its own callee is full, and the rest is dropped")
}

fn cancels(scene: &Scene) -> String {
    let mut callee = Raw::registered_v2(scene, "mallory-callee");
    let mut mallory = Raw::registered_v2(scene, "mallory");
    mallory.resolve(0, "mallory-callee");
    let mut count = 0_u64;
    while scene.goes_on() {
        let mut bytes = Vec::new();
        for _ in 0..64 {
            count += 1;
            bytes.extend(call_v2(FrameKind::Call, count, 0, 1000, b"1"));
            encode::cancel(&mut bytes, count, CancelReason::Cancelled);
            // And once more, for a call that is gone.
            encode::cancel(&mut bytes, count, CancelReason::Cancelled);
        }
        assert!(mallory.send(&bytes), "disconnected");
        callee.drain();
    }
    format!("{count} calls are begun and given up, for itself")
}

fn resolves(scene: &Scene) -> String {
    let mut connections: Vec<Raw> = (0..64).map(|n| Raw::registered_v2(scene, &format!("mallory-{n}"))).collect();
    let (mut count, mut closed) = (0_u64, 0);
    while scene.goes_on() {
        for raw in &mut connections {
            let mut bytes = Vec::new();
            for route in 0..1024 {
                encode::resolve(&mut bytes, route, &format!("{count:0>250}"));
                count += 1;
            }
            if !raw.send(&bytes) {
                closed += 1;
            }
        }
    }
    format!("{count} bindings, each in the place of another; {closed} writes after a disconnection")
}

fn pings(scene: &Scene) -> String {
    let mut mallory = Raw::registered_v2(scene, "mallory");
    let mut bytes = Vec::new();
    for n in 0..256 {
        encode::bare(&mut bytes, FrameKind::Ping, n);
    }
    let mut count = 0_u64;
    while scene.goes_on() {
        if mallory.is_flushed() {
            count += 256;
            mallory.send(&bytes);
        } else {
            assert!(mallory.flush(), "disconnected");
        }
    }
    format!("{count} pings, then it is not read from until it reads the answers")
}

fn heartbeats(scene: &Scene) -> String {
    let mut mallory = Raw::registered(scene, "mallory");
    let one = frame(json!({ "type": "HEARTBEAT", "from": "victim.user", "timestamp": 0 }).to_string().as_bytes());
    let bytes = one.repeat(256);
    let mut count = 0_u64;
    while scene.goes_on() {
        if mallory.is_flushed() {
            count += 256;
        }
        let open = if mallory.is_flushed() { mallory.send(&bytes) } else { mallory.flush() };
        assert!(open, "disconnected");
    }
    format!("{count} signs of its own life; what they say of others counts for nothing")
}
