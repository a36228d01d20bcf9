//! Frames of version 2 from the gateway.

use crate::conns::ConnId;
use crate::event::{Origin, OwnedPayload};
use crate::session::Session;
use bro_proto::error::{ErrorBody, ErrorCode};
use bro_proto::time::Now;
use bro_proto::v1::rewrite::transcode;
use bro_proto::v1::{Payload, check_value};
use bro_proto::v2::lane::CloseLane;
use bro_proto::v2::{self, Codec, Failure, Frame, FrameKind};
use bytes::Bytes;

impl Session {
    /// Handles one frame of version 2. The connection may be gone afterwards.
    pub(crate) fn handle_numbered(&mut self, conn: ConnId, chunk: &Bytes, frame: &[u8], now: Now) {
        if self.pool.link(conn).is_none() {
            return self.break_off(conn, "a frame of version 2, which was not agreed on", now);
        }
        let frame = match v2::parse(frame) {
            Ok(frame) => frame,
            Err(error) => return self.break_off(conn, &error.to_string(), now),
        };
        match frame {
            Frame::Response { id, codec, payload } => self.handle_result(conn, id, codec, payload, chunk),
            Frame::Call(call) => self.handle_numbered_call(conn, &call, false, chunk, now),
            Frame::Notify(call) => self.handle_numbered_call(conn, &call, true, chunk, now),
            Frame::Error { id, is_from_gateway, failure } => {
                self.handle_failure(conn, id, is_from_gateway && !conn.is_lane(), failure);
            }
            Frame::Cancel { id, reason } => self.give_up_request(conn, id, reason),
            Frame::Drain if conn.is_lane() => self.handle_lane_drain(conn, now),
            Frame::Name { .. } | Frame::Resolve { .. } | Frame::Other { .. } if conn.is_lane() => {
                self.break_off(conn, "a frame that is for gateways and their clients", now);
            }
            Frame::Name { number, service, forgets } => {
                let link = self.pool.link(conn).expect("just seen");
                if !link.names.learn(number, service, forgets) {
                    self.break_off(conn, &format!("a name with the number {number}, which is too large"), now);
                }
            }
            Frame::Ping { id } => {
                if let Some(open) = self.pool.open(conn) {
                    open.outbound.extend(|out| v2::encode::bare(out, FrameKind::Pong, id));
                    self.queued_unasked(conn, now);
                }
            }
            Frame::Pong { id } => self.handle_pong(conn, id),
            Frame::Drain => self.handle_gateway_drain(),
            Frame::Resolve { .. } => self.break_off(conn, "RESOLVE, which is for gateways", now),
            Frame::Other { kind: FrameKind::LaneOffer, id, payload } => self.handle_lane_offer(conn, id, payload, now),
            Frame::Other { kind: FrameKind::LaneReady, id, .. } => self.handle_lane_ready(id),
            Frame::Other { kind: FrameKind::LaneClose, id, payload } => {
                self.handle_lane_close(id, CloseLane::parse(payload), now);
            }
            Frame::Other { .. } | Frame::Ignored => self.counters.unknown_frames += 1,
        }
    }

    fn handle_result(&mut self, conn: ConnId, number: u64, codec: Codec, payload: &[u8], chunk: &Bytes) {
        let Some(call) = self.calls.find_numbered(number, conn) else {
            self.counters.late_answers += 1;
            return;
        };
        match self.read_payload(codec, payload, chunk) {
            Ok(result) => self.end_call(call, Ok(result), Origin::Service),
            Err(error) => self.end_call(call, Err(error), Origin::Local),
        }
    }

    fn handle_failure(&mut self, conn: ConnId, number: u64, is_from_gateway: bool, failure: Failure<'_>) {
        let Some(call) = self.calls.find_numbered(number, conn) else {
            self.counters.late_answers += 1;
            return;
        };
        let error = failure.to_body();
        if is_from_gateway {
            self.end_refused(call, error);
        } else {
            self.end_call(call, Err(error), Origin::Service);
        }
    }

    /// A value to be kept, in the encoding of this client; without copying when it is in that and its frame lies whole in the chunk.
    ///
    /// The gateway has not looked at it, so here is the place where it is proved to be a value, unless the driver does that.
    pub(crate) fn read_payload(&self, codec: Codec, payload: &[u8], chunk: &Bytes) -> Result<OwnedPayload, ErrorBody> {
        let wanted = self.config.encoding;
        if codec == Codec::ABSENT || payload.is_empty() {
            return Ok(OwnedPayload { encoding: wanted, bytes: Bytes::new() });
        }
        let Some(encoding) = codec.encoding() else {
            let why = format!("the value is encoded in a way that is not known here (codec {})", codec.0);
            return Err(ErrorBody::new(ErrorCode::DeserializationFailed, why));
        };
        let value = Payload { encoding, bytes: payload };
        let unreadable = |error: &dyn std::fmt::Display| {
            ErrorBody::new(ErrorCode::DeserializationFailed, format!("the value cannot be read: {error}"))
        };
        if self.config.checks_payloads || encoding != wanted {
            check_value(value).map_err(|error| unreadable(&error))?;
        }
        if encoding == wanted {
            return Ok(OwnedPayload::keep(encoding, payload, chunk));
        }
        let mut bytes = Vec::new();
        transcode(value, wanted, &mut bytes).map_err(|error| unreadable(&error))?;
        Ok(OwnedPayload { encoding: wanted, bytes: bytes.into() })
    }

    /// Ends a connection on which the gateway sent what it must not send.
    pub(crate) fn break_off(&mut self, conn: ConnId, what: &str, now: Now) {
        let from = if conn.is_lane() { "on a lane" } else { "from the gateway" };
        let error = ErrorBody::new(ErrorCode::InvalidMessage, format!("{from}: {what}"));
        self.lose_broken(conn, error, now);
    }
}
