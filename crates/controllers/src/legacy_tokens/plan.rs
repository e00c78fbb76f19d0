//! What is to become of a token.

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use k8s_openapi::api::core::v1::{Container, Pod, Secret};

/// The day of the last use.
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// The day since when it is good no more.
pub(super) const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// So long nobody must have used it. Source: Kubernetes 1.36, `--legacy-service-account-token-clean-up-period`.
pub(super) const PERIOD_DAYS: i64 = 365;

/// What is to be done to a Secret.
#[derive(Debug, PartialEq)]
pub(super) enum Deed {
    Keep,
    /// Its label says since when it is good no more: the day.
    Mark(String),
    Remove,
}

/// What is known beside the Secret itself.
pub(super) struct Facts {
    /// The first whole day of which uses are noted.
    pub tracked_since: Option<Date>,
    /// Its account has it among its own, as long ago every account had one.
    pub is_made_for_account: bool,
    /// A pod refers to it.
    pub is_mounted: bool,
}

fn day_of(time: Timestamp) -> Date {
    time.to_zoned(TimeZone::UTC).date()
}

fn period_before(now: Timestamp) -> Timestamp {
    now.checked_sub(SignedDuration::from_hours(24 * PERIOD_DAYS)).unwrap_or(Timestamp::MIN)
}

/// Whether it is too young to be judged.
pub(super) fn is_young(secret: &Secret, now: Timestamp) -> bool {
    secret.metadata.creation_timestamp.as_ref().is_none_or(|created| created.0 >= period_before(now))
}

/// What is to be done. Days in labels compare as text, as they do upstream.
pub(super) fn plan(secret: &Secret, facts: &Facts, now: Timestamp) -> Deed {
    let is_tracked_long_enough = facts.tracked_since.is_some_and(|since| day_of(period_before(now)) >= since);
    if !is_tracked_long_enough || is_young(secret, now) || !facts.is_made_for_account || facts.is_mounted {
        return Deed::Keep;
    }
    let label = |name: &str| secret.metadata.labels.as_ref().and_then(|labels| labels.get(name)).map(String::as_str);
    let is_day = |text: &str| text.parse::<Date>().is_ok() && text.len() == 10;
    let oldest_kept = day_of(period_before(now)).to_string();
    // A day that cannot be read may be any.
    if label(LAST_USED).is_some_and(|used| !is_day(used) || *used >= *oldest_kept) {
        return Deed::Keep;
    }
    match label(INVALID_SINCE).filter(|since| is_day(since)) {
        None => Deed::Mark(day_of(now).to_string()),
        Some(since) if *since >= *oldest_kept => Deed::Keep,
        Some(_) => Deed::Remove,
    }
}

/// Whether a pod refers to a Secret of its namespace: to pull images, in its environment or as a volume.
pub(super) fn refers_to(pod: &Pod, secret: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let in_container = |container: &Container| {
        let single = container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()?.secret_key_ref.as_ref());
        let whole = container.env_from.iter().flatten().filter_map(|source| source.secret_ref.as_ref());
        single.map(|reference| &reference.name).chain(whole.map(|reference| &reference.name)).any(|name| *name == secret)
    };
    let pulls = spec.image_pull_secrets.iter().flatten().any(|reference| reference.name == secret);
    let volumes = spec.volumes.iter().flatten().any(|volume| {
        let own = volume.secret.as_ref().and_then(|source| source.secret_name.as_deref());
        let projected = volume.projected.iter().flat_map(|source| source.sources.iter().flatten()).filter_map(|source| Some(source.secret.as_ref()?.name.as_str()));
        own.into_iter().chain(projected).any(|name| name == secret)
    });
    pulls || volumes || spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(in_container)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_token_is_marked_after_a_year_and_removed_after_another() {
        let check = |labels: Value, created: &str, change: fn(&mut Facts), expected: Deed| {
            let secret: Secret = serde_json::from_value(json!({ "metadata": { "creationTimestamp": created, "labels": labels } })).unwrap();
            let mut facts = Facts { tracked_since: Some(Date::constant(2022, 1, 1)), is_made_for_account: true, is_mounted: false };
            change(&mut facts);
            assert_eq!(plan(&secret, &facts, "2026-07-01T10:00:00Z".parse().unwrap()), expected, "{labels}");
        };
        let old = "2020-01-01T00:00:00Z";
        let as_is: fn(&mut Facts) = |_| {};
        let marked = || Deed::Mark("2026-07-01".to_owned());
        check(json!({}), old, as_is, marked());
        check(json!({}), "2025-07-02T00:00:00Z", as_is, Deed::Keep);
        check(json!({ LAST_USED: "2025-06-30" }), old, as_is, marked());
        check(json!({ LAST_USED: "2025-07-01" }), old, as_is, Deed::Keep);
        check(json!({ LAST_USED: "yesterday" }), old, as_is, Deed::Keep);
        check(json!({ INVALID_SINCE: "2025-06-30" }), old, as_is, Deed::Remove);
        check(json!({ INVALID_SINCE: "2025-07-01" }), old, as_is, Deed::Keep);
        check(json!({ INVALID_SINCE: "soon" }), old, as_is, marked());
        check(json!({}), old, |facts| facts.is_mounted = true, Deed::Keep);
        check(json!({}), old, |facts| facts.is_made_for_account = false, Deed::Keep);
        check(json!({}), old, |facts| facts.tracked_since = None, Deed::Keep);
        check(json!({}), old, |facts| facts.tracked_since = Some(Date::constant(2025, 7, 2)), Deed::Keep);
    }

    #[test]
    fn pods_refer_to_secrets_in_several_ways() {
        let check = |spec: Value, expected: bool| {
            let pod: Pod = serde_json::from_value(json!({ "spec": spec })).unwrap();
            assert_eq!(refers_to(&pod, "s"), expected, "{spec}");
        };
        check(json!({ "containers": [] }), false);
        check(json!({ "containers": [], "imagePullSecrets": [{ "name": "s" }] }), true);
        check(json!({ "containers": [], "volumes": [{ "name": "v", "secret": { "secretName": "s" } }] }), true);
        check(json!({ "containers": [], "volumes": [{ "name": "v", "projected": { "sources": [{ "secret": { "name": "s" } }] } }] }), true);
        check(json!({ "containers": [{ "name": "c", "env": [{ "name": "A", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } }] }] }), true);
        check(json!({ "containers": [], "initContainers": [{ "name": "c", "envFrom": [{ "secretRef": { "name": "s" } }] }] }), true);
        check(json!({ "containers": [{ "name": "c", "envFrom": [{ "secretRef": { "name": "t" } }] }] }), false);
    }
}
