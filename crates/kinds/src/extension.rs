//! APIService, which lends a group to another server. CustomResourceDefinition has its behaviour in the API server, beside
//! the reader of its schemas.

use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object, validation as rules};
use serde_json::{Map, Value, json};

use crate::{
    cells,
    problems::filled,
    strategy::{Column, NameRule, Strategy, WriteContext},
};

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn is_local(spec: &Value) -> bool {
    spec.get("service").is_none_or(Value::is_null)
}

/// Behaviour of APIServices.
pub struct ApiServiceStrategy;

impl Strategy for ApiServiceStrategy {
    type Kind = Map<String, Value>;

    /// What is served here is so at once. Source: Kubernetes `kube-aggregator/pkg/registry/apiservice/strategy.go`, `PrepareForCreate`.
    fn prepare_create(&self, context: &WriteContext, service: &mut Self::Kind) {
        service.remove("status");
        if is_local(service.get("spec").unwrap_or(&Value::Null)) {
            let since = context.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let condition = json!({
                "type": "Available", "status": "True", "reason": "Local", "message": "Local APIServices are always available",
                "lastTransitionTime": since,
            });
            service.insert("status".to_owned(), json!({"conditions": [condition]}));
        }
    }
    fn validate(&self, service: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec");
        let spec = service.get("spec").unwrap_or(&Value::Null);
        let wanted = format!("{}.{}", text(spec, "version"), text(spec, "group"));
        let name = service.get("metadata").map(|metadata| text(metadata, "name")).unwrap_or_default();
        if name != wanted {
            problems.push(FieldError::invalid(&FieldPath::new("metadata").child("name"), name, format!("must be `spec.version+\".\"+spec.group`: {wanted:?}")));
        }
        filled(text(spec, "version"), &path.child("version"), &mut problems);
        let (group, version) = (text(spec, "group"), text(spec, "version"));
        if !group.is_empty() {
            problems.extend(rules::invalid_each(&path.child("group"), group, rules::dns1123_subdomain_problems(group)));
        }
        if !version.is_empty() {
            problems.extend(rules::invalid_each(&path.child("version"), version, rules::dns1035_label_problems(version)));
        }
        let local = is_local(spec);
        let (bundle, insecure) = (spec.get("caBundle").is_some(), spec.get("insecureSkipTLSVerify").and_then(Value::as_bool) == Some(true));
        if local && bundle {
            let detail = "local APIServices may not have a caBundle";
            problems.push(FieldError::invalid(&path.child("caBundle"), format!("{} bytes", text(spec, "caBundle").len()), detail));
        }
        if insecure && (local || bundle) {
            let detail = if local { "local APIServices may not have insecureSkipTLSVerify" } else { "may not be true if caBundle is present" };
            problems.push(FieldError::invalid(&path.child("insecureSkipTLSVerify"), true, detail));
        }
        for (field, low, high) in [("groupPriorityMinimum", 0, 20_000), ("versionPriority", 0, 1000)] {
            let number = spec.get(field).and_then(Value::as_i64).unwrap_or_default();
            if number <= low || number > high {
                let detail = format!("must be positive and less than {high}");
                problems.push(FieldError::invalid(&path.child(field), number, detail));
            }
        }
        if let Some(target) = spec.get("service").filter(|target| target.is_object()) {
            filled(text(target, "namespace"), &path.child("service").child("namespace"), &mut problems);
            filled(text(target, "name"), &path.child("service").child("name"), &mut problems);
        }
        problems
    }
    fn status_keeps_metadata(&self) -> bool {
        true
    }
    fn name_rule(&self) -> NameRule {
        // That of the core group ends with a dot.
        NameRule::PathSegment
    }
    fn allows_unconditional_update(&self) -> bool {
        false
    }
    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::text("Service", "Who serves it."), Column::text("Available", "Whether it is served."), Column::AGE] }
    }
    fn row(&self, service: &Self::Kind, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let target = service.get("spec").and_then(|spec| spec.get("service")).filter(|target| target.is_object());
        let conditions = service.get("status").and_then(|status| status.get("conditions")).and_then(Value::as_array).map(Vec::as_slice);
        let available = conditions.unwrap_or_default().iter().find(|condition| text(condition, "type") == "Available");
        let words = match available {
            Some(condition) if text(condition, "status") == "True" => "True".to_owned(),
            Some(condition) => format!("{} ({})", text(condition, "status"), text(condition, "reason")),
            None => "Unknown".to_owned(),
        };
        vec![
            raw.name().into(),
            target.map_or_else(|| "Local".to_owned(), |target| format!("{}/{}", text(target, "namespace"), text(target, "name"))).into(),
            words.into(),
            cells::created(raw),
        ]
    }
}
