//! Building v2 frames.
//!
//! Each function appends to `out`. Where a payload follows that lies elsewhere, only what stands before it is written, and the
//! prefix announces both: the caller sends the payload right behind it.

use super::frame::{CancelReason, Codec, FrameKind};
use super::{CALL_HEAD_BYTES, FLAG_FORGET, FLAG_FROM_GATEWAY, HEAD_BYTES, MARK};
use crate::error::ErrorBody;
use crate::frame::finish_frame;
use crate::limits::FRAME_PREFIX_BYTES;

/// Longest code that a failure carries, in bytes; what is longer is cut.
const CODE_BYTES_MAX: usize = u16::MAX as usize;

/// What stands before the payload of a CALL or a NOTIFY. The fields are those of [`super::Call`].
#[derive(Clone, Copy, Debug)]
pub struct CallHead<'a> {
    /// CALL, or NOTIFY.
    pub kind: FrameKind,
    /// The number of the call for its receiver.
    pub id: u64,
    /// The parent's number, or the caller's own.
    pub origin: u64,
    /// The stamp of a chain that begins here.
    pub root: u64,
    /// Route, or number of the caller's name.
    pub peer: u32,
    /// Milliseconds that are left.
    pub timeout_ms: u32,
    /// The method; at most [`crate::limits::METHOD_NAME_BYTES_MAX`] bytes.
    pub method: &'a str,
    /// The context section; empty when there is none.
    pub section: &'a [u8],
    /// How the payload is encoded.
    pub codec: Codec,
}

