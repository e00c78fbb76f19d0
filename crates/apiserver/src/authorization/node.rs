//! The node authorizer: what a node may see and do, narrowed to the pods that run on it.
//!
//! Nodes are users `system:node:NAME` in the group `system:nodes`. Secrets, config maps, claims, volumes and accounts are
//! open to a node as far as one of its pods refers to them; everything else follows the rules of the ClusterRole
//! `system:node`. Source: Kubernetes `plugin/pkg/auth/authorizer/node/node_authorizer.go`.

use std::sync::Arc;

use api::rbac::v1::{ClusterRole, PolicyRule};
use meta::{Object, selector::FieldSelector};
use parking_lot::RwLock;
use serde_json::Value;
use store::Revision;

use crate::{
    authorization::{Attributes, Authorizer, Decision, rbac::rule_allows},
    user::User,
    view::{MemoryView, ResourceView},
};

/// Group of all nodes.
pub const NODES: &str = "system:nodes";
/// Before a node's name in its user name.
pub const USER_PREFIX: &str = "system:node:";
/// Namespace of nodes' leases.
pub const LEASES: &str = "kube-node-lease";

/// Label of a local volume with the node that has it on its disk: a node may follow those.
const LOCAL_VOLUME_NODE: &str = "knarr.io/local-volume-node";

/// The node a user is, where it is one. The name is empty for a member of the group with no node's name.
pub fn node_of(user: &User) -> Option<&str> {
    user.in_group(NODES).then(|| user.name.strip_prefix(USER_PREFIX).unwrap_or_default())
}

/// The authorizer.
pub struct NodeAuthorizer {
    view: Arc<MemoryView>,
    pods: Arc<ResourceView>,
    roles: Arc<ResourceView>,
    rules: RwLock<(Revision, Arc<[PolicyRule]>)>,
}

/// What a pod may refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Referenced {
    /// Secrets
    Secret,
    /// ConfigMaps
    ConfigMap,
    /// PersistentVolumeClaims
    Claim,
    /// ServiceAccounts
    Account,
    /// ResourceClaims
    ResourceClaim,
}

fn items<'a>(value: Option<&'a Value>, path: &[&str]) -> impl Iterator<Item = &'a Value> + use<'a> {
    path.iter().try_fold(value, |value, key| value.map(|value| value.get(key))).flatten().and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, path: &[&str]) -> Option<&'a str> {
    path.iter().try_fold(value, |value, key| value.get(key)).and_then(Value::as_str)
}

/// Names in volumes that are secrets of a pod's own namespace, by their places.
const SECRETS_OF_VOLUMES: [&[&str]; 10] = [
    &["secret", "secretName"],
    &["azureFile", "secretName"],
    &["cephfs", "secretRef", "name"],
    &["cinder", "secretRef", "name"],
    &["csi", "nodePublishSecretRef", "name"],
    &["flexVolume", "secretRef", "name"],
    &["iscsi", "secretRef", "name"],
    &["rbd", "secretRef", "name"],
    &["scaleIO", "secretRef", "name"],
    &["storageos", "secretRef", "name"],
];

/// Whether a pod refers to an object of its namespace. Source: Kubernetes `pkg/api/v1/pod/util.go`, the visitors.
pub fn refers_to(pod: &Object, what: Referenced, name: &str) -> bool {
    refers(pod, what, &|found| found == name)
}

/// Whether a pod refers to anything of this kind.
pub fn refers_to_any(pod: &Object, what: Referenced) -> bool {
    refers(pod, what, &|_| true)
}

