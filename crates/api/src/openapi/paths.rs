//! Paths and their operations. Clients look up here which parameters an operation takes and of which kind a path is.

use meta::GroupVersion;
use serde_json::{Map, Value, json};

use super::{Dialect, PublishedKind, schemas::{META, Schemas}};

/// A parameter: name, type and what it does.
type Parameter = (&'static str, &'static str, &'static str);

const DRY_RUN: Parameter = ("dryRun", "string", "`All` goes through every step but the last: nothing is stored.");
const FIELD_MANAGER: Parameter = ("fieldManager", "string", "Who makes this change, for `metadata.managedFields`. Apply needs it.");
const FIELD_VALIDATION: Parameter =
    ("fieldValidation", "string", "What happens to unknown and repeated fields: `Ignore`, `Warn` (a header tells them) or `Strict` (the request fails).");
const FORCE: Parameter = ("force", "boolean", "Apply takes fields over that others own.");
const RESOURCE_VERSION: Parameter = ("resourceVersion", "string", "The revision that the answer must not be older than, or where a watch begins.");
const SELECTORS: [Parameter; 2] = [
    ("fieldSelector", "string", "Only objects whose fields have these values."),
    ("labelSelector", "string", "Only objects whose labels match."),
];
const LIST: [Parameter; 8] = [
    ("allowWatchBookmarks", "boolean", "A watch may send `BOOKMARK` events, which only carry a revision."),
    ("continue", "string", "Where the list goes on, from the `continue` of the page before."),
    ("limit", "integer", "The most objects that one page may have."),
    ("resourceVersionMatch", "string", "How `resourceVersion` is meant: `Exact` or `NotOlderThan`."),
    ("sendInitialEvents", "boolean", "A watch begins with the objects that are there, then a bookmark."),
    ("shardSelector", "string", "Only objects of these shards."),
    ("timeoutSeconds", "integer", "How long a list or watch may take."),
    ("watch", "boolean", "Changes follow as a stream of events."),
];
const DELETE: [Parameter; 4] = [
    ("gracePeriodSeconds", "integer", "How long the object may take to end; 0 ends it at once."),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean", "Deletes an object that cannot be read any more, whatever follows from it."),
    ("orphanDependents", "boolean", "Replaced by `propagationPolicy`."),
    ("propagationPolicy", "string", "What happens to dependents: `Orphan`, `Background` or `Foreground`."),
];

/// Strategic merge comes last, since custom resources do without: kubectl asks here which one to send.
const PATCH_TYPES: [&str; 4] =
    ["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml", "application/strategic-merge-patch+json"];

/// Options of subresources that are connected to, with what may be asked for in the query. Lists are given again and again.
const CONNECTIONS: [(&str, &[(&str, &str)]); 6] = [
    ("NodeProxyOptions", &[("path", "string")]),
    ("PodAttachOptions", &[("container", "string"), ("stderr", "boolean"), ("stdin", "boolean"), ("stdout", "boolean"), ("tty", "boolean")]),
    (
        "PodExecOptions",
        &[("command", "string"), ("container", "string"), ("stderr", "boolean"), ("stdin", "boolean"), ("stdout", "boolean"), ("tty", "boolean")],
    ),
    ("PodPortForwardOptions", &[("ports", "integer")]),
    ("PodProxyOptions", &[("path", "string")]),
    ("ServiceProxyOptions", &[("path", "string")]),
];

/// All paths of the kinds; what they refer to is defined in `schemas`.
pub(super) fn write(kinds: &[&PublishedKind], schemas: &mut Schemas) -> Map<String, Value> {
    let mut paths = Map::new();
    for kind in kinds {
        let version = kind.kind.group_version();
        let prefix = format!("/{}", super::path_of(&version));
        paths.entry(format!("{prefix}/")).or_insert_with(|| resource_list(&version, schemas));
        Kind { kind, version: &version, prefix: &prefix }.write(&mut paths, schemas);
    }
    paths
}

fn resource_list(version: &GroupVersion, schemas: &mut Schemas) -> Value {
    let list = schemas.named(&format!("{META}.APIResourceList"));
    let operation = Operation {
        verb: "get",
        action: "",
        identifier: format!("get{}APIResources", camel(version)),
        description: "list the resources of this group and version".to_owned(),
        parameters: Vec::new(),
        body: None,
        answer: Some(list),
        codes: &[("200", "OK")],
        custom: false,
    };
    json!({"get": operation.write(schemas.dialect, version, None)})
}

/// What is told of one operation.
struct Operation {
    verb: &'static str,
    action: &'static str,
    identifier: String,
    description: String,
    parameters: Vec<Parameter>,
    body: Option<Value>,
    answer: Option<Value>,
    codes: &'static [(&'static str, &'static str)],
    custom: bool,
}

impl Operation {
    fn write(self, dialect: Dialect, version: &GroupVersion, kind: Option<&meta::GroupVersionKind>) -> Value {
        let patch = self.verb == "patch";
        let patch_types = if self.custom { &PATCH_TYPES[..3] } else { &PATCH_TYPES[..] };
        let mut operation = Map::new();
        let mut parameters: Vec<Value> = self.parameters.iter().map(|parameter| query(dialect, *parameter)).collect();
        match (dialect, self.body) {
            (_, None) => {}
            (Dialect::V2, Some(body)) => {
                parameters.insert(0, json!({"name": "body", "in": "body", "required": self.verb != "delete", "schema": body}));
            }
            (Dialect::V3, Some(body)) => {
                let types: &[&str] = if patch { patch_types } else { &["*/*"] };
                let content: Map<String, Value> = types.iter().map(|name| ((*name).to_owned(), json!({"schema": body}))).collect();
                operation.insert("requestBody".to_owned(), json!({"content": content, "required": self.verb != "delete"}));
            }
        }
        if dialect == Dialect::V2 {
            let consumes: &[&str] = if patch { patch_types } else { &["*/*"] };
            operation.insert("consumes".to_owned(), json!(consumes));
            operation.insert("produces".to_owned(), json!(["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"]));
            operation.insert("schemes".to_owned(), json!(["https"]));
        }
        if !parameters.is_empty() {
            operation.insert("parameters".to_owned(), Value::Array(parameters));
        }
        let mut responses: Map<String, Value> = self
            .codes
            .iter()
            .map(|(code, words)| {
                let response = match (&self.answer, dialect) {
                    (None, _) => json!({"description": words}),
                    (Some(schema), Dialect::V2) => json!({"description": words, "schema": schema}),
                    (Some(schema), Dialect::V3) => {
                        let content = json!({"application/json": {"schema": schema}, "application/yaml": {"schema": schema}, "application/vnd.kubernetes.protobuf": {"schema": schema}});
                        json!({"description": words, "content": content})
                    }
                };
                ((*code).to_owned(), response)
            })
            .collect();
        responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
        operation.insert("responses".to_owned(), Value::Object(responses));
        operation.insert("operationId".to_owned(), Value::String(self.identifier));
        operation.insert("description".to_owned(), Value::String(self.description));
        operation.insert("tags".to_owned(), json!([tag(version)]));
        if !self.action.is_empty() {
            operation.insert("x-kubernetes-action".to_owned(), json!(self.action));
        }
        if let Some(kind) = kind {
            operation.insert("x-kubernetes-group-version-kind".to_owned(), json!({"group": &*kind.group, "version": &*kind.version, "kind": &*kind.kind}));
        }
        Value::Object(operation)
    }
}

struct Kind<'a> {
    kind: &'a PublishedKind,
    version: &'a GroupVersion,
    prefix: &'a str,
}

