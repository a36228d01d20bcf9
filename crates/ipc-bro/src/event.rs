//! What happens to a client, for those who listen.

use crate::error::Error;
use bro_proto::ErrorCode;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Most events that are kept for a listener that does not read them.
pub const EVENTS_LEN_MAX: usize = 1024;

/// Something that happened to a client. [`ClientEvent::name`] is the readme's name for it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ClientEvent {
    /// The gateway is reached; sent again after every reconnect.
    Connected,
    /// The gateway acknowledged the registration.
    Registered,
    /// The connection is gone. The client returns by itself unless `auto_reconnect` is off or `disconnect` was called.
    Disconnected {
        /// Why, for people.
        reason: String,
    },
    /// A method of this client was executed for another service.
    MethodExecuted {
        /// The method.
        method: String,
        /// The call's id, as the caller or the gateway gave it.
        request_id: String,
        /// Whether the handler returned a result.
        success: bool,
        /// The handler's message otherwise.
        error: Option<String>,
    },
    /// A call of this client ended.
    ResponseReceived {
        /// The call's id.
        request_id: String,
        /// Whether a result came.
        success: bool,
        /// The message otherwise.
        error: Option<String>,
    },
    /// The gateway is about to stop, and answers new calls `SHUTTING_DOWN`.
    GatewayDraining,
    /// Something went wrong that no call of this client could report.
    Error(Error),
    /// The gateway reported an error: by an ERROR frame, or as the answer to a call that it could not deliver.
    GatewayError {
        /// For people.
        message: String,
        /// For programs.
        code: ErrorCode,
        /// The gateway's stack, if it sent one.
        stack: Option<String>,
    },
    /// A line of the client's own log.
    Log {
        /// This client's service.
        service_name: String,
        /// The line.
        message: String,
        /// More about it.
        data: Option<serde_json::Value>,
        /// Milliseconds since 1970.
        timestamp_ms: u64,
    },
    /// This listener read too slowly: the oldest events are lost.
    Lagged {
        /// How many.
        missed: u64,
    },
}

impl ClientEvent {
    /// The name of the event in the readme; `gateway-draining` and `lagged` are ours.
    pub fn name(&self) -> &'static str {
        match self {
            ClientEvent::Connected => "connected",
            ClientEvent::Registered => "registered",
            ClientEvent::Disconnected { .. } => "disconnected",
            ClientEvent::MethodExecuted { .. } => "method-executed",
            ClientEvent::ResponseReceived { .. } => "response-received",
            ClientEvent::GatewayDraining => "gateway-draining",
            ClientEvent::Error(_) => "error",
            ClientEvent::GatewayError { .. } => "gateway-error",
            ClientEvent::Log { .. } => "log",
            ClientEvent::Lagged { .. } => "lagged",
        }
    }
}

/// The events of one client from the moment of [`crate::Client::events`] on: a [`futures_core::Stream`], or read it
/// by [`EventStream::recv`].
///
/// Holds the client's last [`EVENTS_LEN_MAX`] events at most: a listener that falls further behind gets
/// [`ClientEvent::Lagged`] and goes on with the oldest event that is left. It does not keep the client alive, and
/// ends when the client is gone.
#[derive(Debug)]
pub struct EventStream {
    log: Arc<EventLog>,
    /// Number of the next event to read.
    next: u64,
    /// Where this listener's waker is kept.
    slot: usize,
}

