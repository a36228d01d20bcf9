//! Commands and inputs in, outputs out.

use crate::calls::{CallId, CallTable, Pending, Role};
use crate::config::SessionConfig;
use crate::connect::Attempt;
use crate::conns::{ConnId, ConnState, Pool};
use crate::drain::Drain;
use crate::event::{Counters, Origin, Output, OwnedPayload, SessionEvent, SessionStatus};
use crate::methods::Methods;
use crate::outbound::{AppendError, Outbound};
use crate::requests::{RequestId, RequestTable};
use crate::waits::{AwaitedId, Waits};
use bro_proto::context::CallContext;
use bro_proto::error::{ErrorBody, ErrorCode};
use bro_proto::frame::Cut;
use bro_proto::limits::{CLIENT_QUEUE_ERRORS_BYTES_MAX, DEPTH_MAX, WRITE_STALL_TIMEOUT_MS};
use bro_proto::rng::Rng;
use bro_proto::time::Now;
use bro_proto::timer::TimerWheel;
use bro_proto::v1::{Payload, ScanError};
use bro_proto::v2::CancelReason;
use bytes::Bytes;
use std::collections::VecDeque;

/// One client of the gateway: its registration, its pool of connections, its calls in both directions.
///
/// Each connection speaks version 2 of the protocol where its gateway does ([`SessionConfig::speaks_v2`]), and version 1 otherwise;
/// drivers notice little of it.
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
///   [`SessionEvent::RequestExpired`]. At most one answer goes out for it.
/// - Every [`Session::drain`] ends with one [`SessionEvent::Drained`]; those that overlap end together.
/// - Every `connect` ends with [`SessionEvent::Registered`], [`SessionEvent::AlreadyConnected`] or
///   [`SessionEvent::ConnectFailed`]; calls of `connect` that overlap end together.
/// - On one connection, at most `queue_bytes_max + frame_bytes_max +`
///   [`CLIENT_QUEUE_ERRORS_BYTES_MAX`] bytes wait to be written.
#[derive(Debug)]
pub struct Session {
    pub(crate) config: SessionConfig,
    pub(crate) rng: Rng,
    pub(crate) timers: TimerWheel<Timer>,
    pub(crate) pool: Pool,
    pub(crate) calls: CallTable,
    pub(crate) waits: Waits,
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
    pub(crate) drain: Drain,
    /// The latest moment that an input named.
    pub(crate) now: Now,
    /// Scratch space for the context of the call of version 1 being made.
    pub(crate) context: CallContext,
    /// Scratch space for its id.
    pub(crate) id_text: String,
    /// The service and the method of the last call whose names were looked at, and are such.
    pub(crate) names_checked: (String, String),
    /// Scratch space for the context section of the call of version 2 being made.
    pub(crate) section: Vec<u8>,
    /// Counts the chains that begin on lanes.
    pub(crate) roots: u64,
}

/// What a timer is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Timer {
    Call(CallId),
    /// A call has waited long enough for its service.
    Wait(CallId),
    /// It is time to ask again for a service.
    Ask(AwaitedId),
    Request(RequestId),
    /// The end of what a connection is in the middle of: see `Conn::timer`.
    Conn(ConnId),
    Stall(ConnId),
    Heartbeat,
    /// The end of a drain that is waited for.
    Drain,
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
            waits: Waits::default(),
            requests: RequestTable::new(config.requests_max),
            methods,
            outputs: VecDeque::new(),
            counters: Counters::default(),
            attempt: None,
            established: false,
            announced: false,
            updates_due: false,
            heartbeat: None,
            drain: Drain::default(),
            now,
            context: CallContext { root: String::new(), chain: Vec::new(), depth: 0, deadline_ms: 0 },
            id_text: String::new(),
            names_checked: (String::new(), String::new()),
            section: Vec::new(),
            roots: rng.next_u64(),
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
}

/// Inputs of the driver. Those about the connections themselves are in `connect`.
impl Session {
    /// Bytes came on a connection.
    pub fn handle_bytes(&mut self, conn: ConnId, chunk: &Bytes, now: Now) {
        self.now = now;
        let Some(open) = self.pool.open(conn) else { return };
        open.silent_pings = 0;
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
                Ok(Some(Cut::Oversize(oversize))) => self.handle_oversize(conn, &oversize, now),
                Ok(None) => break,
                Err(error) => return self.lose_stream(conn, error, now),
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
                Timer::Call(id) => self.expire_call(id, now),
                Timer::Wait(id) => self.expire_wait(id),
                Timer::Ask(service) => self.ask(service, now),
                Timer::Request(id) => self.expire_request(id, now),
                Timer::Conn(id) => self.expire_conn(id, now),
                Timer::Stall(id) => self.check_stall(id, now),
                Timer::Heartbeat => self.send_heartbeats(now),
                Timer::Drain => self.expire_drain(),
            }
        }
    }
}

