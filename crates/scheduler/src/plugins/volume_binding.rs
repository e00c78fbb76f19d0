//! VolumeBinding and VolumeZone: a pod goes where its volumes can be used; claims that wait for their first pod get a volume there.

use std::sync::Arc;

use client::ObjectKey;

use crate::{
    cluster::Cluster,
    framework::{ClusterEvent, Filter, Prepared, Verdict},
    pod_info::PodInfo,
    volumes::{claims_of, is_bound, is_reachable},
};

/// The plug-in.
pub struct VolumeBinding;

/// The claims of a pod that have no volume yet and wait for a node.
pub fn waiting_claims(pod: &PodInfo, cluster: &Cluster) -> Vec<ObjectKey> {
    let unbound = |key: &ObjectKey| cluster.volumes.claims.get(key).is_some_and(|claim| !is_bound(claim));
    claims_of(pod).filter(unbound).collect()
}

impl Filter for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }
    fn prepare(&self, pod: &Arc<PodInfo>, cluster: &mut Cluster) -> Prepared {
        let mut bound = Vec::new();
        for key in claims_of(pod) {
            let name = &key.name;
            let Some(claim) = cluster.volumes.claims.get(&key) else {
                return Prepared::Nowhere(format!("persistentvolumeclaim \"{name}\" not found"));
            };
            if claim.metadata.deletion_timestamp.is_some() {
                return Prepared::Nowhere(format!("persistentvolumeclaim \"{name}\" is being deleted"));
            }
            if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost") {
                let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
                return Prepared::Nowhere(format!("persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume}\""));
            }
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
            for claim in bound.iter().filter_map(|key| cluster.volumes.claims.get(key)) {
                match cluster.volumes.volume_of(claim) {
                    None => return Verdict::never("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"),
                    Some(volume) if !is_reachable(volume, node) => return Verdict::never("node(s) had volume node affinity conflict"),
                    Some(_) => {}
                }
            }
            if cluster.volumes.plan(&waiting, node).is_none() {
                return Verdict::never("node(s) didn't find available persistent volumes to bind");
            }
            Verdict::Fits
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
                    wanted.push((label, value.split("__").map(str::to_owned).collect()));
                }
            }
        }
        if wanted.is_empty() {
            return Prepared::Indifferent;
        }
        Prepared::each(move |node, _| {
            let is_there = |(label, values): &(&'static str, Vec<String>)| node.labels.get(*label).is_some_and(|value| values.contains(value));
            if wanted.iter().all(is_there) { Verdict::Fits } else { Verdict::never("node(s) had no available volume zone") }
        })
    }
    fn retry_on(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeAdded, ClusterEvent::NodeChanged, ClusterEvent::StorageChanged]
    }
}
