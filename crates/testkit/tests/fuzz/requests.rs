//! Which requests are sent.

use std::{collections::{BTreeMap, BTreeSet}, fmt, sync::Arc};

use base64::Engine as _;
use meta::{GroupVersionKind, schema::Schema};
use rand::{Rng, seq::IndexedRandom as _};
use serde_json::{Value, json};
use testkit::{ApiHarness, GoShapes};

use crate::{custom, growth, mutation};

/// Names of objects, few, so that requests meet what others made.
const NAMES: &[&str] = &["minimal", "a", "b"];

/// A kind that requests go to.
pub struct Target {
    pub kind: String,
    pub collection: String,
    pub object: Value,
    /// Names that its objects must have, where they may not have just any.
    fixed_name: bool,
    has_status: bool,
    /// Whether a definition made it.
    pub custom: bool,
    /// Whether the server itself writes its status at any time.
    pub changes_by_itself: bool,
    pub schema: Schema,
    subresources: Vec<Subresource>,
    /// Names of fields that are known somewhere.
    words: Arc<Vec<String>>,
    /// A valid object as clients in Go send it.
    protobuf: Vec<u8>,
}

/// What stands below an object's own path.
struct Subresource {
    name: String,
    kind: GroupVersionKind,
    verbs: Vec<String>,
}

/// What the server said earlier and is asked about later.
#[derive(Default)]
pub struct Memory {
    /// Tokens that continue a list.
    pub tokens: Vec<String>,
    /// Versions of resources.
    pub revisions: Vec<String>,
}

impl Target {
    /// Names that its objects have.
    pub fn names(&self) -> Vec<String> {
        let own = self.object["metadata"]["name"].as_str().unwrap_or("minimal").to_owned();
        if self.fixed_name { vec![own] } else { NAMES.iter().map(|name| (*name).to_owned()).collect() }
    }
}

fn collect_words(value: &Value, words: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                words.insert(key.clone());
                collect_words(value, words);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| collect_words(value, words)),
        _ => {}
    }
}

/// The certificate of an authority.
fn trust_bundle() -> String {
    let directory = tempfile::tempdir().unwrap();
    pki::ClusterAuthority::open_or_create(directory.path(), jiff::Timestamp::now()).unwrap().certificate_pem().to_owned()
}

/// Every kind that can be made and kept, those of the definitions included.
pub fn targets(harness: &ApiHarness) -> Vec<Target> {
    let key = pki::PrivateKey::generate().expect("a key");
    let request = pki::CertificateRequest::create(&pki::Subject::new("a", ["b"]), &pki::AlternativeNames::default(), &[], &key).expect("a request");
    // As nodes send it: what the PEM is around.
    let stub: String = request.lines().filter(|line| !line.starts_with("-----")).collect();
    let request = base64::engine::general_purpose::STANDARD.encode(request);
    let text = include_str!("../every_kind/minimal.yaml")
        .replace("request: REQUEST", &format!("request: {request}"))
        .replace("stubPKCS10Request: STUB", &format!("stubPKCS10Request: {stub}"))
        .replace("trustBundle: BUNDLE", &format!("trustBundle: {}", json!(trust_bundle())));
    let mut objects: BTreeMap<String, Value> = serde_json::from_value(meta::read::parse_untyped_yaml(text.as_bytes()).expect("YAML")).expect("a map");
    for (definition, object) in custom::definitions() {
        objects.insert(format!("{}.{}", definition["spec"]["names"]["kind"].as_str().unwrap_or_default(), custom::GROUP), object);
    }
    let scheme = harness.server().core().scheme.load();
    let mut words = BTreeSet::new();
    objects.values().for_each(|object| collect_words(object, &mut words));
    words.extend(api::types().objects.iter().flat_map(|known| known.fields.iter().map(|field| field.name.to_string())));
    let words = Arc::new(words.into_iter().collect::<Vec<_>>());
    let mut targets = Vec::new();
    for kind in scheme.kinds().filter(|kind| kind.info().has_verb("create") && kind.info().has_verb("get")) {
        let info = kind.info();
        let Some(found) = objects.get(&format!("{}.{}", info.kind.kind, info.kind.group)) else { continue };
        let mut object = found.clone();
        let api_version = info.kind.group_version().to_string();
        object["apiVersion"] = json!(api_version);
        object["kind"] = json!(&*info.kind.kind);
        let fixed_name = !object["metadata"]["name"].is_null();
        if !fixed_name {
            object["metadata"]["name"] = json!("minimal");
        }
        let root = if info.kind.group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{api_version}") };
        let inside = if info.namespaced { "/namespaces/default" } else { "" };
        let protobuf = if info.custom { Vec::new() } else { shapes().encode(&object) };
        targets.push(Target {
            kind: info.kind.kind.to_string(),
            collection: format!("{root}{inside}/{}", info.plural),
            object,
            fixed_name,
            has_status: info.subresource("status").is_some(),
            custom: info.custom,
            changes_by_itself: matches!(&*info.kind.kind, "APIService" | "CustomResourceDefinition"),
            schema: kind.schema().clone(),
            subresources: info
                .subresources
                .iter()
                .map(|known| Subresource { name: known.name.clone(), kind: known.kind.clone(), verbs: known.verbs.clone() })
                .collect(),
            words: words.clone(),
            protobuf,
        });
    }
    targets
}

