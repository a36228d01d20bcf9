//! The machine that figures are from. No name of it: figures are passed on.

use rustix::thread::sched_getaffinity;
use serde::Serialize;
use std::fs;

/// What figures depend on besides the programs.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: u32,
    pub(crate) kernel: String,
    pub(crate) is_virtual: bool,
    /// Processes that ran or wanted to, averaged over 1, 5 and 15 minutes.
    pub(crate) load_before: String,
    pub(crate) load_after: String,
}

impl Machine {
    /// What the kernel says; empty where it does not.
    pub(crate) fn read() -> Machine {
        let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let value = |name: &str| {
            let line = processors.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim())
        };
        Machine {
            processor: value("model name").to_owned(),
            cores: sched_getaffinity(None).map_or(0, |cores| cores.count()),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            is_virtual: value("flags").split(' ').any(|flag| flag == "hypervisor"),
            load_before: load(),
            load_after: String::new(),
        }
    }

    /// When everything is measured.
    pub(crate) fn note_end(&mut self) {
        self.load_after = load();
    }
}

fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}
