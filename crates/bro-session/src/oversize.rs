//! Frames above this client's limit. Their bytes are skipped; how one begins says which call it is about.

use crate::calls::{CallId, CallKey, is_note};
use crate::conns::ConnId;
use crate::event::{Origin, SessionEvent};
use crate::requests::{Echo, TextEcho};
use crate::session::{Session, too_large};
use bro_proto::error::{ErrorBody, ErrorCode};
use bro_proto::frame::{FrameError, Oversize};
use bro_proto::limits::{CALL_ID_BYTES_MAX, FRAME_PREFIX_BYTES, SERVICE_NAME_BYTES_MAX};
use bro_proto::time::Now;
use bro_proto::v1::encode::Outcome;
use bro_proto::v1::{Kind, scan_beginning};
use bro_proto::v2::{self, FrameKind};

/// What a frame above the limit does not say, or not in its first bytes.
struct Unclear;

impl Session {
    /// A frame above the limit has begun. A call whose answer it is fails with `PAYLOAD_TOO_LARGE`, a call for us is answered so, and all else
    /// goes on. Where that cannot be told, the connection is lost: somebody would wait in vain.
    pub(crate) fn handle_oversize(&mut self, conn: ConnId, oversize: &Oversize, now: Now) {
        let limit = self.config.frame_bytes_max;
        let error = too_large(oversize.announced, limit);
        let refused = match self.pool.link(conn).is_some() {
            true if v2::is_v2(&oversize.head) => self.refuse_oversize_numbered(conn, oversize, &error, now),
            false if !conn.is_lane() => self.refuse_oversize_text(conn, oversize, &error, now),
            _ => Err(Unclear),
        };
        if let Err(Unclear) = refused {
            self.lose_stream(conn, FrameError::TooLarge { announced: oversize.announced, limit }, now);
        }
    }

    /// The bytes of a connection cannot be cut into frames any further.
    pub(crate) fn lose_stream(&mut self, conn: ConnId, error: FrameError, now: Now) {
        let from = if conn.is_lane() { "on a lane" } else { "from the gateway" };
        let error = ErrorBody::new(ErrorCode::PayloadTooLarge, format!("{from}: {error}"));
        self.lose_broken(conn, error, now);
    }

    fn refuse_oversize_numbered(
        &mut self,
        conn: ConnId,
        oversize: &Oversize,
        error: &ErrorBody,
        now: Now,
    ) -> Result<(), Unclear> {
        let head = v2::parse_head(&oversize.head).ok_or(Unclear)?;
        match head.kind {
            Some(FrameKind::Response | FrameKind::Error) => {
                self.fail_answer(self.calls.find_numbered(head.id, conn), error);
            }
            Some(FrameKind::Call) => {
                let is_taken = self.pool.link(conn).is_none_or(|link| link.numbers.contains(head.id));
                if head.id == 0 || is_taken {
                    return Err(Unclear);
                }
                self.refuse_oversize_call(conn, "", &Echo::V2 { number: head.id }, error, now);
            }
            Some(FrameKind::Notify) => self.counters.requests_refused += 1,
            None if head.may_ignore => self.counters.unknown_frames += 1,
            _ => return Err(Unclear),
        }
        Ok(())
    }

    fn refuse_oversize_text(
        &mut self,
        conn: ConnId,
        oversize: &Oversize,
        error: &ErrorBody,
        now: Now,
    ) -> Result<(), Unclear> {
        let header = scan_beginning(&oversize.head[FRAME_PREFIX_BYTES..]).ok_or(Unclear)?;
        let id = header.id.as_ref().map_or("", |id| &*id.value);
        let from = header.from.as_ref().map_or("", |from| &*from.value);
        if id.is_empty() || id.len() > CALL_ID_BYTES_MAX || from.len() > SERVICE_NAME_BYTES_MAX {
            return Err(Unclear);
        }
        match header.kind {
            Kind::Response | Kind::Error if is_note(id) => {}
            Kind::Response | Kind::Error => {
                self.fail_answer(CallKey::parse(id).and_then(|key| self.calls.find(key)), error);
            }
            Kind::Call => {
                let echo = Echo::V1(Box::new(TextEcho { id: id.into(), context: None }));
                self.refuse_oversize_call(conn, from, &echo, error, now);
            }
            Kind::Register | Kind::RegisterAck | Kind::Heartbeat | Kind::Unknown => return Err(Unclear),
        }
        Ok(())
    }

    fn fail_answer(&mut self, call: Option<CallId>, error: &ErrorBody) {
        match call {
            Some(call) => self.end_call(call, Err(error.clone()), Origin::Local),
            None => self.counters.late_answers += 1,
        }
    }

    fn refuse_oversize_call(&mut self, conn: ConnId, from: &str, echo: &Echo, error: &ErrorBody, now: Now) {
        self.counters.requests_refused += 1;
        self.tell(SessionEvent::Error(error.clone()));
        self.answer(conn, from, echo, Outcome::Error(error), now);
    }
}
