//! Default roles and bindings, read from `policy.txt`.

use std::sync::Arc;

use meta::{ApiError, Object};
use serde_json::{Map, Value, json};

use crate::core::Core;

const TEXT: &str = include_str!("policy.txt");

fn list(text: &str) -> Value {
    Value::Array(text.split(',').map(|word| json!(if word == "core" { "" } else { word })).collect())
}

fn rule(line: &str) -> Option<Value> {
    let mut words = line.split_whitespace();
    let verbs = words.next()?;
    let second = words.next()?;
    let Some(third) = words.next() else { return Some(json!({"verbs": list(verbs), "nonResourceURLs": list(second)})) };
    let mut rule = json!({"verbs": list(verbs), "apiGroups": list(second), "resources": list(third)});
    if let Some(names) = words.next() {
        rule["resourceNames"] = list(names);
    }
    Some(rule)
}

fn subject(word: &str) -> Option<Value> {
    let (kind, name) = word.split_once(':')?;
    const GROUP: &str = "rbac.authorization.k8s.io";
    Some(match kind {
        "user" => json!({"kind": "User", "apiGroup": GROUP, "name": name}),
        "group" => json!({"kind": "Group", "apiGroup": GROUP, "name": name}),
        "account" => {
            let (namespace, name) = name.split_once(':')?;
            json!({"kind": "ServiceAccount", "namespace": namespace, "name": name})
        }
        _ => return None,
    })
}

fn metadata(name: &str, labels: &[&str]) -> Value {
    let mut all = Map::new();
    all.insert("kubernetes.io/bootstrapping".to_owned(), json!("rbac-defaults"));
    for (name, value) in labels.iter().filter_map(|label| label.split_once('=')) {
        all.insert(name.to_owned(), json!(value));
    }
    json!({"name": name, "labels": all, "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"}})
}

fn binding(name: &str, role: &str, subjects: Vec<Value>) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": metadata(name, &[]),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}, "subjects": subjects,
    })
}

/// Every default role and binding.
pub fn objects() -> Vec<Value> {
    let mut objects: Vec<Value> = Vec::new();
    for line in TEXT.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        if let Some(line) = line.strip_prefix("  ") {
            let Some(role) = objects.iter_mut().rev().find(|object| object["kind"] == "ClusterRole" || object["kind"] == "Role") else { continue };
            if let Some(label) = line.strip_prefix("aggregate ").and_then(|label| label.split_once('=')) {
                let mut labels = Map::new();
                labels.insert(label.0.to_owned(), json!(label.1));
                role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": labels}]});
            } else if let (Some(rule), Some(rules)) = (rule(line), role["rules"].as_array_mut()) {
                rules.push(rule);
            }
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["role", name, labels @ ..] => {
                objects.push(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": metadata(name, labels), "rules": []}));
                if let Some(controller) = name.strip_prefix("system:controller:") {
                    let account = json!({"kind": "ServiceAccount", "namespace": "kube-system", "name": controller});
                    objects.push(binding(name, name, vec![account]));
                    // The role's rules follow, so it has to be the last role again.
                    let last = objects.len() - 1;
                    objects.swap(last - 1, last);
                }
            }
            ["role-in", namespace, name, labels @ ..] => {
                let mut metadata = metadata(name, labels);
                metadata["namespace"] = json!(namespace);
                objects.push(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata, "rules": []}));
            }
            ["bind-in", namespace, name, role, subjects @ ..] => {
                let mut binding = binding(name, role, subjects.iter().filter_map(|word| subject(word)).collect());
                binding["kind"] = json!("RoleBinding");
                binding["metadata"]["namespace"] = json!(namespace);
                binding["roleRef"]["kind"] = json!("Role");
                objects.push(binding);
            }
            ["bind", name, role, subjects @ ..] => {
                objects.push(binding(name, role, subjects.iter().filter_map(|word| subject(word)).collect()));
            }
            _ => {}
        }
    }
    objects
}

