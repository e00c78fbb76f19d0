//! watch: a stream of events from any kept revision, with bookmarks, initial events and selectors.
//!
//! A watcher is a cursor into the shared history (see [`crate::view`]); an object that ceases to match its selector is a
//! DELETED event, one that begins to is ADDED.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use client::shared::{Handed, Handover};
use futures::{StreamExt, stream};
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use kinds::ServedKind;
use meta::{ApiError, FieldError, FieldPath};
use rand::Rng;
use serde_json::{Value, json};
use store::Revision;
use tokio::{sync::watch, time::Instant};

use crate::{
    codec,
    core::{Core, RequestContext},
    custom_resources::conversion,
    handler::{Selection, read},
    http_body::{Body, BoxError, Request, empty, full},
    metrics::requests::Stream,
    negotiation::{Encoding, Form, Negotiated, negotiate_for},
    options::VersionMatch,
    rendering::{self, Included},
    stream_patience::SlowReader,
    view::{EventType, ResourceView, StoredObject, Unavailable, ViewEvent, json_frame, object_frame},
};

/// Events taken from the history at a time.
const BATCH: usize = 128;

/// How often a watcher that wants bookmarks gets one while other objects change. Source: upstream's watch cache, about a minute.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);

/// What is told of an event.
enum Told {
    Frame(Bytes),
    /// To a reader in this process: the object itself.
    Object(EventType, Arc<StoredObject>),
}

impl Told {
    fn into_frame(self) -> Bytes {
        match self {
            Self::Frame(frame) => frame,
            Self::Object(kind, object) => object_frame(kind, &object),
        }
    }
}

struct Watcher {
    core: Arc<Core>,
    context: RequestContext,
    kind: Arc<dyn ServedKind>,
    view: Arc<ResourceView>,
    negotiated: Negotiated,
    cursor: Revision,
    changes: watch::Receiver<Revision>,
    /// What there was when the watch began. Rendered when the client takes it: a client that takes nothing costs nothing.
    initial: VecDeque<Arc<StoredObject>>,
    /// Whether a bookmark tells that `initial` is over.
    tells_initial_end: bool,
    pending: VecDeque<Told>,
    /// Whether the reader is in this process and takes objects.
    shares: bool,
    bookmarks: bool,
    deadline: Instant,
    next_bookmark: Instant,
    last_told: Revision,
    first_table: bool,
    ended: bool,
}

impl Watcher {
    fn object_frame(&mut self, kind: EventType, object: &StoredObject) -> Result<Bytes, ApiError> {
        if self.negotiated.form == Form::Table {
            let include = Included::asked(self.context.query.include_object.as_deref());
            let row = rendering::row(&self.core, &self.kind, object, include, (self.core.clock)())?;
            let columns = std::mem::take(&mut self.first_table);
            let bytes = rendering::table(&self.kind, &[row], &rendering::table_metadata(object.revision), columns, self.negotiated.encoding)?;
            return Ok(self.frame(kind.as_str(), &bytes));
        }
        let bytes = rendering::render(&self.core, &self.kind, object, self.negotiated)?;
        Ok(self.frame(kind.as_str(), &bytes))
    }

    fn frame(&self, kind: &str, object: &[u8]) -> Bytes {
        match self.negotiated.encoding {
            Encoding::Protobuf => codec::protobuf_frame(kind, object),
            Encoding::Json | Encoding::Yaml => json_frame(kind, object),
        }
    }

    async fn event_frame(&mut self, event: &ViewEvent, kind: EventType) -> Result<Option<Told>, ApiError> {
        let Some(shown) = event.shown(kind) else { return Ok(None) };
        if self.negotiated == Negotiated::JSON && self.core.is_plain(&self.kind, &shown) {
            return Ok(if self.shares { Some(Told::Object(kind, shown)) } else { event.frame(kind).map(Told::Frame) });
        }
        let shown = conversion::readable(&self.core, &self.kind, shown).await?;
        self.object_frame(kind, &shown).map(|frame| Some(Told::Frame(frame)))
    }

    fn error_frame(&self, error: &ApiError) -> Bytes {
        let bytes = rendering::encode_meta(&error.to_status(), self.negotiated.encoding).unwrap_or_default();
        self.frame("ERROR", &bytes)
    }

