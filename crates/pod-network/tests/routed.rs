//! The pod network with real links and packets, hosts being network namespaces. Needs root.

use std::net::IpAddr;

use netlink::laboratory::{Host, Laboratory, exchange};
use pod_network::{IpRange, NodeFacts, Options, RoutedPodNetwork};
use pod_sandbox_network::{AttachRequest, HostPort, PodNetworkError, PodSandboxNetwork, Protocol};

fn ranges(texts: &[&str]) -> Vec<IpRange> {
    texts.iter().map(|text| text.parse().expect("a range")).collect()
}

fn facts(name: &str, addresses: &[&str], pod_ranges: &[&str]) -> NodeFacts {
    NodeFacts {
        name: name.to_owned(),
        addresses: addresses.iter().map(|text| text.parse().expect("an address")).collect(),
        ranges: ranges(pod_ranges),
    }
}

/// A node's pod network in a host.
struct Node {
    host: Host,
    network: RoutedPodNetwork,
}

fn node(laboratory: &Laboratory, host: &Host, name: &str) -> Node {
    let mut options = Options::new("test", name, laboratory.directory().join(format!("run-{name}")));
    options.cluster_ranges = ranges(&["10.244.0.0/16", "fd02::/48"]);
    let network = host.run(|| RoutedPodNetwork::open(options)).expect("open");
    Node { host: host.clone(), network }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

impl Node {
    fn apply(&self, facts: NodeFacts) {
        self.host.run(|| self.network.apply_node(facts)).expect("apply");
    }

    fn attach(&self, pod: &Host, name: &str, host_ports: Vec<HostPort>) -> Result<Vec<IpAddr>, PodNetworkError> {
        let request = AttachRequest {
            sandbox: format!("sandbox-{name}"),
            pod_namespace: "default".to_owned(),
            pod_name: name.to_owned(),
            network_namespace: pod.path().to_owned(),
            host_ports,
        };
        self.host.run(|| block_on(self.network.attach(&request)))
    }

    fn pod(&self, laboratory: &Laboratory, name: &str) -> (Host, Vec<IpAddr>) {
        let pod = laboratory.host(name);
        let addresses = self.attach(&pod, name, Vec::new()).expect("attach");
        (pod, addresses)
    }

    fn detach(&self, name: &str) {
        self.host.run(|| block_on(self.network.detach(&format!("sandbox-{name}")))).expect("detach");
    }
}

fn port(host_port: u16, container_port: u16, protocol: Protocol) -> HostPort {
    HostPort { host_ip: None, host_port, container_port, protocol }
}

#[test]
fn pods_of_two_nodes_on_one_link_talk_by_their_own_addresses() {
    let laboratory = Laboratory::new("direct");
    let (a, b) = (laboratory.host("a"), laboratory.host("b"));
    laboratory.wire((&a, "up", &["192.168.0.1/24", "fd01::1/64"]), (&b, "up", &["192.168.0.2/24", "fd01::2/64"]));
    let (node_a, node_b) = (node(&laboratory, &a, "a"), node(&laboratory, &b, "b"));
    for node in [&node_a, &node_b] {
        node.apply(facts("a", &["192.168.0.1", "fd01::1"], &["10.244.0.0/24", "fd02:0:0:1::/64"]));
        node.apply(facts("b", &["192.168.0.2", "fd01::2"], &["10.244.1.0/24", "fd02:0:0:2::/64"]));
    }
    let (one, one_addresses) = node_a.pod(&laboratory, "one");
    let (two, two_addresses) = node_b.pod(&laboratory, "two");
    let (three, _) = node_a.pod(&laboratory, "three");
    assert_eq!(one_addresses, ["10.244.0.2".parse::<IpAddr>().unwrap(), "fd02:0:0:1::2".parse().unwrap()]);
    assert_eq!(two_addresses, ["10.244.1.2".parse::<IpAddr>().unwrap(), "fd02:0:0:2::2".parse().unwrap()]);
    laboratory.serve_tcp(&two, "two", 80);
    laboratory.serve_udp(&two, "two", 53);
    // Across nodes, in both families and protocols, and between pods of one node.
    assert_eq!(one.ask_tcp("10.244.1.2:80").unwrap(), "two 10.244.0.2");
    assert_eq!(one.ask_tcp("[fd02:0:0:2::2]:80").unwrap(), "two fd02:0:0:1::2");
    assert_eq!(one.ask_udp("10.244.1.2:53").unwrap(), "two 10.244.0.2");
    laboratory.serve_tcp(&three, "three", 80);
    assert_eq!(one.ask_tcp("10.244.0.3:80").unwrap(), "three 10.244.0.2");
    // A node reaches the pods of both nodes, and a pod reaches both nodes.
    assert_eq!(b.ask_tcp("10.244.1.2:80").unwrap(), "two 192.168.0.2");
    assert_eq!(a.ask_tcp("10.244.1.2:80").unwrap(), "two 192.168.0.1");
    laboratory.serve_tcp(&a, "a", 81);
    laboratory.serve_tcp(&b, "b", 81);
    assert_eq!(one.ask_tcp("192.168.0.1:81").unwrap(), "a 10.244.0.2");
    assert_eq!(one.ask_tcp("192.168.0.2:81").unwrap(), "b 10.244.0.2");
    assert_eq!(one.ask_tcp("[fd01::2]:81").unwrap(), "b fd02:0:0:1::2");
    // Nobody there: an answer, not silence.
    assert_eq!(one.ask_tcp("10.244.0.77:80").unwrap_err(), std::io::ErrorKind::HostUnreachable);
}

#[test]
fn pods_of_nodes_behind_a_router_talk_through_the_tunnel() {
    let laboratory = Laboratory::new("tunnel");
    let (a, router, b) = (laboratory.host("a"), laboratory.host("router"), laboratory.host("b"));
    laboratory.wire((&a, "up", &["192.168.1.1/24"]), (&router, "left", &["192.168.1.254/24"]));
    laboratory.wire((&b, "up", &["192.168.2.1/24"]), (&router, "right", &["192.168.2.254/24"]));
    router.forward();
    a.route("0.0.0.0/0", "192.168.1.254");
    b.route("0.0.0.0/0", "192.168.2.254");
    let (node_a, node_b) = (node(&laboratory, &a, "a"), node(&laboratory, &b, "b"));
    for node in [&node_a, &node_b] {
        // The other node may be known before our own range is.
        node.apply(facts("b", &["192.168.2.1"], &["10.244.1.0/24", "fd02:0:0:2::/64"]));
        node.apply(facts("a", &["192.168.1.1"], &["10.244.0.0/24", "fd02:0:0:1::/64"]));
    }
    let (one, _) = node_a.pod(&laboratory, "one");
    let (two, _) = node_b.pod(&laboratory, "two");
    laboratory.serve_tcp(&two, "two", 80);
    laboratory.serve_tcp(&b, "b", 81);
    assert_eq!(one.ask_tcp("10.244.1.2:80").unwrap(), "two 10.244.0.2");
    assert_eq!(one.ask_tcp("[fd02:0:0:2::2]:80").unwrap(), "two fd02:0:0:1::2");
    // The node's own packets go through the tunnel under its address there.
    assert_eq!(a.ask_tcp("10.244.1.2:80").unwrap(), "two 10.244.0.1");
    // The router knows no pod addresses, so packets to the far node are masqueraded.
    assert_eq!(one.ask_tcp("192.168.2.1:81").unwrap(), "b 192.168.1.1");
    // The node leaves.
    node_a.host.run(|| node_a.network.delete_node("b")).unwrap();
    assert!(!a.command("ip", &["route"]).contains("10.244.1.0/24"));
    assert!(!a.command("bridge", &["fdb"]).contains("192.168.2.1"));
}

#[test]
fn traffic_that_leaves_the_cluster_is_masqueraded() {
    let laboratory = Laboratory::new("masquerade");
    let (a, world) = (laboratory.host("a"), laboratory.host("world"));
    laboratory.wire((&a, "up", &["192.168.0.1/24", "fd01::1/64"]), (&world, "up", &["192.168.0.9/24", "fd01::9/64"]));
    let node = node(&laboratory, &a, "a");
    node.apply(facts("a", &["192.168.0.1"], &["10.244.0.0/24", "fd02:0:0:1::/64"]));
    let (one, _) = node.pod(&laboratory, "one");
    laboratory.serve_tcp(&world, "world", 80);
    laboratory.serve_udp(&world, "world", 53);
    assert_eq!(one.ask_tcp("192.168.0.9:80").unwrap(), "world 192.168.0.1");
    assert_eq!(one.ask_udp("192.168.0.9:53").unwrap(), "world 192.168.0.1");
    assert_eq!(one.ask_tcp("[fd01::9]:80").unwrap(), "world fd01::1");
}

#[test]
fn host_ports_lead_to_the_pod_and_close_with_it() {
    let laboratory = Laboratory::new("host-ports");
    let (a, world) = (laboratory.host("a"), laboratory.host("world"));
    laboratory.wire((&a, "up", &["192.168.0.1/24", "192.168.0.3/24"]), (&world, "up", &["192.168.0.9/24"]));
    let node = node(&laboratory, &a, "a");
    node.apply(facts("a", &["192.168.0.1"], &["10.244.0.0/24"]));
    let pod = laboratory.host("pod");
    let mut special = port(8081, 80, Protocol::Tcp);
    special.host_ip = Some("192.168.0.3".parse().unwrap());
    let ports = vec![port(8080, 80, Protocol::Tcp), port(5353, 53, Protocol::Udp), special];
    node.attach(&pod, "pod", ports.clone()).expect("attach");
    laboratory.serve_tcp(&pod, "pod", 80);
    laboratory.serve_udp(&pod, "pod", 53);
    assert_eq!(world.ask_tcp("192.168.0.1:8080").unwrap(), "pod 192.168.0.9");
    assert_eq!(world.ask_tcp("192.168.0.3:8080").unwrap(), "pod 192.168.0.9");
    assert_eq!(world.ask_tcp("192.168.0.3:8081").unwrap(), "pod 192.168.0.9");
    assert_eq!(world.ask_tcp("192.168.0.1:8081").unwrap_err(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(a.ask_tcp("192.168.0.1:8080").unwrap(), "pod 192.168.0.1");
    // A pod that reaches itself by way of the host sees the host as the caller.
    assert!(pod.ask_tcp("192.168.0.1:8080").unwrap().starts_with("pod "));
    let client = world.udp_client("192.168.0.1:5353");
    assert_eq!(exchange(&client).unwrap(), "pod 192.168.0.9");
    // A second pod cannot have the same port, and leaves no trace of the attempt.
    let second = laboratory.host("second");
    let refused = node.attach(&second, "second", vec![port(8080, 80, Protocol::Tcp)]).unwrap_err();
    assert!(refused.to_string().contains("open the host ports"), "{refused}");
    node.detach("pod");
    assert_eq!(world.ask_tcp("192.168.0.1:8080").unwrap_err(), std::io::ErrorKind::ConnectionRefused);
    assert!(exchange(&client).is_err());
    node.attach(&second, "second", vec![port(5353, 53, Protocol::Udp)]).expect("attach");
    laboratory.serve_udp(&second, "second", 53);
    // The same socket of the client now reaches the new pod.
    assert_eq!(exchange(&client).unwrap(), "second 192.168.0.9");
}

#[test]
fn host_ports_answer_on_loopback_and_the_hosts_own_loopback_services_stay_its_own() {
    let laboratory = Laboratory::new("loopback");
    let (a, world) = (laboratory.host("a"), laboratory.host("world"));
    laboratory.wire((&a, "up", &["192.168.0.1/24"]), (&world, "up", &["192.168.0.9/24"]));
    let node = node(&laboratory, &a, "a");
    node.apply(facts("a", &["192.168.0.1"], &["10.244.0.0/24"]));
    let (one, two) = (laboratory.host("one"), laboratory.host("two"));
    let at = |address: &str, protocol| HostPort { host_ip: Some(address.parse().unwrap()), ..port(8080, 80, protocol) };
    // One number for several pods, told apart by address and protocol.
    node.attach(&one, "one", vec![at("127.0.0.1", Protocol::Tcp)]).expect("attach");
    node.attach(&two, "two", vec![at("192.168.0.1", Protocol::Tcp), at("192.168.0.1", Protocol::Udp)]).expect("attach");
    laboratory.serve_tcp(&one, "one", 80);
    laboratory.serve_tcp(&two, "two", 80);
    laboratory.serve_udp(&two, "two", 80);
    assert_eq!(a.ask_tcp("127.0.0.1:8080").unwrap(), "one 192.168.0.1");
    assert_eq!(a.ask_tcp("192.168.0.1:8080").unwrap(), "two 192.168.0.1");
    assert_eq!(a.ask_udp("192.168.0.1:8080").unwrap(), "two 192.168.0.1");
    // A pod that gives up its own loopback address to send to its node's.
    laboratory.serve_tcp(&a, "a", 82);
    assert_eq!(a.ask_tcp("127.0.0.1:82").unwrap(), "a 127.0.0.1");
    one.command("ip", &["address", "delete", "127.0.0.1/8", "dev", "lo"]);
    one.ask_tcp("127.0.0.1:82").unwrap_err();
    one.ask_tcp("127.0.0.1:8080").unwrap_err();
}

#[test]
fn a_restarted_agent_goes_on_where_it_was_and_sweeps_what_is_gone() {
    let laboratory = Laboratory::new("restart");
    let a = laboratory.host("a");
    let first = node(&laboratory, &a, "a");
    assert!(first.network.ready().is_err());
    let early = laboratory.host("early");
    assert!(matches!(first.attach(&early, "early", Vec::new()), Err(PodNetworkError::NoRange)));
    first.apply(facts("a", &[], &["10.244.0.0/24"]));
    let (one, one_addresses) = first.pod(&laboratory, "one");
    let (_two, two_addresses) = first.pod(&laboratory, "two");
    drop(first);
    let second = node(&laboratory, &a, "a");
    assert_eq!(second.network.ready(), Ok(()));
    assert_eq!(second.attach(&one, "one", Vec::new()).expect("again"), one_addresses);
    a.run(|| block_on(second.network.retain(&["sandbox-one".to_owned()]))).expect("retain");
    assert!(a.command("ip", &["route"]).contains(&one_addresses[0].to_string()));
    assert!(!a.command("ip", &["route"]).contains(&two_addresses[0].to_string()));
    let (_three, three_addresses) = second.pod(&laboratory, "three");
    assert_eq!(three_addresses[0].to_string(), "10.244.0.4");
    laboratory.serve_tcp(&one, "one", 80);
    assert_eq!(_three.ask_tcp("10.244.0.2:80").unwrap(), "one 10.244.0.4");
    second.detach("three");
    second.detach("three");
}

#[test]
fn teardown_leaves_nothing() {
    let laboratory = Laboratory::new("teardown");
    let (a, b) = (laboratory.host("a"), laboratory.host("b"));
    laboratory.wire((&a, "up", &["192.168.0.1/24"]), (&b, "up", &["192.168.0.2/24"]));
    let look = || {
        ["ip route", "ip -6 route", "ip -o link", "nft list ruleset", "sysctl net.ipv4.ip_forward"].map(|command| {
            let words: Vec<&str> = command.split(' ').collect();
            a.command(words[0], &words[1..])
        })
    };
    let before = look();
    let node = node(&laboratory, &a, "a");
    node.apply(facts("a", &["192.168.0.1"], &["10.244.0.0/24", "fd02:0:0:1::/64"]));
    node.apply(facts("b", &["192.168.0.2"], &["10.244.1.0/24", "fd02:0:0:2::/64"]));
    node.pod(&laboratory, "one");
    assert_ne!(look(), before);
    node.host.run(|| node.network.teardown()).expect("teardown");
    assert_eq!(look(), before);
    assert!(!laboratory.directory().join("run-a/pod-network").exists());
}

#[test]
fn the_nodes_of_the_cluster_are_followed_and_stale_routes_swept() {
    let laboratory = Laboratory::new("follow");
    let (a, b) = (laboratory.host("a"), laboratory.host("b"));
    laboratory.wire((&a, "up", &["192.168.0.1/24"]), (&b, "up", &["192.168.0.2/24"]));
    // From before a restart: a node that has left since.
    a.command("ip", &["route", "add", "10.244.9.0/24", "via", "192.168.0.2", "proto", "75"]);
    let node = node(&laboratory, &a, "a");
    let api = client::fake::FakeApi::new();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _entered = runtime.enter();
    let stop = tokio_util::sync::CancellationToken::new();
    let (network, token, served) = (node.network.clone(), stop.clone(), api.clone());
    let thread = a.spawn(move || {
        block_on(async move {
            let informers = client::Informers::new(served.client(), token.clone());
            tokio::spawn(async move { network.run(&informers, token).await }).await.expect("the network");
        });
    });
    let create = |name: &str, address: &str, range: &str| {
        let object = serde_json::json!({"metadata": {"name": name}, "spec": {"podCIDR": range, "podCIDRs": [range]},
            "status": {"addresses": [{"type": "InternalIP", "address": address}]}});
        let node: k8s_openapi::api::core::v1::Node = serde_json::from_value(object).unwrap();
        let nodes = client::Api::<k8s_openapi::api::core::v1::Node>::all(api.client());
        runtime.block_on(async { nodes.create(&Default::default(), &node).await.expect("create") });
    };
    create("b", "192.168.0.2", "10.244.1.0/24");
    create("a", "192.168.0.1", "10.244.0.0/24");
    let until = |text: &str, there: bool| {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while a.command("ip", &["route"]).contains(text) != there {
            assert!(std::time::Instant::now() < deadline, "{text}: {}", a.command("ip", &["route"]));
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    };
    until("10.244.1.0/24 via 192.168.0.2", true);
    until("10.244.9.0/24", false);
    assert_eq!(node.network.ready(), Ok(()));
    // A firewall service restarts.
    let before = a.command("nft", &["list", "ruleset"]);
    a.command("nft", &["flush", "ruleset"]);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while a.command("nft", &["list", "ruleset"]) != before {
        assert!(std::time::Instant::now() < deadline, "{}", a.command("nft", &["list", "ruleset"]));
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let nodes = client::Api::<k8s_openapi::api::core::v1::Node>::all(api.client());
    runtime.block_on(async { nodes.delete("b", &Default::default()).await.expect("delete") });
    until("10.244.1.0/24", false);
    stop.cancel();
    thread.join().expect("the network's thread");
}
