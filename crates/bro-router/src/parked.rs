//! Introspection calls that wait: for a service to appear, or for an event.

#[path = "state/parked.rs"]
mod state;

use crate::accounts::Resource;
use crate::calls::CallerId;
use crate::hash::KeyedHash;
use crate::introspect::Inquiry;
use crate::outbox::Outbox;
use crate::peers::{NIL, Peers};
use crate::reply::Answer;
use crate::router::Router;
use crate::timers::Timer;
use bro_proto::limits::{PARKED_ANSWERS_BYTES_MAX, PARKED_MAX, PARKED_PER_PEER_MAX, PARKED_TIMEOUT_MAX_MS};
use bro_proto::timer::TimerId;
use bro_proto::v1::encode::Outcome;
use bro_proto::v1::{Encoding, Payload};
use bro_proto::{ErrorBody, ErrorCode, Now};
use hashbrown::HashTable;
use slab::Slab;
use std::collections::BTreeMap;

/// What a parked call waits for.
#[derive(Debug)]
pub(crate) enum Wait {
    /// The registration of a service.
    Service {
        name: Box<str>,
        /// Of the name.
        hash: u64,
        /// It is told only that the service is there, not what that says of itself.
        is_brief: bool,
    },
    /// Another policy.
    Policy { wish: u64 },
    /// The next event.
    Events {
        cursor: u64,
        max: usize,
        /// Its place in [`Parked::watchers`].
        place: usize,
    },
}

/// One parked call.
#[derive(Debug)]
pub(crate) struct ParkedCall {
    pub(crate) caller: u32,
    /// Neighbours in the caller's list.
    prev: u32,
    next: u32,
    timer: TimerId,
    timeout_ms: u64,
    /// The caller's id; empty when it is a number.
    id: Box<str>,
    number: u64,
    context: Box<[u8]>,
    context_encoding: Encoding,
    pub(crate) wait: Wait,
}

impl ParkedCall {
    /// What its caller's account is charged for it.
    pub(crate) fn charged_bytes(&self) -> usize {
        let name = if let Wait::Service { name, .. } = &self.wait { name.len() } else { 0 };
        size_of::<ParkedCall>() + self.id.len() + self.context.len() + name
    }

    fn caller_id(&self) -> CallerId<'_> {
        match self.number {
            0 => CallerId::Text(&self.id),
            number => CallerId::Number(number),
        }
    }
}

/// All parked calls.
#[derive(Debug)]
pub(crate) struct Parked {
    calls: Slab<ParkedCall>,
    /// Those that wait for a service, by its name.
    by_service: HashTable<u32>,
    /// Those that wait for events.
    watchers: Vec<u32>,
}

/// Name space of the names waited for. The table is its own, so it may be that of the registry.
const NAME_SCOPE: u32 = NIL;

