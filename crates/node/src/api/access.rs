//! Who may call the node's own API directly: callers show a client certificate or a bearer token, and the API server says whether they may.
//!
//! Source: Kubernetes documentation, "Kubelet authentication/authorization", with the fine-grained subresources of 1.36; what is asked of
//! the API server is upstream's `pkg/kubelet/server/auth.go`, how long answers are kept that of its configuration's defaults.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use client::{Api, PostParams};
use http::{Method, Request, StatusCode, header};
use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use parking_lot::Mutex;
use pki::CertificateIdentity;
use sha2::{Digest, Sha256};

use crate::clock::{Clock, after};

/// How long a token's user is known. Source: Kubernetes 1.36, `authentication.webhook.cacheTTL`.
pub const TOKEN_KEPT: Duration = Duration::from_secs(120);
/// How long somebody who may goes on to. Source: Kubernetes 1.36, `authorization.webhook.cacheAuthorizedTTL`.
pub const PERMISSION_KEPT: Duration = Duration::from_secs(300);
/// How long somebody who may not is not asked about again. Source: Kubernetes 1.36, `authorization.webhook.cacheUnauthorizedTTL`.
pub const REFUSAL_KEPT: Duration = Duration::from_secs(30);
/// More answers than this are not kept.
const MOST_KEPT: usize = 4096;

/// Who calls.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Caller {
    /// User name.
    pub user: String,
    /// UID, where one is known.
    pub uid: Option<String>,
    /// Groups.
    pub groups: Vec<String>,
    /// What else is known.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl From<&CertificateIdentity> for Caller {
    fn from(identity: &CertificateIdentity) -> Self {
        let mut groups = identity.groups.clone();
        if !groups.iter().any(|group| group == "system:authenticated") {
            groups.push("system:authenticated".to_owned());
        }
        Self { user: identity.user.clone(), uid: identity.uid.clone(), groups, extra: BTreeMap::new() }
    }
}

/// What somebody wants to do to a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Deed {
    /// As in roles: `get`, `create` and so on; empty for methods that stand for nothing.
    pub verb: &'static str,
    /// Subresources of nodes of which one is enough, the narrowest first.
    pub subresources: &'static [&'static str],
}

impl Deed {
    /// What a request amounts to.
    #[must_use]
    pub fn of(method: &Method, path: &str) -> Self {
        let verb = match method.as_str() {
            "POST" => "create",
            "GET" => "get",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" => "delete",
            _ => "",
        };
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let subresources: &[&str] = match parts.as_slice() {
            ["stats", ..] => &["stats"],
            ["metrics", ..] => &["metrics"],
            ["logs", ..] => &["log"],
            ["checkpoint", ..] => &["checkpoint"],
            ["statusz", ..] => &["statusz"],
            // As upstream has it.
            ["flagz", ..] => &["configz"],
            ["configz"] => &["configz", "proxy"],
            ["healthz", ..] => &["healthz", "proxy"],
            ["pods" | "runningpods"] | ["pods" | "runningpods", ""] => &["pods", "proxy"],
            _ => &["proxy"],
        };
        Self { verb, subresources }
    }
}

/// Knows whom a token belongs to and who may do what.
#[async_trait]
pub trait Judge: Send + Sync + 'static {
    /// The user of a token, if it is anybody's.
    async fn who(&self, token: &str) -> client::Result<Option<Caller>>;
    /// Whether somebody may use a subresource of this node.
    async fn may(&self, caller: &Caller, verb: &str, subresource: &str) -> client::Result<bool>;
}

/// Asks the API server.
pub struct ApiJudge {
    /// As this node, which may ask.
    pub client: client::Client,
    /// The Node's name.
    pub node: String,
}

#[async_trait]
impl Judge for ApiJudge {
    async fn who(&self, token: &str) -> client::Result<Option<Caller>> {
        let spec = TokenReviewSpec { token: token.to_owned(), audiences: None };
        let review = TokenReview { spec, ..TokenReview::default() };
        let status = Api::<TokenReview>::all(self.client.clone()).create(&PostParams::default(), &review).await?.status.unwrap_or_default();
        let user = status.user.filter(|_| status.authenticated == Some(true));
        Ok(user.map(|user| Caller {
            user: user.username.unwrap_or_default(),
            uid: user.uid.filter(|uid| !uid.is_empty()),
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
        }))
    }

