//! Frames above the limit, which the gateway reads to their end and keeps nothing of.

use super::Attack;
use crate::raw::{Raw, call};
use crate::scene::Scene;
use serde_json::json;

pub(super) const ATTACKS: &[Attack] = &[
    Attack::new("calls above the limit", "sends whole calls of 33 MiB, one after another", large_calls),
    Attack::new("answers above the limit", "answers calls with 33 MiB, to callers that wait", large_answers),
    Attack::new("endless skipping", "holds 200 connections, each in the middle of a call of 1 GiB", held),
];

/// What the frames claim, in bytes.
const LARGE_BYTES: usize = 33 << 20;

/// The beginning of a message of so many bytes, as old programs order its keys: what is missing is a text without end.
fn begun(kind: &str, id: &str, key: &str, bytes: usize) -> Vec<u8> {
    let head =
        format!(r#"{{"type":"{kind}","id":"{id}","from":"mallory","to":"victim.user","method":"echo","{key}":""#);
    [&u32::try_from(bytes).expect("below 4 GiB").to_be_bytes()[..], head.as_bytes()].concat()
}

/// Sends a whole frame that begins so. False when the time is over before, or the connection ends.
fn send_whole(scene: &Scene, raw: &mut Raw, beginning: &[u8]) -> bool {
    if !raw.send(beginning) {
        return false;
    }
    let mut left = LARGE_BYTES + 4 - beginning.len();
    let chunk = vec![b'x'; 1 << 20];
    while left > 0 {
        let count = left.min(chunk.len());
        if !raw.send(&chunk[..count]) {
            return false;
        }
        while !raw.is_flushed() {
            if !scene.goes_on() || !raw.flush() {
                return false;
            }
        }
        left -= count;
    }
    true
}

fn expect_too_large(raw: &mut Raw, id: &str) {
    let answer = raw.hear_json();
    assert_eq!(
        (answer["id"].as_str(), answer["error"]["code"].as_str()),
        (Some(id), Some("PAYLOAD_TOO_LARGE")),
        "{answer}"
    );
}

fn large_calls(scene: &Scene) -> String {
    let mut mallory = Raw::registered(scene, "mallory");
    let mut count = 0;
    while scene.goes_on() {
        let id = format!("large-{count}");
        let is_whole = send_whole(scene, &mut mallory, &begun("CALL", &id, "params", LARGE_BYTES));
        expect_too_large(&mut mallory, &id);
        if !is_whole {
            break;
        }
        count += 1;
    }
    format!("refused one by one: PAYLOAD_TOO_LARGE; {count} calls of 33 MiB are read and thrown away")
}

fn large_answers(scene: &Scene) -> String {
    let mut mallory = Raw::registered(scene, "mallory");
    let mut caller = Raw::registered(scene, "accomplice");
    let mut count = 0;
    while scene.goes_on() {
        let id = format!("asked-{count}");
        caller.send_json(&call(&id, "accomplice", "mallory", "echo", json!(1)));
        let asked = mallory.hear_json();
        let beginning = begun("RESPONSE", asked["id"].as_str().expect("an id"), "data", LARGE_BYTES);
        let is_whole = send_whole(scene, &mut mallory, &beginning);
        expect_too_large(&mut caller, &id);
        if !is_whole {
            break;
        }
        count += 1;
    }
    format!("their callers are told at once: PAYLOAD_TOO_LARGE; {count} answers of 33 MiB are read and thrown away")
}

fn held(scene: &Scene) -> String {
    let mut all: Vec<Raw> = (0..200).map(|number| Raw::registered(scene, &format!("mallory-{number}"))).collect();
    for raw in &mut all {
        raw.send(&begun("CALL", "held", "params", 1 << 30));
        raw.send(&[b'x'; 8192]);
        expect_too_large(raw, "held");
    }
    let mut bytes = 0;
    while scene.goes_on() {
        for raw in &mut all {
            bytes += 16 * 1024;
            assert!(raw.send(&[b'x'; 16 * 1024]), "it is not closed before the time for a frame is over");
        }
    }
    format!(
        "200 times PAYLOAD_TOO_LARGE, and {} MiB read and thrown away, until the time for a frame is over",
        bytes >> 20
    )
}
