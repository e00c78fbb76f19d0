//! The scale subresource: the number of replicas of any workload, as one small object.
//!
//! Source: Kubernetes `autoscaling/v1`, `Scale`; for custom resources the paths stand in their definition.

use std::sync::Arc;

use http::{Response, StatusCode};
use jiff::Timestamp;
use kinds::ServedKind;
use meta::{ApiError, FieldError, FieldPath, GroupVersionKind, Object, selector::LabelSelector};
use serde_json::{Value, json};
use store::Expect;

use crate::{
    codec,
    core::{Core, RequestContext},
    custom_resources::conversion,
    handler::{
        patch::{PatchType, patched},
        read,
        write::{Part, update_object},
    },
    http_body::{Body, Request, read_all},
    negotiation::{Form, negotiate, negotiate_whole},
    rendering::{encode_meta, respond},
};

/// Where a kind keeps what a Scale shows.
struct Places {
    spec_replicas: Vec<String>,
    status_replicas: Vec<String>,
    selector: Option<Vec<String>>,
}

fn split(path: &str) -> Vec<String> {
    path.trim_start_matches('.').split('.').map(str::to_owned).collect()
}

fn places(core: &Core, kind: &dyn ServedKind) -> Result<Places, ApiError> {
    let info = kind.info();
    if !info.custom {
        return Ok(Places { spec_replicas: split("spec.replicas"), status_replicas: split("status.replicas"), selector: Some(split("spec.selector")) });
    }
    let name = format!("{}.{}", info.plural, info.kind.group);
    let missing = || ApiError::internal(format!("the definition of {name} has no scale subresource"));
    let definition = core.view_named("customresourcedefinitions.apiextensions.k8s.io").get(&name).ok_or_else(missing)?;
    let definition = definition.object().map_err(ApiError::internal)?;
    let scale = definition
        .get(&["spec", "versions"])
        .and_then(Value::as_array)
        .and_then(|versions| versions.iter().find(|version| version.get("name").and_then(Value::as_str) == Some(&*info.kind.version)))
        .and_then(|version| version.pointer("/subresources/scale"))
        .ok_or_else(missing)?;
    let path = |name: &str| scale.get(name).and_then(Value::as_str).map(split);
    Ok(Places {
        spec_replicas: path("specReplicasPath").ok_or_else(missing)?,
        status_replicas: path("statusReplicasPath").ok_or_else(missing)?,
        selector: path("labelSelectorPath"),
    })
}

fn at<'a>(object: &'a Object, path: &[String]) -> Option<&'a Value> {
    let names: Vec<&str> = path.iter().map(String::as_str).collect();
    object.get(&names)
}

fn selector_text(selector: &Value) -> String {
    match selector {
        Value::String(text) => text.clone(),
        // ReplicationController: a plain map.
        Value::Object(map) if !map.contains_key("matchLabels") && !map.contains_key("matchExpressions") => {
            map.iter().map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default())).collect::<Vec<_>>().join(",")
        }
        other => LabelSelector::from_json(other).map(|selector| selector.to_string()).unwrap_or_default(),
    }
}

fn scale_of(object: &Object, places: &Places) -> Value {
    let mut metadata = json!({"name": object.name(), "namespace": object.namespace(), "uid": object.uid(), "resourceVersion": object.resource_version()});
    if let Some(created) = object.text(&["metadata", "creationTimestamp"]) {
        metadata["creationTimestamp"] = json!(created);
    }
    let number = |path: &[String]| at(object, path).and_then(Value::as_i64).unwrap_or_default();
    let mut status = json!({"replicas": number(&places.status_replicas)});
    if let Some(selector) = places.selector.as_deref().and_then(|path| at(object, path)) {
        status["selector"] = json!(selector_text(selector));
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": {"replicas": number(&places.spec_replicas)}, "status": status})
}

fn metadata_alone(scale: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": scale["metadata"]})
}

/// A Scale as people see it.
///
/// Source: Kubernetes `pkg/printers/internalversion/printers.go`, `printScale`.
fn table(scale: &Value, now: Timestamp) -> Value {
    let column = |name: &str, kind: &str, format: &str, description: &str| json!({"name": name, "type": kind, "format": format, "description": description, "priority": 0});
    let created = scale.pointer("/metadata/creationTimestamp").and_then(Value::as_str).and_then(|text| text.parse().ok());
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": scale["metadata"]["resourceVersion"]},
        "columnDefinitions": [
            column("Name", "string", "name", "The name, unique in its namespace."),
            column("Desired", "integer", "", "How many pods there should be."),
            column("Available", "integer", "", "How many pods there are."),
            column("Age", "string", "", "How long ago it was created."),
        ],
        "rows": [{
            "cells": [scale["metadata"]["name"], scale["spec"]["replicas"], scale["status"]["replicas"], kinds::plain::age(created, now)],
            "object": metadata_alone(scale),
        }],
    })
}

