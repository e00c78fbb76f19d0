//! The group `autoscaling`: HorizontalPodAutoscaler, in its two versions; the second is stored.

use api::autoscaling::v2::{CrossVersionObjectReference, HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscaler, MetricSpec, MetricTarget, ResourceMetricSource};
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object, quantity::Quantity, validation as rules};
use serde_json::{Value, json};

use crate::{
    cells,
    problems::filled,
    status_rules::counts,
    strategy::{Column, Strategy},
};

/// Second version.
pub struct AutoscalerStrategy;

/// First version: only processor usage has a field; the rest travels in annotations.
pub struct OldAutoscalerStrategy;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";

fn policy(kind: &str, value: i32, period_seconds: i32) -> HPAScalingPolicy {
    HPAScalingPolicy { type_: kind.to_owned(), value, period_seconds }
}

/// Fills in what a given set of rules lacks.
fn default_rules(rules: &mut HPAScalingRules, policies: Vec<HPAScalingPolicy>, window: Option<i32>) {
    rules.select_policy.get_or_insert_with(|| "Max".to_owned());
    rules.policies.get_or_insert(policies);
    if let Some(window) = window {
        rules.stabilization_window_seconds.get_or_insert(window);
    }
}

fn cpu_utilization(percent: i32) -> MetricSpec {
    MetricSpec {
        type_: "Resource".to_owned(),
        resource: Some(ResourceMetricSource {
            name: "cpu".to_owned(),
            target: MetricTarget { type_: "Utilization".to_owned(), average_utilization: Some(percent), ..MetricTarget::default() },
        }),
        ..MetricSpec::default()
    }
}

fn filled_with(text: &str, path: &FieldPath, detail: &str, problems: &mut Vec<FieldError>) {
    if text.is_empty() {
        problems.push(FieldError::required(path, detail));
    }
}

fn target_reference(reference: &CrossVersionObjectReference, path: &FieldPath, problems: &mut Vec<FieldError>) {
    for (field, text) in [("kind", &reference.kind), ("name", &reference.name)] {
        filled(text, &path.child(field), problems);
        problems.extend(rules::invalid_each(&path.child(field), text, rules::path_segment_problems(text)));
    }
}

fn metric_name(name: &str, path: &FieldPath, problems: &mut Vec<FieldError>) {
    filled_with(name, &path.child("name"), "must specify a metric name", problems);
    problems.extend(rules::invalid_each(&path.child("name"), name, rules::path_segment_problems(name)));
}

/// Source: Kubernetes `pkg/apis/autoscaling/validation/validation.go`, `validateMetricTarget`.
fn metric_target(target: &MetricTarget, path: &FieldPath, problems: &mut Vec<FieldError>) {
    if target.type_.is_empty() {
        problems.push(FieldError::required(&path.child("type"), "must specify a metric target type"));
    }
    if !matches!(target.type_.as_str(), "AverageValue" | "Utilization" | "Value") {
        let detail = "must be either Utilization, Value, or AverageValue";
        problems.push(FieldError::invalid(&path.child("type"), target.type_.as_str(), detail));
    }
    for (field, amount) in [("value", &target.value), ("averageValue", &target.average_value)] {
        let amount = amount.as_ref().and_then(|text| Quantity::parse(&text.0).ok());
        if let Some(amount) = amount.filter(|amount| amount.signum() <= 0) {
            problems.push(FieldError::invalid(&path.child(field), amount.to_string(), "must be positive"));
        }
    }
    if let Some(percent) = target.average_utilization.filter(|percent| *percent < 1) {
        problems.push(FieldError::invalid(&path.child("averageUtilization"), percent, "must be greater than 0"));
    }
}

fn resource_metric(name: &str, target: &MetricTarget, path: &FieldPath, problems: &mut Vec<FieldError>) {
    filled_with(name, &path.child("name"), "must specify a resource name", problems);
    let at = path.child("target");
    metric_target(target, &at, problems);
    match (target.average_utilization, &target.average_value) {
        (None, None) => problems.push(FieldError::required(&at.child("averageUtilization"), "must set either a target raw value or a target utilization")),
        (Some(_), Some(_)) => problems.push(FieldError::forbidden(&at.child("averageValue"), "may not set both a target raw value and a target utilization")),
        _ => {}
    }
}

impl Strategy for AutoscalerStrategy {
    type Kind = HorizontalPodAutoscaler;

