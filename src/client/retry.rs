//! Pure: how long until the next attempt.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
const MOST: Duration = Duration::from_secs(1);

/// Doubles with every attempt, with jitter so that a fleet does not come back all at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The pause before the next attempt; `random` is any number.
    pub fn next(&mut self, random: u64) -> Duration {
        let full = FIRST.saturating_mul(1 << self.attempts.min(10)).min(MOST);
        self.attempts += 1;
        // Between half of it and all of it.
        let part = (random % 1000) as f64 / 2000.0 + 0.5;
        full.mul_f64(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_a_bound_and_stays_within_its_jitter() {
        let mut backoff = Backoff::default();
        let mut last = Duration::ZERO;
        for attempt in 0..100 {
            let pause = backoff.next(attempt * 7919);
            assert!(pause >= FIRST / 2 && pause <= MOST, "{pause:?}");
            last = pause;
        }
        assert!(last >= MOST / 2);
        assert!(Backoff::default().next(0) <= FIRST);
    }
}
