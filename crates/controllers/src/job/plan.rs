//! What a Job does next, and what its pods amount to.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use client::EventType;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::failure_policy::{self, Meaning};
use super::{indexes, is_tracked, success_policy};
use crate::pods;

/// Most pods created, removed or counted in one go. Source: Kubernetes 1.36, `MaxPodCreateDeletePerSync`.
const AT_ONCE: usize = 500;
/// The pause after a failure; it doubles with each further one in a row. Source: Kubernetes 1.36, `DefaultJobPodFailureBackOff`.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

const COMPLETE: &str = "Complete";
const FAILED: &str = "Failed";
const SUSPENDED: &str = "Suspended";
const FAILURE_TARGET: &str = "FailureTarget";
const SUCCESS_CRITERIA_MET: &str = "SuccessCriteriaMet";

/// What is to be done now; the status first.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub status: JobStatus,
    /// Pods that lose their finalizer: they are noted in the status, or count for nothing.
    pub release: Vec<Arc<Pod>>,
    /// Pods to remove, and whether their end counts.
    pub delete: Vec<(Arc<Pod>, bool)>,
    /// Pods to create, with their index where the Job has them.
    pub create: Vec<Option<i32>>,
    pub events: Vec<(EventType, &'static str, String)>,
    pub check_after: Option<Duration>,
    /// Whether it was to be seen that as many pods run as should.
    pub managed: bool,
}

fn condition<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind && condition.status == "True")
}

fn set_condition(status: &mut JobStatus, kind: &str, value: &str, reason: &str, message: &str, now: Timestamp) {
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_ != kind);
    conditions.push(JobCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    });
}

/// Whether a Job has come to its end, well or not.
pub(crate) fn is_finished(job: &Job) -> bool {
    job.status.as_ref().is_some_and(|status| condition(status, COMPLETE).is_some() || condition(status, FAILED).is_some())
}

/// Whether a Job that has come to its end did so well, and why.
pub(super) fn finished_as(status: &JobStatus) -> Option<(bool, &str)> {
    let ended = condition(status, COMPLETE).map(|condition| (true, condition)).or_else(|| condition(status, FAILED).map(|condition| (false, condition)));
    ended.map(|(well, condition)| (well, condition.reason.as_deref().unwrap_or_default()))
}

/// When a Job came to its end.
pub(crate) fn finish_time(job: &Job) -> Option<Timestamp> {
    let status = job.status.as_ref()?;
    condition(status, COMPLETE).or_else(|| condition(status, FAILED))?.last_transition_time.as_ref().map(|time| time.0)
}

/// The pods, sorted by what they are.
struct Sorted<'a> {
    active: Vec<&'a Arc<Pod>>,
    /// On their way out, and not ended.
    terminating: usize,
    ready: usize,
}

impl<'a> Sorted<'a> {
    fn new(pods: &'a [Arc<Pod>]) -> Self {
        let active: Vec<_> = pods.iter().filter(|pod| pods::is_active(pod)).collect();
        let terminating = pods.iter().filter(|pod| pods::is_terminating(pod) && !pods::is_finished(pod)).count();
        let ready = active.iter().filter(|pod| pods::is_ready(pod)).count();
        Self { active, terminating, ready }
    }
}

/// What the Job's pods have amounted to so far.
#[derive(Default)]
struct Tally {
    succeeded: i32,
    failed: i32,
    completed: BTreeSet<i32>,
    failed_indexes: BTreeSet<i32>,
    /// A pod whose failure fails the Job.
    fatal: Option<String>,
}

