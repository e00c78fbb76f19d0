//! Nobody gives away more than he has: whoever writes a role must hold its rules (or may `escalate` it), and whoever binds
//! one must hold them too (or may `bind` it).
//!
//! Source: Kubernetes `pkg/registry/rbac/escalation_check.go` and `rbac/validation/policy_comparator.go`.

use api::rbac::v1::{ClusterRole, PolicyRule, Role};
use async_trait::async_trait;
use meta::{ApiError, Object};
use serde_json::Value;

use crate::{
    admission::{AdmissionPlugin, Attributes, Operation},
    authorization::{self, Authorizer, Decision},
    core::Core,
    user::MASTERS,
};

/// The plug-in.
pub struct RbacEscalation;

fn has_all(held: &[String], wanted: &[String]) -> bool {
    held.iter().any(|known| known == "*") || wanted.iter().all(|name| held.contains(name))
}

fn has_resource(held: &[String], wanted: &str) -> bool {
    held.iter().any(|known| {
        known == "*" || known == wanted || known.strip_prefix("*/").is_some_and(|part| wanted.split_once('/').is_some_and(|(_, subresource)| subresource == part))
    })
}

fn has_path(held: &[String], wanted: &str) -> bool {
    held.iter().any(|known| known == "*" || known == wanted || known.strip_suffix('*').is_some_and(|prefix| wanted.starts_with(prefix)))
}

/// Whether one rule about a single group, resource and verb is held.
fn holds(held: &[PolicyRule], verb: &String, group: &String, resource: &str, names: &[String]) -> bool {
    let one = std::slice::from_ref;
    let covering = |name: Option<&String>| {
        held.iter().any(|rule| {
            has_all(&rule.verbs, one(verb))
                && has_all(rule.api_groups.as_deref().unwrap_or_default(), one(group))
                && has_resource(rule.resources.as_deref().unwrap_or_default(), resource)
                && match rule.resource_names.as_deref().unwrap_or_default() {
                    [] => true,
                    known => name.is_some_and(|name| known.contains(name)),
                }
        })
    };
    if names.is_empty() { covering(None) } else { names.iter().all(|name| covering(Some(name))) }
}

/// Whether everything a rule allows is held already.
pub(crate) fn covered(held: &[PolicyRule], wanted: &PolicyRule) -> bool {
    let names = wanted.resource_names.as_deref().unwrap_or_default();
    wanted.verbs.iter().all(|verb| {
        wanted.non_resource_urls.iter().flatten().all(|path| {
            held.iter().any(|rule| has_all(&rule.verbs, std::slice::from_ref(verb)) && has_path(rule.non_resource_urls.as_deref().unwrap_or_default(), path))
        }) && wanted.api_groups.iter().flatten().all(|group| wanted.resources.iter().flatten().all(|resource| holds(held, verb, group, resource, names)))
    })
}

#[async_trait]
impl AdmissionPlugin for RbacEscalation {
    fn name(&self) -> &'static str {
        "RbacEscalation"
    }
    async fn validate(&self, core: &Core, attributes: &Attributes<'_>, object: Option<&Object>, old: Option<&Object>) -> Result<(), ApiError> {
        let info = attributes.kind.info();
        let (Operation::Create | Operation::Update, Some(new)) = (attributes.operation, object) else { return Ok(()) };
        if &*info.kind.group != "rbac.authorization.k8s.io" || attributes.user.in_group(MASTERS) {
            return Ok(());
        }
        let same = |field: &str| old.is_some_and(|old| old.0.get(field) == new.0.get(field));
        let (verb, resource, name, rules) = match &*info.plural {
            plural @ ("roles" | "clusterroles") => {
                if same("rules") && same("aggregationRule") {
                    return Ok(());
                }
                let mut rules: Vec<PolicyRule> = new.0.get("rules").cloned().map(serde_json::from_value).transpose().map_err(ApiError::internal)?.unwrap_or_default();
                if new.0.get("aggregationRule").is_some_and(|rule| !rule.is_null()) && !same("aggregationRule") {
                    // What will be in the sum is not known, so it counts as everything.
                    let all = || vec!["*".to_owned()];
                    rules.push(PolicyRule { api_groups: Some(all()), resources: Some(all()), verbs: all(), ..PolicyRule::default() });
                    rules.push(PolicyRule { non_resource_urls: Some(all()), verbs: all(), ..PolicyRule::default() });
                }
                ("escalate", plural.to_owned(), attributes.name.to_owned(), rules)
            }
            "rolebindings" | "clusterrolebindings" => {
                if same("roleRef") && same("subjects") {
                    return Ok(());
                }
                let name = new.text(&["roleRef", "name"]).unwrap_or_default().to_owned();
                let cluster = new.text(&["roleRef", "kind"]) == Some("ClusterRole");
                let resource = if cluster { "clusterroles" } else { "roles" };
                let view = core.view_named(&format!("{resource}.rbac.authorization.k8s.io"));
                let found = view.get(&if cluster { name.clone() } else { format!("{}/{name}", attributes.namespace) });
                let rules = match &found {
                    Some(stored) if cluster => stored.typed::<ClusterRole>().map_err(ApiError::internal)?.rules,
                    Some(stored) => stored.typed::<Role>().map_err(ApiError::internal)?.rules,
                    None => None,
                };
                let resource_name = resource.to_owned();
                match (found, rules) {
                    (None, _) if !allowed(core, attributes, "bind", resource, &name) => {
                        return Err(ApiError::not_found(&meta::GroupResource::new("rbac.authorization.k8s.io", resource), &name));
                    }
                    (_, rules) => ("bind", resource_name, name, rules.unwrap_or_default()),
                }
            }
            _ => return Ok(()),
        };
        let held = core.authorization.rules_for(attributes.user, attributes.namespace);
        let missing: Vec<String> = rules.iter().filter(|rule| !covered(&held, rule)).map(|rule| serde_json::to_value(rule).unwrap_or(Value::Null).to_string()).collect();
        if missing.is_empty() || allowed(core, attributes, verb, &resource, &name) {
            return Ok(());
        }
        let user = attributes.user;
        let why = format!("user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}", user.name, user.groups, missing.join("\n"));
        Err(ApiError::forbidden(&info.group_resource(), attributes.name, why))
    }
}

fn allowed(core: &Core, attributes: &Attributes<'_>, verb: &str, resource: &str, name: &str) -> bool {
    let asked = authorization::Attributes {
        user: attributes.user,
        verb,
        group: "rbac.authorization.k8s.io",
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
}