    fn default(&self, autoscaler: &mut HorizontalPodAutoscaler) {
        let spec = &mut autoscaler.spec;
        if spec.metrics.as_ref().is_none_or(Vec::is_empty) {
            spec.metrics = Some(vec![cpu_utilization(80)]);
        }
        if let Some(behavior) = &mut spec.behavior {
            // Rules that are given at all are completed in both directions.
            let up = behavior.scale_up.get_or_insert_default();
            default_rules(up, vec![policy("Pods", 4, 15), policy("Percent", 100, 15)], Some(0));
            let down = behavior.scale_down.get_or_insert_default();
            default_rules(down, vec![policy("Percent", 100, 15)], None);
        }
    }
    fn validate(&self, autoscaler: &HorizontalPodAutoscaler) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec");
        let spec = &autoscaler.spec;
        let minimum = spec.min_replicas.unwrap_or(1);
        if minimum < 1 {
            problems.push(FieldError::invalid(&path.child("minReplicas"), minimum, "must be greater than or equal to 1"));
        }
        if spec.max_replicas < 1 {
            problems.push(FieldError::invalid(&path.child("maxReplicas"), spec.max_replicas, "must be greater than 0"));
        }
        if spec.max_replicas < minimum {
            problems.push(FieldError::invalid(&path.child("maxReplicas"), spec.max_replicas, "must be greater than or equal to `minReplicas`"));
        }
        target_reference(&spec.scale_target_ref, &path.child("scaleTargetRef"), &mut problems);
        for (index, metric) in spec.metrics.iter().flatten().enumerate() {
            let at = path.child("metrics").index(index);
            if metric.type_.is_empty() {
                problems.push(FieldError::required(&at.child("type"), "must specify a metric source type"));
                continue;
            }
            let (field, present) = match metric.type_.as_str() {
                "Object" => ("object", metric.object.is_some()),
                "Pods" => ("pods", metric.pods.is_some()),
                "Resource" => ("resource", metric.resource.is_some()),
                "External" => ("external", metric.external.is_some()),
                "ContainerResource" => ("containerResource", metric.container_resource.is_some()),
                other => {
                    let known = ["ContainerResource", "External", "Object", "Pods", "Resource"];
                    problems.push(FieldError::not_supported(&at.child("type"), other, &known));
                    continue;
                }
            };
            if !present {
                problems.push(FieldError::required(&at.child(field), "must populate information for the given metric source"));
            }
            let all = [
                ("object", metric.object.is_some()),
                ("external", metric.external.is_some()),
                ("pods", metric.pods.is_some()),
                ("resource", metric.resource.is_some()),
                ("containerResource", metric.container_resource.is_some()),
            ];
            for (other, _) in all.into_iter().filter(|(other, set)| *set && *other != field) {
                problems.push(FieldError::forbidden(&at.child(other), "must populate the given metric source only"));
            }
            if let Some(resource) = &metric.resource {
                resource_metric(&resource.name, &resource.target, &at.child("resource"), &mut problems);
            }
            if let Some(resource) = &metric.container_resource {
                filled_with(&resource.container, &at.child("containerResource").child("container"), "must specify a container", &mut problems);
                resource_metric(&resource.name, &resource.target, &at.child("containerResource"), &mut problems);
            }
            if let Some(object) = &metric.object {
                let at = at.child("object");
                target_reference(&object.described_object, &at.child("describedObject"), &mut problems);
                metric_name(&object.metric.name, &at.child("metric"), &mut problems);
                metric_target(&object.target, &at.child("target"), &mut problems);
                if object.target.value.is_none() && object.target.average_value.is_none() {
                    problems.push(FieldError::required(&at.child("target").child("averageValue"), "must set either a target value or averageValue"));
                }
            }
            if let Some(pods) = &metric.pods {
                let at = at.child("pods");
                metric_name(&pods.metric.name, &at.child("metric"), &mut problems);
                metric_target(&pods.target, &at.child("target"), &mut problems);
                if pods.target.average_value.is_none() {
                    problems.push(FieldError::required(&at.child("target").child("averageValue"), "must specify a positive target averageValue"));
                }
            }
            if let Some(external) = &metric.external {
                let at = at.child("external");
                metric_name(&external.metric.name, &at.child("metric"), &mut problems);
                metric_target(&external.target, &at.child("target"), &mut problems);
                match (&external.target.value, &external.target.average_value) {
                    (None, None) => {
                        let detail = "must set either a target value for metric or a per-pod target";
                        problems.push(FieldError::required(&at.child("target").child("averageValue"), detail));
                    }
                    (Some(_), Some(_)) => {
                        let detail = "may not set both a target value for metric and a per-pod target";
                        problems.push(FieldError::forbidden(&at.child("target").child("value"), detail));
                    }
                    _ => {}
                }
            }
        }
        problems
    }
    fn validate_status_update(&self, autoscaler: &HorizontalPodAutoscaler, _old: &HorizontalPodAutoscaler) -> Vec<FieldError> {
        let mut problems = Vec::new();
        if let Some(status) = &autoscaler.status {
            counts(&[("currentReplicas", status.current_replicas), ("desiredReplicas", Some(status.desired_replicas))], &mut problems);
        }
        problems
    }
    fn columns(&self) -> &'static [Column] {
        const { &[
            Column::NAME,
            Column::text("Reference", "What it scales."),
            Column::text("Targets", "Present and wanted values of its metrics."),
            Column::text("MinPods", "Fewest pods."),
            Column::text("MaxPods", "Most pods."),
            Column::text("Replicas", "Pods there are."),
            Column::AGE,
        ] }
    }
    fn row(&self, autoscaler: &HorizontalPodAutoscaler, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let spec = &autoscaler.spec;
        let current = raw.get(&["status", "currentMetrics"]).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        vec![
            raw.name().into(),
            format!("{}/{}", spec.scale_target_ref.kind, spec.scale_target_ref.name).into(),
            targets(spec.metrics.as_deref().unwrap_or_default(), current).into(),
            spec.min_replicas.map_or_else(|| "<unset>".to_owned(), |number| number.to_string()).into(),
            spec.max_replicas.into(),
            autoscaler.status.as_ref().and_then(|status| status.current_replicas).unwrap_or_default().into(),
            cells::created(raw),
        ]
    }
}

