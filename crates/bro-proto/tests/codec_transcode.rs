//! Transcoding under random input, against serde_json and rmp-serde.

#![allow(
    clippy::cast_possible_truncation,
    clippy::single_range_in_vec_init,
    reason = "tests know their numbers, and a list of one range is meant"
)]

use bro_proto::limits::{FRAME_BYTES_MAX, NESTING_MAX};
use bro_proto::rng::Rng;
use bro_proto::v1::rewrite::{Patch, TranscodeError, rewrite, transcode};
use bro_proto::v1::{Encoding, Header, Payload, decode, scan};
use proptest::prelude::*;
use serde_json::{Map, Number, Value, json};

fn to_msgpack(text: &[u8]) -> Result<Vec<u8>, TranscodeError> {
    let mut out = Vec::new();
    transcode(Payload { encoding: Encoding::Json, bytes: text }, Encoding::Msgpack, &mut out)?;
    Ok(out)
}

fn to_json(bytes: &[u8]) -> Result<Vec<u8>, TranscodeError> {
    let mut out = Vec::new();
    transcode(Payload { encoding: Encoding::Msgpack, bytes }, Encoding::Json, &mut out)?;
    Ok(out)
}

/// The value as JavaScript would have it: a number is a double, and integers of either kind are the same.
fn as_javascript(value: &Value) -> Value {
    match value {
        Value::Number(number) => {
            let double = number.as_f64().expect("every JSON number is near a double");
            Number::from_f64(double).map_or(Value::Null, Value::Number)
        }
        Value::Array(elements) => elements.iter().map(as_javascript).collect(),
        Value::Object(members) => {
            Value::Object(members.iter().map(|(key, member)| (key.clone(), as_javascript(member))).collect())
        }
        other => other.clone(),
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i8>().prop_map(|number| json!(number)),
        any::<i64>().prop_map(|number| json!(number)),
        any::<u64>().prop_map(|number| json!(number)),
        any::<u32>().prop_map(|number| json!(number)),
        any::<f64>().prop_map(|number| json!(number)),
        (-1000_i32..1000).prop_map(|number| json!(f64::from(number) / 8.0)),
        any::<String>().prop_map(Value::String),
        "[a-z\"\\\\\u{0}-\u{1f}é€😀]{0,300}".prop_map(Value::String),
    ];
    leaf.prop_recursive(6, 200, 40, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..40).prop_map(Value::Array),
            prop::collection::vec((any::<String>(), inner), 0..20)
                .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn json_survives_the_way_to_msgpack_and_back(value in any_value(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) }.unwrap();
        let msgpack = to_msgpack(&text).unwrap();
        prop_assert!(msgpack.len() <= 3 * text.len() + 8);
        let by_rmp: Value = rmp_serde::from_slice(&msgpack).unwrap();
        prop_assert_eq!(as_javascript(&by_rmp), as_javascript(&value));
        let back: Value = serde_json::from_slice(&to_json(&msgpack).unwrap()).unwrap();
        prop_assert_eq!(as_javascript(&back), as_javascript(&value));
    }

    #[test]
    fn msgpack_of_another_encoder_becomes_the_same_json(value in any_value()) {
        let msgpack = rmp_serde::to_vec(&value).unwrap();
        let text = to_json(&msgpack).unwrap();
        prop_assert!(text.len() <= 14 * msgpack.len() + 13);
        let parsed: Value = serde_json::from_slice(&text).unwrap();
        prop_assert_eq!(as_javascript(&parsed), as_javascript(&value));
    }

    #[test]
    fn arbitrary_bytes_become_valid_json_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if !bytes.is_empty() && let Ok(text) = to_json(&bytes) {
            prop_assert!(text.len() <= 14 * bytes.len() + 13);
            serde_json::from_slice::<Value>(&text).unwrap();
        }
        let _ = to_msgpack(&bytes);
    }

    /// What JSON is, serde_json knows. `IgnoredAny` accepts lone surrogates and numbers of any size, as we do.
    #[test]
    fn a_json_text_is_accepted_exactly_if_serde_json_accepts_it(
        value in any_value(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..3),
    ) {
        const PIECES: &[&str] = &[
            "", "0", "-", ".", "e", "E+", "1", "\"", "\\", "\\u", "d800", "\\ud800", "\\udc00", "[", "]", "{", "}", ",", ":",
            "\n", " ", "\u{1}", "null", "tru", "é", "1e999", "-0", "00",
        ];
        let mut text = serde_json::to_string(&value).unwrap();
        for (at, piece) in edits {
            let at = text.floor_char_boundary(at.index(text.len() + 1));
            let end = text.ceil_char_boundary((at + 1).min(text.len()));
            text.replace_range(at..end, PIECES[piece.index(PIECES.len())]);
        }
        let is_json = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
        if !text.is_empty() {
            prop_assert_eq!(to_msgpack(text.as_bytes()).is_ok(), is_json, "{}", text);
        }
        if is_json {
            let payload = Payload { encoding: Encoding::Json, bytes: text.as_bytes() };
            prop_assert!(decode::to_json(payload).is_ok(), "{}", text);
        }
    }
}

