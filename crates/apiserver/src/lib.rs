//! The API server: authentication, authorization, admission, the generic handler, watch, discovery and custom resources.
//!
//! - [`server`]: from a request to its handler; the TLS listener
//! - [`core`]: what every part shares
//! - [`view`]: every object as encoded bytes, with history
//! - [`handler`]: every verb, once, for every kind
//! - [`effects`]: kinds that act on other objects, and special subresources
//! - [`authentication`], [`authorization`], [`admission`]: the chains
//! - [`webhook_client`]: asking webhooks, which others bring
//! - [`rendering`], [`negotiation`], [`codec`], [`yaml`]: forms and encodings; `list_body`: lists, put together as they are sent
//! - [`delivery`]: how an answer leaves: compressed, indented, or its head alone
//! - [`discovery`], [`openapi`], [`health`], [`metrics`]: what is told about the server itself
//! - [`component_statuses`]: how the parts of the control plane are
//! - [`bootstrap`]: what a new cluster begins with
//! - [`custom_resources`]: kinds that definitions add while the server runs
//! - [`aggregation`]: groups that another server answers for
//!
//! Nothing but this crate opens a store, and nothing in it knows a node's or a controller's insides.

#![forbid(unsafe_code)]

pub mod admission;
pub mod aggregation;
pub mod authentication;
pub mod authorization;
pub mod bootstrap;
pub mod codec;
pub mod component_statuses;
pub mod connection;
pub mod core;
pub mod custom_resources;
pub mod delivery;
pub mod discovery;
pub mod effects;
pub mod handler;
pub mod health;
pub mod http_body;
pub mod impersonation;
mod list_body;
pub mod metrics;
pub mod negotiation;
pub mod openapi;
pub mod openid;
pub mod options;
pub mod rendering;
pub mod request_info;
pub mod server;
pub mod setup;
mod stream_patience;
mod tunnel;
pub mod usage_metrics;
pub mod user;
pub mod version;
pub mod view;
pub mod webhook_client;
pub mod yaml;

pub use crate::core::{ClusterFacts, Core};
pub use server::ApiServer;
