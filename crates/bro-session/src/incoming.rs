//! CALL frames: refusing, handing out, answering.

use crate::answers::Received;
use crate::calls::CallId;
use crate::conns::ConnId;
use crate::context::RequestContext;
use crate::event::{Origin, OwnedPayload, Request, SessionEvent};
use crate::requests::{Echo, InWork, RequestId, RequestKey, TextEcho};
use crate::session::{Session, Timer, append_error, check_depth, check_reach, later_ms, too_large, unsendable};
use bro_proto::context::CallContext;
use bro_proto::error::{ErrorBody, ErrorCode};
use bro_proto::limits::{
    CALL_ID_BYTES_MAX, CALL_TIMEOUT_MAX_MS, FRAME_PREFIX_BYTES, METHOD_NAME_BYTES_MAX, PING_METHOD,
    SERVICE_NAME_BYTES_MAX,
};
use bro_proto::time::Now;
use bro_proto::v1::encode::{ContextSource, Outcome, ResponseFields, encode_response};
use bro_proto::v1::{Encoding, Payload, check_nesting, decode};
use bro_proto::v2::{self, CallNumber, Codec, HEAD_BYTES};
use bytes::Bytes;
use std::sync::Arc;

const PONG: Payload<'static> = Payload { encoding: Encoding::Json, bytes: br#"{"pong":true}"# };

/// What becomes of a call that is not refused.
enum Admitted<T> {
    /// Answered by the session itself.
    Ping,
    /// For the driver.
    Request(T),
}

/// Commands.
impl Session {
    /// Answers a request. False when it needs no answer any more: answered before, expired, or its connection is lost.
    ///
    /// A result that cannot be sent (too large, not transcodable) is answered with that error instead, and
    /// [`SessionEvent::Error`] tells. Of a request that wants no answer this is only the end.
    pub fn respond(&mut self, id: RequestId, outcome: Outcome<'_>, now: Now) -> bool {
        self.now = now;
        let Some(in_work) = self.take_request(id) else { return false };
        self.answer(in_work.conn, &in_work.from, &in_work.echo, outcome, now);
        true
    }
}

impl Session {
    /// A CALL of version 1: becomes a request for the driver, or is answered here.
    pub(crate) fn handle_call(&mut self, conn: ConnId, received: &Received<'_>, now: Now) {
        let header = &received.header;
        let id = header.id.as_ref().map_or("", |id| &*id.value);
        let from = header.from.as_ref().map_or("", |from| &*from.value);
        if id.is_empty() || id.len() > CALL_ID_BYTES_MAX || from.len() > SERVICE_NAME_BYTES_MAX {
            return self.tell_invalid("CALL that cannot be answered: no id, or a name or an id that is too long");
        }
        let context = header.context.as_ref().map(|context| received.borrow(&context.span));
        let context = context.map(|context| (context.encoding, context.bytes.into()));
        let id: Arc<str> = id.into();
        let from: Arc<str> = from.into();
        let echo = Echo::V1(Box::new(TextEcho { id: id.clone(), context }));
        let admitted = self.admit_text(conn, received, &from, now);
        let admitted = admitted.and_then(|admitted| Ok((admitted, self.read_value(received, header.params.as_ref())?)));
        match admitted {
            Ok((Admitted::Ping, _)) => self.answer(conn, &from, &echo, Outcome::Success(PONG), now),
            Ok((Admitted::Request((method, context)), params)) => {
                let due_ms = later_ms(now, context.remaining_ms(now).min(CALL_TIMEOUT_MAX_MS));
                let context = RequestContext::whole(context);
                let in_work = InWork { conn, from, echo, context, due_ms, children: Vec::new(), timer: None };
                self.hand_out(in_work, RequestKey::V1(id), method, params);
            }
            Err(error) => {
                self.counters.requests_refused += 1;
                self.answer(conn, &from, &echo, Outcome::Error(&error), now);
            }
        }
    }

    /// A CALL or a NOTIFY of version 2.
    pub(crate) fn handle_numbered_call(
        &mut self,
        conn: ConnId,
        call: &v2::Call<'_>,
        is_notification: bool,
        chunk: &Bytes,
        now: Now,
    ) {
        let Some(link) = self.pool.link(conn) else { return };
        let Some(from) = link.names.find(call.peer).cloned() else {
            return self.break_off(conn, "a call of a caller whose name was not told", now);
        };
        if is_notification != (call.id == 0) || link.numbers.contains(call.id) {
            return self.break_off(conn, "a call whose number is taken, or not as its kind demands", now);
        }
        let echo = if is_notification { Echo::Nobody } else { Echo::V2 { number: call.id } };
        match self.admit_numbered(conn, call, chunk) {
            Ok(Admitted::Ping) => self.answer(conn, &from, &echo, Outcome::Success(PONG), now),
            Ok(Admitted::Request((method, params))) => {
                let asked_ms = (call.timeout_ms > 0).then_some(u64::from(call.timeout_ms));
                let timeout_ms = self.config.call_timeout_ms(asked_ms);
                let deadline_ms = now.wall_ms.saturating_add(timeout_ms);
                let context = match &call.section {
                    Some(section) => RequestContext::of_section(section, deadline_ms),
                    None => RequestContext::begun(call.root, deadline_ms),
                };
                let in_work = InWork {
                    conn,
                    from,
                    echo,
                    context,
                    due_ms: later_ms(now, timeout_ms),
                    children: Vec::new(),
                    timer: None,
                };
                // A caller of version 1 has no number: the gateway's tells the calls apart.
                let number = if call.origin == 0 { call.id } else { call.origin };
                self.hand_out(in_work, RequestKey::V2(CallNumber::from_wire(number)), method, params);
            }
            Err(error) => {
                self.counters.requests_refused += 1;
                self.answer(conn, &from, &echo, Outcome::Error(&error), now);
            }
        }
    }

