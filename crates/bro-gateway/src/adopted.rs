//! A listening socket that somebody else has made.

use crate::error::StartError;
use rustix::fd::OwnedFd;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, getsockname, sockopt};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The path that the socket listens on, after it was found to be of use, and made ready for the event loop.
pub(crate) fn adopt(socket: &OwnedFd) -> Result<PathBuf, StartError> {
    let unfit = |found: &'static str| StartError::UnfitListener { found };
    let failed = |error: Errno| match error {
        Errno::NOTSOCK => unfit("no socket"),
        error => StartError::Resources { what: "a gateway on the socket that was passed to it", source: error.into() },
    };
    if sockopt::socket_type(socket).map_err(failed)? != SocketType::STREAM {
        return Err(unfit("no stream socket"));
    }
    if sockopt::socket_domain(socket).map_err(failed)? != AddressFamily::UNIX {
        return Err(unfit("no Unix domain socket"));
    }
    if !sockopt::socket_acceptconn(socket).map_err(failed)? {
        return Err(unfit("a socket that does not listen (with systemd: Accept= must be no)"));
    }
    let address = SocketAddrUnix::try_from(getsockname(socket).map_err(failed)?).map_err(failed)?;
    let path = address.path().map(|path| PathBuf::from(OsStr::from_bytes(path.to_bytes())));
    let path = path.ok_or_else(|| unfit("an abstract socket: clients connect by a path"))?;
    fcntl_setfl(socket, fcntl_getfl(socket).map_err(failed)? | OFlags::NONBLOCK).map_err(failed)?;
    fcntl_setfd(socket, fcntl_getfd(socket).map_err(failed)? | FdFlags::CLOEXEC).map_err(failed)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};

    #[track_caller]
    fn assert_unfit(socket: impl Into<OwnedFd>, says: &str) {
        let error = adopt(&socket.into()).expect_err("it is of no use");
        assert!(matches!(&error, StartError::UnfitListener { .. }) && error.to_string().contains(says), "{error}");
    }

    #[test]
    fn only_a_listening_unix_stream_socket_with_a_path_is_taken() {
        let (one, _other) = UnixStream::pair().unwrap();
        assert_unfit(one, "does not listen");
        assert_unfit(UnixDatagram::unbound().unwrap(), "no stream socket");
        assert_unfit(TcpListener::bind("127.0.0.1:0").unwrap(), "no Unix domain socket");
        assert_unfit(std::fs::File::open("/dev/null").unwrap(), "no socket");
        let name = format!("bro-adopted-{}", std::process::id());
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap();
        assert_unfit(listener, "abstract");
    }
}
