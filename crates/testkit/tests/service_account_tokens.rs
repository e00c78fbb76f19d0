//! Tokens of service accounts, asked for as the volume of a pod does and as anybody else, and what becomes of them with time.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use base64::Engine as _;
use jiff::{SignedDuration, Timestamp};
use pki::authority::ClusterAuthority;
use serde_json::{Value, json};
use testkit::{ApiHarness, api_harness::Caller};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const HOUR: i64 = 3600;

const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// A cluster whose time a test can move.
struct Cluster {
    api: ApiHarness,
    seconds: Arc<AtomicI64>,
    _directory: tempfile::TempDir,
}

impl Cluster {
    async fn start(extends: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = ClusterAuthority::open_or_create(directory.path(), Timestamp::now()).unwrap();
        let signer = authority.token_signer(ISSUER).unwrap();
        let verifier = Arc::new(pki::TokenVerifier::new([ISSUER], [signer.public_key()]));
        let seconds: Arc<AtomicI64> = Arc::default();
        let passed = seconds.clone();
        let api = ApiHarness::start_with(|parts| {
            parts.tokens = Some(apiserver::core::ServiceAccountTokens { signer, verifier });
            parts.facts.extend_token_expiration = extends;
            parts.clock = Arc::new(move || Timestamp::now() + SignedDuration::from_secs(passed.load(Ordering::Relaxed)));
        })
        .await;
        let caller = api.administrator();
        caller.post(ACCOUNTS, &json!({"metadata": {"name": "default"}})).await.expect(201);
        let pod = json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "main", "image": "busybox:1"}]}});
        caller.post("/api/v1/namespaces/default/pods", &pod).await.expect(201);
        Self { api, seconds, _directory: directory }
    }

    /// Asks for a token of the pod, or of the account alone; the token, what it says, and when it is said to end.
    async fn token(&self, seconds: i64, of_pod: bool, audiences: &[&str]) -> (String, Value, Timestamp) {
        let mut spec = json!({"expirationSeconds": seconds, "audiences": audiences});
        if of_pod {
            spec["boundObjectRef"] = json!({"kind": "Pod", "apiVersion": "v1", "name": "web"});
        }
        let answer = self.api.administrator().post(&format!("{ACCOUNTS}/default/token"), &json!({"spec": spec})).await.expect(201);
        assert_eq!(answer["spec"]["expirationSeconds"], seconds);
        let token = answer["status"]["token"].as_str().unwrap().to_owned();
        let payload = token.split('.').nth(1).unwrap();
        let claims = serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
        (token, claims, answer["status"]["expirationTimestamp"].as_str().unwrap().parse().unwrap())
    }

    /// A token bound to an object.
    async fn token_of(&self, kind: &str, name: &str) -> String {
        let spec = json!({"boundObjectRef": {"kind": kind, "apiVersion": "v1", "name": name}});
        let answer = self.api.administrator().post(&format!("{ACCOUNTS}/default/token"), &json!({"spec": spec})).await.expect(201);
        answer["status"]["token"].as_str().unwrap().to_owned()
    }

    /// Whether a token opens the door.
    async fn opens(&self, token: &str) -> bool {
        let answer = self.api.stranger().send("GET", "/apis", &[("authorization", &format!("Bearer {token}"))], "").await;
        assert!(matches!(answer.status, 200 | 401), "{}", answer.status);
        answer.status == 200
    }

    async fn counted(&self, caller: &Caller, name: &str) -> f64 {
        let page = caller.get("/metrics").await;
        let page = String::from_utf8_lossy(&page.body).into_owned();
        page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or_else(|| panic!("{name} is not counted"))
    }
}

