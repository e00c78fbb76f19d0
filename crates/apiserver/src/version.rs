//! What version of the API is spoken, and of what.

use prometheus_client::metrics::{family::Family, gauge::Gauge};
use serde_json::{Value, json};

/// Version of the Kubernetes API, with our own as build metadata.
pub const GIT_VERSION: &str = concat!("v1.36.0+knarr", env!("CARGO_PKG_VERSION"));

/// `/version`
pub fn info() -> Value {
    json!({
        "major": "1",
        "minor": "36",
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "rust",
        "compiler": "rustc",
        "platform": format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
    })
}

/// What `/version` says, as a metric whose value is always 1. Source: Kubernetes 1.36, `component-base/metrics/version.go`.
pub fn build_info() -> Family<Vec<(&'static str, String)>, Gauge> {
    let info = info();
    let label = |name: &'static str, field: &str| (name, info.get(field).and_then(Value::as_str).unwrap_or_default().to_owned());
    let labels = vec![
        label("build_date", "buildDate"),
        label("compiler", "compiler"),
        label("git_commit", "gitCommit"),
        label("git_tree_state", "gitTreeState"),
        label("git_version", "gitVersion"),
        label("go_version", "goVersion"),
        label("major", "major"),
        label("minor", "minor"),
        label("platform", "platform"),
    ];
    let family = Family::<Vec<(&'static str, String)>, Gauge>::default();
    family.get_or_create(&labels).set(1);
    family
}
