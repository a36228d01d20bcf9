//! What the bytes of a body are, 64 at a time and a bit for each, by the vector instructions of x86-64 processors since 2013.

use std::arch::x86_64::{
    __m256i, _mm_clmulepi64_si128, _mm_cvtsi128_si64, _mm_set_epi64x, _mm_set1_epi8, _mm256_cmpeq_epi8,
    _mm256_loadu_si256, _mm256_max_epu8, _mm256_min_epu8, _mm256_movemask_epi8, _mm256_or_si256, _mm256_set1_epi8,
    _mm256_sub_epi8,
};

/// Bytes of a block.
pub(super) const BLOCK_BYTES: usize = u64::BITS as usize;

/// A bit for each byte of a block, in strings or not.
#[derive(Clone, Copy)]
pub(super) struct Classes {
    pub(super) quotes: u64,
    pub(super) backslashes: u64,
    /// `{`
    pub(super) braces: u64,
    /// `[`
    pub(super) brackets: u64,
    /// `}` and `]`
    pub(super) closers: u64,
    pub(super) commas: u64,
    pub(super) colons: u64,
    pub(super) digits: u64,
    /// `0`
    pub(super) zeros: u64,
}

impl Classes {
    /// Without the first `count` bytes.
    pub(super) fn behind(self, count: usize) -> Classes {
        Classes {
            quotes: self.quotes >> count,
            backslashes: self.backslashes >> count,
            braces: self.braces >> count,
            brackets: self.brackets >> count,
            closers: self.closers >> count,
            commas: self.commas >> count,
            colons: self.colons >> count,
            digits: self.digits >> count,
            zeros: self.zeros >> count,
        }
    }
}

/// The least of all bytes that were classified, by where they were in their half of a block.
#[derive(Clone, Copy)]
pub(super) struct Range {
    least: __m256i,
}

impl Range {
    #[target_feature(enable = "avx2")]
    pub(super) fn new() -> Range {
        Range { least: _mm256_set1_epi8(-1) }
    }

    /// Whether a control character was among them.
    #[target_feature(enable = "avx2")]
    pub(super) fn has_control(self) -> bool {
        let raised = _mm256_max_epu8(self.least, _mm256_set1_epi8(b' ' as i8));
        _mm256_movemask_epi8(_mm256_cmpeq_epi8(raised, self.least)) != -1
    }

    /// Whether a block holds neither quotes nor backslashes.
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) fn is_plain(&mut self, block: &[u8; BLOCK_BYTES]) -> bool {
        let halves = block.as_chunks::<32>().0;
        let halves = [load(&halves[0]), load(&halves[1])];
        let [low, high] = halves.map(|half| {
            self.least = _mm256_min_epu8(self.least, half);
            let quotes = _mm256_cmpeq_epi8(half, _mm256_set1_epi8(b'"' as i8));
            let backslashes = _mm256_cmpeq_epi8(half, _mm256_set1_epi8(b'\\' as i8));
            _mm256_or_si256(quotes, backslashes)
        });
        _mm256_movemask_epi8(_mm256_or_si256(low, high)) == 0
    }

    /// Classifies one block.
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) fn classify(&mut self, block: &[u8; BLOCK_BYTES]) -> Classes {
        let halves = block.as_chunks::<32>().0;
        let halves = [load(&halves[0]), load(&halves[1])];
        for half in halves {
            self.least = _mm256_min_epu8(self.least, half);
        }
        let equal = |byte: u8| bits(halves.map(|half| _mm256_cmpeq_epi8(half, _mm256_set1_epi8(byte.cast_signed()))));
        // The closing bracket is the closing brace without one bit; the other byte that becomes a brace so is `]` itself.
        let closers = halves.map(|half| {
            let united = _mm256_or_si256(half, _mm256_set1_epi8(0x20));
            _mm256_cmpeq_epi8(united, _mm256_set1_epi8(b'}' as i8))
        });
        let digits = halves.map(|half| {
            let value = _mm256_sub_epi8(half, _mm256_set1_epi8(b'0' as i8));
            _mm256_cmpeq_epi8(_mm256_min_epu8(value, _mm256_set1_epi8(9)), value)
        });
        Classes {
            quotes: equal(b'"'),
            backslashes: equal(b'\\'),
            braces: equal(b'{'),
            brackets: equal(b'['),
            closers: bits(closers),
            commas: equal(b','),
            colons: equal(b':'),
            digits: bits(digits),
            zeros: equal(b'0'),
        }
    }
}

#[target_feature(enable = "avx2")]
#[inline]
fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: 32 bytes can be read, and the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast::<__m256i>()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn bits(halves: [__m256i; 2]) -> u64 {
    let [low, high] = halves.map(|half| u64::from(_mm256_movemask_epi8(half).cast_unsigned()));
    low | high << 32
}

/// Each bit is the parity of the bits up to it: from each odd one to before the next.
#[target_feature(enable = "pclmulqdq")]
#[inline]
pub(super) fn between(bits: u64) -> u64 {
    let product = _mm_clmulepi64_si128::<0>(_mm_set_epi64x(0, bits.cast_signed()), _mm_set1_epi8(-1));
    _mm_cvtsi128_si64(product).cast_unsigned()
}
