//! The service proxy with real packets: one node, pods behind it, a caller outside. Hosts and pods are network
//! namespaces. Needs root.

use std::{io::ErrorKind, net::IpAddr};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use netlink::{
    IpRange, Route, RouteSocket,
    laboratory::{Host, Laboratory, exchange},
};
use serde_json::{Value, json};
use service_proxy::{Options, ServiceProxy};

/// One node with two pods, one more pod elsewhere, and the world.
struct Scene {
    laboratory: Laboratory,
    node: Host,
    one: Host,
    two: Host,
    far: Host,
    world: Host,
    proxy: ServiceProxy,
}

fn scene(name: &str) -> Scene {
    let laboratory = Laboratory::new(name);
    let [node, one, two, far, world] = ["node", "one", "two", "far", "world"].map(|host| laboratory.host(host));
    let wires = [
        (&one, "one", "10.244.0.2", "fd02::2"),
        (&two, "two", "10.244.0.3", "fd02::3"),
        (&far, "far", "10.244.1.4", "fd02:1::4"),
    ];
    for (host, link, ipv4, ipv6) in wires {
        laboratory.wire((&node, link, &["169.254.1.1/32"]), (host, "eth0", &[&format!("{ipv4}/32"), &format!("{ipv6}/128")]));
        node.run(|| {
            let route = RouteSocket::open().unwrap();
            let index = route.link(link).unwrap().unwrap().index;
            for address in [ipv4, ipv6] {
                let range = IpRange::host(address.parse::<IpAddr>().unwrap());
                route.replace_route(&Route::to_link(range, index, 4)).unwrap();
            }
            route.add_address(index, "fe80::1".parse().unwrap(), 64, netlink::AddressScope::Link).unwrap();
        });
        host.run(|| {
            let route = RouteSocket::open().unwrap();
            let index = route.link("eth0").unwrap().unwrap().index;
            let gateway = "169.254.1.1".parse().unwrap();
            route.replace_route(&Route::to_link(IpRange::host(gateway), index, 4)).unwrap();
            route.replace_route(&Route::via(IpRange::EVERYTHING_V4, gateway, index, 4)).unwrap();
            let gateway = "fe80::1".parse().unwrap();
            route.replace_route(&Route::via(IpRange::EVERYTHING_V6, gateway, index, 4)).unwrap();
        });
    }
    laboratory.wire((&node, "up", &["192.168.0.1/24", "fd01::1/64"]), (&world, "eth0", &["192.168.0.9/24", "fd01::9/64"]));
    world.route("10.96.0.0/16", "192.168.0.1");
    node.forward();
    for (host, name) in [(&one, "one"), (&two, "two"), (&far, "far")] {
        laboratory.serve_tcp(host, name, 8080);
        laboratory.serve_udp(host, name, 5353);
    }
    let options = Options {
        cluster: "test".to_owned(),
        node_name: "node".to_owned(),
        cluster_ranges: ["10.244.0.0/16", "fd02::/32"].map(|text| text.parse().unwrap()).to_vec(),
        service_ranges: ["10.96.0.0/16", "fd96::/108"].map(|text| text.parse().unwrap()).to_vec(),
        served_here: vec!["10.96.0.53".parse().unwrap()],
        ..Options::default()
    };
    let proxy = node.run(|| ServiceProxy::open(options)).expect("open");
    Scene { laboratory, node, one, two, far, world, proxy }
}

impl Scene {
    fn service(&mut self, spec: Value) {
        let mut spec = spec;
        let name = spec["name"].take();
        let status = spec["status"].take();
        let object = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec, "status": status});
        let service: Service = serde_json::from_value(object).expect("a Service");
        self.proxy.state().apply_service(&service);
    }

    /// Endpoints such as `10.244.0.2@node` or `10.244.0.2@node!` for one that is not ready.
    fn endpoints(&mut self, service: &str, backends: &[&str]) {
        let endpoints: Vec<Value> = backends
            .iter()
            .map(|text| {
                let (address, node) = text.split_once('@').expect("address@node");
                let ready = !node.ends_with('!');
                json!({"addresses": [address], "nodeName": node.trim_end_matches('!'),
                       "conditions": {"ready": ready, "serving": true, "terminating": !ready}})
            })
            .collect();
        let family = if backends.first().is_some_and(|text| text.contains("::")) { "IPv6" } else { "IPv4" };
        let object = json!({
            "metadata": {"name": format!("{service}-{family}"), "namespace": "default",
                         "labels": {"kubernetes.io/service-name": service}},
            "addressType": family, "endpoints": endpoints,
            "ports": [{"name": "tcp", "port": 8080, "protocol": "TCP"}, {"name": "udp", "port": 5353, "protocol": "UDP"}],
        });
        let slice: EndpointSlice = serde_json::from_value(object).expect("an EndpointSlice");
        self.proxy.state().apply_slice(&slice);
    }

    fn commit(&mut self) {
        self.proxy.commit().expect("commit");
    }

    fn delete(&mut self, service: &str) {
        self.proxy.state().delete_service(&client::ObjectKey::namespaced("default", service));
    }
}

