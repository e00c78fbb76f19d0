//! Event: what somebody saw happen to an object, in the core group and in `events.k8s.io`; both are one in the store.

use std::time::Duration;

use api::core::v1::Event;
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object};
use serde_json::{Map, Value};

use crate::{
    cells,
    strategy::{Column, Strategy},
};

/// How long events are kept. Source: upstream's `--event-ttl`.
const LIFETIME: Duration = Duration::from_secs(60 * 60);

/// Events of the core group, as they are stored.
pub struct EventStrategy;

/// Events of `events.k8s.io`.
pub struct NewEventStrategy;

/// Fields of the core group's form beside those of the other.
const RENAMED: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename(object: &mut Map<String, Value>, pairs: impl Iterator<Item = (&'static str, &'static str)>) {
    for (from, to) in pairs {
        if let Some(value) = object.remove(from) {
            object.insert(to.to_owned(), value);
        }
    }
}

const FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];
const NEW_FIELDS: &[&str] = &[
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "regarding.apiVersion",
    "regarding.resourceVersion",
    "regarding.fieldPath",
    "reason",
    "reportingController",
    "type",
];

/// Values under the names of both forms, since either may have been written through the other.
fn selectable(about: Option<&api::core::v1::ObjectReference>, controller: Option<&String>, component: Option<&String>, reason: Option<&String>, kind: Option<&String>) -> Vec<(&'static str, String)> {
    let of = |get: fn(&api::core::v1::ObjectReference) -> Option<&String>| about.and_then(get).cloned().unwrap_or_default();
    let parts = [
        of(|about| about.kind.as_ref()),
        of(|about| about.namespace.as_ref()),
        of(|about| about.name.as_ref()),
        of(|about| about.uid.as_ref()),
        of(|about| about.api_version.as_ref()),
        of(|about| about.resource_version.as_ref()),
        of(|about| about.field_path.as_ref()),
    ];
    let controller = controller.cloned().unwrap_or_default();
    // Upstream's `source` is the component, else the controller.
    let source = component.filter(|component| !component.is_empty()).cloned().unwrap_or_else(|| controller.clone());
    let mut all: Vec<(&'static str, String)> = FIELDS.iter().copied().zip(parts.iter().cloned()).collect();
    all.extend(NEW_FIELDS.iter().copied().zip(parts));
    all.push(("reason", reason.cloned().unwrap_or_default()));
    all.push(("type", kind.cloned().unwrap_or_default()));
    all.push(("source", source));
    all.push(("reportingComponent", controller.clone()));
    all.push(("reportingController", controller));
    all
}

/// What both forms must fulfil.
fn namespace_problems(namespace: Option<&String>, about: Option<&String>, field: &str) -> Vec<FieldError> {
    let (namespace, about) = (namespace.map(String::as_str).unwrap_or_default(), about.map(String::as_str).unwrap_or_default());
    let fits = if about.is_empty() { matches!(namespace, "default" | "kube-system") } else { about == namespace };
    if fits { Vec::new() } else { vec![FieldError::invalid(&FieldPath::new(field).child("namespace"), about, "does not match event.namespace")] }
}

impl Strategy for EventStrategy {
    type Kind = Event;

    fn has_defaults(&self) -> bool {
        false
    }
    fn validate(&self, event: &Event) -> Vec<FieldError> {
        namespace_problems(event.metadata.namespace.as_ref(), event.involved_object.namespace.as_ref(), "involvedObject")
    }
    fn allows_create_on_update(&self) -> bool {
        true
    }
    fn lifetime(&self, _event: &Event) -> Option<Duration> {
        Some(LIFETIME)
    }
    fn selectable_field_names(&self) -> &'static [&'static str] {
        FIELDS
    }
    fn selectable_fields(&self, event: &Event) -> Vec<(&'static str, String)> {
        let component = event.source.as_ref().and_then(|source| source.component.as_ref());
        selectable(Some(&event.involved_object), event.reporting_component.as_ref(), component, event.reason.as_ref(), event.type_.as_ref())
    }
    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }
    fn row(&self, event: &Event, raw: &Object, now: Timestamp) -> Vec<Value> {
        let about = &event.involved_object;
        let event_time = event.event_time.as_ref().map(|time| time.0);
        let first = event.first_timestamp.as_ref().map(|time| time.0).or(event_time);
        let series = event.series.as_ref();
        let last = series
            .and_then(|series| series.last_observed_time.as_ref().map(|time| time.0))
            .or(event.last_timestamp.as_ref().map(|time| time.0))
            .or(first);
        let count = series.and_then(|series| series.count).or(event.count).filter(|count| *count > 0).unwrap_or(1);
        let object = format!("{}/{}", about.kind.as_deref().unwrap_or_default().to_lowercase(), about.name.as_deref().unwrap_or_default());
        let component = event.source.as_ref().and_then(|source| source.component.clone()).filter(|text| !text.is_empty());
        let mut from = component.or_else(|| event.reporting_component.clone()).unwrap_or_default();
        let host = event.source.as_ref().and_then(|source| source.host.as_deref()).filter(|text| !text.is_empty()).or(event.reporting_instance.as_deref());
        if let Some(host) = host.filter(|host| !host.is_empty()) {
            from.push_str(", ");
            from.push_str(host);
        }
        vec![
            crate::plain::age(last, now).into(),
            cells::text(event.type_.as_deref()),
            cells::text(event.reason.as_deref()),
            object.into(),
            cells::text(about.field_path.as_deref()),
            from.into(),
            event.message.as_deref().unwrap_or_default().trim().into(),
            crate::plain::age(first, now).into(),
            count.into(),
            raw.name().into(),
        ]
    }
}

