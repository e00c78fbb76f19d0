//! NodeName: a pod that names its node goes there or nowhere. The smallest plug-in; copy it to begin another.

use std::sync::Arc;

use crate::{
    cluster::Cluster,
    framework::{ClusterEvent, Filter, Prepared, Verdict},
    pod_info::PodInfo,
};

/// The plug-in.
pub struct NodeName;

impl Filter for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }
    fn prepare(&self, pod: &Arc<PodInfo>, _cluster: &mut Cluster) -> Prepared {
        if pod.node_name.is_empty() {
            return Prepared::Indifferent;
        }
        let pod = pod.clone();
        Prepared::each(move |node, _| if pod.node_name == node.name { Verdict::Fits } else { Verdict::never("node(s) didn't match the requested node name") })
    }
    fn retry_on(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeAdded]
    }
}
