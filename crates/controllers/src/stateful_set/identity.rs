//! The names, labels and volumes that make a pod the n-th of its set.

use controller::ownership::controller_reference;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume};

use crate::pods;
use crate::revisions::REVISION_LABEL;

const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// The number of a pod in the set called `set`; `None` when its name is not one of the set's.
pub(super) fn ordinal(set: &str, pod: &Pod) -> Option<i32> {
    let number = pod.metadata.name.as_deref()?.strip_prefix(set)?.strip_prefix('-')?;
    number.parse().ok().filter(|ordinal: &i32| ordinal.to_string() == number)
}

/// The revision a pod was made from.
pub(super) fn revision(pod: &Pod) -> Option<&str> {
    pod.metadata.labels.as_ref()?.get(REVISION_LABEL).map(String::as_str)
}

/// The name of a claim of the n-th pod.
pub(super) fn claim_name(template: &str, set: &str, ordinal: i32) -> String {
    format!("{template}-{set}-{ordinal}")
}

/// The n-th pod of a set, from a template of some revision.
pub(super) fn pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let mut pod = pods::from_template(template, name, namespace, controller_reference(set));
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(format!("{name}-{ordinal}"));
    pod.metadata.labels.get_or_insert_default().insert(REVISION_LABEL.to_owned(), revision.to_owned());
    identify(set, &mut pod, ordinal);
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = pod.metadata.name.clone();
    spec.subdomain = set.spec.as_ref().and_then(|spec| spec.service_name.clone()).filter(|name| !name.is_empty());
    pod
}

/// Gives a pod the labels and volumes of its number. True when it had them, but for the index, which older pods may lack.
/// Source: Kubernetes 1.36, `identityMatches`, `storageMatches`, `updateIdentity` and `updateStorage`.
pub(super) fn identify(set: &StatefulSet, pod: &mut Pod, ordinal: i32) -> bool {
    let set_name = set.metadata.name.as_deref().unwrap_or_default();
    let name = format!("{set_name}-{ordinal}");
    let templates = set.spec.iter().flat_map(|spec| spec.volume_claim_templates.iter().flatten());
    let claims: Vec<Volume> = templates
        .filter_map(|template| {
            let volume = template.metadata.name.clone()?;
            let claim_name = claim_name(&volume, set_name, ordinal);
            let source = PersistentVolumeClaimVolumeSource { claim_name, read_only: None };
            Some(Volume { name: volume, persistent_volume_claim: Some(source), ..Volume::default() })
        })
        .collect();
    let spec = pod.spec.get_or_insert_default();
    let claim_of = |volume: &Volume| volume.persistent_volume_claim.as_ref().map(|source| source.claim_name.clone());
    let has = |claim: &Volume| spec.volumes.iter().flatten().any(|volume| volume.name == claim.name && claim_of(volume) == claim_of(claim));
    let has_volumes = claims.iter().all(has);
    if !has_volumes {
        let volumes = spec.volumes.get_or_insert_default();
        volumes.retain(|volume| !claims.iter().any(|claim| claim.name == volume.name));
        volumes.splice(0..0, claims);
    }
    let labels = pod.metadata.labels.get_or_insert_default();
    let has_name = labels.get(NAME_LABEL) == Some(&name);
    if !has_name {
        labels.insert(INDEX_LABEL.to_owned(), ordinal.to_string());
        labels.insert(NAME_LABEL.to_owned(), name);
    }
    has_name && has_volumes
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;

    #[test]
    fn a_pod_has_the_names_of_its_number() {
        let mut set = StatefulSet::default();
        set.metadata.name = Some("db".to_owned());
        let spec = set.spec.get_or_insert_default();
        spec.service_name = Some("peers".to_owned());
        let mut claim = PersistentVolumeClaim::default();
        claim.metadata.name = Some("data".to_owned());
        spec.volume_claim_templates = Some(vec![claim]);
        let mut made = pod(&set, &PodTemplateSpec::default(), "db-abc", 2);
        let spec = made.spec.clone().unwrap();
        assert_eq!((made.metadata.name.as_deref(), spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("db-2"), Some("db-2"), Some("peers")));
        assert_eq!(spec.volumes.unwrap()[0].persistent_volume_claim.as_ref().unwrap().claim_name, "data-db-2");
        assert_eq!((ordinal("db", &made), ordinal("d", &made), revision(&made)), (Some(2), None, Some("db-abc")));
        assert!(identify(&set, &mut made, 2));
        made.metadata.labels.as_mut().unwrap().remove(INDEX_LABEL);
        assert!(identify(&set, &mut made, 2));
        made.metadata.labels.as_mut().unwrap().remove(NAME_LABEL);
        assert!(!identify(&set, &mut made, 2));
        assert_eq!(made.metadata.labels.as_ref().unwrap()[INDEX_LABEL], "2");
        made.metadata.name = Some("db-02".to_owned());
        assert_eq!(ordinal("db", &made), None);
    }
}
