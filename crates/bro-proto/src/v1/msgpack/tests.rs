//! What a msgpack body may look like, and what not.

use super::*;
use rmp::encode as write;

/// A body of pieces that are encoded already.
fn body(pieces: &[&[u8]]) -> Vec<u8> {
    pieces.concat()
}

fn text(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    write::write_str(&mut out, text).unwrap();
    out
}

/// A map of the given pairs; values are encoded already.
fn map(pairs: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    // As msgpackr counts them, however few.
    out.push(0xde);
    out.extend(u16::try_from(pairs.len()).unwrap().to_be_bytes());
    for (key, value) in pairs {
        out.extend(text(key));
        out.extend_from_slice(value);
    }
    out
}

/// A HEARTBEAT with one more field.
fn heartbeat(key: &str, value: &[u8]) -> Vec<u8> {
    map(&[("type", &text("HEARTBEAT")), (key, value)])
}

fn err(body: &[u8]) -> ScanError {
    scan(body).expect_err("refused")
}

fn call() -> Vec<u8> {
    let deadline = 1_700_000_030_000f64.to_be_bytes();
    let context = map(&[
        ("root", &text("root-1")),
        ("chain", &body(&[&[0x92], &text("order"), &text("user")])),
        ("depth", &[2]),
        ("deadline", &body(&[&[0xcb], &deadline])),
    ]);
    map(&[
        ("type", &text("CALL")),
        ("id", &text("req-1")),
        ("from", &text("order")),
        ("to", &text("user")),
        ("method", &text("get")),
        ("params", &map(&[("a", &[0x92, 1, 0x80])])),
        ("context", &context),
    ])
}

#[test]
fn a_call_has_every_field_with_its_span() {
    let body = call();
    let header = scan(&body).unwrap();
    assert_eq!((header.encoding, header.kind), (Encoding::Msgpack, Kind::Call));
    let texts = [(&header.id, "req-1"), (&header.from, "order"), (&header.to, "user"), (&header.method, "get")];
    for (field, expected) in texts {
        let field = field.as_ref().unwrap();
        assert_eq!(field.value, expected);
        assert_eq!(body[field.span.clone()], text(expected));
    }
    assert_eq!(body[header.params.unwrap()], map(&[("a", &[0x92, 1, 0x80])]));
    let context = header.context.unwrap();
    assert_eq!(context.span.end, body.len());
    assert_eq!(context.root.unwrap().value, "root-1");
    assert_eq!(body[context.chain.unwrap()][0], 0x92);
    assert_eq!((context.chain_len, context.depth, context.deadline_ms), (2, Some(2), Some(1_700_000_030_000)));
}

#[test]
fn a_body_cut_anywhere_is_truncated() {
    let mut body = call();
    for end in 1..body.len() {
        assert_eq!(scan(&body[..end]), Err(ScanError::Truncated), "{end}");
    }
    assert_eq!(err(&[]), ScanError::Truncated);
    body.extend([0xc0, 0xc0]);
    assert_eq!(err(&body), ScanError::TrailingBytes { bytes: 2 });
}

#[test]
fn every_size_of_number_is_read() {
    let numbers: [(&[u8], u64); 19] = [
        (&[0x00], 0),
        (&[0x7f], 127),
        (&[0xe0], 0),
        (&[0xff], 0),
        (&[0xcc, 0xff], 255),
        (&[0xcd, 0xff, 0xfe], 65_534),
        (&[0xce, 0xff, 0xff, 0xff, 0xff], 4_294_967_295),
        (&[0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], u64::MAX),
        (&[0xd0, 0x80], 0),
        (&[0xd0, 0x05], 5),
        (&[0xd1, 0x80, 0x00], 0),
        (&[0xd1, 0x01, 0x00], 256),
        (&[0xd2, 0x7f, 0xff, 0xff, 0xff], 2_147_483_647),
        (&[0xd3, 0x80, 0, 0, 0, 0, 0, 0, 0], 0),
        (&[0xd3, 0x00, 0, 0, 1, 0, 0, 0, 0], 4_294_967_296),
        (&[0xca, 0x3f, 0xc0, 0x00, 0x00], 1),
        (&[0xca, 0xff, 0xc0, 0x00, 0x00], 0),
        (&[0xcb, 0x7f, 0xf0, 0, 0, 0, 0, 0, 0], u64::MAX),
        (&[0xcb, 0xc0, 0x59, 0, 0, 0, 0, 0, 0], 0),
    ];
    for (bytes, expected) in numbers {
        assert_eq!(scan(&heartbeat("timestamp", bytes)).unwrap().timestamp_ms, Some(expected), "{bytes:02x?}");
    }
    for other in [&[0xc0][..], &[0xc3], &[0xa1, b'7'], &[0x90], &[0xd4, 0, 0], &[0xd6, 0xff, 0, 0, 0, 0]] {
        assert_eq!(scan(&heartbeat("timestamp", other)).unwrap().timestamp_ms, None, "{other:02x?}");
    }
}

