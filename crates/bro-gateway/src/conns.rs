//! The connections, and the router's outputs applied to them.

use crate::credentials::peer_groups;
use crate::inbox::Arrived;
use crate::journal::Journal;
use crate::outgoing::{Outgoing, Pending};
use crate::takeover::TakenConn;
use bro_proto::frame::Deframer;
use bro_proto::v1::Encoding;
use bro_proto::v1::encode::encode_error;
use bro_proto::{ErrorBody, Now};
use bro_router::{CloseReason, Event, LaneOffer, Outbox, Part, PeerId};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io;
use std::collections::HashMap;

/// One connection. Small, since thousands of them do nothing most of the time.
struct Conn {
    socket: OwnedFd,
    generation: u32,
    /// Holds memory only in the middle of a frame.
    deframer: Deframer,
    outgoing: Outgoing,
    flags: Flags,
}

const _: () = assert!(size_of::<Option<Conn>>() <= 64, "an idle connection is one cache line");

#[derive(Clone, Copy, Default)]
struct Flags {
    /// The router does not want to read from it.
    is_paused: bool,
    /// The socket was full: nothing is tried until the event loop says that it is not.
    is_blocked: bool,
    /// Events are asked for in these cases.
    waits_readable: bool,
    waits_writable: bool,
    /// Nothing more can be written; what it sent is still read.
    is_broken: bool,
    /// The router was told that something is kept for it, beside what is queued.
    is_kept_for: bool,
}

/// A connection that the router has closed, until the end of the wakeup.
pub(crate) struct Closed {
    pub(crate) socket: OwnedFd,
    pub(crate) outgoing: Outgoing,
    pub(crate) reason: CloseReason,
    /// The socket was full before.
    is_blocked: bool,
}

/// A connection, as it is handed on to another gateway.
pub(crate) struct HandedOn<'a> {
    pub(crate) peer: PeerId,
    pub(crate) socket: BorrowedFd<'a>,
    /// What has arrived of an unfinished frame.
    pub(crate) partial: &'a [u8],
    /// What is still to be skipped of a frame above the limit.
    pub(crate) skipping_bytes: usize,
    pub(crate) outgoing: &'a Outgoing,
    pub(crate) is_paused: bool,
}

/// All connections by the slot of their [`PeerId`].
pub(crate) struct Conns {
    epoll: OwnedFd,
    slots: Vec<Option<Conn>>,
    pub(crate) pending: Pending,
    pub(crate) journal: Journal,
    /// Peers that something was noted for, or whose socket is no longer full. An entry may be outdated.
    dirty: Vec<PeerId>,
    /// Peers whose queue has changed. What is kept for them has to be told.
    blocked: Vec<PeerId>,
    /// Bytes that sockets took, for the router.
    written: Vec<(PeerId, usize)>,
    /// Peers that can take no more: what they sent is read, then they are dropped.
    broken: Vec<PeerId>,
    /// Closed in this wakeup, with what is noted for them.
    closed: Vec<Closed>,
    /// Closed, and what was noted has been tried once.
    finished: Vec<Closed>,
    /// Lanes to be made at the end of this wakeup.
    offers: Vec<LaneOffer>,
}

/// What the event loop knows a connection by.
pub(crate) fn token_of(peer: PeerId) -> EventData {
    EventData::new_u64(u64::from(peer.generation) << 32 | u64::from(peer.slot))
}

/// The reverse of [`token_of`].
pub(crate) fn peer_of(token: u64) -> PeerId {
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of the token")]
    PeerId { slot: token as u32, generation: (token >> 32) as u32 }
}

impl Conns {
    pub(crate) fn new(epoll: OwnedFd, journal: Journal) -> Self {
        Self {
            epoll,
            slots: Vec::new(),
            pending: Pending::new(),
            journal,
            dirty: Vec::new(),
            blocked: Vec::new(),
            written: Vec::new(),
            broken: Vec::new(),
            closed: Vec::new(),
            finished: Vec::new(),
            offers: Vec::new(),
        }
    }

    pub(crate) fn epoll(&self) -> &OwnedFd {
        &self.epoll
    }

