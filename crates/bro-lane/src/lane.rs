//! One end of a lane.

use crate::contention;
use crate::counters::LaneCounters;
use crate::create::{SEALS, Side, SideFds, io};
use crate::error::{LaneError, PushError};
use crate::layout::{ARENA_BYTES_AT, Layout, MAGIC, MAGIC_AT, RING_BYTES_AT, VERSION, VERSION_AT};
use crate::memory::{Direction, Mapping};
use crate::ring::{Begun, Inbound, Outbound};
use crate::spin::{SpinConfig, Spinner};
use bro_proto::limits;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{OFlags, fcntl_get_seals, fcntl_getfl, fstat};
use rustix::io::Errno;

/// What one who opens a lane accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneOptions {
    /// Largest ring, in bytes. Default and most: [`limits::LANE_RING_BYTES_MAX`].
    pub ring_bytes_max: usize,
    /// Largest arena, in bytes. Default and most: [`limits::LANE_ARENA_BYTES_MAX`].
    pub arena_bytes_max: usize,
    /// How to wait.
    pub spin: SpinConfig,
}

impl Default for LaneOptions {
    fn default() -> Self {
        Self {
            ring_bytes_max: limits::LANE_RING_BYTES_MAX,
            arena_bytes_max: limits::LANE_ARENA_BYTES_MAX,
            spin: SpinConfig::default(),
        }
    }
}

/// One end of a lane: records go out by [`Lane::push`] and [`Lane::flush`], and come in by [`Lane::pop`].
///
/// It belongs to one thread at a time. It has no thread, no clock (but for spinning) and no runtime; waiting is [`Lane::wait`], or the
/// caller's own event loop, in this order:
///
/// 1. the bell became readable: [`Lane::clear_bell`] (an edge-triggered loop need not), then [`Lane::pop`] until there is nothing,
///    push what is to be sent, [`Lane::flush`];
/// 2. [`Lane::spin`], and if there is something, pop again;
/// 3. [`Lane::arm`]; if there is something, pop again; else let the loop sleep on [`Lane::bell`] and [`Lane::companion`].
///
/// Dropping a lane closes it.
#[derive(Debug)]
pub struct Lane {
    pub(crate) inbound: Inbound,
    pub(crate) outbound: Outbound,
    pub(crate) spinner: Spinner,
    bell: OwnedFd,
    peer_bell: OwnedFd,
    companion: OwnedFd,
    record_bytes_max: usize,
    is_closed: bool,
    /// What killed the lane.
    error: Option<LaneError>,
    counters: LaneCounters,
}

impl Lane {
    /// Checks what the gateway passed, and maps the memory. Takes some 10 us; maps, but does not touch, what it will use.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the memory: missing seals, another size than its header says, sizes out of bounds, a version from
    /// the future; and what the operating system refuses. All descriptors are closed then.
    pub fn open(side: Side, fds: SideFds, options: LaneOptions) -> Result<Lane, LaneError> {
        let SideFds { memory, bell, peer_bell, companion } = fds;
        let (mapping, layout) = map(memory.as_fd(), options)?;
        for fd in [&bell, &peer_bell] {
            if !fcntl_getfl(fd).map_err(io("look at a lane's doorbell"))?.contains(OFlags::NONBLOCK) {
                return Err(LaneError::BlockingBell);
            }
        }
        let (out, back) = (side.direction(), 1 - side.direction());
        Ok(Lane {
            inbound: Inbound::new(Direction::new(&mapping, layout, back)),
            outbound: Outbound::new(Direction::new(&mapping, layout, out)),
            spinner: Spinner::new(options.spin),
            bell,
            peer_bell,
            companion,
            record_bytes_max: layout.record_bytes_max(),
            is_closed: false,
            error: None,
            counters: LaneCounters::default(),
        })
    }

    /// Writes one record, the `parts` joined. The peer sees it at the latest after [`Lane::flush`], and never a part of it; several pushes
    /// and one flush are the cheapest.
    ///
    /// # Errors
    ///
    /// [`PushError::Full`]: nothing was written. Everything pushed before has been flushed, and the own bell rings once there
    /// is room. [`PushError::TooLarge`], [`PushError::Closed`], [`PushError::Broken`]: it has to go through the gateway.
    pub fn push(&mut self, parts: &[&[u8]]) -> Result<(), PushError> {
        self.check()?;
        if self.is_closed || self.inbound.is_closed() {
            return Err(PushError::Closed);
        }
        let len = parts.iter().fold(0_usize, |sum, part| sum.saturating_add(part.len()));
        let mut begun = self.outbound.begin(parts, len);
        if begun == Begun::Full {
            self.make_room(len)?;
            begun = self.outbound.begin(parts, len);
        }
        match begun {
            Begun::Small => {}
            Begun::Large => {
                // On another CPU the peer can wake up and copy while this side still writes.
                if is_elsewhere(self.inbound.producer_cpu()) {
                    self.flush()?;
                }
                self.outbound.fill(parts);
            }
            Begun::Full => return Err(PushError::Full),
            Begun::TooLarge => return Err(PushError::TooLarge { bytes: len, limit: self.record_bytes_max }),
        }
        self.counters.records_out += 1;
        self.counters.bytes_out += len as u64;
        Ok(())
    }

