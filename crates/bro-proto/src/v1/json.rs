//! The header of a JSON body, in one pass over the body.
//!
//! The whole body is checked against RFC 8259 on the way, not only the header: what passes here is forwarded to peers
//! whose parsers must not be surprised. Three differences from the bare grammar: nesting is bounded, header keys must be
//! written without escapes and at most once, and lone surrogate escapes are legal (`JSON.stringify` writes them).
//!
//! Nearly every body is written without white space and without anything unusual in its header. On processors with the
//! instructions for it, `outline` reads such a header, and `blocks` and `compact` prove its payload well-formed many bytes at once. All
//! others are walked byte by byte: `marks` knows where strings end, `value` walks values of any shape, `text` undoes escapes; this file
//! knows the header. Only the walk says what is wrong with a body. Functions are inlined by hand where that keeps positions in
//! registers.

#[cfg(target_arch = "x86_64")]
mod blocks;
#[cfg(target_arch = "x86_64")]
mod compact;
mod marks;
#[cfg(target_arch = "x86_64")]
mod outline;
mod text;
mod value;

use super::key::{Key, Seen};
use super::{ContextHeader, Encoding, Header, Kind, ScanError, Status, Text};
use marks::Marks;
use std::borrow::Cow;
use value::{Failed, Walker};

/// Reads the header of a JSON body.
pub fn scan(body: &[u8]) -> Result<Header<'_>, ScanError> {
    let mut header = Header::empty(Encoding::Json);
    scan_into(body, &mut header)?;
    Ok(header)
}

/// Like [`scan`], into an empty header.
pub(super) fn scan_into<'a>(body: &'a [u8], header: &mut Header<'a>) -> Result<(), ScanError> {
    header.encoding = Encoding::Json;
    #[cfg(target_arch = "x86_64")]
    if fill_compact(body, header).is_some() {
        return Ok(());
    }
    walk(body, header)
}

/// The fields of a JSON body that stand whole in its first bytes.
pub(super) fn scan_beginning(beginning: &[u8]) -> Option<Header<'_>> {
    let whole = match std::str::from_utf8(beginning) {
        Err(error) if error.error_len().is_none() => &beginning[..error.valid_up_to()],
        _ => beginning,
    };
    let mut header = Header::empty(Encoding::Json);
    match walk(whole, &mut header) {
        Ok(()) | Err(ScanError::Truncated) => Some(header),
        Err(_) => None,
    }
}

/// Checks a value as it would stand in a message.
pub(super) fn check_value(bytes: &[u8]) -> Result<(), ScanError> {
    #[cfg(target_arch = "x86_64")]
    if is_compact_container(bytes) {
        return Ok(());
    }
    walk_value(bytes)
}

/// Whether it is one array or object without white space and without anything wrong, if that can be told so.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn is_compact_container(bytes: &[u8]) -> bool {
    if !blocks::is_supported() || !matches!(bytes.first(), Some(b'{' | b'[')) {
        return false;
    }
    // SAFETY: the processor has what these functions are compiled for.
    unsafe { blocks::without_controls(bytes).is_some() && compact::container_end(bytes, 0) == Some(bytes.len()) }
}

/// Checks a value of any shape.
fn walk_value(bytes: &[u8]) -> Result<(), ScanError> {
    let Ok(text) = simdutf8::basic::from_utf8(bytes) else { return Err(invalid_utf8(bytes)) };
    let mut walk = Walker::new(text);
    let at = walk.space(0);
    let Ok(end) = walk.value(&mut Marks::new(bytes), at, 1) else { return Err(walk.into_fault()) };
    match bytes.len() - walk.space(end) {
        0 => Ok(()),
        bytes => Err(ScanError::TrailingBytes { bytes }),
    }
}

/// Reads the header of a body without white space and without anything unusual or wrong, if this is one.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn fill_compact<'a>(body: &'a [u8], header: &mut Header<'a>) -> Option<()> {
    if !blocks::is_supported() {
        return None;
    }
    // SAFETY: the processor has what these functions are compiled for.
    unsafe { outline::read(blocks::without_controls(body)?, header) }
}

