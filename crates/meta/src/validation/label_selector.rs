//! Labels and label selectors inside objects.

use serde_json::{Map, Value};

use super::{invalid_each, label_value_problems, qualified_name_problems};
use crate::field::{FieldError, FieldPath};

/// Keys and values of labels.
pub fn validate_labels(labels: &Map<String, Value>, path: &FieldPath) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, value) in labels {
        errors.extend(invalid_each(path, key, qualified_name_problems(key)));
        let value = value.as_str().unwrap_or_default();
        errors.extend(invalid_each(path, value, label_value_problems(value)));
    }
    errors
}

/// A `metav1.LabelSelector`.
pub fn validate_label_selector(selector: &Value, path: &FieldPath) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
        errors.extend(validate_labels(labels, &path.child("matchLabels")));
    }
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    for (index, expression) in expressions.into_iter().flatten().enumerate() {
        let path = path.child("matchExpressions").index(index);
        let text = |name: &str| expression.get(name).and_then(Value::as_str).unwrap_or_default();
        let values = expression.get("values").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        match text("operator") {
            "In" | "NotIn" if values.is_empty() => {
                errors.push(FieldError::required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'"));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.push(FieldError::forbidden(&path.child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.push(FieldError::invalid(&path.child("operator"), other, "not a valid selector operator")),
        }
        errors.extend(invalid_each(&path.child("key"), text("key"), qualified_name_problems(text("key"))));
        for (index, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            errors.extend(invalid_each(&path.child("values").index(index), value, label_value_problems(value)));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_are_judged_by_their_parts() {
        let selector = json!({
            "matchLabels": {"a": "b", "-": "c_"},
            "matchExpressions": [
                {"key": "a", "operator": "In"},
                {"key": "a", "operator": "Exists", "values": ["x"]},
                {"key": "a", "operator": "Is"},
                {"key": "", "operator": "Exists"},
                {"key": "a", "operator": "NotIn", "values": ["x", "-"]},
            ]
        });
        let paths: Vec<String> = validate_label_selector(&selector, &FieldPath::new("spec.selector")).iter().map(|error| error.path.to_string()).collect();
        assert_eq!(
            paths,
            [
                "spec.selector.matchLabels",
                "spec.selector.matchLabels",
                "spec.selector.matchExpressions[0].values",
                "spec.selector.matchExpressions[1].values",
                "spec.selector.matchExpressions[2].operator",
                "spec.selector.matchExpressions[3].key",
                "spec.selector.matchExpressions[3].key",
                "spec.selector.matchExpressions[4].values[1]",
            ]
        );
        assert_eq!(validate_label_selector(&json!({}), &FieldPath::root()), []);
    }
}
