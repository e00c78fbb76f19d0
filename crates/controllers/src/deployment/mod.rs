//! A Deployment rolls its pods from one template to the next, by way of one ReplicaSet per template.
//!
//! [`plan`] decides, on a copy of the sets ([`rollout`]), what they should become: [`rolling`] or [`recreate`] for a new template,
//! [`proportional`] for a new size or a paused Deployment. [`revision`] numbers the sets for `kubectl rollout history` and `undo`,
//! [`history`] drops the oldest, [`progress`] says how it goes. This file does what was decided.

mod history;
mod plan;
mod progress;
mod proportional;
mod recreate;
mod revision;
mod rolling;
mod rollout;

use std::sync::Arc;

use async_trait::async_trait;
use client::{Api, DeleteParams, EventRecorder, EventType, Index, Informer, ObjectKey, PostParams, Preconditions};
use controller::ownership::{Claim, adopt, claim, controller_of, controller_reference, is_controlled_by, release};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Runner, Trigger, Writes};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;

use crate::selector::Selector;
use crate::{ControllerContext, pods};
use plan::{Plan, plan};
use rollout::{same_template, size};

const CONTROLLER: &str = "deployment-controller";
const WORKERS: usize = 8;

/// Starts the controller.
pub fn start(context: &ControllerContext, runner: &Runner) {
    let sets = context.informers.of::<ReplicaSet>();
    let pods = context.informers.of::<Pod>();
    let deployments = context.informers.of::<Deployment>();
    let controller = DeploymentController {
        client: context.client(CONTROLLER),
        own_writes: Writes::new(deployments.clone(), context.clock.clone()),
        deployments,
        sets_by_controller: sets.index("controller or namespace of orphan", |set| match controller_of(&set.metadata) {
            Some(reference) => vec![reference.uid.clone()],
            None => vec![pods::orphans_of(set.metadata.namespace.as_deref().unwrap_or_default())],
        }),
        writes: Writes::new(sets.clone(), context.clock.clone()),
        sets,
        pods_by_controller: pods::by_controller(&pods),
        pods,
        events: context.events(CONTROLLER),
        clock: context.clock.clone(),
    };
    runner.start(controller, WORKERS);
}

struct DeploymentController {
    client: client::Client,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    sets_by_controller: Index<ReplicaSet>,
    pods: Informer<Pod>,
    pods_by_controller: Index<Pod>,
    writes: Writes<ReplicaSet>,
    /// Our own status writes; acting before they are seen would only meet a conflict.
    own_writes: Writes<Deployment>,
    events: EventRecorder,
    clock: Arc<dyn client::Clock>,
}

impl DeploymentController {
    fn sets_api(&self, key: &ObjectKey) -> Api<ReplicaSet> {
        Api::namespaced(self.client.clone(), key.namespace.as_deref().unwrap_or_default())
    }

    fn deployments_api(&self, key: &ObjectKey) -> Api<Deployment> {
        Api::namespaced(self.client.clone(), key.namespace.as_deref().unwrap_or_default())
    }

    /// The Deployment's sets, after adopting and releasing what has to be.
    async fn claim_sets(&self, key: &ObjectKey, deployment: &Deployment) -> Result<Vec<Arc<ReplicaSet>>, ReconcileError> {
        let uid = deployment.metadata.uid.clone().unwrap_or_default();
        let selector = Selector::new(&deployment.spec.as_ref().map(|spec| spec.selector.clone()).unwrap_or_default());
        let api = self.sets_api(key);
        let mut claimed = Vec::new();
        for set in self.sets_by_controller.get(&uid) {
            match claim(&deployment.metadata, &set.metadata, selector.selects_object(&set.metadata)) {
                Claim::Keep => claimed.push(set),
                Claim::Release => {
                    if let Some(released) = release(&api, &*set, &uid).await? {
                        self.writes.wrote(key, &released);
                    }
                }
                Claim::Adopt | Claim::Ignore => {}
            }
        }
        for set in self.sets_by_controller.get(&pods::orphans_of(key.namespace.as_deref().unwrap_or_default())) {
            if claim(&deployment.metadata, &set.metadata, selector.selects_object(&set.metadata)) != Claim::Adopt {
                continue;
            }
            let live = self.deployments_api(key).get_opt(&key.name).await.doing(|| format!("read {key}"))?;
            if live.is_none_or(|live| live.metadata.uid != deployment.metadata.uid || live.metadata.deletion_timestamp.is_some()) {
                break;
            }
            if let Some(adopted) = adopt(&api, &*set, controller_reference(deployment)).await? {
                self.writes.wrote(key, &adopted);
                claimed.push(Arc::new(adopted));
            }
        }
        Ok(claimed)
    }

    /// Creates a set. True when it is there; false when its name is taken by a set with another template, so that the next try needs
    /// another name.
    async fn create_set(&self, key: &ObjectKey, deployment: &Deployment, set: &ReplicaSet) -> Result<bool, ReconcileError> {
        let api = self.sets_api(key);
        let name = set.metadata.name.clone().unwrap_or_default();
        match api.create(&PostParams::default(), set).await {
            Ok(created) => {
                self.writes.wrote(key, &created);
                if size(&created) > 0 {
                    self.say_scaled(deployment, &name, 0, size(&created));
                }
                Ok(true)
            }
            Err(error) if client::is_already_exists(&error) => {
                let existing = api.get_opt(&name).await.doing(|| format!("read replica set {name}"))?;
                match existing {
                    Some(existing) if is_controlled_by(&existing.metadata, &deployment.metadata) && same_template(&existing, deployment) => {
                        self.writes.wrote(key, &existing);
                        Ok(true)
                    }
                    Some(_) => Ok(false),
                    None => Err(error).doing(|| format!("create replica set {name}")),
                }
            }
            Err(error) => Err(error).doing(|| format!("create replica set {name}")),
        }
    }

