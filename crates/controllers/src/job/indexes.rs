//! The numbers of an indexed Job's pods, and sets of them as the status writes them: `0,2-5,7`.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;

pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// More numbers than this are never read from a text. Source: Kubernetes 1.36, `maxParallelismForIndexedJob`.
const LIMIT: i32 = 100_000;

/// The number of a pod.
pub(super) fn of(pod: &Pod) -> Option<i32> {
    pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok().filter(|index| *index >= 0)
}

/// Reads a set. What is malformed, or not below `completions`, is left out.
pub(super) fn parse(text: &str, completions: i32) -> BTreeSet<i32> {
    let mut all = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            all.extend(first.max(0)..=last.min(completions - 1).min(LIMIT));
        }
    }
    all
}

/// Writes a set; three or more in a row as a range.
pub(super) fn format(all: &BTreeSet<i32>) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut numbers = all.iter().copied().peekable();
    while let Some(first) = numbers.next() {
        let mut last = first;
        while let Some(next) = numbers.next_if(|next| *next == last + 1) {
            last = next;
        }
        match last - first {
            0 => parts.push(first.to_string()),
            1 => parts.extend([first.to_string(), last.to_string()]),
            _ => parts.push(format!("{first}-{last}")),
        }
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_written_as_ranges() {
        let written = |text: &str| format(&parse(text, 100));
        assert_eq!(written("7,0,2,3,4,5"), "0,2-5,7");
        assert_eq!(written("1,2"), "1,2");
        assert_eq!(written("90-200"), "90-99");
        assert_eq!(written("x,3,-,5-4"), "3");
        assert_eq!(written(""), "");
    }
}
