//! The list of built-in kinds: one line each for those with a strategy, and everything else plain.

use meta::{
    names::{GroupVersion, GroupVersionKind},
    schema::Schema,
};

use crate::{
    core::component_status,
    earlier_version::EarlierVersion,
    plain::PlainKind,
    runtime_config::RuntimeConfig,
    scheme::{KindInfo, Scheme, SubresourceInfo},
};

/// Names of a kind out of `api`'s table of resources.
fn info_of(resource: &api::Resource) -> KindInfo {
    KindInfo {
        kind: GroupVersionKind::new(resource.group, resource.version, resource.kind),
        list_kind: resource.list_kind().unwrap_or_default(),
        plural: resource.plural.into(),
        singular: resource.singular.to_owned(),
        short_names: resource.short_names.iter().map(|name| (*name).to_owned()).collect(),
        categories: resource.categories.iter().map(|name| (*name).to_owned()).collect(),
        namespaced: resource.namespaced,
        verbs: resource.verbs.iter().map(|name| (*name).to_owned()).collect(),
        subresources: resource
            .subresources
            .iter()
            .map(|subresource| SubresourceInfo {
                name: subresource.name.to_owned(),
                kind: GroupVersionKind::new(subresource.group, subresource.version, subresource.kind),
                verbs: subresource.verbs.iter().map(|name| (*name).to_owned()).collect(),
            })
            .collect(),
        storage_version: GroupVersion::new(resource.storage.0, resource.storage.1),
        custom: false,
    }
}

/// Names and shape of a built-in kind.
///
/// # Panics
/// Where the table does not know it: a mistake in the list below, found by the first test.
pub fn facts(group: &str, version: &str, kind: &str) -> (KindInfo, Schema) {
    let found = api::resources().iter().find(|resource| resource.group == group && resource.version == version && resource.kind == kind);
    let schema = api::schema(&GroupVersionKind::new(group, version, kind));
    match (found, schema) {
        (Some(resource), Some(schema)) => (info_of(resource), schema),
        _ => panic!("the table of facts does not know {kind} of {group}/{version}"),
    }
}

/// Serves every stable built-in kind.
pub fn serve_all() -> Scheme {
    serve(&RuntimeConfig::default())
}

/// Serves the built-in kinds that are switched on.
pub fn serve(config: &RuntimeConfig) -> Scheme {
    let mut scheme = every();
    scheme.retain(|kind| config.serves(kind));
    scheme
}

/// Every built-in kind, betas and alphas included, in the order of discovery; those with a folder of their own with its strategy, and
/// versions that are kept as another one through that one.
pub fn every() -> Scheme {
    let mut scheme = Scheme::default();
    for resource in api::resources() {
        let kind = GroupVersionKind::new(resource.group, resource.version, resource.kind);
        if let Some(schema) = api::schema(&kind) {
            let plain = PlainKind::new(info_of(resource), schema);
            let is_component = (resource.group, resource.kind) == ("", "ComponentStatus");
            scheme.add(std::sync::Arc::new(if is_component { plain.with_table(component_status::TABLE) } else { plain }));
        }
    }
    crate::serve_strategies(&mut scheme);
    for resource in api::resources().iter().filter(|resource| resource.maturity() != api::Maturity::Stable) {
        let (info, schema) = facts(resource.group, resource.version, resource.kind);
        let kept = GroupVersionKind::new(resource.storage.0, resource.storage.1, resource.kind);
        if kept != info.kind && let Some(kept) = scheme.by_kind(&kept).cloned() {
            scheme.add(std::sync::Arc::new(EarlierVersion::new(info, schema, kept)));
        }
    }
    scheme
}
