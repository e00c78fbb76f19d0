//! The node agent: pod workers, probes, volumes, status, and the node's own API.
//!
//! * [`pods`]: follows the pods of this node and keeps a worker for each; [`pod`]: what happens to one pod
//! * [`registration`]: the Node object, its status and lease
//! * [`images`], [`image_access`], [`volume`], [`objects`], [`services`], [`tokens`], [`pod_certificates`]: what containers need before they start
//! * [`probe`], [`hooks`]: what is asked of containers while they run
//! * [`static_pods`]: pods from files of the node; [`shutdown`]: ending pods when the machine goes down
//! * [`eviction`]: who must go when memory or disk runs short
//! * [`api`]: the node's own API; [`logs`]: what it serves most
//! * [`config`], [`machine`], [`quantity`], [`clock`], [`events`], [`metrics`]: what all of these share
//!
//! It knows the API server only as a client, containers only as a `ContainerRuntime`, and the network only as a
//! `PodSandboxNetwork`. Nothing here polls; see [`registration`] for the one timer of a quiet node.

pub mod api;
pub mod api_error;
pub mod clock;
mod clock_jumps;
pub mod config;
pub mod events;
pub mod eviction;
pub mod extended_resources;
pub mod hooks;
pub mod image_access;
pub mod images;
pub mod logs;
pub mod machine;
pub mod metrics;
pub mod objects;
pub mod pod;
pub mod pod_certificates;
pub mod pods;
pub mod probe;
pub mod quantity;
pub mod registration;
pub mod services;
pub mod shutdown;
pub mod static_pods;
pub mod tokens;
pub mod volume;

use std::sync::Arc;

pub use config::NodeConfig;
use container_runtime::RuntimeError;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    api::NodeApiServer,
    config::Context, events::EventRecorder, eviction::recent::RecentShortages, image_access::ImageAccess, images::ImagePuller, machine::Machine, metrics::Metrics, objects::WatchedObjects, pod::user_namespaces::PodUsers, pod_certificates::PodCertificates, pods::{PodManager, Pods},
    registration::Registration, services::ServiceDirectory, tokens::TokenSource,
};

/// Why the node agent could not work.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The runtime does not answer.
    #[error("could not ask the container runtime what runs on this node; is it there, and are we root?")]
    Runtime(#[source] RuntimeError),
    /// A directory could not be made.
    #[error("could not make the directory {path}; check that it is on a writable file system")]
    Directory {
        /// Which one.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// One node.
pub struct Node {
    context: Arc<Context>,
    pods: Pods,
    status_changed: Arc<Notify>,
    stop: CancellationToken,
}

impl Node {
    /// A node that does not work yet. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Its directories cannot be made.
    pub fn new(mut config: NodeConfig) -> Result<Self, NodeError> {
        for path in [&config.data_directory, &config.run_directory, &config.log_directory] {
            std::fs::create_dir_all(path).map_err(|source| NodeError::Directory { path: path.clone(), source })?;
        }
        let stop = CancellationToken::new();
        let requests = client::RequestMetrics::new(config.api_server.as_str());
        config.client = config.client.counted_by(&requests);
        let (client, clock) = (config.client.clone(), config.clock.clone());
        let events = EventRecorder::start(client.clone(), &config.name, clock.clone());
        let pods = Pods::default();
        let context = Arc::new(Context {
            machine: Machine::read(&config.data_directory),
            requests,
            images: ImagePuller::new(config.runtime.clone(), clock.clone(), events.clone(), ImageAccess::open(config.data_directory.join("image-access.json"))),
            events: events.clone(),
            objects: WatchedObjects::new(client.clone()),
            services: ServiceDirectory::start(client.clone(), stop.clone()),
            tokens: TokenSource::new(client.clone(), clock.clone()),
            certificates: PodCertificates::new(client, clock, events.clone()),
            shortages: RecentShortages::default(),
            pod_users: PodUsers::of_node(&config),
            local_volumes: Arc::new(volume::local_volumes::LocalVolumes::of(&config)),
            pods: pods.clone(),
            metrics: Metrics::default(),
            is_shutting_down: std::sync::atomic::AtomicBool::new(false),
            network_ready: tokio::sync::watch::channel(false).0,
            node_labels: tokio::sync::watch::channel(None).0,
            config,
        });
        Ok(Self { context, pods, status_changed: Arc::default(), stop })
    }

    /// Tell this when the pod network turns ready or not: the node's status follows at once.
    #[must_use]
    pub fn status_changed(&self) -> Arc<Notify> {
        self.status_changed.clone()
    }

    /// The node's own API, to be registered with a dialer and to listen with.
    #[must_use]
    pub fn node_api_service(&self) -> NodeApiServer {
        NodeApiServer::new(self.context.clone(), self.pods.clone(), self.stop.clone())
    }

    /// How long [`Self::shut_down`] may take; nothing where pods are not ended.
    #[must_use]
    pub fn shutdown_time(&self) -> std::time::Duration {
        self.context.config.shutdown.iter().map(|group| group.grace).sum()
    }

    /// Lets in to the node's own API whom the API server lets.
    #[must_use]
    pub fn api_access(&self) -> api::access::Access {
        let config = &self.context.config;
        let judge = api::access::ApiJudge { client: config.client.clone(), node: config.name.clone() };
        api::access::Access::new(Arc::new(judge), config.clock.clone())
    }

    /// Ends this node's pods, since the machine is going down, as [`NodeConfig::shutdown`] says; the node takes no more afterwards.
    pub async fn shut_down(&self) {
        shutdown::run(&self.context, &self.status_changed).await;
    }

    /// Registers the node and works until it is cancelled. Containers go on running then.
    ///
    /// # Errors
    /// The runtime cannot be asked what runs.
    pub async fn run(&self, cancellation: CancellationToken) -> Result<(), NodeError> {
        let registration = Registration::new(self.context.clone(), self.status_changed.clone(), self.stop.clone());
        let manager = PodManager::new(self.context.clone(), self.pods.clone(), self.stop.clone());
        let rotation = self.stop.clone().run_until_cancelled_owned(logs::rotation::run(self.context.clone(), self.pods.clone()));
        let eviction = self.stop.clone().run_until_cancelled_owned(eviction::run(self.context.clone(), self.pods.clone()));
        let tidying = self.stop.clone().run_until_cancelled_owned(volume::local_volumes::run(self.context.clone()));
        let jumps = self.stop.clone().run_until_cancelled_owned(clock_jumps::watch(self.context.config.clock.clone(), self.pods.clone()));
        let both = async {
            let ((), result, ..) = tokio::join!(registration.run(), manager.run(), rotation, eviction, tidying, jumps);
            ((), result)
        };
        let mut both = std::pin::pin!(both);
        tokio::select! {
            ((), result) = &mut both => return result,
            () = cancellation.cancelled() => self.stop.cancel(),
        }
        let ((), result) = both.await;
        result
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
