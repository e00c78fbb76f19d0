//! Follows policies and, once there is one, pods and namespaces; applies the transactions that follow.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use client::{Change, Informers};
use k8s_openapi::api::{
    core::v1::{Namespace, Pod},
    networking::v1::NetworkPolicy,
};
use nftables::{Contents, KernelRuleset, NftablesError, Ruleset, TableWatch, Transaction};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

use crate::{Cluster, pod::PodFacts, policy::PolicyFacts};

/// How long to wait before a table that the kernel did not take is tried again. There is no event to wait for.
const RETRY: Duration = Duration::from_secs(5);

/// What the keeper of a node is told at start.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of the cluster; with the node's name it sets our table apart from others in the same namespace.
    pub cluster: String,
    /// Name of this node.
    pub node_name: String,
}

impl Options {
    /// Name of the nftables table.
    pub fn table_name(&self) -> String {
        format!("knarr-{}-{}-policies", self.cluster, self.node_name).chars().take(100).collect()
    }
}

/// Keeps the policies of one node's pods.
pub struct PolicyKeeper {
    options: Options,
    rules: Arc<KernelRuleset>,
    cluster: Cluster,
    /// What the kernel's table holds; none where there is no table, or nobody knows.
    installed: Option<Contents>,
    /// Whether `installed` is the truth.
    certain: bool,
}

/// Pods and namespaces, which nobody needs to know before there is a policy.
struct Followed {
    pods: UnboundedReceiver<Change<Pod>>,
    namespaces: UnboundedReceiver<Change<Namespace>>,
}

