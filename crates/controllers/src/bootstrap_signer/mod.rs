//! Signs the ConfigMap `cluster-info` of `kube-public`, where there is one, with every bootstrap token that may sign: so a new node can
//! read it without trusting the server yet. Who wants to be joined that way (kubeadm, for instance) writes the ConfigMap and lets
//! everybody read it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Api, Informer, ObjectKey, PostParams, Selection};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Runner, Trigger};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use crate::ControllerContext;
use crate::bootstrap_token::{self, time_left};

const CONTROLLER: &str = "bootstrap-signer";
const NAMESPACE: &str = "kube-public";
const NAME: &str = "cluster-info";
/// What is signed.
const SIGNED: &str = "kubeconfig";
/// Before the id of the token that signed.
const SIGNATURE: &str = "jws-kubeconfig-";

/// Starts the controller.
pub fn start(context: &ControllerContext, runner: &Runner) {
    let selection = Selection { namespace: Some(NAMESPACE.to_owned()), fields: Some(format!("metadata.name={NAME}")), labels: None };
    let signer = Signer {
        client: context.client(CONTROLLER),
        maps: context.informers.selected(selection),
        tokens: bootstrap_token::informer(context),
        clock: context.clock.clone(),
    };
    runner.start(signer, 1);
}

struct Signer {
    client: client::Client,
    maps: Informer<ConfigMap>,
    tokens: Informer<Secret>,
    clock: Arc<dyn client::Clock>,
}

/// The id and the secret of a token that may sign now.
/// Source: Kubernetes 1.36, `validateSecretForSigning`.
fn signing(token: &Secret, now: Timestamp) -> Option<(String, String)> {
    let text = |name: &str| String::from_utf8(token.data.as_ref()?.get(name)?.0.clone()).ok().filter(|text| !text.is_empty());
    let id = text("token-id")?;
    let is_named = token.metadata.name.as_deref().and_then(|name| name.strip_prefix("bootstrap-token-")) == Some(&id);
    let is_over = time_left(token, now).is_some_and(|left| left.is_zero());
    let may_sign = is_named && !is_over && text("usage-bootstrap-signing").as_deref() == Some("true");
    may_sign.then_some(())?;
    Some((id, text("token-secret")?))
}

/// The ConfigMap's data with the signatures of these tokens and no others; `None` where it has nothing to sign.
fn signed<'a>(map: &ConfigMap, tokens: impl Iterator<Item = &'a Secret>, now: Timestamp) -> Option<BTreeMap<String, String>> {
    let mut data = map.data.clone()?;
    let content = data.get(SIGNED)?.clone();
    data.retain(|name, _| !name.starts_with(SIGNATURE));
    let signatures = tokens.filter_map(|token| signing(token, now));
    data.extend(signatures.map(|(id, secret)| (format!("{SIGNATURE}{id}"), pki::detached_signature(&content, &id, &secret))));
    Some(data)
}

#[async_trait]
impl Reconciler for Signer {
    fn name(&self) -> &'static str {
        "bootstrap-signer"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let maps = self.maps.clone();
        vec![
            Trigger::itself(&self.maps),
            Trigger::on(&self.tokens, move |_| maps.list().iter().map(|map| client::key_of(&**map)).collect()),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(map) = self.maps.get(key).filter(|map| map.metadata.deletion_timestamp.is_none()) else { return Ok(Outcome::Settled) };
        let now = self.clock.now();
        let tokens = self.tokens.list();
        let Some(data) = signed(&map, tokens.iter().map(|token| &**token), now) else { return Ok(Outcome::Settled) };
        if map.data.as_ref() != Some(&data) {
            let updated = ConfigMap { data: Some(data), ..(*map).clone() };
            match Api::<ConfigMap>::namespaced(self.client.clone(), NAMESPACE).replace(&key.name, &PostParams::default(), &updated).await {
                Err(error) if client::is_not_found(&error) => return Ok(Outcome::Settled),
                other => drop(other.doing(|| format!("sign {key}"))?),
            }
        }
        // A token's end takes its signature away, even before the token itself is removed.
        let ends: Option<Duration> = tokens.iter().filter_map(|token| time_left(token, now)).filter(|left| !left.is_zero()).min();
        Ok(Outcome::after(ends))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{context, within};
    use client::DeleteParams;
    use client::fake::FakeApi;
    use k8s_openapi::ByteString;

    fn token(id: &str, name: &str, usage: &str, end: &str) -> Secret {
        let mut secret = Secret { type_: Some("bootstrap.kubernetes.io/token".to_owned()), ..Secret::default() };
        secret.metadata.name = Some(name.to_owned());
        let data = [("token-id", id), ("token-secret", "0123456789abcdef"), ("usage-bootstrap-signing", usage), ("expiration", end)];
        secret.data = Some(data.into_iter().map(|(name, value)| (name.to_owned(), ByteString(value.as_bytes().to_vec()))).collect());
        secret
    }

    #[test]
    fn only_good_tokens_for_signing_sign() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let later = "2026-01-02T00:00:00Z";
        let signs = |token: &Secret| signing(token, now).is_some();
        assert!(signs(&token("abcdef", "bootstrap-token-abcdef", "true", later)));
        assert!(!signs(&token("abcdef", "bootstrap-token-abcdef", "false", later)));
        assert!(!signs(&token("abcdef", "bootstrap-token-other", "true", later)));
        assert!(!signs(&token("abcdef", "bootstrap-token-abcdef", "true", "2025-01-01T00:00:00Z")));
    }

    #[tokio::test]
    async fn signatures_come_and_go_with_their_tokens() {
        let fake = FakeApi::new();
        let context = context(&fake);
        let runner = context.runner();
        start(&context, &runner);
        let mut map = ConfigMap { data: Some([("kubeconfig".to_owned(), "the text".to_owned()), ("jws-kubeconfig-old000".to_owned(), "x".to_owned())].into()), ..ConfigMap::default() };
        map.metadata.name = Some(NAME.to_owned());
        Api::<ConfigMap>::namespaced(fake.client(), NAMESPACE).create(&PostParams::default(), &map).await.unwrap();
        let secrets = Api::<Secret>::namespaced(fake.client(), "kube-system");
        secrets.create(&PostParams::default(), &token("abcdef", "bootstrap-token-abcdef", "true", "2100-01-01T00:00:00Z")).await.unwrap();
        let signatures = |fake: &FakeApi| {
            let data = fake.objects::<ConfigMap>().pop().and_then(|map| map.data).unwrap_or_default();
            data.into_iter().filter(|(name, _)| name.starts_with(SIGNATURE)).collect::<Vec<_>>()
        };
        let expected = vec![("jws-kubeconfig-abcdef".to_owned(), pki::detached_signature("the text", "abcdef", "0123456789abcdef"))];
        within("the signature", fake.until(|fake| (signatures(fake) == expected).then_some(()))).await;
        secrets.delete("bootstrap-token-abcdef", &DeleteParams::default()).await.unwrap();
        within("no signature", fake.until(|fake| signatures(fake).is_empty().then_some(()))).await;
        context.informers.stopped().cancel();
        within("the end", runner.finished()).await;
    }
}
