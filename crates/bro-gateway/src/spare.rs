//! Memory that was given back to the allocator, and that the allocator holds back.
//!
//! glibc gives free memory to the system from the end of its heap only: one small piece there that lives on keeps everything below it. What is
//! allocated stays the same under any load (`crates/bro-testing/tests/live_memory.rs`), but after each flood the process is a little larger than
//! before. So when much less is kept for peers than before, the allocator is asked to look for free pages everywhere.
//!
//! That takes half a millisecond for each MiB that it finds, most of it in the kernel, and nobody is served meanwhile. So it waits until a flood
//! is over, and for a hundred times as long as it took the last time.

use bro_proto::limits::{SPARE_AFTER_MS, SPARE_BYTES_MIN, SPARE_TIME_PARTS};

/// When free memory is to be given back.
#[derive(Debug)]
pub(crate) struct Spare {
    /// Whether this gateway may do so: it concerns the whole process.
    is_returned: bool,
    /// The most that was kept for peers since memory was given back the last time.
    peak_bytes: usize,
    due_us: Option<u64>,
    /// What it took the last time.
    took_us: u64,
}

impl Spare {
    pub(crate) fn new(is_returned: bool) -> Self {
        Self { is_returned: is_returned && cfg!(target_env = "gnu"), peak_bytes: 0, due_us: None, took_us: 0 }
    }

    /// So much is kept for peers now.
    #[inline]
    pub(crate) fn note(&mut self, kept_bytes: usize, now_us: u64) {
        self.peak_bytes = self.peak_bytes.max(kept_bytes);
        if self.is_returned && self.due_us.is_none() && self.peak_bytes - kept_bytes >= SPARE_BYTES_MIN {
            let wait_us = (SPARE_AFTER_MS * 1000).max(self.took_us.saturating_mul(SPARE_TIME_PARTS));
            self.due_us = Some(now_us.saturating_add(wait_us));
        }
    }

    /// When [`Spare::is_due`] is true at the earliest.
    pub(crate) fn wakeup_us(&self) -> Option<u64> {
        self.due_us
    }

    #[inline]
    pub(crate) fn is_due(&self, now_us: u64) -> bool {
        self.due_us.is_some_and(|at_us| at_us <= now_us)
    }

    /// Gives free memory back to the system, and begins anew. `clock_us` is asked before and afterwards.
    #[cold]
    pub(crate) fn give_back(&mut self, kept_bytes: usize, mut clock_us: impl FnMut() -> u64) {
        let begun_us = clock_us();
        give_back();
        self.took_us = clock_us().saturating_sub(begun_us);
        self.due_us = None;
        self.peak_bytes = kept_bytes;
        tracing::debug!(took_us = self.took_us, "free memory was given back to the system");
    }
}

#[cfg(target_env = "gnu")]
fn give_back() {
    // SAFETY: it touches free memory only, under the allocator's own locks, and may be called from any thread at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(not(target_env = "gnu"))]
fn give_back() {}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1000;

    #[test]
    fn it_is_due_once_much_has_gone_and_then_not_before_as_much_has_gone_again() {
        let mut spare = Spare::new(true);
        spare.note(2 * SPARE_BYTES_MIN, 0);
        assert_eq!(spare.wakeup_us(), None);
        spare.note(SPARE_BYTES_MIN + 1, 5 * MS);
        assert_eq!(spare.wakeup_us(), None, "little has gone");
        spare.note(SPARE_BYTES_MIN, 7 * MS);
        spare.note(0, 900 * MS);
        let due_us = (7 + SPARE_AFTER_MS) * MS;
        assert_eq!(spare.wakeup_us(), Some(due_us));
        assert!(!spare.is_due(due_us - 1) && spare.is_due(due_us));
        spare.give_back(0, || 0);
        spare.note(0, due_us);
        assert_eq!(spare.wakeup_us(), None);
        spare.note(SPARE_BYTES_MIN, due_us);
        spare.note(0, due_us);
        assert!(spare.wakeup_us().is_some());
    }

    #[test]
    fn what_took_long_is_done_rarely() {
        let mut spare = Spare::new(true);
        let mut times = [0, 300 * MS].into_iter();
        spare.give_back(SPARE_BYTES_MIN, || times.next().unwrap());
        spare.note(0, 1000 * MS);
        assert_eq!(spare.wakeup_us(), Some((1000 + 300 * SPARE_TIME_PARTS) * MS));
    }

    #[test]
    fn in_a_process_of_others_it_is_left_to_them() {
        let mut spare = Spare::new(false);
        spare.note(2 * SPARE_BYTES_MIN, 0);
        spare.note(0, 0);
        assert_eq!(spare.wakeup_us(), None);
    }

    /// Pieces that live on between those that go: the allocator keeps the memory of all, until it is asked.
    #[test]
    #[cfg(target_env = "gnu")]
    fn memory_goes_back_to_the_system() {
        const PIECES: usize = 64 * 1024;
        let mut pieces: Vec<Option<Box<[u8; 1024]>>> = (0..PIECES).map(|_| Some(Box::new([1; 1024]))).collect();
        pieces.iter_mut().enumerate().filter(|(at, _)| at % 64 != 0).for_each(|(_, piece)| *piece = None);
        let before = resident_bytes();
        Spare::new(true).give_back(0, || 0);
        let after = resident_bytes();
        assert!(after + PIECES * 1024 / 2 < before, "{before} bytes, then {after}");
        assert!(pieces.iter().flatten().all(|piece| **piece == [1; 1024]), "what lives on is not touched");
    }

    #[cfg(target_env = "gnu")]
    fn resident_bytes() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }
}
