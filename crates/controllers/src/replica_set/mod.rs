//! A ReplicaSet, and a ReplicationController, has as many pods as it asks for. What to do is decided in `plan`, what to report in
//! `status`; `owner` is what the two kinds have in common.

mod owner;
mod plan;
mod status;

use std::sync::Arc;

use async_trait::async_trait;
use client::{Api, Change, DeleteParams, EventRecorder, EventType, Index, Informer, ObjectKey, PostParams, Preconditions};
use controller::batches::slow_start;
use controller::ownership::{Claim, adopt, claim, controller_of, controller_reference, release};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Runner, Trigger, Writes};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};

use crate::ControllerContext;
use crate::pods;
use owner::ReplicaOwner;
use plan::plan;
use status::{Failure, status_of};

/// How many ReplicaSets are worked on at once.
const WORKERS: usize = 8;

/// Starts both controllers.
pub fn start(context: &ControllerContext, runner: &Runner) {
    runner.start(ReplicaController::<ReplicaSet>::new(context), WORKERS);
    runner.start(ReplicaController::<ReplicationController>::new(context), 2);
}

/// Whether a set may have to do or report something else than before. That a pod got its node, for one, makes no difference, and a set
/// looks at all of its pods each time.
fn interests(change: &Change<Pod>) -> bool {
    let (Some(old), Some(new)) = (&change.old, &change.new) else { return true };
    let said = |pod: &Pod| (pod.metadata.uid.clone(), pod.metadata.deletion_timestamp.is_some());
    said(old) != said(new)
        || pods::phase(old) != pods::phase(new)
        || pods::condition(old, "Ready") != pods::condition(new, "Ready")
        || old.metadata.labels != new.metadata.labels
        || old.metadata.owner_references != new.metadata.owner_references
}

struct ReplicaController<K> {
    client: client::Client,
    owners: Informer<K>,
    owners_by_controller: Index<K>,
    pods: Informer<Pod>,
    pods_by_controller: Index<Pod>,
    writes: Writes<Pod>,
    /// Our own status writes; acting before they are seen would only meet a conflict.
    own_writes: Writes<K>,
    events: EventRecorder,
    clock: Arc<dyn client::Clock>,
}

impl<K: ReplicaOwner> ReplicaController<K> {
    fn new(context: &ControllerContext) -> Self {
        let owners = context.informers.of::<K>();
        let pods = context.informers.of::<Pod>();
        Self {
            client: context.client(K::CONTROLLER),
            owners_by_controller: owners.index("controller", |owner| controller::ownership::controller_uid(owner.meta())),
            own_writes: Writes::new(owners.clone(), context.clock.clone()),
            owners,
            pods_by_controller: pods::by_controller(&pods),
            writes: Writes::new(pods.clone(), context.clock.clone()),
            pods,
            events: context.events(K::CONTROLLER),
            clock: context.clock.clone(),
        }
    }

    /// The pods that belong to the owner, after adopting and releasing what has to be.
    async fn claim_pods(&self, key: &ObjectKey, owner: &K) -> Result<Vec<Arc<Pod>>, ReconcileError> {
        let uid = owner.meta().uid.clone().unwrap_or_default();
        let namespace = key.namespace.as_deref().unwrap_or_default();
        let selector = owner.selector();
        let api = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let mut claimed = Vec::new();
        for pod in self.pods_by_controller.get(&uid) {
            match claim(owner.meta(), &pod.metadata, selector.selects_object(&pod.metadata)) {
                Claim::Keep => claimed.push(pod),
                Claim::Release => {
                    if let Some(released) = release(&api, &*pod, &uid).await? {
                        self.writes.wrote(key, &released);
                    }
                }
                Claim::Adopt | Claim::Ignore => {}
            }
        }
        let orphans = self.pods_by_controller.get(&pods::orphans_of(namespace));
        let wanted: Vec<_> = orphans
            .into_iter()
            .filter(|pod| !pods::is_finished(pod))
            .filter(|pod| claim(owner.meta(), &pod.metadata, selector.selects_object(&pod.metadata)) == Claim::Adopt)
            .collect();
        if wanted.is_empty() {
            return Ok(claimed);
        }
        // The cache may not know yet that the owner is going; its dependents must not be tied to it then.
        let live = Api::<K>::namespaced(self.client.clone(), namespace).get_opt(&key.name).await.doing(|| format!("read {key}"))?;
        if live.is_none_or(|live| live.meta().uid != owner.meta().uid || live.meta().deletion_timestamp.is_some()) {
            return Ok(claimed);
        }
        for pod in wanted {
            if let Some(adopted) = adopt(&api, &*pod, controller_reference(owner)).await? {
                self.writes.wrote(key, &adopted);
                claimed.push(Arc::new(adopted));
            }
        }
        Ok(claimed)
    }

