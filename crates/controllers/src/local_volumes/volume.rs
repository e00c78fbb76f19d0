//! What a local volume's object looks like.

use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{NODE_LABEL, PROVISIONER};
use crate::persistent_volumes::PROVISIONED_BY;

const HOSTNAME: &str = "kubernetes.io/hostname";

/// The name of the volume for a claim: always the same, so that none gets two.
pub(super) fn name(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.metadata.uid.as_deref().unwrap_or_default())
}

/// The volume for a claim, on a node; or why there can be none.
pub(super) fn for_claim(claim: &PersistentVolumeClaim, class: &StorageClass, node: &Node) -> Result<PersistentVolume, String> {
    let asked = claim.spec.clone().unwrap_or_default();
    let modes = asked.access_modes.clone().unwrap_or_default();
    if let Some(mode) = modes.iter().find(|mode| !matches!(mode.as_str(), "ReadWriteOnce" | "ReadWriteOncePod")) {
        return Err(format!("a local volume can be mounted on one node only, so it cannot be {mode}"));
    }
    if asked.volume_mode.as_deref() == Some("Block") {
        return Err("a local volume is a directory and cannot be a block device".to_owned());
    }
    if asked.data_source_ref.is_some() || asked.data_source.is_some() {
        return Err("a local volume cannot be made from a snapshot or another volume".to_owned());
    }
    if asked.selector.is_some() {
        return Err("a claim with a selector can only have a volume that exists already".to_owned());
    }
    let node_name = node.metadata.name.clone().unwrap_or_default();
    let hostname = node.metadata.labels.as_ref().and_then(|labels| labels.get(HOSTNAME)).cloned().unwrap_or_else(|| node_name.clone());
    let here = NodeSelectorRequirement { key: HOSTNAME.to_owned(), operator: "In".to_owned(), values: Some(vec![hostname]) };
    let term = NodeSelectorTerm { match_expressions: Some(vec![here]), match_fields: None };
    let name = name(claim);
    let source = CSIPersistentVolumeSource { driver: PROVISIONER.to_owned(), volume_handle: name.clone(), ..CSIPersistentVolumeSource::default() };
    Ok(PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name),
            labels: Some([(NODE_LABEL.to_owned(), node_name)].into()),
            annotations: Some([(PROVISIONED_BY.to_owned(), PROVISIONER.to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: asked.access_modes,
            capacity: asked.resources.and_then(|resources| resources.requests),
            claim_ref: Some(client::events::reference(claim)),
            csi: Some(source),
            mount_options: class.mount_options.clone(),
            node_affinity: Some(VolumeNodeAffinity { required: Some(NodeSelector { node_selector_terms: vec![term] }) }),
            persistent_volume_reclaim_policy: class.reclaim_policy.clone().or_else(|| Some("Delete".to_owned())),
            storage_class_name: class.metadata.name.clone(),
            volume_mode: Some("Filesystem".to_owned()),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(change: Value) -> PersistentVolumeClaim {
        let mut claim = json!({
            "metadata": { "name": "data", "namespace": "x", "uid": "7" },
            "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } },
        });
        for (name, value) in change.as_object().unwrap() {
            claim["spec"][name] = value.clone();
        }
        serde_json::from_value(claim).unwrap()
    }

    #[test]
    fn a_volume_is_tied_to_its_node_and_its_claim() {
        let node: Node = serde_json::from_value(json!({ "metadata": { "name": "a", "labels": { "kubernetes.io/hostname": "a.example" } } })).unwrap();
        let made = for_claim(&claim(json!({})), &StorageClass::default(), &node).unwrap();
        assert_eq!((made.metadata.name.as_deref(), made.metadata.labels.as_ref().unwrap()[NODE_LABEL].as_str()), (Some("pvc-7"), "a"));
        let spec = serde_json::to_value(made.spec).unwrap();
        assert_eq!(spec["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0]["values"], json!(["a.example"]));
        assert_eq!((&spec["capacity"]["storage"], &spec["claimRef"]["uid"], &spec["persistentVolumeReclaimPolicy"]), (&json!("1Gi"), &json!("7"), &json!("Delete")));
    }

    #[test]
    fn what_a_directory_cannot_be_is_refused() {
        for change in [json!({ "accessModes": ["ReadWriteMany"] }), json!({ "volumeMode": "Block" }), json!({ "selector": {} }), json!({ "dataSource": { "kind": "PersistentVolumeClaim", "name": "b" } })] {
            assert!(for_claim(&claim(change.clone()), &StorageClass::default(), &Node::default()).is_err(), "{change}");
        }
    }
}
