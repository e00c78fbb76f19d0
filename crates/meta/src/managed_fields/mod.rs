//! Who owns which field of an object (`metadata.managedFields`), and server-side apply.
//!
//! [`update`] keeps the owners right after any other write; [`apply()`] lays one manager's configuration over the live object.
//! Sets of fields are in [`set`], how a schema tells what is owned as a whole in `layout`. Where managers wrote in versions that look
//! different, [`Versions`] converts.
//! Source: Kubernetes `apimachinery/pkg/util/managedfields` and `structured-merge-diff`; texts of conflicts are theirs.

mod apply;
pub mod element;
mod entries;
mod layout;
mod prune;
pub mod set;
mod tree;
mod update;
mod versions;

pub use apply::{apply, undeclared};
pub use element::Element;
pub use set::FieldSet;
pub use update::update;
pub use versions::{OneShape, OtherVersion, Versions};

use std::sync::OnceLock;

/// Fields that nobody owns: they name the object, or the server alone sets them.
fn stripped() -> &'static FieldSet {
    static STRIPPED: OnceLock<FieldSet> = OnceLock::new();
    STRIPPED.get_or_init(|| {
        let mut set = FieldSet::default();
        set.insert_fields(&["apiVersion"]);
        set.insert_fields(&["kind"]);
        set.insert_fields(&["metadata"]);
        for name in ["name", "namespace", "creationTimestamp", "selfLink", "uid", "clusterName", "generation", "managedFields", "resourceVersion"] {
            set.insert_fields(&["metadata", name]);
        }
        set
    })
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod version_tests;
