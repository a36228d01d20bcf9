//! Ends of many calls: as many at once as one input may end, and the rest when the driver says the time next.
//!
//! A connection that is lost takes its calls along, and a call that is given up all that were made for it, at any depth: that can be nearly a million,
//! and everybody else would wait for them. So it is *decided* at once what ends, which costs the same for one call as for all, and it is *carried
//! out* from two queues that are made of what is there anyway: connections that have gone keep their slots while their lists of calls are not
//! empty ([`Departure`]), and calls that were given up keep theirs while calls made for them are left ([`crate::calls`], stumps).
//!
//! Nobody can tell this from a gateway that ends all at once, but by when he is told. What has been decided about a call is its fate, and
//! whatever comes for such a call in the meantime (an answer, a CANCEL, its deadline) carries out its fate first, and then finds nothing.
//! Where two things were decided about a call, the first one counts: decisions have numbers.
//!
//! [`Router::handle_time`] sets how many calls may end until the next one. When they have, [`Router::wakeup_ms`] says that it is due at once. So
//! many inputs that the driver has read together end no more either, apart from the one call that each of them may be about.
//!
//! Invariant: between two inputs something is left to be carried out only if [`Ends::left`] is 0.

use crate::event::CloseReason;
use crate::outbox::Outbox;
use crate::peers::{NIL, Peers};
use crate::router::Router;
use bro_proto::v2::CancelReason;
use bro_proto::{ErrorBody, ErrorCode, Now};

/// Later than every decision.
const NEVER: u64 = u64::MAX;

/// A connection that was closed while it had calls.
#[derive(Debug)]
pub(crate) struct Departure {
    /// Of the service that it was an instance of, which may have gone with it.
    name: Box<str>,
    reason: CloseReason,
    /// Its place in the order of decisions.
    decided: u64,
    /// The slots of those that went before and after it.
    prev: u32,
    next: u32,
}

/// What is left to be carried out, and how much of it may be.
#[derive(Debug)]
pub(crate) struct Ends {
    /// Calls that may still end together with others until the next [`Router::handle_time`].
    left: usize,
    /// How many of these are not for what waits already.
    reserved: usize,
    /// Slots of the connections that went first and last of those whose calls are left.
    first: u32,
    last: u32,
    /// Decisions so far.
    decisions: u64,
}

impl Ends {
    pub(crate) fn new(left: usize) -> Self {
        Self { left, reserved: 0, first: NIL, last: NIL, decisions: 0 }
    }

    /// Whether something may have been decided and not carried out.
    #[inline]
    pub(crate) fn are_due(&self) -> bool {
        self.left == 0
    }

    fn decide(&mut self) -> u64 {
        self.decisions += 1;
        self.decisions
    }
}

/// How a call ends that has not been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Its caller has gone.
    Abandoned,
    /// The call that it was made for was given up.
    Cancelled,
    /// Its callee has gone.
    Lost,
}

impl Peers {
    /// When it was decided that the calls of a peer end.
    fn decided(&self, slot: u32) -> u64 {
        if !self[slot].is_doomed {
            return NEVER;
        }
        self.departures.get(&slot).map_or(NEVER, |departure| departure.decided)
    }
}

impl Router {
    /// Ends everything that is about to end, however many calls that is: before [`Router::export`], which must find nothing of it.
    /// What this brings about in the driver may leave something again: see [`Router::is_ending`].
    pub fn finish_ends(&mut self, now: Now, out: &mut impl Outbox) {
        self.carry_out_all_ends(now, out);
        self.settle(now, out);
        self.ends.left = self.config.ends_per_input_max;
    }

    /// The same, and nothing that is decided later in this input has to wait either.
    pub(crate) fn carry_out_all_ends(&mut self, now: Now, out: &mut impl Outbox) {
        (self.ends.left, self.ends.reserved) = (usize::MAX, 0);
        self.carry_out_ends(now, out);
    }

    /// Whether calls are about to end that one input could not end together with others: [`Router::handle_time`] goes on with them, and is
    /// due at once.
    pub fn is_ending(&self) -> bool {
        self.ends.first != NIL || self.calls.stumps_len() > 0
    }

