//! A namespace that is deleted takes everything in it along: pods first, as they may need the rest while they end, then all other
//! kinds the API serves. When nothing is left, the finalizer `kubernetes` is removed, and the namespace goes. What holds it up is said
//! in its conditions ([`conditions`]).

mod conditions;

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use client::{Api, DeleteParams, Informer, ListParams, MetadataOnly, ObjectKey, PostParams, Request};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Runner, Trigger};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use serde::Deserialize;

use crate::ControllerContext;
use crate::discovery::{Discovered, ServedResource, discover};
use crate::content::Content;

const FINALIZER: &str = "kubernetes";
/// How many kinds are emptied at once.
const AT_ONCE: usize = 8;
/// Content of kinds that cannot be watched is looked for again after this time, since nothing tells that it is gone.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// Starts the controller. `content` tells it when something is gone.
pub fn start(context: &ControllerContext, runner: &Runner, content: Content) {
    let controller = NamespaceController {
        client: context.client("namespace-controller"),
        namespaces: context.informers.of(),
        content,
        clock: context.clock.clone(),
    };
    runner.start(controller, 4);
}

struct NamespaceController {
    client: client::Client,
    namespaces: Informer<Namespace>,
    content: Content,
    clock: std::sync::Arc<dyn client::Clock>,
}

/// What is left in a namespace.
#[derive(Debug, Default)]
struct Remaining {
    /// Objects per resource.
    objects: BTreeMap<String, usize>,
    /// Objects per finalizer.
    finalizers: BTreeMap<String, usize>,
    /// What could not be deleted, and why.
    failures: Vec<String>,
    /// Why it is not known what else there may be.
    discovery_failure: Option<String>,
}

/// What upstream says of groups whose server does not answer.
/// Source: Kubernetes 1.36, `k8s.io/client-go/discovery`, `ErrGroupDiscoveryFailed` and `StaleGroupVersionError`.
fn discovery_failure(stale: &[String]) -> Option<String> {
    let each: Vec<String> = stale.iter().map(|group| format!("{group}: stale GroupVersion discovery: {group}")).collect();
    (!stale.is_empty())
        .then(|| format!("Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}", stale.len(), each.join(", ")))
}

#[derive(Deserialize)]
struct MetadataList {
    #[serde(default = "Vec::new")]
    items: Vec<MetadataOnly>,
}

impl NamespaceController {
    /// Deletes all objects of a resource, and adds to `remaining` those that are still there.
    async fn empty(&self, namespace: &str, resource: &ServedResource) -> Remaining {
        let mut remaining = Remaining::default();
        let result = async {
            if self.list(namespace, resource).await?.is_empty() {
                return Ok(Vec::new());
            }
            self.delete_all(namespace, resource).await?;
            self.list(namespace, resource).await
        };
        match result.await {
            Ok(objects) => {
                if !objects.is_empty() {
                    // Resource and group with a point even where the group is empty: so says upstream's message.
                    remaining.objects.insert(format!("{}.{}", resource.resource, resource.group), objects.len());
                }
                for finalizer in objects.iter().flat_map(|object| object.metadata.finalizers.iter().flatten()) {
                    *remaining.finalizers.entry(finalizer.clone()).or_default() += 1;
                }
            }
            // A kind that is served no more has no objects any more.
            Err(error) if client::is_not_found(&error) => {}
            Err(error) => remaining.failures.push(format!("{}: {}", resource.name(), crate::api_message(&error))),
        }
        remaining
    }

    async fn list(&self, namespace: &str, resource: &ServedResource) -> client::Result<Vec<MetadataOnly>> {
        let request = Request::new(resource.path(Some(namespace))).list_metadata(&ListParams::default());
        let list: MetadataList = self.client.request(request.map_err(client::Error::BuildRequest)?).await?;
        Ok(list.items)
    }

