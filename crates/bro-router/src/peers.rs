//! Connections: what is known of each, and what each has been charged for.

#[path = "state/peers.rs"]
mod state;

use crate::abandoned::Abandoned;
use crate::accounts::{Accounts, Resource};
use crate::config::RouterConfig;
use crate::counters::Counters;
use crate::ends::Departure;
use crate::event::CloseReason;
use crate::outbox::{Outbox, Part, PeerId};
use crate::permission::Restriction;
use crate::prefetch::fetch;
use crate::timers::{Timer, Timers};
use crate::v2_peer::V2Peer;
use bro_proto::Now;
use bro_proto::limits::PEER_CHARGE_BYTES;
use bro_proto::timer::TimerId;
use bro_proto::v1::Encoding;
use std::collections::BTreeMap;
use std::num::NonZeroU64;

/// No slot, no index, the end of a list.
pub(crate) const NIL: u32 = u32::MAX;
/// No place in a pool.
pub(crate) const UNPOOLED: u8 = u8::MAX;

/// Who is at the other end, by peer credentials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Process id, where known.
    pub pid: Option<u32>,
    /// The number that the kernel gives to this process and, as long as it runs, to no other, where known: unlike a process id it is not
    /// given again, and it tells processes of different namespaces apart.
    pub pidfd_id: Option<NonZeroU64>,
    /// User id, where known.
    pub uid: Option<u32>,
    /// Group id, where known.
    pub gid: Option<u32>,
}

impl PeerIdentity {
    /// Whether both can be the same process of the same user. Where the kernel has numbers of processes that are not given again, these say
    /// so. Elsewhere, one of which it tells no process id is another one than one of which it does; two of which it tells none can be the same.
    pub(crate) fn matches(&self, other: &PeerIdentity) -> bool {
        let is_same_process = match (self.pidfd_id, other.pidfd_id) {
            (Some(own), Some(others)) => own == others,
            _ => self.pid == other.pid,
        };
        is_same_process && self.uid == other.uid
    }
}

/// A list of calls, linked through the calls themselves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallList {
    pub(crate) head: u32,
    pub(crate) len: u32,
}

impl CallList {
    pub(crate) const EMPTY: CallList = CallList { head: NIL, len: 0 };
}

/// Where a caller's last call of version 2 went, if its service has no other instance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastRoute {
    pub(crate) number: u32,
    /// A peer slot.
    pub(crate) callee: u32,
    /// Of the service. Nobody has 0.
    pub(crate) serial: u64,
}

impl LastRoute {
    pub(crate) const NONE: LastRoute = LastRoute { number: 0, callee: NIL, serial: 0 };
}

