//! Which objects a request, a Service or a controller means: by labels ([`LabelSelector`]) or by a few fields
//! ([`FieldSelector`]).

mod field;
mod label;

pub use field::{FieldSelector, FieldTerm};
pub use label::{LabelSelector, Operator, Requirement};
