//! A DaemonSet has one pod on every node that it fits. The scheduler binds the pods: each carries an affinity to its node.
//!
//! [`fit`] says where pods belong, [`plan`] what to create and remove (with rolling updates in [`rolling`]), [`daemon_pod`] makes the pods;
//! templates of the past are in `crate::revisions`.

mod daemon_pod;
mod fit;
mod plan;
mod rolling;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use client::{Api, DeleteParams, EventRecorder, EventType, Index, Informer, ObjectKey, Patch, PatchParams, PostParams, Preconditions};
use controller::batches::slow_start;
use controller::ownership::{Claim, adopt, claim, controller_of, controller_reference, release};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Runner, Trigger, Writes};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;

use crate::revisions::{self, History, Owner, REVISION_LABEL, Revisions};
use crate::selector::Selector;
use crate::{ControllerContext, pods, taints};
use plan::{Plan, plan};

const CONTROLLER: &str = "daemon-set-controller";
/// Most pods created or removed in one go. Source: Kubernetes 1.36, `BurstReplicas`.
const BURST: usize = 250;
/// Kept when the set does not say how many. The API fills it in.
const DEFAULT_HISTORY: i32 = 10;

/// Starts the controller.
pub fn start(context: &ControllerContext, runner: &Runner) {
    let sets = context.informers.of::<DaemonSet>();
    let pods = context.informers.of::<Pod>();
    let controller = DaemonSetController {
        client: context.client(CONTROLLER),
        own_writes: Writes::new(sets.clone(), context.clock.clone()),
        sets,
        nodes: context.informers.of(),
        pods_by_controller: pods::by_controller(&pods),
        writes: Writes::new(pods.clone(), context.clock.clone()),
        pods,
        revisions: Revisions::new(context, CONTROLLER),
        failures: plan::Failures::new(context.clock.clone()),
        events: context.events_as(CONTROLLER, "daemonset-controller"),
        clock: context.clock.clone(),
    };
    runner.start(controller, 2);
}

struct DaemonSetController {
    client: client::Client,
    sets: Informer<DaemonSet>,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    pods_by_controller: Index<Pod>,
    writes: Writes<Pod>,
    /// Our own status writes; acting before they are seen would only meet a conflict.
    own_writes: Writes<DaemonSet>,
    revisions: Revisions,
    failures: plan::Failures,
    events: EventRecorder,
    clock: Arc<dyn client::Clock>,
}

impl DaemonSetController {
    fn pods_api(&self, key: &ObjectKey) -> Api<Pod> {
        Api::namespaced(self.client.clone(), key.namespace.as_deref().unwrap_or_default())
    }

    /// The set's pods by node, after adopting and releasing what has to be.
    async fn claim_pods(&self, key: &ObjectKey, set: &DaemonSet, selector: &Selector) -> Result<BTreeMap<String, Vec<Arc<Pod>>>, ReconcileError> {
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        let api = self.pods_api(key);
        let mut claimed = Vec::new();
        for pod in self.pods_by_controller.get(uid) {
            match claim(&set.metadata, &pod.metadata, selector.selects_object(&pod.metadata)) {
                Claim::Release => {
                    if let Some(released) = release(&api, &*pod, uid).await? {
                        self.writes.wrote(key, &released);
                    }
                }
                _ => claimed.push(pod),
            }
        }
        for pod in self.pods_by_controller.get(&pods::orphans_of(key.namespace.as_deref().unwrap_or_default())) {
            if claim(&set.metadata, &pod.metadata, selector.selects_object(&pod.metadata)) != Claim::Adopt {
                continue;
            }
            let live = Api::<DaemonSet>::namespaced(self.client.clone(), key.namespace.as_deref().unwrap_or_default()).get_opt(&key.name).await;
            let live = live.doing(|| format!("read {key}"))?;
            if live.is_none_or(|live| live.metadata.uid != set.metadata.uid || live.metadata.deletion_timestamp.is_some()) {
                break;
            }
            if let Some(adopted) = adopt(&api, &*pod, controller_reference(set)).await? {
                self.writes.wrote(key, &adopted);
                claimed.push(Arc::new(adopted));
            }
        }
        let mut by_node: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
        for pod in claimed {
            by_node.entry(daemon_pod::node_of(&pod).unwrap_or_default().to_owned()).or_default().push(pod);
        }
        Ok(by_node)
    }

