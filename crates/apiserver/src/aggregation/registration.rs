//! Local APIServices: one for each group and version that this server itself answers for, custom resources included.
//!
//! They steer nothing but the order of discovery; clients read from them what is served. Those of built-in groups are put in order once
//! per start and left to the administrator from then on; those of custom resources follow their definitions all the time.
//! Source: Kubernetes `kube-aggregator/pkg/controllers/autoregister` and `pkg/controlplane/controller/crdregistration`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Weak},
    time::Duration,
};

use futures::{StreamExt, stream};
use meta::{ApiError, Object, Reason};
use serde_json::{Value, json};
use store::Revision;
use tokio::sync::watch;
use tracing::warn;

use super::follow::{GROUP, SERVICES};
use crate::{bootstrap, core::Core, custom_resources::DEFINITIONS, options::DeleteOptions};

/// Says that an APIService is kept by the server, and how.
const LABEL: &str = "kube-aggregator.kubernetes.io/automanaged";

/// Priorities of group and version of custom resources. Source: Kubernetes `crdregistration_controller.go`.
pub const CUSTOM_PRIORITY: (i64, i64) = (1000, 100);

/// The store refused a write; nothing would tell when it no longer does.
const RETRY: Duration = Duration::from_secs(1);

/// Writes that are made at once: those share the store's commits.
const WRITES_AT_ONCE: usize = 64;

/// How an APIService is kept, by the value of [`LABEL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// Once per start.
    OnStart,
    /// All the time.
    Always,
}

impl Kept {
    fn label(self) -> &'static str {
        match self {
            Self::OnStart => "onstart",
            Self::Always => "true",
        }
    }
    /// None for an APIService that is not the server's to keep.
    fn of(service: &Object) -> Option<Self> {
        match service.text(&["metadata", "labels", LABEL])? {
            "onstart" => Some(Self::OnStart),
            "true" => Some(Self::Always),
            _ => None,
        }
    }
}

/// An APIService that should be there.
#[derive(Debug, Clone, PartialEq)]
struct Wanted {
    spec: Value,
    kept: Kept,
}

fn wanted(group: &str, version: &str, priority: (i64, i64), kept: Kept) -> (String, Wanted) {
    let mut spec = json!({"version": version, "groupPriorityMinimum": priority.0, "versionPriority": priority.1});
    if !group.is_empty() {
        spec["group"] = json!(group);
    }
    (format!("{version}.{group}"), Wanted { spec, kept })
}

#[derive(Debug, PartialEq)]
enum Action {
    Leave,
    Create,
    Update,
    Delete,
}

/// What becomes of one APIService. `seen_at_start` is whether it was there when the server started, `settled` whether it has been put in
/// order since. The cases are those of upstream's `checkAPIService`.
fn plan(wanted: Option<&Wanted>, current: Option<&Current>, seen_at_start: bool, settled: bool) -> Action {
    let Some(current) = current else {
        return match wanted {
            Some(wanted) if !(wanted.kept == Kept::OnStart && settled) => Action::Create,
            _ => Action::Leave,
        };
    };
    if settled && wanted.is_some_and(|wanted| wanted.kept == Kept::OnStart) {
        return Action::Leave;
    }
    match (current.kept, wanted) {
        (None, _) => Action::Leave,
        (Some(Kept::OnStart), _) if !seen_at_start || settled => Action::Leave,
        (Some(_), None) => Action::Delete,
        (Some(_), Some(wanted)) if current.spec == wanted.spec => Action::Leave,
        (Some(_), Some(_)) => Action::Update,
    }
}

/// What was read of objects, each once per revision: there may be thousands, and any change of one leads here.
struct Readings<T>(HashMap<Arc<str>, (Revision, T)>);

impl<T> Readings<T> {
    fn refresh(&mut self, core: &Core, resource: &str, read: impl Fn(&Object) -> T) {
        let objects = core.view.snapshot(&core.view_named(resource)).objects;
        self.0.retain(|name, _| objects.contains_key(name));
        for (name, stored) in &objects {
            if self.0.get(name).is_none_or(|(revision, _)| *revision != stored.revision)
                && let Ok(object) = stored.object()
            {
                self.0.insert(name.clone(), (stored.revision, read(&object)));
            }
        }
    }
}

/// What there is to know of an APIService that is there.
#[derive(Debug, Clone)]
struct Current {
    uid: String,
    revision: String,
    kept: Option<Kept>,
    spec: Value,
}

