//! What pods say about other pods and about nodes, read once: terms of affinity, node selectors, tolerations.

use std::{collections::BTreeMap, collections::HashMap, fmt::Write, sync::Arc};

use api::{
    apimachinery::pkg::apis::meta::v1 as api_meta,
    core::v1::{NodeSelector, NodeSelectorTerm, PodAffinityTerm, Taint, Toleration},
};
use meta::selector::{LabelSelector, Operator, Requirement};

use crate::{node_info::NodeInfo, pod_info::PodInfo};

/// Labels of every namespace.
pub type Namespaces = HashMap<String, BTreeMap<String, String>>;

/// A term of pod affinity with its selectors read once.
#[derive(Debug, Clone)]
pub struct AffinityTerm {
    /// Says the same for terms that mean the same: what counts are kept under.
    pub id: Arc<str>,
    /// Which pods.
    pub selector: LabelSelector,
    /// In which namespaces, by name.
    pub namespaces: Vec<String>,
    /// In which namespaces, by label.
    pub namespace_selector: LabelSelector,
    /// The node label that says what "together" means.
    pub topology_key: String,
}

impl AffinityTerm {
    /// A term of a pod with these labels in this namespace.
    pub fn of(term: &PodAffinityTerm, own_namespace: &str, own_labels: &BTreeMap<String, String>) -> Self {
        let own = |keys: Option<&Vec<String>>, operator| requirements_of_own_labels(keys, own_labels, operator);
        let mut extra = own(term.match_label_keys.as_ref(), Operator::In);
        extra.extend(own(term.mismatch_label_keys.as_ref(), Operator::NotIn));
        let selector = with(selector_of(term.label_selector.as_ref()), extra);
        let namespace_selector = term.namespace_selector.as_ref().map_or_else(LabelSelector::nothing, |selector| selector_of(Some(selector)));
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        // Who names no namespaces means its own.
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(own_namespace.to_owned());
        }
        Self::new(selector, namespaces, namespace_selector, term.topology_key.clone())
    }
    /// From its parts.
    pub fn new(selector: LabelSelector, namespaces: Vec<String>, namespace_selector: LabelSelector, topology_key: String) -> Self {
        let mut id = String::with_capacity(128);
        write_selector(&mut id, &selector);
        let _ = write!(id, "|{}|", namespaces.join(","));
        write_selector(&mut id, &namespace_selector);
        let _ = write!(id, "|{topology_key}");
        Self { id: id.into(), selector, namespaces, namespace_selector, topology_key }
    }
    /// Whether a pod is meant.
    pub fn matches(&self, pod: &PodInfo, namespaces: &Namespaces) -> bool {
        let in_namespace = || {
            self.namespaces.contains(&pod.namespace)
                || self.namespace_selector.is_everything()
                || !self.namespace_selector.is_nothing()
                    && namespaces.get(&pod.namespace).is_some_and(|labels| self.namespace_selector.matches_map(labels))
        };
        self.selector.matches_map(&pod.labels) && in_namespace()
    }
}

/// The same text for the same selector. Writing into a `String` cannot fail.
fn write_selector(text: &mut String, selector: &LabelSelector) {
    if selector.is_nothing() {
        text.push('!');
    }
    for requirement in selector.requirements() {
        let _ = write!(text, "{} {:?} {};", requirement.key, requirement.operator, requirement.values.join(","));
    }
}

/// `matchLabelKeys`: what a pod's own labels add to its selector. Labels that the pod has not say nothing.
pub fn requirements_of_own_labels(keys: Option<&Vec<String>>, labels: &BTreeMap<String, String>, operator: Operator) -> Vec<Requirement> {
    let found = keys.into_iter().flatten().filter_map(|key| Some((key, labels.get(key)?)));
    found.map(|(key, value)| Requirement { key: key.clone(), operator, values: vec![value.clone()] }).collect()
}

