//! Where the quotes of a body are: 64 bytes at a time, so that finding the end of a string costs no loop over its characters.

/// Bytes that one block of marks covers.
const BLOCK_BYTES: usize = u64::BITS as usize;

/// The positions, in order, of the bytes that a string cannot simply contain: quotes, backslashes and control characters.
///
/// Small and passed by reference within inlined functions only, so that it stays in registers.
#[derive(Clone, Copy)]
pub(super) struct Marks {
    /// Where the current block starts in the body; a multiple of [`BLOCK_BYTES`].
    base: usize,
    /// Marked bytes of the current block that were not passed yet.
    bits: u64,
}

impl Marks {
    /// The marks of a body from its start.
    #[inline(always)]
    pub(super) fn new(body: &[u8]) -> Self {
        Marks { base: 0, bits: block(body, 0) }
    }

    /// Takes the next marked position; `None` at the end of the body.
    #[inline(always)]
    pub(super) fn next(&mut self, body: &[u8]) -> Option<usize> {
        while self.bits == 0 {
            // Stays at the last block, so that the end is seen again.
            if self.base + BLOCK_BYTES >= body.len() {
                return None;
            }
            self.base += BLOCK_BYTES;
            self.bits = block(body, self.base);
        }
        let at = self.base + self.bits.trailing_zeros() as usize;
        self.bits &= self.bits - 1;
        Some(at)
    }

    /// Passes two marks if the current block still has them: the quotes of a key that was recognised otherwise.
    ///
    /// Marks that are left over by this are passed by the next [`Marks::pass`].
    #[inline(always)]
    pub(super) fn drop_two(&mut self) {
        self.bits &= self.bits.wrapping_sub(1);
        self.bits &= self.bits.wrapping_sub(1);
    }

    /// Passes the mark at `at`, which is marked, and all marks before it.
    #[inline(always)]
    pub(super) fn pass(&mut self, body: &[u8], at: usize) {
        // Without white space and drops at the edge of a block, this mark is the next one. With no bits left there are 64
        // trailing zeros: the first position of the next block, so that has to be told apart.
        if self.bits != 0 && self.base + self.bits.trailing_zeros() as usize == at {
            self.bits &= self.bits - 1;
        } else {
            *self = self.behind(body, at);
        }
    }

    /// The marks behind `at`.
    #[inline(never)]
    fn behind(self, body: &[u8], at: usize) -> Self {
        let base = at - at % BLOCK_BYTES;
        let bits = if base == self.base { self.bits } else { block(body, base) };
        // Two shifts, because a shift by all 64 bits would be none.
        Marks { base, bits: bits & (u64::MAX << (at % BLOCK_BYTES) << 1) }
    }
}

/// The marks of the block at `base`, which is below the length of the body unless that is 0.
#[inline(never)]
fn block(body: &[u8], base: usize) -> u64 {
    if let Some(bytes) = body.get(base..).and_then(|rest| rest.first_chunk()) {
        return marks(bytes);
    }
    let rest = body.len() - base;
    if let Some(bytes) = body.last_chunk::<BLOCK_BYTES>() {
        // The last block ends behind the body: read the 64 bytes that end with it, and drop those that came before.
        return marks(bytes) >> (BLOCK_BYTES - rest);
    }
    let mut padded = [b' '; BLOCK_BYTES];
    padded[..rest].copy_from_slice(&body[base..]);
    marks(&padded)
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn marks(bytes: &[u8; BLOCK_BYTES]) -> u64 {
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        unsafe { marks_by_avx2(bytes) }
    } else {
        marks_by_sse2(bytes)
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn marks_by_avx2(bytes: &[u8; BLOCK_BYTES]) -> u64 {
    use std::arch::x86_64::{
        __m256i, _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_min_epu8, _mm256_movemask_epi8, _mm256_or_si256,
        _mm256_set1_epi8,
    };
    let half = |chunk: &[u8; 32]| {
        // SAFETY: the chunk is 32 readable bytes, and the load needs no alignment.
        let bytes = unsafe { _mm256_loadu_si256(chunk.as_ptr().cast::<__m256i>()) };
        let quotes = _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(b'"' as i8));
        let backslashes = _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(b'\\' as i8));
        let controls = _mm256_cmpeq_epi8(_mm256_min_epu8(bytes, _mm256_set1_epi8(0x1f)), bytes);
        let marked = _mm256_or_si256(_mm256_or_si256(quotes, backslashes), controls);
        u64::from(_mm256_movemask_epi8(marked).cast_unsigned())
    };
    let halves = bytes.as_chunks().0;
    half(&halves[0]) | half(&halves[1]) << 32
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn marks_by_sse2(bytes: &[u8; BLOCK_BYTES]) -> u64 {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8,
    };
    let quarter = |chunk: &[u8; 16]| {
        // SAFETY: the chunk is sixteen readable bytes, the load needs no alignment, and SSE2 is part of x86-64.
        let marked = unsafe {
            let bytes = _mm_loadu_si128(chunk.as_ptr().cast::<__m128i>());
            let quotes = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'"' as i8));
            let backslashes = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'\\' as i8));
            let controls = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);
            _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quotes, backslashes), controls))
        };
        u64::from(marked.cast_unsigned())
    };
    let quarters = bytes.as_chunks().0;
    quarter(&quarters[0]) | quarter(&quarters[1]) << 16 | quarter(&quarters[2]) << 32 | quarter(&quarters[3]) << 48
}

