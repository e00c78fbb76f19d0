//! A server behind a Service that answers for a version of a group: reached through the Service's EndpointSlices and the
//! `Dialer`, over TLS, and told by headers who asks.
//!
//! Source: Kubernetes `client-go/transport/round_trippers.go`, `SetAuthProxyHeaders`.

use std::{sync::Arc, time::Duration};

use base64::Engine as _;
use dialer::Connection;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use meta::ApiError;
use pki::SwappableCertificate;
use rand::seq::SliceRandom;
use rustls_pki_types::ServerName;
use serde_json::Value;

use crate::{
    core::Core,
    effects::{forward::{self, whole_story}, service_back_ends::{self, BackEnd}},
    http_body::{Body, Request, empty, read_up_to},
    user::{MASTERS, User},
};

/// How long an answer that this server itself asks for may take. Source: Kubernetes, `discoveryTimeout` (5 s).
const PATIENCE: Duration = Duration::from_secs(5);
/// Largest answer of that kind, in bytes: OpenAPI documents are the largest.
const LARGEST_ANSWER: usize = 32 * 1024 * 1024;
/// As whom this server itself asks.
const OWN_NAME: &str = "system:kube-aggregator";

/// Where the server is, and whom to take for it.
pub struct BackEndServer {
    namespace: String,
    service: String,
    port: u16,
    tls: Arc<rustls::ClientConfig>,
}

/// Why a server cannot be asked: the reason of a condition, and words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreachable {
    /// One word.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn tls(spec: &Value, certificate: Option<&Arc<SwappableCertificate>>) -> Result<Arc<rustls::ClientConfig>, String> {
    let builder = rustls::ClientConfig::builder_with_provider(pki::tls::provider()).with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    let builder = if spec.get("insecureSkipTLSVerify").and_then(Value::as_bool) == Some(true) {
        builder.dangerous().with_custom_certificate_verifier(client::AnyCertificate::new(pki::tls::provider()))
    } else {
        let bundle = base64::engine::general_purpose::STANDARD.decode(text(spec, "caBundle")).map_err(|_| "the caBundle is no base64".to_owned())?;
        let bundle = String::from_utf8_lossy(&bundle);
        let bundle = pki::TrustedBundle::from_pem_or_system(&bundle).map_err(|error| whole_story(&error))?;
        builder.dangerous().with_custom_certificate_verifier(Arc::new(bundle))
    };
    Ok(Arc::new(match certificate {
        Some(certificate) => builder.with_client_cert_resolver(certificate.clone()),
        None => builder.with_no_client_auth(),
    }))
}

/// A header name may not hold every character of an extra key.
fn escaped(key: &str) -> String {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte);
    key.bytes().map(|byte| if allowed(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Says who asks, and takes away what a client may have said of itself.
fn introduce(headers: &mut HeaderMap, user: &User) {
    let claimed: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with("x-remote-")).cloned().collect();
    claimed.iter().for_each(|name| drop(headers.remove(name)));
    let mut add = |name: &str, value: &str| {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_bytes(value.as_bytes())) {
            headers.append(name, value);
        }
    };
    add("x-remote-user", &user.name);
    if !user.uid.is_empty() {
        add("x-remote-uid", &user.uid);
    }
    for group in &user.groups {
        add("x-remote-group", group);
    }
    for (key, values) in &user.extra {
        values.iter().for_each(|value| add(&format!("x-remote-extra-{}", escaped(key)), value));
    }
}

