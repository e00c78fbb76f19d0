//! The Scheme: every kind that is served, built-in or custom, behind one object-safe trait.
//!
//! Routes, discovery, OpenAPI, RBAC names and tables are computed from it. It is an immutable value: a custom resource
//! definition makes a new Scheme with one more entry.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use api::Json;
use jiff::Timestamp;
use meta::{
    FieldError, Object,
    names::{GroupKind, GroupResource, GroupVersion, GroupVersionKind, GroupVersionResource},
    schema::Schema,
};
use serde_json::Value;

use crate::strategy::{Column, DeletionGrace, NameRule, Strategy, WriteContext};

/// A column with owned texts, since custom resources bring their own.
#[derive(Debug, Clone, PartialEq)]
pub struct TableColumn {
    /// Heading.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: String,
    /// `name` for the first column, else a format or empty.
    pub format: String,
    /// Words.
    pub description: String,
    /// 0 is shown always.
    pub priority: i32,
}

impl From<&Column> for TableColumn {
    fn from(column: &Column) -> Self {
        Self {
            name: column.name.to_owned(),
            kind: column.kind.to_owned(),
            format: column.format.to_owned(),
            description: column.description.to_owned(),
            priority: column.priority,
        }
    }
}

/// A subresource as discovery lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubresourceInfo {
    /// `status`, `scale`, `log`, …
    pub name: String,
    /// Kind it speaks (`Scale`, `Eviction`, …), with its group and version.
    pub kind: GroupVersionKind,
    /// Verbs.
    pub verbs: Vec<String>,
}

/// Names and abilities of a served kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindInfo {
    /// Group, version and kind.
    pub kind: GroupVersionKind,
    /// Kind of its lists.
    pub list_kind: String,
    /// Plural name in paths.
    pub plural: Arc<str>,
    /// Singular name.
    pub singular: String,
    /// Short names.
    pub short_names: Vec<String>,
    /// Categories, such as `all`.
    pub categories: Vec<String>,
    /// Lives in namespaces.
    pub namespaced: bool,
    /// Verbs of the resource itself; without `get` and `list` it is a review-like kind that is never stored.
    pub verbs: Vec<String>,
    /// Subresources.
    pub subresources: Vec<SubresourceInfo>,
    /// Group and version objects are stored in.
    pub storage_version: GroupVersion,
    /// Comes from a CustomResourceDefinition.
    pub custom: bool,
}

impl KindInfo {
    /// Group, version and plural name.
    pub fn resource(&self) -> GroupVersionResource {
        GroupVersionResource { group: self.kind.group.clone(), version: self.kind.version.clone(), resource: self.plural.clone() }
    }
    /// Group and plural name.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource { group: self.kind.group.clone(), resource: self.plural.clone() }
    }
    /// Group and kind.
    pub fn group_kind(&self) -> GroupKind {
        self.kind.group_kind()
    }
    /// Whether the resource has a verb.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|known| known == verb)
    }
    /// The subresource of that name.
    pub fn subresource(&self, name: &str) -> Option<&SubresourceInfo> {
        self.subresources.iter().find(|known| known.name == name)
    }
    /// Prefix of its keys in the store. Kinds served in several groups (Event) share the storage version's.
    pub fn storage_prefix(&self) -> String {
        let group = &self.storage_version.group;
        if group.is_empty() { format!("/registry/{}/", self.plural) } else { format!("/registry/{}.{group}/", self.plural) }
    }
    /// The key of one object.
    pub fn storage_key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced { format!("{}{namespace}/{name}", self.storage_prefix()) } else { format!("{}{name}", self.storage_prefix()) }
    }
}

