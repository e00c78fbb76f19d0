//! Definitions of custom resources whose schemas have everything that structural schemas can say.

use serde_json::{Value, json};
use testkit::api_harness::Caller;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
pub const GROUP: &str = "fuzz.example.com";

fn schema() -> Value {
    let part = json!({"type": "object", "required": ["name"], "properties": {
        "name": {"type": "string"}, "port": {"type": "integer", "default": 1}, "note": {"type": "string", "nullable": true},
    }});
    let condition = json!({"type": "object", "required": ["type"], "properties": {
        "type": {"type": "string"}, "status": {"type": "string", "enum": ["True", "False"], "default": "True"},
        "lastTransitionTime": {"type": "string", "format": "date-time"},
    }});
    json!({"type": "object", "required": ["spec"], "properties": {
        "spec": {"type": "object", "required": ["name"], "properties": {
            "name": {"type": "string", "default": "unnamed", "minLength": 1, "maxLength": 20, "pattern": "^[a-z.]*$"},
            "maybe": {"type": "string", "nullable": true},
            "perhaps": {"type": "integer", "nullable": true, "default": null},
            "port": {"x-kubernetes-int-or-string": true, "default": 80, "anyOf": [{"type": "integer"}, {"type": "string"}]},
            "size": {"type": "integer", "format": "int32", "minimum": 0, "maximum": 100, "default": 3},
            "long": {"type": "integer", "format": "int64", "exclusiveMinimum": true, "minimum": -5},
            "ratio": {"type": "number", "multipleOf": 0.5},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"known": {"type": "string", "default": "here"}}},
            "anything": {"x-kubernetes-preserve-unknown-fields": true},
            "inner": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
            "shaped": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object", "properties": {"a": {"type": "string"}}}}},
            "parts": {"type": "array", "maxItems": 5, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name", "port"], "items": part},
            "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "whole": {"type": "array", "x-kubernetes-list-type": "atomic", "minItems": 1, "items": {"type": "object", "additionalProperties": {"type": "string"}}},
            "table": {"type": "object", "maxProperties": 3, "additionalProperties": {"type": "object", "default": {}, "properties": {"a": {"type": "boolean", "default": true}}}},
            "fixed": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {"a": {"type": "string"}}},
            "choice": {"type": "string", "enum": ["a", "b"]},
            "when": {"type": "string", "format": "date-time"},
            "bytes": {"type": "string", "format": "byte"},
            "either": {"type": "object", "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}}, "oneOf": [{"required": ["x"]}, {"required": ["y"]}]},
            "not": {"type": "object", "properties": {"z": {"type": "string"}}, "not": {"required": ["z"]}},
            "replicas": {"type": "integer", "format": "int32", "minimum": 0},
        }},
        "status": {"type": "object", "properties": {
            "replicas": {"type": "integer"}, "selector": {"type": "string"},
            "conditions": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"], "items": condition},
        }},
    }})
}

/// Definitions, with an object that is valid each.
pub fn definitions() -> [(Value, Value); 2] {
    let subresources = json!({"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}});
    let version = |name: &str, storage: bool| {
        json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": schema()}, "subresources": subresources,
            "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}, {"name": "When", "type": "date", "jsonPath": ".spec.when"}],
            "selectableFields": [{"jsonPath": ".spec.name"}]})
    };
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    [
        (
            json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": format!("gadgets.{GROUP}")}, "spec": {
                "group": GROUP, "scope": "Namespaced", "names": {"plural": "gadgets", "kind": "Gadget"}, "versions": [version("v1", true), version("v2", false)],
            }}),
            json!({"spec": {"name": "a", "maybe": null, "port": "http", "free": {"other": 1}, "anything": [1], "inner": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}},
                "parts": [{"name": "a"}, {"name": "a", "port": 2}], "tags": ["a", "b"], "whole": [{"a": "b"}], "table": {"a": {}, "b": {"a": false}}, "fixed": {"a": "b"},
                "either": {"x": 1}, "replicas": 1, "when": "2026-01-01T00:00:00Z"}, "status": {"conditions": [{"type": "Ready"}]}}),
        ),
        (
            json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": format!("things.{GROUP}")}, "spec": {
                "group": GROUP, "scope": "Cluster", "names": {"plural": "things", "kind": "Thing"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": open}}],
            }}),
            json!({"data": {"a": [1, 2.5, null, {"b": "c"}]}, "spec": {"a": "b"}}),
        ),
    ]
}

/// Makes the definitions and waits until their kinds are served.
pub async fn define(caller: &Caller) {
    for (definition, _) in definitions() {
        caller.post(DEFINITIONS, &definition).await.expect(201);
    }
    for (definition, _) in definitions() {
        let name = definition["metadata"]["name"].as_str().unwrap_or_default();
        let mut watch = caller.watch(&format!("{DEFINITIONS}?watch=true&fieldSelector=metadata.name={name}")).await;
        loop {
            let event = watch.next().await.expect("the watch goes on");
            let conditions = event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
            if conditions.iter().any(|condition| condition["type"] == "Established" && condition["status"] == "True") {
                break;
            }
        }
    }
}