/// Decides.
/// Source: Kubernetes 1.36, `Controller.syncJob`.
pub(super) fn plan(job: &Job, pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let spec = job.spec.clone().unwrap_or_default();
    let mut plan = Plan { status: job.status.clone().unwrap_or_default(), ..Plan::default() };
    if is_finished(job) {
        plan.release = pods.iter().filter(|pod| is_tracked(pod)).cloned().collect();
        return plan;
    }
    let is_suspended = spec.suspend == Some(true);
    if plan.status.start_time.is_none() && !is_suspended {
        plan.status.start_time = Some(Time(now));
    }
    let tally = count(job, &spec, pods, &mut plan);
    let sorted = Sorted::new(pods);
    let mut active = sorted.active.len();
    let is_settled = condition(&plan.status, FAILURE_TARGET).is_some() || condition(&plan.status, SUCCESS_CRITERIA_MET).is_some();
    if !is_settled && let Some((kind, reason, message)) = verdict(&spec, &tally, &sorted, &mut plan, now) {
        set_condition(&mut plan.status, kind, "True", reason, &message, now);
    }
    if condition(&plan.status, FAILURE_TARGET).is_some() || condition(&plan.status, SUCCESS_CRITERIA_MET).is_some() {
        plan.delete = sorted.active.iter().take(AT_ONCE).map(|pod| ((*pod).clone(), true)).collect();
        active -= plan.delete.len();
        finish(&spec, pods, &sorted, &mut plan, now);
    } else if is_suspended {
        suspend(&sorted, &mut plan, now);
        active -= plan.delete.len();
    } else if job.metadata.deletion_timestamp.is_none() {
        resume(&mut plan, now);
        plan.managed = true;
        manage(job, &spec, &tally, pods, &sorted, &mut plan, now);
        active = active + plan.create.len() - plan.delete.len();
    }
    plan.status.active = (active != 0).then_some(active as i32);
    // Of those that are about to go, some may be ready still; the API takes no more ready pods than active ones.
    plan.status.ready = Some(sorted.ready.min(active) as i32);
    plan.status.terminating = Some((sorted.terminating + plan.delete.iter().filter(|(_, counts)| *counts).count()) as i32);
    plan
}

/// Whether the Job has indexes, and how many.
fn index_count(spec: &JobSpec) -> Option<i32> {
    spec.completions.filter(|_| spec.completion_mode.as_deref() == Some("Indexed"))
}

/// Only pods that have really ended are replaced, not those that are still going.
fn replaces_only_failed(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed")
}

fn has_failed(spec: &JobSpec, pod: &Pod, is_finishing: bool) -> bool {
    match pods::phase(pod) {
        "Failed" => true,
        "Succeeded" => false,
        _ => pods::is_terminating(pod) && (is_finishing || !replaces_only_failed(spec)),
    }
}

/// Notes ended pods in the status, counts those noted before that have lost their finalizer, and says what all of them amount to.
/// Source: Kubernetes 1.36, `trackJobStatusAndRemoveFinalizers`.
fn count(job: &Job, spec: &JobSpec, pods: &[Arc<Pod>], plan: &mut Plan) -> Tally {
    let completions = index_count(spec);
    let is_finishing = condition(&plan.status, FAILURE_TARGET).is_some() || condition(&plan.status, SUCCESS_CRITERIA_MET).is_some();
    let mut tally = Tally::default();
    if let Some(completions) = completions {
        tally.completed = indexes::parse(plan.status.completed_indexes.as_deref().unwrap_or_default(), completions);
        tally.failed_indexes = indexes::parse(plan.status.failed_indexes.as_deref().unwrap_or_default(), completions);
    }
    let mut noted = plan.status.uncounted_terminated_pods.take().unwrap_or_default();
    let tracked = |uid: &String| pods.iter().any(|pod| pod.metadata.uid.as_ref() == Some(uid) && is_tracked(pod));
    let settle = |uids: &mut Option<Vec<String>>, counter: &mut Option<i32>| {
        let all = uids.take().unwrap_or_default();
        let (waiting, counted): (Vec<_>, Vec<_>) = all.into_iter().partition(tracked);
        if !counted.is_empty() {
            *counter = Some(counter.unwrap_or(0).saturating_add(counted.len() as i32));
        }
        *uids = Some(waiting);
    };
    settle(&mut noted.succeeded, &mut plan.status.succeeded);
    settle(&mut noted.failed, &mut plan.status.failed);
    let mut succeeded = noted.succeeded.take().unwrap_or_default();
    let mut failed = noted.failed.take().unwrap_or_default();
    for pod in pods.iter().filter(|pod| is_tracked(pod)) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if succeeded.contains(&uid) || failed.contains(&uid) {
            plan.release.push(pod.clone());
            continue;
        }
        if plan.release.len() >= AT_ONCE {
            break;
        }
        let index = indexes::of(pod).filter(|index| completions.is_some_and(|completions| *index < completions));
        if pods::phase(pod) == "Succeeded" {
            match (completions, index) {
                // A set of indexes can be written twice without harm.
                (Some(_), Some(index)) => drop(tally.completed.insert(index)),
                (Some(_), None) => {}
                (None, _) => succeeded.push(uid),
            }
            plan.release.push(pod.clone());
        } else if has_failed(spec, pod, is_finishing) {
            match failure_policy::meaning(job, pod) {
                Meaning::Counts => failed.push(uid),
                Meaning::FailsIndex => {
                    tally.failed_indexes.extend(index);
                    failed.push(uid);
                }
                Meaning::FailsJob(why) => {
                    tally.fatal.get_or_insert(why);
                    failed.push(uid);
                }
                Meaning::Ignored => {}
            }
            plan.release.push(pod.clone());
        } else if job.metadata.deletion_timestamp.is_some() && pods::is_terminating(pod) {
            plan.release.push(pod.clone());
        }
    }
    if let (Some(completions), Some(limit)) = (completions, spec.backoff_limit_per_index) {
        for index in 0..completions {
            if !tally.completed.contains(&index) && failures_of(job, spec, pods, Some(index)).len() as i64 > i64::from(limit) {
                tally.failed_indexes.insert(index);
            }
        }
        plan.status.failed_indexes = Some(indexes::format(&tally.failed_indexes)).filter(|text| !text.is_empty()).or(Some(String::new()));
    }
    if completions.is_some() {
        plan.status.completed_indexes = Some(indexes::format(&tally.completed)).filter(|text| !text.is_empty());
        plan.status.succeeded = Some(tally.completed.len() as i32).filter(|count| *count != 0);
        tally.succeeded = tally.completed.len() as i32;
    } else {
        tally.succeeded = plan.status.succeeded.unwrap_or(0) + succeeded.len() as i32;
    }
    tally.failed = plan.status.failed.unwrap_or(0) + failed.len() as i32;
    noted.succeeded = Some(succeeded).filter(|uids| !uids.is_empty());
    noted.failed = Some(failed).filter(|uids| !uids.is_empty());
    plan.status.uncounted_terminated_pods = Some(noted);
    tally
}

