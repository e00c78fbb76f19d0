//! ValidatingAdmissionWebhook: webhooks that may only refuse. All are asked at once.

use std::time::Instant;

use async_trait::async_trait;
use meta::{ApiError, Object};

use crate::{
    admission::{
        AdmissionPlugin, Attributes, Step,
        webhooks::{ask, configuration::Webhooks, matching, review},
    },
    core::Core,
};

/// The plug-in.
pub struct ValidatingAdmissionWebhook {
    webhooks: Webhooks,
}

impl Default for ValidatingAdmissionWebhook {
    fn default() -> Self {
        Self { webhooks: Webhooks::of("validatingwebhookconfigurations.admissionregistration.k8s.io") }
    }
}

#[async_trait]
impl AdmissionPlugin for ValidatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }
    fn steps(&self) -> &'static [Step] {
        &[Step::Validate]
    }
    async fn validate(&self, core: &Core, attributes: &Attributes<'_>, object: Option<&Object>, old: Option<&Object>) -> Result<(), ApiError> {
        let webhooks = self.webhooks.now(core);
        if webhooks.is_empty() || matching::is_exempt(attributes.kind.as_ref()) {
            return Ok(());
        }
        let all: Vec<_> = webhooks.iter().filter_map(|webhook| matching::asked(core, attributes, webhook, object, old)).collect();
        let began = Instant::now();
        let verdicts = futures::future::join_all(all.iter().map(|asked| ask(core, attributes, Step::Validate, asked, object, old))).await;
        if !all.is_empty() {
            attributes.context.aside.waited(began.elapsed());
        }
        for (asked, verdict) in all.iter().zip(verdicts) {
            if let Some(refusal) = verdict?.and_then(|verdict| verdict.refusal) {
                return Err(review::refusal(&asked.webhook.name, &refusal));
            }
        }
        Ok(())
    }
}
