//! A ruleset that remembers the transactions it was sent, for tests of those who send them.

use std::sync::{Mutex, PoisonError};

use crate::transaction::{NftablesError, Ruleset, Transaction};

/// Remembers transactions and applies nothing.
#[derive(Debug, Default)]
pub struct RecordedRuleset {
    transactions: Mutex<Vec<Transaction>>,
}

impl RecordedRuleset {
    /// Takes what was sent since the last time.
    pub fn take(&self) -> Vec<Transaction> {
        std::mem::take(&mut *self.transactions.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Ruleset for RecordedRuleset {
    fn commit(&self, transaction: &Transaction) -> Result<(), NftablesError> {
        if !transaction.is_empty() {
            self.transactions.lock().unwrap_or_else(PoisonError::into_inner).push(transaction.clone());
        }
        Ok(())
    }
}
