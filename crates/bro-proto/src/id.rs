//! Ids as the JavaScript library writes them: `<prefix>-<milliseconds>-<6 base36 digits>`.

use crate::rng::Rng;

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
const TAIL_LEN: usize = 6;
/// 36 to the power of [`TAIL_LEN`].
const TAIL_VALUES: u64 = 36_u64.pow(6);

/// An id with a prefix of the caller's choice, as the readme's `generateId`.
pub fn generate_id(prefix: &str, wall_ms: u64, rng: &mut Rng) -> String {
    let mut id = String::with_capacity(prefix.len() + 22);
    write_id(&mut id, prefix, wall_ms, rng.below(TAIL_VALUES));
    id
}

/// The id that a call chain carries from its first call to its last, as the readme's `generateRootId`.
pub fn generate_root_id(wall_ms: u64, rng: &mut Rng) -> String {
    generate_id("root", wall_ms, rng)
}

/// Appends an id whose last six digits stand for `tail`.
///
/// # Panics
/// When `tail` needs more than six base36 digits.
pub fn write_id(out: &mut String, prefix: &str, wall_ms: u64, tail: u64) {
    use std::fmt::Write;
    assert!(tail < TAIL_VALUES, "the tail fits six digits");
    let mut digits = [b'0'; TAIL_LEN];
    let mut rest = tail;
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(rest % 36) as usize];
        rest /= 36;
    }
    write!(out, "{prefix}-{wall_ms}-").expect("writing to a string");
    out.push_str(std::str::from_utf8(&digits).expect("base36 is ASCII"));
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
            write_id(&mut id, "req", 42, tail);
            assert_eq!(id_tail(&id), Some(tail));
        }
        assert_eq!(id_tail("short"), None);
        assert_eq!(id_tail("req-1-ABCDEF"), None);
    }
}