    /// All pods of the ReplicaSets that share this one's controller: those a scale-down should spread over.
    fn related_pods(&self, owner: &K) -> Vec<Arc<Pod>> {
        let own = owner.meta().uid.clone();
        let siblings = controller_of(owner.meta()).map(|reference| self.owners_by_controller.get(&reference.uid)).unwrap_or_default();
        let uids = siblings.iter().filter_map(|sibling| sibling.meta().uid.clone()).chain(own.clone());
        let uids: std::collections::BTreeSet<_> = uids.collect();
        uids.iter().flat_map(|uid| self.pods_by_controller.get(uid)).collect()
    }

    async fn create(&self, key: &ObjectKey, owner: &K, count: usize) -> Result<(), Failure> {
        let Some(template) = owner.template() else { return Ok(()) };
        let namespace = key.namespace.as_deref().unwrap_or_default();
        let api = &Api::<Pod>::namespaced(self.client.clone(), namespace);
        let pod = &pods::from_template(template, &key.name, namespace, controller_reference(owner));
        let parameters = &PostParams::default();
        let (_, result) = slow_start(0..count, |_| async move {
            match api.create(parameters, pod).await {
                Ok(created) => {
                    self.writes.wrote(key, &created);
                    let name = created.metadata.name.as_deref().unwrap_or_default();
                    self.events.record(owner, EventType::Normal, "SuccessfulCreate", format!("Created pod: {name}"));
                    Ok(())
                }
                // Pods of a namespace that goes away are not missed.
                Err(error) if crate::namespace_is_terminating(&error) => Ok(()),
                Err(error) => {
                    self.events.record(owner, EventType::Warning, "FailedCreate", format!("Error creating: {}", crate::api_message(&error)));
                    Err(error)
                }
            }
        })
        .await;
        result.map_err(|error| Failure { reason: "FailedCreate", error })
    }

