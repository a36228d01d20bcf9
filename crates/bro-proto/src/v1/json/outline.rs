//! The header of a body that is written as programs write it: without white space between tokens.
//!
//! What is unusual (escapes, texts that are `null`, numbers with a sign or a fraction) or wrong gives `None`, and is the scanner's to judge.

use super::super::key::{Key, Seen};
use super::super::{ContextHeader, Header, Kind, Status, Text};
use super::compact::{container_end, scalar_end};
use super::text::{eight_digits, escape_end, leading_digits};
use super::{KeyStart, known_key};
use std::borrow::Cow;

/// Reads the header, and proves the body well-formed. The header may be filled in part when this fails.
#[inline(always)]
pub(super) fn read<'a>(body: &'a str, header: &mut Header<'a>) -> Option<()> {
    let outline = Outline { text: body, body: body.as_bytes() };
    outline.fields(header)
}

struct Outline<'a> {
    text: &'a str,
    body: &'a [u8],
}

impl<'a> Outline<'a> {
    #[inline(always)]
    fn fields(&self, header: &mut Header<'a>) -> Option<()> {
        if self.byte(0) != b'{' {
            return None;
        }
        let mut seen = Seen::default();
        let mut at = 1;
        loop {
            let key;
            (key, at) = self.key::<false>(at, &mut seen)?;
            let start = at;
            if key <= Key::Version {
                let text = self.string(start)?;
                at = text.span.end;
                match key {
                    Key::Type => header.kind = Kind::from_name(text.value.as_bytes()),
                    Key::Status => header.status = Some(Status::from_name(text.value.as_bytes())?),
                    Key::Id => header.id = Some(text),
                    Key::From => header.from = Some(text),
                    Key::To => header.to = Some(text),
                    Key::Method => header.method = Some(text),
                    Key::ServiceName => header.service_name = Some(text),
                    _ => header.version = Some(text),
                }
            } else if key == Key::Context && self.byte(at) == b'{' {
                at = self.context(start, &mut header.context)?;
            } else if key == Key::Timestamp {
                let number;
                (number, at) = self.number(start)?;
                header.timestamp_ms = Some(number);
            } else {
                at = match self.byte(start) {
                    b'{' | b'[' => container_end(self.body, start)?,
                    b'"' => self.string_end(start)?,
                    _ => scalar_end(self.body, start)?,
                };
                match key {
                    Key::Params => header.params = Some(start..at),
                    Key::Data => header.data = Some(start..at),
                    Key::Error => header.error = Some(start..at),
                    Key::Methods => header.methods = Some(start..at),
                    Key::Metadata => header.metadata = Some(start..at),
                    _ => {}
                }
            }
            match self.byte(at) {
                b',' => at += 1,
                b'}' => return (seen.has(Key::Type) && at + 1 == self.body.len()).then_some(()),
                _ => return None,
            }
        }
    }

    /// Reads the context that opens at `open`, and returns where it ends.
    #[inline(always)]
    fn context(&self, open: usize, out: &mut Option<ContextHeader<'a>>) -> Option<usize> {
        let mut seen = Seen::default();
        let context = out.insert(ContextHeader {
            span: open..open,
            root: None,
            chain: None,
            chain_len: 0,
            depth: None,
            deadline_ms: None,
        });
        let mut at = open + 1;
        loop {
            let key;
            (key, at) = self.key::<true>(at, &mut seen)?;
            match key {
                Key::Root => {
                    let root = self.string(at)?;
                    at = root.span.end;
                    context.root = Some(root);
                }
                Key::Chain => {
                    let start = at;
                    (context.chain_len, at) = self.chain(start)?;
                    context.chain = Some(start..at);
                }
                Key::Depth => {
                    let depth;
                    (depth, at) = self.number(at)?;
                    context.depth = Some(u32::try_from(depth).unwrap_or(u32::MAX));
                }
                Key::Deadline => {
                    let deadline_ms;
                    (deadline_ms, at) = self.number(at)?;
                    context.deadline_ms = Some(deadline_ms);
                }
                _ => return None,
            }
            match self.byte(at) {
                b',' => at += 1,
                b'}' => break,
                _ => return None,
            }
        }
        context.span.end = at + 1;
        Some(at + 1)
    }

    /// How many strings the array has that opens at `open`, and where it ends.
    #[inline(always)]
    fn chain(&self, open: usize) -> Option<(usize, usize)> {
        if self.byte(open) != b'[' {
            return None;
        }
        let mut at = open;
        let mut len = 0;
        loop {
            at = self.closing(at + 1)? + 1;
            len += 1;
            match self.byte(at) {
                b',' => {}
                b']' => return Some((len, at + 1)),
                _ => return None,
            }
        }
    }

