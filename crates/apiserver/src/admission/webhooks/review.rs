//! AdmissionReview: the question that webhooks get, and what their answers mean. Versions v1 and v1beta1 differ in their
//! name only.
//!
//! Source: Kubernetes `apiserver/pkg/admission/plugin/webhook/request/admissionreview.go`.

use base64::Engine as _;
use kinds::ServedKind;
use meta::{ApiError, GroupVersionKind, Object, Reason};
use serde_json::{Map, Value, json};

use crate::{
    admission::{Attributes, Operation, webhooks::matching::Asked},
    handler::write::new_uid,
};

/// What a webhook thinks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// The `status` of a refusal; none where the request is allowed.
    pub refusal: Option<Value>,
    /// Operations of a JSON patch.
    pub patch: Option<Value>,
    /// Words for the client.
    pub warnings: Vec<String>,
}

fn kind_entry(kind: &GroupVersionKind) -> Value {
    json!({"group": &*kind.group, "version": &*kind.version, "kind": &*kind.kind})
}

fn resource_entry(kind: &dyn ServedKind) -> Value {
    let info = kind.info();
    json!({"group": &*info.kind.group, "version": &*info.kind.version, "resource": &*info.plural})
}

/// The kind of the object in a request: of the resource, or of what its subresource speaks.
fn object_kind(kind: &dyn ServedKind, subresource: &str) -> GroupVersionKind {
    let info = kind.info();
    info.subresource(subresource).map_or_else(|| info.kind.clone(), |known| known.kind.clone())
}

/// An object as a webhook wants to see it.
///
/// # Errors
/// Where it cannot be converted.
pub fn seen_as(attributes: &Attributes<'_>, asked: &Asked, object: &Object) -> Result<Object, String> {
    convert(attributes.kind.as_ref(), asked.kind.as_ref(), attributes.subresource, object.clone())
}

/// The way back from [`seen_as`].
///
/// # Errors
/// Where it cannot be converted.
pub fn taken_back(attributes: &Attributes<'_>, asked: &Asked, object: Object) -> Result<Object, String> {
    convert(asked.kind.as_ref(), attributes.kind.as_ref(), attributes.subresource, object)
}

fn convert(from: &dyn ServedKind, to: &dyn ServedKind, subresource: &str, object: Object) -> Result<Object, String> {
    let (from_kind, to_kind) = (&from.info().kind, &to.info().kind);
    // What a subresource such as `exec` speaks is not of the kind's own version.
    if from_kind == to_kind || object_kind(from, subresource) != *from_kind {
        return Ok(object);
    }
    let mut object = to.from_storage(from.to_storage(object)?)?;
    object.0.insert("apiVersion".to_owned(), json!(to_kind.group_version().to_string()));
    object.0.insert("kind".to_owned(), json!(&*to_kind.kind));
    Ok(object)
}

/// CreateOptions, UpdateOptions, PatchOptions or DeleteOptions of a request; null for a connection.
fn options(attributes: &Attributes<'_>) -> Value {
    let query = &attributes.context.query;
    let mut options = Map::new();
    let kind = match (attributes.operation, attributes.context.info.verb) {
        (Operation::Connect, _) => return Value::Null,
        (Operation::Delete, _) => "DeleteOptions",
        (_, "patch" | "apply") => "PatchOptions",
        (Operation::Create, _) => "CreateOptions",
        (Operation::Update, _) => "UpdateOptions",
    };
    options.insert("kind".to_owned(), json!(kind));
    options.insert("apiVersion".to_owned(), json!("meta.k8s.io/v1"));
    if attributes.dry_run {
        options.insert("dryRun".to_owned(), json!(["All"]));
    }
    if let Some(delete) = attributes.delete {
        if let Some(seconds) = delete.grace_period_seconds {
            options.insert("gracePeriodSeconds".to_owned(), json!(seconds));
        }
        if let Some(propagation) = delete.propagation {
            options.insert("propagationPolicy".to_owned(), json!(format!("{propagation:?}")));
        }
        if let Some(orphan) = delete.orphan_dependents {
            options.insert("orphanDependents".to_owned(), json!(orphan));
        }
        let mut preconditions = Map::new();
        for (name, value) in [("uid", &delete.uid), ("resourceVersion", &delete.resource_version)] {
            if let Some(value) = value {
                preconditions.insert(name.to_owned(), json!(value));
            }
        }
        if !preconditions.is_empty() {
            options.insert("preconditions".to_owned(), Value::Object(preconditions));
        }
        return Value::Object(options);
    }
    if kind == "PatchOptions"
        && let Some(force) = query.force
    {
        options.insert("force".to_owned(), json!(force));
    }
    options.insert("fieldManager".to_owned(), json!(attributes.context.field_manager()));
    if let Some(validation) = query.value("fieldValidation") {
        options.insert("fieldValidation".to_owned(), json!(validation));
    }
    Value::Object(options)
}

