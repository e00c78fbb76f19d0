//! Discovery: what is served, computed from the Scheme, in the plain and in the aggregated form.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use http::{HeaderValue, Response, StatusCode, header};
use kinds::{KindInfo, Scheme};
use serde_json::{Value, json};

use crate::{
    aggregation::{self, Aggregation, Remotes},
    core::{Core, RequestContext},
    http_body::{Body, full},
    negotiation::{Encoding, Negotiated, negotiate},
    rendering::{encode_meta, respond},
    usage_metrics,
};
use meta::ApiError;

/// Versions of a group, the preferred one first: as upstream orders them (stable before beta before alpha, higher first).
fn version_rank(version: &str) -> (u8, i64, i64) {
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<i64>().unwrap_or_default();
    let Some(rest) = version.strip_prefix('v').filter(|rest| rest.starts_with(|first: char| first.is_ascii_digit())) else {
        return (3, 0, 0);
    };
    let major = digits(rest);
    if let Some((_, minor)) = rest.split_once("beta") {
        (1, -major, -digits(minor))
    } else if let Some((_, minor)) = rest.split_once("alpha") {
        (2, -major, -digits(minor))
    } else {
        (0, -major, 0)
    }
}

/// Groups by priority, each with its versions, the preferred one first. Source: Kubernetes `kube-aggregator/pkg/apis/apiregistration/v1/helper`,
/// `SortedByGroupAndVersion`.
fn groups(scheme: &Scheme, remotes: &Remotes, aggregation: &Aggregation) -> Vec<(String, Vec<String>)> {
    let own = scheme.kinds().map(|kind| (&*kind.info().kind.group, &*kind.info().kind.version));
    let measured = std::iter::once((usage_metrics::GROUP, usage_metrics::VERSION));
    let all: BTreeSet<(&str, &str)> = own.chain(remotes.iter().map(|remote| (&*remote.group, &*remote.version))).chain(measured).collect();
    let mut by_group: BTreeMap<&str, (i64, Vec<(i64, &str)>)> = BTreeMap::new();
    for (group, version) in all {
        let (of_group, of_version) = aggregation.priority(group, version);
        let (highest, versions) = by_group.entry(group).or_default();
        *highest = of_group.max(*highest);
        versions.push((of_version, version));
    }
    let mut order: Vec<(&str, (i64, Vec<(i64, &str)>))> = by_group.into_iter().collect();
    order.sort_by_key(|(_, (highest, _))| Reverse(*highest));
    let sorted = order.into_iter().map(|(group, (_, mut versions))| {
        versions.sort_by_key(|(priority, version)| (Reverse(*priority), version_rank(version)));
        (group.to_owned(), versions.into_iter().map(|(_, version)| version.to_owned()).collect())
    });
    sorted.collect()
}

fn group_value(group: &str, versions: &[String]) -> Value {
    let entry = |version: &String| json!({"groupVersion": format!("{group}/{version}"), "version": version});
    json!({
        "name": group,
        "versions": versions.iter().map(entry).collect::<Vec<_>>(),
        "preferredVersion": versions.first().map(entry),
    })
}

/// Kinds of a group and version, by plural name.
fn kinds_of<'a>(scheme: &'a Scheme, group: &'a str, version: &'a str) -> Vec<&'a KindInfo> {
    let mut kinds: Vec<&KindInfo> =
        scheme.kinds().map(|kind| kind.info()).filter(|info| &*info.kind.group == group && &*info.kind.version == version).collect();
    kinds.sort_by(|a, b| a.plural.cmp(&b.plural));
    kinds
}

/// The resources that are measured rather than stored: no kinds of the Scheme.
fn measured_resources(group: &str, version: &str) -> impl Iterator<Item = (&'static str, &'static str, bool)> {
    let is_served = group == usage_metrics::GROUP && version == usage_metrics::VERSION;
    usage_metrics::RESOURCES.into_iter().filter(move |_| is_served)
}

