//! One list and watch of a collection, resumed after every kind of interruption: a closed watch goes on from the last revision it
//! saw, an expired revision means listing again, and failures are retried with back-off. Costs nothing while nothing changes.
//! In the process of the API server nothing is listed that it has itself: the watch begins with all objects, which are handed over one by
//! one (see [`shared`]), since the text of a long list takes as much memory as its objects.
//!
//! Objects come without managed fields: only the API server looks at these, and to read them takes as long as the rest.
//!
//! Informers keep what a feed delivers; whoever wants another form (the garbage collector's graph) reads a feed itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::io::{AsyncBufRead, AsyncBufReadExt};
use futures::StreamExt;
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use kube_core::{Request, params::{ListParams, WatchParams}};
use rand::Rng;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{Backoff, Shorten, Watchable, requests::{Listing, exchange}, shared::{self, Handed, Shared}, transport::Events};

/// The server closes a watch after this many seconds, more or less; it is then resumed. It bounds how long a connection that died
/// unnoticed can be mistaken for a quiet one.
const WATCH_SECONDS: std::ops::RangeInclusive<u32> = 240..=290;
/// How much longer than asked for a watch may stay open before it counts as dead.
const WATCH_GRACE: Duration = Duration::from_secs(15);
const FIRST_DELAY: Duration = Duration::from_millis(20);
const LONGEST_DELAY: Duration = Duration::from_secs(10);
/// Objects that are at hand and read in a row before others get their turn.
const READ_IN_A_ROW: usize = 32;
/// Says of a bookmark that all objects were told of that were there when the watch began.
/// Source: Kubernetes, `metav1.InitialEventsAnnotationKey`.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

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

    async fn list<K: Watchable>(&self, reading: &Reading<K>) -> crate::Result<(Vec<Arc<K>>, String)> {
        // Revision 0: what the server has at hand will do, since the watch brings what is newer.
        let parameters = ListParams {
            label_selector: self.selection.labels.clone(),
            field_selector: self.selection.fields.clone(),
            ..ListParams::default().match_any()
        };
        let request = Request::new(&self.url_path);
        let request = if self.metadata_only { request.list_metadata(&parameters) } else { request.list(&parameters) };
        let listing = Listing::from_json_unmanaged(&exchange(&self.client, request.map_err(crate::Error::BuildRequest)?).await?)?;
        Ok((listing.items.into_iter().map(|object| reading.finish(object)).collect(), listing.metadata.resource_version.unwrap_or_default()))
    }

    /// A request for what changes after a revision, or for everything that is there and then for what changes.
    fn watch(&self, after: Option<&str>, seconds: u32, handed: bool) -> crate::Result<http::Request<Vec<u8>>> {
        let parameters = WatchParams {
            label_selector: self.selection.labels.clone(),
            field_selector: self.selection.fields.clone(),
            timeout: Some(seconds),
            send_initial_events: after.is_none(),
            ..WatchParams::default()
        };
        let (request, after) = (Request::new(&self.url_path), after.unwrap_or("0"));
        // What is handed over is taken as it is: to make metadata alone of an object costs more than to pass over the rest.
        let metadata_only = self.metadata_only && !handed;
        let request = if metadata_only { request.watch_metadata(&parameters, after) } else { request.watch(&parameters, after) };
        let mut request = request.map_err(crate::Error::BuildRequest)?;
        // Packing a watch would only cost time, as it comes from the same machine or network.
        request.headers_mut().insert(http::header::ACCEPT_ENCODING, http::HeaderValue::from_static("identity"));
        request.extensions_mut().insert(shared::Wanted);
        Ok(request)
    }
}

/// How objects are read.
enum Reading<K> {
    /// Each for this reader alone, who makes something else of it.
    Anew,
    /// Once for all in the process who keep it, without what is taken away.
    Kept(Option<Shorten<K>>),
}

