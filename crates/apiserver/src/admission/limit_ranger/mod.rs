//! LimitRanger: containers get the namespace's default requests and limits, and pods, containers and claims stay within its
//! bounds.
//!
//! [`defaults`] fills in, [`bounds`] refuses. Source: Kubernetes `plugin/pkg/admission/limitranger/admission.go`.

mod bounds;
mod defaults;

use std::sync::Arc;

use api::core::v1::{LimitRange, LimitRangeItem};
use async_trait::async_trait;
use meta::{ApiError, Object, quantity::Quantity};
use serde_json::json;

use crate::{
    admission::{AdmissionPlugin, Attributes, Operation},
    core::Core,
};

/// The plug-in.
pub struct LimitRanger;

type Written = std::collections::BTreeMap<String, api::apimachinery::pkg::api::resource::Quantity>;

fn amount(list: Option<&Written>, name: &str) -> Option<Quantity> {
    Quantity::parse(&list?.get(name)?.0).ok()
}

/// Every item of every LimitRange of a namespace.
fn items(core: &Core, namespace: &str) -> Result<Vec<LimitRangeItem>, ApiError> {
    let view = core.view_named("limitranges");
    if view.is_empty() {
        return Ok(Vec::new());
    }
    let mut items = Vec::new();
    for stored in core.view.snapshot(&view).range(&format!("{namespace}/"), None).map(Arc::clone) {
        let range: LimitRange = stored.typed().map_err(ApiError::internal)?;
        items.extend(range.spec.into_iter().flat_map(|spec| spec.limits));
    }
    Ok(items)
}

/// Pods when they are made, claims also when they are changed.
fn concerns(attributes: &Attributes<'_>) -> bool {
    match attributes.operation {
        Operation::Create => attributes.is_about("", "pods") || attributes.is_about("", "persistentvolumeclaims"),
        Operation::Update => attributes.is_about("", "persistentvolumeclaims"),
        _ => false,
    }
}

#[async_trait]
impl AdmissionPlugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }
    async fn admit(&self, core: &Core, attributes: &Attributes<'_>, object: Option<&mut Object>, _old: Option<&Object>) -> Result<(), ApiError> {
        let Some(pod) = object else { return Ok(()) };
        if attributes.operation != Operation::Create || !attributes.is_about("", "pods") {
            return Ok(());
        }
        let items = items(core, attributes.namespace)?;
        let told = defaults::fill(&items, pod);
        if !told.is_empty() {
            let words = format!("LimitRanger plugin set: {}", told.join("; "));
            pod.set(&["metadata", "annotations", "kubernetes.io/limit-ranger"], json!(words));
        }
        Ok(())
    }
    async fn validate(&self, core: &Core, attributes: &Attributes<'_>, object: Option<&Object>, _old: Option<&Object>) -> Result<(), ApiError> {
        let Some(object) = object else { return Ok(()) };
        if !concerns(attributes) {
            return Ok(());
        }
        let items = items(core, attributes.namespace)?;
        if items.is_empty() {
            return Ok(());
        }
        let problems = if attributes.is_about("", "pods") {
            bounds::of_pod(&items, &object.decode().map_err(ApiError::internal)?)
        } else {
            bounds::of_claim(&items, &object.decode().map_err(ApiError::internal)?)
        };
        match problems.as_slice() {
            [] => Ok(()),
            [only] => Err(attributes.forbidden(only)),
            // As Go shows several errors in one.
            several => Err(attributes.forbidden(format!("[{}]", several.join(", ")))),
        }
    }
}
