//! Authorization: may they. A chain of [`Authorizer`]s; the first that allows or denies decides.

pub mod node;
pub mod rbac;

use std::sync::Arc;

use api::rbac::v1::PolicyRule;
use meta::selector::LabelSelector;

use crate::{request_info::RequestInfo, user::User};

/// What is asked.
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    /// Who.
    pub user: &'a User,
    /// `get`, `list`, …
    pub verb: &'a str,
    /// API group.
    pub group: &'a str,
    /// API version.
    pub version: &'a str,
    /// Plural name.
    pub resource: &'a str,
    /// Subresource, empty for none.
    pub subresource: &'a str,
    /// Namespace, empty for none.
    pub namespace: &'a str,
    /// Object, empty for collections.
    pub name: &'a str,
    /// Whether it is about a resource at all.
    pub is_resource: bool,
    /// The path, for what is not a resource.
    pub path: &'a str,
    /// `fieldSelector` of a list, watch or deletecollection.
    pub field_selector: &'a str,
    /// `labelSelector` of a list, watch or deletecollection.
    pub label_selector: Option<&'a LabelSelector>,
}

impl<'a> Attributes<'a> {
    /// Of a request.
    pub fn of(user: &'a User, info: &'a RequestInfo) -> Self {
        Self {
            user,
            verb: info.verb,
            group: &info.group,
            version: &info.version,
            resource: &info.resource,
            subresource: &info.subresource,
            namespace: &info.namespace,
            name: &info.name,
            is_resource: info.is_resource,
            path: &info.path,
            field_selector: "",
            label_selector: None,
        }
    }
    /// In words, as upstream's forbidden messages say it.
    pub fn describe_refusal(&self) -> String {
        let user = &self.user.name;
        if !self.is_resource {
            return format!("User {user:?} cannot {} path {:?}", self.verb, self.path);
        }
        let resource = if self.subresource.is_empty() { self.resource.to_owned() } else { format!("{}/{}", self.resource, self.subresource) };
        let head = format!("User {user:?} cannot {} resource {resource:?} in API group {:?}", self.verb, self.group);
        if self.namespace.is_empty() { format!("{head} at the cluster scope") } else { format!("{head} in the namespace {:?}", self.namespace) }
    }
}

/// What an authorizer thinks, with a reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Allow(String),
    /// No, whatever the others say.
    Deny(String),
    /// Somebody else may know.
    NoOpinion(String),
}

/// Decides from what is in memory; never waits.
pub trait Authorizer: Send + Sync + 'static {
    /// Decides.
    fn authorize(&self, attributes: &Attributes<'_>) -> Decision;
    /// Every rule it knows for a user, cluster-wide ones and those of a namespace; nothing where it decides without rules.
    fn rules_for(&self, _user: &User, _namespace: &str) -> Vec<PolicyRule> {
        Vec::new()
    }
}

/// The chain.
#[derive(Default)]
pub struct Authorization {
    /// Asked in order.
    pub authorizers: Vec<Arc<dyn Authorizer>>,
}

impl Authorizer for Authorization {
    fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let mut reasons = Vec::new();
        for authorizer in &self.authorizers {
            match authorizer.authorize(attributes) {
                Decision::NoOpinion(reason) if reason.is_empty() => {}
                Decision::NoOpinion(reason) => reasons.push(reason),
                decided => return decided,
            }
        }
        Decision::NoOpinion(reasons.join(", "))
    }
    fn rules_for(&self, user: &User, namespace: &str) -> Vec<PolicyRule> {
        self.authorizers.iter().flat_map(|authorizer| authorizer.rules_for(user, namespace)).collect()
    }
}