/// A random msgpack value of any kind, whole or with claims that are wrong now and then.
fn write_random(out: &mut Vec<u8>, rng: &mut Rng, depth: u32) {
    let pick = rng.below(if depth == 0 { 12 } else { 15 });
    let small = rng.below(5) as u8;
    match pick {
        0 => out.push([0xc0, 0xc2, 0xc3][rng.below(3) as usize]),
        1 => out.push((rng.next_u64() as u8) & 0x7f),
        2 => out.push(0xe0 | small),
        3 => {
            let (marker, bytes) =
                [(0xca, 4), (0xcb, 8), (0xcc, 1), (0xcd, 2), (0xce, 4), (0xcf, 8), (0xd0, 1), (0xd3, 8)]
                    [rng.below(8) as usize];
            out.push(marker);
            out.extend_from_slice(&rng.next_u64().to_le_bytes()[..bytes]);
        }
        4 | 5 => {
            out.push(0xa0 | small);
            out.extend((0..small).map(|_| b'a' + rng.below(26) as u8));
        }
        6 => {
            let bytes = rng.next_u64().to_le_bytes();
            out.extend_from_slice(&[0xd9, 8]);
            out.extend_from_slice(&bytes);
        }
        7 => {
            out.extend_from_slice(&[0xc4, small]);
            out.extend((0..small).map(|_| rng.next_u64() as u8));
        }
        8 => out.extend_from_slice(&[0xd4, 0, 0]),
        9 => {
            out.extend_from_slice(&[0xd7, 0xff]);
            out.extend_from_slice(&(rng.next_u64() >> rng.below(60)).to_be_bytes());
        }
        10 => {
            out.extend_from_slice(&[0xc7, small, rng.below(4) as u8]);
            out.extend((0..small).map(|_| rng.next_u64() as u8));
        }
        11 => out.extend_from_slice(&[0xd4, if rng.below(8) == 0 { 0x72 } else { 1 }, 0x40]),
        12 => {
            out.push(0x90 | small);
            (0..small).for_each(|_| write_random(out, rng, depth - 1));
        }
        13 => {
            out.extend_from_slice(&[0xde, 0, small]);
            for _ in 0..small {
                write_random(out, rng, depth - 1);
                write_random(out, rng, depth - 1);
            }
        }
        _ => {
            out.push(0x80 | small);
            for key in 0..small {
                out.extend_from_slice(&[0xa1, b'a' + key]);
                write_random(out, rng, depth - 1);
            }
        }
    }
}

fn header_texts(header: &Header<'_>) -> Vec<Option<String>> {
    [&header.id, &header.from, &header.to, &header.method, &header.service_name, &header.version]
        .iter()
        .map(|field| field.as_ref().map(|text| text.value.clone().into_owned()))
        .collect()
}

