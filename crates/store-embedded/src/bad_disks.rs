//! For tests: a disk in memory that fills up, fails, lies or loses its power, and what the store does on it.

use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redb::StorageBackend;
use store::transformer::Plain;
use store::{Expect, KeyRange, Page, ReadAt, Revision, Store, StoreError, StoreKey};

use crate::disk::Medium;
use crate::open::open_log;
use crate::witness::{Witness, perform, state_after};
use crate::{EmbeddedStore, OpenError, Options};

/// What a disk writes at once or not at all.
const SECTOR_BYTES: usize = 512;

#[derive(Debug, Clone)]
enum Step {
    Write(usize, Vec<u8>),
    Length(usize),
}

impl Step {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Self::Length(length) => image.resize(*length, 0),
            Self::Write(offset, data) => {
                if image.len() < offset + data.len() {
                    image.resize(offset + data.len(), 0);
                }
                image[*offset..offset + data.len()].copy_from_slice(data);
            }
        }
    }
}

#[derive(Debug, Default)]
struct Platter {
    /// What reading sees.
    seen: Vec<u8>,
    /// What is there after the power failed.
    kept: Vec<u8>,
    /// What a power failure may take away, wholly or in part.
    unsynced: Vec<Step>,
    /// Says "synced" and does nothing.
    lies: bool,
    /// After so many more writes there is no room.
    writes_until_full: Option<u64>,
    fails_to_sync: bool,
}

#[derive(Debug, Clone, Default)]
struct SimulatedDisk(Arc<Mutex<Platter>>);

impl Platter {
    fn step(&mut self, step: Step) {
        step.apply(&mut self.seen);
        self.unsynced.push(step);
    }
}

impl SimulatedDisk {
    fn with(image: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(Platter { seen: image.clone(), kept: image, ..Platter::default() })))
    }

    /// What the disk holds when the power fails now: of what was not synced, any sector may have been written or not.
    fn after_power_failure(&self, random: &mut StdRng) -> Self {
        let platter = self.0.lock();
        let mut image = platter.kept.clone();
        for step in &platter.unsynced {
            match step {
                Step::Length(_) if random.random_bool(0.5) => step.apply(&mut image),
                Step::Length(_) => {}
                Step::Write(offset, data) => {
                    for (number, sector) in data.chunks(SECTOR_BYTES).enumerate() {
                        if random.random_bool(0.5) {
                            Step::Write(offset + number * SECTOR_BYTES, sector.to_vec()).apply(&mut image);
                        }
                    }
                }
            }
        }
        Self::with(image)
    }
}

