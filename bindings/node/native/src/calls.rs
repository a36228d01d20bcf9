//! Which promise of JavaScript waits for which call of the session.

use bro_proto::error::ErrorBody;
use bro_session::CallId;
use std::collections::VecDeque;

/// JavaScript's name for a call: the place of its promise, and how often the place was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Promise {
    pub(crate) slot: i32,
    pub(crate) generation: i32,
}

/// A call that was not accepted, or a notification: they end without an event of the session.
pub(crate) struct Settled {
    pub(crate) promise: Promise,
    pub(crate) outcome: Result<(), ErrorBody>,
}

#[derive(Default)]
pub(crate) struct Calls {
    /// By the session's slot.
    promises: Vec<(u32, Promise)>,
    /// By JavaScript's slot.
    ids: Vec<(i32, CallId)>,
    settled: VecDeque<Settled>,
}

impl Calls {
    pub(crate) fn insert(&mut self, promise: Promise, id: CallId) {
        let slot = id.slot as usize;
        if slot >= self.promises.len() {
            self.promises.resize(slot + 1, (0, Promise::default()));
        }
        self.promises[slot] = (id.generation, promise);
        let Ok(slot) = usize::try_from(promise.slot) else { return };
        if slot >= self.ids.len() {
            self.ids.resize(slot + 1, (0, CallId { slot: 0, generation: 0 }));
        }
        self.ids[slot] = (promise.generation, id);
    }

    /// The promise of a call that has ended.
    pub(crate) fn promise(&self, id: CallId) -> Option<Promise> {
        let (generation, promise) = self.promises.get(id.slot as usize)?;
        (*generation == id.generation).then_some(*promise)
    }

    /// The call that a promise waits for.
    pub(crate) fn id(&self, promise: Promise) -> Option<CallId> {
        let (generation, id) = self.ids.get(usize::try_from(promise.slot).ok()?)?;
        (*generation == promise.generation).then_some(*id)
    }

    /// Remembers to tell JavaScript that a call was not accepted, or what became of a notification.
    pub(crate) fn settle(&mut self, promise: Promise, outcome: Result<(), ErrorBody>) {
        self.settled.push_back(Settled { promise, outcome });
    }

    pub(crate) fn take_settled(&mut self) -> Option<Settled> {
        self.settled.pop_front()
    }
}
