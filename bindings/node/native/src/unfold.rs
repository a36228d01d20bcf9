//! JSON onto the tape. Only what is usual: whatever is not ends the attempt, and V8 parses the value, which also is who reports errors.

use crate::shapes::{At, Found, KEYS_MAX, START, Shapes};
use crate::tape::{ARRAY, DOUBLE, FALSE, INT, NULL, OBJECT, TRUE, Tape};

/// Depth of values; deeper ones are left to V8.
const DEPTH_MAX: usize = 24;

/// How an attempt has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfolded {
    /// It is on the tape.
    Done,
    /// Not yet: some object of this kind has to be seen more often.
    Unknown,
    /// Such values are not for the tape.
    Unusual,
}

/// Appends a value to the tape, or leaves it as it was. `first` is the first place of objects like this one.
pub(crate) fn unfold(json: &[u8], first: At, shapes: &mut Shapes, tape: &mut Tape) -> Unfolded {
    let Some(content) = Content::of(json) else { return Unfolded::Unusual };
    let mark = tape.mark();
    shapes.tidy();
    let mut reader = Reader { json, at: 0, content, shapes, tape, may_be_binary: false };
    let mut outcome = reader.value(0, first);
    if outcome.is_ok() && reader.at < json.len() {
        outcome = Err(Unfolded::Unusual);
    }
    let is_binary = reader.may_be_binary && crate::batch::holds_binary_mark(json);
    match outcome {
        Ok(()) if !is_binary && !tape.is_over_full() => Unfolded::Done,
        other => {
            tape.reset(mark);
            other.err().unwrap_or(Unfolded::Unusual)
        }
    }
}

/// What kinds of bytes there are.
#[derive(Clone, Copy)]
struct Content {
    is_ascii: bool,
    has_escapes: bool,
}

impl Content {
    /// `None` for control characters, which may be white space or an error, and for what is not UTF-8.
    fn of(json: &[u8]) -> Option<Content> {
        // Without a way out inside of a block, so that many bytes are looked at together.
        let (mut or, mut has_controls, mut has_escapes) = (0, false, false);
        for block in json.chunks(128) {
            for byte in block {
                or |= *byte;
                has_controls |= *byte < 0x20;
                has_escapes |= *byte == b'\\';
            }
        }
        let is_ascii = or < 0x80;
        let is_text = is_ascii || std::str::from_utf8(json).is_ok();
        (is_text && !has_controls).then_some(Content { is_ascii, has_escapes })
    }
}

struct Reader<'a> {
    json: &'a [u8],
    at: usize,
    content: Content,
    shapes: &'a mut Shapes,
    tape: &'a mut Tape,
    may_be_binary: bool,
}

type Step = Result<(), Unfolded>;

impl<'a> Reader<'a> {
    /// `first` is the first place of objects here.
    fn value(&mut self, depth: usize, first: At) -> Step {
        match self.json.get(self.at) {
            Some(b'"') => {
                self.at += 1;
                self.string()
            }
            Some(b'{') if depth < DEPTH_MAX => {
                self.at += 1;
                self.object(depth + 1, first)
            }
            Some(b'[') if depth < DEPTH_MAX => {
                self.at += 1;
                self.array(depth + 1, first)
            }
            Some(b't') => self.word(b"true", TRUE),
            Some(b'f') => self.word(b"false", FALSE),
            Some(b'n') => self.word(b"null", NULL),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(Unfolded::Unusual),
        }
    }

    fn word(&mut self, word: &[u8], tag: i32) -> Step {
        if !self.json[self.at..].starts_with(word) {
            return Err(Unfolded::Unusual);
        }
        self.at += word.len();
        self.tape.ints.push(tag);
        Ok(())
    }

    fn object(&mut self, depth: usize, first: At) -> Step {
        self.tape.ints.push(OBJECT);
        let number_at = self.tape.ints.len();
        self.tape.ints.push(0);
        let mut place = first;
        let mut keys = 0;
        if !self.take(b'}') {
            loop {
                keys += 1;
                if keys > KEYS_MAX {
                    return Err(Unfolded::Unusual);
                }
                place = self.key(place)?;
                let inner = match self.json.get(self.at) {
                    Some(b'{' | b'[') => self.shapes.inner(place).ok_or(Unfolded::Unusual)?,
                    _ => START,
                };
                self.value(depth, inner)?;
                if !self.take(b',') {
                    break;
                }
            }
            self.expect(b'}')?;
        }
        match self.shapes.end(place) {
            Found::Shape(number) => {
                self.tape.ints[number_at] = number;
                self.may_be_binary |= self.shapes.shape(number).is_some_and(|shape| shape.may_be_binary());
                Ok(())
            }
            Found::Seen(_) => Err(Unfolded::Unknown),
            Found::Refused => Err(Unfolded::Unusual),
        }
    }

