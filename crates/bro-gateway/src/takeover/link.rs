//! The connection between the two gateways of a takeover: bytes and descriptors, each wait bounded by one moment.

use super::BATCH;
use bro_proto::limits::TAKEOVER_DESCRIPTORS_PER_MESSAGE;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, Shutdown, recv, recvmsg, send, sendmsg, shutdown,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

/// Most bytes for which room is made before they have come.
const ROOM_BYTES: usize = 1024 * 1024;

/// Why the other gateway cannot be talked with any further.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("the other gateway has closed the connection")]
    Closed,
    #[error("the other gateway does not answer in time")]
    TimedOut,
    #[error("descriptors were lost on their way: is the limit of open files too low?")]
    DescriptorsLost,
    #[error("the other gateway said something else than was expected")]
    Unexpected,
    #[error("{0}")]
    System(#[from] Errno),
}

pub(super) struct Link {
    socket: OwnedFd,
    until: Instant,
}

impl Link {
    /// The socket must not block.
    pub(super) fn new(socket: OwnedFd, patience: Duration) -> Link {
        Link { socket, until: Instant::now() + patience }
    }

    pub(super) fn send_all(&self, mut bytes: &[u8]) -> Result<(), LinkError> {
        while !bytes.is_empty() {
            let sent = self.attempt(PollFlags::OUT, || send(&self.socket, bytes, SendFlags::NOSIGNAL))?;
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    pub(super) fn receive_exact(&self, place: &mut [u8]) -> Result<(), LinkError> {
        let mut at = 0;
        while at < place.len() {
            let (count, _) =
                self.attempt(PollFlags::IN, || recv(&self.socket, &mut place[at..], RecvFlags::empty()))?;
            if count == 0 {
                return Err(LinkError::Closed);
            }
            at += count;
        }
        Ok(())
    }

    /// So many bytes. Memory follows those that have come.
    pub(super) fn receive(&self, len: usize) -> Result<Vec<u8>, LinkError> {
        let mut bytes = Vec::new();
        while bytes.len() < len {
            let at = bytes.len();
            bytes.resize(len.min(at + ROOM_BYTES.max(at)), 0);
            self.receive_exact(&mut bytes[at..])?;
        }
        Ok(bytes)
    }

    /// Sends descriptors, and waits after each message until they have come: so few are under way that the kernel takes them.
    pub(super) fn send_descriptors(&self, descriptors: &[BorrowedFd<'_>]) -> Result<(), LinkError> {
        for batch in descriptors.chunks(TAKEOVER_DESCRIPTORS_PER_MESSAGE) {
            self.attempt(PollFlags::OUT, || {
                let mut space =
                    [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(TAKEOVER_DESCRIPTORS_PER_MESSAGE))];
                let mut ancillary = SendAncillaryBuffer::new(&mut space);
                assert!(ancillary.push(SendAncillaryMessage::ScmRights(batch)), "the space is for these");
                sendmsg(&self.socket, &[IoSlice::new(&[BATCH])], &mut ancillary, SendFlags::NOSIGNAL)
            })?;
            self.expect(BATCH)?;
        }
        Ok(())
    }

    /// Receives so many descriptors, none of which a child process will inherit.
    pub(super) fn receive_descriptors(&self, count: usize) -> Result<Vec<OwnedFd>, LinkError> {
        let mut all = Vec::new();
        while all.len() < count {
            let expected = (count - all.len()).min(TAKEOVER_DESCRIPTORS_PER_MESSAGE);
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(TAKEOVER_DESCRIPTORS_PER_MESSAGE))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut byte = [0];
            let received = self.attempt(PollFlags::IN, || {
                recvmsg(&self.socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
            })?;
            let before = all.len();
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    all.extend(descriptors);
                }
            }
            if received.bytes == 0 {
                return Err(LinkError::Closed);
            }
            if received.flags.contains(ReturnFlags::CTRUNC) || all.len() - before != expected {
                return Err(LinkError::DescriptorsLost);
            }
            if byte != [BATCH] {
                return Err(LinkError::Unexpected);
            }
            self.send_all(&[BATCH])?;
        }
        Ok(all)
    }

