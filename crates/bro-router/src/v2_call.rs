//! CALLs and NOTIFYs of version 2: admitted and passed on, mostly where they lie.

use crate::accounts::Resource;
use crate::calls::{CalleeId, CallerId, Calls, NewCall};
use crate::event::{Event, EventMask};
use crate::introspect::Inquiry;
use crate::outbox::{Outbox, Part};
use crate::peers::NIL;
use crate::reply::{Answer, check_carried, check_frame_bytes, check_frame_size};
use crate::router::Router;
use crate::timers::Timer;
use crate::v2_peer::Target;
use bro_proto::limits::CALL_TIMEOUT_MAX_MS;
use bro_proto::v1::encode::{CallFields, ContextSource, Outcome, encode_call};
use bro_proto::v1::{Encoding, Payload};
use bro_proto::v2::encode::{self, CallHead};
use bro_proto::v2::{self, CallNumber, FrameKind, RootStamp, Section};
use bro_proto::{CallContext, ErrorBody, ErrorCode, Now};

/// No context and no value in either encoding.
pub(crate) const NOTHING: Payload<'static> = Payload { encoding: Encoding::Json, bytes: &[] };

/// No connection binds this route number.
pub(crate) const NO_ROUTE: u32 = u32::MAX;
/// What who names two calls alike is closed for.
pub(crate) const NUMBER_TAKEN: Violation = "a CALL whose number is 0 or already in flight";

/// A call that may be passed on.
struct Admitted {
    callee: u32,
    timeout_ms: u64,
    parent: u32,
    context: Context,
}

/// Where the context of a call comes from.
enum Context {
    /// Its chain begins with it.
    Begins(RootStamp),
    /// It brought a section.
    Given,
    /// This section, made from its parent's.
    Derived(Vec<u8>),
}

/// What a call still needs before it can be sent on from where it lies.
pub(crate) struct Completion {
    caller: u32,
    callee: u32,
    index: u32,
    number: u64,
    origin: u64,
    root: u64,
    peer: u32,
    timeout_ms: u32,
}

/// What ends the connection of a peer that does not keep to the protocol.
pub(crate) type Violation = &'static str;

/// Why a call is not passed on.
pub(crate) enum Refusal {
    /// It is told.
    Told(ErrorBody),
    /// It is closed.
    Closed(Violation),
}

impl From<ErrorBody> for Refusal {
    fn from(error: ErrorBody) -> Self {
        Refusal::Told(error)
    }
}

impl Router {
    /// A CALL of a frame of `frame_bytes`: passes it on, or answers it. What is still to be done to the frame is the caller's business:
    /// the call points into it.
    #[inline(always)]
    pub(crate) fn route_call_v2(
        &mut self,
        caller: u32,
        call: &v2::Call<'_>,
        frame_bytes: usize,
        now: Now,
        out: &mut impl Outbox,
    ) -> Option<Completion> {
        if self.is_number_taken(caller, call.id, now, out) {
            self.violated(caller, NUMBER_TAKEN, now, out);
            return None;
        }
        let refused = match self.find_target(caller, call) {
            Ok(Target::Gateway) => {
                self.ask_gateway(caller, call, now, out);
                return None;
            }
            Ok(Target::Service { index, only }) => match self.admit_v2(caller, index, only, call, now) {
                Ok(admitted) if self.peers[admitted.callee].v2.is_some() => {
                    self.forward_v2(caller, admitted, call, frame_bytes, now, out)
                }
                Ok(admitted) => self.forward_v2_to_v1(caller, admitted, call, now, out).map(|()| None),
                Err(refusal) => Err(refusal),
            },
            Err(refusal) => Err(refusal),
        };
        match refused {
            Ok(completion) => return completion,
            Err(Refusal::Closed(violation)) => self.violated(caller, violation, now, out),
            Err(Refusal::Told(error)) => {
                self.refuse_call_v2(caller, call.id, (call.peer, call.method), &error, now, out);
            }
        }
        None
    }

    /// Sends a call on as it came in, completed where it lies.
    #[inline]
    pub(crate) fn complete(&mut self, completion: Completion, frame: &mut [u8], now: Now, out: &mut impl Outbox) {
        let Completion { caller, callee, index, number, origin, root, peer, timeout_ms } = completion;
        encode::complete_call(frame, number, origin, root, peer, timeout_ms);
        let parts = [Part::Inbound(frame)];
        self.peers.send_unpaused(callee, &parts, now, &mut self.timers, &mut self.counters, out);
        self.tell_of_call(caller, callee, index, now, out);
    }

