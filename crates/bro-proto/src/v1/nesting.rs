//! Whether a value can be sent, or read: its nesting, and its form.

use super::{Encoding, Payload, ScanError, json, msgpack};
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
            if bytes.len() <= levels_max || !is_container { Ok(()) } else { msgpack::check_value(bytes, 1).map(|_| ()) }
        }
    }
}

/// Proves that a value is what [`Payload`] promises: one whole, well-formed value, or none. For values that nobody has looked at
/// on their way, as those of v2.
pub fn check_value(payload: Payload<'_>) -> Result<(), ScanError> {
    match payload.encoding {
        _ if payload.bytes.is_empty() => Ok(()),
        Encoding::Json => json::check_value(payload.bytes),
        Encoding::Msgpack => match payload.bytes.len() - msgpack::check_value(payload.bytes, 1)? {
            0 => Ok(()),
            bytes => Err(ScanError::TrailingBytes { bytes }),
        },
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
    use crate::rng::Rng;

    #[test]
    fn a_value_is_one_whole_value_of_its_encoding() {
        let check = |encoding, bytes: &[u8]| check_value(Payload { encoding, bytes });
        for good in ["", "1", " [1,\"\u{fc}\",{\"a\":null}] ", "\"\\ud800\"", &arrays(NESTING_MAX - 1)] {
            assert_eq!(check(Encoding::Json, good.as_bytes()), Ok(()), "{good}");
        }
        let bad: [&[u8]; 9] = [b" ", b"1 2", b"1],[2", b"{", b"nul", b"\"\xff\"", b"{a:1}", b"\"", b"\xb2"];
        for bytes in bad {
            assert!(check(Encoding::Json, bytes).is_err(), "{bytes:?}");
        }
        assert!(matches!(check(Encoding::Json, arrays(NESTING_MAX).as_bytes()), Err(ScanError::TooDeep { .. })));
        let good: [&[u8]; 4] = [b"", b"\xc0", b"\x92\x01\xa1x", b"\x81\x01\xc3"];
        for bytes in good {
            assert_eq!(check(Encoding::Msgpack, bytes), Ok(()), "{bytes:?}");
        }
        let bad: [&[u8]; 4] = [b"\x92\x01", b"\x01\x02", b"\xc1", b"\xdf\xff\xff\xff\xff\x01"];
        for bytes in bad {
            assert!(check(Encoding::Msgpack, bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_value_alone_is_judged_as_in_a_message() {
        let good = br#" [1.5e3,{"k\u00fc":"x\"y","l":[true,null,-0]},"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"] "#;
        let mut accepted = 0;
        for seed in 0..20_000 {
            let mut rng = Rng::new(seed);
            let mut bytes = good.to_vec();
            for _ in 0..rng.below(3) {
                let at = usize::try_from(rng.below(bytes.len() as u64)).unwrap();
                match rng.below(3) {
                    0 => bytes.truncate(at.max(1)),
                    1 => bytes[at] = b"\"\\[]{},:0 x\xc3"[usize::try_from(rng.below(12)).unwrap()],
                    _ => drop(bytes.remove(at)),
                }
                bytes.extend_from_slice(b" ");
            }
            let message = [br#"{"type":"CALL","params":"#, bytes.as_slice(), b"}"].concat();
            let in_message = super::super::scan(&message)
                .is_ok_and(|header| header.params.is_some_and(|span| message[span].trim_ascii() == bytes.trim_ascii()));
            let alone = check_value(Payload { encoding: Encoding::Json, bytes: &bytes }).is_ok();
            assert_eq!(alone, in_message, "seed {seed}: {}", bytes.escape_ascii());
            accepted += u32::from(alone);
        }
        assert!((1000..19_000).contains(&accepted), "{accepted}");
    }

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
