//! Event: what somebody saw happen to an object, in the core group and in `events.k8s.io`; both are one in the store.

use std::time::Duration;

use api::core::v1::Event;
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object, validation as rules};
use serde_json::{Map, Value};

use crate::{
    cells,
    problems::{filled, immutable},
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

/// What both forms must fulfil. Paths are those of the core group's form, whichever was sent.
///
/// Source: Kubernetes `pkg/apis/core/validation/events.go`, `legacyValidateEvent`.
fn legacy_problems(event: &api::events::v1::Event) -> Vec<FieldError> {
    const LONGEST: usize = 128;
    const LONGEST_NOTE: usize = 1024;
    let mut problems = Vec::new();
    let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
    let about = event.regarding.as_ref().and_then(|about| about.namespace.as_deref()).unwrap_or_default();
    let is_new = event.event_time.is_some();
    let fits = match (about.is_empty(), is_new) {
        (true, true) => matches!(namespace, "default" | "kube-system"),
        (true, false) => matches!(namespace, "" | "default"),
        // Events with a time of their own may lie elsewhere.
        (false, true) => true,
        (false, false) => about == namespace,
    };
    if !fits {
        problems.push(FieldError::invalid(&FieldPath::new("involvedObject").child("namespace"), about, "does not match event.namespace"));
    }
    if !is_new {
        return problems;
    }
    let controller = event.reporting_controller.as_deref().unwrap_or_default();
    let at = FieldPath::new("reportingController");
    filled(controller, &at, &mut problems);
    problems.extend(rules::invalid_each(&at, controller, rules::qualified_name_problems(controller)));
    for (field, text) in [("reportingInstance", &event.reporting_instance), ("action", &event.action), ("reason", &event.reason)] {
        let (at, text) = (FieldPath::new(field), text.as_deref().unwrap_or_default());
        filled(text, &at, &mut problems);
        if text.len() > LONGEST {
            problems.push(FieldError::invalid(&at, "", format!("can have at most {LONGEST} characters")));
        }
    }
    if event.note.as_deref().unwrap_or_default().len() > LONGEST_NOTE {
        problems.push(FieldError::invalid(&FieldPath::new("message"), "", format!("can have at most {LONGEST_NOTE} characters")));
    }
    problems
}

fn series_problems(event: &api::events::v1::Event, problems: &mut Vec<FieldError>) {
    if event.series.as_ref().is_some_and(|series| series.count < 2) {
        problems.push(FieldError::invalid(&FieldPath::new("series.count"), "", "should be at least 2"));
    }
}

/// An event of the core group in the other form, with what both forms are judged by.
fn as_new(event: &Event) -> api::events::v1::Event {
    api::events::v1::Event {
        metadata: event.metadata.clone(),
        regarding: Some(event.involved_object.clone()),
        event_time: event.event_time.clone(),
        reporting_controller: event.reporting_component.clone(),
        reporting_instance: event.reporting_instance.clone(),
        action: event.action.clone(),
        reason: event.reason.clone(),
        note: event.message.clone(),
        ..api::events::v1::Event::default()
    }
}

impl Strategy for EventStrategy {
    type Kind = Event;

    fn has_defaults(&self) -> bool {
        false
    }
    fn validate(&self, event: &Event) -> Vec<FieldError> {
        legacy_problems(&as_new(event))
    }
    fn allows_create_on_update(&self) -> bool {
        true
    }
    fn lifetime(&self) -> Option<Duration> {
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
        let count = series.map_or_else(|| event.count.filter(|count| *count != 0).unwrap_or(1), |series| series.count.unwrap_or_default());
        let kind = about.kind.as_deref().unwrap_or_default().to_lowercase();
        let object = match about.name.as_deref() {
            None | Some("") => kind,
            Some(name) => format!("{kind}/{name}"),
        };
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
    Column::text("Count", "How often it was seen.").wide(),
    Column { priority: 1, ..Column::NAME },
];

/// When a series was seen last of which nobody said when.
const NEVER: &str = "1970-01-01T00:00:00.000000Z";

impl Strategy for NewEventStrategy {
    type Kind = api::events::v1::Event;

    fn from_storage(&self, mut object: Object) -> Result<Object, String> {
        rename(&mut object.0, RENAMED.iter().copied());
        // Only this version must say when a series was seen last.
        if let Some(Value::Object(series)) = object.0.get_mut("series") {
            series.entry("lastObservedTime").or_insert_with(|| NEVER.into());
        }
        object.0.insert("apiVersion".to_owned(), "events.k8s.io/v1".into());
        Ok(object)
    }
    fn to_storage(&self, mut object: Object) -> Result<Object, String> {
        rename(&mut object.0, RENAMED.iter().map(|(old, new)| (*new, *old)));
        if let Some(Value::Object(series)) = object.0.get_mut("series")
            && series.get("lastObservedTime").and_then(Value::as_str) == Some(NEVER)
        {
            series.remove("lastObservedTime");
        }
        object.0.insert("apiVersion".to_owned(), "v1".into());
        Ok(object)
    }
    fn has_defaults(&self) -> bool {
        false
    }
    fn validate(&self, event: &Self::Kind) -> Vec<FieldError> {
        let mut problems = legacy_problems(event);
        series_problems(event, &mut problems);
        if event.event_time.is_none() {
            problems.push(FieldError::required(&FieldPath::new("eventTime"), ""));
        }
        let kind = event.type_.as_deref().unwrap_or_default();
        if !matches!(kind, "Normal" | "Warning") {
            problems.push(FieldError::invalid(&FieldPath::new("type"), "", format!("has invalid value: {kind}")));
        }
        let source = event.deprecated_source.as_ref();
        let unset = [
            ("firstTimestamp", event.deprecated_first_timestamp.is_none()),
            ("lastTimestamp", event.deprecated_last_timestamp.is_none()),
            ("count", event.deprecated_count.unwrap_or_default() == 0),
            ("source", source.is_none_or(|source| source.component.as_deref().unwrap_or_default().is_empty() && source.host.as_deref().unwrap_or_default().is_empty())),
        ];
        for (field, _) in unset.into_iter().filter(|(_, unset)| !unset) {
            problems.push(FieldError::invalid(&FieldPath::new(field), "", "needs to be unset"));
        }
        problems
    }
    fn validate_update(&self, event: &Self::Kind, old: &Self::Kind) -> Vec<FieldError> {
        let mut problems = legacy_problems(event);
        if event.series != old.series {
            series_problems(event, &mut problems);
        }
        let mut same = |new: Value, old: Value, field: &str| immutable(&new, &old, &FieldPath::new(field), &mut problems);
        // Go cannot tell an empty one from none.
        let whole = |reference: &Option<_>| serde_json::json!(Option::<api::core::v1::ObjectReference>::clone(reference).unwrap_or_default());
        same(whole(&event.regarding), whole(&old.regarding), "involvedObject");
        same(serde_json::json!(event.reason), serde_json::json!(old.reason), "reason");
        same(serde_json::json!(event.note), serde_json::json!(old.note), "message");
        same(serde_json::json!(event.deprecated_source), serde_json::json!(old.deprecated_source), "source");
        same(serde_json::json!(event.deprecated_first_timestamp), serde_json::json!(old.deprecated_first_timestamp), "firstTimestamp");
        same(serde_json::json!(event.deprecated_last_timestamp), serde_json::json!(old.deprecated_last_timestamp), "lastTimestamp");
        same(serde_json::json!(event.deprecated_count), serde_json::json!(old.deprecated_count), "count");
        same(serde_json::json!(event.type_), serde_json::json!(old.type_), "type");
        same(serde_json::json!(event.event_time), serde_json::json!(old.event_time), "eventTime");
        same(serde_json::json!(event.action), serde_json::json!(old.action), "action");
        same(serde_json::json!(event.related), serde_json::json!(old.related), "related");
        same(serde_json::json!(event.reporting_controller), serde_json::json!(old.reporting_controller), "reportingController");
        same(serde_json::json!(event.reporting_instance), serde_json::json!(old.reporting_instance), "reportingInstance");
        problems
    }
    fn allows_create_on_update(&self) -> bool {
        true
    }
    fn lifetime(&self) -> Option<Duration> {
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
