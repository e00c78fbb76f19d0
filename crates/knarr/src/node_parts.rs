//! The parts of a node: container runtime, pod network, service proxy, cluster DNS and the node agent.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::Arc,
};

use anyhow::Context;
use client::Informers;
use cluster_dns::ClusterDns;
use container_runtime::ContainerRuntime;
use futures::FutureExt;
use netlink::IpRange;
use network_policy::PolicyKeeper;
use node::{Node, NodeConfig};
use pod_network::RoutedPodNetwork;
use runtime_embedded::EmbeddedRuntime;
use service_proxy::ServiceProxy;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, error};

use crate::{local_cluster::HostSide, node_options::NodeOptions};

/// Port of the node's own API, as kubelets have it.
pub const NODE_API_PORT: u16 = 10250;

/// Port on this machine alone where whoever looks after the node's process finds it well, as kubelets have it.
const HEALTH_PORT: u16 = 10248;

/// The user as whom API servers call nodes.
pub const API_SERVER_CLIENT: &str = "kube-apiserver-kubelet-client";

/// What a node is made from, whether it stands beside a control plane or alone.
pub struct NodeSettings {
    /// Name of the cluster: sets links, tables and cgroups apart from other clusters on the machine.
    pub cluster: String,
    /// The Node's name.
    pub name: String,
    /// Where the API is: host and port.
    pub api_server: String,
    /// The node's addresses, the primary one first.
    pub addresses: Vec<IpAddr>,
    /// For all boots.
    pub data_directory: PathBuf,
    /// For this boot, on a tmpfs.
    pub run_directory: PathBuf,
    /// Ranges of pod addresses.
    pub cluster_ranges: Vec<IpRange>,
    /// Ranges of Service addresses.
    pub service_ranges: Vec<IpRange>,
    /// Domain of the cluster's names.
    pub cluster_domain: String,
    /// The API, as `system:node:NAME`.
    pub client: client::Client,
    /// The API, for the service proxy, the pod network and DNS.
    pub proxy_client: client::Client,
    /// What parts of this process hold alike.
    pub pool: client::Pool,
    /// Labels of the Node.
    pub labels: Vec<(String, String)>,
    /// The host, where the node lives in namespaces of its own.
    pub host: Option<HostSide>,
    /// What the user says of the node.
    pub options: NodeOptions,
}

/// A running node.
pub struct NodeParts {
    /// The agent; its own API can be asked of it.
    pub node: Arc<Node>,
    tasks: TaskTracker,
}

/// The cluster's DNS addresses: the tenth of each Service range, as most clusters have it.
pub fn dns_addresses(service_ranges: &[IpRange]) -> Vec<IpAddr> {
    service_ranges.iter().filter_map(|range| range.nth(10)).collect()
}

/// Reads a list of ranges separated by commas.
pub fn ranges(text: &str) -> anyhow::Result<Vec<IpRange>> {
    text.split(',').map(|range| range.trim().parse().with_context(|| format!("{range:?} is no address range"))).collect()
}

