//! What a CronJob starts now, and which of its Jobs it has done with.

use std::sync::Arc;
use std::time::Duration;

use client::EventType;
use controller::ownership::controller_reference;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::schedule::Schedule;
use crate::job::is_finished;

const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// So many missed times are suspicious: a wrong clock, more likely than a long pause. Source: Kubernetes 1.36, `manyMissed`.
const MANY_MISSED: i64 = 100;
/// A little late, so that the time has surely come. Source: Kubernetes 1.36, `nextScheduleDelta`.
const LATE: Duration = Duration::from_millis(100);

/// What is to be done now.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// A Job to start, and the time it is for.
    pub create: Option<(Job, Timestamp)>,
    /// Jobs that make room for it.
    pub replace: Vec<Arc<Job>>,
    /// Finished Jobs that nobody wants to see any more.
    pub delete: Vec<Arc<Job>>,
    pub status: CronJobStatus,
    pub events: Vec<(EventType, &'static str, String)>,
    pub check_after: Option<Duration>,
}

impl Plan {
    /// The Job was started.
    pub fn started(&mut self, job: &Job, scheduled: Timestamp) {
        let reference = client::events::reference(job);
        let active = self.status.active.get_or_insert_default();
        if !active.iter().any(|other| other.uid == reference.uid) {
            active.push(reference);
        }
        self.status.last_schedule_time = Some(Time(scheduled));
    }
}

/// Decides.
/// Source: Kubernetes 1.36, `ControllerV2.syncCronJob`.
pub(super) fn plan(cron_job: &CronJob, jobs: &[Arc<Job>], now: Timestamp) -> Plan {
    let spec = cron_job.spec.clone();
    let mut plan = Plan { status: cron_job.status.clone().unwrap_or_default(), ..Plan::default() };
    look_at_jobs(jobs, &mut plan);
    plan.delete = old_jobs(&spec, jobs);
    if cron_job.metadata.deletion_timestamp.is_none() {
        schedule(cron_job, &spec, jobs, &mut plan, now);
    }
    plan.status.active = plan.status.active.take().filter(|active| !active.is_empty());
    plan
}

/// Strikes Jobs that have finished or are gone from the list of active ones.
fn look_at_jobs(jobs: &[Arc<Job>], plan: &mut Plan) {
    let mut active = plan.status.active.take().unwrap_or_default();
    for job in jobs {
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let is_listed = active.iter().any(|reference| reference.uid == job.metadata.uid);
        if !is_listed && !is_finished(job) {
            // Started by a process that ended before it could say so; or by a user, with our owner reference.
            plan.events.push((EventType::Warning, "UnexpectedJob", format!("Saw a job that the controller did not create or forgot: {name}")));
        } else if is_listed && is_finished(job) {
            active.retain(|reference| reference.uid != job.metadata.uid);
            let condition = if completion(job).is_some() { "Complete" } else { "Failed" };
            plan.events.push((EventType::Normal, "SawCompletedJob", format!("Saw completed job: {name}, condition: {condition}")));
        }
        if let Some(completed) = completion(job).filter(|_| is_finished(job))
            && plan.status.last_successful_time.as_ref().is_none_or(|last| last.0 < completed)
        {
            plan.status.last_successful_time = Some(Time(completed));
        }
    }
    let exists = |reference: &ObjectReference| jobs.iter().any(|job| job.metadata.uid == reference.uid);
    for missing in active.iter().filter(|reference| !exists(reference)) {
        plan.events.push((EventType::Normal, "MissingJob", format!("Active job went missing: {}", missing.name.as_deref().unwrap_or_default())));
    }
    active.retain(exists);
    plan.status.active = Some(active);
}

/// When a Job succeeded.
fn completion(job: &Job) -> Option<Timestamp> {
    job.status.as_ref()?.completion_time.as_ref().map(|time| time.0)
}

/// Finished Jobs beyond the limits, the oldest first.
fn old_jobs(spec: &CronJobSpec, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let surplus = |succeeded: bool, limit: Option<i32>| {
        let Some(limit) = limit else { return Vec::new() };
        let mut finished: Vec<Arc<Job>> = jobs.iter().filter(|job| is_finished(job) && completion(job).is_some() == succeeded).cloned().collect();
        finished.sort_by_key(|job| (job.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0), job.metadata.name.clone()));
        let surplus = finished.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        finished.truncate(surplus);
        finished
    };
    let mut old = surplus(true, spec.successful_jobs_history_limit);
    old.extend(surplus(false, spec.failed_jobs_history_limit));
    old
}

