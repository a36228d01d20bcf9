//! Who is at the other end of a connection, as the kernel knows it.

use bro_proto::limits::PEER_GROUPS_MAX;
use bro_router::PeerIdentity;
use rustix::fs::{fstat, fstatfs};
use std::mem;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// The type of the file system that pidfds belong to since Linux 6.9.
const PID_FS_MAGIC: i64 = 0x5049_4446;

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
        pidfd_id: peer_pidfd_id(&socket),
        uid: Some(credentials.uid),
        gid: Some(credentials.gid),
    }
}

/// The number of the peer's process: the inode of its pidfd, which is not kept. Kernels before 6.9 have no such numbers: all their pidfds
/// share one inode of another file system. `rustix` does not have this call.
fn peer_pidfd_id(socket: impl AsFd) -> Option<NonZeroU64> {
    let mut raw: libc::c_int = -1;
    let mut bytes = libc::socklen_t::try_from(mem::size_of_val(&raw)).expect("a small number");
    // SAFETY: the descriptor is open for the duration of the borrow; the kernel writes at most `bytes` bytes to `raw`, which is that large,
    // valid for writes, and an integer for which every value is valid.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            (&raw mut raw).cast(),
            &raw mut bytes,
        )
    };
    if result != 0 || raw < 0 {
        return None;
    }
    // SAFETY: the kernel has just opened it for this call, and nobody else knows of it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(raw) };
    if fstatfs(&pidfd).ok()?.f_type != PID_FS_MAGIC {
        return None;
    }
    NonZeroU64::new(fstat(&pidfd).ok()?.st_ino)
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
    use rustix::process::{PidfdFlags, pidfd_open};
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_socket_pair_names_this_process() {
        let (a, _b) = UnixStream::pair().unwrap();
        let identity = peer_identity(&a);
        assert_eq!(identity.pid, Some(std::process::id()));
        assert!(identity.uid.is_some() && identity.gid.is_some());
        // The system's own way to the same number, where it has one.
        let own = pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap();
        let is_numbered = fstatfs(&own).unwrap().f_type == PID_FS_MAGIC;
        assert_eq!(identity.pidfd_id.map(NonZeroU64::get), is_numbered.then(|| fstat(&own).unwrap().st_ino));
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
        assert!(peer_groups(&file).is_empty() && peer_pidfd_id(&file).is_none());
    }
}
