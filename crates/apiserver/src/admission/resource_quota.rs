//! ResourceQuota: refuses what would use more of a namespace than its quotas allow, and charges them with what it lets in.
//!
//! The last plug-in, so that nothing is charged that somebody else refuses. What a quota's status says is used is raised
//! before the object is there; the quota controller counts again when things go. Source: Kubernetes
//! `apiserver/pkg/admission/plugin/resourcequota/controller.go`.

use std::{collections::{BTreeMap, BTreeSet}, sync::Arc};

use api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota as Quota, ScopedResourceSelectorRequirement, Service};
use async_trait::async_trait;
use kinds::quota::{Used, pods, scopes};
use meta::{ApiError, FieldError, FieldPath, GroupResource, Object, Reason, quantity::Quantity};
use serde::Deserialize;
use serde_json::{Value, json};
use store::{Change, Expect, StoreError};

use crate::{
    admission::{AdmissionPlugin, Attributes, Operation, Step, configuration::document},
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
    configuration: Configuration,
    /// Writes to quotas go one by one: they would only meet conflicts.
    charging: tokio::sync::Mutex<()>,
}

impl ResourceQuota {
    /// With an administrator's settings.
    pub fn new(configuration: Configuration) -> Self {
        Self { configuration, charging: tokio::sync::Mutex::default() }
    }
}

/// What may be used only where a quota limits it.
/// Source: Kubernetes 1.36, `apiserver/pkg/admission/plugin/resourcequota/apis/resourcequota`.
#[derive(Debug, Clone, Default)]
pub struct Configuration {
    limited: Vec<Limited>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Limited {
    #[serde(default)]
    api_group: String,
    #[serde(default)]
    resource: String,
    /// Parts of the names of what is used.
    #[serde(default)]
    match_contains: Vec<String>,
    #[serde(default)]
    match_scopes: Vec<ScopedResourceSelectorRequirement>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    #[allow(dead_code, reason = "looked at before; here it is only allowed to be there")]
    api_version: String,
    #[allow(dead_code, reason = "as above")]
    kind: String,
    #[serde(default)]
    limited_resources: Vec<Limited>,
}

impl Configuration {
    /// Reads a ResourceQuotaConfiguration, or a Configuration of the group that was before it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(value: Value) -> Result<Self, String> {
        let is_old = value.get("kind").and_then(Value::as_str) == Some("Configuration");
        let file: File = if is_old {
            document(value, &["resourcequota.admission.k8s.io/v1beta1", "resourcequota.admission.k8s.io/v1alpha1"], "Configuration")?
        } else {
            document(value, &["apiserver.config.k8s.io/v1"], "ResourceQuotaConfiguration")?
        };
        match file.limited_resources.iter().position(|limited| limited.resource.is_empty()) {
            Some(index) => Err(FieldError::required(&FieldPath::new("limitedResources").index(index).child("resource"), "").to_string()),
            None => Ok(Self { limited: file.limited_resources }),
        }
    }

    fn of<'a>(&'a self, resource: &'a GroupResource) -> impl Iterator<Item = &'a Limited> {
        self.limited.iter().filter(|limited| *limited.api_group == *resource.group && *limited.resource == *resource.resource)
    }
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

impl Typed {
    /// Whether it is of a scope.
    fn is_of(&self, scope: &ScopedResourceSelectorRequirement) -> bool {
        match self {
            Self::Pod(pod) => scopes::matches(scope, pod),
            Self::Claim(claim) => scope.scope_name == "VolumeAttributesClass" && scopes::attributes_match(scope, claim),
            Self::Service(_) | Self::Other => false,
        }
    }

