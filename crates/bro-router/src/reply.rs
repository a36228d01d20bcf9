//! RESPONSEs: those of callees on their way to the caller, and those that the gateway gives itself.

use crate::calls::{Call, CallerId, Calls};
use crate::event::{Event, EventMask};
use crate::outbox::{Outbox, Part};
use crate::peers::NIL;
use crate::router::Router;
use bro_proto::frame::finish_frame;
use bro_proto::limits::{CONTEXT_BYTES_MAX, FRAME_PREFIX_BYTES, GATEWAY_SERVICE};
use bro_proto::v1::encode::{ContextSource, Outcome, ResponseFields, encode_response};
use bro_proto::v1::rewrite::{Patch, rewrite, transcode};
use bro_proto::v1::{Encoding, Header, Payload, Status, Text, decode};
use bro_proto::v2::{self, CancelReason, Codec};
use bro_proto::{ErrorBody, ErrorCode, Now};
use std::ops::Range;

/// Bytes of a peer's text that are shown in an event: what a name or an id may have.
const SHOWN_BYTES_MAX: usize = 255;

/// A RESPONSE from the gateway itself.
pub(crate) struct Answer<'a> {
    pub(crate) id: CallerId<'a>,
    pub(crate) outcome: Outcome<'a>,
    /// Echoed; empty when the call had none.
    pub(crate) context: Payload<'a>,
}

impl Router {
    /// A RESPONSE arrived: it ends the call that this connection was asked under this id, if there is one.
    pub(crate) fn route_response(
        &mut self,
        callee: u32,
        frame: &[u8],
        header: &Header<'_>,
        now: Now,
        out: &mut impl Outbox,
    ) {
        let Some(id) = &header.id else {
            self.drop_response(callee, header, now, out);
            return;
        };
        let hash = Calls::hash(&self.hasher, callee, &id.value);
        let found = self.calls.find(hash, callee, &id.value);
        let Some(index) = found.filter(|&index| !self.ends.are_due() || !self.meets_fate(index, now, out)) else {
            if let Some(abandoned) = &mut self.peers[callee].abandoned {
                abandoned.remove(hash);
            }
            self.drop_response(callee, header, now, out);
            return;
        };
        let call = self.calls.remove(&mut self.peers, index);
        self.timers.remove(call.timer);
        match self.forward_response(&call, frame, header, now, out) {
            Ok(status) => {
                self.counters.responses_routed += 1;
                self.report_response(&call, status, None, now, out);
            }
            Err(error) => {
                let service = self.peers[callee].service;
                let name = self.registry[service].name.clone();
                self.warn(callee, &format!("answered {name}.{} wrongly: {}", call.method(), error.message), now, out);
                self.answer_failed(&call, &error, now, out);
            }
        }
        self.calls.recycle(call);
    }

    /// Ends a call in flight with an error from the gateway.
    pub(crate) fn fail_call(&mut self, index: u32, error: &ErrorBody, now: Now, out: &mut impl Outbox) {
        let call = self.calls.remove(&mut self.peers, index);
        self.timers.remove(call.timer);
        self.answer_failed(&call, error, now, out);
        self.calls.recycle(call);
    }

    /// The deadline of a call in flight has passed.
    pub(crate) fn time_out_call(&mut self, index: u32, now: Now, out: &mut impl Outbox) {
        if self.is_ending() && self.meets_fate(index, now, out) {
            return;
        }
        let call = &self.calls[index];
        let name = self.registry[self.peers[call.callee()].service].name.clone();
        let message = format!("{name}.{}: no answer within {} ms", call.method(), call.timeout_ms);
        self.counters.calls_timed_out += 1;
        let error = ErrorBody::new(ErrorCode::Timeout, message);
        self.give_up(index, CancelReason::Deadline, Some(&error), now, out);
    }

    /// Refuses a CALL that was not passed on.
    pub(crate) fn refuse_call(
        &mut self,
        caller: u32,
        body: &[u8],
        header: &Header<'_>,
        error: &ErrorBody,
        now: Now,
        out: &mut impl Outbox,
    ) {
        self.counters.calls_refused += 1;
        self.note_denied(Some(caller), error, now, out);
        if self.peers[caller].service == NIL {
            self.peers[caller].encoding = header.encoding;
        }
        let id = CallerId::Text(text(header.id.as_ref()));
        let answer = Answer { id, outcome: Outcome::Error(error), context: context_to_echo(body, header) };
        self.answer(caller, text(header.from.as_ref()), &answer, now, out);
        if self.reporter.wants(EventMask::RESPONSES) {
            let name = match self.peers[caller].service {
                NIL => shown(header.from.as_ref()),
                service => &self.registry[service].name,
            };
            let event = Event::ResponseRouted {
                from: shown(header.to.as_ref()),
                to: name,
                method: shown(header.method.as_ref()),
                status: Status::Error,
                request_id: shown(header.id.as_ref()),
                gateway_code: error.code.clone(),
                elapsed_us: 0,
            };
            self.reporter.report(event, now, out);
        }
    }

