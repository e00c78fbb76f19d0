//! What is to be done about a claim.

use std::sync::Arc;

use client::EventType;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

use super::{BIND_COMPLETED, annotation, claim_reference, class_of_claim, matching, means, volume_of, waits_for_consumer};

/// The provisioner of classes whose volumes are made by hand.
const NONE: &str = "kubernetes.io/no-provisioner";
/// Provisioners whose names begin so were part of Kubernetes once.
const BUILT_IN: &str = "kubernetes.io/";
/// The names of those that live on elsewhere, and what they are called there.
/// Source: Kubernetes 1.36, `k8s.io/csi-translation-lib`.
const MOVED: [(&str, &str); 7] = [
    ("kubernetes.io/aws-ebs", "ebs.csi.aws.com"),
    ("kubernetes.io/azure-disk", "disk.csi.azure.com"),
    ("kubernetes.io/azure-file", "file.csi.azure.com"),
    ("kubernetes.io/cinder", "cinder.csi.openstack.org"),
    ("kubernetes.io/gce-pd", "pd.csi.storage.gke.io"),
    ("kubernetes.io/portworx-volume", "pxd.portworx.com"),
    ("kubernetes.io/vsphere-volume", "csi.vsphere.vmware.com"),
];

/// What to say in an event.
pub(super) type Said = Option<(EventType, &'static str, String)>;

/// The next step.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing yet.
    Wait(Said),
    /// It belongs to this volume; make both say so.
    Bind(Arc<PersistentVolume>),
    /// It was made when there was no default class; it gets this one.
    GiveClass(String),
    /// Somebody has to make a volume: the one with this name.
    Provision { provisioner: String },
    /// Its volume is gone for good.
    Lose { reason: &'static str, message: &'static str },
}

/// What is known around a claim.
pub(super) struct Facts<'a> {
    /// The volume it names, if that exists.
    pub named: Option<Arc<PersistentVolume>>,
    /// Volumes of its class, and those reserved for it.
    pub candidates: &'a [Arc<PersistentVolume>],
    /// Its class, if that exists.
    pub class: Option<&'a StorageClass>,
    /// The node its first pod will be on.
    pub node: Option<&'a str>,
    /// The pods that wait for it and are on no node yet.
    pub waiting_pods: &'a [&'a str],
    /// The class that claims get which name none, if there is one.
    pub default_class: Option<&'a str>,
}

/// Decides.
/// Source: Kubernetes 1.36, `syncClaim`.
pub(super) fn plan(claim: &PersistentVolumeClaim, facts: &Facts<'_>) -> Step {
    let reference = facts.named.as_deref().and_then(claim_reference);
    let was_bound = annotation(&claim.metadata, BIND_COMPLETED).is_some();
    match (was_bound, volume_of(claim), &facts.named) {
        (true, None, _) => Step::Lose { reason: "ClaimLost", message: "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!" },
        (true, Some(_), None) => Step::Lose { reason: "ClaimLost", message: "Bound claim has lost its PersistentVolume. Data on the volume is lost!" },
        (true, Some(_), Some(volume)) => match reference {
            Some(reference) if reference.uid != claim.metadata.uid => {
                Step::Lose { reason: "ClaimMisbound", message: "Two claims are bound to the same volume, this one is bound incorrectly" }
            }
            _ => Step::Bind(volume.clone()),
        },
        (false, None, _) => without_name(claim, facts),
        (false, Some(_), None) => Step::Wait(None),
        (false, Some(name), Some(volume)) => match reference {
            None => match matching::mismatch(claim, volume) {
                None => Step::Bind(volume.clone()),
                Some(why) => Step::Wait(Some((EventType::Warning, "VolumeMismatch", format!("Cannot bind to requested volume \"{name}\": {why}")))),
            },
            Some(reference) if means(reference, &claim.metadata) => Step::Bind(volume.clone()),
            // Somebody else has that volume: that one may let it go.
            Some(_) => Step::Wait(Some((EventType::Warning, "FailedBinding", format!("volume \"{name}\" already bound to a different claim.")))),
        },
    }
}

