//! One folder per kind: defaults, validation, strategy and table columns; and the [`Scheme`] they are served from.
//!
//! Pure: no input or output, nothing async. Effects on other objects have their place in `apiserver`.
//! To add a kind: make a folder, implement [`Strategy`], and add one line to [`served::serve_all`].

pub mod plain;
pub mod scheme;
pub mod served;
pub mod strategy;

pub use scheme::{KindInfo, Scheme, ServedKind, SubresourceInfo};
pub use strategy::{Column, DeletionGrace, NameRule, Strategy, WriteContext};

/// One line per kind that has a folder. A kind not named here is served plain, from its schema alone.
#[allow(unused_variables, clippy::needless_pass_by_ref_mut, reason = "each folder adds its line")]
pub(crate) fn serve_strategies(scheme: &mut Scheme) {}
