//! Bytes that are no frames, or not what they say.

use super::Attack;
use crate::raw::{Heard, Raw, WAIT, call, code_of, register};
use crate::scene::Scene;
use bro_testing::Encoding;
use bro_testing::codec::{self, frame};
use serde_json::json;

pub(super) const ATTACKS: &[Attack] = &[
    Attack::new("claimed length", "announces frames of up to 4 GiB", claimed_length),
    Attack::new("frames without a body", "floods frames of no bytes", empty_frames),
    Attack::new("random bytes", "sends random bytes as frames", random_frames),
    Attack::new("deep nesting", "sends a megabyte of `[`", deep),
    Attack::new("invalid UTF-8", "sends strings that are no text", no_text),
    Attack::new("equal keys", "names two receivers by a key that stands twice", equal_keys),
    Attack::new("escaped keys", "hides the second receiver behind an escaped key", escaped_keys),
    Attack::new(
        "claimed elements",
        "sends msgpack arrays, maps and strings that claim 4 Gi elements",
        claimed_elements,
    ),
    Attack::new("malformed payload", "sends params that would throw in a JavaScript peer", malformed_payload),
    Attack::new("record extension", "sends msgpackr records, which are stateful", records),
    Attack::new("cut frames", "sends half a frame and is gone", cut),
    Attack::new("oversize fields", "sends ids, methods and receivers of more than 255 bytes", oversize_fields),
    Attack::new("frame above the limit", "sends a whole frame of 33 MiB that is no message", above_limit),
];

/// Sends `bytes` on new connections of a registered peer; all must end with `code`.
fn closed(scene: &Scene, mut bytes: impl FnMut() -> Vec<u8>, codes: &[&str]) -> String {
    let mut count = 0;
    let mut last = String::new();
    while scene.goes_on() {
        let mut raw = Raw::registered(scene, "mallory");
        raw.send(&bytes());
        last = raw.end();
        assert!(codes.contains(&&*last), "{last}");
        count += 1;
    }
    format!("disconnected {count} times: {last}")
}

fn claimed_length(scene: &Scene) -> String {
    let mut at = 0_u32;
    // Above 1 GiB nothing more is needed; below, what follows is no message.
    let lengths: [(u32, &[u8]); 4] = [(u32::MAX, b""), (1 << 31, b"{"), (33_554_433, b"GET"), (64 << 20, b"\0")];
    closed(
        scene,
        || {
            at += 1;
            let (announced, follows) = lengths[at as usize % lengths.len()];
            [&announced.to_be_bytes(), follows].concat()
        },
        &["PAYLOAD_TOO_LARGE"],
    )
}

fn empty_frames(scene: &Scene) -> String {
    closed(scene, || vec![0; 64 * 1024], &["INVALID_MESSAGE"])
}

fn random_frames(scene: &Scene) -> String {
    closed(scene, || frame(&[b"\x01", &*scene.random_bytes(512)].concat()), &["INVALID_MESSAGE"])
}

fn deep(scene: &Scene) -> String {
    let mut body = br#"{"type":"CALL","id":"1","to":"victim.user","method":"echo","params":"#.to_vec();
    body.resize(1 << 20, b'[');
    let bytes = frame(&body);
    closed(scene, || bytes.clone(), &["INVALID_MESSAGE"])
}

fn no_text(scene: &Scene) -> String {
    let body =
        b"{\"type\":\"CALL\",\"id\":\"1\",\"to\":\"victim.user\",\"method\":\"echo\",\"params\":\"\xff\xfe\xc0\x80\"}";
    closed(scene, || frame(body), &["INVALID_MESSAGE"])
}

fn equal_keys(scene: &Scene) -> String {
    let body = br#"{"type":"CALL","id":"1","to":"nobody","to":"victim.user","method":"echo","params":1}"#;
    closed(scene, || frame(body), &["INVALID_MESSAGE"])
}

fn escaped_keys(scene: &Scene) -> String {
    let body = br#"{"type":"CALL","id":"1","to":"nobody","\u0074o":"victim.user","method":"echo","params":1}"#;
    closed(scene, || frame(body), &["INVALID_MESSAGE"])
}

