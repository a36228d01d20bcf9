//! Answers that are not the answerer's to give. Version 1.

use super::Attack;
use crate::raw::{Heard, Raw, call, response};
use crate::scene::Scene;
use bro_proto::limits::DEPTH_MAX;
use serde_json::json;
use std::time::Duration;

pub(super) const ATTACKS: &[Attack] = &[
    Attack::new("forged answers", "answers calls that others were asked, with the right id", forged),
    Attack::new("answers in the gateway's name", "answers as `bro.gateway`", as_the_gateway),
    Attack::new("double answers", "answers each call twice", twice),
    Attack::new("late answers", "answers a call that has timed out, while a new one is in flight", late),
    Attack::new("answers to nothing", "floods answers with made-up ids", to_nothing),
    Attack::new("endless chain", "calls itself from its own handler, on and on", endless_chain),
    Attack::new("ids used twice", "makes calls with one id for all", same_id),
];

fn forged(scene: &Scene) -> String {
    let mut caller = Raw::registered(scene, "caller");
    let mut callee = Raw::registered(scene, "callee");
    let mut mallory = Raw::registered(scene, "mallory");
    let mut count = 0;
    while scene.goes_on() {
        caller.send_json(&call(&format!("id-{count}"), "caller", "callee", "echo", json!({})));
        let asked = callee.hear_json();
        mallory.send_json(&response(&asked["id"], "callee", "caller", json!("forged")));
        mallory.settle();
        callee.send_json(&response(&asked["id"], "callee", "caller", json!("right")));
        let answer = caller.hear_json();
        assert_eq!((&answer["data"], &answer["from"]), (&json!("right"), &json!("callee")), "{answer}");
        count += 1;
    }
    format!("all {count} forged answers are dropped, and the right ones arrive")
}

fn as_the_gateway(scene: &Scene) -> String {
    let mut caller = Raw::registered(scene, "caller");
    let mut mallory = Raw::registered(scene, "mallory");
    let mut count = 0;
    while scene.goes_on() {
        caller.send_json(&call(&format!("id-{count}"), "caller", "mallory", "echo", json!({})));
        let asked = mallory.hear_json();
        mallory.send_json(&response(&asked["id"], "bro.gateway", "victim.order", json!("trust me")));
        let answer = caller.hear_json();
        assert_eq!((&answer["from"], &answer["to"]), (&json!("mallory"), &json!("caller")), "{answer}");
        count += 1;
    }
    format!("its own name stands in all {count} answers")
}

fn twice(scene: &Scene) -> String {
    let mut caller = Raw::registered(scene, "caller");
    let mut mallory = Raw::registered(scene, "mallory");
    let mut count = 0;
    while scene.goes_on() {
        let id = format!("id-{count}");
        caller.send_json(&call(&id, "caller", "mallory", "echo", json!({})));
        let asked = mallory.hear_json();
        for data in ["first", "second"] {
            mallory.send_json(&response(&asked["id"], "mallory", "caller", json!(data)));
        }
        let answer = caller.hear_json();
        assert_eq!((&answer["id"], &answer["data"]), (&json!(id), &json!("first")), "{answer}");
        mallory.settle();
        assert_eq!(caller.hear(Duration::ZERO), Heard::Silence, "a second answer");
        count += 1;
    }
    format!("only the first of the two answers arrives, {count} times")
}

fn late(scene: &Scene) -> String {
    let mut caller = Raw::registered(scene, "caller");
    let mut mallory = Raw::registered(scene, "mallory");
    let mut count = 0;
    while scene.goes_on_until(count > 0) {
        let mut message = call("same-id", "caller", "mallory", "echo", json!({}));
        let deadline = bro_testing::peer::now_ms() + 5;
        message["context"] =
            json!({ "root": "root-1-a", "chain": ["caller", "mallory"], "depth": 2, "deadline": deadline });
        caller.send_json(&message);
        let Heard::Frame(_) = caller.hear(crate::raw::WAIT) else { panic!("TIMEOUT was expected") };
        let Heard::Frame(asked) = mallory.hear(Duration::from_millis(50)) else { continue };
        let asked: serde_json::Value = serde_json::from_slice(&asked[4..]).expect("JSON");
        // The caller uses the id again, as an old program may that counts from the beginning.
        caller.send_json(&call("same-id", "caller", "mallory", "echo", json!({})));
        let again = mallory.hear_json();
        mallory.send_json(&response(&asked["id"], "mallory", "caller", json!("late")));
        mallory.send_json(&response(&again["id"], "mallory", "caller", json!("right")));
        let answer = caller.hear_json();
        assert_eq!(answer["data"], "right", "{answer}");
        count += 1;
    }
    assert!(count > 0, "no call timed out");
    format!("{count} late answers are dropped; none ends the new call")
}

fn to_nothing(scene: &Scene) -> String {
    let mut mallory = Raw::registered(scene, "mallory");
    let mut count = 0_u64;
    while scene.goes_on() {
        let id = json!(format!("req-{}-{:06}", scene.below(1 << 40), scene.below(1 << 20)));
        assert!(mallory.send_json(&response(&id, "victim.user", "victim.order", json!(1))), "closed");
        count += 1;
    }
    format!("{count} answers are dropped")
}

fn endless_chain(scene: &Scene) -> String {
    let mut rounds = 0;
    let mut deepest = 0;
    let mut mallory = Raw::registered(scene, "mallory");
    while scene.goes_on() {
        let mut depth = 1_u32;
        let answer = loop {
            let mut message = call(&format!("{rounds}-{depth}"), "mallory", "mallory", "echo", json!({}));
            message["context"] = json!({ "root": "root-1-a", "chain": ["mallory"], "depth": depth, "deadline": 9e15 });
            mallory.send_json(&message);
            let heard = mallory.hear_json();
            if heard["type"] == "RESPONSE" {
                break heard;
            }
            deepest = deepest.max(depth);
            depth += 1;
            assert!(depth < 10 * DEPTH_MAX, "no end");
        };
        assert_eq!(answer["error"]["code"], "MAX_DEPTH_EXCEEDED", "{answer}");
        rounds += 1;
        // What it asked of itself is given up with the connection.
        drop(mallory);
        mallory = reregistered(scene);
    }
    format!("MAX_DEPTH_EXCEEDED below {deepest} calls, {rounds} times")
}

/// The name is free again once the gateway has noticed the end of its last owner.
fn reregistered(scene: &Scene) -> Raw {
    loop {
        let mut raw = Raw::connect(scene);
        raw.send_json(&crate::raw::register("mallory", json!({})));
        if raw.hear_json()["type"] == "REGISTER_ACK" {
            return raw;
        }
    }
}

fn same_id(scene: &Scene) -> String {
    let mut caller = Raw::registered(scene, "mallory");
    let mut callee = Raw::registered(scene, "callee");
    let mut count = 0;
    while scene.goes_on() {
        let asked: Vec<_> = (0..8)
            .map(|n| {
                caller.send_json(&call("the-id", "mallory", "callee", "echo", json!(n)));
                callee.hear_json()
            })
            .collect();
        for (at, call) in asked.iter().enumerate() {
            assert!(asked[..at].iter().all(|other| other["id"] != call["id"]), "two calls with one id reach a callee");
        }
        for call in &asked {
            callee.send_json(&response(&call["id"], "callee", "mallory", call["params"].clone()));
        }
        for call in &asked {
            assert_eq!(caller.hear_json()["data"], call["params"]);
        }
        count += 8;
    }
    format!("the callee sees {count} calls with ids of their own; each is answered once")
}
