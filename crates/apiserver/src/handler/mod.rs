//! The generic handler: every verb, once, for every kind.
//!
//! [`read`] answers get and list, [`watch`] streams, [`write`] creates and changes, [`patch`] computes what a patch makes
//! of an object, [`delete`] removes.

pub mod delete;
mod device_access;
pub mod patch;
pub mod read;
pub mod versions;
pub mod watch;
pub mod write;

use meta::{ApiError, selector::{FieldSelector, LabelSelector}};
use kinds::ServedKind;

use crate::{core::RequestContext, view::StoredObject};

/// Which objects a list, watch or deletecollection is about.
pub struct Selection<'a> {
    /// `NAMESPACE/` or nothing.
    pub prefix: String,
    labels: Option<&'a LabelSelector>,
    fields: Option<&'a FieldSelector>,
}

impl<'a> Selection<'a> {
    /// From path and query.
    ///
    /// # Errors
    /// 400 for fields that the kind cannot be selected by.
    pub fn of(context: &'a RequestContext, kind: &dyn ServedKind) -> Result<Self, ApiError> {
        let info = kind.info();
        if let Some(fields) = &context.query.fields {
            for field in fields.fields() {
                if !matches!(field, "metadata.name" | "metadata.namespace") && !kind.is_selectable(field)
                    || field == "metadata.namespace" && !info.namespaced
                {
                    return Err(ApiError::bad_request(format!("field label not supported: {field}")));
                }
            }
        }
        let prefix = if info.namespaced && !context.info.namespace.is_empty() { format!("{}/", context.info.namespace) } else { String::new() };
        Ok(Self { prefix, labels: context.query.labels.as_ref(), fields: context.query.fields.as_ref() })
    }
    /// Whether nothing but the namespace restricts it.
    pub fn is_everything(&self) -> bool {
        self.labels.is_none() && self.fields.is_none()
    }
    /// Whether an object is meant.
    pub fn matches(&self, object: &StoredObject) -> bool {
        object.key.starts_with(&self.prefix)
            && self.labels.is_none_or(|labels| labels.matches(&|name| object.label(name)))
            && self.fields.is_none_or(|fields| fields.matches(|name| object.field(name).map(str::to_owned)))
    }
    /// The one name it is restricted to, where it is.
    pub fn exact_name(&self) -> Option<&str> {
        self.fields.and_then(|fields| fields.exact("metadata.name"))
    }
}