    /// Sends a RESPONSE of the gateway's own. `unnamed` is what a caller without registration calls itself.
    pub(crate) fn answer(&mut self, caller: u32, unnamed: &str, answer: &Answer<'_>, now: Now, out: &mut impl Outbox) {
        let peer = &self.peers[caller];
        let id = match answer.id {
            CallerId::Number(number) => return self.answer_v2(caller, number, answer.outcome, now, out),
            CallerId::Text(id) => id,
        };
        let to = if peer.service == NIL { unnamed } else { &self.registry[peer.service].name };
        let encoding = peer.encoding;
        let mut frame = std::mem::take(&mut self.scratch);
        let context = (!answer.context.bytes.is_empty()).then_some(ContextSource::Encoded(answer.context));
        let fields = ResponseFields { id, from: GATEWAY_SERVICE, to, outcome: answer.outcome, context };
        let is_fit = encode_response(&mut frame, encoding, &fields).is_ok()
            && frame.len() - FRAME_PREFIX_BYTES <= self.config.frame_bytes_max;
        if !is_fit {
            frame.clear();
            let message = "the answer would be larger than a frame may be";
            let too_large = ErrorBody::new(ErrorCode::PayloadTooLarge, message);
            let outcome = match answer.outcome {
                Outcome::Success(_) => Outcome::Error(&too_large),
                error => error,
            };
            let fields = ResponseFields { outcome, context: None, ..fields };
            encode_response(&mut frame, encoding, &fields).expect("nothing is transcoded");
        }
        self.peers.send(caller, &[Part::Scratch(&frame)], now, &mut self.timers, &mut self.counters, out);
        self.keep_scratch(frame);
    }

    fn answer_v2(&mut self, caller: u32, number: u64, outcome: Outcome<'_>, now: Now, out: &mut impl Outbox) {
        let mut frame = std::mem::take(&mut self.scratch);
        match outcome {
            Outcome::Success(result)
                if v2::HEAD_BYTES - FRAME_PREFIX_BYTES + result.bytes.len() <= self.config.frame_bytes_max =>
            {
                v2::encode::response_head(&mut frame, number, Codec::of(result), result.bytes.len());
                frame.extend_from_slice(result.bytes);
            }
            Outcome::Success(_) => {
                let message = "the answer would be larger than a frame may be";
                v2::encode::error(&mut frame, number, &ErrorBody::new(ErrorCode::PayloadTooLarge, message), true);
            }
            Outcome::Error(error) => v2::encode::error(&mut frame, number, error, true),
        }
        self.peers.send(caller, &[Part::Scratch(&frame)], now, &mut self.timers, &mut self.counters, out);
        self.keep_scratch(frame);
    }

    /// To a caller of version 2: the result from where it lies, behind a head of that version.
    fn forward_response_to_v2(
        &mut self,
        call: &Call,
        number: u64,
        body: &[u8],
        header: &Header<'_>,
        now: Now,
        out: &mut impl Outbox,
    ) -> Result<Status, ErrorBody> {
        let status = status_of(header)?;
        let mut made = std::mem::take(&mut self.scratch);
        let mut result: &[u8] = &[];
        if status == Status::Success {
            let data = payload(body, header.data.as_ref(), header.encoding);
            v2::encode::response_head(&mut made, number, Codec::of(data), data.bytes.len());
            result = data.bytes;
        } else {
            let error = decode::error_body(payload(body, header.error.as_ref(), header.encoding));
            v2::encode::error(&mut made, number, &error, false);
        }
        let checked = check_frame_bytes(made.len() + result.len(), self.config.frame_bytes_max, "the answer");
        if checked.is_ok() {
            let parts = [Part::Scratch(&made), Part::Inbound(result)];
            self.peers.send(call.caller(), &parts, now, &mut self.timers, &mut self.counters, out);
        }
        self.keep_scratch(made);
        checked.map(|()| status)
    }

