//! CertificateSigningRequests through the API: approved and signed in parts that only the right people may write.

use client::Identity;
use serde_json::{Value, json};
use testkit::ApiHarness;

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

fn request(name: &str) -> Value {
    use base64::Engine as _;
    let key = pki::key::PrivateKey::generate().unwrap();
    let subject = pki::Subject::new("e2e-client", ["group"]);
    let pem = pki::request::CertificateRequest::create(&subject, &pki::AlternativeNames::default(), &[pki::usage::Usage::ClientAuth], &key).unwrap();
    let encoded = base64::engine::general_purpose::STANDARD.encode(pem);
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {"signerName": "example.com/test", "expirationSeconds": 3600, "usages": ["digital signature", "key encipherment", "client auth"], "request": encoded},
    })
}

#[tokio::test]
async fn a_request_is_approved_and_signed_in_its_subresources() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    let created = administrator.post(REQUESTS, &request("r")).await.expect(201);
    assert_eq!(created["spec"]["username"], "test-administrator");
    assert_eq!(created["spec"]["groups"], json!(["system:masters", "system:authenticated"]));
    let path = format!("{REQUESTS}/r");
    let approval = json!({
        "metadata": {"annotations": {"approved": "true"}},
        "status": {"conditions": [{"type": "ApprovalPatch", "status": "True", "reason": "test"}]},
    });
    let patched = administrator.patch(&format!("{path}/approval"), "merge-patch", &approval).await.expect(200);
    assert_eq!(patched["metadata"]["annotations"]["approved"], "true");
    assert_eq!(patched["status"]["conditions"].as_array().unwrap().len(), 1);
    let mut update = administrator.get(&format!("{path}/approval")).await.expect(200);
    update["status"]["conditions"].as_array_mut().unwrap().push(json!({"type": "Approved", "status": "True", "reason": "test"}));
    let approved = administrator.put(&format!("{path}/approval"), &update).await.expect(200);
    assert_eq!(approved["status"]["conditions"].as_array().unwrap().len(), 2);
    // The status says nothing of approval, and the approval nothing of certificates.
    let mut status = administrator.get(&format!("{path}/status")).await.expect(200);
    status["status"]["conditions"].as_array_mut().unwrap().push(json!({"type": "StatusUpdate", "status": "True", "reason": "test"}));
    let updated = administrator.put(&format!("{path}/status"), &status).await.expect(200);
    assert_eq!(updated["status"]["conditions"].as_array().unwrap().len(), 3);
    administrator.delete(&path).await.expect(200);
    administrator.post(REQUESTS, &request("s")).await.expect(201);
    administrator.send("DELETE", &format!("{REQUESTS}?labelSelector=a%3Db"), &[], "").await.expect(200);
    administrator.get(&format!("{REQUESTS}/s")).await.expect(200);
    administrator.send("DELETE", REQUESTS, &[], "").await.expect(200);
    administrator.get(&format!("{REQUESTS}/s")).await.expect(404);
}

#[tokio::test]
async fn who_may_not_approve_for_a_signer_is_refused() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    let rule = json!({"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests", "certificatesigningrequests/approval"], "verbs": ["create", "get", "update", "patch"]});
    administrator.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", &json!({"metadata": {"name": "r"}, "rules": [rule]})).await.expect(201);
    let binding = json!({
        "metadata": {"name": "b"}, "subjects": [{"kind": "User", "name": "somebody", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "r"},
    });
    administrator.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await.expect(201);
    let somebody = api.caller(Identity::user("somebody", &[]));
    somebody.post(REQUESTS, &request("r")).await.expect(201);
    let approval = json!({"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "test"}]}});
    let refused = somebody.patch(&format!("{REQUESTS}/r/approval"), "merge-patch", &approval).await.expect(403);
    assert!(refused["message"].as_str().unwrap().contains("user not permitted to approve requests with signerName \"example.com/test\""), "{refused}");
}

#[tokio::test]
async fn a_trust_bundle_of_a_signer_comes_from_who_may_attest_for_it() {
    let on = kinds::RuntimeConfig::parse("certificates.k8s.io/v1beta1=true").unwrap();
    let api = ApiHarness::start_with(|parts| parts.runtime_config = on).await;
    let administrator = api.administrator();
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let writes = json!({"apiGroups": ["certificates.k8s.io"], "resources": ["clustertrustbundles"], "verbs": ["create", "get", "update"]});
    administrator.post(roles, &json!({"metadata": {"name": "r"}, "rules": [writes]})).await.expect(201);
    let binding = json!({
        "metadata": {"name": "b"}, "subjects": [{"kind": "User", "name": "somebody", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "r"},
    });
    administrator.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await.expect(201);
    let somebody = api.caller(Identity::user("somebody", &[]));
    let directory = tempfile::tempdir().unwrap();
    let authority = pki::ClusterAuthority::open_or_create(directory.path(), jiff::Timestamp::now()).unwrap();
    let bundles = "/apis/certificates.k8s.io/v1beta1/clustertrustbundles";
    let bundle = |name: &str, signer: &str| json!({
        "apiVersion": "certificates.k8s.io/v1beta1", "kind": "ClusterTrustBundle", "metadata": {"name": name},
        "spec": {"signerName": signer, "trustBundle": authority.certificate_pem()},
    });
    // One that belongs to no signer attests to nothing.
    somebody.post(bundles, &bundle("mine", "")).await.expect(201);
    let refused = somebody.post(bundles, &bundle("example.com:test:a", "example.com/test")).await.expect(403);
    assert_eq!(
        refused["message"],
        "clustertrustbundles.certificates.k8s.io \"example.com:test:a\" is forbidden: user not permitted to attest for signerName \"example.com/test\""
    );
    let attest = json!({"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": ["example.com/*"], "verbs": ["attest"]});
    administrator.put(&format!("{roles}/r"), &json!({"metadata": {"name": "r"}, "rules": [writes, attest]})).await.expect(200);
    let mut made = somebody.post(bundles, &bundle("example.com:test:a", "example.com/test")).await.expect(201);
    administrator.put(&format!("{roles}/r"), &json!({"metadata": {"name": "r"}, "rules": [writes]})).await.expect(200);
    let path = format!("{bundles}/example.com:test:a");
    made["metadata"]["labels"] = json!({"seen": "yes"});
    let mut made = somebody.put(&path, &made).await.expect(200);
    made["spec"]["trustBundle"] = json!(format!("words\n{}", authority.certificate_pem()));
    let refused = somebody.put(&path, &made).await.expect(403);
    assert!(refused["message"].as_str().unwrap().ends_with("user not permitted to attest for signerName \"example.com/test\""), "{refused}");
}
