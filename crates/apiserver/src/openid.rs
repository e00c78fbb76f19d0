//! OIDC discovery for service account tokens: who issued them and by which keys they are checked.

use http::{HeaderValue, Response, StatusCode, header};
use meta::ApiError;

use crate::{
    core::Core,
    http_body::{Body, json_answer},
};

/// Answers the two paths.
///
/// # Errors
/// 404 where the server has no keys.
pub fn answer(core: &Core, path: &str) -> Result<Response<Body>, ApiError> {
    let Some(tokens) = &core.service_account_tokens else { return Err(ApiError::no_such_path()) };
    Ok(if path.ends_with("jwks") {
        let mut answer = json_answer(StatusCode::OK, &tokens.verifier.json_web_key_set());
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
        answer
    } else {
        let keys = format!("{}/openid/v1/jwks", core.facts.issuer.trim_end_matches('/'));
        json_answer(StatusCode::OK, &tokens.verifier.discovery_document(&keys))
    })
}
