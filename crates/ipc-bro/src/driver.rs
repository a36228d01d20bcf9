//! The task that owns a client's session and its sockets.
//!
//! One round of [`Task::poll`]: take what handles and handlers ask, read the sockets, let time pass, do what the
//! session says ([`crate::outputs`]), write. Each step takes a bounded amount, so that none starves another; rounds
//! repeat until nothing is left to do.

use crate::builder::ClientBuilder;
use crate::call::{Chain, Reply, Slot};
use crate::client::{Shared, WeakClient};
use crate::context::{Context, wall_ms};
use crate::error::{Error, FailedBy, HandlerError};
use crate::event::ClientEvent;
use crate::payload::RawPayload;
use crate::sockets::{Input, Sockets};
use crate::table::Table;
use bro_proto::v1::encode::Outcome;
use bro_proto::{ErrorBody, ErrorCode, Now};
use bro_session::{CallId, CallRequest, RequestId, Session, SessionConfig};
use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{self, Poll, ready};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Sleep;

pub(crate) type CallKey = CallId;

/// Commands of one kind that one round takes.
const COMMANDS_PER_ROUND: usize = 256;
/// Rounds after which the task lets others run.
const ROUNDS_MAX: usize = 32;

/// A call that a handle makes.
pub(crate) struct CallCommand {
    pub(crate) service: String,
    pub(crate) method: String,
    pub(crate) params: RawPayload,
    pub(crate) chain: Chain,
    /// The context of the handler that makes the call, when `chain` says to inherit it.
    pub(crate) inherited: Option<Context>,
    pub(crate) timeout: Option<Duration>,
    /// Zero: it does not wait.
    pub(crate) wait_for_service: Duration,
    pub(crate) begun: Instant,
    /// Nobody answers it: it ends when it is queued.
    pub(crate) is_notification: bool,
    pub(crate) reply: Reply<CallKey>,
}

/// Everything else that handles and handlers tell the task.
pub(crate) enum Control {
    Connect(oneshot::Sender<Result<(), Error>>),
    Disconnect(oneshot::Sender<()>),
    /// Told how many requests are still in work at the end.
    Drain(oneshot::Sender<usize>),
    MethodsChanged,
    Cancel(Arc<Slot<CallKey>>),
    Respond {
        id: RequestId,
        answer: Result<RawPayload, HandlerError>,
    },
    LastHandleDropped,
}

/// A client's connection task before it is spawned.
pub(crate) struct Driver {
    session: Session,
    clock: Clock,
    sockets: Sockets,
    timeout: Duration,
    keeps_cancelled: bool,
    calls: mpsc::Receiver<CallCommand>,
    control: mpsc::UnboundedReceiver<Control>,
}

impl Driver {
    pub(crate) fn new(
        builder: &ClientBuilder,
        calls: mpsc::Receiver<CallCommand>,
        control: mpsc::UnboundedReceiver<Control>,
    ) -> Result<Self, Error> {
        let clock = Clock::start();
        let mut config = SessionConfig::new(&*builder.service_name);
        config.version.clone_from(&builder.version);
        config.metadata.clone_from(&builder.metadata);
        config.encoding = builder.serializer;
        config.speaks_v2 = builder.speaks_v2;
        config.takes_lanes = builder.speaks_v2 && builder.takes_lanes;
        config.pool_size = builder.pool_size;
        config.auto_reconnect = builder.auto_reconnect;
        config.reconnect_delay_ms = whole_ms(builder.reconnect_delay);
        config.timeout_ms = whole_ms(builder.timeout);
        config.heartbeat_interval_ms = whole_ms(builder.heartbeat_interval);
        config.wait_for_gateway_ms = whole_ms(builder.wait_for_gateway);
        let seed = RandomState::new().hash_one(std::process::id());
        let session =
            Session::new(config, seed, clock.now()).map_err(|body| Error::from_body(body, FailedBy::Local))?;
        let mut sockets = Sockets::new(builder.gateway_path.clone());
        sockets.lanes.spin = builder.lane_spin;
        let (timeout, keeps_cancelled) = (builder.timeout, builder.keeps_cancelled);
        Ok(Self { session, clock, sockets, timeout, keeps_cancelled, calls, control })
    }

