//! Extenders, played by a few lines of HTTP.

use std::{collections::BTreeMap, sync::Arc};

use api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpListener,
};

use crate::{
    SchedulerOptions,
    cluster::Cluster,
    extender::{self, EXTENDER, Extender},
    pod_info::PodInfo,
    preemption::{self, Plan},
};

/// Answers by verb; keeps what it was asked.
#[derive(Clone)]
struct Played {
    address: String,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Played {
    async fn start(answers: Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let played = Self { address: format!("http://{}/scheduler", listener.local_addr().unwrap()), asked: Arc::default() };
        let (asked, answers) = (played.asked.clone(), Arc::new(answers));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, asked.clone(), answers.clone()));
            }
        });
        played
    }

    /// Behind TLS, with a certificate of this authority. Who shows no client certificate of it is not answered.
    async fn start_secure(authority: &pki::authority::ClusterAuthority, answers: Value) -> Self {
        let names = pki::AlternativeNames::from_hosts(["127.0.0.1", "extender.example"]);
        let credential = authority.issue_server("extender", &names, jiff::Timestamp::now()).unwrap();
        let certificate = pki::tls::SwappableCertificate::new(&credential).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(pki::tls::server_config(certificate, &[authority.certificate().clone()]).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let played = Self { address: format!("https://{}/scheduler", listener.local_addr().unwrap()), asked: Arc::default() };
        let (asked, answers) = (played.asked.clone(), Arc::new(answers));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, asked, answers) = (acceptor.clone(), asked.clone(), answers.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    if stream.get_ref().1.peer_certificates().is_some() {
                        serve(stream, asked, answers).await;
                    }
                });
            }
        });
        played
    }

    /// Scheduler options with this extender, which filters, scores, binds and preempts, and what else the settings say.
    fn options(&self, extra: Value) -> SchedulerOptions {
        let mut settings = json!({"urlPrefix": self.address, "filterVerb": "filter", "prioritizeVerb": "score", "weight": 5, "bindVerb": "bind", "preemptVerb": "preempt"});
        meta::patch::merge_patch(&mut settings, &extra);
        SchedulerOptions::from_json(json!({"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration", "extenders": [settings]})).unwrap()
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, asked: Arc<Mutex<Vec<(String, Value)>>>, answers: Arc<Value>) {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut verb, mut length, mut line) = (String::new(), 0, String::new());
        while stream.read_line(&mut line).await.is_ok_and(|read| read > 2) {
            if let Some(path) = line.strip_prefix("POST /scheduler/") {
                verb = path.split(' ').next().unwrap_or_default().to_owned();
            }
            if let Some(number) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = number.trim().parse().unwrap();
            }
            line.clear();
        }
        let mut body = vec![0; length];
        if verb.is_empty() || stream.read_exact(&mut body).await.is_err() {
            return;
        }
        let answer = answers[&verb].to_string();
        asked.lock().push((verb, serde_json::from_slice(&body).unwrap()));
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", answer.len());
        if stream.write_all(format!("{head}{answer}").as_bytes()).await.is_err() {
            return;
        }
    }
}

struct World {
    cluster: Cluster,
    nodes: BTreeMap<String, Arc<Node>>,
}

fn world(names: &[&str]) -> World {
    let mut world = World { cluster: Cluster::default(), nodes: BTreeMap::new() };
    for name in names {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": "1", "pods": "10"}}})).unwrap();
        world.cluster.apply_node(&node);
        world.nodes.insert((*name).to_owned(), Arc::new(node));
    }
    world
}

fn pod(name: &str, priority: i32, requests: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "n", "uid": name},
        "spec": {"priority": priority, "containers": [{"name": "c", "resources": {"requests": requests}}]},
    }))
    .unwrap()
}

async fn decide(options: &SchedulerOptions, world: &mut World, pod: &Pod) -> Result<String, crate::decision::Refusal> {
    let (info, nodes) = (Arc::new(PodInfo::of(pod)), &world.nodes);
    let slot = extender::decide(&options.extenders, &options.profiles[0], &info, pod, &mut world.cluster, &mut 0, |name| nodes.get(name).cloned()).await?;
    Ok(world.cluster.at(slot).unwrap().name.clone())
}

