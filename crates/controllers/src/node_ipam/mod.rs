//! Each node gets a range of pod addresses of its own, cut from the cluster's ranges, and keeps it as long as it exists.

mod ranges;

use std::sync::Arc;

use async_trait::async_trait;
use client::{Api, Change, EventRecorder, EventType, Informer, ObjectKey, Patch, PatchParams};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Runner, Trigger};
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use serde_json::json;

use crate::ControllerContext;
use ranges::{ClusterRange, Taken};

const CONTROLLER: &str = "node-ipam-controller";

/// Starts the controller, where the cluster has ranges. Malformed ones are reported and left out.
pub fn start(context: &ControllerContext, runner: &Runner, cluster_cidrs: &[String]) {
    let parse = |text: &String| {
        let range = ClusterRange::parse(text);
        if range.is_none() {
            tracing::error!(range = text, "this is no range of addresses like 10.42.0.0/16; nodes get none from it");
        }
        range
    };
    let ranges: Vec<_> = cluster_cidrs.iter().filter_map(parse).collect();
    if ranges.is_empty() {
        return;
    }
    let controller = NodeIpam {
        client: context.client(CONTROLLER),
        nodes: context.informers.of(),
        ranges,
        taken: Arc::default(),
        events: context.events_as(CONTROLLER, "cidrAllocator"),
    };
    runner.start(controller, 1);
}

struct NodeIpam {
    client: client::Client,
    nodes: Informer<Node>,
    ranges: Vec<ClusterRange>,
    /// Ranges that nodes have, or were given and the cache may not show yet. None before the first is given.
    taken: Arc<Mutex<Option<Taken>>>,
    events: EventRecorder,
}

impl NodeIpam {
    /// Chooses a node's ranges, one of each cluster range, and notes them. `None` when one is used up.
    fn choose(&self, node: &str) -> Option<Vec<String>> {
        let mut taken = self.taken.lock();
        let taken = taken.get_or_insert_with(|| {
            // Listed under the lock: who is removed meanwhile is told of after it, and taken out again.
            let mut taken = Taken::default();
            for node in self.nodes.list() {
                taken.set(node.metadata.name.as_deref().unwrap_or_default(), pod_cidrs(&node));
            }
            taken
        });
        if let Some(chosen) = taken.of_node(node) {
            return Some(chosen.clone());
        }
        let chosen: Vec<_> = self.ranges.iter().map(|range| range.next_free(taken)).collect::<Option<_>>()?;
        Some(taken.give(node, &chosen))
    }
}

/// Takes in what became of a node.
fn take_in(taken: &mut Taken, change: &Change<Node>) {
    match (&change.old, &change.new) {
        // What was chosen for a node may not be seen in it yet.
        (Some(old), Some(new)) if old.metadata.uid == new.metadata.uid && pod_cidrs(new).is_empty() => {}
        (None, Some(new)) if pod_cidrs(new).is_empty() => {}
        (_, new) => taken.set(&change.key.name, new.as_ref().map(|node| pod_cidrs(node)).unwrap_or_default()),
    }
}

fn pod_cidrs(node: &Node) -> Vec<String> {
    let Some(spec) = &node.spec else { return Vec::new() };
    match &spec.pod_cidrs {
        Some(cidrs) if !cidrs.is_empty() => cidrs.clone(),
        _ => spec.pod_cidr.iter().filter(|cidr| !cidr.is_empty()).cloned().collect(),
    }
}

#[async_trait]
impl Reconciler for NodeIpam {
    fn name(&self) -> &'static str {
        "node-ipam"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let (nodes, taken) = (self.nodes.clone(), self.taken.clone());
        vec![Trigger::on(&self.nodes, move |change| {
            if let Some(taken) = taken.lock().as_mut() {
                take_in(taken, change);
            }
            match &change.new {
                Some(node) if pod_cidrs(node).is_empty() => vec![change.key.clone()],
                Some(_) => Vec::new(),
                // A range is free again: for whoever waits for one.
                None => nodes.list().iter().filter(|node| pod_cidrs(node).is_empty()).map(|node| client::key_of(&**node)).collect(),
            }
        })]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(node) = self.nodes.get(key).filter(|node| pod_cidrs(node).is_empty() && node.metadata.deletion_timestamp.is_none()) else {
            return Ok(Outcome::Settled);
        };
        let Some(chosen) = self.choose(&key.name) else {
            self.events.record(&*node, EventType::Normal, "CIDRNotAvailable", format!("Node {key} status is now: CIDRNotAvailable"));
            tracing::error!(node = %key, "every range of pod addresses is used; give the cluster a larger --cluster-cidr, or remove nodes");
            return Ok(Outcome::Settled);
        };
        let patch = json!({ "metadata": { "uid": node.metadata.uid }, "spec": { "podCIDR": chosen.first(), "podCIDRs": chosen } });
        match Api::<Node>::all(self.client.clone()).patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => Ok(Outcome::Settled),
            Err(error) if client::is_not_found(&error) => Ok(Outcome::Settled),
            Err(error) => {
                self.events.record(&*node, EventType::Normal, "CIDRAssignmentFailed", format!("Node {key} status is now: CIDRAssignmentFailed"));
                if let Some(taken) = self.taken.lock().as_mut() {
                    taken.set(&key.name, self.nodes.get(key).map(|node| pod_cidrs(&node)).unwrap_or_default());
                }
                Err(error).doing(|| format!("give node {key} its pod addresses"))
            }
        }
    }
}
