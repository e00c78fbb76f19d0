//! Effects of a kind on other objects: the few kinds that need more than a pure strategy have a file here.
//!
//! An effect reserves before the object is written and gets the outcome told: a [`Reservation`] is released when the
//! write fails. Subresources with a meaning of their own (binding, eviction, log, token, …) are handlers here too.

pub mod binding;
pub mod binding_text;
pub mod eviction;
pub mod forward;
pub mod node_ports;
pub mod pod_streams;
pub mod proxy;
pub mod proxy_links;
pub mod reviews;
pub mod scale;
pub mod service;
pub mod service_back_ends;
pub mod token;

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use futures::future::BoxFuture;
use http::Response;
use kinds::ServedKind;
use meta::{ApiError, Object, names::GroupResource};

use crate::{
    core::{Core, RequestContext},
    http_body::{Body, Request},
};

/// Something taken before a write that must be given back when the write fails.
#[derive(Default)]
pub struct Reservation {
    release: Option<BoxFuture<'static, ()>>,
    commit: Option<BoxFuture<'static, ()>>,
}

impl Reservation {
    /// Nothing taken.
    pub fn none() -> Self {
        Self::default()
    }
    /// Runs `release` where the write fails (also when the request is dropped on the way).
    pub fn releasing(release: BoxFuture<'static, ()>) -> Self {
        Self { release: Some(release), commit: None }
    }
    /// Also runs `commit` once the object is written (to free what the old state held).
    #[must_use]
    pub fn committing(mut self, commit: BoxFuture<'static, ()>) -> Self {
        self.commit = Some(commit);
        self
    }
    /// The write succeeded.
    pub async fn commit(mut self) {
        self.release = None;
        if let Some(commit) = self.commit.take() {
            commit.await;
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(release) = self.release.take() {
            tokio::spawn(release);
        }
    }
}

/// Effects of one kind. `old` and `new` are in the served version.
#[async_trait]
#[allow(unused_variables, reason = "defaults ignore their arguments; the names document them")]
pub trait Effects: Send + Sync + 'static {
    /// Before a create is validated: reserve, and fill in what was reserved.
    async fn before_create(&self, core: &Arc<Core>, context: &RequestContext, new: &mut Object) -> Result<Reservation, ApiError> {
        Ok(Reservation::none())
    }
    /// Before an update is validated.
    async fn before_update(&self, core: &Arc<Core>, context: &RequestContext, new: &mut Object, old: &Object) -> Result<Reservation, ApiError> {
        Ok(Reservation::none())
    }
    /// After an object is gone.
    async fn after_delete(&self, core: &Arc<Core>, old: &Object) {}
    /// Before a deletion begins: may refuse.
    async fn before_delete(&self, core: &Arc<Core>, context: &RequestContext, old: &Object) -> Result<(), ApiError> {
        Ok(())
    }
}

/// Answers one subresource, or a resource that is never stored (reviews), in place of the generic handler.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Answers. Authorization has been done.
    async fn handle(&self, core: &Arc<Core>, context: RequestContext, kind: &Arc<dyn ServedKind>, request: Request) -> Result<Response<Body>, ApiError>;
}

/// All effects and handlers.
#[derive(Default)]
pub struct EffectsTable {
    /// By resource.
    pub effects: HashMap<GroupResource, Arc<dyn Effects>>,
    /// By resource and subresource; an empty subresource replaces `create` of the resource itself.
    pub handlers: HashMap<(GroupResource, &'static str), Arc<dyn Handler>>,
}

impl EffectsTable {
    /// The handler of a subresource.
    pub fn handler(&self, resource: &GroupResource, subresource: &str) -> Option<&Arc<dyn Handler>> {
        // The map's key holds a static text; the few entries make a scan as quick as a hash.
        self.handlers.iter().find(|((known, name), _)| known == resource && *name == subresource).map(|(_, handler)| handler)
    }
}