#[tokio::test]
async fn a_token_that_a_pod_gets_by_itself_works_for_a_year_and_late_uses_are_counted() {
    let cluster = Cluster::start(true).await;
    let caller = cluster.api.administrator();
    let (token, claims, ends) = cluster.token(3607, true, &[]).await;
    let issued = claims["iat"].as_i64().unwrap();
    assert_eq!(claims["exp"].as_i64().unwrap() - issued, 365 * 24 * HOUR);
    assert_eq!(claims["kubernetes.io"]["warnafter"].as_i64().unwrap() - issued, 3607);
    // What the node renews it by is as asked.
    assert_eq!(ends.as_second() - issued, 3607);

    assert!(cluster.opens(&token).await);
    assert_eq!((cluster.counted(&caller, "serviceaccount_valid_tokens_total").await, cluster.counted(&caller, "serviceaccount_stale_tokens_total").await), (1.0, 0.0));
    cluster.seconds.store(2 * HOUR, Ordering::Relaxed);
    assert!(cluster.opens(&token).await, "a program that read its token once goes on");
    assert_eq!((cluster.counted(&caller, "serviceaccount_valid_tokens_total").await, cluster.counted(&caller, "serviceaccount_stale_tokens_total").await), (1.0, 1.0));
    cluster.seconds.store(366 * 24 * HOUR, Ordering::Relaxed);
    assert!(!cluster.opens(&token).await);
}

#[tokio::test]
async fn only_what_pods_get_by_themselves_for_this_server_is_extended() {
    let cluster = Cluster::start(true).await;
    for (seconds, of_pod, audiences) in [(3600, true, &[][..]), (3607, false, &[]), (3607, true, &["vault"]), (3607, true, &[ISSUER, "vault"])] {
        let (_, claims, _) = cluster.token(seconds, of_pod, audiences).await;
        assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), seconds, "{of_pod} {audiences:?}");
        assert!(claims["kubernetes.io"].get("warnafter").is_none(), "{of_pod} {audiences:?}");
    }
    let (_, claims, _) = cluster.token(3607, true, &[ISSUER]).await;
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 365 * 24 * HOUR);
}

#[tokio::test]
async fn nothing_is_extended_where_that_is_turned_off() {
    let cluster = Cluster::start(false).await;
    let (token, claims, _) = cluster.token(3607, true, &[]).await;
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 3607);
    cluster.seconds.store(2 * HOUR, Ordering::Relaxed);
    assert!(!cluster.opens(&token).await);
}

/// Also where something keeps the object from going, or where it came back under its name.
#[tokio::test]
async fn a_token_ends_a_minute_after_what_it_is_bound_to_was_deleted() {
    let cluster = Cluster::start(true).await;
    let caller = cluster.api.administrator();
    let held = |name: &str| json!({"metadata": {"name": name, "finalizers": ["example.com/wait"]}});
    caller.post("/api/v1/namespaces/default/secrets", &held("key")).await.expect(201);
    caller.post("/api/v1/nodes", &held("one")).await.expect(201);
    let finalizer = json!({"metadata": {"finalizers": ["example.com/wait"]}});
    let pod = "/api/v1/namespaces/default/pods/web";
    caller.patch(pod, "merge-patch", &finalizer).await.expect(200);
    for (kind, name, path) in [("Secret", "key", "/api/v1/namespaces/default/secrets/key"), ("Node", "one", "/api/v1/nodes/one"), ("Pod", "web", pod)] {
        let token = cluster.token_of(kind, name).await;
        caller.delete(path).await.expect(200);
        assert!(cluster.opens(&token).await, "{kind}: it may be about to say good-bye");
        // A pod's time of deletion is that of its end.
        cluster.seconds.fetch_add(95, Ordering::Relaxed);
        assert!(!cluster.opens(&token).await, "{kind}");
    }
    caller.patch(&format!("{ACCOUNTS}/default"), "merge-patch", &finalizer).await.expect(200);
    let (token, ..) = cluster.token(3600, false, &[]).await;
    caller.delete(&format!("{ACCOUNTS}/default")).await.expect(200);
    cluster.seconds.fetch_add(61, Ordering::Relaxed);
    assert!(!cluster.opens(&token).await, "ServiceAccount");
}

