//! A StatefulSet's pods have names, numbers and claims of their own, which survive them; they come, change and go in order.
//!
//! [`plan`] decides what is next, [`identity`] makes the pods and [`claims`] their volume claims; templates of the past are in
//! `crate::revisions`.

mod claims;
mod identity;
mod plan;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use client::{Api, DeleteParams, EventRecorder, EventType, Index, Informer, ObjectKey, PostParams, Preconditions};
use controller::batches::slow_start;
use controller::ownership::{Claim, adopt, claim, controller_of, controller_reference, release};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Runner, Trigger, Writes};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use crate::revisions::{HASH_LABEL, History, Owner, Revisions, template_of};
use crate::selector::Selector;
use crate::{ControllerContext, pods};
use plan::{Plan, Templates, plan};

const CONTROLLER: &str = "statefulset-controller";
/// Kept when the set does not say how many. The API fills it in.
const DEFAULT_HISTORY: i32 = 10;

/// Starts the controller.
pub fn start(context: &ControllerContext, runner: &Runner) {
    let sets = context.informers.of::<StatefulSet>();
    let pods = context.informers.of::<Pod>();
    let controller = StatefulSetController {
        client: context.client(CONTROLLER),
        own_writes: Writes::new(sets.clone(), context.clock.clone()),
        sets,
        claims: context.informers.of(),
        pods_by_controller: pods::by_controller(&pods),
        writes: Writes::new(pods.clone(), context.clock.clone()),
        pods,
        revisions: Revisions::new(context, CONTROLLER),
        events: context.events(CONTROLLER),
        clock: context.clock.clone(),
    };
    runner.start(controller, 5);
}

struct StatefulSetController {
    client: client::Client,
    sets: Informer<StatefulSet>,
    claims: Informer<PersistentVolumeClaim>,
    pods: Informer<Pod>,
    pods_by_controller: Index<Pod>,
    writes: Writes<Pod>,
    /// Our own status writes; acting before they are seen would only meet a conflict.
    own_writes: Writes<StatefulSet>,
    revisions: Revisions,
    events: EventRecorder,
    clock: Arc<dyn client::Clock>,
}

impl StatefulSetController {
    fn pods_api(&self, key: &ObjectKey) -> Api<Pod> {
        Api::namespaced(self.client.clone(), key.namespace.as_deref().unwrap_or_default())
    }

    /// The set's pods, after adopting and releasing what has to be. Only pods of the set's names can be its own.
    async fn claim_pods(&self, key: &ObjectKey, set: &StatefulSet, selector: &Selector) -> Result<Vec<Arc<Pod>>, ReconcileError> {
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        let api = self.pods_api(key);
        let is_named = |pod: &Pod| identity::ordinal(&key.name, pod).is_some();
        let mut claimed = Vec::new();
        for pod in self.pods_by_controller.get(uid) {
            if claim(&set.metadata, &pod.metadata, selector.selects_object(&pod.metadata)) == Claim::Release {
                if let Some(released) = release(&api, &*pod, uid).await? {
                    self.writes.wrote(key, &released);
                }
            } else if is_named(&pod) {
                claimed.push(pod);
            }
        }
        for pod in self.pods_by_controller.get(&pods::orphans_of(key.namespace.as_deref().unwrap_or_default())) {
            if !is_named(&pod) || claim(&set.metadata, &pod.metadata, selector.selects_object(&pod.metadata)) != Claim::Adopt {
                continue;
            }
            let live = Api::<StatefulSet>::namespaced(self.client.clone(), key.namespace.as_deref().unwrap_or_default()).get_opt(&key.name).await;
            let live = live.doing(|| format!("read {key}"))?;
            if live.is_none_or(|live| live.metadata.uid != set.metadata.uid || live.metadata.deletion_timestamp.is_some()) {
                break;
            }
            if let Some(adopted) = adopt(&api, &*pod, controller_reference(set)).await? {
                self.writes.wrote(key, &adopted);
                claimed.push(Arc::new(adopted));
            }
        }
        Ok(claimed)
    }

