//! One folder per kind: defaults, validation, strategy and table columns; and the [`Scheme`] they are served from.
//!
//! Pure: no input or output, nothing async. Effects on other objects have their place in `apiserver`.
//! To add a kind: make a folder, implement [`Strategy`], and add one line to [`served::serve_all`].

pub mod admission_registration;
pub mod apps;
pub mod autoscaling;
pub mod batch;
pub mod cells;
pub mod certificates;
pub mod coordination;
pub mod core;
pub mod device_rules;
pub mod devices;
pub mod discovery;
pub mod earlier_version;
pub mod extension;
pub mod flow_control;
pub mod lease_candidate;
pub mod networking;
pub mod plain;
pub mod pod_groups;
pub mod policy;
pub mod problems;
pub mod quota;
pub mod rbac;
pub mod resource_names;
pub mod runtime_class;
pub mod runtime_config;
pub mod scheduling;
pub mod scheme;
pub mod served;
pub(crate) mod status_rules;
pub mod storage;
pub mod storage_versions;
pub mod strategy;
mod warnings;

#[cfg(test)]
mod scheme_tests;

pub use runtime_config::{RuntimeConfig, RuntimeConfigError};
pub use scheme::{KindInfo, Scheme, ServedKind, SubresourceInfo};
pub use strategy::{Column, DeletionGrace, NameRule, Strategy, WriteContext};

/// One line per kind that has a folder. A kind not named here is served plain, from its schema alone.
pub(crate) fn serve_strategies(scheme: &mut Scheme) {
    scheme.serve("", "v1", "ConfigMap", core::config_map::ConfigMapStrategy);
    scheme.serve("", "v1", "Endpoints", core::endpoints::EndpointsStrategy);
    scheme.serve("", "v1", "Event", core::event::EventStrategy);
    scheme.serve("", "v1", "LimitRange", core::limit_range::LimitRangeStrategy);
    scheme.serve("", "v1", "Namespace", core::namespace::NamespaceStrategy);
    scheme.serve("", "v1", "Node", core::node::NodeStrategy);
    scheme.serve("", "v1", "PersistentVolume", core::persistent_volume::PersistentVolumeStrategy);
    scheme.serve("", "v1", "PersistentVolumeClaim", core::persistent_volume_claim::PersistentVolumeClaimStrategy);
    scheme.serve("", "v1", "Pod", core::pod::PodStrategy);
    scheme.serve("", "v1", "PodTemplate", core::pod_template::PodTemplateStrategy);
    scheme.serve("", "v1", "ReplicationController", core::replication_controller::ReplicationControllerStrategy);
    scheme.serve("", "v1", "ResourceQuota", core::resource_quota::ResourceQuotaStrategy);
    scheme.serve("", "v1", "Secret", core::secret::SecretStrategy);
    scheme.serve("", "v1", "Service", core::service::ServiceStrategy);
    scheme.serve("", "v1", "ServiceAccount", core::service_account::ServiceAccountStrategy);
    scheme.serve("apps", "v1", "ControllerRevision", apps::controller_revision::ControllerRevisionStrategy);
    scheme.serve("apps", "v1", "DaemonSet", apps::daemon_set::DaemonSetStrategy);
    scheme.serve("apps", "v1", "Deployment", apps::deployment::DeploymentStrategy);
    scheme.serve("apps", "v1", "ReplicaSet", apps::replica_set::ReplicaSetStrategy);
    scheme.serve("apps", "v1", "StatefulSet", apps::stateful_set::StatefulSetStrategy);
    scheme.serve("batch", "v1", "CronJob", batch::cron_job::CronJobStrategy);
    scheme.serve("batch", "v1", "Job", batch::job::JobStrategy);
    scheme.serve("events.k8s.io", "v1", "Event", core::event::NewEventStrategy);
    serve_others(scheme);
}

