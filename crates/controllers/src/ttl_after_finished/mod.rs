//! Removes a finished Job some time after its end, where it says when. The smallest controller there is: a good one to copy.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Api, DeleteParams, Informer, ObjectKey, Preconditions};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Runner, Trigger};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;

use crate::ControllerContext;
use crate::job::{finish_time, is_finished};

const CONTROLLER: &str = "ttl-after-finished-controller";

/// Starts the controller.
pub fn start(context: &ControllerContext, runner: &Runner) {
    runner.start(TtlAfterFinished { client: context.client(CONTROLLER), jobs: context.informers.of(), clock: context.clock.clone() }, 2);
}

struct TtlAfterFinished {
    client: client::Client,
    jobs: Informer<Job>,
    clock: Arc<dyn client::Clock>,
}

/// How long a Job still lives; `None` when it has no such limit, or has not finished.
fn time_left(job: &Job, now: Timestamp) -> Option<Duration> {
    let seconds = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let finished = finish_time(job).filter(|_| is_finished(job) && job.metadata.deletion_timestamp.is_none())?;
    let age = Duration::try_from(now.duration_since(finished)).unwrap_or_default();
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).saturating_sub(age))
}

#[async_trait]
impl Reconciler for TtlAfterFinished {
    fn name(&self) -> &'static str {
        "ttl-after-finished"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::itself(&self.jobs)]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(job) = self.jobs.get(key) else { return Ok(Outcome::Settled) };
        match time_left(&job, self.clock.now()) {
            None => return Ok(Outcome::Settled),
            Some(left) if !left.is_zero() => return Ok(Outcome::CheckAgainIn(left)),
            Some(_) => {}
        }
        // Only if it is still as it was judged: the limit may have been raised meanwhile.
        let preconditions = Preconditions { uid: job.metadata.uid.clone(), resource_version: job.metadata.resource_version.clone() };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::foreground() };
        let api = Api::<Job>::namespaced(self.client.clone(), key.namespace.as_deref().unwrap_or_default());
        match api.delete(&key.name, &parameters).await {
            Err(error) if client::is_not_found(&error) => Ok(Outcome::Settled),
            other => other.map(|_| Outcome::Settled).doing(|| format!("remove finished job {key}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_finished_jobs_with_a_limit_expire() {
        let job = |ttl: Option<i32>, condition: &str| -> Job {
            serde_json::from_value(json!({
                "spec": { "ttlSecondsAfterFinished": ttl, "template": {} },
                "status": { "conditions": [{ "type": condition, "status": "True", "lastTransitionTime": "1970-01-01T00:01:40Z" }] },
            }))
            .unwrap()
        };
        let left = |job: &Job| time_left(job, Timestamp::from_second(130).unwrap());
        assert_eq!(left(&job(Some(60), "Complete")), Some(Duration::from_secs(30)));
        assert_eq!(left(&job(Some(0), "Failed")), Some(Duration::ZERO));
        assert_eq!(left(&job(None, "Complete")), None);
        assert_eq!(left(&job(Some(60), "Suspended")), None);
    }
}
