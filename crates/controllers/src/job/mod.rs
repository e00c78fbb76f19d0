//! A Job runs pods until enough of them have succeeded.
//!
//! [`plan`] decides. Each pod carries a finalizer until it is counted, so that none is counted twice or missed: an ended pod is first noted in
//! the status (`uncountedTerminatedPods`), then loses the finalizer, then is counted. [`failure_policy`] and [`success_policy`] are the
//! user's own rules, [`indexes`] the numbers of an indexed Job, [`job_pod`] makes the pods, [`counts`] counts. Pods that no Job has any more
//! lose their finalizer in [`orphans`].

mod counts;
mod failure_policy;
mod indexes;
mod job_pod;
mod orphans;
mod plan;
mod success_policy;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use client::{Api, DeleteParams, EventRecorder, EventType, Index, Informer, ObjectKey, Patch, PatchParams, PostParams, Preconditions};
use controller::batches::slow_start;
use controller::ownership::{Claim, adopt, claim, controller_of, controller_reference, release};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Runner, Trigger, Writes};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::json;

use crate::selector::Selector;
use crate::{ControllerContext, pods};
use counts::{Action, Counts};
use plan::{Backoff, Plan, plan};

pub(crate) use plan::{finish_time, is_finished};

const CONTROLLER: &str = "job-controller";
/// Keeps a pod until it is counted.
const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// Who else may manage a Job says so here. Source: Kubernetes 1.36, `JobControllerName`.
const MANAGER: &str = "kubernetes.io/job-controller";

/// Starts the controller.
pub fn start(context: &ControllerContext, runner: &Runner) {
    let jobs = context.informers.of::<Job>();
    let pods = context.informers.of::<Pod>();
    let controller = JobController {
        client: context.client(CONTROLLER),
        own_writes: Writes::new(jobs.clone(), context.clock.clone()),
        jobs,
        pods_by_controller: pods::by_controller(&pods),
        writes: Writes::new(pods.clone(), context.clock.clone()),
        pods,
        backoffs: Mutex::default(),
        events: context.events(CONTROLLER),
        clock: context.clock.clone(),
        counts: runner.metrics().register(Counts::new),
    };
    let orphans = orphans::Orphans { client: controller.client.clone(), jobs: controller.jobs.clone(), pods: controller.pods.clone() };
    runner.start(controller, 5);
    runner.start(orphans, 1);
}

struct JobController {
    client: client::Client,
    jobs: Informer<Job>,
    pods: Informer<Pod>,
    pods_by_controller: Index<Pod>,
    writes: Writes<Pod>,
    /// Our own status writes; acting before they are seen would only meet a conflict.
    own_writes: Writes<Job>,
    /// What failures there were lately, by Job. A restart forgets it; then the pods that are there tell.
    backoffs: Mutex<HashMap<ObjectKey, Backoff>>,
    events: EventRecorder,
    clock: Arc<dyn client::Clock>,
    counts: Counts,
}

/// Whether a pod still waits to be counted.
fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == TRACKING)
}

impl JobController {
    fn pods_api(&self, key: &ObjectKey) -> Api<Pod> {
        Api::namespaced(self.client.clone(), key.namespace.as_deref().unwrap_or_default())
    }

    async fn claim_pods(&self, key: &ObjectKey, job: &Job, selector: &Selector) -> Result<Vec<Arc<Pod>>, ReconcileError> {
        let uid = job.metadata.uid.as_deref().unwrap_or_default();
        let api = self.pods_api(key);
        let mut claimed = Vec::new();
        for pod in self.pods_by_controller.get(uid) {
            if claim(&job.metadata, &pod.metadata, selector.selects_object(&pod.metadata)) == Claim::Release {
                self.untrack(key, &pod).await?;
                if let Some(released) = release(&api, &*pod, uid).await.or_else(|error| if error.is_conflict() { Ok(None) } else { Err(error) })? {
                    self.writes.wrote(key, &released);
                }
            } else {
                claimed.push(pod);
            }
        }
        for pod in self.pods_by_controller.get(&pods::orphans_of(key.namespace.as_deref().unwrap_or_default())) {
            if claim(&job.metadata, &pod.metadata, selector.selects_object(&pod.metadata)) != Claim::Adopt {
                continue;
            }
            let live = Api::<Job>::namespaced(self.client.clone(), key.namespace.as_deref().unwrap_or_default()).get_opt(&key.name).await;
            let live = live.doing(|| format!("read {key}"))?;
            if live.is_none_or(|live| live.metadata.uid != job.metadata.uid || live.metadata.deletion_timestamp.is_some()) {
                break;
            }
            if let Some(adopted) = adopt(&api, &*pod, controller_reference(job)).await? {
                self.writes.wrote(key, &adopted);
                claimed.push(Arc::new(adopted));
            }
        }
        Ok(claimed)
    }

