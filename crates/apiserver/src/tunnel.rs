//! Where agents open the tunnels through which this server reaches their nodes; what a tunnel is, the crate `dialer` says.

use http::Response;
use http_body_util::{BodyExt, Full};
use meta::{ApiError, Reason};

use crate::{
    core::{Core, RequestContext},
    http_body::{Body, Request},
};

/// The group of nodes.
const NODES: &str = "system:nodes";

/// What the name of a node's user begins with.
const NODE_PREFIX: &str = "system:node:";

/// Turns the connection into the tunnel of the node that asks.
pub fn answer(core: &Core, context: &RequestContext, request: Request) -> Result<Response<Body>, ApiError> {
    let Some(tunnels) = &core.tunnels else { return Err(ApiError::no_such_path()) };
    let is_node = context.user.groups.iter().any(|group| group == NODES);
    let Some(node) = context.user.name.strip_prefix(NODE_PREFIX).filter(|_| is_node) else {
        return Err(ApiError::new(403, Reason::Forbidden, "forbidden: only nodes have tunnels"));
    };
    Ok(tunnels.accept(node, request).map(|body| Full::new(body).map_err(|never| match never {}).boxed_unsync()))
}