/// Starts what is due.
fn schedule(cron_job: &CronJob, spec: &CronJobSpec, jobs: &[Arc<Job>], plan: &mut Plan, now: Timestamp) {
    let mut complain = |reason, message| plan.events.push((EventType::Warning, reason, message));
    let zone = match spec.time_zone.as_deref().map(TimeZone::get) {
        None => TimeZone::UTC,
        Some(Ok(zone)) => zone,
        Some(Err(_)) => {
            let name = spec.time_zone.as_deref().unwrap_or_default();
            return complain("UnknownTimeZone", format!("invalid timeZone: {name:?}: unknown time zone {name}"));
        }
    };
    if spec.suspend == Some(true) {
        return;
    }
    let schedule = match Schedule::parse(&spec.schedule) {
        Ok(schedule) => schedule,
        Err(problem) => return complain("UnparseableSchedule", format!("unparseable schedule: {:?} : {problem}", spec.schedule)),
    };
    plan.check_after = schedule.next(now, &zone).map(|next| Duration::try_from(next.duration_since(now)).unwrap_or_default() + LATE);
    let (due, missed_many) = latest_due(cron_job, spec, &schedule, &zone, now);
    if missed_many {
        complain("TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew".to_owned());
    }
    let Some(due) = due else { return };
    let is_too_late = spec.starting_deadline_seconds.is_some_and(|seconds| now.duration_since(due) > SignedDuration::from_secs(seconds));
    if is_too_late {
        return complain("MissSchedule", format!("Missed scheduled time to start a job: {}", due.strftime("%a, %d %b %Y %H:%M:%S %z")));
    }
    let job = job(cron_job, spec, due, &zone);
    let is_started = plan.status.last_schedule_time.as_ref().is_some_and(|last| last.0 == due)
        || plan.status.active.iter().flatten().any(|reference| reference.name == job.metadata.name);
    if is_started {
        return;
    }
    let active: Vec<Arc<Job>> = jobs.iter().filter(|job| plan.status.active.iter().flatten().any(|reference| reference.uid == job.metadata.uid)).cloned().collect();
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() => {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            return plan.events.push((EventType::Normal, "JobAlreadyActive", message.to_owned()));
        }
        Some("Replace") => {
            plan.replace = active;
            plan.status.active = None;
        }
        _ => {}
    }
    plan.create = Some((job, due));
}

/// The last time that has come and was not started yet, and whether suspiciously many were missed.
/// Source: Kubernetes 1.36, `mostRecentScheduleTime`.
fn latest_due(cron_job: &CronJob, spec: &CronJobSpec, schedule: &Schedule, zone: &TimeZone, now: Timestamp) -> (Option<Timestamp>, bool) {
    let last = cron_job.status.as_ref().and_then(|status| status.last_schedule_time.as_ref()).or(cron_job.metadata.creation_timestamp.as_ref());
    let Some(mut earliest) = last.map(|time| time.0) else { return (None, false) };
    if let Some(deadline) = spec.starting_deadline_seconds
        && let Ok(bound) = now.checked_sub(SignedDuration::from_secs(deadline))
    {
        earliest = earliest.max(bound);
    }
    let Some(first) = schedule.next(earliest, zone).filter(|first| *first <= now) else { return (None, false) };
    let Some(second) = schedule.next(first, zone).filter(|second| *second <= now) else { return (Some(first), false) };
    let between = second.duration_since(first).as_secs().max(1);
    let missed = now.duration_since(first).as_secs() / between + 1;
    // Times may be unevenly spread, so this only skips most of them.
    let skipped = first.checked_add(SignedDuration::from_secs(between.saturating_mul((missed - 2).max(0)))).unwrap_or(first);
    let mut latest = second;
    let mut time = skipped.min(now);
    while let Some(next) = schedule.next(time, zone).filter(|next| *next <= now) {
        latest = latest.max(next);
        time = next;
    }
    (Some(latest), missed > MANY_MISSED)
}

