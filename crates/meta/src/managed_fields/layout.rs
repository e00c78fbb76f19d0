//! How ownership of a value is tracked: as a whole, by field, by key or by element, as its schema says.

use serde_json::{Map, Value};

use super::{
    element::Element,
    set::{FieldSet, Node},
    stripped,
};
use crate::schema::{Item, ListType, ObjectType, Schema, Shape, Types, UnknownFields};

/// How the inside of a value is tracked.
#[derive(Clone, Copy)]
pub(super) enum Layout<'a> {
    /// As a whole.
    Leaf,
    /// By field of a type.
    Struct(&'a ObjectType),
    /// By key.
    Map { values: &'a Item, built_in: bool },
    /// By value of a scalar.
    Set,
    /// By keys of the elements.
    Keyed { keys: &'a [Box<str>], element: &'a ObjectType },
    /// Without a schema: objects by field, all else as a whole.
    Free,
}

impl<'a> Layout<'a> {
    pub(super) fn root(schema: &'a Schema) -> Self {
        Self::Struct(schema.root())
    }
    /// Of an item in an object type, which is built in or not.
    pub(super) fn of(types: &'a Types, item: &'a Item, built_in: bool) -> Self {
        match &item.shape {
            Shape::Object(index) => {
                let of = types.object(*index);
                if of.atomic { Self::Leaf } else { Self::Struct(of) }
            }
            Shape::Map { values, atomic: false } => Self::Map { values, built_in },
            Shape::List { list: ListType::Set, .. } => Self::Set,
            Shape::List { list: ListType::Map(keys), items } => match &items.shape {
                Shape::Object(index) => Self::Keyed { keys, element: types.object(*index) },
                _ => Self::Leaf,
            },
            Shape::Any if !built_in => Self::Free,
            _ => Self::Leaf,
        }
    }
    /// Of a field, and whether it must be there.
    pub(super) fn field(self, types: &'a Types, name: &str) -> (Self, bool) {
        match self {
            Self::Struct(of) => match of.field(name) {
                Some(field) => (Self::of(types, &field.item, !of.name.is_empty()), field.required),
                None if matches!(of.unknown, UnknownFields::Keep) => (Self::Free, false),
                None => (Self::Leaf, false),
            },
            Self::Map { values, built_in } => (Self::of(types, values, built_in), false),
            Self::Free => (Self::Free, false),
            _ => (Self::Leaf, false),
        }
    }
    /// Of an element of a list tracked by keys.
    pub(super) fn element(self) -> Self {
        match self {
            Self::Keyed { element, .. } if !element.atomic => Self::Struct(element),
            _ => Self::Leaf,
        }
    }
    /// Whether a path to this name belongs to a type, rather than being data.
    pub(super) fn names(self, name: &str) -> bool {
        matches!(self, Self::Struct(of) if of.field(name).is_some())
    }
    /// The parts that a value is tracked by.
    pub(super) fn parts<'v>(self, value: &'v Value) -> Parts<'v> {
        match (self, value) {
            (Self::Struct(_) | Self::Map { .. } | Self::Free, Value::Object(map)) => Parts::Fields(map),
            (Self::Set | Self::Keyed { .. }, Value::Array(list)) => {
                let mut elements: Vec<(Element, &Value)> = Vec::with_capacity(list.len());
                for value in list {
                    match self.identity(value) {
                        Some(element) => elements.push((element, value)),
                        None => return Parts::Whole,
                    }
                }
                Parts::Elements(elements)
            }
            _ => Parts::Whole,
        }
    }
    /// What tells an element of a list from the others.
    pub(super) fn identity(self, value: &Value) -> Option<Element> {
        match self {
            Self::Set => (!value.is_array() && !value.is_object()).then(|| Element::Value(value.clone())),
            Self::Keyed { keys, element } => {
                let map = value.as_object()?;
                let mut found: Vec<(Box<str>, Value)> = keys
                    .iter()
                    .filter_map(|key| {
                        let default = || element.field(key).and_then(|field| field.item.default.as_deref());
                        map.get(&**key).or_else(default).map(|value| (key.clone(), value.clone()))
                    })
                    .collect();
                found.sort_by(|left, right| left.0.cmp(&right.0));
                (!found.is_empty()).then_some(Element::Key(found))
            }
            _ => None,
        }
    }
}

