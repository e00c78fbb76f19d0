//! Sets of fields of an object, and their `fieldsV1` form.

use std::{cmp::Ordering, fmt::Write as _};

use serde_json::{Map, Value};

use super::element::Element;

/// A set of paths. A path may be in it while paths below it are not, and the other way round.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// Sorted by element; no node is empty.
    pub(super) nodes: Vec<(Element, Node)>,
}

/// A step that is in the set, or has something below that is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) member: bool,
    pub(super) below: FieldSet,
}

impl Node {
    pub(super) fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

impl FieldSet {
    /// From `fieldsV1`; `None` where it is malformed.
    pub fn from_json(fields: &Value) -> Option<Self> {
        let mut nodes = Vec::new();
        for (key, value) in fields.as_object()? {
            if key == "." {
                continue;
            }
            let element = Element::parse(key)?;
            let map = value.as_object()?;
            let node = Node { member: map.is_empty() || map.contains_key("."), below: Self::from_json(value)? };
            nodes.push((element, node));
        }
        nodes.sort_by(|left, right| left.0.cmp(&right.0));
        // Two spellings of one key.
        nodes.dedup_by(|later, first| {
            let same = later.0 == first.0;
            if same {
                first.1.member |= later.1.member;
                first.1.below = first.1.below.union(&later.1.below);
            }
            same
        });
        Some(Self { nodes })
    }
    /// Its `fieldsV1` form.
    pub fn to_json(&self) -> Value {
        Value::Object(self.to_map())
    }
    pub(super) fn to_map(&self) -> Map<String, Value> {
        let mut map = Map::new();
        for (element, node) in &self.nodes {
            let mut below = node.below.to_map();
            if node.member && !below.is_empty() {
                below.insert(".".to_owned(), Value::Object(Map::new()));
            }
            map.insert(element.to_key(), Value::Object(below));
        }
        map
    }
    /// Takes out what is in the other, in place.
    pub(super) fn subtract(&mut self, other: &Self) {
        if other.is_empty() {
            return;
        }
        self.nodes.retain_mut(|(element, node)| {
            if let Some(other) = other.node(element) {
                node.member &= !other.member;
                node.below.subtract(&other.below);
            }
            !node.is_empty()
        });
    }
    /// Puts in what is in the other; nothing is copied where either is empty.
    #[must_use]
    pub(super) fn with(self, other: Self) -> Self {
        if other.is_empty() {
            self
        } else if self.is_empty() {
            other
        } else {
            self.union(&other)
        }
    }
    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
    pub(super) fn node(&self, element: &Element) -> Option<&Node> {
        let index = self.nodes.binary_search_by(|(one, _)| one.cmp(element)).ok()?;
        self.nodes.get(index).map(|(_, node)| node)
    }
    /// Puts a node in place; steps mostly come in order, so that it is appended.
    pub(super) fn put(&mut self, element: Element, node: Node) {
        if node.is_empty() {
            return;
        }
        if self.nodes.last().is_none_or(|(last, _)| *last < element) {
            self.nodes.push((element, node));
            return;
        }
        match self.nodes.binary_search_by(|(one, _)| one.cmp(&element)) {
            Ok(index) => {
                if let Some((_, known)) = self.nodes.get_mut(index) {
                    known.member |= node.member;
                    known.below = known.below.union(&node.below);
                }
            }
            Err(index) => self.nodes.insert(index, (element, node)),
        }
    }
    /// Puts a path of field names in.
    pub fn insert_fields(&mut self, path: &[&str]) {
        if let Some((first, rest)) = path.split_first() {
            let mut node = Node { member: rest.is_empty(), below: Self::default() };
            node.below.insert_fields(rest);
            self.put(Element::Field((*first).into()), node);
        }
    }
    /// Whether a path is in it.
    pub fn contains(&self, path: &[Element]) -> bool {
        match path.split_first() {
            None => false,
            Some((first, [])) => self.node(first).is_some_and(|node| node.member),
            Some((first, rest)) => self.node(first).is_some_and(|node| node.below.contains(rest)),
        }
    }
    /// What is in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        if other.is_empty() {
            return self.clone();
        }
        if self.is_empty() {
            return other.clone();
        }
        self.merge(other, &|left, right| match (left, right) {
            (Some(left), Some(right)) => Node { member: left.member || right.member, below: left.below.union(&right.below) },
            (Some(one), None) | (None, Some(one)) => one.clone(),
            (None, None) => Node::default(),
        })
    }
    /// What is in this and not in the other. A path is only taken out by itself, not by one above.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        if other.is_empty() {
            return self.clone();
        }
        self.merge(other, &|left, right| match (left, right) {
            (Some(left), Some(right)) => Node { member: left.member && !right.member, below: left.below.difference(&right.below) },
            (Some(left), None) => left.clone(),
            (None, _) => Node::default(),
        })
    }
    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.merge(other, &|left, right| match (left, right) {
            (Some(left), Some(right)) => Node { member: left.member && right.member, below: left.below.intersection(&right.below) },
            _ => Node::default(),
        })
    }
    fn merge(&self, other: &Self, choose: &dyn Fn(Option<&Node>, Option<&Node>) -> Node) -> Self {
        let mut nodes = Vec::with_capacity(self.nodes.len());
        let mut push = |element: &Element, node: Node| {
            if !node.is_empty() {
                nodes.push((element.clone(), node));
            }
        };
        let (mut left, mut right) = (self.nodes.iter().peekable(), other.nodes.iter().peekable());
        loop {
            let ordering = match (left.peek(), right.peek()) {
                (None, None) => return Self { nodes },
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((left, _)), Some((right, _))) => left.cmp(right),
            };
            let one = if ordering == Ordering::Greater { None } else { left.next() };
            let two = if ordering == Ordering::Less { None } else { right.next() };
            if let Some((element, _)) = one.or(two) {
                push(element, choose(one.map(|(_, node)| node), two.map(|(_, node)| node)));
            }
        }
    }
    /// Every path in it, in order.
    pub fn paths(&self) -> Vec<Vec<Element>> {
        let mut paths = Vec::new();
        self.collect(&mut Vec::new(), &mut paths);
        paths
    }
    fn collect(&self, prefix: &mut Vec<Element>, paths: &mut Vec<Vec<Element>>) {
        for (element, node) in &self.nodes {
            prefix.push(element.clone());
            if node.member {
                paths.push(prefix.clone());
            }
            node.below.collect(prefix, paths);
            prefix.pop();
        }
    }
    /// Whether this and a set in its `fieldsV1` form have a path in common; cheaper than reading the other.
    pub(super) fn touches(&self, json: &Map<String, Value>) -> bool {
        self.nodes.iter().any(|(element, node)| {
            let found = json.get(&element.to_key()).or_else(|| match element {
                // Somebody may have spelled the key in another way.
                Element::Key(_) | Element::Value(_) => json.iter().find(|(key, _)| Element::parse(key).as_ref() == Some(element)).map(|(_, value)| value),
                _ => None,
            });
            found.and_then(Value::as_object).is_some_and(|below| node.member && (below.is_empty() || below.contains_key(".")) || node.below.touches(below))
        })
    }
}

/// A path as conflicts show it: `.spec.containers[name="web"].image`.
pub fn path_text(path: &[Element]) -> String {
    let mut text = String::new();
    for element in path {
        let _ = write!(text, "{element}");
    }
    text
}
