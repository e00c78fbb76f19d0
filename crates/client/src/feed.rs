//! One list and watch of a collection, resumed after every kind of interruption: a closed watch goes on from the last revision it
//! saw, an expired revision means listing again, and failures are retried with back-off. Costs nothing while nothing changes.
//!
//! Objects come without managed fields: only the API server looks at these, and to read them takes as long as the rest.
//!
//! Informers keep what a feed delivers; whoever wants another form (the garbage collector's graph) reads a feed itself.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::io::{AsyncBufRead, AsyncBufReadExt};
use futures::StreamExt;
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use kube_core::{Request, params::{ListParams, WatchParams}};
use rand::Rng;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{Backoff, Watchable, requests::{Listing, exchange}, shared::{self, Handed}, transport::Events};

/// The server closes a watch after this many seconds, more or less; it is then resumed. It bounds how long a connection that died
/// unnoticed can be mistaken for a quiet one.
const WATCH_SECONDS: std::ops::RangeInclusive<u32> = 240..=290;
/// How much longer than asked for a watch may stay open before it counts as dead.
const WATCH_GRACE: Duration = Duration::from_secs(15);
const FIRST_DELAY: Duration = Duration::from_millis(20);
const LONGEST_DELAY: Duration = Duration::from_secs(10);

/// Which objects of a kind: all by default.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Selection {
    /// Only those of one namespace.
    pub namespace: Option<String>,
    /// A label selector, as in a URL.
    pub labels: Option<String>,
    /// A field selector, as in a URL.
    pub fields: Option<String>,
}

impl Selection {
    /// Only objects of `namespace`.
    pub fn in_namespace(namespace: &str) -> Self {
        Self { namespace: Some(namespace.to_owned()), ..Self::default() }
    }

    /// Only objects that a field selector picks, for example `spec.nodeName=a`.
    pub fn fields(selector: &str) -> Self {
        Self { fields: Some(selector.to_owned()), ..Self::default() }
    }

    /// Only objects that a label selector picks.
    pub fn labels(selector: &str) -> Self {
        Self { labels: Some(selector.to_owned()), ..Self::default() }
    }
}

/// A collection to read, and as whom.
#[derive(Clone)]
pub struct Source {
    client: crate::Client,
    url_path: String,
    selection: Selection,
    metadata_only: bool,
}

impl Source {
    /// The objects of kind `K` that `selection` picks. `dynamic` is `()` for the types of `k8s-openapi`.
    pub fn new<K: kube_core::Resource>(client: crate::Client, dynamic: &K::DynamicType, selection: Selection) -> Self {
        let url_path = K::url_path(dynamic, selection.namespace.as_deref());
        Self { client, url_path, selection, metadata_only: false }
    }

    /// Asks for `PartialObjectMetadata` instead of whole objects.
    pub fn metadata_only(self) -> Self {
        Self { metadata_only: true, ..self }
    }

    async fn list<K: Watchable>(&self) -> crate::Result<Listing<K>> {
        // Revision 0: what the server has at hand will do, since the watch brings what is newer.
        let parameters = ListParams {
            label_selector: self.selection.labels.clone(),
            field_selector: self.selection.fields.clone(),
            ..ListParams::default().match_any()
        };
        let request = Request::new(&self.url_path);
        let request = if self.metadata_only { request.list_metadata(&parameters) } else { request.list(&parameters) };
        Listing::from_json_unmanaged(&exchange(&self.client, request.map_err(crate::Error::BuildRequest)?).await?)
    }
}

/// What a feed delivers, in order.
#[derive(Debug, Clone)]
pub enum FeedEvent<K> {
    /// Everything there is, read anew; objects not in it are gone. Always the first event, and again after an expired revision.
    Replaced {
        /// All objects.
        objects: Vec<K>,
        /// The revision this is the state of.
        revision: String,
    },
    /// An object was created or changed.
    Put(K),
    /// An object is gone (or no longer selected); this is its last state, with the revision of the removal.
    Deleted(K),
    /// Nothing changed up to this revision.
    Progress(String),
}

