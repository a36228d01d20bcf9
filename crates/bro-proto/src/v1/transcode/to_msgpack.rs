//! JSON to msgpack in one pass.

use super::write;
use super::{OutputLimit, Patches};
use crate::limits::NESTING_MAX;
use crate::v1::rewrite::{Patch, TranscodeError};

/// Most elements or pairs whose count fits the one-byte head.
const FIX_LEN_MAX: usize = 15;

/// Appends the msgpack form of the JSON text `source`, with its patches applied.
pub(crate) fn json_to_msgpack(source: &[u8], patches: &[Patch<'_>], out: &mut Vec<u8>) -> Result<(), TranscodeError> {
    if let Err(error) = simdutf8::compat::from_utf8(source) {
        return Err(TranscodeError::Malformed { at: error.valid_up_to() });
    }
    let limit = OutputLimit::new(source, out);
    let mut walk = Walk {
        source,
        at: 0,
        out,
        limit,
        patches: Patches::new(patches),
        open: Vec::new(),
        wide: Vec::new(),
        text: Vec::new(),
    };
    walk.run()?;
    walk.widen_heads()
}

/// An array or map whose end has not been reached.
struct Open {
    /// Where its one-byte head stands in the output.
    head: usize,
    /// Elements or pairs so far.
    len: usize,
    is_map: bool,
}

struct Walk<'s, 'o, 'p, 'a> {
    source: &'s [u8],
    at: usize,
    out: &'o mut Vec<u8>,
    limit: OutputLimit,
    patches: Patches<'p, 'a>,
    /// Invariant: at most [`NESTING_MAX`] entries.
    open: Vec<Open>,
    /// Closed containers that need more than the one-byte head they were given: counts are known only at the end.
    wide: Vec<Open>,
    /// Room for decoding strings with escapes.
    text: Vec<u8>,
}

impl Walk<'_, '_, '_, '_> {
    fn run(&mut self) -> Result<(), TranscodeError> {
        loop {
            self.skip_white_space();
            let has_begun = self.value()?;
            self.limit.check(self.out)?;
            if !has_begun && !self.go_on()? {
                return self.patches.finish();
            }
        }
    }

    /// Reads one value, or the beginning of a container that has a first element; true for the latter.
    fn value(&mut self) -> Result<bool, TranscodeError> {
        if let Some(patch) = self.patches.take_at(self.at) {
            write::string(self.out, crate::v1::Encoding::Msgpack, patch.text);
            self.at = patch.span.end.max(self.at);
            return Ok(false);
        }
        match self.peek() {
            Some(b'{') => return self.begin(true),
            Some(b'[') => return self.begin(false),
            Some(b'"') => self.string()?,
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.literal(b"true", 0xc3)?,
            Some(b'f') => self.literal(b"false", 0xc2)?,
            Some(b'n') => self.literal(b"null", 0xc0)?,
            _ => return Err(self.malformed()),
        }
        Ok(false)
    }

    fn begin(&mut self, is_map: bool) -> Result<bool, TranscodeError> {
        if self.open.len() == NESTING_MAX {
            return Err(TranscodeError::TooDeep { at: self.at });
        }
        self.at += 1;
        self.skip_white_space();
        let head = self.out.len();
        self.out.push(if is_map { 0x80 } else { 0x90 });
        if self.peek() == Some(if is_map { b'}' } else { b']' }) {
            self.at += 1;
            return Ok(false);
        }
        self.open.push(Open { head, len: 0, is_map });
        if is_map {
            self.key()?;
        }
        Ok(true)
    }

    /// After a value: moves to the next one. False at the end of the text.
    fn go_on(&mut self) -> Result<bool, TranscodeError> {
        loop {
            self.skip_white_space();
            let next = self.peek();
            let Some(open) = self.open.last_mut() else {
                return if next.is_none() { Ok(false) } else { Err(self.malformed()) };
            };
            open.len += 1;
            match next {
                Some(b',') => {
                    self.at += 1;
                    if open.is_map {
                        self.skip_white_space();
                        self.key()?;
                    }
                    return Ok(true);
                }
                Some(b'}') if open.is_map => self.at += 1,
                Some(b']') if !open.is_map => self.at += 1,
                _ => return Err(self.malformed()),
            }
            let closed = self.open.pop().expect("a container is open");
            match u8::try_from(closed.len) {
                Ok(len) if closed.len <= FIX_LEN_MAX => self.out[closed.head] |= len,
                _ => self.wide.push(closed),
            }
        }
    }

    fn key(&mut self) -> Result<(), TranscodeError> {
        if self.peek() != Some(b'"') {
            return Err(self.malformed());
        }
        self.string()?;
        self.skip_white_space();
        if self.peek() != Some(b':') {
            return Err(self.malformed());
        }
        self.at += 1;
        Ok(())
    }

    fn string(&mut self) -> Result<(), TranscodeError> {
        self.at += 1;
        self.text.clear();
        loop {
            let rest = &self.source[self.at..];
            let Some(len) = memchr::memchr2(b'"', b'\\', rest) else { return Err(self.malformed()) };
            let clean = &rest[..len];
            // Looking at all of them takes less time than stopping at the first one: there is none.
            if clean.iter().fold(false, |any, &byte| any | (byte < 0x20)) {
                let control = clean.iter().position(|&byte| byte < 0x20).expect("just seen");
                return Err(TranscodeError::Malformed { at: self.at + control });
            }
            self.at += len + 1;
            if rest[len] == b'"' {
                // Only a string with escapes takes the detour.
                write::msgpack_string_head(self.out, self.text.len() + len);
                self.out.extend_from_slice(&self.text);
                self.out.extend_from_slice(clean);
                return Ok(());
            }
            self.text.extend_from_slice(clean);
            loop {
                let decoded = self.escape()?;
                match u8::try_from(decoded) {
                    Ok(byte) if byte.is_ascii() => self.text.push(byte),
                    _ => self.text.extend_from_slice(decoded.encode_utf8(&mut [0; 4]).as_bytes()),
                }
                // Texts of many escapes have them side by side.
                if self.peek() != Some(b'\\') {
                    break;
                }
                self.at += 1;
            }
        }
    }

    /// Decodes the escape behind the backslash. A surrogate without its other half becomes U+FFFD.
    fn escape(&mut self) -> Result<char, TranscodeError> {
        let byte = self.peek().ok_or_else(|| self.malformed())?;
        let decoded = match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                self.at += 1;
                let unit = self.code_unit()?;
                return Ok(self.pair_up(unit));
            }
            _ => return Err(self.malformed()),
        };
        self.at += 1;
        Ok(decoded)
    }

    fn pair_up(&mut self, unit: u32) -> char {
        if (0xd800..0xdc00).contains(&unit) && self.source[self.at..].starts_with(b"\\u") {
            let before = self.at;
            self.at += 2;
            if let Ok(low @ 0xdc00..0xe000) = self.code_unit() {
                let scalar = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                return char::from_u32(scalar).unwrap_or(char::REPLACEMENT_CHARACTER);
            }
            self.at = before;
        }
        char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER)
    }

    /// The four hexadecimal digits here.
    fn code_unit(&mut self) -> Result<u32, TranscodeError> {
        let digits: &[u8; 4] = self.source[self.at..].first_chunk().ok_or_else(|| self.malformed())?;
        let mut unit = 0;
        for &digit in digits {
            unit = unit << 4 | char::from(digit).to_digit(16).ok_or_else(|| self.malformed())?;
        }
        self.at += 4;
        Ok(unit)
    }

    fn number(&mut self) -> Result<(), TranscodeError> {
        let start = self.at;
        let is_negative = self.peek() == Some(b'-');
        self.at += usize::from(is_negative);
        let digits_from = self.at;
        let digits = self.digits()?;
        if digits > 1 && self.source[digits_from] == b'0' {
            return Err(self.malformed());
        }
        let mut is_integer = true;
        if self.peek() == Some(b'.') {
            is_integer = false;
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            is_integer = false;
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        // Ten digits hold every 32-bit integer, and no more than an i64 can.
        if is_integer && digits <= 10 {
            let digits = &self.source[digits_from..self.at];
            let value = digits.iter().fold(0, |value, digit| 10 * value + i64::from(digit - b'0'));
            match u64::try_from(value) {
                Ok(value) if !is_negative => write::msgpack_unsigned(self.out, value),
                Ok(0) => write::msgpack_float(self.out, -0.0),
                _ => write::msgpack_signed(self.out, -value),
            }
        } else {
            let text = std::str::from_utf8(&self.source[start..self.at]).expect("digits are ASCII");
            write::msgpack_float(self.out, text.parse().expect("a JSON number is one in Rust"));
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<usize, TranscodeError> {
        let rest = &self.source[self.at..];
        let count = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
        self.at += count;
        if count == 0 { Err(self.malformed()) } else { Ok(count) }
    }

    fn literal(&mut self, text: &[u8], marker: u8) -> Result<(), TranscodeError> {
        if !self.source[self.at..].starts_with(text) {
            return Err(self.malformed());
        }
        self.at += text.len();
        self.out.push(marker);
        Ok(())
    }

    /// Gives the heads in `wide` the bytes that they need, moving every byte of the output at most once.
    fn widen_heads(&mut self) -> Result<(), TranscodeError> {
        let mut source_end = self.out.len();
        let widened = |wide: &Open| if u16::try_from(wide.len).is_ok() { 2 } else { 4 };
        let mut target_end = source_end + self.wide.iter().map(widened).sum::<usize>();
        self.out.resize(target_end, 0);
        self.limit.check(self.out)?;
        self.wide.sort_unstable_by_key(|wide| std::cmp::Reverse(wide.head));
        let mut head = Vec::with_capacity(5);
        for wide in &self.wide {
            let len = u32::try_from(wide.len).map_err(|_| TranscodeError::TooLarge { limit: u32::MAX as usize })?;
            head.clear();
            if wide.is_map {
                write::msgpack_map_head(&mut head, len);
            } else {
                write::msgpack_array_head(&mut head, len);
            }
            let content = wide.head + 1..source_end;
            target_end -= content.len();
            source_end = wide.head;
            self.out.copy_within(content, target_end);
            target_end -= head.len();
            self.out[target_end..target_end + head.len()].copy_from_slice(&head);
        }
        debug_assert_eq!(source_end, target_end, "all gaps are filled");
        Ok(())
    }

    fn skip_white_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.source.get(self.at).copied()
    }

    fn malformed(&self) -> TranscodeError {
        TranscodeError::Malformed { at: self.at }
    }
}