    fn hand_out(&mut self, in_work: InWork, request_id: RequestKey, method: Arc<str>, params: OwnedPayload) {
        let (conn, due_ms) = (in_work.conn, in_work.due_ms);
        let (from, context) = (in_work.from.clone(), in_work.context.clone());
        let wants_answer = !matches!(in_work.echo, Echo::Nobody);
        let is_from_stamped = self.pool.stamps_callers(conn);
        let number = if let Echo::V2 { number } = in_work.echo { Some(number) } else { None };
        let id = self.requests.insert(in_work);
        if conn.is_lane() {
            self.lane_taken(conn);
        }
        if let Some(number) = number
            && let Some(link) = self.pool.link(conn)
        {
            link.numbers.insert(number, id);
        }
        let timer = self.timers.insert(due_ms, Timer::Request(id));
        self.requests.set_timer(id, timer);
        self.counters.requests += 1;
        let request = Request { id, request_id, from, is_from_stamped, method, params, context, wants_answer };
        self.tell(SessionEvent::Request(request));
    }

    /// Takes a request out of work, with everything that leads to it.
    pub(crate) fn take_request(&mut self, id: RequestId) -> Option<InWork> {
        let in_work = self.requests.remove(id)?;
        if let Some(timer) = in_work.timer {
            self.timers.remove(timer);
        }
        if let Echo::V2 { number } = in_work.echo
            && let Some(link) = self.pool.link(in_work.conn)
        {
            link.numbers.remove(number);
        }
        if in_work.conn.is_lane() {
            self.lane_released(in_work.conn);
        }
        Some(in_work)
    }

