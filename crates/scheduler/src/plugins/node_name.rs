//! NodeName: a pod that names its node goes there or nowhere. The smallest plug-in; copy it to begin another.

use crate::{
    cluster::Cluster,
    framework::{ClusterEvent, Filter, NodeInfo, PodInfo, Verdict},
};

/// The plug-in.
pub struct NodeName;

impl Filter for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }
    fn concerns(&self, pod: &PodInfo) -> bool {
        !pod.node_name.is_empty()
    }
    fn filter(&self, pod: &PodInfo, node: &NodeInfo, _cluster: &Cluster) -> Verdict {
        if pod.node_name == node.name { Verdict::Fits } else { Verdict::Never("node(s) didn't match the requested node name".to_owned()) }
    }
    fn retry_on(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeAdded]
    }
}
