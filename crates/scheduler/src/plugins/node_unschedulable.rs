//! NodeUnschedulable: nothing new goes to a cordoned node, unless it tolerates the taint that stands for it.

use std::sync::Arc;

use api::core::v1::Taint;

use crate::{
    cluster::Cluster,
    framework::{ClusterEvent, Filter, Prepared, Verdict},
    pod_info::PodInfo,
    terms::tolerates,
};

/// The plug-in.
pub struct NodeUnschedulable;

impl Filter for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }
    fn prepare(&self, pod: &Arc<PodInfo>, _cluster: &mut Cluster) -> Prepared {
        let taint = Taint { key: "node.kubernetes.io/unschedulable".to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
        if pod.tolerations.iter().any(|toleration| tolerates(toleration, &taint)) {
            return Prepared::Indifferent;
        }
        Prepared::each(|node, _| if node.unschedulable { Verdict::never("node(s) were unschedulable") } else { Verdict::Fits })
    }
    fn retry_on(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeAdded, ClusterEvent::NodeChanged]
    }
}
