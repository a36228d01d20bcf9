//! Closing without losing the last bytes.
//!
//! When a Unix socket is closed while it holds bytes that nobody read, its peer is told `ECONNRESET`, and a program that
//! takes that for the end never reads the ERROR frame which explains it. So a connection that the gateway closes is first
//! finished (what is queued, then the end of the stream), and read from without looking, until its peer hangs up: bounded
//! in time, bytes and number. What is cut off at a bound is at least emptied before it is closed.

use crate::credentials::peer_identity;
use crate::inbox::{Arrived, Buffers};
use crate::outgoing::{Outgoing, Pending};
use crate::takeover::TakenLinger;
use bro_proto::limits;
use rustix::event::epoll;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{self, Errno};
use rustix::net::{Shutdown, shutdown};

/// Bytes thrown away at once.
const DISCARD_BYTES: usize = 16 * 1024;
/// Times that a socket is read from before it is closed: more than its buffer holds.
const DISCARDS_MAX: usize = 64;

/// Connections that are being closed.
pub(crate) struct Lingering {
    entries: Vec<Option<Linger>>,
    len: usize,
}

struct Linger {
    socket: OwnedFd,
    /// Whose it is, by peer credentials.
    uid: Option<u32>,
    outgoing: Outgoing,
    discarded_bytes: usize,
    until_us: u64,
    is_finished: bool,
    interest: epoll::EventFlags,
}

/// One of them, as it is handed on to another gateway.
pub(crate) struct HandedOnLinger<'a> {
    pub(crate) socket: BorrowedFd<'a>,
    pub(crate) outgoing: &'a Outgoing,
    pub(crate) discarded_bytes: usize,
    pub(crate) left_us: u64,
    pub(crate) is_finished: bool,
}

impl Lingering {
    pub(crate) fn new() -> Self {
        Self { entries: Vec::new(), len: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// When the first of them is cut off. A short list is walked, and only while something is being closed.
    pub(crate) fn wakeup_us(&self) -> Option<u64> {
        if self.len == 0 {
            return None;
        }
        self.entries.iter().flatten().map(|linger| linger.until_us).min()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// What another gateway has to know of them.
    pub(crate) fn handed_on(&self, now_us: u64) -> impl Iterator<Item = HandedOnLinger<'_>> {
        self.entries.iter().flatten().map(move |linger| HandedOnLinger {
            socket: linger.socket.as_fd(),
            outgoing: &linger.outgoing,
            discarded_bytes: linger.discarded_bytes,
            left_us: linger.until_us.saturating_sub(now_us),
            is_finished: linger.is_finished,
        })
    }

    /// Goes on with a connection that a gateway before this one has closed.
    pub(crate) fn resume(
        &mut self,
        epoll: &OwnedFd,
        taken: TakenLinger,
        now_us: u64,
        token_of: impl Fn(usize) -> epoll::EventData,
    ) {
        let TakenLinger { socket, queued, discarded_bytes, left_us, is_finished } = taken;
        let until_us = now_us.saturating_add(left_us.min(limits::LINGER_MS * 1000));
        let outgoing = Outgoing::resume(queued);
        let interest = epoll::EventFlags::empty();
        let uid = peer_identity(&socket).uid;
        let linger = Linger { socket, uid, outgoing, discarded_bytes, until_us, is_finished, interest };
        // There was room for it in the gateway before.
        self.admit(epoll, linger, usize::MAX, token_of);
    }

    /// Takes over a connection, unless more than `queued_bytes_max` would be held for all of them, or its user has its share already. `token_of` names the entry in the event loop.
    pub(crate) fn add(
        &mut self,
        epoll: &OwnedFd,
        socket: OwnedFd,
        outgoing: Outgoing,
        until_us: u64,
        queued_bytes_max: usize,
        token_of: impl Fn(usize) -> epoll::EventData,
    ) {
        let uid = peer_identity(&socket).uid;
        let linger = Linger {
            socket,
            uid,
            outgoing,
            discarded_bytes: 0,
            until_us,
            is_finished: false,
            interest: epoll::EventFlags::empty(),
        };
        self.admit(epoll, linger, queued_bytes_max, token_of);
    }

    fn admit(
        &mut self,
        epoll: &OwnedFd,
        mut linger: Linger,
        queued_bytes_max: usize,
        token_of: impl Fn(usize) -> epoll::EventData,
    ) {
        if !self.has_room(&linger, queued_bytes_max) || !linger.work() {
            cut_off(&linger.socket);
            return;
        }
        let index = self.entries.iter().position(Option::is_none).unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() - 1
        });
        linger.interest = linger.wanted();
        let token = token_of(index);
        let registered = match epoll::modify(epoll, &linger.socket, token, linger.interest) {
            Err(Errno::NOENT) => epoll::add(epoll, &linger.socket, token, linger.interest),
            other => other,
        };
        if registered.is_err() {
            cut_off(&linger.socket);
            return;
        }
        self.entries[index] = Some(linger);
        self.len += 1;
    }

