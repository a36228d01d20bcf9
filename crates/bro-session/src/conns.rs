//! The pool, and the state of each connection.

use crate::lanes::{LaneEnd, LanesByService};
use crate::link::Link;
use crate::outbound::Outbound;
use bro_proto::frame::Deframer;
use bro_proto::limits::{LANES_PER_PEER_MAX, POOL_SIZE_MAX};
use bro_proto::timer::TimerId;

const _: () = assert!(POOL_SIZE_MAX <= u64::BITS && LANES_PER_PEER_MAX <= 64, "one bit for each connection");

/// Where the places of lanes begin.
const LANES_AT: u32 = POOL_SIZE_MAX;

/// Names one connection from the moment it is asked for until it is closed. Its successor at the same place in the
/// pool has another generation, so what comes late for a connection is recognised and ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ConnId {
    /// Place in the pool: drivers may use it as an index.
    pub index: u32,
    /// Counts the connections at this place.
    pub generation: u32,
}

impl ConnId {
    /// Whether it is a lane to another client, not a connection to the gateway.
    pub fn is_lane(self) -> bool {
        self.index >= LANES_AT
    }
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
    /// The gateway has named itself, as those of the JavaScript library do not: it accepts another REGISTER on the live connection (else changes
    /// wait for the next one), answers questions, and stamps callers.
    pub(crate) takes_updates: bool,
    /// Checks that the gateway takes our bytes; holds how many it had taken when the check was set.
    pub(crate) stall: Option<(TimerId, u64)>,
    /// It speaks version 2. Invariant: in `Registered` only.
    pub(crate) v2: Option<Box<Link>>,
    /// Of a lane: which. Invariant: set for those, and never for the connections of the pool.
    pub(crate) lane: Option<Box<LaneEnd>>,
    /// Heartbeats since the first PING without any byte from the gateway behind it.
    pub(crate) silent_pings: u64,
    /// What the gateway said that was about the connection: if it is closed now, the reason.
    pub(crate) farewell: Option<Box<str>>,
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
            lane: None,
            silent_pings: 0,
            farewell: None,
        }
    }

    /// Whether bytes can come and go.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, ConnState::Registering | ConnState::Registered)
    }

    pub(crate) fn has_room(&self, queue_bytes_max: usize) -> bool {
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
    lanes: Vec<Conn>,
    fresh_lanes: u64,
    pub(crate) lanes_by_service: LanesByService,
    /// Some lane may be left by now.
    pub(crate) is_leaving_any: bool,
}

