//! Small changes that make valid things strange.

use rand::{Rng, seq::IndexedRandom as _};
use serde_json::{Map, Value, json};

/// Texts that programs stumble over.
const TEXTS: &[&str] = &[
    "", " ", "a", "A", "-", ".", "..", "/", "//", "../a", "a b", "a/b", "a.b/c", "a=b", "0", "-1", "1e3", "1e400", "1Gi", "-5m", "100%", "101%", "true", "null", "None", "*",
    "10.96.0.1", "::1", "fe80::1%eth0", "10.0.0.0/8", "0.0.0.0/0", "2024-01-01T00:00:00Z", "2024-13-01T00:00:00Z", "9999999999999999999999", "9223372036854775807",
    "-9223372036854775808", "0.0000000000000001", "\u{0}", "\u{1}\n\t", "\u{feff}", "é", "\u{1f6a2}", "\u{202e}", "日本", "{}", "[]", "$(a)", "metadata.name", "app", "default", "kube-system",
    "kubernetes.io/hostname", "Always", "Never", "Delete", "Foreground", "Recreate", "ClusterIP", "ExternalName", "LoadBalancer", "TCP", "UDP", "Localhost", "Indexed",
];

/// A value out of nowhere.
pub fn value(random: &mut impl Rng, depth: usize) -> Value {
    match random.random_range(0..if depth > 3 { 9 } else { 12 }) {
        0 => Value::Null,
        1 => json!(random.random::<bool>()),
        2 => json!(random.random_range(-2..3)),
        3 => json!([0_i64, 1, -1, 2_147_483_648, i64::MAX, i64::MIN, 65_536].choose(random)),
        4 => json!([0.5_f64, -0.0, 1e300, 1e-300, 4_503_599_627_370_497.5].choose(random)),
        5..=7 => json!(text(random)),
        8 => json!(random.random::<u64>()),
        9 => (0..random.random_range(0..3)).map(|_| value(random, depth + 1)).collect(),
        10 => {
            let mut map = Map::new();
            for _ in 0..random.random_range(0..3) {
                map.insert(text(random), value(random, depth + 1));
            }
            Value::Object(map)
        }
        _ => {
            let mut deep = Value::Null;
            for level in 0..random.random_range(1..80) {
                deep = if level % 2 == 0 { json!([deep]) } else { json!({ "a": deep }) };
            }
            deep
        }
    }
}

/// A text out of nowhere.
pub fn text(random: &mut impl Rng) -> String {
    match random.random_range(0..20) {
        0 => "x".repeat(random.random_range(1..300)),
        1 => (0..random.random_range(1..12)).map(|_| random.random::<char>()).collect(),
        2 => format!("{}{}", TEXTS.choose(random).unwrap_or(&""), TEXTS.choose(random).unwrap_or(&"")),
        _ => (*TEXTS.choose(random).unwrap_or(&"")).to_owned(),
    }
}

/// Changes something, somewhere.
pub fn mutate(random: &mut impl Rng, tree: &mut Value, words: &[String]) {
    // The deeper, the likelier to stop, so that changes are spread over the whole tree.
    match tree {
        Value::Object(map) if !map.is_empty() && random.random_ratio(4, 5) => {
            let keys: Vec<String> = map.keys().cloned().collect();
            let Some(key) = keys.choose(random) else { return };
            if let Some(inner) = map.get_mut(key) {
                mutate(random, inner, words);
            }
        }
        Value::Array(list) if !list.is_empty() && random.random_ratio(4, 5) => {
            let place = random.random_range(0..list.len());
            if let Some(inner) = list.get_mut(place) {
                mutate(random, inner, words);
            }
        }
        Value::Object(map) => object(random, map, words),
        Value::Array(list) => array(random, list),
        other => scalar(random, other),
    }
}

fn object(random: &mut impl Rng, map: &mut Map<String, Value>, words: &[String]) {
    let keys: Vec<String> = map.keys().cloned().collect();
    match (random.random_range(0..5), keys.choose(random)) {
        (0, Some(key)) => drop(map.remove(key)),
        (1, Some(key)) => {
            let known = map.get(key).cloned().unwrap_or_default();
            map.insert(text(random), known);
        }
        (2, Some(key)) => drop(map.insert(key.clone(), value(random, 0))),
        (3, _) => drop(map.insert(text(random), value(random, 0))),
        _ => {
            let word = words.choose(random).cloned().unwrap_or_default();
            map.insert(word, value(random, 0));
        }
    }
}

fn array(random: &mut impl Rng, list: &mut Vec<Value>) {
    match random.random_range(0..4) {
        0 if !list.is_empty() => drop(list.remove(random.random_range(0..list.len()))),
        1 if !list.is_empty() => {
            let copy = list[random.random_range(0..list.len())].clone();
            list.push(copy);
        }
        2 => list.clear(),
        _ => list.push(value(random, 0)),
    }
}

fn scalar(random: &mut impl Rng, place: &mut Value) {
    *place = match (&*place, random.random_range(0..5)) {
        (Value::Number(number), 0..=2) => json!(number.as_i64().unwrap_or_default().wrapping_add(random.random_range(-3..4))),
        (Value::String(known), 0) => json!(format!("{known}{}", text(random))),
        (Value::String(known), 1) => json!(known.chars().rev().collect::<String>()),
        (Value::String(_), 2..=3) => json!(text(random)),
        (Value::Bool(known), 0..=3) => json!(!known),
        _ => value(random, 0),
    };
}

/// Changes bytes: flips, cuts, repeats, and strange lengths.
pub fn bytes(random: &mut impl Rng, bytes: &mut Vec<u8>) {
    for _ in 0..random.random_range(1..4) {
        let length = bytes.len();
        let place = random.random_range(0..length.max(1));
        match random.random_range(0..6) {
            0 if length > 0 => bytes[place] ^= 1 << random.random_range(0..8),
            1 if length > 0 => bytes[place] = random.random(),
            2 => bytes.truncate(place),
            3 if length > 0 => {
                let end = length.min(place + random.random_range(1..32));
                let copy = bytes[place..end].to_vec();
                bytes.splice(place..place, copy);
            }
            4 => bytes.splice(place.min(length)..place.min(length), [0xff, 0xff, 0xff, 0xff, 0x0f]).for_each(drop),
            _ => bytes.insert(place.min(length), *b"{}[]\",:-&*!|>%@`\0\n\t 019".choose(random).unwrap_or(&0)),
        }
    }
}
