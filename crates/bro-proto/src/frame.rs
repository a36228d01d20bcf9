//! v1 framing: a 4-byte big-endian body length, then the body.

use crate::limits::FRAME_PREFIX_BYTES;
use std::ops::Range;

/// The stream cannot be understood any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The peer announced a body above the limit.
    #[error("frame body of {announced} bytes announced, at most {limit} are accepted")]
    TooLarge {
        /// Bytes that the prefix claims.
        announced: usize,
        /// Bytes that would have been accepted.
        limit: usize,
    },
}

/// The body length that a prefix announces.
pub fn announced_bytes(prefix: [u8; FRAME_PREFIX_BYTES]) -> usize {
    u32::from_be_bytes(prefix) as usize
}

/// Writes the prefix of the frame that starts at `start` in `out`; the body follows it and ends at the end of `out`.
///
/// # Panics
/// When `out` does not hold a prefix at `start`, or when the body is above 4 GiB: both are defects of the caller.
pub fn finish_frame(out: &mut [u8], start: usize) {
    let body = u32::try_from(out.len() - start - FRAME_PREFIX_BYTES).expect("body length fits the prefix");
    out[start..start + FRAME_PREFIX_BYTES].copy_from_slice(&body.to_be_bytes());
}

/// Cuts a byte stream into frames, whatever the sizes of the pieces it arrives in.
///
/// Feed each chunk to [`Deframer::start`] and take frames until it returns `None`. Frames that lie whole in the
/// chunk are handed out as slices of it; only a frame that is split between chunks is copied. Memory grows with the bytes
/// that really arrived, never with the length that a prefix claims, and is given back when the frame is done.
#[derive(Debug, Default)]
pub struct Deframer {
    /// The beginning of a frame whose end has not arrived. Invariant: shorter than the frame.
    partial: Vec<u8>,
}

impl Deframer {
    /// A deframer at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the stream is in the middle of a frame.
    pub fn is_mid_frame(&self) -> bool {
        !self.partial.is_empty()
    }

    /// A deframer that goes on with a frame of which these bytes have arrived.
    pub fn resume(partial: Vec<u8>) -> Self {
        Self { partial }
    }

    /// What has arrived of the frame in the making.
    pub fn partial(&self) -> &[u8] {
        &self.partial
    }

    /// Bytes held for the frame in the making.
    pub fn partial_bytes(&self) -> usize {
        self.partial.len()
    }

    /// Bytes still missing from the frame in the making, when its prefix is known.
    pub fn missing_bytes(&self) -> Option<usize> {
        let prefix = self.partial.first_chunk()?;
        Some((FRAME_PREFIX_BYTES + announced_bytes(*prefix)).saturating_sub(self.partial.len()))
    }

    /// The place for the rest of a large frame: bytes may be read straight into the spare capacity of the vector, instead of
    /// into a buffer from which they would be copied. `None` unless at least `missing_bytes_min` are missing.
    ///
    /// Room is made for at most as much again as has arrived (and at least `missing_bytes_min`), so memory follows the bytes
    /// that came, not the length that was claimed. After reading, the frame is taken by [`Deframer::start`] with an empty chunk.
    pub fn room(&mut self, missing_bytes_min: usize) -> Option<&mut Vec<u8>> {
        let missing = self.missing_bytes()?;
        if missing < missing_bytes_min {
            return None;
        }
        let total = self.partial.len() + missing;
        if self.partial.capacity() > total {
            self.partial.shrink_to(total); // what follows the frame belongs elsewhere
        } else if self.partial.capacity() - self.partial.len() < missing_bytes_min {
            self.partial.reserve_exact(missing.min(self.partial.len().max(missing_bytes_min)));
        }
        Some(&mut self.partial)
    }

    /// Begins with the next chunk of the stream. Bodies above `body_bytes_max` end the stream.
    pub fn start<'d, 'c>(&'d mut self, chunk: &'c [u8], body_bytes_max: usize) -> Frames<'d, 'c> {
        Frames { deframer: self, chunk, at: 0, assembled: Vec::new(), body_bytes_max }
    }

    /// Where the next whole frame is, for a reader that changes frames where they lie. `at` is how far `chunk` is used up: 0 for a new
    /// chunk. When there is no further frame, what is left of the chunk is kept for the next one.
    ///
    /// After an error the stream has no next frame: the connection must be closed.
    pub fn next_place(
        &mut self,
        chunk: &[u8],
        at: &mut usize,
        body_bytes_max: usize,
    ) -> Result<Option<CutPlace>, FrameError> {
        let place = self.cut(chunk, at, body_bytes_max)?;
        if place.is_none() {
            self.partial.extend_from_slice(&chunk[*at..]);
            *at = chunk.len();
        }
        Ok(place)
    }

