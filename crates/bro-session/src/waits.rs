//! Calls that wait for their service to appear.
//!
//! A call that may wait is kept until it ends: where the gateway itself says that it did not pass it on (`SERVICE_NOT_FOUND`, or `SHUTTING_DOWN`
//! where the last instance or the gateway is leaving), it was not carried out, and can be sent again. Until then it stands in the line of
//! its service, in the order in which the calls were made. For each such service, one call of the session's own is under way: `waitFor` of
//! the gateway, which is answered when the service appears; or, where the gateway has no such method, `bro.ping` of the service, again and again with
//! growing pauses. When that says that the service is there, the whole line is sent. No payload is sent for nothing, and no call overtakes another.
//!
//! Calls that need not wait pass by here at the cost of a copy. Calls made while a line exists join it.

use crate::calls::{CallId, NOWHERE, Role};
use crate::event::{Origin, SessionEvent};
use crate::outgoing::CallRequest;
use crate::requests::RequestId;
use crate::session::{Session, Timer, later_ms};
use crate::slots::Slots;
use bro_proto::backoff::jittered_backoff_ms;
use bro_proto::context::CallContext;
use bro_proto::error::{ErrorBody, ErrorCode};
use bro_proto::limits::{
    CALL_TIMEOUT_MAX_MS, GATEWAY_SERVICE, PARKED_TIMEOUT_MAX_MS, PING_METHOD, RESERVED_PREFIX,
    SERVICE_PROBE_TIMEOUT_MS, SERVICE_WAIT_RETRY_MAX_MS, SERVICE_WAIT_RETRY_MS,
};
use bro_proto::time::Now;
use bro_proto::timer::TimerId;
use bro_proto::v1::{Encoding, Payload};
use bro_proto::v2::CancelReason;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The gateway answers a `waitFor` at the end of its time; this much later it counts as lost, in milliseconds.
const ANSWER_MARGIN_MS: u64 = 1_000;
/// No value.
const NOTHING: Payload<'static> = Payload { encoding: Encoding::Json, bytes: &[] };

/// Names a service that calls wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AwaitedId {
    slot: u32,
    generation: u32,
}

/// Names a call that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeptId {
    slot: u32,
    generation: u32,
}

/// The calls that wait, or may have to.
#[derive(Debug)]
pub(crate) struct Waits {
    kept: Slots<Kept>,
    services: Slots<Awaited>,
    by_name: HashMap<Arc<str>, AwaitedId>,
    /// What the kept calls take.
    bytes: usize,
    /// Calls that stand in some line.
    len: usize,
    /// Services that are being asked for.
    probes: usize,
    /// Counts the calls that were kept.
    orders: u64,
}

/// What it takes to send a call again.
#[derive(Debug)]
struct Kept {
    /// Service, method and parameters, one behind the other.
    text: Box<[u8]>,
    service_bytes: usize,
    method_bytes: usize,
    encoding: Encoding,
    request: Option<RequestId>,
    parent: Option<Box<CallContext>>,
    context: Option<Box<CallContext>>,
    /// Its place among all kept calls, by the order in which they were made.
    order: u64,
    bytes: usize,
    wait_ms: u64,
    /// When it has waited long enough, and when its time is over, on the clock of the timers.
    wait_until_ms: u64,
    due_ms: u64,
    /// How often it was sent and came back.
    refusals: u32,
    /// The line in which it stands, and what ends that.
    line: Option<(AwaitedId, TimerId)>,
}

/// A service that calls wait for, and their line. Invariant: the line is empty only while it is being sent.
#[derive(Debug)]
struct Awaited {
    name: Arc<str>,
    line: BTreeMap<u64, CallId>,
    state: Asking,
    /// Questions that were answered in the negative since somebody waits.
    attempt: u32,
    /// The gateway may know `waitFor`.
    asks_gateway: bool,
    /// The latest moment until which a call of the line waits.
    wait_until_max_ms: u64,
}

