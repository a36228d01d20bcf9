//! The header of a body that is written as programs write it: without white space between tokens.
//!
//! Programs write their keys in one order, too. As long as a body keeps to it, a key is no more than a comparison with what is to come;
//! from the first other one on, keys are looked for among all. What is unusual (escapes, texts that are `null`, numbers with a sign or a
//! fraction) or wrong gives `None`, and is the scanner's to judge.

use super::super::key::{Key, Seen};
use super::super::{ContextHeader, Header, Kind, Status, Text};
use super::blocks::marks;
use super::compact::{container_end, scalar_end};
use super::text::{eight_digits, escape_end, leading_digits};
use super::{KeyStart, known_key};
use std::borrow::Cow;

/// Reads the header, and proves the body well-formed, which has no control characters. The header may be filled in part when this fails.
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,pclmulqdq")]
pub(super) fn read<'a>(body: &'a str, header: &mut Header<'a>) -> Option<()> {
    Outline { body: body.as_bytes() }.fields(header)
}

struct Outline<'a> {
    /// Invariant: UTF-8.
    body: &'a [u8],
}

impl<'a> Outline<'a> {
    /// Fields in any order, behind those that stand as programs write them.
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,pclmulqdq")]
    #[inline]
    fn fields(&self, header: &mut Header<'a>) -> Option<()> {
        let mut seen = Seen::default();
        let mut at = self.usual_fields(header, &mut seen)?;
        loop {
            match (self.byte(at), at) {
                (b',', 1..) | (b'{', 0) => at = self.field(at + 1, &mut seen, header)?,
                (b'}', 1..) => return (seen.has(Key::Type) && at + 1 == self.body.len()).then_some(()),
                _ => return None,
            }
        }
    }

