//! What every store must do, as tests that any filling can run: `store::contract::run(async || Arc::new(MyStore::new()))`.
//!
//! Each check gets a fresh, empty store. A failure panics with the check's sentence.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;

use crate::{
    Change, Expect, KeyRange, Listing, Page, ReadAt, Revision, Store, StoreError, StoreEvent, StoreKey, StoredValue,
};

/// How long anything may take before a check counts as hung; generous, for slow machines.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs every check, each on a store of its own. Needs a tokio runtime.
///
/// # Panics
/// When the store breaks the contract.
pub async fn run<MakeStore, Filling, Making>(make_store: MakeStore)
where
    MakeStore: Fn() -> Making,
    Making: Future<Output = Arc<Filling>>,
    Filling: Store,
{
    for (sentence, check) in CHECKS {
        let store: Arc<dyn Store> = make_store().await;
        let checking = tokio::spawn(tokio::time::timeout(PATIENCE, check(store)));
        match checking.await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => panic!("contract: {sentence}: hung for {PATIENCE:?}"),
            Err(failure) => panic!("contract: {sentence}: {failure}"),
        }
    }
}

type Check = fn(Arc<dyn Store>) -> BoxFuture<'static, ()>;

macro_rules! checks {
    ($($name:ident),* $(,)?) => {
        &[$((stringify!($name), (|store| Box::pin($name(store))) as Check)),*]
    };
}

const CHECKS: &[(&str, Check)] = checks![
    an_empty_store_is_at_revision_zero,
    a_value_comes_back_byte_for_byte,
    a_write_happens_only_when_what_it_expects_holds,
    a_conflict_carries_what_is_current,
    every_write_has_a_larger_revision_also_deletes,
    a_listing_is_in_key_order_and_within_its_prefix,
    pages_of_one_revision_fit_together_under_writes,
    the_past_is_readable_until_it_is_compacted,
    the_future_is_not_readable,
    a_watch_starts_strictly_after_its_revision,
    a_watch_sees_old_and_new_values,
    a_watch_of_a_prefix_sees_only_that_prefix,
    a_watch_reports_progress_when_it_has_caught_up,
    an_acknowledged_write_is_in_the_watch_without_waiting,
    a_watch_before_the_compacted_revision_ends_so,
    compaction_keeps_what_is_current,
    a_lifetime_ends_with_an_ordinary_delete,
    a_new_value_ends_the_old_lifetime,
    concurrent_writers_get_unique_revisions,
    one_of_many_concurrent_creates_wins,
    a_watch_across_concurrent_writes_skips_nothing,
    a_dropped_write_leaves_nothing_half_done,
];

fn key(name: &str) -> StoreKey {
    StoreKey::new(format!("/registry/{name}"))
}

fn put(value: impl Into<Bytes>) -> Change {
    Change::Put { value: value.into(), expires_after: None }
}

async fn create(store: &dyn Store, name: &str, value: &'static str) -> Revision {
    store.write(&key(name), Expect::Absent, put(value)).await.expect("a create of an absent key succeeds")
}

async fn delete(store: &dyn Store, name: &str, at: Revision) -> Revision {
    store.write(&key(name), Expect::AtRevision(at), Change::Delete).await.expect("a delete at the right revision succeeds")
}

async fn list(store: &dyn Store, prefix: &str, at: ReadAt) -> Listing {
    store.list(&KeyRange::prefix(prefix), at, Page::default()).await.expect("a listing succeeds")
}

fn names(listing: &Listing) -> Vec<String> {
    listing.items.iter().map(|(key, _)| key.as_str().trim_start_matches("/registry/").to_owned()).collect()
}

/// The next event that is not `Progress`.
async fn next_event(
    watch: &mut (impl futures::Stream<Item = Result<StoreEvent, StoreError>> + Unpin),
) -> Result<StoreEvent, StoreError> {
    loop {
        match watch.next().await.expect("the watch goes on") {
            Ok(StoreEvent::Progress(_)) => {}
            other => return other,
        }
    }
}

