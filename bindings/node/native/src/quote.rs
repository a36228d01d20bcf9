//! Strings as JSON. `JSON.stringify` looks at every character of them by itself; here most are copied.

use crate::node::{Env, Value};
use std::io::Write as _;

/// Appends a JavaScript string in quotes, as `JSON.stringify` writes it.
pub(crate) fn append_quoted(env: Env, value: Value, out: &mut Vec<u8>) -> Option<()> {
    let start = out.len();
    out.push(b'"');
    if env.append_utf8(value, out)? {
        if needs_escapes(&out[start + 1..]) {
            let plain = out.split_off(start + 1);
            plain.iter().for_each(|byte| push(out, char::from(*byte)));
        }
        out.push(b'"');
    } else {
        out.truncate(start);
        let mut units = Vec::new();
        env.append_utf16(value, &mut units)?;
        append_quoted_units(&units, out);
    }
    Some(())
}

/// Appends ASCII in quotes.
pub(crate) fn append_quoted_ascii(ascii: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    if needs_escapes(ascii) {
        ascii.iter().for_each(|byte| push(out, char::from(*byte)));
    } else {
        out.extend_from_slice(ascii);
    }
    out.push(b'"');
}

/// Appends text in quotes.
pub(crate) fn append_quoted_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    text.chars().for_each(|character| push(out, character));
    out.push(b'"');
}

/// Appends UTF-16 in quotes. What is half of a character stays what it is, as an escape.
pub(crate) fn append_quoted_units(units: &[u16], out: &mut Vec<u8>) {
    out.push(b'"');
    for decoded in char::decode_utf16(units.iter().copied()) {
        match decoded {
            Ok(character) => push(out, character),
            Err(lone) => {
                // Writing to a vector does not fail.
                let _ = write!(out, "\\u{:04x}", lone.unpaired_surrogate());
            }
        }
    }
    out.push(b'"');
}

/// Whether any byte cannot stand as it is. Without a way out inside a chunk, so that many bytes are looked at together.
fn needs_escapes(ascii: &[u8]) -> bool {
    let is_special = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
    ascii.chunks(256).any(|chunk| chunk.iter().fold(false, |found, byte| found | is_special(byte)))
}

fn push(out: &mut Vec<u8>, character: char) {
    match character {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        control if u32::from(control) < 0x20 => {
            // Writing to a vector does not fail.
            let _ = write!(out, "\\u{:04x}", u32::from(control));
        }
        other => {
            let mut buffer = [0; 4];
            out.extend_from_slice(other.encode_utf8(&mut buffer).as_bytes());
        }
    }
}
