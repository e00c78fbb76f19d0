//! Webhooks as ValidatingWebhookConfiguration and MutatingWebhookConfiguration describe them, read once per change.

use std::{sync::Arc, time::Duration};

use meta::selector::LabelSelector;
use parking_lot::Mutex;
use serde_json::Value;
use store::Revision;

use crate::{admission::webhooks::matching::Rule, core::Core};

/// The usual timeout. Source: Kubernetes `pkg/apis/admissionregistration/v1/defaults.go`.
const USUAL_TIMEOUT_SECONDS: u64 = 10;

/// One webhook of a configuration.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// Its own name, as errors tell it.
    pub name: String,
    /// Unique over all configurations.
    pub id: String,
    /// `clientConfig`
    pub client: Value,
    /// What it is asked about.
    pub rules: Vec<Rule>,
    /// `failurePolicy: Fail`
    pub must_answer: bool,
    /// `matchPolicy: Exact`
    pub exact: bool,
    /// `namespaceSelector`
    pub namespaces: LabelSelector,
    /// `objectSelector`
    pub objects: LabelSelector,
    /// How long it may take.
    pub timeout: Duration,
    /// `reinvocationPolicy: IfNeeded`
    pub again_if_needed: bool,
    /// Version of the AdmissionReview it is sent.
    pub review_version: &'static str,
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn selector(value: &Value, name: &str) -> LabelSelector {
    match value.get(name) {
        // What is stored was validated; what cannot be read all the same selects nothing.
        Some(selector) => LabelSelector::from_json(selector).unwrap_or_else(|_| LabelSelector::nothing()),
        None => LabelSelector::everything(),
    }
}

impl Webhook {
    /// Reads one webhook of a configuration.
    pub fn read(configuration: &str, value: &Value) -> Self {
        let versions = list(value, "admissionReviewVersions");
        let review_version = versions.iter().filter_map(Value::as_str).find_map(|version| ["v1", "v1beta1"].into_iter().find(|known| *known == version));
        let seconds = value.get("timeoutSeconds").and_then(Value::as_u64).unwrap_or(USUAL_TIMEOUT_SECONDS);
        let name = text(value, "name").to_owned();
        Self {
            id: format!("{configuration}/{name}"),
            name,
            client: value.get("clientConfig").cloned().unwrap_or_default(),
            rules: list(value, "rules").iter().map(Rule::read).collect(),
            must_answer: text(value, "failurePolicy") != "Ignore",
            exact: text(value, "matchPolicy") == "Exact",
            namespaces: selector(value, "namespaceSelector"),
            objects: selector(value, "objectSelector"),
            timeout: Duration::from_secs(seconds),
            again_if_needed: text(value, "reinvocationPolicy") == "IfNeeded",
            review_version: review_version.unwrap_or("v1"),
        }
    }
}

/// All webhooks of one kind of configuration, in the order they are asked: by the configuration's name, then as listed.
pub struct Webhooks {
    resource: &'static str,
    known: Mutex<(Revision, Arc<[Arc<Webhook>]>)>,
}

impl Webhooks {
    /// Of a resource such as `mutatingwebhookconfigurations.admissionregistration.k8s.io`.
    pub fn of(resource: &'static str) -> Self {
        Self { resource, known: Mutex::new((Revision(0), Arc::from([]))) }
    }
    /// As they are now.
    pub fn now(&self, core: &Core) -> Arc<[Arc<Webhook>]> {
        let view = core.view_named(self.resource);
        if view.is_empty() {
            return Arc::from([]);
        }
        let newest = view.newest();
        let mut known = self.known.lock();
        if known.0 != newest || known.1.is_empty() {
            let mut all = Vec::new();
            for stored in core.view.snapshot(&view).range("", None) {
                let Ok(configuration) = stored.object() else { continue };
                let webhooks = configuration.get(&["webhooks"]).and_then(Value::as_array).into_iter().flatten();
                all.extend(webhooks.map(|value| Arc::new(Webhook::read(configuration.name(), value))));
            }
            *known = (newest, all.into());
        }
        known.1.clone()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_webhook_leaves_out_has_its_default() {
        let webhook = Webhook::read("c", &json!({"name": "a.b.c", "admissionReviewVersions": ["v2", "v1beta1", "v1"]}));
        assert!(webhook.must_answer && !webhook.exact && !webhook.again_if_needed);
        assert_eq!(webhook.timeout, Duration::from_secs(10));
        assert_eq!(webhook.review_version, "v1beta1");
        assert!(webhook.namespaces.is_everything() && webhook.objects.is_everything());
    }
}
