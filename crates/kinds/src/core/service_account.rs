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
    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::AGE] }
    }
    fn row(&self, _account: &ServiceAccount, raw: &Object, _now: Timestamp) -> Vec<Value> {
        vec![raw.name().into(), cells::created(raw)]
    }
}
