//! Managers of one object who write in versions that look different: the first has `hostPort: "h:p"`, the second `host` and `port`.

use std::cell::Cell;

use serde_json::{Map, Value, json};

use super::*;
use crate::{
    object::Object,
    schema::{
        Schema, Shape, TypeIndex,
        fixture::{field, map_of, schema},
    },
    status::ApiError,
};

const FIRST: &str = "example.com/v1";
const SECOND: &str = "example.com/v2";
const NOW: &str = "2026-01-01T00:00:00Z";

fn shape(fields: &[&str]) -> Schema {
    let of = |fields: &[&str]| fields.iter().map(|name| field(name, Shape::String)).collect::<Vec<_>>();
    let mut root = of(&["apiVersion", "kind"]);
    root.extend([field("metadata", Shape::Object(TypeIndex(1))), field("spec", Shape::Object(TypeIndex(2)))]);
    let mut meta = of(&["name", "uid"]);
    meta.push(field("labels", map_of(Shape::String)));
    schema(&[("Server", root), ("ObjectMeta", meta), ("ServerSpec", of(fields))])
}

fn schema_of(version: &str) -> Schema {
    shape(if version == FIRST { &["hostPort", "note"] } else { &["host", "port", "note"] })
}

fn converted(object: &Object, version: &str) -> Object {
    let mut object = object.clone();
    if object.api_version() == version {
        return object;
    }
    object.0.insert("apiVersion".to_owned(), version.into());
    let Some(Value::Object(spec)) = object.0.get_mut("spec") else { return object };
    if version == SECOND {
        if let Some(both) = spec.remove("hostPort") {
            let (host, port) = both.as_str().and_then(|both| both.split_once(':')).unwrap();
            for (name, value) in [("host", host), ("port", port)] {
                if !value.is_empty() {
                    spec.insert(name.to_owned(), value.into());
                }
            }
        }
    } else {
        let part = |spec: &mut Map<String, Value>, name: &str| spec.remove(name).map(|value| value.as_str().unwrap_or_default().to_owned());
        let (host, port) = (part(spec, "host"), part(spec, "port"));
        if host.is_some() || port.is_some() {
            spec.insert("hostPort".to_owned(), format!("{}:{}", host.unwrap_or_default(), port.unwrap_or_default()).into());
        }
    }
    object
}

/// The versions beside one of the two.
struct Beside {
    other: &'static str,
    schema: Schema,
    asked: Cell<usize>,
}

impl Beside {
    fn new(version: &str) -> Self {
        let other = if version == FIRST { SECOND } else { FIRST };
        Self { other, schema: schema_of(other), asked: Cell::new(0) }
    }
}

impl Versions for Beside {
    fn other(&self, api_version: &str) -> OtherVersion<'_> {
        if api_version == self.other { OtherVersion::Differs(&self.schema) } else { OtherVersion::Gone }
    }
    fn convert(&self, objects: &[&Object], api_version: &str) -> Result<Vec<Object>, ApiError> {
        self.asked.set(self.asked.get() + 1);
        Ok(objects.iter().map(|object| converted(object, api_version)).collect())
    }
}

/// One manager's request: his name, the version, the specification, and whether by force.
type Request = (&'static str, &'static str, Value, bool);

fn server(version: &str, spec: &Value) -> Object {
    let object = json!({ "apiVersion": version, "kind": "Server", "metadata": { "name": "a", "uid": "u" }, "spec": spec });
    Object::from_value(object).unwrap()
}

fn applied(live: Option<&Object>, (manager, version, spec, force): &Request) -> Result<Object, ApiError> {
    let live = live.map(|live| converted(live, version));
    let versions = Beside::new(version);
    apply(&schema_of(version), &versions, live.as_ref(), &server(version, spec), manager, *force, version, "", NOW)
}

fn after(requests: &[Request]) -> Object {
    let mut live: Option<Object> = None;
    for request in requests {
        live = Some(applied(live.as_ref(), request).unwrap_or_else(|error| panic!("{request:?}: {}", error.message)));
    }
    live.unwrap()
}

