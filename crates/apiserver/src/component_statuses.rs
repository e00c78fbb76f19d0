//! `componentstatuses`: how the parts of the control plane are, found out when somebody asks. Scheduler and controllers live in the process
//! that answers; the store is asked.
//!
//! Source: Kubernetes 1.36, `pkg/registry/core/componentstatus/rest.go`.

use std::sync::Arc;

use http::{Response, StatusCode};
use kinds::ServedKind;
use meta::{ApiError, Object};
use serde_json::json;
use store::Revision;

use crate::{
    core::{Core, RequestContext},
    handler::Selection,
    http_body::Body,
    negotiation::negotiate_for,
    rendering::{self, ListMetadata, respond, respond_with},
    view::{StoredObject, stored::encode},
};

/// Whether a kind is served from here.
pub fn serves(kind: &dyn ServedKind) -> bool {
    let kind = &kind.info().kind;
    kind.group.is_empty() && &*kind.kind == "ComponentStatus"
}

fn status(name: &str, problem: Option<String>) -> Result<Arc<StoredObject>, ApiError> {
    let condition = match problem {
        None => json!({"type": "Healthy", "status": "True", "message": "ok"}),
        Some(problem) => json!({"type": "Healthy", "status": "False", "error": problem}),
    };
    let object = json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name}, "conditions": [condition]});
    let object = Object::from_value(object).map_err(|_| ApiError::internal("a component's status is no object"))?;
    // Of the newest shape, whatever that is: nothing is to be filled in.
    let bytes = encode(&object, u32::MAX, Vec::new()).map_err(ApiError::internal)?;
    StoredObject::decode(name, bytes, Revision(0)).map(Arc::new).map_err(ApiError::internal)
}

/// Answers a get or list.
///
/// # Errors
/// 404 for a component that there is not.
pub async fn answer(core: &Core, context: &RequestContext, kind: &Arc<dyn ServedKind>) -> Result<Response<Body>, ApiError> {
    let negotiated = negotiate_for(&context.accept, kind.info())?;
    let store = core.view.store().current().await.err().map(|error| error.to_string());
    let all = [status("controller-manager", None)?, status("etcd-0", store)?, status("scheduler", None)?];
    if context.info.verb == "get" {
        let found = all.iter().find(|status| *status.key == *context.info.name);
        let found = found.ok_or_else(|| ApiError::not_found(&kind.info().group_resource(), &context.info.name))?;
        return Ok(respond(StatusCode::OK, negotiated, rendering::render(core, kind, found, negotiated)?));
    }
    let selection = Selection::of(context, kind.as_ref())?;
    let meant: Vec<Arc<StoredObject>> = all.into_iter().filter(|status| selection.matches(status)).collect();
    let list = ListMetadata { revision: core.view.revision(), ..ListMetadata::default() };
    Ok(respond_with(StatusCode::OK, negotiated, rendering::render_list(core, context, kind, &meant, &list, negotiated)?))
}
