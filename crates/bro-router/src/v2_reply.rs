//! Frames of version 2: taken apart by kind; RESPONSEs and ERRORs on their way to the caller.

use crate::calls::Call;
use crate::event::{Event, EventMask};
use crate::outbox::{Outbox, Part};
use crate::reply::{check_carried, check_frame_size};
use crate::router::Router;
use crate::v2_call::carried;
use bro_proto::v1::Status;
use bro_proto::v1::encode::{ContextSource, Outcome, ResponseFields, encode_response};
use bro_proto::v2::{self, FrameKind, encode};
use bro_proto::{ErrorBody, ErrorCode, Now};

impl Router {
    /// A frame of version 2 came on a connection that speaks it.
    #[inline(always)]
    pub(crate) fn handle_v2(&mut self, slot: u32, frame: &mut [u8], now: Now, out: &mut impl Outbox) {
        match v2::parse(frame) {
            Ok(v2::Frame::Call(call)) => {
                if let Some(completion) = self.route_call_v2(slot, &call, frame.len(), now, out) {
                    self.complete(completion, frame, now, out);
                }
            }
            Ok(v2::Frame::Response { id, .. }) => self.route_answer_v2(slot, frame, id, Status::Success, now, out),
            _ => self.handle_other_v2(slot, frame, now, out),
        }
    }

    /// What comes less often than calls and results.
    #[inline(never)]
    fn handle_other_v2(&mut self, slot: u32, frame: &mut [u8], now: Now, out: &mut impl Outbox) {
        match v2::parse(frame) {
            Ok(v2::Frame::Call(_) | v2::Frame::Response { .. }) => unreachable!("the caller handled them"),
            Ok(v2::Frame::Error { id, .. }) => self.route_answer_v2(slot, frame, id, Status::Error, now, out),
            Ok(v2::Frame::Notify(_)) => self.route_notify(slot, frame, now, out),
            Ok(v2::Frame::Cancel { id, reason }) => self.cancel_call(slot, id, reason, now, out),
            Ok(v2::Frame::Resolve { route, service }) => self.bind_route(slot, route, service, now, out),
            Ok(v2::Frame::Ping { id }) => {
                self.counters.heartbeats += 1;
                self.send_bare(slot, FrameKind::Pong, id, now, out);
            }
            Ok(v2::Frame::Drain) => self.peers[slot].is_leaving = true,
            Ok(v2::Frame::Other { kind: FrameKind::LaneReady, id, .. }) => self.handle_lane_ready(slot, id, now, out),
            Ok(v2::Frame::Other { kind: FrameKind::LaneClose, id, .. }) => self.handle_lane_close(slot, id, now, out),
            Ok(v2::Frame::Other { kind: FrameKind::Stats, id, payload }) => self.handle_lane_stats(slot, id, payload),
            Ok(v2::Frame::Name { .. } | v2::Frame::Pong { .. } | v2::Frame::Other { .. } | v2::Frame::Ignored) => {
                self.counters.frames_ignored += 1;
            }
            Err(error) => {
                let message = format!("{error}; the connection will be closed");
                self.refuse_malformed(slot, ErrorCode::InvalidMessage, message, now, out);
            }
        }
    }

    /// Sends a frame that is nothing but its header.
    pub(crate) fn send_bare(&mut self, slot: u32, kind: FrameKind, id: u64, now: Now, out: &mut impl Outbox) {
        let mut frame = std::mem::take(&mut self.scratch);
        encode::bare(&mut frame, kind, id);
        let parts = [Part::Scratch(&frame)];
        self.peers.send(slot, &parts, now, &mut self.timers, &mut self.counters, out);
        self.keep_scratch(frame);
    }

    /// The call that this connection was asked under this number.
    #[inline(always)]
    pub(crate) fn find_asked(&mut self, callee: u32, number: u64, now: Now, out: &mut impl Outbox) -> Option<u32> {
        let index = self.calls.find_number(number)?;
        let call = &self.calls[index];
        let is_asked = call.callee() == callee && !call.is_tabled();
        (is_asked && (!self.ends.are_due() || !self.meets_fate(index, now, out))).then_some(index)
    }