    async fn delete_all(&self, namespace: &str, resource: &ServedResource) -> client::Result<()> {
        let requests = Request::new(resource.path(Some(namespace)));
        let background = DeleteParams::background();
        if resource.can("deletecollection") {
            let request = requests.delete_collection(&background, &ListParams::default()).map_err(client::Error::BuildRequest)?;
            match self.client.request_text(request).await {
                Err(error) if client::status_code(&error) == Some(405) => {}
                other => return other.map(drop),
            }
        }
        for object in self.list(namespace, resource).await? {
            let name = object.metadata.name.unwrap_or_default();
            let request = requests.delete(&name, &background).map_err(client::Error::BuildRequest)?;
            match self.client.request_text(request).await {
                Err(error) if !client::is_not_found(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Deletes what is in the namespace, and says what is left.
    async fn empty_all(&self, namespace: &str, resources: Vec<ServedResource>) -> Remaining {
        let deletable = |resource: &ServedResource| {
            resource.namespaced && resource.can("list") && (resource.can("delete") || resource.can("deletecollection"))
        };
        let (pods, others): (Vec<_>, Vec<_>) =
            resources.into_iter().filter(deletable).partition(|resource| resource.group.is_empty() && resource.resource == "pods");
        let mut all = Remaining::default();
        for batch in [pods, others] {
            let tasks: Vec<_> = batch.iter().map(|resource| self.empty(namespace, resource)).collect();
            let mut emptied = futures::stream::iter(tasks).buffer_unordered(AT_ONCE);
            while let Some(remaining) = emptied.next().await {
                all.objects.extend(remaining.objects);
                for (finalizer, count) in remaining.finalizers {
                    *all.finalizers.entry(finalizer).or_default() += count;
                }
                all.failures.extend(remaining.failures);
            }
            // While pods are left, the rest stays for them.
            if !all.objects.is_empty() || !all.failures.is_empty() {
                break;
            }
        }
        all
    }
}

#[async_trait]
impl Reconciler for NamespaceController {
    fn name(&self) -> &'static str {
        "namespace"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let (namespaces, content) = (self.namespaces.clone(), self.content.clone());
        let told = Trigger::custom(move |queue| {
            content.listen(move |change| {
                let key = ObjectKey::cluster(change.namespace);
                if change.is_gone && namespaces.get(&key).is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some()) {
                    queue.add(key);
                }
            });
        });
        vec![Trigger::itself(&self.namespaces), told]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(namespace) = self.namespaces.get(key).filter(|namespace| namespace.metadata.deletion_timestamp.is_some()) else {
            return Ok(Outcome::Settled);
        };
        let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
        if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            return Ok(Outcome::Settled);
        }
        // What is known is emptied although it may not be all; the namespace stays until all is known.
        let (known, failure) = match discover(&self.client).await {
            Ok(discovered) => {
                let failure = discovery_failure(&discovered.stale);
                (discovered, failure)
            }
            Err(error) => (Discovered::default(), Some(error.to_string())),
        };
        let mut remaining = Remaining::default();
        if failure.is_none() || !known.resources.is_empty() {
            let is_fresh = |resource: &ServedResource| !known.stale.contains(&resource.api_version());
            remaining = self.empty_all(&key.name, known.resources.iter().filter(|resource| is_fresh(resource)).cloned().collect()).await;
        }
        remaining.discovery_failure = failure;
        let api = Api::<Namespace>::all(self.client.clone());
        let mut current = (*namespace).clone();
        let status = conditions::status(&namespace, &remaining, self.clock.now());
        if current.status.as_ref() != Some(&status) {
            current.status = Some(status);
            match api.replace_status(&key.name, &PostParams::default(), &current).await {
                Ok(updated) => current = updated,
                Err(error) if client::is_not_found(&error) => return Ok(Outcome::Settled),
                Err(error) => return Err(error).doing(|| format!("update the status of namespace {key}")),
            }
        }
        if !remaining.failures.is_empty() {
            return Err(ReconcileError::Unusable(format!("namespace {key} cannot be emptied: {}", remaining.failures.join("; "))));
        }
        if let Some(failure) = remaining.discovery_failure {
            return Err(ReconcileError::Unusable(format!("namespace {key} may hold more: {failure}")));
        }
        if !remaining.objects.is_empty() {
            return Ok(Outcome::CheckAgainIn(LOOK_AGAIN));
        }
        let spec = current.spec.get_or_insert_default();
        spec.finalizers = Some(finalizers.into_iter().filter(|finalizer| finalizer != FINALIZER).collect());
        match api.replace_subresource("finalize", &key.name, &PostParams::default(), &current).await {
            Err(error) if client::is_not_found(&error) => Ok(Outcome::Settled),
            other => other.map(|_| Outcome::Settled).doing(|| format!("finalize namespace {key}")),
        }
    }
}

#[cfg(test)]
mod tests;