#[derive(Clone, Copy, Debug)]
enum Asking {
    /// There is no connection to ask on.
    Idle,
    /// `waitFor`, or else `bro.ping`, is under way.
    Asked { probe: CallId, is_question: bool },
    /// It is asked again when this fires.
    Pausing(TimerId),
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            kept: Slots::new(1),
            services: Slots::new(1),
            by_name: HashMap::new(),
            bytes: 0,
            len: 0,
            probes: 0,
            orders: 0,
        }
    }
}

impl Waits {
    /// Calls that wait.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Calls of this session's own that are under way for them.
    pub(crate) fn probes(&self) -> usize {
        self.probes
    }

    fn find(&self, service: &str) -> Option<AwaitedId> {
        if self.len == 0 { None } else { self.by_name.get(service).copied() }
    }

    fn kept(&self, id: KeptId) -> Option<&Kept> {
        self.kept.get(id.slot, id.generation)
    }

    fn kept_mut(&mut self, id: KeptId) -> Option<&mut Kept> {
        self.kept.get_mut(id.slot, id.generation)
    }

    fn service_mut(&mut self, id: AwaitedId) -> Option<&mut Awaited> {
        self.services.get_mut(id.slot, id.generation)
    }

    /// Lets a service be waited for, by a call that came back `refusals` times.
    fn add_service(&mut self, name: Arc<str>, refusals: u32) -> AwaitedId {
        let (slot, generation) = self.services.insert(Awaited {
            name: name.clone(),
            line: BTreeMap::new(),
            state: Asking::Idle,
            // One that comes back again and again, although the service is said to be there, waits longer and longer.
            attempt: refusals.saturating_sub(1),
            asks_gateway: true,
            wait_until_max_ms: 0,
        });
        let id = AwaitedId { slot, generation };
        self.by_name.insert(name, id);
        id
    }

    fn keep(&mut self, call: &CallRequest<'_>, wait_ms: u64, timeout_ms: u64, now: Now) -> KeptId {
        let text = [call.to.as_bytes(), call.method.as_bytes(), call.params.bytes].concat().into_boxed_slice();
        let bytes = bytes_of(call);
        self.orders += 1;
        self.bytes += bytes;
        let (slot, generation) = self.kept.insert(Kept {
            text,
            service_bytes: call.to.len(),
            method_bytes: call.method.len(),
            encoding: call.params.encoding,
            request: call.request,
            parent: call.parent.cloned().map(Box::new),
            context: call.context.cloned().map(Box::new),
            order: self.orders,
            bytes,
            wait_ms,
            wait_until_ms: later_ms(now, wait_ms),
            due_ms: later_ms(now, timeout_ms),
            refusals: 0,
            line: None,
        });
        KeptId { slot, generation }
    }
}

impl Kept {
    fn service(&self) -> &str {
        std::str::from_utf8(&self.text[..self.service_bytes]).expect("it was a text")
    }

    /// The call as it was made, but with the time that is left.
    fn request(&self, left_ms: u64) -> CallRequest<'_> {
        let (names, params) = self.text.split_at(self.service_bytes + self.method_bytes);
        CallRequest {
            request: self.request,
            parent: self.parent.as_deref(),
            context: self.context.as_deref(),
            timeout_ms: Some(left_ms),
            wait_ms: Some(0),
            ..CallRequest::new(
                self.service(),
                std::str::from_utf8(&names[self.service_bytes..]).expect("it was a text"),
                Payload { encoding: self.encoding, bytes: params },
            )
        }
    }
}

/// What a call takes while it is kept, roughly.
fn bytes_of(call: &CallRequest<'_>) -> usize {
    let of_context = |context: &CallContext| {
        let names: usize = context.chain.iter().map(|name| size_of::<String>() + name.len()).sum();
        size_of::<CallContext>() + context.root.len() + names
    };
    let contexts: usize = call.parent.into_iter().chain(call.context).map(of_context).sum();
    size_of::<Kept>() + call.to.len() + call.method.len() + call.params.bytes.len() + contexts
}

/// Whether an error of the gateway's own says that a call was not passed on because its service is not there.
fn is_absence(error: &ErrorBody) -> bool {
    matches!(error.code, Some(ErrorCode::ServiceNotFound | ErrorCode::ShuttingDown))
}