impl Parked {
    pub(crate) fn new() -> Self {
        Self { calls: Slab::new(), by_service: HashTable::new(), watchers: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &ParkedCall)> {
        self.calls.iter().map(|(index, call)| (index_of(index), call))
    }

    pub(crate) fn watchers(&self) -> &[u32] {
        &self.watchers
    }

    /// The calls in one caller's list.
    pub(crate) fn list_len(&self, mut head: u32) -> usize {
        let mut len = 0;
        while head != NIL {
            len += 1;
            head = self.calls[head as usize].next;
        }
        len
    }

    fn insert(&mut self, peers: &mut Peers, mut call: ParkedCall) {
        let index = index_of(self.calls.vacant_key());
        let account = peers[call.caller].account;
        peers.accounts.charge(account, Resource::Parked, 1);
        peers.accounts.charge(account, Resource::Memory, call.charged_bytes());
        let list = &mut peers[call.caller].parked;
        call.prev = NIL;
        call.next = list.head;
        if list.head != NIL {
            self.calls[list.head as usize].prev = index;
        }
        list.head = index;
        list.len += 1;
        let mut hash_of_service = None;
        match &mut call.wait {
            Wait::Service { hash, .. } => hash_of_service = Some(*hash),
            Wait::Policy { .. } => {}
            Wait::Events { place, .. } => {
                *place = self.watchers.len();
                self.watchers.push(index);
            }
        }
        self.calls.insert(call);
        if let Some(hash) = hash_of_service {
            let calls = &self.calls;
            self.by_service.insert_unique(hash, index, |&other| match &calls[other as usize].wait {
                Wait::Service { hash, .. } => *hash,
                Wait::Policy { .. } | Wait::Events { .. } => {
                    unreachable!("only those that wait for a service are in the table")
                }
            });
        }
    }

    fn remove(&mut self, peers: &mut Peers, index: u32) -> ParkedCall {
        let call = self.calls.remove(index as usize);
        let account = peers[call.caller].account;
        peers.accounts.release(account, Resource::Parked, 1);
        peers.accounts.release(account, Resource::Memory, call.charged_bytes());
        let list = &mut peers[call.caller].parked;
        if call.prev == NIL {
            list.head = call.next;
        } else {
            self.calls[call.prev as usize].next = call.next;
        }
        if call.next != NIL {
            self.calls[call.next as usize].prev = call.prev;
        }
        list.len -= 1;
        match call.wait {
            Wait::Service { hash, .. } => {
                let entry = self.by_service.find_entry(hash, |&other| other == index);
                entry.expect("everyone who waits for a service is in the table").remove();
            }
            Wait::Policy { .. } => {}
            Wait::Events { place, .. } => {
                self.watchers.swap_remove(place);
                if let Some(&moved) = self.watchers.get(place)
                    && let Wait::Events { place: of_moved, .. } = &mut self.calls[moved as usize].wait
                {
                    *of_moved = place;
                }
            }
        }
        call
    }

    /// The services that are waited for, by name, and by how many.
    pub(crate) fn waited_for(&self) -> impl Iterator<Item = (&str, usize)> {
        let mut waiters: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, call) in self.iter() {
            if let Wait::Service { name, .. } = &call.wait {
                *waiters.entry(name).or_default() += 1;
            }
        }
        waiters.into_iter()
    }

    fn waiting_for(&self, hash: u64, service: &str) -> Option<u32> {
        let is_it = |&index: &u32| match &self.calls[index as usize].wait {
            Wait::Service { name, .. } => **name == *service,
            Wait::Policy { .. } | Wait::Events { .. } => false,
        };
        self.by_service.find(hash, is_it).copied()
    }
}

impl Router {
    /// Parks a `waitFor` until the service registers.
    pub(crate) fn park_for_service(
        &mut self,
        inquiry: &Inquiry<'_>,
        name: &str,
        is_brief: bool,
        timeout_ms: u64,
        now: Now,
    ) -> Result<(), ErrorBody> {
        let wait = Wait::Service { name: name.into(), hash: name_hash(&self.hasher, name), is_brief };
        self.park(inquiry, wait, timeout_ms.min(inquiry.timeout_ms), now)
    }

    /// Parks an `events` until something happens. It is answered a little before the call's own deadline.
    pub(crate) fn park_for_events(
        &mut self,
        inquiry: &Inquiry<'_>,
        cursor: u64,
        max: usize,
        timeout_ms: u64,
        now: Now,
    ) -> Result<(), ErrorBody> {
        const MARGIN_MAX_MS: u64 = 500;
        let spare_ms = inquiry.timeout_ms - (inquiry.timeout_ms / 10).min(MARGIN_MAX_MS);
        self.park(inquiry, Wait::Events { cursor, max, place: 0 }, timeout_ms.min(spare_ms), now)
    }

