//! What a program with kube does, in the kubeconfig's namespace, which holds a pod `web` that serves a page.

use std::time::Duration;

use anyhow::{Context, ensure};
use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use k8s_openapi::api::{
    apps::v1::Deployment,
    coordination::v1::Lease,
    core::v1::{ConfigMap, Pod},
};
use kube::{
    Api, Client, Config,
    api::{AttachParams, DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, reflector, watcher},
};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{election::Contender, wire::Wire};

/// Runs everything.
pub async fn run() -> anyhow::Result<()> {
    let client = Client::try_default().await?;
    tokio::time::timeout(Duration::from_secs(120), everything(&client)).await.context("not done within two minutes")??;
    println!("all is well");
    Ok(())
}

async fn everything(client: &Client) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let names: Vec<_> = pods.list(&ListParams::default()).await?.items.into_iter().filter_map(|pod| pod.metadata.name).collect();
    ensure!(names == ["web"], "{names:?}");
    let missing = pods.get("none").await.err().context("there is no such pod")?;
    ensure!(matches!(&missing, kube::Error::Api(status) if status.code == 404 && status.reason == "NotFound"), "{missing}");
    informer(client, watcher::Config::default()).await.context("an informer")?;
    informer(client, watcher::Config::default().streaming_lists()).await.context("an informer whose list is a watch")?;
    cut_informer(client).await.context("an informer whose connection is cut")?;
    command(&pods).await.context("a command")?;
    log_and_port(&pods).await.context("a log and a port")?;
    applied(client).await.context("server-side apply")?;
    election(client).await.context("an election")
}

/// A cache that follows what happens.
async fn informer(client: &Client, config: watcher::Config) -> anyhow::Result<()> {
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let map = |name: &str| serde_json::from_value::<ConfigMap>(json!({"metadata": {"name": name, "labels": {"by": "test"}}, "data": {"a": "1"}}));
    maps.create(&PostParams::default(), &map("before")?).await?;
    let (reader, writer) = reflector::store();
    let events = reflector(writer, watcher(maps.clone(), config.labels("by=test"))).default_backoff();
    let mut events = std::pin::pin!(events);
    let data = |name: &str| reader.find(|map| map.metadata.name.as_deref() == Some(name)).map(|map| map.data.clone().unwrap_or_default());
    while data("before").is_none() {
        events.try_next().await?.context("the watch ended")?;
    }
    maps.create(&PostParams::default(), &map("map")?).await?;
    while data("map").is_none() {
        events.try_next().await?.context("the watch ended")?;
    }
    maps.patch("map", &PatchParams::default(), &Patch::Merge(json!({"data": {"a": "2"}}))).await?;
    while data("map").is_none_or(|data| data["a"] != "2") {
        events.try_next().await?.context("the watch ended")?;
    }
    // What ceases to match is gone.
    maps.patch("map", &PatchParams::default(), &Patch::Strategic(json!({"metadata": {"labels": {"by": "nobody"}}}))).await?;
    while data("map").is_some() {
        events.try_next().await?.context("the watch ended")?;
    }
    for name in ["before", "map"] {
        maps.delete(name, &DeleteParams::default()).await?;
    }
    while data("before").is_some() {
        events.try_next().await?.context("the watch ended")?;
    }
    Ok(())
}

/// Letters and digits in no order: what is kept of the past counts its bytes as they are packed, and this is not shortened.
fn noise(length: usize) -> String {
    // The numbers of Knuth's generator MMIX; its highest bits are its best.
    let mut state = 1u64;
    let any = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from((state >> 57) as u8)
    });
    any.filter(char::is_ascii_alphanumeric).take(length).collect()
}

