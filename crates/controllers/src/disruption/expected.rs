//! How many pods there should be, which is not how many there are: asked of whoever controls the pods.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::Informer;
use controller::ownership::controller_of;
use controller::{Doing, ReconcileError, Trigger};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::ControllerContext;

/// Why the number is not known.
pub(super) enum ScaleError {
    /// The API did not answer.
    Api(ReconcileError),
    /// Pods are not controlled by anything that has a size.
    Unmanaged(String),
}

/// The caches of what has a size.
pub(super) struct Scales {
    deployments: Informer<Deployment>,
    replica_sets: Informer<ReplicaSet>,
    stateful_sets: Informer<StatefulSet>,
    controllers: Informer<ReplicationController>,
}

impl Scales {
    pub fn new(context: &ControllerContext) -> Self {
        Self {
            deployments: context.informers.of(),
            replica_sets: context.informers.of(),
            stateful_sets: context.informers.of(),
            controllers: context.informers.of(),
        }
    }

    pub fn triggers(&self, budgets: &Informer<PodDisruptionBudget>) -> Vec<Trigger> {
        vec![
            super::resized(&self.deployments, budgets, |deployment| deployment.spec.as_ref()?.replicas),
            super::resized(&self.replica_sets, budgets, super::set_size),
            super::resized(&self.stateful_sets, budgets, super::stateful_size),
            super::resized(&self.controllers, budgets, super::controller_size),
        ]
    }

    /// How many pods there should be, how many of them have to stay healthy, and whether there are pods of no controller, which counts
    /// by controllers leave out.
    /// Source: Kubernetes 1.36, `getExpectedPodCount`.
    pub async fn expected(&self, client: &client::Client, namespace: &str, budget: &PodDisruptionBudget, pods: &[Arc<Pod>]) -> Result<(i32, i32, bool), ScaleError> {
        let spec = budget.spec.clone().unwrap_or_default();
        let total = |percentage: &IntOrString, of: i32| crate::scaled_value(Some(percentage), of, true).unwrap_or(0);
        match (&spec.max_unavailable, &spec.min_available) {
            (Some(max_unavailable), _) => {
                let (expected, unmanaged) = self.sum_of_scales(client, namespace, pods).await?;
                Ok((expected, (expected - total(max_unavailable, expected)).max(0), unmanaged))
            }
            (None, Some(IntOrString::Int(number))) => Ok((pods.len() as i32, *number, false)),
            (None, Some(percentage)) => {
                let (expected, unmanaged) = self.sum_of_scales(client, namespace, pods).await?;
                Ok((expected, total(percentage, expected), unmanaged))
            }
            (None, None) => Ok((0, 0, false)),
        }
    }

    /// The sum of the sizes of all controllers of the pods, each once; and whether there are pods of none.
    async fn sum_of_scales(&self, client: &client::Client, namespace: &str, pods: &[Arc<Pod>]) -> Result<(i32, bool), ScaleError> {
        let mut sizes: BTreeMap<String, i32> = BTreeMap::new();
        let mut unmanaged = false;
        for pod in pods {
            let Some(controller) = controller_of(&pod.metadata) else {
                unmanaged = true;
                continue;
            };
            if !sizes.contains_key(&controller.uid) {
                let found = self.size_of(client, namespace, controller).await?;
                let (uid, size) = found.ok_or_else(|| ScaleError::Unmanaged(format!("found no controllers for pod \"{}\"", pod.metadata.name.as_deref().unwrap_or_default())))?;
                // What is counted may be the controller's own controller: then this one needs no second look.
                sizes.insert(controller.uid.clone(), 0);
                sizes.insert(uid, size);
            }
        }
        Ok((sizes.values().sum(), unmanaged))
    }