    /// Adds a connection that the router has given an id.
    pub(crate) fn insert(&mut self, peer: PeerId, socket: OwnedFd) -> io::Result<()> {
        epoll::add(&self.epoll, &socket, token_of(peer), EventFlags::IN)?;
        let slot = peer.slot as usize;
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        debug_assert!(self.slots[slot].is_none(), "the router gives a slot to one peer at a time");
        self.slots[slot] = Some(Conn {
            socket,
            generation: peer.generation,
            deframer: Deframer::new(),
            outgoing: Outgoing::new(),
            flags: Flags { waits_readable: true, ..Flags::default() },
        });
        Ok(())
    }

    /// Goes on with a connection of a gateway before this one, whose id the router knows.
    pub(crate) fn resume(&mut self, taken: TakenConn) -> io::Result<()> {
        let TakenConn { peer, socket, is_paused, partial, skipping_bytes, queued } = taken;
        self.insert(peer, socket)?;
        let Some(conn) = self.slots.get_mut(peer.slot as usize).and_then(Option::as_mut) else { return Ok(()) };
        conn.deframer =
            if skipping_bytes > 0 { Deframer::resume_skipping(skipping_bytes) } else { Deframer::resume(partial) };
        conn.outgoing = Outgoing::resume(queued);
        conn.flags.is_paused = is_paused;
        conn.flags.is_blocked = conn.outgoing.is_queued();
        update_interest(&self.epoll, peer, conn);
        // The router is told at the first opportunity what is kept for it.
        self.blocked.push(peer);
        Ok(())
    }

