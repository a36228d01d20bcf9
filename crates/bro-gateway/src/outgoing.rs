//! Bytes going out to one peer.
//!
//! During a wakeup, what is to be sent is only noted: segments that point at where the bytes lie. At its end each peer is
//! written to once, and only what its socket did not take is copied to a queue that belongs to the peer.

use crate::inbox::{Arrived, Place};
use bro_router::Part;
use bytes::{Buf, Bytes};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, send, sendmsg};
use std::collections::VecDeque;
use std::io::IoSlice;

/// The end of a list of segments.
const NIL: u32 = u32::MAX;
/// Most pieces in one system call, a limit of the kernel.
const PIECES_MAX: usize = 1024;
/// Pieces of a spliced frame below this size are copied together: cheaper than one more piece for the kernel.
const SPLICED_COPY_BYTES_MAX: usize = 1024;
/// What a socket did not take of a large frame stays where it is, and is only referred to, from this size on.
const SHARED_BYTES_MIN: usize = 16 * 1024;
/// Small leftovers are gathered in chunks of about this size.
const CHUNK_BYTES: usize = 64 * 1024;
/// Segments or scratch bytes above which a wakeup writes in between, so that they stay bounded.
const SEGMENTS_MAX: usize = 16 * 1024;
const SCRATCH_BYTES_MAX: usize = 1024 * 1024;
/// Scratch bytes that lie in one piece, unless a single frame has more. One input can make more than a segment can point into
/// (a callee that goes may fail a million calls), so the scratch bytes are in several pieces then.
const SCRATCH_PIECE_BYTES: usize = 16 * 1024 * 1024;
/// Scratch room that is kept between wakeups.
const SCRATCH_BYTES_KEPT: usize = 256 * 1024;

/// A run of bytes to be sent.
#[derive(Clone, Copy, Debug)]
struct Segment {
    place: Place,
    start: u32,
    len: u32,
    next: u32,
}

/// The frame that the router is handling: pieces of it are forwarded from where they lie.
#[derive(Clone, Copy)]
struct Current {
    place: Place,
    /// Where the frame begins in its place.
    start: usize,
    /// Where it begins in memory, only to be compared with.
    address: usize,
    len: usize,
}

/// What has been noted for all peers in this wakeup.
pub(crate) struct Pending {
    segments: Vec<Segment>,
    scratch: Vec<Vec<u8>>,
    current: Option<Current>,
}

impl Pending {
    pub(crate) fn new() -> Self {
        Self { segments: Vec::new(), scratch: Vec::new(), current: None }
    }

    /// From now on inbound parts are parts of `frame`, which begins at `start` of `place`.
    pub(crate) fn begin_frame(&mut self, place: Place, start: usize, frame: &[u8]) {
        self.current = Some(Current { place, start, address: frame.as_ptr() as usize, len: frame.len() });
    }

    pub(crate) fn end_frame(&mut self) {
        self.current = None;
    }

    /// Whether it is time to write, even in the middle of a wakeup.
    pub(crate) fn is_large(&self) -> bool {
        let has_much_scratch = match &self.scratch[..] {
            [] => false,
            [only] => only.len() >= SCRATCH_BYTES_MAX,
            _ => true,
        };
        has_much_scratch || self.segments.len() >= SEGMENTS_MAX
    }

    /// Everything has been written or queued: nothing points here any more.
    pub(crate) fn recycle(&mut self) {
        self.segments.clear();
        self.segments.shrink_to(SEGMENTS_MAX);
        self.scratch.truncate(1);
        if let Some(first) = self.scratch.first_mut() {
            first.clear();
            first.shrink_to(SCRATCH_BYTES_KEPT);
        }
    }

    /// Copies bytes that lie nowhere else. Says where they lie now.
    fn copy(&mut self, bytes: &[u8]) -> (Place, usize) {
        let has_room = |piece: &Vec<u8>| piece.is_empty() || piece.len() + bytes.len() <= SCRATCH_PIECE_BYTES;
        if !self.scratch.last().is_some_and(has_room) {
            self.scratch.push(Vec::new());
        }
        let index = self.scratch.len() - 1;
        let piece = &mut self.scratch[index];
        piece.extend_from_slice(bytes);
        (Place::Scratch(u32::try_from(index).expect("memory ends before")), piece.len() - bytes.len())
    }