    fn bookmark_frame(&self, initial_end: bool) -> Bytes {
        let info = self.kind.info();
        let mut metadata = json!({"resourceVersion": self.cursor.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let (kind, api_version) = match self.negotiated.form {
            Form::Whole => (info.kind.kind.to_string(), info.kind.group_version().to_string()),
            Form::Metadata => ("PartialObjectMetadata".to_owned(), "meta.k8s.io/v1".to_owned()),
            Form::Table => {
                let value = json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": self.cursor.to_string()},
                    "columnDefinitions": [], "rows": [{"cells": [], "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}}]});
                return self.frame("BOOKMARK", &rendering::encode_meta(&value, self.negotiated.encoding).unwrap_or_default());
            }
        };
        let value = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata});
        let bytes = match (self.negotiated.form, self.negotiated.encoding, value) {
            (Form::Whole, Encoding::Protobuf, Value::Object(map)) => codec::protobuf(self.kind.schema(), &meta::Object(map)).unwrap_or_default(),
            (_, encoding, value) => rendering::encode_meta(&value, encoding).unwrap_or_default(),
        };
        self.frame("BOOKMARK", &bytes)
    }

    /// Takes what the history has after the cursor, a batch of it; whether there may be more. Nothing tells of what is left there, also
    /// where the client was shown nothing of the batch.
    async fn collect(&mut self) -> Result<bool, ApiError> {
        // Read before the history, so that nothing up to it can be missing there.
        let seen = self.core.view.revision();
        let events = self.view.events_after(self.cursor, BATCH).map_err(|gone| match gone {
            Unavailable::TooOld { oldest } => ApiError::expired(format!("too old resource version: {} ({oldest})", self.cursor)),
            Unavailable::TooNew { newest } => ApiError::expired(format!("too large resource version: {} ({newest})", self.cursor)),
        })?;
        let full = events.len() == BATCH;
        let context = self.context.clone();
        let kind = self.kind.clone();
        let selection = Selection::of(&context, kind.as_ref())?;
        for event in events {
            let new = event.new.as_ref().is_some_and(|object| selection.matches(object));
            let old = event.old.as_ref().is_some_and(|object| selection.matches(object));
            let shown = match (old, new) {
                (false, true) => Some(EventType::Added),
                (true, true) => Some(EventType::Modified),
                (true, false) => Some(EventType::Deleted),
                (false, false) => None,
            };
            self.cursor = event.revision;
            if let Some(shown) = shown
                && let Some(frame) = self.event_frame(&event, shown).await?
            {
                self.pending.push_back(frame);
                self.last_told = event.revision;
            }
        }
        if !full && seen > self.cursor {
            self.cursor = seen;
        }
        Ok(full)
    }

    /// The next frame, where it need not be waited for.
    fn ready(&mut self) -> Option<Told> {
        if let Some(object) = self.initial.pop_front() {
            if self.shares && self.negotiated == Negotiated::JSON && self.core.is_plain(&self.kind, &object) {
                return Some(Told::Object(EventType::Added, object));
            }
            return Some(Told::Frame(self.object_frame(EventType::Added, &object).unwrap_or_else(|error| {
                self.ended = true;
                self.initial.clear();
                self.tells_initial_end = false;
                self.error_frame(&error)
            })));
        }
        if std::mem::take(&mut self.tells_initial_end) {
            return Some(Told::Frame(self.bookmark_frame(true)));
        }
        self.pending.pop_front()
    }

    async fn next(&mut self) -> Option<Told> {
        loop {
            if let Some(frame) = self.ready() {
                return Some(frame);
            }
            if self.ended {
                return None;
            }
            self.changes.mark_unchanged();
            match self.collect().await {
                Err(error) => {
                    self.ended = true;
                    return Some(Told::Frame(self.error_frame(&error)));
                }
                Ok(more) if more || !self.pending.is_empty() => {
                    // A long history that does not concern this watch must not keep others from the thread.
                    tokio::task::consume_budget().await;
                    continue;
                }
                Ok(_) => {}
            }
            let wake = if self.bookmarks { self.deadline.min(self.next_bookmark) } else { self.deadline };
            tokio::select! {
                changed = self.changes.changed() => if changed.is_err() { return None },
                () = tokio::time::sleep_until(wake) => {
                    let now = Instant::now();
                    if now >= self.deadline {
                        return None;
                    }
                    self.next_bookmark = now + BOOKMARK_INTERVAL;
                    let newest = self.core.view.revision();
                    // Nothing of this kind is newer than what `collect` saw, so the whole view's revision is a promise.
                    if self.bookmarks && newest > self.last_told && !self.changes.has_changed().unwrap_or(true) {
                        self.cursor = self.cursor.max(newest);
                        self.last_told = self.cursor;
                        return Some(Told::Frame(self.bookmark_frame(false)));
                    }
                }
            }
        }
    }
}

fn check(context: &RequestContext) -> Result<(), ApiError> {
    let query = &context.query;
    let invalid = |field: &str, detail: &str| {
        let error = FieldError::forbidden(&FieldPath::new(field), detail);
        Err(ApiError::invalid(&meta::GroupKind { group: "meta.k8s.io".into(), kind: "ListOptions".into() }, "", vec![error]))
    };
    match query.send_initial_events {
        None => {
            if query.version_match.is_some() {
                return invalid("resourceVersionMatch", "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
            }
        }
        Some(_) => {
            if query.version_match != Some(VersionMatch::NotOlderThan) {
                return invalid("resourceVersionMatch", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
            }
        }
    }
    Ok(())
}

/// Switches to WebSocket, where each event is a message: text in JSON, binary in protobuf, without the length that frames have elsewhere.
/// A client that takes nothing for long loses it, as it does elsewhere: after a pause the history may have gone on without it anyway.
fn over_websocket(request: &mut Request, watcher: Watcher) -> Response<Body> {
    let encoding = watcher.negotiated.encoding;
    // It is under way, and counted so, until the last event is told and not only until the connection has switched.
    let under_way = request.extensions().get::<Arc<Stream>>().cloned();
    let events = stream::unfold((watcher, under_way), |(mut watcher, under_way)| async move { Some((watcher.next().await?.into_frame(), (watcher, under_way))) });
    let events = events.map(move |event| match encoding {
        Encoding::Protobuf => event.slice(codec::PROTOBUF_FRAME_LENGTH_BYTES..),
        Encoding::Json | Encoding::Yaml => event,
    });
    let body = StreamBody::new(events.map(|event| Ok::<_, BoxError>(Frame::data(event))));
    match streaming::serve_messages(request, body, encoding != Encoding::Protobuf) {
        Ok(mut response) => {
            response.extensions_mut().insert(SlowReader::IsCut);
            response.map(full)
        }
        Err(refused) => refused.response().map(full),
    }
}

/// Answers a watch.
///
/// # Errors
/// 400 and 422 for bad parameters; a revision that is gone is told inside the stream.
pub async fn watch(core: &Arc<Core>, context: RequestContext, kind: &Arc<dyn ServedKind>, mut request: Request) -> Result<Response<Body>, ApiError> {
    check(&context)?;
    let negotiated = negotiate_for(&context.accept, kind.info())?;
    let mut context = context;
    if !context.info.name.is_empty() {
        // `GET …/NAME?watch=true` watches one object.
        let mut query = (*context.query).clone();
        query.fields = meta::selector::FieldSelector::parse(&format!("metadata.name={}", context.info.name)).ok();
        context.query = Arc::new(query);
    }
    let query = context.query.clone();
    let requested = query.resource_version.as_deref().map(read::parse_revision).transpose()?;
    if query.send_initial_events == Some(true)
        && let Some(revision) = requested
    {
        read::wait_until_fresh(core, revision).await?;
    }
    let view = core.view_of(kind);
    let now = Instant::now();
    // As upstream, so that a fleet of clients does not come back all at once.
    let timeout = query.timeout.filter(|timeout| !timeout.is_zero()).unwrap_or_else(|| Duration::from_secs(rand::rng().random_range(1800..3600)));
    let mut watcher = Watcher {
        core: core.clone(),
        kind: kind.clone(),
        changes: view.changes(),
        view,
        negotiated,
        cursor: Revision(0),
        initial: VecDeque::new(),
        tells_initial_end: false,
        pending: VecDeque::new(),
        shares: context.shares && negotiated == Negotiated::JSON,
        bookmarks: query.bookmarks,
        deadline: now + timeout,
        next_bookmark: now + BOOKMARK_INTERVAL,
        last_told: Revision(0),
        first_table: true,
        ended: false,
        context,
    };
    let wants_state = query.send_initial_events == Some(true)
        || query.send_initial_events.is_none() && requested.is_none_or(|revision| revision.0 == 0);
    if wants_state {
        let snapshot = core.view.snapshot(&watcher.view);
        watcher.cursor = snapshot.revision;
        watcher.last_told = snapshot.revision;
        let chosen: Vec<Arc<StoredObject>> = {
            let selection = Selection::of(&watcher.context, kind.as_ref())?;
            snapshot.range(&selection.prefix, None).filter(|object| selection.matches(object)).cloned().collect()
        };
        watcher.initial = conversion::readable_all(core, kind, chosen).await?.into();
        watcher.tells_initial_end = query.send_initial_events == Some(true) && query.bookmarks;
    } else {
        watcher.cursor = requested.filter(|revision| revision.0 > 0).unwrap_or_else(|| core.view.revision());
        watcher.last_told = watcher.cursor;
        Selection::of(&watcher.context, kind.as_ref())?;
    }
    if streaming::handshake::is_websocket(request.headers()) {
        return Ok(over_websocket(&mut request, watcher));
    }
    if watcher.shares {
        let events = stream::unfold(watcher, |mut watcher| async move {
            let handed = match watcher.next().await? {
                Told::Frame(line) => Handed::Line(line),
                Told::Object(EventType::Deleted, object) => Handed::Deleted(object),
                Told::Object(EventType::Added | EventType::Modified, object) => Handed::Put(object),
            };
            Some((handed, watcher))
        });
        let mut response = Response::new(empty());
        response.extensions_mut().insert(Handover::new(events.boxed()));
        return Ok(response);
    }
    let frames = stream::unfold(watcher, |mut watcher| async move {
        let frame = watcher.next().await?.into_frame();
        // Frames that are ready go out together: one write to the socket instead of many.
        let Some(second) = watcher.ready() else { return Some((frame, watcher)) };
        let mut joined = bytes::BytesMut::from(&frame[..]);
        joined.extend_from_slice(&second.into_frame());
        while joined.len() < 64 * 1024
            && let Some(more) = watcher.ready()
        {
            joined.extend_from_slice(&more.into_frame());
        }
        Some((joined.freeze(), watcher))
    });
    let body: Body = StreamBody::new(frames.map(|bytes| Ok::<_, BoxError>(Frame::data(bytes)))).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(negotiated.stream_content_type()));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(response)
}
