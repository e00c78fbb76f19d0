//! A tiny API in memory, for tests of whoever is a client: collections of JSON objects with revisions, watches, patches, finalizers,
//! the status subresource, reading of the scale, and discovery of the kinds it is told of. It validates and defaults nothing and lets
//! everybody in; that is the API server's.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use crate::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{Identity, in_process};

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// The API. Clones share everything.
#[derive(Clone, Default)]
pub struct FakeApi {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<Place, Value>,
    /// Everything that happened; an event's index + 1 is its revision.
    log: Vec<(Place, &'static str, Value)>,
    length: watch::Sender<usize>,
    /// Requests that changed something, as `METHOD path`.
    writes: Vec<String>,
    /// Writes whose `METHOD path` contains the text fail with the code.
    failures: Vec<(String, u16)>,
    /// What discovery says is served.
    served: Vec<Served>,
}

/// A kind that discovery tells of.
struct Served {
    group: String,
    version: String,
    resource: String,
    kind: String,
    namespaced: bool,
}

/// Where an object is: its API prefix (`/apis/apps/v1`), resource, namespace (empty for cluster scope) and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    prefix: String,
    resource: String,
    namespace: String,
    name: String,
}

struct Target {
    place: Place,
    subresource: Option<String>,
}

impl FakeApi {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// A client of it, that of an administrator.
    pub fn client(&self) -> crate::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| -> BoxFuture<'static, Result<Answer, Infallible>> {
            let api = api.clone();
            Box::pin(async move { Ok(api.answer(request).await) })
        });
        in_process(service, Identity::user("admin", &["system:masters"]))
    }

    /// All objects of a kind.
    pub fn objects<K: kube_core::Resource<DynamicType = ()> + serde::de::DeserializeOwned>(&self) -> Vec<K> {
        let path = K::url_path(&(), None);
        let state = self.state.lock();
        let of_kind = state.objects.iter().filter(|(place, _)| format!("{}/{}", place.prefix, place.resource) == path);
        of_kind.filter_map(|(_, object)| serde_json::from_value(object.clone()).ok()).collect()
    }

    /// Lets discovery tell of a kind. (Its objects are kept without that, too.)
    pub fn serve<K: kube_core::Resource<DynamicType = ()>>(&self) {
        let served = Served {
            group: K::group(&()).into_owned(),
            version: K::version(&()).into_owned(),
            resource: K::plural(&()).into_owned(),
            kind: K::kind(&()).into_owned(),
            namespaced: K::url_path(&(), Some("x")).contains("/namespaces/"),
        };
        self.state.lock().served.push(served);
    }

    /// The writes that were asked for so far, as `METHOD path`.
    pub fn writes(&self) -> Vec<String> {
        self.state.lock().writes.clone()
    }

    /// From now on, requests whose `METHOD path` contains `text` fail with `code`.
    pub fn fail(&self, text: &str, code: u16) {
        self.state.lock().failures.push((text.to_owned(), code));
    }

    /// Takes back all of [`FakeApi::fail`].
    pub fn heal(&self) {
        self.state.lock().failures.clear();
    }

    /// Waits until `condition` finds what it looks for.
    pub async fn until<T>(&self, mut condition: impl FnMut(&Self) -> Option<T>) -> T {
        loop {
            let mut length = self.state.lock().length.subscribe();
            if let Some(found) = condition(self) {
                return found;
            }
            let _ = length.changed().await;
        }
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        if let "/api" | "/apis" = parts.uri.path() {
            return self.state.lock().discovery(parts.uri.path() == "/api");
        }
        let Some(target) = Target::parse(parts.uri.path()) else { return failed(404, "NotFound", "no such path") };
        let query: BTreeMap<String, String> = parts
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let asked = format!("{} {}", parts.method, parts.uri.path());
        let failure = self.state.lock().failures.iter().find(|(text, _)| asked.contains(text.as_str())).map(|(_, code)| *code);
        if parts.method == Method::GET {
            if let Some(code) = failure {
                return failed(code, "InternalError", "this read was made to fail");
            }
            return match (target.place.name.is_empty(), query.get("watch").map(String::as_str)) {
                (true, Some("true")) => self.watch(target.place, query.get("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0)),
                (true, _) => self.list(&target.place),
                (false, _) => match self.state.lock().objects.get(&target.place) {
                    Some(object) if target.subresource.as_deref() == Some("scale") => json_answer(200, &scale_of(object)),
                    Some(object) => json_answer(200, object),
                    None => failed(404, "NotFound", "no such object"),
                },
            };
        }
        let bytes = body.collect().await.unwrap_or_default().to_bytes();
        let value = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap_or_default() };
        let content_type = parts.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let mut state = self.state.lock();
        state.writes.push(asked);
        if let Some(code) = failure {
            return failed(code, "InternalError", "this write was made to fail");
        }
        match parts.method {
            Method::POST => state.create(target, value),
            Method::PUT => state.update(target, |_| value),
            Method::PATCH if content_type.contains("apply-patch") && !state.objects.contains_key(&target.place) => {
                state.create(target, value)
            }
            Method::PATCH if content_type.contains("json-patch") => failed(415, "UnsupportedMediaType", "no JSON patches here"),
            Method::PATCH => state.update(target, |mut object| {
                merge(&mut object, value);
                object
            }),
            Method::DELETE if target.place.name.is_empty() => state.delete_collection(&target.place),
            Method::DELETE => state.delete(&target.place, &value),
            _ => failed(405, "MethodNotAllowed", "no such method"),
        }
    }

    fn list(&self, place: &Place) -> Answer {
        let state = self.state.lock();
        let items: Vec<_> = state.objects.iter().filter(|(other, _)| place.holds(other)).map(|(_, object)| object).collect();
        json_answer(200, &json!({ "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": state.log.len().to_string() }, "items": items }))
    }

    fn watch(&self, place: Place, after: usize) -> Answer {
        let api = self.clone();
        let length = self.state.lock().length.subscribe();
        let frames = futures::stream::unfold((after, length), move |(mut position, mut length)| {
            let (api, place) = (api.clone(), place.clone());
            async move {
                loop {
                    let lines: Vec<u8> = {
                        let state = api.state.lock();
                        length.borrow_and_update();
                        let new = state.log.iter().skip(position).filter(|(other, _, _)| place.holds(other));
                        let lines = new.flat_map(|(_, kind, object)| format!("{}\n", json!({ "type": kind, "object": object })).into_bytes());
                        let lines = lines.collect();
                        position = state.log.len();
                        lines
                    };
                    if !lines.is_empty() {
                        return Some((Ok::<_, Infallible>(Frame::data(Bytes::from(lines))), (position, length)));
                    }
                    length.changed().await.ok()?;
                }
            }
        });
        Response::new(BodyExt::boxed_unsync(StreamBody::new(frames)))
    }
}

