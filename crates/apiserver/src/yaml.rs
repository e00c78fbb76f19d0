//! YAML that readers of YAML 1.1 understand as well, of which there are many: Go's and Python's among them.
//!
//! For those, `yes`, `on` and `2026-01-01` are no texts, so every text that is more than plain words is quoted, as upstream's writer does it.
//! Source: Kubernetes 1.36, `sigs.k8s.io/yaml`, and YAML 1.1, "Language-Independent Types".

use std::fmt::Write;

use serde_json::{Map, Value};

/// A document of block style, its keys in the order that they have.
pub fn write(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => mapping(&mut out, map, 0),
        Value::Array(list) if !list.is_empty() => sequence(&mut out, list, 0),
        other => {
            scalar(&mut out, other, 1);
            out.push('\n');
        }
    }
    out
}

/// Longest key that stands before its colon on one line.
const LONGEST_SIMPLE_KEY: usize = 128;

fn indent(out: &mut String, depth: usize) {
    for _ in 0..depth {
        out.push_str("  ");
    }
}

/// Members, each on lines of its own. The first one goes on where the line stands.
fn mapping(out: &mut String, map: &Map<String, Value>, depth: usize) {
    for (index, (key, value)) in map.iter().enumerate() {
        if index > 0 {
            indent(out, depth);
        }
        if key.len() > LONGEST_SIMPLE_KEY {
            out.push_str("? ");
            out.push_str(&quoted(key));
            out.push('\n');
            indent(out, depth);
        } else if is_plain(key) {
            out.push_str(key);
        } else {
            out.push_str(&quoted(key));
        }
        out.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                indent(out, depth + 1);
                mapping(out, inner, depth + 1);
            }
            // Lists are as deep as their keys.
            Value::Array(inner) if !inner.is_empty() => {
                out.push('\n');
                indent(out, depth);
                sequence(out, inner, depth);
            }
            other => {
                out.push(' ');
                scalar(out, other, depth + 1);
                out.push('\n');
            }
        }
    }
}

/// Items, each on lines of its own. The first one goes on where the line stands.
fn sequence(out: &mut String, list: &[Value], depth: usize) {
    for (index, value) in list.iter().enumerate() {
        if index > 0 {
            indent(out, depth);
        }
        out.push_str("- ");
        match value {
            Value::Object(inner) if !inner.is_empty() => mapping(out, inner, depth + 1),
            Value::Array(inner) if !inner.is_empty() => sequence(out, inner, depth + 1),
            other => {
                scalar(out, other, depth + 1);
                out.push('\n');
            }
        }
    }
}

/// What stands on one line, or a block of lines that are `depth` deep; without the last line's end.
fn scalar(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::String(text) if is_plain(text) => out.push_str(text),
        Value::String(text) if is_block(text) => block(out, text, depth),
        Value::String(text) => out.push_str(&quoted(text)),
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
        Value::Null | Value::Bool(_) | Value::Number(_) => {
            // Writing to a String does not fail.
            let _ = write!(out, "{value}");
        }
    }
}

/// Words that are something else than texts, in lower case. Source: <https://yaml.org/type/bool.html> and `null.html`.
const NO_TEXTS: [&str; 10] = ["y", "yes", "n", "no", "true", "false", "on", "off", "null", "nan"];

/// Whether a text is one without quotes, for every reader.
fn is_plain(text: &str) -> bool {
    let begins = text.starts_with(|first: char| first.is_ascii_alphabetic() || matches!(first, '/' | '_'));
    let is_usual = |character: char| character.is_ascii_alphanumeric() || matches!(character, ' ' | '_' | '-' | '.' | '/' | ':' | '+' | '@' | '=' | ',' | '(' | ')' | ';' | '$');
    begins
        && text.chars().all(is_usual)
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !NO_TEXTS.contains(&text.to_ascii_lowercase().as_str())
}

