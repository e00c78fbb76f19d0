//! Admission: changes and checks between reading a write and storing it. One file per plug-in; the order of
//! [`AdmissionChain::plugins`] is upstream's.

pub mod certificates;
pub mod configuration;
pub mod default_ingress_class;
pub mod default_tolerations;
pub mod limit_ranger;
pub mod namespace_lifecycle;
pub mod node_restriction;
pub mod pod_security;
pub mod pod_topology_labels;
pub mod priority;
pub mod rbac_escalation;
pub mod resource_quota;
pub mod runtime_class;
pub mod service_account;
pub mod storage;
pub mod storage_protection;
pub mod subresource_rules;
pub mod taint_nodes;
pub mod webhooks;

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use kinds::ServedKind;
use meta::{ApiError, Object};
use parking_lot::Mutex;

use crate::{
    core::{Core, RequestContext},
    options::DeleteOptions,
    user::User,
};

pub use crate::metrics::admission::Step;
use webhooks::reinvocation::Reinvocation;

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
    /// The request: warnings go there, and webhooks are told of its options.
    pub context: &'a RequestContext,
    /// Options of a deletion.
    pub delete: Option<&'a DeleteOptions>,
    /// Which webhooks were asked already.
    pub reinvocation: Mutex<Reinvocation>,
}

impl<'a> Attributes<'a> {
    /// Of a request, about what its path names.
    pub fn of(operation: Operation, kind: &'a Arc<dyn ServedKind>, context: &'a RequestContext) -> Self {
        Self {
            operation,
            kind,
            subresource: &context.info.subresource,
            namespace: &context.info.namespace,
            name: &context.info.name,
            user: &context.user,
            dry_run: context.query.dry_run,
            context,
            delete: None,
            reinvocation: Mutex::default(),
        }
    }
    /// Whether it is about objects of a resource themselves, not about a subresource.
    pub fn is_about(&self, group: &str, plural: &str) -> bool {
        let info = self.kind.info();
        self.subresource.is_empty() && *info.kind.group == *group && *info.plural == *plural
    }
    /// 403 with a reason.
    pub fn forbidden(&self, why: impl std::fmt::Display) -> ApiError {
        ApiError::forbidden(&self.kind.info().group_resource(), self.name, why)
    }
}

/// One plug-in.
#[async_trait]
#[allow(unused_variables, reason = "defaults ignore their arguments; the names document them")]
pub trait AdmissionPlugin: Send + Sync + 'static {
    /// Upstream's name.
    fn name(&self) -> &'static str;
    /// The steps it has a part in: how long it takes in others is not counted.
    fn steps(&self) -> &'static [Step] {
        &[Step::Admit, Step::Validate]
    }
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
    /// Lets every plug-in change the object; once more where a webhook changed it.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn admit(&self, core: &Core, attributes: &Attributes<'_>, mut object: Option<&mut Object>, old: Option<&Object>) -> Result<(), ApiError> {
        let mut times = Times::begin(core, Step::Admit, attributes.operation);
        loop {
            for plugin in &self.plugins {
                let result = plugin.admit(core, attributes, object.as_deref_mut(), old).await;
                times.asked(plugin.as_ref(), &result);
                result?;
            }
            if !attributes.reinvocation.lock().begin_second_round() {
                return Ok(());
            }
        }
    }
    /// Asks every plug-in.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn validate(&self, core: &Core, attributes: &Attributes<'_>, object: Option<&Object>, old: Option<&Object>) -> Result<(), ApiError> {
        let mut times = Times::begin(core, Step::Validate, attributes.operation);
        for plugin in &self.plugins {
            let result = plugin.validate(core, attributes, object, old).await;
            times.asked(plugin.as_ref(), &result);
            result?;
        }
        Ok(())
    }
}

/// How long a step and the plug-ins in it take; the step is counted when this goes.
struct Times<'a> {
    core: &'a Core,
    step: Step,
    operation: Operation,
    began: Instant,
    /// When the plug-in before was done: one look at the clock for each.
    latest: Instant,
    refused: bool,
}

impl<'a> Times<'a> {
    fn begin(core: &'a Core, step: Step, operation: Operation) -> Self {
        let began = Instant::now();
        Self { core, step, operation, began, latest: began, refused: false }
    }
    fn asked(&mut self, plugin: &dyn AdmissionPlugin, result: &Result<(), ApiError>) {
        self.refused = result.is_err();
        if !plugin.steps().contains(&self.step) && !self.refused {
            return;
        }
        let now = Instant::now();
        self.core.metrics.admission.plugin(plugin.name(), self.step, self.operation, self.refused, now.duration_since(self.latest));
        self.latest = now;
    }
}

impl Drop for Times<'_> {
    fn drop(&mut self) {
        self.core.metrics.admission.step(self.step, self.operation, self.refused, self.began.elapsed());
    }
}
