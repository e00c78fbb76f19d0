//! DeviceTaintRule, which keeps devices from being used, and ResourcePoolStatusRequest, which asks how a pool of them stands.
//!
//! Source: Kubernetes `pkg/apis/resource/validation`.

use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object, validation as rules};
use serde_json::{Map, Value};

use crate::{
    cells,
    devices::{
        date_taint,
        parts::{driver, label, list, pool, taint, text},
    },
    problems::immutable,
    status_rules,
    strategy::{Column, Strategy, WriteContext},
};

/// Behaviour of taints.
pub struct DeviceTaintRuleStrategy;
/// Behaviour of questions about pools.
pub struct ResourcePoolStatusRequestStrategy;

const MOST_CONDITIONS: usize = 8;

fn part<'a>(object: &'a Map<String, Value>, name: &str) -> &'a Value {
    object.get(name).unwrap_or(&Value::Null)
}

fn rule_problems(rule: &Map<String, Value>, old: Option<&Map<String, Value>>) -> Vec<FieldError> {
    let mut problems = Vec::new();
    let (path, spec) = (FieldPath::new("spec"), part(rule, "spec"));
    if let Some(selector) = spec.get("deviceSelector") {
        let at = path.child("deviceSelector");
        let given = |field: &str| selector.get(field).and_then(Value::as_str);
        if let Some(name) = given("driver") {
            driver(name, &at.child("driver"), &mut problems);
        }
        if let Some(name) = given("pool") {
            pool(name, &at.child("pool"), &mut problems);
        }
        if let Some(name) = given("device") {
            label(name, &at.child("device"), &mut problems);
        }
    }
    let known = old.and_then(|old| part(old, "spec").get("taint")).map(|taint| text(taint, "effect"));
    taint(spec.get("taint").unwrap_or(&Value::Null), known, &path.child("taint"), &mut problems);
    problems
}

fn date(context: &WriteContext, rule: &mut Map<String, Value>, old: Option<&Map<String, Value>>) {
    let known: Vec<Value> = old.and_then(|old| part(old, "spec").get("taint")).cloned().into_iter().collect();
    if let Some(taint) = rule.get_mut("spec").and_then(|spec| spec.get_mut("taint")).and_then(Value::as_object_mut) {
        date_taint(context, taint, &known);
    }
}

impl Strategy for DeviceTaintRuleStrategy {
    type Kind = Map<String, Value>;

    fn prepare_create(&self, context: &WriteContext, rule: &mut Self::Kind) {
        rule.remove("status");
        date(context, rule, None);
    }
    fn prepare_update(&self, context: &WriteContext, rule: &mut Self::Kind, old: &Self::Kind) {
        date(context, rule, Some(old));
    }
    fn validate(&self, rule: &Self::Kind) -> Vec<FieldError> {
        rule_problems(rule, None)
    }
    fn validate_update(&self, rule: &Self::Kind, old: &Self::Kind) -> Vec<FieldError> {
        rule_problems(rule, Some(old))
    }
    fn status_keeps_metadata(&self) -> bool {
        true
    }
    fn validate_status_update(&self, rule: &Self::Kind, _old: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let at = FieldPath::new("status").child("conditions");
        let conditions = list(part(rule, "status"), "conditions");
        status_rules::untyped_conditions(conditions, &at, &mut problems);
        if conditions.len() > MOST_CONDITIONS {
            problems.push(FieldError::too_many(&at, conditions.len(), MOST_CONDITIONS));
        }
        problems
    }
    fn columns(&self) -> &'static [Column] {
        const { &[
            Column::NAME,
            Column::text("Key", "The name of the taint."),
            Column::text("Value", "What more it says."),
            Column::text("Effect", "What follows from it."),
            Column { name: "TimeAdded", ..Column::AGE },
            Column::AGE,
        ] }
    }
    fn row(&self, rule: &Self::Kind, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let taint = part(rule, "spec").get("taint").unwrap_or(&Value::Null);
        let mut cells: Vec<Value> = vec![raw.name().into()];
        cells.extend(["key", "value", "effect", "timeAdded"].map(|field| text(taint, field).into()));
        cells.push(cells::created(raw));
        cells
    }
    fn tracks_generation(&self) -> bool {
        true
    }
}