/// An informer goes on by itself after its connection was cut, also where what it had seen is not kept any more.
async fn cut_informer(client: &Client) -> anyhow::Result<()> {
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let map = |name: &str| serde_json::from_value::<ConfigMap>(json!({"metadata": {"name": name, "labels": {"wire": ""}}, "data": {"a": ""}}));
    let mut config = Config::infer().await?;
    let far = config.cluster_url.authority().context("a server has an address")?.to_string();
    let mut wire = Wire::to(far).await?;
    config.cluster_url = format!("https://{}", wire.near()).parse()?;
    let wired: Api<ConfigMap> = Api::default_namespaced(Client::try_from(config)?);
    let (reader, writer) = reflector::store();
    let events = reflector(writer, watcher(wired, watcher::Config::default().labels("wire"))).default_backoff();
    let mut events = std::pin::pin!(events);
    let names = || {
        let mut names: Vec<String> = reader.state().iter().filter_map(|map| map.metadata.name.clone()).collect();
        names.sort();
        names
    };
    for name in ["goes", "stays"] {
        maps.create(&PostParams::default(), &map(name)?).await?;
    }
    while names() != ["goes", "stays"] {
        events.try_next().await?.context("the watch ended")?;
    }
    wire.cut().await;
    maps.delete("goes", &DeleteParams::default()).await?;
    maps.create(&PostParams::default(), &map("comes")?).await?;
    wire.mend().await?;
    let mut lists = 0;
    while names() != ["comes", "stays"] {
        // It tells of the cut, and goes on.
        match events.next().await.context("the watch ended")? {
            Ok(watcher::Event::Init) => lists += 1,
            Ok(_) | Err(_) => {}
        }
    }
    ensure!(lists == 0, "it goes on by its version, without a list");
    wire.cut().await;
    maps.delete("comes", &DeleteParams::default()).await?;
    for count in 0..20 {
        let data = json!({"data": {"a": format!("{count}{}", noise(900_000))}});
        maps.patch("stays", &PatchParams::default(), &Patch::Merge(data)).await?;
    }
    wire.mend().await?;
    while names() != ["stays"] {
        match events.next().await.context("the watch ended")? {
            Ok(watcher::Event::Init) => lists += 1,
            Ok(_) | Err(_) => {}
        }
    }
    ensure!(lists == 1, "it is told 410, and lists once: {lists}");
    maps.delete("stays", &DeleteParams::default()).await?;
    Ok(())
}

/// Input, both outputs, the exit code.
async fn command(pods: &Api<Pod>) -> anyhow::Result<()> {
    let parameters = AttachParams::default().stdin(true).stdout(true).stderr(true);
    let mut process = pods.exec("web", ["sh", "-c", "read line; echo got $line; echo error >&2; exit 3"], &parameters).await?;
    process.stdin().context("asked for")?.write_all(b"word\n").await?;
    let (mut out, mut error) = (String::new(), String::new());
    process.stdout().context("asked for")?.read_to_string(&mut out).await?;
    process.stderr().context("asked for")?.read_to_string(&mut error).await?;
    let status = process.take_status().context("asked for")?.await.context("a status")?;
    process.join().await?;
    ensure!((out.as_str(), error.as_str()) == ("got word\n", "error\n"), "{out:?} {error:?}");
    let code = status.details.iter().flat_map(|details| details.causes.iter().flatten()).find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    ensure!(code.and_then(|cause| cause.message.as_deref()) == Some("3"), "{status:?}");
    Ok(())
}

async fn log_and_port(pods: &Api<Pod>) -> anyhow::Result<()> {
    let mut lines = pods.log_stream("web", &LogParams { follow: true, ..LogParams::default() }).await?.lines();
    ensure!(lines.try_next().await?.as_deref() == Some("started"), "the first line");
    let mut forward = pods.portforward("web", &[8080]).await?;
    let mut stream = forward.take_stream(8080).context("asked for")?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    ensure!(page.ends_with("hello\n"), "{page:?}");
    Ok(())
}

async fn applied(client: &Client) -> anyhow::Result<()> {
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    let apply = async |replicas: i32, manager: &str| {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "main", "image": "busybox:1"}]}});
        let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "applied"},
            "spec": {"replicas": replicas, "paused": true, "selector": {"matchLabels": {"a": "b"}}, "template": template}});
        deployments.patch("applied", &PatchParams::apply(manager), &Patch::Apply(object)).await
    };
    apply(0, "one").await?;
    let changed = apply(1, "one").await?;
    ensure!(changed.spec.and_then(|spec| spec.replicas) == Some(1), "a manager may change what it owns");
    let conflict = apply(2, "other").await.err().context("a conflict")?;
    ensure!(matches!(&conflict, kube::Error::Api(status) if status.code == 409 && status.message.contains("conflict with \"one\"")), "{conflict}");
    deployments.delete("applied", &DeleteParams::foreground()).await?;
    Ok(())
}

async fn election(client: &Client) -> anyhow::Result<()> {
    let contender = |identity: &str| Contender {
        leases: Api::<Lease>::default_namespaced(client.clone()),
        name: "leader".to_owned(),
        identity: identity.to_owned(),
        seconds: 2,
    };
    let contenders: Vec<_> = (0..8).map(|number| contender(&format!("contender-{number}"))).collect();
    let won: Vec<bool> = futures::stream::iter(&contenders).map(Contender::attempt).buffer_unordered(8).try_collect().await?;
    ensure!(won.iter().filter(|won| **won).count() == 1, "one of eight leads: {won:?}");
    let (one, other) = (contender("one"), contender("other"));
    one.win().await?;
    ensure!(!other.attempt().await?, "one leads");
    one.resign().await?;
    ensure!(other.attempt().await?, "one has resigned");
    ensure!(!one.attempt().await?, "the other leads");
    // The other dies.
    one.win().await
}
