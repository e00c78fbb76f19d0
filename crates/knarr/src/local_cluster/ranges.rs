//! Address ranges for a new cluster that nobody else on this machine uses. Pure; what is in use comes in by argument.

use std::net::IpAddr;

use anyhow::Context;
use netlink::{IpRange, RouteSocket};

/// Ranges of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges {
    /// Of its nodes.
    pub nodes: IpRange,
    /// Of pods.
    pub pods: IpRange,
    /// Of Services.
    pub services: IpRange,
}

/// Whether two ranges have an address in common.
pub fn overlap(one: &IpRange, other: &IpRange) -> bool {
    one.contains(other.base()) || other.contains(one.base())
}

fn range(a: u8, b: u8, c: u8, prefix: u8) -> Option<IpRange> {
    IpRange::containing(IpAddr::from([a, b, c, 0]), prefix)
}

/// Chooses ranges that overlap none of those in use. Pods and Services get the usual ones where they can; other clusters of
/// `knarr up` may have the same, since those never leave their namespaces.
pub fn choose(used: &[IpRange]) -> anyhow::Result<Ranges> {
    let first_free = |what: &str, candidates: Vec<IpRange>, also: &[IpRange]| {
        let free = |candidate: &IpRange| !used.iter().chain(also).any(|taken| overlap(candidate, taken));
        candidates.into_iter().find(free).with_context(|| format!("the routes of this machine leave no range of private addresses free for {what}"))
    };
    let wide = |first: u8| (0..=255).filter_map(|step| range(10, first.wrapping_add(step), 0, 16)).collect();
    let pods = first_free("pods", wide(244), &[])?;
    let services = first_free("Services", wide(96), &[pods])?;
    let narrow = (0..=255).filter_map(|third| range(10, 88, third, 24));
    let others = (0..=255).filter_map(|third| range(192, 168, third, 24)).chain((16..=31).filter_map(|second| range(172, second, 88, 24)));
    let nodes = first_free("nodes", narrow.chain(others).collect(), &[pods, services])?;
    Ok(Ranges { nodes, pods, services })
}

/// The ranges that this machine has routes to, the default route aside.
pub fn used_here() -> anyhow::Result<Vec<IpRange>> {
    let routes = RouteSocket::open()?.all_routes()?;
    Ok(routes.into_iter().map(|route| route.destination).filter(|range| range.is_ipv4() && range.prefix() > 0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(used: &[&str], expected: [&str; 3]) {
        let used: Vec<IpRange> = used.iter().map(|text| text.parse().unwrap()).collect();
        let chosen = choose(&used).unwrap();
        assert_eq!([chosen.nodes, chosen.pods, chosen.services].map(|range| range.to_string()), expected);
    }

    #[test]
    fn ranges_in_use_are_left_alone() {
        check(&[], ["10.88.0.0/24", "10.244.0.0/16", "10.96.0.0/16"]);
        check(&["10.88.0.0/24", "10.244.1.0/24"], ["10.88.1.0/24", "10.245.0.0/16", "10.96.0.0/16"]);
        check(&["10.88.0.0/16", "10.96.0.0/12"], ["192.168.0.0/24", "10.244.0.0/16", "10.112.0.0/16"]);
    }

    #[test]
    fn a_machine_without_a_free_range_is_told_so() {
        assert!(choose(&["10.0.0.0/8".parse().unwrap()]).unwrap_err().to_string().contains("free for pods"));
    }
}
