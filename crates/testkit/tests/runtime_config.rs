//! `--runtime-config`: versions that are off by default, versions turned off, and one object in several versions.

use kinds::RuntimeConfig;
use serde_json::{Value, json};
use testkit::ApiHarness;

const JSON: &[(&str, &str)] = &[("content-type", "application/json"), ("accept", "application/json")];

async fn server(config: &str) -> ApiHarness {
    let config = RuntimeConfig::parse(config).unwrap();
    ApiHarness::start_with(|parts| parts.runtime_config = config).await
}

async fn get(harness: &ApiHarness, path: &str) -> (u16, Value) {
    let answer = harness.administrator().send("GET", path, JSON, "").await;
    (answer.status, serde_json::from_slice(&answer.body).unwrap_or_default())
}

async fn create(harness: &ApiHarness, path: &str, object: Value) -> Value {
    let answer = harness.administrator().send("POST", path, JSON, object.to_string()).await;
    assert_eq!(answer.status, 201, "{path}: {}", String::from_utf8_lossy(&answer.body));
    serde_json::from_slice(&answer.body).unwrap()
}

fn versions_of(groups: &Value, name: &str) -> Vec<String> {
    let group = groups["groups"].as_array().unwrap().iter().find(|group| group["name"] == name);
    let versions = group.and_then(|group| group["versions"].as_array()).into_iter().flatten();
    versions.map(|version| version["version"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn betas_are_served_when_they_are_turned_on() {
    let plain = server("").await;
    let path = "/apis/certificates.k8s.io/v1beta1/clustertrustbundles";
    assert_eq!(get(&plain, path).await.0, 404);
    assert_eq!(versions_of(&get(&plain, "/apis").await.1, "certificates.k8s.io"), ["v1"]);
    assert!(versions_of(&get(&plain, "/apis").await.1, "storagemigration.k8s.io").is_empty());
    let betas = server("api/beta=true").await;
    assert_eq!(get(&betas, path).await.0, 200);
    assert_eq!(versions_of(&get(&betas, "/apis").await.1, "certificates.k8s.io"), ["v1", "v1beta1"]);
    assert_eq!(get(&betas, "/apis/certificates.k8s.io/v1alpha1/clustertrustbundles").await.0, 404);
    assert_eq!(get(&betas, "/openapi/v3/apis/certificates.k8s.io/v1beta1").await.0, 200);
    let one = server("certificates.k8s.io/v1beta1/clustertrustbundles=true").await;
    assert_eq!(get(&one, path).await.0, 200);
    assert_eq!(get(&one, "/apis/certificates.k8s.io/v1beta1/podcertificaterequests").await.0, 404);
    let list = get(&one, "/apis/certificates.k8s.io/v1beta1").await.1;
    let names: Vec<&Value> = list["resources"].as_array().unwrap().iter().map(|known| &known["name"]).collect();
    assert_eq!(names, ["clustertrustbundles"]);
}

#[tokio::test]
async fn every_resource_can_be_turned_on_and_listed() {
    let harness = server("api/all=true").await;
    for resource in api::resources().iter().filter(|resource| resource.maturity() != api::Maturity::Stable) {
        let path = format!("/apis/{}/{}/{}", resource.group, resource.version, resource.plural);
        let (status, list) = get(&harness, &path).await;
        assert_eq!((status, &list["kind"]), (200, &json!(resource.list_kind().unwrap())), "{path}");
        let answer = harness.administrator().send("GET", &path, &[("accept", "application/vnd.kubernetes.protobuf")], "").await;
        assert_eq!(answer.status, 200, "{path} in protobuf");
    }
}

#[tokio::test]
async fn a_stable_version_that_is_off_is_not_found() {
    let harness = server("apps/v1=false,batch/v1/cronjobs=false").await;
    assert_eq!(get(&harness, "/apis/apps/v1/deployments").await.0, 404);
    assert_eq!(get(&harness, "/apis/apps/v1").await.0, 404);
    assert!(versions_of(&get(&harness, "/apis").await.1, "apps").is_empty());
    assert_eq!(get(&harness, "/apis/batch/v1/cronjobs").await.0, 404);
    assert_eq!(get(&harness, "/apis/batch/v1/jobs").await.0, 200);
}

#[tokio::test]
async fn a_server_starts_and_makes_services_without_the_groups_it_uses_itself() {
    let off = "rbac.authorization.k8s.io/v1=false,scheduling.k8s.io/v1=false,networking.k8s.io/v1=false,discovery.k8s.io/v1=false";
    let harness = server(&format!("{off},policy/v1=false,apiextensions.k8s.io/v1=false,apiregistration.k8s.io/v1=false")).await;
    assert_eq!(get(&harness, "/apis/networking.k8s.io/v1/ipaddresses").await.0, 404);
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}});
    let service = create(&harness, "/api/v1/namespaces/default/services", service).await;
    assert!(service["spec"]["clusterIP"].is_string(), "{service}");
}

#[tokio::test]
async fn versions_of_a_kind_show_the_same_object() {
    let harness = server("api/all=true").await;
    let claim = json!({"apiVersion": "resource.k8s.io/v1beta1", "kind": "ResourceClaim", "metadata": {"name": "gpu"},
        "spec": {"devices": {"requests": [{"name": "one", "deviceClassName": "gpu.example.com"}]}}});
    let made = create(&harness, "/apis/resource.k8s.io/v1beta1/namespaces/default/resourceclaims", claim).await;
    assert_eq!(made["apiVersion"], "resource.k8s.io/v1beta1");
    assert_eq!(made["spec"]["devices"]["requests"][0]["allocationMode"], "ExactCount", "defaults are those of the stable form: {made}");
    for version in ["v1", "v1beta2"] {
        let (_, shown) = get(&harness, &format!("/apis/resource.k8s.io/{version}/namespaces/default/resourceclaims/gpu")).await;
        assert_eq!(shown["apiVersion"], format!("resource.k8s.io/{version}"));
        assert_eq!(shown["spec"]["devices"]["requests"][0]["exactly"]["count"], 1, "{shown}");
        assert_eq!(shown["metadata"]["uid"], made["metadata"]["uid"]);
    }
    let candidate = json!({"apiVersion": "coordination.k8s.io/v1alpha2", "kind": "LeaseCandidate", "metadata": {"name": "a"},
        "spec": {"leaseName": "l", "binaryVersion": "1.36.0", "emulationVersion": "1.36.0", "strategy": "OldestEmulationVersion"}});
    create(&harness, "/apis/coordination.k8s.io/v1alpha2/namespaces/default/leasecandidates", candidate).await;
    let (status, shown) = get(&harness, "/apis/coordination.k8s.io/v1beta1/namespaces/default/leasecandidates/a").await;
    assert_eq!((status, &shown["apiVersion"], &shown["spec"]["leaseName"]), (200, &json!("coordination.k8s.io/v1beta1"), &json!("l")));
    let spec = json!({"cidrs": ["nonsense"]});
    let cidr = json!({"apiVersion": "networking.k8s.io/v1beta1", "kind": "ServiceCIDR", "metadata": {"name": "more"}, "spec": spec});
    let answer = harness.administrator().send("POST", "/apis/networking.k8s.io/v1beta1/servicecidrs", JSON, cidr.to_string()).await;
    assert_eq!(answer.status, 422, "an earlier version is judged as the stable one: {}", String::from_utf8_lossy(&answer.body));
}
