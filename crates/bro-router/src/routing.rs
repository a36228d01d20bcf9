//! CALLs: admitted and passed on to an instance, or refused at once with the reason.

use crate::accounts::Resource;
use crate::calls::{CalleeId, CallerId, Calls, NewCall, Side};
use crate::event::{Event, EventMask};
use crate::outbox::{Outbox, Part};
use crate::peers::NIL;
use crate::reply::{check_frame_bytes, check_frame_size, context_to_echo, holds, payload};
use crate::router::Router;
use crate::timers::Timer;
use crate::v2_call::wire_ms;
use bro_proto::frame::finish_frame;
use bro_proto::limits::{
    CALL_CHARGE_BYTES, CALL_ID_BYTES_MAX, CALL_TIMEOUT_MAX_MS, CHAIN_LEN_MAX, CONTEXT_BYTES_MAX, FRAME_PREFIX_BYTES,
    GATEWAY_SERVICE, METHOD_NAME_BYTES_MAX, ROOT_ID_BYTES_MAX, SERVICE_NAME_BYTES_MAX,
};
use bro_proto::v1::encode::{CallFields, ContextSource, encode_call};
use bro_proto::v1::rewrite::{Patch, rewrite, transcode};
use bro_proto::v1::{ContextHeader, Encoding, Header, Payload, decode};
use bro_proto::v2::encode::CallHead;
use bro_proto::v2::{self, Codec, FrameKind, RootStamp};
use bro_proto::{CallContext, ErrorBody, ErrorCode, Now};

/// A CALL with everything that it must have.
struct Request<'a> {
    id: &'a str,
    to: &'a str,
    method: &'a str,
    /// Until its deadline.
    timeout_ms: u64,
}

/// Services named in the answer to a call of an unknown one.
const NEIGHBOURS_SHOWN_MAX: usize = 8;

impl Router {
    /// A CALL arrived: passes it on, or answers it.
    pub(crate) fn route_call(
        &mut self,
        caller: u32,
        frame: &[u8],
        header: &Header<'_>,
        now: Now,
        out: &mut impl Outbox,
    ) {
        let body = &frame[FRAME_PREFIX_BYTES..];
        if header.id.is_none() {
            // Without an id no answer can be tied to it.
            self.counters.calls_refused += 1;
            let error = ErrorBody::new(ErrorCode::InvalidMessage, "a CALL has no `id`: give each call one of its own");
            self.warn(caller, &error.message, now, out);
            if self.peers[caller].service == NIL {
                self.peers[caller].encoding = header.encoding;
            }
            self.send_error(caller, &error, now, out);
            return;
        }
        let refused = match self.admit(caller, header, now) {
            Ok(request) => match self.registry.find(&self.hasher, request.to) {
                Some(service) => match self.choose_instance(caller, service, None, now) {
                    Ok(callee) => self.forward_call(caller, callee, &request, frame, header, now, out),
                    Err(error) => Err(error),
                },
                None if request.to == GATEWAY_SERVICE => {
                    let params = payload(body, header.params.as_ref(), header.encoding);
                    let context = context_to_echo(body, header);
                    let inquiry = crate::introspect::Inquiry {
                        caller,
                        id: CallerId::Text(request.id),
                        context,
                        timeout_ms: request.timeout_ms,
                    };
                    self.introspect(&inquiry, request.method, params, now, out);
                    Ok(())
                }
                None => Err(self.unknown_service(caller, request.to)),
            },
            Err(error) => Err(error),
        };
        if let Err(error) = refused {
            self.refuse_call(caller, body, header, &error, now, out);
        }
    }