    /// Takes the finalizer from a pod.
    async fn untrack(&self, key: &ObjectKey, pod: &Pod) -> Result<(), ReconcileError> {
        if !is_tracked(pod) {
            return Ok(());
        }
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let finalizers: Vec<_> = pod.metadata.finalizers.iter().flatten().filter(|finalizer| *finalizer != TRACKING).collect();
        let patch = json!({ "metadata": { "finalizers": finalizers, "uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version } });
        match self.pods_api(key).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(changed) => self.writes.wrote(key, &changed),
            Err(error) if client::is_not_found(&error) => {}
            Err(error) => return Err(error).doing(|| format!("take the finalizer from pod {name}")),
        }
        Ok(())
    }

    /// Pods of a Job that is gone must not wait to be counted.
    async fn forget(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        self.writes.forget(key);
        self.own_writes.forget(key);
        self.backoffs.lock().remove(key);
        let of_job = |pod: &Arc<Pod>| controller_of(&pod.metadata).is_some_and(|owner| owner.kind == "Job" && owner.name == *key.name);
        for pod in self.pods.list_in(key.namespace.as_deref().unwrap_or_default()).into_iter().filter(|pod| is_tracked(pod) && of_job(pod)) {
            self.untrack(key, &pod).await?;
        }
        self.writes.forget(key);
        Ok(Outcome::Settled)
    }

    async fn look(&self, key: &ObjectKey, job: &Job, selector: &Selector, action: &mut Action) -> Result<Outcome, ReconcileError> {
        let pods = self.claim_pods(key, job, selector).await?;
        let backoff = self.backoffs.lock().get(key).copied();
        let plan = plan(job, &pods, backoff, self.clock.now());
        *action = match &plan {
            plan if !plan.managed => Action::Reconciling,
            plan if !plan.delete.is_empty() => Action::PodsDeleted,
            plan if !plan.create.is_empty() => Action::PodsCreated,
            _ => Action::Tracking,
        };
        self.carry_out(key, job, &plan).await?;
        Ok(Outcome::after(plan.check_after))
    }

    async fn carry_out(&self, key: &ObjectKey, job: &Job, plan: &Plan) -> Result<(), ReconcileError> {
        // What the pods' ends mean is written down before the pods are let go.
        if job.status.as_ref() != Some(&plan.status) {
            let updated = Job { status: Some(plan.status.clone()), ..job.clone() };
            let api = Api::<Job>::namespaced(self.client.clone(), key.namespace.as_deref().unwrap_or_default());
            match api.replace_status(&key.name, &PostParams::default(), &updated).await {
                Err(error) if client::is_not_found(&error) => return Ok(()),
                other => self.own_writes.wrote(key, &other.doing(|| format!("update the status of {key}"))?),
            }
            self.counts.changed(job, &plan.status);
        }
        if is_finished(job) {
            self.backoffs.lock().remove(key);
        } else {
            self.backoffs.lock().insert(key.clone(), plan.backoff);
        }
        for (kind, reason, message) in &plan.events {
            self.events.record(job, *kind, reason, message.clone());
        }
        let released = plan.release.iter().map(|pod| self.untrack(key, pod));
        futures::future::join_all(released).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        let api = &self.pods_api(key);
        for (pod, counts) in &plan.delete {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            if !counts {
                self.untrack(key, pod).await?;
            }
            let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
            match api.delete(name, &DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }).await {
                Err(error) if client::is_not_found(&error) || client::is_conflict(&error) => {}
                Err(error) => {
                    self.events.record(job, EventType::Warning, "FailedDelete", format!("Error deleting: {}", crate::api_message(&error)));
                    return Err(error).doing(|| format!("delete pod {name}"));
                }
                Ok(_) => {
                    self.writes.deleted(key, pod);
                    self.events.record(job, EventType::Normal, "SuccessfulDelete", format!("Deleted pod: {name}"));
                }
            }
        }
        let (_, created) = slow_start(&plan.create, |new| async move {
            match api.create(&PostParams::default(), &job_pod::pod(job, *new)).await {
                Ok(created) => {
                    self.writes.wrote(key, &created);
                    let name = created.metadata.name.as_deref().unwrap_or_default();
                    self.events.record(job, EventType::Normal, "SuccessfulCreate", format!("Created pod: {name}"));
                    Ok(())
                }
                Err(error) if crate::namespace_is_terminating(&error) => Ok(()),
                Err(error) => {
                    self.events.record(job, EventType::Warning, "FailedCreate", format!("Error creating: {}", crate::api_message(&error)));
                    Err(error)
                }
            }
        })
        .await;
        created.doing(|| format!("give {key} its pods"))
    }
}

#[async_trait]
impl Reconciler for JobController {
    fn name(&self) -> &'static str {
        "job"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let jobs = self.jobs.clone();
        vec![
            Trigger::itself(&self.jobs),
            Trigger::controller(&self.pods, "Job"),
            Trigger::on(&self.pods, move |change| {
                let Some(pod) = change.new.as_ref().filter(|pod| controller_of(&pod.metadata).is_none()) else { return Vec::new() };
                let all = jobs.list_in(pod.metadata.namespace.as_deref().unwrap_or_default());
                let selects = |job: &Job| job.spec.as_ref().and_then(|spec| spec.selector.as_ref()).is_some_and(|selector| Selector::new(selector).selects_object(&pod.metadata));
                all.into_iter().filter(|job| selects(job)).map(|job| client::key_of(&*job)).collect()
            }),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(job) = self.jobs.get(key) else { return self.forget(key).await };
        let spec = job.spec.clone().unwrap_or_default();
        if spec.managed_by.as_deref().is_some_and(|manager| manager != MANAGER) {
            return Ok(Outcome::Settled);
        }
        if !self.own_writes.are_visible(key) || !self.writes.are_visible(key) {
            return Ok(Outcome::CheckAgainIn(Writes::<Pod>::patience()));
        }
        let began = Instant::now();
        let mut action = Action::Reconciling;
        let result = self.look(key, &job, &Selector::new(&spec.selector.unwrap_or_default()), &mut action).await;
        self.counts.looked(&job, action, result.is_ok(), began.elapsed());
        result
    }
}
