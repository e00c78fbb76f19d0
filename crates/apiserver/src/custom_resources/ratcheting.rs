//! Mistakes that were there before an update, in values it does not touch, do not stop it.
//!
//! Source: KEP-4008, validation ratcheting of custom resources.

use meta::{FieldError, FieldErrorKind, Object};
use serde_json::Value;

/// What the update itself is to blame for.
pub fn new_problems(problems: Vec<FieldError>, new: &Object, old: &Object) -> Vec<FieldError> {
    problems.into_iter().filter(|problem| !stood_before(problem, new, old)).collect()
}

fn stood_before(problem: &FieldError, new: &Object, old: &Object) -> bool {
    let mut steps = steps(problem.path.as_str());
    // What is missing is missing in the object around it.
    if problem.kind == FieldErrorKind::Required {
        steps.pop();
    }
    if steps.is_empty() {
        return false;
    }
    matches!((at(new, &steps), at(old, &steps)), (Some(new), Some(old)) if new == old)
}

/// Names and indexes of a path. Keys with dots in them read as several names and are then not found: the mistake counts.
fn steps(path: &str) -> Vec<&str> {
    path.split(['.', '[', ']']).filter(|step| !step.is_empty()).collect()
}

fn at<'a>(object: &'a Object, steps: &[&str]) -> Option<&'a Value> {
    let (first, rest) = steps.split_first()?;
    rest.iter().try_fold(object.0.get(*first)?, |value, step| match value {
        Value::Array(list) => list.get(step.parse::<usize>().ok()?),
        Value::Object(map) => map.get(*step),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use meta::FieldPath;
    use serde_json::json;

    #[test]
    fn only_untouched_values_are_forgiven() {
        let old = Object::from_value(json!({"spec": {"list": [{"a": 1}], "other": 1}})).unwrap();
        let new = Object::from_value(json!({"spec": {"list": [{"a": 1}], "other": 2}})).unwrap();
        let at = |path: &str| FieldError::invalid(&FieldPath::new(path), 1, "wrong");
        assert!(new_problems(vec![at("spec.list[0].a")], &new, &old).is_empty());
        assert_eq!(new_problems(vec![at("spec.other")], &new, &old).len(), 1);
        let missing = |path: &str| FieldError::required(&FieldPath::new(path), "");
        assert!(new_problems(vec![missing("spec.list[0].b")], &new, &old).is_empty());
        assert_eq!(new_problems(vec![missing("spec.b")], &new, &old).len(), 1);
    }
}
