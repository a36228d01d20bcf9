//! The header of a msgpack body, in one pass over the body.
//!
//! The whole body is checked to be one value, but texts of the payload need not be UTF-8: msgpackr writes lone surrogates as
//! such. Extensions are passed by their length, except those that only make sense to msgpackr's record mode.

use super::key::{Key, Seen};
use super::{ContextHeader, Encoding, Header, Kind, ScanError, Status, Text};
use crate::limits::NESTING_MAX;
use std::borrow::Cow;
use std::ops::Range;

/// The extension type of msgpackr's record definitions.
const EXT_RECORD: u8 = 0x72;
/// The extension type of msgpackr's `undefined`.
const EXT_UNDEFINED: u8 = 0;

/// Reads the header of a msgpack body.
pub fn scan(body: &[u8]) -> Result<Header<'_>, ScanError> {
    let mut header = Header::empty(Encoding::Msgpack);
    scan_into(body, &mut header)?;
    Ok(header)
}

/// Like [`scan`], into an empty header.
pub(super) fn scan_into<'a>(body: &'a [u8], header: &mut Header<'a>) -> Result<(), ScanError> {
    header.encoding = Encoding::Msgpack;
    let (end, has_type) = Scanner { body, header }.top_level()?;
    if !has_type {
        return Err(ScanError::WrongType { at: 0 });
    }
    match body.len() - end {
        0 => Ok(()),
        bytes => Err(ScanError::TrailingBytes { bytes }),
    }
}

/// The fields of a msgpack body that stand whole in its first bytes.
pub(super) fn scan_beginning(beginning: &[u8]) -> Option<Header<'_>> {
    let mut header = Header::empty(Encoding::Msgpack);
    match scan_into(beginning, &mut header) {
        Ok(()) | Err(ScanError::Truncated) => Some(header),
        Err(_) => None,
    }
}

/// Checks one value inside `depth` open containers; gives where it ends.
pub(super) fn check_value(bytes: &[u8], depth: usize) -> Result<usize, ScanError> {
    Scanner { body: bytes, header: &mut Header::empty(Encoding::Msgpack) }.value(0, depth)
}

/// What the first bytes of a value say. Positions are those behind what was read so far.
enum Head {
    /// `nil`, or msgpackr's `undefined`, ending here.
    Nothing { end: usize, undefined: bool },
    /// A number that a header may hold.
    Number { end: usize, value: u64 },
    /// A text with its bytes.
    Text { start: usize, end: usize },
    /// Something else without values inside.
    Other { end: usize },
    /// That many values follow.
    Array { start: usize, len: usize },
    /// That many pairs follow.
    Map { start: usize, pairs: usize },
}

struct Scanner<'a, 'h> {
    body: &'a [u8],
    header: &'h mut Header<'a>,
}

