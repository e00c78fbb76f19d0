//! Cells of tables: how kubectl's columns write absent values, labels, ages and lists.

use std::collections::BTreeMap;

use api::apimachinery::pkg::{
    api::resource::Quantity,
    apis::meta::v1::{LabelSelector, Time},
    util::intstr::IntOrString,
};
use jiff::Timestamp;
use meta::Object;
use serde_json::Value;

/// The age column's cell, which the renderer turns into a duration.
pub fn created(raw: &Object) -> Value {
    raw.text(&["metadata", "creationTimestamp"]).unwrap_or_default().into()
}

/// The storage class that an old annotation names, which goes before the field.
///
/// Source: Kubernetes `pkg/apis/core/helper/helpers.go`, `GetPersistentVolumeClass`.
pub fn storage_class(raw: &Object) -> Option<&str> {
    raw.text(&["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"])
}

/// A text or `<none>`.
pub fn or_none(text: Option<&str>) -> Value {
    text.filter(|text| !text.is_empty()).unwrap_or("<none>").into()
}

/// A text or `<unset>`.
pub fn or_unset(text: Option<&str>) -> Value {
    text.filter(|text| !text.is_empty()).unwrap_or("<unset>").into()
}

/// A text or nothing.
pub fn text(text: Option<&str>) -> Value {
    text.unwrap_or_default().into()
}

/// Elements joined by commas, `<none>` where there are none.
pub fn joined<I: IntoIterator<Item = S>, S: AsRef<str>>(elements: I) -> Value {
    let mut all = String::new();
    for element in elements {
        if !all.is_empty() {
            all.push(',');
        }
        all.push_str(element.as_ref());
    }
    if all.is_empty() { "<none>".into() } else { all.into() }
}

/// `key=value` pairs joined by commas, `<none>` where there are none.
pub fn labels(map: Option<&BTreeMap<String, String>>) -> Value {
    joined(map.into_iter().flatten().map(|(key, value)| if value.is_empty() { key.clone() } else { format!("{key}={value}") }))
}

/// A label selector as text: `app=web,tier in (a,b)`; `<none>` where it is empty.
pub fn selector(selector: Option<&LabelSelector>) -> Value {
    let Some(selector) = selector else { return "<none>".into() };
    let mut parts: Vec<String> = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    for requirement in selector.match_expressions.iter().flatten() {
        let mut values = requirement.values.clone().unwrap_or_default();
        values.sort();
        let values = values.join(",");
        parts.push(match requirement.operator.as_str() {
            "In" => format!("{} in ({values})", requirement.key),
            "NotIn" => format!("{} notin ({values})", requirement.key),
            "Exists" => requirement.key.clone(),
            "DoesNotExist" => format!("!{}", requirement.key),
            _ => "<error>".to_owned(),
        });
    }
    parts.sort();
    joined(parts)
}

/// How long ago a time was.
pub fn since(time: Option<&Time>, now: Timestamp) -> String {
    crate::plain::age(time.map(|time| time.0), now)
}

/// The time between two times.
pub fn between(start: &Time, end: &Time) -> String {
    crate::plain::human_duration(end.0.as_second() - start.0.as_second())
}

/// A number or percentage as text.
pub fn int_or_string(value: &IntOrString) -> String {
    match value {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(text) => text.clone(),
    }
}

/// `name: amount` or `name=amount` pairs.
pub fn quantity(map: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<String> {
    map.and_then(|map| map.get(name)).map(|quantity| quantity.0.clone())
}

/// Names and images of containers, each joined by commas.
pub fn containers(spec: Option<&api::core::v1::PodSpec>) -> [Value; 2] {
    let containers = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let join = |texts: Vec<&str>| Value::String(texts.join(","));
    [
        join(containers.iter().map(|container| container.name.as_str()).collect()),
        join(containers.iter().map(|container| container.image.as_deref().unwrap_or_default()).collect()),
    ]
}

/// Short forms of access modes: `RWO,ROX`.
pub fn access_modes(modes: Option<&Vec<String>>) -> Value {
    let short: Vec<&str> = [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")]
        .into_iter()
        .filter(|(long, _)| modes.is_some_and(|modes| modes.iter().any(|mode| mode == long)))
        .map(|(_, short)| short)
        .collect();
    short.join(",").into()
}
