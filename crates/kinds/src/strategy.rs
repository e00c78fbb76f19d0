//! What one kind adds to the generic handler.
//!
//! Order of a write, as upstream: read, default, mutating admission, default again, prepare, validate, warn, validating
//! admission, store. `default` and `prepare_*` may change the object; `validate*` and `warnings` may only look.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object};
use serde_json::Value;

/// What a strategy may know about the request.
#[derive(Debug, Clone)]
pub struct WriteContext {
    /// The server's clock.
    pub now: Timestamp,
    /// Who asks.
    pub user: String,
    /// Groups of who asks.
    pub groups: Vec<String>,
    /// The unique id of who asks, where there is one.
    pub uid: String,
    /// What else is known of who asks.
    pub extra: BTreeMap<String, Vec<String>>,
    /// `dryRun=All`
    pub dry_run: bool,
}

pub use meta::validation::NameRule;

/// One column of `kubectl get`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Column {
    /// Heading.
    pub name: &'static str,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: &'static str,
    /// `name` for the first column, else empty.
    pub format: &'static str,
    /// Words for `explain`-like output.
    pub description: &'static str,
    /// 0 is shown always, others only with `-o wide`.
    pub priority: i32,
}

impl Column {
    /// The name column.
    pub const NAME: Self = Self {
        name: "Name",
        kind: "string",
        format: "name",
        description: "Name of the object, unique among its kind in its namespace.",
        priority: 0,
    };
    /// The age column.
    pub const AGE: Self =
        Self { name: "Age", kind: "date", format: "", description: "When the object was created.", priority: 0 };
    /// A text column that is always shown.
    pub const fn text(name: &'static str, description: &'static str) -> Self {
        Self { name, kind: "string", format: "", description, priority: 0 }
    }
    /// A number column that is always shown.
    pub const fn integer(name: &'static str, description: &'static str) -> Self {
        Self { name, kind: "integer", format: "", description, priority: 0 }
    }
    /// The same column, shown with `-o wide` only.
    #[must_use]
    pub const fn wide(mut self) -> Self {
        self.priority = 1;
        self
    }
}

/// How deleting an object of a kind begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeletionGrace {
    /// It goes at once (unless finalizers hold it).
    Immediate,
    /// It gets a deletion timestamp this many seconds ahead, and somebody (the kubelet) deletes it for good.
    Seconds(i64),
}

