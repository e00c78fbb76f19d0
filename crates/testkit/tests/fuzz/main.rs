//! Requests that nobody would send on purpose, many of them: objects that were valid before something in them was changed, patches of
//! all four kinds, selectors and other queries, and bodies that are no text at all, in JSON, YAML and protobuf.
//!
//! However wrong a request is, the server answers it: no panic (which it answers with 500), no hang (which [`testkit`] gives up on),
//! no error of its own; and what it stores it would take again. Every request follows from the seed and the worker's number, each with a
//! server of its own, so that a failure can be had again:
//!
//! ```text
//! KNARR_FUZZ_SEED=7 KNARR_FUZZ_REQUESTS=1000000 cargo test -p testkit --test fuzz     other requests, or more of them
//! ```
//!
//! Requests that once were answered wrongly stay in `corpus/`, a file each, and are sent first.

mod mutation;
mod requests;

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use rand::{SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use testkit::{ApiHarness, api_harness::{Answer, Caller}};

use requests::{Request, Target, targets};

const REQUESTS: usize = 200_000;
/// Servers that are asked at the same time.
const WORKERS: usize = 4;
/// After so many requests a worker begins with a new server, so that it stays small.
const SERVER_LIFE: usize = 10_000;

fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// What is wrong with an answer, nothing where it is one.
fn complaint(request: &Request, answer: &Answer) -> Option<String> {
    // A revision that is not there yet is waited for, and then said to be too large.
    let too_large = answer.status == 504 && answer.text().contains("Too large resource version");
    let unready = answer.status == 503 && request.path.contains("/proxy");
    // What server-side apply cannot type is answered as upstream does: 500, without a reason.
    let untyped = answer.status == 500 && answer.text().contains("failed to create typed patch object");
    if answer.status >= 500 && !too_large && !unready && !untyped {
        return Some(format!("{} {}", answer.status, answer.text()));
    }
    let is_json = answer.header("content-type").starts_with("application/json");
    let is_watch = request.path.contains("watch=");
    if is_json && !is_watch && !answer.body.is_empty() && serde_json::from_slice::<Value>(&answer.body).is_err() {
        return Some(format!("{}: no JSON: {}", answer.status, answer.text()));
    }
    if answer.status >= 400 && is_json {
        let status = answer.json();
        if status["kind"] != "Status" || status["code"] != answer.status || status["status"] != "Failure" {
            return Some(format!("{}: no Status: {status}", answer.status));
        }
    }
    None
}

/// A stored object is taken again as it was read, since it is valid.
async fn stored_is_valid(caller: &Caller, target: &Target, name: &str) -> Option<String> {
    let path = format!("{}/{name}", target.collection);
    let there = caller.get(&path).await;
    if there.status != 200 {
        return None;
    }
    let object = there.json();
    if object["metadata"]["deletionTimestamp"].is_string() {
        return None;
    }
    let again = caller.put(&format!("{path}?dryRun=All"), &object).await;
    (again.status != 200).then(|| format!("what is stored is not taken again: {} {}\n{object}", again.status, again.text()))
}

struct Worker {
    number: usize,
    random: StdRng,
    sent: usize,
    failures: Vec<String>,
    statuses: std::collections::BTreeMap<u16, usize>,
}

impl Worker {
    async fn run(mut self, requests: usize) -> Self {
        while self.sent < requests && self.failures.len() < 20 {
            let harness = ApiHarness::start().await;
            let caller = harness.administrator();
            caller.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}})).await.expect(201);
            let targets = targets(&harness);
            let until = requests.min(self.sent + SERVER_LIFE);
            while self.sent < until && self.failures.len() < 20 {
                self.one(&caller, &targets).await;
            }
            for target in &targets {
                for name in target.names() {
                    if let Some(words) = stored_is_valid(&caller, target, &name).await {
                        self.failures.push(format!("worker {}: {} {name}: {words}", self.number, target.kind));
                    }
                }
            }
        }
        self
    }

    async fn one(&mut self, caller: &Caller, targets: &[Target]) {
        let request = requests::draw(&mut self.random, targets);
        self.sent += 1;
        let began = Instant::now();
        let answer = send(caller, &request).await;
        *self.statuses.entry(answer.status).or_default() += 1;
        if let Some(words) = complaint(&request, &answer) {
            self.failures.push(format!("worker {}, request {}: {request}\n  {words}", self.number, self.sent));
        }
        // In the profile of tests, on a busy machine; a request of this size takes milliseconds.
        if began.elapsed() > Duration::from_secs(8) {
            self.failures.push(format!("worker {}, request {}: {request}\n  took {:?}", self.number, self.sent, began.elapsed()));
        }
        if let (Some(name), true, true) = (&request.writes, matches!(answer.status, 200 | 201), self.sent.is_multiple_of(4)) {
            self.sent += 2;
            if let Some(words) = stored_is_valid(caller, &targets[request.target], name).await {
                self.failures.push(format!("worker {}, request {}: {request}\n  {words}", self.number, self.sent));
            }
        }
    }
}

async fn send(caller: &Caller, request: &Request) -> Answer {
    let headers: Vec<(&str, &str)> = request.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    if request.path.contains("watch=") {
        return caller.first_of(request.method, &request.path, &headers).await;
    }
    caller.send(request.method, &request.path, &headers, request.body.clone()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_request_of_200_000_panics_hangs_fails_or_stores_what_is_not_valid() {
    let (seed, requests) = (number("KNARR_FUZZ_SEED", 1), number("KNARR_FUZZ_REQUESTS", REQUESTS));
    let began = Instant::now();
    let workers = (0..WORKERS).map(|number| {
        let random = StdRng::seed_from_u64((seed * WORKERS + number) as u64);
        let worker = Worker { number, random, sent: 0, failures: Vec::new(), statuses: std::collections::BTreeMap::new() };
        tokio::spawn(worker.run(requests.div_ceil(WORKERS)))
    });
    let mut report = String::new();
    let (mut sent, mut failures) = (0, Vec::new());
    let mut statuses = std::collections::BTreeMap::<u16, usize>::new();
    for worker in futures::future::join_all(workers).await {
        let worker = worker.expect("a worker that ends");
        sent += worker.sent;
        failures.extend(worker.failures);
        for (status, count) in worker.statuses {
            *statuses.entry(status).or_default() += count;
        }
    }
    let _ = write!(report, "seed {seed}: {sent} requests in {:?}, answered {statuses:?}", began.elapsed());
    println!("{report}");
    assert!(failures.is_empty(), "{report}\n{} failures:\n{}", failures.len(), failures.join("\n"));
    // A generator that only makes nonsense would find nothing.
    let good: usize = statuses.iter().filter(|(status, _)| **status < 300).map(|(_, count)| count).sum();
    assert!(good * 10 > sent, "too few requests were good: {report}");
    assert!(sent >= requests, "{report}");
}

#[tokio::test]
async fn requests_that_were_answered_wrongly_once_are_answered() {
    let harness = ApiHarness::start().await;
    let caller = harness.administrator();
    caller.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}})).await.expect(201);
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let mut files: Vec<_> = std::fs::read_dir(directory).expect("the corpus").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "the corpus is empty");
    for file in files {
        let bytes = std::fs::read(&file).expect("a readable file");
        for request in Request::parse(&bytes).unwrap_or_else(|error| panic!("{}: {error}", file.display())) {
            let answer = send(&caller, &request).await;
            assert_eq!(complaint(&request, &answer), None, "{}: {request}", file.display());
        }
    }
}