/// Reads the header of any body. What may stand in `header` already was read from it in part.
#[cold]
#[inline(never)]
fn walk<'a>(body: &'a [u8], header: &mut Header<'a>) -> Result<(), ScanError> {
    *header = Header::empty(Encoding::Json);
    let Ok(text) = simdutf8::basic::from_utf8(body) else { return Err(invalid_utf8(body)) };
    let mut scanner = Scanner { walk: Walker::new(text) };
    match scanner.body(header) {
        Ok(()) => Ok(()),
        Err(Failed) => Err(scanner.walk.into_fault()),
    }
}

#[cold]
fn invalid_utf8(body: &[u8]) -> ScanError {
    ScanError::InvalidUtf8 { at: std::str::from_utf8(body).map_or_else(|error| error.valid_up_to(), str::len) }
}

/// The first sixteen bytes behind a key's opening quote, zero where the body ends before.
#[derive(Clone, Copy)]
struct KeyStart {
    low: u64,
    high: u64,
}

impl KeyStart {
    #[inline(always)]
    fn read(body: &[u8], at: usize) -> Self {
        match body.get(at..at + 16).and_then(|bytes| bytes.first_chunk()) {
            Some(chunk) => Self::of(chunk),
            None => Self::of(&padded(&body[at..])),
        }
    }

    #[inline(always)]
    fn of(chunk: &[u8; 16]) -> Self {
        let words = chunk.as_chunks().0;
        KeyStart { low: u64::from_le_bytes(words[0]), high: u64::from_le_bytes(words[1]) }
    }

    /// Whether the key is `quoted`, which includes the closing quote and the colon and has at most 16 bytes.
    #[inline(always)]
    fn is(self, quoted: &[u8]) -> bool {
        let (low, low_mask) = masked(quoted);
        let (high, high_mask) = masked(quoted.get(8..).unwrap_or_default());
        self.low & low_mask == low && self.high & high_mask == high
    }
}

/// Less than sixteen bytes, filled up with zeros.
#[cold]
fn padded(rest: &[u8]) -> [u8; 16] {
    let mut padded = [0; 16];
    padded[..rest.len()].copy_from_slice(rest);
    padded
}

/// Up to eight bytes as a word, and the mask of the bits that they fill.
#[inline(always)]
fn masked(bytes: &[u8]) -> (u64, u64) {
    let mut word = [0; 8];
    let mut mask = [0; 8];
    let mut index = 0;
    while index < bytes.len() && index < 8 {
        word[index] = bytes[index];
        mask[index] = 0xff;
        index += 1;
    }
    (u64::from_le_bytes(word), u64::from_le_bytes(mask))
}

/// The key that starts here and means something at the top level, or in a context; and its bytes including the closing
/// quote and the colon.
#[inline(always)]
fn known_key<const IN_CONTEXT: bool>(start: KeyStart) -> (Key, usize) {
    macro_rules! first_of {
        ($($quoted:literal => $key:ident),*) => {
            $(if start.is($quoted) {
                (Key::$key, $quoted.len())
            } else)* {
                (Key::Unknown, 0)
            }
        };
    }
    if IN_CONTEXT {
        return first_of!(b"root\":" => Root, b"chain\":" => Chain, b"depth\":" => Depth, b"deadline\":" => Deadline);
    }
    match start.low.to_le_bytes()[0] {
        b'c' => first_of!(b"context\":" => Context),
        b'd' => first_of!(b"data\":" => Data),
        b'e' => first_of!(b"error\":" => Error),
        b'f' => first_of!(b"from\":" => From),
        b'i' => first_of!(b"id\":" => Id),
        b'm' => first_of!(b"method\":" => Method, b"methods\":" => Methods, b"metadata\":" => Metadata),
        b'p' => first_of!(b"params\":" => Params),
        b's' => first_of!(b"status\":" => Status, b"serviceName\":" => ServiceName),
        b't' => first_of!(b"type\":" => Type, b"to\":" => To, b"timestamp\":" => Timestamp),
        b'v' => first_of!(b"version\":" => Version),
        _ => (Key::Unknown, 0),
    }
}

struct Scanner<'a> {
    walk: Walker<'a>,
}

