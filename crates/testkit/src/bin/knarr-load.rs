//! Load that `cargo xtask bench` puts on a cluster, and the times that it took, printed as one JSON object.
//!
//! - `knarr-load objects NAMESPACE COUNT`: that many config maps of 1 KiB, to be listed
//! - `knarr-load watchers COUNT ROUNDS`: that many watches on connections of their own; how long after each write all have seen it
//! - `knarr-load pods IMAGE ONE_BY_ONE AT_ONCE`: pods made one at a time, from the request to Ready; then many at once, until all run
//! - `knarr-load apply NAMESPACE COUNT ROUNDS`: that many config maps applied by the server, and applied again unchanged; objects a second
//! - `knarr-load definitions COUNT`: that many definitions of custom resources
//! - `knarr-load nodes COUNT`: that many nodes that nobody stands behind
//! - `knarr-load scale NODES PODS`: a Deployment from none to that many pods on simulated nodes, until all are available
//!
//! The cluster is that of `KUBECONFIG`.

use std::time::{Duration, Instant};

use api::core::v1::{ConfigMap, Pod};
use client::{Api, DeleteParams, FeedEvent, ListParams, Patch, PatchParams, PostParams, Request, Selection, Source, WatchParams, feed};
use futures::{StreamExt, TryStreamExt, io::AsyncBufReadExt, stream};
use k8s_openapi::api::apps::v1::Deployment;
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
        ["scale", nodes, pods] => scale(nodes.parse()?, pods.parse()?).await?,
        _ => {
            let usage = "usage: knarr-load objects NAMESPACE COUNT | watchers COUNT ROUNDS | pods IMAGE ONE_BY_ONE AT_ONCE | apply NAMESPACE COUNT ROUNDS | definitions COUNT | nodes COUNT | scale NODES PODS";
            return Err(usage.into());
        }
    };
    println!("{measured}");
    Ok(())
}
