//! The other nodes: which of their pod ranges are reached how. Pure: what the kernel knows about reaching a node comes in
//! by argument; `RoutedPodNetwork` applies the difference.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use k8s_openapi::api::core::v1::Node;
use netlink::{IpRange, MacAddress};

use crate::{address_pool::node_address, names::Names};

/// What matters of a Node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Its addresses of type InternalIP.
    pub addresses: Vec<IpAddr>,
    /// Its pod ranges.
    pub ranges: Vec<IpRange>,
}

impl NodeFacts {
    /// Reads a Node; what is malformed is left out with a warning, since the other nodes must go on.
    pub fn of(node: &Node) -> Self {
        let name = node.metadata.name.clone().unwrap_or_default();
        let mut ranges = Vec::new();
        if let Some(spec) = &node.spec {
            let one = spec.pod_cidr.iter().cloned().collect();
            let texts = spec.pod_cidrs.clone().filter(|texts| !texts.is_empty()).unwrap_or(one);
            for text in texts {
                match text.parse() {
                    Ok(range) => ranges.push(range),
                    Err(error) => tracing::warn!(node = name, %error, "a pod range of this node is left out"),
                }
            }
        }
        let status = node.status.as_ref();
        let addresses = status
            .and_then(|status| status.addresses.as_ref())
            .into_iter()
            .flatten()
            .filter(|address| address.type_ == "InternalIP")
            .filter_map(|address| address.address.parse().ok())
            .collect();
        Self { name, addresses, ranges }
    }
}

/// How one pod range of another node is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Path {
    /// By the node itself, which is on this link.
    Direct {
        /// The node.
        gateway: IpAddr,
        /// Number of the link.
        link: u32,
    },
    /// Through the tunnel.
    Tunnel {
        /// The far end's address inside the tunnel.
        gateway: IpAddr,
        /// The far end's hardware address.
        hardware: MacAddress,
        /// The node, outside the tunnel.
        remote: IpAddr,
    },
}

/// How this node reaches an address, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It is on this link.
    OnLink(u32),
    /// It is behind a router.
    Routed,
    /// It is an address of this node.
    Own,
    /// No route leads there.
    Nowhere,
}

/// The nodes as they are now, and the ways to their pods that follow.
#[derive(Debug, Default)]
pub struct Peers {
    nodes: BTreeMap<String, NodeFacts>,
}

/// Ways by pod range.
pub type Paths = BTreeMap<IpRange, Path>;

impl Peers {
    /// Takes in a node as it is now.
    pub fn apply(&mut self, facts: NodeFacts) {
        self.nodes.insert(facts.name.clone(), facts);
    }

    /// Forgets a node.
    pub fn delete(&mut self, name: &str) {
        self.nodes.remove(name);
    }

    /// A node as it was last taken in.
    pub fn node(&self, name: &str) -> Option<&NodeFacts> {
        self.nodes.get(name)
    }

    /// The ways to the pods of all nodes but `own`. Where two nodes claim the same range, the first by name has it.
    pub fn paths(&self, own: &str, names: &Names, reach: &dyn Fn(IpAddr) -> Reach) -> Paths {
        let mut paths = Paths::new();
        for node in self.nodes.values().filter(|node| node.name != own) {
            for range in &node.ranges {
                if let Some(path) = path_to(node, *range, names, reach) {
                    paths.entry(*range).or_insert(path);
                }
            }
        }
        paths
    }

    /// Addresses of other nodes that pods talk to under their own address: those next to us, which have a route back.
    pub fn neighbours(&self, own: &str, reach: &dyn Fn(IpAddr) -> Reach) -> BTreeSet<IpAddr> {
        let others = self.nodes.values().filter(|node| node.name != own);
        others
            .flat_map(|node| &node.addresses)
            .copied()
            .filter(|address| matches!(reach(*address), Reach::OnLink(_)))
            .collect()
    }

    /// All pod ranges there are.
    pub fn ranges(&self) -> BTreeSet<IpRange> {
        self.nodes.values().flat_map(|node| &node.ranges).copied().collect()
    }
}

fn path_to(node: &NodeFacts, range: IpRange, names: &Names, reach: &dyn Fn(IpAddr) -> Reach) -> Option<Path> {
    let direct = node.addresses.iter().filter(|address| address.is_ipv4() == range.is_ipv4()).find_map(|address| {
        match reach(*address) {
            Reach::OnLink(link) => Some(Path::Direct { gateway: *address, link }),
            _ => None,
        }
    });
    direct.or_else(|| {
        let remote = node
            .addresses
            .iter()
            .copied()
            .find(|address| matches!(reach(*address), Reach::OnLink(_) | Reach::Routed))?;
        Some(Path::Tunnel { gateway: node_address(range)?, hardware: names.tunnel_address(&node.name), remote })
    })
}

