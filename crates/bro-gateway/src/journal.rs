//! What is logged, and what is handed to the embedding program.

use crate::event::{GatewayEvent, mask_of};
use bro_proto::limits;
use bro_proto::name::printable;
use bro_router::{Event, EventMask};
use tracing::Level;

/// Takes the events of a wakeup, in order, on the gateway's thread.
pub(crate) type EventSink = Box<dyn FnMut(Vec<GatewayEvent>) + Send>;

/// Events of the current wakeup, and the log.
pub(crate) struct Journal {
    sink: Option<EventSink>,
    /// What the embedding program listens to.
    wanted: EventMask,
    /// What is logged.
    logged: EventMask,
    debug: bool,
    batch: Vec<GatewayEvent>,
    warnings: Allowance,
    now_us: u64,
}

impl Journal {
    pub(crate) fn new(sink: Option<EventSink>, wanted: EventMask, debug: bool) -> Self {
        let mut journal = Self {
            sink,
            wanted: EventMask::NONE,
            logged: EventMask::NONE,
            debug,
            batch: Vec::new(),
            warnings: Allowance::default(),
            now_us: 0,
        };
        journal.set_wanted(wanted);
        journal
    }

    /// The embedding program listens to something else. What is logged is decided anew, too.
    pub(crate) fn set_wanted(&mut self, wanted: EventMask) {
        self.wanted = if self.sink.is_some() { wanted } else { EventMask::NONE };
        self.logged = EventMask::WARNINGS;
        if tracing::enabled!(Level::INFO) {
            self.logged = self.logged.with(EventMask::SERVICES);
        }
        if self.debug || tracing::enabled!(Level::DEBUG) {
            self.logged = EventMask::ALL;
        }
    }

    /// What the router has to report.
    pub(crate) fn mask(&self) -> EventMask {
        self.wanted.with(self.logged)
    }

    pub(crate) fn set_now(&mut self, now_us: u64) {
        self.now_us = now_us;
    }

    /// Something happened in the router.
    pub(crate) fn record(&mut self, event: &Event<'_>) {
        let mask = mask_of(event);
        if self.logged.has(mask) {
            self.log(event);
        }
        if self.wanted.has(mask) {
            self.batch.push(GatewayEvent::from(event));
        }
    }

    /// Something happened to the gateway itself. Who listens at all hears of it, whatever the mask.
    pub(crate) fn record_own(&mut self, event: GatewayEvent) {
        if let GatewayEvent::SocketError { message } = &event
            && let Some(left_out) = self.warnings.take(self.now_us)
        {
            tracing::warn!(left_out, "{message}");
        }
        if self.sink.is_some() {
            self.batch.push(event);
        }
    }

    /// Hands over what happened since the last time.
    pub(crate) fn deliver(&mut self) {
        if let Some(sink) = &mut self.sink
            && !self.batch.is_empty()
        {
            sink(std::mem::take(&mut self.batch));
        }
    }

    /// The sink has panicked: it is not called again.
    pub(crate) fn drop_sink(&mut self) {
        self.sink = None;
        self.batch.clear();
    }

    fn log(&mut self, event: &Event<'_>) {
        match event {
            Event::Warning { peer, service, message } => {
                if let Some(left_out) = self.warnings.take(self.now_us) {
                    // Peers have a say in it: what they called, what they named.
                    let message = printable(message);
                    let peer = peer.map(|peer| peer.slot);
                    match left_out {
                        0 => tracing::warn!(service, peer, "{message}"),
                        _ => tracing::warn!(service, peer, left_out, "{message}"),
                    }
                }
            }
            Event::ServiceRegistered { service, methods, version, .. } => {
                tracing::info!(service, methods = methods.len(), version, "service registered");
            }
            Event::ServiceDisconnected { service, reason } => {
                tracing::info!(service, reason = reason.as_str(), "service disconnected");
            }
            Event::Connection { peer, pid } => tracing::debug!(peer = peer.slot, pid, "connection accepted"),
            Event::Closed { peer, service, reason } => {
                tracing::debug!(peer = peer.slot, service, reason = reason.as_str(), "connection closed");
            }
            Event::CallRouted { from, to, method, request_id, context_json } => {
                tracing::debug!(from, to, method, request_id, context = context_json, "call");
            }
            Event::ResponseRouted { from, to, method, status, request_id, gateway_code, elapsed_us } => {
                let code = gateway_code.as_ref().map(|code| code.as_str());
                tracing::debug!(from, to, method, ?status, request_id, code, elapsed_us, "response");
            }
        }
    }
}

/// Lets a burst through, then one a second: a flood of warnings helps nobody, and fills disks.
#[derive(Debug, Default)]
struct Allowance {
    /// Taken of the burst. Invariant: at most [`limits::WARNINGS_LOGGED_MAX`].
    taken: u64,
    /// Up to when `taken` has been given back, one a second.
    since_us: u64,
    left_out: u64,
}

impl Allowance {
    /// How many were left out before this one, or `None` when this one is left out as well.
    fn take(&mut self, now_us: u64) -> Option<u64> {
        let seconds = now_us.saturating_sub(self.since_us) / 1_000_000;
        self.taken = self.taken.saturating_sub(seconds);
        self.since_us += seconds * 1_000_000;
        if self.taken >= limits::WARNINGS_LOGGED_MAX {
            self.left_out += 1;
            return None;
        }
        self.taken += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_warnings_is_cut_to_one_a_second_and_counted() {
        let mut allowance = Allowance::default();
        let logged = (0..1000).filter(|_| allowance.take(5_000_000).is_some()).count();
        assert_eq!(logged as u64, limits::WARNINGS_LOGGED_MAX);
        assert_eq!(allowance.take(5_999_999), None);
        assert_eq!(allowance.take(6_000_000), Some(1001 - limits::WARNINGS_LOGGED_MAX));
        assert_eq!(allowance.take(6_000_000), None);
        assert_eq!(allowance.take(60_000_000), Some(1));
    }

    #[test]
    fn only_what_is_wanted_is_handed_over() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let sink: EventSink = Box::new(move |batch| sender.send(batch).unwrap());
        let mut journal = Journal::new(Some(sink), EventMask::SERVICES, false);
        journal.deliver();
        journal.record(&Event::Warning { peer: None, service: None, message: "no" });
        journal.record(&Event::ServiceRegistered { service: "a", methods: &[], version: None, metadata_json: "{}" });
        journal.record_own(GatewayEvent::Stopped);
        journal.deliver();
        let batch = receiver.recv().unwrap();
        assert!(
            matches!(&batch[..], [GatewayEvent::ServiceRegistered { service, .. }, GatewayEvent::Stopped] if service == "a")
        );
        assert!(receiver.try_recv().is_err(), "an empty batch is not handed over");
    }
}