    /// A RESPONSE or an ERROR ends the call that this connection was asked under this number, if there is one.
    #[inline]
    fn route_answer_v2(
        &mut self,
        callee: u32,
        frame: &mut [u8],
        number: u64,
        status: Status,
        now: Now,
        out: &mut impl Outbox,
    ) {
        let Some(index) = self.find_asked(callee, number, now, out) else {
            self.counters.responses_dropped += 1;
            return;
        };
        let call = &self.calls[index];
        let (caller, timer) = (call.caller(), call.timer);
        self.timers.remove(timer);
        if let Some(id) = call.caller_number() {
            // Who names calls by numbers speaks version 2.
            self.calls.detach(&mut self.peers, index);
            encode::readdress(frame, id);
            let parts = [Part::Inbound(frame)];
            self.peers.send(caller, &parts, now, &mut self.timers, &mut self.counters, out);
            self.counters.responses_routed += 1;
            if self.reporter.wants(EventMask::RESPONSES) {
                self.report_detached_response(index, status, now, out);
            }
            self.calls.release(index);
        } else {
            let call = self.calls.remove(&mut self.peers, index);
            match self.write_v1_answer(&call, frame) {
                Ok(made) => {
                    let parts = [Part::Scratch(&made)];
                    self.peers.send(caller, &parts, now, &mut self.timers, &mut self.counters, out);
                    self.counters.responses_routed += 1;
                    self.report_response(&call, status, None, now, out);
                }
                Err(error) => {
                    let name = self.registry[self.peers[callee].service].name.clone();
                    let message = format!("answered {name}.{} wrongly: {}", call.method(), error.message);
                    self.warn(callee, &message, now, out);
                    self.answer_failed(&call, &error, now, out);
                }
            }
            self.calls.recycle(call);
        }
    }

    #[cold]
    fn report_detached_response(&mut self, index: u32, status: Status, now: Now, out: &mut impl Outbox) {
        let Router { calls, peers, registry, reporter, .. } = self;
        let call = &calls[index];
        let event = Event::ResponseRouted {
            from: &registry[peers[call.callee()].service].name,
            to: &registry[peers[call.caller()].service].name,
            method: call.method(),
            status,
            request_id: &call.caller_id().text(),
            gateway_code: None,
            elapsed_us: now.mono_us.saturating_sub(call.started_us),
        };
        reporter.report(event, now, out);
    }

    /// The answer as a caller of version 1 has to see it, proved well-formed.
    fn write_v1_answer(&self, call: &Call, frame: &[u8]) -> Result<Vec<u8>, ErrorBody> {
        let error_body;
        let (outcome, result) = match v2::parse(frame) {
            Ok(v2::Frame::Response { codec, payload, .. }) => {
                let result = carried(codec, payload)?;
                (Outcome::Success(result), Some(result))
            }
            Ok(v2::Frame::Error { failure, .. }) => {
                error_body = failure.to_body();
                (Outcome::Error(&error_body), None)
            }
            _ => unreachable!("the caller read it"),
        };
        let target = self.peers[call.caller()].encoding;
        let id = call.caller_id().text();
        let context = call.context();
        let fields = ResponseFields {
            id: &id,
            from: &self.registry[self.peers[call.callee()].service].name,
            to: &self.registry[self.peers[call.caller()].service].name,
            outcome,
            context: (!context.bytes.is_empty()).then_some(ContextSource::Encoded(context)),
        };
        let mut made = Vec::new();
        encode_response(&mut made, target, &fields).map_err(|error| {
            let message = format!("the answer cannot be written as {}: {error}", target.as_str());
            ErrorBody::new(ErrorCode::SerializationFailed, message)
        })?;
        check_frame_size(&made, self.config.frame_bytes_max, "the answer")?;
        if let Some(result) = result {
            check_carried(&made, result, |header| header.data.clone())?;
        }
        Ok(made)
    }
}