fn ports() -> Value {
    json!([{"name": "tcp", "port": 80, "protocol": "TCP"}, {"name": "udp", "port": 53, "protocol": "UDP"}])
}

fn node_ports() -> Value {
    json!([{"name": "tcp", "port": 80, "protocol": "TCP", "nodePort": 30080},
           {"name": "udp", "port": 53, "protocol": "UDP", "nodePort": 30053}])
}

fn cluster_ip(name: &str, address: &str) -> Value {
    json!({"name": name, "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ports": ports()})
}

#[test]
fn a_service_is_reached_from_pods_the_node_outside_and_by_its_own_pod() {
    let mut scene = scene("cluster-ip");
    scene.service(cluster_ip("web", "10.96.0.10"));
    scene.endpoints("web", &["10.244.0.2@node"]);
    scene.commit();
    assert_eq!(scene.two.ask_tcp("10.96.0.10:80").unwrap(), "one 10.244.0.3");
    assert_eq!(scene.two.ask_udp("10.96.0.10:53").unwrap(), "one 10.244.0.3");
    assert!(scene.node.ask_tcp("10.96.0.10:80").unwrap().starts_with("one "));
    assert!(scene.node.ask_udp("10.96.0.10:53").unwrap().starts_with("one "));
    // Who is no pod is masqueraded; the answer finds its way whatever the pod's node knows of the caller.
    let from_outside = scene.world.ask_tcp("10.96.0.10:80").unwrap();
    assert!(from_outside.starts_with("one ") && !from_outside.contains("192.168.0.9"), "{from_outside}");
    // The only endpoint calls its own service.
    assert!(scene.one.ask_tcp("10.96.0.10:80").unwrap().starts_with("one "));
    assert!(scene.one.ask_udp("10.96.0.10:53").unwrap().starts_with("one "));
}

#[test]
fn endpoints_share_the_flows_and_one_that_is_not_ready_gets_none() {
    let mut scene = scene("sharing");
    scene.service(cluster_ip("web", "10.96.0.10"));
    scene.endpoints("web", &["10.244.0.2@node", "10.244.1.4@other"]);
    scene.commit();
    let asked = |scene: &Scene| -> Vec<String> {
        let mut names: Vec<String> = (0..40)
            .map(|_| scene.two.ask_tcp("10.96.0.10:80").unwrap().split(' ').next().unwrap().to_owned())
            .collect();
        names.sort();
        names.dedup();
        names
    };
    assert_eq!(asked(&scene), ["far", "one"]);
    scene.endpoints("web", &["10.244.0.2@node!", "10.244.1.4@other"]);
    scene.commit();
    assert_eq!(asked(&scene), ["far"]);
    // All are on their way out: better those than none.
    scene.endpoints("web", &["10.244.0.2@node!"]);
    scene.commit();
    assert_eq!(asked(&scene), ["one"]);
}

