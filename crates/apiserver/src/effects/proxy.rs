//! `proxy` of pods, services and nodes: any request, passed on to what serves behind the name.
//!
//! A name is `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT`. Source: Kubernetes `apimachinery/pkg/util/net/port_split.go`,
//! `apimachinery/pkg/util/proxy`, and `ResourceLocation` of each kind's registry. Links in the answers: `proxy_links`.

use std::{net::IpAddr, sync::Arc};

use async_trait::async_trait;
use client::AnyCertificate;
use dialer::{Connection, Target};
use http::{HeaderValue, Method, Response, StatusCode, header};
use kinds::ServedKind;
use meta::{ApiError, Object};
use rand::seq::IndexedRandom;
use rustls_pki_types::ServerName;
use serde_json::Value;

use crate::{
    core::{Core, RequestContext},
    effects::{Handler, forward, pod_streams::admit_connect, proxy_links::Links, service_back_ends},
    handler::read,
    http_body::{Body, Request, empty},
};

/// The usual port of a node's API.
const NODE_PORT: u16 = 10250;

/// Answers for all three kinds.
pub struct ProxyHandler;

/// Where a request goes.
struct Destination {
    target: Target,
    tls: bool,
    host: String,
}

/// Scheme, name and port of `[SCHEME:]NAME[:PORT]`; none where it is neither.
fn split(text: &str) -> Option<(&str, &str, &str)> {
    let parts: Vec<&str> = text.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => return None,
    };
    (!name.is_empty() && matches!(scheme, "" | "http" | "https")).then_some((scheme, name, port))
}

fn stored_object(core: &Core, kind: &Arc<dyn ServedKind>, namespace: &str, name: &str) -> Result<Object, ApiError> {
    let stored = read::find(core, kind, namespace, name)?;
    core.served_object(kind, &stored)
}

/// An address that may be proxied to: none of this machine's own or of a link.
fn allowed(text: &str) -> Result<IpAddr, ApiError> {
    let not_allowed = || ApiError::bad_request("address not allowed");
    // An IPv4 address in the clothes of an IPv6 one is what it is.
    let address = text.parse::<IpAddr>().map_err(|_| not_allowed())?.to_canonical();
    let link_local = match address {
        IpAddr::V4(four) => four.is_link_local() || four.is_broadcast(),
        IpAddr::V6(six) => six.is_unicast_link_local(),
    };
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() || link_local { Err(not_allowed()) } else { Ok(address) }
}

fn at_address(address: IpAddr, port: u16, node: Option<&str>, tls: bool) -> Destination {
    let target = match node.filter(|node| !node.is_empty()) {
        Some(node) => Target::Pod { node: node.to_owned(), address, port },
        None => Target::Address { host: address.to_string(), port },
    };
    Destination { target, tls, host: std::net::SocketAddr::new(address, port).to_string() }
}

fn pod_destination(core: &Core, kind: &Arc<dyn ServedKind>, namespace: &str, asked: &str) -> Result<Destination, ApiError> {
    let Some((scheme, name, port)) = split(asked) else { return Err(ApiError::bad_request(format!("invalid pod request {asked:?}"))) };
    let pod = stored_object(core, kind, namespace, name)?;
    let containers = pod.get(&["spec", "containers"]).and_then(Value::as_array);
    let ports = || containers.into_iter().flatten().filter_map(|container| container.get("ports").and_then(Value::as_array)).flatten();
    let number = |entry: &Value| entry.get("containerPort").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
    let port = if port.is_empty() {
        ports().find_map(number).unwrap_or(if scheme == "https" { 443 } else { 80 })
    } else if let Ok(port) = port.parse() {
        port
    } else {
        let named = ports().find(|entry| entry.get("name").and_then(Value::as_str) == Some(port));
        named.and_then(number).ok_or_else(|| ApiError::bad_request(format!("pod {name:?} has no port {port:?}")))?
    };
    let address = allowed(pod.text(&["status", "podIP"]).unwrap_or_default())?;
    Ok(at_address(address, port, pod.text(&["spec", "nodeName"]), scheme == "https"))
}

fn node_destination(core: &Core, kind: &Arc<dyn ServedKind>, asked: &str) -> Result<Destination, ApiError> {
    let Some((scheme, name, port)) = split(asked) else { return Err(ApiError::bad_request(format!("invalid node request {asked:?}"))) };
    let node = stored_object(core, kind, "", name)?;
    let api_port = node.get(&["status", "daemonEndpoints", "kubeletEndpoint", "Port"]).and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
    let port: u16 = match port {
        "" => 0,
        text => text.parse().map_err(|_| ApiError::bad_request(format!("invalid node request {asked:?}: the port must be a number")))?,
    };
    if port == 0 || port == NODE_PORT || Some(port) == api_port {
        return Ok(Destination { target: Target::NodeApi { node: name.to_owned() }, tls: false, host: name.to_owned() });
    }
    let addresses = node.get(&["status", "addresses"]).and_then(Value::as_array);
    let internal = addresses.into_iter().flatten().find(|entry| entry.get("type").and_then(Value::as_str) == Some("InternalIP"));
    let address = allowed(internal.and_then(|entry| entry.get("address")).and_then(Value::as_str).unwrap_or_default())?;
    Ok(at_address(address, port, Some(name), scheme == "https"))
}