fn revision_of(event: &StoreEvent) -> Revision {
    match event {
        StoreEvent::Put { new, .. } => new.revision,
        StoreEvent::Delete { revision, .. } | StoreEvent::Progress(revision) => *revision,
    }
}

async fn an_empty_store_is_at_revision_zero(store: Arc<dyn Store>) {
    assert_eq!(store.current().await.unwrap(), Revision(0));
    assert_eq!(store.get(&key("a"), ReadAt::Latest).await.unwrap(), None);
    let listing = list(&*store, "", ReadAt::Latest).await;
    assert!(listing.items.is_empty() && !listing.more && listing.revision == Revision(0));
    assert!(list(&*store, "", ReadAt::Revision(Revision(0))).await.items.is_empty());
    store.size_bytes().await.unwrap();
}

async fn a_value_comes_back_byte_for_byte(store: Arc<dyn Store>) {
    let every_byte: Vec<u8> = (0..=255).collect();
    let big = vec![7_u8; 3 * 1024 * 1024];
    for (name, value) in [("bytes", every_byte), ("empty", Vec::new()), ("big", big)] {
        let value = Bytes::from(value);
        let revision = store.write(&key(name), Expect::Absent, put(value.clone())).await.unwrap();
        let read = store.get(&key(name), ReadAt::Latest).await.unwrap().expect("what was written is there");
        assert_eq!(read, StoredValue { value, revision, stale_encryption: false });
    }
}

async fn a_write_happens_only_when_what_it_expects_holds(store: Arc<dyn Store>) {
    let first = create(&*store, "a", "one").await;
    for (name, expect, change) in [
        ("a", Expect::Absent, put("two")),
        ("a", Expect::AtRevision(Revision(first.0 + 1)), put("two")),
        ("a", Expect::AtRevision(Revision(0)), Change::Delete),
        ("absent", Expect::AtRevision(first), put("two")),
        ("absent", Expect::AtRevision(first), Change::Delete),
    ] {
        let refused = store.write(&key(name), expect, change).await;
        assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{name} {expect:?}: {refused:?}");
    }
    assert_eq!(store.current().await.unwrap(), first, "a refused write takes no revision");
    let second = store.write(&key("a"), Expect::AtRevision(first), put("two")).await.unwrap();
    let third = delete(&*store, "a", second).await;
    assert_eq!(store.get(&key("a"), ReadAt::Latest).await.unwrap(), None);
    assert!(create(&*store, "a", "again").await > third);
}

async fn a_conflict_carries_what_is_current(store: Arc<dyn Store>) {
    let revision = create(&*store, "a", "one").await;
    match store.write(&key("a"), Expect::Absent, put("two")).await {
        Err(StoreError::Conflict { current: Some(current) }) => {
            assert_eq!(current, StoredValue { value: "one".into(), revision, stale_encryption: false });
        }
        other => panic!("expected a conflict with the current value, got {other:?}"),
    }
    let absent = store.write(&key("b"), Expect::AtRevision(revision), put("two")).await;
    assert!(matches!(absent, Err(StoreError::Conflict { current: None })), "{absent:?}");
}

async fn every_write_has_a_larger_revision_also_deletes(store: Arc<dyn Store>) {
    let mut last = Revision(0);
    for round in 0..10 {
        let created = create(&*store, "a", "x").await;
        assert!(created > last, "round {round}");
        assert_eq!(store.current().await.unwrap(), created);
        last = delete(&*store, "a", created).await;
        assert!(last > created, "round {round}");
        assert_eq!(store.current().await.unwrap(), last);
    }
}

async fn a_listing_is_in_key_order_and_within_its_prefix(store: Arc<dyn Store>) {
    for name in ["pods/b/1", "pods/a/2", "podsets/a", "pods/a/10", "nodes/a", "pods/a-b/1", "pods/aa/1"] {
        create(&*store, name, "x").await;
    }
    let in_order = ["pods/a-b/1", "pods/a/10", "pods/a/2", "pods/aa/1", "pods/b/1"];
    assert_eq!(names(&list(&*store, "/registry/pods/", ReadAt::Latest).await), in_order);
    assert_eq!(names(&list(&*store, "/registry/pods/a/", ReadAt::Latest).await), ["pods/a/10", "pods/a/2"]);
    assert!(list(&*store, "/registry/none/", ReadAt::Latest).await.items.is_empty());
    let everything = list(&*store, "", ReadAt::Latest).await;
    assert_eq!((everything.items.len(), everything.revision), (7, store.current().await.unwrap()));
}

