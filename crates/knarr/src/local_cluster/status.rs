//! `knarr status`: which clusters there are on this machine, and how their nodes are.

use std::{collections::BTreeMap, time::Duration};

use anyhow::bail;
use api::core::v1::Node;
use client::{Api, ListParams};
use serde::Serialize;

use super::{
    StatusArgs,
    processes::Process,
    ready,
    record::{self, Record},
    require_root,
    settings::Settings,
};
use crate::output::{tell, write};

/// How long an API may take to answer before its nodes count as unknown.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ClusterStatus {
    name: String,
    server: String,
    context: String,
    kubeconfig: Option<std::path::PathBuf>,
    data: std::path::PathBuf,
    node_range: String,
    pod_range: String,
    service_range: String,
    nodes: Vec<NodeStatus>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeStatus {
    name: String,
    address: String,
    process: Option<i32>,
    running: bool,
    /// None where the API does not say.
    ready: Option<bool>,
    log: std::path::PathBuf,
}

/// Does it.
pub fn run(arguments: StatusArgs) -> anyhow::Result<()> {
    require_root("status")?;
    let json = match arguments.output.as_deref() {
        None => false,
        Some("json") => true,
        Some(other) => bail!("{other:?} is no output format: leave it out, or say json"),
    };
    let names = record::running().into_iter().filter(|name| arguments.name.as_ref().is_none_or(|wanted| wanted == name));
    let clusters = names.map(|name| look_at(&name)).collect::<anyhow::Result<Vec<_>>>()?;
    if json {
        tell!("{}", serde_json::to_string_pretty(&clusters)?);
        return Ok(());
    }
    if clusters.is_empty() {
        match arguments.name {
            Some(name) => tell!("No cluster {name} is running here; start it with `knarr up --name {name}`."),
            None => tell!("No cluster is running here; start one with `knarr up`."),
        }
    }
    for cluster in &clusters {
        write(format_args!("{}", table(cluster)));
    }
    Ok(())
}

fn look_at(name: &str) -> anyhow::Result<ClusterStatus> {
    let Some(record) = Record::load(name)? else { bail!("the cluster {name} went down just now") };
    let Some(settings) = Settings::load(&record.data)? else { bail!("the settings of the cluster {name} are gone from {}; end it with `knarr down --name {name}`", record.data.display()) };
    let ready = readiness(&settings);
    let nodes = record.nodes.iter().map(|node| {
        let running = node.process.is_some_and(Process::is_running);
        NodeStatus {
            name: node.name.clone(),
            address: node.address.to_string(),
            process: node.process.filter(|_| running).and_then(Process::child),
            running,
            ready: ready.get(&node.name).copied(),
            log: settings.node_data(node.number).join("node.log"),
        }
    });
    Ok(ClusterStatus {
        name: name.to_owned(),
        server: settings.api()?,
        context: format!("knarr-{name}"),
        kubeconfig: record.kubeconfig.as_ref().map(|entry| entry.path.clone()),
        data: record.data.clone(),
        nodes: nodes.collect(),
        node_range: settings.node_range,
        pod_range: settings.pod_range,
        service_range: settings.service_range,
    })
}

/// What the API says of its nodes; nothing where it does not answer.
fn readiness(settings: &Settings) -> BTreeMap<String, bool> {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return BTreeMap::new() };
    runtime.block_on(async {
        let Ok(client) = ready::admin_client(settings) else { return BTreeMap::new() };
        let listed = tokio::time::timeout(PATIENCE, async move { Api::<Node>::all(client).list(&ListParams::default()).await }).await;
        let Ok(Ok(nodes)) = listed else { return BTreeMap::new() };
        nodes.into_iter().map(|node| (node.metadata.name.clone().unwrap_or_default(), ready::ready_since_heartbeat(&node).is_some())).collect()
    })
}

fn table(cluster: &ClusterStatus) -> String {
    let width = cluster.nodes.iter().map(|node| node.name.len()).max().unwrap_or(0).max("NODE".len());
    let mut text = format!("cluster {}: API {}, context {}, data in {}\n", cluster.name, cluster.server, cluster.context, cluster.data.display());
    text.push_str(&format!("{:<width$}  {:<15}  {:<9}  {:<8}  PROCESS\n", "NODE", "ADDRESS", "RUNNING", "READY"));
    for node in &cluster.nodes {
        let ready = match node.ready {
            Some(true) => "yes",
            Some(false) => "no",
            None => "unknown",
        };
        let process = node.process.map_or_else(|| "-".to_owned(), |id| id.to_string());
        text.push_str(&format!("{:<width$}  {:<15}  {:<9}  {ready:<8}  {process}\n", node.name, node.address, if node.running { "yes" } else { "no" }));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let node = |name: &str, process| NodeStatus {
            name: name.to_owned(),
            address: "10.88.0.2".to_owned(),
            process,
            running: process.is_some(),
            ready: process.map(|_| true),
            log: "/log".into(),
        };
        let cluster = ClusterStatus {
            name: "local".to_owned(),
            server: "https://10.88.0.2:6443".to_owned(),
            context: "knarr-local".to_owned(),
            kubeconfig: None,
            data: "/data".into(),
            node_range: String::new(),
            pod_range: String::new(),
            service_range: String::new(),
            nodes: vec![node("local-1", Some(4711)), node("local-2", None)],
        };
        let expected = "cluster local: API https://10.88.0.2:6443, context knarr-local, data in /data\n\
                        NODE     ADDRESS          RUNNING    READY     PROCESS\n\
                        local-1  10.88.0.2        yes        yes       4711\n\
                        local-2  10.88.0.2        no         unknown   -\n";
        assert_eq!(table(&cluster), expected);
    }
}
