//! create and update: the one order of steps every write takes.
//!
//! read → default → managed fields → mutating admission → default → reserve effects → prepare and validate →
//! validating admission → write. An update begins again from the newest object when somebody else was quicker, unless
//! the client bound it to a version.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use http::{Response, StatusCode};
use kinds::ServedKind;
use meta::{
    ApiError, FieldError, FieldPath, Object,
    managed_fields::{OneShape, Versions},
    read::FieldValidation,
};
use rand::Rng;
use serde_json::{Map, Value, json};
use store::{Change, Expect, ReadAt, Revision, StoreError, StoreKey};

use crate::{
    admission::{Attributes, Operation},
    codec,
    core::{Core, RequestContext},
    custom_resources::conversion,
    effects::Reservation,
    handler::{
        device_access,
        versions::{self, OtherVersions},
    },
    http_body::{Body, Request, read_all},
    negotiation::negotiate_for,
    rendering::{self, respond},
    view::{ResourceView, StoredObject, stored},
};

/// How often an update that lost a race begins again before the client is told.
pub const MAXIMUM_ATTEMPTS: usize = 16;

/// How often a generated name is drawn again when it is taken. Source: Kubernetes 1.30, `RetryGenerateName`.
const GENERATED_NAME_ATTEMPTS: usize = 8;

/// The state after a write.
pub struct Written {
    /// As stored; for dry runs as it would have been, under the old revision.
    pub stored: Arc<StoredObject>,
    /// It did not exist before.
    pub created: bool,
}

/// A store's failure as clients see it.
pub fn store_failure(error: &StoreError) -> ApiError {
    match error {
        StoreError::Unavailable(_) | StoreError::Closed | StoreError::NoSpace { .. } => ApiError::unavailable(error.to_string()),
        _ => ApiError::internal(error),
    }
}

/// Reads the body of a write as an object of a kind, and reports unknown and duplicate fields as the client asked for.
///
/// # Errors
/// 400 and 415 for what is no such object.
pub fn decode_body(context: &RequestContext, kind: &dyn ServedKind, bytes: &Bytes) -> Result<Object, ApiError> {
    let info = kind.info();
    let outcome = codec::read_object(&context.content_type, bytes, kind)?;
    let mut object = outcome.object;
    report_problems(context, kind, &outcome.problems)?;
    let (api_version, kind_name) = (object.api_version().to_owned(), object.kind().to_owned());
    let expected = info.kind.group_version().to_string();
    if info.custom && kind_name.is_empty() {
        return Err(unrecognized(&info.kind.kind, bytes));
    }
    if info.custom && api_version.is_empty() {
        return Err(ApiError::bad_request(format!("the API version in the data () does not match the expected API version ({expected})")));
    }
    if (!kind_name.is_empty() && *kind_name != *info.kind.kind) || (!api_version.is_empty() && api_version != expected) {
        return Err(ApiError::bad_request(format!(
            "{kind_name} in version {:?} cannot be handled as a {}: converting ({api_version}.{kind_name}) to ({expected}.{}): unknown conversion",
            api_version.rsplit('/').next().unwrap_or_default(),
            info.kind.kind,
            info.kind.kind,
        )));
    }
    object.0.insert("apiVersion".to_owned(), Value::String(expected));
    object.0.insert("kind".to_owned(), Value::String(info.kind.kind.to_string()));
    Ok(object)
}

/// Of a custom resource that does not say what it is, which upstream's decoder of objects without a Go type needs to know.
/// Source: Kubernetes 1.36, `apiserver/pkg/endpoints/handlers/rest.go`, `transformDecodeError` and `summarizeData`.
fn unrecognized(kind: &str, bytes: &Bytes) -> ApiError {
    const SHOWN: usize = 30;
    let body = String::from_utf8_lossy(bytes);
    let shown = if body.chars().count() > SHOWN { format!("{} ...", body.chars().take(SHOWN).collect::<String>()) } else { body.clone().into_owned() };
    ApiError::bad_request(format!("the object provided is unrecognized (must be of type {kind}): Object 'Kind' is missing in '{body}' ({shown})"))
}

