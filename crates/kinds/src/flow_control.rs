//! The group `flowcontrol.apiserver.k8s.io`: which requests wait for which.

use api::flowcontrol::v1::{FlowSchema, LimitedPriorityLevelConfiguration, PolicyRulesWithSubjects, PriorityLevelConfiguration, Subject};
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object, validation as rules};
use serde_json::Value;

use crate::{
    cells,
    problems::{filled, one_of},
    status_rules::types_of_conditions,
    strategy::{Column, Strategy},
};

/// Behaviour of flow schemas.
pub struct FlowSchemaStrategy;

/// Source: Kubernetes `pkg/apis/flowcontrol/validation/validation.go`, `ValidateFlowSchemaPolicyRulesWithSubjects`.
fn rule_problems(rule: &PolicyRulesWithSubjects, path: &FieldPath, problems: &mut Vec<FieldError>) {
    if rule.subjects.is_empty() {
        problems.push(FieldError::required(&path.child("subjects"), "subjects must contain at least one value"));
    }
    for (index, subject) in rule.subjects.iter().enumerate() {
        subject_problems(subject, &path.child("subjects").index(index), problems);
    }
    let (resources, urls) = (rule.resource_rules.as_deref().unwrap_or_default(), rule.non_resource_rules.as_deref().unwrap_or_default());
    if resources.is_empty() && urls.is_empty() {
        problems.push(FieldError::required(path, "at least one of resourceRules and nonResourceRules has to be non-empty"));
    }
    for (index, rule) in resources.iter().enumerate() {
        let at = path.child("resourceRules").index(index);
        verbs(&rule.verbs, &at.child("verbs"), problems);
        list(&rule.api_groups, &at.child("apiGroups"), "resource rules must supply at least one api group", "api groups", problems);
        list(&rule.resources, &at.child("resources"), "resource rules must supply at least one resource", "resources", problems);
        let namespaces = rule.namespaces.as_deref().unwrap_or_default();
        let at = at.child("namespaces");
        if namespaces.is_empty() && rule.cluster_scope != Some(true) {
            problems.push(FieldError::required(&at, "resource rules that are not cluster scoped must supply at least one namespace"));
        } else if namespaces.iter().any(|name| name == "*") {
            if namespaces.len() > 1 {
                problems.push(FieldError::invalid(&at, namespaces.to_vec(), "if '*' is present, must not specify other namespaces"));
            }
        } else {
            for (index, name) in namespaces.iter().enumerate() {
                for problem in rules::dns1123_label_problems(name) {
                    let detail = format!("each member of this list must be '*' or a DNS-1123 label; {problem}");
                    problems.push(FieldError::invalid(&at.index(index), name.as_str(), detail));
                }
            }
        }
    }
    for (index, rule) in urls.iter().enumerate() {
        let at = path.child("nonResourceRules").index(index);
        verbs(&rule.verbs, &at.child("verbs"), problems);
        list(&rule.non_resource_urls, &at.child("nonResourceURLs"), "nonResourceURLs must contain at least one value", "non-resource URLs", problems);
    }
}

fn list(all: &[String], path: &FieldPath, empty: &str, what: &str, problems: &mut Vec<FieldError>) {
    if all.is_empty() {
        problems.push(FieldError::required(path, empty));
    } else if all.len() > 1 && all.iter().any(|one| one == "*") {
        problems.push(FieldError::invalid(path, all.to_vec(), format!("if '*' is present, must not specify other {what}")));
    }
}

fn verbs(all: &[String], path: &FieldPath, problems: &mut Vec<FieldError>) {
    const KNOWN: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
    list(all, path, "verbs must contain at least one value", "verbs", problems);
    if !all.iter().any(|verb| verb == "*") && all.iter().any(|verb| !KNOWN.contains(&verb.as_str())) {
        problems.push(FieldError::not_supported(path, all.to_vec(), KNOWN));
    }
}

fn subject_problems(subject: &Subject, path: &FieldPath, problems: &mut Vec<FieldError>) {
    const KINDS: [(&str, &str); 3] = [("Group", "group"), ("ServiceAccount", "serviceAccount"), ("User", "user")];
    let given = |field: &str| match field {
        "group" => subject.group.as_ref().map(|group| group.name.as_str()),
        "serviceAccount" => subject.service_account.as_ref().map(|account| account.name.as_str()),
        _ => subject.user.as_ref().map(|user| user.name.as_str()),
    };
    if !KINDS.iter().any(|(kind, _)| *kind == subject.kind) {
        problems.push(FieldError::not_supported(&path.child("kind"), subject.kind.as_str(), &KINDS.map(|(kind, _)| kind)));
        return;
    }
    for (kind, field) in KINDS {
        let at = path.child(field);
        match (kind == subject.kind, given(field)) {
            (true, None) => problems.push(FieldError::required(&at, format!("{field} is required when subject kind is '{kind}'"))),
            (true, Some(name)) => filled(name, &at.child("name"), problems),
            (false, Some(_)) => problems.push(FieldError::forbidden(&at, format!("{field} is forbidden when subject kind is not '{kind}'"))),
            (false, None) => {}
        }
    }
    if subject.kind == "ServiceAccount" && subject.service_account.as_ref().is_some_and(|account| account.namespace.is_empty()) {
        problems.push(FieldError::required(&path.child("serviceAccount").child("namespace"), "must specify namespace for service account"));
    }
}

