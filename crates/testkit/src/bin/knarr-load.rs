//! Load that `cargo xtask bench` puts on a cluster, and the times that it took, printed as one JSON object.
//!
//! - `knarr-load objects NAMESPACE COUNT`: that many config maps of 1 KiB, to be listed
//! - `knarr-load watchers COUNT ROUNDS`: that many watches on connections of their own; how long after each write all have seen it
//! - `knarr-load pods IMAGE ONE_BY_ONE AT_ONCE`: pods made one at a time, from the request to Ready; then many at once, until all run
//! - `knarr-load apply NAMESPACE COUNT ROUNDS`: that many config maps applied by the server, and applied again unchanged; objects a second
//! - `knarr-load definitions COUNT`: that many definitions of custom resources
//! - `knarr-load nodes COUNT`: that many nodes that nobody stands behind
//! - `knarr-load full NODES PODS`: that many nodes, and pods of ReplicaSets that are scheduled and reported to run, all of real size
//! - `knarr-load scale NODES PODS`: a Deployment from none to that many pods on simulated nodes, until all are available
//!
//! The cluster is that of `KUBECONFIG`.

use std::time::{Duration, Instant};

use api::core::v1::{ConfigMap, Namespace, Node, Pod, ServiceAccount};
use client::{Api, DeleteParams, FeedEvent, ListParams, Patch, PatchParams, PostParams, Request, Selection, Source, WatchParams, feed};
use futures::{StreamExt, TryStreamExt, io::AsyncBufReadExt, stream};
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    coordination::v1::Lease,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;
use testkit::{SimulatedNodes, simulated_nodes::{self, Play}};
use tokio::sync::{mpsc, watch};

/// Where everything is made.
const NAMESPACE: &str = "default";

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

async fn connect() -> Outcome<client::Client> {
    let path = std::env::var("KUBECONFIG").map_err(|_| "KUBECONFIG must name a kubeconfig")?;
    Ok(client::connect(client::Kubeconfig::read(path.as_ref())?, "knarr-load")?)
}

fn config_map(name: &str) -> ConfigMap {
    ConfigMap { metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }, ..ConfigMap::default() }
}

fn milliseconds(times: &mut [Duration], share: f64) -> f64 {
    times.sort();
    let place = ((times.len().saturating_sub(1)) as f64 * share).round() as usize;
    times.get(place).copied().unwrap_or_default().as_secs_f64() * 1000.0
}

/// Reads a watch and says when it is open, and when it sees an object of each round's name.
async fn watch_one(client: client::Client, opened: mpsc::UnboundedSender<()>, seen: mpsc::UnboundedSender<Instant>) -> Outcome<()> {
    let parameters = WatchParams { label_selector: None, timeout: Some(290), ..WatchParams::default() };
    let request = Request::new(format!("/api/v1/namespaces/{NAMESPACE}/configmaps")).watch(&parameters, "0")?;
    let mut lines = Box::pin(client.request_stream(request).await?);
    opened.send(())?;
    let mut line = Vec::new();
    loop {
        line.clear();
        if lines.read_until(b'\n', &mut line).await? == 0 {
            return Err("a watch ended early".into());
        }
        // Looking for the name spares the client, which shares the machine, the reading of JSON.
        if line.windows(12).any(|part| part == b"\"load-round-") {
            seen.send(Instant::now())?;
        }
    }
}

async fn watchers(count: usize, rounds: usize) -> Outcome<serde_json::Value> {
    let client = connect().await?;
    let (opened, mut is_open) = mpsc::unbounded_channel();
    let (seen, mut sightings) = mpsc::unbounded_channel();
    for _ in 0..count {
        tokio::spawn(watch_one(client.clone(), opened.clone(), seen.clone()));
    }
    for _ in 0..count {
        is_open.recv().await.ok_or("no watch could be opened")?;
    }
    let api: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
    let mut last = Vec::new();
    for round in 0..rounds {
        let name = format!("load-round-{round}");
        api.create(&PostParams::default(), &config_map(&name)).await?;
        let written = Instant::now();
        let mut latest = written;
        for _ in 0..count {
            let sighting = tokio::time::timeout(Duration::from_secs(30), sightings.recv()).await.map_err(|_| "a watch saw nothing for 30 s")?;
            latest = latest.max(sighting.ok_or("all watches ended")?);
        }
        last.push(latest - written);
    }
    for round in 0..rounds {
        api.delete(&format!("load-round-{round}"), &DeleteParams::default()).await?;
    }
    Ok(json!({ "median_ms": milliseconds(&mut last, 0.5), "worst_ms": milliseconds(&mut last, 1.0) }))
}

