//! A ClusterRole may be the sum of others, chosen by label: `admin`, `edit` and `view` grow by the roles that come with custom resources.

use async_trait::async_trait;
use client::{Api, Informer, ObjectKey, PostParams};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Runner, Trigger};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use std::sync::Arc;

use crate::ControllerContext;
use crate::selector::Selector;

const CONTROLLER: &str = "clusterrole-aggregation-controller";

/// Starts the controller.
pub fn start(context: &ControllerContext, runner: &Runner) {
    runner.start(Aggregation { client: context.client(CONTROLLER), roles: context.informers.of() }, 2);
}

struct Aggregation {
    client: client::Client,
    roles: Informer<ClusterRole>,
}

/// The rules of all roles that `role` sums up, each once, in the order of its selectors, and of the roles' names for each. `None` when it
/// sums up nothing.
/// Source: Kubernetes 1.36, `syncClusterRole`.
fn sum(role: &ClusterRole, roles: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let rule = role.aggregation_rule.as_ref()?;
    let mut others: Vec<&ClusterRole> = roles.iter().map(|other| &**other).filter(|other| other.metadata.name != role.metadata.name).collect();
    others.sort_by(|one, other| one.metadata.name.cmp(&other.metadata.name));
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in rule.cluster_role_selectors.iter().flatten().map(Selector::or_everything) {
        let chosen = others.iter().filter(|other| selector.selects_object(&other.metadata));
        for rule in chosen.flat_map(|other| other.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    Some(rules)
}

#[async_trait]
impl Reconciler for Aggregation {
    fn name(&self) -> &'static str {
        "clusterrole-aggregation"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let roles = self.roles.clone();
        vec![Trigger::on(&self.roles, move |_| {
            roles.list().iter().filter(|role| role.aggregation_rule.is_some()).map(|role| client::key_of(&**role)).collect()
        })]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(role) = self.roles.get(key) else { return Ok(Outcome::Settled) };
        let Some(rules) = sum(&role, &self.roles.list()) else { return Ok(Outcome::Settled) };
        if role.rules.as_deref().unwrap_or_default() == rules {
            return Ok(Outcome::Settled);
        }
        let changed = ClusterRole { rules: Some(rules), ..(*role).clone() };
        match Api::<ClusterRole>::all(self.client.clone()).replace(&key.name, &PostParams::default(), &changed).await {
            Err(error) if client::is_not_found(&error) => Ok(Outcome::Settled),
            other => other.map(|_| Outcome::Settled).doing(|| format!("sum up cluster role {key}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_role_is_the_sum_of_those_it_selects() {
        let role = |name: &str, labels: serde_json::Value, verbs: &[&str]| -> Arc<ClusterRole> {
            serde_json::from_value(json!({ "metadata": { "name": name, "labels": labels }, "rules": [{ "verbs": verbs }] })).map(Arc::new).unwrap()
        };
        let sums_up: ClusterRole = serde_json::from_value(json!({
            "metadata": { "name": "sum", "labels": { "to": "sum" } },
            "aggregationRule": { "clusterRoleSelectors": [{ "matchLabels": { "to": "sum" } }] },
        }))
        .unwrap();
        let roles = [role("a", json!({ "to": "sum" }), &["get"]), role("b", json!({ "to": "sum" }), &["get"]), role("c", json!({}), &["list"]), Arc::new(sums_up.clone())];
        assert_eq!(sum(&sums_up, &roles).unwrap().len(), 1);
        assert_eq!(sum(&roles[0], &roles), None);
        let in_order: ClusterRole = serde_json::from_value(json!({
            "metadata": { "name": "in-order" },
            "aggregationRule": { "clusterRoleSelectors": [{ "matchLabels": { "to": "last" } }, { "matchLabels": { "to": "sum" } }] },
        }))
        .unwrap();
        let roles = [role("z", json!({ "to": "sum" }), &["z"]), role("a", json!({ "to": "sum" }), &["a"]), role("b", json!({ "to": "last" }), &["b"])];
        let verbs: Vec<_> = sum(&in_order, &roles).unwrap().into_iter().flat_map(|rule| rule.verbs).collect();
        assert_eq!(verbs, ["b", "a", "z"]);
    }
}
