//! Strategic merge patch: like a merge patch, but lists may be merged by a key of their elements, and directives in the patch
//! say what a merge alone cannot.
//!
//! Source: Kubernetes `apimachinery/pkg/util/strategicpatch`; merge keys and strategies come from the schema.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::unprocessable;
use crate::{
    schema::{Item, ObjectType, PatchStrategy, Schema, Shape, Types},
    status::{ApiError, Reason},
};

/// `replace`, `delete` or `merge` for the object it stands in.
const DIRECTIVE: &str = "$patch";
/// Fields that stay; all others go.
const RETAIN_KEYS: &str = "$retainKeys";
/// Order of a merged list.
const SET_ORDER: &str = "$setElementOrder/";
/// Values to take out of a merged list of scalars.
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";

/// Merges a patch into an object of that schema; the object is unchanged where it fails.
///
/// # Errors
/// 400 or 422 for directives that are malformed, and for elements without their merge key.
pub fn strategic_merge(schema: &Schema, target: &mut Value, patch: &Value) -> Result<(), ApiError> {
    let (Value::Object(original), Value::Object(patch)) = (&*target, patch) else {
        return Err(ApiError::bad_request("invalid JSON document"));
    };
    let merged = merge_map(&schema.types, Below::Type(schema.root()), original.clone(), patch)?;
    *target = Value::Object(merged);
    Ok(())
}

