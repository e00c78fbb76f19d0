//! A CronJob starts a Job at the times of its schedule. [`schedule`] finds the times, [`plan`] decides what to start and what to remove.

mod plan;
mod schedule;

use std::sync::Arc;

use async_trait::async_trait;
use client::{Api, DeleteParams, EventRecorder, EventType, Index, Informer, ObjectKey, PostParams, Preconditions};
use controller::ownership::{controller_uid, is_controlled_by};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Runner, Trigger, Writes};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use prometheus_client::{metrics::histogram::Histogram, registry::Registry};

use crate::ControllerContext;
use plan::plan;

const CONTROLLER: &str = "cronjob-controller";

/// Starts the controller.
pub fn start(context: &ControllerContext, runner: &Runner) {
    let jobs = context.informers.of::<Job>();
    let cron_jobs = context.informers.of::<CronJob>();
    let controller = CronJobController {
        client: context.client(CONTROLLER),
        own_writes: Writes::new(cron_jobs.clone(), context.clock.clone()),
        cron_jobs,
        jobs_by_controller: jobs.index("controller", |job| controller_uid(&job.metadata)),
        writes: Writes::new(jobs.clone(), context.clock.clone()),
        jobs,
        events: context.events(CONTROLLER),
        clock: context.clock.clone(),
        skew: runner.metrics().register(skew),
    };
    runner.start(controller, 3);
}

struct CronJobController {
    client: client::Client,
    cron_jobs: Informer<CronJob>,
    jobs: Informer<Job>,
    jobs_by_controller: Index<Job>,
    writes: Writes<Job>,
    /// Our own status writes: before they are seen, the Job just started would seem to be somebody else's.
    own_writes: Writes<CronJob>,
    events: EventRecorder,
    clock: Arc<dyn client::Clock>,
    skew: Histogram,
}

/// How late Jobs are created. Source of name and buckets: Kubernetes 1.36, `pkg/controller/cronjob/metrics/metrics.go`.
fn skew(registry: &mut Registry) -> Histogram {
    let skew = Histogram::new(::metrics::exponential(1.0, 2.0, 10));
    registry.register("cronjob_controller_job_creation_skew_duration_seconds", "[STABLE] How long after their time Jobs were created, in seconds", skew.clone());
    skew
}

impl CronJobController {
    async fn delete(&self, key: &ObjectKey, cron_job: &CronJob, job: &Job) -> Result<(), ReconcileError> {
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let api = Api::<Job>::namespaced(self.client.clone(), key.namespace.as_deref().unwrap_or_default());
        let preconditions = Preconditions { uid: job.metadata.uid.clone(), resource_version: None };
        match api.delete(name, &DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() }).await {
            Err(error) if client::is_not_found(&error) || client::is_conflict(&error) => {}
            Err(error) => {
                self.events.record(cron_job, EventType::Warning, "FailedDelete", format!("Deleted job: {}", crate::api_message(&error)));
                return Err(error).doing(|| format!("delete job {name}"));
            }
            Ok(_) => {
                self.writes.deleted(key, job);
                self.events.record(cron_job, EventType::Normal, "SuccessfulDelete", format!("Deleted job {name}"));
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Reconciler for CronJobController {
    fn name(&self) -> &'static str {
        "cronjob"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::itself(&self.cron_jobs), Trigger::controller(&self.jobs, "CronJob")]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(cron_job) = self.cron_jobs.get(key) else {
            self.writes.forget(key);
            self.own_writes.forget(key);
            return Ok(Outcome::Settled);
        };
        if !self.writes.are_visible(key) || !self.own_writes.are_visible(key) {
            return Ok(Outcome::CheckAgainIn(Writes::<Job>::patience()));
        }
        let jobs = self.jobs_by_controller.get(cron_job.metadata.uid.as_deref().unwrap_or_default());
        let mut plan = plan(&cron_job, &jobs, self.clock.now());
        for (kind, reason, message) in &plan.events {
            self.events.record(&*cron_job, *kind, reason, message.clone());
        }
        // That one of them cannot be removed, which was told, holds nothing up.
        let mut removed = Ok(());
        for job in &plan.delete {
            removed = self.delete(key, &cron_job, job).await.and(removed);
        }
        for job in &plan.replace {
            self.delete(key, &cron_job, job).await?;
        }
        let namespace = key.namespace.as_deref().unwrap_or_default();
        if let Some((job, scheduled)) = plan.create.take() {
            let name = job.metadata.name.clone().unwrap_or_default();
            let api = Api::<Job>::namespaced(self.client.clone(), namespace);
            let created = match api.create(&PostParams::default(), &job).await {
                Ok(created) => {
                    self.skew.observe(self.clock.now().duration_since(scheduled).as_secs_f64());
                    self.events.record(&*cron_job, EventType::Normal, "SuccessfulCreate", format!("Created job {name}"));
                    Some(created)
                }
                // Started before, by a process that ended before it could say so.
                Err(error) if client::is_already_exists(&error) => api.get_opt(&name).await.doing(|| format!("read job {name}"))?,
                Err(error) if crate::namespace_is_terminating(&error) => return Ok(Outcome::Settled),
                Err(error) => {
                    self.events.record(&*cron_job, EventType::Warning, "FailedCreate", format!("Error creating job: {}", crate::api_message(&error)));
                    return Err(error).doing(|| format!("create job {name}"));
                }
            };
            // A Job of that name that is somebody else's is not ours to tell of.
            if let Some(created) = created.filter(|job| is_controlled_by(&job.metadata, &cron_job.metadata)) {
                self.writes.wrote(key, &created);
                plan.started(&created, scheduled);
            }
        }
        if cron_job.status.as_ref() != Some(&plan.status) {
            let updated = CronJob { status: Some(plan.status), ..(*cron_job).clone() };
            match Api::<CronJob>::namespaced(self.client.clone(), namespace).replace_status(&key.name, &PostParams::default(), &updated).await {
                Err(error) if client::is_not_found(&error) => {}
                other => self.own_writes.wrote(key, &other.doing(|| format!("update the status of {key}"))?),
            }
        }
        removed?;
        Ok(Outcome::after(plan.check_after))
    }
}
