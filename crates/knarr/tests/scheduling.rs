//! The scheduler of a real server, on nodes that nobody stands behind: what upstream's tests of `sig-scheduling` look at.
//!
//! Source of the scenarios: Kubernetes, `test/e2e/scheduling`.

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::{Value, json};
use testkit::{RealCluster, SimulatedNodes, real_cluster::Settings, simulated_nodes::Play};

/// The binary under test: cargo's, or another build that `KNARR_BINARY` names.
fn binary() -> PathBuf {
    std::env::var_os("KNARR_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_knarr").into(), PathBuf::from)
}

/// A control plane, and nodes from `simulated-0` on.
struct World {
    cluster: RealCluster,
    _nodes: SimulatedNodes,
}

impl World {
    fn start(nodes: usize) -> Self {
        let cluster = RealCluster::start(&Settings { binary: &binary(), registry: None, control_plane_only: true });
        let simulated = SimulatedNodes::start(&cluster.kubeconfig(), nodes, Play::Run);
        cluster.eventually("the nodes", || (cluster.kubectl(["get", "nodes", "--output=name"]).lines().count() == nodes).then_some(()));
        Self { cluster, _nodes: simulated }
    }

    fn create(&self, objects: &[Value]) {
        self.cluster.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string());
    }

    fn get(&self, words: &[&str]) -> Value {
        let words = ["get"].iter().chain(words).copied().chain(["--output=json"]);
        serde_json::from_str(&self.cluster.kubectl(words)).expect("JSON")
    }

    /// Where a pod is; empty while it is nowhere.
    fn node_of(&self, pod: &str) -> String {
        self.get(&["pod", pod])["spec"]["nodeName"].as_str().unwrap_or_default().to_owned()
    }

    fn wait_for_node(&self, pod: &str) -> String {
        self.cluster.eventually(&format!("a node for {pod}"), || Some(self.node_of(pod)).filter(|node| !node.is_empty()))
    }

    /// Waits until a pod is told that it fits nowhere, and why.
    fn refusal_of(&self, pod: &str) -> String {
        self.cluster.eventually(&format!("the refusal of {pod}"), || {
            let condition = condition_of(&self.get(&["pod", pod]), "PodScheduled")?;
            (condition["reason"] == "Unschedulable").then(|| condition["message"].as_str().unwrap_or_default().to_owned())
        })
    }

    fn patch_node(&self, node: &str, status: bool, patch: &Value) {
        let mut words = vec!["patch".to_owned(), "node".to_owned(), node.to_owned(), "--type=merge".to_owned(), format!("--patch={patch}")];
        if status {
            words.push("--subresource=status".to_owned());
        }
        self.cluster.kubectl(words);
    }
}

fn condition_of(pod: &Value, kind: &str) -> Option<Value> {
    pod["status"]["conditions"].as_array().into_iter().flatten().find(|condition| condition["type"] == kind).cloned()
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

fn pod(name: &str, extra: &Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "nothing"}]}});
    merge(&mut pod, extra);
    pod
}

/// What asks for an amount of a resource that upstream's tests make up.
fn fake_cpu(amount: &str) -> Value {
    let amount = json!({"example.com/fakecpu": amount});
    json!([{"name": "c", "image": "nothing", "resources": {"requests": amount, "limits": amount}}])
}

fn priority_class(name: &str, value: i32) -> Value {
    json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value})
}

