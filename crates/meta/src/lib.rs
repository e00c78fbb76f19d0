//! The Kubernetes API's machinery as pure values: names, quantities, selectors, schemas, patches, managed fields, errors.
//!
//! No input or output, nothing async. What is particular to built-in kinds lives in `api` (types and tables) and `kinds`
//! (behaviour). Objects are JSON trees ([`serde_json::Value`]) that a [`schema::Schema`] describes.

pub mod defaulting;
pub mod field;
pub mod managed_fields;
pub mod names;
pub mod object;
pub mod patch;
pub mod pruning;
pub mod quantity;
pub mod read;
pub mod schema;
pub mod selector;
pub mod status;
pub mod structural;
pub mod validation;

pub use object::Object;
pub use field::{FieldError, FieldErrorKind, FieldPath};
pub use names::{GroupKind, GroupResource, GroupVersion, GroupVersionKind, GroupVersionResource, ObjectKey};
pub use status::{ApiError, Reason};