fn refers(pod: &Object, what: Referenced, is_meant: &dyn Fn(&str) -> bool) -> bool {
    let spec = pod.0.get("spec");
    let is = |found: Option<&str>| found.is_some_and(is_meant);
    let volumes = || items(spec, &["volumes"]);
    let containers = || ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|field| items(spec, &[field]));
    let in_environment = |by_value: &str, by_source: &str| {
        containers().any(|container| {
            items(Some(container), &["env"]).any(|variable| is(text(variable, &["valueFrom", by_value, "name"])))
                || items(Some(container), &["envFrom"]).any(|source| is(text(source, &[by_source, "name"])))
        })
    };
    let in_projection = |kind: &str| volumes().any(|volume| items(Some(volume), &["projected", "sources"]).any(|source| is(text(source, &[kind, "name"]))));
    match what {
        Referenced::Secret => {
            items(spec, &["imagePullSecrets"]).any(|reference| is(text(reference, &["name"])))
                || in_environment("secretKeyRef", "secretRef")
                || in_projection("secret")
                || volumes().any(|volume| SECRETS_OF_VOLUMES.iter().any(|path| is(text(volume, path))))
        }
        Referenced::ConfigMap => {
            in_environment("configMapKeyRef", "configMapRef")
                || in_projection("configMap")
                || volumes().any(|volume| is(text(volume, &["configMap", "name"])))
        }
        Referenced::Claim => volumes().any(|volume| {
            is(text(volume, &["persistentVolumeClaim", "claimName"]))
                || volume.get("ephemeral").is_some() && text(volume, &["name"]).is_some_and(|volume| is_meant(&format!("{}-{volume}", pod.name())))
        }),
        Referenced::Account => is(pod.text(&["spec", "serviceAccountName"])),
        Referenced::ResourceClaim => {
            items(spec, &["resourceClaims"]).any(|claim| is(text(claim, &["resourceClaimName"])))
                || items(pod.0.get("status"), &["resourceClaimStatuses"]).any(|claim| is(text(claim, &["resourceClaimName"])))
        }
    }
}

impl NodeAuthorizer {
    /// Over a view.
    pub fn new(view: Arc<MemoryView>) -> Self {
        let (pods, roles) = (view.resource("/registry/pods/"), view.resource("/registry/clusterroles.rbac.authorization.k8s.io/"));
        Self { view, pods, roles, rules: RwLock::new((Revision(0), Arc::from([]))) }
    }

    /// Whether any pod of a node, in a namespace (all for none), passes.
    fn any_pod(&self, node: &str, namespace: &str, passes: impl Fn(&Object) -> bool) -> bool {
        let prefix = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
        self.view
            .snapshot(&self.pods)
            .range(&prefix, None)
            // Kept beside the object, so only the node's own pods are decoded.
            .filter(|stored| stored.field("spec.nodeName") == Some(node))
            .any(|stored| stored.object().is_ok_and(|pod| passes(&pod)))
    }

    fn role_rules(&self) -> Arc<[PolicyRule]> {
        let Some(stored) = self.roles.get("system:node") else { return Arc::from([]) };
        {
            let known = self.rules.read();
            if known.0 == stored.revision {
                return known.1.clone();
            }
        }
        let rules: Arc<[PolicyRule]> = stored.typed::<ClusterRole>().ok().and_then(|role| role.rules).unwrap_or_default().into();
        *self.rules.write() = (stored.revision, rules.clone());
        rules
    }

    fn by_rules(&self, attributes: &Attributes<'_>) -> Decision {
        if self.role_rules().iter().any(|rule| rule_allows(rule, attributes)) {
            Decision::Allow("node: allowed by the role system:node".to_owned())
        } else {
            Decision::NoOpinion(String::new())
        }
    }

    fn referenced(&self, node: &str, attributes: &Attributes<'_>, what: Referenced) -> Decision {
        if !matches!(attributes.verb, "get" | "list" | "watch") || !attributes.subresource.is_empty() {
            return no("can only read resources of this type");
        }
        if attributes.name.is_empty() || attributes.namespace.is_empty() {
            return no("can only read namespaced object of this type");
        }
        self.related(node, attributes, what)
    }

    fn related(&self, node: &str, attributes: &Attributes<'_>, what: Referenced) -> Decision {
        if self.any_pod(node, attributes.namespace, |pod| refers_to(pod, what, attributes.name)) {
            return Decision::Allow("node: a pod of the node refers to it".to_owned());
        }
        Decision::NoOpinion(format!("no relationship found between node '{node}' and this object"))
    }

    fn volume(&self, node: &str, attributes: &Attributes<'_>) -> Decision {
        let follows_its_own = attributes.label_selector.is_some_and(|selector| selector.requires(LOCAL_VOLUME_NODE) == Some(node));
        if matches!(attributes.verb, "list" | "watch") && follows_its_own {
            return allow();
        }
        if attributes.verb != "get" || !attributes.subresource.is_empty() || attributes.name.is_empty() {
            return no("can only get individual resources of this type");
        }
        let claim = self.view.resource("/registry/persistentvolumes/").get(attributes.name).and_then(|stored| stored.object().ok());
        let claim = claim.and_then(|volume| {
            let place = |field: &str| volume.text(&["spec", "claimRef", field]).map(str::to_owned);
            Some((place("namespace")?, place("name")?))
        });
        match claim {
            Some((namespace, name)) => self.related(node, &Attributes { namespace: &namespace, name: &name, ..attributes.clone() }, Referenced::Claim),
            None => Decision::NoOpinion(format!("no relationship found between node '{node}' and this object")),
        }
    }

