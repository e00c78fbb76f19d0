//! The informers of a process: one per kind and selection, started when first asked for.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{Informer, Pool, Selection, Shorten, Source, Watchable, feed};

/// Hands out informers. Cheap to clone; clones share their informers.
#[derive(Clone)]
pub struct Informers {
    inner: Arc<Inner>,
}

struct Inner {
    client: crate::Client,
    pool: Pool,
    stop: CancellationToken,
    running: Mutex<HashMap<(TypeId, Selection), Box<dyn Any + Send + Sync>>>,
    /// A [`Shorten`] of some kinds.
    shorten: Mutex<HashMap<TypeId, Box<dyn Any + Send + Sync>>>,
}

impl Informers {
    /// Informers that read through `client` until `stop` is cancelled.
    pub fn new(client: crate::Client, stop: CancellationToken) -> Self {
        Self::sharing(client, Pool::default(), stop)
    }

    /// The same, which keep objects once that other informers of the pool have too. All of them must read from the same cluster.
    pub fn sharing(client: crate::Client, pool: Pool, stop: CancellationToken) -> Self {
        Self { inner: Arc::new(Inner { client, pool, stop, running: Mutex::default(), shorten: Mutex::default() }) }
    }

    /// From now on, new informers of a kind hold objects without what `shorten` takes away: what none of their readers looks at, and
    /// what nobody may write back as if it were whole. Worth it for a kind of many and large objects.
    #[must_use]
    pub fn shortened<K: Watchable>(self, shorten: Shorten<K>) -> Self {
        self.inner.shorten.lock().insert(TypeId::of::<K>(), Box::new(shorten));
        self
    }

    /// The informer of all objects of a kind. Must be called within a tokio runtime, as it may start the watch.
    pub fn of<K>(&self) -> Informer<K>
    where
        K: Watchable + kube_core::Resource<DynamicType = ()>,
    {
        self.selected(Selection::default())
    }

    /// The informer of some objects of a kind, which has a watch of its own: worth it only where the selection is much smaller.
    pub fn selected<K>(&self, selection: Selection) -> Informer<K>
    where
        K: Watchable + kube_core::Resource<DynamicType = ()>,
    {
        let mut running = self.inner.running.lock();
        let id = (TypeId::of::<K>(), selection);
        if let Some(informer) = running.get(&id).and_then(|informer| informer.downcast_ref::<Informer<K>>()) {
            return informer.clone();
        }
        let shorten = self.inner.shorten.lock().get(&id.0).and_then(|shorten| shorten.downcast_ref::<Shorten<K>>()).copied();
        // The pool's objects are whole.
        let informer = if shorten.is_some() { Informer::new() } else { Informer::<K>::sharing(&self.inner.pool) };
        let source = Source::new::<K>(self.inner.client.clone(), &(), id.1.clone());
        let (fed, stop) = (informer.clone(), self.inner.stop.clone());
        tokio::spawn(async move { stop.run_until_cancelled(feed::run_shared(source, shorten, |event| fed.take_in(event))).await });
        running.insert(id, Box::new(informer.clone()));
        informer
    }

    /// The client the informers read through.
    pub fn client(&self) -> &crate::Client {
        &self.inner.client
    }

    /// Cancelled when the informers stop.
    pub fn stopped(&self) -> &CancellationToken {
        &self.inner.stop
    }
}
