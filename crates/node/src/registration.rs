//! This node in the API: the Node object, its status, and its lease.
//!
//! The status is written when something changed, at once, and every five minutes; the lease every quarter of its length,
//! which is the only thing that happens on a quiet node.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use client::{Api, Backoff, EventType, FeedEvent, Patch, PatchParams, PostParams, Selection, Source, feed, status_code};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures, NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, NodeSystemInfo},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time},
};
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    api_error::words,
    clock::until,
    config::Context,
    eviction::recent::Pressures,
    extended_resources,
    machine::Allocatable,
    quantity::{Amount, kibibytes},
};

/// What this node can do that others of the cluster may not, sorted. Source: Kubernetes 1.36, `k8s.io/component-helpers/nodedeclaredfeatures`,
/// as a kubelet of default settings declares it.
const DECLARED_FEATURES: [&str; 3] = ["GuaranteedQoSPodCPUResize", "InPlacePodLevelResourcesVerticalScaling", "RestartAllContainersOnContainerExits"];

/// The status is written at least this often, as upstream.
const STATUS_PERIOD: Duration = Duration::from_secs(300);
/// How often pressure is looked at, together with the lease; the kernel has no event for "little memory is left".
const LEASES_PER_PRESSURE_CHECK: u32 = 1;
/// Images listed in the status at most.
const SHOWN_IMAGES: usize = 50;

/// Keeps the Node object and the lease.
pub struct Registration {
    context: Arc<Context>,
    /// Tells that something the status shows has changed.
    pub changed: Arc<Notify>,
    stop: CancellationToken,
}

impl Registration {
    /// A registration that has not begun.
    #[must_use]
    pub fn new(context: Arc<Context>, changed: Arc<Notify>, stop: CancellationToken) -> Self {
        Self { context, changed, stop }
    }

    /// Registers the node, and keeps its status and lease until it is cancelled.
    pub async fn run(self) {
        let stop = self.stop.clone();
        stop.run_until_cancelled(async {
            let mut pause = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
            let node = loop {
                match self.register().await {
                    Ok(node) => break node,
                    Err(problem) => {
                        tracing::warn!(problem = words(&problem), "could not register this node, trying again");
                        self.context.config.clock.sleep(pause.next_delay()).await;
                    }
                }
            };
            self.context.events.node(EventType::Normal, "Starting", "Starting kubelet.");
            tokio::join!(self.keep_lease(&node), self.keep_status(&node), self.follow_node());
        })
        .await;
    }

    fn api(&self) -> Api<Node> {
        Api::all(self.context.config.client.clone())
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let architecture = go_architecture();
        let mut labels = self.context.config.labels.clone();
        for (key, value) in [
            ("kubernetes.io/hostname", self.context.config.hostname.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", architecture),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", architecture),
        ] {
            labels.insert(key.to_owned(), value.to_owned());
        }
        labels
    }

    /// Creates the Node, or brings the labels of an existing one up to date.
    async fn register(&self) -> Result<Node, client::Error> {
        let config = &self.context.config;
        let node = Node {
            metadata: ObjectMeta {
                name: Some(config.name.clone()),
                labels: Some(self.labels()),
                annotations: Some(config.annotations.clone()).filter(|annotations| !annotations.is_empty()),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec { taints: Some(config.taints.clone()).filter(|taints| !taints.is_empty()), ..NodeSpec::default() }),
            status: Some(self.status(None).await),
        };
        match self.api().create(&PostParams::default(), &node).await {
            Err(problem) if status_code(&problem) == Some(409) => {}
            result => return result,
        }
        let patch = json!({ "metadata": { "labels": self.labels(), "annotations": config.annotations } });
        self.api().patch(&config.name, &PatchParams::default(), &Patch::Merge(patch)).await
    }