    fn pod(&self, node: &str, attributes: &Attributes<'_>) -> Decision {
        match (attributes.subresource, attributes.verb) {
            ("", "get") => {
                let bound = self.pods.get(&format!("{}/{}", attributes.namespace, attributes.name)).is_some_and(|stored| stored.field("spec.nodeName") == Some(node));
                if bound { allow() } else { Decision::NoOpinion(format!("no relationship found between node '{node}' and this object")) }
            }
            ("", "list" | "watch") => {
                let selector = FieldSelector::parse(attributes.field_selector).ok();
                if selector.is_some_and(|selector| selector.exact("spec.nodeName") == Some(node)) {
                    return allow();
                }
                no("can only list/watch pods with spec.nodeName field selector")
            }
            // Admission (NodeRestriction) sees to which pods.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => allow(),
            _ => Decision::NoOpinion(String::new()),
        }
    }

    fn slice(&self, node: &str, attributes: &Attributes<'_>) -> Decision {
        if !attributes.subresource.is_empty() {
            return no("cannot authorize ResourceSlice subresources");
        }
        match attributes.verb {
            // Admission (NodeRestriction) sees to which.
            "create" => allow(),
            "list" | "watch" | "deletecollection" => {
                let selector = FieldSelector::parse(attributes.field_selector).ok();
                if selector.is_some_and(|selector| selector.exact("spec.nodeName") == Some(node)) {
                    return allow();
                }
                no("can only list/watch/deletecollection resourceslices with spec.nodeName field selector")
            }
            "get" | "update" | "patch" | "delete" => {
                let own = self.view.resource("/registry/resourceslices.resource.k8s.io/").get(attributes.name).is_some_and(|stored| stored.field("spec.nodeName") == Some(node));
                if own { allow() } else { Decision::NoOpinion(format!("no relationship found between node '{node}' and this object")) }
            }
            _ => no("only the following verbs are allowed for a ResourceSlice: get, create, update, patch, delete, list, watch, deletecollection"),
        }
    }

    /// Requests for certificates of its pods. Admission (NodeRestriction) sees to whose a new one is.
    fn certificate(&self, node: &str, attributes: &Attributes<'_>) -> Decision {
        match (attributes.subresource, attributes.verb) {
            ("", "create") => allow(),
            ("", "get") => {
                let requests = self.view.resource("/registry/podcertificaterequests.certificates.k8s.io/");
                let stored = requests.get(&format!("{}/{}", attributes.namespace, attributes.name));
                let is_own = stored.is_some_and(|stored| stored.field("spec.nodeName") == Some(node));
                if is_own { allow() } else { Decision::NoOpinion(format!("no relationship found between node '{node}' and this object")) }
            }
            ("", "list" | "watch") => {
                let selector = FieldSelector::parse(attributes.field_selector).ok();
                if selector.is_some_and(|selector| selector.exact("spec.nodeName") == Some(node)) {
                    return allow();
                }
                no("can only list/watch podcertificaterequests with spec.nodeName field selector")
            }
            ("", _) => Decision::NoOpinion(String::new()),
            (other, _) => Decision::NoOpinion(format!("nodes may not access the {other:?} subresource of podcertificaterequests")),
        }
    }

    fn account(&self, node: &str, attributes: &Attributes<'_>) -> Decision {
        match (attributes.subresource, attributes.verb) {
            ("token", "create") | ("", "get") if !attributes.name.is_empty() && !attributes.namespace.is_empty() => {
                self.related(node, attributes, Referenced::Account)
            }
            _ => no("can only create tokens for individual service accounts"),
        }
    }
}

fn allow() -> Decision {
    Decision::Allow(String::new())
}

fn no(why: &str) -> Decision {
    Decision::NoOpinion(why.to_owned())
}

/// An object that carries the node's name.
fn own_named(node: &str, attributes: &Attributes<'_>, verbs: &[&str]) -> Decision {
    if !attributes.subresource.is_empty() || !verbs.contains(&attributes.verb) {
        return no("can only get, create, update, patch, or delete resources of this type");
    }
    if attributes.verb != "create" && attributes.name != node {
        return no("can only access the object with the same name as the requesting node");
    }
    allow()
}