    /// Parks a `reloadPolicy` until the policy was read.
    pub(crate) fn park_for_policy(&mut self, inquiry: &Inquiry<'_>, wish: u64, now: Now) -> Result<(), ErrorBody> {
        self.park(inquiry, Wait::Policy { wish }, inquiry.timeout_ms, now)
    }

    /// Answers everyone who waits for this service.
    pub(crate) fn answer_waiters(&mut self, service: u32, now: Now, out: &mut impl Outbox) {
        let hash = name_hash(&self.hasher, &self.registry[service].name);
        let mut written = [Vec::new(), Vec::new()];
        let mut bytes = 0;
        while let Some(index) = self.parked.waiting_for(hash, &self.registry[service].name) {
            let call = self.unpark(index);
            let is_brief = matches!(call.wait, Wait::Service { is_brief: true, .. });
            let entry = &mut written[usize::from(is_brief)];
            if entry.is_empty() {
                self.write_found(entry, service, is_brief);
            }
            bytes += entry.len();
            if bytes <= PARKED_ANSWERS_BYTES_MAX {
                self.answer_parked(&call, Ok(entry), now, out);
            } else {
                let message = "it is registered, but too many wait for what it says of itself: ask for it by `service`";
                self.answer_parked(&call, Err(&ErrorBody::new(ErrorCode::ResourceExhausted, message)), now, out);
            }
        }
    }

    /// Answers everyone who waits for events.
    pub(crate) fn answer_watchers(&mut self, now: Now, out: &mut impl Outbox) {
        let mut bytes = 0;
        while let Some(&index) = self.parked.watchers.last() {
            let call = self.unpark(index);
            bytes += self.answer_watcher(&call, bytes < PARKED_ANSWERS_BYTES_MAX, now, out);
        }
    }

    /// A parked call has waited long enough.
    pub(crate) fn time_out_parked(&mut self, index: u32, now: Now, out: &mut impl Outbox) {
        let call = self.unpark(index);
        match &call.wait {
            Wait::Service { name, .. } => {
                let message = format!("service {name:?} did not register within {} ms", call.timeout_ms);
                self.answer_parked(&call, Err(&ErrorBody::new(ErrorCode::Timeout, message)), now, out);
            }
            Wait::Policy { .. } => {
                let message = format!("the policy was not read within {} ms", call.timeout_ms);
                self.answer_parked(&call, Err(&ErrorBody::new(ErrorCode::Timeout, message)), now, out);
            }
            Wait::Events { .. } => drop(self.answer_watcher(&call, true, now, out)),
        }
    }

    /// Forgets what a peer that goes has parked.
    pub(crate) fn abandon_parked(&mut self, slot: u32) {
        while self.peers[slot].parked.head != NIL {
            self.unpark(self.peers[slot].parked.head);
        }
    }

    /// Answers everything that is parked, since the gateway is about to end.
    pub(crate) fn dismiss_parked(&mut self, now: Now, out: &mut impl Outbox) {
        let all: Vec<u32> = self.parked.iter().map(|(index, _)| index).collect();
        for index in all {
            let call = self.unpark(index);
            match &call.wait {
                Wait::Service { .. } | Wait::Policy { .. } => {
                    let error = ErrorBody::new(ErrorCode::ShuttingDown, "the gateway is shutting down");
                    self.answer_parked(&call, Err(&error), now, out);
                }
                Wait::Events { .. } => drop(self.answer_watcher(&call, true, now, out)),
            }
        }
    }

    /// The watch lease may have ended.
    pub(crate) fn end_watch_lease(&mut self, now: Now) {
        if !self.parked.watchers.is_empty() {
            self.reporter.log.renew_lease(now.mono_ms());
        }
        if let Some(deadline) = self.reporter.log.end_lease(now.mono_ms()) {
            self.timers.insert(deadline, Timer::WatchLease);
        }
    }

    /// Somebody watches.
    pub(crate) fn renew_watch_lease(&mut self, now: Now) {
        if let Some(deadline) = self.reporter.log.renew_lease(now.mono_ms()) {
            self.timers.insert(deadline, Timer::WatchLease);
        }
    }