impl Strategy for ResourcePoolStatusRequestStrategy {
    type Kind = Map<String, Value>;

    fn prepare_create(&self, _context: &WriteContext, request: &mut Self::Kind) {
        request.remove("status");
    }
    fn validate(&self, request: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let (path, spec) = (FieldPath::new("spec"), part(request, "spec"));
        let name = text(spec, "driver");
        if name.is_empty() {
            problems.push(FieldError::required(&path.child("driver"), "driver name is required"));
        } else {
            driver(name, &path.child("driver"), &mut problems);
        }
        match spec.get("poolName").and_then(Value::as_str) {
            Some("") => problems.push(FieldError::invalid(&path.child("poolName"), "", "must not be empty when specified")),
            Some(name) => pool(name, &path.child("poolName"), &mut problems),
            None => {}
        }
        match spec.get("limit").and_then(Value::as_i64) {
            Some(limit) if limit < 1 => problems.push(FieldError::invalid(&path.child("limit"), limit, "must be at least 1")),
            Some(limit) if limit > 1000 => problems.push(FieldError::invalid(&path.child("limit"), limit, "must not exceed 1000")),
            _ => {}
        }
        problems
    }
    fn validate_update(&self, request: &Self::Kind, old: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        immutable(part(request, "spec"), part(old, "spec"), &FieldPath::new("spec"), &mut problems);
        problems
    }
    fn status_keeps_metadata(&self) -> bool {
        true
    }
    fn validate_status_update(&self, request: &Self::Kind, old: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let (path, status) = (FieldPath::new("status"), part(request, "status"));
        // Once it is answered, it is answered.
        if old.contains_key("status") {
            immutable(status, part(old, "status"), &path, &mut problems);
            return problems;
        }
        if status.is_null() {
            return problems;
        }
        for (index, one) in list(status, "pools").iter().enumerate() {
            pool_status(one, &path.child("pools").index(index), &mut problems);
        }
        status_rules::untyped_conditions(list(status, "conditions"), &path.child("conditions"), &mut problems);
        if let Some(count) = status.get("poolCount").and_then(Value::as_i64).filter(|count| *count < 0) {
            problems.push(FieldError::invalid(&path.child("poolCount"), count, "must be greater than or equal to 0"));
        }
        problems
    }
    fn allows_unconditional_update(&self) -> bool {
        false
    }
    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::text("Driver", "Whose pools."), Column::text("Pool", "Which of them."), Column::AGE] }
    }
    fn row(&self, request: &Self::Kind, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let spec = part(request, "spec");
        vec![raw.name().into(), text(spec, "driver").into(), text(spec, "poolName").into(), cells::created(raw)]
    }
}

fn pool_status(one: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    const LONGEST_ERROR: usize = 256;
    driver(text(one, "driver"), &path.child("driver"), problems);
    pool(text(one, "poolName"), &path.child("poolName"), problems);
    if let Some(node) = one.get("nodeName").and_then(Value::as_str) {
        problems.extend(rules::invalid_each(&path.child("nodeName"), node, rules::dns1123_subdomain_problems(node)));
    }
    let negative = ["totalDevices", "allocatedDevices", "availableDevices", "unavailableDevices", "generation"];
    for (field, least, detail) in negative.map(|field| (field, 0, "must be greater than or equal to 0")).into_iter().chain([("resourceSliceCount", 1, "must be greater than or equal to 1")]) {
        if let Some(count) = one.get(field).and_then(Value::as_i64).filter(|count| *count < least) {
            problems.push(FieldError::invalid(&path.child(field), count, detail));
        }
    }
    if text(one, "validationError").len() > LONGEST_ERROR {
        problems.push(FieldError::too_long(&path.child("validationError"), LONGEST_ERROR));
    }
}