/// A kind as the generic handler sees it. Built-in kinds come from a [`Strategy`], custom ones from their definition.
#[allow(clippy::missing_errors_doc, reason = "every error is an object that does not have its kind's shape, told once here")]
pub trait ServedKind: Send + Sync + 'static {
    /// Names and abilities.
    fn info(&self) -> &KindInfo;
    /// Shape of its objects in the served version.
    fn schema(&self) -> &Schema;
    /// From the stored version into the served one.
    fn from_storage(&self, object: Object) -> Result<Object, String> {
        Ok(object)
    }
    /// From the served version into the stored one.
    fn to_storage(&self, object: Object) -> Result<Object, String> {
        Ok(object)
    }
    /// Whether [`ServedKind::from_storage`] changes anything.
    fn converts(&self) -> bool {
        self.info().kind.group_version() != self.info().storage_version
    }
    /// Whether its objects look as those of the stored version do, the name of the version apart.
    fn looks_as_stored(&self) -> bool {
        !self.converts()
    }
    /// The schema of a version of its definition that is not served.
    fn unserved_version(&self, _version: &str) -> Option<&Schema> {
        None
    }
    /// The webhook that converts between its versions (`spec.conversion.webhook` of its definition), where there is one. Whoever
    /// calls [`ServedKind::from_storage`] and [`ServedKind::to_storage`] must then have asked it before.
    fn conversion_webhook(&self) -> Option<&Value> {
        None
    }
    /// All defaults.
    fn default(&self, object: &mut Object) -> Result<(), String>;
    /// Prepares and validates a new object.
    fn finish_create(&self, context: &WriteContext, new: &mut Object) -> Result<Vec<FieldError>, String>;
    /// Prepares and validates a changed object.
    fn finish_update(&self, context: &WriteContext, new: &mut Object, old: &Object) -> Result<Vec<FieldError>, String>;
    /// Prepares and validates a changed status.
    fn finish_status_update(&self, context: &WriteContext, new: &mut Object, old: &Object) -> Result<Vec<FieldError>, String>;
    /// Takes back what an update through a subresource of the object itself may not change.
    fn prepare_subresource_update(&self, _subresource: &str, _new: &mut Object, _old: &Object) -> Result<(), String> {
        Ok(())
    }
    /// Prepares and validates an update through a subresource of the object itself.
    fn finish_subresource_update(&self, _subresource: &str, _new: &mut Object, _old: &Object) -> Result<Vec<FieldError>, String> {
        Ok(Vec::new())
    }
    /// Words for the client that are no errors.
    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String>;
    /// Words for whoever reports a status, that are no errors.
    fn status_warnings(&self, _new: &Object) -> Vec<String> {
        Vec::new()
    }
    /// What to tell whoever uses this version, where upstream, or who defined it, says that it is not to be used any more.
    fn deprecation(&self) -> Option<String> {
        // Source: Kubernetes 1.36, `APILifecycleDeprecated` and `APILifecycleReplacement` of the versions that are served here, in the words
        // of `apiserver/pkg/endpoints/deprecation`.
        let kind = &self.info().kind;
        let words = match (&*kind.group, &*kind.kind) {
            ("", "ComponentStatus") => "v1 ComponentStatus is deprecated in v1.19+",
            ("", "Endpoints") => "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
            _ => return None,
        };
        Some(words.to_owned())
    }
    /// How names must look.
    fn name_rule(&self) -> NameRule;
    /// Whether `metadata.generation` is counted.
    fn tracks_generation(&self) -> bool;
    /// Whether an update may create.
    fn allows_create_on_update(&self) -> bool;
    /// Whether an update needs no resourceVersion.
    fn allows_unconditional_update(&self) -> bool;
    /// Values of selectable fields, `metadata.name` and `metadata.namespace` apart.
    fn selectable_fields(&self, object: &Object) -> Vec<(String, String)>;
    /// Whether a field may be selected by.
    fn is_selectable(&self, field: &str) -> bool;
    /// Columns.
    fn columns(&self) -> Vec<TableColumn>;
    /// Cells of one row.
    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value>;
    /// How a deletion begins.
    fn deletion_grace(&self, object: &Object, requested: Option<i64>) -> DeletionGrace;
    /// Whether dependents are orphaned unless told.
    fn orphans_by_default(&self) -> bool;
    /// How long objects live in the store, none for ever.
    fn lifetime(&self) -> Option<Duration>;
}

/// A built-in kind: its names, its schema and its typed strategy.
pub struct TypedKind<S: Strategy> {
    info: KindInfo,
    schema: Schema,
    strategy: S,
}

