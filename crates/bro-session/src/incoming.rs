//! CALL frames: refusing, handing out, answering.

use crate::answers::Received;
use crate::conns::ConnId;
use crate::event::{Request, SessionEvent};
use crate::requests::{Echo, RequestId};
use crate::session::{Session, Timer, append_error, check_reach, later_ms, unsendable};
use bro_proto::context::CallContext;
use bro_proto::error::{ErrorBody, ErrorCode};
use bro_proto::limits::{
    CALL_ID_BYTES_MAX, CALL_TIMEOUT_MAX_MS, CLIENT_QUEUE_ERRORS_BYTES_MAX, METHOD_NAME_BYTES_MAX, PING_METHOD,
    SERVICE_NAME_BYTES_MAX,
};
use bro_proto::time::Now;
use bro_proto::v1::encode::{ContextSource, Outcome, ResponseFields, encode_response};
use bro_proto::v1::{Encoding, Payload, check_nesting, decode};

const PONG: Payload<'static> = Payload { encoding: Encoding::Json, bytes: br#"{"pong":true}"# };

impl Session {
    /// A CALL: becomes a request for the driver, or is answered here.
    pub(crate) fn handle_call(&mut self, conn: ConnId, received: &Received<'_>, now: Now) {
        let header = &received.header;
        let id = header.id.as_ref().map_or("", |id| &*id.value);
        let from = header.from.as_ref().map_or("", |from| &*from.value);
        if id.is_empty() || id.len() > CALL_ID_BYTES_MAX || from.len() > SERVICE_NAME_BYTES_MAX {
            return self.tell_invalid("CALL that cannot be answered: no id, or a name or an id that is too long");
        }
        let context = header.context.as_ref().map(|context| received.borrow(&context.span));
        let echo = Echo::new(id, from, context);
        match self.admit(conn, received, from, now) {
            Ok(Admitted::Ping) => self.answer(conn, &echo, Outcome::Success(PONG), now),
            Ok(Admitted::Request { method, context }) => {
                let request_id = id.to_owned();
                let from = from.to_owned();
                let remaining_ms = context.remaining_ms(now).min(CALL_TIMEOUT_MAX_MS);
                let id = self.requests.insert(conn, echo);
                let timer = self.timers.insert(later_ms(now, remaining_ms), Timer::Request(id));
                self.requests.set_timer(id, timer);
                self.counters.requests += 1;
                let params = received.keep(header.params.as_ref());
                self.tell(SessionEvent::Request(Box::new(Request { id, request_id, from, method, params, context })));
            }
            Err(error) => {
                self.counters.requests_refused += 1;
                self.answer(conn, &echo, Outcome::Error(&error), now);
            }
        }
    }

    /// Sends the one RESPONSE to a request. Never refused: what cannot be sent is replaced by a small error.
    pub(crate) fn answer(&mut self, conn_id: ConnId, echo: &Echo, outcome: Outcome<'_>, now: Now) {
        let config = &self.config;
        let Some(conn) = self.pool.open(conn_id) else { return };
        let waiting = conn.outbound.len();
        let outbound = &mut conn.outbound;
        let mut send = |outcome: Outcome<'_>, with_context: bool| {
            let context = echo.context().filter(|_| with_context).map(ContextSource::Encoded);
            let fields =
                ResponseFields { id: echo.id(), from: &config.service_name, to: echo.from(), outcome, context };
            outbound.append(config.frame_bytes_max, |out| encode_response(out, config.encoding, &fields))
        };
        let result_bytes = match outcome {
            Outcome::Success(result) => result.bytes.len(),
            Outcome::Error(error) => error.message.len() + error.stack.as_ref().map_or(0, String::len),
        };
        let sent = if waiting + result_bytes > config.outbound_bytes_max() {
            let why = format!("no room for the answer: {waiting} bytes wait for the gateway to read them");
            Err(ErrorBody::new(ErrorCode::Overloaded, why))
        } else if let Outcome::Success(result) = outcome
            && let Err(error) = check_nesting(result)
        {
            Err(unsendable(error))
        } else {
            send(outcome, true).map_err(|error| append_error(error, config.frame_bytes_max))
        };
        if let Err(error) = sent {
            if send(Outcome::Error(&error), true).is_err() {
                send(Outcome::Error(&error), false).expect("a short error fits every limit");
            }
            let waiting = outbound.len();
            self.tell(SessionEvent::Error(error));
            if waiting > self.config.outbound_bytes_max() + CLIENT_QUEUE_ERRORS_BYTES_MAX {
                let why = format!("the gateway does not read: {waiting} bytes wait for it");
                return self.lose_broken(conn_id, ErrorBody::new(ErrorCode::ConnectionLost, why), now);
            }
        }
        self.queued(conn_id, now);
    }

    /// A request's deadline has passed.
    pub(crate) fn expire_request(&mut self, id: RequestId, now: Now) {
        let error = ErrorBody::new(ErrorCode::Timeout, "the deadline passed while the method was at work");
        self.refuse_request(id, &error, ErrorCode::Timeout, now);
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
            let Some(in_work) = self.requests.remove(id) else { continue };
            if let Some(timer) = in_work.timer {
                self.timers.remove(timer);
            }
            self.tell(SessionEvent::RequestExpired { id, reason: ErrorCode::ConnectionLost });
        }
    }

    fn refuse_request(&mut self, id: RequestId, error: &ErrorBody, reason: ErrorCode, now: Now) {
        if self.respond(id, Outcome::Error(error), now) {
            self.tell(SessionEvent::RequestExpired { id, reason });
        }
    }

    fn admit(&mut self, conn: ConnId, received: &Received<'_>, from: &str, now: Now) -> Result<Admitted, ErrorBody> {
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
        if method == PING_METHOD {
            return Ok(Admitted::Ping);
        }
        if !self.methods.contains(method) {
            let why = format!("service {:?} has no method {method:?}", self.config.service_name);
            return Err(ErrorBody::new(ErrorCode::MethodNotFound, why));
        }
        let waiting = self.pool.open(conn).map_or(0, |conn| conn.outbound.len());
        if self.requests.is_full() || waiting > self.config.queue_bytes_max {
            let why = format!("{} calls are being worked on, {waiting} bytes of answers wait", self.requests.len());
            return Err(ErrorBody::new(ErrorCode::Overloaded, why));
        }
        Ok(Admitted::Request { method: method.to_owned(), context })
    }
}

/// What becomes of a CALL that is not refused.
enum Admitted {
    /// Answered by the session itself.
    Ping,
    /// For the driver.
    Request { method: String, context: CallContext },
}
