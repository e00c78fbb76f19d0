//! What a Job does next, and what its pods amount to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use client::EventType;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::failure_policy::{self, Meaning};
use super::job_pod::{FAILURE_COUNT, IGNORED_FAILURE_COUNT};
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
    pub create: Vec<NewPod>,
    /// What failures there were lately; to be remembered once the status is written.
    pub backoff: Backoff,
    pub events: Vec<(EventType, &'static str, String)>,
    pub check_after: Option<Duration>,
    /// Whether it was to be seen that as many pods run as should.
    pub managed: bool,
}

/// A pod to create.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct NewPod {
    /// Its index, where the Job has them.
    pub index: Option<i32>,
    /// Where failures are counted by index: how often pods of this one failed before.
    pub failures: Option<Failures>,
}

/// How often pods of an index failed: so that it counts, and so that it does not. Each pod carries the failures before its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Failures {
    pub counted: i32,
    pub ignored: i32,
}

impl Failures {
    /// Those before a pod.
    fn before(pod: &Pod) -> Self {
        let number = |name: &str| pod.metadata.annotations.as_ref().and_then(|all| all.get(name)?.parse::<i32>().ok()).unwrap_or(0).max(0);
        Self { counted: number(FAILURE_COUNT), ignored: number(IGNORED_FAILURE_COUNT) }
    }

    /// Those up to a pod that failed.
    /// Source: Kubernetes 1.36, `getNewIndexFailureCounts`.
    fn with(job: &Job, pod: &Pod) -> Self {
        let before = Self::before(pod);
        match failure_policy::meaning(job, pod) {
            Meaning::Ignored => Self { ignored: before.ignored.saturating_add(1), ..before },
            _ => Self { counted: before.counted.saturating_add(1), ..before },
        }
    }

    fn all(self) -> u32 {
        u32::try_from(self.counted.saturating_add(self.ignored)).unwrap_or(0)
    }
}

/// Failures since the last success, and the time of the last of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Backoff {
    failures: u32,
    last: Option<Timestamp>,
}

impl Backoff {
    /// After these successes and failures.
    /// Source: Kubernetes 1.36, `newBackoffRecord`.
    fn after(self, succeeded: &[Timestamp], failed: &[Timestamp]) -> Self {
        let last_success = succeeded.iter().max();
        let before = if last_success.is_some() { Self::default() } else { self };
        let since: Vec<&Timestamp> = failed.iter().filter(|time| last_success.is_none_or(|success| *time >= success)).collect();
        let last = since.iter().max().map(|time| **time).or(before.last);
        Self { failures: before.failures.saturating_add(u32::try_from(since.len()).unwrap_or(u32::MAX)), last }
    }

    /// How long no new pod is to be started.
    fn left(self, now: Timestamp) -> Duration {
        self.last.map_or(Duration::ZERO, |last| pause_left(self.failures, last, now))
    }
}

/// Source: Kubernetes 1.36, `getRemainingTimeForFailuresCount`.
fn pause_left(failures: u32, last: Timestamp, now: Timestamp) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let pause = FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(16)).min(LONGEST_PAUSE);
    pause.saturating_sub(Duration::try_from(now.duration_since(last)).unwrap_or_default())
}

fn condition<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind && condition.status == "True")
}

fn set_condition(status: &mut JobStatus, kind: &str, value: &str, reason: &str, message: &str, now: Timestamp) {
    let conditions = status.conditions.get_or_insert_default();
    let condition = JobCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    };
    match conditions.iter_mut().find(|known| known.type_ == kind) {
        Some(known) => *known = condition,
        None => conditions.push(condition),
    }
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
    /// By index: a failed pod that stays as it is until its replacement, which takes its count of failures over, is there.
    replaced: BTreeMap<i32, Arc<Pod>>,
    /// A pod whose failure fails the Job.
    fatal: Option<String>,
}

