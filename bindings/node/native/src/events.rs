//! What the session tells, as records of a batch.

use crate::batch::{Batch, Record};
use crate::calls::Settled;
use crate::client::{CallDone, State};
use crate::shapes::Shapes;
use bro_proto::error::ErrorBody;
use bro_proto::v1::Encoding;
use bro_session::{Origin, Request, SessionEvent};
use serde::Serialize;

/// An error as JavaScript reads it.
#[derive(Serialize)]
struct Failure<'a> {
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stack: Option<&'a str>,
    /// Who ended the call: `local`, `gateway` or `service`.
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<&'static str>,
}

/// Everything that is neither a result nor a request.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Event<'a> {
    Connected,
    Registered,
    AlreadyConnected,
    ConnectFailed { error: Failure<'a> },
    Disconnected { reason: &'a str },
    Reconnecting { attempt: u32, delay_ms: u64, error: Failure<'a> },
    GatewayDraining,
    Drained { in_work: usize },
    GatewayError { error: Failure<'a> },
    Error { error: Failure<'a> },
}

impl<'a> Failure<'a> {
    fn new(error: &'a ErrorBody, origin: Option<Origin>) -> Self {
        let origin = origin.map(|origin| match origin {
            Origin::Local => "local",
            Origin::Gateway => "gateway",
            Origin::Service => "service",
        });
        let code = error.code.as_ref().map(|code| code.as_str());
        Failure { message: &error.message, code, stack: error.stack.as_deref(), origin }
    }
}

impl State {
    pub(crate) fn add_settled(&mut self, settled: Settled, batch: &mut Batch) {
        let Settled { promise, outcome } = settled;
        let kind = if outcome.is_ok() { Record::Result } else { Record::Failure };
        batch.record(kind, [promise.slot, promise.generation, 0]);
        if self.wants_ids {
            json(batch, &"");
        }
        match outcome {
            Ok(()) => batch.no_value(),
            Err(error) => json(batch, &Failure::new(&error, Some(Origin::Local))),
        }
    }

    pub(crate) fn add_call_done(&mut self, done: CallDone, batch: &mut Batch, shapes: &mut Shapes) {
        let CallDone { promise, request_id, outcome, origin } = done;
        let kind = if outcome.is_ok() { Record::Result } else { Record::Failure };
        batch.record(kind, [promise.slot, promise.generation, 0]);
        if self.wants_ids {
            json(batch, &request_id.to_string());
        }
        match outcome {
            Ok(result) => batch.value(&result, shapes),
            Err(error) => json(batch, &Failure::new(&error, Some(origin))),
        }
    }

    pub(crate) fn add_event(&mut self, event: SessionEvent, batch: &mut Batch, shapes: &mut Shapes) {
        let told = match &event {
            SessionEvent::Request(_) => {
                let SessionEvent::Request(request) = event else { unreachable!("just matched") };
                return self.add_request(request, batch, shapes);
            }
            SessionEvent::RequestExpired { id, reason } => {
                batch.record(Record::Expired, [id.slot.cast_signed(), id.generation.cast_signed(), 0]);
                return json(batch, &reason.as_str());
            }
            // Taken apart when it was absorbed.
            SessionEvent::CallDone { .. } => return,
            SessionEvent::GatewayDraining => Event::GatewayDraining,
            SessionEvent::Drained { in_work } => Event::Drained { in_work: *in_work },
            SessionEvent::Connected => Event::Connected,
            SessionEvent::Registered => Event::Registered,
            SessionEvent::AlreadyConnected => Event::AlreadyConnected,
            SessionEvent::ConnectFailed(error) => Event::ConnectFailed { error: Failure::new(error, None) },
            SessionEvent::Disconnected { reason } => Event::Disconnected { reason },
            SessionEvent::Reconnecting { attempt, delay_ms, error } => {
                Event::Reconnecting { attempt: *attempt, delay_ms: *delay_ms, error: Failure::new(error, None) }
            }
            SessionEvent::GatewayError(error) => Event::GatewayError { error: Failure::new(error, None) },
            SessionEvent::Error(error) => Event::Error { error: Failure::new(error, None) },
        };
        batch.record(Record::Event, [0; 3]);
        json(batch, &told);
    }

    fn add_request(&mut self, request: Request, batch: &mut Batch, shapes: &mut Shapes) {
        let Request { id, request_id, from, method, params, context, wants_answer } = request;
        // Registered when the request came in; a method that was taken away since is answered by JavaScript.
        let handler = self.handlers.get(&*method).copied().unwrap_or(-1);
        batch.record(Record::Request, [id.slot.cast_signed(), id.generation.cast_signed(), handler]);
        if !wants_answer {
            batch.mark_notification();
        }
        match self.session.request_context(id).filter(|context| context.encoding == Encoding::Json) {
            Some(context) => batch.context(context.bytes, shapes),
            None => {
                let mut text = std::mem::take(&mut self.context_text);
                context.write_json(&from, &self.session.config().service_name, &mut text);
                batch.context(&text, shapes);
                text.clear();
                self.context_text = text;
            }
        }
        if self.wants_ids {
            json(batch, &request_id.to_string());
        }
        batch.value(&params, shapes);
    }
}

fn json(batch: &mut Batch, value: &impl Serialize) {
    batch.element(|text| serde_json::to_writer(text, value).expect("names and texts have a JSON form"));
}
