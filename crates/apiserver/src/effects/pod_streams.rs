//! `pods/NAME/log`, `exec`, `attach` and `portforward`: requests that the node of the pod answers.
//!
//! Source: Kubernetes `pkg/registry/core/pod/rest` and `pkg/registry/core/pod/strategy.go` (`LogLocation`, `streamLocation`).

use std::sync::Arc;

use async_trait::async_trait;
use dialer::Target;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use kinds::ServedKind;
use meta::{ApiError, FieldError, FieldPath, GroupKind, GroupResource, Object, Reason};
use serde_json::{Value, json};

use crate::{
    admission,
    authorization::{Attributes, Authorizer, Decision},
    core::{Core, RequestContext},
    effects::{Handler, forward},
    handler::read,
    http_body::{Body, Request, answer, empty, held_by},
    metrics::requests::Stream,
    options::Query,
};

/// Longest error text taken from a node, in bytes.
const LONGEST_REFUSAL: usize = 2048;

/// Names of a container by default.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

fn names<'a>(pod: &'a Object, field: &str) -> Vec<&'a str> {
    let containers = pod.get(&["spec", field]).and_then(Value::as_array);
    containers.into_iter().flatten().filter_map(|container| container.get("name").and_then(Value::as_str)).collect()
}

/// The container a request means.
fn container_of(pod: &Object, asked: &str, by_annotation: bool) -> Result<String, ApiError> {
    let (containers, init, ephemeral) = (names(pod, "containers"), names(pod, "initContainers"), names(pod, "ephemeralContainers"));
    if !asked.is_empty() {
        if [&containers, &init, &ephemeral].iter().any(|list| list.contains(&asked)) {
            return Ok(asked.to_owned());
        }
        return Err(ApiError::bad_request(format!("container {asked} is not valid for pod {}", pod.name())));
    }
    if let [only] = containers.as_slice() {
        return Ok((*only).to_owned());
    }
    if by_annotation
        && let Some(name) = pod.text(&["metadata", "annotations", DEFAULT_CONTAINER])
        && containers.contains(&name)
    {
        return Ok(name.to_owned());
    }
    let mut message = format!("a container name must be specified for pod {}", pod.name());
    if !containers.is_empty() {
        message.push_str(&format!(", choose one of: [{}]", containers.join(" ")));
        if !init.is_empty() {
            message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
        }
    }
    Err(ApiError::bad_request(message))
}

fn segment(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

fn query_of<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut writer = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in pairs {
        writer.append_pair(name, value);
    }
    let query = writer.finish();
    if query.is_empty() { query } else { format!("?{query}") }
}

fn load(core: &Arc<Core>, context: &RequestContext, kind: &Arc<dyn ServedKind>) -> Result<Object, ApiError> {
    let stored = read::find(core, kind, &context.info.namespace, &context.info.name)?;
    core.served_object(kind, &stored)
}

/// What somebody asks for by connecting, as the object that admission sees: `PodExecOptions` and its like.
fn connect_options(context: &RequestContext, kind: &dyn ServedKind) -> Object {
    let info = &context.info;
    let mut options = Object::default();
    let spoken = kind.info().subresource(&info.subresource).map(|known| known.kind.clone());
    let spoken = spoken.unwrap_or_else(|| kind.info().kind.clone());
    options.set(&["kind"], json!(&*spoken.kind));
    options.set(&["apiVersion"], json!(spoken.group_version().to_string()));
    if info.subresource == "proxy" {
        options.set(&["path"], json!(format!("/{}", info.rest)));
        return options;
    }
    for flag in ["stdin", "stdout", "stderr", "tty"].into_iter().filter(|flag| context.query.flag(flag)) {
        options.set(&[flag], json!(true));
    }
    if let Some(container) = context.query.value("container") {
        options.set(&["container"], json!(container));
    }
    let command: Vec<&str> = context.query.values("command").collect();
    if !command.is_empty() {
        options.set(&["command"], json!(command));
    }
    let ports: Vec<i64> = context.query.values("ports").filter_map(|port| port.parse().ok()).collect();
    if !ports.is_empty() {
        options.set(&["ports"], json!(ports));
    }
    options
}

/// Lets admission see that somebody connects.
///
/// # Errors
/// Its refusal.
pub async fn admit_connect(core: &Arc<Core>, context: &RequestContext, kind: &Arc<dyn ServedKind>) -> Result<(), ApiError> {
    let attributes = admission::Attributes { dry_run: false, ..admission::Attributes::of(admission::Operation::Connect, kind, context) };
    let mut options = connect_options(context, kind.as_ref());
    core.admission.admit(core, &attributes, Some(&mut options), None).await?;
    core.admission.validate(core, &attributes, Some(&options), None).await
}

