//! How long a crashing container waits before it is started again.
//!
//! The first restart is immediate; then 10 s after the end of the last run, doubling up to 5 min, and from the start again
//! once a container ran for 10 min. Source: Kubernetes 1.36, `pkg/kubelet`, `MaxCrashLoopBackOff`, `client-go/util/flowcontrol`.

use std::{collections::HashMap, hash::Hash, time::Duration};

use jiff::Timestamp;

use crate::clock::after;

/// Wait after the first repetition.
pub const INITIAL: Duration = Duration::from_secs(10);
/// Longest wait.
pub const MAXIMUM: Duration = Duration::from_secs(300);

/// The waits of one container or image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackOff {
    /// How long to wait after the last failure.
    pub delay: Duration,
    /// When the delay was last raised.
    pub updated: Timestamp,
}

impl BackOff {
    fn is_stale(&self, failed_at: Timestamp) -> bool {
        failed_at > after(self.updated, 2 * MAXIMUM)
    }
}

/// The waits of several.
#[derive(Debug, Clone)]
pub struct BackOffs<Key> {
    entries: HashMap<Key, BackOff>,
}

impl<Key> Default for BackOffs<Key> {
    fn default() -> Self {
        Self { entries: HashMap::new() }
    }
}

impl<Key: Eq + Hash + Clone> BackOffs<Key> {
    /// When the next try after a failure is due, with the delay; `None` when it may be now.
    pub fn waiting_until(&self, key: &Key, failed_at: Timestamp, now: Timestamp) -> Option<(Timestamp, Duration)> {
        let entry = self.entries.get(key)?;
        let due = after(failed_at, entry.delay);
        (!entry.is_stale(failed_at) && now < due).then_some((due, entry.delay))
    }

    /// A try is made after a failure: the wait after the next failure is longer.
    pub fn raise(&mut self, key: &Key, failed_at: Timestamp, now: Timestamp) {
        let delay = match self.entries.get(key) {
            Some(entry) if !entry.is_stale(failed_at) => (entry.delay * 2).min(MAXIMUM),
            _ => INITIAL,
        };
        self.entries.insert(key.clone(), BackOff { delay, updated: now });
    }

    /// Forgets one.
    pub fn reset(&mut self, key: &Key) {
        self.entries.remove(key);
    }
}

/// A duration as Go prints it: `10s`, `1m20s`, `5m0s`, `1.5s`.
#[must_use]
pub fn go_duration(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    if seconds == 0 && duration.subsec_nanos() > 0 {
        return format!("{}ms", millis);
    }
    let fraction = if millis == 0 { String::new() } else { format!(".{millis:03}").trim_end_matches('0').to_owned() };
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}{fraction}s"),
        (0, _) => format!("{minutes}m{rest}{fraction}s"),
        _ => format!("{hours}h{minutes}m{rest}{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    #[test]
    fn waits_double_up_to_five_minutes() {
        let mut waits = BackOffs::default();
        assert_eq!(waits.waiting_until(&"a", at(0), at(0)), None, "the first restart is immediate");
        let mut now = 0;
        let mut seen = Vec::new();
        for _ in 0..7 {
            waits.raise(&"a", at(now), at(now));
            let (due, delay) = waits.waiting_until(&"a", at(now), at(now)).unwrap();
            seen.push(go_duration(delay));
            now = due.as_second() - 1_000_000;
        }
        assert_eq!(seen, ["10s", "20s", "40s", "1m20s", "2m40s", "5m0s", "5m0s"]);
    }

    #[test]
    fn a_long_run_starts_over() {
        let mut waits = BackOffs::default();
        waits.raise(&"a", at(0), at(0));
        waits.raise(&"a", at(10), at(10));
        assert_eq!(waits.waiting_until(&"a", at(700), at(700)), None);
        waits.raise(&"a", at(700), at(700));
        assert_eq!(waits.waiting_until(&"a", at(701), at(701)).unwrap().1, INITIAL);
    }
}