const OK: &[(&str, &str)] = &[("200", "OK")];
const CREATED: &[(&str, &str)] = &[("200", "OK"), ("201", "Created"), ("202", "Accepted")];
const UPDATED: &[(&str, &str)] = &[("200", "OK"), ("201", "Created")];
const DELETED: &[(&str, &str)] = &[("200", "OK"), ("202", "Accepted")];

impl Kind<'_> {
    fn write(&self, paths: &mut Map<String, Value>, schemas: &mut Schemas) {
        let (own, list) = schemas.kind(self.kind);
        let base = if self.kind.namespaced { format!("{}/namespaces/{{namespace}}", self.prefix) } else { self.prefix.to_owned() };
        let collection = format!("{base}/{}", self.kind.plural);
        let has = |verb: &str| self.kind.verbs.iter().any(|known| known == verb);
        let scope = if self.kind.namespaced { "Namespaced" } else { "" };

        let mut operations = Map::new();
        if has("list") {
            operations.insert("get".to_owned(), self.list(schemas, scope, list.clone()));
        }
        if has("create") {
            operations.insert("post".to_owned(), self.operation(schemas, "create", &format!("{scope}{}", self.kind.kind.kind), "", own.clone(), own.clone()));
        }
        if has("deletecollection") {
            let options = schemas.named(&format!("{META}.DeleteOptions"));
            let status = schemas.named(&format!("{META}.Status"));
            operations.insert("delete".to_owned(), self.operation(schemas, "deletecollection", &format!("Collection{scope}{}", self.kind.kind.kind), "", Some(options), Some(status)));
        }
        insert(paths, schemas.dialect, collection.clone(), operations, self.kind.namespaced, None);

        if self.kind.namespaced && has("list") {
            let everywhere = Map::from_iter([("get".to_owned(), self.list(schemas, "ForAllNamespaces", list))]);
            insert(paths, schemas.dialect, format!("{}/{}", self.prefix, self.kind.plural), everywhere, false, None);
        }

        let operations = self.item(schemas, &self.kind.verbs, "", &self.kind.kind, own.as_ref());
        insert(paths, schemas.dialect, format!("{collection}/{{name}}"), operations, self.kind.namespaced, Some(&self.kind.kind.kind));

        for subresource in &self.kind.subresources {
            if let Some((_, options)) = CONNECTIONS.iter().find(|(kind, _)| *kind == &*subresource.kind.kind) {
                self.connections(paths, schemas.dialect, &format!("{collection}/{{name}}"), subresource, options);
                continue;
            }
            let content = if subresource.kind == self.kind.kind { own.clone() } else { schemas.built_in(&subresource.kind) };
            let mut operations = self.item(schemas, &subresource.verbs, &subresource.name, &subresource.kind, content.as_ref());
            if subresource.verbs.iter().any(|verb| verb == "create") {
                operations.insert("post".to_owned(), self.operation_of(schemas, "create", &format!("{scope}{}", self.kind.kind.kind), &subresource.name, &subresource.kind, content.clone(), content));
            }
            insert(paths, schemas.dialect, format!("{collection}/{{name}}/{}", subresource.name), operations, self.kind.namespaced, Some(&subresource.kind.kind));
        }
    }

    /// Operations that hand a connection on instead of answering themselves.
    fn connections(&self, paths: &mut Map<String, Value>, dialect: Dialect, item: &str, subresource: &super::PublishedSubresource, options: &[(&'static str, &'static str)]) {
        let proxy = subresource.name == "proxy";
        let methods: &[&str] = if proxy { &["delete", "get", "head", "options", "patch", "post", "put"] } else { &["get", "post"] };
        let scope = if self.kind.namespaced { "Namespaced" } else { "" };
        let kind = &self.kind.kind;
        let (words, string) = (format!("Name of the {}.", subresource.kind.kind), json!({"type": "string"}));
        let answers = match dialect {
            Dialect::V2 => json!({"description": "OK", "schema": string}),
            Dialect::V3 => json!({"description": "OK", "content": {"*/*": {"schema": string}}}),
        };
        for (below, with) in [("", ""), ("/{path}", "WithPath")].into_iter().take(1 + usize::from(proxy)) {
            let mut operations = Map::new();
            for method in methods {
                let mut operation = json!({
                    "description": format!("connect {} requests to {} of {}", method.to_uppercase(), subresource.name, kind.kind),
                    "operationId": format!("connect{}{}{scope}{}{}{with}", camel(self.version), capital(method), kind.kind, capital(&subresource.name)),
                    "responses": {"200": answers, "401": {"description": "Unauthorized"}},
                    "tags": [tag(self.version)],
                    "x-kubernetes-action": "connect",
                    "x-kubernetes-group-version-kind": {"group": &*kind.group, "version": &*kind.version, "kind": &*kind.kind},
                });
                if dialect == Dialect::V2 {
                    operation["consumes"] = json!(["*/*"]);
                    operation["produces"] = json!(["*/*"]);
                    operation["schemes"] = json!(["https"]);
                }
                operations.insert((*method).to_owned(), operation);
            }
            let mut parameters = vec![in_path(dialect, "name", &words)];
            if self.kind.namespaced {
                parameters.push(in_path(dialect, "namespace", "Namespace of the object."));
            }
            if !below.is_empty() {
                parameters.push(in_path(dialect, "path", "Where to go on behind the proxy."));
            }
            parameters.extend(options.iter().map(|&(name, kind)| query(dialect, (name, kind, "As the options of the connection have it."))));
            operations.insert("parameters".to_owned(), Value::Array(parameters));
            paths.insert(format!("{item}/{}{below}", subresource.name), Value::Object(operations));
        }
    }

    /// Operations on one object or a subresource of it.
    fn item(&self, schemas: &mut Schemas, verbs: &[String], subresource: &str, kind: &meta::GroupVersionKind, content: Option<&Value>) -> Map<String, Value> {
        let scope = if self.kind.namespaced { "Namespaced" } else { "" };
        let name = format!("{scope}{}", self.kind.kind.kind);
        let mut operations = Map::new();
        for verb in verbs {
            let (method, body, answer) = match verb.as_str() {
                "get" => ("get", None, content.cloned()),
                "update" => ("put", content.cloned(), content.cloned()),
                "patch" => ("patch", Some(schemas.named(&format!("{META}.Patch"))), content.cloned()),
                "delete" => ("delete", Some(schemas.named(&format!("{META}.DeleteOptions"))), Some(schemas.named(&format!("{META}.Status")))),
                _ => continue,
            };
            let verb = match method {
                "put" => "update",
                other => other,
            };
            operations.insert(method.to_owned(), self.operation_of(schemas, verb, &name, subresource, kind, body, answer));
        }
        operations
    }

    fn list(&self, schemas: &Schemas, scope: &str, list: Option<Value>) -> Value {
        let name = if scope == "ForAllNamespaces" { format!("{}{scope}", self.kind.kind.kind) } else { format!("{scope}{}", self.kind.kind.kind) };
        self.operation(schemas, "list", &name, "", None, list)
    }

    fn operation(&self, schemas: &Schemas, verb: &'static str, name: &str, subresource: &str, body: Option<Value>, answer: Option<Value>) -> Value {
        self.operation_of(schemas, verb, name, subresource, &self.kind.kind, body, answer)
    }

    #[allow(clippy::too_many_arguments, reason = "an operation is told by this many facts, and they are gathered in one place")]
    fn operation_of(&self, schemas: &Schemas, verb: &'static str, name: &str, subresource: &str, kind: &meta::GroupVersionKind, body: Option<Value>, answer: Option<Value>) -> Value {
        let writes = vec![DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
        let (verb, action, word, parameters, codes): (_, _, _, Vec<Parameter>, _) = match verb {
            "create" => ("post", "post", "create", writes, CREATED),
            "update" => ("put", "put", "replace", writes, UPDATED),
            "patch" => ("patch", "patch", "patch", [writes, vec![FORCE]].concat(), UPDATED),
            "delete" => ("delete", "delete", "delete", [&[DRY_RUN], &DELETE[..]].concat(), DELETED),
            "deletecollection" => {
                let paging: Vec<Parameter> = LIST.into_iter().filter(|(name, ..)| !["allowWatchBookmarks", "watch"].contains(name)).collect();
                ("delete", "deletecollection", "delete", [&[DRY_RUN], &SELECTORS[..], &DELETE[..], &[RESOURCE_VERSION], &paging[..]].concat(), OK)
            }
            "list" => ("get", "list", "list", [&SELECTORS[..], &LIST[..], &[RESOURCE_VERSION]].concat(), OK),
            _ => ("get", "get", "read", if subresource.is_empty() { vec![RESOURCE_VERSION] } else { Vec::new() }, OK),
        };
        let about = if subresource.is_empty() { String::new() } else { format!("{subresource} of ") };
        let operation = Operation {
            verb,
            action,
            identifier: format!("{word}{}{name}{}", camel(self.version), capital(subresource)),
            description: format!("{word} {about}{}", self.kind.kind.kind),
            parameters,
            body,
            answer,
            codes,
            custom: self.kind.custom.is_some(),
        };
        operation.write(schemas.dialect, self.version, Some(kind))
    }
}

