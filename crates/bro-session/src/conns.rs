//! The pool, and the state of each connection.

use crate::link::Link;
use crate::outbound::Outbound;
use bro_proto::frame::Deframer;
use bro_proto::limits::POOL_SIZE_MAX;
use bro_proto::timer::TimerId;

const _: () = assert!(POOL_SIZE_MAX <= u64::BITS, "one bit for each connection");

/// Names one connection from the moment it is asked for until it is closed. Its successor at the same place in the
/// pool has another generation, so what comes late for a connection is recognised and ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ConnId {
    /// Place in the pool: drivers may use it as an index.
    pub index: u32,
    /// Counts the connections at this place.
    pub generation: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnState {
    /// Nothing is under way.
    Idle,
    /// The driver is opening it.
    Connecting,
    /// REGISTER is sent, REGISTER_ACK has not come.
    Registering,
    /// Calls can be made and come in.
    Registered,
    /// It will be opened again.
    Waiting,
}

#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) id: ConnId,
    pub(crate) state: ConnState,
    pub(crate) deframer: Deframer,
    pub(crate) outbound: Outbound,
    /// Ends the present state: opening or registering took too long, or the wait is over. Invariant: `Some` in
    /// `Connecting`, `Registering` and `Waiting` only.
    pub(crate) timer: Option<TimerId>,
    /// Attempts that failed since it was last registered.
    pub(crate) attempt: u32,
    /// The version of the methods that the last REGISTER carried.
    pub(crate) methods_version: u64,
    /// The gateway accepts another REGISTER on the live connection; else changes wait for the next connection.
    pub(crate) takes_updates: bool,
    /// Checks that the gateway takes our bytes; holds how many it had taken when the check was set.
    pub(crate) stall: Option<(TimerId, u64)>,
    /// It speaks version 2. Invariant: in `Registered` only.
    pub(crate) v2: Option<Box<Link>>,
    /// Heartbeats since the first PING without any byte from the gateway behind it.
    pub(crate) silent_pings: u64,
}

impl Conn {
    fn new(index: u32) -> Self {
        Self {
            id: ConnId { index, generation: 0 },
            state: ConnState::Idle,
            deframer: Deframer::new(),
            outbound: Outbound::default(),
            timer: None,
            attempt: 0,
            methods_version: 0,
            takes_updates: false,
            stall: None,
            v2: None,
            silent_pings: 0,
        }
    }

    /// Whether bytes can come and go.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, ConnState::Registering | ConnState::Registered)
    }

    fn has_room(&self, queue_bytes_max: usize) -> bool {
        self.state == ConnState::Registered && self.outbound.len() < queue_bytes_max
    }

    /// Whether the driver holds something for it.
    pub(crate) fn is_live(&self) -> bool {
        self.is_open() || self.state == ConnState::Connecting
    }
}

#[derive(Debug)]
pub(crate) struct Pool {
    conns: Box<[Conn]>,
    /// Connections in `Registered`.
    pub(crate) registered: usize,
    /// Where the search for the next call's connection begins.
    next: usize,
    /// One bit for each connection that got bytes since the driver last asked.
    fresh: u64,
}

impl Pool {
    pub(crate) fn new(size: u32) -> Self {
        Self { conns: (0..size).map(Conn::new).collect(), registered: 0, next: 0, fresh: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.conns.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Conn> {
        self.conns.iter()
    }

    pub(crate) fn at(&mut self, index: usize) -> &mut Conn {
        &mut self.conns[index]
    }

    /// The connection with this id, unless it is gone.
    pub(crate) fn find(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.conns.get_mut(id.index as usize).filter(|conn| conn.id == id)
    }

    /// The connection with this id, if bytes can come and go on it.
    pub(crate) fn open(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.find(id).filter(|conn| conn.is_open())
    }

    /// What a connection of version 2 has told so far; `None` for one of version 1.
    pub(crate) fn link(&mut self, id: ConnId) -> Option<&mut Link> {
        self.open(id)?.v2.as_deref_mut()
    }

    pub(crate) fn speaks_v2(&self, id: ConnId) -> bool {
        self.conns.get(id.index as usize).is_some_and(|conn| conn.id == id && conn.v2.is_some())
    }

    /// Whether calls can be made on a connection.
    pub(crate) fn has_room(&self, id: ConnId, queue_bytes_max: usize) -> bool {
        self.conns.get(id.index as usize).is_some_and(|conn| conn.id == id && conn.has_room(queue_bytes_max))
    }

    /// The registered connection whose turn it is, leaving out those with `queue_bytes_max` bytes waiting.
    pub(crate) fn pick(&mut self, queue_bytes_max: usize) -> Option<ConnId> {
        let size = self.conns.len();
        let mut turns = (0..size).map(|step| (self.next + step) % size);
        let found = turns.find(|&index| self.conns[index].has_room(queue_bytes_max))?;
        self.next = (found + 1) % size;
        Some(self.conns[found].id)
    }

    pub(crate) fn mark_fresh(&mut self, id: ConnId) {
        self.fresh |= 1 << id.index;
    }

    /// A connection that got bytes since it was last taken here.
    pub(crate) fn take_fresh(&mut self) -> Option<ConnId> {
        while self.fresh != 0 {
            let index = self.fresh.trailing_zeros() as usize;
            self.fresh &= self.fresh - 1;
            let conn = &self.conns[index];
            if conn.is_open() && !conn.outbound.is_empty() {
                return Some(conn.id);
            }
        }
        None
    }
}
