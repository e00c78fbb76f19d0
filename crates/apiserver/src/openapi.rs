//! `/openapi/v3`, its documents per group and version, and `/openapi/v2`, made on demand from the Scheme's schemas.

use http::{HeaderMap, Response};
use meta::ApiError;

use crate::{
    core::{Core, RequestContext},
    http_body::Body,
};

/// Answers an OpenAPI path.
///
/// # Errors
/// 404 for documents of groups that are not served.
pub fn answer(_core: &Core, _context: &RequestContext, _headers: &HeaderMap) -> Result<Response<Body>, ApiError> {
    Err(ApiError::no_such_path())
}
