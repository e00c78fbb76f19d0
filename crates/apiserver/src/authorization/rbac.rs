//! Role-based access control, decided from the roles and bindings in memory.
//!
//! Bindings are indexed by subject once per change of any RBAC object, so that a decision looks only at the rules of the
//! user and his groups. Source: Kubernetes `plugin/pkg/auth/authorizer/rbac`.

use std::{collections::HashMap, sync::Arc};

use api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use parking_lot::RwLock;
use tracing::warn;

use crate::{
    authorization::{Attributes, Authorizer, Decision},
    user::{MASTERS, User},
    view::{MemoryView, ResourceView},
};

/// Somebody a binding names: kind, namespace and name.
type SubjectKey = (SubjectKind, String);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum SubjectKind {
    User,
    Group,
}

#[derive(Clone)]
struct Grant {
    /// Empty for the whole cluster.
    namespace: Arc<str>,
    rules: Arc<[PolicyRule]>,
}

#[derive(Default)]
struct Index {
    /// Lengths of histories it was made from; see [`Rbac::stamp`].
    stamp: [u64; 4],
    by_subject: HashMap<SubjectKey, Vec<Grant>>,
}

/// The RBAC authorizer.
pub struct Rbac {
    view: Arc<MemoryView>,
    resources: [Arc<ResourceView>; 4],
    index: RwLock<Arc<Index>>,
}

fn subject_key(subject: &Subject, binding_namespace: &str) -> Option<SubjectKey> {
    match subject.kind.as_str() {
        "User" => Some((SubjectKind::User, subject.name.clone())),
        "Group" => Some((SubjectKind::Group, subject.name.clone())),
        "ServiceAccount" => {
            let namespace = subject.namespace.as_deref().filter(|name| !name.is_empty()).unwrap_or(binding_namespace);
            Some((SubjectKind::User, format!("system:serviceaccount:{namespace}:{}", subject.name)))
        }
        _ => None,
    }
}

fn any(list: Option<&[String]>, wanted: &str) -> bool {
    list.unwrap_or_default().iter().any(|known| known == "*" || known == wanted)
}

/// Whether a rule covers a request. Source: Kubernetes `pkg/apis/rbac/v1/evaluation_helpers.go`.
pub fn rule_allows(rule: &PolicyRule, attributes: &Attributes<'_>) -> bool {
    if !any(Some(&rule.verbs), attributes.verb) {
        return false;
    }
    if !attributes.is_resource {
        return rule.non_resource_urls.iter().flatten().any(|url| {
            url == "*" || url == attributes.path || url.strip_suffix('*').is_some_and(|prefix| attributes.path.starts_with(prefix))
        });
    }
    any(rule.api_groups.as_deref(), attributes.group)
        && rule.resources.iter().flatten().any(|known| {
            known == "*"
                || if attributes.subresource.is_empty() {
                    known == attributes.resource
                } else {
                    known.split_once('/').is_some_and(|(resource, subresource)| {
                        subresource == attributes.subresource && (resource == "*" || resource == attributes.resource)
                    })
                }
        })
        && rule.resource_names.as_deref().is_none_or(|names| names.is_empty() || names.iter().any(|known| known == attributes.name))
}

impl Rbac {
    /// Over a view.
    pub fn new(view: Arc<MemoryView>) -> Self {
        let resource = |name: &str| view.resource(&format!("/registry/{name}.rbac.authorization.k8s.io/"));
        let resources = [resource("roles"), resource("rolebindings"), resource("clusterroles"), resource("clusterrolebindings")];
        Self { view, resources, index: RwLock::new(Arc::new(Index { stamp: [u64::MAX; 4], ..Index::default() })) }
    }

    fn stamp(&self) -> [u64; 4] {
        self.resources.each_ref().map(|resource| resource.newest().0)
    }

    fn index(&self) -> Arc<Index> {
        let stamp = self.stamp();
        {
            let index = self.index.read();
            if index.stamp == stamp {
                return index.clone();
            }
        }
        let made = Arc::new(self.make_index(stamp));
        *self.index.write() = made.clone();
        made
    }

    fn rules_of_role(&self, reference: &RoleRef, namespace: &str) -> Option<Arc<[PolicyRule]>> {
        let [roles, _, cluster_roles, _] = &self.resources;
        match reference.kind.as_str() {
            "Role" => roles.get(&format!("{namespace}/{}", reference.name))?.typed::<Role>().ok()?.rules.map(Into::into),
            "ClusterRole" => cluster_roles.get(&reference.name)?.typed::<ClusterRole>().ok()?.rules.map(Into::into),
            _ => None,
        }
    }

