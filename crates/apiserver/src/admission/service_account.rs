//! ServiceAccount: every pod has an account that exists, and gets its token, the cluster's authority and its namespace as
//! files, unless it or its account does not want them.
//!
//! Source: Kubernetes `plugin/pkg/admission/serviceaccount`.

use std::time::Duration;

use async_trait::async_trait;
use meta::{ApiError, Object};
use serde_json::{Value, json};

use crate::{
    admission::{AdmissionPlugin, Attributes, Operation, Step},
    core::Core,
    handler::write::generated_name,
};

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// How long a pod that comes together with its new namespace waits for the account that a controller makes there.
const WAIT: Duration = Duration::from_secs(2);

/// The plug-in.
pub struct ServiceAccount;

async fn account(core: &Core, namespace: &str, name: &str) -> Option<Object> {
    let view = core.view_named("serviceaccounts");
    let key = format!("{namespace}/{name}");
    let mut changes = view.changes();
    let deadline = tokio::time::Instant::now() + WAIT;
    loop {
        changes.mark_unchanged();
        if let Some(stored) = view.get(&key) {
            return stored.object().ok();
        }
        // Only the default account appears by itself.
        if name != "default" || tokio::time::timeout_at(deadline, changes.changed()).await.is_err() {
            return None;
        }
    }
}

fn wants_token(pod: &Object, account: &Object) -> bool {
    let flag = |value: Option<&Value>| value.and_then(Value::as_bool);
    flag(pod.get(&["spec", "automountServiceAccountToken"])).or_else(|| flag(account.get(&["automountServiceAccountToken"]))).unwrap_or(true)
}

fn token_volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 420,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
            ],
        },
    })
}

fn mount_token(pod: &mut Object) {
    let mut name: Option<String> = pod
        .get(&["spec", "volumes"])
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|volume| volume.get("name").and_then(Value::as_str))
        .find(|name| name.starts_with("kube-api-access-"))
        .map(str::to_owned);
    let existed = name.is_some();
    let volume = name.get_or_insert_with(|| generated_name("kube-api-access-")).clone();
    let mut used = false;
    for list in ["initContainers", "containers"] {
        let Some(containers) = pod.0.get_mut("spec").and_then(|spec| spec.get_mut(list)).and_then(Value::as_array_mut) else { continue };
        for container in containers.iter_mut().filter_map(Value::as_object_mut) {
            let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
            let Some(mounts) = mounts.as_array_mut() else { continue };
            if mounts.iter().any(|mount| mount.get("mountPath").and_then(Value::as_str) == Some(MOUNT_PATH)) {
                continue;
            }
            mounts.push(json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}));
            used = true;
        }
    }
    if used && !existed {
        let mut volumes = pod.get(&["spec", "volumes"]).and_then(Value::as_array).cloned().unwrap_or_default();
        volumes.push(token_volume(&volume));
        pod.set(&["spec", "volumes"], Value::Array(volumes));
    }
}

#[async_trait]
impl AdmissionPlugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }
    fn steps(&self) -> &'static [Step] {
        &[Step::Admit]
    }
    async fn admit(&self, core: &Core, attributes: &Attributes<'_>, object: Option<&mut Object>, _old: Option<&Object>) -> Result<(), ApiError> {
        let info = attributes.kind.info();
        if !info.kind.group.is_empty() || &*info.plural != "pods" || !attributes.subresource.is_empty() || attributes.operation != Operation::Create {
            return Ok(());
        }
        let Some(pod) = object else { return Ok(()) };
        let refuse = |why: String| Err(ApiError::forbidden(&info.group_resource(), attributes.name, why));
        if pod.get(&["metadata", "annotations", "kubernetes.io/config.mirror"]).is_some() {
            if pod.text(&["spec", "serviceAccountName"]).is_some_and(|name| !name.is_empty()) {
                return refuse("a mirror pod may not reference service accounts".to_owned());
            }
            return Ok(());
        }
        if pod.text(&["spec", "serviceAccountName"]).is_none_or(str::is_empty) {
            let older = pod.text(&["spec", "serviceAccount"]).filter(|name| !name.is_empty()).unwrap_or("default").to_owned();
            pod.set(&["spec", "serviceAccountName"], json!(older));
        }
        let name = pod.text(&["spec", "serviceAccountName"]).unwrap_or("default").to_owned();
        pod.set(&["spec", "serviceAccount"], json!(name));
        let Some(account) = account(core, attributes.namespace, &name).await else {
            return refuse(format!("error looking up service account {}/{name}: serviceaccount {name:?} not found", attributes.namespace));
        };
        if wants_token(pod, &account) {
            mount_token(pod);
        }
        let has_pull_secrets = pod.get(&["spec", "imagePullSecrets"]).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        if !has_pull_secrets && let Some(secrets) = account.get(&["imagePullSecrets"]) {
            pod.set(&["spec", "imagePullSecrets"], secrets.clone());
        }
        Ok(())
    }
}
