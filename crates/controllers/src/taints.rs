//! Taints of nodes and tolerations of pods.

use k8s_openapi::api::core::v1::{Node, Taint, Toleration};

pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
pub const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
pub const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
pub const NO_SCHEDULE: &str = "NoSchedule";
pub const NO_EXECUTE: &str = "NoExecute";

/// A node's taints.
pub fn of(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

/// Whether a toleration covers a taint.
/// Source: Kubernetes 1.36, `Toleration.ToleratesTaint`.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    let wanted = toleration.value.as_deref().unwrap_or_default();
    let value = taint.value.as_deref().unwrap_or_default();
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => !key.is_empty() && wanted == value,
        "Exists" => true,
        "Lt" => matches!((value.parse::<i64>(), wanted.parse::<i64>()), (Ok(value), Ok(wanted)) if value < wanted),
        "Gt" => matches!((value.parse::<i64>(), wanted.parse::<i64>()), (Ok(value), Ok(wanted)) if value > wanted),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(key: &str, operator: &str, value: &str, effect: &str, expected: bool) {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let toleration = Toleration { key: some(key), operator: some(operator), value: some(value), effect: some(effect), toleration_seconds: None };
        let taint = Taint { key: "k".to_owned(), value: Some("v".to_owned()), effect: NO_EXECUTE.to_owned(), time_added: None };
        assert_eq!(tolerates(&toleration, &taint), expected, "{toleration:?}");
    }

    #[test]
    fn tolerations_match_by_key_value_and_effect() {
        check("k", "Equal", "v", "NoExecute", true);
        check("k", "", "v", "", true);
        check("k", "", "w", "", false);
        check("k", "Exists", "", "", true);
        check("", "Exists", "", "", true);
        check("", "Exists", "", "NoSchedule", false);
        check("other", "Exists", "", "", false);
    }
}