/// Who owns what in the specification.
fn owners(object: &Object) -> Vec<String> {
    let entries = object.get(&["metadata", "managedFields"]).and_then(Value::as_array).cloned().unwrap_or_default();
    let names = |entry: &Value| entry["fieldsV1"]["f:spec"].as_object().map(|fields| fields.keys().cloned().collect::<Vec<_>>().join(" ")).unwrap_or_default();
    let mut owners: Vec<String> = entries
        .iter()
        .map(|entry| format!("{} {} {}", entry["manager"].as_str().unwrap(), &entry["apiVersion"].as_str().unwrap()["example.com/".len()..], names(entry).replace("f:", "")))
        .collect();
    owners.sort();
    owners
}

#[test]
fn conflicts_are_seen_in_the_version_of_whom_they_are_with() {
    let both = |host: &str, port: &str| json!({ "host": host, "port": port });
    let parts: [Request; 2] = [("one", SECOND, json!({ "host": "a" }), false), ("two", SECOND, json!({ "port": "1" }), false)];
    let whole: [Request; 1] = [("one", FIRST, json!({ "hostPort": "a:1" }), false)];
    let cases: [(&[Request], Request, &[(&str, &str)]); 6] = [
        (&whole, ("two", SECOND, json!({ "host": "b" }), false), &[("one", ".spec.hostPort")]),
        (&whole, ("two", SECOND, both("a", "1"), false), &[]),
        (&whole, ("two", SECOND, json!({ "note": "n" }), false), &[]),
        (&parts, ("three", FIRST, json!({ "hostPort": "a:2" }), false), &[("two", ".spec.port")]),
        (&parts, ("three", FIRST, json!({ "hostPort": "b:2" }), false), &[("one", ".spec.host"), ("two", ".spec.port")]),
        (&parts, ("three", FIRST, json!({ "hostPort": "a:1" }), false), &[]),
    ];
    for (before, request, expected) in cases {
        let live = after(before);
        match applied(Some(&live), &request) {
            Ok(_) => assert!(expected.is_empty(), "{request:?} must be refused"),
            Err(error) => {
                let causes: Vec<(String, String)> =
                    error.causes.iter().map(|cause| (cause.message.clone(), cause.field.clone())).collect();
                let wanted: Vec<(String, String)> =
                    expected.iter().map(|(manager, path)| (format!("conflict with {manager:?}"), (*path).to_owned())).collect();
                assert_eq!(causes, wanted, "{request:?}");
            }
        }
    }
}

#[test]
fn who_takes_a_field_by_force_takes_what_it_is_in_other_versions() {
    let parts: [Request; 2] = [("one", SECOND, json!({ "host": "a", "note": "n" }), false), ("two", SECOND, json!({ "port": "1" }), false)];
    let cases: [(&str, &[&str]); 3] = [
        ("a:2", &["one v2 host note", "three v1 hostPort"]),
        ("b:1", &["one v2 note", "three v1 hostPort", "two v2 port"]),
        ("a:1", &["one v2 host note", "three v1 hostPort", "two v2 port"]),
    ];
    for (value, expected) in cases {
        let live = after(&parts);
        let taken = applied(Some(&live), &("three", FIRST, json!({ "hostPort": value }), true)).unwrap();
        assert_eq!(owners(&taken), expected, "applied {value}");
        assert_eq!(taken.0["spec"], json!({ "hostPort": value, "note": "n" }));
        // The same of a write that is no apply.
        let (old, versions) = (converted(&live, FIRST), Beside::new(FIRST));
        let mut new = old.clone();
        new.set(&["spec", "hostPort"], value.into());
        update(&schema_of(FIRST), &versions, Some(&old), &mut new, "three", FIRST, "", NOW).unwrap();
        let expected: Vec<&str> = expected.iter().copied().filter(|owner| value != "a:1" || !owner.starts_with("three")).collect();
        assert_eq!(owners(&new), expected, "written {value}");
    }
}

#[test]
fn who_removes_a_field_takes_it_from_owners_in_other_versions() {
    let live = after(&[("one", FIRST, json!({ "hostPort": "a:1", "note": "n" }), false)]);
    let (old, versions) = (converted(&live, SECOND), Beside::new(SECOND));
    let mut new = old.clone();
    new.remove(&["spec", "host"]);
    new.remove(&["spec", "port"]);
    update(&schema_of(SECOND), &versions, Some(&old), &mut new, "two", SECOND, "", NOW).unwrap();
    assert_eq!(owners(&new), ["one v1 note"]);
    assert_eq!(versions.asked.get(), 1, "old and new are converted together");
}