    /// Starts the task in the present tokio runtime.
    pub(crate) fn spawn(self, client: WeakClient) {
        let mut task = Task {
            session: self.session,
            clock: self.clock,
            sockets: self.sockets,
            timeout: self.timeout,
            keeps_cancelled: self.keeps_cancelled,
            calls: self.calls,
            control: self.control,
            shared: Arc::clone(&client.shared),
            client,
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
            sleeping_until_ms: None,
            call_batch: Vec::new(),
            control_batch: Vec::new(),
            pending: Table::new(),
            working: Table::new(),
            advertised: BTreeSet::new(),
            connecting: Vec::new(),
            disconnecting: Vec::new(),
            draining: Vec::new(),
            running: Arc::default(),
            is_ending: false,
        };
        task.sync_methods(task.clock.now());
        tokio::spawn(async move { std::future::poll_fn(|cx| task.poll(cx)).await });
    }
}

/// The running task.
pub(crate) struct Task {
    pub(crate) session: Session,
    clock: Clock,
    pub(crate) sockets: Sockets,
    timeout: Duration,
    /// Handlers of calls that were given up run on.
    pub(crate) keeps_cancelled: bool,
    calls: mpsc::Receiver<CallCommand>,
    control: mpsc::UnboundedReceiver<Control>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) client: WeakClient,
    sleep: Pin<Box<Sleep>>,
    /// When `sleep` ends, on the session's clock; `None` when it has ended.
    sleeping_until_ms: Option<u64>,
    call_batch: Vec<CallCommand>,
    control_batch: Vec<Control>,
    /// Calls that wait for their answer.
    pending: Table<CallId, Pending>,
    /// Requests that handlers work on.
    pub(crate) working: Table<RequestId, Working>,
    /// The methods that the session knows of.
    advertised: BTreeSet<Arc<str>>,
    /// Handles that wait in `connect`.
    pub(crate) connecting: Vec<oneshot::Sender<Result<(), Error>>>,
    /// Handles that wait in `disconnect`.
    disconnecting: Vec<oneshot::Sender<()>>,
    /// Handles that wait in `drain`.
    pub(crate) draining: Vec<oneshot::Sender<usize>>,
    /// Handlers that run, whether or not their requests are still in work.
    pub(crate) running: Arc<AtomicUsize>,
    is_ending: bool,
}

pub(crate) struct Pending {
    pub(crate) service: String,
    pub(crate) reply: Reply<CallKey>,
}

pub(crate) struct Working {
    pub(crate) context: Context,
    pub(crate) handler: AbortHandle,
}

