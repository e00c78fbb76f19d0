//! Service account tokens for pods: asked for once, kept until 80 % of their life is over.
//! Source: Kubernetes 1.36, `pkg/kubelet/token/token_manager.go`.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Pod, ServiceAccount},
};
use client::{Api, PostParams};
use parking_lot::Mutex;

use crate::{
    api_error::words,
    clock::{Clock, after},
    pod,
};

/// A day: however long a token lives, it is renewed at least that often.
const LONGEST_USE: Duration = Duration::from_secs(24 * 3600);

/// A token and when to ask for the next one.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The secret text.
    pub text: String,
    /// When it was asked for. A clock that is set back makes it one of the future, which nobody takes.
    pub issued_at: Timestamp,
    /// When it should be replaced.
    pub refresh_at: Timestamp,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Token(hidden, refreshed at {})", self.refresh_at)
    }
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    pod_uid: String,
    service_account: String,
    audience: String,
    expiration_seconds: i64,
}

/// Gets tokens.
#[derive(Clone)]
pub struct TokenSource {
    client: client::Client,
    clock: Arc<dyn Clock>,
    known: Arc<Mutex<HashMap<Key, Token>>>,
}

impl TokenSource {
    /// A source without tokens.
    #[must_use]
    pub fn new(client: client::Client, clock: Arc<dyn Clock>) -> Self {
        Self { client, clock, known: Arc::default() }
    }

    /// A token bound to a pod, good for at least a fifth of its life.
    ///
    /// # Errors
    /// The API server's answer in words.
    pub async fn token(&self, pod: &Pod, audience: &str, expiration_seconds: i64) -> Result<Token, String> {
        let service_account = pod::spec(pod).service_account_name.clone().unwrap_or_else(|| "default".to_owned());
        let key = Key { pod_uid: pod::uid(pod).to_owned(), service_account, audience: audience.to_owned(), expiration_seconds };
        let now = self.clock.now();
        if let Some(token) = self.known.lock().get(&key).filter(|token| (token.issued_at..token.refresh_at).contains(&now)) {
            return Ok(token.clone());
        }
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), pod::namespace(pod));
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: (!audience.is_empty()).then(|| vec![audience.to_owned()]),
                expiration_seconds: Some(expiration_seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
            }),
            ..TokenRequest::default()
        };
        let answer = api
            .create_subresource("token", &key.service_account, &PostParams::default(), &request)
            .await
            .map_err(|problem| format!("failed to fetch token: {}", words(&problem)))?;
        let status = answer.status.ok_or("failed to fetch token: the server's answer has no status")?;
        let (Some(text), Some(expires)) = (status.token, status.expiration_timestamp) else {
            return Err("failed to fetch token: the server's answer has no token".to_owned());
        };
        let life = crate::clock::until(expires.0, now);
        let token = Token { text, issued_at: now, refresh_at: after(now, life.mul_f64(0.8).min(LONGEST_USE)) };
        self.known.lock().insert(key, token.clone());
        Ok(token)
    }

    /// Forgets a pod's tokens.
    pub fn forget(&self, pod_uid: &str) {
        self.known.lock().retain(|key, _| key.pod_uid != pod_uid);
    }
}