fn node_itself(node: &str, attributes: &Attributes<'_>) -> Decision {
    match (attributes.subresource, attributes.verb) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => allow(),
        ("", "get" | "list" | "watch") if attributes.name == node => allow(),
        ("", "get" | "list" | "watch") if attributes.name.is_empty() => Decision::NoOpinion(format!("node '{node}' cannot read all nodes, only its own Node object")),
        ("", "get" | "list" | "watch") => Decision::NoOpinion(format!("node '{node}' cannot read '{}', only its own Node object", attributes.name)),
        _ => Decision::NoOpinion(String::new()),
    }
}

impl Authorizer for NodeAuthorizer {
    fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let Some(node) = node_of(attributes.user) else { return Decision::NoOpinion(String::new()) };
        if node.is_empty() {
            return Decision::NoOpinion(format!("unknown node for user {:?}", attributes.user.name));
        }
        if !attributes.is_resource {
            return self.by_rules(attributes);
        }
        match (attributes.group, attributes.resource) {
            ("", "secrets") => self.referenced(node, attributes, Referenced::Secret),
            ("", "configmaps") => self.referenced(node, attributes, Referenced::ConfigMap),
            ("", "persistentvolumeclaims") if attributes.subresource == "status" => {
                if matches!(attributes.verb, "update" | "patch") { self.related(node, attributes, Referenced::Claim) } else { no("can only update/patch the status") }
            }
            ("", "persistentvolumeclaims") => self.referenced(node, attributes, Referenced::Claim),
            ("", "persistentvolumes") => self.volume(node, attributes),
            ("", "serviceaccounts") => self.account(node, attributes),
            ("", "pods") => self.pod(node, attributes),
            ("", "nodes") => node_itself(node, attributes),
            ("certificates.k8s.io", "podcertificaterequests") => self.certificate(node, attributes),
            ("resource.k8s.io", "resourceclaims") => self.referenced(node, attributes, Referenced::ResourceClaim),
            ("resource.k8s.io", "resourceslices") => self.slice(node, attributes),
            ("coordination.k8s.io", "leases") => {
                if attributes.namespace != LEASES {
                    return no("can only access leases in the \"kube-node-lease\" system namespace");
                }
                own_named(node, attributes, &["get", "create", "update", "patch", "delete"])
            }
            ("storage.k8s.io", "csinodes") => own_named(node, attributes, &["get", "create", "update", "patch", "delete"]),
            ("storage.k8s.io", "volumeattachments") => {
                let bound = self.view.resource("/registry/volumeattachments.storage.k8s.io/").get(attributes.name).and_then(|stored| stored.object().ok());
                let own = bound.is_some_and(|attachment| attachment.text(&["spec", "nodeName"]) == Some(node));
                if own && attributes.verb == "get" { allow() } else { no("can only get the node's own resources of this type") }
            }
            _ => self.by_rules(attributes),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_of_a_pod_are_found_wherever_they_stand() {
        let pod = Object::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "serviceAccountName": "robot",
            "imagePullSecrets": [{"name": "pull"}],
            "volumes": [
                {"name": "a", "secret": {"secretName": "s1"}},
                {"name": "b", "projected": {"sources": [{"configMap": {"name": "m1"}}, {"secret": {"name": "s2"}}]}},
                {"name": "c", "persistentVolumeClaim": {"claimName": "c1"}},
                {"name": "d", "ephemeral": {}},
            ],
            "initContainers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "s3"}}}]}],
            "containers": [{"envFrom": [{"configMapRef": {"name": "m2"}}]}],
        }}))
        .unwrap();
        for name in ["pull", "s1", "s2", "s3"] {
            assert!(refers_to(&pod, Referenced::Secret, name), "{name}");
        }
        assert!(!refers_to(&pod, Referenced::Secret, "m1"));
        assert!(refers_to(&pod, Referenced::ConfigMap, "m1") && refers_to(&pod, Referenced::ConfigMap, "m2"));
        assert!(refers_to(&pod, Referenced::Claim, "c1") && refers_to(&pod, Referenced::Claim, "p-d"));
        assert!(refers_to(&pod, Referenced::Account, "robot") && !refers_to(&pod, Referenced::Account, "default"));
    }

    #[test]
    fn only_members_of_the_group_are_nodes() {
        let user = |name: &str, group: &str| User::authenticated(name, "", vec![group.to_owned()]);
        assert_eq!(node_of(&user("system:node:a", NODES)), Some("a"));
        assert_eq!(node_of(&user("system:node:a", "others")), None);
        assert_eq!(node_of(&user("b", NODES)), Some(""));
    }
}