impl Task {
    fn poll(&mut self, cx: &mut task::Context<'_>) -> Poll<()> {
        for _ in 0..ROUNDS_MAX {
            let now = self.clock.now();
            let mut is_busy = self.take_control(cx, now);
            is_busy |= self.take_calls(cx, now);
            is_busy |= self.read(cx, now);
            if self.session.wakeup_ms().is_some_and(|wakeup_ms| wakeup_ms <= now.mono_ms()) {
                self.session.handle_time(now);
                is_busy = true;
            }
            self.publish_waiting();
            is_busy |= self.take_outputs(now);
            is_busy |= self.write(cx);
            self.shared.state.lanes.store(self.sockets.lanes.len(), Ordering::Release);
            if self.sockets.poll_last_bytes(cx).is_ready() {
                for waiting in self.disconnecting.drain(..) {
                    // Nobody may be waiting any more.
                    let _ = waiting.send(());
                }
                if self.is_ending {
                    return Poll::Ready(());
                }
            }
            if !is_busy && self.poll_sleep(cx, now).is_pending() {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn take_control(&mut self, cx: &mut task::Context<'_>, now: Now) -> bool {
        let mut batch = std::mem::take(&mut self.control_batch);
        let polled = self.control.poll_recv_many(cx, &mut batch, COMMANDS_PER_ROUND);
        let is_busy = !batch.is_empty();
        for control in batch.drain(..) {
            match control {
                Control::Connect(reply) if self.is_ending => {
                    let error = Error::local(ErrorCode::ConnectionFailed, "the last handle of this client was dropped");
                    // Nobody may be waiting any more.
                    let _ = reply.send(Err(error));
                }
                Control::Connect(reply) => {
                    // Those who gave up waiting do not pile up.
                    self.connecting.retain(|waiting| !waiting.is_closed());
                    self.log("connecting", || None);
                    // How an earlier attempt ended is for those who asked for that one.
                    self.take_outputs(now);
                    self.connecting.push(reply);
                    self.session.connect(now);
                }
                Control::Disconnect(reply) => {
                    self.disconnecting.retain(|waiting| !waiting.is_closed());
                    self.disconnecting.push(reply);
                    self.session.disconnect(now);
                }
                Control::Drain(reply) => {
                    self.draining.retain(|waiting| !waiting.is_closed());
                    // How an earlier drain ended is for those who asked for that one.
                    self.take_outputs(now);
                    self.draining.push(reply);
                    self.session.drain(now);
                }
                Control::MethodsChanged => self.sync_methods(now),
                Control::Cancel(slot) => {
                    if let Some(&id) = slot.key.get()
                        && self.take_pending(id).is_some()
                    {
                        self.session.cancel(id, now);
                    }
                }
                Control::Respond { id, answer } => self.respond(id, answer, now),
                Control::LastHandleDropped => {
                    self.is_ending = true;
                    self.session.disconnect(now);
                }
            }
        }
        self.control_batch = batch;
        is_busy && polled.is_ready()
    }

    fn take_calls(&mut self, cx: &mut task::Context<'_>, now: Now) -> bool {
        let mut batch = std::mem::take(&mut self.call_batch);
        let polled = self.calls.poll_recv_many(cx, &mut batch, COMMANDS_PER_ROUND);
        let is_busy = !batch.is_empty();
        for call in batch.drain(..) {
            self.begin_call(call, now);
        }
        self.call_batch = batch;
        self.publish_pending();
        is_busy && polled.is_ready()
    }

    fn begin_call(&mut self, call: CallCommand, now: Now) {
        if call.reply.0.is_closed() {
            return;
        }
        // The time that the command waited counts.
        let waited = call.begun.elapsed();
        let timeout_ms = whole_ms(call.timeout.unwrap_or(self.timeout)).saturating_sub(whole_ms_down(waited)).max(1);
        // One that may wait does so at least for a look.
        let wait_ms = match whole_ms(call.wait_for_service) {
            0 => 0,
            wait_ms => wait_ms.saturating_sub(whole_ms_down(waited)).max(1),
        };
        let refuse = |reply: Reply<CallKey>, body| reply.send(Err(Error::from_body(body, FailedBy::Local)));
        let inherited = call.inherited.as_ref();
        if inherited.is_some_and(Context::is_given_up) {
            let body = ErrorBody::new(ErrorCode::Cancelled, "the call that this one is made for was given up");
            return refuse(call.reply, body);
        }
        let made_for = inherited.and_then(|context| context.request_of(&self.shared));
        let (parent, context) = match &call.chain {
            // Of a request in work the session knows it.
            Chain::Inherit if made_for.is_some_and(|id| self.session.is_in_work(id)) => (None, None),
            Chain::Inherit => (inherited.map(Context::call), None),
            Chain::Continue(parent) => match parent.validate() {
                Ok(()) => (Some(parent), None),
                Err(body) => return refuse(call.reply, body),
            },
            Chain::Exact(context) => (None, Some(context)),
            Chain::New => (None, None),
        };
        let request = CallRequest {
            to: &call.service,
            method: &call.method,
            params: call.params.as_proto(),
            request: made_for,
            parent,
            context,
            timeout_ms: Some(timeout_ms),
            wait_ms: Some(wait_ms),
        };
        if self.shared.debug {
            self.log("calling", || Some(serde_json::json!({ "service": call.service, "method": call.method })));
        }
        if call.is_notification {
            return match self.session.notify(request, now) {
                Ok(()) => call.reply.send(Ok(RawPayload::absent())),
                Err(body) => refuse(call.reply, body),
            };
        }
        match self.session.call(request, now) {
            Ok(id) => {
                // Unset so far: a slot belongs to one call.
                let _ = call.reply.0.key.set(id);
                self.pending.insert(id.slot, id, Pending { service: call.service, reply: call.reply });
            }
            Err(body) => refuse(call.reply, body),
        }
    }

    pub(crate) fn take_pending(&mut self, id: CallId) -> Option<Pending> {
        let pending = self.pending.take(id.slot, id)?;
        self.publish_pending();
        Some(pending)
    }

    /// Before an answer is handed over: its caller finds itself no longer counted.
    fn publish_pending(&self) {
        self.shared.state.pending.store(self.pending.len(), Ordering::Release);
        self.publish_waiting();
    }

    fn publish_waiting(&self) {
        self.shared.state.waiting.store(self.session.waiting_calls(), Ordering::Release);
    }

    /// Sends a handler's answer, unless its request has expired.
    fn respond(&mut self, id: RequestId, answer: Result<RawPayload, HandlerError>, now: Now) {
        let Some(working) = self.working.take(id.slot, id) else { return };
        let error = match answer {
            Ok(result) => {
                self.session.respond(id, Outcome::Success(result.as_proto()), now);
                None
            }
            Err(error) => {
                let body = error.into_body();
                self.session.respond(id, Outcome::Error(&body), now);
                Some(body.message)
            }
        };
        if self.shared.debug {
            self.log("answered", || {
                Some(serde_json::json!({ "method": working.context.method(), "id": working.context.request_id() }))
            });
        }
        self.shared.events.record(|| ClientEvent::MethodExecuted {
            method: working.context.method().to_owned(),
            request_id: working.context.request_id().to_owned(),
            success: error.is_none(),
            error,
        });
    }

    /// Tells the session which methods there are now.
    pub(crate) fn sync_methods(&mut self, now: Now) {
        self.shared.state.methods_changed.store(false, Ordering::Release);
        let names: BTreeSet<Arc<str>> = self.shared.methods.names().into_iter().collect();
        for name in self.advertised.difference(&names) {
            self.session.unregister_method(name, now);
        }
        for name in names.difference(&self.advertised) {
            if let Err(body) = self.session.register_method(name, now) {
                self.shared.events.record(|| ClientEvent::Error(Error::from_body(body, FailedBy::Local)));
            }
        }
        self.advertised = names;
    }

    fn read(&mut self, cx: &mut task::Context<'_>, now: Now) -> bool {
        let mut is_busy = false;
        for index in 0..self.sockets.places() {
            let Poll::Ready((conn, input)) = self.sockets.poll_input(index, cx) else { continue };
            is_busy = true;
            match input {
                Input::Connected => self.session.handle_connected(conn, now),
                Input::ConnectFailed(message) => self.session.handle_connect_failed(conn, &message, now),
                Input::Chunk(chunk) => {
                    // A call may come for a method that was registered after this round had begun.
                    if self.shared.state.methods_changed.load(Ordering::Acquire) {
                        self.sync_methods(now);
                    }
                    self.session.handle_bytes(conn, &chunk, now);
                }
                Input::Closed(reason) => self.session.handle_closed(conn, &reason, now),
            }
        }
        let mut at = 0;
        while at < self.sockets.lanes.len() {
            match self.sockets.lanes.poll_input(at, cx) {
                Poll::Ready((conn, Input::Closed(reason))) => {
                    self.session.handle_closed(conn, &reason, now);
                    is_busy = true;
                    continue; // another lane has its place
                }
                Poll::Ready((conn, Input::Chunk(chunk))) => {
                    if self.shared.state.methods_changed.load(Ordering::Acquire) {
                        self.sync_methods(now);
                    }
                    self.session.handle_bytes(conn, &chunk, now);
                    is_busy = true;
                }
                Poll::Ready((_, Input::Connected | Input::ConnectFailed(_))) | Poll::Pending => {}
            }
            at += 1;
        }
        is_busy
    }

    fn write(&mut self, cx: &mut task::Context<'_>) -> bool {
        // Also makes the session queue what it puts off until now. Which connections it names is of no interest: the
        // few there are get all looked at below.
        while self.session.poll_outbound().is_some() {}
        let mut is_busy = false;
        for index in 0..self.sockets.places() {
            let Some(conn) = self.sockets.open_at(index) else { continue };
            let Some(outbound) = self.session.outbound(conn) else { continue };
            if outbound.is_empty() {
                continue;
            }
            if let Poll::Ready(written) = self.sockets.poll_write(index, outbound.chunk(), cx) {
                outbound.advance(written);
                is_busy = true;
            }
        }
        for conn in self.sockets.lanes.conns().collect::<Vec<_>>() {
            let Some(outbound) = self.session.outbound(conn) else { continue };
            while !outbound.is_empty() {
                let written = self.sockets.lanes.write(conn, outbound.chunk());
                if written == 0 {
                    break;
                }
                outbound.advance(written);
                is_busy = true;
            }
        }
        is_busy
    }

    /// Ready when the session's next moment has come.
    fn poll_sleep(&mut self, cx: &mut task::Context<'_>, now: Now) -> Poll<()> {
        let Some(wakeup_ms) = self.session.wakeup_ms() else { return Poll::Pending };
        if wakeup_ms <= now.mono_ms() {
            return Poll::Ready(());
        }
        // A sleep that ends too early costs one round; moving it for every call would cost more.
        if self.sleeping_until_ms.is_none_or(|until_ms| wakeup_ms < until_ms) {
            self.sleep.as_mut().reset(self.clock.instant(wakeup_ms).into());
            self.sleeping_until_ms = Some(wakeup_ms);
        }
        ready!(self.sleep.as_mut().poll(cx));
        self.sleeping_until_ms = None;
        Poll::Ready(())
    }

    /// One line of the client's own log, for listeners and, with `debug`, for `tracing`.
    pub(crate) fn log(&self, message: &str, more: impl Fn() -> Option<serde_json::Value>) {
        if self.shared.debug {
            let more = more().map(|more| more.to_string()).unwrap_or_default();
            tracing::debug!(target: "ipc_bro", service = self.shared.service_name, more, "{message}");
        }
        self.shared.events.record(|| ClientEvent::Log {
            service_name: self.shared.service_name.clone(),
            message: message.to_owned(),
            data: more(),
            timestamp_ms: wall_ms(),
        });
    }
}

impl Drop for Task {
    /// The last handle is gone, or the runtime stops: whoever still waits is told by the drop of what he waits for.
    fn drop(&mut self) {
        // First, so that nobody who is told begins another call.
        self.shared.state.connected.store(false, Ordering::Release);
        self.shared.state.registered.store(false, Ordering::Release);
        self.calls.close();
        for working in self.working.drain() {
            working.handler.abort();
        }
        let unanswered = self.pending.drain();
        self.publish_pending();
        drop(unanswered);
        self.shared.events.end();
        // Handlers may hold clients; here ends what that would keep alive.
        self.shared.methods.clear();
    }
}

/// Time as the session wants it.
struct Clock {
    start: Instant,
}

impl Clock {
    fn start() -> Self {
        Self { start: Instant::now() }
    }

    fn now(&self) -> Now {
        let mono_us = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        Now { mono_us, wall_ms: wall_ms() }
    }

    fn instant(&self, mono_ms: u64) -> Instant {
        self.start + Duration::from_millis(mono_ms)
    }
}

/// Whole milliseconds, rounded up: what is not zero stays so.
fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

fn whole_ms_down(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
