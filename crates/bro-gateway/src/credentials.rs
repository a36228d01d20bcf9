//! Who is at the other end of a connection, as the kernel knows it.

use bro_proto::limits::PEER_GROUPS_MAX;
use bro_router::PeerIdentity;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};

/// The credentials that the peer had when it connected; all unknown when the kernel does not tell.
///
/// `rustix` has this call too, but its process id cannot be zero, and zero is what the kernel reports for a peer of
/// another pid namespace (a socket shared between containers). Hence the plain system call.
pub(crate) fn peer_identity(socket: impl AsFd) -> PeerIdentity {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut bytes = libc::socklen_t::try_from(mem::size_of::<libc::ucred>()).expect("a small structure");
    // SAFETY: the descriptor is open for the duration of the borrow; the kernel writes at most `bytes` bytes to
    // `credentials`, which is that large, valid for writes, and made of integers for which every value is valid.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut bytes,
        )
    };
    if result != 0 || bytes as usize != mem::size_of::<libc::ucred>() {
        return PeerIdentity::default();
    }
    PeerIdentity {
        pid: u32::try_from(credentials.pid).ok().filter(|pid| *pid != 0),
        uid: Some(credentials.uid),
        gid: Some(credentials.gid),
    }
}

/// The supplementary groups that the peer had when it connected; none when the kernel does not tell, or when there are more than
/// [`PEER_GROUPS_MAX`]. `rustix` does not have this call.
pub(crate) fn peer_groups(socket: impl AsFd) -> Vec<u32> {
    let mut groups: Vec<libc::gid_t> = vec![0; PEER_GROUPS_MAX];
    let mut bytes = libc::socklen_t::try_from(mem::size_of_val(&groups[..])).expect("a small array");
    // SAFETY: the descriptor is open for the duration of the borrow; the kernel writes at most `bytes` bytes to `groups`, which is that
    // large, valid for writes, and made of integers for which every value is valid.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    if result != 0 {
        return Vec::new();
    }
    groups.truncate(bytes as usize / mem::size_of::<libc::gid_t>());
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_socket_pair_names_this_process() {
        let (a, _b) = UnixStream::pair().unwrap();
        let identity = peer_identity(&a);
        assert_eq!(identity.pid, Some(std::process::id()));
        assert!(identity.uid.is_some() && identity.gid.is_some());
        let mut own: Vec<u32> = rustix::process::getgroups().unwrap().into_iter().map(|gid| gid.as_raw()).collect();
        let mut told = peer_groups(&a);
        own.sort_unstable();
        told.sort_unstable();
        assert_eq!(told, own);
    }

    #[test]
    fn what_is_not_a_socket_has_no_identity() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(peer_identity(&file).uid, None);
        assert!(peer_groups(&file).is_empty());
    }
}
