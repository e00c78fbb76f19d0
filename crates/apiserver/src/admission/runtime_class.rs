//! RuntimeClass: a pod's class must exist, and gives the pod its overhead and the nodes it may run on.
//!
//! Source: Kubernetes `plugin/pkg/admission/runtimeclass/admission.go`.

use async_trait::async_trait;
use meta::{ApiError, Object, quantity::canonicalize};
use serde_json::{Map, Value, json};

use crate::{
    admission::{AdmissionPlugin, Attributes, Operation},
    core::Core,
};

/// The plug-in.
pub struct RuntimeClass;

/// The class a pod names; none where it names none.
fn class_of(core: &Core, attributes: &Attributes<'_>, pod: &Object) -> Result<Option<Object>, ApiError> {
    let Some(name) = pod.text(&["spec", "runtimeClassName"]).filter(|name| !name.is_empty()) else { return Ok(None) };
    let Some(stored) = core.view_named("runtimeclasses.node.k8s.io").get(name) else {
        return Err(attributes.forbidden(format!("pod rejected: RuntimeClass {name:?} not found")));
    };
    stored.object().map(Some).map_err(ApiError::internal)
}

fn concerns(attributes: &Attributes<'_>) -> bool {
    attributes.operation == Operation::Create && attributes.is_about("", "pods")
}

/// Whether two lists of resources say the same, however they write it.
fn same(one: &Map<String, Value>, other: &Map<String, Value>) -> bool {
    let amount = |value: &Value| value.as_str().and_then(canonicalize).unwrap_or_else(|| value.to_string());
    one.len() == other.len() && one.iter().all(|(name, value)| other.get(name).is_some_and(|known| amount(known) == amount(value)))
}

fn overhead_of(class: &Object) -> Option<&Map<String, Value>> {
    class.get(&["overhead", "podFixed"]).and_then(Value::as_object).filter(|overhead| !overhead.is_empty())
}

fn set_overhead(class: &Object, pod: &mut Object) -> Result<(), String> {
    let Some(wanted) = overhead_of(class) else { return Ok(()) };
    let given = pod.get(&["spec", "overhead"]).and_then(Value::as_object).filter(|overhead| !overhead.is_empty());
    if given.is_some_and(|given| !same(given, wanted)) {
        return Err("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".to_owned());
    }
    pod.set(&["spec", "overhead"], Value::Object(wanted.clone()));
    Ok(())
}

fn set_scheduling(class: &Object, pod: &mut Object) -> Result<(), String> {
    let mut selector = pod.get(&["spec", "nodeSelector"]).and_then(Value::as_object).cloned().unwrap_or_default();
    for (label, value) in class.get(&["scheduling", "nodeSelector"]).and_then(Value::as_object).into_iter().flatten() {
        if selector.get(label).is_some_and(|known| known != value) {
            let words = "conflict: runtimeClass.scheduling.nodeSelector and pod.spec.nodeSelector";
            return Err(format!("pod rejected: {words}[{label}] is set to different values"));
        }
        selector.insert(label.clone(), value.clone());
    }
    if !selector.is_empty() {
        pod.set(&["spec", "nodeSelector"], Value::Object(selector));
    }
    let mut tolerations = pod.get(&["spec", "tolerations"]).and_then(Value::as_array).cloned().unwrap_or_default();
    for toleration in class.get(&["scheduling", "tolerations"]).and_then(Value::as_array).into_iter().flatten() {
        if !tolerations.contains(toleration) {
            tolerations.push(toleration.clone());
        }
    }
    if !tolerations.is_empty() {
        pod.set(&["spec", "tolerations"], json!(tolerations));
    }
    Ok(())
}

#[async_trait]
impl AdmissionPlugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }
    async fn admit(&self, core: &Core, attributes: &Attributes<'_>, object: Option<&mut Object>, _old: Option<&Object>) -> Result<(), ApiError> {
        let Some(pod) = object.filter(|_| concerns(attributes)) else { return Ok(()) };
        let Some(class) = class_of(core, attributes, pod)? else { return Ok(()) };
        set_overhead(&class, pod).and_then(|()| set_scheduling(&class, pod)).map_err(|why| attributes.forbidden(why))
    }
    async fn validate(&self, core: &Core, attributes: &Attributes<'_>, object: Option<&Object>, _old: Option<&Object>) -> Result<(), ApiError> {
        let Some(pod) = object.filter(|_| concerns(attributes)) else { return Ok(()) };
        let given = pod.get(&["spec", "overhead"]).and_then(Value::as_object).filter(|overhead| !overhead.is_empty());
        let class = class_of(core, attributes, pod)?;
        let wanted = class.as_ref().and_then(overhead_of);
        match (given, wanted) {
            (Some(given), Some(wanted)) if !same(given, wanted) => {
                Err(attributes.forbidden("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"))
            }
            (Some(_), None) => Err(attributes.forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")),
            (None, Some(_)) => Err(attributes.forbidden("pod rejected: RuntimeClass defines Overhead, the Pod has none")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    #[test]
    fn a_class_gives_overhead_and_places() {
        let class = object(json!({"overhead": {"podFixed": {"cpu": "250m"}}, "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "t"}]}}));
        let mut pod = object(json!({"spec": {"tolerations": [{"key": "t"}], "nodeSelector": {"c": "d"}}}));
        set_overhead(&class, &mut pod).unwrap();
        set_scheduling(&class, &mut pod).unwrap();
        let expected = json!({"overhead": {"cpu": "250m"}, "nodeSelector": {"a": "b", "c": "d"}, "tolerations": [{"key": "t"}]});
        assert_eq!(pod.0["spec"], expected);
    }

    #[test]
    fn what_contradicts_the_class_is_refused() {
        let class = object(json!({"overhead": {"podFixed": {"cpu": "250m"}}, "scheduling": {"nodeSelector": {"a": "b"}}}));
        assert!(set_overhead(&class, &mut object(json!({"spec": {"overhead": {"cpu": "1"}}}))).is_err());
        assert!(set_overhead(&class, &mut object(json!({"spec": {"overhead": {"cpu": "0.25"}}}))).is_ok());
        assert!(set_scheduling(&class, &mut object(json!({"spec": {"nodeSelector": {"a": "x"}}}))).is_err());
    }
}
