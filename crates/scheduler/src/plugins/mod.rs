//! The plug-ins: one file each, and the list that is in force unless a configuration says otherwise.

pub(crate) mod balanced_allocation;
mod image_locality;
pub(crate) mod inter_pod_affinity;
pub(crate) mod node_affinity;
mod node_name;
mod node_ports;
pub(crate) mod node_resources;
mod node_unschedulable;
pub(crate) mod spreading;
mod taints;
pub(crate) mod volume_binding;
mod volume_restrictions;

use crate::{
    decision::Profile,
    framework::{Filter, Score},
    metrics::Metrics,
};

/// What plug-ins with arguments are told.
#[derive(Clone, Default)]
pub struct PluginArguments {
    /// NodeAffinity.
    pub node_affinity: node_affinity::NodeAffinity,
    /// NodeResourcesFit.
    pub resources: node_resources::NodeResources,
    /// NodeResourcesBalancedAllocation.
    pub balance: balanced_allocation::BalancedAllocation,
    /// PodTopologySpread.
    pub spread: spreading::TopologySpread,
    /// InterPodAffinity.
    pub pod_affinity: inter_pod_affinity::InterPodAffinity,
}

/// Every filter, cheap ones first; otherwise upstream's order.
pub fn filters(arguments: &PluginArguments) -> Vec<Box<dyn Filter>> {
    vec![
        Box::new(node_unschedulable::NodeUnschedulable),
        Box::new(node_name::NodeName),
        Box::new(taints::TaintToleration),
        Box::new(arguments.node_affinity.clone()),
        Box::new(node_ports::NodePorts),
        Box::new(arguments.resources.clone()),
        Box::new(volume_restrictions::VolumeRestrictions),
        Box::new(volume_restrictions::VolumeLimits),
        Box::new(volume_binding::VolumeBinding),
        Box::new(volume_binding::VolumeZone),
        Box::new(arguments.spread.clone()),
        Box::new(arguments.pod_affinity.clone()),
    ]
}

/// Every preference.
pub fn scores(arguments: &PluginArguments) -> Vec<Box<dyn Score>> {
    vec![
        Box::new(taints::TaintToleration),
        Box::new(arguments.node_affinity.clone()),
        Box::new(arguments.spread.clone()),
        Box::new(arguments.pod_affinity.clone()),
        Box::new(arguments.resources.clone()),
        Box::new(arguments.balance.clone()),
        Box::new(image_locality::ImageLocality),
    ]
}

/// The profile that is in force unless a configuration says otherwise.
pub fn default_profile() -> Profile {
    let arguments = PluginArguments::default();
    Profile {
        name: "default-scheduler".to_owned(),
        filters: filters(&arguments),
        scores: scores(&arguments).into_iter().map(|score| (score.weight(), score)).collect(),
        preempts: true,
        percentage_of_nodes: None,
        metrics: Metrics::default().of_profile("default-scheduler"),
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod volume_tests;
