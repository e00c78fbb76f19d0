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
            (None, None) => Ok((pods.len() as i32, 0, false)),
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
                let (uid, size) = self.size_of(client, namespace, controller).await?;
                sizes.insert(controller.uid.clone(), 0);
                sizes.insert(uid, size);
            }
        }
        Ok((sizes.values().sum(), unmanaged))
    }

    /// The uid and size of what finally has a size: for a ReplicaSet of a Deployment, the Deployment.
    async fn size_of(&self, client: &client::Client, namespace: &str, controller: &OwnerReference) -> Result<(String, i32), ScaleError> {
        let found = |metadata: &ObjectMeta, size: Option<i32>| {
            (metadata.uid.as_ref() == Some(&controller.uid)).then(|| (controller.uid.clone(), size.unwrap_or(1)))
        };
        let name = controller.name.as_str();
        let known = match (controller.api_version.as_str(), controller.kind.as_str()) {
            ("apps/v1", "ReplicaSet") => self.replica_sets.get_in(namespace, name).and_then(|set| {
                let owner = controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment");
                match owner.and_then(|owner| self.deployments.get_in(namespace, &owner.name)) {
                    Some(deployment) => Some((deployment.metadata.uid.clone()?, deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1))),
                    None => found(&set.metadata, super::set_size(&set)),
                }
            }),
            ("apps/v1", "StatefulSet") => self.stateful_sets.get_in(namespace, name).and_then(|set| found(&set.metadata, super::stateful_size(&set))),
            ("v1", "ReplicationController") => {
                self.controllers.get_in(namespace, name).and_then(|owner| found(&owner.metadata, super::controller_size(&owner)))
            }
            _ => return self.size_of_other(client, namespace, controller).await,
        };
        // One that is gone wants no pods any more.
        Ok(known.unwrap_or((controller.uid.clone(), 0)))
    }

    /// The size of anything else that has a scale subresource.
    async fn size_of_other(&self, client: &client::Client, namespace: &str, controller: &OwnerReference) -> Result<(String, i32), ScaleError> {
        let unmanaged = || ScaleError::Unmanaged(format!("found no controller ref for pods, or {} {} has no scale", controller.kind, controller.name));
        let place = crate::scale::find(client, &controller.api_version, &controller.kind, namespace, &controller.name).await.map_err(ScaleError::Api)?;
        let answer = place.ok_or_else(unmanaged)?.read(client).await;
        match answer {
            Ok(scale) => Ok((controller.uid.clone(), scale.spec.and_then(|spec| spec.replicas).unwrap_or(0))),
            Err(error) if client::is_not_found(&error) => Err(unmanaged()),
            Err(error) => Err(error).doing(|| format!("read the scale of {} {}", controller.kind, controller.name)).map_err(ScaleError::Api),
        }
    }
}