/// The AdmissionReview for a webhook.
///
/// # Errors
/// Where an object cannot be converted into the version that the webhook wants.
pub fn question(attributes: &Attributes<'_>, asked: &Asked, object: Option<&Object>, old: Option<&Object>) -> Result<Value, String> {
    let user = attributes.user;
    let mut user_info = Map::new();
    user_info.insert("username".to_owned(), json!(user.name));
    if !user.uid.is_empty() {
        user_info.insert("uid".to_owned(), json!(user.uid));
    }
    user_info.insert("groups".to_owned(), json!(user.groups));
    if !user.extra.is_empty() {
        user_info.insert("extra".to_owned(), json!(user.extra));
    }
    let seen = |object: Option<&Object>| object.map(|object| seen_as(attributes, asked, object).map(Object::into_value)).transpose();
    let mut request = json!({
        "uid": new_uid(),
        "kind": kind_entry(&object_kind(asked.kind.as_ref(), attributes.subresource)),
        "resource": resource_entry(asked.kind.as_ref()),
        "requestKind": kind_entry(&object_kind(attributes.kind.as_ref(), attributes.subresource)),
        "requestResource": resource_entry(attributes.kind.as_ref()),
        "operation": attributes.operation.as_str(),
        "userInfo": user_info,
        "object": seen(object)?,
        "oldObject": seen(old)?,
        "dryRun": attributes.dry_run,
        "options": options(attributes),
    });
    let texts = [
        ("name", attributes.name),
        ("namespace", attributes.namespace),
        ("subResource", attributes.subresource),
        ("requestSubResource", attributes.subresource),
    ];
    for (name, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        request[name] = json!(text);
    }
    Ok(json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{}", asked.webhook.review_version), "request": request}))
}

/// Reads the answer to a question.
///
/// # Errors
/// Where it is none.
pub fn verdict(question: &Value, answer: &Value) -> Result<Verdict, String> {
    let told = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (version, kind) = (told(answer, "apiVersion"), told(answer, "kind"));
    let expected = told(question, "apiVersion");
    // Webhooks of old answer without version and kind, which v1beta1 allows.
    let anonymous = version.is_empty() && kind.is_empty() && expected.ends_with("v1beta1");
    if !anonymous && (version != expected || kind != "AdmissionReview") {
        return Err(format!("expected webhook response of {expected}, Kind=AdmissionReview, got {version}, Kind={kind}"));
    }
    let response = answer.get("response").filter(|response| response.is_object()).ok_or("webhook response was absent")?;
    let (uid, asked_uid) = (told(response, "uid"), told(&question["request"], "uid"));
    if !anonymous && uid != asked_uid && !(uid.is_empty() && expected.ends_with("v1beta1")) {
        return Err(format!("expected response.uid={asked_uid:?}, got {uid:?}"));
    }
    let warnings = response.get("warnings").and_then(Value::as_array).into_iter().flatten();
    let mut verdict = Verdict { warnings: warnings.filter_map(|text| text.as_str().map(str::to_owned)).collect(), ..Verdict::default() };
    if response.get("allowed").and_then(Value::as_bool) != Some(true) {
        verdict.refusal = Some(response.get("status").cloned().unwrap_or(Value::Null));
        return Ok(verdict);
    }
    let bytes = patch_bytes(response)?;
    if !bytes.is_empty() {
        let patch_type = told(response, "patchType");
        if patch_type != "JSONPatch" && !(patch_type.is_empty() && expected.ends_with("v1beta1")) {
            return Err(format!("invalid response.patchType of {patch_type:?}, expected JSONPatch"));
        }
        let operations: Value = serde_json::from_slice(&bytes).map_err(|error| format!("response.patch is no JSON: {error}"))?;
        verdict.patch = operations.as_array().is_some_and(|list| !list.is_empty()).then_some(operations);
    }
    Ok(verdict)
}

/// The patch of an answer: in base64, or as a list of its bytes, which Go reads as well and webhooks written with kube send.
fn patch_bytes(response: &Value) -> Result<Vec<u8>, String> {
    match response.get("patch") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) => base64::engine::general_purpose::STANDARD.decode(text).map_err(|error| format!("response.patch is no base64: {error}")),
        Some(Value::Array(numbers)) => {
            let bytes = numbers.iter().map(|number| number.as_u64().and_then(|number| u8::try_from(number).ok()));
            bytes.collect::<Option<_>>().ok_or_else(|| "response.patch is a list of something else than bytes".to_owned())
        }
        Some(other) => Err(format!("response.patch is no base64: {other}")),
    }
}

