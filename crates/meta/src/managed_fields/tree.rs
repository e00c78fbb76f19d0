//! Laying a configuration over a live object, and taking fields out of one.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    element::Element,
    layout::{Layout, Parts},
    set::FieldSet,
};
use crate::schema::Types;

/// The live value with the configuration laid over it; where both say something, the configuration wins.
pub(super) fn merged(types: &Types, layout: Layout<'_>, live: &Value, applied: &Value) -> Value {
    match (layout.parts(live), layout.parts(applied)) {
        (Parts::Fields(live), Parts::Fields(applied)) => Value::Object(merged_fields(types, layout, live, applied)),
        (Parts::Elements(live), Parts::Elements(applied)) => Value::Array(merged_elements(types, layout, &live, &applied)),
        _ => applied.clone(),
    }
}

pub(super) fn merged_fields(types: &Types, layout: Layout<'_>, live: &Map<String, Value>, applied: &Map<String, Value>) -> Map<String, Value> {
    let mut all = live.clone();
    for (name, value) in applied {
        let value = match live.get(name) {
            Some(known) => merged(types, layout.field(types, name).0, known, value),
            None => value.clone(),
        };
        all.insert(name.clone(), value);
    }
    all
}

/// Elements in the configuration's order, those of others where they stood among them.
fn merged_elements(types: &Types, layout: Layout<'_>, live: &[(Element, &Value)], applied: &[(Element, &Value)]) -> Vec<Value> {
    // The first of equals counts.
    let places = |list: &'_ [(Element, &'_ Value)]| -> BTreeMap<Element, usize> {
        list.iter().enumerate().rev().map(|(index, (element, _))| (element.clone(), index)).collect()
    };
    let (live_places, applied_places) = (places(live), places(applied));
    let mut shared = applied.iter().filter(|(element, _)| live_places.contains_key(element)).map(|(element, _)| element).peekable();
    let mut all = Vec::with_capacity(live.len().max(applied.len()));
    let (mut left, mut right) = (0, 0);
    loop {
        let (ours, theirs) = (live.get(left), applied.get(right));
        match (ours, theirs) {
            (None, None) => return all,
            (Some((element, value)), theirs) => {
                if !applied_places.contains_key(element) {
                    all.push((*value).clone());
                    left += 1;
                    continue;
                }
                let is_next = theirs.is_some_and(|(next, _)| next == element);
                // It comes later (or came before) in the configuration's order.
                if !is_next && (theirs.is_none() || shared.peek() != Some(&element)) {
                    left += 1;
                    continue;
                }
            }
            (None, Some(_)) => {}
        }
        let Some((element, value)) = theirs else {
            left += 1;
            continue;
        };
        match live_places.get(element).and_then(|index| live.get(*index)) {
            Some((_, known)) => all.push(merged(types, layout.element(), known, value)),
            None => all.push((*value).clone()),
        }
        if shared.peek() == Some(&element) {
            shared.next();
        }
        if ours.is_some_and(|(ours, _)| ours == element) {
            left += 1;
        }
        right += 1;
    }
}

/// Takes the paths in `doomed` out, with all below them. Containers that become empty go, too.
pub(super) fn remove_fields(types: &Types, layout: Layout<'_>, map: &mut Map<String, Value>, doomed: &FieldSet) {
    for (element, node) in &doomed.nodes {
        let Element::Field(name) = element else { continue };
        let mut empties = |value: &mut Value| remove_inside(types, layout.field(types, name).0, value, &node.below);
        if node.member || map.get_mut(&**name).is_some_and(&mut empties) {
            map.remove(&**name);
        }
    }
}

/// Whether the value became empty.
fn remove_inside(types: &Types, layout: Layout<'_>, value: &mut Value, doomed: &FieldSet) -> bool {
    match value {
        Value::Object(map) => {
            let before = map.len();
            remove_fields(types, layout, map, doomed);
            map.is_empty() && before > 0
        }
        Value::Array(list) => {
            let before = list.len();
            list.retain_mut(|value| {
                let node = layout.identity(value).and_then(|element| doomed.node(&element).cloned());
                match node {
                    None => true,
                    Some(node) if node.member => false,
                    Some(node) => !remove_inside(types, layout.element(), value, &node.below),
                }
            });
            list.is_empty() && before > 0
        }
        _ => false,
    }
}
