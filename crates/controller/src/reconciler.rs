//! What a controller is: which changes wake it, and how it makes reality match an object.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Change, Informer, ObjectKey, Watchable};
use futures::future::BoxFuture;

use crate::WorkQueue;
use crate::ownership::controller_of;

/// One behaviour of the cluster, for instance: a ReplicaSet has as many pods as it asks for.
#[async_trait]
pub trait Reconciler: Send + Sync + 'static {
    /// The controller's name in logs and metrics, for instance `replicaset`.
    fn name(&self) -> &'static str;
    /// Which kinds wake us, and which key each of their objects maps to. Asked once, at start.
    fn triggers(&self) -> Vec<Trigger>;
    /// Makes reality match the object as it is now. Receives a key, never an event; the object may be gone. Safe to repeat. Never runs
    /// twice at once for one key.
    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError>;
}

/// How a reconciliation ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to do until something changes.
    Settled,
    /// Nothing to do until something changes or this time has passed.
    CheckAgainIn(Duration),
}

impl Outcome {
    /// Settled, or to be checked again after the shortest of the given times.
    pub fn after(times: impl IntoIterator<Item = Duration>) -> Self {
        times.into_iter().min().map_or(Self::Settled, Self::CheckAgainIn)
    }
}

/// Why a reconciliation did not reach its end. It is tried again, each time later.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API refused or did not answer.
    #[error("could not {action}: {source}")]
    Api {
        /// What was tried, as in "create pod default/web".
        action: String,
        /// Why not.
        #[source]
        source: client::Error,
    },
    /// An object says something that cannot be acted upon.
    #[error("{0}")]
    Unusable(String),
}

impl ReconcileError {
    /// Somebody else wrote first: normal, and cured by trying again.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Api { source, .. } if client::is_conflict(source))
    }
}

/// Names the step that failed.
pub trait Doing<T> {
    /// `action` completes the sentence "could not ...".
    fn doing(self, action: impl FnOnce() -> String) -> Result<T, ReconcileError>;
}

impl<T> Doing<T> for client::Result<T> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T, ReconcileError> {
        self.map_err(|source| ReconcileError::Api { action: action(), source })
    }
}

/// One reason to reconcile: changes of a kind, mapped to keys.
pub struct Trigger {
    pub(crate) attach: Box<dyn FnOnce(Arc<WorkQueue>) + Send>,
    pub(crate) synced: BoxFuture<'static, ()>,
}

impl Trigger {
    /// Every change of `informer`'s objects wakes the keys that `keys` names.
    pub fn on<K: Watchable>(informer: &Informer<K>, mut keys: impl FnMut(&Change<K>) -> Vec<ObjectKey> + Send + 'static) -> Self {
        let (attached, waited) = (informer.clone(), informer.clone());
        Self {
            attach: Box::new(move |queue| {
                attached.on_change(move |change| {
                    for key in keys(change) {
                        queue.add(key);
                    }
                });
            }),
            synced: Box::pin(async move { waited.has_synced().await }),
        }
    }

    /// Every change of an object wakes its own key.
    pub fn itself<K: Watchable>(informer: &Informer<K>) -> Self {
        Self::on(informer, |change| vec![change.key.clone()])
    }

    /// Every change of an object wakes the key of its controller, where that is of kind `kind` and lives in the same namespace.
    pub fn controller<K: Watchable>(informer: &Informer<K>, kind: &'static str) -> Self {
        Self::controller_where(informer, kind, |_| true)
    }

    /// As [`Trigger::controller`], for a reconciler that looks at all objects of a controller each time: only changes that are of
    /// interest wake it. That objects came or went should always be.
    pub fn controller_where<K: Watchable>(informer: &Informer<K>, kind: &'static str, interests: impl Fn(&Change<K>) -> bool + Send + 'static) -> Self {
        Self::on(informer, move |change| {
            if !interests(change) {
                return Vec::new();
            }
            let owner = |object: &Option<Arc<K>>| {
                let metadata = object.as_ref()?.meta();
                let reference = controller_of(metadata).filter(|reference| reference.kind == kind)?;
                Some(ObjectKey { namespace: metadata.namespace.as_deref().map(Into::into), name: reference.name.as_str().into() })
            };
            let (old, new) = (owner(&change.old), owner(&change.new));
            if old == new { new.into_iter().collect() } else { old.into_iter().chain(new).collect() }
        })
    }

    /// The reconciler reads this cache, but its changes wake nothing.
    pub fn reads<K: Watchable>(informer: &Informer<K>) -> Self {
        let waited = informer.clone();
        Self { attach: Box::new(|_| {}), synced: Box::pin(async move { waited.has_synced().await }) }
    }

    /// `start` is given the queue once, to add keys whenever it likes.
    pub fn custom(start: impl FnOnce(Arc<WorkQueue>) + Send + 'static) -> Self {
        Self { attach: Box::new(start), synced: Box::pin(std::future::ready(())) }
    }

    /// Nothing is reconciled before `ready` is.
    pub fn once(self, ready: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { synced: Box::pin(ready), ..self }
    }
}