async fn pages_of_one_revision_fit_together_under_writes(store: Arc<dyn Store>) {
    let mut first = Revision(0);
    for number in 0..10 {
        let revision = store.write(&key(&format!("p/{number}")), Expect::Absent, put("old")).await.unwrap();
        if number == 0 {
            first = revision;
        }
    }
    let range = KeyRange::prefix("/registry/p/");
    let mut page = Page { after: None, limit: Some(3) };
    let mut at = ReadAt::Latest;
    let mut seen = Vec::new();
    loop {
        let listing = store.list(&range, at, page.clone()).await.unwrap();
        if let ReadAt::Revision(revision) = at {
            assert_eq!(listing.revision, revision);
        } else {
            // Between the pages one key changes, one goes and one comes: none of it may show.
            store.write(&key("p/5"), Expect::AtRevision(Revision(first.0 + 5)), put("new")).await.unwrap();
            delete(&*store, "p/7", Revision(first.0 + 7)).await;
            create(&*store, "p/55", "new").await;
        }
        at = ReadAt::Revision(listing.revision);
        assert!(listing.items.iter().all(|(_, value)| value.value == "old"));
        assert!(listing.items.len() <= 3);
        seen.extend(names(&listing));
        page.after = listing.items.last().map(|(key, _)| key.clone());
        if !listing.more {
            break;
        }
    }
    assert_eq!(seen, (0..10).map(|number| format!("p/{number}")).collect::<Vec<_>>());
    let exact = store.list(&range, ReadAt::Latest, Page { after: None, limit: Some(10) }).await.unwrap();
    assert!(!exact.more, "a page that ends with the last key has nothing after it");
}

async fn the_past_is_readable_until_it_is_compacted(store: Arc<dyn Store>) {
    let one = create(&*store, "a", "one").await;
    let two = store.write(&key("a"), Expect::AtRevision(one), put("two")).await.unwrap();
    let gone = delete(&*store, "a", two).await;
    let again = create(&*store, "a", "again").await;
    for (revision, value) in [(one, Some("one")), (two, Some("two")), (gone, None), (again, Some("again"))] {
        let read = store.get(&key("a"), ReadAt::Revision(revision)).await.unwrap();
        assert_eq!(read.map(|read| read.value), value.map(Bytes::from), "at {revision}");
        let listed = list(&*store, "", ReadAt::Revision(revision)).await;
        assert_eq!(listed.items.first().map(|(_, value)| value.value.clone()), value.map(Bytes::from), "at {revision}");
    }
    store.compact(gone).await.unwrap();
    let read = store.get(&key("a"), ReadAt::Revision(two)).await;
    assert!(matches!(read, Err(StoreError::Compacted { requested, oldest }) if requested == two && oldest == gone));
    let listed = store.list(&KeyRange::prefix(""), ReadAt::Revision(one), Page::default()).await;
    assert!(matches!(listed, Err(StoreError::Compacted { .. })), "{listed:?}");
    assert_eq!(store.get(&key("a"), ReadAt::Revision(gone)).await.unwrap(), None);
}

async fn the_future_is_not_readable(store: Arc<dyn Store>) {
    let newest = create(&*store, "a", "one").await;
    let future = ReadAt::Revision(Revision(newest.0 + 1));
    assert!(matches!(store.get(&key("a"), future).await, Err(StoreError::Future { .. })));
    let listed = store.list(&KeyRange::prefix(""), future, Page::default()).await;
    assert!(matches!(listed, Err(StoreError::Future { newest: reported, .. }) if reported == newest));
    let mut watch = store.watch(KeyRange::prefix(""), Revision(newest.0 + 1));
    assert!(matches!(next_event(&mut watch).await, Err(StoreError::Future { .. })));
    assert!(watch.next().await.is_none(), "an error ends the watch");
}

