//! Asking a webhook: one POST of JSON over TLS, to a URL or to a Service, whose certificate must be from the authority that
//! its configuration names, else from one that the machine trusts. Services are reached through their EndpointSlices and the
//! `Dialer`, like everything inward.
//!
//! Source: Kubernetes `apiserver/pkg/util/webhook/client.go`.

use std::{sync::Arc, time::Duration};

use base64::Engine as _;
use bytes::Bytes;
use dialer::{Connection, Target};
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rand::seq::SliceRandom;
use rustls_pki_types::ServerName;
use serde_json::Value;

use crate::{core::Core, effects::{forward::whole_story, service_back_ends}};

/// Largest answer that is read, in bytes. Source: Kubernetes, `maxRequestBodyBytes` of its servers (3 MiB).
const LARGEST_ANSWER: usize = 3 * 1024 * 1024;

/// Where a webhook is, as `clientConfig` says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookAddress {
    /// `https://HOST[:PORT]/PATH`, also for Services: the host is then `NAME.NAMESPACE.svc`.
    pub url: url::Url,
    /// Namespace and name of the Service; none for a plain URL.
    pub service: Option<(String, String)>,
    /// Authorities to trust, in PEM. Where there are none, those of the machine are.
    pub authorities: String,
}

/// Why a webhook gave no answer that can be used. The text is shown to the client whose request was judged.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// It cannot even be asked.
    #[error("{0}")]
    Configuration(String),
    /// It did not answer in time.
    #[error("failed to call webhook: Post \"{0}\": context deadline exceeded")]
    Late(String),
    /// It could not be reached, or broke off.
    #[error("failed to call webhook: Post \"{url}\": {why}")]
    Unreachable {
        /// Where.
        url: String,
        /// What happened.
        why: String,
    },
    /// It answered with an error of HTTP.
    #[error("failed to call webhook: the server answered {0}")]
    Refused(StatusCode),
    /// Its answer is none.
    #[error("failed to call webhook: {0}")]
    Malformed(String),
}

impl WebhookAddress {
    /// Reads a `clientConfig`.
    ///
    /// # Errors
    /// Where it names nothing that can be asked.
    pub fn read(config: &Value) -> Result<Self, WebhookError> {
        let wrong = |why: String| WebhookError::Configuration(why);
        let bundle = config.get("caBundle").and_then(Value::as_str).unwrap_or_default();
        let bundle = base64::engine::general_purpose::STANDARD.decode(bundle).map_err(|_| wrong("the caBundle is no base64".to_owned()))?;
        let authorities = String::from_utf8_lossy(&bundle).into_owned();
        let parse = |text: &str| url::Url::parse(text).map_err(|error| WebhookError::Configuration(format!("Unparsable webhook URL {text:?}: {error}")));
        if let Some(service) = config.get("service").filter(|service| service.is_object()) {
            let text = |name: &str| service.get(name).and_then(Value::as_str).unwrap_or_default();
            let port = service.get("port").and_then(Value::as_u64).unwrap_or(443);
            let (namespace, name) = (text("namespace"), text("name"));
            let url = parse(&format!("https://{name}.{namespace}.svc:{port}/{}", text("path").trim_start_matches('/')))?;
            return Ok(Self { url, service: Some((namespace.to_owned(), name.to_owned())), authorities });
        }
        let text = config.get("url").and_then(Value::as_str).unwrap_or_default();
        Ok(Self { url: parse(text)?, service: None, authorities })
    }

    /// The URL with the time that is left, as upstream shows it in errors.
    fn asked(&self, timeout: Duration) -> url::Url {
        let mut url = self.url.clone();
        url.query_pairs_mut().append_pair("timeout", &format!("{}s", timeout.as_secs()));
        url
    }

    /// Sends a question and gives the answer, in JSON both.
    ///
    /// # Errors
    /// Where there is no answer within `timeout`.
    pub async fn ask(&self, core: &Core, question: &Value, timeout: Duration) -> Result<Value, WebhookError> {
        let url = self.asked(timeout);
        let shown = match (url.port(), self.service.is_some()) {
            // Upstream names the port of a Service always.
            (None, true) => url.as_str().replacen(".svc/", ".svc:443/", 1),
            _ => url.to_string(),
        };
        match tokio::time::timeout(timeout, self.exchange(core, &url, &shown, question)).await {
            Ok(answer) => answer,
            Err(_) => Err(WebhookError::Late(shown)),
        }
    }

