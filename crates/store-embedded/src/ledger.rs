//! Which batch of the log holds which value, and so which batches can be dropped: the log's compaction.
//!
//! The log may grow to twice what is current, and some slack. Beyond that, each append also drops the oldest batches, and
//! takes over those of their values that are still current: a little work per write instead of a pause now and then.

use std::collections::VecDeque;

use store::{Revision, StoreKey, StoredValue};

use crate::batch::record_bytes;

/// What the log may hold beyond twice the current values, so that a small one is not rewritten all the time.
const SLACK_BYTES: u64 = 8 * 1024 * 1024;

/// An append takes over at most about this much, or four times its own size.
const TAKE_OVER_BYTES: u64 = 64 * 1024;

#[derive(Default)]
pub(crate) struct Ledger {
    batches: VecDeque<BatchContent>,
    total_bytes: u64,
    live_bytes: u64,
    slack_bytes: u64,
}

struct BatchContent {
    bytes: u64,
    /// Puts only: a deletion needs no record once everything older than it is dropped.
    puts: Vec<(StoreKey, Revision)>,
}

/// What an append should do besides appending.
#[derive(Default)]
pub(crate) struct Cleaning {
    /// So many of the oldest batches go.
    pub(crate) drop_oldest: u64,
    /// And these values of theirs must be written again in the same append.
    pub(crate) take_over: Vec<(StoreKey, StoredValue)>,
}

impl Ledger {
    pub(crate) fn new() -> Self {
        Self { slack_bytes: SLACK_BYTES, ..Self::default() }
    }

    /// A batch was appended.
    pub(crate) fn appended(&mut self, bytes: u64, puts: Vec<(StoreKey, Revision)>) {
        self.total_bytes += bytes;
        self.batches.push_back(BatchContent { bytes, puts });
    }

    /// The oldest batches were dropped.
    pub(crate) fn dropped(&mut self, count: u64) {
        for _ in 0..count {
            if let Some(batch) = self.batches.pop_front() {
                self.total_bytes = self.total_bytes.saturating_sub(batch.bytes);
            }
        }
    }

    /// A value became current.
    pub(crate) fn came(&mut self, key: &StoreKey, value: &StoredValue) {
        self.live_bytes += record_bytes(key, value.value.len());
    }

    /// A value is no longer current.
    pub(crate) fn went(&mut self, key: &StoreKey, value: &StoredValue) {
        self.live_bytes = self.live_bytes.saturating_sub(record_bytes(key, value.value.len()));
    }

    /// What an append of about `incoming_bytes` should drop. `current` gives a key's value where the append itself does
    /// not change it.
    pub(crate) fn plan(&self, incoming_bytes: u64, current: impl Fn(&StoreKey) -> Option<StoredValue>) -> Cleaning {
        let allowed = self.live_bytes.saturating_mul(2).saturating_add(self.slack_bytes);
        let budget = incoming_bytes.saturating_mul(4).max(TAKE_OVER_BYTES);
        let mut total = self.total_bytes.saturating_add(incoming_bytes);
        let mut taken_over_bytes = 0;
        let mut cleaning = Cleaning::default();
        for batch in &self.batches {
            if total <= allowed || taken_over_bytes >= budget {
                break;
            }
            total = total.saturating_sub(batch.bytes);
            cleaning.drop_oldest += 1;
            for (key, revision) in &batch.puts {
                if let Some(value) = current(key).filter(|value| value.revision == *revision) {
                    let bytes = record_bytes(key, value.value.len());
                    total += bytes;
                    taken_over_bytes += bytes;
                    cleaning.take_over.push((key.clone(), value));
                }
            }
        }
        cleaning
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(revision: u64) -> StoredValue {
        StoredValue { value: vec![0; 1000].into(), revision: Revision(revision), stale_encryption: false }
    }

    fn key(number: u64) -> StoreKey {
        StoreKey::new(format!("/key/{number}"))
    }

    /// Ten batches of one value each, of which those with the given numbers are current.
    fn ledger(live: &[u64]) -> Ledger {
        let mut ledger = Ledger::default();
        for number in 1..=10 {
            ledger.appended(1080, vec![(key(number), Revision(number))]);
        }
        for number in live {
            ledger.came(&key(*number), &value(*number));
        }
        ledger
    }

    fn plan(ledger: &Ledger, live: &[u64]) -> (u64, Vec<u64>) {
        let current = |key: &StoreKey| {
            live.iter().find(|number| key.as_str() == format!("/key/{number}")).map(|number| value(*number))
        };
        let cleaning = ledger.plan(100, current);
        (cleaning.drop_oldest, cleaning.take_over.iter().map(|(_, value)| value.revision.0).collect())
    }

    #[test]
    fn a_log_within_its_allowance_is_left_alone() {
        let mut ledger = ledger(&[1, 2, 3]);
        ledger.slack_bytes = 8000;
        assert_eq!(plan(&ledger, &[1, 2, 3]), (0, vec![]));
    }

    #[test]
    fn the_oldest_go_and_what_is_current_of_them_moves() {
        assert_eq!(plan(&ledger(&[2, 10]), &[2, 10]), (8, vec![2]));
        assert_eq!(plan(&ledger(&[]), &[]), (10, vec![]));
    }

    #[test]
    fn a_value_that_was_written_again_does_not_move() {
        let ledger = ledger(&[9]);
        let rewritten = StoredValue { revision: Revision(20), ..value(1) };
        let cleaning = ledger.plan(100, |_| Some(rewritten.clone()));
        assert!(cleaning.drop_oldest > 0 && cleaning.take_over.is_empty());
    }
}
