//! The Client seam: everybody but the API server reaches the cluster through a [`Client`] made here, and keeps what it
//! reads in shared informers.
//!
//! - [`transport`]: the handle itself, and what may go wrong
//! - [`in_process`]: a client over the API server's own service, without a socket; authorization and admission stay
//! - [`connect`], [`connect_with_tls`]: the same client over TLS; [`kubeconfig`] reads whom to connect to
//! - [`requests`]: requests for the objects of one kind
//! - [`identity`]: who an in-process request is from
//! - [`feed`]: one list and watch, resumed after every kind of interruption
//! - [`informer`], [`index`]: the objects of one feed, kept in memory, looked up by key and by secondary indexes
//! - [`shared`]: watches in process, whose objects are read once for all
//! - [`metrics`]: what is counted of requests
//! - [`metadata`]: any object's metadata alone
//! - [`informers`]: one informer per kind and process; [`Pool`]: what several of them hold alike, once
//! - [`events`]: tells users what happened to an object
//! - [`clock`]: where the time comes from
//! - [`fake`]: a tiny API in memory, for tests of whoever is a client
//! - [`backoff`]: how long to wait before trying again
//! - [`any_certificate`]: for servers that need not prove who they are

#![forbid(unsafe_code)]

pub mod any_certificate;
pub mod backoff;
pub mod clock;
pub mod events;
pub mod fake;
pub mod feed;
pub mod identity;
pub mod index;
pub mod informer;
pub mod informers;
pub mod kubeconfig;
pub mod metadata;
pub mod metrics;
mod pool;
pub mod requests;
pub mod shared;
pub mod transport;
mod in_process;
mod over_tls;

pub use any_certificate::AnyCertificate;
pub use requests::{Api, Listing};
pub use backoff::Backoff;
pub use clock::{Clock, FakeClock, SystemClock};
pub use events::{EventRecorder, EventType};
pub use feed::{FeedEvent, Selection, Source};
pub use identity::Identity;
pub use in_process::in_process;
pub use index::Index;
pub use informer::{Change, Informer, Shorten, Watchable};
pub use informers::Informers;
pub use kubeconfig::Kubeconfig;
pub use pool::Pool;
pub use over_tls::{ConnectError, connect, connect_to_service, connect_with_tls};

pub use meta::ObjectKey;
pub use metadata::MetadataOnly;
pub use metrics::RequestMetrics;
pub use transport::{Body, Client, Error, Result, Status};

// What the crate `kube` knows of the API without sending anything: how requests look, and what a kind is called.
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
pub use kube_core::params::{DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy, WatchParams};
pub use kube_core::request::Error as RequestError;
pub use kube_core::{ApiResource, Request, Resource, ResourceExt, Selector as Expressions, SelectorExt};

/// The key of an object: its namespace, if it lives in one, and its name.
pub fn key_of<K: kube_core::Resource>(object: &K) -> ObjectKey {
    let metadata = object.meta();
    ObjectKey {
        namespace: metadata.namespace.as_deref().filter(|namespace| !namespace.is_empty()).map(Into::into),
        name: metadata.name.as_deref().unwrap_or_default().into(),
    }
}

/// The revision an object was last written at, as a number that grows with every write of the whole cluster. 0 when it has none.
pub fn revision_of<K: kube_core::Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// The status code the API answered with; `None` when no answer came.
pub fn status_code(error: &crate::Error) -> Option<u16> {
    match error {
        crate::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// Whether the API said that the object does not exist.
pub fn is_not_found(error: &crate::Error) -> bool {
    status_code(error) == Some(404)
}

/// Whether the API refused because the object was changed meanwhile, or exists already.
pub fn is_conflict(error: &crate::Error) -> bool {
    status_code(error) == Some(409)
}

/// Whether the API refused to create an object because one of its name is there already.
pub fn is_already_exists(error: &crate::Error) -> bool {
    matches!(error, crate::Error::Api(status) if status.code == 409 && status.reason == "AlreadyExists")
}