    /// The uid and size of what finally has a size: for a ReplicaSet of a Deployment, the Deployment. `None` where there is no such thing.
    /// Source: Kubernetes 1.36, `DisruptionController.finders`.
    async fn size_of(&self, client: &client::Client, namespace: &str, controller: &OwnerReference) -> Result<Option<(String, i32)>, ScaleError> {
        let found = |metadata: &ObjectMeta, size: Option<i32>| {
            (metadata.uid.as_ref() == Some(&controller.uid)).then(|| (controller.uid.clone(), size.unwrap_or(1)))
        };
        let name = controller.name.as_str();
        let known = match (controller.api_version.as_str(), controller.kind.as_str()) {
            ("apps/v1", "ReplicaSet") => self.replica_sets.get_in(namespace, name).and_then(|set| {
                let own = found(&set.metadata, super::set_size(&set))?;
                let Some(owner) = controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment") else { return Some(own) };
                let deployment = self.deployments.get_in(namespace, &owner.name).filter(|deployment| deployment.metadata.uid.as_ref() == Some(&owner.uid))?;
                Some((owner.uid.clone(), deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)))
            }),
            ("apps/v1", "StatefulSet") => self.stateful_sets.get_in(namespace, name).and_then(|set| found(&set.metadata, super::stateful_size(&set))),
            ("v1", "ReplicationController") => {
                self.controllers.get_in(namespace, name).and_then(|owner| found(&owner.metadata, super::controller_size(&owner)))
            }
            _ => None,
        };
        match known {
            Some(known) => Ok(Some(known)),
            None => self.size_of_other(client, namespace, controller).await,
        }
    }

    /// The size of anything that has a scale subresource.
    /// Source: Kubernetes 1.36, `getScaleController`.
    async fn size_of_other(&self, client: &client::Client, namespace: &str, controller: &OwnerReference) -> Result<Option<(String, i32)>, ScaleError> {
        let place = crate::scale::find(client, &controller.api_version, &controller.kind, namespace, &controller.name).await.map_err(ScaleError::Api)?;
        let unknown = || ScaleError::Unmanaged(format!("no matches for kind \"{}\" in version \"{}\"", controller.kind, controller.api_version));
        let place = place.ok_or_else(unknown)?;
        match place.read(client).await {
            Ok(scale) if scale.metadata.uid.as_ref() != Some(&controller.uid) => Ok(None),
            Ok(scale) => Ok(Some((controller.uid.clone(), scale.spec.and_then(|spec| spec.replicas).unwrap_or(0)))),
            Err(error) if client::is_not_found(&error) && place.resource.has_scale => Ok(None),
            Err(error) if client::is_not_found(&error) => Err(ScaleError::Unmanaged(format!("{} does not implement the scale subresource", place.resource.name()))),
            Err(error) => Err(error).doing(|| format!("read the scale of {} {}", controller.kind, controller.name)).map_err(ScaleError::Api),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{context, within};
    use client::fake::FakeApi;
    use client::{Api, PostParams};
    use serde_json::{Value, json};

    /// Pods of these controllers (kind, name, uid).
    fn pods(owners: &[(&str, &str, &str, &str)]) -> Vec<Arc<Pod>> {
        let make = |(number, (version, kind, name, uid)): (usize, &(&str, &str, &str, &str))| {
            let owner = json!({ "apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": true });
            Arc::new(serde_json::from_value(json!({ "metadata": { "name": format!("p{number}"), "namespace": "x", "ownerReferences": [owner] } })).unwrap())
        };
        owners.iter().enumerate().map(make).collect()
    }

    #[tokio::test]
    async fn sizes_are_those_of_controllers_each_once_and_unknown_ones_are_named() {
        let fake = FakeApi::new();
        let context = context(&fake);
        let scales = Scales::new(&context);
        fake.serve::<k8s_openapi::api::batch::v1::Job>();
        fake.serve::<ReplicaSet>();
        let set = |name: &str, owner: Value| -> ReplicaSet {
            let metadata = json!({ "name": name, "namespace": "x", "ownerReferences": [owner] });
            serde_json::from_value(json!({ "metadata": metadata, "spec": { "replicas": 2, "selector": {} } })).unwrap()
        };
        let web: Deployment = serde_json::from_value(json!({ "metadata": { "name": "web", "namespace": "x" }, "spec": { "replicas": 5, "selector": {}, "template": {} } })).unwrap();
        let web = Api::namespaced(fake.client(), "x").create(&PostParams::default(), &web).await.unwrap();
        let owner = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": web.metadata.uid, "controller": true });
        let mut uids = Vec::new();
        for name in ["web-1", "web-2"] {
            let made = Api::namespaced(fake.client(), "x").create(&PostParams::default(), &set(name, owner.clone())).await.unwrap();
            uids.push(made.metadata.uid.unwrap());
        }
        let mut changes = scales.replica_sets.subscribe();
        within("the sets", async {
            while scales.replica_sets.get_in("x", "web-2").is_none() || scales.deployments.get_in("x", "web").is_none() {
                tokio::select! {
                    change = changes.recv() => drop(change.unwrap()),
                    () = scales.deployments.has_synced() => tokio::task::yield_now().await,
                }
            }
        })
        .await;
        let budget: PodDisruptionBudget = serde_json::from_value(json!({ "spec": { "maxUnavailable": 1 } })).unwrap();
        let check = async |owners: &[(&str, &str, &str, &str)], expected: Result<(i32, i32, bool), &str>| {
            let found = scales.expected(&fake.client(), "x", &budget, &pods(owners)).await;
            let found = found.map_err(|error| match error {
                ScaleError::Unmanaged(problem) => problem,
                ScaleError::Api(error) => error.to_string(),
            });
            assert_eq!(found, expected.map_err(str::to_owned));
        };
        // Both sets are of one deployment, whose size counts.
        check(&[("apps/v1", "ReplicaSet", "web-1", &uids[0]), ("apps/v1", "ReplicaSet", "web-2", &uids[1])], Ok((5, 4, false))).await;
        check(&[("batch/v1", "Job", "sum", "u")], Err("jobs.batch does not implement the scale subresource")).await;
        check(&[("example.com/v1", "Database", "db", "u")], Err("no matches for kind \"Database\" in version \"example.com/v1\"")).await;
        // Who neither says how many nor how few has no pods that may go.
        let silent = PodDisruptionBudget { spec: Some(Default::default()), ..PodDisruptionBudget::default() };
        assert!(matches!(scales.expected(&fake.client(), "x", &silent, &pods(&[("v1", "X", "x", "u")])).await, Ok((0, 0, false))));
    }
}
