//! What upstream serves: every resource of every group and version, in the order of discovery.

use std::sync::OnceLock;

use base64::Engine as _;
use meta::GroupVersion;
use sha2::{Digest as _, Sha256};

/// A resource in one group and version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// API group, empty for core.
    pub group: &'static str,
    /// Version.
    pub version: &'static str,
    /// Priorities of group and version among all: more comes first. The same for all resources of a version.
    pub priority: (i32, i32),
    /// Kind of its objects.
    pub kind: &'static str,
    /// Name in paths.
    pub plural: &'static str,
    /// Name of one.
    pub singular: &'static str,
    /// Short names, such as `po`.
    pub short_names: Vec<&'static str>,
    /// Categories, such as `all`.
    pub categories: Vec<&'static str>,
    /// Lives in namespaces.
    pub namespaced: bool,
    /// Verbs, in alphabetical order. Kinds with nothing but `create` are never stored.
    pub verbs: Vec<&'static str>,
    /// Subresources, in alphabetical order.
    pub subresources: Vec<Subresource>,
    /// Group (empty for core) and version it is stored in.
    pub storage: (&'static str, &'static str),
}

/// A subresource of a [`Resource`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subresource {
    /// `status`, `scale`, `log`, …
    pub name: &'static str,
    /// Group of the kind it speaks, empty for core.
    pub group: &'static str,
    /// Version of the kind it speaks.
    pub version: &'static str,
    /// Kind it speaks.
    pub kind: &'static str,
    /// Verbs, in alphabetical order.
    pub verbs: Vec<&'static str>,
}

/// How far a version is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Maturity {
    /// Off unless asked for, may go any time.
    Alpha,
    /// Off unless asked for.
    Beta,
    /// Served.
    Stable,
}

/// How far a version is, by its name (`v1alpha2`, `v2beta1`, `v2`).
pub fn maturity(version: &str) -> Maturity {
    if version.contains("alpha") {
        Maturity::Alpha
    } else if version.contains("beta") {
        Maturity::Beta
    } else {
        Maturity::Stable
    }
}

impl Resource {
    /// How far its version is.
    pub fn maturity(&self) -> Maturity {
        maturity(self.version)
    }
    /// Group and version.
    pub fn group_version(&self) -> GroupVersion {
        GroupVersion::new(self.group, self.version)
    }
    /// Kind of its lists, none where it cannot be listed.
    pub fn list_kind(&self) -> Option<String> {
        self.verbs.contains(&"list").then(|| format!("{}List", self.kind))
    }
}

/// Every resource of upstream's API, betas and alphas included, in the order of discovery: groups by their priority, versions
/// with the preferred one first, resources by name.
pub fn resources() -> &'static [Resource] {
    static RESOURCES: OnceLock<Vec<Resource>> = OnceLock::new();
    RESOURCES.get_or_init(|| match parse(include_str!("../tables/resources.txt")) {
        Some(resources) => resources,
        None => unreachable!("tables/resources.txt cannot be read, which a test would have shown"),
    })
}

/// The resource of that group, version and plural name.
pub fn resource(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    resources().iter().find(|resource| resource.plural == plural && resource.version == version && resource.group == group)
}

/// What discovery calls `storageVersionHash`: clients compare it to learn that objects are stored in another version.
pub fn storage_version_hash(group: &str, version: &str, kind: &str) -> String {
    let digest = Sha256::digest(format!("{group}/{version}/{kind}"));
    base64::engine::general_purpose::STANDARD.encode(digest.get(..8).unwrap_or(&digest))
}

fn parse(text: &'static str) -> Option<Vec<Resource>> {
    let group_name = |name: &'static str| if name == "core" { "" } else { name };
    let words = |list: &'static str| if list == "-" { Vec::new() } else { list.split(',').collect() };
    let mut resources: Vec<Resource> = Vec::with_capacity(160);
    let (mut group, mut version, mut priority) = ("", "", (0, 0));
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(place) = line.strip_prefix("= ") {
            let mut columns = place.split(' ');
            (group, version) = (group_name(columns.next()?), columns.next()?);
            priority = (columns.next()?.parse().ok()?, columns.next()?.parse().ok()?);
        } else if let Some(line) = line.strip_prefix(' ') {
            let mut columns = line.split(' ');
            let name = columns.next()?;
            let mut kind = columns.next()?.split('/');
            resources.last_mut()?.subresources.push(Subresource {
                name,
                group: kind.next()?,
                version: kind.next()?,
                kind: kind.next()?,
                verbs: words(columns.next()?),
            });
        } else {
            let mut columns = line.split(' ');
            let (plural, singular, kind) = (columns.next()?, columns.next()?, columns.next()?);
            let namespaced = columns.next()? == "namespaced";
            let (storage_group, storage_version) = columns.next()?.split_once('/')?;
            resources.push(Resource {
                group,
                version,
                priority,
                kind,
                plural,
                singular,
                namespaced,
                storage: (group_name(storage_group), storage_version),
                short_names: words(columns.next()?),
                categories: words(columns.next()?),
                verbs: words(columns.next()?),
                subresources: Vec::new(),
            });
        }
    }
    Some(resources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deployments_are_as_upstream_lists_them() {
        let deployments = resource("apps", "v1", "deployments").expect("deployments are served");
        assert_eq!((deployments.kind, deployments.singular, deployments.namespaced), ("Deployment", "deployment", true));
        assert_eq!((&*deployments.short_names, &*deployments.categories), (&["deploy"][..], &["all"][..]));
        assert_eq!(deployments.verbs, ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]);
        let scale = deployments.subresources.iter().find(|known| known.name == "scale").expect("they scale");
        assert_eq!((scale.group, scale.version, scale.kind), ("autoscaling", "v1", "Scale"));
    }

    #[test]
    fn hashes_of_storage_versions_are_upstreams() {
        assert_eq!(storage_version_hash("", "v1", "Pod"), "xPOwRZ+Yhw8=");
        assert_eq!(storage_version_hash("apps", "v1", "Deployment"), "8aSe+NMegvE=");
    }

    #[test]
    fn events_of_both_groups_are_stored_as_core_events() {
        for group in ["", "events.k8s.io"] {
            assert_eq!(resource(group, "v1", "events").expect("events are served").storage, ("", "v1"));
        }
    }

    #[test]
    fn every_resource_has_a_type_and_every_list_too() {
        for resource in resources() {
            let version = resource.group_version();
            assert!(crate::schema(&version.kind(resource.kind)).is_some(), "{resource:?}");
            if let Some(list) = resource.list_kind() {
                assert!(crate::schema(&version.kind(&list)).is_some(), "{list} of {version}");
            }
            for sub in resource.subresources.iter().filter(|sub| !sub.kind.ends_with("Options")) {
                assert!(crate::schema(&GroupVersion::new(sub.group, sub.version).kind(sub.kind)).is_some(), "{sub:?}");
            }
            let (group, version) = resource.storage;
            assert!(crate::schema(&GroupVersion::new(group, version).kind(resource.kind)).is_some(), "stored as {group}/{version}");
        }
    }
}
