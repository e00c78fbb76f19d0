//! What this node says of itself: `/configz`, `/flagz` and `/statusz`, for people and for tools that want to know what they talk to.
//!
//! Source of paths, names and shapes: Kubernetes 1.36, `k8s.io/component-base/zpages`, `KubeletConfiguration` and the kubelet's flags. Only
//! settings that this node has are told.

use std::{collections::BTreeMap, sync::LazyLock};

use http::{HeaderMap, Response, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Body, access, json as json_answer, text};
use crate::{
    config::{Context, NodeConfig},
    eviction,
    pod::back_off::go_duration,
    quantity::Amount,
};

/// Versions in which the pages can be had as objects.
const VERSIONS: [&str; 2] = ["v1beta1", "v1alpha1"];

const WARNING: &str =
    "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.";

/// Paths of the node's API, as `/statusz` lists them.
const PATHS: [&str; 17] = [
    "/attach", "/checkpoint", "/configz", "/containerLogs", "/debug/flags/v", "/debug/pprof", "/exec", "/flagz", "/healthz", "/logs", "/metrics", "/pods",
    "/portForward", "/run", "/runningpods", "/stats", "/statusz",
];

/// When this process began, as near as one who is asked later can tell.
static STARTED: LazyLock<Timestamp> = LazyLock::new(Timestamp::now);

/// When this process began.
pub fn started() -> Timestamp {
    *STARTED
}

/// Notes the time, at the node's start.
pub fn note_start() {
    LazyLock::force(&STARTED);
}

/// How a page is wanted.
#[derive(Debug, PartialEq, Eq)]
enum Form {
    Text,
    /// As an object of this version.
    Object(&'static str),
}

/// What a client accepts of a page; the first that can be had.
fn wanted(headers: &HeaderMap, kind: &str) -> Option<Form> {
    let accept = headers.get(header::ACCEPT).map_or(Ok("*/*"), |accept| accept.to_str()).ok()?;
    accept.split(',').find_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next()?.to_ascii_lowercase();
        let parameters: BTreeMap<&str, &str> = parts.filter_map(|part| part.split_once('=')).filter(|(name, _)| *name != "q").collect();
        match media_type.as_str() {
            "" | "*/*" | "text/*" | "text/plain" => {
                let is_utf8 = parameters.iter().all(|(name, value)| *name == "charset" && value.eq_ignore_ascii_case("utf-8"));
                is_utf8.then_some(Form::Text)
            }
            "application/json" if parameters.get("as") == Some(&kind) && parameters.get("g") == Some(&"config.k8s.io") => {
                VERSIONS.into_iter().find(|version| parameters.get("v") == Some(version)).map(Form::Object)
            }
            _ => None,
        }
    })
}

/// Answers with a page in the form that is accepted.
fn page(headers: &HeaderMap, kind: &str, words: impl FnOnce() -> String, fields: impl FnOnce() -> Map<String, Value>) -> Response<Body> {
    match wanted(headers, kind) {
        Some(Form::Text) => text(StatusCode::OK, words()),
        Some(Form::Object(version)) => {
            let mut object = fields();
            object.insert("kind".to_owned(), kind.into());
            object.insert("apiVersion".to_owned(), format!("config.k8s.io/{version}").into());
            object.insert("metadata".to_owned(), json!({ "name": "kubelet" }));
            json_answer(&Value::Object(object))
        }
        None => text(StatusCode::NOT_ACCEPTABLE, "media type not acceptable, must be: text/plain\n"),
    }
}

/// `/statusz`: since when it works, and in which version.
pub fn status(context: &Context, headers: &HeaderMap) -> Response<Body> {
    let now = context.config.clock.now();
    let (started, version) = (*STARTED, context.config.version.trim_start_matches('v').split('+').next().unwrap_or_default().to_owned());
    let seconds = now.duration_since(started).as_secs().max(0);
    let emulated = version.rsplit_once('.').map_or(version.clone(), |(release, _)| release.to_owned());
    let words = || {
        let up = format!("{} hr {:02} min {:02} sec", seconds / 3600, seconds / 60 % 60, seconds % 60);
        let begun = started.strftime("%a %b %e %H:%M:%S UTC %Y");
        let paths = PATHS.join(" ");
        format!("\nkubelet statusz\n{WARNING}\n\nStarted: {begun}\nUp: {up}\nGo version: rust\nBinary version: {version}\nEmulation version: {emulated}\nPaths: {paths}\n")
    };
    let fields = || {
        let object = json!({
            "startTime": started.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(), "uptimeSeconds": seconds, "goVersion": "rust", "binaryVersion": version,
            "emulationVersion": emulated, "paths": PATHS,
        });
        object.as_object().cloned().unwrap_or_default()
    };
    page(headers, "Statusz", words, fields)
}

/// `/flagz`: the settings by the names of the kubelet's flags.
pub fn flags(context: &Context, headers: &HeaderMap) -> Response<Body> {
    let flags = flags_of(&context.config);
    let words = || {
        let lines: String = flags.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        format!("\nkubelet flags\n{WARNING}\n\n{lines}")
    };
    page(headers, "Flagz", words, || Map::from_iter([("flags".to_owned(), json!(flags))]))
}

