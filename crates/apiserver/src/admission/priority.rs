//! Priority: a pod's priority number and preemption policy come from its class, and there is one default class at most.
//!
//! Source: Kubernetes `plugin/pkg/admission/priority`.

use async_trait::async_trait;
use meta::{ApiError, Object};
use serde_json::{Value, json};

use crate::{
    admission::{AdmissionPlugin, Attributes, Operation},
    core::Core,
};

const CLASSES: &str = "priorityclasses.scheduling.k8s.io";

/// The plug-in.
pub struct Priority;

struct Class {
    value: i64,
    policy: String,
}

fn class_of(object: &Object) -> Class {
    Class {
        value: object.get(&["value"]).and_then(Value::as_i64).unwrap_or_default(),
        policy: object.text(&["preemptionPolicy"]).unwrap_or("PreemptLowerPriority").to_owned(),
    }
}

/// The default class: the lowest of those that say so.
fn default_class(core: &Core) -> Option<(String, Class)> {
    core.view
        .snapshot(&core.view_named(CLASSES))
        .range("", None)
        .filter_map(|stored| stored.object().ok())
        .filter(|object| object.get(&["globalDefault"]) == Some(&Value::Bool(true)))
        .map(|object| (object.name().to_owned(), class_of(&object)))
        .min_by_key(|(_, class)| class.value)
}

#[async_trait]
impl AdmissionPlugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }
    async fn admit(&self, core: &Core, attributes: &Attributes<'_>, object: Option<&mut Object>, old: Option<&Object>) -> Result<(), ApiError> {
        let info = attributes.kind.info();
        if !info.kind.group.is_empty() || &*info.plural != "pods" || !attributes.subresource.is_empty() {
            return Ok(());
        }
        let Some(pod) = object else { return Ok(()) };
        let refuse = |why: String| Err(ApiError::forbidden(&info.group_resource(), attributes.name, why));
        if attributes.operation == Operation::Update {
            // An update that leaves the number out means the one that is there.
            if let (None, Some(priority)) = (pod.get(&["spec", "priority"]), old.and_then(|old| old.get(&["spec", "priority"]))) {
                pod.set(&["spec", "priority"], priority.clone());
            }
            return Ok(());
        }
        if attributes.operation != Operation::Create {
            return Ok(());
        }
        let given = pod.get(&["spec", "priority"]).and_then(Value::as_i64);
        let named = pod.text(&["spec", "priorityClassName"]).unwrap_or_default().to_owned();
        let (name, class) = if named.is_empty() {
            default_class(core).unwrap_or_else(|| (String::new(), Class { value: 0, policy: "PreemptLowerPriority".to_owned() }))
        } else {
            let Some(stored) = core.view_named(CLASSES).get(&named) else {
                return refuse(format!("no PriorityClass with name {named} was found"));
            };
            (named, class_of(&stored.object().map_err(ApiError::internal)?))
        };
        if given.is_some_and(|given| given != class.value) {
            return refuse(format!(
                "the integer value of priority ({}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClass name",
                given.unwrap_or_default(),
                class.value
            ));
        }
        if let Some(policy) = pod.text(&["spec", "preemptionPolicy"])
            && policy != class.policy
        {
            return refuse(format!(
                "the string value of PreemptionPolicy ({policy}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClass name",
                class.policy
            ));
        }
        if !name.is_empty() {
            pod.set(&["spec", "priorityClassName"], json!(name));
        }
        pod.set(&["spec", "priority"], json!(class.value));
        pod.set(&["spec", "preemptionPolicy"], json!(class.policy));
        Ok(())
    }
    async fn validate(&self, core: &Core, attributes: &Attributes<'_>, object: Option<&Object>, _old: Option<&Object>) -> Result<(), ApiError> {
        let info = attributes.kind.info();
        if &*info.kind.group != "scheduling.k8s.io" || &*info.plural != "priorityclasses" {
            return Ok(());
        }
        let Some(class) = object else { return Ok(()) };
        if class.get(&["globalDefault"]) != Some(&Value::Bool(true)) {
            return Ok(());
        }
        match default_class(core) {
            Some((other, _)) if other != class.name() => {
                let why = format!("PriorityClass {other} is already marked as default. Only one default can exist");
                Err(ApiError::forbidden(&info.group_resource(), class.name(), why))
            }
            _ => Ok(()),
        }
    }
}
