//! Server-side apply: one manager's configuration laid over the live object.

use std::{borrow::Cow, collections::BTreeSet};

use serde_json::{Map, Value};

use super::{
    element::Element,
    entries::{self, Entry},
    layout::{Layout, Parts, compare, fields_of, with_named_fields},
    prune,
    set::{FieldSet, path_text},
    stripped, tree,
    versions::{Change, Changes, Versions, is_foreign, is_gone},
};
use crate::{
    object::Object,
    schema::{Schema, Types},
    status::{ApiError, Reason},
};

/// Owner of everything that was there before anything was applied.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// kubectl's name for itself; with it come the rules for those who used client-side apply before.
const KUBECTL: &str = "kubectl";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Upstream does not keep a longer copy.
const MAX_LAST_APPLIED_BYTES: usize = 256 * 1024;

/// The live object with a configuration applied, and with its owners brought up to date.
///
/// Fields that the manager applied before, does not apply any more and that nobody else owns are removed. `live` is `None` where the
/// object does not exist yet. `now` is an RFC 3339 time in whole seconds; it is only used where something changes, so that a repeated
/// apply yields an object equal to the live one.
///
/// Parts of the configuration that the request cannot set are left out: the status of built-in kinds, or all but the status where
/// that is the subresource. (Of custom resources with a status subresource, the caller takes the status out.)
///
/// # Errors
/// 409 where others own fields with other values and `force` is not set, 400 where the configuration has managed fields,
/// 500 without a reason, as upstream, where elements of a list cannot be told apart, and those of [`Versions::convert`], which is
/// only asked where managers wrote in versions that look different.
#[expect(clippy::too_many_arguments, reason = "each is a parameter of the request")]
pub fn apply(
    schema: &Schema,
    versions: &dyn Versions,
    live: Option<&Object>,
    applied: &Object,
    manager: &str,
    force: bool,
    api_version: &str,
    subresource: &str,
    now: &str,
) -> Result<Object, ApiError> {
    if applied.get(&["metadata", "managedFields"]).and_then(Value::as_array).is_some_and(|list| !list.is_empty()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let types = &schema.types;
    let root = Layout::root(schema);
    let applied = &within_reach(schema, applied, subresource);
    check_identities(types, root, &Value::Object(applied.0.clone()), &mut Vec::new()).map_err(|problem| refused(applied, &problem))?;
    let mut base = live.cloned().unwrap_or_default();
    let live_owners = base.remove(&["metadata", "managedFields"]);
    let mut entries = entries::decode(live_owners, false).unwrap_or_default();
    if entries.is_empty() && live.is_some() {
        let everything = compare(schema, None, Some(&base.0)).added.difference(stripped());
        entries.push(Entry::new(BEFORE_FIRST_APPLY, false, api_version, "", now, everything));
    }
    entries.retain(|entry| !is_gone(versions, api_version, &entry.api_version));
    let is_self = |entry: &Entry| entry.is(manager, true, api_version, subresource);
    let before = entries.iter().find(|entry| is_self(entry));
    let last = before.map(Entry::set);
    let mut others: Vec<Entry> = entries.iter().filter(|entry| !is_self(entry)).cloned().collect();

    let own = fields_of(types, root, &Value::Object(applied.0.clone()));
    let mut result = Object(tree::merged_fields(types, root, &base.0, &applied.0));
    if let (Some(before), Some(last)) = (before, last.as_ref().filter(|last| !last.is_empty())) {
        let foreign = |entry: &Entry| is_foreign(versions, api_version, &entry.api_version);
        let named_last = with_named_fields(types, root, last);
        let mut owned = with_named_fields(types, root, &own);
        if foreign(before) || others.iter().any(foreign) && !named_last.difference(&owned).is_empty() {
            result = prune::pruned(schema, versions, api_version, result, before, &own, &others)?;
            result = Object(tree::merged_fields(types, root, &result.0, &applied.0));
        } else {
            for entry in &others {
                owned = owned.union(&with_named_fields(types, root, &entry.set()));
            }
            let doomed = named_last.difference(&owned);
            if !doomed.is_empty() {
                tree::remove_fields(types, root, &mut result.0, &doomed);
                // Containers that became empty went, too; the configuration may have asked for them.
                result = Object(tree::merged_fields(types, root, &result.0, &applied.0));
            }
        }
    }

    let comparison = compare(schema, Some(&base.0), Some(&result.0));
    let nothing_changes = comparison.is_empty();
    let mut changes = Changes::new(Change::of(comparison), api_version, versions, Some(&base), &result);
    let mut conflicts = Vec::new();
    for entry in &others {
        let Some(Change { taken, .. }) = changes.seen_in(&entry.api_version)? else { continue };
        let conflicting = if entry.touches(taken) { entry.set().intersection(taken) } else { FieldSet::default() };
        if !conflicting.is_empty() {
            conflicts.push((describe(entry), conflicting));
        }
    }
    if !force && !conflicts.is_empty() {
        let forgiven = if manager == KUBECTL { last_applied_fields(types, root, &base) } else { FieldSet::default() };
        let remaining: Vec<(String, FieldSet)> = conflicts
            .into_iter()
            .map(|(manager, set)| (manager, set.difference(&forgiven)))
            .filter(|(_, set)| !set.is_empty())
            .collect();
        if !remaining.is_empty() {
            return Err(conflict(&remaining));
        }
    }

    for entry in &mut others {
        let Some(Change { lost, .. }) = changes.seen_in(&entry.api_version)? else { continue };
        if entry.touches(lost) {
            let set = entry.set().difference(lost);
            entry.put(set);
        }
    }
    // The annotation is kubectl's alone, whoever is said to own it.
    if manager == KUBECTL && base.get(&["metadata", "annotations", LAST_APPLIED]).is_some() {
        remember_last_applied(&mut result, applied);
    }
    let own = own.difference(stripped());
    let unchanged = nothing_changes && last.as_ref() == Some(&own);
    let time = before.filter(|known| unchanged && known.api_version == api_version).and_then(|known| known.time.clone());
    others.push(Entry::new(manager, true, api_version, subresource, time.as_deref().unwrap_or(now), own));
    if let Some(list) = entries::encode(others) {
        result.metadata_mut().insert("managedFields".to_owned(), list);
    }
    Ok(result)
}

/// The part of a configuration that a request to the object or one of its subresources can set.
fn within_reach<'a>(schema: &Schema, applied: &'a Object, subresource: &str) -> Cow<'a, Object> {
    let reachable = |name: &str| match subresource {
        "" => name != "status" || schema.root().name.is_empty(),
        "status" => matches!(name, "apiVersion" | "kind" | "metadata" | "status"),
        _ => true,
    };
    if applied.0.keys().all(|name| reachable(name)) {
        return Cow::Borrowed(applied);
    }
    Cow::Owned(Object(applied.0.iter().filter(|(name, _)| reachable(name)).map(|(name, value)| (name.clone(), value.clone())).collect()))
}

