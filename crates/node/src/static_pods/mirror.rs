//! The API's copy of a static pod: made, made anew where somebody deletes it, and replaced where the file changes.

use std::{sync::Arc, time::Duration};

use client::{Api, Backoff, DeleteParams, Error, PostParams, Preconditions, status_code};
use k8s_openapi::{
    api::core::v1::{Node, Pod, PodStatus},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use tokio::sync::watch;

use super::{HASH, MIRROR, mirrored_hash};
use crate::{api_error::words, config::Context, pod};

/// What is known of a mirror.
#[derive(Debug, Clone, Default)]
pub enum Known {
    /// The API was not listed yet.
    #[default]
    Unknown,
    /// The API has none.
    Absent,
    /// The API has this one.
    Present(Arc<Pod>),
}

impl Known {
    /// The pod, where it mirrors what has this hash and is not on its way out.
    #[must_use]
    pub fn of(&self, hash: &str) -> Option<&Arc<Pod>> {
        match self {
            Self::Present(mirror) if mirrored_hash(mirror) == Some(hash) && mirror.metadata.deletion_timestamp.is_none() => Some(mirror),
            _ => None,
        }
    }
}

/// Keeps the mirror of one static pod as it should be until `known` is closed.
pub async fn keep(context: Arc<Context>, pod: Arc<Pod>, mut known: watch::Receiver<Known>) {
    let mut pause = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
    loop {
        let now = known.borrow_and_update().clone();
        let done = match &now {
            Known::Unknown => Ok(()),
            Known::Absent => create(&context, &pod).await,
            Known::Present(_) if now.of(pod::uid(&pod)).is_some() => Ok(()),
            Known::Present(other) => delete(&context, other).await,
        };
        let again = async {
            match &done {
                Ok(()) => std::future::pending().await,
                Err(problem) => {
                    // Somebody was quicker: the watch tells.
                    if !matches!(status_code(problem), Some(404 | 409)) {
                        tracing::warn!(pod = pod::full_name(&pod), problem = words(problem), "could not bring a static pod's mirror up to date");
                    }
                    context.config.clock.sleep(pause.next_delay()).await;
                }
            }
        };
        tokio::select! {
            changed = known.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = again => {}
        }
        if done.is_ok() {
            pause.reset();
        }
    }
}

async fn create(context: &Context, pod: &Pod) -> Result<(), Error> {
    let nodes: Api<Node> = Api::all(context.config.client.clone());
    let node = nodes.get(&context.config.name).await?;
    let mut mirror = pod.clone();
    mirror.status = Some(PodStatus::default());
    let metadata = &mut mirror.metadata;
    (metadata.uid, metadata.creation_timestamp) = (None, None);
    let hash = metadata.annotations.as_ref().and_then(|annotations| annotations.get(HASH)).cloned().unwrap_or_default();
    metadata.annotations.get_or_insert_default().insert(MIRROR.to_owned(), hash);
    metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: context.config.name.clone(),
        uid: node.metadata.uid.unwrap_or_default(),
        controller: Some(true),
        ..OwnerReference::default()
    }]);
    let api: Api<Pod> = Api::namespaced(context.config.client.clone(), pod::namespace(pod));
    api.create(&PostParams::default(), &mirror).await.map(drop)
}

/// Deletes a mirror at once: what it shows does not run under its UID.
///
/// # Errors
/// What the API says, but for a mirror that is gone already.
pub async fn delete(context: &Context, mirror: &Pod) -> Result<(), Error> {
    let api: Api<Pod> = Api::namespaced(context.config.client.clone(), pod::namespace(mirror));
    let preconditions = Preconditions { uid: mirror.metadata.uid.clone(), resource_version: None };
    let parameters = DeleteParams { grace_period_seconds: Some(0), preconditions: Some(preconditions), ..DeleteParams::default() };
    match api.delete(pod::name(mirror), &parameters).await {
        Err(problem) if status_code(&problem) == Some(404) => Ok(()),
        result => result.map(drop),
    }
}
