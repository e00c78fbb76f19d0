//! What a node may do: what concerns itself and the pods that run on it, and nothing else.

use base64::{Engine, engine::general_purpose::STANDARD};
use client::Identity;
use kinds::RuntimeConfig;
use serde_json::{Value, json};
use testkit::{ApiHarness, Caller};

const NAMESPACE: &str = "/api/v1/namespaces/default";

struct Cluster {
    api: ApiHarness,
    administrator: Caller,
}

impl Cluster {
    /// Two nodes; the pod `own` runs on the first and uses the secret `used`.
    async fn start() -> Self {
        let api = ApiHarness::start_with(|parts| parts.runtime_config = RuntimeConfig::parse("certificates.k8s.io/v1beta1=true").unwrap()).await;
        let administrator = api.administrator();
        administrator.post(&format!("{NAMESPACE}/serviceaccounts"), &json!({"metadata": {"name": "default"}})).await.expect(201);
        for name in ["a", "b"] {
            administrator.post("/api/v1/nodes", &json!({"metadata": {"name": name}})).await.expect(201);
        }
        for name in ["used", "unused"] {
            administrator.post(&format!("{NAMESPACE}/secrets"), &json!({"metadata": {"name": name}})).await.expect(201);
        }
        for (name, node) in [("own", "a"), ("other", "b")] {
            let volume = json!({"name": "v", "secret": {"secretName": "used"}});
            let spec = json!({"nodeName": node, "containers": [{"name": "c", "image": "i"}], "volumes": if name == "own" { json!([volume]) } else { json!([]) }});
            administrator.post(&format!("{NAMESPACE}/pods"), &json!({"metadata": {"name": name}, "spec": spec})).await.expect(201);
        }
        Self { api, administrator }
    }

    fn node(&self, name: &str) -> Caller {
        self.api.caller(Identity::node(name))
    }
}

#[track_caller]
fn because(answer: &Value, words: &str) {
    let message = answer["message"].as_str().unwrap_or_default();
    assert!(message.contains(words), "{message}");
}

#[tokio::test]
async fn a_node_sees_secrets_of_its_own_pods_only() {
    let cluster = Cluster::start().await;
    let (own, other) = (cluster.node("a"), cluster.node("b"));
    own.get(&format!("{NAMESPACE}/secrets/used")).await.expect(200);
    own.get(&format!("{NAMESPACE}/secrets?fieldSelector=metadata.name%3Dused")).await.expect(200);
    because(&own.get(&format!("{NAMESPACE}/secrets/unused")).await.expect(403), "no relationship found between node 'a' and this object");
    other.get(&format!("{NAMESPACE}/secrets/used")).await.expect(403);
    own.get(&format!("{NAMESPACE}/secrets")).await.expect(403);
    own.get("/api/v1/secrets").await.expect(403);
    own.get("/api/v1/configmaps").await.expect(403);
    own.get("/api/v1/pods?fieldSelector=spec.nodeName%3Da").await.expect(200);
    // All pods too, since its packet filter must know the peers that network policies name.
    own.get("/api/v1/pods").await.expect(200);
    own.get("/api/v1/services").await.expect(200);
}