    /// The key whose opening quote is at `open`, and where its value begins.
    #[inline(always)]
    fn key<const IN_CONTEXT: bool>(&self, open: usize, seen: &mut Seen) -> Option<(Key, usize)> {
        if self.byte(open) != b'"' {
            return None;
        }
        let (key, quoted_bytes) = known_key::<IN_CONTEXT>(KeyStart::read(self.body, open + 1));
        if !seen.add(key) {
            return None;
        }
        if key == Key::Unknown {
            let colon = self.closing(open)? + 1;
            return (self.byte(colon) == b':').then_some((key, colon + 1));
        }
        Some((key, open + 1 + quoted_bytes))
    }

    /// The string that opens at `open`, if it is one and has no escapes.
    #[inline(always)]
    fn string(&self, open: usize) -> Option<Text<'a>> {
        let close = self.closing(open)?;
        let inside = self.text.get(open + 1..close)?;
        Some(Text { value: Cow::Borrowed(inside), span: open..close + 1 })
    }

    /// The closing quote of the string that opens at `open`, if it is one and has no escapes.
    #[inline(always)]
    fn closing(&self, open: usize) -> Option<usize> {
        if self.byte(open) != b'"' {
            return None;
        }
        let at = self.mark(open + 1)?;
        (self.byte(at) == b'"').then_some(at)
    }

    /// Where the string ends that opens at `open`, with escapes or without.
    #[inline(never)]
    fn string_end(&self, open: usize) -> Option<usize> {
        let mut at = open + 1;
        loop {
            at = self.mark(at)?;
            match self.byte(at) {
                b'"' => return Some(at + 1),
                b'\\' => at = escape_end(self.body, at).ok()?,
                _ => return None,
            }
        }
    }

    /// The first byte from `at` on that a string cannot simply contain.
    #[inline(always)]
    fn mark(&self, mut at: usize) -> Option<usize> {
        while let Some(chunk) = self.body.get(at..).and_then(|rest| rest.first_chunk()) {
            let marked = marks(chunk);
            if marked != 0 {
                return Some(at + marked.trailing_zeros() as usize);
            }
            at += 16;
        }
        let rest = self.body.get(at..)?;
        rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | ..0x20)).map(|count| at + count)
    }

    /// The number at `at`, if it is nothing but sixteen digits at most, and where it ends.
    #[inline(always)]
    fn number(&self, mut at: usize) -> Option<(u64, usize)> {
        if self.byte(at) == b'0' {
            return Some((0, at + 1));
        }
        let start = at;
        let mut value = 0;
        for _ in 0..2 {
            let chunk = self.eight_bytes(at)?;
            let digits = leading_digits(chunk);
            if digits == 0 {
                break;
            }
            value = value * POWERS[digits] + eight_digits(chunk << (8 * (8 - digits)));
            at += digits;
            if digits < 8 {
                break;
            }
        }
        (at > start).then_some((value, at))
    }

    /// The bytes from `at` on, the first one lowest; zeros behind the body.
    #[inline(always)]
    fn eight_bytes(&self, at: usize) -> Option<u64> {
        let rest = self.body.get(at..)?;
        if let Some(bytes) = rest.first_chunk() {
            return Some(u64::from_le_bytes(*bytes));
        }
        let last = u64::from_le_bytes(*self.body.last_chunk()?);
        Some(last.unbounded_shr(u64::BITS - 8 * u32::try_from(rest.len()).ok()?))
    }

    /// The byte at `at`; 0 behind the body.
    #[inline(always)]
    fn byte(&self, at: usize) -> u8 {
        self.body.get(at).copied().unwrap_or(0)
    }
}

const POWERS: [u64; 9] = [1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// The quotes, backslashes and control characters among the bytes, a bit for each.
#[inline(always)]
fn marks(chunk: &[u8; 16]) -> u32 {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8,
    };
    // SAFETY: the chunk is sixteen readable bytes, the load needs no alignment, and SSE2 is part of x86-64.
    unsafe {
        let bytes = _mm_loadu_si128(chunk.as_ptr().cast::<__m128i>());
        let quotes = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'"' as i8));
        let backslashes = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'\\' as i8));
        let controls = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);
        _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quotes, backslashes), controls)).cast_unsigned()
    }
}
