//! The JSON scanner agrees with serde_json: on generated messages, and on messages with broken bytes.

mod oracle;

use bro_proto::v1::{ScanError, scan};
use oracle::{CONTEXT_KEYS, KEYS};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// White space between tokens; mostly none, as programs write it.
fn space() -> impl Strategy<Value = &'static str> {
    select(vec!["", "", "", "", "", " ", "\n", "\t\r ", "\n    "])
}

fn text() -> impl Strategy<Value = String> {
    let piece = select(vec![
        "a",
        "order",
        "REGISTER",
        "CALL",
        "success",
        "é",
        "😀",
        "{",
        "}",
        "[",
        ",",
        ":",
        "\\\"",
        "\\\\",
        "\\/",
        "\\n",
        "\\u0041",
        "\\ud83d\\ude00",
        "\\ud800",
        "\\udc00",
        "\u{7f}",
        "\u{2028}",
        "x-xxxx-xxxxxxxxxxxxxxxx",
        " ",
    ]);
    vec(piece, 0..6).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

fn scalar() -> impl Strategy<Value = String> {
    let fixed = select(vec![
        "null",
        "true",
        "false",
        "0",
        "-0",
        "7",
        "-1",
        "2.5",
        "1e3",
        "1E+2",
        "12.75e-3",
        "1700000030000",
        "4294967296",
        "18446744073709551615",
        "18446744073709551616",
        "1e400",
        "-1e400",
        "0.1",
        "\"CALL\"",
        "\"error\"",
    ]);
    prop_oneof![fixed.prop_map(String::from), text(), any::<i64>().prop_map(|number| number.to_string())]
}

fn join(open: &str, items: Vec<(String, &'static str, &'static str)>, close: &str) -> String {
    let items: Vec<_> = items.into_iter().map(|(item, before, after)| format!("{before}{item}{after}")).collect();
    format!("{open}{}{close}", items.join(","))
}

fn object(
    key: impl Strategy<Value = String>,
    value: impl Strategy<Value = String>,
    len: std::ops::Range<usize>,
) -> impl Strategy<Value = String> {
    let entry =
        (key, value, space(), space()).prop_map(|(key, value, left, right)| format!("{key}{left}:{right}{value}"));
    vec((entry, space(), space()), len).prop_map(|entries| join("{", entries, "}"))
}

fn value() -> impl Strategy<Value = String> {
    scalar().prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            vec((inner.clone(), space(), space()), 0..6).prop_map(|items| join("[", items, "]")),
            object(text(), inner, 0..5),
        ]
    })
}

/// Bodies that look like messages; most of them are, the others have a fault or two.
fn message() -> impl Strategy<Value = String> {
    let known = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
        prop_oneof![30 => select(names), 1 => text()]
    };
    let context = object(known(&CONTEXT_KEYS), value(), 0..5);
    let field = prop_oneof![
        6 => (known(&KEYS), text()).prop_map(|(key, value)| format!("{key}:{value}")),
        2 => (known(&KEYS), value()).prop_map(|(key, value)| format!("{key}:{value}")),
        2 => context.prop_map(|context| format!("\"context\":{context}")),
        1 => (select(vec!["params", "data", "error"]), value()).prop_map(|(key, value)| format!("\"{key}\" : {value}")),
    ];
    vec(field, 0..8).prop_map(|mut fields| {
        fields.insert(fields.len() / 2, String::from("\"type\":\"CALL\""));
        let mut seen = Vec::new();
        // Most repeated keys would only be refused for being repeated.
        fields.retain(|field| {
            let key = field.split(':').next().unwrap().trim().to_owned();
            let keep = !seen.contains(&key) || field.len() % 7 == 0;
            seen.push(key);
            keep
        });
        format!("{{{}}}", fields.join(","))
    })
}

/// Breaks a body at some places.
fn broken(body: impl Strategy<Value = String>) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![select(b"{}[]:,\"\\0123456789-+.eEtfnu \n\x00\x1f\x7f\x80\xff".to_vec()), any::<u8>()];
    let change = (any::<prop::sample::Index>(), byte, 0..3);
    (body, vec(change, 1..4)).prop_map(|(body, changes)| {
        let mut body = body.into_bytes();
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
    fn messages_are_read_as_serde_json_reads_them(body in message()) {
        oracle::json::check(body.as_bytes());
    }

    #[test]
    fn broken_messages_are_refused_when_serde_json_refuses_them(body in broken(message())) {
        oracle::json::check(&body);
    }

    #[test]
    fn payloads_are_checked_as_serde_json_checks_them(value in value(), filler in 0..130usize) {
        // The filler moves the payload over the borders of the blocks that the scanner works in.
        let body = format!("{{\"type\":\"CALL\",\"{}\":1,\"params\":{value}}}", "x".repeat(filler));
        oracle::json::check(body.as_bytes());
        for cut in 0..body.len() {
            oracle::json::check(&body.as_bytes()[..cut]);
        }
    }

    #[test]
    fn broken_payloads_are_refused_when_serde_json_refuses_them(value in broken(value())) {
        let body = [&b"{\"type\":\"RESPONSE\",\"data\":"[..], &value, b"}"].concat();
        oracle::json::check(&body);
    }
}

#[test]
fn most_generated_messages_are_accepted() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let strategy = message();
    let accepted = (0..500).filter(|_| {
        let body = strategy.new_tree(&mut runner).unwrap().current();
        scan(body.as_bytes()).is_ok()
    });
    let accepted = accepted.count();
    assert!((100..450).contains(&accepted), "{accepted} of 500: the properties would say little");
}

#[test]
fn two_hundred_thousand_levels_are_refused_not_followed() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":", "}]")] {
        for field in ["params", "context", "unknown", "methods"] {
            let nested = format!("{}1{}", open.repeat(200_000), close.repeat(200_000));
            let body = format!("{{\"type\":\"CALL\",\"{field}\":{nested}}}");
            assert!(matches!(scan(body.as_bytes()), Err(ScanError::TooDeep { .. })), "{field}");
            assert!(scan(&body.as_bytes()[..body.len() / 2]).is_err());
        }
    }
    assert!(scan("{".repeat(200_000).as_bytes()).is_err());
    assert!(scan("{\"context\":".repeat(200_000).as_bytes()).is_err());
}
