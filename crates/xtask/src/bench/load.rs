//! Load: `wrk` for plain requests, and the workspace's own `knarr-load` for watches and pods.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::server::{PORT, Server};
use crate::{
    places,
    shell::{cargo, output, run},
};

/// Requests a second, and the slowest of a hundred, as wrk says it.
pub fn load(connections: u32, seconds: u64, token: &str, path: &str, script: Option<&Path>) -> Result<String> {
    let mut wrk = Command::new("wrk");
    wrk.args(["--threads", "1", "--connections", &connections.to_string(), "--duration", &format!("{seconds}s"), "--latency"]);
    wrk.args(["--header", &format!("Authorization: Bearer {token}")]);
    if let Some(script) = script {
        wrk.arg("--script").arg(script);
    }
    let said = output(wrk.arg(format!("https://127.0.0.1:{PORT}{path}")))?;
    let after = |mark: &str| said.lines().find_map(|line| line.trim().strip_prefix(mark)).map(|rest| rest.trim().to_owned());
    let rate: f64 = after("Requests/sec:").and_then(|rate| rate.parse().ok()).context("wrk printed no rate")?;
    let refused = after("Non-2xx or 3xx responses:").map(|count| format!(", {count} refused")).unwrap_or_default();
    Ok(format!("{rate:.0} /s, p99 {}{refused}", after("99%").unwrap_or_default()))
}

/// Builds `knarr-load`, and returns where it is.
pub fn program() -> Result<PathBuf> {
    run(cargo().current_dir(places::workspace()).args(["build", "--release", "-p", "testkit", "--bin", "knarr-load"]))?;
    Ok(places::target().join("release/knarr-load"))
}

/// What `knarr-load` measures on a server.
pub fn own(program: &Path, server: &Server, words: &[&str]) -> Result<Value> {
    let said = output(Command::new(program).args(words).env("KUBECONFIG", &server.kubeconfig).env("NO_PROXY", "*"))?;
    serde_json::from_str(&said).context("knarr-load printed no JSON")
}

/// A number of what `knarr-load` printed, in milliseconds.
pub fn milliseconds(measured: &Value, name: &str) -> f64 {
    measured[name].as_f64().unwrap_or(f64::NAN)
}

/// What reads cost, counted by a test program: allocations, objects decoded and renderings made, by what was read.
pub fn counted() -> Result<Vec<String>> {
    let mut test = cargo();
    test.current_dir(places::workspace()).args(["test", "--quiet", "--release", "-p", "testkit", "--test", "allocations", "--", "--nocapture"]);
    let said = output(&mut test)?;
    let costs: Value = said.lines().find_map(|line| serde_json::from_str(line).ok().filter(Value::is_object)).context("no costs were printed")?;
    let line = |(what, cost): (&String, &Value)| {
        format!("{what}: {} allocations, {} decoded, {} rendered", cost["allocations"], cost["decoded"], cost["rendered"])
    };
    Ok(costs.as_object().into_iter().flatten().map(line).collect())
}
