//! Links, addresses, routes, neighbours and namespaces against the real kernel. Needs root.

use std::{net::IpAddr, os::fd::AsFd};

use netlink::{AddressScope, IpRange, MacAddress, NetworkNamespace, Route, RouteSocket, VethPair, Vxlan};

fn in_fresh_namespace(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("these tests need root");
            work();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn range(text: &str) -> IpRange {
    text.parse().expect("a range")
}

const PROTOCOL: u8 = 75;

#[test]
fn a_pair_reaches_into_another_namespace_and_goes_with_its_host_end() {
    in_fresh_namespace(|| {
        let here = RouteSocket::open().unwrap();
        let directory = tempfile();
        let path = directory.join("pod");
        let pod = NetworkNamespace::create_pinned(&path).unwrap();
        let pair = VethPair {
            host_name: "host0",
            host_address: MacAddress([0x02, 0, 0, 0, 0, 1]),
            peer_name: "eth0",
            peer_address: MacAddress([0x02, 0, 0, 0, 0, 2]),
            peer_namespace: pod.as_fd(),
            mtu: Some(1400),
        };
        here.add_veth(&pair).unwrap();
        let host = here.link("host0").unwrap().expect("the host end");
        assert_eq!((host.mtu, host.kind.as_str(), host.up), (1400, "veth", false));
        here.set_up_with_alias(host.index, "a note").unwrap();
        let host = here.link("host0").unwrap().expect("the host end");
        assert_eq!((host.alias.as_str(), host.up), ("a note", true));
        assert_eq!(here.add_veth(&pair).unwrap_err().errno(), nix::errno::Errno::EEXIST);
        pod.run(|| {
            let inside = RouteSocket::open().unwrap();
            let link = inside.link("eth0").unwrap().expect("the pod end");
            assert_eq!(link.address, Some(MacAddress([0x02, 0, 0, 0, 0, 2])));
            inside.set_up(link.index).unwrap();
            for _ in 0..2 {
                inside.add_address(link.index, ip("10.1.2.3"), 32, AddressScope::Global).unwrap();
                inside.add_address(link.index, ip("fd00::3"), 128, AddressScope::Global).unwrap();
            }
            assert_eq!(inside.addresses().unwrap().iter().filter(|address| address.global).count(), 2);
        })
        .unwrap();
        here.delete_link("host0").unwrap();
        here.delete_link("host0").unwrap();
        assert!(here.link("host0").unwrap().is_none());
        NetworkNamespace::remove_pin(&path).unwrap();
        NetworkNamespace::remove_pin(&path).unwrap();
        std::fs::remove_dir_all(directory).unwrap();
    });
}

#[test]
fn routes_come_back_as_they_were_added() {
    in_fresh_namespace(|| {
        let here = RouteSocket::open().unwrap();
        // Not every kernel has dummy links, so a pair with both ends here stands in for the world.
        let this = NetworkNamespace::current().unwrap();
        here.add_veth(&VethPair {
            host_name: "d0",
            host_address: MacAddress([0x02, 0, 0, 0, 0, 1]),
            peer_name: "d1",
            peer_address: MacAddress([0x02, 0, 0, 0, 0, 2]),
            peer_namespace: this.as_fd(),
            mtu: None,
        })
        .unwrap();
        let link = here.link("d0").unwrap().unwrap().index;
        here.set_up(link).unwrap();
        here.set_up(here.link("d1").unwrap().unwrap().index).unwrap();
        here.add_address(link, ip("192.168.7.1"), 24, AddressScope::Global).unwrap();
        here.add_address(link, ip("fd07::1"), 64, AddressScope::Global).unwrap();
        let mut routes = vec![
            Route::to_link(range("10.1.2.3/32"), link, PROTOCOL),
            Route::via(range("10.2.0.0/16"), ip("192.168.7.9"), link, PROTOCOL),
            Route { gateway_on_link: true, ..Route::via(range("10.3.0.0/16"), ip("10.3.0.1"), link, PROTOCOL) },
            Route::unreachable(range("10.4.0.0/16"), PROTOCOL),
            Route::to_link(range("fd00::3/128"), link, PROTOCOL),
            Route::via(range("fd08::/64"), ip("fd07::9"), link, PROTOCOL),
            Route::unreachable(range("fd09::/64"), PROTOCOL),
        ];
        for route in &routes {
            here.replace_route(route).unwrap_or_else(|error| panic!("{route:?}: {error}"));
            here.replace_route(route).unwrap_or_else(|error| panic!("{route:?} again: {error}"));
        }
        let mut found = here.routes(PROTOCOL).unwrap();
        found.sort();
        routes.sort();
        assert_eq!(found, routes);
        let hop = here.next_hop(ip("10.2.3.4")).unwrap().expect("a route");
        assert_eq!((hop.gateway, hop.link, hop.source), (Some(ip("192.168.7.9")), link, Some(ip("192.168.7.1"))));
        assert!(here.next_hop(ip("192.168.7.1")).unwrap().expect("a route").local);
        assert_eq!(here.next_hop(ip("10.4.1.1")).unwrap(), None);
        assert_eq!(here.next_hop(ip("8.8.8.8")).unwrap(), None);
        for route in &routes {
            here.delete_route(route).unwrap_or_else(|error| panic!("{route:?}: {error}"));
            here.delete_route(route).unwrap_or_else(|error| panic!("{route:?} again: {error}"));
        }
        assert_eq!(here.routes(PROTOCOL).unwrap(), []);
    });
}

#[test]
fn a_vxlan_device_takes_its_peers() {
    in_fresh_namespace(|| {
        let here = RouteSocket::open().unwrap();
        let address = MacAddress::from_digest([1, 2, 3, 4, 5, 6]);
        here.add_vxlan(&Vxlan { name: "vx0", identifier: 77, port: 4789, address, mtu: None, local: None }).unwrap();
        let link = here.link("vx0").unwrap().unwrap().index;
        here.set_up(link).unwrap();
        let peer = MacAddress([2, 0, 0, 0, 0, 9]);
        for _ in 0..2 {
            here.set_neighbour(link, ip("10.5.0.1"), peer).unwrap();
            here.set_neighbour(link, ip("fd05::1"), peer).unwrap();
            here.set_forwarding(link, peer, ip("192.168.9.9")).unwrap();
        }
        for _ in 0..2 {
            here.delete_neighbour(link, ip("10.5.0.1")).unwrap();
            here.delete_neighbour(link, ip("fd05::1")).unwrap();
            here.delete_forwarding(link, peer, ip("192.168.9.9")).unwrap();
        }
        here.delete_link("vx0").unwrap();
    });
}

fn tempfile() -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("netlink-test-{}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    path
}