impl State {
    fn discovery(&self, core: bool) -> Answer {
        let mut groups: BTreeMap<&str, BTreeMap<&str, Vec<Value>>> = BTreeMap::new();
        for served in self.served.iter().filter(|served| served.group.is_empty() == core) {
            let resource = json!({
                "resource": served.resource,
                "responseKind": { "group": served.group, "version": served.version, "kind": served.kind },
                "scope": if served.namespaced { "Namespaced" } else { "Cluster" },
                "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
            });
            groups.entry(&served.group).or_default().entry(&served.version).or_default().push(resource);
        }
        let version = |(version, resources): (&str, Vec<Value>)| json!({ "version": version, "resources": resources });
        let group = |(name, versions): (&str, BTreeMap<&str, Vec<Value>>)| {
            json!({ "metadata": { "name": name }, "versions": versions.into_iter().map(version).collect::<Vec<_>>() })
        };
        json_answer(200, &json!({ "kind": "APIGroupDiscoveryList", "items": groups.into_iter().map(group).collect::<Vec<_>>() }))
    }

    fn create(&mut self, target: Target, mut object: Value) -> Answer {
        if target.subresource.is_some() {
            return json_answer(201, &object);
        }
        let mut place = target.place;
        let text = |object: &Value, field: &str| object.pointer(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        place.name = text(&object, "/metadata/name");
        if place.name.is_empty() {
            place.name = format!("{}{:05}", text(&object, "/metadata/generateName"), self.log.len());
        }
        if self.objects.contains_key(&place) {
            return failed(409, "AlreadyExists", &format!("{} \"{}\" already exists", place.resource, place.name));
        }
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let mut metadata = json!({ "name": place.name, "uid": format!("uid-{}", self.log.len()), "generation": 1, "creationTimestamp": now });
        if !place.namespace.is_empty() {
            metadata["namespace"] = place.namespace.clone().into();
        }
        merge(&mut object, json!({ "metadata": metadata }));
        self.happened(place, "ADDED", object, 201)
    }

    fn update(&mut self, target: Target, change: impl FnOnce(Value) -> Value) -> Answer {
        let Some(old) = self.objects.get(&target.place).cloned() else { return failed(404, "NotFound", "no such object") };
        let mut new = change(old.clone());
        let revision = |object: &Value| object.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
        if !revision(&new).is_null() && revision(&new) != revision(&old) {
            return failed(409, "Conflict", "the object has been modified");
        }
        match target.subresource.as_deref() {
            Some("status") => {
                let status = new["status"].take();
                new = old.clone();
                new["status"] = status;
            }
            _ if new["spec"] != old["spec"] => {
                new["metadata"]["generation"] = (old.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0) + 1).into();
            }
            _ => {}
        }
        for field in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "resourceVersion"] {
            new["metadata"][field] = old["metadata"][field].clone();
        }
        if new == old {
            return json_answer(200, &old);
        }
        let finalizers = new.pointer("/metadata/finalizers").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        let namespace_finalizers = new.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        if !new["metadata"]["deletionTimestamp"].is_null() && !finalizers && !namespace_finalizers {
            self.objects.remove(&target.place);
            return self.happened(target.place, "DELETED", new, 200);
        }
        self.happened(target.place, "MODIFIED", new, 200)
    }

    fn delete(&mut self, place: &Place, options: &Value) -> Answer {
        let Some(mut object) = self.objects.get(place).cloned() else { return failed(404, "NotFound", "no such object") };
        let differs = |name: &str| options.pointer(&format!("/preconditions/{name}")).is_some_and(|wanted| !wanted.is_null() && *wanted != object["metadata"][name]);
        if differs("uid") || differs("resourceVersion") {
            return failed(409, "Conflict", "the object is another, or was changed");
        }
        let finalizer = match options.pointer("/propagationPolicy").and_then(Value::as_str) {
            Some("Foreground") => Some("foregroundDeletion"),
            Some("Orphan") => Some("orphan"),
            _ => None,
        };
        if let Some(finalizer) = finalizer {
            let mut finalizers = object.pointer("/metadata/finalizers").and_then(Value::as_array).cloned().unwrap_or_default();
            finalizers.push(finalizer.into());
            object["metadata"]["finalizers"] = finalizers.into();
        }
        let filled = |path: &str| object.pointer(path).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        let is_namespace = place.resource == "namespaces";
        if filled("/metadata/finalizers") || is_namespace && filled("/spec/finalizers") {
            if object["metadata"]["deletionTimestamp"].is_null() {
                object["metadata"]["deletionTimestamp"] = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
                if is_namespace {
                    object["status"]["phase"] = "Terminating".into();
                }
            }
            return self.happened(place.clone(), "MODIFIED", object, 200);
        }
        self.objects.remove(place);
        self.happened(place.clone(), "DELETED", object, 200)
    }

    fn delete_collection(&mut self, place: &Place) -> Answer {
        let places: Vec<_> = self.objects.keys().filter(|other| place.holds(other)).cloned().collect();
        for place in places {
            self.delete(&place, &Value::Null);
        }
        json_answer(200, &json!({ "kind": "Status", "apiVersion": "v1", "status": "Success" }))
    }

    fn happened(&mut self, place: Place, kind: &'static str, mut object: Value, code: u16) -> Answer {
        object["metadata"]["resourceVersion"] = (self.log.len() + 1).to_string().into();
        if kind != "DELETED" {
            self.objects.insert(place.clone(), object.clone());
        }
        self.log.push((place, kind, object.clone()));
        self.length.send_replace(self.log.len());
        json_answer(code, &object)
    }
}

