//! Calls of version 2, as those who watch see them.

use crate::calls::Call;
use crate::event::Event;
use crate::outbox::Outbox;
use crate::router::Router;
use bro_proto::v1::Encoding;
use bro_proto::v1::encode::write_context;
use bro_proto::v2::{RootStamp, Section};
use bro_proto::{CallContext, Now};

impl Router {
    #[cold]
    pub(crate) fn report_call_v2(&mut self, index: u32, now: Now, out: &mut impl Outbox) {
        let call = &self.calls[index];
        let (caller, callee) = (call.caller(), call.callee());
        let deadline_ms = now.wall_ms.saturating_add(call.timeout_ms);
        let context = match Section::parse(call.section()) {
            Ok(section) => section.to_context(deadline_ms),
            Err(_) => self.begun_context(call, deadline_ms),
        };
        let (method, id) = (call.method().to_owned(), call.caller_id().text().into_owned());
        self.report_call_with(caller, callee, &method, &id, &context, now, out);
    }

    #[allow(clippy::too_many_arguments, reason = "the parties, the call, and the world")]
    pub(crate) fn report_call_with(
        &mut self,
        caller: u32,
        callee: u32,
        method: &str,
        request_id: &str,
        context: &CallContext,
        now: Now,
        out: &mut impl Outbox,
    ) {
        let mut json = Vec::new();
        write_context(&mut json, Encoding::Json, context);
        let event = Event::CallRouted {
            from: &self.registry[self.peers[caller].service].name,
            to: &self.registry[self.peers[callee].service].name,
            method,
            request_id,
            context_json: std::str::from_utf8(&json).unwrap_or("null"),
        };
        self.reporter.report(event, now, out);
    }

    fn begun_context(&self, call: &Call, deadline_ms: u64) -> CallContext {
        let names = [call.caller(), call.callee()].map(|slot| self.registry[self.peers[slot].service].name.to_string());
        CallContext { root: RootStamp(call.root).to_string(), chain: names.to_vec(), depth: 2, deadline_ms }
    }
}
