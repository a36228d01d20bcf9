//! Runs every vector of `conformance/vectors` (see `conformance/README.md`) through the whole crate.

#![allow(clippy::cast_possible_truncation, reason = "tests know their numbers")]

use bro_proto::frame::{Deframer, FrameError};
use bro_proto::limits::FRAME_BYTES_MAX;
use bro_proto::v1::message::{self, Message};
use bro_proto::v1::rewrite::{TranscodeError, rewrite, transcode};
use bro_proto::v1::{Encoding, Header, Kind, Payload, ScanError, Status, Text, decode, scan, scan_beginning};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Vector {
    name: String,
    encoding: Option<String>,
    hex: String,
    json: Option<String>,
    msgpack: Option<String>,
    error: Option<String>,
    refused: Option<String>,
    body_bytes_max: Option<usize>,
    frames: Option<Vec<String>>,
    rest: Option<String>,
    #[serde(rename = "note")]
    _note: Option<String>,
}

impl Vector {
    fn encoding(&self) -> Encoding {
        match self.encoding.as_deref() {
            Some("json") => Encoding::Json,
            Some("msgpack") => Encoding::Msgpack,
            other => panic!("{}: encoding {other:?}", self.name),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        unhex(&self.hex)
    }

    /// The other encoding, and what this vector becomes there.
    fn transcoded(&self) -> (Encoding, Vec<u8>) {
        match (&self.json, &self.msgpack) {
            (Some(text), None) => (Encoding::Json, text.clone().into_bytes()),
            (None, Some(hex)) => (Encoding::Msgpack, unhex(hex)),
            _ => panic!("{}: either json or msgpack", self.name),
        }
    }
}

/// The vectors of one file, and a floor for their number: an empty file must not pass.
fn vectors(text: &str, at_least: usize) -> Vec<Vector> {
    let vectors: Vec<Vector> = serde_json::from_str(text).unwrap();
    assert!(vectors.len() >= at_least, "{} vectors, expected at least {at_least}", vectors.len());
    vectors
}

macro_rules! file {
    ($name:literal) => {
        include_str!(concat!("../../../conformance/vectors/", $name, ".json"))
    };
}

fn unhex(hex: &str) -> Vec<u8> {
    assert_eq!(hex.len() % 2, 0);
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    frame.extend_from_slice(body);
    frame
}

/// All frames that a deframer finds when the stream arrives in pieces of `step` bytes.
fn deframe(stream: &[u8], step: usize, body_bytes_max: usize) -> Result<(Vec<Vec<u8>>, bool), FrameError> {
    let mut deframer = Deframer::new();
    let mut found = Vec::new();
    for piece in stream.chunks(step) {
        let mut frames = deframer.start(piece, body_bytes_max);
        while let Some(frame) = frames.next_frame()? {
            found.push(frame.to_vec());
        }
    }
    Ok((found, deframer.is_mid_frame()))
}

fn error_name(error: &ScanError) -> &'static str {
    match error {
        ScanError::UnknownEncoding => "UnknownEncoding",
        ScanError::Truncated => "Truncated",
        ScanError::Malformed { .. } => "Malformed",
        ScanError::TrailingBytes { .. } => "TrailingBytes",
        ScanError::InvalidUtf8 { .. } => "InvalidUtf8",
        ScanError::TooDeep { .. } => "TooDeep",
        ScanError::DuplicateKey { .. } => "DuplicateKey",
        ScanError::UnusualKey { .. } => "UnusualKey",
        ScanError::WrongType { .. } => "WrongType",
        ScanError::RecordExtension { .. } => "RecordExtension",
    }
}

fn text<'t>(text: &'t Option<Text<'_>>) -> Option<&'t str> {
    text.as_ref().map(|text| text.value.as_ref())
}

/// Everything in a header but the spans, for comparing the two encodings of one message.
fn meaning(header: &Header<'_>) -> impl PartialEq + std::fmt::Debug {
    let texts = [&header.id, &header.from, &header.to, &header.method, &header.service_name, &header.version];
    let context = header
        .context
        .as_ref()
        .map(|context| (text(&context.root).map(str::to_owned), context.chain_len, context.depth, context.deadline_ms));
    (
        header.kind,
        header.status,
        texts.map(|field| text(field).map(str::to_owned)),
        [&header.methods, &header.metadata, &header.params, &header.data, &header.error].map(Option::is_some),
        context,
        header.timestamp_ms,
    )
}