/// Elements of lists that are tracked by key must have keys, and each only once.
fn check_identities(types: &Types, layout: Layout<'_>, value: &Value, path: &mut Vec<Element>) -> Result<(), String> {
    match (layout, value) {
        (Layout::Set | Layout::Keyed { .. }, Value::Array(list)) => {
            let mut seen: BTreeSet<Element> = BTreeSet::new();
            for (index, value) in list.iter().enumerate() {
                let Some(element) = layout.identity(value) else {
                    let names = if let Layout::Keyed { keys, .. } = layout { keys.join(", ") } else { String::new() };
                    return Err(format!(
                        "{}: element {index}: associative list with keys has an element that omits key field {names:?}",
                        path_text(path)
                    ));
                };
                if seen.contains(&element) {
                    return Err(format!("{}: duplicate entries for key {element}", path_text(path)));
                }
                path.push(element.clone());
                check_identities(types, layout.element(), value, path)?;
                path.pop();
                seen.insert(element);
            }
            Ok(())
        }
        _ => {
            if let Parts::Fields(map) = layout.parts(value) {
                for (name, value) in map {
                    path.push(Element::Field(name.as_str().into()));
                    check_identities(types, layout.field(types, name).0, value, path)?;
                    path.pop();
                }
            }
            Ok(())
        }
    }
}

/// The answer to a configuration that is not of its schema's shape. Upstream's field manager has no status for it, so it is an
/// error of the server without a reason.
fn refused(applied: &Object, problem: &str) -> ApiError {
    let (group, version) = applied.api_version().split_once('/').unwrap_or(("", applied.api_version()));
    let message = format!(
        "failed to create typed patch object ({}/{}; {group}/{version}, Kind={}): {problem}",
        applied.namespace(),
        applied.name(),
        applied.kind()
    );
    ApiError::new(500, Reason::Unknown, message)
}