/// Why a keeper could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("the kernel's packet filter cannot be reached")]
pub struct OpenError(#[from] netlink::NetlinkError);

impl PolicyKeeper {
    /// A keeper in the calling thread's network namespace. Rules from before a restart stay until the first change.
    ///
    /// # Errors
    /// The kernel cannot be reached.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        Ok(Self { options, rules: Arc::new(KernelRuleset::open()?), cluster: Cluster::default(), installed: None, certain: false })
    }

    /// Takes in a policy as it is now; as all changes, it takes effect with the next [`Self::commit`]. Says whether it is news.
    pub fn apply_policy(&mut self, policy: &NetworkPolicy) -> bool {
        keep(&mut self.cluster.policies, client::key_of(policy), PolicyFacts::of(policy))
    }

    /// Takes in a pod as it is now, and says whether it is news.
    pub fn apply_pod(&mut self, pod: &Pod) -> bool {
        keep(&mut self.cluster.pods, client::key_of(pod), PodFacts::of(pod))
    }

    /// What the keeper knows; changes take effect with the next [`Self::commit`].
    pub fn cluster(&mut self) -> &mut Cluster {
        &mut self.cluster
    }

    /// Brings the kernel's table to where the policies say, in one transaction.
    ///
    /// # Errors
    /// The kernel did not take it; the next one makes the whole table anew.
    pub fn commit(&mut self) -> Result<(), NftablesError> {
        let (transaction, wanted) = self.plan();
        let outcome = self.rules.commit(&transaction);
        self.settle(outcome, wanted)
    }

    fn plan(&self) -> (Transaction, Option<Contents>) {
        let wanted = self.cluster.contents(&self.options.node_name);
        let table = self.options.table_name();
        let transaction = match (&wanted, &self.installed) {
            (None, None) if self.certain => Transaction::new(table),
            (None, _) => Transaction::removing(table),
            (Some(wanted), installed) => wanted.transaction(&table, installed.as_ref().filter(|_| self.certain)),
        };
        (transaction, wanted)
    }

    fn settle(&mut self, outcome: Result<(), NftablesError>, wanted: Option<Contents>) -> Result<(), NftablesError> {
        self.certain = outcome.is_ok();
        self.installed = wanted.filter(|_| outcome.is_ok());
        outcome
    }

    /// As [`Self::commit`], on a thread that may wait; says whether the rules are in force.
    async fn commit_aside(&mut self) -> bool {
        let (transaction, wanted) = self.plan();
        let rules = self.rules.clone();
        let outcome = tokio::task::spawn_blocking(move || rules.commit(&transaction)).await;
        let outcome = outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        let settled = self.settle(outcome, wanted);
        if let Err(error) = &settled {
            tracing::error!(%error, "network policies are not in force; trying again in {RETRY:?}");
        }
        settled.is_ok()
    }

    /// Follows the cluster until it is stopped. The rules stay in force afterwards, so that a restart opens nothing.
    pub async fn run(&mut self, informers: &Informers, stop: CancellationToken) {
        let policies = informers.of::<NetworkPolicy>();
        let mut policy_changes = policies.subscribe();
        if stop.run_until_cancelled(policies.has_synced()).await.is_none() {
            return;
        }
        let mut followed: Option<Followed> = None;
        let mut watch = TableWatch::open(self.options.table_name()).ok();
        let (mut changed, mut in_force) = (true, true);
        loop {
            while let Ok(change) = policy_changes.try_recv() {
                changed |= self.take_policy(&change);
            }
            if followed.is_none() && !self.cluster.policies.is_empty() {
                let Some(known) = stop.run_until_cancelled(Followed::begin(informers)).await else { return };
                followed = Some(known);
                changed = true;
            }
            if let Some(followed) = &mut followed {
                while let Ok(change) = followed.pods.try_recv() {
                    changed |= self.take_pod(&change);
                }
                while let Ok(change) = followed.namespaces.try_recv() {
                    changed |= self.take_namespace(&change);
                }
            }
            if changed {
                in_force = self.commit_aside().await;
            }
            let (pods, namespaces) = followed.as_mut().map(|followed| (&mut followed.pods, &mut followed.namespaces)).unzip();
            changed = tokio::select! {
                () = stop.cancelled() => return,
                Some(change) = policy_changes.recv() => self.take_policy(&change),
                Some(change) = next(pods) => self.take_pod(&change),
                Some(change) = next(namespaces) => self.take_namespace(&change),
                Some(()) = lost(&mut watch), if self.installed.is_some() => {
                    tracing::warn!("somebody took the rules of network policies away; making them anew");
                    self.certain = false;
                    true
                }
                () = tokio::time::sleep(RETRY), if !in_force => true,
                else => return,
            };
        }
    }

    fn take_policy(&mut self, change: &Change<NetworkPolicy>) -> bool {
        keep(&mut self.cluster.policies, change.key.clone(), change.new.as_deref().and_then(PolicyFacts::of))
    }

    fn take_pod(&mut self, change: &Change<Pod>) -> bool {
        keep(&mut self.cluster.pods, change.key.clone(), change.new.as_deref().and_then(PodFacts::of))
    }

    fn take_namespace(&mut self, change: &Change<Namespace>) -> bool {
        let labels = change.new.as_deref().map(|namespace| namespace.metadata.labels.clone().unwrap_or_default());
        keep(&mut self.cluster.namespaces, change.key.name.to_string(), labels)
    }
}

impl Followed {
    /// Waits until all there are have been read: a peer that is missing would be shut out.
    async fn begin(informers: &Informers) -> Self {
        let (pods, namespaces) = (informers.of::<Pod>(), informers.of::<Namespace>());
        let followed = Self { pods: pods.subscribe(), namespaces: namespaces.subscribe() };
        pods.has_synced().await;
        namespaces.has_synced().await;
        followed
    }
}

/// Takes in what is known now, and says whether that is news.
fn keep<K: Ord, V: PartialEq>(all: &mut BTreeMap<K, V>, key: K, now: Option<V>) -> bool {
    if all.get(&key) == now.as_ref() {
        return false;
    }
    match now {
        Some(now) => all.insert(key, now),
        None => all.remove(&key),
    };
    true
}

/// The next change; never one of what is not followed.
async fn next<T>(changes: Option<&mut UnboundedReceiver<T>>) -> Option<T> {
    match changes {
        Some(changes) => changes.recv().await,
        None => std::future::pending().await,
    }
}

/// Waits until the table is gone; none, and no more watching, where that cannot be heard.
async fn lost(watch: &mut Option<TableWatch>) -> Option<()> {
    let heard = watch.as_mut()?.lost().await;
    if let Err(error) = &heard {
        tracing::warn!(%error, "should somebody flush nftables, network policies fail until something changes");
        *watch = None;
    }
    heard.ok()
}