/// What leads from the ways that are installed to those that should be.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference {
    /// To be taken away, first.
    pub gone: Vec<(IpRange, Path)>,
    /// To be added.
    pub new: Vec<(IpRange, Path)>,
}

/// Compares the ways that are installed with those that should be.
pub fn difference(installed: &Paths, wanted: &Paths) -> Difference {
    let gone = installed.iter().filter(|(range, path)| wanted.get(range) != Some(path));
    let new = wanted.iter().filter(|(range, path)| installed.get(range) != Some(path));
    let owned = |(range, path): (&IpRange, &Path)| (*range, *path);
    Difference { gone: gone.map(owned).collect(), new: new.map(owned).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, addresses: &[&str], ranges: &[&str]) -> NodeFacts {
        NodeFacts {
            name: name.to_owned(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            ranges: ranges.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    fn reach(address: IpAddr) -> Reach {
        match address.to_string() {
            text if text.starts_with("192.168.0.") || text.starts_with("fd01::") => Reach::OnLink(4),
            text if text.starts_with("127.") => Reach::Own,
            text if text.starts_with("240.") => Reach::Nowhere,
            _ => Reach::Routed,
        }
    }

    fn shown(peers: &Peers) -> Vec<String> {
        let paths = peers.paths("own", &Names::new("c", "own"), &reach);
        let lines = paths.iter().map(|(range, path)| match path {
            Path::Direct { gateway, link } => format!("{range} by {gateway} on {link}"),
            Path::Tunnel { gateway, remote, .. } => format!("{range} by {gateway} through {remote}"),
        });
        lines.collect()
    }

    #[test]
    fn a_node_next_door_is_a_router_and_one_behind_a_router_is_a_tunnel() {
        let mut peers = Peers::default();
        peers.apply(node("own", &["192.168.0.1"], &["10.244.0.0/24"]));
        peers.apply(node("near", &["192.168.0.2", "fd01::2"], &["10.244.1.0/24", "fd02:1::/64"]));
        peers.apply(node("far", &["172.16.0.9"], &["10.244.2.0/24", "fd02:2::/64"]));
        peers.apply(node("lost", &["240.0.0.1"], &["10.244.3.0/24"]));
        peers.apply(node("new", &[], &["10.244.4.0/24"]));
        assert_eq!(
            shown(&peers),
            [
                "10.244.1.0/24 by 192.168.0.2 on 4",
                "10.244.2.0/24 by 10.244.2.1 through 172.16.0.9",
                "fd02:1::/64 by fd01::2 on 4",
                "fd02:2::/64 by fd02:2::1 through 172.16.0.9",
            ]
        );
        let near: Vec<_> = peers.neighbours("own", &reach).into_iter().map(|address| address.to_string()).collect();
        assert_eq!(near, ["192.168.0.2", "fd01::2"]);
    }

    #[test]
    fn pods_of_the_other_family_go_through_the_tunnel() {
        let mut peers = Peers::default();
        peers.apply(node("near", &["192.168.0.2"], &["fd02:1::/64"]));
        assert_eq!(shown(&peers), ["fd02:1::/64 by fd02:1::1 through 192.168.0.2"]);
    }

    #[test]
    fn only_what_changed_is_touched() {
        let mut peers = Peers::default();
        let names = Names::new("c", "own");
        peers.apply(node("a", &["192.168.0.2"], &["10.244.1.0/24"]));
        peers.apply(node("b", &["192.168.0.3"], &["10.244.2.0/24"]));
        let before = peers.paths("own", &names, &reach);
        peers.apply(node("b", &["192.168.0.4"], &["10.244.2.0/24"]));
        peers.apply(node("c", &["192.168.0.5"], &["10.244.3.0/24"]));
        peers.delete("a");
        let Difference { gone, new } = difference(&before, &peers.paths("own", &names, &reach));
        let ranges = |list: &[(IpRange, Path)]| list.iter().map(|(range, _)| range.to_string()).collect::<Vec<_>>();
        assert_eq!(ranges(&gone), ["10.244.1.0/24", "10.244.2.0/24"]);
        assert_eq!(ranges(&new), ["10.244.2.0/24", "10.244.3.0/24"]);
    }

    #[test]
    fn malformed_ranges_and_addresses_of_a_node_are_left_out() {
        let node: Node = serde_json::from_str(
            r#"{"metadata":{"name":"a"},"spec":{"podCIDRs":["10.1.0.0/24","nonsense"]},
                "status":{"addresses":[{"type":"InternalIP","address":"1.2.3.4"},{"type":"InternalIP","address":"x"},
                {"type":"Hostname","address":"5.6.7.8"}]}}"#,
        )
        .unwrap();
        assert_eq!(NodeFacts::of(&node), super::tests::node("a", &["1.2.3.4"], &["10.1.0.0/24"]));
    }
}