    /// Checks everything about a CALL that does not depend on its callee.
    fn admit<'a>(&self, caller: u32, header: &'a Header<'_>, now: Now) -> Result<Request<'a>, ErrorBody> {
        let invalid = |message: &str| Err(ErrorBody::new(ErrorCode::InvalidMessage, message));
        if self.peers[caller].service == NIL {
            let message = "call before registration: send REGISTER first, and wait for REGISTER_ACK";
            return Err(ErrorBody::new(ErrorCode::NotRegistered, message));
        }
        let id = header.id.as_ref().map_or("", |id| &id.value);
        if id.is_empty() || id.len() > CALL_ID_BYTES_MAX {
            return invalid(&format!("the `id` of a CALL must have 1 to {CALL_ID_BYTES_MAX} bytes"));
        }
        let (Some(to), Some(method)) = (&header.to, &header.method) else {
            return invalid("a CALL must have `to` and `method`");
        };
        let (to, method): (&str, &str) = (&to.value, &method.value);
        if to.is_empty() || to.len() > SERVICE_NAME_BYTES_MAX {
            return invalid(&format!("the `to` of a CALL must have 1 to {SERVICE_NAME_BYTES_MAX} bytes"));
        }
        if method.is_empty() || method.len() > METHOD_NAME_BYTES_MAX {
            return invalid(&format!("the `method` of a CALL must have 1 to {METHOD_NAME_BYTES_MAX} bytes"));
        }
        self.check_call(caller, to, method)?;
        let timeout_ms = match &header.context {
            Some(context) => self.check_context(context, to, method, now)?,
            None => self.config.call_timeout_ms.min(CALL_TIMEOUT_MAX_MS),
        };
        if self.is_draining() && to != GATEWAY_SERVICE {
            let message = "the gateway is shutting down and takes no new calls: call again after reconnecting";
            return Err(ErrorBody::new(ErrorCode::ShuttingDown, message));
        }
        Ok(Request { id, to, method, timeout_ms })
    }

    /// Checks a context, and tells how much time it leaves. Converted here, once: from now on only the monotonic clock
    /// counts, so that a wall clock that jumps kills no call in flight.
    fn check_context(&self, context: &ContextHeader<'_>, to: &str, method: &str, now: Now) -> Result<u64, ErrorBody> {
        let invalid = |message: String| Err(ErrorBody::new(ErrorCode::InvalidContext, message));
        if context.span.len() > CONTEXT_BYTES_MAX {
            return invalid(format!("`context` has more than {CONTEXT_BYTES_MAX} bytes"));
        }
        let root_bytes = context.root.as_ref().map_or(0, |root| root.value.len());
        if root_bytes == 0 || root_bytes > ROOT_ID_BYTES_MAX {
            return invalid(format!("`context.root` must be a string of 1 to {ROOT_ID_BYTES_MAX} bytes"));
        }
        if context.chain.is_none() || context.chain_len == 0 || context.chain_len > CHAIN_LEN_MAX {
            return invalid(format!("`context.chain` must be an array of 1 to {CHAIN_LEN_MAX} service names"));
        }
        let Some(depth) = context.depth.filter(|&depth| depth > 0) else {
            return invalid("`context.depth` must be a number from 1".to_owned());
        };
        let Some(deadline_ms) = context.deadline_ms.filter(|&deadline_ms| deadline_ms > 0) else {
            return invalid("`context.deadline` must be a number of milliseconds since 1970".to_owned());
        };
        let limit = self.config.depth_max;
        if depth > limit {
            let message =
                format!("{to}.{method}: depth {depth} is more than {limit}: do services call each other in a circle?");
            return Err(ErrorBody::new(ErrorCode::MaxDepthExceeded, message));
        }
        let remaining_ms = deadline_ms.saturating_sub(now.wall_ms);
        if remaining_ms == 0 {
            let late_ms = now.wall_ms - deadline_ms;
            let message =
                format!("{to}.{method}: the deadline passed {late_ms} ms before the call reached the gateway");
            return Err(ErrorBody::new(ErrorCode::DeadlineExceeded, message));
        }
        Ok(remaining_ms.min(CALL_TIMEOUT_MAX_MS))
    }