/// The kinds of the smaller groups.
fn serve_others(scheme: &mut Scheme) {
    use admission_registration::{PolicyBindingStrategy, PolicyStrategy, WebhookConfigurationStrategy};
    const ADMISSION: &str = "admissionregistration.k8s.io";
    scheme.serve(ADMISSION, "v1", "MutatingAdmissionPolicy", PolicyStrategy { parts: "mutations" });
    scheme.serve(ADMISSION, "v1", "MutatingAdmissionPolicyBinding", PolicyBindingStrategy { validating: false });
    scheme.serve(ADMISSION, "v1", "MutatingWebhookConfiguration", WebhookConfigurationStrategy);
    scheme.serve(ADMISSION, "v1", "ValidatingAdmissionPolicy", PolicyStrategy { parts: "validations" });
    scheme.serve(ADMISSION, "v1", "ValidatingAdmissionPolicyBinding", PolicyBindingStrategy { validating: true });
    scheme.serve(ADMISSION, "v1", "ValidatingWebhookConfiguration", WebhookConfigurationStrategy);
    scheme.serve("apiregistration.k8s.io", "v1", "APIService", extension::ApiServiceStrategy);
    scheme.serve("autoscaling", "v1", "HorizontalPodAutoscaler", autoscaling::OldAutoscalerStrategy);
    scheme.serve("autoscaling", "v2", "HorizontalPodAutoscaler", autoscaling::AutoscalerStrategy);
    scheme.serve("certificates.k8s.io", "v1", "CertificateSigningRequest", certificates::CertificateSigningRequestStrategy);
    scheme.serve("coordination.k8s.io", "v1", "Lease", coordination::LeaseStrategy);
    scheme.serve("discovery.k8s.io", "v1", "EndpointSlice", discovery::EndpointSliceStrategy);
    scheme.serve("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema", flow_control::FlowSchemaStrategy);
    scheme.serve("flowcontrol.apiserver.k8s.io", "v1", "PriorityLevelConfiguration", flow_control::PriorityLevelStrategy);
    scheme.serve("networking.k8s.io", "v1", "IPAddress", networking::address::IpAddressStrategy);
    scheme.serve("networking.k8s.io", "v1", "Ingress", networking::ingress::IngressStrategy);
    scheme.serve("networking.k8s.io", "v1", "IngressClass", networking::ingress_class::IngressClassStrategy);
    scheme.serve("networking.k8s.io", "v1", "NetworkPolicy", networking::network_policy::NetworkPolicyStrategy);
    scheme.serve("networking.k8s.io", "v1", "ServiceCIDR", networking::address::ServiceCidrStrategy);
    scheme.serve("node.k8s.io", "v1", "RuntimeClass", runtime_class::RuntimeClassStrategy);
    scheme.serve("policy", "v1", "PodDisruptionBudget", policy::PodDisruptionBudgetStrategy);
    scheme.serve(rbac::GROUP, "v1", "ClusterRole", rbac::role::ClusterRoleStrategy);
    scheme.serve(rbac::GROUP, "v1", "ClusterRoleBinding", rbac::binding::ClusterRoleBindingStrategy);
    scheme.serve(rbac::GROUP, "v1", "Role", rbac::role::RoleStrategy);
    scheme.serve(rbac::GROUP, "v1", "RoleBinding", rbac::binding::RoleBindingStrategy);
    scheme.serve("resource.k8s.io", "v1", "DeviceClass", devices::DeviceClassStrategy);
    scheme.serve("resource.k8s.io", "v1", "ResourceClaim", devices::ResourceClaimStrategy);
    scheme.serve("resource.k8s.io", "v1", "ResourceClaimTemplate", devices::ResourceClaimTemplateStrategy);
    scheme.serve("resource.k8s.io", "v1", "ResourceSlice", devices::ResourceSliceStrategy);
    scheme.serve("scheduling.k8s.io", "v1", "PriorityClass", scheduling::PriorityClassStrategy);
    scheme.serve("storage.k8s.io", "v1", "CSIDriver", storage::CsiDriverStrategy);
    scheme.serve("storage.k8s.io", "v1", "CSINode", storage::CsiNodeStrategy);
    scheme.serve("storage.k8s.io", "v1", "CSIStorageCapacity", storage::StorageCapacityStrategy);
    scheme.serve("storage.k8s.io", "v1", "StorageClass", storage::StorageClassStrategy);
    scheme.serve("storage.k8s.io", "v1", "VolumeAttachment", storage::VolumeAttachmentStrategy);
    scheme.serve("storage.k8s.io", "v1", "VolumeAttributesClass", storage::VolumeAttributesClassStrategy);
    serve_betas(scheme);
}

/// What has no stable version yet.
fn serve_betas(scheme: &mut Scheme) {
    scheme.serve("certificates.k8s.io", "v1beta1", "ClusterTrustBundle", certificates::cluster_trust_bundle::ClusterTrustBundleStrategy);
    scheme.serve("certificates.k8s.io", "v1beta1", "PodCertificateRequest", certificates::pod_certificate_request::PodCertificateRequestStrategy);
    scheme.serve("coordination.k8s.io", "v1beta1", "LeaseCandidate", lease_candidate::LeaseCandidateStrategy);
    scheme.serve("internal.apiserver.k8s.io", "v1alpha1", "StorageVersion", storage_versions::StorageVersionStrategy);
    scheme.serve("resource.k8s.io", "v1beta2", "DeviceTaintRule", device_rules::DeviceTaintRuleStrategy);
    scheme.serve("resource.k8s.io", "v1alpha3", "ResourcePoolStatusRequest", device_rules::ResourcePoolStatusRequestStrategy);
    scheme.serve("scheduling.k8s.io", "v1alpha2", "PodGroup", pod_groups::PodGroupStrategy);
    scheme.serve("scheduling.k8s.io", "v1alpha2", "Workload", pod_groups::WorkloadStrategy);
    scheme.serve("storagemigration.k8s.io", "v1beta1", "StorageVersionMigration", storage_versions::StorageVersionMigrationStrategy);
}