    /// Sends the one answer to a request, if it wants one. Never refused: what cannot be sent is replaced by a small error.
    pub(crate) fn answer(&mut self, conn_id: ConnId, from: &str, echo: &Echo, outcome: Outcome<'_>, now: Now) {
        let config = &self.config;
        let Some(conn) = self.pool.open(conn_id) else { return };
        let waiting = conn.outbound.len();
        let outbound = &mut conn.outbound;
        let frame_bytes_max = config.frame_bytes_max;
        let mut send = |outcome: Outcome<'_>, with_context: bool| match echo {
            Echo::V1(text) => {
                let id = &text.id;
                let context = echo.context().filter(|_| with_context).map(ContextSource::Encoded);
                let fields = ResponseFields { id, from: &config.service_name, to: from, outcome, context };
                let queued = outbound.append(frame_bytes_max, |out| encode_response(out, config.encoding, &fields));
                queued.map_err(|error| append_error(error, frame_bytes_max))
            }
            Echo::V2 { number } => match outcome {
                Outcome::Success(result) => {
                    let body_bytes = HEAD_BYTES - FRAME_PREFIX_BYTES + result.bytes.len();
                    if body_bytes > frame_bytes_max {
                        return Err(too_large(body_bytes, frame_bytes_max));
                    }
                    outbound.extend(|out| {
                        v2::encode::response_head(out, *number, Codec::of(result), result.bytes.len());
                        out.extend_from_slice(result.bytes);
                    });
                    Ok(())
                }
                Outcome::Error(error) => {
                    let queued = outbound.append(frame_bytes_max, |out| {
                        v2::encode::error(out, *number, error, false);
                        Ok(())
                    });
                    queued.map_err(|error| append_error(error, frame_bytes_max))
                }
            },
            Echo::Nobody => Ok(()),
        };
        let result_bytes = match outcome {
            Outcome::Success(result) => result.bytes.len(),
            Outcome::Error(error) => error.message.len() + error.stack.as_ref().map_or(0, String::len),
        };
        let sent = if matches!(echo, Echo::Nobody) {
            return;
        } else if waiting + result_bytes > config.outbound_bytes_max() {
            let why = format!("no room for the answer: {waiting} bytes wait for the gateway to read them");
            Err(ErrorBody::new(ErrorCode::Overloaded, why))
        } else if let Outcome::Success(result) = outcome
            && let Err(error) = check_nesting(result)
        {
            Err(unsendable(error))
        } else {
            send(outcome, true)
        };
        let Err(error) = sent else { return self.queued(conn_id, now) };
        if send(Outcome::Error(&error), true).is_err() {
            send(Outcome::Error(&error), false).expect("a short error fits every limit");
        }
        self.tell(SessionEvent::Error(error));
        self.queued_unasked(conn_id, now);
    }

    /// A request's deadline has passed.
    pub(crate) fn expire_request(&mut self, id: RequestId, now: Now) {
        let error = ErrorBody::new(ErrorCode::Timeout, "the deadline passed while the method was at work");
        self.refuse_request(id, &error, ErrorCode::Timeout, now);
    }

    /// A request's caller does not wait any more, says the gateway.
    pub(crate) fn give_up_request(&mut self, conn: ConnId, number: u64, reason: v2::CancelReason) {
        let Some(id) = self.pool.link(conn).and_then(|link| link.numbers.find(number)) else { return };
        if let Some(in_work) = self.take_request(id) {
            self.cancel_children(in_work.children);
            self.requests.note_given_up(id, reason);
            self.tell(SessionEvent::RequestExpired { id, reason: reason.code() });
        }
    }

    /// Answers all requests in work, for a client that disconnects.
    pub(crate) fn refuse_requests(&mut self, now: Now) {
        let error = ErrorBody::new(ErrorCode::ShuttingDown, "the service is shutting down");
        for id in self.requests.select(None) {
            self.refuse_request(id, &error, ErrorCode::ShuttingDown, now);
        }
    }

    /// Forgets the requests of a lost connection: their callers cannot be reached.
    pub(crate) fn drop_requests(&mut self, conn: ConnId) {
        for id in self.requests.select(Some(conn)) {
            if let Some(in_work) = self.take_request(id) {
                self.cancel_children(in_work.children);
                self.tell(SessionEvent::RequestExpired { id, reason: ErrorCode::ConnectionLost });
            }
        }
    }

    fn refuse_request(&mut self, id: RequestId, error: &ErrorBody, reason: ErrorCode, now: Now) {
        let children = self.requests.get_mut(id).map(|in_work| std::mem::take(&mut in_work.children));
        if self.respond(id, Outcome::Error(error), now) {
            self.cancel_children(children.unwrap_or_default());
            self.tell(SessionEvent::RequestExpired { id, reason });
        }
    }

    /// Ends calls that were made for a request which was given up.
    fn cancel_children(&mut self, children: Vec<CallId>) {
        for id in children {
            let Some(pending) = self.take_call(id) else { continue };
            self.send_cancel(&pending, v2::CancelReason::Cancelled, self.now);
            let error = ErrorBody::new(ErrorCode::Cancelled, "the request that this call was made for was given up");
            let request_id = pending.key;
            self.tell(SessionEvent::CallDone { id, request_id, outcome: Err(error), origin: Origin::Local });
        }
    }

    fn admit_text(
        &mut self,
        conn: ConnId,
        received: &Received<'_>,
        from: &str,
        now: Now,
    ) -> Result<Admitted<(Arc<str>, CallContext)>, ErrorBody> {
        let header = &received.header;
        let Some(method) = &header.method else {
            return Err(ErrorBody::new(ErrorCode::InvalidMessage, "CALL without method"));
        };
        let context = match &header.context {
            Some(context) => decode::context(received.body(), context, header.encoding)?,
            None => {
                let timeout_ms = self.config.call_timeout_ms(None);
                CallContext::create(from, timeout_ms, now, &mut self.rng).extend(&self.config.service_name)
            }
        };
        check_reach(context.depth, context.deadline_ms, now)?;
        let method = &*method.value;
        if method.len() > METHOD_NAME_BYTES_MAX {
            let why = format!("method name of {} bytes, at most {METHOD_NAME_BYTES_MAX} are accepted", method.len());
            return Err(ErrorBody::new(ErrorCode::InvalidMessage, why));
        }
        Ok(match self.admit_method(conn, method)? {
            Admitted::Ping => Admitted::Ping,
            Admitted::Request(method) => Admitted::Request((method, context)),
        })
    }

    fn admit_numbered(
        &mut self,
        conn: ConnId,
        call: &v2::Call<'_>,
        chunk: &Bytes,
    ) -> Result<Admitted<(Arc<str>, OwnedPayload)>, ErrorBody> {
        check_depth(call.section.map_or(2, |section| section.depth))?;
        Ok(match self.admit_method(conn, call.method)? {
            Admitted::Ping => Admitted::Ping,
            Admitted::Request(method) => {
                Admitted::Request((method, self.read_payload(call.codec, call.payload, chunk)?))
            }
        })
    }

    fn admit_method(&mut self, conn: ConnId, method: &str) -> Result<Admitted<Arc<str>>, ErrorBody> {
        if method == PING_METHOD {
            return Ok(Admitted::Ping);
        }
        let Some(method) = self.methods.find(method) else {
            let why = format!("service {:?} has no method {method:?}", self.config.service_name);
            return Err(ErrorBody::new(ErrorCode::MethodNotFound, why));
        };
        let waiting = self.pool.open(conn).map_or(0, |conn| conn.outbound.len());
        if self.requests.is_full() || waiting > self.config.queue_bytes_max {
            let why = format!("{} calls are being worked on, {waiting} bytes of answers wait", self.requests.len());
            return Err(ErrorBody::new(ErrorCode::Overloaded, why));
        }
        Ok(Admitted::Request(method.clone()))
    }
}
