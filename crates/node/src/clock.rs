//! Arithmetic on times of day. The clock itself comes from `client`, so that tests can move it.

use std::time::Duration;

pub use client::{Clock, SystemClock};
use jiff::{SignedDuration, Timestamp};

/// How long until a time; zero when it is past.
#[must_use]
pub fn until(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(then.duration_since(now)).unwrap_or_default()
}

/// A time moved forward; stays where that cannot be expressed.
#[must_use]
pub fn after(time: Timestamp, duration: Duration) -> Timestamp {
    SignedDuration::try_from(duration).ok().and_then(|duration| time.checked_add(duration).ok()).unwrap_or(time)
}
