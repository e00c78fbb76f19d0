//! What every part of the API server shares: the view, the Scheme, the chains, and what is known about a request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use kinds::{Scheme, ServedKind, WriteContext};
use meta::{ApiError, Object, names::{GroupVersionKind, GroupVersionResource}};
use parking_lot::Mutex;

use crate::{
    admission::AdmissionChain,
    authentication::Authentication,
    authorization::Authorization,
    effects::EffectsTable,
    metrics::Metrics,
    options::Query,
    rendering::Renderings,
    request_info::RequestInfo,
    user::User,
    view::{MemoryView, ResourceView, StoredObject},
};

/// The clock of the server.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Facts of the cluster the API server needs.
#[derive(Debug, Clone)]
pub struct ClusterFacts {
    /// Ranges of Service addresses.
    pub service_cidrs: Vec<String>,
    /// Ports a NodePort Service may have, both included.
    pub node_ports: (u16, u16),
    /// `cluster.local`
    pub cluster_domain: String,
    /// Issuer of service account tokens.
    pub issuer: String,
    /// Audiences of service account tokens where none is asked for.
    pub audiences: Vec<String>,
    /// Whether tokens that are made for pods by themselves live for a year: clients of before 2019 read theirs once.
    pub extend_token_expiration: bool,
    /// How long events live.
    pub event_lifetime: Duration,
    /// Address and port clients in the cluster reach this server at (back end of the `kubernetes` Service).
    pub advertise: Option<std::net::SocketAddr>,
    /// The node that runs in this server's process; none where there is no such.
    pub own_node: Option<String>,
}

/// Keys of service account tokens.
pub struct ServiceAccountTokens {
    /// Makes them.
    pub signer: pki::TokenSigner,
    /// Checks them.
    pub verifier: Arc<pki::TokenVerifier>,
}

/// The API server's shared state.
pub struct Core {
    /// Every object.
    pub view: Arc<MemoryView>,
    /// Every served kind. Replaced as a whole when custom resources change.
    pub scheme: ArcSwap<Scheme>,
    /// Every built-in kind, also those that are not served: what the server itself needs, it has.
    pub built_in: Scheme,
    /// The clock.
    pub clock: Clock,
    /// Who asks.
    pub authentication: Authentication,
    /// May they.
    pub authorization: Authorization,
    /// Changes and checks of writes.
    pub admission: AdmissionChain,
    /// Effects and special subresources.
    pub effects: EffectsTable,
    /// Facts of the cluster.
    pub facts: ClusterFacts,
    /// Renderings other than stored JSON.
    pub renderings: Renderings,
    /// OpenAPI documents.
    pub openapi: crate::openapi::Documents,
    /// Counters.
    pub metrics: Metrics,
    /// Signs and checks service account tokens; none where the server has no keys.
    pub service_account_tokens: Option<ServiceAccountTokens>,
    /// How nodes and pods are reached.
    pub dialer: Arc<dyn dialer::Dialer>,
    /// Versions that other servers answer for.
    pub aggregation: crate::aggregation::Aggregation,
    /// Takes the tunnels of agents in.
    pub tunnels: Option<dialer::TunnelRegistry>,
    /// Checks of `/readyz` that have not passed yet, by name.
    pub starting: Mutex<Vec<&'static str>>,
    /// Checks of `/healthz` and `/readyz` that belong to parts beside the server.
    pub checks: Mutex<Vec<crate::health::Check>>,
}

/// What is known about a request once it is authenticated and routed.
#[derive(Clone)]
pub struct RequestContext {
    /// Verb and names.
    pub info: RequestInfo,
    /// Who asks.
    pub user: Arc<User>,
    /// The query.
    pub query: Arc<Query>,
    /// `Accept`
    pub accept: Arc<str>,
    /// `Content-Type`
    pub content_type: Arc<str>,
    /// `User-Agent`
    pub user_agent: Arc<str>,
    /// When it came.
    pub now: Timestamp,
    /// What is told beside the answer.
    pub aside: Arc<Aside>,
    /// It comes from within the process, and a watch may hand objects over in the place of text.
    pub shares: bool,
}

/// What handling a request leaves beside its answer.
#[derive(Debug, Default)]
pub struct Aside {
    /// For the answer's headers.
    pub warnings: Mutex<Vec<String>>,
    /// Nanoseconds that webhooks took.
    webhooks: AtomicU64,
}

