//! Descriptions of types and fields, which come with `k8s-openapi` as functions that build JSON schemas. They are asked for
//! one group and version at a time and not kept, since all of them together are several MiB.

use k8s_openapi::{
    api, apiextensions_apiserver, apimachinery, kube_aggregator,
    schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings},
};
use serde_json::{Map, Value};

/// Schemas by definition name, of everything that the kinds of a group and version and their subresources reach.
pub(super) fn of(group: &str, version: &str) -> Map<String, Value> {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    common(&mut generator);
    kinds(group, version, &mut generator);
    generator.take_definitions(false).into_iter().collect()
}

fn add<T: JsonSchema>(generator: &mut SchemaGenerator) {
    generator.subschema_for::<T>();
}

/// What requests and answers are made of, whatever the kind.
fn common(generator: &mut SchemaGenerator) {
    use apimachinery::pkg::apis::meta::v1::{APIResourceList, DeleteOptions, ListMeta, ObjectMeta, Patch, Status};
    add::<APIResourceList>(generator);
    add::<DeleteOptions>(generator);
    add::<ListMeta>(generator);
    add::<ObjectMeta>(generator);
    add::<Patch>(generator);
    add::<Status>(generator);
    add::<api::autoscaling::v1::Scale>(generator);
    add::<api::policy::v1::Eviction>(generator);
    add::<api::authentication::v1::TokenRequest>(generator);
    add::<api::core::v1::Binding>(generator);
}

macro_rules! kinds {
    ($($group:literal $version:literal => $($module:ident)::+ { $($kind:ident),+ $(,)? })+) => {
        fn kinds(group: &str, version: &str, generator: &mut SchemaGenerator) {
            match (group, version) {
                $(($group, $version) => {
                    use $($module)::+ as here;
                    $(add::<here::$kind>(generator);)+
                })+
                _ => {}
            }
        }

        #[cfg(test)]
        const KINDS: &[(&str, &str, &[&str])] = &[$(($group, $version, &[$(stringify!($kind)),+])),+];
    };
}

kinds! {
    "admissionregistration.k8s.io" "v1" => api::admissionregistration::v1 {
        MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, MutatingWebhookConfiguration, ValidatingAdmissionPolicy,
        ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration,
    }
    "admissionregistration.k8s.io" "v1alpha1" => api::admissionregistration::v1alpha1 {
        MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding,
    }
    "admissionregistration.k8s.io" "v1beta1" => api::admissionregistration::v1beta1 {
        MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding,
    }
    "apiextensions.k8s.io" "v1" => apiextensions_apiserver::pkg::apis::apiextensions::v1 { CustomResourceDefinition }
    "apiregistration.k8s.io" "v1" => kube_aggregator::pkg::apis::apiregistration::v1 { APIService }
    "apps" "v1" => api::apps::v1 { ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet }
    "authentication.k8s.io" "v1" => api::authentication::v1 { SelfSubjectReview, TokenReview }
    "authorization.k8s.io" "v1" => api::authorization::v1 {
        LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
    }
    "autoscaling" "v1" => api::autoscaling::v1 { HorizontalPodAutoscaler }
    "autoscaling" "v2" => api::autoscaling::v2 { HorizontalPodAutoscaler }
    "batch" "v1" => api::batch::v1 { CronJob, Job }
    "certificates.k8s.io" "v1" => api::certificates::v1 { CertificateSigningRequest }
    "certificates.k8s.io" "v1alpha1" => api::certificates::v1alpha1 { ClusterTrustBundle }
    "certificates.k8s.io" "v1beta1" => api::certificates::v1beta1 { ClusterTrustBundle, PodCertificateRequest }
    "coordination.k8s.io" "v1" => api::coordination::v1 { Lease }
    "coordination.k8s.io" "v1alpha2" => api::coordination::v1alpha2 { LeaseCandidate }
    "coordination.k8s.io" "v1beta1" => api::coordination::v1beta1 { LeaseCandidate }
    "" "v1" => api::core::v1 {
        Binding, ComponentStatus, ConfigMap, Endpoints, Event, LimitRange, Namespace, Node, PersistentVolume,
        PersistentVolumeClaim, Pod, PodTemplate, ReplicationController, ResourceQuota, Secret, Service, ServiceAccount,
    }
    "discovery.k8s.io" "v1" => api::discovery::v1 { EndpointSlice }
    "events.k8s.io" "v1" => api::events::v1 { Event }
    "flowcontrol.apiserver.k8s.io" "v1" => api::flowcontrol::v1 { FlowSchema, PriorityLevelConfiguration }
    "internal.apiserver.k8s.io" "v1alpha1" => api::apiserverinternal::v1alpha1 { StorageVersion }
    "networking.k8s.io" "v1" => api::networking::v1 { IPAddress, Ingress, IngressClass, NetworkPolicy, ServiceCIDR }
    "networking.k8s.io" "v1beta1" => api::networking::v1beta1 { IPAddress, ServiceCIDR }
    "node.k8s.io" "v1" => api::node::v1 { RuntimeClass }
    "policy" "v1" => api::policy::v1 { PodDisruptionBudget }
    "rbac.authorization.k8s.io" "v1" => api::rbac::v1 { ClusterRole, ClusterRoleBinding, Role, RoleBinding }
    "resource.k8s.io" "v1" => api::resource::v1 { DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice }
    "resource.k8s.io" "v1alpha3" => api::resource::v1alpha3 { DeviceTaintRule, ResourcePoolStatusRequest }
    "resource.k8s.io" "v1beta1" => api::resource::v1beta1 { DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice }
    "resource.k8s.io" "v1beta2" => api::resource::v1beta2 {
        DeviceClass, DeviceTaintRule, ResourceClaim, ResourceClaimTemplate, ResourceSlice,
    }
    "scheduling.k8s.io" "v1" => api::scheduling::v1 { PriorityClass }
    "scheduling.k8s.io" "v1alpha2" => api::scheduling::v1alpha2 { PodGroup, Workload }
    "storage.k8s.io" "v1" => api::storage::v1 {
        CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment, VolumeAttributesClass,
    }
    "storage.k8s.io" "v1beta1" => api::storage::v1beta1 { VolumeAttributesClass }
    "storagemigration.k8s.io" "v1beta1" => api::storagemigration::v1beta1 { StorageVersionMigration }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_served_kind_is_described() {
        for resource in crate::resources() {
            let listed = KINDS.iter().find(|(group, version, _)| (*group, *version) == (resource.group, resource.version));
            assert!(listed.is_some_and(|(_, _, kinds)| kinds.contains(&resource.kind)), "{resource:?}");
        }
    }

    #[test]
    fn descriptions_are_named_like_the_types_of_the_table() {
        for (group, version, _) in KINDS {
            for (name, schema) in of(group, version) {
                let Some(index) = crate::type_named(&name) else { continue };
                let object = crate::types().object(index);
                for field in schema["properties"].as_object().into_iter().flatten().map(|(field, _)| field) {
                    assert!(object.field(field).is_some(), "{name}.{field} is not in the table");
                }
            }
        }
    }
}