#[tokio::test]
async fn a_node_writes_its_own_objects_only() {
    let cluster = Cluster::start().await;
    let node = cluster.node("a");
    let status = json!({"status": {"phase": "Running"}});
    node.patch(&format!("{NAMESPACE}/pods/own/status"), "merge-patch", &status).await.expect(200);
    because(
        &node.patch(&format!("{NAMESPACE}/pods/other/status"), "merge-patch", &status).await.expect(403),
        "node \"a\" can only update pod status for pods with spec.nodeName set to itself",
    );
    because(&node.delete(&format!("{NAMESPACE}/pods/other")).await.expect(403), "node \"a\" can only delete pods with spec.nodeName set to itself");
    node.delete(&format!("{NAMESPACE}/pods/own")).await.expect(200);
    let conditions = json!({"status": {"conditions": []}});
    node.patch("/api/v1/nodes/a/status", "merge-patch", &conditions).await.expect(200);
    because(&node.patch("/api/v1/nodes/b/status", "merge-patch", &conditions).await.expect(403), "node \"a\" is not allowed to modify node \"b\"");
    because(&node.patch("/api/v1/nodes/a", "merge-patch", &json!({"spec": {"taints": []}})).await.expect(403), "is not allowed to modify taints");
    let label = |name: &str| json!({"metadata": {"labels": {name: ""}}});
    node.patch("/api/v1/nodes/a", "merge-patch", &label("topology.kubernetes.io/zone")).await.expect(200);
    because(&node.patch("/api/v1/nodes/a", "merge-patch", &label("node-role.kubernetes.io/control-plane")).await.expect(403), "is not allowed to modify labels");
    let lease = |name: &str| json!({"metadata": {"name": name}, "spec": {"holderIdentity": "a"}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    node.post(leases, &lease("a")).await.expect(201);
    node.post(leases, &lease("b")).await.expect(403);
    let pod = json!({"metadata": {"name": "planted"}, "spec": {"nodeName": "a", "containers": [{"name": "c", "image": "i"}]}});
    because(&node.post(&format!("{NAMESPACE}/pods"), &pod).await.expect(403), "can only create mirror pods");
    cluster.administrator.get(&format!("{NAMESPACE}/pods/other")).await.expect(200);
}

/// What a pod of a node refers to, that node may read: so it must not make pods that refer to things, nor claims by a pod's status.
#[tokio::test]
async fn a_node_opens_no_objects_to_itself() {
    let cluster = Cluster::start().await;
    let node = cluster.node("a");
    let uid = cluster.administrator.get("/api/v1/nodes/a").await.expect(200)["metadata"]["uid"].clone();
    let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "a", "uid": uid, "controller": true});
    let mirror = |owners: Value, spec: Value| {
        let mut pod = json!({
            "metadata": {"name": "planted", "annotations": {"kubernetes.io/config.mirror": "x"}, "ownerReferences": owners},
            "spec": {"nodeName": "a", "containers": [{"name": "c", "image": "i"}]},
        });
        for (field, value) in spec.as_object().unwrap() {
            pod["spec"][field] = value.clone();
        }
        pod
    };
    let projected = |source: Value| json!({"volumes": [{"name": "v", "projected": {"sources": [source]}}]});
    let in_container = |field: &str, value: Value| json!({"containers": [{"name": "c", "image": "i", field: value}]});
    for (spec, words) in [
        (json!({"imagePullSecrets": [{"name": "unused"}]}), "reference secrets"),
        (json!({"volumes": [{"name": "v", "secret": {"secretName": "unused"}}]}), "reference secrets"),
        (projected(json!({"secret": {"name": "unused"}})), "reference secrets"),
        (in_container("envFrom", json!([{"secretRef": {"name": "unused"}}])), "reference secrets"),
        (json!({"volumes": [{"name": "v", "configMap": {"name": "m"}}]}), "reference configmaps"),
        (projected(json!({"configMap": {"name": "m"}})), "reference configmaps"),
        (in_container("env", json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}])), "reference configmaps"),
        (projected(json!({"clusterTrustBundle": {"name": "b", "path": "p"}})), "reference clustertrustbundles"),
        (json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}), "reference persistentvolumeclaims"),
        (json!({"resourceClaims": [{"name": "r", "resourceClaimName": "c"}]}), "reference resourceclaims"),
    ] {
        let answer = node.post(&format!("{NAMESPACE}/pods"), &mirror(json!([owner]), spec.clone())).await;
        assert_eq!(answer.status, 403, "{spec}: {}", answer.text());
        because(&answer.json(), &format!("node \"a\" can not create pods that {words}"));
    }
    node.post(&format!("{NAMESPACE}/pods"), &mirror(json!([owner]), json!({"serviceAccountName": "default"}))).await.expect(403);
    for (owners, words) in [
        (json!([]), "with an owner reference set to itself"),
        (json!([owner, owner]), "with a single owner reference set to itself"),
        (json!([{"apiVersion": "v1", "kind": "Node", "name": "a", "uid": uid}]), "with a controller owner reference set to itself"),
        (json!([{"apiVersion": "v1", "kind": "Node", "name": "a", "uid": "another", "controller": true}]), "UID mismatch"),
        (json!([{"apiVersion": "v1", "kind": "Node", "name": "b", "uid": uid, "controller": true}]), "with an owner reference set to itself"),
    ] {
        let answer = node.post(&format!("{NAMESPACE}/pods"), &mirror(owners.clone(), json!({}))).await;
        assert_eq!(answer.status, 403, "{owners}: {}", answer.text());
        because(&answer.json(), words);
    }
    let claims = json!({"status": {"resourceClaimStatuses": [{"name": "r", "resourceClaimName": "somebody-elses"}]}});
    because(&node.patch(&format!("{NAMESPACE}/pods/own/status"), "merge-patch", &claims).await.expect(403), "cannot update resource claim statues");
    node.post(&format!("{NAMESPACE}/pods"), &mirror(json!([owner]), json!({}))).await.expect(201);
}

