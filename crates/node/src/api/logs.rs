//! `/containerLogs/NAMESPACE/POD/CONTAINER`: a container's log, or a sentence why there is none.

use std::sync::Arc;

use bytes::Bytes;
use container_runtime::{ContainerId, ContainerState, ContainerStatus, RuntimeEvent};
use futures::StreamExt;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use jiff::SignedDuration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::{Body, answer as plain, parameter, text};
use crate::{
    config::Context,
    logs::reader::{Wanted, read},
    pod::{self, plan::newest, worker::View},
};

/// Answers with a part of a container's log.
pub async fn answer(context: &Arc<Context>, view: &View, container: &str, query: &str) -> Response<Body> {
    let name = pod::name(&view.pod);
    if pod::find_container(&view.pod, container).is_none() {
        return text(StatusCode::NOT_FOUND, format!("container \"{container}\" not found in pod \"{name}\""));
    }
    let (wanted, previous) = match options(context, query) {
        Ok(options) => options,
        Err(problem) => return text(StatusCode::BAD_REQUEST, problem),
    };
    let found = if previous { previous_container(view, container) } else { newest(&view.containers, container) };
    let Some(found) = found.filter(|found| found.state != ContainerState::Created) else {
        return text(StatusCode::BAD_REQUEST, why_none(view, container, previous));
    };
    let ended = CancellationToken::new();
    if wanted.follow {
        follow_end(context.clone(), found.clone(), ended.clone());
    }
    let (send, receive) = mpsc::channel::<Bytes>(4);
    let path = found.log_path.clone();
    let guard = ended.clone().drop_guard();
    tokio::spawn(async move {
        let _guard = guard;
        if let Err(problem) = read(&path, &wanted, ended, &send).await {
            let words = match problem.kind() {
                std::io::ErrorKind::NotFound => return,
                _ => format!("failed to read the log: {problem}\n"),
            };
            drop(send.send(words.into()).await);
        }
    });
    let frames = ReceiverStream::new(receive).map(|bytes| Ok::<_, std::io::Error>(Frame::data(bytes)));
    plain(StatusCode::OK, "text/plain", BodyExt::boxed_unsync(StreamBody::new(frames)))
}

fn options(context: &Context, query: &str) -> Result<(Wanted, bool), String> {
    let flag = |name| matches!(parameter(query, name).as_deref(), Some("true" | "1" | "True" | "t"));
    let number = |name: &str| match parameter(query, name).filter(|value| !value.is_empty()) {
        Some(value) => value.parse::<i64>().map(Some).map_err(|_| format!("{name} must be a number, not {value:?}")),
        None => Ok(None),
    };
    let since = match (number("sinceSeconds")?, parameter(query, "sinceTime").filter(|time| !time.is_empty())) {
        (Some(seconds), _) => context.config.clock.now().checked_sub(SignedDuration::from_secs(seconds)).ok(),
        (None, Some(time)) => Some(time.parse().map_err(|_| format!("sinceTime {time:?} is not a time as in RFC 3339"))?),
        (None, None) => None,
    };
    let only_errors = match parameter(query, "stream").as_deref() {
        Some("Stdout") => Some(false),
        Some("Stderr") => Some(true),
        None | Some("" | "All") => None,
        Some(other) => return Err(format!("stream must be All, Stdout or Stderr, not {other:?}")),
    };
    let wanted = Wanted {
        follow: flag("follow"),
        since,
        // Negative numbers of lines mean all of them.
        tail: number("tailLines")?.and_then(|lines| u64::try_from(lines).ok()),
        timestamps: flag("timestamps"),
        limit_bytes: number("limitBytes")?.and_then(|bytes| u64::try_from(bytes).ok()),
        only_errors,
    };
    Ok((wanted, flag("previous")))
}

/// The run before the one that `state` shows: while a container waits for its next run, that is the last one.
fn previous_container<'a>(view: &'a View, name: &str) -> Option<&'a ContainerStatus> {
    let current = newest(&view.containers, name)?;
    let waits = status_of(view, name).is_some_and(|status| status.state.as_ref().is_some_and(|state| state.waiting.is_some()));
    if waits && matches!(current.state, ContainerState::Exited { .. }) {
        return Some(current);
    }
    view.containers.iter().filter(|other| other.spec.name == name && other.spec.attempt < current.spec.attempt).max_by_key(|other| other.spec.attempt)
}

fn status_of<'a>(view: &'a View, name: &str) -> Option<&'a k8s_openapi::api::core::v1::ContainerStatus> {
    let status = view.pod.status.as_ref()?;
    let all = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    all.into_iter().flatten().flatten().find(|status| status.name == name)
}

fn why_none(view: &View, container: &str, previous: bool) -> String {
    let name = pod::name(&view.pod);
    if previous {
        return format!("previous terminated container \"{container}\" in pod \"{name}\" not found");
    }
    let reason = status_of(view, container).and_then(|status| status.state.as_ref()?.waiting.as_ref()?.reason.clone());
    match reason.as_deref() {
        Some("ErrImagePull") => format!("container \"{container}\" in pod \"{name}\" is waiting to start: image can't be pulled"),
        Some("ImagePullBackOff") => format!("container \"{container}\" in pod \"{name}\" is waiting to start: trying and failing to pull image"),
        Some(reason) => format!("container \"{container}\" in pod \"{name}\" is waiting to start: {reason}"),
        None => format!("container \"{container}\" in pod \"{name}\" is not available"),
    }
}

/// Cancels a token when a container has ended.
fn follow_end(context: Arc<Context>, container: ContainerStatus, ended: CancellationToken) {
    let runtime = context.config.runtime.clone();
    let mut events = runtime.events();
    let is_running = move |id: ContainerId| {
        let runtime = runtime.clone();
        async move { matches!(runtime.container_status(&id).await.map(|status| status.state), Ok(ContainerState::Running { .. })) }
    };
    tokio::spawn(async move {
        let wait = async {
            // Asked after subscribing, so that no end falls between.
            while is_running(container.id.clone()).await {
                loop {
                    match events.next().await {
                        Some(RuntimeEvent::ContainerExited { container: id, .. }) if id != container.id => {}
                        Some(_) => break,
                        None => return,
                    }
                }
            }
        };
        tokio::select! {
            () = wait => ended.cancel(),
            () = ended.cancelled() => {}
        }
    });
}