/// Answers `log`.
pub struct LogHandler;

fn check_log_options(query: &Query, name: &str) -> Result<(), ApiError> {
    let mut problems = Vec::new();
    let mut number = |field: &'static str, least: i64, words: &str| -> Result<Option<i64>, ApiError> {
        let Some(text) = query.value(field).filter(|text| !text.is_empty()) else { return Ok(None) };
        let value: i64 = text.parse().map_err(|_| ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))?;
        if value < least {
            problems.push(FieldError::invalid(&FieldPath::new(field), value, words));
        }
        Ok(Some(value))
    };
    let tail = number("tailLines", 0, "must be greater than or equal to 0")?;
    number("limitBytes", 1, "must be greater than 0")?;
    let since = number("sinceSeconds", 1, "must be greater than 0")?;
    let since_time = query.value("sinceTime").filter(|text| !text.is_empty());
    if since.is_some() && since_time.is_some() {
        problems.push(FieldError::forbidden(&FieldPath::new(""), "at most one of `sinceTime` or `sinceSeconds` may be specified"));
    }
    if let Some(time) = since_time
        && time.parse::<jiff::Timestamp>().is_err()
    {
        return Err(ApiError::bad_request(format!("sinceTime {time:?} is not a time as in RFC 3339")));
    }
    match query.value("stream").unwrap_or_default() {
        "" | "All" => {}
        stream @ ("Stdout" | "Stderr") => {
            if tail.is_some() {
                let words = "`tailLines` and specific `stream` are mutually exclusive for now";
                problems.push(FieldError::forbidden(&FieldPath::new(""), format!("{words} ({stream})")));
            }
        }
        other => problems.push(FieldError::not_supported(&FieldPath::new("stream"), other, &["All", "Stdout", "Stderr"])),
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(&GroupKind { group: "".into(), kind: "PodLogOptions".into() }, name, problems))
}

