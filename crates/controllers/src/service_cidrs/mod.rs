//! Ranges of Service addresses: each is ready as soon as it is seen, and stays, when it is deleted, while a Service has an address that no
//! other range contains. [`ranges`] does the arithmetic.

mod ranges;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Api, EventRecorder, EventType, Informer, ObjectKey, Patch, PatchParams, PostParams, Selection};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Runner, Trigger};
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::json;

use crate::ControllerContext;
use ranges::Range;

const CONTROLLER: &str = "service-cidrs-controller";
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const READY: &str = "Ready";
/// So long after its deletion a range may still be given addresses from, by who has not heard of it.
/// Source: Kubernetes 1.36, `deletionGracePeriod`.
const GRACE: Duration = Duration::from_secs(10);

/// Starts the controller.
pub fn start(context: &ControllerContext, runner: &Runner) {
    let selection = Selection { namespace: None, fields: None, labels: Some("ipaddress.kubernetes.io/managed-by=ipallocator.k8s.io".to_owned()) };
    let controller = ServiceCidrs {
        client: context.client(CONTROLLER),
        ranges: context.informers.of(),
        addresses: context.informers.selected(selection),
        events: context.events_as(CONTROLLER, "service-cidr-controller"),
        clock: context.clock.clone(),
    };
    runner.start(controller, 1);
}

struct ServiceCidrs {
    client: client::Client,
    ranges: Informer<ServiceCIDR>,
    addresses: Informer<IPAddress>,
    events: EventRecorder,
    clock: Arc<dyn client::Clock>,
}

fn ranges_of(object: &ServiceCIDR) -> Vec<Range> {
    object.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten()).filter_map(|text| Range::parse(text)).collect()
}

/// Whether no Service's address would be without a range if this one went.
/// Source: Kubernetes 1.36, `canDeleteCIDR`.
fn may_go(object: &ServiceCIDR, all: &[Arc<ServiceCIDR>], addresses: impl Iterator<Item = IpAddr>) -> bool {
    let own = ranges_of(object);
    let others: Vec<Range> = all.iter().filter(|other| other.metadata.name != object.metadata.name).flat_map(|other| ranges_of(other)).collect();
    let has_parent = own.iter().all(|range| others.iter().any(|other| other.contains_range(range)));
    let is_orphan = |address: IpAddr| own.iter().any(|range| range.contains(address)) && !others.iter().any(|other| other.contains(address));
    has_parent || !addresses.into_iter().any(is_orphan)
}

/// The range with this condition; `None` when it says so already.
fn told(object: &ServiceCIDR, is_ready: bool, reason: &str, message: &str, now: Timestamp) -> Option<ServiceCIDR> {
    let mut told = object.clone();
    let conditions = told.status.get_or_insert_default().conditions.get_or_insert_default();
    let status = if is_ready { "True" } else { "False" };
    let before = conditions.iter().find(|condition| condition.type_ == READY);
    if before.is_some_and(|before| before.status == status && before.reason == reason && before.message == message) {
        return None;
    }
    conditions.retain(|condition| condition.type_ != READY);
    conditions.push(Condition {
        type_: READY.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: None,
        last_transition_time: Time(now),
    });
    Some(told)
}

impl ServiceCidrs {
    async fn set_finalizers(&self, key: &ObjectKey, object: &ServiceCIDR, finalizers: Vec<String>) -> Result<Option<ServiceCIDR>, ReconcileError> {
        let metadata = &object.metadata;
        let patch = json!({ "metadata": { "finalizers": finalizers, "uid": metadata.uid, "resourceVersion": metadata.resource_version } });
        match Api::<ServiceCIDR>::all(self.client.clone()).patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(error) if client::is_not_found(&error) => Ok(None),
            other => other.map(Some).doing(|| format!("change the finalizers of range {key}")),
        }
    }

    async fn tell(&self, key: &ObjectKey, told: Option<ServiceCIDR>) -> Result<Outcome, ReconcileError> {
        let Some(told) = told else { return Ok(Outcome::Settled) };
        match Api::<ServiceCIDR>::all(self.client.clone()).replace_status(&key.name, &PostParams::default(), &told).await {
            Err(error) if client::is_not_found(&error) => Ok(Outcome::Settled),
            Err(error) => {
                if !client::is_conflict(&error) {
                    self.events.record(&told, EventType::Warning, "KubernetesServiceCIDRError", "The ServiceCIDR Status can not be set to Ready=True");
                }
                Err(error).doing(|| format!("update the status of range {key}"))
            }
            Ok(_) => Ok(Outcome::Settled),
        }
    }
}