impl Pool {
    pub(crate) fn new(size: u32) -> Self {
        Self {
            conns: (0..size).map(Conn::new).collect(),
            registered: 0,
            next: 0,
            fresh: 0,
            lanes: Vec::new(),
            fresh_lanes: 0,
            lanes_by_service: LanesByService::default(),
            is_leaving_any: false,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.conns.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Conn> {
        self.conns.iter()
    }

    pub(crate) fn at(&mut self, index: usize) -> &mut Conn {
        match index.checked_sub(LANES_AT as usize) {
            Some(lane) => &mut self.lanes[lane],
            None => &mut self.conns[index],
        }
    }

    fn get(&self, id: ConnId) -> Option<&Conn> {
        let conn = match id.index.checked_sub(LANES_AT) {
            Some(lane) => self.lanes.get(lane as usize),
            None => self.conns.get(id.index as usize),
        };
        conn.filter(|conn| conn.id == id)
    }

    /// The connection with this id, unless it is gone.
    pub(crate) fn find(&mut self, id: ConnId) -> Option<&mut Conn> {
        let conn = match id.index.checked_sub(LANES_AT) {
            Some(lane) => self.lanes.get_mut(lane as usize),
            None => self.conns.get_mut(id.index as usize),
        };
        conn.filter(|conn| conn.id == id)
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
        self.get(id).is_some_and(|conn| conn.v2.is_some())
    }

    /// Whether the caller of what comes on a connection is named by the gateway: in version 2 by NAME, on a lane by its offer.
    pub(crate) fn stamps_callers(&self, id: ConnId) -> bool {
        self.get(id).is_some_and(|conn| conn.takes_updates || conn.v2.is_some())
    }

    /// Whether calls can be made on a connection.
    pub(crate) fn has_room(&self, id: ConnId, queue_bytes_max: usize) -> bool {
        self.get(id).is_some_and(|conn| conn.has_room(queue_bytes_max))
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
        match id.index.checked_sub(LANES_AT) {
            Some(lane) => self.fresh_lanes |= 1 << lane,
            None => self.fresh |= 1 << id.index,
        }
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
        while self.fresh_lanes != 0 {
            let index = self.fresh_lanes.trailing_zeros() as usize;
            self.fresh_lanes &= self.fresh_lanes - 1;
            let conn = &self.lanes[index];
            if conn.is_open() && !conn.outbound.is_empty() {
                return Some(conn.id);
            }
        }
        None
    }
}

/// Lanes.
impl Pool {
    /// Makes a place for a lane that is to be opened; `None` when there are too many.
    pub(crate) fn add_lane(&mut self, number: u64, service: &str, via: ConnId) -> Option<ConnId> {
        let free = self.lanes.iter().position(|conn| conn.lane.is_none());
        let at = match free {
            Some(at) => at,
            None if self.lanes.len() < LANES_PER_PEER_MAX => {
                let index = LANES_AT + u32::try_from(self.lanes.len()).expect("few lanes");
                self.lanes.push(Conn::new(index));
                self.lanes.len() - 1
            }
            None => return None,
        };
        let conn = &mut self.lanes[at];
        conn.id.generation = conn.id.generation.wrapping_add(1);
        conn.state = ConnState::Connecting;
        let mut link = Box::new(Link::default());
        link.names.learn(0, service, false);
        conn.v2 = Some(link);
        conn.lane = Some(Box::new(LaneEnd::new(number, service, via)));
        Some(conn.id)
    }

    pub(crate) fn remove_lane(&mut self, id: ConnId) {
        if let Some(conn) = self.find(id) {
            let mut fresh = Conn::new(id.index);
            fresh.id.generation = id.generation.wrapping_add(1);
            *conn = fresh;
        }
    }

    pub(crate) fn lane(&mut self, id: ConnId) -> Option<&mut LaneEnd> {
        self.find(id)?.lane.as_deref_mut()
    }

    pub(crate) fn find_lane(&self, number: u64) -> Option<ConnId> {
        let is_it = |conn: &&Conn| conn.lane.as_ref().is_some_and(|lane| lane.number == number);
        self.lanes.iter().find(is_it).map(|conn| conn.id)
    }

    /// Whether there is a lane to a service, in use or about to be.
    pub(crate) fn has_lane_to(&self, service: &str) -> bool {
        let leads_there = |conn: &Conn| conn.lane.as_ref().is_some_and(|l| !l.is_leaving() && *l.service == *service);
        self.lanes.iter().any(leads_there)
    }

    /// The lane on which calls to a service go, if there is one with room.
    pub(crate) fn lane_to(&self, service: &str, queue_bytes_max: usize) -> Option<ConnId> {
        let id = self.lanes_by_service.get(service)?;
        self.has_room(id, queue_bytes_max).then_some(id)
    }

    /// No more calls go on a lane.
    pub(crate) fn unlist_lane(&mut self, id: ConnId) {
        self.is_leaving_any = true;
        self.lanes_by_service.remove(id);
    }

    pub(crate) fn live_lanes(&self) -> Vec<ConnId> {
        self.lanes.iter().filter(|conn| conn.lane.is_some()).map(|conn| conn.id).collect()
    }

    pub(crate) fn open_lanes(&self) -> Vec<ConnId> {
        self.lanes.iter().filter(|conn| conn.is_open()).map(|conn| conn.id).collect()
    }

    pub(crate) fn leaving_lanes(&self) -> Vec<ConnId> {
        let is_leaving = |conn: &&Conn| conn.lane.as_ref().is_some_and(|lane| lane.is_leaving());
        self.lanes.iter().filter(is_leaving).map(|conn| conn.id).collect()
    }
}
