//! `knarr token`: the tokens that agents join with. Each is a Secret of type `bootstrap.kubernetes.io/token`.

use std::collections::BTreeMap;

use anyhow::Context;
use api::core::v1::Secret;
use jiff::{SignedDuration, Timestamp};
use client::{Api, DeleteParams, Kubeconfig, ListParams, ObjectMeta, PostParams};
use pki::{Fingerprint, JoinToken};

use crate::{cli::{TokenArgs, TokenCommand}, output::tell};

const TYPE: &str = "bootstrap.kubernetes.io/token";

/// The Secret of a token.
pub fn secret(id: &str, secret: &str, expires: Option<Timestamp>, description: &str) -> Secret {
    let mut data: BTreeMap<String, String> = [
        ("token-id", id),
        ("token-secret", secret),
        ("usage-bootstrap-authentication", "true"),
        ("usage-bootstrap-signing", "true"),
        ("auth-extra-groups", "system:bootstrappers:knarr:default-node-token"),
        ("description", description),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    if let Some(expires) = expires {
        data.insert("expiration".to_owned(), expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    }
    Secret {
        metadata: ObjectMeta { name: Some(format!("bootstrap-token-{id}")), namespace: Some("kube-system".to_owned()), ..ObjectMeta::default() },
        type_: Some(TYPE.to_owned()),
        string_data: Some(data),
        ..Secret::default()
    }
}

/// Does what was asked for.
pub fn run(arguments: TokenArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the asynchronous runtime")?;
    runtime.block_on(act(arguments))
}

async fn act(arguments: TokenArgs) -> anyhow::Result<()> {
    let path = arguments.kubeconfig.unwrap_or_else(|| arguments.data_dir.join("admin.kubeconfig"));
    let kubeconfig = Kubeconfig::read(&path).with_context(|| format!("cannot read {}: run this on the server, as root", path.display()))?;
    let client = client::connect(kubeconfig, "knarr-token")?;
    let secrets: Api<Secret> = Api::namespaced(client, "kube-system");
    match arguments.command {
        TokenCommand::Create { ttl_hours, description } => {
            let authority_path = arguments.data_dir.join("pki/ca.crt");
            let pem = std::fs::read_to_string(&authority_path).with_context(|| format!("cannot read {}: run this on the server, as root", authority_path.display()))?;
            let authority = pki::bootstrap::certificates_from_pem(&pem)?;
            let authority = authority.first().context("the authority's file holds no certificate")?;
            let token = JoinToken::generate(Fingerprint::of(authority))?;
            let expires = (ttl_hours > 0).then(|| Timestamp::now() + SignedDuration::from_hours(ttl_hours));
            secrets.create(&PostParams::default(), &secret(&token.id, &token.secret, expires, &description)).await?;
            tell!("{token}");
        }
        TokenCommand::List => {
            let list = secrets.list(&ListParams::default().fields(&format!("type={TYPE}"))).await?;
            tell!("{:<8}  {:<22}  DESCRIPTION", "ID", "EXPIRES");
            for secret in list {
                let data = secret.data.unwrap_or_default();
                let text = |name: &str| data.get(name).map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()).unwrap_or_default();
                let expires = text("expiration");
                tell!("{:<8}  {:<22}  {}", text("token-id"), if expires.is_empty() { "never" } else { &expires }, text("description"));
            }
        }
        TokenCommand::Delete { id } => {
            let id = id.parse::<JoinToken>().map_or(id, |token| token.id);
            secrets.delete(&format!("bootstrap-token-{id}"), &DeleteParams::default()).await.with_context(|| format!("cannot delete the token {id}"))?;
            tell!("token {id} deleted");
        }
    }
    Ok(())
}
