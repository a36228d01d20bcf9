//! Ids as the JavaScript library writes them: `<prefix>-<milliseconds>-<6 base36 digits>`.

use crate::rng::Rng;
use std::fmt;

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
const TAIL_LEN: usize = 6;
/// Decimal digits of the largest number of milliseconds, and the dash before them.
const MS_LEN_MAX: usize = 21;
/// 36 to the power of [`TAIL_LEN`].
const TAIL_VALUES: u64 = 36_u64.pow(6);

/// An id with a prefix of the caller's choice, as the readme's `generateId`.
pub fn generate_id(prefix: &str, wall_ms: u64, rng: &mut Rng) -> String {
    let mut id = String::with_capacity(prefix.len() + 22);
    write_id(&mut id, prefix, wall_ms, rng.below(TAIL_VALUES)).expect("writing to a string");
    id
}

/// The id that a call chain carries from its first call to its last, as the readme's `generateRootId`.
pub fn generate_root_id(wall_ms: u64, rng: &mut Rng) -> String {
    generate_id("root", wall_ms, rng)
}

/// Writes an id whose last six digits stand for `tail`. Without the machinery of formatting: it runs for every call.
///
/// # Panics
/// When `tail` needs more than six base36 digits.
pub fn write_id(out: &mut impl fmt::Write, prefix: &str, wall_ms: u64, tail: u64) -> fmt::Result {
    assert!(tail < TAIL_VALUES, "the tail fits six digits");
    let mut text = [b'0'; MS_LEN_MAX + 1 + TAIL_LEN];
    let mut at = text.len();
    let mut put = |digit: u8| {
        at -= 1;
        text[at] = digit;
    };
    let mut rest = tail;
    for _ in 0..TAIL_LEN {
        put(DIGITS[(rest % 36) as usize]);
        rest /= 36;
    }
    put(b'-');
    let mut rest = wall_ms;
    loop {
        put(DIGITS[(rest % 10) as usize]);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    put(b'-');
    out.write_str(prefix)?;
    out.write_str(std::str::from_utf8(&text[at..]).expect("digits are ASCII"))
}

/// The number behind the last six digits of an id, if it has the shape of one.
pub fn id_tail(id: &str) -> Option<u64> {
    let tail = id.as_bytes().last_chunk::<TAIL_LEN>()?;
    tail.iter().try_fold(0_u64, |sum, &byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'z' => byte - b'a' + 10,
            _ => return None,
        };
        Some(sum * 36 + u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_documented_shape() {
        let mut rng = Rng::new(7);
        let id = generate_id("req", 1_699_005_123_456, &mut rng);
        let parts: Vec<&str> = id.split('-').collect();
        assert_eq!(parts.len(), 3);
        assert_eq!(parts[..2], ["req", "1699005123456"]);
        assert_eq!(parts[2].len(), 6);
        assert!(generate_root_id(1, &mut rng).starts_with("root-1-"));
    }

    #[test]
    fn a_tail_can_be_read_back() {
        for tail in [0, 1, 35, 36, 123_456_789, TAIL_VALUES - 1] {
            let mut id = String::new();
            write_id(&mut id, "req", 42, tail).unwrap();
            assert_eq!(id_tail(&id), Some(tail));
            assert!(id.starts_with("req-42-"), "{id}");
        }
        let mut id = String::new();
        write_id(&mut id, "", u64::MAX, 0).unwrap();
        assert_eq!(id, "-18446744073709551615-000000");
        id.clear();
        write_id(&mut id, "x", 0, 1).unwrap();
        assert_eq!(id, "x-0-000001");
        assert_eq!(id_tail("short"), None);
        assert_eq!(id_tail("req-1-ABCDEF"), None);
    }
}
