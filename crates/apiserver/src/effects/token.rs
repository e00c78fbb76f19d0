//! Tokens of service accounts on request: `serviceaccounts/NAME/token`.
//!
//! Source: Kubernetes `pkg/registry/core/serviceaccount/storage/token.go`.

use std::sync::Arc;

use api::authentication::v1::TokenRequest;
use async_trait::async_trait;
use http::{Response, StatusCode};
use jiff::SignedDuration;
use kinds::ServedKind;
use meta::{ApiError, FieldError, FieldPath, GroupKind, GroupResource, GroupVersionKind, Object};
use serde_json::json;

use crate::{
    admission::{Attributes, Operation},
    codec,
    core::{Core, RequestContext, format_time},
    effects::Handler,
    handler::read,
    http_body::{Body, Request, read_all},
    negotiation::negotiate_whole,
    rendering::{encode_meta, respond},
};

/// Shortest lifetime, in seconds.
const SHORTEST: i64 = 600;
/// Longest lifetime, in seconds.
const LONGEST: i64 = 1 << 32;
/// Lifetime where none is asked for, in seconds.
const USUAL: i64 = 3600;
/// Lifetime that only the volume of a token asks for which pods get by themselves, in seconds: an hour, and 7 s to know it by.
/// Source: upstream's `WarnOnlyBoundTokenExpirationPeriod`.
const OF_PODS_BY_THEMSELVES: i64 = 3607;
/// How long such a token really lives, in seconds. Source: upstream's `ExpirationExtensionSeconds`.
const EXTENDED: i64 = 365 * 24 * 3600;

/// The handler.
pub struct TokenHandler;

fn bound(object: &Object) -> pki::service_account_token::BoundObject {
    pki::service_account_token::BoundObject { name: object.name().to_owned(), uid: object.uid().to_owned() }
}

#[async_trait]
impl Handler for TokenHandler {
    async fn handle(&self, core: &Arc<Core>, context: RequestContext, kind: &Arc<dyn ServedKind>, request: Request) -> Result<Response<Body>, ApiError> {
        let negotiated = negotiate_whole(&context.accept, true)?;
        let Some(keys) = &core.service_account_tokens else { return Err(ApiError::no_such_path()) };
        if context.info.verb != "create" {
            return Err(ApiError::method_not_allowed(format!("the server does not allow {} on a token", context.info.verb)));
        }
        let bytes = read_all(request.into_body()).await?;
        let request_kind = GroupVersionKind::new("authentication.k8s.io", "v1", "TokenRequest");
        let mut object = codec::read_meta(&context.content_type, &bytes, &request_kind)?;
        let attributes = Attributes::of(Operation::Create, kind, &context);
        core.admission.admit(core, &attributes, Some(&mut object), None).await?;
        core.admission.validate(core, &attributes, Some(&object), None).await?;
        let asked: TokenRequest = object.decode().map_err(|error| ApiError::bad_request(error.to_string()))?;
        let stored = read::find(core, kind, &context.info.namespace, &context.info.name)?;
        let account = core.served_object(kind, &stored)?;
        let invalid = |error: FieldError| {
            ApiError::invalid(&GroupKind { group: "authentication.k8s.io".into(), kind: "TokenRequest".into() }, &context.info.name, vec![error])
        };
        let spec = FieldPath::new("spec");
        let asked_for = asked.spec.unwrap_or_default();
        let seconds = asked_for.expiration_seconds.unwrap_or(USUAL);
        if seconds < SHORTEST {
            return Err(invalid(FieldError::invalid(&spec.child("expirationSeconds"), seconds, "may not specify a duration less than 10 minutes")));
        }
        if seconds > LONGEST {
            return Err(invalid(FieldError::invalid(&spec.child("expirationSeconds"), seconds, "may not specify a duration larger than 2^32 seconds")));
        }
        let (mut pod, mut node, mut secret) = (None, None, None);
        if let Some(reference) = &asked_for.bound_object_ref {
            let name = reference.name.clone().unwrap_or_default();
            let resource = match (reference.api_version.as_deref(), reference.kind.as_deref()) {
                (Some("v1"), Some("Pod")) => "pods",
                (Some("v1"), Some("Secret")) => "secrets",
                (Some("v1"), Some("Node")) => "nodes",
                (version, kind) => {
                    let message = format!("cannot bind token for serviceaccount to object {}/{}: only v1 Pod, Secret and Node", version.unwrap_or_default(), kind.unwrap_or_default());
                    return Err(ApiError::bad_request(message));
                }
            };
            let key = if resource == "nodes" { name.clone() } else { format!("{}/{name}", context.info.namespace) };
            let Some(found) = core.view_named(resource).get(&key) else {
                return Err(ApiError::not_found(&GroupResource::new("", resource), &name));
            };
            let found = found.object().map_err(ApiError::internal)?;
            if let Some(uid) = reference.uid.as_deref().filter(|uid| !uid.is_empty())
                && uid != found.uid()
            {
                let why = format!("the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated");
                return Err(ApiError::conflict(&GroupResource::new("", resource), &name, &why));
            }
            match resource {
                "pods" => {
                    if found.text(&["spec", "serviceAccountName"]) != Some(&context.info.name) {
                        let message = format!("cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.", context.info.name);
                        return Err(ApiError::bad_request(message));
                    }
                    if let Some(node_name) = found.text(&["spec", "nodeName"]) {
                        let stored_node = core.view_named("nodes").get(node_name).and_then(|stored| stored.object().ok());
                        node = Some(pki::service_account_token::BoundObject {
                            name: node_name.to_owned(),
                            uid: stored_node.map(|node| node.uid().to_owned()).unwrap_or_default(),
                        });
                    }
                    pod = Some(bound(&found));
                }
                "nodes" => node = Some(bound(&found)),
                _ => secret = Some(bound(&found)),
            }
        }
        let audiences = asked_for.audiences.filter(|list| !list.is_empty()).unwrap_or_else(|| core.facts.audiences.clone());
        // Only for this server: others would not know that it should have been replaced long ago.
        let extends = core.facts.extend_token_expiration && pod.is_some() && seconds == OF_PODS_BY_THEMSELVES && audiences.iter().all(|audience| core.facts.audiences.contains(audience));
        let request = pki::TokenRequest {
            namespace: context.info.namespace.clone(),
            service_account: bound(&account),
            pod,
            node,
            secret,
            audiences: audiences.clone(),
            lifetime: SignedDuration::from_secs(if extends { EXTENDED } else { seconds }),
            warn_after: extends.then(|| SignedDuration::from_secs(seconds)),
        };
        let (token, claims) = keys.signer.sign(&request, context.now).map_err(ApiError::internal)?;
        // As asked, also where it lives for longer: whoever asks for tokens renews them by this.
        let expires = jiff::Timestamp::from_second(claims.iat.saturating_add(seconds)).unwrap_or(context.now);
        object.set(&["spec", "audiences"], json!(audiences));
        object.set(&["spec", "expirationSeconds"], json!(seconds));
        object.set(&["metadata", "name"], json!(context.info.name));
        object.set(&["metadata", "namespace"], json!(context.info.namespace));
        object.set(&["metadata", "creationTimestamp"], json!(context.timestamp()));
        object.0.insert("status".to_owned(), json!({"token": token, "expirationTimestamp": format_time(expires)}));
        object.0.insert("kind".to_owned(), json!("TokenRequest"));
        object.0.insert("apiVersion".to_owned(), json!("authentication.k8s.io/v1"));
        Ok(respond(StatusCode::CREATED, negotiated, encode_meta(&object.into_value(), negotiated.encoding)?))
    }
}
