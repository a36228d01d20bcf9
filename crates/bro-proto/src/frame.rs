//! v1 framing: a 4-byte big-endian body length, then the body.

use crate::limits::{FRAME_PREFIX_BYTES, OVERSIZE_BYTES_MAX, OVERSIZE_HEAD_BYTES};
use crate::v1::Encoding;
use crate::v2;
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

/// A frame above the limit. What has arrived of it is its beginning; what follows is skipped.
#[derive(Debug, PartialEq, Eq)]
pub struct Oversize {
    /// Bytes that its body is said to have.
    pub announced: usize,
    /// Its first bytes, prefix included: [`OVERSIZE_HEAD_BYTES`] of the body, or the whole frame if it has less.
    pub head: Vec<u8>,
}

/// Cuts a byte stream into frames, whatever the sizes of the pieces it arrives in.
///
/// Feed each chunk to [`Deframer::start`] and take frames until it returns `None`. Frames that lie whole in the
/// chunk are handed out as slices of it; only a frame that is split between chunks is copied. Memory grows with the bytes
/// that really arrived, never with the length that a prefix claims, and is given back when the frame is done.
///
/// Of a frame above the limit, the beginning is handed out as soon as it is there ([`Oversize`]), and the rest is skipped. Where a stream does not
/// look like frames of ours, or announces more than [`OVERSIZE_BYTES_MAX`], it ends.
#[derive(Debug, Default)]
pub struct Deframer {
    state: State,
}

/// Where in the stream it is.
#[derive(Debug)]
enum State {
    /// Between frames, or in one: the beginning of a frame whose end has not arrived. Invariant: shorter than the frame.
    Frame(Vec<u8>),
    /// So many bytes of a frame above the limit are still to be skipped. Invariant: not 0.
    Skip(usize),
}

impl Default for State {
    fn default() -> Self {
        State::Frame(Vec::new())
    }
}

impl Deframer {
    /// A deframer at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the stream is in the middle of a frame.
    pub fn is_mid_frame(&self) -> bool {
        match &self.state {
            State::Frame(partial) => !partial.is_empty(),
            State::Skip(_) => true,
        }
    }

    /// A deframer that goes on with a frame of which these bytes have arrived.
    pub fn resume(partial: Vec<u8>) -> Self {
        Self { state: State::Frame(partial) }
    }

    /// A deframer that has to skip so many bytes before the next frame begins.
    pub fn resume_skipping(bytes: usize) -> Self {
        Self { state: if bytes == 0 { State::default() } else { State::Skip(bytes) } }
    }

    /// What has arrived of the frame in the making.
    pub fn partial(&self) -> &[u8] {
        match &self.state {
            State::Frame(partial) => partial,
            State::Skip(_) => &[],
        }
    }

    /// Bytes held for the frame in the making.
    pub fn partial_bytes(&self) -> usize {
        self.partial().len()
    }

    /// Bytes that are still to be skipped of a frame above the limit.
    pub fn skipping_bytes(&self) -> usize {
        match self.state {
            State::Frame(_) => 0,
            State::Skip(left) => left,
        }
    }

    /// Memory that is held for it, in bytes.
    pub fn kept_bytes(&self) -> usize {
        match &self.state {
            State::Frame(partial) => partial.capacity(),
            State::Skip(_) => 0,
        }
    }

    /// Bytes still missing from the frame in the making, when its prefix is known.
    pub fn missing_bytes(&self) -> Option<usize> {
        match &self.state {
            State::Frame(partial) => {
                let prefix = partial.first_chunk()?;
                Some((FRAME_PREFIX_BYTES + announced_bytes(*prefix)).saturating_sub(partial.len()))
            }
            State::Skip(left) => Some(*left),
        }
    }

    /// The place for the rest of a large frame: bytes may be read straight into the spare capacity of the vector, instead of
    /// into a buffer from which they would be copied. `None` unless at least `missing_bytes_min` are missing, and for bodies above
    /// `body_bytes_max`.
    ///
    /// Room is made for at most as much again as has arrived (and at least `missing_bytes_min`), so memory follows the bytes
    /// that came, not the length that was claimed. After reading, the frame is taken by [`Deframer::start`] with an empty chunk.
    pub fn room(&mut self, missing_bytes_min: usize, body_bytes_max: usize) -> Option<&mut Vec<u8>> {
        let State::Frame(partial) = &mut self.state else { return None };
        let announced = announced_bytes(*partial.first_chunk()?);
        let total = FRAME_PREFIX_BYTES + announced;
        let missing = total.saturating_sub(partial.len());
        if missing < missing_bytes_min || announced > body_bytes_max {
            return None;
        }
        if partial.capacity() > total {
            partial.shrink_to(total); // what follows the frame belongs elsewhere
        } else if partial.capacity() - partial.len() < missing_bytes_min {
            partial.reserve_exact(missing.min(partial.len().max(missing_bytes_min)));
        }
        Some(partial)
    }

