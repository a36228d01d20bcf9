//! Walking JSON values of any shape without keeping anything of them.

use super::marks::Marks;
use super::text;
use crate::limits::NESTING_MAX;
use crate::v1::{Encoding, ScanError};

/// The scan is over; [`Walker::into_fault`] says why. Empty, so that positions travel in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failed;

/// A body and the first fault found in it. Positions are passed and returned, not kept.
pub(super) struct Walker<'a> {
    /// Invariant: UTF-8.
    body: &'a [u8],
    fault: Option<ScanError>,
}

impl<'a> Walker<'a> {
    pub(super) fn new(body: &'a str) -> Self {
        Walker { body: body.as_bytes(), fault: None }
    }

    pub(super) fn body(&self) -> &'a [u8] {
        self.body
    }

    /// What stands between the quotes at `open` and `close`.
    #[inline(always)]
    pub(super) fn text_between(&self, open: usize, close: usize) -> &'a str {
        let inside = &self.body[open + 1..close];
        debug_assert!(self.body[open] == b'"' && self.body[close] == b'"');
        // SAFETY: the body is UTF-8, and what lies between two of its ASCII characters is made of whole characters.
        unsafe { std::str::from_utf8_unchecked(inside) }
    }

    /// Why the scan failed.
    pub(super) fn into_fault(self) -> ScanError {
        self.fault.expect("a failed scan has a fault")
    }

    #[cold]
    pub(super) fn fail(&mut self, fault: ScanError) -> Failed {
        self.fault = Some(fault);
        Failed
    }

    /// The grammar allows nothing that starts with the byte at `at`, or the body ends there.
    #[cold]
    pub(super) fn unexpected(&mut self, at: usize) -> Failed {
        self.fail(if at < self.body.len() {
            ScanError::Malformed { encoding: Encoding::Json, at }
        } else {
            ScanError::Truncated
        })
    }

    /// The byte at `at`; 0, which starts nothing, at the end of the body.
    #[inline(always)]
    pub(super) fn byte(&self, at: usize) -> u8 {
        self.body.get(at).copied().unwrap_or(0)
    }

    /// The position of `wanted`, which only white space may precede.
    #[inline(always)]
    pub(super) fn expect(&mut self, at: usize, wanted: u8) -> Result<usize, Failed> {
        if self.byte(at) == wanted { Ok(at) } else { self.expect_spaced(at, wanted) }
    }

    #[cold]
    fn expect_spaced(&mut self, at: usize, wanted: u8) -> Result<usize, Failed> {
        let at = self.space(at);
        if self.byte(at) == wanted { Ok(at) } else { Err(self.unexpected(at)) }
    }

    /// The position behind the comma or the closing bracket that stands here, and whether it was a comma.
    #[inline(always)]
    pub(super) fn separator(&mut self, at: usize, close: u8) -> Result<(usize, bool), Failed> {
        match self.byte(at) {
            b',' => Ok((at + 1, true)),
            byte if byte == close => Ok((at + 1, false)),
            _ => self.spaced_separator(at, close),
        }
    }

    #[cold]
    fn spaced_separator(&mut self, at: usize, close: u8) -> Result<(usize, bool), Failed> {
        let at = self.space(at);
        match self.byte(at) {
            b',' => Ok((at + 1, true)),
            byte if byte == close => Ok((at + 1, false)),
            _ => Err(self.unexpected(at)),
        }
    }

    /// The first position from `at` on that holds no white space.
    #[inline(always)]
    pub(super) fn space(&self, at: usize) -> usize {
        if self.byte(at) > b' ' { at } else { self.more_space(at) }
    }

    #[cold]
    pub(super) fn more_space(&self, mut at: usize) -> usize {
        while is_space(self.byte(at)) {
            at += 1;
        }
        at
    }

    /// The closing quote of the string that opens at `open`, which is a quote, and whether the string has escapes.
    #[inline(always)]
    pub(super) fn string(&mut self, marks: &mut Marks, open: usize) -> Result<(usize, bool), Failed> {
        marks.pass(self.body, open);
        let mut escaped = false;
        loop {
            let Some(at) = marks.next(self.body) else { return Err(self.fail(ScanError::Truncated)) };
            match self.body[at] {
                b'"' => return Ok((at, escaped)),
                b'\\' => {
                    escaped = true;
                    if let Err(at) = text::escape_end(self.body, at) {
                        return Err(self.unexpected(at));
                    }
                    // An escaped quote or backslash is marked too, and always the very next one.
                    if matches!(self.byte(at + 1), b'"' | b'\\') {
                        marks.next(self.body);
                    }
                }
                _ => return Err(self.unexpected(at)),
            }
        }
    }

    /// Where the value that starts at `at` ends; `depth` containers are open around it.
    #[inline(always)]
    pub(super) fn value(&mut self, marks: &mut Marks, at: usize, depth: usize) -> Result<usize, Failed> {
        match self.byte(at) {
            b'"' => Ok(self.string(marks, at)?.0 + 1),
            b'0'..=b'9' | b'-' => self.number(at),
            b'{' | b'[' => {
                let (end, behind) = self.container(*marks, at, depth)?;
                *marks = behind;
                Ok(end)
            }
            _ => self.literal(at),
        }
    }

    fn literal(&mut self, at: usize) -> Result<usize, Failed> {
        let name: &[u8] = match self.byte(at) {
            b't' => b"true",
            b'f' => b"false",
            b'n' => b"null",
            _ => return Err(self.unexpected(at)),
        };
        let same = self.body[at..].iter().zip(name).take_while(|(have, want)| have == want).count();
        if same == name.len() { Ok(at + same) } else { Err(self.unexpected(at + same)) }
    }

    /// Where the array or object that opens at `at` ends, and the marks behind it. The shape of what is open is a stack of bits, so peer input never
    /// decides how deep this recurses or what it allocates.
    #[inline(never)]
    fn container(&mut self, mut marks: Marks, mut at: usize, outer_depth: usize) -> Result<(usize, Marks), Failed> {
        const { assert!(NESTING_MAX <= u128::BITS as usize, "a bit per level") };
        // Bit 0: whether the innermost open container is an object.
        let mut shape: u128 = 0;
        let mut depth = outer_depth;
        'values: loop {
            let first = self.byte(at);
            match first {
                b'"' => at = self.string(&mut marks, at)?.0 + 1,
                b'0'..=b'9' | b'-' => at = self.number(at)?,
                b'{' | b'[' => {
                    if depth == NESTING_MAX {
                        return Err(self.fail(ScanError::TooDeep { at }));
                    }
                    depth += 1;
                    shape = shape << 1 | u128::from(first == b'{');
                    at = self.space(at + 1);
                    // The closing byte is the opening one plus two, in both pairs. It is handled below.
                    if self.byte(at) != first + 2 {
                        if first == b'{' {
                            at = self.key(&mut marks, at)?;
                        }
                        continue 'values;
                    }
                }
                byte if is_space(byte) => {
                    at = self.more_space(at);
                    continue 'values;
                }
                _ => at = self.literal(at)?,
            }
            loop {
                match self.byte(at) {
                    b',' => {
                        at += 1;
                        if shape & 1 != 0 {
                            at = self.key(&mut marks, at)?;
                        }
                        continue 'values;
                    }
                    b'}' if shape & 1 != 0 => {}
                    b']' if shape & 1 == 0 => {}
                    byte if is_space(byte) => {
                        at = self.more_space(at);
                        continue;
                    }
                    _ => return Err(self.unexpected(at)),
                }
                at += 1;
                depth -= 1;
                shape >>= 1;
                if depth == outer_depth {
                    return Ok((at, marks));
                }
            }
        }
    }

    /// From where a key is wanted to behind its colon.
    #[inline(always)]
    fn key(&mut self, marks: &mut Marks, at: usize) -> Result<usize, Failed> {
        let open = self.expect(at, b'"')?;
        let (close, _) = self.string(marks, open)?;
        Ok(self.expect(close + 1, b':')? + 1)
    }

    #[inline(always)]
    fn number(&mut self, mut at: usize) -> Result<usize, Failed> {
        if self.byte(at) == b'-' {
            at += 1;
        }
        at = match self.byte(at) {
            b'0' => at + 1,
            b'1'..=b'9' => self.digits(at + 1),
            _ => return Err(self.unexpected(at)),
        };
        if matches!(self.byte(at), b'.' | b'e' | b'E') { self.fraction(at) } else { Ok(at) }
    }

    #[inline(never)]
    fn fraction(&mut self, mut at: usize) -> Result<usize, Failed> {
        if self.byte(at) == b'.' {
            at = self.some_digits(at + 1)?;
        }
        if matches!(self.byte(at), b'e' | b'E') {
            at += 1;
            if matches!(self.byte(at), b'+' | b'-') {
                at += 1;
            }
            at = self.some_digits(at)?;
        }
        Ok(at)
    }

    #[inline(always)]
    fn some_digits(&mut self, at: usize) -> Result<usize, Failed> {
        match self.byte(at) {
            b'0'..=b'9' => Ok(self.digits(at + 1)),
            _ => Err(self.unexpected(at)),
        }
    }

    #[inline(always)]
    fn digits(&self, mut at: usize) -> usize {
        while let Some(chunk) = self.body.get(at..).and_then(|rest| rest.first_chunk()) {
            let digits = text::leading_digits(u64::from_le_bytes(*chunk));
            at += digits;
            if digits < 8 {
                return at;
            }
        }
        // Less than eight bytes are left: read the body's last eight, without those that came before. No zero is a digit.
        let Some(last) = self.body.last_chunk() else { return self.digits_of_short_body(at) };
        let passed = 8 - (self.body.len() - at);
        // Two shifts, because a shift by all 64 bits would be none.
        at + text::leading_digits(u64::from_le_bytes(*last) >> (4 * passed) >> (4 * passed))
    }

    #[cold]
    fn digits_of_short_body(&self, mut at: usize) -> usize {
        while self.byte(at).is_ascii_digit() {
            at += 1;
        }
        at
    }
}

