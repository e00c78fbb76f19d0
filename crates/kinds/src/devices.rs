//! The group `resource.k8s.io`: devices that are claimed by pods. These kinds are read as plain trees, since nothing here uses them but
//! these rules.
//!
//! Source: Kubernetes `pkg/apis/resource/validation/validation.go`.

use std::collections::HashSet;

use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object, validation as rules};
use serde_json::{Map, Value};

use crate::{
    cells,
    problems::{filled, immutable, one_of},
    strategy::{Column, Strategy},
};

const MOST_REQUESTS: usize = 32;
const MOST_SELECTORS: usize = 32;

pub(crate) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

pub(crate) fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

pub(crate) fn label(name: &str, path: &FieldPath, problems: &mut Vec<FieldError>) {
    if name.is_empty() {
        problems.push(FieldError::required(path, ""));
    } else {
        problems.extend(rules::invalid_each(path, name, rules::dns1123_label_problems(name)));
    }
}

fn selectors(parent: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let all = list(parent, "selectors");
    let path = path.child("selectors");
    if all.len() > MOST_SELECTORS {
        problems.push(FieldError::too_many(&path, all.len(), MOST_SELECTORS));
    }
    for (index, selector) in all.iter().enumerate() {
        let at = path.index(index).child("cel");
        match selector.get("cel").filter(|cel| cel.is_object()) {
            None => problems.push(FieldError::required(&at, "")),
            Some(cel) => filled(text(cel, "expression"), &at.child("expression"), problems),
        }
    }
}

/// Problems of what a claim asks for.
fn claim_spec(spec: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let path = path.child("devices").child("requests");
    let requests = spec.get("devices").map(|devices| list(devices, "requests")).unwrap_or_default();
    if requests.len() > MOST_REQUESTS {
        problems.push(FieldError::too_many(&path, requests.len(), MOST_REQUESTS));
    }
    let mut names = HashSet::new();
    for (index, request) in requests.iter().enumerate() {
        let (at, name) = (path.index(index), text(request, "name"));
        label(name, &at.child("name"), problems);
        if !names.insert(name) {
            problems.push(FieldError::duplicate(&at.child("name"), name));
        }
        let alternatives = list(request, "firstAvailable");
        match (request.get("exactly").filter(|exactly| exactly.is_object()), alternatives.is_empty()) {
            (None, true) => problems.push(FieldError::required(&at, "exactly one of `exactly` or `firstAvailable` is required")),
            (Some(_), false) => problems.push(FieldError::invalid(&at, Value::Null, "exactly one of `exactly` or `firstAvailable` is required")),
            (Some(exactly), true) => device_request(exactly, &at.child("exactly"), problems),
            (None, false) => {}
        }
        for (position, alternative) in alternatives.iter().enumerate() {
            let at = at.child("firstAvailable").index(position);
            label(text(alternative, "name"), &at.child("name"), problems);
            device_request(alternative, &at, problems);
        }
    }
}

fn device_request(request: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let (at, class) = (path.child("deviceClassName"), text(request, "deviceClassName"));
    if class.is_empty() {
        problems.push(FieldError::required(&at, ""));
    } else {
        problems.extend(rules::invalid_each(&at, class, rules::dns1123_subdomain_problems(class)));
    }
    selectors(request, path, problems);
    let (mode, count) = (text(request, "allocationMode"), request.get("count").and_then(Value::as_i64).unwrap_or_default());
    match mode {
        "ExactCount" if count <= 0 => problems.push(FieldError::invalid(&path.child("count"), count, "must be greater than zero")),
        "All" if count != 0 => {
            problems.push(FieldError::invalid(&path.child("count"), count, "must not be specified when allocationMode is 'All'"));
        }
        "ExactCount" | "All" => {}
        other => one_of(other, &["All", "ExactCount"], &path.child("allocationMode"), problems),
    }
}

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
        request.entry("count").or_insert_with(|| 1.into());
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
    }
    fn validate(&self, claim: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        claim_spec(spec_of(claim), &FieldPath::new("spec"), &mut problems);
        problems
    }
    fn validate_update(&self, claim: &Self::Kind, old: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        immutable(spec_of(claim), spec_of(old), &FieldPath::new("spec"), &mut problems);
        problems
    }
    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::text("State", "Whether it has its devices, and whether a pod uses them."), Column::AGE] }
    }
    fn row(&self, claim: &Self::Kind, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let status = claim.get("status").unwrap_or(&Value::Null);
        let mut state = if status.get("allocation").is_some() { "allocated" } else { "pending" }.to_owned();
        if !list(status, "reservedFor").is_empty() {
            state.push_str(",reserved");
        }
        vec![raw.name().into(), state.into(), cells::created(raw)]
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
        claim_spec(spec_of(template).get("spec").unwrap_or(&Value::Null), &path, &mut problems);
        problems
    }
    fn validate_update(&self, template: &Self::Kind, old: &Self::Kind) -> Vec<FieldError> {
        let mut problems = self.validate(template);
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
        let configurations = list(spec_of(class), "config");
        for (index, one) in configurations.iter().enumerate() {
            let at = path.child("config").index(index);
            match one.get("opaque").filter(|opaque| opaque.is_object()) {
                None => problems.push(FieldError::required(&at, "exactly one of: `opaque` is required")),
                Some(opaque) => driver(text(opaque, "driver"), &at.child("opaque").child("driver"), &mut problems),
            }
        }
        problems
    }
    fn tracks_generation(&self) -> bool {
        true
    }
}

