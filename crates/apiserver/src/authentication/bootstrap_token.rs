//! Bootstrap tokens: `ID.SECRET`, kept as Secrets of type `bootstrap.kubernetes.io/token` in kube-system, for agents that
//! have no certificate yet.
//!
//! Source: the Kubernetes page "Authenticating with Bootstrap Tokens".

use std::sync::Arc;

use api::core::v1::Secret;
use async_trait::async_trait;
use jiff::Timestamp;
use meta::ApiError;

use crate::{authentication::TokenAuthenticator, core::Clock, user::User, view::MemoryView};

/// Looks tokens up among the Secrets in memory.
pub struct BootstrapTokenAuthenticator {
    view: Arc<MemoryView>,
    clock: Clock,
}

impl BootstrapTokenAuthenticator {
    /// Over a view.
    pub fn new(view: Arc<MemoryView>, clock: Clock) -> Self {
        Self { view, clock }
    }
}

/// Whether two texts are equal, in time that does not tell where they differ.
fn same(given: &[u8], kept: &[u8]) -> bool {
    given.len() == kept.len() && given.iter().zip(kept).fold(0_u8, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[async_trait]
impl TokenAuthenticator for BootstrapTokenAuthenticator {
    async fn authenticate(&self, token: &str) -> Result<Option<Arc<User>>, ApiError> {
        let Some((id, secret)) = token.split_once('.') else { return Ok(None) };
        let plain = |text: &str, length: usize| text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if !plain(id, 6) || !plain(secret, 16) {
            return Ok(None);
        }
        let Some(stored) = self.view.resource("/registry/secrets/").get(&format!("kube-system/bootstrap-token-{id}")) else {
            return Err(ApiError::unauthorized());
        };
        let kept: Secret = stored.typed().map_err(|_| ApiError::unauthorized())?;
        let data = kept.data.unwrap_or_default();
        let field = |name: &str| data.get(name).map(|bytes| bytes.0.as_slice()).unwrap_or_default();
        let text = |name: &str| String::from_utf8_lossy(field(name)).into_owned();
        let expired = match text("expiration") {
            none if none.is_empty() => false,
            time => time.parse::<Timestamp>().map_or(true, |time| time <= (self.clock)()),
        };
        let usable = kept.type_.as_deref() == Some("bootstrap.kubernetes.io/token")
            && kept.metadata.deletion_timestamp.is_none()
            && field("token-id") == id.as_bytes()
            && same(secret.as_bytes(), field("token-secret"))
            && field("usage-bootstrap-authentication") == b"true"
            && !expired;
        if !usable {
            return Err(ApiError::unauthorized());
        }
        let mut groups = vec!["system:bootstrappers".to_owned()];
        groups.extend(text("auth-extra-groups").split(',').map(str::trim).filter(|group| group.starts_with("system:bootstrappers:")).map(str::to_owned));
        Ok(Some(Arc::new(User::authenticated(format!("system:bootstrap:{id}"), "", groups))))
    }
}
