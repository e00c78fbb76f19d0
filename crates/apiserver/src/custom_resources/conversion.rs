//! Conversion of custom resources by webhook: objects stored in one version are read and written in another.
//!
//! The generic handler converts without waiting ([`ServedKind::from_storage`]). Where a definition names a webhook, what is read is
//! converted here first, many objects with one question, and what is written is converted before it is encoded.
//!
//! Source: Kubernetes `apiextensions-apiserver/pkg/apiserver/conversion/webhook_converter.go`.

use std::{borrow::Cow, sync::Arc, time::Duration};

use kinds::ServedKind;
use meta::{ApiError, GroupVersion, Object};
use serde_json::{Value, json};

use crate::{
    core::Core,
    handler::write::new_uid,
    view::{StoredObject, stored},
    webhook_client::WebhookAddress,
};

/// How long a webhook may take. Source: `defaultWebhookTimeout` of upstream's converter.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Objects that a kind's handler can read: as they are, or converted where another version is stored and a webhook converts.
///
/// # Errors
/// 500 where the webhook does not answer, or not with the same objects.
pub async fn readable_all(core: &Core, kind: &Arc<dyn ServedKind>, objects: Vec<Arc<StoredObject>>) -> Result<Vec<Arc<StoredObject>>, ApiError> {
    let Some(webhook) = kind.conversion_webhook() else { return Ok(objects) };
    let wanted = kind.info().kind.group_version();
    let mut places = Vec::new();
    let mut questions = Vec::new();
    for (place, stored) in objects.iter().enumerate() {
        let object = stored.object().map_err(ApiError::internal)?;
        if object.api_version() != wanted.to_string() {
            places.push(place);
            questions.push(object);
        }
    }
    if questions.is_empty() {
        return Ok(objects);
    }
    let answers = convert(core, kind, webhook, &wanted, questions).await?;
    let mut readable = objects;
    for (place, object) in places.into_iter().zip(answers) {
        let Some(stored) = readable.get_mut(place) else { continue };
        *stored = Arc::new(as_served(stored, &object)?);
    }
    Ok(readable)
}

/// [`readable_all`] for one object.
///
/// # Errors
/// Those of [`readable_all`].
pub async fn readable(core: &Core, kind: &Arc<dyn ServedKind>, object: Arc<StoredObject>) -> Result<Arc<StoredObject>, ApiError> {
    if kind.conversion_webhook().is_none() {
        return Ok(object);
    }
    readable_all(core, kind, vec![object.clone()]).await.map(|objects| objects.into_iter().next().unwrap_or(object))
}

/// An object as it is to be stored: in the stored version, where a webhook converts.
///
/// # Errors
/// Those of [`readable_all`].
pub async fn storable<'a>(core: &Core, kind: &Arc<dyn ServedKind>, object: &'a Object) -> Result<Cow<'a, Object>, ApiError> {
    let wanted = &kind.info().storage_version;
    match kind.conversion_webhook() {
        Some(webhook) if object.api_version() != wanted.to_string() => {
            let converted = convert(core, kind, webhook, wanted, vec![object.clone()]).await?;
            Ok(converted.into_iter().next().map_or(Cow::Borrowed(object), Cow::Owned))
        }
        _ => Ok(Cow::Borrowed(object)),
    }
}

/// Objects in a version of their kind, whatever versions they are in.
///
/// # Errors
/// Those of [`readable_all`].
pub async fn converted(core: &Core, kind: &Arc<dyn ServedKind>, wanted: &GroupVersion, objects: Vec<Object>) -> Result<Vec<Object>, ApiError> {
    match kind.conversion_webhook() {
        Some(webhook) => convert(core, kind, webhook, wanted, objects).await,
        None => Ok(objects),
    }
}

/// The same revision of an object with its content in the served version.
fn as_served(stored: &StoredObject, object: &Object) -> Result<StoredObject, ApiError> {
    let bytes = stored::encode(object, stored.schema_generation, stored.head().fields).map_err(ApiError::internal)?;
    StoredObject::decode(&stored.key, bytes, stored.revision).map_err(ApiError::internal)
}

async fn convert(core: &Core, kind: &Arc<dyn ServedKind>, webhook: &Value, wanted: &GroupVersion, objects: Vec<Object>) -> Result<Vec<Object>, ApiError> {
    let info = kind.info();
    let from = objects.first().map(|object| object.api_version().to_owned()).unwrap_or_default();
    let failed = |why: String| ApiError::internal(format!("conversion webhook for {from}, Kind={} failed: {why}", info.kind.kind));
    let known = |version: &str| matches!(version, "v1" | "v1beta1");
    let versions = webhook.get("conversionReviewVersions").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let version = versions.into_iter().find(|version| known(version)).unwrap_or("v1");
    let uid = new_uid();
    let question = json!({
        "kind": "ConversionReview",
        "apiVersion": format!("apiextensions.k8s.io/{version}"),
        "request": { "uid": uid, "desiredAPIVersion": wanted.to_string(), "objects": objects.iter().map(|object| &object.0).collect::<Vec<_>>() },
    });
    let address = WebhookAddress::read(webhook.get("clientConfig").unwrap_or(&Value::Null)).map_err(|error| failed(error.to_string()))?;
    let mut answer = address.ask(core, &question, TIMEOUT).await.map_err(|error| {
        // The client's words are for admission; a converter says for what it asked.
        failed(error.to_string().trim_start_matches("failed to call webhook: ").to_owned())
    })?;
    read_answer(&mut answer, &uid, wanted, &objects).map_err(failed)
}

