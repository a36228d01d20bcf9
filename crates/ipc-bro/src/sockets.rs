//! The sockets of one client's pool, at the places that its session gave them.

use crate::lanes::{Lanes, OfferedFds};
use bro_proto::limits::{CLIENT_READ_BYTES_MAX, LANES_PER_PEER_MAX};
use bro_session::ConnId;
use bytes::{Bytes, BytesMut};
use rustix::fd::OwnedFd;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

/// Room that is made for a read at first. A connection that fills it gets more, up to [`CLIENT_READ_BYTES_MAX`].
const READ_BYTES_MIN: usize = 64 * 1024;
/// Room below which a new buffer is taken, rather than reading in small pieces.
const READ_ROOM_MIN: usize = 16 * 1024;
/// How long a connection that is being closed may take for its last bytes.
const LAST_BYTES_TIMEOUT: Duration = Duration::from_secs(1);

/// Descriptors that come with one offer.
const OFFERED_FDS: usize = bro_lane::SideFds::COUNT;

type Connecting = Pin<Box<dyn Future<Output = io::Result<UnixStream>> + Send>>;

pub(crate) struct Sockets {
    path: PathBuf,
    /// By [`ConnId::index`].
    places: Vec<Option<Socket>>,
    /// Connections that write their last bytes.
    closing: JoinSet<()>,
    pub(crate) lanes: Lanes,
}

struct Socket {
    conn: ConnId,
    state: State,
}

enum State {
    Connecting(Connecting),
    Open {
        stream: UnixStream,
        room: Room,
        /// What came with offers of lanes, in their order.
        offered: VecDeque<OfferedFds>,
        /// Writing has failed. What the gateway wrote before it closed is still read: it says why.
        deaf: bool,
    },
}

/// Where reads go: one buffer is cut into the chunks that were read, until little room is left. What is in it is room, not content.
struct Room {
    buffer: BytesMut,
    wanted: usize,
}

/// What a socket has to say.
pub(crate) enum Input {
    Connected,
    ConnectFailed(String),
    Chunk(Bytes),
    Closed(String),
}

