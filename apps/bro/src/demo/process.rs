//! The processes of the demo.

use crate::exit::Failure;
use std::path::Path;
use std::process::Stdio;
use tokio::process::{Child, Command};

/// A child process that ends with the demo: its standard input is a pipe that the demo holds.
pub struct Process {
    child: Child,
}

impl Process {
    /// A gateway on `socket`.
    pub fn gateway(socket: &Path) -> Result<Process, Failure> {
        Self::spawn(&["gateway", "--stop-with-stdin"], socket)
    }

    /// One of the services.
    pub fn service(name: &str, socket: &Path) -> Result<Process, Failure> {
        Self::spawn(&["demo-service", name], socket)
    }

    fn spawn(arguments: &[&str], socket: &Path) -> Result<Process, Failure> {
        let child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .arg("--socket")
            .arg(socket)
            .env_remove("BRO_SOCKET")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Failure::local(format!("cannot start a process: {error}")))?;
        Ok(Process { child })
    }

    /// Its process id; 0 once it has ended.
    pub fn id(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// SIGKILL: no goodbye, no clean-up.
    pub async fn kill(mut self) -> Result<(), Failure> {
        self.child.kill().await.map_err(Failure::from)
    }

    /// Closes its standard input and waits until it has ended by itself.
    pub async fn finish(mut self) -> Result<(), Failure> {
        drop(self.child.stdin.take());
        let status = self.child.wait().await?;
        if status.success() {
            Ok(())
        } else {
            Err(Failure::local(format!("a process of the demo ended with {status}")))
        }
    }
}
