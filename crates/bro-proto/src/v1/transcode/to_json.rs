//! msgpack to JSON in one pass.

use super::head::{EXT_TIMESTAMP, EXT_UNDEFINED, Head, bytes_at, read_head, skip_value};
use super::{OutputLimit, Patches, date, number, write};
use crate::limits::NESTING_MAX;
use crate::v1::rewrite::{Patch, TranscodeError};

/// What stands for a map key that has no text.
const KEY_WITHOUT_TEXT: &[u8] = b"\"?\"";
/// Levels of nesting in the JSON form of a bin.
const BIN_LEVELS: usize = 2;
/// Bytes of a string or bin written between two looks at the output limit.
const PIECE_BYTES: usize = 64 * 1024;

/// Appends the JSON form of the msgpack value `source`, with its patches applied.
pub(crate) fn msgpack_to_json(source: &[u8], patches: &[Patch<'_>], out: &mut Vec<u8>) -> Result<(), TranscodeError> {
    let limit = OutputLimit::new(source, out);
    Walk { source, at: 0, out, limit, patches: Patches::new(patches), open: Vec::new() }.run()
}

/// An array or map whose end has not been reached.
struct Open {
    /// Elements or pairs that have not begun, by the sender's claim: never allocated for.
    left: u32,
    is_map: bool,
    is_first: bool,
}

struct Walk<'s, 'o, 'p, 'a> {
    source: &'s [u8],
    at: usize,
    out: &'o mut Vec<u8>,
    limit: OutputLimit,
    patches: Patches<'p, 'a>,
    /// Invariant: at most [`NESTING_MAX`] entries.
    open: Vec<Open>,
}

impl Walk<'_, '_, '_, '_> {
    fn run(&mut self) -> Result<(), TranscodeError> {
        loop {
            self.value()?;
            self.limit.check(self.out)?;
            if !self.go_on()? {
                return self.patches.finish();
            }
        }
    }

    /// Reads one value, or the head of a container.
    fn value(&mut self) -> Result<(), TranscodeError> {
        if let Some(patch) = self.patches.take_at(self.at) {
            write::json_string(self.out, patch.text);
            self.at = patch.span.end.max(self.at);
            return Ok(());
        }
        let start = self.at;
        let (head, after) = read_head(self.source, start)?;
        self.at = after;
        match head {
            Head::Nil => self.out.extend_from_slice(b"null"),
            Head::Bool(true) => self.out.extend_from_slice(b"true"),
            Head::Bool(false) => self.out.extend_from_slice(b"false"),
            Head::Unsigned(value) => self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes()),
            Head::Signed(value) => self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes()),
            Head::Float(value) => number::json_float(self.out, value),
            Head::Str(len) => self.string(len)?,
            Head::Bin(len) => {
                self.check_depth(start, BIN_LEVELS)?;
                self.bin(len)?;
            }
            Head::Array(left) => self.begin(start, left, false)?,
            Head::Map(left) => self.begin(start, left, true)?,
            Head::Ext { kind: EXT_TIMESTAMP, len } => match date::timestamp_ms(self.take(len)?) {
                Some(ms) => self.quoted(|out| date::iso_text(out, ms)),
                None => self.out.extend_from_slice(b"null"),
            },
            Head::Ext { len, .. } => {
                self.take(len)?;
                self.out.extend_from_slice(b"null");
            }
        }
        Ok(())
    }

    fn begin(&mut self, at: usize, left: u32, is_map: bool) -> Result<(), TranscodeError> {
        self.check_depth(at, 1)?;
        self.out.push(if is_map { b'{' } else { b'[' });
        self.open.push(Open { left, is_map, is_first: true });
        Ok(())
    }

    /// Whether `levels` more of nesting are allowed here: what is written must pass the reader's own limit.
    fn check_depth(&self, at: usize, levels: usize) -> Result<(), TranscodeError> {
        if self.open.len() + levels > NESTING_MAX { Err(TranscodeError::TooDeep { at }) } else { Ok(()) }
    }

    /// Moves to the next value, closing what ends here and writing the key in front of it. False at the end.
    fn go_on(&mut self) -> Result<bool, TranscodeError> {
        loop {
            let Some(open) = self.open.last_mut() else {
                let is_whole = self.at == self.source.len();
                return if is_whole { Ok(false) } else { Err(TranscodeError::Malformed { at: self.at }) };
            };
            if open.left == 0 {
                self.out.push(if open.is_map { b'}' } else { b']' });
                self.open.pop();
                continue;
            }
            open.left -= 1;
            let is_map = open.is_map;
            let before = self.out.len();
            if !open.is_first {
                self.out.push(b',');
            }
            if is_map {
                self.key()?;
                self.out.push(b':');
                if let Some(end) = self.undefined_end()? {
                    self.at = end;
                    self.out.truncate(before);
                    continue;
                }
            }
            self.open.last_mut().expect("a container is open").is_first = false;
            return Ok(true);
        }
    }

    fn key(&mut self) -> Result<(), TranscodeError> {
        let start = self.at;
        let (head, after) = read_head(self.source, start)?;
        match head {
            Head::Str(_) => self.value(),
            Head::Nil | Head::Bool(_) | Head::Unsigned(_) | Head::Signed(_) | Head::Float(_) => {
                self.out.push(b'"');
                self.value()?;
                self.out.push(b'"');
                Ok(())
            }
            Head::Ext { kind: EXT_TIMESTAMP, len } => {
                self.at = after;
                match date::timestamp_ms(self.take(len)?) {
                    Some(ms) => self.quoted(|out| date::iso_text(out, ms)),
                    None => self.out.extend_from_slice(KEY_WITHOUT_TEXT),
                }
                Ok(())
            }
            Head::Bin(_) | Head::Array(_) | Head::Map(_) | Head::Ext { .. } => {
                self.at = skip_value(self.source, start)?;
                self.out.extend_from_slice(KEY_WITHOUT_TEXT);
                Ok(())
            }
        }
    }

    /// Where the `undefined` ends that stands here; `None` when there is another value, or a patch for it.
    fn undefined_end(&self) -> Result<Option<usize>, TranscodeError> {
        if self.patches.is_at(self.at) {
            return Ok(None);
        }
        match read_head(self.source, self.at)? {
            (Head::Ext { kind: EXT_UNDEFINED, len }, after) => {
                Ok(Some(after + bytes_at(self.source, after, len)?.len()))
            }
            _ => Ok(None),
        }
    }

    fn string(&mut self, len: usize) -> Result<(), TranscodeError> {
        let text = self.take(len)?;
        self.out.push(b'"');
        if simdutf8::basic::from_utf8(text).is_ok() {
            self.escaped(text)?;
        } else {
            self.repaired(text)?;
        }
        self.out.push(b'"');
        Ok(())
    }

    /// A text with U+FFFD for each sequence that is not UTF-8; a lone surrogate in three bytes is one of them.
    fn repaired(&mut self, mut text: &[u8]) -> Result<(), TranscodeError> {
        while let Err(error) = std::str::from_utf8(text) {
            let (valid, invalid) = text.split_at(error.valid_up_to());
            self.escaped(valid)?;
            self.out.extend_from_slice("\u{fffd}".as_bytes());
            let skipped = match *invalid {
                [0xed, 0xa0..=0xbf, 0x80..=0xbf, ..] => 3,
                _ => error.error_len().unwrap_or(invalid.len()),
            };
            text = &invalid[skipped..];
        }
        self.escaped(text)
    }

    fn escaped(&mut self, text: &[u8]) -> Result<(), TranscodeError> {
        for piece in text.chunks(PIECE_BYTES) {
            write::json_escaped(self.out, piece);
            self.limit.check(self.out)?;
        }
        Ok(())
    }

    /// Binary as `JSON.stringify` writes a Node `Buffer`.
    fn bin(&mut self, len: usize) -> Result<(), TranscodeError> {
        let content = self.take(len)?;
        self.out.extend_from_slice(b"{\"type\":\"Buffer\",\"data\":[");
        for (at, piece) in content.chunks(PIECE_BYTES).enumerate() {
            for (within, byte) in piece.iter().enumerate() {
                if at + within > 0 {
                    self.out.push(b',');
                }
                self.out.extend_from_slice(itoa::Buffer::new().format(*byte).as_bytes());
            }
            self.limit.check(self.out)?;
        }
        self.out.extend_from_slice(b"]}");
        Ok(())
    }

    fn quoted(&mut self, write_text: impl FnOnce(&mut Vec<u8>)) {
        self.out.push(b'"');
        write_text(self.out);
        self.out.push(b'"');
    }
}

impl<'s> Walk<'s, '_, '_, '_> {
    fn take(&mut self, len: usize) -> Result<&'s [u8], TranscodeError> {
        let content = bytes_at(self.source, self.at, len)?;
        self.at += len;
        Ok(content)
    }
}
