//! Custom resources: kinds that CustomResourceDefinitions add while the server runs.
//!
//! - [`kind`]: one version of a definition as a [`ServedKind`]; from there on everything is the generic handler's
//! - [`definition`], [`validation`]: the definition as a kind of its own
//! - [`conditions`]: names and the rest of its status
//! - [`cleanup`]: its end
//! - [`json_path`], [`ratcheting`]: what those need
//!
//! [`start`] brings the Scheme in line with the definitions and follows them. A definition is served before its status says
//! `Established`, so whoever waits for that finds it served.

pub mod cleanup;
pub mod conditions;
pub mod conversion;
pub mod definition;
pub mod json_path;
pub mod kind;
pub mod ratcheting;
pub mod validation;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak},
    time::Duration,
};

use api::openapi::{PublishedKind, PublishedSubresource};
use futures::{StreamExt, stream};
use kinds::{Scheme, ServedKind};
use meta::{ApiError, GroupResource, Object};
use serde_json::Value;
use store::{Expect, Revision};
use tokio::{sync::watch, task::JoinHandle};
use tracing::{error, info, warn};

use crate::{
    core::{Core, RequestContext},
    handler::write::{Part, update_object},
    view::ResourceView,
};
use conditions::{Condition, TakenNames};

/// Holds a definition until its objects are gone. It is added when the definition is deleted.
pub const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

const GROUP: &str = "apiextensions.k8s.io";
const KIND: &str = "CustomResourceDefinition";
/// Where definitions are kept.
pub(crate) const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// The store refused a status; nothing would tell when it no longer does.
const RETRY: Duration = Duration::from_secs(1);

/// Statuses that are written at once. Those who write at the same time share the store's commits, and a server may start with a
/// thousand definitions that were stored just before it went down.
const WRITES_AT_ONCE: usize = 64;

/// Whether a kind is CustomResourceDefinition.
pub fn is_definition(kind: &dyn ServedKind) -> bool {
    let info = kind.info();
    &*info.kind.group == GROUP && &*info.kind.kind == KIND
}

fn definition_kind(core: &Core) -> Result<Arc<dyn ServedKind>, ApiError> {
    core.kind_named(GROUP, "v1", KIND)
}

/// Every custom kind of a Scheme, with its schema as it is written in its definition.
pub fn published(core: &Core, scheme: &Scheme) -> Vec<PublishedKind> {
    let definitions = core.view_named(DEFINITIONS);
    scheme
        .kinds()
        .map(|kind| kind.info())
        .filter(|info| info.custom)
        .filter_map(|info| {
            let definition = definitions.get(&info.group_resource().to_string())?.object().ok()?;
            let versions = definition.get(&["spec", "versions"])?.as_array()?;
            let version = versions.iter().find(|version| version.get("name").and_then(Value::as_str) == Some(&*info.kind.version))?;
            Some(PublishedKind {
                kind: info.kind.clone(),
                list_kind: Some(info.list_kind.clone()),
                plural: info.plural.to_string(),
                namespaced: info.namespaced,
                verbs: info.verbs.clone(),
                subresources: info
                    .subresources
                    .iter()
                    .map(|sub| PublishedSubresource { name: sub.name.clone(), kind: sub.kind.clone(), verbs: sub.verbs.clone() })
                    .collect(),
                custom: Some(Arc::new(kind::raw_schema(version).cloned().unwrap_or_else(|| serde_json::json!({"type": "object"})))),
            })
        })
        .collect()
}

/// Changes a definition's status. `edit` gets the time for conditions.
async fn write_status(core: &Arc<Core>, name: &str, edit: &(dyn Fn(&mut Object, &str) + Send + Sync)) -> Result<(), ApiError> {
    let kind = definition_kind(core)?;
    let mut context = RequestContext::internal(core, "update", "", name);
    (context.info.group, context.info.version) = (GROUP.to_owned(), "v1".to_owned());
    (context.info.resource, context.info.subresource) = (kind.info().plural.to_string(), "status".to_owned());
    let now = context.timestamp();
    let compute = |old: Option<&Object>| {
        let mut definition = old.cloned().ok_or_else(|| ApiError::not_found(&kind.info().group_resource(), name))?;
        edit(&mut definition, &now);
        definition.metadata_mut().remove("resourceVersion");
        Ok(definition)
    };
    update_object(core, &context, &kind, Part::Status, false, Expect::Absent, &compute).await.map(|_| ())
}

/// Serves every established definition, and follows changes from then on.
pub async fn start(core: &Arc<Core>) {
    match definition_kind(core) {
        Ok(plain) => change_scheme(core, |scheme| scheme.add(Arc::new(definition::DefinitionKind::new(plain.clone())))),
        Err(error) => return error!(%error, "custom resources are not served"),
    }
    let view = core.view_named(DEFINITIONS);
    let changes = view.changes();
    let mut registry = Registry { view, taken: HashMap::new(), accepted: HashMap::new(), known: HashMap::new(), served: HashMap::new(), ending: HashMap::new() };
    let settled = registry.reconcile(core).await;
    tokio::spawn(registry.follow(Arc::downgrade(core), changes, settled));
}

