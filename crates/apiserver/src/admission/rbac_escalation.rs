//! Nobody gives away more than he has: whoever writes a role must hold its rules (or may `escalate` it), and whoever binds
//! one must hold them too (or may `bind` it).
//!
//! Whoever changes a role must hold all of what is then in it, be it new or not; so a role that allows too much can be cut down to what
//! its editor holds, and not to something in between.
//!
//! Source: Kubernetes `pkg/registry/rbac/escalation_check.go`, `pkg/registry/rbac/*/policybased`, `pkg/registry/rbac/validation`, and
//! `component-helpers/auth/rbac/validation/policy_comparator.go`.

use std::collections::BTreeSet;

use api::rbac::v1::{ClusterRole, PolicyRule, Role};
use async_trait::async_trait;
use meta::{ApiError, GroupResource, Object};
use serde_json::Value;

use crate::{
    admission::{AdmissionPlugin, Attributes, Operation, Step},
    authorization::{self, Authorizer, Decision},
    core::Core,
    user::MASTERS,
};

/// The plug-in.
pub struct RbacEscalation;

const GROUP: &str = "rbac.authorization.k8s.io";

fn has_all(held: &[String], wanted: &[String]) -> bool {
    held.iter().any(|known| known == "*") || wanted.iter().all(|name| held.contains(name))
}

fn has_resource(held: &[String], wanted: &str) -> bool {
    held.iter().any(|known| {
        known == "*" || known == wanted || known.strip_prefix("*/").is_some_and(|part| wanted.split_once('/').is_some_and(|(_, subresource)| subresource == part))
    })
}

fn has_path(held: &[String], wanted: &str) -> bool {
    held.iter().any(|known| known == wanted || known.strip_suffix('*').is_some_and(|prefix| wanted.starts_with(prefix)))
}

fn list(names: Option<&Vec<String>>) -> &[String] {
    names.map(Vec::as_slice).unwrap_or_default()
}

/// The parts of a rule that are held or not by themselves: one verb on one resource (by one name), or on one path.
fn parts(rule: &PolicyRule) -> Vec<PolicyRule> {
    let one = |name: &String| Some(vec![name.clone()]);
    let mut parts = Vec::new();
    for group in list(rule.api_groups.as_ref()) {
        for resource in list(rule.resources.as_ref()) {
            for verb in &rule.verbs {
                let part = PolicyRule { api_groups: one(group), resources: one(resource), verbs: vec![verb.clone()], ..PolicyRule::default() };
                match list(rule.resource_names.as_ref()) {
                    [] => parts.push(part),
                    names => parts.extend(names.iter().map(|name| PolicyRule { resource_names: one(name), ..part.clone() })),
                }
            }
        }
    }
    for path in list(rule.non_resource_urls.as_ref()) {
        parts.extend(rule.verbs.iter().map(|verb| PolicyRule { non_resource_urls: one(path), verbs: vec![verb.clone()], ..PolicyRule::default() }));
    }
    parts
}

/// Whether a rule that is held covers a part of another.
fn covers(held: &PolicyRule, part: &PolicyRule) -> bool {
    let names = list(held.resource_names.as_ref());
    has_all(&held.verbs, &part.verbs)
        && has_all(list(held.api_groups.as_ref()), list(part.api_groups.as_ref()))
        && list(part.resources.as_ref()).iter().all(|resource| has_resource(list(held.resources.as_ref()), resource))
        && list(part.non_resource_urls.as_ref()).iter().all(|path| has_path(list(held.non_resource_urls.as_ref()), path))
        && (names.is_empty() || match list(part.resource_names.as_ref()) {
            [] => false,
            wanted => wanted.iter().all(|name| names.contains(name)),
        })
}

/// The parts of rules that are not held.
fn missing(held: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    wanted.iter().flat_map(parts).filter(|part| !held.iter().any(|rule| covers(rule, part))).collect()
}

/// Whether everything a rule allows is held already.
pub(crate) fn covered(held: &[PolicyRule], wanted: &PolicyRule) -> bool {
    missing(held, std::slice::from_ref(wanted)).is_empty()
}

