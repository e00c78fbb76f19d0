//! get and list, with upstream's rules for resourceVersion, limit and continue.
//!
//! Source: the Kubernetes page "API Concepts", sections on resource versions and on retrieving large sets in chunks.

use std::{sync::Arc, time::Duration};

use base64::Engine as _;
use http::{Response, StatusCode};
use kinds::ServedKind;
use meta::{ApiError, FieldError, FieldPath};
use serde::{Deserialize, Serialize};
use store::Revision;

use crate::{
    core::{Core, RequestContext},
    custom_resources::conversion,
    handler::Selection,
    http_body::Body,
    negotiation::negotiate_for,
    options::VersionMatch,
    rendering::{self, ListMetadata, respond, respond_with},
    view::{Snapshot, StoredObject, Unavailable},
};

/// How long a read waits for a revision that is not there yet. Source: upstream's watch cache, 3 s.
const FRESHNESS_WAIT: Duration = Duration::from_secs(3);

/// A resourceVersion as a number.
///
/// # Errors
/// 400 where it is none.
pub fn parse_revision(text: &str) -> Result<Revision, ApiError> {
    text.parse().map(Revision).map_err(|_| {
        ApiError::bad_request(format!("resource version {text:?} is not valid: it must be a whole number that this server gave out"))
    })
}

/// Waits until a revision is there.
///
/// # Errors
/// 504 with upstream's cause where it does not come.
pub async fn wait_until_fresh(core: &Core, revision: Revision) -> Result<(), ApiError> {
    if core.view.revision() >= revision {
        return Ok(());
    }
    if tokio::time::timeout(FRESHNESS_WAIT, core.view.wait_for(revision)).await.is_err() {
        let mut error = ApiError::timeout(format!("Too large resource version: {revision}, current: {}", core.view.revision()))
            .with_cause("ResourceVersionTooLarge", "Too large resource version", "");
        error.retry_after_seconds = 1;
        return Err(error);
    }
    Ok(())
}

/// Answers a get.
///
/// # Errors
/// 404, and those of [`wait_until_fresh`].
pub async fn get(core: &Arc<Core>, context: &RequestContext, kind: &Arc<dyn ServedKind>) -> Result<Response<Body>, ApiError> {
    let negotiated = negotiate_for(&context.accept, kind.info())?;
    if let Some(version) = &context.query.resource_version {
        wait_until_fresh(core, parse_revision(version)?).await?;
    }
    let stored = conversion::readable(core, kind, find(core, kind, &context.info.namespace, &context.info.name)?).await?;
    Ok(respond(StatusCode::OK, negotiated, rendering::render(core, kind, &stored, negotiated)?))
}

/// One object.
///
/// # Errors
/// 404
pub fn find(core: &Core, kind: &Arc<dyn ServedKind>, namespace: &str, name: &str) -> Result<Arc<StoredObject>, ApiError> {
    core.stored(kind, namespace, name).ok_or_else(|| ApiError::not_found(&kind.info().group_resource(), name))
}