    #[inline(always)]
    fn cut(&mut self, chunk: &[u8], at: &mut usize, body_bytes_max: usize) -> Result<Option<CutPlace>, FrameError> {
        if self.partial.is_empty() {
            let rest = &chunk[*at..];
            let Some(total) = frame_bytes(rest, body_bytes_max)? else { return Ok(None) };
            if rest.len() < total {
                return Ok(None);
            }
            let start = *at;
            *at += total;
            return Ok(Some(CutPlace::Whole(start..*at)));
        }
        self.assemble(chunk, at, body_bytes_max)
    }

    /// Goes on with the frame that was begun.
    #[inline(never)]
    fn assemble(
        &mut self,
        chunk: &[u8],
        at: &mut usize,
        body_bytes_max: usize,
    ) -> Result<Option<CutPlace>, FrameError> {
        if !self.take_up_to(FRAME_PREFIX_BYTES, chunk, at) {
            return Ok(None);
        }
        let total = frame_bytes(&self.partial, body_bytes_max)?.expect("the prefix is complete");
        if !self.take_up_to(total, chunk, at) {
            return Ok(None);
        }
        // Longer than the frame only when a vector has more capacity than was asked for, see `Deframer::room`.
        let surplus = self.partial.split_off(total);
        Ok(Some(CutPlace::Assembled(std::mem::replace(&mut self.partial, surplus))))
    }

    /// Moves bytes of the chunk to the partial frame until it has `target` bytes. False when the chunk ends before.
    fn take_up_to(&mut self, target: usize, chunk: &[u8], at: &mut usize) -> bool {
        let wanted = target.saturating_sub(self.partial.len());
        let taken = wanted.min(chunk.len() - *at);
        self.partial.extend_from_slice(&chunk[*at..*at + taken]);
        *at += taken;
        taken == wanted
    }
}

fn frame_bytes(bytes: &[u8], body_bytes_max: usize) -> Result<Option<usize>, FrameError> {
    let Some(prefix) = bytes.first_chunk() else { return Ok(None) };
    let announced = announced_bytes(*prefix);
    if announced > body_bytes_max {
        return Err(FrameError::TooLarge { announced, limit: body_bytes_max });
    }
    Ok(Some(FRAME_PREFIX_BYTES + announced))
}

/// The frames of one chunk; see [`Deframer::start`]. When dropped, what is left of the chunk is kept for the next one.
#[derive(Debug)]
pub struct Frames<'d, 'c> {
    deframer: &'d mut Deframer,
    chunk: &'c [u8],
    /// Bytes of the chunk that are used up.
    at: usize,
    assembled: Vec<u8>,
    body_bytes_max: usize,
}

/// A whole frame, **with** its prefix, and where it lies.
#[derive(Debug, PartialEq, Eq)]
pub enum Cut<'c> {
    /// It lay whole in the chunk.
    Whole(&'c [u8]),
    /// It came in pieces and was put together.
    Assembled(Vec<u8>),
}

/// Where a whole frame, **with** its prefix, lies.
#[derive(Debug, PartialEq, Eq)]
pub enum CutPlace {
    /// Whole, in this part of the chunk.
    Whole(Range<usize>),
    /// It came in pieces and was put together.
    Assembled(Vec<u8>),
}

impl<'c> Frames<'_, 'c> {
    /// The next whole frame, **with** its prefix; `None` when the chunk is used up.
    ///
    /// After an error the stream has no next frame: the connection must be closed.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, FrameError> {
        Ok(match self.next_cut()? {
            None => None,
            Some(Cut::Whole(frame)) => Some(frame),
            Some(Cut::Assembled(frame)) => {
                self.assembled = frame;
                Some(&self.assembled)
            }
        })
    }

    /// Like [`Frames::next_frame`], for a driver that forwards frames from where they lie.
    pub fn next_cut(&mut self) -> Result<Option<Cut<'c>>, FrameError> {
        let place = self.deframer.cut(self.chunk, &mut self.at, self.body_bytes_max)?;
        Ok(place.map(|place| match place {
            CutPlace::Whole(range) => Cut::Whole(&self.chunk[range]),
            CutPlace::Assembled(frame) => Cut::Assembled(frame),
        }))
    }
}

