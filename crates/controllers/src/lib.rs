//! A folder per controller. Each has a pure part that decides (`plan`, with table tests beside it) and a short async part that does.
//!
//! - [`replica_set`] for ReplicaSet and ReplicationController
//! - [`deployment`] for Deployment
//! - [`stateful_set`] for StatefulSet
//! - [`daemon_set`] for DaemonSet
//! - [`horizontal_pod_autoscaler`] for HorizontalPodAutoscaler
//! - [`disruption`] for PodDisruptionBudget
//! - [`job`], [`cron_job`], [`ttl_after_finished`]: Job, CronJob and the removal of finished Jobs
//! - [`endpoints`]: EndpointSlices and Endpoints of Services
//! - [`namespace`]: removal of a namespace with everything in it
//! - [`garbage_collector`]: removal of objects whose owners are gone
//! - [`persistent_volumes`], [`local_volumes`], [`ephemeral_volumes`]: claims and their volumes; the built-in provisioner; claims of pods
//! - [`node_ipam`]: a range of pod addresses for each node
//! - [`node_lifecycle`], [`taint_eviction`]: nodes that no longer report, and pods that have to leave
//! - [`pod_garbage`]: pods that nobody else removes
//! - [`certificates`]: certificate requests of nodes
//! - [`resource_quota`]: how much of its quotas a namespace has used
//! - [`cluster_trust_bundles`]: the API server's certificate as a trust bundle
//! - [`cluster_role_aggregation`]: roles that sum up others
//! - [`bootstrap_token`], [`bootstrap_signer`]: bootstrap tokens whose time is over; what they vouch for
//! - [`service_cidrs`]: ranges of Service addresses
//! - [`node_ttl`]: how long nodes may keep what they read
//! - [`account_token`], [`legacy_tokens`]: tokens of service accounts in Secrets; those that nobody uses
//! - [`service_account`]: the default account and the root certificate of each namespace
//!
//! [`start`] starts them all, each with a client that acts as its own service account of `kube-system`.

#![forbid(unsafe_code)]

pub mod account_token;
pub mod bootstrap_signer;
pub mod bootstrap_token;
pub mod certificates;
pub mod cluster_role_aggregation;
pub mod cluster_trust_bundles;
mod content;
mod context;
pub mod cron_job;
pub mod daemon_set;
pub mod deployment;
pub mod discovery;
pub mod disruption;
pub mod endpoints;
pub mod ephemeral_volumes;
pub mod garbage_collector;
pub mod horizontal_pod_autoscaler;
pub mod job;
pub mod legacy_tokens;
pub mod local_volumes;
pub mod namespace;
pub mod node_ipam;
pub mod node_lifecycle;
pub mod node_ttl;
pub mod persistent_volumes;
pub mod pod_garbage;
mod pods;
pub mod replica_set;
pub mod resource_quota;
mod revisions;
mod scale;
mod selector;
pub mod service_account;
pub mod service_cidrs;
pub mod stateful_set;
pub mod taint_eviction;
mod taints;
mod template_hash;
pub mod ttl_after_finished;

pub use content::{Content, ContentChange};
pub use context::{ClientFor, ControllerContext, NODE_MONITOR_GRACE_PERIOD, SIGNING_DURATION, Settings};
pub use pods::shorten as shorten_pod;

use controller::{Outcome, ReconcileError, Runner};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Starts every controller. They stop when the context's informers do; `Runner::finished` waits for that.
pub fn start(context: &ControllerContext, settings: &Settings) -> Runner {
    let runner = context.runner();
    replica_set::start(context, &runner);
    deployment::start(context, &runner);
    stateful_set::start(context, &runner);
    daemon_set::start(context, &runner);
    job::start(context, &runner);
    cron_job::start(context, &runner);
    ttl_after_finished::start(context, &runner);
    cluster_role_aggregation::start(context, &runner);
    bootstrap_token::start(context, &runner);
    bootstrap_signer::start(context, &runner);
    service_cidrs::start(context, &runner);
    node_ttl::start(context, &runner);
    horizontal_pod_autoscaler::start(context, &runner);
    disruption::start(context, &runner);
    endpoints::start(context, &runner);
    service_account::start(context, &runner, &settings.root_ca);
    account_token::start(context, &runner, &settings.root_ca);
    legacy_tokens::start(context, &runner);
    if settings.cluster_trust_bundles {
        cluster_trust_bundles::start(context, &runner, &settings.root_ca);
    }
    let content = Content::default();
    namespace::start(context, &runner, content.clone());
    resource_quota::start(context, &runner, content.clone());
    garbage_collector::start(context, &runner, content);
    certificates::start(context, &runner, settings);
    persistent_volumes::start(context, &runner);
    local_volumes::start(context, &runner);
    ephemeral_volumes::start(context, &runner);
    node_ipam::start(context, &runner, &settings.cluster_cidrs);
    node_lifecycle::start(context, &runner, settings.node_monitor_grace_period);
    taint_eviction::start(context, &runner);
    pod_garbage::start(context, &runner);
    runner
}

/// What the API said, without what surrounds it; for events and conditions.
fn api_message(error: &client::Error) -> String {
    match error {
        client::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}

/// Whether a write was refused because its namespace is going away.
fn namespace_is_terminating(error: &client::Error) -> bool {
    let client::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 403 && causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// A number, or a percentage of `total`, rounded up or down. `None` when it is neither.
fn scaled_value(value: Option<&IntOrString>, total: i32, round_up: bool) -> Option<i32> {
    match value? {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(text) => {
            let percent = i64::from(text.strip_suffix('%')?.parse::<i32>().ok()?);
            let hundredfold = percent * i64::from(total);
            let rounded = if round_up { (hundredfold + 99).div_euclid(100) } else { hundredfold.div_euclid(100) };
            i32::try_from(rounded).ok()
        }
    }
}

/// A write that was refused because its namespace goes away was not needed any more.
fn unless_namespace_terminates(result: Result<Outcome, ReconcileError>) -> Result<Outcome, ReconcileError> {
    match result {
        Err(ReconcileError::Api { source, .. }) if namespace_is_terminating(&source) => Ok(Outcome::Settled),
        other => other,
    }
}

#[cfg(test)]
mod tests;