    /// Makes all pushed records visible, whatever their number, and rings the peer's bell if it sleeps: the only system call that sending ever makes.
    ///
    /// # Errors
    ///
    /// Whatever broke the lane.
    pub fn flush(&mut self) -> Result<(), LaneError> {
        self.check()?;
        if self.outbound.publish(Some(contention::current_cpu())) {
            self.ring_peer()?;
        }
        Ok(())
    }

    /// Appends the next record to `out`, and says how long it is; `None` when there is none.
    ///
    /// The bytes come from the peer: nothing is known about them but their number, at most [`Lane::record_bytes_max`].
    ///
    /// # Errors
    ///
    /// Whatever broke the lane. `out` is as it was then.
    pub fn pop(&mut self, out: &mut Vec<u8>) -> Result<Option<usize>, LaneError> {
        self.check()?;
        let popped = match self.inbound.pop(out, is_elsewhere) {
            Ok(popped) => popped,
            Err(violation) => return Err(self.die(violation.into())),
        };
        if let Some(len) = popped {
            self.counters.records_in += 1;
            self.counters.bytes_in += len as u64;
            if self.inbound.is_release_due() && self.inbound.release() {
                self.ring_peer()?;
            }
        }
        Ok(popped)
    }

    /// Appends records to `out`, and to `ends` where each ends in `out`, until `budget_bytes` are used up or there are no more.
    /// Says how many records that were: at least one if there is one. Each costs 8 bytes more than it has.
    ///
    /// # Errors
    ///
    /// Whatever broke the lane; the records before that were appended.
    pub fn pop_batch(
        &mut self,
        out: &mut Vec<u8>,
        ends: &mut Vec<usize>,
        budget_bytes: usize,
    ) -> Result<usize, LaneError> {
        let (mut used, mut count) = (0_usize, 0);
        while used < budget_bytes || count == 0 {
            let Some(len) = self.pop(out)? else { break };
            ends.push(out.len());
            used = used.saturating_add(len + crate::ring::RECORD_HEADER_BYTES);
            count += 1;
        }
        Ok(count)
    }

    /// Whether there is something to do without sleeping: a record, the room that this side waits for, or the peer has closed. Makes no
    /// system call.
    pub fn is_ready(&self) -> bool {
        self.inbound.is_ready() || self.outbound.is_granted() || self.inbound.is_closed()
    }

    /// Spins for a short time if that is likely to pay off, for event loops that are about to sleep. True when
    /// [`Lane::is_ready`]. Makes no system call, except one about once a millisecond to ask whether others want this CPU.
    pub fn spin(&mut self) -> bool {
        let Lane { inbound, outbound, spinner, .. } = self;
        let is_ready = || inbound.is_ready() || outbound.is_granted() || inbound.is_closed();
        spinner.spin(inbound.producer_cpu(), is_ready)
    }

    /// Announces that this side goes to sleep, and looks once more: when it returns true there is something to do, nothing is announced,
    /// and the caller must not sleep. Otherwise the bell will ring. Flushes first.
    ///
    /// # Errors
    ///
    /// Whatever broke the lane.
    pub fn arm(&mut self) -> Result<bool, LaneError> {
        self.flush()?;
        let armed = match self.inbound.arm() {
            Ok(armed) => armed,
            Err(violation) => return Err(self.die(violation.into())),
        };
        if armed.ring_producer {
            self.ring_peer()?;
        }
        let is_ready = armed.is_ready || self.is_ready();
        if is_ready {
            self.disarm();
        } else {
            self.counters.sleeps += 1;
        }
        Ok(is_ready)
    }

    /// Takes back what [`Lane::arm`] announced: the peer no longer makes a system call for this side. Optional: who does not, gets
    /// one ring of the bell more.
    pub fn disarm(&mut self) {
        self.inbound.disarm();
    }

    /// Becomes readable when there is something to do. For `poll`, `epoll`, `uv_poll`.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Makes the bell silent until it rings again. To be called before looking for what it rang for, never after.
    pub fn clear_bell(&mut self) {
        // Nothing to read is no failure, and nothing else can happen to an eventfd.
        let _ = rustix::io::read(&self.bell, &mut [0_u8; 8]);
    }