/// What calls come by here for.
impl Session {
    /// Makes a call that waits for its service if need be.
    pub(crate) fn call_patiently(
        &mut self,
        call: &CallRequest<'_>,
        wait_ms: u64,
        now: Now,
    ) -> Result<CallId, ErrorBody> {
        // The gateway's own service is there, or never will be.
        if call.to.starts_with(RESERVED_PREFIX) {
            return self.start_call(call, now);
        }
        let wait_ms = wait_ms.min(CALL_TIMEOUT_MAX_MS);
        let has_lane = self.pool.lane_to(call.to, self.config.queue_bytes_max).is_some();
        if has_lane && let Some(service) = self.waits.find(call.to) {
            self.send_line(service, now);
        }
        if (self.announced || has_lane) && self.waits.find(call.to).is_none() {
            let id = self.start_call(call, now)?;
            let role = if self.has_room_for(call) {
                let timeout_ms = self.calls.get(id).map_or(0, |pending| pending.timeout_ms);
                Role::Kept(self.waits.keep(call, wait_ms, timeout_ms, now))
            } else {
                Role::Unkept
            };
            self.calls.set_role(id, role);
            return Ok(id);
        }
        self.check_call_names(call)?;
        if !self.can_wait() {
            return Err(ErrorBody::new(ErrorCode::NotConnected, "not connected to the gateway"));
        }
        let (_, timeout_ms) = self.check_call(call, true, now)?;
        if self.waits.len >= self.config.waiting_calls_max || !self.has_room_for(call) {
            return Err(self.too_many_wait(call.to));
        }
        let (id, _) = self.calls.insert_numbered(NOWHERE, timeout_ms);
        let timer = self.timers.insert(later_ms(now, timeout_ms), Timer::Call(id));
        self.calls.set_timer(id, timer);
        let kept = self.waits.keep(call, wait_ms, timeout_ms, now);
        self.calls.set_role(id, Role::Kept(kept));
        self.counters.calls += 1;
        self.join_line(id, kept, now);
        Ok(id)
    }

    /// The gateway itself has answered a call with an error: it ends, or waits.
    pub(crate) fn end_refused(&mut self, id: CallId, error: ErrorBody) {
        match self.calls.get(id).map(|pending| pending.role) {
            Some(Role::Probe(_)) => self.end_call(id, Err(error), Origin::Gateway),
            Some(Role::Kept(kept)) if is_absence(&error) => self.wait_again(id, kept),
            Some(Role::Unkept) if is_absence(&error) => {
                let error = self.too_many_wait("its service");
                self.end_call(id, Err(error), Origin::Local);
            }
            _ => {
                self.tell(SessionEvent::GatewayError(error.clone()));
                self.end_call(id, Err(error), Origin::Gateway);
            }
        }
    }

    /// Why a call that waits for its service ends when its time is over; `None` when it does not wait.
    pub(crate) fn why_waiting(&self, id: CallId) -> Option<ErrorBody> {
        let Role::Kept(kept) = self.calls.get(id)?.role else { return None };
        let kept = self.waits.kept(kept).filter(|kept| kept.line.is_some())?;
        if kept.wait_until_ms <= self.now.mono_ms() {
            return Some(self.waited(kept));
        }
        let service = kept.service();
        let waited_ms = kept.wait_ms.saturating_sub(kept.wait_until_ms.saturating_sub(later_ms(self.now, 0)));
        let why =
            format!("service {service:?} did not appear within {waited_ms} ms, which is all that the call may take");
        Some(ErrorBody::new(ErrorCode::Timeout, why))
    }

    /// A call has waited long enough for its service.
    pub(crate) fn expire_wait(&mut self, id: CallId) {
        let Some(Role::Kept(kept)) = self.calls.get(id).map(|pending| pending.role) else { return };
        let Some(kept) = self.waits.kept(kept).filter(|kept| kept.line.is_some()) else { return };
        let error = self.waited(kept);
        self.end_call(id, Err(error), Origin::Local);
    }

