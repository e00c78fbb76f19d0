//! Bound service account tokens: checked by signature, and against the objects they are bound to.
//!
//! Source: Kubernetes `pkg/serviceaccount/claims.go`.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use meta::ApiError;

use crate::{authentication::{TokenAuthenticator, legacy_tokens::Uses}, core::Clock, metrics::TokenUses, user::User, view::MemoryView};

/// How long tokens are taken after the time of deletion of what they are bound to. Source: upstream's `jwt.DefaultLeeway`.
const GOODBYE: SignedDuration = SignedDuration::from_mins(1);

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

    /// Whether an object that a token is bound to is still there and the same, or went only just now: it may have been deleted, and
    /// something keep it from going.
    fn stands(&self, prefix: &str, key: &str, uid: &str, now: Timestamp) -> bool {
        let Some(object) = self.view.resource(prefix).get(key).and_then(|stored| stored.object().ok()) else { return false };
        let gone_at = object.deletion_timestamp().map(|time| time.parse::<Timestamp>().unwrap_or(Timestamp::MIN));
        object.uid() == uid && gone_at.is_none_or(|gone_at| now.duration_since(gone_at) <= GOODBYE)
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
        let in_namespace = |name: &str| format!("{}/{name}", bound.namespace);
        let account = &bound.serviceaccount;
        // A pod's token goes with the pod, whatever becomes of its node.
        let node = bound.node.as_ref().filter(|_| bound.pod.is_none());
        let bound_to = [
            Some(("/registry/serviceaccounts/", in_namespace(&account.name), &account.uid)),
            bound.pod.as_ref().map(|pod| ("/registry/pods/", in_namespace(&pod.name), &pod.uid)),
            bound.secret.as_ref().map(|secret| ("/registry/secrets/", in_namespace(&secret.name), &secret.uid)),
            node.map(|node| ("/registry/nodes/", node.name.clone(), &node.uid)),
        ];
        if !bound_to.into_iter().flatten().all(|(prefix, key, uid)| self.stands(prefix, &key, uid, now)) {
            return Err(ApiError::unauthorized());
        }
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        if let Some(pod) = &bound.pod {
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
