//! Commands and inputs in, outputs out.

use crate::calls::{CallId, CallTable};
use crate::config::SessionConfig;
use crate::connect::Attempt;
use crate::conns::{ConnId, Pool};
use crate::event::{Counters, Origin, Output, OwnedPayload, SessionEvent, SessionStatus};
use crate::methods::Methods;
use crate::outbound::{AppendError, Outbound};
use crate::requests::{RequestId, RequestTable};
use bro_proto::context::{CallContext, deadline_ms};
use bro_proto::error::{ErrorBody, ErrorCode};
use bro_proto::frame::Cut;
use bro_proto::id::write_id;
use bro_proto::limits::{CHAIN_LEN_MAX, DEPTH_MAX, WRITE_STALL_TIMEOUT_MS};
use bro_proto::name::{check_method_name, check_service_name};
use bro_proto::rng::Rng;
use bro_proto::time::Now;
use bro_proto::timer::TimerWheel;
use bro_proto::v1::encode::{CallFields, ContextSource, Outcome, encode_call};
use bro_proto::v1::{Payload, ScanError, check_nesting};
use bytes::Bytes;
use std::collections::VecDeque;

/// One client of the gateway: its registration, its pool of connections, its calls in both directions.
///
/// # How a driver uses it
/// After every batch of inputs (commands, `handle_*`), in this order:
/// 1. [`Session::poll_output`] until it is `None`, doing what each output says, in order;
/// 2. [`Session::poll_outbound`] until it is `None`: each connection it names got new bytes. Write
///    [`Session::outbound`]`(conn).chunk()` and call `advance` until it is empty or the socket takes no more; in the latter
///    case go on when the socket is writable again, without being told once more;
/// 3. sleep until [`Session::wakeup_ms`], a socket or a command; when that moment has passed, call
///    [`Session::handle_time`].
///
/// Inputs may be batched: nothing is lost when several come before the next poll. Only before [`Session::connect`] the outputs
/// must have been polled: events do not say which `connect` they answer, their order does. Ids of connections, calls and requests
/// that are gone are recognised and ignored, so a driver needs no care about what crosses on the way.
///
/// # What holds
/// - Every call for which [`Session::call`] returned `Ok` ends exactly once: by one
///   [`SessionEvent::CallDone`], or by a [`Session::cancel`] that returned true.
/// - Every [`SessionEvent::Request`] ends exactly once: by a [`Session::respond`] that returned true, or by one
///   [`SessionEvent::RequestExpired`]. At most one RESPONSE goes out for it.
/// - Every `connect` ends with [`SessionEvent::Registered`], [`SessionEvent::AlreadyConnected`] or
///   [`SessionEvent::ConnectFailed`]; calls of `connect` that overlap end together.
/// - On one connection, at most `queue_bytes_max + frame_bytes_max +`
///   [`CLIENT_QUEUE_ERRORS_BYTES_MAX`](bro_proto::limits::CLIENT_QUEUE_ERRORS_BYTES_MAX) bytes wait to be written.
#[derive(Debug)]
pub struct Session {
    pub(crate) config: SessionConfig,
    pub(crate) rng: Rng,
    pub(crate) timers: TimerWheel<Timer>,
    pub(crate) pool: Pool,
    pub(crate) calls: CallTable,
    pub(crate) requests: RequestTable,
    pub(crate) methods: Methods,
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) counters: Counters,
    /// A `connect` that waits for its result.
    pub(crate) attempt: Option<Attempt>,
    /// `connect` has succeeded, and neither `disconnect` nor a loss without reconnecting came since.
    pub(crate) established: bool,
    /// `Connected` was told and `Disconnected` was not. Invariant: then a connection is registered.
    pub(crate) announced: bool,
    /// The methods may have changed since some connection was registered.
    pub(crate) updates_due: bool,
    pub(crate) heartbeat: Option<bro_proto::timer::TimerId>,
    /// The latest moment that an input named.
    pub(crate) now: Now,
    /// Scratch space for the context of the call being made.
    context: CallContext,
    /// Scratch space for its id.
    id_text: String,
}

/// What a timer is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Timer {
    Call(CallId),
    Request(RequestId),
    /// The end of what a connection is in the middle of: see `Conn::timer`.
    Conn(ConnId),
    Stall(ConnId),
    Heartbeat,
}

/// A call to be made.
#[derive(Clone, Copy, Debug)]
pub struct CallRequest<'a> {
    /// The service to call.
    pub to: &'a str,
    /// The method to call.
    pub method: &'a str,
    /// The parameters; empty bytes leave them out.
    pub params: Payload<'a>,
    /// The context of the request that this call is made for. It is extended by `to`, and its deadline holds.
    pub parent: Option<&'a CallContext>,
    /// A context to be sent as it is, instead of an extended or a new one.
    pub context: Option<&'a CallContext>,
    /// Time the call may take, in milliseconds, if not the configured one.
    pub timeout_ms: Option<u64>,
}