/// What one kind adds to the generic handler. Every method has upstream's most common behaviour as its default.
#[allow(unused_variables, reason = "defaults ignore their arguments; the names document them")]
pub trait Strategy: Send + Sync + 'static {
    /// The typed object.
    type Kind: api::Json + Send + Sync + 'static;

    /// From the stored version into the served one, where they differ.
    ///
    /// # Errors
    /// A sentence on an object that does not have the stored version's shape.
    fn from_storage(&self, object: Object) -> Result<Object, String> {
        Ok(object)
    }
    /// From the served version into the stored one, where they differ.
    ///
    /// # Errors
    /// A sentence on an object that does not have the served version's shape.
    fn to_storage(&self, object: Object) -> Result<Object, String> {
        Ok(object)
    }
    /// Defaults that depend on other fields; constant ones stand in the table of facts and are filled in before.
    fn default(&self, object: &mut Self::Kind) {}
    /// Whether [`Strategy::default`] does anything; kinds that are written often say no, and are not read for it.
    fn has_defaults(&self) -> bool {
        true
    }
    /// Last changes before validation of a new object. Status was dropped already where the kind has one.
    fn prepare_create(&self, context: &WriteContext, new: &mut Self::Kind) {}
    /// Last changes before validation of a changed object. Status was taken from `old` already where the kind has one.
    fn prepare_update(&self, context: &WriteContext, new: &mut Self::Kind, old: &Self::Kind) {}
    /// Last changes of a status update. Everything but status and metadata was taken from `old` already.
    fn prepare_status_update(&self, context: &WriteContext, new: &mut Self::Kind, old: &Self::Kind) {}
    /// Whether an update of the status leaves the metadata alone that people write: labels, annotations, finalizers and owners.
    ///
    /// Source: Kubernetes `apimachinery/pkg/apis/meta/v1/meta.go`, `ResetObjectMetaForStatus`, which the strategies of younger kinds call.
    fn status_keeps_metadata(&self) -> bool {
        false
    }
    /// Whether a subresource whose body is the object itself (`pods/resize`) has rules of its own, told by the two methods below.
    fn has_rules_for(&self, subresource: &str) -> bool {
        false
    }
    /// Takes back what an update through such a subresource may not change.
    fn prepare_subresource_update(&self, subresource: &str, new: &mut Self::Kind, old: &Self::Kind) {}
    /// What is wrong with a change through such a subresource.
    fn validate_subresource_update(&self, subresource: &str, new: &Self::Kind, old: &Self::Kind) -> Vec<FieldError> {
        Vec::new()
    }
    /// What is wrong with a new object, metadata apart (the generic handler checks that).
    fn validate(&self, new: &Self::Kind) -> Vec<FieldError>;
    /// What is wrong with a change: by default what is wrong with the new state.
    fn validate_update(&self, new: &Self::Kind, old: &Self::Kind) -> Vec<FieldError> {
        self.validate(new)
    }
    /// What is wrong with a new status.
    fn validate_status_update(&self, new: &Self::Kind, old: &Self::Kind) -> Vec<FieldError> {
        Vec::new()
    }
    /// Words for the client that are no errors.
    fn warnings(&self, new: &Self::Kind, old: Option<&Self::Kind>) -> Vec<String> {
        Vec::new()
    }
    /// Words for whoever reports a status. Statuses are written often, so this looks at the object as it is.
    fn status_warnings(&self, new: &Object) -> Vec<String> {
        Vec::new()
    }
    /// Whether [`Strategy::warnings`] may say anything.
    fn has_warnings(&self) -> bool {
        false
    }
    /// How names must look.
    fn name_rule(&self) -> NameRule {
        NameRule::Dns1123Subdomain
    }
    /// Whether `metadata.generation` counts changes of everything but metadata and status.
    fn tracks_generation(&self) -> bool {
        false
    }
    /// Whether an update of a missing object creates it (upstream: Lease, Event, Endpoints, Service accounts' kin …).
    fn allows_create_on_update(&self) -> bool {
        false
    }
    /// Whether an update without a resourceVersion is taken as "whatever is there now".
    fn allows_unconditional_update(&self) -> bool {
        true
    }
    /// Fields usable in field selectors beside `metadata.name` and `metadata.namespace`, with their values.
    fn selectable_fields(&self, object: &Self::Kind) -> Vec<(&'static str, String)> {
        Vec::new()
    }
    /// Names of [`Strategy::selectable_fields`], for checking selectors.
    fn selectable_field_names(&self) -> &'static [&'static str] {
        &[]
    }
    /// Columns of `kubectl get`.
    fn columns(&self) -> &'static [Column] {
        &[Column::NAME, Column::AGE]
    }
    /// Cells of one row, one per column. `now` is for ages inside other columns; the age column itself is rendered from
    /// `metadata.creationTimestamp` by [`crate::plain::age`].
    fn row(&self, object: &Self::Kind, raw: &Object, now: Timestamp) -> Vec<Value> {
        vec![raw.name().into(), raw.text(&["metadata", "creationTimestamp"]).unwrap_or_default().into()]
    }
    /// How a deletion begins. `requested` is `gracePeriodSeconds` of the request.
    fn deletion_grace(&self, object: &Self::Kind, requested: Option<i64>) -> DeletionGrace {
        DeletionGrace::Immediate
    }
    /// What a deletion without a propagation policy does to dependents: true orphans them.
    fn orphans_by_default(&self) -> bool {
        false
    }
    /// How long objects live in the store, none for ever.
    fn lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The path of `metadata`.
pub fn metadata_path() -> FieldPath {
    FieldPath::new("metadata")
}
