//! JSON of the built-in types, compiled once for the whole program.
//!
//! serde's code is generic: each crate that reads a Pod from bytes would get a copy of its own of everything a Pod is made of,
//! hundreds of kilobytes each time, and take as long to build. The functions here are not generic, so the copies in this crate
//! are the only ones, and whoever handles any kind asks for [`Json`] instead of serde's traits. Text and trees are read and written
//! through [`reader`] and [`writer`], so that each type's code is there once and not twice.

mod reader;
mod text;
mod tree;
mod writer;

use serde::de::DeserializeOwned;
use serde::Serialize;
use serde_json::{Map, Value};

/// Reads a type from text.
///
/// # Errors
/// Text that is no JSON, or not of this type.
pub fn read_text<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<T> {
    let mut text = text::Text::new(text)?;
    let value = T::deserialize(reader::Reader(&mut text))?;
    text.finish()?;
    Ok(value)
}

/// Reads a type from text as if it had no `metadata.managedFields`.
///
/// # Errors
/// Text that is no JSON, or not of this type.
pub fn read_unmanaged<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<T> {
    let mut text = text::Text::unmanaged(text)?;
    let value = T::deserialize(reader::Reader(&mut text))?;
    text.finish()?;
    Ok(value)
}

/// Reads a type from a tree.
///
/// # Errors
/// A tree that is not of this type.
pub fn read_tree<T: DeserializeOwned>(tree: &Map<String, Value>) -> serde_json::Result<T> {
    T::deserialize(reader::Reader(&mut tree::Tree::new(tree)))
}

/// Writes a value as text.
///
/// # Errors
/// A map whose keys are no texts.
pub fn write_text<T: Serialize>(value: &T) -> serde_json::Result<Vec<u8>> {
    let mut text = text::Written::default();
    value.serialize(writer::Writer::new(&mut text))?;
    Ok(text.finish())
}

/// Writes a value as a tree.
///
/// # Errors
/// A map whose keys are no texts.
pub fn write_tree<T: Serialize>(value: &T) -> serde_json::Result<Value> {
    let mut tree = tree::Planted::default();
    value.serialize(writer::Writer::new(&mut tree))?;
    Ok(tree.finish())
}

/// A type that is read from and written as JSON by code of the crate that implements this with [`json_codec!`](crate::json_codec).
pub trait Json: Sized {
    /// Reads the type from text.
    ///
    /// # Errors
    /// Text that is no JSON, or not of this type.
    fn from_json(text: &[u8]) -> serde_json::Result<Self>;
    /// Reads the type from text as if it had no `metadata.managedFields`, which are often half of an object and of no interest to
    /// whoever follows many.
    ///
    /// # Errors
    /// As [`Json::from_json`].
    fn from_json_unmanaged(text: &[u8]) -> serde_json::Result<Self>;
    /// Reads the type from a tree that stays with its owner.
    ///
    /// # Errors
    /// A tree that is not of this type.
    fn from_tree(tree: &Map<String, Value>) -> serde_json::Result<Self>;
    /// Writes the type as text.
    ///
    /// # Errors
    /// A map whose keys are no texts, which no built-in type has.
    fn to_json(&self) -> serde_json::Result<Vec<u8>>;
    /// Writes the type as a tree.
    ///
    /// # Errors
    /// As [`Json::to_json`].
    fn to_tree(&self) -> serde_json::Result<Value>;
}

