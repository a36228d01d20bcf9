//! A server program that runs as long as the standard input of this process stays open.

use crate::window::say;
use anyhow::{Context as _, Result, bail};
use std::io::{Read as _, stdin};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const START_PATIENCE: Duration = Duration::from_secs(10);
const START_POLL: Duration = Duration::from_millis(5);

/// Starts it, says `ready` and its process id when `is_ready`, and ends it when standard input ends.
pub(crate) fn run(command: &mut Command, is_ready: impl Fn() -> bool) -> Result<()> {
    let program = command.get_program().to_owned();
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut server = Server(child.with_context(|| format!("{} does not start: is it installed?", program.display()))?);
    let start = Instant::now();
    while !is_ready() {
        if let Some(status) = server.0.try_wait()? {
            bail!("{} ended at once: {status}", program.display());
        }
        if start.elapsed() > START_PATIENCE {
            bail!("{} is not ready", program.display());
        }
        thread::sleep(START_POLL);
    }
    say(&format!("ready {}", server.0.id()))?;
    stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill(); // fails when it has ended
        let _ = self.0.wait();
    }
}
