//! The dialer that an API server uses: in process where it can, else through the agent's tunnel, else over its own network.

use async_trait::async_trait;

use crate::{Connection, DialError, Dialer, DirectDialer, LocalNodes, Target, TunnelRegistry, direct};

/// Tries local nodes, tunnels and the network, in this order.
#[derive(Clone, Default)]
pub struct ClusterDialer {
    /// Nodes in this process.
    pub local: LocalNodes,
    /// Nodes whose agents are connected.
    pub tunnels: TunnelRegistry,
    /// The network, unless nodes are only reachable through tunnels.
    pub direct: Option<DirectDialer>,
}

impl ClusterDialer {
    async fn over_network(&self, target: &Target) -> Result<Box<dyn Connection>, DialError> {
        match (&self.direct, target) {
            (Some(direct), _) => direct.dial(target).await,
            (None, Target::Address { host, port }) => {
                let connected = direct::connect((host.as_str(), *port)).await;
                Ok(Box::new(connected.map_err(|source| DialError::connect(target, source))?))
            }
            (None, Target::NodeApi { node } | Target::Pod { node, .. }) => Err(DialError::NodeUnreachable(node.clone())),
        }
    }
}

#[async_trait]
impl Dialer for ClusterDialer {
    async fn dial(&self, target: &Target) -> Result<Box<dyn Connection>, DialError> {
        let node = match target {
            Target::Address { .. } => return self.over_network(target).await,
            Target::NodeApi { node } => {
                if let Some(connection) = self.local.connect(node) {
                    return Ok(connection);
                }
                node
            }
            Target::Pod { node, address, port } => {
                if self.local.contains(node) {
                    let connected = direct::connect((*address, *port)).await;
                    return Ok(Box::new(connected.map_err(|source| DialError::connect(target, source))?));
                }
                node
            }
        };
        match self.tunnels.dial(target).await {
            Ok(connection) => Ok(connection),
            // No tunnel, or one that broke just now. What the node itself could not reach is final.
            Err(DialError::NodeUnreachable(_)) => {
                tracing::debug!(%node, "no tunnel; trying the network");
                self.over_network(target).await
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_node_of_this_process_is_reached_while_it_is_registered() {
        let dialer = ClusterDialer::default();
        let target = Target::NodeApi { node: "a".to_owned() };
        let guard = dialer.local.register("a", |mut connection: Box<dyn Connection>| {
            tokio::spawn(async move { connection.write_all(b"served").await });
        });
        let mut text = String::new();
        dialer.dial(&target).await.unwrap().read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "served");
        drop(guard);
        assert!(matches!(dialer.dial(&target).await, Err(DialError::NodeUnreachable(_))));
    }

    #[tokio::test]
    async fn a_late_guard_does_not_remove_its_successor() {
        let nodes = LocalNodes::default();
        let first = nodes.register("a", |_: Box<dyn Connection>| {});
        let second = nodes.register("a", |_: Box<dyn Connection>| {});
        drop(first);
        assert!(nodes.contains("a"));
        drop(second);
        assert!(!nodes.contains("a"));
    }
}
