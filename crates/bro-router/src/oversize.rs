//! Frames above the limit. Their bytes are skipped, and all that is known of one is how it begins: enough to tell the one who waits.

use crate::calls::Calls;
use crate::outbox::{Outbox, PeerId};
use crate::peers::NIL;
use crate::router::Router;
use crate::v2_call::{NO_ROUTE, NUMBER_TAKEN};
use bro_proto::frame::{FrameError, Oversize};
use bro_proto::limits::{CALL_ID_BYTES_MAX, FRAME_PREFIX_BYTES};
use bro_proto::v1::{self, Kind};
use bro_proto::v2::{self, FrameKind};
use bro_proto::{ErrorBody, ErrorCode, Now};

/// What a frame above the limit does not say, or not in its first bytes.
struct Unclear;

impl Router {
    /// The beginning of a frame above the limit arrived; the driver skips the rest. A call is answered `PAYLOAD_TOO_LARGE`, and so is the call that
    /// an answer is for: its caller need not wait. Everything else on the connection goes on. A peer that is not registered, and one whose frame does
    /// not say which call it is about, is closed.
    pub fn handle_oversize(&mut self, peer: PeerId, oversize: &Oversize, now: Now, out: &mut impl Outbox) {
        let Some(slot) = self.peers.find(peer) else { return };
        self.counters.frames_in += 1;
        self.counters.bytes_in += oversize.head.len() as u64;
        self.touch(slot, now);
        self.end_partial(slot);
        let refused = match self.peers[slot].v2 {
            _ if self.peers[slot].service == NIL => Err(Unclear),
            Some(_) if v2::is_v2(&oversize.head) => self.refuse_oversize_v2(slot, oversize, now, out),
            Some(_) => Err(Unclear),
            None => self.refuse_oversize_v1(slot, oversize, now, out),
        };
        match refused {
            Ok(()) => self.counters.refused_too_large += 1,
            Err(Unclear) => {
                let error = FrameError::TooLarge { announced: oversize.announced, limit: self.config.frame_bytes_max };
                self.refuse_stream(slot, &error, now, out);
            }
        }
        self.settle(now, out);
    }

    fn refuse_oversize_v1(
        &mut self,
        slot: u32,
        oversize: &Oversize,
        now: Now,
        out: &mut impl Outbox,
    ) -> Result<(), Unclear> {
        let beginning = &oversize.head[FRAME_PREFIX_BYTES..];
        let header = v1::scan_beginning(beginning).ok_or(Unclear)?;
        let id = header.id.as_ref().map_or("", |id| &*id.value);
        if id.is_empty() || id.len() > CALL_ID_BYTES_MAX {
            return Err(Unclear);
        }
        match header.kind {
            Kind::Call => {
                let error = self.too_large("the call", oversize);
                self.refuse_call(slot, beginning, &header, &error, now, out);
            }
            Kind::Response => {
                let hash = Calls::hash(&self.hasher, slot, id);
                let found = self.calls.find(hash, slot, id);
                match found.filter(|&index| !self.ends.are_due() || !self.meets_fate(index, now, out)) {
                    Some(index) => self.fail_oversize_answer(slot, index, oversize, now, out),
                    None => {
                        if let Some(abandoned) = &mut self.peers[slot].abandoned {
                            abandoned.remove(hash);
                        }
                        self.counters.responses_dropped += 1;
                    }
                }
            }
            Kind::Register | Kind::RegisterAck | Kind::Heartbeat | Kind::Error | Kind::Unknown => return Err(Unclear),
        }
        Ok(())
    }

    fn refuse_oversize_v2(
        &mut self,
        slot: u32,
        oversize: &Oversize,
        now: Now,
        out: &mut impl Outbox,
    ) -> Result<(), Unclear> {
        let head = v2::parse_head(&oversize.head).ok_or(Unclear)?;
        match head.kind {
            Some(FrameKind::Call) => {
                if self.is_number_taken(slot, head.id, now, out) {
                    self.violated(slot, NUMBER_TAKEN, now, out);
                    return Ok(());
                }
                // The method can stand behind more than is there: then events do not tell it.
                let aim = match v2::parse(&oversize.head) {
                    Ok(v2::Frame::Call(call)) => (call.peer, call.method),
                    _ => (NO_ROUTE, ""),
                };
                let error = self.too_large("the call", oversize);
                self.refuse_call_v2(slot, head.id, aim, &error, now, out);
            }
            Some(FrameKind::Response | FrameKind::Error) => match self.find_asked(slot, head.id, now, out) {
                Some(index) => self.fail_oversize_answer(slot, index, oversize, now, out),
                None => self.counters.responses_dropped += 1,
            },
            Some(FrameKind::Notify) => self.counters.notifications_dropped += 1,
            None if head.may_ignore => self.counters.frames_ignored += 1,
            _ => return Err(Unclear),
        }
        Ok(())
    }

    /// The callee has answered, and its caller cannot have the answer.
    fn fail_oversize_answer(&mut self, callee: u32, index: u32, oversize: &Oversize, now: Now, out: &mut impl Outbox) {
        let service = self.peers[callee].service;
        let answer = format!("the answer of {}.{}", self.registry[service].name, self.calls[index].method());
        let error = self.too_large(&answer, oversize);
        self.warn(callee, &error.message, now, out);
        self.fail_call(index, &error, now, out);
    }

    fn too_large(&self, what: &str, oversize: &Oversize) -> ErrorBody {
        let (bytes, limit) = (oversize.announced, self.config.frame_bytes_max);
        ErrorBody::new(ErrorCode::PayloadTooLarge, format!("{what} has {bytes} bytes, at most {limit} are accepted"))
    }
}
