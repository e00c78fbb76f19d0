//! PodCertificateRequest: what a node asks of a signer for one of its pods.
//!
//! Source: Kubernetes `pkg/apis/certificates/validation/validation.go`, `ValidatePodCertificateRequestCreate` and its kin. What it says of
//! the time of the server itself (`status.notBefore`) is not looked at here.

use base64::Engine as _;
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object, validation as rules};
use serde_json::{Map, Value, json};
use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer,
    public_key::PublicKey,
    x509::SubjectPublicKeyInfo,
};

use super::{pem, signer_name};
use crate::{
    problems::immutable,
    status_rules,
    strategy::{Column, Strategy, WriteContext},
};

/// Behaviour of those requests.
pub struct PodCertificateRequestStrategy;

const SHORTEST: i64 = 3600;
/// Of Kubernetes' own signers, a day; of others, 91.
const LONGEST_OF_KUBERNETES: i64 = 24 * 3600;
const LONGEST: i64 = 91 * 24 * 3600;
const LARGEST_KEY: usize = 10 * 1024;
const LARGEST_CHAIN: usize = 100 * 1024;
const LONGEST_UID: usize = 128;
/// At least so much lies between the refresh of a certificate and both of its ends, in seconds.
const REFRESH_MARGIN: i64 = 600;
const ENDS: [&str; 3] = ["Issued", "Denied", "Failed"];

fn part<'a>(request: &'a Map<String, Value>, name: &str) -> &'a Value {
    request.get(name).unwrap_or(&Value::Null)
}

fn text<'a>(part: &'a Value, name: &str) -> &'a str {
    part.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn bytes(part: &Value, name: &str) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(text(part, name)).unwrap_or_default()
}

/// What is wrong with a key, in upstream's words.
fn key_problem(key: &SubjectPublicKeyInfo<'_>) -> Option<(String, &'static str)> {
    const ED25519: &str = "1.3.101.112";
    if key.algorithm.algorithm.to_id_string() == ED25519 {
        return None;
    }
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) if !matches!(rsa.key_size(), 3072 | 4096) => {
            Some((format!("{}-bit modulus", rsa.key_size()), "RSA keys must have modulus size 3072 or 4096"))
        }
        Ok(PublicKey::EC(point)) if !matches!(point.key_size(), 256 | 384 | 528 | 521) => {
            Some((format!("curve P-{}", point.key_size()), "elliptic public keys must use curve P256 or P384"))
        }
        Ok(PublicKey::RSA(_) | PublicKey::EC(_)) => None,
        _ => Some((String::new(), "unknown public key type; supported types are Ed25519, ECDSA, and RSA")),
    }
}

fn stub_problems(spec: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let at = path.child("stubPKCS10Request");
    let stub = bytes(spec, "stubPKCS10Request");
    if stub.is_empty() {
        problems.push(FieldError::required(&at, ""));
        return;
    }
    if stub.len() > LARGEST_KEY {
        problems.push(FieldError::too_long(&at, LARGEST_KEY));
        return;
    }
    let Ok(([], request)) = X509CertificationRequest::from_der(&stub) else {
        problems.push(FieldError::invalid_as_a_whole(&at, "must be a valid PKCS#10 certificate signing request"));
        return;
    };
    if let Some((shown, detail)) = key_problem(&request.certification_request_info.subject_pki) {
        problems.push(FieldError::invalid(&at, shown, detail));
    } else if request.verify_signature().is_err() {
        problems.push(FieldError::invalid_as_a_whole(&at, "could not verify proof-of-possession signature"));
    }
}