    /// The names of everything that it uses.
    fn uses(&self, resource: &GroupResource) -> BTreeSet<String> {
        let mut names = BTreeSet::from([format!("count/{resource}"), resource.resource.to_string()]);
        match self {
            Self::Pod(pod) => {
                let spec = pod.spec.as_ref();
                let containers = spec.into_iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
                let of_containers = containers.filter_map(|container| container.resources.as_ref());
                for resources in spec.and_then(|spec| spec.resources.as_ref()).into_iter().chain(of_containers) {
                    for name in resources.requests.iter().flatten().map(|(name, _)| name) {
                        names.extend([name.clone(), format!("requests.{name}")]);
                    }
                    names.extend(resources.limits.iter().flatten().map(|(name, _)| format!("limits.{name}")));
                }
            }
            Self::Service(_) => names.extend(["services.loadbalancers", "services.nodeports"].map(str::to_owned)),
            Self::Claim(claim) => {
                names.insert("requests.storage".to_owned());
                if let Some(class) = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()).filter(|class| !class.is_empty()) {
                    names.extend(["persistentvolumeclaims", "requests.storage"].map(|what| format!("{class}.storageclass.storage.k8s.io/{what}")));
                }
            }
            Self::Other => {}
        }
        names.retain(|name| self.used().amount(resource, &Quota::default(), name).is_some_and(|amount| amount.signum() > 0));
        names
    }
}

/// `{PriorityClass In [a b]}`, as Go shows it.
fn shown_scope(scope: &ScopedResourceSelectorRequirement) -> String {
    format!("{{{} {} [{}]}}", scope.scope_name, scope.operator, scope.values.iter().flatten().cloned().collect::<Vec<_>>().join(" "))
}

/// The scopes that a quota names, in either way.
fn scopes_of(quota: &Quota) -> Vec<ScopedResourceSelectorRequirement> {
    let Some(spec) = &quota.spec else { return Vec::new() };
    let by_name = spec.scopes.iter().flatten().map(|scope| ScopedResourceSelectorRequirement { scope_name: scope.clone(), operator: "Exists".to_owned(), values: None });
    by_name.chain(spec.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten()).cloned()).collect()
}

/// Why an object is refused that uses what is limited by default, where no quota says how much of it there may be. `more` tells whether it
/// uses more of something than before.
fn uncovered(configuration: &Configuration, quotas: &[Quota], resource: &GroupResource, new: &Typed, more: impl Fn(&str) -> bool) -> Result<(), Uncovered> {
    let mut limited: BTreeSet<String> = BTreeSet::new();
    let mut limited_scopes: Vec<&ScopedResourceSelectorRequirement> = Vec::new();
    let uses = new.uses(resource);
    for rule in configuration.of(resource) {
        limited.extend(uses.iter().filter(|name| more(name) && rule.match_contains.iter().any(|part| name.contains(part.as_str()))).cloned());
        limited_scopes.extend(rule.match_scopes.iter().filter(|scope| new.is_of(scope)));
    }
    let hard = |quota: &Quota, name: &str| quota.spec.as_ref().and_then(|spec| spec.hard.as_ref()).is_some_and(|hard| hard.contains_key(name));
    limited.retain(|name| !quotas.iter().any(|quota| hard(quota, name) && new.used().amount(resource, quota, name).is_some()));
    if !limited.is_empty() {
        return Err(Uncovered::Names(limited.into_iter().collect::<Vec<_>>().join(",")));
    }
    let covers = |quota: &Quota, name: &str| scopes_of(quota).iter().any(|scope| scope.scope_name == name && new.is_of(scope));
    limited_scopes.retain(|scope| !quotas.iter().any(|quota| covers(quota, &scope.scope_name)));
    if !limited_scopes.is_empty() {
        return Err(Uncovered::Scopes(limited_scopes.into_iter().map(shown_scope).collect::<Vec<_>>().join(" ")));
    }
    Ok(())
}