/// The converted objects of an answer, or what is wrong with it.
fn read_answer(answer: &mut Value, uid: &str, wanted: &GroupVersion, objects: &[Object]) -> Result<Vec<Object>, String> {
    let Some(response) = answer.get_mut("response").filter(|response| response.is_object()) else { return Err("no response provided".to_owned()) };
    if response.get("uid").and_then(Value::as_str) != Some(uid) {
        return Err(format!("expected response.uid={uid:?}, got {}", response.get("uid").unwrap_or(&Value::Null)));
    }
    match response.pointer("/result/status").and_then(Value::as_str) {
        Some("Success") => {}
        _ => {
            let said = response.pointer("/result/message").and_then(Value::as_str).filter(|said| !said.is_empty());
            return Err(said.unwrap_or("response.result.status was not 'Success'").to_owned());
        }
    }
    let converted = match response.get_mut("convertedObjects").map(Value::take) {
        Some(Value::Array(converted)) => converted,
        _ => Vec::new(),
    };
    if converted.len() != objects.len() {
        return Err(format!("expected {} converted objects, got {}", objects.len(), converted.len()));
    }
    converted.into_iter().zip(objects).enumerate().map(|(index, (converted, original))| checked(index, converted, original, wanted)).collect()
}

/// A converted object with the metadata it had: labels and annotations apart, a converter may not change that.
fn checked(index: usize, converted: Value, original: &Object, wanted: &GroupVersion) -> Result<Object, String> {
    let at = |what: &str| format!("invalid converted object at index {index}: {what}");
    let mut object = Object::from_value(converted).map_err(|_| at("it is no object"))?;
    if object.api_version() != wanted.to_string() {
        return Err(at(&format!("invalid apiVersion: expected {wanted}, got {}", object.api_version())));
    }
    if object.kind() != original.kind() {
        return Err(at(&format!("invalid kind: expected {}, got {}", original.kind(), object.kind())));
    }
    for field in ["name", "namespace", "uid"] {
        if object.text(&["metadata", field]) != original.text(&["metadata", field]) {
            return Err(at(&format!("invalid metadata: {field} was changed")));
        }
    }
    let mut metadata = original.0.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    for field in ["labels", "annotations"] {
        match object.get(&["metadata", field]).filter(|value| !value.is_null()) {
            Some(value) => metadata.insert(field.to_owned(), value.clone()),
            None => metadata.remove(field),
        };
    }
    object.0.insert("metadata".to_owned(), Value::Object(metadata));
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored() -> Object {
        let object = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "a", "uid": "u", "resourceVersion": "7", "labels": {"x": "y"}}, "hostPort": "h:1"});
        Object::from_value(object).unwrap()
    }

    fn answer(uid: &str, status: &str, converted: Value) -> Result<Vec<Object>, String> {
        let mut answer = json!({"response": {"uid": uid, "result": {"status": status, "message": "because"}, "convertedObjects": converted}});
        read_answer(&mut answer, "1", &GroupVersion::new("g", "v2"), &[stored()])
    }

    #[test]
    fn a_converted_object_keeps_its_metadata_but_for_labels_and_annotations() {
        let converted = json!([{"apiVersion": "g/v2", "kind": "K", "metadata": {"name": "a", "uid": "u", "labels": {"x": "z"}}, "host": "h", "port": "1"}]);
        let objects = answer("1", "Success", converted).unwrap();
        assert_eq!(objects[0].text(&["metadata", "resourceVersion"]), Some("7"));
        assert_eq!(objects[0].text(&["metadata", "labels", "x"]), Some("z"));
        assert_eq!(objects[0].text(&["host"]), Some("h"));
    }

    #[test]
    fn answers_that_do_not_fit_are_refused_with_their_reason() {
        let fine = json!([{"apiVersion": "g/v2", "kind": "K", "metadata": {"name": "a", "uid": "u"}}]);
        assert!(answer("2", "Success", fine.clone()).unwrap_err().contains("response.uid"));
        assert_eq!(answer("1", "Failed", fine).unwrap_err(), "because");
        assert!(answer("1", "Success", json!([])).unwrap_err().contains("expected 1 converted objects"));
        let renamed = json!([{"apiVersion": "g/v2", "kind": "K", "metadata": {"name": "b", "uid": "u"}}]);
        assert!(answer("1", "Success", renamed).unwrap_err().contains("name was changed"));
        let old = json!([{"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "a", "uid": "u"}}]);
        assert!(answer("1", "Success", old).unwrap_err().contains("invalid apiVersion"));
    }
}
