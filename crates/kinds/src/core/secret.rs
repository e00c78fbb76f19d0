//! Secret: like a ConfigMap, for what few may read.

use api::{core::v1::Secret, k8s_openapi::ByteString};
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object, validation as rules};
use serde_json::Value;

use super::config_map::MAXIMUM_SIZE;
use crate::{
    cells,
    strategy::{Column, Strategy},
};

/// Behaviour of Secrets.
pub struct SecretStrategy;

impl Strategy for SecretStrategy {
    type Kind = Secret;

    fn default(&self, secret: &mut Secret) {
        // Plain texts are for writing only.
        if let Some(texts) = secret.string_data.take() {
            secret.data.get_or_insert_default().extend(texts.into_iter().map(|(key, text)| (key, ByteString(text.into_bytes()))));
        }
    }
    fn validate(&self, secret: &Secret) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("data");
        let mut size = 0;
        for (key, value) in secret.data.iter().flatten() {
            problems.extend(rules::invalid_each(&path.key(key), key, rules::config_map_key_problems(key)));
            size += value.0.len();
        }
        if size > MAXIMUM_SIZE {
            problems.push(FieldError::too_long(&path, MAXIMUM_SIZE));
        }
        let required = |key: &str, problems: &mut Vec<FieldError>| {
            if !secret.data.as_ref().is_some_and(|data| data.contains_key(key)) {
                problems.push(FieldError::required(&path.key(key), ""));
            }
        };
        let json = |key: &str, problems: &mut Vec<FieldError>| match secret.data.as_ref().and_then(|data| data.get(key)) {
            None => problems.push(FieldError::required(&path.key(key), "")),
            Some(bytes) => {
                if let Err(error) = serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes.0) {
                    problems.push(FieldError::invalid(&path.key(key), "<secret contents redacted>", error.to_string()));
                }
            }
        };
        match secret.type_.as_deref().unwrap_or_default() {
            "kubernetes.io/service-account-token" => {
                let account = secret.metadata.annotations.as_ref().and_then(|all| all.get("kubernetes.io/service-account.name"));
                if account.is_none_or(String::is_empty) {
                    let at = FieldPath::new("metadata").child("annotations").key("kubernetes.io/service-account.name");
                    problems.push(FieldError::required(&at, ""));
                }
            }
            "kubernetes.io/dockercfg" => json(".dockercfg", &mut problems),
            "kubernetes.io/dockerconfigjson" => json(".dockerconfigjson", &mut problems),
            "kubernetes.io/basic-auth" => {
                let has = |key: &str| secret.data.as_ref().is_some_and(|data| data.contains_key(key));
                if !has("username") && !has("password") {
                    required("username", &mut problems);
                    required("password", &mut problems);
                }
            }
            "kubernetes.io/ssh-auth" => {
                if secret.data.as_ref().and_then(|data| data.get("ssh-privatekey")).is_none_or(|key| key.0.is_empty()) {
                    problems.push(FieldError::required(&path.key("ssh-privatekey"), ""));
                }
            }
            "kubernetes.io/tls" => {
                required("tls.crt", &mut problems);
                required("tls.key", &mut problems);
            }
            _ => {}
        }
        problems
    }
    fn validate_update(&self, secret: &Secret, old: &Secret) -> Vec<FieldError> {
        let mut problems = Vec::new();
        crate::problems::immutable(&secret.type_, &old.type_, &FieldPath::new("type"), &mut problems);
        if old.immutable == Some(true) {
            if secret.immutable != Some(true) {
                problems.push(FieldError::forbidden(&FieldPath::new("immutable"), "field is immutable when `immutable` is set"));
            }
            if secret.data != old.data {
                problems.push(FieldError::forbidden(&FieldPath::new("data"), "field is immutable when `immutable` is set"));
            }
        }
        problems.extend(self.validate(secret));
        problems
    }
    fn selectable_field_names(&self) -> &'static [&'static str] {
        &["type"]
    }
    fn selectable_fields(&self, secret: &Secret) -> Vec<(&'static str, String)> {
        vec![("type", secret.type_.clone().unwrap_or_default())]
    }
    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::text("Type", "What it is for."), Column::text("Data", "How many keys it holds."), Column::AGE] }
    }
    fn row(&self, secret: &Secret, raw: &Object, _now: Timestamp) -> Vec<Value> {
        vec![
            raw.name().into(),
            cells::text(secret.type_.as_deref()),
            secret.data.as_ref().map_or(0, |data| data.len()).into(),
            cells::created(raw),
        ]
    }
}
