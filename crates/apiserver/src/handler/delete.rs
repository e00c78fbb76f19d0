//! delete and deletecollection: graceful deletion, finalizers and propagation.
//!
//! Source: Kubernetes `apiserver/pkg/registry/rest/delete.go` and `registry/generic/registry/store.go`.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use kinds::{DeletionGrace, ServedKind};
use meta::{ApiError, Object};
use serde_json::{Value, json};
use store::{Change, Expect, StoreError};

use crate::{
    admission::{Attributes, Operation},
    codec,
    core::{Core, RequestContext, format_time},
    custom_resources::{self, conversion},
    handler::{read, write::{encode_both, store_failure}},
    http_body::{Body, Request, read_all},
    negotiation::negotiate_for,
    options::{DeleteOptions, Propagation},
    rendering::{self, respond, respond_with},
    view::StoredObject,
};

/// Holds dependents back from the garbage collector.
pub const ORPHAN: &str = "orphan";
/// Waits for dependents.
pub const FOREGROUND: &str = "foregroundDeletion";

/// Deletions at a time in a deletecollection.
const COLLECTION_WORKERS: usize = 16;

/// What a deletion came to.
pub enum Deleted {
    /// The object is gone; this was its last state.
    Gone(Arc<StoredObject>),
    /// It waits for its grace period or its finalizers.
    Waiting(Arc<StoredObject>),
}

async fn options(context: &RequestContext, request: Request) -> Result<DeleteOptions, ApiError> {
    let bytes: Bytes = read_all(request.into_body()).await?;
    let body = if bytes.is_empty() { None } else { Some(codec::read_delete_options(&context.content_type, &bytes)?) };
    DeleteOptions::read(body.as_ref(), &context.query)
}

/// Kinds whose delete answers with the object rather than a Status. Source: `ReturnDeletedObject` in upstream's registries.
fn returns_object(kind: &dyn ServedKind) -> bool {
    let info = kind.info();
    info.kind.group.is_empty()
        && matches!(
            &*info.plural,
            "pods" | "services" | "serviceaccounts" | "resourcequotas" | "podtemplates" | "persistentvolumes" | "persistentvolumeclaims"
        )
}

/// Answers a delete.
///
/// # Errors
/// 404, 409 for preconditions, and refusals by admission.
pub async fn delete(core: &Arc<Core>, context: RequestContext, kind: &Arc<dyn ServedKind>, request: Request) -> Result<Response<Body>, ApiError> {
    let negotiated = negotiate_for(&context.accept, kind.info())?;
    let options = options(&context, request).await?;
    let deleted = delete_object(core, &context, kind, &options).await?;
    let (object, gone) = match &deleted {
        Deleted::Gone(object) => (object, true),
        Deleted::Waiting(object) => (object, false),
    };
    let code = if !gone && options.orphan_dependents == Some(false) { StatusCode::ACCEPTED } else { StatusCode::OK };
    if !gone || returns_object(kind.as_ref()) {
        return Ok(respond(code, negotiated, rendering::render(core, kind, object, negotiated)?));
    }
    let info = kind.info();
    let uid = object.object().map(|object| object.uid().to_owned()).unwrap_or_default();
    let mut details = json!({"name": context.info.name, "kind": &*info.plural, "uid": uid});
    if !info.kind.group.is_empty() {
        details["group"] = json!(&*info.kind.group);
    }
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
    let bytes = rendering::encode_meta(&status, negotiated.encoding)?;
    Ok(respond(code, negotiated, bytes))
}

