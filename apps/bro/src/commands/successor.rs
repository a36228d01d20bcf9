//! The gateway that replaces this one on SIGUSR2: the program at this one's path, with the same arguments and `--takeover`.

use bro_gateway::Takeover;
use bro_proto::limits;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// In the environment of a gateway that another one has started: that one's process. It takes over from it, or does not start.
const SUCCESSOR_OF: &str = "BRO_SUCCESSOR_OF";
/// What systemd told this gateway and not the next one, which gets the socket from this one. The watchdog stays on, for that process.
const NOT_INHERITED: [&str; 4] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"];

/// Who takes over, while somebody does.
pub struct Successor {
    program: PathBuf,
    arguments: Vec<OsString>,
    /// And until when it is waited for.
    child: Option<(Child, Instant)>,
    timeout: Duration,
}

impl Successor {
    /// The path is found now: later another file may stand there, which is the point, and the kernel only knows the one that was replaced.
    pub fn new() -> Successor {
        let mut arguments = std::env::args_os();
        let name = arguments.next().unwrap_or_default();
        let mut arguments: Vec<OsString> = arguments.collect();
        if !arguments.iter().any(|argument| argument == "--takeover") {
            arguments.push("--takeover".into());
        }
        let timeout = Duration::from_millis(limits::SUCCESSOR_TIMEOUT_MS);
        Successor { program: program(&name), arguments, child: None, timeout }
    }

    /// Starts it, unless one is on its way. It gets this process's standard streams, and is told where this gateway listens: nothing
    /// else says so if systemd has passed the socket.
    pub fn start(&mut self, socket: &Path) {
        if let Some((child, _)) = &self.child {
            let pid = child.id();
            tracing::warn!(pid, "SIGUSR2 is ignored: a takeover is under way");
            return;
        }
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env(SUCCESSOR_OF, std::process::id().to_string()).env("BRO_SOCKET", socket);
        for name in NOT_INHERITED {
            command.env_remove(name);
        }
        match command.spawn() {
            Ok(child) => {
                tracing::warn!(program = %self.program.display(), pid = child.id(), "started the program that takes over");
                self.child = Some((child, Instant::now() + self.timeout));
            }
            Err(error) => tracing::error!(
                program = %self.program.display(),
                "the program that takes over cannot be started, this gateway goes on: {error}"
            ),
        }
    }

    /// Waits until it has come to an end although this gateway goes on, or does not come to an end, and says so. Without one it waits for ever.
    pub async fn ended(&mut self) {
        let Some((child, until)) = &mut self.child else { return std::future::pending().await };
        let pid = child.id();
        let waited = tokio::time::timeout_at(*until, child.wait()).await;
        self.child = None;
        let Ok(status) = waited else {
            let waited_ms = self.timeout.as_millis();
            tracing::error!(
                pid,
                "the program that was to take over has not done so in {waited_ms} ms, this gateway goes on: the next SIGUSR2 starts another"
            );
            return;
        };
        let status = status.map_or_else(|error| error.to_string(), |status: ExitStatus| status.to_string());
        tracing::error!("the program that was to take over has ended ({status}), this gateway goes on");
    }
}

/// What the gateway that started this one says of it. `asked` is the flag.
pub fn takeover(asked: bool) -> Takeover {
    let from = std::env::var(SUCCESSOR_OF).ok().and_then(|pid| pid.parse().ok());
    match (asked, from) {
        (false, _) => Takeover::No,
        (true, None) => Takeover::IfRunning,
        (true, Some(pid)) => Takeover::From(pid),
    }
}

/// Another process, as long as this is there: its number is not given to a third one unnoticed.
pub struct OtherProcess(OwnedFd);

impl OtherProcess {
    /// `None` when it has gone.
    pub fn find(pid: u32) -> Option<OtherProcess> {
        let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
        pidfd_open(pid, PidfdFlags::empty()).ok().map(OtherProcess)
    }

    /// Tells it to stop, if it is there.
    pub fn terminate(&self) {
        let _ = pidfd_send_signal(&self.0, Signal::TERM); // it has stopped, then
    }

    /// Waits until it has ended. Whether it has, in time.
    pub fn wait(&self, longest: Duration) -> bool {
        let until = std::time::Instant::now() + longest;
        loop {
            let left = until.saturating_duration_since(std::time::Instant::now());
            let left = Timespec::try_from(left).unwrap_or_default();
            match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&left)) {
                Ok(0) => return false,
                Ok(_) => return true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }
}

/// The path that this program was started by, links not followed: a link to the present version will lead to the next one. Where the name was
/// looked up in PATH, it is what the kernel says.
fn program(name: &OsString) -> PathBuf {
    let named = Path::new(name);
    let by_name = named.components().nth(1).is_some().then(|| std::path::absolute(named).ok()).flatten();
    by_name.or_else(|| std::env::current_exe().ok()).unwrap_or_else(|| named.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_as_it_was_given_and_a_bare_name_is_looked_up() {
        assert_eq!(program(&"/opt/current/bro".into()), Path::new("/opt/current/bro"));
        let here = std::env::current_dir().unwrap();
        assert_eq!(program(&"target/bro".into()), here.join("target/bro"));
        assert_eq!(program(&"bro".into()), std::env::current_exe().unwrap());
    }

    #[test]
    fn another_process_is_told_to_stop_and_waited_for() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let other = OtherProcess::find(child.id()).expect("it is there");
        assert!(!other.wait(Duration::from_millis(1)));
        other.terminate();
        assert!(other.wait(Duration::from_secs(60)));
        child.wait().unwrap();
        other.terminate(); // nobody else is hit
        assert!(OtherProcess::find(child.id()).is_none() && OtherProcess::find(0).is_none());
    }

    /// It blocked every other takeover until somebody found out which process it was and killed it.
    #[tokio::test]
    async fn who_does_not_take_over_in_time_is_not_waited_for_any_longer() {
        let arguments = vec!["60".into()];
        let mut successor =
            Successor { program: "sleep".into(), arguments, child: None, timeout: Duration::from_millis(1) };
        successor.start(Path::new("/nowhere"));
        let first = OtherProcess::find(successor.child.as_ref().and_then(|(child, _)| child.id()).unwrap()).unwrap();
        successor.ended().await;
        successor.start(Path::new("/nowhere"));
        let second = OtherProcess::find(successor.child.as_ref().and_then(|(child, _)| child.id()).unwrap()).unwrap();
        for other in [first, second] {
            assert!(!other.wait(Duration::ZERO), "it is left alone");
            other.terminate();
        }
    }

    #[test]
    fn the_flag_is_there_once() {
        let successor = Successor::new();
        assert_eq!(successor.arguments.iter().filter(|argument| *argument == "--takeover").count(), 1);
    }
}
