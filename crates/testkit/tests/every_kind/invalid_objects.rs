//! A family of invalid objects of every kind, and what the server says about each: the code, the reason, and every cause with its
//! field, kind of mistake and words. The families stand in `invalid/*.txt`, a section per kind; a kind without one fails the test.
//!
//! ```text
//! == Deployment.apps                                in every version; `Kind.group !version` in all but one, `Kind.group/version` in one
//! given metadata.name=other ; spec.replicas=2       what the cases below start from; without it, the smallest valid object
//! create spec.replicas=-1                           the same with one or more fields set (`-` takes a field away), sent as a new object
//!   spec.replicas: Invalid value: -1: must be …     every cause of the refusal, in any order
//! update spec.selector.matchLabels.b=c              the same as a change of an object that is there
//! status status.replicas=-1                         the same as a change of its status
//! ```
//!
//! Source of every expectation: Kubernetes `pkg/apis/*/validation` and `apimachinery/pkg/api/validation`.

use std::{collections::BTreeSet, fmt::Write as _};

use serde_json::{Value, json};
use testkit::api_harness::{Answer, Caller};

use crate::{Subject, subjects};

const FAMILIES: &[&str] = &[
    include_str!("invalid/admission.txt"),
    include_str!("invalid/apps.txt"),
    include_str!("invalid/batch.txt"),
    include_str!("invalid/betas.txt"),
    include_str!("invalid/core.txt"),
    include_str!("invalid/extension.txt"),
    include_str!("invalid/metadata.txt"),
    include_str!("invalid/networking.txt"),
    include_str!("invalid/pods.txt"),
    include_str!("invalid/policy.txt"),
    include_str!("invalid/storage.txt"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Create,
    Update,
    Status,
}

struct Case<'a> {
    /// The section, `Kind.group` or `*` for every kind.
    kind: &'a str,
    /// What it starts from.
    given: &'a str,
    deed: Deed,
    changes: &'a str,
    causes: BTreeSet<&'a str>,
}

impl Case<'_> {
    /// Whether its section is that of a kind: in all versions, in all but one, or in one.
    fn is_about(&self, subject: &Subject) -> bool {
        let (group, version) = subject.api_version.rsplit_once('/').unwrap_or(("", &subject.api_version));
        let kind = format!("{}.{group}", subject.kind);
        match self.kind.split_once(" !") {
            Some((of, except)) => of == kind && except != version,
            None => self.kind == kind || self.kind == format!("{}.{}", subject.kind, subject.api_version),
        }
    }
}

fn cases() -> Vec<Case<'static>> {
    let mut cases: Vec<Case<'static>> = Vec::new();
    for text in FAMILIES {
        let (mut kind, mut given) = ("", "");
        for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            if let Some(cause) = line.strip_prefix("  ") {
                cases.last_mut().expect("a case before its causes").causes.insert(cause);
                continue;
            }
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            let deed = match word {
                "==" => {
                    (kind, given) = (rest, "");
                    continue;
                }
                "given" => {
                    given = rest;
                    continue;
                }
                "create" => Deed::Create,
                "update" => Deed::Update,
                "status" => Deed::Status,
                _ => panic!("a line that means nothing: {line}"),
            };
            cases.push(Case { kind, given, deed, changes: rest, causes: BTreeSet::new() });
        }
    }
    cases
}

/// The steps of a path such as `spec.ports[0].name` or `metadata.labels["a.b/c"]`.
fn steps(path: &str) -> Vec<String> {
    let mut steps = vec![String::new()];
    let mut rest = path;
    while let Some(character) = rest.chars().next() {
        if let Some(inside) = rest.strip_prefix("[\"") {
            let (key, after) = inside.split_once("\"]").expect("a closing bracket");
            steps.push(key.to_owned());
            rest = after;
            continue;
        }
        match character {
            '.' | '[' => steps.push(String::new()),
            ']' => {}
            other => steps.last_mut().expect("never empty").push(other),
        }
        rest = &rest[character.len_utf8()..];
    }
    steps
}

/// Sets one field, or takes it away where there is no value.
fn set(object: &mut Value, path: &str, value: Option<Value>) {
    let steps = steps(path);
    let (last, before) = steps.split_last().expect("a path is not empty");
    let mut place = object;
    for step in before {
        place = match step.parse::<usize>() {
            Ok(index) if place.is_array() => &mut place[index],
            _ => &mut place[step.as_str()],
        };
    }
    match (last.parse::<usize>(), value, place) {
        (Ok(index), Some(value), Value::Array(list)) if index == list.len() => list.push(value),
        (Ok(index), Some(value), Value::Array(list)) => list[index] = value,
        (Ok(index), None, Value::Array(list)) => drop(list.remove(index)),
        (_, Some(value), place) => place[last.as_str()] = value,
        (_, None, Value::Object(map)) => drop(map.remove(last)),
        (_, None, _) => panic!("nothing to take away at {path}"),
    }
}

/// The parts of `"x"*64`.
fn repetition(text: &str) -> Option<(&str, usize)> {
    let (unit, count) = text.strip_prefix('"')?.split_once("\"*")?;
    Some((unit, count.parse().ok()?))
}

/// Makes changes such as `spec.replicas=-1 ; spec.paused=-`; values are YAML, and `"x"*64` repeats a text.
fn change(object: &mut Value, changes: &str) {
    for one in changes.split(" ; ").filter(|one| !one.is_empty()) {
        let (path, text) = one.split_once('=').unwrap_or_else(|| panic!("{one} has no value"));
        let value = if text == "-" {
            None
        } else if let Some((unit, count)) = repetition(text) {
            Some(json!(unit.repeat(count)))
        } else {
            Some(meta::read::parse_untyped_yaml(text.as_bytes()).unwrap_or_else(|error| panic!("{one}: {error:?}")))
        };
        set(object, path, value);
    }
}

