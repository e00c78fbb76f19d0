//! Looks at one claim at a time and does what [`super::claim_plan`] decides.

use std::sync::Arc;

use async_trait::async_trait;
use client::{Api, EventRecorder, EventType, Index, Informer, ObjectKey, PostParams, key_of};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Trigger, Writes};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;

use super::claim_plan::{Facts, Step, plan};
use super::{
    BIND_COMPLETED, CONTROLLER, DEFAULT_CLASS, PROVISIONERS, annotation, binding, claim_reference, class_of_claim, class_of_volume, claims_of, pods_by_claim, selected_node,
    volume_of, volume_phase,
};
use crate::{ControllerContext, pods};

pub(super) struct Claims {
    client: client::Client,
    claims: Informer<PersistentVolumeClaim>,
    /// Claims without a volume, by class.
    pending: Index<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    /// Volumes by class, and by the claim they are reserved for.
    candidates: Index<PersistentVolume>,
    classes: Informer<StorageClass>,
    pods: Informer<Pod>,
    pods_by_claim: Index<Pod>,
    claim_writes: Writes<PersistentVolumeClaim>,
    volume_writes: Writes<PersistentVolume>,
    events: EventRecorder,
    clock: Arc<dyn client::Clock>,
}

fn by_class(class: &str) -> String {
    format!("class {class}")
}

fn by_claim(namespace: &str, name: &str) -> String {
    format!("claim {namespace}/{name}")
}

fn reserved_for(volume: &PersistentVolume) -> Option<ObjectKey> {
    let reference = claim_reference(volume)?;
    Some(ObjectKey::namespaced(reference.namespace.as_deref()?, reference.name.as_deref()?))
}

impl Claims {
    pub fn new(context: &ControllerContext) -> Self {
        let claims = context.informers.of::<PersistentVolumeClaim>();
        let volumes = context.informers.of::<PersistentVolume>();
        let pods = context.informers.of::<Pod>();
        Self {
            client: context.client(CONTROLLER),
            pending: claims.index("pending by class", |claim| match annotation(&claim.metadata, BIND_COMPLETED) {
                Some(_) => Vec::new(),
                None => vec![class_of_claim(claim).to_owned()],
            }),
            candidates: volumes.index("class, and claim reserved for", |volume| {
                let claim = reserved_for(volume).map(|key| by_claim(key.namespace.as_deref().unwrap_or_default(), &key.name));
                claim.into_iter().chain([by_class(class_of_volume(volume))]).collect()
            }),
            claim_writes: Writes::new(claims.clone(), context.clock.clone()),
            volume_writes: Writes::new(volumes.clone(), context.clock.clone()),
            claims,
            volumes,
            classes: context.informers.of(),
            pods_by_claim: pods_by_claim(&pods),
            pods,
            events: context.events_as(CONTROLLER, "persistentvolume-controller"),
            clock: context.clock.clone(),
        }
    }

    fn claims_api(&self, key: &ObjectKey) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.client.clone(), key.namespace.as_deref().unwrap_or_default())
    }

    /// Writes a claim where it differs from what it was; with its status only when that is what differs.
    async fn write(&self, key: &ObjectKey, old: &PersistentVolumeClaim, new: PersistentVolumeClaim) -> Result<PersistentVolumeClaim, ReconcileError> {
        if *old == new {
            return Ok(new);
        }
        let api = self.claims_api(key);
        let written = if old.status == new.status {
            api.replace(&key.name, &PostParams::default(), &new).await
        } else {
            api.replace_status(&key.name, &PostParams::default(), &new).await
        };
        let written = written.doing(|| format!("update claim {key}"))?;
        self.claim_writes.wrote(key, &written);
        Ok(written)
    }

    /// Makes the volume and the claim say that they belong together, in the order that survives an end at any point: the volume is
    /// reserved first.
    async fn bind(&self, key: &ObjectKey, claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Result<(), ReconcileError> {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let api = Api::<PersistentVolume>::all(self.client.clone());
        let mut volume = volume.clone();
        let taken = binding::taken(&volume, claim);
        if taken != volume {
            volume = api.replace(name, &PostParams::default(), &taken).await.doing(|| format!("reserve volume {name} for {key}"))?;
            self.volume_writes.wrote(key, &volume);
        }
        let bound = binding::in_phase(&volume, "Bound", None, self.clock.now());
        if bound != volume {
            volume = api.replace_status(name, &PostParams::default(), &bound).await.doing(|| format!("update the status of volume {name}"))?;
            self.volume_writes.wrote(key, &volume);
        }
        let claim = self.write(key, claim, binding::settled(claim, &volume)).await?;
        self.write(key, &claim, binding::with_volume_status(&claim, &volume)).await?;
        Ok(())
    }

    /// Asks whoever makes volumes of that kind for one.
    async fn ask(&self, key: &ObjectKey, claim: &PersistentVolumeClaim, provisioner: &str) -> Result<PersistentVolumeClaim, ReconcileError> {
        let mut asking = claim.clone();
        let annotations = asking.metadata.annotations.get_or_insert_default();
        for name in PROVISIONERS {
            annotations.insert(name.to_owned(), provisioner.to_owned());
        }
        let asking = self.write(key, claim, asking).await?;
        let message = format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. \
             If volume creation is delayed, please verify that the provisioner is running and correctly registered."
        );
        self.events.record(claim, EventType::Normal, "ExternalProvisioning", message);
        Ok(asking)
    }

    /// The newest class that is marked as the default.
    fn default_class(&self) -> Option<String> {
        let classes = self.classes.list().into_iter().filter(|class| annotation(&class.metadata, DEFAULT_CLASS) == Some("true"));
        let newest = classes.max_by_key(|class| (class.metadata.creation_timestamp.as_ref().map(|time| time.0), std::cmp::Reverse(class.metadata.name.clone())));
        newest?.metadata.name.clone()
    }
}

