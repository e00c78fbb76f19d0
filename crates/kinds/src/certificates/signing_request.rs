//! CertificateSigningRequest: somebody asks for a certificate.

use std::collections::HashSet;

use api::{
    certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus},
    k8s_openapi::ByteString,
};
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object};
use serde_json::Value;

use crate::{
    cells,
    certificates::signer_name,
    strategy::{Column, NameRule, Strategy, WriteContext},
};

/// Behaviour of signing requests.
pub struct CertificateSigningRequestStrategy;

/// Conditions are added and stay; only `/approval` adds those that decide, and only `/status` the certificate, once.
///
/// Source: Kubernetes `pkg/apis/certificates/validation/validation.go`, `validateCertificateSigningRequestUpdate`.
fn change_of_status(request: &CertificateSigningRequest, old: &CertificateSigningRequest, decides: bool) -> Vec<FieldError> {
    let mut problems = Vec::new();
    let path = FieldPath::new("status").child("conditions");
    let of = |request: &CertificateSigningRequest| request.status.clone().unwrap_or_default();
    let (new, old) = (of(request), of(old));
    let list = |status: &CertificateSigningRequestStatus| status.conditions.clone().unwrap_or_default();
    let (conditions, known) = (list(&new), list(&old));
    let has = |conditions: &[CertificateSigningRequestCondition], kind: &str| conditions.iter().any(|condition| condition.type_ == kind);
    let repeats = |conditions: &[CertificateSigningRequestCondition]| {
        let mut seen = HashSet::new();
        !conditions.iter().all(|condition| seen.insert(condition.type_.clone()))
    };
    // What was wrong before may stay so.
    let both_known = has(&known, "Approved") && has(&known, "Denied");
    let (repeated_before, nameless_before) = (repeats(&known), has(&known, ""));
    let mut seen = HashSet::new();
    for (index, condition) in conditions.iter().enumerate() {
        let (at, kind) = (path.index(index), condition.type_.as_str());
        if kind.is_empty() && !nameless_before {
            problems.push(FieldError::required(&at.child("type"), ""));
        }
        let allowed: &[&str] = if matches!(kind, "Approved" | "Denied" | "Failed") { &["True"] } else { &["False", "True", "Unknown"] };
        if condition.status.is_empty() {
            problems.push(FieldError::required(&at.child("status"), ""));
        } else if !allowed.contains(&condition.status.as_str()) {
            problems.push(FieldError::not_supported(&at.child("status"), condition.status.as_str(), allowed));
        }
        let opposite = match kind {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if !both_known && !opposite.is_empty() && seen.contains(opposite) {
            problems.push(FieldError::invalid(&path, kind, "Approved and Denied conditions are mutually exclusive"));
        }
        if !seen.insert(kind) && !repeated_before {
            problems.push(FieldError::duplicate(&at.child("type"), kind));
        }
    }
    for kind in ["Approved", "Denied", "Failed"] {
        let only = |conditions: &[CertificateSigningRequestCondition]| -> Vec<CertificateSigningRequestCondition> {
            conditions.iter().filter(|condition| condition.type_ == kind).cloned().collect()
        };
        let (now, before) = (only(&conditions), only(&known));
        if now.len() < before.len() {
            problems.push(FieldError::forbidden(&path, format!("updates may not remove a condition of type {kind:?}")));
        } else if kind != "Failed" && !decides {
            if now.len() > before.len() {
                problems.push(FieldError::forbidden(&path, format!("updates may not add a condition of type {kind:?}")));
            } else if now != before {
                problems.push(FieldError::forbidden(&path, format!("updates may not modify a condition of type {kind:?}")));
            }
        }
    }
    let certificate = |status: &CertificateSigningRequestStatus| status.certificate.clone().map(|ByteString(bytes)| bytes).unwrap_or_default();
    if certificate(&new) != certificate(&old) && !certificate(&old).is_empty() {
        problems.push(FieldError::forbidden(&FieldPath::new("status").child("certificate"), "updates may not modify existing certificate content"));
    }
    problems
}

impl Strategy for CertificateSigningRequestStrategy {
    type Kind = CertificateSigningRequest;

    fn prepare_create(&self, context: &WriteContext, request: &mut CertificateSigningRequest) {
        // Who asks is what the server saw, not what the client says.
        request.spec.username = Some(context.user.clone());
        request.spec.groups = Some(context.groups.clone()).filter(|groups| !groups.is_empty());
        request.spec.uid = None;
        request.spec.extra = None;
        request.status = Some(CertificateSigningRequestStatus::default());
    }
    fn prepare_update(&self, _context: &WriteContext, request: &mut CertificateSigningRequest, old: &CertificateSigningRequest) {
        request.spec.clone_from(&old.spec);
    }
    fn validate(&self, request: &CertificateSigningRequest) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec");
        let spec = &request.spec;
        let ByteString(bytes) = &spec.request;
        let text = String::from_utf8_lossy(bytes);
        if !text.contains("-----BEGIN CERTIFICATE REQUEST-----") {
            problems.push(FieldError::invalid(&path.child("request"), serde_json::json!(spec.request), "PEM block type must be CERTIFICATE REQUEST"));
        }
        if spec.usages.as_ref().is_none_or(Vec::is_empty) {
            problems.push(FieldError::required(&path.child("usages"), ""));
        }
        let at = path.child("signerName");
        if spec.signer_name == "kubernetes.io/legacy-unknown" {
            problems.push(FieldError::invalid(&at, spec.signer_name.as_str(), "the legacy signerName is not allowed via this API version"));
        } else {
            signer_name(&spec.signer_name, &at, &mut problems);
        }
        if let Some(seconds) = spec.expiration_seconds.filter(|seconds| *seconds < 600) {
            problems.push(FieldError::invalid(&path.child("expirationSeconds"), seconds, "may not specify a duration less than 600 seconds (10 minutes)"));
        }
        problems
    }
    fn validate_update(&self, _request: &CertificateSigningRequest, _old: &CertificateSigningRequest) -> Vec<FieldError> {
        // Its specification was taken from the old one, which was fine.
        Vec::new()
    }
    fn validate_status_update(&self, request: &CertificateSigningRequest, old: &CertificateSigningRequest) -> Vec<FieldError> {
        change_of_status(request, old, false)
    }
    fn has_rules_for(&self, subresource: &str) -> bool {
        subresource == "approval"
    }
    fn prepare_subresource_update(&self, _subresource: &str, request: &mut CertificateSigningRequest, old: &CertificateSigningRequest) {
        request.spec.clone_from(&old.spec);
        let certificate = old.status.as_ref().and_then(|status| status.certificate.clone());
        request.status.get_or_insert_default().certificate = certificate;
    }
    fn validate_subresource_update(&self, _subresource: &str, request: &CertificateSigningRequest, old: &CertificateSigningRequest) -> Vec<FieldError> {
        change_of_status(request, old, true)
    }
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }
    fn selectable_field_names(&self) -> &'static [&'static str] {
        &["spec.signerName"]
    }
    fn selectable_fields(&self, request: &CertificateSigningRequest) -> Vec<(&'static str, String)> {
        vec![("spec.signerName", request.spec.signer_name.clone())]
    }
    fn columns(&self) -> &'static [Column] {
        const { &[
            Column::NAME,
            Column::AGE,
            Column::text("SignerName", "Who is to sign."),
            Column::text("Requestor", "Who asks."),
            Column::text("RequestedDuration", "For how long."),
            Column::text("Condition", "Where it stands."),
        ] }
    }
    fn row(&self, request: &CertificateSigningRequest, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let conditions = request.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let has = |kind: &str| conditions.iter().any(|condition| condition.type_ == kind);
        let mut words = if has("Denied") {
            "Denied"
        } else if has("Approved") {
            "Approved"
        } else {
            "Pending"
        }
        .to_owned();
        if has("Failed") {
            words.push_str(",Failed");
        }
        if request.status.as_ref().and_then(|status| status.certificate.as_ref()).is_some_and(|certificate| !certificate.0.is_empty()) {
            words.push_str(",Issued");
        }
        let duration = request.spec.expiration_seconds.map(|seconds| crate::plain::human_duration(i64::from(seconds)));
        vec![
            raw.name().into(),
            cells::created(raw),
            request.spec.signer_name.as_str().into(),
            cells::text(request.spec.username.as_deref()),
            cells::or_none(duration.as_deref()),
            words.into(),
        ]
    }
}
