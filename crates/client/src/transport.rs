//! The handle that requests are sent through, wherever the API server is: in this process or behind TLS.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::io::AsyncBufRead;
use futures::stream::BoxStream;
use futures::{FutureExt, TryStreamExt};
use http::{HeaderValue, Request, Response, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
pub use kube_core::Status;
use kube_core::discovery::v2::{ACCEPT_AGGREGATED_DISCOVERY_V2, APIGroupDiscoveryList};
use serde::de::DeserializeOwned;
use tower::{BoxError, Service, ServiceExt};

use crate::metrics::RequestMetrics;
use crate::shared::{Handed, Handover};

/// The body of a request: all of it, since every request of a client is known before it is sent.
pub type Body = Full<Bytes>;

/// The body of an answer, which may come bit by bit (a watch, a log).
pub type AnswerBody = UnsyncBoxBody<Bytes, BoxError>;

/// What a request may end in.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request was not answered with what was asked for. The variants' names are those of the crate `kube`, which users of
/// Rust clients know.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API answered with an error.
    #[error("{}", of_status(.0))]
    Api(Box<Status>),
    /// No answer came.
    #[error("the API server did not answer: {0}")]
    Service(#[source] BoxError),
    /// The answer broke off.
    #[error("the API server's answer broke off")]
    ReadEvents(#[source] std::io::Error),
    /// The request cannot be written, or the answer not read, as JSON.
    #[error("not the JSON that was expected")]
    SerdeError(#[source] serde_json::Error),
    /// The request makes no sense.
    #[error("a request that cannot be made")]
    BuildRequest(#[source] kube_core::request::Error),
}

fn of_status(status: &Status) -> String {
    if status.reason.is_empty() {
        return format!("{} (code {})", status.message, status.code);
    }
    format!("{} ({})", status.message, status.reason)
}

/// Sends a request and returns the answer's head; its body follows.
trait Transport: Send + Sync {
    fn send(&self, request: Request<Body>) -> BoxFuture<'static, std::result::Result<Response<AnswerBody>, BoxError>>;
}

impl<S, B> Transport for S
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn send(&self, request: Request<Body>) -> BoxFuture<'static, std::result::Result<Response<AnswerBody>, BoxError>> {
        let answer = self.clone().oneshot(request);
        async move { Ok(answer.await.map_err(Into::into)?.map(|body| body.map_err(Into::into).boxed_unsync())) }.boxed()
    }
}

/// Whom requests are sent to, and as whom. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    metrics: Option<RequestMetrics>,
    in_process: bool,
}

impl Debug for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// A client whose requests `service` answers.
    pub fn new<S, B>(service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self { transport: Arc::new(service), metrics: None, in_process: false }
    }

    /// The same client, whose requests are counted.
    #[must_use]
    pub fn counted_by(self, metrics: &RequestMetrics) -> Self {
        Self { metrics: Some(metrics.clone()), ..self }
    }

    /// The same client of an API server that is in this process.
    pub(crate) fn within_process(self) -> Self {
        Self { in_process: true, ..self }
    }

    /// Whether the API server is in this process.
    pub fn is_in_process(&self) -> bool {
        self.in_process
    }

    /// Sends a request as it is. An answer that says no is an answer here.
    ///
    /// # Errors
    /// [`Error::Service`] where no answer came.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<AnswerBody>> {
        let Some(metrics) = &self.metrics else { return self.transport.send(request).await.map_err(Error::Service) };
        let method = request.method().clone();
        let answer = self.transport.send(request).await;
        metrics.answered(&method, answer.as_ref().ok().map(|answer| answer.status().as_u16()));
        answer.map_err(Error::Service)
    }

    /// The answer to a request that was not refused.
    async fn accepted(&self, request: Request<Vec<u8>>) -> Result<Response<AnswerBody>> {
        let answer = self.send(request.map(|body| Full::new(body.into()))).await?;
        let code = answer.status();
        if !code.is_client_error() && !code.is_server_error() {
            return Ok(answer);
        }
        let body = answer.into_body().collect().await.map_err(Error::Service)?.to_bytes();
        // A proxy in between, or a path that is not the API's, answers in words of its own.
        let status = serde_json::from_slice::<Status>(&body)
            .unwrap_or_else(|_| Status::failure(String::from_utf8_lossy(&body).trim(), "").with_code(code.as_u16()));
        Err(Error::Api(Box::new(status)))
    }

    /// The text that answers a request. Boxed, so that the code behind it is this crate's alone.
    ///
    /// # Errors
    /// What the API answered instead, or that it did not answer.
    pub fn request_text(&self, request: Request<Vec<u8>>) -> BoxFuture<'static, Result<String>> {
        let client = self.clone();
        async move {
            let Some(metrics) = &client.metrics else { return client.text(request).await };
            let (method, sent, began) = (request.method().clone(), request.body().len(), Instant::now());
            let text = client.text(request).await;
            metrics.read(&method, began.elapsed(), sent, text.as_ref().ok().map(String::len));
            text
        }
        .boxed()
    }

    async fn text(&self, request: Request<Vec<u8>>) -> Result<String> {
        let body = self.accepted(request).await?.into_body().collect().await.map_err(Error::Service)?.to_bytes();
        String::from_utf8(body.into()).map_err(|error| Error::Service(error.into()))
    }

    /// The object that answers a request.
    ///
    /// # Errors
    /// As [`Self::request_text`], and where the answer is no `T`.
    pub async fn request<T: DeserializeOwned>(&self, request: Request<Vec<u8>>) -> Result<T> {
        serde_json::from_str(&self.request_text(request).await?).map_err(Error::SerdeError)
    }

    /// What the API serves below `/api` (the core group) or `/apis` (all others), in one answer.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn discover(&self, path: &'static str) -> Result<APIGroupDiscoveryList> {
        let mut request = Request::new(Vec::new());
        *request.uri_mut() = http::Uri::from_static(path);
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static(ACCEPT_AGGREGATED_DISCOVERY_V2));
        self.request(request).await
    }

    /// An answer to be read as it comes, or the objects that it would tell of, where the API server is in this process and the request
    /// has the extension [`Wanted`](crate::shared::Wanted).
    ///
    /// # Errors
    /// As [`Self::request_text`], until the answer begins.
    pub fn request_events(&self, request: Request<Vec<u8>>) -> BoxFuture<'static, Result<Events>> {
        let client = self.clone();
        async move {
            let answer = client.accepted(request).await?;
            if let Some(handed) = answer.extensions().get::<Handover>().and_then(Handover::take) {
                return Ok(Events::Handed(handed));
            }
            Ok(Events::Lines(lines(answer.into_body())))
        }
        .boxed()
    }

    /// An answer to be read as it comes.
    ///
    /// # Errors
    /// As [`Self::request_text`], until the answer begins.
    pub fn request_stream(&self, request: Request<Vec<u8>>) -> BoxFuture<'static, Result<Box<dyn AsyncBufRead + Send + Unpin>>> {
        let client = self.clone();
        async move {
            Ok(lines(client.accepted(request).await?.into_body()))
        }
        .boxed()
    }
}

