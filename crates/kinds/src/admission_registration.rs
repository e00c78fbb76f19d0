//! The group `admissionregistration.k8s.io`: who else judges requests. These kinds are read as plain trees, since the
//! validating and the mutating ones differ in little.

use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object, validation as rules};
use serde_json::{Map, Value};

use crate::{
    cells,
    problems::{filled, one_of},
    status_rules::untyped_conditions,
    strategy::{Column, Strategy},
};

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: Option<&'a Value>) -> &'a [Value] {
    value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Conditions on what is asked about at all: each with an expression and a name of its own.
fn match_conditions(conditions: &[Value], path: &FieldPath, problems: &mut Vec<FieldError>) {
    const MOST: usize = 64;
    if conditions.len() > MOST {
        problems.push(FieldError::too_many(path, conditions.len(), MOST));
    }
    let mut names = std::collections::HashSet::new();
    for (index, condition) in conditions.iter().enumerate() {
        let (at, name) = (path.index(index), text(condition, "name"));
        if text(condition, "expression").trim().is_empty() {
            problems.push(FieldError::required(&at.child("expression"), ""));
        }
        if name.is_empty() {
            problems.push(FieldError::required(&at.child("name"), ""));
            continue;
        }
        problems.extend(rules::invalid_each(&at.child("name"), name, rules::qualified_name_problems(name)));
        if !names.insert(name) {
            problems.push(FieldError::duplicate(&at.child("name"), name));
        }
    }
}

/// Which requests are meant.
fn rule(rule: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    for field in ["operations", "apiGroups", "apiVersions", "resources"] {
        if list(rule.get(field)).is_empty() {
            problems.push(FieldError::required(&path.child(field), ""));
        }
    }
    for (position, operation) in list(rule.get("operations")).iter().enumerate() {
        let known = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
        one_of(operation.as_str().unwrap_or_default(), &known, &path.child("operations").index(position), problems);
    }
}

/// Which requests a policy, or a binding of one, is for.
///
/// Source: Kubernetes `pkg/apis/admissionregistration/validation/validation.go`, `validateMatchResources`.
fn match_resources(resources: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    match text(resources, "matchPolicy") {
        "" => problems.push(FieldError::required(&path.child("matchPolicy"), "")),
        policy => one_of(policy, &["Equivalent", "Exact"], &path.child("matchPolicy"), problems),
    }
    for field in ["namespaceSelector", "objectSelector"] {
        match resources.get(field) {
            Some(selector) => problems.extend(meta::validation::validate_label_selector(selector, &path.child(field))),
            None => problems.push(FieldError::required(&path.child(field), "")),
        }
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        for (index, one) in list(resources.get(field)).iter().enumerate() {
            let at = path.child(field).index(index);
            let mut seen = std::collections::HashSet::new();
            for (position, name) in list(one.get("resourceNames")).iter().filter_map(Value::as_str).enumerate() {
                let at = at.child("resourceNames").index(position);
                problems.extend(rules::invalid_each(&at, name, rules::path_segment_problems(name)));
                if !seen.insert(name) {
                    problems.push(FieldError::duplicate(&at, name));
                }
            }
            rule(one, &at, problems);
        }
    }
}

/// What is a kind of parameters.
fn param_kind(kind: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let (version, at) = (text(kind, "apiVersion"), path.child("apiVersion"));
    match version.split('/').collect::<Vec<_>>().as_slice() {
        [""] => problems.push(FieldError::required(&at, "")),
        ["", ""] => problems.push(FieldError::invalid(&at, version, "version must be specified")),
        [_, _, _, ..] => problems.push(FieldError::invalid(&at, version, format!("unexpected GroupVersion string: {version}"))),
        parts => {
            let (group, number) = if let [group, number] = parts { (*group, *number) } else { ("", version) };
            let wrong = if group.is_empty() { Vec::new() } else { rules::dns1123_subdomain_problems(group) };
            if !wrong.is_empty() {
                problems.push(FieldError::invalid(&at, group, wrong.join(",")));
            }
            let wrong = rules::dns1035_label_problems(number);
            if number.is_empty() {
                problems.push(FieldError::invalid(&at, version, "version must be specified"));
            } else if !wrong.is_empty() {
                problems.push(FieldError::invalid(&at, number, wrong.join(",")));
            }
        }
    }
    let (name, at) = (text(kind, "kind"), path.child("kind"));
    let wrong = rules::dns1035_label_problems(&name.to_lowercase());
    if name.is_empty() {
        problems.push(FieldError::required(&at, ""));
    } else if !wrong.is_empty() {
        problems.push(FieldError::invalid(&at, name, format!("may have mixed case, but should otherwise match: {}", wrong.join(","))));
    }
}

/// An expression that must be there.
fn expression(of: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    if text(of, "expression").trim().is_empty() {
        problems.push(FieldError::required(&path.child("expression"), "expression is not specified"));
    }
}

/// Expressions that others refer to.
fn variable(one: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    const RESERVED: &[&str] = &[
        "as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in", "let", "loop", "namespace", "null", "package", "return",
        "true", "var", "void", "while",
    ];
    let name = text(one, "name");
    let is_identifier = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') && !name.starts_with(|first: char| first.is_ascii_digit());
    if name.trim().is_empty() {
        problems.push(FieldError::required(&path.child("name"), "name is not specified"));
    } else if !is_identifier || RESERVED.contains(&name) {
        problems.push(FieldError::invalid(&path.child("name"), name, "name is not a valid CEL identifier"));
    }
    expression(one, path, problems);
}

/// One rule of a validating policy.
fn validation(one: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    expression(one, path, problems);
    let words = text(one, "messageExpression");
    if !words.is_empty() && words.trim().is_empty() {
        problems.push(FieldError::invalid(&path.child("messageExpression"), words, "must be non-empty if specified"));
    }
    let (message, at) = (text(one, "message"), path.child("message"));
    if !message.is_empty() && message.trim().is_empty() {
        problems.push(FieldError::invalid(&at, message, "message must be non-empty if specified"));
    } else if message.trim().contains(['\n', '\r']) {
        problems.push(FieldError::invalid(&at, message, "message must not contain line breaks"));
    } else if message.is_empty() && text(one, "expression").trim().contains(['\n', '\r']) {
        problems.push(FieldError::required(&at, "message must be specified if expression contains line breaks"));
    }
    if let Some(reason) = one.get("reason").and_then(Value::as_str) {
        one_of(reason, &["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"], &path.child("reason"), problems);
    }
}

/// One change of a mutating policy.
fn mutation(one: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let kind = text(one, "patchType");
    if kind.is_empty() {
        problems.push(FieldError::required(&path.child("patchType"), ""));
    } else {
        one_of(kind, &["ApplyConfiguration", "JSONPatch"], &path.child("patchType"), problems);
    }
    for (of, field) in [("ApplyConfiguration", "applyConfiguration"), ("JSONPatch", "jsonPatch")] {
        match one.get(field) {
            None if kind == of => problems.push(FieldError::required(&path.child(field), format!("must be specified when patchType is {of}"))),
            Some(change) if kind == of => expression(change, &path.child(field), problems),
            _ => {}
        }
    }
}

/// What a binding tells its policy.
fn param_ref(reference: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    const BOTH: &str = "name and selector are mutually exclusive";
    let (name, selector) = (text(reference, "name"), reference.get("selector"));
    if !name.is_empty() {
        problems.extend(rules::invalid_each(&path.child("name"), name, rules::path_segment_problems(name)));
        if selector.is_some() {
            problems.push(FieldError::forbidden(&path.child("name"), BOTH));
        }
    }
    if let Some(selector) = selector {
        problems.extend(meta::validation::validate_label_selector(selector, &path.child("selector")));
        if !name.is_empty() {
            problems.push(FieldError::forbidden(&path.child("selector"), BOTH));
        }
    } else if name.is_empty() {
        problems.push(FieldError::required(path, "one of name or selector must be specified"));
    }
    match text(reference, "parameterNotFoundAction") {
        "" => problems.push(FieldError::required(&path.child("parameterNotFoundAction"), "")),
        "Allow" | "Deny" => {}
        action => problems.push(FieldError::not_supported(&path.child("parameterNotFoundAction"), action, &["Deny", "Allow"])),
    }
}

/// Behaviour of both kinds of webhook configurations.
pub struct WebhookConfigurationStrategy;

fn webhook(hook: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let name = text(hook, "name");
    if name.is_empty() {
        problems.push(FieldError::required(&path.child("name"), ""));
    } else {
        let wrong = rules::dns1123_subdomain_problems(name);
        if wrong.is_empty() && name.split('.').count() < 3 {
            problems.push(FieldError::invalid(&path.child("name"), name, "should be a domain with at least three segments separated by dots"));
        }
        problems.extend(rules::invalid_each(&path.child("name"), name, wrong));
    }
    let versions = list(hook.get("admissionReviewVersions"));
    if versions.is_empty() {
        let detail = "must specify one of v1, v1beta1";
        problems.push(FieldError::required(&path.child("admissionReviewVersions"), detail));
    }
    let mut seen = std::collections::HashSet::new();
    for (index, version) in versions.iter().filter_map(Value::as_str).enumerate() {
        let at = path.child("admissionReviewVersions").index(index);
        if seen.insert(version) {
            problems.extend(rules::invalid_each(&at, version, rules::dns1035_label_problems(version)));
        } else {
            problems.push(FieldError::invalid(&at, version, "duplicate version"));
        }
    }
    if !versions.is_empty() && !seen.iter().any(|version| matches!(*version, "v1" | "v1beta1")) {
        let detail = "must include at least one of v1, v1beta1";
        problems.push(FieldError::invalid(&path.child("admissionReviewVersions"), Value::Array(versions.to_vec()), detail));
    }
    match text(hook, "sideEffects") {
        "" => problems.push(FieldError::required(&path.child("sideEffects"), "must specify one of None, NoneOnDryRun")),
        text => one_of(text, &["None", "NoneOnDryRun"], &path.child("sideEffects"), problems),
    }
    one_of(text(hook, "failurePolicy"), &["Fail", "Ignore"], &path.child("failurePolicy"), problems);
    one_of(text(hook, "matchPolicy"), &["Equivalent", "Exact"], &path.child("matchPolicy"), problems);
    if let Some(seconds) = hook.get("timeoutSeconds").and_then(Value::as_i64).filter(|seconds| !(1..=30).contains(seconds)) {
        problems.push(FieldError::invalid(&path.child("timeoutSeconds"), seconds, "the timeout value must be between 1 and 30 seconds"));
    }
    if let Some(policy) = hook.get("reinvocationPolicy").and_then(Value::as_str) {
        one_of(policy, &["IfNeeded", "Never"], &path.child("reinvocationPolicy"), problems);
    }
    for field in ["namespaceSelector", "objectSelector"] {
        if let Some(selector) = hook.get(field) {
            problems.extend(meta::validation::validate_label_selector(selector, &path.child(field)));
        }
    }
    for (index, one) in list(hook.get("rules")).iter().enumerate() {
        rule(one, &path.child("rules").index(index), problems);
    }
    match_conditions(list(hook.get("matchConditions")), &path.child("matchConditions"), problems);
    let at = path.child("clientConfig");
    let client = hook.get("clientConfig").unwrap_or(&Value::Null);
    match (text(client, "url"), client.get("service").filter(|service| service.is_object())) {
        ("", None) => problems.push(FieldError::required(&at, "exactly one of url or service is required")),
        ("", Some(service)) => {
            filled(text(service, "name"), &at.child("service").child("name"), problems);
            filled(text(service, "namespace"), &at.child("service").child("namespace"), problems);
        }
        (_, Some(_)) => problems.push(FieldError::required(&at, "exactly one of url or service is required")),
        (url, None) if !url.starts_with("https://") => {
            let detail = "'https' is the only allowed URL scheme; desired format: https://host[/path]";
            let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
            problems.push(FieldError::invalid(&at.child("url"), scheme, detail));
        }
        _ => {}
    }
}

impl Strategy for WebhookConfigurationStrategy {
    type Kind = Map<String, Value>;

    fn validate(&self, configuration: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let mut names = std::collections::HashSet::new();
        for (index, hook) in list(configuration.get("webhooks")).iter().enumerate() {
            let path = FieldPath::new("webhooks").index(index);
            webhook(hook, &path, &mut problems);
            if !names.insert(text(hook, "name")) {
                problems.push(FieldError::duplicate(&path.child("name"), text(hook, "name")));
            }
        }
        problems
    }
    fn tracks_generation(&self) -> bool {
        true
    }
    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::integer("Webhooks", "How many webhooks it names."), Column::AGE] }
    }
    fn row(&self, configuration: &Self::Kind, raw: &Object, _now: Timestamp) -> Vec<Value> {
        vec![raw.name().into(), list(configuration.get("webhooks")).len().into(), cells::created(raw)]
    }
}

