//! Since when a Service's endpoints should have been as they are written: the annotation by which the delay until clients see a change can
//! be measured.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::ObjectKey;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Service};
use parking_lot::Mutex;

use crate::pods;

pub(super) const LAST_CHANGE: &str = "endpoints.kubernetes.io/last-change-trigger-time";

#[derive(Default)]
struct Seen {
    service: Option<Timestamp>,
    pods: BTreeMap<String, Timestamp>,
}

/// What was seen of each Service and its pods when their endpoints were last made.
#[derive(Default)]
pub(super) struct TriggerTimes {
    services: Mutex<BTreeMap<ObjectKey, Seen>>,
}

impl TriggerTimes {
    /// The earliest time at which something changed that was not seen before: the Service's creation, or that a pod became or ceased to be
    /// ready. Of a Service that was not seen before, its creation.
    /// Source: Kubernetes 1.36, `ComputeEndpointLastChangeTriggerTime`.
    pub fn of(&self, key: &ObjectKey, service: &Service, selected: &[Arc<Pod>]) -> Option<Timestamp> {
        let created = service.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let changed = |pod: &Arc<Pod>| {
            let time = pods::condition(pod, "Ready")?.last_transition_time.as_ref()?.0;
            Some((pod.metadata.name.clone()?, time))
        };
        let now = Seen { service: created, pods: selected.iter().filter_map(changed).collect() };
        let mut services = self.services.lock();
        let Some(before) = services.get(key) else {
            services.insert(key.clone(), now);
            return created;
        };
        let of_pods = now.pods.iter().filter(|(name, time)| before.pods.get(*name).is_none_or(|before| before < *time)).map(|(_, time)| *time);
        let earliest = of_pods.chain(created.filter(|created| before.service.is_none_or(|before| before < *created))).min();
        services.insert(key.clone(), now);
        earliest
    }

    /// The Service is gone.
    pub fn forget(&self, key: &ObjectKey) {
        self.services.lock().remove(key);
    }
}

/// Writes a time into annotations, or takes the earlier one away.
pub(super) fn note(annotations: &mut Option<BTreeMap<String, String>>, time: Option<Timestamp>) {
    let all = annotations.get_or_insert_default();
    match time {
        Some(time) => all.insert(LAST_CHANGE.to_owned(), time.to_string()),
        None => all.remove(LAST_CHANGE),
    };
    if all.is_empty() {
        *annotations = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::{pod, second};

    #[test]
    fn the_earliest_change_not_seen_yet_counts() {
        let times = TriggerTimes::default();
        let key = ObjectKey::namespaced("x", "web");
        let mut service = Service::default();
        service.metadata.creation_timestamp = Some(second(10));
        let check = |pods: &[Arc<Pod>], expected: Option<i64>| {
            assert_eq!(times.of(&key, &service, pods).map(|time| time.as_second()), expected);
        };
        check(&[pod("a", "Running", "n", Some(20))], Some(10));
        check(&[pod("a", "Running", "n", Some(20))], None);
        check(&[pod("a", "Running", "n", Some(40)), pod("b", "Running", "n", Some(30))], Some(30));
        check(&[pod("b", "Running", "n", Some(30))], None);
        times.forget(&key);
        check(&[pod("b", "Running", "n", Some(30))], Some(10));
    }

    #[test]
    fn a_time_is_noted_as_upstream_writes_it() {
        let mut annotations = None;
        note(&mut annotations, Some(second(0).0));
        assert_eq!(annotations.as_ref().unwrap()[LAST_CHANGE], "1970-01-01T00:00:00Z");
        note(&mut annotations, None);
        assert_eq!(annotations, None);
    }
}
