//! Counters per controller, in the text form that Prometheus reads.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::WorkQueue;

/// What one controller did so far.
#[derive(Debug, Default)]
pub struct ControllerMetrics {
    reconciled: AtomicU64,
    failed: AtomicU64,
    conflicted: AtomicU64,
}

impl ControllerMetrics {
    pub(crate) fn reconciled(&self) {
        self.reconciled.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn conflicted(&self) {
        self.conflicted.fetch_add(1, Ordering::Relaxed);
    }
}

/// One controller's line in the list: its name, what it did, and what waits for it.
type Listed = (&'static str, Arc<ControllerMetrics>, Arc<WorkQueue>);

/// The counters of all controllers of a process. Clones share them.
#[derive(Clone, Default)]
pub struct Metrics {
    controllers: Arc<Mutex<Vec<Listed>>>,
}

impl Metrics {
    pub(crate) fn of(&self, controller: &'static str, queue: &Arc<WorkQueue>) -> Arc<ControllerMetrics> {
        let metrics = Arc::new(ControllerMetrics::default());
        self.controllers.lock().push((controller, metrics.clone(), queue.clone()));
        metrics
    }

    /// All of them as text.
    pub fn render(&self) -> String {
        let controllers = self.controllers.lock();
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, value: &dyn Fn(&ControllerMetrics, &WorkQueue) -> u64| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (controller, metrics, queue) in controllers.iter() {
                let _ = writeln!(text, "{name}{{controller=\"{controller}\"}} {}", value(metrics, queue));
            }
        };
        family("knarr_controller_reconcile_total", "counter", "Reconciliations begun.", &|metrics, _| metrics.reconciled.load(Ordering::Relaxed));
        family("knarr_controller_reconcile_errors_total", "counter", "Reconciliations that failed.", &|metrics, _| metrics.failed.load(Ordering::Relaxed));
        family("knarr_controller_reconcile_conflicts_total", "counter", "Reconciliations that met a newer write.", &|metrics, _| metrics.conflicted.load(Ordering::Relaxed));
        family("knarr_controller_queue_adds_total", "counter", "Keys added to the queue.", &|_, queue| queue.added());
        family("knarr_controller_queue_depth", "gauge", "Keys that wait.", &|_, queue| queue.len() as u64);
        text
    }
}