    /// Passes the answer on as the caller has to see it.
    fn forward_response(
        &mut self,
        call: &Call,
        frame: &[u8],
        header: &Header<'_>,
        now: Now,
        out: &mut impl Outbox,
    ) -> Result<Status, ErrorBody> {
        let body = &frame[FRAME_PREFIX_BYTES..];
        if let Some(number) = call.caller_number() {
            return self.forward_response_to_v2(call, number, body, header, now, out);
        }
        let status = status_of(header)?;
        let callee_name = &*self.registry[self.peers[call.callee()].service].name;
        let caller_name = &*self.registry[self.peers[call.caller()].service].name;
        let target = self.peers[call.caller()].encoding;
        let is_stamped = holds(header.from.as_ref(), callee_name) && holds(header.to.as_ref(), caller_name);
        if !call.is_renamed() && is_stamped && header.encoding == target && header.status.is_some() {
            let parts = [Part::Inbound(frame)];
            self.peers.send(call.caller(), &parts, now, &mut self.timers, &mut self.counters, out);
            return Ok(status);
        }
        let caller_id = &*call.caller_id().text();
        let mut rewritten = std::mem::take(&mut self.scratch);
        let written = match (&header.id, &header.from, &header.to, header.status) {
            (Some(id), Some(from), Some(to), Some(_)) => {
                rewritten.extend_from_slice(&[0; FRAME_PREFIX_BYTES]);
                let mut patches = [(id, caller_id), (from, callee_name), (to, caller_name)]
                    .map(|(text, value)| Patch { span: text.span.clone(), text: value });
                patches.sort_unstable_by_key(|patch| patch.span.start);
                let written = rewrite(body, header.encoding, target, &patches, &mut rewritten);
                written.map(|()| finish_frame(&mut rewritten, 0))
            }
            _ => {
                let error_body;
                let outcome = if status == Status::Success {
                    Outcome::Success(payload(body, header.data.as_ref(), header.encoding))
                } else {
                    let error = payload(body, header.error.as_ref(), header.encoding);
                    error_body = bro_proto::v1::decode::error_body(error);
                    Outcome::Error(&error_body)
                };
                let context = header
                    .context
                    .as_ref()
                    .map(|context| ContextSource::Encoded(payload(body, Some(&context.span), header.encoding)));
                let fields = ResponseFields { id: caller_id, from: callee_name, to: caller_name, outcome, context };
                encode_response(&mut rewritten, target, &fields)
            }
        };
        let checked = match written {
            Ok(()) => check_frame_size(&rewritten, self.config.frame_bytes_max, "the answer"),
            Err(error) => Err(ErrorBody::new(
                ErrorCode::SerializationFailed,
                format!("the answer cannot be written as {}: {error}", target.as_str()),
            )),
        };
        if checked.is_ok() {
            let parts = [Part::Scratch(&rewritten)];
            self.peers.send(call.caller(), &parts, now, &mut self.timers, &mut self.counters, out);
        }
        self.keep_scratch(rewritten);
        checked.map(|()| status)
    }

    /// Tells the caller of a call that was already taken out of the tables that it has failed.
    pub(crate) fn answer_failed(&mut self, call: &Call, error: &ErrorBody, now: Now, out: &mut impl Outbox) {
        let answer = Answer { id: call.caller_id(), outcome: Outcome::Error(error), context: call.context() };
        self.answer(call.caller(), "", &answer, now, out);
        self.report_response(call, Status::Error, error.code.clone(), now, out);
    }

    #[inline]
    pub(crate) fn report_response(
        &mut self,
        call: &Call,
        status: Status,
        gateway_code: Option<ErrorCode>,
        now: Now,
        out: &mut impl Outbox,
    ) {
        if self.reporter.wants(EventMask::RESPONSES) {
            self.report_wanted_response(call, status, gateway_code, now, out);
        }
    }

    #[cold]
    fn report_wanted_response(
        &mut self,
        call: &Call,
        status: Status,
        gateway_code: Option<ErrorCode>,
        now: Now,
        out: &mut impl Outbox,
    ) {
        let [from, to] = [call.callee(), call.caller()].map(|slot| self.name_of(slot).to_owned());
        let event = Event::ResponseRouted {
            from: &from,
            to: &to,
            method: call.method(),
            status,
            request_id: &call.caller_id().text(),
            gateway_code,
            elapsed_us: now.mono_us.saturating_sub(call.started_us),
        };
        self.reporter.report(event, now, out);
    }

