//! Everything flows while no time passes, and what must be true then; and the end, when everybody behaves.

use super::ledger::{Fate, name_of};
use super::steps::System;
use bro_proto::limits::SERVICE_WAIT_RETRY_MAX_MS;
use bro_router::Router;
use std::collections::BTreeMap;

/// Longer than sessions pause before they ask again for a service.
const WAIT_MS_MAX: u64 = SERVICE_WAIT_RETRY_MAX_MS + 500;
/// More rounds than anything needs to flow.
const ROUNDS_MAX: u32 = 10_000;

impl System {
    /// All bytes arrive, all connections come about, and all handlers answer, until nothing moves any more.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        self.saw("settled");
        self.start_gateway();
        for at in 0..self.clients.len() {
            self.client_time(at)?;
        }
        // As often as it says, if it does something each time.
        for _ in 0..ROUNDS_MAX {
            self.router_time()?;
            if !self.is_router_due() {
                break;
            }
        }
        if self.is_router_due() {
            return Err("the router has something to do, and does not do it".to_owned());
        }
        // Those who were given up are told before anybody answers.
        self.flow()?;
        self.check_given_up()?;
        for _ in 0..ROUNDS_MAX {
            let mut moved = self.flow()?;
            for at in 0..self.clients.len() {
                while !self.clients[at].work.is_empty() {
                    self.respond(at, false)?;
                    moved = true;
                }
            }
            if !moved {
                return self.check_settled();
            }
        }
        Err("it never comes to rest".to_owned())
    }

    /// Whether anything moved.
    fn flow(&mut self) -> Result<bool, String> {
        for round in 0..ROUNDS_MAX {
            self.start_gateway();
            let mut moved = false;
            if self.is_router_due() {
                self.router_time()?;
                moved = true;
            }
            for at in 0..self.clients.len() {
                self.poll(at)?;
            }
            let places: Vec<u64> = self.lines.keys().copied().collect();
            for place in places {
                if self.lines.get(&place).is_some_and(|line| !line.is_decided) {
                    self.decide(place)?;
                    moved = true;
                }
                moved |= self.client_writes(place, true);
                moved |= self.gateway_reads(place, true)?;
                moved |= self.gateway_writes(place, true)?;
                moved |= self.client_reads(place, true)?;
            }
            self.hand_lanes_out()?;
            for place in 0..self.lane_places() {
                for side in [0, 1] {
                    moved |= self.open_lane(place, side, false)?;
                    moved |= self.lane_writes(place, side, true);
                    moved |= self.lane_reads(place, side, true)?;
                }
            }
            for at in 0..self.clients.len() {
                self.poll(at)?;
            }
            if !moved {
                return Ok(round > 0);
            }
        }
        Err("bytes flow for ever".to_owned())
    }

    /// In version 2 a callee is told when its call is given up: by a frame that has arrived by now.
    fn check_given_up(&mut self) -> Result<(), String> {
        for at in 0..self.clients.len() {
            for serial in std::mem::take(&mut self.clients[at].given_up) {
                let Some(record) = self.ledger.get(serial).filter(|record| record.fate == Fate::GivenUp) else {
                    continue;
                };
                let of_it = |work: &&super::clients::Work| work.serial == serial && work.is_v2;
                if let Some(work) = self.clients[record.to].work.iter().find(of_it) {
                    let (caller, callee) = (name_of(at), name_of(record.to));
                    return Err(format!("{caller} has given call {serial} up, and {callee} works on: {work:?}"));
                }
            }
        }
        Ok(())
    }

    /// Nothing is under way, so nothing may be left but calls that wait for services which are not there.
    fn check_settled(&mut self) -> Result<(), String> {
        let Some(router) = &self.router else { return Ok(()) };
        let left = [
            ("calls in flight in the router", router.in_flight_len()),
            ("bytes charged in the router", router.charged_bytes()),
            ("peers that have no connection", router.peers_len().abs_diff(self.peers_open())),
            (
                "bytes in lines",
                self.lines.values().map(|line| line.up.len() + line.down.len() + line.queue.len()).sum(),
            ),
            ("paused lines", self.lines.values().filter(|line| line.is_paused && line.peer.is_some()).count()),
        ];
        if let Some((what, count)) = left.into_iter().find(|(_, count)| *count > 0) {
            return Err(format!("everything has flowed, and {count} {what} are left"));
        }
        for (at, client) in self.clients.iter().enumerate() {
            let status = client.session.status();
            if status.pending_calls != status.waiting_calls || status.outbound_bytes > 0 || !client.work.is_empty() {
                let serials: Vec<u64> = client.pending.values().map(|pending| pending.serial).collect();
                let records: Vec<_> = serials.iter().map(|serial| self.ledger.get(*serial)).collect();
                return Err(format!("everything has flowed, and {} has {status:?}: {records:?}", name_of(at)));
            }
        }
        self.check_lanes()?;
        self.check_waits()
    }

    /// Sessions ask again after a pause: who waits for a service that stays there for longer waits for ever.
    fn check_waits(&mut self) -> Result<(), String> {
        let Some(router) = &self.router else { return Ok(()) };
        let names = if router.is_draining() { Vec::new() } else { router.service_names() };
        let now_ms = self.now.mono_ms();
        let mut waits = BTreeMap::new();
        for client in self.clients.iter().filter(|client| client.is_connected) {
            for serial in client.pending.values().map(|pending| pending.serial) {
                let Some(record) = self.ledger.get(serial) else { continue };
                if names.contains(&name_of(record.to)) && !self.clients[record.to].has_drained {
                    waits.insert(serial, self.waits_since_ms.get(&serial).copied().unwrap_or(now_ms));
                }
            }
        }
        self.waits_since_ms = waits;
        match self.waits_since_ms.iter().find(|(_, since_ms)| now_ms - **since_ms > WAIT_MS_MAX) {
            Some((serial, _)) => {
                Err(format!("a call waits for a service that is there: {:?}", self.ledger.get(*serial)))
            }
            None => Ok(()),
        }
    }

    /// For a while nobody does anything but read, answer and wait.
    pub(super) fn calm(&mut self) -> Result<(), String> {
        self.waits_since_ms.clear();
        for _ in 0..20 {
            self.tick(100)?;
            self.settle()?;
        }
        self.waits_since_ms.clear();
        Ok(())
    }

    fn peers_open(&self) -> usize {
        self.lines.values().filter(|line| line.peer.is_some()).count()
    }

    /// From now on everybody behaves: everybody gets connected, every call is answered, and in the end nothing is left.
    pub(super) fn rest(&mut self) -> Result<(), String> {
        if self.is_watching {
            self.watch()?;
        }
        self.waits_since_ms.clear();
        for _ in 0..700 {
            self.tick(100)?;
            self.settle()?;
            for at in 0..self.clients.len() {
                let client = &self.clients[at];
                if !client.is_connected && !client.connect_waits && client.session.wakeup_ms().is_none() {
                    self.connect(at)?;
                }
            }
        }
        // Who drained takes no calls until it has left.
        for at in 0..self.clients.len() {
            self.disconnect_client(at)?;
        }
        self.settle()?;
        self.expect_nothing("all have left")?;
        for at in 0..self.clients.len() {
            self.connect(at)?;
        }
        self.settle()?;
        if let Some(at) = (0..self.clients.len()).find(|&at| !self.clients[at].is_connected) {
            return Err(format!("{} cannot connect although everybody behaves", name_of(at)));
        }
        self.call_each_other()?;
        for at in 0..self.clients.len() {
            self.disconnect_client(at)?;
        }
        self.settle()?;
        self.expect_nothing("all have left for good")
    }

    fn tick(&mut self, ms: u64) -> Result<(), String> {
        self.now.mono_us += ms * 1000;
        self.now.wall_ms += ms;
        for at in 0..self.clients.len() {
            self.client_time(at)?;
        }
        self.router_time()
    }

    fn call_each_other(&mut self) -> Result<(), String> {
        for at in 0..self.clients.len() {
            for to in (0..self.clients.len()).filter(|&to| to != at) {
                let (before, ended) = (self.succeeded(), self.summary.ended);
                self.call(at, to)?;
                self.settle()?;
                let is_notified = self.summary.ended == ended && self.clients[at].pending.is_empty();
                if self.succeeded() == before && !is_notified {
                    return Err(format!("{} cannot call {} although everybody behaves", name_of(at), name_of(to)));
                }
            }
        }
        Ok(())
    }

    fn succeeded(&self) -> u64 {
        self.summary.seen.get("success").copied().unwrap_or(0)
    }

    fn expect_nothing(&self, when: &str) -> Result<(), String> {
        let Some(router) = &self.router else { return Ok(()) };
        let count = |of: fn(&Router) -> usize| of(router);
        let left = [
            ("peers", count(Router::peers_len)),
            ("services", count(Router::services_len)),
            ("calls in flight", count(Router::in_flight_len)),
            ("waiters", count(Router::parked_len)),
            ("timers", count(Router::timers_len)),
            ("bytes", count(Router::memory_bytes) + count(Router::charged_bytes)),
            ("lanes", count(Router::lanes_len) + self.lanes_len()),
            ("connections", self.lines.len()),
        ];
        match left.into_iter().find(|(_, count)| *count > 0) {
            Some((what, count)) => Err(format!("{when}, and {count} {what} are left")),
            None => Ok(()),
        }
    }
}
