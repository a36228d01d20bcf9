//! Who may have more, and who goes when there is nothing left.

use crate::accounts::{Resource, Shortage};
use crate::calls::Side;
use crate::event::CloseReason;
use crate::outbox::Outbox;
use crate::peers::{NIL, Peers};
use crate::router::Router;
use bro_proto::limits::{
    CALL_CHARGE_BYTES, CROWDED_CALLS_PER_PEER_MAX, CROWDED_CALLS_PER_UID_MAX, MEMORY_SEARCH_INTERVAL_MS,
    MEMORY_STALL_MS, PARTIAL_FREE_BYTES, PEER_CHARGE_BYTES,
};
use bro_proto::{ErrorBody, ErrorCode, Now};

impl Router {
    /// Opens the account that a new connection is charged to, if there may be one more.
    pub(crate) fn admit_connection(&mut self, uid: Option<u32>, now: Now) -> Result<u32, ErrorBody> {
        let exhausted = |message: String| Err(ErrorBody::new(ErrorCode::ResourceExhausted, message));
        let limit = self.config.peers_max;
        if self.peers.held_len() >= limit {
            return exhausted(format!(
                "the gateway serves {limit} connections already: close some, or raise its limit"
            ));
        }
        let Some(account) = self.peers.accounts.open(uid, now.mono_ms()) else {
            return exhausted("the gateway serves too many users already: connect again later".to_owned());
        };
        let own = self.peers.accounts.used(account, Resource::Peers);
        let limit = self.config.peers_per_uid_max;
        if own >= limit {
            return exhausted(format!("this user has {limit} connections already: close some, or raise the limit"));
        }
        for (resource, amount) in [(Resource::Peers, 1), (Resource::Memory, PEER_CHARGE_BYTES)] {
            if let Err(shortage) = self.peers.accounts.check(account, resource, amount) {
                return Err(self.refuse_short(shortage, now));
            }
        }
        self.take_token(account, now)?;
        Ok(account)
    }

    /// A connection is denied. Whoever opens many of those is told of its rate instead, as all others are, and operators are told of no more than
    /// that rate lets through.
    #[cold]
    pub(crate) fn rate_denied(
        &mut self,
        uid: Option<u32>,
        denied: ErrorBody,
        now: Now,
        out: &mut impl Outbox,
    ) -> ErrorBody {
        let token = self.peers.accounts.open(uid, now.mono_ms()).map(|account| self.take_token(account, now));
        match token {
            Some(Err(too_fast)) => too_fast,
            Some(Ok(())) | None => {
                self.note_denied(None, &denied, now, out);
                denied
            }
        }
    }

    fn take_token(&mut self, account: u32, now: Now) -> Result<(), ErrorBody> {
        if self.peers.accounts.take_token(account, now.mono_ms()) {
            return Ok(());
        }
        let (burst, rate) = (self.config.connect_burst, self.config.connect_rate_per_s);
        let message = format!("this user opens more than {burst} connections at once, or {rate} a second: wait");
        Err(ErrorBody::new(ErrorCode::ResourceExhausted, message))
    }

    /// Whether the user of a peer may have so much more of something.
    #[inline]
    pub(crate) fn check_room(
        &mut self,
        slot: u32,
        resource: Resource,
        amount: usize,
        now: Now,
    ) -> Result<(), ErrorBody> {
        let account = self.peers[slot].account;
        match self.peers.accounts.check(account, resource, amount) {
            Ok(()) => Ok(()),
            Err(shortage) => Err(self.refuse_short(shortage, now)),
        }
    }

    /// Whether a CALL may still go to a callee that has left as much unread as it may, or has as many calls in flight: some room above that is for
    /// callers that have few calls in flight, so that whoever floods a callee is the one who is refused.
    #[cold]
    pub(crate) fn may_crowd(&self, caller: u32, callee: u32) -> bool {
        let (queued, limit) = (self.peers[callee].queued_bytes, self.config.queue_calls_bytes_max);
        let of_peer = self.peers[caller].calls[Side::Caller as usize].len as usize;
        let asked = self.peers[callee].calls[Side::Callee as usize].len as usize;
        let asked_max = self.config.in_flight_per_callee_max;
        if queued > crowded_bytes_max(limit)
            || asked >= asked_max.saturating_add(asked_max.div_ceil(4))
            || of_peer >= CROWDED_CALLS_PER_PEER_MAX
        {
            return false;
        }
        let of_user = self.peers.accounts.used(self.peers[caller].account, Resource::Calls);
        let is_crowded = queued > limit + limit / 4 || asked >= asked_max.saturating_add(asked_max.div_ceil(8));
        !is_crowded || of_user < CROWDED_CALLS_PER_UID_MAX
    }

    /// Whether the user of a callee may be sent new work.
    #[cold]
    pub(crate) fn has_memory(&self, callee: u32) -> bool {
        self.peers.accounts.check(self.peers[callee].account, Resource::Memory, 0).is_ok()
    }

    /// The driver keeps more for a peer than before.
    pub(crate) fn check_kept(&mut self, slot: u32, now: Now) {
        let accounts = &self.peers.accounts;
        if self.peers[slot].kept_bytes > PARTIAL_FREE_BYTES
            && accounts.check(self.peers[slot].account, Resource::Memory, 0).is_err()
        {
            self.counters.refused_memory += 1;
            let account = self.peers[slot].account;
            // It is this user who takes more than its share: one of its own goes, whoever has held most for longest.
            let holder = self.peers.largest_holder(account, now);
            self.peers.evict(if holder == NIL { slot } else { holder });
        }
        if self.peers.accounts.total(Resource::Memory) > self.peers.accounts.easy_answers {
            self.peers.make_room(slot, now);
        }
    }

