//! Which endpoints of a service port get traffic from this node.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use crate::{
    service::ServicePort,
    slice::{Backend, SliceFacts},
};

/// Where this node is.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Its name.
    pub node: &'a str,
    /// Its zone (`topology.kubernetes.io/zone`), where known.
    pub zone: Option<&'a str>,
}

/// The endpoints of one service port in one family, in order of address.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// For traffic that may go anywhere.
    pub everywhere: Vec<SocketAddr>,
    /// For traffic that must stay on this node.
    pub here: Vec<SocketAddr>,
    /// All addresses on this node, whatever their state: they may call the service and be answered by themselves.
    pub own: Vec<IpAddr>,
}

/// Picks the endpoints. Ready ones; where there is none, those that are on their way out but still answer, so that a
/// rollout of a service's last pod loses nothing.
pub fn choose<'a>(
    port: &ServicePort,
    ipv4: bool,
    slices: impl IntoIterator<Item = &'a SliceFacts>,
    place: Place<'_>,
) -> Endpoints {
    let mut backends: BTreeMap<SocketAddr, &Backend> = BTreeMap::new();
    for slice in slices {
        let number = slice
            .ports
            .iter()
            .find(|(name, protocol, _)| *name == port.name && *protocol == port.protocol)
            .map(|(_, _, number)| *number);
        let Some(number) = number else { continue };
        for backend in slice.backends.iter().filter(|backend| backend.address.is_ipv4() == ipv4) {
            let entry = backends.entry(SocketAddr::new(backend.address, number)).or_insert(backend);
            // While a pod moves between slices it may be in two of them; the better news is the newer.
            if backend.ready && !entry.ready {
                *entry = backend;
            }
        }
    }
    let is_here = |backend: &Backend| backend.node.as_deref() == Some(place.node);
    let here: Vec<(SocketAddr, &Backend)> =
        backends.iter().filter(|(_, backend)| is_here(backend)).map(|(address, backend)| (*address, *backend)).collect();
    let all: Vec<(SocketAddr, &Backend)> = backends.into_iter().collect();
    let mut own: Vec<IpAddr> = here.iter().map(|(address, _)| address.ip()).collect();
    own.dedup();
    Endpoints { everywhere: nearest(usable(&all), place), here: addresses(&usable(&here)), own }
}

fn usable<'a>(backends: &[(SocketAddr, &'a Backend)]) -> Vec<(SocketAddr, &'a Backend)> {
    let with = |condition: &dyn Fn(&Backend) -> bool| -> Vec<_> {
        backends.iter().filter(|(_, backend)| condition(backend)).copied().collect()
    };
    let ready = with(&|backend| backend.ready);
    if ready.is_empty() { with(&|backend| backend.serving && backend.terminating) } else { ready }
}

fn addresses(backends: &[(SocketAddr, &Backend)]) -> Vec<SocketAddr> {
    backends.iter().map(|(address, _)| *address).collect()
}

/// Follows the hints of the endpoint slice controller: those for this node first, then those for this zone. Hints count
/// only when every endpoint has them, and never where nothing would be left. Source: `EndpointHints`.
fn nearest(backends: Vec<(SocketAddr, &Backend)>, place: Place<'_>) -> Vec<SocketAddr> {
    if !backends.is_empty() && backends.iter().all(|(_, backend)| !backend.for_nodes.is_empty()) {
        let hinted = backends.iter().filter(|(_, backend)| backend.for_nodes.iter().any(|node| node == place.node));
        let chosen: Vec<SocketAddr> = hinted.map(|(address, _)| *address).collect();
        if !chosen.is_empty() {
            return chosen;
        }
    }
    if let Some(zone) = place.zone
        && backends.iter().all(|(_, backend)| !backend.for_zones.is_empty())
    {
        let hinted = backends.iter().filter(|(_, backend)| backend.for_zones.iter().any(|name| name == zone));
        let chosen: Vec<SocketAddr> = hinted.map(|(address, _)| *address).collect();
        if !chosen.is_empty() {
            return chosen;
        }
    }
    addresses(&backends)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(text: &str) -> Backend {
        let mut words = text.split(' ');
        let address = words.next().and_then(|word| word.parse().ok()).expect("an address");
        let words: Vec<&str> = words.collect();
        let named = |key: &str| -> Vec<String> {
            words.iter().filter_map(|word| word.strip_prefix(key)).map(str::to_owned).collect()
        };
        Backend {
            address,
            ready: words.contains(&"ready"),
            serving: words.contains(&"ready") || words.contains(&"serving"),
            terminating: words.contains(&"terminating"),
            node: named("on=").pop(),
            for_zones: named("zone="),
            for_nodes: named("node="),
        }
    }

    #[track_caller]
    fn check(backends: &[&str], everywhere: &[&str], here: &[&str]) {
        let slice = SliceFacts {
            ports: vec![("http".to_owned(), 6, 8080)],
            backends: backends.iter().map(|text| backend(text)).collect(),
        };
        let port = ServicePort { name: "http".to_owned(), protocol: 6, port: 80, node_port: None };
        let chosen = choose(&port, true, [&slice], Place { node: "a", zone: Some("east") });
        let shown = |addresses: &[SocketAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(shown(&chosen.everywhere), everywhere, "everywhere");
        assert_eq!(shown(&chosen.here), here, "here");
    }

    #[test]
    fn ready_endpoints_are_used_and_those_of_this_node_known() {
        check(
            &["10.0.0.2 ready on=b", "10.0.0.1 ready on=a", "10.0.0.3 on=a", "fd00::1 ready on=a"],
            &["10.0.0.1:8080", "10.0.0.2:8080"],
            &["10.0.0.1:8080"],
        );
    }

    #[test]
    fn terminating_endpoints_that_serve_are_used_only_when_nothing_is_ready() {
        check(&["10.0.0.1 ready on=b", "10.0.0.2 serving terminating on=a"], &["10.0.0.1:8080"], &["10.0.0.2:8080"]);
        check(&["10.0.0.1 terminating on=a", "10.0.0.2 serving terminating on=b"], &["10.0.0.2:8080"], &[]);
        check(&["10.0.0.2 serving on=b"], &[], &[]);
    }

    #[test]
    fn hints_are_followed_when_all_have_them_and_one_fits() {
        check(&["10.0.0.1 ready zone=east", "10.0.0.2 ready zone=west"], &["10.0.0.1:8080"], &[]);
        check(&["10.0.0.1 ready zone=east", "10.0.0.2 ready"], &["10.0.0.1:8080", "10.0.0.2:8080"], &[]);
        check(&["10.0.0.1 ready zone=north", "10.0.0.2 ready zone=west"], &["10.0.0.1:8080", "10.0.0.2:8080"], &[]);
        check(&["10.0.0.1 ready zone=east node=b", "10.0.0.2 ready zone=east node=a"], &["10.0.0.2:8080"], &[]);
    }

    #[test]
    fn a_pod_in_two_slices_counts_once() {
        let slices = ["10.0.0.1 on=a", "10.0.0.1 ready on=a"].map(|text| SliceFacts {
            ports: vec![(String::new(), 17, 53)],
            backends: vec![backend(text)],
        });
        let port = ServicePort { name: String::new(), protocol: 17, port: 53, node_port: None };
        let chosen = choose(&port, true, &slices, Place { node: "a", zone: None });
        assert_eq!(chosen.everywhere.len(), 1);
        assert_eq!(chosen.own.len(), 1);
    }
}
