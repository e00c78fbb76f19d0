//! The plug-ins: one file each, and the list that is in force.

mod balanced_allocation;
mod inter_pod_affinity;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources;
mod node_unschedulable;
mod spreading;
mod taints;

use crate::decision::Profile;

/// Every plug-in, cheap filters first. Order of filters and weights of scores as upstream's default profile.
pub fn default_profile() -> Profile {
    Profile {
        filters: vec![
            Box::new(node_unschedulable::NodeUnschedulable),
            Box::new(node_name::NodeName),
            Box::new(taints::TaintToleration),
            Box::new(node_affinity::NodeAffinity),
            Box::new(node_ports::NodePorts),
            Box::new(node_resources::NodeResources),
            Box::new(spreading::TopologySpread),
            Box::new(inter_pod_affinity::InterPodAffinity),
        ],
        scores: vec![
            Box::new(taints::TaintToleration),
            Box::new(node_affinity::NodeAffinity),
            Box::new(spreading::TopologySpread),
            Box::new(spreading::OwnerSpread),
            Box::new(inter_pod_affinity::InterPodAffinity),
            Box::new(node_resources::NodeResources),
            Box::new(balanced_allocation::BalancedAllocation),
        ],
    }
}

#[cfg(test)]
mod tests;
