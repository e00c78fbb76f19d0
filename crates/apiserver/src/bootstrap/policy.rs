//! Default roles and bindings, read from `policy.txt`.

use std::sync::Arc;

use api::rbac::v1::PolicyRule;
use meta::{ApiError, Object};
use serde_json::{Map, Value, json};

use crate::{admission::rbac_escalation::covered, core::Core};

/// Annotation of roles and bindings that are completed at every start, unless it says `false`.
const AUTOMATIC: &str = "rbac.authorization.kubernetes.io/autoupdate";
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
    objects_in(TEXT)
}

/// What a text in the grammar of `policy.txt` says.
fn objects_in(text: &str) -> Vec<Value> {
    let mut objects: Vec<Value> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
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

/// Adds the entries of a map that an object lacks; whether there were any. Others are kept, also with other values.
fn complete_map(present: &mut Value, wanted: &Value) -> bool {
    let Some(wanted) = wanted.as_object() else { return false };
    if !present.is_object() {
        *present = json!({});
    }
    let Some(present) = present.as_object_mut() else { return false };
    let before = present.len();
    for (name, value) in wanted {
        present.entry(name.as_str()).or_insert_with(|| value.clone());
    }
    present.len() > before
}

/// Adds the rules that nothing in a role covers yet; whether there were any.
fn complete_rules(present: &mut Value, wanted: &Value) -> bool {
    let rules = |value: &Value| serde_json::from_value::<Option<Vec<PolicyRule>>>(value.clone()).ok().flatten().unwrap_or_default();
    let held = rules(present);
    let missing: Vec<Value> = wanted.as_array().into_iter().flatten().filter(|rule| !rules(&json!([rule])).iter().all(|rule| covered(&held, rule))).cloned().collect();
    complete(present, &Value::Array(missing))
}

/// A stored role or binding with everything that it lacks of the default; `None` where it lacks nothing or is not ours to change.
fn completed(stored: &Object, wanted: &Value) -> Option<Object> {
    if stored.text(&["metadata", "annotations", AUTOMATIC]) == Some("false") {
        return None;
    }
    let mut whole = Value::Object(stored.0.clone());
    let mut changed = false;
    for field in ["labels", "annotations"] {
        changed |= complete_map(&mut whole["metadata"][field], &wanted["metadata"][field]);
    }
    if wanted["roleRef"].is_object() {
        changed |= complete(&mut whole["subjects"], &wanted["subjects"]);
    } else if let Some(selectors) = wanted.pointer("/aggregationRule/clusterRoleSelectors") {
        // Its rules are the business of the controller that sums them up.
        changed |= complete(&mut whole["aggregationRule"]["clusterRoleSelectors"], selectors);
    } else {
        changed |= complete_rules(&mut whole["rules"], &wanted["rules"]);
    }
    changed.then(|| Object::from_value(whole).ok()).flatten()
}

/// Makes and completes default roles and bindings. What is more than the default is kept, and objects whose annotation
/// `rbac.authorization.kubernetes.io/autoupdate` is `false` are left alone. A binding to another role is made anew, since
/// that cannot be changed. Source: Kubernetes `pkg/registry/rbac/reconciliation`.
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
    let Some(stored) = core.stored(&kind, namespace, name) else { return Ok(()) };
    let object = core.served_object(&kind, &stored)?;
    let protected = object.text(&["metadata", "annotations", AUTOMATIC]) == Some("false");
    if !protected && wanted["roleRef"].is_object() && object.get(&["roleRef"]) != Some(&wanted["roleRef"]) {
        super::remove(core, &kind, namespace, name).await?;
        return super::ensure(core, wanted).await.map(|_| ());
    }
    if completed(&object, &wanted).is_none() {
        return Ok(());
    }
    super::change(core, &kind, namespace, name, |object| {
        if let Some(new) = completed(object, &wanted) {
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
    use std::collections::BTreeSet;

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

    /// What a text gives away, rule by rule: the role (with its namespace) and one verb on one resource, path or label.
    fn grants(text: &str) -> BTreeSet<String> {
        let words = |value: &Value| -> Vec<String> { value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect() };
        let mut grants = BTreeSet::new();
        for object in objects_in(text) {
            let (namespace, name) = (object["metadata"]["namespace"].as_str().unwrap_or("-"), object["metadata"]["name"].as_str().unwrap());
            let kind = if object["roleRef"].is_object() { "bind" } else { "role" };
            let place = format!("{kind} {namespace} {name}");
            grants.insert(place.clone());
            for (label, value) in object["metadata"]["labels"].as_object().into_iter().flatten() {
                grants.insert(format!("{place} label {label}={value}"));
            }
            for selector in object.pointer("/aggregationRule/clusterRoleSelectors").and_then(Value::as_array).into_iter().flatten() {
                grants.insert(format!("{place} sum {selector}"));
            }
            if kind == "bind" {
                grants.insert(format!("{place} to {}", object["roleRef"]));
            }
            for subject in object["subjects"].as_array().into_iter().flatten() {
                grants.insert(format!("{place} subject {subject}"));
            }
            for rule in object["rules"].as_array().into_iter().flatten() {
                for verb in words(&rule["verbs"]) {
                    grants.extend(words(&rule["nonResourceURLs"]).into_iter().map(|path| format!("{place} rule {verb} {path}")));
                    let mut names = words(&rule["resourceNames"]);
                    if names.is_empty() {
                        names.push(String::new());
                    }
                    for (group, resource) in words(&rule["apiGroups"]).iter().flat_map(|group| words(&rule["resources"]).into_iter().map(move |resource| (group, resource))) {
                        grants.extend(names.iter().map(|name| format!("{place} rule {verb} {group:?} {resource} {name}")));
                    }
                }
            }
        }
        grants
    }

    /// The differences that are meant, from `differences.txt`: single grants, and whole roles and bindings.
    fn differences() -> (BTreeSet<String>, BTreeSet<String>) {
        let (mut single, mut whole, mut has_reason) = (BTreeSet::new(), BTreeSet::new(), false);
        for line in include_str!("differences.txt").lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            match line.split_once(' ').unwrap() {
                ("because", _) => has_reason = true,
                ("more", rest) => {
                    let (role, rule) = rest.split_once(' ').unwrap();
                    single.extend(grants(&format!("role {role}\n  {rule}\n")).into_iter().filter(|grant| grant.contains(" rule ")));
                }
                (kind @ ("role" | "bind"), name) => {
                    whole.insert(format!("{kind} - {name}"));
                }
                other => panic!("{other:?}"),
            }
            assert!(has_reason, "{line}");
        }
        (single, whole)
    }

    #[test]
    fn defaults_are_those_of_upstream_but_for_the_differences_that_are_meant() {
        let (ours, theirs) = (grants(TEXT), grants(include_str!("upstream.txt")));
        assert!(theirs.len() > 1_200, "only {} facts", theirs.len());
        let (single, whole) = differences();
        let missing: Vec<&String> = theirs.difference(&ours).collect();
        assert!(missing.is_empty(), "upstream has these, we do not: {missing:#?}");
        let more: BTreeSet<&String> = ours.difference(&theirs).collect();
        let is_of = |grant: &str, whole: &str| grant.strip_prefix(whole).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '));
        let unmeant: Vec<&&String> = more.iter().filter(|grant| !single.contains(**grant) && !whole.iter().any(|whole| is_of(grant, whole))).collect();
        assert!(unmeant.is_empty(), "we have these, upstream does not: {unmeant:#?}");
        let idle: Vec<&String> = single.iter().filter(|grant| !more.contains(grant)).chain(whole.iter().filter(|whole| !more.contains(whole))).collect();
        assert!(idle.is_empty(), "no differences any more: {idle:#?}");
    }

    fn stored(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    #[test]
    fn a_stored_role_gets_what_it_lacks_and_keeps_what_it_has_more() {
        let wanted = objects().into_iter().find(|object| object["metadata"]["name"] == "system:node-problem-detector").unwrap();
        let mut lacking = wanted.clone();
        lacking["rules"] = json!([{"verbs": ["*"], "apiGroups": [""], "resources": ["nodes"]}, {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]);
        lacking["metadata"]["labels"] = json!({"kubernetes.io/bootstrapping": "mine", "own": "label"});
        lacking["metadata"]["annotations"] = Value::Null;
        let whole = completed(&stored(lacking.clone()), &wanted).unwrap();
        assert_eq!(whole.get(&["metadata", "labels"]), Some(&json!({"kubernetes.io/bootstrapping": "mine", "own": "label"})));
        assert_eq!(whole.text(&["metadata", "annotations", AUTOMATIC]), Some("true"));
        // What `*` on nodes covers is not added: two of the rules are, beside the two that were there.
        assert_eq!(whole.get(&["rules"]).and_then(Value::as_array).map(Vec::len), Some(4));
        assert_eq!(completed(&whole, &wanted), None);
        lacking["metadata"]["annotations"] = json!({AUTOMATIC: "false"});
        assert_eq!(completed(&stored(lacking), &wanted), None);
    }

    #[test]
    fn a_stored_binding_gets_the_subjects_that_it_lacks() {
        let wanted = objects().into_iter().find(|object| object["metadata"]["name"] == "system:discovery" && object["roleRef"].is_object()).unwrap();
        let mut lacking = wanted.clone();
        lacking["subjects"] = json!([{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "eve"}]);
        let whole = completed(&stored(lacking), &wanted).unwrap();
        assert_eq!(whole.get(&["subjects"]).and_then(Value::as_array).map(Vec::len), Some(2));
        let edit = objects().into_iter().find(|object| object["metadata"]["name"] == "edit").unwrap();
        let mut other = edit.clone();
        other["aggregationRule"]["clusterRoleSelectors"] = json!([{"matchLabels": {"a": "b"}}]);
        other["rules"] = json!([]);
        let whole = completed(&stored(other), &edit).unwrap();
        assert_eq!(whole.get(&["aggregationRule", "clusterRoleSelectors"]).and_then(Value::as_array).map(Vec::len), Some(2));
        assert_eq!(whole.get(&["rules"]), Some(&json!([])));
    }
}
