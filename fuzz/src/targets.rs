//! What is fuzzed. To fuzz something else, write a function and add it to [`TARGETS`].

#[path = "../../crates/bro-proto/tests/oracle/mod.rs"]
mod oracle;

use crate::{targets_policy, targets_session, targets_state, targets_v2};
use bro_proto::frame::{Cut, Deframer, Oversize, announced_bytes};
use bro_proto::limits::{FRAME_PREFIX_BYTES, OVERSIZE_BYTES_MAX, OVERSIZE_HEAD_BYTES};
use bro_proto::v1::rewrite::{TranscodeError, rewrite, transcode};
use bro_proto::v1::{Encoding, Payload, decode, message, scan};

/// A function that must return, whatever the bytes are.
pub struct Target {
    /// Its name on the command line, and that of its folder of seeds.
    pub name: &'static str,
    /// Panics when something is wrong.
    pub run: fn(&[u8]),
    /// What it checks.
    pub about: &'static str,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "json_scan", run: json_scan, about: "the JSON header scan against serde_json" },
    Target { name: "msgpack_scan", run: msgpack_scan, about: "the msgpack header scan against rmp" },
    Target { name: "deframer", run: deframer, about: "frames of a stream cut at any places" },
    Target { name: "rewrite", run: rewritten, about: "what was accepted can be carried over, and is accepted there" },
    Target { name: "message", run: whole_message, about: "the parts of what was accepted can be decoded" },
    Target { name: "v2_frame", run: targets_v2::v2_frame, about: "frames of version 2 against a slow reader" },
    Target { name: "v2_section", run: targets_v2::v2_section, about: "context sections against a slow reader" },
    Target { name: "router", run: targets_v2::router, about: "the router between peers of both versions" },
    Target { name: "state", run: targets_state::state, about: "the state of a router that another one is made from" },
    Target { name: "session", run: targets_session::session, about: "a session, its program and its gateway" },
    Target { name: "policy", run: targets_policy::policy, about: "the policy file against a slow reader and matcher" },
];

