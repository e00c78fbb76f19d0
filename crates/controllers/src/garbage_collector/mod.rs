//! Removes objects whose owners are gone, and lets owners wait for, or let go of, their dependents.
//!
//! [`monitors`] watches the metadata of every kind the API serves, also of those that come later, into the [`graph`] of who owns whom;
//! the graph says which objects need attention. This file attends to them, after a look at the live object, since the graph may lag.
//! How a removal goes on is said by finalizers that the API server sets: `foregroundDeletion` keeps an owner until its (blocking)
//! dependents are gone, `orphan` keeps it until they are let go of.

mod graph;
mod monitors;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{DeleteParams, EventRecorder, EventType, GetParams, ObjectKey, Patch, PatchParams, Preconditions, PropagationPolicy, Request};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Runner, Trigger};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::json;

use crate::ControllerContext;
use crate::discovery::ServedResource;
use crate::content::Content;
use graph::{FOREGROUND, Node, ORPHAN};
use monitors::Monitors;

const WORKERS: usize = 16;
/// An owner that exists but that the graph has not heard of should soon be heard of; until then its dependents are looked at again.
const STRANGER_RECHECK: Duration = Duration::from_secs(10);
/// How long all kinds are waited for at start. One that cannot be read then does not hold up the others: owners that are not in
/// the graph are asked for before anything is deleted. Source: Kubernetes, `initialSyncTimeout`.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts the controller, which also tells `content` of every object that is gone.
pub fn start(context: &ControllerContext, runner: &Runner, content: Content) {
    start_with(context, runner, content, PATIENCE);
}

fn start_with(context: &ControllerContext, runner: &Runner, content: Content, patience: Duration) {
    let client = context.client("generic-garbage-collector");
    let monitors = Monitors::new(client.clone(), content, context.informers.stopped().clone(), patience);
    runner.start(GarbageCollector { client, monitors, events: context.events("garbage-collector-controller") }, WORKERS);
}

struct GarbageCollector {
    client: client::Client,
    monitors: Arc<Monitors>,
    events: EventRecorder,
}

/// What is known of an owner.
enum OwnerState {
    /// It is there.
    Solid,
    /// It is not there (any more).
    Absent,
    /// It waits for its dependents to go first.
    Waiting,
    /// Nobody can tell: its kind is not served.
    Unknown,
}

impl GarbageCollector {
    async fn live(&self, node: &Node) -> Result<Option<ObjectMeta>, ReconcileError> {
        let live = self.metadata(&node.resource, &node.key).await.doing(|| format!("read {} {}", node.resource.name(), node.key))?;
        Ok(live.filter(|metadata| metadata.uid.as_deref() == Some(&node.uid)))
    }

