//! Admission: changes and checks between reading a write and storing it. One file per plug-in; the order of
//! [`AdmissionChain::plugins`] is upstream's.

pub mod certificates;
pub mod default_tolerations;
pub mod namespace_lifecycle;
pub mod priority;
pub mod rbac_escalation;
pub mod service_account;
pub mod subresource_rules;

use std::sync::Arc;

use async_trait::async_trait;
use kinds::ServedKind;
use meta::{ApiError, Object};

use crate::{core::Core, user::User};

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A new object (or a subresource such as `binding` or `eviction` that is created).
    Create,
    /// A changed object.
    Update,
    /// An object that goes.
    Delete,
    /// exec, attach, port-forward, proxy.
    Connect,
}

impl Operation {
    /// `CREATE`, `UPDATE`, …
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// A write on its way.
pub struct Attributes<'a> {
    /// What is being done.
    pub operation: Operation,
    /// Kind of the resource in the path.
    pub kind: &'a Arc<dyn ServedKind>,
    /// Subresource, empty for none.
    pub subresource: &'a str,
    /// Namespace, empty for none.
    pub namespace: &'a str,
    /// Name; empty while it is not generated yet.
    pub name: &'a str,
    /// Who asks.
    pub user: &'a User,
    /// `dryRun=All`
    pub dry_run: bool,
    /// The options object of the request (CreateOptions, …), for webhooks.
    pub options: Option<Object>,
}

/// One plug-in.
#[async_trait]
#[allow(unused_variables, reason = "defaults ignore their arguments; the names document them")]
pub trait AdmissionPlugin: Send + Sync + 'static {
    /// Upstream's name.
    fn name(&self) -> &'static str;
    /// May change the object (none for deletions), or refuse.
    async fn admit(&self, core: &Core, attributes: &Attributes<'_>, object: Option<&mut Object>, old: Option<&Object>) -> Result<(), ApiError> {
        Ok(())
    }
    /// May only refuse. Runs after validation.
    async fn validate(&self, core: &Core, attributes: &Attributes<'_>, object: Option<&Object>, old: Option<&Object>) -> Result<(), ApiError> {
        Ok(())
    }
}

/// All plug-ins, in order.
#[derive(Default)]
pub struct AdmissionChain {
    /// In order.
    pub plugins: Vec<Arc<dyn AdmissionPlugin>>,
}

impl AdmissionChain {
    /// Lets every plug-in change the object.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn admit(&self, core: &Core, attributes: &Attributes<'_>, mut object: Option<&mut Object>, old: Option<&Object>) -> Result<(), ApiError> {
        for plugin in &self.plugins {
            plugin.admit(core, attributes, object.as_deref_mut(), old).await?;
        }
        Ok(())
    }
    /// Asks every plug-in.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn validate(&self, core: &Core, attributes: &Attributes<'_>, object: Option<&Object>, old: Option<&Object>) -> Result<(), ApiError> {
        for plugin in &self.plugins {
            plugin.validate(core, attributes, object, old).await?;
        }
        Ok(())
    }
}
