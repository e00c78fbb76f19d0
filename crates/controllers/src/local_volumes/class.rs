//! The class `local-path`: every start makes it where it is missing. Whoever wants another default takes the mark from it.

use std::sync::Arc;

use async_trait::async_trait;
use client::{Api, Informer, ObjectKey, PostParams};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Runner, Trigger};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{CONTROLLER, PROVISIONER};
use crate::ControllerContext;
use crate::persistent_volumes::{DEFAULT_CLASS, annotation};

const NAME: &str = "local-path";

/// Makes the class.
pub(super) fn start(context: &ControllerContext, runner: &Runner) {
    runner.start(FirstClass { client: context.client(CONTROLLER), classes: context.informers.of() }, 1);
}

struct FirstClass {
    client: client::Client,
    classes: Informer<StorageClass>,
}

/// The class; the default one unless another is.
fn class(others: &[Arc<StorageClass>]) -> StorageClass {
    let is_default = !others.iter().any(|other| annotation(&other.metadata, DEFAULT_CLASS) == Some("true"));
    StorageClass {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            annotations: is_default.then(|| [(DEFAULT_CLASS.to_owned(), "true".to_owned())].into()),
            ..ObjectMeta::default()
        },
        provisioner: PROVISIONER.to_owned(),
        reclaim_policy: Some("Delete".to_owned()),
        volume_binding_mode: Some("WaitForFirstConsumer".to_owned()),
        allow_volume_expansion: Some(true),
        ..StorageClass::default()
    }
}

#[async_trait]
impl Reconciler for FirstClass {
    fn name(&self) -> &'static str {
        "local-volume-class"
    }

    fn triggers(&self) -> Vec<Trigger> {
        // Once per start, not on every change: a user may remove the class.
        vec![Trigger::reads(&self.classes), Trigger::custom(|queue| queue.add(ObjectKey::cluster(NAME)))]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        if self.classes.get(key).is_some() {
            return Ok(Outcome::Settled);
        }
        match Api::<StorageClass>::all(self.client.clone()).create(&PostParams::default(), &class(&self.classes.list())).await {
            Err(error) if client::is_already_exists(&error) => Ok(Outcome::Settled),
            other => other.map(|_| Outcome::Settled).doing(|| format!("create the storage class {NAME}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_is_the_default_unless_another_one_is() {
        let first = class(&[]);
        assert_eq!(annotation(&first.metadata, DEFAULT_CLASS), Some("true"));
        assert_eq!(annotation(&class(&[Arc::new(first)]).metadata, DEFAULT_CLASS), None);
    }
}
