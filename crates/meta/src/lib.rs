//! The Kubernetes API's machinery as pure values: names, quantities, selectors, schemas, patches, managed fields, errors.
//!
//! No input or output, nothing async. What is particular to built-in kinds lives in `api` (types and tables) and `kinds`
//! (behaviour). Objects are JSON trees ([`serde_json::Value`]) that a [`schema::Schema`] describes.

pub mod field;
pub mod names;
pub mod object;
pub mod schema;
pub mod status;

pub use field::{FieldError, FieldErrorKind, FieldPath};
pub use names::{GroupKind, GroupResource, GroupVersion, GroupVersionKind, GroupVersionResource, ObjectKey};
pub use status::{ApiError, Reason};
