//! Asking the gateway itself, again and again.

use super::Attack;
use crate::raw::{Heard, Raw, call};
use crate::scene::Scene;
use serde_json::{Value, json};
use std::time::Duration;

pub(super) const ATTACKS: &[Attack] = &[
    Attack::new("introspection flood", "asks for all services and reads no answer", introspection),
    Attack::new("waiter flood", "waits for services that never come, on 32 connections", waiters),
    Attack::new("subscription flood", "watches all events on 32 connections, and reads none", watchers),
    Attack::new("oversize questions", "asks with more parameters than the gateway takes", oversize),
    Attack::new("odd questions", "asks with parameters of the wrong types, for methods that do not exist", odd),
];

fn introspection(scene: &Scene) -> String {
    let mut mallory = Raw::registered(scene, "mallory");
    let mut count = 0_u64;
    while scene.goes_on() {
        let is_open = if mallory.is_flushed() {
            count += 1;
            mallory.send_json(&call("id", "mallory", "bro.gateway", "services", json!({})))
        } else {
            mallory.flush()
        };
        assert!(is_open, "disconnected");
    }
    format!("{count} questions, then it is not read from until it reads the answers")
}

/// Parks questions on 32 connections until each is refused.
fn park(scene: &Scene, method: &str, params: &Value) -> (u64, u64) {
    let mut connections: Vec<Raw> = (0..32).map(|n| Raw::registered(scene, &format!("mallory-{n}"))).collect();
    let (mut parked, mut refused) = (0, 0);
    for n in 0.. {
        if !scene.goes_on_until(refused > 0) {
            break;
        }
        for raw in &mut connections {
            raw.send_json(&call(&format!("id-{n}"), "mallory", "bro.gateway", method, params.clone()));
            parked += 1;
            while let Heard::Frame(frame) = raw.hear(Duration::ZERO) {
                let answer: Value = serde_json::from_slice(&frame[4..]).expect("JSON");
                if answer["status"] == "error" {
                    assert_eq!(answer["error"]["code"], "RESOURCE_EXHAUSTED", "{answer}");
                    refused += 1;
                }
            }
        }
    }
    (parked, refused)
}

fn waiters(scene: &Scene) -> String {
    let (asked, refused) = park(scene, "waitFor", &json!({ "service": "nobody", "timeoutMs": 600_000 }));
    assert!(refused > 0, "{asked} questions wait");
    format!("{asked} questions, {refused} of them refused: RESOURCE_EXHAUSTED")
}

fn watchers(scene: &Scene) -> String {
    let mut connections: Vec<Raw> = (0..32).map(|n| Raw::registered(scene, &format!("mallory-{n}"))).collect();
    let mut count = 0_u64;
    while scene.goes_on() {
        for raw in &mut connections {
            let params = json!({ "cursor": 0, "timeoutMs": 600_000 });
            if raw.is_flushed() {
                count += 1;
                assert!(raw.send_json(&call("id", "mallory", "bro.gateway", "events", params)), "disconnected");
            } else {
                assert!(raw.flush(), "disconnected");
            }
        }
    }
    format!("{count} questions; what it does not read stops it from asking more")
}

fn oversize(scene: &Scene) -> String {
    let mut mallory = Raw::registered(scene, "mallory");
    let params = json!({ "name": "x".repeat(100_000) });
    let mut count = 0;
    let mut code = Value::Null;
    while scene.goes_on() {
        mallory.send_json(&call("id", "mallory", "bro.gateway", "service", params.clone()));
        let answer = mallory.hear_json();
        assert_eq!(answer["status"], "error", "{answer}");
        code = answer["error"]["code"].clone();
        count += 1;
    }
    format!("refused {count} times: {}", code.as_str().unwrap_or_default())
}

fn odd(scene: &Scene) -> String {
    let mut mallory = Raw::registered(scene, "mallory");
    let questions = [
        ("service", json!({ "name": 5 })),
        ("service", json!([])),
        ("waitFor", json!({ "service": {}, "timeoutMs": -1 })),
        ("events", json!({ "cursor": "x" })),
        ("events", json!({ "max": -5, "cursor": 1.5 })),
        ("stop", json!({})),
        ("__proto__", json!({})),
    ];
    let mut count = 0;
    while scene.goes_on() {
        for (method, params) in &questions {
            mallory.send_json(&call("id", "mallory", "bro.gateway", method, params.clone()));
            let answer = mallory.hear_json();
            assert_eq!(answer["status"], "error", "{method} {params}: {answer}");
            count += 1;
        }
    }
    format!("an error with a code, {count} times")
}
