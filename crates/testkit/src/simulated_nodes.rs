//! Nodes that nobody stands behind, played over the API: they report, and their pods run without a process. What is above the nodes
//! cannot tell.
//!
//! The player outlives servers: whatever fails is tried again until the server is back.

use std::{
    collections::{BTreeSet, HashSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use api::core::v1::{Node, Pod};
use client::{Api, DeleteParams, FeedEvent, Patch, PatchParams, PostParams, Selection, Source, feed};
use k8s_openapi::api::coordination::v1::Lease;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};

/// How often a node reports, as real ones do.
const REPORT: Duration = Duration::from_secs(10);
/// A failure is tried again after this: nothing tells when a server is back.
const RETRY: Duration = Duration::from_millis(50);
/// Requests under way at once.
const REQUESTS: usize = 32;

/// What pods do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Play {
    /// They run and are ready.
    Run,
    /// They run, and succeed at once.
    Succeed,
}

/// The player. Its nodes stop reporting with this value.
pub struct SimulatedNodes {
    stop: tokio_util::sync::CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
    succeeded: Arc<Mutex<BTreeSet<String>>>,
}

impl SimulatedNodes {
    /// Makes so many nodes, `simulated-0` and on, in the cluster of a kubeconfig, and plays their pods.
    ///
    /// # Panics
    /// Where the kubeconfig cannot be read.
    pub fn start(kubeconfig: &Path, count: usize, play: Play) -> Self {
        let kubeconfig = client::Kubeconfig::read(kubeconfig).expect("a kubeconfig");
        let (stop, succeeded) = (tokio_util::sync::CancellationToken::new(), Arc::<Mutex<BTreeSet<String>>>::default());
        let (stopped, noted) = (stop.clone(), succeeded.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let client = client::connect(kubeconfig, "simulated-nodes").expect("a client");
                stopped.run_until_cancelled(run(client, count, play, noted)).await;
            });
        });
        Self { stop, thread: Some(thread), succeeded }
    }

    /// How many pods succeeded; each counts once.
    pub fn succeeded(&self) -> usize {
        self.succeeded.lock().len()
    }
}

impl Drop for SimulatedNodes {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn name_of(number: usize) -> String {
    format!("simulated-{number}")
}

/// The node of a number: large, ready, in one of three zones.
///
/// # Panics
/// Never: it is a node.
pub fn node(number: usize) -> Node {
    let (name, amounts) = (name_of(number), json!({"cpu": "64", "memory": "256Gi", "pods": "110"}));
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let ready = json!({"type": "Ready", "status": "True", "reason": "Simulated", "lastHeartbeatTime": now, "lastTransitionTime": now});
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("zone-{}", number % 3)}},
        "status": {"capacity": amounts, "allocatable": amounts, "conditions": [ready]},
    }))
    .expect("a node")
}

/// Tries until it works, or until what it is about is gone or there already.
async fn until_done<T, F: Future<Output = client::Result<T>>>(attempt: impl Fn() -> F) {
    loop {
        match attempt().await {
            Ok(_) => return,
            Err(error) if client::is_not_found(&error) || client::is_already_exists(&error) || client::is_conflict(&error) => return,
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

async fn report(client: client::Client, number: usize) {
    let name = name_of(number);
    let leases = Api::<Lease>::namespaced(client.clone(), "kube-node-lease");
    let (nodes, node, new) = (Api::<Node>::all(client.clone()), node(number), PostParams::default());
    until_done(|| nodes.create(&new, &node)).await;
    let lease: Lease = serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"holderIdentity": name, "leaseDurationSeconds": 40}})).expect("a lease");
    until_done(|| leases.create(&new, &lease)).await;
    let changed = PatchParams::default();
    loop {
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
        let renewed = Patch::Merge(json!({"spec": {"renewTime": now}}));
        until_done(|| leases.patch(&name, &changed, &renewed)).await;
        tokio::time::sleep(REPORT).await;
    }
}

async fn run(client: client::Client, count: usize, play: Play, succeeded: Arc<Mutex<BTreeSet<String>>>) {
    let (sender, mut pods) = mpsc::unbounded_channel::<Arc<Pod>>();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..count {
        tasks.spawn(report(client.clone(), number));
    }
    let source = Source::new::<Pod>(client.clone(), &(), Selection::fields("spec.nodeName!="));
    tasks.spawn(feed::run::<Pod>(source, move |event| match event {
        // Where nobody receives any more, the play is over.
        FeedEvent::Replaced { objects, .. } => objects.into_iter().for_each(|pod| drop(sender.send(Arc::new(pod)))),
        FeedEvent::Put(pod) => drop(sender.send(Arc::new(pod))),
        FeedEvent::Deleted(_) | FeedEvent::Progress(_) => {}
    }));
    let ours: HashSet<String> = (0..count).map(name_of).collect();
    let requests = Arc::new(Semaphore::new(REQUESTS));
    while let Some(pod) = pods.recv().await {
        if pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()).is_some_and(|node| ours.contains(node)) {
            tasks.spawn(play_pod(client.clone(), pod, play, requests.clone(), succeeded.clone()));
        }
        while tasks.try_join_next().is_some() {}
    }
}

/// Takes a pod one step further. Each change comes back as an event, which leads to the next.
async fn play_pod(client: client::Client, pod: Arc<Pod>, play: Play, requests: Arc<Semaphore>, succeeded: Arc<Mutex<BTreeSet<String>>>) {
    let Ok(_permit) = requests.acquire().await else { return };
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let api = Api::<Pod>::namespaced(client, pod.metadata.namespace.as_deref().unwrap_or_default());
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "lastTransitionTime": now});
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let changed = PatchParams::default();
    if pod.metadata.deletion_timestamp.is_some() {
        let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        return until_done(|| api.delete(name, &at_once)).await;
    }
    let status = match (phase, play) {
        ("Pending" | "", _) => json!({"phase": "Running", "startTime": now, "conditions": [condition("Ready", "True"), condition("ContainersReady", "True")]}),
        ("Running", Play::Succeed) => json!({"phase": "Succeeded", "conditions": [condition("Ready", "False"), condition("ContainersReady", "False")]}),
        _ => return,
    };
    let patch = Patch::Strategic(json!({"metadata": {"uid": uid}, "status": status}));
    until_done(|| api.patch_status(name, &changed, &patch)).await;
    if phase == "Running" {
        succeeded.lock().insert(uid);
    }
}