    /// The instance whose turn it is, skipping those that have too much unread. `only` is the only one, if the caller knows it.
    #[inline]
    pub(crate) fn choose_instance(
        &mut self,
        caller: u32,
        service: u32,
        only: Option<u32>,
        now: Now,
    ) -> Result<u32, ErrorBody> {
        let accounts = &self.peers.accounts;
        let is_easy = accounts.is_easy(Resource::Calls) && accounts.is_easy(Resource::Memory);
        if !is_easy {
            self.check_room(caller, Resource::Calls, 1, now)?;
            self.check_room(caller, Resource::Memory, CALL_CHARGE_BYTES, now)?;
        }
        let limit = self.config.in_flight_per_peer_max;
        if self.peers[caller].calls[Side::Caller as usize].len as usize >= limit {
            self.counters.refused_quota += 1;
            let message = format!("{limit} calls of this connection are in flight already: wait for answers first");
            return Err(ErrorBody::new(ErrorCode::ResourceExhausted, message));
        }
        let (bytes_max, calls_max) = (self.config.queue_calls_bytes_max, self.config.in_flight_per_callee_max);
        let is_open = |&slot: &u32| {
            let peer = &self.peers[slot];
            let asked = peer.calls[Side::Callee as usize].len as usize;
            let has_room = (peer.queued_bytes <= bytes_max && asked < calls_max) || self.may_crowd(caller, slot);
            has_room && !peer.is_doomed && !peer.is_leaving && (is_easy || self.has_memory(slot))
        };
        if let Some(callee) = only.filter(is_open) {
            return Ok(callee);
        }
        let Some(callee) = self.registry.ring(&self.peers, service).find(is_open) else {
            return Err(self.no_instance(service));
        };
        self.registry.advance(&self.peers, service, callee);
        Ok(callee)
    }

    #[cold]
    fn no_instance(&mut self, service: u32) -> ErrorBody {
        let name = &self.registry[service].name;
        if self.registry.ring(&self.peers, service).all(|slot| self.peers[slot].is_leaving) {
            let message = format!("{name} is shutting down and takes no new calls");
            return ErrorBody::new(ErrorCode::ShuttingDown, message);
        }
        let (bytes_max, calls_max) = (self.config.queue_calls_bytes_max, self.config.in_flight_per_callee_max);
        let is_asked_much = |slot: u32| self.peers[slot].calls[Side::Callee as usize].len as usize >= calls_max;
        let message = if self.registry.ring(&self.peers, service).any(is_asked_much) {
            format!("{name} has {calls_max} calls in flight: call again when it has answered some")
        } else {
            format!("{name} has more than {bytes_max} bytes unread: call again when it has caught up")
        };
        self.counters.refused_overloaded += 1;
        ErrorBody::new(ErrorCode::Overloaded, message)
    }

