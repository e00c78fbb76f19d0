//! Label selectors of workloads.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta};
use client::{Expressions, SelectorExt};

/// Which objects a workload selects. An empty selector selects nothing, as for all workloads.
#[derive(Debug, Clone)]
pub struct Selector {
    expressions: Option<Expressions>,
}

impl Selector {
    /// Reads a workload's selector; a malformed one, which the API does not let through, selects nothing.
    pub fn new(selector: &LabelSelector) -> Self {
        let expressions = Expressions::try_from(selector.clone()).ok().filter(|expressions| !expressions.selects_all());
        Self { expressions }
    }

    /// Reads a selector as a disruption budget's: there, an empty one selects everything.
    pub fn or_everything(selector: &LabelSelector) -> Self {
        Self { expressions: Expressions::try_from(selector.clone()).ok() }
    }

    /// Reads a selector of the old form: labels that must all be there.
    pub fn from_labels(labels: Option<&BTreeMap<String, String>>) -> Self {
        Self::new(&LabelSelector { match_labels: labels.cloned(), match_expressions: None })
    }

    /// Whether it selects an object with these labels.
    pub fn selects(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        let empty = BTreeMap::new();
        self.expressions.as_ref().is_some_and(|expressions| expressions.matches(labels.unwrap_or(&empty)))
    }

    /// Whether it selects an object.
    pub fn selects_object(&self, metadata: &ObjectMeta) -> bool {
        self.selects(metadata.labels.as_ref())
    }
}

/// A selector as programs in Go print it, since upstream puts it so into events.
pub fn in_go(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return "nil".to_owned() };
    let labels: String = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}: {value},")).collect();
    let expression = |expression: &LabelSelectorRequirement| {
        let values = expression.values.as_deref().unwrap_or_default().join(" ");
        format!("LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},", expression.key, expression.operator)
    };
    let expressions: String = selector.match_expressions.iter().flatten().map(expression).collect();
    format!("&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_is_told_as_in_go() {
        assert_eq!(in_go(None), "nil");
        let selector = serde_json::from_value(serde_json::json!({
            "matchLabels": { "b": "2", "a": "1" }, "matchExpressions": [{ "key": "c", "operator": "In", "values": ["x", "y"] }],
        }));
        assert_eq!(
            in_go(Some(&selector.unwrap())),
            "&LabelSelector{MatchLabels:map[string]string{a: 1,b: 2,},MatchExpressions:[]LabelSelectorRequirement{LabelSelectorRequirement{Key:c,Operator:In,Values:[x y],},},}"
        );
    }

    #[test]
    fn an_empty_selector_selects_nothing_for_workloads_and_everything_for_budgets() {
        let empty = LabelSelector::default();
        assert!(!Selector::new(&empty).selects(None));
        assert!(Selector::or_everything(&empty).selects(None));
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        assert!(Selector::from_labels(Some(&labels)).selects(Some(&labels)));
        assert!(!Selector::from_labels(Some(&labels)).selects(None));
    }
}
