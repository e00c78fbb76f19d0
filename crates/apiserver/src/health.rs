//! `/livez`, `/readyz`, `/healthz` and their single checks.

use http::{Response, StatusCode};
use store::StoreError;

use crate::{
    core::{Core, RequestContext},
    http_body::{Body, text_answer},
};

/// What there are checks for.
pub const KINDS: [&str; 3] = ["healthz", "livez", "readyz"];

/// The names of the checks of a kind.
pub fn names(core: &Core, kind: &str) -> Vec<String> {
    let mut names: Vec<String> = ["ping", "log", "etcd"].map(str::to_owned).into();
    if kind != "livez" {
        names.extend(["informer-sync", "poststarthook/bootstrap"].map(str::to_owned));
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
    let passes = |name: &str| match name {
        "etcd" => store.is_ok(),
        name => is_ready || !name.starts_with("poststarthook/"),
    };
    let checks: Vec<(String, bool)> = names(core, kind).into_iter().map(|name| (passes(&name), name)).map(|(passed, name)| (name, passed)).collect();
    for (name, passed) in &checks {
        core.metrics.checked(name, kind, *passed);
    }
    let excluded: Vec<&str> = context.query.values("exclude").collect();
    if let Some(single) = single {
        return Some(match checks.iter().find(|(name, _)| name == single) {
            Some((_, true)) => text_answer(StatusCode::OK, "ok"),
            Some((_, false)) => text_answer(StatusCode::INTERNAL_SERVER_ERROR, "not ok"),
            None => text_answer(StatusCode::NOT_FOUND, "404 page not found\n"),
        });
    }
    let is_excluded = |name: &str| excluded.contains(&name);
    let healthy = checks.iter().all(|(name, passed)| *passed || is_excluded(name));
    if healthy && !context.query.pairs.iter().any(|(name, _)| name == "verbose") {
        return Some(text_answer(StatusCode::OK, "ok"));
    }
    let mut text = String::new();
    for (name, passed) in &checks {
        text.push_str(&match passed {
            _ if is_excluded(name) => format!("[+]{name} excluded: ok\n"),
            true => format!("[+]{name} ok\n"),
            false => format!("[-]{name} failed: reason withheld\n"),
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
