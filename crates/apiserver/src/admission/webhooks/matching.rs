//! Which webhooks are asked about a request: by rules, by labels of the namespace and by labels of the object.
//!
//! Source: Kubernetes `apiserver/pkg/admission/plugin/webhook/{rules,predicates,generic}`.

use std::sync::Arc;

use kinds::ServedKind;
use meta::{Object, selector::LabelSelector};
use serde_json::Value;

use crate::{
    admission::{Attributes, Operation, webhooks::configuration::Webhook},
    core::Core,
};

/// Kinds that no webhook sees, so that a bad webhook can always be taken away.
const EXEMPT: [&str; 6] = [
    "validatingwebhookconfigurations",
    "mutatingwebhookconfigurations",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
];

/// One entry of `rules`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: String,
}

fn texts(value: &Value, name: &str) -> Vec<String> {
    value.get(name).and_then(Value::as_array).into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|known| known == "*" || known == wanted)
}

impl Rule {
    /// Reads one.
    pub fn read(value: &Value) -> Self {
        Self {
            operations: texts(value, "operations"),
            groups: texts(value, "apiGroups"),
            versions: texts(value, "apiVersions"),
            resources: texts(value, "resources"),
            scope: value.get("scope").and_then(Value::as_str).unwrap_or("*").to_owned(),
        }
    }
    fn has_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|known| {
            let (wanted, sub) = known.split_once('/').unwrap_or((known, ""));
            (wanted == "*" || wanted == resource) && (sub == subresource || sub == "*")
        })
    }
    /// Whether it is about a resource.
    pub fn matches(&self, operation: Operation, kind: &dyn ServedKind, subresource: &str, in_namespace: bool) -> bool {
        let info = kind.info();
        let in_scope = match self.scope.as_str() {
            "Namespaced" => in_namespace,
            "Cluster" => !in_namespace,
            _ => true,
        };
        in_scope
            && has(&self.operations, operation.as_str())
            && has(&self.groups, &info.kind.group)
            && has(&self.versions, &info.kind.version)
            && self.has_resource(&info.plural, subresource)
    }
}

/// A webhook that is to be asked, and as what it sees the object.
#[derive(Clone)]
pub struct Asked {
    /// Whom.
    pub webhook: Arc<Webhook>,
    /// The version of the kind its rules name; that of the request, or an equivalent one.
    pub kind: Arc<dyn ServedKind>,
}

fn is_namespace(kind: &dyn ServedKind) -> bool {
    kind.info().kind.group.is_empty() && &*kind.info().plural == "namespaces"
}

/// The kind a webhook's rules name for a request, if any.
fn matched_kind(core: &Core, attributes: &Attributes<'_>, webhook: &Webhook) -> Option<Arc<dyn ServedKind>> {
    let in_namespace = !attributes.namespace.is_empty() && !is_namespace(attributes.kind.as_ref());
    let matches = |kind: &Arc<dyn ServedKind>| {
        webhook.rules.iter().any(|rule| rule.matches(attributes.operation, kind.as_ref(), attributes.subresource, in_namespace))
    };
    if matches(attributes.kind) {
        return Some(attributes.kind.clone());
    }
    if webhook.exact {
        return None;
    }
    // The same objects under another group or version: they are stored in the same place.
    let (own, prefix) = (attributes.kind.info(), attributes.kind.info().storage_prefix());
    let scheme = core.scheme.load();
    let equivalent = |kind: &&Arc<dyn ServedKind>| {
        let info = kind.info();
        info.kind != own.kind
            && info.storage_prefix() == prefix
            && (attributes.subresource.is_empty() || info.subresource(attributes.subresource).is_some())
    };
    scheme.kinds().filter(equivalent).find(|kind| matches(kind)).cloned()
}

fn namespace_selected(core: &Core, attributes: &Attributes<'_>, selector: &LabelSelector, object: Option<&Object>, old: Option<&Object>) -> bool {
    if selector.is_everything() {
        return true;
    }
    if is_namespace(attributes.kind.as_ref()) && attributes.subresource.is_empty() {
        return selector.matches_labels(object.or(old).and_then(Object::labels));
    }
    if attributes.namespace.is_empty() || is_namespace(attributes.kind.as_ref()) {
        return true;
    }
    match core.view_named("namespaces").get(attributes.namespace) {
        Some(namespace) => selector.matches(&|name| namespace.label(name)),
        None => selector.matches_labels(None),
    }
}

fn object_selected(selector: &LabelSelector, object: Option<&Object>, old: Option<&Object>) -> bool {
    selector.is_everything() || [object, old].into_iter().flatten().any(|object| object.get(&["metadata"]).is_some() && selector.matches_labels(object.labels()))
}

/// Whether a webhook is asked about a request, and as what.
pub fn asked(core: &Core, attributes: &Attributes<'_>, webhook: &Arc<Webhook>, object: Option<&Object>, old: Option<&Object>) -> Option<Asked> {
    let kind = matched_kind(core, attributes, webhook)?;
    let selected = namespace_selected(core, attributes, &webhook.namespaces, object, old) && object_selected(&webhook.objects, object, old);
    selected.then(|| Asked { webhook: webhook.clone(), kind })
}

/// Whether webhooks are asked about a kind at all.
pub fn is_exempt(kind: &dyn ServedKind) -> bool {
    let info = kind.info();
    &*info.kind.group == "admissionregistration.k8s.io" && EXEMPT.contains(&&*info.plural)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(resources: &[&str], scope: &str, resource: (&str, &str, &str), subresource: &str, expected: bool) {
        let rule = Rule::read(&json!({"operations": ["CREATE"], "apiGroups": ["*"], "apiVersions": ["v1"], "resources": resources, "scope": scope}));
        let scheme = kinds::served::serve_all();
        let (group, version, plural) = resource;
        let kind = scheme.by_resource(&meta::GroupVersionResource::new(group, version, plural)).unwrap();
        let found = rule.matches(Operation::Create, kind.as_ref(), subresource, kind.info().namespaced);
        assert_eq!(found, expected, "{resources:?} {scope} {resource:?} {subresource}");
    }

    #[test]
    fn a_rule_names_resources_and_subresources() {
        let pods = ("", "v1", "pods");
        check(&["pods"], "*", pods, "", true);
        check(&["pods"], "*", pods, "exec", false);
        check(&["pods/exec"], "*", pods, "exec", true);
        check(&["pods/*"], "*", pods, "", true);
        check(&["*/exec"], "*", pods, "exec", true);
        check(&["*/*"], "*", pods, "attach", true);
        check(&["*"], "*", pods, "attach", false);
        check(&["services"], "*", pods, "", false);
    }

    #[test]
    fn a_rule_has_a_scope() {
        check(&["*"], "Cluster", ("", "v1", "nodes"), "", true);
        check(&["*"], "Namespaced", ("", "v1", "nodes"), "", false);
        check(&["*"], "Namespaced", ("apps", "v1", "deployments"), "", true);
    }

    #[test]
    fn labels_of_either_state_select_an_object() {
        let object = |labels: serde_json::Value| Object::from_value(json!({"metadata": {"labels": labels}})).unwrap();
        let selector = LabelSelector::from_json(&json!({"matchLabels": {"a": "b"}})).unwrap();
        assert!(object_selected(&selector, Some(&object(json!({}))), Some(&object(json!({"a": "b"})))));
        assert!(!object_selected(&selector, Some(&object(json!({}))), None));
        assert!(object_selected(&LabelSelector::everything(), None, None));
    }
}