#[async_trait]
impl Reconciler for Claims {
    fn name(&self) -> &'static str {
        "persistentvolumeclaim-binder"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let (pending, of_class, claims) = (self.pending.clone(), self.pending.clone(), self.claims.clone());
        vec![
            Trigger::itself(&self.claims),
            Trigger::on(&self.volumes, move |change| {
                let reserved = [&change.old, &change.new].into_iter().flatten().filter_map(|volume| reserved_for(volume));
                let mut keys: Vec<ObjectKey> = reserved.collect();
                // A claim may name a volume that does not know it, and a free volume may be what somebody waits for.
                if let Some(volume) = change.new.as_ref().filter(|volume| claim_reference(volume).is_none() && volume_phase(volume) == "Available") {
                    keys.extend(pending.get(class_of_volume(volume)).iter().map(|claim| key_of(&**claim)));
                }
                let appeared_or_went = change.old.is_none() || change.new.is_none();
                if appeared_or_went {
                    let naming = claims.list().into_iter().filter(|claim| volume_of(claim) == Some(&*change.key.name));
                    keys.extend(naming.map(|claim| key_of(&*claim)));
                }
                keys
            }),
            Trigger::on(&self.classes, move |change| {
                let waiting = of_class.get(&change.key.name).into_iter().chain(of_class.get(""));
                waiting.map(|claim| key_of(&*claim)).collect()
            }),
            Trigger::on(&self.pods, |change| {
                let Some(pod) = change.new.as_ref().filter(|pod| !pods::is_finished(pod)) else { return Vec::new() };
                let was_there = change.old.as_ref().is_some_and(|old| pods::node_name(old) == pods::node_name(pod));
                let claims = if was_there { Vec::new() } else { claims_of(pod) };
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                claims.iter().map(|claim| ObjectKey::namespaced(namespace, claim)).collect()
            }),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(claim) = self.claims.get(key) else {
            self.claim_writes.forget(key);
            self.volume_writes.forget(key);
            return Ok(Outcome::Settled);
        };
        if !self.claim_writes.are_visible(key) || !self.volume_writes.are_visible(key) {
            return Ok(Outcome::CheckAgainIn(Writes::<PersistentVolume>::patience()));
        }
        let namespace = key.namespace.as_deref().unwrap_or_default();
        let class = class_of_claim(&claim);
        let mut candidates = self.candidates.get(&by_claim(namespace, &key.name));
        candidates.extend(self.candidates.get(&by_class(class)));
        let users = self.pods_by_claim.get(&format!("{namespace}/{}", key.name));
        let node = selected_node(&claim, &users);
        let waiting = users.iter().filter(|pod| pods::node_name(pod).is_empty() && pods::is_active(pod));
        let waiting: Vec<&str> = waiting.filter_map(|pod| pod.metadata.name.as_deref()).collect();
        let default_class = self.default_class();
        let class = self.classes.get(&ObjectKey::cluster(class));
        let facts = Facts {
            named: volume_of(&claim).and_then(|name| self.volumes.get(&ObjectKey::cluster(name))),
            candidates: &candidates,
            class: class.as_deref(),
            node: node.as_deref(),
            waiting_pods: &waiting,
            default_class: default_class.as_deref(),
        };
        match plan(&claim, &facts) {
            Step::Bind(volume) => self.bind(key, &claim, &volume).await?,
            // A claim that leaves needs no volume any more.
            _ if claim.metadata.deletion_timestamp.is_some() => {}
            Step::GiveClass(class) => {
                let mut changed = (*claim).clone();
                changed.spec.get_or_insert_default().storage_class_name = Some(class);
                self.write(key, &claim, changed).await?;
            }
            Step::Provision { provisioner } => {
                let asking = self.ask(key, &claim, &provisioner).await?;
                self.write(key, &asking, binding::without_volume(&asking, "Pending")).await?;
            }
            Step::Wait(said) => {
                if let Some((kind, reason, message)) = said {
                    self.events.record(&*claim, kind, reason, message);
                }
                self.write(key, &claim, binding::without_volume(&claim, "Pending")).await?;
            }
            Step::Lose { reason, message } => {
                let lost = binding::without_volume(&claim, "Lost");
                if lost != *claim {
                    self.events.record(&*claim, EventType::Warning, reason, message);
                    self.write(key, &claim, lost).await?;
                }
            }
        }
        Ok(Outcome::Settled)
    }
}
