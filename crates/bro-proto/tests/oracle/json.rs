//! The oracle for JSON.

use super::{CONTEXT_KEYS, Faults, KEYS, TEXT_KEYS, assert_text, has_duplicates};
use bro_proto::limits::NESTING_MAX;
use bro_proto::v1::{Header, Kind, Status, json};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::ops::Range;

/// Scans a body and panics when serde_json sees it otherwise.
pub fn check(body: &[u8]) {
    let scanned = json::scan(body);
    let Some((text, entries)) = read(body) else {
        assert!(scanned.is_err(), "accepted, though serde_json does not: {}", body.escape_ascii());
        return;
    };
    let context = value_of(&entries, "context").and_then(object);
    let faults = faults(text, &entries, context.as_deref());
    match scanned {
        Ok(header) => {
            assert!(!faults.any(), "accepted in spite of {faults:?}: {text}");
            compare(text, &header, &entries, context.as_deref());
        }
        Err(fault) => assert!(faults.allow(fault), "{fault} but {faults:?}: {text}"),
    }
}

struct Entry<'a> {
    /// The decoded key; a lone surrogate has three bytes, as if UTF-8 had it.
    key: Vec<u8>,
    raw: &'a RawValue,
}

/// A decoded string of serde_json with lone surrogates in it.
struct Bytes(Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BytesVisitor;
        impl Visitor<'_> for BytesVisitor {
            type Value = Bytes;
            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("a string")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
            fn visit_str<E>(self, text: &str) -> Result<Bytes, E> {
                Ok(Bytes(text.as_bytes().to_vec()))
            }
        }
        deserializer.deserialize_bytes(BytesVisitor)
    }
}

struct Entries<'a>(Vec<Entry<'a>>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries<'de>;
            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some((Bytes(key), raw)) = map.next_entry::<Bytes, &RawValue>()? {
                    entries.push(Entry { key, raw });
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(EntriesVisitor)
    }
}

/// The body as text, and its entries, when serde_json takes it for an object.
fn read(body: &[u8]) -> Option<(&str, Vec<Entry<'_>>)> {
    let text = std::str::from_utf8(body).ok()?;
    serde_json::from_slice::<IgnoredAny>(body).ok()?;
    Some((text, object(text)?))
}

fn object(text: &str) -> Option<Vec<Entry<'_>>> {
    serde_json::from_str::<Entries<'_>>(text).ok().map(|entries| entries.0)
}

/// How deep a well-formed text is nested.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => loop {
                match bytes.next() {
                    Some(b'\\') => {
                        bytes.next();
                    }
                    Some(b'"') | None => break,
                    Some(_) => {}
                }
            },
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth -= 1,
            _ => {}
        }
    }
    deepest
}

/// Where a part of a text stands in it.
fn span(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr() as usize - text.as_ptr() as usize;
    start..start + part.len()
}

/// Whether one of the keys is written with a backslash: what stands between two values is a comma, a key and a colon, and
/// in front of the first the brace of the object, which is behind `start`.
fn has_escaped_key(text: &str, start: usize, object: &[Entry<'_>]) -> bool {
    let mut behind = start;
    object.iter().any(|entry| {
        let value = span(text, entry.raw.get());
        let escaped = text[behind..value.start].contains('\\');
        behind = value.end;
        escaped
    })
}

fn value_of<'a>(entries: &[Entry<'a>], key: &str) -> Option<&'a str> {
    entries.iter().find(|entry| entry.key == key.as_bytes()).map(|entry| entry.raw.get())
}

