//! What containers and the node use now, as all answers about usage need it.
//!
//! The kernel counts CPU time; how fast it is used is the difference of two readings. They are taken when somebody asks:
//! whoever asks again gets the rate since an earlier answer, and a node that nobody asks does nothing.

use std::{collections::HashMap, time::Duration};

use container_runtime::{ContainerId, ContainerState, ContainerUsage, RuntimeError};
use jiff::Timestamp;
use parking_lot::Mutex;

use super::file_usage::Measurer;
use crate::{config::Context, machine, pod, pods::Pods};

/// The least time between two readings that a rate is made from.
const SHORTEST_WINDOW: Duration = Duration::from_secs(1);
/// A reading older than this says nothing of now.
const LONGEST_WINDOW: Duration = Duration::from_secs(60);
/// A reading is kept as the base of rates for this long, then a newer one takes its place.
const RENEWAL: Duration = Duration::from_secs(15);

/// Usage of one container.
#[derive(Debug, Clone)]
pub struct Row {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's UID.
    pub uid: String,
    /// The container's name.
    pub container: String,
    /// The container in the runtime.
    pub id: ContainerId,
    /// Its image, as the pod names it.
    pub image: String,
    /// When it was started.
    pub started: Timestamp,
    /// Its first process, in the host's process namespace.
    pub pid: i32,
    /// What the kernel counts.
    pub usage: ContainerUsage,
    /// Billionths of a CPU that it uses now, where that is known.
    pub nano_cores: Option<u64>,
}

/// Usage of everything.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// Running containers, in the order of namespaces, pods and names.
    pub rows: Vec<Row>,
    /// Whether a container that runs is missing, since what it uses could not be read.
    pub is_incomplete: bool,
    /// CPU time of the whole machine in nanoseconds, idle time excepted.
    pub node_cpu_nanoseconds: u64,
    /// Billionths of a CPU that the machine uses now.
    pub node_nano_cores: Option<u64>,
    /// Memory of the machine that is in use, in bytes.
    pub node_memory_bytes: u64,
    /// The time that rates were measured over.
    pub window: Duration,
}

/// CPU time as it was at one moment.
struct Reading {
    at: Duration,
    node: u64,
    containers: HashMap<ContainerId, u64>,
}

/// Measures rates, and files.
#[derive(Default)]
pub struct Sampler {
    base: Mutex<Option<Reading>>,
    /// Measures what pods' directories take.
    pub files: Measurer,
}

impl Sampler {
    /// Usage with rates. Takes a moment where nobody asked lately.
    pub async fn usage(&self, context: &Context, pods: &Pods) -> Usage {
        let mut usage = counted(context, pods).await;
        if self.age(context).is_none_or(|age| age > LONGEST_WINDOW) {
            *self.base.lock() = Some(Reading::of(&usage, context.config.clock.elapsed()));
        }
        if let Some(age) = self.age(context).filter(|age| *age < SHORTEST_WINDOW) {
            // A rate needs two readings with some time between them.
            context.config.clock.sleep(SHORTEST_WINDOW.saturating_sub(age)).await;
            usage = counted(context, pods).await;
        }
        let now = context.config.clock.elapsed();
        let mut base = self.base.lock();
        if let Some(base) = &*base {
            base.add_rates(&mut usage, now);
        }
        if base.as_ref().is_none_or(|base| now.saturating_sub(base.at) > RENEWAL) {
            *base = Some(Reading::of(&usage, now));
        }
        usage
    }

    fn age(&self, context: &Context) -> Option<Duration> {
        self.base.lock().as_ref().map(|base| context.config.clock.elapsed().saturating_sub(base.at))
    }
}

impl Reading {
    fn of(usage: &Usage, at: Duration) -> Self {
        let containers = usage.rows.iter().map(|row| (row.id.clone(), row.usage.cpu_nanoseconds)).collect();
        Self { at, node: usage.node_cpu_nanoseconds, containers }
    }