    /// Pods of another revision with the same template belong to the one that counts: they are labelled anew, not replaced. True when
    /// there were such pods.
    /// Source: Kubernetes 1.36, `dedupCurHistories`.
    async fn relabel(&self, key: &ObjectKey, pods: &BTreeMap<String, Vec<Arc<Pod>>>, history: &History) -> Result<bool, ReconcileError> {
        let duplicates = history.duplicates();
        let hash_of = |pod: &Pod| pod.metadata.labels.as_ref().and_then(|labels| labels.get(REVISION_LABEL)).cloned().unwrap_or_default();
        let mut any = false;
        for pod in pods.values().flatten().filter(|pod| duplicates.contains(hash_of(pod).as_str())) {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let patch = json!({ "metadata": { "uid": pod.metadata.uid, "labels": { REVISION_LABEL: revisions::hash(&history.update) } } });
            match self.pods_api(key).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Err(error) if client::is_not_found(&error) || client::is_conflict(&error) => {}
                other => {
                    self.writes.wrote(key, &other.doing(|| format!("label pod {name} with its revision"))?);
                    any = true;
                }
            }
        }
        Ok(any)
    }

    async fn carry_out(&self, key: &ObjectKey, set: &DaemonSet, plan: &Plan, hash: &str) -> Result<(), ReconcileError> {
        let api = &self.pods_api(key);
        let nodes = plan.create.iter().take(BURST);
        let (_, created) = slow_start(nodes, |node| async move {
            let pod = daemon_pod::pod(set, node, hash);
            match api.create(&PostParams::default(), &pod).await {
                Ok(created) => {
                    self.writes.wrote(key, &created);
                    let name = created.metadata.name.as_deref().unwrap_or_default();
                    self.events.record(set, EventType::Normal, "SuccessfulCreate", format!("Created pod: {name}"));
                    Ok(())
                }
                Err(error) if crate::namespace_is_terminating(&error) => Ok(()),
                Err(error) => {
                    self.events.record(set, EventType::Warning, "FailedCreate", format!("Error creating: {}", crate::api_message(&error)));
                    Err(error)
                }
            }
        })
        .await;
        let mut done = created.doing(|| format!("give {key} its pods"));
        for (pod, event) in plan.delete.iter().take(BURST) {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            if let Some((kind, reason, message)) = event {
                self.events.record(set, *kind, reason, message.clone());
            }
            let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
            match api.delete(name, &DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }).await {
                Err(error) if client::is_not_found(&error) || client::is_conflict(&error) => {}
                Err(error) => {
                    self.events.record(set, EventType::Warning, "FailedDelete", format!("Error deleting: {}", crate::api_message(&error)));
                    done = done.and(Err(error).doing(|| format!("delete pod {name}")));
                }
                Ok(_) => {
                    self.writes.deleted(key, pod);
                    self.events.record(set, EventType::Normal, "SuccessfulDelete", format!("Deleted pod: {name}"));
                }
            }
        }
        done
    }
}

