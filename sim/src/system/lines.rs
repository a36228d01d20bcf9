//! A connection between a client and the gateway: two streams of bytes that stand in sockets, and what each side knows of the end.

use bro_proto::frame::Deframer;
use bro_proto::rng::Rng;
use bro_router::PeerId;
use bro_session::ConnId;
use std::collections::VecDeque;

/// Bytes that a socket holds in each direction.
pub(super) const SOCKET_BYTES_MAX: usize = 6000;

/// One connection.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) client: usize,
    /// What the client calls it; `None` when the client has closed it.
    pub(super) conn: Option<ConnId>,
    /// What the gateway calls it; `None` before it was accepted, and when the gateway has closed it.
    pub(super) peer: Option<PeerId>,
    /// It came about, or not any more.
    pub(super) is_decided: bool,
    /// From the client: bytes that the gateway has not read.
    pub(super) up: Vec<u8>,
    /// To the client: bytes that stand in the socket.
    pub(super) down: Vec<u8>,
    /// To the client: bytes for which the socket had no room.
    pub(super) queue: Vec<u8>,
    /// Lanes whose descriptors came with the bytes, in their order, and on which side they are.
    pub(super) descriptors: VecDeque<(usize, usize)>,
    pub(super) deframer: Deframer,
    pub(super) is_paused: bool,
}

impl Line {
    pub(super) fn new(client: usize, conn: ConnId) -> Self {
        Self { client, conn: Some(conn), ..Self::default() }
    }

    /// Both sides have let go of it.
    pub(super) fn is_gone(&self) -> bool {
        self.conn.is_none() && self.peer.is_none()
    }

    /// Bytes under way at random places are lost, in both directions.
    pub(super) fn cut(&mut self, rng: &mut Rng) {
        self.up.truncate(upto(self.up.len(), rng));
        self.down.truncate(upto(self.down.len(), rng));
    }
}

/// Some of `count`, often all.
pub(super) fn some(count: usize, rng: &mut Rng) -> usize {
    match rng.below(4) {
        0 => upto(count, rng),
        1 => count.min(1 + below(20, rng)),
        _ => count,
    }
}

pub(super) fn upto(count: usize, rng: &mut Rng) -> usize {
    below(count + 1, rng)
}

pub(super) fn below(bound: usize, rng: &mut Rng) -> usize {
    usize::try_from(rng.below(bound as u64)).expect("below a usize")
}
