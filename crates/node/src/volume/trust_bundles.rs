//! Projected trust bundles: the certificates of one ClusterTrustBundle, or of all that a signer published under some labels, in one file.
//!
//! Source: Kubernetes 1.36, `pkg/kubelet/clustertrustbundle` and the API's description of `ClusterTrustBundleProjection`.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ClusterTrustBundleProjection;
use meta::selector::LabelSelector;

use crate::objects::{Content, Snapshot, TrustBundle};

/// The file's content: every certificate once, in the order of the bundles' names.
///
/// # Errors
/// The bundles could not be read, or there is none and the source is not optional.
pub fn anchors(objects: &Snapshot, source: &ClusterTrustBundleProjection) -> Result<Vec<u8>, String> {
    let optional = source.optional.unwrap_or(false);
    let bundles = objects.trust_bundles()?;
    let found: Vec<&TrustBundle> = match (&source.name, &source.signer_name) {
        (Some(name), _) => {
            let found: Vec<_> = all(bundles).filter(|bundle| bundle.name == *name).collect();
            if found.is_empty() && !optional {
                return Err(format!("clustertrustbundle \"{name}\" not found"));
            }
            found
        }
        (None, Some(signer)) => {
            let selector = selector(source)?;
            let found: Vec<_> = all(bundles).filter(|bundle| bundle.signer == *signer && selector.matches_map(&bundle.labels)).collect();
            if found.is_empty() && !optional {
                return Err(format!("no ClusterTrustBundle of signer \"{signer}\" has the labels that labelSelector asks for"));
            }
            found
        }
        (None, None) => {
            return Err("a clusterTrustBundle source needs a name or a signerName".to_owned());
        }
    };
    merged(&found)
}

fn all(bundles: Option<&Content>) -> impl Iterator<Item = &TrustBundle> {
    bundles.into_iter().flat_map(|content| &content.trust_bundles)
}

/// Without a selector nothing is meant, with an empty one everything of the signer.
fn selector(source: &ClusterTrustBundleProjection) -> Result<LabelSelector, String> {
    let Some(selector) = &source.label_selector else {
        return Ok(LabelSelector::nothing());
    };
    let selector = serde_json::to_value(selector).map_err(|problem| problem.to_string())?;
    LabelSelector::from_json(&selector).map_err(|problem| format!("labelSelector: {problem}"))
}

/// Comments and everything else between the certificates is left out.
fn merged(bundles: &[&TrustBundle]) -> Result<Vec<u8>, String> {
    let mut seen = BTreeSet::new();
    let mut text = String::new();
    for bundle in bundles {
        let certificates =
            pki::bootstrap::certificates_from_pem(&bundle.pem).map_err(|problem| format!("clustertrustbundle \"{}\": {problem}", bundle.name))?;
        for certificate in certificates {
            if seen.insert(certificate.to_vec()) {
                text.push_str(&pki::bootstrap::certificate_to_pem(&certificate));
            }
        }
    }
    Ok(text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{Kind, Known, Reference};
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn certificate() -> String {
        let directory = tempfile::tempdir().unwrap();
        pki::ClusterAuthority::open_or_create(directory.path(), jiff::Timestamp::now()).unwrap().certificate_pem().to_owned()
    }

    fn check(bundles: &[TrustBundle], source: Value, expected: Result<String, &str>) {
        let content = Content { trust_bundles: bundles.to_vec(), ..Content::default() };
        let snapshot = Snapshot { objects: [(Reference::trust_bundles(), Known::Present(Arc::new(content)))].into() };
        let mut source = source;
        source["path"] = json!("ca.pem");
        let found = anchors(&snapshot, &serde_json::from_value(source.clone()).unwrap());
        let trimmed = |text: String| text.replace('\n', "");
        let found = found.map(|bytes| trimmed(String::from_utf8(bytes).unwrap()));
        match expected {
            Ok(expected) => assert_eq!(found, Ok(trimmed(expected)), "{source}"),
            Err(part) => assert!(found.as_ref().is_err_and(|error| error.contains(part)), "{source}: {found:?}"),
        }
    }

    #[test]
    fn bundles_are_found_by_name_or_by_signer_and_labels_and_every_certificate_stands_there_once() {
        let (one, two) = (certificate(), certificate());
        let bundle = |name: &str, signer: &str, live: &str, pem: String| TrustBundle {
            name: name.to_owned(),
            signer: signer.to_owned(),
            labels: [("live".to_owned(), live.to_owned())].into(),
            pem,
        };
        let bundles = [
            bundle("a.com:x:1", "a.com/x", "yes", format!("# a comment\n{one}")),
            bundle("a.com:x:2", "a.com/x", "yes", format!("{one}{two}")),
            bundle("a.com:x:3", "a.com/x", "no", two.clone()),
            bundle("mine", "", "yes", two.clone()),
        ];
        check(&bundles, json!({ "name": "mine" }), Ok(two.clone()));
        check(&bundles, json!({ "name": "other" }), Err("clustertrustbundle \"other\" not found"));
        check(&bundles, json!({ "name": "other", "optional": true }), Ok(String::new()));
        let live = json!({ "matchLabels": { "live": "yes" } });
        check(&bundles, json!({ "signerName": "a.com/x", "labelSelector": live }), Ok(format!("{one}{two}")));
        check(&bundles, json!({ "signerName": "a.com/x", "labelSelector": { "matchLabels": { "live": "no" } } }), Ok(two.clone()));
        check(&bundles, json!({ "signerName": "a.com/x", "labelSelector": {} }), Ok(format!("{one}{two}")));
        check(&bundles, json!({ "signerName": "a.com/x" }), Err("no ClusterTrustBundle of signer \"a.com/x\""));
        check(&bundles, json!({ "signerName": "b.com/x", "labelSelector": {}, "optional": true }), Ok(String::new()));
        check(&[bundle("mine", "", "yes", "nothing".to_owned())], json!({ "name": "mine" }), Err("clustertrustbundle \"mine\""));
    }

    #[test]
    fn what_could_not_be_read_is_said() {
        let failed = Known::Failed("timed out".to_owned());
        let snapshot = Snapshot { objects: [(Reference::trust_bundles(), failed)].into() };
        let source = ClusterTrustBundleProjection { name: Some("a".to_owned()), ..ClusterTrustBundleProjection::default() };
        assert!(anchors(&snapshot, &source).unwrap_err().contains("timed out"));
        assert_eq!(Kind::TrustBundles.word(), "clustertrustbundle");
    }
}