const MOST_AUDITS: usize = 20;
const LONGEST_AUDIT: usize = 5 * 1024;

/// Behaviour of both kinds of policies.
pub struct PolicyStrategy {
    /// What the policy consists of: `validations` or `mutations`.
    pub parts: &'static str,
}

impl Strategy for PolicyStrategy {
    type Kind = Map<String, Value>;

    fn validate(&self, policy: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec");
        let spec = policy.get("spec").unwrap_or(&Value::Null);
        let audits = list(spec.get("auditAnnotations"));
        let policy_of_failures = text(spec, "failurePolicy");
        one_of(policy_of_failures, &["Fail", "Ignore"], &path.child("failurePolicy"), &mut problems);
        if list(spec.get(self.parts)).is_empty() && audits.is_empty() {
            if self.parts == "validations" {
                for field in ["validations", "auditAnnotations"] {
                    problems.push(FieldError::required(&path.child(field), "validations or auditAnnotations must contain at least one item"));
                }
            } else {
                problems.push(FieldError::required(&path.child(self.parts), "mutations must contain at least one item"));
            }
        }
        if let Some(kind) = spec.get("paramKind") {
            param_kind(kind, &path.child("paramKind"), &mut problems);
        }
        if audits.len() > MOST_AUDITS {
            problems.push(FieldError::invalid(&path.child("auditAnnotations"), Value::Array(audits.to_vec()), format!("must not have more than {MOST_AUDITS} auditAnnotations")));
        }
        let mut keys = std::collections::HashSet::new();
        for (index, audit) in audits.iter().enumerate() {
            let (at, key) = (path.child("auditAnnotations").index(index), text(audit, "key"));
            if !keys.insert(key) {
                problems.push(FieldError::duplicate(&at.child("key"), key));
            }
            let name = policy.get("metadata").map(|metadata| text(metadata, "name")).unwrap_or_default();
            let whole = format!("{name}/{key}");
            problems.extend(rules::invalid_each(&at.child("key"), &whole, rules::qualified_name_problems(&whole)));
            match text(audit, "valueExpression").trim().len() {
                0 => problems.push(FieldError::required(&at.child("valueExpression"), "valueExpression is not specified")),
                length if length > LONGEST_AUDIT => {
                    problems.push(FieldError::required(&at.child("valueExpression"), format!("must not exceed {LONGEST_AUDIT} bytes in length")));
                }
                _ => {}
            }
        }
        match_conditions(list(spec.get("matchConditions")), &path.child("matchConditions"), &mut problems);
        match spec.get("matchConstraints") {
            None => problems.push(FieldError::required(&path.child("matchConstraints"), "")),
            Some(constraints) => {
                let at = path.child("matchConstraints");
                match_resources(constraints, &at, &mut problems);
                if list(constraints.get("resourceRules")).is_empty() {
                    problems.push(FieldError::required(&at.child("resourceRules"), ""));
                }
            }
        }
        for (index, one) in list(spec.get("variables")).iter().enumerate() {
            variable(one, &path.child("variables").index(index), &mut problems);
        }
        let part = if self.parts == "validations" { validation } else { mutation };
        for (index, one) in list(spec.get(self.parts)).iter().enumerate() {
            part(one, &path.child(self.parts).index(index), &mut problems);
        }
        if self.parts == "mutations" {
            match text(spec, "reinvocationPolicy") {
                "" => problems.push(FieldError::required(&path.child("reinvocationPolicy"), "")),
                policy => one_of(policy, &["IfNeeded", "Never"], &path.child("reinvocationPolicy"), &mut problems),
            }
        }
        problems
    }
    fn status_keeps_metadata(&self) -> bool {
        true
    }
    /// Source: Kubernetes `pkg/apis/admissionregistration/validation/validation.go`, `validateValidatingAdmissionPolicyStatus`.
    fn validate_status_update(&self, policy: &Self::Kind, _old: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let (path, status) = (FieldPath::new("status"), policy.get("status").unwrap_or(&Value::Null));
        let at = path.child("typeChecking").child("expressionWarnings");
        for (index, warning) in list(status.get("typeChecking").and_then(|checking| checking.get("expressionWarnings"))).iter().enumerate() {
            filled(text(warning, "warning"), &at.index(index).child("warning"), &mut problems);
            filled(text(warning, "fieldRef").trim(), &at.index(index).child("fieldRef"), &mut problems);
        }
        untyped_conditions(list(status.get("conditions")), &path.child("conditions"), &mut problems);
        problems
    }
    fn tracks_generation(&self) -> bool {
        true
    }
    fn columns(&self) -> &'static [Column] {
        if self.parts == "validations" {
            const { &[Column::NAME, Column::integer("Validations", "How many rules it has."), Column::text("ParamKind", "What it is told."), Column::AGE] }
        } else {
            const COLUMNS: &[Column] =
                &[Column::NAME, Column::integer("Mutations", "How many changes it makes."), Column::text("ParamKind", "What it is told."), Column::AGE];
            COLUMNS
        }
    }
    fn row(&self, policy: &Self::Kind, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let spec = policy.get("spec").unwrap_or(&Value::Null);
        let told = spec.get("paramKind").map(|kind| format!("{}/{}", text(kind, "apiVersion"), text(kind, "kind")));
        vec![raw.name().into(), list(spec.get(self.parts)).len().into(), told.unwrap_or_else(|| "<unset>".to_owned()).into(), cells::created(raw)]
    }
}

