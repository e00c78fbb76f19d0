//! The versions of a kind beside a request's, as the managers of an object's fields wrote in them.
//!
//! Only where an object has an entry of another version is anything looked up, and only where that version looks different is anything
//! converted. What a webhook converts is asked for outside: the pure computation stops at the first question without an answer, the
//! question is put, and the computation begins again.

use std::sync::Arc;

use kinds::ServedKind;
use meta::{
    ApiError, GroupVersion, Object,
    managed_fields::{OtherVersion, Versions},
};
use parking_lot::Mutex;
use serde_json::Value;

use crate::{
    core::{Core, RequestContext},
    custom_resources::conversion,
};

/// What is known of a version that somebody wrote in.
enum Known {
    Alike,
    Served(Arc<dyn ServedKind>),
    /// Of a definition that does not serve it.
    Unserved,
    Gone,
}

/// Objects that a webhook is asked to convert.
struct Question {
    objects: Vec<Object>,
    wanted: String,
}

#[derive(Default)]
struct Conversions {
    answered: Vec<(Question, Vec<Object>)>,
    open: Option<Question>,
}

/// The other versions that objects have entries of.
pub struct OtherVersions<'a> {
    core: &'a Core,
    kind: &'a Arc<dyn ServedKind>,
    api_version: String,
    known: Vec<(String, Known)>,
    conversions: Mutex<Conversions>,
}

impl<'a> OtherVersions<'a> {
    /// Those of an object.
    pub fn of(core: &'a Core, kind: &'a Arc<dyn ServedKind>, object: &Object) -> Self {
        let api_version = kind.info().kind.group_version().to_string();
        let mut versions = Self { core, kind, api_version, known: Vec::new(), conversions: Mutex::default() };
        versions.learn(object);
        versions
    }
    /// Those of another object, too.
    pub fn learn(&mut self, object: &Object) {
        for entry in object.get(&["metadata", "managedFields"]).and_then(Value::as_array).into_iter().flatten() {
            let version = entry.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
            if version != self.api_version && !self.known.iter().any(|(known, _)| known == version) {
                self.known.push((version.to_owned(), self.look_up(version)));
            }
        }
    }
    fn look_up(&self, api_version: &str) -> Known {
        let info = self.kind.info();
        let wanted = GroupVersion::parse(api_version).kind(&info.kind.kind);
        let found = if info.custom { self.core.scheme.load().by_kind(&wanted).cloned() } else { self.core.built_in.by_kind(&wanted).cloned() };
        match found.filter(|found| found.info().storage_prefix() == info.storage_prefix()) {
            Some(found) if found.looks_as_stored() && self.kind.looks_as_stored() => Known::Alike,
            Some(found) => Known::Served(found),
            None if wanted.group == info.kind.group && self.kind.unserved_version(&wanted.version).is_some() => {
                if self.kind.looks_as_stored() { Known::Alike } else { Known::Unserved }
            }
            None => Known::Gone,
        }
    }
    fn is_one_shape(&self) -> bool {
        self.known.iter().all(|(_, known)| matches!(known, Known::Alike))
    }
    fn kind_of(&self, api_version: &str) -> Option<&Arc<dyn ServedKind>> {
        if api_version == self.api_version {
            return Some(self.kind);
        }
        self.known.iter().find_map(|(known, what)| match what {
            Known::Served(kind) if known == api_version => Some(kind),
            _ => None,
        })
    }
    /// Puts the question that a computation stopped at to the kind's webhook; false where it stopped for another reason.
    ///
    /// # Errors
    /// 500 where the webhook does not answer, or not with the same objects.
    pub async fn ask(&self) -> Result<bool, ApiError> {
        let Some(question) = self.conversions.lock().open.take() else { return Ok(false) };
        let answer = conversion::converted(self.core, self.kind, &GroupVersion::parse(&question.wanted), question.objects.clone()).await?;
        self.conversions.lock().answered.push((question, answer));
        Ok(true)
    }
}