impl<T> FeedEvent<T> {
    /// The same event with its objects in another form.
    pub fn map<U>(self, mut form: impl FnMut(T) -> U) -> FeedEvent<U> {
        match self {
            Self::Replaced { objects, revision } => FeedEvent::Replaced { objects: objects.into_iter().map(form).collect(), revision },
            Self::Put(object) => FeedEvent::Put(form(object)),
            Self::Deleted(object) => FeedEvent::Deleted(form(object)),
            Self::Progress(revision) => FeedEvent::Progress(revision),
        }
    }
}

/// One line of a watch, before its object is read: the kinds' own code then sees plain JSON, and each kind is read by one piece of
/// code for lists and watches.
#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    kind: FrameKind,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum FrameKind {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

/// As much of a bookmark as is looked at.
#[derive(Deserialize)]
struct Bookmark {
    metadata: ListMeta,
}

/// The lines of a watch.
type Lines = Box<dyn AsyncBufRead + Send + Unpin>;

fn open(client: &crate::Client, mut request: http::Request<Vec<u8>>, shares: bool) -> BoxFuture<'static, crate::Result<Events>> {
    // Packing a watch would only cost time, as it comes from the same machine or network.
    request.headers_mut().insert(http::header::ACCEPT_ENCODING, http::HeaderValue::from_static("identity"));
    if shares {
        request.extensions_mut().insert(shared::Wanted);
    }
    client.request_events(request)
}

/// The next line, none at the end. A line that the end cuts off counts as the end.
async fn next_line<'a>(lines: &mut Lines, line: &'a mut Vec<u8>) -> crate::Result<Option<&'a [u8]>> {
    line.clear();
    match lines.read_until(b'\n', line).await {
        Ok(_) if line.last() == Some(&b'\n') => Ok(Some(line)),
        Ok(_) => Ok(None),
        Err(error) => Err(crate::Error::ReadEvents(error)),
    }
}

/// How one watch ended.
enum WatchEnd {
    /// The server closed it after its time.
    Closed,
    /// The revision to go on from is no longer kept.
    Expired,
    Failed(crate::Error),
}

/// Reads `source` and hands every event to `deliver`, for ever. Stop it by dropping the future.
pub async fn run<K: Watchable>(source: Source, mut deliver: impl FnMut(FeedEvent<K>) + Send) {
    follow(source, false, move |event: FeedEvent<Arc<K>>| deliver(event.map(Arc::unwrap_or_clone))).await;
}

/// As [`run`], for those who keep what they are told: in the process of the API server, they all keep the same objects (see
/// [`shared`]).
pub async fn run_shared<K: Watchable>(source: Source, deliver: impl FnMut(FeedEvent<Arc<K>>) + Send) {
    follow(source, true, deliver).await;
}

async fn follow<K: Watchable>(source: Source, shares: bool, mut deliver: impl FnMut(FeedEvent<Arc<K>>) + Send) {
    let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
    let mut position: Option<String> = None;
    loop {
        let revision = match &mut position {
            Some(revision) => revision,
            None => match source.list::<K>().await {
                Ok(listing) => {
                    let revision = listing.metadata.resource_version.unwrap_or_default();
                    deliver(FeedEvent::Replaced { objects: listing.items.into_iter().map(Arc::new).collect(), revision: revision.clone() });
                    position.insert(revision)
                }
                Err(error) => {
                    wait(&source, "list", &error, &mut backoff).await;
                    continue;
                }
            },
        };
        let started_at = revision.clone();
        let end = watch(&source, shares, revision, &mut deliver).await;
        if *revision != started_at {
            backoff.reset();
        }
        match end {
            WatchEnd::Closed if *revision != started_at => {}
            // A server that closes quiet watches at once must not be asked in a tight loop.
            WatchEnd::Closed => tokio::time::sleep(FIRST_DELAY).await,
            WatchEnd::Expired => position = None,
            WatchEnd::Failed(error) => wait(&source, "watch", &error, &mut backoff).await,
        }
    }
}