/// Tells the client of unknown and duplicate fields: refused, warned of, or silently dropped.
///
/// # Errors
/// 400 under strict validation.
pub fn report_problems(context: &RequestContext, kind: &dyn ServedKind, problems: &[String]) -> Result<(), ApiError> {
    if problems.is_empty() {
        return Ok(());
    }
    match context.query.field_validation.unwrap_or(FieldValidation::Warn) {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => problems.iter().for_each(|problem| context.warn(problem.clone())),
        FieldValidation::Strict => {
            let info = kind.info();
            return Err(ApiError::bad_request(format!(
                "{kind} in version {version:?} cannot be handled as a {kind}: strict decoding error: {problems}",
                kind = info.kind.kind,
                version = &*info.kind.version,
                problems = problems.join(", ")
            )));
        }
    }
    Ok(())
}

/// Checks that body and path mean the same namespace, and fills it in.
fn settle_namespace(context: &RequestContext, kind: &dyn ServedKind, object: &mut Object) -> Result<(), ApiError> {
    let wanted = if kind.info().namespaced { context.info.namespace.as_str() } else { "" };
    let given = object.namespace();
    if given.is_empty() {
        if !wanted.is_empty() {
            object.set(&["metadata", "namespace"], wanted.into());
        }
        return Ok(());
    }
    if given != wanted {
        if wanted.is_empty() {
            // Cluster-wide kinds carry none; upstream drops it silently.
            object.metadata_mut().remove("namespace");
            return Ok(());
        }
        return Err(ApiError::bad_request("the namespace of the provided object does not match the namespace sent on the request"));
    }
    Ok(())
}

/// Five characters of upstream's alphabet, which has no vowels and no digits that look like letters.
fn name_suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut random = rand::rng();
    (0..5).filter_map(|_| ALPHABET.get(random.random_range(0..ALPHABET.len())).map(|byte| char::from(*byte))).collect()
}

/// A name from its prefix, at most 63 characters long.
pub fn generated_name(prefix: &str) -> String {
    let kept: String = prefix.chars().take(58).collect();
    format!("{kept}{}", name_suffix())
}

