//! NodeUnschedulable: nothing new goes to a cordoned node, unless it tolerates the taint that stands for it.

use api::core::v1::Taint;

use crate::{
    cluster::Cluster,
    framework::{ClusterEvent, Filter, NodeInfo, PodInfo, Verdict, tolerates},
};

/// The plug-in.
pub struct NodeUnschedulable;

impl Filter for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }
    fn filter(&self, pod: &PodInfo, node: &NodeInfo, _cluster: &Cluster) -> Verdict {
        if !node.unschedulable {
            return Verdict::Fits;
        }
        let taint = Taint { key: "node.kubernetes.io/unschedulable".to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
        if pod.tolerations.iter().any(|toleration| tolerates(toleration, &taint)) {
            Verdict::Fits
        } else {
            Verdict::Never("node(s) were unschedulable".to_owned())
        }
    }
    fn retry_on(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeAdded, ClusterEvent::NodeChanged]
    }
}