/// What is known of a map's fields.
#[derive(Clone, Copy)]
enum Below<'a> {
    Type(&'a ObjectType),
    Values(&'a Item),
    Nothing,
}

static NO_STRATEGY: PatchStrategy = PatchStrategy { merge: false, retain_keys: false, replace: false, merge_key: None };

impl<'a> Below<'a> {
    fn of(types: &'a Types, item: Option<&'a Item>) -> Self {
        match item.map(|item| &item.shape) {
            Some(Shape::Object(index)) => Self::Type(types.object(*index)),
            Some(Shape::Map { values, .. }) => Self::Values(values),
            _ => Self::Nothing,
        }
    }
    fn field(self, name: &str) -> (Option<&'a Item>, &'a PatchStrategy) {
        match self {
            Self::Type(of) => of.field(name).map_or((None, &NO_STRATEGY), |field| (Some(&field.item), &field.patch)),
            Self::Values(item) => (Some(item), &NO_STRATEGY),
            Self::Nothing => (None, &NO_STRATEGY),
        }
    }
}

fn bad(message: &str) -> ApiError {
    ApiError::bad_request(message)
}

/// Errors that upstream passes on without a status of their own, which makes them errors of its server. They are the client's, so that
/// they keep upstream's words and get the code of patches that cannot be applied.
fn failed(message: String) -> ApiError {
    ApiError::new(422, Reason::Unknown, message)
}

fn merge_map(types: &Types, below: Below<'_>, mut original: Map<String, Value>, patch: &Map<String, Value>) -> Result<Map<String, Value>, ApiError> {
    match patch.get(DIRECTIVE) {
        None => {}
        Some(Value::String(directive)) if directive == "replace" => {
            let mut replacement = patch.clone();
            replacement.remove(DIRECTIVE);
            return Ok(clean_map(&replacement));
        }
        Some(Value::String(directive)) if directive == "delete" => return Ok(Map::new()),
        Some(Value::String(directive)) if directive == "merge" => {}
        Some(other) => {
            let shown = other.as_str().map_or_else(|| other.to_string(), ToOwned::to_owned);
            return Err(unprocessable(&format!("unknown patch type [{shown}] in map")));
        }
    }
    retain_keys(&mut original, patch)?;
    // Deletions first, so that an order counts what is left.
    for (key, value) in patch {
        if let Some(name) = key.strip_prefix(DELETE_FROM) {
            let Value::Array(doomed) = value else { return Err(bad("invalid patch format of primitive list")) };
            if let Some(Value::Array(list)) = original.get_mut(name) {
                list.retain(|value| !doomed.contains(value));
            }
        }
    }
    let mut ordered: Vec<&str> = Vec::new();
    for (key, order) in patch {
        if let Some(name) = key.strip_prefix(SET_ORDER) {
            let Value::Array(order) = order else { return Err(bad("invalid patch format of setElementOrder list")) };
            merge_ordered(types, below.field(name), &mut original, patch.get(name), name, order)?;
            ordered.push(name);
        }
    }
    for (key, value) in patch {
        if key == DIRECTIVE || key == RETAIN_KEYS || key.starts_with(SET_ORDER) || key.starts_with(DELETE_FROM) || ordered.contains(&key.as_str()) {
            continue;
        }
        if value.is_null() {
            original.remove(key);
            continue;
        }
        let merged = match (original.remove(key), value) {
            (Some(Value::Object(known)), Value::Object(value)) => {
                let (item, strategy) = below.field(key);
                Value::Object(if strategy.replace { clean_map(value) } else { merge_map(types, Below::of(types, item), known, value)? })
            }
            (Some(Value::Array(known)), Value::Array(value)) => Value::Array(merge_list(types, below.field(key), known, value)?),
            (_, value) => clean(value),
        };
        original.insert(key.clone(), merged);
    }
    Ok(original)
}

fn retain_keys(original: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<(), ApiError> {
    let Some(retained) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(retained) = retained else { return Err(bad("invalid patch format of retainKeys")) };
    let kept = |key: &str| retained.iter().any(|name| name.as_str() == Some(key));
    for (key, value) in patch {
        if !key.starts_with('$') && !value.is_null() && !kept(key) {
            return Err(failed("patch content doesn't match retainKeys list".to_owned()));
        }
    }
    original.retain(|key, _| kept(key));
    Ok(())
}

/// Merges the list of that name as `$setElementOrder` asks.
fn merge_ordered(
    types: &Types,
    field: (Option<&Item>, &PatchStrategy),
    original: &mut Map<String, Value>,
    patch: Option<&Value>,
    name: &str,
    order: &[Value],
) -> Result<(), ApiError> {
    let strategy = field.1;
    if !strategy.merge {
        // Upstream ignores the order of lists that are replaced.
        if let Some(patch) = patch {
            if patch.is_null() { drop(original.remove(name)) } else { drop(original.insert(name.to_owned(), clean(patch))) }
        }
        return Ok(());
    }
    let known = match original.get(name) {
        Some(Value::Array(list)) => Some(list.clone()),
        _ => None,
    };
    let patched = match patch {
        Some(Value::Array(list)) => Some(list),
        Some(Value::Null) => {
            original.remove(name);
            return Ok(());
        }
        _ => None,
    };
    if known.is_none() && patched.is_none() {
        return Ok(());
    }
    let key = strategy.merge_key.as_deref();
    if let Some(patched) = patched {
        check_order(patched, order, key, name)?;
    }
    let server_order = known.clone().unwrap_or_default();
    let merged = merge_list(types, field, server_order.clone(), patched.map(Vec::as_slice).unwrap_or_default())?;
    original.insert(name.to_owned(), Value::Array(arrange(merged, order, &server_order, key)));
    Ok(())
}

/// The identity of an element: its merge key, or the scalar itself.
fn identity<'a>(value: &'a Value, key: Option<&str>) -> Option<&'a Value> {
    match (value, key) {
        (Value::Object(map), Some(key)) => map.get(key),
        (Value::Object(_) | Value::Array(_), _) => None,
        (scalar, _) => Some(scalar),
    }
}

/// Where elements stand in a list, by their identity. Lists may be long, so that searching each time would not do.
struct Places<'a> {
    key: Option<&'a str>,
    places: HashMap<String, usize>,
}