async fn a_watch_starts_strictly_after_its_revision(store: Arc<dyn Store>) {
    let mut revisions = Vec::new();
    for name in ["a", "b", "c"] {
        revisions.push(create(&*store, name, "x").await);
    }
    for (start, revision) in revisions.iter().enumerate() {
        let mut watch = store.watch(KeyRange::prefix(""), *revision);
        let live = create(&*store, &format!("live{start}"), "x").await;
        for expected in revisions.iter().skip(start + 1) {
            assert_eq!(revision_of(&next_event(&mut watch).await.unwrap()), *expected);
        }
        // Events of earlier rounds lie between.
        while revision_of(&next_event(&mut watch).await.unwrap()) != live {}
    }
}

async fn a_watch_sees_old_and_new_values(store: Arc<dyn Store>) {
    let mut watch = store.watch(KeyRange::prefix(""), Revision(0));
    let one = create(&*store, "a", "one").await;
    let two = store.write(&key("a"), Expect::AtRevision(one), put("two")).await.unwrap();
    let gone = delete(&*store, "a", two).await;
    let stored = |value: &'static str, revision| StoredValue { value: value.into(), revision, stale_encryption: false };
    let expected = [
        StoreEvent::Put { key: key("a"), new: stored("one", one), old: None },
        StoreEvent::Put { key: key("a"), new: stored("two", two), old: Some(stored("one", one)) },
        StoreEvent::Delete { key: key("a"), old: stored("two", two), revision: gone },
    ];
    for event in expected {
        assert_eq!(next_event(&mut watch).await.unwrap(), event);
    }
}

async fn a_watch_of_a_prefix_sees_only_that_prefix(store: Arc<dyn Store>) {
    let mut watch = store.watch(KeyRange::prefix("/registry/pods/"), Revision(0));
    for name in ["nodes/a", "pods/a", "podsets/a", "pods/b"] {
        create(&*store, name, "x").await;
    }
    for expected in ["pods/a", "pods/b"] {
        match next_event(&mut watch).await.unwrap() {
            StoreEvent::Put { key: seen, .. } => assert_eq!(seen, key(expected)),
            other => panic!("expected a put of {expected}, got {other:?}"),
        }
    }
}

async fn a_watch_reports_progress_when_it_has_caught_up(store: Arc<dyn Store>) {
    let mut watch = store.watch(KeyRange::prefix("/registry/pods/"), Revision(0));
    let pod = create(&*store, "pods/a", "x").await;
    let elsewhere = create(&*store, "nodes/a", "x").await;
    let mut saw_pod = false;
    loop {
        match watch.next().await.expect("the watch goes on").unwrap() {
            StoreEvent::Progress(revision) => {
                assert!(saw_pod || revision < pod, "progress never runs ahead of events");
                if revision == elsewhere {
                    break;
                }
            }
            event => {
                assert_eq!(revision_of(&event), pod);
                saw_pod = true;
            }
        }
    }
}

async fn an_acknowledged_write_is_in_the_watch_without_waiting(store: Arc<dyn Store>) {
    let mut watch = store.watch(KeyRange::prefix(""), Revision(0));
    for number in 0..50 {
        let revision = store.write(&key(&format!("a/{number}")), Expect::Absent, put("x")).await.unwrap();
        // A store across a network needs a moment, so the contract only asks for "soon"; local stores promise "now".
        loop {
            let event = next_event(&mut watch).await.unwrap();
            if revision_of(&event) == revision {
                break;
            }
        }
    }
}

