//! Watches the metadata of every kind that is served into the graph. Kinds that come or go (custom resources) join or leave.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use client::{Backoff, FeedEvent, MetadataOnly, ObjectKey, Selection, Source, feed};
use controller::WorkQueue;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::graph::{Graph, Node};
use crate::discovery::{ServedResource, served_resources};
use crate::content::{Content, ContentChange};

/// Changes of the served kinds come in bursts; they are looked at together after this pause.
const BURST_PAUSE: Duration = Duration::from_millis(50);
/// The API server may serve a new kind a moment after it says so: one more look after this time.
const SECOND_LOOK: Duration = Duration::from_secs(2);
/// Objects of these are not tracked: they own nothing, nobody owns them, and there are many.
const IGNORED: [(&str, &str); 2] = [("", "events"), ("events.k8s.io", "events")];

/// The watches and the graph they feed.
pub(super) struct Monitors {
    client: client::Client,
    content: Content,
    stop: CancellationToken,
    /// How long all kinds are waited for at start.
    patience: Duration,
    graph: Mutex<Graph>,
    queue: OnceLock<Arc<WorkQueue>>,
    running: Mutex<HashMap<Arc<ServedResource>, Monitor>>,
    /// All kinds that are served, watched or not.
    served: Mutex<Vec<Arc<ServedResource>>>,
    kinds_changed: Notify,
    synced: watch::Sender<bool>,
}

struct Monitor {
    stop: CancellationToken,
    synced: watch::Receiver<bool>,
}

impl Monitors {
    pub fn new(client: client::Client, content: Content, stop: CancellationToken, patience: Duration) -> Arc<Self> {
        Arc::new(Self {
            client,
            content,
            stop,
            patience,
            graph: Mutex::default(),
            queue: OnceLock::new(),
            running: Mutex::default(),
            served: Mutex::default(),
            kinds_changed: Notify::new(),
            synced: watch::Sender::new(false),
        })
    }

    /// Starts watching; objects that need attention go to `queue`, by uid.
    pub fn start(self: Arc<Self>, queue: Arc<WorkQueue>) {
        if self.queue.set(queue).is_ok() {
            let counting = Arc::downgrade(&self);
            self.content.counted_by(move |group, resource, namespace| counting.upgrade()?.count(group, resource, namespace));
            let stop = self.stop.clone();
            tokio::spawn(stop.run_until_cancelled_owned(self.follow_kinds()));
        }
    }

