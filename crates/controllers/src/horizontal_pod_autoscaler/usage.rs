//! The arithmetic over pods: what is measured, compared with what is meant, gives a number of pods. Pods that are only starting, and
//! pods nobody measured, are counted so that the answer errs towards changing nothing.
//! Source: Kubernetes 1.36, `pkg/controller/podautoscaler/replica_calculator.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use meta::quantity::Quantity;

use super::metrics::{Sample, Samples};
use crate::pods;

/// So long after its start a pod's processor use says little. Source: Kubernetes 1.36, `--horizontal-pod-autoscaler-cpu-initialization-period`.
const STARTING: Duration = Duration::from_secs(5 * 60);
/// A pod that was never ready within this time of its start is still starting.
const FIRST_READINESS: Duration = Duration::from_secs(30);

/// By which share of the target the load may be off before anything changes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tolerance {
    pub up: f64,
    pub down: f64,
}

impl Tolerance {
    pub fn covers(self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// Pods by what is known of them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Groups {
    ready: usize,
    starting: BTreeSet<String>,
    missing: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

fn name(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap_or_default()
}

/// Whether a pod's processor use does not count yet.
fn is_starting(pod: &Pod, sample: &Sample, now: Timestamp) -> bool {
    let ready = pods::condition(pod, "Ready");
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
    let (Some(ready), Some(started)) = (ready, started) else { return true };
    let since = |time: Timestamp| Duration::try_from(now.duration_since(time)).unwrap_or_default();
    let changed = ready.last_transition_time.as_ref().map_or(started, |time| time.0);
    let is_unready = ready.status == "False";
    if since(started) < STARTING {
        let settled = changed.saturating_add(jiff::SignedDuration::try_from(sample.window).unwrap_or_default()).unwrap_or(changed);
        return is_unready || sample.at.is_none_or(|at| at < settled);
    }
    is_unready && Duration::try_from(changed.duration_since(started)).unwrap_or_default() < FIRST_READINESS
}

fn group(all: &[Arc<Pod>], samples: &Samples, is_cpu: bool, now: Timestamp) -> Groups {
    let mut groups = Groups::default();
    for pod in all {
        match (pods::phase(pod), samples.get(&name(pod))) {
            _ if pods::is_terminating(pod) || pods::phase(pod) == "Failed" => drop(groups.ignored.insert(name(pod))),
            ("Pending", _) => drop(groups.starting.insert(name(pod))),
            (_, None) => drop(groups.missing.insert(name(pod))),
            (_, Some(sample)) if is_cpu && is_starting(pod, sample, now) => drop(groups.starting.insert(name(pod))),
            _ => groups.ready += 1,
        }
    }
    groups
}

/// What every pod should be at.
pub(super) enum Target {
    /// So many thousandths each.
    Average(i64),
    /// So many percent of what each asks for: the requests, in thousandths, by pod.
    Utilization { percent: i32, requests: BTreeMap<String, i64> },
}

/// What the pods are at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Usage {
    /// In relation to the target.
    pub ratio: f64,
    /// In percent of the requests, where those matter.
    pub utilization: Option<i32>,
    /// On average, in thousandths.
    pub average_milli: i64,
}

fn usage(samples: &Samples, target: &Target) -> Result<Usage, String> {
    let count = i64::try_from(samples.len()).unwrap_or(i64::MAX).max(1);
    let total: i64 = samples.values().map(|sample| sample.milli).sum();
    match target {
        Target::Average(wanted) => {
            let average = total / count;
            Ok(Usage { ratio: average as f64 / *wanted as f64, utilization: None, average_milli: average })
        }
        Target::Utilization { percent, requests } => {
            let of_pods: Vec<(i64, i64)> = samples.iter().filter_map(|(pod, sample)| Some((sample.milli, *requests.get(pod)?))).collect();
            let requested: i64 = of_pods.iter().map(|(_, request)| request).sum();
            if requested == 0 {
                return Err("no metrics returned matched known pods".to_owned());
            }
            let used: i64 = of_pods.iter().map(|(used, _)| used).sum();
            let utilization = i32::try_from(used.saturating_mul(100) / requested).unwrap_or(i32::MAX);
            let average_milli = used / i64::try_from(of_pods.len()).unwrap_or(1).max(1);
            Ok(Usage { ratio: f64::from(utilization) / f64::from(*percent), utilization: Some(utilization), average_milli })
        }
    }
}

fn round_up(pods: f64) -> i32 {
    pods.ceil().clamp(0.0, f64::from(i32::MAX)) as i32
}

/// How many pods there should be for these samples, and what they are at.
pub(super) fn replicas(current: i32, all: &[Arc<Pod>], mut samples: Samples, target: &Target, is_cpu: bool, tolerance: Tolerance, now: Timestamp) -> Result<(i32, Usage), String> {
    if all.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    let groups = group(all, &samples, is_cpu, now);
    samples.retain(|pod, _| !groups.ignored.contains(pod) && !groups.starting.contains(pod));
    if samples.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    let seen = usage(&samples, target)?;
    let grows_with_starting = !groups.starting.is_empty() && seen.ratio > 1.0;
    if !grows_with_starting && groups.missing.is_empty() {
        let wanted = if tolerance.covers(seen.ratio) { current } else { round_up(seen.ratio * groups.ready as f64) };
        return Ok((wanted, seen));
    }
    // What is not known is taken for what speaks against a change: idle when growing, at the target (or all it asks for) when shrinking.
    let sample = |milli| Sample { milli, at: None, window: Duration::ZERO };
    for pod in &groups.missing {
        let assumed = match target {
            _ if seen.ratio > 1.0 => 0,
            Target::Average(wanted) => *wanted,
            Target::Utilization { percent, requests } => requests.get(pod).copied().unwrap_or(0) * i64::from((*percent).max(100)) / 100,
        };
        if seen.ratio != 1.0 {
            samples.insert(pod.clone(), sample(assumed));
        }
    }
    if grows_with_starting {
        samples.extend(groups.starting.iter().map(|pod| (pod.clone(), sample(0))));
    }
    let careful = usage(&samples, target)?.ratio;
    if tolerance.covers(careful) || seen.ratio < 1.0 && careful > 1.0 || seen.ratio > 1.0 && careful < 1.0 {
        return Ok((current, seen));
    }
    let wanted = round_up(careful * samples.len() as f64);
    let turns = careful < 1.0 && wanted > current || careful > 1.0 && wanted < current;
    Ok((if turns { current } else { wanted }, seen))
}

/// What each pod asks for of a resource, in thousandths: one of its containers, or the pod as a whole where it says so itself, or else all
/// its containers together.
/// Source: Kubernetes 1.36, `calculateRequests`.
pub(super) fn requests(all: &[Arc<Pod>], resource: &str, container: Option<&str>) -> Result<BTreeMap<String, i64>, String> {
    let of_whole = |pod: &Pod| pod.spec.as_ref()?.resources.as_ref()?.requests.clone().filter(|requests| !requests.is_empty());
    let mut requests = BTreeMap::new();
    for pod in all {
        let request = match of_whole(pod) {
            Some(_) if container.is_none() => request_of_pod(pod, resource)?,
            _ => request_of_containers(pod, resource, container)?,
        };
        requests.insert(name(pod), request);
    }
    Ok(requests)
}

fn request_of_pod(pod: &Pod, resource: &str) -> Result<i64, String> {
    let spec = pod.spec.clone().unwrap_or_default();
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(|container| container.resources.as_ref());
    let mut said = containers.chain([spec.resources.as_ref()]).flatten().filter_map(|resources| resources.requests.as_ref());
    if !said.any(|requests| requests.contains_key(resource)) && !spec.overhead.iter().flatten().any(|(name, _)| name == resource) {
        return Err(format!("missing pod-level request for {resource} in Pod {}", name(pod)));
    }
    Ok(kinds::quota::pods::asked(pod, "requests", resource).milli_value())
}

fn request_of_containers(pod: &Pod, resource: &str, container: Option<&str>) -> Result<i64, String> {
    let spec = pod.spec.clone().unwrap_or_default();
    let sidecars = spec.init_containers.iter().flatten().filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let mut counted = spec.containers.iter().chain(sidecars).filter(|other| container.is_none_or(|name| other.name == name)).peekable();
    if let (Some(container), None) = (container, counted.peek()) {
        return Err(format!("container {container} not found in Pod {}", name(pod)));
    }
    let request = |counted: &Container| {
        let request = counted.resources.as_ref().and_then(|resources| resources.requests.as_ref()?.get(resource));
        let request = request.and_then(|amount| Quantity::parse(&amount.0).ok());
        request.map(|amount| amount.milli_value()).ok_or_else(|| format!("missing request for {resource} in container {} of Pod {}", counted.name, name(pod)))
    };
    counted.map(request).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::pod;
    use serde_json::{Value, json};

    const NOW: i64 = 10_000;

    /// Pods with what they use in thousandths of a core; `None` for one that was not measured.
    #[track_caller]
    fn check(percent: i32, used: &[Option<i64>], starting: usize, expected: i32) {
        let mut all: Vec<Arc<Pod>> = Vec::new();
        let mut samples = Samples::new();
        for (index, used) in used.iter().enumerate() {
            let mut running = (*pod(&format!("p{index}"), "Running", "n", Some(100))).clone();
            running.status.get_or_insert_default().start_time = Some(crate::pods::tests::second(50));
            all.push(Arc::new(running));
            if let Some(milli) = used {
                samples.insert(format!("p{index}"), Sample { milli: *milli, at: Some(Timestamp::from_second(NOW).unwrap()), window: Duration::from_secs(30) });
            }
        }
        all.extend((0..starting).map(|index| pod(&format!("s{index}"), "Pending", "", None)));
        let requests = all.iter().map(|pod| (name(pod), 1000)).collect();
        let target = Target::Utilization { percent, requests };
        let current = i32::try_from(all.len()).unwrap();
        let tolerance = Tolerance { up: 0.1, down: 0.1 };
        let (wanted, _) = replicas(current, &all, samples, &target, true, tolerance, Timestamp::from_second(NOW).unwrap()).unwrap();
        assert_eq!(wanted, expected);
    }

    #[test]
    fn pods_follow_the_load() {
        check(30, &[Some(300), Some(500), Some(700)], 0, 5);
        check(50, &[Some(100), Some(300), Some(500), Some(250), Some(250)], 0, 3);
        check(50, &[Some(500), Some(520)], 0, 2);
    }

    #[test]
    fn what_is_not_known_speaks_against_a_change() {
        // Measured pods alone would ask for more, with an idle third one nothing changes.
        check(50, &[Some(600), Some(600), None], 0, 3);
        check(30, &[Some(400), Some(500), Some(700)], 1, 6);
        // Shrinking counts a pod that nobody measured as using all it asks for.
        check(50, &[Some(100), Some(400), None], 0, 3);
    }

    /// What is asked for of the processor: by the pod (if it says), by its containers `a` and `b`, as one of them is asked for or not.
    #[track_caller]
    fn check_request(whole: Value, a: Value, b: Value, container: Option<&str>, expected: Result<i64, &str>) {
        let spec = json!({
            "resources": { "requests": whole },
            "containers": [{ "name": "a", "resources": { "requests": a } }],
            "initContainers": [{ "name": "b", "restartPolicy": "Always", "resources": { "requests": b } }, { "name": "c" }],
        });
        let mut asking = (*pod("p", "Running", "n", None)).clone();
        asking.spec = Some(serde_json::from_value(spec).unwrap());
        let found = requests(&[Arc::new(asking)], "cpu", container).map(|requests| requests["p"]);
        assert_eq!(found, expected.map_err(str::to_owned));
    }

    #[test]
    fn requests_are_those_of_the_pod_or_of_its_containers_and_must_be_there() {
        let cpu = |amount: &str| json!({ "cpu": amount });
        check_request(json!({}), cpu("100m"), cpu("1"), None, Ok(1100));
        check_request(json!({}), cpu("100m"), cpu("1"), Some("b"), Ok(1000));
        check_request(json!({}), cpu("100m"), json!({}), None, Err("missing request for cpu in container b of Pod p"));
        check_request(json!({}), cpu("100m"), json!({}), Some("a"), Ok(100));
        check_request(json!({}), cpu("100m"), json!({}), Some("c"), Err("container c not found in Pod p"));
        check_request(cpu("3"), cpu("100m"), json!({}), None, Ok(3000));
        check_request(cpu("3"), cpu("100m"), json!({}), Some("a"), Ok(100));
        check_request(json!({ "memory": "1Gi" }), cpu("100m"), json!({}), None, Ok(100));
        check_request(json!({ "memory": "1Gi" }), json!({}), json!({}), None, Err("missing pod-level request for cpu in Pod p"));
    }
}