/// What no quota covers.
#[derive(Debug, PartialEq, Eq)]
enum Uncovered {
    Names(String),
    Scopes(String),
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
        let resource = info.group_resource();
        let is_limited = self.configuration.of(&resource).next().is_some();
        if view.is_empty() && !is_limited {
            return Ok(());
        }
        let prefix = format!("{}/", attributes.namespace);
        let snapshot = core.view.snapshot(&view);
        let quotas: Vec<Arc<StoredObject>> = snapshot.range(&prefix, None).cloned().collect();
        if quotas.is_empty() && !is_limited {
            return Ok(());
        }
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
        if is_limited {
            let quotas: Vec<Quota> = quotas.iter().filter_map(|stored| stored.typed().ok()).collect();
            let amount = |of: &Typed, name: &str| of.used().amount(&resource, &Quota::default(), name);
            let more = |name: &str| match (amount(&new, name), old.as_ref().and_then(|old| amount(old, name))) {
                (Some(new), Some(old)) => new.sub(&old).signum() > 0,
                _ => true,
            };
            match uncovered(&self.configuration, &quotas, &resource, &new, more) {
                Ok(()) => {}
                Err(Uncovered::Names(names)) => return Err(attributes.forbidden(format!("insufficient quota to consume: {names}"))),
                // No refusal with a reason, upstream either.
                Err(Uncovered::Scopes(scopes)) => return Err(ApiError::new(500, Reason::Unknown, format!("insufficient quota to match these scopes: [{scopes}]"))),
            }
        }
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

    fn limits(rules: Value) -> Configuration {
        Configuration::read(json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "ResourceQuotaConfiguration", "limitedResources": rules})).unwrap()
    }

    #[test]
    fn what_is_limited_by_default_needs_a_quota_that_names_it() {
        let rules = limits(json!([{"resource": "pods", "matchContains": ["cpu"]}, {"apiGroup": "apps", "resource": "pods", "matchContains": ["pods"]}]));
        let resource = GroupResource::new("", "pods");
        let asked = |quotas: &[Quota], cpu: &str, more: bool| uncovered(&rules, quotas, &resource, &pod(cpu), |_| more);
        assert_eq!(asked(&[], "1", true), Err(Uncovered::Names("cpu,requests.cpu".to_owned())));
        let one = quota(json!({"cpu": "1"}), json!({}));
        assert_eq!(asked(std::slice::from_ref(&one), "1", true), Err(Uncovered::Names("requests.cpu".to_owned())));
        assert_eq!(asked(&[one, quota(json!({"requests.cpu": "1"}), json!({}))], "1", true), Ok(()));
        // What uses nothing, or no more than before, needs none.
        assert_eq!(asked(&[], "0", true), Ok(()));
        assert_eq!(asked(&[], "1", false), Ok(()));
    }

    #[test]
    fn pods_of_a_scope_that_is_limited_need_a_quota_of_that_scope() {
        let rules = limits(json!([{"resource": "pods", "matchScopes": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high", "higher"]}]}]));
        let resource = GroupResource::new("", "pods");
        let of_class = |class: &str| Typed::of(&resource, &Object::from_value(json!({"metadata": {}, "spec": {"priorityClassName": class, "containers": []}})).unwrap()).unwrap();
        let asked = |quotas: &[Quota], class: &str| uncovered(&rules, quotas, &resource, &of_class(class), |_| true);
        assert_eq!(asked(&[], "high"), Err(Uncovered::Scopes("{PriorityClass In [high higher]}".to_owned())));
        assert_eq!(asked(&[], "low"), Ok(()));
        let of = |class: &str| {
            let mut quota = quota(json!({"pods": "1"}), json!({}));
            let expressions = json!({"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": [class]}]});
            quota.spec.as_mut().unwrap().scope_selector = serde_json::from_value(expressions).unwrap();
            quota
        };
        assert!(asked(&[of("low")], "high").is_err());
        assert_eq!(asked(&[of("low"), of("high")], "high"), Ok(()));
    }

    #[test]
    fn settings_that_name_no_resource_are_refused() {
        let read = |value: Value| Configuration::read(value).unwrap_err();
        let without = json!({"apiVersion": "resourcequota.admission.k8s.io/v1beta1", "kind": "Configuration", "limitedResources": [{}]});
        assert_eq!(read(without), "limitedResources[0].resource: Required value");
        assert!(read(json!({"apiVersion": "v1", "kind": "Configuration"})).contains("no kind"));
    }

    #[test]
    fn a_quota_that_was_never_counted_lets_nothing_in() {
        let mut uncounted = quota(json!({"pods": "1"}), json!({}));
        uncounted.status = None;
        let more = added(&uncounted, &GroupResource::new("", "pods"), &pod("1"), None);
        assert_eq!(charge(&uncounted, &more).unwrap_err(), "status unknown for quota: q, resources: pods");
    }
}
