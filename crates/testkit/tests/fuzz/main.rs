//! Requests that nobody would send on purpose, many of them: objects that were valid before something in them was changed, of every kind
//! and of custom ones with every trait of a schema, in JSON, YAML and protobuf; patches of all four kinds; every subresource; selectors,
//! tokens, headers and other queries; and bodies that are no text at all. The decoders are fed by themselves, too ([`decoders`]).
//!
//! However wrong a request is, the server answers it: no panic (which it answers with 500), no hang (which [`testkit`] gives up on),
//! no error of its own; and what it stores it would take again, in every encoding. What means the same in several encodings gets the same
//! answer. Every request follows from the seed and the worker's number, each with a
//! server of its own, so that a failure can be had again:
//!
//! ```text
//! KNARR_FUZZ_SEED=7 KNARR_FUZZ_REQUESTS=1000000 cargo test -p testkit --test fuzz     other requests, or more of them
//! ```
//!
//! Requests that once were answered wrongly stay in `corpus/`, a file each, and are sent first.

mod custom;
mod decoders;
mod growth;
mod mutation;
mod requests;

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use testkit::{
    ApiHarness,
    api_harness::{Answer, Caller},
    go_shape::{difference, essence},
};

use requests::{Memory, Request, Target, shapes, targets};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

const REQUESTS: usize = 200_000;
/// Servers that are asked at the same time, every other one with all versions on.
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
    if is_json && !is_watch && !answer.body.is_empty() && serde_json::from_slice::<serde::de::IgnoredAny>(&answer.body).is_err() {
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

/// The object without who owns what, which differs by the writer and his version.
fn unowned(mut object: Value) -> Value {
    object["metadata"].as_object_mut().map(|metadata| metadata.remove("managedFields"));
    object
}

/// A stored object is taken again as it was read, since it is valid, and is the same in every encoding.
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
    if again.status != 200 && !(target.changes_by_itself && again.status == 409) {
        return Some(format!("what is stored is not taken again: {} {}\n{object}", again.status, again.text()));
    }
    // Jobs are another as upstream's are: labels of the template, which come after the defaults, are taken over by the next write.
    if target.changes_by_itself || target.kind == "Job" {
        return None;
    }
    // Lists that are empty are not there, as far as Go is concerned.
    let whole = |object: &Value| if target.custom { unowned(object.clone()) } else { shapes().complete(&unowned(object.clone())) };
    if let Some(words) = difference(&whole(&object), &whole(&again.json()), "") {
        return Some(format!("what is stored is another when it is written back: {words}\n{object}"));
    }
    if target.custom {
        let yaml = caller.send("GET", &path, &[("accept", "application/yaml")], "").await;
        let read = meta::read::parse_untyped_yaml(&yaml.body).unwrap_or_default();
        return difference(&object, &read, "").map(|words| format!("in YAML it is another: {words}\n{object}"));
    }
    let binary = caller.send("GET", &path, &[("accept", PROTOBUF)], "").await;
    let read = match api::protobuf::decode_document(&binary.body) {
        Ok(read) => read,
        Err(error) => return Some(format!("it has no protobuf: {} {error}\n{object}", binary.status)),
    };
    let (wanted, read) = (shapes().complete(&object), shapes().complete(&read));
    if let Some(words) = difference(&wanted, &read, "") {
        return Some(format!("in protobuf it is another: {words}\n{object}"));
    }
    let headers = [("content-type", PROTOBUF), ("accept", "application/json")];
    let again = caller.send("PUT", &format!("{path}?dryRun=All"), &headers, shapes().encode(&object)).await;
    if again.status != 200 {
        return Some(format!("what is stored is not taken again from a client in Go: {} {}\n{object}", again.status, again.text()));
    }
    difference(&whole(&object), &whole(&again.json()), "")
        .map(|words| format!("a client in Go that changes nothing changes something: {words}\n{object}"))
}