/// The gateway forwards what the scan accepts: it must be able to carry that over, and the other side to scan it.
#[test]
fn what_the_scan_accepts_can_be_carried_over_and_scanned_again() {
    let (mut carried, mut refused) = (0, 0);
    for seed in 0..30_000 {
        let mut rng = Rng::new(seed);
        let mut body = vec![0xde, 0, 6];
        for (key, value) in [("type", "CALL"), ("id", "req-1"), ("from", "a"), ("to", "b")] {
            body.push(0xa0 | key.len() as u8);
            body.extend_from_slice(key.as_bytes());
            body.push(0xa0 | value.len() as u8);
            body.extend_from_slice(value.as_bytes());
        }
        body.extend_from_slice(b"\xa6params");
        write_random(&mut body, &mut rng, 4);
        body.extend_from_slice(if rng.below(2) == 0 { b"\xa7context" } else { b"\xa7\x22other\xff" });
        write_random(&mut body, &mut rng, 3);
        if rng.below(4) == 0 {
            let at = rng.below(body.len() as u64) as usize;
            body[at] = rng.next_u64() as u8;
        }
        let Ok(header) = scan(&body) else {
            refused += 1;
            continue;
        };
        carried += 1;
        let mut text = Vec::new();
        rewrite(&body, Encoding::Msgpack, Encoding::Json, &[], &mut text)
            .unwrap_or_else(|error| panic!("seed {seed}: {error}: {body:02x?}"));
        let by_serde = serde_json::from_slice::<Value>(&text);
        assert!(by_serde.is_ok(), "seed {seed}: {}", String::from_utf8_lossy(&text));
        let again =
            scan(&text).unwrap_or_else(|error| panic!("seed {seed}: {error}: {}", String::from_utf8_lossy(&text)));
        assert_eq!(header_texts(&again), header_texts(&header), "seed {seed}");
        let mut msgpack = Vec::new();
        rewrite(&text, Encoding::Json, Encoding::Msgpack, &[], &mut msgpack).unwrap();
        let third = scan(&msgpack).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(header_texts(&third), header_texts(&header), "seed {seed}");
    }
    assert!(carried > 5_000 && refused > 5_000, "{carried} carried, {refused} refused");
}

#[test]
fn patches_replace_header_strings_in_every_pair_of_encodings() {
    let params = json!({"from": "not this one", "deep": [{"to": 1}], "number": 1.5});
    let message = json!({"type": "CALL", "id": "req-1", "from": "a", "to": "b", "method": "m", "params": params});
    let text = serde_json::to_vec_pretty(&message).unwrap();
    let msgpack = to_msgpack(&text).unwrap();
    let long = "x\"\n€".repeat(50);
    for (source, body) in [(Encoding::Json, &text), (Encoding::Msgpack, &msgpack)] {
        for target in [Encoding::Json, Encoding::Msgpack] {
            let header = scan(body).unwrap();
            let mut patches: Vec<Patch<'_>> = [(&header.from, long.as_str()), (&header.id, ""), (&header.to, "zoë")]
                .into_iter()
                .map(|(field, text)| Patch { span: field.as_ref().unwrap().span.clone(), text })
                .collect();
            patches.sort_by_key(|patch| patch.span.start);
            let mut out = vec![7];
            rewrite(body, source, target, &patches, &mut out).unwrap();
            assert_eq!(out[0], 7, "the output is appended to");
            let patched = scan(&out[1..]).unwrap();
            assert_eq!(patched.encoding, target);
            assert_eq!(
                header_texts(&patched)[..4],
                [Some(String::new()), Some(long.clone()), Some("zoë".into()), Some("m".into())]
            );
            let found = Payload { encoding: target, bytes: &out[1..][patched.params.unwrap()] };
            assert_eq!(decode::to_json(found).unwrap(), params);
        }
    }
}

