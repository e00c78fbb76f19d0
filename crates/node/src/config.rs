//! What a node is told at its start, and what everything in this crate shares.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use container_runtime::ContainerRuntime;
use k8s_openapi::api::core::v1::Taint;
use pod_sandbox_network::PodSandboxNetwork;

use crate::{
    clock::{Clock, SystemClock},
    events::EventRecorder,
    eviction::recent::RecentShortages,
    images::ImagePuller,
    machine::Machine,
    metrics::Metrics,
    objects::WatchedObjects,
    pod::{field_values::NodeFacts, user_namespaces::PodUsers},
    pod_certificates::PodCertificates,
    pods::Pods,
    quantity::Amount,
    services::ServiceDirectory,
    shutdown::Group,
    tokens::TokenSource,
};

/// What a node is told at its start.
#[derive(Clone)]
pub struct NodeConfig {
    /// The Node's name.
    pub name: String,
    /// Its host name, for the address of type `Hostname` and the label.
    pub hostname: String,
    /// Its addresses, the primary one first.
    pub node_ips: Vec<IpAddr>,
    /// The API server, as `system:node:NAME`.
    pub client: client::Client,
    /// What runs containers.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// What connects pods.
    pub network: Arc<dyn PodSandboxNetwork>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// For all boots: volumes on disk, termination messages.
    pub data_directory: PathBuf,
    /// For this boot, on a tmpfs: secrets and tokens live only here.
    pub run_directory: PathBuf,
    /// Container logs: `NAMESPACE_NAME_UID/CONTAINER/RESTARTS.log`.
    pub log_directory: PathBuf,
    /// The host's resolver configuration.
    pub resolv_conf: PathBuf,
    /// Name servers of pods.
    pub cluster_dns: Vec<IpAddr>,
    /// Domain of the cluster (`cluster.local`).
    pub cluster_domain: String,
    /// Labels the Node is registered with, beyond the well-known ones.
    pub labels: BTreeMap<String, String>,
    /// Annotations the Node is registered with.
    pub annotations: BTreeMap<String, String>,
    /// Taints the Node is registered with.
    pub taints: Vec<Taint>,
    /// Most pods it runs.
    pub max_pods: u32,
    /// Port of its own API.
    pub api_port: u16,
    /// For `nodeInfo.kubeletVersion` (`v1.36.0+knarr`).
    pub version: String,
    /// Where the API is, as metrics name it: host and port.
    pub api_server: String,
    /// Kept back for the system: taken from capacity to give what pods may use.
    pub reserved: BTreeMap<String, Amount>,
    /// Kernel parameters that pods may set beyond the safe ones; a `*` at the end stands for anything.
    pub allowed_sysctls: Vec<String>,
    /// In which order, and within what time, pods end when the machine is shut down; empty: they are not ended.
    pub shutdown: Vec<Group>,
    /// Fewer free process numbers are a shortage, where a number is set.
    pub least_process_ids: Option<u64>,
    /// Files in here are pods that this node runs whatever the API says.
    pub static_pod_directory: PathBuf,
    /// Log files of a container are rotated at this size.
    pub log_maximum_bytes: u64,
    /// Log files kept of one container.
    pub log_maximum_files: u32,
    /// How long its lease is good for.
    pub lease_duration: Duration,
}

impl NodeConfig {
    /// A configuration with the defaults of upstream; addresses, DNS and labels are to be filled in.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        client: client::Client,
        runtime: Arc<dyn ContainerRuntime>,
        network: Arc<dyn PodSandboxNetwork>,
        data_directory: impl Into<PathBuf>,
        run_directory: impl Into<PathBuf>,
    ) -> Self {
        let name = name.into();
        let data_directory = data_directory.into();
        Self {
            hostname: name.clone(),
            name,
            node_ips: Vec::new(),
            client,
            runtime,
            network,
            clock: SystemClock::shared(),
            log_directory: data_directory.join("logs"),
            static_pod_directory: data_directory.join("manifests"),
            data_directory,
            run_directory: run_directory.into(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            taints: Vec::new(),
            max_pods: 110,
            api_port: 10250,
            version: "v1.36.0+knarr".to_owned(),
            api_server: String::new(),
            reserved: BTreeMap::new(),
            allowed_sysctls: Vec::new(),
            shutdown: Vec::new(),
            least_process_ids: None,
            log_maximum_bytes: 10 * 1024 * 1024,
            log_maximum_files: 5,
            lease_duration: Duration::from_secs(40),
        }
    }

    /// Where a pod's own files lie, on disk.
    #[must_use]
    pub fn pod_directory(&self, uid: &str) -> PathBuf {
        self.data_directory.join("pods").join(uid)
    }

    /// Where a pod's secrets and tokens lie, in memory.
    #[must_use]
    pub fn pod_run_directory(&self, uid: &str) -> PathBuf {
        self.run_directory.join("pods").join(uid)
    }

    /// Where a pod's logs lie.
    #[must_use]
    pub fn pod_log_directory(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.log_directory.join(format!("{namespace}_{name}_{uid}"))
    }
}

/// What everything in this crate shares.
pub struct Context {
    /// What the node was told.
    pub config: NodeConfig,
    /// What the machine has.
    pub machine: Machine,
    /// What this node asks of the API.
    pub requests: client::RequestMetrics,
    /// Tells users what happens.
    pub events: EventRecorder,
    /// Gets images.
    pub images: ImagePuller,
    /// Config maps and secrets that pods refer to.
    pub objects: WatchedObjects,
    /// Services, for environments.
    pub services: ServiceDirectory,
    /// Service account tokens.
    pub tokens: TokenSource,
    /// Certificates of pods.
    pub certificates: PodCertificates,
    /// What the node has been short of.
    pub shortages: RecentShortages,
    /// Users of pods' own.
    pub pod_users: PodUsers,
    /// Volumes on the node's own disk.
    pub local_volumes: std::sync::Arc<crate::volume::local_volumes::LocalVolumes>,
    /// The workers of this node's pods.
    pub pods: Pods,
    /// Counters.
    pub metrics: Metrics,
    /// Whether pods can be connected, as far as the node's status knows.
    pub network_ready: tokio::sync::watch::Sender<bool>,
    /// The machine is being shut down.
    pub is_shutting_down: std::sync::atomic::AtomicBool,
    /// The Node's labels as the API has them, once they are known: before, no pod can be judged.
    pub node_labels: tokio::sync::watch::Sender<Option<BTreeMap<String, String>>>,
}

impl Context {
    /// What the node adds to the downward API.
    #[must_use]
    pub fn node_facts(&self, pod_ips: &[IpAddr]) -> NodeFacts {
        let allocatable = self.machine.allocatable(&self.config.reserved);
        NodeFacts {
            pod_ips: pod_ips.to_vec(),
            host_ips: self.config.node_ips.clone(),
            allocatable_cpu: allocatable.cpu,
            allocatable_memory: allocatable.memory,
            allocatable_storage: allocatable.ephemeral_storage,
        }
    }
}
