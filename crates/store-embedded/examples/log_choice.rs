//! Which log should the embedded store use? Measures the candidates as the store would use them, and prints a table.
//!
//! `cargo run --release -p store-embedded --example log_choice [DIRECTORY]`. One writing thread takes whatever is queued
//! as one batch, appends it, syncs once and acknowledges: values of 1 KiB under keys like those of real objects. A plain
//! file shows what the disk allows. DIRECTORY must be on the disk in question (a tmpfs syncs for free); default is `.`.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use redb::{Durability, ReadableDatabase, ReadableTable, TableDefinition};

const VALUE_BYTES: usize = 1024;
const MEASURE_FOR: Duration = Duration::from_secs(4);

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Item = (String, Vec<u8>);

/// What the embedded store asks of a log.
trait Log: Send + Sized + 'static {
    const NAME: &'static str;
    fn open(directory: &Path) -> Result<Self, Failure>;
    /// Returns when the whole batch is on the disk.
    fn append(&mut self, batch: Vec<Item>) -> Result<(), Failure>;
    /// Reads everything, as a start of the server does.
    fn count(&self) -> Result<u64, Failure>;
}

struct PlainFile(File);

impl Log for PlainFile {
    const NAME: &'static str = "plain file";
    fn open(directory: &Path) -> Result<Self, Failure> {
        Ok(Self(File::options().create(true).append(true).open(directory.join("log"))?))
    }
    fn append(&mut self, batch: Vec<Item>) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        for (key, value) in batch {
            bytes.extend_from_slice(key.as_bytes());
            bytes.extend_from_slice(&value);
        }
        self.0.write_all(&bytes)?;
        Ok(self.0.sync_data()?)
    }
    fn count(&self) -> Result<u64, Failure> {
        Ok(self.0.metadata()?.len() / VALUE_BYTES as u64)
    }
}

struct Fjall {
    database: Database,
    items: Keyspace,
}

impl Log for Fjall {
    const NAME: &'static str = "fjall";
    fn open(directory: &Path) -> Result<Self, Failure> {
        let database = Database::builder(directory)
            .cache_size(1024 * 1024)
            .max_journaling_size(128 * 1024 * 1024)
            .worker_threads(1)
            .open()?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(8 * 1024 * 1024);
        let items = database.keyspace("items", options)?;
        Ok(Self { database, items })
    }
    fn append(&mut self, batch: Vec<Item>) -> Result<(), Failure> {
        let mut write = self.database.batch().durability(Some(PersistMode::SyncData));
        for (key, value) in batch {
            write.insert(&self.items, key, value);
        }
        Ok(write.commit()?)
    }
    fn count(&self) -> Result<u64, Failure> {
        let mut count = 0;
        for item in self.items.iter() {
            count += u64::from(!item.value()?.is_empty());
        }
        Ok(count)
    }
}

/// redb with one entry per object.
struct RedbTree(redb::Database);

const TREE: TableDefinition<&str, &[u8]> = TableDefinition::new("items");

impl Log for RedbTree {
    const NAME: &'static str = "redb, a tree of objects";
    fn open(directory: &Path) -> Result<Self, Failure> {
        Ok(Self(redb::Builder::new().set_cache_size(16 * 1024 * 1024).create(directory.join("redb"))?))
    }
    fn append(&mut self, batch: Vec<Item>) -> Result<(), Failure> {
        let mut write = self.0.begin_write()?;
        write.set_durability(Durability::Immediate)?;
        {
            let mut table = write.open_table(TREE)?;
            for (key, value) in &batch {
                table.insert(key.as_str(), value.as_slice())?;
            }
        }
        Ok(write.commit()?)
    }
    fn count(&self) -> Result<u64, Failure> {
        let read = self.0.begin_read()?;
        let mut count = 0;
        for item in read.open_table(TREE)?.iter()? {
            count += u64::from(!item?.1.value().is_empty());
        }
        Ok(count)
    }
}

/// redb as a log proper: one entry per batch, so that each commit touches only the tree's right edge.
struct RedbBatches {
    database: redb::Database,
    next: u64,
}

const BATCHES: TableDefinition<u64, &[u8]> = TableDefinition::new("batches");

