//! The DNS server with real queries, a node and a world being network namespaces. Needs root.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    path::PathBuf,
    sync::{Arc, atomic::AtomicUsize, atomic::Ordering},
    time::Duration,
};

use cluster_dns::{ClusterDns, Options, SocketsIn};
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType},
    serialize::binary::{BinDecodable, BinDecoder},
};
use netlink::{
    NetworkNamespace,
    laboratory::{Host, Laboratory},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// A cluster's DNS on a node; its servers for the rest of the world are those of `resolv_conf`.
struct Scene {
    laboratory: Laboratory,
    node: Host,
    pod: Host,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

fn resolv_conf(laboratory: &Laboratory, servers: &[&str]) -> PathBuf {
    let path = laboratory.directory().join("resolv.conf");
    let lines: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    std::fs::write(&path, lines).unwrap();
    path
}

fn start(name: &str, servers: &[&str], change: impl FnOnce(&Laboratory, &Host, &mut Options)) -> Scene {
    let laboratory = Laboratory::new(name);
    let (node, pod) = (laboratory.host("node"), laboratory.host("pod"));
    laboratory.wire((&node, "pod", &["169.254.1.1/24"]), (&pod, "eth0", &["169.254.1.2/24"]));
    pod.route("0.0.0.0/0", "169.254.1.1");
    let mut options = Options::new(vec!["10.96.0.10".parse().unwrap(), "fd96::10".parse().unwrap()]);
    options.ranges = ["10.96.0.0/16", "10.244.0.0/16"].map(|text| text.parse().unwrap()).to_vec();
    options.resolv_conf = resolv_conf(&laboratory, servers);
    change(&laboratory, &node, &mut options);
    let dns = node.run(|| ClusterDns::open(options)).expect("open");
    fill(&dns);
    let stop = CancellationToken::new();
    let token = stop.clone();
    let thread = node.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(dns.serve(token)).unwrap();
        dns.teardown().unwrap();
    });
    Scene { laboratory, node, pod, stop, thread: Some(thread) }
}

impl Scene {
    fn finish(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server");
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn fill(dns: &ClusterDns) {
    dns.change_names(|names| {
        let mut service = |name: &str, spec| {
            let object = json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec});
            names.apply_service(&serde_json::from_value(object).unwrap());
        };
        service("web", json!({"clusterIPs": ["10.96.0.7"], "ports": [{"name": "http", "port": 80}]}));
        service("many", json!({"clusterIP": "None"}));
        service("out", json!({"type": "ExternalName", "externalName": "www.example.com"}));
        service("alias", json!({"type": "ExternalName", "externalName": "web.shop.svc.cluster.local"}));
        let endpoints: Vec<_> = (0..100).map(|last| json!({"addresses": [format!("10.244.0.{last}")]})).collect();
        let slice = json!({"metadata": {"name": "many-1", "namespace": "shop",
            "labels": {"kubernetes.io/service-name": "many"}}, "addressType": "IPv4", "endpoints": endpoints});
        names.apply_slice(&serde_json::from_value(slice).unwrap());
    });
}

fn question(name: &str, kind: RecordType, extended: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(size) = extended {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

fn parsed(bytes: &[u8]) -> Message {
    let message = Message::read(&mut BinDecoder::new(bytes)).expect("an answer");
    assert_eq!(message.metadata.id, 4711);
    message
}

fn ask(host: &Host, name: &str, kind: RecordType) -> Message {
    ask_with(host, &question(name, kind, None))
}

fn ask_with(host: &Host, question: &[u8]) -> Message {
    host.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        socket.connect("10.96.0.10:53").unwrap();
        socket.send(question).unwrap();
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).expect("an answer");
        parsed(&buffer[..length])
    })
}

fn ask_tcp(host: &Host, questions: &[Vec<u8>]) -> Vec<Message> {
    host.run(|| {
        let mut stream = TcpStream::connect("10.96.0.10:53").unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut answers = Vec::new();
        for question in questions {
            stream.write_all(&(question.len() as u16).to_be_bytes()).unwrap();
            stream.write_all(question).unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut answer).unwrap();
            answers.push(parsed(&answer));
        }
        answers
    })
}

fn shown(message: &Message) -> Vec<String> {
    message.answers.iter().map(ToString::to_string).collect()
}

