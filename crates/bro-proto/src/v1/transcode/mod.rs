//! The walks between the two encodings, and the primitives that encoders share. The rules are in [`super::rewrite`].

pub(crate) mod date;
pub(crate) mod head;
pub(crate) mod number;
pub(crate) mod to_json;
pub(crate) mod to_msgpack;
pub(crate) mod write;

use super::rewrite::{Patch, TranscodeError};
use crate::limits::FRAME_BYTES_MAX;

/// The patches of a walk that are still ahead, first one first.
pub(crate) struct Patches<'p, 'a> {
    ahead: &'p [Patch<'a>],
}

impl<'p, 'a> Patches<'p, 'a> {
    pub(crate) fn new(patches: &'p [Patch<'a>]) -> Self {
        Self { ahead: patches }
    }

    /// Whether a patch replaces the value at `at`.
    pub(crate) fn is_at(&self, at: usize) -> bool {
        self.ahead.first().is_some_and(|patch| patch.span.start == at)
    }

    /// The patch for the value at `at`, which is used up by that.
    pub(crate) fn take_at(&mut self, at: usize) -> Option<&'p Patch<'a>> {
        let (first, rest) = self.ahead.split_first().filter(|(first, _)| first.span.start == at)?;
        self.ahead = rest;
        Some(first)
    }

    /// All patches must have met a value: a span that begins elsewhere would be lost silently.
    pub(crate) fn finish(&self) -> Result<(), TranscodeError> {
        match self.ahead.first() {
            None => Ok(()),
            Some(patch) => Err(TranscodeError::Malformed { at: patch.span.start }),
        }
    }
}

/// How far an output may grow: what a frame may hold, or twice the source where a gateway was configured for larger
/// frames. Reaching it is an error, not a panic; callers with a lower limit of their own check the result.
#[derive(Clone, Copy)]
pub(crate) struct OutputLimit {
    bytes: usize,
    /// Length of the output at which the limit is reached.
    end: usize,
}

impl OutputLimit {
    pub(crate) fn new(source: &[u8], out: &[u8]) -> Self {
        let bytes = FRAME_BYTES_MAX.max(source.len().saturating_mul(2));
        Self { bytes, end: out.len().saturating_add(bytes) }
    }

    pub(crate) fn check(self, out: &[u8]) -> Result<(), TranscodeError> {
        if out.len() > self.end { Err(TranscodeError::TooLarge { limit: self.bytes }) } else { Ok(()) }
    }
}