    /// From now on as many calls may end together as in one input. Up to the half of them is for what is left of earlier inputs: those whose
    /// deadline has passed, which is looked at next, must not wait for ever because others go on leaving more.
    pub(crate) fn resume_ends(&mut self, now: Now, out: &mut impl Outbox) {
        let max = self.config.ends_per_input_max;
        (self.ends.left, self.ends.reserved) = (max, max - max / 2);
        self.carry_out_ends(now, out);
    }

    /// What is left of that is for whatever waits.
    pub(crate) fn spend_ends(&mut self, now: Now, out: &mut impl Outbox) {
        self.ends.reserved = 0;
        self.carry_out_ends(now, out);
    }

    /// Goes on with what is about to end, until all has, or only so many more calls may end in this input.
    pub(crate) fn carry_out_ends(&mut self, now: Now, out: &mut impl Outbox) {
        if !self.is_ending() {
            return;
        }
        let cancelled = ErrorBody::new(ErrorCode::Cancelled, "the call that this one was made for was given up");
        while self.ends.left > self.ends.reserved {
            // Stumps first: whatever is below a call goes before the next one.
            if let Some((index, decided)) = self.calls.on_stump() {
                let (fate, decided) = self.fate_on_stump(index, decided);
                self.carry_out_fate(index, fate, decided, &cancelled, now, out);
                continue;
            }
            let slot = self.ends.first;
            if slot == NIL {
                return;
            }
            let [made, asked] = self.peers[slot].calls.map(|list| list.head);
            if made != NIL {
                self.carry_out_fate(made, Fate::Abandoned, self.peers.decided(slot), &cancelled, now, out);
            } else {
                self.carry_out_fate(asked, Fate::Lost, self.peers.decided(slot), &cancelled, now, out);
            }
        }
    }

    /// A connection is being closed: all its calls end, as far as they may now.
    pub(crate) fn depart(&mut self, slot: u32, reason: CloseReason, now: Now, out: &mut impl Outbox) {
        let peer = &self.peers[slot];
        if peer.calls.iter().all(|list| list.head == NIL) {
            return;
        }
        let departure = Departure {
            name: self.registry[peer.service].name.clone(),
            reason,
            decided: self.ends.decide(),
            prev: self.ends.last,
            next: NIL,
        };
        self.peers.departures.insert(slot, departure);
        let before = std::mem::replace(&mut self.ends.last, slot);
        match self.peers.departures.get_mut(&before) {
            Some(departure) => departure.next = slot,
            None => self.ends.first = slot,
        }
        self.carry_out_ends(now, out);
    }

    /// Ends a call that its callee has not answered, and all calls that were made for it, at any depth, as far as they may end now. Its caller
    /// is told `error`, if any; the callers of the others are told `CANCELLED`; callees of version 2 are told not to go on.
    pub(crate) fn give_up(
        &mut self,
        index: u32,
        reason: CancelReason,
        error: Option<&ErrorBody>,
        now: Now,
        out: &mut impl Outbox,
    ) {
        let decided = self.ends.decide();
        self.ends.left = self.ends.left.saturating_sub(1);
        self.give_up_alone(index, reason, error, decided, now, out);
        self.carry_out_ends(now, out);
    }

    /// Something comes for a call: if it has been decided how the call ends, it ends so now. Then it is true, and there is no such call.
    #[cold]
    pub(crate) fn meets_fate(&mut self, index: u32, now: Now, out: &mut impl Outbox) -> bool {
        let Some((fate, decided)) = self.fate(index) else { return false };
        let cancelled = ErrorBody::new(ErrorCode::Cancelled, "the call that this one was made for was given up");
        self.carry_out_fate(index, fate, decided, &cancelled, now, out);
        true
    }

    /// Whether it has been decided how a call ends.
    pub(crate) fn is_fated(&self, index: u32) -> bool {
        self.ends.are_due() && self.fate(index).is_some()
    }

    /// The name of the service that a peer is, or was, an instance of.
    pub(crate) fn name_of(&self, slot: u32) -> &str {
        match self.peers[slot].service {
            NIL => self.peers.departures.get(&slot).map_or("", |departure| &departure.name),
            service => &self.registry[service].name,
        }
    }

