//! The store's directory as an operator meets it: restarts, a second server, lost keys, a full disk, Secrets at rest.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use store::transformer::key_file;
use store::{Change, Expect, KeyRange, Page, ReadAt, Revision, Store, StoreError, StoreEvent, StoreKey};
use store_embedded::{EmbeddedStore, OpenError, Options};

fn open(directory: &Path) -> Arc<EmbeddedStore> {
    EmbeddedStore::open(directory, Options::default()).unwrap()
}

fn put(value: impl Into<bytes::Bytes>) -> Change {
    Change::Put { value: value.into(), expires_after: None }
}

async fn create(store: &EmbeddedStore, key: &str, value: &str) -> Revision {
    store.write(&StoreKey::new(key), Expect::Absent, put(value.to_owned())).await.unwrap()
}

fn refusal(directory: &Path) -> String {
    match EmbeddedStore::open(directory, Options::default()) {
        Ok(_) => panic!("the store opened"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn values_and_revisions_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let kept = create(&store, "/registry/configmaps/default/kept", "one").await;
    let gone = create(&store, "/registry/configmaps/default/gone", "two").await;
    let key = StoreKey::new("/registry/configmaps/default/gone");
    let deleted = store.write(&key, Expect::AtRevision(gone), Change::Delete).await.unwrap();
    store.close().await;
    let closed = store.get(&key, ReadAt::Latest).await;
    assert!(matches!(closed, Err(StoreError::Closed)), "{closed:?}");
    let closed = store.write(&key, Expect::Absent, put("x")).await;
    assert!(matches!(closed, Err(StoreError::Closed)), "{closed:?}");

    let store = open(directory.path());
    assert_eq!(store.current().await.unwrap(), deleted, "the last write was a delete");
    let listing = store.list(&KeyRange::prefix(""), ReadAt::Latest, Page::default()).await.unwrap();
    assert_eq!(listing.items.len(), 1);
    assert_eq!((listing.items[0].1.revision, &listing.items[0].1.value[..]), (kept, &b"one"[..]));
    let past = store.watch(KeyRange::prefix(""), kept).next().await;
    assert!(matches!(past, Some(Err(StoreError::Compacted { .. }))), "history is not kept: {past:?}");
    let mut watch = store.watch(KeyRange::prefix(""), deleted);
    let next = create(&store, "/registry/configmaps/default/gone", "three").await;
    assert!(next > deleted);
    while !matches!(watch.next().await, Some(Ok(StoreEvent::Put { new, .. })) if new.revision == next) {}
}

#[tokio::test]
async fn lifetimes_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let lifetime = |millis| Change::Put { value: "x".into(), expires_after: Some(Duration::from_millis(millis)) };
    let store = open(directory.path());
    let (short, long) = (StoreKey::new("/registry/events/default/short"), StoreKey::new("/registry/events/default/long"));
    let first = store.write(&short, Expect::Absent, lifetime(200)).await.unwrap();
    store.write(&long, Expect::Absent, lifetime(3_600_000)).await.unwrap();
    store.close().await;
    let store = open(directory.path());
    let mut watch = store.watch(KeyRange::prefix("/registry/events/"), store.current().await.unwrap());
    // It may have ended before this watch began.
    while store.get(&short, ReadAt::Latest).await.unwrap().is_some() {
        watch.next().await.unwrap().unwrap();
    }
    assert!(store.current().await.unwrap() > first);
    assert!(store.get(&long, ReadAt::Latest).await.unwrap().is_some());
}

#[tokio::test]
async fn a_second_server_on_the_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let sentence = refusal(directory.path());
    assert!(sentence.contains("in use by another server"), "{sentence}");
    assert!(sentence.contains(&format!("process {}", std::process::id())), "{sentence}");
    drop(store);
    open(directory.path());
}

#[tokio::test]
async fn a_garbled_log_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    create(&store, "/registry/configmaps/default/a", "x").await;
    store.close().await;
    let log = directory.path().join("log.redb");
    let good = std::fs::read(&log).unwrap();
    std::fs::write(&log, b"this is not a log").unwrap();
    assert!(refusal(directory.path()).contains("damaged"), "{}", refusal(directory.path()));
    std::fs::write(&log, vec![0; good.len()]).unwrap();
    assert!(refusal(directory.path()).contains("damaged"), "{}", refusal(directory.path()));
    std::fs::remove_file(&log).unwrap();
    assert!(refusal(directory.path()).contains("no log"), "{}", refusal(directory.path()));
    std::fs::write(&log, good).unwrap();
    open(directory.path());
}

#[tokio::test]
async fn lost_or_open_keys_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path()).close().await;
    let keys = directory.path().join("encryption-keys");
    assert_eq!(std::fs::metadata(&keys).unwrap().mode() & 0o777, 0o600);
    let elsewhere = directory.path().join("elsewhere");
    std::fs::rename(&keys, &elsewhere).unwrap();
    let refused = EmbeddedStore::open(directory.path(), Options::default());
    assert!(matches!(refused, Err(OpenError::KeysMissing { .. })));
    assert!(!keys.exists(), "no new key takes the lost one's place");
    std::fs::rename(&elsewhere, &keys).unwrap();
    open(directory.path());
}