fn flags_of(config: &NodeConfig) -> BTreeMap<&'static str, String> {
    let joined = |list: &mut dyn Iterator<Item = String>| list.collect::<Vec<_>>().join(",");
    BTreeMap::from([
        ("allowed-unsafe-sysctls", format!("[{}]", config.allowed_sysctls.join(","))),
        ("cluster-dns", format!("[{}]", joined(&mut config.cluster_dns.iter().map(ToString::to_string)))),
        ("cluster-domain", config.cluster_domain.clone()),
        ("container-log-max-files", config.log_maximum_files.to_string()),
        ("container-log-max-size", size(config.log_maximum_bytes)),
        ("hostname-override", config.name.clone()),
        ("max-pods", config.max_pods.to_string()),
        ("node-ip", joined(&mut config.node_ips.iter().map(ToString::to_string))),
        ("node-labels", joined(&mut config.labels.iter().map(|(name, value)| format!("{name}={value}")))),
        ("pod-manifest-path", config.static_pod_directory.display().to_string()),
        ("port", config.api_port.to_string()),
        ("register-with-taints", joined(&mut config.taints.iter().map(|taint| format!("{}={}:{}", taint.key, taint.value.as_deref().unwrap_or_default(), taint.effect)))),
        ("resolv-conf", config.resolv_conf.display().to_string()),
        ("root-dir", config.data_directory.display().to_string()),
        ("system-reserved", joined(&mut reserved(config).into_iter().map(|(name, amount)| format!("{name}={amount}")))),
    ])
}

fn reserved(config: &NodeConfig) -> BTreeMap<String, String> {
    let shown = |amount: Amount| amount.to_quantity().0;
    config.reserved.iter().map(|(name, amount)| (name.clone(), shown(*amount))).collect()
}

/// Bytes as a quantity.
fn size(bytes: u64) -> String {
    let mebibyte = 1024 * 1024;
    if bytes > 0 && bytes % mebibyte == 0 { format!("{}Mi", bytes / mebibyte) } else { bytes.to_string() }
}

/// `/configz`: the settings as in a `KubeletConfiguration`.
pub fn configuration(context: &Context) -> Response<Body> {
    let config = &context.config;
    let shutdown: Vec<Value> =
        config.shutdown.iter().map(|group| json!({ "priority": group.priority, "shutdownGracePeriodSeconds": group.grace.as_secs() })).collect();
    json_answer(&json!({ "kubeletconfig": {
        "enableServer": true,
        "port": config.api_port,
        "staticPodPath": config.static_pod_directory,
        "authentication": { "x509": {}, "webhook": { "enabled": true, "cacheTTL": go_duration(access::TOKEN_KEPT) }, "anonymous": { "enabled": false } },
        "authorization": { "mode": "Webhook", "webhook": {
            "cacheAuthorizedTTL": go_duration(access::PERMISSION_KEPT), "cacheUnauthorizedTTL": go_duration(access::REFUSAL_KEPT) } },
        "clusterDomain": config.cluster_domain,
        "clusterDNS": config.cluster_dns,
        "nodeLeaseDurationSeconds": config.lease_duration.as_secs(),
        "imageMinimumGCAge": go_duration(eviction::images::MINIMUM_AGE),
        "imageGCHighThresholdPercent": eviction::images::HIGH_PERCENT,
        "imageGCLowThresholdPercent": eviction::images::LOW_PERCENT,
        "cgroupDriver": "cgroupfs",
        "maxPods": config.max_pods,
        "resolvConf": config.resolv_conf,
        "evictionHard": { "memory.available": size(eviction::pressure::LEAST_MEMORY), "nodefs.available": format!("{}%", eviction::pressure::LEAST_DISK_PERCENT),
            "nodefs.inodesFree": format!("{}%", eviction::pressure::LEAST_FILES_PERCENT) },
        "evictionPressureTransitionPeriod": go_duration(eviction::recent::TRANSITION),
        "containerLogMaxSize": size(config.log_maximum_bytes),
        "containerLogMaxFiles": config.log_maximum_files,
        "allowedUnsafeSysctls": config.allowed_sysctls,
        "systemReserved": reserved(config),
        "shutdownGracePeriodByPodPriority": shutdown,
        "enableDebuggingHandlers": true,
        "enableSystemLogHandler": true,
        "enableProfilingHandler": false,
        "enableDebugFlagsHandler": false,
    } }))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn pages_are_text_unless_an_object_of_a_known_version_is_asked_for() {
        #[track_caller]
        fn check(accept: Option<&str>, expected: Option<Form>) {
            let headers = accept.map(|accept| (header::ACCEPT, HeaderValue::from_str(accept).unwrap())).into_iter().collect();
            assert_eq!(wanted(&headers, "Statusz"), expected, "{accept:?}");
        }
        check(None, Some(Form::Text));
        check(Some("*/*"), Some(Form::Text));
        check(Some("text/html, text/plain;charset=UTF-8;q=0.9"), Some(Form::Text));
        check(Some("text/plain;charset=latin1"), None);
        check(Some("application/json"), None);
        check(Some("application/json;v=v1beta1;g=config.k8s.io;as=Statusz"), Some(Form::Object("v1beta1")));
        check(Some("application/json;as=Statusz;v=v1alpha1;g=config.k8s.io, text/plain"), Some(Form::Object("v1alpha1")));
        check(Some("application/json;v=v2;g=config.k8s.io;as=Statusz"), None);
        check(Some("application/json;v=v1beta1;g=config.k8s.io;as=Flagz, */*"), Some(Form::Text));
    }
}
