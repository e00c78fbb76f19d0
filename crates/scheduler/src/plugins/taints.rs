//! TaintToleration: taints keep pods away (NoSchedule, NoExecute) or make a node less liked (PreferNoSchedule).

use std::sync::Arc;

use crate::{
    cluster::Cluster,
    framework::{ClusterEvent, Filter, Prepared, Scale, Score, Verdict},
    node_info::NodeInfo,
    pod_info::PodInfo,
    terms::{tolerates, untolerated},
};

/// The plug-in.
pub struct TaintToleration;

impl Filter for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }
    fn prepare(&self, pod: &Arc<PodInfo>, _cluster: &mut Cluster) -> Prepared {
        let pod = pod.clone();
        Prepared::each(move |node, _| match untolerated(&node.taints, &pod.tolerations) {
            None => Verdict::Fits,
            Some(_) => Verdict::never("node(s) had untolerated taint(s)"),
        })
    }
    fn retry_on(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeAdded, ClusterEvent::NodeChanged]
    }
}

impl Score for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }
    fn weight(&self) -> i64 {
        3
    }
    fn score(&self, pod: &PodInfo, slots: &[usize], cluster: &mut Cluster) -> Option<(Scale, Vec<i64>)> {
        let disliked = |node: &NodeInfo| {
            let soft = node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
            i64::try_from(soft.filter(|taint| !pod.tolerations.iter().any(|toleration| tolerates(toleration, taint))).count()).unwrap_or(i64::MAX)
        };
        Some((Scale::Least, slots.iter().map(|slot| cluster.at(*slot).map_or(0, disliked)).collect()))
    }
}
