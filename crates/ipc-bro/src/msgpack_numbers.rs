//! Large integers as JavaScript peers write and expect them.
//!
//! npm `msgpackr` writes every integer beyond 32 bits as a float64, and reads a 64-bit integer as a BigInt, which
//! programs do not expect. So integers that a float64 holds exactly travel as one, and come back as integers. Both
//! forms have nine bytes.

use std::borrow::Cow;

/// Every integer up to here is exact in a float64.
const EXACT_MAX: u64 = 1 << 53;
const FLOAT64: u8 = 0xcb;
const UINT64: u8 = 0xcf;
const INT64: u8 = 0xd3;

/// Turns 64-bit integers that a float64 holds exactly into float64, in place.
pub(crate) fn for_the_wire(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some(number) = next_wide_number(bytes, &mut at) {
        let raw = u64::from_be_bytes(number.bits);
        let float = match number.marker {
            UINT64 if raw <= EXACT_MAX => raw as f64,
            INT64 if raw.cast_signed().unsigned_abs() <= EXACT_MAX => raw.cast_signed() as f64,
            _ => continue,
        };
        write(bytes, number.at, FLOAT64, float.to_be_bytes());
    }
}

/// Turns float64 that hold an integer into 64-bit integers; serde reads those as floats too where floats are wanted.
/// Copies only if there is one.
pub(crate) fn from_the_wire(bytes: &[u8]) -> Cow<'_, [u8]> {
    let mut bytes = Cow::Borrowed(bytes);
    let mut at = 0;
    while let Some(number) = next_wide_number(&bytes, &mut at) {
        let float = f64::from_be_bytes(number.bits);
        let is_integer = float.fract() == 0.0 && float.abs() <= EXACT_MAX as f64;
        if number.marker != FLOAT64 || !is_integer || (float == 0.0 && float.is_sign_negative()) {
            continue;
        }
        #[expect(clippy::cast_possible_truncation, reason = "checked: an integer of at most 53 bits")]
        let integer = float as i64;
        write(bytes.to_mut(), number.at, INT64, integer.to_be_bytes());
    }
    bytes
}

struct WideNumber {
    at: usize,
    marker: u8,
    bits: [u8; 8],
}

fn write(bytes: &mut [u8], at: usize, marker: u8, bits: [u8; 8]) {
    bytes[at] = marker;
    bytes[at + 1..at + 9].copy_from_slice(&bits);
}

/// The next number of nine bytes from `at` on. msgpack is a flat sequence of tokens: containers need no recursion.
/// Ends at the end of `bytes` or where they stop being msgpack.
fn next_wide_number(bytes: &[u8], at: &mut usize) -> Option<WideNumber> {
    loop {
        let start = *at;
        let marker = *bytes.get(start)?;
        let length = |width: usize| -> Option<usize> {
            let field = bytes.get(start + 1..start + 1 + width)?;
            Some(field.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte)))
        };
        let token_len = match marker {
            0x00..=0x9f | 0xc0 | 0xc2 | 0xc3 | 0xe0..=0xff => 1,
            0xa0..=0xbf => 1 + usize::from(marker & 0x1f),
            0xc4 | 0xd9 => 2 + length(1)?,
            0xc5 | 0xda => 3 + length(2)?,
            0xc6 | 0xdb => 5 + length(4)?,
            0xc7 => 3 + length(1)?,
            0xc8 => 4 + length(2)?,
            0xc9 => 6 + length(4)?,
            0xcc | 0xd0 => 2,
            0xcd | 0xd1 | 0xdc | 0xde => 3,
            0xca | 0xce | 0xd2 | 0xdd | 0xdf => 5,
            FLOAT64 | UINT64 | INT64 => 9,
            0xd4..=0xd8 => 2 + (1 << (marker - 0xd4)),
            0xc1 => return None,
        };
        *at = start.checked_add(token_len)?;
        if matches!(marker, FLOAT64 | UINT64 | INT64) {
            let bits = bytes.get(start + 1..start + 9)?.try_into().ok()?;
            return Some(WideNumber { at: start, marker, bits });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_the_wire(value: impl serde::Serialize) -> Vec<u8> {
        let mut bytes = rmp_serde::to_vec_named(&value).unwrap();
        for_the_wire(&mut bytes);
        bytes
    }

    #[test]
    fn exact_integers_become_floats_and_come_back() {
        for value in [1_i64 << 32, -(1 << 40), 1 << 53, -(1 << 53), 1_699_005_123_456] {
            let bytes = on_the_wire(value);
            assert_eq!(bytes[0], FLOAT64, "{value}");
            assert_eq!(rmp_serde::from_slice::<i64>(&from_the_wire(&bytes)).unwrap(), value);
        }
        for value in [(1_i64 << 53) + 1, i64::MIN, i64::MAX] {
            let bytes = on_the_wire(value);
            assert_ne!(bytes[0], FLOAT64, "{value} would lose digits");
            assert_eq!(rmp_serde::from_slice::<i64>(&from_the_wire(&bytes)).unwrap(), value);
        }
        assert_eq!(rmp_serde::from_slice::<u64>(&on_the_wire(u64::MAX)).unwrap(), u64::MAX);
    }

    #[test]
    fn floats_stay_floats() {
        for value in [0.5, -0.0, f64::MAX, f64::NAN, f64::INFINITY, 1e300, 3.0, -7e12] {
            let bytes = on_the_wire(value);
            let back: f64 = rmp_serde::from_slice(&from_the_wire(&bytes)).unwrap();
            assert_eq!(back.to_bits(), value.to_bits(), "{value}");
        }
    }

    #[test]
    fn texts_and_binaries_that_look_like_numbers_are_left_alone() {
        let tree = (
            "\u{f}\u{1}".repeat(400),
            vec!["cb".repeat(20), "x".repeat(70_000)],
            [(1_u8, "a"), (200, "b")],
            (i8::MIN, i16::MIN, i32::MIN, u32::MAX, 1.5_f32, Some(true), ()),
            1_u64 << 40,
        );
        let plain = rmp_serde::to_vec_named(&tree).unwrap();
        let wire = on_the_wire(&tree);
        assert_eq!(plain[..plain.len() - 9], wire[..wire.len() - 9]);
        assert_eq!(wire[wire.len() - 9], FLOAT64);
        let mut binary = vec![0xc4, 9, UINT64, 0, 0, 0, 1, 0, 0, 0, 0, 0xd6, 1, UINT64, 0, 0, 0, 0xc7, 1, 5, INT64];
        let before = binary.clone();
        for_the_wire(&mut binary);
        assert_eq!(binary, before);
    }

    #[test]
    fn what_is_not_msgpack_ends_the_walk() {
        for bytes in [&[0xc1][..], &[0xdb, 0xff, 0xff, 0xff, 0xff], &[UINT64, 1], &[0xc9, 1], &[0xd9]] {
            assert!(matches!(from_the_wire(bytes), Cow::Borrowed(same) if same == bytes));
            for_the_wire(&mut bytes.to_vec());
        }
    }
}
