//! Calls of others that this client is working on.

use crate::conns::ConnId;
use crate::slots::Slots;
use bro_proto::timer::TimerId;
use bro_proto::v1::{Encoding, Payload};

/// Names a request that was handed to the driver. Ids of answered or expired requests are recognised and ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId {
    /// Below the most requests that were ever in work at once: drivers may use it as an index.
    pub slot: u32,
    /// Counts the requests that used the slot.
    pub generation: u32,
}

/// What the answer to a call must repeat. Copied, so that no chunk of input is kept in memory by it.
#[derive(Debug)]
pub(crate) struct Echo {
    /// The caller's id, then the caller's name.
    text: Box<str>,
    id_bytes: usize,
    context: Option<(Encoding, Box<[u8]>)>,
}

impl Echo {
    pub(crate) fn new(id: &str, from: &str, context: Option<Payload<'_>>) -> Self {
        let mut text = String::with_capacity(id.len() + from.len());
        text.push_str(id);
        text.push_str(from);
        let context = context.map(|context| (context.encoding, context.bytes.into()));
        Self { text: text.into_boxed_str(), id_bytes: id.len(), context }
    }

    pub(crate) fn id(&self) -> &str {
        &self.text[..self.id_bytes]
    }

    pub(crate) fn from(&self) -> &str {
        &self.text[self.id_bytes..]
    }

    pub(crate) fn context(&self) -> Option<Payload<'_>> {
        self.context.as_ref().map(|(encoding, bytes)| Payload { encoding: *encoding, bytes })
    }
}

/// A request without an answer so far.
#[derive(Debug)]
pub(crate) struct InWork {
    /// Where it came from: the answer goes there and nowhere else.
    pub(crate) conn: ConnId,
    pub(crate) echo: Echo,
    /// Fires at the request's deadline. `None` only while the request is being taken in.
    pub(crate) timer: Option<TimerId>,
}

#[derive(Debug)]
pub(crate) struct RequestTable {
    slots: Slots<InWork>,
    len_max: usize,
}

impl RequestTable {
    pub(crate) fn new(len_max: usize) -> Self {
        Self { slots: Slots::new(0), len_max }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.slots.len() >= self.len_max
    }

    pub(crate) fn insert(&mut self, conn: ConnId, echo: Echo) -> RequestId {
        let (slot, generation) = self.slots.insert(InWork { conn, echo, timer: None });
        RequestId { slot, generation }
    }

    pub(crate) fn set_timer(&mut self, id: RequestId, timer: TimerId) {
        if let Some(in_work) = self.slots.get_mut(id.slot, id.generation) {
            in_work.timer = Some(timer);
        }
    }

    /// Ends a request: the only way out of the table, so it is answered at most once.
    pub(crate) fn remove(&mut self, id: RequestId) -> Option<InWork> {
        self.slots.remove(id.slot, id.generation)
    }

    /// The context of a request as it came.
    pub(crate) fn context(&self, id: RequestId) -> Option<Payload<'_>> {
        let (generation, in_work) = self.slots.at(id.slot)?;
        if generation == id.generation { in_work.echo.context() } else { None }
    }

    /// The requests that came on `conn`, or all.
    pub(crate) fn select(&self, conn: Option<ConnId>) -> Vec<RequestId> {
        let found = self.slots.select(|in_work| conn.is_none_or(|conn| in_work.conn == conn));
        found.into_iter().map(|(slot, generation)| RequestId { slot, generation }).collect()
    }
}
