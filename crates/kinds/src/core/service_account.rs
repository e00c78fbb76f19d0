//! ServiceAccount: who a pod is to the API.

use api::core::v1::ServiceAccount;
use jiff::Timestamp;
use meta::{FieldError, Object};
use serde_json::Value;

use crate::{
    cells,
    strategy::{Column, Strategy},
};

/// Behaviour of service accounts.
pub struct ServiceAccountStrategy;

impl Strategy for ServiceAccountStrategy {
    type Kind = ServiceAccount;

    fn has_defaults(&self) -> bool {
        false
    }
    fn validate(&self, _account: &ServiceAccount) -> Vec<FieldError> {
        Vec::new()
    }
    fn has_warnings(&self) -> bool {
        true
    }
    fn warnings(&self, account: &ServiceAccount, old: Option<&ServiceAccount>) -> Vec<String> {
        let key = "kubernetes.io/enforce-mountable-secrets";
        let has = |account: &ServiceAccount| account.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(key));
        let is_new = has(account) && old.is_none_or(|old| !has(old));
        is_new.then(|| format!("metadata.annotations[{key}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets")).into_iter().collect()
    }
    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::AGE] }
    }
    fn row(&self, _account: &ServiceAccount, raw: &Object, _now: Timestamp) -> Vec<Value> {
        vec![raw.name().into(), cells::created(raw)]
    }
}
