//! The built-in types, one table of facts about their fields, and the codecs that follow from it.
//!
//! Rust types come from `k8s-openapi` and are re-exported ([`core`], [`apps`], …). What they do not say (protobuf numbers,
//! list types, merge keys, which zero means absent) stands in `tables/types.txt`, one line per field, and becomes a
//! [`meta::schema::Types`] once per process. `tables/resources.txt` lists what upstream serves. Both are generated from
//! upstream's description and `tables/overlay.txt` by `cargo xtask tables`.

pub mod json;
pub mod openapi;
pub mod protobuf;
mod resources;
mod table;

use std::sync::{Arc, OnceLock};

pub use json::Json;
pub use k8s_openapi;
pub use k8s_openapi::{
    api::{
        admissionregistration, apps, authentication, authorization, autoscaling, batch, certificates, coordination, core, discovery,
        events, flowcontrol, networking, node, policy, rbac, scheduling, storage,
    },
    apiextensions_apiserver, apimachinery, kube_aggregator,
};
use meta::{
    GroupVersionKind,
    schema::{Schema, TypeIndex, Types},
};
pub use resources::{Maturity, Resource, Subresource, maturity, resource, resources, storage_version_hash};

/// Generation of the built-in schemas; raise it with every change of the defaults that a stored object would notice.
pub const SCHEMA_GENERATION: u32 = 2;

/// The table, parsed once. A table that cannot be parsed is a mistake of this build, which a test would have shown.
fn table() -> &'static table::Table {
    static TABLE: OnceLock<table::Table> = OnceLock::new();
    TABLE.get_or_init(|| match table::Table::parse(include_str!("../tables/types.txt")) {
        Ok(table) => table,
        Err(problem) => unreachable!("tables/types.txt: {problem}"),
    })
}

/// Every built-in type.
pub fn types() -> &'static Arc<Types> {
    &table().types
}

/// The shape of a built-in kind, its list or one of the kinds that requests and answers are made of (`Status`,
/// `DeleteOptions`, `Scale`, …).
pub fn schema(kind: &GroupVersionKind) -> Option<Schema> {
    table().root(&kind.group, &kind.version, &kind.kind).map(schema_at)
}

/// The shape of a type by its definition name, such as `io.k8s.api.core.v1.Container`.
pub fn schema_named(name: &str) -> Option<Schema> {
    type_named(name).map(schema_at)
}

/// The type of that definition name, such as `io.k8s.api.core.v1.Container`.
pub fn type_named(name: &str) -> Option<TypeIndex> {
    table().named(name)
}

fn schema_at(root: TypeIndex) -> Schema {
    Schema { types: types().clone(), root, generation: SCHEMA_GENERATION }
}