pub(crate) fn driver(name: &str, path: &FieldPath, problems: &mut Vec<FieldError>) {
    const LONGEST: usize = 63;
    if name.is_empty() {
        problems.push(FieldError::required(path, ""));
        return;
    }
    if name.len() > LONGEST {
        problems.push(FieldError::too_long(path, LONGEST));
    }
    problems.extend(rules::invalid_each(path, name, rules::dns1123_subdomain_problems(name)));
}

/// Behaviour of what drivers say of their devices.
pub struct ResourceSliceStrategy;

impl Strategy for ResourceSliceStrategy {
    type Kind = Map<String, Value>;

    fn validate(&self, slice: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let (path, spec) = (FieldPath::new("spec"), spec_of(slice));
        driver(text(spec, "driver"), &path.child("driver"), &mut problems);
        let (at, pool) = (path.child("pool"), spec.get("pool").unwrap_or(&Value::Null));
        filled(text(pool, "name"), &at.child("name"), &mut problems);
        let count = pool.get("resourceSliceCount").and_then(Value::as_i64).unwrap_or_default();
        if count <= 0 {
            problems.push(FieldError::invalid(&at.child("resourceSliceCount"), count, "must be greater than zero"));
        }
        let generation = pool.get("generation").and_then(Value::as_i64).unwrap_or_default();
        if generation < 0 {
            problems.push(FieldError::invalid(&at.child("generation"), generation, "must be greater than or equal to zero"));
        }
        let is_true = |name: &str| spec.get(name).and_then(Value::as_bool) == Some(true);
        let places = [!text(spec, "nodeName").is_empty(), spec.get("nodeSelector").is_some(), is_true("allNodes"), is_true("perDeviceNodeSelection")];
        let detail = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
        match places.iter().filter(|set| **set).count() {
            0 => problems.push(FieldError::required(&path, detail)),
            1 => {}
            _ => problems.push(FieldError::invalid(&path, Value::Null, detail)),
        }
        let mut sets = HashSet::new();
        for (index, set) in list(spec, "sharedCounters").iter().enumerate() {
            let (at, name) = (path.child("sharedCounters").index(index), text(set, "name"));
            label(name, &at.child("name"), &mut problems);
            if !sets.insert(name) {
                problems.push(FieldError::duplicate(&at.child("name"), name));
            }
            let counters = set.get("counters").and_then(Value::as_object).filter(|counters| !counters.is_empty());
            if counters.is_none() {
                problems.push(FieldError::required(&at.child("counters"), ""));
            }
            for counter in counters.into_iter().flat_map(Map::keys) {
                problems.extend(rules::invalid_each(&at.child("counters"), counter, rules::dns1123_label_problems(counter)));
            }
        }
        let mut names = HashSet::new();
        for (index, device) in list(spec, "devices").iter().enumerate() {
            let (at, name) = (path.child("devices").index(index).child("name"), text(device, "name"));
            label(name, &at, &mut problems);
            if !names.insert(name) {
                problems.push(FieldError::duplicate(&at, name));
            }
        }
        problems
    }
    fn validate_update(&self, slice: &Self::Kind, old: &Self::Kind) -> Vec<FieldError> {
        let mut problems = self.validate(slice);
        let path = FieldPath::new("spec");
        let (new, old) = (spec_of(slice), spec_of(old));
        for field in ["driver", "nodeName"] {
            immutable(&text(new, field).to_owned(), &text(old, field).to_owned(), &path.child(field), &mut problems);
        }
        let pool = |spec: &Value| spec.get("pool").map(|pool| text(pool, "name").to_owned()).unwrap_or_default();
        immutable(&pool(new), &pool(old), &path.child("pool").child("name"), &mut problems);
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
}
