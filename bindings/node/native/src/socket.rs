//! Connections to the gateway, never blocking, and the descriptors that come with offers of lanes.

use crate::client::Client;
use crate::uv::{Handle, READABLE, RawHandle, WRITABLE};
use bro_lane::SideFds;
use bro_proto::limits::LANES_PER_PEER_MAX;
use bro_session::ConnId;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, ReturnFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, connect, recvmsg, send, socket_with};
use std::collections::VecDeque;
use std::ffi::c_int;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::path::Path;
use std::rc::Rc;

/// What comes with one offer of a lane, in the order in which it is passed.
pub(crate) type OfferedFds = [OwnedFd; SideFds::COUNT];

/// Who is told what happens on a socket.
#[derive(Clone)]
pub(crate) struct SocketOwner {
    pub(crate) client: Rc<Client>,
    pub(crate) conn: ConnId,
}

/// An open connection. Fields are dropped in this order: libuv stops watching, then the descriptor is closed.
pub(crate) struct Socket {
    poll: Handle<SocketOwner>,
    fd: OwnedFd,
    pub(crate) conn: ConnId,
    /// What came with offers of lanes and nobody has taken, in their order.
    offered: VecDeque<OfferedFds>,
    wants_write: bool,
    callback: unsafe extern "C" fn(*mut RawHandle, c_int, c_int),
}

/// How far a read or a write came.
pub(crate) enum Progress {
    /// So many bytes.
    Bytes(usize),
    /// None at present.
    Blocked,
    /// The connection is gone.
    Closed(String),
}

impl Socket {
    /// Connects; a Unix socket is connected at once or not at all.
    pub(crate) fn open(
        owner: SocketOwner,
        path: &Path,
        callback: unsafe extern "C" fn(*mut RawHandle, c_int, c_int),
    ) -> Result<Socket, String> {
        let fail = |error: Errno| {
            let why = match error {
                Errno::NOENT => "no gateway has been started there".to_owned(),
                Errno::CONNREFUSED => "no gateway is running there".to_owned(),
                other => other.to_string(),
            };
            format!("cannot connect to {}: {why}", path.display())
        };
        let address = SocketAddrUnix::new(path).map_err(fail)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(fail)?;
        connect(&fd, &address).map_err(fail)?;
        let (conn, environment) = (owner.conn, owner.client.environment.clone());
        let poll = Handle::poll(&environment, fd.as_raw_fd(), owner)
            .filter(|poll| poll.watch(READABLE, callback))
            .ok_or_else(|| format!("cannot watch the connection to {}", path.display()))?;
        Ok(Socket { poll, fd, conn, offered: VecDeque::new(), wants_write: false, callback })
    }

    /// Reads once, to the beginning of `room`. By `recvmsg`: a plain read would throw descriptors away.
    pub(crate) fn read(&mut self, room: &mut [u8]) -> Progress {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SideFds::COUNT))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let read = recvmsg(&self.fd, &mut [IoSliceMut::new(room)], &mut ancillary, RecvFlags::CMSG_CLOEXEC);
        let read = match read {
            Ok(read) => read,
            Err(Errno::AGAIN | Errno::INTR) => return Progress::Blocked,
            Err(error) => return Progress::Closed(format!("reading from the gateway: {error}")),
        };
        if !self.keep_offered(&mut ancillary, read.flags.contains(ReturnFlags::CTRUNC)) {
            return Progress::Closed("the gateway sent descriptors that are not those of a lane".to_owned());
        }
        if read.bytes == 0 {
            return Progress::Closed("the gateway closed the connection".to_owned());
        }
        Progress::Bytes(read.bytes)
    }

    /// Takes what came with the offer that is next.
    pub(crate) fn take_offered(&mut self) -> Option<OfferedFds> {
        self.offered.pop_front()
    }

    /// Writes once.
    pub(crate) fn write(&self, chunk: &[u8]) -> Progress {
        match send(&self.fd, chunk, SendFlags::NOSIGNAL) {
            Ok(written) => Progress::Bytes(written),
            Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS) => Progress::Blocked,
            Err(error) => Progress::Closed(format!("writing to the gateway: {error}")),
        }
    }

    /// Whether to be told when the socket takes bytes again.
    pub(crate) fn want_write(&mut self, wants_write: bool) {
        if self.wants_write != wants_write {
            self.wants_write = wants_write;
            self.poll.watch(if wants_write { READABLE | WRITABLE } else { READABLE }, self.callback);
        }
    }

    /// For a connection that only waits until its last bytes are taken.
    pub(crate) fn want_only_write(&mut self) {
        self.wants_write = true;
        self.poll.watch(WRITABLE, self.callback);
    }

    /// False when what came is not what comes with one offer. It is closed then.
    fn keep_offered(&mut self, ancillary: &mut RecvAncillaryBuffer<'_>, is_cut: bool) -> bool {
        let mut fds: Vec<OwnedFd> = Vec::new();
        for received in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = received {
                fds.extend(rights);
            }
        }
        if fds.is_empty() {
            return !is_cut;
        }
        match OfferedFds::try_from(fds) {
            Ok(fds) if !is_cut && self.offered.len() < LANES_PER_PEER_MAX => {
                self.offered.push_back(fds);
                true
            }
            _ => false,
        }
    }
}
