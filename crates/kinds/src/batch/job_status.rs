//! What a job's status may say, and how it may change: other controllers than the built-in one may write it (`spec.managedBy`).
//!
//! Most rules look only where what they are about has changed, so that a status which is wrong already does not stand in the way of
//! others. Source: Kubernetes `pkg/apis/batch/validation/validation.go` (`validateJobStatus`, `ValidateJobStatusUpdate`) and
//! `pkg/registry/batch/job/strategy.go` (`getStatusValidationOptions`).

use std::{cmp::Ordering, collections::HashSet};

use api::batch::v1::{Job, JobStatus};
use meta::{FieldError, FieldPath};
use serde_json::json;

use super::job::{count_indexes, index_interval};
use crate::problems::not_negative;

/// The conditions that a job has or has not, and what else the rules ask for.
struct Facts<'a> {
    status: &'a JobStatus,
    complete: bool,
    failed: bool,
    failure_target: bool,
    success_criteria_met: bool,
    suspended: bool,
}

impl<'a> Facts<'a> {
    fn of(status: &'a JobStatus) -> Self {
        let is = |kind: &str| status.conditions.iter().flatten().any(|condition| condition.type_ == kind && condition.status == "True");
        Self {
            status,
            complete: is("Complete"),
            failed: is("Failed"),
            failure_target: is("FailureTarget"),
            success_criteria_met: is("SuccessCriteriaMet"),
            suspended: is("Suspended"),
        }
    }
    fn finished(&self) -> bool {
        self.complete || self.failed
    }
    fn active(&self) -> i32 {
        self.status.active.unwrap_or_default()
    }
}

/// The first index that two lists of intervals share. Intervals that cannot be read are passed over: others tell of them.
fn overlap(completed: &str, failed: &str, completions: i32) -> Option<i32> {
    let readable = |list: &str| -> Vec<(i32, i32)> { list.split(',').filter_map(|interval| index_interval(interval, completions).ok()).collect() };
    let (completed, failed) = (readable(completed), readable(failed));
    let (mut left, mut right) = (completed.iter().peekable(), failed.iter().peekable());
    while let (Some((first, last)), Some((other_first, other_last))) = (left.peek(), right.peek()) {
        if first <= other_last && other_first <= last {
            return Some(*first.max(other_first));
        }
        match first.cmp(other_first) {
            Ordering::Less | Ordering::Equal => drop(left.next()),
            Ordering::Greater => drop(right.next()),
        }
    }
    None
}

fn uncounted(status: &JobStatus, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let Some(pods) = &status.uncounted_terminated_pods else { return };
    let mut seen = HashSet::new();
    for (field, uids) in [("succeeded", &pods.succeeded), ("failed", &pods.failed)] {
        for (index, uid) in uids.iter().flatten().enumerate() {
            let at = path.child(field).index(index);
            if uid.is_empty() {
                problems.push(FieldError::invalid(&at, "", "must not be empty"));
            } else if !seen.insert(uid) {
                problems.push(FieldError::duplicate(&at, uid.as_str()));
            }
        }
    }
}

