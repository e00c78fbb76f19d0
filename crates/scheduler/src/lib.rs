//! The scheduler: queue, the cluster as it sees it, and a plug-in a file.
//!
//! - [`framework`]: what plug-ins are
//! - [`plugins`]: the plug-ins, and the list of them
//! - [`pod_info`], [`node_info`], [`resources`], [`terms`]: pods and nodes, read once
//! - [`cluster`]: the scheduler's own compact view of nodes and the pods on them, with what is counted about these: [`census`] (pods
//!   by domain), [`standing`] (what pods on nodes say about newcomers), [`volumes`]
//! - [`queue`]: which pod is next, which wait for time and which for the cluster to change
//! - [`decision`]: one pod, all nodes, one answer (pure); [`preemption`]: who must leave to make room (pure)
//! - [`runner`]: follows the cluster and decides; [`binding`], [`displacing`] and [`reporting`] write what it decided
//! - [`extender`]: programs elsewhere that have a say in decisions
//! - [`metrics`]: what is counted; [`pod_resources`]: what pods ask for, as metrics
//! - [`configuration`]: a `KubeSchedulerConfiguration`, and the profiles it describes
//!
//! Nothing polls: a pod that fits nowhere is tried again when an event happens that one of the plug-ins that refused it
//! says may help. To add a plug-in: write a file in `plugins`, and one line in its list.

#![forbid(unsafe_code)]

pub mod binding;
pub mod census;
pub mod cluster;
pub mod configuration;
pub mod decision;
pub mod displacing;
pub mod extender;
pub mod framework;
pub mod metrics;
pub mod node_info;
pub mod plugins;
pub mod pod_info;
pub mod pod_resources;
pub mod preemption;
pub mod queue;
pub mod reporting;
pub mod resources;
pub mod runner;
pub mod standing;
pub mod terms;
pub mod volumes;

pub use configuration::SchedulerOptions;
pub use runner::Scheduler;

#[cfg(test)]
mod brute_force_tests;
#[cfg(test)]
mod extender_tests;
#[cfg(test)]
mod preemption_tests;
