//! The gateway that replaces this one on SIGUSR2: the program at this one's path, with the same arguments and `--takeover`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use tokio::process::{Child, Command};

/// Who takes over, while somebody does.
pub struct Successor {
    program: PathBuf,
    arguments: Vec<OsString>,
    child: Option<Child>,
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
        Successor { program: program(&name), arguments, child: None }
    }

    /// Starts it, unless one is on its way. It gets this process's standard streams.
    pub fn start(&mut self) {
        if let Some(child) = &self.child {
            let pid = child.id();
            tracing::warn!(pid, "SIGUSR2 is ignored: a takeover is under way");
            return;
        }
        // The watchdog will be the other one's; the variable would say that it is still this one's.
        match Command::new(&self.program).args(&self.arguments).env_remove("WATCHDOG_PID").spawn() {
            Ok(child) => {
                tracing::warn!(program = %self.program.display(), pid = child.id(), "started the program that takes over");
                self.child = Some(child);
            }
            Err(error) => tracing::error!(
                program = %self.program.display(),
                "the program that takes over cannot be started, this gateway goes on: {error}"
            ),
        }
    }

    /// Waits until it has come to an end although this gateway goes on, and says so. Without one it waits for ever.
    pub async fn ended(&mut self) {
        let Some(child) = &mut self.child else { return std::future::pending().await };
        let status = child.wait().await;
        self.child = None;
        let status = status.map_or_else(|error| error.to_string(), |status: ExitStatus| status.to_string());
        tracing::error!("the program that was to take over has ended ({status}), this gateway goes on");
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
    fn the_flag_is_there_once() {
        let successor = Successor::new();
        assert_eq!(successor.arguments.iter().filter(|argument| *argument == "--takeover").count(), 1);
    }
}