    fn say_scaled(&self, deployment: &Deployment, set: &str, from: i32, to: i32) {
        let direction = if to > from { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {set} from {from} to {to}");
        self.events.record(deployment, EventType::Normal, "ScalingReplicaSet", message);
    }

    /// Carries a plan out; the status comes last, so that it never promises what was not done.
    async fn carry_out(&self, key: &ObjectKey, deployment: &Deployment, mut plan: Plan) -> Result<(), ReconcileError> {
        let api = self.sets_api(key);
        let mut failure = None;
        if let Some(set) = &plan.create {
            match self.create_set(key, deployment, set).await {
                Ok(true) => {}
                Ok(false) => {
                    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
                    let mut status = deployment.status.clone().unwrap_or_default();
                    status.collision_count = Some(collisions.saturating_add(1));
                    plan = Plan { status, ..Plan::default() };
                }
                Err(error) => {
                    if let ReconcileError::Api { source, .. } = &error {
                        if crate::namespace_is_terminating(source) {
                            return Ok(());
                        }
                        let message = format!("Failed to create new replica set {:?}: {}", set.metadata.name.as_deref().unwrap_or_default(), crate::api_message(source));
                        self.events.record(deployment, EventType::Warning, "ReplicaSetCreateError", message.clone());
                        plan = plan.creation_failed(deployment, message, self.clock.now());
                    }
                    failure = Some(error);
                }
            }
        }
        for (set, from) in &plan.update {
            let name = set.metadata.name.as_deref().unwrap_or_default();
            let updated = api.replace(name, &PostParams::default(), set).await.doing(|| format!("update replica set {name}"))?;
            self.writes.wrote(key, &updated);
            if *from != size(set) {
                self.say_scaled(deployment, name, *from, size(set));
            }
        }
        for set in &plan.delete {
            let name = set.metadata.name.as_deref().unwrap_or_default();
            let preconditions = Preconditions { uid: set.metadata.uid.clone(), resource_version: None };
            let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
            match api.delete(name, &parameters).await {
                Err(error) if client::is_not_found(&error) || client::is_conflict(&error) => {}
                other => {
                    other.doing(|| format!("delete old replica set {name}"))?;
                    self.writes.deleted(key, set);
                }
            }
        }
        let mut current = deployment.clone();
        let api = self.deployments_api(key);
        if let Some(annotations) = plan.annotations {
            current.metadata.annotations = Some(annotations);
            current = api.replace(&key.name, &PostParams::default(), &current).await.doing(|| format!("note the revision of {key}"))?;
            self.own_writes.wrote(key, &current);
        }
        if deployment.status.as_ref() != Some(&plan.status) {
            current.status = Some(plan.status);
            let written = api.replace_status(&key.name, &PostParams::default(), &current).await.doing(|| format!("update the status of {key}"))?;
            self.own_writes.wrote(key, &written);
        }
        failure.map_or(Ok(()), Err)
    }
}

#[async_trait]
impl Reconciler for DeploymentController {
    fn name(&self) -> &'static str {
        "deployment"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let deployments = self.deployments.clone();
        let (sets, recreating) = (self.sets.clone(), self.deployments.clone());
        vec![
            Trigger::itself(&self.deployments),
            Trigger::controller(&self.sets, "Deployment"),
            Trigger::on(&self.sets, move |change| {
                let Some(set) = change.new.as_ref().filter(|set| controller_of(&set.metadata).is_none()) else { return Vec::new() };
                let all = deployments.list_in(set.metadata.namespace.as_deref().unwrap_or_default());
                let selects = |deployment: &Deployment| {
                    deployment.spec.as_ref().is_some_and(|spec| Selector::new(&spec.selector).selects_object(&set.metadata))
                };
                all.into_iter().filter(|deployment| selects(deployment)).map(|deployment| client::key_of(&*deployment)).collect()
            }),
            // Recreating waits for the last old pod to be gone, which no ReplicaSet's status says.
            Trigger::on(&self.pods, move |change| {
                let (Some(pod), None) = (&change.old, &change.new) else { return Vec::new() };
                let key = (|| {
                    let namespace = pod.metadata.namespace.as_deref()?;
                    let owner = controller_of(&pod.metadata).filter(|owner| owner.kind == "ReplicaSet")?;
                    let set = sets.get_in(namespace, &owner.name)?;
                    let owner = controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment")?;
                    let deployment = recreating.get_in(namespace, &owner.name)?;
                    rollout::is_recreate(&deployment).then(|| client::key_of(&*deployment))
                })();
                key.into_iter().collect()
            }),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(deployment) = self.deployments.get(key) else {
            self.writes.forget(key);
            self.own_writes.forget(key);
            return Ok(Outcome::Settled);
        };
        if !self.writes.are_visible(key) || !self.own_writes.are_visible(key) {
            return Ok(Outcome::CheckAgainIn(Writes::<ReplicaSet>::patience()));
        }
        let sets = self.claim_sets(key, &deployment).await?;
        let has_pods = |set: &ReplicaSet| {
            let pods = self.pods_by_controller.get(set.metadata.uid.as_deref().unwrap_or_default());
            pods.iter().any(|pod| !pods::is_finished(pod))
        };
        let plan = plan(&deployment, &sets, has_pods, self.clock.now());
        let check_after = plan.check_after;
        self.carry_out(key, &deployment, plan).await?;
        Ok(Outcome::after(check_after))
    }
}
