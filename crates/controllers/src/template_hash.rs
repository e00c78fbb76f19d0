//! A short name for a pod template: the end of its ReplicaSet's or ControllerRevision's name and the value of its pods' label.

use k8s_openapi::api::core::v1::PodTemplateSpec;

/// Letters and digits that form no words. Source: Kubernetes 1.36, `rand.SafeEncodeString`.
const SAFE: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// The hash of a template; `collisions` says how often that was already taken by another. It only has to be stable while a set is
/// being created: afterwards sets are found by comparing templates.
pub(crate) fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    hash_of(&serde_json::to_vec(template).unwrap_or_default(), collisions)
}

/// The same for anything else, given as bytes.
pub(crate) fn hash_of(bytes: &[u8], collisions: Option<i32>) -> String {
    let collisions = collisions.map(|count| count.to_le_bytes()).unwrap_or_default();
    let mut hash: u32 = 0x811c_9dc5;
    for byte in bytes.iter().chain(collisions.iter()) {
        hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    }
    hash.to_string().bytes().filter_map(|digit| SAFE.get(usize::from(digit) % SAFE.len())).map(|letter| char::from(*letter)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_and_collisions_give_different_short_names() {
        let mut template = PodTemplateSpec::default();
        let first = template_hash(&template, None);
        assert_eq!(first, template_hash(&template.clone(), None));
        assert_ne!(first, template_hash(&template, Some(1)));
        template.spec.get_or_insert_default().node_name = Some("a".to_owned());
        assert_ne!(first, template_hash(&template, None));
        assert!(first.len() <= 10 && first.bytes().all(|letter| SAFE.contains(&letter)));
    }
}
