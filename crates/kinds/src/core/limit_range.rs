//! LimitRange: bounds and defaults of what one pod, container or claim of a namespace may ask for.

use api::core::v1::LimitRange;
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object, quantity::Quantity};
use serde_json::Value;

use crate::{
    cells,
    problems::filled,
    strategy::{Column, Strategy},
};

/// Behaviour of limit ranges.
pub struct LimitRangeStrategy;

impl Strategy for LimitRangeStrategy {
    type Kind = LimitRange;

    fn default(&self, range: &mut LimitRange) {
        for item in range.spec.iter_mut().flat_map(|spec| &mut spec.limits).filter(|item| item.type_ == "Container") {
            let default = item.default.get_or_insert_default();
            for (name, maximum) in item.max.iter().flatten() {
                default.entry(name.clone()).or_insert_with(|| maximum.clone());
            }
            let request = item.default_request.get_or_insert_default();
            for (name, limit) in &*default {
                request.entry(name.clone()).or_insert_with(|| limit.clone());
            }
            for (name, minimum) in item.min.iter().flatten() {
                request.entry(name.clone()).or_insert_with(|| minimum.clone());
            }
            item.default = item.default.take().filter(|map| !map.is_empty());
            item.default_request = item.default_request.take().filter(|map| !map.is_empty());
        }
    }
    fn validate(&self, range: &LimitRange) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let mut kinds = std::collections::HashSet::new();
        for (index, item) in range.spec.iter().flat_map(|spec| &spec.limits).enumerate() {
            let path = FieldPath::new("spec").child("limits").index(index);
            filled(&item.type_, &path.child("type"), &mut problems);
            if !kinds.insert(&item.type_) {
                problems.push(FieldError::duplicate(&path.child("type"), item.type_.as_str()));
            }
            let amount = |map: &Option<std::collections::BTreeMap<String, api::apimachinery::pkg::api::resource::Quantity>>, name: &str| {
                map.as_ref().and_then(|map| map.get(name)).and_then(|text| Quantity::parse(&text.0).ok())
            };
            if item.type_ == "Pod" {
                for (field, present) in [("default", item.default.is_some()), ("defaultRequest", item.default_request.is_some())] {
                    if present {
                        problems.push(FieldError::forbidden(&path.child(field), "may not be specified when `type` is 'Pod'"));
                    }
                }
            }
            let names: std::collections::BTreeSet<&String> =
                [&item.min, &item.max, &item.default, &item.default_request].into_iter().flatten().flat_map(|map| map.keys()).collect();
            for name in names {
                let (minimum, maximum) = (amount(&item.min, name), amount(&item.max, name));
                let (default, request) = (amount(&item.default, name), amount(&item.default_request, name));
                let mut exceeds = |field: &str, low: &Option<Quantity>, low_name: &str, high: &Option<Quantity>, high_name: &str| {
                    if let (Some(low), Some(high)) = (low, high)
                        && high.sub(low).signum() < 0
                    {
                        problems.push(FieldError::invalid(
                            &path.child(field).key(name),
                            low.to_string(),
                            format!("{low_name} value {low} is greater than {high_name} value {high}"),
                        ));
                    }
                };
                exceeds("min", &minimum, "min", &maximum, "max");
                exceeds("defaultRequest", &minimum, "min", &request, "default request");
                exceeds("defaultRequest", &request, "default request", &maximum, "max");
                exceeds("defaultRequest", &request, "default request", &default, "default limit");
                exceeds("default", &minimum, "min", &default, "default");
                exceeds("default", &default, "default", &maximum, "max");
            }
        }
        problems
    }
    fn allows_create_on_update(&self) -> bool {
        true
    }
    fn columns(&self) -> &'static [Column] {
        &[Column::NAME, Column { name: "Created At", ..Column::AGE }]
    }
    fn row(&self, _range: &LimitRange, raw: &Object, _now: Timestamp) -> Vec<Value> {
        vec![raw.name().into(), cells::created(raw)]
    }
}