    /// Begins with the next chunk of the stream. `body_bytes_max` is the limit of bodies.
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
            self.keep(&chunk[*at..]);
            *at = chunk.len();
        }
        Ok(place)
    }

    #[inline(always)]
    fn cut(&mut self, chunk: &[u8], at: &mut usize, body_bytes_max: usize) -> Result<Option<CutPlace>, FrameError> {
        if matches!(&self.state, State::Frame(partial) if partial.is_empty()) {
            let rest = &chunk[*at..];
            let Some(prefix) = rest.first_chunk() else { return Ok(None) };
            let announced = announced_bytes(*prefix);
            if announced <= body_bytes_max {
                let total = FRAME_PREFIX_BYTES + announced;
                if rest.len() < total {
                    return Ok(None);
                }
                let start = *at;
                *at += total;
                return Ok(Some(CutPlace::Whole(start..*at)));
            }
        }
        self.assemble(chunk, at, body_bytes_max)
    }

    /// Goes on with the frame that was begun, or skips it.
    #[inline(never)]
    fn assemble(
        &mut self,
        chunk: &[u8],
        at: &mut usize,
        body_bytes_max: usize,
    ) -> Result<Option<CutPlace>, FrameError> {
        if let State::Skip(_) = self.state {
            *at += self.skip(&chunk[*at..]);
            // Behind what was skipped a frame begins, so this comes back here at most once.
            return if *at == chunk.len() { Ok(None) } else { self.cut(chunk, at, body_bytes_max) };
        }
        if !self.take_up_to(FRAME_PREFIX_BYTES, chunk, at) {
            return Ok(None);
        }
        let announced = announced_bytes(*self.partial().first_chunk().expect("the prefix is complete"));
        if announced > body_bytes_max {
            return self.begin_skipping(announced, chunk, at, body_bytes_max);
        }
        let total = FRAME_PREFIX_BYTES + announced;
        if !self.take_up_to(total, chunk, at) {
            return Ok(None);
        }
        // Longer than the frame only when a vector has more capacity than was asked for, see `Deframer::room`.
        let (frame, surplus) = self.take_partial(total);
        self.state = State::Frame(surplus);
        Ok(Some(CutPlace::Assembled(frame)))
    }

    /// Hands the beginning of a frame above the limit out when it is there, if it looks like one.
    #[cold]
    fn begin_skipping(
        &mut self,
        announced: usize,
        chunk: &[u8],
        at: &mut usize,
        limit: usize,
    ) -> Result<Option<CutPlace>, FrameError> {
        let head_bytes = FRAME_PREFIX_BYTES + announced.min(OVERSIZE_HEAD_BYTES);
        let is_whole = self.take_up_to(head_bytes, chunk, at);
        if announced > OVERSIZE_BYTES_MAX || !may_be_body(&self.partial()[FRAME_PREFIX_BYTES..]) {
            return Err(FrameError::TooLarge { announced, limit });
        }
        if !is_whole {
            return Ok(None);
        }
        let (head, surplus) = self.take_partial(head_bytes);
        *self = Self::resume_skipping(FRAME_PREFIX_BYTES + announced - head_bytes);
        self.keep(&surplus);
        Ok(Some(CutPlace::Oversize(Box::new(Oversize { announced, head }))))
    }

    /// The first `count` bytes of the partial frame, and what is behind them.
    fn take_partial(&mut self, count: usize) -> (Vec<u8>, Vec<u8>) {
        let State::Frame(mut partial) = std::mem::take(&mut self.state) else { unreachable!("a frame was begun") };
        let surplus = partial.split_off(count);
        (partial, surplus)
    }

    /// Keeps what is left of a chunk, but for what is to be skipped.
    fn keep(&mut self, rest: &[u8]) {
        let skipped = self.skip(rest);
        if let State::Frame(partial) = &mut self.state {
            partial.extend_from_slice(&rest[skipped..]);
        }
    }

    /// How many of these bytes belong to a frame that is skipped.
    fn skip(&mut self, bytes: &[u8]) -> usize {
        let State::Skip(left) = &mut self.state else { return 0 };
        let skipped = bytes.len().min(*left);
        *left -= skipped;
        if *left == 0 {
            self.state = State::default();
        }
        skipped
    }

    /// Moves bytes of the chunk to the partial frame until it has `target` bytes. False when the chunk ends before.
    fn take_up_to(&mut self, target: usize, chunk: &[u8], at: &mut usize) -> bool {
        let State::Frame(partial) = &mut self.state else { unreachable!("nothing is skipped") };
        let wanted = target.saturating_sub(partial.len());
        let taken = wanted.min(chunk.len() - *at);
        partial.extend_from_slice(&chunk[*at..*at + taken]);
        *at += taken;
        taken == wanted
    }
}

