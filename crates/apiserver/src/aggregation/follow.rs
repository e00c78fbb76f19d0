//! Follows APIServices: which versions are served elsewhere, and whether those servers answer.
//!
//! A server is asked when its APIService, its Service or its back ends change, and every half minute, since nothing tells when
//! it breaks by itself. Source: Kubernetes `kube-aggregator/pkg/controllers/status/remote`; reasons and messages are part of the API.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use futures::FutureExt;
use meta::{ApiError, Object};
use serde_json::Value;
use tokio::sync::watch;
use tracing::warn;

use super::{Remote, back_end::{BackEndServer, Unreachable}, documents::RemoteDocuments};
use crate::{
    core::{Core, RequestContext},
    custom_resources::conditions::{self, Condition},
    effects::service_back_ends::BackEnd,
    handler::write::{Part, update_object},
    view::ResourceView,
};
use store::{Expect, Revision};

pub(super) const GROUP: &str = "apiregistration.k8s.io";
pub(super) const SERVICES: &str = "apiservices.apiregistration.k8s.io";

/// How often a server is asked that answered.
const CHECK_AGAIN: Duration = Duration::from_secs(30);
/// How soon a server is asked again that has back ends but did not answer, or whose status could not be written.
const RETRY: Duration = Duration::from_secs(1);

/// What an answer depends on, as far as this server can see.
#[derive(PartialEq)]
struct Facts {
    uid: String,
    spec: Value,
    back_ends: Result<Vec<BackEnd>, Unreachable>,
}

impl Facts {
    fn text(&self, field: &str) -> &str {
        self.spec.get(field).and_then(Value::as_str).unwrap_or_default()
    }
    fn priority(&self) -> (i64, i64) {
        let number = |field: &str| self.spec.get(field).and_then(Value::as_i64).unwrap_or_default();
        (number("groupPriorityMinimum"), number("versionPriority"))
    }
}

struct Known {
    revision: Revision,
    facts: Facts,
    asked: Instant,
    again: Duration,
    remote: Option<Arc<Remote>>,
}

/// Follows the APIServices from now on.
pub fn start(core: &Arc<Core>) {
    let services = core.view_named(SERVICES);
    // The APIServices themselves are first: without one that leads elsewhere nothing else matters.
    let views = [services.clone(), core.view_named("services"), core.view_named("endpointslices.discovery.k8s.io")];
    let changes = views.map(|view| view.changes());
    let known = local(core, &services);
    publish(core, &known);
    tokio::spawn(follow(Arc::downgrade(core), services, changes, known));
}

/// What is served here and is told to be available: nobody is to be asked about that, and discovery follows its priorities from the first
/// answer on.
fn local(core: &Core, services: &ResourceView) -> HashMap<Arc<str>, Known> {
    let mut known = HashMap::new();
    for (name, stored) in &core.view.snapshot(services).objects {
        let Ok(service) = stored.object() else { continue };
        let spec = service.0.get("spec").cloned().unwrap_or_default();
        if spec.get("service").is_none_or(Value::is_null) && conditions::is_true(&service, "Available") {
            let facts = Facts { uid: service.uid().to_owned(), spec, back_ends: Ok(Vec::new()) };
            known.insert(name.clone(), Known { revision: stored.revision, facts, asked: Instant::now(), again: CHECK_AGAIN, remote: None });
        }
    }
    known
}

/// Lets others see who serves what, and in which order.
fn publish(core: &Core, known: &HashMap<Arc<str>, Known>) {
    let mut remotes: Vec<Arc<Remote>> = known.values().filter_map(|known| known.remote.clone()).collect();
    remotes.sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| (&a.group, &a.version).cmp(&(&b.group, &b.version))));
    core.aggregation.remotes.store(Arc::new(remotes));
    let priorities = known.values().map(|known| ((known.facts.text("group").to_owned(), known.facts.text("version").to_owned()), known.facts.priority()));
    core.aggregation.priorities.store(Arc::new(priorities.collect()));
}

async fn follow(core: Weak<Core>, services: Arc<ResourceView>, mut changes: [watch::Receiver<Revision>; 3], mut known: HashMap<Arc<str>, Known>) {
    loop {
        let newest = changes.iter_mut().map(|changes| *changes.borrow_and_update()).max();
        let Some(present) = core.upgrade() else { return };
        if let Some(newest) = newest {
            // A resource tells of a change before the view as a whole has moved on to it, and snapshots are of the latter.
            present.view.wait_for(newest).await;
        }
        let again = reconcile(&present, &services, &mut known).await;
        drop(present);
        let [first, second, third] = &mut changes;
        let woken = async {
            tokio::select! {
                changed = first.changed() => changed,
                changed = second.changed(), if again.is_some() => changed,
                changed = third.changed(), if again.is_some() => changed,
            }
        };
        let ended = match again {
            Some(again) => tokio::time::timeout(again, woken).await.is_ok_and(|changed| changed.is_err()),
            None => woken.await.is_err(),
        };
        if ended {
            return;
        }
    }
}

