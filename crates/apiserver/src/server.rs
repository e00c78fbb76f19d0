//! From a request to its answer: who asks, may they, and which handler; and the TLS listener that requests come in by.

use std::{collections::BTreeSet, convert::Infallible, future::Future, panic::AssertUnwindSafe, pin::Pin, sync::Arc, task::{Context, Poll}, time::Duration};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http::{HeaderValue, Response, StatusCode, header};
use ::http_body::Body as _;
use http_body_util::BodyExt;
use meta::{ApiError, GroupResource};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, warn};

use crate::{
    aggregation,
    authentication::ConnectionIdentity,
    authorization::{Attributes, Authorizer, Decision},
    connection::{self, Patience},
    core::{Aside, Core, RequestContext},
    component_statuses,
    delivery::Delivery, discovery, handler, health,
    http_body::{Body, BoxError, Request, held_by, json_answer, text_answer},
    metrics::Answered,
    impersonation,
    options::Query,
    rendering::error_answer,
    request_info::RequestInfo,
    usage_metrics,
    user::User,
};

/// How long a request that is no stream may take. Source: Kubernetes `apiserver/pkg/server/config.go`, `RequestTimeout`.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The API server as a service: cheap to clone, for requests over sockets and in process alike.
#[derive(Clone)]
pub struct ApiServer {
    core: Arc<Core>,
    patience: Patience,
}