    /// What another gateway has to know of the connections, in the order of their slots. Nothing must be noted for any of them.
    pub(crate) fn handed_on(&self) -> impl Iterator<Item = HandedOn<'_>> {
        (0_u32..).zip(&self.slots).filter_map(|(slot, conn)| {
            let Conn { socket, generation, deframer, outgoing, flags } = conn.as_ref()?;
            // The others follow from what is queued and kept, and nobody is broken when there is no work.
            let Flags { is_paused, is_blocked: _, waits_readable: _, waits_writable: _, is_broken: _, is_kept_for: _ } =
                *flags;
            Some(HandedOn {
                peer: PeerId { slot, generation: *generation },
                socket: socket.as_fd(),
                partial: deframer.partial(),
                skipping_bytes: deframer.skipping_bytes(),
                outgoing,
                is_paused,
            })
        })
    }

    /// Takes the socket of a connection to which nothing is left to be written away from it.
    pub(crate) fn take_socket(&mut self, peer: PeerId) -> Option<OwnedFd> {
        self.idle_socket(peer)?;
        let conn = self.slots.get_mut(peer.slot as usize)?.take()?;
        epoll::delete(&self.epoll, &conn.socket).expect("an open connection is registered");
        Some(conn.socket)
    }

    /// Forgets a connection that has ended, and closes its socket.
    pub(crate) fn remove(&mut self, peer: PeerId) {
        if self.conn(peer).is_some() {
            self.slots[peer.slot as usize] = None;
        }
    }

    pub(crate) fn is_open(&self, peer: PeerId) -> bool {
        self.slots
            .get(peer.slot as usize)
            .is_some_and(|slot| slot.as_ref().is_some_and(|conn| conn.generation == peer.generation))
    }

    pub(crate) fn is_paused(&self, peer: PeerId) -> bool {
        self.slots.get(peer.slot as usize).is_some_and(|slot| slot.as_ref().is_some_and(|conn| conn.flags.is_paused))
    }

    /// The deframer of a connection, which has to be given back by [`Conns::restore`], and its socket.
    pub(crate) fn reading(&mut self, peer: PeerId) -> Option<(Deframer, &OwnedFd)> {
        let conn = self.conn(peer)?;
        Some((std::mem::take(&mut conn.deframer), &conn.socket))
    }

    /// The reverse of [`Conns::reading`]. False when the connection was closed in between.
    pub(crate) fn restore(&mut self, peer: PeerId, deframer: Deframer) -> bool {
        let Some(conn) = self.conn(peer) else { return false };
        conn.deframer = deframer;
        true
    }

    /// The socket can take more.
    pub(crate) fn handle_writable(&mut self, peer: PeerId) {
        if let Some(conn) = self.conn(peer) {
            conn.flags.is_blocked = false;
            self.dirty.push(peer);
        }
    }

    /// The peer has hung up although it is not read from: what it sent before is read, then it is dropped.
    pub(crate) fn note_broken(&mut self, peer: PeerId) {
        if let Some(conn) = self.conn(peer)
            && !conn.flags.is_broken
        {
            conn.flags.is_broken = true;
            conn.outgoing.clear();
            self.broken.push(peer);
        }
    }

    /// Whether there is something to flush or to finish without waiting for an event.
    pub(crate) fn has_work(&self) -> bool {
        !(self.dirty.is_empty() && self.broken.is_empty() && self.closed.is_empty() && self.finished.is_empty())
    }

    /// Writes once to every peer that something is noted for. Afterwards nothing points at what arrived.
    pub(crate) fn flush(&mut self, arrived: Arrived<'_>) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for peer in dirty.drain(..) {
            self.flush_one(peer, arrived);
        }
        self.dirty = dirty; // writing makes nobody dirty
        for mut closed in self.closed.drain(..) {
            if closed.is_blocked {
                closed.outgoing.queue_noted(&self.pending, arrived);
            } else if closed.outgoing.write(&closed.socket, &mut self.pending, arrived).is_broken {
                closed.outgoing.clear();
            }
            self.finished.push(closed);
        }
        self.pending.recycle();
    }

    fn flush_one(&mut self, peer: PeerId, arrived: Arrived<'_>) {
        let Some(conn) = self.slots.get_mut(peer.slot as usize).and_then(Option::as_mut) else { return };
        if conn.generation != peer.generation {
            return;
        }
        if conn.flags.is_broken {
            conn.outgoing.clear();
            return;
        }
        if conn.flags.is_blocked {
            conn.outgoing.queue_noted(&self.pending, arrived);
            self.blocked.push(peer);
            return;
        }
        let written = conn.outgoing.write(&conn.socket, &mut self.pending, arrived);
        if written.bytes > 0 {
            self.written.push((peer, written.bytes));
        }
        if written.is_broken {
            conn.flags.is_broken = true;
            self.broken.push(peer);
        }
        if conn.flags.is_blocked || conn.outgoing.is_queued() || conn.flags.is_kept_for {
            self.blocked.push(peer);
        }
        conn.flags.is_blocked = conn.outgoing.is_queued();
        update_interest(&self.epoll, peer, conn);
    }

    /// What [`Conns::flush`] has to tell the router.
    pub(crate) fn take_written(&mut self) -> Vec<(PeerId, usize)> {
        std::mem::take(&mut self.written)
    }

    /// Gives an emptied list back, so that it is not allocated again.
    pub(crate) fn restore_written(&mut self, mut written: Vec<(PeerId, usize)>) {
        written.clear();
        if self.written.is_empty() {
            self.written = written;
        }
    }

    /// Peers for whom more or less may be kept since the last call.
    pub(crate) fn take_blocked(&mut self) -> Vec<PeerId> {
        std::mem::take(&mut self.blocked)
    }

    /// Bytes that are kept for a peer beside those queued to it, when the router has to be told.
    pub(crate) fn kept_bytes(&mut self, peer: PeerId) -> Option<usize> {
        let conn = self.conn(peer)?;
        let bytes = conn.deframer.kept_bytes() + conn.outgoing.surplus_bytes();
        let was_told = std::mem::replace(&mut conn.flags.is_kept_for, bytes > 0);
        (bytes > 0 || was_told).then_some(bytes)
    }

    pub(crate) fn take_broken(&mut self) -> Vec<PeerId> {
        std::mem::take(&mut self.broken)
    }

    /// Connections that the router closed before the last [`Conns::flush`].
    pub(crate) fn take_finished(&mut self) -> Vec<Closed> {
        std::mem::take(&mut self.finished)
    }

    pub(crate) fn take_offers(&mut self) -> Vec<LaneOffer> {
        std::mem::take(&mut self.offers)
    }

    /// The supplementary groups of every peer that has any.
    pub(crate) fn groups(&self) -> HashMap<PeerId, Vec<u32>> {
        let of = |(slot, conn): (u32, &Option<Conn>)| {
            let conn = conn.as_ref()?;
            let groups = peer_groups(&conn.socket);
            (!groups.is_empty()).then_some((PeerId { slot, generation: conn.generation }, groups))
        };
        (0_u32..).zip(&self.slots).filter_map(of).collect()
    }

    /// The socket of a connection to which nothing is left to be written.
    pub(crate) fn idle_socket(&self, peer: PeerId) -> Option<BorrowedFd<'_>> {
        let conn = self.slots.get(peer.slot as usize)?.as_ref().filter(|conn| conn.generation == peer.generation)?;
        let is_idle = !conn.outgoing.is_pending() && !conn.flags.is_blocked && !conn.flags.is_broken;
        is_idle.then(|| conn.socket.as_fd())
    }

    /// A connection that never became one: told why, and closed like the others.
    pub(crate) fn reject(&mut self, socket: OwnedFd, why: &ErrorBody, now: Now) {
        let mut frame = Vec::new();
        encode_error(&mut frame, Encoding::Json, None, why, now.wall_ms);
        let mut outgoing = Outgoing::new();
        outgoing.queue_bytes(&frame);
        self.closed.push(Closed { socket, outgoing, reason: CloseReason::Refused, is_blocked: false });
    }

    fn conn(&mut self, peer: PeerId) -> Option<&mut Conn> {
        self.slots.get_mut(peer.slot as usize)?.as_mut().filter(|conn| conn.generation == peer.generation)
    }

    fn set_paused(&mut self, peer: PeerId, is_paused: bool) {
        if let Some(conn) = self.slots.get_mut(peer.slot as usize).and_then(Option::as_mut)
            && conn.generation == peer.generation
        {
            conn.flags.is_paused = is_paused;
            update_interest(&self.epoll, peer, conn);
        }
    }
}