async fn objects(namespace: &str, count: usize) -> Outcome<serde_json::Value> {
    let api: Api<ConfigMap> = Api::namespaced(connect().await?, namespace);
    let make = |number: usize| {
        let api = api.clone();
        async move {
            let mut object = config_map(&format!("load-{number}"));
            object.data = Some([("key".to_owned(), "x".repeat(1024))].into());
            api.create(&PostParams::default(), &object).await.map(drop)
        }
    };
    let started = Instant::now();
    stream::iter(0..count).map(make).buffer_unordered(16).try_collect::<()>().await?;
    Ok(json!({ "all_ms": started.elapsed().as_secs_f64() * 1000.0 }))
}

fn pod(name: &str, image: &str) -> Outcome<Pod> {
    Ok(serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{ "name": "c", "image": image, "command": ["/bin/sleep", "3600"], "imagePullPolicy": "IfNotPresent" }],
        },
    }))?)
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

async fn pods(image: &str, one_by_one: usize, at_once: usize) -> Outcome<serde_json::Value> {
    let client = connect().await?;
    let api: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let (ready, mut is_seen_ready) = watch::channel(std::collections::BTreeSet::new());
    let source = Source::new::<Pod>(client, &(), Selection::in_namespace(NAMESPACE));
    tokio::spawn(feed::run::<Pod>(source, move |event| {
        let note = |pod: &Pod, is_there: bool| {
            let name = pod.metadata.name.clone().unwrap_or_default();
            ready.send_if_modified(|ready| if is_there && is_ready(pod) { ready.insert(name) } else { ready.remove(&name) });
        };
        match event {
            FeedEvent::Replaced { objects, .. } => objects.iter().for_each(|pod| note(pod, true)),
            FeedEvent::Put(pod) => note(&pod, true),
            FeedEvent::Deleted(pod) => note(&pod, false),
            FeedEvent::Progress(_) => {}
        }
    }));
    let patience = Duration::from_secs(120);
    let mut single = Vec::new();
    for number in 0..one_by_one {
        let name = format!("load-single-{number}");
        let asked = Instant::now();
        api.create(&PostParams::default(), &pod(&name, image)?).await?;
        tokio::time::timeout(patience, is_seen_ready.wait_for(|ready| ready.contains(&name))).await.map_err(|_| format!("{name} is not Ready"))??;
        single.push(asked.elapsed());
        api.delete(&name, &DeleteParams::default()).await?;
        tokio::time::timeout(patience, is_seen_ready.wait_for(|ready| !ready.contains(&name))).await.map_err(|_| format!("{name} does not go"))??;
    }
    let names: Vec<String> = (0..at_once).map(|number| format!("load-many-{number}")).collect();
    let asked = Instant::now();
    for name in &names {
        api.create(&PostParams::default(), &pod(name, image)?).await?;
    }
    tokio::time::timeout(patience, is_seen_ready.wait_for(|ready| names.iter().all(|name| ready.contains(name))))
        .await
        .map_err(|_| "not all pods run")??;
    let all = asked.elapsed();
    for name in &names {
        api.delete(name, &DeleteParams::default()).await?;
    }
    tokio::time::timeout(patience, is_seen_ready.wait_for(|ready| ready.is_empty())).await.map_err(|_| "the pods do not go")??;
    Ok(json!({ "single_median_ms": milliseconds(&mut single, 0.5), "single_worst_ms": milliseconds(&mut single, 1.0), "all_ms": all.as_secs_f64() * 1000.0 }))
}

/// Applies a manifest again and again, as a deploying pipeline does, from as many connections as kubectl has workers.
async fn apply(namespace: &str, count: usize, rounds: usize) -> Outcome<serde_json::Value> {
    const AT_ONCE: usize = 16;
    let maps: Api<ConfigMap> = Api::namespaced(connect().await?, namespace);
    let mut spent = Duration::ZERO;
    for round in 0..=rounds {
        let started = Instant::now();
        let all = stream::iter(0..count).map(|number| {
            let maps = maps.clone();
            async move {
                let name = format!("applied-{number}");
                let data = [("key".to_owned(), "x".repeat(256))].into();
                let map = ConfigMap { data: Some(data), ..config_map(&name) };
                maps.patch(&name, &PatchParams::apply("knarr-load"), &Patch::Apply(&map)).await.map(|_| ())
            }
        });
        all.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        // The first round makes them.
        if round > 0 {
            spent += started.elapsed();
        }
    }
    Ok(json!({"objects_per_second": (count * rounds) as f64 / spent.as_secs_f64()}))
}

