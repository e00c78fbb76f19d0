//! NodePorts: a host port can be had once per node.

use crate::{
    cluster::Cluster,
    framework::{ClusterEvent, Filter, NodeInfo, PodInfo, Verdict},
};

/// The plug-in.
pub struct NodePorts;

impl Filter for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }
    fn concerns(&self, pod: &PodInfo) -> bool {
        !pod.host_ports.is_empty()
    }
    fn filter(&self, pod: &PodInfo, node: &NodeInfo, _cluster: &Cluster) -> Verdict {
        let taken = |wanted| node.pods.values().flat_map(|other| &other.host_ports).any(|port| port.conflicts(wanted));
        if pod.host_ports.iter().any(taken) {
            Verdict::NotNow("node(s) didn't have free ports for the requested pod ports".to_owned())
        } else {
            Verdict::Fits
        }
    }
    fn retry_on(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeAdded, ClusterEvent::AssignedPodGone]
    }
}
