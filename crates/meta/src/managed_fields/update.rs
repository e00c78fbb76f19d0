//! Owners after a create, update or patch: whoever writes a field owns it from then on.

use serde_json::{Map, Value};

use super::{
    entries::{self, Entry},
    layout::compare,
    versions::{Change, Changes, Versions},
};
use crate::{object::Object, schema::Schema, status::ApiError};

/// Brings `metadata.managedFields` of a new version of an object up to date.
///
/// To be called when the object is as it will be stored (after `prepare`, so that fields the request may not touch are back to
/// their old values). `old` is `None` at creation. `now` is an RFC 3339 time in whole seconds. A manager's time changes only when
/// it writes something. `managedFields: [{}]` in the new version makes the object forget its owners, and an object without owners
/// is not tracked any further until something is applied to it.
///
/// # Errors
/// Those of [`Versions::convert`], which is only asked where managers wrote in versions that look different; the new version is then
/// without owners.
#[expect(clippy::too_many_arguments, reason = "each is a parameter of the request")]
pub fn update(
    schema: &Schema,
    versions: &dyn Versions,
    old: Option<&Object>,
    new: &mut Object,
    manager: &str,
    api_version: &str,
    subresource: &str,
    now: &str,
) -> Result<(), ApiError> {
    let given = new.remove(&["metadata", "managedFields"]);
    let live = old.and_then(|old| old.get(&["metadata", "managedFields"]));
    let untouched = given.as_ref() == live || given.is_none() || !subresource.is_empty();
    let mut comparison = compare(schema, old.map(|old| &old.0), Some(&new.0));
    comparison.strip();
    if comparison.is_empty() && untouched {
        // The most frequent case of all: nothing to do, so nothing is read.
        let list = if given.as_ref() == live { given } else { live.cloned() };
        if let Some(list) = list {
            new.metadata_mut().insert("managedFields".to_owned(), list);
        }
        return Ok(());
    }
    let mut entries = if untouched {
        // What the request brought is equal to the live list, and can be taken apart without a copy.
        let list = if given.as_ref() == live { given } else { live.cloned() };
        entries::decode(list, false).unwrap_or_default()
    } else {
        edited(live, given)
    };
    if entries.is_empty() && old.is_some() {
        return Ok(());
    }
    let removed = comparison.removed.clone();
    let mut changes = Changes::new(Change::of(comparison), api_version, versions, old, new);
    let mut found = false;
    let mut at = 0;
    while let Some(entry) = entries.get_mut(at) {
        let Some(change) = changes.seen_in(&entry.api_version)? else {
            entries.remove(at);
            continue;
        };
        if entry.is(manager, false, api_version, subresource) && !change.taken.is_empty() {
            found = true;
            let mut set = entry.take();
            set.subtract(&removed);
            entry.put(set.union(&change.taken));
            entry.time = Some(now.to_owned());
        } else if entry.touches(&change.lost) {
            let mut set = entry.take();
            set.subtract(&change.lost);
            entry.put(set);
        }
        at += 1;
    }
    let taken = changes.own.taken;
    if !found && !taken.is_empty() {
        entries.push(Entry::new(manager, false, api_version, subresource, now, taken));
    }
    if let Some(list) = entries::encode(entries) {
        new.metadata_mut().insert("managedFields".to_owned(), list);
    }
    Ok(())
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
