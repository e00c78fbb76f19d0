//! Forms of names: DNS labels and subdomains, label keys and values, path segments.

use super::{pattern_problem, too_long};

/// Which form a kind's names must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NameRule {
    /// Lower-case words separated by dots, at most 253 characters: most kinds.
    Dns1123Subdomain,
    /// A lower-case word, at most 63 characters: Namespaces.
    Dns1123Label,
    /// A lower-case word that starts with a letter, at most 63 characters: Services.
    Dns1035Label,
    /// Anything that can stand in a URL's path: RBAC kinds.
    PathSegment,
    /// Anything: what custom code checks.
    Any,
}

impl NameRule {
    /// What is wrong with a name; `prefix` says that more characters will follow (`generateName`).
    pub fn problems(self, name: &str, prefix: bool) -> Vec<String> {
        let masked;
        let name = if prefix && self != Self::PathSegment {
            masked = mask_trailing_dash(name);
            masked.as_str()
        } else {
            name
        };
        match self {
            Self::Dns1123Subdomain => dns1123_subdomain_problems(name),
            Self::Dns1123Label => dns1123_label_problems(name),
            Self::Dns1035Label => dns1035_label_problems(name),
            Self::PathSegment if prefix => path_segment_prefix_problems(name),
            Self::PathSegment => path_segment_problems(name),
            Self::Any => Vec::new(),
        }
    }
}

/// A prefix may end in a dash, since more follows.
fn mask_trailing_dash(name: &str) -> String {
    match name.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => format!("{rest}a"),
        _ => name.to_owned(),
    }
}

/// No problem ever, for [`NameRule::Any`].
pub fn any_name_problems(_name: &str) -> Vec<String> {
    Vec::new()
}

const LABEL_PATTERN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
const SUBDOMAIN_PATTERN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
const UNDERSCORE_PATTERN: &str = r"_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*";
const UNDERSCORE_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character";
const WILDCARD_PATTERN: &str = r"\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const WILDCARD_MESSAGE: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character";
const DNS1035_PATTERN: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const DNS1035_MESSAGE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
const KEY_PATTERN: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const KEY_MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const VALUE_PATTERN: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const VALUE_MESSAGE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

fn lower_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// Whether the ends fulfil one rule and everything another.
fn shaped(text: &str, ends: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => ends(*first) && ends(*last) && bytes.iter().all(|byte| inner(*byte)),
        _ => false,
    }
}

fn is_label(text: &str) -> bool {
    shaped(text, lower_alphanumeric, |byte| lower_alphanumeric(byte) || byte == b'-')
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

fn is_key_name(text: &str) -> bool {
    shaped(text, |byte| byte.is_ascii_alphanumeric(), |byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// RFC 1123 label.
pub fn dns1123_label_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > 63 {
        problems.push(too_long(63));
    }
    if !is_label(text) {
        problems.push(if is_subdomain(text) {
            "must not contain dots".to_owned()
        } else {
            pattern_problem(LABEL_MESSAGE, LABEL_PATTERN, &["my-name", "123-abc"])
        });
    }
    problems
}

/// RFC 1123 subdomain.
pub fn dns1123_subdomain_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > 253 {
        problems.push(too_long(253));
    }
    if !is_subdomain(text) {
        problems.push(pattern_problem(SUBDOMAIN_MESSAGE, SUBDOMAIN_PATTERN, &["example.com"]));
    }
    problems
}

/// RFC 1123 subdomain whose words may hold underscores.
pub fn dns1123_subdomain_with_underscore_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > 253 {
        problems.push(too_long(253));
    }
    let word = |word: &str| {
        shaped(word.strip_prefix('_').unwrap_or(word), lower_alphanumeric, |byte| lower_alphanumeric(byte) || b"-_".contains(&byte))
    };
    if !text.split('.').all(word) {
        problems.push(pattern_problem(UNDERSCORE_MESSAGE, UNDERSCORE_PATTERN, &["example.com"]));
    }
    problems
}

/// `*.` and an RFC 1123 subdomain.
pub fn wildcard_dns1123_subdomain_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > 253 {
        problems.push(too_long(253));
    }
    if !text.strip_prefix("*.").is_some_and(is_subdomain) {
        problems.push(pattern_problem(WILDCARD_MESSAGE, WILDCARD_PATTERN, &["*.example.com"]));
    }
    problems
}

/// RFC 1035 label.
pub fn dns1035_label_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > 63 {
        problems.push(too_long(63));
    }
    if !(is_label(text) && text.starts_with(|first: char| first.is_ascii_lowercase())) {
        problems.push(pattern_problem(DNS1035_MESSAGE, DNS1035_PATTERN, &["my-name", "abc-123"]));
    }
    problems
}