async fn a_watch_before_the_compacted_revision_ends_so(store: Arc<dyn Store>) {
    for name in ["a", "b", "c", "d"] {
        create(&*store, name, "x").await;
    }
    let current = store.current().await.unwrap();
    let oldest = Revision(current.0 - 1);
    store.compact(oldest).await.unwrap();
    let mut watch = store.watch(KeyRange::prefix(""), Revision(1));
    assert!(matches!(next_event(&mut watch).await, Err(StoreError::Compacted { oldest: reported, .. }) if reported == oldest));
    assert!(watch.next().await.is_none(), "an error ends the watch");
    let mut watch = store.watch(KeyRange::prefix(""), oldest);
    assert_eq!(revision_of(&next_event(&mut watch).await.unwrap()), current);
}

async fn compaction_keeps_what_is_current(store: Arc<dyn Store>) {
    let revision = create(&*store, "a", "one").await;
    let newest = create(&*store, "b", "one").await;
    let mut caught_up = store.watch(KeyRange::prefix(""), newest);
    // Beyond the newest means everything that is past.
    store.compact(Revision(newest.0 + 100)).await.unwrap();
    assert_eq!(store.current().await.unwrap(), newest);
    let read = store.get(&key("a"), ReadAt::Latest).await.unwrap().expect("current values stay");
    assert_eq!((read.value, read.revision), (Bytes::from("one"), revision));
    assert_eq!(list(&*store, "", ReadAt::Revision(newest)).await.items.len(), 2);
    let next = create(&*store, "c", "one").await;
    assert!(next > newest);
    assert_eq!(revision_of(&next_event(&mut caught_up).await.unwrap()), next, "a watch that saw everything goes on");
    store.compact(Revision(1)).await.unwrap();
    let past = store.get(&key("a"), ReadAt::Revision(Revision(1))).await;
    assert!(matches!(past, Err(StoreError::Compacted { .. })), "compaction never runs backwards: {past:?}");
}

async fn a_lifetime_ends_with_an_ordinary_delete(store: Arc<dyn Store>) {
    let mut watch = store.watch(KeyRange::prefix(""), Revision(0));
    let lifetime = Duration::from_millis(300);
    let begun = std::time::Instant::now();
    let change = Change::Put { value: "x".into(), expires_after: Some(lifetime) };
    let revision = store.write(&key("event"), Expect::Absent, change).await.unwrap();
    create(&*store, "other", "x").await;
    let mut deletion = None;
    while deletion.is_none() {
        if let StoreEvent::Delete { key: deleted, old, revision } = next_event(&mut watch).await.unwrap() {
            assert_eq!((deleted, old.value), (key("event"), Bytes::from("x")));
            deletion = Some(revision);
        }
    }
    // Wall clocks are read in whole milliseconds.
    assert!(begun.elapsed() + Duration::from_millis(2) >= lifetime, "not before its time: {:?}", begun.elapsed());
    assert!(deletion > Some(revision));
    assert_eq!(store.get(&key("event"), ReadAt::Latest).await.unwrap(), None);
    assert!(store.get(&key("other"), ReadAt::Latest).await.unwrap().is_some());
}

async fn a_new_value_ends_the_old_lifetime(store: Arc<dyn Store>) {
    let soon = |millis| Change::Put { value: "x".into(), expires_after: Some(Duration::from_millis(millis)) };
    let kept = store.write(&key("kept"), Expect::Absent, soon(50)).await.unwrap();
    let replaced = store.write(&key("replaced"), Expect::Absent, soon(50)).await.unwrap();
    let marker = store.write(&key("marker"), Expect::Absent, soon(400)).await.unwrap();
    // On a slow machine the lifetimes may be over already; then there is nothing to replace.
    let for_ever = store.write(&key("kept"), Expect::AtRevision(kept), put("y")).await;
    let longer = store.write(&key("replaced"), Expect::AtRevision(replaced), soon(60_000)).await;
    let mut watch = store.watch(KeyRange::prefix("/registry/marker"), marker);
    assert!(matches!(next_event(&mut watch).await.unwrap(), StoreEvent::Delete { .. }));
    assert_eq!(store.get(&key("kept"), ReadAt::Latest).await.unwrap().is_some(), for_ever.is_ok());
    assert_eq!(store.get(&key("replaced"), ReadAt::Latest).await.unwrap().is_some(), longer.is_ok());
}