fn without_name(claim: &PersistentVolumeClaim, facts: &Facts<'_>) -> Step {
    let is_delayed = facts.class.is_some_and(waits_for_consumer);
    if let Some(volume) = matching::best(claim, facts.candidates, is_delayed) {
        return Step::Bind(volume);
    }
    let normal = |reason, message: String| Step::Wait(Some((EventType::Normal, reason, message)));
    let class = class_of_claim(claim);
    let names_a_class = !class.is_empty() || claim.spec.as_ref().is_some_and(|spec| spec.storage_class_name.is_some());
    if let Some(default) = facts.default_class.filter(|_| !names_a_class) {
        return Step::GiveClass(default.to_owned());
    }
    if is_delayed && facts.node.is_none() {
        return match facts.waiting_pods {
            [] => normal("WaitForFirstConsumer", "waiting for first consumer to be created before binding".to_owned()),
            [pod] => normal("WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
            pods => normal("WaitForPodScheduled", format!("waiting for pods {} to be scheduled", pods.join(","))),
        };
    }
    if class.is_empty() {
        return normal("FailedBinding", "no persistent volumes available for this claim and no storage class is set".to_owned());
    }
    let failed = |message: String| Step::Wait(Some((EventType::Warning, "ProvisioningFailed", message)));
    match facts.class.map(|class| class.provisioner.as_str()) {
        None => failed(format!("storageclass.storage.k8s.io \"{class}\" not found")),
        // With delayed binding the scheduler says what is missing.
        Some(NONE) if is_delayed => Step::Wait(None),
        Some(provisioner) if provisioner.starts_with(BUILT_IN) => match MOVED.iter().find(|(name, _)| *name == provisioner) {
            Some((_, name)) => Step::Provision { provisioner: (*name).to_owned() },
            None => failed(format!("no volume plugin matched name: {provisioner}")),
        },
        Some(provisioner) => Step::Provision { provisioner: provisioner.to_owned() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(class: Value, volume: &str, annotations: Value) -> PersistentVolumeClaim {
        serde_json::from_value(json!({
            "metadata": { "name": "c", "namespace": "x", "uid": "1", "annotations": annotations },
            "spec": { "accessModes": ["ReadWriteOnce"], "storageClassName": class, "volumeName": volume, "resources": { "requests": { "storage": "1Gi" } } },
        }))
        .unwrap()
    }

    fn class(provisioner: &str, mode: &str) -> StorageClass {
        serde_json::from_value(json!({ "metadata": { "name": "k" }, "provisioner": provisioner, "volumeBindingMode": mode })).unwrap()
    }

    /// The step, as a line.
    fn said(step: &Step) -> String {
        match step {
            Step::Wait(None) => "wait".to_owned(),
            Step::Wait(Some((kind, reason, message))) => format!("{kind:?} {reason}: {message}"),
            Step::Bind(volume) => format!("bind {}", volume.metadata.name.as_deref().unwrap_or_default()),
            Step::GiveClass(class) => format!("class {class}"),
            Step::Provision { provisioner } => format!("provision {provisioner}"),
            Step::Lose { reason, message } => format!("lose {reason}: {message}"),
        }
    }

    #[test]
    fn a_claim_without_a_volume_says_what_it_waits_for() {
        let check = |name: Value, class: Option<&StorageClass>, waiting_pods: &[&str], node: Option<&str>, default_class: Option<&str>, expected: &str| {
            let facts = Facts { named: None, candidates: &[], class, node, waiting_pods, default_class };
            assert_eq!(said(&plan(&claim(name, "", json!({})), &facts)), expected);
        };
        let (now, later) = (class("x.example", "Immediate"), class("x.example", "WaitForFirstConsumer"));
        let nothing = "Normal FailedBinding: no persistent volumes available for this claim and no storage class is set";
        check(json!(""), None, &[], None, Some("d"), nothing);
        check(json!(null), None, &[], None, None, nothing);
        check(json!(null), None, &[], None, Some("d"), "class d");
        check(json!("k"), None, &[], None, Some("d"), "Warning ProvisioningFailed: storageclass.storage.k8s.io \"k\" not found");
        check(json!("k"), Some(&now), &[], None, None, "provision x.example");
        check(json!("k"), Some(&later), &[], None, None, "Normal WaitForFirstConsumer: waiting for first consumer to be created before binding");
        check(json!("k"), Some(&later), &["a"], None, None, "Normal WaitForPodScheduled: waiting for pod a to be scheduled");
        check(json!("k"), Some(&later), &["a", "b"], None, None, "Normal WaitForPodScheduled: waiting for pods a,b to be scheduled");
        check(json!("k"), Some(&later), &[], Some("n"), None, "provision x.example");
        check(json!("k"), Some(&class("kubernetes.io/aws-ebs", "Immediate")), &[], None, None, "provision ebs.csi.aws.com");
        for provisioner in ["kubernetes.io/no-provisioner", "kubernetes.io/glusterfs"] {
            let expected = format!("Warning ProvisioningFailed: no volume plugin matched name: {provisioner}");
            check(json!("k"), Some(&class(provisioner, "Immediate")), &[], None, None, &expected);
        }
    }

    #[test]
    fn a_claim_takes_the_volume_it_names_where_that_does_and_is_free() {
        let check = |annotations: Value, change: Value, expected: &str| {
            let mut volume = json!({
                "metadata": { "name": "v" },
                "spec": { "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "1Gi" } },
            });
            for (name, value) in change.as_object().unwrap() {
                match name.as_str() {
                    "deletionTimestamp" => volume["metadata"][name] = value.clone(),
                    _ => volume["spec"][name] = value.clone(),
                }
            }
            let named = Some(Arc::new(serde_json::from_value(volume).unwrap()));
            let facts = Facts { named, candidates: &[], class: None, node: None, waiting_pods: &[], default_class: None };
            assert_eq!(said(&plan(&claim(json!(""), "v", annotations), &facts)), expected, "{change}");
        };
        let mismatch = |why: &str| format!("Warning VolumeMismatch: Cannot bind to requested volume \"v\": {why}");
        check(json!({}), json!({}), "bind v");
        check(json!({}), json!({ "deletionTimestamp": "2026-01-01T00:00:00Z" }), &mismatch("the volume is marked for deletion \"v\""));
        check(json!({}), json!({ "capacity": { "storage": "1Mi" } }), &mismatch("requested PV is too small"));
        check(json!({}), json!({ "storageClassName": "k" }), &mismatch("storageClassName does not match"));
        check(json!({}), json!({ "volumeAttributesClassName": "k" }), &mismatch("volumeAttributesClassName does not match"));
        check(json!({}), json!({ "volumeMode": "Block" }), &mismatch("incompatible volumeMode"));
        check(json!({}), json!({ "accessModes": ["ReadOnlyMany"] }), &mismatch("incompatible accessMode"));
        let theirs = json!({ "claimRef": { "namespace": "x", "name": "c", "uid": "2" } });
        check(json!({}), theirs.clone(), "Warning FailedBinding: volume \"v\" already bound to a different claim.");
        check(json!({ "pv.kubernetes.io/bound-by-controller": "yes" }), theirs.clone(), "Warning FailedBinding: volume \"v\" already bound to a different claim.");
        check(json!({ "pv.kubernetes.io/bind-completed": "yes" }), theirs, "lose ClaimMisbound: Two claims are bound to the same volume, this one is bound incorrectly");
        check(json!({}), json!({ "claimRef": { "namespace": "x", "name": "c" } }), "bind v");
    }
}
