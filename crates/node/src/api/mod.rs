//! The node's own API, which the API server calls for logs, exec, attach and port-forward, and monitoring for usage.
//!
//! * [`logs`], [`remote_command`], [`stats`], [`prometheus`], [`host_logs`], [`checkpoint`], [`about`]: what the paths do; [`usage`] measures
//!   for two of them
//! * [`access`]: who may call it directly
//! * this module: finding the path, and serving connections
//!
//! Whoever comes through the tunnel or from the same process may do everything; [`NodeApiServer::listen`] judges each request.

pub mod about;
pub mod access;
pub mod checkpoint;
pub mod file_usage;
pub mod host_logs;
pub mod logs;
pub mod network_usage;
pub mod prometheus;
pub mod remote_command;
pub mod stats;
pub mod usage;

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use container_runtime::{ContainerState, ContainerStatus};
use dialer::{Connection, NodeApi};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use pki::CertificateIdentity;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{config::Context, pod::{self, worker::View}, pods::Pods};

/// An answer's body.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Serves the node's API. Clones serve the same node.
#[derive(Clone)]
pub struct NodeApiServer {
    context: Arc<Context>,
    pods: Pods,
    sampler: Arc<usage::Sampler>,
    stop: CancellationToken,
}

impl NodeApi for NodeApiServer {
    fn serve(&self, connection: Box<dyn Connection>) {
        let server = self.clone();
        tokio::spawn(async move { server.serve_connection(connection).await });
    }
}

impl NodeApiServer {
    pub(crate) fn new(context: Arc<Context>, pods: Pods, stop: CancellationToken) -> Self {
        about::note_start();
        Self { context, pods, sampler: Arc::default(), stop }
    }

    /// Serves HTTP on a connection whose caller is authenticated, until it ends.
    pub async fn serve_connection(&self, connection: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static) {
        self.serve_judged(connection, None).await;
    }