    /// A call was sent on.
    #[inline]
    fn tell_of_call(&mut self, caller: u32, callee: u32, index: u32, now: Now, out: &mut impl Outbox) {
        self.count_for_lane(caller, callee, now, out);
        if self.reporter.wants(EventMask::CALLS) {
            self.report_call_v2(index, now, out);
        }
    }

    /// A NOTIFY: passes it on, or drops it.
    pub(crate) fn route_notify(&mut self, caller: u32, frame: &mut [u8], now: Now, out: &mut impl Outbox) {
        let Ok(v2::Frame::Notify(call)) = v2::parse(frame) else { unreachable!("the caller read it") };
        let admitted = match self.find_target(caller, &call) {
            Ok(Target::Service { index, only }) => self.admit_v2(caller, index, only, &call, now),
            Ok(Target::Gateway) => {
                let message = "the gateway's own methods answer: call them";
                Err(ErrorBody::new(ErrorCode::InvalidMessage, message).into())
            }
            Err(refusal) => Err(refusal),
        };
        let passed_on = admitted.and_then(|admitted| self.pass_notify_on(caller, admitted, frame, now, out));
        match passed_on {
            Ok(()) => self.counters.notifications_routed += 1,
            Err(Refusal::Told(error)) => {
                self.counters.notifications_dropped += 1;
                self.note_denied(Some(caller), &error, now, out);
            }
            Err(Refusal::Closed(violation)) => self.violated(caller, violation, now, out),
        }
    }

    /// Ends the connection of a peer that does not keep to the protocol.
    pub(crate) fn violated(&mut self, slot: u32, violation: Violation, now: Now, out: &mut impl Outbox) {
        let message = format!("{violation}; the connection will be closed");
        self.refuse_malformed(slot, ErrorCode::InvalidMessage, message, now, out);
    }

    /// Checks what a call may do, and chooses its callee.
    #[inline(always)]
    fn admit_v2(
        &mut self,
        caller: u32,
        service: u32,
        only: Option<u32>,
        call: &v2::Call<'_>,
        now: Now,
    ) -> Result<Admitted, Refusal> {
        if self.is_draining() {
            let message = "the gateway is shutting down and takes no new calls: call again after reconnecting";
            return Err(ErrorBody::new(ErrorCode::ShuttingDown, message).into());
        }
        let asked_ms = if call.timeout_ms == 0 { self.config.call_timeout_ms } else { u64::from(call.timeout_ms) };
        let mut timeout_ms = asked_ms.min(CALL_TIMEOUT_MAX_MS);
        let (mut parent, mut context) = (NIL, Context::Given);
        let mut depth = 2;
        if let Some(section) = &call.section {
            depth = section.depth;
        } else if call.origin == 0 {
            self.roots = self.roots.wrapping_add(1);
            context = Context::Begins(RootStamp::new(now.wall_ms, self.roots));
        } else {
            parent = self.find_parent(caller, call.origin)?;
            let left_ms = self.calls[parent].deadline_ms().saturating_sub(now.mono_ms());
            if left_ms == 0 {
                let message = "the deadline of the call that this one was made for has passed";
                return Err(ErrorBody::new(ErrorCode::DeadlineExceeded, message).into());
            }
            timeout_ms = timeout_ms.min(left_ms);
            let section;
            (section, depth) = self.derive_section(parent, service)?;
            context = Context::Derived(section);
        }
        let limit = self.config.depth_max;
        if depth > limit {
            let name = &self.registry[service].name;
            let message = format!(
                "{name}.{}: depth {depth} is more than {limit}: do services call each other in a circle?",
                call.method
            );
            return Err(ErrorBody::new(ErrorCode::MaxDepthExceeded, message).into());
        }
        let callee = self.choose_instance(caller, service, only, now)?;
        Ok(Admitted { callee, timeout_ms, parent, context })
    }

    /// The call in flight that a new one is made for: its service must be the one that works on it, and was told this number.
    fn find_parent(&self, caller: u32, number: u64) -> Result<u32, Refusal> {
        let service = self.peers[caller].service;
        match self.calls.find_number(number) {
            Some(index)
                if !self.calls[index].is_tabled()
                    && self.peers[self.calls[index].callee()].service == service
                    && !self.is_fated(index) =>
            {
                Ok(index)
            }
            _ => {
                let message = "the call that this one was made for has ended";
                Err(ErrorBody::new(ErrorCode::Cancelled, message).into())
            }
        }
    }

