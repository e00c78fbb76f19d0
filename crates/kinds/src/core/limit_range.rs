//! LimitRange: bounds and defaults of what one pod, container or claim of a namespace may ask for.

use api::core::v1::LimitRange;
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object, quantity::Quantity, validation as rules};
use serde_json::Value;

use crate::{
    cells,
    resource_names,
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
            let malformed = rules::invalid_each(&path.child("type"), &item.type_, rules::qualified_name_problems(&item.type_));
            if malformed.is_empty() && !item.type_.contains('/') && !matches!(item.type_.as_str(), "Pod" | "Container" | "PersistentVolumeClaim") {
                let detail = "must be a standard limit type or fully qualified";
                problems.push(FieldError::invalid(&path.child("type"), item.type_.as_str(), detail));
            }
            problems.extend(malformed);
            let name_problems = if matches!(item.type_.as_str(), "Pod" | "Container") { resource_names::container_problems } else { resource_names::problems };
            let whole_pods = item.type_ == "Pod";
            for (field, amounts, counts) in [
                ("max", &item.max, true),
                ("min", &item.min, true),
                ("default", &item.default, !whole_pods),
                ("defaultRequest", &item.default_request, !whole_pods),
                ("maxLimitRequestRatio", &item.max_limit_request_ratio, true),
            ] {
                for name in amounts.iter().flatten().map(|(name, _)| name).filter(|_| counts) {
                    problems.extend(name_problems(name, &path.child(field).key(name)));
                }
            }
            let bounded = [&item.min, &item.max].into_iter().flatten().any(|amounts| amounts.contains_key("storage"));
            if item.type_ == "PersistentVolumeClaim" && !bounded {
                let detail = "either minimum or maximum storage value is required, but neither was provided";
                problems.push(FieldError::required(&path.child("limits"), detail));
            }
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
                [&item.min, &item.max, &item.default, &item.default_request, &item.max_limit_request_ratio].into_iter().flatten().flat_map(|map| map.keys()).collect();
            for name in names {
                let (minimum, maximum) = (amount(&item.min, name), amount(&item.max, name));
                let (default, request) = (amount(&item.default, name), amount(&item.default_request, name));
                let mut exceeds = |field: &str, shown: &Option<Quantity>, low: &Option<Quantity>, low_name: &str, high: &Option<Quantity>, high_name: &str| {
                    if let (Some(shown), Some(low), Some(high)) = (shown, low, high)
                        && high.sub(low).signum() < 0
                    {
                        let detail = format!("{low_name} value {low} is greater than {high_name} value {high}");
                        problems.push(FieldError::invalid(&path.child(field).key(name), shown.to_string(), detail));
                    }
                };
                exceeds("min", &minimum, &minimum, "min", &maximum, "max");
                exceeds("defaultRequest", &request, &minimum, "min", &request, "default request");
                exceeds("defaultRequest", &request, &request, "default request", &maximum, "max");
                exceeds("defaultRequest", &request, &request, "default request", &default, "default limit");
                exceeds("default", &minimum, &minimum, "min", &default, "default");
                exceeds("default", &maximum, &default, "default", &maximum, "max");
                let ratio = amount(&item.max_limit_request_ratio, name);
                if let Some(ratio) = ratio.filter(|ratio| ratio.sub(&Quantity::from_integer(1)).signum() < 0) {
                    problems.push(FieldError::invalid(&path.child("maxLimitRequestRatio").key(name), ratio.to_string(), format!("ratio {ratio} is less than 1")));
                }
                if let (Some(default), Some(request)) = (&default, &request)
                    && !resource_names::may_overcommit(name)
                    && default != request
                {
                    let detail = format!("default value {default} must equal to defaultRequest value {request} in {name}");
                    problems.push(FieldError::invalid(&path.child("defaultRequest").key(name), request.to_string(), detail));
                }
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
