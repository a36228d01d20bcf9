//! One lane: what the event loop watches, what is read and written.

use crate::client::Client;
use crate::socket::OfferedFds;
use crate::uv::{DISCONNECT, Handle, PollCallback, READABLE};
use bro_lane::{Lane, LaneOptions, Side, SpinConfig};
use bro_proto::limits::CLIENT_READ_BYTES_MAX;
use bro_session::ConnId;
use bytes::Bytes;
use rustix::fd::AsRawFd;
use std::rc::Rc;

/// Room that a read begins with, in bytes.
const READ_BYTES_MIN: usize = 16 * 1024;

/// Who is told what happens on a lane.
#[derive(Clone)]
pub(crate) struct LaneOwner {
    pub(crate) client: Rc<Client>,
    pub(crate) conn: ConnId,
}

/// An open lane. Fields are dropped in this order: libuv stops watching, then the lane is closed.
pub(crate) struct LaneSocket {
    _bell: Handle<LaneOwner>,
    _companion: Handle<LaneOwner>,
    lane: Lane,
    pub(crate) conn: ConnId,
    /// The peer has been asked to ring, and has not done so as far as we know.
    is_armed: bool,
    /// There is something to say which the lane does not show by itself: the peer's process is gone, or the lane is broken.
    is_over: bool,
    /// What is to be written waits for room.
    pub(crate) is_full: bool,
    /// Bytes that the last read took: what the next one begins with.
    usual_bytes: usize,
}

/// What a lane has to say.
pub(crate) enum Heard {
    Nothing,
    Bytes(Bytes),
    /// It is over, and nothing is left to be read.
    End(String),
}

impl LaneSocket {
    /// Opens a lane with what came with its offer, and has it watched. Whatever fails closes the descriptors.
    ///
    /// It does not keep the process alive: the connection to the gateway does, and the time limits of calls.
    pub(crate) fn open(
        owner: LaneOwner,
        is_first: bool,
        fds: OfferedFds,
        on_bell: PollCallback,
        on_companion: PollCallback,
    ) -> Option<LaneSocket> {
        let side = if is_first { Side::First } else { Side::Second };
        // All lanes of an environment spin together, see `waiting`.
        let options = LaneOptions { spin: SpinConfig { spin_us: 0 }, ..LaneOptions::default() };
        let lane = Lane::open(side, fds.into(), options).ok()?;
        let (conn, environment) = (owner.conn, owner.client.environment.clone());
        let bell = Handle::poll(&environment, lane.bell().as_raw_fd(), owner.clone())?;
        let companion = Handle::poll(&environment, lane.companion().as_raw_fd(), owner)?;
        bell.unref();
        companion.unref();
        let is_watched = bell.watch(READABLE, on_bell) && companion.watch(DISCONNECT, on_companion);
        let socket = LaneSocket {
            _bell: bell,
            _companion: companion,
            lane,
            conn,
            is_armed: false,
            is_over: false,
            is_full: false,
            usual_bytes: READ_BYTES_MIN,
        };
        is_watched.then_some(socket)
    }

    /// Whether reading, or writing what had no room, would come to something. Makes no system call.
    pub(crate) fn is_ready(&self) -> bool {
        self.is_over || self.lane.is_ready()
    }

    /// What has come.
    pub(crate) fn read(&mut self) -> Heard {
        if !self.is_ready() {
            return Heard::Nothing;
        }
        // Looked at first: what was published before it closed is all there then.
        let is_over = self.is_over || self.lane.is_peer_closed();
        let mut bytes = Vec::with_capacity(self.usual_bytes);
        while bytes.len() < CLIENT_READ_BYTES_MAX {
            match self.lane.pop(&mut bytes) {
                Ok(Some(_)) => {}
                Ok(None) if bytes.is_empty() && is_over => {
                    return Heard::End("the other end has closed it".to_owned());
                }
                Ok(None) => break,
                // What came before it broke is not worth telling apart.
                Err(error) => return Heard::End(error.to_string()),
            }
        }
        if bytes.is_empty() {
            return Heard::Nothing;
        }
        self.disarm();
        self.usual_bytes = bytes.len().next_power_of_two().clamp(1024, READ_BYTES_MIN);
        Heard::Bytes(Bytes::from(bytes))
    }

    /// Writes from the front of `bytes`; gives how many the lane took. 0 when it is full, or over; the bell rings when that has changed.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> usize {
        let len = bytes.len().min(self.lane.record_bytes_max());
        let taken = if self.lane.push(&[&bytes[..len]]).is_ok() { len } else { 0 };
        self.is_full = taken == 0;
        self.disarm();
        taken
    }

    /// Shows the peer what was written. Whether the lane is broken is said when it is read or armed.
    pub(crate) fn flush(&mut self) {
        self.is_over |= self.lane.flush().is_err();
    }

    /// Asks the peer to ring. False when there is something to do instead.
    pub(crate) fn arm(&mut self) -> bool {
        // Not even for a moment where it is not needed: a peer that is just writing would ring.
        if !self.is_armed && !self.is_ready() {
            match self.lane.arm() {
                Ok(is_ready) => self.is_armed = !is_ready && !self.is_over,
                Err(_) => self.is_over = true,
            }
        }
        self.is_armed
    }

    /// The bell has rung. True when there is something to do.
    pub(crate) fn hear_bell(&mut self) -> bool {
        self.lane.clear_bell();
        self.is_armed = false;
        self.is_ready()
    }

    /// The peer's process is gone, or has closed the lane.
    pub(crate) fn hear_hang_up(&mut self) {
        self.is_armed = false;
        self.is_over = true;
    }

    /// Whether the peer takes nothing any more.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over || self.lane.is_peer_closed()
    }

    /// Where the peer ran when it wrote last.
    pub(crate) fn peer_cpu(&self) -> Option<u32> {
        self.lane.peer_cpu()
    }

    /// The peer need not ring while this side is awake.
    fn disarm(&mut self) {
        if self.is_armed {
            self.is_armed = false;
            self.lane.disarm();
        }
    }
}
