//! Follows the cluster's Services and EndpointSlices and applies the transactions that follow.

use std::time::Duration;

use client::{Change, Informers};
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use netlink::{ConntrackSocket, NetlinkError};
use nftables::{KernelRuleset, NftablesError, Ruleset, Transaction};
use tokio_util::sync::CancellationToken;

use crate::{
    flows::ChangedFlows,
    state::{Options, State},
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

/// The service proxy of one node.
pub struct ServiceProxy {
    state: State,
    rules: Box<dyn Ruleset>,
    conntrack: ConntrackSocket,
}

impl ServiceProxy {
    /// A proxy in the calling thread's network namespace. Rules from before a restart stay in force until the first
    /// [`Self::commit`] replaces them, between two packets.
    pub fn open(options: Options) -> Result<Self, ProxyError> {
        let rules = Box::new(KernelRuleset::open()?);
        Ok(Self { state: State::new(options), rules, conntrack: ConntrackSocket::open()? })
    }

    /// What the proxy knows; changes take effect with the next [`Self::commit`].
    pub fn state(&mut self) -> &mut State {
        &mut self.state
    }

    /// Brings the kernel's rules to where the state says, in one transaction.
    pub fn commit(&mut self) -> Result<(), ProxyError> {
        let plan = self.state.plan();
        let flows = plan.flows;
        if let Err(error) = self.rules.commit(&plan.transaction) {
            tracing::warn!(error = chain(&error), "the rules of services were not as expected; making them anew");
            self.state.distrust();
            if let Err(error) = self.rules.commit(&self.state.plan().transaction) {
                self.state.distrust();
                return Err(error.into());
            }
        }
        self.forget(&flows);
        Ok(())
    }

    fn forget(&mut self, flows: &ChangedFlows) {
        if flows.is_empty() {
            return;
        }
        match self.conntrack.forget(|flow| flows.is_stale(flow)) {
            Ok(count) => tracing::debug!(count, "forgot UDP flows to endpoints that are gone"),
            Err(error) => tracing::warn!(%error, "could not forget UDP flows to endpoints that are gone"),
        }
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
        loop {
            while let Ok(change) = service_changes.try_recv() {
                self.take_service(&change);
            }
            while let Ok(change) = slice_changes.try_recv() {
                self.take_slice(&change);
            }
            while let Ok(change) = node_changes.try_recv() {
                self.take_node(&change);
            }
            let committed = self.commit();
            if let Err(error) = &committed {
                tracing::error!(error = chain(error), "trying again in {RETRY:?}");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                Some(change) = service_changes.recv() => self.take_service(&change),
                Some(change) = slice_changes.recv() => self.take_slice(&change),
                Some(change) = node_changes.recv() => self.take_node(&change),
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

    fn take_node(&mut self, change: &Change<Node>) {
        if *change.key.name != *self.state.options().node_name {
            return;
        }
        let labels = change.new.as_ref().and_then(|node| node.metadata.labels.as_ref());
        self.state.set_zone(labels.and_then(|labels| labels.get("topology.kubernetes.io/zone")).cloned());
    }

    /// Takes the table away.
    pub fn teardown(&mut self) -> Result<(), ProxyError> {
        self.state.distrust();
        Ok(self.rules.commit(&Transaction::removing(self.state.options().table_name()))?)
    }
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