    /// Reads fields as long as they stand in the order in which programs write them, and returns where that ends.
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,pclmulqdq")]
    #[inline]
    fn usual_fields(&self, header: &mut Header<'a>, seen: &mut Seen) -> Option<usize> {
        let mut at = 0;
        // Reads one field, or ends here.
        macro_rules! field {
            ($key:ident, $before:literal) => {{
                let Some(start) = self.behind(at, $before) else { return Some(at) };
                seen.add(Key::$key);
                start
            }};
        }
        macro_rules! text {
            ($key:ident, $before:literal, $field:ident) => {
                let text = self.text(field!($key, $before))?;
                at = text.span.end;
                header.$field = Some(text);
            };
        }
        macro_rules! payload {
            ($key:ident, $before:literal, $field:ident) => {
                let start = field!($key, $before);
                at = self.value_end(start)?;
                header.$field = Some(start..at);
            };
        }
        let start = field!(Type, br#"{"type":""#);
        let close = self.closing(start)?;
        header.kind = Kind::from_name(&self.body[start..close]);
        at = close + 1;
        text!(Id, br#","id":""#, id);
        text!(From, br#","from":""#, from);
        text!(To, br#","to":""#, to);
        if header.kind == Kind::Response {
            let start = field!(Status, br#","status":""#);
            let close = self.closing(start)?;
            header.status = Some(Status::from_name(&self.body[start..close])?);
            at = close + 1;
            payload!(Data, br#","data":"#, data);
        } else {
            text!(Method, br#","method":""#, method);
            payload!(Params, br#","params":"#, params);
        }
        let start = field!(Context, br#","context":"#);
        self.context(start, &mut header.context)
    }

    /// Reads the field whose key opens at `open`, and returns where it ends. Keys that mean something are `seen` once.
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,pclmulqdq")]
    #[inline(never)]
    fn field(&self, open: usize, seen: &mut Seen, header: &mut Header<'a>) -> Option<usize> {
        let (key, start) = self.key::<false>(open, seen)?;
        if key <= Key::Version {
            let text = self.quoted(start)?;
            let end = text.span.end;
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
            return Some(end);
        }
        if key == Key::Context {
            return self.context(start, &mut header.context);
        }
        if key == Key::Timestamp {
            let (number, end) = self.number(start)?;
            header.timestamp_ms = Some(number);
            return Some(end);
        }
        let end = self.value_end(start)?;
        match key {
            Key::Params => header.params = Some(start..end),
            Key::Data => header.data = Some(start..end),
            Key::Error => header.error = Some(start..end),
            Key::Methods => header.methods = Some(start..end),
            Key::Metadata => header.metadata = Some(start..end),
            _ => {}
        }
        Some(end)
    }

    /// Reads the context that opens at `open`, and returns where it ends. Any other value there is none.
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,pclmulqdq")]
    #[inline]
    fn context(&self, open: usize, out: &mut Option<ContextHeader<'a>>) -> Option<usize> {
        if self.byte(open) != b'{' {
            return self.value_end(open);
        }
        let context = out.insert(ContextHeader {
            span: open..open,
            root: None,
            chain: None,
            chain_len: 0,
            depth: None,
            deadline_ms: None,
        });
        let mut seen = Seen::default();
        let mut at = self.usual_context_fields(open, context, &mut seen)?;
        loop {
            match (self.byte(at), at == open) {
                (b'}', false) => break,
                (b',', false) | (b'{', true) => at = self.context_field(at + 1, context, &mut seen)?,
                _ => return None,
            }
        }
        context.span.end = at + 1;
        Some(at + 1)
    }

    /// As [`Self::usual_fields`].
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,pclmulqdq")]
    #[inline]
    fn usual_context_fields(&self, mut at: usize, context: &mut ContextHeader<'a>, seen: &mut Seen) -> Option<usize> {
        let Some(start) = self.behind(at, br#"{"root":""#) else { return Some(at) };
        seen.add(Key::Root);
        let root = self.text(start)?;
        at = root.span.end;
        context.root = Some(root);
        let Some(start) = self.behind(at, br#","chain":"#) else { return Some(at) };
        seen.add(Key::Chain);
        (context.chain_len, at) = self.chain(start)?;
        context.chain = Some(start..at);
        let Some(start) = self.behind(at, br#","depth":"#) else { return Some(at) };
        seen.add(Key::Depth);
        let depth;
        (depth, at) = self.number(start)?;
        context.depth = Some(u32::try_from(depth).unwrap_or(u32::MAX));
        let Some(start) = self.behind(at, br#","deadline":"#) else { return Some(at) };
        seen.add(Key::Deadline);
        let deadline_ms;
        (deadline_ms, at) = self.number(start)?;
        context.deadline_ms = Some(deadline_ms);
        Some(at)
    }

    /// As [`Self::field`].
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,pclmulqdq")]
    #[inline(never)]
    fn context_field(&self, open: usize, context: &mut ContextHeader<'a>, seen: &mut Seen) -> Option<usize> {
        let (key, start) = self.key::<true>(open, seen)?;
        match key {
            Key::Root => {
                let root = self.quoted(start)?;
                let end = root.span.end;
                context.root = Some(root);
                Some(end)
            }
            Key::Chain => {
                let end;
                (context.chain_len, end) = self.chain(start)?;
                context.chain = Some(start..end);
                Some(end)
            }
            Key::Depth => {
                let (depth, end) = self.number(start)?;
                context.depth = Some(u32::try_from(depth).unwrap_or(u32::MAX));
                Some(end)
            }
            Key::Deadline => {
                let (deadline_ms, end) = self.number(start)?;
                context.deadline_ms = Some(deadline_ms);
                Some(end)
            }
            _ => None,
        }
    }

    /// How many strings the array has that opens at `open`, and where it ends.
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,pclmulqdq")]
    #[inline]
    fn chain(&self, open: usize) -> Option<(usize, usize)> {
        let mut start = self.behind(open, br#"[""#)?;
        let mut len = 0;
        loop {
            let end = self.closing(start)? + 1;
            len += 1;
            match self.behind(end, br#",""#) {
                Some(next) => start = next,
                None => return (self.byte(end) == b']').then_some((len, end + 1)),
            }
        }
    }

    /// The key that opens at `open`, and where its value begins.
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,pclmulqdq")]
    #[inline]
    fn key<const IN_CONTEXT: bool>(&self, open: usize, seen: &mut Seen) -> Option<(Key, usize)> {
        if self.byte(open) != b'"' {
            return None;
        }
        let (key, quoted_bytes) = known_key::<IN_CONTEXT>(KeyStart::read(self.body, open + 1));
        if !seen.add(key) {
            return None;
        }
        if key == Key::Unknown {
            let colon = self.closing(open + 1)? + 1;
            return (self.byte(colon) == b':').then_some((key, colon + 1));
        }
        Some((key, open + 1 + quoted_bytes))
    }

    /// The end of these bytes, if they stand at `at`.
    #[inline(always)]
    fn behind<const BYTES: usize>(&self, at: usize, literal: &[u8; BYTES]) -> Option<usize> {
        let is_here = self.body.get(at..)?.first_chunk() == Some(literal);
        is_here.then_some(at + BYTES)
    }

    /// The string that opens at `open`, if it is one and has no escapes.
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,pclmulqdq")]
    #[inline]
    fn quoted(&self, open: usize) -> Option<Text<'a>> {
        if self.byte(open) == b'"' { self.text(open + 1) } else { None }
    }

    /// The text that begins here, within its quotes, if it has no escapes.
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,pclmulqdq")]
    #[inline]
    fn text(&self, start: usize) -> Option<Text<'a>> {
        let close = self.closing(start)?;
        let inside = &self.body[start..close];
        // SAFETY: the body is UTF-8, and what lies between two of its ASCII characters is made of whole characters.
        let inside = unsafe { std::str::from_utf8_unchecked(inside) };
        Some(Text { value: Cow::Borrowed(inside), span: start - 1..close + 1 })
    }

    /// The closing quote of the string that begins here, within its quotes, if it has no escapes.
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,pclmulqdq")]
    #[inline]
    fn closing(&self, start: usize) -> Option<usize> {
        let Some(chunk) = self.body.get(start..)?.first_chunk() else { return self.far_closing(start) };
        let (quotes, backslashes) = marks(chunk);
        if quotes == 0 {
            return self.far_closing(start);
        }
        (backslashes & (quotes - 1) & !quotes == 0).then_some(start + quotes.trailing_zeros() as usize)
    }

    /// As [`Self::closing`], in strings of any length.
    #[inline(never)]
    fn far_closing(&self, start: usize) -> Option<usize> {
        let at = start + memchr::memchr2(b'"', b'\\', self.body.get(start..)?)?;
        (self.byte(at) == b'"').then_some(at)
    }

    /// Where the value ends that begins here.
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,pclmulqdq")]
    #[inline]
    fn value_end(&self, start: usize) -> Option<usize> {
        match self.byte(start) {
            b'{' | b'[' => container_end(self.body, start),
            b'"' => self.string_end(start),
            _ => scalar_end(self.body, start),
        }
    }

    /// Where the string ends that opens at `open`, with escapes or without.
    #[inline(never)]
    fn string_end(&self, open: usize) -> Option<usize> {
        let mut at = open + 1;
        loop {
            at += memchr::memchr2(b'"', b'\\', self.body.get(at..)?)?;
            match self.byte(at) {
                b'"' => return Some(at + 1),
                _ => at = escape_end(self.body, at).ok()?,
            }
        }
    }

    /// The number at `at`, if it is nothing but sixteen digits at most, and where it ends.
    #[inline(always)]
    fn number(&self, at: usize) -> Option<(u64, usize)> {
        let first = self.eight_bytes(at)?;
        let digits = leading_digits(first);
        if digits == 1 || first & 0xff == u64::from(b'0') {
            return Some((first & 0x0f, at + 1));
        }
        if digits < 8 {
            return (digits > 0).then(|| (eight_digits(first << (8 * (8 - digits))), at + digits));
        }
        let high = eight_digits(first);
        let last = self.eight_bytes(at + 8)?;
        let digits = leading_digits(last);
        let low = eight_digits(last.unbounded_shl(u64::BITS - 8 * u32::try_from(digits).ok()?));
        Some((high * POWERS[digits] + low, at + 8 + digits))
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
