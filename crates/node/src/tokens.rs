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

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::atomic::{AtomicI64, Ordering}};

    use client::FakeClock;
    use http_body_util::BodyExt;
    use serde_json::json;

    use super::*;

    /// Gives a token with the number of the request, for the life that is asked for, and remembers what was asked last.
    fn source(clock: &FakeClock) -> (TokenSource, Arc<Mutex<serde_json::Value>>) {
        let (asked, number, told_time) = (Arc::new(Mutex::new(json!(null))), Arc::new(AtomicI64::new(0)), clock.clone());
        let last = asked.clone();
        let service = tower::service_fn(move |request: http::Request<client::Body>| {
            let (last, number, clock) = (last.clone(), number.clone(), told_time.clone());
            async move {
                assert_eq!(request.uri().path(), "/api/v1/namespaces/a/serviceaccounts/robot/token");
                let mut answer: serde_json::Value = serde_json::from_slice(&request.into_body().collect().await.unwrap().to_bytes()).unwrap();
                *last.lock() = answer["spec"].clone();
                let life = Duration::from_secs(answer["spec"]["expirationSeconds"].as_u64().unwrap());
                answer["status"] = json!({ "token": format!("t{}", number.fetch_add(1, Ordering::Relaxed)), "expirationTimestamp": after(clock.now(), life) });
                let answer = http::Response::builder().status(201).header("content-type", "application/json").body(client::Body::from(answer.to_string().into_bytes()));
                Ok::<_, Infallible>(answer.unwrap())
            }
        });
        (TokenSource::new(client::Client::new(service), Arc::new(clock.clone())), asked)
    }

    #[tokio::test]
    async fn a_token_is_bound_to_its_pod_kept_for_most_of_its_life_and_then_replaced() {
        let clock = FakeClock::new("2026-01-01T00:00:00Z".parse().unwrap());
        let (source, asked) = source(&clock);
        let pod: Pod = serde_json::from_value(json!({ "metadata": { "name": "web", "namespace": "a", "uid": "u" }, "spec": { "serviceAccountName": "robot", "containers": [] } })).unwrap();
        let text = async |audience: &str, seconds: i64| source.token(&pod, audience, seconds).await.unwrap().text;
        assert_eq!(text("vault", 1000).await, "t0");
        let bound = json!({ "audiences": ["vault"], "expirationSeconds": 1000, "boundObjectRef": { "kind": "Pod", "apiVersion": "v1", "name": "web", "uid": "u" } });
        assert_eq!(*asked.lock(), bound);
        clock.advance(Duration::from_secs(799));
        assert_eq!(text("vault", 1000).await, "t0");
        assert_eq!(text("", 1000).await, "t1", "for the API server it is another one");
        clock.advance(Duration::from_secs(1));
        assert_eq!(text("vault", 1000).await, "t2", "four fifths of its life are over");
        // However long it would be good.
        assert_eq!(text("long", 1_000_000).await, "t3");
        clock.advance(Duration::from_secs(24 * 3600 - 1));
        assert_eq!(text("long", 1_000_000).await, "t3");
        clock.advance(Duration::from_secs(1));
        assert_eq!(text("long", 1_000_000).await, "t4");
        source.forget("u");
        assert_eq!(text("long", 1_000_000).await, "t5");
    }
}