    /// A call ends that was kept.
    pub(crate) fn forget_kept(&mut self, id: KeptId) {
        let service = self.leave_line(id);
        if let Some(kept) = self.waits.kept.remove(id.slot, id.generation) {
            self.waits.bytes -= kept.bytes;
        }
        let is_empty = |awaited: &mut Awaited| awaited.line.is_empty();
        if let Some(service) = service
            && self.waits.service_mut(service).is_some_and(is_empty)
        {
            self.forget_service(service);
        }
    }

    /// Ends all calls that wait: nothing they wait for will come.
    pub(crate) fn end_waits(&mut self, reason: &str) {
        for (slot, generation) in self.waits.services.select(|_| true) {
            let id = AwaitedId { slot, generation };
            let Some(awaited) = self.waits.service_mut(id) else { continue };
            let error = ErrorBody::new(
                ErrorCode::NotConnected,
                format!("{reason} while the call waited for service {:?}: it was not carried out", awaited.name),
            );
            let line: Vec<CallId> = awaited.line.values().copied().collect();
            for call in line {
                self.end_call(call, Err(error.clone()), Origin::Local);
            }
        }
    }

    /// Ends all calls that wait when there is no connection and none will come.
    pub(crate) fn end_hopeless_waits(&mut self) {
        if !self.can_wait() {
            self.end_waits("the connection to the gateway was lost for good");
        }
    }

    /// A connection was registered: whatever is waited for may be there.
    pub(crate) fn ask_for_services(&mut self, now: Now) {
        if self.waits.len == 0 || !self.announced {
            return;
        }
        for (slot, generation) in self.waits.services.select(|awaited| !matches!(awaited.state, Asking::Asked { .. })) {
            let id = AwaitedId { slot, generation };
            if let Some(awaited) = self.waits.service_mut(id) {
                (awaited.attempt, awaited.asks_gateway) = (0, true);
            }
            self.ask(id, now);
        }
    }

    /// Asks whether a service is there, or to be told when it is.
    pub(crate) fn ask(&mut self, id: AwaitedId, now: Now) {
        self.set_asking(id, Asking::Idle);
        if !self.announced {
            return;
        }
        let queue_bytes_max = self.config.queue_bytes_max;
        let conn = if self.calls.is_full() { None } else { self.pool.pick(queue_bytes_max) };
        let (Some(conn), Some(awaited)) = (conn, self.waits.service_mut(id)) else { return self.pause(id, now) };
        let is_question = awaited.asks_gateway && self.pool.at(conn.index as usize).takes_updates;
        let name = awaited.name.clone();
        let params;
        let (request, timeout_ms) = if is_question {
            let span_ms = awaited.wait_until_max_ms.saturating_sub(later_ms(now, 0)).clamp(1, PARKED_TIMEOUT_MAX_MS);
            params = serde_json::json!({ "service": &*name, "timeoutMs": span_ms, "brief": true }).to_string();
            let params = Payload { encoding: Encoding::Json, bytes: params.as_bytes() };
            (CallRequest::new(GATEWAY_SERVICE, "waitFor", params), span_ms + ANSWER_MARGIN_MS)
        } else {
            (CallRequest::new(&name, PING_METHOD, NOTHING), SERVICE_PROBE_TIMEOUT_MS)
        };
        let request = CallRequest { timeout_ms: Some(timeout_ms), ..request };
        let Ok(probe) = self.send_call(&request, &Session::own_aim(conn, timeout_ms), None, now) else {
            return self.pause(id, now);
        };
        let timer = self.timers.insert(later_ms(now, timeout_ms), Timer::Call(probe));
        self.calls.set_timer(probe, timer);
        self.calls.set_role(probe, Role::Probe(id));
        self.set_asking(id, Asking::Asked { probe, is_question });
    }

