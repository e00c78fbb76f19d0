//! Ending pods when the machine is shut down: those of the lowest priority first, each group within its own time.
//!
//! Containers outlive the agent, so its end alone ends nothing: whoever starts the agent tells it when the machine goes down.
//! Source: KEP-2000 and KEP-2712, `pkg/kubelet/nodeshutdown`.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::Notify;

use crate::{
    config::Context,
    pod::{self, plan::SHUT_DOWN, worker::Eviction},
};

const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";

/// Priority from which pods are critical. Source: `scheduling.SystemCriticalPriority`.
pub const CRITICAL: i32 = 2_000_000_000;

/// Pods of this priority and up to that of the next group, and the time they have together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// The lowest priority of the group.
    pub priority: i32,
    /// How long its pods may take.
    pub grace: Duration,
}

/// Two groups out of upstream's two simple settings: all the time, and the part of it that is kept for critical pods.
#[must_use]
pub fn groups(whole: Duration, critical: Duration) -> Vec<Group> {
    if whole.is_zero() {
        return Vec::new();
    }
    vec![Group { priority: 0, grace: whole.saturating_sub(critical) }, Group { priority: CRITICAL, grace: critical }]
}

/// The pods of each group, the lowest priority first; those below all groups belong to the lowest.
fn grouped<'a>(pods: impl Iterator<Item = &'a Pod>, groups: &[Group]) -> Vec<(Group, Vec<&'a Pod>)> {
    let mut sorted: BTreeMap<i32, (Group, Vec<&Pod>)> = groups.iter().map(|group| (group.priority, (*group, Vec::new()))).collect();
    for pod in pods {
        let priority = pod::spec(pod).priority.unwrap_or(0);
        let lowest = sorted.keys().next().copied().unwrap_or(priority);
        if let Some((_, (_, members))) = sorted.range_mut(..=priority.max(lowest)).next_back() {
            members.push(pod);
        }
    }
    sorted.into_values().filter(|(_, members)| !members.is_empty()).collect()
}

/// Ends the pods, group by group. Returns when all have ended or their time is over.
pub async fn run(context: &Context, status_changed: &Notify) {
    context.is_shutting_down.store(true, Ordering::Release);
    status_changed.notify_one();
    let views = context.pods.views();
    let live = views.iter().map(|view| &*view.pod).filter(|pod| !pod::is_terminal(pod));
    for (group, pods) in grouped(live, &context.config.shutdown) {
        tracing::info!(priority = group.priority, pods = pods.len(), "the machine goes down: ending pods");
        let uids: Vec<String> = pods.iter().map(|pod| pod::uid(pod).to_owned()).collect();
        for pod in pods {
            let own = Duration::from_secs(u64::try_from(pod::spec(pod).termination_grace_period_seconds.unwrap_or(30)).unwrap_or(0));
            let eviction = Eviction { reason: SHUT_DOWN, message: MESSAGE.to_owned(), grace: own.min(group.grace) };
            context.pods.end(pod::uid(pod), eviction);
        }
        tokio::select! {
            () = context.pods.all_ended(&uids) => {}
            () = context.config.clock.sleep(group.grace) => tracing::warn!(priority = group.priority, "some pods did not end in time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_pod_belongs_to_the_highest_group_at_or_below_it() {
        let pod = |priority: i32| -> Pod { serde_json::from_value(json!({ "metadata": { "name": priority.to_string() }, "spec": { "containers": [], "priority": priority } })).unwrap() };
        let pods = [pod(CRITICAL + 1000), pod(5), pod(-7), pod(100), pod(99)];
        let group = |priority| Group { priority, grace: Duration::from_secs(1) };
        let sorted = grouped(pods.iter(), &[group(100), group(0), group(CRITICAL), group(CRITICAL + 5000)]);
        let shown: Vec<(i32, Vec<&str>)> = sorted.iter().map(|(group, pods)| (group.priority, pods.iter().map(|pod| pod::name(pod)).collect())).collect();
        assert_eq!(shown, [(0, vec!["5", "-7", "99"]), (100, vec!["100"]), (CRITICAL, vec!["2000001000"])]);
    }

    #[test]
    fn two_settings_make_two_groups() {
        let groups = groups(Duration::from_secs(30), Duration::from_secs(10));
        assert_eq!(groups.iter().map(|group| group.grace.as_secs()).collect::<Vec<_>>(), [20, 10]);
        assert!(super::groups(Duration::ZERO, Duration::ZERO).is_empty());
    }
}
