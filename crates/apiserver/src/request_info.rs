//! What a request is about, read from its method and path alone.
//!
//! Source: Kubernetes `apiserver/pkg/endpoints/request/requestinfo.go`.

use http::Method;

/// Verb, resource and name of a request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestInfo {
    /// About a resource, rather than a path such as `/version`.
    pub is_resource: bool,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for paths the method in lower case.
    pub verb: &'static str,
    /// API group, empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Namespace, empty for none.
    pub namespace: String,
    /// Plural name.
    pub resource: String,
    /// `status`, `log`, …; empty for none.
    pub subresource: String,
    /// Object name, empty for collections.
    pub name: String,
    /// What follows the subresource (`proxy/REST`), without the slash.
    pub rest: String,
    /// The path as it came.
    pub path: String,
}

fn decode(segment: &str) -> String {
    if segment.contains('%') { percent_decode(segment) } else { segment.to_owned() }
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut position = 0;
    while let Some(&byte) = bytes.get(position) {
        let hex = bytes.get(position + 1..position + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        match (byte, hex.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(value)) => {
                decoded.push(value);
                position += 3;
            }
            _ => {
                decoded.push(byte);
                position += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn method_verb(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        _ => "unknown",
    }
}

impl RequestInfo {
    /// Reads method, path and query. `watch_asked` tells whether the query has a true `watch` parameter.
    pub fn parse(method: &Method, path: &str, watch_asked: bool) -> Self {
        let mut info = Self { path: path.to_owned(), verb: method_verb(method), ..Self::default() };
        let mut segments = path.split('/').filter(|segment| !segment.is_empty());
        match segments.next() {
            Some("api") => {}
            Some("apis") => match segments.next() {
                Some(group) => info.group = decode(group),
                None => return info,
            },
            _ => return info,
        }
        match segments.next() {
            Some(version) => info.version = decode(version),
            None => return info,
        }
        let mut rest: Vec<&str> = segments.collect();
        if rest.is_empty() {
            return info;
        }
        info.is_resource = true;
        info.verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        };
        let mut old_watch = false;
        if rest.len() > 1 && rest.first() == Some(&"watch") {
            old_watch = true;
            rest.remove(0);
        }
        if rest.first() == Some(&"namespaces") && rest.len() > 1 {
            let namespace = rest.get(1).copied().unwrap_or_default();
            info.namespace = decode(namespace);
            // `namespaces/NAME` and its own subresources are about the namespace object.
            if rest.len() > 2 && !(rest.len() == 3 && matches!(rest.get(2), Some(&"status" | &"finalize"))) {
                rest.drain(..2);
            }
        }
        let mut parts = rest.into_iter();
        info.resource = parts.next().map(decode).unwrap_or_default();
        info.name = parts.next().map(decode).unwrap_or_default();
        info.subresource = parts.next().map(decode).unwrap_or_default();
        if matches!(info.subresource.as_str(), "proxy") {
            // The rest goes to the proxied server exactly as it came.
            let marker = format!("/{}/", info.subresource);
            let after_name = path.find(&format!("/{}/", info.resource)).map_or(0, |found| found + info.resource.len() + 2);
            info.rest = path
                .get(after_name..)
                .and_then(|tail| tail.find(&marker).and_then(|found| tail.get(found + marker.len()..)))
                .unwrap_or_default()
                .to_owned();
        } else {
            info.rest = parts.map(decode).collect::<Vec<_>>().join("/");
        }
        if info.name.is_empty() {
            info.verb = match info.verb {
                "get" if watch_asked || old_watch => "watch",
                "get" => "list",
                "delete" => "deletecollection",
                other => other,
            };
        } else if info.verb == "get" && info.subresource.is_empty() && (watch_asked || old_watch) {
            info.verb = "watch";
        }
        info
    }
    /// Whether it is about a connection to what stands behind an object.
    /// Source: upstream's `validConnectRequests` of `apiserver/pkg/endpoints/metrics/metrics.go`.
    pub fn connects(&self) -> bool {
        matches!(self.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy")
    }
    /// Whether its answer is a stream that may go on for as long as both sides like.
    pub fn is_long_running(&self) -> bool {
        self.verb == "watch" || self.connects()
    }
    /// `resource/subresource` as authorization rules name it.
    pub fn full_resource(&self) -> String {
        if self.subresource.is_empty() { self.resource.clone() } else { format!("{}/{}", self.resource, self.subresource) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: Method, path: &str, watch: bool, expected: &str) {
        let info = RequestInfo::parse(&method, path, watch);
        let shown = format!(
            "{} {}/{} ns={} {} name={} sub={} rest={}",
            info.verb, info.group, info.version, info.namespace, info.resource, info.name, info.subresource, info.rest
        );
        assert_eq!(shown, expected);
    }

    #[test]
    fn paths_read_as_upstream_reads_them() {
        check(Method::GET, "/api/v1/namespaces/a/pods/b/log", false, "get /v1 ns=a pods name=b sub=log rest=");
        check(Method::GET, "/api/v1/namespaces/a", false, "get /v1 ns=a namespaces name=a sub= rest=");
        check(Method::PUT, "/api/v1/namespaces/a/finalize", false, "update /v1 ns=a namespaces name=a sub=finalize rest=");
        check(Method::GET, "/apis/apps/v1/deployments", true, "watch apps/v1 ns= deployments name= sub= rest=");
        check(Method::DELETE, "/api/v1/namespaces/a/pods", false, "deletecollection /v1 ns=a pods name= sub= rest=");
        check(Method::GET, "/api/v1/watch/namespaces/a/pods/b", false, "watch /v1 ns=a pods name=b sub= rest=");
        check(Method::POST, "/api/v1/namespaces/a/services/s:80/proxy/x/y%20z", false, "create /v1 ns=a services name=s:80 sub=proxy rest=x/y%20z");
        check(Method::GET, "/version", false, "get / ns=  name= sub= rest=");
    }
}
