//! The lanes of one client, and the descriptors that come with offers of them.

use crate::sockets::Input;
use bro_lane::{Lane, LaneError, LaneOptions, Side, SideFds, SpinConfig};
use bro_proto::limits::CLIENT_READ_BYTES_MAX;
use bro_session::ConnId;
use bytes::Bytes;
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::fcntl_dupfd_cloexec;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Room that a look begins with.
const READ_BYTES_MIN: usize = 16 * 1024;

/// What came with one offer, in the order in which it is passed.
pub(crate) type OfferedFds = [OwnedFd; SideFds::COUNT];

#[derive(Default)]
pub(crate) struct Lanes {
    /// How long a task may spin on a lane before it sleeps.
    pub(crate) spin: Duration,
    lanes: Vec<LaneSocket>,
}

struct LaneSocket {
    conn: ConnId,
    end: LaneEnd,
}

/// A lane with what tokio needs to wait for it.
struct LaneEnd {
    lane: Lane,
    bell: AsyncFd<OwnedFd>,
    companion: AsyncFd<OwnedFd>,
    /// Bytes that the last look took: what the next one begins with.
    usual_bytes: usize,
}

impl Lanes {
    /// Opens a lane with the descriptors that came with its offer. Must be called in the runtime.
    pub(crate) fn open(&mut self, conn: ConnId, is_first: bool, fds: OfferedFds) -> io::Result<()> {
        let side = if is_first { Side::First } else { Side::Second };
        let spin_us = u64::try_from(self.spin.as_micros()).unwrap_or(u64::MAX);
        let options = LaneOptions { spin: SpinConfig { spin_us }, ..LaneOptions::default() };
        let lane = Lane::open(side, fds.into(), options).map_err(io::Error::other)?;
        let (bell, companion) = (watch(lane.bell())?, watch(lane.companion())?);
        self.lanes.push(LaneSocket { conn, end: LaneEnd { lane, bell, companion, usual_bytes: READ_BYTES_MIN } });
        Ok(())
    }

    /// The lanes that are open.
    pub(crate) fn conns(&self) -> impl Iterator<Item = ConnId> + '_ {
        self.lanes.iter().map(|lane| lane.conn)
    }

    pub(crate) fn len(&self) -> usize {
        self.lanes.len()
    }

    /// At most one thing that the lane at a place has to say.
    pub(crate) fn poll_input(&mut self, at: usize, cx: &mut Context<'_>) -> Poll<(ConnId, Input)> {
        let Some(LaneSocket { conn, end }) = self.lanes.get_mut(at) else { return Poll::Pending };
        let conn = *conn;
        let input = match end.poll_read(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(Some(chunk))) => Input::Chunk(chunk),
            Poll::Ready(Ok(None)) => Input::Closed("the other end has closed it".to_owned()),
            Poll::Ready(Err(error)) => Input::Closed(error.to_string()),
        };
        if matches!(input, Input::Closed(_)) {
            self.lanes.swap_remove(at);
        }
        Poll::Ready((conn, input))
    }

    /// Writes from the front of `bytes`; gives how many the lane took. 0 when it takes none now: whoever polls for input is woken when
    /// that has changed, or when the lane is over.
    pub(crate) fn write(&mut self, conn: ConnId, bytes: &[u8]) -> usize {
        match self.lanes.iter_mut().find(|lane| lane.conn == conn) {
            Some(lane) => lane.end.write(bytes),
            None => 0,
        }
    }

    /// Ends a lane. The future writes `unsent` first, and may take as long as the other end does.
    pub(crate) fn close(&mut self, conn: ConnId, unsent: Vec<u8>) -> Option<impl Future<Output = ()> + Send + use<>> {
        let at = self.lanes.iter().position(|lane| lane.conn == conn)?;
        let mut end = self.lanes.swap_remove(at).end;
        if unsent.is_empty() {
            return None;
        }
        Some(async move {
            let mut written = 0;
            while written < unsent.len() {
                let taken = end.write(&unsent[written..]);
                written += taken;
                if taken == 0 {
                    let Ok(mut guard) = end.bell.readable().await else { return };
                    guard.clear_ready();
                    end.lane.clear_bell();
                    if end.lane.is_peer_closed() {
                        return;
                    }
                }
            }
        })
    }
}

/// Has the runtime watch a descriptor of a lane, which stays the lane's.
fn watch(fd: BorrowedFd<'_>) -> io::Result<AsyncFd<OwnedFd>> {
    let own = fcntl_dupfd_cloexec(fd, 0)?;
    // SAFETY: an `OwnedFd` names an open descriptor, always the same one, until it is dropped.
    let watched = unsafe { AsyncFd::register_with_interest(own, Interest::READABLE) };
    watched.map_err(|refused| refused.into_parts().1)
}

impl LaneEnd {
    /// What has come; `None` at the end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, LaneError>> {
        loop {
            if let Some(chunk) = self.read()? {
                return Poll::Ready(Ok(Some(chunk)));
            }
            if self.lane.is_peer_closed() {
                // What it sent just before it closed may have come after the look above.
                return Poll::Ready(self.read());
            }
            if self.lane.spin() || self.lane.arm()? {
                // A record, room for what is to be written, or the end.
                match self.read()? {
                    Some(chunk) => return Poll::Ready(Ok(Some(chunk))),
                    None if self.lane.is_peer_closed() => return Poll::Ready(self.read()),
                    None => cx.waker().wake_by_ref(),
                }
                return Poll::Pending;
            }
            // Whoever rings after it was armed is noticed here, or by the runtime.
            match self.bell.poll_read_ready(cx) {
                Poll::Ready(Ok(mut guard)) => {
                    guard.clear_ready();
                    self.lane.clear_bell();
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Ok(None)),
                Poll::Pending => break,
            }
        }
        match self.companion.poll_read_ready(cx) {
            // It hung up: what came before is still read.
            Poll::Ready(_) => Poll::Ready(self.read()),
            Poll::Pending => Poll::Pending,
        }
    }

    fn read(&mut self) -> Result<Option<Bytes>, LaneError> {
        if !self.lane.is_ready() {
            return Ok(None);
        }
        let mut bytes = Vec::with_capacity(self.usual_bytes);
        while bytes.len() < CLIENT_READ_BYTES_MAX && self.lane.pop(&mut bytes)?.is_some() {}
        if bytes.is_empty() {
            return Ok(None);
        }
        self.usual_bytes = bytes.len().next_power_of_two().clamp(1024, READ_BYTES_MIN);
        Ok(Some(Bytes::from(bytes)))
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        let len = bytes.len().min(self.lane.record_bytes_max());
        match self.lane.push(&[&bytes[..len]]) {
            // A lane that breaks while it is flushed says so to whoever reads from it.
            Ok(()) => match self.lane.flush() {
                Ok(()) | Err(_) => len,
            },
            // Full, or over: then reading says so.
            Err(_) => 0,
        }
    }
}