    async fn create(&self, key: &ObjectKey, set: &StatefulSet, pod: &Pod) -> Result<(), ReconcileError> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        if self.set_claims().are_stale(set, pod) {
            // Their removal wakes us.
            return Ok(());
        }
        if let Err(error) = self.set_claims().ensure(set, pod).await {
            self.say_failed(set, "Create", name, &error.to_string());
            return Err(error);
        }
        let created = match self.pods_api(key).create(&PostParams::default(), pod).await {
            Ok(created) => created,
            Err(error) if crate::namespace_is_terminating(&error) => return Ok(()),
            Err(error) => {
                // Somebody else's pod of this name may be there for long, and nobody tells when it goes.
                if !client::is_already_exists(&error) {
                    self.say_failed(set, "Create", name, &crate::api_message(&error));
                }
                return Err(error).doing(|| format!("create pod {name}"));
            }
        };
        self.writes.wrote(key, &created);
        if let Err(error) = self.set_claims().keep(set, &created).await {
            self.say_failed(set, "Update", name, &error.to_string());
            return Err(error);
        }
        self.say_done(set, "Create", name);
        Ok(())
    }

    async fn delete(&self, key: &ObjectKey, set: &StatefulSet, pod: &Pod) -> Result<(), ReconcileError> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match self.pods_api(key).delete(name, &parameters).await {
            Err(error) if client::is_not_found(&error) || client::is_conflict(&error) => Ok(()),
            Err(error) => {
                self.say_failed(set, "Delete", name, &crate::api_message(&error));
                Err(error).doing(|| format!("delete pod {name}"))
            }
            Ok(_) => {
                self.writes.deleted(key, pod);
                self.say_done(set, "Delete", name);
                Ok(())
            }
        }
    }

    fn set_claims(&self) -> claims::Claims<'_> {
        claims::Claims { client: &self.client, known: &self.claims, events: &self.events }
    }

    /// Says that a pod was created, updated or deleted.
    fn say_done(&self, set: &StatefulSet, verb: &str, pod: &str) {
        let message = format!("{} Pod {pod} in StatefulSet {} successful", verb.to_lowercase(), set.metadata.name.as_deref().unwrap_or_default());
        self.events.record(set, EventType::Normal, &format!("Successful{verb}"), message);
    }

    /// Says that a pod could not be created, updated or deleted.
    fn say_failed(&self, set: &StatefulSet, verb: &str, pod: &str, why: &str) {
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let message = format!("{} Pod {pod} in StatefulSet {name} failed error: {why}", verb.to_lowercase());
        self.events.record(set, EventType::Warning, &format!("Failed{verb}"), message);
    }

    /// Gives a pod the labels and volumes of its number. It is read for that: the cache has no whole pods.
    async fn identify(&self, key: &ObjectKey, set: &StatefulSet, pod: &Pod) -> client::Result<Pod> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let api = self.pods_api(key);
        let mut whole = api.get(name).await?;
        if let Some(ordinal) = identity::ordinal(&key.name, &whole) {
            identity::identify(set, &mut whole, ordinal);
        }
        // What was planned was planned for this revision of this pod.
        whole.metadata.resource_version.clone_from(&pod.metadata.resource_version);
        whole.metadata.uid.clone_from(&pod.metadata.uid);
        api.replace(name, &PostParams::default(), &whole).await
    }

    async fn carry_out(&self, key: &ObjectKey, set: &StatefulSet, plan: &Plan) -> Result<(), ReconcileError> {
        for pod in &plan.need_claims {
            self.set_claims().ensure(set, pod).await?;
            self.keep_claims(set, pod).await?;
        }
        for pod in &plan.replace {
            self.delete(key, set, pod).await?;
        }
        for pod in &plan.update {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            if let Err(error) = self.set_claims().ensure(set, pod).await {
                self.say_failed(set, "Update", name, &error.to_string());
                return Err(error);
            }
            match self.identify(key, set, pod).await {
                Ok(updated) => self.writes.wrote(key, &updated),
                Err(error) => {
                    if !client::is_conflict(&error) {
                        self.say_failed(set, "Update", name, &crate::api_message(&error));
                    }
                    return Err(error).doing(|| format!("give pod {name} its identity"));
                }
            }
            self.say_done(set, "Update", name);
        }
        for pod in &plan.stay {
            // Upstream writes the pod too then, which changes nothing, and says so.
            if self.keep_claims(set, pod).await? {
                self.say_done(set, "Update", pod.metadata.name.as_deref().unwrap_or_default());
            }
        }
        slow_start(&plan.create, |pod| self.create(key, set, pod)).await.1?;
        for pod in &plan.leave {
            self.set_claims().keep(set, pod).await?;
        }
        for pod in &plan.delete {
            self.delete(key, set, pod).await?;
        }
        Ok(())
    }

    /// Gives the claims of a pod the owners that the set's policy asks for now. True when one had others.
    async fn keep_claims(&self, set: &StatefulSet, pod: &Pod) -> Result<bool, ReconcileError> {
        let kept = self.set_claims().keep(set, pod).await;
        if let Err(error) = &kept
            && !error.is_conflict()
        {
            self.say_failed(set, "Update", pod.metadata.name.as_deref().unwrap_or_default(), &error.to_string());
        }
        kept
    }
}