impl<'a> CallRequest<'a> {
    /// A call that begins a chain and may take the configured time.
    pub fn new(to: &'a str, method: &'a str, params: Payload<'a>) -> Self {
        Self { to, method, params, parent: None, context: None, timeout_ms: None }
    }
}

/// Commands.
impl Session {
    /// A session that is not connected. Equal seeds and inputs give equal outputs.
    pub fn new(config: SessionConfig, seed: u64, now: Now) -> Result<Session, ErrorBody> {
        config.check()?;
        config.check_metadata()?;
        let mut methods = Methods::default();
        for name in &config.methods {
            methods.add(name)?;
        }
        let mut rng = Rng::new(seed);
        Ok(Session {
            timers: TimerWheel::new(now.mono_ms()),
            pool: Pool::new(config.pool_size),
            calls: CallTable::new(config.pool_size, &mut rng),
            requests: RequestTable::new(config.requests_max),
            methods,
            outputs: VecDeque::new(),
            counters: Counters::default(),
            attempt: None,
            established: false,
            announced: false,
            updates_due: false,
            heartbeat: None,
            now,
            context: CallContext { root: String::new(), chain: Vec::new(), depth: 0, deadline_ms: 0 },
            id_text: String::new(),
            rng,
            config,
        })
    }

    /// Adds a method that others may call. When registered already, the gateway is told with the next poll.
    pub fn register_method(&mut self, name: &str, now: Now) -> Result<(), ErrorBody> {
        self.now = now;
        self.updates_due |= self.methods.add(name)?;
        Ok(())
    }

    /// Takes a method away. False when it was not there. Requests in work go on.
    pub fn unregister_method(&mut self, name: &str, now: Now) -> bool {
        self.now = now;
        let removed = self.methods.remove(name);
        self.updates_due |= removed;
        removed
    }

    /// Makes a call. After an error nothing was sent, and no event follows.
    pub fn call(&mut self, call: CallRequest<'_>, now: Now) -> Result<CallId, ErrorBody> {
        self.now = now;
        check_call_names(&call)?;
        if !self.announced {
            return Err(ErrorBody::new(ErrorCode::NotConnected, "not connected to the gateway"));
        }
        let timeout_ms = self.prepare_context(&call, now)?;
        if self.calls.is_full() {
            let why = format!("{} calls wait for their answer already", self.calls.len_max());
            return Err(ErrorBody::new(ErrorCode::ResourceExhausted, why));
        }
        let Session { config, pool, calls, context, id_text, .. } = self;
        if call.params.encoding == config.encoding && call.params.bytes.len() > config.frame_bytes_max {
            return Err(too_large(call.params.bytes.len(), config.frame_bytes_max));
        }
        check_nesting(call.params).map_err(unsendable)?;
        let Some(conn_id) = pool.pick(config.queue_bytes_max) else {
            let why = format!("{} bytes wait for the gateway to read them", config.queue_bytes_max);
            return Err(ErrorBody::new(ErrorCode::Overloaded, why));
        };
        let (id, key) = calls.insert(conn_id, timeout_ms, now.wall_ms);
        id_text.clear();
        key.write(id_text);
        let fields = CallFields {
            id: id_text,
            from: &config.service_name,
            to: call.to,
            method: call.method,
            params: call.params,
            context: ContextSource::Owned(call.context.unwrap_or(context)),
        };
        let outbound = &mut pool.at(conn_id.index as usize).outbound;
        if let Err(error) = outbound.append(config.frame_bytes_max, |out| encode_call(out, config.encoding, &fields)) {
            calls.remove(id);
            return Err(append_error(error, config.frame_bytes_max));
        }
        let timer = self.timers.insert(later_ms(now, timeout_ms), Timer::Call(id));
        self.calls.set_timer(id, timer);
        self.queued(conn_id, now);
        self.counters.calls += 1;
        Ok(id)
    }

    /// Gives a call up: no event will come for it. False when it has ended already; then its event is on the way.
    pub fn cancel(&mut self, id: CallId) -> bool {
        let Some((_, pending)) = self.calls.remove(id) else { return false };
        if let Some(timer) = pending.timer {
            self.timers.remove(timer);
        }
        true
    }

