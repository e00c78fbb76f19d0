//! What an applier has let go of, where managers wrote in versions that look different.

use serde_json::Value;

use super::{
    entries::Entry,
    layout::{Layout, fields_of, with_named_fields},
    set::FieldSet,
    tree,
    versions::{OtherVersion, Versions},
};
use crate::{object::Object, schema::Schema, status::ApiError};

/// What must stay in an object that is to be converted, whoever owns it.
const IDENTITY: [&[&str]; 6] =
    [&["apiVersion"], &["kind"], &["metadata", "name"], &["metadata", "namespace"], &["metadata", "uid"], &["metadata", "resourceVersion"]];

/// The schema of a version and the name under which its sets are put together: one for all versions that look the same.
struct Version<'a> {
    name: &'a str,
    schema: &'a Schema,
}

impl Version<'_> {
    /// All fields of an object, those included that lead to others.
    fn fields(&self, object: &Object) -> FieldSet {
        self.named(&fields_of(&self.schema.types, Layout::root(self.schema), &Value::Object(object.0.clone())))
    }
    fn named(&self, set: &FieldSet) -> FieldSet {
        with_named_fields(&self.schema.types, Layout::root(self.schema), set)
    }
    fn without(&self, object: &Object, doomed: &FieldSet) -> Object {
        let mut rest = object.clone();
        tree::remove_fields(&self.schema.types, Layout::root(self.schema), &mut rest.0, doomed);
        for path in IDENTITY {
            if let Some(value) = object.get(path)
                && rest.get(path).is_none()
            {
                rest.set(path, value.clone());
            }
        }
        rest
    }
}

/// The merged object without the fields that the applier applied last time (`last`), applies no more (`own`, in the request's
/// version) and that nobody else owns. Removed is in the version of last time, and what others own is put back in theirs.
///
/// # Errors
/// Those of [`Versions::convert`].
pub(super) fn pruned(
    schema: &Schema,
    versions: &dyn Versions,
    api_version: &str,
    merged: Object,
    last: &Entry,
    own: &FieldSet,
    others: &[Entry],
) -> Result<Object, ApiError> {
    let version = |name: &str| -> Option<Version<'_>> {
        match if name == api_version { OtherVersion::Alike } else { versions.other(name) } {
            OtherVersion::Alike => Some(Version { name: api_version, schema }),
            // The name that outlives this call is the entry's own.
            OtherVersion::Differs(schema) => {
                let known = others.iter().chain([last]).find(|entry| entry.api_version == name)?;
                Some(Version { name: &known.api_version, schema })
            }
            OtherVersion::Gone => None,
        }
    };
    let (Some(before), Some(now)) = (version(&last.api_version), version(api_version)) else { return Ok(merged) };
    let mut owned: Vec<(Version<'_>, FieldSet)> = vec![(now, own.clone())];
    for entry in others {
        let Some(of) = version(&entry.api_version) else { continue };
        match owned.iter_mut().find(|(known, _)| known.name == of.name) {
            Some((_, set)) => *set = set.union(&entry.set()),
            None => owned.push((of, entry.set())),
        }
    }
    // That of last time first: what is put back there may be needed to convert at all.
    owned.sort_by_key(|(of, _)| of.name != before.name);
    let last = before.named(&last.set());
    let converted = one(versions.convert(&[&merged], before.name)?)?;
    let mut kept = before.without(&converted, &last);
    for (of, owned) in &owned {
        let both = versions.convert(&[&merged, &kept], of.name)?;
        let [all, present] = both.as_slice() else { return Err(lost_in_conversion()) };
        let doomed = of.fields(all).difference(&of.fields(present).union(&of.named(owned)));
        kept = of.without(all, &doomed);
    }
    let kept = one(versions.convert(&[&kept], before.name)?)?;
    let doomed = before.fields(&converted).difference(&before.fields(&kept)).intersection(&last);
    if doomed.is_empty() {
        return Ok(merged);
    }
    one(versions.convert(&[&before.without(&converted, &doomed)], api_version)?)
}

fn one(objects: Vec<Object>) -> Result<Object, ApiError> {
    objects.into_iter().next().ok_or_else(lost_in_conversion)
}

fn lost_in_conversion() -> ApiError {
    ApiError::internal("a conversion did not give back every object")
}