/// How clients in Go write objects.
pub fn shapes() -> &'static GoShapes {
    static SHAPES: std::sync::OnceLock<GoShapes> = std::sync::OnceLock::new();
    SHAPES.get_or_init(GoShapes::new)
}

/// One request.
pub struct Request {
    pub method: &'static str,
    pub path: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// Which kind it is about.
    pub target: usize,
    /// The object that it may write.
    pub writes: Option<String>,
}

impl fmt::Display for Request {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {} {:?} {:?}", self.method, self.path, self.headers, String::from_utf8_lossy(&self.body))
    }
}

impl Request {
    /// Requests out of a file of the corpus: a line of method, path and content type each, and below it the body, escaped as in Rust where
    /// it is no text, up to an empty line.
    pub fn parse(bytes: &[u8]) -> Result<Vec<Self>, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        let mut requests = Vec::new();
        for block in text.split("\n\n").filter(|block| !block.trim().is_empty()) {
            let lines: Vec<&str> = block.trim_start_matches('\n').lines().filter(|line| !line.starts_with('#')).collect();
            let Some((first, body)) = lines.split_first() else { continue };
            let mut parts = first.split(' ');
            let method = match parts.next() {
                Some("GET") => "GET",
                Some("POST") => "POST",
                Some("PUT") => "PUT",
                Some("PATCH") => "PATCH",
                Some("DELETE") => "DELETE",
                other => return Err(format!("no method: {other:?}")),
            };
            let path = parts.next().ok_or("no path")?.to_owned();
            let headers = parts.next().map(|kind| ("content-type", kind.to_owned())).into_iter().collect();
            let body = body.join("\n");
            let body = match body.strip_prefix("base64:") {
                Some(text) => base64::engine::general_purpose::STANDARD.decode(text.trim()).map_err(|error| error.to_string())?,
                None => body.into_bytes(),
            };
            requests.push(Self { method, path, headers, body, target: 0, writes: None });
        }
        Ok(requests)
    }
}

const FORMS: &[&str] = &[
    "application/json",
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;as=Table;v=v1;g=meta.k8s.io",
    "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
    "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
    "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io,application/json;q=0.5",
    "*/*",
    "text/html",
    "application/json;q=nonsense",
];

const PIECES_OF_ACCEPT: &[&str] = &[
    "application/json", "application/yaml", "application/vnd.kubernetes.protobuf", "*/*", "application/*", "text/plain", ";", ",", ", ", "as=Table", "as=", "g=meta.k8s.io",
    "v=v1", "v=v9", "q=0", "q=1.5", "q=", "stream=watch", "as=PartialObjectMetadata", "=", " ", "charset=utf-8", "/", "application/cbor",
];

const CONTENT_TYPES: &[&str] = &[
    "application/json; charset=utf-8", "application/json;;", "APPLICATION/JSON", "", "text/plain", "application/yaml", "application/vnd.kubernetes.protobuf", "application/cbor",
    "application/merge-patch+json", "application/json-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml", "application/apply-patch+cbor",
    "multipart/form-data; boundary=x", "application/x-www-form-urlencoded",
];

