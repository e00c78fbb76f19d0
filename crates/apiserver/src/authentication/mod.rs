//! Authentication: who asks. A chain of [`Authenticator`]s; the first that recognises credentials decides.

pub mod bootstrap_token;
pub mod legacy_tokens;
pub mod service_account;

use std::sync::Arc;

use async_trait::async_trait;
use http::HeaderMap;
use jiff::Timestamp;
use meta::ApiError;

use crate::user::User;

/// What a connection is known to be, put into the request's extensions by whoever accepted it: the verified client
/// certificate's identity, or the identity of a part in the same process.
#[derive(Debug, Clone)]
pub struct ConnectionIdentity {
    /// Who it is.
    pub user: Arc<User>,
    /// When the certificate that says so ends, after which it says nothing any more, however long the connection lasts; none without one.
    pub not_after: Option<Timestamp>,
}

impl From<pki::CertificateIdentity> for ConnectionIdentity {
    /// The extra names the certificate, as upstream's does. Source: Kubernetes 1.36, `apiserver/pkg/authentication/request/x509`.
    fn from(identity: pki::CertificateIdentity) -> Self {
        let mut user = User::authenticated(identity.user, identity.uid.unwrap_or_default(), identity.groups);
        user.extra.insert("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("X509SHA256={}", identity.fingerprint)]);
        Self { user: Arc::new(user), not_after: Some(identity.not_after) }
    }
}

/// Recognises one kind of bearer token.
#[async_trait]
pub trait TokenAuthenticator: Send + Sync + 'static {
    /// The user of a token; none where it is not of this kind; an error where it is, but is not valid.
    async fn authenticate(&self, token: &str) -> Result<Option<Arc<User>>, ApiError>;
    /// The user of a token meant for one of these audiences, and for which of them it is; `own` are those of this server,
    /// which tokens without audiences are for.
    async fn review(&self, token: &str, audiences: &[String], own: &[String]) -> Result<Option<(Arc<User>, Vec<String>)>, ApiError> {
        let shared: Vec<String> = audiences.iter().filter(|audience| own.contains(audience)).cloned().collect();
        if shared.is_empty() {
            return Ok(None);
        }
        Ok(self.authenticate(token).await?.map(|user| (user, shared)))
    }
}

/// The chain.
#[derive(Default)]
pub struct Authentication {
    /// Asked in order.
    pub tokens: Vec<Arc<dyn TokenAuthenticator>>,
}

impl Authentication {
    /// Who sent a request. Without credentials it is the anonymous user, whom authorization lets do next to nothing.
    ///
    /// # Errors
    /// 401 for credentials that nobody takes, and for a certificate that has ended since the connection began.
    pub async fn authenticate(&self, headers: &HeaderMap, connection: Option<&ConnectionIdentity>, now: Timestamp) -> Result<Arc<User>, ApiError> {
        let valid = connection.filter(|connection| connection.not_after.is_none_or(|end| now <= end));
        if let Some(connection) = valid {
            return Ok(connection.user.clone());
        }
        let Some(value) = bearer_token(headers) else {
            return if connection.is_some() { Err(ApiError::unauthorized()) } else { Ok(User::anonymous()) };
        };
        for authenticator in &self.tokens {
            if let Some(user) = authenticator.authenticate(&value).await? {
                return Ok(user);
            }
        }
        Err(ApiError::unauthorized())
    }
}

/// What the sub-protocol begins with in which a browser, which cannot set headers of WebSockets, hides its token.
const PROTOCOL_TOKEN: &str = "base64url.bearer.authorization.k8s.io.";

/// Takes away what proves who sent a request, once that is known.
pub fn remove_credentials(headers: &mut HeaderMap) {
    headers.remove(http::header::AUTHORIZATION);
    let own: Vec<http::HeaderName> = headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    own.iter().for_each(|name| drop(headers.remove(name)));
    let Some(protocols) = headers.get("sec-websocket-protocol").and_then(|value| value.to_str().ok()) else { return };
    if !protocols.contains(PROTOCOL_TOKEN) {
        return;
    }
    let rest: Vec<&str> = protocols.split(',').map(str::trim).filter(|name| !name.starts_with(PROTOCOL_TOKEN)).collect();
    match http::HeaderValue::from_str(&rest.join(", ")) {
        Ok(rest) if !rest.is_empty() => drop(headers.insert("sec-websocket-protocol", rest)),
        _ => drop(headers.remove("sec-websocket-protocol")),
    }
}

/// The bearer token of a request, from its header or, for browsers' WebSockets, from its sub-protocol.
fn bearer_token(headers: &HeaderMap) -> Option<String> {
    if let Some(header) = headers.get(http::header::AUTHORIZATION) {
        let text = header.to_str().ok()?;
        let (scheme, token) = text.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned());
    }
    let protocols = headers.get("sec-websocket-protocol")?.to_str().ok()?;
    let encoded = protocols.split(',').find_map(|name| name.trim().strip_prefix(PROTOCOL_TOKEN))?;
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(encoded).ok()?;
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_certificate_that_has_ended_says_nothing_any_more_on_a_connection_that_goes_on() {
        let end = Timestamp::from_second(1_000).unwrap();
        let certificate = pki::CertificateIdentity { user: "jane".to_owned(), groups: Vec::new(), uid: None, not_after: end, fingerprint: "ab12".to_owned() };
        let connection = ConnectionIdentity::from(certificate);
        let chain = Authentication::default();
        let at = async |second| chain.authenticate(&HeaderMap::new(), Some(&connection), Timestamp::from_second(second).unwrap()).await;
        let user = at(1_000).await.unwrap();
        assert_eq!((user.name.as_str(), &user.extra["authentication.kubernetes.io/credential-id"]), ("jane", &vec!["X509SHA256=ab12".to_owned()]));
        assert_eq!(at(1_001).await.unwrap_err().code, 401);
    }

    #[test]
    fn credentials_go_and_everything_else_stays() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer secret"),
            ("impersonate-user", "jane"),
            ("impersonate-extra-scopes", "view"),
            ("sec-websocket-protocol", "base64url.bearer.authorization.k8s.io.c2VjcmV0, v5.channel.k8s.io"),
            ("x-request-id", "1"),
        ] {
            headers.insert(name, http::HeaderValue::from_static(value));
        }
        remove_credentials(&mut headers);
        let mut left: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        left.sort();
        assert_eq!(left, ["sec-websocket-protocol: v5.channel.k8s.io", "x-request-id: 1"]);
    }
}