/// A random UID (RFC 9562, version 4).
pub fn new_uid() -> String {
    let mut bytes: [u8; 16] = rand::rng().random();
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let mut text = String::with_capacity(36);
    for (position, byte) in bytes.iter().enumerate() {
        if matches!(position, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.extend([byte >> 4, byte & 0x0f].map(|digit| char::from_digit(digit.into(), 16).unwrap_or_default()));
    }
    text
}

fn damaged(error: String) -> ApiError {
    ApiError::internal(error)
}

fn refuse(kind: &dyn ServedKind, object: &Object, problems: Vec<FieldError>) -> Result<(), ApiError> {
    if problems.is_empty() {
        return Ok(());
    }
    let name = if object.name().is_empty() { object.generate_name() } else { object.name() };
    Err(ApiError::invalid(&kind.info().group_kind(), name, problems))
}

/// What a write stores, and what its client is shown: the same but where a webhook converts.
pub(super) struct Encoded {
    pub stored: Bytes,
    pub shown: Bytes,
}

/// Encodes for the store, in the stored version, and for the client.
pub(super) async fn encode_both(core: &Core, kind: &Arc<dyn ServedKind>, object: &Object) -> Result<Encoded, ApiError> {
    let storable = conversion::storable(core, kind, object).await?;
    let stored = encode(kind.as_ref(), &storable)?;
    let shown = match storable {
        Cow::Borrowed(_) => stored.clone(),
        Cow::Owned(_) => {
            let fields = stored::fields_of(kind.as_ref(), object);
            stored::encode(object, kind.schema().generation, fields).map_err(ApiError::internal)?
        }
    };
    Ok(Encoded { stored, shown })
}

/// Encodes for the store, in the stored version.
///
/// # Errors
/// 500 where the object does not have its kind's shape.
pub fn encode(kind: &dyn ServedKind, object: &Object) -> Result<Bytes, ApiError> {
    let fields = stored::fields_of(kind, object);
    let generation = kind.schema().generation;
    if kind.converts() {
        let converted = kind.to_storage(object.clone()).map_err(damaged)?;
        stored::encode(&converted, generation, fields)
    } else {
        stored::encode(object, generation, fields)
    }
    .map_err(ApiError::internal)
}

fn view_key(kind: &dyn ServedKind, namespace: &str, name: &str) -> String {
    if kind.info().namespaced { format!("{namespace}/{name}") } else { name.to_owned() }
}

/// Answers a create.
///
/// # Errors
/// Every error a create can have.
pub async fn create(core: &Arc<Core>, context: RequestContext, kind: &Arc<dyn ServedKind>, request: Request) -> Result<Response<Body>, ApiError> {
    let negotiated = negotiate_for(&context.accept, kind.info())?;
    let bytes = read_all(request.into_body()).await?;
    let object = decode_body(&context, kind.as_ref(), &bytes)?;
    let written = create_object(core, &context, kind, object).await?;
    Ok(respond(StatusCode::CREATED, negotiated, rendering::render(core, kind, &written.stored, negotiated)?))
}

/// Creates an object through the whole chain.
///
/// # Errors
/// Every error a create can have.
pub async fn create_object(core: &Arc<Core>, context: &RequestContext, kind: &Arc<dyn ServedKind>, object: Object) -> Result<Written, ApiError> {
    let info = kind.info();
    let mut object = object;
    settle_namespace(context, kind.as_ref(), &mut object)?;
    if info.namespaced && object.namespace().is_empty() {
        return Err(ApiError::bad_request("an empty namespace may not be set during creation"));
    }
    if !object.resource_version().is_empty() && object.resource_version() != "0" {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    if object.name().is_empty() && object.generate_name().is_empty() {
        let error = FieldError::required(&FieldPath::new("metadata").child("name"), "name or generateName is required");
        return Err(ApiError::invalid(&info.group_kind(), "", vec![error]));
    }
    let generates = object.name().is_empty();
    kind.default(&mut object).map_err(damaged)?;
    let namespace = object.namespace().to_owned();
    for attempt in 1.. {
        let mut object = object.clone();
        if generates {
            let name = generated_name(object.generate_name());
            object.set(&["metadata", "name"], name.into());
        }
        match create_named(core, context, kind, object, &namespace).await {
            Err(error) if generates && error.reason == meta::Reason::AlreadyExists && attempt < GENERATED_NAME_ATTEMPTS => {}
            result => return result,
        }
    }
    Err(ApiError::internal("the loop above always returns"))
}

async fn create_named(core: &Arc<Core>, context: &RequestContext, kind: &Arc<dyn ServedKind>, object: Object, namespace: &str) -> Result<Written, ApiError> {
    let info = kind.info();
    let mut object = object;
    let name = object.name().to_owned();
    let resets_status = info.subresource("status").is_some() && resets_status(info);
    if resets_status {
        object.0.remove("status");
    }
    // Before admission: a client owns what it asked for, and nobody what the server adds.
    if context.info.verb != "apply" {
        let mut versions = OtherVersions::of(core, kind, &object);
        versions::track(&mut versions, context, None, &mut object, "").await;
    }
    let attributes = Attributes { subresource: "", namespace, name: &name, ..Attributes::of(Operation::Create, kind, context) };
    core.admission.admit(core, &attributes, Some(&mut object), None).await?;
    kind.default(&mut object).map_err(damaged)?;
    {
        let metadata = object.metadata_mut();
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion", "generation"] {
            metadata.remove(field);
        }
        metadata.insert("creationTimestamp".to_owned(), json!(context.timestamp()));
        metadata.insert("uid".to_owned(), json!(new_uid()));
        if kind.tracks_generation() {
            metadata.insert("generation".to_owned(), json!(1));
        }
        if !info.namespaced {
            metadata.remove("namespace");
        }
    }
    if resets_status {
        object.0.remove("status");
        kind.default(&mut object).map_err(damaged)?;
    }
    let reservation = match core.effects.effects.get(&info.group_resource()) {
        Some(effects) => effects.before_create(core, context, &mut object).await?,
        None => Reservation::none(),
    };
    let mut problems = meta::validation::validate_object_meta(&object, info.namespaced, kind.name_rule(), &FieldPath::new("metadata"));
    problems.extend(kind.finish_create(&context.write_context(), &mut object).map_err(damaged)?);
    problems.extend(device_access::of_new(core, &info.kind, namespace, &object));
    refuse(kind.as_ref(), &object, problems)?;
    for warning in kind.warnings(&object, None) {
        context.warn(warning);
    }
    core.admission.validate(core, &attributes, Some(&object), None).await?;
    let Encoded { stored: bytes, shown } = encode_both(core, kind, &object).await?;
    let key = view_key(kind.as_ref(), namespace, &name);
    let view = core.view_of(kind);
    if context.query.dry_run {
        if view.get(&key).is_some() {
            return Err(ApiError::already_exists(&info.group_resource(), &name));
        }
        let stored = StoredObject::decode(&key, shown, Revision(0)).map_err(ApiError::internal)?;
        return Ok(Written { stored: Arc::new(stored), created: true });
    }
    let change = Change::Put { value: bytes, expires_after: core.lifetime_of(kind.as_ref()) };
    let revision = match core.view.write(&info.storage_key(namespace, &name), Expect::Absent, change).await {
        Ok(revision) => revision,
        Err(StoreError::Conflict { .. }) => {
            let being_deleted = view.get(&key).is_some_and(|existing| existing.object().is_ok_and(|object| object.deletion_timestamp().is_some()));
            let mut error = ApiError::already_exists(&info.group_resource(), &name);
            if being_deleted {
                error.message = format!("object is being deleted: {}", error.message);
            }
            return Err(error);
        }
        Err(error) => return Err(store_failure(&error)),
    };
    reservation.commit().await;
    let stored = StoredObject::decode(&key, shown, revision).map_err(ApiError::internal)?;
    Ok(Written { stored: Arc::new(stored), created: true })
}

/// Whether creates and updates of the object itself leave its status alone. A CustomResourceDefinition's and most kinds'
/// do; a few (Node, for kubelets of old) take what they are given on create.
fn resets_status(info: &kinds::KindInfo) -> bool {
    !(info.kind.group.is_empty() && matches!(&*info.kind.kind, "Node"))
}

/// What a subresource may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Everything but the status (where the kind has that subresource).
    Whole,
    /// The status.
    Status,
    /// Exactly what the caller computed: for handlers of other subresources (`finalize`, `approval`, scale).
    Exact,
    /// The same, where admission has seen already what the subresource speaks (a Binding). What it changes needs no defaults, no
    /// warnings and belongs to no manager: upstream keeps managed fields of the Binding, which is not stored, and not of the pod.
    Admitted,
}