#[derive(Debug, Serialize, Deserialize)]
struct ContinueToken {
    #[serde(rename = "v")]
    version: String,
    /// -1 asks for the newest state (an inconsistent continuation).
    #[serde(rename = "rv")]
    revision: i64,
    #[serde(rename = "start")]
    start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

fn encode_token(revision: i64, start: &str) -> String {
    let token = ContinueToken { version: TOKEN_VERSION.to_owned(), revision, start: start.to_owned() };
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
}

fn decode_token(text: &str) -> Result<ContinueToken, ApiError> {
    base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(text.trim_end_matches('='))
        .ok()
        .and_then(|bytes| serde_json::from_slice::<ContinueToken>(&bytes).ok())
        .filter(|token| token.version == TOKEN_VERSION && token.revision >= -1)
        .ok_or_else(|| ApiError::bad_request("continue key is not valid: it must be a token that a list of this resource gave out"))
}

const CONTINUE_EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without \
the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token \
results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show \
up in the list.";

/// What a list shows, and how it goes on.
pub struct Listed {
    /// The objects.
    pub items: Vec<Arc<StoredObject>>,
    /// The list's metadata.
    pub metadata: ListMetadata,
}

fn check_versions(context: &RequestContext) -> Result<(), ApiError> {
    let query = &context.query;
    let forbidden = |detail: &str| {
        let error = FieldError::forbidden(&FieldPath::new("resourceVersionMatch"), detail);
        Err(ApiError::invalid(&meta::GroupKind { group: "meta.k8s.io".into(), kind: "ListOptions".into() }, "", vec![error]))
    };
    match (query.version_match, query.resource_version.as_deref()) {
        (Some(_), None) if query.send_initial_events.is_none() => {
            return forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        (Some(_), _) if query.continue_token.is_some() => return forbidden("resourceVersionMatch is forbidden when continue is provided"),
        (Some(VersionMatch::Exact), Some("0")) => {
            return forbidden("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
        }
        _ => {}
    }
    if query.send_initial_events.is_some() && !query.watch {
        let error = FieldError::forbidden(&FieldPath::new("sendInitialEvents"), "sendInitialEvents is forbidden for list");
        return Err(ApiError::invalid(&meta::GroupKind { group: "meta.k8s.io".into(), kind: "ListOptions".into() }, "", vec![error]));
    }
    if query.continue_token.is_some() && query.resource_version.as_deref().is_some_and(|version| version != "0") {
        return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
    }
    Ok(())
}

/// Selects the objects of a list.
///
/// # Errors
/// 400 for bad parameters, 410 for states that are gone, 504 for revisions that do not come.
pub async fn select(core: &Arc<Core>, context: &RequestContext, kind: &Arc<dyn ServedKind>) -> Result<Listed, ApiError> {
    check_versions(context)?;
    let query = &context.query;
    let selection = Selection::of(context, kind.as_ref())?;
    let view = core.view_of(kind);
    let mut after: Option<String> = None;
    let snapshot: Snapshot = if let Some(token) = &query.continue_token {
        let token = decode_token(token)?;
        let snapshot = match u64::try_from(token.revision) {
            Err(_) => core.view.snapshot(&view),
            Ok(revision) => view.snapshot_at(Revision(revision)).map_err(|_| {
                let mut error = ApiError::expired(CONTINUE_EXPIRED);
                error.continue_token = encode_token(-1, &token.start);
                error
            })?,
        };
        after = Some(token.start);
        snapshot
    } else {
        let requested = query.resource_version.as_deref().map(parse_revision).transpose()?.filter(|revision| revision.0 > 0);
        if let Some(revision) = requested {
            wait_until_fresh(core, revision).await?;
        }
        let exact = query.version_match == Some(VersionMatch::Exact) || (query.version_match.is_none() && query.limit > 0);
        match requested {
            Some(revision) if exact => view.snapshot_at(revision).map_err(|gone| match gone {
                Unavailable::TooOld { oldest } => ApiError::expired(format!("too old resource version: {revision} ({oldest})")),
                Unavailable::TooNew { newest } => ApiError::timeout(format!("Too large resource version: {revision}, current: {newest}")),
            })?,
            _ => core.view.snapshot(&view),
        }
    };
    let mut metadata = ListMetadata { revision: snapshot.revision, ..ListMetadata::default() };
    let mut items = Vec::new();
    if query.continue_token.is_none()
        && let Some(name) = selection.exact_name()
        && (!kind.info().namespaced || !selection.prefix.is_empty())
    {
        items.extend(snapshot.objects.get(format!("{}{name}", selection.prefix).as_str()).filter(|object| selection.matches(object)).cloned());
        return Ok(Listed { items, metadata });
    }
    let mut remaining = 0;
    let counts_remaining = selection.is_everything();
    for object in snapshot.range(&selection.prefix, after.as_deref()) {
        if query.limit > 0 && items.len() == query.limit {
            if counts_remaining {
                remaining += 1;
                continue;
            }
            if selection.matches(object) {
                remaining = 1;
                break;
            }
            continue;
        }
        if selection.matches(object) {
            items.push(object.clone());
        }
    }
    if remaining > 0
        && let Some(last) = items.last()
    {
        metadata.continue_token = encode_token(i64::try_from(snapshot.revision.0).unwrap_or(i64::MAX), &last.key);
        metadata.remaining = counts_remaining.then_some(remaining);
    }
    Ok(Listed { items, metadata })
}

/// Answers a list.
///
/// # Errors
/// Those of [`select`].
pub async fn list(core: &Arc<Core>, context: &RequestContext, kind: &Arc<dyn ServedKind>) -> Result<Response<Body>, ApiError> {
    let negotiated = negotiate_for(&context.accept, kind.info())?;
    let listed = select(core, context, kind).await?;
    let items = conversion::readable_all(core, kind, listed.items).await?;
    let body = rendering::render_list(core, context, kind, &items, &listed.metadata, negotiated)?;
    Ok(respond_with(StatusCode::OK, negotiated, body))
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use proptest::prelude::*;

    use super::{decode_token, encode_token};

    proptest! {
        #[test]
        fn a_continue_token_says_where_to_go_on(revision in -1_i64.., start in ".*") {
            let read = decode_token(&encode_token(revision, &start)).expect("our own");
            prop_assert_eq!((read.revision, read.start), (revision, start));
        }

        #[test]
        fn what_no_list_gave_out_is_refused_or_means_what_it_says(text in ".*", bytes in any::<Vec<u8>>(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let encode = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
            let mut near = br#"{"v":"meta.k8s.io/v1","rv":5,"start":"a/b"}"#.to_vec();
            let place = at.index(near.len());
            near[place] = byte;
            for token in [text, encode(&bytes), encode(&near)] {
                if let Ok(read) = decode_token(&token) {
                    prop_assert!(read.revision >= -1);
                    let again = decode_token(&encode_token(read.revision, &read.start)).expect("read once");
                    prop_assert_eq!((again.revision, again.start), (read.revision, read.start));
                }
            }
        }
    }
}
