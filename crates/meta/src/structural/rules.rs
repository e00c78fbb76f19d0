//! Value rules: read from JSON schema, and applied to one value (what is inside it is the walk's business).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use regex::Regex;
use serde_json::Value;

use super::formats;
use crate::{
    field::{FieldError, FieldErrorKind, FieldPath},
    schema::Rules,
};

/// More patterns than any cluster has; beyond that the oldest are simply compiled again.
const MAX_PATTERNS: usize = 4096;
/// Bounds what one pattern of a user may cost to compile and hold.
const MAX_PATTERN_BYTES: usize = 1 << 20;

/// The value rules of a JSON schema; none where it has none.
pub(super) fn rules_of(schema: &Value) -> Option<Rules> {
    let number = |name: &str| schema.get(name).and_then(Value::as_f64);
    let count = |name: &str| schema.get(name).and_then(Value::as_u64);
    let text = |name: &str| schema.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).map(Into::into);
    let flag = |name: &str| schema.get(name).and_then(Value::as_bool).unwrap_or_default();
    let list = |name: &str| schema.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let logical: serde_json::Map<String, Value> = ["allOf", "anyOf", "oneOf", "not"]
        .into_iter()
        .filter_map(|name| schema.get(name).filter(|value| !value.is_null()).map(|value| (name.to_owned(), value.clone())))
        .collect();
    let rules = Rules {
        minimum: number("minimum").map(|bound| (bound, flag("exclusiveMinimum"))),
        maximum: number("maximum").map(|bound| (bound, flag("exclusiveMaximum"))),
        multiple_of: number("multipleOf"),
        min_length: count("minLength"),
        max_length: count("maxLength"),
        pattern: text("pattern"),
        format: text("format"),
        min_items: count("minItems"),
        max_items: count("maxItems"),
        unique_items: flag("uniqueItems"),
        min_properties: count("minProperties"),
        max_properties: count("maxProperties"),
        one_of_values: list("enum"),
        required: list("required").iter().filter_map(Value::as_str).map(Into::into).collect(),
        logical: (!logical.is_empty()).then_some(Value::Object(logical)),
        expressions: schema.get("x-kubernetes-validations").cloned(),
    };
    let empty = rules.minimum.is_none()
        && rules.maximum.is_none()
        && rules.multiple_of.is_none()
        && rules.min_length.is_none()
        && rules.max_length.is_none()
        && rules.pattern.is_none()
        && rules.format.is_none()
        && rules.min_items.is_none()
        && rules.max_items.is_none()
        && !rules.unique_items
        && rules.min_properties.is_none()
        && rules.max_properties.is_none()
        && rules.one_of_values.is_empty()
        && rules.required.is_empty()
        && rules.logical.is_none()
        && rules.expressions.is_none();
    (!empty).then_some(rules)
}

/// A compiled pattern.
///
/// # Errors
/// Where it is no regular expression.
pub(super) fn pattern(text: &str) -> Result<Arc<Regex>, regex::Error> {
    static PATTERNS: OnceLock<Mutex<HashMap<Box<str>, Arc<Regex>>>> = OnceLock::new();
    let patterns = PATTERNS.get_or_init(Mutex::default);
    if let Some(known) = patterns.lock().unwrap_or_else(PoisonError::into_inner).get(text) {
        return Ok(known.clone());
    }
    let compiled = Arc::new(regex::RegexBuilder::new(text).size_limit(MAX_PATTERN_BYTES).build()?);
    let mut patterns = patterns.lock().unwrap_or_else(PoisonError::into_inner);
    if patterns.len() >= MAX_PATTERNS {
        patterns.clear();
    }
    patterns.insert(text.into(), compiled.clone());
    Ok(compiled)
}