/// Definitions with a schema of some size each, of a group of their own.
async fn definitions(count: usize) -> Outcome<serde_json::Value> {
    const AT_ONCE: usize = 16;
    let client = connect().await?;
    let properties: serde_json::Map<String, serde_json::Value> =
        (0..20).map(|number| (format!("field{number}"), json!({"type": "string", "description": "A field of a custom resource.", "maxLength": 64}))).collect();
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}});
    let all = stream::iter(0..count).map(|number| {
        let (client, schema) = (client.clone(), schema.clone());
        async move {
            let (plural, group) = (format!("kinds{number}"), format!("bench{}.example.com", number % 50));
            let definition = json!({
                "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": format!("{plural}.{group}")},
                "spec": {
                    "group": group, "scope": "Namespaced", "names": {"plural": plural, "kind": format!("Kind{number}")},
                    "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
                },
            });
            let request = http::Request::post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions").header("content-type", "application/json");
            let request = request.body(serde_json::to_vec(&definition)?)?;
            client.request::<serde_json::Value>(request).await?;
            Outcome::Ok(())
        }
    });
    all.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    Ok(json!({"definitions": count}))
}

async fn nodes(count: usize) -> Outcome<serde_json::Value> {
    let api: Api<api::core::v1::Node> = Api::all(connect().await?);
    let started = Instant::now();
    let make = |number: usize| {
        let api = api.clone();
        async move { api.create(&PostParams::default(), &simulated_nodes::node(number)).await.map(drop) }
    };
    stream::iter(0..count).map(make).buffer_unordered(16).try_collect::<()>().await?;
    Ok(json!({ "all_ms": started.elapsed().as_secs_f64() * 1000.0 }))
}

/// A node as large as kubelets write them: conditions, addresses, what runs there, and the fifty images that are told of at most.
fn whole_node(number: usize) -> Outcome<Node> {
    let name = format!("full-{number}");
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({"type": kind, "status": status, "reason": reason, "message": message, "lastHeartbeatTime": now, "lastTransitionTime": now})
    };
    let image = |of: usize| {
        let repository = format!("registry.example.com/team-{}/service-{of}", of % 7);
        let digest = format!("{:064x}", of * 7919);
        json!({"names": [format!("{repository}@sha256:{digest}"), format!("{repository}:v1.{of}.0")], "sizeBytes": 48_000_000 + of * 1_000_003})
    };
    let amounts = json!({"cpu": "64", "memory": "263856244Ki", "ephemeral-storage": "209702892Ki", "hugepages-1Gi": "0", "hugepages-2Mi": "0", "pods": "110"});
    let address = format!("10.{}.{}.{}", 100 + number / 65536, number / 256 % 256, number % 256);
    Ok(serde_json::from_value(json!({
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name, "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux", "beta.kubernetes.io/arch": "amd64",
                "beta.kubernetes.io/os": "linux", "node.kubernetes.io/instance-type": "large", "topology.kubernetes.io/region": "region-1",
                "topology.kubernetes.io/zone": format!("zone-{}", number % 3),
            },
            "annotations": {"node.alpha.kubernetes.io/ttl": "0", "volumes.kubernetes.io/controller-managed-attach-detach": "true"},
        },
        "spec": {"podCIDR": format!("10.{}.{}.0/24", 192 + number / 256, number % 256), "providerID": format!("example://region-1/{number:017x}")},
        "status": {
            "capacity": amounts, "allocatable": amounts,
            "conditions": [
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
                condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
                condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
            ],
            "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            "nodeInfo": {
                "machineID": format!("{number:032x}"), "systemUUID": format!("{number:032x}"), "bootID": format!("{number:032x}"), "kernelVersion": "6.1.0-40-amd64",
                "osImage": "Debian GNU/Linux 12 (bookworm)", "containerRuntimeVersion": "containerd://2.1.4", "kubeletVersion": "v1.36.0", "kubeProxyVersion": "",
                "operatingSystem": "linux", "architecture": "amd64",
            },
            "images": (0..50).map(|of| image(number % 20 + of)).collect::<Vec<_>>(),
        },
    }))?)
}

