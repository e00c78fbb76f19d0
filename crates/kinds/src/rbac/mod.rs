//! The group `rbac.authorization.k8s.io`.

pub mod binding;
pub mod role;

/// The group's name.
pub const GROUP: &str = "rbac.authorization.k8s.io";