#[test]
fn header_texts_must_be_texts_or_nothing() {
    for key in ["id", "from", "to", "method", "status", "serviceName", "version"] {
        for nothing in [&[0xc0][..], &[0xd4, 0x00, 0x00]] {
            let body = heartbeat(key, nothing);
            assert_eq!(scan(&body).unwrap(), Header { kind: Kind::Heartbeat, ..Header::empty(Encoding::Msgpack) });
        }
        for other in [&[0x01][..], &[0xc2], &[0x80], &[0x90], &[0xc4, 0], &[0xd4, 0x01, 0x00]] {
            let body = heartbeat(key, other);
            assert_eq!(err(&body), ScanError::WrongType { at: body.len() - other.len() }, "{key} {other:02x?}");
        }
    }
    assert!(matches!(err(&heartbeat("status", &text("failed"))), ScanError::WrongType { .. }));
    for missing in [&map(&[]), &map(&[("type", &[0xc0])]), &map(&[("type", &[0xd4, 0, 0])]), &map(&[("id", &[0xc0])])] {
        assert_eq!(err(missing), ScanError::WrongType { at: 0 });
    }
    assert_eq!(scan(&map(&[("type", &text("SUBSCRIBE"))])).unwrap().kind, Kind::Unknown);
}

#[test]
fn texts_of_every_size_are_read() {
    for len in [0, 1, 31, 32, 255, 256, 65_535, 65_536] {
        let long = "é".repeat(len / 2) + &"x".repeat(len % 2);
        let body = heartbeat("from", &text(&long));
        assert_eq!(scan(&body).unwrap().from.unwrap().value, long);
    }
    // Sizes larger than the text needs are legal.
    for size in [&[0xd9, 1][..], &[0xda, 0, 1], &[0xdb, 0, 0, 0, 1]] {
        let value = body(&[size, b"x"]);
        assert_eq!(scan(&heartbeat("from", &value)).unwrap().from.unwrap().value, "x");
        let keyed = body(&[&[0x81, 0xd9, 4], b"type", &text("HEARTBEAT")]);
        assert_eq!(scan(&keyed).unwrap().kind, Kind::Heartbeat);
    }
}

#[test]
fn undefined_payloads_are_absent_and_nil_ones_are_not() {
    for key in ["params", "data", "error", "metadata", "methods"] {
        let (nil, undefined) = (heartbeat(key, &[0xc0]), heartbeat(key, &[0xd4, 0, 0]));
        let spans = |body: &[u8]| {
            let header = scan(body).unwrap();
            [header.params, header.data, header.error, header.metadata, header.methods]
        };
        assert!(spans(&nil).into_iter().flatten().eq(std::iter::once(nil.len() - 1..nil.len())));
        assert_eq!(spans(&undefined).into_iter().flatten().count(), 0);
    }
    for context in [&[0xc0][..], &[0xd4, 0, 0], &[7], &[0x91, 0xc0]] {
        assert_eq!(scan(&heartbeat("context", context)).unwrap().context, None);
    }
}

#[test]
fn header_keys_stand_once_and_are_texts() {
    let twice = map(&[("type", &text("CALL")), ("to", &text("a")), ("to", &[0xc0])]);
    assert_eq!(err(&twice), ScanError::DuplicateKey { at: 18 });
    let inner = map(&[("depth", &[1]), ("depth", &[2])]);
    assert!(matches!(err(&heartbeat("context", &inner)), ScanError::DuplicateKey { .. }));
    for key in [&[0x01][..], &[0xc0], &[0x90], &[0xc4, 2, b't', b'o']] {
        let map_of = |count: &[u8], rest: &[u8]| body(&[count, key, rest]);
        assert_eq!(err(&map_of(&[0x81], &[0xc0])), ScanError::UnusualKey { at: 1 }, "{key:02x?}");
        let context = heartbeat("context", &map_of(&[0x81], &[0xc0]));
        assert!(matches!(err(&context), ScanError::UnusualKey { .. }));
        // Maps of the payload may have any keys.
        scan(&heartbeat("params", &map_of(&[0x81], &[0xc0]))).unwrap();
    }
    let others = map(&[("type", &text("CALL")), ("x", &[1]), ("x", &[2])]);
    scan(&others).unwrap();
}

#[test]
fn header_texts_are_utf8_and_payload_texts_need_not_be() {
    let surrogate = [0xa3, 0xed, 0xa0, 0x80];
    for key in ["id", "from", "to", "method"] {
        let body = heartbeat(key, &surrogate);
        assert_eq!(err(&body), ScanError::InvalidUtf8 { at: body.len() - 3 });
    }
    for key in ["params", "data", "metadata", "x"] {
        scan(&heartbeat(key, &surrogate)).unwrap();
        scan(&heartbeat(key, &body(&[&[0x81], &surrogate, &surrogate]))).unwrap();
    }
    assert!(matches!(err(&heartbeat("context", &map(&[("root", &surrogate)]))), ScanError::InvalidUtf8 { .. }));
    let key = body(&[&[0x82], &text("type"), &text("CALL"), &surrogate, &[1]]);
    assert!(matches!(err(&key), ScanError::InvalidUtf8 { .. }));
}

