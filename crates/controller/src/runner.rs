//! Runs reconcilers: attaches their triggers, waits for their caches, and lets workers take keys until the process stops.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use client::Clock;
use futures::FutureExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::{ControllerMetrics, Metrics};
use crate::{Outcome, Reconciler, WorkQueue};

/// How many keys of one controller are worked on at once, unless it asks for another number.
pub const DEFAULT_WORKERS: usize = 5;

/// Runs any number of controllers.
pub struct Runner {
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
    tasks: TaskTracker,
    metrics: Metrics,
}

impl Runner {
    /// Nothing runs yet. All of it stops when `stop` is cancelled.
    pub fn new(clock: Arc<dyn Clock>, stop: CancellationToken) -> Self {
        Self { clock, stop, tasks: TaskTracker::new(), metrics: Metrics::default() }
    }

    /// Starts a controller with `workers` keys at once. Must be called within a tokio runtime.
    pub fn start(&self, reconciler: impl Reconciler, workers: usize) {
        let reconciler: Arc<dyn Reconciler> = Arc::new(reconciler);
        let queue = WorkQueue::new(self.clock.clone());
        let metrics = self.metrics.of(reconciler.name(), &queue);
        let (tasks, stop) = (self.tasks.clone(), self.stop.clone());
        self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(async move {
            // Keys may be added before the caches are full; nobody takes them before.
            let mut waits = Vec::new();
            for trigger in reconciler.triggers() {
                (trigger.attach)(queue.clone());
                waits.push(trigger.synced);
            }
            futures::future::join_all(waits).await;
            tracing::debug!(controller = reconciler.name(), "caches are full, starting");
            for _ in 0..workers.max(1) {
                let work = work(reconciler.clone(), queue.clone(), metrics.clone(), stop.clone());
                tasks.spawn(work);
            }
            queue.run_delays().await;
        }));
    }

    /// Counters of all controllers.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Waits until everything has stopped; each reconciliation that has begun is finished first.
    pub async fn finished(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn work(reconciler: Arc<dyn Reconciler>, queue: Arc<WorkQueue>, metrics: Arc<ControllerMetrics>, stop: CancellationToken) {
    let controller = reconciler.name();
    while let Some((key, waited)) = stop.run_until_cancelled(queue.next()).await {
        metrics.taken_up(waited);
        let began = Instant::now();
        let result = AssertUnwindSafe(reconciler.reconcile(&key)).catch_unwind().await;
        metrics.worked(began.elapsed());
        match result {
            Ok(Ok(Outcome::Settled)) => queue.done(&key),
            Ok(Ok(Outcome::CheckAgainIn(delay))) => {
                queue.done(&key);
                queue.add_after(key, delay);
            }
            Ok(Err(error)) if error.is_conflict() => {
                let delay = queue.failed(&key);
                metrics.conflicted();
                tracing::debug!(controller, %key, %error, "somebody else wrote first; trying again in {delay:?}");
            }
            Ok(Err(error)) => {
                let delay = queue.failed(&key);
                metrics.failed();
                tracing::warn!(controller, %key, %error, "trying again in {delay:?}");
            }
            Err(_) => {
                let delay = queue.failed(&key);
                metrics.failed();
                tracing::error!(controller, %key, "the controller panicked, which is a bug; trying again in {delay:?}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ObjectKey, ReconcileError, Trigger};
    use async_trait::async_trait;
    use client::SystemClock;
    use parking_lot::Mutex;
    use std::time::Duration;

    struct Fussy {
        seen: Arc<Mutex<Vec<String>>>,
        stop: CancellationToken,
    }

    #[async_trait]
    impl Reconciler for Fussy {
        fn name(&self) -> &'static str {
            "fussy"
        }

        fn triggers(&self) -> Vec<Trigger> {
            vec![Trigger::custom(|queue| {
                queue.add(ObjectKey::cluster("panics"));
                queue.add(ObjectKey::cluster("fails"));
            })]
        }

        async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
            let times = {
                let mut seen = self.seen.lock();
                seen.push(key.to_string());
                seen.iter().filter(|other| **other == key.to_string()).count()
            };
            match (&*key.name, times) {
                ("panics", 1) => panic!("on purpose"),
                ("fails", 1 | 2) => Err(ReconcileError::Unusable("not yet".to_owned())),
                ("fails", 3) => Ok(Outcome::CheckAgainIn(Duration::from_millis(1))),
                ("fails", _) => {
                    self.stop.cancel();
                    Ok(Outcome::Settled)
                }
                _ => Ok(Outcome::Settled),
            }
        }
    }

    #[tokio::test]
    async fn failures_and_panics_are_tried_again_and_the_worker_lives_on() {
        let stop = CancellationToken::new();
        let runner = Runner::new(SystemClock::shared(), stop.clone());
        let seen = Arc::new(Mutex::new(Vec::new()));
        runner.start(Fussy { seen: seen.clone(), stop: stop.clone() }, 1);
        tokio::time::timeout(Duration::from_secs(60), stop.cancelled()).await.unwrap();
        runner.finished().await;
        assert_eq!(seen.lock().iter().filter(|key| *key == "fails").count(), 4);
        assert_eq!(seen.lock().iter().filter(|key| *key == "panics").count(), 2);
        let text = runner.metrics().text();
        for line in [
            r#"knarr_controller_reconcile_errors_total{controller="fussy"} 3"#,
            r#"workqueue_adds_total{name="fussy"} 6"#,
            r#"workqueue_retries_total{name="fussy"} 4"#,
            r#"workqueue_depth{name="fussy"} 0.0"#,
            r#"workqueue_unfinished_work_seconds{name="fussy"} 0.0"#,
            r#"workqueue_longest_running_processor_seconds{name="fussy"} 0.0"#,
            r#"workqueue_queue_duration_seconds_count{name="fussy"} 6"#,
            r#"workqueue_work_duration_seconds_bucket{le="+Inf",name="fussy"} 6"#,
        ] {
            assert!(text.lines().any(|one| one == line), "{line}\n\nis not in\n\n{text}");
        }
    }
}
