//! Bytes coming in: buffers that are shared by all connections and used for one wakeup.

use bytes::Bytes;
use rustix::fd::AsFd;
use rustix::io;
use rustix::net::{RecvFlags, recv};
use std::ops::Range;

/// Bytes of one read buffer: what a socket with default buffers can hold at once fits.
const BUFFER_BYTES: usize = 256 * 1024;
/// Most bytes read from one connection in one wakeup when it is the only one that is ready.
pub(crate) const READ_ALONE_BYTES: usize = 256 * 1024;
/// The same when one other is ready: mostly the two ends of the same calls, which do not wait for each other.
const READ_PAIR_BYTES: usize = 128 * 1024;
/// The same when others are ready too: a caller with one call in flight must not wait behind the full pipelines of others.
const READ_SHARED_BYTES: usize = 32 * 1024;
/// Frames that one wakeup is to handle at most, of all connections that are ready: small ones cost as much time as large ones, and many of them fit a read.
const FRAMES_PER_WAKEUP: u64 = 1024;
/// But so much is read from each that is ready.
const READ_BYTES_MIN: usize = 4 * 1024;
/// Buffers that are kept between wakeups; a burst may need more.
const BUFFERS_KEPT: usize = 2;
/// A frame with at least so much still missing is read straight into its own place.
pub(crate) const DIRECT_READ_BYTES_MIN: usize = 64 * 1024;

/// How much to read from each connection in this wakeup, when frames have so many bytes.
pub(crate) fn read_budget(ready: usize, frame_bytes: u64) -> usize {
    let most = match ready {
        0 | 1 => READ_ALONE_BYTES,
        2 => READ_PAIR_BYTES,
        _ => READ_SHARED_BYTES,
    };
    let of_frames = FRAMES_PER_WAKEUP.saturating_mul(frame_bytes) / ready.max(1) as u64;
    usize::try_from(of_frames).unwrap_or(most).clamp(READ_BYTES_MIN, most)
}

/// Where inbound bytes lie, for as long as something may point at them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// One of the shared buffers.
    Buffer(u32),
    /// One of the frames that were put together from pieces.
    Frame(u32),
    /// One of the pieces that hold what the router made during this wakeup.
    Scratch(u32),
}

/// Inbound bytes, borrowed for writing them out.
#[derive(Clone, Copy)]
pub(crate) struct Arrived<'a> {
    pub(crate) buffers: &'a Buffers,
    pub(crate) frames: &'a [Bytes],
}

/// The shared buffers. Several small reads share one; an idle connection has none.
pub(crate) struct Buffers {
    all: Vec<Box<[u8]>>,
    current: usize,
    /// Where the free part of the current buffer begins. Invariant: everything before it may be pointed at.
    free_at: usize,
}

impl Buffers {
    pub(crate) fn new() -> Self {
        Self { all: Vec::new(), current: 0, free_at: 0 }
    }

    /// With the first of them there. What is read straight into its own place counts as an empty piece of it, and after a takeover that may be
    /// the first thing that is read.
    pub(crate) fn ready() -> Self {
        Self { all: vec![vec![0; BUFFER_BYTES].into_boxed_slice()], ..Self::new() }
    }

    /// Reads at most `budget` bytes. Says in which buffer and where they are; an empty range is the end of the stream.
    pub(crate) fn read(&mut self, socket: impl AsFd, budget: usize) -> io::Result<(u32, Range<usize>)> {
        if self.current < self.all.len() && BUFFER_BYTES - self.free_at < READ_SHARED_BYTES {
            self.current += 1;
            self.free_at = 0;
        }
        if self.current == self.all.len() {
            self.all.push(vec![0; BUFFER_BYTES].into_boxed_slice());
        }
        let end = BUFFER_BYTES.min(self.free_at + budget);
        let (count, _) = recv(socket, &mut self.all[self.current][self.free_at..end], RecvFlags::empty())?;
        let range = self.free_at..self.free_at + count;
        self.free_at = range.end;
        Ok((u32::try_from(self.current).expect("fewer buffers than 2^32"), range))
    }

    /// Bytes that [`Buffers::read`] brought.
    pub(crate) fn bytes(&self, buffer: u32, range: Range<usize>) -> &[u8] {
        &self.all[buffer as usize][range]
    }

    /// The same, to be changed where they lie.
    pub(crate) fn bytes_mut(&mut self, buffer: u32, range: Range<usize>) -> &mut [u8] {
        &mut self.all[buffer as usize][range]
    }

    /// Nothing points at the buffers any more.
    pub(crate) fn recycle(&mut self) {
        self.current = 0;
        self.free_at = 0;
        self.all.truncate(BUFFERS_KEPT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_wakeup_is_short_whatever_is_ready() {
        let ordinary = [1, 2, 3, 16].map(|ready| read_budget(ready, 454));
        assert_eq!(ordinary, [READ_ALONE_BYTES, READ_PAIR_BYTES, READ_SHARED_BYTES, 64 * 454]);
        assert_eq!(read_budget(1, 30), 30 * 1024, "a flood of small frames alone");
        assert_eq!(read_budget(100, 30), READ_BYTES_MIN);
        assert_eq!([0, u64::MAX].map(|frame_bytes| read_budget(1, frame_bytes)), [READ_BYTES_MIN, READ_ALONE_BYTES]);
    }

    #[test]
    fn reads_lie_side_by_side_until_the_buffers_are_recycled() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let mut buffers = Buffers::new();
        let mut seen = Vec::new();
        for round in 0..20_u8 {
            near.write_all(&[round; 20_000]).unwrap();
            let (buffer, range) = buffers.read(&far, READ_SHARED_BYTES).unwrap();
            assert_eq!(range.len(), 20_000);
            seen.push((round, buffer, range));
        }
        for (round, buffer, range) in seen {
            assert!(buffers.bytes(buffer, range).iter().all(|byte| *byte == round));
        }
        assert_eq!(buffers.all.len(), 2);
        buffers.recycle();
        drop(near);
        let (buffer, range) = buffers.read(&far, READ_SHARED_BYTES).unwrap();
        assert_eq!((buffer, range), (0, 0..0));
    }
}