    fn park(&mut self, inquiry: &Inquiry<'_>, wait: Wait, timeout_ms: u64, now: Now) -> Result<(), ErrorBody> {
        if self.is_draining() {
            return Err(ErrorBody::new(
                ErrorCode::ShuttingDown,
                "the gateway is shutting down: nothing can be waited for",
            ));
        }
        if self.parked.len() >= PARKED_MAX || self.peers[inquiry.caller].parked.len as usize >= PARKED_PER_PEER_MAX {
            let message = format!(
                "at most {PARKED_PER_PEER_MAX} introspection calls of a connection, and {PARKED_MAX} of all, may wait at once"
            );
            return Err(ErrorBody::new(ErrorCode::ResourceExhausted, message));
        }
        self.check_room(inquiry.caller, Resource::Parked, 1, now)?;
        self.check_room(inquiry.caller, Resource::Memory, size_of::<ParkedCall>() + inquiry.context.bytes.len(), now)?;
        let timeout_ms = timeout_ms.min(PARKED_TIMEOUT_MAX_MS);
        let index = index_of(self.parked.calls.vacant_key());
        let timer = self.timers.insert(now.mono_ms().saturating_add(timeout_ms), Timer::Parked(index));
        let call = ParkedCall {
            caller: inquiry.caller,
            prev: NIL,
            next: NIL,
            timer,
            timeout_ms,
            id: if let CallerId::Text(id) = inquiry.id { id.into() } else { "".into() },
            number: if let CallerId::Number(number) = inquiry.id { number } else { 0 },
            context: inquiry.context.bytes.into(),
            context_encoding: inquiry.context.encoding,
            wait,
        };
        self.parked.insert(&mut self.peers, call);
        Ok(())
    }

    /// Forgets a parked call, and hands it back.
    pub(crate) fn unpark(&mut self, index: u32) -> ParkedCall {
        let call = self.parked.remove(&mut self.peers, index);
        self.timers.remove(call.timer);
        call
    }

    /// The parked call that `caller` knows by this number.
    pub(crate) fn find_parked(&self, caller: u32, number: u64) -> Option<u32> {
        let mut index = self.peers[caller].parked.head;
        while index != NIL {
            let call = &self.parked.calls[index as usize];
            if call.number == number && number != 0 {
                return Some(index);
            }
            index = call.next;
        }
        None
    }

    /// Answers with the events since its cursor; without any when there is no room, so that it asks again. Says how many bytes.
    fn answer_watcher(&mut self, call: &ParkedCall, has_room: bool, now: Now, out: &mut impl Outbox) -> usize {
        let Wait::Events { cursor, max, .. } = call.wait else { return 0 };
        self.renew_watch_lease(now);
        let mut json = Vec::new();
        self.write_events(&mut json, cursor, if has_room { max } else { 0 });
        self.answer_parked(call, Ok(&json), now, out);
        json.len()
    }

    pub(crate) fn answer_parked(
        &mut self,
        call: &ParkedCall,
        result: Result<&[u8], &ErrorBody>,
        now: Now,
        out: &mut impl Outbox,
    ) {
        let outcome = match result {
            Ok(json) => Outcome::Success(Payload { encoding: Encoding::Json, bytes: json }),
            Err(error) => Outcome::Error(error),
        };
        let context = Payload { encoding: call.context_encoding, bytes: &call.context };
        let answer = Answer { id: call.caller_id(), outcome, context };
        self.answer(call.caller, "", &answer, now, out);
    }
}

fn name_hash(hasher: &KeyedHash, name: &str) -> u64 {
    hasher.hash(NAME_SCOPE, name)
}

fn index_of(key: usize) -> u32 {
    u32::try_from(key).expect("PARKED_MAX is far below 2^32")
}
