//! ControllerRevision: a kept version of a workload's template.

use api::apps::v1::ControllerRevision;
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object};
use serde_json::Value;

use crate::{
    cells,
    problems::{immutable, not_negative},
    strategy::{Column, Strategy},
};

/// Behaviour of revisions.
pub struct ControllerRevisionStrategy;

impl Strategy for ControllerRevisionStrategy {
    type Kind = ControllerRevision;

    fn validate(&self, revision: &ControllerRevision) -> Vec<FieldError> {
        let mut problems = Vec::new();
        if revision.data.is_none() {
            problems.push(FieldError::required(&FieldPath::new("data"), "data is mandatory"));
        }
        not_negative(Some(revision.revision), &FieldPath::new("revision"), &mut problems);
        problems
    }
    fn validate_update(&self, revision: &ControllerRevision, old: &ControllerRevision) -> Vec<FieldError> {
        let mut problems = self.validate(revision);
        immutable(&revision.data, &old.data, &FieldPath::new("data"), &mut problems);
        problems
    }
    fn columns(&self) -> &'static [Column] {
        const { &[
            Column::NAME,
            Column::text("Controller", "Whose version it is."),
            Column::text("Revision", "Which version."),
            Column::AGE,
        ] }
    }
    fn row(&self, revision: &ControllerRevision, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let owner = revision.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        let words = owner.map(|owner| {
            let kind = owner.kind.to_lowercase();
            match owner.api_version.split_once('/') {
                Some((group, _)) => format!("{kind}.{group}/{}", owner.name),
                None => format!("{kind}/{}", owner.name),
            }
        });
        vec![raw.name().into(), cells::or_none(words.as_deref()), revision.revision.into(), cells::created(raw)]
    }
}
