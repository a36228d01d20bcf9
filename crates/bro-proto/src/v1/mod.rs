//! v1 messages: one JSON or msgpack object per frame.
//!
//! - [`header`]: what a frame says about itself, read without parsing its payload.
//! - [`json`], [`msgpack`]: the two scanners behind [`scan`].
//! - [`rewrite`]: the same message with some values replaced, in the same encoding or the other one.
//! - [`encode`]: building frames.
//! - [`decode`]: small structured parts (context, error, methods) as owned values.
//! - [`message`]: whole messages as owned values, for programs that prefer convenience to speed.

pub mod decode;
pub mod encode;
pub mod header;
pub mod json;
mod key;
pub mod message;
pub mod msgpack;
mod nesting;
pub mod rewrite;
mod transcode;

pub use header::{ContextHeader, Encoding, Header, Kind, ScanError, Status, Text, scan, scan_beginning, scan_into};
pub use nesting::{check_nesting, check_value};

/// A value in one of the two encodings, not parsed. Invariant: one whole, well-formed value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload<'a> {
    /// How `bytes` are encoded.
    pub encoding: Encoding,
    /// The encoded value; empty means that the field is absent (`undefined` in JavaScript).
    pub bytes: &'a [u8],
}
