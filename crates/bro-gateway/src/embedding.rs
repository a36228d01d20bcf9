//! What the program around a gateway brings along.

use crate::journal::EventSink;
use bro_router::EventMask;
use rustix::fd::OwnedFd;
use std::fmt;
use std::time::Duration;

/// What the program around a gateway brings along, for [`crate::Gateway::start_embedded`]. The default is nothing.
#[derive(Default)]
pub struct Embedding {
    /// Listen on this socket instead of making one: systemd's, for instance. It must be a Unix stream socket that has a path and that
    /// listens. Its file is not ours: it is neither made nor removed, and [`crate::GatewayConfig::socket_path`] and
    /// [`crate::GatewayConfig::mode`] do not count.
    pub listener: Option<OwnedFd>,
    /// Who is told what happens; see [`crate::Gateway::start_with_events`].
    pub events: Option<(EventMask, EventSink)>,
    /// Who wants to know that the gateway's thread goes round.
    pub pulse: Option<Pulse>,
    /// A service manager knows this process, and what it starts, by their control group, and takes everybody else for a stranger. So only processes of the
    /// same control group may take over: were it another, the manager would see its service end and start it anew, beside the one that took over.
    pub is_service: bool,
}

impl fmt::Debug for Embedding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Embedding { listener, events, pulse, is_service } = self;
        let mask = events.as_ref().map(|(mask, _)| mask);
        let mut fields = f.debug_struct("Embedding");
        fields.field("listener", listener).field("events", &mask).field("pulse", pulse);
        fields.field("is_service", is_service).finish()
    }
}

/// A sign of life that comes from the gateway's thread itself, between two wakeups: as long as it goes round, and not when it hangs.
pub struct Pulse {
    /// How far two beats are apart; the first comes at the start.
    pub every: Duration,
    /// Called on the gateway's thread. While it runs nothing is routed, so it should only pass the beat on.
    pub beat: Box<dyn FnMut(Vitals) + Send>,
}

impl fmt::Debug for Pulse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pulse").field("every", &self.every).finish_non_exhaustive()
    }
}

/// What a gateway has to do at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vitals {
    /// Registered services.
    pub services: usize,
    /// Connections, registered or not.
    pub peers: usize,
    /// Calls in flight.
    pub in_flight: usize,
    /// Whether it is about to stop.
    pub is_draining: bool,
}
