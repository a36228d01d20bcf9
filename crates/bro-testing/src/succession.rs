//! A gateway that is replaced by another one while it is used, again and again.

use crate::codec::Encoding;
use crate::gateway::{GatewayOptions, TempGateway, wait_until};
use crate::peer::V1Peer;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// The gateways of one socket, one after the other. Dropping it kills the last one.
#[derive(Debug)]
pub struct Succession {
    /// Has the directory, and the standard input and error that all of them share.
    first: TempGateway,
    /// Of the present one.
    pid: u32,
    /// Connections of its own so far.
    asked: u64,
    replaced: u64,
}

impl Succession {
    /// Starts the first one.
    pub fn start(options: GatewayOptions) -> Succession {
        let first = options.start();
        Succession { pid: first.pid(), first, asked: 0, replaced: 0 }
    }

    /// Where to connect.
    pub fn socket_path(&self) -> &Path {
        self.first.socket_path()
    }

    /// The present process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// How often one was replaced.
    pub fn replaced(&self) -> u64 {
        self.replaced
    }

    /// Connections that this made itself: each status is one.
    pub fn asked(&self) -> u64 {
        self.asked
    }

    /// What they have written to stderr.
    pub fn stderr(&self) -> String {
        self.first.stderr()
    }

    /// What the present one says of itself.
    pub fn status(&mut self) -> Value {
        self.asked += 1;
        let name = format!("succession-{}", self.asked);
        let mut peer = V1Peer::register(self.socket_path(), Encoding::Json, &name, &[]);
        peer.call("bro.gateway", "status", json!({}))["data"].take()
    }

    /// Tells the present one to start another (SIGUSR2), without waiting.
    pub fn signal(&self) {
        signal(self.pid, Signal::USR2);
    }

    /// Has the present one replaced, and waits until it has ended. The first one must end well.
    pub fn replace(&mut self) {
        self.signal();
        self.await_successor();
    }

    /// Waits until the present one has ended because it was replaced.
    pub fn await_successor(&mut self) {
        let before = self.pid;
        if self.replaced == 0 {
            let status = self.first.wait_replaced();
            assert!(status.success(), "the gateway that was replaced ended with {status}:\n{}", self.stderr());
        } else {
            wait_until("the gateway that was replaced ends", || has_ended(before));
        }
        self.replaced += 1;
        let status = self.status();
        self.pid = u32::try_from(status["pid"].as_u64().expect("a process id")).expect("a process id");
        assert_ne!(self.pid, before, "another process answers");
    }

    /// Kills the present one, as a crash would, and waits until it has gone.
    pub fn kill9(&self) {
        signal(self.pid, Signal::KILL);
        wait_until("the killed gateway has gone", || has_ended(self.pid));
    }

    /// Tells the present one to stop, and waits until it has.
    pub fn stop(&self) {
        signal(self.pid, Signal::TERM);
        wait_until("the last gateway ends", || has_ended(self.pid));
    }

    /// For how long nothing moved in each takeover, in microseconds, as the logs say.
    pub fn pauses_us(&self) -> Vec<u64> {
        let stderr = self.stderr();
        let after = stderr.split("paused_us=").skip(1);
        after.filter_map(|rest| rest.split_whitespace().next()?.parse().ok()).collect()
    }
}

impl Drop for Succession {
    fn drop(&mut self) {
        if self.replaced > 0 && !has_ended(self.pid) {
            signal(self.pid, Signal::KILL);
        }
    }
}

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, signal).expect("a gateway of ours can be signalled");
}

/// Gone, or waiting for its parent to notice. Its first thread may be that before the others, which have its sockets open until then.
fn has_ended(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    let is_zombie = stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'));
    is_zombie && fs::read_dir(format!("/proc/{pid}/task")).map_or(true, |threads| threads.count() <= 1)
}