impl Sockets {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, places: Vec::new(), closing: JoinSet::new(), lanes: Lanes::default() }
    }

    pub(crate) fn places(&self) -> usize {
        self.places.len()
    }

    /// The connection at a place, if it is open.
    pub(crate) fn open_at(&self, index: usize) -> Option<ConnId> {
        match self.places.get(index)? {
            Some(Socket { conn, state: State::Open { .. } }) => Some(*conn),
            _ => None,
        }
    }

    pub(crate) fn open(&mut self, conn: ConnId) {
        let index = conn.index as usize;
        if self.places.len() <= index {
            self.places.resize_with(index + 1, || None);
        }
        let path = self.path.clone();
        let connecting: Connecting = Box::pin(async move { UnixStream::connect(path).await });
        self.places[index] = Some(Socket { conn, state: State::Connecting(connecting) });
    }

    /// Opens a lane that was offered on `via`, or only closes what came with the offer. False when it could not be opened.
    pub(crate) fn open_lane(&mut self, lane: Option<ConnId>, via: ConnId, is_first: bool) -> bool {
        let fds = match self.places.get_mut(via.index as usize) {
            Some(Some(Socket { conn, state: State::Open { offered, .. } })) if *conn == via => offered.pop_front(),
            _ => None,
        };
        match (lane, fds) {
            (Some(lane), Some(fds)) => match self.lanes.open(lane, is_first, fds) {
                Ok(()) => true,
                Err(error) => {
                    tracing::debug!(target: "ipc_bro", "a lane could not be opened: {error}");
                    false
                }
            },
            _ => false,
        }
    }

    /// Closes a connection once `unsent` is written, without waiting for that.
    pub(crate) fn close(&mut self, conn: ConnId, unsent: Vec<u8>) {
        if conn.is_lane() {
            if let Some(last_bytes) = self.lanes.close(conn, unsent) {
                self.closing.spawn(async move {
                    // What the other end does not take in this time was not asked for any more.
                    let _ = tokio::time::timeout(LAST_BYTES_TIMEOUT, last_bytes).await;
                });
            }
            return;
        }
        let Some(place) = self.places.get_mut(conn.index as usize) else { return };
        let Some(socket) = place.take_if(|socket| socket.conn == conn) else { return };
        if let State::Open { mut stream, .. } = socket.state
            && !unsent.is_empty()
        {
            self.closing.spawn(async move {
                // The connection ends either way; the gateway answers for what it did not get.
                let _ = tokio::time::timeout(LAST_BYTES_TIMEOUT, stream.write_all(&unsent)).await;
            });
        }
    }

    /// Ready when no closed connection has last bytes to write any more.
    pub(crate) fn poll_last_bytes(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while ready!(self.closing.poll_join_next(cx)).is_some() {}
        Poll::Ready(())
    }

    /// At most one thing that the socket at `index` has to say.
    pub(crate) fn poll_input(&mut self, index: usize, cx: &mut Context<'_>) -> Poll<(ConnId, Input)> {
        let Some(Some(socket)) = self.places.get_mut(index) else { return Poll::Pending };
        let conn = socket.conn;
        let input = match &mut socket.state {
            State::Connecting(connecting) => match ready!(connecting.as_mut().poll(cx)) {
                Ok(stream) => {
                    socket.state = State::Open { stream, room: Room::new(), offered: VecDeque::new(), deaf: false };
                    Input::Connected
                }
                Err(error) => {
                    self.places[index] = None;
                    Input::ConnectFailed(format!("{}: {error}", self.path.display()))
                }
            },
            State::Open { stream, room, offered, .. } => match ready!(room.poll_read(stream, offered, cx)) {
                Ok(chunk) if !chunk.is_empty() => Input::Chunk(chunk),
                Ok(_) => self.lost(index, "the gateway closed the connection".to_owned()),
                Err(error) => self.lost(index, error.to_string()),
            },
        };
        Poll::Ready((conn, input))
    }

    /// Writes from the front of `bytes`; gives how many the socket took. Pending when it takes none now, or never
    /// will: the end of the connection is told by [`Sockets::poll_input`].
    pub(crate) fn poll_write(&mut self, index: usize, bytes: &[u8], cx: &mut Context<'_>) -> Poll<usize> {
        match self.places.get_mut(index) {
            Some(Some(Socket { state: State::Open { stream, deaf: deaf @ false, .. }, .. })) => {
                match ready!(Pin::new(stream).poll_write(cx, bytes)) {
                    Ok(written) => Poll::Ready(written),
                    Err(_) => {
                        *deaf = true;
                        Poll::Pending
                    }
                }
            }
            _ => Poll::Pending,
        }
    }

    fn lost(&mut self, index: usize, reason: String) -> Input {
        self.places[index] = None;
        Input::Closed(reason)
    }
}

impl Room {
    fn new() -> Self {
        Self { buffer: BytesMut::new(), wanted: READ_BYTES_MIN }
    }

    fn poll_read(
        &mut self,
        stream: &UnixStream,
        offered: &mut VecDeque<OfferedFds>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Bytes>> {
        if self.buffer.len() < READ_ROOM_MIN {
            self.buffer = BytesMut::zeroed(self.wanted);
        }
        let room = self.buffer.len();
        let count = loop {
            ready!(stream.poll_read_ready(cx))?;
            match stream.try_io(Interest::READABLE, || receive(stream, &mut self.buffer, offered)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => break done?,
            }
        };
        if count == room && room >= self.wanted {
            self.wanted = (self.wanted * 2).min(CLIENT_READ_BYTES_MAX);
        }
        Poll::Ready(Ok(self.buffer.split_to(count).freeze()))
    }
}

/// Reads bytes, and the descriptors that come with them. An error when these are not as with an offer of a lane.
fn receive(stream: &UnixStream, buffer: &mut [u8], offered: &mut VecDeque<OfferedFds>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(OFFERED_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(stream, &mut [IoSliceMut::new(buffer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds: Vec<OwnedFd> = Vec::new();
    for received in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = received {
            fds.extend(rights);
        }
    }
    if fds.is_empty() && !message.flags.contains(ReturnFlags::CTRUNC) {
        return Ok(message.bytes);
    }
    let is_whole = !message.flags.contains(ReturnFlags::CTRUNC) && offered.len() < LANES_PER_PEER_MAX;
    match OfferedFds::try_from(fds) {
        Ok(fds) if is_whole => offered.push_back(fds),
        _ => return Err(io::Error::other("the gateway sent descriptors that are not those of a lane")),
    }
    Ok(message.bytes)
}
