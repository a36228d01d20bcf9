//! Frames as they are built, and their small parts as they are read.

#![allow(clippy::cast_possible_truncation, reason = "tests know their numbers")]

use bro_proto::context::CallContext;
use bro_proto::error::{ErrorBody, ErrorCode};
use bro_proto::limits::{CHAIN_LEN_MAX, METHODS_MAX};
use bro_proto::v1::encode::*;
use bro_proto::v1::rewrite::TranscodeError;
use bro_proto::v1::{Encoding, Payload, decode, scan};
use serde_json::{Value, json};

const BOTH: [Encoding; 2] = [Encoding::Json, Encoding::Msgpack];
const NOW_MS: u64 = 1_699_005_123_456;

fn json_payload(text: &str) -> Payload<'_> {
    Payload { encoding: Encoding::Json, bytes: text.as_bytes() }
}

const NOTHING: Payload<'static> = Payload { encoding: Encoding::Json, bytes: &[] };

fn context() -> CallContext {
    let chain = vec!["order".into(), "us\"er".into()];
    CallContext { root: "root-1".into(), chain, depth: 2, deadline_ms: NOW_MS }
}

fn context_json() -> Value {
    json!({"root": "root-1", "chain": ["order", "us\"er"], "depth": 2, "deadline": NOW_MS})
}

/// Independent of the encoders and of the transcoder: by serde_json or rmp-serde.
fn parsed(frame: &[u8], encoding: Encoding) -> Value {
    let (prefix, body) = frame.split_first_chunk().unwrap();
    assert_eq!(u32::from_be_bytes(*prefix) as usize, body.len());
    assert_eq!(scan(body).unwrap().encoding, encoding);
    let value = match encoding {
        Encoding::Json => serde_json::from_slice(body).unwrap(),
        Encoding::Msgpack => rmp_serde::from_slice(body).unwrap(),
    };
    integers(value)
}

/// Floats that are integers as such: in msgpack, large integers travel as float64.
fn integers(value: Value) -> Value {
    match value {
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 && float >= 0.0 => json!(float as u64),
            _ => Value::Number(number),
        },
        Value::Array(elements) => elements.into_iter().map(integers).collect(),
        Value::Object(members) => {
            Value::Object(members.into_iter().map(|(key, value)| (key, integers(value))).collect())
        }
        other => other,
    }
}

fn encoded(encoding: Encoding, write: impl FnOnce(&mut Vec<u8>)) -> Value {
    let mut out = b"before".to_vec();
    write(&mut out);
    assert_eq!(&out[..6], b"before");
    parsed(&out[6..], encoding)
}

