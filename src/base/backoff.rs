//! Growing pauses between attempts.

use std::time::Duration;

/// The pause after the first failure, the factor by which each further pause grows, and the longest
/// one.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    pub first: Duration,
    pub factor: u32,
    pub max: Duration,
}

impl Backoff {
    /// Pauses that double.
    pub const fn doubling(first: Duration, max: Duration) -> Backoff {
        Backoff {
            first,
            factor: 2,
            max,
        }
    }

    /// The pause after so many failures in a row; none without a failure.
    pub fn pause(&self, failures: u32) -> Duration {
        let Some(steps) = failures.checked_sub(1) else {
            return Duration::ZERO;
        };
        let factor = self.factor.saturating_pow(steps);
        self.first.saturating_mul(factor).min(self.max)
    }

    /// The same in milliseconds.
    pub fn pause_ms(&self, failures: u32) -> i64 {
        i64::try_from(self.pause(failures).as_millis()).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_one() {
        let backoff = Backoff {
            first: Duration::from_secs(2),
            factor: 5,
            max: Duration::from_secs(60),
        };
        let pauses: Vec<u64> = (0..6).map(|it| backoff.pause(it).as_secs()).collect();
        assert_eq!(pauses, [0, 2, 10, 50, 60, 60]);
        assert_eq!(backoff.pause(u32::MAX), backoff.max);
        let long = Backoff::doubling(Duration::from_millis(250), Duration::MAX);
        assert_eq!((long.pause_ms(1), long.pause_ms(3)), (250, 1000));
        assert!(long.pause_ms(u32::MAX) > 1_000_000);
    }
}
