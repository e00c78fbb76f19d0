//! Bound service account tokens: checked by signature, and against the objects they are bound to.
//!
//! Source: Kubernetes `pkg/serviceaccount/claims.go`.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use jiff::Timestamp;
use meta::ApiError;

use crate::{authentication::{TokenAuthenticator, legacy_tokens::Uses}, core::Clock, metrics::TokenUses, user::User, view::MemoryView};

/// Checks tokens that this cluster signed.
pub struct ServiceAccountTokenAuthenticator {
    view: Arc<MemoryView>,
    verifier: Arc<pki::TokenVerifier>,
    audiences: Vec<String>,
    clock: Clock,
    uses: TokenUses,
    of_secrets: Uses,
}

impl ServiceAccountTokenAuthenticator {
    /// Takes tokens for one of the audiences, and tells of uses of those in Secrets.
    pub fn new(view: Arc<MemoryView>, verifier: Arc<pki::TokenVerifier>, audiences: Vec<String>, clock: Clock, uses: TokenUses, of_secrets: Uses) -> Self {
        Self { view, verifier, audiences, clock, uses, of_secrets }
    }

    fn uid_of(&self, prefix: &str, key: &str) -> Option<(String, bool)> {
        let stored = self.view.resource(prefix).get(key)?;
        let object = stored.object().ok()?;
        Some((object.uid().to_owned(), object.deletion_timestamp().is_some()))
    }

    /// The user of a token for these audiences; none where this cluster did not sign it.
    ///
    /// # Errors
    /// 401 where it is out of time, for somebody else, or its objects are gone.
    pub fn check(&self, token: &str, audiences: &[String]) -> Result<Option<Arc<User>>, ApiError> {
        let now: Timestamp = (self.clock)();
        let claims = match self.verifier.verify(token, audiences, now) {
            Ok(claims) => claims,
            // Not a token of ours at all: another authenticator may know it.
            Err(_) if token.split('.').count() != 3 => return Ok(None),
            Err(error) => {
                tracing::debug!(%error, "a service account token is refused");
                return Err(ApiError::unauthorized());
            }
        };
        let bound = &claims.kubernetes;
        let account_key = format!("{}/{}", bound.namespace, bound.serviceaccount.name);
        if self.uid_of("/registry/serviceaccounts/", &account_key).is_none_or(|(uid, _)| uid != bound.serviceaccount.uid) {
            return Err(ApiError::unauthorized());
        }
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        if let Some(pod) = &bound.pod {
            if self.uid_of("/registry/pods/", &format!("{}/{}", bound.namespace, pod.name)).is_none_or(|(uid, _)| uid != pod.uid) {
                return Err(ApiError::unauthorized());
            }
            extra.insert("authentication.kubernetes.io/pod-name".to_owned(), vec![pod.name.clone()]);
            extra.insert("authentication.kubernetes.io/pod-uid".to_owned(), vec![pod.uid.clone()]);
        }
        if let Some(secret) = &bound.secret {
            let stored = self.view.resource("/registry/secrets/").get(&format!("{}/{}", bound.namespace, secret.name));
            let object = stored.and_then(|stored| stored.object().ok()).filter(|object| object.uid() == secret.uid);
            self.of_secrets.used(&object.ok_or_else(ApiError::unauthorized)?, now)?;
        }
        if let Some(node) = &bound.node {
            extra.insert("authentication.kubernetes.io/node-name".to_owned(), vec![node.name.clone()]);
            if !node.uid.is_empty() {
                extra.insert("authentication.kubernetes.io/node-uid".to_owned(), vec![node.uid.clone()]);
            }
        }
        if let Some(warn_after) = bound.warnafter.filter(|after| *after != 0) {
            self.uses.used(now.as_second() > warn_after);
        }
        extra.insert("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("JTI={}", claims.jti)]);
        let mut user = User::authenticated(claims.user(), bound.serviceaccount.uid.clone(), claims.groups().to_vec());
        user.extra = extra;
        Ok(Some(Arc::new(user)))
    }
}

#[async_trait]
impl TokenAuthenticator for ServiceAccountTokenAuthenticator {
    async fn authenticate(&self, token: &str) -> Result<Option<Arc<User>>, ApiError> {
        self.check(token, &self.audiences)
    }
    async fn review(&self, token: &str, audiences: &[String], _own: &[String]) -> Result<Option<(Arc<User>, Vec<String>)>, ApiError> {
        let Some(user) = self.check(token, audiences)? else { return Ok(None) };
        let claims = self.verifier.verify(token, audiences, (self.clock)()).map_err(|_| ApiError::unauthorized())?;
        let shared = audiences.iter().filter(|audience| claims.aud.contains(audience)).cloned().collect();
        Ok(Some((user, shared)))
    }
}