fn is(status: &Value, kind: &str) -> bool {
    let conditions = status.get("conditions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    conditions.iter().any(|condition| text(condition, "type") == kind && text(condition, "status") == "True")
}

fn time(status: &Value, name: &str) -> Option<Timestamp> {
    text(status, name).parse().ok()
}

/// What is wrong with what was issued.
fn issue_problem(spec: &Value, status: &Value, path: &FieldPath) -> Vec<FieldError> {
    let at = path.child("certificateChain");
    let chain = text(status, "certificateChain");
    if chain.len() > LARGEST_CHAIN {
        return vec![FieldError::too_long(&at, LARGEST_CHAIN)];
    }
    let wrong = |detail: &str| vec![FieldError::invalid(&at, chain, detail)];
    let blocks = pem::blocks(chain);
    let Some((leaf, rest)) = blocks.split_first() else { return wrong("issued certificate chain must contain at least one certificate") };
    if leaf.label != "CERTIFICATE" {
        return wrong("issued certificate chain must consist entirely of CERTIFICATE PEM blocks");
    }
    let Ok(([], leaf)) = x509_parser::parse_x509_certificate(&leaf.contents) else { return wrong("leaf certificate does not parse as valid X.509") };
    let mut problems = Vec::new();
    for extension in leaf.extensions() {
        let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else { continue };
        for name in &names.general_names {
            let GeneralName::DNSName(name) = name else { continue };
            let details = [
                (name.is_empty(), "leaf certificate should not contain empty DNSName"),
                (name.contains(".."), "leaf certificate's DNSName should not contain '..'"),
                (name.starts_with('.') || name.ends_with('.'), "leaf certificate's DNSName should not start or end with '.'"),
            ];
            problems.extend(details.into_iter().filter(|(is_wrong, _)| *is_wrong).map(|(_, detail)| FieldError::invalid(&at, *name, detail)));
        }
    }
    let stub = bytes(spec, "stubPKCS10Request");
    let asked = X509CertificationRequest::from_der(&stub).ok().map(|(_, request)| request.certification_request_info.subject_pki.raw.to_vec());
    if asked.is_some_and(|asked| asked != leaf.public_key().raw) {
        problems.extend(wrong("leaf certificate was not issued to the requested public key"));
        return problems;
    }
    let before = problems.len();
    for (field, words) in [
        ("notBefore", "must be present and consistent with the issued certificate"),
        ("notAfter", "must be present and consistent with the issued certificate"),
        ("beginRefreshAt", "must be present and in the range [notbefore+10min, notafter-10min]"),
    ] {
        if time(status, field).is_none() {
            problems.push(FieldError::required(&path.child(field), words));
        }
    }
    let (Some(begin), Some(end), Some(refresh)) = (time(status, "notBefore"), time(status, "notAfter"), time(status, "beginRefreshAt")) else {
        return problems;
    };
    if problems.len() > before {
        return problems;
    }
    let (from, to) = (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
    let most = spec.get("maxExpirationSeconds").and_then(Value::as_i64).unwrap_or(LONGEST_OF_KUBERNETES);
    let checks = [
        (begin.as_second() != from, "notBefore", "must be set to the NotBefore time encoded in the leaf certificate".to_owned()),
        (end.as_second() != to, "notAfter", "must be set to the NotAfter time encoded in the leaf certificate".to_owned()),
        (to - from < SHORTEST, "certificateChain", "leaf certificate lifetime must be >= 1 hour".to_owned()),
        (to - from > most, "certificateChain", format!("leaf certificate lifetime must be <= spec.maxExpirationSeconds ({most})")),
        (refresh.as_second() < from + REFRESH_MARGIN, "beginRefreshAt", "must be at least 10 minutes after status.notBefore".to_owned()),
        (refresh.as_second() > to - REFRESH_MARGIN, "beginRefreshAt", "must be at least 10 minutes before status.notAfter".to_owned()),
    ];
    if let Some((_, field, detail)) = checks.into_iter().find(|(is_wrong, _, _)| *is_wrong) {
        let value = if field == "certificateChain" { json!((to - from) * 1_000_000_000) } else { json!(text(status, field)) };
        problems.push(FieldError::invalid(&path.child(field), value, detail));
        return problems;
    }
    for block in rest {
        if block.label != "CERTIFICATE" {
            return wrong("issued certificate chain must consist entirely of CERTFICATE PEM blocks");
        }
        if !matches!(x509_parser::parse_x509_certificate(&block.contents), Ok(([], _))) {
            return wrong("intermediate certificate does not parse as valid X.509");
        }
    }
    problems
}

impl Strategy for PodCertificateRequestStrategy {
    type Kind = Map<String, Value>;

    fn default(&self, request: &mut Self::Kind) {
        if let Some(Value::Object(spec)) = request.get_mut("spec") {
            spec.entry("maxExpirationSeconds").or_insert_with(|| LONGEST_OF_KUBERNETES.into());
        }
    }
    fn prepare_create(&self, _context: &WriteContext, request: &mut Self::Kind) {
        request.remove("status");
    }
    fn validate(&self, request: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let (path, spec) = (FieldPath::new("spec"), part(request, "spec"));
        let signer = text(spec, "signerName");
        signer_name(signer, &path.child("signerName"), &mut problems);
        for field in ["podName", "serviceAccountName", "nodeName"] {
            let name = text(spec, field);
            problems.extend(rules::invalid_each(&path.child(field), name, rules::dns1123_subdomain_problems(name)));
        }
        for field in ["podUID", "serviceAccountUID", "nodeUID"] {
            let uid = text(spec, field);
            if uid.is_empty() {
                problems.push(FieldError::invalid(&path.child(field), uid, "must not be empty"));
            }
            if uid.len() > LONGEST_UID {
                problems.push(FieldError::too_long(&path.child(field), LONGEST_UID));
            }
        }
        let domain = signer.split('/').next().unwrap_or_default();
        let most = if domain == "kubernetes.io" || domain.ends_with(".kubernetes.io") { LONGEST_OF_KUBERNETES } else { LONGEST };
        let at = path.child("maxExpirationSeconds");
        match spec.get("maxExpirationSeconds").and_then(Value::as_i64) {
            None => problems.push(FieldError::required(&at, "must be set")),
            Some(seconds) if !(SHORTEST..=most).contains(&seconds) => {
                problems.push(FieldError::invalid(&at, seconds, format!("must be in the range [{SHORTEST}, {most}]")));
            }
            Some(_) => {}
        }
        stub_problems(spec, &path, &mut problems);
        problems
    }
    fn validate_update(&self, request: &Self::Kind, old: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        immutable(part(request, "spec"), part(old, "spec"), &FieldPath::new("spec"), &mut problems);
        problems
    }
    fn status_keeps_metadata(&self) -> bool {
        true
    }
    fn validate_status_update(&self, request: &Self::Kind, old: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("status");
        let (new, known) = (part(request, "status"), part(old, "status"));
        let conditions = new.get("conditions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let mut ends = 0;
        for (index, condition) in conditions.iter().enumerate() {
            // Upstream writes the path so.
            let at = path.child("conditions").child(&format!("[{index}]"));
            let kind = text(condition, "type");
            if !ENDS.contains(&kind) {
                problems.push(FieldError::not_supported(&at.child("type"), kind, &ENDS));
                continue;
            }
            ends += 1;
            if ends > 1 {
                problems.push(FieldError::invalid(&at.child("type"), kind, "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\""));
            }
            if text(condition, "status") != "True" {
                problems.push(FieldError::not_supported(&at.child("status"), text(condition, "status"), &["True"]));
            }
        }
        status_rules::untyped_conditions(conditions, &path.child("conditions"), &mut problems);
        if !problems.is_empty() {
            return problems;
        }
        let settled = |new: &Value, wanted: &Value, detail: &str| {
            if new == wanted { Vec::new() } else { vec![FieldError::invalid_as_a_whole(&path, detail)] }
        };
        if ENDS.iter().any(|kind| is(known, kind)) {
            return settled(new, known, "immutable after PodCertificateRequest is issued, denied, or failed");
        }
        if is(new, "Denied") || is(new, "Failed") {
            let wanted = json!({"conditions": conditions});
            return settled(new, &wanted, "non-condition status fields must be empty when denying or failing the PodCertificateRequest");
        }
        if is(new, "Issued") {
            return issue_problem(part(request, "spec"), new, &path);
        }
        let nothing = |status: &Value| if status.as_object().is_none_or(Map::is_empty) { Value::Null } else { status.clone() };
        settled(&nothing(new), &nothing(known), "status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\"")
    }
    fn allows_unconditional_update(&self) -> bool {
        false
    }
    fn selectable_field_names(&self) -> &'static [&'static str] {
        &["spec.signerName", "spec.podName", "spec.nodeName"]
    }
    fn selectable_fields(&self, request: &Self::Kind) -> Vec<(&'static str, String)> {
        let spec = part(request, "spec");
        [("spec.signerName", "signerName"), ("spec.podName", "podName"), ("spec.nodeName", "nodeName")]
            .map(|(path, field)| (path, text(spec, field).to_owned()))
            .to_vec()
    }
    fn columns(&self) -> &'static [Column] {
        const { &[
            Column::NAME,
            Column::text("PodName", "For which pod."),
            Column::text("ServiceAccountName", "As whom it runs."),
            Column::text("NodeName", "Where it runs."),
            Column::text("SignerName", "Who is to sign."),
            Column::text("State", "Where it stands."),
        ] }
    }
    fn row(&self, request: &Self::Kind, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let (spec, status) = (part(request, "spec"), part(request, "status"));
        let state = ENDS.into_iter().find(|kind| is(status, kind)).unwrap_or("Pending");
        vec![
            raw.name().into(),
            text(spec, "podName").into(),
            text(spec, "serviceAccountName").into(),
            text(spec, "nodeName").into(),
            text(spec, "signerName").into(),
            state.into(),
        ]
    }
}