    /// Whether there may be one more of a user, with so many bytes: its own are no more than its share of what those of other users leave.
    fn has_room(&self, linger: &Linger, queued_bytes_max: usize) -> bool {
        let (mut own, mut others, mut held_bytes) = (1, 0, linger.outgoing.held_bytes());
        for entry in self.entries.iter().flatten() {
            *if entry.uid == linger.uid { &mut own } else { &mut others } += 1;
            held_bytes += entry.outgoing.held_bytes();
        }
        let share = (limits::LINGERING_MAX - others) * usize::from(limits::UID_SHARE_PERCENT) / 100;
        // Where bytes do not matter, all are kept that were there before.
        let has_share = queued_bytes_max == usize::MAX || own <= share.max(1);
        self.len < limits::LINGERING_MAX && has_share && held_bytes <= queued_bytes_max
    }

    /// Something can be done for an entry.
    pub(crate) fn handle_ready(&mut self, epoll: &OwnedFd, index: usize, token: epoll::EventData) {
        let Some(entry) = self.entries.get_mut(index) else { return };
        let Some(linger) = entry else { return };
        let mut goes_on = linger.work();
        let wanted = linger.wanted();
        if goes_on && wanted != linger.interest {
            linger.interest = wanted;
            goes_on = epoll::modify(epoll, &linger.socket, token, wanted).is_ok();
        }
        if !goes_on {
            cut_off(&linger.socket);
            *entry = None;
            self.len -= 1;
        }
    }

    /// Cuts off those whose time is over.
    pub(crate) fn handle_time(&mut self, now_us: u64) {
        if self.len == 0 {
            return;
        }
        for entry in &mut self.entries {
            if let Some(linger) = entry
                && linger.until_us <= now_us
            {
                cut_off(&linger.socket);
                *entry = None;
                self.len -= 1;
            }
        }
    }
}

impl Linger {
    /// Writes and throws away what is there. False when there is nothing more to wait for.
    fn work(&mut self) -> bool {
        if self.outgoing.is_queued() {
            let (mut pending, buffers) = (Pending::new(), Buffers::new());
            let arrived = Arrived { buffers: &buffers, frames: &[] };
            if self.outgoing.write(&self.socket, &mut pending, arrived).is_broken {
                return false;
            }
        }
        if !self.outgoing.is_queued() && !self.is_finished {
            self.is_finished = true;
            if shutdown(&self.socket, Shutdown::Write).is_err() {
                return false;
            }
        }
        let mut trash = [0; DISCARD_BYTES];
        match io::read(&self.socket, &mut trash[..]) {
            // The peer has hung up. If it only said that it will send no more, it may still want what is queued.
            Ok(0) => {
                self.discarded_bytes = limits::LINGER_BYTES_MAX;
                self.outgoing.is_queued()
            }
            Ok(count) => {
                self.discarded_bytes += count;
                self.discarded_bytes < limits::LINGER_BYTES_MAX
            }
            Err(Errno::AGAIN | Errno::INTR) => true,
            Err(_) => false,
        }
    }

    fn wanted(&self) -> epoll::EventFlags {
        let mut wanted = epoll::EventFlags::empty();
        wanted.set(epoll::EventFlags::IN, self.discarded_bytes < limits::LINGER_BYTES_MAX);
        wanted.set(epoll::EventFlags::OUT, self.outgoing.is_queued());
        wanted
    }
}

/// Ends a connection at once, so that its peer can still read what was written to it: with both directions shut nothing can
/// arrive any more, so the socket can be emptied, and closing an empty socket resets nothing.
pub(crate) fn cut_off(socket: impl AsFd) {
    if shutdown(&socket, Shutdown::Both).is_err() {
        return;
    }
    let mut trash = [0; DISCARD_BYTES];
    for _ in 0..DISCARDS_MAX {
        if !matches!(io::read(&socket, &mut trash[..]), Ok(1..)) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    /// A user who was turned away again and again took all places, and others were cut off before they could read why.
    #[test]
    fn a_user_leaves_some_places_for_others() {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let mut lingering = Lingering::new();
        let mut peers = Vec::new();
        let mut close = |uid, bytes_max| {
            let (near, far) = UnixStream::pair().unwrap();
            near.set_nonblocking(true).unwrap();
            peers.push(far);
            let (socket, outgoing, interest) = (near.into(), Outgoing::new(), epoll::EventFlags::empty());
            let linger =
                Linger { socket, uid, outgoing, discarded_bytes: 0, until_us: 1, is_finished: false, interest };
            let before = lingering.len();
            lingering.admit(&epoll, linger, bytes_max, |index| epoll::EventData::new_u64(index as u64));
            lingering.len() > before
        };
        let mut of_user = |uid| (0..limits::LINGERING_MAX).filter(|_| close(uid, 1000)).count();
        assert_eq!([Some(1), Some(2), None, Some(3)].map(&mut of_user), [192, 48, 12, 3]);
        assert!(close(Some(4), 1000), "the last place is for anybody");
        assert!(!close(Some(5), usize::MAX), "there are no more");
        lingering.handle_time(1);
        assert!(lingering.is_empty());
    }

    #[test]
    fn a_peer_whose_bytes_were_not_read_still_gets_the_last_word() {
        let (mut near, mut far) = UnixStream::pair().unwrap();
        far.write_all(&[1; 100_000]).unwrap();
        near.write_all(b"why").unwrap();
        cut_off(&near);
        drop(near);
        let mut text = String::new();
        far.read_to_string(&mut text).unwrap();
        assert_eq!(text, "why");
    }
}
