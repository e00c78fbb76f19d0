//! Job: pods that run until their work is done.

use std::collections::BTreeMap;

use api::batch::v1::{Job, JobSpec};
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object, validation as rules};
use serde_json::Value;

use crate::{
    batch::job_status,
    cells,
    core::pod,
    problems::{immutable, is_empty_selector, label_selector, not_negative, one_of, selects},
    strategy::{Column, NameRule, Strategy, WriteContext},
};

/// Behaviour of jobs.
pub struct JobStrategy;

/// Labels that bind pods to their job: the present names and those of old.
const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];

/// Makes the selector nobody has to write: the job's own UID.
fn generate_selector(job: &mut Job) {
    let (Some(uid), Some(name)) = (job.metadata.uid.clone(), job.metadata.name.clone()) else { return };
    let Some(spec) = &mut job.spec else { return };
    if spec.manual_selector == Some(true) {
        return;
    }
    let labels = spec.template.metadata.get_or_insert_default().labels.get_or_insert_default();
    for (keys, value) in [(NAME_LABELS, &name), (UID_LABELS, &uid)] {
        for key in keys {
            // A name that is too long for a label is left out, as upstream does by refusing such jobs.
            labels.entry(key.to_owned()).or_insert_with(|| value.clone());
        }
    }
    let selector = spec.selector.get_or_insert_default();
    selector.match_labels.get_or_insert_with(BTreeMap::new).entry("batch.kubernetes.io/controller-uid".to_owned()).or_insert(uid);
}