    pub fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock()
    }

    /// Waits until all kinds served at start were read once, or long enough.
    pub async fn synced(&self) {
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// The resource whose objects an owner reference of this version and kind means. Other versions of a group mean the same objects.
    pub fn resource(&self, api_version: &str, kind: &str) -> Option<Arc<ServedResource>> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        self.served.lock().iter().find(|served| served.group == group && served.kind == kind).cloned()
    }

    async fn follow_kinds(self: Arc<Self>) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(30));
        loop {
            match served_resources(&self.client).await {
                Ok(served) => {
                    backoff.reset();
                    self.watch_kinds(served);
                }
                Err(error) => {
                    tracing::debug!(%error, "the garbage collector does not know the served kinds yet");
                    tokio::time::sleep(backoff.next_delay()).await;
                    continue;
                }
            }
            if !*self.synced.borrow() {
                let waits: Vec<_> = self.running.lock().values().map(|monitor| monitor.synced.clone()).collect();
                let all = async {
                    for mut wait in waits {
                        let _ = wait.wait_for(|synced| *synced).await;
                    }
                };
                if tokio::time::timeout(self.patience, all).await.is_err() {
                    tracing::warn!("some kinds cannot be read, perhaps since their conversion webhook does not answer; garbage of the others is collected");
                }
                self.synced.send_replace(true);
            }
            self.kinds_changed.notified().await;
            tokio::time::sleep(BURST_PAUSE).await;
            let again = Arc::clone(&self);
            tokio::spawn(async move {
                tokio::time::sleep(SECOND_LOOK).await;
                if let Ok(served) = served_resources(&again.client).await
                    && !again.stop.is_cancelled()
                {
                    again.watch_kinds(served);
                }
            });
        }
    }

    /// Starts and stops watches so that exactly the served kinds are watched.
    fn watch_kinds(self: &Arc<Self>, served: Vec<ServedResource>) {
        let is_tracked = |resource: &ServedResource| {
            ["list", "watch", "delete"].into_iter().all(|verb| resource.can(verb)) && !IGNORED.contains(&(&resource.group, &resource.resource))
        };
        let served: Vec<Arc<ServedResource>> = served.into_iter().map(Arc::new).collect();
        let mut running = self.running.lock();
        let left: Vec<_> = running.keys().filter(|resource| !served.contains(resource)).cloned().collect();
        for resource in left {
            if let Some(monitor) = running.remove(&resource) {
                monitor.stop.cancel();
            }
            self.forget(&resource);
        }
        for resource in served.iter().filter(|resource| is_tracked(resource)) {
            if !running.contains_key(resource) {
                running.insert(resource.clone(), self.watch(resource.clone()));
            }
        }
        drop(running);
        let known = std::mem::replace(&mut *self.served.lock(), served.clone());
        // Of an owner whose kind was not served nobody could tell whether it is there.
        if *self.synced.borrow() && served.iter().any(|resource| !known.contains(resource)) {
            let doubtful = self.graph.lock().with_unknown_owners();
            self.attend(doubtful);
        }
    }

    fn watch(self: &Arc<Self>, resource: Arc<ServedResource>) -> Monitor {
        let stop = self.stop.child_token();
        let (sender, synced) = watch::channel(false);
        let source = Source::new::<MetadataOnly>(self.client.clone(), &resource.api_resource(), Selection::default()).metadata_only();
        let monitors = self.clone();
        let changes_kinds = matches!((resource.group.as_str(), resource.resource.as_str()), ("apiextensions.k8s.io", "customresourcedefinitions") | ("apiregistration.k8s.io", "apiservices"));
        let deliver = move |event: FeedEvent<MetadataOnly>| {
            match event {
                FeedEvent::Replaced { objects, .. } => {
                    monitors.replace(&resource, objects);
                    sender.send_replace(true);
                }
                FeedEvent::Put(object) => monitors.put(&resource, &object),
                FeedEvent::Deleted(object) => {
                    if let Some(uid) = &object.metadata.uid {
                        monitors.remove(uid);
                    }
                    monitors.tell(&object, true);
                }
                FeedEvent::Progress(_) => return,
            }
            if changes_kinds && *monitors.synced.borrow() {
                monitors.kinds_changed.notify_one();
            }
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(feed::run(source, deliver)));
        Monitor { stop, synced }
    }

    fn put(&self, resource: &Arc<ServedResource>, object: &MetadataOnly) {
        if let Some(node) = Node::read(resource, &object.metadata) {
            let (is_new, attend) = {
                let mut graph = self.graph.lock();
                (graph.get(&node.uid).is_none(), graph.put(node))
            };
            self.attend(attend);
            if is_new {
                self.tell(object, false);
            }
        }
    }

    fn tell(&self, object: &MetadataOnly, is_gone: bool) {
        if let Some(namespace) = object.metadata.namespace.as_deref().filter(|namespace| !namespace.is_empty()) {
            self.content.tell(ContentChange { namespace, is_gone });
        }
    }

    /// How many objects of a resource are in a namespace.
    fn count(&self, group: &str, resource: &str, namespace: &str) -> Option<usize> {
        let is_known = self.running.lock().iter().any(|(served, monitor)| served.group == group && served.resource == resource && *monitor.synced.borrow());
        is_known.then(|| self.graph.lock().count(group, resource, namespace))
    }

    fn remove(&self, uid: &str) {
        let attend = self.graph.lock().remove(uid);
        self.attend(attend);
    }

    fn replace(&self, resource: &Arc<ServedResource>, objects: Vec<MetadataOnly>) {
        let mut gone: std::collections::HashSet<Arc<str>> = self.graph.lock().of_resource(resource).into_iter().collect();
        for object in &objects {
            if let Some(uid) = &object.metadata.uid {
                gone.remove(uid.as_str());
            }
            self.put(resource, object);
        }
        for uid in gone {
            self.remove(&uid);
        }
    }

    /// A kind is not served any more, so its objects are gone.
    fn forget(&self, resource: &Arc<ServedResource>) {
        let uids = self.graph.lock().of_resource(resource);
        for uid in uids {
            self.remove(&uid);
        }
    }

    fn attend(&self, uids: Vec<Arc<str>>) {
        if let Some(queue) = self.queue.get() {
            for uid in uids {
                queue.add(ObjectKey { namespace: None, name: uid });
            }
        }
    }
}
