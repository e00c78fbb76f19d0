//! Labels of nodes that are there under an older name, too.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;

/// The label that counts, and its older name. Source: Kubernetes 1.36, `labelReconcileInfo`.
const OLDER_NAMES: [(&str, &str); 2] = [("kubernetes.io/os", "beta.kubernetes.io/os"), ("kubernetes.io/arch", "beta.kubernetes.io/arch")];

/// The labels under older names that a node lacks, or that say something else.
pub(super) fn missing(node: &Node) -> BTreeMap<&'static str, &str> {
    let Some(labels) = &node.metadata.labels else { return BTreeMap::new() };
    let pair = |(name, older): &(&str, &'static str)| labels.get(*name).filter(|value| labels.get(*older) != Some(value)).map(|value| (*older, value.as_str()));
    OLDER_NAMES.iter().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_names_follow_the_newer_ones() {
        for (labels, expected) in [
            (&[][..], &[][..]),
            (&[("beta.kubernetes.io/os", "linux")], &[]),
            (&[("kubernetes.io/os", "linux"), ("beta.kubernetes.io/os", "linux")], &[]),
            (&[("kubernetes.io/os", "linux"), ("beta.kubernetes.io/os", "plan9")], &[("beta.kubernetes.io/os", "linux")]),
            (&[("kubernetes.io/arch", "arm64")], &[("beta.kubernetes.io/arch", "arm64")]),
        ] {
            let mut node = Node::default();
            node.metadata.labels = Some(labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect());
            assert_eq!(missing(&node).into_iter().collect::<Vec<_>>(), expected, "{labels:?}");
        }
    }
}
