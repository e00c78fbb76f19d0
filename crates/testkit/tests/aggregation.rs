//! A group that another server answers for: a real server behind TLS, which the cluster finds by a Service and its EndpointSlice.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use base64::Engine as _;
use dialer::{Connection, DialError, Dialer, Target};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use pki::authority::ClusterAuthority;
use serde_json::{Value, json};
use testkit::{ApiHarness, api_harness::Caller};

const API_SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const NAME: &str = "v1alpha1.wardle.example.com";

/// Whatever is dialled, the test's own server answers: addresses of pods are none of this machine.
struct ToServer(SocketAddr);

#[async_trait::async_trait]
impl Dialer for ToServer {
    async fn dial(&self, _: &Target) -> Result<Box<dyn Connection>, DialError> {
        let target = Target::Address { host: self.0.ip().to_string(), port: self.0.port() };
        dialer::ClusterDialer::default().dial(&target).await
    }
}

/// What the other server says: discovery, a document, and of everything else who asked for what.
fn answer(request: &http::Request<hyper::body::Incoming>) -> Value {
    let texts = |name: &str| -> Vec<&str> { request.headers().get_all(name).iter().filter_map(|value| value.to_str().ok()).collect() };
    match request.uri().path() {
        "/apis/wardle.example.com/v1alpha1" => json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "wardle.example.com/v1alpha1",
            "resources": [{"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["create", "get", "list"]}],
        }),
        "/openapi/v2" => json!({"swagger": "2.0", "paths": {"/apis/wardle.example.com/v1alpha1/": {}}, "definitions": {"com.example.wardle.Flunder": {"type": "object"}}}),
        path => json!({
            "path": path, "query": request.uri().query(), "method": request.method().as_str(),
            "user": texts("x-remote-user"), "groups": texts("x-remote-group"), "authorization": texts("authorization"),
        }),
    }
}

/// A server that answers only who shows a certificate of the front proxy's authority; the authority of its own certificate.
async fn serve(directory: &std::path::Path, front_proxy: &ClusterAuthority) -> (SocketAddr, String) {
    let now = jiff::Timestamp::now();
    let authority = ClusterAuthority::open_or_create(&directory.join("other"), now).unwrap();
    let credential = authority.issue_server("sample", &pki::AlternativeNames::from_hosts(["sample-api.default.svc"]), now).unwrap();
    let certificate = pki::tls::SwappableCertificate::new(&credential).unwrap();
    let roots = Arc::new(pki::tls::roots_from_pem(front_proxy.certificate_pem()).unwrap());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots, pki::tls::provider()).build().unwrap();
    let config = rustls::ServerConfig::builder_with_provider(pki::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| async move {
                    let body = Full::new(bytes::Bytes::from(answer(&request).to_string()));
                    Ok::<_, Infallible>(http::Response::new(body))
                });
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (address, authority.certificate_pem().to_owned())
}

