//! The group `flowcontrol.apiserver.k8s.io`: which requests wait for which.

use api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object};
use serde_json::Value;

use crate::{
    cells,
    problems::{filled, one_of},
    strategy::{Column, Strategy},
};

/// Behaviour of flow schemas.
pub struct FlowSchemaStrategy;

impl Strategy for FlowSchemaStrategy {
    type Kind = FlowSchema;

    fn validate(&self, schema: &FlowSchema) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec");
        let Some(spec) = &schema.spec else { return problems };
        if let Some(precedence) = spec.matching_precedence.filter(|number| !(1..=10_000).contains(number)) {
            let detail = if precedence <= 0 { "must be a positive value" } else { "must not be greater than 10000" };
            problems.push(FieldError::invalid(&path.child("matchingPrecedence"), precedence, detail));
        }
        filled(&spec.priority_level_configuration.name, &path.child("priorityLevelConfiguration").child("name"), &mut problems);
        if let Some(method) = &spec.distinguisher_method {
            one_of(&method.type_, &["ByNamespace", "ByUser"], &path.child("distinguisherMethod").child("type"), &mut problems);
        }
        problems
    }
    fn tracks_generation(&self) -> bool {
        true
    }
    fn allows_unconditional_update(&self) -> bool {
        false
    }
    fn columns(&self) -> &'static [Column] {
        const { &[
            Column::NAME,
            Column::text("PriorityLevel", "Where its requests wait."),
            Column::integer("MatchingPrecedence", "The smallest that fits is taken."),
            Column::text("DistinguisherMethod", "What tells flows apart."),
            Column::AGE,
            Column::text("MissingPL", "Whether its level does not exist."),
        ] }
    }
    fn row(&self, schema: &FlowSchema, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let spec = schema.spec.as_ref();
        let conditions = schema.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let missing = conditions.iter().find(|condition| condition.type_.as_deref() == Some("Dangling")).and_then(|condition| condition.status.as_deref());
        vec![
            raw.name().into(),
            cells::or_none(spec.map(|spec| spec.priority_level_configuration.name.as_str())),
            spec.and_then(|spec| spec.matching_precedence).unwrap_or_default().into(),
            cells::or_none(spec.and_then(|spec| spec.distinguisher_method.as_ref()).map(|method| method.type_.as_str())),
            cells::created(raw),
            missing.unwrap_or("?").into(),
        ]
    }
}

/// Behaviour of priority levels.
pub struct PriorityLevelStrategy;

impl Strategy for PriorityLevelStrategy {
    type Kind = PriorityLevelConfiguration;

    fn default(&self, level: &mut PriorityLevelConfiguration) {
        let response = level.spec.as_mut().and_then(|spec| spec.limited.as_mut()).map(|limited| limited.limit_response.get_or_insert_default());
        if let Some(response) = response.filter(|response| response.type_.is_empty()) {
            "Reject".clone_into(&mut response.type_);
        }
    }
    fn validate(&self, level: &PriorityLevelConfiguration) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec");
        let Some(spec) = &level.spec else { return problems };
        one_of(&spec.type_, &["Exempt", "Limited"], &path.child("type"), &mut problems);
        if spec.type_ == "Limited" && spec.limited.is_none() {
            problems.push(FieldError::required(&path.child("limited"), "must not be empty when type is Limited"));
        }
        if spec.type_ == "Exempt" && spec.limited.is_some() {
            problems.push(FieldError::forbidden(&path.child("limited"), "must be nil if the type is not Limited"));
        }
        problems
    }
    fn tracks_generation(&self) -> bool {
        true
    }
    fn allows_unconditional_update(&self) -> bool {
        false
    }
    fn columns(&self) -> &'static [Column] {
        const { &[
            Column::NAME,
            Column::text("Type", "Whether it is limited."),
            Column::text("NominalConcurrencyShares", "Its share of all."),
            Column::text("Queues", "How many queues."),
            Column::text("HandSize", "How many of them one flow uses."),
            Column::text("QueueLengthLimit", "How long one may be."),
            Column::AGE,
        ] }
    }
    fn row(&self, level: &PriorityLevelConfiguration, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let spec = level.spec.as_ref();
        let limited = spec.and_then(|spec| spec.limited.as_ref());
        let queuing = limited.and_then(|limited| limited.limit_response.as_ref()).and_then(|response| response.queuing.as_ref());
        let number = |value: Option<i32>| value.map_or_else(|| "<none>".to_owned(), |value| value.to_string()).into();
        vec![
            raw.name().into(),
            cells::text(spec.map(|spec| spec.type_.as_str())),
            number(limited.and_then(|limited| limited.nominal_concurrency_shares)),
            number(queuing.and_then(|queuing| queuing.queues)),
            number(queuing.and_then(|queuing| queuing.hand_size)),
            number(queuing.and_then(|queuing| queuing.queue_length_limit)),
            cells::created(raw),
        ]
    }
}
