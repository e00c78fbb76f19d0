//! Shortages as others hear of them: in the node's conditions, and when a new pod asks to be admitted. One that was seen counts
//! for a while, so that a node on the brink does not take back at once what it just got rid of.
//! Source: Kubernetes 1.36, `pkg/kubelet/eviction`, `eviction_manager.go` (`Admit`) and `helpers.go`.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Toleration};
use parking_lot::Mutex;

use super::pressure::Shortage;
use crate::{
    config::NodeConfig,
    pod::{
        self,
        plan::EVICTED,
        qos::{QosClass, qos_class},
    },
};

/// How long a shortage counts after it was last seen. Source: upstream's default of `evictionPressureTransitionPeriod`.
pub const TRANSITION: Duration = Duration::from_secs(300);

/// Priority from which a pod is critical. Source: upstream, `SystemCriticalPriority`.
pub const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// Remembers when each shortage was last seen.
#[derive(Debug, Default)]
pub struct RecentShortages {
    seen: Mutex<[Option<Timestamp>; 3]>,
}

/// What the node has been short of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressures {
    /// Memory.
    pub memory: bool,
    /// Disk.
    pub disk: bool,
    /// Numbers of processes.
    pub process_ids: bool,
}

impl RecentShortages {
    /// Looks, and gives what the node is short of or was a moment ago.
    pub fn look(&self, config: &NodeConfig) -> Pressures {
        let short = [Shortage::of_memory(), Shortage::of_disk(&config.data_directory), Shortage::of_process_ids(config.least_process_ids)];
        self.note(short.map(|shortage| shortage.is_some()), config.clock.now())
    }

    fn note(&self, short: [bool; 3], now: Timestamp) -> Pressures {
        let mut seen = self.seen.lock();
        for (seen, short) in seen.iter_mut().zip(short) {
            if short {
                *seen = Some(now);
            }
        }
        let [memory, disk, process_ids] = seen.map(|seen| seen.is_some_and(|seen| Duration::try_from(now.duration_since(seen)).is_ok_and(|age| age < TRANSITION)));
        Pressures { memory, disk, process_ids }
    }
}

impl Pressures {
    /// Why a new pod is not taken, as reason and message.
    #[must_use]
    pub fn refuse(self, new: &Pod, is_static: bool) -> Option<(String, String)> {
        let conditions: Vec<&str> =
            [(self.memory, "MemoryPressure"), (self.disk, "DiskPressure"), (self.process_ids, "PIDPressure")].into_iter().filter_map(|(holds, name)| holds.then_some(name)).collect();
        let is_critical = is_static || pod::spec(new).priority.unwrap_or(0) >= CRITICAL_PRIORITY;
        let bears_it = conditions == ["MemoryPressure"] && (qos_class(new) != QosClass::BestEffort || pod::spec(new).tolerations.iter().flatten().any(tolerates_little_memory));
        let taken = conditions.is_empty() || is_critical || bears_it;
        (!taken).then(|| (EVICTED.to_owned(), format!("The node had condition: [{}]. ", conditions.join(" "))))
    }
}

/// Whether a toleration is one of the taint that a node short of memory has.
fn tolerates_little_memory(toleration: &Toleration) -> bool {
    let key = toleration.key.as_deref().unwrap_or("");
    let exists = toleration.operator.as_deref() == Some("Exists");
    let fits = if key.is_empty() { exists } else { key == "node.kubernetes.io/memory-pressure" && (exists || toleration.value.as_deref().unwrap_or("").is_empty()) };
    fits && matches!(toleration.effect.as_deref(), None | Some("" | "NoSchedule"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn refused(pressures: Pressures, spec: Value) -> Option<String> {
        let pod = serde_json::from_value(json!({ "metadata": {}, "spec": spec })).unwrap();
        pressures.refuse(&pod, false).map(|(_, message)| message)
    }

    #[test]
    fn a_shortage_counts_until_it_was_not_seen_for_a_while() {
        let recent = RecentShortages::default();
        let at = |seconds: i64| Timestamp::from_second(1_000_000 + seconds).unwrap();
        assert_eq!(recent.note([false; 3], at(0)), Pressures::default());
        assert_eq!(recent.note([false, false, true], at(10)), Pressures { process_ids: true, ..Pressures::default() });
        assert!(recent.note([false; 3], at(200)).process_ids);
        assert!(recent.note([true, false, true], at(250)).memory);
        assert_eq!(recent.note([false; 3], at(549)), Pressures { memory: true, disk: false, process_ids: true });
        assert_eq!(recent.note([false; 3], at(550)), Pressures::default());
    }

    #[test]
    fn a_node_under_pressure_takes_only_whom_it_must() {
        let plain = json!({ "containers": [{ "name": "a" }] });
        let burstable = json!({ "containers": [{ "name": "a", "resources": { "requests": { "memory": "1Mi" } } }] });
        let tolerant = json!({ "containers": [{ "name": "a" }], "tolerations": [{ "key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoSchedule" }] });
        let critical = json!({ "containers": [{ "name": "a" }], "priority": 2_000_000_000 });
        let (memory, processes) = (Pressures { memory: true, ..Pressures::default() }, Pressures { process_ids: true, ..Pressures::default() });
        assert_eq!(refused(Pressures::default(), plain.clone()), None);
        assert_eq!(refused(memory, plain.clone()).as_deref(), Some("The node had condition: [MemoryPressure]. "));
        assert_eq!((refused(memory, burstable.clone()), refused(memory, tolerant.clone()), refused(memory, critical.clone())), (None, None, None));
        assert_eq!(refused(processes, burstable).as_deref(), Some("The node had condition: [PIDPressure]. "));
        assert!(refused(processes, tolerant).is_some());
        assert_eq!(refused(processes, critical), None);
        assert_eq!(refused(Pressures { memory: true, disk: true, process_ids: false }, plain).as_deref(), Some("The node had condition: [MemoryPressure DiskPressure]. "));
    }
}
