//! ResourceQuota: what a namespace as a whole may use.

use api::core::v1::ResourceQuota;
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object, quantity::Quantity, validation as rules};
use serde_json::Value;

use crate::{
    cells,
    strategy::{Column, Strategy},
};

/// Behaviour of quotas.
pub struct ResourceQuotaStrategy;

impl Strategy for ResourceQuotaStrategy {
    type Kind = ResourceQuota;

    fn validate(&self, quota: &ResourceQuota) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec").child("hard");
        for (name, amount) in quota.spec.iter().flat_map(|spec| spec.hard.iter().flatten()) {
            let at = path.key(name);
            problems.extend(rules::invalid_each(&at, name, rules::qualified_name_problems(name)));
            if Quantity::parse(&amount.0).is_ok_and(|parsed| parsed.signum() < 0) {
                problems.push(FieldError::invalid(&at, amount.0.as_str(), "must be greater than or equal to 0"));
            }
        }
        problems
    }
    fn validate_update(&self, quota: &ResourceQuota, old: &ResourceQuota) -> Vec<FieldError> {
        let mut problems = self.validate(quota);
        let sorted = |quota: &ResourceQuota| {
            let mut scopes = quota.spec.as_ref().and_then(|spec| spec.scopes.clone()).unwrap_or_default();
            scopes.sort();
            scopes
        };
        if sorted(quota) != sorted(old) {
            problems.push(FieldError::invalid(&FieldPath::new("spec").child("scopes"), sorted(quota), "field is immutable"));
        }
        problems
    }
    fn columns(&self) -> &'static [Column] {
        const { &[
            Column::NAME,
            Column::text("Request", "Requests in use, of what is allowed."),
            Column::text("Limit", "Limits in use, of what is allowed."),
            Column::AGE,
        ] }
    }
    fn row(&self, quota: &ResourceQuota, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let status = quota.status.as_ref();
        let hard = status.and_then(|status| status.hard.as_ref()).or_else(|| quota.spec.as_ref().and_then(|spec| spec.hard.as_ref()));
        let used = status.and_then(|status| status.used.as_ref());
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (name, amount) in hard.into_iter().flatten() {
            let text = format!("{name}: {}/{}", cells::quantity(used, name).unwrap_or_else(|| "0".to_owned()), amount.0);
            if name.starts_with("limits.") { limits.push(text) } else { requests.push(text) }
        }
        vec![raw.name().into(), requests.join(", ").into(), limits.join(", ").into(), cells::created(raw)]
    }
}
