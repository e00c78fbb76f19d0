//! How many pods of each PodDisruptionBudget may be evicted now. The API server's eviction reads the number, counts it down and notes the
//! pods it let go; this controller counts anew from what the pods really are. [`plan`] counts, [`expected`] finds how many there should be,
//! and [`stale`] takes back what pods were told of their end, where they were let go and stayed.

mod expected;
mod plan;
mod stale;

use std::sync::Arc;

use async_trait::async_trait;
use client::{Api, EventRecorder, EventType, Informer, ObjectKey, PostParams};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Runner, Trigger};
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::selector::{Selector, in_go};
use crate::{ControllerContext, pods};
use expected::Scales;
use plan::{not_gone, plan};

const CONTROLLER: &str = "disruption-controller";

/// Starts the controller.
pub fn start(context: &ControllerContext, runner: &Runner) {
    let controller = DisruptionController {
        client: context.client(CONTROLLER),
        budgets: context.informers.of(),
        pods: context.informers.of(),
        scales: Scales::new(context),
        events: context.events_as(CONTROLLER, "controllermanager"),
        clock: context.clock.clone(),
    };
    let stale = stale::StaleConditions { client: controller.client.clone(), pods: controller.pods.clone(), clock: controller.clock.clone() };
    runner.start(controller, 2);
    runner.start(stale, 1);
}

struct DisruptionController {
    client: client::Client,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    scales: Scales,
    events: EventRecorder,
    clock: Arc<dyn client::Clock>,
}

/// What a budget selects: nothing without a selector, everything with an empty one.
fn selector(budget: &PodDisruptionBudget) -> Option<Selector> {
    budget.spec.as_ref()?.selector.as_ref().map(Selector::or_everything)
}

/// Wakes the budgets of an object's whole namespace.
fn budgets_of_namespace<K: client::Watchable>(informer: &Informer<K>, budgets: &Informer<PodDisruptionBudget>, matters: impl Fn(&K, &K) -> bool + Send + 'static) -> Trigger {
    let budgets = budgets.clone();
    Trigger::on(informer, move |change| {
        if let (Some(old), Some(new)) = (&change.old, &change.new)
            && !matters(old, new)
        {
            return Vec::new();
        }
        let all = budgets.list_in(change.key.namespace.as_deref().unwrap_or_default());
        all.iter().map(|budget| client::key_of(&**budget)).collect()
    })
}

#[async_trait]
impl Reconciler for DisruptionController {
    fn name(&self) -> &'static str {
        "disruption"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let (budgets, events) = (self.budgets.clone(), self.events.clone());
        let mut triggers = vec![
            Trigger::itself(&self.budgets),
            Trigger::on(&self.pods, move |change| {
                let seen = |pod: &Pod| (pods::is_ready(pod), pods::phase(pod).to_owned(), pods::is_terminating(pod), pod.metadata.labels.clone(), pod.metadata.owner_references.clone());
                if let (Some(old), Some(new)) = (&change.old, &change.new)
                    && seen(old) == seen(new)
                {
                    return Vec::new();
                }
                let selects = |budget: &PodDisruptionBudget| {
                    let pods = [&change.old, &change.new].into_iter().flatten();
                    selector(budget).is_some_and(|selector| pods.into_iter().any(|pod| selector.selects_object(&pod.metadata)))
                };
                let all = budgets.list_in(change.key.namespace.as_deref().unwrap_or_default());
                let mut concerned: Vec<ObjectKey> = all.iter().filter(|budget| selects(budget)).map(|budget| client::key_of(&**budget)).collect();
                concerned.sort();
                if let (Some(pod), [first, _, ..]) = (change.new.as_ref().or(change.old.as_ref()), concerned.as_slice()) {
                    events.record(&**pod, EventType::Warning, "MultiplePodDisruptionBudgets", several(&change.key, first));
                }
                concerned
            }),
        ];
        triggers.extend(self.scales.triggers(&self.budgets));
        triggers
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(budget) = self.budgets.get(key) else { return Ok(Outcome::Settled) };
        let namespace = key.namespace.as_deref().unwrap_or_default();
        let selector = selector(&budget);
        let selected = |pod: &Arc<Pod>| selector.as_ref().is_some_and(|selector| selector.selects_object(&pod.metadata));
        let pods: Vec<_> = self.pods.list_in(namespace).into_iter().filter(selected).collect();
        if pods.is_empty() {
            self.events.record(&*budget, EventType::Normal, "NoPods", "No matching pods found");
        }
        let mut failure = None;
        let expected = match self.scales.expected(&self.client, namespace, &budget, &pods).await {
            Ok((expected, desired, unmanaged)) => {
                if unmanaged {
                    let text = in_go(budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()));
                    let message = format!(
                        "Pods selected by this PodDisruptionBudget (selector: {text}) were found to be unmanaged. As a result, the status of the PDB cannot \
                         be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of \
                         the PDB to an integer value."
                    );
                    self.events.record(&*budget, EventType::Warning, "UnmanagedPods", message);
                }
                Ok((expected, desired))
            }
            Err(problem) => {
                let (message, error) = match problem {
                    expected::ScaleError::Unmanaged(problem) => (problem, None),
                    expected::ScaleError::Api(error) => (error.to_string(), Some(error)),
                };
                self.events.record(&*budget, EventType::Warning, "CalculateExpectedPodCountFailed", format!("Failed to calculate the number of expected pods: {message}"));
                failure = error;
                Err(message)
            }
        };
        let now = self.clock.now();
        for pod in not_gone(&budget, &pods, now) {
            let message = format!("Pod was expected by PDB {key} to be deleted but it wasn't");
            self.events.record(&**pod, EventType::Warning, "NotDeleted", message);
        }
        let (status, check_after) = plan(&budget, &pods, expected, now);
        if budget.status.as_ref() != Some(&status) {
            let updated = PodDisruptionBudget { status: Some(status), ..(*budget).clone() };
            let api = Api::<PodDisruptionBudget>::namespaced(self.client.clone(), namespace);
            match api.replace_status(&key.name, &PostParams::default(), &updated).await {
                Err(error) if client::is_not_found(&error) => {}
                other => drop(other.doing(|| format!("update the status of disruption budget {key}"))?),
            }
        }
        // Nothing tells when the API answers again.
        failure.map_or(Ok(Outcome::after(check_after)), Err)
    }
}

/// What is said of a pod that several budgets select.
fn several(pod: &ObjectKey, chosen: &ObjectKey) -> String {
    let namespace = pod.namespace.as_deref().unwrap_or_default();
    format!("Pod \"{namespace}\"/\"{}\" matches multiple PodDisruptionBudgets.  Chose \"{}\" arbitrarily.", pod.name, chosen.name)
}

/// Wakes a namespace's budgets when one of these is resized.
fn resized<K: client::Watchable>(informer: &Informer<K>, budgets: &Informer<PodDisruptionBudget>, size: fn(&K) -> Option<i32>) -> Trigger {
    budgets_of_namespace(informer, budgets, move |old, new| size(old) != size(new))
}

fn set_size(set: &ReplicaSet) -> Option<i32> {
    set.spec.as_ref()?.replicas
}

fn stateful_size(set: &StatefulSet) -> Option<i32> {
    set.spec.as_ref()?.replicas
}

fn controller_size(controller: &ReplicationController) -> Option<i32> {
    controller.spec.as_ref()?.replicas
}
