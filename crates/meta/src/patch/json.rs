//! JSON Patch (RFC 6902), with bounds on what one request may ask for.

use serde_json::Value;

use super::unprocessable;
use crate::{read::MAX_DEPTH, status::ApiError};

/// Most operations of one patch, as upstream.
pub const MAX_OPERATIONS: usize = 10_000;
/// Most values that all `copy` operations of one patch may make: without a bound, thirty of them fill any memory.
const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;

/// Applies a patch; the tree is unchanged where it fails.
///
/// # Errors
/// 400 for a malformed patch, 413 for too many operations, 422 where an operation does not fit the object or a test fails.
pub fn json_patch(target: &mut Value, patch: &Value) -> Result<(), ApiError> {
    let Value::Array(operations) = patch else {
        return Err(ApiError::bad_request("json: cannot unmarshal object into Go value of type jsonpatch.Patch"));
    };
    if operations.len() > MAX_OPERATIONS {
        let mut error = ApiError::too_large(0);
        error.message =
            format!("Request entity too large: The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}", operations.len());
        return Err(error);
    }
    for operation in operations {
        if !operation.is_object() {
            return Err(ApiError::bad_request("json: cannot unmarshal into Go value of type jsonpatch.Operation"));
        }
    }
    let mut patched = target.clone();
    let mut copied = 0;
    for operation in operations {
        apply(&mut patched, operation, &mut copied).map_err(|why| unprocessable(&why))?;
    }
    *target = patched;
    Ok(())
}

fn apply(target: &mut Value, operation: &Value, copied: &mut usize) -> Result<(), String> {
    let text = |name: &str| operation.get(name).and_then(Value::as_str);
    let kind = text("op").unwrap_or_default();
    let path = text("path").ok_or_else(|| format!("{kind} operation failed to decode path: missing field"))?;
    let from = || text("from").ok_or_else(|| format!("{kind} operation failed to decode from: missing field"));
    let value = || operation.get("value").cloned();
    match kind {
        "add" => add(target, path, value().ok_or("add operation does not apply: missing value")?),
        "remove" => remove(target, path).map(drop),
        "replace" => {
            let place = find_mut(target, path).ok_or_else(|| format!("replace operation does not apply: doc is missing key: {path}: missing value"))?;
            let value = value().unwrap_or(Value::Null);
            if path.matches('/').count() + depth(&value) > MAX_DEPTH {
                return Err(format!("replace operation does not apply: {path:?} would exceed max depth"));
            }
            *place = value;
            Ok(())
        }
        "move" => {
            let from = from()?;
            if path.strip_prefix(from).is_some_and(|rest| rest.starts_with('/')) {
                return Err(format!("move operation does not apply: {from} cannot move into itself"));
            }
            let moved = remove(target, from)?;
            add(target, path, moved)
        }
        "copy" => {
            let from = from()?;
            let found = target.pointer(from).ok_or_else(|| missing("copy", from))?;
            *copied += size(found);
            if *copied > MAX_COPIED_BYTES {
                return Err(format!("Unable to copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_COPIED_BYTES}"));
            }
            let value = found.clone();
            add(target, path, value)
        }
        "test" => {
            let expected = operation.get("value").unwrap_or(&Value::Null);
            // An absent field passes for null, as upstream's library does it.
            if target.pointer(path).unwrap_or(&Value::Null) == expected {
                Ok(())
            } else {
                Err(format!("testing value {path} failed: test failed"))
            }
        }
        other => Err(format!("Unexpected kind: {other}")),
    }
}

fn missing(kind: &str, path: &str) -> String {
    format!("{kind} operation does not apply: doc is missing path: {path:?}: missing value")
}

/// Parent path and last token, unescaped.
fn split(path: &str) -> Option<(&str, String)> {
    let (parent, token) = path.rsplit_once('/')?;
    Some((parent, token.replace("~1", "/").replace("~0", "~")))
}

fn find_mut<'a>(target: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    target.pointer_mut(path)
}

fn index(token: &str, length: usize) -> Option<usize> {
    let well_formed = token == "0" || !token.starts_with('0') && !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_digit());
    token.parse().ok().filter(|index| well_formed && *index < length)
}

fn add(target: &mut Value, path: &str, value: Value) -> Result<(), String> {
    // Copying an object into itself again and again must not build a tree too deep to walk.
    if path.matches('/').count() + depth(&value) > MAX_DEPTH {
        return Err(format!("add operation does not apply: {path:?} would exceed max depth"));
    }
    if path.is_empty() {
        *target = value;
        return Ok(());
    }
    let (parent, token) = split(path).ok_or_else(|| missing("add", path))?;
    match find_mut(target, parent) {
        Some(Value::Object(map)) => {
            map.insert(token, value);
            Ok(())
        }
        Some(Value::Array(list)) => {
            let place = if token == "-" { Some(list.len()) } else { index(&token, list.len() + 1) };
            let place = place.ok_or_else(|| format!("add operation does not apply: doc is missing path: {path:?}: invalid index referenced"))?;
            list.insert(place, value);
            Ok(())
        }
        _ => Err(missing("add", path)),
    }
}

