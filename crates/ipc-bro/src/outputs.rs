//! What the connection task does with what its session tells it.

use crate::context::Context;
use crate::driver::{Control, Task, Working};
use crate::error::{Error, FailedBy, HandlerError};
use crate::event::ClientEvent;
use crate::handler;
use crate::payload::RawPayload;
use bro_proto::v1::encode::Outcome;
use bro_proto::{ErrorBody, ErrorCode, Now};
use bro_session::{CallId, CallKey, Origin, Output, OwnedPayload, Request, RequestId, SessionEvent};
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;

impl Task {
    /// Does everything that the session has to say. False when that was nothing.
    pub(crate) fn take_outputs(&mut self, now: Now) -> bool {
        let mut is_busy = false;
        while let Some(output) = self.session.poll_output() {
            is_busy = true;
            match output {
                Output::Connect(conn) => self.sockets.open(conn),
                Output::Close { conn, unsent } => self.sockets.close(conn, unsent),
                Output::Event(event) => self.take_event(event, now),
            }
        }
        is_busy
    }

    fn take_event(&mut self, event: SessionEvent, now: Now) {
        match event {
            SessionEvent::Connected => {
                self.shared.state.connected.store(true, Ordering::Release);
                self.log("connected", || None);
                self.shared.events.record(|| ClientEvent::Connected);
            }
            SessionEvent::Registered => {
                self.shared.state.registered.store(true, Ordering::Release);
                self.log("registered", || None);
                self.shared.events.record(|| ClientEvent::Registered);
                self.end_connect(Ok(()));
            }
            SessionEvent::AlreadyConnected => self.end_connect(Ok(())),
            SessionEvent::ConnectFailed(body) => {
                self.log("not connected", || Some(describe(&body)));
                self.end_connect(Err(Error::from_body(body.clone(), blame_for_connecting(&body))));
            }
            SessionEvent::Disconnected { reason } => {
                self.shared.state.registered.store(false, Ordering::Release);
                self.shared.state.connected.store(false, Ordering::Release);
                self.log("disconnected", || Some(serde_json::json!({ "reason": reason })));
                self.shared.events.record(|| ClientEvent::Disconnected { reason });
            }
            SessionEvent::Reconnecting { attempt, delay_ms, error } => self.log("reconnecting", || {
                Some(serde_json::json!({ "attempt": attempt, "delayMs": delay_ms, "error": describe(&error) }))
            }),
            SessionEvent::Request(request) => self.begin_request(*request, now),
            SessionEvent::RequestExpired { id, reason } => self.expire_request(id, &reason),
            SessionEvent::CallDone { id, request_id, outcome, origin } => {
                self.end_call(id, request_id, outcome, origin);
            }
            SessionEvent::GatewayError(body) => {
                self.log("gateway error", || Some(describe(&body)));
                self.shared.events.record(|| ClientEvent::GatewayError {
                    message: body.message,
                    code: body.code.unwrap_or(ErrorCode::InternalError),
                    stack: body.stack,
                });
            }
            SessionEvent::Error(body) => {
                self.log("error", || Some(describe(&body)));
                self.shared.events.record(|| ClientEvent::Error(Error::from_body(body, FailedBy::Local)));
            }
        }
    }

    fn end_connect(&mut self, outcome: Result<(), Error>) {
        for waiting in self.connecting.drain(..) {
            // Nobody may be waiting any more.
            let _ = waiting.send(outcome.clone());
        }
    }

    fn end_call(&mut self, id: CallId, request_id: CallKey, outcome: Result<OwnedPayload, ErrorBody>, origin: Origin) {
        let Some(pending) = self.take_pending(id) else { return };
        let error = outcome.as_ref().err().map(|body| body.message.as_str());
        if self.shared.debug {
            self.log("call ended", || Some(serde_json::json!({ "id": request_id.to_string(), "error": error })));
        }
        self.shared.events.record(|| ClientEvent::ResponseReceived {
            request_id: request_id.to_string(),
            success: error.is_none(),
            error: error.map(str::to_owned),
        });
        pending.reply.send(match outcome {
            Ok(payload) => Ok(RawPayload::checked(payload.encoding, payload.bytes)),
            Err(body) => Err(Error::from_body(
                body,
                match origin {
                    Origin::Local => FailedBy::Local,
                    Origin::Gateway => FailedBy::Gateway,
                    Origin::Service => FailedBy::Service(pending.service),
                },
            )),
        });
    }

    fn begin_request(&mut self, request: Request, now: Now) {
        let Some((method, handler)) = self.shared.methods.find(&request.method) else {
            // Unregistered a moment ago.
            let body = ErrorBody::new(ErrorCode::MethodNotFound, format!("there is no method `{}`", request.method));
            self.session.respond(request.id, Outcome::Error(&body), now);
            return;
        };
        let params = RawPayload::checked(request.params.encoding, request.params.bytes);
        let context = Context::new(request.context, request.from, method, request.request_id, self.client.clone());
        let answering = Answering { id: request.id, control: self.shared.control.clone(), is_answered: false };
        let work = handler::run(handler, params, context.clone());
        let handler = tokio::spawn(async move { answering.send(work.await) }).abort_handle();
        self.working.insert(request.id.slot, request.id, Working { context, handler });
    }

    fn expire_request(&mut self, id: RequestId, reason: &ErrorCode) {
        let Some(working) = self.working.take(id.slot, id) else { return };
        working.handler.abort();
        self.shared.events.record(|| ClientEvent::MethodExecuted {
            method: working.context.method().to_owned(),
            request_id: working.context.request_id().to_owned(),
            success: false,
            error: Some(format!("stopped: {reason}")),
        });
    }
}

/// Answers a request when its handler's task ends in any way, even by a panic in a drop.
struct Answering {
    id: RequestId,
    control: mpsc::UnboundedSender<Control>,
    is_answered: bool,
}

impl Answering {
    fn send(mut self, answer: Result<RawPayload, HandlerError>) {
        self.is_answered = true;
        // An error means that the connection task has ended: there is nobody to answer.
        let _ = self.control.send(Control::Respond { id: self.id, answer });
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if !self.is_answered {
            let answer = Err(HandlerError::failed("the handler did not run to its end"));
            // As above. A request that has expired is past answering: this changes nothing then.
            let _ = self.control.send(Control::Respond { id: self.id, answer });
        }
    }
}

/// Refusals come from the gateway; what did not get that far failed here.
fn blame_for_connecting(body: &ErrorBody) -> FailedBy {
    match body.code {
        Some(ErrorCode::ConnectionFailed | ErrorCode::ConnectionLost | ErrorCode::Timeout | ErrorCode::Cancelled) => {
            FailedBy::Local
        }
        _ => FailedBy::Gateway,
    }
}

fn describe(body: &ErrorBody) -> serde_json::Value {
    let code = body.code.as_ref().map(ErrorCode::as_str);
    serde_json::json!({ "code": code, "message": body.message })
}