    async fn exchange(&self, core: &Core, url: &url::Url, shown: &str, question: &Value) -> Result<Value, WebhookError> {
        let failed = |why: String| WebhookError::Unreachable { url: shown.to_owned(), why };
        let host = url.host_str().unwrap_or_default();
        let connection = self.connect(core, host, url.port_or_known_default().unwrap_or(443)).await.map_err(failed)?;
        let (mut sender, driver) =
            hyper::client::conn::http1::handshake(TokioIo::new(connection)).await.map_err(|error| failed(whole_story(&error)))?;
        let driver = tokio::spawn(driver);
        let body = serde_json::to_vec(question).map_err(|error| WebhookError::Malformed(error.to_string()))?;
        let authority = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let path = &url[url::Position::BeforePath..];
        let request = http::Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, authority)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, */*")
            .header(header::USER_AGENT, "kube-apiserver-admission")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| failed(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(|error| failed(whole_story(&error)))?;
        let status = response.status();
        let bytes = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await.map_err(|error| failed(error.to_string()))?.to_bytes();
        driver.abort();
        if !status.is_success() {
            return Err(WebhookError::Refused(status));
        }
        serde_json::from_slice(&bytes).map_err(|error| WebhookError::Malformed(error.to_string()))
    }

    async fn connect(&self, core: &Core, host: &str, port: u16) -> Result<impl Connection + use<>, String> {
        let tls = self.tls()?;
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|error| error.to_string())?;
        let mut why = String::new();
        for target in self.targets(core, host, port)? {
            match core.dialer.dial(&target).await {
                Ok(connection) => {
                    let connector = tokio_rustls::TlsConnector::from(tls);
                    return connector.connect(name, connection).await.map_err(|error| format!("tls: failed to verify certificate: {}", whole_story(&error)));
                }
                Err(error) => why = whole_story(&error),
            }
        }
        Err(why)
    }

    /// Where to try, in this order.
    fn targets(&self, core: &Core, host: &str, port: u16) -> Result<Vec<Target>, String> {
        let Some((namespace, name)) = &self.service else {
            return Ok(vec![Target::Address { host: host.trim_matches(['[', ']']).to_owned(), port }]);
        };
        let stored = core.view_named("services").get(&format!("{namespace}/{name}")).ok_or_else(|| format!("service {name:?} not found"))?;
        let service = stored.object().map_err(|error| error.to_string())?;
        let port_name = service_back_ends::port_name(&service, &port.to_string()).map_err(|error| error.message)?;
        let mut back_ends = service_back_ends::ready(core, namespace, name, &port_name, |address| address.parse().ok());
        if back_ends.is_empty() {
            return Err(format!("no endpoints available for service {name:?}"));
        }
        back_ends.shuffle(&mut rand::rng());
        Ok(back_ends.iter().map(service_back_ends::BackEnd::target).collect())
    }

    fn tls(&self) -> Result<Arc<rustls::ClientConfig>, String> {
        let bundle = pki::TrustedBundle::from_pem_or_system(&self.authorities).map_err(|error| whole_story(&error))?;
        let config = rustls::ClientConfig::builder_with_provider(pki::tls::provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(bundle))
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_service_is_asked_under_its_name_in_the_cluster() {
        let address = WebhookAddress::read(&json!({"service": {"namespace": "n", "name": "hook", "port": 8443, "path": "/slow"}})).unwrap();
        assert_eq!(address.asked(Duration::from_secs(1)).as_str(), "https://hook.n.svc:8443/slow?timeout=1s");
        assert_eq!(address.service, Some(("n".to_owned(), "hook".to_owned())));
    }

    #[test]
    fn a_url_keeps_its_query() {
        let address = WebhookAddress::read(&json!({"url": "https://example.com/a?b=c"})).unwrap();
        assert_eq!(address.asked(Duration::from_secs(10)).as_str(), "https://example.com/a?b=c&timeout=10s");
        assert!(WebhookAddress::read(&json!({"url": "nonsense"})).is_err());
    }
}
