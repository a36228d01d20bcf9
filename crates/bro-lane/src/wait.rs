//! Waiting on a thread.

use crate::create::io;
use crate::error::LaneError;
use crate::lane::Lane;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// What ended a [`Lane::wait`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// There is something to do: a record to pop, room for a push that was refused, or the peer has closed.
    Ready,
    /// The time is over.
    TimedOut,
    /// The peer is gone, and has left nothing unread.
    PeerGone,
}

impl Lane {
    /// Waits for something to do, on this thread: flushes, spins if that is likely to pay off, and sleeps. Without a `timeout` it waits
    /// until there is something, or the peer is gone. A signal handler that runs meanwhile does not end it.
    ///
    /// # Errors
    ///
    /// Whatever broke the lane.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<Waited, LaneError> {
        self.flush()?;
        if self.spin() || self.arm()? {
            return Ok(Waited::Ready);
        }
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let mut fds = [
                PollFd::from_borrowed_fd(self.bell(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.companion(), PollFlags::empty()),
            ];
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            match poll(&mut fds, left.and_then(timespec).as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(io("wait for the lane's doorbell")(errno)),
            }
            let [has_rung, has_hung_up] = fds.map(|fd| !fd.revents().is_empty());
            if has_rung {
                self.clear_bell();
            }
            if self.is_ready() {
                self.disarm();
                return Ok(Waited::Ready);
            }
            if has_hung_up {
                self.disarm();
                return Ok(Waited::PeerGone);
            }
            // It rang for what was popped before, and whoever rang has taken the announcement away.
            if has_rung && self.arm()? {
                return Ok(Waited::Ready);
            }
            if left.is_some_and(|left| left.is_zero()) {
                self.disarm();
                return Ok(Waited::TimedOut);
            }
        }
    }

    /// Whether the peer's process has ended or closed, as the companion says. One short system call; [`Lane::wait`] looks by itself.
    pub fn is_peer_gone(&self) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(self.companion(), PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut fds, Some(&now)), Ok(1))
    }
}

/// `None`, which is for ever, for what the kernel cannot count.
fn timespec(span: Duration) -> Option<Timespec> {
    Timespec::try_from(span).ok()
}