    /// The node's own object is watched for its pod ranges and labels.
    async fn follow_node(&self) {
        let selection = Selection::fields(&format!("metadata.name={}", self.context.config.name));
        let source = Source::new::<Node>(self.context.config.client.clone(), &(), selection);
        let mut ranges: Option<Vec<String>> = None;
        feed::run(source, |event: FeedEvent<Node>| {
            let node = match event {
                FeedEvent::Replaced { objects, .. } => match objects.into_iter().next() {
                    Some(node) => node,
                    None => return self.changed.notify_one(),
                },
                FeedEvent::Put(node) => node,
                // Deleted by somebody: the next status write registers anew.
                FeedEvent::Deleted(_) => return self.changed.notify_one(),
                FeedEvent::Progress(_) => return,
            };
            let offered = extended_resources::changes(&node);
            if !offered.is_empty() {
                tokio::spawn(offer(self.api(), self.context.config.name.clone(), offered));
            }
            self.context.node_labels.send_replace(Some(node.metadata.labels.unwrap_or_default()));
            let found = node.spec.and_then(|spec| spec.pod_cidrs);
            if found != ranges {
                ranges = found;
                self.changed.notify_one();
            }
        })
        .await;
    }

    /// Writes the status whenever it differs from what was written last, and every five minutes.
    async fn keep_status(&self, node: &Node) {
        let config = &self.context.config;
        let mut was_ready = node.status.as_ref().is_some_and(is_ready);
        let mut pause = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        let mut written: Option<(NodeStatus, Timestamp)> = None;
        loop {
            let status = self.status(written.as_ref().map(|(status, _)| status)).await;
            let now = config.clock.now();
            let is_due = written.as_ref().is_none_or(|(old, at)| without_heartbeats(old) != without_heartbeats(&status) || until(now, *at) >= STATUS_PERIOD);
            let mut wait = STATUS_PERIOD;
            if is_due {
                let patch = json!({ "status": status });
                match self.api().patch_status(&config.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                    Ok(_) => {
                        pause.reset();
                        if was_ready != is_ready(&status) {
                            was_ready = is_ready(&status);
                            let reason = if is_ready(&status) { "NodeReady" } else { "NodeNotReady" };
                            self.context.events.node(EventType::Normal, reason, format!("Node {} status is now: {reason}", config.name));
                        }
                        written = Some((status, now));
                    }
                    Err(problem) => {
                        if status_code(&problem) == Some(404) {
                            // Somebody deleted the Node while we live: it is ours to bring back.
                            if let Err(problem) = self.register().await {
                                tracing::warn!(problem = words(&problem), "could not register this node anew");
                            }
                        } else {
                            tracing::warn!(problem = words(&problem), "could not write this node's status");
                        }
                        wait = pause.next_delay();
                    }
                }
            } else if let Some((_, at)) = &written {
                wait = STATUS_PERIOD.saturating_sub(until(now, *at));
            }
            // Whoever wakes us may do so often: a network that is not ready yet is looked at again only on its word.
            tokio::select! {
                () = self.changed.notified() => {}
                () = config.clock.sleep(wait.max(Duration::from_millis(1))) => {}
            }
        }
    }

    async fn keep_lease(&self, node: &Node) {
        let config = &self.context.config;
        let api: Api<Lease> = Api::namespaced(config.client.clone(), "kube-node-lease");
        let period = config.lease_duration / 4;
        let mut pause = Backoff::new(Duration::from_millis(200), period);
        let mut rounds: u32 = 0;
        loop {
            let wait = match self.renew(&api, node).await {
                Ok(()) => {
                    pause.reset();
                    period
                }
                Err(problem) => {
                    tracing::warn!(problem = words(&problem), "could not renew this node's lease");
                    pause.next_delay()
                }
            };
            rounds = rounds.wrapping_add(1);
            if rounds.is_multiple_of(LEASES_PER_PRESSURE_CHECK) {
                self.changed.notify_one();
            }
            config.clock.sleep(wait).await;
        }
    }

