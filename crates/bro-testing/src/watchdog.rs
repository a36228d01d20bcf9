//! What ends a hang: tests assert no maximum runtime, but none may block the suite for ever.

use std::io::Write;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

/// How long a single test may take before it counts as hung. Far beyond what any of them needs.
const TEST_LIMIT: Duration = Duration::from_secs(300);

/// Ends the process, saying which test hung, unless it is dropped in time.
#[derive(Debug)]
pub struct Watchdog {
    /// Dropping it calls the dog off.
    _leash: Sender<()>,
}

impl Watchdog {
    /// A watchdog over the test that runs on this thread, named as the thread is.
    pub fn for_test() -> Watchdog {
        let name = thread::current().name().unwrap_or("a test").to_owned();
        Watchdog::new(name, TEST_LIMIT)
    }

    /// A watchdog over `what`.
    pub fn new(what: String, limit: Duration) -> Watchdog {
        let (leash, called_off): (Sender<()>, Receiver<()>) = channel();
        thread::spawn(move || {
            if called_off.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                let _ = writeln!(std::io::stderr(), "watchdog: {what} still runs after {limit:?}: it hangs");
                std::process::abort();
            }
        });
        Watchdog { _leash: leash }
    }
}