/// A name server of the world: answers every A question with 192.0.2.80 and counts the questions.
fn world_server(laboratory: &Laboratory, host: &Host, code: ResponseCode) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let reply = {
        let count = count.clone();
        move |bytes: &[u8]| {
            count.fetch_add(1, Ordering::Relaxed);
            let query = Message::read(&mut BinDecoder::new(bytes)).ok()?;
            let mut answer = Message::response(query.metadata.id, OpCode::Query);
            answer.metadata.response_code = code;
            let asked = query.queries.first()?.clone();
            if code == ResponseCode::NoError && asked.query_type() == RecordType::A {
                let data = RData::A("192.0.2.80".parse().unwrap());
                answer.add_answer(Record::from_rdata(asked.name().clone(), 60, data));
            }
            answer.add_query(asked);
            answer.to_vec().ok()
        }
    };
    let socket = host.run(|| UdpSocket::bind("0.0.0.0:53").unwrap());
    let listener = host.run(|| std::net::TcpListener::bind("0.0.0.0:53").unwrap());
    let over_udp = reply.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, asker)) = socket.recv_from(&mut buffer) {
            if let Some(answer) = over_udp(&buffer[..length]) {
                let _ = socket.send_to(&answer, asker);
            }
        }
    });
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut length = [0; 2];
            let _ = stream.read_exact(&mut length);
            let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
            let _ = stream.read_exact(&mut bytes);
            if let Some(answer) = reply(&bytes) {
                let _ = stream.write_all(&(answer.len() as u16).to_be_bytes());
                let _ = stream.write_all(&answer);
            }
        }
    });
    let _ = laboratory;
    count
}

#[test]
fn a_pod_asks_for_the_clusters_names_over_udp_and_tcp() {
    let mut scene = start("dns-names", &[], |_, _, _| {});
    let answer = ask(&scene.pod, "web.shop.svc.cluster.local.", RecordType::A);
    assert_eq!(shown(&answer), ["web.shop.svc.cluster.local. 5 IN A 10.96.0.7"]);
    assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
    let answer = ask(&scene.node, "Web.SHOP.svc.cluster.local.", RecordType::A);
    assert_eq!(shown(&answer), ["Web.SHOP.svc.cluster.local. 5 IN A 10.96.0.7"]);
    let answer = ask(&scene.pod, "_http._tcp.web.shop.svc.cluster.local.", RecordType::SRV);
    assert_eq!(answer.answers.len(), 1);
    assert_eq!(answer.additionals.len(), 1);
    let answer = ask(&scene.pod, "none.shop.svc.cluster.local.", RecordType::A);
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(answer.authorities.first().map(Record::record_type), Some(RecordType::SOA));
    let answer = ask(&scene.pod, "web.shop.svc.cluster.local.", RecordType::AAAA);
    assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NoError, 0));
    assert_eq!(answer.authorities.len(), 1);
    let answer = ask(&scene.pod, "alias.shop.svc.cluster.local.", RecordType::A);
    assert_eq!(
        shown(&answer),
        [
            "alias.shop.svc.cluster.local. 5 IN CNAME web.shop.svc.cluster.local.",
            "web.shop.svc.cluster.local. 5 IN A 10.96.0.7"
        ]
    );
    // Too much for plain UDP: cut, more with extensions, all over TCP, several questions on one connection.
    let many = |extended| question("many.shop.svc.cluster.local.", RecordType::A, extended);
    let answer = ask_with(&scene.pod, &many(None));
    assert!(answer.metadata.truncation && answer.answers.len() > 20);
    let answer = ask_with(&scene.pod, &many(Some(4096)));
    assert!(answer.metadata.truncation && answer.answers.len() > 60 && answer.edns.is_some());
    let answers = ask_tcp(&scene.pod, &[many(None), many(Some(1232))]);
    assert!(answers.iter().all(|answer| !answer.metadata.truncation && answer.answers.len() == 100));
    // Nobody to ask about the rest of the world.
    let answer = ask(&scene.pod, "example.com.", RecordType::A);
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    scene.finish();
    assert!(!scene.node.command("ip", &["addr"]).contains("10.96.0.10"));
}

