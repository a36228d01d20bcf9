//! Another gateway asks for everything: a call to `bro.gateway` that the driver carries out.

use crate::calls::CallerId;
use crate::introspect::Inquiry;
use crate::outbox::{Outbox, PeerId};
use crate::peers::PeerIdentity;
use crate::reply::Answer;
use crate::router::Router;
use crate::state::{CallerIdState, FORMAT, READABLE_FROM, is_readable};
use bro_proto::limits::{TAKEOVER_LOST_MS_MAX, TAKEOVER_LOST_PARTS, TAKEOVER_TIMEOUT_MS};
use bro_proto::v1::encode::Outcome;
use bro_proto::v1::{Encoding, Payload};
use bro_proto::{ErrorBody, ErrorCode, Now};

/// A call of a gateway that wants to take over. Its driver answers it, by [`Router::accept_takeover`] or [`Router::refuse_takeover`].
#[derive(Clone, Debug, PartialEq)]
pub struct TakeoverRequest {
    /// The connection that it came on.
    pub peer: PeerId,
    /// Who is at its other end.
    pub identity: PeerIdentity,
    /// How many descriptors it can take.
    pub descriptors_max: u64,
    id: CallerIdState,
    context: Box<[u8]>,
    context_encoding: Encoding,
}

/// What is asked for.
pub(crate) struct TakeoverParams {
    /// Formats that can be read.
    pub(crate) reads_from: u64,
    pub(crate) reads_to: u64,
    pub(crate) descriptors_max: u64,
}

/// For how long takeovers that came to nothing have held everybody up, less what was given back since. A new gateway begins with nothing: a takeover has
/// succeeded.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LostTime {
    us: u64,
    at_us: u64,
}

impl LostTime {
    fn add(&mut self, us: u64, now: Now) {
        *self = Self { us: self.at(now).saturating_add(us), at_us: now.mono_us };
    }

    fn at(self, now: Now) -> u64 {
        self.us.saturating_sub(now.mono_us.saturating_sub(self.at_us) / TAKEOVER_LOST_PARTS)
    }

    /// Until when there can be no takeover, since it might hold everybody up for too long. In milliseconds from now, at least 1.
    fn wait_ms(self, now: Now) -> Option<u64> {
        let room_us = (TAKEOVER_LOST_MS_MAX - TAKEOVER_TIMEOUT_MS) * 1000;
        let excess_us = self.at(now).checked_sub(room_us).filter(|&excess_us| excess_us > 0)?;
        Some(excess_us.saturating_mul(TAKEOVER_LOST_PARTS).div_ceil(1000))
    }
}

impl Router {
    /// A takeover that was accepted came to nothing, and nobody was served for so long. While that adds up to much, others are refused.
    pub fn handle_takeover_failed(&mut self, lost_us: u64, now: Now) {
        self.takeover_lost.add(lost_us, now);
    }

    /// What another gateway asks for, if one has since the last time. Who sets [`crate::RouterConfig::hands_over`] looks here after every
    /// [`Router::handle_frame`], at the latest when it has handled all that has arrived.
    pub fn take_takeover_request(&mut self) -> Option<TakeoverRequest> {
        self.takeover_request.take()
    }

    /// The other gateway is not given anything, and told why.
    pub fn refuse_takeover(&mut self, request: &TakeoverRequest, error: &ErrorBody, now: Now, out: &mut impl Outbox) {
        self.answer_takeover(request, Outcome::Error(error), now, out);
    }

    /// The other gateway is told that what it asked for follows on its connection, in this state format.
    pub fn accept_takeover(&mut self, request: &TakeoverRequest, now: Now, out: &mut impl Outbox) {
        let json = format!("{{\"format\":{FORMAT},\"readableFrom\":{READABLE_FROM}}}");
        let result = Payload { encoding: Encoding::Json, bytes: json.as_bytes() };
        self.answer_takeover(request, Outcome::Success(result), now, out);
    }

    /// Notes the request for the driver, if there can be a takeover at all.
    pub(crate) fn ask_for_takeover(
        &mut self,
        inquiry: &Inquiry<'_>,
        params: &TakeoverParams,
        now: Now,
    ) -> Result<(), ErrorBody> {
        let TakeoverParams { reads_from, reads_to, descriptors_max } = *params;
        if !self.config.hands_over {
            let message = "this gateway is part of another program, and does not hand over: stop that program instead";
            return Err(ErrorBody::new(ErrorCode::PermissionDenied, message));
        }
        if self.is_draining() {
            let message = "the gateway is shutting down: start the new one when it has ended";
            return Err(ErrorBody::new(ErrorCode::ShuttingDown, message));
        }
        if self.takeover_request.is_some() {
            let message = "another gateway is just taking over";
            return Err(ErrorBody::new(ErrorCode::ResourceExhausted, message));
        }
        if let Some(wait_ms) = self.takeover_lost.wait_ms(now) {
            let message = format!(
                "takeovers that came to nothing have held this gateway up for too long: ask again in {wait_ms} ms, or stop it and start the new one"
            );
            return Err(ErrorBody::new(ErrorCode::ResourceExhausted, message));
        }
        let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        if !is_readable(FORMAT, READABLE_FROM, narrow(reads_from), narrow(reads_to)) {
            let message = format!(
                "the running gateway (version {}) hands over in state format {FORMAT}, and the new one reads {reads_from} to {reads_to}: \
                 stop the running one and start the new one",
                env!("CARGO_PKG_VERSION")
            );
            return Err(ErrorBody::new(ErrorCode::InvalidArgument, message));
        }
        self.takeover_request = Some(TakeoverRequest {
            peer: self.peers.id(inquiry.caller),
            identity: self.peers[inquiry.caller].identity,
            descriptors_max,
            id: inquiry.id.into(),
            context: inquiry.context.bytes.into(),
            context_encoding: inquiry.context.encoding,
        });
        Ok(())
    }

    fn answer_takeover(&mut self, request: &TakeoverRequest, outcome: Outcome<'_>, now: Now, out: &mut impl Outbox) {
        let Some(slot) = self.peers.find(request.peer) else { return };
        let context = Payload { encoding: request.context_encoding, bytes: &request.context };
        let answer = Answer { id: CallerId::from(&request.id), outcome, context };
        self.answer(slot, "", &answer, now, out);
        self.settle(now, out);
    }
}