/// A selector as a type of upstream's shows itself, which is what its printer prints.
fn selector_in_go(selector: &Value) -> String {
    let labels = selector.get("matchLabels").and_then(Value::as_object);
    let labels: String = labels.into_iter().flatten().map(|(key, value)| format!("{key}: {},", value.as_str().unwrap_or_default())).collect();
    let requirements = list(selector.get("matchExpressions")).iter().map(|one| {
        let values: Vec<&str> = list(one.get("values")).iter().filter_map(Value::as_str).collect();
        format!("LabelSelectorRequirement{{Key:{},Operator:{},Values:[{}],}},", text(one, "key"), text(one, "operator"), values.join(" "))
    });
    format!("&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{}}},}}", requirements.collect::<String>())
}

/// Behaviour of both kinds of bindings of policies.
pub struct PolicyBindingStrategy {
    /// Whether bindings say what follows from a failed validation.
    pub validating: bool,
}

impl Strategy for PolicyBindingStrategy {
    type Kind = Map<String, Value>;

    fn validate(&self, binding: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec");
        let spec = binding.get("spec").unwrap_or(&Value::Null);
        let policy = text(spec, "policyName");
        if policy.is_empty() {
            problems.push(FieldError::required(&path.child("policyName"), ""));
        } else {
            problems.extend(rules::invalid_each(&path.child("policyName"), policy, rules::dns1123_subdomain_problems(policy)));
        }
        if let Some(reference) = spec.get("paramRef") {
            param_ref(reference, &path.child("paramRef"), &mut problems);
        }
        if let Some(resources) = spec.get("matchResources") {
            match_resources(resources, &path.child("matchResources"), &mut problems);
        }
        let actions = list(spec.get("validationActions"));
        if self.validating && actions.is_empty() {
            problems.push(FieldError::required(&path.child("validationActions"), "at least one validation action is required"));
        }
        for (index, action) in actions.iter().enumerate() {
            one_of(action.as_str().unwrap_or_default(), &["Audit", "Deny", "Warn"], &path.child("validationActions").index(index), &mut problems);
        }
        let has = |name: &str| actions.iter().any(|action| action.as_str() == Some(name));
        if has("Deny") && has("Warn") {
            let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
            problems.push(FieldError::invalid(&path.child("validationActions"), Value::Array(actions.to_vec()), detail));
        }
        problems
    }
    fn tracks_generation(&self) -> bool {
        true
    }
    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::text("PolicyName", "Which policy."), Column::text("ParamRef", "What it is told."), Column::AGE] }
    }
    fn row(&self, binding: &Self::Kind, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let spec = binding.get("spec").unwrap_or(&Value::Null);
        let told = spec.get("paramRef").and_then(|reference| match (text(reference, "namespace"), text(reference, "name")) {
            (_, "") => reference.get("selector").map(selector_in_go),
            // Whether such objects have namespaces cannot be told from here.
            ("", name) => Some(format!("*/{name}")),
            (namespace, name) => Some(format!("{namespace}/{name}")),
        });
        vec![raw.name().into(), text(spec, "policyName").into(), told.unwrap_or_else(|| "<unset>".to_owned()).into(), cells::created(raw)]
    }
}
