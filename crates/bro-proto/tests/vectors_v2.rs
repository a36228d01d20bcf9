//! Runs every vector of `conformance/vectors/v2.json` (see `conformance/README.md`) through the v2 codec, and through the slow reader
//! that the fuzz targets and the simulation trust.

#[path = "oracle/v2.rs"]
mod oracle;

use bro_proto::limits::CONTEXT_BYTES_MAX;
use bro_proto::v2::encode::{self, CallHead};
use bro_proto::v2::{self, Codec, Failure, Frame, FrameKind, WireError, section};
use oracle::{Body, Wrong};
use serde::Deserialize;
use std::collections::BTreeSet;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Vector {
    name: String,
    hex: String,
    frame: Option<Expected>,
    error: Option<String>,
    /// Whether writing the frame gives the same bytes.
    #[serde(default = "yes")]
    is_exact: bool,
    #[serde(rename = "note")]
    _note: Option<String>,
}

/// A frame as the vectors tell it. Numbers of 64 bits are texts, since not every language has them.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(tag = "kind", rename_all = "SCREAMING_SNAKE_CASE", rename_all_fields = "camelCase", deny_unknown_fields)]
enum Expected {
    Call(Asked),
    Notify(Asked),
    Response { flags: u8, codec: u8, id: String, payload: String },
    Error { flags: u8, id: String, code: String, message: String, stack: String },
    Cancel { flags: u8, id: String },
    Resolve { flags: u8, id: String, name: String },
    Name { flags: u8, id: String, name: String },
    Ping { flags: u8, id: String },
    Pong { flags: u8, id: String },
    Drain { flags: u8, id: String },
    Stats { flags: u8, id: String, payload: String },
    LaneOffer { flags: u8, id: String, payload: String },
    LaneReady { flags: u8, id: String, payload: String },
    LaneClose { flags: u8, id: String, payload: String },
    Ignored,
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Asked {
    flags: u8,
    codec: u8,
    id: String,
    origin: String,
    root: String,
    peer: u32,
    timeout_ms: u32,
    method: String,
    section: Option<Context>,
    payload: String,
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Context {
    root: String,
    chain: Vec<String>,
    depth: u32,
}

fn yes() -> bool {
    true
}

fn vectors() -> Vec<Vector> {
    serde_json::from_str(include_str!("../../../conformance/vectors/v2.json")).unwrap()
}

fn unhex(hex: &str) -> Vec<u8> {
    assert_eq!(hex.len() % 2, 0);
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A frame as the vectors would tell it.
fn told(frame: &Frame<'_>) -> Expected {
    let flags = 0;
    let other = |kind, id: &u64, payload: &[u8]| {
        let (id, payload) = (id.to_string(), hex(payload));
        match kind {
            FrameKind::Stats => Expected::Stats { flags, id, payload },
            FrameKind::LaneOffer => Expected::LaneOffer { flags, id, payload },
            FrameKind::LaneReady => Expected::LaneReady { flags, id, payload },
            FrameKind::LaneClose => Expected::LaneClose { flags, id, payload },
            kind => panic!("{kind:?} has a meaning of its own"),
        }
    };
    match frame {
        Frame::Call(call) => Expected::Call(asked(call)),
        Frame::Notify(call) => Expected::Notify(asked(call)),
        Frame::Response { id, codec, payload } => {
            Expected::Response { flags, codec: codec.0, id: id.to_string(), payload: hex(payload) }
        }
        Frame::Error { id, is_from_gateway, failure: Failure { code, message, stack } } => {
            let [code, message, stack] = [code, message, stack].map(|text| (*text).to_owned());
            Expected::Error { flags: u8::from(*is_from_gateway), id: id.to_string(), code, message, stack }
        }
        Frame::Cancel { id, reason } => {
            let flags = match reason {
                v2::CancelReason::Cancelled => 0,
                v2::CancelReason::Deadline => 1,
                v2::CancelReason::CallerGone => 2,
            };
            Expected::Cancel { flags, id: id.to_string() }
        }
        Frame::Resolve { route, service } => {
            Expected::Resolve { flags, id: route.to_string(), name: (*service).to_owned() }
        }
        Frame::Name { number, service, forgets } => {
            Expected::Name { flags: u8::from(*forgets), id: number.to_string(), name: (*service).to_owned() }
        }
        Frame::Ping { id } => Expected::Ping { flags, id: id.to_string() },
        Frame::Pong { id } => Expected::Pong { flags, id: id.to_string() },
        Frame::Drain => Expected::Drain { flags, id: "0".to_owned() },
        Frame::Other { kind, id, payload } => other(*kind, id, payload),
        Frame::Ignored => Expected::Ignored,
    }
}

fn asked(call: &v2::Call<'_>) -> Asked {
    Asked {
        flags: 0,
        codec: call.codec.0,
        id: call.id.to_string(),
        origin: call.origin.to_string(),
        root: call.root.to_string(),
        peer: call.peer,
        timeout_ms: call.timeout_ms,
        method: call.method.to_owned(),
        section: call.section.map(|section| Context {
            root: section.root.to_owned(),
            chain: section.chain().map(str::to_owned).collect(),
            depth: section.depth,
        }),
        payload: hex(call.payload),
    }
}

/// Writes what was read.
fn written(frame: &Frame<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut write_call = |kind, call: &v2::Call<'_>| {
        let v2::Call { id, origin, root, peer, timeout_ms, method, codec, .. } = *call;
        let mut section_bytes = Vec::new();
        if let Some(section) = call.section {
            let chain: Vec<&str> = section.chain().collect();
            section::write(&mut section_bytes, section.root, section.depth, chain.into_iter()).unwrap();
        }
        let head = CallHead { kind, id, origin, root, peer, timeout_ms, method, section: &section_bytes, codec };
        encode::call_head(&mut out, &head, call.payload.len());
        out.extend_from_slice(call.payload);
    };
    match *frame {
        Frame::Call(call) => write_call(FrameKind::Call, &call),
        Frame::Notify(call) => write_call(FrameKind::Notify, &call),
        Frame::Response { id, codec, payload } => {
            encode::response_head(&mut out, id, codec, payload.len());
            out.extend_from_slice(payload);
        }
        Frame::Error { id, is_from_gateway, failure } => {
            encode::error(&mut out, id, &failure.to_body(), is_from_gateway);
        }
        Frame::Cancel { id, reason } => encode::cancel(&mut out, id, reason),
        Frame::Resolve { route, service } => encode::resolve(&mut out, u32::try_from(route).unwrap(), service),
        Frame::Name { number, service, forgets } => {
            encode::name(&mut out, u32::try_from(number).unwrap(), service, forgets);
        }
        Frame::Ping { id } => encode::bare(&mut out, FrameKind::Ping, id),
        Frame::Pong { id } => encode::bare(&mut out, FrameKind::Pong, id),
        Frame::Drain => encode::bare(&mut out, FrameKind::Drain, 0),
        Frame::Other { kind, id, payload } => encode::other(&mut out, kind, id, payload),
        Frame::Ignored => {}
    }
    out
}

#[test]
fn good_frames_are_read_and_written_as_the_protocol_says() {
    let mut kinds = BTreeSet::new();
    for vector in vectors() {
        let Some(expected) = &vector.frame else { continue };
        let (name, bytes) = (&vector.name, unhex(&vector.hex));
        assert!(v2::is_v2(&bytes), "{name}");
        let frame = v2::parse(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(told(&frame), *expected, "{name}");
        if vector.is_exact {
            assert_eq!(hex(&written(&frame)), vector.hex, "{name}");
        }
        let slowly = oracle::read(&bytes).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        if vector.is_exact {
            assert_eq!(hex(&oracle::write(&slowly)), vector.hex, "{name}, by the slow writer");
        }
        if let (Frame::Call(call) | Frame::Notify(call), Body::Call(slow)) = (&frame, &slowly.body) {
            assert_eq!(call.payload, slow.payload, "{name}");
            assert_eq!(&bytes[call.payload_at..], call.payload, "{name}");
        }
        kinds.insert(slowly.kind);
    }
    assert!([1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 16, 17, 18].iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
}

#[test]
fn bad_frames_are_refused_for_the_right_reason() {
    let mut refused = 0;
    for Vector { name, hex, frame, error, .. } in vectors() {
        let Some(class) = error else {
            assert!(frame.is_some(), "{name} says nothing");
            continue;
        };
        let bytes = unhex(&hex);
        let seen = match v2::parse(&bytes).expect_err(&name) {
            WireError::Short { bytes: all } => {
                assert_eq!(all, bytes.len(), "{name}");
                "Short"
            }
            WireError::UnknownKind { kind } => {
                assert_eq!(kind, bytes[5], "{name}");
                "UnknownKind"
            }
            WireError::BadName => "BadName",
            WireError::BadContext => "BadContext",
            WireError::BadText => "BadText",
        };
        let slowly = match oracle::read(&bytes).expect_err(&name) {
            Wrong::Short => "Short",
            Wrong::Kind => "UnknownKind",
            Wrong::Name => "BadName",
            Wrong::Context => "BadContext",
            Wrong::Text => "BadText",
        };
        assert_eq!((seen, slowly), (class.as_str(), class.as_str()), "{name}");
        refused += 1;
    }
    assert!(refused >= 40, "{refused} vectors are refused");
}

/// Too long for a file of vectors.
#[test]
fn a_section_has_64_kib_at_most() {
    let root = "r".repeat(255);
    for (names, is_good) in [(253, true), (254, false)] {
        let section = oracle::Section { root: root.clone(), chain: vec!["n".repeat(255); names], depth: 1 };
        let bytes = oracle::write_section(&section);
        assert_eq!(bytes.len() <= CONTEXT_BYTES_MAX, is_good);
        assert_eq!(v2::Section::parse(&bytes).is_ok(), is_good);
        let call = oracle::Call {
            origin: 0,
            root: 0,
            peer: 0,
            timeout_ms: 0,
            method: "m".to_owned(),
            section: Some(section),
            payload: Vec::new(),
        };
        let codec = Codec::ABSENT.0;
        let frame = oracle::Frame { kind: oracle::CALL, flags: 0, codec, id: 1, body: Body::Call(call) };
        let bytes = oracle::write(&frame);
        assert_eq!(v2::parse(&bytes).is_ok(), is_good);
        assert_eq!(oracle::read(&bytes).is_ok(), is_good);
    }
}
