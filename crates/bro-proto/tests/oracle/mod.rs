//! What the header scan should say, by independent and slower readers: serde_json for JSON, rmp for msgpack.
//!
//! The property tests of this crate and the fuzz targets share these.

#![allow(missing_docs, dead_code, unreachable_pub, reason = "everyone who includes this uses a part of it")]

pub mod json;
pub mod msgpack;

use bro_proto::v1::{ScanError, Text};
use std::ops::Range;

/// Keys at the top level whose value must be a text.
pub const TEXT_KEYS: [&str; 8] = ["type", "status", "id", "from", "to", "method", "serviceName", "version"];
/// All keys that mean something at the top level.
pub const KEYS: [&str; 15] = [
    "type",
    "status",
    "id",
    "from",
    "to",
    "method",
    "serviceName",
    "version",
    "methods",
    "metadata",
    "params",
    "data",
    "error",
    "timestamp",
    "context",
];
/// All keys that mean something in a context.
pub const CONTEXT_KEYS: [&str; 4] = ["root", "chain", "depth", "deadline"];

/// What is wrong with a well-formed body, apart from its form. More than one may be true; the scan names the first it meets.
#[derive(Debug, Default)]
pub struct Faults {
    pub too_deep: bool,
    pub duplicate_key: bool,
    pub unusual_key: bool,
    pub wrong_type: bool,
    pub invalid_utf8: bool,
}

impl Faults {
    /// Whether there is any.
    pub fn any(&self) -> bool {
        self.too_deep || self.duplicate_key || self.unusual_key || self.wrong_type || self.invalid_utf8
    }

    /// Whether the scan may name this one.
    pub fn allow(&self, fault: ScanError) -> bool {
        match fault {
            ScanError::TooDeep { .. } => self.too_deep,
            ScanError::DuplicateKey { .. } => self.duplicate_key,
            ScanError::UnusualKey { .. } => self.unusual_key,
            ScanError::WrongType { .. } => self.wrong_type,
            ScanError::InvalidUtf8 { .. } => self.invalid_utf8,
            _ => false,
        }
    }
}

/// Whether one of the keys that mean something stands twice.
pub fn has_duplicates<'k>(keys: impl Iterator<Item = &'k [u8]> + Clone, meaningful: &[&str]) -> bool {
    meaningful.iter().any(|name| keys.clone().filter(|key| *key == name.as_bytes()).count() > 1)
}

/// Compares a text of the header with what the oracle read.
pub fn assert_text(name: &str, scanned: Option<&Text<'_>>, expected: Option<(String, Range<usize>)>) {
    let scanned = scanned.map(|text| (text.value.clone().into_owned(), text.span.clone()));
    assert_eq!(scanned, expected, "{name}");
}
