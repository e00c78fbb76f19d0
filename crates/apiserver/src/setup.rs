//! Puts an API server together: the Scheme, the chains and the table of effects, over a store.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use meta::{ApiError, GroupResource};
use parking_lot::Mutex;
use store::{Store, StoreError};

use crate::{
    admission::{self, AdmissionChain},
    aggregation::{self, Aggregation, FrontProxy},
    authentication::{Authentication, bootstrap_token::BootstrapTokenAuthenticator, legacy_tokens, service_account::ServiceAccountTokenAuthenticator},
    authorization::{Authorization, node::NodeAuthorizer, rbac::Rbac},
    bootstrap,
    core::{Clock, ClusterFacts, Core, ServiceAccountTokens},
    effects::{
        Effects, EffectsTable, Handler,
        binding::BindingHandler,
        eviction::EvictionHandler,
        pod_streams::{LogHandler, StreamHandler},
        proxy::ProxyHandler,
        reviews::{AccessReview, RulesReview, SelfReview, TokenReview},
        service::ServiceEffects,
        token::TokenHandler,
    },
    metrics::Metrics,
    server::ApiServer,
    view::MemoryView,
};

/// What an API server is made from.
pub struct Parts {
    /// Where objects are kept.
    pub store: Arc<dyn Store>,
    /// Facts of the cluster.
    pub facts: ClusterFacts,
    /// Signs and checks service account tokens.
    pub tokens: Option<ServiceAccountTokens>,
    /// How nodes and pods are reached.
    pub dialer: Arc<dyn dialer::Dialer>,
    /// Takes the tunnels of agents in; none where nodes are reached without.
    pub tunnels: Option<dialer::TunnelRegistry>,
    /// What proves requests of this server to those it aggregates.
    pub front_proxy: Option<FrontProxy>,
    /// Which built-in kinds are served.
    pub runtime_config: kinds::RuntimeConfig,
    /// What an administrator says about admission.
    pub admission: admission::configuration::Settings,
    /// The clock; [`system_clock`] but in tests.
    pub clock: Clock,
}

/// The machine's clock.
pub fn system_clock() -> Clock {
    Arc::new(Timestamp::now)
}

