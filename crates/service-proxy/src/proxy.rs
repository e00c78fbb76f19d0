//! Follows the cluster's Services and EndpointSlices and applies the transactions that follow.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use client::{Change, Informers};
use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use netlink::{ConntrackSocket, IpRange, NetlinkError, Route, RouteSocket};
use nftables::{KernelRuleset, NftablesError, Ruleset, TableWatch, Transaction};
use tokio_util::sync::CancellationToken;

use crate::{
    flows::ChangedFlows,
    health::HealthServers,
    own_health::OwnHealth,
    state::{Options, Plan, State},
};

/// How long to wait before a table that the kernel did not take is tried again. There is no event to wait for: what
/// stands in the way is outside (no memory, somebody else's hands).
const RETRY: Duration = Duration::from_secs(5);

/// Why the rules of services are not in force.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The kernel could not be reached.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The kernel did not take the rules.
    #[error("the rules of services are not in force")]
    Rules(#[from] NftablesError),
}

/// Marks our routes in the kernel's tables (`proto 76`).
const ROUTE_PROTOCOL: u8 = 76;

/// The service proxy of one node.
pub struct ServiceProxy {
    state: State,
    kernel: Arc<Kernel>,
}

/// What the proxy does to the kernel, apart from the state so that it can be done on a thread that may wait.
struct Kernel {
    rules: KernelRuleset,
    conntrack: Mutex<ConntrackSocket>,
    route: RouteSocket,
    /// Whether the routes of the service ranges are there.
    routed: AtomicBool,
    service_ranges: Vec<IpRange>,
}

impl ServiceProxy {
    /// A proxy in the calling thread's network namespace. Rules from before a restart stay in force until the first
    /// [`Self::commit`] replaces them, between two packets.
    pub fn open(options: Options) -> Result<Self, ProxyError> {
        let kernel = Kernel {
            rules: KernelRuleset::open()?,
            conntrack: Mutex::new(ConntrackSocket::open()?),
            route: RouteSocket::open()?,
            routed: AtomicBool::new(false),
            service_ranges: options.service_ranges.clone(),
        };
        Ok(Self { state: State::new(options), kernel: Arc::new(kernel) })
    }

    /// What the proxy knows; changes take effect with the next [`Self::commit`].
    pub fn state(&mut self) -> &mut State {
        &mut self.state
    }

    /// Brings the kernel's rules to where the state says, in one transaction.
    pub fn commit(&mut self) -> Result<(), ProxyError> {
        let plan = self.state.plan();
        let first = self.kernel.apply(&plan);
        self.settle(first)
    }

    /// As [`Self::commit`], on a thread that may wait: the kernel takes milliseconds for a transaction, longer the more
    /// rules there are. What arrives meanwhile goes into the next one.
    async fn commit_aside(&mut self) -> Result<(), ProxyError> {
        let plan = self.state.plan();
        let kernel = self.kernel.clone();
        let first = tokio::task::spawn_blocking(move || kernel.apply(&plan)).await;
        let first = first.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        self.settle(first)
    }

    /// A transaction that was not taken means that the table is not as we think: somebody else had hands in it.
    fn settle(&mut self, first: Result<(), ProxyError>) -> Result<(), ProxyError> {
        let Err(error) = first else { return Ok(()) };
        tracing::warn!(error = chain(&error), "the rules of services were not as expected; making them anew");
        self.state.distrust();
        let plan = self.state.plan();
        let second = self.kernel.apply(&plan);
        if second.is_err() {
            self.state.distrust();
        }
        second
    }

