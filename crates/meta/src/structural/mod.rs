//! Structural schemas of custom resources: from a definition's `openAPIV3Schema` to a [`Schema`](crate::schema::Schema)
//! ([`schema_from_crd`]), and objects against such a schema ([`validate`]).
//!
//! Source: Kubernetes `apiextensions-apiserver/pkg/apiserver/{schema,validation}` and `kube-openapi/pkg/validation`.

mod convert;
mod formats;
mod rules;
mod validate;

pub use convert::schema_from_crd;
pub use validate::validate;

#[cfg(test)]
mod tests;