    async fn delete(&self, key: &ObjectKey, owner: &K, pods: Vec<Arc<Pod>>) -> Result<(), Failure> {
        let namespace = key.namespace.as_deref().unwrap_or_default();
        let api = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let deletions = pods.into_iter().map(|pod| {
            let api = &api;
            async move {
                let name = pod.metadata.name.clone().unwrap_or_default();
                let parameters = DeleteParams {
                    preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
                    ..DeleteParams::default()
                };
                self.writes.deleted(key, &pod);
                match api.delete(&name, &parameters).await {
                    Ok(_) => self.events.record(owner, EventType::Normal, "SuccessfulDelete", format!("Deleted pod: {name}")),
                    Err(error) if client::is_not_found(&error) || client::is_conflict(&error) => {}
                    Err(error) => {
                        self.writes.forget(key);
                        self.events.record(owner, EventType::Warning, "FailedDelete", format!("Error deleting: {}", crate::api_message(&error)));
                        return Err(error);
                    }
                }
                Ok(())
            }
        });
        let results = futures::future::join_all(deletions).await;
        match results.into_iter().find_map(Result::err) {
            Some(error) => Err(Failure { reason: "FailedDelete", error }),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl<K: ReplicaOwner> Reconciler for ReplicaController<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn triggers(&self) -> Vec<Trigger> {
        let owners = self.owners.clone();
        vec![
            Trigger::itself(&self.owners),
            Trigger::controller_where(&self.pods, K::KIND, interests),
            // A pod without a controller may be one that a set selects.
            Trigger::on(&self.pods, move |change| {
                let Some(pod) = change.new.as_ref().filter(|pod| controller_of(&pod.metadata).is_none() && pods::is_active(pod)) else {
                    return Vec::new();
                };
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                let selecting = owners.list_in(namespace).into_iter().filter(|owner| owner.selector().selects_object(&pod.metadata));
                selecting.map(|owner| client::key_of(&*owner)).collect()
            }),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(owner) = self.owners.get(key) else {
            self.writes.forget(key);
            self.own_writes.forget(key);
            return Ok(Outcome::Settled);
        };
        if !self.writes.are_visible(key) || !self.own_writes.are_visible(key) {
            return Ok(Outcome::CheckAgainIn(Writes::<Pod>::patience()));
        }
        let claimed = self.claim_pods(key, &owner).await?;
        let (active, rest): (Vec<_>, Vec<_>) = claimed.into_iter().partition(|pod| pods::is_active(pod));
        let terminating = rest.iter().filter(|pod| pods::is_terminating(pod) && !pods::is_finished(pod)).count();
        let now = self.clock.now();

        let mut failure = None;
        if owner.meta().deletion_timestamp.is_none() {
            let plan = plan(owner.desired(), &active, || self.related_pods(&owner), now);
            failure = self.create(key, &owner, plan.create).await.err();
            failure = self.delete(key, &owner, plan.delete).await.err().or(failure);
        }

        let status = status_of(&*owner, &active, terminating, failure.as_ref(), now);
        if status != owner.status() {
            let updated = owner.with_status(status);
            let api = Api::<K>::namespaced(self.client.clone(), key.namespace.as_deref().unwrap_or_default());
            match api.replace_status(&key.name, &PostParams::default(), &updated).await {
                Err(error) if client::is_not_found(&error) => {}
                other => self.own_writes.wrote(key, &other.doing(|| format!("update the status of {key}"))?),
            }
        }
        match failure {
            Some(Failure { error, .. }) => Err(ReconcileError::Api { action: format!("give {key} its pods"), source: error }),
            None => Ok(Outcome::after(pods::next_available_in(&active, owner.min_ready_seconds(), now))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::{pod, second};

    #[test]
    fn a_set_looks_again_where_a_pod_counts_otherwise_and_not_where_it_got_its_node() {
        let waiting = pod("a", "Pending", "", None);
        let changed = |change: fn(&mut Pod)| {
            let mut new = Pod::clone(&waiting);
            change(&mut new);
            interests(&Change { key: client::key_of(&new), old: Some(waiting.clone()), new: Some(Arc::new(new)) })
        };
        let bound = |pod: &mut Pod| pod.spec.get_or_insert_default().node_name = Some("n".to_owned());
        assert!(!changed(bound));
        assert!(!changed(|pod| pod.metadata.annotations = Some([("a".to_owned(), "b".to_owned())].into())));
        assert!(changed(|pod| pod.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into())));
        assert!(changed(|pod| pod.metadata.owner_references = Some(Vec::new())));
        assert!(changed(|pod| pod.metadata.deletion_timestamp = Some(second(1))));
        assert!(changed(|pod| pod.metadata.uid = Some("another".to_owned())));
        assert!(changed(|pod| pod.status.get_or_insert_default().phase = Some("Running".to_owned())));
        assert!(changed(|pod| pod.status.get_or_insert_default().conditions = pods::tests::pod("a", "", "", Some(7)).status.clone().and_then(|status| status.conditions)));
        let key = client::key_of(&*waiting);
        assert!(interests(&Change { key: key.clone(), old: None, new: Some(waiting.clone()) }));
        assert!(interests(&Change { key, old: Some(waiting), new: None }));
    }
}
