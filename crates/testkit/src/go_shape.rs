//! Objects as clients written in Go send them: with everything that Go's types hold and cannot leave out, in protobuf and in JSON.
//!
//! A field of such a type that is no pointer has a value, said or not: the empty text, zero, `false`, an empty message. Go's
//! generated code writes them all into protobuf, and many into JSON, so that a server may not tell "nothing was said" from "that
//! it is nothing". What is no pointer follows from the table of facts (scalars) and from a few rules of names (messages), which
//! hold for every type that Kubernetes 1.28 knows. This encoder shares nothing but that table with the server's own.
//!
//! Source of the rules: the defaults `{}` in the OpenAPI v3 documents of Kubernetes 1.28, and what gogo/protobuf makes of
//! `generated.proto`.

use std::collections::{BTreeSet, HashMap};

use base64::Engine as _;
use serde_json::{Map, Value, json};

/// Messages that are no pointers, by the name of their field.
const VALUES: &str = "acceptedNames backend clientConfig conditions current daemonEndpoints deprecatedSource describedObject \
    involvedObject jobTemplate kubeletEndpoint lastState loadBalancer metadata metric names nodeInfo podAffinityTerm podSelector \
    preference preferredVersion regarding resources roleRef scaleTargetRef source spec state status strategy target template \
    updateStrategy user userInfo";

/// Where the same name is a pointer after all.
const POINTERS: &str = "WebhookConversion.clientConfig NetworkPolicyPeer.podSelector ContainerStatus.resources PodSpec.resources \
    PodStatus.resources ContainerStatus.user Subject.user CustomResourceSubresources.status ReplicationControllerSpec.template \
    AdmissionResponse.status ResourcePoolStatusRequest.status";

/// Times that are pointers; the others are empty messages where they are not set.
const TIME_POINTERS: &str = "deletionTimestamp startTime lastScheduleTime lastSuccessfulTime completionTime timeAdded renewTime \
    acquireTime lastPhaseTransitionTime allocationTimestamp lastScaleTime";

/// What a field holds.
#[derive(Debug, Clone)]
enum Shape {
    Text,
    Truth,
    Integer,
    Double,
    Bytes,
    Quantity,
    IntOrString,
    Time {
        microseconds: bool,
    },
    /// JSON inside a message of its own.
    Json,
    Schema {
        or: &'static str,
    },
    Object(String),
    Map(Box<Shape>),
    List(Box<Shape>),
    /// A list inside a message of its own.
    Wrapped(Box<Shape>),
}

#[derive(Debug, Clone)]
struct Field {
    name: &'static str,
    /// Its number, behind those of the messages that JSON flattens.
    numbers: Vec<u32>,
    shape: Shape,
    pointer: bool,
}

/// What Go's types look like.
pub struct GoShapes {
    types: HashMap<String, Vec<Field>>,
    /// By apiVersion and kind.
    roots: HashMap<(String, String), String>,
}

/// A JSON schema's own type.
const SCHEMA: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

fn resolve(package: &str, name: &str) -> String {
    match name.rsplit_once('.') {
        None => format!("{package}.{name}"),
        Some(("meta.v1", name)) => format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}"),
        Some((short, name)) if short.contains(".pkg.") => format!("io.k8s.{short}.{name}"),
        Some((short, name)) => format!("io.k8s.api.{short}.{name}"),
    }
}

fn shape(package: &str, text: &str) -> Shape {
    let inside = |open, close| {
        text.strip_prefix(open).and_then(|rest: &str| rest.strip_suffix::<char>(close)).map(|inner| Box::new(shape(package, inner)))
    };
    if let Some(inner) = inside('[', ']') {
        return Shape::List(inner);
    }
    if let Some(inner) = inside('{', '}') {
        return Shape::Map(inner);
    }
    if let Some(inner) = inside('<', '>') {
        return Shape::Wrapped(inner);
    }
    match text {
        "string" => Shape::Text,
        "bool" => Shape::Truth,
        "int32" | "int64" => Shape::Integer,
        "double" => Shape::Double,
        "bytes" => Shape::Bytes,
        "quantity" => Shape::Quantity,
        "int-or-string" => Shape::IntOrString,
        "time" => Shape::Time { microseconds: false },
        "micro-time" => Shape::Time { microseconds: true },
        "fields-v1" | "raw" => Shape::Json,
        "schema-or-list" => Shape::Schema { or: "list" },
        "schema-or-bool" => Shape::Schema { or: "bool" },
        "schema-or-names" => Shape::Schema { or: "names" },
        name => Shape::Object(resolve(package, name)),
    }
}

