//! The scheduler: queue, snapshot, framework, and a plug-in a file.
//!
//! - [`framework`]: what plug-ins see and say
//! - [`plugins`]: the plug-ins, and the list of them
//! - [`cluster`]: the scheduler's own compact view of nodes and the pods on them
//! - [`queue`]: which pod is next, which wait for time and which for the cluster to change
//! - [`decision`]: one pod, all nodes, one answer (pure)
//! - [`runner`]: follows the cluster, decides, binds
//!
//! Nothing polls: a pod that fits nowhere is tried again when an event happens that one of the plug-ins that refused it
//! declared interest in. To add a plug-in: write a file in `plugins`, and one line in its list.

#![forbid(unsafe_code)]

pub mod cluster;
pub mod decision;
pub mod framework;
pub mod plugins;
pub mod queue;
pub mod runner;

pub use runner::{Scheduler, SchedulerOptions};