fn remove(target: &mut Value, path: &str) -> Result<Value, String> {
    let (parent, token) = split(path).ok_or_else(|| missing("remove", path))?;
    let removed = match find_mut(target, parent) {
        Some(Value::Object(map)) => map.remove(&token),
        Some(Value::Array(list)) => index(&token, list.len()).map(|index| list.remove(index)),
        _ => None,
    };
    removed.ok_or_else(|| format!("remove operation does not apply: doc is missing path: {path:?}: missing value"))
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or_default(),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or_default(),
        _ => 0,
    }
}

/// About how many bytes a value takes as text.
fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(list) => list.iter().map(|value| size(value) + 1).sum::<usize>() + 2,
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + size(value) + 4).sum::<usize>() + 2,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(before: Value, patch: Value, after: Value) {
        let mut target = before;
        json_patch(&mut target, &patch).unwrap();
        assert_eq!(target, after);
    }

    #[test]
    fn operations_do_what_the_rfc_says() {
        check(json!({"a": 1}), json!([{"op": "add", "path": "/b", "value": 2}]), json!({"a": 1, "b": 2}));
        check(json!({"a": [1, 3]}), json!([{"op": "add", "path": "/a/1", "value": 2}]), json!({"a": [1, 2, 3]}));
        check(json!({"a": [1]}), json!([{"op": "add", "path": "/a/-", "value": 2}]), json!({"a": [1, 2]}));
        check(json!({"a": 1}), json!([{"op": "add", "path": "", "value": {}}]), json!({}));
        check(json!({"a": [1, 2]}), json!([{"op": "remove", "path": "/a/0"}]), json!({"a": [2]}));
        check(json!({"a/b": {"~": 1}}), json!([{"op": "replace", "path": "/a~1b/~0", "value": 2}]), json!({"a/b": {"~": 2}}));
        check(json!({"a": {"b": 1}}), json!([{"op": "move", "from": "/a/b", "path": "/c"}]), json!({"a": {}, "c": 1}));
        check(json!({"a": 1}), json!([{"op": "copy", "from": "/a", "path": "/b"}]), json!({"a": 1, "b": 1}));
        check(json!({"a": [1]}), json!([{"op": "test", "path": "/a", "value": [1]}]), json!({"a": [1]}));
        check(json!({}), json!([]), json!({}));
    }

    #[track_caller]
    fn refused(patch: Value, code: u16) {
        let before = json!({"a": {"b": 1}, "list": [1]});
        let mut target = before.clone();
        assert_eq!(json_patch(&mut target, &patch).unwrap_err().code, code, "{patch}");
        assert_eq!(target, before, "unchanged by {patch}");
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        refused(json!({}), 400);
        refused(json!(["x"]), 400);
        refused(json!([{"op": "add", "path": "/a/c", "value": 2}, {"op": "test", "path": "/a/b", "value": 2}]), 422);
        for operation in [
            json!({"op": "add", "path": "/x/y", "value": 1}),
            json!({"op": "add", "path": "/list/2", "value": 1}),
            json!({"op": "add", "path": "/list/x", "value": 1}),
            json!({"op": "add", "path": "/list/01", "value": 1}),
            json!({"op": "add", "path": "x", "value": 1}),
            json!({"op": "remove", "path": "/x"}),
            json!({"op": "remove", "path": ""}),
            json!({"op": "replace", "path": "/x", "value": 1}),
            json!({"op": "move", "from": "/a", "path": "/a/b"}),
            json!({"op": "copy", "from": "/x", "path": "/y"}),
            json!({"op": "copy", "path": "/y"}),
            json!({"op": "add"}),
            json!({"op": "fix", "path": "/a"}),
        ] {
            refused(json!([operation]), 422);
        }
        refused(json!(vec![json!({"op": "test", "path": "/a/b", "value": 1}); MAX_OPERATIONS + 1]), 413);
    }

    #[test]
    fn copies_are_bounded() {
        let doubling = json!({"op": "copy", "from": "/list", "path": "/list/-"});
        refused(json!(vec![doubling; 60]), 422);
        let widening = json!([{"op": "add", "path": "/s", "value": "x".repeat(1 << 20)}, {"op": "copy", "from": "/s", "path": "/t"}]);
        let mut operations = widening.as_array().unwrap().clone();
        operations.extend(vec![operations[1].clone(); 5]);
        refused(json!(operations), 422);
        let deepening = json!({"op": "copy", "from": "/a", "path": "/a/x"});
        refused(json!(vec![deepening; MAX_OPERATIONS]), 422);
    }

    proptest! {
        #[test]
        fn any_paths_are_applied_or_refused(op in "add|remove|replace|move|copy|test", path in "(/(a|b|-|0|list|~0|~2|)){0,3}", from in "(/(a|b|0|list)){0,2}") {
            let mut target = json!({"a": {"b": [1, {"a": 2}]}, "list": [1]});
            let _ = json_patch(&mut target, &json!([{"op": op, "path": path, "from": from, "value": {"b": 1}}]));
        }
    }
}
