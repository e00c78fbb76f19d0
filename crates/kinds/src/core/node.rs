//! Node: a machine that runs pods.

use std::collections::BTreeSet;

use api::core::v1::Node;
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object, validation as rules};
use serde_json::Value;

use crate::{
    cells,
    problems::one_of,
    status_rules::amounts,
    strategy::{Column, Strategy},
};

/// Behaviour of nodes.
pub struct NodeStrategy;

const UNKNOWN: &str = "<unknown>";

/// What a node reports. Source: Kubernetes `pkg/apis/core/validation/validation.go`, `ValidateNodeUpdate`.
fn status(node: &Node, problems: &mut Vec<FieldError>) {
    let Some(status) = &node.status else { return };
    let path = FieldPath::new("status");
    amounts(status.capacity.as_ref(), &path.child("capacity"), problems);
    amounts(status.allocatable.as_ref(), &path.child("allocatable"), problems);
    let addresses = status.addresses.as_deref().unwrap_or_default();
    for (index, address) in addresses.iter().enumerate() {
        if addresses.iter().take(index).any(|earlier| earlier == address) {
            let value = serde_json::to_value(address).unwrap_or_default();
            problems.push(FieldError::duplicate(&path.child("addresses").index(index), value));
        }
    }
}

impl Strategy for NodeStrategy {
    type Kind = Node;

    fn default(&self, node: &mut Node) {
        // What a node reports as its whole is what pods may use, unless it says otherwise.
        if let Some(status) = &mut node.status
            && status.allocatable.is_none()
        {
            status.allocatable.clone_from(&status.capacity);
        }
    }
    fn validate(&self, node: &Node) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec");
        let Some(spec) = &node.spec else { return problems };
        let mut seen = BTreeSet::new();
        for (index, taint) in spec.taints.iter().flatten().enumerate() {
            // Upstream says `metadata`, though they stand in the specification.
            let at = FieldPath::new("metadata").child("taints").index(index);
            problems.extend(rules::invalid_each(&at.child("key"), &taint.key, rules::qualified_name_problems(&taint.key)));
            let value = taint.value.as_deref().unwrap_or_default();
            let wrong = rules::label_value_problems(value);
            if !wrong.is_empty() {
                problems.push(FieldError::invalid(&at.child("value"), value, wrong.join(";")));
            }
            one_of(&taint.effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"], &at.child("effect"), &mut problems);
            if !seen.insert((&taint.key, &taint.effect)) {
                let mut problem = FieldError::duplicate(&at, serde_json::to_value(taint).unwrap_or_default());
                problem.detail = "taints must be unique by key and effect pair".to_owned();
                problems.push(problem);
            }
        }
        crate::problems::one_of_each_family(spec.pod_cidrs.as_deref().unwrap_or_default(), &path.child("podCIDRs"), &mut problems);
        for (index, range) in spec.pod_cidrs.iter().flatten().enumerate() {
            problems.extend(rules::invalid_each(&path.child("podCIDRs").index(index), range, rules::cidr_problems(range)));
        }
        problems
    }
    fn has_warnings(&self) -> bool {
        true
    }
    /// Source: Kubernetes `pkg/registry/core/node/strategy.go`, `fieldIsDeprecatedWarnings`.
    fn warnings(&self, node: &Node, _old: Option<&Node>) -> Vec<String> {
        let Some(spec) = &node.spec else { return Vec::new() };
        let mut told = Vec::new();
        if spec.config_source.is_some() {
            told.push("spec.configSource: the feature is removed".to_owned());
        }
        if spec.external_id.as_ref().is_some_and(|id| !id.is_empty()) {
            told.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
        }
        let path = FieldPath::new("spec").child("podCIDRs");
        for (index, range) in spec.pod_cidrs.iter().flatten().enumerate() {
            told.extend(crate::warnings::cidr(range, &path.index(index)));
        }
        told
    }
    fn validate_status_update(&self, node: &Node, old: &Node) -> Vec<FieldError> {
        // Source: Kubernetes `nodeStatusStrategy.ValidateUpdate`, which asks what an update of the whole asks.
        self.validate_update(node, old)
    }
    fn validate_update(&self, node: &Node, old: &Node) -> Vec<FieldError> {
        let mut problems = self.validate(node);
        status(node, &mut problems);
        let path = FieldPath::new("spec");
        if let (Some(new), Some(old)) = (&node.spec, &old.spec) {
            if old.pod_cidrs.as_ref().is_some_and(|ranges| !ranges.is_empty()) && new.pod_cidrs != old.pod_cidrs {
                problems.push(FieldError::forbidden(&path.child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid"));
            }
            if old.provider_id.as_deref().is_some_and(|id| !id.is_empty()) && new.provider_id != old.provider_id {
                problems.push(FieldError::forbidden(&path.child("providerID"), "node updates may not change providerID except from \"\" to valid"));
            }
        }
        problems
    }
    fn selectable_field_names(&self) -> &'static [&'static str] {
        &["spec.unschedulable"]
    }
    fn selectable_fields(&self, node: &Node) -> Vec<(&'static str, String)> {
        let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
        vec![("spec.unschedulable", unschedulable.to_string())]
    }
    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            Column::NAME,
            Column::text("Status", "Whether it is ready, and whether it takes pods."),
            Column::text("Roles", "What it is for."),
            Column::AGE,
            Column::text("Version", "Version of its kubelet."),
            Column::text("Internal-IP", "Its address inside the cluster.").wide(),
            Column::text("External-IP", "Its address outside the cluster.").wide(),
            Column::text("OS-Image", "Its operating system.").wide(),
            Column::text("Kernel-Version", "Its kernel.").wide(),
            Column::text("Container-Runtime", "What runs its containers.").wide(),
        ];
        COLUMNS
    }
    fn row(&self, node: &Node, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let status = node.status.as_ref();
        let ready = status.and_then(|status| status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready"));
        let mut words = match ready.map(|condition| condition.status == "True") {
            Some(true) => "Ready".to_owned(),
            Some(false) => "NotReady".to_owned(),
            None => "Unknown".to_owned(),
        };
        if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
            words.push_str(",SchedulingDisabled");
        }
        let mut roles = BTreeSet::new();
        for (key, value) in node.metadata.labels.iter().flatten() {
            if let Some(role) = key.strip_prefix("node-role.kubernetes.io/").filter(|role| !role.is_empty()) {
                roles.insert(role);
            } else if key == "kubernetes.io/role" && !value.is_empty() {
                roles.insert(value);
            }
        }
        let address = |kind: &str| {
            let found = status.and_then(|status| status.addresses.iter().flatten().find(|address| address.type_ == kind));
            cells::or_none(found.map(|found| found.address.as_str()))
        };
        let info = status.and_then(|status| status.node_info.as_ref());
        let known = |text: Option<&String>| Value::from(text.map(String::as_str).filter(|text| !text.is_empty()).unwrap_or(UNKNOWN));
        vec![
            raw.name().into(),
            words.into(),
            cells::joined(roles),
            cells::created(raw),
            cells::text(info.map(|info| info.kubelet_version.as_str())),
            address("InternalIP"),
            address("ExternalIP"),
            known(info.map(|info| &info.os_image)),
            known(info.map(|info| &info.kernel_version)),
            known(info.map(|info| &info.container_runtime_version)),
        ]
    }
}
