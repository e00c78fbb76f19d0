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
    let mut entries = owners(live, given.as_ref(), !subresource.is_empty());
    if entries.is_empty() && old.is_some() {
        return;
    }
    let mut comparison = compare(schema, old.map(|old| &old.0), Some(&new.0));
    comparison.added = comparison.added.difference(stripped());
    comparison.modified = comparison.modified.difference(stripped());
    if comparison.is_empty() {
        if let Some(list) = entries::encode(entries) {
            new.metadata_mut().insert("managedFields".to_owned(), list);
        }
        return;
    }
    let taken = comparison.added.union(&comparison.modified);
    let lost = taken.union(&comparison.removed);
    let mut found = false;
    for entry in &mut entries {
        let own = entry.is(manager, false, api_version, subresource);
        if own && !taken.is_empty() {
            found = true;
            let set = entry.set().difference(&comparison.removed).union(&taken);
            entry.put(set);
            entry.time = Some(now.to_owned());
        } else if entry.touches(&lost) {
            let set = entry.set().difference(&lost);
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

/// The owners to start from: what the request says where it may, else what the live object says.
fn owners(live: Option<&Value>, given: Option<&Value>, is_subresource: bool) -> Vec<Entry> {
    let known = || entries::decode(live, false).unwrap_or_default();
    let Some(given) = given.filter(|given| !is_subresource && Some(*given) != live) else { return known() };
    if given.as_array().is_some_and(|list| list.len() == 1 && list.iter().all(|entry| entry.as_object().is_some_and(Map::is_empty))) {
        return Vec::new();
    }
    match entries::decode(Some(given), true) {
        Some(entries) if !entries.is_empty() => entries,
        _ => known(),
    }
}
