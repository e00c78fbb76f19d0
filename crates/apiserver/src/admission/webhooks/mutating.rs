//! MutatingAdmissionWebhook: webhooks that may change the object, one after the other; each sees what the one before made.

use std::time::Instant;

use async_trait::async_trait;
use meta::{ApiError, Object};
use serde_json::Value;

use crate::{
    admission::{
        AdmissionPlugin, Attributes, Step,
        webhooks::{ask, configuration::Webhooks, matching, review},
    },
    core::Core,
};

/// The plug-in.
pub struct MutatingAdmissionWebhook {
    webhooks: Webhooks,
}

impl Default for MutatingAdmissionWebhook {
    fn default() -> Self {
        Self { webhooks: Webhooks::of("mutatingwebhookconfigurations.admissionregistration.k8s.io") }
    }
}

/// Applies what a webhook wants changed; whether that is anything.
fn apply(attributes: &Attributes<'_>, asked: &matching::Asked, patch: &Value, object: &mut Object) -> Result<bool, ApiError> {
    let name = &asked.webhook.name;
    let failed = |why: String| ApiError::internal(format!("failed applying the patch of webhook {name:?}: {why}"));
    let before = review::seen_as(attributes, asked, object).map_err(failed)?;
    let mut value = Value::Object(before.0.clone());
    meta::patch::json_patch(&mut value, patch).map_err(|error| ApiError::internal(error.message))?;
    if Value::Object(before.0) == value {
        return Ok(false);
    }
    let changed = if attributes.subresource.is_empty() {
        // What the schema does not know is dropped, as from anybody else's object.
        meta::read::normalise_value(value, asked.kind.schema()).map_err(|error| failed(error.to_string()))?.object
    } else {
        Object::from_value(value).map_err(|_| failed("the result is no object".to_owned()))?
    };
    *object = review::taken_back(attributes, asked, changed).map_err(failed)?;
    if attributes.subresource.is_empty() {
        attributes.kind.default(object).map_err(failed)?;
    }
    Ok(true)
}

#[async_trait]
impl AdmissionPlugin for MutatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        "MutatingAdmissionWebhook"
    }
    fn steps(&self) -> &'static [Step] {
        &[Step::Admit]
    }
    async fn admit(&self, core: &Core, attributes: &Attributes<'_>, mut object: Option<&mut Object>, old: Option<&Object>) -> Result<(), ApiError> {
        let webhooks = self.webhooks.now(core);
        if webhooks.is_empty() || matching::is_exempt(attributes.kind.as_ref()) {
            return Ok(());
        }
        attributes.reinvocation.lock().enter(object.as_deref());
        for webhook in webhooks.iter() {
            if !attributes.reinvocation.lock().asks(&webhook.id) {
                continue;
            }
            let Some(asked) = matching::asked(core, attributes, webhook, object.as_deref(), old) else { continue };
            let began = Instant::now();
            let answer = ask(core, attributes, Step::Admit, &asked, object.as_deref(), old).await;
            attributes.context.aside.waited(began.elapsed());
            let Some(verdict) = answer? else { continue };
            if let Some(refusal) = verdict.refusal {
                return Err(review::refusal(&webhook.name, &refusal));
            }
            let changed = match (&verdict.patch, object.as_deref_mut()) {
                (Some(patch), Some(object)) => apply(attributes, &asked, patch, object)?,
                _ => false,
            };
            attributes.reinvocation.lock().asked(&webhook.id, changed, webhook.again_if_needed);
        }
        attributes.reinvocation.lock().leave(object.as_deref());
        Ok(())
    }
}
