//! VolumeBinding and VolumeZone: a pod goes where its volumes can be used; claims that wait for their first pod get a volume there.

use std::sync::Arc;

use api::core::v1::{PersistentVolumeClaim, Volume};
use client::ObjectKey;

use crate::{
    cluster::Cluster,
    framework::{ClusterEvent, Filter, Prepared, Reason, Verdict},
    pod_info::PodInfo,
    volumes::{claim_of, claims_of, is_bound, is_reachable},
};

/// The plug-in.
pub struct VolumeBinding;

/// The claims of a pod that have no volume yet and wait for a node.
pub fn waiting_claims(pod: &PodInfo, cluster: &Cluster) -> Vec<ObjectKey> {
    let unbound = |key: &ObjectKey| cluster.volumes.claims.get(key).is_some_and(|claim| !is_bound(claim));
    claims_of(pod).filter(unbound).collect()
}

/// What keeps a pod from using a claim, wherever it is.
/// Source: Kubernetes 1.36, `volumebinding`, `podHasPVCs`.
fn problem_of(pod: &PodInfo, volume: &Volume, key: &ObjectKey, claim: Option<&PersistentVolumeClaim>) -> Option<String> {
    let name = &key.name;
    let is_own = volume.persistent_volume_claim.is_none();
    let Some(claim) = claim else {
        let missing = format!("persistentvolumeclaim \"{name}\"");
        return Some(if is_own { format!("waiting for ephemeral volume controller to create the {missing}") } else { format!("{missing} not found") });
    };
    if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost") {
        let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
        return Some(format!("persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume}\""));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Some(format!("persistentvolumeclaim \"{name}\" is being deleted"));
    }
    let owners = claim.metadata.owner_references.iter().flatten();
    let is_owner = owners.into_iter().any(|owner| owner.controller == Some(true) && owner.uid == pod.uid);
    (is_own && !is_owner).then(|| format!("PVC {key} was not created for pod {}/{} (pod is not owner)", pod.namespace, pod.name))
}

impl Filter for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }
    fn prepare(&self, pod: &Arc<PodInfo>, cluster: &mut Cluster) -> Prepared {
        for volume in &pod.volumes {
            let problem = claim_of(pod, volume).and_then(|key| problem_of(pod, volume, &key, cluster.volumes.claims.get(&key).map(|claim| &**claim)));
            if let Some(problem) = problem {
                return Prepared::Nowhere(problem);
            }
        }
        let mut bound = Vec::new();
        for key in claims_of(pod) {
            let Some(claim) = cluster.volumes.claims.get(&key) else { continue };
            if is_bound(claim) {
                bound.push(key);
            } else if !cluster.volumes.waits_for_consumer(claim) {
                return Prepared::Nowhere("pod has unbound immediate PersistentVolumeClaims".to_owned());
            }
        }
        let waiting = waiting_claims(pod, cluster);
        if bound.is_empty() && waiting.is_empty() {
            return Prepared::Indifferent;
        }
        Prepared::each(move |node, cluster| {
            let claims = bound.iter().filter_map(|key| cluster.volumes.claims.get(key));
            // The first volume that does not do tells.
            let conflict = claims.map(|claim| cluster.volumes.volume_of(claim)).find_map(|volume| match volume {
                None => Some("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"),
                Some(volume) => (!is_reachable(volume, node)).then_some("node(s) didn't match PersistentVolume's node affinity"),
            });
            let is_possible = waiting.is_empty() || cluster.volumes.plan(&waiting, node).is_some();
            match (conflict, is_possible) {
                (None, true) => Verdict::Fits,
                (conflict, _) => {
                    let mut reasons: Vec<Reason> = conflict.map(Reason::from).into_iter().collect();
                    if !is_possible {
                        let nothing = Reason::from("node(s) didn't find available persistent volumes to bind");
                        // In upstream's order.
                        let place = if conflict.is_some_and(|text| text.contains("non-existent")) { 0 } else { reasons.len() };
                        reasons.insert(place, nothing);
                    }
                    Verdict::Never(reasons)
                }
            }
        })
    }
    fn retry_on(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeAdded, ClusterEvent::NodeChanged, ClusterEvent::StorageChanged]
    }
    fn looks_beyond_the_node(&self) -> bool {
        true
    }
}

/// Labels of volumes that say where they are.
const ZONE_LABELS: [&str; 4] =
    ["topology.kubernetes.io/zone", "topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/region"];

/// The newer name of a label.
fn newer(label: &str) -> &str {
    match label {
        "failure-domain.beta.kubernetes.io/zone" => "topology.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region" => "topology.kubernetes.io/region",
        other => other,
    }
}

/// The plug-in for volumes that say by label where they are.
pub struct VolumeZone;

impl Filter for VolumeZone {
    fn name(&self) -> &'static str {
        "VolumeZone"
    }
    fn prepare(&self, pod: &Arc<PodInfo>, cluster: &mut Cluster) -> Prepared {
        let volumes = claims_of(pod).filter_map(|key| cluster.volumes.volume_of(cluster.volumes.claims.get(&key)?).cloned());
        let mut wanted: Vec<(&'static str, Vec<String>)> = Vec::new();
        for volume in volumes {
            for label in ZONE_LABELS {
                if let Some(value) = volume.metadata.labels.as_ref().and_then(|labels| labels.get(label)) {
                    wanted.push((label, value.split("__").map(|part| part.trim().to_owned()).collect()));
                }
            }
        }
        if wanted.is_empty() {
            return Prepared::Indifferent;
        }
        Prepared::each(move |node, _| {
            // A node that says nothing of where it is may be anywhere.
            if !ZONE_LABELS.iter().any(|label| node.labels.contains_key(*label)) {
                return Verdict::Fits;
            }
            let value_of = |label: &str| node.labels.get(label).or_else(|| node.labels.get(newer(label)));
            let is_there = |(label, values): &(&'static str, Vec<String>)| value_of(label).is_some_and(|value| values.contains(value));
            if wanted.iter().all(is_there) { Verdict::Fits } else { Verdict::never("node(s) had no available volume zone") }
        })
    }
    fn retry_on(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeAdded, ClusterEvent::NodeChanged, ClusterEvent::StorageChanged]
    }
}
