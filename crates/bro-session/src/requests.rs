//! Calls of others that this client is working on.

use crate::calls::CallId;
use crate::conns::ConnId;
use crate::context::RequestContext;
use crate::slots::Slots;
use bro_proto::timer::TimerId;
use bro_proto::v1::{Encoding, Payload};
use bro_proto::v2::{CallNumber, CancelReason};
use std::fmt;
use std::sync::Arc;

/// Names a request that was handed to the driver. Ids of answered or expired requests are recognised and ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId {
    /// Below the most requests that were ever in work at once: drivers may use it as an index.
    pub slot: u32,
    /// Counts the requests that used the slot.
    pub generation: u32,
}

/// The caller's id of a request; `Display` writes what people see.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RequestKey {
    /// Of version 1: any text.
    V1(Arc<str>),
    /// Of version 2: the caller's number, or the gateway's where the caller has none. That of a notification is 0.
    V2(CallNumber),
}

impl fmt::Display for RequestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestKey::V1(id) => f.write_str(id),
            RequestKey::V2(number) => number.write(f),
        }
    }
}

/// What an answer of version 1 repeats. The context is copied, so that no chunk of input is kept in memory by it.
#[derive(Debug)]
pub(crate) struct TextEcho {
    pub(crate) id: Arc<str>,
    pub(crate) context: Option<(Encoding, Box<[u8]>)>,
}

/// What the answer to a request needs.
#[derive(Debug)]
pub(crate) enum Echo {
    /// Version 1.
    V1(Box<TextEcho>),
    /// Version 2: the gateway's number of the call. Invariant: while the request is in work, its connection knows the number.
    V2 { number: u64 },
    /// Nobody waits for an answer.
    Nobody,
}

impl Echo {
    /// The context as it came, of a request of version 1 that had one.
    pub(crate) fn context(&self) -> Option<Payload<'_>> {
        match self {
            Echo::V1(text) => {
                let (encoding, bytes) = text.context.as_ref()?;
                Some(Payload { encoding: *encoding, bytes })
            }
            _ => None,
        }
    }
}

/// A request without an answer so far. Moved in and out of its table: what is rare stands behind a pointer.
#[derive(Debug)]
pub(crate) struct InWork {
    /// Where it came from: the answer goes there and nowhere else.
    pub(crate) conn: ConnId,
    /// The caller.
    pub(crate) from: Arc<str>,
    pub(crate) echo: Echo,
    pub(crate) context: RequestContext,
    /// Its deadline, on the clock of the timers.
    pub(crate) due_ms: u64,
    /// Calls made for it whose end nobody else sees to when it is given up: those that are on a lane, or belong to a request that is, or
    /// wait for their service. Some may have ended.
    pub(crate) children: Vec<CallId>,
    /// Fires at the deadline. `None` only while the request is being taken in.
    pub(crate) timer: Option<TimerId>,
}

#[derive(Debug)]
pub(crate) struct RequestTable {
    slots: Slots<InWork>,
    len_max: usize,
    /// By slot: the last request there that its caller gave up.
    given_up: Vec<Option<(u32, CancelReason)>>,
    trims_seen: u32,
}

impl RequestTable {
    pub(crate) fn new(len_max: usize) -> Self {
        Self { slots: Slots::new(1), len_max, given_up: Vec::new(), trims_seen: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.slots.len() >= self.len_max
    }

    pub(crate) fn insert(&mut self, in_work: InWork) -> RequestId {
        let (slot, generation) = self.slots.insert(in_work);
        RequestId { slot, generation }
    }

    pub(crate) fn set_timer(&mut self, id: RequestId, timer: TimerId) {
        if let Some(in_work) = self.slots.get_mut(id.slot, id.generation) {
            in_work.timer = Some(timer);
        }
    }

    pub(crate) fn get(&self, id: RequestId) -> Option<&InWork> {
        self.slots.get(id.slot, id.generation)
    }

    pub(crate) fn get_mut(&mut self, id: RequestId) -> Option<&mut InWork> {
        self.slots.get_mut(id.slot, id.generation)
    }

    /// Ends a request: the only way out of the table, so it is answered at most once.
    pub(crate) fn remove(&mut self, id: RequestId) -> Option<InWork> {
        let in_work = self.slots.remove(id.slot, id.generation);
        if self.slots.trims() != self.trims_seen {
            self.trims_seen = self.slots.trims();
            self.given_up = Vec::new();
        }
        in_work
    }

    /// Remembers that a request was given up by its caller, as long as its slot has no other such request.
    pub(crate) fn note_given_up(&mut self, id: RequestId, reason: CancelReason) {
        let slot = id.slot as usize;
        if self.given_up.len() <= slot {
            self.given_up.resize(slot + 1, None);
        }
        self.given_up[slot] = Some((id.generation, reason));
    }

    /// Why a request was given up by its caller, if it is known to have been.
    pub(crate) fn given_up(&self, id: RequestId) -> Option<CancelReason> {
        let (generation, reason) = (*self.given_up.get(id.slot as usize)?)?;
        (generation == id.generation).then_some(reason)
    }

    /// The requests that came on `conn`, or all.
    pub(crate) fn select(&self, conn: Option<ConnId>) -> Vec<RequestId> {
        let found = self.slots.select(|in_work| conn.is_none_or(|conn| in_work.conn == conn));
        found.into_iter().map(|(slot, generation)| RequestId { slot, generation }).collect()
    }
}