/// An object in plain JSON, and as clients in Go write it in JSON and in protobuf: all three are one.
async fn one_in_all_forms(caller: &Caller, target: &Target, object: &Value) -> Option<String> {
    let path = format!("{}?dryRun=All&fieldManager=fuzz", target.collection);
    let plain = caller.post(&path, object).await;
    // A key that is missing and one that is empty are told apart by what is owned, though by nothing else.
    let seen = |answer: &Answer| {
        let mut tree = unowned(answer.json());
        for cause in tree["details"]["causes"].as_array_mut().into_iter().flatten() {
            // Some say the whole value, with whatever empty things stand in it.
            if cause["message"].as_str().is_some_and(|words| words.contains('{')) {
                cause["message"].take();
            }
        }
        essence(shapes(), answer.status, tree)
    };
    let wanted = seen(&plain);
    let whole = caller.post(&path, &shapes().complete(object)).await;
    let binary = caller.send("POST", &path, &[("content-type", PROTOBUF), ("accept", "application/json")], shapes().encode(object)).await;
    for (form, answer) in [("JSON", whole), ("protobuf", binary)] {
        if let Some(words) = difference(&wanted, &seen(&answer), "") {
            return Some(format!("{}: another object or refusal in Go's {form}: {words}\n{object}", target.kind));
        }
    }
    None
}

/// What an answer says for later: tokens and versions.
fn remember(memory: &mut Memory, answer: &Answer) {
    for (key, kept) in [("\"continue\":\"", &mut memory.tokens), ("\"resourceVersion\":\"", &mut memory.revisions)] {
        let Some(place) = answer.body.windows(key.len()).take(400).position(|window| window == key.as_bytes()) else { continue };
        let rest = &answer.body[place + key.len()..];
        let text = String::from_utf8_lossy(rest.split(|byte| *byte == b'"').next().unwrap_or_default()).into_owned();
        kept.push(text);
        if kept.len() > 20 {
            kept.remove(0);
        }
    }
}

/// A server with the versions that are on by default, or with every one: betas and alphas as well.
async fn server(every_version: bool) -> ApiHarness {
    if !every_version {
        return ApiHarness::start().await;
    }
    let all = kinds::RuntimeConfig::parse("api/all=true").expect("a configuration");
    ApiHarness::start_with(|parts| parts.runtime_config = all).await
}

struct Worker {
    number: usize,
    random: StdRng,
    sent: usize,
    memory: Memory,
    failures: Vec<String>,
    statuses: std::collections::BTreeMap<u16, usize>,
}

impl Worker {
    async fn run(mut self, requests: usize) -> Self {
        while self.sent < requests && self.failures.len() < 20 {
            let harness = server(self.number % 2 == 1).await;
            let caller = harness.administrator();
            caller.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}})).await.expect(201);
            custom::define(&caller).await;
            self.memory = Memory::default();
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
        if self.random.random_ratio(1, 25) {
            let target = &targets[self.random.random_range(0..targets.len())];
            if !target.custom {
                let mut object = target.object.clone();
                for _ in 0..self.random.random_range(1..4) {
                    growth::grow(&mut self.random, &target.schema, &mut object);
                }
                object["metadata"]["name"] = json!("other");
                self.sent += 3;
                if let Some(words) = one_in_all_forms(caller, target, &object).await {
                    self.failures.push(format!("worker {}, request {}: {words}", self.number, self.sent));
                }
                return;
            }
        }
        let request = requests::draw(&mut self.random, targets, &self.memory);
        self.sent += 1;
        let began = Instant::now();
        let answer = send(caller, &request).await;
        *self.statuses.entry(answer.status).or_default() += 1;
        if request.method == "GET" && answer.status == 200 {
            remember(&mut self.memory, &answer);
        }
        if let Some(words) = complaint(&request, &answer) {
            self.failures.push(format!("worker {}, request {}: {request}\n  {words}", self.number, self.sent));
        }
        // In the profile of tests, on a busy machine; a request of this size takes milliseconds.
        if began.elapsed() > Duration::from_secs(30) {
            self.failures.push(format!("worker {}, request {}: {request}\n  took {:?}", self.number, self.sent, began.elapsed()));
        }
        if let (Some(name), true, true) = (&request.writes, matches!(answer.status, 200 | 201), self.sent.is_multiple_of(8)) {
            self.sent += 4;
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
        let worker = Worker { number, random, sent: 0, memory: Memory::default(), failures: Vec::new(), statuses: std::collections::BTreeMap::new() };
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