/// The white space of JSON.
#[inline(always)]
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// What a JSON number says as an unsigned integer: fractions are cut, negative numbers count as 0, large ones saturate.
#[inline(always)]
pub(super) fn unsigned(number: &[u8]) -> u64 {
    // Nineteen decimal digits always fit 64 bits.
    if number.len() > 19 {
        return unsigned_of_float(number);
    }
    let mut value: u64 = 0;
    let mut rest = number;
    while let Some((chunk, others)) = rest.split_first_chunk() {
        let chunk = u64::from_le_bytes(*chunk);
        if text::leading_digits(chunk) < 8 {
            return unsigned_of_float(number);
        }
        value = value * 100_000_000 + text::eight_digits(chunk);
        rest = others;
    }
    if let Some(last) = number.last_chunk() {
        // The last eight digits, of which some were counted already: those become zeros.
        const POWERS: [u64; 8] = [1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000];
        let chunk = u64::from_le_bytes(*last);
        if text::leading_digits(chunk) < 8 {
            return unsigned_of_float(number);
        }
        let fresh = chunk & !(u64::MAX >> (8 * rest.len()));
        return value * POWERS[rest.len()] + text::eight_digits(fresh);
    }
    for byte in rest {
        if !byte.is_ascii_digit() {
            return unsigned_of_float(number);
        }
        value = value * 10 + u64::from(byte - b'0');
    }
    value
}

#[cold]
fn unsigned_of_float(number: &[u8]) -> u64 {
    let number = std::str::from_utf8(number).expect("a number is ASCII");
    if let Ok(integer) = number.parse::<u64>() {
        return integer;
    }
    let float = number.parse::<f64>().expect("a number of JSON is one of Rust");
    // `as` cuts fractions, and saturates at both ends.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let integer = float as u64;
    integer
}
