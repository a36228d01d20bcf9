//! A callee process that is an old v1 program: one connection, one thread, and answers in whatever order they are ready.

use crate::WorkerArgs;
use crate::plan::REFUSAL;
use crate::report::HEARTBEAT_INTERVAL;
use bro_testing::{ReceiveError, V1Peer};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long to wait for a frame before looking at the clock.
const RECEIVE_WAIT: Duration = Duration::from_millis(5);
/// How long to wait before connecting again.
const CONNECT_PAUSE: Duration = Duration::from_millis(10);

pub(crate) fn run(args: &WorkerArgs) {
    let is_stopping = Arc::new(AtomicBool::new(false));
    thread::spawn({
        let is_stopping = Arc::clone(&is_stopping);
        move || {
            crate::wait_for_end_of_input();
            is_stopping.store(true, Ordering::Relaxed);
        }
    });
    while !is_stopping.load(Ordering::Relaxed) {
        match connect(args) {
            Some(peer) => Callee::new(peer).serve(&is_stopping),
            None => thread::sleep(CONNECT_PAUSE),
        }
    }
}

fn connect(args: &WorkerArgs) -> Option<V1Peer> {
    let mut peer = V1Peer::try_connect(&args.socket, args.encoding()).ok()?;
    peer.try_register(&args.name, &["echo", "sleep", "nested", "refuse"]).ok()?;
    Some(peer)
}

struct Callee {
    peer: V1Peer,
    /// Calls that sleep, and until when.
    asleep: Vec<(Instant, Value)>,
    /// Calls that wait for the answer to a call of our own, by its id.
    nested: HashMap<String, Value>,
    calls: u64,
    heartbeat_at: Instant,
}

impl Callee {
    fn new(peer: V1Peer) -> Callee {
        Callee { peer, asleep: Vec::new(), nested: HashMap::new(), calls: 0, heartbeat_at: Instant::now() }
    }

    /// Until the connection is lost, or there is nothing more to do.
    fn serve(mut self, is_stopping: &AtomicBool) {
        while !is_stopping.load(Ordering::Relaxed) {
            let is_open = match self.peer.try_receive(RECEIVE_WAIT) {
                Ok(frame) => self.take(frame),
                Err(ReceiveError::Silence) => true,
                Err(ReceiveError::Closed) => false,
            };
            if !is_open || !self.do_what_is_due() {
                return;
            }
        }
    }

    /// False when the connection is lost, as of all methods here.
    fn take(&mut self, frame: Value) -> bool {
        match (frame["type"].as_str(), frame["method"].as_str()) {
            (Some("RESPONSE"), _) => self.finish_nested(&frame),
            (Some("CALL"), Some("echo")) => self.answer(&frame, Ok(frame["params"].clone())),
            (Some("CALL"), Some("sleep")) => {
                let span = Duration::from_millis(frame["params"]["ms"].as_u64().unwrap_or(0));
                self.asleep.push((Instant::now() + span, frame));
                true
            }
            (Some("CALL"), Some("nested")) => self.start_nested(frame),
            (Some("CALL"), _) => {
                self.answer(&frame, Err(json!({ "code": REFUSAL, "message": "this method always fails" })))
            }
            // An ERROR frame: the connection ends.
            _ => true,
        }
    }

    fn start_nested(&mut self, call: Value) -> bool {
        self.calls += 1;
        let id = format!("req-{}", self.calls);
        let next = call["params"]["next"].clone();
        let mut context = call["context"].clone();
        if let Some(chain) = context["chain"].as_array_mut() {
            chain.push(next.clone());
        }
        context["depth"] = json!(context["depth"].as_f64().unwrap_or(1.0) + 1.0);
        let asked = json!({
            "type": "CALL", "id": id, "from": self.peer.name(), "to": next, "method": "echo", "params": call["params"],
            "context": context
        });
        self.nested.insert(id, call);
        self.peer.try_send(&asked).is_ok()
    }

    fn finish_nested(&mut self, answer: &Value) -> bool {
        let Some(call) = answer["id"].as_str().and_then(|id| self.nested.remove(id)) else { return true };
        let outcome =
            if answer["status"] == "success" { Ok(answer["data"].clone()) } else { Err(answer["error"].clone()) };
        self.answer(&call, outcome)
    }

    fn answer(&mut self, call: &Value, outcome: Result<Value, Value>) -> bool {
        self.peer.try_respond(call, outcome).is_ok()
    }

    fn do_what_is_due(&mut self) -> bool {
        let now = Instant::now();
        let (due, asleep) = std::mem::take(&mut self.asleep).into_iter().partition(|(at, _)| *at <= now);
        self.asleep = asleep;
        let due: Vec<(Instant, Value)> = due;
        let mut is_open = due.iter().all(|(_, call)| self.answer(call, Ok(call["params"].clone())));
        if now >= self.heartbeat_at {
            self.heartbeat_at = now + HEARTBEAT_INTERVAL;
            is_open &= self.peer.try_heartbeat().is_ok();
        }
        is_open
    }
}
