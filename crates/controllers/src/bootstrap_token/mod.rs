//! Removes bootstrap tokens whose time is over.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Api, DeleteParams, Informer, ObjectKey, Preconditions, Selection};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Runner, Trigger};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

use crate::ControllerContext;

/// The account that upstream gives its Role in `kube-system` to.
const CONTROLLER: &str = "token-cleaner";
const NAMESPACE: &str = "kube-system";
const TOKEN_TYPE: &str = "bootstrap.kubernetes.io/token";

/// Starts the controller.
pub fn start(context: &ControllerContext, runner: &Runner) {
    let cleaner = TokenCleaner { client: context.client(CONTROLLER), tokens: informer(context), clock: context.clock.clone() };
    runner.start(cleaner, 1);
}

/// The cache of bootstrap tokens. Only tokens: other secrets are none of this process' business.
pub(crate) fn informer(context: &ControllerContext) -> Informer<Secret> {
    context.informers.selected(Selection { namespace: Some(NAMESPACE.to_owned()), fields: Some(format!("type={TOKEN_TYPE}")), labels: None })
}

struct TokenCleaner {
    client: client::Client,
    tokens: Informer<Secret>,
    clock: Arc<dyn client::Clock>,
}

/// How long a token is still good; `None` for one without an end. A malformed end means that it is over, as upstream has it.
pub(crate) fn time_left(token: &Secret, now: Timestamp) -> Option<Duration> {
    let text = token.data.as_ref()?.get("expiration")?;
    let end = std::str::from_utf8(&text.0).ok().and_then(|text| text.parse::<Timestamp>().ok());
    Some(end.map_or(Duration::ZERO, |end| Duration::try_from(end.duration_since(now)).unwrap_or_default()))
}

#[async_trait]
impl Reconciler for TokenCleaner {
    fn name(&self) -> &'static str {
        "bootstrap-token-cleaner"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::itself(&self.tokens)]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(token) = self.tokens.get(key).filter(|token| token.type_.as_deref() == Some(TOKEN_TYPE)) else { return Ok(Outcome::Settled) };
        match time_left(&token, self.clock.now()) {
            None => return Ok(Outcome::Settled),
            Some(left) if !left.is_zero() => return Ok(Outcome::CheckAgainIn(left)),
            Some(_) => {}
        }
        let preconditions = Preconditions { uid: token.metadata.uid.clone(), resource_version: token.metadata.resource_version.clone() };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match Api::<Secret>::namespaced(self.client.clone(), NAMESPACE).delete(&key.name, &parameters).await {
            Err(error) if client::is_not_found(&error) => Ok(Outcome::Settled),
            other => other.map(|_| Outcome::Settled).doing(|| format!("remove expired bootstrap token {key}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    #[test]
    fn a_token_lives_until_its_end() {
        let token = |end: &str| Secret { data: Some([("expiration".to_owned(), ByteString(end.as_bytes().to_vec()))].into()), ..Secret::default() };
        let now = Timestamp::from_second(100).unwrap();
        assert_eq!(time_left(&token("1970-01-01T00:02:00Z"), now), Some(Duration::from_secs(20)));
        assert_eq!(time_left(&token("1970-01-01T00:01:00Z"), now), Some(Duration::ZERO));
        assert_eq!(time_left(&token("nonsense"), now), Some(Duration::ZERO));
        assert_eq!(time_left(&Secret::default(), now), None);
    }
}
