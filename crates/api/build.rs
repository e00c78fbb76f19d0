//! Takes the descriptions of types and fields out of `k8s-openapi`, packs them, and leaves them for `src/openapi/descriptions.rs`.
//!
//! That crate has them as functions that build JSON schemas: several MiB of code in whatever links them. So this script alone does,
//! at build time, and the program carries a packed text.

use std::{env, fs, io::Write, path::PathBuf};

use flate2::{Compression, write::ZlibEncoder};
use k8s_openapi::{
    api, apiextensions_apiserver, apimachinery, kube_aggregator,
    schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings},
};
use serde_json::{Map, Value};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    common(&mut generator);
    kinds(&mut generator);
    let mut lines = Vec::new();
    for (name, schema) in generator.take_definitions(false) {
        lines.push(format!("{name}\t{}\n", words(&schema)));
    }
    lines.sort();
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::best());
    for line in lines {
        packed.write_all(line.as_bytes()).expect("writing into memory");
    }
    let packed = packed.finish().expect("writing into memory");
    let folder = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(folder.join("descriptions.zlib"), packed).expect("OUT_DIR can be written");
}

/// What a schema says in words: `description` of the type, and of its fields under `properties`.
fn words(schema: &Value) -> Value {
    let mut words = Map::new();
    if let Some(description) = schema.get("description") {
        words.insert("description".to_owned(), description.clone());
    }
    let fields = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    let described: Map<String, Value> = fields.map(|(name, field)| (name.clone(), field.get("description").cloned().unwrap_or_default())).collect();
    if !described.is_empty() {
        words.insert("properties".to_owned(), Value::Object(described));
    }
    Value::Object(words)
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
    ($($($module:ident)::+ { $($kind:ident),+ $(,)? })+) => {
        /// Every kind, and with it all that it is made of.
        fn kinds(generator: &mut SchemaGenerator) {
            $({
                use $($module)::+ as here;
                $(add::<here::$kind>(generator);)+
            })+
        }
    };
}

kinds! {
    api::admissionregistration::v1 {
        MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, MutatingWebhookConfiguration, ValidatingAdmissionPolicy,
        ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration,
    }
    api::admissionregistration::v1alpha1 {
        MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding,
    }
    api::admissionregistration::v1beta1 {
        MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding,
    }
    apiextensions_apiserver::pkg::apis::apiextensions::v1 { CustomResourceDefinition }
    kube_aggregator::pkg::apis::apiregistration::v1 { APIService }
    api::apps::v1 { ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet }
    api::authentication::v1 { SelfSubjectReview, TokenReview }
    api::authorization::v1 {
        LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
    }
    api::autoscaling::v1 { HorizontalPodAutoscaler }
    api::autoscaling::v2 { HorizontalPodAutoscaler }
    api::batch::v1 { CronJob, Job }
    api::certificates::v1 { CertificateSigningRequest }
    api::certificates::v1alpha1 { ClusterTrustBundle }
    api::certificates::v1beta1 { ClusterTrustBundle, PodCertificateRequest }
    api::coordination::v1 { Lease }
    api::coordination::v1alpha2 { LeaseCandidate }
    api::coordination::v1beta1 { LeaseCandidate }
    api::core::v1 {
        Binding, ComponentStatus, ConfigMap, Endpoints, Event, LimitRange, Namespace, Node, PersistentVolume,
        PersistentVolumeClaim, Pod, PodTemplate, ReplicationController, ResourceQuota, Secret, Service, ServiceAccount,
    }
    api::discovery::v1 { EndpointSlice }
    api::events::v1 { Event }
    api::flowcontrol::v1 { FlowSchema, PriorityLevelConfiguration }
    api::apiserverinternal::v1alpha1 { StorageVersion }
    api::networking::v1 { IPAddress, Ingress, IngressClass, NetworkPolicy, ServiceCIDR }
    api::networking::v1beta1 { IPAddress, ServiceCIDR }
    api::node::v1 { RuntimeClass }
    api::policy::v1 { PodDisruptionBudget }
    api::rbac::v1 { ClusterRole, ClusterRoleBinding, Role, RoleBinding }
    api::resource::v1 { DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice }
    api::resource::v1alpha3 { DeviceTaintRule, ResourcePoolStatusRequest }
    api::resource::v1beta1 { DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice }
    api::resource::v1beta2 {
        DeviceClass, DeviceTaintRule, ResourceClaim, ResourceClaimTemplate, ResourceSlice,
    }
    api::scheduling::v1 { PriorityClass }
    api::scheduling::v1alpha2 { PodGroup, Workload }
    api::storage::v1 {
        CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment, VolumeAttributesClass,
    }
    api::storage::v1beta1 { VolumeAttributesClass }
    api::storagemigration::v1beta1 { StorageVersionMigration }
}