    /// Where inbound bytes lie, if they are part of the current frame.
    fn locate(&self, bytes: &[u8]) -> Option<(Place, usize)> {
        let current = self.current?;
        let offset = (bytes.as_ptr() as usize).checked_sub(current.address)?;
        (offset.checked_add(bytes.len())? <= current.len).then_some((current.place, current.start + offset))
    }

    fn bytes<'a>(&'a self, segment: &Segment, arrived: Arrived<'a>) -> &'a [u8] {
        let range = segment.start as usize..(segment.start + segment.len) as usize;
        match segment.place {
            Place::Buffer(buffer) => arrived.buffers.bytes(buffer, range),
            Place::Frame(frame) => &arrived.frames[frame as usize][range],
            Place::Scratch(piece) => &self.scratch[piece as usize][range],
        }
    }
}

/// What a write has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// Bytes that the socket took.
    pub(crate) bytes: usize,
    /// The peer can take no more, ever.
    pub(crate) is_broken: bool,
}

/// What is on its way to one peer.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// What earlier wakeups left; most peers never have any.
    queue: Option<Box<Queue>>,
    /// Segments of this wakeup, a list in [`Pending`]; they come after the queue.
    head: u32,
    tail: u32,
}

impl Outgoing {
    pub(crate) fn new() -> Self {
        Self { queue: None, head: NIL, tail: NIL }
    }

    /// Whether earlier wakeups left something.
    pub(crate) fn is_queued(&self) -> bool {
        self.queue.is_some()
    }

    /// What earlier wakeups left, in order.
    pub(crate) fn queued(&self) -> impl Iterator<Item = &[u8]> {
        self.queue.iter().flat_map(|queue| queue.chunks.iter().map(Chunk::bytes))
    }

    /// What a gateway before this one left.
    pub(crate) fn resume(queued: Vec<u8>) -> Self {
        let mut outgoing = Self::new();
        if !queued.is_empty() {
            outgoing.queue.get_or_insert_default().push_shared(Bytes::from(queued));
        }
        outgoing
    }

    /// Whether anything is to be written.
    pub(crate) fn is_pending(&self) -> bool {
        self.queue.is_some() || self.head != NIL
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::new();
    }

