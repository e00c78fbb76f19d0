//! One folder per kind: defaults, validation, strategy and table columns; and the [`Scheme`] they are served from.
//!
//! Pure: no input or output, nothing async. Effects on other objects have their place in `apiserver`.
//! To add a kind: make a folder, implement [`Strategy`], and add one line to [`served::serve_all`].

pub mod apps;
pub mod batch;
pub mod cells;
pub mod core;
pub mod plain;
pub mod problems;
pub mod scheme;
pub mod served;
pub mod strategy;

#[cfg(test)]
mod scheme_tests;

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
}