    async fn may(&self, caller: &Caller, verb: &str, subresource: &str) -> client::Result<bool> {
        let attributes = ResourceAttributes {
            verb: Some(verb.to_owned()),
            version: Some("v1".to_owned()),
            resource: Some("nodes".to_owned()),
            subresource: Some(subresource.to_owned()),
            name: Some(self.node.clone()),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: Some(caller.user.clone()),
            uid: caller.uid.clone(),
            groups: Some(caller.groups.clone()),
            extra: Some(caller.extra.clone()).filter(|extra| !extra.is_empty()),
            resource_attributes: Some(attributes),
            non_resource_attributes: None,
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let answer = Api::<SubjectAccessReview>::all(self.client.clone()).create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}

/// Answers that are good for some time.
struct Kept<K, V>(Mutex<HashMap<K, (Timestamp, V)>>);

impl<K: Eq + Hash, V: Clone> Kept<K, V> {
    fn get(&self, key: &K, now: Timestamp) -> Option<V> {
        self.0.lock().get(key).filter(|(end, _)| *end > now).map(|(_, value)| value.clone())
    }

    fn put(&self, key: K, value: V, now: Timestamp, lifetime: Duration) {
        let mut all = self.0.lock();
        if all.len() >= MOST_KEPT {
            all.retain(|_, (end, _)| *end > now);
        }
        if all.len() < MOST_KEPT {
            all.insert(key, (after(now, lifetime), value));
        }
    }
}

/// Lets callers in.
pub struct Access {
    judge: Arc<dyn Judge>,
    clock: Arc<dyn Clock>,
    tokens: Kept<[u8; 32], Option<Caller>>,
    permissions: Kept<(Caller, Deed), bool>,
}

impl Access {
    /// As `judge` says.
    #[must_use]
    pub fn new(judge: Arc<dyn Judge>, clock: Arc<dyn Clock>) -> Self {
        Self { judge, clock, tokens: Kept(Mutex::default()), permissions: Kept(Mutex::default()) }
    }

    /// Whether a request may be answered. `certificate` is what its connection showed.
    ///
    /// # Errors
    /// The answer for somebody unknown, somebody who may not, and where that cannot be found out.
    pub async fn check<B>(&self, request: &Request<B>, certificate: Option<&CertificateIdentity>) -> Result<(), (StatusCode, String)> {
        let now = self.clock.now();
        let caller = match (certificate, bearer_token(request)) {
            // A long connection outlives the handshake's check.
            (Some(identity), _) if identity.not_after > now => Some(Caller::from(identity)),
            (_, Some(token)) => self.who(token, now).await.map_err(|_| unauthorized())?,
            _ => None,
        };
        let caller = caller.ok_or_else(unauthorized)?;
        let deed = Deed::of(request.method(), request.uri().path());
        let about = |caller: &Caller| format!("(user={}, verb={}, resource=nodes, subresource(s)=[{}])", caller.user, deed.verb, deed.subresources.join(" "));
        match self.may(&caller, &deed, now).await {
            Ok(true) => Ok(()),
            Ok(false) => Err((StatusCode::FORBIDDEN, format!("Forbidden {}", about(&caller)))),
            Err(problem) => {
                tracing::warn!(%problem, "it cannot be found out who may call this node's API");
                Err((StatusCode::INTERNAL_SERVER_ERROR, format!("Authorization error {}", about(&caller))))
            }
        }
    }

    async fn who(&self, token: &str, now: Timestamp) -> client::Result<Option<Caller>> {
        let key: [u8; 32] = Sha256::digest(token).into();
        if let Some(known) = self.tokens.get(&key, now) {
            return Ok(known);
        }
        let caller = self.judge.who(token).await?;
        self.tokens.put(key, caller.clone(), now, TOKEN_KEPT);
        Ok(caller)
    }

    async fn may(&self, caller: &Caller, deed: &Deed, now: Timestamp) -> client::Result<bool> {
        let key = (caller.clone(), deed.clone());
        if let Some(known) = self.permissions.get(&key, now) {
            return Ok(known);
        }
        let mut may = false;
        for subresource in deed.subresources {
            may = self.judge.may(caller, deed.verb, subresource).await?;
            if may {
                break;
            }
        }
        self.permissions.put(key, may, now, if may { PERMISSION_KEPT } else { REFUSAL_KEPT });
        Ok(may)
    }
}

fn unauthorized() -> (StatusCode, String) {
    (StatusCode::UNAUTHORIZED, "Unauthorized".to_owned())
}

fn bearer_token<B>(request: &Request<B>) -> Option<&str> {
    let (scheme, token) = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use client::SystemClock;

    use super::*;

    #[test]
    fn each_path_has_its_own_subresource() {
        let check = |method: Method, path: &str, verb: &str, subresources: &[&str]| {
            let deed = Deed::of(&method, path);
            assert_eq!((deed.verb, deed.subresources), (verb, subresources), "{method} {path}");
        };
        check(Method::GET, "/stats/summary", "get", &["stats"]);
        check(Method::GET, "/metrics", "get", &["metrics"]);
        check(Method::GET, "/metrics/cadvisor", "get", &["metrics"]);
        check(Method::GET, "/logs/", "get", &["log"]);
        check(Method::GET, "/statusz", "get", &["statusz"]);
        check(Method::GET, "/flagz", "get", &["configz"]);
        check(Method::GET, "/pods", "get", &["pods", "proxy"]);
        check(Method::GET, "/runningpods/", "get", &["pods", "proxy"]);
        check(Method::GET, "/healthz/ping", "get", &["healthz", "proxy"]);
        check(Method::GET, "/configz", "get", &["configz", "proxy"]);
        check(Method::POST, "/checkpoint/a/b/c", "create", &["checkpoint"]);
        check(Method::GET, "/containerLogs/a/b/c", "get", &["proxy"]);
        check(Method::POST, "/exec/a/b/c", "create", &["proxy"]);
        check(Method::GET, "/metricsandmore", "get", &["proxy"]);
        check(Method::OPTIONS, "/", "", &["proxy"]);
    }

    /// Knows the tokens `ann` and `bob`; `ann` may use what is listed. Counts what it is asked.
    #[derive(Default)]
    struct Scripted {
        allowed: Vec<&'static str>,
        asked: Mutex<Vec<String>>,
    }

    #[async_trait]
    impl Judge for Scripted {
        async fn who(&self, token: &str) -> client::Result<Option<Caller>> {
            self.asked.lock().push(format!("who {token}"));
            Ok(["ann", "bob"].contains(&token).then(|| Caller { user: token.to_owned(), ..Caller::default() }))
        }
        async fn may(&self, caller: &Caller, verb: &str, subresource: &str) -> client::Result<bool> {
            self.asked.lock().push(format!("{} {verb} {subresource}", caller.user));
            Ok(caller.user == "ann" && self.allowed.contains(&subresource))
        }
    }

    fn request(path: &str, token: Option<&str>) -> Request<()> {
        let request = Request::get(path);
        match token {
            Some(token) => request.header("authorization", format!("Bearer {token}")).body(()).unwrap(),
            None => request.body(()).unwrap(),
        }
    }

    #[tokio::test]
    async fn callers_are_known_by_their_token_and_may_what_the_judge_says() {
        let judge = Arc::new(Scripted { allowed: vec!["metrics", "proxy"], ..Scripted::default() });
        let access = Access::new(judge.clone(), SystemClock::shared());
        let check = async |path: &str, token: Option<&str>| access.check(&request(path, token), None).await.map_err(|(status, words)| (status.as_u16(), words));
        assert_eq!(check("/metrics", None).await, Err((401, "Unauthorized".to_owned())));
        assert_eq!(check("/metrics", Some("eve")).await, Err((401, "Unauthorized".to_owned())));
        assert_eq!(check("/metrics", Some("ann")).await, Ok(()));
        assert_eq!(check("/pods", Some("ann")).await, Ok(()), "the broad permission is enough");
        let refused = "Forbidden (user=bob, verb=get, resource=nodes, subresource(s)=[pods proxy])".to_owned();
        assert_eq!(check("/pods", Some("bob")).await, Err((403, refused)));
        assert_eq!(check("/stats/summary", Some("ann")).await, Err((403, "Forbidden (user=ann, verb=get, resource=nodes, subresource(s)=[stats])".to_owned())));
        let asked = judge.asked.lock().len();
        assert_eq!(check("/metrics", Some("ann")).await, Ok(()));
        assert_eq!(judge.asked.lock().len(), asked, "what is known is not asked again");
    }

    #[tokio::test]
    async fn a_certificate_counts_as_long_as_it_is_valid() {
        let judge = Arc::new(Scripted { allowed: vec!["metrics"], ..Scripted::default() });
        let access = Access::new(judge, SystemClock::shared());
        let identity = |not_after| CertificateIdentity { user: "ann".to_owned(), groups: Vec::new(), uid: None, not_after, fingerprint: String::new() };
        assert_eq!(access.check(&request("/metrics", None), Some(&identity(Timestamp::MAX))).await, Ok(()));
        let ended = access.check(&request("/metrics", None), Some(&identity(Timestamp::UNIX_EPOCH))).await;
        assert_eq!(ended, Err((StatusCode::UNAUTHORIZED, "Unauthorized".to_owned())));
    }
}
