//! The end of a wakeup: signs of life, how long it took, and memory that is free.

use super::Driver;
use crate::embedding::Vitals;
use bro_proto::Now;

impl Driver {
    pub(super) fn beat(&mut self) {
        let Some((pulse, next_us)) = &mut self.pulse else { return };
        if self.now.mono_us < *next_us {
            return;
        }
        *next_us = self.now.mono_us.saturating_add(u64::try_from(pulse.every.as_micros()).unwrap_or(u64::MAX).max(1));
        (pulse.beat)(Vitals {
            services: self.router.services_len(),
            peers: self.router.peers_len(),
            in_flight: self.router.in_flight_len(),
            is_draining: self.router.is_draining(),
        });
    }

    pub(super) fn end_wakeup(&mut self, readable_len: usize) {
        let ended = Now { mono_us: self.clock.mono_us(), wall_ms: self.now.wall_ms };
        if let Some(warning) = self.pace.end(ended, readable_len, self.router.counters()) {
            self.router.handle_warning(&warning, self.now, &mut self.conns);
            self.flush();
            self.conns.journal.deliver();
        }
    }

    pub(super) fn give_back_memory(&mut self) {
        let kept_bytes = self.router.memory_bytes();
        self.spare.note(kept_bytes, self.now.mono_us);
        if self.spare.is_due(self.now.mono_us) {
            self.spare.give_back(kept_bytes, || self.clock.mono_us());
        }
    }
}
