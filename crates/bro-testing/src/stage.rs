//! Gateways that are started by hand on one socket, one after the other or several at once, each with arguments and a log of its own.

use crate::gateway::{bro_path, wait_for_exit, wait_until};
use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A gateway process, and what it says. Dropping it kills it.
#[derive(Debug)]
pub struct Gateway {
    /// The process.
    pub child: Child,
    log: PathBuf,
}

impl Gateway {
    /// Whether that stands in its log.
    pub fn said(&self, text: &str) -> bool {
        self.log().contains(text)
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("a log")
    }

    /// Whether the process has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("the child can be asked").is_some()
    }

    /// Kills it with SIGKILL, as a crash would.
    pub fn kill9(&mut self) {
        self.child.kill().expect("it is ours");
        self.child.wait().expect("it is ours");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
        if thread::panicking() {
            let _ = writeln!(std::io::stderr(), "a gateway said:\n{}", self.log());
        }
    }
}

/// Where gateways come and go: a directory with a socket.
#[derive(Debug)]
pub struct Stage {
    dir: TempDir,
    begun: u64,
}

impl Default for Stage {
    fn default() -> Self {
        Stage::new()
    }
}

impl Stage {
    /// Where no gateway has been yet.
    pub fn new() -> Stage {
        Stage { dir: tempfile::tempdir().expect("a temporary directory can be made"), begun: 0 }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where to connect.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("gateway.sock")
    }

    /// Starts a gateway, as `uid` if one is named, and does not wait for anything. There are no lanes unless the arguments say so.
    pub fn begin(&mut self, arguments: &[&str], uid: Option<u32>) -> Gateway {
        self.begun += 1;
        let log = self.dir.path().join(format!("log-{}", self.begun));
        let mut command = Command::new(bro_path());
        command.arg("gateway").arg("--socket").arg(self.socket()).args(arguments);
        if !arguments.contains(&"--lanes") {
            command.args(["--lanes", "off"]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).expect("the directory is ours"));
        if let Some(uid) = uid {
            command.uid(uid).gid(uid);
        }
        Gateway { child: command.spawn().expect("it starts"), log }
    }

    /// A gateway that is there, and that everybody may write to.
    pub fn first(&mut self) -> Gateway {
        self.first_with(&["--mode", "0666"])
    }

    /// A gateway that is there, with these arguments.
    pub fn first_with(&mut self, arguments: &[&str]) -> Gateway {
        let gateway = self.begin(arguments, None);
        wait_until("it accepts", || UnixStream::connect(self.socket()).is_ok());
        gateway
    }

    /// Starts one that takes over.
    pub fn successor(&mut self) -> Gateway {
        self.begin(&["--takeover"], None)
    }

    /// A new one has taken over; and how long that took.
    pub fn replace(&mut self, gateway: &mut Gateway) -> Duration {
        self.replace_with(gateway, &[])
    }

    /// A new one with these arguments has taken over; and how long that took.
    pub fn replace_with(&mut self, gateway: &mut Gateway, arguments: &[&str]) -> Duration {
        let begun = Instant::now();
        let mut new = self.begin(&[&["--takeover"], arguments].concat(), None);
        wait_until("it takes over or ends", || new.said("took over from") || new.has_ended());
        assert!(new.said("took over from"), "it did not take over: {}", new.log());
        let took = begun.elapsed();
        assert!(wait_for_exit(&mut gateway.child).success());
        *gateway = new;
        took
    }

    /// A new one with these arguments is refused, and ends with 1: what it said. The present one goes on, as its log says.
    pub fn refuse(&mut self, arguments: &[&str]) -> String {
        let mut new = self.begin(&[&["--takeover"], arguments].concat(), None);
        assert_eq!(wait_for_exit(&mut new.child).code(), Some(1), "{}", new.log());
        assert!(!new.said("took over from"), "{}", new.log());
        new.log()
    }
}

/// How many processes have that path among their arguments.
pub fn processes_of(path: &Path) -> usize {
    let path = path.to_str().expect("a text");
    let all = std::fs::read_dir("/proc").expect("processes can be listed").filter_map(Result::ok);
    all.filter(|entry| {
        std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(path))
    })
    .count()
}