/// One connection. Small, since most connections are idle: an idle one owns no memory outside this struct, unless it may not do
/// everything.
///
/// Beside thousands of others a connection is not in the caches, and fetching a line takes longer than routing a frame. So what every frame
/// needs is in the first line, and what a call of version 2 needs besides in the second one.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Peer {
    pub(crate) generation: u32,
    /// Index of its service, `NIL` before REGISTER. For a free slot: the next free slot.
    pub(crate) service: u32,
    pub(crate) is_live: bool,
    /// It will be closed when the present input has been handled, or has been; nothing is sent to it any more.
    pub(crate) is_doomed: bool,
    pub(crate) is_paused: bool,
    pub(crate) is_mid_frame: bool,
    /// It takes no more calls.
    pub(crate) is_leaving: bool,
    /// There is a `stall_timer`.
    pub(crate) is_stall_timed: bool,
    /// It said in REGISTER that it can use lanes, and speaks version 2.
    pub(crate) takes_lanes: bool,
    /// Of its REGISTER, or of its last frame before that.
    pub(crate) encoding: Encoding,
    /// Wall clock at its last frame.
    pub(crate) last_frame_at_ms: u64,
    /// Monotonic milliseconds at its last sign of life.
    pub(crate) last_frame_ms: u64,
    /// Bytes queued and not yet taken. All of them are charged to its account, too.
    pub(crate) queued_bytes: usize,
    /// How many of them are not CALLs: what it asked for itself and does not read. At most `queued_bytes`.
    pub(crate) answer_bytes: usize,
    /// Monotonic milliseconds when the queue became non-empty or was last taken from.
    pub(crate) progress_ms: u64,
    /// What the two sides have told each other in version 2, if the connection speaks it.
    pub(crate) v2: Option<Box<V2Peer>>,

    /// Calls in flight that it made, and those that it was asked; see [`crate::calls::Side`].
    pub(crate) calls: [CallList; 2],
    /// Its parked introspection calls.
    pub(crate) parked: CallList,
    /// Of the registration of its service; 0 before REGISTER.
    pub(crate) serial: u64,
    pub(crate) last_route: LastRoute,
    /// The name that was needed last of those that it was told: serial of the caller's service, and its number. Serial 0 is nobody's.
    pub(crate) last_name_serial: u64,
    pub(crate) last_name: u32,
    /// Who pays for what is queued to it and kept for it.
    pub(crate) account: u32,

    /// Neighbours in the ring of the service's instances.
    pub(crate) ring_next: u32,
    pub(crate) ring_prev: u32,
    /// Bytes of its tables of names and of abandoned ids. Charged, too.
    pub(crate) table_bytes: usize,
    /// Bytes that the driver keeps for it beside those that are queued. Charged, too.
    pub(crate) kept_bytes: usize,
    /// Monotonic milliseconds when the driver last had more or less to keep.
    pub(crate) kept_since_ms: u64,
    pub(crate) identity: PeerIdentity,
    /// What it may do; `None` is everything. A restricted peer has no `last_route`: each of its calls is decided on.
    pub(crate) restriction: Option<Box<Restriction>>,
    pub(crate) connected_at_ms: u64,
    /// Ids of calls that ended without its answer; made when there is the first.
    pub(crate) abandoned: Option<Box<Abandoned>>,
    pub(crate) register_timer: Option<TimerId>,
    pub(crate) partial_timer: Option<TimerId>,
    /// May outlive the queue: it looks again when it fires, so that busy peers start no timer per frame.
    pub(crate) stall_timer: Option<TimerId>,
    pub(crate) pool_index: u8,
}

impl Peer {
    /// Bytes of its tables of names and of abandoned ids.
    pub(crate) fn table_bytes_now(&self) -> usize {
        let names = self.v2.as_ref().map_or(0, |state| state.name_bytes());
        names + self.abandoned.as_ref().map_or(0, |ids| ids.bytes())
    }
}

const _: () = assert!(std::mem::offset_of!(Peer, v2) < 64 && std::mem::offset_of!(Peer, calls) == 64);
const _: () = assert!(std::mem::offset_of!(Peer, account) < 128 && size_of::<Peer>() <= 256);

/// Where outbound bytes start to have consequences.
#[derive(Clone, Copy, Debug)]
struct QueueLimits {
    pause_bytes: usize,
    bytes_max: usize,
    stall_timeout_ms: u64,
}

/// All connections, by slot.
#[derive(Debug)]
pub(crate) struct Peers {
    pub(crate) slots: Vec<Peer>,
    free: u32,
    len: usize,
    /// By slot: closed connections whose slots are kept, since some of their calls have not ended so far.
    pub(crate) departures: BTreeMap<u32, Departure>,
    pub(crate) accounts: Accounts,
    /// Sum of `queued_bytes` over the live peers.
    queued_bytes: usize,
    /// What is given back when the doomed peers have gone.
    pub(crate) doomed_bytes: usize,
    /// Monotonic milliseconds until which nobody who holds much is looked for.
    pub(crate) search_again_ms: u64,
    /// Sum of what the routes of the live peers take.
    pub(crate) route_bytes: usize,
    limits: QueueLimits,
    /// Peers to be closed when the present input has been handled.
    pub(crate) doomed: Vec<(u32, CloseReason)>,
}