/// Outputs and getters.
impl Session {
    /// What the driver has to do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        if self.outputs.is_empty() {
            self.finish_lanes();
        }
        self.outputs.pop_front().or_else(|| self.poll_drained())
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

    /// Whether calls that may wait can be made: when there is a connection, or one is on the way.
    pub fn can_wait(&self) -> bool {
        self.announced || self.is_connecting()
    }

    /// Calls that wait for their service to appear.
    pub fn waiting_calls(&self) -> usize {
        self.waits.len()
    }

    /// Whether calls can be made.
    pub fn is_connected(&self) -> bool {
        self.announced
    }

    /// Whether calls to a service can be made: also while the gateway is away, when there is a lane to it.
    pub fn can_call(&self, service: &str) -> bool {
        self.announced || self.pool.lane_to(service, self.config.queue_bytes_max).is_some()
    }

    /// Whether something goes on that a program may wait for: a call, a request, a connection to the gateway or the wait for one. Lanes
    /// alone are nothing of the kind.
    pub fn is_active(&self) -> bool {
        let has_work = self.calls.len() > 0 || self.requests.len() > 0;
        has_work || self.pool.iter().any(|conn| conn.state != ConnState::Idle)
    }

    /// What this client is.
    pub fn config(&self) -> &SessionConfig {
        &self.config
    }

    /// The methods that others may call, in the order of registration.
    pub fn methods(&self) -> &[Box<str>] {
        self.methods.names()
    }

    /// The context of a request in work as its caller encoded it; `None` when it came without one or in version 2, or is not in
    /// work. What [`crate::Request::context`] holds, for drivers whose users read JSON themselves.
    pub fn request_context(&self, id: RequestId) -> Option<Payload<'_>> {
        self.requests.get(id)?.echo.context()
    }

    /// Whether a request has no answer so far, and somebody waits for its end.
    pub fn is_in_work(&self, id: RequestId) -> bool {
        self.requests.get(id).is_some()
    }

    /// Whether a connection speaks version 2.
    pub fn speaks_v2(&self, conn: ConnId) -> bool {
        self.pool.speaks_v2(conn)
    }

    /// The present state.
    pub fn status(&self) -> SessionStatus {
        SessionStatus {
            connected: self.announced,
            connections_registered: self.pool.registered,
            lanes: self.pool.open_lanes().len(),
            connections_v2: self.pool.iter().filter(|conn| conn.v2.is_some()).count(),
            pending_calls: self.calls.len() - self.waits.probes(),
            waiting_calls: self.waits.len(),
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

    /// Small frames were queued that no limit has held back. Who does not read them is given up some time.
    pub(crate) fn queued_unasked(&mut self, id: ConnId, now: Now) {
        let waiting = self.pool.at(id.index as usize).outbound.len();
        if waiting > self.config.outbound_bytes_max() + CLIENT_QUEUE_ERRORS_BYTES_MAX {
            let why = format!("the gateway does not read: {waiting} bytes wait for it");
            return self.lose_broken(id, ErrorBody::new(ErrorCode::ConnectionLost, why), now);
        }
        self.queued(id, now);
    }

    /// Ends a call and tells so. Does nothing when it has ended already.
    pub(crate) fn end_call(&mut self, id: CallId, outcome: Result<OwnedPayload, ErrorBody>, origin: Origin) {
        let Some(pending) = self.take_call(id) else { return };
        if let Role::Probe(service) = pending.role {
            return self.end_probe(service, outcome.err(), origin);
        }
        if pending.conn.is_lane() {
            self.count_lane_call(pending.conn, outcome.is_err());
        }
        self.tell(SessionEvent::CallDone { id, request_id: pending.key, outcome, origin });
    }

    /// Takes a call out of the table, with everything that leads to it.
    pub(crate) fn take_call(&mut self, id: CallId) -> Option<Pending> {
        let pending = self.calls.remove(id)?;
        if let Some(timer) = pending.timer {
            self.timers.remove(timer);
        }
        if pending.conn.is_lane() {
            self.lane_released(pending.conn);
        }
        if let Role::Kept(kept) = pending.role {
            self.forget_kept(kept);
        }
        Some(pending)
    }

    /// A call has waited long enough. On a lane nobody but its caller keeps its deadline: the callee has to be told.
    fn expire_call(&mut self, id: CallId, now: Now) {
        let waited_for = self.why_waiting(id);
        let Some(pending) = self.take_call(id) else { return };
        let error = waited_for.unwrap_or_else(|| {
            ErrorBody::new(ErrorCode::Timeout, format!("no answer within {} ms", pending.timeout_ms))
        });
        if let Role::Probe(service) = pending.role {
            return self.end_probe(service, Some(error), Origin::Local);
        }
        if pending.conn.is_lane() {
            self.count_lane_call(pending.conn, true);
            self.send_cancel(&pending, CancelReason::Deadline, now);
        }
        self.tell(SessionEvent::CallDone { id, request_id: pending.key, outcome: Err(error), origin: Origin::Local });
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

pub(crate) fn too_large(bytes: usize, limit: usize) -> ErrorBody {
    ErrorBody::new(ErrorCode::PayloadTooLarge, format!("the message has {bytes} bytes, at most {limit} are accepted"))
}

/// The error for a value that the gateway would close the connection for.
pub(crate) fn unsendable(error: ScanError) -> ErrorBody {
    ErrorBody::new(ErrorCode::SerializationFailed, format!("the value cannot be sent: {error}"))
}

/// Whether a call at this depth makes sense.
pub(crate) fn check_depth(depth: u32) -> Result<(), ErrorBody> {
    if depth <= DEPTH_MAX {
        return Ok(());
    }
    let why = format!("the call chain is {depth} deep, at most {DEPTH_MAX} are accepted");
    Err(ErrorBody::new(ErrorCode::MaxDepthExceeded, why))
}

/// Whether a call at this depth and with this deadline makes sense.
pub(crate) fn check_reach(depth: u32, deadline_ms: u64, now: Now) -> Result<(), ErrorBody> {
    if now.wall_ms > deadline_ms {
        let why = format!("the deadline passed {} ms ago", now.wall_ms - deadline_ms);
        return Err(ErrorBody::new(ErrorCode::DeadlineExceeded, why));
    }
    check_depth(depth)
}
