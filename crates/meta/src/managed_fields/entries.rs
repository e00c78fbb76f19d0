//! The entries of `metadata.managedFields`.

use std::cmp::Ordering;

use serde_json::{Map, Value};

use super::set::FieldSet;

/// Most managers that updated an object and are told apart, as upstream.
const MAX_UPDATE_MANAGERS: usize = 10;
/// The manager that all older updates are put together under.
const ANCIENT: &str = "ancient-changes";

/// Who owns a set of fields, and since when.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) manager: String,
    /// By server-side apply, otherwise by any other write.
    pub(super) applied: bool,
    pub(super) api_version: String,
    pub(super) subresource: String,
    pub(super) time: Option<String>,
    fields: Fields,
}

#[derive(Debug, Clone)]
enum Fields {
    /// As it stands in the object.
    Json(Map<String, Value>),
    Set(FieldSet),
}

impl Entry {
    pub(super) fn new(manager: &str, applied: bool, api_version: &str, subresource: &str, time: &str, set: FieldSet) -> Self {
        Self {
            manager: manager.to_owned(),
            applied,
            api_version: api_version.to_owned(),
            subresource: subresource.to_owned(),
            time: Some(time.to_owned()),
            fields: Fields::Set(set),
        }
    }
    /// Appliers are one whatever version they apply with.
    pub(super) fn is(&self, manager: &str, applied: bool, api_version: &str, subresource: &str) -> bool {
        self.manager == manager && self.applied == applied && self.subresource == subresource && (applied || self.api_version == api_version)
    }
    pub(super) fn set(&self) -> FieldSet {
        match &self.fields {
            Fields::Set(set) => set.clone(),
            // Read once by `decode`, so that it cannot fail here.
            Fields::Json(map) => FieldSet::from_json(&Value::Object(map.clone())).unwrap_or_default(),
        }
    }
    /// The set, for one who will put another in its place.
    pub(super) fn take(&mut self) -> FieldSet {
        match std::mem::replace(&mut self.fields, Fields::Set(FieldSet::default())) {
            Fields::Set(set) => set,
            Fields::Json(map) => FieldSet::from_json(&Value::Object(map)).unwrap_or_default(),
        }
    }
    pub(super) fn put(&mut self, set: FieldSet) {
        self.fields = Fields::Set(set);
    }
    pub(super) fn touches(&self, set: &FieldSet) -> bool {
        match &self.fields {
            Fields::Json(map) => set.touches(map),
            Fields::Set(own) => !own.intersection(set).is_empty(),
        }
    }
    pub(super) fn is_empty(&self) -> bool {
        match &self.fields {
            Fields::Json(map) => map.is_empty(),
            Fields::Set(set) => set.is_empty(),
        }
    }

    fn decode(value: Value, check: bool) -> Option<Self> {
        let Value::Object(mut map) = value else { return None };
        let mut text = |name: &str| match map.remove(name) {
            Some(Value::String(text)) => text,
            _ => String::new(),
        };
        let applied = match text("operation").as_str() {
            "Apply" => true,
            "Update" => false,
            _ => return None,
        };
        if text("fieldsType") != "FieldsV1" {
            return None;
        }
        let (manager, api_version, subresource, time) = (text("manager"), text("apiVersion"), text("subresource"), text("time"));
        let fields = match map.remove("fieldsV1") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(map)) => map,
            Some(_) => return None,
        };
        if check {
            FieldSet::from_json(&Value::Object(fields.clone()))?;
        }
        Some(Self { manager, applied, api_version, subresource, time: (!time.is_empty()).then_some(time), fields: Fields::Json(fields) })
    }

    fn encode(self) -> Value {
        let mut map = Map::new();
        let mut put = |name: &str, text: String| {
            if !text.is_empty() {
                map.insert(name.to_owned(), Value::String(text));
            }
        };
        put("manager", self.manager);
        put("operation", if self.applied { "Apply" } else { "Update" }.to_owned());
        put("apiVersion", self.api_version);
        put("subresource", self.subresource);
        put("time", self.time.unwrap_or_default());
        put("fieldsType", "FieldsV1".to_owned());
        let fields = match self.fields {
            Fields::Json(map) => Value::Object(map),
            Fields::Set(set) => set.to_json(),
        };
        map.insert("fieldsV1".to_owned(), fields);
        Value::Object(map)
    }

    /// Order in the object: appliers first, then by time and name.
    fn order(&self, other: &Self) -> Ordering {
        other
            .applied
            .cmp(&self.applied)
            .then_with(|| self.time.cmp(&other.time))
            .then_with(|| self.manager.cmp(&other.manager))
            .then_with(|| self.api_version.cmp(&other.api_version))
            .then_with(|| self.subresource.cmp(&other.subresource))
    }
}

/// Reads `metadata.managedFields`; `None` where an entry is malformed. `check` reads the sets, too; what the server wrote itself
/// needs no check.
pub(super) fn decode(list: Option<Value>, check: bool) -> Option<Vec<Entry>> {
    match list {
        Some(Value::Array(list)) => list.into_iter().map(|value| Entry::decode(value, check)).collect(),
        _ => Some(Vec::new()),
    }
}

/// The list for `metadata.managedFields`; none where nobody owns anything.
pub(super) fn encode(mut entries: Vec<Entry>) -> Option<Value> {
    entries.retain(|entry| !entry.is_empty());
    cap_update_managers(&mut entries);
    entries.sort_by(Entry::order);
    (!entries.is_empty()).then(|| Value::Array(entries.into_iter().map(Entry::encode).collect()))
}

/// Puts the oldest updates of one version together until at most [`MAX_UPDATE_MANAGERS`] are left.
fn cap_update_managers(entries: &mut Vec<Entry>) {
    let mut surplus = entries.iter().filter(|entry| !entry.applied).count().saturating_sub(MAX_UPDATE_MANAGERS);
    if surplus == 0 {
        return;
    }
    let (mut updates, mut kept): (Vec<Entry>, Vec<Entry>) = std::mem::take(entries).into_iter().partition(|entry| !entry.applied);
    updates.sort_by(Entry::order);
    let mut first_of_version: Vec<Entry> = Vec::new();
    for entry in updates {
        match first_of_version.iter_mut().find(|first| first.api_version == entry.api_version) {
            Some(first) if surplus > 0 => {
                let set = first.set().union(&entry.set());
                first.put(set);
                first.manager = ANCIENT.to_owned();
                first.subresource = String::new();
                first.time = entry.time;
                surplus -= 1;
            }
            Some(_) => kept.push(entry),
            None => first_of_version.push(entry),
        }
    }
    kept.extend(first_of_version);
    *entries = kept;
}
