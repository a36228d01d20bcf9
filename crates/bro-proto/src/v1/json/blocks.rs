//! What the bytes of a body are, many at a time, by the vector instructions of x86-64 processors since 2013.
//!
//! Whatever is compiled for these instructions (here, in `compact` and in `outline`) names the same features, so that it is inlined
//! into one function, which is entered only where [`is_supported`].

use std::arch::x86_64::{
    __m256i, _mm_clmulepi64_si128, _mm_cvtsi128_si64, _mm_set_epi64x, _mm_set1_epi8, _mm256_cmpeq_epi8,
    _mm256_cmpgt_epi8, _mm256_loadu_si256, _mm256_max_epu8, _mm256_min_epi8, _mm256_min_epu8, _mm256_movemask_epi8,
    _mm256_or_si256, _mm256_set1_epi8, _mm256_sub_epi8,
};
use std::sync::atomic::{AtomicU8, Ordering};

/// Bytes of a block.
pub(super) const BLOCK_BYTES: usize = u64::BITS as usize;
/// Bytes of one vector.
const VECTOR_BYTES: usize = 32;

/// Whether the processor has the instructions.
#[inline(always)]
pub(super) fn is_supported() -> bool {
    match SUPPORTED.load(Ordering::Relaxed) {
        UNKNOWN => detect(),
        known => known == YES,
    }
}

/// Asked once: asking for each feature takes as long as proving a block.
static SUPPORTED: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 0;
const YES: u8 = 1;
const NO: u8 = 2;

#[cold]
fn detect() -> bool {
    let is_supported = std::arch::is_x86_feature_detected!("avx2")
        && std::arch::is_x86_feature_detected!("bmi1")
        && std::arch::is_x86_feature_detected!("bmi2")
        && std::arch::is_x86_feature_detected!("lzcnt")
        && std::arch::is_x86_feature_detected!("pclmulqdq");
    SUPPORTED.store(if is_supported { YES } else { NO }, Ordering::Relaxed);
    is_supported
}

/// A body without control characters as a text, if it is one and has at least a block of bytes.
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,pclmulqdq")]
#[inline]
pub(super) fn without_controls(body: &[u8]) -> Option<&str> {
    let (blocks, _) = body.as_chunks::<BLOCK_BYTES>();
    let mut least = vectors(body.last_chunk()?, |low, high| _mm256_min_epi8(low, high));
    for block in blocks {
        least = _mm256_min_epi8(least, vectors(block, |low, high| _mm256_min_epi8(low, high)));
    }
    // Of signed bytes, all that are not ASCII are less than the control characters.
    let printable = _mm256_cmpgt_epi8(least, _mm256_set1_epi8(0x1f));
    if _mm256_movemask_epi8(printable) == -1 {
        // SAFETY: all bytes are ASCII.
        return Some(unsafe { std::str::from_utf8_unchecked(body) });
    }
    without_controls_beyond_ascii(body)
}

#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,pclmulqdq")]
#[inline(never)]
fn without_controls_beyond_ascii(body: &[u8]) -> Option<&str> {
    let (blocks, _) = body.as_chunks::<BLOCK_BYTES>();
    let mut least = vectors(body.last_chunk()?, |low, high| _mm256_min_epu8(low, high));
    for block in blocks {
        least = _mm256_min_epu8(least, vectors(block, |low, high| _mm256_min_epu8(low, high)));
    }
    let raised = _mm256_max_epu8(least, _mm256_set1_epi8(b' '.cast_signed()));
    if _mm256_movemask_epi8(_mm256_cmpeq_epi8(raised, least)) != -1 {
        return None;
    }
    simdutf8::basic::from_utf8(body).ok()
}

/// A bit for each byte of a block, in strings or not.
#[derive(Clone, Copy)]
pub(super) struct Classes {
    pub(super) quotes: u64,
    pub(super) backslashes: u64,
    /// `{` and `[`
    pub(super) openers: u64,
    /// `}` and `]`
    pub(super) closers: u64,
    pub(super) commas: u64,
    pub(super) colons: u64,
    pub(super) digits: u64,
    /// `0`
    pub(super) zeros: u64,
}

impl Classes {
    /// Of the bytes of one block.
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,pclmulqdq")]
    #[inline]
    pub(super) fn of(block: &[u8; BLOCK_BYTES]) -> Classes {
        let halves = vectors(block, |low, high| [low, high]);
        let equal = |halves: [__m256i; 2], byte: u8| bits(halves.map(|half| _mm256_cmpeq_epi8(half, all(byte))));
        // A bracket is a brace without one bit; the other byte that becomes a brace so is the bracket itself.
        let united = halves.map(|half| _mm256_or_si256(half, all(b'{' ^ b'[')));
        let digits = halves.map(|half| {
            let value = _mm256_sub_epi8(half, all(b'0'));
            _mm256_cmpeq_epi8(_mm256_min_epu8(value, all(9)), value)
        });
        Classes {
            quotes: equal(halves, b'"'),
            backslashes: equal(halves, b'\\'),
            openers: equal(united, b'{'),
            closers: equal(united, b'}'),
            commas: equal(halves, b','),
            colons: equal(halves, b':'),
            digits: bits(digits),
            zeros: equal(halves, b'0'),
        }
    }
}

/// Whether a block holds neither quotes nor backslashes.
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,pclmulqdq")]
#[inline]
pub(super) fn is_plain(block: &[u8; BLOCK_BYTES]) -> bool {
    let [low, high] = vectors(block, |low, high| [marked(low), marked(high)]);
    _mm256_movemask_epi8(_mm256_or_si256(low, high)) == 0
}