/// Adds a path, with the parameters that stand in it, unless nothing can be done there.
fn insert(paths: &mut Map<String, Value>, dialect: Dialect, path: String, mut operations: Map<String, Value>, namespaced: bool, named: Option<&str>) {
    if operations.is_empty() {
        return;
    }
    let mut parameters = Vec::new();
    if let Some(kind) = named {
        parameters.push(in_path(dialect, "name", &format!("Name of the {kind}.")));
    }
    if namespaced {
        parameters.push(in_path(dialect, "namespace", "Namespace of the object."));
    }
    parameters.push(query(dialect, ("pretty", "string", "`true` asks for indented output.")));
    operations.insert("parameters".to_owned(), Value::Array(parameters));
    paths.insert(path, Value::Object(operations));
}

fn query(dialect: Dialect, (name, kind, words): Parameter) -> Value {
    match dialect {
        Dialect::V2 => json!({"name": name, "in": "query", "description": words, "type": kind, "uniqueItems": true}),
        Dialect::V3 => json!({"name": name, "in": "query", "description": words, "schema": {"type": kind, "uniqueItems": true}}),
    }
}

fn in_path(dialect: Dialect, name: &str, words: &str) -> Value {
    match dialect {
        Dialect::V2 => json!({"name": name, "in": "path", "required": true, "description": words, "type": "string", "uniqueItems": true}),
        Dialect::V3 => json!({"name": name, "in": "path", "required": true, "description": words, "schema": {"type": "string", "uniqueItems": true}}),
    }
}

/// `AppsV1`, `CoreV1`, `CertificatesV1`: how operations name a group and version.
fn camel(version: &GroupVersion) -> String {
    let group = if version.group.is_empty() { "core" } else { version.group.strip_suffix(".k8s.io").unwrap_or(&version.group) };
    let group: String = group.split(['.', '-']).map(capital).collect();
    format!("{group}{}", capital(&version.version))
}

fn tag(version: &GroupVersion) -> String {
    let group = if version.group.is_empty() { "core" } else { version.group.strip_suffix(".k8s.io").unwrap_or(&version.group) };
    format!("{}_{}", group.split('.').map(capital).enumerate().map(|(at, part)| if at == 0 { part.to_lowercase() } else { part }).collect::<String>(), version.version)
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
