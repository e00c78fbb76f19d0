//! OpenAPI documents, made on demand out of the table, the descriptions that come with `k8s-openapi`, and the schemas of
//! custom resources. Nothing is kept: a document is a few MiB and asked for seldom, so whoever serves it keeps what it likes.
//!
//! Version 3 is one document per group and version with an index that carries a hash of each; version 2 is one document of
//! everything, also in the protobuf form that Go clients ask for. Both say enough for `kubectl explain`, for client-side
//! strategic merge, for field validation and for the type converters of server-side apply.

mod descriptions;
mod paths;
mod protobuf;
mod protobuf3;
mod schemas;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, OnceLock},
};

use meta::{GroupVersion, GroupVersionKind, schema::Schema};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::Resource;

/// Media type of the protobuf form of version 3.
pub const V3_PROTOBUF_MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf";
/// Media type of the protobuf form of version 2.
pub const V2_PROTOBUF_MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// Raise it when documents of equal kinds change, so that clients which keep them by hash ask again.
const DOCUMENT_REVISION: u32 = 1;

/// A kind as documents tell it. Built-in kinds come from a [`Resource`]; whoever serves fewer verbs or subresources takes
/// them out.
#[derive(Debug, Clone)]
pub struct PublishedKind {
    /// Group, version and kind.
    pub kind: GroupVersionKind,
    /// Kind of its lists, none where it cannot be listed.
    pub list_kind: Option<String>,
    /// Name in paths.
    pub plural: String,
    /// Lives in namespaces.
    pub namespaced: bool,
    /// Verbs.
    pub verbs: Vec<String>,
    /// Subresources.
    pub subresources: Vec<PublishedSubresource>,
    /// `openAPIV3Schema` of a custom resource; none for built-in kinds.
    pub custom: Option<Arc<Value>>,
}

/// A subresource of a [`PublishedKind`].
#[derive(Debug, Clone)]
pub struct PublishedSubresource {
    /// `status`, `scale`, …
    pub name: String,
    /// Kind it speaks.
    pub kind: GroupVersionKind,
    /// Verbs.
    pub verbs: Vec<String>,
}

impl From<&Resource> for PublishedKind {
    fn from(resource: &Resource) -> Self {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Self {
            kind: resource.group_version().kind(resource.kind),
            list_kind: resource.list_kind(),
            plural: resource.plural.to_owned(),
            namespaced: resource.namespaced,
            verbs: owned(&resource.verbs),
            subresources: resource
                .subresources
                .iter()
                .map(|sub| PublishedSubresource {
                    name: sub.name.to_owned(),
                    kind: GroupVersionKind::new(sub.group, sub.version, sub.kind),
                    verbs: owned(&sub.verbs),
                })
                .collect(),
            custom: None,
        }
    }
}

/// Which version of OpenAPI is written; they differ in where things stand, hardly in what is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    V2,
    V3,
}

impl Dialect {
    fn reference(self, name: &str) -> Value {
        match self {
            Self::V2 => json!({"$ref": format!("#/definitions/{name}")}),
            Self::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
        }
    }
}

/// `/openapi/v3`: where the document of each group and version is, with its hash, so that clients keep what did not change.
pub fn v3_index(kinds: &[PublishedKind]) -> Value {
    let mut versions: BTreeMap<String, Vec<&PublishedKind>> = BTreeMap::new();
    for kind in kinds {
        versions.entry(path_of(&kind.kind.group_version())).or_default().push(kind);
    }
    let paths: Map<String, Value> = versions
        .into_iter()
        .map(|(path, kinds)| {
            let url = format!("/openapi/v3/{path}?hash={}", hash(kinds));
            (path, json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({"paths": paths})
}

/// `api/v1` or `apis/GROUP/VERSION`, as the index names a document.
fn path_of(version: &GroupVersion) -> String {
    format!("{}/{version}", if version.group.is_empty() { "api" } else { "apis" })
}

/// Hash of one group and version's document, without making it: whatever it is made of goes in.
pub fn v3_hash(group: &str, version: &str, kinds: &[PublishedKind]) -> String {
    hash(kinds.iter().filter(|kind| &*kind.kind.group == group && &*kind.kind.version == version))
}

/// Hash of the version 2 document of these kinds.
pub fn v2_hash(kinds: &[PublishedKind]) -> String {
    hash(kinds)
}

fn hash<'a>(kinds: impl IntoIterator<Item = &'a PublishedKind>) -> String {
    static TABLE_DIGEST: OnceLock<[u8; 32]> = OnceLock::new();
    let mut digest = Sha256::new();
    digest.update(TABLE_DIGEST.get_or_init(|| Sha256::digest(include_bytes!("../tables/types.txt")).into()));
    digest.update(DOCUMENT_REVISION.to_le_bytes());
    for kind in kinds {
        digest.update(format!("{kind:?}"));
    }
    digest.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02X}");
        text
    })
}

/// `/openapi/v3/apis/GROUP/VERSION` (`/openapi/v3/api/v1` for core): the document of one group and version. `kinds` may hold
/// others too, they are passed over. None where nothing of that group and version is among them.
pub fn v3_document(group: &str, version: &str, kinds: &[PublishedKind]) -> Option<Value> {
    let here: Vec<&PublishedKind> = kinds.iter().filter(|kind| &*kind.kind.group == group && &*kind.kind.version == version).collect();
    if here.is_empty() {
        return None;
    }
    let mut schemas = schemas::Schemas::new(Dialect::V3, descriptions::Descriptions::unpack());
    let paths = paths::write(&here, &mut schemas);
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": paths,
        "components": {
            "schemas": schemas.finish(),
            "securitySchemes": {"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header", "description": "A bearer token"}},
        },
    }))
}

/// `/openapi/v2`: everything in one document.
pub fn v2_document(kinds: &[PublishedKind]) -> Value {
    let mut schemas = schemas::Schemas::new(Dialect::V2, descriptions::Descriptions::unpack());
    let paths = paths::write(&kinds.iter().collect::<Vec<_>>(), &mut schemas);
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": paths,
        "definitions": schemas.finish(),
        "securityDefinitions": {"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header", "description": "A bearer token"}},
        "security": [{"BearerToken": []}],
    })
}

/// A document of [`v3_document`] in the protobuf form ([`V3_PROTOBUF_MEDIA_TYPE`]).
pub fn v3_protobuf(document: &Value) -> Vec<u8> {
    protobuf3::document(document)
}

/// A document of [`v2_document`] in the protobuf form ([`V2_PROTOBUF_MEDIA_TYPE`]).
pub fn v2_protobuf(document: &Value) -> Vec<u8> {
    protobuf::document(document)
}

/// A shape as an `openAPIV3Schema`, without descriptions: for custom kinds of which only the shape is at hand.
pub fn describe_shape(schema: &Schema) -> Value {
    schemas::inline(&schema.types, schema.root)
}
