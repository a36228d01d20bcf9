//! What a JSON body may look like, and what not.

use super::*;
use crate::limits::NESTING_MAX;

const CALL: &str = concat!(
    r#"{"type":"CALL","id":"req-1","from":"order","to":"user","method":"get","params":{"a":[1,{}]},"#,
    r#""context":{"root":"root-1","chain":["order","user"],"depth":2,"deadline":1700000030000}}"#
);

fn ok(body: &str) -> Header<'_> {
    scan(body.as_bytes()).unwrap_or_else(|error| panic!("{body}: {error}"))
}

fn err(body: &str) -> ScanError {
    scan(body.as_bytes()).expect_err(body)
}

/// The fault of a HEARTBEAT with this value in its payload.
fn payload_err(value: &str) -> ScanError {
    err(&format!(r#"{{"type":"HEARTBEAT","x":{value}}}"#))
}

fn malformed(body: &str, at: usize) {
    assert_eq!(err(body), ScanError::Malformed { encoding: Encoding::Json, at }, "{body}");
}

#[test]
fn a_call_has_every_field_with_its_span() {
    let header = ok(CALL);
    assert_eq!((header.encoding, header.kind), (Encoding::Json, Kind::Call));
    let texts = [(&header.id, "req-1"), (&header.from, "order"), (&header.to, "user"), (&header.method, "get")];
    for (text, expected) in texts {
        let text = text.as_ref().unwrap();
        assert!(matches!(text.value, Cow::Borrowed(value) if value == expected));
        assert_eq!(&CALL[text.span.clone()], format!("\"{expected}\""));
    }
    assert_eq!(&CALL[header.params.unwrap()], r#"{"a":[1,{}]}"#);
    let context = header.context.unwrap();
    assert!(CALL[context.span].starts_with(r#"{"root""#));
    assert_eq!(context.root.unwrap().value, "root-1");
    assert_eq!(&CALL[context.chain.unwrap()], r#"["order","user"]"#);
    assert_eq!((context.chain_len, context.depth, context.deadline_ms), (2, Some(2), Some(1_700_000_030_000)));
}

#[test]
fn white_space_may_stand_everywhere() {
    let mut spaced = String::from("\n");
    for character in CALL.chars() {
        match character {
            '{' | '}' | '[' | ']' | ',' | ':' => spaced.push_str(&format!(" \t{character}\r\n")),
            other => spaced.push(other),
        }
    }
    let (header, plain) = (ok(&spaced), ok(CALL));
    assert_eq!(header.method.unwrap().value, "get");
    assert_eq!(spaced[header.params.unwrap()].split_whitespace().collect::<String>(), r#"{"a":[1,{}]}"#);
    let (context, plain) = (header.context.unwrap(), plain.context.unwrap());
    assert_eq!((context.chain_len, context.depth, context.deadline_ms), (2, plain.depth, plain.deadline_ms));
}

#[test]
fn every_type_has_its_kind() {
    let kinds = [
        ("REGISTER", Kind::Register),
        ("REGISTER_ACK", Kind::RegisterAck),
        ("CALL", Kind::Call),
        ("RESPONSE", Kind::Response),
        ("HEARTBEAT", Kind::Heartbeat),
        ("ERROR", Kind::Error),
        ("SUBSCRIBE", Kind::Unknown),
        ("call", Kind::Unknown),
        ("", Kind::Unknown),
        ("C\\u0041LL", Kind::Call),
    ];
    for (name, kind) in kinds {
        assert_eq!(ok(&format!(r#"{{"type":"{name}"}}"#)).kind, kind, "{name}");
    }
}

#[test]
fn a_missing_type_is_a_wrong_type() {
    for body in ["{}", " { } ", r#"{"type":null}"#, r#"{"id":"1","params":{"type":"CALL"}}"#, r#"{"Type":"CALL"}"#] {
        assert_eq!(err(body), ScanError::WrongType { at: 0 }, "{body}");
    }
}

#[test]
fn header_texts_must_be_texts_or_null() {
    for key in ["type", "id", "from", "to", "method", "status", "serviceName", "version"] {
        for value in ["1", "-1", "true", "false", "{}", "[]"] {
            let body = format!(r#"{{"{key}":{value}}}"#);
            assert_eq!(err(&body), ScanError::WrongType { at: key.len() + 4 }, "{body}");
        }
    }
    let header = ok(r#"{"type":"CALL","id":null,"from":null,"to":null,"method":null,"status":null}"#);
    assert_eq!(header, Header { kind: Kind::Call, ..Header::empty(Encoding::Json) });
    assert_eq!(err(r#"{"status":"failed"}"#), ScanError::WrongType { at: 10 });
}

#[test]
fn null_payloads_have_a_span_and_absent_ones_have_none() {
    let body = r#"{"type":"RESPONSE","status":"success","data":null}"#;
    let header = ok(body);
    assert_eq!(header.status, Some(Status::Success));
    assert_eq!(&body[header.data.unwrap()], "null");
    assert_eq!((header.params, header.error, header.context), (None, None, None));
}

#[test]
fn a_context_of_any_shape_is_read_as_far_as_it_goes() {
    for context in ["null", "7", "[]", "\"x\""] {
        assert_eq!(ok(&format!(r#"{{"type":"CALL","context":{context}}}"#)).context, None);
    }
    let header = ok(r#"{"type":"CALL","context":{"root":1,"chain":"x","depth":"2","deadline":{},"more":[[]]}}"#);
    let context = header.context.unwrap();
    assert_eq!((context.root, context.chain, context.depth, context.deadline_ms), (None, None, None, None));
    let header = ok(r#"{"type":"CALL","context":{"chain":[ ],"depth":1e400,"deadline":-3.5}}"#);
    let context = header.context.unwrap();
    assert_eq!((context.chain_len, context.depth, context.deadline_ms), (0, Some(u32::MAX), Some(0)));
}

#[test]
fn numbers_become_unsigned_integers() {
    let numbers = [
        ("0", 0),
        ("-0", 0),
        ("7", 7),
        ("1.9e0", 1),
        ("1e3", 1000),
        ("12345678", 12_345_678),
        ("123456789", 123_456_789),
        ("1700000030000.75", 1_700_000_030_000),
        ("9999999999999999999", 9_999_999_999_999_999_999),
        ("18446744073709551615", u64::MAX),
        ("18446744073709551616", u64::MAX),
        ("99999999999999999999999999", u64::MAX),
        ("-12345678901234567890", 0),
    ];
    for (text, expected) in numbers {
        let body = format!(r#"{{"type":"HEARTBEAT","timestamp":{text}}}"#);
        assert_eq!(ok(&body).timestamp_ms, Some(expected), "{text}");
    }
    assert_eq!(ok(r#"{"type":"HEARTBEAT","timestamp":"7"}"#).timestamp_ms, None);
}

#[test]
fn header_keys_stand_once_and_plainly() {
    assert_eq!(err(r#"{"type":"CALL","to":"a","to":"a"}"#), ScanError::DuplicateKey { at: 24 });
    assert_eq!(err(r#"{"type":"CALL","to":null,"to" :"a"}"#), ScanError::DuplicateKey { at: 25 });
    assert_eq!(err(r#"{"type":"CALL","context":{"depth":1,"depth":2}}"#), ScanError::DuplicateKey { at: 36 });
    assert_eq!(err(r#"{"type":"CALL","\u0074o":"a"}"#), ScanError::UnusualKey { at: 15 });
    assert_eq!(err(r#"{"type":"CALL","x\n":"a"}"#), ScanError::UnusualKey { at: 15 });
    assert_eq!(err(r#"{"type":"CALL","context":{"d\u0065pth":1}}"#), ScanError::UnusualKey { at: 26 });
    // What means nothing here may stand as often as it likes, and payload keys may be written in any way.
    ok(r#"{"type":"CALL","x":1,"x":2,"context":{"x":1,"x":2},"params":{"\u0061":1,"a":2,"a":3,"to":1}}"#);
}

#[test]
fn escapes_in_header_texts_are_undone() {
    let body = r#"{"type":"CALL","id":"a\u00e9\n\ud83d\ude00\ud800","to":"a\\","method":"\"m\""}"#;
    let header = ok(body);
    let id = header.id.unwrap();
    assert_eq!(id.value, "aé\n😀\u{fffd}");
    assert_eq!(&body[id.span], r#""a\u00e9\n\ud83d\ude00\ud800""#);
    assert_eq!((header.to.unwrap().value, header.method.unwrap().value), ("a\\".into(), "\"m\"".into()));
}

#[test]
fn the_payload_is_checked_to_its_last_byte() {
    let bad = [
        "01",
        "1.",
        ".5",
        "1e",
        "1e+",
        "-",
        "--1",
        "+1",
        "0x1",
        "1.e1",
        "tru",
        "True",
        "nulll",
        "NaN",
        "Infinity",
        "'a'",
        "[1,]",
        "[,1]",
        "[1 2]",
        "{,}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{1:2}",
        "{\"a\" 1}",
        "[1}",
        "{\"a\":1]",
        "\"\\x\"",
        "\"\\u12g4\"",
        "\"\u{1}\"",
        "\"a\nb\"",
        "\"\t\"",
        "\u{b}1",
        "\u{feff}1",
        "",
        "/**/1",
        "[1]]",
    ];
    for value in bad {
        let fault = payload_err(value);
        assert!(matches!(fault, ScanError::Malformed { .. }), "{value}: {fault}");
    }
    for value in ["0", "-0", "1.5e-10", "1E+2", "[]", "[[]]", "{}", "{\"\":{}}", "\"\\ud800\"", "\"\u{7f}\"", "true"] {
        ok(&format!(r#"{{"type":"HEARTBEAT","x":{value}}}"#));
    }
    malformed(r#"{"type":"CALL",}"#, 15);
    malformed(r#"{"type":"CALL" "id":"1"}"#, 15);
    malformed(r#"{"type" "CALL"}"#, 8);
    malformed(r#"{type:"CALL"}"#, 1);
    malformed("{\"type\":\"CA\nLL\"}", 11);
}

#[test]
fn a_body_cut_anywhere_is_truncated() {
    let spaced = CALL.replace(',', " ,\n ");
    for body in [CALL, &spaced, r#"{"type":"CA\u004cL","x":[true,false,null,-1.5e+10,"\\\"","ü"]}"#] {
        for end in 0..body.len() {
            match scan(&body.as_bytes()[..end]) {
                Err(ScanError::Truncated) => {}
                // In the middle of a character, or where a number needs another digit to go on.
                Err(ScanError::InvalidUtf8 { at }) => assert_eq!(at, end - 1),
                other => panic!("{}: {other:?}", &body[..end]),
            }
        }
    }
}

#[test]
fn nothing_but_white_space_follows() {
    ok("{\"type\":\"CALL\"} \n\t\r");
    assert_eq!(err(r#"{"type":"CALL"} x"#), ScanError::TrailingBytes { bytes: 1 });
    assert_eq!(err(r#"{"type":"CALL"}{}"#), ScanError::TrailingBytes { bytes: 2 });
    assert_eq!(err("{\"type\":\"CALL\"}\0"), ScanError::TrailingBytes { bytes: 1 });
}

#[test]
fn bytes_that_are_not_utf8_are_refused_wherever_they_are() {
    for position in 0..CALL.len() {
        let mut body = CALL.as_bytes().to_vec();
        body[position] = 0xff;
        assert_eq!(scan(&body), Err(ScanError::InvalidUtf8 { at: position }));
    }
    // A surrogate, and an overlong slash.
    for bytes in [&b"\xed\xa0\x80"[..], b"\xc0\xaf"] {
        let body = [b"{\"type\":\"", bytes, b"\"}"].concat();
        assert_eq!(scan(&body), Err(ScanError::InvalidUtf8 { at: 9 }));
    }
}

/// A HEARTBEAT whose payload has `levels` containers.
fn nested(levels: usize, open: &str, close: &str) -> String {
    format!("{{\"type\":\"HEARTBEAT\",\"x\":{}1{}}}", open.repeat(levels), close.repeat(levels))
}

#[test]
fn nesting_is_bounded() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), (" [ ", " ] ")] {
        ok(&nested(NESTING_MAX - 1, open, close));
        for levels in [NESTING_MAX, NESTING_MAX + 1, 200_000] {
            assert!(matches!(err(&nested(levels, open, close)), ScanError::TooDeep { .. }));
        }
    }
    let too_deep = format!("{}{}", "[".repeat(NESTING_MAX - 2), "]".repeat(NESTING_MAX - 2));
    for key in ["chain", "other"] {
        let body = format!(r#"{{"type":"CALL","context":{{"{key}":{too_deep}}}}}"#);
        ok(&body);
        assert!(matches!(err(&body.replace("[]", "[[]]")), ScanError::TooDeep { .. }), "{key}");
    }
}

#[test]
fn strings_may_end_anywhere_in_a_block() {
    for padding in 0..150 {
        let filler = "x".repeat(padding);
        let body = format!(r#"{{"type":"CALL","{filler}":"\\{filler}\"","id":"{filler}","to":"\"{filler}"}}"#);
        let header = ok(&body);
        assert_eq!(header.id.unwrap().value, filler);
        assert_eq!(header.to.unwrap().value, format!("\"{filler}"));
    }
}

/// Regression: the digits of a body that has less than eight bytes were not seen.
#[test]
fn numbers_in_the_shortest_bodies_are_well_formed() {
    for body in [r#"{"":1}"#, r#"{"":11}"#, r#"{"":111}"#, r#"{"":-10}"#, r#"{"":1.25}"#] {
        assert_eq!(err(body), ScanError::WrongType { at: 0 }, "{body}");
    }
}
