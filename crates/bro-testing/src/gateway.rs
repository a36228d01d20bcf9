//! The real `bro gateway` process, on a socket of its own.

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use std::fs::{self, OpenOptions};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a process may take to accept connections, or to end, before that counts as a failure.
const PROCESS_WAIT: Duration = Duration::from_secs(120);
/// How often a condition outside this process is looked at again.
const POLL: Duration = Duration::from_millis(2);

/// How a [`TempGateway`] is started. `None` leaves the gateway's default.
#[derive(Clone, Debug, Default)]
pub struct GatewayOptions {
    /// `--heartbeat-interval`, in milliseconds.
    pub heartbeat_interval_ms: Option<u64>,
    /// `--register-timeout`, in milliseconds.
    pub register_timeout_ms: Option<u64>,
    /// `--timeout`, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// `--drain-timeout`, in milliseconds.
    pub drain_timeout_ms: Option<u64>,
    /// `--mode`, the permission bits of the socket.
    pub mode: Option<u32>,
    /// `--lanes`: `off`, `auto` or `always`.
    pub lanes: Option<String>,
    /// `--memory-max`, in bytes.
    pub memory_max: Option<usize>,
    /// `--connections-per-uid-max`.
    pub connections_per_uid_max: Option<usize>,
    /// `--debug`.
    pub debug: bool,
    /// Another program instead of `bro gateway`, with its first arguments. It must take those of `bro gateway` that are set here.
    pub program: Option<(PathBuf, Vec<String>)>,
}

impl GatewayOptions {
    /// Starts a gateway with these options, and waits until it accepts.
    pub fn start(self) -> TempGateway {
        let dir = tempfile::Builder::new().prefix("bro-").tempdir().expect("a temporary directory can be made");
        let socket_path = dir.path().join("gateway.sock");
        let log_path = dir.path().join("gateway.log");
        let mut gateway = TempGateway { options: self, socket_path, log_path, child: None, dir };
        gateway.restart();
        gateway
    }

    fn command(&self, socket_path: &Path) -> Command {
        let mut command = match &self.program {
            None => {
                let mut command = Command::new(bro_path());
                command.arg("gateway");
                command
            }
            Some((path, arguments)) => {
                let mut command = Command::new(path);
                command.args(arguments);
                command
            }
        };
        command.arg("--socket").arg(socket_path);
        for (flag, value) in [
            ("--heartbeat-interval", self.heartbeat_interval_ms),
            ("--register-timeout", self.register_timeout_ms),
            ("--timeout", self.timeout_ms),
            ("--drain-timeout", self.drain_timeout_ms),
        ] {
            if let Some(value) = value {
                command.arg(flag).arg(format!("{value}ms"));
            }
        }
        if let Some(mode) = self.mode {
            command.arg("--mode").arg(format!("{mode:o}"));
        }
        for (flag, value) in
            [("--memory-max", self.memory_max), ("--connections-per-uid-max", self.connections_per_uid_max)]
        {
            if let Some(value) = value {
                command.arg(flag).arg(value.to_string());
            }
        }
        if let Some(lanes) = &self.lanes {
            command.arg("--lanes").arg(lanes);
        }
        if self.debug {
            command.arg("--debug");
        }
        command.arg("--stop-with-stdin").stdin(Stdio::piped());
        command
    }
}

/// A `bro gateway` process on a private temporary socket. Dropping it kills the process and removes its directory.
#[derive(Debug)]
pub struct TempGateway {
    options: GatewayOptions,
    socket_path: PathBuf,
    log_path: PathBuf,
    /// `None` while it is down.
    child: Option<Child>,
    dir: TempDir,
}

impl TempGateway {
    /// A gateway with every default.
    pub fn start() -> TempGateway {
        GatewayOptions::default().start()
    }

    /// Where to connect.
    pub fn socket_path(&self) -> &Path {
        &self.socket_path
    }