#[test]
fn without_endpoints_callers_are_refused_at_once() {
    let mut scene = scene("refused");
    scene.service(json!({"name": "web", "type": "NodePort", "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"],
        "externalIPs": ["203.0.113.5"], "ports": node_ports()}));
    scene.endpoints("web", &[]);
    scene.commit();
    scene.world.route("203.0.113.5/32", "192.168.0.1");
    let refused = ErrorKind::ConnectionRefused;
    assert_eq!(scene.two.ask_tcp("10.96.0.10:80").unwrap_err(), refused);
    assert_eq!(scene.two.ask_udp("10.96.0.10:53").unwrap_err(), refused);
    assert_eq!(scene.node.ask_tcp("10.96.0.10:80").unwrap_err(), refused);
    // The kernel tells a sender on the host itself in its own way.
    assert_eq!(scene.node.ask_udp("10.96.0.10:53").unwrap_err(), ErrorKind::PermissionDenied);
    assert_eq!(scene.world.ask_tcp("192.168.0.1:30080").unwrap_err(), refused);
    assert_eq!(scene.world.ask_tcp("203.0.113.5:80").unwrap_err(), refused);
    scene.endpoints("web", &["10.244.0.2@node"]);
    scene.commit();
    assert_eq!(scene.two.ask_tcp("10.96.0.10:80").unwrap(), "one 10.244.0.3");
    // A port that the service does not have.
    assert_eq!(scene.two.ask_tcp("10.96.0.10:81").unwrap_err(), refused);
    assert!(scene.world.ask_tcp("203.0.113.5:80").unwrap().starts_with("one "));
    assert!(scene.world.ask_tcp("192.168.0.1:30080").unwrap().starts_with("one "));
    // An address that no service has, and one that is not even a service's.
    assert_eq!(scene.two.ask_tcp("10.96.7.7:80").unwrap_err(), refused);
    assert_eq!(scene.two.ask_tcp("[fd96::7]:80").unwrap_err(), refused);
    assert_eq!(scene.node.ask_tcp("10.96.7.7:80").unwrap_err(), refused);
    scene.delete("web");
    scene.commit();
    assert_eq!(scene.world.ask_tcp("192.168.0.1:30080").unwrap_err(), refused);
    let rules = scene.node.command("nft", &["list", "ruleset"]);
    assert!(!rules.contains("10.96.0.10") && !rules.contains("30080") && !rules.contains("web"), "{rules}");
}

#[test]
fn what_the_node_serves_itself_is_left_alone() {
    let mut scene = scene("served-here");
    scene.node.command("ip", &["addr", "add", "10.96.0.53/32", "dev", "lo", "scope", "host"]);
    scene.service(cluster_ip("dns", "10.96.0.53"));
    scene.endpoints("dns", &[]);
    scene.commit();
    scene.laboratory.serve_tcp(&scene.node, "node", 53);
    assert_eq!(scene.two.ask_tcp("10.96.0.53:53").unwrap(), "node 10.244.0.3");
    assert!(scene.node.ask_tcp("10.96.0.53:53").unwrap().starts_with("node "));
    assert_eq!(scene.two.ask_tcp("10.96.0.53:54").unwrap_err(), ErrorKind::ConnectionRefused);
}

#[test]
fn node_ports_answer_and_local_ones_keep_the_callers_address() {
    let mut scene = scene("node-ports");
    let service = |policy: &str| {
        json!({"name": "web", "type": "NodePort", "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"],
               "ports": node_ports(), "externalTrafficPolicy": policy})
    };
    scene.service(service("Cluster"));
    scene.endpoints("web", &["10.244.1.4@other"]);
    scene.commit();
    // Masqueraded: under the address of the link towards the endpoint.
    let answer = scene.world.ask_tcp("192.168.0.1:30080").unwrap();
    assert!(answer.starts_with("far ") && !answer.contains("192.168.0.9"), "{answer}");
    assert!(scene.world.ask_udp("192.168.0.1:30053").unwrap().starts_with("far "));
    assert!(scene.node.ask_tcp("192.168.0.1:30080").unwrap().starts_with("far "));
    assert!(scene.two.ask_tcp("192.168.0.1:30080").unwrap().starts_with("far "));
    scene.service(service("Local"));
    scene.endpoints("web", &["10.244.0.2@node", "10.244.1.4@other"]);
    scene.commit();
    for _ in 0..8 {
        assert_eq!(scene.world.ask_tcp("192.168.0.1:30080").unwrap(), "one 192.168.0.9");
    }
    scene.endpoints("web", &["10.244.1.4@other"]);
    scene.commit();
    // Nobody here: silence, so that a balancer goes elsewhere; but pods and the node are not outside.
    assert!(scene.world.ask_tcp("192.168.0.1:30080").is_err());
    assert!(scene.two.ask_tcp("192.168.0.1:30080").unwrap().starts_with("far "));
    assert!(scene.node.ask_tcp("192.168.0.1:30080").unwrap().starts_with("far "));
}