fn value_of(values: Option<&Value>) -> String {
    let text = |name: &str| values.and_then(|values| values.get(name)).and_then(Value::as_str).map(str::to_owned);
    let percent = values.and_then(|values| values.get("averageUtilization")).and_then(Value::as_i64).map(|percent| format!("{percent}%"));
    match (percent, text("averageValue"), text("value")) {
        (Some(percent), _, _) => percent,
        (None, Some(average), _) => average,
        (None, None, Some(value)) => value,
        (None, None, None) => "<unknown>".to_owned(),
    }
}

/// `cpu: 12%/80%`, at most two metrics and how many more there are.
fn targets(metrics: &[MetricSpec], current: &[Value]) -> String {
    let mut list = Vec::new();
    for (index, metric) in metrics.iter().enumerate().take(2) {
        let field = match metric.type_.as_str() {
            "Object" => "object",
            "Pods" => "pods",
            "External" => "external",
            "ContainerResource" => "containerResource",
            _ => "resource",
        };
        let wanted = serde_json::to_value(metric).unwrap_or_default();
        let target = wanted.get(field).and_then(|source| source.get("target"));
        let now = value_of(current.get(index).and_then(|status| status.get(field)).and_then(|status| status.get("current")));
        let average = if matches!(field, "object" | "external") && target.is_some_and(|target| target.get("averageValue").is_some()) { " (avg)" } else { "" };
        let name = wanted.get(field).and_then(|source| source.get("name")).and_then(Value::as_str);
        let prefix = name.map(|name| format!("{name}: ")).unwrap_or_default();
        list.push(format!("{prefix}{now}/{}{average}", value_of(target)));
    }
    match metrics.len() {
        0 => "<none>".to_owned(),
        count if count > 2 => format!("{} + {} more...", list.join(", "), count - 2),
        _ => list.join(", "),
    }
}

/// Whether a metric is usage of the processor in percent of what was requested.
fn is_cpu_utilization(metric: &Value) -> Option<i64> {
    let resource = metric.get("resource").filter(|resource| resource.get("name").and_then(Value::as_str) == Some("cpu"))?;
    resource.get("target").or_else(|| resource.get("current"))?.get("averageUtilization")?.as_i64()
}

/// Takes the usage of the processor out of a list of metrics and leaves the rest as text.
fn split(list: Option<Value>) -> (Option<i64>, Option<String>) {
    let Some(Value::Array(mut list)) = list else { return (None, None) };
    let position = list.iter().position(|metric| is_cpu_utilization(metric).is_some());
    let percent = position.map(|position| list.remove(position)).and_then(|metric| is_cpu_utilization(&metric));
    (percent, (!list.is_empty()).then(|| Value::Array(list).to_string()))
}

/// The reverse: text of an annotation as a list.
fn list_of(annotation: Option<Value>) -> Vec<Value> {
    annotation.and_then(|text| serde_json::from_str(text.as_str()?).ok()).unwrap_or_default()
}

impl Strategy for OldAutoscalerStrategy {
    type Kind = api::autoscaling::v1::HorizontalPodAutoscaler;

