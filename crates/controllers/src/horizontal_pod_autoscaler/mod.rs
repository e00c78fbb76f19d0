//! A HorizontalPodAutoscaler gives a workload as many pods as its load asks for.
//!
//! [`metrics`] reads the load from the metrics APIs, [`proposal`] turns one metric into a number of pods ([`usage`] does the arithmetic over
//! pods), [`behavior`] keeps that within bounds and from changing too fast, and [`conditions`] tells what was done and why.

mod behavior;
mod conditions;
mod metrics;
mod proposal;
mod usage;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Api, EventRecorder, EventType, Informer, ObjectKey, PostParams};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Runner, Trigger};
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerStatus, MetricStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use meta::selector::LabelSelector;
use parking_lot::Mutex;

use crate::ControllerContext;
use crate::scale::{self, ScalePlace};
use behavior::{History, Wanted};
use conditions::{ABLE, ACTIVE, Conditions, LIMITED};
use proposal::{Proposal, Workload};

const CONTROLLER: &str = "horizontal-pod-autoscaler";
/// How often an autoscaler looks at its load. Load cannot be watched, so this is a poll, and costs nothing where there is no autoscaler.
/// Source: Kubernetes 1.36, `--horizontal-pod-autoscaler-sync-period`.
const PERIOD: Duration = Duration::from_secs(15);

/// Starts the controller.
pub fn start(context: &ControllerContext, runner: &Runner) {
    let controller = Autoscalers {
        client: context.client(CONTROLLER),
        autoscalers: context.informers.of(),
        pods: context.informers.of(),
        histories: Mutex::default(),
        selectors: Mutex::default(),
        events: context.events(CONTROLLER),
        clock: context.clock.clone(),
    };
    runner.start(controller, 5);
}

struct Autoscalers {
    client: client::Client,
    autoscalers: Informer<HorizontalPodAutoscaler>,
    pods: Informer<Pod>,
    /// What was recommended and done lately. A restart forgets it, as upstream does.
    histories: Mutex<HashMap<ObjectKey, History>>,
    /// What each autoscaler's target selected when it was last looked at.
    selectors: Mutex<HashMap<ObjectKey, LabelSelector>>,
    events: EventRecorder,
    clock: Arc<dyn client::Clock>,
}

/// What one look at an autoscaler comes to.
struct Verdict {
    conditions: Conditions,
    current: i32,
    desired: i32,
    /// Why the size changes, when it does.
    reason: String,
    metrics: Option<Vec<MetricStatus>>,
    /// What went wrong with the metrics.
    failure: Option<String>,
}

impl Autoscalers {
    fn say(&self, autoscaler: &HorizontalPodAutoscaler, kind: EventType, reason: &str, message: impl Into<String>) {
        self.events.record(autoscaler, kind, reason, message);
    }

    /// The scale of the target, or why there is none.
    async fn target(&self, key: &ObjectKey, autoscaler: &HorizontalPodAutoscaler) -> Result<(ScalePlace, Scale), String> {
        let target = &autoscaler.spec.scale_target_ref;
        let namespace = key.namespace.as_deref().unwrap_or_default();
        let api_version = target.api_version.as_deref().unwrap_or("v1");
        let place = scale::find(&self.client, api_version, &target.kind, namespace, &target.name).await.map_err(|error| error.to_string())?;
        let place = place.ok_or_else(|| format!("no matches for kind \"{}\" in group \"{}\"", target.kind, api_version.split_once('/').map_or("", |(group, _)| group)))?;
        let scale = place.read(&self.client).await.map_err(|error| crate::api_message(&error))?;
        Ok((place, scale))
    }

