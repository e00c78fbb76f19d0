//! NodePorts: a host port can be had once per node, and on every address at once only where nobody has it on one.

use std::sync::Arc;

use crate::{
    cluster::Cluster,
    framework::{ClusterEvent, Filter, Prepared, Verdict},
    pod_info::PodInfo,
};

/// The plug-in.
pub struct NodePorts;

impl Filter for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }
    fn prepare(&self, pod: &Arc<PodInfo>, _cluster: &mut Cluster) -> Prepared {
        if pod.host_ports.is_empty() {
            return Prepared::Indifferent;
        }
        let pod = pod.clone();
        Prepared::each(move |node, _| {
            let taken = |wanted| node.pods.values().flat_map(|other| &other.host_ports).any(|port| port.conflicts(wanted));
            if pod.host_ports.iter().any(taken) {
                Verdict::not_now("node(s) didn't have free ports for the requested pod ports")
            } else {
                Verdict::Fits
            }
        })
    }
    fn retry_on(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeAdded, ClusterEvent::AssignedPodGone]
    }
}