impl Aside {
    /// Webhooks were waited for.
    pub fn waited(&self, took: Duration) {
        self.webhooks.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
    /// How long all webhooks took so far.
    pub fn waited_for_webhooks(&self) -> Duration {
        Duration::from_nanos(self.webhooks.load(Ordering::Relaxed))
    }
}

impl RequestContext {
    /// A request the server makes of itself, as a user with all rights; authorization is not asked.
    pub fn internal(core: &Core, verb: &'static str, namespace: &str, name: &str) -> Self {
        Self {
            info: RequestInfo { is_resource: true, verb, namespace: namespace.to_owned(), name: name.to_owned(), ..RequestInfo::default() },
            user: Arc::new(User::authenticated("system:apiserver", "", vec![crate::user::MASTERS.to_owned()])),
            query: Arc::default(),
            accept: "application/json".into(),
            content_type: "application/json".into(),
            user_agent: "knarr".into(),
            now: (core.clock)(),
            aside: Arc::default(),
            shares: false,
        }
    }
    /// What strategies may know.
    pub fn write_context(&self) -> WriteContext {
        let user = &self.user;
        WriteContext {
            now: self.now,
            user: user.name.clone(),
            groups: user.groups.clone(),
            uid: user.uid.clone(),
            extra: user.extra.clone(),
            dry_run: self.query.dry_run,
        }
    }
    /// Adds a warning for the client.
    pub fn warn(&self, text: impl Into<String>) {
        let text = text.into();
        let mut warnings = self.aside.warnings.lock();
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }
    /// `fieldManager` of a write: as asked, else the start of the user agent.
    pub fn field_manager(&self) -> String {
        if let Some(manager) = &self.query.field_manager {
            return manager.clone();
        }
        let name = self.user_agent.split('/').next().unwrap_or_default();
        let name: String = name.chars().filter(|character| !character.is_control()).take(128).collect();
        if name.is_empty() { "unknown".to_owned() } else { name }
    }
    /// The time in the form of `metadata.creationTimestamp`.
    pub fn timestamp(&self) -> String {
        format_time(self.now)
    }
}

/// RFC 3339 in UTC with whole seconds, as `metav1.Time` is written.
pub fn format_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl Core {
    /// How long objects of a kind live in the store: events for a while, everything else for ever.
    pub fn lifetime_of(&self, kind: &dyn ServedKind) -> Option<Duration> {
        kind.lifetime().map(|_| self.facts.event_lifetime)
    }
    /// The kind served at a path.
    ///
    /// # Errors
    /// 404 where nothing is served there.
    pub fn kind_at(&self, info: &RequestInfo) -> Result<Arc<dyn ServedKind>, ApiError> {
        let resource = GroupVersionResource::new(&info.group, &info.version, &info.resource);
        self.scheme.load().by_resource(&resource).cloned().ok_or_else(ApiError::no_such_path)
    }
    /// A built-in kind by its name, for parts of the server itself; whether it is served to others does not matter.
    ///
    /// # Errors
    /// 500 where there is none.
    pub fn kind_named(&self, group: &str, version: &str, kind: &str) -> Result<Arc<dyn ServedKind>, ApiError> {
        let found = self.built_in.by_kind(&GroupVersionKind::new(group, version, kind)).cloned();
        found.ok_or_else(|| ApiError::internal(format!("there is no kind {kind} of {group}/{version}")))
    }
    /// The view of a kind's objects.
    pub fn view_of(&self, kind: &Arc<dyn ServedKind>) -> Arc<ResourceView> {
        self.view.resource(&kind.info().storage_prefix())
    }
    /// The view of a core or named group's resource: `pods`, `roles.rbac.authorization.k8s.io`.
    pub fn view_named(&self, resource: &str) -> Arc<ResourceView> {
        self.view.resource(&format!("/registry/{resource}/"))
    }
    /// One object as stored.
    pub fn stored(&self, kind: &Arc<dyn ServedKind>, namespace: &str, name: &str) -> Option<Arc<StoredObject>> {
        let view = self.view_of(kind);
        if kind.info().namespaced { view.get(&format!("{namespace}/{name}")) } else { view.get(name) }
    }
    /// An object as a tree in the served version, with defaults it got since it was stored.
    ///
    /// # Errors
    /// 500 for damage.
    pub fn served_object(&self, kind: &Arc<dyn ServedKind>, stored: &StoredObject) -> Result<Object, ApiError> {
        let mut object = stored.object().map_err(ApiError::internal)?;
        if kind.converts() {
            object = kind.from_storage(object).map_err(ApiError::internal)?;
        }
        if stored.schema_generation < kind.schema().generation {
            kind.default(&mut object).map_err(ApiError::internal)?;
        }
        Ok(object)
    }
    /// Whether the stored bytes are what a client of this kind is to see.
    pub fn is_plain(&self, kind: &Arc<dyn ServedKind>, stored: &StoredObject) -> bool {
        !kind.converts() && stored.schema_generation >= kind.schema().generation
    }
}
