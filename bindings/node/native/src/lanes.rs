//! The lanes of one client: opened where the gateway offers them, read and written like its sockets, closed in good order.

use crate::client::{Client, LINGER_MS, State};
use crate::lane::{Heard, LaneOwner, LaneSocket};
use crate::node::guarded;
use crate::uv::{RawHandle, owner_of};
use crate::waiting::Waiting;
use bro_session::ConnId;
use std::ffi::c_int;
use std::rc::Rc;

/// A lane that is closed as soon as its last bytes are taken.
pub(crate) struct LingeringLane {
    lane: LaneSocket,
    unsent: Vec<u8>,
    written: usize,
    pub(crate) give_up_ms: u64,
}

impl Client {
    /// Opens a lane with what came with the offer on `via`; only closes that when `lane` is not wanted.
    pub(crate) fn open_lane(self: &Rc<Self>, state: &mut State, lane: Option<ConnId>, via: ConnId, is_first: bool) {
        let fds = state.socket(via).and_then(|socket| socket.take_offered());
        let Some(conn) = lane else { return };
        let owner = LaneOwner { client: self.clone(), conn };
        let opened = fds.and_then(|fds| LaneSocket::open(owner, is_first, fds, on_bell, on_companion));
        let now = self.environment.now();
        match opened {
            Some(lane) => {
                state.lanes.push(lane);
                Waiting::admit(&self.environment, self, state.lane_spin_us);
                state.session.handle_lane_opened(conn, now);
            }
            None => state.session.handle_lane_failed(conn, now),
        }
    }

    pub(crate) fn has_lanes(&self) -> bool {
        !self.state.borrow().lanes.is_empty()
    }

    /// Asks all peers to ring. False when some lane has something to do instead.
    pub(crate) fn arm_lanes(&self) -> bool {
        let mut is_idle = true;
        for lane in &mut self.state.borrow_mut().lanes {
            is_idle &= lane.arm();
        }
        is_idle
    }

    /// Takes what has come on lanes. False when that is nothing.
    pub(crate) fn read_lanes(&self, state: &mut State) -> bool {
        let State { session, lanes, .. } = state;
        let mut has_heard = false;
        let mut at = 0;
        while let Some(lane) = lanes.get_mut(at) {
            match lane.read() {
                Heard::Nothing => {}
                Heard::Bytes(chunk) => {
                    has_heard = true;
                    self.environment.waiting.note_peer_cpu(lane.peer_cpu());
                    session.handle_bytes(lane.conn, &chunk, self.environment.now());
                }
                Heard::End(why) => {
                    has_heard = true;
                    let lane = lanes.swap_remove(at);
                    session.handle_closed(lane.conn, &why, self.environment.now());
                    continue;
                }
            }
            at += 1;
        }
        has_heard
    }

    /// Writes what is queued for a lane.
    pub(crate) fn write_lane(state: &mut State, conn: ConnId) {
        let State { session, lanes, .. } = state;
        let Some(lane) = lanes.iter_mut().find(|lane| lane.conn == conn) else { return };
        let Some(outbound) = session.outbound(conn) else { return };
        while !outbound.is_empty() {
            let taken = lane.write(outbound.chunk());
            if taken == 0 {
                break;
            }
            outbound.advance(taken);
        }
        lane.flush();
    }

    /// Goes on writing where a lane had no room.
    pub(crate) fn write_full_lanes(state: &mut State) {
        let full: Vec<ConnId> = state.lanes.iter().filter(|lane| lane.is_full).map(|lane| lane.conn).collect();
        for conn in full {
            Self::write_lane(state, conn);
        }
    }

    /// Closes a lane, after its last bytes.
    pub(crate) fn close_lane(&self, state: &mut State, conn: ConnId, unsent: Vec<u8>) {
        let Some(at) = state.lanes.iter().position(|lane| lane.conn == conn) else { return };
        let lane = state.lanes.swap_remove(at);
        let give_up_ms = self.environment.now().mono_ms() + LINGER_MS;
        let mut lingering = LingeringLane { lane, unsent, written: 0, give_up_ms };
        if !lingering.write() {
            state.lingering_lanes.push(lingering);
        }
    }

    fn handle_lane(self: &Rc<Self>, conn: ConnId, has_hung_up: bool) {
        {
            let mut state = self.state.borrow_mut();
            if let Some(at) = state.lingering_lanes.iter().position(|lingering| lingering.lane.conn == conn) {
                if state.lingering_lanes[at].hear(has_hung_up) {
                    state.lingering_lanes.swap_remove(at);
                }
                return;
            }
            let Some(lane) = state.lanes.iter_mut().find(|lane| lane.conn == conn) else { return };
            if has_hung_up {
                lane.hear_hang_up();
            } else if !lane.hear_bell() {
                // Taken in a turn that something else began.
                return;
            }
        }
        self.turn();
    }
}

impl State {
    pub(crate) fn is_lane_ready(&self) -> bool {
        self.lanes.iter().any(LaneSocket::is_ready)
    }
}

impl LingeringLane {
    /// Its bell has rung, or it has hung up. True when it can be closed.
    fn hear(&mut self, has_hung_up: bool) -> bool {
        if has_hung_up {
            return true;
        }
        self.lane.hear_bell();
        self.write()
    }

    /// True when nothing is left to be written, or nobody takes it.
    fn write(&mut self) -> bool {
        while self.written < self.unsent.len() {
            let taken = self.lane.write(&self.unsent[self.written..]);
            if taken == 0 {
                return self.lane.is_over();
            }
            self.written += taken;
        }
        true
    }
}

unsafe extern "C" fn on_bell(raw: *mut RawHandle, _status: c_int, _events: c_int) {
    guarded((), || {
        // SAFETY: the callback of poll handles that are owned by `LaneOwner`.
        let owner = unsafe { owner_of::<LaneOwner>(raw) };
        owner.client.handle_lane(owner.conn, false);
    });
}

unsafe extern "C" fn on_companion(raw: *mut RawHandle, _status: c_int, _events: c_int) {
    guarded((), || {
        // SAFETY: as in `on_bell`.
        let owner = unsafe { owner_of::<LaneOwner>(raw) };
        owner.client.handle_lane(owner.conn, true);
    });
}
