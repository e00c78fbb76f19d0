//! Who owns whom, and which objects need attention after a change. Pure: no clock, no requests.

use std::collections::{BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use client::ObjectKey;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::discovery::ServedResource;

/// Keeps an object until its blocking dependents are gone.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// Keeps an object until its dependents are let go of.
pub(super) const ORPHAN: &str = "orphan";

type Uid = Arc<str>;

/// What matters of a reference to an owner.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Owner {
    pub uid: Uid,
    /// The owner has to wait for this object when it goes in the foreground.
    pub blocks: bool,
    /// A digest of group, kind and name that the reference gives, which may be wrong.
    named: u32,
}

fn digest(group: &str, kind: &str, name: &str) -> u32 {
    let mut hasher = std::hash::DefaultHasher::new();
    (group, kind, name).hash(&mut hasher);
    hasher.finish() as u32
}

/// What matters of an object.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub uid: Uid,
    pub resource: Arc<ServedResource>,
    pub key: ObjectKey,
    pub owners: Vec<Owner>,
    pub deleting: bool,
    foreground: bool,
    orphan: bool,
}

impl Node {
    /// Reads an object. `None` when it has no uid, as nothing real lacks one.
    pub fn read(resource: &Arc<ServedResource>, metadata: &ObjectMeta) -> Option<Self> {
        let has = |finalizer: &str| metadata.finalizers.iter().flatten().any(|other| other == finalizer);
        let owners = metadata.owner_references.iter().flatten();
        Some(Self {
            uid: metadata.uid.as_deref()?.into(),
            resource: resource.clone(),
            key: ObjectKey {
                namespace: metadata.namespace.as_deref().filter(|namespace| !namespace.is_empty()).map(Into::into),
                name: metadata.name.as_deref()?.into(),
            },
            owners: owners
                .map(|owner| Owner {
                    uid: owner.uid.as_str().into(),
                    blocks: owner.block_owner_deletion == Some(true),
                    named: digest(owner.api_version.split_once('/').map_or("", |(group, _)| group), &owner.kind, &owner.name),
                })
                .collect(),
            deleting: metadata.deletion_timestamp.is_some(),
            foreground: has(FOREGROUND),
            orphan: has(ORPHAN),
        })
    }

    /// It goes when its blocking dependents have gone.
    pub fn waits_for_dependents(&self) -> bool {
        self.deleting && self.foreground
    }

    /// Whether it is in a namespace that is not the other's, so that it cannot own it.
    pub fn is_foreign_to(&self, dependent: &Self) -> bool {
        self.key.namespace.is_some() && self.key.namespace != dependent.key.namespace
    }

    /// Whether it can be what a reference in `dependent` means: it is what that says, and not in another namespace.
    fn can_own(&self, dependent: &Self, reference: &Owner) -> bool {
        !self.is_foreign_to(dependent) && reference.named == digest(&self.resource.group, &self.resource.kind, &self.key.name)
    }

    /// It goes when its dependents are let go of.
    pub fn is_orphaning(&self) -> bool {
        self.deleting && self.orphan
    }
}

/// All objects, by uid.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: HashMap<Uid, Node>,
    /// The dependents of each owner, also of owners that are not there.
    dependents: HashMap<Uid, BTreeSet<Uid>>,
}

impl Graph {
    pub fn get(&self, uid: &str) -> Option<Node> {
        self.nodes.get(uid).cloned()
    }

    /// Whether every owner of an object is there, where it can own this object, and stays.
    pub fn has_solid_owners(&self, node: &Node) -> bool {
        let is_solid = |reference: &Owner| self.nodes.get(&reference.uid).is_some_and(|owner| owner.can_own(node, reference) && !owner.waits_for_dependents());
        node.owners.iter().all(is_solid)
    }

    /// Objects with an owner that is not there.
    pub fn with_unknown_owners(&self) -> Vec<Uid> {
        let unknown = self.dependents.iter().filter(|(owner, _)| !self.nodes.contains_key(*owner));
        unknown.flat_map(|(_, dependents)| dependents).cloned().collect()
    }