/// Joins the verbs of rules about the same resource (by the same name). Source: Kubernetes `CompactRules`.
fn compact(rules: Vec<PolicyRule>) -> Vec<PolicyRule> {
    let mut joined: Vec<PolicyRule> = Vec::new();
    for rule in rules {
        let alike = |known: &&mut PolicyRule| {
            (&known.api_groups, &known.resources, &known.resource_names) == (&rule.api_groups, &rule.resources, &rule.resource_names)
        };
        match joined.iter_mut().filter(|known| known.non_resource_urls.is_none() && rule.non_resource_urls.is_none()).find(alike) {
            Some(known) => {
                for verb in rule.verbs {
                    if !known.verbs.contains(&verb) {
                        known.verbs.push(verb);
                    }
                }
            }
            None => joined.push(rule),
        }
    }
    joined
}

/// A list as Go's `%q` writes it: `["get" "list"]`.
fn quoted(names: &[String]) -> String {
    format!("[{}]", names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(" "))
}

/// `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`
fn described(rule: &PolicyRule) -> String {
    let fields = [
        ("APIGroups", list(rule.api_groups.as_ref())),
        ("Resources", list(rule.resources.as_ref())),
        ("NonResourceURLs", list(rule.non_resource_urls.as_ref())),
        ("ResourceNames", list(rule.resource_names.as_ref())),
        ("Verbs", &rule.verbs),
    ];
    let told = fields.iter().filter(|(_, names)| !names.is_empty()).map(|(field, names)| format!("{field}:{}", quoted(names)));
    format!("{{{}}}", told.collect::<Vec<_>>().join(", "))
}

/// Refuses rules that a user does not hold, in upstream's words.
fn confirm_held(core: &Core, attributes: &Attributes<'_>, rules: &[PolicyRule]) -> Result<(), String> {
    let user = attributes.user;
    let missing = missing(&core.authorization.rules_for(user, attributes.namespace), rules);
    if missing.is_empty() {
        return Ok(());
    }
    let told: BTreeSet<String> = compact(missing).iter().map(described).collect();
    let told = told.into_iter().collect::<Vec<_>>().join("\n");
    Err(format!("user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{told}", user.name, quoted(&user.groups)))
}

/// Whether an update changes nothing but what garbage collection needs to change.
fn is_for_the_garbage_collector(new: &Object, old: Option<&Object>) -> bool {
    let rest = |object: &Object| {
        let mut object = object.clone();
        for field in ["ownerReferences", "finalizers", "managedFields", "resourceVersion"] {
            object.metadata_mut().remove(field);
        }
        object
    };
    old.is_some_and(|old| rest(new) == rest(old))
}

fn has_aggregation_rule(role: Option<&Object>) -> bool {
    let selectors = role.and_then(|role| role.get(&["aggregationRule", "clusterRoleSelectors"])).and_then(Value::as_array);
    selectors.is_some_and(|selectors| !selectors.is_empty())
}

