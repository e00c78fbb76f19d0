//! TaintToleration: taints keep pods away (NoSchedule, NoExecute) or make a node less liked (PreferNoSchedule).

use crate::{
    cluster::Cluster,
    framework::{ClusterEvent, Filter, NodeInfo, PodInfo, Score, Verdict, tolerates},
};

/// The plug-in.
pub struct TaintToleration;

impl Filter for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }
    fn filter(&self, pod: &PodInfo, node: &NodeInfo, _cluster: &Cluster) -> Verdict {
        let hard = |effect: &str| matches!(effect, "NoSchedule" | "NoExecute");
        let refused = node
            .taints
            .iter()
            .filter(|taint| hard(&taint.effect))
            .find(|taint| !pod.tolerations.iter().any(|toleration| tolerates(toleration, taint)));
        match refused {
            None => Verdict::Fits,
            Some(taint) => {
                let value = taint.value.as_deref().unwrap_or_default();
                Verdict::Never(format!("node(s) had untolerated taint {{{}: {value}}}", taint.key))
            }
        }
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
    fn higher_is_better(&self) -> bool {
        false
    }
    fn score(&self, pod: &PodInfo, nodes: &[&NodeInfo], _cluster: &Cluster) -> Vec<i64> {
        let disliked = |node: &NodeInfo| {
            let soft = node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
            soft.filter(|taint| !pod.tolerations.iter().any(|toleration| tolerates(toleration, taint))).count()
        };
        nodes.iter().map(|node| i64::try_from(disliked(node)).unwrap_or(i64::MAX)).collect()
    }
}