    fn key(&mut self, place: At) -> Result<At, Unfolded> {
        if let Some((next, bytes)) = self.shapes.follow(place, &self.json[self.at..]) {
            self.at += bytes;
            return Ok(next);
        }
        self.expect(b'"')?;
        let key = self.plain_string()?;
        self.expect(b':')?;
        let key = std::str::from_utf8(key).map_err(|_| Unfolded::Unusual)?;
        if key.contains('\\') {
            return Err(Unfolded::Unusual);
        }
        self.shapes.step(place, key).ok_or(Unfolded::Unusual)
    }

    fn array(&mut self, depth: usize, first: At) -> Step {
        self.tape.ints.push(ARRAY);
        let count_at = self.tape.ints.len();
        self.tape.ints.push(0);
        if self.take(b']') {
            return Ok(());
        }
        let mut count = 0;
        loop {
            self.value(depth, first)?;
            count += 1;
            if !self.take(b',') {
                break;
            }
            if self.tape.is_over_full() {
                return Err(Unfolded::Unusual);
            }
        }
        self.tape.ints[count_at] = count;
        self.expect(b']')
    }

    fn string(&mut self) -> Step {
        let start = self.at;
        let string = self.plain_string()?;
        if self.content.has_escapes && string.contains(&b'\\') {
            self.at = start;
            return self.escaped_string();
        }
        if self.content.is_ascii {
            self.tape.push_ascii(string);
        } else {
            self.tape.push_string(std::str::from_utf8(string).map_err(|_| Unfolded::Unusual)?);
        }
        Ok(())
    }

    /// Up to the quote that ends a string; one behind a backslash does not.
    fn plain_string(&mut self) -> Result<&'a [u8], Unfolded> {
        let start = self.at;
        loop {
            let quote = memchr::memchr(b'"', &self.json[self.at..]).ok_or(Unfolded::Unusual)?;
            let end = self.at + quote;
            self.at = end + 1;
            let backslashes = if self.content.has_escapes {
                self.json[start..end].iter().rev().take_while(|byte| **byte == b'\\').count()
            } else {
                0
            };
            if backslashes % 2 == 0 {
                return Ok(&self.json[start..end]);
            }
        }
    }

    #[cold]
    fn escaped_string(&mut self) -> Step {
        let quoted = self.at - 1;
        self.plain_string()?;
        // Lone surrogates are no text for serde_json, and left to V8.
        let string: String = serde_json::from_slice(&self.json[quoted..self.at]).map_err(|_| Unfolded::Unusual)?;
        self.tape.push_string(&string);
        Ok(())
    }

    fn number(&mut self) -> Step {
        let json = self.json;
        let start = self.at;
        let is_negative = json[start] == b'-';
        let digits_at = start + usize::from(is_negative);
        let mut at = digits_at;
        let mut whole: i64 = 0;
        while let Some(digit @ b'0'..=b'9') = json.get(at) {
            whole = whole.wrapping_mul(10).wrapping_add(i64::from(digit - b'0'));
            at += 1;
        }
        let digits = at - digits_at;
        if digits == 0 || (digits > 1 && json[digits_at] == b'0') {
            return Err(Unfolded::Unusual);
        }
        let is_whole = !matches!(json.get(at), Some(b'.' | b'e' | b'E'));
        if is_whole && digits <= 10 && !(is_negative && whole == 0) {
            self.at = at;
            let whole = if is_negative { -whole } else { whole };
            match i32::try_from(whole) {
                Ok(int) => self.tape.ints.extend([INT, int]),
                #[expect(clippy::cast_precision_loss, reason = "at most ten digits")]
                Err(_) => self.push_double(whole as f64),
            }
            return Ok(());
        }
        if json.get(at) == Some(&b'.') {
            at = self.digits(at + 1)?;
        }
        if let Some(b'e' | b'E') = json.get(at) {
            at += 1 + usize::from(matches!(json.get(at + 1), Some(b'+' | b'-')));
            at = self.digits(at)?;
        }
        let text = std::str::from_utf8(&json[start..at]).map_err(|_| Unfolded::Unusual)?;
        self.push_double(text.parse().map_err(|_| Unfolded::Unusual)?);
        self.at = at;
        Ok(())
    }

    fn push_double(&mut self, number: f64) {
        self.tape.ints.push(DOUBLE);
        self.tape.doubles.push(number);
    }

    /// Behind at least one digit.
    fn digits(&self, start: usize) -> Result<usize, Unfolded> {
        let count = self.json[start.min(self.json.len())..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if count == 0 { Err(Unfolded::Unusual) } else { Ok(start + count) }
    }

    fn take(&mut self, byte: u8) -> bool {
        let is_next = self.json.get(self.at) == Some(&byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn expect(&mut self, byte: u8) -> Step {
        if self.take(byte) { Ok(()) } else { Err(Unfolded::Unusual) }
    }
}
