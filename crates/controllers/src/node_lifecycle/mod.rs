//! Notices nodes that no longer report, and says so: in the node's conditions, in its taints, and in the readiness of its pods. Evicting
//! pods from such a node is `taint_eviction`'s.
//!
//! A node reports by renewing its Lease (or its status). Whether it did is judged by when this process saw the report, never by the
//! stamp inside, so clocks of nodes may differ. [`conditions`], [`wanted_taints`] and [`zones`] decide.

mod conditions;
mod labels;
mod wanted_taints;
mod zones;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Api, EventRecorder, EventType, Index, Informer, ObjectKey, Patch, PatchParams, PostParams, Selection};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Runner, Trigger};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use parking_lot::Mutex;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use serde_json::json;

use crate::{ControllerContext, pods};
use crate::taints::{NO_EXECUTE, NOT_READY, UNREACHABLE};
use zones::{Permission, Zone, Zones};

const CONTROLLER: &str = "node-controller";
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// A node that never said anything of itself is given this long. Source: Kubernetes 1.36, `--node-startup-grace-period`.
const STARTUP_GRACE: Duration = Duration::from_secs(60);

/// Starts the controller. A node that did not report for the grace period is not known to be well.
pub fn start(context: &ControllerContext, runner: &Runner, grace: Duration) {
    let pods = context.informers.of::<Pod>();
    let controller = NodeLifecycle {
        client: context.client(CONTROLLER),
        nodes: context.informers.of(),
        leases: context.informers.selected(Selection::in_namespace(LEASE_NAMESPACE)),
        pods_by_node: pods::by_node(&pods),
        pods,
        reports: Arc::default(),
        zones: Arc::default(),
        events: context.events(CONTROLLER),
        clock: context.clock.clone(),
        grace,
        evictions: runner.metrics().register(evictions),
    };
    runner.start(controller, 4);
}

/// When each node was last seen to report, by our clock.
type Reports = Arc<Mutex<HashMap<Arc<str>, Duration>>>;

struct NodeLifecycle {
    client: client::Client,
    nodes: Informer<Node>,
    leases: Informer<Lease>,
    pods: Informer<Pod>,
    pods_by_node: Index<Pod>,
    reports: Reports,
    zones: Arc<Mutex<Zones>>,
    events: EventRecorder,
    clock: Arc<dyn client::Clock>,
    grace: Duration,
    evictions: Family<ZoneLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ZoneLabels {
    zone: String,
}

impl ZoneLabels {
    /// Source: Kubernetes 1.36, `GetZoneKey` of `component-helpers/node/topology`.
    fn of(node: &Node) -> Self {
        let label = |name: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(name)).cloned().unwrap_or_default();
        let (region, zone) = (label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"));
        Self { zone: if region.is_empty() && zone.is_empty() { String::new() } else { format!("{region}:\0:{zone}") } }
    }
}

/// Nodes whose pods were driven away. Source of the name: Kubernetes 1.36, `pkg/controller/nodelifecycle/metrics.go`.
fn evictions(registry: &mut Registry) -> Family<ZoneLabels, Counter> {
    let evictions = Family::default();
    registry.register("node_collector_evictions", "[STABLE] Nodes whose pods were driven away, by zone", Family::clone(&evictions));
    evictions
}

fn drives_away(taints: Option<&Vec<Taint>>) -> bool {
    taints.into_iter().flatten().any(|taint| taint.effect == NO_EXECUTE && [NOT_READY, UNREACHABLE].contains(&taint.key.as_str()))
}

impl NodeLifecycle {
    /// How long the node has been silent.
    fn silence(&self, key: &ObjectKey) -> Duration {
        let now = self.clock.elapsed();
        now.saturating_sub(*self.reports.lock().entry(key.name.clone()).or_insert(now))
    }

    /// Whether the node's pods are to be driven away if it is not well, and what its zone said where it was asked.
    fn may_drive_away(&self, node: &Node) -> (bool, Option<Permission>) {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        if conditions::get(node, "Ready").is_none_or(|ready| ready.status == "True") {
            self.zones.lock().forget(name);
            return (false, None);
        }
        let nodes = self.nodes.list();
        let all = nodes.iter().map(|node| &**node);
        if wanted_taints::drives_away(node) {
            self.zones.lock().forget(name);
            return (!zones::all_are_silent(all), None);
        }
        let permission = self.zones.lock().ask(&Zone::of(node), name, all, self.clock.elapsed());
        (permission == Permission::Now, Some(permission))
    }

    /// Says under their older names, too, what some of a node's labels say.
    async fn mend_labels(&self, node: &Node) -> Result<(), ReconcileError> {
        let labels = labels::missing(node);
        if labels.is_empty() {
            return Ok(());
        }
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let patch = json!({ "metadata": { "uid": node.metadata.uid, "labels": labels } });
        match Api::<Node>::all(self.client.clone()).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(error) if client::is_not_found(&error) || client::is_conflict(&error) => Ok(()),
            other => other.map(drop).doing(|| format!("label node {name}")),
        }
    }