impl<'a> Scanner<'a, '_> {
    /// The end of the body's one value, and whether it has a type.
    fn top_level(&mut self) -> Result<(usize, bool), ScanError> {
        let Head::Map { start: mut at, pairs } = self.head(0)? else { return Err(ScanError::UnknownEncoding) };
        let mut seen = Seen::default();
        let mut has_type = false;
        for _ in 0..pairs {
            let (name, value_at) = self.name(at)?;
            let key = Key::named(name);
            if key == Key::Unknown {
                self.check_unknown_key(at, value_at - name.len()..value_at)?;
            }
            if !seen.add(key) {
                return Err(ScanError::DuplicateKey { at });
            }
            at = if key <= Key::Version {
                let (text, end) = self.text(value_at)?;
                match (key, text) {
                    (Key::Type, Some(text)) => {
                        self.header.kind = Kind::from_name(text.value.as_bytes());
                        has_type = true;
                    }
                    (Key::Status, Some(text)) => {
                        let status = Status::from_name(text.value.as_bytes());
                        self.header.status = Some(status.ok_or(ScanError::WrongType { at: value_at })?);
                    }
                    (Key::Id, text) => self.header.id = text,
                    (Key::From, text) => self.header.from = text,
                    (Key::To, text) => self.header.to = text,
                    (Key::Method, text) => self.header.method = text,
                    (Key::ServiceName, text) => self.header.service_name = text,
                    (Key::Version, text) => self.header.version = text,
                    _ => {}
                }
                end
            } else {
                match key {
                    Key::Methods => self.span_into(value_at, |header| &mut header.methods)?,
                    Key::Metadata => self.span_into(value_at, |header| &mut header.metadata)?,
                    Key::Params => self.span_into(value_at, |header| &mut header.params)?,
                    Key::Data => self.span_into(value_at, |header| &mut header.data)?,
                    Key::Error => self.span_into(value_at, |header| &mut header.error)?,
                    Key::Context => self.context(value_at)?,
                    Key::Timestamp => {
                        let (number, end) = self.number(value_at, 1)?;
                        self.header.timestamp_ms = number;
                        end
                    }
                    _ => self.value(value_at, 1)?,
                }
            };
        }
        Ok((at, has_type))
    }

    fn context(&mut self, open: usize) -> Result<usize, ScanError> {
        let Head::Map { start, pairs } = self.head(open)? else { return self.value(open, 1) };
        let mut context =
            ContextHeader { span: open..open, root: None, chain: None, chain_len: 0, depth: None, deadline_ms: None };
        let mut seen = Seen::default();
        let mut at = start;
        for _ in 0..pairs {
            let (name, value_at) = self.name(at)?;
            let key = Key::named_in_context(name);
            if key == Key::Unknown {
                self.check_unknown_key(at, value_at - name.len()..value_at)?;
            }
            if !seen.add(key) {
                return Err(ScanError::DuplicateKey { at });
            }
            at = match (key, self.head(value_at)?) {
                (Key::Root, Head::Text { start, end }) => {
                    context.root = Some(Text { value: self.utf8(start, end)?, span: value_at..end });
                    end
                }
                (Key::Chain, Head::Array { len, .. }) => {
                    let end = self.value(value_at, 2)?;
                    context.chain = Some(value_at..end);
                    context.chain_len = len;
                    end
                }
                (Key::Depth, Head::Number { end, value }) => {
                    context.depth = Some(u32::try_from(value).unwrap_or(u32::MAX));
                    end
                }
                (Key::Deadline, Head::Number { end, value }) => {
                    context.deadline_ms = Some(value);
                    end
                }
                _ => self.value(value_at, 2)?,
            };
        }
        context.span.end = at;
        self.header.context = Some(context);
        Ok(at)
    }

    /// The text of a header key, and where its value starts.
    #[inline(always)]
    fn name(&self, at: usize) -> Result<(&'a [u8], usize), ScanError> {
        match self.head(at)? {
            Head::Text { start, end } => Ok((&self.body[start..end], end)),
            _ => Err(ScanError::UnusualKey { at }),
        }
    }

    /// A key of no meaning is a text still, and a key that JSON has to escape is refused there, so it must not get in here
    /// and be carried to a JSON peer.
    #[cold]
    fn check_unknown_key(&self, at: usize, inside: Range<usize>) -> Result<(), ScanError> {
        let name = self.utf8(inside.start, inside.end)?;
        let must_escape = name.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\');
        if must_escape { Err(ScanError::UnusualKey { at }) } else { Ok(()) }
    }

    #[inline(always)]
    fn utf8(&self, start: usize, end: usize) -> Result<Cow<'a, str>, ScanError> {
        match std::str::from_utf8(&self.body[start..end]) {
            Ok(text) => Ok(Cow::Borrowed(text)),
            Err(error) => Err(ScanError::InvalidUtf8 { at: start + error.valid_up_to() }),
        }
    }

    /// A text of the header, or `None` for nothing, and where it ends.
    #[inline(always)]
    fn text(&mut self, at: usize) -> Result<(Option<Text<'a>>, usize), ScanError> {
        match self.head(at)? {
            Head::Text { start, end } => Ok((Some(Text { value: self.utf8(start, end)?, span: at..end }), end)),
            Head::Nothing { end, .. } => Ok((None, end)),
            _ => Err(ScanError::WrongType { at }),
        }
    }

    #[inline(always)]
    fn span_into(
        &mut self,
        at: usize,
        field: impl for<'f> Fn(&'f mut Header<'a>) -> &'f mut Option<Range<usize>>,
    ) -> Result<usize, ScanError> {
        if let Head::Nothing { end, undefined: true } = self.head(at)? {
            return Ok(end);
        }
        let end = self.value(at, 1)?;
        *field(self.header) = Some(at..end);
        Ok(end)
    }

    /// Any value; when it is a number, the unsigned integer nearest to it that is not larger.
    fn number(&mut self, at: usize, depth: usize) -> Result<(Option<u64>, usize), ScanError> {
        match self.head(at)? {
            Head::Number { end, value } => Ok((Some(value), end)),
            _ => Ok((None, self.value(at, depth)?)),
        }
    }

    /// Where the value that starts at `at` ends; `depth` containers are open around it.
    #[inline(always)]
    fn value(&mut self, at: usize, depth: usize) -> Result<usize, ScanError> {
        match self.head(at)? {
            Head::Nothing { end, .. } | Head::Number { end, .. } | Head::Text { end, .. } | Head::Other { end } => {
                Ok(end)
            }
            Head::Array { .. } | Head::Map { .. } => self.container(at, depth),
        }
    }

    /// [`Scanner::value`] for arrays and maps. The stack is bounded, and counts are checked against the bytes that are left
    /// before they mean anything.
    #[inline(never)]
    fn container(&self, mut at: usize, outer_depth: usize) -> Result<usize, ScanError> {
        // Values still to come in the containers that are open, without the innermost.
        let mut outer = [0usize; NESTING_MAX];
        let mut open = 0;
        let mut missing = 1;
        loop {
            let value_at = at;
            missing -= 1;
            let inside = match self.head(at)? {
                Head::Nothing { end, .. } | Head::Number { end, .. } | Head::Text { end, .. } | Head::Other { end } => {
                    at = end;
                    None
                }
                Head::Array { start, len } => {
                    at = start;
                    Some(len)
                }
                Head::Map { start, pairs } => {
                    at = start;
                    Some(2 * pairs)
                }
            };
            if let Some(inside) = inside {
                if outer_depth + open == NESTING_MAX {
                    return Err(ScanError::TooDeep { at: value_at });
                }
                outer[open] = missing;
                open += 1;
                missing = inside;
            }
            while missing == 0 {
                if open == 0 {
                    return Ok(at);
                }
                open -= 1;
                missing = outer[open];
            }
        }
    }

    /// Reads a value up to where its inside starts, or to its end when nothing is inside.
    #[inline(always)]
    fn head(&self, at: usize) -> Result<Head, ScanError> {
        let Some(&marker) = self.body.get(at) else { return Err(ScanError::Truncated) };
        let at = at + 1;
        match marker {
            0x00..=0x7f => Ok(Head::Number { end: at, value: u64::from(marker) }),
            0x80..=0x8f => self.map(at, usize::from(marker & 0x0f)),
            0x90..=0x9f => self.array(at, usize::from(marker & 0x0f)),
            0xa0..=0xbf => self.text_head(at, usize::from(marker & 0x1f)),
            0xc0 => Ok(Head::Nothing { end: at, undefined: false }),
            0xc1 => Err(ScanError::Malformed { encoding: Encoding::Msgpack, at: at - 1 }),
            0xc2 | 0xc3 => Ok(Head::Other { end: at }),
            0xc4 => self.opaque(at + 1, self.length::<1>(at)?),
            0xc5 => self.opaque(at + 2, self.length::<2>(at)?),
            0xc6 => self.opaque(at + 4, self.length::<4>(at)?),
            0xc7 => self.extension(at + 1, self.length::<1>(at)?),
            0xc8 => self.extension(at + 2, self.length::<2>(at)?),
            0xc9 => self.extension(at + 4, self.length::<4>(at)?),
            0xca => Ok(Head::Number { end: at + 4, value: unsigned(f64::from(f32::from_be_bytes(self.bytes(at)?))) }),
            0xcb => Ok(Head::Number { end: at + 8, value: unsigned(f64::from_be_bytes(self.bytes(at)?)) }),
            0xcc => Ok(Head::Number { end: at + 1, value: u64::from(u8::from_be_bytes(self.bytes(at)?)) }),
            0xcd => Ok(Head::Number { end: at + 2, value: u64::from(u16::from_be_bytes(self.bytes(at)?)) }),
            0xce => Ok(Head::Number { end: at + 4, value: u64::from(u32::from_be_bytes(self.bytes(at)?)) }),
            0xcf => Ok(Head::Number { end: at + 8, value: u64::from_be_bytes(self.bytes(at)?) }),
            0xd0 => Ok(Head::Number { end: at + 1, value: not_negative(i8::from_be_bytes(self.bytes(at)?)) }),
            0xd1 => Ok(Head::Number { end: at + 2, value: not_negative(i16::from_be_bytes(self.bytes(at)?)) }),
            0xd2 => Ok(Head::Number { end: at + 4, value: not_negative(i32::from_be_bytes(self.bytes(at)?)) }),
            0xd3 => Ok(Head::Number { end: at + 8, value: not_negative(i64::from_be_bytes(self.bytes(at)?)) }),
            0xd4..=0xd8 => self.fixed_extension(at, 1 << (marker - 0xd4)),
            0xd9 => self.text_head(at + 1, self.length::<1>(at)?),
            0xda => self.text_head(at + 2, self.length::<2>(at)?),
            0xdb => self.text_head(at + 4, self.length::<4>(at)?),
            0xdc => self.array(at + 2, self.length::<2>(at)?),
            0xdd => self.array(at + 4, self.length::<4>(at)?),
            0xde => self.map(at + 2, self.length::<2>(at)?),
            0xdf => self.map(at + 4, self.length::<4>(at)?),
            0xe0..=0xff => Ok(Head::Number { end: at, value: 0 }),
        }
    }

    #[inline(always)]
    fn bytes<const N: usize>(&self, at: usize) -> Result<[u8; N], ScanError> {
        self.body.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(ScanError::Truncated)
    }

    /// A big-endian length of `N` bytes, at most 4.
    #[inline(always)]
    fn length<const N: usize>(&self, at: usize) -> Result<usize, ScanError> {
        Ok(self.bytes::<N>(at)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
    }

    /// Where `bytes` bytes end that start at `at`.
    #[inline(always)]
    fn end(&self, at: usize, bytes: usize) -> Result<usize, ScanError> {
        if bytes > self.body.len() - at { Err(ScanError::Truncated) } else { Ok(at + bytes) }
    }

    #[inline(always)]
    fn text_head(&self, start: usize, bytes: usize) -> Result<Head, ScanError> {
        Ok(Head::Text { start, end: self.end(start, bytes)? })
    }

    #[inline(always)]
    fn opaque(&self, start: usize, bytes: usize) -> Result<Head, ScanError> {
        Ok(Head::Other { end: self.end(start, bytes)? })
    }

    /// An extension whose type is at `at`, followed by `bytes` bytes.
    fn extension(&self, at: usize, bytes: usize) -> Result<Head, ScanError> {
        self.bytes::<1>(at)?;
        self.opaque(at + 1, bytes)
    }

    /// Likewise, for the sizes that have a marker of their own; msgpackr gives some of these a meaning.
    fn fixed_extension(&self, at: usize, bytes: usize) -> Result<Head, ScanError> {
        let [kind] = self.bytes(at)?;
        let end = self.end(at + 1, bytes)?;
        match (kind, bytes) {
            // The record's number has one byte, or two in large sets of records.
            (EXT_RECORD, 1 | 2) => Err(ScanError::RecordExtension { at: at - 1 }),
            (EXT_UNDEFINED, 1) => Ok(Head::Nothing { end, undefined: true }),
            _ => Ok(Head::Other { end }),
        }
    }

    /// Every value inside takes at least a byte, so larger counts end here.
    #[inline(always)]
    fn array(&self, start: usize, len: usize) -> Result<Head, ScanError> {
        self.end(start, len)?;
        Ok(Head::Array { start, len })
    }

    #[inline(always)]
    fn map(&self, start: usize, pairs: usize) -> Result<Head, ScanError> {
        self.end(start, pairs.saturating_mul(2))?;
        Ok(Head::Map { start, pairs })
    }
}

/// `as` cuts fractions, and saturates at both ends; NaN becomes 0.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
#[inline(always)]
fn unsigned(float: f64) -> u64 {
    float as u64
}

#[inline(always)]
fn not_negative(integer: impl Into<i64>) -> u64 {
    u64::try_from(integer.into()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