impl Versions for OtherVersions<'_> {
    fn other(&self, api_version: &str) -> OtherVersion<'_> {
        match self.known.iter().find(|(known, _)| known == api_version) {
            Some((_, Known::Served(kind))) => OtherVersion::Differs(kind.schema()),
            Some((_, Known::Unserved)) => match self.kind.unserved_version(&GroupVersion::parse(api_version).version) {
                Some(schema) => OtherVersion::Differs(schema),
                None => OtherVersion::Gone,
            },
            Some((_, Known::Gone)) => OtherVersion::Gone,
            Some((_, Known::Alike)) | None => OtherVersion::Alike,
        }
    }
    fn convert(&self, objects: &[&Object], api_version: &str) -> Result<Vec<Object>, ApiError> {
        if self.kind.conversion_webhook().is_none() {
            let unknown = |version: &str| ApiError::internal(format!("{} has no version {version}", self.kind.info().group_resource()));
            let into = self.kind_of(api_version).ok_or_else(|| unknown(api_version))?;
            let convert = |object: &&Object| {
                if object.api_version() == api_version {
                    return Ok((*object).clone());
                }
                let from = self.kind_of(object.api_version()).ok_or_else(|| unknown(object.api_version()))?;
                from.to_storage((*object).clone()).and_then(|stored| into.from_storage(stored)).map_err(ApiError::internal)
            };
            return objects.iter().map(convert).collect();
        }
        let others: Vec<&Object> = objects.iter().copied().filter(|object| object.api_version() != api_version).collect();
        let mut conversions = self.conversions.lock();
        let is_asked = |question: &Question| question.wanted == api_version && question.objects.iter().eq(others.iter().copied());
        let Some((_, answers)) = conversions.answered.iter().find(|(question, _)| is_asked(question)) else {
            if others.is_empty() {
                return Ok(objects.iter().map(|object| (*object).clone()).collect());
            }
            conversions.open = Some(Question { objects: others.into_iter().cloned().collect(), wanted: api_version.to_owned() });
            return Err(ApiError::internal(format!("objects are to be converted to {api_version} first")));
        };
        let mut answers = answers.iter();
        let converted = objects.iter().map(|object| if object.api_version() == api_version { Some((*object).clone()) } else { answers.next().cloned() });
        converted.collect::<Option<_>>().ok_or_else(|| ApiError::internal("the conversion webhook did not give back every object"))
    }
}

/// Brings the owners of a new version of an object up to date. Where that cannot be done it has none from then on, as upstream
/// (`FieldManager.UpdateNoErrors`).
pub async fn track(versions: &mut OtherVersions<'_>, context: &RequestContext, old: Option<&Object>, new: &mut Object, subresource: &str) {
    versions.learn(new);
    let kind = versions.kind;
    let (manager, now) = (context.field_manager(), context.timestamp());
    let update = |new: &mut Object, versions: &OtherVersions<'_>| {
        meta::managed_fields::update(kind.schema(), versions, old, new, &manager, &versions.api_version, subresource, &now)
    };
    if versions.is_one_shape() {
        if let Err(error) = update(new, versions) {
            tracing::warn!(%error, "an object of one shape was to be converted; it has no field managers any more");
        }
        return;
    }
    loop {
        let mut attempt = new.clone();
        let Err(error) = update(&mut attempt, versions) else {
            *new = attempt;
            return;
        };
        match versions.ask().await {
            Ok(true) => {}
            Ok(false) => return forget(versions, new, &error),
            Err(error) => return forget(versions, new, &error),
        }
    }
}

fn forget(versions: &OtherVersions<'_>, new: &mut Object, error: &ApiError) {
    tracing::warn!(kind = %versions.kind.info().kind.kind, name = new.name(), %error, "the owners of fields are forgotten: the object cannot be converted to their versions");
    new.metadata_mut().remove("managedFields");
}