impl BackEndServer {
    /// Reads the specification of an APIService; none where it names no Service.
    ///
    /// # Errors
    /// Where its authority cannot be read.
    pub fn read(spec: &Value, certificate: Option<&Arc<SwappableCertificate>>) -> Result<Option<Self>, String> {
        let Some(service) = spec.get("service").filter(|service| service.is_object()) else { return Ok(None) };
        let port = service.get("port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok()).unwrap_or(443);
        Ok(Some(Self { namespace: text(service, "namespace").to_owned(), service: text(service, "name").to_owned(), port, tls: tls(spec, certificate)? }))
    }

    /// Who serves at the moment.
    ///
    /// # Errors
    /// What is missing.
    pub fn back_ends(&self, core: &Core) -> Result<Vec<BackEnd>, Unreachable> {
        let Self { namespace, service, port, .. } = self;
        let place = format!("service/{service} in {namespace:?}");
        let stored = core.view_named("services").get(&format!("{namespace}/{service}"));
        let Some(found) = stored.and_then(|stored| stored.object().ok()) else {
            return Err(Unreachable { reason: "ServiceNotFound", message: format!("{place} is not present") });
        };
        let port_name = service_back_ends::port_name(&found, &port.to_string())
            .map_err(|_| Unreachable { reason: "ServicePortError", message: format!("{place} is not listening on port {port}") })?;
        let back_ends = service_back_ends::ready(core, namespace, service, &port_name, |address| address.parse().ok());
        if back_ends.is_empty() {
            let message = format!("endpoints for {place} have no addresses with port name {port_name:?}");
            return Err(Unreachable { reason: "MissingEndpoints", message });
        }
        Ok(back_ends)
    }

    async fn connect(&self, core: &Core) -> Result<Box<dyn Connection>, ApiError> {
        let mut back_ends = self.back_ends(core).map_err(|missing| ApiError::unavailable(missing.message))?;
        back_ends.shuffle(&mut rand::rng());
        let failed = |why: String| ApiError::unavailable(format!("error trying to reach service: {why}"));
        let name = ServerName::try_from(format!("{}.{}.svc", self.service, self.namespace)).map_err(|error| failed(error.to_string()))?;
        let mut why = String::new();
        for back_end in &back_ends {
            match core.dialer.dial(&back_end.target()).await {
                Ok(connection) => {
                    let connecting = tokio_rustls::TlsConnector::from(self.tls.clone()).connect(name, connection);
                    return match tokio::time::timeout(dialer::direct::CONNECT_TIMEOUT, connecting).await {
                        Ok(Ok(stream)) => Ok(Box::new(stream)),
                        Ok(Err(error)) => Err(failed(whole_story(&error))),
                        Err(_) => Err(failed("TLS handshake timeout".to_owned())),
                    };
                }
                Err(error) => why = whole_story(&error),
            }
        }
        Err(failed(why))
    }

    /// Sends a request as a user.
    ///
    /// # Errors
    /// 503 where the server cannot be reached.
    pub async fn send(&self, core: &Core, user: &User, mut request: Request) -> Result<Response<Body>, ApiError> {
        let connection = self.connect(core).await?;
        introduce(request.headers_mut(), user);
        if let Ok(host) = HeaderValue::from_str(&format!("{}.{}.svc:{}", self.service, self.namespace, self.port)) {
            request.headers_mut().insert(header::HOST, host);
        }
        let path = request.uri().path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        forward::send(request, &path, connection).await
    }

    /// Reads a document in JSON as this server itself.
    ///
    /// # Errors
    /// Words on what went wrong.
    pub fn get<'a>(&'a self, core: &'a Core, path: &'a str) -> BoxFuture<'a, Result<Value, String>> {
        Box::pin(self.read_document(core, path))
    }

    async fn read_document(&self, core: &Core, path: &str) -> Result<Value, String> {
        let user = User::authenticated(OWN_NAME, "", vec![MASTERS.to_owned()]);
        let request = http::Request::builder().uri(path).header(header::ACCEPT, "application/json").body(empty()).map_err(|error| error.to_string())?;
        let work = async {
            let response = self.send(core, &user, request).await.map_err(|error| error.message)?;
            let status = response.status();
            let bytes = read_up_to(response.into_body(), LARGEST_ANSWER).await.map_err(|error| error.message)?;
            if !status.is_success() {
                return Err(format!("bad status from https://{}.{}.svc:{}{path}: {}", self.service, self.namespace, self.port, status.as_u16()));
            }
            serde_json::from_slice(&bytes).map_err(|error| error.to_string())
        };
        tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| Err("context deadline exceeded".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_say_who_asks_whatever_the_client_said() {
        let mut user = User::authenticated("jane", "7", vec!["sailors".to_owned()]);
        user.extra.insert("example.com/ship".to_owned(), vec!["knarr".to_owned()]);
        let mut headers = HeaderMap::new();
        headers.insert("x-remote-user", HeaderValue::from_static("admin"));
        headers.insert("x-remote-extra-rank", HeaderValue::from_static("captain"));
        introduce(&mut headers, &user);
        let groups: Vec<&HeaderValue> = headers.get_all("x-remote-group").iter().collect();
        assert_eq!(headers.get_all("x-remote-user").iter().collect::<Vec<_>>(), ["jane"]);
        assert_eq!((groups, &headers["x-remote-uid"]), (vec![&HeaderValue::from_static("sailors"), &HeaderValue::from_static("system:authenticated")], &HeaderValue::from_static("7")));
        assert_eq!(headers["x-remote-extra-example.com%2fship"], "knarr");
        assert!(!headers.contains_key("x-remote-extra-rank"));
    }
}