impl<S: Strategy> TypedKind<S> {
    /// Joins the three.
    pub fn new(info: KindInfo, schema: Schema, strategy: S) -> Self {
        Self { info, schema, strategy }
    }
    fn decode(&self, object: &Object) -> Result<S::Kind, String> {
        // From the tree itself, which spares the copy that [`Object::decode`] makes.
        S::Kind::from_tree(&object.0).map_err(|error| error.to_string())
    }
    fn encode(&self, typed: &S::Kind, into: &mut Object) -> Result<(), String> {
        let encoded = typed.to_tree().map_err(|error| error.to_string())?;
        let mut encoded = Object::from_value(encoded).map_err(|_| "an API object must be a JSON object".to_owned())?;
        // Typed kinds carry their own apiVersion and kind; the served ones stand.
        encoded.0.insert("apiVersion".to_owned(), Value::String(self.info.kind.group_version().to_string()));
        encoded.0.insert("kind".to_owned(), Value::String(self.info.kind.kind.to_string()));
        *into = encoded;
        Ok(())
    }
}

/// Takes the metadata that people write from what is there.
fn keep_metadata(new: &mut Object, old: &Object) {
    for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
        match old.get(&["metadata", field]).cloned() {
            Some(value) => new.set(&["metadata", field], value),
            None => drop(new.metadata_mut().remove(field)),
        }
    }
}

impl<S: Strategy> ServedKind for TypedKind<S> {
    fn info(&self) -> &KindInfo {
        &self.info
    }
    fn schema(&self) -> &Schema {
        &self.schema
    }
    fn from_storage(&self, object: Object) -> Result<Object, String> {
        if self.converts() { self.strategy.from_storage(object) } else { Ok(object) }
    }
    fn to_storage(&self, object: Object) -> Result<Object, String> {
        if self.converts() { self.strategy.to_storage(object) } else { Ok(object) }
    }
    fn default(&self, object: &mut Object) -> Result<(), String> {
        meta::defaulting::apply_defaults(&self.schema, object);
        if !self.strategy.has_defaults() {
            return Ok(());
        }
        let mut typed = self.decode(object)?;
        self.strategy.default(&mut typed);
        self.encode(&typed, object)
    }
    fn finish_create(&self, context: &WriteContext, new: &mut Object) -> Result<Vec<FieldError>, String> {
        let mut typed = self.decode(new)?;
        self.strategy.prepare_create(context, &mut typed);
        let problems = self.strategy.validate(&typed);
        self.encode(&typed, new)?;
        Ok(problems)
    }
    fn finish_update(&self, context: &WriteContext, new: &mut Object, old: &Object) -> Result<Vec<FieldError>, String> {
        let mut typed = self.decode(new)?;
        let typed_old = self.decode(old)?;
        self.strategy.prepare_update(context, &mut typed, &typed_old);
        let problems = self.strategy.validate_update(&typed, &typed_old);
        self.encode(&typed, new)?;
        Ok(problems)
    }
    fn finish_status_update(&self, context: &WriteContext, new: &mut Object, old: &Object) -> Result<Vec<FieldError>, String> {
        if self.strategy.status_keeps_metadata() {
            keep_metadata(new, old);
        }
        let mut typed = self.decode(new)?;
        let typed_old = self.decode(old)?;
        self.strategy.prepare_status_update(context, &mut typed, &typed_old);
        let problems = self.strategy.validate_status_update(&typed, &typed_old);
        self.encode(&typed, new)?;
        Ok(problems)
    }
    fn prepare_subresource_update(&self, subresource: &str, new: &mut Object, old: &Object) -> Result<(), String> {
        if !self.strategy.has_rules_for(subresource) {
            return Ok(());
        }
        let mut typed = self.decode(new)?;
        self.strategy.prepare_subresource_update(subresource, &mut typed, &self.decode(old)?);
        self.encode(&typed, new)
    }
    fn finish_subresource_update(&self, subresource: &str, new: &mut Object, old: &Object) -> Result<Vec<FieldError>, String> {
        if !self.strategy.has_rules_for(subresource) {
            return Ok(Vec::new());
        }
        let mut typed = self.decode(new)?;
        let typed_old = self.decode(old)?;
        self.strategy.prepare_subresource_update(subresource, &mut typed, &typed_old);
        let problems = self.strategy.validate_subresource_update(subresource, &typed, &typed_old);
        self.encode(&typed, new)?;
        Ok(problems)
    }
    fn status_warnings(&self, new: &Object) -> Vec<String> {
        self.strategy.status_warnings(new)
    }
    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        if !self.strategy.has_warnings() {
            return Vec::new();
        }
        let Ok(typed) = self.decode(new) else { return Vec::new() };
        let typed_old = old.and_then(|old| self.decode(old).ok());
        self.strategy.warnings(&typed, typed_old.as_ref())
    }
    fn name_rule(&self) -> NameRule {
        self.strategy.name_rule()
    }
    fn tracks_generation(&self) -> bool {
        self.strategy.tracks_generation()
    }
    fn allows_create_on_update(&self) -> bool {
        self.strategy.allows_create_on_update()
    }
    fn allows_unconditional_update(&self) -> bool {
        self.strategy.allows_unconditional_update()
    }
    fn selectable_fields(&self, object: &Object) -> Vec<(String, String)> {
        if self.strategy.selectable_field_names().is_empty() {
            return Vec::new();
        }
        let Ok(typed) = self.decode(object) else { return Vec::new() };
        self.strategy.selectable_fields(&typed).into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
    fn is_selectable(&self, field: &str) -> bool {
        self.strategy.selectable_field_names().contains(&field)
    }
    fn columns(&self) -> Vec<TableColumn> {
        self.strategy.columns().iter().map(TableColumn::from).collect()
    }
    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        match self.decode(object) {
            Ok(typed) => self.strategy.row(&typed, object, now),
            Err(_) => vec![object.name().into()],
        }
    }
    fn deletion_grace(&self, object: &Object, requested: Option<i64>) -> DeletionGrace {
        self.decode(object).map_or(DeletionGrace::Immediate, |typed| self.strategy.deletion_grace(&typed, requested))
    }
    fn orphans_by_default(&self) -> bool {
        self.strategy.orphans_by_default()
    }
    fn lifetime(&self) -> Option<Duration> {
        self.strategy.lifetime()
    }
}

