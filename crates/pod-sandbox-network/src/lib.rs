//! The seam between a node and whatever gives its pods their addresses.
//!
//! `pod-network` (routed veth pairs) fills it; CNI plug-ins can later. Both verbs may be repeated: attaching what is
//! attached gives the same addresses again, and detaching what is gone succeeds. After an agent restart the node calls
//! [`PodSandboxNetwork::retain`] with the sandboxes that exist, and everything else is taken away.

use std::{net::IpAddr, path::PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// What must be known to connect one sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachRequest {
    /// The sandbox's identifier: the key of the attachment.
    pub sandbox: String,
    /// The pod's namespace, for errors and records.
    pub pod_namespace: String,
    /// The pod's name, for errors and records.
    pub pod_name: String,
    /// Its network namespace.
    pub network_namespace: PathBuf,
    /// Host ports of its containers.
    pub host_ports: Vec<HostPort>,
}

/// One `hostPort` of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    /// Address on the host, none for all.
    pub host_ip: Option<IpAddr>,
    /// Port on the host.
    pub host_port: u16,
    /// Port in the pod.
    pub container_port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

/// Transport protocols of Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

/// Why a sandbox could not be connected.
#[derive(Debug, thiserror::Error)]
pub enum PodNetworkError {
    /// The node has no pod range yet; try again when `Node.spec.podCIDRs` is set.
    #[error("this node has no pod address range yet (Node.spec.podCIDRs is empty)")]
    NoRange,
    /// All addresses are in use.
    #[error("no free pod address left in {range}")]
    Exhausted {
        /// The range.
        range: String,
    },
    /// The kernel refused.
    #[error("could not connect pod {pod}: {doing}: {reason}")]
    Kernel {
        /// Namespace and name of the pod.
        pod: String,
        /// The step.
        doing: &'static str,
        /// The kernel's answer.
        reason: String,
    },
}

/// Addresses and links of the pods of one node.
#[async_trait]
pub trait PodSandboxNetwork: Send + Sync + 'static {
    /// Connects a sandbox; gives its addresses, the primary one first.
    async fn attach(&self, request: &AttachRequest) -> Result<Vec<IpAddr>, PodNetworkError>;
    /// Disconnects a sandbox and frees its addresses.
    async fn detach(&self, sandbox: &str) -> Result<(), PodNetworkError>;
    /// Takes away every attachment that is not among these sandboxes.
    async fn retain(&self, sandboxes: &[String]) -> Result<(), PodNetworkError>;
    /// Whether pods can be connected now (the `NetworkReady` condition); the reason where not.
    fn ready(&self) -> Result<(), String>;
}
