//! Which resources the API serves now: for the controllers that act on objects of every kind.

use client::{ApiResource, ObjectKey};
use controller::{Doing, ReconcileError};

/// A resource, in the version of its group that is preferred.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServedResource {
    /// The group; empty for the core one.
    pub group: String,
    /// The version.
    pub version: String,
    /// The kind of its objects.
    pub kind: String,
    /// The plural name that is part of paths.
    pub resource: String,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// What can be done with it.
    pub verbs: Vec<String>,
    /// Whether its objects have a size, under `scale`.
    pub has_scale: bool,
}

impl ServedResource {
    /// Whether the resource has a verb.
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|other| other == verb)
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `pods` or `deployments.apps`.
    pub fn name(&self) -> String {
        if self.group.is_empty() { self.resource.clone() } else { format!("{}.{}", self.resource, self.group) }
    }

    /// In `kube`'s words.
    pub fn api_resource(&self) -> ApiResource {
        ApiResource {
            group: self.group.clone(),
            version: self.version.clone(),
            api_version: self.api_version(),
            kind: self.kind.clone(),
            plural: self.resource.clone(),
        }
    }

    /// The path of the collection, of one namespace or of all.
    pub fn path(&self, namespace: Option<&str>) -> String {
        let prefix = if self.group.is_empty() { format!("/api/{}", self.version) } else { format!("/apis/{}/{}", self.group, self.version) };
        match namespace {
            Some(namespace) => format!("{prefix}/namespaces/{namespace}/{}", self.resource),
            None => format!("{prefix}/{}", self.resource),
        }
    }

    /// The path of one object.
    pub fn object_path(&self, key: &ObjectKey) -> String {
        format!("{}/{}", self.path(key.namespace.as_deref()), key.name)
    }
}

/// Asks the API what it serves. Sorted; each resource once.
pub async fn served_resources(client: &client::Client) -> Result<Vec<ServedResource>, ReconcileError> {
    discover(client).await.map(|discovered| discovered.resources)
}

/// What the API serves.
#[derive(Debug, Default)]
pub struct Discovered {
    /// Each resource once, sorted.
    pub resources: Vec<ServedResource>,
    /// Groups and versions, as in `metrics.k8s.io/v1beta1`, whose server does not answer: what they serve may have changed.
    pub stale: Vec<String>,
}

/// Asks the API what it serves, and of what it is not sure.
pub async fn discover(client: &client::Client) -> Result<Discovered, ReconcileError> {
    let core = client.discover("/api").await.doing(|| "discover the core API".to_owned())?;
    let groups = client.discover("/apis").await.doing(|| "discover the API groups".to_owned())?;
    let mut found: Vec<ServedResource> = Vec::new();
    let mut stale = Vec::new();
    for group in core.items.into_iter().chain(groups.items) {
        let name = group.metadata.and_then(|metadata| metadata.name).unwrap_or_default();
        for version in group.versions {
            let version_name = version.version.unwrap_or_default();
            if version.freshness.as_deref() == Some("Stale") {
                stale.push(format!("{name}/{version_name}"));
            }
            for resource in version.resources {
                let plural = resource.resource.unwrap_or_default();
                // Versions come by preference: the first that has the resource counts.
                if plural.is_empty() || found.iter().any(|other| other.group == name && other.resource == plural) {
                    continue;
                }
                found.push(ServedResource {
                    group: name.clone(),
                    version: version_name.clone(),
                    kind: resource.response_kind.and_then(|kind| kind.kind).unwrap_or_default(),
                    resource: plural,
                    namespaced: resource.scope.as_deref() == Some("Namespaced"),
                    verbs: resource.verbs,
                    has_scale: resource.subresources.iter().any(|part| part.subresource.as_deref() == Some("scale")),
                });
            }
        }
    }
    found.sort();
    stale.sort();
    Ok(Discovered { resources: found, stale })
}