/// Keys of labels, names of finalizers, conditions and so on: a name with an optional domain before a slash.
pub fn qualified_name_problems(text: &str) -> Vec<String> {
    const EXAMPLES: &[&str] = &["MyName", "my.name", "123-abc"];
    let mut problems = Vec::new();
    let name = match text.split_once('/') {
        None => text,
        Some((_, name)) if name.contains('/') => {
            let pattern = pattern_problem(KEY_MESSAGE, KEY_PATTERN, EXAMPLES);
            return vec![format!("a valid label key {pattern} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')")];
        }
        Some((prefix, name)) => {
            if prefix.is_empty() {
                problems.push("prefix part must be non-empty".to_owned());
            } else {
                problems.extend(dns1123_subdomain_problems(prefix).into_iter().map(|problem| format!("prefix part {problem}")));
            }
            name
        }
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        problems.push(format!("name part {}", too_long(63)));
    }
    if !is_key_name(name) {
        problems.push(format!("name part {}", pattern_problem(KEY_MESSAGE, KEY_PATTERN, EXAMPLES)));
    }
    problems
}

/// Values of labels.
pub fn label_value_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > 63 {
        problems.push(too_long(63));
    }
    if !(text.is_empty() || is_key_name(text)) {
        problems.push(pattern_problem(VALUE_MESSAGE, VALUE_PATTERN, &["MyValue", "my_value", "12345"]));
    }
    problems
}

/// A whole segment of a URL's path.
pub fn path_segment_problems(text: &str) -> Vec<String> {
    match text {
        "." | ".." => vec![format!("may not be '{text}'")],
        _ => path_segment_prefix_problems(text),
    }
}

/// The start of a segment of a URL's path.
fn path_segment_prefix_problems(text: &str) -> Vec<String> {
    ["/", "%"].into_iter().filter(|sign| text.contains(sign)).map(|sign| format!("may not contain '{sign}'")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn good(rule: fn(&str) -> Vec<String>, names: &[&str]) {
        for name in names {
            assert_eq!(rule(name), Vec::<String>::new(), "{name:?}");
        }
    }

    #[track_caller]
    fn bad(rule: fn(&str) -> Vec<String>, names: &[&str]) {
        for name in names {
            assert!(!rule(name).is_empty(), "{name:?}");
        }
    }

    #[test]
    fn names_have_their_forms() {
        good(dns1123_label_problems, &["a", "0", "a-b", "a1", &"a".repeat(63)]);
        bad(dns1123_label_problems, &["", "A", "-a", "a-", "a.b", "a_b", "ä", &"a".repeat(64)]);
        good(dns1123_subdomain_problems, &["a", "a.b", "0.a-b.c"]);
        bad(dns1123_subdomain_problems, &["", ".", "a..b", "a.", ".a", "a.-b", &"a".repeat(254)]);
        good(dns1035_label_problems, &["a", "a-1"]);
        bad(dns1035_label_problems, &["1a", "a.b", "", "a-"]);
        good(qualified_name_problems, &["a", "A.b_c-d", "example.com/Name", "1"]);
        bad(qualified_name_problems, &["", "/", "a/", "/a", "a/b/c", "Ex.com/a", "-a", "a b", &"a".repeat(64)]);
        good(label_value_problems, &["", "a", "A.b_c-d"]);
        bad(label_value_problems, &["-", "a b", "a/b", &"a".repeat(64)]);
        good(path_segment_problems, &["system:node", "...", ""]);
        bad(path_segment_problems, &[".", "..", "a/b", "a%20"]);
        good(wildcard_dns1123_subdomain_problems, &["*.a", "*.a.b"]);
        bad(wildcard_dns1123_subdomain_problems, &["*", "a", "*.*.a", "*a.b"]);
        good(dns1123_subdomain_with_underscore_problems, &["_a.b_c", "a"]);
        bad(dns1123_subdomain_with_underscore_problems, &["_", "a_", "__a"]);
    }

    #[test]
    fn messages_are_upstreams() {
        assert_eq!(
            dns1123_subdomain_problems("Web"),
            ["a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"]
        );
        assert_eq!(
            dns1035_label_problems("1"),
            ["a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"]
        );
        assert_eq!(dns1123_label_problems("a.b"), ["must not contain dots"]);
    }

    #[test]
    fn a_name_to_be_completed_may_end_in_a_dash() {
        assert!(NameRule::Dns1123Subdomain.problems("web-", true).is_empty());
        assert!(!NameRule::Dns1123Subdomain.problems("web-", false).is_empty());
        assert!(!NameRule::Dns1123Subdomain.problems("-", true).is_empty());
        assert!(NameRule::PathSegment.problems(".", true).is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_judged(text in ".*") {
            for rule in [NameRule::Dns1123Subdomain, NameRule::Dns1123Label, NameRule::Dns1035Label, NameRule::PathSegment] {
                let _ = (rule.problems(&text, true), rule.problems(&text, false));
            }
            let _ = (qualified_name_problems(&text), label_value_problems(&text));
        }
    }
}
