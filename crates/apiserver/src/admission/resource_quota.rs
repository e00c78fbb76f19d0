//! ResourceQuota: refuses what would use more of a namespace than its quotas allow, and charges them with what it lets in.
//!
//! The last plug-in, so that nothing is charged that somebody else refuses. What a quota's status says is used is raised
//! before the object is there; the quota controller counts again when things go. Source: Kubernetes
//! `apiserver/pkg/admission/plugin/resourcequota/controller.go`.

use std::{collections::BTreeMap, sync::Arc};

use api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota as Quota, Service};
use async_trait::async_trait;
use kinds::quota::{Used, pods};
use meta::{ApiError, GroupResource, Object, quantity::Quantity};
use serde_json::json;
use store::{Change, Expect, StoreError};

use crate::{
    admission::{AdmissionPlugin, Attributes, Operation, Step},
    core::Core,
    handler::write::{encode, store_failure, wait_for_change},
    view::StoredObject,
};

const QUOTAS: &str = "resourcequotas";

/// How often charging one quota begins again when others were quicker.
const MAXIMUM_ATTEMPTS: usize = 64;

/// The plug-in.
#[derive(Default)]
pub struct ResourceQuota {
    /// Writes to quotas go one by one: they would only meet conflicts.
    charging: tokio::sync::Mutex<()>,
}

/// An object in the type that says what it uses.
enum Typed {
    Pod(Box<Pod>),
    Service(Box<Service>),
    Claim(Box<PersistentVolumeClaim>),
    Other,
}

impl Typed {
    fn of(resource: &GroupResource, object: &Object) -> Result<Self, ApiError> {
        let failed = |error: serde_json::Error| ApiError::internal(error);
        Ok(match (&*resource.group, &*resource.resource) {
            ("", "pods") => Self::Pod(Box::new(object.decode().map_err(failed)?)),
            ("", "services") => Self::Service(Box::new(object.decode().map_err(failed)?)),
            ("", "persistentvolumeclaims") => Self::Claim(Box::new(object.decode().map_err(failed)?)),
            _ => Self::Other,
        })
    }
    fn used(&self) -> Used<'_> {
        match self {
            Self::Pod(pod) => Used::Pod(pod),
            Self::Service(service) => Used::Service(service),
            Self::Claim(claim) => Used::Claim(claim),
            Self::Other => Used::Other,
        }
    }
}

type Amounts = BTreeMap<String, Quantity>;

/// `a=1,b=2`
fn shown(amounts: &Amounts) -> String {
    amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
}

fn amounts(list: Option<&BTreeMap<String, api::apimachinery::pkg::api::resource::Quantity>>) -> Amounts {
    list.into_iter().flatten().filter_map(|(name, text)| Some((name.clone(), Quantity::parse(&text.0).ok()?))).collect()
}

/// What a write adds to what a quota counts; what becomes less is left to the controller.
fn added(quota: &Quota, resource: &GroupResource, new: &Typed, old: Option<&Typed>) -> Amounts {
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
    let names = hard.into_iter().flatten().map(|(name, _)| name);
    let more = |name: &String| {
        let amount = new.used().amount(resource, quota, name)?;
        let before = old.and_then(|old| old.used().amount(resource, quota, name));
        let more = before.map_or_else(|| amount.clone(), |before| amount.sub(&before));
        (more.signum() > 0).then(|| (name.clone(), more))
    };
    names.filter_map(more).collect()
}

/// What a quota's status becomes with more used; why it may not.
fn charge(quota: &Quota, more: &Amounts) -> Result<Amounts, String> {
    let name = quota.metadata.name.as_deref().unwrap_or_default();
    let status = quota.status.as_ref();
    let (hard, used) = (amounts(status.and_then(|status| status.hard.as_ref())), amounts(status.and_then(|status| status.used.as_ref())));
    let unknown: Vec<&str> = more.keys().filter(|name| !used.contains_key(*name) || !hard.contains_key(*name)).map(String::as_str).collect();
    if !unknown.is_empty() {
        return Err(format!("status unknown for quota: {name}, resources: {}", unknown.join(",")));
    }
    let mut result = used.clone();
    let (mut requested, mut before, mut limited) = (Amounts::new(), Amounts::new(), Amounts::new());
    for (resource, amount) in more {
        let (Some(hard), Some(used)) = (hard.get(resource), used.get(resource)) else { continue };
        let sum = used.add(amount);
        if hard.sub(&sum).signum() < 0 {
            requested.insert(resource.clone(), amount.clone());
            before.insert(resource.clone(), used.clone());
            limited.insert(resource.clone(), hard.clone());
        }
        result.insert(resource.clone(), sum);
    }
    if requested.is_empty() {
        return Ok(result);
    }
    Err(format!("exceeded quota: {name}, requested: {}, used: {}, limited: {}", shown(&requested), shown(&before), shown(&limited)))
}

