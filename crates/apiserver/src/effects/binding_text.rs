//! Puts a pod's node into the text that the pod is stored as. A binding changes two places of a pod, and a scheduler may bind thousands
//! a second: to read each pod as a tree, copy, compare and write it again costs several times what this does.
//!
//! What a binding may do, and to which pods, is said in [`super::binding`] for both ways; a test compares what they store.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, value::{RawValue, to_raw_value}};

use super::binding::{Known, scheduled};
use crate::view::{StoredObject, stored::{Head, Members, encode_members}};

/// A stored pod, read as far as a binding looks at it.
pub struct PodText<'a> {
    head: Head,
    whole: Members<'a>,
    metadata: Members<'a>,
    spec: Members<'a>,
    status: Members<'a>,
    /// What is known of it.
    pub known: Known,
    generation: i64,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type", default)]
    kind: String,
}

fn read<'a, T: Deserialize<'a>>(members: &Members<'a>, name: &str) -> Option<T> {
    members.get(name).and_then(|text| serde_json::from_str(text.get()).ok())
}

impl<'a> PodText<'a> {
    /// Reads it, with its text. None where it does not look as pods are stored: then the other way has to say what is wrong.
    pub fn read(stored: &StoredObject, text: &'a [u8]) -> Option<Self> {
        let whole: Members<'_> = serde_json::from_slice(text).ok()?;
        let part = |name: &str| if whole.contains_key(name) { read::<Members<'_>>(&whole, name) } else { Some(Members::new()) };
        let (metadata, spec, status) = (part("metadata")?, part("spec")?, part("status")?);
        let known = Known {
            uid: read(&metadata, "uid").unwrap_or_default(),
            is_deleted: read::<String>(&metadata, "deletionTimestamp").is_some(),
            node: read(&spec, "nodeName").unwrap_or_default(),
            is_gated: read::<Vec<&RawValue>>(&spec, "schedulingGates").is_some_and(|gates| !gates.is_empty()),
        };
        let generation = read(&metadata, "generation").unwrap_or_default();
        Some(Self { head: stored.head(), whole, metadata, spec, status, known, generation })
    }

    /// What is to be stored of it once it is bound.
    ///
    /// # Errors
    /// Where JSON cannot express it, which it can.
    pub fn bound(self, node: &str, labels: &Map<String, Value>, now: &str) -> Result<Bytes, serde_json::Error> {
        let (condition, name) = (to_raw_value(&scheduled(self.generation, now))?, to_raw_value(node)?);
        let mut conditions: Vec<&RawValue> = read(&self.status, "conditions").unwrap_or_default();
        conditions.retain(|text| !serde_json::from_str::<Condition>(text.get()).is_ok_and(|condition| condition.kind == "PodScheduled"));
        conditions.push(&condition);
        let conditions = to_raw_value(&conditions)?;
        let (mut spec, mut status) = (self.spec, self.status);
        spec.insert("nodeName".to_owned(), &name);
        status.insert("conditions".to_owned(), &conditions);
        let (spec, status) = (to_raw_value(&spec)?, to_raw_value(&status)?);
        let mut whole = self.whole;
        whole.insert("spec".to_owned(), &spec);
        whole.insert("status".to_owned(), &status);
        let (mut head, mut metadata) = (self.head, self.metadata);
        let mut all: BTreeMap<&str, &str> = head.labels.iter().map(|(name, value)| (&**name, &**value)).collect();
        all.extend(labels.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_str()?))));
        let text = to_raw_value(&all)?;
        if !labels.is_empty() {
            // Both say the same, in the same order.
            let all = all.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
            head.labels = all;
            metadata.insert("labels".to_owned(), &text);
        }
        for (_, value) in head.fields.iter_mut().filter(|(name, _)| &**name == "spec.nodeName") {
            *value = node.into();
        }
        encode_members(&head, &whole, &metadata)
    }
}

#[cfg(test)]
mod tests {
    use meta::Object;
    use serde_json::json;
    use store::Revision;

    use super::*;
    use crate::{effects::binding::bound, view::stored::encode};

    fn fields(node: &str) -> Vec<(Box<str>, Box<str>)> {
        [("spec.nodeName", node), ("status.phase", "Pending")].map(|(name, value)| (name.into(), value.into())).into()
    }

    #[track_caller]
    fn check(changes: Value) {
        let mut pod = json!({
            "kind": "Pod", "apiVersion": "v1",
            "metadata": {"name": "a", "namespace": "n", "uid": "u", "generation": 1, "labels": {"app": "wéb"}, "annotations": {"a": "line\n\"quoted\""}},
            "spec": {"containers": [{"name": "c", "image": "i"}], "priority": 0},
            "status": {"phase": "Pending", "qosClass": "BestEffort"},
        });
        meta::patch::merge_patch(&mut pod, &changes);
        let Value::Object(pod) = pod else { panic!("an object") };
        let pod = Object(pod);
        let stored = StoredObject::decode("n/a", encode(&pod, 7, fields("")).unwrap(), Revision(41)).unwrap();
        let unversioned = stored.unversioned();
        let seen = stored.object().unwrap();
        let node = "node-\u{e9}1";
        for labels in [json!({}), json!({"topology.kubernetes.io/zone": "a", "app": "new"})] {
            let text = PodText::read(&stored, &unversioned).unwrap();
            assert_eq!(text.known, Known::of(&seen));
            let Value::Object(labels) = labels else { panic!("an object") };
            let expected = encode(&bound(&seen, node, &Default::default(), &labels, "2026-01-01T00:00:00Z"), 7, fields(node)).unwrap();
            let found = text.bound(node, &labels, "2026-01-01T00:00:00Z").unwrap();
            assert_eq!(String::from_utf8_lossy(&found), String::from_utf8_lossy(&expected));
        }
    }

    #[test]
    fn the_text_is_what_the_tree_would_have_become() {
        let condition = |kind: &str| json!({"type": kind, "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are \"available\""});
        for changes in [
            json!({}),
            json!({"status": null}),
            json!({"status": {"conditions": [condition("PodScheduled")]}}),
            json!({"status": {"conditions": [condition("Ready"), condition("PodScheduled"), condition("Initialized")], "nominatedNodeName": "b"}}),
            json!({"metadata": {"generation": null, "labels": null, "annotations": null}}),
            json!({"metadata": {"generation": 12, "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["a.b/c"]}}),
            json!({"spec": {"nodeName": "other", "schedulingGates": [{"name": "g"}], "zzz": {"b": [1, 2.5, null, true]}}}),
            json!({"spec": {"schedulingGates": []}, "aaa": "before", "zzz": "behind"}),
        ] {
            check(changes);
        }
    }

    #[test]
    fn what_is_no_pod_is_left_to_the_other_way() {
        let pod = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a"}, "spec": "none"});
        let Value::Object(pod) = pod else { panic!("an object") };
        let stored = StoredObject::decode("n/a", encode(&Object(pod), 0, Vec::new()).unwrap(), Revision(1)).unwrap();
        assert!(PodText::read(&stored, &stored.unversioned()).is_none());
    }
}