impl ApiServer {
    /// Serves a core.
    pub fn new(core: Arc<Core>) -> Self {
        Self { core, patience: Patience::default() }
    }
    /// The same with other limits for slow clients.
    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }
    /// The shared state.
    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Answers a request.
    pub async fn answer(&self, mut request: Request) -> Response<Body> {
        let accept: Arc<str> = header_text(&request, header::ACCEPT).into();
        let watch_asked = request.uri().query().is_some_and(|query| query.contains("watch="))
            && Query::parse(request.uri().query().unwrap_or_default()).is_ok_and(|query| query.watch);
        let info = RequestInfo::parse(request.method(), request.uri().path(), watch_asked);
        let dry_run = request.uri().query().is_some_and(|query| query.contains("dryRun=All"));
        let applies = info.verb == "patch" && header_text(&request, header::CONTENT_TYPE).starts_with("application/apply-patch+");
        let begun = self.core.metrics.requests.begin(&info, applies, dry_run, || self.serves(&info));
        if let Some(stream) = begun.stream() {
            // For whoever takes an upgraded connection over.
            request.extensions_mut().insert(stream.clone());
        }
        let delivery = Delivery::of(&request);
        let audit = audit_id(&request);
        if self.core.aggregation.answers(&self.core, &info).is_some() {
            // The other server calls it by the same name.
            request.headers_mut().insert(AUDIT_ID, audit.clone());
        }
        let verb = info.clone();
        let aside = Arc::<Aside>::default();
        let work = AssertUnwindSafe(self.dispatch(request, info, accept.clone(), Arc::clone(&aside))).catch_unwind();
        let mut response = match work.await {
            Ok(Ok(response)) => response,
            // Who takes nothing that there is is told so in JSON.
            Ok(Err(error)) if error.code == StatusCode::NOT_ACCEPTABLE.as_u16() => error_answer(&error, "application/json"),
            Ok(Err(error)) => error_answer(&error, &accept),
            Err(_) => {
                error!(path = verb.path, "a handler panicked; this is a defect of knarr, please report it");
                error_answer(&ApiError::internal("this is a defect of the server; its log has more"), &accept)
            }
        };
        for warning in aside.warnings.lock().iter() {
            let text: String = warning.chars().map(|character| if character.is_control() { ' ' } else { character }).collect();
            if let Ok(value) = HeaderValue::from_str(&format!("299 - {text:?}")) {
                response.headers_mut().append(header::WARNING, value);
            }
        }
        // Another server's answer may have it already.
        response.headers_mut().entry(AUDIT_ID).or_insert(audit);
        let size = response.body().size_hint().exact();
        begun.end(&verb, Answered { code: response.status().as_u16(), size, waited: aside.waited_for_webhooks() }, || self.serves(&verb));
        let response = delivery.deliver(response, || !verb.connects() && self.core.aggregation.answers(&self.core, &verb).is_none()).await;
        match begun.stream() {
            Some(stream) => response.map(|body| held_by(body, stream.clone())),
            None => response,
        }
    }

    /// Whether anything is served at a path, that is, whether its names are ours and not the caller's invention.
    fn serves(&self, info: &RequestInfo) -> bool {
        if !info.is_resource {
            return info.group.is_empty() && info.version.is_empty();
        }
        if let Some(remote) = self.core.aggregation.answers(&self.core, info) {
            return remote.lists(&info.full_resource());
        }
        let kind = self.core.kind_at(info);
        kind.is_ok_and(|kind| info.subresource.is_empty() || kind.info().subresource(&info.subresource).is_some())
    }

    async fn dispatch(&self, mut request: Request, info: RequestInfo, accept: Arc<str>, aside: Arc<Aside>) -> Result<Response<Body>, ApiError> {
        let core = &self.core;
        let now = (core.clock)();
        let connection = request.extensions().get::<ConnectionIdentity>().cloned().or_else(|| {
            request.extensions().get::<client::Identity>().map(|identity| ConnectionIdentity {
                user: Arc::new(User::authenticated(&*identity.user, identity.uid.as_deref().unwrap_or_default(), identity.groups.to_vec())),
                not_after: None,
            })
        });
        if let Some(end) = connection.as_ref().and_then(|connection| connection.not_after) {
            core.metrics.certificate_shown(end.duration_since(now));
        }
        let user = core.authentication.authenticate(request.headers(), connection.as_ref(), now).await?;
        let user = impersonation::impersonate(core, request.headers(), user)?;
        // From here on the request may be passed on to nodes, pods and services, whom a caller's credentials are no business of.
        crate::authentication::remove_credentials(request.headers_mut());
        let query = Query::of(request.method(), request.uri().query().unwrap_or_default())?;
        let context = RequestContext {
            accept,
            content_type: header_text(&request, header::CONTENT_TYPE).into(),
            user_agent: header_text(&request, header::USER_AGENT).into(),
            now,
            user,
            query: Arc::new(query),
            aside,
            shares: request.extensions().get::<client::shared::Wanted>().is_some(),
            info,
        };
        self.authorize(&context)?;
        let remote = core.aggregation.answers(core, &context.info);
        if remote.is_none() && !context.info.is_resource {
            return self.path(context, request).await;
        }
        let long_running = context.info.is_long_running();
        if let Some(value) = context.query.unreadable_deadline.as_ref().filter(|_| !long_running) {
            return Err(ApiError::bad_request(format!("invalid timeout specified in the request URL - time: invalid duration {value:?}")));
        }
        let deadline = context.query.deadline.map_or(REQUEST_TIMEOUT, |asked| asked.min(REQUEST_TIMEOUT));
        let work = async {
            match remote {
                Some(remote) => aggregation::pass_on(core, &context, &remote, request).await,
                None => self.resource(context, request).await,
            }
        };
        if long_running {
            return work.await;
        }
        match tokio::time::timeout(deadline, work).await {
            Ok(result) => result,
            Err(_) => Err(ApiError::timeout("request did not complete within the allotted timeout")),
        }
    }

    fn authorize(&self, context: &RequestContext) -> Result<(), ApiError> {
        let mut attributes = Attributes::of(&context.user, &context.info);
        attributes.field_selector = &context.query.field_selector_text;
        attributes.label_selector = context.query.labels.as_ref();
        let exact = context.query.fields.as_ref().and_then(|fields| fields.exact("metadata.name")).map(str::to_owned);
        if attributes.name.is_empty()
            && matches!(attributes.verb, "list" | "watch" | "deletecollection")
            && let Some(name) = &exact
        {
            // Rules with resourceNames let clients list and watch the one object they name.
            attributes.name = name;
        }
        let reason = match self.core.authorization.authorize(&attributes) {
            Decision::Allow(_) => return Ok(()),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => reason,
        };
        let why = if reason.is_empty() { attributes.describe_refusal() } else { format!("{}: {reason}", attributes.describe_refusal()) };
        if context.info.is_resource {
            let resource = GroupResource::new(&context.info.group, &context.info.resource);
            return Err(ApiError::forbidden(&resource, &context.info.name, why));
        }
        Err(ApiError::new(403, meta::Reason::Forbidden, format!("forbidden: {why}")))
    }

    async fn path(&self, context: RequestContext, request: Request) -> Result<Response<Body>, ApiError> {
        let path = context.info.path.trim_end_matches('/').to_owned();
        if !matches!(context.info.verb, "get" | "head") {
            return Err(ApiError::method_not_allowed(format!("the server does not allow {} on {path}", context.info.verb)));
        }
        if let Some(response) = health::answer(&self.core, &context).await {
            return Ok(response);
        }
        let objects = || {
            let scheme = self.core.scheme.load();
            let resources: BTreeSet<_> = scheme.kinds().map(|kind| kind.info().group_resource()).collect();
            resources.into_iter().map(|resource| (self.core.view_named(&resource.to_string()).len(), resource)).map(|(count, resource)| (resource, count)).collect()
        };
        if path.starts_with("/metrics")
            && let Some(page) = self.core.metrics.page(&path, objects)
        {
            return Ok(crate::http_body::answer(StatusCode::OK, ::metrics::TEXT, page));
        }
        match path.as_str() {
            "/version" => Ok(json_answer(StatusCode::OK, &crate::version::info())),
            "" => Ok(json_answer(StatusCode::OK, &serde_json::json!({"paths": self.paths()}))),
            other if other == "/api" || other == "/apis" || other.starts_with("/api/") || other.starts_with("/apis/") => {
                let tag = request.headers().get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
                discovery::answer(&self.core, &context, tag)
            }
            other if other.starts_with("/openapi/") => crate::openapi::answer(&self.core, &context, request.headers()),
            dialer::tunnel::PATH => crate::tunnel::answer(&self.core, &context, request),
            "/.well-known/openid-configuration" | "/openid/v1/jwks" => crate::openid::answer(&self.core, &path),
            _ => Ok(text_answer(StatusCode::NOT_FOUND, "404 page not found\n")),
        }
    }

    /// Every path that answers by itself, in order, as upstream lists them at the root.
    fn paths(&self) -> BTreeSet<String> {
        let core = &self.core;
        let mut paths: BTreeSet<String> =
            ["/.well-known/openid-configuration", "/api", "/api/v1", "/apis", "/apis/", "/openapi/v2", "/openapi/v3", "/openapi/v3/", "/openid/v1/jwks", "/version"].map(str::to_owned).into();
        let scheme = core.scheme.load();
        let own = scheme.kinds().map(|kind| (kind.info().kind.group.to_string(), kind.info().kind.version.to_string()));
        let remotes = core.aggregation.remotes();
        for (group, version) in own.chain(remotes.iter().map(|remote| (remote.group.clone(), remote.version.clone()))).filter(|(group, _)| !group.is_empty()) {
            paths.insert(format!("/apis/{group}/{version}"));
            paths.insert(format!("/apis/{group}"));
        }
        paths.extend(core.metrics.pages.paths().into_iter().chain(["/metrics", "/metrics/slis"]).map(str::to_owned));
        for kind in health::KINDS {
            paths.insert(format!("/{kind}"));
            paths.extend(health::names(core, kind).into_iter().map(|name| format!("/{kind}/{name}")));
        }
        paths
    }

    async fn resource(&self, context: RequestContext, request: Request) -> Result<Response<Body>, ApiError> {
        let core = &self.core;
        if usage_metrics::serves(&context.info) {
            return usage_metrics::answer(core, &context).await;
        }
        let kind = core.kind_at(&context.info)?;
        let info = kind.info();
        let resource = info.group_resource();
        if let Some(words) = kind.deprecation() {
            core.metrics.deprecated(&context.info);
            context.warn(words);
        }
        if info.namespaced && context.info.namespace.is_empty() && (!context.info.name.is_empty() || context.info.verb == "deletecollection") {
            return Err(ApiError::no_such_path());
        }
        if !info.namespaced && !context.info.namespace.is_empty() && &*info.plural != "namespaces" {
            return Err(ApiError::no_such_path());
        }
        let subresource = context.info.subresource.clone();
        if !subresource.is_empty() {
            if info.subresource(&subresource).is_none() {
                return Err(ApiError::no_such_path());
            }
            if let Some(special) = core.effects.handler(&resource, &subresource) {
                return special.clone().handle(core, context, &kind, request).await;
            }
            if subresource == "scale" {
                return crate::effects::scale::handle(core, context, &kind, request).await;
            }
            return match context.info.verb {
                "get" => handler::read::get(core, &context, &kind).await,
                "update" => handler::write::update(core, context, &kind, request).await,
                "patch" => handler::patch::patch(core, context, &kind, request).await,
                _ => Err(not_allowed()),
            };
        }
        if context.info.verb == "create"
            && let Some(special) = core.effects.handler(&resource, "")
        {
            return special.clone().handle(core, context, &kind, request).await;
        }
        if !info.has_verb(context.info.verb) {
            // While a definition goes, changes are not listed any more but allowed: whoever holds an object up must be able to let it go.
            let may_change = info.custom && info.has_verb("delete") && matches!(context.info.verb, "update" | "patch");
            if info.custom && context.info.verb == "create" {
                return Err(ApiError::method_not_allowed("create not allowed while custom resource definition is terminating"));
            }
            if !may_change {
                return Err(not_allowed());
            }
        }
        if component_statuses::serves(kind.as_ref()) {
            return component_statuses::answer(core, &context, &kind).await;
        }
        match context.info.verb {
            "get" => handler::read::get(core, &context, &kind).await,
            "list" => handler::read::list(core, &context, &kind).await,
            "watch" => handler::watch::watch(core, context, &kind, request).await,
            "create" if !context.info.name.is_empty() => Err(not_allowed()),
            "create" => handler::write::create(core, context, &kind, request).await,
            "update" if context.info.name.is_empty() => Err(not_allowed()),
            "update" => handler::write::update(core, context, &kind, request).await,
            "patch" if context.info.name.is_empty() => Err(not_allowed()),
            "patch" => handler::patch::patch(core, context, &kind, request).await,
            "delete" => handler::delete::delete(core, context, &kind, request).await,
            "deletecollection" => handler::delete::delete_collection(core, context, &kind, request).await,
            _ => Err(not_allowed()),
        }
    }

    /// Serves TLS connections until `shutdown`; then lets requests that are being answered finish, streams apart.
    ///
    /// # Errors
    /// Where the listener cannot be used.
    pub fn serve(self, listener: TcpListener, tls: Arc<rustls::ServerConfig>, shutdown: CancellationToken) -> BoxFuture<'static, std::io::Result<()>> {
        // Boxed, so that everything behind it is compiled in this crate and as fast as this crate is, not in that of whoever waits.
        Box::pin(self.accept(listener, tls, shutdown))
    }

    async fn accept(self, listener: TcpListener, tls: Arc<rustls::ServerConfig>, shutdown: CancellationToken) -> std::io::Result<()> {
        let acceptor = tokio_rustls::TlsAcceptor::from(tls);
        let connections = TaskTracker::new();
        loop {
            let (stream, peer) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of descriptors, or the client left: others may still be served. The pause keeps a lasting
                        // shortage from spinning.
                        warn!(%error, "could not accept a connection");
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        continue;
                    }
                },
                () = shutdown.cancelled() => break,
            };
            connections.spawn(connection::serve(self.clone(), self.patience, acceptor.clone(), stream, peer, shutdown.clone()));
        }
        connections.close();
        // Streams end with the token; plain requests get a moment.
        let _ = tokio::time::timeout(Duration::from_secs(5), connections.wait()).await;
        Ok(())
    }
}

/// How clients and logs name one request.
///
/// Source: Kubernetes `apiserver/pkg/endpoints/filters/audit_init.go`, which does so whether anything is audited or not.
const AUDIT_ID: header::HeaderName = header::HeaderName::from_static("audit-id");

/// The name that the client gave its request, or a new one.
fn audit_id(request: &Request) -> HeaderValue {
    let given = request.headers().get(AUDIT_ID).filter(|given| !given.is_empty()).cloned();
    given.unwrap_or_else(|| HeaderValue::try_from(crate::handler::write::new_uid()).unwrap_or(HeaderValue::from_static("")))
}

fn not_allowed() -> ApiError {
    ApiError::method_not_allowed("the server does not allow this method on the requested resource")
}

fn header_text<'a>(request: &'a Request, name: header::HeaderName) -> &'a str {
    request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

pub(crate) fn boxed<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

impl<B> tower::Service<http::Request<B>> for ApiServer
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let server = self.clone();
        let request = request.map(boxed);
        Box::pin(async move { Ok(server.answer(request).await) })
    }
}
