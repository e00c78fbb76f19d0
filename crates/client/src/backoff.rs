//! How long to wait before trying again: twice as long after each failure in a row, up to a limit, and never quite the same for
//! two who fail together.

use std::time::Duration;

use rand::Rng;

/// The waits between tries in a row.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    limit: Duration,
    failures: u32,
}

impl Backoff {
    /// Waits start at `first` and double up to `limit`.
    pub fn new(first: Duration, limit: Duration) -> Self {
        Self { first, limit, failures: 0 }
    }

    /// How long to wait after one more failure: the doubled wait, less up to a half at random.
    pub fn next_delay(&mut self) -> Duration {
        let full = self.first.saturating_mul(1u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(self.limit);
        self.failures = self.failures.saturating_add(1).min(31);
        full.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// Something worked: the next wait is the first one again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_and_start_over_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for expected in [100, 200, 400, 800, 1000, 1000] {
            let delay = backoff.next_delay().as_millis();
            assert!(delay >= expected / 2 && delay <= expected, "{delay} for {expected}");
        }
        for _ in 0..100 {
            assert!(backoff.next_delay() <= Duration::from_secs(1));
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(100));
    }
}