    /// A question is answered, or will not be.
    pub(crate) fn end_probe(&mut self, id: AwaitedId, error: Option<ErrorBody>, origin: Origin) {
        let now = self.now;
        let Some(&mut Awaited { state: Asking::Asked { is_question, .. }, .. }) = self.waits.service_mut(id) else {
            return;
        };
        self.set_asking(id, Asking::Idle);
        let code = error.and_then(|error| error.code);
        let is_there = match &code {
            None if is_question => true,
            Some(code) if is_question => {
                use ErrorCode::{InvalidArgument, MethodNotFound, PermissionDenied, ServiceNotFound};
                // Such a gateway does not tell: the service itself is asked.
                if matches!(code, MethodNotFound | ServiceNotFound | PermissionDenied | InvalidArgument)
                    && let Some(awaited) = self.waits.service_mut(id)
                {
                    awaited.asks_gateway = false;
                }
                false
            }
            // Whatever it is that answers, and however: somebody is there. Who does not answer at all may be busy.
            _ if origin == Origin::Service => true,
            Some(ErrorCode::ServiceNotFound | ErrorCode::ShuttingDown | ErrorCode::ConnectionLost) => false,
            _ => true,
        };
        if is_there { self.send_line(id, now) } else { self.pause(id, now) }
    }
}

/// Lines.
impl Session {
    fn has_room_for(&self, call: &CallRequest<'_>) -> bool {
        self.waits.bytes + bytes_of(call) <= self.config.waiting_bytes_max
    }

    fn too_many_wait(&self, service: &str) -> ErrorBody {
        let (calls, bytes) = (self.waits.len, self.waits.bytes);
        let why =
            format!("no room for waiting for {service}: {calls} calls wait, and {bytes} bytes are kept for waiting");
        ErrorBody::new(ErrorCode::ResourceExhausted, why)
    }

    /// Why a call ends that has waited as long as it wants.
    fn waited(&self, kept: &Kept) -> ErrorBody {
        let (service, wait_ms) = (kept.service(), kept.wait_ms);
        if self.announced {
            let why = format!("service {service:?} did not appear within {wait_ms} ms of waiting for it");
            return ErrorBody::new(ErrorCode::ServiceNotFound, why);
        }
        let why = format!("not connected to the gateway within {wait_ms} ms of waiting for service {service:?}");
        ErrorBody::new(ErrorCode::NotConnected, why)
    }

    /// A call came back because its service is not there.
    fn wait_again(&mut self, id: CallId, kept_id: KeptId) {
        let now = self.now;
        self.calls.renumber(id, NOWHERE);
        if let Some(kept) = self.waits.kept_mut(kept_id) {
            kept.refusals = kept.refusals.saturating_add(1);
        }
        let Some(kept) = self.waits.kept(kept_id) else { return };
        let is_over = kept.wait_until_ms <= now.mono_ms();
        // The request that it was made for may have been given up meanwhile.
        let hopeless = if is_over {
            Some(self.waited(kept))
        } else if self.waits.len >= self.config.waiting_calls_max {
            Some(self.too_many_wait(kept.service()))
        } else {
            self.lineage(&kept.request(0), now).err()
        };
        match hopeless {
            Some(error) => self.end_call(id, Err(error), Origin::Local),
            None => self.join_line(id, kept_id, now),
        }
    }

    /// Lets a call stand in the line of its service, and sees to it that somebody asks for that.
    fn join_line(&mut self, id: CallId, kept_id: KeptId, now: Now) {
        let Some(kept) = self.waits.kept(kept_id) else { return };
        let (order, wait_until_ms, refusals) = (kept.order, kept.wait_until_ms, kept.refusals);
        let parent = kept.request;
        let known = self.waits.by_name.get(kept.service()).copied();
        let service = match known {
            Some(service) => service,
            None => {
                let name = kept.service().into();
                self.waits.add_service(name, refusals)
            }
        };
        let timer = self.timers.insert(wait_until_ms, Timer::Wait(id));
        if let Some(kept) = self.waits.kept_mut(kept_id) {
            kept.line = Some((service, timer));
        }
        if let Some(awaited) = self.waits.service_mut(service) {
            awaited.line.insert(order, id);
            awaited.wait_until_max_ms = awaited.wait_until_max_ms.max(wait_until_ms);
        }
        self.waits.len += 1;
        self.counters.waits += 1;
        if let Some(parent) = parent {
            self.add_child(parent, id);
        }
        if known.is_none() {
            if refusals > 1 { self.pause(service, now) } else { self.ask(service, now) }
        }
    }

