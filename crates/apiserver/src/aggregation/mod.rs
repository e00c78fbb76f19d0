//! Aggregation: groups and versions that another server answers for, as an APIService says.
//!
//! - [`follow`]: keeps the list of such servers in line with the APIServices, and their condition `Available`
//! - [`registration`]: the APIServices of what is served here
//! - [`back_end`]: one of those servers, and how requests are passed on to it, with who sent them in headers
//! - [`discovery`], [`documents`]: what they serve, among what is served here
//! - [`trust`]: what they need to know to believe those headers
//!
//! Requests are authorized here first, and by the other server again. Source: Kubernetes `kube-aggregator/pkg`.

pub mod back_end;
pub mod discovery;
pub mod documents;
pub mod follow;
pub mod registration;
pub mod trust;

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use http::Response;
use meta::ApiError;
use pki::SwappableCertificate;
use serde_json::Value;

use crate::{
    core::{Core, RequestContext},
    http_body::{Body, Request},
    request_info::RequestInfo,
    usage_metrics,
};
use back_end::BackEndServer;

/// What proves to other servers that a request comes from this one.
#[derive(Clone)]
pub struct FrontProxy {
    /// Shown to them; renewed by whoever made it.
    pub certificate: Arc<SwappableCertificate>,
    /// Issued it; they are told to believe no other.
    pub authority_pem: String,
    /// Issues the certificates of users, whom they may believe directly.
    pub client_authority_pem: String,
}

/// One version of a group that another server answers for.
pub struct Remote {
    /// Group.
    pub group: String,
    /// Version.
    pub version: String,
    /// `groupPriorityMinimum` and `versionPriority`; more comes first.
    pub priority: (i64, i64),
    /// The server.
    pub server: BackEndServer,
    /// Whether it answered when it was last looked at.
    pub available: bool,
    /// Its resources as it listed them.
    pub resources: Vec<Value>,
    /// Its OpenAPI documents, as far as it has them.
    pub documents: documents::RemoteDocuments,
}

impl Remote {
    /// Whether its server has listed a resource, or the subresource after a slash.
    pub fn lists(&self, resource: &str) -> bool {
        self.resources.iter().any(|listed| listed.get("name").and_then(Value::as_str) == Some(resource))
    }
}

/// Every version that is served elsewhere, the ones of higher priority first.
pub type Remotes = Vec<Arc<Remote>>;

/// The state of aggregation.
#[derive(Default)]
pub struct Aggregation {
    remotes: ArcSwap<Remotes>,
    /// What APIServices say of group and version.
    priorities: ArcSwap<HashMap<(String, String), (i64, i64)>>,
    certificate: Option<Arc<SwappableCertificate>>,
}

impl Aggregation {
    /// Nothing is aggregated yet. Without a front proxy's certificate other servers take requests for anonymous ones.
    pub fn new(front_proxy: Option<&FrontProxy>) -> Self {
        Self { certificate: front_proxy.map(|proxy| proxy.certificate.clone()), ..Self::default() }
    }

    /// Every version that is served elsewhere.
    pub fn remotes(&self) -> Arc<Remotes> {
        self.remotes.load_full()
    }

    /// `groupPriorityMinimum` and `versionPriority` of a version: as its APIService has them, else as that will be.
    pub fn priority(&self, group: &str, version: &str) -> (i64, i64) {
        let said = self.priorities.load().get(&(group.to_owned(), version.to_owned())).copied();
        said.or_else(|| built_in_priority(group, version)).unwrap_or(registration::CUSTOM_PRIORITY)
    }

    /// Who answers a request, where that is another server: for everything below `/apis/GROUP/VERSION`, and for that version's
    /// own OpenAPI document. Nobody does any more once its APIService is gone, whether that was noticed here or not.
    pub fn answers(&self, core: &Core, info: &RequestInfo) -> Option<Arc<Remote>> {
        let remotes = self.remotes.load();
        let is_its_document = |remote: &Remote| {
            let rest = info.path.strip_prefix("/openapi/v3/apis/").map(|rest| rest.trim_end_matches('/'));
            rest.and_then(|rest| rest.split_once('/')) == Some((&remote.group, &remote.version))
        };
        let found = remotes.iter().find(|remote| (*remote.group == *info.group && *remote.version == *info.version) || is_its_document(remote));
        let is_there = |remote: &&Arc<Remote>| core.view_named(follow::SERVICES).get(&format!("{}.{}", remote.version, remote.group)).is_some();
        found.filter(is_there).cloned()
    }
}

/// The priorities of a built-in version.
fn built_in_priority(group: &str, version: &str) -> Option<(i64, i64)> {
    if group == usage_metrics::GROUP {
        return Some(usage_metrics::PRIORITY);
    }
    let found = api::resources().iter().find(|resource| resource.group == group && resource.version == version)?;
    Some((found.priority.0.into(), found.priority.1.into()))
}

/// Passes a request on, as it came but for its credentials.
///
/// # Errors
/// 503 where the other server cannot be reached.
pub async fn pass_on(core: &Core, context: &RequestContext, remote: &Remote, request: Request) -> Result<Response<Body>, ApiError> {
    if !remote.available {
        return Err(ApiError::unavailable("service unavailable"));
    }
    remote.server.send(core, &context.user, request).await
}