/// Deletes one object, named by the context.
///
/// # Errors
/// 404, 409 for preconditions, and refusals by admission.
pub async fn delete_object(core: &Arc<Core>, context: &RequestContext, kind: &Arc<dyn ServedKind>, options: &DeleteOptions) -> Result<Deleted, ApiError> {
    let info = kind.info();
    let resource = info.group_resource();
    let (namespace, name) = (&context.info.namespace, &context.info.name);
    let dry_run = options.dry_run || context.query.dry_run;
    loop {
        let found = read::find(core, kind, namespace, name)?;
        let found = conversion::readable(core, kind, found).await?;
        let old = core.served_object(kind, &found)?;
        if let Some(uid) = &options.uid
            && uid != old.uid()
        {
            let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", old.uid());
            return Err(ApiError::conflict(&resource, name, &why));
        }
        if let Some(version) = &options.resource_version
            && version != old.resource_version()
        {
            let why = format!("Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion in object meta: {}", old.resource_version());
            return Err(ApiError::conflict(&resource, name, &why));
        }
        let attributes = Attributes { subresource: "", dry_run, delete: Some(options), ..Attributes::of(Operation::Delete, kind, context) };
        core.admission.admit(core, &attributes, None, Some(&old)).await?;
        core.admission.validate(core, &attributes, None, Some(&old)).await?;
        if let Some(effects) = core.effects.effects.get(&resource) {
            effects.before_delete(core, context, &old).await?;
        }
        let step = plan(kind.as_ref(), &old, options, context.now);
        let (change, shown) = match step {
            Step::Nothing => return Ok(Deleted::Waiting(found)),
            Step::Remove => (Change::Delete, None),
            Step::Mark(ref marked) => {
                let encoded = encode_both(core, kind, marked).await?;
                (Change::Put { value: encoded.stored, expires_after: core.lifetime_of(kind.as_ref()) }, Some(encoded.shown))
            }
        };
        if dry_run {
            return Ok(match shown {
                Some(bytes) => Deleted::Waiting(Arc::new(StoredObject::decode(&found.key, bytes, found.revision).map_err(ApiError::internal)?)),
                None => Deleted::Gone(found),
            });
        }
        match core.view.write(&info.storage_key(namespace, name), Expect::AtRevision(found.revision), change).await {
            Ok(revision) => {
                return Ok(match shown {
                    Some(bytes) => Deleted::Waiting(Arc::new(StoredObject::decode(&found.key, bytes, revision).map_err(ApiError::internal)?)),
                    None => {
                        if let Some(effects) = core.effects.effects.get(&resource) {
                            effects.after_delete(core, &old).await;
                        }
                        Deleted::Gone(Arc::new(found.at_revision(revision)))
                    }
                });
            }
            Err(StoreError::Conflict { .. }) => {
                // Changed meanwhile: everything is decided again from the newest state.
                let view = core.view_of(kind);
                let mut changes = view.changes();
                changes.mark_unchanged();
                if view.get(&found.key).is_some_and(|now| now.revision == found.revision) && changes.changed().await.is_err() {
                    return Err(ApiError::unavailable("the server is shutting down"));
                }
            }
            Err(error) => return Err(store_failure(&error)),
        }
    }
}

enum Step {
    Nothing,
    Mark(Object),
    Remove,
}

/// The finalizers a propagation policy asks for.
fn wanted_finalizers(kind: &dyn ServedKind, object: &Object, options: &DeleteOptions) -> Vec<String> {
    let mut finalizers: Vec<String> = object.finalizers().into_iter().map(str::to_owned).collect();
    let has = |finalizers: &[String], name: &str| finalizers.iter().any(|known| known == name);
    let (orphan, foreground) = match (options.propagation, options.orphan_dependents) {
        (Some(Propagation::Orphan), _) | (None, Some(true)) => (true, false),
        (Some(Propagation::Foreground), _) => (false, true),
        (Some(Propagation::Background), _) | (None, Some(false)) => (false, false),
        // Unless told, what the object already carries stands; else the kind decides.
        (None, None) => (
            has(&finalizers, ORPHAN) || (!has(&finalizers, FOREGROUND) && kind.orphans_by_default()),
            has(&finalizers, FOREGROUND),
        ),
    };
    finalizers.retain(|known| known != ORPHAN && known != FOREGROUND);
    if orphan {
        finalizers.push(ORPHAN.to_owned());
    }
    if foreground {
        finalizers.push(FOREGROUND.to_owned());
    }
    finalizers
}

/// A namespace is held by `spec.finalizers` until its content is gone, whoever asks.
pub fn is_held(kind: &dyn ServedKind, object: &Object) -> bool {
    let info = kind.info();
    info.kind.group.is_empty()
        && &*info.kind.kind == "Namespace"
        && object.get(&["spec", "finalizers"]).and_then(Value::as_array).is_some_and(|finalizers| !finalizers.is_empty())
}

