//! The templates a StatefulSet or DaemonSet has had, kept as ControllerRevisions for rolling updates and for going back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use client::{Api, DeleteParams, Index, Informer, ObjectKey, PostParams};
use controller::ownership::{Claim, adopt, claim, controller_of};
use controller::{Doing, ReconcileError, Writes};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use crate::selector::Selector;
use crate::template_hash::hash_of;
use crate::{ControllerContext, pods};

/// The label of a pod that names the revision it was made from.
pub const REVISION_LABEL: &str = "controller-revision-hash";
/// The label of a revision with its content's hash.
pub const HASH_LABEL: &str = "controller.kubernetes.io/hash";

/// Whose revisions.
pub struct Owner<'a> {
    /// Its key.
    pub key: &'a ObjectKey,
    /// Its metadata.
    pub metadata: &'a ObjectMeta,
    /// A reference that makes it the controller.
    pub reference: OwnerReference,
    /// What it selects.
    pub selector: &'a Selector,
    /// Its present template.
    pub template: &'a PodTemplateSpec,
    /// How many hashes were taken already.
    pub collisions: Option<i32>,
    /// Under which label its revisions have their hash.
    pub hash_label: &'static str,
}

/// Reads and writes revisions for one controller.
pub struct Revisions {
    client: client::Client,
    informer: Informer<ControllerRevision>,
    by_controller: Index<ControllerRevision>,
    writes: Writes<ControllerRevision>,
}

/// The revisions of an owner, oldest first, with one for the present template.
pub struct History {
    /// All of them, by number.
    pub all: Vec<Arc<ControllerRevision>>,
    /// The one of the present template.
    pub update: Arc<ControllerRevision>,
    /// The count of collisions, where a name was taken by something else.
    pub collisions: Option<i32>,
}

impl Revisions {
    /// Revisions written by the service account `account`.
    pub fn new(context: &ControllerContext, account: &str) -> Self {
        let informer = context.informers.of::<ControllerRevision>();
        Self {
            client: context.client(account),
            by_controller: informer.index("controller or namespace of orphan", |revision| match controller_of(&revision.metadata) {
                Some(reference) => vec![reference.uid.clone()],
                None => vec![pods::orphans_of(revision.metadata.namespace.as_deref().unwrap_or_default())],
            }),
            writes: Writes::new(informer.clone(), context.clock.clone()),
            informer,
        }
    }

    /// The cache that is read.
    pub fn informer(&self) -> &Informer<ControllerRevision> {
        &self.informer
    }

    /// Whether the cache shows what was written for this owner.
    pub fn are_visible(&self, key: &ObjectKey) -> bool {
        self.writes.are_visible(key)
    }

    fn api(&self, key: &ObjectKey) -> Api<ControllerRevision> {
        Api::namespaced(self.client.clone(), key.namespace.as_deref().unwrap_or_default())
    }

    /// The owner's revisions, by number, after adopting those that match.
    async fn list(&self, owner: &Owner<'_>) -> Result<Vec<Arc<ControllerRevision>>, ReconcileError> {
        let mut all = self.by_controller.get(owner.metadata.uid.as_deref().unwrap_or_default());
        for orphan in self.by_controller.get(&pods::orphans_of(owner.key.namespace.as_deref().unwrap_or_default())) {
            if claim(owner.metadata, &orphan.metadata, owner.selector.selects_object(&orphan.metadata)) == Claim::Adopt
                && let Some(adopted) = adopt(&self.api(owner.key), &*orphan, owner.reference.clone()).await?
            {
                self.writes.wrote(owner.key, &adopted);
                all.push(Arc::new(adopted));
            }
        }
        all.sort_by_key(|revision| (revision.revision, revision.metadata.creation_timestamp.as_ref().map(|time| time.0), revision.metadata.name.clone()));
        Ok(all)
    }

    /// The history, with a revision for the present template: an existing one gets the newest number, otherwise one is made.
    /// Source: Kubernetes 1.36, `getStatefulSetRevisions` and `constructHistory`.
    pub async fn history(&self, owner: &Owner<'_>) -> Result<History, ReconcileError> {
        let mut all = self.list(owner).await?;
        let data = patch_of(owner.template);
        let next = all.last().map_or(1, |newest| newest.revision + 1);
        let is_same = |revision: &ControllerRevision| template_of(revision) == Some(without_empty_metadata(owner.template.clone()));
        let same = all.iter().rposition(|revision| is_same(revision));
        if let Some(position) = same {
            let existing = all.remove(position);
            let update = if position == all.len() { existing } else { Arc::new(self.renumber(owner, &existing, next).await?) };
            all.push(update.clone());
            return Ok(History { all, update, collisions: owner.collisions });
        }
        let mut collisions = owner.collisions;
        loop {
            let revision = revision(owner, &data, next, collisions);
            let name = revision.metadata.name.clone().unwrap_or_default();
            match self.api(owner.key).create(&PostParams::default(), &revision).await {
                Ok(created) => {
                    self.writes.wrote(owner.key, &created);
                    let update = Arc::new(created);
                    all.push(update.clone());
                    return Ok(History { all, update, collisions });
                }
                Err(error) if client::is_already_exists(&error) => {
                    let existing = self.api(owner.key).get_opt(&name).await.doing(|| format!("read revision {name}"))?;
                    match existing {
                        Some(existing) if is_same(&existing) => {
                            let update = Arc::new(existing);
                            all.push(update.clone());
                            return Ok(History { all, update, collisions });
                        }
                        Some(_) => collisions = Some(collisions.unwrap_or(0).saturating_add(1)),
                        None => return Err(error).doing(|| format!("create revision {name}")),
                    }
                }
                Err(error) => return Err(error).doing(|| format!("create revision {name}")),
            }
        }
    }