/// Every file below a directory.
fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

#[tokio::test]
async fn no_form_of_a_secret_lies_in_any_file() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let plain = "tr0ub4dor\"&3\n";
    let (base64, escaped) = ("dHIwdWI0ZG9yIiYzCg==", "tr0ub4dor\\\"&3\\n");
    for (name, value) in [("plain", plain), ("base64", base64), ("escaped", escaped)] {
        let key = StoreKey::new(format!("/registry/secrets/default/{name}"));
        let created = store.write(&key, Expect::Absent, put(value)).await.unwrap();
        store.write(&key, Expect::AtRevision(created), put(format!("{value}{value}"))).await.unwrap();
    }
    create(&store, "/registry/configmaps/default/public", "everybody may read this").await;
    let contains = |needle: &str| {
        let holds = |path: &std::path::PathBuf| {
            std::fs::read(path).unwrap().windows(needle.len()).any(|window| window == needle.as_bytes())
        };
        files(directory.path()).iter().any(holds)
    };
    for closed in [false, true] {
        if closed {
            store.close().await;
        }
        assert!(contains("everybody may read this"), "the search finds what is there");
        for needle in ["tr0ub4dor", "dHIwdWI0ZG9y", plain, base64, escaped] {
            assert!(!contains(needle), "{needle} is in a file");
        }
    }
    let store = open(directory.path());
    let read = store.get(&StoreKey::new("/registry/secrets/default/plain"), ReadAt::Latest).await.unwrap().unwrap();
    assert_eq!(&read.value[..], format!("{plain}{plain}").as_bytes());
    assert!(!read.stale_encryption);
}

#[tokio::test]
async fn values_under_an_old_key_are_marked_until_they_are_written_again() {
    let directory = tempfile::tempdir().unwrap();
    let key = StoreKey::new("/registry/secrets/default/old");
    let store = open(directory.path());
    create(&store, key.as_str(), "x").await;
    store.close().await;
    key_file::add_key(&directory.path().join("encryption-keys")).unwrap();
    let store = open(directory.path());
    let old = store.get(&key, ReadAt::Latest).await.unwrap().unwrap();
    assert!(old.stale_encryption);
    store.write(&key, Expect::AtRevision(old.revision), put(old.value)).await.unwrap();
    store.close().await;
    let store = open(directory.path());
    assert!(!store.get(&key, ReadAt::Latest).await.unwrap().unwrap().stale_encryption);
}

/// A small file system of its own, gone with the value. None without the right to mount.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(megabytes: u32) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(format!("size={megabytes}m")).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", directory.path(), "tmpfs", flags, Some(options.as_c_str())).ok()?;
        Some(Self(directory))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

#[tokio::test]
async fn a_disk_filled_by_others_stops_writes_until_there_is_room() {
    for reserve_bytes in [0, 4 * 1024 * 1024] {
        let Some(disk) = SmallDisk::new(24) else {
            eprintln!("not run: mounting a small tmpfs needs root");
            return;
        };
        let options = Options { reserve_bytes, ..Options::default() };
        let store = EmbeddedStore::open(&disk.0.path().join("store"), options.clone()).unwrap();
        let value = "v".repeat(64 * 1024);
        let mut acknowledged = Vec::new();
        for number in 0..20 {
            let key = format!("/registry/configmaps/default/{number:03}");
            acknowledged.push(create(&store, &key, &value).await);
        }
        let filler = disk.0.path().join("filler");
        let mut file = std::fs::File::create(&filler).unwrap();
        while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
        drop(file);

        let mut refused = 0;
        for number in 20..200 {
            let key = StoreKey::new(format!("/registry/configmaps/default/{number:03}"));
            match store.write(&key, Expect::Absent, put(value.clone())).await {
                // redb may have some room left within its file.
                Ok(revision) => acknowledged.push(revision),
                Err(StoreError::NoSpace { .. }) => refused += 1,
                Err(other) => panic!("{other}"),
            }
            if refused == 3 {
                break;
            }
        }
        assert_eq!(refused, 3, "with reserve {reserve_bytes}");
        let listed = store.list(&KeyRange::prefix(""), ReadAt::Latest, Page::default()).await.unwrap();
        assert_eq!(listed.items.iter().map(|(_, value)| value.revision).collect::<Vec<_>>(), acknowledged);

        std::fs::remove_file(&filler).unwrap();
        acknowledged.push(create(&store, "/registry/configmaps/default/999", &value).await);
        store.close().await;
        let store = EmbeddedStore::open(&disk.0.path().join("store"), options).unwrap();
        let listed = store.list(&KeyRange::prefix(""), ReadAt::Latest, Page::default()).await.unwrap();
        assert_eq!(listed.items.iter().map(|(_, value)| value.revision).collect::<Vec<_>>(), acknowledged);
        drop(store);
    }
}