impl Part {
    /// By the name of a subresource.
    pub fn of(subresource: &str) -> Self {
        match subresource {
            "" => Self::Whole,
            "status" => Self::Status,
            _ => Self::Exact,
        }
    }
}

/// Computes the wanted object from the present one, none where there is none (and a create is possible).
pub type Compute<'a> = dyn Fn(Option<&Object>) -> Result<Object, ApiError> + Send + Sync + 'a;

/// The same of one who must see the object in its managers' other versions, too.
pub type ComputeAcrossVersions<'a> = dyn Fn(Option<&Object>, &dyn Versions) -> Result<Object, ApiError> + Send + Sync + 'a;

/// Answers an update.
///
/// # Errors
/// Every error an update can have.
pub async fn update(core: &Arc<Core>, context: RequestContext, kind: &Arc<dyn ServedKind>, request: Request) -> Result<Response<Body>, ApiError> {
    let negotiated = negotiate_for(&context.accept, kind.info())?;
    let bytes = read_all(request.into_body()).await?;
    let mut object = decode_body(&context, kind.as_ref(), &bytes)?;
    settle_namespace(&context, kind.as_ref(), &mut object)?;
    let name = &context.info.name;
    if object.name().is_empty() {
        object.set(&["metadata", "name"], name.as_str().into());
    } else if object.name() != name {
        return Err(ApiError::bad_request(format!("the name of the object ({}) does not match the name on the URL ({name})", object.name())));
    }
    kind.default(&mut object).map_err(damaged)?;
    let info = kind.info();
    if object.resource_version().is_empty() && !kind.allows_unconditional_update() && core.stored(kind, &context.info.namespace, name).is_some() {
        let error = FieldError::invalid(&FieldPath::new("metadata").child("resourceVersion"), json!(0), "must be specified for an update");
        return Err(ApiError::invalid(&info.group_kind(), name, vec![error]));
    }
    let may_create = kind.allows_create_on_update() && context.info.subresource.is_empty();
    let written = update_object(core, &context, kind, Part::of(&context.info.subresource), may_create, Expect::Absent, &|_| Ok(object.clone())).await?;
    let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    Ok(respond(code, negotiated, rendering::render(core, kind, &written.stored, negotiated)?))
}

fn carry_system_metadata(new: &mut Object, old: &Object) {
    let old_metadata = old.get(&["metadata"]).and_then(Value::as_object);
    let metadata = new.metadata_mut();
    for field in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink", "generateName"] {
        match old_metadata.and_then(|old| old.get(field)) {
            Some(value) => {
                metadata.insert(field.to_owned(), value.clone());
            }
            None => {
                metadata.remove(field);
            }
        }
    }
}