/// Source: Kubernetes `pkg/apis/flowcontrol/validation/validation.go`, `ValidateLimitedPriorityLevelConfiguration`.
fn limits(limited: &LimitedPriorityLevelConfiguration, path: &FieldPath, problems: &mut Vec<FieldError>) {
    if let Some(shares) = limited.nominal_concurrency_shares.filter(|shares| *shares < 0) {
        problems.push(FieldError::invalid(&path.child("nominalConcurrencyShares"), shares, "must be a non-negative integer"));
    }
    if let Some(percent) = limited.lendable_percent.filter(|percent| !(0..=100).contains(percent)) {
        problems.push(FieldError::invalid(&path.child("lendablePercent"), percent, "must be between 0 and 100, inclusive"));
    }
    if let Some(percent) = limited.borrowing_limit_percent.filter(|percent| *percent < 0) {
        problems.push(FieldError::invalid(&path.child("borrowingLimitPercent"), percent, "if specified, must be a non-negative integer"));
    }
    let Some(response) = &limited.limit_response else { return };
    let at = path.child("limitResponse");
    match (response.type_.as_str(), &response.queuing) {
        ("Reject", Some(_)) => {
            problems.push(FieldError::forbidden(&at.child("queuing"), "must be nil if limited.limitResponse.type is not Limited"));
        }
        ("Queue", None) => problems.push(FieldError::required(&at.child("queuing"), "must not be empty if limited.limitResponse.type is Limited")),
        ("Queue", Some(queuing)) => {
            for (field, value) in [("queueLengthLimit", queuing.queue_length_limit), ("queues", queuing.queues), ("handSize", queuing.hand_size)] {
                if let Some(value) = value.filter(|value| *value <= 0) {
                    problems.push(FieldError::invalid(&at.child("queuing").child(field), value, "must be positive"));
                }
            }
        }
        ("Reject", None) => {}
        (other, _) => problems.push(FieldError::not_supported(&at.child("type"), other, &["Queue", "Reject"])),
    }
}

impl Strategy for FlowSchemaStrategy {
    type Kind = FlowSchema;

    fn validate(&self, schema: &FlowSchema) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec");
        let spec = &schema.spec.clone().unwrap_or_default();
        if let Some(precedence) = spec.matching_precedence.filter(|number| !(1..=10_000).contains(number)) {
            let detail = if precedence <= 0 { "must be a positive value" } else { "must not be greater than 10000" };
            problems.push(FieldError::invalid(&path.child("matchingPrecedence"), precedence, detail));
        }
        let at = path.child("priorityLevelConfiguration").child("name");
        let level = spec.priority_level_configuration.name.as_str();
        if level.is_empty() {
            problems.push(FieldError::required(&at, "must reference a priority level"));
        } else {
            problems.extend(rules::invalid_each(&at, level, rules::dns1123_subdomain_problems(level)));
        }
        if spec.matching_precedence == Some(1) && schema.metadata.name.as_deref() != Some("exempt") {
            let detail = "only the schema named 'exempt' may have matchingPrecedence 1";
            problems.push(FieldError::invalid(&path.child("matchingPrecedence"), 1, detail));
        }
        for (index, rule) in spec.rules.iter().flatten().enumerate() {
            rule_problems(rule, &path.child("rules").index(index), &mut problems);
        }
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
    fn status_keeps_metadata(&self) -> bool {
        true
    }
    fn validate_status_update(&self, schema: &FlowSchema, _old: &FlowSchema) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let conditions = schema.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        types_of_conditions(conditions.iter().map(|condition| condition.type_.as_deref()), &mut problems);
        problems
    }
    fn columns(&self) -> &'static [Column] {
        const { &[
            Column::NAME,
            Column::text("PriorityLevel", "Where its requests wait."),
            Column::text("MatchingPrecedence", "The smallest that fits is taken."),
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
        let spec = &level.spec.clone().unwrap_or_default();
        if (level.metadata.name.as_deref() == Some("exempt")) != (spec.type_ == "Exempt") {
            let detail = "type must be 'Exempt' if and only if name is 'exempt'";
            problems.push(FieldError::invalid(&path.child("type"), spec.type_.as_str(), detail));
        }
        if !matches!(spec.type_.as_str(), "Exempt" | "Limited") {
            problems.push(FieldError::not_supported(&path.child("type"), spec.type_.as_str(), &["Exempt", "Limited"]));
        }
        if let Some(limited) = spec.limited.as_ref().filter(|_| spec.type_ == "Limited") {
            limits(limited, &path.child("limited"), &mut problems);
        }
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
    fn status_keeps_metadata(&self) -> bool {
        true
    }
    fn validate_status_update(&self, level: &PriorityLevelConfiguration, _old: &PriorityLevelConfiguration) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let conditions = level.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        types_of_conditions(conditions.iter().map(|condition| condition.type_.as_deref()), &mut problems);
        problems
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
        let number = |value: Option<i32>| value.map_or_else(|| "<none>".into(), Value::from);
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