impl<K: Watchable> Reading<K> {
    fn handed(&self, object: &dyn Shared) -> crate::Result<Arc<K>> {
        let read = match self {
            Self::Anew => K::from_json_unmanaged(&object.text()).map(Arc::new),
            Self::Kept(shorten) => shared::read(object, *shorten),
        };
        read.map_err(crate::Error::SerdeError)
    }

    fn text(&self, text: &str) -> crate::Result<Arc<K>> {
        K::from_json_unmanaged(text.as_bytes()).map(|object| self.finish(object)).map_err(crate::Error::SerdeError)
    }

    fn finish(&self, mut object: K) -> Arc<K> {
        if let Self::Kept(Some(shorten)) = self {
            shorten(&mut object);
        }
        Arc::new(object)
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
    metadata: BookmarkMetadata,
}

#[derive(Deserialize)]
struct BookmarkMetadata {
    #[serde(rename = "resourceVersion", default)]
    resource_version: String,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// One event of a watch.
enum Told<K> {
    Event(FeedEvent<Arc<K>>),
    /// Everything that was there when the watch began was told of. This is the state of a revision.
    InitialEnd(String),
}

/// The lines of a watch.
type Lines = Box<dyn AsyncBufRead + Send + Unpin>;

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
    /// Objects are not handed over.
    NotHanded,
    Failed(crate::Error),
}

/// Reads `source` and hands every event to `deliver`, for ever. Stop it by dropping the future.
pub async fn run<K: Watchable>(source: Source, mut deliver: impl FnMut(FeedEvent<K>) + Send) {
    follow(source, Reading::Anew, move |event: FeedEvent<Arc<K>>| deliver(event.map(Arc::unwrap_or_clone))).await;
}

/// As [`run`], for those who keep what they are told, without what `shorten` takes away: in the process of the API server, they all
/// keep the same objects (see [`shared`]).
pub async fn run_shared<K: Watchable>(source: Source, shorten: Option<Shorten<K>>, deliver: impl FnMut(FeedEvent<Arc<K>>) + Send) {
    follow(source, Reading::Kept(shorten), deliver).await;
}

async fn follow<K: Watchable>(source: Source, reading: Reading<K>, mut deliver: impl FnMut(FeedEvent<Arc<K>>) + Send) {
    let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
    let mut position: Option<String> = None;
    // Others may serve what the API server of this process only passes on.
    let mut handed = source.client.is_in_process();
    loop {
        if position.is_none() && !handed {
            match source.list(&reading).await {
                Ok((objects, revision)) => {
                    position = Some(revision.clone());
                    deliver(FeedEvent::Replaced { objects, revision });
                }
                Err(error) => {
                    wait(&source, "list", &error, &mut backoff).await;
                    continue;
                }
            }
        }
        let started_at = position.clone();
        let end = watch(&source, &reading, handed, &mut position, &mut deliver).await;
        let has_moved = position != started_at;
        if has_moved {
            backoff.reset();
        }
        match end {
            WatchEnd::Closed if has_moved => {}
            // A server that closes quiet watches at once must not be asked in a tight loop.
            WatchEnd::Closed => tokio::time::sleep(FIRST_DELAY).await,
            WatchEnd::Expired => position = None,
            WatchEnd::NotHanded => handed = false,
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

async fn watch<K: Watchable>(
    source: &Source,
    reading: &Reading<K>,
    handed: bool,
    position: &mut Option<String>,
    deliver: &mut (impl FnMut(FeedEvent<Arc<K>>) + Send),
) -> WatchEnd {
    let seconds = rand::rng().random_range(WATCH_SECONDS);
    let request = match source.watch(position.as_deref(), seconds, handed) {
        Ok(request) => request,
        Err(error) => return WatchEnd::Failed(error),
    };
    let reading = async {
        let mut events = match source.client.request_events(request).await {
            Ok(Events::Lines(_)) if handed => return WatchEnd::NotHanded,
            Ok(events) => events,
            // Whoever does not know such watches says that it is a bad request.
            Err(error) if handed && position.is_none() && matches!(crate::status_code(&error), Some(400 | 405 | 422)) => return WatchEnd::NotHanded,
            Err(error) => return failure(error),
        };
        let mut line = Vec::new();
        // What was there when the watch began, until all of that is told.
        let mut initial = position.is_none().then(Vec::new);
        let mut in_a_row = 0;
        loop {
            let told = match &mut events {
                Events::Lines(lines) => match next_line(lines, &mut line).await {
                    Ok(Some(line)) => read_frame(reading, line),
                    Ok(None) => return WatchEnd::Closed,
                    Err(error) => Err(error),
                },
                Events::Handed(handed) => match handed.next().await {
                    Some(Handed::Put(object)) => reading.handed(&*object).map(|object| Told::Event(FeedEvent::Put(object))),
                    Some(Handed::Deleted(object)) => reading.handed(&*object).map(|object| Told::Event(FeedEvent::Deleted(object))),
                    Some(Handed::Line(line)) => read_frame(reading, &line),
                    None => return WatchEnd::Closed,
                },
            };
            match (told, &mut initial) {
                (Ok(Told::Event(FeedEvent::Put(object))), Some(initial)) => initial.push(object),
                // None is due before everything is told.
                (Ok(Told::Event(_)), Some(_)) => {}
                (Ok(Told::InitialEnd(revision)), _) => {
                    *position = Some(revision.clone());
                    if let Some(objects) = initial.take() {
                        deliver(FeedEvent::Replaced { objects, revision });
                    }
                }
                (Ok(Told::Event(event)), None) => {
                    match &event {
                        FeedEvent::Put(object) | FeedEvent::Deleted(object) => advance(position, &**object),
                        FeedEvent::Progress(newer) => *position = Some(newer.clone()),
                        FeedEvent::Replaced { .. } => {}
                    }
                    deliver(event);
                }
                (Err(error), _) => return failure(error),
            }
            // Nothing else makes this task wait while there is more at hand.
            in_a_row += 1;
            if in_a_row == READ_IN_A_ROW {
                in_a_row = 0;
                tokio::task::yield_now().await;
            }
        }
    };
    match tokio::time::timeout(Duration::from_secs(seconds.into()) + WATCH_GRACE, reading).await {
        Ok(end) => end,
        // The connection died without a word; what it missed comes with the next watch.
        Err(_) => WatchEnd::Closed,
    }
}

fn read_frame<K: Watchable>(reading: &Reading<K>, line: &[u8]) -> crate::Result<Told<K>> {
    let frame: Frame<'_> = serde_json::from_slice(line).map_err(crate::Error::SerdeError)?;
    let text = frame.object.get();
    Ok(match frame.kind {
        FrameKind::Added | FrameKind::Modified => Told::Event(FeedEvent::Put(reading.text(text)?)),
        FrameKind::Deleted => Told::Event(FeedEvent::Deleted(reading.text(text)?)),
        FrameKind::Bookmark => {
            let metadata = serde_json::from_str::<Bookmark>(text).map_err(crate::Error::SerdeError)?.metadata;
            if metadata.annotations.is_some_and(|annotations| annotations.get(INITIAL_EVENTS_END).is_some_and(|value| value == "true")) {
                Told::InitialEnd(metadata.resource_version)
            } else {
                Told::Event(FeedEvent::Progress(metadata.resource_version))
            }
        }
        FrameKind::Error => return Err(crate::Error::Api(serde_json::from_str(text).map_err(crate::Error::SerdeError)?)),
    })
}

fn failure(error: crate::Error) -> WatchEnd {
    if crate::status_code(&error) == Some(410) { WatchEnd::Expired } else { WatchEnd::Failed(error) }
}

fn advance<K: kube_core::Resource>(position: &mut Option<String>, object: &K) {
    if let Some(newer) = &object.meta().resource_version {
        *position = Some(newer.clone());
    }
}
