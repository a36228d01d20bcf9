//! A callee or caller process, from the soak's side.

use crate::report::Report;
use bro_testing::gateway::{Signal, signal, wait_for_exit};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// What kind of process a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Callee,
    OldCallee,
    Caller,
    OldCaller,
}

/// How to start a worker, again and again.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) role: Role,
    pub(crate) name: String,
    pub(crate) is_msgpack: bool,
    pub(crate) pool_size: u32,
}

impl Spec {
    /// Whether it serves calls, and makes none of its own.
    pub(crate) fn is_callee(&self) -> bool {
        matches!(self.role, Role::Callee | Role::OldCallee)
    }
}

/// A running worker. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct Worker {
    child: Child,
    report: Arc<Mutex<Report>>,
    reader: Option<JoinHandle<()>>,
    /// Until when it is stopped.
    frozen_until: Option<Instant>,
}

impl Worker {
    /// Starts the process that `spec` describes.
    pub(crate) fn spawn(spec: &Spec, socket: &Path, callees: u32, seed: u64) -> Worker {
        let mut command = Command::new(std::env::current_exe().expect("a program knows its path"));
        command.arg(match spec.role {
            Role::Callee => "callee",
            Role::OldCallee => "old-callee",
            Role::Caller => "caller",
            Role::OldCaller => "old-caller",
        });
        command.arg("--socket").arg(socket).arg("--name").arg(&spec.name);
        command.args(["--pool-size", &spec.pool_size.to_string(), "--seed", &seed.to_string()]);
        command.args(["--callees", &callees.to_string()]);
        if spec.is_msgpack {
            command.arg("--msgpack");
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a worker can be started");
        let report = Arc::new(Mutex::new(Report::default()));
        let lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let reader = thread::spawn({
            let report = Arc::clone(&report);
            move || {
                // The last line of a killed worker may be cut off; then the one before counts.
                for line in lines.map_while(Result::ok) {
                    if let Ok(told) = serde_json::from_str(&line) {
                        *report.lock().expect("no panic") = told;
                    }
                }
            }
        });
        Worker { child, report, reader: Some(reader), frozen_until: None }
    }

    /// What it has told so far.
    pub(crate) fn report(&self) -> Report {
        self.report.lock().expect("no panic").clone()
    }

    /// How it ended, if it did so by itself.
    pub(crate) fn has_died(&mut self) -> Option<String> {
        self.child.try_wait().expect("the child can be asked").map(|status| status.to_string())
    }

    /// Stops it with SIGSTOP until then.
    pub(crate) fn freeze(&mut self, until: Instant) {
        signal(&self.child, Signal::STOP);
        self.frozen_until = Some(until);
    }

    /// Lets it go on if it was stopped until `now` or before.
    pub(crate) fn thaw(&mut self, now: Instant) {
        if self.frozen_until.is_some_and(|until| until <= now) {
            signal(&self.child, Signal::CONT);
            self.frozen_until = None;
        }
    }

    /// Whether it is stopped.
    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen_until.is_some()
    }

    /// Kills it with SIGKILL: what it told until then.
    pub(crate) fn kill(mut self) -> Report {
        self.child.kill().expect("a worker can be killed");
        self.child.wait().expect("a worker can be waited for");
        self.last_report()
    }

    /// Ends its input and waits until it has ended: what it told at last, or how it failed.
    pub(crate) fn finish(mut self) -> Result<Report, String> {
        drop(self.child.stdin.take());
        let status = wait_for_exit(&mut self.child);
        let report = self.last_report();
        if status.success() { Ok(report) } else { Err(status.to_string()) }
    }

    fn last_report(&mut self) -> Report {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader does not panic");
        }
        self.report()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
