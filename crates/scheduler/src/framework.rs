//! What plug-ins are: reasons not to put a pod on a node ([`Filter`]), and preferences among the nodes that are left ([`Score`]).

use std::{borrow::Cow, sync::Arc};

use crate::{cluster::Cluster, node_info::NodeInfo, pod_info::PodInfo};

/// Something that happened and may let a refused pod fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClusterEvent {
    /// A node appeared.
    NodeAdded,
    /// A node's labels, taints, resources or schedulability changed.
    NodeChanged,
    /// A node went, and perhaps the last of a domain.
    NodeGone,
    /// A pod that was on a node ended or went.
    AssignedPodGone,
    /// A pod came onto a node, or one there changed its labels.
    AssignedPodChanged,
    /// A namespace changed its labels.
    NamespaceChanged,
    /// A claim, a volume, a storage class or what a node can attach changed.
    StorageChanged,
}

impl ClusterEvent {
    /// In upstream's words, as metrics have it. Source: Kubernetes 1.36, `pkg/scheduler/framework/events.go`.
    pub fn name(self) -> &'static str {
        match self {
            Self::NodeAdded => "NodeAdd",
            Self::NodeChanged => "NodeUpdate",
            Self::NodeGone => "NodeDelete",
            Self::AssignedPodGone => "AssignedPodDelete",
            Self::AssignedPodChanged => "AssignedPodUpdate",
            Self::NamespaceChanged => "NamespaceUpdate",
            Self::StorageChanged => "StorageChange",
        }
    }
}

/// A reason in upstream's words, since it ends up in the condition of the pod.
pub type Reason = Cow<'static, str>;

/// What a filter thinks of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The pod may go there.
    Fits,
    /// Not while the pods there stay.
    NotNow(Vec<Reason>),
    /// Not even if every pod there left.
    Never(Vec<Reason>),
}

impl Verdict {
    /// [`Verdict::NotNow`] for one reason.
    pub fn not_now(reason: impl Into<Reason>) -> Self {
        Self::NotNow(vec![reason.into()])
    }
    /// [`Verdict::Never`] for one reason.
    pub fn never(reason: impl Into<Reason>) -> Self {
        Self::Never(vec![reason.into()])
    }
}

/// Judges nodes for one pod. It looks at the cluster as it is when asked, so that it may be asked again after a pod was taken out.
pub type Check = Box<dyn Fn(&NodeInfo, &Cluster) -> Verdict + Send + Sync>;

/// What a filter says before it sees a node.
pub enum Prepared {
    /// It has nothing to say about this pod.
    Indifferent,
    /// The pod fits nowhere, and this is why.
    Nowhere(String),
    /// Ask this about each node.
    Each(Check),
    /// The pod may go to the nodes of these names only: ask this about them, and nobody about the others.
    Among(Vec<String>, Check),
}

impl Prepared {
    /// [`Prepared::Each`] of a closure.
    pub fn each(check: impl Fn(&NodeInfo, &Cluster) -> Verdict + Send + Sync + 'static) -> Self {
        Self::Each(Box::new(check))
    }
}

/// A reason not to schedule. Filters are asked in order, and the first refusal stands.
pub trait Filter: Send + Sync + 'static {
    /// Upstream's name of the plug-in.
    fn name(&self) -> &'static str;
    /// Reads the pod once, so that judging a node is cheap. Filters that have nothing to say cost nothing after this.
    fn prepare(&self, pod: &Arc<PodInfo>, cluster: &mut Cluster) -> Prepared;
    /// What could make a refused pod fit.
    fn retry_on(&self) -> &'static [ClusterEvent];
    /// Whether what happened on one node matters to other nodes too. Where not, a refused pod is tried again only if the filter
    /// would now let it onto that node.
    fn looks_beyond_the_node(&self) -> bool {
        false
    }
    /// Whether it matters to a refused pod that this other one came to a node, changed there, or went: asked of filters that look beyond
    /// the node.
    fn minds(&self, _waiting: &PodInfo, _other: &PodInfo, _cluster: &Cluster) -> bool {
        true
    }
}

/// How raw scores become 0 to 100. Source: Kubernetes `scheduler/framework/plugins/helper`, `DefaultNormalizeScore`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// They are 0 to 100.
    Done,
    /// The highest becomes 100.
    Most,
    /// The highest becomes 0, and 0 becomes 100.
    Least,
    /// The highest becomes 100 and the lowest 0.
    Span,
}

impl Scale {
    /// Scores of 0 to 100.
    pub fn apply(self, mut scores: Vec<i64>) -> Vec<i64> {
        let highest = scores.iter().copied().max().unwrap_or_default();
        let lowest = scores.iter().copied().min().unwrap_or_default();
        for score in &mut scores {
            *score = match self {
                Self::Done => *score,
                Self::Most => if highest == 0 { 0 } else { *score * 100 / highest },
                Self::Least => if highest == 0 { 100 } else { 100 - *score * 100 / highest },
                // With the same rounding as upstream's, which calculates with fractions.
                Self::Span => if highest == lowest { 0 } else { (100.0 * ((*score - lowest) as f64 / (highest - lowest) as f64)) as i64 },
            };
        }
        scores
    }
}

/// A preference among the nodes that are left.
pub trait Score: Send + Sync + 'static {
    /// Upstream's name of the plug-in.
    fn name(&self) -> &'static str;
    /// How much its scores count unless the profile says otherwise.
    fn weight(&self) -> i64;
    /// Scores of the nodes in these slots, in their order, and how to read them; none where it has nothing to say.
    fn score(&self, pod: &PodInfo, slots: &[usize], cluster: &mut Cluster) -> Option<(Scale, Vec<i64>)>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_stretched_and_turned() {
        assert_eq!(Scale::Most.apply(vec![0, 5, 10]), [0, 50, 100]);
        assert_eq!(Scale::Least.apply(vec![0, 5, 10]), [100, 50, 0]);
        assert_eq!(Scale::Least.apply(vec![0, 0]), [100, 100]);
        assert_eq!(Scale::Span.apply(vec![-10, 0]), [0, 100]);
        assert_eq!(Scale::Span.apply(vec![0, 29, 100]), [0, 28, 100], "0.29 is a little less");
    }
}