    /// Follows the cluster until it is stopped. The rules stay in force afterwards, so that a restart interrupts nothing.
    pub async fn run(&mut self, informers: &Informers, stop: CancellationToken) {
        let (services, slices, nodes) =
            (informers.of::<Service>(), informers.of::<EndpointSlice>(), informers.of::<Node>());
        let (mut service_changes, mut slice_changes, mut node_changes) =
            (services.subscribe(), slices.subscribe(), nodes.subscribe());
        // Rules made from half of the cluster would be worse than those from before a restart.
        let everything = async {
            services.has_synced().await;
            slices.has_synced().await;
        };
        if stop.run_until_cancelled(everything).await.is_none() {
            return;
        }
        let mut watch = TableWatch::open(self.state.options().table_name())
            .inspect_err(|error| tracing::warn!(%error, "should somebody flush nftables, services fail until they change"))
            .ok();
        let mut health = HealthServers::default();
        let own_health = OwnHealth::start();
        loop {
            while let Ok(change) = service_changes.try_recv() {
                self.take_service(&change);
            }
            while let Ok(change) = slice_changes.try_recv() {
                self.take_slice(&change);
            }
            while let Ok(change) = node_changes.try_recv() {
                self.take_node(&change, &own_health);
            }
            own_health.changed(Timestamp::now());
            let committed = self.commit_aside().await;
            own_health.committed(committed.is_ok(), Timestamp::now());
            health.answer(self.state.health());
            if let Err(error) = &committed {
                tracing::error!(error = chain(error), "trying again in {RETRY:?}");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                Some(change) = service_changes.recv() => self.take_service(&change),
                Some(change) = slice_changes.recv() => self.take_slice(&change),
                Some(change) = node_changes.recv() => self.take_node(&change, &own_health),
                Some(()) = lost(&mut watch) => {
                    tracing::warn!("somebody took the rules of services away; making them anew");
                    self.state.distrust();
                }
                () = tokio::time::sleep(RETRY), if committed.is_err() => {}
                else => return,
            }
        }
    }

    fn take_service(&mut self, change: &Change<Service>) {
        match &change.new {
            Some(service) => self.state.apply_service(service),
            None => self.state.delete_service(&change.key),
        }
    }

    fn take_slice(&mut self, change: &Change<EndpointSlice>) {
        match &change.new {
            Some(slice) => self.state.apply_slice(slice),
            None => self.state.delete_slice(&change.key),
        }
    }

    fn take_node(&mut self, change: &Change<Node>, own_health: &OwnHealth) {
        if *change.key.name != *self.state.options().node_name {
            return;
        }
        if let Some(node) = &change.new {
            own_health.take_node(node);
        }
        let labels = change.new.as_ref().and_then(|node| node.metadata.labels.as_ref());
        self.state.set_zone(labels.and_then(|labels| labels.get("topology.kubernetes.io/zone")).cloned());
    }

    /// Takes the table and the routes away.
    pub fn teardown(&mut self) -> Result<(), ProxyError> {
        self.state.distrust();
        self.kernel.routed.store(false, Ordering::Relaxed);
        for route in self.kernel.routes()? {
            self.kernel.route.delete_route(&route)?;
        }
        Ok(self.kernel.rules.commit(&Transaction::removing(self.state.options().table_name()))?)
    }
}

impl Kernel {
    fn apply(&self, plan: &Plan) -> Result<(), ProxyError> {
        self.rules.commit(&plan.transaction)?;
        // Only now: without the rules a packet that is forwarded to the loopback link would come round again.
        if !self.routed.load(Ordering::Relaxed) {
            for route in self.routes()? {
                self.route.replace_route(&route)?;
            }
            self.routed.store(true, Ordering::Relaxed);
        }
        self.forget(&plan.flows);
        Ok(())
    }

    /// A way to every service, so that the packets of this node get as far as the rules. (IPv6 has no such routes: on the
    /// loopback link they mean "unreachable".)
    fn routes(&self) -> Result<Vec<Route>, ProxyError> {
        let Some(loopback) = self.route.link("lo")? else { return Ok(Vec::new()) };
        let ranges = self.service_ranges.iter().filter(|range| range.is_ipv4());
        Ok(ranges.map(|range| Route::to_link(*range, loopback.index, ROUTE_PROTOCOL)).collect())
    }

    fn forget(&self, flows: &ChangedFlows) {
        if flows.is_empty() {
            return;
        }
        let mut conntrack = self.conntrack.lock().unwrap_or_else(PoisonError::into_inner);
        match conntrack.forget(|flow| flows.is_stale(flow)) {
            Ok(count) => tracing::debug!(count, "forgot UDP flows to endpoints that are gone"),
            Err(error) => tracing::warn!(%error, "could not forget UDP flows to endpoints that are gone"),
        }
    }
}

/// Waits until the table is gone; none, and no more watching, where that cannot be heard.
async fn lost(watch: &mut Option<TableWatch>) -> Option<()> {
    let heard = watch.as_mut()?.lost().await;
    if let Err(error) = &heard {
        tracing::warn!(%error, "should somebody flush nftables, services fail until they change");
        *watch = None;
    }
    heard.ok()
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