#[test]
fn internal_traffic_policy_local_stays_on_the_node() {
    let mut scene = scene("internal-local");
    let mut service = cluster_ip("web", "10.96.0.10");
    service["internalTrafficPolicy"] = json!("Local");
    scene.service(service);
    scene.endpoints("web", &["10.244.0.2@node", "10.244.1.4@other"]);
    scene.commit();
    for _ in 0..8 {
        assert_eq!(scene.two.ask_tcp("10.96.0.10:80").unwrap(), "one 10.244.0.3");
    }
}

#[test]
fn load_balancer_addresses_answer_those_who_may_ask() {
    let mut scene = scene("balancer");
    scene.world.route("203.0.113.5/32", "192.168.0.1");
    let service = |sources: Value| {
        json!({"name": "web", "type": "LoadBalancer", "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"],
               "ports": node_ports(), "loadBalancerSourceRanges": sources,
               "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.5"}]}}})
    };
    scene.service(service(json!(["192.168.0.0/24"])));
    scene.endpoints("web", &["10.244.0.2@node"]);
    scene.commit();
    assert!(scene.world.ask_tcp("203.0.113.5:80").unwrap().starts_with("one "));
    scene.service(service(json!(["192.168.7.0/24"])));
    scene.commit();
    assert!(scene.world.ask_tcp("203.0.113.5:80").is_err());
    assert!(scene.world.ask_tcp("192.168.0.1:30080").unwrap().starts_with("one "));
}

