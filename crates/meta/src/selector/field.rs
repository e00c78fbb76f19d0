//! Field selectors such as `metadata.name=web,status.phase!=Running`.
//!
//! Source: Kubernetes `apimachinery/pkg/fields`. Which fields a kind can be selected by is for its caller to check.

use std::fmt;

/// A conjunction of comparisons of fields with texts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

/// One comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldTerm {
    /// Path of the field, such as `spec.nodeName`.
    pub field: String,
    /// What it must be, or must not be.
    pub value: String,
    /// Whether it must differ.
    pub differs: bool,
}

impl FieldSelector {
    /// Selects everything.
    pub fn everything() -> Self {
        Self::default()
    }
    /// Selects where one field has one value.
    pub fn equals(field: &str, value: &str) -> Self {
        Self { terms: vec![FieldTerm { field: field.to_owned(), value: value.to_owned(), differs: false }] }
    }
    /// Reads a selector; `\\`, `\,` and `\=` stand for those characters in values.
    ///
    /// # Errors
    /// Upstream's sentence on what cannot be understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut terms = Vec::new();
        for part in split_terms(text) {
            if part.is_empty() {
                continue;
            }
            let Some((field, operator, value)) = split_operator(part) else {
                return Err(format!("invalid selector: '{text}'; can't understand '{part}'"));
            };
            terms.push(FieldTerm { field: field.to_owned(), value: unescape(value)?, differs: operator == "!=" });
        }
        Ok(Self { terms })
    }
    /// The comparisons.
    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }
    /// The fields it looks at, in order, perhaps more than once.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.terms.iter().map(|term| term.field.as_str())
    }
    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }
    /// The one value that a field must have, if it must.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|term| !term.differs && term.field == field).map(|term| term.value.as_str())
    }
    /// Whether an object fits, whose fields `lookup` gives. A field it does not have counts as empty.
    pub fn matches(&self, lookup: impl Fn(&str) -> Option<String>) -> bool {
        self.terms.iter().all(|term| (lookup(&term.field).unwrap_or_default() == term.value) != term.differs)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.terms.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let value = term.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(formatter, "{comma}{}{}{value}", term.field, if term.differs { "!=" } else { "=" })?;
        }
        Ok(())
    }
}

/// At commas that no backslash stands before.
fn split_terms(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (index, byte) in text.bytes().enumerate() {
        if escaped {
            escaped = false;
        } else if byte == b'\\' {
            escaped = true;
        } else if byte == b',' {
            parts.push(text.get(start..index).unwrap_or_default());
            start = index + 1;
        }
    }
    parts.push(text.get(start..).unwrap_or_default());
    parts
}

fn split_operator(part: &str) -> Option<(&str, &'static str, &str)> {
    for (index, _) in part.char_indices() {
        let rest = part.get(index..)?;
        for operator in ["!=", "==", "="] {
            if let Some(value) = rest.strip_prefix(operator) {
                return Some((part.get(..index)?, operator, value));
            }
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, String> {
    if !value.contains(['\\', ',', '=']) {
        return Ok(value.to_owned());
    }
    let mut plain = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some(next @ ('\\' | ',' | '=')) => plain.push(next),
                next => {
                    let sequence: String = std::iter::once('\\').chain(next).collect();
                    return Err(format!("invalid field selector: invalid escape sequence: {sequence}"));
                }
            },
            ',' | '=' => return Err(format!("invalid field selector: unescaped character in value: {character}")),
            other => plain.push(other),
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_are_compared_with_values() {
        let selector = FieldSelector::parse("metadata.name=web,status.phase!=Running,,spec.nodeName==").unwrap();
        assert_eq!(selector.fields().collect::<Vec<_>>(), ["metadata.name", "status.phase", "spec.nodeName"]);
        assert_eq!(selector.exact("metadata.name"), Some("web"));
        assert_eq!(selector.exact("status.phase"), None);
        let pod = |phase: &'static str| move |field: &str| match field {
            "metadata.name" => Some("web".to_owned()),
            "status.phase" => Some(phase.to_owned()),
            _ => None,
        };
        assert!(selector.matches(pod("Pending")));
        assert!(!selector.matches(pod("Running")));
        assert!(FieldSelector::parse("").unwrap().is_everything());
    }

    #[test]
    fn escapes_stand_for_separators() {
        let selector = FieldSelector::parse(r"reason=a\,b\=c\\d").unwrap();
        assert_eq!(selector.exact("reason"), Some(r"a,b=c\d"));
        assert_eq!(selector.to_string(), r"reason=a\,b\=c\\d");
    }

    #[test]
    fn nonsense_is_refused_in_upstreams_words() {
        assert_eq!(
            FieldSelector::parse("a=b,metadata.name").unwrap_err(),
            "invalid selector: 'a=b,metadata.name'; can't understand 'metadata.name'"
        );
        assert_eq!(FieldSelector::parse(r"a=\x").unwrap_err(), r"invalid field selector: invalid escape sequence: \x");
        assert_eq!(FieldSelector::parse("a=b=c").unwrap_err(), "invalid field selector: unescaped character in value: =");
        assert!(FieldSelector::parse("a=b\\").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            if let Ok(selector) = FieldSelector::parse(&text) {
                prop_assert_eq!(FieldSelector::parse(&selector.to_string()), Ok(selector));
            }
        }
    }
}
