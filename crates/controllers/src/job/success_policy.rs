//! When an indexed Job has succeeded although not all of its indexes have, by the rules the user gave.

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1::SuccessPolicy;

use super::indexes;

/// Why the Job has succeeded; `None` when it has not yet.
/// Source: Kubernetes 1.36, `matchSuccessPolicy`.
pub(super) fn met(policy: &SuccessPolicy, succeeded: &BTreeSet<i32>, completions: i32) -> Option<String> {
    let matches = |rule: &k8s_openapi::api::batch::v1::SuccessPolicyRule| {
        let wanted = rule.succeeded_indexes.as_ref().map(|text| indexes::parse(text, completions));
        let found = match &wanted {
            Some(wanted) => succeeded.intersection(wanted).count(),
            None => succeeded.len(),
        };
        match (rule.succeeded_count, &wanted) {
            (Some(count), _) => usize::try_from(count).is_ok_and(|count| found >= count),
            (None, Some(wanted)) => found >= wanted.len(),
            (None, None) => false,
        }
    };
    let number = policy.rules.iter().position(matches)?;
    Some(format!("Matched rules at index {number}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_ask_for_indexes_or_a_count_or_both() {
        let is_met = |rule: serde_json::Value, succeeded: &[i32]| {
            let policy: SuccessPolicy = serde_json::from_value(json!({ "rules": [rule] })).unwrap();
            met(&policy, &succeeded.iter().copied().collect(), 10).is_some()
        };
        assert!(is_met(json!({ "succeededIndexes": "0-1" }), &[0, 1]));
        assert!(!is_met(json!({ "succeededIndexes": "0-1" }), &[0, 2]));
        assert!(is_met(json!({ "succeededCount": 2 }), &[5, 7]));
        assert!(is_met(json!({ "succeededIndexes": "0-3", "succeededCount": 2 }), &[0, 3, 9]));
        assert!(!is_met(json!({ "succeededIndexes": "0-3", "succeededCount": 2 }), &[0, 9]));
    }
}