#[async_trait]
impl Reconciler for DaemonSetController {
    fn name(&self) -> &'static str {
        "daemonset"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let (selecting, all) = (self.sets.clone(), self.sets.clone());
        vec![
            Trigger::itself(&self.sets),
            Trigger::controller(&self.pods, "DaemonSet"),
            Trigger::on(&self.pods, move |change| {
                let Some(pod) = change.new.as_ref().filter(|pod| controller_of(&pod.metadata).is_none() && pods::is_active(pod)) else {
                    return Vec::new();
                };
                let sets = selecting.list_in(pod.metadata.namespace.as_deref().unwrap_or_default());
                let selects = |set: &DaemonSet| set.spec.as_ref().is_some_and(|spec| Selector::new(&spec.selector).selects_object(&pod.metadata));
                sets.into_iter().filter(|set| selects(set)).map(|set| client::key_of(&*set)).collect()
            }),
            // Only what decides whether a pod fits; nodes report all the time.
            Trigger::on(&self.nodes, move |change| {
                let decisive = |node: &Node| (node.metadata.labels.clone(), taints::of(node).to_vec());
                if let (Some(old), Some(new)) = (&change.old, &change.new)
                    && decisive(old) == decisive(new)
                {
                    return Vec::new();
                }
                all.list().iter().map(|set| client::key_of(&**set)).collect()
            }),
            Trigger::controller(self.revisions.informer(), "DaemonSet"),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(set) = self.sets.get(key) else {
            self.writes.forget(key);
            self.own_writes.forget(key);
            return Ok(Outcome::Settled);
        };
        if !self.own_writes.are_visible(key) || !self.writes.are_visible(key) || !self.revisions.are_visible(key) {
            return Ok(Outcome::CheckAgainIn(Writes::<Pod>::patience()));
        }
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Settled);
        }
        let spec = set.spec.clone().unwrap_or_default();
        let selector = Selector::new(&spec.selector);
        let owner = Owner {
            key,
            metadata: &set.metadata,
            reference: controller_reference(&*set),
            selector: &selector,
            template: &spec.template,
            collisions: set.status.as_ref().and_then(|status| status.collision_count),
            hash_label: REVISION_LABEL,
        };
        let history = match self.revisions.history(&owner).await {
            Err(ReconcileError::Api { source, .. }) if crate::namespace_is_terminating(&source) => return Ok(Outcome::Settled),
            other => other?,
        };
        let hash = revisions::hash(&history.update).to_owned();
        let pods = self.claim_pods(key, &set, &selector).await?;
        if self.relabel(key, &pods, &history).await? {
            return Ok(Outcome::CheckAgainIn(Writes::<Pod>::patience()));
        }
        let nodes = self.nodes.list();
        let hashes: BTreeSet<String> = pods.values().flatten().filter_map(|pod| pod.metadata.labels.as_ref()?.get(REVISION_LABEL).cloned()).collect();
        let mut pods = pods;
        pods.values_mut().for_each(|on_node| on_node.retain(|pod| !plan::is_over(pod)));
        pods.retain(|_, on_node| !on_node.is_empty());
        let plan = plan(&set, &nodes, &pods, &hash, history.collisions, &self.failures, self.clock.now());
        let done = self.carry_out(key, &set, &plan, &hash).await;
        if set.status.as_ref() != Some(&plan.status) {
            let updated = DaemonSet { status: Some(plan.status.clone()), ..(*set).clone() };
            let api = Api::<DaemonSet>::namespaced(self.client.clone(), key.namespace.as_deref().unwrap_or_default());
            match api.replace_status(&key.name, &PostParams::default(), &updated).await {
                Err(error) if client::is_not_found(&error) => {}
                other => self.own_writes.wrote(key, &other.doing(|| format!("update the status of {key}"))?),
            }
        }
        done?;
        let is_current = |revision: &Arc<_>| Arc::ptr_eq(revision, &history.update);
        let used: Vec<_> = history.all.iter().filter(|revision| is_current(revision) || hashes.contains(revisions::hash(revision))).collect();
        let in_use: BTreeSet<String> = used.iter().filter_map(|revision| revision.metadata.name.clone()).collect();
        // Old revisions that pods still have count, too.
        let limit = spec.revision_history_limit.unwrap_or(DEFAULT_HISTORY);
        let limit = if limit < 0 { limit } else { (limit - used.len() as i32 + 1).max(0) };
        self.revisions.cut(&owner, &history, &in_use, limit).await?;
        Ok(Outcome::after(plan.check_after))
    }
}

#[cfg(test)]
mod tests;
