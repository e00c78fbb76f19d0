//! A whole cluster for tests: in one process with a memory store, or real, with the real clients.
//!
//! - [`api_harness`]: an API server in the test's process, asked by whomever the test likes to be
//! - [`go_shape`]: objects as clients written in Go send them
//! - [`json_server`]: a webhook's server
//! - [`key_service`]: a key management service
//! - [`real_cluster`]: the built binary on free ports, with kubectl beside it, cleaned up whatever happens
//! - [`simulated_nodes`]: nodes that nobody stands behind, played over the API
//! - [`scene`]: a namespace in a real cluster that several tests share
//! - [`local_cluster`]: a cluster of several nodes by `knarr up`, on this machine or on a [`machine`] of its own
//! - [`kubectl`]: the real kubectl, and other things that `cargo xtask test` provides
//! - [`image`], [`registry`]: an image made of busybox, and a registry of a few lines that a node can pull it from
//!
//! Tests of several crates together are in `tests/` here; those that need the binary are in `crates/knarr/tests/`.

pub mod api_harness;
pub mod debian_registry;
pub mod go_shape;
pub mod image;
pub mod json_server;
pub mod key_service;
pub mod kubectl;
pub mod load;
pub mod local_cluster;
pub mod machine;
pub mod noise;
pub mod real_cluster;
pub mod registry;
pub mod scene;
pub mod simulated_nodes;

pub use api_harness::{Answer, ApiHarness, Caller, Watch};
pub use go_shape::GoShapes;
pub use json_server::JsonServer;
pub use kubectl::Kubectl;
pub use local_cluster::LocalCluster;
pub use machine::Machine;
pub use noise::noise;
pub use real_cluster::RealCluster;
pub use scene::Scene;
pub use simulated_nodes::SimulatedNodes;