#[test]
fn calls_have_the_fields_of_the_wire() {
    let owned = context();
    let mut msgpack_context = Vec::new();
    write_context(&mut msgpack_context, Encoding::Msgpack, &owned);
    let carried = Payload { encoding: Encoding::Msgpack, bytes: &msgpack_context };
    for encoding in BOTH {
        for context in [ContextSource::Owned(&owned), ContextSource::Encoded(carried)] {
            let params = json_payload(r#" {"a": [1, 2.5, "\u00e9"]} "#);
            let call = CallFields { id: "req-1", from: "order", to: "us\"er", method: "find\n", params, context };
            assert_eq!(
                encoded(encoding, |out| encode_call(out, encoding, &call).unwrap()),
                json!({
                    "type": "CALL", "id": "req-1", "from": "order", "to": "us\"er", "method": "find\n",
                    "params": {"a": [1, 2.5, "é"]}, "context": context_json(),
                })
            );
        }
        let bare = CallFields {
            id: "1",
            from: "a",
            to: "b",
            method: "c",
            params: NOTHING,
            context: ContextSource::Encoded(NOTHING),
        };
        assert_eq!(
            encoded(encoding, |out| encode_call(out, encoding, &bare).unwrap()),
            json!({"type": "CALL", "id": "1", "from": "a", "to": "b", "method": "c"})
        );
    }
}

#[test]
fn responses_have_the_fields_of_the_wire() {
    let owned = context();
    let error =
        ErrorBody { message: "none left".into(), code: Some("OUT_OF_STOCK".into()), stack: Some("at x".into()) };
    let plain = ErrorBody { message: "boom".into(), code: None, stack: None };
    for encoding in BOTH {
        let base = json!({"type": "RESPONSE", "id": "1", "from": "b", "to": "a"});
        for (outcome, context, more) in [
            (Outcome::Success(json_payload("[1]")), None, json!({"status": "success", "data": [1]})),
            (Outcome::Success(json_payload("null")), None, json!({"status": "success", "data": null})),
            (Outcome::Success(NOTHING), None, json!({"status": "success"})),
            (
                Outcome::Success(NOTHING),
                Some(ContextSource::Owned(&owned)),
                json!({"status": "success", "context": context_json()}),
            ),
            (Outcome::Success(NOTHING), Some(ContextSource::Encoded(NOTHING)), json!({"status": "success"})),
            (
                Outcome::Error(&error),
                None,
                json!({"status": "error", "error": {"message": "none left", "code": "OUT_OF_STOCK", "stack": "at x"}}),
            ),
            (Outcome::Error(&plain), None, json!({"status": "error", "error": {"message": "boom"}})),
        ] {
            let response = ResponseFields { id: "1", from: "b", to: "a", outcome, context };
            let mut expected = base.clone();
            expected.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            assert_eq!(encoded(encoding, |out| encode_response(out, encoding, &response).unwrap()), expected);
        }
    }
}

#[test]
fn the_other_messages_have_the_fields_of_the_wire() {
    let methods: Vec<Box<str>> = vec!["create".into(), "li\\st".into()];
    let error = ErrorBody::new(ErrorCode::DuplicateService, "taken");
    for encoding in BOTH {
        let register = RegisterFields { service_name: "order", methods: &methods, version: "1.0.0", metadata: NOTHING };
        assert_eq!(
            encoded(encoding, |out| encode_register(out, encoding, &register).unwrap()),
            json!({
                "type": "REGISTER", "serviceName": "order", "methods": ["create", "li\\st"], "version": "1.0.0",
                "metadata": {},
            })
        );
        let pooled =
            RegisterFields { methods: &[], metadata: json_payload(r#"{"poolIndex":0,"poolSize":2}"#), ..register };
        assert_eq!(
            encoded(encoding, |out| encode_register(out, encoding, &pooled).unwrap())["metadata"],
            json!({"poolIndex": 0, "poolSize": 2})
        );
        assert_eq!(
            encoded(encoding, |out| encode_register_ack(out, encoding, None, None)),
            json!({"type": "REGISTER_ACK"})
        );
        let marked = encoded(encoding, |out| encode_register_ack(out, encoding, Some("bro.gateway"), None));
        assert_eq!(marked, json!({"type": "REGISTER_ACK", "from": "bro.gateway"}));
        assert_eq!(
            encoded(encoding, |out| encode_heartbeat(out, encoding, "order", NOW_MS)),
            json!({"type": "HEARTBEAT", "from": "order", "timestamp": NOW_MS})
        );
        let notice = json!({"message": "taken", "code": "DUPLICATE_SERVICE"});
        assert_eq!(
            encoded(encoding, |out| encode_error(out, encoding, None, &error, NOW_MS)),
            json!({"type": "ERROR", "error": notice, "timestamp": NOW_MS})
        );
        assert_eq!(
            encoded(encoding, |out| encode_error(out, encoding, Some("req-1"), &error, NOW_MS)),
            json!({"type": "ERROR", "id": "req-1", "error": notice, "timestamp": NOW_MS})
        );
    }
}

#[test]
fn large_integers_are_float64_in_msgpack() {
    for (value, marker) in [(0, 0x00), (0x7f, 0x7f), (0x80, 0xcc), (0x100, 0xcd), (0x1_0000, 0xce)] {
        assert_eq!(timestamp_marker(value), marker, "{value}");
    }
    for value in [1 << 32, NOW_MS, u64::MAX] {
        assert_eq!(timestamp_marker(value), 0xcb, "{value} would be a BigInt in JavaScript");
    }
}

fn timestamp_marker(timestamp_ms: u64) -> u8 {
    let mut out = Vec::new();
    encode_heartbeat(&mut out, Encoding::Msgpack, "a", timestamp_ms);
    let at = out.windows(9).position(|window| window == b"timestamp").unwrap() + 9;
    out[at]
}

#[test]
fn after_an_error_nothing_was_written() {
    let mut out = b"before".to_vec();
    let params = json_payload("[1,");
    let context = ContextSource::Encoded(NOTHING);
    let call = CallFields { id: "1", from: "a", to: "b", method: "c", params, context };
    let refused = encode_call(&mut out, Encoding::Msgpack, &call);
    assert!(matches!(refused, Err(TranscodeError::Malformed { .. })));
    assert_eq!(out, b"before");
}

#[test]
fn json_strings_are_escaped_as_serde_json_does() {
    for text in ["", "plain", "\u{0}\u{1}\u{8}\t\n\u{b}\u{c}\r\u{1f} \"\\/\u{7f}\u{2028}é😀"] {
        let mut out = Vec::new();
        write_json_string(&mut out, text);
        assert_eq!(String::from_utf8(out).unwrap(), serde_json::to_string(text).unwrap());
    }
}

fn read_context(context: &Value, encoding: Encoding) -> Result<CallContext, ErrorBody> {
    let text = json!({"type": "CALL", "context": context}).to_string();
    let mut body = Vec::new();
    bro_proto::v1::rewrite::transcode(json_payload(&text), encoding, &mut body).unwrap();
    let header = scan(&body).unwrap();
    decode::context(&body, &header.context.unwrap(), encoding)
}

#[test]
fn a_context_is_read_back_or_refused() {
    for encoding in BOTH {
        assert_eq!(read_context(&context_json(), encoding), Ok(context()));
        let long_chain = vec!["a"; CHAIN_LEN_MAX + 1];
        for (field, value) in [
            ("root", json!(null)),
            ("root", json!("")),
            ("root", json!("r".repeat(256))),
            ("chain", json!({})),
            ("chain", json!([])),
            ("chain", json!(["a", null])),
            ("chain", json!(long_chain)),
            ("depth", json!("2")),
            ("depth", json!(-1)),
            ("depth", json!(0.5)),
            ("deadline", json!([1])),
            ("deadline", json!(-5)),
        ] {
            let mut bad = context_json();
            bad[field] = value;
            let error = read_context(&bad, encoding).unwrap_err();
            assert_eq!(error.code, Some(ErrorCode::InvalidContext), "{bad}");
            assert!(error.message.contains(field), "{} names {field}", error.message);
        }
    }
}

#[test]
fn errors_are_read_whatever_they_look_like() {
    let body = |message: &str, code: Option<&str>, stack: Option<&str>| ErrorBody {
        message: message.into(),
        code: code.map(ErrorCode::from),
        stack: stack.map(str::to_owned),
    };
    for (text, expected) in [
        (r#"{"message":"m","code":"TIMEOUT","stack":"s"}"#, body("m", Some("TIMEOUT"), Some("s"))),
        (r#"{"message":"m","code":null,"stack":null}"#, body("m", None, None)),
        (r#"{"message":"m","code":42}"#, body("m", Some("42"), None)),
        (r#"{"message":"m","code":""}"#, body("m", None, None)),
        (r#"{"message":{"why":1}}"#, body(r#"{"why":1}"#, None, None)),
        (r#"{"message":"\ud800"}"#, body("\u{fffd}", None, None)),
        ("{}", body("unknown error", None, None)),
        ("null", body("unknown error", None, None)),
        (r#""thrown text""#, body("thrown text", None, None)),
        ("[1,2]", body("[1,2]", None, None)),
        ("false", body("false", None, None)),
        ("{broken", body("unknown error", None, None)),
        ("", body("unknown error", None, None)),
    ] {
        assert_eq!(decode::error_body(json_payload(text)), expected, "{text}");
    }
    assert_eq!(ErrorCode::from("TIMEOUT"), ErrorCode::Timeout);
}

#[test]
fn methods_are_checked() {
    let read = |text: &str, encoding| {
        let mut bytes = Vec::new();
        bro_proto::v1::rewrite::transcode(json_payload(text), encoding, &mut bytes).unwrap();
        decode::methods(Payload { encoding, bytes: &bytes })
    };
    for encoding in BOTH {
        assert_eq!(read(r#"["a","b\u00e9"]"#, encoding).unwrap(), ["a".into(), "bé".into()]);
        assert_eq!(read("[]", encoding).unwrap().len(), 0);
        assert_eq!(read("", encoding).unwrap().len(), 0);
        assert_eq!(read(&json!(vec!["m"; METHODS_MAX]).to_string(), encoding).unwrap().len(), METHODS_MAX);
        let too_many = json!(vec!["m"; METHODS_MAX + 1]).to_string();
        for bad in ["null", "{}", "\"a\"", "[1]", "[[]]", r#"["a",""]"#, r#"["a\u0000"]"#, too_many.as_str()] {
            let code = read(bad, encoding).unwrap_err().code;
            assert_eq!(code, Some(ErrorCode::InvalidMessage), "{bad:.40}");
        }
    }
}

#[test]
fn any_payload_becomes_a_value() {
    assert_eq!(decode::to_json(NOTHING).unwrap(), Value::Null);
    assert_eq!(decode::to_json(json_payload(r#"{"a":1,"a":2}"#)).unwrap(), json!({"a": 2}));
    assert_eq!(decode::to_json(json_payload(r#"["\ud800",1e999]"#)).unwrap(), json!(["\u{fffd}", null]));
    let msgpack = Payload { encoding: Encoding::Msgpack, bytes: &[0x81, 0xa1, b'a', 0xd4, 0, 0] };
    assert_eq!(decode::to_json(msgpack).unwrap(), json!({}));
    assert!(decode::to_json(json_payload("[1")).is_err());
    // As deep as a payload in a message can be.
    let deep = format!("{}{}", "[".repeat(127), "]".repeat(127));
    assert!(decode::to_json(json_payload(&deep)).is_ok());
}