    #[allow(clippy::too_many_arguments, reason = "the two parties, the call in two forms, and the world")]
    fn forward_call(
        &mut self,
        caller: u32,
        callee: u32,
        request: &Request<'_>,
        frame: &[u8],
        header: &Header<'_>,
        now: Now,
        out: &mut impl Outbox,
    ) -> Result<(), ErrorBody> {
        if self.peers[callee].v2.is_some() {
            return self.forward_call_to_v2(caller, callee, request, frame, header, now, out);
        }
        let (hash, callee_id) = self.callee_id_for(callee, request.id);
        let callee_id = callee_id.as_deref();
        let body = &frame[FRAME_PREFIX_BYTES..];
        let target = self.peers[callee].encoding;
        let caller_name = &*self.registry[self.peers[caller].service].name;
        let is_unchanged = callee_id.is_none()
            && header.encoding == target
            && header.context.is_some()
            && holds(header.from.as_ref(), caller_name);
        let mut rewritten = std::mem::take(&mut self.scratch);
        let mut made = None;
        if !is_unchanged {
            if header.context.is_none() {
                let mut context = CallContext::create(caller_name, request.timeout_ms, now, &mut self.rng);
                context = context.extend(request.to);
                made = Some(context);
            }
            let id = callee_id.unwrap_or(request.id);
            let draft = Draft { id, from: caller_name, request, made: made.as_ref() };
            let checked = draft
                .write(body, header, target, &mut rewritten)
                .and_then(|()| check_frame_size(&rewritten, self.config.frame_bytes_max, "the call"));
            if let Err(error) = checked {
                self.keep_scratch(rewritten);
                return Err(error);
            }
        }
        let deadline = now.mono_ms().saturating_add(request.timeout_ms);
        let call = NewCall {
            caller,
            callee,
            id: CallerId::Text(request.id),
            callee_id: callee_id.map_or(CalleeId::Shared(hash), |id| CalleeId::Own(hash, id)),
            method: request.method,
            context: context_to_echo(body, header),
            section: &[],
            root: 0,
            parent: NIL,
            timer: self.timers.insert(deadline, Timer::Call(self.calls.next_index())),
            started_us: now.mono_us,
            timeout_ms: request.timeout_ms,
        };
        self.calls.insert(&mut self.peers, call);
        self.counters.calls_routed += 1;
        let part = if is_unchanged { Part::Inbound(frame) } else { Part::Scratch(&rewritten) };
        self.peers.send_unpaused(callee, &[part], now, &mut self.timers, &mut self.counters, out);
        self.keep_scratch(rewritten);
        if self.reporter.wants(EventMask::CALLS) {
            self.report_call(caller, request, body, header, made.as_ref(), now, out);
        }
        Ok(())
    }

    /// To a callee of version 2: the params from where they lie, behind a head of that version.
    #[allow(clippy::too_many_arguments, reason = "the two parties, the call in two forms, and the world")]
    fn forward_call_to_v2(
        &mut self,
        caller: u32,
        callee: u32,
        request: &Request<'_>,
        frame: &[u8],
        header: &Header<'_>,
        now: Now,
        out: &mut impl Outbox,
    ) -> Result<(), ErrorBody> {
        let body = &frame[FRAME_PREFIX_BYTES..];
        let (mut root, mut section) = (0, Vec::new());
        match &header.context {
            Some(context) => {
                let context = decode::context(body, context, header.encoding)?;
                let chain: Vec<&str> = context.chain.iter().map(String::as_str).collect();
                v2::section::write(&mut section, &context.root, context.depth, chain.into_iter())
                    .map_err(|error| ErrorBody::new(ErrorCode::InvalidContext, error.to_string()))?;
                self.check_section_room(caller, section.len(), now)?;
            }
            None => {
                self.roots = self.roots.wrapping_add(1);
                root = RootStamp::new(now.wall_ms, self.roots).0;
            }
        }
        let params = payload(body, header.params.as_ref(), header.encoding);
        let frame_bytes = v2::CALL_HEAD_BYTES + request.method.len() + section.len() + params.bytes.len();
        check_frame_bytes(frame_bytes, self.config.frame_bytes_max, "the call")?;
        let deadline = now.mono_ms().saturating_add(request.timeout_ms);
        let new = NewCall {
            caller,
            callee,
            id: CallerId::Text(request.id),
            callee_id: CalleeId::Number,
            method: request.method,
            context: context_to_echo(body, header),
            section: &section,
            root,
            parent: NIL,
            timer: self.timers.insert(deadline, Timer::Call(self.calls.next_index())),
            started_us: now.mono_us,
            timeout_ms: request.timeout_ms,
        };
        let index = self.calls.insert(&mut self.peers, new);
        self.counters.calls_routed += 1;
        let peer = self.introduce(callee, caller, now, out);
        let head = CallHead {
            kind: FrameKind::Call,
            id: self.calls.number(index),
            origin: 0,
            root,
            peer,
            timeout_ms: wire_ms(request.timeout_ms),
            method: request.method,
            section: &section,
            codec: Codec::of(params),
        };
        self.send_call(callee, &head, params.bytes, now, out);
        if self.reporter.wants(EventMask::CALLS) {
            self.report_call_v2(index, now, out);
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "a call in three forms, and the world")]
    #[cold]
    fn report_call(
        &mut self,
        caller: u32,
        request: &Request<'_>,
        body: &[u8],
        header: &Header<'_>,
        made: Option<&CallContext>,
        now: Now,
        out: &mut impl Outbox,
    ) {
        let mut json = Vec::new();
        let written = match made {
            Some(context) => {
                bro_proto::v1::encode::write_context(&mut json, Encoding::Json, context);
                Ok(())
            }
            None => transcode(context_to_echo(body, header), Encoding::Json, &mut json),
        };
        let context_json = match written {
            Ok(()) => std::str::from_utf8(&json).unwrap_or("null"),
            Err(_) => "null",
        };
        let event = Event::CallRouted {
            from: &self.registry[self.peers[caller].service].name,
            to: request.to,
            method: request.method,
            request_id: request.id,
            context_json,
        };
        self.reporter.report(event, now, out);
    }

