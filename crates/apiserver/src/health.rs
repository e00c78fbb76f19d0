//! `/livez`, `/readyz`, `/healthz` and their single checks.

use std::sync::Arc;

use futures::future::BoxFuture;
use http::{Response, StatusCode};
use store::StoreError;

use crate::{
    core::{Core, RequestContext},
    http_body::{Body, text_answer},
};

/// What there are checks for.
pub const KINDS: [&str; 3] = ["healthz", "livez", "readyz"];

/// A check of something beside the server, which `/livez` leaves out: a restart would not help.
#[derive(Clone)]
pub struct Check {
    /// As it is listed.
    pub name: &'static str,
    /// Fails with what is wrong. Asked for every time, so it may keep its last answer for a while.
    pub run: Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>,
}

/// The names of the checks of a kind.
pub fn names(core: &Core, kind: &str) -> Vec<String> {
    let mut names: Vec<String> = ["ping", "log", "etcd"].map(str::to_owned).into();
    if kind != "livez" {
        names.extend(["informer-sync", "poststarthook/bootstrap"].map(str::to_owned));
        names.extend(core.checks.lock().iter().map(|check| check.name.to_owned()));
        names.extend(core.starting.lock().iter().map(|name| format!("poststarthook/{name}")));
        // While the first objects are being written, that is what is waited for.
        names.dedup();
    }
    names
}

/// Answers a health path; none where it is no such path.
pub async fn answer(core: &Core, context: &RequestContext) -> Option<Response<Body>> {
    let path = context.info.path.trim_matches('/');
    let (kind, single) = match path.split_once('/') {
        Some((kind, single)) => (kind, Some(single)),
        None => (path, None),
    };
    let kind = KINDS.into_iter().find(|known| *known == kind)?;
    let store: Result<_, StoreError> = core.view.store().current().await;
    let is_ready = core.starting.lock().is_empty();
    let mut checks: Vec<(String, Result<(), String>)> = Vec::new();
    for name in names(core, kind) {
        if single.is_some_and(|single| single != name) {
            continue;
        }
        let beside = core.checks.lock().iter().find(|check| check.name == name).cloned();
        let outcome = match (name.as_str(), beside) {
            (_, Some(check)) => (check.run)().await,
            ("etcd", None) => store.as_ref().map(|_| ()).map_err(ToString::to_string),
            (name, None) if !is_ready && name.starts_with("poststarthook/") => Err("not finished".to_owned()),
            _ => Ok(()),
        };
        core.metrics.checked(&name, kind, outcome.is_ok());
        checks.push((name, outcome));
    }
    let excluded: Vec<&str> = context.query.values("exclude").collect();
    if let Some(single) = single {
        return Some(match checks.iter().find(|(name, _)| name == single) {
            Some((_, Ok(()))) => text_answer(StatusCode::OK, "ok"),
            Some((_, Err(why))) => text_answer(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {why}\n")),
            None => text_answer(StatusCode::NOT_FOUND, "404 page not found\n"),
        });
    }
    let is_excluded = |name: &str| excluded.contains(&name);
    let healthy = checks.iter().all(|(name, outcome)| outcome.is_ok() || is_excluded(name));
    if healthy && !context.query.pairs.iter().any(|(name, _)| name == "verbose") {
        return Some(text_answer(StatusCode::OK, "ok"));
    }
    let mut text = String::new();
    for (name, outcome) in &checks {
        text.push_str(&match outcome {
            _ if is_excluded(name) => format!("[+]{name} excluded: ok\n"),
            Ok(()) => format!("[+]{name} ok\n"),
            Err(_) => format!("[-]{name} failed: reason withheld\n"),
        });
    }
    let mut unknown: Vec<&str> = excluded.iter().copied().filter(|name| !checks.iter().any(|(known, _)| known == name)).collect();
    if !unknown.is_empty() {
        unknown.sort_unstable();
        let unknown: Vec<String> = unknown.iter().map(|name| format!("{name:?}")).collect();
        text.push_str(&format!("warn: some health checks cannot be excluded: no matches for {}\n", unknown.join(", ")));
    }
    text.push_str(&format!("{kind} check {}\n", if healthy { "passed" } else { "failed" }));
    Some(text_answer(if healthy { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR }, text))
}