/// Problems of a change of the status.
pub fn validate(job: &Job, old: &Job) -> Vec<FieldError> {
    let mut problems = Vec::new();
    let nothing = JobStatus::default();
    let (new, before) = (Facts::of(job.status.as_ref().unwrap_or(&nothing)), Facts::of(old.status.as_ref().unwrap_or(&nothing)));
    let (status, old_status) = (new.status, before.status);
    let spec = job.spec.clone().unwrap_or_default();
    let path = FieldPath::new("status");
    let conditions = path.child("conditions");
    for (field, count) in [
        ("active", status.active),
        ("succeeded", status.succeeded),
        ("failed", status.failed),
        ("ready", status.ready),
        ("terminating", status.terminating),
    ] {
        not_negative(count.map(i64::from), &path.child(field), &mut problems);
    }
    uncounted(status, &path.child("uncountedTerminatedPods"), &mut problems);

    let complete_changed = new.complete != before.complete;
    let failed_changed = new.failed != before.failed;
    let finished_changed = new.finished() != before.finished();
    let target_changed = new.failure_target != before.failure_target;
    let criteria_changed = new.success_criteria_met != before.success_criteria_met;
    let start_changed = status.start_time != old_status.start_time;
    let completion_changed = status.completion_time != old_status.completion_time;
    let active_changed = new.active() != before.active();
    let completed_indexes = status.completed_indexes.as_deref().unwrap_or_default();
    let completed_indexes_changed = completed_indexes != old_status.completed_indexes.as_deref().unwrap_or_default();
    let failed_indexes_changed = status.failed_indexes != old_status.failed_indexes;
    let indexed = spec.completion_mode.as_deref() == Some("Indexed");

    let mut never_together = |wrong: bool, words: &str| {
        if wrong {
            problems.push(FieldError::invalid_as_a_whole(&conditions, words));
        }
    };
    never_together((complete_changed || failed_changed) && new.complete && new.failed, "cannot set Complete=True and Failed=true conditions");
    never_together((complete_changed || target_changed) && new.complete && new.failure_target, "cannot set Complete=True and FailureTarget=true conditions");
    never_together(
        (failed_changed || target_changed) && new.failed && !new.failure_target,
        "cannot set Failed=True condition without the FailureTarget=true condition",
    );
    never_together(
        (complete_changed || criteria_changed) && new.complete && !new.success_criteria_met,
        "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
    );
    never_together(new.success_criteria_met && new.failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions");
    never_together(new.success_criteria_met && new.failure_target, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions");
    never_together(
        spec.success_policy.is_some() && !new.success_criteria_met && new.complete,
        "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
    );
    for (kind, was, is) in
        [("Failed", before.failed, new.failed), ("Complete", before.complete, new.complete), ("FailureTarget", before.failure_target, new.failure_target)]
    {
        never_together(was && !is, &format!("cannot disable the terminal {kind}=True condition"));
    }
    never_together(before.success_criteria_met && !new.success_criteria_met, "cannot disable the SuccessCriteriaMet=True condition");
    never_together(
        before.complete && !before.success_criteria_met && new.success_criteria_met,
        "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions",
    );

    let completion = path.child("completionTime");
    if complete_changed || completion_changed {
        match (&status.completion_time, new.complete) {
            (Some(time), false) => {
                problems.push(FieldError::invalid(&completion, json!(time), "cannot set completionTime when there is no Complete=True condition"));
            }
            (None, true) => problems.push(FieldError::required(&completion, "completionTime is required for Complete jobs")),
            _ => {}
        }
    }
    if let (Some(start), Some(end)) = (&status.start_time, &status.completion_time)
        && (start_changed || completion_changed)
        && end.0 < start.0
    {
        problems.push(FieldError::invalid(&completion, json!(end), "completionTime cannot be set before startTime"));
    }
    if let (Some(time), Some(_), true) = (&status.completion_time, &old_status.completion_time, completion_changed) {
        problems.push(FieldError::invalid(&completion, json!(time), "completionTime cannot be mutated"));
    }
    let start = path.child("startTime");
    let never_begins = spec.suspend == Some(true) && spec.completions == Some(0);
    if (finished_changed || start_changed) && !never_begins && status.start_time.is_none() && new.finished() {
        problems.push(FieldError::required(&start, "startTime is required for finished job"));
    }
    // Who resumes a job starts its time anew. Unlike upstream, which since 1.31 refuses another time too, only its removal is refused:
    // the conformance tests of older releases ("Jobs, apply changes to status") move the start of a running job.
    let resumes = before.suspended && !new.suspended;
    if status.start_time.is_none() && old_status.start_time.is_some() && spec.suspend != Some(true) && !resumes {
        problems.push(FieldError::required(&start, "startTime cannot be removed for unsuspended job"));
    }

    if (finished_changed || active_changed) && new.active() > 0 && new.finished() {
        problems.push(FieldError::invalid(&path.child("active"), new.active(), "active>0 is invalid for finished job"));
    }
    if let Some(pods) = &status.uncounted_terminated_pods
        && (finished_changed || status.uncounted_terminated_pods != old_status.uncounted_terminated_pods)
        && new.finished()
        && [&pods.failed, &pods.succeeded].into_iter().flatten().any(|uids| !uids.is_empty())
    {
        let detail = "uncountedTerminatedPods needs to be empty for finished job";
        problems.push(FieldError::invalid(&path.child("uncountedTerminatedPods"), json!(pods), detail));
    }
    if let Some(terminating) = status.terminating.filter(|terminating| *terminating > 0)
        && (finished_changed || status.terminating != old_status.terminating)
        && new.finished()
    {
        problems.push(FieldError::invalid(&path.child("terminating"), terminating, "terminating>0 is invalid for finished job"));
    }
    if let Some(ready) = status.ready.filter(|ready| *ready > new.active())
        && (active_changed || status.ready != old_status.ready)
    {
        problems.push(FieldError::invalid(&path.child("ready"), ready, "cannot set more ready pods than active"));
    }

    if completed_indexes_changed {
        let at = path.child("completedIndexes");
        if let Some(Err(problem)) = spec.completions.map(|completions| count_indexes(completed_indexes, completions)) {
            problems.push(FieldError::invalid(&at, completed_indexes, format!("error parsing completedIndexes: {problem}")));
        }
        if !completed_indexes.is_empty() && !indexed {
            problems.push(FieldError::invalid(&at, completed_indexes, "cannot set non-empty completedIndexes when non-indexed completion mode"));
        }
    }
    if let Some(failed_indexes) = status.failed_indexes.as_deref() {
        let at = path.child("failedIndexes");
        if failed_indexes_changed {
            match (spec.completions, spec.backoff_limit_per_index) {
                (Some(completions), Some(_)) => {
                    if let Err(problem) = count_indexes(failed_indexes, completions) {
                        problems.push(FieldError::invalid(&at, failed_indexes, format!("error parsing failedIndexes: {problem}")));
                    }
                }
                (_, None) => {
                    problems.push(FieldError::invalid(&at, failed_indexes, "cannot set non-null failedIndexes when backoffLimitPerIndex is null"));
                }
                _ => {}
            }
        }
        if let Some(index) = spec.completions.and_then(|completions| overlap(completed_indexes, failed_indexes, completions))
            && (failed_indexes_changed || completed_indexes_changed)
        {
            problems.push(FieldError::invalid(&at, failed_indexes, format!("failedIndexes and completedIndexes overlap at index: {index}")));
        }
    }

    // An indexed job whose completions follow its parallelism may be made smaller, and then has fewer that succeeded.
    let may_shrink = indexed && spec.completions == spec.parallelism;
    let (failed, succeeded) = (status.failed.unwrap_or_default(), status.succeeded.unwrap_or_default());
    if failed < old_status.failed.unwrap_or_default() {
        problems.push(FieldError::invalid(&path.child("failed"), failed, "cannot decrease the failed counter"));
    }
    if !may_shrink && succeeded < old_status.succeeded.unwrap_or_default() {
        problems.push(FieldError::invalid(&path.child("succeeded"), succeeded, "cannot decrease the succeeded counter"));
    }
    problems
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const START: &str = "2026-01-01T00:00:00Z";
    const END: &str = "2026-01-01T01:00:00Z";

    fn job(spec: &Value, status: &Value) -> Job {
        let mut whole = json!({"template": {"spec": {"restartPolicy": "Never", "containers": []}}});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": {"name": "j"}, "spec": whole, "status": status})).unwrap()
    }

    #[track_caller]
    fn check(spec: Value, old: Value, new: Value, expected: &[&str]) {
        let found: Vec<String> = validate(&job(&spec, &new), &job(&spec, &old)).iter().map(ToString::to_string).collect();
        assert_eq!(found, expected, "{old} -> {new}");
    }

    fn conditions(kinds: &[&str]) -> Value {
        kinds.iter().map(|kind| json!({"type": kind, "status": "True"})).collect()
    }

    #[test]
    fn a_job_goes_from_its_start_to_either_end() {
        let none = json!({});
        let running = json!({"startTime": START, "active": 1, "ready": 1, "failed": 1});
        let complete = json!({"startTime": START, "completionTime": END, "failed": 1, "succeeded": 1, "ready": 0, "terminating": 0, "conditions": conditions(&["SuccessCriteriaMet", "Complete"])});
        let failed = json!({"startTime": START, "failed": 2, "conditions": conditions(&["FailureTarget", "Failed"]), "uncountedTerminatedPods": {}});
        for (old, new) in [(&none, &running), (&running, &complete), (&running, &failed), (&complete, &complete)] {
            check(none.clone(), old.clone(), new.clone(), &[]);
        }
        check(json!({"suspend": true}), running, json!({"failed": 1}), &[]);
        let suspended = json!({"startTime": START, "conditions": conditions(&["Suspended"])});
        check(json!({}), suspended, json!({"startTime": END, "conditions": [{"type": "Suspended", "status": "False"}]}), &[]);
    }

    #[test]
    fn the_start_of_a_running_job_moves_but_does_not_vanish() {
        let running = json!({"startTime": START, "active": 1});
        check(json!({}), running.clone(), json!({"startTime": END, "active": 1}), &[]);
        let gone = "status.startTime: Required value: startTime cannot be removed for unsuspended job";
        check(json!({}), running.clone(), json!({"active": 1}), &[gone]);
        check(json!({"suspend": true}), running, json!({"active": 0}), &[]);
    }

    #[test]
    fn an_end_is_never_taken_back_and_counts_only_grow() {
        let complete = json!({"startTime": START, "completionTime": END, "succeeded": 3, "failed": 2, "conditions": conditions(&["SuccessCriteriaMet", "Complete"])});
        check(
            json!({}),
            complete.clone(),
            json!({"succeeded": 2, "failed": 1}),
            &[
                "status.conditions: Invalid value: cannot disable the terminal Complete=True condition",
                "status.conditions: Invalid value: cannot disable the SuccessCriteriaMet=True condition",
                "status.startTime: Required value: startTime cannot be removed for unsuspended job",
                "status.failed: Invalid value: 1: cannot decrease the failed counter",
                "status.succeeded: Invalid value: 2: cannot decrease the succeeded counter",
            ],
        );
        let mut moved = complete.clone();
        moved["completionTime"] = json!("2026-01-01T02:00:00Z");
        check(json!({}), complete, moved, &["status.completionTime: Invalid value: \"2026-01-01T02:00:00Z\": completionTime cannot be mutated"]);
        let elastic = json!({"completionMode": "Indexed", "completions": 1, "parallelism": 1});
        check(elastic, json!({"succeeded": 2}), json!({"succeeded": 1}), &[]);
    }

    #[test]
    fn what_is_wrong_already_is_not_held_against_other_changes() {
        let wrong = json!({"active": 1, "ready": 2, "conditions": conditions(&["Failed"]), "completedIndexes": "9"});
        let mut changed = wrong.clone();
        changed["failed"] = json!(1);
        check(json!({"completionMode": "Indexed", "completions": 3}), wrong, changed, &[]);
    }

    #[test]
    fn lists_of_indexes_are_told_apart() {
        let spec = json!({"completionMode": "Indexed", "completions": 9, "backoffLimitPerIndex": 1});
        check(spec.clone(), json!({}), json!({"completedIndexes": "0,2-4", "failedIndexes": "1,5-8"}), &[]);
        check(
            spec,
            json!({}),
            json!({"completedIndexes": "0,2-4,x", "failedIndexes": "1,4-9,4-5"}),
            &[
                "status.completedIndexes: Invalid value: \"0,2-4,x\": error parsing completedIndexes: cannot convert string to integer for index: \"x\"",
                "status.failedIndexes: Invalid value: \"1,4-9,4-5\": error parsing failedIndexes: too large index: \"9\"",
                "status.failedIndexes: Invalid value: \"1,4-9,4-5\": failedIndexes and completedIndexes overlap at index: 4",
            ],
        );
    }
}
