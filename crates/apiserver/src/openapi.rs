//! `/openapi/v3`, its documents per group and version, and `/openapi/v2`, made on demand from the Scheme's schemas.
//!
//! A document is made once per Scheme and kept compressed, which is a twentieth of its size and what clients take anyway.
//! Source: Kubernetes `kube-openapi/pkg/handler3` for hashes and caching headers.

use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    sync::Arc,
};

use api::openapi::{self, PublishedKind, PublishedSubresource, V2_PROTOBUF_MEDIA_TYPE, V3_PROTOBUF_MEDIA_TYPE};
use bytes::Bytes;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use kinds::{Scheme, ServedKind};
use meta::{ApiError, Reason};
use parking_lot::Mutex;

use crate::{
    aggregation::{Remotes, documents},
    core::{Core, RequestContext},
    http_body::{Body, empty, full},
};

/// What answers call the protobuf form, and requests may: the older name holds a character that content types may not.
const V2_PROTOBUF_CONTENT_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const V3_PROTOBUF_CONTENT_TYPE: &str = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf";

/// A document as it is sent.
#[derive(Clone)]
struct Document {
    hash: Arc<str>,
    gzip: Bytes,
    content_type: &'static str,
}

#[derive(Default)]
struct Kept {
    /// What the documents were made from.
    scheme: Option<Arc<Scheme>>,
    kinds: Arc<[PublishedKind]>,
    documents: HashMap<String, Document>,
}

/// Documents of the present Scheme that somebody has asked for.
#[derive(Default)]
pub struct Documents {
    kept: Mutex<Kept>,
}

fn published(kind: &dyn ServedKind) -> PublishedKind {
    let info = kind.info();
    PublishedKind {
        kind: info.kind.clone(),
        list_kind: (!info.list_kind.is_empty()).then(|| info.list_kind.clone()),
        plural: info.plural.to_string(),
        namespaced: info.namespaced,
        verbs: info.verbs.clone(),
        subresources: info
            .subresources
            .iter()
            .map(|sub| PublishedSubresource { name: sub.name.clone(), kind: sub.kind.clone(), verbs: sub.verbs.clone() })
            .collect(),
        custom: None,
    }
}

fn compress(bytes: &[u8]) -> Result<Bytes, ApiError> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 10), Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).map(Bytes::from).map_err(ApiError::internal)
}

fn expand(bytes: &[u8]) -> Result<Vec<u8>, ApiError> {
    let mut expanded = Vec::with_capacity(bytes.len() * 10);
    GzDecoder::new(bytes).read_to_end(&mut expanded).map_err(ApiError::internal)?;
    Ok(expanded)
}

/// Which document a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted<'a> {
    Index,
    Version { group: &'a str, version: &'a str, protobuf: bool },
    Second { protobuf: bool },
}

impl<'a> Wanted<'a> {
    fn parse(path: &'a str, accept: &str) -> Option<Self> {
        let rest = path.trim_end_matches('/').strip_prefix("/openapi/")?;
        match rest.split('/').collect::<Vec<_>>().as_slice() {
            ["v2"] => Some(Self::Second { protobuf: prefers(accept, &[V2_PROTOBUF_MEDIA_TYPE, V2_PROTOBUF_CONTENT_TYPE]) }),
            ["v3"] => Some(Self::Index),
            ["v3", "api", version] => Some(Self::Version { group: "", version, protobuf: prefers_third(accept) }),
            ["v3", "apis", group, version] => Some(Self::Version { group, version, protobuf: prefers_third(accept) }),
            _ => None,
        }
    }
    fn hash(self, kinds: &[PublishedKind]) -> String {
        match self {
            Self::Index | Self::Second { .. } => openapi::v2_hash(kinds),
            Self::Version { group, version, .. } => openapi::v3_hash(group, version, kinds),
        }
    }
    fn make(self, kinds: &[PublishedKind]) -> Result<Option<(Vec<u8>, &'static str)>, ApiError> {
        let json = |value: &serde_json::Value| serde_json::to_vec(value).map_err(ApiError::internal);
        Ok(match self {
            Self::Index => Some((json(&openapi::v3_index(kinds))?, "application/json")),
            Self::Version { group, version, protobuf } => match openapi::v3_document(group, version, kinds) {
                Some(document) if protobuf => Some((openapi::v3_protobuf(&document), V3_PROTOBUF_CONTENT_TYPE)),
                Some(document) => Some((json(&document)?, "application/json")),
                None => None,
            },
            Self::Second { protobuf: false } => Some((json(&openapi::v2_document(kinds))?, "application/json")),
            Self::Second { protobuf: true } => Some((openapi::v2_protobuf(&openapi::v2_document(kinds)), V2_PROTOBUF_CONTENT_TYPE)),
        })
    }
}