/// The quotes and the backslashes among the bytes, a bit for each.
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,pclmulqdq")]
#[inline]
pub(super) fn marks(chunk: &[u8; VECTOR_BYTES]) -> (u32, u32) {
    let bytes = load(chunk);
    let equal = |byte: u8| _mm256_movemask_epi8(_mm256_cmpeq_epi8(bytes, all(byte))).cast_unsigned();
    (equal(b'"'), equal(b'\\'))
}

/// Each bit is the parity of the bits up to it: from each odd one to before the next.
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,pclmulqdq")]
#[inline]
pub(super) fn between(bits: u64) -> u64 {
    let product = _mm_clmulepi64_si128::<0>(_mm_set_epi64x(0, bits.cast_signed()), _mm_set1_epi8(-1));
    _mm_cvtsi128_si64(product).cast_unsigned()
}

#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,pclmulqdq")]
#[inline]
fn marked(bytes: __m256i) -> __m256i {
    _mm256_or_si256(_mm256_cmpeq_epi8(bytes, all(b'"')), _mm256_cmpeq_epi8(bytes, all(b'\\')))
}

#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,pclmulqdq")]
#[inline]
fn all(byte: u8) -> __m256i {
    _mm256_set1_epi8(byte.cast_signed())
}

#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,pclmulqdq")]
#[inline]
fn vectors<T>(block: &[u8; BLOCK_BYTES], of: impl FnOnce(__m256i, __m256i) -> T) -> T {
    let halves = block.as_chunks().0;
    of(load(&halves[0]), load(&halves[1]))
}

#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,pclmulqdq")]
#[inline]
fn load(bytes: &[u8; VECTOR_BYTES]) -> __m256i {
    // SAFETY: 32 bytes can be read, and the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast::<__m256i>()) }
}

#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,pclmulqdq")]
#[inline]
fn bits(halves: [__m256i; 2]) -> u64 {
    let [low, high] = halves.map(|half| u64::from(_mm256_movemask_epi8(half).cast_unsigned()));
    low | high << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where this byte stands among them.
    fn places(block: &[u8; BLOCK_BYTES], is_it: impl Fn(u8) -> bool) -> u64 {
        block.iter().enumerate().map(|(at, byte)| u64::from(is_it(*byte)) << at).sum()
    }

    #[test]
    fn every_byte_at_every_place_has_its_class() {
        if !is_supported() {
            return;
        }
        for byte in 0..=255 {
            for at in 0..BLOCK_BYTES {
                for filler in [b'a', b' ', b'0', b'{', b',', 0x80, 0xff] {
                    let mut block = [filler; BLOCK_BYTES];
                    block[at] = byte;
                    // SAFETY: the processor has the instructions.
                    let (classes, is_plain) = unsafe { (Classes::of(&block), is_plain(&block)) };
                    let one = |byte: u8| places(&block, |other| other == byte);
                    assert_eq!(classes.quotes, one(b'"'));
                    assert_eq!(classes.backslashes, one(b'\\'));
                    assert_eq!(classes.openers, one(b'{') | one(b'['));
                    assert_eq!(classes.closers, one(b'}') | one(b']'));
                    assert_eq!(classes.commas, one(b','));
                    assert_eq!(classes.colons, one(b':'));
                    assert_eq!(classes.digits, places(&block, |byte| byte.is_ascii_digit()));
                    assert_eq!(classes.zeros, one(b'0'));
                    assert_eq!(is_plain, classes.quotes | classes.backslashes == 0);
                    let half = block.first_chunk().unwrap();
                    // SAFETY: as above.
                    let (quotes, backslashes) = unsafe { marks(half) };
                    assert_eq!(u64::from(quotes), classes.quotes & u64::from(u32::MAX));
                    assert_eq!(u64::from(backslashes), classes.backslashes & u64::from(u32::MAX));
                }
            }
        }
    }

    #[test]
    fn each_bit_is_the_parity_of_those_up_to_it() {
        let mut rng = crate::rng::Rng::new(3);
        for bits in std::iter::repeat_with(|| rng.next_u64() & rng.next_u64()).take(1000).chain([0, 1, u64::MAX]) {
            let expected: u64 = (0..64).map(|at| u64::from((bits << (63 - at)).count_ones() % 2) << at).sum();
            // SAFETY: the processor has the instructions.
            assert!(!is_supported() || unsafe { between(bits) } == expected, "{bits:b}");
        }
    }

    #[test]
    fn bodies_with_control_characters_and_those_that_are_no_text_are_refused() {
        if !is_supported() {
            return;
        }
        for length in [63, 64, 65, 95, 96, 127, 128, 200] {
            for at in 0..length {
                for (inside, is_fit) in [
                    (&b"a"[..], true),
                    (b"\x20", true),
                    (b"\x7f", true),
                    (b"\x1f", false),
                    (b"\0", false),
                    (b"\n", false),
                    ("é".as_bytes(), true),
                    (b"\xc3", false),
                    (b"\x80", false),
                    (b"\xff", false),
                ] {
                    let mut body = vec![b'x'; length];
                    body.splice(at..=at, inside.iter().copied());
                    // SAFETY: the processor has the instructions.
                    let text = unsafe { without_controls(&body) };
                    assert_eq!(text.is_some(), is_fit && body.len() >= BLOCK_BYTES, "{inside:?} at {at} of {length}");
                    assert!(text.is_none_or(|text| text.as_bytes() == body));
                }
            }
        }
    }
}