/// Implements [`Json`] for types that serde can read and write. Use it where the type is defined; the built-in ones have it here.
#[macro_export]
macro_rules! json_codec {
    ($($kind:ty),* $(,)?) => {$(
        // `inline(never)`: small functions are otherwise compiled anew in every crate that calls them, with all they call.
        impl $crate::Json for $kind {
            #[inline(never)]
            fn from_json(text: &[u8]) -> ::serde_json::Result<Self> {
                $crate::json::read_text(text)
            }
            #[inline(never)]
            fn from_json_unmanaged(text: &[u8]) -> ::serde_json::Result<Self> {
                $crate::json::read_unmanaged(text)
            }
            #[inline(never)]
            fn from_tree(tree: &::serde_json::Map<String, ::serde_json::Value>) -> ::serde_json::Result<Self> {
                $crate::json::read_tree(tree)
            }
            #[inline(never)]
            fn to_json(&self) -> ::serde_json::Result<Vec<u8>> {
                $crate::json::write_text(self)
            }
            #[inline(never)]
            fn to_tree(&self) -> ::serde_json::Result<::serde_json::Value> {
                $crate::json::write_tree(self)
            }
        }
    )*};
}

mod built_in {
    use k8s_openapi::{
        api::{
            admissionregistration::v1::{
                MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, MutatingWebhookConfiguration, ValidatingAdmissionPolicy,
                ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration,
            },
            apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet},
            authentication::v1::{SelfSubjectReview, TokenRequest, TokenReview},
            authorization::v1::{LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview},
            autoscaling::{v1, v2},
            batch::v1::{CronJob, Job},
            certificates::{v1::CertificateSigningRequest, v1beta1::{ClusterTrustBundle, PodCertificateRequest}},
            coordination::v1::Lease,
            core::v1::{
                Binding, ConfigMap, Endpoints, Event, LimitRange, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, PodTemplate,
                ReplicationController, ResourceQuota, Secret, Service, ServiceAccount,
            },
            discovery::v1::EndpointSlice,
            events,
            flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration},
            networking::v1::{IPAddress, Ingress, IngressClass, NetworkPolicy, ServiceCIDR},
            node::v1::RuntimeClass,
            policy::v1::{Eviction, PodDisruptionBudget},
            rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
            scheduling::v1::PriorityClass,
            storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment, VolumeAttributesClass},
        },
        apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
        kube_aggregator::pkg::apis::apiregistration::v1::APIService,
    };

    json_codec!(
        MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, MutatingWebhookConfiguration, ValidatingAdmissionPolicy,
        ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration, ControllerRevision, DaemonSet, Deployment, ReplicaSet,
        StatefulSet, SelfSubjectReview, TokenRequest, TokenReview, LocalSubjectAccessReview, SelfSubjectAccessReview,
        SelfSubjectRulesReview, SubjectAccessReview, v1::Scale, v1::HorizontalPodAutoscaler, v2::HorizontalPodAutoscaler, CronJob, Job,
        CertificateSigningRequest, ClusterTrustBundle, PodCertificateRequest, Lease, Binding, ConfigMap, Endpoints, Event, LimitRange, Namespace, Node, PersistentVolume,
        PersistentVolumeClaim, Pod, PodTemplate, ReplicationController, ResourceQuota, Secret, Service, ServiceAccount, EndpointSlice,
        events::v1::Event, FlowSchema, PriorityLevelConfiguration, IPAddress, Ingress, IngressClass, NetworkPolicy, ServiceCIDR,
        RuntimeClass, Eviction, PodDisruptionBudget, ClusterRole, ClusterRoleBinding, Role, RoleBinding, PriorityClass, CSIDriver, CSINode,
        CSIStorageCapacity, StorageClass, VolumeAttachment, VolumeAttributesClass, CustomResourceDefinition, APIService,
        // Kinds whose strategies look at the tree as it is.
        serde_json::Map<String, serde_json::Value>,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use proptest::prelude::*;

    #[test]
    fn text_and_tree_hold_the_same_object() {
        let text = br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"c"}]}}"#;
        let pod = Pod::from_json(text).unwrap();
        let Value::Object(tree) = pod.to_tree().unwrap() else { panic!("a pod is no object") };
        assert_eq!(Pod::from_tree(&tree).unwrap(), pod);
        assert_eq!(Pod::from_json(&pod.to_json().unwrap()).unwrap(), pod);
        assert!(Pod::from_json(br#"{"metadata":7}"#).is_err());
    }

    #[test]
    fn managed_fields_are_passed_over_where_they_are_not_wanted_and_nothing_else() {
        let text = br#"{"kind":"Pod","metadata":{"managedFields":[{"manager":"a","fieldsV1":{"f:x":{}}}],"name":"a","annotations":{"managedFields":"b"}},
            "spec":{"containers":[],"managedFields":[7]},"managedFields":1}"#;
        type Tree = Map<String, Value>;
        let mut expected = Tree::from_json(text).unwrap();
        assert!(expected.get_mut("metadata").and_then(Value::as_object_mut).unwrap().remove("managedFields").is_some());
        assert_eq!(Tree::from_json_unmanaged(text).unwrap(), expected);
        let only = br#"{"metadata":{"managedFields":[]}}"#;
        assert_eq!(Pod::from_json_unmanaged(only).unwrap(), Pod::default());
        assert!(Pod::from_json_unmanaged(br#"{"metadata":{"managedFields":[}}"#).is_err());
    }

    #[test]
    fn lists_of_objects_that_are_kept_take_no_more_than_they_hold() {
        let text = br#"{"spec":{"containers":[ {"name":"a","args":["x","]","\\\",",["y"][0]],"env":[]} , {"name":"b"}]}}"#;
        assert!(Pod::from_json_unmanaged(text).is_err(), "no JSON is read for being counted");
        let text = br#"{"spec":{"containers":[ {"name":"a","args":["x","]","\\\","],"env":[]} , {"name":"b"}],"tolerations":[{}]}}"#;
        let spec = Pod::from_json_unmanaged(text).unwrap().spec.unwrap();
        assert_eq!((spec.containers.len(), spec.containers.capacity()), (2, 2));
        let first = &spec.containers[0];
        assert_eq!(first.args.as_ref().map(|args| (args.len(), args.capacity())), Some((3, 3)));
        assert_eq!(first.env.as_ref().map(Vec::capacity), Some(0));
        assert_eq!(spec.tolerations.as_ref().map(Vec::capacity), Some(1));
        assert_eq!(Pod::from_json(text).unwrap().spec.unwrap(), spec);
    }

    /// A document of every kind of value, whose bytes are changed in `edits` places.
    fn document(value: &Value, edits: &[(usize, u8)]) -> Vec<u8> {
        let mut text = value.to_string().into_bytes();
        for (place, byte) in edits {
            let length = text.len();
            text[place % length] = *byte;
        }
        text
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-1e9..1e9f64).prop_map(Value::from),
            "[a-z\"\\\\\n\u{e4}\u{1f600}]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::btree_map("[a-z\"]{0,4}", inner, 0..5).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn text_is_read_as_serde_json_reads_it(
            value in any_json(),
            edits in proptest::collection::vec((any::<usize>(), proptest::sample::select(b"{}[]:,\"\\01-+.eE tfnu\x01\xff".to_vec())), 0..3),
        ) {
            let text = document(&value, &edits);
            let expected = serde_json::from_slice::<Value>(&text);
            let found = read_text::<Value>(&text);
            match (&expected, &found) {
                (Ok(expected), Ok(found)) => prop_assert_eq!(expected, found),
                (Err(_), Err(_)) => {}
                _ => prop_assert!(false, "{}: {expected:?} and {found:?}", String::from_utf8_lossy(&text)),
            }
        }

        #[test]
        fn what_is_written_is_what_serde_json_writes(value in any_json()) {
            prop_assert_eq!(String::from_utf8(write_text(&value).unwrap()).unwrap(), value.to_string());
            prop_assert_eq!(&write_tree(&value).unwrap(), &value);
            if let Value::Object(tree) = &value {
                prop_assert_eq!(&Value::Object(read_tree(tree).unwrap()), &value);
            }
        }
    }

    #[test]
    fn nesting_has_an_end() {
        assert!(read_text::<Value>("[".repeat(100_000).as_bytes()).is_err());
        assert!(read_text::<serde::de::IgnoredAny>("[".repeat(100_000).as_bytes()).is_err());
    }
}
