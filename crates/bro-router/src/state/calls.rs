//! Calls in flight.

use super::{Call, CalleeId, CallerId, Calls, Link, NewCall};
use crate::peers::NIL;
use crate::router::Router;
use crate::state::checks::{check_id, ensure, ensure_at_most};
use crate::state::router::{Shift, deadline_of, echoed};
use crate::state::{CallState, CallerIdState, CallsState, ImportError};
use crate::timers::{Timer, Timers};
use bro_proto::limits::{CALL_ID_BYTES_MAX, CONTEXT_ECHO_BYTES_MAX, METHOD_NAME_BYTES_MAX, SECTIONS_BYTES_MAX};
use bro_proto::timer::TimerId;
use bro_proto::v1::Encoding;
use bro_proto::v2::Section;

impl From<CallerId<'_>> for CallerIdState {
    fn from(id: CallerId<'_>) -> Self {
        match id {
            CallerId::Text(text) => CallerIdState::Text(text.to_owned()),
            CallerId::Number(number) => CallerIdState::Number(number),
        }
    }
}

impl<'a> From<&'a CallerIdState> for CallerId<'a> {
    fn from(id: &'a CallerIdState) -> Self {
        match id {
            CallerIdState::Text(text) => CallerId::Text(text),
            CallerIdState::Number(number) => CallerId::Number(*number),
        }
    }
}

impl Calls {
    pub(crate) fn export(&self, timers: &Timers) -> CallsState {
        let Calls {
            slots,
            free: _,
            len: _,
            first_generation,
            hasher: _, // that of the router
            by_callee_id: _,
            by_caller_number: _,
            stumps: _, // none, or it is not exported
            stumps_len,
            section_bytes: _,
            spare: _,
        } = self;
        debug_assert_eq!(*stumps_len, 0, "all that is about to end has ended before an export");
        CallsState {
            first_generation: *first_generation,
            generations: slots.iter().map(|call| call.generation).collect(),
            live: self.iter().map(|(slot, call)| call.export(slot, self.parent(slot), timers)).collect(),
        }
    }
}

impl Call {
    fn export(&self, slot: u32, parent: Option<u32>, timers: &Timers) -> CallState {
        let Call {
            is_live: _,
            is_stump: _,
            is_tabled,
            generation: _, // with those of the free slots
            ends: [caller, callee],
            links: _,
            parent: _, // may have ended
            parent_generation: _,
            child: _, // its children name it
            sibling: _,
            hash: _,
            caller_number: _, // the parts of the text are read by their methods
            root,
            timer,
            decided: _,
            started_us,
            timeout_ms,
            id_end: _,
            callee_id_end: _,
            method_end: _,
            context_encoding: _,
            context_end: _,
            text: _,
        } = self;
        let callee_id = || String::from_utf8(self.callee_id().to_vec()).expect("ids are texts");
        let context = self.context();
        CallState {
            slot,
            caller: *caller,
            callee: *callee,
            caller_id: self.caller_id().into(),
            callee_id: is_tabled.then(callee_id),
            method: self.method().to_owned(),
            context: context.bytes.to_vec(),
            context_encoding: context.encoding.into(),
            section: self.section().to_vec(),
            root: *root,
            parent,
            deadline_ms: deadline_of(timers, *timer),
            started_us: *started_us,
            timeout_ms: *timeout_ms,
        }
    }

    /// A place without a call.
    pub(super) fn free(generation: u32) -> Call {
        let unlinked = Link { prev: NIL, next: NIL };
        Call {
            is_live: false,
            is_stump: false,
            is_tabled: false,
            generation,
            ends: [NIL; 2],
            links: [unlinked; 2],
            parent: NIL,
            parent_generation: 0,
            child: NIL,
            sibling: unlinked,
            hash: 0,
            caller_number: 0,
            root: 0,
            timer: TimerId::NONE,
            decided: 0,
            started_us: 0,
            timeout_ms: 0,
            id_end: 0,
            callee_id_end: 0,
            method_end: 0,
            context_encoding: Encoding::Json,
            context_end: 0,
            text: Vec::new(),
        }
    }
}