/// A configuration with fields that its schema does not declare, by their paths with indexes: they are told with the keys of
/// list elements, as everywhere in server-side apply.
pub fn undeclared(schema: &Schema, applied: &Object, paths: &[String]) -> ApiError {
    let root = Value::Object(applied.0.clone());
    let lines: Vec<String> = paths.iter().map(|path| format!("{}: field not declared in schema", keyed(schema, &root, path))).collect();
    match lines.as_slice() {
        [one] => refused(applied, one),
        several => refused(applied, &format!("errors:\n  {}", several.join("\n  "))),
    }
}

/// A path like `spec.containers[0].foo` with the keys of what stands there: `.spec.containers[name="a"].foo`.
fn keyed(schema: &Schema, root: &Value, path: &str) -> String {
    let (mut layout, mut value, mut rest, mut steps) = (Layout::root(schema), root, path, Vec::new());
    loop {
        match value {
            Value::Object(map) => {
                // Names may have dots in them: the longest that fits is meant.
                let fits = |name: &&String| rest.strip_prefix(name.as_str()).is_some_and(|after| after.starts_with(['.', '[']));
                let Some((name, below)) = map.iter().filter(|(name, _)| fits(name)).max_by_key(|(name, _)| name.len()) else { break };
                steps.push(Element::Field(name.as_str().into()));
                (layout, value) = (layout.field(&schema.types, name).0, below);
                rest = rest.strip_prefix(name.as_str()).unwrap_or_default();
            }
            Value::Array(list) => {
                let Some((number, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) else { break };
                let Some((index, below)) = number.parse::<usize>().ok().and_then(|index| Some((index, list.get(index)?))) else { break };
                steps.push(layout.identity(below).unwrap_or(Element::Index(i64::try_from(index).unwrap_or_default())));
                (layout, value, rest) = (layout.element(), below, after);
            }
            _ => break,
        }
        rest = rest.strip_prefix('.').unwrap_or(rest);
    }
    let separator = if rest.is_empty() || rest.starts_with('[') { "" } else { "." };
    format!("{}{separator}{rest}", path_text(&steps))
}

/// A manager as conflicts show it.
fn describe(entry: &Entry) -> String {
    let mut text = format!("{:?}", entry.manager);
    if !entry.subresource.is_empty() {
        text.push_str(&format!(" with subresource {:?}", entry.subresource));
    }
    if !entry.applied {
        text.push_str(&format!(" using {}", entry.api_version));
    }
    text
}

fn conflict(conflicts: &[(String, FieldSet)]) -> ApiError {
    let mut conflicts: Vec<(&str, Vec<String>)> =
        conflicts.iter().map(|(manager, set)| (manager.as_str(), set.paths().iter().map(|path| path_text(path)).collect())).collect();
    conflicts.sort();
    let count: usize = conflicts.iter().map(|(_, paths)| paths.len()).sum();
    let message = match conflicts.as_slice() {
        [(manager, paths)] if count == 1 => format!("Apply failed with 1 conflict: conflict with {manager}: {}", paths.join("")),
        many => {
            let lines: Vec<String> = many
                .iter()
                .flat_map(|(manager, paths)| {
                    std::iter::once(format!("conflicts with {manager}:")).chain(paths.iter().map(|path| format!("- {path}")))
                })
                .collect();
            format!("Apply failed with {count} conflicts: {}", lines.join("\n"))
        }
    };
    let mut error = ApiError::new(409, Reason::Conflict, message);
    for (manager, paths) in &conflicts {
        for path in paths {
            error = error.with_cause("FieldManagerConflict", format!("conflict with {manager}"), path);
        }
    }
    error
}

/// The fields that client-side apply set last: kubectl may take those over from itself.
fn last_applied_fields(types: &Types, root: Layout<'_>, live: &Object) -> FieldSet {
    let text = live.text(&["metadata", "annotations", LAST_APPLIED]).unwrap_or_default();
    match crate::read::parse_untyped(text.as_bytes()) {
        Ok(value @ Value::Object(_)) => fields_of(types, root, &value),
        _ => FieldSet::default(),
    }
}

/// Keeps the annotation of client-side apply true, so that going back to it works.
fn remember_last_applied(result: &mut Object, applied: &Object) {
    let text = format!("{}\n", Value::Object(applied.0.clone()));
    let annotations = result.metadata_mut().entry("annotations").or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(annotations) = annotations {
        let text = if text.len() > MAX_LAST_APPLIED_BYTES { String::new() } else { text };
        annotations.insert(LAST_APPLIED.to_owned(), Value::String(text));
    }
}
