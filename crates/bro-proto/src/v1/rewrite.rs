//! The same message with some strings replaced, in the same encoding or in the other one.
//!
//! In the same encoding everything but the patches is copied byte by byte. Between the encodings, these rules hold
//! (the table is in `docs/transcoding.md`, too):
//!
//! | JSON | becomes msgpack |
//! |---|---|
//! | integer from -2^31 to 2^32-1 | the smallest integer form |
//! | `-0`, any other integer, any number with fraction or exponent | float64, rounded to nearest: integers beyond 2^53 lose digits as in JavaScript, numbers beyond the range become infinite |
//! | string | string; escapes are decoded, a lone surrogate becomes U+FFFD |
//! | array, object | array, map in the smallest form; order and duplicate keys are kept |
//! | `true`, `false`, `null` | the same |
//!
//! | msgpack | becomes JSON |
//! |---|---|
//! | integer of any size | its digits |
//! | float32, float64 | the shortest text that reads back the same, laid out as JavaScript does (`1`, not `1.0`); `-0` keeps its sign; NaN and infinities become `null` |
//! | string | string; what is not UTF-8 becomes U+FFFD, a lone surrogate in three bytes becomes one U+FFFD |
//! | bin | `{"type":"Buffer","data":[…]}`, as `JSON.stringify` writes a Node `Buffer`; that counts as two levels of nesting |
//! | ext -1, timestamp | ISO 8601 text with milliseconds, as `Date.toJSON`; `null` if no `Date` can hold it |
//! | ext 0, msgpackr's `undefined` | left out as a map value, `null` elsewhere |
//! | ext 0x72 of one or two bytes, msgpackr's record | an error: only `pack()` output can be understood on its own |
//! | any other ext | `null` |
//! | map key that is a number, boolean or nil | its JSON text, as a string |
//! | map key that is a timestamp | its ISO 8601 text |
//! | any other map key that is not a string | `"?"` |
//!
//! Both walks are iterative, linear in the source and at most [`crate::limits::NESTING_MAX`] levels deep. A JSON text of
//! n bytes becomes at most 3n + 8 bytes of msgpack; a msgpack value of n bytes becomes at most 14n + 13 bytes of JSON (an
//! empty bin is the worst case). Above all that the output ends at [`crate::limits::FRAME_BYTES_MAX`] or twice the
//! source, whichever is more, with [`TranscodeError::TooLarge`].

use super::transcode::to_json::msgpack_to_json;
use super::transcode::to_msgpack::json_to_msgpack;
use super::transcode::write;
use super::{Encoding, Payload};
use crate::error::ErrorCode;
use std::ops::Range;

/// A string value of the body to be replaced by another string.
#[derive(Clone, Debug)]
pub struct Patch<'a> {
    /// The encoded value, as [`super::Text::span`] names it.
    pub span: Range<usize>,
    /// What stands there instead.
    pub text: &'a str,
}

/// Why a value has no form in the other encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TranscodeError {
    /// Not one well-formed value, or a patch that is not at a value; cannot happen to a body that was scanned.
    #[error("malformed value at byte {at}")]
    Malformed {
        /// Offset in the source.
        at: usize,
    },
    /// Nested deeper than [`crate::limits::NESTING_MAX`]; happens to a body that was scanned only where a bin becomes an
    /// object with an array in it.
    #[error("nested deeper than {} levels at byte {at}", crate::limits::NESTING_MAX)]
    TooDeep {
        /// Offset in the source.
        at: usize,
    },
    /// The value would become larger than the limit.
    #[error("the encoded value would have more than {limit} bytes")]
    TooLarge {
        /// Bytes that would have been accepted.
        limit: usize,
    },
}

impl TranscodeError {
    /// The code to tell whoever waits for the value.
    pub fn code(&self) -> ErrorCode {
        match self {
            TranscodeError::Malformed { .. } | TranscodeError::TooDeep { .. } => ErrorCode::DeserializationFailed,
            TranscodeError::TooLarge { .. } => ErrorCode::PayloadTooLarge,
        }
    }
}

/// Appends the body with its patches applied, in the encoding `target`. No frame prefix is written.
///
/// Patches are sorted by where they start, do not overlap, and each replaces one whole value. After an error `out` is as
/// it was.
pub fn rewrite(
    body: &[u8],
    source: Encoding,
    target: Encoding,
    patches: &[Patch<'_>],
    out: &mut Vec<u8>,
) -> Result<(), TranscodeError> {
    let mut free_from = 0;
    for Patch { span, .. } in patches {
        if span.start < free_from || span.end <= span.start || span.end > body.len() {
            return Err(TranscodeError::Malformed { at: span.start });
        }
        free_from = span.end;
    }
    let start = out.len();
    let written = match (source, target) {
        (Encoding::Json, Encoding::Msgpack) => json_to_msgpack(body, patches, out),
        (Encoding::Msgpack, Encoding::Json) => msgpack_to_json(body, patches, out),
        (Encoding::Json, Encoding::Json) | (Encoding::Msgpack, Encoding::Msgpack) => {
            splice(body, target, patches, out);
            Ok(())
        }
    };
    if written.is_err() {
        out.truncate(start);
    }
    written
}

/// Appends one value in the encoding `target`; nothing for an empty payload. After an error `out` is as it was.
pub fn transcode(payload: Payload<'_>, target: Encoding, out: &mut Vec<u8>) -> Result<(), TranscodeError> {
    if payload.bytes.is_empty() {
        return Ok(());
    }
    rewrite(payload.bytes, payload.encoding, target, &[], out)
}

fn splice(body: &[u8], encoding: Encoding, patches: &[Patch<'_>], out: &mut Vec<u8>) {
    out.reserve(body.len());
    let mut copied = 0;
    for Patch { span, text } in patches {
        out.extend_from_slice(&body[copied..span.start]);
        write::string(out, encoding, text);
        copied = span.end;
    }
    out.extend_from_slice(&body[copied..]);
}
