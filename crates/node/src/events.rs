//! Events about pods, their containers and the node. How they are written and folded is `client::events`' business.

use std::sync::Arc;

pub use client::EventType;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};

use crate::{clock::Clock, pod::{self, Role}};

/// Records events. Never waits and never fails.
#[derive(Clone)]
pub struct EventRecorder {
    recorder: client::EventRecorder,
    node_name: String,
}

impl EventRecorder {
    /// A recorder whose events a task writes until the recorder is dropped.
    #[must_use]
    pub fn start(client: client::Client, node_name: &str, clock: Arc<dyn Clock>) -> Self {
        Self { recorder: client::EventRecorder::new(client, "kubelet", Some(node_name), clock), node_name: node_name.to_owned() }
    }

    /// An event about a pod.
    pub fn pod(&self, pod: &Pod, kind: EventType, reason: &str, message: impl Into<String>) {
        self.recorder.record(pod, kind, reason, message);
    }

    /// An event about a container of a pod.
    pub fn container(&self, pod: &Pod, container: &str, kind: EventType, reason: &str, message: impl Into<String>) {
        let mut about = client::events::reference(pod);
        about.field_path = pod::find_container(pod, container).map(|(role, _)| {
            let list = match role {
                Role::Init | Role::Sidecar => "initContainers",
                Role::Main => "containers",
                Role::Ephemeral => "ephemeralContainers",
            };
            format!("spec.{list}{{{container}}}")
        });
        self.recorder.record_about(about, kind, reason, message);
    }

    /// An event about the node. As upstream, its UID in events is its name.
    pub fn node(&self, kind: EventType, reason: &str, message: impl Into<String>) {
        let about = ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(self.node_name.clone()),
            uid: Some(self.node_name.clone()),
            ..ObjectReference::default()
        };
        self.recorder.record_about(about, kind, reason, message);
    }
}
