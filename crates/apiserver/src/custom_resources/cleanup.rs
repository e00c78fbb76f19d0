//! The end of a definition: its objects are deleted, as any client would, and when the last is gone it may go too.
//!
//! Source: Kubernetes `apiextensions-apiserver/pkg/controller/finalizer`.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use kinds::ServedKind;
use meta::{ApiError, Object, Reason};
use serde_json::{Value, json};
use store::Expect;
use tracing::warn;

use super::{
    CLEANUP_FINALIZER,
    conditions::{self, Condition},
    definition_kind, kind, write_status,
};
use crate::{
    core::{Core, RequestContext},
    handler::{
        delete::delete_object,
        write::{Part, update_object},
    },
    options::DeleteOptions,
    view::StoredObject,
};

/// Deletions at a time.
const WORKERS: usize = 16;
/// Admission or the store refused; nothing would tell when they no longer do.
const RETRY: Duration = Duration::from_secs(5);

fn is_waiting(definition: &Object) -> bool {
    definition.deletion_timestamp().is_some() && definition.finalizers().contains(&CLEANUP_FINALIZER)
}

/// Deletes every object of a definition and then takes its finalizer away. Returns when that is done, or not to be done.
pub async fn run(core: Arc<Core>, name: String) {
    while let Err(error) = attempt(&core, &name).await {
        warn!(definition = name, %error, "objects of a definition could not all be deleted; trying again");
        let condition = Condition::new("Terminating", true, "InstanceDeletionFailed", format!("could not issue all deletes: {error}"));
        if let Err(error) = write_status(&core, &name, &|definition, now| conditions::set(definition, &condition, now)).await {
            warn!(definition = name, %error, "the status of a definition could not be written");
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn attempt(core: &Arc<Core>, name: &str) -> Result<(), ApiError> {
    let crd = definition_kind(core)?;
    let Some(stored) = core.stored(&crd, "", name) else { return Ok(()) };
    let definition = core.served_object(&crd, &stored)?;
    if !is_waiting(&definition) {
        return Ok(());
    }
    // One that was never established has no objects; its names may even be those of somebody else's.
    let kinds = stored_kinds(&definition);
    if conditions::is_true(&definition, "Established") && !kinds.is_empty() {
        let condition = Condition::new("Terminating", true, "InstanceDeletionInProgress", "CustomResource deletion is in progress");
        write_status(core, name, &|definition, now| conditions::set(definition, &condition, now)).await?;
        delete_all(core, &kinds).await?;
    }
    let condition = Condition::new("Terminating", false, "InstanceDeletionCompleted", "removed all instances");
    write_status(core, name, &|definition, now| conditions::set(definition, &condition, now)).await?;
    let context = RequestContext::internal(core, "update", "", name);
    let compute = |old: Option<&Object>| {
        let mut definition = old.cloned().ok_or_else(|| ApiError::not_found(&crd.info().group_resource(), name))?;
        let others: Vec<String> = definition.finalizers().into_iter().filter(|known| *known != CLEANUP_FINALIZER).map(str::to_owned).collect();
        definition.set(&["metadata", "finalizers"], json!(others));
        Ok(definition)
    };
    match update_object(core, &context, &crd, Part::Exact, false, Expect::Absent, &compute).await {
        Err(error) if error.reason != Reason::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The kinds its objects may be stored as, served or not, and whatever their schemas say: by apiVersion, each as if it were the stored
/// one, so that no object has to be converted to be deleted. Whoever converts may be gone already.
fn stored_kinds(definition: &Object) -> HashMap<String, Arc<dyn ServedKind>> {
    let versions = definition.get(&["spec", "versions"]).and_then(Value::as_array);
    versions.into_iter().flatten().filter_map(|version| stored_kind(definition, version)).collect()
}

fn stored_kind(definition: &Object, version: &Value) -> Option<(String, Arc<dyn ServedKind>)> {
    let mut definition = definition.clone();
    let mut stored = version.as_object()?.clone();
    stored.insert("served".to_owned(), json!(true));
    stored.insert("storage".to_owned(), json!(true));
    stored.remove("schema");
    definition.set(&["spec", "versions"], json!([stored]));
    let names = definition.get(&["spec", "names"])?.clone();
    let kind = kind::served(kind::kinds_of(&definition, &names, true).ok()?).into_iter().next()?;
    Some((kind.info().kind.group_version().to_string(), kind))
}

/// Deletes every object and waits for their finalizers.
async fn delete_all(core: &Arc<Core>, kinds: &HashMap<String, Arc<dyn ServedKind>>) -> Result<(), ApiError> {
    // All of them are stored in one place.
    let Some(any) = kinds.values().next() else { return Ok(()) };
    let view = core.view_of(any);
    let mut changes = view.changes();
    loop {
        changes.mark_unchanged();
        let objects: Vec<Arc<StoredObject>> = core.view.snapshot(&view).objects.values().cloned().collect();
        if objects.is_empty() {
            return Ok(());
        }
        let results: Vec<Result<(), ApiError>> =
            stream::iter(objects).map(|object| delete_one(core, kinds, object)).buffer_unordered(WORKERS).collect().await;
        results.into_iter().collect::<Result<(), ApiError>>()?;
        if view.is_empty() {
            return Ok(());
        }
        // Finalizers hold some back; each that goes is a change.
        if changes.changed().await.is_err() {
            return Err(ApiError::unavailable("the server is shutting down"));
        }
    }
}

async fn delete_one(core: &Arc<Core>, kinds: &HashMap<String, Arc<dyn ServedKind>>, stored: Arc<StoredObject>) -> Result<(), ApiError> {
    let object = stored.object().map_err(ApiError::internal)?;
    let Some(kind) = kinds.get(object.api_version()).or_else(|| kinds.values().next()) else { return Ok(()) };
    if object.deletion_timestamp().is_some() {
        return Ok(());
    }
    let mut context = RequestContext::internal(core, "delete", object.namespace(), object.name());
    let info = kind.info();
    (context.info.group, context.info.version) = (info.kind.group.to_string(), info.kind.version.to_string());
    context.info.resource = info.plural.to_string();
    match delete_object(core, &context, kind, &DeleteOptions::default()).await {
        Err(error) if error.reason != Reason::NotFound => Err(error),
        _ => Ok(()),
    }
}