/// Raises what a quota's status says is used.
async fn write_charge(core: &Core, attributes: &Attributes<'_>, stored: Arc<StoredObject>, more: &Amounts) -> Result<(), ApiError> {
    let kind = core.kind_named("", "v1", "ResourceQuota")?;
    let mut stored = stored;
    for _ in 0..MAXIMUM_ATTEMPTS {
        let quota: Quota = stored.typed().map_err(ApiError::internal)?;
        let used = charge(&quota, more).map_err(|why| attributes.forbidden(why))?;
        let mut object = core.served_object(&kind, &stored)?;
        object.set(&["status", "used"], json!(used.iter().map(|(name, amount)| (name.clone(), amount.to_string())).collect::<BTreeMap<_, _>>()));
        object.metadata_mut().remove("resourceVersion");
        let change = Change::Put { value: encode(kind.as_ref(), &object)?, expires_after: None };
        let key = kind.info().storage_key(stored.namespace(), stored.name());
        match core.view.write(&key, Expect::AtRevision(stored.revision), change).await {
            Ok(_) => return Ok(()),
            Err(StoreError::Conflict { .. }) => {
                wait_for_change(&core.view_of(&kind), &stored).await;
                match core.stored(&kind, stored.namespace(), stored.name()) {
                    Some(newer) => stored = newer,
                    // A quota that is gone limits nothing.
                    None => return Ok(()),
                }
            }
            Err(error) => return Err(store_failure(&error)),
        }
    }
    Err(ApiError::conflict(&GroupResource::new("", QUOTAS), stored.name(), "the object has been modified; please apply your changes to the latest version and try again"))
}

#[async_trait]
impl AdmissionPlugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }
    fn steps(&self) -> &'static [Step] {
        &[Step::Validate]
    }
    async fn validate(&self, core: &Core, attributes: &Attributes<'_>, object: Option<&Object>, old: Option<&Object>) -> Result<(), ApiError> {
        let Some(object) = object else { return Ok(()) };
        let info = attributes.kind.info();
        if attributes.namespace.is_empty() || !matches!(attributes.operation, Operation::Create | Operation::Update) || !info.namespaced {
            return Ok(());
        }
        if !matches!(attributes.subresource, "" | "resize") {
            return Ok(());
        }
        let view = core.view_named(QUOTAS);
        if view.is_empty() {
            return Ok(());
        }
        let prefix = format!("{}/", attributes.namespace);
        let snapshot = core.view.snapshot(&view);
        let quotas: Vec<Arc<StoredObject>> = snapshot.range(&prefix, None).cloned().collect();
        if quotas.is_empty() {
            return Ok(());
        }
        let resource = info.group_resource();
        let creates = attributes.operation == Operation::Create;
        if creates && core.stored(attributes.kind, attributes.namespace, attributes.name).is_some() {
            // The store will refuse it; nothing must be charged.
            return Ok(());
        }
        let new = Typed::of(&resource, object)?;
        // What is only counted changes nothing when it is updated.
        if !creates && matches!(new, Typed::Other) {
            return Ok(());
        }
        let old = old.filter(|_| !creates).map(|old| Typed::of(&resource, old)).transpose()?;
        let mut charges: Vec<(Arc<StoredObject>, Amounts)> = Vec::new();
        let _one_by_one = self.charging.lock().await;
        for stored in quotas {
            // As it is now: whoever charged it before us has finished.
            let Some(stored) = view.get(&stored.key) else { continue };
            let quota: Quota = stored.typed().map_err(ApiError::internal)?;
            if creates
                && let Typed::Pod(pod) = &new
                && kinds::quota::scopes::selects(&quota, pod)
                && let Some(unsaid) = pods::unsaid(pod, quota.spec.iter().flat_map(|spec| spec.hard.iter().flatten()).map(|(name, _)| name))
            {
                return Err(attributes.forbidden(format!("failed quota: {}: must specify {unsaid}", stored.name())));
            }
            let more = added(&quota, &resource, &new, old.as_ref());
            if more.is_empty() {
                continue;
            }
            charge(&quota, &more).map_err(|why| attributes.forbidden(why))?;
            charges.push((stored, more));
        }
        if attributes.dry_run {
            return Ok(());
        }
        for (stored, more) in charges {
            write_charge(core, attributes, stored, &more).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn quota(hard: Value, used: Value) -> Quota {
        serde_json::from_value(json!({"metadata": {"name": "q"}, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}})).unwrap()
    }

    fn pod(cpu: &str) -> Typed {
        let object = json!({"metadata": {}, "spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": cpu}}}]}});
        Typed::of(&GroupResource::new("", "pods"), &Object::from_value(object).unwrap()).unwrap()
    }

    #[test]
    fn what_is_too_much_is_told_with_all_numbers() {
        let quota = quota(json!({"cpu": "1", "pods": "5"}), json!({"cpu": "500m", "pods": "1"}));
        let more = added(&quota, &GroupResource::new("", "pods"), &pod("600m"), None);
        assert_eq!(shown(&more), "cpu=600m,pods=1");
        assert_eq!(charge(&quota, &more).unwrap_err(), "exceeded quota: q, requested: cpu=600m, used: cpu=500m, limited: cpu=1");
        let fits = added(&quota, &GroupResource::new("", "pods"), &pod("500m"), None);
        assert_eq!(shown(&charge(&quota, &fits).unwrap()), "cpu=1,pods=2");
    }

    #[test]
    fn an_update_is_charged_with_the_difference() {
        let quota = quota(json!({"cpu": "1"}), json!({"cpu": "500m"}));
        let resource = GroupResource::new("", "pods");
        assert_eq!(shown(&added(&quota, &resource, &pod("600m"), Some(&pod("500m")))), "cpu=100m");
        assert!(added(&quota, &resource, &pod("400m"), Some(&pod("500m"))).is_empty());
    }

    #[test]
    fn a_quota_that_was_never_counted_lets_nothing_in() {
        let mut uncounted = quota(json!({"pods": "1"}), json!({}));
        uncounted.status = None;
        let more = added(&uncounted, &GroupResource::new("", "pods"), &pod("1"), None);
        assert_eq!(charge(&uncounted, &more).unwrap_err(), "status unknown for quota: q, resources: pods");
    }
}