#[tokio::test]
async fn a_token_of_a_node_ends_with_that_node() {
    let cluster = Cluster::start(true).await;
    let (caller, node) = (cluster.api.administrator(), json!({"metadata": {"name": "one"}}));
    caller.post("/api/v1/nodes", &node).await.expect(201);
    let token = cluster.token_of("Node", "one").await;
    assert!(cluster.opens(&token).await);
    caller.delete("/api/v1/nodes/one").await.expect(200);
    assert!(!cluster.opens(&token).await, "the node is gone");
    caller.post("/api/v1/nodes", &node).await.expect(201);
    assert!(!cluster.opens(&token).await, "it is another one");
}

#[tokio::test]
async fn a_token_is_good_for_its_audiences_only_and_says_whose_it_is() {
    let cluster = Cluster::start(false).await;
    let caller = cluster.api.administrator();
    let (for_vault, claims, _) = cluster.token(HOUR, true, &["vault", "chest"]).await;
    assert_eq!(claims["aud"], json!(["vault", "chest"]));
    assert!(!cluster.opens(&for_vault).await, "it is not for this server");
    let review = async |token: &str, audiences: &[&str]| {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token, "audiences": audiences}});
        caller.post(REVIEWS, &review).await.expect(201)["status"].clone()
    };
    let status = review(&for_vault, &["vault", "other"]).await;
    assert_eq!((&status["authenticated"], &status["audiences"]), (&json!(true), &json!(["vault"])));
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:default");
    for group in ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"] {
        assert!(status["user"]["groups"].as_array().unwrap().contains(&json!(group)), "{group}: {status}");
    }
    assert_eq!(status["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["web"]));
    for (token, audiences) in [(for_vault.as_str(), &[][..]), (&for_vault, &["other"]), ("nonsense", &["vault"])] {
        let status = review(token, audiences).await;
        assert!(status.get("authenticated").is_none_or(|good| good == false) && status["error"].is_string(), "{audiences:?}: {status}");
    }
    let (for_the_server, _, _) = cluster.token(HOUR, true, &[]).await;
    assert!(cluster.opens(&for_the_server).await);
    assert_eq!(review(&for_the_server, &[]).await["audiences"], json!([ISSUER]));
}

#[tokio::test]
async fn others_learn_from_two_documents_by_which_key_tokens_are_checked() {
    let cluster = Cluster::start(false).await;
    let caller = cluster.api.administrator();
    let document = caller.get("/.well-known/openid-configuration").await.expect(200);
    assert_eq!(document["issuer"], ISSUER);
    assert!(document["jwks_uri"].as_str().unwrap().ends_with("/openid/v1/jwks"), "{document}");
    assert_eq!((&document["response_types_supported"], &document["subject_types_supported"]), (&json!(["id_token"]), &json!(["public"])));
    let keys = caller.get("/openid/v1/jwks").await.expect(200);
    let (token, _, _) = cluster.token(HOUR, false, &[]).await;
    let head = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    let head: Value = serde_json::from_slice(&head).unwrap();
    let key = keys["keys"].as_array().unwrap().iter().find(|key| key["kid"] == head["kid"]).unwrap_or_else(|| panic!("{head} is not among {keys}"));
    assert_eq!((&key["use"], &key["alg"]), (&json!("sig"), &head["alg"]));
    assert_eq!(document["id_token_signing_alg_values_supported"], json!([head["alg"]]));
    // Service accounts may read them, strangers may not.
    let with = [("authorization", format!("Bearer {token}"))];
    let with: Vec<(&str, &str)> = with.iter().map(|(name, value)| (*name, value.as_str())).collect();
    for path in ["/.well-known/openid-configuration", "/openid/v1/jwks"] {
        cluster.api.stranger().send("GET", path, &with, "").await.expect(200);
        cluster.api.stranger().get(path).await.expect(403);
    }
}
