//! The memory as loom models it: the same interface as `memory.rs`, where every access that races is found.

use crate::control::Control;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use std::fmt;

/// One direction of a lane, in loom's memory.
pub struct Direction {
    control: Arc<Control>,
    pub(crate) ring: Region,
    pub(crate) arena: Region,
    /// Largest record that goes through the ring, in bytes.
    pub(crate) inline_bytes_max: usize,
    /// Largest record, in bytes.
    pub(crate) record_bytes_max: usize,
}

impl Direction {
    /// A fresh direction, seen from both ends.
    pub fn pair(ring_bytes: usize, arena_bytes: usize, inline_bytes_max: usize) -> [Direction; 2] {
        let control = Arc::new(Control::new());
        let (ring, arena) = (Region::new(ring_bytes), Region::new(arena_bytes));
        [(); 2].map(|()| Direction {
            control: control.clone(),
            ring: ring.clone(),
            arena: arena.clone(),
            inline_bytes_max,
            record_bytes_max: arena_bytes,
        })
    }

    pub(crate) fn control(&self) -> &Control {
        &self.control
    }
}

impl fmt::Debug for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Direction")
    }
}

/// Words, each of which loom watches: two threads that touch one without an order between them fail the test.
#[derive(Clone)]
pub(crate) struct Region {
    words: Arc<Vec<UnsafeCell<[u8; 8]>>>,
}

impl Region {
    fn new(len: usize) -> Region {
        assert!(len.is_power_of_two() && len >= 8);
        Region { words: Arc::new((0..len / 8).map(|_| UnsafeCell::new([0; 8])).collect()) }
    }

    pub(crate) fn len(&self) -> u64 {
        self.words.len() as u64 * 8
    }

    fn word(&self, position: u64) -> &UnsafeCell<[u8; 8]> {
        assert!(position.is_multiple_of(8), "the model copies whole words");
        &self.words[usize::try_from(position % self.len()).unwrap() / 8]
    }

    pub(crate) fn write(&self, position: u64, bytes: &[u8]) {
        for (at, chunk) in (position..).step_by(8).zip(bytes.chunks(8)) {
            // SAFETY: loom fails the test if another thread touches the word meanwhile.
            self.word(at).with_mut(|word| unsafe { (&mut *word)[..chunk.len()].copy_from_slice(chunk) });
        }
    }

    pub(crate) fn read(&self, position: u64, len: u64, out: &mut Vec<u8>) {
        for at in (0..len).step_by(8) {
            let count = usize::try_from((len - at).min(8)).unwrap();
            // SAFETY: loom fails the test if another thread writes the word meanwhile.
            self.word(position + at).with(|word| out.extend_from_slice(unsafe { &(&*word)[..count] }));
        }
    }

    pub(crate) fn write_long(&self, position: u64, bytes: &[u8]) {
        self.write(position, bytes);
    }

    pub(crate) fn read_long(&self, position: u64, len: u64, out: &mut Vec<u8>) {
        self.read(position, len, out);
    }

    pub(crate) fn prefetch(&self, _from: u64, _to: u64) {}

    pub(crate) fn prefetch_for_writing(&self, _from: u64, _to: u64) {}

    pub(crate) fn read_word(&self, position: u64) -> u64 {
        // SAFETY: loom fails the test if another thread writes the word meanwhile.
        self.word(position).with(|word| u64::from_ne_bytes(unsafe { *word }))
    }

    pub(crate) fn write_word(&self, position: u64, value: u64) {
        // SAFETY: loom fails the test if another thread touches the word meanwhile.
        self.word(position).with_mut(|word| unsafe { *word = value.to_ne_bytes() });
    }
}