    async fn serve_judged(
        &self,
        connection: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
        judged: Option<(&access::Access, Option<&CertificateIdentity>)>,
    ) {
        let service = service_fn(|request: Request<Incoming>| async move {
            if let Some((access, caller)) = judged
                && let Err((status, words)) = access.check(&request, caller).await
            {
                return Ok(text(status, words));
            }
            Ok::<_, Infallible>(self.answer(request).await)
        });
        let serving = hyper::server::conn::http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(connection), service).with_upgrades();
        tokio::select! {
            result = serving => if let Err(problem) = result {
                tracing::debug!(%problem, "a connection to the node API ended early");
            },
            () = self.stop.cancelled() => {}
        }
    }

    /// Serves the API over TLS until the node stops. Callers whose certificate `is_trusted` may do everything, others what `access` says.
    pub async fn listen(
        &self,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        access: access::Access,
        is_trusted: impl Fn(&CertificateIdentity) -> bool + Send + Sync + 'static,
    ) {
        // Streams take connections over, which HTTP/2 has no way to.
        let mut tls = rustls::ServerConfig::clone(&tls);
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let (acceptor, access, is_trusted) = (tokio_rustls::TlsAcceptor::from(Arc::new(tls)), Arc::new(access), Arc::new(is_trusted));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return,
            };
            let stream = match accepted {
                Ok((stream, peer)) => {
                    if let Err(problem) = dialer::direct::notice_vanished_peer(&stream) {
                        tracing::debug!(%peer, %problem, "keep-alive could not be set");
                    }
                    stream
                }
                Err(problem) => {
                    tracing::warn!(%problem, "could not accept a connection to the node API");
                    // Out of descriptors, most likely: trying again at once would only spin.
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (server, acceptor, access, is_trusted) = (self.clone(), acceptor.clone(), access.clone(), is_trusted.clone());
            tokio::spawn(async move {
                let Ok(Ok(stream)) = tokio::time::timeout(std::time::Duration::from_secs(10), acceptor.accept(stream)).await else { return };
                let caller = CertificateIdentity::of_peer(stream.get_ref().1.peer_certificates()).ok().flatten();
                if caller.as_ref().is_some_and(|caller| is_trusted(caller)) {
                    server.serve_connection(stream).await;
                } else {
                    server.serve_judged(stream, Some((&access, caller.as_ref()))).await;
                }
            });
        }
    }

    /// Answers at `/healthz` in plain HTTP until the node stops, for whoever looks after this process on this machine.
    pub async fn listen_for_health(&self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return,
            };
            let Ok((stream, _)) = accepted else {
                // As above: nothing tells when there are descriptors again.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            };
            let service = service_fn(|request: Request<Incoming>| async move { Ok::<_, Infallible>(health(&request).unwrap_or_else(not_found)) });
            let serving = hyper::server::conn::http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
            tokio::spawn(self.stop.clone().run_until_cancelled_owned(async move { drop(serving.await) }));
        }
    }

    /// Answers one request.
    pub async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        if let Some(answer) = health(&request) {
            return answer;
        }
        match parts.as_slice() {
            ["runningpods"] if reads => json(&self.running_pods()),
            ["pods"] if reads => {
                let mut pods: Vec<_> = self.pods.views().into_iter().map(|view| view.pod).collect();
                pods.sort_by(|one, other| (pod::namespace(one), pod::name(one)).cmp(&(pod::namespace(other), pod::name(other))));
                json(&json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods }))
            }
            ["metrics"] if reads => metrics_text(self.context.metrics.render() + &prometheus::own_metrics(&self.context) + &::metrics::process::text()),
            ["metrics", "probes"] if reads => metrics_text(self.context.metrics.probes.text()),
            ["metrics", "resource"] if reads => metrics_text(prometheus::resource_metrics(&self.context, &self.pods).await),
            ["metrics", "cadvisor"] if reads => metrics_text(prometheus::cadvisor_metrics(&self.context, &self.pods).await),
            ["stats", "summary"] if reads => {
                let fields = stats::Fields::of(request.uri().query().unwrap_or_default());
                json(&stats::summary(&self.context, &self.pods, &self.sampler, fields).await)
            },
            ["logs", inside @ ..] if reads => host_logs::answer(&inside.join("/")).await,
            ["configz"] if reads => about::configuration(&self.context),
            ["statusz"] if reads => about::status(&self.context, request.headers()),
            ["flagz"] if reads => about::flags(&self.context, request.headers()),
            // What Go's tools read there, a program in Rust does not have; and what is logged is set at its start.
            ["debug", "pprof", ..] => text(StatusCode::METHOD_NOT_ALLOWED, "profiling endpoint is disabled.\n"),
            ["debug", "flags", "v"] => text(StatusCode::METHOD_NOT_ALLOWED, "flags endpoint is disabled.\n"),
            ["checkpoint", namespace, name, container] if request.method() == Method::POST => {
                let timeout = parameters(request.uri().query().unwrap_or_default(), "timeout").last();
                checkpoint::answer(self.find(namespace, name, None).ok().as_ref(), namespace, name, container, timeout.as_deref())
            }
            ["containerLogs", namespace, name, container] if reads => match self.find(namespace, name, None) {
                Ok(view) => logs::answer(&self.context, &view, container, request.uri().query().unwrap_or_default()).await,
                Err(_) => text(StatusCode::NOT_FOUND, format!("pod \"{name}\" does not exist")),
            },
            ["exec", namespace, name, rest @ ..] | ["attach", namespace, name, rest @ ..] => {
                let (uid, container) = match rest {
                    [container] => (None, *container),
                    [uid, container] => (Some(*uid), *container),
                    _ => return text(StatusCode::NOT_FOUND, "no such path"),
                };
                let found = self.find(namespace, name, uid).and_then(|view| running(&view, container));
                match found {
                    Ok(status) if parts.first() == Some(&"exec") => remote_command::exec(&self.context, &status, request),
                    Ok(status) => remote_command::attach(&self.context, &status, request),
                    Err(missing) => missing.answer(),
                }
            }
            ["portForward", namespace, name, rest @ ..] => match self.find(namespace, name, rest.first().copied()) {
                Ok(view) => remote_command::port_forward(&self.context, &view, request),
                Err(missing) => missing.answer(),
            },
            ["run", namespace, name, rest @ ..] if request.method() == Method::POST => {
                let Some(container) = rest.last() else { return text(StatusCode::NOT_FOUND, "no such path") };
                match self.find(namespace, name, None).and_then(|view| running(&view, container)) {
                    Ok(status) => remote_command::run(&self.context, &status, request.uri().query().unwrap_or_default()).await,
                    Err(missing) => missing.answer(),
                }
            }
            ["pods" | "runningpods" | "configz" | "statusz" | "flagz"] | ["containerLogs", _, _, _] | ["stats" | "logs", ..] if !reads => not_allowed("GET"),
            ["checkpoint", _, _, _] | ["run", _, _, _] | ["run", _, _, _, _] => not_allowed("POST"),
            _ => not_found(),
        }
    }

    /// The pods that the runtime has, with their running containers, whatever the API says of them.
    /// Source: Kubernetes 1.36, `pkg/kubelet/container`, `Pod.ToAPIPod`.
    fn running_pods(&self) -> serde_json::Value {
        let mut views = self.pods.views();
        views.sort_by(|one, other| (pod::namespace(&one.pod), pod::name(&one.pod)).cmp(&(pod::namespace(&other.pod), pod::name(&other.pod))));
        let items = views.iter().filter_map(|view| {
            let running = view.containers.iter().filter(|container| matches!(container.state, ContainerState::Running { .. }));
            let containers: Vec<_> = running.map(|container| json!({ "name": container.spec.name, "image": container.spec.annotations.get(pod::annotations::IMAGE), "resources": {} })).collect();
            let metadata = json!({ "name": pod::name(&view.pod), "namespace": pod::namespace(&view.pod), "uid": pod::uid(&view.pod) });
            (!containers.is_empty()).then(|| json!({ "metadata": metadata, "spec": { "containers": containers }, "status": {} }))
        });
        json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items.collect::<Vec<_>>() })
    }

    fn find(&self, namespace: &str, name: &str, uid: Option<&str>) -> Result<View, NotFound> {
        let found = self.pods.find(namespace, name).filter(|view| uid.is_none_or(|uid| pod::uid(&view.pod) == uid));
        found.ok_or_else(|| NotFound("pod does not exist".to_owned()))
    }
}