#[tokio::test]
async fn an_extender_refuses_nodes_and_prefers_others() {
    // Keys in any case, as Go reads them.
    let played = Played::start(json!({
        "filter": {"nodenames": ["b", "c"], "failedNodes": {"a": "too hot"}},
        "score": [{"Host": "b", "Score": 1}, {"host": "c", "score": 10}],
    }))
    .await;
    let options = played.options(json!({"nodeCacheCapable": true}));
    assert_eq!(decide(&options, &mut world(&["a", "b", "c"]), &pod("p", 0, json!({"cpu": "1"}))).await.unwrap(), "c");
    let asked = played.asked.lock().clone();
    assert_eq!((asked[0].0.as_str(), &asked[0].1["NodeNames"], &asked[0].1["Pod"]["metadata"]["name"]), ("filter", &json!(["a", "b", "c"]), &json!("p")));
    assert_eq!((asked[1].0.as_str(), &asked[1].1["NodeNames"]), ("score", &json!(["b", "c"])));
}

#[tokio::test]
async fn over_tls_both_sides_prove_who_they_are() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let now = jiff::Timestamp::now();
    let authority = pki::authority::ClusterAuthority::open_or_create(ours.path(), now).unwrap();
    let stranger = pki::authority::ClusterAuthority::open_or_create(theirs.path(), now).unwrap();
    let played = Played::start_secure(&authority, json!({"filter": {"nodenames": ["b"]}, "score": []})).await;
    let client = authority.issue_client(&pki::Subject::new("scheduler", ["nobody"]), jiff::SignedDuration::from_hours(1), now).unwrap();
    let file = |name: &str, text: &str| {
        let path = ours.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_string_lossy().into_owned()
    };
    let (certificate, key) = (file("client.crt", client.chain_pem()), file("client.key", &client.key().to_pem()));
    let known = file("known.crt", authority.certificate_pem());
    let unknown = file("unknown.crt", stranger.certificate_pem());
    let ask = async |tls: Value| {
        let options = played.options(json!({"nodeCacheCapable": true, "enableHTTPS": true, "tlsConfig": tls}));
        decide(&options, &mut world(&["a", "b"]), &pod("p", 0, json!({"cpu": "1"}))).await
    };
    assert_eq!(ask(json!({"caFile": known, "certFile": certificate, "keyFile": key})).await.unwrap(), "b");
    // Its certificate is for the address, and for another name that its user may ask for.
    assert_eq!(ask(json!({"caFile": known, "certFile": certificate, "keyFile": key, "serverName": "extender.example"})).await.unwrap(), "b");
    // Its users may also not care who answers.
    assert_eq!(ask(json!({"insecure": true, "certFile": certificate, "keyFile": key})).await.unwrap(), "b");
    let asked = played.asked.lock().len();
    assert_eq!(asked, 3, "one node is left, which need not be scored");
    for (what, tls) in [
        ("a name that is not the extender's", json!({"caFile": known, "certFile": certificate, "keyFile": key, "serverName": "other.example"})),
        ("an extender of a stranger", json!({"caFile": unknown, "certFile": certificate, "keyFile": key})),
        ("no certificate of our own", json!({"caFile": known})),
    ] {
        let refusal = ask(tls).await.expect_err(what);
        assert!(refusal.failed, "{what}: {}", refusal.message());
    }
    assert_eq!(played.asked.lock().len(), asked, "nobody else was heard");
}

#[tokio::test]
async fn one_that_keeps_no_nodes_is_sent_them_whole() {
    let played = Played::start(json!({"filter": {"Nodes": {"items": [{"metadata": {"name": "b"}}]}}})).await;
    assert_eq!(decide(&played.options(json!({})), &mut world(&["a", "b"]), &pod("p", 0, json!({}))).await.unwrap(), "b");
    assert_eq!(played.asked.lock()[0].1["Nodes"]["items"][1]["status"]["allocatable"]["cpu"], "1");
}

