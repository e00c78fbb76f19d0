//! Config maps, secrets and trust bundles that pods of this node refer to.
//!
//! Each referenced object has one watch of its own (a node may see no others), shared by all pods that refer to it and
//! ended with the last of them. A change wakes the workers of these pods at once. Trust bundles are few and the cluster's own:
//! one watch sees them all.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use client::{FeedEvent, Selection, Source, Watchable, feed};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        certificates::v1beta1::{ClusterTrustBundle, PodCertificateRequest},
        core::v1::{ConfigMap, Secret},
    },
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

/// How long a reader waits for an object that the server does not give out; upstream waits longer, but a worker is woken
/// as soon as the object is there.
const PATIENCE: Duration = Duration::from_secs(5);

/// Kinds that pods refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// ConfigMap
    ConfigMap,
    /// Secret
    Secret,
    /// All ClusterTrustBundles; see [`Reference::trust_bundles`].
    TrustBundles,
    /// All PodCertificateRequests of a node; see [`Reference::certificate_requests`].
    CertificateRequests,
}

impl Kind {
    /// As in upstream's messages.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
            Self::TrustBundles => "clustertrustbundle",
            Self::CertificateRequests => "podcertificaterequest",
        }
    }
}

/// Names one object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Reference {
    /// All trust bundles of the cluster.
    #[must_use]
    pub fn trust_bundles() -> Self {
        Self { kind: Kind::TrustBundles, namespace: String::new(), name: String::new() }
    }

    /// All requests for certificates that a node made.
    #[must_use]
    pub fn certificate_requests(node: &str) -> Self {
        Self { kind: Kind::CertificateRequests, namespace: String::new(), name: node.to_owned() }
    }

    fn selection(&self) -> Selection {
        match self.kind {
            Kind::TrustBundles => Selection::default(),
            Kind::CertificateRequests => Selection::fields(&format!("spec.nodeName={}", self.name)),
            Kind::ConfigMap | Kind::Secret => {
                Selection { namespace: Some(self.namespace.clone()), fields: Some(format!("metadata.name={}", self.name)), ..Selection::default() }
            }
        }
    }
}

/// What matters of a ClusterTrustBundle.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustBundle {
    /// Its name.
    pub name: String,
    /// The signer that published it; empty where none did.
    pub signer: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its certificates.
    pub pem: String,
}

/// What became of a PodCertificateRequest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nothing yet.
    Pending,
    /// It may not be.
    Denied {
        /// In one word.
        reason: String,
        /// In a sentence.
        message: String,
    },
    /// It cannot be.
    Failed {
        /// In one word.
        reason: String,
        /// In a sentence.
        message: String,
    },
    /// A certificate.
    Issued {
        /// PEM.
        chain: String,
        /// When to ask for the next one.
        refresh_at: Timestamp,
        /// When it ends.
        not_after: Timestamp,
    },
}

/// What matters of a config map or secret, or of all trust bundles or requests for certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// Its keys and values, texts and bytes alike.
    pub data: BTreeMap<String, Vec<u8>>,
    /// A secret's type.
    pub type_: String,
    /// Trust bundles, by their names.
    pub trust_bundles: Vec<TrustBundle>,
    /// Requests for certificates, by their namespaces and names.
    pub certificate_requests: BTreeMap<(String, String), Answer>,
}

/// What is known of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Not asked yet.
    Pending,
    /// It does not exist.
    Absent,
    /// It exists.
    Present(Arc<Content>),
    /// It cannot be read.
    Failed(String),
}

struct Entry {
    value: watch::Sender<Known>,
    wakes: Mutex<Vec<Weak<Notify>>>,
    /// Set once the entry can be reached from the task: what the task delivers before that would be lost.
    task: OnceLock<tokio::task::AbortHandle>,
}