    async fn renew(&self, api: &Api<Lease>, node: &Node) -> Result<(), client::Error> {
        let config = &self.context.config;
        let now = MicroTime(config.clock.now());
        let patch = json!({ "spec": { "renewTime": now, "holderIdentity": config.name, "leaseDurationSeconds": config.lease_duration.as_secs() } });
        match api.patch(&config.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => return Ok(()),
            Err(problem) if status_code(&problem) == Some(404) => {}
            Err(problem) => return Err(problem),
        }
        let owner = OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: config.name.clone(),
            uid: node.metadata.uid.clone().unwrap_or_default(),
            ..OwnerReference::default()
        };
        let lease = Lease {
            metadata: ObjectMeta { name: Some(config.name.clone()), owner_references: Some(vec![owner]), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                holder_identity: Some(config.name.clone()),
                lease_duration_seconds: i32::try_from(config.lease_duration.as_secs()).ok(),
                renew_time: Some(now),
                ..LeaseSpec::default()
            }),
        };
        api.create(&PostParams::default(), &lease).await.map(|_| ())
    }

    /// The status as it is now. Transition times come from the last one.
    async fn status(&self, last: Option<&NodeStatus>) -> NodeStatus {
        let config = &self.context.config;
        let machine = &self.context.machine;
        let allocatable = machine.allocatable(&config.reserved);
        let mut addresses: Vec<NodeAddress> =
            config.node_ips.iter().map(|ip| NodeAddress { type_: "InternalIP".to_owned(), address: ip.to_string() }).collect();
        addresses.push(NodeAddress { type_: "Hostname".to_owned(), address: config.hostname.clone() });
        NodeStatus {
            capacity: Some(amounts(
                &Allocatable {
                    cpu: Amount::units(i64::from(machine.cpus)),
                    memory: Amount::units(i64::try_from(machine.memory_bytes).unwrap_or(i64::MAX)),
                    ephemeral_storage: Amount::units(i64::try_from(machine.storage_bytes).unwrap_or(i64::MAX)),
                },
                config.max_pods,
            )),
            allocatable: Some(amounts(&allocatable, config.max_pods)),
            addresses: Some(addresses),
            conditions: Some(self.conditions(last)),
            daemon_endpoints: Some(NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(config.api_port) }) }),
            node_info: Some(NodeSystemInfo {
                architecture: go_architecture().to_owned(),
                boot_id: machine.boot_id.clone(),
                container_runtime_version: config.runtime.version(),
                kernel_version: machine.kernel.clone(),
                kube_proxy_version: config.version.clone(),
                kubelet_version: config.version.clone(),
                machine_id: machine.machine_id.clone(),
                operating_system: "linux".to_owned(),
                os_image: machine.os_image.clone(),
                system_uuid: machine.system_uuid.clone(),
                ..NodeSystemInfo::default()
            }),
            declared_features: Some(DECLARED_FEATURES.map(str::to_owned).to_vec()),
            features: Some(NodeFeatures { supplemental_groups_policy: Some(true) }),
            runtime_handlers: Some(runtime_handlers(&config.runtime.handlers(), self.context.pod_users.gives_any() && offers_user_namespaces(&machine.kernel))),
            images: Some(self.images().await).filter(|images| !images.is_empty()),
            ..NodeStatus::default()
        }
    }

    async fn images(&self) -> Vec<ContainerImage> {
        let mut images = match self.context.config.runtime.list_images().await {
            Ok(images) => {
                self.context.images.note_present(&images);
                images
            }
            Err(problem) => {
                tracing::warn!(%problem, "could not list images");
                Vec::new()
            }
        };
        images.sort_by(|one, other| other.size_bytes.cmp(&one.size_bytes).then_with(|| one.id.0.cmp(&other.id.0)));
        images
            .into_iter()
            .take(SHOWN_IMAGES)
            .map(|image| ContainerImage {
                names: Some(image.digests.into_iter().take(5).chain(image.tags).take(5).collect()),
                size_bytes: i64::try_from(image.size_bytes).ok(),
            })
            .collect()
    }

    fn conditions(&self, last: Option<&NodeStatus>) -> Vec<NodeCondition> {
        let now = self.context.config.clock.now();
        let Pressures { memory: little_memory, disk: little_disk, process_ids: few_process_ids } = self.context.shortages.look(&self.context.config);
        let pressure = |type_, has: bool, yes: &str, no: &str, message: &str| {
            let reason = if has { yes } else { no };
            let words = if has { format!("kubelet has {message}") } else { format!("kubelet has {}", if message.starts_with("insufficient") { message.replacen("insufficient", "sufficient", 1) } else { format!("no {message}") }) };
            (type_, has, reason.to_owned(), words)
        };
        let network = self.context.config.network.ready();
        self.context.network_ready.send_if_modified(|known| std::mem::replace(known, network.is_ok()) != network.is_ok());
        let ready = match network {
            _ if self.context.is_shutting_down.load(std::sync::atomic::Ordering::Acquire) => {
                ("Ready", false, "KubeletNotReady".to_owned(), "node is shutting down".to_owned())
            }
            Ok(()) => ("Ready", true, "KubeletReady".to_owned(), "kubelet is posting ready status".to_owned()),
            Err(problem) => {
                let message = format!("container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:{problem}");
                ("Ready", false, "KubeletNotReady".to_owned(), message)
            }
        };
        let all = [
            pressure("MemoryPressure", little_memory, "KubeletHasInsufficientMemory", "KubeletHasSufficientMemory", "insufficient memory available"),
            pressure("DiskPressure", little_disk, "KubeletHasDiskPressure", "KubeletHasNoDiskPressure", "disk pressure"),
            pressure("PIDPressure", few_process_ids, "KubeletHasInsufficientPID", "KubeletHasSufficientPID", "insufficient PID available"),
            ready,
        ];
        let old = last.and_then(|last| last.conditions.as_deref()).unwrap_or_default();
        all.into_iter()
            .map(|(type_, holds, reason, message)| {
                let status = if holds { "True" } else { "False" };
                let unchanged = old.iter().find(|old| old.type_ == type_ && old.status == status);
                NodeCondition {
                    type_: type_.to_owned(),
                    status: status.to_owned(),
                    reason: Some(reason),
                    message: Some(message),
                    last_heartbeat_time: Some(Time(now)),
                    last_transition_time: unchanged.and_then(|old| old.last_transition_time.clone()).or(Some(Time(now))),
                }
            })
            .collect()
    }
}

