//! Resources that somebody else put into the capacity of this node may be used by pods: what the capacity says of them is repeated
//! in what pods may use.
//!
//! Source: Kubernetes `kubelet/nodestatus`, `MachineInfo`.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::api::resource::Quantity};
use serde_json::{Map, Value, json};

/// What has to change in `status.allocatable`; a resource that left the capacity becomes null.
pub fn changes(node: &Node) -> Map<String, Value> {
    let Some(status) = &node.status else { return Map::new() };
    let (capacity, allocatable) = (status.capacity.as_ref(), status.allocatable.as_ref());
    // Names of others have a domain; ours have none.
    let names: BTreeSet<&String> = capacity.into_iter().chain(allocatable).flat_map(|list| list.keys()).filter(|name| name.contains('/')).collect();
    let amount = |list: Option<&BTreeMap<String, Quantity>>, name: &String| list.and_then(|list| list.get(name)).cloned();
    names
        .into_iter()
        .map(|name| (name, amount(capacity, name), amount(allocatable, name)))
        .filter(|(_, wanted, known)| wanted != known)
        .map(|(name, wanted, _)| (name.clone(), json!(wanted)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes_of(capacity: Value, allocatable: Value) -> Value {
        Value::Object(changes(&serde_json::from_value(json!({"metadata": {}, "status": {"capacity": capacity, "allocatable": allocatable}})).unwrap()))
    }

    #[test]
    fn what_others_offer_follows_the_capacity() {
        assert_eq!(changes_of(json!({"cpu": "2", "example.com/card": "5"}), json!({"cpu": "1"})), json!({"example.com/card": "5"}));
        assert_eq!(changes_of(json!({"cpu": "2"}), json!({"cpu": "1", "example.com/card": "5"})), json!({"example.com/card": null}));
        assert_eq!(changes_of(json!({"example.com/card": "5"}), json!({"example.com/card": "5"})), json!({}));
    }
}
