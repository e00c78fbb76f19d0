//! VolumeRestrictions and NodeVolumeLimits: a claim of ReadWriteOncePod serves one pod at a time, some disks one pod at a time on
//! a node, and a node attaches only so many volumes of one driver.

use std::{collections::HashSet, sync::Arc};

use api::core::v1::Volume;

use crate::{
    cluster::Cluster,
    framework::{ClusterEvent, Filter, Prepared, Verdict},
    node_info::NodeInfo,
    pod_info::PodInfo,
    volumes::{Volumes, claim_of, claims_of},
};

/// The plug-in.
pub struct VolumeRestrictions;

/// Whether two volumes are the same disk, which not both may have on one node.
fn conflicts(left: &Volume, right: &Volume) -> bool {
    let read_only = |value: Option<bool>| value.unwrap_or_default();
    if let (Some(left), Some(right)) = (&left.gce_persistent_disk, &right.gce_persistent_disk) {
        return left.pd_name == right.pd_name && !(read_only(left.read_only) && read_only(right.read_only));
    }
    if let (Some(left), Some(right)) = (&left.aws_elastic_block_store, &right.aws_elastic_block_store) {
        return left.volume_id == right.volume_id;
    }
    if let (Some(left), Some(right)) = (&left.iscsi, &right.iscsi) {
        return left.iqn == right.iqn && !(read_only(left.read_only) && read_only(right.read_only));
    }
    if let (Some(left), Some(right)) = (&left.rbd, &right.rbd) {
        let shares = left.monitors.iter().any(|monitor| right.monitors.contains(monitor));
        return shares && left.pool == right.pool && left.image == right.image && !(read_only(left.read_only) && read_only(right.read_only));
    }
    false
}

impl Filter for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }
    fn prepare(&self, pod: &Arc<PodInfo>, cluster: &mut Cluster) -> Prepared {
        if pod.volumes.is_empty() {
            return Prepared::Indifferent;
        }
        let exclusive: Vec<_> = claims_of(pod)
            .filter(|key| {
                let spec = cluster.volumes.claims.get(key).and_then(|claim| claim.spec.as_ref());
                spec.is_some_and(|spec| spec.access_modes.iter().flatten().any(|mode| mode == "ReadWriteOncePod"))
            })
            .collect();
        let pod = pod.clone();
        Prepared::each(move |node, cluster| {
            let there = || node.pods.values().flat_map(|other| &other.volumes);
            if pod.volumes.iter().any(|volume| there().any(|other| conflicts(volume, other))) {
                return Verdict::not_now("node(s) had no available disk");
            }
            if exclusive.iter().any(|claim| cluster.volumes.is_used(claim)) {
                return Verdict::not_now("node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode");
            }
            Verdict::Fits
        })
    }
    fn retry_on(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeAdded, ClusterEvent::AssignedPodGone, ClusterEvent::StorageChanged]
    }
    fn looks_beyond_the_node(&self) -> bool {
        true
    }
}

/// The plug-in for what a node can attach.
pub struct VolumeLimits;

/// Volumes of drivers that a pod has attached to its node: the driver, and what tells one volume from another.
fn attached(pod: &PodInfo, volumes: &Volumes) -> Vec<(String, String)> {
    let of = |volume: &Volume| {
        if let Some(source) = &volume.csi {
            return Some((source.driver.clone(), format!("{}/{}", pod.uid, volume.name)));
        }
        let key = claim_of(pod, volume)?;
        let claim = volumes.claims.get(&key)?;
        match volumes.volume_of(claim) {
            Some(bound) => {
                let source = bound.spec.as_ref()?.csi.as_ref()?;
                Some((source.driver.clone(), source.volume_handle.clone()))
            }
            None => Some((volumes.class_of(claim)?.provisioner.clone(), key.to_string())),
        }
    };
    pod.volumes.iter().filter_map(of).collect()
}

fn is_exceeded(wanted: &[(String, String)], node: &NodeInfo, cluster: &Cluster) -> bool {
    let Some(spec) = cluster.volumes.attachable.get(&node.name).map(|attachable| &attachable.spec) else { return false };
    let limited = spec.drivers.iter().filter_map(|driver| Some((&driver.name, driver.allocatable.as_ref()?.count?)));
    limited.into_iter().any(|(driver, limit)| {
        let of_driver = |list: &[(String, String)]| list.iter().filter(|(name, _)| name == driver).map(|(_, handle)| handle.clone()).collect::<HashSet<_>>();
        let new = of_driver(wanted);
        let there: HashSet<String> = node.pods.values().flat_map(|pod| of_driver(&attached(pod, &cluster.volumes))).collect();
        let more = new.difference(&there).count();
        more > 0 && i64::try_from(there.len() + more).unwrap_or(i64::MAX) > i64::from(limit)
    })
}

impl Filter for VolumeLimits {
    fn name(&self) -> &'static str {
        "NodeVolumeLimits"
    }
    fn prepare(&self, pod: &Arc<PodInfo>, cluster: &mut Cluster) -> Prepared {
        let wanted = attached(pod, &cluster.volumes);
        if wanted.is_empty() {
            return Prepared::Indifferent;
        }
        Prepared::each(move |node, cluster| if is_exceeded(&wanted, node, cluster) { Verdict::not_now("node(s) exceed max volume count") } else { Verdict::Fits })
    }
    fn retry_on(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeAdded, ClusterEvent::AssignedPodGone, ClusterEvent::StorageChanged]
    }
}