    fn add_rates(&self, usage: &mut Usage, now: Duration) {
        let window = now.saturating_sub(self.at);
        let rate = |from: u64, to: u64| {
            let per_second = u128::from(to.saturating_sub(from)).saturating_mul(1_000_000_000).checked_div(window.as_nanos())?;
            u64::try_from(per_second).ok()
        };
        for row in &mut usage.rows {
            // A container that is younger than the base had used nothing then.
            row.nano_cores = rate(self.containers.get(&row.id).copied().unwrap_or(0), row.usage.cpu_nanoseconds);
        }
        usage.node_nano_cores = rate(self.node, usage.node_cpu_nanoseconds);
        usage.window = window;
    }
}

/// Usage as the kernel counts it, without rates.
pub async fn counted(context: &Context, pods: &Pods) -> Usage {
    let mut rows = Vec::new();
    let mut is_incomplete = false;
    for view in pods.views() {
        for container in view.containers.iter() {
            let ContainerState::Running { started_at, pid } = container.state else { continue };
            let usage = match context.config.runtime.container_usage(&container.id).await {
                Ok(usage) => usage,
                // It may end at any moment, which is no error.
                Err(RuntimeError::NotRunning(_) | RuntimeError::NoSuchContainer(_)) => continue,
                Err(RuntimeError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => continue,
                Err(problem) => {
                    tracing::debug!(container = container.id.0, %problem, "what a container uses could not be read");
                    is_incomplete = true;
                    continue;
                }
            };
            rows.push(Row {
                namespace: pod::namespace(&view.pod).to_owned(),
                pod: pod::name(&view.pod).to_owned(),
                uid: pod::uid(&view.pod).to_owned(),
                container: container.spec.name.clone(),
                id: container.id.clone(),
                image: container.spec.annotations.get(pod::annotations::IMAGE).cloned().unwrap_or_default(),
                started: started_at,
                pid,
                usage,
                nano_cores: None,
            });
        }
    }
    rows.sort_by(|one, other| (&one.namespace, &one.pod, &one.container).cmp(&(&other.namespace, &other.pod, &other.container)));
    Usage {
        rows,
        is_incomplete,
        node_cpu_nanoseconds: node_cpu_nanoseconds(),
        node_memory_bytes: context.machine.memory_bytes.saturating_sub(machine::available_memory().unwrap_or(0)),
        ..Usage::default()
    }
}

/// CPU time of the whole machine in nanoseconds, idle time excepted.
fn node_cpu_nanoseconds() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let Some(line) = text.lines().next() else { return 0 };
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest time is part of user.
    let busy: u64 = ticks.iter().take(8).enumerate().filter(|(index, _)| !matches!(index, 3 | 4)).map(|(_, ticks)| ticks).sum();
    // The kernel counts in hundredths of a second whatever its own tick is.
    busy.saturating_mul(10_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_the_difference_over_the_time_between() {
        let row = |id: &str, nanoseconds: u64| Row {
            namespace: String::new(),
            pod: String::new(),
            uid: String::new(),
            container: String::new(),
            id: ContainerId(id.to_owned()),
            image: String::new(),
            started: Timestamp::UNIX_EPOCH,
            pid: 1,
            usage: ContainerUsage { cpu_nanoseconds: nanoseconds, ..ContainerUsage::default() },
            nano_cores: None,
        };
        let before = Usage { rows: vec![row("old", 1_000)], node_cpu_nanoseconds: 500, ..Usage::default() };
        let base = Reading::of(&before, Duration::from_secs(10));
        let mut after = Usage { rows: vec![row("old", 5_000), row("new", 800)], node_cpu_nanoseconds: 2_500, ..Usage::default() };
        base.add_rates(&mut after, Duration::from_secs(12));
        let rates: Vec<_> = after.rows.iter().map(|row| row.nano_cores).collect();
        assert_eq!((rates, after.node_nano_cores, after.window), (vec![Some(2_000), Some(400)], Some(1_000), Duration::from_secs(2)));
    }
}
