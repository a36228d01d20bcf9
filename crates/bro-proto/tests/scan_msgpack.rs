//! The msgpack scanner agrees with a reader on top of rmp: on generated messages, and on messages with broken bytes.

mod oracle;

use bro_proto::v1::{ScanError, scan};
use oracle::{CONTEXT_KEYS, KEYS};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use rmp::encode as write;

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

fn text_of(text: &str) -> Vec<u8> {
    written(|out| write::write_str(out, text).unwrap())
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    let plain = select(vec!["", "a", "order", "CALL", "success", "é", "😀", "type", "context", "a\"b", "line\n"]);
    prop_oneof![
        plain.prop_map(text_of),
        (0..300usize).prop_map(|len| text_of(&"x".repeat(len))),
        // A lone surrogate, as msgpackr writes it, and a long size of a short text.
        Just(vec![0xa3, 0xed, 0xa0, 0x80]),
        Just(vec![0xdb, 0, 0, 0, 1, b'a']),
    ]
}

fn scalar() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        text(),
        any::<u64>().prop_map(|number| written(|out| drop(write::write_uint(out, number >> (number % 64))))),
        any::<i64>().prop_map(|number| written(|out| drop(write::write_sint(out, number >> (number & 63))))),
        any::<f64>().prop_map(|number| written(|out| write::write_f64(out, number).unwrap())),
        any::<f32>().prop_map(|number| written(|out| write::write_f32(out, number).unwrap())),
        (any::<i8>(), 0..20u32).prop_map(|(kind, len)| written(|out| {
            write::write_ext_meta(out, len, kind).unwrap();
            out.extend(vec![0; len as usize]);
        })),
        vec(any::<u8>(), 0..300).prop_map(|bytes| written(|out| write::write_bin(out, &bytes).unwrap())),
        select(vec![vec![0xc0], vec![0xc2], vec![0xc3], vec![0xd4, 0, 0], vec![0xd4, 0x72, 0x40]]),
    ]
}

/// The head of a map or an array in one of its sizes.
fn head(len: usize, size: u8, markers: [u8; 3]) -> Vec<u8> {
    let len = u32::try_from(len).unwrap();
    match size {
        0 if len < 16 => vec![markers[0] | len.to_be_bytes()[3]],
        0 | 1 => [&[markers[1]], &len.to_be_bytes()[2..]].concat(),
        _ => [&[markers[2]], &len.to_be_bytes()[..]].concat(),
    }
}

fn map(
    key: impl Strategy<Value = Vec<u8>>,
    value: impl Strategy<Value = Vec<u8>>,
    len: std::ops::Range<usize>,
) -> impl Strategy<Value = Vec<u8>> {
    (vec((key, value), len), 0..3u8).prop_map(|(entries, size)| {
        let mut out = head(entries.len(), size, [0x80, 0xde, 0xdf]);
        entries.into_iter().for_each(|(key, value)| out.extend([key, value].concat()));
        out
    })
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    scalar().prop_recursive(5, 40, 6, |inner| {
        let array = (vec(inner.clone(), 0..6), 0..3u8)
            .prop_map(|(items, size)| [head(items.len(), size, [0x90, 0xdc, 0xdd]), items.concat()].concat());
        prop_oneof![array, map(inner.clone(), inner, 0..5)]
    })
}

/// Bodies that look like messages; many of them are, the others have a fault or two.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let known = |names: &[&str]| {
        let names: Vec<Vec<u8>> = names.iter().map(|name| text_of(name)).collect();
        prop_oneof![30 => select(names), 1 => scalar()]
    };
    let plain = select(vec!["order", "user", "success", "error", "req-1"]).prop_map(text_of);
    let field = prop_oneof![
        6 => (known(&KEYS[1..]), plain),
        1 => (known(&KEYS), value()),
        2 => (Just(text_of("context")), map(known(&CONTEXT_KEYS), value(), 0..5)),
        3 => (known(&KEYS[8..]), value()),
    ];
    (vec(field, 0..7), 0..3u8).prop_map(|(mut fields, size)| {
        fields.insert(fields.len() / 2, (text_of("type"), text_of("RESPONSE")));
        let mut seen = Vec::new();
        // Most repeated keys would only be refused for being repeated.
        fields.retain(|(key, value)| {
            let keep = !seen.contains(key) || value.len() % 7 == 0;
            seen.push(key.clone());
            keep
        });
        let mut out = head(fields.len(), size, [0x80, 0xde, 0xdf]);
        fields.into_iter().for_each(|(key, value)| out.extend([key, value].concat()));
        out
    })
}

/// Breaks a body at some places.
fn broken(body: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), any::<u8>(), 0..3);
    (body, vec(change, 1..4)).prop_map(|(mut body, changes)| {
        for (place, byte, how) in changes {
            let place = place.index(body.len());
            match how {
                0 => body[place] = byte,
                1 => body.insert(place, byte),
                _ if body.len() > 1 => {
                    body.remove(place);
                }
                _ => {}
            }
        }
        body
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn messages_are_read_as_rmp_reads_them(body in message()) {
        oracle::msgpack::check(&body);
    }

    #[test]
    fn broken_messages_are_refused_when_rmp_refuses_them(body in broken(message())) {
        oracle::msgpack::check(&body);
    }

    #[test]
    fn payloads_are_passed_as_rmp_passes_them(value in value()) {
        let body = [&[0x82], &*text_of("type"), &text_of("CALL"), &text_of("params"), &value].concat();
        oracle::msgpack::check(&body);
        for cut in 0..body.len() {
            oracle::msgpack::check(&body[..cut]);
        }
    }

    #[test]
    fn any_bytes_are_a_message_for_both_or_for_neither(body in vec(any::<u8>(), 0..60)) {
        oracle::msgpack::check(&[&[0x8f & (0x80 | body.len().to_le_bytes()[0])], &*body].concat());
    }
}

#[test]
fn most_generated_messages_are_accepted() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let strategy = message();
    let accepted = (0..500).filter(|_| scan(&strategy.new_tree(&mut runner).unwrap().current()).is_ok()).count();
    assert!((100..450).contains(&accepted), "{accepted} of 500: the properties would say little");
}

#[test]
fn two_hundred_thousand_levels_are_refused_not_followed() {
    for open in [&[0x91][..], &[0x81, 0xa1, b'a'], &[0xdd, 0, 0, 0, 1], &[0x92, 0x01]] {
        for field in ["params", "context", "unknown", "methods"] {
            let nested = open.repeat(200_000);
            let body = [&[0x82], &*text_of("type"), &text_of("CALL"), &text_of(field), &nested, &[0xc0]].concat();
            let refused = scan(&body);
            assert!(matches!(refused, Err(ScanError::TooDeep { .. })), "{field}: {refused:?}");
        }
    }
    assert!(scan(&[0x81, 0xa1, b'a'].repeat(200_000)).is_err());
}