    /// Notes one frame. True when it is the first of this wakeup.
    pub(crate) fn note(&mut self, parts: &[Part<'_>], pending: &mut Pending) -> bool {
        let is_first = self.head == NIL;
        for part in parts {
            let bytes = part.bytes();
            if bytes.is_empty() {
                continue;
            }
            let in_place = match part {
                Part::Inbound(_) if parts.len() == 1 || bytes.len() > SPLICED_COPY_BYTES_MAX => pending.locate(bytes),
                _ => None,
            };
            let (place, start) = in_place.unwrap_or_else(|| pending.copy(bytes));
            self.append(place, start, bytes.len(), &mut pending.segments);
        }
        is_first && self.head != NIL
    }

    fn append(&mut self, place: Place, start: usize, len: usize, segments: &mut Vec<Segment>) {
        let start = u32::try_from(start).expect("places are smaller than 4 GiB");
        let len = u32::try_from(len).expect("frames are smaller than 4 GiB");
        if let Some(tail) = segments.get_mut(self.tail as usize)
            && tail.place == place
            && tail.start + tail.len == start
        {
            tail.len += len;
            return;
        }
        let index = u32::try_from(segments.len()).expect("segments are bounded");
        segments.push(Segment { place, start, len, next: NIL });
        match segments.get_mut(self.tail as usize) {
            Some(tail) => tail.next = index,
            None => self.head = index,
        }
        self.tail = index;
    }

    /// Queues bytes that belong to nobody else.
    pub(crate) fn queue_bytes(&mut self, bytes: &[u8]) {
        self.queue.get_or_insert_default().push_copy(bytes);
    }

    /// Copies what was noted in this wakeup to the queue.
    pub(crate) fn queue_noted(&mut self, pending: &Pending, arrived: Arrived<'_>) {
        while let Some(segment) = pending.segments.get(self.head as usize) {
            let queue = self.queue.get_or_insert_default();
            match segment.place {
                Place::Frame(frame) if segment.len as usize >= SHARED_BYTES_MIN => {
                    let range = segment.start as usize..(segment.start + segment.len) as usize;
                    queue.push_shared(arrived.frames[frame as usize].slice(range));
                }
                _ => queue.push_copy(pending.bytes(segment, arrived)),
            }
            self.head = segment.next;
        }
        self.tail = NIL;
    }

    /// Writes what the socket takes; the rest is in the queue afterwards.
    pub(crate) fn write(&mut self, socket: impl AsFd, pending: &mut Pending, arrived: Arrived<'_>) -> Written {
        let mut written = Written { bytes: 0, is_broken: false };
        while self.queue.is_some() || self.head != NIL {
            match self.write_once(socket.as_fd(), pending, arrived) {
                Ok((taken, is_all)) => {
                    self.advance(taken, pending);
                    written.bytes += taken;
                    if !is_all {
                        break; // the socket is full: try again when it says that it is not
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // No memory now says nothing about the peer: the rest stays queued, and its timeout ends it if need be.
                Err(Errno::NOBUFS | Errno::NOMEM) => break,
                Err(_) => {
                    written.is_broken = true;
                    self.clear();
                    return written;
                }
            }
        }
        self.queue_noted(pending, arrived);
        written
    }

    /// One system call. Says how many bytes were taken, and whether it was all that was offered.
    fn write_once(
        &self,
        socket: BorrowedFd<'_>,
        pending: &Pending,
        arrived: Arrived<'_>,
    ) -> rustix::io::Result<(usize, bool)> {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        if self.queue.is_none() && self.head == self.tail {
            // One piece, as most often: a system call that has less to look at.
            let bytes = pending.bytes(&pending.segments[self.head as usize], arrived);
            let taken = send(socket, bytes, flags)?;
            return Ok((taken, taken == bytes.len()));
        }
        let queued = self.queue.iter().flat_map(|queue| queue.chunks.iter().map(Chunk::bytes));
        let mut next = self.head;
        let noted = std::iter::from_fn(|| {
            let segment = pending.segments.get(next as usize)?;
            next = segment.next;
            Some(pending.bytes(segment, arrived))
        });
        let mut pieces = queued.chain(noted).map(IoSlice::new);
        let mut few = [IoSlice::new(&[]); 8];
        let mut count = 0;
        for (place, piece) in few.iter_mut().zip(&mut pieces) {
            *place = piece;
            count += 1;
        }
        let many: Vec<IoSlice<'_>>;
        let offered = match pieces.next() {
            None => &few[..count],
            Some(piece) => {
                many = few.into_iter().chain([piece]).chain(pieces).take(PIECES_MAX).collect();
                &many[..]
            }
        };
        let wanted: usize = offered.iter().map(|piece| piece.len()).sum();
        debug_assert!(wanted > 0, "no segment outlives its wakeup");
        let taken = sendmsg(socket, offered, &mut SendAncillaryBuffer::default(), flags)?;
        Ok((taken, taken == wanted))
    }

    /// Drops the first `count` bytes.
    fn advance(&mut self, mut count: usize, pending: &mut Pending) {
        if let Some(queue) = &mut self.queue {
            count -= queue.advance(count);
            if queue.chunks.is_empty() {
                self.queue = None;
            }
        }
        while count > 0 {
            let segment = &mut pending.segments[self.head as usize];
            let taken = count.min(segment.len as usize);
            count -= taken;
            let taken = u32::try_from(taken).expect("not more than the segment");
            segment.start += taken;
            segment.len -= taken;
            if segment.len == 0 {
                self.head = segment.next;
            }
        }
        if self.head == NIL {
            self.tail = NIL;
        }
    }
}

/// Bytes that a socket did not take yet.
#[derive(Debug, Default)]
struct Queue {
    /// Invariant: no chunk is empty, and so is no queue.
    chunks: VecDeque<Chunk>,
}

#[derive(Debug)]
enum Chunk {
    /// Small leftovers, gathered. Invariant: `start` < length.
    Gathered { bytes: Vec<u8>, start: usize },
    /// The rest of a large frame.
    Shared(Bytes),
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Chunk::Gathered { bytes, start } => &bytes[*start..],
            Chunk::Shared(bytes) => bytes,
        }
    }
}

impl Queue {
    fn push_copy(&mut self, new: &[u8]) {
        if let Some(Chunk::Gathered { bytes, .. }) = self.chunks.back_mut()
            && bytes.len() + new.len() <= CHUNK_BYTES
        {
            bytes.extend_from_slice(new);
        } else if !new.is_empty() {
            self.chunks.push_back(Chunk::Gathered { bytes: new.to_vec(), start: 0 });
        }
    }

