//! A caller process that is an old v1 program: it sees every frame, so it sees an answer that comes twice.

use crate::WorkerArgs;
use crate::plan::Plan;
use crate::report::{HEARTBEAT_INTERVAL, REPORT_INTERVAL, Report};
use bro_proto::rng::Rng;
use bro_testing::{ReceiveError, V1Peer};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Calls in flight at once.
const CALLS_AT_ONCE: usize = 12;
/// How long after its deadline a call that has not been answered counts as hung.
const HANG_AFTER: Duration = Duration::from_secs(10);
/// How long to wait for a frame before looking at the clock.
const RECEIVE_WAIT: Duration = Duration::from_millis(10);
/// How long to wait before connecting again.
const CONNECT_PAUSE: Duration = Duration::from_millis(10);

struct OldCaller<'a> {
    args: &'a WorkerArgs,
    rng: Rng,
    report: Report,
    told: Instant,
    calls: u64,
    is_stopping: Arc<AtomicBool>,
}

pub(crate) fn run(args: &WorkerArgs) {
    let is_stopping = Arc::new(AtomicBool::new(false));
    thread::spawn({
        let is_stopping = Arc::clone(&is_stopping);
        move || {
            crate::wait_for_end_of_input();
            is_stopping.store(true, Ordering::Relaxed);
        }
    });
    let (rng, report) = (Rng::new(args.seed), Report::default());
    let mut caller = OldCaller { args, rng, report, told: Instant::now(), calls: 0, is_stopping };
    while !caller.is_stopping() {
        match caller.connect() {
            Some(peer) => caller.use_up(peer),
            None => thread::sleep(CONNECT_PAUSE),
        }
        caller.tell_sometimes();
    }
    caller.report.is_final = true;
    caller.report.tell();
}

impl OldCaller<'_> {
    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    /// Connects and registers, if a gateway is there.
    fn connect(&mut self) -> Option<V1Peer> {
        let mut peer = V1Peer::try_connect(&self.args.socket, self.args.encoding()).ok()?;
        let register = json!({
            "type": "REGISTER", "serviceName": self.args.name, "methods": [], "version": "1.0.0", "metadata": {}
        });
        peer.try_send(&register).ok()?;
        let answer = peer.try_receive(Duration::from_secs(10)).ok()?;
        if answer["type"] != "REGISTER_ACK" {
            self.report.refused_registrations += 1;
            return None;
        }
        Some(peer)
    }

    /// Calls through this connection until it is lost, or until there is nothing more to do.
    fn use_up(&mut self, mut peer: V1Peer) {
        let mut open: HashMap<String, (Plan, Instant)> = HashMap::new();
        let mut heartbeat = Instant::now();
        while !(self.is_stopping() && open.is_empty()) {
            let mut is_lost = false;
            while open.len() < CALLS_AT_ONCE && !self.is_stopping() && !is_lost {
                is_lost = !self.start(&mut peer, &mut open);
            }
            match peer.try_receive(RECEIVE_WAIT) {
                Ok(frame) => self.take(&frame, &mut open),
                Err(ReceiveError::Silence) => self.give_up_hung(&mut open),
                Err(ReceiveError::Closed) => is_lost = true,
            }
            if heartbeat.elapsed() >= HEARTBEAT_INTERVAL {
                heartbeat = Instant::now();
                is_lost |= peer.try_heartbeat().is_err();
            }
            if is_lost {
                for (plan, _) in open.values() {
                    plan.judge(&mut self.report, Err("CONNECTION_LOST"));
                }
                return;
            }
            self.tell_sometimes();
        }
    }

    /// Returns whether the connection took the call. A call that it did not take has begun all the same.
    fn start(&mut self, peer: &mut V1Peer, open: &mut HashMap<String, (Plan, Instant)>) -> bool {
        let plan = Plan::draw(&mut self.rng, self.args.callees);
        self.calls += 1;
        // Both old callers number their calls alike: ids are theirs to choose, and need not differ.
        let id = format!("req-{}", self.calls);
        let name = &self.args.name;
        let deadline = bro_testing::peer::now_ms() + u64::try_from(plan.timeout.as_millis()).expect("a short time");
        let call = json!({
            "type": "CALL", "id": id, "from": name, "to": plan.to, "method": plan.method, "params": plan.params,
            "context": { "root": format!("root-{id}"), "chain": [name, name], "depth": 2, "deadline": deadline }
        });
        self.report.started += 1;
        open.insert(id, (plan, Instant::now()));
        peer.try_send(&call).is_ok()
    }

    fn take(&mut self, frame: &Value, open: &mut HashMap<String, (Plan, Instant)>) {
        if frame["type"] == "ERROR" && frame["error"]["code"] == "TIMEOUT" {
            return; // it was stopped for so long that the gateway gave it up, and will find the connection closed
        }
        if frame["type"] != "RESPONSE" {
            *self.report.unfit.entry(format!("a frame of type {}", frame["type"])).or_default() += 1;
            return;
        }
        let Some((plan, begun)) = frame["id"].as_str().and_then(|id| open.remove(id)) else {
            self.report.answered_twice += 1;
            return;
        };
        if plan.is_quick() {
            self.report.note_duration(begun.elapsed());
        }
        match frame["error"]["code"].as_str() {
            Some(code) => plan.judge(&mut self.report, Err(code)),
            None => plan.judge(&mut self.report, Ok(&frame["data"])),
        }
    }

    fn give_up_hung(&mut self, open: &mut HashMap<String, (Plan, Instant)>) {
        open.retain(|_, (plan, begun)| {
            let is_hung = begun.elapsed() > plan.timeout + HANG_AFTER;
            self.report.hung += u64::from(is_hung);
            !is_hung
        });
    }

    fn tell_sometimes(&mut self) {
        if self.told.elapsed() >= REPORT_INTERVAL {
            self.told = Instant::now();
            self.report.tell();
        }
    }
}