fn is_printable(character: char) -> bool {
    !character.is_control() && !matches!(character, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

/// Whether a text of several lines can stand as it is.
fn is_block(text: &str) -> bool {
    text.contains('\n') && !text.starts_with([' ', '\n', '\t']) && text.chars().all(|character| matches!(character, '\n' | '\t') || is_printable(character))
}

fn block(out: &mut String, text: &str, depth: usize) {
    let body = text.strip_suffix('\n');
    out.push_str(match body {
        None => "|-",
        Some(rest) if rest.ends_with('\n') => "|+",
        Some(_) => "|",
    });
    for line in body.unwrap_or(text).split('\n') {
        out.push('\n');
        if !line.is_empty() {
            indent(out, depth);
            out.push_str(line);
        }
    }
}

/// In double quotes, with what cannot be seen by its number.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            other if is_printable(other) => out.push(other),
            other => {
                // Writing to a String does not fail.
                let _ = write!(out, "\\u{:04x}", u32::from(other));
            }
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
    use serde_json::json;

    use super::*;

    #[test]
    fn it_looks_as_upstreams_does() {
        let value = json!({
            "apiVersion": "v1",
            "data": {"a": "yes", "b": "2026-01-01", "c": "1e3", "conf": "one: 1\ntwo: 2\n", "empty": {}, "none": null, "last": "a\nb"},
            "list": [{"name": "a", "ports": [80, 443]}, [], [["x"]], "plain words, and (more)", 1.5, true],
            "metadata": {"creationTimestamp": "2026-11-27T13:22:38Z", "resourceVersion": "1"},
        });
        let expected = r#"apiVersion: v1
data:
  a: "yes"
  b: "2026-01-01"
  c: "1e3"
  conf: |
    one: 1
    two: 2
  empty: {}
  last: |-
    a
    b
  none: null
list:
- name: a
  ports:
  - 80
  - 443
- []
- - - x
- plain words, and (more)
- 1.5
- true
metadata:
  creationTimestamp: "2026-11-27T13:22:38Z"
  resourceVersion: "1"
"#;
        assert_eq!(write(&value), expected);
        assert_eq!(write(&json!({})), "{}\n");
        assert_eq!(write(&json!("off")), "\"off\"\n");
    }

    /// Texts out of pieces that mean something somewhere in YAML.
    fn text(random: &mut StdRng) -> String {
        let pieces = ["a", "yes", "No", "on", "~", "null", " ", "  ", "\n", "\n\n", "\t", ":", ": ", " #", "#", "-", "- ", "?", "|", ">", "&", "*", "!", "%", "@", "`", "'", "\"", "\\", "{", "}", "[", "]", ",", "=", "<<", "0", "017", "0x1f", "1_000", "1e3", ".inf", "12:30:45", "2026-01-01", "é", "\u{85}", "\u{2028}", "\u{feff}", "\u{7}", "\r", "---", "...", "word"];
        (0..random.random_range(0..5)).map(|_| *pieces.choose(random).unwrap()).collect()
    }

    fn value(random: &mut StdRng, depth: usize) -> Value {
        match random.random_range(0..if depth == 0 { 5 } else { 8 }) {
            0..=2 => Value::String(text(random)),
            3 => json!(random.random_range(-1000..1000)),
            4 => [Value::Null, json!(true), json!(1.25), json!({}), json!([])].choose(random).unwrap().clone(),
            5 => (0..random.random_range(0..4)).map(|_| value(random, depth - 1)).collect(),
            _ => Value::Object((0..random.random_range(0..4)).map(|_| (text(random), value(random, depth - 1))).collect()),
        }
    }

    #[test]
    fn whatever_is_written_is_read_back() {
        let mut random = StdRng::seed_from_u64(1);
        for _ in 0..20_000 {
            let value = value(&mut random, 4);
            let text = write(&value);
            let back: Value = serde_yaml_ng::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{value}\n{text}"));
            assert_eq!(back, value, "{text}");
        }
        let long = json!({"k".repeat(2000): {"a": 1}, "l".repeat(2000): [1], "m".repeat(2000): "x"});
        assert_eq!(serde_yaml_ng::from_str::<Value>(&write(&long)).unwrap(), long);
    }
}
