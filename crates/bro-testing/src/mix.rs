//! Running one test body over the encodings.

use crate::codec::Encoding;
use crate::watchdog::Watchdog;
use std::fmt;
use std::io::Write;
use std::thread;

/// Who speaks what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    /// What the caller speaks.
    pub caller: Encoding,
    /// What the callee speaks.
    pub callee: Encoding,
}

impl Mix {
    /// Every pair of encodings.
    pub const ALL: [Mix; 4] = [
        Mix { caller: Encoding::Json, callee: Encoding::Json },
        Mix { caller: Encoding::Json, callee: Encoding::Msgpack },
        Mix { caller: Encoding::Msgpack, callee: Encoding::Json },
        Mix { caller: Encoding::Msgpack, callee: Encoding::Msgpack },
    ];
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} caller, {} callee", self.caller.as_str(), self.callee.as_str())
    }
}

/// Runs `body` for every mix, one after the other. A failure is preceded by a line that names the mix.
pub fn for_each_mix(body: impl Fn(Mix)) {
    let _watchdog = Watchdog::for_test();
    for mix in Mix::ALL {
        let _label = Label(mix.to_string());
        body(mix);
    }
}

/// Runs `body` for every mix at the same time: for tests that have to let time pass.
pub fn for_each_mix_at_once(body: impl Fn(Mix) + Sync) {
    let _watchdog = Watchdog::for_test();
    let body = &body;
    thread::scope(|scope| {
        for mix in Mix::ALL {
            scope.spawn(move || {
                let _label = Label(mix.to_string());
                body(mix);
            });
        }
    });
}

/// Runs `body` for JSON and for msgpack.
pub fn for_each_encoding(body: impl Fn(Encoding)) {
    let _watchdog = Watchdog::for_test();
    for encoding in Encoding::ALL {
        let _label = Label(encoding.as_str().to_owned());
        body(encoding);
    }
}

/// Names what was running when a panic passes through.
struct Label(String);

impl Drop for Label {
    fn drop(&mut self) {
        if thread::panicking() {
            let _ = writeln!(std::io::stderr(), "failed with: {}", self.0);
        }
    }
}
