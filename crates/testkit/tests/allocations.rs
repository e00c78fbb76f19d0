//! What reads cost, counted and not timed: objects decoded, renderings made, allocations.
//!
//! A program of its own with a single test: the counters are the process's. `cargo xtask bench` runs it and shows what it prints.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use apiserver::view::stored;
use serde_json::{Map, Value, json};
use testkit::{ApiHarness, Caller, Watch};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are those that are asked for.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Objects there are.
const OBJECTS: u64 = 1000;
/// Watchers of each form.
const WATCHERS: usize = 20;
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// Every form but plain JSON.
const FORMS: [&str; 4] = [
    PROTOBUF,
    "application/json;as=Table;g=meta.k8s.io;v=v1",
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
    "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cost {
    decoded: u64,
    rendered: u64,
    allocations: u64,
}

impl Cost {
    fn value(self) -> Value {
        json!({"decoded": self.decoded, "rendered": self.rendered, "allocations": self.allocations})
    }
}

struct Bench {
    harness: ApiHarness,
    caller: Caller,
    costs: Map<String, Value>,
}

impl Bench {
    fn now(&self) -> Cost {
        Cost { decoded: stored::decoded(), rendered: self.harness.server().core().renderings.made(), allocations: ALLOCATIONS.load(Ordering::Relaxed) }
    }

    async fn cost_of(&mut self, what: &str, work: impl AsyncFnOnce(&Caller)) -> Cost {
        let before = self.now();
        work(&self.caller).await;
        let after = self.now();
        let cost = Cost {
            decoded: after.decoded - before.decoded,
            rendered: after.rendered - before.rendered,
            allocations: after.allocations - before.allocations,
        };
        self.costs.insert(what.to_owned(), cost.value());
        cost
    }

    /// A read, once to warm up and once to be counted.
    async fn read(&mut self, what: &str, path: &str, accept: &str) -> Cost {
        let read = async |caller: &Caller| assert_eq!(caller.send("GET", path, &[("accept", accept)], "").await.status, 200);
        read(&self.caller.clone()).await;
        self.cost_of(what, read).await
    }
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": "counted"}}, "data": {"key": "x".repeat(1024)}})
}

/// An object appears, changes and goes.
async fn three_writes(caller: &Caller, name: &str) {
    assert_eq!(caller.post(MAPS, &map(name)).await.status, 201);
    let path = format!("{MAPS}/{name}");
    assert_eq!(caller.patch(&path, "merge-patch", &json!({"data": {"more": "of it"}})).await.status, 200);
    assert_eq!(caller.delete(&path).await.status, 200);
}

async fn take_three(watch: &mut Watch, accept: &str) {
    for _ in 0..3 {
        let is_there = if accept.starts_with(PROTOBUF) { watch.next_protobuf().await.is_some() } else { watch.next().await.is_some() };
        assert!(is_there, "the watch goes on");
    }
}

#[tokio::test]
async fn plain_reads_decode_nothing_and_other_renderings_are_made_once() {
    let now = jiff::Timestamp::now();
    // Ages stand still, as they do for all who ask within a second.
    let harness = ApiHarness::start_with(|parts| parts.clock = Arc::new(move || now)).await;
    let caller = harness.administrator();
    for number in 0..OBJECTS {
        assert_eq!(caller.post(MAPS, &map(&format!("m{number:04}"))).await.status, 201);
    }
    let mut bench = Bench { harness, caller, costs: Map::new() };
    let one = format!("{MAPS}/m0001");

    let selected = format!("{MAPS}?labelSelector=app%3Dcounted&fieldSelector=metadata.name!%3Dm0001");
    for (what, path) in [("GET", one.as_str()), ("LIST", MAPS), ("LIST with selectors", &selected)] {
        let cost = bench.read(what, path, "application/json").await;
        assert_eq!((cost.decoded, cost.rendered), (0, 0), "{what} in JSON");
    }
    let whole = bench.read("LIST again", MAPS, "application/json").await;
    let half = bench.read("LIST of half of them", &format!("{MAPS}?limit=500"), "application/json").await;
    assert!(whole.allocations < half.allocations + 50, "allocations grow with the objects of a list: {whole:?}, of half {half:?}");

    for form in FORMS {
        let list = async |caller: &Caller| assert_eq!(caller.send("GET", MAPS, &[("accept", form)], "").await.status, 200);
        let first = bench.cost_of(&format!("first LIST as {form}"), list).await;
        assert_eq!((first.decoded, first.rendered), (OBJECTS, OBJECTS), "first LIST as {form}");
        let second = bench.cost_of(&format!("second LIST as {form}"), list).await;
        assert_eq!((second.decoded, second.rendered), (0, 0), "second LIST as {form}");
        let cost = bench.read(&format!("GET as {form}"), &one, form).await;
        assert_eq!((cost.decoded, cost.rendered), (0, 0), "GET as {form} of what was listed");
    }

    let unwatched = bench.cost_of("three writes that nobody watches", async |caller| three_writes(caller, "unwatched").await).await;
    assert_eq!(unwatched.rendered, 0);
    for form in ["application/json"].into_iter().chain(FORMS) {
        let revision = bench.caller.get(&format!("{MAPS}?limit=1")).await.json()["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        let mut watches = Vec::new();
        for _ in 0..WATCHERS {
            watches.push(bench.caller.watch_as(&format!("{MAPS}?watch=true&resourceVersion={revision}"), form).await);
        }
        let cost = bench
            .cost_of(&format!("three writes under {WATCHERS} watchers as {form}"), async |caller| {
                three_writes(caller, "watched").await;
                for watch in &mut watches {
                    take_three(watch, form).await;
                }
            })
            .await;
        let renderings = if form == "application/json" { 0 } else { 3 };
        assert_eq!((cost.decoded, cost.rendered), (unwatched.decoded + renderings, renderings), "watchers as {form}");
    }
    println!("{}", Value::Object(bench.costs));
}