impl Place {
    /// Whether a collection holds an object.
    fn holds(&self, other: &Self) -> bool {
        self.prefix == other.prefix && self.resource == other.resource && (self.namespace.is_empty() || self.namespace == other.namespace)
    }
}

impl Target {
    fn parse(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let (prefix, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => (format!("/api/{version}"), rest),
            ["apis", group, version, rest @ ..] => (format!("/apis/{group}/{version}"), rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            ["namespaces", _, "status" | "finalize"] => ("", rest),
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            rest => ("", rest),
        };
        let (resource, rest) = rest.split_first()?;
        let place = Place {
            prefix,
            resource: (*resource).to_owned(),
            namespace: namespace.to_owned(),
            name: rest.first().map(|name| (*name).to_owned()).unwrap_or_default(),
        };
        Some(Self { place, subresource: rest.get(1).map(|name| (*name).to_owned()) })
    }
}

/// JSON merge patch, RFC 7396. Of strategic ones only that directives (`$patch`) are no elements of lists.
fn merge(target: &mut Value, patch: Value) {
    let patch = match patch {
        Value::Object(patch) => patch,
        Value::Array(mut list) => {
            list.retain(|element| element.get("$patch").is_none());
            *target = Value::Array(list);
            return;
        }
        other => {
            *target = other;
            return;
        }
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in patch {
        if value.is_null() {
            if let Some(map) = target.as_object_mut() {
                map.remove(&name);
            }
        } else {
            merge(&mut target[name], value);
        }
    }
}

/// The size of an object, its selector being what its status says.
fn scale_of(object: &Value) -> Value {
    let status = json!({ "replicas": object["status"]["replicas"].as_i64().unwrap_or(0), "selector": object["status"]["selector"] });
    json!({ "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": object["metadata"], "spec": { "replicas": object["spec"]["replicas"] }, "status": status })
}

fn json_answer(code: u16, value: &impl serde::Serialize) -> Answer {
    let body = Full::new(Bytes::from(serde_json::to_vec(value).unwrap_or_default()));
    let mut answer = Response::new(BodyExt::boxed_unsync(body));
    *answer.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer
}

fn failed(code: u16, reason: &str, message: &str) -> Answer {
    json_answer(code, &json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Informers, ObjectKey};
    use k8s_openapi::api::core::v1::ConfigMap;
    use crate::Api;
    use kube_core::params::{DeleteParams, Patch, PatchParams, PostParams};
    use tokio_util::sync::CancellationToken;

    #[tokio::test]
    async fn an_informer_follows_what_clients_write() {
        let fake = FakeApi::new();
        let api = Api::<ConfigMap>::namespaced(fake.client(), "x");
        let mut map = ConfigMap::default();
        map.metadata.name = Some("a".to_owned());
        api.create(&PostParams::default(), &map).await.unwrap();
        let informer = Informers::new(fake.client(), CancellationToken::new()).of::<ConfigMap>();
        informer.has_synced().await;
        let mut changes = informer.subscribe();
        assert!(changes.recv().await.unwrap().old.is_none());
        let patched = api.patch("a", &PatchParams::default(), &Patch::Merge(json!({ "data": { "k": "v" } }))).await.unwrap();
        informer.caught_up_with(crate::revision_of(&patched)).await;
        assert_eq!(informer.get(&ObjectKey::namespaced("x", "a")).unwrap().data, patched.data);
        api.delete("a", &DeleteParams::default()).await.unwrap();
        assert!(changes.recv().await.unwrap().new.is_some());
        assert!(changes.recv().await.unwrap().new.is_none());
        assert!(informer.is_empty());
        assert!(crate::is_not_found(&api.get("a").await.unwrap_err()));
    }
}