fn change_scheme(core: &Core, change: impl Fn(&mut Scheme)) {
    core.scheme.rcu(|scheme| {
        let mut scheme = Scheme::clone(scheme);
        change(&mut scheme);
        scheme
    });
}

/// Changes of the Scheme that are made together: each copies it, and a server may start with a thousand definitions.
#[derive(Default)]
struct SchemeChanges {
    removed: HashSet<GroupResource>,
    added: Vec<Arc<dyn ServedKind>>,
}

impl SchemeChanges {
    fn make(self, core: &Core) {
        if self.removed.is_empty() && self.added.is_empty() {
            return;
        }
        change_scheme(core, |scheme| {
            scheme.remove(&self.removed);
            self.added.iter().for_each(|kind| scheme.add(kind.clone()));
        });
    }
}

/// What a definition is served from; where it differs, the Scheme is changed.
#[derive(Debug, PartialEq)]
struct Served {
    uid: String,
    generation: i64,
    names: Value,
    stored_versions: Option<Value>,
    terminating: bool,
}

/// What was decided about a definition and is to be written down.
struct Decision {
    name: Arc<str>,
    revision: Revision,
    definition: Object,
    names: Value,
    conditions: Vec<Condition>,
    terminating: bool,
}

/// Writes into a definition's status what was decided, where it does not say so already.
async fn write_down(core: Arc<Core>, decision: Decision) -> (Decision, Result<(), ApiError>) {
    let edit = |definition: &mut Object, now: &str| {
        definition.set(&["status", "acceptedNames"], decision.names.clone());
        for condition in &decision.conditions {
            conditions::set(definition, condition, now);
        }
    };
    let mut edited = decision.definition.clone();
    edit(&mut edited, &crate::core::format_time((core.clock)()));
    let outcome = if edited == decision.definition { Ok(()) } else { write_status(&core, &decision.name, &edit).await };
    (decision, outcome)
}

struct Registry {
    view: Arc<ResourceView>,
    /// By group, the names of built-in kinds and of definitions.
    taken: HashMap<String, TakenNames>,
    /// The names that each definition has of those.
    accepted: HashMap<Arc<str>, TakenNames>,
    /// The revision each definition was last looked at.
    known: HashMap<Arc<str>, Revision>,
    served: HashMap<Arc<str>, Served>,
    /// Definitions that are being cleaned up.
    ending: HashMap<Arc<str>, JoinHandle<()>>,
}

/// `widgets.example.com`, the name of a definition, as the resource it defines.
fn resource_of(name: &str) -> GroupResource {
    let (plural, group) = name.split_once('.').unwrap_or((name, ""));
    GroupResource::new(group, plural)
}

/// Names of built-in kinds in a group.
fn built_in_names(core: &Core, group: &str) -> TakenNames {
    let mut taken = TakenNames::default();
    for info in core.scheme.load().kinds().map(|kind| kind.info()).filter(|info| !info.custom && &*info.kind.group == group) {
        taken.resources.extend([info.plural.to_string(), info.singular.clone()].into_iter().chain(info.short_names.iter().cloned()));
        taken.kinds.extend([info.kind.kind.to_string(), info.list_kind.clone()]);
    }
    taken
}

impl Registry {
    async fn follow(mut self, core: Weak<Core>, mut changes: watch::Receiver<Revision>, mut settled: bool) {
        loop {
            let changed = changes.changed();
            if settled {
                if changed.await.is_err() {
                    return;
                }
            } else {
                // Either way everything that is not settled is looked at again.
                let _ = tokio::time::timeout(RETRY, changed).await;
            }
            let newest = *changes.borrow_and_update();
            let Some(core) = core.upgrade() else { return };
            // A resource tells of a change before the view as a whole has moved on to it, and snapshots are of the latter.
            core.view.wait_for(newest).await;
            settled = self.reconcile(&core).await;
        }
    }

