//! The floor under every wakeup between two processes: one word in shared memory and the kernel's futex, nothing else.

use anyhow::{Context as _, Result};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap};
use rustix::thread::futex::{self, Timespec};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

const BYTES: usize = 4096;
/// Nobody notices when the other side dies: who waits longer than this has waited for nothing.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// Whose turn it is, in memory that two processes share. Mapped until this process ends.
#[derive(Clone, Copy)]
pub(crate) struct Turn {
    word: &'static AtomicU32,
}

/// The one who asks.
pub(crate) const ASKS: u32 = 0;
/// The one who answers.
pub(crate) const ANSWERS: u32 = 1;
/// Nobody's: it is over.
const OVER: u32 = 2;

impl Turn {
    /// Memory for one.
    pub(crate) fn memory() -> Result<OwnedFd> {
        let memory = memfd_create(c"floor", MemfdFlags::CLOEXEC)?;
        ftruncate(&memory, BYTES as u64)?;
        Ok(memory)
    }

    /// Maps what [`Turn::memory`] made, here or in another process.
    pub(crate) fn map(memory: impl AsFd) -> Result<Turn> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at a place that the kernel chooses.
        let start = unsafe { mmap(ptr::null_mut(), BYTES, protection, MapFlags::SHARED, memory, 0) }?;
        let word = NonNull::new(start.cast::<AtomicU32>()).context("mapped at 0")?;
        // SAFETY: a page of zeros that is never unmapped, aligned, and only ever used as this atomic.
        Ok(Turn { word: unsafe { word.as_ref() } })
    }

    /// Passes the turn on.
    pub(crate) fn pass_to(self, side: u32) -> Result<()> {
        self.word.store(side, Ordering::Release);
        futex::wake(self.word, futex::Flags::empty(), 1)?;
        Ok(())
    }

    /// Sleeps until it is the turn of `side`; false when it is over, an error when the other side keeps it for long.
    pub(crate) fn wait_for(self, side: u32) -> Result<bool> {
        loop {
            let turn = self.word.load(Ordering::Acquire);
            if turn == side || turn == OVER {
                return Ok(turn == side);
            }
            match futex::wait(self.word, futex::Flags::empty(), turn, Some(&PATIENCE)) {
                Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Ends the game on both sides.
    pub(crate) fn end(self) -> Result<()> {
        self.pass_to(OVER)
    }
}
