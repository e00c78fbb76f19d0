//! A client without a socket: requests go straight to the API server's service, with the caller's [`Identity`] as an extension.
//!
//! Requests that ask for an upgrade (exec, attach, port-forward) go over an in-memory pipe served by hyper instead, since only an
//! HTTP connection can be upgraded. The service sees the same request either way.

use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, header};
use http_body_util::Either;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use crate::Body;
use tower::{BoxError, Service, ServiceExt};

use crate::Identity;

/// Bytes that may be on the way in each direction of an upgraded connection before the sender waits.
const PIPE_BYTES: usize = 64 * 1024;

/// Makes a client whose requests are answered by `service`, each as `identity`. Must be called within a tokio runtime.
pub fn in_process<S, B>(service: S, identity: Identity) -> crate::Client
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let user_agent = user_agent(&identity);
    crate::Client::new(InProcess { service, identity, user_agent }).within_process()
}

#[derive(Clone)]
struct InProcess<S> {
    service: S,
    identity: Identity,
    user_agent: HeaderValue,
}

/// The name that a part's upstream counterpart gives itself: it is what managed fields call the writer.
fn user_agent(identity: &Identity) -> HeaderValue {
    let name = match &*identity.user {
        user if user.starts_with("system:node:") => "kubelet",
        user if user.starts_with("system:serviceaccount:kube-system:") => "kube-controller-manager",
        user => user.strip_prefix("system:").unwrap_or(user),
    };
    HeaderValue::from_str(name).unwrap_or_else(|_| HeaderValue::from_static("knarr"))
}

impl<S, B> Service<Request<Body>> for InProcess<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Either<B, Incoming>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.service.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        request.headers_mut().entry(header::USER_AGENT).or_insert_with(|| self.user_agent.clone());
        if request.headers().contains_key(header::UPGRADE) {
            let (service, identity) = (self.service.clone(), self.identity.clone());
            return Box::pin(async move { Ok(over_a_pipe(service, identity, request).await?.map(Either::Right)) });
        }
        request.extensions_mut().insert(self.identity.clone());
        let answer = self.service.call(request);
        Box::pin(async move { Ok(answer.await.map_err(Into::into)?.map(Either::Left)) })
    }
}

/// Sends a request that asks for an upgrade over an in-memory HTTP/1.1 connection of its own.
async fn over_a_pipe<S, B>(service: S, identity: Identity, request: Request<Body>) -> Result<Response<Incoming>, BoxError>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    let answer = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (service, identity) = (service.clone(), identity.clone());
        async move {
            // A request that asks for an upgrade has no body.
            let mut request = request.map(|_| Body::default());
            request.extensions_mut().insert(identity);
            service.oneshot(request).await.map_err(std::io::Error::other)
        }
    });
    let server = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), answer).with_upgrades();
    let (mut sender, connection) = hyper::client::conn::http1::handshake::<_, Body>(TokioIo::new(near)).await?;
    // Both ends live until the connection closes or is upgraded; an error on one is seen as a broken stream on the other.
    tokio::spawn(server);
    tokio::spawn(connection.with_upgrades());
    Ok(sender.send_request(request).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use http_body_util::Full;
    use k8s_openapi::api::core::v1::ConfigMap;
    use crate::Api;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_request_arrives_with_the_callers_identity() {
        let service = tower::service_fn(|request: Request<Body>| async move {
            let identity = request.extensions().get::<Identity>().cloned().unwrap();
            let body = format!(r#"{{"metadata":{{"name":"{}"}}}}"#, identity.user);
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(body))))
        });
        let client = in_process(service, Identity::user("olga", &[]));
        let map = Api::<ConfigMap>::namespaced(client, "default").get("any").await.unwrap();
        assert_eq!(map.metadata.name.as_deref(), Some("olga"));
    }

    #[test]
    fn parts_call_themselves_what_their_counterparts_are_called() {
        let name = |identity| user_agent(&identity).to_str().unwrap().to_owned();
        assert_eq!(name(Identity::node("one")), "kubelet");
        assert_eq!(name(Identity::user("system:kube-scheduler", &[])), "kube-scheduler");
        assert_eq!(name(Identity::service_account("kube-system", "job-controller")), "kube-controller-manager");
        assert_eq!(name(Identity::user("olga", &[])), "olga");
    }

    #[tokio::test]
    async fn an_upgraded_connection_carries_bytes_both_ways() {
        let service = tower::service_fn(|request: Request<Body>| async move {
            assert!(request.extensions().get::<Identity>().is_some());
            tokio::spawn(async move {
                let mut stream = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
                let mut word = [0; 4];
                stream.read_exact(&mut word).await.unwrap();
                word.reverse();
                stream.write_all(&word).await.unwrap();
            });
            let answer = Response::builder().status(101).header("Connection", "Upgrade").header("Upgrade", "x");
            Ok::<_, Infallible>(answer.body(Full::new(Bytes::new())).unwrap())
        });
        let client = in_process(service, Identity::user("olga", &[]));
        let request = Request::get("/exec").header("Connection", "Upgrade").header("Upgrade", "x").body(Body::default()).unwrap();
        let answer = client.send(request).await.unwrap();
        assert_eq!(answer.status(), 101);
        let mut stream = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
        stream.write_all(b"abcd").await.unwrap();
        let mut word = [0; 4];
        stream.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"dcba");
    }
}
