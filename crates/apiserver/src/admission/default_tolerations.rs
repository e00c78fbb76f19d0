//! DefaultTolerationSeconds: pods stay five minutes on a node that is not ready or cannot be reached, unless they say
//! otherwise.
//!
//! Source: Kubernetes `plugin/pkg/admission/defaulttolerationseconds`.

use async_trait::async_trait;
use meta::{ApiError, Object};
use serde_json::{Value, json};

use crate::{
    admission::{AdmissionPlugin, Attributes, Operation, Step},
    core::Core,
};

/// How long pods stay.
const SECONDS: i64 = 300;

/// The plug-in.
pub struct DefaultTolerationSeconds;

fn tolerates(toleration: &Value, taint: &str) -> bool {
    let text = |name: &str| toleration.get(name).and_then(Value::as_str).unwrap_or_default();
    (text("key") == taint || text("key").is_empty()) && matches!(text("effect"), "" | "NoExecute")
}

#[async_trait]
impl AdmissionPlugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }
    fn steps(&self) -> &'static [Step] {
        &[Step::Admit]
    }
    async fn admit(&self, _core: &Core, attributes: &Attributes<'_>, object: Option<&mut Object>, _old: Option<&Object>) -> Result<(), ApiError> {
        let info = attributes.kind.info();
        if !info.kind.group.is_empty() || &*info.plural != "pods" || !attributes.subresource.is_empty() || attributes.operation != Operation::Create {
            return Ok(());
        }
        let Some(pod) = object else { return Ok(()) };
        let mut tolerations = pod.get(&["spec", "tolerations"]).and_then(Value::as_array).cloned().unwrap_or_default();
        let before = tolerations.len();
        for taint in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
            if !tolerations.iter().any(|toleration| tolerates(toleration, taint)) {
                tolerations.push(json!({"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS}));
            }
        }
        if tolerations.len() != before {
            pod.set(&["spec", "tolerations"], Value::Array(tolerations));
        }
        Ok(())
    }
}
