//! What a clock that is set (or a machine that slept) must not do to pods: waits are told in times of day, because they are in statuses,
//! so they move along with the clock.

use std::{sync::Arc, time::Duration};

use client::Clock;
use jiff::{SignedDuration, Timestamp};

use crate::pods::Pods;

/// Less than this is no jump but the steady correction of a clock, or a thread that was not run in between two looks.
const TOLERANCE: Duration = Duration::from_secs(2);
/// How often the node looks. A machine's sleep is told to nobody, so there is no event to wait for.
const INTERVAL: Duration = Duration::from_secs(20);

/// Where the time of day should be by now.
#[derive(Debug, Clone)]
pub struct Reckoning {
    day: Timestamp,
    elapsed: Duration,
}

impl Reckoning {
    /// Begins with the time of day as it is.
    pub fn new(clock: &dyn Clock) -> Self {
        Self { day: clock.now(), elapsed: clock.elapsed() }
    }

    /// How far the time of day has jumped since the last look; `None` where it went on as time did.
    pub fn jump(&mut self, clock: &dyn Clock) -> Option<SignedDuration> {
        let now = Self::new(clock);
        let passed = now.elapsed.saturating_sub(self.elapsed);
        let expected = crate::clock::after(self.day, passed);
        *self = now;
        let jump = self.day.duration_since(expected);
        (jump.unsigned_abs() > TOLERANCE).then_some(jump)
    }
}

/// Moves a time along with the clock.
pub fn moved(time: Timestamp, jump: SignedDuration) -> Timestamp {
    time.checked_add(jump).unwrap_or(time)
}

/// Wakes every pod's worker when the clock has jumped, for ever.
pub async fn watch(clock: Arc<dyn Clock>, pods: Pods) {
    let mut reckoning = Reckoning::new(&*clock);
    loop {
        clock.sleep(INTERVAL).await;
        if let Some(jump) = reckoning.jump(&*clock) {
            tracing::info!("the time of day jumped by {jump:#}");
            pods.wake_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use futures::future::BoxFuture;

    use super::*;

    /// Stands still but for what is set.
    #[derive(Default)]
    struct SetClock {
        day: AtomicI64,
        elapsed: AtomicI64,
    }

    impl Clock for SetClock {
        fn now(&self) -> Timestamp {
            Timestamp::from_second(self.day.load(Ordering::Relaxed)).unwrap()
        }

        fn elapsed(&self) -> Duration {
            Duration::from_secs(self.elapsed.load(Ordering::Relaxed).unsigned_abs())
        }

        fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
            Box::pin(std::future::pending())
        }
    }

    #[test]
    fn a_jump_is_told_once_and_the_passing_of_time_is_none() {
        let clock = SetClock::default();
        clock.day.store(1_000_000, Ordering::Relaxed);
        let mut reckoning = Reckoning::new(&clock);
        let mut look = |day: i64, elapsed: i64| {
            clock.day.fetch_add(day, Ordering::Relaxed);
            clock.elapsed.fetch_add(elapsed, Ordering::Relaxed);
            reckoning.jump(&clock).map(|jump| jump.as_secs())
        };
        assert_eq!(look(3600, 3600), None);
        assert_eq!(look(3600, 0), Some(3600));
        assert_eq!(look(0, 0), None);
        assert_eq!(look(-7190, 10), Some(-7200));
        assert_eq!(look(2, 0), None, "a correction");
    }
}