#[cfg(not(target_arch = "x86_64"))]
fn marks(bytes: &[u8; BLOCK_BYTES]) -> u64 {
    marks_by_words(bytes)
}

/// [`marks`] without vector instructions.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn marks_by_words(bytes: &[u8; BLOCK_BYTES]) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    const LOWS: u64 = ONES * 0x7f;
    const HIGHS: u64 = ONES << 7;
    // The high bit of each byte that is below a bound of at most 0x80; nothing carries from one byte to the next.
    let below = |word: u64, bound: u64| !(((word & LOWS) + ONES * (0x80 - bound)) | word) & HIGHS;
    let equal = |word: u64, byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    let mut all = 0;
    for (index, chunk) in bytes.chunks_exact(8).enumerate() {
        let word = chunk.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        let found = below(word, 0x20) | equal(word, b'"') | equal(word, b'\\');
        // Gathers the eight high bits into the top byte, the first byte's lowest.
        let gathered = (found >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        all |= gathered << (8 * index);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn is_marked(byte: u8) -> bool {
        byte < 0x20 || byte == b'"' || byte == b'\\'
    }

    #[test]
    fn every_byte_at_every_offset_is_marked_or_not() {
        for byte in 0..=255u8 {
            for offset in 0..BLOCK_BYTES {
                for filler in [b'a', 0x7f, 0x80, 0xff, b' ', b'!', b'#', b'['] {
                    let mut bytes = [filler; BLOCK_BYTES];
                    bytes[offset] = byte;
                    let expected = u64::from(is_marked(byte)) << offset;
                    assert_eq!(marks(&bytes), expected, "{byte} at {offset} in {filler}");
                    assert_eq!(marks_by_words(&bytes), expected, "{byte} at {offset} in {filler}");
                    #[cfg(target_arch = "x86_64")]
                    assert_eq!(marks_by_sse2(&bytes), expected, "{byte} at {offset} in {filler}");
                }
            }
        }
    }

    /// Bodies of all lengths around the block size, full of marks.
    fn bodies() -> impl Iterator<Item = Vec<u8>> {
        let mut rng = Rng::new(7);
        let alphabet = *b"\"\\\x1fabcdefgh\x80 ";
        (1..300).map(move |len| (0..len).map(|_| alphabet[usize::try_from(rng.below(13)).unwrap()]).collect())
    }

    #[test]
    fn the_marks_of_a_body_come_in_order_and_whole() {
        for body in bodies() {
            let expected: Vec<usize> = (0..body.len()).filter(|at| is_marked(body[*at])).collect();
            let mut marks = Marks::new(&body);
            let found: Vec<usize> = std::iter::from_fn(|| marks.next(&body)).collect();
            assert_eq!(found, expected);
            assert_eq!(marks.next(&body), None, "the end is seen again");
        }
    }

    #[test]
    fn passing_a_mark_leaves_those_behind_it() {
        for body in bodies() {
            let all: Vec<usize> = (0..body.len()).filter(|at| is_marked(body[*at])).collect();
            for (index, &at) in all.iter().enumerate() {
                for taken in [0, index / 2, index] {
                    let mut marks = Marks::new(&body);
                    for _ in 0..taken {
                        marks.next(&body);
                    }
                    marks.pass(&body, at);
                    assert_eq!(marks.next(&body), all.get(index + 1).copied());
                }
            }
        }
    }

    #[test]
    fn dropping_two_never_passes_more() {
        for body in bodies() {
            let all: Vec<usize> = (0..body.len()).filter(|at| is_marked(body[*at])).collect();
            for taken in 0..all.len() {
                let mut marks = Marks::new(&body);
                for _ in 0..taken {
                    marks.next(&body);
                }
                marks.drop_two();
                let next = marks.next(&body);
                assert!(next.is_none_or(|next| next <= all.get(taken + 2).copied().unwrap_or(usize::MAX)));
                assert!(next.is_some() || taken + 2 >= all.len(), "nothing is lost");
            }
        }
    }
}