fn is_pointer(object: &str, name: &str, shape: &Shape, facts: &[&str]) -> bool {
    let listed = |list: &str, word: &str| list.split_whitespace().any(|known| known == word);
    match shape {
        Shape::Text | Shape::Truth | Shape::Integer | Shape::Double => {
            facts.contains(&"pointer") || (object, name) == ("HTTPIngressPath", "pathType")
        }
        // Empty ones are left out, whatever the type says.
        Shape::Bytes | Shape::Map(_) | Shape::List(_) => true,
        Shape::Wrapped(_) | Shape::Schema { .. } => !facts.contains(&"required"),
        Shape::Quantity => !(name == "divisor" || matches!((object, name), ("Counter" | "DeviceCapacity", "value"))),
        Shape::IntOrString => !(name == "targetPort" || name == "port" && object != "NetworkPolicyPort"),
        Shape::Time { .. } => listed(TIME_POINTERS, name) || (object, name) == ("ManagedFieldsEntry", "time"),
        Shape::Json => true,
        Shape::Object(of) => !listed(VALUES, name) || listed(POINTERS, &format!("{object}.{name}")) || of.ends_with("WebhookConversion"),
    }
}

impl Default for GoShapes {
    fn default() -> Self {
        Self::new()
    }
}

impl GoShapes {
    /// From the table of facts.
    ///
    /// # Panics
    /// Where that table is not what it was.
    pub fn new() -> Self {
        let (mut types, mut roots) = (HashMap::<String, Vec<Field>>::new(), HashMap::new());
        let (mut package, mut object) = ("", "");
        for line in include_str!("../../api/tables/types.txt").lines().filter(|line| !line.starts_with('#')) {
            let facts = line.split_once(" default=").map_or(line, |(facts, _)| facts);
            if let Some(name) = line.strip_prefix("= ") {
                package = name;
            } else if let Some(field) = facts.strip_prefix(' ') {
                let words: Vec<&'static str> = field.split(' ').collect();
                let [name, numbers, text, facts @ ..] = &words[..] else { panic!("a field that is none: {line}") };
                let numbers: Vec<u32> = numbers.split('.').map(|number| number.parse().expect("a number")).collect();
                if numbers != [0] {
                    let shape = shape(package, text);
                    let pointer = is_pointer(object, name, &shape, facts);
                    types.entry(format!("{package}.{object}")).or_default().push(Field { name, numbers, shape, pointer });
                }
            } else {
                let mut words = facts.split(' ');
                object = words.next().unwrap_or_default();
                let full = format!("{package}.{object}");
                for root in words.filter_map(|word| word.strip_prefix("root=")) {
                    let (api_version, kind) = root.rsplit_once('/').expect("apiVersion and kind");
                    roots.insert((api_version.trim_start_matches('/').to_owned(), kind.to_owned()), full.clone());
                }
                types.entry(full).or_default();
            }
        }
        types.values_mut().for_each(|fields| fields.sort_by(|left, right| left.numbers.cmp(&right.numbers)));
        Self { types, roots }
    }

    fn root(&self, object: &Value) -> &str {
        let text = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        self.roots
            .get(&(api_version.clone(), kind.clone()))
            .or_else(|| self.roots.get(&("*/*".to_owned(), kind.clone())))
            .unwrap_or_else(|| panic!("no type of {api_version} {kind}"))
    }

    /// Whether there is a type of an object's kind.
    pub fn knows(&self, object: &Value) -> bool {
        let text = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
        self.roots.contains_key(&(text("apiVersion"), text("kind")))
    }

    /// The object with everything that Go's types hold: zeros where nothing is said, and nothing where nothing can be said. Two objects
    /// that are one to a Go client are equal after this.
    ///
    /// # Panics
    /// Where no kind of Kubernetes' own is so called.
    pub fn complete(&self, object: &Value) -> Value {
        let mut whole = self.completed(self.root(object), object);
        for name in ["apiVersion", "kind"] {
            whole[name] = object[name].clone();
        }
        whole
    }