#[tokio::test]
async fn a_node_says_of_a_claim_only_how_large_it_is() {
    let cluster = Cluster::start().await;
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    cluster.administrator.post(&format!("{NAMESPACE}/persistentvolumeclaims"), &claim).await.expect(201);
    let spec = json!({"nodeName": "a", "containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]});
    cluster.administrator.post(&format!("{NAMESPACE}/pods"), &json!({"metadata": {"name": "user"}, "spec": spec})).await.expect(201);
    let (node, status) = (cluster.node("a"), format!("{NAMESPACE}/persistentvolumeclaims/data/status"));
    because(&node.patch(&status, "merge-patch", &json!({"status": {"phase": "Bound"}})).await.expect(403), "is not allowed to update fields other than status.capacity and status.conditions");
    node.patch(&status, "merge-patch", &json!({"status": {"capacity": {"storage": "1Gi"}}})).await.expect(200);
}

#[tokio::test]
async fn a_node_removes_no_devices_of_other_nodes() {
    let cluster = Cluster::start().await;
    let slices = "/apis/resource.k8s.io/v1/resourceslices";
    for name in ["a", "b"] {
        let spec = json!({"driver": "d.example.com", "nodeName": name, "pool": {"name": "p", "resourceSliceCount": 1, "generation": 1}});
        cluster.administrator.post(slices, &json!({"metadata": {"name": name}, "spec": spec})).await.expect(201);
    }
    let node = cluster.node("a");
    because(&node.delete(slices).await.expect(403), "can only list/watch/deletecollection resourceslices with spec.nodeName field selector");
    node.get(slices).await.expect(403);
    node.get(&format!("{slices}/b")).await.expect(403);
    node.get(&format!("{slices}/a")).await.expect(200);
    node.get(&format!("{slices}?fieldSelector=spec.nodeName%3Da")).await.expect(200);
    node.delete(&format!("{slices}?fieldSelector=spec.nodeName%3Da")).await.expect(200);
    cluster.administrator.get(&format!("{slices}/b")).await.expect(200);
    cluster.administrator.get(&format!("{slices}/a")).await.expect(404);
    let slice = |node: &str| json!({"metadata": {"name": "new"}, "spec": {"driver": "d.example.com", "nodeName": node, "pool": {"name": "q", "resourceSliceCount": 1, "generation": 1}}});
    because(&node.post(slices, &slice("b")).await.expect(403), "can only create ResourceSlice with the same NodeName as the requesting node");
    node.post(slices, &slice("a")).await.expect(201);
}

#[tokio::test]
async fn a_node_asks_for_certificates_of_its_own_pods_as_they_are() {
    let cluster = Cluster::start().await;
    let node = cluster.node("a");
    let administrator = &cluster.administrator;
    let mut uids = Vec::new();
    for path in ["/api/v1/nodes/a".to_owned(), format!("{NAMESPACE}/pods/own"), format!("{NAMESPACE}/pods/other"), format!("{NAMESPACE}/serviceaccounts/default")] {
        uids.push(administrator.get(&path).await.expect(200)["metadata"]["uid"].as_str().unwrap().to_owned());
    }
    let [node_uid, own, other, account] = uids.try_into().unwrap();
    let requests = "/apis/certificates.k8s.io/v1beta1/namespaces/default/podcertificaterequests";
    let request = |change: &dyn Fn(&mut Value)| {
        let stub = STANDARD.encode(pki::PodKey::generate("ECDSAP256").unwrap().stub_request());
        let mut spec = json!({
            "signerName": "example.com/s", "podName": "own", "podUID": own, "serviceAccountName": "default", "serviceAccountUID": account,
            "nodeName": "a", "nodeUID": node_uid, "maxExpirationSeconds": 3600, "stubPKCS10Request": stub,
        });
        change(&mut spec);
        json!({"metadata": {"generateName": "req-"}, "spec": spec})
    };
    let made = node.post(requests, &request(&|_| {})).await.expect(201);
    let refused = async |change: &dyn Fn(&mut Value), words: &str| because(&node.post(requests, &request(change)).await.expect(403), words);
    refused(&|spec| spec["nodeName"] = "b".into(), "PodCertificateRequest.Spec.NodeName=\"b\", which is not the requesting node \"a\"").await;
    refused(&|spec| spec["nodeUID"] = "x".into(), "differs from that of node \"a\"").await;
    refused(&|spec| spec["podName"] = "none".into(), "pod \"none\" not found").await;
    refused(&|spec| spec["podUID"] = "x".into(), "contains pod UID (x) that differs from running pod").await;
    refused(&|spec| { spec["podName"] = "other".into(); spec["podUID"] = other.clone().into(); }, "pod \"other\" is not running on node \"a\"").await;
    refused(&|spec| spec["serviceAccountName"] = "robot".into(), "contains serviceAccountName (\"robot\") that differs from running pod").await;
    refused(&|spec| spec["serviceAccountUID"] = "x".into(), "contains serviceAccountUID (x) that differs from service account").await;
    // It follows its own, and does not answer them itself.
    let name = made["metadata"]["name"].as_str().unwrap();
    node.get(&format!("{requests}/{name}")).await.expect(200);
    node.get("/apis/certificates.k8s.io/v1beta1/podcertificaterequests?fieldSelector=spec.nodeName%3Da").await.expect(200);
    because(&node.get(requests).await.expect(403), "can only list/watch podcertificaterequests with spec.nodeName field selector");
    cluster.node("b").get(&format!("{requests}/{name}")).await.expect(403);
    let denial = json!({"status": {"conditions": [{"type": "Denied", "status": "True", "reason": "No", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    because(&node.patch(&format!("{requests}/{name}/status"), "merge-patch", &denial).await.expect(403), "nodes may not access the \"status\" subresource");
}