/// Whether anything but metadata and status differs.
fn specification_differs(new: &Object, old: &Object) -> bool {
    let relevant = |name: &String| !matches!(name.as_str(), "metadata" | "status" | "apiVersion" | "kind");
    new.0.iter().filter(|(name, _)| relevant(name)).any(|(name, value)| old.0.get(name) != Some(value))
        || old.0.iter().filter(|(name, _)| relevant(name)).any(|(name, _)| !new.0.contains_key(name))
}

/// Whether two maps are equal but for some members.
fn equal_but(left: &Map<String, Value>, right: &Map<String, Value>, ignored: &[&str]) -> bool {
    let counts = |name: &str| !ignored.contains(&name);
    left.iter().filter(|(name, _)| counts(name)).all(|(name, value)| right.get(name) == Some(value))
        && right.keys().filter(|name| counts(name)).all(|name| left.contains_key(name))
}

/// Whether two states of an object are the same but for their versions and the times of their managers.
fn same_but_times(left: &Object, right: &Object) -> bool {
    let empty = Map::new();
    let (left_metadata, right_metadata) = (metadata_of(left, &empty), metadata_of(right, &empty));
    let same_managers = match (left_metadata.get("managedFields"), right_metadata.get("managedFields")) {
        (Some(Value::Array(left)), Some(Value::Array(right))) => {
            left.len() == right.len()
                && left.iter().zip(right).all(|(left, right)| match (left, right) {
                    (Value::Object(left), Value::Object(right)) => equal_but(left, right, &["time"]),
                    _ => left == right,
                })
        }
        (left, right) => left == right,
    };
    same_managers
        && equal_but(left_metadata, right_metadata, &["managedFields", "resourceVersion"])
        && equal_but(&left.0, &right.0, &["metadata"])
}

fn metadata_of<'a>(object: &'a Object, none: &'a Map<String, Value>) -> &'a Map<String, Value> {
    object.0.get("metadata").and_then(Value::as_object).unwrap_or(none)
}

/// Changes an object through the whole chain. `may_create` lets a missing object be created from what `compute` gives for
/// none. With `expect` at a revision, the object must still be at it.
///
/// # Errors
/// Every error an update can have.
pub async fn update_object(
    core: &Arc<Core>,
    context: &RequestContext,
    kind: &Arc<dyn ServedKind>,
    part: Part,
    may_create: bool,
    expect: Expect,
    compute: &Compute<'_>,
) -> Result<Written, ApiError> {
    update_across_versions(core, context, kind, part, may_create, expect, &|old, _| compute(old)).await
}

/// [`update_object`] for who must see the object in its managers' other versions.
///
/// # Errors
/// Every error an update can have.
pub async fn update_across_versions(
    core: &Arc<Core>,
    context: &RequestContext,
    kind: &Arc<dyn ServedKind>,
    part: Part,
    may_create: bool,
    expect: Expect,
    compute: &ComputeAcrossVersions<'_>,
) -> Result<Written, ApiError> {
    let info = kind.info();
    let (namespace, name) = (context.info.namespace.clone(), context.info.name.clone());
    for _ in 0..MAXIMUM_ATTEMPTS {
        let Some(stored) = core.stored(kind, &namespace, &name) else {
            if !may_create {
                return Err(ApiError::not_found(&info.group_resource(), &name));
            }
            let object = compute(None, &OneShape)?;
            if !object.uid().is_empty() {
                return Err(ApiError::conflict(
                    &info.group_resource(),
                    &name,
                    &format!("Precondition failed: UID in precondition: {}, UID in object meta: ", object.uid()),
                ));
            }
            let mut object = object;
            object.metadata_mut().remove("resourceVersion");
            return create_object(core, context, kind, object).await;
        };
        if let Expect::AtRevision(revision) = expect
            && stored.revision != revision
        {
            return Err(ApiError::stale(&info.group_resource(), &name));
        }
        match attempt_update(core, context, kind, part, &stored, compute).await? {
            Outcome::Done(written) => return Ok(written),
            Outcome::Raced { bound } => {
                if bound || matches!(expect, Expect::AtRevision(_)) {
                    return Err(ApiError::stale(&info.group_resource(), &name));
                }
                // Somebody was quicker; his write may not have reached the view yet.
                wait_for_change(&core.view_of(kind), &stored).await;
            }
        }
    }
    Err(ApiError::stale(&info.group_resource(), &name))
}

