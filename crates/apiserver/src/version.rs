//! What version of the API is spoken, and of what.

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
