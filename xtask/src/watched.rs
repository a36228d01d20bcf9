//! Running programs that may hang: each in a process group of its own, which ends with it, with a deadline, or
//! with this program.

use std::fs::File;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// How often an unfinished program is looked at.
const POLL: Duration = Duration::from_millis(10);

/// The process group to end together with this program; 0 for none.
static GROUP: AtomicI32 = AtomicI32::new(0);

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By itself, with this status.
    Exited(ExitStatus),
    /// It was still running at the deadline, and was killed.
    Hung,
}

impl End {
    /// Why this end is a failure; `None` for success.
    pub(crate) fn failure(self) -> Option<String> {
        match self {
            End::Exited(status) if status.success() => None,
            End::Exited(status) => Some(match (status.code(), status.signal()) {
                (Some(code), _) => format!("exit code {code}"),
                (None, Some(signal)) => format!("killed by signal {signal}"),
                (None, None) => "ended in an unknown way".to_owned(),
            }),
            End::Hung => Some("hung: the watchdog killed it".to_owned()),
        }
    }
}

/// Runs a program to its end or to `deadline`, without input, and leaves nothing of its process group behind.
pub(crate) fn run(command: &mut Command, stdout: &File, stderr: &File, deadline: Instant) -> Result<End> {
    command.stdin(Stdio::null()).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?).process_group(0);
    let mut child = command.spawn().with_context(|| format!("starting {}", command.get_program().display()))?;
    let group = i32::try_from(child.id()).context("a process id beyond i32")?;
    GROUP.store(group, Ordering::SeqCst);
    let end = loop {
        if let Some(status) = child.try_wait()? {
            break End::Exited(status);
        }
        if Instant::now() >= deadline {
            kill(-group, SIGKILL);
            child.wait()?;
            break End::Hung;
        }
        thread::sleep(POLL);
    };
    GROUP.store(0, Ordering::SeqCst);
    // Whatever it started and did not wait for.
    kill(-group, SIGKILL);
    Ok(end)
}

/// From now on Ctrl-C, SIGTERM and SIGHUP also end the program that is being watched.
pub(crate) fn end_group_with_this_program() {
    for signum in [SIGHUP, SIGINT, SIGTERM] {
        // SAFETY: the handler only touches an atomic and calls kill and _exit, which are async-signal-safe.
        unsafe { signal(signum, on_signal) };
    }
}

extern "C" fn on_signal(signum: i32) {
    let group = GROUP.load(Ordering::SeqCst);
    if group > 0 {
        kill(-group, SIGKILL);
    }
    _exit(128 + signum);
}

const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

// SAFETY: the signatures of POSIX, in the C library that std links; neither kill nor _exit touches our memory.
unsafe extern "C" {
    fn signal(signum: i32, handler: extern "C" fn(i32)) -> usize;
    safe fn kill(pid: i32, signum: i32) -> i32;
    safe fn _exit(status: i32) -> !;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn null() -> File {
        File::options().write(true).open("/dev/null").expect("/dev/null")
    }

    #[test]
    fn ends_are_told_apart() {
        let far = Instant::now() + Duration::from_secs(600);
        let failure = |script| run(&mut shell(script), &null(), &null(), far).expect("runs").failure();
        assert_eq!(failure("exit 0"), None);
        assert_eq!(failure("exit 3").as_deref(), Some("exit code 3"));
        assert_eq!(failure("kill -9 $$").as_deref(), Some("killed by signal 9"));
    }

    #[test]
    fn a_hang_is_killed_with_its_children() {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let mut command = shell("sleep 1000 & sleep 1000");
        let writer = File::from(std::os::fd::OwnedFd::from(writer));
        let end = run(&mut command, &writer, &null(), Instant::now() + Duration::from_millis(100)).expect("runs");
        assert_eq!(end, End::Hung);
        // The command holds copies of the pipe; without them, the end of the pipe is the end of all children.
        drop((command, writer));
        assert_eq!(reader.read(&mut [0]).expect("the end"), 0);
    }

    #[test]
    fn what_a_program_leaves_running_is_killed() {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let mut command = shell("sleep 1000 & exit 0");
        let writer = File::from(std::os::fd::OwnedFd::from(writer));
        let end = run(&mut command, &writer, &null(), Instant::now() + Duration::from_secs(600)).expect("runs");
        assert_eq!(end.failure(), None);
        drop((command, writer));
        assert_eq!(reader.read(&mut [0]).expect("the end"), 0);
    }
}