/// Appends what stands before a payload of `payload_bytes`.
///
/// # Panics
/// When the frame is above 4 GiB: a defect of the caller, which knows its limit.
#[inline]
pub fn call_head(out: &mut Vec<u8>, call: &CallHead<'_>, payload_bytes: usize) {
    let total = CALL_HEAD_BYTES + call.method.len() + call.section.len() + payload_bytes;
    let mut head = [0; CALL_HEAD_BYTES];
    put_head(&mut head, total, call.kind, 0, call.codec, call.id);
    head[16..24].copy_from_slice(&call.origin.to_le_bytes());
    head[24..32].copy_from_slice(&call.root.to_le_bytes());
    head[32..36].copy_from_slice(&call.peer.to_le_bytes());
    head[36..40].copy_from_slice(&call.timeout_ms.to_le_bytes());
    head[40..42].copy_from_slice(&u16::try_from(call.method.len()).expect("a checked name").to_le_bytes());
    head[44..48].copy_from_slice(&u32::try_from(call.section.len()).expect("a checked section").to_le_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(call.method.as_bytes());
    out.extend_from_slice(call.section);
}

/// Completes a CALL in place, on its way from the gateway to the callee. Flags and spare bytes are the caller's no longer.
///
/// # Panics
/// When `frame` is no whole CALL or NOTIFY: a defect of the caller.
#[inline]
pub fn complete_call(frame: &mut [u8], id: u64, origin: u64, root: u64, peer: u32, timeout_ms: u32) {
    let head: &mut [u8; CALL_HEAD_BYTES] = frame.first_chunk_mut().expect("a whole call");
    head[6] = 0;
    head[8..16].copy_from_slice(&id.to_le_bytes());
    head[16..24].copy_from_slice(&origin.to_le_bytes());
    head[24..32].copy_from_slice(&root.to_le_bytes());
    head[32..36].copy_from_slice(&peer.to_le_bytes());
    head[36..40].copy_from_slice(&timeout_ms.to_le_bytes());
    head[42..44].fill(0);
}

/// Readdresses a RESPONSE or an ERROR in place, on its way from the gateway to the caller. No flag of the callee's is passed on.
///
/// # Panics
/// When `frame` has no whole header: a defect of the caller.
#[inline]
pub fn readdress(frame: &mut [u8], id: u64) {
    let head: &mut [u8; HEAD_BYTES] = frame.first_chunk_mut().expect("a whole frame");
    head[6] = 0;
    head[8..16].copy_from_slice(&id.to_le_bytes());
}

/// Appends what stands before a RESPONSE's payload of `payload_bytes`.
pub fn response_head(out: &mut Vec<u8>, id: u64, codec: Codec, payload_bytes: usize) {
    let mut head = [0; HEAD_BYTES];
    put_head(&mut head, HEAD_BYTES + payload_bytes, FrameKind::Response, 0, codec, id);
    out.extend_from_slice(&head);
}

/// Appends an ERROR.
pub fn error(out: &mut Vec<u8>, id: u64, error: &ErrorBody, is_from_gateway: bool) {
    let code = error.code.as_ref().map_or("", |code| code.as_str());
    let code = &code[..code.floor_char_boundary(CODE_BYTES_MAX)];
    let flags = if is_from_gateway { FLAG_FROM_GATEWAY } else { 0 };
    whole(out, FrameKind::Error, flags, id, |out| {
        out.extend_from_slice(&u16::try_from(code.len()).expect("cut").to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&u32::try_from(error.message.len()).expect("below 4 GiB").to_le_bytes());
        out.extend_from_slice(code.as_bytes());
        out.extend_from_slice(error.message.as_bytes());
        out.extend_from_slice(error.stack.as_deref().unwrap_or_default().as_bytes());
    });
}

/// Appends a CANCEL.
pub fn cancel(out: &mut Vec<u8>, id: u64, reason: CancelReason) {
    whole(out, FrameKind::Cancel, reason.to_wire(), id, |_| {});
}

/// Appends a RESOLVE.
pub fn resolve(out: &mut Vec<u8>, route: u32, service: &str) {
    whole(out, FrameKind::Resolve, 0, u64::from(route), |out| out.extend_from_slice(service.as_bytes()));
}

/// Appends a NAME.
pub fn name(out: &mut Vec<u8>, number: u32, service: &str, forgets: bool) {
    let flags = if forgets { FLAG_FORGET } else { 0 };
    whole(out, FrameKind::Name, flags, u64::from(number), |out| out.extend_from_slice(service.as_bytes()));
}

/// Appends a frame that has nothing but its header: PING, PONG or DRAIN.
pub fn bare(out: &mut Vec<u8>, kind: FrameKind, id: u64) {
    whole(out, kind, 0, id, |_| {});
}

/// Appends STATS or one of the LANE kinds.
pub fn other(out: &mut Vec<u8>, kind: FrameKind, id: u64, payload: &[u8]) {
    whole(out, kind, 0, id, |out| out.extend_from_slice(payload));
}

fn whole(out: &mut Vec<u8>, kind: FrameKind, flags: u8, id: u64, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    let mut head = [0; HEAD_BYTES];
    put_head(&mut head, HEAD_BYTES, kind, flags, Codec::ABSENT, id);
    out.extend_from_slice(&head);
    write(out);
    finish_frame(out, start);
}

#[inline]
fn put_head(head: &mut [u8], total: usize, kind: FrameKind, flags: u8, codec: Codec, id: u64) {
    let body = u32::try_from(total - FRAME_PREFIX_BYTES).expect("body length fits the prefix");
    head[..4].copy_from_slice(&body.to_be_bytes());
    head[4..8].copy_from_slice(&[MARK, kind as u8, flags, codec.0]);
    head[8..16].copy_from_slice(&id.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::frame::{Frame, parse};
    use super::super::{FLAG_MAY_IGNORE, WireError, section};
    use super::*;
    use crate::ErrorCode;
    use crate::rng::Rng;

    fn call(section: &[u8], payload: &[u8]) -> Vec<u8> {
        let head = CallHead {
            kind: FrameKind::Call,
            id: 7,
            origin: 8,
            root: 9,
            peer: 10,
            timeout_ms: 11,
            method: "getUserById",
            section,
            codec: Codec::JSON,
        };
        let mut frame = Vec::new();
        call_head(&mut frame, &head, payload.len());
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn a_call_reads_back_and_is_completed_in_place() {
        let mut chain = Vec::new();
        section::write(&mut chain, "root-1-a", 2, ["order", "user"].into_iter()).unwrap();
        for section in [&[][..], &chain] {
            let mut frame = call(section, b"{\"a\":1}");
            let Frame::Call(read) = parse(&frame).unwrap() else { panic!("a CALL") };
            assert_eq!((read.id, read.origin, read.root, read.peer, read.timeout_ms), (7, 8, 9, 10, 11));
            assert_eq!((read.method, read.codec, read.payload), ("getUserById", Codec::JSON, &b"{\"a\":1}"[..]));
            assert_eq!(read.section.map(|section| section.bytes.to_vec()).unwrap_or_default(), section);
            let payload_at = read.payload_at;
            assert_eq!(&frame[payload_at..], b"{\"a\":1}");
            complete_call(&mut frame, 70, 80, 90, 100, 110);
            let Frame::Call(read) = parse(&frame).unwrap() else { panic!("a CALL") };
            assert_eq!((read.id, read.origin, read.root, read.peer, read.timeout_ms), (70, 80, 90, 100, 110));
        }
    }

    #[test]
    fn answers_read_back() {
        let mut frame = Vec::new();
        response_head(&mut frame, 5, Codec::MSGPACK, 1);
        frame.push(0xc3);
        readdress(&mut frame, 6);
        assert_eq!(parse(&frame), Ok(Frame::Response { id: 6, codec: Codec::MSGPACK, payload: &[0xc3] }));
        let body = ErrorBody { message: "nö".into(), code: Some(ErrorCode::Timeout), stack: Some("at x".into()) };
        let mut frame = Vec::new();
        error(&mut frame, 5, &body, true);
        let Ok(Frame::Error { id: 5, is_from_gateway: true, failure }) = parse(&frame) else { panic!("an ERROR") };
        assert_eq!(failure.to_body(), body);
        readdress(&mut frame, 6);
        let forged = parse(&frame).unwrap();
        assert!(matches!(forged, Frame::Error { id: 6, is_from_gateway: false, .. }), "only the gateway says so");
    }

    #[test]
    fn small_frames_read_back() {
        let mut frames = Vec::new();
        let mut expected = Vec::new();
        let mut add = |write: &dyn Fn(&mut Vec<u8>), frame| {
            let mut out = Vec::new();
            write(&mut out);
            frames.push(out);
            expected.push(frame);
        };
        for reason in [CancelReason::Cancelled, CancelReason::Deadline, CancelReason::CallerGone] {
            add(&|out| cancel(out, 3, reason), Frame::Cancel { id: 3, reason });
        }
        add(&|out| resolve(out, 4, "user"), Frame::Resolve { route: 4, service: "user" });
        add(&|out| name(out, 4, "user", true), Frame::Name { number: 4, service: "user", forgets: true });
        add(&|out| bare(out, FrameKind::Ping, 1), Frame::Ping { id: 1 });
        add(&|out| bare(out, FrameKind::Pong, 1), Frame::Pong { id: 1 });
        add(&|out| bare(out, FrameKind::Drain, 0), Frame::Drain);
        let stats = Frame::Other { kind: FrameKind::Stats, id: 2, payload: b"xyz" };
        add(&|out| other(out, FrameKind::Stats, 2, b"xyz"), stats);
        for (frame, expected) in frames.iter().zip(expected) {
            assert_eq!(parse(frame), Ok(expected));
            assert_eq!(frame.len() - 4, crate::frame::announced_bytes(*frame.first_chunk().unwrap()));
        }
    }

    #[test]
    fn unknown_kinds_say_whether_they_may_be_ignored() {
        let mut frame = Vec::new();
        bare(&mut frame, FrameKind::Ping, 1);
        frame[5] = 99;
        assert_eq!(parse(&frame), Err(WireError::UnknownKind { kind: 99 }));
        frame[6] |= FLAG_MAY_IGNORE;
        assert_eq!(parse(&frame), Ok(Frame::Ignored));
    }

    #[test]
    fn damaged_frames_are_refused_or_read_never_worse() {
        let mut chain = Vec::new();
        section::write(&mut chain, "root-1-a", 2, ["order", "user"].into_iter()).unwrap();
        let mut failure = Vec::new();
        error(&mut failure, 5, &ErrorBody::new(ErrorCode::Timeout, "no"), true);
        let good = [call(&[], b"1"), call(&chain, b"{}"), failure];
        let mut refused = 0;
        for seed in 0..20_000 {
            let mut rng = Rng::new(seed);
            let mut frame = good[usize::try_from(rng.below(3)).unwrap()].clone();
            for _ in 0..=rng.below(3) {
                let at = usize::try_from(rng.below(frame.len() as u64)).unwrap();
                match rng.below(2) {
                    0 => frame.truncate(at.max(5)),
                    _ => frame[at] = u8::try_from(rng.below(256)).unwrap(),
                }
            }
            refused += u32::from(parse(&frame).is_err());
        }
        assert!(refused > 1000, "most damage is seen: {refused}");
    }
}
