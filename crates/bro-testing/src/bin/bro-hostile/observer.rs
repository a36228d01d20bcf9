//! A peer that asks the gateway, at the end of an attack, how it fared.

use bro_testing::{Encoding, V1Peer};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Well within the heartbeat interval of any attack's gateway.
const HEARTBEAT: Duration = Duration::from_millis(100);

/// What the gateway says of its own thread: how much of what honest programs notice is its doing.
pub(crate) struct Pace {
    /// 99th percentile of the time from ready to handled, in microseconds.
    pub(crate) lag_p99_us: u64,
    /// The longest wakeup, as the gateway describes it.
    pub(crate) longest: Value,
}

/// Connected from the beginning, since an attack may leave its user no further connections, and never silent.
pub(crate) struct Observer {
    ask: Sender<()>,
    asking: JoinHandle<Pace>,
}

impl Observer {
    pub(crate) fn start(socket: &Path) -> Observer {
        let mut peer = V1Peer::register(socket, Encoding::Json, "observer", &[]);
        let (ask, asked) = channel();
        let asking = thread::spawn(move || {
            while asked.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
                // A gateway that has gone is seen by others.
                let _ = peer.try_heartbeat();
            }
            pace_of(&mut peer)
        });
        Observer { ask, asking }
    }

    /// Only while the gateway runs.
    pub(crate) fn pace(self) -> Pace {
        self.ask.send(()).expect("the observer waits for it");
        self.asking.join().expect("the observer is answered")
    }
}

/// Asked in the words of an old program.
fn pace_of(peer: &mut V1Peer) -> Pace {
    let status = peer.call("bro.gateway", "status", json!({}));
    let pace = &status["data"]["loop"];
    Pace { lag_p99_us: pace["lagP99Us"].as_u64().unwrap_or_default(), longest: pace["longestWakeup"].clone() }
}