/// Starts so many tasks that each create so many keys of their own, and returns the tasks.
fn start_writers(store: &Arc<dyn Store>, writers: u64, each: u64) -> Vec<tokio::task::JoinHandle<Vec<Revision>>> {
    let writer = |writer: u64| {
        let store = Arc::clone(store);
        async move {
            let mut revisions = Vec::new();
            for number in 0..each {
                let name = key(&format!("w/{writer}/{number}"));
                revisions.push(store.write(&name, Expect::Absent, put("x")).await.expect("a create succeeds"));
            }
            revisions
        }
    };
    (0..writers).map(|number| tokio::spawn(writer(number))).collect()
}

async fn concurrent_writers_get_unique_revisions(store: Arc<dyn Store>) {
    let mut all = Vec::new();
    for writer in start_writers(&store, 8, 50) {
        let revisions = writer.await.unwrap();
        assert!(revisions.is_sorted(), "one writer's revisions increase");
        all.extend(revisions);
    }
    all.sort();
    let count = all.len();
    all.dedup();
    assert_eq!((count, all.len()), (400, 400));
    assert_eq!(all.last().copied(), Some(store.current().await.unwrap()));
    assert_eq!(list(&*store, "/registry/w/", ReadAt::Latest).await.items.len(), 400);
}

async fn one_of_many_concurrent_creates_wins(store: Arc<dyn Store>) {
    for round in 0..20 {
        let attempts: Vec<_> = (0..8_u8)
            .map(|attempt| {
                let store = Arc::clone(&store);
                let name = key(&format!("contended/{round}"));
                tokio::spawn(async move { store.write(&name, Expect::Absent, put(vec![attempt])).await })
            })
            .collect();
        let mut won = Vec::new();
        let mut seen_by_losers = Vec::new();
        for (attempt, outcome) in attempts.into_iter().enumerate() {
            match outcome.await.unwrap() {
                Ok(revision) => won.push((attempt as u8, revision)),
                Err(StoreError::Conflict { current: Some(current) }) => seen_by_losers.push(current),
                other => panic!("expected success or a conflict, got {other:?}"),
            }
        }
        let [(winner, revision)] = won[..] else { panic!("exactly one create wins, not {won:?}") };
        for current in seen_by_losers {
            assert_eq!((current.value, current.revision), (Bytes::from(vec![winner]), revision));
        }
    }
}

async fn a_watch_across_concurrent_writes_skips_nothing(store: Arc<dyn Store>) {
    let mut early = store.watch(KeyRange::prefix(""), Revision(0));
    let writers = start_writers(&store, 8, 50);
    let mut late = store.watch(KeyRange::prefix(""), Revision(0));
    let mut seen = [Vec::new(), Vec::new()];
    for _ in 0..400 {
        seen[0].push(revision_of(&next_event(&mut early).await.unwrap()));
        seen[1].push(revision_of(&next_event(&mut late).await.unwrap()));
    }
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    acknowledged.sort();
    assert_eq!(seen[0], acknowledged);
    assert_eq!(seen[1], acknowledged);
}

async fn a_dropped_write_leaves_nothing_half_done(store: Arc<dyn Store>) {
    for number in 0..50 {
        let name = key(&format!("dropped/{number}"));
        // The caller goes away in the middle; the write may or may not happen.
        let _ = futures::poll!(std::pin::pin!(store.write(&name, Expect::Absent, put("x"))));
    }
    let after = create(&*store, "after", "x").await;
    let mut watch = store.watch(KeyRange::prefix(""), Revision(0));
    let mut from_watch = Vec::new();
    loop {
        let event = next_event(&mut watch).await.unwrap();
        let StoreEvent::Put { key, new, .. } = event else { panic!("nothing was deleted: {event:?}") };
        let last = new.revision == after;
        from_watch.push((key, new));
        if last {
            break;
        }
    }
    from_watch.sort_by(|(left, _), (right, _)| left.cmp(right));
    assert_eq!(list(&*store, "", ReadAt::Revision(after)).await.items, from_watch);
}