/// What a value breaks of its rules, but for the logical ones.
pub(super) fn check(rules: &Rules, value: &Value, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let name = path.as_str();
    let mut invalid = |detail: String| errors.push(FieldError::invalid(path, value.clone(), format!("{name} in body {detail}")));
    match value {
        Value::Number(number) => {
            let found = number.as_f64().unwrap_or_default();
            if let Some((bound, exclusive)) = rules.minimum
                && (found < bound || exclusive && found == bound) {
                    invalid(format!("should be greater than {}{}", if exclusive { "" } else { "or equal to " }, shown(bound)));
                }
            if let Some((bound, exclusive)) = rules.maximum
                && (found > bound || exclusive && found == bound) {
                    invalid(format!("should be less than {}{}", if exclusive { "" } else { "or equal to " }, shown(bound)));
                }
            if let Some(factor) = rules.multiple_of.filter(|factor| *factor > 0.0) {
                let quotient = found / factor;
                if (quotient - quotient.round()).abs() > 1e-9 {
                    invalid(format!("should be a multiple of {}", shown(factor)));
                }
            }
            let fits = match rules.format.as_deref() {
                Some("int32") => number.as_i64().map_or(number.is_f64(), |number| i32::try_from(number).is_ok()),
                Some("int64") => number.as_i64().is_some() || number.is_f64(),
                _ => true,
            };
            if !fits {
                invalid(format!("must be of type {}: {number}", rules.format.as_deref().unwrap_or_default()));
            }
        }
        Value::String(text) => {
            let characters = || text.chars().count() as u64;
            if let Some(least) = rules.min_length.filter(|least| characters() < *least) {
                invalid(format!("should be at least {least} chars long"));
            }
            if let Some(expression) = &rules.pattern
                && !pattern(expression).is_ok_and(|compiled| compiled.is_match(text)) {
                    invalid(format!("should match '{expression}'"));
                }
            if let Some(most) = rules.max_length.filter(|most| characters() > *most) {
                errors.push(FieldError {
                    kind: FieldErrorKind::TooLong,
                    path: path.clone(),
                    value: None,
                    detail: format!("may not be longer than {most}"),
                });
            }
            if let Some(format) = rules.format.as_deref().filter(|format| !formats::matches(format, text)) {
                errors.push(FieldError::type_invalid(path, text.as_str(), format!("{name} in body must be of type {format}: {text:?}")));
            }
        }
        Value::Array(list) => {
            if let Some(least) = rules.min_items.filter(|least| (list.len() as u64) < *least) {
                invalid(format!("should have at least {least} items"));
            }
            if rules.unique_items && list.iter().enumerate().any(|(index, value)| list.iter().take(index).any(|earlier| earlier == value)) {
                invalid("shouldn't contain duplicates".to_owned());
            }
            if let Some(most) = rules.max_items.filter(|most| list.len() as u64 > *most) {
                errors.push(FieldError::too_many(path, list.len(), usize::try_from(most).unwrap_or(usize::MAX)));
            }
        }
        Value::Object(map) => {
            if let Some(least) = rules.min_properties.filter(|least| (map.len() as u64) < *least) {
                invalid(format!("should have at least {least} properties"));
            }
            if let Some(most) = rules.max_properties.filter(|most| map.len() as u64 > *most) {
                errors.push(FieldError::too_many(path, map.len(), usize::try_from(most).unwrap_or(usize::MAX)));
            }
            for name in &rules.required {
                if !map.contains_key(&**name) {
                    errors.push(FieldError::required(&path.child(name), ""));
                }
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
    if !rules.one_of_values.is_empty() && !rules.one_of_values.iter().any(|one| same(one, value)) {
        let texts: Vec<String> = rules.one_of_values.iter().map(|one| one.as_str().map_or_else(|| one.to_string(), ToOwned::to_owned)).collect();
        errors.push(FieldError::not_supported(path, value.clone(), &texts));
    }
}

/// Numbers are the same whatever way they are written.
fn same(left: &Value, right: &Value) -> bool {
    left == right || left.is_number() && left.as_f64() == right.as_f64()
}

fn shown(number: f64) -> String {
    if number.fract() == 0.0 && number.abs() < 9e15 { format!("{}", number as i64) } else { format!("{number}") }
}
