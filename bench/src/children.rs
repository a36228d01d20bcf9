//! The processes of one run: started on the cores that it is about, told what to do, and ended whatever happens.

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A run that takes longer hangs: its processes are killed, and it has failed.
const WATCHDOG: Duration = Duration::from_secs(120);
/// How long a process may take to end by itself when its standard input has ended.
const END_PATIENCE: Duration = Duration::from_secs(3);
const END_POLL: Duration = Duration::from_millis(1);

/// Processes that all end with this value.
pub(crate) struct Children {
    children: Vec<(String, Child, BufReader<ChildStdout>)>,
    is_pinned: bool,
    watchdog: Watchdog,
}

/// A process by its place among [`Children`].
#[derive(Clone, Copy)]
pub(crate) struct Index(usize);

impl Children {
    /// None yet.
    pub(crate) fn new(is_pinned: bool) -> Children {
        Children { children: Vec::new(), is_pinned, watchdog: Watchdog::start() }
    }

    /// Starts a process that ends when its standard input does.
    pub(crate) fn start(&mut self, program: &Path, arguments: &[&str]) -> Result<Index> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = if self.is_pinned { on_last_core(|| command.spawn())? } else { command.spawn() }
            .with_context(|| format!("starting {}", program.display()))?;
        let out = BufReader::new(child.stdout.take().context("no output")?);
        self.watchdog.add(child.id());
        self.children.push((arguments.first().map_or_else(String::new, |name| (*name).to_owned()), child, out));
        Ok(Index(self.children.len() - 1))
    }

    /// Starts this program in another part.
    pub(crate) fn start_own(&mut self, arguments: &[&str]) -> Result<Index> {
        self.start(&std::env::current_exe()?, arguments)
    }

    /// The system's number of a process.
    pub(crate) fn id(&self, index: Index) -> u32 {
        self.children[index.0].1.id()
    }

    /// Writes one line to a process.
    pub(crate) fn tell(&mut self, index: Index, line: &str) -> Result<()> {
        let (name, child, _) = &mut self.children[index.0];
        let input = child.stdin.as_mut().context("no input")?;
        writeln!(input, "{line}").with_context(|| format!("telling the {name}"))
    }

    /// The next line that a process writes.
    pub(crate) fn hear(&mut self, index: Index) -> Result<String> {
        let (name, _, out) = &mut self.children[index.0];
        let mut line = String::new();
        if out.read_line(&mut line)? == 0 {
            bail!("the {name} ended, or did nothing for too long");
        }
        Ok(line.trim_end().to_owned())
    }

    /// Ends a process that has nothing left to do, and fails when that failed.
    pub(crate) fn finish(&mut self, index: Index) -> Result<()> {
        let (name, child, _) = &mut self.children[index.0];
        let status = end(child)?;
        self.watchdog.remove(child.id());
        ensure!(status.success(), "the {name} ended with {status}");
        Ok(())
    }

    /// Waits for a process to say that it is ready.
    pub(crate) fn wait_ready(&mut self, index: Index) -> Result<()> {
        let line = self.hear(index)?;
        if line != "ready" {
            bail!("the {} said {line:?}", self.children[index.0].0);
        }
        Ok(())
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        // The last ones first: callers, callees, and then what is between them.
        for (_, child, _) in self.children.iter_mut().rev() {
            let _ = end(child); // nobody is interested any more
            self.watchdog.remove(child.id());
        }
    }
}

/// Ends a process by the end of its standard input, or kills it.
fn end(child: &mut Child) -> Result<ExitStatus> {
    drop(child.stdin.take());
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if start.elapsed() > END_PATIENCE {
            let _ = child.kill(); // fails when it has just ended
            return Ok(child.wait()?);
        }
        thread::sleep(END_POLL);
    }
}

/// Kills processes that hang, so that whoever reads from them goes on.
pub(crate) struct Watchdog {
    changes: Option<SyncSender<Change>>,
    thread: Option<JoinHandle<()>>,
}

enum Change {
    Added(u32),
    Removed(u32),
}

impl Watchdog {
    pub(crate) fn start() -> Watchdog {
        let (changes, changed) = sync_channel(16);
        let deadline = Instant::now() + WATCHDOG;
        let thread = thread::spawn(move || {
            let mut watched: Vec<u32> = Vec::new();
            loop {
                match changed.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                    Ok(Change::Added(id)) => watched.push(id),
                    Ok(Change::Removed(id)) => watched.retain(|other| *other != id),
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => break,
                }
            }
            for id in watched {
                if let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) {
                    let _ = kill_process(pid, Signal::KILL); // not reaped yet, so the number is still its own
                }
            }
        });
        Watchdog { changes: Some(changes), thread: Some(thread) }
    }

    /// Watches a process that this one started.
    pub(crate) fn add(&self, id: u32) {
        self.tell(Change::Added(id));
    }

    /// The process was waited for.
    pub(crate) fn remove(&self, id: u32) {
        self.tell(Change::Removed(id));
    }

    fn tell(&self, change: Change) {
        if let Some(changes) = &self.changes {
            let _ = changes.send(change); // it ends once it has killed
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.changes.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it does not panic
        }
    }
}

/// Runs `start` with this thread on the last core alone, which children inherit.
pub(crate) fn on_last_core<T>(start: impl FnOnce() -> T) -> Result<T> {
    let all = sched_getaffinity(None).context("asking on which cores this may run")?;
    let last = (0..CpuSet::MAX_CPU).rev().find(|&core| all.is_set(core)).context("no core to run on")?;
    let mut one = CpuSet::new();
    one.set(last);
    sched_setaffinity(None, &one).context("staying on one core")?;
    let started = start();
    sched_setaffinity(None, &all).context("returning to all cores")?;
    Ok(started)
}