impl StorageBackend for SimulatedDisk {
    fn len(&self) -> std::io::Result<u64> {
        Ok(self.0.lock().seen.len() as u64)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        let platter = self.0.lock();
        let begin = offset as usize;
        let bytes = platter.seen.get(begin..begin + out.len()).ok_or(std::io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.lock().step(Step::Length(len as usize));
        Ok(())
    }
    fn sync_data(&self) -> std::io::Result<()> {
        let mut platter = self.0.lock();
        if platter.fails_to_sync {
            return Err(std::io::Error::other("the disk does not answer"));
        }
        if !platter.lies {
            let unsynced = std::mem::take(&mut platter.unsynced);
            for step in unsynced {
                step.apply(&mut platter.kept);
            }
        }
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        let mut platter = self.0.lock();
        if let Some(left) = &mut platter.writes_until_full {
            *left = left.checked_sub(1).ok_or(std::io::ErrorKind::StorageFull)?;
        }
        platter.step(Step::Write(offset as usize, data.to_vec()));
        Ok(())
    }
}

impl Medium for SimulatedDisk {
    fn open(&self) -> std::io::Result<Box<dyn StorageBackend>> {
        Ok(Box::new(self.clone()))
    }
    fn length(&self) -> std::io::Result<u64> {
        self.len()
    }
    fn used_bytes(&self) -> std::io::Result<u64> {
        self.len()
    }
    fn free_bytes(&self) -> std::io::Result<u64> {
        Ok(u64::MAX)
    }
    fn place(&self) -> String {
        "the simulated disk".to_owned()
    }
}

fn open(disk: &SimulatedDisk) -> Result<Arc<EmbeddedStore>, OpenError> {
    let log = open_log(disk)?;
    EmbeddedStore::start(Arc::new(disk.clone()), log, Arc::new(Plain), &Options::default(), None)
}

/// Writers that go on until they are told to stop or get an error; each has a key of its own.
async fn write_until(store: Arc<EmbeddedStore>, witness: Arc<Mutex<Witness>>, key: String, last: u64) {
    let mut before = None;
    for operation in 1..=last {
        witness.lock().issued(&key, operation);
        match perform(&*store, &key, operation, before).await {
            Ok((revision, after)) => {
                witness.lock().acknowledged(&key, operation, revision.0);
                before = after;
            }
            Err(_) => return,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_power_failure_at_any_moment_every_acknowledged_write_is_there_and_none_half() {
    for seed in 0..80 {
        let mut random = StdRng::seed_from_u64(seed);
        let disk = SimulatedDisk::default();
        let store = open(&disk).unwrap();
        let witness = Arc::new(Mutex::new(Witness::default()));
        let writers: Vec<_> = (0..6)
            .map(|writer| tokio::spawn(write_until(store.clone(), witness.clone(), format!("/w/{writer}"), 40)))
            .collect();
        let enough = random.random_range(1..150);
        while witness.lock().newest < enough {
            tokio::task::yield_now().await;
        }
        // What is known is read before the power fails; whatever is acknowledged in between may only add to it.
        let mut known = witness.lock().clone();
        let after = disk.after_power_failure(&mut random);
        for writer in writers {
            writer.await.unwrap();
        }
        for (key, late) in &witness.lock().keys {
            known.keys.entry(key.clone()).or_default().issued = late.issued;
        }
        drop(store);
        let store = open(&after).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        known.check(&*store);
        let next = store.write(&StoreKey::new("/next"), Expect::Absent, put(b"x")).await.unwrap();
        assert!(next.0 > known.newest, "seed {seed}");
    }
}

fn put(value: &[u8]) -> store::Change {
    store::Change::Put { value: value.to_vec().into(), expires_after: None }
}

/// Whether a store holds exactly what one writer of one key had done at the store's newest revision.
fn is_a_moment_of_the_past(store: &EmbeddedStore, key: &str, revisions: &[Revision]) {
    let everything = KeyRange::prefix("");
    let listing = store.list(&everything, ReadAt::Latest, Page::default());
    let listing = futures::executor::block_on(listing).unwrap();
    let done = revisions.iter().filter(|revision| **revision <= listing.revision).count() as u64;
    let values: Vec<_> = listing.items.iter().map(|(_, value)| value.value.to_vec()).collect();
    assert_eq!(values, Vec::from_iter(state_after(key, done)), "at revision {}", listing.revision);
}

#[tokio::test]
async fn a_disk_that_lied_about_syncing_leaves_a_moment_of_the_past_or_a_clear_error() {
    let (mut opened, mut refused) = (0, 0);
    for seed in 0..80 {
        let mut random = StdRng::seed_from_u64(seed);
        let disk = SimulatedDisk::default();
        let store = open(&disk).unwrap();
        let (mut before, mut revisions) = (None, Vec::new());
        let honest = random.random_range(1..20);
        for operation in 1..honest + random.random_range(1..20) {
            disk.0.lock().lies = operation > honest;
            let (revision, after) = perform(&*store, "/one", operation, before).await.unwrap();
            revisions.push(revision);
            before = after;
        }
        let after = disk.after_power_failure(&mut random);
        match open(&after) {
            Ok(store) => {
                opened += 1;
                is_a_moment_of_the_past(&store, "/one", &revisions);
            }
            Err(OpenError::Damaged { .. }) => refused += 1,
            Err(other) => panic!("seed {seed}: {other}"),
        }
    }
    assert!(opened > 0, "{opened} opened, {refused} refused");
}

#[tokio::test]
async fn a_garbled_log_opens_as_it_was_or_is_refused_with_a_clear_error() {
    let disk = SimulatedDisk::default();
    let store = open(&disk).unwrap();
    let (mut before, mut revisions) = (None, Vec::new());
    for operation in 1..60 {
        let (revision, after) = perform(&*store, "/one", operation, before).await.unwrap();
        revisions.push(revision);
        before = after;
    }
    store.close().await;
    let good = disk.0.lock().seen.clone();
    // Most of the file is the holes redb leaves for its growth; garbage is to hit what counts.
    let used = good.iter().rposition(|byte| *byte != 0).unwrap_or_default() + 1;
    let mut refused = 0;
    for seed in 0..150 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut image = good.clone();
        match seed % 3 {
            0 => image.truncate(random.random_range(1..used)),
            1 => {
                let position = random.random_range(0..used);
                image[position] ^= 1 << random.random_range(0..8);
            }
            _ => {
                let begin = random.random_range(0..used);
                let end = (begin + 4096).min(used);
                random.fill(&mut image[begin..end]);
            }
        }
        match open(&SimulatedDisk::with(image)) {
            Ok(store) => is_a_moment_of_the_past(&store, "/one", &revisions),
            Err(OpenError::Damaged { .. } | OpenError::Failed { .. }) => refused += 1,
            Err(other) => panic!("seed {seed}: {other}"),
        }
    }
    assert!(refused > 30, "only {refused} of 150 were noticed");
}

#[tokio::test]
async fn a_full_disk_refuses_writes_answers_reads_and_goes_on_when_there_is_room() {
    for writes_until_full in 0..12 {
        let disk = SimulatedDisk::default();
        let store = open(&disk).unwrap();
        let mut witness = Witness::default();
        let (mut before, mut refused) = (None, 0);
        for operation in 1..=30 {
            let full = operation % 7 == 3;
            disk.0.lock().writes_until_full = full.then_some(writes_until_full);
            match perform(&*store, "/one", operation, before).await {
                Ok((revision, after)) => {
                    witness.acknowledged("/one", operation, revision.0);
                    before = after;
                    continue;
                }
                Err(StoreError::NoSpace { .. }) if full => refused += 1,
                Err(error) => panic!("{writes_until_full}, {operation}: {error}"),
            }
            witness.check(&*store);
            let again = perform(&*store, "/one", operation, before).await;
            assert!(writes_until_full > 0 || matches!(again, Err(StoreError::NoSpace { .. })), "{again:?}");
            disk.0.lock().writes_until_full = None;
            let (revision, after) = match again {
                Ok(done) => done,
                Err(_) => perform(&*store, "/one", operation, before).await.unwrap(),
            };
            witness.acknowledged("/one", operation, revision.0);
            before = after;
        }
        witness.check(&*store);
        store.close().await;
        witness.check(&*open(&disk).unwrap());
        assert!(refused > 0 || writes_until_full > 2, "the disk was never full at {writes_until_full}");
    }
}

#[tokio::test]
async fn a_failed_sync_ends_writing_but_not_reading() {
    let disk = SimulatedDisk::default();
    let store = open(&disk).unwrap();
    let mut witness = Witness::default();
    let (revision, before) = perform(&*store, "/one", 1, None).await.unwrap();
    witness.acknowledged("/one", 1, revision.0);
    disk.0.lock().fails_to_sync = true;
    witness.issued("/one", 2);
    let failed = perform(&*store, "/one", 2, before).await;
    assert!(matches!(&failed, Err(StoreError::Poisoned { reason, .. }) if reason.contains("sync")), "{failed:?}");
    disk.0.lock().fails_to_sync = false;
    let later = perform(&*store, "/two", 1, None).await;
    assert!(matches!(later, Err(StoreError::Poisoned { .. })), "poison stays: {later:?}");
    assert_eq!(store.current().await.unwrap(), revision);
    witness.clone().check(&*store);
    drop(store);
    witness.check(&*open(&disk).unwrap());
}

#[tokio::test]
async fn the_log_stays_in_proportion_to_what_is_current_and_loses_nothing() {
    let disk = SimulatedDisk::default();
    let store = open(&disk).unwrap();
    let mut witness = Witness::default();
    // Some values are written once and must survive every cleaning.
    for number in 0..20 {
        let key = format!("/still/{number}");
        let (revision, _) = perform(&*store, &key, 1, None).await.unwrap();
        witness.acknowledged(&key, 1, revision.0);
    }
    let mut before = vec![None; 50];
    for operation in 1..=250 {
        let keys: Vec<_> = (0..before.len()).map(|number| format!("/busy/{number}")).collect();
        let writes = keys.iter().zip(&before).map(|(key, before)| perform(&*store, key, operation, *before));
        for (number, done) in futures::future::join_all(writes).await.into_iter().enumerate() {
            let (revision, after) = done.unwrap();
            witness.acknowledged(&keys[number], operation, revision.0);
            before[number] = after;
        }
    }
    witness.check(&*store);
    store.close().await;
    let log = open_log(&disk).unwrap();
    let mut bytes = 0;
    let counted = log.read(|_, batch| -> Result<(), crate::log::LogError> {
        bytes += batch.len();
        Ok(())
    });
    counted.unwrap();
    drop(log);
    assert!(bytes < 10 * 1024 * 1024, "{bytes} bytes of log for less than 1 MiB of values");
    let newest = store_newest(&disk);
    assert_eq!(newest.0, witness.newest, "also with the last writes deleted");
    witness.check(&*open(&disk).unwrap());
}

fn store_newest(disk: &SimulatedDisk) -> Revision {
    let store = open(disk).unwrap();
    futures::executor::block_on(store.current()).unwrap()
}
