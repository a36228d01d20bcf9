//! Who takes part in one run of a row: callers, a callee, and what is between them, started and ready.

use crate::children::{Children, Index};
use crate::rows::{Ends, Middle, Plan};
use crate::window::clock_ns;
use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

const SHARED_MEMORY: &str = "/dev/shm";
const GATEWAY_PATIENCE_NS: u64 = 10_000_000_000;
const GATEWAY_POLL: Duration = Duration::from_millis(2);

/// What is started.
pub(crate) struct Roles<'a> {
    pub(crate) middle: &'a Middle,
    pub(crate) ends: Ends,
    pub(crate) callers: u8,
    /// Of calls and answers in version 1, for ends that are load generators.
    pub(crate) frame_bytes: usize,
    pub(crate) is_pinned: bool,
    pub(crate) plan: &'a Plan,
}

/// All of them running.
pub(crate) struct Cast {
    pub(crate) children: Children,
    pub(crate) callers: Vec<Index>,
    /// The system's numbers of all, what is between the others first.
    pub(crate) ids: Vec<u32>,
    pub(crate) has_middle: bool,
    _leftovers: Leftovers,
    /// Sockets and files. Dropped after the children, which still use them when they end.
    _directory: TempDir,
}

impl Roles<'_> {
    /// Starts what is called before who calls.
    pub(crate) fn start(&self) -> Result<Cast> {
        let directory = tempfile::Builder::new().prefix("bro-bench-").tempdir()?;
        let mut children = Children::new(self.is_pinned);
        let mut ids = Vec::new();
        let mut callers = Vec::new();
        if let Ends::Peer(system) = self.ends {
            let program = self.plan.peers.as_deref().context("bench/peers was not built")?;
            let place = text(directory.path())?;
            if let Middle::Server = self.middle {
                let server = children.start(program, &["server", system, place])?;
                let line = children.hear(server)?;
                let id = line.strip_prefix("ready ").with_context(|| format!("the {system} server said {line:?}"))?;
                ids.push(id.parse()?);
            }
            for role in ["callee", "caller"] {
                let index = children.start(program, &[role, system, place])?;
                children.wait_ready(index)?;
                ids.push(children.id(index));
                callers = vec![index];
            }
        } else {
            self.start_ours(directory.path(), &mut children, &mut ids, &mut callers)?;
        }
        let has_middle = !matches!(self.middle, Middle::Nothing);
        let prefix = directory.path().file_name().map(|name| name.to_string_lossy().into_owned());
        let leftovers = Leftovers { prefix: prefix.context("a directory without a name")? };
        Ok(Cast { children, callers, ids, has_middle, _leftovers: leftovers, _directory: directory })
    }

    fn start_ours(
        &self,
        directory: &Path,
        children: &mut Children,
        ids: &mut Vec<u32>,
        callers: &mut Vec<Index>,
    ) -> Result<()> {
        let (socket, upstream) = (directory.join("calls.sock"), directory.join("callee.sock"));
        let (path, upstream_path) = (text(&socket)?, text(&upstream)?);
        match self.middle {
            Middle::Nothing | Middle::Relay => {}
            Middle::Gateway { has_lanes } => {
                let lanes = if *has_lanes { "always" } else { "off" };
                let gateway = children.start_own(&["gateway", path, "--lanes", lanes])?;
                children.wait_ready(gateway)?;
                ids.push(children.id(gateway));
            }
            Middle::OtherGateway { program, knows_lanes } => {
                let mut arguments = vec!["gateway", "--socket", path, "--stop-with-stdin"];
                if *knows_lanes {
                    arguments.extend(["--lanes", "off"]);
                }
                let gateway = children.start(program, &arguments)?;
                wait_for_socket(&socket)?;
                ids.push(children.id(gateway));
            }
            Middle::Server => bail!("only peers have servers"),
        }
        let is_registering = !matches!(self.middle, Middle::Nothing | Middle::Relay);
        let callee_path = if matches!(self.middle, Middle::Relay) { upstream_path } else { path };
        let Ends::Ours(kind) = self.ends else { bail!("peers start what is theirs") };
        let (count, bytes) = (self.callers.to_string(), self.frame_bytes.to_string());
        let (kind, shape) = (word(kind), word(self.plan.shape));
        let ends = ["--frame-bytes", &bytes, "--ends", &kind, "--shape", &shape];
        let mut arguments = vec!["callee", callee_path];
        arguments.extend(ends);
        if !is_registering {
            arguments.extend(["--listen", &count]);
        }
        let callee = children.start_own(&arguments)?;
        children.wait_ready(callee)?;
        if let Middle::Relay = self.middle {
            let relay = children.start_own(&["relay", path, upstream_path])?;
            children.wait_ready(relay)?;
            ids.push(children.id(relay));
        }
        ids.push(children.id(callee));
        for number in 0..self.callers {
            let number = number.to_string();
            let mut arguments = vec!["caller", path, "--number", &number];
            arguments.extend(ends);
            if !is_registering {
                arguments.push("--unregistered");
            }
            let caller = children.start_own(&arguments)?;
            children.wait_ready(caller)?;
            ids.push(children.id(caller));
            callers.push(caller);
        }
        ensure!(!callers.is_empty(), "nobody calls");
        Ok(())
    }
}

/// A value as it is written on a command line.
fn word(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Shared memory that has the name of our directory: iceoryx2 keeps one piece when all its processes have ended.
struct Leftovers {
    prefix: String,
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        let entries = fs::read_dir(SHARED_MEMORY).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&self.prefix)) {
            let _ = fs::remove_file(entry.path()); // whoever made it may be quicker
        }
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("the temporary directory has a name that is no text")
}

/// Until somebody listens.
fn wait_for_socket(socket: &Path) -> Result<()> {
    let start_ns = clock_ns();
    while UnixStream::connect(socket).is_err() {
        if clock_ns() - start_ns > GATEWAY_PATIENCE_NS {
            bail!("nobody listens on {}", socket.display());
        }
        thread::sleep(GATEWAY_POLL);
    }
    Ok(())
}
