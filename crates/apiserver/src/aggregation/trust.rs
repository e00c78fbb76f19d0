//! The config map by which servers that join learn whom to believe: the authority of the front proxy and its headers, and the
//! authority of users' certificates; and the role that lets them read it.
//!
//! Source: Kubernetes `pkg/controlplane/controller/clusterauthenticationtrust`.

use std::sync::Arc;

use meta::ApiError;
use serde_json::json;

use super::FrontProxy;
use crate::{bootstrap, core::Core};

/// The common name in the front proxy's certificate.
pub const FRONT_PROXY_NAME: &str = "front-proxy-client";

/// The name of the config map, and the start of the role's.
const NAME: &str = "extension-apiserver-authentication";

/// Makes both, or brings the config map up to date.
///
/// # Errors
/// The first write that fails.
pub async fn publish(core: &Arc<Core>, front_proxy: &FrontProxy) -> Result<(), ApiError> {
    let data = json!({
        "client-ca-file": front_proxy.client_authority_pem,
        "requestheader-allowed-names": json!([FRONT_PROXY_NAME]).to_string(),
        "requestheader-client-ca-file": front_proxy.authority_pem,
        "requestheader-extra-headers-prefix": json!(["X-Remote-Extra-"]).to_string(),
        "requestheader-group-headers": json!(["X-Remote-Group"]).to_string(),
        "requestheader-uid-headers": json!(["X-Remote-Uid"]).to_string(),
        "requestheader-username-headers": json!(["X-Remote-User"]).to_string(),
    });
    let metadata = json!({"name": NAME, "namespace": "kube-system"});
    if !bootstrap::ensure(core, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})).await? {
        let kind = core.kind_named("", "v1", "ConfigMap")?;
        bootstrap::change(core, &kind, "kube-system", NAME, |map| map.set(&["data"], data.clone())).await?;
    }
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {
            "name": format!("{NAME}-reader"), "namespace": "kube-system",
            "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}, "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
        },
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [NAME], "verbs": ["get", "list", "watch"]}],
    });
    bootstrap::ensure(core, role).await.map(|_| ())
}