/// Asks for the events that matter now. Most of the time nothing changes.
fn update_interest(epoll: &OwnedFd, peer: PeerId, conn: &mut Conn) {
    let (readable, writable) = (!conn.flags.is_paused, conn.flags.is_blocked);
    if (conn.flags.waits_readable, conn.flags.waits_writable) == (readable, writable) {
        return;
    }
    let mut wanted = EventFlags::empty();
    wanted.set(EventFlags::IN, readable);
    wanted.set(EventFlags::OUT, writable);
    // Changing a registration needs no memory: it fails only for a descriptor that is not registered, a defect of ours.
    epoll::modify(epoll, &conn.socket, token_of(peer), wanted).expect("an open connection is registered");
    conn.flags.waits_readable = readable;
    conn.flags.waits_writable = writable;
}

impl Outbox for Conns {
    fn send(&mut self, peer: PeerId, parts: &[Part<'_>]) {
        let Some(conn) = self.slots.get_mut(peer.slot as usize).and_then(Option::as_mut) else { return };
        if conn.generation == peer.generation && conn.outgoing.note(parts, &mut self.pending) {
            self.dirty.push(peer);
        }
    }

    fn close(&mut self, peer: PeerId, reason: CloseReason) {
        let Some(slot) = self.slots.get_mut(peer.slot as usize) else { return };
        if let Some(conn) = slot.take_if(|conn| conn.generation == peer.generation) {
            let Conn { socket, outgoing, flags, .. } = conn;
            self.closed.push(Closed { socket, outgoing, reason, is_blocked: flags.is_blocked });
        }
    }

    fn pause(&mut self, peer: PeerId) {
        self.set_paused(peer, true);
    }

    fn resume(&mut self, peer: PeerId) {
        self.set_paused(peer, false);
    }

    fn offer_lane(&mut self, offer: LaneOffer) {
        self.offers.push(offer);
    }

    fn event(&mut self, event: Event<'_>) {
        self.journal.record(&event);
    }
}
