//! What a node may do: what concerns itself and the pods that run on it, and nothing else.

use client::Identity;
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
        let api = ApiHarness::start().await;
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