    /// Answers a request. False when it needs no answer any more: answered before, expired, or its connection is lost.
    ///
    /// A result that cannot be sent (too large, not transcodable) is answered with that error instead, and
    /// [`SessionEvent::Error`] tells.
    pub fn respond(&mut self, id: RequestId, outcome: Outcome<'_>, now: Now) -> bool {
        self.now = now;
        let Some(in_work) = self.requests.remove(id) else { return false };
        if let Some(timer) = in_work.timer {
            self.timers.remove(timer);
        }
        self.answer(in_work.conn, &in_work.echo, outcome, now);
        true
    }
}

/// Inputs of the driver. Those about the connections themselves are in `connect`.
impl Session {
    /// Bytes came on a connection.
    pub fn handle_bytes(&mut self, conn: ConnId, chunk: &Bytes, now: Now) {
        self.now = now;
        let Some(open) = self.pool.open(conn) else { return };
        // Taken out so that frames can borrow it while the rest of the session handles them.
        let mut deframer = std::mem::take(&mut open.deframer);
        let mut frames = deframer.start(chunk, self.config.frame_bytes_max);
        loop {
            match frames.next_cut() {
                Ok(Some(Cut::Whole(frame))) => self.handle_frame(conn, chunk, frame, now),
                Ok(Some(Cut::Assembled(frame))) => {
                    // Values that are kept share the memory of their frame, as those of a whole one share that of the chunk.
                    let frame = Bytes::from(frame);
                    self.handle_frame(conn, &frame, &frame, now);
                }
                Ok(None) => break,
                Err(error) => {
                    let error = ErrorBody::new(ErrorCode::PayloadTooLarge, format!("from the gateway: {error}"));
                    return self.lose_broken(conn, error, now);
                }
            }
            if self.pool.open(conn).is_none() {
                return;
            }
        }
        drop(frames);
        if let Some(open) = self.pool.open(conn) {
            open.deframer = deframer;
        }
    }

    /// Time has passed: does everything that is due.
    pub fn handle_time(&mut self, now: Now) {
        self.now = now;
        while let Some(timer) = self.timers.expire(now.mono_ms()) {
            match timer {
                Timer::Call(id) => self.expire_call(id),
                Timer::Request(id) => self.expire_request(id, now),
                Timer::Conn(id) => self.expire_conn(id, now),
                Timer::Stall(id) => self.check_stall(id, now),
                Timer::Heartbeat => self.send_heartbeats(now),
            }
        }
    }
}

/// Outputs and getters.
impl Session {
    /// What the driver has to do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// A connection that got bytes to write since it was last named here.
    pub fn poll_outbound(&mut self) -> Option<ConnId> {
        self.send_updates();
        self.pool.take_fresh()
    }

    /// The bytes to write on a connection; `None` when it is gone.
    pub fn outbound(&mut self, conn: ConnId) -> Option<&mut Outbound> {
        self.pool.open(conn).map(|conn| &mut conn.outbound)
    }

    /// When [`Session::handle_time`] is due, in milliseconds of the monotonic clock; it may be early, never late.
    pub fn wakeup_ms(&self) -> Option<u64> {
        self.timers.wakeup_ms()
    }

    /// Whether calls can be made.
    pub fn is_connected(&self) -> bool {
        self.announced
    }

    /// What this client is.
    pub fn config(&self) -> &SessionConfig {
        &self.config
    }

    /// The methods that others may call, in the order of registration.
    pub fn methods(&self) -> &[Box<str>] {
        self.methods.names()
    }

    /// The context of a request in work as its caller encoded it; `None` when it came without one, or is not in work.
    /// What [`crate::Request::context`] holds, for drivers whose users read JSON themselves.
    pub fn request_context(&self, id: RequestId) -> Option<Payload<'_>> {
        self.requests.context(id)
    }

    /// The present state.
    pub fn status(&self) -> SessionStatus {
        SessionStatus {
            connected: self.announced,
            connections_registered: self.pool.registered,
            pending_calls: self.calls.len(),
            requests_in_work: self.requests.len(),
            methods: self.methods.names().len(),
            outbound_bytes: self.pool.iter().map(|conn| conn.outbound.len()).sum(),
        }
    }

    /// Totals since the session began.
    pub fn counters(&self) -> Counters {
        self.counters
    }
}

impl Session {
    pub(crate) fn tell(&mut self, event: SessionEvent) {
        self.outputs.push_back(Output::Event(event));
    }

    /// Bytes were queued: the driver must write them, and the gateway must take them.
    pub(crate) fn queued(&mut self, id: ConnId, now: Now) {
        self.pool.mark_fresh(id);
        let conn = self.pool.at(id.index as usize);
        if conn.stall.is_none() {
            let timer = self.timers.insert(later_ms(now, WRITE_STALL_TIMEOUT_MS), Timer::Stall(id));
            conn.stall = Some((timer, conn.outbound.taken()));
        }
    }