impl Current {
    fn read(service: &Object) -> Self {
        Self {
            uid: service.uid().to_owned(),
            revision: service.resource_version().to_owned(),
            kept: Kept::of(service),
            spec: service.0.get("spec").cloned().unwrap_or_default(),
        }
    }
}

struct Registration {
    /// Those of built-in groups, which do not change while the server runs.
    built_in: BTreeMap<String, Wanted>,
    definitions: Readings<Vec<(String, Wanted)>>,
    services: Readings<Current>,
    seen_at_start: HashSet<Arc<str>>,
    settled: HashSet<String>,
}

fn built_in(core: &Core) -> BTreeMap<String, Wanted> {
    let scheme = core.scheme.load();
    let served = scheme.kinds().map(|kind| kind.info()).filter(|info| !info.custom);
    let versions: HashSet<(&str, &str)> = served.map(|info| (&*info.kind.group, &*info.kind.version)).collect();
    // Upstream's aggregator, which APIServices belong to, is a server in front of the one that it registers, and not in its own list.
    // Measured usage, which is no kind of the Scheme, has none either: whoever installs a metrics-server brings it.
    let own = versions.into_iter().filter(|(group, _)| *group != GROUP);
    own.filter_map(|(group, version)| {
        let (of_group, of_version) = super::built_in_priority(group, version)?;
        Some(wanted(group, version, (of_group, of_version), Kept::OnStart))
    })
    .collect()
}

/// The versions that a definition serves.
fn versions_of(definition: &Object) -> Vec<(String, Wanted)> {
    let group = definition.text(&["spec", "group"]).unwrap_or_default();
    let versions = definition.get(&["spec", "versions"]).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let served = versions.iter().filter(|version| version["served"] == true).filter_map(|version| version["name"].as_str());
    served.map(|version| wanted(group, version, CUSTOM_PRIORITY, Kept::Always)).collect()
}

/// Puts the APIServices in order, and keeps those of custom resources so from then on. Nobody has been answered yet.
pub async fn start(core: &Arc<Core>) {
    let mut changes = [core.view_named(SERVICES).changes(), core.view_named(DEFINITIONS).changes()];
    let seen_at_start = core.view.snapshot(&core.view_named(SERVICES)).objects.keys().cloned().collect();
    let mut registration = Registration {
        built_in: built_in(core),
        definitions: Readings(HashMap::new()),
        services: Readings(HashMap::new()),
        seen_at_start,
        settled: HashSet::new(),
    };
    registration.reconcile(core).await;
    // Once more for what has just been made, so that a quiet server has nothing left to do.
    catch_up(core, &mut changes).await;
    let done = registration.reconcile(core).await;
    tokio::spawn(registration.follow(Arc::downgrade(core), changes, done));
}

/// Waits until snapshots have all that was told of: a resource tells of a change before the view as a whole has moved on to it.
async fn catch_up(core: &Core, changes: &mut [watch::Receiver<Revision>; 2]) {
    if let Some(newest) = changes.iter_mut().map(|changes| *changes.borrow_and_update()).max() {
        core.view.wait_for(newest).await;
    }
}

impl Registration {
    async fn follow(mut self, core: Weak<Core>, mut changes: [watch::Receiver<Revision>; 2], mut done: bool) {
        loop {
            let [services, definitions] = &mut changes;
            let woken = async {
                tokio::select! {
                    changed = services.changed() => changed,
                    changed = definitions.changed() => changed,
                }
            };
            let ended = if done { woken.await.is_err() } else { tokio::time::timeout(RETRY, woken).await.is_ok_and(|changed| changed.is_err()) };
            let Some(core) = core.upgrade().filter(|_| !ended) else { return };
            catch_up(&core, &mut changes).await;
            done = self.reconcile(&core).await;
        }
    }

