//! DefaultStorageClass and PersistentVolumeClaimResize: claims that name no class get the default one, and only claims of a
//! class that allows it may grow.
//!
//! Source: Kubernetes `plugin/pkg/admission/storage`.

use async_trait::async_trait;
use meta::{ApiError, Object, quantity::Quantity};
use serde_json::{Value, json};

use crate::{
    admission::{AdmissionPlugin, Attributes, Operation, Step},
    core::Core,
};

const CLASSES: &str = "storageclasses.storage.k8s.io";

/// The plug-in that chooses classes.
pub struct DefaultStorageClass;

/// Whether an object says that it is the default of its kind, in the annotation for that.
pub(super) fn is_default(object: &Object, annotations: &[&str]) -> bool {
    annotations.iter().any(|name| object.text(&["metadata", "annotations", name]) == Some("true"))
}

/// The newest of the default objects of a resource; of those made at once, the first by name.
pub(super) fn newest_default(core: &Core, resource: &str, annotations: &[&str]) -> Option<String> {
    let mut found: Vec<Object> =
        core.view.snapshot(&core.view_named(resource)).range("", None).filter_map(|stored| stored.object().ok()).filter(|object| is_default(object, annotations)).collect();
    let created = |object: &Object| object.text(&["metadata", "creationTimestamp"]).unwrap_or_default().to_owned();
    found.sort_by(|one, other| created(other).cmp(&created(one)).then_with(|| one.name().cmp(other.name())));
    found.first().map(|object| object.name().to_owned())
}

#[async_trait]
impl AdmissionPlugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }
    fn steps(&self) -> &'static [Step] {
        &[Step::Admit]
    }
    async fn admit(&self, core: &Core, attributes: &Attributes<'_>, object: Option<&mut Object>, _old: Option<&Object>) -> Result<(), ApiError> {
        let concerns = attributes.operation == Operation::Create && attributes.is_about("", "persistentvolumeclaims");
        let Some(claim) = object.filter(|_| concerns) else { return Ok(()) };
        // An empty name is a choice, too: a volume without a class.
        let names_one = claim.get(&["spec", "storageClassName"]).is_some_and(|name| !name.is_null())
            || claim.get(&["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]).is_some();
        if names_one {
            return Ok(());
        }
        let annotations = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
        if let Some(name) = newest_default(core, CLASSES, &annotations) {
            claim.set(&["spec", "storageClassName"], json!(name));
        }
        Ok(())
    }
}

/// The plug-in that sees to growing claims.
pub struct PersistentVolumeClaimResize;

fn size(claim: &Object) -> Option<Quantity> {
    Quantity::parse(claim.text(&["spec", "resources", "requests", "storage"])?).ok()
}

#[async_trait]
impl AdmissionPlugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }
    fn steps(&self) -> &'static [Step] {
        &[Step::Validate]
    }
    async fn validate(&self, core: &Core, attributes: &Attributes<'_>, object: Option<&Object>, old: Option<&Object>) -> Result<(), ApiError> {
        if attributes.operation != Operation::Update || !attributes.is_about("", "persistentvolumeclaims") {
            return Ok(());
        }
        let (Some(new), Some(old)) = (object, old) else { return Ok(()) };
        let (Some(wanted), Some(present)) = (size(new), size(old)) else { return Ok(()) };
        if wanted.sub(&present).signum() <= 0 || old.text(&["status", "phase"]) != Some("Bound") {
            return Ok(());
        }
        let class = new.text(&["spec", "storageClassName"]).unwrap_or_default();
        let allows = core.view_named(CLASSES).get(class).and_then(|stored| stored.object().ok());
        if allows.is_some_and(|class| class.get(&["allowVolumeExpansion"]) == Some(&Value::Bool(true))) {
            return Ok(());
        }
        Err(attributes.forbidden("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_says_so() {
        let object = |value: &str| Object::from_value(json!({"metadata": {"annotations": {"a": value}}})).unwrap();
        assert!(is_default(&object("true"), &["b", "a"]));
        assert!(!is_default(&object("false"), &["a"]) && !is_default(&object("true"), &["b"]));
    }
}