    /// Nobody waits for this answer: it is late, or forged. Only the latter is worth a word.
    fn drop_response(&mut self, slot: u32, header: &Header<'_>, now: Now, out: &mut impl Outbox) {
        self.counters.responses_dropped += 1;
        if !self.reporter.wants(EventMask::WARNINGS) {
            return;
        }
        let why = match self.peers[slot].service {
            NIL => "before REGISTER".to_owned(),
            service => match &header.from {
                Some(from) if *from.value != *self.registry[service].name => {
                    format!("in the name of {:?}", shown(Some(from)))
                }
                _ => return,
            },
        };
        let message = format!("answered {:?}, which it was not asked, {why}", shown(header.id.as_ref()));
        self.warn(slot, &message, now, out);
    }
}

/// The value of an optional header text; empty when absent.
pub(crate) fn text<'a>(text: Option<&'a Text<'_>>) -> &'a str {
    text.map_or("", |text| &text.value)
}

/// The beginning of an optional header text: a name or an id that was accepted is whole. Whatever else a peer writes there
/// must not fill logs and the memory for events.
fn shown<'a>(header_text: Option<&'a Text<'_>>) -> &'a str {
    let whole = text(header_text);
    &whole[..whole.floor_char_boundary(SHOWN_BYTES_MAX)]
}

/// Whether a header text is there and says exactly this.
pub(crate) fn holds(text: Option<&Text<'_>>, value: &str) -> bool {
    text.is_some_and(|text| text.value == value)
}

/// The part of a body that a header names; absent when it names none.
pub(crate) fn payload<'a>(body: &'a [u8], span: Option<&Range<usize>>, encoding: Encoding) -> Payload<'a> {
    Payload { encoding, bytes: span.map_or(&[], |span| &body[span.clone()]) }
}

/// The context of a call, as far as it is given back in answers of the gateway.
pub(crate) fn context_to_echo<'a>(body: &'a [u8], header: &Header<'_>) -> Payload<'a> {
    let span = header.context.as_ref().map(|context| &context.span).filter(|span| span.len() <= CONTEXT_BYTES_MAX);
    payload(body, span, header.encoding)
}

/// Whether a frame, prefix included, may be sent.
pub(crate) fn check_frame_size(frame: &[u8], body_bytes_max: usize, what: &str) -> Result<(), ErrorBody> {
    check_frame_bytes(frame.len(), body_bytes_max, what)
}

/// Whether a frame of so many bytes, prefix included, may be sent.
pub(crate) fn check_frame_bytes(frame_bytes: usize, body_bytes_max: usize, what: &str) -> Result<(), ErrorBody> {
    let bytes = frame_bytes - FRAME_PREFIX_BYTES;
    if bytes <= body_bytes_max {
        return Ok(());
    }
    let message = format!(
        "{what} has {bytes} bytes in the encoding of its receiver, at most {body_bytes_max} are accepted: send it in pieces"
    );
    Err(ErrorBody::new(ErrorCode::PayloadTooLarge, message))
}

/// Whether a payload of a peer of version 2, which nobody has read so far, stands in this frame of ours as one whole value: then the
/// frame is well-formed, and the payload has added nothing to what surrounds it.
pub(crate) fn check_carried(
    frame: &[u8],
    carried: Payload<'_>,
    place: impl FnOnce(&Header<'_>) -> Option<Range<usize>>,
) -> Result<(), ErrorBody> {
    let body = &frame[FRAME_PREFIX_BYTES..];
    let wrong = |why: String| Err(ErrorBody::new(ErrorCode::SerializationFailed, why));
    let header = match bro_proto::v1::scan(body) {
        Ok(header) => header,
        Err(error) => return wrong(format!("the payload cannot be read: {error}")),
    };
    if carried.bytes.is_empty() || header.encoding != carried.encoding {
        return Ok(()); // what was transcoded was read as one value
    }
    let is_whole = match (place(&header), carried.encoding) {
        (Some(span), Encoding::Json) => body[span].trim_ascii().len() == carried.bytes.trim_ascii().len(),
        (Some(span), Encoding::Msgpack) => span.len() == carried.bytes.len(),
        // `undefined` counts as absent: the scan does not say how long it is.
        (None, _) => transcode(carried, Encoding::Json, &mut Vec::new()).is_ok(),
    };
    if is_whole { Ok(()) } else { wrong("the payload is not one value".to_owned()) }
}

/// How the callee says that the call ended. An `error` without `status` is an error.
fn status_of(header: &Header<'_>) -> Result<Status, ErrorBody> {
    match (header.status, &header.error) {
        (Some(status), _) => Ok(status),
        (None, Some(_)) => Ok(Status::Error),
        (None, None) => Err(ErrorBody::new(
            ErrorCode::InvalidMessage,
            "the service's answer has neither `status` nor `error`: report it to the author of the service",
        )),
    }
}
