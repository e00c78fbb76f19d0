//! The group `coordination.k8s.io`: Lease, who holds what for how long.

use api::coordination::v1::Lease;
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object};
use serde_json::Value;

use crate::{
    cells,
    problems::not_negative,
    strategy::{Column, Strategy},
};

/// Behaviour of leases.
pub struct LeaseStrategy;

impl Strategy for LeaseStrategy {
    type Kind = Lease;

    fn has_defaults(&self) -> bool {
        false
    }
    fn validate(&self, lease: &Lease) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec");
        let Some(spec) = &lease.spec else { return problems };
        if let Some(seconds) = spec.lease_duration_seconds.filter(|seconds| *seconds <= 0) {
            problems.push(FieldError::invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0"));
        }
        not_negative(spec.lease_transitions.map(i64::from), &path.child("leaseTransitions"), &mut problems);
        if spec.strategy.is_none() && spec.preferred_holder.as_deref().is_some_and(|holder| !holder.is_empty()) {
            problems.push(FieldError::forbidden(&path.child("preferredHolder"), "may only be specified when `strategy` is defined"));
        }
        problems
    }
    fn allows_create_on_update(&self) -> bool {
        true
    }
    fn allows_unconditional_update(&self) -> bool {
        false
    }
    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::text("Holder", "Who holds it."), Column::AGE] }
    }
    fn row(&self, lease: &Lease, raw: &Object, _now: Timestamp) -> Vec<Value> {
        vec![raw.name().into(), cells::text(lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref())), cells::created(raw)]
    }
}
