//! The part of JSONPath that definitions use: columns, scale paths and selectable fields.
//!
//! Fields (`.spec.size`, `['a.b']`, `\.` for a dot in a name), indexes (`[0]`, `[-1]`), everything (`[*]`, `.*`), and filters
//! that compare a field with a constant (`[?(@.type=="Ready")]`). Source: the Kubernetes page "JSONPath Support".

use serde_json::Value;

/// A parsed path.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    Filter(Filter),
}

#[derive(Debug, Clone, PartialEq)]
struct Filter {
    of: JsonPath,
    /// None asks only whether the field is there.
    compare: Option<(Comparison, Value)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

const COMPARISONS: [(&str, Comparison); 6] = [
    ("==", Comparison::Equal),
    ("!=", Comparison::NotEqual),
    ("<=", Comparison::LessOrEqual),
    (">=", Comparison::GreaterOrEqual),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
];

impl JsonPath {
    /// Reads a path. It begins with a dot or a bracket, as columns write it.
    ///
    /// # Errors
    /// A sentence on what cannot be read.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let text = text.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')).unwrap_or(text);
        let mut rest = text.strip_prefix(['$', '@']).unwrap_or(text);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(inside) = rest.strip_prefix('[') {
                let end = bracket_end(inside).ok_or_else(|| format!("unterminated array in {text:?}"))?;
                steps.push(bracket(inside.get(..end).unwrap_or_default().trim())?);
                rest = inside.get(end + 1..).unwrap_or_default();
            } else if let Some(after) = rest.strip_prefix('.') {
                if after.starts_with('.') {
                    return Err(format!("{text:?}: recursive descent is not supported here"));
                }
                let (name, remaining) = field_name(after);
                rest = remaining;
                match name.as_str() {
                    "*" => steps.push(Step::All),
                    "" if rest.starts_with('[') => {}
                    "" if rest.is_empty() && steps.is_empty() => {}
                    "" => return Err(format!("{text:?} has an empty field name")),
                    _ => steps.push(Step::Field(name)),
                }
            } else {
                return Err(format!("unrecognized character in {text:?}: a path begins with a dot"));
            }
        }
        Ok(Self(steps))
    }
    /// The names of the fields, where it is made of nothing else.
    pub fn simple(&self) -> Option<Vec<&str>> {
        self.0.iter().map(|step| if let Step::Field(name) = step { Some(name.as_str()) } else { None }).collect()
    }
    /// Every value it leads to, in order.
    pub fn find<'a>(&self, root: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![root];
        for step in &self.0 {
            found = found.into_iter().flat_map(|value| step.follow(value)).collect();
        }
        found
    }
}

impl Step {
    fn follow<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match (self, value) {
            (Self::Field(name), Value::Object(map)) => map.get(name).into_iter().collect(),
            (Self::Index(index), Value::Array(list)) => {
                let length = i64::try_from(list.len()).unwrap_or(i64::MAX);
                let place = if *index < 0 { length + *index } else { *index };
                usize::try_from(place).ok().and_then(|place| list.get(place)).into_iter().collect()
            }
            (Self::All, Value::Array(list)) => list.iter().collect(),
            (Self::All, Value::Object(map)) => map.values().collect(),
            (Self::Filter(filter), Value::Array(list)) => list.iter().filter(|value| filter.matches(value)).collect(),
            (Self::Filter(filter), Value::Object(map)) => map.values().filter(|value| filter.matches(value)).collect(),
            _ => Vec::new(),
        }
    }
}

impl Filter {
    fn matches(&self, value: &Value) -> bool {
        let found = self.of.find(value);
        let Some((comparison, wanted)) = &self.compare else { return !found.is_empty() };
        let Some(found) = found.first() else { return false };
        let order = match (found.as_f64(), wanted.as_f64()) {
            (Some(left), Some(right)) => left.partial_cmp(&right),
            _ => match (found.as_str(), wanted.as_str()) {
                (Some(left), Some(right)) => Some(left.cmp(right)),
                _ => (*found == wanted).then_some(std::cmp::Ordering::Equal),
            },
        };
        match comparison {
            Comparison::Equal => order.is_some_and(std::cmp::Ordering::is_eq),
            Comparison::NotEqual => !order.is_some_and(std::cmp::Ordering::is_eq),
            Comparison::Less => order.is_some_and(std::cmp::Ordering::is_lt),
            Comparison::LessOrEqual => order.is_some_and(std::cmp::Ordering::is_le),
            Comparison::Greater => order.is_some_and(std::cmp::Ordering::is_gt),
            Comparison::GreaterOrEqual => order.is_some_and(std::cmp::Ordering::is_ge),
        }
    }
}

