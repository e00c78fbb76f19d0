//! LeaseCandidate: somebody who would hold a Lease, and which versions he speaks.
//!
//! Source: Kubernetes `pkg/apis/coordination/validation/validation.go`.

use std::cmp::Ordering;

use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object, validation as rules};
use serde_json::{Map, Value};

use crate::{
    cells,
    problems::{filled, immutable},
    strategy::{Column, Strategy},
};

/// Behaviour of candidates.
pub struct LeaseCandidateStrategy;

const OLDEST: &str = "OldestEmulationVersion";

/// A semantic version, without its build.
#[derive(Debug, Default, PartialEq, Eq)]
struct Version {
    numbers: [u64; 3],
    before: Vec<String>,
}

impl Version {
    /// Source: semver.org, version 2.0.0, points 2, 9 and 10.
    fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| {
            let is_one = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
            if is_one { text.parse::<u64>().ok() } else { None }
        };
        let words = |text: &str| text.split('.').all(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'));
        let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
        let (text, before) = text.split_once('-').map_or((text, None), |(text, before)| (text, Some(before)));
        if build.is_some_and(|build| !words(build)) || before.is_some_and(|before| !words(before)) {
            return None;
        }
        let mut parts = text.split('.');
        let numbers = [number(parts.next()?)?, number(parts.next()?)?, number(parts.next()?)?];
        let before: Vec<String> = before.into_iter().flat_map(|before| before.split('.')).map(str::to_owned).collect();
        let leading_zero = |word: &String| word.len() > 1 && word.starts_with('0') && word.bytes().all(|byte| byte.is_ascii_digit());
        (parts.next().is_none() && !before.iter().any(leading_zero)).then_some(Self { numbers, before })
    }
}

impl Ord for Version {
    /// Source: semver.org, version 2.0.0, point 11.
    fn cmp(&self, other: &Self) -> Ordering {
        let words = |left: &String, right: &String| match (left.parse::<u64>(), right.parse::<u64>()) {
            (Ok(left), Ok(right)) => left.cmp(&right),
            (Ok(_), Err(_)) => Ordering::Less,
            (Err(_), Ok(_)) => Ordering::Greater,
            (Err(_), Err(_)) => left.cmp(right),
        };
        self.numbers.cmp(&other.numbers).then_with(|| match (self.before.is_empty(), other.before.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                let differing = self.before.iter().zip(&other.before).map(|(left, right)| words(left, right)).find(|order| order.is_ne());
                differing.unwrap_or_else(|| self.before.len().cmp(&other.before.len()))
            }
        })
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn text<'a>(candidate: &'a Map<String, Value>, field: &str) -> &'a str {
    candidate.get("spec").and_then(|spec| spec.get(field)).and_then(Value::as_str).unwrap_or_default()
}

impl Strategy for LeaseCandidateStrategy {
    type Kind = Map<String, Value>;

    fn validate(&self, candidate: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec");
        filled(text(candidate, "leaseName"), &path.child("leaseName"), &mut problems);
        filled(text(candidate, "binaryVersion"), &path.child("binaryVersion"), &mut problems);
        let mut version = |field: &str| {
            let given = text(candidate, field);
            let parsed = Version::parse(given);
            if !given.is_empty() && parsed.is_none() {
                problems.push(FieldError::invalid(&path.child(field), given, "must be a valid semantic version"));
            }
            parsed.unwrap_or_default()
        };
        let (emulated, binary) = (version("emulationVersion"), version("binaryVersion"));
        let both = !text(candidate, "emulationVersion").is_empty() && !text(candidate, "binaryVersion").is_empty();
        if both && binary < emulated {
            let detail = "must be greater than or equal to `emulationVersion`";
            problems.push(FieldError::invalid(&path.child("binaryVersion"), text(candidate, "binaryVersion"), detail));
        }
        let (strategy, at) = (text(candidate, "strategy"), path.child("strategy"));
        filled(strategy, &at, &mut problems);
        if strategy == OLDEST && emulated == Version::default() {
            problems.push(FieldError::required(&path.child("emulationVersion"), format!("must be specified when `strategy` is '{OLDEST}'")));
        }
        // Upstream says the name of the field twice.
        if strategy.contains('/') {
            problems.extend(rules::invalid_each(&at.child("strategy"), strategy, rules::qualified_name_problems(strategy)));
        } else if !strategy.is_empty() && strategy != OLDEST {
            problems.push(FieldError::not_supported(&at.child("strategy"), strategy, &[OLDEST]));
        }
        problems
    }
    fn validate_update(&self, candidate: &Self::Kind, old: &Self::Kind) -> Vec<FieldError> {
        let mut problems = self.validate(candidate);
        immutable(&text(candidate, "leaseName"), &text(old, "leaseName"), &FieldPath::new("spec").child("leaseName"), &mut problems);
        problems
    }
    fn allows_create_on_update(&self) -> bool {
        true
    }
    fn allows_unconditional_update(&self) -> bool {
        false
    }
    fn columns(&self) -> &'static [Column] {
        const { &[
            Column::NAME,
            Column::text("LeaseName", "Which Lease it would hold."),
            Column::text("BinaryVersion", "What it is."),
            Column::text("EmulationVersion", "What it behaves as."),
            Column::AGE,
        ] }
    }
    fn row(&self, candidate: &Self::Kind, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let mut row = vec![raw.name().into()];
        row.extend(["leaseName", "binaryVersion", "emulationVersion"].map(|field| Value::from(text(candidate, field))));
        row.push(cells::created(raw));
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_ordered_as_the_specification_says() {
        let ordered = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.10.0", "2.0.0"];
        let parsed: Vec<Version> = ordered.iter().map(|text| Version::parse(text).unwrap()).collect();
        assert!(parsed.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(Version::parse("1.2.3+a.b"), Version::parse("1.2.3"));
        for wrong in ["", "1", "1.2", "1.2.3.4", "01.2.3", "1.2.3-", "1.2.3-01", "v1.2.3", "1.2.3+", "1.2.a"] {
            assert_eq!(Version::parse(wrong), None, "{wrong}");
        }
    }
}
