//! What this node calls its links and tables, so that several clusters and nodes can share one network namespace.

use netlink::MacAddress;
use sha2::{Digest, Sha256};

/// Names derived from the cluster and the node.
#[derive(Debug, Clone)]
pub struct Names {
    cluster: String,
    /// What the names of all our links begin with.
    pub link_prefix: String,
    /// The tunnel device.
    pub tunnel: String,
    /// The nftables table.
    pub table: String,
    /// Identifier of the cluster's VXLAN.
    pub vxlan_identifier: u32,
}

impl Names {
    /// Names for a node of a cluster.
    pub fn new(cluster: &str, node: &str) -> Self {
        let link_prefix = format!("kn{}", hexadecimal(&digest(&["link", cluster, node]), 2));
        let table = format!("knarr-{cluster}-{node}-pods").chars().take(100).collect();
        let [a, b, c, ..] = digest(&["vxlan", cluster]);
        Self {
            cluster: cluster.to_owned(),
            tunnel: format!("{link_prefix}vx"),
            link_prefix,
            table,
            vxlan_identifier: u32::from_be_bytes([0, a, b, c]).max(1),
        }
    }

    /// The host end of a sandbox's link: fourteen bytes.
    pub fn host_link(&self, sandbox: &str) -> String {
        format!("{}{}", self.link_prefix, hexadecimal(&digest(&["sandbox", sandbox]), 4))
    }

    /// The hardware address of a node's tunnel end, which every node can compute.
    pub fn tunnel_address(&self, node: &str) -> MacAddress {
        let [a, b, c, d, e, f, ..] = digest(&["tunnel", &self.cluster, node]);
        MacAddress::from_digest([a, b, c, d, e, f])
    }
}

/// The name of a sandbox's record, safe for a file system.
pub fn record_name(sandbox: &str) -> String {
    format!("{}.json", hexadecimal(&digest(&["sandbox", sandbox]), 16))
}

/// The hardware address of the pod's end.
pub fn pod_address(sandbox: &str) -> MacAddress {
    let [a, b, c, d, e, f, ..] = digest(&["pod", sandbox]);
    MacAddress::from_digest([a, b, c, d, e, f])
}

fn digest(parts: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().into()
}

fn hexadecimal(bytes: &[u8], count: usize) -> String {
    bytes.iter().take(count).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_differ_between_clusters_and_nodes() {
        let names = Names::new("default", "a");
        assert_eq!(names.host_link("0123456789abcdef").len(), 14);
        assert!(names.tunnel.len() <= 15);
        assert_ne!(names.link_prefix, Names::new("default", "b").link_prefix);
        assert_ne!(names.link_prefix, Names::new("other", "a").link_prefix);
        assert_eq!(names.vxlan_identifier, Names::new("default", "b").vxlan_identifier);
        assert_eq!(names.tunnel_address("b"), Names::new("default", "b").tunnel_address("b"));
        assert_eq!(record_name("../../etc").len(), 37);
    }
}
