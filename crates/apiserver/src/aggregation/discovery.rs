//! Resources of other servers in the aggregated form of discovery, which they need not speak themselves.

use serde_json::{Map, Value, json};

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// The kind of a listed resource; group and version are told only where they differ from the list's.
fn response_kind(resource: &Value, group: &str, version: &str) -> Value {
    let own_version = text(resource, "version");
    let (group, version) = if own_version.is_empty() { (group, version) } else { (text(resource, "group"), own_version) };
    json!({"group": group, "version": version, "kind": text(resource, "kind")})
}

/// The entries of an `APIResourceList` as entries of an `APIGroupDiscoveryList`: subresources inside their resource.
pub fn aggregated(resources: &[Value], group: &str, version: &str) -> Vec<Value> {
    let whole = resources.iter().filter(|resource| !text(resource, "name").contains('/'));
    whole
        .map(|resource| {
            let name = text(resource, "name");
            let mut entry = Map::new();
            entry.insert("resource".to_owned(), json!(name));
            entry.insert("responseKind".to_owned(), response_kind(resource, group, version));
            entry.insert("scope".to_owned(), json!(if resource["namespaced"] == true { "Namespaced" } else { "Cluster" }));
            entry.insert("singularResource".to_owned(), json!(text(resource, "singularName")));
            entry.insert("verbs".to_owned(), resource["verbs"].clone());
            for field in ["shortNames", "categories"] {
                if resource[field].is_array() {
                    entry.insert(field.to_owned(), resource[field].clone());
                }
            }
            let parts: Vec<Value> = resources
                .iter()
                .filter_map(|part| {
                    let subresource = text(part, "name").strip_prefix(name)?.strip_prefix('/')?;
                    Some(json!({"subresource": subresource, "responseKind": response_kind(part, group, version), "verbs": part["verbs"]}))
                })
                .collect();
            if !parts.is_empty() {
                entry.insert("subresources".to_owned(), json!(parts));
            }
            Value::Object(entry)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subresources_go_inside_their_resource() {
        let listed = [
            json!({"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get"], "shortNames": ["fl"]}),
            json!({"name": "flunders/scale", "singularName": "", "namespaced": true, "group": "autoscaling", "version": "v1", "kind": "Scale", "verbs": ["get"]}),
        ];
        assert_eq!(
            aggregated(&listed, "wardle.example.com", "v1alpha1"),
            [json!({
                "resource": "flunders", "singularResource": "flunder", "scope": "Namespaced", "verbs": ["get"], "shortNames": ["fl"],
                "responseKind": {"group": "wardle.example.com", "version": "v1alpha1", "kind": "Flunder"},
                "subresources": [{"subresource": "scale", "verbs": ["get"], "responseKind": {"group": "autoscaling", "version": "v1", "kind": "Scale"}}],
            })]
        );
    }
}
