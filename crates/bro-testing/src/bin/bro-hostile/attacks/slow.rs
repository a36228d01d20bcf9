//! Being slow, or not there in part.

use super::Attack;
use crate::raw::{Heard, Raw, call, response};
use crate::scene::Scene;
use crate::victim::USER;
use bro_testing::GatewayOptions;
use bro_testing::codec::frame;
use serde_json::{Value, json};
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

pub(super) const ATTACKS: &[Attack] = &[
    Attack::new("slow writer", "sends its frames byte by byte, on 100 connections", byte_by_byte),
    Attack::new("half frames", "holds 64 connections that have sent 1 MiB of an announced 32 MiB", half_frames),
    Attack::new("slow reader of answers", "asks for large answers and reads none", unread_answers),
    Attack::new("slow reader of calls", "serves, but reads no call", unread_calls),
    Attack::new("silence", "connects and never registers", silent)
        .with_gateway(|| GatewayOptions { register_timeout_ms: Some(200), ..GatewayOptions::default() }),
    Attack::new("deaf end", "shuts the reading half of its connection down, and asks on", deaf),
    Attack::new("mute end", "shuts the writing half down while calls are in flight", mute),
];

fn byte_by_byte(scene: &Scene) -> String {
    let bytes = frame(call("id", "mallory", USER, "echo", json!({ "text": "x".repeat(200) })).to_string().as_bytes());
    let mut connections: Vec<Raw> = (0..100).map(|n| Raw::registered(scene, &format!("mallory-{n}"))).collect();
    let mut count = 0_u64;
    'attack: loop {
        for at in 0..bytes.len() {
            for raw in &mut connections {
                assert!(raw.send(&bytes[at..=at]), "disconnected");
            }
            if !scene.goes_on() {
                break 'attack;
            }
        }
        for raw in &mut connections {
            let answer = raw.hear_json();
            assert_eq!(answer["status"], "success", "{answer}");
            count += 1;
        }
    }
    format!("answers, slowly: {count}")
}

fn half_frames(scene: &Scene) -> String {
    let mut held: Vec<Raw> = Vec::new();
    let chunk = vec![b' '; 1 << 20];
    for n in 0..64 {
        let mut raw = Raw::registered(scene, &format!("mallory-{n}"));
        raw.send(&(32_u32 << 20).to_be_bytes());
        raw.send(&chunk);
        held.push(raw);
    }
    while scene.goes_on() {
        for raw in &mut held {
            raw.flush();
        }
        thread::sleep(Duration::from_millis(1));
    }
    format!("{} MiB of the gateway's memory, until the time for a frame is over", held.len())
}

fn unread_answers(scene: &Scene) -> String {
    let mut callee = Raw::registered(scene, "mallory-callee");
    let mut mallory = Raw::registered(scene, "mallory");
    let large = json!("x".repeat(256 * 1024));
    let (mut asked, mut answered, mut closed) = (0_u64, 0_u64, 0);
    while scene.goes_on() {
        if mallory.is_flushed() {
            mallory.send_json(&call(&format!("id-{asked}"), "mallory", "mallory-callee", "echo", json!(1)));
            asked += 1;
        } else if !mallory.flush() {
            closed = 1;
            break;
        }
        while let Heard::Frame(frame) = callee.hear(Duration::ZERO) {
            let call: Value = serde_json::from_slice(&frame[4..]).expect("JSON");
            callee.send_json(&response(&call["id"], "mallory-callee", "mallory", large.clone()));
            answered += 1;
        }
        callee.flush();
    }
    let end = if closed > 0 { "is disconnected" } else { "is not read from any more" };
    format!("{answered} answers of 256 KiB to {asked} calls, then it {end}")
}

fn unread_calls(scene: &Scene) -> String {
    let _callee = Raw::registered(scene, "mallory-callee");
    let mut mallory = Raw::registered(scene, "mallory");
    let params = json!("x".repeat(64 * 1024));
    let bytes = frame(call("id", "mallory", "mallory-callee", "echo", params).to_string().as_bytes());
    let (mut count, mut overloaded) = (0_u64, 0_u64);
    while scene.goes_on_until(overloaded > 0) {
        if mallory.is_flushed() {
            mallory.send(&bytes);
            count += 1;
        }
        assert!(mallory.flush(), "disconnected");
        while let Heard::Frame(frame) = mallory.hear(Duration::ZERO) {
            let answer: Value = serde_json::from_slice(&frame[4..]).expect("JSON");
            assert_eq!(answer["error"]["code"], "OVERLOADED", "{answer}");
            overloaded += 1;
        }
    }
    assert!(overloaded > 0, "{count} calls are queued");
    format!("{count} calls to it, {overloaded} of them OVERLOADED at once")
}

fn silent(scene: &Scene) -> String {
    let mut count = 0;
    while scene.goes_on() {
        let mut held: Vec<Raw> = (0..50).map(|_| Raw::connect(scene)).collect();
        for raw in &mut held {
            assert_eq!(raw.end(), "TIMEOUT");
            count += 1;
        }
    }
    format!("disconnected {count} times: TIMEOUT")
}

fn deaf(scene: &Scene) -> String {
    let mut count = 0_u64;
    for n in 0.. {
        if !scene.goes_on() {
            break;
        }
        let mut raw = Raw::registered(scene, &format!("mallory-{n}"));
        raw.stream.shutdown(Shutdown::Read).expect("an open socket");
        while scene.goes_on() && raw.send_json(&call("id", "mallory", USER, "echo", json!(1))) {
            count += 1;
        }
    }
    format!("{count} calls, and is disconnected when an answer cannot be delivered")
}

fn mute(scene: &Scene) -> String {
    let mut count = 0;
    for n in 0.. {
        if !scene.goes_on() {
            break;
        }
        let mut raw = Raw::registered(scene, &format!("mallory-{n}"));
        for id in 0..16 {
            raw.send_json(&call(&format!("id-{id}"), "mallory", USER, "echo", json!(1)));
        }
        raw.stream.shutdown(Shutdown::Write).expect("an open socket");
        assert_eq!(raw.end(), "no reason");
        count += 1;
    }
    format!("disconnected {count} times; its calls are given up")
}
