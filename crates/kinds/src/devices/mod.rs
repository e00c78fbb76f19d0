//! The group `resource.k8s.io`: devices that are claimed by pods. These kinds are read as plain trees, since nothing here uses them but
//! these rules.
//!
//! Source: Kubernetes `pkg/apis/resource/validation/validation.go`.

mod allocations;
mod claims;
pub(crate) mod parts;
mod slices;

use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object};
use serde_json::{Map, Value};

use self::parts::{configuration, list, selectors, text, too_many};
use crate::{
    cells,
    problems::immutable,
    resource_names,
    strategy::{Column, Strategy, WriteContext},
};

/// One device where nothing else is said. Source: Kubernetes `pkg/apis/resource/v1/defaults.go`.
fn default_requests(spec: Option<&mut Value>) {
    let requests = spec.and_then(|spec| spec.get_mut("devices")).and_then(|devices| devices.get_mut("requests")).and_then(Value::as_array_mut);
    for request in requests.into_iter().flatten().filter_map(Value::as_object_mut) {
        if let Some(exactly) = request.get_mut("exactly").and_then(Value::as_object_mut) {
            default_request(exactly);
        }
        for one in request.get_mut("firstAvailable").and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut) {
            default_request(one);
        }
    }
}

fn default_request(request: &mut Map<String, Value>) {
    let mode = request.entry("allocationMode").or_insert_with(|| "ExactCount".into());
    if mode == "ExactCount" {
        let count = request.entry("count").or_insert_with(|| 1.into());
        if count.as_i64() == Some(0) {
            *count = 1.into();
        }
    }
    default_tolerations(request);
}

fn default_tolerations(parent: &mut Map<String, Value>) {
    for toleration in parent.get_mut("tolerations").and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut) {
        toleration.entry("operator").or_insert_with(|| "Equal".into());
    }
}

/// When a taint was added, where nobody says: now, or when one like it was added before.
pub(crate) fn date_taint(context: &WriteContext, taint: &mut Map<String, Value>, known: &[Value]) {
    if taint.get("timeAdded").is_some_and(Value::is_string) {
        return;
    }
    let same = |known: &&Value| ["key", "value", "effect"].iter().all(|field| known.get(*field) == taint.get(*field));
    let before = known.iter().find(same).and_then(|known| known.get("timeAdded")).cloned();
    let time = before.unwrap_or_else(|| context.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into());
    taint.insert("timeAdded".to_owned(), time);
}

fn date_taints(context: &WriteContext, slice: &mut Map<String, Value>, old: Option<&Map<String, Value>>) {
    let known = old.map_or(&[][..], |old| list(spec_of(old), "devices"));
    let devices = slice.get_mut("spec").and_then(|spec| spec.get_mut("devices")).and_then(Value::as_array_mut);
    for device in devices.into_iter().flatten() {
        let known = known.iter().find(|known| text(known, "name") == text(device, "name")).map_or(&[][..], |known| list(known, "taints"));
        let taints = device.get_mut("taints").and_then(Value::as_array_mut);
        for taint in taints.into_iter().flatten().filter_map(Value::as_object_mut) {
            date_taint(context, taint, known);
        }
    }
}

fn spec_of(object: &Map<String, Value>) -> &Value {
    object.get("spec").unwrap_or(&Value::Null)
}

/// Behaviour of claims.
pub struct ResourceClaimStrategy;

impl Strategy for ResourceClaimStrategy {
    type Kind = Map<String, Value>;

    fn default(&self, claim: &mut Self::Kind) {
        default_requests(claim.get_mut("spec"));
        let results = claim.get_mut("status").and_then(|status| status.get_mut("allocation")?.get_mut("devices")?.get_mut("results")?.as_array_mut());
        results.into_iter().flatten().filter_map(Value::as_object_mut).for_each(default_tolerations);
    }
    fn validate(&self, claim: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        claims::validate(spec_of(claim), &FieldPath::new("spec"), &mut problems);
        problems
    }
    fn validate_update(&self, claim: &Self::Kind, old: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        immutable(spec_of(claim), spec_of(old), &FieldPath::new("spec"), &mut problems);
        problems
    }
    fn status_keeps_metadata(&self) -> bool {
        true
    }
    fn validate_status_update(&self, claim: &Self::Kind, old: &Self::Kind) -> Vec<FieldError> {
        allocations::validate(claim, old)
    }
    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::text("State", "Whether it has its devices, and whether a pod uses them."), Column::AGE] }
    }
    fn row(&self, claim: &Self::Kind, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let status = claim.get("status").unwrap_or(&Value::Null);
        let (deleted, allocated) = (raw.deletion_timestamp().is_some(), status.get("allocation").is_some());
        let states = [
            (deleted, "deleted"),
            (!deleted && !allocated, "pending"),
            (allocated, "allocated"),
            (allocated && !list(status, "reservedFor").is_empty(), "reserved"),
        ];
        vec![raw.name().into(), cells::joined(states.iter().filter(|(is, _)| *is).map(|(_, word)| word)), cells::created(raw)]
    }
}

