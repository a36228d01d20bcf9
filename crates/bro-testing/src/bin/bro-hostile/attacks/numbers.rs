//! Numbers that belong to others. Version 2.

use super::Attack;
use crate::raw::{Heard, Raw, WAIT, call, call_v2, code_of, number_of, register, response_v2};
use crate::scene::Scene;
use bro_proto::v2::{self, CancelReason, Frame, FrameKind, encode};
use bro_proto::{ErrorBody, ErrorCode};
use serde_json::json;
use std::time::Duration;

pub(super) const ATTACKS: &[Attack] = &[
    Attack::new("forged parent", "makes calls for calls that it does not work on", forged_parent),
    Attack::new("forged numbers", "answers the numbers of other callees' calls", forged_answer),
    Attack::new("foreign CANCEL", "cancels calls of others by their numbers", foreign_cancel),
    Attack::new(
        "recycled numbers",
        "answers a number whose call has timed out and whose place is used again",
        recycled,
    ),
    Attack::new("forged gateway flag", "marks its own error as the gateway's", forged_flag),
    Attack::new("version 2 unasked", "sends version 2 where version 1 was agreed on", unasked),
    Attack::new("version 1 after all", "sends a CALL of version 1 where version 2 was agreed on", after_all),
    Attack::new("unbound routes", "calls on routes that it has not bound", unbound),
    Attack::new("lying lengths", "announces more method, section and chain than the frame has", lying_lengths),
    Attack::new("unknown kinds", "sends kinds of frames that nobody knows", unknown_kinds),
];

fn cancel(id: u64) -> Vec<u8> {
    let mut out = Vec::new();
    encode::cancel(&mut out, id, CancelReason::Cancelled);
    out
}

fn error_of(frame: &[u8]) -> (u64, bool, ErrorBody) {
    match v2::parse(frame) {
        Ok(Frame::Error { id, is_from_gateway, failure }) => (id, is_from_gateway, failure.to_body()),
        other => panic!("an ERROR was expected: {other:?}"),
    }
}

fn forged_parent(scene: &Scene) -> String {
    let mut mallory = Raw::registered_v2(scene, "mallory");
    mallory.resolve(0, "victim.user");
    let mut count = 0;
    while scene.goes_on() {
        // Small places, few users of each: what is in flight in the gateway has such numbers.
        let parent = scene.below(8) << 32 | scene.below(64);
        count += 1;
        mallory.send(&call_v2(FrameKind::Call, count, parent.max(1), 1000, b"1"));
        let (id, is_from_gateway, error) = error_of(&mallory.hear_kind(FrameKind::Error));
        assert_eq!((id, is_from_gateway, error.code), (count, true, Some(ErrorCode::Cancelled)));
    }
    format!("CANCELLED by the gateway, {count} times: it works on no such call")
}

fn forged_answer(scene: &Scene) -> String {
    let mut caller = Raw::registered_v2(scene, "caller");
    let mut callee = Raw::registered_v2(scene, "callee");
    let mut mallory = Raw::registered_v2(scene, "mallory");
    caller.resolve(0, "callee");
    let mut count = 0;
    while scene.goes_on() {
        count += 1;
        caller.send(&call_v2(FrameKind::Call, count, 0, 10_000, b"1"));
        let number = number_of(&callee.hear_kind(FrameKind::Call));
        mallory.send(&response_v2(number, b"\"forged\""));
        settle(&mut mallory);
        callee.send(&response_v2(number, b"\"right\""));
        let answer = caller.hear_kind(FrameKind::Response);
        assert!(answer.ends_with(b"\"right\""), "{answer:?}");
    }
    format!("all {count} forged answers are dropped, and the right ones arrive")
}

/// Waits until the gateway has looked at all that was sent.
fn settle(raw: &mut Raw) {
    let mut ping = Vec::new();
    encode::bare(&mut ping, FrameKind::Ping, 7);
    raw.send(&ping);
    raw.hear_kind(FrameKind::Pong);
}

fn foreign_cancel(scene: &Scene) -> String {
    let mut caller = Raw::registered_v2(scene, "caller");
    let mut callee = Raw::registered_v2(scene, "callee");
    let mut mallory = Raw::registered_v2(scene, "mallory");
    caller.resolve(0, "callee");
    let mut count = 0;
    while scene.goes_on() {
        count += 1;
        caller.send(&call_v2(FrameKind::Call, count, 0, 10_000, b"1"));
        let number = number_of(&callee.hear_kind(FrameKind::Call));
        mallory.send(&[cancel(count), cancel(number)].concat());
        settle(&mut mallory);
        // Nor may the callee cancel what it was asked.
        callee.send(&cancel(number));
        callee.send(&response_v2(number, b"\"right\""));
        assert!(caller.hear_kind(FrameKind::Response).ends_with(b"\"right\""));
    }
    format!("nothing: all {count} calls are answered")
}