    fn completed(&self, of: &str, value: &Value) -> Value {
        let Some(given) = value.as_object() else { return value.clone() };
        let mut map: Map<String, Value> =
            given.iter().filter(|(name, _)| !self.has(of, name)).map(|(name, value)| (name.clone(), value.clone())).collect();
        for field in self.types.get(of).into_iter().flatten() {
            let zero = (!field.pointer).then(|| self.zero(&field.shape));
            let content = match given.get(field.name) {
                None | Some(Value::Null) => zero,
                Some(content) => Some(self.completed_item(&field.shape, content)).filter(|content| !is_nothing(&field.shape, content)),
            };
            if let Some(content) = content.filter(|content| !content.is_null()) {
                map.insert(field.name.to_owned(), content);
            }
        }
        Value::Object(map)
    }

    fn has(&self, of: &str, name: &str) -> bool {
        self.types.get(of).is_some_and(|fields| fields.iter().any(|field| field.name == name))
    }

    fn zero(&self, shape: &Shape) -> Value {
        match shape {
            Shape::Text => json!(""),
            Shape::Truth => json!(false),
            Shape::Integer | Shape::Double | Shape::IntOrString => json!(0),
            Shape::Quantity => json!("0"),
            Shape::Object(of) => self.completed(of, &json!({})),
            _ => Value::Null,
        }
    }

    fn completed_item(&self, shape: &Shape, value: &Value) -> Value {
        match (shape, value) {
            (Shape::Time { .. }, Value::String(text)) if text.starts_with("0001-01-01T00:00:00") => Value::Null,
            (Shape::Object(of), value) => self.completed(of, value),
            (Shape::List(inner), Value::Array(list)) => list.iter().map(|value| self.completed_item(inner, value)).collect(),
            (Shape::Map(inner), Value::Object(map)) => {
                Value::Object(map.iter().map(|(key, value)| (key.clone(), self.completed_item(inner, value))).collect())
            }
            (_, value) => value.clone(),
        }
    }

    /// The document that a client in Go sends.
    ///
    /// # Panics
    /// As [`GoShapes::complete`].
    pub fn encode(&self, object: &Value) -> Vec<u8> {
        let text = |name: &str| object[name].as_str().unwrap_or_default().as_bytes().to_vec();
        let mut header = Vec::new();
        bytes(&mut header, 1, &text("apiVersion"));
        bytes(&mut header, 2, &text("kind"));
        let mut out = b"k8s\0".to_vec();
        bytes(&mut out, 1, &header);
        bytes(&mut out, 2, &self.message(self.root(object), object));
        bytes(&mut out, 3, b"");
        bytes(&mut out, 4, b"");
        out
    }

    fn message(&self, of: &str, value: &Value) -> Vec<u8> {
        let fields: Vec<(&[u32], &Field)> = self.types.get(of).into_iter().flatten().map(|field| (&field.numbers[..], field)).collect();
        self.fields(&fields, value)
    }

    fn fields(&self, fields: &[(&[u32], &Field)], value: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        for group in fields.chunk_by(|(left, _), (right, _)| left.first() == right.first()) {
            let Some((numbers, first)) = group.first() else { continue };
            let Some((number, below)) = numbers.split_first() else { continue };
            if !below.is_empty() {
                // A type that Go embeds: a message that is always there.
                let inner: Vec<(&[u32], &Field)> = group.iter().map(|(numbers, field)| (&numbers[1..], *field)).collect();
                bytes(&mut out, *number, &self.fields(&inner, value));
                continue;
            }
            match (&first.shape, &value[first.name]) {
                (_, Value::Null) if first.pointer => {}
                (Shape::List(inner), Value::Array(list)) => list.iter().for_each(|value| self.item(&mut out, *number, inner, value)),
                (Shape::Map(inner), Value::Object(map)) => {
                    for (key, value) in map {
                        let mut entry = Vec::new();
                        bytes(&mut entry, 1, key.as_bytes());
                        self.item(&mut entry, 2, inner, value);
                        bytes(&mut out, *number, &entry);
                    }
                }
                (shape, value) => self.item(&mut out, *number, shape, value),
            }
        }
        out
    }

