//! patch: JSON patch, merge patch, strategic merge and server-side apply, each as a function from object to object.

use std::sync::Arc;

use http::{Response, StatusCode};
use kinds::ServedKind;
use meta::{ApiError, Object, Reason, managed_fields::Versions, read::FieldValidation, schema::Schema};
use serde_json::Value;
use store::Expect;

use crate::{
    codec,
    core::{Core, RequestContext},
    handler::write::{self, Part, report_problems, update_across_versions, update_object},
    http_body::{Body, Request, read_all},
    negotiation::negotiate_for,
    rendering::{self, respond},
};

/// Forms of patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902
    Json,
    /// RFC 7386
    Merge,
    /// Kubernetes' own, by merge keys.
    Strategic,
    /// Server-side apply.
    Apply,
}

impl PatchType {
    /// From a content type.
    ///
    /// # Errors
    /// 415 for any other; custom resources have no strategic merge.
    pub fn of(content_type: &str, custom: bool) -> Result<Self, ApiError> {
        let name = content_type.split(';').next().unwrap_or_default().trim();
        match name {
            "application/json-patch+json" => Ok(Self::Json),
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" if !custom => Ok(Self::Strategic),
            "application/apply-patch+yaml" | "application/apply-patch+json" => Ok(Self::Apply),
            _ => {
                let known = if custom {
                    "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
                } else {
                    "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml"
                };
                Err(ApiError::new(
                    415,
                    Reason::UnsupportedMediaType,
                    format!("the body of the request was in an unknown format - accepted media types include: {known}"),
                ))
            }
        }
    }
}

/// What a patch makes of an object. Unknown fields are dropped and told as problems.
///
/// # Errors
/// 400 and 422 for patches that cannot be applied.
pub fn patched(schema: &Schema, patch_type: PatchType, patch: &Value, object: &Object) -> Result<meta::read::ReadOutcome, ApiError> {
    let mut value = Value::Object(object.0.clone());
    match patch_type {
        PatchType::Json => meta::patch::json_patch(&mut value, patch)?,
        PatchType::Merge => {
            if !patch.is_object() {
                return Err(ApiError::bad_request("error decoding patch: a merge patch must be a JSON object"));
            }
            meta::patch::merge_patch(&mut value, patch);
        }
        PatchType::Strategic => meta::patch::strategic_merge(schema, &mut value, patch)?,
        PatchType::Apply => return Err(ApiError::internal("apply has a path of its own")),
    }
    keep_kind(&mut value, patch_type, object)?;
    meta::read::normalise_value(value, schema).map_err(|error| ApiError::bad_request(error.to_string()))
}

/// An object stays of its kind and version. A strategic merge says so without a word, as upstream's does, which merges into the kind's own
/// type; the others are refused where they say otherwise.
fn keep_kind(value: &mut Value, patch_type: PatchType, object: &Object) -> Result<(), ApiError> {
    for (field, known) in [("kind", object.kind()), ("apiVersion", object.api_version())] {
        let said = value.get(field).cloned();
        if patch_type != PatchType::Strategic
            && let Some(said) = said.filter(|said| *said != Value::from(known))
        {
            let detail = format!("{field} of the object must stay {known:?}, but the patch makes it {said}");
            let problem = meta::FieldError::invalid(&meta::FieldPath::new("patch"), said, detail);
            return Err(ApiError::invalid(&meta::GroupKind { group: "".into(), kind: "".into() }, "", vec![problem]));
        }
        if let Some(map) = value.as_object_mut() {
            map.insert(field.to_owned(), known.into());
        }
    }
    Ok(())
}

/// Answers a patch.
///
/// # Errors
/// Every error a patch can have.
pub async fn patch(core: &Arc<Core>, context: RequestContext, kind: &Arc<dyn ServedKind>, request: Request) -> Result<Response<Body>, ApiError> {
    let info = kind.info();
    let negotiated = negotiate_for(&context.accept, info)?;
    let patch_type = PatchType::of(&context.content_type, info.custom)?;
    if patch_type != PatchType::Apply && context.query.force.is_some() {
        let error = meta::FieldError::forbidden(&meta::FieldPath::new("force"), "may not be specified for non-apply patch");
        return Err(ApiError::invalid(&meta::GroupKind { group: "meta.k8s.io".into(), kind: "PatchOptions".into() }, "", vec![error]));
    }
    let bytes = read_all(request.into_body()).await?;
    let part = Part::of(&context.info.subresource);
    let written = if patch_type == PatchType::Apply {
        apply(core, &context, kind, part, &bytes).await?
    } else {
        let value = meta::read::parse_untyped(&bytes).map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
        let schema = kind.schema();
        let compute = |old: Option<&Object>| {
            let Some(old) = old else { return Err(ApiError::not_found(&info.group_resource(), &context.info.name)) };
            let outcome = patched(schema, patch_type, &value, old)?;
            report_problems(&context, kind.as_ref(), &outcome.problems)?;
            let mut object = outcome.object;
            if object.name() != old.name() {
                let error = meta::FieldError::invalid(&meta::FieldPath::new("metadata").child("name"), object.name(), "field is immutable");
                return Err(ApiError::invalid(&info.group_kind(), old.name(), vec![error]));
            }
            // A patch that does not speak of the version is not bound to it: the object it was computed from carries the
            // current one, which only binds where the patch itself set it.
            if !sets_version(patch_type, &value) {
                object.metadata_mut().remove("resourceVersion");
            }
            Ok(object)
        };
        update_object(core, &context, kind, part, false, Expect::Absent, &compute).await?
    };
    let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    Ok(respond(code, negotiated, rendering::render(core, kind, &written.stored, negotiated)?))
}

