//! The bytes that wait to be written to one connection.

use bro_proto::limits::FRAME_PREFIX_BYTES;
use bro_proto::v1::rewrite::TranscodeError;

/// Capacity that an empty queue keeps, in bytes. More than a call with 1 MiB of parameters makes it grow to.
const RETAINED_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Written bytes at the front that are not worth moving the rest for.
const HEAD_BYTES_MIN: usize = 64 * 1024;

/// Whole frames in the order in which they go out. The driver takes bytes from the front.
#[derive(Debug, Default)]
pub struct Outbound {
    bytes: Vec<u8>,
    /// `bytes[..head]` is written. Invariant: `head <= bytes.len()`.
    head: usize,
    /// Bytes taken since the connection began.
    taken: u64,
}

/// Why a frame was not queued; the queue is as it was.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AppendError {
    /// The body has more bytes than allowed.
    TooLarge { body_bytes: usize },
    /// A value has no form in this encoding.
    Transcode(TranscodeError),
}

impl Outbound {
    /// What is to be written next; empty when there is nothing.
    pub fn chunk(&self) -> &[u8] {
        &self.bytes[self.head..]
    }

    /// Tells that the first `count` bytes of [`Self::chunk`] are written.
    ///
    /// # Panics
    /// When the chunk was shorter: a defect of the driver.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.len(), "no more than the chunk can be written");
        self.head += count;
        self.taken += count as u64;
        if self.head == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(RETAINED_BYTES_MAX);
            self.head = 0;
        } else if self.head >= HEAD_BYTES_MIN && self.head > self.bytes.len() / 2 {
            // Moves fewer bytes than were written since the last move.
            self.bytes.drain(..self.head);
            self.head = 0;
        }
    }

    /// Whether nothing is to be written.
    pub fn is_empty(&self) -> bool {
        self.head == self.bytes.len()
    }

    /// Bytes to be written.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.head
    }

    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Queues the frame that `write` appends.
    pub(crate) fn append(
        &mut self,
        body_bytes_max: usize,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), TranscodeError>,
    ) -> Result<(), AppendError> {
        let start = self.bytes.len();
        if let Err(error) = write(&mut self.bytes) {
            self.bytes.truncate(start);
            return Err(AppendError::Transcode(error));
        }
        let body_bytes = self.bytes.len() - start - FRAME_PREFIX_BYTES;
        if body_bytes > body_bytes_max {
            self.bytes.truncate(start);
            return Err(AppendError::TooLarge { body_bytes });
        }
        Ok(())
    }

    /// Queues whole frames that are known to be within their limits.
    pub(crate) fn extend(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
    }

    /// Everything that is left, for a connection that ends.
    pub(crate) fn take_rest(&mut self) -> Vec<u8> {
        let mut rest = std::mem::take(&mut self.bytes);
        rest.drain(..self.head);
        self.head = 0;
        rest
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small random numbers")]
mod tests {
    use super::*;
    use bro_proto::rng::Rng;
    use std::collections::VecDeque;

    #[test]
    fn bytes_leave_in_the_order_in_which_they_came() {
        for seed in 0..50 {
            let mut rng = Rng::new(seed);
            let mut outbound = Outbound::default();
            let mut model: VecDeque<u8> = VecDeque::new();
            for step in 0..300_u64 {
                if rng.below(2) == 0 {
                    let frame = vec![(step % 251) as u8; 4 + rng.below(40_000) as usize];
                    let queued = outbound.append(30_000, |out| {
                        out.extend_from_slice(&frame);
                        Ok(())
                    });
                    assert_eq!(queued.is_ok(), frame.len() - 4 <= 30_000);
                    if queued.is_ok() {
                        model.extend(&frame);
                    }
                } else {
                    let count = rng.below(outbound.len() as u64 + 1) as usize;
                    let expected: Vec<u8> = model.drain(..count).collect();
                    assert_eq!(&outbound.chunk()[..count], expected, "seed {seed}");
                    outbound.advance(count);
                }
                assert_eq!(outbound.len(), model.len());
            }
            assert_eq!(outbound.take_rest(), Vec::from(model), "seed {seed}");
            assert!(outbound.is_empty());
        }
    }

    #[test]
    fn a_failed_frame_leaves_no_trace() {
        let mut outbound = Outbound::default();
        let failed = outbound.append(100, |out| {
            out.extend_from_slice(b"half a fra");
            Err(TranscodeError::Malformed { at: 0 })
        });
        assert_eq!(failed, Err(AppendError::Transcode(TranscodeError::Malformed { at: 0 })));
        assert!(outbound.is_empty());
    }
}
