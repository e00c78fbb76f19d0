//! What controllers and their queues count.
//!
//! Queues are counted under the names, labels and buckets that upstream's have, source: Kubernetes 1.36,
//! `component-base/metrics/prometheus/workqueue/metrics.go`. A controller may have metrics of its own, see [`Metrics::register`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::metrics::exponential;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::WorkQueue;

/// What one controller did so far.
#[derive(Debug)]
pub struct ControllerMetrics {
    reconciled: AtomicU64,
    failed: AtomicU64,
    conflicted: AtomicU64,
    waits: Histogram,
    works: Histogram,
}

impl Default for ControllerMetrics {
    fn default() -> Self {
        let histogram = || Histogram::new(exponential(10e-9, 10.0, 12));
        Self { reconciled: AtomicU64::new(0), failed: AtomicU64::new(0), conflicted: AtomicU64::new(0), waits: histogram(), works: histogram() }
    }
}

impl ControllerMetrics {
    /// A key is taken up that waited so long.
    pub(crate) fn taken_up(&self, waited: Duration) {
        self.reconciled.fetch_add(1, Ordering::Relaxed);
        self.waits.observe(waited.as_secs_f64());
    }

    pub(crate) fn worked(&self, took: Duration) {
        self.works.observe(took.as_secs_f64());
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

/// What all controllers of a process count. Clones share it.
#[derive(Clone)]
pub struct Metrics {
    controllers: Arc<Mutex<Vec<Listed>>>,
    registry: Arc<Mutex<Registry>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let controllers = Arc::default();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Queues(Arc::clone(&controllers))));
        Self { controllers, registry: Arc::new(Mutex::new(registry)) }
    }
}

impl Metrics {
    pub(crate) fn of(&self, controller: &'static str, queue: &Arc<WorkQueue>) -> Arc<ControllerMetrics> {
        let metrics = Arc::new(ControllerMetrics::default());
        self.controllers.lock().push((controller, metrics.clone(), queue.clone()));
        metrics
    }

    /// Adds what a controller counts beside its queue.
    pub fn register<T>(&self, add: impl FnOnce(&mut Registry) -> T) -> T {
        add(&mut self.registry.lock())
    }

    /// All of them as text.
    pub fn text(&self) -> String {
        ::metrics::text(&self.registry.lock())
    }
}

/// All queues, read when somebody scrapes.
struct Queues(Arc<Mutex<Vec<Listed>>>);

impl fmt::Debug for Queues {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Queues").finish_non_exhaustive()
    }
}

impl Collector for Queues {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let controllers = self.0.lock().clone();
        type Count = fn(&ControllerMetrics, &WorkQueue) -> u64;
        let counters: [(&str, &str, &str, Count); 5] = [
            ("workqueue_adds", "name", "Keys that came into the queue", |_, queue| queue.added()),
            ("workqueue_retries", "name", "Keys that are to come again later", |_, queue| queue.retried()),
            ("knarr_controller_reconcile", "controller", "Reconciliations begun", |metrics, _| metrics.reconciled.load(Ordering::Relaxed)),
            ("knarr_controller_reconcile_errors", "controller", "Reconciliations that failed", |metrics, _| metrics.failed.load(Ordering::Relaxed)),
            ("knarr_controller_reconcile_conflicts", "controller", "Reconciliations that met a newer write", |metrics, _| metrics.conflicted.load(Ordering::Relaxed)),
        ];
        for (name, label, help, count) in counters {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (controller, metrics, queue) in &controllers {
                ConstCounter::new(count(metrics, queue)).encode(family.encode_family(&[(label, *controller)])?)?;
            }
        }
        type Amount = fn(&WorkQueue) -> f64;
        let gauges: [(&str, &str, Amount); 3] = [
            ("workqueue_depth", "Keys that wait", |queue| queue.len() as f64),
            ("workqueue_unfinished_work_seconds", "How long the keys that are worked on have been, together", |queue| queue.worked_on().iter().sum::<Duration>().as_secs_f64()),
            ("workqueue_longest_running_processor_seconds", "How long the key has been worked on that has been longest", |queue| {
                queue.worked_on().iter().max().map_or(0.0, Duration::as_secs_f64)
            }),
        ];
        for (name, help, amount) in gauges {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (controller, _, queue) in &controllers {
                ConstGauge::new(amount(queue)).encode(family.encode_family(&[("name", *controller)])?)?;
            }
        }
        type Times = fn(&ControllerMetrics) -> &Histogram;
        let histograms: [(&str, &str, Times); 2] = [
            ("workqueue_queue_duration_seconds", "How long keys waited until they were taken up, in seconds", |metrics| &metrics.waits),
            ("workqueue_work_duration_seconds", "How long keys were worked on, in seconds", |metrics| &metrics.works),
        ];
        for (name, help, times) in histograms {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
            for (controller, metrics, _) in &controllers {
                times(metrics).encode(family.encode_family(&[("name", *controller)])?)?;
            }
        }
        Ok(())
    }
}
