//! ClusterTrustBundle: authorities that everybody in the cluster may want to trust.
//!
//! Source: Kubernetes `pkg/apis/certificates/validation/validation.go`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object, validation as rules};
use serde_json::{Map, Value};

use super::{pem, signer_name};
use crate::{
    cells,
    problems::immutable,
    strategy::{Column, NameRule, Strategy},
};

/// Behaviour of bundles.
pub struct ClusterTrustBundleStrategy;

/// The largest bundle, in bytes.
const LARGEST: usize = 1024 * 1024;

fn text<'a>(bundle: &'a Map<String, Value>, field: &str) -> &'a str {
    bundle.get("spec").and_then(|spec| spec.get(field)).and_then(Value::as_str).unwrap_or_default()
}

/// A bundle of a signer has its name; others must not look as if they had.
fn name_problems(name: &str, signer: &str) -> Vec<String> {
    if signer.is_empty() {
        if name.contains(':') {
            return vec!["ClusterTrustBundle without signer name must not have \":\" in its name".to_owned()];
        }
        return rules::dns1123_subdomain_problems(name);
    }
    let prefix = format!("{}:", signer.replace('/', ":"));
    match name.strip_prefix(&prefix) {
        Some(rest) => rules::dns1123_subdomain_problems(rest),
        None => vec![format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}")],
    }
}

/// What is wrong with a bundle of authorities.
fn bundle_problems(bundle: &str, path: &FieldPath, problems: &mut Vec<FieldError>) {
    const HIDDEN: &str = "<value omitted>";
    if bundle.len() > LARGEST {
        problems.push(FieldError::too_long(path, LARGEST));
        return;
    }
    let mut wrong = Vec::new();
    let mut places: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
    for (index, block) in pem::blocks(bundle).into_iter().enumerate() {
        if block.label != "CERTIFICATE" {
            wrong.push(format!("entry {index} has bad block type: {}", block.label));
        } else if block.has_headers {
            wrong.push(format!("entry {index} has PEM block headers"));
        } else {
            let is_authority = match x509_parser::parse_x509_certificate(&block.contents) {
                Ok(([], certificate)) => Some(certificate.is_ca()),
                _ => None,
            };
            match is_authority {
                Some(true) => places.entry(block.contents).or_default().push(index),
                Some(false) => wrong.push(format!("entry {index} does not have the CA bit set")),
                None => wrong.push(format!("entry {index} does not parse as X.509")),
            }
        }
    }
    if wrong.is_empty() && places.is_empty() {
        wrong.push("at least one trust anchor must be provided".to_owned());
    } else if wrong.is_empty() {
        for indexes in places.values().filter(|indexes| indexes.len() > 1) {
            let list: Vec<String> = indexes.iter().map(ToString::to_string).collect();
            wrong.push(format!("duplicate trust anchor (indices [{}])", list.join(" ")));
        }
    }
    problems.extend(wrong.into_iter().map(|detail| FieldError::invalid(path, HIDDEN, detail)));
}

fn problems_of(bundle: &Map<String, Value>, looks_inside: bool) -> Vec<FieldError> {
    let mut problems = Vec::new();
    let (path, signer) = (FieldPath::new("spec"), text(bundle, "signerName"));
    let name = bundle.get("metadata").and_then(|metadata| metadata.get("name")).and_then(Value::as_str).unwrap_or_default();
    problems.extend(rules::invalid_each(&FieldPath::new("metadata").child("name"), name, name_problems(name, signer)));
    if !signer.is_empty() {
        signer_name(signer, &path.child("signerName"), &mut problems);
    }
    if looks_inside {
        bundle_problems(text(bundle, "trustBundle"), &path.child("trustBundle"), &mut problems);
    }
    problems
}

impl Strategy for ClusterTrustBundleStrategy {
    type Kind = Map<String, Value>;

    fn validate(&self, bundle: &Self::Kind) -> Vec<FieldError> {
        problems_of(bundle, true)
    }
    fn validate_update(&self, bundle: &Self::Kind, old: &Self::Kind) -> Vec<FieldError> {
        let mut problems = problems_of(bundle, text(bundle, "trustBundle") != text(old, "trustBundle"));
        immutable(&text(bundle, "signerName"), &text(old, "signerName"), &FieldPath::new("spec").child("signerName"), &mut problems);
        problems
    }
    fn name_rule(&self) -> NameRule {
        NameRule::Any
    }
    fn allows_unconditional_update(&self) -> bool {
        false
    }
    fn selectable_field_names(&self) -> &'static [&'static str] {
        &["spec.signerName"]
    }
    fn selectable_fields(&self, bundle: &Self::Kind) -> Vec<(&'static str, String)> {
        vec![("spec.signerName", text(bundle, "signerName").to_owned())]
    }
    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::text("SignerName", "Whose authorities they are.")] }
    }
    fn row(&self, bundle: &Self::Kind, raw: &Object, _now: Timestamp) -> Vec<Value> {
        vec![raw.name().into(), cells::or_none(Some(text(bundle, "signerName")).filter(|name| !name.is_empty()))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_whose_bundle_it_is() {
        assert!(name_problems("a.b", "").is_empty());
        assert!(name_problems("example.com:a:b", "example.com/a").is_empty());
        assert_eq!(name_problems("a:b", ""), ["ClusterTrustBundle without signer name must not have \":\" in its name"]);
        assert_eq!(name_problems("b", "example.com/a"), ["ClusterTrustBundle for signerName example.com/a must be named with prefix example.com:a:"]);
    }
}