/// Every kind that is served. Cloning is cheap.
#[derive(Clone, Default)]
pub struct Scheme {
    order: Vec<Arc<dyn ServedKind>>,
    by_resource: HashMap<GroupVersionResource, Arc<dyn ServedKind>>,
    by_kind: HashMap<GroupVersionKind, Arc<dyn ServedKind>>,
}

impl Scheme {
    /// Serves a built-in kind with its strategy. The kind's names and schema come from `api`'s table.
    ///
    /// # Panics
    /// Where the table does not know the kind: a mistake in our own list, found by the first test.
    pub fn serve<S: Strategy>(&mut self, group: &str, version: &str, kind: &str, strategy: S) {
        let (info, schema) = crate::served::facts(group, version, kind);
        self.add(Arc::new(TypedKind::new(info, schema, strategy)));
    }
    /// Adds or replaces a kind.
    pub fn add(&mut self, kind: Arc<dyn ServedKind>) {
        let resource = kind.info().resource();
        self.by_kind.insert(kind.info().kind.clone(), kind.clone());
        if self.by_resource.insert(resource.clone(), kind.clone()).is_some() {
            if let Some(place) = self.order.iter_mut().find(|known| known.info().resource() == resource) {
                *place = kind;
            }
        } else {
            self.order.push(kind);
        }
    }
    /// Takes every version of these resources away.
    pub fn remove(&mut self, resources: &HashSet<GroupResource>) {
        if resources.is_empty() {
            return;
        }
        self.retain(|info| !resources.contains(&info.group_resource()));
    }
    /// Takes away what is not to be kept.
    pub fn retain(&mut self, keep: impl Fn(&KindInfo) -> bool) {
        self.order.retain(|kind| keep(kind.info()));
        self.by_resource.retain(|_, kind| keep(kind.info()));
        self.by_kind.retain(|_, kind| keep(kind.info()));
    }
    /// The kind served at a path.
    pub fn by_resource(&self, resource: &GroupVersionResource) -> Option<&Arc<dyn ServedKind>> {
        self.by_resource.get(resource)
    }
    /// The kind of that name.
    pub fn by_kind(&self, kind: &GroupVersionKind) -> Option<&Arc<dyn ServedKind>> {
        self.by_kind.get(kind)
    }
    /// All kinds, in the order they were added.
    pub fn kinds(&self) -> impl Iterator<Item = &Arc<dyn ServedKind>> {
        self.order.iter()
    }
}