impl Entry {
    /// Notes what is known now, and wakes those whom a change concerns.
    fn learn(&self, known: Known) {
        let changed = self.value.send_if_modified(|old| {
            let differs = *old != known;
            *old = known;
            differs
        });
        if changed {
            for wake in self.wakes.lock().iter().filter_map(Weak::upgrade) {
                wake.notify_one();
            }
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

/// All watched objects.
#[derive(Clone)]
pub struct WatchedObjects {
    client: client::Client,
    entries: Arc<Mutex<HashMap<Reference, Weak<Entry>>>>,
}

/// Keeps the watches of one pod's objects alive.
#[derive(Default)]
pub struct Subscriptions {
    entries: HashMap<Reference, Arc<Entry>>,
    /// Kept so that the entries can wake its owner.
    wake: Option<Arc<Notify>>,
}

impl WatchedObjects {
    /// Nothing watched yet.
    #[must_use]
    pub fn new(client: client::Client) -> Self {
        Self { client, entries: Arc::default() }
    }

    /// Watches these objects and no others for the owner of the subscriptions, whom every change wakes.
    pub fn subscribe(&self, subscriptions: &mut Subscriptions, wanted: impl IntoIterator<Item = Reference>, wake: &Arc<Notify>) {
        let mut kept = HashMap::new();
        for reference in wanted {
            let entry = match subscriptions.entries.remove(&reference) {
                Some(entry) => entry,
                None => self.entry(&reference, wake),
            };
            kept.insert(reference, entry);
        }
        subscriptions.entries = kept;
        subscriptions.wake = Some(wake.clone());
    }

    fn entry(&self, reference: &Reference, wake: &Arc<Notify>) -> Arc<Entry> {
        let mut entries = self.entries.lock();
        entries.retain(|_, entry| entry.strong_count() > 0);
        if let Some(entry) = entries.get(reference).and_then(Weak::upgrade) {
            let mut wakes = entry.wakes.lock();
            wakes.retain(|wake| wake.strong_count() > 0);
            wakes.push(Arc::downgrade(wake));
            drop(wakes);
            return entry;
        }
        let selection = reference.selection();
        let entry = Arc::new(Entry {
            value: watch::channel(Known::Pending).0,
            wakes: Mutex::new(vec![Arc::downgrade(wake)]),
            task: OnceLock::new(),
        });
        let weak = Arc::downgrade(&entry);
        let task = match reference.kind {
            Kind::ConfigMap => {
                let source = Source::new::<ConfigMap>(self.client.clone(), &(), selection);
                tokio::spawn(follow(source, weak, content_of_config_map))
            }
            Kind::Secret => {
                let source = Source::new::<Secret>(self.client.clone(), &(), selection);
                tokio::spawn(follow(source, weak, content_of_secret))
            }
            Kind::TrustBundles => tokio::spawn(follow_trust_bundles(Source::new::<ClusterTrustBundle>(self.client.clone(), &(), selection), weak)),
            Kind::CertificateRequests => tokio::spawn(follow_certificate_requests(Source::new::<PodCertificateRequest>(self.client.clone(), &(), selection), weak)),
        };
        entry.task.get_or_init(|| task.abort_handle());
        entries.insert(reference.clone(), Arc::downgrade(&entry));
        entry
    }
}

impl Subscriptions {
    /// What is known of an object now.
    #[must_use]
    pub fn known(&self, reference: &Reference) -> Known {
        self.entries.get(reference).map_or(Known::Pending, |entry| entry.value.borrow().clone())
    }

    /// Watches these objects and no others from now on.
    pub fn wake_for(&mut self, objects: &WatchedObjects, wanted: std::collections::BTreeSet<Reference>, wake: &Arc<Notify>) {
        if wanted.len() != self.entries.len() || wanted.iter().any(|reference| !self.entries.contains_key(reference)) {
            objects.subscribe(self, wanted, wake);
        }
    }

    /// All objects, as they are known now.
    #[must_use]
    pub fn now(&self) -> Snapshot {
        Snapshot { objects: self.entries.iter().map(|(reference, entry)| (reference.clone(), entry.value.borrow().clone())).collect() }
    }

    /// All objects, as they are known once each was asked for.
    pub async fn snapshot(&self) -> Snapshot {
        let mut objects = BTreeMap::new();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        for (reference, entry) in &self.entries {
            let mut value = entry.value.subscribe();
            let known = match tokio::time::timeout_at(deadline, value.wait_for(|known| *known != Known::Pending)).await {
                Ok(Ok(known)) => known.clone(),
                Ok(Err(_)) => Known::Failed("its watch ended".to_owned()),
                Err(_) => Known::Failed("timed out waiting for the condition".to_owned()),
            };
            objects.insert(reference.clone(), known);
        }
        Snapshot { objects }
    }

    /// The same subscriptions for another task, which may outlive this one.
    #[must_use]
    pub fn share(&self) -> Self {
        Self { entries: self.entries.clone(), wake: self.wake.clone() }
    }
}

/// Objects at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Each with what is known of it.
    pub objects: BTreeMap<Reference, Known>,
}

impl Snapshot {
    /// All trust bundles, where the pod refers to any.
    ///
    /// # Errors
    /// They could not be read.
    pub fn trust_bundles(&self) -> Result<Option<&Content>, String> {
        match self.objects.get(&Reference::trust_bundles()) {
            Some(Known::Present(content)) => Ok(Some(content)),
            Some(Known::Failed(reason)) => Err(format!("failed to read the cluster's trust bundles: {reason}")),
            Some(Known::Absent | Known::Pending) | None => Ok(None),
        }
    }

    /// What became of a node's request, `None` where it is not known.
    #[must_use]
    pub fn certificate_request(&self, node: &str, namespace: &str, name: &str) -> Option<Answer> {
        let Known::Present(content) = self.objects.get(&Reference::certificate_requests(node))? else { return None };
        content.certificate_requests.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// The content of one object, `None` where it does not exist.
    ///
    /// # Errors
    /// It could not be read.
    pub fn content(&self, kind: Kind, namespace: &str, name: &str) -> Result<Option<&Arc<Content>>, String> {
        let reference = Reference { kind, namespace: namespace.to_owned(), name: name.to_owned() };
        match self.objects.get(&reference) {
            Some(Known::Present(content)) => Ok(Some(content)),
            Some(Known::Failed(reason)) => Err(format!("failed to read {} \"{namespace}/{name}\": {reason}", kind.word())),
            Some(Known::Absent | Known::Pending) | None => Ok(None),
        }
    }
}

/// Follows one object. The feed tries again for ever; what was read before stays good while the server cannot be reached.
async fn follow<K>(source: Source, entry: Weak<Entry>, content: fn(K) -> Content)
where
    K: Watchable,
{
    feed::run(source, |event: FeedEvent<K>| {
        let Some(entry) = entry.upgrade() else { return };
        let known = match event {
            FeedEvent::Replaced { objects, .. } => match objects.into_iter().next() {
                Some(object) => Known::Present(Arc::new(content(object))),
                None => Known::Absent,
            },
            FeedEvent::Put(object) => Known::Present(Arc::new(content(object))),
            FeedEvent::Deleted(_) => Known::Absent,
            FeedEvent::Progress(_) => return,
        };
        entry.learn(known);
    })
    .await;
}

/// Follows all trust bundles.
async fn follow_trust_bundles(source: Source, entry: Weak<Entry>) {
    let mut bundles = BTreeMap::new();
    feed::run(source, |event: FeedEvent<ClusterTrustBundle>| {
        let Some(entry) = entry.upgrade() else { return };
        match event {
            FeedEvent::Replaced { objects, .. } => bundles = objects.into_iter().map(named_trust_bundle).collect(),
            FeedEvent::Put(object) => bundles.extend([named_trust_bundle(object)]),
            FeedEvent::Deleted(object) => drop(bundles.remove(object.metadata.name.as_deref().unwrap_or_default())),
            FeedEvent::Progress(_) => return,
        }
        entry.learn(Known::Present(Arc::new(Content { trust_bundles: bundles.values().cloned().collect(), ..Content::default() })));
    })
    .await;
}

fn named_trust_bundle(object: ClusterTrustBundle) -> (String, TrustBundle) {
    let name = object.metadata.name.unwrap_or_default();
    let bundle = TrustBundle {
        name: name.clone(),
        signer: object.spec.signer_name.unwrap_or_default(),
        labels: object.metadata.labels.unwrap_or_default(),
        pem: object.spec.trust_bundle,
    };
    (name, bundle)
}

/// Follows all requests for certificates of a node.
async fn follow_certificate_requests(source: Source, entry: Weak<Entry>) {
    let mut requests = BTreeMap::new();
    let key = |request: &PodCertificateRequest| (request.metadata.namespace.clone().unwrap_or_default(), request.metadata.name.clone().unwrap_or_default());
    feed::run(source, |event: FeedEvent<PodCertificateRequest>| {
        let Some(entry) = entry.upgrade() else { return };
        match event {
            FeedEvent::Replaced { objects, .. } => requests = objects.iter().map(|request| (key(request), answer(request))).collect(),
            FeedEvent::Put(request) => drop(requests.insert(key(&request), answer(&request))),
            FeedEvent::Deleted(request) => drop(requests.remove(&key(&request))),
            FeedEvent::Progress(_) => return,
        }
        entry.learn(Known::Present(Arc::new(Content { certificate_requests: requests.clone(), ..Content::default() })));
    })
    .await;
}

fn answer(request: &PodCertificateRequest) -> Answer {
    let status = request.status.clone().unwrap_or_default();
    let end = status.conditions.iter().flatten().find(|condition| matches!(condition.type_.as_str(), "Denied" | "Failed" | "Issued"));
    let said = |condition: &Condition| (condition.reason.clone(), condition.message.clone());
    match end.map(|condition| (condition.type_.as_str(), said(condition))) {
        Some(("Denied", (reason, message))) => Answer::Denied { reason, message },
        Some(("Failed", (reason, message))) => Answer::Failed { reason, message },
        Some(_) => {
            let time = |time: Option<Time>| time.map_or(Timestamp::MAX, |time| time.0);
            let chain = status.certificate_chain.unwrap_or_default();
            Answer::Issued { chain: format!("{}\n", chain.trim_end()), refresh_at: time(status.begin_refresh_at), not_after: time(status.not_after) }
        }
        None => Answer::Pending,
    }
}

fn content_of_config_map(object: ConfigMap) -> Content {
    let texts = object.data.into_iter().flatten().map(|(key, value)| (key, value.into_bytes()));
    let bytes = object.binary_data.into_iter().flatten().map(|(key, value)| (key, value.0));
    Content { data: texts.chain(bytes).collect(), ..Content::default() }
}

fn content_of_secret(object: Secret) -> Content {
    Content { data: object.data.into_iter().flatten().map(|(key, value)| (key, value.0)).collect(), type_: object.type_.unwrap_or_default(), ..Content::default() }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// Answers every list at once, and every watch with silence.
    fn answering_at_once() -> client::Client {
        client::Client::new(tower::service_fn(|request: http::Request<client::Body>| async move {
            if request.uri().query().is_some_and(|query| query.contains("watch=")) {
                std::future::pending::<()>().await;
            }
            let list = r#"{"metadata":{"resourceVersion":"1"},"items":[{"metadata":{"name":"a","namespace":"b"},"data":{"c":"d"}}]}"#;
            Ok::<_, Infallible>(http::Response::new(client::Body::from(list)))
        }))
    }

    /// The answer may be there before the subscriber has gone on: a pod once waited for ever for a config map that had been read.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_answer_is_lost_however_soon_it_comes() {
        let (objects, wake) = (WatchedObjects::new(answering_at_once()), Arc::new(Notify::new()));
        for round in 0..5_000 {
            let reference = Reference { kind: Kind::ConfigMap, namespace: "b".to_owned(), name: format!("a{round}") };
            let mut subscriptions = Subscriptions::default();
            objects.subscribe(&mut subscriptions, [reference.clone()], &wake);
            let snapshot = subscriptions.snapshot().await;
            assert!(matches!(snapshot.objects[&reference], Known::Present(_)), "round {round}: {snapshot:?}");
        }
    }
}