impl<'a> Places<'a> {
    fn of(list: &[Value], key: Option<&'a str>) -> Self {
        let places = list.iter().enumerate().rev().filter_map(|(index, value)| Some((identity(value, key)?.to_string(), index))).collect();
        Self { key, places }
    }
    fn get(&self, value: &Value) -> Option<usize> {
        self.places.get(&identity(value, self.key)?.to_string()).copied()
    }
}

/// The patch's elements must stand in the order it asks for.
fn check_order(patch: &[Value], order: &[Value], key: Option<&str>, name: &str) -> Result<(), ApiError> {
    let mut last = None;
    let places = Places::of(order, key);
    for value in patch {
        // Elements to be deleted have no place in the order.
        if value.get(DIRECTIVE).is_some() {
            continue;
        }
        let place = places.get(value);
        if place.is_none() || place < last {
            return Err(failed(format!(
                "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n of {name}",
                Value::Array(patch.to_vec()),
                Value::Array(order.to_vec())
            )));
        }
        last = place;
    }
    Ok(())
}

/// Elements of the patch in the patch's order, the others where they stood among them.
fn arrange(merged: Vec<Value>, patch_order: &[Value], server_order: &[Value], key: Option<&str>) -> Vec<Value> {
    let (patch_places, server_places) = (Places::of(patch_order, key), Places::of(server_order, key));
    let (mut named, mut others): (Vec<Value>, Vec<Value>) = merged.into_iter().partition(|value| patch_places.get(value).is_some());
    named.sort_by_cached_key(|value| patch_places.get(value));
    others.sort_by_cached_key(|value| server_places.get(value));
    let mut arranged = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let next = match (named.peek(), others.peek()) {
            (None, None) => return arranged,
            // Where the server does not know how two of them stand, the patch's goes first: a new container without a given order comes
            // before those that are there. Source: Kubernetes `apimachinery/pkg/util/strategicpatch`, `mergeSortedSlice`.
            (Some(left), Some(right)) => match (server_places.get(left), server_places.get(right)) {
                (Some(left), Some(right)) if right < left => others.next(),
                _ => named.next(),
            },
            (Some(_), None) => named.next(),
            (None, Some(_)) => others.next(),
        };
        arranged.extend(next);
    }
}

fn merge_list(types: &Types, field: (Option<&Item>, &PatchStrategy), original: Vec<Value>, patch: &[Value]) -> Result<Vec<Value>, ApiError> {
    let (item, strategy) = field;
    if !strategy.merge {
        return Ok(clean_list(patch));
    }
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    let objects = original.iter().chain(patch).filter(|value| value.is_object()).count();
    if original.iter().chain(patch).any(Value::is_array) {
        return Err(unprocessable("lists of lists are not supported"));
    }
    if objects == 0 {
        let server_order = original.clone();
        let mut seen = HashSet::new();
        let mut merged: Vec<Value> = original.into_iter().chain(patch.iter().cloned()).collect();
        merged.retain(|value| seen.insert(value.to_string()));
        return Ok(arrange(merged, patch, &server_order, None));
    }
    if objects != original.len() + patch.len() {
        return Err(failed("list element types are not identical".to_owned()));
    }
    let Some(key) = strategy.merge_key.as_deref() else {
        return Err(failed("cannot merge lists without merge key".to_owned()));
    };
    let element = match item.map(|item| &item.shape) {
        Some(Shape::List { items, .. }) => Some(&**items),
        _ => None,
    };
    merge_objects(types, Below::of(types, element), original, patch, key)
}