/// Compares a header with what serde_json sees in the same message as JSON.
fn check_header(name: &str, header: &Header<'_>, body: &[u8], message: &Value) {
    let string = |key: &str| message[key].as_str();
    let kind = match string("type").unwrap() {
        "REGISTER" => Kind::Register,
        "REGISTER_ACK" => Kind::RegisterAck,
        "CALL" => Kind::Call,
        "RESPONSE" => Kind::Response,
        "HEARTBEAT" => Kind::Heartbeat,
        "ERROR" => Kind::Error,
        _ => Kind::Unknown,
    };
    assert_eq!(header.kind, kind, "{name}");
    for (field, key) in [
        (&header.id, "id"),
        (&header.from, "from"),
        (&header.to, "to"),
        (&header.method, "method"),
        (&header.service_name, "serviceName"),
        (&header.version, "version"),
    ] {
        assert_eq!(text(field), string(key), "{name}: {key}");
    }
    for (span, key) in [
        (&header.methods, "methods"),
        (&header.metadata, "metadata"),
        (&header.params, "params"),
        (&header.data, "data"),
        (&header.error, "error"),
    ] {
        let found = span
            .clone()
            .map(|span| decode::to_json(Payload { encoding: header.encoding, bytes: &body[span] }).unwrap());
        assert_eq!(found.as_ref(), message.get(key), "{name}: {key}");
    }
    let status = match string("status") {
        Some("success") => Some(Status::Success),
        Some("error") => Some(Status::Error),
        _ => None,
    };
    assert_eq!(header.status, status, "{name}");
    let number = |value: &Value| value.as_f64().map(|number| number as u64);
    assert_eq!(header.timestamp_ms, number(&message["timestamp"]), "{name}");
    let context = &message["context"];
    assert_eq!(header.context.is_some(), context.is_object(), "{name}");
    if let Some(found) = &header.context {
        assert_eq!(text(&found.root), context["root"].as_str(), "{name}");
        assert_eq!(found.chain_len, context["chain"].as_array().map_or(0, Vec::len), "{name}");
        assert_eq!(found.depth.map(u64::from), number(&context["depth"]), "{name}");
        assert_eq!(found.deadline_ms, number(&context["deadline"]), "{name}");
    }
}

/// What is read of the beginning of a body is what is read of the whole, or nothing. Every field is seen as soon as it is there.
fn check_beginnings(name: &str, header: &Header<'_>, body: &[u8]) {
    for cut in 0..=body.len() {
        let Some(begun) = scan_beginning(&body[..cut]) else { continue };
        assert_eq!(begun.kind, header.kind, "{name}: {cut}");
        for (part, whole) in [(&begun.id, &header.id), (&begun.from, &header.from), (&begun.to, &header.to)] {
            assert!(part.is_none() || part == whole, "{name}: {cut}");
            let is_there = whole.as_ref().is_some_and(|text| text.span.end < cut);
            assert!(part.is_some() || !is_there, "{name}: {cut}");
        }
        assert!(begun.context.is_none() || begun.context == header.context, "{name}: {cut}");
    }
    assert_eq!(scan_beginning(body).is_some(), header.kind != Kind::Unknown, "{name}");
}

/// A good body: read, compared with serde_json, carried to the other encoding, and built anew.
fn check_good(vector: &Vector) {
    let name = &vector.name;
    let body = vector.bytes();
    let (target, expected) = vector.transcoded();
    let (frames, is_mid_frame) = deframe(&framed(&body), 7, FRAME_BYTES_MAX).unwrap();
    assert_eq!((frames, is_mid_frame), (vec![framed(&body)], false), "{name}");

    let header = scan(&body).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(header.encoding, vector.encoding(), "{name}");
    let json = if target == Encoding::Json { expected.as_slice() } else { body.as_slice() };
    let value = decode::to_json(Payload { encoding: Encoding::Json, bytes: json }).unwrap();
    check_header(name, &header, &body, &value);
    check_beginnings(name, &header, &body);

    let mut other = Vec::new();
    rewrite(&body, header.encoding, target, &[], &mut other).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(
        other,
        expected,
        "{name}: {} for {}",
        String::from_utf8_lossy(&other),
        String::from_utf8_lossy(&expected)
    );
    let other_header = scan(&other).unwrap_or_else(|error| panic!("{name}, transcoded: {error}"));
    assert_eq!(meaning(&other_header), meaning(&header), "{name}");

    match (message::deserialize(&framed(&body)), &vector.refused) {
        (Ok(message), None) => check_message(name, &message, &value),
        (Err(error), Some(code)) => assert_eq!(error.code.unwrap().as_str(), code, "{name}: {}", error.message),
        (Ok(message), Some(code)) => panic!("{name}: {code} expected, not {message:?}"),
        (Err(error), None) => panic!("{name}: {}", error.message),
    }
}

fn check_message(name: &str, message: &Message, value: &Value) {
    message::validate_message(message).unwrap_or_else(|error| panic!("{name}: {}", error.message));
    assert!(message::format_message_for_log(message).starts_with(value["type"].as_str().unwrap()), "{name}");
    for encoding in [Encoding::Json, Encoding::Msgpack] {
        let frame = message::serialize(message, encoding).unwrap();
        assert!(message::has_complete_message(&frame));
        assert_eq!(scan(&frame[4..]).unwrap().encoding, encoding, "{name}");
        let again = message::deserialize(&frame).unwrap_or_else(|error| panic!("{name}: {}", error.message));
        // As documented, msgpack that we write holds integers beyond 2^53 no more exactly than JavaScript does.
        if encoding == Encoding::Json || !name.starts_with("BigInt") {
            assert_eq!(again, *message, "{name}, by way of {encoding:?}");
        }
    }
}