#[test]
fn extensions_are_passed_by_their_length_and_records_are_named() {
    let extensions: [&[u8]; 8] = [
        &[0xd4, 0x05, 0],
        &[0xd5, 0x05, 0, 0],
        &[0xd6, 0xff, 0, 0, 0, 0],
        &[0xd7, 0xff, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0xd8, 0x72, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0xc7, 0x00, 0x72],
        &[0xc8, 0x00, 0x01, 0x72, 0],
        &[0xc9, 0x00, 0x00, 0x00, 0x02, 0x72, 0, 0],
    ];
    for extension in extensions {
        scan(&heartbeat("params", extension)).unwrap();
        scan(&heartbeat("params", &body(&[&[0x92], extension, extension]))).unwrap();
        for end in 0..extension.len() {
            assert_eq!(err(&heartbeat("params", &extension[..end])), ScanError::Truncated, "{extension:02x?}");
        }
    }
    for record in [&[0xd4, 0x72, 0x40, 0x91, 0xa1, b'a', 1][..], &[0xd5, 0x72, 0x40, 0x01, 0x91, 0xa1, b'a', 1]] {
        let at_end = heartbeat("params", record);
        assert_eq!(err(&at_end), ScanError::RecordExtension { at: at_end.len() - record.len() });
        for key in ["type", "context", "timestamp", "x"] {
            let record = heartbeat(key, &body(&[record]));
            assert!(
                matches!(err(&record), ScanError::RecordExtension { .. } | ScanError::DuplicateKey { .. }),
                "{key}"
            );
        }
        let inside = heartbeat("params", &body(&[&[0x91], record]));
        assert!(matches!(err(&inside), ScanError::RecordExtension { .. }));
        assert_eq!(super::super::scan(record), Err(ScanError::RecordExtension { at: 0 }));
    }
}

#[test]
fn claimed_lengths_mean_nothing_without_their_bytes() {
    let claims: [&[u8]; 12] = [
        &[0xdf, 0xff, 0xff, 0xff, 0xff],
        &[0xdd, 0xff, 0xff, 0xff, 0xff],
        &[0xdb, 0xff, 0xff, 0xff, 0xff],
        &[0xc6, 0xff, 0xff, 0xff, 0xff],
        &[0xc9, 0xff, 0xff, 0xff, 0xff, 1],
        &[0xde, 0xff, 0xff],
        &[0xdc, 0xff, 0xff],
        &[0xda, 0xff, 0xff],
        &[0xc5, 0xff, 0xff],
        &[0x8f],
        &[0x9f],
        &[0xbf],
    ];
    for claim in claims {
        assert_eq!(err(&heartbeat("params", claim)), ScanError::Truncated);
        assert_eq!(err(&heartbeat("params", &body(&[claim, &[0; 10]]))), ScanError::Truncated);
    }
    assert_eq!(err(&[0xdf, 0xff, 0xff, 0xff, 0xff]), ScanError::Truncated);
    assert_eq!(err(&heartbeat("x", &[0xc1])), ScanError::Malformed { encoding: Encoding::Msgpack, at: 20 });
}

#[test]
fn nesting_is_bounded() {
    for open in [&[0x91][..], &[0x81, 0x01], &[0xdc, 0, 1], &[0xde, 0, 1, 0xa1, b'a']] {
        let nested = |levels: usize| heartbeat("params", &body(&[&open.repeat(levels), &[0xc0]]));
        scan(&nested(NESTING_MAX - 1)).unwrap();
        for levels in [NESTING_MAX, NESTING_MAX + 1, 200_000] {
            assert!(matches!(err(&nested(levels)), ScanError::TooDeep { .. }));
        }
    }
    // An empty container is a level too, and a wide one is not deep.
    let empty = |levels: usize| heartbeat("params", &body(&[&[0x91].repeat(levels), &[0x90]]));
    scan(&empty(NESTING_MAX - 2)).unwrap();
    assert!(matches!(err(&empty(NESTING_MAX - 1)), ScanError::TooDeep { .. }));
    let wide = body(&[&[0xdd, 0, 3, 0x0d, 0x40], &[0x91, 0x90].repeat(200_000)]);
    scan(&heartbeat("params", &wide)).unwrap();
    let chain = |levels: usize| heartbeat("context", &map(&[("chain", &body(&[&[0x91].repeat(levels), &[0xc0]]))]));
    scan(&chain(NESTING_MAX - 2)).unwrap();
    assert!(matches!(err(&chain(NESTING_MAX - 1)), ScanError::TooDeep { .. }));
}

#[test]
fn a_key_that_json_would_have_to_escape_is_unusual() {
    for name in ["a\"", "a\\", "a\nb", "\0"] {
        assert_eq!(err(&heartbeat(name, &[1])), ScanError::UnusualKey { at: 18 }, "{name:?}");
        assert!(matches!(err(&heartbeat("context", &map(&[(name, &[1])]))), ScanError::UnusualKey { .. }));
        scan(&heartbeat("params", &map(&[(name, &[1])]))).unwrap();
    }
}