fn recycled(scene: &Scene) -> String {
    let mut caller = Raw::registered_v2(scene, "caller");
    let mut mallory = Raw::registered_v2(scene, "mallory");
    caller.resolve(0, "mallory");
    let mut count = 0;
    while scene.goes_on() {
        count += 1;
        caller.send(&call_v2(FrameKind::Call, 2 * count, 0, 3, b"1"));
        let old = number_of(&mallory.hear_kind(FrameKind::Call));
        let (id, _, error) = error_of(&caller.hear_kind(FrameKind::Error));
        assert_eq!((id, error.code), (2 * count, Some(ErrorCode::Timeout)));
        caller.send(&call_v2(FrameKind::Call, 2 * count + 1, 0, 10_000, b"1"));
        let new = number_of(&mallory.hear_kind(FrameKind::Call));
        assert_ne!(old, new);
        mallory.send(&response_v2(old, b"\"late\""));
        mallory.send(&response_v2(new, b"\"right\""));
        assert!(caller.hear_kind(FrameKind::Response).ends_with(b"\"right\""));
    }
    format!("{count} late answers are dropped; none ends the new call")
}

fn forged_flag(scene: &Scene) -> String {
    let mut caller = Raw::registered_v2(scene, "caller");
    let mut mallory = Raw::registered_v2(scene, "mallory");
    caller.resolve(0, "mallory");
    let mut count = 0;
    while scene.goes_on() {
        count += 1;
        caller.send(&call_v2(FrameKind::Call, count, 0, 10_000, b"1"));
        let number = number_of(&mallory.hear_kind(FrameKind::Call));
        let mut out = Vec::new();
        encode::error(&mut out, number, &ErrorBody::new(ErrorCode::ServiceNotFound, "says the gateway"), true);
        mallory.send(&out);
        let (_, is_from_gateway, _) = error_of(&caller.hear_kind(FrameKind::Error));
        assert!(!is_from_gateway, "a callee passes for the gateway");
    }
    format!("all {count} errors arrive as the callee's own")
}

fn unasked(scene: &Scene) -> String {
    let mut count = 0;
    while scene.goes_on() {
        let mut raw = Raw::registered(scene, "mallory-v1");
        raw.send(&call_v2(FrameKind::Call, 1, 0, 1000, b"1"));
        assert_eq!(raw.end(), "INVALID_MESSAGE");
        count += 1;
    }
    format!("disconnected {count} times: INVALID_MESSAGE")
}

fn after_all(scene: &Scene) -> String {
    let mut count = 0;
    while scene.goes_on() {
        let mut raw = Raw::registered_v2(scene, "mallory-v2");
        raw.send_json(&call("id", "mallory-v2", "victim.user", "echo", json!({})));
        assert_eq!(raw.end(), "INVALID_MESSAGE");
        count += 1;
    }
    format!("disconnected {count} times: INVALID_MESSAGE")
}

fn unbound(scene: &Scene) -> String {
    let mut count = 0;
    let mut code = String::new();
    while scene.goes_on() {
        let mut raw = Raw::registered_v2(scene, "mallory");
        let mut frame = call_v2(FrameKind::Call, 1, 0, 1000, b"1");
        let route = u32::try_from(scene.below(1 << 32)).expect("below 2^32");
        frame[32..36].copy_from_slice(&route.to_le_bytes());
        raw.send(&frame);
        match raw.hear(WAIT) {
            Heard::Frame(frame) if frame[4] == v2::MARK => {
                let (_, _, error) = error_of(&frame);
                code = error.code.map(|code| code.as_str().to_owned()).unwrap_or_default();
            }
            Heard::Frame(frame) => code = code_of(&frame).expect("an ERROR"),
            other => panic!("an error was expected: {other:?}"),
        }
        count += 1;
    }
    format!("refused {count} times: {code}")
}

fn lying_lengths(scene: &Scene) -> String {
    let (mut closed, mut refused) = (0, 0);
    while scene.goes_on() {
        let mut raw = Raw::registered_v2(scene, "mallory");
        raw.resolve(0, "victim.user");
        let mut frame = call_v2(FrameKind::Call, 1, 0, 1000, &scene.random_bytes(32));
        // Bytes of the method, of the section, and where a section begins.
        let at = [40, 41, 44, 45, 46, 47][usize::try_from(scene.below(6)).expect("small")];
        frame[at] = u8::try_from(1 + scene.below(255)).expect("below 256");
        raw.send(&frame);
        match raw.hear(WAIT) {
            Heard::Frame(frame) if frame[4] == v2::MARK => refused += 1,
            Heard::Frame(_) | Heard::Closed => closed += 1,
            Heard::Silence => panic!("neither an answer nor the end"),
        }
    }
    format!("disconnected {closed} times; {refused} calls were lawful after all, and answered")
}

fn unknown_kinds(scene: &Scene) -> String {
    let mut count = 0;
    let mut skipped = Raw::registered_v2(scene, "mallory-skipped");
    while scene.goes_on() {
        let kind = u8::try_from(64 + scene.below(192)).expect("below 256");
        let mut frame = Vec::new();
        encode::bare(&mut frame, FrameKind::Ping, 1);
        frame[5] = kind;
        let mut raw = Raw::connect(scene);
        raw.send_json(&register("mallory", json!({ "bro": { "v": 2 } })));
        raw.hear_json();
        raw.send(&frame);
        assert_eq!(raw.end(), "INVALID_MESSAGE");
        frame[6] = v2::FLAG_MAY_IGNORE;
        skipped.send(&frame);
        settle(&mut skipped);
        assert_eq!(skipped.hear(Duration::ZERO), Heard::Silence);
        count += 1;
    }
    format!("disconnected {count} times, and skipped {count} times where the frame says that it may be")
}