    fn item(&self, out: &mut Vec<u8>, number: u32, shape: &Shape, value: &Value) {
        let text = || value.as_str().unwrap_or_default();
        match shape {
            Shape::Text => bytes(out, number, text().as_bytes()),
            Shape::Truth => integer(out, number, value.as_bool().unwrap_or_default().into()),
            Shape::Integer => integer(out, number, value.as_i64().unwrap_or_default()),
            Shape::Double => {
                varint(out, u64::from(number) << 3 | 1);
                out.extend_from_slice(&value.as_f64().unwrap_or_default().to_le_bytes());
            }
            Shape::Bytes => bytes(out, number, &base64::engine::general_purpose::STANDARD.decode(text()).unwrap_or_default()),
            Shape::Quantity => {
                let amount = match value {
                    Value::String(text) => text.clone(),
                    Value::Number(number) => number.to_string(),
                    _ => "0".to_owned(),
                };
                message(out, number, |inner| bytes(inner, 1, amount.as_bytes()));
            }
            Shape::IntOrString => message(out, number, |inner| {
                integer(inner, 1, i64::from(value.is_string()));
                integer(inner, 2, value.as_i64().unwrap_or_default());
                bytes(inner, 3, text().as_bytes());
            }),
            Shape::Time { microseconds } => message(out, number, |inner| {
                let Ok(time) = text().parse::<jiff::Timestamp>() else { return };
                if text().starts_with("0001-01-01T00:00:00") {
                    return;
                }
                // Nanoseconds count upwards, also before 1970.
                let nanoseconds = time.as_nanosecond();
                integer(inner, 1, i64::try_from(nanoseconds.div_euclid(1_000_000_000)).unwrap_or_default());
                integer(inner, 2, if *microseconds { i64::try_from(nanoseconds.rem_euclid(1_000_000_000)).unwrap_or_default() } else { 0 });
            }),
            Shape::Json => message(out, number, |inner| bytes(inner, 1, value.to_string().as_bytes())),
            Shape::Object(of) => bytes(out, number, &self.message(of, value)),
            Shape::Wrapped(inner) => {
                message(out, number, |out| value.as_array().into_iter().flatten().for_each(|value| self.item(out, 1, inner, value)));
            }
            Shape::Schema { or } => message(out, number, |out| match (*or, value) {
                ("bool", Value::Bool(allowed)) => integer(out, 1, (*allowed).into()),
                ("bool", schema) => {
                    integer(out, 1, 1);
                    bytes(out, 2, &self.message(SCHEMA, schema));
                }
                ("list", Value::Array(list)) => list.iter().for_each(|schema| bytes(out, 2, &self.message(SCHEMA, schema))),
                ("names", Value::Array(list)) => list.iter().for_each(|name| bytes(out, 2, name.as_str().unwrap_or_default().as_bytes())),
                (_, schema) => bytes(out, 1, &self.message(SCHEMA, schema)),
            }),
            Shape::List(_) | Shape::Map(_) => {}
        }
    }
}

