//! Managers who wrote in other versions than the request's: a change is to each of them what it is in the version that he wrote in.
//!
//! Source: `merge/update.go` of structured-merge-diff and `managedfields/internal/versionconverter.go` of Kubernetes.

use super::{
    layout::{Comparison, compare},
    set::FieldSet,
};
use crate::{object::Object, schema::Schema, status::ApiError};

/// What another version of a kind is to the version of a request.
pub enum OtherVersion<'a> {
    /// Its fields have the same paths: a set of fields means the same in both.
    Alike,
    /// Its objects look different and have this schema.
    Differs(&'a Schema),
    /// There is no such version any more, so nobody can own anything in it.
    Gone,
}

/// The versions of a kind beside the one of a request.
pub trait Versions {
    /// What an entry's version, which is not the request's, is to the request's.
    fn other(&self, api_version: &str) -> OtherVersion<'_>;
    /// Objects in a version; the one that each has is told by its `apiVersion`.
    ///
    /// # Errors
    /// Where they cannot be converted, or cannot without waiting: then the same question is to be answered when it is put again.
    fn convert(&self, objects: &[&Object], api_version: &str) -> Result<Vec<Object>, ApiError>;
}

/// The versions of a kind that looks the same in all of them.
pub struct OneShape;

impl Versions for OneShape {
    fn other(&self, _api_version: &str) -> OtherVersion<'_> {
        OtherVersion::Alike
    }
    fn convert(&self, objects: &[&Object], _api_version: &str) -> Result<Vec<Object>, ApiError> {
        Ok(objects.iter().map(|object| (*object).clone()).collect())
    }
}

/// Whether sets of fields in a version must be told from those in the request's.
pub(super) fn is_foreign(versions: &dyn Versions, api_version: &str, of: &str) -> bool {
    of != api_version && matches!(versions.other(of), OtherVersion::Differs(_))
}

/// Whether a version is no more.
pub(super) fn is_gone(versions: &dyn Versions, api_version: &str, of: &str) -> bool {
    of != api_version && matches!(versions.other(of), OtherVersion::Gone)
}

/// What a write does to fields.
#[derive(Default)]
pub(super) struct Change {
    /// Fields that are new or have another value.
    pub(super) taken: FieldSet,
    /// These, and those that are not there any more.
    pub(super) lost: FieldSet,
}

impl Change {
    pub(super) fn of(comparison: Comparison) -> Self {
        let taken = comparison.added.with(comparison.modified);
        let lost = taken.clone().with(comparison.removed);
        Self { taken, lost }
    }
}

/// A write as the managers of each version see it; compared once per version, and only in those that somebody wrote in.
pub(super) struct Changes<'a> {
    /// In the request's version.
    pub(super) own: Change,
    api_version: &'a str,
    versions: &'a dyn Versions,
    old: Option<&'a Object>,
    new: &'a Object,
    others: Vec<(String, Change)>,
}

impl<'a> Changes<'a> {
    pub(super) fn new(own: Change, api_version: &'a str, versions: &'a dyn Versions, old: Option<&'a Object>, new: &'a Object) -> Self {
        Self { own, api_version, versions, old, new, others: Vec::new() }
    }
    /// In a version; none where that is gone.
    ///
    /// # Errors
    /// Those of [`Versions::convert`].
    pub(super) fn seen_in(&mut self, version: &str) -> Result<Option<&Change>, ApiError> {
        if version == self.api_version {
            return Ok(Some(&self.own));
        }
        let schema = match self.versions.other(version) {
            OtherVersion::Alike => return Ok(Some(&self.own)),
            OtherVersion::Gone => return Ok(None),
            // What changes nothing changes nothing in any version.
            OtherVersion::Differs(_) if self.own.lost.is_empty() => return Ok(Some(&self.own)),
            OtherVersion::Differs(schema) => schema,
        };
        if let Some(place) = self.others.iter().position(|(known, _)| known == version) {
            return Ok(self.others.get(place).map(|(_, change)| change));
        }
        let asked: Vec<&Object> = self.old.into_iter().chain([self.new]).collect();
        let converted = self.versions.convert(&asked, version)?;
        let (new, old) = match converted.as_slice() {
            [old, new] => (Some(new), Some(old)),
            [new] => (Some(new), None),
            _ => (None, None),
        };
        let mut comparison = compare(schema, old.map(|old| &old.0), new.map(|new| &new.0));
        comparison.strip();
        self.others.push((version.to_owned(), Change::of(comparison)));
        Ok(self.others.last().map(|(_, change)| change))
    }
}