    /// An id that the callee has not in flight. Random, so that callers cannot take such ids beforehand.
    #[cold]
    pub(crate) fn fresh_callee_id(&mut self, callee: u32) -> String {
        loop {
            let id = format!("bro-{:016x}", self.rng.next_u64());
            if self.calls.find(Calls::hash(&self.hasher, callee, &id), callee, &id).is_none() {
                return id;
            }
        }
    }

    #[cold]
    pub(crate) fn unknown_service(&self, caller: u32, name: &str) -> ErrorBody {
        if self.peers[caller].restriction.is_some() {
            return ErrorBody::new(ErrorCode::ServiceNotFound, format!("service {name:?} is not registered"));
        }
        let mut message = format!("service {name:?} is not registered (");
        // The caller itself, which may be no service but in name, is nobody to call.
        let own = self.peers[caller].serial;
        let count = self.registry.len().saturating_sub(1);
        message.push_str(if count == 0 { "no other is" } else { "registered: " });
        for (at, service) in self.registry.some(own, NEIGHBOURS_SHOWN_MAX).enumerate() {
            message.push_str(if at == 0 { "" } else { ", " });
            message.push_str(&service.name);
        }
        if count > NEIGHBOURS_SHOWN_MAX {
            message.push_str(&format!(" and {} more", count - NEIGHBOURS_SHOWN_MAX));
        }
        message.push(')');
        ErrorBody::new(ErrorCode::ServiceNotFound, message)
    }
}

/// A CALL that has to be written anew.
struct Draft<'a> {
    id: &'a str,
    from: &'a str,
    request: &'a Request<'a>,
    /// The context, when the caller gave none.
    made: Option<&'a CallContext>,
}

impl Draft<'_> {
    /// Appends the frame.
    fn write(&self, body: &[u8], header: &Header<'_>, target: Encoding, out: &mut Vec<u8>) -> Result<(), ErrorBody> {
        let written = match (&header.id, &header.from, self.made) {
            (Some(id), Some(from), None) => {
                out.extend_from_slice(&[0; FRAME_PREFIX_BYTES]);
                let mut patches = [
                    Patch { span: id.span.clone(), text: self.id },
                    Patch { span: from.span.clone(), text: self.from },
                ];
                patches.sort_unstable_by_key(|patch| patch.span.start);
                rewrite(body, header.encoding, target, &patches, out).map(|()| finish_frame(out, 0))
            }
            _ => {
                let context = match (self.made, &header.context) {
                    (Some(made), _) => ContextSource::Owned(made),
                    (None, context) => {
                        let span = context.as_ref().map(|context| &context.span);
                        ContextSource::Encoded(payload(body, span, header.encoding))
                    }
                };
                let params: Payload<'_> = payload(body, header.params.as_ref(), header.encoding);
                let Request { to, method, .. } = *self.request;
                encode_call(out, target, &CallFields { id: self.id, from: self.from, to, method, params, context })
            }
        };
        written.map_err(|error| {
            let message = format!("the call cannot be written as {}: {error}", target.as_str());
            ErrorBody::new(ErrorCode::SerializationFailed, message)
        })
    }
}
