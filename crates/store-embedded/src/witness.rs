//! For tests: remembers what was asked for and what was acknowledged, and judges what a store holds afterwards.
//!
//! Each key belongs to one writer, whose operations on it are numbered from one and follow one another: every fifth
//! deletes, the others put a value that says key and number over and over, in a length of its own, so that half of one,
//! or one in the wrong place, cannot pass for a whole.

use std::collections::BTreeMap;

use store::{Change, Expect, KeyRange, Page, ReadAt, Revision, Store, StoreError, StoreKey};

/// What is known of one key.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Known {
    pub(crate) acknowledged: u64,
    pub(crate) issued: u64,
}

/// What is known of all keys, and the newest revision that was acknowledged.
#[derive(Debug, Clone, Default)]
pub(crate) struct Witness {
    pub(crate) keys: BTreeMap<String, Known>,
    pub(crate) newest: u64,
}

/// What an operation leaves: a value, or nothing where it deletes.
pub(crate) fn state_after(key: &str, operation: u64) -> Option<Vec<u8>> {
    if operation == 0 || operation % 5 == 0 {
        return None;
    }
    let pattern = format!("[{key} {operation}]");
    let length = 1 + (operation as usize * 397) % 6000;
    Some(pattern.bytes().cycle().take(pattern.len() + length).collect())
}

/// Does one operation, given the revision the one before left.
pub(crate) async fn perform(
    store: &dyn Store,
    key: &str,
    operation: u64,
    before: Option<Revision>,
) -> Result<(Revision, Option<Revision>), StoreError> {
    let expect = before.map_or(Expect::Absent, Expect::AtRevision);
    let change = match state_after(key, operation) {
        Some(value) => Change::Put { value: value.into(), expires_after: None },
        None => Change::Delete,
    };
    let deletes = matches!(change, Change::Delete);
    let revision = store.write(&StoreKey::new(key), expect, change).await?;
    Ok((revision, (!deletes).then_some(revision)))
}

impl Witness {
    pub(crate) fn issued(&mut self, key: &str, operation: u64) {
        self.keys.entry(key.to_owned()).or_default().issued = operation;
    }

    pub(crate) fn acknowledged(&mut self, key: &str, operation: u64, revision: u64) {
        let known = self.keys.entry(key.to_owned()).or_default();
        known.acknowledged = operation;
        known.issued = known.issued.max(operation);
        self.newest = self.newest.max(revision);
    }

    /// Panics when an acknowledged operation is missing, or anything is there that was not asked for. Afterwards it knows
    /// which of the operations on the way had happened.
    #[track_caller]
    pub(crate) fn check(&mut self, store: &dyn Store) {
        let all = KeyRange::prefix("");
        let everything = store.list(&all, ReadAt::Latest, Page::default());
        let everything = futures::executor::block_on(everything).unwrap();
        assert!(everything.revision.0 >= self.newest, "revision {} after {}", everything.revision, self.newest);
        let mut found: BTreeMap<String, Vec<u8>> =
            everything.items.into_iter().map(|(key, value)| (key.as_str().to_owned(), value.value.to_vec())).collect();
        for (key, known) in &mut self.keys {
            let value = found.remove(key);
            let happened = (known.acknowledged..=known.issued).rev().find(|number| state_after(key, *number) == value);
            let Some(happened) = happened else {
                let value = value.map(|value| String::from_utf8_lossy(&value).into_owned());
                panic!("{key}: {known:?}, but there is {value:.80?}");
            };
            *known = Known { acknowledged: happened, issued: happened };
        }
        assert!(found.is_empty(), "nobody wrote {:?}", found.keys().collect::<Vec<_>>());
    }
}