/// The Job for a time. Its name follows from the time, so that it is started once.
fn job(cron_job: &CronJob, spec: &CronJobSpec, scheduled: Timestamp, zone: &TimeZone) -> Job {
    let template = spec.job_template.metadata.clone().unwrap_or_default();
    let mut annotations = template.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED_AT.to_owned(), zone.to_datetime(scheduled).to_zoned(zone.clone()).map(|zoned| zoned.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()).unwrap_or_default().replace("+00:00", "Z"));
    Job {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", cron_job.metadata.name.as_deref().unwrap_or_default(), scheduled.as_second() / 60)),
            namespace: cron_job.metadata.namespace.clone(),
            labels: template.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(cron_job)]),
            ..ObjectMeta::default()
        },
        spec: spec.job_template.spec.clone(),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn cron_job(spec: serde_json::Value, last: &str) -> CronJob {
        let mut full = json!({ "schedule": "*/10 * * * *", "jobTemplate": { "spec": { "template": {} } } });
        full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "metadata": { "name": "tick", "namespace": "x", "uid": "uid", "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": full,
            "status": { "lastScheduleTime": last },
        }))
        .unwrap()
    }

    fn started(name: &str, condition: Option<&str>, start: &str) -> Arc<Job> {
        let conditions: Vec<_> = condition.iter().map(|kind| json!({ "type": kind, "status": "True", "lastTransitionTime": start })).collect();
        let completed = condition.filter(|kind| *kind == "Complete").map(|_| start);
        serde_json::from_value(json!({
            "metadata": { "name": name, "uid": format!("uid-{name}") },
            "status": { "startTime": start, "completionTime": completed, "conditions": conditions },
        }))
        .map(Arc::new)
        .unwrap()
    }

    fn reasons(plan: &Plan) -> Vec<&str> {
        plan.events.iter().map(|(_, reason, _)| *reason).collect()
    }

    #[test]
    fn the_latest_missed_time_is_started_once() {
        let cron = cron_job(json!({}), "2026-01-01T12:00:00Z");
        let waiting = plan(&cron, &[], at("2026-01-01T12:04:00Z"));
        assert!(waiting.create.is_none());
        assert_eq!(waiting.check_after, Some(Duration::from_secs(360) + LATE));
        let due = plan(&cron, &[], at("2026-01-01T12:45:00Z"));
        let (job, time) = due.create.clone().unwrap();
        assert_eq!(time, at("2026-01-01T12:40:00Z"));
        assert_eq!(job.metadata.annotations.as_ref().unwrap()[SCHEDULED_AT], "2026-01-01T12:40:00Z");
        let mut due = due;
        due.started(&job, time);
        let again = plan(&CronJob { status: Some(due.status), ..cron }, &[Arc::new(job)], at("2026-01-01T12:45:01Z"));
        assert!(again.create.is_none());
    }

    #[test]
    fn concurrency_is_as_the_user_wants() {
        let policy = |policy: &str| {
            let mut cron = cron_job(json!({ "concurrencyPolicy": policy }), "2026-01-01T12:00:00Z");
            let running = started("running", None, "2026-01-01T12:00:00Z");
            cron.status.as_mut().unwrap().active = Some(vec![ObjectReference { uid: running.metadata.uid.clone(), ..ObjectReference::default() }]);
            plan(&cron, &[running], at("2026-01-01T12:10:00Z"))
        };
        let (allow, forbid, replace) = (policy("Allow"), policy("Forbid"), policy("Replace"));
        assert!(allow.create.is_some() && allow.delete.is_empty());
        assert!(forbid.create.is_none() && reasons(&forbid) == ["JobAlreadyActive"]);
        assert!(replace.create.is_some() && replace.replace.len() == 1);
    }

    #[test]
    fn a_time_long_past_is_not_started() {
        let late = plan(&cron_job(json!({ "startingDeadlineSeconds": 60 }), "2026-01-01T12:00:00Z"), &[], at("2026-01-01T12:15:00Z"));
        assert!(late.create.is_none());
        let many = plan(&cron_job(json!({ "schedule": "* * * * *" }), "2026-01-01T00:00:00Z"), &[], at("2026-01-01T12:00:30Z"));
        assert_eq!(many.create.as_ref().unwrap().1, at("2026-01-01T12:00:00Z"));
        assert_eq!(reasons(&many), ["TooManyMissedTimes"]);
    }

    #[test]
    fn finished_jobs_are_kept_up_to_a_limit() {
        let cron = cron_job(json!({ "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 0, "suspend": true }), "2026-01-01T12:00:00Z");
        let jobs = [
            started("a", Some("Complete"), "2026-01-01T10:00:00Z"),
            started("b", Some("Complete"), "2026-01-01T11:00:00Z"),
            started("c", Some("Failed"), "2026-01-01T11:30:00Z"),
        ];
        let plan = plan(&cron, &jobs, at("2026-01-01T12:30:00Z"));
        let names: Vec<_> = plan.delete.iter().filter_map(|job| job.metadata.name.as_deref()).collect();
        assert_eq!(names, ["a", "c"]);
        assert_eq!(plan.status.last_successful_time.unwrap().0, at("2026-01-01T11:00:00Z"));
        assert!(plan.create.is_none() && plan.check_after.is_none());
    }

    #[test]
    fn a_bad_schedule_or_zone_is_reported() {
        let now = at("2026-01-01T12:30:00Z");
        assert_eq!(reasons(&plan(&cron_job(json!({ "schedule": "nonsense" }), "2026-01-01T12:00:00Z"), &[], now)), ["UnparseableSchedule"]);
        let unknown = plan(&cron_job(json!({ "timeZone": "Mars/Olympus" }), "2026-01-01T12:00:00Z"), &[], now);
        assert_eq!(reasons(&unknown), ["UnknownTimeZone"]);
        let suspended = |spec: serde_json::Value| reasons(&plan(&cron_job(spec, "2026-01-01T12:00:00Z"), &[], now)).join(" ");
        assert_eq!(suspended(json!({ "timeZone": "Mars/Olympus", "suspend": true })), "UnknownTimeZone");
        assert_eq!(suspended(json!({ "schedule": "nonsense", "suspend": true })), "");
        assert_eq!(unknown.events[0].2, r#"invalid timeZone: "Mars/Olympus": unknown time zone Mars/Olympus"#);
    }
}