/// Whether a body of ours can begin so. Few bytes are enough to tell most other protocols.
fn may_be_body(beginning: &[u8]) -> bool {
    match Encoding::detect(beginning) {
        Some(Encoding::Msgpack) => true,
        Some(Encoding::Json) => {
            beginning.iter().find(|byte| !b" \t\r\n".contains(byte)).is_none_or(|&byte| byte == b'{')
        }
        None => beginning.first().is_none_or(|&byte| byte == v2::MARK),
    }
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
    /// It is above the limit: only its beginning is there.
    Oversize(Box<Oversize>),
}

/// Where a whole frame, **with** its prefix, lies.
#[derive(Debug, PartialEq, Eq)]
pub enum CutPlace {
    /// Whole, in this part of the chunk.
    Whole(Range<usize>),
    /// It came in pieces and was put together.
    Assembled(Vec<u8>),
    /// It is above the limit: only its beginning is there.
    Oversize(Box<Oversize>),
}

impl<'c> Frames<'_, 'c> {
    /// The next whole frame, **with** its prefix; `None` when the chunk is used up. For readers who do not go on behind a frame above the
    /// limit: it is an error here, as soon as its beginning is there.
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
            Some(Cut::Oversize(oversize)) => {
                let Oversize { announced, .. } = *oversize;
                return Err(FrameError::TooLarge { announced, limit: self.body_bytes_max });
            }
        })
    }

    /// Like [`Frames::next_frame`], for a driver that forwards frames from where they lie.
    pub fn next_cut(&mut self) -> Result<Option<Cut<'c>>, FrameError> {
        let place = self.deframer.cut(self.chunk, &mut self.at, self.body_bytes_max)?;
        Ok(place.map(|place| match place {
            CutPlace::Whole(range) => Cut::Whole(&self.chunk[range]),
            CutPlace::Assembled(frame) => Cut::Assembled(frame),
            CutPlace::Oversize(oversize) => Cut::Oversize(oversize),
        }))
    }
}

impl Drop for Frames<'_, '_> {
    fn drop(&mut self) {
        self.deframer.keep(&self.chunk[self.at..]);
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    use super::*;
    use crate::limits::FRAME_BYTES_MAX;
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
                        CutPlace::Oversize(_) => unreachable!("none is above the limit"),
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
        assert!(deframer.kept_bytes() < 64);
        assert_eq!(deframer.missing_bytes(), Some(0x1ff_ffff));
    }

