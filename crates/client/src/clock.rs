//! Time comes in by argument, so that tests can move it.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::watch;

/// Where the time comes from.
pub trait Clock: Send + Sync + 'static {
    /// The time of day, for stamps that others read.
    fn now(&self) -> Timestamp;
    /// Time passed since some fixed moment. Never goes back and never jumps: what waits and expiries are judged by.
    fn elapsed(&self) -> Duration;
    /// Waits until [`Clock::elapsed`] has grown by `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    started: std::time::Instant,
}

impl SystemClock {
    /// Starts counting now.
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self { started: std::time::Instant::now() })
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// A clock that stands still until a test advances it.
#[derive(Debug, Clone)]
pub struct FakeClock {
    start: Timestamp,
    elapsed: Arc<Mutex<watch::Sender<Duration>>>,
}

impl FakeClock {
    /// Stands at `start`.
    pub fn new(start: Timestamp) -> Self {
        Self { start, elapsed: Arc::default() }
    }

    /// Moves on, and wakes those whose time has come.
    pub fn advance(&self, by: Duration) {
        self.elapsed.lock().send_modify(|elapsed| *elapsed += by);
    }

    /// Whether anybody sleeps. Who is not asleep yet would only count from after an advance.
    pub fn has_sleepers(&self) -> bool {
        self.elapsed.lock().receiver_count() > 0
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        self.start.saturating_add(self.elapsed()).unwrap_or(self.start)
    }

    fn elapsed(&self) -> Duration {
        *self.elapsed.lock().borrow()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let mut elapsed = self.elapsed.lock().subscribe();
        let until = self.elapsed().saturating_add(duration);
        Box::pin(async move {
            // The clock being gone means that nobody will ever move it: then nothing is to be done any more.
            if elapsed.wait_for(|elapsed| *elapsed >= until).await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sleeper_wakes_when_the_clock_is_advanced_far_enough() {
        let clock = FakeClock::new(Timestamp::UNIX_EPOCH);
        let sleeper = tokio::spawn(clock.sleep(Duration::from_secs(10)));
        clock.advance(Duration::from_secs(9));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        clock.advance(Duration::from_secs(1));
        sleeper.await.unwrap();
        assert_eq!(clock.now().as_second(), 10);
    }
}
