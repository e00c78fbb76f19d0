//! Looks at one volume at a time and does what [`super::volume_plan`] decides.

use std::sync::Arc;

use async_trait::async_trait;
use client::{Api, EventRecorder, EventType, Informer, ObjectKey, PostParams};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Trigger, Writes};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::volume_plan::{Step, plan};
use super::{CONTROLLER, binding, claim_reference, volume_of};
use crate::ControllerContext;

pub(super) struct Volumes {
    client: client::Client,
    volumes: Informer<PersistentVolume>,
    claims: Informer<PersistentVolumeClaim>,
    writes: Writes<PersistentVolume>,
    events: EventRecorder,
    clock: Arc<dyn client::Clock>,
}

impl Volumes {
    pub fn new(context: &ControllerContext) -> Self {
        let volumes = context.informers.of::<PersistentVolume>();
        Self {
            client: context.client(CONTROLLER),
            writes: Writes::new(volumes.clone(), context.clock.clone()),
            volumes,
            claims: context.informers.of(),
            events: context.events_as(CONTROLLER, "persistentvolume-controller"),
            clock: context.clock.clone(),
        }
    }

    /// The claim that a volume refers to, if that exists and is not merely one of the same name.
    async fn claim(&self, volume: &PersistentVolume) -> Result<Option<Arc<PersistentVolumeClaim>>, ReconcileError> {
        let Some(reference) = claim_reference(volume) else { return Ok(None) };
        let (namespace, name) = (reference.namespace.as_deref().unwrap_or_default(), reference.name.as_deref().unwrap_or_default());
        let is_it = |claim: &PersistentVolumeClaim| claim.metadata.uid == reference.uid;
        if let Some(known) = self.claims.get_in(namespace, name).filter(|claim| is_it(claim)) {
            return Ok(Some(known));
        }
        // The cache may be behind, and what is released cannot be taken back.
        let api = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), namespace);
        let live = api.get_opt(name).await.doing(|| format!("read claim {namespace}/{name}"))?;
        Ok(live.filter(is_it).map(Arc::new))
    }

    async fn set_phase(&self, key: &ObjectKey, volume: &PersistentVolume, phase: &str, message: Option<&str>) -> Result<bool, ReconcileError> {
        let changed = binding::in_phase(volume, phase, message, self.clock.now());
        if changed == *volume {
            return Ok(false);
        }
        match Api::<PersistentVolume>::all(self.client.clone()).replace_status(&key.name, &PostParams::default(), &changed).await {
            Err(error) if client::is_not_found(&error) => Ok(false),
            other => {
                self.writes.wrote(key, &other.doing(|| format!("update the status of volume {key}"))?);
                Ok(true)
            }
        }
    }
}

#[async_trait]
impl Reconciler for Volumes {
    fn name(&self) -> &'static str {
        "persistentvolume-binder"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let volumes = self.volumes.clone();
        vec![
            Trigger::itself(&self.volumes),
            Trigger::on(&self.claims, move |change| {
                let named = [&change.old, &change.new].into_iter().flatten().filter_map(|claim| volume_of(claim)).map(ObjectKey::cluster);
                let mut keys: Vec<ObjectKey> = named.collect();
                // Volumes may be reserved for a claim that went before it named one.
                if change.new.is_none() {
                    let reserved = volumes.list().into_iter().filter(|volume| {
                        claim_reference(volume).is_some_and(|reference| reference.name.as_deref() == Some(&*change.key.name) && reference.namespace.as_deref() == change.key.namespace.as_deref())
                    });
                    keys.extend(reserved.map(|volume| client::key_of(&*volume)));
                }
                keys
            }),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(volume) = self.volumes.get(key) else {
            self.writes.forget(key);
            return Ok(Outcome::Settled);
        };
        if !self.writes.are_visible(key) {
            return Ok(Outcome::CheckAgainIn(Writes::<PersistentVolume>::patience()));
        }
        let claim = self.claim(&volume).await?;
        match plan(&volume, claim.as_deref()) {
            Step::Offer => drop(self.set_phase(key, &volume, "Available", None).await?),
            Step::Leave | Step::Stay => {}
            Step::Mismatch => {
                let (name, claim_name) = (&key.name, claim.as_ref().and_then(|claim| claim.metadata.name.as_deref()).unwrap_or_default());
                let message = format!("Cannot bind PersistentVolume to requested PersistentVolumeClaim {claim_name:?} due to incompatible volumeMode.");
                self.events.record(&*volume, EventType::Warning, "VolumeMismatch", message);
                if let Some(claim) = &claim {
                    let message = format!("Cannot bind PersistentVolume {name:?} to requested PersistentVolumeClaim due to incompatible volumeMode.");
                    self.events.record(&**claim, EventType::Warning, "VolumeMismatch", message);
                }
            }
            Step::Keep => drop(self.set_phase(key, &volume, "Bound", None).await?),
            Step::Release => drop(self.set_phase(key, &volume, "Released", None).await?),
            Step::Fail { reason, message } => {
                if self.set_phase(key, &volume, "Failed", Some(&message)).await? {
                    self.events.record(&*volume, EventType::Warning, reason, message);
                }
            }
            Step::Free => {
                let freed = binding::freed(&volume);
                let api = Api::<PersistentVolume>::all(self.client.clone());
                let freed = api.replace(&key.name, &PostParams::default(), &freed).await.doing(|| format!("free volume {key}"))?;
                self.writes.wrote(key, &freed);
                self.set_phase(key, &freed, "Available", None).await?;
            }
        }
        Ok(Outcome::Settled)
    }
}