/// Adds what is missing of `wanted` to `present`; whether anything was.
fn complete(present: &mut Value, wanted: &Value) -> bool {
    let Some(wanted) = wanted.as_array() else { return false };
    if !present.is_array() {
        *present = json!([]);
    }
    let Some(present) = present.as_array_mut() else { return false };
    let missing: Vec<Value> = wanted.iter().filter(|item| !present.contains(item)).cloned().collect();
    let changed = !missing.is_empty();
    present.extend(missing);
    changed
}

/// Makes and completes default roles and bindings. Objects whose annotation
/// `rbac.authorization.kubernetes.io/autoupdate` is not `true` are left alone.
///
/// # Errors
/// The first write that fails.
pub async fn reconcile(core: &Arc<Core>) -> Result<(), ApiError> {
    let aggregated = aggregate(objects());
    let results = futures::future::join_all(aggregated.into_iter().map(|wanted| reconcile_one(core, wanted))).await;
    results.into_iter().collect()
}

async fn reconcile_one(core: &Arc<Core>, wanted: Value) -> Result<(), ApiError> {
    if super::ensure(core, wanted.clone()).await? {
        return Ok(());
    }
    let kind = core.kind_named("rbac.authorization.k8s.io", "v1", wanted["kind"].as_str().unwrap_or_default())?;
    let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
    let namespace = wanted["metadata"]["namespace"].as_str().unwrap_or_default();
    let field = if matches!(wanted["kind"].as_str(), Some("ClusterRole" | "Role")) { "rules" } else { "subjects" };
    let edited = |object: &Object| {
        let mut edited = object.clone();
        let automatic = object.text(&["metadata", "annotations", "rbac.authorization.kubernetes.io/autoupdate"]) == Some("true");
        let changed = automatic && complete(edited.0.entry(field).or_insert(Value::Null), &wanted[field]);
        changed.then_some(edited)
    };
    let Some(stored) = core.stored(&kind, namespace, name) else { return Ok(()) };
    if edited(&core.served_object(&kind, &stored)?).is_none() {
        return Ok(());
    }
    super::change(core, &kind, namespace, name, |object| {
        if let Some(new) = edited(object) {
            *object = new;
        }
    })
    .await
}

/// Fills aggregated roles at once, so that they work before the controller that keeps them so has run.
fn aggregate(mut objects: Vec<Value>) -> Vec<Value> {
    // Three times, since `admin` takes `edit`, which takes `view`, which takes its parts.
    for _ in 0..3 {
        let roles = objects.clone();
        for object in &mut objects {
            let Some(labels) = object.pointer("/aggregationRule/clusterRoleSelectors/0/matchLabels").and_then(Value::as_object).cloned() else { continue };
            for role in &roles {
                let has = |(name, value): (&String, &Value)| role.pointer("/metadata/labels").and_then(|all| all.get(name)) == Some(value);
                if role["kind"] == "ClusterRole" && labels.iter().all(has) {
                    let rules = role["rules"].clone();
                    complete(&mut object["rules"], &rules);
                }
            }
        }
    }
    objects
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_policy_is_understood() {
        for line in TEXT.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            let understood = match line.strip_prefix("  ") {
                Some(line) => line.starts_with("aggregate ") || rule(line).is_some(),
                None => match line.split_whitespace().collect::<Vec<_>>().as_slice() {
                    ["role", _, ..] | ["role-in", _, _, ..] => true,
                    ["bind", _, _, subjects @ ..] | ["bind-in", _, _, _, subjects @ ..] => subjects.iter().all(|word| subject(word).is_some()),
                    _ => false,
                },
            };
            assert!(understood, "{line}");
        }
    }

    #[test]
    fn rules_end_up_in_their_role_and_admin_can_read_pods() {
        let objects = aggregate(objects());
        let rules = |name: &str| objects.iter().find(|object| object["metadata"]["name"] == name && object["kind"] == "ClusterRole").unwrap()["rules"].clone();
        assert_eq!(rules("cluster-admin").as_array().unwrap().len(), 2);
        assert!(rules("system:controller:job-controller").to_string().contains("jobs/status"));
        assert!(rules("admin").to_string().contains("pods/log"));
        assert!(!rules("view").to_string().contains("secrets"));
    }
}