const COLUMNS: &[Column] = &[
    Column::text("Last Seen", "When it was seen last."),
    Column::text("Type", "Normal or Warning."),
    Column::text("Reason", "One word for what happened."),
    Column::text("Object", "What it happened to."),
    Column::text("Subobject", "Which part of it.").wide(),
    Column::text("Source", "Who saw it.").wide(),
    Column::text("Message", "What happened."),
    Column::text("First Seen", "When it was seen first.").wide(),
    Column::integer("Count", "How often it was seen.").wide(),
    Column { priority: 1, ..Column::NAME },
];

impl Strategy for NewEventStrategy {
    type Kind = api::events::v1::Event;

    fn from_storage(&self, mut object: Object) -> Result<Object, String> {
        rename(&mut object.0, RENAMED.iter().copied());
        object.0.insert("apiVersion".to_owned(), "events.k8s.io/v1".into());
        Ok(object)
    }
    fn to_storage(&self, mut object: Object) -> Result<Object, String> {
        rename(&mut object.0, RENAMED.iter().map(|(old, new)| (*new, *old)));
        object.0.insert("apiVersion".to_owned(), "v1".into());
        Ok(object)
    }
    fn has_defaults(&self) -> bool {
        false
    }
    fn validate(&self, event: &Self::Kind) -> Vec<FieldError> {
        let about = event.regarding.as_ref().and_then(|about| about.namespace.as_ref());
        let mut problems = namespace_problems(event.metadata.namespace.as_ref(), about, "involvedObject");
        let required = |text: Option<&String>, field: &str, problems: &mut Vec<FieldError>| {
            if text.is_none_or(String::is_empty) {
                problems.push(FieldError::required(&FieldPath::new(field), ""));
            }
        };
        if event.event_time.is_none() {
            problems.push(FieldError::required(&FieldPath::new("eventTime"), ""));
        }
        required(event.reporting_controller.as_ref(), "reportingController", &mut problems);
        required(event.reporting_instance.as_ref(), "reportingInstance", &mut problems);
        required(event.action.as_ref(), "action", &mut problems);
        required(event.reason.as_ref(), "reason", &mut problems);
        if !matches!(event.type_.as_deref(), Some("Normal" | "Warning")) {
            problems.push(FieldError::invalid(&FieldPath::new("type"), "", "has invalid value: "));
        }
        problems
    }
    fn validate_update(&self, event: &Self::Kind, old: &Self::Kind) -> Vec<FieldError> {
        let about = event.regarding.as_ref().and_then(|about| about.namespace.as_ref());
        let mut problems = namespace_problems(event.metadata.namespace.as_ref(), about, "involvedObject");
        crate::problems::immutable(&event.regarding, &old.regarding, &FieldPath::new("involvedObject"), &mut problems);
        crate::problems::immutable(&event.reason, &old.reason, &FieldPath::new("reason"), &mut problems);
        crate::problems::immutable(&event.note, &old.note, &FieldPath::new("message"), &mut problems);
        crate::problems::immutable(&event.type_, &old.type_, &FieldPath::new("type"), &mut problems);
        problems
    }
    fn allows_create_on_update(&self) -> bool {
        true
    }
    fn lifetime(&self, _event: &Self::Kind) -> Option<Duration> {
        Some(LIFETIME)
    }
    fn selectable_field_names(&self) -> &'static [&'static str] {
        NEW_FIELDS
    }
    fn selectable_fields(&self, event: &Self::Kind) -> Vec<(&'static str, String)> {
        let component = event.deprecated_source.as_ref().and_then(|source| source.component.as_ref());
        selectable(event.regarding.as_ref(), event.reporting_controller.as_ref(), component, event.reason.as_ref(), event.type_.as_ref())
    }
    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }
    fn row(&self, _event: &Self::Kind, raw: &Object, now: Timestamp) -> Vec<Value> {
        let Ok(stored) = self.to_storage(raw.clone()) else { return Vec::new() };
        match stored.decode() {
            Ok(event) => EventStrategy.row(&event, raw, now),
            Err(_) => Vec::new(),
        }
    }
}