/// What a node refused, as an error of ours.
async fn refusal(response: Response<Body>, name: &str) -> ApiError {
    let code = response.status().as_u16();
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while bytes.len() < LONGEST_REFUSAL
        && let Some(Ok(frame)) = body.frame().await
    {
        if let Ok(data) = frame.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    bytes.truncate(LONGEST_REFUSAL);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    match code {
        500 => ApiError::internal(text),
        400 => ApiError::bad_request(text),
        404 => {
            let mut error = ApiError::new(404, Reason::NotFound, format!("the server could not find the requested resource ( pods/log {name})"));
            error.name = name.to_owned();
            error.kind = "pods/log".to_owned();
            error.with_cause("UnexpectedServerResponse", text, "")
        }
        _ => ApiError::new(code, Reason::Unknown, text),
    }
}

/// The answer as the client wants it: over WebSocket, where it asks for that.
fn sent(request: &mut Request, response: Response<Body>) -> Response<Body> {
    if !streaming::handshake::is_websocket(request.headers()) {
        return response;
    }
    let under_way = request.extensions().get::<Arc<Stream>>().cloned();
    let body = held_by(response.into_body(), under_way);
    let switched = streaming::serve_download(request, body).unwrap_or_else(|error| error.response());
    switched.map(|bytes| Full::new(bytes).map_err(|never| match never {}).boxed_unsync())
}

#[async_trait]
impl Handler for LogHandler {
    async fn handle(&self, core: &Arc<Core>, context: RequestContext, kind: &Arc<dyn ServedKind>, mut request: Request) -> Result<Response<Body>, ApiError> {
        if context.info.verb != "get" {
            return Err(ApiError::method_not_allowed(format!("the server does not allow {} on a log", context.info.verb)));
        }
        let name = &context.info.name;
        check_log_options(&context.query, name)?;
        let pod = load(core, &context, kind)?;
        let container = container_of(&pod, context.query.value("container").unwrap_or_default(), false)?;
        let Some(node) = pod.text(&["spec", "nodeName"]).filter(|node| !node.is_empty()) else {
            // No node, no log yet: upstream answers with nothing.
            return Ok(sent(&mut request, answer(StatusCode::OK, "text/plain", "")));
        };
        let wanted = ["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream"];
        let pairs = context.query.pairs.iter().filter(|(name, value)| wanted.contains(&name.as_str()) && !value.is_empty());
        let path = format!(
            "/containerLogs/{}/{}/{}{}",
            segment(&context.info.namespace),
            segment(name),
            segment(&container),
            query_of(pairs.map(|(name, value)| (name.as_str(), value.as_str())))
        );
        let connection = forward::dial(core, &Target::NodeApi { node: node.to_owned() }).await?;
        let mut response = forward::send(http::Request::get(&path).body(empty()).map_err(ApiError::internal)?, &path, connection).await?;
        if !response.status().is_success() {
            return Err(refusal(response, name).await);
        }
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        Ok(sent(&mut request, response))
    }
}

/// Answers `exec`, `attach` and `portforward`.
pub struct StreamHandler;

#[async_trait]
impl Handler for StreamHandler {
    async fn handle(&self, core: &Arc<Core>, context: RequestContext, kind: &Arc<dyn ServedKind>, request: Request) -> Result<Response<Body>, ApiError> {
        if !matches!(context.info.verb, "get" | "create") {
            return Err(ApiError::method_not_allowed(format!("the server does not allow {} on {}", context.info.verb, context.info.full_resource())));
        }
        if context.info.verb == "get" {
            // WebSockets begin with GET, but what they do is no read. Source: Kubernetes 1.35,
            // AuthorizePodWebsocketUpgradeCreatePermission.
            let attributes = Attributes { verb: "create", ..Attributes::of(&context.user, &context.info) };
            if let Decision::Deny(_) | Decision::NoOpinion(_) = core.authorization.authorize(&attributes) {
                let resource = GroupResource::new("", "pods");
                return Err(ApiError::forbidden(&resource, &context.info.name, attributes.describe_refusal()));
            }
        }
        let pod = load(core, &context, kind)?;
        admit_connect(core, &context, kind).await?;
        let (namespace, name) = (segment(&context.info.namespace), segment(&context.info.name));
        let pairs = context.query.pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let path = if context.info.subresource == "portforward" {
            format!("/portForward/{namespace}/{name}{}", query_of(pairs.filter(|(name, _)| *name == "port" || *name == "ports").map(|(_, value)| ("port", value))))
        } else {
            let asked = |name: &str| context.query.flag(name);
            if !(asked("stdin") || asked("stdout") || asked("stderr")) {
                return Err(ApiError::bad_request("you must specify at least one of stdin, stdout, stderr"));
            }
            if context.info.subresource == "exec" && context.query.value("command").is_none() {
                return Err(ApiError::bad_request("you must specify at least 1 command for the container"));
            }
            let container = segment(&container_of(&pod, context.query.value("container").unwrap_or_default(), true)?);
            let wanted = ["stdin", "stdout", "stderr", "tty", "command"];
            format!("/{}/{namespace}/{name}/{container}{}", context.info.subresource, query_of(pairs.filter(|(name, _)| wanted.contains(name))))
        };
        let Some(node) = pod.text(&["spec", "nodeName"]).filter(|node| !node.is_empty()) else {
            return Err(ApiError::bad_request(format!("pod {} does not have a host assigned", context.info.name)));
        };
        if !streaming::handshake::is_upgrade(request.headers()) {
            return Err(ApiError::bad_request("Upgrade request required"));
        }
        let connection = forward::dial(core, &Target::NodeApi { node: node.to_owned() }).await?;
        forward::send(request, &path, connection).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(containers: &[&str], init: &[&str]) -> Object {
        let list = |names: &[&str]| names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>();
        Object::from_value(json!({"metadata": {"name": "p", "annotations": {DEFAULT_CONTAINER: "b"}},
            "spec": {"containers": list(containers), "initContainers": list(init)}}))
        .unwrap()
    }

    #[test]
    fn the_only_container_needs_no_name_and_several_do() {
        assert_eq!(container_of(&pod(&["a"], &[]), "", false).unwrap(), "a");
        let several = pod(&["a", "b"], &["i"]);
        assert_eq!(container_of(&several, "", true).unwrap(), "b");
        assert_eq!(container_of(&several, "i", false).unwrap(), "i");
        let error = container_of(&several, "", false).unwrap_err();
        assert_eq!(error.message, "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]");
        assert_eq!(container_of(&several, "x", false).unwrap_err().message, "container x is not valid for pod p");
    }

    #[test]
    fn log_parameters_that_cannot_be_are_refused() {
        let check = |text: &str| check_log_options(&Query::parse(text).unwrap(), "p").map_err(|error| error.message);
        assert_eq!(check("tailLines=5&follow=true&limitBytes=1"), Ok(()));
        assert!(check("tailLines=-1").unwrap_err().contains("must be greater than or equal to 0"));
        assert!(check("sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z").is_err());
        assert!(check("stream=Both").is_err());
    }
}