/// Starts every part. Must be called in the network namespace the node is to live in.
pub async fn start(settings: NodeSettings, stop: CancellationToken) -> anyhow::Result<NodeParts> {
    let tasks = TaskTracker::new();
    let mut options = runtime_embedded::Options::new(settings.data_directory.join("runtime"), settings.run_directory.join("runtime"));
    options.cgroup_root = format!("knarr-{}/{}", settings.cluster, settings.name);
    options.limits = settings.options.limits(&settings.data_directory)?;
    options.registries_file = Some(settings.data_directory.join("registries.yaml"));
    let runtime: Arc<dyn ContainerRuntime> = Arc::new(EmbeddedRuntime::open(options).await.context("the container runtime cannot be started")?);

    {
        let (directory, runtime, stop) = (settings.run_directory.clone(), runtime.clone(), stop.clone());
        tasks.spawn(stop.run_until_cancelled_owned(async move {
            if let Err(failure) = crate::image::serve(directory, runtime).await {
                error!(failure = format!("{failure:#}"), "`knarr image` will not work");
            }
        }).map(drop));
    }

    // Volumes of Secrets are files below it.
    let node_directory = settings.run_directory.join("node");
    runtime_embedded::ensure_memory_backed(&node_directory).with_context(|| format!("{} cannot be kept in memory", node_directory.display()))?;

    let mut options = pod_network::Options::new(&settings.cluster, &settings.name, &settings.run_directory);
    options.cluster_ranges.clone_from(&settings.cluster_ranges);
    let network = RoutedPodNetwork::open(options).context("the pod network cannot be set up")?;

    let dns = dns_addresses(&settings.service_ranges);
    let proxy_options = service_proxy::Options {
        cluster: settings.cluster.clone(),
        node_name: settings.name.clone(),
        zone: None,
        cluster_ranges: settings.cluster_ranges.clone(),
        service_ranges: settings.service_ranges.clone(),
        served_here: dns.clone(),
    };
    let mut proxy = ServiceProxy::open(proxy_options).context("the service proxy cannot be set up")?;
    let mut dns_options = cluster_dns::Options::new(dns.clone());
    dns_options.domain.clone_from(&settings.cluster_domain);
    dns_options.ranges = settings.service_ranges.iter().chain(&settings.cluster_ranges).copied().collect();
    if let Some(host) = settings.host {
        dns_options.resolv_conf = host.resolv_conf();
        dns_options.outside = Arc::new(cluster_dns::SocketsIn::namespace(host.network).context("cannot make sockets in the host's network namespace")?);
        // Held until the process ends, since the path above leads through it.
        let _ = Box::leak(Box::new(host.root));
    }
    let names = ClusterDns::open(dns_options).context("cluster DNS cannot be started")?;

    let policy_options = network_policy::Options { cluster: settings.cluster.clone(), node_name: settings.name.clone() };
    let mut policies = PolicyKeeper::open(policy_options).context("network policies cannot be kept")?;

    let informers = Informers::sharing(settings.proxy_client, settings.pool, stop.clone());
    {
        let (informers, stop) = (informers.clone(), stop.clone());
        tasks.spawn(async move { policies.run(&informers, stop).await });
    }
    {
        let (network, informers, stop) = (network.clone(), informers.clone(), stop.clone());
        tasks.spawn(async move { network.run(&informers, stop).await });
    }
    {
        let (informers, stop) = (informers.clone(), stop.clone());
        tasks.spawn(async move { proxy.run(&informers, stop).await });
    }
    {
        let (informers, stop) = (informers.clone(), stop.clone());
        tasks.spawn(async move {
            if let Err(failure) = names.run(&informers, stop).await {
                error!(%failure, "cluster DNS stopped");
            }
        });
    }

    let changed = network.changed();
    let mut config =
        NodeConfig::new(&settings.name, settings.client, runtime, Arc::new(network), settings.data_directory.join("node"), node_directory);
    config.node_ips = settings.addresses;
    config.cluster_dns = dns;
    config.cluster_domain = settings.cluster_domain;
    config.api_server = settings.api_server;
    config.version = apiserver::version::GIT_VERSION.to_owned();
    config.labels.extend(settings.labels);
    settings.options.apply(&mut config)?;
    let node = Arc::new(Node::new(config)?);
    {
        let (status_changed, stop) = (node.status_changed(), stop.clone());
        tasks.spawn(stop.run_until_cancelled_owned(async move {
            loop {
                changed.notified().await;
                status_changed.notify_one();
            }
        }));
    }
    {
        let (node, stop) = (node.clone(), stop.clone());
        tasks.spawn(async move {
            if let Err(failure) = node.run(stop.clone()).await {
                error!(error = format!("{:#}", anyhow::Error::new(failure)), "the node agent stopped");
                stop.cancel();
            }
        });
    }
    Ok(NodeParts { node, tasks })
}

impl NodeParts {
    /// Serves the node's own API to whom the API server lets, until the node stops, and its health to this machine.
    pub fn serve_api(&self, listener: TcpListener, tls: Arc<rustls::ServerConfig>) -> impl Future<Output = ()> + Send + 'static {
        let (api, access) = (self.node.node_api_service(), self.node.api_access());
        async move {
            let is_trusted = |caller: &pki::CertificateIdentity| caller.user == API_SERVER_CLIENT || caller.groups.iter().any(|group| group == "system:masters");
            let health = async {
                match TcpListener::bind((Ipv4Addr::LOCALHOST, HEALTH_PORT)).await {
                    Ok(listener) => api.listen_for_health(listener).await,
                    // Another node of this machine has it; health is at the other port, too.
                    Err(problem) => debug!(port = HEALTH_PORT, %problem, "the node's health cannot be asked for here"),
                }
            };
            tokio::join!(api.listen(listener, tls, access, is_trusted), health);
        }
    }

    /// Waits until every part has stopped.
    pub async fn finish(self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}
