//! Frames from the gateway, and those among them that answer us: RESPONSE, ERROR, REGISTER_ACK.

use crate::calls::{CallKey, is_note};
use crate::conns::{ConnId, ConnState};
use crate::event::{Origin, OwnedPayload, SessionEvent};
use crate::session::Session;
use bro_proto::error::{ErrorBody, ErrorCode};
use bro_proto::limits::{FAREWELL_CHARS_MAX, FRAME_PREFIX_BYTES, GATEWAY_SERVICE};
use bro_proto::time::Now;
use bro_proto::v1::{Encoding, Header, Kind, Payload, Status, decode, scan};
use bro_proto::v2::{self, Codec};
use bytes::Bytes;
use std::ops::Range;

/// A frame whose header is read.
pub(crate) struct Received<'a> {
    pub(crate) header: Header<'a>,
    body: &'a [u8],
    /// What was read from the socket; `body` may be a part of it.
    chunk: &'a Bytes,
}

impl<'a> Received<'a> {
    pub(crate) fn body(&self) -> &'a [u8] {
        self.body
    }

    /// A value of the frame, borrowed.
    pub(crate) fn borrow(&self, span: &Range<usize>) -> Payload<'a> {
        Payload { encoding: self.header.encoding, bytes: &self.body[span.clone()] }
    }

    /// A value of the frame to be kept: without copying when the frame lies whole in the chunk.
    fn keep(&self, span: Option<&Range<usize>>) -> OwnedPayload {
        let part = span.map_or(&[][..], |span| &self.body[span.clone()]);
        OwnedPayload::keep(self.header.encoding, part, self.chunk)
    }
}

impl Session {
    /// Handles one frame. The connection may be gone afterwards.
    pub(crate) fn handle_frame(&mut self, conn: ConnId, chunk: &Bytes, frame: &[u8], now: Now) {
        if v2::is_v2(frame) {
            return self.handle_numbered(conn, chunk, frame, now);
        }
        if conn.is_lane() {
            return self.break_off(conn, "a frame of version 1", now);
        }
        let body = &frame[FRAME_PREFIX_BYTES..];
        let header = match scan(body) {
            Ok(header) => header,
            Err(error) => {
                let error = ErrorBody::new(error.code(), format!("from the gateway: {error}"));
                return self.lose_broken(conn, error, now);
            }
        };
        let received = Received { header, body, chunk };
        match received.header.kind {
            Kind::Response | Kind::Call if self.pool.speaks_v2(conn) => {
                self.break_off(conn, "a call or an answer of version 1 on a connection of version 2", now);
            }
            Kind::Response => self.handle_response(&received),
            Kind::Call => self.handle_call(conn, &received, now),
            Kind::Error => self.handle_error(conn, &received, now),
            Kind::RegisterAck => {
                let whole = Payload { encoding: received.header.encoding, bytes: body };
                let version = decode::to_json(whole).ok().and_then(|ack| decode::version(&ack));
                self.handle_ack(conn, is_from_gateway(&received.header), version == Some(v2::VERSION), now);
            }
            Kind::Register | Kind::Heartbeat | Kind::Unknown => self.counters.unknown_frames += 1,
        }
    }

    /// A value of a frame of version 1 to be kept. Gateways translate, so that it is in this client's encoding; one that does not is helped.
    pub(crate) fn read_value(
        &self,
        received: &Received<'_>,
        span: Option<&Range<usize>>,
    ) -> Result<OwnedPayload, ErrorBody> {
        let codec = match received.header.encoding {
            encoding if encoding == self.config.encoding => return Ok(received.keep(span)),
            Encoding::Json => Codec::JSON,
            Encoding::Msgpack => Codec::MSGPACK,
        };
        let part = span.map_or(&[][..], |span| &received.body[span.clone()]);
        self.read_payload(codec, part, received.chunk)
    }

    /// A RESPONSE. It counts on whichever connection of the pool it comes: gateways of the JavaScript library send all of them
    /// to the first one.
    fn handle_response(&mut self, received: &Received<'_>) {
        let header = &received.header;
        let Some(id) = &header.id else { return self.tell_invalid("RESPONSE without id") };
        if is_note(&id.value) {
            return;
        }
        let Some(call) = CallKey::parse(&id.value).and_then(|key| self.calls.find(key)) else {
            self.counters.late_answers += 1;
            return;
        };
        match (header.status, &header.error) {
            (Some(Status::Success), _) => {
                let value = self.read_value(received, header.data.as_ref());
                self.end_call(call, value, Origin::Service);
            }
            (Some(Status::Error), Some(span)) => {
                let error = decode::error_body(received.borrow(span));
                if is_from_gateway(header) {
                    self.end_refused(call, error);
                } else {
                    self.end_call(call, Err(error), Origin::Service);
                }
            }
            (Some(Status::Error), None) => {
                let error = ErrorBody::new(ErrorCode::ExecutionFailed, "the service answered with an unnamed error");
                self.end_call(call, Err(error), Origin::Service);
            }
            (None, _) => {
                let error = ErrorBody::new(ErrorCode::InvalidMessage, "the answer has no status");
                self.end_call(call, Err(error), Origin::Service);
            }
        }
    }

    /// An ERROR: about one call, about the registration, or about the connection.
    fn handle_error(&mut self, conn: ConnId, received: &Received<'_>, now: Now) {
        if received.header.id.as_ref().is_some_and(|id| is_note(&id.value)) {
            return;
        }
        let error = match &received.header.error {
            Some(span) => decode::error_body(received.borrow(span)),
            None => ErrorBody::new(ErrorCode::InvalidMessage, "the gateway sent an ERROR that does not say which"),
        };
        if let Some(id) = &received.header.id
            && let Some(call) = CallKey::parse(&id.value).and_then(|key| self.calls.find(key))
        {
            return self.end_refused(call, error);
        }
        self.tell(SessionEvent::GatewayError(error.clone()));
        if received.header.id.is_some() {
            self.counters.late_answers += 1;
            return;
        }
        let Some(open) = self.pool.open(conn) else { return };
        if open.state == ConnState::Registering {
            return self.lose_broken(conn, error, now);
        }
        // Any other error is followed by the end of the connection if the gateway means it.
        let code = error.code.as_ref().map_or("", ErrorCode::as_str);
        let message: String = error.message.chars().take(FAREWELL_CHARS_MAX).collect();
        open.farewell = Some(format!("{code}: {message}").into());
    }

    pub(crate) fn tell_invalid(&mut self, what: &str) {
        let error = ErrorBody::new(ErrorCode::InvalidMessage, format!("from the gateway: {what}"));
        self.tell(SessionEvent::Error(error));
    }
}

/// Whether the gateway wrote this frame itself. It stamps `from` on all it forwards, and nobody else can register that name.
fn is_from_gateway(header: &Header<'_>) -> bool {
    header.from.as_ref().is_some_and(|from| from.value == GATEWAY_SERVICE)
}