/// Draws one.
pub fn draw(random: &mut impl Rng, targets: &[Target], memory: &Memory) -> Request {
    // Kinds of definitions are few beside the built-in ones.
    let customs: Vec<usize> = (0..targets.len()).filter(|number| targets[*number].custom).collect();
    let number = match customs.choose(random) {
        Some(number) if random.random_ratio(1, 5) => *number,
        _ => random.random_range(0..targets.len()),
    };
    let target = &targets[number];
    let name = target.names().choose(random).cloned().unwrap_or_default();
    let mut request = match random.random_range(0..100) {
        0..18 => create(random, target, &name),
        18..29 => update(random, target, &name),
        29..50 => patch(random, target, &name),
        50..66 => read(random, target, &name, memory),
        66..78 => raw(random, target, &name),
        78..90 => subresource(random, target, &name),
        _ => delete(random, target, &name),
    };
    request.target = number;
    if random.random_ratio(1, 5) {
        let accept = if random.random_ratio(1, 4) {
            (0..random.random_range(1..8)).map(|_| *PIECES_OF_ACCEPT.choose(random).unwrap_or(&"")).collect()
        } else {
            (*FORMS.choose(random).unwrap_or(&"*/*")).to_owned()
        };
        request.headers.push(("accept", accept));
    }
    if random.random_ratio(1, 25)
        && let Some(header) = request.headers.iter_mut().find(|(name, _)| *name == "content-type")
    {
        header.1 = (*CONTENT_TYPES.choose(random).unwrap_or(&"")).to_owned();
    }
    request
}

/// An object of a target in any of the encodings that a body may have, with its content type.
fn encoded(random: &mut impl Rng, object: &Value) -> (&'static str, Vec<u8>) {
    match random.random_range(0..8) {
        0 => ("application/yaml", yaml(random, object)),
        1 | 2 if shapes().knows(object) => {
            let mut bytes = shapes().encode(object);
            if random.random_ratio(1, 4) {
                mutation::bytes(random, &mut bytes);
            }
            ("application/vnd.kubernetes.protobuf", bytes)
        }
        _ => ("application/json", object.to_string().into_bytes()),
    }
}