    #[test]
    fn a_large_frame_is_read_into_its_place_in_bounded_steps() {
        let stream = [frame(&[7; 100_000]), frame(&[8; 10])].concat();
        let mut deframer = Deframer::new();
        assert_eq!(collect(&mut deframer, &stream[..1000], 1 << 20), Ok(vec![]));
        let mut at = 1000;
        while let Some(room) = deframer.room(500, 1 << 20) {
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
        deframer.room(1, 1 << 20).unwrap().extend_from_slice(&stream[100..stream.len() - 1]);
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

    #[test]
    fn what_does_not_begin_like_a_frame_is_refused_at_its_first_byte() {
        let announced = FRAME_BYTES_MAX as u32 + 1;
        let begin = |body: &[u8]| {
            let mut deframer = Deframer::new();
            let bytes = [&announced.to_be_bytes(), body].concat();
            collect(&mut deframer, &bytes, FRAME_BYTES_MAX).map(|_| deframer.kept_bytes())
        };
        for body in [&b""[..], b"{\"type\"", b" \r\n", b"\n{", b"\x87", b"\xde\0", b"\xb2\x01"] {
            assert!(begin(body).is_ok_and(|kept| kept < 64), "{body:?}");
        }
        for body in [&b"GET / "[..], b"\0", b" x", b"[", b"\x16\x03\x01", b"\xd4\x72", b"\xff"] {
            assert!(begin(body).is_err(), "{body:?}");
        }
    }

    /// What a reader sees that goes on behind frames above the limit.
    #[derive(Debug, PartialEq)]
    enum Seen {
        Frame(Vec<u8>),
        Oversize(Oversize),
    }

    /// Reads `stream` in pieces of at most `step_max` bytes, and straight into their place where the deframer offers one.
    fn read_all(stream: &[u8], limit: usize, step_max: u64, rng: &mut Rng) -> (Vec<Seen>, Deframer) {
        let (mut deframer, mut seen, mut at) = (Deframer::new(), Vec::new(), 0);
        while at < stream.len() {
            let step = (1 + rng.below(step_max) as usize).min(stream.len() - at);
            let mut chunk = &stream[at..at + step];
            if let Some(room) = deframer.room(64, limit) {
                chunk = &chunk[..step.min(room.capacity() - room.len())];
                room.extend_from_slice(chunk);
                at += chunk.len();
                chunk = &[];
            }
            at += chunk.len();
            let mut frames = deframer.start(chunk, limit);
            // Sometimes it stops early: the rest of the chunk is kept.
            while rng.below(10) > 0
                && let Some(cut) = frames.next_cut().unwrap()
            {
                seen.push(match cut {
                    Cut::Whole(frame) => Seen::Frame(frame.to_vec()),
                    Cut::Assembled(frame) => Seen::Frame(frame),
                    Cut::Oversize(oversize) => Seen::Oversize(*oversize),
                });
            }
            drop(frames);
            assert!(deframer.kept_bytes() < 40_000, "{}", deframer.kept_bytes());
        }
        let mut frames = deframer.start(&[], limit);
        while let Some(cut) = frames.next_cut().unwrap() {
            seen.push(match cut {
                Cut::Whole(frame) => Seen::Frame(frame.to_vec()),
                Cut::Assembled(frame) => Seen::Frame(frame),
                Cut::Oversize(oversize) => Seen::Oversize(*oversize),
            });
        }
        drop(frames);
        (seen, deframer)
    }

    #[test]
    fn frames_above_the_limit_are_skipped_and_what_follows_is_read() {
        const LIMIT: usize = 1000;
        for seed in 0..300 {
            let mut rng = Rng::new(seed);
            let (mut stream, mut expected) = (Vec::new(), Vec::new());
            for _ in 0..rng.below(12) {
                let bytes = match rng.below(4) {
                    0 => LIMIT + 1 + rng.below(20) as usize,
                    1 => LIMIT + rng.below(30_000) as usize,
                    _ => rng.below(LIMIT as u64 + 1) as usize,
                };
                let whole = frame(&vec![v2::MARK; bytes]);
                expected.push(if bytes <= LIMIT {
                    Seen::Frame(whole.clone())
                } else {
                    let head = whole[..whole.len().min(FRAME_PREFIX_BYTES + OVERSIZE_HEAD_BYTES)].to_vec();
                    Seen::Oversize(Oversize { announced: bytes, head })
                });
                stream.extend(whole);
            }
            let step_max = [3, 100, 10_000][seed as usize % 3];
            let (seen, deframer) = read_all(&stream, LIMIT, step_max, &mut rng);
            assert_eq!(seen, expected, "seed {seed}");
            assert!(!deframer.is_mid_frame(), "seed {seed}");
        }
    }

    #[test]
    fn a_frame_that_is_skipped_keeps_nothing_and_can_be_handed_on() {
        let mut deframer = Deframer::new();
        let mut stream = frame(&vec![v2::MARK; 100_000]);
        stream.extend(frame(b"next"));
        let begun = collect(&mut deframer, &stream[..5000], 1000);
        assert_eq!(begun, Err(FrameError::TooLarge { announced: 100_000, limit: 1000 }), "for who does not go on");
        assert!(deframer.is_mid_frame() && deframer.partial().is_empty());
        assert_eq!((deframer.kept_bytes(), deframer.skipping_bytes()), (0, 95_004));
        assert!(deframer.room(1, 1000).is_none());
        let mut successor = Deframer::resume_skipping(deframer.skipping_bytes());
        assert_eq!(collect(&mut successor, &stream[5000..100_003], 1000), Ok(vec![]));
        assert_eq!((successor.kept_bytes(), successor.skipping_bytes()), (0, 1));
        assert_eq!(collect(&mut successor, &stream[100_003..], 1000), Ok(vec![frame(b"next")]));
        assert!(!Deframer::resume_skipping(0).is_mid_frame());
    }
}