    /// What a peer's tables take has changed. Names are forgotten where there is no memory for them.
    #[cold]
    pub(crate) fn account_tables(&mut self, slot: u32) {
        let (account, before) = (self.peers[slot].account, self.peers[slot].table_bytes);
        let after = self.peers[slot].table_bytes_now();
        self.peers.accounts.recharge(account, Resource::Memory, before, after);
        self.peers[slot].table_bytes = after;
        if after > before
            && self.peers.accounts.check(account, Resource::Memory, 0).is_err()
            && let Some(state) = &mut self.peers[slot].v2
        {
            state.forget_names();
            self.peers[slot].last_name_serial = 0;
            let kept = self.peers[slot].table_bytes_now();
            self.peers.accounts.recharge(account, Resource::Memory, after, kept);
            self.peers[slot].table_bytes = kept;
        }
    }

    #[cold]
    fn refuse_short(&mut self, shortage: Shortage, now: Now) -> ErrorBody {
        if shortage.resource == Resource::Memory {
            self.counters.refused_memory += 1;
            self.peers.relieve(now);
        } else {
            self.counters.refused_quota += 1;
        }
        ErrorBody::new(ErrorCode::ResourceExhausted, format!("{shortage}: try again later, or with less"))
    }
}

/// What a callee may leave unread of calls whose callers have few in flight, by what it may leave of any.
pub(crate) fn crowded_bytes_max(queue_calls_bytes_max: usize) -> usize {
    queue_calls_bytes_max.saturating_add(queue_calls_bytes_max / 2)
}

impl Peers {
    /// The driver keeps so many bytes for a peer from now on.
    pub(crate) fn keep(&mut self, slot: u32, bytes: usize, now: Now) {
        let peer = &mut self.slots[slot as usize];
        let before = std::mem::replace(&mut peer.kept_bytes, bytes);
        if before != bytes {
            peer.kept_since_ms = now.mono_ms();
        }
        self.accounts.recharge(peer.account, Resource::Memory, before, bytes);
    }

    /// What goes with a peer, roughly.
    pub(crate) fn held_bytes(&self, slot: u32) -> usize {
        let peer = &self.slots[slot as usize];
        let calls = peer.calls[Side::Caller as usize].len as usize * CALL_CHARGE_BYTES;
        let routes = peer.v2.as_ref().map_or(0, |state| state.route_bytes());
        peer.queued_bytes + peer.kept_bytes + peer.table_bytes + calls + routes
    }

    /// Work was refused since memory is short: whoever has held most for longest goes, if it has stood still for a while.
    pub(crate) fn relieve(&mut self, now: Now) {
        if now.mono_ms() < self.search_again_ms {
            return;
        }
        self.search_again_ms = now.mono_ms().saturating_add(MEMORY_SEARCH_INTERVAL_MS);
        let account = self.accounts.largest();
        let holder = self.largest_holder(account, now);
        if holder != NIL && self.still_ms(holder, now) >= MEMORY_STALL_MS {
            self.evict(holder);
        }
    }

    /// Something more is kept for a peer although little is left. If its user has more than what answers may take, too, or nothing is
    /// left at all, whoever has held most for longest goes at once.
    #[cold]
    pub(crate) fn make_room(&mut self, slot: u32, now: Now) {
        let account = self.slots[slot as usize].account;
        while self.accounts.memory_excess(account) > self.doomed_bytes {
            let holder = self.largest_holder(account, now);
            if holder == NIL {
                break;
            }
            self.evict(holder);
        }
        while self.accounts.total(Resource::Memory) - self.doomed_bytes > self.accounts.memory_max {
            let account = self.accounts.largest();
            let holder = self.largest_holder(account, now);
            if holder == NIL {
                return;
            }
            self.evict(holder);
        }
    }

    pub(crate) fn evict(&mut self, slot: u32) {
        if !self.slots[slot as usize].is_doomed {
            self.doomed_bytes += self.held_bytes(slot).min(self.accounts.total(Resource::Memory) - self.doomed_bytes);
            self.doom(slot, CloseReason::Exhausted);
        }
    }

    /// The peer of a user that has held most for longest: by bytes times seconds for which it has not moved. `NIL`: none holds any.
    pub(crate) fn largest_holder(&self, account: u32, now: Now) -> u32 {
        let weight = |&slot: &u32| {
            let held = self.held_bytes(slot) as u64;
            held.saturating_mul(self.still_ms(slot, now).saturating_add(1000))
        };
        let of_user = self.live().filter(|&slot| {
            let peer = &self.slots[slot as usize];
            peer.account == account && !peer.is_doomed
        });
        of_user.max_by_key(weight).filter(|slot| weight(slot) > 0).unwrap_or(NIL)
    }

    /// For how long a peer has held what it holds without taking or finishing any of it, in milliseconds.
    fn still_ms(&self, slot: u32, now: Now) -> u64 {
        let peer = &self.slots[slot as usize];
        let queued = if peer.queued_bytes > 0 { now.mono_ms().saturating_sub(peer.progress_ms) } else { 0 };
        let kept = if peer.kept_bytes > 0 { now.mono_ms().saturating_sub(peer.kept_since_ms) } else { 0 };
        queued.max(kept)
    }
}