    /// Asks every metric for a number of pods. The most demanding one counts; one that cannot be read keeps the workload from shrinking.
    /// Source: Kubernetes 1.36, `computeReplicasForMetrics`.
    async fn ask_metrics(&self, autoscaler: &HorizontalPodAutoscaler, workload: &Workload<'_>, verdict: &mut Verdict) -> Option<(i32, String)> {
        let metrics = autoscaler.spec.metrics.clone().unwrap_or_default();
        let mut best: Option<Proposal> = None;
        let mut statuses = Vec::new();
        let mut failures = Vec::new();
        for metric in &metrics {
            match proposal::propose(&self.client, metric, workload).await {
                Ok(proposal) => {
                    statuses.push(proposal.status.clone());
                    if best.as_ref().is_none_or(|best| proposal.replicas > best.replicas) {
                        best = Some(proposal);
                    }
                }
                Err(failure) => {
                    // One that cannot be read is told of as a status without type, so that the others keep their places.
                    statuses.push(MetricStatus::default());
                    self.say(autoscaler, EventType::Warning, failure.reason, failure.message.clone());
                    failures.push(failure);
                }
            }
        }
        verdict.metrics = Some(statuses);
        let shrinks = best.as_ref().is_none_or(|best| best.replicas < verdict.current);
        if let Some(first) = failures.first().filter(|_| shrinks) {
            verdict.conditions.set(ACTIVE, false, first.reason, format!("the HPA was unable to compute the replica count: {}", first.message));
            verdict.failure = Some(format!("invalid metrics ({} invalid out of {}), first error is: {}", failures.len(), metrics.len(), first.whole));
            return None;
        }
        let best = best?;
        let message = format!("the HPA was able to successfully calculate a replica count from {}", best.name);
        verdict.conditions.set(ACTIVE, true, "ValidMetricFound", message);
        Some((best.replicas, best.name))
    }

    /// All autoscalers whose targets have any of these pods, after a look at the one of `key`.
    /// Source: Kubernetes 1.36, `hpasControllingPodsUnderSelector`.
    fn selecting(&self, key: &ObjectKey, selector: LabelSelector, pods: &[Arc<Pod>]) -> Vec<ObjectKey> {
        let mut selectors = self.selectors.lock();
        selectors.insert(key.clone(), selector);
        let has_any = |selector: &LabelSelector| pods.iter().any(|pod| selector.matches_map(&pod.metadata.labels.clone().unwrap_or_default()));
        let others = selectors.iter().filter(|(other, selector)| other.namespace == key.namespace && has_any(selector));
        let mut found: Vec<ObjectKey> = others.map(|(other, _)| other.clone()).collect();
        found.sort();
        found
    }