/// The failed pods that count, of one index or of all.
fn failures_of<'a>(job: &'a Job, spec: &'a JobSpec, pods: &'a [Arc<Pod>], index: Option<i32>) -> Vec<&'a Arc<Pod>> {
    let of_index = |pod: &&Arc<Pod>| index.is_none() || indexes::of(pod) == index;
    let counts = |pod: &&Arc<Pod>| has_failed(spec, pod, false) && failure_policy::meaning(job, pod) != Meaning::Ignored;
    pods.iter().filter(of_index).filter(counts).collect()
}

/// Condition, reason and message, when the Job is decided.
fn verdict(spec: &JobSpec, tally: &Tally, sorted: &Sorted<'_>, plan: &mut Plan, now: Timestamp) -> Option<(&'static str, &'static str, String)> {
    let limit = spec.backoff_limit.unwrap_or(if spec.backoff_limit_per_index.is_some() { i32::MAX } else { 6 });
    if let Some(why) = &tally.fatal {
        return Some((FAILURE_TARGET, "PodFailurePolicy", why.clone()));
    }
    if tally.failed > limit || restarts_exceed(spec, sorted, limit) {
        return Some((FAILURE_TARGET, "BackoffLimitExceeded", "Job has reached the specified backoff limit".to_owned()));
    }
    if let (Some(seconds), Some(start)) = (spec.active_deadline_seconds, &plan.status.start_time)
        && spec.suspend != Some(true)
    {
        let active_for = Duration::try_from(now.duration_since(start.0)).unwrap_or_default();
        let left = Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).saturating_sub(active_for);
        if left.is_zero() {
            return Some((FAILURE_TARGET, "DeadlineExceeded", "Job was active longer than specified deadline".to_owned()));
        }
        plan.check_after = Some(left);
    }
    if let Some(completions) = index_count(spec) {
        if let Some(why) = spec.success_policy.as_ref().and_then(|policy| success_policy::met(policy, &tally.completed, completions)) {
            return Some((SUCCESS_CRITERIA_MET, "SuccessPolicy", why));
        }
        let failed = tally.failed_indexes.len() as i32;
        if spec.backoff_limit_per_index.is_some() && failed > 0 {
            if spec.max_failed_indexes.is_some_and(|limit| failed > limit) {
                return Some((FAILURE_TARGET, "MaxFailedIndexesExceeded", "Job has exceeded the specified maximal number of failed indexes".to_owned()));
            }
            if tally.completed.union(&tally.failed_indexes).count() as i32 >= completions {
                return Some((FAILURE_TARGET, "FailedIndexes", "Job has failed indexes".to_owned()));
            }
        }
    }
    let is_complete = match spec.completions {
        Some(completions) => tally.succeeded >= completions && (sorted.active.is_empty() || completions == 0),
        None => tally.succeeded > 0 && sorted.active.is_empty(),
    };
    is_complete.then(|| (SUCCESS_CRITERIA_MET, "CompletionsReached", "Reached expected number of succeeded pods".to_owned()))
}