    fn make_index(&self, stamp: [u64; 4]) -> Index {
        let mut index = Index { stamp, ..Index::default() };
        let [_, role_bindings, _, cluster_role_bindings] = &self.resources;
        let mut add = |subjects: Option<Vec<Subject>>, namespace: &str, rules: Option<Arc<[PolicyRule]>>| {
            let Some(rules) = rules else { return };
            for key in subjects.iter().flatten().filter_map(|subject| subject_key(subject, namespace)) {
                index.by_subject.entry(key).or_default().push(Grant { namespace: namespace.into(), rules: rules.clone() });
            }
        };
        for stored in self.view.snapshot(cluster_role_bindings).range("", None) {
            match stored.typed::<ClusterRoleBinding>() {
                Ok(binding) => add(binding.subjects, "", self.rules_of_role(&binding.role_ref, "")),
                Err(error) => warn!(key = %stored.key, %error, "a ClusterRoleBinding cannot be read and grants nothing"),
            }
        }
        for stored in self.view.snapshot(role_bindings).range("", None) {
            match stored.typed::<RoleBinding>() {
                Ok(binding) => add(binding.subjects, stored.namespace(), self.rules_of_role(&binding.role_ref, stored.namespace())),
                Err(error) => warn!(key = %stored.key, %error, "a RoleBinding cannot be read and grants nothing"),
            }
        }
        index
    }

    /// Every rule a user has: cluster-wide ones, and those of a namespace (all namespaces for none).
    fn rules_of(&self, user: &User, namespace: &str) -> Vec<PolicyRule> {
        let index = self.index();
        let mut rules = Vec::new();
        let keys = std::iter::once((SubjectKind::User, user.name.clone())).chain(user.groups.iter().map(|group| (SubjectKind::Group, group.clone())));
        for grant in keys.filter_map(|key| index.by_subject.get(&key)).flatten() {
            if grant.namespace.is_empty() || *grant.namespace == *namespace {
                rules.extend(grant.rules.iter().cloned());
            }
        }
        rules
    }

    fn allows(index: &Index, key: &SubjectKey, attributes: &Attributes<'_>) -> bool {
        index.by_subject.get(key).is_some_and(|grants| {
            grants.iter().any(|grant| {
                (grant.namespace.is_empty() || *grant.namespace == *attributes.namespace)
                    && grant.rules.iter().any(|rule| rule_allows(rule, attributes))
            })
        })
    }
}

impl Authorizer for Rbac {
    fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        if attributes.user.in_group(MASTERS) {
            return Decision::Allow(String::new());
        }
        let index = self.index();
        let allowed = Self::allows(&index, &(SubjectKind::User, attributes.user.name.clone()), attributes)
            || attributes.user.groups.iter().any(|group| Self::allows(&index, &(SubjectKind::Group, group.clone()), attributes));
        if allowed { Decision::Allow("RBAC: allowed by a role binding".to_owned()) } else { Decision::NoOpinion(String::new()) }
    }
    fn rules_for(&self, user: &User, namespace: &str) -> Vec<PolicyRule> {
        self.rules_of(user, namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes<'a>(user: &'a User, verb: &'a str, resource: &'a str, subresource: &'a str, name: &'a str) -> Attributes<'a> {
        Attributes { user, verb, group: "", version: "v1", resource, subresource, namespace: "n", name, is_resource: true, path: "", field_selector: "", label_selector: None }
    }

    fn rule(verbs: &[&str], resources: &[&str], names: &[&str]) -> PolicyRule {
        let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        PolicyRule {
            api_groups: Some(vec![String::new()]),
            resources: Some(own(resources)),
            verbs: own(verbs),
            resource_names: (!names.is_empty()).then(|| own(names)),
            non_resource_urls: None,
        }
    }

    #[test]
    fn rules_cover_what_they_name_and_nothing_else() {
        let user = User::default();
        let check = |rule: &PolicyRule, verb, resource, subresource, name| rule_allows(rule, &attributes(&user, verb, resource, subresource, name));
        assert!(check(&rule(&["get"], &["pods"], &[]), "get", "pods", "", "x"));
        assert!(!check(&rule(&["get"], &["pods"], &[]), "get", "pods", "log", "x"));
        assert!(check(&rule(&["get"], &["pods/log"], &[]), "get", "pods", "log", "x"));
        assert!(check(&rule(&["*"], &["*"], &[]), "create", "pods", "exec", "x"));
        assert!(check(&rule(&["get"], &["*/scale"], &[]), "get", "deployments", "scale", "x"));
        assert!(!check(&rule(&["get"], &["pods"], &["a"]), "get", "pods", "", "b"));
        assert!(!check(&rule(&["list"], &["pods"], &["a"]), "list", "pods", "", ""));
    }
}