impl EventStream {
    /// The next event; `None` when the client is gone. Dropping the future loses nothing.
    pub async fn recv(&mut self) -> Option<ClientEvent> {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    /// The next event, if there is one already.
    pub fn try_recv(&mut self) -> Option<ClientEvent> {
        self.take(&mut self.log.clone().lock())
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<ClientEvent>> {
        let log = Arc::clone(&self.log);
        let mut recent = log.lock();
        if let Some(event) = self.take(&mut recent) {
            return Poll::Ready(Some(event));
        }
        if recent.ended {
            return Poll::Ready(None);
        }
        match &mut recent.wakers[self.slot] {
            Some(waker) => waker.clone_from(cx.waker()),
            empty => *empty = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    fn take(&mut self, recent: &mut Recent) -> Option<ClientEvent> {
        let first = recent.end - recent.events.len() as u64;
        if self.next < first {
            let missed = first - self.next;
            self.next = first;
            return Some(ClientEvent::Lagged { missed });
        }
        let at = usize::try_from(self.next - first).ok()?;
        let event = recent.events.get(at)?.clone();
        self.next += 1;
        Some(event)
    }
}

impl futures_core::Stream for EventStream {
    type Item = ClientEvent;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ClientEvent>> {
        self.get_mut().poll_event(cx)
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        let mut recent = self.log.lock();
        recent.wakers.remove(self.slot);
        if recent.wakers.is_empty() {
            recent.events = VecDeque::new();
        }
        self.log.listeners.store(recent.wakers.len(), Ordering::Relaxed);
    }
}

/// The last events, recorded only while somebody listens.
#[derive(Debug, Default)]
pub(crate) struct EventLog {
    /// Equals the number of wakers; read without the lock.
    listeners: AtomicUsize,
    recent: Mutex<Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    events: VecDeque<ClientEvent>,
    /// Number of the event after the last one; `events` holds the ones right before it.
    end: u64,
    /// One entry a listener; `None` while it is not waiting.
    wakers: slab::Slab<Option<Waker>>,
    ended: bool,
}

impl EventLog {
    pub(crate) fn is_heard(&self) -> bool {
        self.listeners.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn listen(self: &Arc<Self>) -> EventStream {
        let mut recent = self.lock();
        let slot = recent.wakers.insert(None);
        self.listeners.store(recent.wakers.len(), Ordering::Relaxed);
        EventStream { log: Arc::clone(self), next: recent.end, slot }
    }

    /// Records an event if somebody listens: `event` is not built otherwise.
    pub(crate) fn record(&self, event: impl FnOnce() -> ClientEvent) {
        if !self.is_heard() {
            return;
        }
        let event = event();
        let mut recent = self.lock();
        if recent.wakers.is_empty() {
            return;
        }
        if recent.events.len() == EVENTS_LEN_MAX {
            recent.events.pop_front();
        }
        recent.events.push_back(event);
        recent.end += 1;
        recent.wake_all();
    }

    pub(crate) fn end(&self) {
        let mut recent = self.lock();
        recent.ended = true;
        recent.wake_all();
    }

    fn lock(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recent {
    fn wake_all(&mut self) {
        for (_, waker) in &mut self.wakers {
            if let Some(waker) = waker.take() {
                waker.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missed(event: Option<ClientEvent>) -> Option<u64> {
        match event {
            Some(ClientEvent::Lagged { missed }) => Some(missed),
            _ => None,
        }
    }

    fn number(event: Option<ClientEvent>) -> Option<usize> {
        match event {
            Some(ClientEvent::Disconnected { reason }) => reason.parse().ok(),
            _ => None,
        }
    }

    #[test]
    fn a_slow_listener_learns_how_much_it_missed() {
        let log = Arc::new(EventLog::default());
        log.record(|| panic!("nobody listens"));
        let mut slow = log.listen();
        let mut quick = log.listen();
        for n in 0..EVENTS_LEN_MAX + 7 {
            log.record(|| ClientEvent::Disconnected { reason: n.to_string() });
            assert_eq!(number(quick.try_recv()), Some(n));
        }
        assert_eq!(missed(slow.try_recv()), Some(7));
        for n in 7..EVENTS_LEN_MAX + 7 {
            assert_eq!(number(slow.try_recv()), Some(n));
        }
        assert!(slow.try_recv().is_none());
    }

    #[test]
    fn nothing_is_kept_when_the_last_listener_has_gone() {
        let log = Arc::new(EventLog::default());
        let listener = log.listen();
        log.record(|| ClientEvent::Connected);
        drop(listener);
        assert!(!log.is_heard());
        assert_eq!(log.lock().events.capacity(), 0);
        let mut later = log.listen();
        assert!(later.try_recv().is_none());
        log.record(|| ClientEvent::Registered);
        assert_eq!(later.try_recv().map(|event| event.name()), Some("registered"));
    }
}
