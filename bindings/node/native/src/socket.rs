//! Connections to the gateway, never blocking.

use crate::client::Client;
use crate::uv::{Handle, READABLE, RawHandle, WRITABLE};
use bro_session::ConnId;
use bytes::BytesMut;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::net::{connect, recv, send, socket_with};
use std::ffi::c_int;
use std::path::Path;
use std::rc::Rc;

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
        Ok(Socket { poll, fd, conn, wants_write: false, callback })
    }

    /// Reads once, into the spare room of `buffer`.
    pub(crate) fn read(&self, buffer: &mut BytesMut) -> Progress {
        let filled = buffer.len();
        match recv(&self.fd, buffer.spare_capacity_mut(), RecvFlags::empty()) {
            Ok(((read, _), _)) => {
                let read = read.len();
                if read == 0 {
                    return Progress::Closed("the gateway closed the connection".to_owned());
                }
                // SAFETY: that many bytes behind the filled ones have just been written.
                unsafe { buffer.set_len(filled + read) };
                Progress::Bytes(read)
            }
            Err(Errno::AGAIN | Errno::INTR) => Progress::Blocked,
            Err(error) => Progress::Closed(format!("reading from the gateway: {error}")),
        }
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
}
