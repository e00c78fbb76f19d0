//! `/livez`, `/readyz`, `/healthz` and their single checks.

use http::{Response, StatusCode};
use store::StoreError;

use crate::{
    core::{Core, RequestContext},
    http_body::{Body, text_answer},
};

/// Answers a health path; none where it is no such path.
pub async fn answer(core: &Core, context: &RequestContext) -> Option<Response<Body>> {
    let path = context.info.path.trim_matches('/');
    let (kind, single) = match path.split_once('/') {
        Some((kind, single)) => (kind, Some(single)),
        None => (path, None),
    };
    if !matches!(kind, "livez" | "readyz" | "healthz") {
        return None;
    }
    let store: Result<_, StoreError> = core.view.store().current().await;
    let mut checks: Vec<(String, bool)> = vec![("ping".to_owned(), true), ("log".to_owned(), true), ("etcd".to_owned(), store.is_ok())];
    if kind != "livez" {
        let starting = core.starting.lock().clone();
        checks.push(("informer-sync".to_owned(), true));
        checks.push(("poststarthook/bootstrap".to_owned(), starting.is_empty()));
        checks.extend(starting.into_iter().map(|name| (format!("poststarthook/{name}"), false)));
    }
    let kind = match kind {
        "livez" => "livez",
        "readyz" => "readyz",
        _ => "healthz",
    };
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
    checks.retain(|(name, _)| !excluded.contains(&name.as_str()));
    let healthy = checks.iter().all(|(_, passed)| *passed);
    if healthy && !context.query.pairs.iter().any(|(name, _)| name == "verbose") {
        return Some(text_answer(StatusCode::OK, "ok"));
    }
    let mut text = String::new();
    for (name, passed) in &checks {
        text.push_str(&if *passed { format!("[+]{name} ok\n") } else { format!("[-]{name} failed: reason withheld\n") });
    }
    text.push_str(&format!("{kind} check {}\n", if healthy { "passed" } else { "failed" }));
    Some(text_answer(if healthy { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR }, text))
}