/// A selector that asks for more.
pub fn with(selector: LabelSelector, extra: Vec<Requirement>) -> LabelSelector {
    if extra.is_empty() || selector.is_nothing() {
        return selector;
    }
    LabelSelector::of(selector.requirements().iter().cloned().chain(extra).collect())
}

/// A selector of the API, read; one that is absent selects nothing, one that cannot be read neither.
pub fn selector_of(selector: Option<&api_meta::LabelSelector>) -> LabelSelector {
    let Some(selector) = selector else { return LabelSelector::nothing() };
    let labels = selector.match_labels.iter().flatten();
    let mut requirements: Vec<Requirement> =
        labels.map(|(key, value)| Requirement { key: key.clone(), operator: Operator::Equals, values: vec![value.clone()] }).collect();
    for expression in selector.match_expressions.iter().flatten() {
        let operator = match expression.operator.as_str() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            _ => return LabelSelector::nothing(),
        };
        requirements.push(Requirement { key: expression.key.clone(), operator, values: expression.values.clone().unwrap_or_default() });
    }
    LabelSelector::of(requirements)
}

/// What a pod requires of its node by labels: node selector and required node affinity.
#[derive(Debug, Clone, Default)]
pub struct NodeRequirement {
    /// `spec.nodeSelector`
    pub labels: BTreeMap<String, String>,
    /// Required node affinity.
    pub selector: Option<NodeSelector>,
}

impl NodeRequirement {
    /// Whether it asks for nothing.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.selector.is_none()
    }
    /// Whether it holds for a node.
    pub fn holds(&self, node: &NodeInfo) -> bool {
        self.labels.iter().all(|(name, value)| node.labels.get(name) == Some(value))
            && self.selector.as_ref().is_none_or(|selector| matches_selector(selector, node))
    }
}

/// Whether one of the terms of a node selector holds for a node.
pub fn matches_selector(selector: &NodeSelector, node: &NodeInfo) -> bool {
    selector.node_selector_terms.iter().any(|term| matches_term(term, node))
}

/// Whether a node selector term holds for a node. Source: Kubernetes `component-helpers/scheduling/corev1/nodeaffinity`.
pub fn matches_term(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let holds = |operator: &str, values: &[String], value: Option<&str>| match operator {
        "In" => value.is_some_and(|value| values.iter().any(|known| known == value)),
        "NotIn" => value.is_none_or(|value| values.iter().all(|known| known != value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" | "Lt" => {
            let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
            match (number(value), number(values.first().map(String::as_str))) {
                (Some(value), Some(bound)) => (operator == "Gt" && value > bound) || (operator == "Lt" && value < bound),
                _ => false,
            }
        }
        _ => false,
    };
    expressions.iter().all(|expression| {
        let value = node.labels.get(&expression.key).map(String::as_str);
        holds(&expression.operator, expression.values.as_deref().unwrap_or_default(), value)
    }) && fields.iter().all(|field| {
        let value = (field.key == "metadata.name").then_some(node.name.as_str());
        holds(&field.operator, field.values.as_deref().unwrap_or_default(), value)
    })
}

/// Whether a toleration takes a taint. Source: Kubernetes `api/core/v1/toleration.go`.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if given(&toleration.effect).is_some_and(|effect| effect != taint.effect) || given(&toleration.key).is_some_and(|key| key != taint.key) {
        return false;
    }
    let (wanted, value) = (toleration.value.as_deref().unwrap_or_default(), taint.value.as_deref().unwrap_or_default());
    let number = |text: &str| text.parse::<i64>().ok();
    match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => true,
        "" | "Equal" => given(&toleration.key).is_some() && wanted == value,
        "Lt" => number(wanted).zip(number(value)).is_some_and(|(bound, value)| value < bound),
        "Gt" => number(wanted).zip(number(value)).is_some_and(|(bound, value)| value > bound),
        _ => false,
    }
}

/// The first taint that keeps pods away and that none of the tolerations takes.
pub fn untolerated<'a>(taints: &'a [Taint], tolerations: &[Toleration]) -> Option<&'a Taint> {
    let hard = taints.iter().filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"));
    hard.into_iter().find(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}
