//! A keyed hash for the router's tables.

use bro_proto::rng::Rng;

/// Hashes names and ids with a secret key, so that peers cannot choose texts that collide.
///
/// The core is a folded multiplication: both halves of the 128-bit product of two keyed words. Without the key, and with
/// nothing that shows hashes to peers, colliding texts cannot be prepared.
#[derive(Clone, Debug)]
pub(crate) struct KeyedHash {
    start: u64,
    low: u64,
    high: u64,
}

impl KeyedHash {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        Self { start: rng.next_u64(), low: rng.next_u64(), high: rng.next_u64() }
    }

    /// What makes it this hash and no other.
    pub(crate) fn keys(&self) -> [u64; 3] {
        [self.start, self.low, self.high]
    }

    /// The hash with these [`KeyedHash::keys`].
    pub(crate) fn from_keys([start, low, high]: [u64; 3]) -> Self {
        Self { start, low, high }
    }

    /// The hash of `text` in the name space `scope`.
    pub(crate) fn hash(&self, scope: u32, text: &str) -> u64 {
        let bytes = text.as_bytes();
        let mut state = self.start ^ u64::from(scope).rotate_left(32) ^ bytes.len() as u64;
        let (pairs, remainder) = bytes.as_chunks::<16>();
        for pair in pairs {
            let words = pair.as_chunks().0;
            state = fold(state ^ word(&words[0]) ^ self.low, word(&words[1]) ^ self.high);
        }
        let (low, high) = rest(remainder);
        state = fold(state ^ low ^ self.low, high ^ self.high);
        fold(state ^ self.high, self.start | 1)
    }

    /// The hash of `number` in the name space `scope`.
    #[inline]
    pub(crate) fn hash_number(&self, scope: u32, number: u64) -> u64 {
        fold(number ^ self.low, (self.start ^ u64::from(scope).rotate_left(32)) | 1)
    }
}

/// 8 bytes as one number.
#[inline(always)]
fn word(bytes: &[u8; 8]) -> u64 {
    u64::from_le_bytes(*bytes)
}

/// Less than 16 bytes as two numbers, which differ for any two texts of one length. They may say the bytes in the middle twice: that
/// takes no loop.
#[inline(always)]
fn rest(bytes: &[u8]) -> (u64, u64) {
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        return (word(first), word(last));
    }
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        return (u32::from_le_bytes(*first).into(), u32::from_le_bytes(*last).into());
    }
    match *bytes {
        [] => (0, 0),
        [first, .., last] => (u64::from(first) << 8 | u64::from(bytes[1]), last.into()),
        [only] => (only.into(), 0),
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the halves are what is wanted")]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn similar_texts_spread_over_all_bits() {
        let hash = KeyedHash::new(&mut Rng::new(1));
        let mut whole = HashSet::new();
        let mut low = [0_u32; 64];
        for number in 0..20_000 {
            let text = format!("req-1699005123456-{number:06}");
            assert!(whole.insert(hash.hash(0, &text)), "{text} collides");
            low[(hash.hash(0, &text) & 63) as usize] += 1;
        }
        assert!(low.iter().all(|&count| (200..430).contains(&count)), "{low:?}");
    }

    /// What the generator's state was when it gave this number.
    fn state_behind(number: u64) -> u64 {
        let unshift = |mut z: u64, by: u32| {
            let shifted = z;
            for _ in 0..64 / by {
                z = shifted ^ (z >> by);
            }
            z
        };
        let inverse = |odd: u64| {
            (0..6).fold(odd, |inverse, _| inverse.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(inverse))))
        };
        let mut z = unshift(number, 31).wrapping_mul(inverse(0x94D0_49BB_1331_11EB));
        z = unshift(z, 27).wrapping_mul(inverse(0xBF58_476D_1CE4_E5B9));
        unshift(z, 30)
    }

    /// A callee sees such a number in the id of a call that was renamed.
    #[test]
    fn the_key_cannot_be_computed_from_an_id_that_peers_see() {
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        assert_eq!(state_behind(Rng::new(5).next_u64()), 5_u64.wrapping_add(STEP));
        let now = bro_proto::Now { mono_us: 0, wall_ms: 1 };
        let mut router = crate::Router::new(crate::RouterConfig::default(), 77, now);
        let state = state_behind(router.rng.next_u64());
        for back in 0..64 {
            let key = KeyedHash::new(&mut Rng::new(state.wrapping_sub(STEP.wrapping_mul(back))));
            assert_ne!(key.hash(0, "a"), router.hasher.hash(0, "a"), "{back} numbers before the id");
        }
    }

    #[test]
    fn scope_length_and_key_count() {
        let hash = KeyedHash::new(&mut Rng::new(1));
        assert_ne!(hash.hash(0, "a"), hash.hash(1, "a"));
        assert_ne!(hash.hash(0, "a"), hash.hash(0, "a\0"));
        assert_ne!(hash.hash(0, "a"), KeyedHash::new(&mut Rng::new(2)).hash(0, "a"));
        // Every byte counts, at every length.
        for length in 1..40 {
            let mut differing = HashSet::new();
            assert!(differing.insert(hash.hash(0, &"a".repeat(length))));
            for at in 0..length {
                let text: String = (0..length).map(|index| if index == at { 'b' } else { 'a' }).collect();
                assert!(differing.insert(hash.hash(0, &text)), "byte {at} of {length}");
            }
        }
        let texts: Vec<String> = (0..40).map(|length| "x".repeat(length)).collect();
        let all: HashSet<u64> = texts.iter().map(|text| hash.hash(0, text)).collect();
        assert_eq!(all.len(), texts.len());
    }
}