/// Empty lists, maps and bytes are not there, as far as Go's types are concerned.
fn is_nothing(shape: &Shape, value: &Value) -> bool {
    match (shape, value) {
        (Shape::List(_) | Shape::Wrapped(_), Value::Array(list)) => list.is_empty(),
        (Shape::Map(_), Value::Object(map)) => map.is_empty(),
        (Shape::Bytes, Value::String(text)) => text.is_empty(),
        _ => false,
    }
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Negative numbers take ten bytes, of whatever width they are.
fn integer(out: &mut Vec<u8>, number: u32, value: i64) {
    varint(out, u64::from(number) << 3);
    varint(out, value.cast_unsigned());
}

fn bytes(out: &mut Vec<u8>, number: u32, content: &[u8]) {
    varint(out, u64::from(number) << 3 | 2);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

fn message(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    write(&mut inner);
    bytes(out, number, &inner);
}

/// The text without what is drawn by chance: UIDs, and the name of the volume with a service account's token.
fn without_chance(text: &str) -> String {
    let volume = text.split("kube-api-access-").nth(1).and_then(|rest| rest.get(..5)).map(|letters| format!("kube-api-access-{letters}"));
    let mut rest = volume.map_or_else(|| text.to_owned(), |volume| text.replace(&volume, "kube-api-access"));
    let is_uid = |part: &[u8]| {
        let dash = |(at, byte): (usize, &u8)| if matches!(at, 8 | 13 | 18 | 23) { *byte == b'-' } else { byte.is_ascii_hexdigit() };
        part.iter().enumerate().all(dash)
    };
    while let Some(place) = rest.as_bytes().windows(36).position(is_uid) {
        rest.replace_range(place..place + 36, "uid");
    }
    rest
}

/// What two answers must have in common: the causes of a refusal, or the object without what differs from one creation to the next.
pub fn essence(shapes: &GoShapes, status: u16, mut tree: Value) -> Value {
    tree = serde_json::from_str(&without_chance(&tree.to_string())).unwrap_or_default();
    if status >= 400 {
        let causes: BTreeSet<String> = tree["details"]["causes"].as_array().into_iter().flatten().map(Value::to_string).collect();
        let message = if causes.is_empty() { tree["message"].take() } else { Value::Null };
        return json!({"code": tree["code"], "reason": tree["reason"], "causes": causes, "message": message});
    }
    for name in ["creationTimestamp", "resourceVersion"] {
        tree["metadata"][name].take();
    }
    for name in ["clusterIP", "clusterIPs"] {
        tree["spec"].as_object_mut().map(|spec| spec.remove(name));
    }
    // When a device's taint was added is when it was asked for, where nobody says another time.
    tree["spec"]["taint"].as_object_mut().map(|taint| taint.remove("timeAdded"));
    for port in tree["spec"]["ports"].as_array_mut().into_iter().flatten() {
        port.as_object_mut().map(|port| port.remove("nodePort"));
    }
    for entry in tree["metadata"]["managedFields"].as_array_mut().into_iter().flatten() {
        entry["time"].take();
        entry["fieldsV1"] = json!(entry["fieldsV1"].to_string());
    }
    for condition in tree["status"]["conditions"].as_array_mut().into_iter().flatten() {
        condition["lastTransitionTime"].take();
        condition["lastUpdateTime"].take();
    }
    shapes.complete(&tree)
}

/// Where two trees differ first.
pub fn difference(left: &Value, right: &Value, path: &str) -> Option<String> {
    match (left, right) {
        (Value::Object(one), Value::Object(other)) => {
            let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
            names.into_iter().find_map(|name| difference(&left[name], &right[name], &format!("{path}.{name}")))
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            one.iter().zip(other).enumerate().find_map(|(index, (left, right))| difference(left, right, &format!("{path}[{index}]")))
        }
        _ => (left != right).then(|| format!("{path}: {left} or {right}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_pointer_is_always_there() {
        let shapes = GoShapes::new();
        let service = json!({"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 80}]}});
        assert_eq!(
            shapes.complete(&service)["spec"]["ports"][0],
            json!({"name": "", "protocol": "", "port": 80, "targetPort": 0, "nodePort": 0})
        );
        assert_eq!(shapes.complete(&service)["status"], json!({"loadBalancer": {}}));
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
        let whole = shapes.complete(&pod);
        assert_eq!(whole["spec"]["volumes"][0], json!({"name": "v", "emptyDir": {"medium": ""}}));
        assert!(whole["spec"]["terminationGracePeriodSeconds"].is_null() && whole["spec"]["hostNetwork"] == false, "{whole}");
    }

    #[test]
    fn an_embedded_message_is_written_even_when_it_is_empty() {
        let shapes = GoShapes::new();
        let document = shapes.encode(&json!({"apiVersion": "v1", "kind": "Pod", "spec": {"volumes": [{"name": "v"}]}}));
        // Volume {name: "v", volumeSource: {}}
        assert!(document.windows(7).any(|window| window == [0x0a, 5, 0x0a, 1, b'v', 0x12, 0]));
        assert_eq!(api::protobuf::decode_document(&document).unwrap()["spec"]["volumes"], json!([{"name": "v"}]));
    }
}
