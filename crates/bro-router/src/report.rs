//! Who is told of what happens: the driver, by its mask, and the event log, while somebody watches.

use crate::event::{Event, EventMask};
use crate::event_log::EventLog;
use crate::outbox::Outbox;
use bro_proto::Now;

#[derive(Debug, Default)]
pub(crate) struct Reporter {
    pub(crate) mask: EventMask,
    pub(crate) log: EventLog,
    /// The log has grown since the parked watchers were last answered.
    pub(crate) is_log_fresh: bool,
}

impl Reporter {
    /// Whether anybody wants events of this kind. Texts for an event are prepared only then.
    #[inline]
    pub(crate) fn wants(&self, kind: EventMask) -> bool {
        self.mask.has(kind) || self.log.is_recording()
    }

    pub(crate) fn report(&mut self, event: Event<'_>, now: Now, out: &mut impl Outbox) {
        if self.log.is_recording() {
            self.log.push(&event, now.wall_ms);
            self.is_log_fresh = true;
        }
        if self.mask.has(event.kind()) {
            out.event(event);
        }
    }
}