fn prefers_third(accept: &str) -> bool {
    prefers(accept, &[V3_PROTOBUF_MEDIA_TYPE, V3_PROTOBUF_CONTENT_TYPE])
}

/// Whether one of these is what is wanted most of all that there is; what comes first counts among equals.
fn prefers(accept: &str, protobuf: &[&str]) -> bool {
    let mut best = (false, 0.0);
    for clause in accept.split(',') {
        let mut parts = clause.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let is_protobuf = protobuf.contains(&name);
        if !is_protobuf && !matches!(name, "application/json" | "application/*" | "*/*" | "*") {
            continue;
        }
        let quality: f32 = parts.find_map(|part| part.strip_prefix("q=")).map_or(1.0, |quality| quality.parse().unwrap_or(0.0));
        if quality > best.1 {
            best = (is_protobuf, quality);
        }
    }
    best.0
}

impl Documents {
    /// A document with what other servers publish in it.
    fn with_remotes(&self, scheme: &Arc<Scheme>, remotes: &Remotes, custom: impl Fn() -> Vec<PublishedKind>, wanted: Wanted<'_>) -> Result<Option<Document>, ApiError> {
        let theirs = documents::hash(remotes);
        if theirs.is_empty() || matches!(wanted, Wanted::Version { .. }) {
            return self.get(scheme, custom, wanted);
        }
        let plain = if wanted == Wanted::Index { wanted } else { Wanted::Second { protobuf: false } };
        let Some(own) = self.get(scheme, custom, plain)? else { return Ok(None) };
        let hash = format!("{}{theirs}", own.hash);
        let name = format!("{wanted:?} with others");
        if let Some(known) = self.kept.lock().documents.get(&name).filter(|known| *known.hash == *hash) {
            return Ok(Some(known.clone()));
        }
        let mut value = serde_json::from_slice(&expand(&own.gzip)?).map_err(ApiError::internal)?;
        match wanted {
            Wanted::Index => documents::add_to_index(&mut value, remotes),
            _ => documents::add_to_second(&mut value, remotes),
        }
        let (bytes, content_type) = match wanted {
            Wanted::Second { protobuf: true } => (openapi::v2_protobuf(&value), V2_PROTOBUF_CONTENT_TYPE),
            _ => (serde_json::to_vec(&value).map_err(ApiError::internal)?, "application/json"),
        };
        let document = Document { hash: hash.into(), gzip: compress(&bytes)?, content_type };
        self.kept.lock().documents.insert(name, document.clone());
        Ok(Some(document))
    }

    /// `custom` gives the custom kinds as their definitions write them, words and value rules included.
    fn get(&self, scheme: &Arc<Scheme>, custom: impl Fn() -> Vec<PublishedKind>, wanted: Wanted<'_>) -> Result<Option<Document>, ApiError> {
        let name = format!("{wanted:?}");
        let kinds = {
            let mut kept = self.kept.lock();
            if !kept.scheme.as_ref().is_some_and(|known| Arc::ptr_eq(known, scheme)) {
                let kinds = scheme.kinds().filter(|kind| !kind.info().custom).map(|kind| published(kind.as_ref())).chain(custom()).collect();
                *kept = Kept { scheme: Some(scheme.clone()), kinds, documents: HashMap::new() };
            }
            if let Some(document) = kept.documents.get(&name) {
                return Ok(Some(document.clone()));
            }
            kept.kinds.clone()
        };
        // Made outside the lock: it takes a while, and others may want what is there.
        let Some((bytes, content_type)) = wanted.make(&kinds)? else { return Ok(None) };
        let document = Document { hash: wanted.hash(&kinds).into(), gzip: compress(&bytes)?, content_type };
        let mut kept = self.kept.lock();
        if kept.scheme.as_ref().is_some_and(|known| Arc::ptr_eq(known, scheme)) {
            kept.documents.insert(name, document.clone());
        }
        Ok(Some(document))
    }
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accepted.split(',').any(|part| part.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case("gzip")))
}

