//! The mapped memory, and the only code that touches it. All of this crate's `unsafe` but one system call is here.
//!
//! The peer can write any byte at any moment. So no reference to plain bytes in the memory ever exists: words are atomics, and
//! bytes are copied in and out through raw pointers, once, and looked at only in private memory. The seals keep the kernel from
//! taking pages away, and every offset is reduced to the size of its region.

use crate::control::Control;
use crate::error::LaneError;
use crate::layout::{ARENA_BYTES_AT, CONTROL_AT, Layout, MAGIC, MAGIC_AT, RING_BYTES_AT, VERSION, VERSION_AT};
use rustix::fd::BorrowedFd;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
#[cfg(target_arch = "x86_64")]
use std::arch::{asm, x86_64 as arch};
use std::ffi::c_void;
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::Arc;
#[cfg(target_arch = "x86_64")]
use std::sync::OnceLock;

/// A cache line.
#[cfg(target_arch = "x86_64")]
const LINE_BYTES: u64 = 64;
/// Long pieces are copied in chunks of this, while the lines [`LONG_AHEAD_BYTES`] further on are fetched. Measured with 1 MiB on two cores: half
/// the time of one large copy, for which the C library uses string instructions that wait for every line.
const CHUNK_BYTES: usize = 512;
const LONG_AHEAD_BYTES: u64 = 2048;

/// A shared mapping, unmapped when the last user is gone.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to no thread, and is only touched through atomics and raw copies that expect concurrent writers.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of `memory`, which must be sealed against shrinking and be that long.
    pub(crate) fn new(memory: BorrowedFd<'_>, len: usize) -> Result<Arc<Mapping>, LaneError> {
        // SAFETY: the kernel chooses a free place for the mapping; nothing of ours is replaced.
        let start =
            unsafe { mmap(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, memory, 0) };
        let start = start.map_err(|errno| LaneError::Io { action: "map the lane's memory", errno })?;
        let start = NonNull::new(start.cast::<u8>()).expect("the kernel maps nothing at address 0 unless asked to");
        Ok(Arc::new(Mapping { start, len }))
    }

    /// Writes the header of a fresh lane.
    pub(crate) fn write_header(&self, layout: Layout) {
        let ring_bytes = u32::try_from(layout.ring_bytes).expect("within the limits");
        self.write_once(MAGIC_AT, MAGIC.to_ne_bytes());
        self.write_once(VERSION_AT, VERSION.to_ne_bytes());
        self.write_once(RING_BYTES_AT, ring_bytes.to_ne_bytes());
        self.write_once(ARENA_BYTES_AT, (layout.arena_bytes as u64).to_ne_bytes());
    }

    /// Copies bytes of the header out.
    pub(crate) fn read_once<const N: usize>(&self, at: usize) -> [u8; N] {
        assert!(at + N <= self.len);
        let mut bytes = [0; N];
        // SAFETY: the source is within the mapping, as asserted, and the target is private memory of N bytes.
        unsafe { ptr::copy_nonoverlapping(self.start.as_ptr().add(at), bytes.as_mut_ptr(), N) };
        bytes
    }

    fn write_once<const N: usize>(&self, at: usize, bytes: [u8; N]) {
        assert!(at + N <= self.len);
        // SAFETY: the target is within the mapping, as asserted, and the source is private memory of N bytes.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr().add(at), N) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped; every user of it holds the Arc whose end this is.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast::<c_void>(), self.len) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

/// One direction of a lane: its words, its ring, its arena.
pub struct Direction {
    control: NonNull<Control>,
    pub(crate) ring: Region,
    pub(crate) arena: Region,
    /// Largest record that goes through the ring, in bytes.
    pub(crate) inline_bytes_max: usize,
    /// Largest record, in bytes.
    pub(crate) record_bytes_max: usize,
}

// SAFETY: a `Direction` is a part of a `Mapping`, which is Send, and keeps it alive through its regions.
unsafe impl Send for Direction {}

impl Direction {
    /// The direction 0 (first to second) or 1 of a mapping with this layout.
    pub(crate) fn new(mapping: &Arc<Mapping>, layout: Layout, direction: usize) -> Direction {
        assert!(layout.total_bytes() <= mapping.len && CONTROL_AT[direction] + size_of::<Control>() <= mapping.len);
        // SAFETY: within the mapping, as asserted.
        let control = unsafe { mapping.start.add(CONTROL_AT[direction]) }.cast::<Control>();
        assert!(control.is_aligned());
        Direction {
            control,
            ring: Region::new(mapping, layout.ring_at(direction), layout.ring_bytes),
            arena: Region::new(mapping, layout.arena_at(direction), layout.arena_bytes),
            inline_bytes_max: layout.inline_bytes_max(),
            record_bytes_max: layout.record_bytes_max(),
        }
    }

    /// The shared words.
    pub(crate) fn control(&self) -> &Control {
        // SAFETY: inside the mapping and aligned, as `new` asserted, and mapped as long as the regions of `self` are. It consists of
        // atomics (any bits are valid, others may write at any time) and padding that nobody reads.
        unsafe { self.control.as_ref() }
    }
}

impl fmt::Debug for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Direction").field("ring", &self.ring.len).field("arena", &self.arena.len).finish()
    }
}