/// Something of what stands below an object, with the verbs that it has and some that it has not.
fn subresource(random: &mut impl Rng, target: &Target, name: &str) -> Request {
    let Some(chosen) = target.subresources.choose(random) else { return update(random, target, name) };
    let path = format!("{}/{name}/{}?{}", target.collection, chosen.name, options(random));
    let streams = matches!(&*chosen.name, "exec" | "attach" | "portforward" | "proxy" | "log");
    let verb = if random.random_ratio(1, 12) || streams { "get" } else { chosen.verbs.choose(random).map_or("get", String::as_str) };
    if streams {
        let query = ["follow=x", "tailLines=-1", "command=a&stdout=1", "container=%00", "ports=99999", "sinceTime=x", "limitBytes=0", "path=../a"].choose(random);
        return Request { method: "GET", path: format!("{path}&{}", query.unwrap_or(&"")), headers: Vec::new(), body: Vec::new(), target: 0, writes: None };
    }
    let mut object = match &*chosen.kind.kind {
        "Scale" => json!({"metadata": {"name": name}, "spec": {"replicas": random.random_range(0..4)}}),
        "Eviction" => json!({"metadata": {"name": name}, "deleteOptions": {"gracePeriodSeconds": 0}}),
        "Binding" => json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": "minimal"}}),
        "TokenRequest" => json!({"spec": {"audiences": ["a"], "expirationSeconds": 600, "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "a"}}}),
        _ => {
            let mut object = strange(random, target, name);
            if object.is_object() && random.random_ratio(1, 2) {
                growth::grow(random, &target.schema, &mut object);
                if object["status"].is_null() {
                    object["status"] = json!({});
                    growth::grow(random, &target.schema, &mut object);
                }
            }
            object
        }
    };
    if object["apiVersion"].is_null() && object.is_object() {
        object["apiVersion"] = json!(chosen.kind.group_version().to_string());
        object["kind"] = json!(&*chosen.kind.kind);
        for _ in 0..random.random_range(0..3) {
            mutation::mutate(random, &mut object, &target.words);
        }
    }
    match verb {
        "get" => Request { method: "GET", path, headers: Vec::new(), body: Vec::new(), target: 0, writes: None },
        "patch" => {
            let (kind, change) = match random.random_range(0..4) {
                0 => ("application/json-patch+json", operations(random, target).to_string().into_bytes()),
                1 => ("application/strategic-merge-patch+json", object.to_string().into_bytes()),
                2 => ("application/apply-patch+yaml", if random.random_ratio(1, 2) { yaml(random, &object) } else { object.to_string().into_bytes() }),
                _ => ("application/merge-patch+json", object.to_string().into_bytes()),
            };
            body("PATCH", format!("{path}&fieldManager=fuzz&force={}", random.random::<bool>()), kind, change, name)
        }
        verb => {
            let (kind, bytes) = encoded(random, &object);
            body(if verb == "create" { "POST" } else { "PUT" }, path, kind, bytes, name)
        }
    }
}

fn strange(random: &mut impl Rng, target: &Target, name: &str) -> Value {
    let mut object = target.object.clone();
    object["metadata"]["name"] = json!(name);
    if random.random_ratio(1, 3) {
        growth::grow(random, &target.schema, &mut object);
    }
    for _ in 0..random.random_range(0..4) {
        mutation::mutate(random, &mut object, &target.words);
    }
    object
}

fn options(random: &mut impl Rng) -> String {
    let mut parts = Vec::new();
    for (name, values) in [
        ("dryRun", ["All", "None"]),
        ("fieldValidation", ["Strict", "Ignore"]),
        ("fieldManager", ["fuzz", "\u{e9}%20"]),
        ("pretty", ["true", "1"]),
    ] {
        if random.random_ratio(1, 8) {
            parts.push(format!("{name}={}", escaped(values.choose(random).unwrap_or(&""))));
        }
    }
    parts.join("&")
}

fn body(method: &'static str, path: String, kind: &str, body: Vec<u8>, writes: &str) -> Request {
    Request { method, path, headers: vec![("content-type", kind.to_owned())], body, target: 0, writes: Some(writes.to_owned()) }
}

fn create(random: &mut impl Rng, target: &Target, name: &str) -> Request {
    let path = format!("{}?{}", target.collection, options(random));
    let object = strange(random, target, name);
    let (kind, bytes) = encoded(random, &object);
    body("POST", path, kind, bytes, name)
}

fn update(random: &mut impl Rng, target: &Target, name: &str) -> Request {
    let status = if target.has_status && random.random_ratio(1, 3) { "/status" } else { "" };
    let mut object = strange(random, target, name);
    if !status.is_empty() && object.is_object() {
        object["status"] = mutation::value(random, 0);
    }
    let path = format!("{}/{name}{status}?{}", target.collection, options(random));
    let (kind, bytes) = encoded(random, &object);
    body("PUT", path, kind, bytes, name)
}

fn patch(random: &mut impl Rng, target: &Target, name: &str) -> Request {
    let status = if target.has_status && random.random_ratio(1, 6) { "/status" } else { "" };
    let path = format!("{}/{name}{status}?{}", target.collection, options(random));
    let (kind, change) = match random.random_range(0..4) {
        0 => ("application/json-patch+json", operations(random, target)),
        1 => ("application/merge-patch+json", part(random, target)),
        2 => {
            let mut change = part(random, target);
            if random.random_ratio(1, 3) {
                direct(random, &mut change);
            }
            ("application/strategic-merge-patch+json", change)
        }
        _ => {
            let path = format!("{path}&fieldManager={}&force={}", ["fuzz", "other"].choose(random).unwrap_or(&"fuzz"), random.random::<bool>());
            let object = strange(random, target, name);
            let bytes = if random.random_ratio(1, 3) { yaml(random, &object) } else { object.to_string().into_bytes() };
            return body("PATCH", path, "application/apply-patch+yaml", bytes, name);
        }
    };
    body("PATCH", path, kind, change.to_string().into_bytes(), name)
}

/// A part of an object, strange in places.
fn part(random: &mut impl Rng, target: &Target) -> Value {
    let mut object = target.object.clone();
    if let Value::Object(map) = &mut object {
        map.retain(|key, _| key != "metadata" && random.random_ratio(2, 3));
        if random.random_ratio(1, 2) {
            let (key, value) = (mutation::text(random), mutation::text(random));
            map.insert("metadata".to_owned(), json!({"labels": {key: value}}));
        }
    }
    for _ in 0..random.random_range(0..3) {
        mutation::mutate(random, &mut object, &target.words);
    }
    object
}

/// Adds a directive of strategic merge patches somewhere.
fn direct(random: &mut impl Rng, change: &mut Value) {
    let place = match change {
        Value::Object(map) => {
            let keys: Vec<String> = map.keys().cloned().collect();
            match keys.choose(random).filter(|_| random.random_ratio(2, 3)) {
                Some(key) => return direct(random, &mut map[key.as_str()]),
                None => map,
            }
        }
        Value::Array(list) => {
            let directive = ["delete", "replace", "merge", "x"].choose(random);
            list.push(json!({"$patch": directive, "name": "a"}));
            return;
        }
        _ => return,
    };
    let (key, value) = match random.random_range(0..5) {
        0 => ("$patch".to_owned(), json!(["delete", "replace", "merge", "nonsense"].choose(random))),
        1 => ("$retainKeys".to_owned(), json!(["name", "type", mutation::text(random)])),
        2 => ("$setElementOrder/containers".to_owned(), json!([{"name": "a"}, {"name": mutation::text(random)}])),
        3 => ("$deleteFromPrimitiveList/finalizers".to_owned(), json!([mutation::text(random)])),
        _ => (format!("${}", mutation::text(random)), mutation::value(random, 0)),
    };
    place.insert(key, value);
}

fn operations(random: &mut impl Rng, target: &Target) -> Value {
    let pointer = |random: &mut _| -> String {
        let mut pointer = String::new();
        let mut place = &target.object;
        while Rng::random_ratio(random, 4, 5) {
            match place {
                Value::Object(map) if !map.is_empty() => {
                    let keys: Vec<&String> = map.keys().collect();
                    let Some(key) = keys.choose(random) else { break };
                    pointer.push_str(&format!("/{}", key.replace('~', "~0").replace('/', "~1")));
                    place = &map[key.as_str()];
                }
                Value::Array(list) if !list.is_empty() => {
                    pointer.push_str(["/0", "/-", "/1", "/99999999999999999999", "/-1", "/01"].choose(random).unwrap_or(&"/0"));
                    place = &list[0];
                }
                _ => break,
            }
        }
        if Rng::random_ratio(random, 1, 8) {
            pointer.push('/');
            pointer.push_str(&mutation::text(random));
        }
        pointer
    };
    (0..Rng::random_range(random, 1..4))
        .map(|_| {
            let operation = ["add", "remove", "replace", "move", "copy", "test", "nonsense"].choose(random);
            let (path, from) = (pointer(random), pointer(random));
            let mut one = json!({"op": operation, "path": path, "from": from, "value": mutation::value(random, 0)});
            if random.random_ratio(1, 10) {
                mutation::mutate(random, &mut one, &target.words);
            }
            one
        })
        .collect()
}

/// As browsers escape what may not stand in an address.
fn escaped(text: &str) -> String {
    text.bytes().map(|byte| if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn selector(random: &mut impl Rng) -> String {
    const PIECES: &[&str] =
        &["a", "spec.name", "status.phase", "spec.nodeName", "app", "=", "==", "!=", " in ", " notin ", "(", ")", ",", "!", " ", "a.b/c", "x y", "in", "notin", "<", ">", "1", "é", "metadata.name", "\\", "\\,", "="];
    (0..random.random_range(0..7)).map(|_| *PIECES.choose(random).unwrap_or(&"")).collect()
}

fn read(random: &mut impl Rng, target: &Target, name: &str, memory: &Memory) -> Request {
    let mut path = target.collection.clone();
    if random.random_ratio(1, 4) {
        path = format!("{path}/{name}");
    } else if random.random_ratio(1, 12) {
        path = format!("{path}/{}", escaped(&mutation::text(random)));
    }
    let mut query = Vec::new();
    if random.random_ratio(1, 3) {
        query.push(format!("labelSelector={}", escaped(&selector(random))));
    }
    if random.random_ratio(1, 3) {
        query.push(format!("fieldSelector={}", escaped(&selector(random))));
    }
    for (key, values) in [
        ("limit", ["1", "0", "-1", "99999999999999999999"]),
        ("continue", ["x", "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6LTF9", "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiJhXHUwMDAwIn0", "%00"]),
        ("resourceVersion", ["0", "1", "nonsense", "5"]),
        ("resourceVersionMatch", ["Exact", "NotOlderThan", "Sometimes", ""]),
        ("watch", ["true", "1", "true", "maybe"]),
        ("timeoutSeconds", ["0", "1", "-5", "x"]),
        ("allowWatchBookmarks", ["true", "false", "1", "x"]),
        ("sendInitialEvents", ["true", "false", "true", "x"]),
    ] {
        if random.random_ratio(1, 8) {
            query.push(format!("{key}={}", values.choose(random).unwrap_or(&"")));
        }
    }
    if let Some(token) = memory.tokens.choose(random).filter(|_| random.random_ratio(1, 5)) {
        let mut token = token.clone().into_bytes();
        if random.random_ratio(1, 2) {
            mutation::bytes(random, &mut token);
        }
        query.push(format!("limit=1&continue={}", escaped(&String::from_utf8_lossy(&token))));
    }
    if let Some(revision) = memory.revisions.choose(random).filter(|_| random.random_ratio(1, 5)) {
        query.push(format!("resourceVersion={revision}"));
    }
    Request { method: "GET", path: format!("{path}?{}", query.join("&")), headers: Vec::new(), body: Vec::new(), target: 0, writes: None }
}

fn raw(random: &mut impl Rng, target: &Target, name: &str) -> Request {
    let (kind, mut bytes) = match random.random_range(0..4) {
        0 => ("application/json", target.object.to_string().into_bytes()),
        1 => ("application/yaml", yaml(random, &target.object)),
        2 => ("application/vnd.kubernetes.protobuf", target.protobuf.clone()),
        _ => {
            let length = random.random_range(0..64);
            let bytes = (0..length).map(|_| random.random()).collect();
            (*["application/json", "application/yaml", "application/vnd.kubernetes.protobuf", "application/cbor"].choose(random).unwrap_or(&"application/json"), bytes)
        }
    };
    if random.random_ratio(9, 10) {
        mutation::bytes(random, &mut bytes);
    }
    let path = format!("{}?{}", target.collection, options(random));
    if random.random_ratio(1, 3) { body("PUT", path.replacen('?', &format!("/{name}?"), 1), kind, bytes, name) } else { body("POST", path, kind, bytes, name) }
}

/// An object as people write it, with what YAML has and JSON has not.
fn yaml(random: &mut impl Rng, object: &Value) -> Vec<u8> {
    let mut text = String::new();
    if let Value::Object(map) = object {
        for (key, value) in map {
            text.push_str(&format!("{key}: {value}\n"));
        }
    }
    if random.random_ratio(1, 2) {
        return text.into_bytes();
    }
    text.push_str(["", "---\n", "x: &a [*a]\n", "a: &x {b: *x}\n", "<<: {a: b}\n", "? a\n: b\n", "a: !!binary x\n", "a: |\n  b\n", "a: .inf\n", "a: 0x10\n", "%YAML 1.2\n"].choose(random).unwrap_or(&""));
    text.into_bytes()
}

fn delete(random: &mut impl Rng, target: &Target, name: &str) -> Request {
    let whole = random.random_ratio(1, 6);
    // What every pod of the others needs stays.
    let path = if whole { format!("{}?labelSelector=a", target.collection) } else { format!("{}/{name}?{}", target.collection, options(random)) };
    let policy = ["Background", "Foreground", "Orphan"].choose(random);
    let mut choice = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0, "propagationPolicy": policy});
    if random.random_ratio(1, 3) {
        mutation::mutate(random, &mut choice, &target.words);
    }
    Request {
        method: "DELETE",
        path,
        headers: vec![("content-type", "application/json".to_owned())],
        body: if random.random_ratio(1, 2) { Vec::new() } else { choice.to_string().into_bytes() },
        target: 0,
        writes: None,
    }
}