fn faults(text: &str, entries: &[Entry<'_>], context: Option<&[Entry<'_>]>) -> Faults {
    let context_start = value_of(entries, "context").map_or(0, |raw| span(text, raw).start);
    let context = context.unwrap_or_default();
    let value = |key: &'static str| {
        entries.iter().filter(move |entry| entry.key == key.as_bytes()).map(|entry| entry.raw.get())
    };
    let wrong_text = |raw: &str| !raw.starts_with('"') && raw != "null";
    let wrong_status = |raw: &str| raw != "null" && !matches!(&*decoded(raw), "success" | "error");
    Faults {
        too_deep: depth(text) > NESTING_MAX,
        duplicate_key: has_duplicates(entries.iter().map(|entry| &*entry.key), &KEYS)
            || has_duplicates(context.iter().map(|entry| &*entry.key), &CONTEXT_KEYS),
        unusual_key: has_escaped_key(text, 0, entries) || has_escaped_key(text, context_start, context),
        wrong_type: TEXT_KEYS.iter().any(|key| value(key).any(wrong_text))
            || value("status").any(wrong_status)
            || value("type").all(|raw| raw == "null"),
        invalid_utf8: false,
    }
}

/// The text of a raw string, with U+FFFD for lone surrogates; something impossible for other values.
fn decoded(raw: &str) -> String {
    let Ok(Bytes(mut bytes)) = serde_json::from_str(raw) else { return String::from("\0 not a string") };
    for at in 0..bytes.len() {
        if bytes[at] == 0xed && bytes[at + 1] >= 0xa0 {
            bytes[at..at + 3].copy_from_slice("\u{fffd}".as_bytes());
        }
    }
    String::from_utf8(bytes).expect("only surrogates are not UTF-8")
}

/// A raw value as an unsigned integer, if it is a number.
fn number(raw: &str) -> Option<u64> {
    if !raw.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
        return None;
    }
    if raw.starts_with('-') {
        return Some(0);
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
    Some(raw.parse::<u64>().unwrap_or_else(|_| raw.parse::<f64>().unwrap() as u64))
}

fn compare(text: &str, header: &Header<'_>, entries: &[Entry<'_>], context: Option<&[Entry<'_>]>) {
    let raw_in = |entries: &[Entry<'_>], key: &str| value_of(entries, key).map(|raw| span(text, raw));
    let raw = |key: &str| raw_in(entries, key);
    let text_of = |raw: Option<Range<usize>>| {
        raw.filter(|raw| text[raw.clone()].starts_with('"')).map(|raw| (decoded(&text[raw.clone()]), raw))
    };
    let (kind, _) = text_of(raw("type")).unwrap();
    assert_eq!(header.kind, Kind::from_name(kind.as_bytes()));
    assert_eq!(header.status, text_of(raw("status")).and_then(|(status, _)| Status::from_name(status.as_bytes())));
    assert_text("id", header.id.as_ref(), text_of(raw("id")));
    assert_text("from", header.from.as_ref(), text_of(raw("from")));
    assert_text("to", header.to.as_ref(), text_of(raw("to")));
    assert_text("method", header.method.as_ref(), text_of(raw("method")));
    assert_text("serviceName", header.service_name.as_ref(), text_of(raw("serviceName")));
    assert_text("version", header.version.as_ref(), text_of(raw("version")));
    assert_eq!(header.methods, raw("methods"));
    assert_eq!(header.metadata, raw("metadata"));
    assert_eq!(header.params, raw("params"));
    assert_eq!(header.data, raw("data"));
    assert_eq!(header.error, raw("error"));
    assert_eq!(header.timestamp_ms, raw("timestamp").and_then(|raw| number(&text[raw])));

    assert_eq!(header.context.is_some(), context.is_some());
    let (Some(header), Some(context)) = (&header.context, context) else { return };
    let raw_in_context = |key: &str| raw_in(context, key);
    assert_eq!(Some(header.span.clone()), raw("context"));
    assert_text("root", header.root.as_ref(), text_of(raw_in_context("root")));
    let chain = raw_in_context("chain").filter(|raw| text[raw.clone()].starts_with('['));
    assert_eq!(header.chain, chain);
    let chain_len = chain.map_or(0, |raw| serde_json::from_str::<Vec<IgnoredAny>>(&text[raw]).unwrap().len());
    assert_eq!(header.chain_len, chain_len);
    let number = |key: &str| raw_in_context(key).and_then(|raw| number(&text[raw]));
    assert_eq!(header.depth, number("depth").map(|depth| u32::try_from(depth).unwrap_or(u32::MAX)));
    assert_eq!(header.deadline_ms, number("deadline"));
}
