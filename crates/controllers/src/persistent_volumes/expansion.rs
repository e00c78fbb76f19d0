//! Says of a claim that asks for more than it has that somebody outside has to let it grow: every kind of volume that can is a driver's.
//! Our own provisioner is one of these (`local_volumes`).
//!
//! Source: Kubernetes 1.36, `pkg/controller/volume/expand/expand_controller.go`.

use async_trait::async_trait;
use client::{EventRecorder, EventType, Informer, ObjectKey};
use controller::{Outcome, ReconcileError, Reconciler, Runner, Trigger};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::{claim_phase, claim_reference, granted, requested, volume_of};
use crate::ControllerContext;

/// Starts the controller.
pub(super) fn start(context: &ControllerContext, runner: &Runner) {
    let controller = Expansion { claims: context.informers.of(), volumes: context.informers.of(), events: context.events_as("expand-controller", "volume_expand") };
    runner.start(controller, 1);
}

struct Expansion {
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    events: EventRecorder,
}

/// Whether a claim asks for more than it has of a volume that is its own.
fn is_to_grow(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let is_its_own = claim_reference(volume).is_some_and(|reference| reference.namespace == claim.metadata.namespace && reference.uid == claim.metadata.uid);
    let asks_for_more = match (requested(claim), granted(claim)) {
        (Some(asked), Some(has)) => asked.sub(&has).signum() > 0,
        (asked, _) => asked.is_some(),
    };
    claim_phase(claim) == "Bound" && is_its_own && asks_for_more
}

/// How it is said: of volumes over Fibre Channel upstream knows that it cannot let them grow, of others it knows nothing.
fn kind(volume: &PersistentVolume) -> EventType {
    if volume.spec.as_ref().is_some_and(|spec| spec.fc.is_some()) { EventType::Normal } else { EventType::Warning }
}

#[async_trait]
impl Reconciler for Expansion {
    fn name(&self) -> &'static str {
        "persistentvolume-expander"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let grew = |claim: &PersistentVolumeClaim, old: &PersistentVolumeClaim| match (requested(claim), requested(old)) {
            (Some(new), Some(old)) => new.sub(&old).signum() > 0,
            (new, old) => new.is_some() && old.is_none(),
        };
        vec![
            Trigger::on(&self.claims, move |change| {
                let Some(claim) = &change.new else { return Vec::new() };
                let is_news = change.old.as_ref().is_none_or(|old| grew(claim, old));
                if is_news { vec![change.key.clone()] } else { Vec::new() }
            }),
            Trigger::reads(&self.volumes),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(claim) = self.claims.get(key) else { return Ok(Outcome::Settled) };
        let volume = volume_of(&claim).and_then(|name| self.volumes.get(&ObjectKey::cluster(name)));
        if let Some(volume) = volume.filter(|volume| is_to_grow(&claim, volume)) {
            self.events.record(&*claim, kind(&volume), "ExternalExpanding", "waiting for an external controller to expand this PVC");
        }
        Ok(Outcome::Settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_a_bound_claim_grows_that_asks_for_more_of_its_own_volume() {
        let check = |phase: &str, asked: &str, has: &str, owner: &str, expected: bool| {
            let claim: PersistentVolumeClaim = serde_json::from_value(json!({
                "metadata": { "name": "c", "namespace": "x", "uid": "1" },
                "spec": { "resources": { "requests": { "storage": asked } } },
                "status": { "phase": phase, "capacity": { "storage": has } },
            }))
            .unwrap();
            let volume = serde_json::from_value(json!({ "metadata": { "name": "v" }, "spec": { "claimRef": { "namespace": "x", "name": "c", "uid": owner } } })).unwrap();
            assert_eq!(is_to_grow(&claim, &volume), expected, "{phase} {asked} {has} {owner}");
        };
        check("Bound", "2Gi", "1Gi", "1", true);
        check("Bound", "1Gi", "1Gi", "1", false);
        check("Bound", "1Gi", "2Gi", "1", false);
        check("Pending", "2Gi", "1Gi", "1", false);
        check("Bound", "2Gi", "1Gi", "2", false);
    }
}