    async fn renumber(&self, owner: &Owner<'_>, revision: &ControllerRevision, number: i64) -> Result<ControllerRevision, ReconcileError> {
        let mut changed = revision.clone();
        changed.revision = number;
        let name = changed.metadata.name.clone().unwrap_or_default();
        let written = self.api(owner.key).replace(&name, &PostParams::default(), &changed).await.doing(|| format!("renumber revision {name}"))?;
        self.writes.wrote(owner.key, &written);
        Ok(written)
    }

    /// Removes the oldest revisions that nothing uses any more. A limit below zero is none.
    pub async fn cut(&self, owner: &Owner<'_>, history: &History, in_use: &BTreeSet<String>, limit: i32) -> Result<(), ReconcileError> {
        let unused: Vec<_> = history.all.iter().filter(|revision| revision.metadata.name.as_ref().is_none_or(|name| !in_use.contains(name))).collect();
        let surplus = usize::try_from(limit).map_or(0, |limit| unused.len().saturating_sub(limit));
        for revision in unused.into_iter().take(surplus) {
            let name = revision.metadata.name.as_deref().unwrap_or_default();
            match self.api(owner.key).delete(name, &DeleteParams::default()).await {
                Err(error) if client::is_not_found(&error) => {}
                other => {
                    other.doing(|| format!("delete old revision {name}"))?;
                    self.writes.deleted(owner.key, revision);
                }
            }
        }
        Ok(())
    }
}

/// A template as a revision keeps it: as a patch of its owner, so that `kubectl rollout undo` can apply it. To the byte as upstream writes
/// it, since Go clients find the current revision by comparing texts: their metadata always have a creation time.
fn patch_of(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    template["$patch"] = "replace".into();
    if template["metadata"]["creationTimestamp"].is_null() {
        template["metadata"]["creationTimestamp"] = Value::Null;
    }
    json!({ "spec": { "template": template } })
}

/// The template that a revision keeps.
pub fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok().map(without_empty_metadata)
}

/// No metadata and empty metadata mean the same.
fn without_empty_metadata(mut template: PodTemplateSpec) -> PodTemplateSpec {
    template.metadata = template.metadata.filter(|metadata| *metadata != ObjectMeta::default());
    template
}

impl History {
    /// The hashes of revisions that keep the present template, other than the one that counts. There are such after somebody wrote a
    /// revision by hand.
    pub fn duplicates(&self) -> BTreeSet<&str> {
        let template = template_of(&self.update);
        let others = self.all.iter().filter(|revision| revision.metadata.uid != self.update.metadata.uid && template_of(revision) == template);
        others.map(|revision| hash(revision)).filter(|other| *other != hash(&self.update)).collect()
    }
}

/// The hash that a revision is labelled with.
pub fn hash(revision: &ControllerRevision) -> &str {
    let labels = revision.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(REVISION_LABEL).or_else(|| labels.get(HASH_LABEL))).map(String::as_str).unwrap_or_default()
}

fn revision(owner: &Owner<'_>, data: &Value, number: i64, collisions: Option<i32>) -> ControllerRevision {
    let hash = hash_of(&serde_json::to_vec(data).unwrap_or_default(), collisions);
    let mut labels: BTreeMap<String, String> = owner.template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()).unwrap_or_default();
    labels.insert(owner.hash_label.to_owned(), hash.clone());
    let mut annotations = owner.metadata.annotations.clone().unwrap_or_default();
    annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", owner.key.name)),
            namespace: owner.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations).filter(|all| !all.is_empty()),
            owner_references: Some(vec![owner.reference.clone()]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data.clone())),
        revision: number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_reads_as_go_writes_it() {
        let mut template = PodTemplateSpec::default();
        template.spec.get_or_insert_default().hostname = Some("a".to_owned());
        let text = serde_json::to_string(&patch_of(&template)).unwrap();
        assert_eq!(text, r#"{"spec":{"template":{"$patch":"replace","metadata":{"creationTimestamp":null},"spec":{"containers":[],"hostname":"a"}}}}"#);
    }

    #[test]
    fn a_template_survives_in_a_revision() {
        let mut template = PodTemplateSpec::default();
        template.spec.get_or_insert_default().hostname = Some("a".to_owned());
        let key = ObjectKey::namespaced("x", "web");
        let metadata = ObjectMeta::default();
        let selector = Selector::from_labels(None);
        let owner = Owner { key: &key, metadata: &metadata, reference: OwnerReference::default(), selector: &selector, template: &template, collisions: None, hash_label: HASH_LABEL };
        let made = revision(&owner, &patch_of(&template), 3, None);
        assert_eq!(template_of(&made), Some(template.clone()));
        assert_eq!(made.metadata.name, Some(format!("web-{}", hash(&made))));
        assert_ne!(revision(&owner, &patch_of(&template), 3, Some(1)).metadata.name, made.metadata.name);
    }
}