/// Waits until the view shows another state than the one seen: after a write that somebody else was quicker than.
pub async fn wait_for_change(view: &ResourceView, seen: &StoredObject) {
    let mut changes = view.changes();
    loop {
        changes.mark_unchanged();
        if view.get(&seen.key).is_none_or(|now| now.revision != seen.revision) || changes.changed().await.is_err() {
            return;
        }
    }
}

enum Outcome {
    Done(Written),
    Raced {
        /// The client bound its write to a version.
        bound: bool,
    },
}

async fn attempt_update(
    core: &Arc<Core>,
    context: &RequestContext,
    kind: &Arc<dyn ServedKind>,
    part: Part,
    stored: &Arc<StoredObject>,
    compute: &ComputeAcrossVersions<'_>,
) -> Result<Outcome, ApiError> {
    let info = kind.info();
    let resource = info.group_resource();
    let (namespace, name) = (&context.info.namespace, &context.info.name);
    let is_migrated = !kind.converts() || stored.object().is_ok_and(|object| object.api_version() == info.storage_version.to_string());
    let stored = &conversion::readable(core, kind, stored.clone()).await?;
    let old = core.served_object(kind, stored)?;
    let mut versions = OtherVersions::of(core, kind, &old);
    let mut new = loop {
        match compute(Some(&old), &versions) {
            Ok(new) => break new,
            Err(error) if !versions.ask().await? => return Err(error),
            Err(_) => {}
        }
    };
    let given = new.resource_version().to_owned();
    let bound = !given.is_empty() && given != "0";
    if bound && given != old.resource_version() {
        return Err(ApiError::stale(&resource, name));
    }
    if !new.uid().is_empty() && new.uid() != old.uid() {
        let why = format!("Precondition failed: UID in precondition: {}, UID in object meta: {}", new.uid(), old.uid());
        return Err(ApiError::conflict(&resource, name, &why));
    }
    // A write that is not bound to a version means the one it is computed from.
    new.set(&["metadata", "resourceVersion"], json!(old.resource_version()));
    // Left out means unchanged.
    for field in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if new.get(&["metadata", field]).is_none_or(|value| value.is_null() || value.as_str() == Some(""))
            && let Some(value) = old.get(&["metadata", field])
        {
            new.set(&["metadata", field], value.clone());
        }
    }
    // Counted by the server alone, whatever the client says of it.
    match old.get(&["metadata", "generation"]) {
        Some(generation) => new.set(&["metadata", "generation"], generation.clone()),
        None => drop(new.metadata_mut().remove("generation")),
    }
    let mut problems = meta::validation::validate_object_meta_update(&new, &old);
    carry_system_metadata(&mut new, &old);
    new.set(&["metadata", "name"], name.as_str().into());
    if info.namespaced {
        new.set(&["metadata", "namespace"], namespace.as_str().into());
    }
    let has_status = info.subresource("status").is_some();
    match part {
        Part::Whole if has_status => match old.0.get("status") {
            Some(status) => {
                new.0.insert("status".to_owned(), status.clone());
            }
            None => {
                new.0.remove("status");
            }
        },
        Part::Status => {
            let status = new.0.remove("status");
            let metadata = new.0.remove("metadata");
            new = old.clone();
            if let Some(metadata) = metadata {
                if info.custom {
                    if let Some(managed) = metadata.get("managedFields") {
                        new.set(&["metadata", "managedFields"], managed.clone());
                    }
                } else {
                    new.0.insert("metadata".to_owned(), metadata);
                }
            }
            match status {
                Some(status) => new.0.insert("status".to_owned(), status),
                None => new.0.remove("status"),
            };
        }
        // Nobody comes to own what the subresource does not let through.
        Part::Exact => kind.prepare_subresource_update(&context.info.subresource, &mut new, &old).map_err(damaged)?,
        Part::Whole | Part::Admitted => {}
    }
    if part != Part::Admitted {
        kind.default(&mut new).map_err(damaged)?;
    }
    // Before admission, as for a create.
    if context.info.verb != "apply" && part != Part::Admitted {
        versions::track(&mut versions, context, Some(&old), &mut new, &context.info.subresource).await;
    }
    let attributes = Attributes::of(Operation::Update, kind, context);
    if part != Part::Admitted {
        core.admission.admit(core, &attributes, Some(&mut new), Some(&old)).await?;
        kind.default(&mut new).map_err(damaged)?;
    }
    let reservation = match core.effects.effects.get(&resource) {
        Some(effects) if part == Part::Whole => effects.before_update(core, context, &mut new, &old).await?,
        _ => Reservation::none(),
    };
    problems.extend(meta::validation::validate_object_meta(&new, info.namespaced, kind.name_rule(), &FieldPath::new("metadata")));
    let write_context = context.write_context();
    problems.extend(
        match part {
            Part::Whole => kind.finish_update(&write_context, &mut new, &old),
            Part::Status => kind.finish_status_update(&write_context, &mut new, &old),
            Part::Exact => kind.finish_subresource_update(&context.info.subresource, &mut new, &old),
            Part::Admitted => Ok(Vec::new()),
        }
        .map_err(damaged)?,
    );
    if part == Part::Status {
        problems.extend(device_access::of_status(core, context, &info.kind, &new, &old));
    }
    refuse(kind.as_ref(), &new, problems)?;
    // A binding decides where a pod runs, not what it is.
    let counts = part != Part::Status && context.info.subresource != "binding";
    if kind.tracks_generation() && counts && specification_differs(&new, &old) {
        new.set(&["metadata", "generation"], json!(old.generation() + 1));
    }
    // Whoever reports is not who wrote it.
    match part {
        Part::Admitted => {}
        Part::Status => kind.status_warnings(&new).into_iter().for_each(|warning| context.warn(warning)),
        _ => kind.warnings(&new, Some(&old)).into_iter().for_each(|warning| context.warn(warning)),
    }
    new.metadata_mut().remove("resourceVersion");
    if part != Part::Admitted {
        core.admission.validate(core, &attributes, Some(&new), Some(&old)).await?;
    }
    let is_as_it_would_be = stored.schema_generation >= kind.schema().generation && is_migrated;
    if same_but_times(&new, &old) && is_as_it_would_be && !is_sealed_by_an_old_key(core, &info.storage_key(namespace, name)).await {
        // Nothing changed: no write, no event, no new version. As upstream, also for the managers' times. An object in a version
        // that is no longer the stored one, or sealed by a key that no longer is, is written all the same: so storage is migrated.
        return Ok(Outcome::Done(Written { stored: stored.clone(), created: false }));
    }
    let Encoded { stored: bytes, shown } = encode_both(core, kind, &new).await?;
    if context.query.dry_run {
        let shown = StoredObject::decode(&stored.key, shown, stored.revision).map_err(ApiError::internal)?;
        return Ok(Outcome::Done(Written { stored: Arc::new(shown), created: false }));
    }
    let gone = new.deletion_timestamp().is_some()
        && new.finalizers().is_empty()
        && !crate::handler::delete::is_held(kind.as_ref(), &new)
        && new.get(&["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64).unwrap_or_default() == 0;
    let change = if gone { Change::Delete } else { Change::Put { value: bytes, expires_after: core.lifetime_of(kind.as_ref()) } };
    match core.view.write(&info.storage_key(namespace, name), Expect::AtRevision(stored.revision), change).await {
        Ok(revision) => {
            reservation.commit().await;
            if gone && let Some(effects) = core.effects.effects.get(&resource) {
                effects.after_delete(core, &new).await;
            }
            let shown = StoredObject::decode(&stored.key, shown, revision).map_err(ApiError::internal)?;
            Ok(Outcome::Done(Written { stored: Arc::new(shown), created: false }))
        }
        Err(StoreError::Conflict { .. }) => Ok(Outcome::Raced { bound }),
        Err(error) => Err(store_failure(&error)),
    }
}

/// Whether the value would be encrypted otherwise today. What cannot be read is not written for that.
async fn is_sealed_by_an_old_key(core: &Core, key: &str) -> bool {
    let value = core.view.store().get(&StoreKey::new(key), ReadAt::Latest).await;
    value.is_ok_and(|value| value.is_some_and(|value| value.stale_encryption))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_are_random_version_four() {
        let uid = new_uid();
        assert_eq!(uid.len(), 36);
        assert_eq!(uid.as_bytes()[14], b'4');
        assert_ne!(uid, new_uid());
    }

    #[test]
    fn generated_names_fit_a_label() {
        assert_eq!(generated_name(&"x".repeat(100)).len(), 63);
        assert!(generated_name("web-").starts_with("web-"));
    }
}
