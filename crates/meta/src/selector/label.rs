//! Label selectors: the one-line form of kubectl and query parameters, and the `LabelSelector` type of the API.
//!
//! Source: Kubernetes `apimachinery/pkg/labels` and `apis/meta/v1` (`LabelSelectorAsSelector`); texts are theirs.

use std::{collections::BTreeMap, fmt};

use serde_json::{Map, Value};

use crate::{
    field::{FieldError, FieldPath},
    validation::{label_value_problems, qualified_name_problems},
};

/// A conjunction of requirements on labels, or one that selects nothing at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelSelector {
    /// Sorted by key.
    requirements: Vec<Requirement>,
    nothing: bool,
}

/// One requirement on one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// What its value must be.
    pub operator: Operator,
    /// What it is compared with.
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the operator of that name")]
pub enum Operator {
    In,
    NotIn,
    Equals,
    DoubleEquals,
    NotEquals,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

impl Requirement {
    /// A checked requirement.
    ///
    /// # Errors
    /// What is wrong with key or values, as upstream says it.
    pub fn new(key: &str, operator: Operator, values: Vec<String>) -> Result<Self, String> {
        let mut errors = Vec::new();
        let problems = qualified_name_problems(key);
        if !problems.is_empty() {
            errors.push(FieldError::invalid(&FieldPath::new("key"), key, problems.join("; ")));
        }
        let path = FieldPath::new("values");
        let shown = || Value::from(values.clone());
        let wrong = match operator {
            Operator::In | Operator::NotIn => values.is_empty().then_some("for 'in', 'notin' operators, values set can't be empty"),
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals => {
                (values.len() != 1).then_some("exact-match compatibility requires one single value")
            }
            Operator::Exists | Operator::DoesNotExist => {
                (!values.is_empty()).then_some("values set must be empty for exists and does not exist")
            }
            Operator::GreaterThan | Operator::LessThan => {
                (values.len() != 1).then_some("for 'Gt', 'Lt' operators, exactly one value is required")
            }
        };
        if let Some(detail) = wrong {
            errors.push(FieldError::invalid(&path, shown(), detail));
        }
        for (index, value) in values.iter().enumerate() {
            if matches!(operator, Operator::GreaterThan | Operator::LessThan) && value.parse::<i64>().is_err() {
                errors.push(FieldError::invalid(
                    &path.index(index),
                    value.as_str(),
                    "for 'Gt', 'Lt' operators, the value must be an integer",
                ));
            }
            let problems = label_value_problems(value);
            if !problems.is_empty() {
                errors.push(FieldError::invalid(&path.index(index).key(key), value.as_str(), problems.join("; ")));
            }
        }
        let mut texts: Vec<String> = Vec::new();
        for error in errors {
            let text = error.to_string();
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        match texts.as_slice() {
            [] => Ok(Self { key: key.to_owned(), operator, values }),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }

    /// Whether a label's value fits; `None` for a label that is absent.
    pub fn matches(&self, value: Option<&str>) -> bool {
        match (self.operator, value) {
            (Operator::Exists, value) => value.is_some(),
            (Operator::DoesNotExist, value) => value.is_none(),
            (Operator::NotIn | Operator::NotEquals, None) => true,
            (_, None) => false,
            (Operator::In | Operator::Equals | Operator::DoubleEquals, Some(value)) => self.values.iter().any(|one| one == value),
            (Operator::NotIn | Operator::NotEquals, Some(value)) => !self.values.iter().any(|one| one == value),
            (Operator::GreaterThan | Operator::LessThan, Some(value)) => {
                let wanted = self.values.first().and_then(|wanted| wanted.parse::<i64>().ok());
                match (value.parse::<i64>(), wanted) {
                    (Ok(value), Some(wanted)) if self.operator == Operator::GreaterThan => value > wanted,
                    (Ok(value), Some(wanted)) => value < wanted,
                    _ => false,
                }
            }
        }
    }
}

impl LabelSelector {
    /// Selects everything.
    pub fn everything() -> Self {
        Self::default()
    }
    /// Selects nothing.
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }
    /// Selects what has all of these labels; unchecked, for maps such as a Service's selector. No labels select everything.
    pub fn from_labels(labels: &Map<String, Value>) -> Self {
        let requirements = labels
            .iter()
            .map(|(key, value)| Requirement {
                key: key.clone(),
                operator: Operator::Equals,
                values: vec![value.as_str().unwrap_or_default().to_owned()],
            })
            .collect();
        Self::of(requirements)
    }
    /// From checked requirements.
    pub fn of(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|left, right| left.key.cmp(&right.key));
        Self { requirements, nothing: false }
    }
    /// Reads the one-line form.
    ///
    /// # Errors
    /// Upstream's sentence on what was found and what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        Parser { tokens: tokens(text), position: 0 }.selector().map(Self::of)
    }
    /// From a `metav1.LabelSelector`; `null` selects nothing, an empty one everything.
    ///
    /// # Errors
    /// What is wrong with a requirement.
    pub fn from_json(selector: &Value) -> Result<Self, String> {
        if selector.is_null() {
            return Ok(Self::nothing());
        }
        let mut requirements = Vec::new();
        for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            requirements.push(Requirement::new(key, Operator::Equals, vec![value.as_str().unwrap_or_default().to_owned()])?);
        }
        for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let text = |name: &str| expression.get(name).and_then(Value::as_str).unwrap_or_default();
            let operator = match text("operator") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(format!("{other:?} is not a valid label selector operator")),
            };
            let values = expression.get("values").and_then(Value::as_array).into_iter().flatten();
            let values = values.map(|value| value.as_str().unwrap_or_default().to_owned()).collect();
            requirements.push(Requirement::new(text("key"), operator, values)?);
        }
        Ok(Self::of(requirements))
    }
    /// The requirements, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }
    /// Whether it selects nothing.
    pub fn is_nothing(&self) -> bool {
        self.nothing
    }
    /// The one value a label must have, if it must.
    pub fn requires(&self, key: &str) -> Option<&str> {
        let requirement = self.requirements.iter().find(|requirement| requirement.key == key)?;
        match (requirement.operator, requirement.values.as_slice()) {
            (Operator::Equals | Operator::DoubleEquals | Operator::In, [value]) => Some(value),
            _ => None,
        }
    }
    /// Whether labels fit that `lookup` gives.
    pub fn matches<'a>(&self, lookup: &dyn Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|requirement| requirement.matches(lookup(&requirement.key)))
    }
    /// Whether an object's `metadata.labels` fit.
    pub fn matches_labels(&self, labels: Option<&Map<String, Value>>) -> bool {
        self.matches(&|key| labels?.get(key)?.as_str())
    }
    /// Whether these labels fit.
    pub fn matches_map(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches(&|key| labels.get(key).map(String::as_str))
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                formatter.write_str(",")?;
            }
            write!(formatter, "{requirement}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut values: Vec<&str> = self.values.iter().map(String::as_str).collect();
        values.sort_unstable();
        let (key, values) = (&self.key, values.join(","));
        match self.operator {
            Operator::Exists => write!(formatter, "{key}"),
            Operator::DoesNotExist => write!(formatter, "!{key}"),
            Operator::In => write!(formatter, "{key} in ({values})"),
            Operator::NotIn => write!(formatter, "{key} notin ({values})"),
            Operator::Equals => write!(formatter, "{key}={values}"),
            Operator::DoubleEquals => write!(formatter, "{key}=={values}"),
            Operator::NotEquals => write!(formatter, "{key}!={values}"),
            Operator::GreaterThan => write!(formatter, "{key}>{values}"),
            Operator::LessThan => write!(formatter, "{key}<{values}"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    End,
    Close,
    Open,
    Comma,
    Not,
    Compare(Operator),
    /// `in` and `notin` are operators only where one is expected.
    Word(Option<Operator>),
}

/// Tokens with their texts; the last is [`Token::End`].
fn tokens(text: &str) -> Vec<(Token, String)> {
    const SPECIAL: &[char] = &['=', '!', '(', ')', ',', '>', '<'];
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        if rest.is_empty() || rest.starts_with('\0') {
            tokens.push((Token::End, String::new()));
            return tokens;
        }
        let special = [
            ("==", Token::Compare(Operator::DoubleEquals)),
            ("!=", Token::Compare(Operator::NotEquals)),
            ("=", Token::Compare(Operator::Equals)),
            ("!", Token::Not),
            ("(", Token::Open),
            (")", Token::Close),
            (",", Token::Comma),
            (">", Token::Compare(Operator::GreaterThan)),
            ("<", Token::Compare(Operator::LessThan)),
        ];
        if let Some((sign, token)) = special.into_iter().find(|(sign, _)| rest.starts_with(sign)) {
            rest = rest.get(sign.len()..).unwrap_or_default();
            tokens.push((token, sign.to_owned()));
            continue;
        }
        let end = rest.find(|character: char| SPECIAL.contains(&character) || " \t\r\n\0".contains(character)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after;
        let keyword = match word {
            "in" => Some(Operator::In),
            "notin" => Some(Operator::NotIn),
            _ => None,
        };
        tokens.push((Token::Word(keyword), word.to_owned()));
    }
}

struct Parser {
    tokens: Vec<(Token, String)>,
    position: usize,
}

impl Parser {
    fn peek(&self) -> (Token, String) {
        self.tokens.get(self.position).cloned().unwrap_or((Token::End, String::new()))
    }
    fn take(&mut self) -> (Token, String) {
        let token = self.peek();
        self.position += 1;
        token
    }

    fn selector(&mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        loop {
            let (token, text) = self.peek();
            match token {
                Token::End => return Ok(requirements),
                Token::Word(_) | Token::Not => {}
                _ => return Err(format!("found '{text}', expected: !, identifier, or 'end of string'")),
            }
            requirements.push(self.requirement().map_err(|error| format!("unable to parse requirement: {error}"))?);
            match self.take() {
                (Token::End, _) => return Ok(requirements),
                (Token::Comma, _) => {
                    let (token, text) = self.peek();
                    if !matches!(token, Token::Word(_) | Token::Not) {
                        return Err(format!("found '{text}', expected: identifier after ','"));
                    }
                }
                (_, text) => return Err(format!("found '{text}', expected: ',' or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let mut token = self.take();
        let negated = token.0 == Token::Not;
        if negated {
            token = self.take();
        }
        let (Token::Word(_), key) = token else {
            return Err(format!("found '{}', expected: identifier", token.1));
        };
        let problems = qualified_name_problems(&key);
        if !problems.is_empty() {
            return Err(FieldError::invalid(&FieldPath::root(), key, problems.join("; ")).to_string());
        }
        if negated {
            return Requirement::new(&key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Requirement::new(&key, Operator::Exists, Vec::new());
        }
        let operator = match self.take() {
            (Token::Compare(operator) | Token::Word(Some(operator)), _) => operator,
            (_, text) => return Err(format!("found '{text}', expected: in, notin, =, ==, !=, gt, lt")),
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.value()?],
        };
        Requirement::new(&key, operator, values)
    }

    fn value(&mut self) -> Result<String, String> {
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.take() {
            (Token::Word(_), value) => Ok(value),
            (_, text) => Err(format!("found '{text}', expected: identifier")),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        let (token, text) = self.take();
        if token != Token::Open {
            return Err(format!("found '{text}' expected: '('"));
        }
        let mut values: Vec<String> = Vec::new();
        let mut insert = |value: String| {
            if !values.contains(&value) {
                values.push(value);
            }
        };
        let (first, text) = self.peek();
        match first {
            Token::Close => insert(String::new()),
            Token::Word(_) | Token::Comma => {}
            _ => return Err(format!("found '{text}', expected: ',', ')' or identifier")),
        }
        // A comma with nothing before or behind it stands for the empty value.
        let mut pending = true;
        loop {
            match self.take() {
                (Token::Word(_), value) => {
                    insert(value);
                    pending = false;
                    let (next, text) = self.peek();
                    if !matches!(next, Token::Comma | Token::Close) {
                        return Err(format!("found '{text}', expected: ',' or ')'"));
                    }
                }
                (Token::Comma, _) => {
                    if pending {
                        insert(String::new());
                    }
                    pending = true;
                }
                (Token::Close, _) => {
                    if pending {
                        insert(String::new());
                    }
                    values.sort_unstable();
                    return Ok(values);
                }
                (_, text) => return Err(format!("found '{text}', expected: ',', or identifier")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(selector: &str, labels: &[(&str, &str)], fits: bool) {
        let labels: BTreeMap<String, String> = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        assert_eq!(LabelSelector::parse(selector).unwrap().matches_map(&labels), fits, "{selector} on {labels:?}");
    }

    #[test]
    fn labels_fit_or_do_not() {
        check("", &[], true);
        check("a", &[("a", "")], true);
        check("a", &[], false);
        check("!a", &[], true);
        check("! a", &[("a", "1")], false);
        check("a=1", &[("a", "1")], true);
        check("a==1,b!=2", &[("a", "1")], true);
        check("a=", &[("a", "")], true);
        check("a=,b", &[("a", ""), ("b", "x")], true);
        check("a!=1", &[("a", "1")], false);
        check("a in (1,2)", &[("a", "2")], true);
        check("a in (1, 2),b", &[("a", "2")], false);
        check("a notin (1,2)", &[], true);
        check("a notin (1,2)", &[("a", "1")], false);
        check("a in ()", &[("a", "")], true);
        check("a in (,1)", &[("a", "")], true);
        check("a in (1,)", &[("a", "")], true);
        check("a in (1)", &[("a", "")], false);
        check("a>3", &[("a", "4")], true);
        check("a < 3", &[("a", "4")], false);
        check("a>3", &[("a", "x")], false);
        check("in in (in,notin)", &[("in", "notin")], true);
        check("example.com/app=web", &[("example.com/app", "web")], true);
    }

    #[track_caller]
    fn refused(selector: &str, text: &str) {
        assert_eq!(LabelSelector::parse(selector).unwrap_err(), text, "of {selector:?}");
    }

    #[test]
    fn nonsense_is_refused_in_upstreams_words() {
        refused("a,", "found '', expected: identifier after ','");
        refused(",a", "found ',', expected: !, identifier, or 'end of string'");
        refused("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt");
        refused("a=b c", "found 'c', expected: ',' or 'end of string'");
        refused("a in b", "unable to parse requirement: found 'b' expected: '('");
        refused("a in (b c)", "unable to parse requirement: found 'c', expected: ',' or ')'");
        refused("a in (b", "unable to parse requirement: found '', expected: ',' or ')'");
        refused("a=(", "unable to parse requirement: found '(', expected: identifier");
        refused("a>x", "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer");
        assert!(LabelSelector::parse("-a=b").unwrap_err().starts_with("unable to parse requirement: <nil>: Invalid value: \"-a\": name part must"));
        assert!(LabelSelector::parse("a=b_").unwrap_err().starts_with("unable to parse requirement: values[0][a]: Invalid value: \"b_\": a valid label"));
    }

    #[test]
    fn the_json_form_selects_the_same() {
        let selector = LabelSelector::from_json(&json!({
            "matchLabels": {"a": "1"},
            "matchExpressions": [{"key": "b", "operator": "In", "values": ["x", "y"]}, {"key": "c", "operator": "DoesNotExist"}]
        }))
        .unwrap();
        assert_eq!(selector.to_string(), "a=1,b in (x,y),!c");
        assert_eq!(selector, LabelSelector::parse("!c,b in (y,x),a=1").unwrap());
        assert_eq!(selector.requires("a"), Some("1"));
        assert_eq!(selector.requires("b"), None);
        assert!(LabelSelector::from_json(&json!({})).unwrap().is_everything());
        assert!(!LabelSelector::from_json(&Value::Null).unwrap().matches_labels(None));
        assert_eq!(
            LabelSelector::from_json(&json!({"matchExpressions": [{"key": "b", "operator": "Is"}]})).unwrap_err(),
            "\"Is\" is not a valid label selector operator"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "([a-c=!<>(), ]|in|notin|\\PC){0,20}") {
            if let Ok(selector) = LabelSelector::parse(&text) {
                prop_assert_eq!(LabelSelector::parse(&selector.to_string()), Ok(selector));
            }
        }
    }
}
