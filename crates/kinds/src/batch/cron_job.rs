//! CronJob: jobs by the clock.

use api::{batch::v1::CronJob, core::v1::PodTemplateSpec};
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object};
use serde_json::Value;

use super::{job, schedule};
use crate::{
    cells,
    core::pod,
    problems::{not_negative, one_of},
    strategy::{Column, Strategy},
};

/// Behaviour of cron jobs.
pub struct CronJobStrategy;

impl Strategy for CronJobStrategy {
    type Kind = CronJob;

    fn default(&self, cron: &mut CronJob) {
        if let Some(spec) = &mut cron.spec.job_template.spec {
            pod::defaults::template(&mut spec.template);
        }
    }
    fn validate(&self, cron: &CronJob) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec");
        let spec = &cron.spec;
        if spec.schedule.is_empty() {
            problems.push(FieldError::required(&path.child("schedule"), ""));
        } else if spec.schedule.contains("TZ") {
            problems.push(FieldError::invalid(
                &path.child("schedule"),
                spec.schedule.as_str(),
                "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
            ));
        } else if let Some(problem) = schedule::problem(&spec.schedule) {
            problems.push(FieldError::invalid(&path.child("schedule"), spec.schedule.as_str(), problem));
        }
        if let Some(zone) = &spec.time_zone {
            let at = path.child("timeZone");
            if zone.is_empty() {
                problems.push(FieldError::invalid(&at, zone.as_str(), "timeZone must be nil or non-empty string"));
            } else if zone.eq_ignore_ascii_case("local") {
                problems.push(FieldError::invalid(&at, zone.as_str(), "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"));
            } else if jiff::tz::TimeZone::get(zone).is_err() {
                problems.push(FieldError::invalid(&at, zone.as_str(), format!("unknown time zone {zone}")));
            }
        }
        not_negative(spec.starting_deadline_seconds, &path.child("startingDeadlineSeconds"), &mut problems);
        one_of(spec.concurrency_policy.as_deref().unwrap_or_default(), &["Allow", "Forbid", "Replace"], &path.child("concurrencyPolicy"), &mut problems);
        not_negative(spec.successful_jobs_history_limit.map(i64::from), &path.child("successfulJobsHistoryLimit"), &mut problems);
        not_negative(spec.failed_jobs_history_limit.map(i64::from), &path.child("failedJobsHistoryLimit"), &mut problems);
        let at = path.child("jobTemplate").child("spec");
        let none = api::batch::v1::JobSpec::default();
        let template = spec.job_template.spec.as_ref().unwrap_or(&none);
        job::validate_spec(template, &at, &mut problems);
        if let Some(selector) = &template.selector {
            let shown = serde_json::to_value(selector).unwrap_or_default();
            problems.push(FieldError::invalid(&at.child("selector"), shown, "`selector` will be auto-generated"));
        }
        if template.manual_selector == Some(true) {
            problems.push(FieldError::not_supported(&at.child("manualSelector"), true, &["nil", "false"]));
        }
        let name = cron.metadata.name.as_deref().unwrap_or_default();
        if name.len() > 52 {
            problems.push(FieldError::invalid(&FieldPath::new("metadata").child("name"), name, "must be no more than 52 characters"));
        }
        problems
    }
    fn has_warnings(&self) -> bool {
        true
    }
    fn warnings(&self, cron: &CronJob, old: Option<&CronJob>) -> Vec<String> {
        fn template(cron: &CronJob) -> Option<&PodTemplateSpec> {
            cron.spec.job_template.spec.as_ref().map(|spec| &spec.template)
        }
        let path = FieldPath::new("spec");
        let Some(new) = template(cron) else { return Vec::new() };
        pod::warnings::of_owner(&cron.metadata, new, old.and_then(template), &path.child("jobTemplate").child("spec").child("template"))
    }
    fn tracks_generation(&self) -> bool {
        true
    }
    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            Column::NAME,
            Column::text("Schedule", "When jobs start."),
            Column::text("Timezone", "Where the clock stands."),
            Column { kind: "boolean", ..Column::text("Suspend", "Whether it rests.") },
            Column::integer("Active", "Jobs that are running."),
            Column::text("Last Schedule", "When a job started last."),
            Column::AGE,
            Column::text("Containers", "Names of its pods' containers.").wide(),
            Column::text("Images", "Images of its pods' containers.").wide(),
            Column::text("Selector", "Which pods are its own.").wide(),
        ];
        COLUMNS
    }
    fn row(&self, cron: &CronJob, raw: &Object, now: Timestamp) -> Vec<Value> {
        let spec = &cron.spec;
        let status = cron.status.as_ref();
        let job = spec.job_template.spec.as_ref();
        let [names, images] = cells::containers(job.and_then(|job| job.template.spec.as_ref()));
        let last = status.and_then(|status| status.last_schedule_time.as_ref());
        vec![
            raw.name().into(),
            spec.schedule.as_str().into(),
            cells::or_none(spec.time_zone.as_deref()),
            if spec.suspend == Some(true) { "True" } else { "False" }.into(),
            status.and_then(|status| status.active.as_ref()).map_or(0, Vec::len).into(),
            last.map_or_else(|| "<none>".to_owned(), |last| cells::since(Some(last), now)).into(),
            cells::created(raw),
            names,
            images,
            cells::selector(job.and_then(|job| job.selector.as_ref())),
        ]
    }
}
