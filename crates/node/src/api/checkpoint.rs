//! `/checkpoint/NAMESPACE/POD/CONTAINER`: containers cannot be frozen into a file by the runtime at hand, which is said in upstream's words
//! for a runtime that lacks it.

use container_runtime::ContainerState;
use http::{Response, StatusCode};

use super::{Body, text};
use crate::pod::{self, plan::newest, worker::View};

/// What a runtime says that has no checkpoints, as gRPC words it. Source: Kubernetes 1.36, `pkg/kubelet/server`, `checkpoint`, with a runtime
/// that does not implement the call.
const UNIMPLEMENTED: &str = "rpc error: code = Unimplemented desc = unknown method CheckpointContainer for service runtime.v1.RuntimeService";

/// Answers for a container of a pod of this node, or none of that name.
pub fn answer(view: Option<&View>, namespace: &str, name: &str, container: &str, timeout: Option<&str>) -> Response<Body> {
    let Some(view) = view else { return text(StatusCode::NOT_FOUND, "pod does not exist") };
    if pod::find_container(&view.pod, container).is_none() {
        return text(StatusCode::NOT_FOUND, format!("container {container} does not exist"));
    }
    if timeout.is_some_and(|timeout| timeout.parse::<i64>().is_err()) {
        return text(StatusCode::NOT_FOUND, "cannot parse value of timeout parameter");
    }
    let is_there = newest(&view.containers, container).is_some_and(|newest| matches!(newest.state, ContainerState::Running { .. }));
    let problem = if is_there { UNIMPLEMENTED.to_owned() } else { format!("container {container} not found") };
    text(StatusCode::INTERNAL_SERVER_ERROR, format!("checkpointing of {namespace}/{name}/{container} failed ({problem})"))
}