    pub(super) fn expect(&self, expected: u8) -> Result<(), LinkError> {
        let mut byte = [0];
        self.receive_exact(&mut byte)?;
        if byte == [expected] { Ok(()) } else { Err(LinkError::Unexpected) }
    }

    /// From now on the other side cannot send any more. Whether it had sent this byte before.
    pub(super) fn shut_down(&self, expected: u8) -> bool {
        let _ = shutdown(&self.socket, Shutdown::Both); // fails only when the other side has gone
        let mut byte = [0];
        matches!(recv(&self.socket, &mut byte, RecvFlags::DONTWAIT), Ok((1, _)) if byte == [expected])
    }

    /// Tries until the socket can, or the time is over.
    fn attempt<T>(&self, wanted: PollFlags, mut work: impl FnMut() -> Result<T, Errno>) -> Result<T, LinkError> {
        loop {
            match work() {
                // Too many descriptors under way, of all processes of this user: they will come to their ends.
                Err(Errno::TOOMANYREFS) => self.wait(PollFlags::empty(), Duration::from_millis(1))?,
                Err(Errno::AGAIN) => self.wait(wanted, Duration::MAX)?,
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(LinkError::Closed),
                Err(error) => return Err(error.into()),
                Ok(done) => return Ok(done),
            }
        }
    }

    fn wait(&self, wanted: PollFlags, longest: Duration) -> Result<(), LinkError> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(LinkError::TimedOut);
        }
        let span = Timespec::try_from(left.min(longest)).map_err(|_| LinkError::TimedOut)?;
        let mut waited = [PollFd::new(&self.socket, wanted)];
        match poll(&mut waited, Some(&span)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsFd;
    use std::os::unix::net::UnixStream;

    fn pair() -> (Link, Link) {
        let (a, b) = UnixStream::pair().unwrap();
        let link = |stream: UnixStream| {
            stream.set_nonblocking(true).unwrap();
            Link::new(stream.into(), Duration::from_secs(20))
        };
        (link(a), link(b))
    }

    #[test]
    fn more_descriptors_than_one_message_takes_come_in_order() {
        let (near, far) = pair();
        let files: Vec<(UnixStream, UnixStream)> = (0..150).map(|_| UnixStream::pair().unwrap()).collect();
        let descriptors: Vec<BorrowedFd<'_>> = files.iter().flat_map(|(a, b)| [a.as_fd(), b.as_fd()]).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| near.send_descriptors(&descriptors).unwrap());
            let received = far.receive_descriptors(descriptors.len()).unwrap();
            assert_eq!(received.len(), 300);
            let inode = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).unwrap().st_ino;
            assert!(received.iter().zip(&descriptors).all(|(new, old)| inode(new.as_fd()) == inode(*old)));
        });
    }

    #[test]
    fn a_byte_that_was_sent_before_the_end_is_found_and_none_comes_after_it() {
        let (near, far) = pair();
        far.send_all(b"T").unwrap();
        assert!(near.shut_down(b'T'));
        let (near, far) = pair();
        assert!(!near.shut_down(b'T'));
        assert!(matches!(far.send_all(b"T"), Err(LinkError::Closed)));
    }

    #[test]
    fn waiting_ends() {
        let (near, _far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let near = Link::new(near.into(), Duration::from_millis(5));
        assert!(matches!(near.receive(10), Err(LinkError::TimedOut)));
        assert!(matches!(near.send_all(&vec![0; 1 << 22]), Err(LinkError::TimedOut)));
        let (near, far) = pair();
        drop(far);
        assert!(matches!(near.receive(1 << 40), Err(LinkError::Closed)), "nothing is allocated for what is claimed");
    }
}