impl Peers {
    pub(crate) fn new(config: &RouterConfig) -> Self {
        let limits = QueueLimits {
            pause_bytes: config.queue_pause_bytes,
            bytes_max: config.queue_bytes_max,
            stall_timeout_ms: config.write_stall_timeout_ms,
        };
        Self {
            slots: Vec::new(),
            free: NIL,
            len: 0,
            departures: BTreeMap::new(),
            accounts: Accounts::new(config),
            queued_bytes: 0,
            doomed_bytes: 0,
            search_again_ms: 0,
            route_bytes: 0,
            limits,
            doomed: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Slots in use: by live peers, and by those who have gone while some of their calls are left.
    pub(crate) fn held_len(&self) -> usize {
        self.len + self.departures.len()
    }

    /// Sum of `queued_bytes` over the live peers.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// The slot of a live peer.
    pub(crate) fn find(&self, id: PeerId) -> Option<u32> {
        let peer = self.slots.get(id.slot as usize)?;
        (peer.is_live && peer.generation == id.generation).then_some(id.slot)
    }

    pub(crate) fn id(&self, slot: u32) -> PeerId {
        PeerId { slot, generation: self.slots[slot as usize].generation }
    }

    /// The live slots, in order.
    pub(crate) fn live(&self) -> impl Iterator<Item = u32> + '_ {
        (0_u32..).zip(&self.slots).filter(|(_, peer)| peer.is_live).map(|(slot, _)| slot)
    }

    pub(crate) fn slots_len(&self) -> usize {
        self.slots.len()
    }

    /// The callee of the route that `caller` used last, if it is that one and leads where it led.
    #[inline]
    pub(crate) fn last_callee(&self, caller: u32, route: u32) -> Option<u32> {
        let last = self.slots[caller as usize].last_route;
        let callee = self.slots.get(last.callee as usize)?;
        // Serials are given once and taken away with the registration: this is the one that was found, and it is alone.
        (last.number == route && callee.serial == last.serial && callee.ring_next == last.callee).then_some(last.callee)
    }

    /// Whom a peer called last, as far as that is known.
    #[inline]
    pub(crate) fn last_called(&self, slot: u32) -> Option<u32> {
        self.slots.get(slot as usize).map(|peer| peer.last_route.callee)
    }

    /// Begins to fetch what a frame needs of a peer.
    #[inline]
    pub(crate) fn fetch(&self, slot: u32) {
        if let Some(peer) = self.slots.get(slot as usize) {
            fetch(&peer.generation);
            fetch(&peer.calls);
        }
    }

    pub(crate) fn is_live(&self, slot: u32) -> bool {
        self.slots.get(slot as usize).is_some_and(|peer| peer.is_live)
    }

    pub(crate) fn insert(&mut self, identity: PeerIdentity, account: u32, now: Now) -> u32 {
        self.accounts.charge(account, Resource::Peers, 1);
        self.accounts.charge(account, Resource::Memory, PEER_CHARGE_BYTES);
        self.place(identity, account, now)
    }

    /// The same, uncharged.
    fn place(&mut self, identity: PeerIdentity, account: u32, now: Now) -> u32 {
        let fresh = |generation| Peer {
            generation,
            service: NIL,
            is_live: true,
            is_doomed: false,
            is_paused: false,
            is_mid_frame: false,
            is_leaving: false,
            is_stall_timed: false,
            takes_lanes: false,
            encoding: Encoding::Json,
            last_frame_at_ms: now.wall_ms,
            last_frame_ms: now.mono_ms(),
            queued_bytes: 0,
            answer_bytes: 0,
            progress_ms: 0,
            v2: None,
            calls: [CallList::EMPTY; 2],
            parked: CallList::EMPTY,
            serial: 0,
            last_route: LastRoute::NONE,
            last_name_serial: 0,
            last_name: 0,
            account,
            ring_next: NIL,
            ring_prev: NIL,
            table_bytes: 0,
            kept_bytes: 0,
            kept_since_ms: 0,
            pool_index: UNPOOLED,
            identity,
            restriction: None,
            connected_at_ms: now.wall_ms,
            abandoned: None,
            register_timer: None,
            partial_timer: None,
            stall_timer: None,
        };
        self.len += 1;
        if self.free == NIL {
            let slot = u32::try_from(self.slots.len()).expect("peers_max is far below 2^32");
            if self.slots.len() == self.slots.capacity() {
                // Less spare room than a vector takes by itself: places are large.
                self.slots.reserve_exact(self.slots.len() / 4 + 16);
            }
            self.slots.push(fresh(0));
            return slot;
        }
        let slot = self.free;
        let place = &mut self.slots[slot as usize];
        self.free = place.service;
        *place = fresh(place.generation.wrapping_add(1));
        slot
    }

    /// Forgets a peer that nothing refers to any more but calls that are about to end. While there are any, its slot is kept for them.
    pub(crate) fn remove(&mut self, slot: u32, timers: &mut Timers) {
        let peer = &mut self.slots[slot as usize];
        debug_assert!(peer.is_live && peer.parked.len == 0);
        for timer in [peer.register_timer.take(), peer.partial_timer.take(), peer.stall_timer.take()] {
            timer.map(|timer| timers.remove(timer));
        }
        peer.is_stall_timed = false;
        let route_bytes = peer.v2.take().map_or(0, |state| state.route_bytes());
        let bytes = peer.queued_bytes + peer.kept_bytes + peer.table_bytes + route_bytes;
        self.accounts.release(peer.account, Resource::Routes, route_bytes);
        self.accounts.release(peer.account, Resource::Memory, bytes);
        self.queued_bytes -= peer.queued_bytes;
        peer.queued_bytes = 0;
        peer.answer_bytes = 0;
        peer.kept_bytes = 0;
        peer.table_bytes = 0;
        peer.abandoned = None;
        self.route_bytes -= route_bytes;
        peer.restriction = None;
        peer.is_live = false;
        self.len -= 1;
        if !self.departures.contains_key(&slot) {
            self.free(slot);
        }
    }

    /// Gives the slot of a peer that has gone to others.
    pub(crate) fn free(&mut self, slot: u32) {
        let peer = &mut self.slots[slot as usize];
        debug_assert!(!peer.is_live && peer.calls.iter().all(|list| list.len == 0));
        self.accounts.release(peer.account, Resource::Peers, 1);
        self.accounts.release(peer.account, Resource::Memory, PEER_CHARGE_BYTES);
        peer.service = self.free;
        self.free = slot;
    }

    /// Marks a peer to be closed when the present input has been handled.
    pub(crate) fn doom(&mut self, slot: u32, reason: CloseReason) {
        let peer = &mut self.slots[slot as usize];
        if !peer.is_doomed {
            peer.is_doomed = true;
            self.doomed.push((slot, reason));
        }
    }

    /// Queues one frame that is not a CALL, and charges it. A peer that lets too much of these wait is not read from until it
    /// reads; one whose queue would pass its maximum is closed.
    pub(crate) fn send(
        &mut self,
        slot: u32,
        parts: &[Part<'_>],
        now: Now,
        timers: &mut Timers,
        counters: &mut Counters,
        out: &mut impl Outbox,
    ) {
        let Some(bytes) = self.queue(slot, parts, now, timers, counters, out) else { return };
        let peer = &mut self.slots[slot as usize];
        peer.answer_bytes += bytes;
        if !peer.is_paused && peer.answer_bytes > self.limits.pause_bytes {
            peer.is_paused = true;
            // What the gateway does not read cannot be late.
            peer.partial_timer.take().map(|timer| timers.remove(timer));
            out.pause(PeerId { slot, generation: peer.generation });
        }
    }

    /// Queues and charges a frame that is no reason to stop reading from the peer: a CALL, or the last word before a close. A callee
    /// that works on its calls one after the other may be writing an answer, and would wait for the gateway to read
    /// while the gateway waits for it; admission bounds the calls.
    pub(crate) fn send_unpaused(
        &mut self,
        slot: u32,
        parts: &[Part<'_>],
        now: Now,
        timers: &mut Timers,
        counters: &mut Counters,
        out: &mut impl Outbox,
    ) {
        self.queue(slot, parts, now, timers, counters, out);
    }

    /// The bytes that were queued, if any.
    #[inline(always)]
    fn queue(
        &mut self,
        slot: u32,
        parts: &[Part<'_>],
        now: Now,
        timers: &mut Timers,
        counters: &mut Counters,
        out: &mut impl Outbox,
    ) -> Option<usize> {
        let peer = &mut self.slots[slot as usize];
        debug_assert!(peer.is_live || peer.is_doomed, "nothing is sent to a dead peer");
        if peer.is_doomed {
            return None;
        }
        let bytes: usize = parts.iter().map(|part| part.bytes().len()).sum();
        if peer.queued_bytes + bytes > self.limits.bytes_max {
            self.doom(slot, CloseReason::SlowReader);
            return None;
        }
        if peer.queued_bytes == 0 {
            peer.progress_ms = now.mono_ms();
        }
        peer.queued_bytes += bytes;
        self.queued_bytes += bytes;
        self.accounts.charge(peer.account, Resource::Memory, bytes);
        counters.frames_out += 1;
        counters.bytes_out += bytes as u64;
        if !peer.is_stall_timed {
            let deadline = now.mono_ms().saturating_add(self.limits.stall_timeout_ms);
            peer.stall_timer = Some(timers.insert(deadline, Timer::WriteStall(slot)));
            peer.is_stall_timed = true;
        }
        out.send(PeerId { slot, generation: peer.generation }, parts);
        if self.accounts.total(Resource::Memory) > self.accounts.easy_answers {
            self.make_room(slot, now);
        }
        Some(bytes)
    }

    /// Takes back the charge for bytes that the peer took. True when reading from it may go on.
    #[inline]
    pub(crate) fn release(&mut self, slot: u32, bytes: usize, now: Now) -> bool {
        let peer = &mut self.slots[slot as usize];
        debug_assert!(bytes <= peer.queued_bytes, "more was written than was queued");
        let bytes = bytes.min(peer.queued_bytes);
        if bytes > 0 {
            peer.progress_ms = now.mono_ms();
        }
        if bytes == peer.queued_bytes {
            peer.answer_bytes = 0;
        } else if peer.answer_bytes > 0 {
            // Which frames the bytes belong to is not kept: answers get their share of them, and all when all are taken.
            let share = (bytes as u64 * peer.answer_bytes as u64).div_ceil(peer.queued_bytes as u64);
            peer.answer_bytes -= usize::try_from(share).expect("at most the answers' bytes");
        }
        peer.queued_bytes -= bytes;
        self.queued_bytes -= bytes;
        self.accounts.release(peer.account, Resource::Memory, bytes);
        peer.is_paused && peer.answer_bytes <= self.limits.pause_bytes / 2
    }

    /// Looks at a peer whose stall timer fired: true when it has taken nothing for too long.
    pub(crate) fn is_stalled(&mut self, slot: u32, now: Now, timers: &mut Timers) -> bool {
        let peer = &mut self.slots[slot as usize];
        (peer.stall_timer, peer.is_stall_timed) = (None, false);
        if peer.queued_bytes == 0 {
            return false;
        }
        let deadline = peer.progress_ms.saturating_add(self.limits.stall_timeout_ms);
        if deadline <= now.mono_ms() {
            return true;
        }
        peer.stall_timer = Some(timers.insert(deadline, Timer::WriteStall(slot)));
        peer.is_stall_timed = true;
        false
    }
}

impl std::ops::Index<u32> for Peers {
    type Output = Peer;

    fn index(&self, slot: u32) -> &Peer {
        &self.slots[slot as usize]
    }
}

impl std::ops::IndexMut<u32> for Peers {
    fn index_mut(&mut self, slot: u32) -> &mut Peer {
        &mut self.slots[slot as usize]
    }
}