/// The parts of a value.
pub(super) enum Parts<'v> {
    Whole,
    Fields(&'v Map<String, Value>),
    Elements(Vec<(Element, &'v Value)>),
}

/// The set of fields that a configuration sets.
pub(super) fn fields_of(types: &Types, layout: Layout<'_>, value: &Value) -> FieldSet {
    node_of(types, layout, value).below
}

fn node_of(types: &Types, layout: Layout<'_>, value: &Value) -> Node {
    let mut below = FieldSet::default();
    match layout.parts(value) {
        Parts::Whole => return Node { member: true, below },
        Parts::Fields(map) => {
            for (name, value) in map {
                let (of, _) = layout.field(types, name);
                let mut node = node_of(types, of, value);
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                node.member |= empty || !layout.names(name);
                below.put(Element::Field(name.as_str().into()), node);
            }
        }
        Parts::Elements(mut elements) => {
            // In order, so that each is appended.
            elements.sort_by(|left, right| left.0.cmp(&right.0));
            for (element, value) in elements {
                let mut node = node_of(types, layout.element(), value);
                node.member = true;
                below.put(element, node);
            }
        }
    }
    Node { member: false, below }
}

/// The set with all fields of types that paths in it lead through; keys of maps and elements of lists stay as they are.
pub(super) fn with_named_fields(types: &Types, layout: Layout<'_>, set: &FieldSet) -> FieldSet {
    let mut full = FieldSet::default();
    for (element, node) in &set.nodes {
        let (of, named) = match element {
            Element::Field(name) => (layout.field(types, name).0, layout.names(name)),
            _ => (layout.element(), false),
        };
        let below = with_named_fields(types, of, &node.below);
        full.nodes.push((element.clone(), Node { member: node.member || named, below }));
    }
    full
}

/// What differs between two versions of an object.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub(super) added: FieldSet,
    pub(super) removed: FieldSet,
    pub(super) modified: FieldSet,
}

impl Comparison {
    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.modified.is_empty()
    }
    /// Without fields that nobody owns. The list of owners itself is one, which the new object mostly has not got any more.
    pub(super) fn strip(&mut self) {
        for set in [&mut self.added, &mut self.removed, &mut self.modified] {
            set.subtract(stripped());
        }
    }
}

#[derive(Default)]
struct Difference {
    added: Node,
    removed: Node,
    modified: Node,
}

/// Compares two versions of an object.
pub(super) fn compare(schema: &Schema, old: Option<&Map<String, Value>>, new: Option<&Map<String, Value>>) -> Comparison {
    let mut difference = Difference::default();
    compare_fields(&schema.types, Layout::root(schema), old, new, true, &mut difference);
    Comparison { added: difference.added.below, removed: difference.removed.below, modified: difference.modified.below }
}

/// `chain`: only objects of built-in types lead here. Upstream's types always have those, so that they are nobody's.
fn compare_nodes(types: &Types, layout: Layout<'_>, old: Option<&Value>, new: Option<&Value>, implied: bool, chain: bool) -> Difference {
    let mut difference = Difference::default();
    let (old_parts, new_parts) = (old.map(|value| layout.parts(value)), new.map(|value| layout.parts(value)));
    let mut container = true;
    match (&old_parts, &new_parts) {
        (None | Some(Parts::Fields(_)), None | Some(Parts::Fields(_))) => {
            let fields = |parts: &Option<Parts<'_>>, value: Option<&Value>| parts.is_some() && value.is_some();
            let old = if fields(&old_parts, old) { old.and_then(Value::as_object) } else { None };
            let new = if fields(&new_parts, new) { new.and_then(Value::as_object) } else { None };
            compare_fields(types, layout, old, new, chain, &mut difference);
        }
        (None | Some(Parts::Elements(_)), None | Some(Parts::Elements(_))) => {
            let list = |parts: Option<Parts<'_>>| match parts {
                Some(Parts::Elements(elements)) => elements.into_iter().map(|(element, value)| (element, value.clone())).collect::<Vec<_>>(),
                _ => Vec::new(),
            };
            // Cloned only where the lists differ at all.
            if old != new {
                compare_elements(types, layout, list(old_parts), list(new_parts), &mut difference);
            }
        }
        _ => container = false,
    }
    match (old, new) {
        (None, Some(_)) => difference.added.member = !container || !implied || difference.added.below.is_empty(),
        (Some(_), None) => difference.removed.member = true,
        (Some(old), Some(new)) if !container => difference.modified.member = old != new,
        _ => {}
    }
    difference
}