    /// The pods of a node that does not report are not ready as far as anybody knows.
    async fn mark_pods(&self, node: &Node) -> Result<(), ReconcileError> {
        for pod in self.pods_by_node.get(node.metadata.name.as_deref().unwrap_or_default()) {
            let Some(conditions) = conditions::not_ready(&pod, self.clock.now()) else { continue };
            let (namespace, name) = (pod.metadata.namespace.as_deref().unwrap_or_default(), pod.metadata.name.as_deref().unwrap_or_default());
            let patch = json!({ "metadata": { "uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version }, "status": { "conditions": conditions } });
            let api = Api::<Pod>::namespaced(self.client.clone(), namespace);
            match api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => self.events.record(&*pod, EventType::Warning, "NodeNotReady", "Node is not ready"),
                Err(error) if client::is_not_found(&error) => {}
                Err(error) => return Err(error).doing(|| format!("mark pod {namespace}/{name} as not ready")),
            }
        }
        Ok(())
    }
}

/// Whether a node says that it is ready.
fn is_ready(node: &Node) -> bool {
    conditions::get(node, "Ready").is_some_and(|condition| condition.status == "True")
}

#[async_trait]
impl Reconciler for NodeLifecycle {
    fn name(&self) -> &'static str {
        "node-lifecycle"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let reports = |clock: &Arc<dyn client::Clock>, reports: &Reports| {
            let (clock, reports) = (clock.clone(), reports.clone());
            move |name: &Arc<str>| reports.lock().insert(name.clone(), clock.elapsed())
        };
        let (by_lease, by_status, forget) = (reports(&self.clock, &self.reports), reports(&self.clock, &self.reports), self.reports.clone());
        let (nodes, all) = (self.nodes.clone(), self.nodes.clone());
        let (events, zones) = (self.events.clone(), self.zones.clone());
        vec![
            Trigger::on(&self.nodes, move |change| {
                let heartbeat = |node: &Arc<Node>| conditions::get(node, "Ready").and_then(|condition| condition.last_heartbeat_time.clone());
                let name = &change.key.name;
                let Some(new) = &change.new else {
                    forget.lock().remove(name);
                    zones.lock().forget(name);
                    if let Some(old) = &change.old {
                        let message = format!("Node {name} event: Removing Node {name} from Controller");
                        events.record(&**old, EventType::Normal, "RemovingNode", message);
                    }
                    return Vec::new();
                };
                if change.old.is_none() {
                    events.record(&**new, EventType::Normal, "RegisteredNode", format!("Node {name} event: Registered Node {name} in Controller"));
                }
                if change.old.as_ref().is_none_or(|old| heartbeat(old) != heartbeat(new)) {
                    by_status(&change.key.name);
                }
                let mut keys = vec![change.key.clone()];
                // Whether a silent node is evicted depends on whether any other is well.
                if change.old.as_ref().is_none_or(|old| is_ready(old) != is_ready(new)) {
                    keys.extend(all.list().iter().filter(|node| !is_ready(node)).map(|node| client::key_of(&**node)));
                }
                keys
            }),
            Trigger::on(&self.leases, move |change| {
                let renewed = |lease: &Arc<Lease>| lease.spec.as_ref().and_then(|spec| spec.renew_time.clone());
                let Some(new) = &change.new else { return Vec::new() };
                if change.old.as_ref().is_some_and(|old| renewed(old) == renewed(new)) {
                    return Vec::new();
                }
                by_lease(&change.key.name);
                // A renewal needs no work, unless the node was believed dead.
                let key = ObjectKey { namespace: None, name: change.key.name.clone() };
                let believed_dead = nodes.get(&key).is_some_and(|node| !is_ready(&node));
                if believed_dead { vec![key] } else { Vec::new() }
            }),
            Trigger::reads(&self.pods),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(node) = self.nodes.get(key) else { return Ok(Outcome::Settled) };
        self.mend_labels(&node).await?;
        let silence = self.silence(key);
        let grace = if conditions::get(&node, "Ready").is_some() { self.grace } else { STARTUP_GRACE };
        let api = Api::<Node>::all(self.client.clone());
        let mut current = (*node).clone();
        if silence >= grace
            && let Some(conditions) = conditions::unknown(&node, self.clock.now())
        {
            current.status.get_or_insert_default().conditions = Some(conditions);
            match api.replace_status(&key.name, &PostParams::default(), &current).await {
                Ok(updated) => current = updated,
                Err(error) if client::is_not_found(&error) => return Ok(Outcome::Settled),
                Err(error) => return Err(error).doing(|| format!("say that node {key} does not report")),
            }
            tracing::warn!(node = %key, "the node has not reported for {silence:?}");
            if is_ready(&node) {
                self.events.record(&*node, EventType::Normal, "NodeNotReady", format!("Node {key} status is now: NodeNotReady"));
            }
        }
        let (drive_away, asked) = self.may_drive_away(&current);
        if let Some(taints) = wanted_taints::wanted(&current, drive_away, self.clock.now()) {
            let patch = json!({ "metadata": { "uid": current.metadata.uid, "resourceVersion": current.metadata.resource_version }, "spec": { "taints": taints } });
            let drove_away = drives_away(current.spec.as_ref().and_then(|spec| spec.taints.as_ref()));
            match api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(updated) => current = updated,
                Err(error) => {
                    if asked == Some(Permission::Now) {
                        self.zones.lock().give_back(&Zone::of(&current), &key.name, self.clock.elapsed());
                    }
                    return if client::is_not_found(&error) { Ok(Outcome::Settled) } else { Err(error).doing(|| format!("taint node {key}")) };
                }
            }
            if !drove_away && drives_away(current.spec.as_ref().and_then(|spec| spec.taints.as_ref())) {
                self.evictions.get_or_create(&ZoneLabels::of(&current)).inc();
            }
        }
        // A node that reports says itself how its pods are, also while it is not ready.
        if conditions::get(&current, "Ready").is_some_and(|condition| condition.status == "Unknown") {
            self.mark_pods(&current).await?;
        }
        // The checks that time itself calls for: a node that goes silent sends no event, nor does the end of its zone's pause.
        let next_report = (silence < grace).then(|| grace - silence);
        let next_turn = if let Some(Permission::Later(pause)) = asked { Some(pause) } else { None };
        Ok(next_report.into_iter().chain(next_turn).min().map_or(Outcome::Settled, Outcome::CheckAgainIn))
    }
}

#[cfg(test)]
mod tests;