impl<'a> Scanner<'a> {
    #[inline(always)]
    fn body(&mut self, header: &mut Header<'a>) -> Result<(), Failed> {
        let at = self.walk.space(0);
        if self.walk.byte(at) != b'{' {
            return Err(self.walk.unexpected(at));
        }
        let end = self.fields(Marks::new(self.walk.body()), at, header)?;
        let end = self.walk.space(end);
        match self.walk.body().len() - end {
            0 => Ok(()),
            bytes => Err(self.walk.fail(ScanError::TrailingBytes { bytes })),
        }
    }

    /// Reads the object that opens at `at`, and returns where it ends.
    #[inline(always)]
    fn fields(&mut self, mut marks: Marks, mut at: usize, header: &mut Header<'a>) -> Result<usize, Failed> {
        let mut seen = Seen::default();
        let mut has_type = false;
        at = self.walk.space(at + 1);
        if self.walk.byte(at) == b'}' {
            at += 1;
        } else {
            loop {
                let key = self.key::<false>(&mut marks, &mut at, &mut seen)?;
                if key <= Key::Version {
                    if self.walk.byte(at) != b'"' {
                        at = self.absent(marks, at)?;
                    } else {
                        let text = self.string(&mut marks, at)?;
                        let start = at;
                        at = text.span.end;
                        match key {
                            Key::Type => {
                                header.kind = Kind::from_name(text.value.as_bytes());
                                has_type = true;
                            }
                            Key::Status => match Status::from_name(text.value.as_bytes()) {
                                Some(status) => header.status = Some(status),
                                None => return Err(self.walk.fail(ScanError::WrongType { at: start })),
                            },
                            Key::Id => header.id = Some(text),
                            Key::From => header.from = Some(text),
                            Key::To => header.to = Some(text),
                            Key::Method => header.method = Some(text),
                            Key::ServiceName => header.service_name = Some(text),
                            _ => header.version = Some(text),
                        }
                    }
                } else if key == Key::Context && self.walk.byte(at) == b'{' {
                    (at, marks) = self.context(marks, at, &mut header.context)?;
                } else {
                    let start = at;
                    at = self.walk.value(&mut marks, start, 1)?;
                    match key {
                        Key::Params => header.params = Some(start..at),
                        Key::Data => header.data = Some(start..at),
                        Key::Error => header.error = Some(start..at),
                        Key::Methods => header.methods = Some(start..at),
                        Key::Metadata => header.metadata = Some(start..at),
                        Key::Timestamp => header.timestamp_ms = self.number(start, at),
                        _ => {}
                    }
                }
                let more;
                (at, more) = self.walk.separator(at, b'}')?;
                if !more {
                    break;
                }
            }
        }
        if !has_type {
            return Err(self.walk.fail(ScanError::WrongType { at: 0 }));
        }
        Ok(at)
    }

    /// Reads the context that opens at `open`, and returns where it ends and the marks behind it.
    #[inline(never)]
    fn context(
        &mut self,
        mut marks: Marks,
        open: usize,
        out: &mut Option<ContextHeader<'a>>,
    ) -> Result<(usize, Marks), Failed> {
        let empty =
            ContextHeader { span: open..open, root: None, chain: None, chain_len: 0, depth: None, deadline_ms: None };
        let context = out.insert(empty);
        let mut seen = Seen::default();
        let mut at = self.walk.space(open + 1);
        if self.walk.byte(at) == b'}' {
            at += 1;
        } else {
            loop {
                let key = self.key::<true>(&mut marks, &mut at, &mut seen)?;
                let start = at;
                let first = self.walk.byte(start);
                if key == Key::Root && first == b'"' {
                    let text = self.string(&mut marks, start)?;
                    at = text.span.end;
                    context.root = Some(text);
                } else if key == Key::Chain && first == b'[' {
                    (at, context.chain_len) = self.chain(&mut marks, start)?;
                    context.chain = Some(start..at);
                } else {
                    at = self.walk.value(&mut marks, start, 2)?;
                    match key {
                        Key::Depth => {
                            let depth = self.number(start, at);
                            context.depth = depth.map(|depth| u32::try_from(depth).unwrap_or(u32::MAX));
                        }
                        Key::Deadline => context.deadline_ms = self.number(start, at),
                        _ => {}
                    }
                }
                let more;
                (at, more) = self.walk.separator(at, b'}')?;
                if !more {
                    break;
                }
            }
        }
        context.span.end = at;
        Ok((at, marks))
    }

