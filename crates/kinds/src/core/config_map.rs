//! ConfigMap: small texts and bytes for pods to read.

use api::core::v1::ConfigMap;
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object, validation as rules};
use serde_json::Value;

use crate::{
    cells,
    strategy::{Column, Strategy},
};

/// Largest sum of all values, in bytes. Source: Kubernetes `MaxSecretSize`.
pub const MAXIMUM_SIZE: usize = 1024 * 1024;

/// Behaviour of ConfigMaps.
pub struct ConfigMapStrategy;

impl Strategy for ConfigMapStrategy {
    type Kind = ConfigMap;

    fn has_defaults(&self) -> bool {
        false
    }
    fn validate(&self, map: &ConfigMap) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let mut size = 0;
        for (key, value) in map.data.iter().flatten() {
            problems.extend(rules::invalid_each(&FieldPath::new("data").key(key), key, rules::config_map_key_problems(key)));
            if map.binary_data.as_ref().is_some_and(|binary| binary.contains_key(key)) {
                problems.push(FieldError::invalid(&FieldPath::new("data").key(key), key.as_str(), "duplicate of key present in binaryData"));
            }
            size += value.len();
        }
        for (key, value) in map.binary_data.iter().flatten() {
            problems.extend(rules::invalid_each(&FieldPath::new("binaryData").key(key), key, rules::config_map_key_problems(key)));
            size += value.0.len();
        }
        if size > MAXIMUM_SIZE {
            problems.push(FieldError::too_long(&FieldPath::root(), MAXIMUM_SIZE));
        }
        problems
    }
    fn validate_update(&self, map: &ConfigMap, old: &ConfigMap) -> Vec<FieldError> {
        let mut problems = Vec::new();
        if old.immutable == Some(true) {
            if map.immutable != Some(true) {
                problems.push(FieldError::forbidden(&FieldPath::new("immutable"), "field is immutable when `immutable` is set"));
            }
            if map.data != old.data {
                problems.push(FieldError::forbidden(&FieldPath::new("data"), "field is immutable when `immutable` is set"));
            }
            if map.binary_data != old.binary_data {
                problems.push(FieldError::forbidden(&FieldPath::new("binaryData"), "field is immutable when `immutable` is set"));
            }
        }
        problems.extend(self.validate(map));
        problems
    }
    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::text("Data", "How many keys it holds."), Column::AGE] }
    }
    fn row(&self, map: &ConfigMap, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let count = map.data.as_ref().map_or(0, |data| data.len()) + map.binary_data.as_ref().map_or(0, |data| data.len());
        vec![raw.name().into(), count.into(), cells::created(raw)]
    }
}