/// Decides. `backoff` is what was remembered of failures; without it the pods tell.
/// Source: Kubernetes 1.36, `Controller.syncJob`.
pub(super) fn plan(job: &Job, pods: &[Arc<Pod>], backoff: Option<Backoff>, now: Timestamp) -> Plan {
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
    plan.backoff = new_backoff(job, &spec, pods, backoff);
    let sorted = Sorted::new(pods);
    let tally = count(job, &spec, pods, &sorted, &mut plan);
    let is_settled = condition(&plan.status, FAILURE_TARGET).is_some() || condition(&plan.status, SUCCESS_CRITERIA_MET).is_some();
    if !is_settled && let Some((kind, reason, message)) = verdict(&spec, pods, &tally, &sorted, &mut plan, now) {
        set_condition(&mut plan.status, kind, "True", reason, &message, now);
    }
    if condition(&plan.status, FAILURE_TARGET).is_some() || condition(&plan.status, SUCCESS_CRITERIA_MET).is_some() {
        plan.delete = sorted.active.iter().take(AT_ONCE).map(|pod| ((*pod).clone(), true)).collect();
        finish(&spec, pods, &sorted, &mut plan, now);
    } else if job.metadata.deletion_timestamp.is_none() {
        plan.managed = true;
        if is_suspended {
            suspend(&sorted, &mut plan, now);
        } else {
            resume(&mut plan, now);
            manage(job, &spec, &tally, pods, &sorted, &mut plan, now);
        }
    }
    let active = (sorted.active.len() + plan.create.len()).saturating_sub(plan.delete.len());
    plan.status.active = (active != 0).then_some(active as i32);
    let leaving = plan.delete.iter().filter(|(pod, _)| pods::is_ready(pod)).count();
    plan.status.ready = Some(sorted.ready.saturating_sub(leaving) as i32);
    plan.status.terminating = Some((sorted.terminating + plan.delete.len()) as i32);
    plan
}

/// What is to be remembered of failures, with those pods that ended and are not noted yet.
fn new_backoff(job: &Job, spec: &JobSpec, pods: &[Arc<Pod>], known: Option<Backoff>) -> Backoff {
    let noted = job.status.as_ref().and_then(|status| status.uncounted_terminated_pods.clone()).unwrap_or_default();
    let is_noted = |pod: &Pod| noted.succeeded.iter().chain(&noted.failed).flatten().any(|uid| Some(uid) == pod.metadata.uid.as_ref());
    let counts = |pod: &&Arc<Pod>| known.is_none() || is_tracked(pod) && !is_noted(pod);
    let has_place = |pod: &&Arc<Pod>| index_count(spec).is_none_or(|completions| valid_index(pod, completions).is_some());
    let times = |test: &dyn Fn(&Pod) -> bool| -> Vec<Timestamp> {
        pods.iter().filter(counts).filter(has_place).filter(|pod| test(pod)).filter_map(|pod| ended_at(pod)).collect()
    };
    let (succeeded, failed) = (times(&|pod| pods::phase(pod) == "Succeeded"), times(&|pod| has_failed(spec, pod, false)));
    known.unwrap_or_default().after(&succeeded, &failed)
}

/// A pod's index, where it is one of the Job's.
fn valid_index(pod: &Pod, completions: i32) -> Option<i32> {
    indexes::of(pod).filter(|index| *index < completions)
}

/// Whether the Job has indexes, and how many.
fn index_count(spec: &JobSpec) -> Option<i32> {
    spec.completions.filter(|_| spec.completion_mode.as_deref() == Some("Indexed"))
}

/// Only pods that have really ended are replaced, not those that are still going.
fn replaces_only_failed(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed")
}

/// Whether a pod has failed: as all that leave do where the Job is failing.
fn has_failed(spec: &JobSpec, pod: &Pod, is_failing: bool) -> bool {
    match pods::phase(pod) {
        "Failed" => true,
        "Succeeded" => false,
        _ => pods::is_terminating(pod) && (is_failing || !replaces_only_failed(spec)),
    }
}

