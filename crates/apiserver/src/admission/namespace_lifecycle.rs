//! NamespaceLifecycle: nothing is made in a namespace that does not exist or is going, and the ones the cluster lives by
//! cannot be deleted.
//!
//! Source: Kubernetes `apiserver/pkg/admission/plugin/namespace/lifecycle`.

use async_trait::async_trait;
use meta::{ApiError, GroupResource, Object};
use serde::Deserialize;

use crate::{
    admission::{AdmissionPlugin, Attributes, Operation, Step},
    core::Core,
};

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// What of a namespace says whether it is going. Read by itself, since every create asks.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Lifecycle {
    metadata: LifecycleMetadata,
    status: Option<LifecycleStatus>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct LifecycleMetadata {
    deletion_timestamp: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct LifecycleStatus {
    phase: Option<String>,
}

impl Lifecycle {
    fn is_terminating(&self) -> bool {
        self.metadata.deletion_timestamp.is_some() || self.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Terminating")
    }
}

/// The plug-in.
pub struct NamespaceLifecycle;

#[async_trait]
impl AdmissionPlugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }
    fn steps(&self) -> &'static [Step] {
        &[Step::Admit]
    }
    async fn admit(&self, core: &Core, attributes: &Attributes<'_>, _object: Option<&mut Object>, _old: Option<&Object>) -> Result<(), ApiError> {
        let info = attributes.kind.info();
        let is_namespace = info.kind.group.is_empty() && &*info.plural == "namespaces";
        if attributes.operation == Operation::Delete && is_namespace && IMMORTAL.contains(&attributes.name) {
            return Err(ApiError::forbidden(&info.group_resource(), attributes.name, "this namespace may not be deleted"));
        }
        if attributes.operation != Operation::Create || !info.namespaced || attributes.namespace.is_empty() {
            return Ok(());
        }
        // A review only asks; it leaves nothing behind.
        if &*info.plural == "localsubjectaccessreviews" {
            return Ok(());
        }
        let Some(stored) = core.view_named("namespaces").get(attributes.namespace) else {
            return Err(ApiError::not_found(&GroupResource::new("", "namespaces"), attributes.namespace));
        };
        if stored.typed::<Lifecycle>().map_err(ApiError::internal)?.is_terminating() {
            let why = format!("unable to create new content in namespace {} because it is being terminated", attributes.namespace);
            return Err(ApiError::forbidden(&info.group_resource(), attributes.name, why).with_cause(
                "NamespaceTerminating",
                format!("namespace {} is being terminated", attributes.namespace),
                "metadata.namespace",
            ));
        }
        Ok(())
    }
}