#[test]
fn a_client_keeps_its_endpoint_while_that_is_there() {
    let mut scene = scene("affinity");
    let mut service = cluster_ip("web", "10.96.0.10");
    service["sessionAffinity"] = json!("ClientIP");
    service["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 100}});
    scene.service(service.clone());
    scene.endpoints("web", &["10.244.0.2@node", "10.244.0.3@node", "10.244.1.4@other"]);
    scene.commit();
    let first = scene.world.ask_tcp("10.96.0.10:80").unwrap();
    for _ in 0..15 {
        assert_eq!(scene.world.ask_tcp("10.96.0.10:80").unwrap(), first);
    }
    // The other endpoints come and go without disturbing it; another timeout forgets whom the clients had.
    let name = first.split(' ').next().unwrap();
    let kept = match name {
        "one" => "10.244.0.2@node",
        "two" => "10.244.0.3@node",
        _ => "10.244.1.4@other",
    };
    let other = if name == "one" { "10.244.0.3@node" } else { "10.244.0.2@node" };
    scene.endpoints("web", &[kept, other]);
    scene.commit();
    for _ in 0..15 {
        assert_eq!(scene.world.ask_tcp("10.96.0.10:80").unwrap().split(' ').next(), Some(name));
    }
    service["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 50}});
    scene.service(service);
    scene.commit();
    assert!(scene.node.command("nft", &["list", "ruleset"]).contains("timeout 50s"));
    scene.endpoints("web", &[other]);
    scene.commit();
    assert_ne!(scene.world.ask_tcp("10.96.0.10:80").unwrap().split(' ').next(), Some(name));
}

#[test]
fn a_udp_client_that_keeps_its_port_follows_the_endpoints() {
    let mut scene = scene("udp");
    scene.service(json!({"name": "dns", "type": "NodePort", "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"],
        "ports": node_ports()}));
    scene.endpoints("dns", &["10.244.0.2@node"]);
    scene.commit();
    let clients = [scene.two.udp_client("10.96.0.10:53"), scene.world.udp_client("192.168.0.1:30053")];
    for client in &clients {
        assert!(exchange(client).unwrap().starts_with("one "));
    }
    scene.endpoints("dns", &["10.244.1.4@other"]);
    scene.commit();
    for client in &clients {
        assert!(exchange(client).unwrap().starts_with("far "));
    }
    scene.endpoints("dns", &[]);
    scene.commit();
    for client in &clients {
        assert!(exchange(client).is_err());
    }
    scene.endpoints("dns", &["10.244.0.2@node"]);
    scene.commit();
    for client in &clients {
        assert!(exchange(client).unwrap().starts_with("one "));
    }
}

#[test]
fn a_service_of_both_families_answers_in_both() {
    let mut scene = scene("dual");
    scene.service(json!({"name": "web", "type": "NodePort", "clusterIP": "10.96.0.10",
        "clusterIPs": ["10.96.0.10", "fd96::10"], "ports": node_ports()}));
    scene.endpoints("web", &["10.244.0.2@node"]);
    scene.endpoints("web", &["fd02::2@node"]);
    scene.commit();
    assert_eq!(scene.two.ask_tcp("10.96.0.10:80").unwrap(), "one 10.244.0.3");
    assert_eq!(scene.two.ask_tcp("[fd96::10]:80").unwrap(), "one fd02::3");
    assert_eq!(scene.two.ask_udp("[fd96::10]:53").unwrap(), "one fd02::3");
    assert!(scene.one.ask_tcp("[fd96::10]:80").unwrap().starts_with("one "));
    assert!(scene.world.ask_tcp("[fd01::1]:30080").unwrap().starts_with("one "));
    scene.endpoints("web", &["fd02:1::4@other"]);
    scene.commit();
    assert_eq!(scene.two.ask_tcp("[fd96::10]:80").unwrap(), "far fd02::3");
}

#[test]
fn a_restart_keeps_flows_and_teardown_leaves_nothing() {
    let mut scene = scene("restart");
    scene.service(cluster_ip("web", "10.96.0.10"));
    scene.endpoints("web", &["10.244.0.2@node"]);
    scene.commit();
    let client = scene.two.udp_client("10.96.0.10:53");
    assert!(exchange(&client).unwrap().starts_with("one "));
    let before = scene.node.command("nft", &["list", "ruleset"]);
    let options = scene.proxy.state().options().clone();
    scene.proxy = scene.node.run(|| ServiceProxy::open(options)).expect("open");
    // Nothing is known yet, and nothing was taken away.
    assert_eq!(scene.node.command("nft", &["list", "ruleset"]), before);
    scene.service(cluster_ip("web", "10.96.0.10"));
    scene.endpoints("web", &["10.244.0.2@node"]);
    scene.commit();
    assert_eq!(scene.node.command("nft", &["list", "ruleset"]), before);
    assert!(exchange(&client).unwrap().starts_with("one "));
    // Somebody else removed our table: the next change brings all of it back.
    scene.node.command("nft", &["flush", "ruleset"]);
    scene.endpoints("web", &["10.244.1.4@other"]);
    scene.commit();
    assert!(scene.two.ask_tcp("10.96.0.10:80").unwrap().starts_with("far "));
    scene.proxy.teardown().expect("teardown");
    assert_eq!(scene.node.command("nft", &["list", "ruleset"]), "");
    assert!(!scene.node.command("ip", &["route"]).contains("10.96.0.0"));
    let _ = (&scene.far, &scene.laboratory);
}

#[test]
fn the_cluster_is_followed_until_the_proxy_is_stopped() {
    let Scene { laboratory: _laboratory, node, two, proxy, .. } = scene("follow");
    let api = client::fake::FakeApi::new();
    let (stop, stopped) = (tokio_util::sync::CancellationToken::new(), api.clone());
    let token = stop.clone();
    let thread = node.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let informers = client::Informers::new(stopped.client(), token.clone());
            let mut proxy = proxy;
            // Spawned, as the binary does: the future must be able to move between threads.
            tokio::spawn(async move { proxy.run(&informers, token).await }).await.expect("the proxy");
        });
    });
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let services = client::Api::<Service>::namespaced(api.client(), "default");
        let slices = client::Api::<EndpointSlice>::namespaced(api.client(), "default");
        let object = json!({"metadata": {"name": "web"}, "spec": cluster_ip("web", "10.96.0.10")});
        services.create(&Default::default(), &serde_json::from_value(object).unwrap()).await.expect("create");
        let object = json!({"metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.244.0.2"]}],
            "ports": [{"name": "tcp", "port": 8080}]});
        slices.create(&Default::default(), &serde_json::from_value(object).unwrap()).await.expect("create");
    });
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while two.ask_tcp("10.96.0.10:80").is_err() {
        assert!(std::time::Instant::now() < deadline, "the service never came up");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    // A firewall service restarts.
    node.command("nft", &["flush", "ruleset"]);
    while two.ask_tcp("10.96.0.10:80").is_err() {
        assert!(std::time::Instant::now() < deadline, "the rules never came back");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    stop.cancel();
    thread.join().expect("the proxy's thread");
    // Stopping takes nothing away.
    assert_eq!(two.ask_tcp("10.96.0.10:80").unwrap(), "one 10.244.0.3");
}