    /// Takes a call out of its line; gives whose that was.
    fn leave_line(&mut self, id: KeptId) -> Option<AwaitedId> {
        let kept = self.waits.kept_mut(id)?;
        let (service, timer) = kept.line.take()?;
        let order = kept.order;
        self.timers.remove(timer);
        self.waits.len -= 1;
        if let Some(awaited) = self.waits.service_mut(service) {
            awaited.line.remove(&order);
        }
        Some(service)
    }

    /// The service is there: sends the calls that wait for it.
    fn send_line(&mut self, service: AwaitedId, now: Now) {
        self.stop_asking(service);
        while let Some(call) = self.waits.service_mut(service).and_then(|awaited| awaited.line.values().next().copied())
        {
            let Some(Role::Kept(kept)) = self.calls.get(call).map(|pending| pending.role) else {
                unreachable!("only calls that are kept stand in a line")
            };
            match self.send_again(call, kept, now) {
                Ok(()) => drop(self.leave_line(kept)),
                // Those behind it stay in line, too.
                Err(error) if matches!(error.code, Some(ErrorCode::Overloaded | ErrorCode::NotConnected)) => {
                    return self.pause(service, now);
                }
                Err(error) => {
                    self.leave_line(kept);
                    self.end_call(call, Err(error), Origin::Local);
                }
            }
        }
        self.forget_service(service);
    }

    fn send_again(&mut self, id: CallId, kept_id: KeptId, now: Now) -> Result<(), ErrorBody> {
        let KeptId { slot, generation } = kept_id;
        let Some(kept) = self.waits.kept.get_mut(slot, generation) else { return Ok(()) };
        let left_ms = kept.due_ms.saturating_sub(later_ms(now, 0));
        // Taken out so that the call can borrow it while the session sends it.
        let (text, parent, context) = (std::mem::take(&mut kept.text), kept.parent.take(), kept.context.take());
        let borrowed = Kept { text, parent, context, ..*kept };
        let request = borrowed.request(left_ms);
        let sent = self.admit_call(&request, false, now).and_then(|aim| self.send_call(&request, &aim, Some(id), now));
        let Kept { text, parent, context, .. } = borrowed;
        if let Some(kept) = self.waits.kept.get_mut(slot, generation) {
            (kept.text, kept.parent, kept.context) = (text, parent, context);
        }
        sent.map(|_| ())
    }

    /// Nobody waits for a service any more.
    fn forget_service(&mut self, id: AwaitedId) {
        self.stop_asking(id);
        if let Some(awaited) = self.waits.services.remove(id.slot, id.generation) {
            self.waits.by_name.remove(&awaited.name);
        }
    }

    /// Asks again some time later, the more often it was asked in vain.
    fn pause(&mut self, id: AwaitedId, now: Now) {
        let Some(awaited) = self.waits.service_mut(id) else { return };
        let attempt = awaited.attempt;
        awaited.attempt = attempt.saturating_add(1);
        let delay_ms = jittered_backoff_ms(attempt, SERVICE_WAIT_RETRY_MS, SERVICE_WAIT_RETRY_MAX_MS, &mut self.rng);
        let timer = self.timers.insert(later_ms(now, delay_ms), Timer::Ask(id));
        self.set_asking(id, Asking::Pausing(timer));
    }

    /// Takes back what is under way for a service.
    fn stop_asking(&mut self, id: AwaitedId) {
        let Some(Asking::Asked { probe, .. }) = self.set_asking(id, Asking::Idle) else { return };
        if let Some(pending) = self.take_call(probe) {
            self.send_cancel(&pending, CancelReason::Cancelled, self.now);
        }
    }

    /// Gives the state before.
    fn set_asking(&mut self, id: AwaitedId, state: Asking) -> Option<Asking> {
        let before = std::mem::replace(&mut self.waits.service_mut(id)?.state, state);
        self.waits.probes += usize::from(matches!(state, Asking::Asked { .. }));
        match before {
            Asking::Asked { .. } => self.waits.probes -= 1,
            Asking::Pausing(timer) => drop(self.timers.remove(timer)),
            Asking::Idle => {}
        }
        Some(before)
    }
}
