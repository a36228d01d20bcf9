//! The insides of JSON strings, and the digits of numbers.

/// Where the escape ends whose backslash is at `at`; otherwise where it is malformed.
#[inline(always)]
pub(super) fn escape_end(body: &[u8], at: usize) -> Result<usize, usize> {
    match body.get(at + 1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
        Some(b'u') => {
            let end = at + 6;
            for digit in at + 2..end {
                match body.get(digit) {
                    Some(byte) if byte.is_ascii_hexdigit() => {}
                    Some(_) => return Err(digit),
                    None => return Err(body.len()),
                }
            }
            Ok(end)
        }
        Some(_) => Err(at + 1),
        None => Err(body.len()),
    }
}

/// How many of eight bytes, the first one lowest, are ASCII digits before the first that is not.
#[inline(always)]
pub(super) fn leading_digits(chunk: u64) -> usize {
    const ONES: u64 = u64::MAX / 255;
    // Digits become 0..=9; adding 0x76 sets the high bit of everything above. A carry only reaches later bytes.
    let digits = chunk ^ (ONES * 0x30);
    let others = (digits.wrapping_add(ONES * 0x76) | digits) & (ONES * 0x80);
    others.trailing_zeros() as usize / 8
}

/// The number that eight ASCII digits say, the first one lowest: by pairs, by fours, and all.
#[inline(always)]
pub(super) fn eight_digits(chunk: u64) -> u64 {
    let digits = chunk & 0x0f0f_0f0f_0f0f_0f0f;
    let pairs = (digits.wrapping_mul(10 << 8 | 1) >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs.wrapping_mul(100 << 16 | 1) >> 16) & 0x0000_ffff_0000_ffff;
    (fours.wrapping_mul(10_000 << 32 | 1)) >> 32
}

/// Appends the characters that the inside of a well-formed string stands for; lone surrogates become U+FFFD.
pub(super) fn unescape(mut inside: &str, out: &mut String) {
    while let Some(backslash) = memchr::memchr(b'\\', inside.as_bytes()) {
        out.push_str(&inside[..backslash]);
        let escape = &inside[backslash + 1..];
        let (character, escape_bytes) = match escape.as_bytes().first() {
            Some(b'b') => ('\u{8}', 1),
            Some(b'f') => ('\u{c}', 1),
            Some(b'n') => ('\n', 1),
            Some(b'r') => ('\r', 1),
            Some(b't') => ('\t', 1),
            Some(b'u') => unicode_escape(escape),
            // A quote, a backslash or a slash stands for itself.
            Some(&byte) => (char::from(byte), 1),
            None => return,
        };
        out.push(character);
        inside = &escape[escape_bytes..];
    }
    out.push_str(inside);
}

/// The character of an escape that starts with `u`, and the escape's bytes; a pair of surrogates is one escape.
fn unicode_escape(escape: &str) -> (char, usize) {
    let code = |digits: Option<&str>| digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let first = code(escape.get(1..5)).unwrap_or(0xfffd);
    if let 0xd800..=0xdbff = first
        && escape.get(5..7) == Some("\\u")
        && let Some(second @ 0xdc00..=0xdfff) = code(escape.get(7..11))
    {
        let joined = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        return (char::from_u32(joined).unwrap_or(char::REPLACEMENT_CHARACTER), 11);
    }
    (char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER), 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unescaped(inside: &str) -> String {
        let mut out = String::new();
        unescape(inside, &mut out);
        out
    }

    #[test]
    fn digits_end_at_any_other_byte() {
        for digits in 0..=8 {
            for other in (0..=255u8).filter(|byte| !byte.is_ascii_digit()) {
                for after in [0x00, b'0', b'9', 0xff] {
                    let mut chunk = [after; 8];
                    chunk[..digits].copy_from_slice(&b"0918273645"[..digits]);
                    if digits < 8 {
                        chunk[digits] = other;
                    }
                    assert_eq!(leading_digits(u64::from_le_bytes(chunk)), digits, "{chunk:?}");
                }
            }
        }
    }

    #[test]
    fn eight_digits_make_a_number() {
        for number in [0, 1, 9, 10, 12_345_678, 99_999_999, 10_000_000, 90_807_060, 7_000] {
            let chunk = format!("{number:08}").into_bytes().try_into().unwrap();
            assert_eq!(eight_digits(u64::from_le_bytes(chunk)), number);
        }
    }

    #[test]
    fn escapes_of_every_kind_are_undone() {
        assert_eq!(unescaped(r#"a\"\\\/\b\f\n\r\tz"#), "a\"\\/\u{8}\u{c}\n\r\tz");
        assert_eq!(unescaped(r"\u00e9\u20AC\ud83d\ude00"), "é€😀");
        assert_eq!(unescaped("plain é"), "plain é");
    }

    #[test]
    fn lone_surrogates_become_replacement_characters() {
        assert_eq!(unescaped(r"a\ud800"), "a\u{fffd}");
        assert_eq!(unescaped(r"\udc00b"), "\u{fffd}b");
        assert_eq!(unescaped(r"\ud800\ud800\udc00"), "\u{fffd}\u{10000}");
        assert_eq!(unescaped(r"\ud800\n"), "\u{fffd}\n");
    }
}