/// Why an API server did not come up.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store could not be read.
    #[error("the store cannot be read")]
    Store(#[source] StoreError),
    /// What every cluster begins with could not be written.
    #[error("the cluster's first objects could not be written")]
    Bootstrap(#[source] ApiError),
}

fn effects() -> EffectsTable {
    let mut effects: HashMap<GroupResource, Arc<dyn Effects>> = HashMap::new();
    effects.insert(GroupResource::new("", "services"), Arc::new(ServiceEffects::default()));
    let mut handlers: HashMap<(GroupResource, &'static str), Arc<dyn Handler>> = HashMap::new();
    handlers.insert((GroupResource::new("", "pods"), "binding"), Arc::new(BindingHandler));
    handlers.insert((GroupResource::new("", "bindings"), ""), Arc::new(BindingHandler));
    handlers.insert((GroupResource::new("", "serviceaccounts"), "token"), Arc::new(TokenHandler));
    handlers.insert((GroupResource::new("", "pods"), "eviction"), Arc::new(EvictionHandler));
    handlers.insert((GroupResource::new("", "pods"), "log"), Arc::new(LogHandler));
    for subresource in ["exec", "attach", "portforward"] {
        handlers.insert((GroupResource::new("", "pods"), subresource), Arc::new(StreamHandler));
    }
    for resource in ["pods", "services", "nodes"] {
        handlers.insert((GroupResource::new("", resource), "proxy"), Arc::new(ProxyHandler));
    }
    handlers.insert((GroupResource::new("authentication.k8s.io", "tokenreviews"), ""), Arc::new(TokenReview));
    handlers.insert((GroupResource::new("authentication.k8s.io", "selfsubjectreviews"), ""), Arc::new(SelfReview));
    for resource in ["subjectaccessreviews", "localsubjectaccessreviews", "selfsubjectaccessreviews"] {
        handlers.insert((GroupResource::new("authorization.k8s.io", resource), ""), Arc::new(AccessReview));
    }
    handlers.insert((GroupResource::new("authorization.k8s.io", "selfsubjectrulesreviews"), ""), Arc::new(RulesReview));
    EffectsTable { effects, handlers }
}

/// Plug-ins in upstream's order.
fn admission(settings: admission::configuration::Settings) -> AdmissionChain {
    AdmissionChain {
        plugins: vec![
            Arc::new(admission::subresource_rules::SubresourceRules),
            Arc::new(admission::rbac_escalation::RbacEscalation),
            Arc::new(admission::namespace_lifecycle::NamespaceLifecycle),
            Arc::new(admission::limit_ranger::LimitRanger),
            Arc::new(admission::service_account::ServiceAccount),
            Arc::new(admission::node_restriction::NodeRestriction),
            Arc::new(admission::taint_nodes::TaintNodesByCondition),
            Arc::new(admission::pod_security::PodSecurity::new(settings.pod_security)),
            Arc::new(admission::priority::Priority),
            Arc::new(admission::default_tolerations::DefaultTolerationSeconds),
            Arc::new(admission::storage::DefaultStorageClass),
            Arc::new(admission::storage_protection::StorageObjectInUseProtection),
            Arc::new(admission::storage::PersistentVolumeClaimResize),
            Arc::new(admission::runtime_class::RuntimeClass),
            Arc::new(admission::certificates::Certificates),
            Arc::new(admission::default_ingress_class::DefaultIngressClass),
            Arc::new(admission::pod_topology_labels::PodTopologyLabels),
            // Policies in CEL, mutating and validating, have their places before the webhooks of their kind.
            Arc::new(admission::webhooks::mutating::MutatingAdmissionWebhook::default()),
            Arc::new(admission::webhooks::validating::ValidatingAdmissionWebhook::default()),
            Arc::new(admission::resource_quota::ResourceQuota::new(settings.resource_quota)),
        ],
    }
}

/// Makes the server ready to answer; first objects are written before this returns.
///
/// # Errors
/// Where the store cannot be read or written.
pub async fn open(parts: Parts) -> Result<ApiServer, OpenError> {
    let view = MemoryView::open(parts.store).await.map_err(OpenError::Store)?;
    let metrics = Metrics::default();
    let mut authentication = Authentication::default();
    let mut noted = None;
    if let Some(tokens) = &parts.tokens {
        let (of_secrets, notes) = legacy_tokens::uses();
        noted = Some(notes);
        let (verifier, audiences, uses) = (tokens.verifier.clone(), parts.facts.audiences.clone(), metrics.token_uses.clone());
        let authenticator = ServiceAccountTokenAuthenticator::new(view.clone(), verifier, audiences, parts.clock.clone(), uses, of_secrets);
        authentication.tokens.push(Arc::new(authenticator));
    }
    authentication.tokens.push(Arc::new(BootstrapTokenAuthenticator::new(view.clone(), parts.clock.clone())));
    let built_in = kinds::served::every();
    let mut scheme = built_in.clone();
    scheme.retain(|kind| parts.runtime_config.serves(kind));
    let core = Arc::new(Core {
        authorization: Authorization { authorizers: vec![Arc::new(NodeAuthorizer::new(view.clone())), Arc::new(Rbac::new(view.clone()))] },
        view,
        scheme: ArcSwap::from_pointee(scheme),
        built_in,
        clock: parts.clock,
        authentication,
        admission: admission(parts.admission),
        effects: effects(),
        facts: parts.facts,
        renderings: Default::default(),
        openapi: Default::default(),
        metrics,
        service_account_tokens: parts.tokens,
        dialer: parts.dialer,
        tunnels: parts.tunnels,
        aggregation: Aggregation::new(parts.front_proxy.as_ref()),
        starting: Mutex::new(vec!["bootstrap"]),
        checks: Mutex::default(),
    });
    bootstrap::run(&core).await.map_err(OpenError::Bootstrap)?;
    if let Some(noted) = noted {
        legacy_tokens::start(&core, noted).await.map_err(OpenError::Bootstrap)?;
    }
    if let Some(front_proxy) = &parts.front_proxy {
        aggregation::trust::publish(&core, front_proxy).await.map_err(OpenError::Bootstrap)?;
    }
    crate::custom_resources::start(&core).await;
    aggregation::registration::start(&core).await;
    aggregation::follow::start(&core);
    Ok(ApiServer::new(core))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those of upstream that are on by default, with NodeRestriction, in its order; policies in CEL are not there yet.
    /// Source: Kubernetes 1.36, `pkg/kubeapiserver/options/plugins.go`, `AllOrderedPlugins`.
    #[test]
    fn plug_ins_are_in_upstreams_order() {
        let names: Vec<&str> = admission(Default::default()).plugins.iter().map(|plugin| plugin.name()).collect();
        // Two of ours stand for what upstream does in its registry, which is before all others.
        assert_eq!(
            names,
            [
                "SubresourceRules",
                "RbacEscalation",
                "NamespaceLifecycle",
                "LimitRanger",
                "ServiceAccount",
                "NodeRestriction",
                "TaintNodesByCondition",
                "PodSecurity",
                "Priority",
                "DefaultTolerationSeconds",
                "DefaultStorageClass",
                "StorageObjectInUseProtection",
                "PersistentVolumeClaimResize",
                "RuntimeClass",
                "CertificateApproval",
                "DefaultIngressClass",
                "PodTopologyLabels",
                "MutatingAdmissionWebhook",
                "ValidatingAdmissionWebhook",
                "ResourceQuota",
            ]
        );
    }
}
