//! CertificateSigningRequest: somebody asks for a certificate.

use std::collections::HashSet;

use api::{
    apimachinery::pkg::apis::meta::v1::Time,
    certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus},
    k8s_openapi::ByteString,
};
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object};
use serde_json::Value;
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

use crate::{
    cells,
    certificates::{pem, signer_name},
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
    let at = FieldPath::new("status").child("certificate");
    if certificate(&new) != certificate(&old) {
        if !certificate(&old).is_empty() {
            problems.push(FieldError::forbidden(&at, "updates may not modify existing certificate content"));
        }
        // What was there before any rule may be anything.
        if certificate_problem(&certificate(&old)).is_none()
            && let Some(problem) = certificate_problem(&certificate(&new))
        {
            problems.push(FieldError::invalid(&at, "<certificate data>", problem));
        }
    }
    problems
}

/// What is wrong with a certificate that was issued, which may be followed by those of the authorities above.
///
/// Source: Kubernetes `pkg/apis/certificates/validation/validation.go`, `validateCertificate`.
fn certificate_problem(bytes: &[u8]) -> Option<String> {
    if bytes.is_empty() {
        return None;
    }
    let blocks = pem::blocks(&String::from_utf8_lossy(bytes));
    if blocks.is_empty() {
        return Some("must contain at least one CERTIFICATE PEM block".to_owned());
    }
    blocks.iter().find_map(|block| {
        if block.label != "CERTIFICATE" {
            return Some(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        if block.has_headers {
            return Some("no PEM block headers are permitted".to_owned());
        }
        if block.contents.is_empty() {
            return Some("found CERTIFICATE PEM block containing 0 certificates".to_owned());
        }
        // A block may hold several, one behind the other.
        let mut rest = block.contents.as_slice();
        while !rest.is_empty() {
            match x509_parser::parse_x509_certificate(rest) {
                Ok((behind, _)) => rest = behind,
                Err(_) => return Some("x509: malformed certificate".to_owned()),
            }
        }
        None
    })
}

/// What is wrong with what is to be signed. Source: as above, `validateCSR`.
fn request_problem(bytes: &[u8]) -> Option<&'static str> {
    let blocks = pem::blocks(&String::from_utf8_lossy(bytes));
    let Some(block) = blocks.first().filter(|block| block.label == "CERTIFICATE REQUEST") else {
        return Some("PEM block type must be CERTIFICATE REQUEST");
    };
    let Ok((_, request)) = X509CertificationRequest::from_der(&block.contents) else { return Some("x509: malformed certificate request") };
    request.verify_signature().is_err().then_some("x509: the signature does not fit the certificate request")
}

/// When a condition was written and since when it stands, where nobody says so.
///
/// Source: Kubernetes `pkg/registry/certificates/certificates/strategy.go`, `populateConditionTimestamps`.
fn date_conditions(request: &mut CertificateSigningRequest, old: &CertificateSigningRequest, now: Timestamp) {
    let known = old.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    for condition in request.status.iter_mut().flat_map(|status| status.conditions.iter_mut().flatten()) {
        let now = || Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
        condition.last_update_time.get_or_insert_with(now);
        let same = |known: &&CertificateSigningRequestCondition| known.type_ == condition.type_ && known.status == condition.status;
        let since = known.iter().filter(same).find_map(|known| known.last_transition_time.clone());
        condition.last_transition_time.get_or_insert_with(|| since.unwrap_or_else(now));
    }
}

/// What a certificate may be for. Source: Kubernetes `pkg/apis/certificates/validation/validation.go`, `allValidUsages`.
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

impl Strategy for CertificateSigningRequestStrategy {
    type Kind = CertificateSigningRequest;

    fn prepare_create(&self, context: &WriteContext, request: &mut CertificateSigningRequest) {
        // Who asks is what the server saw, not what the client says.
        request.spec.username = Some(context.user.clone());
        request.spec.groups = Some(context.groups.clone()).filter(|groups| !groups.is_empty());
        request.spec.uid = Some(context.uid.clone()).filter(|uid| !uid.is_empty());
        request.spec.extra = Some(context.extra.clone()).filter(|extra| !extra.is_empty());
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
        if let Some(problem) = request_problem(bytes) {
            problems.push(FieldError::invalid(&path.child("request"), serde_json::json!(spec.request), problem));
        }
        if spec.usages.as_ref().is_none_or(Vec::is_empty) {
            problems.push(FieldError::required(&path.child("usages"), ""));
        }
        let mut seen = HashSet::new();
        for (index, usage) in spec.usages.iter().flatten().enumerate() {
            let at = path.child("usages").index(index);
            if !USAGES.contains(&usage.as_str()) {
                problems.push(FieldError::not_supported(&at, usage.as_str(), USAGES));
            }
            if !seen.insert(usage.as_str()) {
                problems.push(FieldError::duplicate(&at, usage.as_str()));
            }
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
    fn prepare_status_update(&self, context: &WriteContext, request: &mut CertificateSigningRequest, old: &CertificateSigningRequest) {
        date_conditions(request, old, context.now);
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