    /// Brings Scheme and statuses in line with the definitions. False where something is to be tried again.
    async fn reconcile(&mut self, core: &Arc<Core>) -> bool {
        let snapshot = core.view.snapshot(&self.view).objects;
        let mut changes = SchemeChanges::default();
        let gone: Vec<Arc<str>> = self.known.keys().filter(|name| !snapshot.contains_key(*name)).cloned().collect();
        for name in &gone {
            self.known.remove(name);
            self.ending.remove(name);
            self.note_names(core, name, &Value::Null);
            self.withdraw(name, &mut changes);
            let objects = core.view_named(&resource_of(name).to_string());
            tokio::spawn(async move {
                // Those who watched them are to see them go before.
                tokio::time::sleep(crate::view::FRESH).await;
                objects.forget_what_is_gone(std::time::Instant::now());
            });
        }
        let mut settled = true;
        let mut looked_at = Vec::new();
        for (name, stored) in &snapshot {
            // Names that went may be what another waits for.
            let waits = !gone.is_empty() && stored.object().is_ok_and(|definition| !conditions::is_true(&definition, "NamesAccepted"));
            if !waits && self.known.get(name) == Some(&stored.revision) {
                continue;
            }
            match stored.object() {
                Ok(definition) => {
                    self.note_names(core, name, definition.get(&["status", "acceptedNames"]).unwrap_or(&Value::Null));
                    looked_at.push((name.clone(), stored.revision, definition));
                }
                Err(error) => {
                    warn!(definition = &**name, %error, "a definition cannot be read; trying again");
                    settled = false;
                }
            }
        }
        let decisions: Vec<Decision> =
            looked_at.into_iter().map(|(name, revision, definition)| self.decide(core, name, revision, definition, &mut changes)).collect();
        // Before their statuses say so.
        changes.make(core);
        let mut written = stream::iter(decisions).map(|decision| write_down(core.clone(), decision)).buffer_unordered(WRITES_AT_ONCE);
        while let Some((decision, outcome)) = written.next().await {
            match outcome {
                Ok(()) => {
                    self.clean_up(core, &decision);
                    self.known.insert(decision.name, decision.revision);
                }
                Err(error) if error.reason == meta::Reason::NotFound => {}
                Err(error) => {
                    warn!(definition = &*decision.name, %error, "a definition could not be settled; trying again");
                    settled = false;
                }
            }
        }
        settled
    }

    fn withdraw(&mut self, name: &Arc<str>, changes: &mut SchemeChanges) {
        if self.served.remove(name).is_some() {
            changes.removed.insert(resource_of(name));
            info!(definition = &**name, "custom resource is no longer served");
        }
    }

    /// Notes which names a definition has, in place of those it had.
    fn note_names(&mut self, core: &Core, name: &Arc<str>, accepted: &Value) {
        let group = resource_of(name).group.to_string();
        let taken = self.taken.entry(group).or_insert_with_key(|group| built_in_names(core, group));
        if let Some(before) = self.accepted.remove(name) {
            taken.resources.retain(|resource| !before.resources.contains(resource));
            taken.kinds.retain(|kind| !before.kinds.contains(kind));
        }
        let mut names = TakenNames::default();
        names.take(accepted);
        taken.resources.extend(names.resources.iter().cloned());
        taken.kinds.extend(names.kinds.iter().cloned());
        self.accepted.insert(name.clone(), names);
    }

    fn decide(&mut self, core: &Core, name: Arc<str>, revision: Revision, definition: Object, changes: &mut SchemeChanges) -> Decision {
        let nothing = TakenNames::default();
        let taken = self.taken.get(&*resource_of(&name).group).unwrap_or(&nothing);
        let (names, accepted) = conditions::grant(&definition, taken);
        self.note_names(core, &name, &names);
        let was_established = conditions::is_true(&definition, "Established");
        let terminating = definition.deletion_timestamp().is_some();
        let mut news = vec![accepted.clone()];
        if was_established || accepted.status {
            match self.serve(&name, &definition, &names, terminating, changes) {
                Ok(()) if !was_established => {
                    news.push(Condition::new("Established", true, "InitialNamesAccepted", "the initial names have been accepted"));
                }
                Ok(()) => {}
                Err(problems) => news.push(Condition::new("NonStructuralSchema", true, "Violations", problems)),
            }
        } else {
            self.withdraw(&name, changes);
            news.push(Condition::new("Established", false, "NotAccepted", "not all names are accepted"));
        }
        news.extend(conditions::approval(&definition));
        Decision { name, revision, definition, names, conditions: news, terminating }
    }

    /// Begins the end of a definition that is being deleted.
    fn clean_up(&mut self, core: &Arc<Core>, decision: &Decision) {
        let name = &decision.name;
        if decision.terminating
            && decision.definition.finalizers().contains(&CLEANUP_FINALIZER)
            && self.ending.get(name).is_none_or(JoinHandle::is_finished)
        {
            self.ending.insert(name.clone(), tokio::spawn(cleanup::run(core.clone(), name.to_string())));
        }
    }

    fn serve(&mut self, name: &Arc<str>, definition: &Object, names: &Value, terminating: bool, changes: &mut SchemeChanges) -> Result<(), String> {
        let wanted = Served {
            uid: definition.uid().to_owned(),
            generation: definition.generation(),
            names: names.clone(),
            stored_versions: definition.get(&["status", "storedVersions"]).cloned(),
            terminating,
        };
        if self.served.get(name) == Some(&wanted) {
            return Ok(());
        }
        let kinds = kind::kinds_of(definition, names, terminating)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))?;
        if self.served.contains_key(name) {
            changes.removed.insert(resource_of(name));
        }
        changes.added.extend(kind::served(kinds));
        self.served.insert(name.clone(), wanted);
        info!(definition = &**name, generation = definition.generation(), "custom resource is served");
        Ok(())
    }
}
