//! The pod of a DaemonSet for one node.

use controller::ownership::controller_reference;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration};

use crate::pods;
use crate::revisions::REVISION_LABEL;
use crate::taints::{NO_EXECUTE, NO_SCHEDULE, NOT_READY, UNREACHABLE, UNSCHEDULABLE};

const NODE_NAME_FIELD: &str = "metadata.name";
pub(super) const GENERATION_LABEL: &str = "pod-template-generation";
pub(super) const GENERATION_ANNOTATION: &str = "deprecated.daemonset.template.generation";

/// The template's tolerations with those that every daemon has: it runs on nodes in trouble, too.
/// Source: Kubernetes 1.36, `AddOrUpdateDaemonPodTolerations`.
pub(super) fn tolerations(template: &PodSpec) -> Vec<Toleration> {
    let mut all = template.tolerations.clone().unwrap_or_default();
    let mut everywhere = vec![
        (NOT_READY, NO_EXECUTE),
        (UNREACHABLE, NO_EXECUTE),
        ("node.kubernetes.io/disk-pressure", NO_SCHEDULE),
        ("node.kubernetes.io/memory-pressure", NO_SCHEDULE),
        ("node.kubernetes.io/pid-pressure", NO_SCHEDULE),
        (UNSCHEDULABLE, NO_SCHEDULE),
    ];
    if template.host_network == Some(true) {
        everywhere.push(("node.kubernetes.io/network-unavailable", NO_SCHEDULE));
    }
    for (key, effect) in everywhere {
        let toleration = Toleration { key: Some(key.to_owned()), operator: Some("Exists".to_owned()), effect: Some(effect.to_owned()), ..Toleration::default() };
        all.retain(|other| !(other.key == toleration.key && other.effect == toleration.effect && other.operator == toleration.operator));
        all.push(toleration);
    }
    all
}

/// The pod for a node.
pub(super) fn pod(set: &DaemonSet, node: &str, hash: &str) -> Pod {
    let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let mut pod = pods::from_template(&template, name, set.metadata.namespace.as_deref().unwrap_or_default(), controller_reference(set));
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(REVISION_LABEL.to_owned(), hash.to_owned());
    if let Some(generation) = set.metadata.annotations.as_ref().and_then(|annotations| annotations.get(GENERATION_ANNOTATION)) {
        labels.insert(GENERATION_LABEL.to_owned(), generation.clone());
    }
    let spec = pod.spec.get_or_insert_default();
    spec.tolerations = Some(tolerations(spec));
    // The only node it can go to. Terms that the template has were considered when the node was chosen.
    let requirement = NodeSelectorRequirement { key: NODE_NAME_FIELD.to_owned(), operator: "In".to_owned(), values: Some(vec![node.to_owned()]) };
    let terms = vec![NodeSelectorTerm { match_expressions: None, match_fields: Some(vec![requirement]) }];
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector { node_selector_terms: terms });
    pod
}

/// The node a daemon's pod is on or meant for.
pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(node) = spec.node_name.as_deref().filter(|node| !node.is_empty()) {
        return Some(node);
    }
    let required = spec.affinity.as_ref()?.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let names = fields.filter(|field| field.key == NODE_NAME_FIELD && field.operator == "In").filter_map(|field| field.values.as_ref()?.first());
    names.map(String::as_str).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_tied_to_its_node() {
        let mut set = DaemonSet::default();
        set.metadata.name = Some("agent".to_owned());
        let made = pod(&set, "a", "xyz");
        assert_eq!(node_of(&made), Some("a"));
        assert_eq!(made.metadata.labels.unwrap()[REVISION_LABEL], "xyz");
        assert_eq!(made.spec.unwrap().tolerations.unwrap().len(), 6);
    }
}
