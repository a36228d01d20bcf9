//! What the connection task does with what its session tells it.

use crate::context::Context;
use crate::driver::{Control, Task, Working};
use crate::error::{Error, FailedBy, HandlerError};
use crate::event::ClientEvent;
use crate::handler;
use crate::payload::RawPayload;
use bro_proto::limits::REQUESTS_MAX;
use bro_proto::v1::encode::Outcome;
use bro_proto::{ErrorBody, ErrorCode, Now};
use bro_session::{CallId, CallKey, Origin, Output, OwnedPayload, Request, RequestId, SessionEvent};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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
                Output::LaneOffered { lane, via, is_first } => {
                    let is_open = self.sockets.open_lane(lane, via, is_first);
                    match lane {
                        Some(lane) if is_open => self.session.handle_lane_opened(lane, now),
                        Some(lane) => self.session.handle_lane_failed(lane, now),
                        None => {}
                    }
                }
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
            SessionEvent::Request(request) => self.begin_request(request, now),
            SessionEvent::RequestExpired { id, reason } => self.expire_request(id, reason),
            SessionEvent::CallDone { id, request_id, outcome, origin } => {
                self.end_call(id, request_id, outcome, origin);
            }
            SessionEvent::GatewayDraining => {
                self.log("the gateway is about to stop", || None);
                self.shared.events.record(|| ClientEvent::GatewayDraining);
            }
            SessionEvent::Drained { in_work } => {
                self.log("drained", || Some(serde_json::json!({ "inWork": in_work })));
                for waiting in self.draining.drain(..) {
                    // Nobody may be waiting any more.
                    let _ = waiting.send(in_work);
                }
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

    fn begin_request(&mut self, mut request: Request, now: Now) {
        let refusal = match self.shared.methods.find(&request.method) {
            Some(_) if self.running.load(Ordering::Relaxed) >= REQUESTS_MAX => {
                let why = format!("{REQUESTS_MAX} handlers are running, some of them for calls that were given up");
                ErrorBody::new(ErrorCode::Overloaded, why)
            }
            Some((method, handler)) => {
                let id = request.id;
                let bytes = std::mem::take(&mut request.params.bytes);
                let params = RawPayload::checked(request.params.encoding, bytes);
                let context = Context::new(request, method, self.client.clone());
                self.running.fetch_add(1, Ordering::Relaxed);
                let running = Arc::clone(&self.running);
                let answering = Answering { id, control: self.shared.control.clone(), running, is_answered: false };
                let work = handler::run(handler, params, context.clone());
                let handler = tokio::spawn(async move { answering.send(work.await) }).abort_handle();
                self.working.insert(id.slot, id, Working { context, handler });
                return;
            }
            // Unregistered a moment ago.
            None => ErrorBody::new(ErrorCode::MethodNotFound, format!("there is no method `{}`", request.method)),
        };
        self.session.respond(request.id, Outcome::Error(&refusal), now);
    }

    fn expire_request(&mut self, id: RequestId, reason: ErrorCode) {
        let Some(working) = self.working.take(id.slot, id) else { return };
        let runs_on = self.keeps_cancelled && reason != ErrorCode::ShuttingDown;
        working.context.give_up(reason.clone());
        if !runs_on {
            working.handler.abort();
        }
        self.shared.events.record(|| ClientEvent::MethodExecuted {
            method: working.context.method().to_owned(),
            request_id: working.context.request_id().to_owned(),
            success: false,
            error: Some(format!("{}: {reason}", if runs_on { "given up" } else { "stopped" })),
        });
    }
}

/// Answers a request when its handler's task ends in any way, even by a panic in a drop.
struct Answering {
    id: RequestId,
    control: mpsc::UnboundedSender<Control>,
    /// Handlers that run.
    running: Arc<AtomicUsize>,
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
        self.running.fetch_sub(1, Ordering::Relaxed);
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