#[test]
fn every_v1_message_is_understood_in_both_encodings() {
    let vectors = vectors(file!("messages"), 60);
    for vector in &vectors {
        check_good(vector);
    }
    for kind in ["REGISTER", "REGISTER_ACK", "CALL", "RESPONSE", "HEARTBEAT", "ERROR"] {
        for encoding in ["json", "msgpack"] {
            let of_kind = |vector: &&Vector| {
                vector.encoding.as_deref() == Some(encoding) && vector.name.split([' ', ',']).next() == Some(kind)
            };
            assert!(vectors.iter().any(|vector| of_kind(&vector)), "no {encoding} vector for {kind}");
        }
    }
}

#[test]
fn what_msgpackr_writes_is_understood() {
    vectors(file!("msgpackr"), 30).iter().for_each(check_good);
}

#[test]
fn bad_bodies_are_refused_for_the_right_reason() {
    let mut refused_by_scan = 0;
    for vector in vectors(file!("bad"), 110) {
        let Some(class) = &vector.error else {
            assert!(vector.refused.is_some(), "{}", vector.name);
            check_good(&vector);
            continue;
        };
        refused_by_scan += 1;
        let body = vector.bytes();
        match scan(&body) {
            Ok(header) => panic!("{}: {class} expected, not {header:?}", vector.name),
            Err(error) => assert_eq!(error_name(&error), class, "{}: {error}", vector.name),
        }
        let error = message::deserialize(&framed(&body)).unwrap_err();
        let code = if class == "RecordExtension" { "DESERIALIZATION_FAILED" } else { "INVALID_MESSAGE" };
        assert_eq!(error.code.unwrap().as_str(), code, "{}", vector.name);
        // Whatever it is, transcoding it must end, and must not panic.
        for (source, target) in [(Encoding::Json, Encoding::Msgpack), (Encoding::Msgpack, Encoding::Json)] {
            let mut out = vec![1];
            if rewrite(&body, source, target, &[], &mut out).is_err() {
                assert_eq!(out, [1], "{}: nothing is left behind after an error", vector.name);
            }
        }
    }
    assert!(refused_by_scan >= 70, "{refused_by_scan} vectors are refused by the scan");
}

#[test]
fn payloads_become_what_the_rules_say() {
    for vector in vectors(file!("values"), 40) {
        let payload_bytes = vector.bytes();
        let payload = Payload { encoding: vector.encoding(), bytes: &payload_bytes };
        let mut out = Vec::new();
        if let Some(class) = &vector.error {
            let target = if payload.encoding == Encoding::Json { Encoding::Msgpack } else { Encoding::Json };
            let error = match transcode(payload, target, &mut out).unwrap_err() {
                TranscodeError::Malformed { .. } => "Malformed",
                TranscodeError::TooDeep { .. } => "TooDeep",
                TranscodeError::TooLarge { .. } => "TooLarge",
            };
            assert_eq!(error, class, "{}", vector.name);
            assert!(out.is_empty(), "{}", vector.name);
            continue;
        }
        let (target, expected) = vector.transcoded();
        transcode(payload, target, &mut out).unwrap_or_else(|error| panic!("{}: {error}", vector.name));
        assert_eq!(
            out,
            expected,
            "{}: {} for {}",
            vector.name,
            String::from_utf8_lossy(&out),
            String::from_utf8_lossy(&expected)
        );
    }
}

#[test]
fn streams_are_cut_into_frames() {
    for vector in vectors(file!("frames"), 10) {
        let (stream, limit) = (vector.bytes(), vector.body_bytes_max.unwrap());
        let split = message::split_messages(&stream, limit);
        if let Some(class) = &vector.error {
            assert_eq!(class, "TooLarge", "{}", vector.name);
            assert!(matches!(split, Err(FrameError::TooLarge { .. })), "{}", vector.name);
            assert!(matches!(deframe(&stream, 3, limit), Err(FrameError::TooLarge { .. })), "{}", vector.name);
            continue;
        }
        let frames: Vec<Vec<u8>> = vector.frames.iter().flatten().map(|frame| unhex(frame)).collect();
        let rest = unhex(vector.rest.as_deref().unwrap());
        let split = split.unwrap();
        assert_eq!((split.frames.as_slice(), split.rest), (as_slices(&frames).as_slice(), rest.as_slice()));
        for step in [1, 2, 3, 5, 1000] {
            let found = deframe(&stream, step, limit).unwrap();
            assert_eq!(found, (frames.clone(), !rest.is_empty()), "{} in steps of {step}", vector.name);
        }
    }
}

fn as_slices(frames: &[Vec<u8>]) -> Vec<&[u8]> {
    frames.iter().map(Vec::as_slice).collect()
}
