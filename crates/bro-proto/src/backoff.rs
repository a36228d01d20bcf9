//! Waiting times between attempts.

use crate::rng::Rng;

/// Exponential backoff without jitter, as the readme's `calculateBackoff`: `base * 2^attempt`, at most `max`.
/// `attempt` counts from 0; all times are in milliseconds.
pub fn backoff_ms(attempt: u32, base_ms: u64, max_ms: u64) -> u64 {
    1_u64.checked_shl(attempt).and_then(|factor| base_ms.checked_mul(factor)).map_or(max_ms, |delay| delay.min(max_ms))
}

/// Backoff spread over the upper half of the interval, so that peers that lost the same gateway do not return at once.
pub fn jittered_backoff_ms(attempt: u32, base_ms: u64, max_ms: u64, rng: &mut Rng) -> u64 {
    let delay = backoff_ms(attempt, base_ms, max_ms);
    delay / 2 + rng.below(delay - delay / 2 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_maximum() {
        let delays: Vec<u64> = (0..7).map(|attempt| backoff_ms(attempt, 1000, 30_000)).collect();
        assert_eq!(delays, [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
        assert_eq!(backoff_ms(u32::MAX, 1000, 30_000), 30_000);
        assert_eq!(backoff_ms(60, u64::MAX, u64::MAX), u64::MAX);
    }

    #[test]
    fn jitter_stays_between_half_and_whole() {
        let mut rng = Rng::new(1);
        for attempt in 0..12 {
            let whole = backoff_ms(attempt, 100, 5000);
            let delay = jittered_backoff_ms(attempt, 100, 5000, &mut rng);
            assert!((whole / 2..=whole).contains(&delay));
        }
        assert_eq!(jittered_backoff_ms(0, 0, 0, &mut rng), 0);
    }
}