async fn send(caller: &Caller, subject: &Subject, case: &Case<'_>) -> Answer {
    let mut object = subject.object.clone();
    change(&mut object, case.given);
    if case.deed == Deed::Create {
        change(&mut object, case.changes);
        return caller.post(&subject.collection, &object).await;
    }
    let path = format!("{}/{}", subject.collection, object["metadata"]["name"].as_str().unwrap_or_default());
    let mut there = caller.get(&path).await;
    if there.status == 404 {
        there = caller.post(&subject.collection, &object).await;
    }
    let mut there = there.json();
    if there["kind"] == "Status" {
        panic!("{} {}: what the case starts from is refused: {there}", case.kind, case.given);
    }
    let target = if case.deed == Deed::Status { format!("{path}/status") } else { path.clone() };
    loop {
        change(&mut there, case.changes);
        let answer = caller.put(&target, &there).await;
        // The server itself changes the status of some kinds meanwhile.
        if answer.status != 409 {
            return answer;
        }
        there = caller.get(&path).await.json();
    }
}

/// The objects that the cases send and begin with, the smallest valid one first.
pub fn objects_of(subject: &Subject) -> Vec<Value> {
    let mut objects = vec![subject.object.clone()];
    for case in cases().iter().filter(|case| case.is_about(subject) || case.kind == "*") {
        let mut object = subject.object.clone();
        change(&mut object, case.given);
        if !objects.contains(&object) {
            objects.push(object.clone());
        }
        if case.deed == Deed::Create {
            change(&mut object, case.changes);
            objects.push(object);
        }
    }
    objects
}

/// What a refusal says, a line per cause.
fn causes(body: &Value) -> BTreeSet<String> {
    let text = |cause: &Value, field: &str| cause[field].as_str().unwrap_or_default().to_owned();
    body["details"]["causes"].as_array().into_iter().flatten().map(|cause| format!("{}: {}", text(cause, "field"), text(cause, "message"))).collect()
}

/// The reason of a cause follows from the first words of its message.
fn reason_of(message: &str) -> &'static str {
    let known = [
        ("Not found", "FieldValueNotFound"),
        ("Required value", "FieldValueRequired"),
        ("Duplicate value", "FieldValueDuplicate"),
        ("Invalid value", "FieldValueInvalid"),
        ("Unsupported value", "FieldValueNotSupported"),
        ("Forbidden", "FieldValueForbidden"),
        ("Too long", "FieldValueTooLong"),
        ("Too many", "FieldValueTooMany"),
        ("Internal error", "InternalError"),
    ];
    known.into_iter().find(|(words, _)| message.starts_with(words)).map_or("none", |(_, reason)| reason)
}

fn judge(subject: &Subject, case: &Case<'_>, answer: &Answer, failures: &mut Vec<String>) {
    let body = answer.json();
    let found = causes(&body);
    let expected: BTreeSet<String> = case.causes.iter().map(|cause| (*cause).to_owned()).collect();
    let reasons_fit = body["details"]["causes"]
        .as_array()
        .into_iter()
        .flatten()
        .all(|cause| cause["reason"].as_str() == cause["message"].as_str().map(reason_of));
    if answer.status == 422 && body["reason"] == "Invalid" && body["details"]["kind"] == *subject.kind && found == expected && reasons_fit {
        return;
    }
    let mut text = format!("{} {:?} given [{}] {}\n", subject.kind, case.deed, case.given, case.changes);
    if answer.status == 422 {
        for cause in found.difference(&expected) {
            let _ = writeln!(text, "  said     {cause}");
        }
        for cause in expected.difference(&found) {
            let _ = writeln!(text, "  expected {cause}");
        }
    } else {
        let _ = writeln!(text, "  {} {}", answer.status, answer.text().chars().take(400).collect::<String>());
    }
    failures.push(text);
}

#[tokio::test]
async fn every_kind_refuses_a_family_of_invalid_objects_with_all_their_causes() {
    // Every version is judged, also those that are off by default.
    let harness = crate::with_betas().await;
    let caller = harness.administrator();
    caller.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}})).await.expect(201);
    let (subjects, cases) = (subjects(&harness), cases());
    let (mut failures, mut sent) = (Vec::new(), 0);
    for subject in &subjects {
        let own: Vec<&Case<'_>> = cases.iter().filter(|case| case.is_about(subject)).collect();
        if own.is_empty() {
            failures.push(format!("{} of {} has no family of invalid objects\n", subject.kind, subject.api_version));
        }
        for case in own.into_iter().chain(cases.iter().filter(|case| case.kind == "*")) {
            assert!(!case.causes.is_empty(), "{} {}: a case without causes", case.kind, case.changes);
            let answer = send(&caller, subject, case).await;
            sent += 1;
            judge(subject, case, &answer, &mut failures);
        }
        // What is left would count for the others: quotas, bounds and webhooks.
        let mut names = vec![subject.name().to_owned()];
        names.extend(cases.iter().filter_map(|case| case.given.split(" ; ").find_map(|one| one.strip_prefix("metadata.name=")).map(str::to_owned)));
        for name in names {
            caller.delete(&format!("{}/{name}", subject.collection)).await;
        }
    }
    for case in &cases {
        let known = case.kind == "*" || subjects.iter().any(|subject| case.kind.starts_with(&format!("{}.", subject.kind)));
        assert!(known, "no kind is called {}", case.kind);
    }
    assert!(failures.is_empty(), "{} of {sent} answers are wrong:\n{}", failures.len(), failures.concat());
}