/// A ReplicaSet of pods as people write them; its pods have a container, variables, and the volume of a token, which admission adds.
fn whole_set(number: usize, pods: usize) -> Outcome<ReplicaSet> {
    let name = format!("service-{number}-6dbb5896b5");
    let labels = json!({"app.kubernetes.io/name": format!("service-{number}"), "app.kubernetes.io/part-of": "shop", "pod-template-hash": "6dbb5896b5"});
    let variables: Vec<_> = [("LOG_LEVEL", "info"), ("DATABASE_HOST", "postgresql.databases.svc.cluster.local"), ("DATABASE_PORT", "5432"), ("FEATURES", "search,recommendations")]
        .iter()
        .map(|(name, value)| json!({"name": name, "value": value}))
        .chain([json!({"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}})])
        .collect();
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": pods, "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels, "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "9090"}},
                "spec": {"containers": [{
                    "name": "main", "image": format!("registry.example.com/team-1/service-{number}:v1.2.3"), "args": ["--config=/etc/service/config.yaml"],
                    "env": variables, "ports": [{"name": "http", "containerPort": 8080}, {"name": "metrics", "containerPort": 9090}],
                    "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
                    "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 10},
                }]},
            },
        },
    }))?)
}

/// What a kubelet says of a pod that runs.
fn whole_status(pod: &Pod, number: usize) -> serde_json::Value {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let condition = |kind: &str| json!({"type": kind, "status": "True", "observedGeneration": 1, "lastProbeTime": null, "lastTransitionTime": now});
    let image = pod.spec.as_ref().and_then(|spec| spec.containers.first()?.image.clone()).unwrap_or_default();
    let address = format!("10.{}.{}.{}", 128 + number / 65536, number / 256 % 256, number % 256);
    let conditions = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"].map(condition);
    json!({
        "phase": "Running", "observedGeneration": 1, "qosClass": "Burstable", "startTime": now, "podIP": address, "podIPs": [{"ip": address}],
        "hostIP": "10.100.0.1", "hostIPs": [{"ip": "10.100.0.1"}],
        "conditions": conditions,
        "containerStatuses": [{
            "name": "main", "ready": true, "started": true, "restartCount": 0, "image": image, "imageID": format!("registry.example.com/team-1/service@sha256:{:064x}", number % 1500),
            "containerID": format!("containerd://{number:064x}"), "state": {"running": {"startedAt": now}},
            "allocatedResources": {"cpu": "100m", "memory": "128Mi"}, "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
            "volumeMounts": [{"name": "kube-api-access", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true, "recursiveReadOnly": "Disabled"}],
        }],
    })
}

/// Nodes and pods of a large cluster: pods are made by their ReplicaSets, get their nodes from the scheduler, and are reported to run.
async fn full(node_count: usize, pod_count: usize) -> Outcome<serde_json::Value> {
    const AT_ONCE: usize = 16;
    const OF_A_SET: usize = 100;
    const NAMESPACES: usize = 10;
    let (client, new) = (connect().await?, PostParams::default());
    let started = Instant::now();
    let (nodes, leases) = (Api::<Node>::all(client.clone()), Api::<Lease>::namespaced(client.clone(), "kube-node-lease"));
    let make = |number: usize| {
        let (nodes, leases, new) = (nodes.clone(), leases.clone(), new.clone());
        async move {
            let created = nodes.create(&new, &whole_node(number)?).await?;
            let name = created.metadata.name.unwrap_or_default();
            let lease = json!({"metadata": {"name": name}, "spec": {"holderIdentity": name, "leaseDurationSeconds": 40}});
            leases.create(&new, &serde_json::from_value(lease)?).await?;
            Outcome::Ok(())
        }
    };
    stream::iter(0..node_count).map(make).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    let nodes_took = started.elapsed();
    let started = Instant::now();
    let (placed, mut to_report) = mpsc::unbounded_channel::<Pod>();
    let source = Source::new::<Pod>(client.clone(), &(), Selection::fields("spec.nodeName!="));
    tokio::spawn(feed::run::<Pod>(source, move |event| {
        let is_new = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()).is_none_or(|phase| phase == "Pending");
        // Where nobody receives any more, all are reported.
        match event {
            FeedEvent::Replaced { objects, .. } => objects.into_iter().filter(is_new).for_each(|pod| drop(placed.send(pod))),
            FeedEvent::Put(pod) if is_new(&pod) => drop(placed.send(pod)),
            FeedEvent::Put(_) | FeedEvent::Deleted(_) | FeedEvent::Progress(_) => {}
        }
    }));
    let namespaces: Vec<String> = (0..NAMESPACES).map(|number| format!("full-{number}")).collect();
    for name in &namespaces {
        let namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        Api::<Namespace>::all(client.clone()).create(&new, &namespace).await?;
        let accounts = Api::<ServiceAccount>::namespaced(client.clone(), name);
        while accounts.get_opt("default").await?.is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await; // Once per namespace; pods are refused before.
        }
    }
    for number in 0..pod_count.div_ceil(OF_A_SET) {
        let namespace = namespaces.get(number % NAMESPACES).map_or(NAMESPACE, String::as_str);
        let set = whole_set(number, OF_A_SET.min(pod_count - number * OF_A_SET))?;
        Api::<ReplicaSet>::namespaced(client.clone(), namespace).create(&new, &set).await?;
    }
    let reports = stream::unfold(&mut to_report, |placed| async { placed.recv().await.map(|pod| (pod, placed)) });
    let reports = reports.enumerate().map(|(number, pod)| {
        let client = client.clone();
        async move {
            let pods = Api::<Pod>::namespaced(client, pod.metadata.namespace.as_deref().unwrap_or_default());
            let status = Patch::Strategic(json!({"status": whole_status(&pod, number)}));
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            pods.patch_status(name, &PatchParams::default(), &status).await?;
            Outcome::Ok(pod.metadata.uid)
        }
    });
    let mut reported = std::collections::HashSet::new();
    let mut reports = std::pin::pin!(reports.buffer_unordered(2 * AT_ONCE));
    // A pod may be seen twice before its report is seen.
    while reported.len() < pod_count {
        let report = tokio::time::timeout(Duration::from_secs(120), reports.next()).await;
        let report = report.map_err(|_| format!("no pod got a node for two minutes; {} have one", reported.len()))?;
        reported.insert(report.ok_or("the watch of pods ended")??);
    }
    Ok(json!({"nodes_ms": nodes_took.as_secs_f64() * 1000.0, "pods_ms": started.elapsed().as_secs_f64() * 1000.0}))
}