/// A part of the mapping that is used as a circle of bytes.
pub(crate) struct Region {
    /// Keeps the memory mapped.
    _mapping: Arc<Mapping>,
    start: NonNull<u8>,
    /// A power of two.
    len: usize,
    /// Whether the CPU can fetch lines for writing.
    #[cfg(target_arch = "x86_64")]
    has_prefetchw: bool,
}

impl Region {
    fn new(mapping: &Arc<Mapping>, at: usize, len: usize) -> Region {
        assert!(len.is_power_of_two() && at.is_multiple_of(8) && at + len <= mapping.len);
        // SAFETY: within the mapping, as asserted.
        let start = unsafe { mapping.start.add(at) };
        Region {
            _mapping: mapping.clone(),
            start,
            len,
            #[cfg(target_arch = "x86_64")]
            has_prefetchw: has_prefetchw(),
        }
    }

    /// Its size in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len as u64
    }

    /// The offset of a position, and how many bytes there are from it to the end of the region.
    #[expect(clippy::cast_possible_truncation, reason = "only the low bits of a position say where it is")]
    fn place(&self, position: u64) -> (usize, usize) {
        let offset = position as usize & (self.len - 1);
        (offset, self.len - offset)
    }

    /// Copies bytes in, around the end if need be.
    pub(crate) fn write(&self, position: u64, bytes: &[u8]) {
        assert!(bytes.len() <= self.len);
        let (offset, until_end) = self.place(position);
        let (head, tail) = bytes.split_at(bytes.len().min(until_end));
        // SAFETY: `offset + head.len() <= len` by the split, `tail.len() <= len` by the assertion; both lie in the mapping, and
        // `bytes` is private memory, so nothing overlaps.
        unsafe {
            ptr::copy_nonoverlapping(head.as_ptr(), self.start.as_ptr().add(offset), head.len());
            if !tail.is_empty() {
                ptr::copy_nonoverlapping(tail.as_ptr(), self.start.as_ptr(), tail.len());
            }
        }
    }

    /// Appends bytes to `out`, around the end if need be.
    pub(crate) fn read(&self, position: u64, len: u64, out: &mut Vec<u8>) {
        assert!(len <= self.len());
        let len = usize::try_from(len).expect("not longer than the region");
        let (offset, until_end) = self.place(position);
        let head = len.min(until_end);
        out.reserve(len);
        let free = out.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: `offset + head <= len of the region` and `len - head <= len of the region`, so both sources lie in the mapping; the
        // target has room for `len` bytes, which are all written before `set_len`.
        unsafe {
            ptr::copy_nonoverlapping(self.start.as_ptr().add(offset), free, head);
            if head < len {
                ptr::copy_nonoverlapping(self.start.as_ptr(), free.add(head), len - head);
            }
            out.set_len(out.len() + len);
        }
    }

    /// [`Region::write`] for long pieces: fetches the lines ahead, since the other side had them last.
    pub(crate) fn write_long(&self, position: u64, bytes: &[u8]) {
        let end = position + bytes.len() as u64;
        for (chunk, at) in bytes.chunks(CHUNK_BYTES).zip((position..).step_by(CHUNK_BYTES)) {
            let ahead = at + LONG_AHEAD_BYTES;
            self.prefetch_for_writing(ahead.min(end), (ahead + CHUNK_BYTES as u64).min(end));
            self.write(at, chunk);
        }
    }

    /// [`Region::read`] for long pieces. All of the range must have been written: fetching lines that the other side still writes to would
    /// slow it down.
    pub(crate) fn read_long(&self, position: u64, len: u64, out: &mut Vec<u8>) {
        let end = position + len;
        for at in (position..end).step_by(CHUNK_BYTES) {
            let (chunk, ahead) = ((end - at).min(CHUNK_BYTES as u64), at + LONG_AHEAD_BYTES);
            self.prefetch(ahead.min(end), (ahead + chunk).min(end));
            self.read(at, chunk, out);
        }
    }

    /// Fetches the cache lines of a range. Only a hint.
    pub(crate) fn prefetch(&self, from: u64, to: u64) {
        #[cfg(target_arch = "x86_64")]
        for line in self.lines(from, to) {
            // SAFETY: a hint that reads nothing and never faults; the address is within the region.
            unsafe { arch::_mm_prefetch::<{ arch::_MM_HINT_T0 }>(line) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (from, to);
    }

    /// Fetches the cache lines of a range that will be written soon, and takes them away from the other side. Only a hint.
    pub(crate) fn prefetch_for_writing(&self, from: u64, to: u64) {
        #[cfg(target_arch = "x86_64")]
        if self.has_prefetchw {
            for line in self.lines(from, to) {
                // SAFETY: a hint that changes nothing and never faults; the CPU has the instruction. (`_mm_prefetch` becomes another
                // one, which leaves the line with the other side, unless the whole program is compiled for newer CPUs.)
                unsafe { asm!("prefetchw [{}]", in(reg) line, options(nostack, preserves_flags, readonly)) };
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (from, to);
    }

    #[cfg(target_arch = "x86_64")]
    fn lines(&self, from: u64, to: u64) -> impl Iterator<Item = *const i8> {
        let first = from & !(LINE_BYTES - 1);
        let count = if from < to { (to - first).div_ceil(LINE_BYTES) } else { 0 };
        (0..count).map(move |line| {
            let (offset, _) = self.place(first + line * LINE_BYTES);
            // SAFETY: within the region, as `place` reduces it.
            unsafe { self.start.as_ptr().add(offset).cast::<i8>().cast_const() }
        })
    }

    /// Reads the word at a position that is a multiple of 8, exactly once.
    pub(crate) fn read_word(&self, position: u64) -> u64 {
        let (offset, until_end) = self.place(position);
        assert!(offset.is_multiple_of(8) && until_end >= 8);
        // SAFETY: 8 bytes within the region, aligned since regions and offsets are; any bits are a valid number.
        unsafe { self.start.as_ptr().add(offset).cast::<u64>().read_volatile() }
    }

    /// Writes the word at a position that is a multiple of 8.
    pub(crate) fn write_word(&self, position: u64, word: u64) {
        let (offset, until_end) = self.place(position);
        assert!(offset.is_multiple_of(8) && until_end >= 8);
        // SAFETY: 8 bytes within the region, aligned since regions and offsets are.
        unsafe { self.start.as_ptr().add(offset).cast::<u64>().write_volatile(word) }
    }
}

/// Whether this CPU has the instruction `prefetchw`. Asked once: in a virtual machine the question is slow.
#[cfg(target_arch = "x86_64")]
fn has_prefetchw() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    const EXTENDED: u32 = 0x8000_0001;
    *HAS.get_or_init(|| arch::__cpuid(0x8000_0000).eax >= EXTENDED && arch::__cpuid(EXTENDED).ecx & (1 << 8) != 0)
}