impl Log for RedbBatches {
    const NAME: &'static str = "redb, an entry per batch";
    fn open(directory: &Path) -> Result<Self, Failure> {
        let database = redb::Builder::new().set_cache_size(16 * 1024 * 1024).create(directory.join("redb"))?;
        let read = database.begin_read()?;
        let next = match read.open_table(BATCHES) {
            Ok(table) => table.last()?.map_or(0, |(number, _)| number.value() + 1),
            Err(redb::TableError::TableDoesNotExist(_)) => 0,
            Err(error) => return Err(error.into()),
        };
        drop(read);
        Ok(Self { database, next })
    }
    fn append(&mut self, batch: Vec<Item>) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        for (key, value) in batch {
            bytes.extend_from_slice(key.as_bytes());
            bytes.extend_from_slice(&value);
        }
        let mut write = self.database.begin_write()?;
        write.set_durability(Durability::Immediate)?;
        write.open_table(BATCHES)?.insert(self.next, bytes.as_slice())?;
        self.next += 1;
        Ok(write.commit()?)
    }
    fn count(&self) -> Result<u64, Failure> {
        let read = self.database.begin_read()?;
        let mut bytes = 0;
        for item in read.open_table(BATCHES)?.iter()? {
            bytes += item?.1.value().len();
        }
        Ok((bytes / VALUE_BYTES) as u64)
    }
}

type Queued = (Item, mpsc::Sender<()>);

/// Acknowledged writes, and the milliseconds below which 99 of 100 of them took.
fn write_rate<L: Log>(log: &mut L, writers: u64, keys: &Arc<AtomicU64>) -> Result<(f64, f64), Failure> {
    let (queue, queued) = mpsc::channel::<Queued>();
    let begun = Instant::now();
    let threads: Vec<_> = (0..writers)
        .map(|_| {
            let (queue, keys) = (queue.clone(), Arc::clone(keys));
            std::thread::spawn(move || {
                let mut latencies = Vec::new();
                let (done, acknowledged) = mpsc::channel();
                while begun.elapsed() < MEASURE_FOR {
                    let number = keys.fetch_add(1, Ordering::Relaxed);
                    // Scattered over the key space as namespaces and names are; a third rewrites earlier objects.
                    let scattered = (number - number % 3 / 2).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    let key = format!("/registry/configmaps/namespace-{}/name-{scattered:016x}", scattered % 10);
                    let value = scattered.to_le_bytes().repeat(VALUE_BYTES / 8);
                    let sent = Instant::now();
                    if queue.send(((key, value), done.clone())).is_err() || acknowledged.recv().is_err() {
                        break;
                    }
                    latencies.push(sent.elapsed());
                }
                latencies
            })
        })
        .collect();
    drop(queue);
    while let Ok(first) = queued.recv() {
        let (batch, acknowledgements): (Vec<_>, Vec<_>) = std::iter::once(first).chain(queued.try_iter()).unzip();
        log.append(batch)?;
        for acknowledgement in acknowledgements {
            // A writer that is gone needs no answer.
            let _ = acknowledgement.send(());
        }
    }
    let elapsed = begun.elapsed();
    let mut latencies: Vec<Duration> =
        threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect();
    latencies.sort();
    let slow = latencies.get(latencies.len() * 99 / 100).copied().unwrap_or_default();
    Ok((latencies.len() as f64 / elapsed.as_secs_f64(), slow.as_secs_f64() * 1000.0))
}

fn allocated_bytes(directory: &Path) -> Result<u64, Failure> {
    use std::os::unix::fs::MetadataExt;
    let mut total = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        total += if metadata.is_dir() { allocated_bytes(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(total)
}

fn measure<L: Log>(directory: &Path) -> Result<(), Failure> {
    let directory = tempfile::tempdir_in(directory)?;
    let mut log = L::open(directory.path())?;
    let keys = Arc::new(AtomicU64::new(0));
    let mut columns = Vec::new();
    for writers in [1, 16, 64] {
        let (rate, slow) = write_rate(&mut log, writers, &keys)?;
        columns.push(format!("{rate:>7.0}/s {slow:>6.1} ms"));
    }
    drop(log);
    let begun = Instant::now();
    let log = L::open(directory.path())?;
    let count = log.count()?;
    let opened = begun.elapsed().as_secs_f64() * 1000.0;
    let megabytes = allocated_bytes(directory.path())? as f64 / 1e6;
    println!("{:<26}{}{opened:>10.0} ms{megabytes:>9.0} MB{count:>10}", L::NAME, columns.join(" "));
    Ok(())
}

fn main() -> Result<(), Failure> {
    let directory = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let directory = Path::new(&directory);
    println!(
        "{:<26}{:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>12} {:>11}{:>10}",
        "log", "1 writer", "p99", "16", "p99", "64", "p99", "open, read", "on disk", "objects"
    );
    measure::<PlainFile>(directory)?;
    measure::<Fjall>(directory)?;
    measure::<RedbTree>(directory)?;
    measure::<RedbBatches>(directory)
}