fn sets_version(patch_type: PatchType, patch: &Value) -> bool {
    match patch_type {
        PatchType::Json => patch.as_array().is_some_and(|operations| {
            operations.iter().any(|operation| operation.get("path").and_then(Value::as_str) == Some("/metadata/resourceVersion"))
        }),
        _ => patch.pointer("/metadata/resourceVersion").is_some(),
    }
}

async fn apply(core: &Arc<Core>, context: &RequestContext, kind: &Arc<dyn ServedKind>, part: Part, bytes: &bytes::Bytes) -> Result<write::Written, ApiError> {
    let info = kind.info();
    let options = || meta::GroupKind { group: "meta.k8s.io".into(), kind: "PatchOptions".into() };
    if context.query.field_manager.is_none() {
        let error = meta::FieldError::required(&meta::FieldPath::new("fieldManager"), "is required for apply patch");
        return Err(ApiError::invalid(&options(), "", vec![error]));
    }
    let outcome = codec::read_applied(bytes, kind.as_ref())?;
    let mut applied = outcome.object;
    let expected = info.kind.group_version().to_string();
    if applied.kind() != &*info.kind.kind || applied.api_version() != expected {
        return Err(ApiError::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {}, expected: {expected}",
            applied.api_version()
        )));
    }
    if applied.get(&["metadata", "managedFields"]).is_some_and(|value| value.as_array().is_some_and(|list| !list.is_empty())) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    if applied.name().is_empty() {
        applied.set(&["metadata", "name"], context.info.name.as_str().into());
    } else if applied.name() != context.info.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            applied.name(),
            context.info.name
        )));
    }
    if info.namespaced && applied.namespace().is_empty() {
        applied.set(&["metadata", "namespace"], context.info.namespace.as_str().into());
    }
    if !outcome.unknown.is_empty() {
        // What nobody declared cannot be owned: server-side apply refuses unknown fields whatever `fieldValidation` says.
        return Err(meta::managed_fields::undeclared(kind.schema(), &applied, &outcome.unknown));
    }
    report_duplicates(context, &outcome.problems)?;
    if info.custom && part == Part::Whole && info.subresource("status").is_some() {
        // A custom resource's status is not the main resource's to apply, so nobody comes to own it there.
        applied.0.remove("status");
    }
    let manager = context.field_manager();
    let force = context.query.force.unwrap_or(false);
    let mut context = context.clone();
    context.info.verb = "apply";
    let compute = |old: Option<&Object>, versions: &dyn Versions| {
        if old.is_none() && !context.info.subresource.is_empty() {
            return Err(ApiError::not_found(&info.group_resource(), &context.info.name));
        }
        let mut result = meta::managed_fields::apply(
            kind.schema(),
            versions,
            old,
            &applied,
            &manager,
            force,
            &expected,
            &context.info.subresource,
            &context.timestamp(),
        )?;
        if applied.resource_version().is_empty() {
            result.metadata_mut().remove("resourceVersion");
        }
        Ok(result)
    };
    update_across_versions(core, &context, kind, part, part == Part::Whole, Expect::Absent, &compute).await
}

/// Duplicate fields, which upstream's field manager does not see, in the words of its YAML library.
fn report_duplicates(context: &RequestContext, problems: &[String]) -> Result<(), ApiError> {
    let Some(problem) = problems.first().map(|problem| format!("error converting YAML to JSON: {problem}")) else { return Ok(()) };
    match context.query.field_validation.unwrap_or(FieldValidation::Warn) {
        FieldValidation::Ignore => Ok(()),
        FieldValidation::Warn => {
            context.warn(problem);
            Ok(())
        }
        FieldValidation::Strict => Err(ApiError::bad_request(format!("error strict decoding YAML: {problem}"))),
    }
}