/// A name up to the next dot or bracket; a backslash takes what follows it as it is.
fn field_name(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut characters = text.char_indices();
    while let Some((place, character)) = characters.next() {
        match character {
            '.' | '[' => return (name, text.get(place..).unwrap_or_default()),
            '\\' => name.extend(characters.next().map(|(_, escaped)| escaped)),
            _ => name.push(character),
        }
    }
    (name, "")
}

/// Where the bracket closes, with quotes and inner brackets passed over.
fn bracket_end(inside: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut quote = None;
    for (place, character) in inside.char_indices() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(character),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(place),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn unquoted(text: &str) -> Option<&str> {
    ['\'', '"'].into_iter().find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote))
}

fn bracket(inside: &str) -> Result<Step, String> {
    if inside == "*" {
        return Ok(Step::All);
    }
    if let Some(name) = unquoted(inside) {
        return Ok(Step::Field(name.to_owned()));
    }
    if let Some(condition) = inside.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) {
        return filter(condition.trim()).map(Step::Filter);
    }
    inside.parse().map(Step::Index).map_err(|_| format!("invalid array index {inside}"))
}

fn filter(condition: &str) -> Result<Filter, String> {
    let mut quote = None;
    for (place, character) in condition.char_indices() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(character),
            (None, _) => {
                let rest = condition.get(place..).unwrap_or_default();
                let Some((sign, comparison)) = COMPARISONS.iter().find(|(sign, _)| rest.starts_with(sign)) else { continue };
                let left = condition.get(..place).unwrap_or_default().trim();
                let right = rest.get(sign.len()..).unwrap_or_default().trim();
                let constant = match unquoted(right) {
                    Some(text) => Value::String(text.to_owned()),
                    None => serde_json::from_str(right).map_err(|_| format!("{right:?} is no constant"))?,
                };
                return Ok(Filter { of: JsonPath::parse(left)?, compare: Some((*comparison, constant)) });
            }
        }
    }
    Ok(Filter { of: JsonPath::parse(condition)?, compare: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(path: &str, expected: &Value) {
        let object = json!({
            "metadata": {"labels": {"example.com/tier": "front"}},
            "spec": {"size": 3, "names": ["a", "b", "c"]},
            "status": {"conditions": [{"type": "Ready", "status": "True", "n": 1}, {"type": "Other", "status": "False", "n": 5}]},
        });
        let found: Vec<Value> = JsonPath::parse(path).unwrap().find(&object).into_iter().cloned().collect();
        assert_eq!(Value::Array(found), *expected, "{path}");
    }

    #[test]
    fn columns_find_fields_elements_and_conditions() {
        check(".spec.size", &json!([3]));
        check(".spec.names[1]", &json!(["b"]));
        check(".spec.names[-1]", &json!(["c"]));
        check(".spec.names[*]", &json!(["a", "b", "c"]));
        check(".spec.absent.deeper", &json!([]));
        check(r".metadata.labels.example\.com/tier", &json!(["front"]));
        check(".metadata.labels['example.com/tier']", &json!(["front"]));
        check(r#".status.conditions[?(@.type=="Ready")].status"#, &json!(["True"]));
        check(".status.conditions[?(@.type != 'Ready')].status", &json!(["False"]));
        check(".status.conditions[?(@.n>1)].type", &json!(["Other"]));
        check("{.spec.size}", &json!([3]));
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for text in ["spec", ".spec[", ".spec[a]", ".a..b", ".spec.", ".a[?(@.b==c)]"] {
            assert!(JsonPath::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_plain_field_paths_are_simple() {
        assert_eq!(JsonPath::parse(".spec.color").unwrap().simple(), Some(vec!["spec", "color"]));
        assert_eq!(JsonPath::parse(".spec.list[0]").unwrap().simple(), None);
    }
}