/// The target with this name.
pub fn named(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

fn json_scan(body: &[u8]) {
    if Encoding::detect(body) == Some(Encoding::Json) {
        assert_eq!(scan(body), bro_proto::v1::json::scan(body));
    }
    oracle::json::check(body);
}

fn msgpack_scan(body: &[u8]) {
    if Encoding::detect(body) == Some(Encoding::Msgpack) {
        assert_eq!(scan(body), bro_proto::v1::msgpack::scan(body));
    }
    oracle::msgpack::check(body);
}

/// Body limit of the deframed streams, in bytes: small, so that streams meet it.
const BODY_BYTES_MAX: usize = 1024;

/// The first byte says how many of the next ones are sizes of pieces; what follows is the stream.
fn deframer(input: &[u8]) {
    let Some((&splits, rest)) = input.split_first() else { return };
    let (sizes, stream) = rest.split_at(rest.len().min(usize::from(splits & 0x0f)));
    let (expected, end) = frames_of(stream);

    let mut deframer = Deframer::new();
    let mut seen = Vec::new();
    let mut failed = false;
    let mut unread = stream;
    let mut sizes = sizes.iter().cycle();
    while !unread.is_empty() && !failed {
        let size = sizes.next().map_or(unread.len(), |size| usize::from(*size).clamp(1, unread.len()));
        let (chunk, others) = unread.split_at(size);
        unread = others;
        let mut frames = deframer.start(chunk, BODY_BYTES_MAX);
        loop {
            match frames.next_cut() {
                Ok(Some(Cut::Whole(frame))) => seen.push(Seen::Frame(frame.to_vec())),
                Ok(Some(Cut::Assembled(frame))) => seen.push(Seen::Frame(frame)),
                Ok(Some(Cut::Oversize(oversize))) => seen.push(Seen::Oversize(*oversize)),
                Ok(None) => break,
                Err(_) => {
                    failed = true;
                    break;
                }
            }
        }
        drop(frames);
        let kept_bytes_max = FRAME_PREFIX_BYTES + OVERSIZE_HEAD_BYTES;
        assert!(failed || deframer.partial_bytes() < kept_bytes_max, "{}", deframer.partial_bytes());
        // Another gateway may go on from here.
        if deframer.skipping_bytes() > 0 {
            deframer = Deframer::resume_skipping(deframer.skipping_bytes());
        }
    }
    assert_eq!(seen, expected);
    match end {
        StreamEnd::Broken => assert!(failed),
        StreamEnd::Partial(left) => {
            assert!(!failed);
            assert_eq!((deframer.partial(), deframer.skipping_bytes()), (left, 0));
        }
        StreamEnd::Skipping(left) => {
            assert!(!failed);
            assert_eq!((deframer.partial_bytes(), deframer.skipping_bytes()), (0, left));
        }
    }
}

/// What a reader of a stream gets.
#[derive(Debug, PartialEq)]
enum Seen {
    Frame(Vec<u8>),
    Oversize(Oversize),
}

/// What is at the end of a stream.
enum StreamEnd<'a> {
    /// The beginning of a frame, or nothing.
    Partial(&'a [u8]),
    /// A frame above the limit, of which so many bytes are missing.
    Skipping(usize),
    /// Something that is no frame.
    Broken,
}

/// The frames of a whole stream, and what is behind them.
fn frames_of(mut stream: &[u8]) -> (Vec<Seen>, StreamEnd<'_>) {
    let mut seen = Vec::new();
    while let Some((prefix, behind)) = stream.split_first_chunk() {
        let announced = announced_bytes(*prefix);
        if announced <= BODY_BYTES_MAX {
            let Some((frame, rest)) = stream.split_at_checked(FRAME_PREFIX_BYTES + announced) else { break };
            seen.push(Seen::Frame(frame.to_vec()));
            stream = rest;
            continue;
        }
        let head_bytes = announced.min(OVERSIZE_HEAD_BYTES);
        let head = &behind[..behind.len().min(head_bytes)];
        let is_ours = match head.iter().find(|byte| !b" \t\r\n".contains(byte)) {
            Some(b'{') | None => true,
            Some(0x80..=0x8f | 0xde | 0xdf | 0xb2) => !b" \t\r\n".contains(&head[0]),
            Some(_) => false,
        };
        if announced > OVERSIZE_BYTES_MAX || !is_ours {
            return (seen, StreamEnd::Broken);
        }
        if head.len() < head_bytes {
            break;
        }
        seen.push(Seen::Oversize(Oversize { announced, head: stream[..FRAME_PREFIX_BYTES + head_bytes].to_vec() }));
        match behind.split_at_checked(announced) {
            Some((_, rest)) => stream = rest,
            None => return (seen, StreamEnd::Skipping(announced - behind.len())),
        }
    }
    (seen, StreamEnd::Partial(stream))
}

fn rewritten(body: &[u8]) {
    let Ok(header) = scan(body) else { return };
    for target in [Encoding::Json, Encoding::Msgpack] {
        let mut out = Vec::new();
        match rewrite(body, header.encoding, target, &[], &mut out) {
            Ok(()) => {}
            // A bin becomes an object with an array in it.
            Err(TranscodeError::TooDeep { .. }) if header.encoding != target => continue,
            Err(error) => panic!("accepted, but {error}"),
        }
        if target == header.encoding {
            assert_eq!(out, body, "nothing was to be changed");
            continue;
        }
        let copy = scan(&out).unwrap_or_else(|error| panic!("rewritten as {}: {error}", out.escape_ascii()));
        assert_eq!(copy.kind, header.kind);
        assert_eq!(copy.status, header.status);
        for (copy, header) in [
            (&copy.id, &header.id),
            (&copy.from, &header.from),
            (&copy.to, &header.to),
            (&copy.method, &header.method),
            (&copy.service_name, &header.service_name),
        ] {
            assert_eq!(copy.as_ref().map(|text| &text.value), header.as_ref().map(|text| &text.value));
        }
        // A bin, which is no context, becomes an object, which is one.
        assert!(copy.context.is_some() || header.context.is_none());
    }
}

fn whole_message(body: &[u8]) {
    if let Ok(header) = scan(body) {
        let payload = |span: &std::ops::Range<usize>| Payload { encoding: header.encoding, bytes: &body[span.clone()] };
        for span in
            [&header.params, &header.data, &header.error, &header.metadata, &header.methods].into_iter().flatten()
        {
            let mut out = Vec::new();
            // What is deep, large or lossy may fail; nothing may panic.
            let _ = transcode(payload(span), Encoding::Json, &mut out);
            let _ = decode::to_json(payload(span));
            let _ = decode::error_body(payload(span));
            let _ = decode::methods(payload(span));
        }
        if let Some(context) = &header.context {
            let _ = decode::context(body, context, header.encoding);
        }
    }
    let mut frame = u32::try_from(body.len()).expect("inputs are short").to_be_bytes().to_vec();
    frame.extend_from_slice(body);
    if let Ok(decoded) = message::deserialize(&frame) {
        let _ = message::validate_message(&decoded);
        let _ = message::format_message_for_log(&decoded);
        for encoding in [Encoding::Json, Encoding::Msgpack] {
            if let Ok(again) = message::serialize(&decoded, encoding) {
                message::deserialize(&again).expect("what was written can be read");
            }
        }
    }
}