/// Upstream's conformance test "runs ReplicaSets to verify preemption running path": of three sets that fill a node the two least
/// important make room, once; what their sets make in their place displaces nobody.
#[test]
fn sets_of_lesser_importance_make_room_once_and_are_not_driven_out_again() {
    let world = World::start(2);
    world.patch_node("simulated-0", true, &json!({"status": {"capacity": {"example.com/fakecpu": "1000"}, "allocatable": {"example.com/fakecpu": "1000"}}}));
    let classes: Vec<Value> = (1..=4).map(|value| priority_class(&format!("p{value}"), value)).collect();
    world.create(&classes);
    let spec = |number: i32, amount: &str| json!({"priorityClassName": format!("p{number}"), "nodeSelector": {"kubernetes.io/hostname": "simulated-0"}, "terminationGracePeriodSeconds": 0, "containers": fake_cpu(amount)});
    for (number, amount) in [(1, "200"), (2, "300"), (3, "450")] {
        let labels = json!({"name": format!("pod{number}")});
        let template = json!({"metadata": {"labels": labels}, "spec": spec(number, amount)});
        world.create(&[json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": format!("rs-pod{number}")}, "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}})]);
        world.cluster.kubectl(["wait", "--for=jsonpath={.status.availableReplicas}=1", &format!("rs/rs-pod{number}"), "--timeout=180s"]);
    }
    // Each pod a set makes is an event of the set.
    let made = || -> BTreeMap<String, usize> {
        let events = world.get(&["events", "--field-selector=reason=SuccessfulCreate"]);
        let mut made: BTreeMap<String, usize> = BTreeMap::new();
        for event in events["items"].as_array().into_iter().flatten() {
            *made.entry(event["involvedObject"]["name"].as_str().unwrap_or_default().to_owned()).or_default() += event["count"].as_u64().map_or(1, |count| count as usize);
        }
        made
    };
    let expected = |first: usize, second: usize, third: usize| BTreeMap::from([("rs-pod1".to_owned(), first), ("rs-pod2".to_owned(), second), ("rs-pod3".to_owned(), third)]);
    assert_eq!(made(), expected(1, 1, 1));

    world.create(&[pod("pod4", &json!({"spec": spec(4, "500")}))]);
    assert_eq!(world.wait_for_node("pod4"), "simulated-0");
    world.cluster.eventually("the pods in place of the displaced", || (made() == expected(2, 2, 1)).then_some(()));
    // They are asked about, refused, and asked again whenever a pod goes: nobody else may have to go for them.
    for number in [1, 2] {
        let waiting = world.get(&["pods", &format!("--selector=name=pod{number}")]);
        let name = waiting["items"][0]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let refusal = world.refusal_of(&name);
        assert!(refusal.contains("Insufficient example.com/fakecpu"), "{refusal}");
    }
    world.cluster.kubectl(["delete", "pod", "pod4"]);
    for number in [1, 2] {
        world.cluster.kubectl(["wait", "--for=jsonpath={.status.availableReplicas}=1", &format!("rs/rs-pod{number}"), "--timeout=180s"]);
    }
    assert_eq!(made(), expected(2, 2, 1), "with room for all, nobody was displaced a second time");
}