fn templates(set: &StatefulSet, history: &History) -> Templates {
    let update_name = history.update.metadata.name.clone().unwrap_or_default();
    let update = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let current_name = set.status.as_ref().and_then(|status| status.current_revision.as_ref());
    let current = current_name.and_then(|name| history.all.iter().find(|revision| revision.metadata.name.as_ref() == Some(name)));
    let (current_name, current) = match current.and_then(|revision| Some((revision.metadata.name.clone()?, template_of(revision)?))) {
        Some(current) => current,
        None => (update_name.clone(), update.clone()),
    };
    Templates { current_name, current, update_name, update, collisions: history.collisions }
}

#[async_trait]
impl Reconciler for StatefulSetController {
    fn name(&self) -> &'static str {
        "statefulset"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let sets = self.sets.clone();
        vec![
            Trigger::itself(&self.sets),
            Trigger::controller(&self.pods, "StatefulSet"),
            Trigger::on(&self.pods, move |change| {
                let Some(pod) = change.new.as_ref().filter(|pod| controller_of(&pod.metadata).is_none() && pods::is_active(pod)) else {
                    return Vec::new();
                };
                let all = sets.list_in(pod.metadata.namespace.as_deref().unwrap_or_default());
                let selects = |set: &StatefulSet| set.spec.as_ref().is_some_and(|spec| Selector::new(&spec.selector).selects_object(&pod.metadata));
                all.into_iter().filter(|set| selects(set)).map(|set| client::key_of(&*set)).collect()
            }),
            Trigger::controller(self.revisions.informer(), "StatefulSet"),
            Trigger::on(&self.claims, {
                let sets = self.sets.clone();
                move |change| {
                    // Pods wait for what is gone: for new claims, or for old ones to go.
                    let (Some(_), None) = (&change.old, &change.new) else { return Vec::new() };
                    let all = sets.list_in(change.key.namespace.as_deref().unwrap_or_default());
                    all.into_iter().filter(|set| claims::is_of(set, &change.key.name)).map(|set| client::key_of(&*set)).collect()
                }
            }),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(set) = self.sets.get(key) else {
            self.writes.forget(key);
            self.own_writes.forget(key);
            return Ok(Outcome::Settled);
        };
        if !self.own_writes.are_visible(key) || !self.writes.are_visible(key) || !self.revisions.are_visible(key) {
            return Ok(Outcome::CheckAgainIn(Writes::<Pod>::patience()));
        }
        let spec = set.spec.clone().unwrap_or_default();
        let selector = Selector::new(&spec.selector);
        let pods = self.claim_pods(key, &set, &selector).await?;
        let owner = Owner {
            key,
            metadata: &set.metadata,
            reference: controller_reference(&*set),
            selector: &selector,
            template: &spec.template,
            collisions: set.status.as_ref().and_then(|status| status.collision_count),
            hash_label: HASH_LABEL,
        };
        let history = match self.revisions.history(&owner).await {
            Err(ReconcileError::Api { source, .. }) if crate::namespace_is_terminating(&source) => return Ok(Outcome::Settled),
            other => other?,
        };
        let templates = templates(&set, &history);
        let plan = plan(&set, &templates, &pods, self.clock.now());
        let done = self.carry_out(key, &set, &plan).await;
        if set.status.as_ref() != Some(&plan.status) {
            let updated = StatefulSet { status: Some(plan.status.clone()), ..(*set).clone() };
            let api = Api::<StatefulSet>::namespaced(self.client.clone(), key.namespace.as_deref().unwrap_or_default());
            match api.replace_status(&key.name, &PostParams::default(), &updated).await {
                Err(error) if client::is_not_found(&error) => {}
                other => self.own_writes.wrote(key, &other.doing(|| format!("update the status of {key}"))?),
            }
        }
        let mut in_use: BTreeSet<String> = pods.iter().filter_map(|pod| identity::revision(pod).map(str::to_owned)).collect();
        in_use.extend([templates.current_name, templates.update_name]);
        let cut = self.revisions.cut(&owner, &history, &in_use, spec.revision_history_limit.unwrap_or(DEFAULT_HISTORY)).await;
        done.and(cut)?;
        Ok(Outcome::after(plan.check_after))
    }
}