/// Behaviour of templates of claims.
pub struct ResourceClaimTemplateStrategy;

impl Strategy for ResourceClaimTemplateStrategy {
    type Kind = Map<String, Value>;

    fn default(&self, template: &mut Self::Kind) {
        default_requests(template.get_mut("spec").and_then(|spec| spec.get_mut("spec")));
    }
    fn validate(&self, template: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec").child("spec");
        claims::validate(spec_of(template).get("spec").unwrap_or(&Value::Null), &path, &mut problems);
        problems
    }
    fn validate_update(&self, template: &Self::Kind, old: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        immutable(spec_of(template), spec_of(old), &FieldPath::new("spec"), &mut problems);
        problems
    }
}

/// Behaviour of classes of devices.
pub struct DeviceClassStrategy;

impl Strategy for DeviceClassStrategy {
    type Kind = Map<String, Value>;

    fn validate(&self, class: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec");
        selectors(spec_of(class), &path, &mut problems);
        let (at, configurations) = (path.child("config"), list(spec_of(class), "config"));
        if !too_many(configurations.len(), claims::MOST_CONFIGURATIONS, &at, &mut problems) {
            for (index, one) in configurations.iter().enumerate() {
                configuration(one, &at.index(index), &mut problems);
            }
        }
        if let Some(name) = spec_of(class).get("extendedResourceName").and_then(Value::as_str).filter(|name| !resource_names::is_extended(name)) {
            problems.push(FieldError::invalid(&path.child("extendedResourceName"), name, "must be a valid extended resource name"));
        }
        problems
    }
    fn tracks_generation(&self) -> bool {
        true
    }
}

/// Behaviour of what drivers say of their devices.
pub struct ResourceSliceStrategy;

impl Strategy for ResourceSliceStrategy {
    type Kind = Map<String, Value>;

    fn prepare_create(&self, context: &WriteContext, slice: &mut Self::Kind) {
        date_taints(context, slice, None);
    }
    fn prepare_update(&self, context: &WriteContext, slice: &mut Self::Kind, old: &Self::Kind) {
        date_taints(context, slice, Some(old));
    }
    fn validate(&self, slice: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        slices::validate(spec_of(slice), None, &mut problems);
        problems
    }
    fn validate_update(&self, slice: &Self::Kind, old: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        slices::validate(spec_of(slice), Some(spec_of(old)), &mut problems);
        problems
    }
    fn tracks_generation(&self) -> bool {
        true
    }
    fn selectable_field_names(&self) -> &'static [&'static str] {
        &["spec.driver", "spec.nodeName"]
    }
    fn selectable_fields(&self, slice: &Self::Kind) -> Vec<(&'static str, String)> {
        let spec = spec_of(slice);
        vec![("spec.driver", text(spec, "driver").to_owned()), ("spec.nodeName", text(spec, "nodeName").to_owned())]
    }
    fn columns(&self) -> &'static [Column] {
        const { &[
            Column::NAME,
            Column::text("Node", "From which node its devices can be used."),
            Column::text("Driver", "Who says so."),
            Column::text("Pool", "What they belong to."),
            Column::AGE,
        ] }
    }
    fn row(&self, slice: &Self::Kind, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let spec = spec_of(slice);
        let pool = spec.get("pool").map(|pool| text(pool, "name")).unwrap_or_default();
        vec![raw.name().into(), text(spec, "nodeName").into(), text(spec, "driver").into(), pool.into(), cells::created(raw)]
    }
}