#[async_trait]
impl Reconciler for ServiceCidrs {
    fn name(&self) -> &'static str {
        "service-cidrs"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let leaving = |ranges: &Informer<ServiceCIDR>| -> Vec<ObjectKey> {
            let all = ranges.list();
            all.iter().filter(|range| range.metadata.deletion_timestamp.is_some()).map(|range| client::key_of(&**range)).collect()
        };
        let (siblings, by_address) = (self.ranges.clone(), self.ranges.clone());
        vec![
            // A range may go when another one that contains its addresses comes.
            Trigger::on(&self.ranges, move |change| leaving(&siblings).into_iter().chain([change.key.clone()]).collect()),
            Trigger::on(&self.addresses, move |change| if change.new.is_none() { leaving(&by_address) } else { Vec::new() }),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(object) = self.ranges.get(key) else { return Ok(Outcome::Settled) };
        let now = self.clock.now();
        let mut finalizers = object.metadata.finalizers.clone().unwrap_or_default();
        let is_held = finalizers.iter().any(|finalizer| finalizer == FINALIZER);
        if let Some(since) = &object.metadata.deletion_timestamp {
            if !is_held {
                return Ok(Outcome::Settled);
            }
            let addresses = self.addresses.list();
            let addresses = addresses.iter().filter_map(|address| address.metadata.name.as_deref()?.parse().ok());
            if !may_go(&object, &self.ranges.list(), addresses) {
                let message = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
                return self.tell(key, told(&object, false, "Terminating", message, now)).await;
            }
            let left = GRACE.saturating_sub(Duration::try_from(now.duration_since(since.0)).unwrap_or_default());
            if !left.is_zero() {
                return Ok(Outcome::CheckAgainIn(left));
            }
            finalizers.retain(|finalizer| finalizer != FINALIZER);
            self.set_finalizers(key, &object, finalizers).await?;
            return Ok(Outcome::Settled);
        }
        let mut current = (*object).clone();
        if !is_held {
            finalizers.push(FINALIZER.to_owned());
            let Some(written) = self.set_finalizers(key, &object, finalizers).await? else { return Ok(Outcome::Settled) };
            current = written;
        }
        self.tell(key, told(&current, true, "", "Kubernetes Service CIDR is ready", now)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{context, within};
    use client::fake::FakeApi;

    fn range(name: &str, cidrs: &[&str]) -> ServiceCIDR {
        serde_json::from_value(json!({ "metadata": { "name": name }, "spec": { "cidrs": cidrs } })).unwrap()
    }

    #[track_caller]
    fn check(others: &[&str], addresses: &[&str], expected: bool) {
        let object = range("going", &["10.0.0.0/24", "fd00::/112"]);
        let mut all = vec![Arc::new(object.clone())];
        all.extend(others.iter().enumerate().map(|(number, cidr)| Arc::new(range(&format!("other-{number}"), &[*cidr]))));
        assert_eq!(may_go(&object, &all, addresses.iter().map(|address| address.parse().unwrap())), expected);
    }

    #[test]
    fn a_range_stays_while_it_alone_has_an_address() {
        check(&[], &[], true);
        check(&[], &["10.0.1.1", "fd01::1"], true);
        check(&[], &["10.0.0.1"], false);
        check(&["10.0.0.0/28"], &["10.0.0.1"], true);
        check(&["10.0.0.0/28"], &["10.0.0.17"], false);
        check(&["10.0.0.0/16", "fd00::/64"], &["10.0.0.17", "fd00::9"], true);
        check(&["10.0.0.0/16"], &["10.0.0.17", "fd00::9"], false);
    }

    #[tokio::test]
    async fn a_new_range_is_held_and_ready() {
        let fake = FakeApi::new();
        let context = context(&fake);
        let runner = context.runner();
        start(&context, &runner);
        Api::<ServiceCIDR>::all(fake.client()).create(&PostParams::default(), &range("more", &["10.9.0.0/24"])).await.unwrap();
        let ready = |fake: &FakeApi| {
            let range = fake.objects::<ServiceCIDR>().pop()?;
            let conditions = range.status.and_then(|status| status.conditions).unwrap_or_default();
            let is_ready = conditions.iter().any(|condition| condition.type_ == READY && condition.status == "True");
            (is_ready && range.metadata.finalizers.unwrap_or_default() == [FINALIZER]).then_some(())
        };
        within("a ready range", fake.until(ready)).await;
        context.informers.stopped().cancel();
        within("the end", runner.finished()).await;
    }
}