/// Answers get, update and patch of a scale.
///
/// # Errors
/// 404, 409, 422.
pub async fn handle(core: &Arc<Core>, context: RequestContext, kind: &Arc<dyn ServedKind>, request: Request) -> Result<Response<Body>, ApiError> {
    let negotiated = if context.info.verb == "get" { negotiate(&context.accept, true)? } else { negotiate_whole(&context.accept, true)? };
    let places = places(core, kind.as_ref())?;
    if context.info.verb == "get" {
        let stored = conversion::readable(core, kind, read::find(core, kind, &context.info.namespace, &context.info.name)?).await?;
        let scale = scale_of(&core.served_object(kind, &stored)?, &places);
        let scale = match negotiated.form {
            Form::Table => table(&scale, context.now),
            Form::Metadata => metadata_alone(&scale),
            _ => scale,
        };
        return Ok(respond(StatusCode::OK, negotiated, encode_meta(&scale, negotiated.encoding)?));
    }
    let scale_kind = GroupVersionKind::new("autoscaling", "v1", "Scale");
    let bytes = read_all(request.into_body()).await?;
    let wanted: Box<dyn Fn(&Object) -> Result<Object, ApiError> + Send + Sync> = match context.info.verb {
        "update" => {
            let scale = codec::read_meta(&context.content_type, &bytes, &scale_kind)?;
            Box::new(move |_| Ok(scale.clone()))
        }
        "patch" => {
            let patch_type = PatchType::of(&context.content_type, false)?;
            let patch = if patch_type == PatchType::Apply {
                meta::read::parse_untyped_yaml(&bytes).map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")))?
            } else {
                meta::read::parse_untyped(&bytes).map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?
            };
            let schema = api::schema(&scale_kind).ok_or_else(|| ApiError::internal("the shape of Scale is not known"))?;
            // An apply of so small an object is a merge: replicas is all it can own.
            let patch_type = if patch_type == PatchType::Apply { PatchType::Merge } else { patch_type };
            Box::new(move |current| {
                let mut result = patched(&schema, patch_type, &patch, current)?.object;
                if patch.pointer("/metadata/resourceVersion").is_none() {
                    result.metadata_mut().remove("resourceVersion");
                }
                Ok(result)
            })
        }
        verb => return Err(ApiError::method_not_allowed(format!("the server does not allow {verb} on a scale"))),
    };
    let compute = |old: Option<&Object>| {
        let Some(old) = old else { return Err(ApiError::not_found(&kind.info().group_resource(), &context.info.name)) };
        let current = Object::from_value(scale_of(old, &places)).map_err(|_| ApiError::internal("a Scale is an object"))?;
        let scale = wanted(&current)?;
        let replicas = scale.get(&["spec", "replicas"]).and_then(Value::as_i64).unwrap_or_default();
        if !(0..=i64::from(i32::MAX)).contains(&replicas) {
            let error = FieldError::invalid(&FieldPath::new("spec").child("replicas"), replicas, "must be greater than or equal to 0");
            return Err(ApiError::invalid(&scale_kind.group_kind(), old.name(), vec![error]));
        }
        let mut object = old.clone();
        let names: Vec<&str> = places.spec_replicas.iter().map(String::as_str).collect();
        object.set(&names, json!(replicas));
        match scale.resource_version() {
            "" | "0" => {
                object.metadata_mut().remove("resourceVersion");
            }
            version => object.set(&["metadata", "resourceVersion"], json!(version)),
        }
        Ok(object)
    };
    let written = update_object(core, &context, kind, Part::Exact, false, Expect::Absent, &compute).await?;
    let scale = scale_of(&core.served_object(kind, &written.stored)?, &places);
    Ok(respond(StatusCode::OK, negotiated, encode_meta(&scale, negotiated.encoding)?))
}