fn compare_fields(
    types: &Types,
    layout: Layout<'_>,
    old: Option<&Map<String, Value>>,
    new: Option<&Map<String, Value>>,
    chain: bool,
    difference: &mut Difference,
) {
    let mut visit = |name: &str, old: Option<&Value>, new: Option<&Value>| {
        let (of, required) = layout.field(types, name);
        let below_chain = chain && matches!(of, Layout::Struct(of) if !of.name.is_empty());
        let implied = below_chain || required && matches!(layout, Layout::Struct(of) if !of.name.is_empty());
        let mut found = compare_nodes(types, of, old, new, implied, below_chain);
        // The status belongs to whoever writes it; that a request says `status: {}` does not count.
        if below_chain && name == "status" && new.and_then(Value::as_object).is_some_and(Map::is_empty) {
            found.added.member = false;
        }
        for (set, node) in
            [(&mut difference.added, found.added), (&mut difference.removed, found.removed), (&mut difference.modified, found.modified)]
        {
            if !node.is_empty() {
                set.below.put(Element::Field(name.into()), node);
            }
        }
    };
    for (name, value) in old.into_iter().flatten() {
        visit(name, Some(value), new.and_then(|new| new.get(name)));
    }
    for (name, value) in new.into_iter().flatten() {
        if !old.is_some_and(|old| old.contains_key(name)) {
            visit(name, None, Some(value));
        }
    }
}

fn compare_elements(types: &Types, layout: Layout<'_>, old: Vec<(Element, Value)>, new: Vec<(Element, Value)>, difference: &mut Difference) {
    // Several elements may wrongly have the same keys; then they are compared together.
    let group = |list: Vec<(Element, Value)>| {
        let mut groups: Vec<(Element, Vec<Value>)> = Vec::with_capacity(list.len());
        let mut list = list;
        list.sort_by(|left, right| left.0.cmp(&right.0));
        for (element, value) in list {
            match groups.last_mut() {
                Some((last, values)) if *last == element => values.push(value),
                _ => groups.push((element, vec![value])),
            }
        }
        groups
    };
    let (old, new) = (group(old), group(new));
    let find = |groups: &[(Element, Vec<Value>)], element: &Element| {
        groups.binary_search_by(|(one, _)| one.cmp(element)).ok().and_then(|index| groups.get(index).map(|(_, values)| values.clone()))
    };
    let mut visit = |element: &Element, old: Option<&[Value]>, new: Option<&[Value]>| {
        let found = match (old, new) {
            (Some([_, _, ..]), Some(_)) | (Some(_), Some([_, _, ..])) => {
                Difference { modified: Node { member: old != new, below: FieldSet::default() }, ..Difference::default() }
            }
            _ => {
                let (old, new) = (old.and_then(<[Value]>::first), new.and_then(<[Value]>::first));
                compare_nodes(types, layout.element(), old, new, false, false)
            }
        };
        for (set, node) in
            [(&mut difference.added, found.added), (&mut difference.removed, found.removed), (&mut difference.modified, found.modified)]
        {
            if !node.is_empty() {
                set.below.put(element.clone(), node);
            }
        }
    };
    for (element, values) in &old {
        visit(element, Some(values), find(&new, element).as_deref());
    }
    for (element, values) in &new {
        if find(&old, element).is_none() {
            visit(element, None, Some(values));
        }
    }
}