fn service_destination(core: &Core, kind: &Arc<dyn ServedKind>, namespace: &str, asked: &str) -> Result<Destination, ApiError> {
    let Some((scheme, name, port)) = split(asked) else { return Err(ApiError::bad_request(format!("invalid service request {asked:?}"))) };
    let service = stored_object(core, kind, namespace, name)?;
    let port_name = service_back_ends::port_name(&service, port)?;
    let candidates = service_back_ends::ready(core, namespace, name, &port_name, |address| allowed(address).ok());
    let Some(chosen) = candidates.choose(&mut rand::rng()) else {
        return Err(ApiError::unavailable(format!("no endpoints available for service {asked:?}")));
    };
    Ok(at_address(chosen.address, chosen.port, chosen.node.as_deref(), scheme == "https"))
}

async fn secure(connection: Box<dyn Connection>, address: IpAddr) -> Result<impl Connection, ApiError> {
    let config = rustls::ClientConfig::builder_with_provider(pki::tls::provider())
        .with_safe_default_protocol_versions()
        .map_err(ApiError::internal)?
        .dangerous()
        // A pod's name and address prove nothing, and upstream checks none here either.
        .with_custom_certificate_verifier(AnyCertificate::new(pki::tls::provider()))
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let connecting = connector.connect(ServerName::IpAddress(address.into()), connection);
    let secured = tokio::time::timeout(dialer::direct::CONNECT_TIMEOUT, connecting).await;
    match secured {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(ApiError::unavailable(format!("error trying to reach service: {error}"))),
        Err(_) => Err(ApiError::unavailable("error trying to reach service: TLS handshake timeout")),
    }
}

#[async_trait]
impl Handler for ProxyHandler {
    async fn handle(&self, core: &Arc<Core>, context: RequestContext, kind: &Arc<dyn ServedKind>, request: Request) -> Result<Response<Body>, ApiError> {
        let info = &context.info;
        let destination = match info.resource.as_str() {
            "pods" => pod_destination(core, kind, &info.namespace, &info.name)?,
            "services" => service_destination(core, kind, &info.namespace, &info.name)?,
            _ => node_destination(core, kind, &info.name)?,
        };
        admit_connect(core, &context, kind).await?;
        let path = request.uri().path().to_owned();
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        let upgrades = streaming::handshake::is_upgrade(request.headers());
        if info.rest.is_empty() && !path.ends_with('/') && !upgrades && matches!(*request.method(), Method::GET | Method::HEAD) {
            // Relative links of the page would otherwise lead beside it.
            let mut response = Response::new(empty());
            *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
            response.headers_mut().insert(header::LOCATION, HeaderValue::from_str(&format!("{path}/{query}")).map_err(ApiError::internal)?);
            return Ok(response);
        }
        let prefix = path.strip_suffix(&info.rest).unwrap_or(&path).trim_end_matches('/').to_owned();
        let own_host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).or(request.uri().authority().map(|authority| authority.as_str()));
        let own_host = own_host.unwrap_or_default().to_owned();
        let mut request = request;
        let forwarded = [("x-forwarded-uri", format!("{prefix}/{}", info.rest)), ("x-forwarded-host", own_host.clone()), ("x-forwarded-proto", "https".to_owned())];
        for (name, value) in forwarded {
            if let Ok(value) = HeaderValue::from_str(&value) {
                request.headers_mut().insert(name, value);
            }
        }
        let wanted = format!("/{}{query}", info.rest);
        let connected = core.dialer.dial(&destination.target).await;
        let connection = connected.map_err(|error| {
            let story = forward::whole_story(&error);
            if upgrades { ApiError::internal(format!("error dialing backend: {story}")) } else { ApiError::unavailable(format!("error trying to reach service: {story}")) }
        })?;
        let address = match &destination.target {
            Target::Pod { address, .. } => Some(*address),
            Target::Address { host, .. } => host.parse().ok(),
            Target::NodeApi { .. } => None,
        };
        let response = match address.filter(|_| destination.tls) {
            Some(address) => forward::send(request, &wanted, secure(connection, address).await?).await?,
            None => forward::send(request, &wanted, connection).await?,
        };
        Ok(Links { prefix, hosts: vec![destination.host, own_host] }.apply(response))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_carry_a_scheme_and_a_port() {
        assert_eq!(split("web"), Some(("", "web", "")));
        assert_eq!(split("web:http"), Some(("", "web", "http")));
        assert_eq!(split("https:web:443"), Some(("https", "web", "443")));
        assert_eq!(split("https:web:"), Some(("https", "web", "")));
        assert_eq!(split("ftp:web:21"), None);
        assert_eq!(split(":80"), None);
    }

    #[test]
    fn addresses_of_this_machine_are_not_proxied_to() {
        assert!(allowed("10.0.0.1").is_ok());
        for refused in ["127.0.0.1", "169.254.1.1", "::1", "fe80::1", "0.0.0.0", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "no"] {
            assert!(allowed(refused).is_err(), "{refused}");
        }
    }
}