/// Upstream's conformance tests of basic preemption, of critical pods and of the condition of who is displaced.
#[test]
fn who_is_displaced_is_told_why_and_the_node_is_promised_until_it_is_free() {
    let world = World::start(1);
    world.patch_node("simulated-0", true, &json!({"status": {"capacity": {"example.com/fakecpu": "3"}, "allocatable": {"example.com/fakecpu": "3"}}}));
    world.create(&[priority_class("low", 1), priority_class("middle", 5), priority_class("high", 10)]);
    let asking = |name: &str, class: &str, extra: Value| {
        let mut pod = pod(name, &json!({"spec": {"priorityClassName": class, "containers": fake_cpu("1")}}));
        merge(&mut pod, &extra);
        pod
    };
    // A finalizer keeps who is displaced for as long as the test looks.
    let held = json!({"metadata": {"finalizers": ["example.com/held"]}});
    world.create(&[asking("low", "low", held), asking("middle-1", "middle", json!({})), asking("middle-2", "middle", json!({}))]);
    for name in ["low", "middle-1", "middle-2"] {
        world.cluster.kubectl(["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=180s"]);
    }
    world.create(&[asking("high", "high", json!({}))]);
    let nominated = |pod: &str| Some(world.get(&["pod", pod])["status"]["nominatedNodeName"].as_str()?.to_owned());
    assert_eq!(world.cluster.eventually("the node that is promised", || nominated("high")), "simulated-0");
    let displaced = world.cluster.eventually("the displaced pod's condition", || condition_of(&world.get(&["pod", "low"]), "DisruptionTarget"));
    assert_eq!((&displaced["status"], &displaced["reason"]), (&json!("True"), &json!("PreemptionByScheduler")));
    assert!(world.get(&["pod", "low"])["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(world.node_of("high"), "");
    // Someone less important does not get the room that is being made, nor displaces anybody of his own importance.
    world.create(&[asking("latecomer", "middle", json!({}))]);
    let refusal = world.refusal_of("latecomer");
    assert!(refusal.contains("Insufficient example.com/fakecpu"), "{refusal}");
    world.cluster.kubectl(["patch", "pod", "low", "--type=merge", "--patch={\"metadata\":{\"finalizers\":null}}"]);
    assert_eq!(world.wait_for_node("high"), "simulated-0");
    assert_eq!((world.node_of("latecomer"), world.get(&["pods"])["items"].as_array().map(Vec::len)), (String::new(), Some(4)));

    // A critical pod displaces the least important of them.
    let critical = asking("critical", "system-cluster-critical", json!({"metadata": {"namespace": "kube-system"}}));
    world.create(&[critical]);
    world.cluster.eventually("the critical pod's node", || {
        let pod = world.get(&["pod", "critical", "--namespace=kube-system"]);
        pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()).map(str::to_owned)
    });
    let left: Vec<Value> = world.get(&["pods"])["items"].as_array().cloned().unwrap_or_default();
    let running = |name: &str| left.iter().any(|pod| pod["metadata"]["name"] == name && pod["spec"]["nodeName"] == "simulated-0" && pod["metadata"]["deletionTimestamp"].is_null());
    assert!(running("high"), "the more important one stays");
    assert_eq!([running("middle-1"), running("middle-2")].iter().filter(|runs| **runs).count(), 1, "one of the less important went");
}

/// Upstream's tests of scheduling gates.
#[test]
fn a_gated_pod_is_not_looked_at_until_its_last_gate_is_open() {
    let world = World::start(1);
    world.create(&[pod("gated", &json!({"spec": {"schedulingGates": [{"name": "example.com/a"}, {"name": "example.com/b"}]}}))]);
    let condition = world.cluster.eventually("the condition of a gated pod", || condition_of(&world.get(&["pod", "gated"]), "PodScheduled"));
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("SchedulingGated")));
    let open = |gates: &str| world.cluster.kubectl(["patch", "pod", "gated", "--type=merge", &format!("--patch={{\"spec\":{{\"schedulingGates\":{gates}}}}}")]);
    open(r#"[{"name":"example.com/b"}]"#);
    // Whoever comes later has its node, and the gated one is where it was.
    world.create(&[pod("later", &json!({}))]);
    world.wait_for_node("later");
    assert_eq!(world.node_of("gated"), "");
    open("[]");
    assert_eq!(world.wait_for_node("gated"), "simulated-0");
}

/// Upstream's conformance tests of taints: pods leave at once, after the time that they tolerate, or stay.
#[test]
fn a_tainted_node_is_left_by_who_does_not_tolerate_it_for_as_long_as_it_is_tolerated() {
    let world = World::start(1);
    let tolerating = |seconds: Value| {
        let mut toleration = json!({"key": "example.com/evict", "operator": "Exists", "effect": "NoExecute"});
        if !seconds.is_null() {
            toleration["tolerationSeconds"] = seconds;
        }
        json!({"spec": {"tolerations": [toleration]}})
    };
    world.create(&[
        pod("none", &json!({})),
        pod("short", &tolerating(json!(1))),
        pod("long", &tolerating(json!(3600))),
        pod("ever", &tolerating(Value::Null)),
    ]);
    let names = || -> Vec<String> {
        let pods = world.get(&["pods"]);
        pods["items"].as_array().into_iter().flatten().filter_map(|pod| Some(pod["metadata"]["name"].as_str()?.to_owned())).collect()
    };
    world.cluster.kubectl(["wait", "--for=condition=Ready", "pods", "--all", "--timeout=180s"]);
    world.cluster.kubectl(["taint", "node", "simulated-0", "example.com/evict=now:NoExecute"]);
    world.cluster.eventually("who does not tolerate it to go", || (names() == ["ever", "long"]).then_some(()));
    // Whoever tolerates it may come, also for a time; others wait until it is gone.
    world.create(&[pod("guest", &tolerating(json!(3600))), pod("stranger", &json!({}))]);
    world.wait_for_node("guest");
    let refusal = world.refusal_of("stranger");
    assert!(refusal.contains("had untolerated taint"), "{refusal}");
    world.cluster.kubectl(["taint", "node", "simulated-0", "example.com/evict-"]);
    world.wait_for_node("stranger");
    // Those that were to go in an hour need not any more, and are told.
    world.cluster.eventually("the reprieve", || {
        let events = world.get(&["events", "--field-selector=involvedObject.name=long,reason=TaintManagerEviction"]);
        let told = events["items"].as_array()?.iter().any(|event| event["message"].as_str().is_some_and(|message| message.starts_with("Cancelling deletion")));
        told.then_some(())
    });
}

