//! Writing single values in either encoding.

use crate::v1::Encoding;
use rmp::encode as msgpack;

/// Writing to a `Vec` cannot fail; `rmp` does not know that.
const INFALLIBLE: &str = "writing to a Vec";

/// Appends a JSON string with its quotes, escaping only what JSON requires.
pub(crate) fn json_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    json_escaped(out, text.as_bytes());
    out.push(b'"');
}

/// Appends the inside of a JSON string.
pub(crate) fn json_escaped(out: &mut Vec<u8>, text: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let needs_escape = |byte: u8| (byte < 0x20) | (byte == b'"') | (byte == b'\\');
    // Most have nothing to escape, which is seen many bytes at once.
    if !text.iter().fold(false, |any, &byte| any | needs_escape(byte)) {
        return out.extend_from_slice(text);
    }
    let mut clean_from = 0;
    for (at, &byte) in text.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&text[clean_from..at]);
        clean_from = at + 1;
        let short = match byte {
            b'"' => b'"',
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0c => b'f',
            _ => {
                let [high, low] = [byte >> 4, byte & 15].map(|digit| HEX[usize::from(digit)]);
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', short]);
    }
    out.extend_from_slice(&text[clean_from..]);
}

/// Appends the head of a msgpack string of `bytes` bytes.
///
/// # Panics
/// Above 4 GiB, which no frame can hold.
pub(crate) fn msgpack_string_head(out: &mut Vec<u8>, bytes: usize) {
    msgpack::write_str_len(out, u32::try_from(bytes).expect("a string fits its frame")).expect(INFALLIBLE);
}

/// Appends the head of a msgpack array.
pub(crate) fn msgpack_array_head(out: &mut Vec<u8>, len: u32) {
    msgpack::write_array_len(out, len).expect(INFALLIBLE);
}

/// Appends the head of a msgpack map.
pub(crate) fn msgpack_map_head(out: &mut Vec<u8>, len: u32) {
    msgpack::write_map_len(out, len).expect(INFALLIBLE);
}

/// Appends a float64.
pub(crate) fn msgpack_float(out: &mut Vec<u8>, value: f64) {
    msgpack::write_f64(out, value).expect(INFALLIBLE);
}

/// Appends a number as msgpackr reads it best: small integers in the smallest form, others as float64, since an
/// int64 would arrive in JavaScript as a BigInt.
pub(crate) fn msgpack_unsigned(out: &mut Vec<u8>, value: u64) {
    match u32::try_from(value) {
        // By far the most, for which the library takes several times as long.
        Ok(small) if small < 0x80 => out.push(small.to_le_bytes()[0]),
        Ok(small) => {
            msgpack::write_uint(out, u64::from(small)).expect(INFALLIBLE);
        }
        Err(_) => msgpack_float(out, value as f64),
    }
}

/// Likewise, for numbers below zero.
pub(crate) fn msgpack_signed(out: &mut Vec<u8>, value: i64) {
    match i32::try_from(value) {
        Ok(small) => {
            msgpack::write_sint(out, i64::from(small)).expect(INFALLIBLE);
        }
        Err(_) => msgpack_float(out, value as f64),
    }
}

/// Appends a string.
pub(crate) fn string(out: &mut Vec<u8>, encoding: Encoding, text: &str) {
    match encoding {
        Encoding::Json => json_string(out, text),
        Encoding::Msgpack => {
            msgpack_string_head(out, text.len());
            out.extend_from_slice(text.as_bytes());
        }
    }
}

/// Appends a number.
pub(crate) fn unsigned(out: &mut Vec<u8>, encoding: Encoding, value: u64) {
    match encoding {
        Encoding::Json => out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes()),
        Encoding::Msgpack => msgpack_unsigned(out, value),
    }
}

/// Writes an object whose keys need no escapes, member by member.
///
/// Invariant: as many members are written as `begin` was told, since a msgpack map says so up front.
pub(crate) struct Object<'o> {
    out: &'o mut Vec<u8>,
    encoding: Encoding,
    members_left: u32,
    is_first: bool,
}

impl<'o> Object<'o> {
    pub(crate) fn begin(out: &'o mut Vec<u8>, encoding: Encoding, members: u32) -> Self {
        match encoding {
            Encoding::Json => out.push(b'{'),
            Encoding::Msgpack => msgpack_map_head(out, members),
        }
        Self { out, encoding, members_left: members, is_first: true }
    }

    /// Writes a key; the caller writes its value to the buffer that comes back.
    pub(crate) fn key(&mut self, key: &'static str) -> &mut Vec<u8> {
        debug_assert!(self.members_left > 0, "more members than announced");
        self.members_left -= 1;
        match self.encoding {
            Encoding::Json => {
                self.out.extend_from_slice(if self.is_first { b"\"" } else { b",\"" });
                self.out.extend_from_slice(key.as_bytes());
                self.out.extend_from_slice(b"\":");
            }
            Encoding::Msgpack => string(self.out, Encoding::Msgpack, key),
        }
        self.is_first = false;
        self.out
    }

    pub(crate) fn string(&mut self, key: &'static str, text: &str) {
        let encoding = self.encoding;
        string(self.key(key), encoding, text);
    }

    pub(crate) fn unsigned(&mut self, key: &'static str, value: u64) {
        let encoding = self.encoding;
        unsigned(self.key(key), encoding, value);
    }

    pub(crate) fn strings<T: AsRef<str>>(&mut self, key: &'static str, texts: &[T]) {
        let encoding = self.encoding;
        let out = self.key(key);
        match encoding {
            Encoding::Json => {
                out.push(b'[');
                for (at, text) in texts.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    json_string(out, text.as_ref());
                }
                out.push(b']');
            }
            Encoding::Msgpack => {
                msgpack_array_head(out, u32::try_from(texts.len()).expect("an array fits its frame"));
                for text in texts {
                    string(out, encoding, text.as_ref());
                }
            }
        }
    }

    pub(crate) fn end(self) {
        debug_assert_eq!(self.members_left, 0, "fewer members than announced");
        if self.encoding == Encoding::Json {
            self.out.push(b'}');
        }
    }
}