fn claimed_elements(scene: &Scene) -> String {
    let heads: [&[u8]; 4] =
        [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"];
    let mut at = 0;
    closed(
        scene,
        || {
            at += 1;
            let message = call("1", "mallory", "victim.user", "echo", json!(null));
            let mut body = codec::encode(Encoding::Msgpack, &message);
            // `params` comes last, as one byte: nil.
            let nil = body.iter().rposition(|&byte| byte == 0xc0).expect("params is nil");
            body.truncate(nil);
            body.extend_from_slice(heads[at % heads.len()]);
            frame(&body)
        },
        &["INVALID_MESSAGE"],
    )
}

fn malformed_payload(scene: &Scene) -> String {
    let payloads = [r#"{"a":1,}"#, "[1 2]", "01", "tru", "\"\\x\"", "{\"a\"}", "1e", "\"\u{1}\"", "nul", "[}"];
    let mut at = 0;
    closed(
        scene,
        || {
            at += 1;
            let payload = payloads[at % payloads.len()];
            let body = format!(
                r#"{{"type":"CALL","id":"1","from":"mallory","to":"victim.old-user","method":"echo","params":{payload}}}"#
            );
            frame(body.as_bytes())
        },
        &["INVALID_MESSAGE"],
    )
}

fn records(scene: &Scene) -> String {
    closed(
        scene,
        || frame(b"\xd4\x72\x40\x93\xa1a\xa1b\xa1c\x01\x02\x03"),
        &["INVALID_MESSAGE", "DESERIALIZATION_FAILED"],
    )
}

fn cut(scene: &Scene) -> String {
    let whole = frame(call("1", "mallory", "victim.user", "echo", json!("x".repeat(4096))).to_string().as_bytes());
    let mut count = 0;
    while scene.goes_on() {
        let mut raw = Raw::connect(scene);
        let hello = frame(register(&format!("mallory-{count}"), json!({})).to_string().as_bytes());
        let bytes = [hello, whole.clone()].concat();
        let end = 1 + usize::try_from(scene.below(bytes.len() as u64 - 1)).expect("small");
        raw.send(&bytes[..end]);
        count += 1;
    }
    format!("nothing: {count} half frames are forgotten with their connections")
}

fn oversize_fields(scene: &Scene) -> String {
    let long = "x".repeat(256);
    let mut at = 0;
    let mut count = 0;
    let mut mallory = Raw::registered(scene, "mallory");
    while scene.goes_on() {
        at += 1;
        let message = match at % 2 {
            0 => call("fits", "mallory", &long, "echo", json!(1)),
            _ => call("fits", "mallory", "victim.user", &long, json!(1)),
        };
        if !mallory.send_json(&message) {
            panic!("closed");
        }
        let answer = mallory.hear_json();
        if answer["type"] == "ERROR" {
            mallory = Raw::registered(scene, &format!("mallory-{at}"));
        }
        let code = answer["error"]["code"].as_str().unwrap_or_default();
        assert!(["INVALID_MESSAGE", "SERVICE_NOT_FOUND", "METHOD_NOT_FOUND"].contains(&code), "{answer}");
        count += 1;
    }
    let mut raw = Raw::registered(scene, "mallory-id");
    raw.send_json(&call(&long, "mallory", "victim.user", "echo", json!(1)));
    let code = match raw.hear(WAIT) {
        Heard::Frame(frame) => code_of(&frame).expect("an error"),
        other => panic!("an error was expected: {other:?}"),
    };
    format!("refused {count} times; an id of 256 bytes: {code}")
}

fn above_limit(scene: &Scene) -> String {
    let length = 33_u32 << 20;
    let mut count = 0;
    while scene.goes_on() {
        let mut raw = Raw::registered(scene, "mallory");
        raw.send(&length.to_be_bytes());
        let chunk = vec![b' '; 1 << 20];
        for _ in 0..33 {
            if !raw.send(&chunk) || !raw.is_flushed() {
                break;
            }
        }
        assert_eq!(raw.end(), "PAYLOAD_TOO_LARGE");
        count += 1;
    }
    format!("disconnected {count} times at its first bytes: PAYLOAD_TOO_LARGE")
}
