//! DefaultIngressClass: an Ingress that names no class gets the default one.
//!
//! Source: Kubernetes `plugin/pkg/admission/network/defaultingressclass`.

use async_trait::async_trait;
use meta::{ApiError, Object};
use serde_json::json;

use crate::{
    admission::{AdmissionPlugin, Attributes, Operation, Step, storage::newest_default},
    core::Core,
};

/// The plug-in.
pub struct DefaultIngressClass;

#[async_trait]
impl AdmissionPlugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }
    fn steps(&self) -> &'static [Step] {
        &[Step::Admit]
    }
    async fn admit(&self, core: &Core, attributes: &Attributes<'_>, object: Option<&mut Object>, _old: Option<&Object>) -> Result<(), ApiError> {
        let concerns = attributes.operation == Operation::Create && attributes.is_about("networking.k8s.io", "ingresses");
        let Some(ingress) = object.filter(|_| concerns) else { return Ok(()) };
        let names_one = ingress.text(&["spec", "ingressClassName"]).is_some() || ingress.text(&["metadata", "annotations", "kubernetes.io/ingress.class"]).is_some();
        if names_one {
            return Ok(());
        }
        if let Some(name) = newest_default(core, "ingressclasses.networking.k8s.io", &["ingressclass.kubernetes.io/is-default-class"]) {
            ingress.set(&["spec", "ingressClassName"], json!(name));
        }
        Ok(())
    }
}