/// Upstream's conformance tests of predicates: selectors, host ports, requests; and that defaults of a LimitRange count as requests.
#[test]
fn pods_go_where_selectors_ports_and_requests_allow() {
    let world = World::start(2);
    // A label that no node has yet.
    let picky = json!({"spec": {"nodeSelector": {"example.com/kind": "chosen"}}});
    world.create(&[pod("picky", &picky)]);
    let refusal = world.refusal_of("picky");
    assert!(refusal.starts_with("0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."), "{refusal}");
    world.cluster.kubectl(["label", "node", "simulated-1", "example.com/kind=chosen"]);
    assert_eq!(world.wait_for_node("picky"), "simulated-1");

    // A port of one address, or of another protocol, leaves the others; all addresses leave none.
    let on = |address: &str, protocol: &str| {
        let port = json!({"containerPort": 8080, "hostPort": 54321, "hostIP": address, "protocol": protocol});
        json!({"spec": {"nodeSelector": {"example.com/kind": "chosen"}, "containers": [{"name": "c", "image": "nothing", "ports": [port]}]}})
    };
    for (name, address, protocol) in [("port-1", "127.0.0.1", "TCP"), ("port-2", "127.0.0.2", "TCP"), ("port-3", "127.0.0.1", "UDP")] {
        world.create(&[pod(name, &on(address, protocol))]);
        assert_eq!(world.wait_for_node(name), "simulated-1");
    }
    world.create(&[pod("port-4", &on("0.0.0.0", "TCP"))]);
    let refusal = world.refusal_of("port-4");
    assert!(refusal.contains("1 node(s) didn't have free ports for the requested pod ports"), "{refusal}");
    world.cluster.kubectl(["delete", "pod", "port-1", "port-2"]);
    assert_eq!(world.wait_for_node("port-4"), "simulated-1");

    // Who asks for nothing is given what the namespace's limits say, and must find that much.
    world.cluster.kubectl(["create", "namespace", "limited"]);
    world.cluster.eventually("the namespace's account", || world.cluster.try_kubectl(["get", "serviceaccount", "default", "--namespace=limited"]));
    let limits = json!([{"type": "Container", "defaultRequest": {"cpu": "40"}, "default": {"cpu": "50"}, "max": {"cpu": "60"}}]);
    world.create(&[
        json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "limits", "namespace": "limited"}, "spec": {"limits": limits}}),
    ]);
    let in_limits = json!({"metadata": {"namespace": "limited"}});
    world.create(&[pod("first", &in_limits), pod("second", &in_limits), pod("third", &in_limits)]);
    let limited = || world.get(&["pods", "--namespace=limited"])["items"].as_array().cloned().unwrap_or_default();
    let placed = world.cluster.eventually("two of three pods on the nodes", || {
        let pods = limited();
        let nodes: Vec<String> = pods.iter().filter_map(|pod| Some(pod["spec"]["nodeName"].as_str()?.to_owned())).collect();
        let refused = pods.iter().filter_map(|pod| condition_of(pod, "PodScheduled")).any(|condition| condition["message"].as_str().is_some_and(|message| message.contains("2 Insufficient cpu")));
        (nodes.len() == 2 && refused).then_some(nodes)
    });
    assert_ne!(placed[0], placed[1], "each node has room for one");
    assert_eq!(limited()[0]["spec"]["containers"][0]["resources"], json!({"requests": {"cpu": "40"}, "limits": {"cpu": "50"}}));
}