async fn scale(node_count: usize, pod_count: i32) -> Outcome<serde_json::Value> {
    let path = std::env::var("KUBECONFIG").map_err(|_| "KUBECONFIG must name a kubeconfig")?;
    let _nodes = SimulatedNodes::start(path.as_ref(), node_count, Play::Run);
    let client = connect().await?;
    let node_api: Api<api::core::v1::Node> = Api::all(client.clone());
    while node_api.list(&ListParams::default()).await?.items.len() < node_count {
        tokio::time::sleep(Duration::from_millis(100)).await; // Before the measurement; how it waits does not matter.
    }
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let labels = json!({ "app": "scaled" });
    let deployment = json!({
        "metadata": { "name": "scaled" },
        "spec": { "replicas": 0, "selector": { "matchLabels": labels }, "template": {
            "metadata": { "labels": labels }, "spec": { "containers": [{ "name": "c", "image": "nothing" }] },
        } },
    });
    deployments.create(&PostParams::default(), &serde_json::from_value(deployment)?).await?;
    let (available, mut is_available) = watch::channel(0);
    let source = Source::new::<Deployment>(client, &(), Selection::in_namespace(NAMESPACE));
    tokio::spawn(feed::run::<Deployment>(source, move |event| {
        if let FeedEvent::Put(deployment) = event {
            available.send_replace(deployment.status.and_then(|status| status.available_replicas).unwrap_or_default());
        }
    }));
    let asked = Instant::now();
    deployments.patch("scaled", &PatchParams::default(), &Patch::Merge(json!({ "spec": { "replicas": pod_count } }))).await?;
    tokio::time::timeout(Duration::from_secs(120), is_available.wait_for(|count| *count == pod_count)).await.map_err(|_| "it does not settle")??;
    Ok(json!({ "settled_ms": asked.elapsed().as_secs_f64() * 1000.0 }))
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let measured = match *words {
        ["objects", namespace, count] => objects(namespace, count.parse()?).await?,
        ["watchers", count, rounds] => watchers(count.parse()?, rounds.parse()?).await?,
        ["pods", image, one_by_one, at_once] => pods(image, one_by_one.parse()?, at_once.parse()?).await?,
        ["apply", namespace, count, rounds] => apply(namespace, count.parse()?, rounds.parse()?).await?,
        ["definitions", count] => definitions(count.parse()?).await?,
        ["nodes", count] => nodes(count.parse()?).await?,
        ["full", nodes, pods] => full(nodes.parse()?, pods.parse()?).await?,
        ["scale", nodes, pods] => scale(nodes.parse()?, pods.parse()?).await?,
        _ => {
            let usage = "usage: knarr-load objects NAMESPACE COUNT | watchers COUNT ROUNDS | pods IMAGE ONE_BY_ONE AT_ONCE | apply NAMESPACE COUNT ROUNDS | definitions COUNT | nodes COUNT | full NODES PODS | scale NODES PODS";
            return Err(usage.into());
        }
    };
    println!("{measured}");
    Ok(())
}
