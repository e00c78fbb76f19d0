//! StorageObjectInUseProtection: claims and volumes get a finalizer, so that none goes while it is used. The controllers
//! that know when it is not take the finalizer away.
//!
//! Source: Kubernetes `plugin/pkg/admission/storage/storageobjectinuseprotection`.

use async_trait::async_trait;
use meta::{ApiError, Object};
use serde_json::json;

use crate::{
    admission::{AdmissionPlugin, Attributes, Operation, Step},
    core::Core,
};

/// The plug-in.
pub struct StorageObjectInUseProtection;

#[async_trait]
impl AdmissionPlugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }
    fn steps(&self) -> &'static [Step] {
        &[Step::Admit]
    }
    async fn admit(&self, _core: &Core, attributes: &Attributes<'_>, object: Option<&mut Object>, _old: Option<&Object>) -> Result<(), ApiError> {
        let finalizer = match attributes.operation {
            Operation::Create if attributes.is_about("", "persistentvolumeclaims") => "kubernetes.io/pvc-protection",
            Operation::Create if attributes.is_about("", "persistentvolumes") => "kubernetes.io/pv-protection",
            _ => return Ok(()),
        };
        let Some(object) = object else { return Ok(()) };
        let mut finalizers: Vec<String> = object.finalizers().into_iter().map(str::to_owned).collect();
        if !finalizers.iter().any(|known| known == finalizer) {
            finalizers.push(finalizer.to_owned());
            object.set(&["metadata", "finalizers"], json!(finalizers));
        }
        Ok(())
    }
}