    /// Decides what the target's size should be.
    /// Source: Kubernetes 1.36, `reconcileAutoscaler`.
    async fn decide(&self, key: &ObjectKey, autoscaler: &HorizontalPodAutoscaler, scale: &Scale, verdict: &mut Verdict) {
        let spec = &autoscaler.spec;
        let least = spec.min_replicas.unwrap_or(1);
        let current = verdict.current;
        if current == 0 && least != 0 {
            verdict.conditions.set(ACTIVE, false, "ScalingDisabled", "scaling is disabled since the replica count of the target is zero".to_owned());
            return;
        }
        if current > spec.max_replicas {
            verdict.desired = spec.max_replicas;
            verdict.reason = "Current number of replicas above Spec.MaxReplicas".to_owned();
            return;
        }
        if current < least {
            verdict.desired = least;
            verdict.reason = "Current number of replicas below Spec.MinReplicas".to_owned();
            return;
        }
        let selector = scale.status.as_ref().and_then(|status| status.selector.as_deref()).filter(|selector| !selector.is_empty());
        let Some(selector) = selector else {
            let message = "selector is required";
            self.say(autoscaler, EventType::Warning, "SelectorRequired", message);
            verdict.conditions.set(ACTIVE, false, "InvalidSelector", "the HPA target's scale is missing a selector".to_owned());
            verdict.failure = Some(message.to_owned());
            return;
        };
        let Ok(parsed) = LabelSelector::parse(selector) else {
            let message = format!("couldn't convert selector into a corresponding internal selector object: {selector}");
            self.say(autoscaler, EventType::Warning, "InvalidSelector", message.clone());
            verdict.conditions.set(ACTIVE, false, "InvalidSelector", message.clone());
            verdict.failure = Some(message);
            return;
        };
        let namespace = key.namespace.as_deref().unwrap_or_default();
        let mut pods = self.pods.list_in(namespace);
        pods.retain(|pod| parsed.matches_map(&pod.metadata.labels.clone().unwrap_or_default()));
        let rivals = self.selecting(key, parsed, &pods);
        if rivals.len() > 1 {
            let names: Vec<String> = rivals.iter().map(ToString::to_string).collect();
            let message = format!("pods by selector {selector} are controlled by multiple HPAs: [{}]", names.join(" "));
            self.say(autoscaler, EventType::Warning, "AmbiguousSelector", message.clone());
            verdict.conditions.set(ACTIVE, false, "AmbiguousSelector", message.clone());
            verdict.failure = Some(message);
            return;
        }
        let workload = Workload {
            namespace,
            selector,
            pods: &pods,
            replicas: current,
            observed: scale.status.as_ref().map_or(0, |status| status.replicas),
            tolerance: behavior::tolerance(spec),
            now: self.clock.now(),
        };
        let Some((wanted, metric)) = self.ask_metrics(autoscaler, &workload, verdict).await else { return };
        let least_wanted = Wanted { current, wanted, least, most: spec.max_replicas };
        let now = self.clock.elapsed();
        let decision = self.histories.lock().entry(key.clone()).or_default().decide(spec, &least_wanted, now);
        verdict.desired = decision.replicas;
        verdict.reason = match wanted.cmp(&current) {
            std::cmp::Ordering::Greater => format!("{metric} above target"),
            _ => "All metrics below target".to_owned(),
        };
        verdict.conditions.set(ABLE, true, decision.stable.0, decision.stable.1.to_owned());
        verdict.conditions.set(LIMITED, decision.is_limited, decision.limit.0, decision.limit.1.to_owned());
    }

    /// Gives the target the size that was decided. True when it got it.
    async fn resize(&self, key: &ObjectKey, autoscaler: &HorizontalPodAutoscaler, place: &ScalePlace, mut scale: Scale, verdict: &mut Verdict) -> bool {
        scale.spec.get_or_insert_default().replicas = Some(verdict.desired);
        if let Err(error) = place.write(&self.client, &scale).await {
            let problem = match &error {
                ReconcileError::Api { source, .. } => crate::api_message(source),
                other => other.to_string(),
            };
            let message = format!("New size: {}; reason: {}; error: {problem}", verdict.desired, verdict.reason);
            self.say(autoscaler, EventType::Warning, "FailedRescale", message);
            verdict.conditions.set(ABLE, false, "FailedUpdateScale", format!("the HPA controller was unable to update the target scale: {problem}"));
            return false;
        }
        verdict.conditions.set(ABLE, true, "SucceededRescale", format!("the HPA controller was able to update the target scale to {}", verdict.desired));
        self.say(autoscaler, EventType::Normal, "SuccessfulRescale", format!("New size: {}; reason: {}", verdict.desired, verdict.reason));
        let now = self.clock.elapsed();
        self.histories.lock().entry(key.clone()).or_default().changed(verdict.desired - verdict.current, now);
        true
    }

    /// Writes the status, where it says something new.
    async fn write_status(&self, key: &ObjectKey, autoscaler: &HorizontalPodAutoscaler, status: HorizontalPodAutoscalerStatus) -> Result<(), ReconcileError> {
        if autoscaler.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let updated = HorizontalPodAutoscaler { status: Some(status), ..autoscaler.clone() };
        let api = Api::<HorizontalPodAutoscaler>::namespaced(self.client.clone(), key.namespace.as_deref().unwrap_or_default());
        match api.replace_status(&key.name, &PostParams::default(), &updated).await {
            Ok(_) => Ok(()),
            Err(error) if client::is_not_found(&error) => Ok(()),
            Err(error) => {
                self.say(autoscaler, EventType::Warning, "FailedUpdateStatus", crate::api_message(&error));
                Err(error).doing(|| format!("update the status of autoscaler {key}"))
            }
        }
    }
}