/// Problems of a job's specification, without what only a job of its own has.
pub fn validate_spec(spec: &JobSpec, path: &FieldPath, problems: &mut Vec<FieldError>) {
    not_negative(spec.parallelism.map(i64::from), &path.child("parallelism"), problems);
    not_negative(spec.completions.map(i64::from), &path.child("completions"), problems);
    not_negative(spec.active_deadline_seconds, &path.child("activeDeadlineSeconds"), problems);
    not_negative(spec.backoff_limit.map(i64::from), &path.child("backoffLimit"), problems);
    not_negative(spec.ttl_seconds_after_finished.map(i64::from), &path.child("ttlSecondsAfterFinished"), problems);
    not_negative(spec.backoff_limit_per_index.map(i64::from), &path.child("backoffLimitPerIndex"), problems);
    let mode = spec.completion_mode.as_deref();
    if let Some(mode) = mode {
        one_of(mode, &["Indexed", "NonIndexed"], &path.child("completionMode"), problems);
    }
    if mode == Some("Indexed") && spec.completions.is_none() {
        problems.push(FieldError::required(&path.child("completions"), "when completion mode is Indexed"));
    }
    if spec.backoff_limit_per_index.is_some() && mode != Some("Indexed") {
        problems.push(FieldError::invalid(
            &path.child("backoffLimitPerIndex"),
            spec.backoff_limit_per_index.unwrap_or_default(),
            "requires indexed completion mode",
        ));
    }
    if let Some(policy) = spec.pod_replacement_policy.as_deref() {
        let allowed: &[&str] = if spec.pod_failure_policy.is_some() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
        one_of(policy, allowed, &path.child("podReplacementPolicy"), problems);
    }
    if let Some(count) = spec.max_failed_indexes {
        not_negative(Some(i64::from(count)), &path.child("maxFailedIndexes"), problems);
        if spec.backoff_limit_per_index.is_none() {
            problems.push(FieldError::required(&path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"));
        }
        if spec.completions.is_some_and(|completions| count > completions) {
            problems.push(FieldError::invalid(&path.child("maxFailedIndexes"), count, "must be less than or equal to completions"));
        }
    }
    if let Some(manager) = spec.managed_by.as_deref().filter(|manager| !manager.is_empty()) {
        let at = path.child("managedBy");
        if manager.len() > 63 {
            problems.push(FieldError::too_long(&at, 63));
        }
        match manager.split_once('/') {
            None | Some((_, "")) => problems.push(FieldError::invalid(&at, manager, "must be a domain-prefixed path (such as \"acme.io/foo\")")),
            Some((domain, _)) => problems.extend(rules::invalid_each(&at, domain, rules::dns1123_subdomain_problems(domain))),
        }
    }
    failure_policy(spec, &path.child("podFailurePolicy"), problems);
    success_policy(spec, &path.child("successPolicy"), problems);
    problems.extend(pod::validation::template(&spec.template, &path.child("template")));
    let policy = spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or_default();
    let at = path.child("template").child("spec").child("restartPolicy");
    if policy.is_empty() || policy == "Always" {
        problems.push(FieldError::required(&at, "valid values: \"OnFailure\", \"Never\""));
    } else if spec.pod_failure_policy.is_some() && policy != "Never" {
        problems.push(FieldError::invalid(&at, policy, "only \"Never\" is supported when podFailurePolicy is specified"));
    }
}

/// When a job is done before all of its indexes are.
///
/// Source: Kubernetes `pkg/apis/batch/validation/validation.go`, `validateSuccessPolicy`.
fn success_policy(spec: &JobSpec, path: &FieldPath, problems: &mut Vec<FieldError>) {
    const MOST_RULES: usize = 20;
    const MOST_TEXT: usize = 64 * 1024;
    let Some(policy) = &spec.success_policy else { return };
    if spec.completion_mode.as_deref() != Some("Indexed") {
        let value = serde_json::to_value(policy).unwrap_or_default();
        problems.push(FieldError::invalid(path, value, "requires indexed completion mode"));
        return;
    }
    let completions = spec.completions.unwrap_or_default();
    let rules = path.child("rules");
    if policy.rules.is_empty() {
        problems.push(FieldError::required(&rules, "at least one rules must be specified when the successPolicy is specified"));
    }
    if policy.rules.len() > MOST_RULES {
        problems.push(FieldError::too_many(&rules, policy.rules.len(), MOST_RULES));
    }
    for (index, rule) in policy.rules.iter().enumerate() {
        let at = rules.index(index);
        if rule.succeeded_count.is_none() && rule.succeeded_indexes.is_none() {
            problems.push(FieldError::required(&at, "at least one of succeededCount or succeededIndexes must be specified"));
        }
        let mut named = 0;
        if let Some(indexes) = rule.succeeded_indexes.as_deref() {
            let at = at.child("succeededIndexes");
            if indexes.len() > MOST_TEXT {
                problems.push(FieldError::too_long(&at, MOST_TEXT));
            }
            match count_indexes(indexes, completions) {
                Ok(count) => named = count,
                Err(problem) => problems.push(FieldError::invalid(&at, indexes, &format!("error parsing succeededIndexes: {problem}"))),
            }
        }
        if let Some(count) = rule.succeeded_count {
            let at = at.child("succeededCount");
            not_negative(Some(i64::from(count)), &at, problems);
            if count > completions {
                let words = format!("must be less than or equal to {completions} (the number of specified completions)");
                problems.push(FieldError::invalid(&at, count, &words));
            }
            if rule.succeeded_indexes.is_some() && count > named {
                let words = format!("must be less than or equal to {named} (the number of indexes in the specified succeededIndexes field)");
                problems.push(FieldError::invalid(&at, count, &words));
            }
        }
    }
}

/// The first and last index of an interval like `3-5` or `1`, or what is wrong with it.
pub(super) fn index_interval(interval: &str, completions: i32) -> Result<(i32, i32), String> {
    let number = |text: &str| -> Result<i32, String> {
        text.parse::<i32>().map_err(|_| format!("cannot convert string to integer for index: {text:?}")).and_then(|index| {
            if index < completions { Ok(index) } else { Err(format!("too large index: {text:?}")) }
        })
    };
    let limits: Vec<&str> = interval.split('-').collect();
    match limits[..] {
        [only] => number(only).map(|index| (index, index)),
        [first, last] => {
            let (first, last) = (number(first)?, number(last)?);
            if first >= last { Err(format!("non-increasing order, previous: {first}, current: {last}")) } else { Ok((first, last)) }
        }
        _ => Err(format!("the fragment {interval:?} violates the requirement that an index interval can have at most two parts separated by '-'")),
    }
}

/// How many indexes a list like `1,3-5` names, or what is wrong with it.
pub(super) fn count_indexes(list: &str, completions: i32) -> Result<i32, String> {
    let (mut total, mut last) = (0_i32, None);
    for interval in list.split(',').filter(|_| !list.is_empty()) {
        let (first, end) = index_interval(interval, completions)?;
        if let Some(last) = last.filter(|last| *last >= first) {
            return Err(format!("non-increasing order, previous: {last}, current: {first}"));
        }
        total = total.saturating_add(end.saturating_sub(first)).saturating_add(1);
        last = Some(end);
    }
    Ok(total)
}

/// What the failures of its pods mean.
///
/// Source: Kubernetes `pkg/apis/batch/validation/validation.go`, `validatePodFailurePolicy`.
fn failure_policy(spec: &JobSpec, path: &FieldPath, problems: &mut Vec<FieldError>) {
    const MOST_RULES: usize = 20;
    const MOST_CODES: usize = 255;
    let Some(policy) = &spec.pod_failure_policy else { return };
    if policy.rules.len() > MOST_RULES {
        problems.push(FieldError::too_many(&path.child("rules"), policy.rules.len(), MOST_RULES));
    }
    let pod_spec = spec.template.spec.as_ref();
    let named = |name: &str| {
        pod_spec.is_some_and(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(|container| container.name == name))
    };
    for (index, rule) in policy.rules.iter().enumerate() {
        let at = path.child("rules").index(index);
        match rule.action.as_str() {
            "" => problems.push(FieldError::required(&at.child("action"), "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]")),
            "FailIndex" if spec.backoff_limit_per_index.is_none() => {
                problems.push(FieldError::invalid(&at.child("action"), "FailIndex", "requires the backoffLimitPerIndex to be set"));
            }
            "Count" | "FailIndex" | "FailJob" | "Ignore" => {}
            other => problems.push(FieldError::not_supported(&at.child("action"), other, &["Count", "FailIndex", "FailJob", "Ignore"])),
        }
        let conditions = rule.on_pod_conditions.as_deref().unwrap_or_default();
        match (&rule.on_exit_codes, conditions.is_empty()) {
            (Some(_), false) => problems.push(FieldError::invalid_as_a_whole(&at, "specifying both OnExitCodes and OnPodConditions is not supported")),
            (None, true) => problems.push(FieldError::invalid_as_a_whole(&at, "specifying one of OnExitCodes and OnPodConditions is required")),
            _ => {}
        }
        for (position, condition) in conditions.iter().enumerate() {
            let at = at.child("onPodConditions").index(position);
            problems.extend(rules::invalid_each(&at.child("type"), &condition.type_, rules::qualified_name_problems(&condition.type_)));
            let status = condition.status.as_deref().unwrap_or_default();
            match status {
                "" => problems.push(FieldError::required(&at.child("status"), "valid values: [\"False\" \"True\" \"Unknown\"]")),
                "False" | "True" | "Unknown" => {}
                other => problems.push(FieldError::not_supported(&at.child("status"), other, &["False", "True", "Unknown"])),
            }
        }
        let Some(codes) = &rule.on_exit_codes else { continue };
        let at = at.child("onExitCodes");
        match codes.operator.as_str() {
            "" => problems.push(FieldError::required(&at.child("operator"), "valid values: [\"In\" \"NotIn\"]")),
            "In" | "NotIn" => {}
            other => problems.push(FieldError::not_supported(&at.child("operator"), other, &["In", "NotIn"])),
        }
        if let Some(name) = codes.container_name.as_deref().filter(|name| !named(name)) {
            problems.push(FieldError::invalid(&at.child("containerName"), name, "must be one of the container or initContainer names in the pod template"));
        }
        let values = at.child("values");
        if codes.values.is_empty() {
            problems.push(FieldError::invalid(&values, codes.values.clone(), "at least one value is required"));
        } else if codes.values.len() > MOST_CODES {
            problems.push(FieldError::too_many(&values, codes.values.len(), MOST_CODES));
        }
        for (position, value) in codes.values.iter().enumerate() {
            let at = values.index(position);
            if codes.operator == "In" && *value == 0 {
                problems.push(FieldError::invalid(&at, *value, "must not be 0 for the In operator"));
            }
            let before = codes.values.get(position.wrapping_sub(1));
            match before {
                Some(before) if before == value => problems.push(FieldError::duplicate(&at, *value)),
                Some(before) if before > value => {
                    problems.push(FieldError::invalid(&values, codes.values.clone(), "must be ordered"));
                }
                _ => {}
            }
        }
    }
}

impl Strategy for JobStrategy {
    type Kind = Job;

    fn default(&self, job: &mut Job) {
        let Some(spec) = &mut job.spec else { return };
        pod::defaults::template(&mut spec.template);
        if spec.completions.is_none() && spec.parallelism.is_none() {
            spec.completions = Some(1);
        }
        spec.parallelism.get_or_insert(1);
        spec.backoff_limit.get_or_insert(if spec.backoff_limit_per_index.is_some() { i32::MAX } else { 6 });
        spec.completion_mode.get_or_insert_with(|| "NonIndexed".to_owned());
        spec.suspend.get_or_insert(false);
        spec.manual_selector.get_or_insert(false);
        let replacement = if spec.pod_failure_policy.is_some() { "Failed" } else { "TerminatingOrFailed" };
        spec.pod_replacement_policy.get_or_insert_with(|| replacement.to_owned());
        for rule in spec.pod_failure_policy.iter_mut().flat_map(|policy| &mut policy.rules) {
            for pattern in rule.on_pod_conditions.iter_mut().flatten() {
                if pattern.status.as_deref().unwrap_or_default().is_empty() {
                    pattern.status = Some("True".to_owned());
                }
            }
        }
        if job.metadata.labels.as_ref().is_none_or(BTreeMap::is_empty) {
            job.metadata.labels = spec.template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()).filter(|labels| !labels.is_empty());
        }
    }
    fn prepare_create(&self, _context: &WriteContext, job: &mut Job) {
        generate_selector(job);
    }
    fn validate(&self, job: &Job) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec");
        let empty = JobSpec::default();
        let spec = job.spec.as_ref().unwrap_or(&empty);
        validate_spec(spec, &path, &mut problems);
        let labels = spec.template.metadata.as_ref().and_then(|metadata| metadata.labels.as_ref());
        match &spec.selector {
            None => problems.push(FieldError::required(&path.child("selector"), "")),
            Some(selector) => {
                problems.extend(label_selector(selector, &path.child("selector")));
                if is_empty_selector(selector) || !selects(selector, labels) {
                    problems.push(FieldError::invalid(
                        &path.child("template").child("metadata").child("labels"),
                        serde_json::json!(labels),
                        "`selector` does not match template `labels`",
                    ));
                }
            }
        }
        problems
    }
    fn validate_update(&self, job: &Job, old: &Job) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec");
        let (Some(new), Some(known)) = (&job.spec, &old.spec) else { return problems };
        validate_spec(new, &path, &mut problems);
        let indexed = new.completion_mode.as_deref() == Some("Indexed");
        if new.completions != known.completions && !(indexed && new.completions == new.parallelism) {
            if indexed {
                problems.push(FieldError::invalid(
                    &path.child("completions"),
                    serde_json::json!(new.completions),
                    "can only be modified in tandem with spec.parallelism",
                ));
            } else {
                immutable(&new.completions, &known.completions, &path.child("completions"), &mut problems);
            }
        }
        immutable(&new.selector, &known.selector, &path.child("selector"), &mut problems);
        immutable(&new.completion_mode, &known.completion_mode, &path.child("completionMode"), &mut problems);
        immutable(&new.pod_failure_policy, &known.pod_failure_policy, &path.child("podFailurePolicy"), &mut problems);
        immutable(&new.success_policy, &known.success_policy, &path.child("successPolicy"), &mut problems);
        immutable(&new.backoff_limit_per_index, &known.backoff_limit_per_index, &path.child("backoffLimitPerIndex"), &mut problems);
        immutable(&new.managed_by, &known.managed_by, &path.child("managedBy"), &mut problems);
        // Where its pods may run can change while a job that never started is suspended.
        let never_started = old.status.as_ref().is_none_or(|status| status.start_time.is_none());
        let mut template = new.template.clone();
        if known.suspend == Some(true) && never_started {
            if let (Some(to), Some(from)) = (&mut template.spec, &known.template.spec) {
                to.affinity.clone_from(&from.affinity);
                to.node_selector.clone_from(&from.node_selector);
                to.tolerations.clone_from(&from.tolerations);
                to.scheduling_gates.clone_from(&from.scheduling_gates);
                for (container, old) in to.containers.iter_mut().zip(&from.containers) {
                    container.resources.clone_from(&old.resources);
                }
            }
            if let (Some(to), Some(from)) = (&mut template.metadata, &known.template.metadata) {
                to.labels.clone_from(&from.labels);
                to.annotations.clone_from(&from.annotations);
            }
        }
        immutable(&template, &known.template, &path.child("template"), &mut problems);
        problems
    }
    fn validate_status_update(&self, job: &Job, old: &Job) -> Vec<FieldError> {
        job_status::validate(job, old)
    }
    fn name_rule(&self) -> NameRule {
        NameRule::Dns1123Subdomain
    }
    fn has_warnings(&self) -> bool {
        true
    }
    fn warnings(&self, job: &Job, old: Option<&Job>) -> Vec<String> {
        let Some(spec) = &job.spec else { return Vec::new() };
        let old = old.and_then(|old| old.spec.as_ref()).map(|spec| &spec.template);
        pod::warnings::of_owner(&job.metadata, &spec.template, old, &FieldPath::new("spec").child("template"))
    }
    fn tracks_generation(&self) -> bool {
        true
    }
    fn orphans_by_default(&self) -> bool {
        // Source: `pkg/registry/batch/job/strategy.go`: kept for clients of old; only jobs made for batch/v1's first form do.
        false
    }
    fn selectable_field_names(&self) -> &'static [&'static str] {
        &["status.successful"]
    }
    fn selectable_fields(&self, job: &Job) -> Vec<(&'static str, String)> {
        vec![("status.successful", job.status.as_ref().and_then(|status| status.succeeded).unwrap_or_default().to_string())]
    }
    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            Column::NAME,
            Column::text("Status", "Where it stands."),
            Column::text("Completions", "Pods that succeeded, of those wanted."),
            Column::text("Duration", "How long it has been at work."),
            Column::AGE,
            Column::text("Containers", "Names of its pods' containers.").wide(),
            Column::text("Images", "Images of its pods' containers.").wide(),
            Column::text("Selector", "Which pods are its own.").wide(),
        ];
        COLUMNS
    }
    fn row(&self, job: &Job, raw: &Object, now: Timestamp) -> Vec<Value> {
        let spec = job.spec.as_ref();
        let status = job.status.as_ref();
        let succeeded = status.and_then(|status| status.succeeded).unwrap_or_default();
        let completions = match (spec.and_then(|spec| spec.completions), spec.and_then(|spec| spec.parallelism).unwrap_or_default()) {
            (Some(wanted), _) => format!("{succeeded}/{wanted}"),
            (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
            (None, _) => format!("{succeeded}/1"),
        };
        let started = status.and_then(|status| status.start_time.as_ref());
        let duration = match (started, status.and_then(|status| status.completion_time.as_ref())) {
            (None, _) => String::new(),
            (Some(start), None) => cells::since(Some(start), now),
            (Some(start), Some(end)) => cells::between(start, end),
        };
        let is = |kind: &str| {
            status.is_some_and(|status| status.conditions.iter().flatten().any(|condition| condition.type_ == kind && condition.status == "True"))
        };
        let words = if is("Complete") {
            "Complete"
        } else if is("Failed") {
            "Failed"
        } else if job.metadata.deletion_timestamp.is_some() {
            "Terminating"
        } else if is("Suspended") {
            "Suspended"
        } else if is("FailureTarget") {
            "FailureTarget"
        } else if is("SuccessCriteriaMet") {
            "SuccessCriteriaMet"
        } else {
            "Running"
        };
        let [names, images] = cells::containers(spec.and_then(|spec| spec.template.spec.as_ref()));
        vec![
            raw.name().into(),
            words.into(),
            completions.into(),
            duration.into(),
            cells::created(raw),
            names,
            images,
            cells::selector(spec.and_then(|spec| spec.selector.as_ref())),
        ]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(spec: Value, expected: &[&str]) {
        let mut whole = json!({"template": {"spec": {"restartPolicy": "Never", "containers": []}}});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let spec: JobSpec = serde_json::from_value(whole).unwrap();
        let mut problems = Vec::new();
        success_policy(&spec, &FieldPath::new("spec").child("successPolicy"), &mut problems);
        assert_eq!(problems.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_success_policy_is_of_indexed_jobs_and_names_indexes_that_there_are() {
        let rules = |rules: Value| json!({"completionMode": "Indexed", "completions": 5, "successPolicy": {"rules": rules}});
        check(rules(json!([{"succeededIndexes": "0,2-4", "succeededCount": 4}, {"succeededCount": 5}])), &[]);
        let invalid = |field: &str, value: &str, words: &str| format!("spec.successPolicy.rules[0].{field}: Invalid value: {value}: {words}");
        let parsing = |list: &str, words: &str| {
            let problem = invalid("succeededIndexes", &format!("{list:?}"), &format!("error parsing succeededIndexes: {words}"));
            check(rules(json!([{"succeededIndexes": list}])), &[&problem]);
        };
        parsing("5", "too large index: \"5\"");
        parsing("a", "cannot convert string to integer for index: \"a\"");
        parsing("2,1", "non-increasing order, previous: 2, current: 1");
        parsing("3-3", "non-increasing order, previous: 3, current: 3");
        parsing("1-2-3", "the fragment \"1-2-3\" violates the requirement that an index interval can have at most two parts separated by '-'");
        let few = invalid("succeededCount", "3", "must be less than or equal to 2 (the number of indexes in the specified succeededIndexes field)");
        check(rules(json!([{"succeededIndexes": "0-1", "succeededCount": 3}])), &[&few]);
        let many = invalid("succeededCount", "6", "must be less than or equal to 5 (the number of specified completions)");
        check(rules(json!([{"succeededCount": 6}])), &[&many]);
        check(rules(json!([])), &["spec.successPolicy.rules: Required value: at least one rules must be specified when the successPolicy is specified"]);
        let neither = "spec.successPolicy.rules[0]: Required value: at least one of succeededCount or succeededIndexes must be specified";
        check(rules(json!([{}])), &[neither]);
        let unindexed = "spec.successPolicy: Invalid value: {\"rules\":[]}: requires indexed completion mode";
        check(json!({"successPolicy": {"rules": []}}), &[unindexed]);
    }
}