impl Router {
    /// The peers are in their services.
    pub(crate) fn import_calls(&mut self, state: CallsState, shift: Shift) -> Result<(), ImportError> {
        let CallsState { first_generation, generations, live } = state;
        ensure_at_most(live.len(), self.config.in_flight_max, "in_flight_max")?;
        ensure_at_most(generations.len(), self.config.in_flight_max, "in_flight_max")?;
        ensure(first_generation != 0 && !generations.contains(&0), "a generation of calls is 0")?;
        self.calls = Calls::new(self.hasher.clone());
        self.calls.first_generation = first_generation;
        self.calls.slots = generations.into_iter().map(Call::free).collect();
        let mut next_slot = 0;
        for call in &live {
            let is_in_order = call.slot >= next_slot && (call.slot as usize) < self.calls.slots.len();
            ensure(is_in_order, "the calls are out of order")?;
            next_slot = call.slot + 1;
            self.import_call(call, shift)?;
        }
        for CallState { slot, parent, .. } in &live {
            if let Some(parent) = *parent {
                self.check_parent(*slot, parent)?;
                self.calls.adopt(parent, *slot);
            }
        }
        ensure(!self.calls.has_circle(), "calls are made for each other in a circle")?;
        self.calls.link_free();
        Ok(())
    }

    fn import_call(&mut self, state: &CallState, shift: Shift) -> Result<(), ImportError> {
        let CallState {
            slot,
            caller,
            callee,
            caller_id,
            callee_id,
            method,
            context,
            context_encoding,
            section,
            root,
            parent: _, // when all are there
            deadline_ms,
            started_us,
            timeout_ms,
        } = state;
        let (slot, caller, callee) = (*slot, *caller, *callee);
        ensure(self.is_registered(caller) && self.is_registered(callee), "a call is one of nobody, or to nobody")?;
        check_id(caller_id, self.peers[caller].v2.is_some())?;
        ensure(callee_id.is_some() == self.peers[callee].v2.is_none(), "a callee knows a call by what it cannot know")?;
        ensure((1..=METHOD_NAME_BYTES_MAX).contains(&method.len()), "a call has no method")?;
        let context = echoed(context, *context_encoding, CONTEXT_ECHO_BYTES_MAX)?;
        ensure(section.is_empty() || Section::parse(section).is_ok(), "a section is none")?;
        ensure_at_most(self.calls.section_bytes() + section.len(), SECTIONS_BYTES_MAX, "SECTIONS_BYTES_MAX")?;
        if let CallerIdState::Number(number) = caller_id {
            let is_taken = self.calls.find_caller_number(caller, *number).is_some();
            ensure(!is_taken, "two calls of a caller have one number")?;
        }
        let id = CallerId::from(caller_id);
        let callee_id = match callee_id {
            None => CalleeId::Number,
            Some(text) => {
                ensure((1..=CALL_ID_BYTES_MAX).contains(&text.len()), "a callee's id is none")?;
                let hash = Calls::hash(&self.hasher, callee, text);
                ensure(self.calls.find(hash, callee, text).is_none(), "a callee knows two calls by one id")?;
                if id.text() == **text { CalleeId::Shared(hash) } else { CalleeId::Own(hash, text) }
            }
        };
        let new = NewCall {
            caller,
            callee,
            id,
            callee_id,
            method,
            context,
            section,
            root: *root,
            parent: NIL,
            timer: self.timers.insert(shift.ms(*deadline_ms), Timer::Call(slot)),
            started_us: shift.us(*started_us),
            timeout_ms: *timeout_ms,
        };
        // The one place that counts as free: what is inserted takes it.
        self.calls.free = slot;
        self.calls.insert(&mut self.peers, new);
        Ok(())
    }

    /// What admission checks of a call that is made for another one.
    fn check_parent(&self, index: u32, parent: u32) -> Result<(), ImportError> {
        let place = self.calls.slots.get(parent as usize);
        let Some(parent) = place.filter(|call| call.is_live) else {
            return ensure(false, "a call is made for one that is not there");
        };
        let call = &self.calls[index];
        let is_its_callee = self.peers[parent.callee()].service == self.peers[call.caller()].service;
        ensure(
            is_its_callee && call.deadline_ms() <= parent.deadline_ms(),
            "a call is not as it would be made for its parent",
        )
    }
}

impl Calls {
    /// Whether one is its own ancestor. Each is looked at once.
    fn has_circle(&self) -> bool {
        let mut walk_of = vec![NIL; self.slots.len()];
        for start in 0..u32::try_from(self.slots.len()).expect("in_flight_max fits") {
            let mut index = start;
            while index != NIL && walk_of[index as usize] == NIL {
                walk_of[index as usize] = start;
                index = self[index].parent;
                if index != NIL && walk_of[index as usize] == start {
                    return true;
                }
            }
        }
        false
    }

    fn link_free(&mut self) {
        self.free = NIL;
        for (index, call) in self.slots.iter_mut().enumerate().rev().filter(|(_, call)| !call.is_live) {
            call.links[0].next = self.free;
            self.free = u32::try_from(index).expect("in_flight_max fits");
        }
    }
}

const _: () = assert!(CALL_ID_BYTES_MAX * 2 + METHOD_NAME_BYTES_MAX + CONTEXT_ECHO_BYTES_MAX <= u16::MAX as usize);
