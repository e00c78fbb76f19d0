//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook: whoever a configuration names is asked about requests.
//!
//! - [`configuration`]: webhooks as their configurations describe them
//! - [`matching`]: which webhooks are asked about a request
//! - [`review`]: the question and the answer
//! - [`mutating`], [`validating`]: the two plug-ins
//! - [`reinvocation`]: who is asked a second time, since others changed the object after him
//!
//! Source: Kubernetes `apiserver/pkg/admission/plugin/webhook`.

pub mod configuration;
pub mod matching;
pub mod mutating;
pub mod reinvocation;
pub mod review;
pub mod validating;

use std::time::Instant;

use meta::{ApiError, Object};
use serde_json::Value;

use crate::{
    admission::{Attributes, Step},
    core::Core,
    metrics::admission::Outcome,
    webhook_client::{WebhookAddress, WebhookError},
};

use configuration::Webhook;
use matching::Asked;
use review::Verdict;

/// Asks one webhook. None where it could not be asked and that does not matter.
async fn ask(core: &Core, attributes: &Attributes<'_>, step: Step, asked: &Asked, object: Option<&Object>, old: Option<&Object>) -> Result<Option<Verdict>, ApiError> {
    let webhook = &asked.webhook;
    let began = Instant::now();
    let answer = try_to_ask(core, attributes, asked, object, old).await;
    let outcome = match &answer {
        Ok(verdict) => verdict.refusal.as_ref().map_or(Outcome::Allowed, |refusal| Outcome::Refused(review::refusal(&webhook.name, refusal).code)),
        Err(_) if webhook.must_answer => Outcome::Failed,
        Err(_) => Outcome::FailedOpen,
    };
    core.metrics.admission.webhook(&webhook.name, step, attributes.operation, outcome, began.elapsed());
    match answer {
        Ok(verdict) => {
            for warning in &verdict.warnings {
                attributes.context.warn(warning.clone());
            }
            Ok(Some(verdict))
        }
        Err(error) if webhook.must_answer => Err(ApiError::internal(format!("failed calling webhook {:?}: {error}", webhook.name))),
        Err(error) => {
            tracing::warn!(webhook = webhook.name, %error, "a webhook failed, which its configuration allows");
            Ok(None)
        }
    }
}

async fn try_to_ask(core: &Core, attributes: &Attributes<'_>, asked: &Asked, object: Option<&Object>, old: Option<&Object>) -> Result<Verdict, WebhookError> {
    let webhook: &Webhook = &asked.webhook;
    let address = WebhookAddress::read(&webhook.client)?;
    let question = review::question(attributes, asked, object, old).map_err(WebhookError::Configuration)?;
    let answer: Value = address.ask(core, &question, webhook.timeout).await?;
    review::verdict(&question, &answer).map_err(WebhookError::Malformed)
}