    pub fn dependents(&self, uid: &str) -> Vec<Node> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| self.nodes.get(uid)).cloned().collect()
    }

    /// The dependents that `uid` has to wait for.
    pub fn blocking_dependents(&self, uid: &str) -> Vec<Node> {
        let mut dependents = self.dependents(uid);
        dependents.retain(|dependent| dependent.owners.iter().any(|owner| &*owner.uid == uid && owner.blocks));
        dependents
    }

    /// An object is there, or has changed. Returns the objects that need attention.
    pub fn put(&mut self, node: Node) -> Vec<Uid> {
        let uid = node.uid.clone();
        let old = self.nodes.get(&uid).cloned();
        if old.as_ref() == Some(&node) {
            return Vec::new();
        }
        let mut attend = Vec::new();
        for owner in &node.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
        }
        if let Some(old) = &old {
            for owner in &old.owners {
                let now = node.owners.iter().find(|other| other.uid == owner.uid);
                if now.is_none() {
                    self.unlink(&owner.uid, &uid);
                }
                // An owner that waited for this object need not any more.
                if owner.blocks && !now.is_some_and(|now| now.blocks) && self.waits(&owner.uid) {
                    attend.push(owner.uid.clone());
                }
            }
        }
        let owners_differ = old.as_ref().is_none_or(|old| old.owners != node.owners);
        let is_doubtful = |reference: &Owner| self.nodes.get(&reference.uid).is_none_or(|owner| !owner.can_own(&node, reference) || owner.waits_for_dependents());
        if owners_differ && node.owners.iter().any(is_doubtful) {
            attend.push(uid.clone());
        }
        if node.waits_for_dependents() && !old.as_ref().is_some_and(Node::waits_for_dependents) {
            attend.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
            attend.push(uid.clone());
        }
        if node.is_orphaning() {
            attend.push(uid.clone());
        }
        self.nodes.insert(uid, node);
        attend
    }

    /// An object is gone. Returns the objects that need attention: its dependents, and owners that waited for it.
    pub fn remove(&mut self, uid: &str) -> Vec<Uid> {
        let Some(node) = self.nodes.remove(uid) else { return Vec::new() };
        let mut attend: Vec<Uid> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        for Owner { uid: owner, .. } in &node.owners {
            self.unlink(owner, uid);
            if self.waits(owner) {
                attend.push(owner.clone());
            }
        }
        attend
    }

    /// The uids of all objects of a resource.
    pub fn of_resource(&self, resource: &ServedResource) -> Vec<Uid> {
        self.nodes.values().filter(|node| *node.resource == *resource).map(|node| node.uid.clone()).collect()
    }

    /// How many objects of a resource are in a namespace.
    pub fn count(&self, group: &str, resource: &str, namespace: &str) -> usize {
        let is_there = |node: &&Node| node.key.namespace.as_deref() == Some(namespace) && node.resource.group == group && node.resource.resource == resource;
        self.nodes.values().filter(is_there).count()
    }

    fn waits(&self, uid: &str) -> bool {
        self.nodes.get(uid).is_some_and(Node::waits_for_dependents)
    }

    fn unlink(&mut self, owner: &Uid, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(uid: &str, owners: &[(&str, bool)]) -> Node {
        let resource = ServedResource {
            group: String::new(),
            version: "v1".to_owned(),
            kind: "ConfigMap".to_owned(),
            resource: "configmaps".to_owned(),
            namespaced: true,
            verbs: Vec::new(),
            has_scale: false,
        };
        Node {
            uid: uid.into(),
            resource: Arc::new(resource),
            key: ObjectKey::namespaced("x", uid),
            owners: owners.iter().map(|(owner, blocks)| Owner { uid: (*owner).into(), blocks: *blocks, named: digest("", "ConfigMap", owner) }).collect(),
            deleting: false,
            foreground: false,
            orphan: false,
        }
    }

    #[track_caller]
    fn check(attend: Vec<Uid>, expected: &[&str]) {
        let mut attend: Vec<_> = attend.iter().map(|uid| &**uid).collect();
        attend.sort_unstable();
        attend.dedup();
        assert_eq!(attend, expected);
    }

    #[test]
    fn dependents_are_attended_to_when_their_owner_goes() {
        let mut graph = Graph::default();
        check(graph.put(node("owner", &[])), &[]);
        check(graph.put(node("a", &[("owner", false)])), &[]);
        check(graph.put(node("b", &[("owner", true)])), &[]);
        check(graph.remove("owner"), &["a", "b"]);
        check(graph.remove("owner"), &[]);
    }

    #[test]
    fn an_object_with_an_unknown_owner_is_attended_to() {
        let mut graph = Graph::default();
        check(graph.put(node("a", &[("nobody", false)])), &["a"]);
        check(graph.put(node("a", &[("nobody", false)])), &[]);
        check(graph.remove("a"), &[]);
        assert!(graph.dependents.is_empty());
    }

    #[test]
    fn an_object_with_an_owner_elsewhere_is_attended_to() {
        let mut graph = Graph::default();
        let elsewhere = Node { key: ObjectKey::namespaced("y", "owner"), ..node("owner", &[]) };
        check(graph.put(elsewhere.clone()), &[]);
        check(graph.put(node("a", &[("owner", false)])), &["a"]);
        assert!(elsewhere.is_foreign_to(&node("a", &[])));
        let everywhere = Node { key: ObjectKey::cluster("owner"), ..node("owner", &[]) };
        assert!(!everywhere.is_foreign_to(&node("a", &[])));
    }

    #[test]
    fn owners_are_solid_that_are_known_can_own_and_stay() {
        let mut graph = Graph::default();
        let dependent = node("a", &[("one", false), ("other", true)]);
        graph.put(dependent.clone());
        graph.put(node("one", &[]));
        assert!(!graph.has_solid_owners(&dependent), "one is unknown");
        graph.put(node("other", &[]));
        assert!(graph.has_solid_owners(&dependent));
        graph.put(Node { key: ObjectKey::namespaced("elsewhere", "other"), ..node("other", &[]) });
        assert!(!graph.has_solid_owners(&dependent), "nobody owns across namespaces");
        graph.put(Node { key: ObjectKey::cluster("other"), ..node("other", &[]) });
        assert!(graph.has_solid_owners(&dependent));
        graph.put(Node { deleting: true, foreground: true, ..node("other", &[]) });
        assert!(!graph.has_solid_owners(&dependent), "it waits to go");
        graph.remove("other");
        assert!(!graph.has_solid_owners(&dependent));
    }

    #[test]
    fn a_reference_has_to_say_what_its_owner_is() {
        let mut graph = Graph::default();
        graph.put(node("owner", &[]));
        check(graph.put(node("a", &[("owner", true)])), &[]);
        let mut mistaken = node("b", &[("owner", true)]);
        mistaken.owners[0].named = digest("", "Secret", "owner");
        assert!(!graph.has_solid_owners(&mistaken));
        check(graph.put(mistaken), &["b"]);
    }

    #[test]
    fn objects_with_unknown_owners_are_found() {
        let mut graph = Graph::default();
        graph.put(node("owner", &[]));
        graph.put(node("a", &[("owner", false)]));
        graph.put(node("b", &[("nobody", false), ("owner", false)]));
        check(graph.with_unknown_owners(), &["b"]);
    }

    #[test]
    fn foreground_removal_waits_for_blocking_dependents_only() {
        let mut graph = Graph::default();
        graph.put(node("owner", &[]));
        graph.put(node("blocking", &[("owner", true)]));
        graph.put(node("other", &[("owner", false)]));
        let leaving = Node { deleting: true, foreground: true, ..node("owner", &[]) };
        check(graph.put(leaving.clone()), &["blocking", "other", "owner"]);
        assert_eq!(graph.blocking_dependents("owner").len(), 1);
        check(graph.put(node("late", &[("owner", false)])), &["late"]);
        check(graph.remove("blocking"), &["owner"]);
        assert!(graph.blocking_dependents("owner").is_empty());
        // A dependent that stops blocking frees the owner, too.
        graph.put(node("c", &[("owner", true)]));
        check(graph.put(node("c", &[("owner", false)])), &["c", "owner"]);
    }

    #[test]
    fn an_orphaning_owner_is_attended_to() {
        let mut graph = Graph::default();
        graph.put(node("owner", &[]));
        check(graph.put(Node { deleting: true, orphan: true, ..node("owner", &[]) }), &["owner"]);
    }
}