#[test]
fn patches_that_meet_no_value_are_refused() {
    let text = br#"{"type":"CALL","id":"req-1"}"#;
    let id = 20..27;
    for spans in [
        vec![21..27],         // within a value
        vec![15..19],         // a key
        vec![20..20],         // nothing
        vec![20..29],         // beyond the end
        vec![id.clone(), id], // twice
        vec![20..27, 8..14],  // not sorted
    ] {
        let patches: Vec<Patch<'_>> = spans.into_iter().map(|span| Patch { span, text: "x" }).collect();
        let mut out = Vec::new();
        let refused = rewrite(text, Encoding::Json, Encoding::Msgpack, &patches, &mut out);
        assert!(matches!(refused, Err(TranscodeError::Malformed { .. })), "{patches:?}");
        assert!(out.is_empty());
    }
}

#[test]
fn containers_of_every_size_get_the_smallest_head() {
    for len in [0, 1, 15, 16, 255, 65_535, 65_536, 70_000] {
        let array = json!(vec![0; len]);
        let object = Value::Object((0..len).map(|key| (key.to_string(), Value::Null)).collect());
        for value in [array, object] {
            let nested = json!([[], {"before": 1}, value, {"after": [value]}]);
            let msgpack = to_msgpack(&serde_json::to_vec(&nested).unwrap()).unwrap();
            assert_eq!(msgpack, rmp_serde::to_vec(&nested).unwrap(), "{len} elements");
        }
    }
}

#[test]
fn deep_nesting_is_an_error_and_not_a_crash() {
    for (opening, closing) in [("[", "]"), ("{\"a\":", "}")] {
        let nested = |levels: usize| format!("{}1{}", opening.repeat(levels), closing.repeat(levels));
        assert!(to_msgpack(nested(NESTING_MAX).as_bytes()).is_ok());
        assert!(matches!(to_msgpack(nested(NESTING_MAX + 1).as_bytes()), Err(TranscodeError::TooDeep { .. })));
        assert!(to_msgpack(nested(200_000).as_bytes()).is_err());
    }
    for opening in [&b"\x91"[..], b"\x81\xa1a", b"\xdd\xff\xff\xff\xff", b"\x81\x91"] {
        assert!(to_json(&opening.repeat(200_000)).is_err());
    }
    // A key may be nested as it likes: it is skipped, not written.
    let mut deep_key = vec![0x81];
    deep_key.resize(200_001, 0x91);
    deep_key.extend_from_slice(&[0xc0, 0x01]);
    assert_eq!(to_json(&deep_key).unwrap(), br#"{"?":1}"#);
}

#[test]
fn an_output_that_grows_beyond_a_frame_is_an_error() {
    let bins = 1_300_000_u32;
    let mut msgpack = vec![0xdd];
    msgpack.extend_from_slice(&bins.to_be_bytes());
    msgpack.extend_from_slice(&[0xc4, 0].repeat(bins as usize));
    assert_eq!(to_json(&msgpack), Err(TranscodeError::TooLarge { limit: FRAME_BYTES_MAX }));

    let text = format!("[{}-0]", "-0,".repeat(4_000_000));
    assert_eq!(to_msgpack(text.as_bytes()), Err(TranscodeError::TooLarge { limit: FRAME_BYTES_MAX }));

    let mut controls = vec![0xdb, 0, 0x60, 0, 0];
    controls.resize(5 + 0x60_0000, 1);
    assert_eq!(to_json(&controls), Err(TranscodeError::TooLarge { limit: FRAME_BYTES_MAX }));
}

#[test]
fn an_empty_payload_stays_empty() {
    for encoding in [Encoding::Json, Encoding::Msgpack] {
        for target in [Encoding::Json, Encoding::Msgpack] {
            let mut out = Vec::new();
            transcode(Payload { encoding, bytes: &[] }, target, &mut out).unwrap();
            assert!(out.is_empty());
        }
    }
}