    async fn metadata(&self, resource: &ServedResource, key: &ObjectKey) -> client::Result<Option<ObjectMeta>> {
        let request = Request::new(resource.path(key.namespace.as_deref())).get_metadata(&key.name, &GetParams::default());
        match self.client.request::<client::MetadataOnly>(request.map_err(client::Error::BuildRequest)?).await {
            Ok(object) => Ok(Some(object.metadata)),
            Err(error) if client::is_not_found(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Changes metadata, provided that the object is still as `metadata` says. An object that is gone needs no change.
    async fn patch(&self, resource: &ServedResource, key: &ObjectKey, metadata: &ObjectMeta, mut change: serde_json::Value) -> Result<(), ReconcileError> {
        change["uid"] = json!(metadata.uid);
        change["resourceVersion"] = json!(metadata.resource_version);
        let patch = Patch::Merge(json!({ "metadata": change }));
        let request = Request::new(resource.path(key.namespace.as_deref())).patch_metadata(&key.name, &PatchParams::default(), &patch);
        let request = request.map_err(client::Error::BuildRequest).doing(|| format!("describe a change of {key}"))?;
        match self.client.request_text(request).await {
            Err(error) if client::is_not_found(&error) => Ok(()),
            other => other.map(drop).doing(|| format!("change the owners or finalizers of {} {key}", resource.name())),
        }
    }

    async fn remove_finalizer(&self, node: &Node, finalizer: &str) -> Result<(), ReconcileError> {
        let Some(live) = self.live(node).await? else { return Ok(()) };
        let mut finalizers = live.finalizers.clone().unwrap_or_default();
        let before = finalizers.len();
        finalizers.retain(|other| other != finalizer);
        if finalizers.len() == before {
            return Ok(());
        }
        self.patch(&node.resource, &node.key, &live, json!({ "finalizers": finalizers })).await
    }

    /// Takes one owner's reference from each of its dependents, then lets the owner go.
    async fn orphan(&self, node: &Node) -> Result<Outcome, ReconcileError> {
        let dependents = self.monitors.graph().dependents(&node.uid);
        for dependent in dependents {
            let Some(live) = self.live(&dependent).await? else { continue };
            let mut owners = live.owner_references.clone().unwrap_or_default();
            owners.retain(|owner| owner.uid != *node.uid);
            self.patch(&dependent.resource, &dependent.key, &live, json!({ "ownerReferences": owners })).await?;
        }
        self.remove_finalizer(node, ORPHAN).await?;
        Ok(Outcome::Settled)
    }

    /// Says that an owner is in another namespace than its dependent, which owners cannot be.
    /// Source: Kubernetes 1.36, `reportInvalidNamespaceOwnerRef`.
    fn say_foreign(&self, node: &Node, owner: &OwnerReference) {
        let namespace = node.key.namespace.as_deref().unwrap_or_default();
        let about = ObjectReference {
            kind: Some(node.resource.kind.clone()),
            api_version: Some(node.resource.api_version()),
            namespace: node.key.namespace.as_deref().map(str::to_owned),
            name: Some(node.key.name.to_string()),
            uid: Some(node.uid.to_string()),
            ..ObjectReference::default()
        };
        let OwnerReference { api_version, kind, name, uid, .. } = owner;
        let message = format!("ownerRef [{api_version}/{kind}, namespace: {namespace}, name: {name}, uid: {uid}] does not exist in namespace {namespace:?}");
        self.events.record_about(about, EventType::Warning, "OwnerRefInvalidNamespace", message);
    }

    async fn owner_state(&self, node: &Node, owner: &OwnerReference) -> Result<(OwnerState, bool), ReconcileError> {
        let Some(resource) = self.monitors.resource(&owner.api_version, &owner.kind) else { return Ok((OwnerState::Unknown, false)) };
        let known = self.monitors.graph().get(&owner.uid);
        if known.as_ref().is_some_and(|known| known.is_foreign_to(node)) {
            self.say_foreign(node, owner);
        }
        if resource.namespaced && node.key.namespace.is_none() {
            return Ok((OwnerState::Unknown, false));
        }
        let namespace = node.key.namespace.clone().filter(|_| resource.namespaced);
        let key = ObjectKey { namespace, name: owner.name.as_str().into() };
        match known {
            Some(known) if known.key == key && known.resource.kind == resource.kind && known.resource.group == resource.group => {
                return Ok((if known.waits_for_dependents() { OwnerState::Waiting } else { OwnerState::Solid }, false));
            }
            _ => {}
        }
        let live = self.metadata(&resource, &key).await.doing(|| format!("read owner {} {key}", resource.name()))?;
        Ok(match live {
            Some(live) if live.uid.as_ref() == Some(&owner.uid) => (OwnerState::Solid, true),
            _ => (OwnerState::Absent, false),
        })
    }

    /// Looks at an object's owners: an object all of whose owners are gone, or wait for it, is deleted.
    async fn judge(&self, node: &Node) -> Result<Outcome, ReconcileError> {
        // At start many objects are read before their owners. Once these are known, there is nothing to ask for: whatever happens to
        // them brings the object here again.
        if self.monitors.graph().has_solid_owners(node) {
            return Ok(Outcome::Settled);
        }
        let Some(live) = self.live(node).await? else { return Ok(Outcome::Settled) };
        let owners = live.owner_references.clone().unwrap_or_default();
        if owners.is_empty() || live.deletion_timestamp.is_some() {
            return Ok(Outcome::Settled);
        }
        let (mut solid, mut absent, mut waiting, mut stranger) = (Vec::new(), Vec::new(), Vec::new(), false);
        for owner in owners {
            let (state, is_stranger) = self.owner_state(node, &owner).await?;
            stranger |= is_stranger;
            match state {
                // Nothing is done to it as long as not all of its owners are known. Its kind may be served later, which wakes us.
                OwnerState::Unknown => return Ok(Outcome::Settled),
                OwnerState::Solid => solid.push(owner),
                OwnerState::Absent => absent.push(owner),
                OwnerState::Waiting => waiting.push(owner),
            }
        }
        if !solid.is_empty() {
            if !absent.is_empty() || !waiting.is_empty() {
                self.patch(&node.resource, &node.key, &live, json!({ "ownerReferences": solid })).await?;
            }
            return Ok(if stranger { Outcome::CheckAgainIn(STRANGER_RECHECK) } else { Outcome::Settled });
        }
        let dependents = self.monitors.graph().dependents(&node.uid);
        let has = |finalizer: &str| live.finalizers.iter().flatten().any(|other| other == finalizer);
        let policy = if !waiting.is_empty() && !dependents.is_empty() {
            // A circle of owners that each wait for the other would wait for ever: one of them must not block.
            if dependents.iter().any(Node::waits_for_dependents) {
                let unblocked = waiting.iter().chain(&absent).map(|owner| OwnerReference { block_owner_deletion: Some(false), ..owner.clone() });
                let unblocked: Vec<_> = unblocked.collect();
                self.patch(&node.resource, &node.key, &live, json!({ "ownerReferences": unblocked })).await?;
            }
            PropagationPolicy::Foreground
        } else if has(ORPHAN) {
            PropagationPolicy::Orphan
        } else if has(FOREGROUND) {
            PropagationPolicy::Foreground
        } else {
            PropagationPolicy::Background
        };
        self.delete(node, &live, policy).await
    }

    /// Deletes an object, provided that it still has the owners it had in `judged`: somebody may have adopted it meanwhile. Other
    /// changes of it do not matter.
    async fn delete(&self, node: &Node, judged: &ObjectMeta, policy: PropagationPolicy) -> Result<Outcome, ReconcileError> {
        match self.request_delete(node, judged.resource_version.clone(), policy.clone()).await {
            Err(ReconcileError::Api { source, .. }) if client::is_conflict(&source) => {}
            other => return other.map(|()| Outcome::Settled),
        }
        let Some(live) = self.live(node).await? else { return Ok(Outcome::Settled) };
        if live.owner_references != judged.owner_references {
            return Ok(Outcome::CheckAgainIn(Duration::ZERO));
        }
        match self.request_delete(node, None, policy).await {
            // Another object of the same name: this one is not there any more.
            Err(ReconcileError::Api { source, .. }) if client::is_conflict(&source) => Ok(Outcome::Settled),
            other => other.map(|()| Outcome::Settled),
        }
    }

    async fn request_delete(&self, node: &Node, resource_version: Option<String>, policy: PropagationPolicy) -> Result<(), ReconcileError> {
        let preconditions = Preconditions { uid: Some(node.uid.to_string()), resource_version };
        let parameters = DeleteParams { propagation_policy: Some(policy), preconditions: Some(preconditions), ..DeleteParams::default() };
        let request = Request::new(node.resource.path(node.key.namespace.as_deref())).delete(&node.key.name, &parameters);
        let request = request.map_err(client::Error::BuildRequest).doing(|| format!("describe the removal of {}", node.key))?;
        match self.client.request_text(request).await {
            Err(error) if client::is_not_found(&error) => Ok(()),
            other => other.map(drop).doing(|| format!("delete {} {}", node.resource.name(), node.key)),
        }
    }
}

#[async_trait]
impl Reconciler for GarbageCollector {
    fn name(&self) -> &'static str {
        "garbage-collector"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let (starting, synced) = (self.monitors.clone(), self.monitors.clone());
        vec![Trigger::custom(move |queue| starting.start(queue)).once(async move { synced.synced().await })]
    }

    /// The key is a uid.
    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(node) = self.monitors.graph().get(&key.name) else { return Ok(Outcome::Settled) };
        if node.is_orphaning() {
            return self.orphan(&node).await;
        }
        if node.waits_for_dependents() {
            let blocking = self.monitors.graph().blocking_dependents(&node.uid);
            if blocking.is_empty() {
                self.remove_finalizer(&node, FOREGROUND).await?;
            }
            return Ok(Outcome::Settled);
        }
        if node.deleting || node.owners.is_empty() {
            return Ok(Outcome::Settled);
        }
        self.judge(&node).await
    }
}

#[cfg(test)]
mod tests;