fn merge_objects(types: &Types, below: Below<'_>, original: Vec<Value>, patch: &[Value], key: &str) -> Result<Vec<Value>, ApiError> {
    let mut merged = original.clone();
    let mut plain: Vec<Value> = Vec::with_capacity(patch.len());
    let mut doomed = HashSet::new();
    let mut replace = false;
    for value in patch {
        match value.get(DIRECTIVE).map(|directive| directive.as_str().unwrap_or_default()) {
            None | Some("merge") => plain.push(value.clone()),
            Some("replace") => replace = true,
            Some("delete") => {
                let Some(identity) = value.get(key) else {
                    return Err(failed("delete patch type with no merge key defined".to_owned()));
                };
                doomed.insert(identity.to_string());
            }
            Some(other) => return Err(unprocessable(&format!("unknown patch type [{other}] in map"))),
        }
    }
    if replace {
        return Ok(clean_list(&plain));
    }
    if !doomed.is_empty() {
        merged.retain(|one| one.get(key).is_none_or(|identity| !doomed.contains(&identity.to_string())));
    }
    let mut places = Places::of(&merged, Some(key));
    for value in &plain {
        let Value::Object(element) = value else { continue };
        let Some(identity) = element.get(key) else {
            return Err(failed(format!("map: {value} does not contain declared merge key: {key}")));
        };
        match places.get(value).and_then(|place| merged.get_mut(place)) {
            Some(Value::Object(known)) => {
                let known_now = std::mem::take(known);
                *known = merge_map(types, below, known_now, element)?;
            }
            _ => {
                places.places.insert(identity.to_string(), merged.len());
                merged.push(clean(value));
            }
        }
    }
    Ok(arrange(merged, &plain, &original, Some(key)))
}

/// A value of the patch as it goes into the object: without directives and nulls.
fn clean(value: &Value) -> Value {
    match value {
        Value::Object(map) if map.get(DIRECTIVE).and_then(Value::as_str) == Some("delete") => Value::Object(Map::new()),
        Value::Object(map) => Value::Object(clean_map(map)),
        Value::Array(list) => Value::Array(clean_list(list)),
        scalar => scalar.clone(),
    }
}

fn clean_map(map: &Map<String, Value>) -> Map<String, Value> {
    let directive = |key: &str| key == DIRECTIVE || key == RETAIN_KEYS || key.starts_with(SET_ORDER) || key.starts_with(DELETE_FROM);
    map.iter().filter(|(key, value)| !value.is_null() && !directive(key)).map(|(key, value)| (key.clone(), clean(value))).collect()
}

