//! Owners after a create, update or patch: whoever writes a field owns it from then on.

use serde_json::{Map, Value};

use super::{
    entries::{self, Entry},
    layout::compare,
    stripped,
};
use crate::{object::Object, schema::Schema};

/// Brings `metadata.managedFields` of a new version of an object up to date.
///
/// To be called when the object is as it will be stored (after `prepare`, so that fields the request may not touch are back to
/// their old values). `old` is `None` at creation. `now` is an RFC 3339 time in whole seconds. A manager's time changes only when
/// it writes something. `managedFields: [{}]` in the new version makes the object forget its owners, and an object without owners
/// is not tracked any further until something is applied to it.
pub fn update(schema: &Schema, old: Option<&Object>, new: &mut Object, manager: &str, api_version: &str, subresource: &str, now: &str) {
    let given = new.remove(&["metadata", "managedFields"]);
    let live = old.and_then(|old| old.get(&["metadata", "managedFields"]));
    let untouched = given.as_ref() == live || given.is_none() || !subresource.is_empty();
    let mut comparison = compare(schema, old.map(|old| &old.0), Some(&new.0));
    comparison.added.subtract(stripped());
    comparison.modified.subtract(stripped());
    if comparison.is_empty() && untouched {
        // The most frequent case of all: nothing to do, so nothing is read.
        let list = if given.as_ref() == live { given } else { live.cloned() };
        if let Some(list) = list {
            new.metadata_mut().insert("managedFields".to_owned(), list);
        }
        return;
    }
    let mut entries = if untouched {
        // What the request brought is equal to the live list, and can be taken apart without a copy.
        let list = if given.as_ref() == live { given } else { live.cloned() };
        entries::decode(list, false).unwrap_or_default()
    } else {
        edited(live, given)
    };
    if entries.is_empty() && old.is_some() {
        return;
    }
    let taken = comparison.added.with(comparison.modified);
    let lost = taken.clone().with(comparison.removed.clone());
    let mut found = false;
    for entry in &mut entries {
        if entry.is(manager, false, api_version, subresource) && !taken.is_empty() {
            found = true;
            let mut set = entry.take();
            set.subtract(&comparison.removed);
            entry.put(set.union(&taken));
            entry.time = Some(now.to_owned());
        } else if entry.touches(&lost) {
            let mut set = entry.take();
            set.subtract(&lost);
            entry.put(set);
        }
    }
    if !found && !taken.is_empty() {
        entries.push(Entry::new(manager, false, api_version, subresource, now, taken));
    }
    if let Some(list) = entries::encode(entries) {
        new.metadata_mut().insert("managedFields".to_owned(), list);
    }
}

/// The owners to start from where a request brings other ones than the live object has.
fn edited(live: Option<&Value>, given: Option<Value>) -> Vec<Entry> {
    let forget = |list: &Vec<Value>| list.len() == 1 && list.iter().all(|entry| entry.as_object().is_some_and(Map::is_empty));
    if given.as_ref().and_then(Value::as_array).is_some_and(forget) {
        return Vec::new();
    }
    match entries::decode(given, true) {
        Some(entries) if !entries.is_empty() => entries,
        _ => entries::decode(live.cloned(), false).unwrap_or_default(),
    }
}