#[async_trait]
impl AdmissionPlugin for RbacEscalation {
    fn name(&self) -> &'static str {
        "RbacEscalation"
    }
    fn steps(&self) -> &'static [Step] {
        &[Step::Validate]
    }
    async fn validate(&self, core: &Core, attributes: &Attributes<'_>, object: Option<&Object>, old: Option<&Object>) -> Result<(), ApiError> {
        let info = attributes.kind.info();
        let (Operation::Create | Operation::Update, Some(new)) = (attributes.operation, object) else { return Ok(()) };
        if &*info.kind.group != GROUP || attributes.user.in_group(MASTERS) {
            return Ok(());
        }
        let refused = |why: String| ApiError::forbidden(&info.group_resource(), new.name(), why);
        match &*info.plural {
            plural @ ("roles" | "clusterroles") => {
                // By the name in the path: who may escalate certain roles may not make new ones, whose names nobody knows yet.
                if allowed(core, attributes, "escalate", plural, &attributes.context.info.name) || is_for_the_garbage_collector(new, old) {
                    return Ok(());
                }
                let rules: Option<Vec<PolicyRule>> = new.0.get("rules").cloned().map(serde_json::from_value).transpose().map_err(ApiError::internal)?;
                confirm_held(core, attributes, &rules.unwrap_or_default()).map_err(refused)?;
                if plural == "clusterroles" && (has_aggregation_rule(Some(new)) || has_aggregation_rule(old)) {
                    // What will be in the sum is not known, so it counts as everything.
                    let all = || vec!["*".to_owned()];
                    let everything = [
                        PolicyRule { api_groups: Some(all()), resources: Some(all()), verbs: all(), ..PolicyRule::default() },
                        PolicyRule { non_resource_urls: Some(all()), verbs: all(), ..PolicyRule::default() },
                    ];
                    confirm_held(core, attributes, &everything)
                        .map_err(|_| refused("must have cluster-admin privileges to use the aggregationRule".to_owned()))?;
                }
                Ok(())
            }
            "rolebindings" | "clusterrolebindings" => {
                let name = new.text(&["roleRef", "name"]).unwrap_or_default();
                let cluster = new.text(&["roleRef", "kind"]) == Some("ClusterRole");
                let resource = if cluster { "clusterroles" } else { "roles" };
                if is_for_the_garbage_collector(new, old) || allowed(core, attributes, "bind", resource, name) {
                    return Ok(());
                }
                let view = core.view_named(&format!("{resource}.{GROUP}"));
                let found = view.get(&if cluster { name.to_owned() } else { format!("{}/{name}", attributes.namespace) });
                let found = found.ok_or_else(|| ApiError::not_found(&GroupResource::new(GROUP, resource), name))?;
                let rules = if cluster { found.typed::<ClusterRole>().map(|role| role.rules) } else { found.typed::<Role>().map(|role| role.rules) };
                confirm_held(core, attributes, &rules.map_err(ApiError::internal)?.unwrap_or_default()).map_err(refused)
            }
            _ => Ok(()),
        }
    }
}

fn allowed(core: &Core, attributes: &Attributes<'_>, verb: &str, resource: &str, name: &str) -> bool {
    let asked = authorization::Attributes {
        user: attributes.user,
        verb,
        group: GROUP,
        version: "*",
        resource,
        subresource: "",
        namespace: attributes.namespace,
        name,
        is_resource: true,
        path: "",
        field_selector: "", label_selector: None,
    };
    matches!(core.authorization.authorize(&asked), Decision::Allow(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &[&str], resources: &[&str], names: &[&str]) -> PolicyRule {
        let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        PolicyRule { api_groups: Some(own(&[""])), resources: Some(own(resources)), verbs: own(verbs), resource_names: Some(own(names)), non_resource_urls: None }
    }

    #[test]
    fn a_rule_is_covered_by_the_sum_of_what_is_held() {
        let held = [rule(&["get"], &["pods"], &[]), rule(&["list"], &["pods", "services"], &[])];
        assert!(covered(&held, &rule(&["get", "list"], &["pods"], &[])));
        assert!(covered(&held, &rule(&["get"], &["pods"], &["a"])));
        assert!(!covered(&held, &rule(&["get", "list"], &["services"], &[])));
        assert!(!covered(&[rule(&["get"], &["pods"], &["a"])], &rule(&["get"], &["pods"], &[])));
        assert!(!covered(&held, &rule(&["*"], &["pods"], &[])));
    }

    #[test]
    fn what_is_missing_is_told_by_resource_with_its_verbs_joined() {
        let paths = PolicyRule { non_resource_urls: Some(vec!["/metrics".into(), "/logs/*".into()]), verbs: vec!["get".into()], ..PolicyRule::default() };
        let wanted = [rule(&["get", "list"], &["pods", "pods/log"], &[]), rule(&["update"], &["secrets"], &["a", "b"]), rule(&["watch"], &["pods"], &[]), paths];
        let held_paths = PolicyRule { non_resource_urls: Some(vec!["/logs*".into()]), verbs: vec!["*".into()], ..PolicyRule::default() };
        let held = [rule(&["list"], &["pods"], &[]), rule(&["*"], &["*/log"], &[]), rule(&["update"], &["secrets"], &["b"]), held_paths];
        assert_eq!(
            compact(missing(&held, &wanted)).iter().map(described).collect::<Vec<_>>(),
            [
                "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\" \"watch\"]}",
                "{APIGroups:[\"\"], Resources:[\"secrets\"], ResourceNames:[\"a\"], Verbs:[\"update\"]}",
                "{NonResourceURLs:[\"/metrics\"], Verbs:[\"get\"]}",
            ]
        );
    }
}