/// The checks of a node's health, all of which hold while it answers at all.
/// Source: Kubernetes 1.36, `k8s.io/apiserver/pkg/server/healthz`.
const CHECKS: [&str; 3] = ["ping", "log", "syncloop"];

/// The answer to a question after the node's health.
fn health<B>(request: &Request<B>) -> Option<Response<Body>> {
    match request.uri().path().strip_prefix("/healthz")? {
        "" | "/" if request.uri().query().is_some_and(|query| parameter(query, "verbose").is_some()) => {
            let lines: String = CHECKS.iter().map(|check| format!("[+]{check} ok\n")).collect();
            Some(text(StatusCode::OK, format!("{lines}healthz check passed\n")))
        }
        "" | "/" => Some(text(StatusCode::OK, "ok")),
        check => check.strip_prefix('/').filter(|check| CHECKS.contains(check)).map(|_| text(StatusCode::OK, "ok")),
    }
}

/// The answer to a method that a path does not take.
fn not_allowed(allowed: &'static str) -> Response<Body> {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
    answer.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(allowed));
    answer
}

fn not_found() -> Response<Body> {
    text(StatusCode::NOT_FOUND, "404 page not found")
}

/// What was asked for is not on this node: the sentence for the caller.
struct NotFound(String);

impl NotFound {
    fn answer(self) -> Response<Body> {
        text(StatusCode::NOT_FOUND, self.0)
    }
}

/// The running container of a name.
fn running(view: &View, name: &str) -> Result<ContainerStatus, NotFound> {
    let newest = pod::plan::newest(&view.containers, name).filter(|container| matches!(container.state, ContainerState::Running { .. }));
    newest.cloned().ok_or_else(|| NotFound(format!("container not found (\"{name}\")")))
}

/// The first value of a parameter.
fn parameter(query: &str, wanted: &str) -> Option<String> {
    parameters(query, wanted).next()
}

/// All values of a parameter.
fn parameters(query: &str, wanted: &str) -> impl Iterator<Item = String> {
    url::form_urlencoded::parse(query.as_bytes()).filter(move |(name, _)| name == wanted).map(|(_, value)| value.into_owned())
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

fn answer(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    answer
}

fn text(status: StatusCode, words: impl Into<String>) -> Response<Body> {
    answer(status, "text/plain; charset=utf-8", full(words.into()))
}

fn metrics_text(words: String) -> Response<Body> {
    answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", full(words))
}

fn json(value: &serde_json::Value) -> Response<Body> {
    answer(StatusCode::OK, "application/json", full(value.to_string()))
}

#[cfg(test)]
mod tests;
