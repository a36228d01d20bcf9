//! Whether a value that is to be sent is nested deeper than receivers accept.

use super::{Encoding, Payload, ScanError, msgpack};
use crate::limits::NESTING_MAX;

/// Refuses a value that no gateway would forward: with the message around it, it is nested deeper than [`NESTING_MAX`].
///
/// For values that are about to be sent, so that one of them does not cost its sender the connection. It is meant for well-formed
/// values: most JSON takes no more than counting the bytes that could open an array or an object.
pub fn check_nesting(payload: Payload<'_>) -> Result<(), ScanError> {
    let bytes = payload.bytes;
    // The message itself is the outermost level.
    let levels_max = NESTING_MAX - 1;
    match payload.encoding {
        Encoding::Json => {
            // Every level takes two bytes, and a value that begins with none has none.
            if bytes.len() < 2 * levels_max || !matches!(bytes.trim_ascii_start(), [b'{' | b'[', ..]) {
                return Ok(());
            }
            // In chunks that a byte can count, so that many are looked at together. `{` and `[` differ in one bit.
            let openers: usize = bytes
                .chunks(128)
                .map(|chunk| usize::from(chunk.iter().map(|byte| u8::from(byte & 0xdf == b'[')).sum::<u8>()))
                .sum();
            if openers <= levels_max { Ok(()) } else { check_json(bytes, levels_max) }
        }
        Encoding::Msgpack => {
            // Every level takes a byte. The walk passes over texts without reading them.
            let is_container = matches!(bytes, [0x80..=0x9f | 0xdc..=0xdf, ..]);
            if bytes.len() <= levels_max || !is_container { Ok(()) } else { msgpack::check_value(bytes, 1) }
        }
    }
}

fn check_json(bytes: &[u8], levels_max: usize) -> Result<(), ScanError> {
    let (mut level, mut in_string, mut escaped) = (0_usize, false, false);
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                level += 1;
                if level > levels_max {
                    return Err(ScanError::TooDeep { at });
                }
            }
            b'}' | b']' if !in_string => level = level.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Result<(), ScanError> {
        check_nesting(Payload { encoding: Encoding::Json, bytes: text.as_bytes() })
    }

    fn arrays(levels: usize) -> String {
        "[".repeat(levels) + &"]".repeat(levels)
    }

    #[test]
    fn as_deep_as_a_message_may_carry_and_no_deeper() {
        assert_eq!(json(&arrays(NESTING_MAX - 1)), Ok(()));
        assert!(matches!(json(&format!(" \n{}", arrays(NESTING_MAX))), Err(ScanError::TooDeep { .. })));
        assert!(matches!(json(&arrays(NESTING_MAX)), Err(ScanError::TooDeep { .. })));
        for (levels, is_fit) in [(NESTING_MAX - 1, true), (NESTING_MAX, false)] {
            let body = format!("{{\"type\":\"CALL\",\"params\":{}}}", arrays(levels));
            assert_eq!(super::super::scan(body.as_bytes()).is_ok(), is_fit, "the scan agrees at {levels}");
            let mut bytes = vec![0x91; levels - 1];
            bytes.push(0x90);
            assert_eq!(check_nesting(Payload { encoding: Encoding::Msgpack, bytes: &bytes }).is_ok(), is_fit);
        }
    }

    #[test]
    fn wide_values_and_brackets_in_strings_are_not_deep() {
        assert_eq!(json(&format!("[{}[]]", "[],".repeat(1000))), Ok(()));
        assert_eq!(json(&format!("\"{}\\\"{}\"", "[".repeat(500), "{".repeat(500))), Ok(()));
        let mut bytes = vec![0xdc, 0x03, 0xe8];
        bytes.extend(std::iter::repeat_n(0x90, 1000));
        assert_eq!(check_nesting(Payload { encoding: Encoding::Msgpack, bytes: &bytes }), Ok(()));
        let mut text = vec![0xda, 0x01, 0xf4];
        text.extend(std::iter::repeat_n(0x91, 500));
        assert_eq!(check_nesting(Payload { encoding: Encoding::Msgpack, bytes: &text }), Ok(()));
    }
}