    /// Ends a call and tells so. Does nothing when it has ended already.
    pub(crate) fn end_call(&mut self, id: CallId, outcome: Result<OwnedPayload, ErrorBody>, origin: Origin) {
        let Some((request_id, pending)) = self.calls.remove(id) else { return };
        if let Some(timer) = pending.timer {
            self.timers.remove(timer);
        }
        self.tell(SessionEvent::CallDone { id, request_id, outcome, origin });
    }

    fn expire_call(&mut self, id: CallId) {
        let Some((request_id, pending)) = self.calls.remove(id) else { return };
        let error = ErrorBody::new(ErrorCode::Timeout, format!("no answer within {} ms", pending.timeout_ms));
        self.tell(SessionEvent::CallDone { id, request_id, outcome: Err(error), origin: Origin::Local });
    }

    /// Fills the scratch context unless the call brings its own, and gives the time that the call may take. Reuses the memory
    /// of the scratch context: this runs for every call.
    fn prepare_context(&mut self, call: &CallRequest<'_>, now: Now) -> Result<u64, ErrorBody> {
        let timeout_ms = self.config.call_timeout_ms(call.timeout_ms);
        if let Some(given) = call.context {
            given.validate()?;
            check_reach(given.depth, given.deadline_ms, now)?;
            return Ok(timeout_ms.min(given.remaining_ms(now)));
        }
        let context = &mut self.context;
        context.root.clear();
        let mut chain = std::mem::take(&mut context.chain);
        let mut len = 0;
        let mut add = |name: &str| {
            match chain.get_mut(len) {
                Some(entry) => {
                    entry.clear();
                    entry.push_str(name);
                }
                None => chain.push(name.to_owned()),
            }
            len += 1;
        };
        context.deadline_ms = deadline_ms(timeout_ms, now);
        match call.parent {
            Some(parent) => {
                check_reach(parent.depth.saturating_add(1), parent.deadline_ms, now)?;
                if parent.chain.len() >= CHAIN_LEN_MAX {
                    return Err(too_deep(parent.depth));
                }
                context.root.push_str(&parent.root);
                parent.chain.iter().for_each(|name| add(name));
                context.depth = parent.depth + 1;
                context.deadline_ms = context.deadline_ms.min(parent.deadline_ms);
            }
            None => {
                write_id(&mut context.root, "root", now.wall_ms, self.rng.below(36_u64.pow(6)));
                add(&self.config.service_name);
                context.depth = 2;
            }
        }
        add(call.to);
        chain.truncate(len);
        context.chain = chain;
        Ok(timeout_ms.min(context.remaining_ms(now)))
    }
}

/// The moment `after_ms` from now on the clock of the timers, rounded up so that nothing fires early.
pub(crate) fn later_ms(now: Now, after_ms: u64) -> u64 {
    now.mono_us.div_ceil(1000).saturating_add(after_ms)
}

pub(crate) fn append_error(error: AppendError, body_bytes_max: usize) -> ErrorBody {
    match error {
        AppendError::TooLarge { body_bytes } => too_large(body_bytes, body_bytes_max),
        AppendError::Transcode(error) => ErrorBody::new(ErrorCode::SerializationFailed, error.to_string()),
    }
}

fn too_large(bytes: usize, limit: usize) -> ErrorBody {
    ErrorBody::new(ErrorCode::PayloadTooLarge, format!("the message has {bytes} bytes, at most {limit} are accepted"))
}

/// The error for a value that the gateway would close the connection for.
pub(crate) fn unsendable(error: ScanError) -> ErrorBody {
    ErrorBody::new(ErrorCode::SerializationFailed, format!("the value cannot be sent: {error}"))
}

fn too_deep(depth: u32) -> ErrorBody {
    ErrorBody::new(
        ErrorCode::MaxDepthExceeded,
        format!("the call chain is {depth} deep, at most {DEPTH_MAX} are accepted"),
    )
}

/// Whether a call at this depth and with this deadline makes sense.
pub(crate) fn check_reach(depth: u32, deadline_ms: u64, now: Now) -> Result<(), ErrorBody> {
    if now.wall_ms > deadline_ms {
        let why = format!("the deadline passed {} ms ago", now.wall_ms - deadline_ms);
        return Err(ErrorBody::new(ErrorCode::DeadlineExceeded, why));
    }
    if depth > DEPTH_MAX { Err(too_deep(depth)) } else { Ok(()) }
}

fn check_call_names(call: &CallRequest<'_>) -> Result<(), ErrorBody> {
    let refuse = |what: &str, error| ErrorBody::new(ErrorCode::InvalidArgument, format!("{what}: {error}"));
    check_service_name(call.to).map_err(|error| refuse("service name", error))?;
    check_method_name(call.method).map_err(|error| refuse("method name", error))
}
