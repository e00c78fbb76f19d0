//! Secrets of the type `kubernetes.io/service-account-token` get a token of the account they name, for clients outside the cluster that want
//! one that does not run out. The token is bound to its Secret: it is good as long as that is there.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::{Api, DeleteParams, Index, Informer, ObjectKey, Patch, PatchParams, PostParams, Preconditions, Selection, key_of};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Runner, Trigger};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use serde_json::json;

use crate::ControllerContext;

const CONTROLLER: &str = "token-controller";
const TOKEN_TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// The longest that can be asked for: 136 years.
const LIFETIME_SECONDS: i64 = 1 << 32;

/// Starts the controller. `root_ca` is the cluster authority's certificate, in PEM.
pub fn start(context: &ControllerContext, runner: &Runner, root_ca: &str) {
    // Only these: other secrets are none of this process' business.
    let secrets = context.informers.selected::<Secret>(Selection::fields(&format!("type={TOKEN_TYPE}")));
    let controller = AccountTokens {
        client: context.client(CONTROLLER),
        by_account: secrets.index("account", |secret| account_of(secret).map(|account| account.to_string()).into_iter().collect()),
        secrets,
        accounts: context.informers.of(),
        root_ca: root_ca.into(),
    };
    runner.start(controller, 2);
}

struct AccountTokens {
    client: client::Client,
    secrets: Informer<Secret>,
    by_account: Index<Secret>,
    accounts: Informer<ServiceAccount>,
    root_ca: Arc<str>,
}

/// The account that a Secret is for.
fn account_of(secret: &Secret) -> Option<ObjectKey> {
    let name = secret.metadata.annotations.as_ref()?.get(ACCOUNT_NAME).filter(|name| !name.is_empty())?;
    Some(ObjectKey::namespaced(secret.metadata.namespace.as_deref()?, name))
}

/// Whether a Secret lacks nothing for the account with this uid.
fn is_complete(secret: &Secret, uid: &str, root_ca: &str) -> bool {
    let data = secret.data.clone().unwrap_or_default();
    let is_filled = |name: &str| data.get(name).is_some_and(|value| !value.0.is_empty());
    let has_authority = data.get("ca.crt").is_some_and(|value| value.0 == root_ca.as_bytes()) || root_ca.is_empty();
    let of_account = secret.metadata.annotations.as_ref().and_then(|annotations| annotations.get(ACCOUNT_UID)).map(String::as_str) == Some(uid);
    is_filled("token") && is_filled("namespace") && has_authority && of_account
}

impl AccountTokens {
    fn api(&self, key: &ObjectKey) -> Api<Secret> {
        Api::namespaced(self.client.clone(), key.namespace.as_deref().unwrap_or_default())
    }

    /// The account, asked for where the cache does not know it: what depends on its absence cannot be taken back.
    async fn account(&self, key: &ObjectKey) -> Result<Option<Arc<ServiceAccount>>, ReconcileError> {
        if let Some(known) = self.accounts.get(key) {
            return Ok(Some(known));
        }
        let api = Api::<ServiceAccount>::namespaced(self.client.clone(), key.namespace.as_deref().unwrap_or_default());
        Ok(api.get_opt(&key.name).await.doing(|| format!("read service account {key}"))?.map(Arc::new))
    }

    async fn fill(&self, key: &ObjectKey, secret: &Secret, account: &ServiceAccount) -> Result<(), ReconcileError> {
        let namespace = key.namespace.as_deref().unwrap_or_default();
        let account_name = account.metadata.name.as_deref().unwrap_or_default();
        let secret_reference = BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Secret".to_owned()),
            name: secret.metadata.name.clone(),
            uid: secret.metadata.uid.clone(),
        };
        let spec = TokenRequestSpec { audiences: None, bound_object_ref: Some(secret_reference), expiration_seconds: Some(LIFETIME_SECONDS) };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let api = Api::<ServiceAccount>::namespaced(self.client.clone(), namespace);
        let answer = match api.create_subresource("token", account_name, &PostParams::default(), &request).await {
            // One of the two went meanwhile, which wakes us.
            Err(error) if client::is_not_found(&error) || client::is_conflict(&error) => return Ok(()),
            other => other.doing(|| format!("get a token for {key}"))?,
        };
        let encode = |text: &str| STANDARD.encode(text);
        let token = answer.status.and_then(|status| status.token).unwrap_or_default();
        let patch = json!({
            "metadata": {
                "annotations": { ACCOUNT_UID: account.metadata.uid },
                "uid": secret.metadata.uid,
                "resourceVersion": secret.metadata.resource_version,
            },
            "data": { "token": encode(&token), "ca.crt": encode(&self.root_ca), "namespace": encode(namespace) },
        });
        match self.api(key).patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(error) if client::is_not_found(&error) => Ok(()),
            other => other.map(drop).doing(|| format!("write the token into {key}")),
        }
    }

    /// A Secret of an account that is gone goes, too.
    async fn remove(&self, key: &ObjectKey, secret: &Secret) -> Result<(), ReconcileError> {
        let preconditions = Preconditions { uid: secret.metadata.uid.clone(), resource_version: secret.metadata.resource_version.clone() };
        match self.api(key).delete(&key.name, &DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }).await {
            Err(error) if client::is_not_found(&error) => Ok(()),
            other => other.doing(|| format!("remove {key}, whose service account is gone")),
        }
    }
}

#[async_trait]
impl Reconciler for AccountTokens {
    fn name(&self) -> &'static str {
        "serviceaccount-token"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let by_account = self.by_account.clone();
        vec![
            Trigger::itself(&self.secrets),
            Trigger::on(&self.accounts, move |change| {
                if change.old.is_some() && change.new.is_some() {
                    return Vec::new();
                }
                by_account.get(&change.key.to_string()).iter().map(|secret| key_of(&**secret)).collect()
            }),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let wanted = |secret: &Arc<Secret>| secret.type_.as_deref() == Some(TOKEN_TYPE) && secret.metadata.deletion_timestamp.is_none();
        let Some(secret) = self.secrets.get(key).filter(wanted) else { return Ok(Outcome::Settled) };
        let Some(account_key) = account_of(&secret) else { return Ok(Outcome::Settled) };
        let noted_uid = secret.metadata.annotations.as_ref().and_then(|annotations| annotations.get(ACCOUNT_UID)).filter(|uid| !uid.is_empty());
        match self.account(&account_key).await? {
            // Another account of the same name must not get what was the first one's.
            Some(account) if noted_uid.is_none_or(|uid| account.metadata.uid.as_ref() == Some(uid)) => {
                if !is_complete(&secret, account.metadata.uid.as_deref().unwrap_or_default(), &self.root_ca) {
                    self.fill(key, &secret, &account).await?;
                }
            }
            _ => self.remove(key, &secret).await?,
        }
        Ok(Outcome::Settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[track_caller]
    fn check(data: Value, uid: &str, expected: bool) {
        let secret: Secret = serde_json::from_value(json!({ "metadata": { "annotations": { ACCOUNT_UID: uid } }, "data": data })).unwrap();
        assert_eq!(is_complete(&secret, "7", "pem"), expected);
    }

    #[test]
    fn a_secret_is_complete_with_token_namespace_and_authority() {
        let encode = |text: &str| STANDARD.encode(text);
        let whole = json!({ "token": encode("t"), "namespace": encode("x"), "ca.crt": encode("pem") });
        check(whole.clone(), "7", true);
        check(whole.clone(), "8", false);
        check(json!({}), "7", false);
        let mut outdated = whole;
        outdated["ca.crt"] = encode("earlier").into();
        check(outdated, "7", false);
    }
}
