//! NetworkPolicies, kept by the node that a pod runs on: what may come to it, and what may leave it.
//!
//! Pods are routed, so every packet between two of them passes the forward hook of both their nodes, after a Service's address
//! has become a pod's. There each new flow is judged twice: by the chain of the pod it comes from, and by that of the pod
//! it goes to. Pods that no policy selects have no chain, and a node without policies has no table.
//!
//! - `policy.rs`, `pod.rs`: what matters of NetworkPolicies and Pods
//! - `rules.rs`: the table they make (pure)
//! - `keeper.rs`: follows the cluster and applies transactions
//!
//! As the API has it, a node may always talk to its own pods, a pod to itself, and flows that have begun go on.

#![forbid(unsafe_code)]

mod keeper;
mod pod;
mod policy;
mod rules;

pub use keeper::{OpenError, Options, PolicyKeeper};
pub use rules::Cluster;
