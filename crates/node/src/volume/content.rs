//! `configMap`, `secret`, `downwardAPI` and `projected` volumes.

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ProjectedVolumeSource, Volume};

use super::{
    Made, Plugin, PreparedVolume, Request, atomic,
    payload::{File, Payload, Selection, add_fields, add_object, mode, safe_path},
    trust_bundles,
};
use crate::{objects::Kind, pod, pod_certificates::Place};

const DEFAULT_MODE: u32 = 0o644;

/// The plug-in.
pub struct Content;

#[async_trait]
impl Plugin for Content {
    fn handles(&self, volume: &Volume) -> bool {
        volume.config_map.is_some() || volume.secret.is_some() || volume.downward_api.is_some() || volume.projected.is_some()
    }

    async fn prepare(&self, request: &Request<'_>) -> Result<Made, String> {
        let namespace = pod::namespace(request.pod);
        let volume = request.volume;
        let mut payload = Payload::new();
        let mut refresh_at = None;
        let plugin = if let Some(source) = &volume.config_map {
            let selection = Selection {
                kind: Kind::ConfigMap,
                namespace,
                name: &source.name,
                items: source.items.as_deref(),
                default_mode: mode(source.default_mode, DEFAULT_MODE),
                optional: source.optional.unwrap_or(false),
            };
            add_object(&mut payload, request.objects, &selection)?;
            "config-map"
        } else if let Some(source) = &volume.secret {
            let selection = Selection {
                kind: Kind::Secret,
                namespace,
                name: source.secret_name.as_deref().unwrap_or_default(),
                items: source.items.as_deref(),
                default_mode: mode(source.default_mode, DEFAULT_MODE),
                optional: source.optional.unwrap_or(false),
            };
            add_object(&mut payload, request.objects, &selection)?;
            "secret"
        } else if let Some(source) = &volume.downward_api {
            let facts = request.context.node_facts(request.pod_ips);
            let items = source.items.as_deref().unwrap_or_default();
            add_fields(&mut payload, request.pod, items, mode(source.default_mode, DEFAULT_MODE), &facts)?;
            "downward-api"
        } else {
            let source = volume.projected.clone().unwrap_or_default();
            refresh_at = add_projected(&mut payload, request, &source).await?;
            "projected"
        };
        let directory = request.memory_directory(plugin);
        let group = request.fs_group();
        let path = directory.clone();
        tokio::task::spawn_blocking(move || atomic::write(&directory, &payload, group))
            .await
            .map_err(|problem| problem.to_string())?
            .map_err(|problem| format!("could not write the volume's files: {problem}"))?;
        Ok(Made { volume: PreparedVolume { path, read_only: true }, refresh_at })
    }
}

async fn add_projected(payload: &mut Payload, request: &Request<'_>, source: &ProjectedVolumeSource) -> Result<Option<Timestamp>, String> {
    let namespace = pod::namespace(request.pod);
    let default_mode = mode(source.default_mode, DEFAULT_MODE);
    let mut refresh_at: Option<Timestamp> = None;
    for (number, projection) in source.sources.iter().flatten().enumerate() {
        if let Some(source) = &projection.pod_certificate {
            let place = Place { pod_uid: pod::uid(request.pod).to_owned(), volume: request.volume.name.clone(), source: number };
            let bundle = request.context.certificates.bundle(request.pod, &place, source, request.objects).await?;
            refresh_at = Some(refresh_at.map_or(bundle.refresh_at, |earlier| earlier.min(bundle.refresh_at)));
            let files = [
                (&source.credential_bundle_path, [bundle.key.as_str(), &bundle.chain].concat()),
                (&source.key_path, bundle.key.clone()),
                (&source.certificate_chain_path, bundle.chain.clone()),
            ];
            for (path, text) in files {
                if let Some(path) = path.as_deref().filter(|path| !path.is_empty()) {
                    payload.insert(safe_path(path)?, private(request, text.into_bytes(), default_mode));
                }
            }
        }
        if let Some(source) = &projection.cluster_trust_bundle {
            let data = trust_bundles::anchors(request.objects, source)?;
            payload.insert(safe_path(&source.path)?, private(request, data, default_mode));
        }
        if let Some(source) = &projection.config_map {
            let items = source.items.as_deref();
            let optional = source.optional.unwrap_or(false);
            add_object(payload, request.objects, &Selection { kind: Kind::ConfigMap, namespace, name: &source.name, items, default_mode, optional })?;
        }
        if let Some(source) = &projection.secret {
            let items = source.items.as_deref();
            let optional = source.optional.unwrap_or(false);
            add_object(payload, request.objects, &Selection { kind: Kind::Secret, namespace, name: &source.name, items, default_mode, optional })?;
        }
        if let Some(source) = &projection.downward_api {
            let facts = request.context.node_facts(request.pod_ips);
            add_fields(payload, request.pod, source.items.as_deref().unwrap_or_default(), default_mode, &facts)?;
        }
        if let Some(source) = &projection.service_account_token {
            let seconds = source.expiration_seconds.unwrap_or(3600);
            let token = request.context.tokens.token(request.pod, source.audience.as_deref().unwrap_or_default(), seconds).await?;
            refresh_at = Some(refresh_at.map_or(token.refresh_at, |earlier| earlier.min(token.refresh_at)));
            payload.insert(safe_path(&source.path)?, private(request, token.text.into_bytes(), default_mode));
        }
    }
    Ok(refresh_at)
}

/// A file for the pod's processes alone: where these have a user or a group of their own, nobody else reads it.
fn private(request: &Request<'_>, data: Vec<u8>, default_mode: u32) -> File {
    let owner = common_user(request);
    let mode = if owner.is_some() || request.fs_group().is_some() { 0o600 } else { default_mode };
    File { data, mode, owner }
}

/// The user that all containers of the pod run as, where they say so.
fn common_user(request: &Request<'_>) -> Option<u32> {
    let of_pod = pod::spec(request.pod).security_context.as_ref().and_then(|security| security.run_as_user);
    let mut users = pod::containers(request.pod).map(|(_, container)| container.security_context.as_ref().and_then(|security| security.run_as_user).or(of_pod));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok()).flatten()
}
