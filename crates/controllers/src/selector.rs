//! Label selectors of workloads.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
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

#[cfg(test)]
mod tests {
    use super::*;

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