    /// False where something is to be tried again.
    async fn reconcile(&mut self, core: &Arc<Core>) -> bool {
        self.services.refresh(core, SERVICES, Current::read);
        self.definitions.refresh(core, DEFINITIONS, versions_of);
        let custom = self.definitions.0.values().flat_map(|(_, versions)| versions).map(|(name, wanted)| (name.as_str(), wanted));
        // Of custom resources in a built-in version, the built-in one is told.
        let all: BTreeMap<&str, &Wanted> = custom.chain(self.built_in.iter().map(|(name, wanted)| (name.as_str(), wanted))).collect();
        let mut actions = Vec::new();
        let unwanted = self.services.0.keys().map(|name| &**name).filter(|name| !all.contains_key(name)).map(|name| (name, None));
        for (name, wanted) in all.iter().map(|(name, wanted)| (*name, Some(*wanted))).chain(unwanted) {
            let current = self.services.0.get(name).map(|(_, current)| current);
            let action = plan(wanted, current, self.seen_at_start.contains(name), self.settled.contains(name));
            if action != Action::Leave || !self.settled.contains(name) {
                actions.push((name.to_owned(), wanted.cloned(), current.cloned(), action));
            }
        }
        let mut outcomes = stream::iter(actions)
            .map(|(name, wanted, current, action)| async move {
                let outcome = act(core, &name, wanted, current, action).await;
                (name, outcome)
            })
            .buffer_unordered(WRITES_AT_ONCE);
        let mut done = true;
        while let Some((name, outcome)) = outcomes.next().await {
            match outcome {
                Ok(()) => drop(self.settled.insert(name)),
                // Somebody else was faster; their change wakes us.
                Err(error) if matches!(error.reason, Reason::NotFound | Reason::Conflict) => {}
                Err(error) => {
                    warn!(service = name, %error, "a local APIService could not be put in order; trying again");
                    done = false;
                }
            }
        }
        done
    }
}

async fn act(core: &Arc<Core>, name: &str, wanted: Option<Wanted>, current: Option<Current>, action: Action) -> Result<(), ApiError> {
    let kind = core.kind_named(GROUP, "v1", "APIService")?;
    match (action, wanted, current) {
        (Action::Create, Some(wanted), _) => {
            let metadata = json!({"name": name, "labels": {LABEL: wanted.kept.label()}});
            let service = json!({"apiVersion": format!("{GROUP}/v1"), "kind": "APIService", "metadata": metadata, "spec": wanted.spec});
            bootstrap::ensure(core, service).await.map(|_| ())
        }
        (Action::Update, Some(wanted), _) => {
            bootstrap::change(core, &kind, "", name, |service| {
                if Kept::of(service).is_some() {
                    service.0.insert("spec".to_owned(), wanted.spec.clone());
                }
            })
            .await
        }
        (Action::Delete, _, Some(current)) => {
            let options = DeleteOptions {
                uid: Some(current.uid),
                resource_version: Some(current.revision),
                ..DeleteOptions::default()
            };
            bootstrap::remove_if(core, &kind, "", name, &options).await
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(label: Option<&str>, priority: i64) -> Current {
        let mut service = json!({"spec": wanted("g", "v1", (priority, 1), Kept::Always).1.spec, "metadata": {"name": "v1.g"}});
        if let Some(label) = label {
            service["metadata"]["labels"] = json!({LABEL: label});
        }
        Current::read(&Object::from_value(service).unwrap())
    }

    #[test]
    fn every_case_of_upstreams_table_is_decided_as_there() {
        let (on_start, always) = (wanted("g", "v1", (7, 1), Kept::OnStart).1, wanted("g", "v1", (7, 1), Kept::Always).1);
        let (plain, once, kept) = (service(None, 5), service(Some("onstart"), 5), service(Some("true"), 5));
        let cases = [
            // Wanted, there, seen at start, settled.
            (None, None, false, false, Action::Leave),
            (Some(&on_start), None, false, false, Action::Create),
            (Some(&on_start), None, true, true, Action::Leave),
            (Some(&always), None, false, true, Action::Create),
            (None, Some(&plain), true, false, Action::Leave),
            (Some(&on_start), Some(&plain), true, false, Action::Leave),
            (Some(&always), Some(&plain), true, false, Action::Leave),
            (None, Some(&once), false, false, Action::Leave),
            (Some(&on_start), Some(&once), false, false, Action::Leave),
            (None, Some(&once), true, false, Action::Delete),
            (None, Some(&once), true, true, Action::Leave),
            (Some(&on_start), Some(&once), true, false, Action::Update),
            (Some(&on_start), Some(&once), true, true, Action::Leave),
            (Some(&always), Some(&once), true, false, Action::Update),
            (None, Some(&kept), false, true, Action::Delete),
            (Some(&on_start), Some(&kept), false, false, Action::Update),
            (Some(&on_start), Some(&kept), false, true, Action::Leave),
            (Some(&always), Some(&kept), false, true, Action::Update),
        ];
        for (number, (wanted, current, seen_at_start, settled, action)) in cases.into_iter().enumerate() {
            assert_eq!(plan(wanted, current, seen_at_start, settled), action, "case {number}");
        }
        assert_eq!(plan(Some(&always), Some(&service(Some("true"), 7)), false, true), Action::Leave, "it is as it should be");
    }
}
