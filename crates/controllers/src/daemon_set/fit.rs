//! On which nodes a DaemonSet's pods belong.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm};

use super::daemon_pod;
use crate::taints::{self, NO_EXECUTE, NO_SCHEDULE, tolerates};

/// Whether a pod should be on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fit {
    /// One should be started there.
    pub should_run: bool,
    /// One that is there may stay.
    pub may_stay: bool,
}

const NOWHERE: Fit = Fit { should_run: false, may_stay: false };

/// Source: Kubernetes 1.36, `NodeShouldRunDaemonPod`.
pub(super) fn fit(set: &DaemonSet, node: &Node) -> Fit {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let template = set.spec.as_ref().and_then(|spec| spec.template.spec.clone()).unwrap_or_default();
    if template.node_name.as_ref().is_some_and(|wanted| !wanted.is_empty() && wanted != name) {
        return NOWHERE;
    }
    let labels = node.metadata.labels.clone().unwrap_or_default();
    if template.node_selector.iter().flatten().any(|(label, value)| labels.get(label) != Some(value)) {
        return NOWHERE;
    }
    let affinity = template.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref());
    if affinity.is_some_and(|required| !required.node_selector_terms.iter().any(|term| matches_term(term, node))) {
        return NOWHERE;
    }
    let tolerations = daemon_pod::tolerations(&template);
    let untolerated = |effects: &[&str]| {
        let mut taints = taints::of(node).iter().filter(|taint| effects.contains(&taint.effect.as_str()));
        taints.any(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
    };
    if untolerated(&[NO_SCHEDULE, NO_EXECUTE]) {
        return Fit { should_run: false, may_stay: !untolerated(&[NO_EXECUTE]) };
    }
    Fit { should_run: true, may_stay: true }
}

/// A term matches when all its requirements do; one without any matches nothing.
fn matches_term(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let by_label = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
    let by_field = |key: &str| if key == "metadata.name" { node.metadata.name.as_deref() } else { None };
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|requirement| matches(requirement, by_label(&requirement.key)))
        && fields.iter().all(|requirement| matches(requirement, by_field(&requirement.key)))
}

fn matches(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|other| other == value));
    let numbers = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(value, bound)| value > bound),
        "Lt" => numbers().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Affinity, NodeAffinity, NodeSelector, NodeSpec, Taint, Toleration};

    fn node(labels: &[(&str, &str)], taints: &[(&str, &str)]) -> Node {
        let mut node = Node::default();
        node.metadata.name = Some("a".to_owned());
        node.metadata.labels = Some(labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect());
        let taint = |(key, effect): &(&str, &str)| Taint { key: (*key).to_owned(), effect: (*effect).to_owned(), ..Taint::default() };
        node.spec = Some(NodeSpec { taints: Some(taints.iter().map(taint).collect()), ..NodeSpec::default() });
        node
    }

    fn set() -> DaemonSet {
        let mut set = DaemonSet::default();
        set.spec.get_or_insert_default().template.spec.get_or_insert_default();
        set
    }

    fn template(set: &mut DaemonSet) -> &mut k8s_openapi::api::core::v1::PodSpec {
        set.spec.get_or_insert_default().template.spec.get_or_insert_default()
    }

    #[test]
    fn taints_keep_pods_away_unless_tolerated() {
        let runs = Fit { should_run: true, may_stay: true };
        assert_eq!(fit(&set(), &node(&[], &[])), runs);
        assert_eq!(fit(&set(), &node(&[], &[(taints::UNSCHEDULABLE, NO_SCHEDULE), (taints::NOT_READY, NO_EXECUTE)])), runs, "these every daemon tolerates");
        assert_eq!(fit(&set(), &node(&[], &[("mine", NO_SCHEDULE)])), Fit { should_run: false, may_stay: true });
        assert_eq!(fit(&set(), &node(&[], &[("mine", NO_EXECUTE)])), NOWHERE);
        let mut tolerant = set();
        template(&mut tolerant).tolerations = Some(vec![Toleration { operator: Some("Exists".to_owned()), ..Toleration::default() }]);
        assert_eq!(fit(&tolerant, &node(&[], &[("mine", NO_EXECUTE)])), runs);
    }

    #[test]
    fn selector_and_affinity_choose_nodes() {
        let mut selecting = set();
        template(&mut selecting).node_selector = Some([("disk".to_owned(), "fast".to_owned())].into());
        assert!(fit(&selecting, &node(&[("disk", "fast")], &[])).should_run);
        assert_eq!(fit(&selecting, &node(&[], &[])), NOWHERE);
        let mut affine = set();
        let requirement = NodeSelectorRequirement { key: "size".to_owned(), operator: "Gt".to_owned(), values: Some(vec!["3".to_owned()]) };
        let terms = vec![NodeSelectorTerm { match_expressions: Some(vec![requirement]), match_fields: None }];
        let required = Some(NodeSelector { node_selector_terms: terms });
        let node_affinity = Some(NodeAffinity { required_during_scheduling_ignored_during_execution: required, ..NodeAffinity::default() });
        template(&mut affine).affinity = Some(Affinity { node_affinity, ..Affinity::default() });
        assert!(fit(&affine, &node(&[("size", "4")], &[])).should_run);
        assert!(!fit(&affine, &node(&[("size", "3")], &[])).should_run);
    }
}
