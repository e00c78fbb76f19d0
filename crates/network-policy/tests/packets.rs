//! Policies with real packets: a node with two pods, a pod on another node, and a caller from outside. Needs root.

use std::net::IpAddr;

use k8s_openapi::api::{core::v1::Pod, networking::v1::NetworkPolicy};
use netlink::{
    IpRange, Route, RouteSocket,
    laboratory::{Host, Laboratory},
};
use network_policy::{Options, PolicyKeeper};
use serde_json::{Value, json};

struct Scene {
    _laboratory: Laboratory,
    node: Host,
    hosts: Vec<(&'static str, Host, &'static str)>,
    keeper: PolicyKeeper,
}

const PODS: [(&str, &str); 3] = [("web", "10.244.0.2"), ("client", "10.244.0.3"), ("far", "10.244.1.4")];

fn scene(name: &str) -> Scene {
    let laboratory = Laboratory::new(name);
    let (node, world) = (laboratory.host("node"), laboratory.host("world"));
    let mut hosts = Vec::new();
    for (name, address) in PODS {
        let host = laboratory.host(name);
        laboratory.wire((&node, name, &["169.254.1.1/32"]), (&host, "eth0", &[&format!("{address}/32")]));
        node.run(|| {
            let route = RouteSocket::open().unwrap();
            let index = route.link(name).unwrap().unwrap().index;
            route.replace_route(&Route::to_link(IpRange::host(address.parse::<IpAddr>().unwrap()), index, 4)).unwrap();
        });
        host.run(|| {
            let route = RouteSocket::open().unwrap();
            let index = route.link("eth0").unwrap().unwrap().index;
            let gateway = "169.254.1.1".parse().unwrap();
            route.replace_route(&Route::to_link(IpRange::host(gateway), index, 4)).unwrap();
            route.replace_route(&Route::via(IpRange::EVERYTHING_V4, gateway, index, 4)).unwrap();
        });
        for port in [80, 81] {
            laboratory.serve_tcp(&host, name, port);
        }
        hosts.push((name, host, address));
    }
    laboratory.wire((&node, "up", &["192.168.0.1/24"]), (&world, "eth0", &["192.168.0.9/24"]));
    world.route("10.244.0.0/16", "192.168.0.1");
    node.forward();
    laboratory.serve_tcp(&world, "world", 80);
    hosts.push(("world", world, "192.168.0.9"));
    let options = Options { cluster: "test".to_owned(), node_name: "node".to_owned() };
    let keeper = node.run(|| PolicyKeeper::open(options)).expect("open");
    let mut scene = Scene { _laboratory: laboratory, node, hosts, keeper };
    for (name, address) in PODS {
        scene.pod(name, address);
    }
    scene.keeper.cluster().namespaces.insert("x".to_owned(), [("team".to_owned(), "red".to_owned())].into());
    scene
}

impl Scene {
    fn pod(&mut self, name: &str, address: &str) {
        let node = if name == "far" { "elsewhere" } else { "node" };
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "x", "labels": {"app": name}},
            "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 80}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": address}]},
        }))
        .unwrap();
        self.keeper.apply_pod(&pod);
    }

    fn policy(&mut self, name: &str, spec: Value) {
        let metadata = json!({"name": name, "namespace": "x", "uid": format!("uid-{name}")});
        let policy: NetworkPolicy = serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap();
        self.keeper.apply_policy(&policy);
    }

    /// Who reaches whom, of all that are named, on a port.
    #[track_caller]
    fn check(&mut self, flows: &[(&str, &str, u16, bool)]) {
        let keeper = &mut self.keeper;
        self.node.run(|| keeper.commit()).expect("commit");
        for (from, to, port, wanted) in flows {
            let find = |name: &str| self.hosts.iter().find(|(known, ..)| *known == name).expect("a host");
            let (_, host, _) = find(from);
            let reached = host.ask_tcp(&format!("{}:{port}", find(to).2)).is_ok();
            assert_eq!(reached, *wanted, "{from} to {to}:{port}\n{}", self.node.command("nft", &["list", "ruleset"]));
        }
    }
}

#[test]
fn a_selected_pod_gets_only_what_some_policy_allows() {
    let mut scene = scene("policy-ingress");
    scene.check(&[("client", "web", 80, true)]);
    assert!(!scene.node.command("nft", &["list", "tables"]).contains("policies"), "no policy, no table");
    let web = json!({"matchLabels": {"app": "web"}});
    scene.policy("deny", json!({"podSelector": web}));
    scene.check(&[("client", "web", 80, false), ("web", "client", 80, true), ("client", "far", 80, true)]);
    // By pod, and by a port's name.
    let client = json!({"podSelector": {"matchLabels": {"app": "client"}}});
    scene.policy("http", json!({"podSelector": web, "ingress": [{"from": [client], "ports": [{"port": "http"}]}]}));
    scene.check(&[("client", "web", 80, true), ("client", "web", 81, false), ("far", "web", 80, false)]);
    // By address, but for some, and by a range of ports.
    let block = json!({"ipBlock": {"cidr": "192.168.0.0/16", "except": ["192.168.0.8/29"]}});
    scene.policy("block", json!({"podSelector": web, "ingress": [{"from": [block], "ports": [{"port": 80, "endPort": 90}]}]}));
    scene.check(&[("world", "web", 81, false)]);
    let block = json!({"ipBlock": {"cidr": "192.168.0.0/16", "except": ["192.168.0.16/29"]}});
    scene.policy("block", json!({"podSelector": web, "ingress": [{"from": [block], "ports": [{"port": 81, "endPort": 90}]}]}));
    scene.check(&[("world", "web", 81, true), ("world", "web", 80, false)]);
    // By namespace.
    let red = json!({"namespaceSelector": {"matchLabels": {"team": "red"}}, "podSelector": {"matchLabels": {"app": "far"}}});
    scene.policy("block", json!({"podSelector": web, "ingress": [{"from": [red]}]}));
    scene.check(&[("far", "web", 81, true), ("world", "web", 81, false)]);
    scene.keeper.cluster().policies.clear();
    scene.check(&[("world", "web", 80, true)]);
    assert!(!scene.node.command("nft", &["list", "tables"]).contains("policies"), "no policy, no table");
}

#[test]
fn what_leaves_a_pod_is_judged_by_its_own_policies() {
    let mut scene = scene("policy-egress");
    let far = json!({"podSelector": {"matchLabels": {"app": "far"}}});
    let web = json!({"matchLabels": {"app": "web"}});
    scene.policy("out", json!({"podSelector": web, "policyTypes": ["Egress"], "egress": [{"to": [far], "ports": [{"port": "http"}]}]}));
    scene.check(&[("web", "far", 80, true), ("web", "far", 81, false), ("web", "client", 80, false), ("client", "web", 80, true)]);
    // A pod that comes changes a set and no rule.
    scene.policy("out", json!({"podSelector": web, "policyTypes": ["Egress"], "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "world"}}}]}]}));
    scene.check(&[("web", "world", 80, false)]);
    scene.pod("world", "192.168.0.9");
    // Its answers need the way back, which is the world's business.
    scene.check(&[("web", "world", 80, true)]);
}