    /// The private directory of the socket.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the gateway is up").id()
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().expect("the child can be asked").is_none())
    }

    /// Kills it with SIGKILL, as a crash would.
    pub fn kill9(&mut self) {
        let mut child = self.child.take().expect("the gateway is up");
        child.kill().expect("the gateway can be killed");
        child.wait().expect("the gateway can be waited for");
    }

    /// Asks it to end with SIGTERM and waits until it has.
    pub fn stop(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the gateway is up");
        terminate(&child);
        wait_for_exit(&mut child)
    }

    /// Waits until it has ended because another one took over. Its standard input, which that one has as well, stays open.
    pub fn wait_replaced(&mut self) -> ExitStatus {
        wait_for_exit(self.child.as_mut().expect("the gateway is up"))
    }

    /// Sends SIGTERM without waiting.
    pub fn terminate(&self) {
        terminate(self.child.as_ref().expect("the gateway is up"));
    }

    /// Stops the whole process with SIGSTOP, as a debugger or a starved machine would, until [`TempGateway::go_on`].
    pub fn freeze(&self) {
        signal(self.child.as_ref().expect("the gateway is up"), Signal::STOP);
    }

    /// Lets a frozen process go on.
    pub fn go_on(&self) {
        signal(self.child.as_ref().expect("the gateway is up"), Signal::CONT);
    }

    /// Waits until it has ended by itself, or by a signal that was sent before.
    pub fn wait(&mut self) -> ExitStatus {
        wait_for_exit(&mut self.child.take().expect("the gateway is up"))
    }

    /// Starts it again on the same path, and waits until it accepts.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "the gateway is already up");
        let log = OpenOptions::new().create(true).append(true).open(&self.log_path).expect("the log can be opened");
        let mut command = self.options.command(&self.socket_path);
        command.stdout(Stdio::null()).stderr(log);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let deadline = Instant::now() + PROCESS_WAIT;
        while UnixStream::connect(&self.socket_path).is_err() {
            if let Some(status) = child.try_wait().expect("the child can be asked") {
                panic!("the gateway ended with {status} instead of accepting:\n{}", self.stderr());
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                panic!("the gateway does not accept:\n{}", self.stderr());
            }
            thread::sleep(POLL);
        }
        self.child = Some(child);
    }

    /// Starts a second gateway on the same socket and waits until it ends: its exit status and its stderr.
    pub fn start_rival(&self) -> (ExitStatus, String) {
        let mut command = self.options.command(&self.socket_path);
        let mut child =
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("a second gateway can be started");
        let status = wait_for_exit(&mut child);
        let stderr = std::io::read_to_string(child.stderr.take().expect("stderr is piped")).expect("stderr is text");
        (status, stderr)
    }

    /// What it has written to stderr since its first start.
    pub fn stderr(&self) -> String {
        fs::read_to_string(&self.log_path).unwrap_or_default()
    }

    /// Resident memory in KiB, from `/proc`.
    pub fn memory_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the gateway has a status");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("the gateway has ended: it has no VmRSS");
        line.trim().trim_end_matches(" kB").parse().expect("VmRSS is a number of kB")
    }

    /// Open file descriptors, from `/proc`.
    pub fn fd_count(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the gateway has descriptors").count()
    }
}

impl Drop for TempGateway {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill9();
        }
        if thread::panicking() {
            let stderr = self.stderr();
            if !stderr.is_empty() {
                use std::io::Write;
                let _ = writeln!(std::io::stderr(), "the gateway's stderr:\n{stderr}");
            }
        }
    }
}

/// Waits, looking again and again, until `condition` holds. Panics, saying `what` never happened, when it does not.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PROCESS_WAIT;
    while !condition() {
        assert!(Instant::now() < deadline, "this never happened: {what}");
        thread::sleep(POLL);
    }
}

fn terminate(child: &Child) {
    signal(child, Signal::TERM);
}

/// Sends a signal to a process that has not been waited for.
pub fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("a child can be signalled");
}

/// Waits for the end of a process; kills it and panics when that does not come.
pub fn wait_for_exit(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PROCESS_WAIT;
    loop {
        if let Some(status) = child.try_wait().expect("the child can be asked") {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("a process that was to end is still there");
        }
        thread::sleep(POLL);
    }
}

/// The `bro` binary: `BRO_BIN`, or the one that cargo builds into the target directory of the running program.
///
/// Under `cargo test` and `cargo run` it is brought up to date first, so that no test speaks to a stale gateway.
pub fn bro_path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        if let Some(path) = std::env::var_os("BRO_BIN") {
            return path.into();
        }
        let program = std::env::current_exe().expect("a program knows its path");
        let dir = program.ancestors().skip(1).find(|dir| !dir.ends_with("deps")).expect("a program is in a directory");
        let path = dir.join("bro");
        if let Some(cargo) = std::env::var_os("CARGO") {
            build(&cargo, dir);
        }
        assert!(path.exists(), "{} does not exist: build it (cargo build --bin bro) or set BRO_BIN", path.display());
        path
    })
}

/// Builds `bro` into `profile_dir`, which is the directory of a profile in a target directory.
fn build(cargo: &std::ffi::OsStr, profile_dir: &Path) {
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let target_dir = profile_dir.parent().expect("a profile directory lies in a target directory");
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml");
    let output = Command::new(cargo)
        .args(["build", "--quiet", "--bin", "bro", "--profile", profile, "--target-dir"])
        .arg(target_dir)
        .arg("--manifest-path")
        .arg(manifest)
        .stdin(Stdio::null())
        .output()
        .expect("cargo can be run");
    assert!(output.status.success(), "bro cannot be built:\n{}", String::from_utf8_lossy(&output.stderr));
}