    fn push_shared(&mut self, bytes: Bytes) {
        self.chunks.push_back(Chunk::Shared(bytes));
    }

    /// Drops up to `count` bytes and says how many.
    fn advance(&mut self, count: usize) -> usize {
        let mut left = count;
        while left > 0 {
            let Some(chunk) = self.chunks.front_mut() else { break };
            let len = chunk.bytes().len();
            if len <= left {
                left -= len;
                self.chunks.pop_front();
                continue;
            }
            match chunk {
                Chunk::Gathered { start, .. } => *start += left,
                Chunk::Shared(bytes) => bytes.advance(left),
            }
            left = 0;
        }
        count - left
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small random numbers")]
mod tests {
    use super::*;
    use crate::inbox::Buffers;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    /// Parts of every kind and size, written to a socket that is read from now and then, arrive in order.
    #[test]
    fn nothing_is_lost_or_reordered_by_a_slow_socket() {
        for seed in 0..12 {
            let mut rng = bro_proto::rng::Rng::new(seed);
            let (near, mut far) = UnixStream::pair().unwrap();
            far.set_nonblocking(true).unwrap();
            let buffers = Buffers::new();
            let mut outgoing = Outgoing::new();
            let mut pending = Pending::new();
            let (mut expected, mut seen, mut written) = (Vec::new(), Vec::new(), 0);
            for wakeup in 0..60_u8 {
                let frames: Vec<Bytes> = (0..rng.below(6))
                    .map(|_| {
                        let limit = [40, 3000, 400_000][rng.below(3) as usize];
                        (0..=rng.below(limit)).map(|at| (at as u8).wrapping_add(wakeup)).collect()
                    })
                    .collect();
                for (index, frame) in frames.iter().enumerate() {
                    pending.begin_frame(Place::Frame(index as u32), 0, frame);
                    let (a, b) = frame.split_at(rng.below(frame.len() as u64 + 1) as usize);
                    let parts = match rng.below(3) {
                        0 => vec![Part::Inbound(frame)],
                        1 => vec![Part::Scratch(b"<"), Part::Inbound(a), Part::Scratch(b"|"), Part::Inbound(b)],
                        _ => vec![Part::Scratch(frame)],
                    };
                    parts.iter().for_each(|part| expected.extend_from_slice(part.bytes()));
                    outgoing.note(&parts, &mut pending);
                    pending.end_frame();
                }
                let arrived = Arrived { buffers: &buffers, frames: &frames };
                if rng.below(4) == 0 {
                    outgoing.queue_noted(&pending, arrived);
                } else {
                    let result = outgoing.write(&near, &mut pending, arrived);
                    assert!(!result.is_broken);
                    written += result.bytes;
                }
                pending.recycle();
                let mut chunk = vec![0; rng.below(300_000) as usize];
                if let Ok(count) = far.read(&mut chunk) {
                    seen.extend_from_slice(&chunk[..count]);
                }
            }
            let mut frames = 0;
            while outgoing.is_queued() || seen.len() < written {
                let result = outgoing.write(&near, &mut pending, Arrived { buffers: &buffers, frames: &[] });
                written += result.bytes;
                let mut chunk = vec![0; 300_000];
                if let Ok(count) = far.read(&mut chunk) {
                    seen.extend_from_slice(&chunk[..count]);
                }
                frames += 1;
                assert!(frames < 10_000, "seed {seed}: no progress");
            }
            assert!(seen == expected, "seed {seed}: {} of {} bytes", seen.len(), expected.len());
            assert_eq!(written, expected.len(), "seed {seed}");
        }
    }

    #[test]
    fn neighbours_become_one_segment() {
        let frame = [7_u8; 200];
        let (mut outgoing, mut pending) = (Outgoing::new(), Pending::new());
        for at in [0, 50, 100] {
            pending.begin_frame(Place::Buffer(0), at, &frame[at..at + 50]);
            let is_first = outgoing.note(&[Part::Inbound(&frame[at..at + 50])], &mut pending);
            assert_eq!(is_first, at == 0);
        }
        assert_eq!(pending.segments.len(), 1);
        assert_eq!(pending.segments[0].len, 150);
    }

    #[test]
    fn bytes_from_elsewhere_are_copied() {
        let (frame, other) = ([7_u8; 20], [8_u8; 20]);
        let (mut outgoing, mut pending) = (Outgoing::new(), Pending::new());
        pending.begin_frame(Place::Buffer(0), 0, &frame);
        outgoing.note(&[Part::Inbound(&other)], &mut pending);
        assert_eq!(pending.segments[0].place, Place::Scratch(0));
        assert_eq!(pending.scratch, [other]);
    }

    /// The bytes of one input were in one piece, and a segment cannot point beyond 4 GiB of it: the gateway panicked.
    #[test]
    fn what_one_input_makes_is_not_bounded_by_what_a_segment_can_point_into() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let (mut outgoing, mut pending) = (Outgoing::new(), Pending::new());
        let frames = [1, 2, 3, 4, 5].map(|fill: u8| vec![fill; SCRATCH_PIECE_BYTES / 2 + 1]);
        for frame in &frames {
            outgoing.note(&[Part::Scratch(frame)], &mut pending);
            outgoing.note(&[Part::Scratch(b"small")], &mut pending);
        }
        assert!(pending.is_large());
        assert!(pending.scratch.iter().all(|piece| piece.len() <= SCRATCH_PIECE_BYTES), "pieces are bounded");
        let expected: Vec<u8> = frames.iter().flat_map(|frame| [frame, &b"small"[..]].concat()).collect();
        let reader = std::thread::spawn(move || {
            let mut seen = Vec::new();
            far.read_to_end(&mut seen).unwrap();
            seen
        });
        let buffers = Buffers::new();
        let arrived = Arrived { buffers: &buffers, frames: &[] };
        near.set_nonblocking(true).unwrap();
        outgoing.write(&near, &mut pending, arrived);
        pending.recycle();
        assert_eq!(pending.scratch.len(), 1, "the memory is given back");
        while outgoing.is_queued() {
            assert!(!outgoing.write(&near, &mut pending, arrived).is_broken);
            std::thread::yield_now();
        }
        drop(near);
        assert!(reader.join().unwrap() == expected);
    }

    #[test]
    fn a_dead_peer_is_told_apart_from_a_full_socket() {
        let (near, far) = UnixStream::pair().unwrap();
        let (mut outgoing, mut pending) = (Outgoing::new(), Pending::new());
        let buffers = Buffers::new();
        let arrived = Arrived { buffers: &buffers, frames: &[] };
        outgoing.note(&[Part::Scratch(&vec![1; 4 << 20])], &mut pending);
        let full = outgoing.write(&near, &mut pending, arrived);
        assert!(full.bytes > 0 && full.bytes < 4 << 20 && !full.is_broken && outgoing.is_queued());
        pending.recycle();
        drop(far);
        assert!(outgoing.write(&near, &mut pending, arrived).is_broken);
        assert!(!outgoing.is_queued());
    }
}
