//! Requests and limits that containers get where they say none.

use api::core::v1::LimitRangeItem;
use meta::Object;
use serde_json::{Value, json};

/// Fills in what containers leave out; what was filled in, in words.
pub fn fill(items: &[LimitRangeItem], pod: &mut Object) -> Vec<String> {
    let of_containers: Vec<&LimitRangeItem> = items.iter().filter(|item| item.type_ == "Container").collect();
    let mut told = Vec::new();
    if of_containers.is_empty() {
        return told;
    }
    for (list, noun) in [("containers", "container"), ("initContainers", "init container")] {
        let containers = pod.0.get_mut("spec").and_then(|spec| spec.get_mut(list)).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let name = container.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
            for (field, word) in [("requests", "request"), ("limits", "limit")] {
                let mut set: Vec<String> = Vec::new();
                for item in &of_containers {
                    let defaults = if field == "requests" { &item.default_request } else { &item.default };
                    for (resource, amount) in defaults.iter().flatten() {
                        let present = container.pointer(&format!("/resources/{field}")).and_then(|list| list.get(resource)).is_some();
                        if !present && put(container, field, resource, &amount.0) {
                            set.push(resource.clone());
                        }
                    }
                }
                if !set.is_empty() {
                    set.sort();
                    told.push(format!("{} {word} for {noun} {name}", set.join(", ")));
                }
            }
        }
    }
    told
}

fn put(container: &mut Value, field: &str, resource: &str, amount: &str) -> bool {
    let list = container.as_object_mut().map(|fields| fields.entry("resources").or_insert_with(|| json!({})));
    let list = list.and_then(Value::as_object_mut).map(|resources| resources.entry(field).or_insert_with(|| json!({})));
    match list.and_then(Value::as_object_mut) {
        Some(list) => {
            list.insert(resource.to_owned(), json!(amount));
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_container_says_stays_and_the_rest_is_filled_in() {
        let item = serde_json::from_value(json!({
            "type": "Container", "default": {"cpu": "500m", "memory": "500Mi"}, "defaultRequest": {"cpu": "100m"},
        }))
        .unwrap();
        let containers = json!([{"name": "a"}, {"name": "b", "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}}]);
        let mut pod = Object::from_value(json!({"spec": {"containers": containers}})).unwrap();
        let told = fill(&[item], &mut pod);
        assert_eq!(told, ["cpu request for container a", "cpu, memory limit for container a", "memory limit for container b"]);
        let container = |index: usize| pod.0["spec"]["containers"][index]["resources"].clone();
        assert_eq!(container(0), json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "500m", "memory": "500Mi"}}));
        assert_eq!(container(1), json!({"requests": {"cpu": "1"}, "limits": {"cpu": "1", "memory": "500Mi"}}));
    }
}