fn resource_list(scheme: &Scheme, group: &str, version: &str) -> Option<Value> {
    let measured: Vec<Value> = measured_resources(group, version)
        .map(|(name, kind, namespaced)| json!({"name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["get", "list"]}))
        .collect();
    if !measured.is_empty() {
        return Some(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{group}/{version}"), "resources": measured}));
    }
    let kinds = kinds_of(scheme, group, version);
    if kinds.is_empty() {
        return None;
    }
    let mut resources = Vec::new();
    for info in kinds {
        let mut entry = json!({
            "name": &*info.plural,
            "singularName": info.singular,
            "namespaced": info.namespaced,
            "kind": &*info.kind.kind,
            "verbs": info.verbs,
        });
        if !info.short_names.is_empty() {
            entry["shortNames"] = json!(info.short_names);
        }
        if !info.categories.is_empty() {
            entry["categories"] = json!(info.categories);
        }
        if info.has_verb("list") {
            let storage = &info.storage_version;
            entry["storageVersionHash"] = json!(api::storage_version_hash(&storage.group, &storage.version, &info.kind.kind));
        }
        resources.push(entry);
        for subresource in &info.subresources {
            let mut entry = json!({
                "name": format!("{}/{}", info.plural, subresource.name),
                "singularName": "",
                "namespaced": info.namespaced,
                "kind": &*subresource.kind.kind,
                "verbs": subresource.verbs,
            });
            if subresource.kind.group_version() != info.kind.group_version() {
                if !subresource.kind.group.is_empty() {
                    entry["group"] = json!(&*subresource.kind.group);
                }
                entry["version"] = json!(&*subresource.kind.version);
            }
            resources.push(entry);
        }
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}))
}

fn aggregated_resource(info: &KindInfo) -> Value {
    let kind_value = |kind: &meta::GroupVersionKind| json!({"group": &*kind.group, "version": &*kind.version, "kind": &*kind.kind});
    let mut entry = json!({
        "resource": &*info.plural,
        "responseKind": kind_value(&info.kind),
        "scope": if info.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": info.singular,
        "verbs": info.verbs,
    });
    if !info.short_names.is_empty() {
        entry["shortNames"] = json!(info.short_names);
    }
    if !info.categories.is_empty() {
        entry["categories"] = json!(info.categories);
    }
    if !info.subresources.is_empty() {
        entry["subresources"] = info
            .subresources
            .iter()
            .map(|subresource| json!({"subresource": subresource.name, "responseKind": kind_value(&subresource.kind), "verbs": subresource.verbs}))
            .collect();
    }
    entry
}

fn aggregated(scheme: &Scheme, remotes: &Remotes, aggregation: &Aggregation, core_group: bool, version: &str) -> Value {
    let items: Vec<Value> = groups(scheme, remotes, aggregation)
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core_group)
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    if let Some(remote) = remotes.iter().find(|remote| remote.group == group && remote.version == *version) {
                        let resources = aggregation::discovery::aggregated(&remote.resources, &group, version);
                        let freshness = if remote.available { "Current" } else { "Stale" };
                        return json!({"version": version, "resources": resources, "freshness": freshness});
                    }
                    let mut resources: Vec<Value> = kinds_of(scheme, &group, version).into_iter().map(aggregated_resource).collect();
                    resources.extend(measured_resources(&group, version).map(|(name, kind, namespaced)| {
                        json!({
                            "resource": name,
                            "responseKind": {"group": group, "version": version, "kind": kind},
                            "scope": if namespaced { "Namespaced" } else { "Cluster" },
                            "singularResource": "",
                            "verbs": ["get", "list"],
                        })
                    }));
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let metadata = if group.is_empty() { json!({"creationTimestamp": null}) } else { json!({"name": group, "creationTimestamp": null}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {}, "items": items})
}

/// The newest aggregated form a client takes, where it prefers one.
fn aggregated_version(accept: &str) -> Option<&'static str> {
    for clause in accept.split(',') {
        if clause.contains("as=APIGroupDiscoveryList") && clause.contains("g=apidiscovery.k8s.io") && clause.trim_start().starts_with("application/json") {
            if clause.contains("v=v2beta1") {
                return Some("v2beta1");
            }
            if clause.contains("v=v2") {
                return Some("v2");
            }
        }
        // A plain clause before any aggregated one is preferred.
        if matches!(clause.trim(), "application/json" | "*/*") {
            return None;
        }
    }
    None
}

fn entity_tag(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha512};
    let digest = Sha512::digest(bytes);
    format!("\"{}\"", digest.iter().map(|byte| format!("{byte:02X}")).collect::<String>())
}

/// Answers `/api`, `/apis` and what lies below that is no resource.
///
/// # Errors
/// 404 for groups and versions that are not served, 406.
pub fn answer(core: &Core, context: &RequestContext, if_none_match: Option<&str>) -> Result<Response<Body>, ApiError> {
    let scheme = core.scheme.load();
    let remotes = core.aggregation.remotes();
    let path = context.info.path.trim_matches('/');
    let parts: Vec<&str> = path.split('/').collect();
    if let (["api" | "apis"], Some(version)) = (parts.as_slice(), aggregated_version(&context.accept)) {
        let bytes = serde_json::to_vec(&aggregated(&scheme, &remotes, &core.aggregation, path == "api", version)).map_err(ApiError::internal)?;
        let tag = entity_tag(&bytes);
        let unchanged = if_none_match == Some(tag.as_str());
        let mut response = Response::new(full(if unchanged { Vec::new() } else { bytes }));
        *response.status_mut() = if unchanged { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
        let content_type = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
        if let (Ok(content_type), Ok(tag)) = (HeaderValue::from_str(&content_type), HeaderValue::from_str(&tag)) {
            response.headers_mut().insert(header::CONTENT_TYPE, content_type);
            response.headers_mut().insert(header::ETAG, tag);
        }
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
        return Ok(response);
    }
    let mut value = match parts.as_slice() {
        ["api"] => {
            let address = core.facts.advertise.map_or_else(String::new, |address| address.to_string());
            json!({
                "kind": "APIVersions",
                "versions": ["v1"],
                "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
            })
        }
        ["apis"] => {
            let list: Vec<Value> =
                groups(&scheme, &remotes, &core.aggregation).iter().filter(|(group, _)| !group.is_empty()).map(|(group, versions)| group_value(group, versions)).collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list})
        }
        ["apis", group] => {
            let all = groups(&scheme, &remotes, &core.aggregation);
            let (group, versions) = all.iter().find(|(known, _)| known == group && !known.is_empty()).ok_or_else(ApiError::no_such_path)?;
            let mut value = group_value(group, versions);
            value["kind"] = json!("APIGroup");
            value["apiVersion"] = json!("v1");
            value
        }
        ["api", version] => resource_list(&scheme, "", version).ok_or_else(ApiError::no_such_path)?,
        ["apis", group, version] if !group.is_empty() => resource_list(&scheme, group, version).ok_or_else(ApiError::no_such_path)?,
        _ => return Err(ApiError::no_such_path()),
    };
    let negotiated = Negotiated { form: crate::negotiation::Form::Whole, ..negotiate(&context.accept, true)? };
    if negotiated.encoding == Encoding::Protobuf {
        // APIVersions says nothing in JSON.
        value["apiVersion"] = json!("v1");
    }
    Ok(respond(StatusCode::OK, negotiated, encode_meta(&value, negotiated.encoding)?))
}