/// Brings the list of servers in line; how soon one must be asked again, where there are any.
async fn reconcile(core: &Arc<Core>, services: &Arc<ResourceView>, known: &mut HashMap<Arc<str>, Known>) -> Option<Duration> {
    let snapshot = core.view.snapshot(services).objects;
    known.retain(|name, _| snapshot.contains_key(name));
    let mut asked = Vec::new();
    for (name, stored) in &snapshot {
        // What is served here depends on nothing else; there is one for every group and version.
        if known.get(name).is_some_and(|known| known.revision == stored.revision && known.remote.is_none() && known.facts.back_ends.is_ok() && known.again == CHECK_AGAIN) {
            continue;
        }
        let Ok(service) = stored.object() else { continue };
        let spec = service.0.get("spec").cloned().unwrap_or_default();
        let server = BackEndServer::read(&spec, core.aggregation.certificate.as_ref());
        let back_ends = match &server {
            Ok(Some(server)) => server.back_ends(core),
            Ok(None) => Ok(Vec::new()),
            Err(why) => Err(Unreachable { reason: "FailedDiscoveryCheck", message: why.clone() }),
        };
        let facts = Facts { uid: service.uid().to_owned(), spec, back_ends };
        let before = known.get(name);
        if before.is_none_or(|before| before.facts != facts || before.asked.elapsed() >= before.again) {
            let earlier = before.and_then(|before| before.remote.clone());
            let looking = look(core, stored.revision, facts, server.ok().flatten(), earlier).boxed();
            asked.push(looking.map(|(condition, looked)| (name.clone(), service, condition, looked)));
        }
    }
    let mut news = Vec::new();
    for (name, service, condition, looked) in futures::future::join_all(asked).await {
        known.insert(name.clone(), looked);
        news.push((name, service, condition));
    }
    publish(core, known);
    // Written last, so that whoever waits for a condition finds it true.
    for (name, service, condition) in news {
        if let Err(error) = write_condition(core, &service, &condition).await
            && error.reason != meta::Reason::NotFound
        {
            warn!(service = &*name, %error, "the condition of an APIService could not be written; trying again");
            if let Some(known) = known.get_mut(&name) {
                known.again = RETRY;
            }
        }
    }
    let waiting = known.values().filter(|known| known.remote.is_some() || known.again < CHECK_AGAIN);
    waiting.map(|known| known.again.saturating_sub(known.asked.elapsed()).max(Duration::from_millis(10))).min()
}

/// Asks one server.
async fn look(core: &Arc<Core>, revision: Revision, facts: Facts, server: Option<BackEndServer>, earlier: Option<Arc<Remote>>) -> (Condition, Known) {
    let (group, version) = (facts.text("group").to_owned(), facts.text("version").to_owned());
    let mut resources = earlier.as_ref().map(|earlier| earlier.resources.clone()).unwrap_or_default();
    let mut documents = earlier.map(|earlier| earlier.documents.clone()).unwrap_or_default();
    let condition = match (&server, &facts.back_ends) {
        (_, Err(missing)) => Condition::new("Available", false, missing.reason, missing.message.clone()),
        (None, Ok(_)) => Condition::new("Available", true, "Local", "Local APIServices are always available"),
        (Some(server), Ok(_)) => match server.get(core, &format!("/apis/{group}/{version}")).await {
            Ok(list) => {
                resources = list.get("resources").and_then(Value::as_array).cloned().unwrap_or_default();
                documents = RemoteDocuments::read(server, core, &group, &version).await;
                Condition::new("Available", true, "Passed", "all checks passed")
            }
            Err(why) => Condition::new("Available", false, "FailedDiscoveryCheck", format!("failing or missing response from the service: {why}")),
        },
    };
    let again = if condition.status || facts.back_ends.is_err() { CHECK_AGAIN } else { RETRY };
    let priority = facts.priority();
    let remote = server.map(|server| Arc::new(Remote { group, version, priority, server, available: condition.status, resources, documents }));
    (condition, Known { revision, facts, asked: Instant::now(), again, remote })
}

async fn write_condition(core: &Arc<Core>, service: &Object, condition: &Condition) -> Result<(), ApiError> {
    let now = crate::core::format_time((core.clock)());
    let mut edited = service.clone();
    conditions::set(&mut edited, condition, &now);
    if edited == *service {
        return Ok(());
    }
    let (name, uid) = (service.name(), service.uid());
    let kind = core.kind_named(GROUP, "v1", "APIService")?;
    let mut context = RequestContext::internal(core, "update", "", name);
    (context.info.group, context.info.version) = (GROUP.to_owned(), "v1".to_owned());
    (context.info.resource, context.info.subresource) = (kind.info().plural.to_string(), "status".to_owned());
    let compute = |old: Option<&Object>| {
        let mut service = old.filter(|old| old.uid() == uid).cloned().ok_or_else(|| ApiError::not_found(&kind.info().group_resource(), name))?;
        conditions::set(&mut service, condition, &now);
        service.metadata_mut().remove("resourceVersion");
        Ok(service)
    };
    update_object(core, &context, &kind, Part::Status, false, Expect::Absent, &compute).await.map(|_| ())
}