/// Pods that are restarted in place fail without ending; their restarts count.
fn restarts_exceed(spec: &JobSpec, sorted: &Sorted<'_>, limit: i32) -> bool {
    if spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) != Some("OnFailure") {
        return false;
    }
    let statuses = sorted.active.iter().filter_map(|pod| pod.status.as_ref());
    let statuses = statuses.flat_map(|status| status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten()));
    let restarts: i32 = statuses.map(|status| status.restart_count).sum();
    if limit == 0 { restarts > 0 } else { restarts >= limit }
}

/// The decided Job ends when all its pods have ended and are counted.
fn finish(spec: &JobSpec, pods: &[Arc<Pod>], sorted: &Sorted<'_>, plan: &mut Plan, now: Timestamp) {
    let noted = plan.status.uncounted_terminated_pods.clone().unwrap_or_default();
    let all_counted = noted.succeeded.is_none() && noted.failed.is_none() && !pods.iter().any(|pod| is_tracked(pod));
    if !sorted.active.is_empty() || sorted.terminating > 0 || !all_counted {
        return;
    }
    let said = |condition: &JobCondition| (condition.reason.clone().unwrap_or_default(), condition.message.clone().unwrap_or_default());
    if let Some((reason, message)) = condition(&plan.status, FAILURE_TARGET).map(said) {
        set_condition(&mut plan.status, FAILED, "True", &reason, &message, now);
        let reason = match reason.as_str() {
            "PodFailurePolicy" => "PodFailurePolicy",
            "BackoffLimitExceeded" => "BackoffLimitExceeded",
            "DeadlineExceeded" => "DeadlineExceeded",
            "MaxFailedIndexesExceeded" => "MaxFailedIndexesExceeded",
            _ => "FailedIndexes",
        };
        plan.events.push((EventType::Warning, reason, message));
    } else if let Some((reason, message)) = condition(&plan.status, SUCCESS_CRITERIA_MET).map(said) {
        set_condition(&mut plan.status, COMPLETE, "True", &reason, &message, now);
        plan.status.completion_time = Some(Time(now));
        if spec.completions.is_some_and(|completions| plan.status.succeeded.unwrap_or(0) > completions) {
            let message = "Too many succeeded pods running after completion count reached";
            plan.events.push((EventType::Warning, "TooManySucceededPods", message.to_owned()));
        }
        plan.events.push((EventType::Normal, "Completed", "Job completed".to_owned()));
    }
}

fn suspend(sorted: &Sorted<'_>, plan: &mut Plan, now: Timestamp) {
    plan.delete = sorted.active.iter().take(AT_ONCE).map(|pod| ((*pod).clone(), false)).collect();
    if condition(&plan.status, SUSPENDED).is_none() {
        set_condition(&mut plan.status, SUSPENDED, "True", "JobSuspended", "Job suspended", now);
        plan.events.push((EventType::Normal, "Suspended", "Job suspended".to_owned()));
    }
}

fn resume(plan: &mut Plan, now: Timestamp) {
    if condition(&plan.status, SUSPENDED).is_some() {
        set_condition(&mut plan.status, SUSPENDED, "False", "JobResumed", "Job resumed", now);
        // The time a Job was suspended does not count towards its deadline.
        plan.status.start_time = Some(Time(now));
        plan.events.push((EventType::Normal, "Resumed", "Job resumed".to_owned()));
    }
}