/// Waits before the next try. There is no event to wait for: the server is away or refuses.
async fn wait(source: &Source, action: &str, error: &crate::Error, backoff: &mut Backoff) {
    let delay = backoff.next_delay();
    if delay < Duration::from_secs(1) {
        tracing::debug!(path = source.url_path, %error, "could not {action}; trying again in {delay:?}");
    } else {
        tracing::warn!(path = source.url_path, %error, "could not {action}; trying again in {delay:?}");
    }
    tokio::time::sleep(delay).await;
}

async fn watch<K: Watchable>(source: &Source, shares: bool, revision: &mut String, deliver: &mut (impl FnMut(FeedEvent<Arc<K>>) + Send)) -> WatchEnd {
    let seconds = rand::rng().random_range(WATCH_SECONDS);
    let parameters = WatchParams {
        label_selector: source.selection.labels.clone(),
        field_selector: source.selection.fields.clone(),
        timeout: Some(seconds),
        ..WatchParams::default()
    };
    let request = Request::new(&source.url_path);
    let request =
        if source.metadata_only { request.watch_metadata(&parameters, revision) } else { request.watch(&parameters, revision) };
    let request = match request {
        Ok(request) => request,
        Err(error) => return WatchEnd::Failed(crate::Error::BuildRequest(error)),
    };
    let reading = async {
        let mut events = match open(&source.client, request, shares).await {
            Ok(events) => events,
            Err(error) => return failure(error),
        };
        let mut line = Vec::new();
        loop {
            let read = match &mut events {
                Events::Lines(lines) => match next_line(lines, &mut line).await {
                    Ok(Some(line)) => read_frame::<K>(line),
                    Ok(None) => return WatchEnd::Closed,
                    Err(error) => Err(error),
                },
                Events::Handed(handed) => match handed.next().await {
                    Some(Handed::Put(object)) => shared::read(&*object).map(FeedEvent::Put).map_err(crate::Error::SerdeError),
                    Some(Handed::Deleted(object)) => shared::read(&*object).map(FeedEvent::Deleted).map_err(crate::Error::SerdeError),
                    Some(Handed::Line(line)) => read_frame::<K>(&line),
                    None => return WatchEnd::Closed,
                },
            };
            match read {
                Ok(event) => {
                    match &event {
                        FeedEvent::Put(object) | FeedEvent::Deleted(object) => advance(revision, &**object),
                        FeedEvent::Progress(newer) => revision.clone_from(newer),
                        FeedEvent::Replaced { .. } => {}
                    }
                    deliver(event);
                }
                Err(error) => return failure(error),
            }
        }
    };
    match tokio::time::timeout(Duration::from_secs(seconds.into()) + WATCH_GRACE, reading).await {
        Ok(end) => end,
        // The connection died without a word; what it missed comes with the next watch.
        Err(_) => WatchEnd::Closed,
    }
}

fn read_frame<K: Watchable>(line: &[u8]) -> crate::Result<FeedEvent<Arc<K>>> {
    let frame: Frame<'_> = serde_json::from_slice(line).map_err(crate::Error::SerdeError)?;
    let text = frame.object.get();
    let object = || K::from_json_unmanaged(text.as_bytes()).map(Arc::new).map_err(crate::Error::SerdeError);
    Ok(match frame.kind {
        FrameKind::Added | FrameKind::Modified => FeedEvent::Put(object()?),
        FrameKind::Deleted => FeedEvent::Deleted(object()?),
        FrameKind::Bookmark => {
            let bookmark: Bookmark = serde_json::from_str(text).map_err(crate::Error::SerdeError)?;
            FeedEvent::Progress(bookmark.metadata.resource_version.unwrap_or_default())
        }
        FrameKind::Error => return Err(crate::Error::Api(serde_json::from_str(text).map_err(crate::Error::SerdeError)?)),
    })
}

fn failure(error: crate::Error) -> WatchEnd {
    if crate::status_code(&error) == Some(410) { WatchEnd::Expired } else { WatchEnd::Failed(error) }
}

fn advance<K: kube_core::Resource>(revision: &mut String, object: &K) {
    if let Some(newer) = &object.meta().resource_version {
        revision.clone_from(newer);
    }
}
