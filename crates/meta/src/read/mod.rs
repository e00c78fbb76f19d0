//! The normalising reader: whatever a user sends passes here before it becomes an [`Object`] (design decision 2).
//!
//! Text becomes a tree ([`json`], [`yaml`]), the tree is brought into the shape its schema asks for ([`normalise`]): unknown
//! and duplicate fields are reported and dropped, wrong types of built-in kinds refused, quantities and times made canonical,
//! nulls and empty lists dropped as upstream's types drop them. Wrong types in custom resources are left in place:
//! [`crate::structural`] reports them with the other rules of their schema.

mod json;
mod normalise;
mod time;
mod yaml;

use std::collections::HashMap;

use serde_json::Value;

use crate::{object::Object, schema::Schema};

pub use time::{ZERO_MICRO_TIME, ZERO_TIME, canonical_micro_time, canonical_time};

/// Deepest nesting of lists and objects that is read. Stored objects are read again by `serde_json`, whose limit is 128.
pub const MAX_DEPTH: usize = 100;

/// What becomes of unknown and duplicate fields (`fieldValidation` of a request).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FieldValidation {
    /// The request fails.
    Strict,
    /// The answer warns.
    Warn,
    /// Nothing is said.
    Ignore,
}

impl FieldValidation {
    /// From the query parameter; `None` where it is none of the known values. Absent or empty means `Warn`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "Strict" => Some(Self::Strict),
            "Warn" | "" => Some(Self::Warn),
            "Ignore" => Some(Self::Ignore),
            _ => None,
        }
    }
}

/// What was read.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadOutcome {
    /// The object, without unknown fields.
    pub object: Object,
    /// Unknown and duplicate fields in upstream's words and order (`unknown field "spec.foo"`), each once.
    pub problems: Vec<String>,
    /// Paths of the unknown ones alone, which server-side apply refuses in words of its own.
    pub unknown: Vec<String>,
}

/// Why nothing was read. The text is the inner error as upstream's decoder gives it; the API server puts its sentence around it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Not JSON or YAML, too deep, or no object. Upstream: `couldn't get version/kind; json parse error: …`.
    #[error("{0}")]
    Malformed(String),
    /// A value of a wrong type. Upstream: `{Kind} in version "{version}" cannot be handled as a {Kind}: {error}`.
    #[error("{0}")]
    WrongType(String),
}

/// As many problems of each sort as upstream lists; a body may have a hundred thousand.
const MAX_PROBLEMS: usize = 100;

/// What JSON text says, and the fields that stood twice in their object; the later one won.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    value: Value,
    /// At most [`MAX_PROBLEMS`].
    duplicates: Vec<Duplicate>,
}

/// A field that stood twice in its object.
#[derive(Debug)]
struct Duplicate {
    path: String,
    /// Offset of the later one's name in the text.
    at: usize,
}

impl Duplicate {
    fn put_in_front(&mut self, part: &str) {
        self.path = if self.path.starts_with('[') { format!("{part}{}", self.path) } else { format!("{part}.{}", self.path) };
    }
}

/// Reads JSON.
///
/// # Errors
/// Where the text is no JSON object or a built-in type is not matched.
pub fn read_json(bytes: &[u8], schema: &Schema) -> Result<ReadOutcome, ReadError> {
    let tree = json::parse(bytes)?;
    let (object, unknown) = normalise::normalise(tree.value, schema)?;
    let mut duplicates = tree.duplicates;
    duplicates.retain(|duplicate| !hidden(&unknown, &duplicate.path));
    let mut found: Vec<(usize, String)> = duplicates.iter().map(|duplicate| (duplicate.at, format!("duplicate field {:?}", duplicate.path))).collect();
    // Go's decoder meets them in the order of the text. It knows nothing of the fields of custom resources, which are pruned,
    // in the order of the alphabet, when it is done.
    let built_in = !schema.root().name.is_empty();
    let places = if built_in && found.len() + unknown.len() > 1 { json::positions(bytes, unknown.iter().map(String::as_str)) } else { HashMap::new() };
    found.extend(unknown.iter().map(|path| (places.get(path.as_str()).copied().unwrap_or(usize::MAX), unknown_field(path))));
    found.sort_by_key(|(at, _)| *at);
    Ok(ReadOutcome { object, problems: each_once(found.into_iter().map(|(_, problem)| problem)), unknown })
}

/// Reads YAML. Duplicate fields are one problem, which says their lines.
///
/// # Errors
/// Where the text is no YAML mapping or a built-in type is not matched.
pub fn read_yaml(bytes: &[u8], schema: &Schema) -> Result<ReadOutcome, ReadError> {
    let (value, duplicates) = yaml::parse(bytes)?;
    let (object, unknown) = normalise::normalise(value, schema)?;
    let twice = (!duplicates.is_empty()).then(|| yaml::describe(bytes, &duplicates));
    let problems = each_once(twice.into_iter().chain(unknown.iter().map(|path| unknown_field(path))));
    Ok(ReadOutcome { object, problems, unknown })
}

/// Brings a tree of another origin (protobuf, a patch's result) into shape.
///
/// # Errors
/// Where it is no JSON object or a built-in type is not matched.
pub fn normalise_value(value: Value, schema: &Schema) -> Result<ReadOutcome, ReadError> {
    let (object, unknown) = normalise::normalise(value, schema)?;
    Ok(ReadOutcome { object, problems: each_once(unknown.iter().map(|path| unknown_field(path))), unknown })
}

fn unknown_field(path: &str) -> String {
    format!("unknown field {path:?}")
}

/// What stands in an unknown field is not looked at, so that its duplicates are not reported.
fn hidden(unknown: &[String], path: &str) -> bool {
    unknown.iter().any(|unknown| path.strip_prefix(unknown.as_str()).is_some_and(|rest| rest.starts_with(['.', '['])))
}

fn each_once(found: impl Iterator<Item = String>) -> Vec<String> {
    let mut problems = Vec::new();
    for problem in found {
        if problems.len() < MAX_PROBLEMS && !problems.contains(&problem) {
            problems.push(problem);
        }
    }
    problems
}

/// Reads JSON of no particular shape, such as a patch.
///
/// # Errors
/// Where the text is no JSON, or nested too deeply.
pub fn parse_untyped(bytes: &[u8]) -> Result<Value, ReadError> {
    json::parse(bytes).map(|tree| tree.value)
}

/// Reads YAML of no particular shape, such as a body of server-side apply before its kind is known.
///
/// # Errors
/// Where the text is no YAML, or nested too deeply.
pub fn parse_untyped_yaml(bytes: &[u8]) -> Result<Value, ReadError> {
    yaml::parse(bytes).map(|(value, _)| value)
}

#[cfg(test)]
mod tests;