/// Notes ended pods in the status, counts those noted before that have lost their finalizer, and says what all of them amount to.
/// Source: Kubernetes 1.36, `trackJobStatusAndRemoveFinalizers`.
fn count(job: &Job, spec: &JobSpec, pods: &[Arc<Pod>], sorted: &Sorted<'_>, plan: &mut Plan) -> Tally {
    let completions = index_count(spec);
    let is_failing = condition(&plan.status, FAILURE_TARGET).is_some();
    let is_finishing = is_failing || condition(&plan.status, SUCCESS_CRITERIA_MET).is_some();
    let is_leaving = job.metadata.deletion_timestamp.is_some();
    let mut tally = Tally::default();
    if let Some(completions) = completions {
        tally.completed = indexes::parse(plan.status.completed_indexes.as_deref().unwrap_or_default(), completions);
        tally.failed_indexes = indexes::parse(plan.status.failed_indexes.as_deref().unwrap_or_default(), completions);
        let tracked = || pods.iter().filter(|pod| is_tracked(pod));
        tally.completed.extend(tracked().filter(|pod| pods::phase(pod) == "Succeeded").filter_map(|pod| valid_index(pod, completions)));
        if let Some(limit) = spec.backoff_limit_per_index {
            let failed: Vec<(i32, &Arc<Pod>)> =
                tracked().filter(|pod| has_failed(spec, pod, false)).filter_map(|pod| Some((valid_index(pod, completions)?, pod))).collect();
            let is_last = |pod: &Pod| match failure_policy::meaning(job, pod) {
                Meaning::FailsIndex => true,
                Meaning::Ignored => false,
                Meaning::Counts | Meaning::FailsJob(_) => Failures::before(pod).counted >= limit,
            };
            tally.failed_indexes.extend(failed.iter().filter(|(index, pod)| !tally.completed.contains(index) && is_last(pod)).map(|(index, _)| *index));
            tally.replaced = replaced(&failed, sorted, &tally);
        }
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
        let index = completions.and_then(|completions| valid_index(pod, completions));
        if pods::phase(pod) == "Succeeded" {
            // A set of indexes can be written twice without harm.
            if completions.is_none() {
                succeeded.push(uid);
            }
            plan.release.push(pod.clone());
        } else if has_failed(spec, pod, is_failing) {
            let meaning = failure_policy::meaning(job, pod);
            let stays = index.and_then(|index| tally.replaced.get(&index)).is_some_and(|replaced| replaced.metadata.uid == pod.metadata.uid);
            if let Meaning::FailsJob(why) = &meaning {
                tally.fatal.get_or_insert_with(|| why.clone());
            }
            let counts = meaning != Meaning::Ignored && (completions.is_none() || index.is_some());
            if stays && !is_finishing && !is_leaving {
                tally.failed += i32::from(counts);
                continue;
            }
            if counts {
                failed.push(uid);
            }
            plan.release.push(pod.clone());
        } else if is_leaving || is_finishing && pods::is_terminating(pod) {
            plan.release.push(pod.clone());
        }
    }
    if completions.is_some() && spec.backoff_limit_per_index.is_some() {
        plan.status.failed_indexes = Some(indexes::format(&tally.failed_indexes));
    }
    if completions.is_some() {
        plan.status.completed_indexes = Some(indexes::format(&tally.completed)).filter(|text| !text.is_empty());
        plan.status.succeeded = Some(tally.completed.len() as i32).filter(|count| *count != 0);
        tally.succeeded = tally.completed.len() as i32;
    } else {
        tally.succeeded = plan.status.succeeded.unwrap_or(0) + succeeded.len() as i32;
    }
    tally.failed += plan.status.failed.unwrap_or(0) + failed.len() as i32;
    noted.succeeded = Some(succeeded).filter(|uids| !uids.is_empty());
    noted.failed = Some(failed).filter(|uids| !uids.is_empty());
    plan.status.uncounted_terminated_pods = Some(noted);
    tally
}

/// By index: the last of the failed pods, where neither another pod runs nor the index is done.
/// Source: Kubernetes 1.36, `getPodsWithDelayedDeletionPerIndex`.
fn replaced(failed: &[(i32, &Arc<Pod>)], sorted: &Sorted<'_>, tally: &Tally) -> BTreeMap<i32, Arc<Pod>> {
    let running: BTreeSet<i32> = sorted.active.iter().filter_map(|pod| indexes::of(pod)).collect();
    let mut last: BTreeMap<i32, Arc<Pod>> = BTreeMap::new();
    for (index, pod) in failed {
        if running.contains(index) || tally.completed.contains(index) || tally.failed_indexes.contains(index) {
            continue;
        }
        let order = |pod: &Pod| (Failures::before(pod).all(), ended_at(pod));
        if last.get(index).is_none_or(|known| order(known) <= order(pod)) {
            last.insert(*index, (*pod).clone());
        }
    }
    last
}

/// Condition, reason and message, when the Job is decided.
fn verdict(spec: &JobSpec, pods: &[Arc<Pod>], tally: &Tally, sorted: &Sorted<'_>, plan: &mut Plan, now: Timestamp) -> Option<(&'static str, &'static str, String)> {
    let limit = spec.backoff_limit.unwrap_or(if spec.backoff_limit_per_index.is_some() { i32::MAX } else { 6 });
    if let Some(why) = &tally.fatal {
        return Some((FAILURE_TARGET, "PodFailurePolicy", why.clone()));
    }
    if tally.failed > limit || restarts_exceed(spec, pods, limit) {
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
        let failed = tally.failed_indexes.len() as i32;
        if spec.backoff_limit_per_index.is_some() && failed > 0 {
            if spec.max_failed_indexes.is_some_and(|limit| failed > limit) {
                return Some((FAILURE_TARGET, "MaxFailedIndexesExceeded", "Job has exceeded the specified maximal number of failed indexes".to_owned()));
            }
            if tally.completed.union(&tally.failed_indexes).count() as i32 >= completions {
                return Some((FAILURE_TARGET, "FailedIndexes", "Job has failed indexes".to_owned()));
            }
        }
        if let Some(why) = spec.success_policy.as_ref().and_then(|policy| success_policy::met(policy, &tally.completed, completions)) {
            return Some((SUCCESS_CRITERIA_MET, "SuccessPolicy", why));
        }
    }
    let is_complete = match spec.completions {
        Some(completions) => tally.succeeded >= completions && sorted.active.is_empty(),
        None => tally.succeeded > 0 && sorted.active.is_empty(),
    };
    is_complete.then(|| (SUCCESS_CRITERIA_MET, "CompletionsReached", "Reached expected number of succeeded pods".to_owned()))
}