/// Answers an OpenAPI path.
///
/// # Errors
/// 404 for documents of groups that are not served, 406 for forms there are not.
pub fn answer(core: &Core, context: &RequestContext, headers: &HeaderMap) -> Result<Response<Body>, ApiError> {
    let wanted = Wanted::parse(&context.info.path, &context.accept).ok_or_else(ApiError::no_such_path)?;
    let json_taken = context.accept.is_empty() || ["json", "*/*", "application/*"].iter().any(|form| context.accept.contains(form));
    if !json_taken && !matches!(wanted, Wanted::Second { protobuf: true } | Wanted::Version { protobuf: true, .. }) {
        return Err(ApiError::new(406, Reason::NotAcceptable, "only the following media types are accepted: application/json"));
    }
    let scheme = core.scheme.load_full();
    let document = core.openapi.with_remotes(&scheme, &core.aggregation.remotes(), || crate::custom_resources::published(core, &scheme), wanted)?.ok_or_else(ApiError::no_such_path)?;
    let asked_hash = context.query.value("hash").filter(|hash| !hash.is_empty());
    let mut response = Response::new(empty());
    let set = |response: &mut Response<Body>, name, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    };
    if let (Wanted::Version { .. }, Some(asked)) = (wanted, asked_hash)
        && !asked.eq_ignore_ascii_case(&document.hash)
    {
        // Documents are kept by their address for ever, so an old address leads to the new one.
        *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
        set(&mut response, header::LOCATION, &format!("{}?hash={}", context.info.path, document.hash));
        set(&mut response, header::CACHE_CONTROL, "no-cache, private");
        return Ok(response);
    }
    let tag = format!("\"{}\"", document.hash);
    set(&mut response, header::ETAG, &tag);
    set(&mut response, header::VARY, "Accept, Accept-Encoding");
    set(&mut response, header::CACHE_CONTROL, if asked_hash.is_some() { "public, immutable, max-age=31536000" } else { "no-cache, private" });
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if known.split(',').any(|known| known.trim().trim_start_matches("W/") == tag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    set(&mut response, header::CONTENT_TYPE, document.content_type);
    if takes_gzip(headers) {
        set(&mut response, header::CONTENT_ENCODING, "gzip");
        *response.body_mut() = full(document.gzip);
    } else {
        *response.body_mut() = full(expand(&document.gzip)?);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_their_documents() {
        assert_eq!(Wanted::parse("/openapi/v3/", ""), Some(Wanted::Index));
        assert_eq!(Wanted::parse("/openapi/v3/api/v1", ""), Some(Wanted::Version { group: "", version: "v1", protobuf: false }));
        let apps = |protobuf| Some(Wanted::Version { group: "apps", version: "v1", protobuf });
        for (accept, protobuf) in [
            ("", false),
            ("application/json", false),
            (V3_PROTOBUF_MEDIA_TYPE, true),
            (V3_PROTOBUF_CONTENT_TYPE, true),
            (&format!("{V3_PROTOBUF_MEDIA_TYPE}, application/json"), true),
            (&format!("{V3_PROTOBUF_MEDIA_TYPE}; q=0.5, application/json"), false),
            (&format!("application/json, {V3_PROTOBUF_MEDIA_TYPE}"), false),
            (V2_PROTOBUF_MEDIA_TYPE, false),
        ] {
            assert_eq!(Wanted::parse("/openapi/v3/apis/apps/v1", accept), apps(protobuf), "{accept}");
        }
        assert_eq!(Wanted::parse("/openapi/v2", V2_PROTOBUF_MEDIA_TYPE), Some(Wanted::Second { protobuf: true }));
        assert_eq!(Wanted::parse("/openapi/v2", V2_PROTOBUF_CONTENT_TYPE), Some(Wanted::Second { protobuf: true }));
        assert_eq!(Wanted::parse("/openapi/v2", "application/json"), Some(Wanted::Second { protobuf: false }));
        assert_eq!(Wanted::parse("/openapi/v4", ""), None);
    }

    #[test]
    fn documents_are_made_once_and_come_back_whole() {
        let (documents, scheme) = (Documents::default(), Arc::new(kinds::served::serve_all()));
        let apps = |protobuf| Wanted::Version { group: "apps", version: "v1", protobuf };
        let first = documents.get(&scheme, Vec::new, apps(false)).unwrap().unwrap();
        let again = documents.get(&scheme, Vec::new, apps(false)).unwrap().unwrap();
        let other = documents.get(&scheme, Vec::new, apps(true)).unwrap().unwrap();
        assert_eq!((&other.hash, other.content_type), (&first.hash, V3_PROTOBUF_CONTENT_TYPE), "it is the same document");
        assert_eq!(first.gzip.as_ptr(), again.gzip.as_ptr());
        let value: serde_json::Value = serde_json::from_slice(&expand(&first.gzip).unwrap()).unwrap();
        assert_eq!(value["openapi"], "3.0.0");
        assert!(documents.get(&scheme, Vec::new, Wanted::Version { group: "no", version: "v1", protobuf: false }).unwrap().is_none());
    }
}
