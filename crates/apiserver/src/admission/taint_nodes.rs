//! TaintNodesByCondition: a new node takes no pods before it is known to be ready. The node lifecycle controller removes the
//! taint then.
//!
//! Source: Kubernetes `plugin/pkg/admission/nodetaint`.

use async_trait::async_trait;
use meta::{ApiError, Object};
use serde_json::{Value, json};

use crate::{
    admission::{AdmissionPlugin, Attributes, Operation, Step},
    core::Core,
};

const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// The plug-in.
pub struct TaintNodesByCondition;

#[async_trait]
impl AdmissionPlugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }
    fn steps(&self) -> &'static [Step] {
        &[Step::Admit]
    }
    async fn admit(&self, _core: &Core, attributes: &Attributes<'_>, object: Option<&mut Object>, _old: Option<&Object>) -> Result<(), ApiError> {
        let concerns = attributes.operation == Operation::Create && attributes.is_about("", "nodes");
        let Some(node) = object.filter(|_| concerns) else { return Ok(()) };
        let mut taints = node.get(&["spec", "taints"]).and_then(Value::as_array).cloned().unwrap_or_default();
        let text = |taint: &Value, name: &str| taint.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        if !taints.iter().any(|taint| text(taint, "key") == NOT_READY && text(taint, "effect") == "NoSchedule") {
            taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
            node.set(&["spec", "taints"], Value::Array(taints));
        }
        Ok(())
    }
}