/// Pods that are restarted in place fail without ending; their restarts count.
fn restarts_exceed(spec: &JobSpec, pods: &[Arc<Pod>], limit: i32) -> bool {
    if spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) != Some("OnFailure") {
        return false;
    }
    let going = pods.iter().filter(|pod| matches!(pods::phase(pod), "Running" | "Pending"));
    let statuses = going.filter_map(|pod| pod.status.as_ref());
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
    let surplus = surplus(spec, sorted, usize::try_from(active - wanted).unwrap_or(0));
    if !surplus.is_empty() {
        plan.delete = surplus.into_iter().take(AT_ONCE).map(|pod| (pod, false)).collect();
        return;
    }
    let held = if replaces_only_failed(spec) { sorted.terminating as i32 } else { 0 };
    let missing = usize::try_from(wanted - active - held).unwrap_or(0).min(AT_ONCE);
    if missing == 0 {
        return;
    }
    let pause = |plan: &mut Plan, wait: Duration| plan.check_after = Some(plan.check_after.map_or(wait, |other| other.min(wait)));
    let wait = if spec.backoff_limit_per_index.is_none() { plan.backoff.left(now) } else { Duration::ZERO };
    if !wait.is_zero() {
        return pause(plan, wait);
    }
    let Some(completions) = index_count(spec) else {
        plan.create = vec![NewPod::default(); missing];
        return;
    };
    let held = |pod: &&Arc<Pod>| pods::is_active(pod) || replaces_only_failed(spec) && pods::is_terminating(pod) && !pods::is_finished(pod);
    let taken: BTreeSet<i32> = pods.iter().filter(held).filter_map(|pod| indexes::of(pod)).collect();
    let is_free = |index: &i32| !taken.contains(index) && !tally.completed.contains(index) && !tally.failed_indexes.contains(index);
    for index in (0..completions).filter(is_free).take(missing) {
        if spec.backoff_limit_per_index.is_none() {
            plan.create.push(NewPod { index: Some(index), failures: None });
            continue;
        }
        let before = tally.replaced.get(&index);
        let failures = before.map(|pod| Failures::with(job, pod)).unwrap_or_default();
        let wait = before.and_then(|pod| ended_at(pod)).map_or(Duration::ZERO, |ended| pause_left(failures.all(), ended, now));
        if wait.is_zero() {
            plan.create.push(NewPod { index: Some(index), failures: Some(failures) });
        } else {
            pause(plan, wait);
        }
    }
}

/// Pods that are too many: those of an indexed Job that have no index of it or one that another pod has, and as many more as are asked for.
/// Source: Kubernetes 1.36, `activePodsForRemoval`.
fn surplus(spec: &JobSpec, sorted: &Sorted<'_>, at_least: usize) -> Vec<Arc<Pod>> {
    let mut all: Vec<Arc<Pod>> = sorted.active.iter().map(|pod| (*pod).clone()).collect();
    pods::sort_by_progress(&mut all);
    let Some(completions) = index_count(spec) else {
        all.truncate(at_least);
        return all;
    };
    // Of each index the pod that came furthest stays.
    let mut seen = BTreeSet::new();
    let (rest, mut surplus): (Vec<_>, Vec<_>) = all.into_iter().rev().partition(|pod| valid_index(pod, completions).is_some_and(|index| seen.insert(index)));
    let more = at_least.saturating_sub(surplus.len());
    surplus.extend(rest.into_iter().rev().take(more));
    surplus
}

/// When a pod ended, as far as can be told.
/// Source: Kubernetes 1.36, `getFinishedTime`.
fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let statuses: Vec<_> = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten()).collect();
    let ends: Option<Vec<Timestamp>> = statuses.iter().map(|status| Some(status.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0)).collect();
    let by_condition = || pods::condition(pod, "Ready").filter(|condition| condition.status == "False")?.last_transition_time.as_ref().map(|time| time.0);
    let by_removal = || {
        let grace = jiff::SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0));
        pod.metadata.deletion_timestamp.as_ref().and_then(|time| time.0.checked_sub(grace).ok())
    };
    let creation = || pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    ends.and_then(|ends| ends.into_iter().max()).or_else(by_condition).or_else(by_removal).or_else(creation)
}

#[cfg(test)]
mod tests;