/// Creates what is missing and removes what is too much.
/// Source: Kubernetes 1.36, `manageJob`.
fn manage(job: &Job, spec: &JobSpec, tally: &Tally, pods: &[Arc<Pod>], sorted: &Sorted<'_>, plan: &mut Plan, now: Timestamp) {
    let parallelism = spec.parallelism.unwrap_or(1).max(0);
    let active = sorted.active.len() as i32;
    let wanted = match spec.completions {
        // In a work queue, the first success means that no more are started.
        None if tally.succeeded > 0 => active,
        None => parallelism,
        Some(completions) => (completions - tally.succeeded - tally.failed_indexes.len() as i32).min(parallelism).max(0),
    };
    if active > wanted {
        let mut surplus: Vec<Arc<Pod>> = sorted.active.iter().map(|pod| (*pod).clone()).collect();
        pods::sort_by_loss(&mut surplus, &[], now);
        let count = usize::try_from(active - wanted).unwrap_or(0).min(AT_ONCE);
        plan.delete = surplus.into_iter().take(count).map(|pod| (pod, false)).collect();
        return;
    }
    let held = if replaces_only_failed(spec) { sorted.terminating as i32 } else { 0 };
    let missing = usize::try_from(wanted - active - held).unwrap_or(0).min(AT_ONCE);
    if missing == 0 {
        return;
    }
    let pause = |plan: &mut Plan, wait: Duration| plan.check_after = Some(plan.check_after.map_or(wait, |other| other.min(wait)));
    let Some(completions) = index_count(spec) else {
        let wait = pause_left(&failures_of(job, spec, pods, None), pods, now);
        if wait.is_zero() { plan.create = vec![None; missing] } else { pause(plan, wait) }
        return;
    };
    let whole = if spec.backoff_limit_per_index.is_none() { pause_left(&failures_of(job, spec, pods, None), pods, now) } else { Duration::ZERO };
    if !whole.is_zero() {
        return pause(plan, whole);
    }
    let held = |pod: &&Arc<Pod>| pods::is_active(pod) || replaces_only_failed(spec) && pods::is_terminating(pod) && !pods::is_finished(pod);
    let taken: BTreeSet<i32> = pods.iter().filter(held).filter_map(|pod| indexes::of(pod)).collect();
    let is_free = |index: &i32| !taken.contains(index) && !tally.completed.contains(index) && !tally.failed_indexes.contains(index);
    for index in (0..completions).filter(is_free) {
        if plan.create.len() >= missing {
            break;
        }
        let wait = if spec.backoff_limit_per_index.is_some() {
            let of_index: Vec<Arc<Pod>> = pods.iter().filter(|pod| indexes::of(pod) == Some(index)).cloned().collect();
            pause_left(&failures_of(job, spec, pods, Some(index)), &of_index, now)
        } else {
            Duration::ZERO
        };
        if wait.is_zero() { plan.create.push(Some(index)) } else { pause(plan, wait) }
    }
}

/// How long to wait after the last of these failures, by how many there were since the last success.
/// Source: Kubernetes 1.36, `pkg/controller/job/backoff_utils.go`.
fn pause_left(failures: &[&Arc<Pod>], pods: &[Arc<Pod>], now: Timestamp) -> Duration {
    let last_success = pods.iter().filter(|pod| pods::phase(pod) == "Succeeded").filter_map(|pod| ended_at(pod)).max();
    let times: Vec<Timestamp> = failures.iter().filter_map(|pod| ended_at(pod)).filter(|time| last_success.is_none_or(|success| *time > success)).collect();
    let Some(last) = times.iter().max() else { return Duration::ZERO };
    let doublings = (times.len() as u32).saturating_sub(1).min(16);
    let pause = FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
    pause.saturating_sub(Duration::try_from(now.duration_since(*last)).unwrap_or_default())
}

/// When a pod ended, as far as can be told.
fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let ends = statuses.filter_map(|status| status.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()).map(|time| time.0);
    let by_condition = || pods::condition(pod, "Ready").and_then(|condition| condition.last_transition_time.as_ref()).map(|time| time.0);
    let by_metadata = || pod.metadata.deletion_timestamp.as_ref().or(pod.metadata.creation_timestamp.as_ref()).map(|time| time.0);
    ends.max().or_else(by_condition).or_else(by_metadata)
}

#[cfg(test)]
mod tests;
