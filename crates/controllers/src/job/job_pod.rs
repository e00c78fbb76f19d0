//! The pods of a Job.

use controller::ownership::controller_reference;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};

use super::TRACKING;
use super::indexes::INDEX;
use super::plan::NewPod;
use crate::pods;

/// How often pods of an index failed before this one: so that it counted, and so that it did not.
/// Source: Kubernetes 1.36, `JobIndexFailureCountAnnotation` and `jobIndexIgnoredFailureCountAnnotation`.
pub(super) const FAILURE_COUNT: &str = "batch.kubernetes.io/job-index-failure-count";
pub(super) const IGNORED_FAILURE_COUNT: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// A pod of a Job; that of an index, where the Job has them, with what failed before it.
/// Source: Kubernetes 1.36, `manageJob` and `addCompletionIndexAnnotation`.
pub(super) fn pod(job: &Job, new: NewPod) -> Pod {
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let template = job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let mut pod = pods::from_template(&template, name, job.metadata.namespace.as_deref().unwrap_or_default(), controller_reference(job));
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|finalizer| finalizer == TRACKING) {
        finalizers.push(TRACKING.to_owned());
    }
    let Some(index) = new.index else { return pod };
    pod.metadata.generate_name = Some(format!("{name}-{index}-"));
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.to_owned(), index.to_string());
    if let Some(failures) = new.failures {
        annotations.insert(FAILURE_COUNT.to_owned(), failures.counted.to_string());
        if failures.ignored > 0 {
            annotations.insert(IGNORED_FAILURE_COUNT.to_owned(), failures.ignored.to_string());
        }
    }
    pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(format!("{name}-{index}"));
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        tell_index(container);
    }
    pod
}

/// A container reads its index from a variable, unless it has one of that name of its own.
fn tell_index(container: &mut Container) {
    let variables = container.env.get_or_insert_default();
    if variables.iter().any(|variable| variable.name == INDEX_VARIABLE) {
        return;
    }
    let field_ref = ObjectFieldSelector { api_version: None, field_path: format!("metadata.labels['{INDEX}']") };
    let value_from = EnvVarSource { field_ref: Some(field_ref), ..EnvVarSource::default() };
    variables.push(EnvVar { name: INDEX_VARIABLE.to_owned(), value: None, value_from: Some(value_from) });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_indexed_pod_knows_its_index() {
        let mut job = Job::default();
        job.metadata.name = Some("sum".to_owned());
        job.spec.get_or_insert_default().template.spec.get_or_insert_default().containers = vec![Container::default()];
        let made = pod(&job, NewPod { index: Some(3), failures: None });
        let spec = made.spec.unwrap();
        assert_eq!((made.metadata.generate_name.as_deref(), spec.hostname.as_deref()), (Some("sum-3-"), Some("sum-3")));
        assert_eq!(spec.containers[0].env.as_ref().unwrap()[0].name, INDEX_VARIABLE);
        assert_eq!(pod_finalizers(&job), [TRACKING]);
    }

    fn pod_finalizers(job: &Job) -> Vec<String> {
        pod(job, NewPod::default()).metadata.finalizers.unwrap()
    }
}