impl Drop for Frames<'_, '_> {
    fn drop(&mut self) {
        self.deframer.partial.extend_from_slice(&self.chunk[self.at..]);
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn frame(body: &[u8]) -> Vec<u8> {
        let mut out = vec![0; FRAME_PREFIX_BYTES];
        out.extend_from_slice(body);
        finish_frame(&mut out, 0);
        out
    }

    fn collect(deframer: &mut Deframer, chunk: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, FrameError> {
        let mut frames = deframer.start(chunk, limit);
        let mut all = Vec::new();
        while let Some(frame) = frames.next_frame()? {
            all.push(frame.to_vec());
        }
        Ok(all)
    }

    #[test]
    fn any_split_of_the_stream_gives_the_same_frames() {
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let frames: Vec<Vec<u8>> =
                (0..rng.below(20)).map(|i| frame(&vec![i as u8; rng.below(300) as usize])).collect();
            let stream = frames.concat();
            let mut deframer = Deframer::new();
            let mut seen = Vec::new();
            let mut at = 0;
            while at < stream.len() {
                let end = (at + 1 + rng.below(100) as usize).min(stream.len());
                seen.extend(collect(&mut deframer, &stream[at..end], 1000).unwrap());
                at = end;
            }
            assert_eq!(seen, frames, "seed {seed}");
            assert!(!deframer.is_mid_frame());
        }
    }

    #[test]
    fn frames_can_be_changed_where_they_lie() {
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let bodies: Vec<Vec<u8>> = (0..rng.below(20)).map(|_| vec![1; rng.below(300) as usize]).collect();
            let stream = bodies.iter().map(|body| frame(body)).collect::<Vec<_>>().concat();
            let mut deframer = Deframer::new();
            let mut seen = Vec::new();
            let mut start = 0;
            while start < stream.len() {
                let end = (start + 1 + rng.below(100) as usize).min(stream.len());
                let mut chunk = stream[start..end].to_vec();
                let mut at = 0;
                while let Some(place) = deframer.next_place(&chunk, &mut at, 1000).unwrap() {
                    let mut assembled;
                    let frame = match place {
                        CutPlace::Whole(range) => &mut chunk[range],
                        CutPlace::Assembled(frame) => {
                            assembled = frame;
                            &mut assembled[..]
                        }
                    };
                    frame[FRAME_PREFIX_BYTES..].fill(2);
                    seen.push(frame[FRAME_PREFIX_BYTES..].to_vec());
                }
                start = end;
            }
            assert_eq!(seen, bodies.iter().map(|body| vec![2; body.len()]).collect::<Vec<_>>(), "seed {seed}");
            assert!(!deframer.is_mid_frame());
        }
    }

    #[test]
    fn a_claimed_length_allocates_nothing() {
        let mut deframer = Deframer::new();
        assert_eq!(collect(&mut deframer, &[1, 0xff, 0xff, 0xff], 1 << 30), Ok(vec![]));
        assert!(deframer.partial.capacity() < 64);
        assert_eq!(deframer.missing_bytes(), Some(0x1ff_ffff));
    }

    #[test]
    fn a_large_frame_is_read_into_its_place_in_bounded_steps() {
        let stream = [frame(&[7; 100_000]), frame(&[8; 10])].concat();
        let mut deframer = Deframer::new();
        assert_eq!(collect(&mut deframer, &stream[..1000], 1 << 20), Ok(vec![]));
        let mut at = 1000;
        while let Some(room) = deframer.room(500) {
            let spare = room.capacity() - room.len();
            assert!((1..=at.max(500)).contains(&spare), "{spare} bytes of room after {at}");
            room.extend_from_slice(&stream[at..at + spare]);
            at += spare;
            let mut frames = deframer.start(&[], 1 << 20);
            if let Some(cut) = frames.next_cut().unwrap() {
                assert_eq!(cut, Cut::Assembled(frame(&[7; 100_000])));
            }
        }
        assert_eq!(at, 100_004, "the step ends where the frame ends");
        assert_eq!(collect(&mut deframer, &stream[at..], 1 << 20), Ok(vec![frame(&[8; 10])]));
    }

    #[test]
    fn bytes_read_beyond_a_frame_are_the_next_frames() {
        let stream = [frame(&[7; 1000]), frame(&[8; 10]), frame(&[9; 20])].concat();
        let mut deframer = Deframer::new();
        assert_eq!(collect(&mut deframer, &stream[..100], 1 << 20), Ok(vec![]));
        deframer.room(1).unwrap().extend_from_slice(&stream[100..stream.len() - 1]);
        let all = collect(&mut deframer, &stream[stream.len() - 1..], 1 << 20).unwrap();
        assert_eq!(all, [frame(&[7; 1000]), frame(&[8; 10]), frame(&[9; 20])]);
    }

    #[test]
    fn an_absurd_length_is_refused_at_the_prefix() {
        let refused = Err(FrameError::TooLarge { announced: 0xffff_ffff, limit: 1000 });
        assert_eq!(collect(&mut Deframer::new(), &[0xff; 4], 1000), refused);
        let mut deframer = Deframer::new();
        assert_eq!(collect(&mut deframer, &[0xff; 3], 1000), Ok(vec![]));
        assert_eq!(collect(&mut deframer, &[0xff; 1], 1000), refused);
    }
}
