//! What every controller is handed: caches, clients, the clock.

use std::{sync::Arc, time::Duration};

use client::{Clock, EventRecorder, Informers};
use controller::Runner;

/// Makes the client that acts as one controller's service account.
pub type ClientFor = Arc<dyn Fn(&str) -> client::Client + Send + Sync>;

/// What every controller is handed. Cheap to clone.
#[derive(Clone)]
pub struct ControllerContext {
    /// The caches that all controllers share. Their client acts as `system:kube-controller-manager`, which may read everything.
    pub informers: Informers,
    /// The client for a controller's writes, by the name of its service account in `kube-system`, for instance
    /// `deployment-controller`.
    pub client_for: ClientFor,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl ControllerContext {
    /// The client that acts as the service account `name` of `kube-system`.
    pub fn client(&self, name: &str) -> client::Client {
        (self.client_for)(name)
    }

    /// A recorder for events of the controller `name`, written by that controller's service account.
    pub fn events(&self, name: &str) -> EventRecorder {
        EventRecorder::new(self.client(name), name, None, self.clock.clone())
    }

    /// The same, of a controller whose events upstream calls by another name than its account.
    pub fn events_as(&self, account: &str, component: &str) -> EventRecorder {
        EventRecorder::new(self.client(account), component, None, self.clock.clone())
    }

    /// A runner that stops together with the caches.
    pub fn runner(&self) -> Runner {
        Runner::new(self.clock.clone(), self.informers.stopped().clone())
    }
}

/// What the controllers have to know of the cluster.
#[derive(Clone)]
pub struct Settings {
    /// The certificate of the cluster's authority, in PEM: published to every namespace.
    pub root_ca: String,
    /// Whether that is also published as a ClusterTrustBundle; its API is served only where it was asked for.
    pub cluster_trust_bundles: bool,
    /// Whether nodes can ask for certificates of their pods: that API, too, is served only where it was asked for.
    pub pod_certificate_requests: bool,
    /// Signs the certificates of nodes; absent where this process does not hold the authority's key.
    pub authority: Option<Arc<pki::ClusterAuthority>>,
    /// The ranges that nodes get their pods' addresses from, for instance `10.42.0.0/16`; at most one per family.
    pub cluster_cidrs: Vec<String>,
    /// A node that did not report for this long is not known to be well.
    pub node_monitor_grace_period: Duration,
    /// How long signed certificates live where nothing shorter is asked for.
    pub signing_duration: Duration,
}

/// Source: Kubernetes 1.36, `--node-monitor-grace-period`.
pub const NODE_MONITOR_GRACE_PERIOD: Duration = Duration::from_secs(50);

/// A year. Source: Kubernetes 1.36, `--cluster-signing-duration`.
pub const SIGNING_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

impl Default for Settings {
    fn default() -> Self {
        Self { root_ca: String::new(), cluster_trust_bundles: false, pod_certificate_requests: false, authority: None, cluster_cidrs: Vec::new(), node_monitor_grace_period: NODE_MONITOR_GRACE_PERIOD, signing_duration: SIGNING_DURATION }
    }
}