#[tokio::test]
async fn reasons_of_an_extender_are_told_and_only_some_can_be_helped() {
    let played = Played::start(json!({"filter": {"NodeNames": [], "FailedNodes": {"a": "too hot"}, "FailedAndUnresolvableNodes": {"b": "too old"}}})).await;
    let mut world = world(&["a", "b"]);
    let refusal = decide(&played.options(json!({"nodeCacheCapable": true})), &mut world, &pod("p", 0, json!({}))).await.unwrap_err();
    assert_eq!(refusal.message(), "0/2 nodes are available: 1 too hot, 1 too old.");
    assert_eq!((refusal.not_now, refusal.refused_by), (vec![world.cluster.node("a").unwrap().slot], vec![EXTENDER]));
}

#[tokio::test]
async fn an_extender_that_does_not_answer_holds_pods_up_unless_it_may_be_passed_over() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let played = Played { address, asked: Arc::default() };
    let refusal = decide(&played.options(json!({})), &mut world(&["a"]), &pod("p", 0, json!({}))).await.unwrap_err();
    assert!(refusal.failed && refusal.message().contains("gave no answer"), "{}", refusal.message());
    assert_eq!(decide(&played.options(json!({"ignorable": true})), &mut world(&["a"]), &pod("p", 0, json!({}))).await.unwrap(), "a");
    let says_no = Played::start(json!({"filter": {"Error": "not today"}})).await;
    let refusal = decide(&says_no.options(json!({})), &mut world(&["a"]), &pod("p", 0, json!({}))).await.unwrap_err();
    assert!(refusal.failed && refusal.message().ends_with("says: not today"), "{}", refusal.message());
}

#[tokio::test]
async fn resources_it_manages_decide_whom_it_cares_for() {
    let played = Played::start(json!({"filter": {"NodeNames": ["a"]}})).await;
    let options = played.options(json!({"nodeCacheCapable": true, "managedResources": [{"name": "example.com/gpu", "ignoredByScheduler": true}]}));
    let extender: &Extender = &options.extenders[0];
    let wants = pod("p", 0, json!({"example.com/gpu": "1"}));
    assert!(extender.cares_for(&wants) && !extender.cares_for(&pod("q", 0, json!({"cpu": "1"}))));
    // No node has any, which is the extender's business alone.
    assert_eq!(decide(&options, &mut world(&["a"]), &wants).await.unwrap(), "a");
}

#[tokio::test]
async fn an_extender_binds_and_says_whom_to_displace() {
    let played = Played::start(json!({
        "bind": {"Error": ""},
        "preempt": {"NodeNameToMetaVictims": {"b": {"Pods": [{"UID": "y"}], "NumPDBViolations": 0}}},
    }))
    .await;
    let options = played.options(json!({"nodeCacheCapable": true}));
    options.extenders[0].bind(&PodInfo::of(&pod("p", 0, json!({}))), "a").await.unwrap();
    assert_eq!(played.asked.lock()[0].1, json!({"PodName": "p", "PodNamespace": "n", "PodUID": "p", "Node": "a"}));
    let mut world = world(&["a", "b"]);
    for (name, node) in [("x", "a"), ("y", "b")] {
        world.cluster.place(Arc::new(PodInfo::of(&pod(name, 1, json!({"cpu": "1"})))), node);
    }
    let slot = |name: &str| world.cluster.node(name).unwrap();
    let plans: Vec<Plan> = ["a", "b"].map(|name| Plan::new(slot(name).slot, slot(name).pods.values().cloned().collect(), 0)).into();
    let left = extender::narrow_plans(&options.extenders, &pod("p", 5, json!({})), plans, &world.cluster, |_| None).await.unwrap();
    let best = preemption::best(left).unwrap();
    assert_eq!((best.slot, best.victims[0].name.as_str()), (slot("b").slot, "y"));
    assert_eq!(played.asked.lock()[1].1["NodeNameToMetaVictims"]["a"], json!({"Pods": [{"UID": "x"}], "NumPDBViolations": 0}));
}