#[test]
fn the_rest_of_the_world_is_asked_through_the_hosts_namespace() {
    let mut world_count = None;
    let mut lame_count = None;
    let scene = start("dns-forward", &["192.0.2.53", "192.0.2.54"], |laboratory, _, options| {
        // The node itself has no way to the servers; the host's namespace has.
        let (host, world, lame) = (laboratory.host("host"), laboratory.host("world"), laboratory.host("lame"));
        laboratory.wire((&host, "lame", &["192.0.2.1/32"]), (&lame, "eth0", &["192.0.2.53/32"]));
        laboratory.wire((&host, "world", &["192.0.2.1/32"]), (&world, "eth0", &["192.0.2.54/32"]));
        host.command("ip", &["route", "add", "192.0.2.53", "dev", "lame"]);
        host.command("ip", &["route", "add", "192.0.2.54", "dev", "world"]);
        world.command("ip", &["route", "add", "192.0.2.1", "dev", "eth0"]);
        lame.command("ip", &["route", "add", "192.0.2.1", "dev", "eth0"]);
        world_count = Some(world_server(laboratory, &world, ResponseCode::NoError));
        lame_count = Some(world_server(laboratory, &lame, ResponseCode::ServFail));
        options.outside = Arc::new(SocketsIn::namespace(NetworkNamespace::open(host.path()).unwrap()).unwrap());
    });
    let answer = ask(&scene.pod, "Example.com.", RecordType::A);
    assert_eq!(shown(&answer), ["Example.com. 60 IN A 192.0.2.80"]);
    let answer = ask(&scene.pod, "out.shop.svc.cluster.local.", RecordType::A);
    assert_eq!(
        shown(&answer),
        ["out.shop.svc.cluster.local. 5 IN CNAME www.example.com.", "www.example.com. 60 IN A 192.0.2.80"]
    );
    let answers = ask_tcp(&scene.pod, &[question("example.com.", RecordType::A, None)]);
    assert_eq!(shown(&answers[0]), ["example.com. 60 IN A 192.0.2.80"]);
    // Names of the cluster never leave it.
    let before = world_count.as_ref().unwrap().load(Ordering::Relaxed);
    ask(&scene.pod, "none.shop.svc.cluster.local.", RecordType::A);
    ask(&scene.pod, "9.9.96.10.in-addr.arpa.", RecordType::PTR);
    assert_eq!(world_count.unwrap().load(Ordering::Relaxed), before);
    assert!(lame_count.unwrap().load(Ordering::Relaxed) >= 3);
    // The file changes: the next question goes to whoever is in it then.
    std::thread::sleep(Duration::from_millis(20));
    resolv_conf(&scene.laboratory, &[]);
    assert_eq!(ask(&scene.pod, "example.com.", RecordType::A).metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn a_server_that_leads_back_to_us_is_noticed_and_not_asked_again() {
    let questions = Arc::new(AtomicUsize::new(0));
    let counter = questions.clone();
    let scene = start("dns-loop", &["127.0.0.1"], move |_, node, _| {
        // A server of the node's that passes everything on to the cluster's.
        let socket = node.run(|| UdpSocket::bind("127.0.0.1:53").unwrap());
        let node = node.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, asker)) = socket.recv_from(&mut buffer) {
                counter.fetch_add(1, Ordering::Relaxed);
                let answer = node.run(|| {
                    let onwards = UdpSocket::bind("0.0.0.0:0").unwrap();
                    onwards.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
                    onwards.connect("10.96.0.10:53".parse::<SocketAddr>().unwrap()).unwrap();
                    onwards.send(&buffer[..length]).unwrap();
                    let mut answer = [0; 4096];
                    onwards.recv(&mut answer).ok().map(|length| answer[..length].to_vec())
                });
                if let Some(answer) = answer {
                    let _ = socket.send_to(&answer, asker);
                }
            }
        });
    });
    // The server's own question comes first; it is on its way since the start.
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while questions.load(Ordering::Relaxed) == 0 && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(100));
    let before = questions.load(Ordering::Relaxed);
    let answer = ask(&scene.pod, "example.com.", RecordType::A);
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(questions.load(Ordering::Relaxed), before);
    assert_eq!(ask(&scene.pod, "web.shop.svc.cluster.local.", RecordType::A).answers.len(), 1);
}

#[test]
fn a_second_server_on_the_same_address_is_told_so() {
    let scene = start("dns-twice", &[], |_, _, _| {});
    let mut options = Options::new(vec!["10.96.0.10".parse().unwrap()]);
    options.resolv_conf = scene.laboratory.directory().join("none");
    let error = scene.node.run(|| ClusterDns::open(options)).err().expect("an error").to_string();
    assert!(error.contains("another server"), "{error}");
}

#[test]
fn the_cluster_is_followed() {
    let laboratory = Laboratory::new("dns-follow");
    let node = laboratory.host("node");
    let api = client::fake::FakeApi::new();
    let stop = CancellationToken::new();
    let mut options = Options::new(vec!["10.96.0.10".parse().unwrap()]);
    options.resolv_conf = resolv_conf(&laboratory, &[]);
    let dns = node.run(|| ClusterDns::open(options)).expect("open");
    let (served, token) = (api.clone(), stop.clone());
    let thread = node.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let informers = client::Informers::new(served.client(), token.clone());
            tokio::spawn(async move { dns.run(&informers, token).await }).await.unwrap().unwrap();
        });
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let services = client::Api::<k8s_openapi::api::core::v1::Service>::namespaced(api.client(), "shop");
        let object = json!({"metadata": {"name": "web"}, "spec": {"clusterIPs": ["10.96.0.7"]}});
        services.create(&Default::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    });
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        let answer = ask(&node, "web.shop.svc.cluster.local.", RecordType::A);
        if answer.answers.len() == 1 {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{answer}");
        std::thread::sleep(Duration::from_millis(10));
    }
    stop.cancel();
    thread.join().unwrap();
}