#[test]
fn what_was_applied_in_another_version_is_let_go_of() {
    let note = || json!({ "note": "n" });
    let whole: Request = ("one", FIRST, json!({ "hostPort": "a:1", "note": "n" }), false);
    let halves: Request = ("one", SECOND, json!({ "host": "a", "port": "1", "note": "n" }), false);
    let cases: [(&str, &[Request], Value, &[&str]); 7] = [
        ("from the first to the second", &[whole.clone(), ("one", SECOND, note(), false)], note(), &["one v2 note"]),
        ("from the second to the first", &[halves.clone(), ("one", FIRST, note(), false)], note(), &["one v1 note"]),
        (
            "the same in the other version",
            &[whole.clone(), halves.clone()],
            json!({ "host": "a", "port": "1", "note": "n" }),
            &["one v2 host note port"],
        ),
        (
            "another owns it in the other version",
            &[whole.clone(), ("two", SECOND, json!({ "host": "a", "port": "1" }), false), ("one", FIRST, note(), false)],
            json!({ "hostPort": "a:1", "note": "n" }),
            &["one v1 note", "two v2 host port"],
        ),
        (
            "another owns something else in the other version",
            &[whole.clone(), ("two", SECOND, note(), false), ("one", FIRST, json!({}), false)],
            note(),
            &["one v1 ", "two v2 note"],
        ),
        // One half of what is a single field in the version of last time keeps the other.
        (
            "another owns a half",
            &[whole, ("two", SECOND, json!({ "port": "1" }), false), ("one", SECOND, note(), false)],
            json!({ "host": "a", "port": "1", "note": "n" }),
            &["one v2 note", "two v2 port"],
        ),
        (
            "another owns the whole",
            &[halves, ("two", FIRST, json!({ "hostPort": "a:1" }), false), ("one", SECOND, note(), false)],
            json!({ "host": "a", "port": "1", "note": "n" }),
            &["one v2 note", "two v1 hostPort"],
        ),
    ];
    for (name, requests, spec, expected) in cases {
        let live = after(requests);
        assert_eq!(live.get(&["spec"]).cloned().unwrap_or_default(), spec, "{name}");
        assert_eq!(owners(&live), expected, "{name}");
        assert_eq!((live.name(), live.uid()), ("a", "u"), "{name}");
    }
}

#[test]
fn nobody_owns_anything_in_a_version_that_is_gone() {
    let mut live = after(&[("one", FIRST, json!({ "hostPort": "a:1" }), false), ("two", FIRST, json!({ "note": "n" }), false)]);
    live.0["metadata"]["managedFields"][0]["apiVersion"] = json!("example.com/v0");
    let taken = applied(Some(&live), &("three", FIRST, json!({ "hostPort": "b:2" }), false)).unwrap();
    assert_eq!(owners(&taken), ["three v1 hostPort", "two v1 note"]);
    let mut new = live.clone();
    new.set(&["spec", "note"], "m".into());
    update(&schema_of(FIRST), &Beside::new(FIRST), Some(&live), &mut new, "three", FIRST, "", NOW).unwrap();
    assert_eq!(owners(&new), ["three v1 note"]);
}

#[test]
fn nothing_is_converted_where_nothing_changes() {
    let live = after(&[("one", FIRST, json!({ "hostPort": "a:1" }), false), ("two", SECOND, json!({ "note": "n" }), false)]);
    let versions = Beside::new(SECOND);
    let config = server(SECOND, &json!({ "note": "n" }));
    let again = apply(&schema_of(SECOND), &versions, Some(&live), &config, "two", false, SECOND, "", "2026-01-02T00:00:00Z").unwrap();
    assert_eq!(again, live);
    let mut new = live.clone();
    update(&schema_of(SECOND), &versions, Some(&live), &mut new, "three", SECOND, "", NOW).unwrap();
    assert_eq!(new, live);
    assert_eq!(versions.asked.get(), 0);
}