#[async_trait]
impl Reconciler for Autoscalers {
    fn name(&self) -> &'static str {
        "horizontalpodautoscaler"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![
            Trigger::on(&self.autoscalers, |change| {
                // Not for our own status: that would make us look at the load all the time.
                let spec = |autoscaler: &Option<Arc<HorizontalPodAutoscaler>>| autoscaler.as_ref().map(|autoscaler| (autoscaler.metadata.uid.clone(), autoscaler.spec.clone()));
                if spec(&change.old) == spec(&change.new) { Vec::new() } else { vec![change.key.clone()] }
            }),
            Trigger::reads(&self.pods),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(autoscaler) = self.autoscalers.get(key) else {
            self.histories.lock().remove(key);
            self.selectors.lock().remove(key);
            return Ok(Outcome::Settled);
        };
        // Whatever goes wrong, the load is looked at again after the usual time, as upstream does.
        if let Err(error) = self.look_at(key, &autoscaler).await {
            tracing::warn!(%key, %error, "an autoscaler could not do its work, trying again in {PERIOD:?}");
        }
        Ok(Outcome::CheckAgainIn(PERIOD))
    }
}

impl Autoscalers {
    /// Source: Kubernetes 1.36, `reconcileAutoscaler`.
    async fn look_at(&self, key: &ObjectKey, autoscaler: &HorizontalPodAutoscaler) -> Result<(), ReconcileError> {
        let old = autoscaler.status.clone().unwrap_or_default();
        let conditions = Conditions::new(old.conditions.clone().unwrap_or_default(), self.clock.now());
        let mut verdict = Verdict { conditions, current: 0, desired: 0, reason: String::new(), metrics: None, failure: None };
        let (place, scale) = match self.target(key, autoscaler).await {
            Ok(found) => found,
            Err(problem) => {
                self.say(autoscaler, EventType::Warning, "FailedGetScale", problem.clone());
                verdict.conditions.set(ABLE, false, "FailedGetScale", format!("the HPA controller was unable to get the target's current scale: {problem}"));
                let status = HorizontalPodAutoscalerStatus { conditions: verdict.conditions.into_option(), ..old };
                return self.write_status(key, autoscaler, status).await;
            }
        };
        verdict.conditions.set(ABLE, true, "SucceededGetScale", "the HPA controller was able to get the target's current scale".to_owned());
        verdict.current = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        verdict.desired = verdict.current;
        let now = self.clock.elapsed();
        self.histories.lock().entry(key.clone()).or_default().begin(verdict.current, now);
        self.decide(key, autoscaler, &scale, &mut verdict).await;
        let mut status = HorizontalPodAutoscalerStatus { observed_generation: autoscaler.metadata.generation, ..old };
        if verdict.failure.is_none() {
            let wanted = verdict.desired;
            let is_to_change = wanted != verdict.current;
            let has_changed = is_to_change && self.resize(key, autoscaler, &place, scale, &mut verdict).await;
            if has_changed {
                status.last_scale_time = Some(Time(self.clock.now()));
            }
            // Where it could not be done, what was wanted before stays as it is.
            if has_changed || !is_to_change {
                status.desired_replicas = wanted;
            }
        }
        status.conditions = verdict.conditions.into_option();
        status.current_metrics = verdict.metrics.filter(|metrics| !metrics.is_empty());
        status.current_replicas = Some(verdict.current);
        let written = self.write_status(key, autoscaler, status).await;
        if let Some(failure) = verdict.failure {
            self.say(autoscaler, EventType::Warning, "FailedComputeMetricsReplicas", failure);
        }
        written
    }
}
