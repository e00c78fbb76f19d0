//! Tokens that lie in Secrets: when each was last used, so that those nobody uses can be taken away, and which were taken away already.
//!
//! The controller `legacy_tokens` marks what was not used for a year, and removes it when it was not used for another. Since when uses
//! are noted is in a config map.
//!
//! Source: Kubernetes `pkg/serviceaccount/legacy.go` and `pkg/controlplane/controller/legacytokentracking`.

use std::sync::{Arc, Weak};

use jiff::{Timestamp, civil::Date};
use meta::{ApiError, Object};
use serde_json::json;
use tokio::sync::mpsc;

use crate::{bootstrap, core::Core};

/// The day of the last use, on the Secret.
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// The day since when the token is good no more, on the Secret.
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// The config map that says since when uses are noted.
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";
const NAMESPACE: &str = "kube-system";
/// More uses than this wait for nothing: what is not noted now is noted at the next use.
const WAITING: usize = 64;

/// A use that is to be noted.
struct Use {
    namespace: String,
    name: String,
    uid: String,
    day: String,
}

/// Tells of uses.
pub struct Uses(mpsc::Sender<Use>);

/// Notes the uses it is told of.
pub struct Noted(mpsc::Receiver<Use>);

/// Both ends.
#[must_use]
pub fn uses() -> (Uses, Noted) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (Uses(sender), Noted(receiver))
}

fn day(now: Timestamp) -> String {
    now.strftime("%Y-%m-%d").to_string()
}

impl Uses {
    /// A token in this Secret is used.
    ///
    /// # Errors
    /// 401 where it is marked as invalid. That it was used is noted nevertheless, for whoever looks after it.
    pub fn used(&self, secret: &Object, now: Timestamp) -> Result<(), ApiError> {
        let label = |name: &str| secret.text(&["metadata", "labels", name]).unwrap_or_default();
        let today = day(now);
        if label(LAST_USED) != today {
            let of = |text: &str| text.to_owned();
            let used = Use { namespace: of(secret.namespace()), name: of(secret.name()), uid: of(secret.uid()), day: today };
            if self.0.try_send(used).is_err() {
                tracing::debug!("the use of a token could not be noted");
            }
        }
        if !label(INVALID_SINCE).is_empty() {
            tracing::warn!(namespace = secret.namespace(), secret = secret.name(), "a token is refused that is marked as invalid; who needs it takes the label {INVALID_SINCE} away");
            return Err(ApiError::unauthorized());
        }
        Ok(())
    }
}

/// Says since when uses are noted, and notes them from now on.
///
/// # Errors
/// The config map cannot be written.
pub async fn start(core: &Arc<Core>, uses: Noted) -> Result<(), ApiError> {
    say_since_when(core).await?;
    tokio::spawn(follow(Arc::downgrade(core), uses));
    Ok(())
}

/// Makes the config map where it is missing, and repairs it where it names no day.
async fn say_since_when(core: &Arc<Core>) -> Result<(), ApiError> {
    let kind = core.kind_named("", "v1", "ConfigMap")?;
    let since = || day((core.clock)());
    let Some(stored) = core.stored(&kind, NAMESPACE, TRACKING) else {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": TRACKING, "namespace": NAMESPACE}, "data": {"since": since()}});
        return bootstrap::ensure(core, map).await.map(|_| ());
    };
    let object = core.served_object(&kind, &stored)?;
    if object.text(&["data", "since"]).is_some_and(|since| since.parse::<Date>().is_ok()) {
        return Ok(());
    }
    bootstrap::change(core, &kind, NAMESPACE, TRACKING, |map| map.set(&["data", "since"], since().into())).await
}

async fn follow(core: Weak<Core>, mut uses: Noted) {
    let Some(mut changes) = core.upgrade().map(|core| core.view_named("configmaps").changes()) else { return };
    loop {
        let used = tokio::select! {
            used = uses.0.recv() => match used {
                Some(used) => Some(used),
                None => return,
            },
            changed = changes.changed() => match changed {
                Ok(()) => None,
                Err(_) => return,
            },
        };
        let Some(core) = core.upgrade() else { return };
        let result = match used {
            Some(used) => note(&core, &used).await,
            None => say_since_when(&core).await,
        };
        if let Err(problem) = result {
            tracing::debug!(%problem, "the use of tokens could not be noted");
        }
    }
}

async fn note(core: &Arc<Core>, used: &Use) -> Result<(), ApiError> {
    let kind = core.kind_named("", "v1", "Secret")?;
    bootstrap::change(core, &kind, &used.namespace, &used.name, |secret| {
        if secret.uid() == used.uid {
            secret.set(&["metadata", "labels", LAST_USED], used.day.clone().into());
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_use_is_told_once_a_day_and_a_marked_token_is_refused() {
        let check = |labels: Value, is_told: bool, is_good: bool| {
            let (uses, mut noted) = uses();
            let secret = Object::from_value(json!({"metadata": {"namespace": "a", "name": "b", "uid": "u", "labels": labels}})).unwrap();
            let now = "2026-03-04T23:59:59Z".parse().unwrap();
            assert_eq!(uses.used(&secret, now).is_ok(), is_good);
            assert_eq!(noted.0.try_recv().ok().map(|used| used.day), is_told.then(|| "2026-03-04".to_owned()));
        };
        check(json!({}), true, true);
        check(json!({LAST_USED: "2026-03-04"}), false, true);
        check(json!({LAST_USED: "2026-03-03"}), true, true);
        check(json!({INVALID_SINCE: "2026-03-01"}), true, false);
    }
}