/// The error a client gets for a refusal. Source: Kubernetes `plugin/webhook/errors/statuserror.go`.
pub fn refusal(webhook: &str, status: &Value) -> ApiError {
    let text = |name: &str| status.get(name).and_then(Value::as_str).unwrap_or_default();
    let code = status.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok()).unwrap_or_default();
    let denied = format!("admission webhook {webhook:?} denied the request");
    let message = match (text("message"), text("reason")) {
        ("", "") => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {reason}"),
        (message, _) => format!("{denied}: {message}"),
    };
    let mut error = ApiError::new(code.clamp(400, 599), Reason::parse(text("reason")), message);
    if let Some(details) = status.get("details") {
        let detail = |name: &str| details.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        (error.name, error.group, error.kind, error.uid) = (detail("name"), detail("group"), detail("kind"), detail("uid"));
        for cause in details.get("causes").and_then(Value::as_array).into_iter().flatten() {
            let of = |name: &str| cause.get(name).and_then(Value::as_str).unwrap_or_default();
            error = error.with_cause(of("reason"), of("message"), of("field"));
        }
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Value {
        json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": {"uid": "u"}})
    }

    fn answer(response: Value) -> Value {
        json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response})
    }

    #[test]
    fn an_answer_allows_changes_or_refuses() {
        let patch = base64::engine::general_purpose::STANDARD.encode(r#"[{"op":"add","path":"/a","value":1}]"#);
        let verdict_of = |response: Value| verdict(&asked(), &answer(response));
        let changing = verdict_of(json!({"uid": "u", "allowed": true, "patchType": "JSONPatch", "patch": patch, "warnings": ["careful"]})).unwrap();
        assert_eq!(changing.patch.unwrap()[0]["path"], "/a");
        assert_eq!(changing.warnings, ["careful"]);
        let listed: Vec<u8> = br#"[{"op":"add","path":"/b","value":1}]"#.to_vec();
        let changing = verdict_of(json!({"uid": "u", "allowed": true, "patchType": "JSONPatch", "patch": listed})).unwrap();
        assert_eq!(changing.patch.unwrap()[0]["path"], "/b");
        for wrong in [json!([300]), json!("%"), json!(7)] {
            assert!(verdict_of(json!({"uid": "u", "allowed": true, "patchType": "JSONPatch", "patch": wrong})).is_err());
        }
        assert!(verdict_of(json!({"uid": "u", "allowed": false})).unwrap().refusal.is_some());
    }

    #[test]
    fn an_answer_to_another_question_is_none() {
        assert!(verdict(&asked(), &answer(json!({"uid": "x", "allowed": true}))).unwrap_err().contains("expected response.uid"));
        assert!(verdict(&asked(), &json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1"})).unwrap_err().contains("absent"));
        assert!(verdict(&asked(), &json!({"response": {"uid": "u", "allowed": true}})).is_err());
    }

    #[test]
    fn a_refusal_says_who_refuses_and_why() {
        assert_eq!(refusal("a.b.c", &Value::Null).message, "admission webhook \"a.b.c\" denied the request without explanation");
        let full = refusal("a.b.c", &json!({"code": 200, "message": "no", "reason": "Forbidden"}));
        assert_eq!((full.code, full.message.as_str(), full.reason), (400, "admission webhook \"a.b.c\" denied the request: no", Reason::Forbidden));
        assert_eq!(refusal("a.b.c", &json!({"reason": "bad luck"})).message, "admission webhook \"a.b.c\" denied the request: bad luck");
    }
}