    /// The section of a call to `service` that is made for `parent`, and its depth.
    fn derive_section(&self, parent: u32, service: u32) -> Result<(Vec<u8>, u32), ErrorBody> {
        let call = &self.calls[parent];
        let mut begun = Vec::new();
        let bytes = match call.section() {
            [] => {
                let names = [call.caller(), call.callee()].map(|slot| &*self.registry[self.peers[slot].service].name);
                let root = RootStamp(call.root).to_string();
                v2::section::write(&mut begun, &root, 2, names.into_iter()).expect("two names fit");
                &begun
            }
            section => section,
        };
        let mut section = Vec::with_capacity(bytes.len() + 64);
        let depth = Section::parse(bytes)
            .and_then(|parent| {
                parent.extend(&self.registry[service].name, &mut section)?;
                Ok(parent.depth.saturating_add(1))
            })
            .map_err(|_| ErrorBody::new(ErrorCode::MaxDepthExceeded, "the call chain is too long"))?;
        Ok((section, depth))
    }

    /// Whether a section may be kept while its call is in flight.
    #[inline]
    pub(crate) fn check_section_room(&mut self, caller: u32, bytes: usize, now: Now) -> Result<(), ErrorBody> {
        if bytes == 0 { Ok(()) } else { self.check_room(caller, Resource::Sections, bytes, now) }
    }

    /// To a callee of version 2: the bytes that came in, completed where they lie.
    #[inline(always)]
    fn forward_v2(
        &mut self,
        caller: u32,
        admitted: Admitted,
        call: &v2::Call<'_>,
        frame_bytes: usize,
        now: Now,
        out: &mut impl Outbox,
    ) -> Result<Option<Completion>, Refusal> {
        let Admitted { callee, timeout_ms, parent, context } = admitted;
        let (root, section): (u64, &[u8]) = match &context {
            Context::Begins(stamp) => (stamp.0, &[]),
            Context::Given => (0, call.section.map_or(&[], |section| section.bytes)),
            Context::Derived(section) => (0, section),
        };
        self.check_section_room(caller, section.len(), now)?;
        if let Context::Derived(section) = &context {
            check_frame_bytes(frame_bytes + section.len(), self.config.frame_bytes_max, "the call")?;
        }
        let deadline = now.mono_ms().saturating_add(timeout_ms);
        let new = NewCall {
            caller,
            callee,
            id: CallerId::Number(call.id),
            callee_id: CalleeId::Number,
            method: call.method,
            context: NOTHING,
            section,
            root,
            parent,
            timer: self.timers.insert(deadline, Timer::Call(self.calls.next_index())),
            started_us: now.mono_us,
            timeout_ms,
        };
        let index = self.calls.insert(&mut self.peers, new);
        let number = self.calls.number(index);
        self.counters.calls_routed += 1;
        let peer = self.introduce(callee, caller, now, out);
        let (origin, timeout_ms) = (call.id, wire_ms(timeout_ms));
        if let Context::Derived(section) = &context {
            let head = CallHead {
                kind: FrameKind::Call,
                id: number,
                origin,
                root,
                peer,
                timeout_ms,
                method: call.method,
                section,
                codec: call.codec,
            };
            self.send_call(callee, &head, call.payload, now, out);
            self.tell_of_call(caller, callee, index, now, out);
            return Ok(None);
        }
        Ok(Some(Completion { caller, callee, index, number, origin, root, peer, timeout_ms }))
    }

    /// Sends a call whose head is made anew; the payload goes from where it lies.
    pub(crate) fn send_call(
        &mut self,
        callee: u32,
        head: &CallHead<'_>,
        payload: &[u8],
        now: Now,
        out: &mut impl Outbox,
    ) {
        let mut made = std::mem::take(&mut self.scratch);
        encode::call_head(&mut made, head, payload.len());
        let parts = [Part::Scratch(&made), Part::Inbound(payload)];
        self.peers.send_unpaused(callee, &parts, now, &mut self.timers, &mut self.counters, out);
        self.keep_scratch(made);
    }