fn clean_list(list: &[Value]) -> Vec<Value> {
    let doomed = |value: &&Value| matches!(value.get(DIRECTIVE).and_then(Value::as_str), Some("delete" | "replace"));
    list.iter().filter(|value| !doomed(value)).map(clean).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::fixture::deployment;

    /// Merges into the pod spec of a Deployment.
    #[track_caller]
    fn check(before: Value, patch: Value, after: Value) {
        let wrap = |spec: Value| json!({"spec": {"template": {"spec": spec}}});
        let mut target = wrap(before);
        strategic_merge(&deployment(), &mut target, &wrap(patch)).unwrap();
        assert_eq!(target, wrap(after));
    }

    fn refused(before: Value, patch: Value) -> ApiError {
        let wrap = |spec: Value| json!({"spec": {"template": {"spec": spec}}});
        let mut target = wrap(before.clone());
        let error = strategic_merge(&deployment(), &mut target, &wrap(patch)).unwrap_err();
        assert_eq!(target, wrap(before));
        error
    }

    #[test]
    fn lists_are_merged_by_their_key() {
        check(
            json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}),
            json!({"containers": [{"name": "b", "image": "2"}, {"name": "c", "image": "3"}]}),
            json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c", "image": "3"}]}),
        );
        check(
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"containers": [{"name": "c"}]}),
            json!({"containers": [{"name": "c"}, {"name": "a"}, {"name": "b"}]}),
        );
    }

    #[test]
    fn atomic_lists_are_replaced_and_maps_merged() {
        check(
            json!({"tolerations": [{"name": "a"}], "nodeSelector": {"x": "1", "y": "1"}}),
            json!({"tolerations": [{"name": "b", "value": null}], "nodeSelector": {"x": null, "z": "2"}}),
            json!({"tolerations": [{"name": "b"}], "nodeSelector": {"y": "1", "z": "2"}}),
        );
    }

    #[test]
    fn elements_are_deleted_and_lists_replaced_by_directive() {
        check(
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"containers": [{"name": "a", "$patch": "delete"}]}),
            json!({"containers": [{"name": "b"}]}),
        );
        check(
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}),
            json!({"containers": [{"name": "c"}]}),
        );
        check(json!({"nodeSelector": {"x": "1"}}), json!({"nodeSelector": {"$patch": "replace", "y": "2"}}), json!({"nodeSelector": {"y": "2"}}));
        check(json!({"nodeSelector": {"x": "1"}}), json!({"nodeSelector": {"$patch": "delete"}}), json!({"nodeSelector": {}}));
    }

    #[test]
    fn the_order_asked_for_is_kept_around_elements_of_others() {
        check(
            json!({"containers": [{"name": "a"}, {"name": "x"}, {"name": "b"}]}),
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}, {"name": "c"}], "containers": [{"name": "c"}]}),
            json!({"containers": [{"name": "x"}, {"name": "b"}, {"name": "a"}, {"name": "c"}]}),
        );
        check(
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}),
            json!({"containers": [{"name": "b"}, {"name": "a"}]}),
        );
        // As kubectl apply sends it when one container goes.
        check(
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"$setElementOrder/containers": [{"name": "b"}], "containers": [{"$patch": "delete", "name": "a"}]}),
            json!({"containers": [{"name": "b"}]}),
        );
        let error = refused(
            json!({"containers": []}),
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "a"}, {"name": "b"}]}),
        );
        assert!(error.message.contains("doesn't match"), "{error}");
    }

    #[test]
    fn keys_that_are_not_retained_go() {
        check(
            json!({"volumes": [{"name": "v", "emptyDir": {"a": "b"}}]}),
            json!({"volumes": [{"$retainKeys": ["name", "hostPath"], "name": "v", "hostPath": {"path": "x"}}]}),
            json!({"volumes": [{"name": "v", "hostPath": {"path": "x"}}]}),
        );
        refused(json!({"volumes": [{"name": "v"}]}), json!({"volumes": [{"$retainKeys": ["name"], "name": "v", "hostPath": {}}]}));
    }

    #[test]
    fn lists_of_scalars_are_united_and_deleted_from() {
        let mut target = json!({"metadata": {"finalizers": ["a", "b"]}});
        let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c", "b"]}});
        strategic_merge(&deployment(), &mut target, &patch).unwrap();
        assert_eq!(target, json!({"metadata": {"finalizers": ["c", "b"]}}));
        let patch = json!({"metadata": {"$setElementOrder/finalizers": ["b", "d", "c"], "finalizers": ["d"]}});
        strategic_merge(&deployment(), &mut target, &patch).unwrap();
        assert_eq!(target, json!({"metadata": {"finalizers": ["b", "d", "c"]}}));
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(refused(json!({}), json!({"$setElementOrder/containers": 1})).code, 400);
        assert_eq!(refused(json!({}), json!({"$retainKeys": 1})).code, 400);
        assert_eq!(refused(json!({"nodeSelector": {}}), json!({"nodeSelector": {"$patch": "x"}})).code, 422);
        refused(json!({"containers": [{"name": "a"}]}), json!({"containers": [{"image": "x"}]}));
        refused(json!({"containers": [{"name": "a"}]}), json!({"containers": ["x"]}));
        refused(json!({"containers": [{"name": "a"}]}), json!({"containers": [["x"]]}));
        assert_eq!(strategic_merge(&deployment(), &mut json!({}), &json!([])).unwrap_err().code, 400);
    }

    #[test]
    fn new_values_lose_their_directives() {
        check(
            json!({}),
            json!({"containers": [{"name": "a", "$setElementOrder/ports": [], "ports": [{"containerPort": 1, "$patch": "delete"}]}], "nodeSelector": {"a": null}}),
            json!({"containers": [{"name": "a", "ports": []}], "nodeSelector": {}}),
        );
    }
}