    fn from_storage(&self, mut object: Object) -> Result<Object, String> {
        let (percent, metrics) = split(object.remove(&["spec", "metrics"]));
        let (current_percent, current) = split(object.remove(&["status", "currentMetrics"]));
        if let Some(percent) = percent {
            object.set(&["spec", "targetCPUUtilizationPercentage"], percent.into());
        }
        if let Some(percent) = current_percent {
            object.set(&["status", "currentCPUUtilizationPercentage"], percent.into());
        }
        if let Some(Value::Object(status)) = object.0.get_mut("status") {
            // What this version must have, and the other leaves out where it is zero.
            status.entry("currentReplicas").or_insert_with(|| 0.into());
        }
        let behavior = object.remove(&["spec", "behavior"]).map(|behavior| behavior.to_string());
        let conditions = object.remove(&["status", "conditions"]).map(|conditions| conditions.to_string());
        for (key, text) in [(METRICS, metrics), (CURRENT, current), (BEHAVIOR, behavior), (CONDITIONS, conditions)] {
            if let Some(text) = text {
                object.set(&["metadata", "annotations", key], text.into());
            }
        }
        object.0.insert("apiVersion".to_owned(), "autoscaling/v1".into());
        Ok(object)
    }
    fn to_storage(&self, mut object: Object) -> Result<Object, String> {
        let mut metrics = list_of(object.remove(&["metadata", "annotations", METRICS]));
        if let Some(percent) = object.remove(&["spec", "targetCPUUtilizationPercentage"]) {
            let target = json!({"type": "Utilization", "averageUtilization": percent});
            metrics.insert(0, json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
        }
        let mut current = list_of(object.remove(&["metadata", "annotations", CURRENT]));
        if let Some(percent) = object.remove(&["status", "currentCPUUtilizationPercentage"]) {
            current.insert(0, json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent}}}));
        }
        let parsed = |text: Option<Value>| text.and_then(|text| serde_json::from_str::<Value>(text.as_str()?).ok());
        let behavior = parsed(object.remove(&["metadata", "annotations", BEHAVIOR]));
        let conditions = parsed(object.remove(&["metadata", "annotations", CONDITIONS]));
        if object.annotations().is_some_and(serde_json::Map::is_empty) {
            object.remove(&["metadata", "annotations"]);
        }
        let lists = [(["spec", "metrics"], metrics), (["status", "currentMetrics"], current)];
        for (path, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            object.set(&path, Value::Array(list));
        }
        if let Some(behavior) = behavior {
            object.set(&["spec", "behavior"], behavior);
        }
        if let Some(conditions) = conditions {
            object.set(&["status", "conditions"], conditions);
        }
        object.0.insert("apiVersion".to_owned(), "autoscaling/v2".into());
        Ok(object)
    }
    fn default(&self, autoscaler: &mut Self::Kind) {
        let others = autoscaler.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(METRICS));
        if !others {
            autoscaler.spec.target_cpu_utilization_percentage.get_or_insert(80);
        }
    }
    fn validate(&self, autoscaler: &Self::Kind) -> Vec<FieldError> {
        // Both versions are judged in the stored form.
        let Ok(object) = Object::encode(autoscaler) else { return Vec::new() };
        let stored = self.to_storage(object).ok().and_then(|object| object.decode().ok());
        stored.map(|stored| AutoscalerStrategy.validate(&stored)).unwrap_or_default()
    }
    fn validate_status_update(&self, autoscaler: &Self::Kind, _old: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        if let Some(status) = &autoscaler.status {
            counts(&[("currentReplicas", Some(status.current_replicas)), ("desiredReplicas", Some(status.desired_replicas))], &mut problems);
        }
        problems
    }
    fn columns(&self) -> &'static [Column] {
        AutoscalerStrategy.columns()
    }
    fn row(&self, _autoscaler: &Self::Kind, raw: &Object, now: Timestamp) -> Vec<Value> {
        let Ok(stored) = self.to_storage(raw.clone()) else { return vec![raw.name().into()] };
        match stored.decode() {
            Ok(typed) => AutoscalerStrategy.row(&typed, &stored, now),
            Err(_) => vec![raw.name().into()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_version_keeps_what_only_the_second_knows() {
        let stored = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "x"}, "spec": {
            "metrics": [
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
                {"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "1"}}},
            ],
            "behavior": {"scaleUp": {"selectPolicy": "Max"}},
        }});
        let stored = Object::from_value(stored).unwrap();
        let old = OldAutoscalerStrategy.from_storage(stored.clone()).unwrap();
        assert_eq!(old.get(&["spec", "targetCPUUtilizationPercentage"]), Some(&json!(50)));
        assert_eq!(OldAutoscalerStrategy.to_storage(old).unwrap(), stored);
    }
}
