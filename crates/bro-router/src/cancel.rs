//! Calls that are given up, and with each the calls that were made for it.

use crate::outbox::{Outbox, Part};
use crate::router::Router;
use bro_proto::v2::CancelReason;
use bro_proto::v2::encode;
use bro_proto::{ErrorBody, Now};

impl Router {
    /// CANCEL: the caller does not wait any longer. A call that has ended, and a number that was never given, are the same.
    pub(crate) fn cancel_call(
        &mut self,
        caller: u32,
        number: u64,
        reason: CancelReason,
        now: Now,
        out: &mut impl Outbox,
    ) {
        let found = self.calls.find_caller_number(caller, number);
        if let Some(index) = found.filter(|&index| !self.ends.are_due() || !self.meets_fate(index, now, out)) {
            self.counters.calls_cancelled += 1;
            self.give_up(index, reason, None, now, out);
        } else if let Some(index) = self.find_parked(caller, number) {
            self.unpark(index);
        }
    }

    /// Ends a call that its callee has not answered. If calls were made for it, it leaves a stump, on which they are the next to end.
    pub(crate) fn give_up_alone(
        &mut self,
        index: u32,
        reason: CancelReason,
        error: Option<&ErrorBody>,
        decided: u64,
        now: Now,
        out: &mut impl Outbox,
    ) {
        self.abandon(index, reason, now, out);
        let call = self.calls.fell(&mut self.peers, index, decided);
        self.timers.remove(call.timer);
        if let Some(error) = error {
            self.answer_failed(&call, error, now, out);
        }
        self.calls.recycle(call);
    }

    /// A call is about to end although its callee has not answered: the callee is told, where it can be; where not, the id under which it may
    /// still answer is kept.
    fn abandon(&mut self, index: u32, reason: CancelReason, now: Now, out: &mut impl Outbox) {
        let call = &self.calls[index];
        let callee = call.callee();
        if !self.peers.is_live(callee) {
            return;
        }
        if !call.is_tabled() {
            let mut frame = std::mem::take(&mut self.scratch);
            encode::cancel(&mut frame, self.calls.number(index), reason);
            let parts = [Part::Scratch(&frame)];
            self.peers.send_unpaused(callee, &parts, now, &mut self.timers, &mut self.counters, out);
            self.keep_scratch(frame);
        } else if let Some(hash) = call.shared_id_hash() {
            self.peers[callee].abandoned.get_or_insert_default().insert(hash);
            self.account_tables(callee);
        }
    }
}