fn plan(kind: &dyn ServedKind, old: &Object, options: &DeleteOptions, now: Timestamp) -> Step {
    let mut finalizers = wanted_finalizers(kind, old, options);
    if custom_resources::is_definition(kind) && old.deletion_timestamp().is_none() && !finalizers.iter().any(|known| known == custom_resources::CLEANUP_FINALIZER) {
        // Its objects go first.
        finalizers.push(custom_resources::CLEANUP_FINALIZER.to_owned());
    }
    let changed = finalizers.iter().map(String::as_str).ne(old.finalizers());
    let held = is_held(kind, old);
    let current_grace = old.get(&["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64);
    let grace = match kind.deletion_grace(old, options.grace()) {
        DeletionGrace::Immediate => 0,
        DeletionGrace::Seconds(seconds) => seconds,
    };
    let deletes_at = |seconds: i64| {
        let time = now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(now);
        json!(format_time(time))
    };
    if old.deletion_timestamp().is_some() {
        // Already on its way: the grace period can only become shorter.
        let current = current_grace.unwrap_or_default();
        let shorter = options.grace().map(|_| grace).filter(|wanted| *wanted < current);
        let remaining = shorter.unwrap_or(current);
        if remaining == 0 && finalizers.is_empty() && !held {
            return Step::Remove;
        }
        if shorter.is_none() && !changed {
            return Step::Nothing;
        }
        let mut marked = old.clone();
        if let Some(seconds) = shorter {
            let started = old
                .deletion_timestamp()
                .and_then(|text| text.parse::<Timestamp>().ok())
                .and_then(|time| time.checked_sub(SignedDuration::from_secs(current)).ok())
                .unwrap_or(now);
            let time = started.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(now);
            marked.set(&["metadata", "deletionTimestamp"], json!(format_time(time)));
            marked.set(&["metadata", "deletionGracePeriodSeconds"], json!(seconds));
        }
        set_finalizers(&mut marked, &finalizers);
        marked.metadata_mut().remove("resourceVersion");
        return Step::Mark(marked);
    }
    if grace == 0 && finalizers.is_empty() && !held {
        return Step::Remove;
    }
    let mut marked = old.clone();
    if held {
        marked.set(&["status", "phase"], json!("Terminating"));
    }
    marked.set(&["metadata", "deletionTimestamp"], deletes_at(grace));
    marked.set(&["metadata", "deletionGracePeriodSeconds"], json!(grace));
    if old.generation() > 0 {
        marked.set(&["metadata", "generation"], json!(old.generation() + 1));
    }
    set_finalizers(&mut marked, &finalizers);
    marked.metadata_mut().remove("resourceVersion");
    Step::Mark(marked)
}

fn set_finalizers(object: &mut Object, finalizers: &[String]) {
    if finalizers.is_empty() {
        object.metadata_mut().remove("finalizers");
    } else {
        object.set(&["metadata", "finalizers"], json!(finalizers));
    }
}

/// Answers a deletecollection.
///
/// # Errors
/// The first error of any of the deletions; objects that are gone already are none.
pub async fn delete_collection(core: &Arc<Core>, context: RequestContext, kind: &Arc<dyn ServedKind>, request: Request) -> Result<Response<Body>, ApiError> {
    let negotiated = negotiate_for(&context.accept, kind.info())?;
    let options = options(&context, request).await?;
    let listed = read::select(core, &context, kind).await?;
    let results: Vec<Result<(), ApiError>> = stream::iter(listed.items.iter().cloned())
        .map(|item| {
            let mut one = context.clone();
            one.info.namespace = item.namespace().to_owned();
            one.info.name = item.name().to_owned();
            let options = options.clone();
            async move {
                match delete_object(core, &one, kind, &options).await {
                    Ok(_) => Ok(()),
                    Err(error) if error.reason == meta::Reason::NotFound => Ok(()),
                    Err(error) => Err(error),
                }
            }
        })
        .buffer_unordered(COLLECTION_WORKERS)
        .collect()
        .await;
    if let Some(error) = results.into_iter().find_map(Result::err) {
        return Err(error);
    }
    let body = rendering::render_list(core, &context, kind, &listed.items, &listed.metadata, negotiated)?;
    Ok(respond_with(StatusCode::OK, negotiated, body))
}
