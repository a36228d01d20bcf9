//! Numbers as JSON text, laid out as JavaScript does.

use std::io::Write;

/// Writing to a `Vec` or to a slice that is large enough cannot fail.
const INFALLIBLE: &str = "room for a number";

/// Doubles below this hold every integer exactly.
const EXACT_INTEGERS: f64 = 9_007_199_254_740_992.0;

/// Appends the shortest text that reads back as `value`, as `JSON.stringify` lays it out: integers below 10^21 without
/// fraction or exponent, `null` for what JSON cannot say. One difference: -0 keeps its sign.
pub(crate) fn json_float(out: &mut Vec<u8>, value: f64) {
    if !value.is_finite() {
        out.extend_from_slice(b"null");
        return;
    }
    if value.is_sign_negative() {
        out.push(b'-');
    }
    let magnitude = value.abs();
    if magnitude < EXACT_INTEGERS && magnitude.fract() == 0.0 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a non-negative integer below 2^53"
        )]
        let integer = magnitude as u64;
        return out.extend_from_slice(itoa::Buffer::new().format(integer).as_bytes());
    }
    // `{:e}` gives the shortest digits as d.ddde±x: at most 17 digits, a point, `e-324`.
    let mut text = [0_u8; 32];
    let mut rest = &mut text[..];
    write!(rest, "{magnitude:e}").expect(INFALLIBLE);
    let unused = rest.len();
    let written = &text[..text.len() - unused];
    let e = written.iter().position(|&byte| byte == b'e').expect("scientific notation has an exponent");
    let exponent: i32 = std::str::from_utf8(&written[e + 1..]).ok().and_then(|x| x.parse().ok()).expect("an integer");
    let (lead, fraction) = (written[0], written.get(2..e).unwrap_or(&[]));
    lay_out(out, lead, fraction, exponent);
}

/// The number `lead.fraction * 10^exponent`, by the rules of ECMAScript's Number::toString.
fn lay_out(out: &mut Vec<u8>, lead: u8, fraction: &[u8], exponent: i32) {
    let zeros = |out: &mut Vec<u8>, count: usize| out.resize(out.len() + count, b'0');
    match usize::try_from(exponent) {
        Ok(shift) if shift <= 20 => {
            out.push(lead);
            let (whole, part) = fraction.split_at(shift.min(fraction.len()));
            out.extend_from_slice(whole);
            zeros(out, shift - whole.len());
            if !part.is_empty() {
                out.push(b'.');
                out.extend_from_slice(part);
            }
        }
        Err(_) if exponent >= -6 => {
            out.extend_from_slice(b"0.");
            zeros(out, exponent.unsigned_abs() as usize - 1);
            out.push(lead);
            out.extend_from_slice(fraction);
        }
        _ => {
            out.push(lead);
            if !fraction.is_empty() {
                out.push(b'.');
                out.extend_from_slice(fraction);
            }
            write!(out, "e{exponent:+}").expect(INFALLIBLE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: f64) -> String {
        let mut out = Vec::new();
        json_float(&mut out, value);
        String::from_utf8(out).unwrap()
    }

    /// Expected texts were printed by `JSON.stringify` in Node 20, except for -0.
    #[test]
    fn floats_are_laid_out_as_javascript_does() {
        for (value, expected) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (0.1, "0.1"),
            (123.456, "123.456"),
            (0.000001, "0.000001"),
            (0.0000015, "0.0000015"),
            (1e-7, "1e-7"),
            (1.5e-7, "1.5e-7"),
            (1_699_005_123_456.0, "1699005123456"),
            (9_007_199_254_740_993.0, "9007199254740992"),
            (1.8446744073709552e19, "18446744073709552000"),
            (1e20, "100000000000000000000"),
            (1.2345e20, "123450000000000000000"),
            (1e21, "1e+21"),
            (1.5e300, "1.5e+300"),
            (f64::MAX, "1.7976931348623157e+308"),
            (5e-324, "5e-324"),
            (-1.7976931348623157e-300, "-1.7976931348623157e-300"),
            (2251799813685248.5, "2251799813685248.5"),
            (f64::NAN, "null"),
            (f64::INFINITY, "null"),
            (f64::NEG_INFINITY, "null"),
        ] {
            assert_eq!(text(value), expected);
        }
    }

    #[test]
    fn every_float_reads_back_as_itself() {
        let mut rng = crate::rng::Rng::new(5);
        for _ in 0..20_000 {
            let value = f64::from_bits(rng.next_u64());
            if value.is_finite() {
                assert_eq!(text(value).parse::<f64>().unwrap().to_bits(), value.to_bits());
            }
        }
    }
}