    /// To a callee of version 1: written anew, and proved well-formed.
    fn forward_v2_to_v1(
        &mut self,
        caller: u32,
        admitted: Admitted,
        call: &v2::Call<'_>,
        now: Now,
        out: &mut impl Outbox,
    ) -> Result<(), Refusal> {
        let Admitted { callee, timeout_ms, parent, context } = admitted;
        let id = CallNumber::from_wire(call.id).to_string();
        let (hash, renamed) = self.callee_id_for(callee, &id);
        let shown = renamed.as_deref().unwrap_or(&id);
        let made = self.write_v1_call(caller, callee, shown, call, &context, timeout_ms, now)?;
        let root = if let Context::Begins(stamp) = context { stamp.0 } else { 0 };
        let deadline = now.mono_ms().saturating_add(timeout_ms);
        let new = NewCall {
            caller,
            callee,
            id: CallerId::Number(call.id),
            callee_id: match &renamed {
                Some(renamed) => CalleeId::Own(hash, renamed),
                None => CalleeId::Shared(hash),
            },
            method: call.method,
            context: NOTHING,
            section: &[],
            root,
            parent,
            timer: self.timers.insert(deadline, Timer::Call(self.calls.next_index())),
            started_us: now.mono_us,
            timeout_ms,
        };
        self.calls.insert(&mut self.peers, new);
        self.counters.calls_routed += 1;
        let parts = [Part::Scratch(&made)];
        self.peers.send_unpaused(callee, &parts, now, &mut self.timers, &mut self.counters, out);
        if self.reporter.wants(EventMask::CALLS) {
            let context = self.owned_context(caller, callee, call, &context, timeout_ms, now);
            self.report_call_with(caller, callee, call.method, &id, &context, now, out);
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "the parties, the call, and what was found out about it")]
    fn write_v1_call(
        &mut self,
        caller: u32,
        callee: u32,
        id: &str,
        call: &v2::Call<'_>,
        context: &Context,
        timeout_ms: u64,
        now: Now,
    ) -> Result<Vec<u8>, Refusal> {
        let context = self.owned_context(caller, callee, call, context, timeout_ms, now);
        let target = self.peers[callee].encoding;
        let params = carried(call.codec, call.payload)?;
        let fields = CallFields {
            id,
            from: &self.registry[self.peers[caller].service].name,
            to: &self.registry[self.peers[callee].service].name,
            method: call.method,
            params,
            context: ContextSource::Owned(&context),
        };
        let mut made = Vec::new();
        encode_call(&mut made, target, &fields).map_err(|error| {
            let message = format!("the call cannot be written as {}: {error}", target.as_str());
            ErrorBody::new(ErrorCode::SerializationFailed, message)
        })?;
        check_frame_size(&made, self.config.frame_bytes_max, "the call")?;
        check_carried(&made, params, |header| header.params.clone())?;
        Ok(made)
    }

    fn pass_notify_on(
        &mut self,
        caller: u32,
        admitted: Admitted,
        frame: &mut [u8],
        now: Now,
        out: &mut impl Outbox,
    ) -> Result<(), Refusal> {
        let Ok(v2::Frame::Notify(call)) = v2::parse(frame) else { unreachable!("read before") };
        let Admitted { callee, timeout_ms, context, .. } = admitted;
        let wants_event = self.reporter.wants(EventMask::CALLS);
        let event_context = wants_event.then(|| self.owned_context(caller, callee, &call, &context, timeout_ms, now));
        let method = wants_event.then(|| call.method.to_owned());
        if self.peers[callee].v2.is_none() {
            let id = self.fresh_callee_id(callee);
            let made = self.write_v1_call(caller, callee, &id, &call, &context, timeout_ms, now)?;
            let parts = [Part::Scratch(&made)];
            self.peers.send_unpaused(callee, &parts, now, &mut self.timers, &mut self.counters, out);
        } else {
            if let Context::Derived(section) = &context {
                check_frame_bytes(frame.len() + section.len(), self.config.frame_bytes_max, "the call")?;
            }
            let peer = self.introduce(callee, caller, now, out);
            let timeout_ms = wire_ms(timeout_ms);
            match &context {
                Context::Derived(section) => {
                    let (method, codec) = (call.method, call.codec);
                    let head = CallHead {
                        kind: FrameKind::Notify,
                        id: 0,
                        origin: 0,
                        root: 0,
                        peer,
                        timeout_ms,
                        method,
                        section,
                        codec,
                    };
                    self.send_call(callee, &head, call.payload, now, out);
                }
                Context::Begins(_) | Context::Given => {
                    let root = if let Context::Begins(stamp) = context { stamp.0 } else { 0 };
                    encode::complete_call(frame, 0, 0, root, peer, timeout_ms);
                    let parts = [Part::Inbound(frame)];
                    self.peers.send_unpaused(callee, &parts, now, &mut self.timers, &mut self.counters, out);
                }
            }
        }
        if let (Some(context), Some(method)) = (event_context, method) {
            self.report_call_with(caller, callee, &method, "", &context, now, out);
        }
        Ok(())
    }