/// Waits for the condition `Available` to have this status and reason.
async fn wait_for(caller: &Caller, status: &str, reason: &str) {
    let mut watch = caller.watch(&format!("{API_SERVICES}?watch=true&fieldSelector=metadata.name={NAME}")).await;
    let work = async {
        while let Some(event) = watch.next().await {
            let conditions = event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
            if conditions.iter().any(|condition| condition["type"] == "Available" && condition["status"] == status && condition["reason"] == reason) {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), work).await.unwrap_or_else(|_| panic!("Available is not {status} for {reason}"));
}

#[tokio::test]
async fn another_server_answers_for_its_group_and_learns_who_asks() {
    let directory = tempfile::tempdir().unwrap();
    let now = jiff::Timestamp::now();
    let front = ClusterAuthority::open_or_create(&directory.path().join("front"), now).unwrap();
    let (address, authority) = serve(directory.path(), &front).await;
    let subject = pki::Subject::new(apiserver::aggregation::trust::FRONT_PROXY_NAME, std::iter::empty::<String>());
    let front_proxy = apiserver::aggregation::FrontProxy {
        certificate: pki::SwappableCertificate::new(&front.issue_client(&subject, pki::authority::CERTIFICATE_LIFETIME, now).unwrap()).unwrap(),
        authority_pem: front.certificate_pem().to_owned(),
        client_authority_pem: String::new(),
    };
    let harness = ApiHarness::start_with(|parts| {
        parts.dialer = Arc::new(ToServer(address));
        parts.front_proxy = Some(front_proxy);
    })
    .await;
    let caller = harness.administrator();
    let trust = caller.get("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication").await.expect(200);
    assert_eq!(trust["data"]["requestheader-client-ca-file"], front.certificate_pem());

    let bundle = base64::engine::general_purpose::STANDARD.encode(authority);
    let service = json!({
        "metadata": {"name": NAME},
        "spec": {
            "group": "wardle.example.com", "version": "v1alpha1", "groupPriorityMinimum": 2000, "versionPriority": 200,
            "caBundle": bundle, "service": {"namespace": "default", "name": "sample-api", "port": 7443},
        },
    });
    caller.post(API_SERVICES, &service).await.expect(201);
    wait_for(&caller, "False", "ServiceNotFound").await;
    caller.get("/apis/wardle.example.com/v1alpha1").await.refused(503, "ServiceUnavailable", "service unavailable");

    caller.post("/api/v1/namespaces/default/services", &json!({"metadata": {"name": "sample-api"}, "spec": {"ports": [{"port": 7443, "targetPort": 443}]}})).await.expect(201);
    let slice = json!({
        "metadata": {"name": "sample-api-1", "labels": {"kubernetes.io/service-name": "sample-api"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.9"], "conditions": {"ready": true}}], "ports": [{"name": "", "port": 443}],
    });
    caller.post("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", &slice).await.expect(201);
    wait_for(&caller, "True", "Passed").await;

    let flunders = "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders";
    let seen = caller.send("GET", &format!("{flunders}?limit=2"), &[("x-remote-user", "somebody-else")], "").await.expect(200);
    assert_eq!(
        seen,
        json!({
            "path": flunders, "query": "limit=2", "method": "GET",
            "user": ["test-administrator"], "groups": ["system:masters", "system:authenticated"], "authorization": [],
        })
    );
    harness.stranger().get(flunders).await.expect(403);

    // What it lists is counted by name, also where it is a stream; what it does not list is nobody's name but the caller's.
    caller.get(&format!("{flunders}?watch=true")).await.expect(200);
    caller.get("/apis/wardle.example.com/v1alpha1/inventions?watch=true").await.expect(200);
    for (group, resource, version, scope) in [("wardle.example.com", "flunders", "v1alpha1", "namespace"), ("", "", "", "cluster")] {
        let line = format!(r#"apiserver_request_total{{code="200",component="apiserver",dry_run="",group="{group}",resource="{resource}",scope="{scope}",subresource="",verb="WATCH",version="{version}"}} 1"#);
        let counted = async {
            let mut page = caller.get("/metrics").await;
            while !String::from_utf8_lossy(&page.body).lines().any(|one| one == line) {
                // It counts when the connection behind it is put away, which nothing tells.
                tokio::time::sleep(Duration::from_millis(10)).await;
                page = caller.get("/metrics").await;
            }
            assert!(!String::from_utf8_lossy(&page.body).contains("inventions"));
        };
        tokio::time::timeout(Duration::from_secs(60), counted).await.unwrap_or_else(|_| panic!("{line} is not there"));
    }

    let groups = caller.get("/apis").await.expect(200);
    assert!(groups["groups"].as_array().unwrap().iter().any(|group| group["name"] == "wardle.example.com"));
    assert_eq!(caller.get("/apis/wardle.example.com").await.expect(200)["preferredVersion"]["version"], "v1alpha1");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let aggregated = caller.send("GET", "/apis", &[("accept", accept)], "").await.expect(200);
    let group = aggregated["items"].as_array().unwrap().iter().find(|group| group["metadata"]["name"] == "wardle.example.com").unwrap();
    assert_eq!(group["versions"][0]["resources"][0]["resource"], "flunders");
    let document = caller.get("/openapi/v2").await.expect(200);
    assert!(document["definitions"]["com.example.wardle.Flunder"].is_object() && document["definitions"]["io.k8s.api.core.v1.Pod"].is_object());

    caller.delete(&format!("{API_SERVICES}/{NAME}")).await.expect(200);
    for _ in 0..6000 {
        match caller.get(flunders).await.status {
            404 => return,
            status => assert_eq!(status, 200, "what is not served any more is not there, rather than unavailable"),
        }
        // Nothing tells when the registry has followed; it does within milliseconds.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the group is still served");
}