/// The handlers that RuntimeClasses may ask for, the default one (without a name) first.
fn runtime_handlers(names: &[String], user_namespaces: bool) -> Vec<NodeRuntimeHandler> {
    let features = NodeRuntimeHandlerFeatures { recursive_read_only_mounts: Some(true), user_namespaces: Some(user_namespaces) };
    let named = names.iter().map(String::as_str);
    std::iter::once("").chain(named).map(|name| NodeRuntimeHandler { name: Some(name.to_owned()), features: Some(features.clone()) }).collect()
}

/// Whether the kernel has what pods with users of their own need: namespaces, which it may be built or told to have none of, and mounts
/// that translate owners, also of what is in memory.
/// Source: Kubernetes documentation, "User Namespaces", "Before you begin".
fn offers_user_namespaces(release: &str) -> bool {
    let most = std::fs::read_to_string("/proc/sys/user/max_user_namespaces").ok().and_then(|most| most.trim().parse::<u64>().ok());
    most.is_some_and(|most| most > 0) && translates_owners(release)
}

/// Whether mounts of every kind of file system that pods use can translate owners, from Linux 6.3 on.
fn translates_owners(release: &str) -> bool {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 3)
}

fn amounts(amounts: &Allocatable, pods: u32) -> BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity> {
    let bytes = |amount: Amount| kibibytes(u64::try_from(amount.as_units()).unwrap_or(0));
    BTreeMap::from([
        ("cpu".to_owned(), amounts.cpu.to_quantity()),
        ("memory".to_owned(), bytes(amounts.memory)),
        ("ephemeral-storage".to_owned(), bytes(amounts.ephemeral_storage)),
        ("pods".to_owned(), Amount::units(i64::from(pods)).to_quantity()),
        ("hugepages-1Gi".to_owned(), Amount::default().to_quantity()),
        ("hugepages-2Mi".to_owned(), Amount::default().to_quantity()),
    ])
}

fn is_ready(status: &NodeStatus) -> bool {
    status.conditions.iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn without_heartbeats(status: &NodeStatus) -> NodeStatus {
    let mut status = status.clone();
    for condition in status.conditions.iter_mut().flatten() {
        condition.last_heartbeat_time = None;
    }
    status
}

/// The processor's architecture in Go's words, which the API uses.
fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// Lets pods use what somebody else put into this node's capacity. Where it cannot be written, the next change of the Node, or the
/// next status at the latest, brings it here again.
async fn offer(nodes: Api<Node>, name: String, amounts: serde_json::Map<String, serde_json::Value>) {
    let patch = json!({ "status": { "allocatable": amounts } });
    if let Err(problem) = nodes.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch)).await {
        tracing::warn!(problem = words(&problem), "could not offer what others put into this node's capacity");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_translated_from_linux_6_3_on() {
        let check = |release: &str, expected: bool| assert_eq!(translates_owners(release), expected, "{release}");
        check("6.3.0", true);
        check("6.18.1-amd64", true);
        check("7.0-rc1", true);
        check("6.2.15", false);
        check("5.15.0-91-generic", false);
        check("", false);
    }
}