    /// Hangs up when the peer is gone, however it ended. Wait for nothing but that (`POLLHUP`, `UV_DISCONNECT`): nothing honest is ever
    /// sent on it.
    pub fn companion(&self) -> BorrowedFd<'_> {
        self.companion.as_fd()
    }

    /// Whether the peer has closed the lane, or is gone and [`Lane::wait`] saw it. Records that it published before can still be
    /// popped.
    pub fn is_peer_closed(&self) -> bool {
        self.inbound.is_closed()
    }

    /// The CPU that the peer ran on when it last sent something.
    pub fn peer_cpu(&self) -> Option<u32> {
        self.inbound.producer_cpu()
    }

    /// Closes the lane: flushes, marks it closed, and wakes the peer. What was flushed can still be popped there, and what the peer
    /// has sent can still be popped here. Further pushes are refused on both sides.
    pub fn close(&mut self) {
        if self.is_closed {
            return;
        }
        self.is_closed = true;
        // A dead lane has told its owner so already; the peer is woken in any case.
        let _ = self.flush();
        self.outbound.close();
        let _ = self.ring_peer();
    }

    /// Largest record that this lane takes, in bytes.
    pub fn record_bytes_max(&self) -> usize {
        self.record_bytes_max
    }

    /// What this side has done so far.
    pub fn counters(&self) -> LaneCounters {
        let large_out = self.outbound.large_records();
        LaneCounters { large_out, spins_won: self.spinner.won(), spins_lost: self.spinner.lost(), ..self.counters }
    }

    pub(crate) fn check(&self) -> Result<(), LaneError> {
        self.error.map_or(Ok(()), Err)
    }

    fn die(&mut self, error: LaneError) -> LaneError {
        *self.error.get_or_insert(error)
    }

    /// The rare path of [`Lane::push`]: looks how far the peer is; if that is not enough, shows it what there is, asks for room, and looks
    /// again.
    #[cold]
    fn make_room(&mut self, len: usize) -> Result<(), PushError> {
        let has_room = self.outbound.look_for_room(len).map_err(|violation| self.die(violation.into()))?;
        if has_room {
            return Ok(());
        }
        self.flush()?;
        if self.outbound.announce(len).map_err(|violation| self.die(violation.into()))? {
            return Ok(());
        }
        self.counters.full += 1;
        Err(PushError::Full)
    }

    fn ring_peer(&mut self) -> Result<(), LaneError> {
        self.counters.wakeups_sent += 1;
        loop {
            match rustix::io::write(&self.peer_bell, &1_u64.to_ne_bytes()) {
                // A counter that is full is a bell that rings.
                Ok(_) | Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.die(io("ring the peer's bell")(errno))),
            }
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.close();
    }
}

/// Whether one who was last seen on this CPU runs beside us, not instead of us.
fn is_elsewhere(cpu: Option<u32>) -> bool {
    cpu.is_some_and(|cpu| cpu != contention::current_cpu())
}

/// Checks and maps the memory. Its header is read once; what it says is only believed if the kernel confirms it.
fn map(memory: BorrowedFd<'_>, options: LaneOptions) -> Result<(std::sync::Arc<Mapping>, Layout), LaneError> {
    // Other files than memfds have no seals: the kernel says EINVAL.
    let seals = fcntl_get_seals(memory).map_err(|_| LaneError::NotSealed)?;
    if !seals.contains(SEALS) {
        return Err(LaneError::NotSealed);
    }
    let got = u64::try_from(fstat(memory).map_err(io("look at the lane's memory"))?.st_size).unwrap_or(0);
    let head_bytes = crate::layout::HEAD_BYTES;
    if got < head_bytes as u64 {
        return Err(LaneError::TotalBytes { expected: head_bytes as u64, got });
    }
    let head = Mapping::new(memory, head_bytes)?;
    if u64::from_ne_bytes(head.read_once(MAGIC_AT)) != MAGIC {
        return Err(LaneError::Magic);
    }
    let version = u32::from_ne_bytes(head.read_once(VERSION_AT));
    if version != VERSION {
        return Err(LaneError::Version { got: version, supported: VERSION });
    }
    let ring_bytes = u64::from(u32::from_ne_bytes(head.read_once(RING_BYTES_AT)));
    let arena_bytes = u64::from_ne_bytes(head.read_once(ARENA_BYTES_AT));
    let layout = Layout::new(ring_bytes, arena_bytes, options.ring_bytes_max, options.arena_bytes_max)?;
    let expected = layout.total_bytes() as u64;
    if got != expected {
        return Err(LaneError::TotalBytes { expected, got });
    }
    Ok((Mapping::new(memory, layout.total_bytes())?, layout))
}