    /// A call to the gateway itself.
    fn ask_gateway(&mut self, caller: u32, call: &v2::Call<'_>, now: Now, out: &mut impl Outbox) {
        let id = CallerId::Number(call.id);
        let timeout_ms = if call.timeout_ms == 0 { self.config.call_timeout_ms } else { u64::from(call.timeout_ms) };
        let timeout_ms = timeout_ms.min(CALL_TIMEOUT_MAX_MS);
        match carried(call.codec, call.payload) {
            Ok(params) => {
                let inquiry = Inquiry { caller, id, context: NOTHING, timeout_ms };
                self.introspect(&inquiry, call.method, params, now, out);
            }
            Err(error) => {
                let answer = Answer { id, outcome: Outcome::Error(&error), context: NOTHING };
                self.answer(caller, "", &answer, now, out);
            }
        }
    }

    /// Whether a caller may not name a new call so.
    #[inline(always)]
    pub(crate) fn is_number_taken(&mut self, caller: u32, number: u64, now: Now, out: &mut impl Outbox) -> bool {
        let found = self.calls.find_caller_number(caller, number);
        let is_in_flight = found.is_some_and(|index| !self.ends.are_due() || !self.meets_fate(index, now, out));
        number == 0 || is_in_flight || self.find_parked(caller, number).is_some()
    }

    /// Refuses the call with this number, which goes by this route to this method.
    #[cold]
    pub(crate) fn refuse_call_v2(
        &mut self,
        caller: u32,
        number: u64,
        (route, method): (u32, &str),
        error: &ErrorBody,
        now: Now,
        out: &mut impl Outbox,
    ) {
        self.counters.calls_refused += 1;
        self.note_denied(Some(caller), error, now, out);
        let id = CallerId::Number(number);
        let answer = Answer { id, outcome: Outcome::Error(error), context: NOTHING };
        self.answer(caller, "", &answer, now, out);
        if self.reporter.wants(EventMask::RESPONSES) {
            let state = self.peers[caller].v2.as_ref();
            let route = state.and_then(|state| state.route(route)).map_or("", |route| &route.name);
            let event = Event::ResponseRouted {
                from: route,
                to: &self.registry[self.peers[caller].service].name,
                method,
                status: bro_proto::v1::Status::Error,
                request_id: &id.text(),
                gateway_code: error.code.clone(),
                elapsed_us: 0,
            };
            self.reporter.report(event, now, out);
        }
    }

    fn owned_context(
        &self,
        caller: u32,
        callee: u32,
        call: &v2::Call<'_>,
        context: &Context,
        timeout_ms: u64,
        now: Now,
    ) -> CallContext {
        let deadline_ms = now.wall_ms.saturating_add(timeout_ms);
        let section = match context {
            Context::Begins(stamp) => {
                let names = [caller, callee].map(|slot| self.registry[self.peers[slot].service].name.to_string());
                return CallContext { root: stamp.to_string(), chain: names.to_vec(), depth: 2, deadline_ms };
            }
            Context::Given => call.section,
            Context::Derived(section) => Section::parse(section).ok(),
        };
        section.expect("a call has a context").to_context(deadline_ms)
    }

    /// Under which text a callee of version 1 may know a call, with its hash: the caller's, unless that is taken.
    pub(crate) fn callee_id_for(&mut self, callee: u32, id: &str) -> (u64, Option<String>) {
        let hash = Calls::hash(&self.hasher, callee, id);
        let is_abandoned = self.peers[callee].abandoned.as_ref().is_some_and(|ids| ids.contains(hash));
        if !is_abandoned && self.calls.find(hash, callee, id).is_none() {
            return (hash, None);
        }
        let fresh = self.fresh_callee_id(callee);
        (Calls::hash(&self.hasher, callee, &fresh), Some(fresh))
    }
}

/// A payload that has to be read on its way, as one of version 1.
pub(crate) fn carried(codec: v2::Codec, payload: &[u8]) -> Result<Payload<'_>, ErrorBody> {
    if codec == v2::Codec::ABSENT {
        return Ok(NOTHING);
    }
    match codec.encoding() {
        Some(encoding) if !payload.is_empty() => Ok(Payload { encoding, bytes: payload }),
        _ => {
            let message = format!("a payload of {} bytes in the codec {} cannot be translated", payload.len(), codec.0);
            Err(ErrorBody::new(ErrorCode::SerializationFailed, message))
        }
    }
}

/// A time that is left, as it travels.
pub(crate) fn wire_ms(timeout_ms: u64) -> u32 {
    u32::try_from(timeout_ms.max(1)).unwrap_or(u32::MAX)
}