    /// Where the array that opens here ends, and how many entries it has.
    #[inline(always)]
    fn chain(&mut self, marks: &mut Marks, open: usize) -> Result<(usize, usize), Failed> {
        let mut at = self.walk.space(open + 1);
        if self.walk.byte(at) == b']' {
            return Ok((at + 1, 0));
        }
        let mut len = 0;
        loop {
            at = self.walk.value(marks, at, 3)?;
            len += 1;
            let (behind, more) = self.walk.separator(at, b']')?;
            if !more {
                return Ok((behind, len));
            }
            at = self.walk.space(behind);
        }
    }

    /// Moves `at` from the opening quote of a key to the value behind it. `seen` are the keys so far.
    #[inline(always)]
    fn key<const IN_CONTEXT: bool>(
        &mut self,
        marks: &mut Marks,
        at: &mut usize,
        seen: &mut Seen,
    ) -> Result<Key, Failed> {
        let open = self.walk.expect(*at, b'"')?;
        let start = KeyStart::read(self.walk.body(), open + 1);
        let (mut key, quoted_bytes) = known_key::<IN_CONTEXT>(start);
        if key == Key::Unknown {
            let close;
            (close, *at, *marks) = self.other_key(*marks, open)?;
            // A known key with space before its colon is known still.
            let name = &self.walk.body()[open + 1..close];
            key = if IN_CONTEXT { Key::named_in_context(name) } else { Key::named(name) };
        } else {
            marks.drop_two();
            *at = open + 1 + quoted_bytes;
        }
        if !seen.add(key) {
            return Err(self.walk.fail(ScanError::DuplicateKey { at: open }));
        }
        *at = self.walk.space(*at);
        Ok(key)
    }

    /// Where the key that opens at `open` closes, the position behind its colon, and the marks there.
    #[cold]
    fn other_key(&mut self, mut marks: Marks, open: usize) -> Result<(usize, usize, Marks), Failed> {
        let (close, escaped) = self.walk.string(&mut marks, open)?;
        if escaped {
            return Err(self.walk.fail(ScanError::UnusualKey { at: open }));
        }
        Ok((close, self.walk.expect(close + 1, b':')? + 1, marks))
    }

    /// The end of the `null` that stands where a string is wanted.
    #[cold]
    fn absent(&mut self, mut marks: Marks, at: usize) -> Result<usize, Failed> {
        match self.walk.byte(at) {
            b'n' => self.walk.value(&mut marks, at, 1),
            b'{' | b'[' | b't' | b'f' | b'-' | b'0'..=b'9' => Err(self.walk.fail(ScanError::WrongType { at })),
            _ => Err(self.walk.unexpected(at)),
        }
    }

    /// The string that opens at `open`.
    #[inline(always)]
    fn string(&mut self, marks: &mut Marks, open: usize) -> Result<Text<'a>, Failed> {
        let (close, escaped) = self.walk.string(marks, open)?;
        let inside = self.walk.text_between(open, close);
        let value = if escaped { unescaped(inside) } else { Cow::Borrowed(inside) };
        Ok(Text { value, span: open..close + 1 })
    }

    /// What the value that stands there says as an unsigned integer, if it is a number.
    #[inline(always)]
    fn number(&self, start: usize, end: usize) -> Option<u64> {
        matches!(self.walk.byte(start), b'-' | b'0'..=b'9').then(|| value::unsigned(&self.walk.body()[start..end]))
    }
}

#[cold]
fn unescaped(inside: &str) -> Cow<'_, str> {
    let mut decoded = String::with_capacity(inside.len());
    text::unescape(inside, &mut decoded);
    Cow::Owned(decoded)
}

#[cfg(all(test, target_arch = "x86_64"))]
mod compact_tests;
#[cfg(test)]
mod tests;
