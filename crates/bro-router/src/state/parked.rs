//! Introspection calls that wait.

use super::{Parked, ParkedCall, Wait, name_hash};
use crate::calls::CallerId;
use crate::peers::NIL;
use crate::router::Router;
use crate::state::checks::{check_id, ensure, ensure_at_most};
use crate::state::router::{Shift, deadline_of, echoed};
use crate::state::{CallerIdState, ImportError, ParkedState, WaitState};
use crate::timers::{Timer, Timers};
use bro_proto::limits::{CONTEXT_BYTES_MAX, EVENTS_PER_POLL_MAX, PARKED_MAX, PARKED_PER_PEER_MAX};
use bro_proto::name::check_service_name;

impl Parked {
    pub(crate) fn export(&self, timers: &Timers) -> Vec<ParkedState> {
        let Parked { calls: _, by_service: _, watchers: _ } = self;
        self.iter().map(|(_, call)| call.export(timers)).collect()
    }
}

impl ParkedCall {
    fn export(&self, timers: &Timers) -> ParkedState {
        let ParkedCall {
            caller,
            prev: _,
            next: _,
            timer,
            timeout_ms,
            id: _,
            number: _,
            context,
            context_encoding,
            wait,
        } = self;
        ParkedState {
            caller: *caller,
            id: self.caller_id().into(),
            deadline_ms: deadline_of(timers, *timer),
            timeout_ms: *timeout_ms,
            context: context.to_vec(),
            context_encoding: (*context_encoding).into(),
            wait: match wait {
                Wait::Service { name, hash: _, is_brief } => {
                    WaitState::Service { name: name.to_string(), is_brief: *is_brief }
                }
                Wait::Policy { wish: _ } => WaitState::Policy,
                Wait::Events { cursor, max, place: _ } => WaitState::Events { cursor: *cursor, max: *max as u64 },
            },
        }
    }
}

impl Router {
    /// All else is there.
    pub(crate) fn import_parked(&mut self, state: Vec<ParkedState>, shift: Shift) -> Result<(), ImportError> {
        ensure_at_most(state.len(), PARKED_MAX, "PARKED_MAX")?;
        for call in state {
            self.import_parked_call(call, shift)?;
        }
        Ok(())
    }

    fn import_parked_call(&mut self, state: ParkedState, shift: Shift) -> Result<(), ImportError> {
        let ParkedState { caller, id, deadline_ms, timeout_ms, context, context_encoding, wait } = state;
        ensure(self.is_registered(caller), "who waits is nobody")?;
        check_id(&id, self.peers[caller].v2.is_some())?;
        if let CallerIdState::Number(number) = id {
            let is_taken =
                self.calls.find_caller_number(caller, number).is_some() || self.find_parked(caller, number).is_some();
            ensure(!is_taken, "two calls of a caller have one number")?;
        }
        ensure_at_most(self.peers[caller].parked.len as usize + 1, PARKED_PER_PEER_MAX, "PARKED_PER_PEER_MAX")?;
        echoed(&context, context_encoding, CONTEXT_BYTES_MAX)?;
        let wait = match wait {
            WaitState::Service { name, is_brief } => {
                let is_missing = self.registry.find(&self.hasher, &name).is_none();
                ensure(is_missing && check_service_name(&name).is_ok(), "somebody waits for what is there")?;
                Wait::Service { hash: name_hash(&self.hasher, &name), name: name.into(), is_brief }
            }
            // Whatever policy the importing driver has: it reads it once more.
            WaitState::Policy => Wait::Policy { wish: self.permissions.make_wish() },
            WaitState::Events { cursor, max } => {
                ensure(self.reporter.log.is_recording(), "somebody watches, and nothing is recorded")?;
                let max = usize::try_from(max).unwrap_or(usize::MAX).min(EVENTS_PER_POLL_MAX);
                Wait::Events { cursor, max, place: 0 }
            }
        };
        let place = u32::try_from(self.parked.calls.vacant_key()).expect("PARKED_MAX is far below 2^32");
        let id = CallerId::from(&id);
        let call = ParkedCall {
            caller,
            prev: NIL,
            next: NIL,
            timer: self.timers.insert(shift.ms(deadline_ms), Timer::Parked(place)),
            timeout_ms,
            id: if let CallerId::Text(id) = id { id.into() } else { "".into() },
            number: if let CallerId::Number(number) = id { number } else { 0 },
            context: context.into(),
            context_encoding: context_encoding.into(),
            wait,
        };
        self.parked.insert(&mut self.peers, call);
        Ok(())
    }
}