    /// How a call ends, if that has been decided, and when it was. The way up is as long as a chain of calls may be.
    fn fate(&self, index: u32) -> Option<(Fate, u64)> {
        let call = &self.calls[index];
        let (lost, abandoned) = (self.peers.decided(call.callee()), self.peers.decided(call.caller()));
        let mut given_up = abandoned;
        // What is decided above counts if nothing between had been lost before: what is made for that goes on without a parent.
        let mut lost_between = NEVER;
        let mut above = self.calls.parent(index);
        while let Some(at) = above {
            let decided = match self.calls.stump_decided(at) {
                Some(decided) => decided,
                None => {
                    let parent = &self.calls[at];
                    lost_between = lost_between.min(self.peers.decided(parent.callee()));
                    self.peers.decided(parent.caller())
                }
            };
            if decided <= lost_between {
                given_up = given_up.min(decided);
            }
            above = self.calls.parent(at);
        }
        match given_up.min(lost) {
            NEVER => None,
            decided if lost < given_up => Some((Fate::Lost, decided)),
            decided if abandoned == given_up => Some((Fate::Abandoned, decided)),
            decided => Some((Fate::Cancelled, decided)),
        }
    }

    /// The same for the child of a stump: whatever is above has ended.
    fn fate_on_stump(&self, index: u32, cancelled: u64) -> (Fate, u64) {
        let call = &self.calls[index];
        let (lost, abandoned) = (self.peers.decided(call.callee()), self.peers.decided(call.caller()));
        if lost < abandoned.min(cancelled) {
            (Fate::Lost, lost)
        } else if abandoned < cancelled {
            (Fate::Abandoned, abandoned)
        } else {
            (Fate::Cancelled, cancelled)
        }
    }

    fn carry_out_fate(
        &mut self,
        index: u32,
        fate: Fate,
        decided: u64,
        cancelled: &ErrorBody,
        now: Now,
        out: &mut impl Outbox,
    ) {
        self.ends.left = self.ends.left.saturating_sub(1);
        let peers = [self.calls[index].caller(), self.calls[index].callee()];
        match fate {
            Fate::Abandoned => {
                self.counters.calls_abandoned += 1;
                self.give_up_alone(index, CancelReason::CallerGone, None, decided, now, out);
            }
            Fate::Cancelled => {
                self.counters.calls_cancelled += 1;
                self.give_up_alone(index, CancelReason::Cancelled, Some(cancelled), decided, now, out);
            }
            Fate::Lost => {
                let departure = self.peers.departures.get(&self.calls[index].callee());
                let why = departure.map_or(CloseReason::Gone, |departure| departure.reason).as_str();
                self.lose_call(index, why, now, out);
            }
        }
        for slot in peers {
            self.end_departure(slot);
        }
    }

    /// Forgets a connection that has gone, if all its calls have ended.
    fn end_departure(&mut self, slot: u32) {
        if self.peers[slot].calls.iter().any(|list| list.head != NIL) {
            return;
        }
        let Some(Departure { prev, next, .. }) = self.peers.departures.remove(&slot) else { return };
        match self.peers.departures.get_mut(&prev) {
            Some(departure) => departure.next = next,
            None => self.ends.first = next,
        }
        match self.peers.departures.get_mut(&next) {
            Some(departure) => departure.prev = prev,
            None => self.ends.last = prev,
        }
        // Otherwise it is just being closed.
        if !self.peers.is_live(slot) {
            self.peers.free(slot);
        }
    }

    /// Panics unless the queues are in order.
    pub(crate) fn check_ends(&self) {
        self.calls.check_stumps();
        assert!(!self.is_ending() || self.ends.left == 0, "nothing waits that may end");
        assert!(self.ends.left <= self.config.ends_per_input_max && self.ends.reserved == 0);
        let (mut count, mut decided, mut last, mut slot) = (0, 0, NIL, self.ends.first);
        while slot != NIL {
            let departure = self.peers.departures.get(&slot).expect("who is in the queue has gone");
            assert!(departure.decided > decided, "who went first comes first");
            assert!(!self.peers.is_live(slot) && self.peers[slot].is_doomed && departure.prev == last);
            assert!(
                self.peers[slot].calls.iter().any(|list| list.head != NIL),
                "who has no calls any more is forgotten"
            );
            count += 1;
            (decided, last, slot) = (departure.decided, slot, departure.next);
        }
        assert_eq!((count, last), (self.peers.departures.len(), self.ends.last));
    }
}