/// The events of a watch.
pub enum Events {
    /// As text.
    Lines(Box<dyn AsyncBufRead + Send + Unpin>),
    /// As objects of the API server in this process.
    Handed(BoxStream<'static, Handed>),
}

fn lines(body: AnswerBody) -> Box<dyn AsyncBufRead + Send + Unpin> {
    Box::new(Box::pin(body.into_data_stream().map_err(std::io::Error::other).into_async_read()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn answering(code: u16, text: &'static str) -> Client {
        Client::new(tower::service_fn(move |_: Request<Body>| async move {
            let answer = Response::builder().status(code).body(Body::from(text));
            Ok::<_, Infallible>(answer.unwrap_or_default())
        }))
    }

    #[tokio::test]
    async fn a_refusal_is_the_status_that_the_api_sent() {
        let refused = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no such pod","reason":"NotFound","code":404}"#;
        let error = answering(404, refused).request_text(Request::default()).await.unwrap_err();
        assert!(crate::is_not_found(&error));
        assert_eq!(error.to_string(), "no such pod (NotFound)");
    }

    #[tokio::test]
    async fn requests_are_counted_with_their_codes_and_streams_have_no_duration() {
        let metrics = RequestMetrics::new("10.0.0.1:6443");
        let mut registry = prometheus_client::registry::Registry::default();
        metrics.register(&mut registry);
        let well = answering(200, "{}").counted_by(&metrics);
        well.request_text(Request::new(b"12345".to_vec())).await.unwrap();
        well.request_stream(Request::default()).await.map(drop).unwrap();
        answering(409, "no").counted_by(&metrics).request_text(Request::put("/").body(Vec::new()).unwrap()).await.unwrap_err();
        let silent = Client::new(tower::service_fn(|_: Request<Body>| async move { Err::<Response<Body>, _>(std::io::Error::other("gone")) }));
        silent.counted_by(&metrics).request_text(Request::default()).await.unwrap_err();
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
        for line in [
            r#"rest_client_requests_total{code="200",host="10.0.0.1:6443",method="GET"} 2"#,
            r#"rest_client_requests_total{code="409",host="10.0.0.1:6443",method="PUT"} 1"#,
            r#"rest_client_requests_total{code="<error>",host="10.0.0.1:6443",method="GET"} 1"#,
            r#"rest_client_request_duration_seconds_count{host="10.0.0.1:6443",verb="GET"} 2"#,
            r#"rest_client_request_size_bytes_sum{host="10.0.0.1:6443",verb="GET"} 5.0"#,
            r#"rest_client_response_size_bytes_bucket{le="64.0",host="10.0.0.1:6443",verb="GET"} 1"#,
        ] {
            assert!(page.lines().any(|one| one == line), "{line} is not in {page}");
        }
    }

    #[tokio::test]
    async fn a_refusal_in_other_words_keeps_them_and_the_code() {
        let error = answering(502, "bad gateway\n").request_text(Request::default()).await.unwrap_err();
        assert_eq!((crate::status_code(&error), error.to_string()), (Some(502), "bad gateway (code 502)".to_owned()));
    }
}
